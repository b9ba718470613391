//! Claims about what was measured, each held against the runs that it speaks of; and what others measured, with ours below
//! it. Pure, but for reading results.

use anyhow::{Result, ensure};
use serde::Deserialize;

use crate::grid::{Experiment, Row};
use crate::kinds::{counting, over, spread};
use crate::table::markdown;

/// A figure that is to be reached.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Claim {
    what: String,
    experiment: String,
    #[serde(flatten)]
    place: Place,
    configuration: String,
    /// The configuration that it is held against.
    #[serde(default)]
    over: Option<String>,
    figure: Figure,
    #[serde(flatten)]
    bound: Bound,
    /// What stands of it at the head of the report, `{}` being what was measured.
    #[serde(default)]
    headline: Option<String>,
    /// What the DEFER paper has, as it says it.
    #[serde(default)]
    paper: Option<String>,
    /// Why it is not reached, for when it is not.
    #[serde(default)]
    why: Option<String>,
}

/// Where runs are made.
#[derive(Debug, Deserialize)]
pub(super) struct Place {
    pub(super) cluster: String,
    pub(super) model: String,
}

/// What is to be reached.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Bound {
    Least(f64),
    Most(f64),
}

/// Of a configuration, over that of the one it is held against where there is one.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Figure {
    /// Items a second.
    Rate,
    /// Items a second over what the plan promised.
    OfPrediction,
    /// CPU time of all nodes for an item.
    Cpu,
    /// Modelled energy of a node for an item.
    JoulesPerNode,
    /// Modelled energy of all nodes for an item.
    Joules,
}

/// Results of an experiment, by its name.
pub(super) type Results<'a> = dyn Fn(&str) -> Result<Vec<Row>> + 'a;

impl Figure {
    fn of(self, row: &Row) -> f64 {
        match self {
            Figure::Rate => row.rate(),
            Figure::OfPrediction => row.predicted.period_ms / row.period_ms,
            Figure::Cpu => row.cpu_ms(),
            Figure::JoulesPerNode => row.joules_per_node(),
            Figure::Joules => row.joules(),
        }
    }

    fn shown(self, value: f64) -> String {
        match self {
            Figure::Rate => format!("{value:.2}x"),
            Figure::Cpu | Figure::Joules => format!("{value:.3}x"),
            Figure::OfPrediction => format!("{:.1} %", value * 100.0),
            Figure::JoulesPerNode => format!("{:+.1} %", (value - 1.0) * 100.0),
        }
    }
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Bound::Least(least) => value >= least,
            Bound::Most(most) => value <= most,
        }
    }

    fn shown(self, figure: Figure) -> String {
        match self {
            Bound::Least(least) => format!(">= {}", figure.shown(least)),
            Bound::Most(most) => format!("<= {}", figure.shown(most)),
        }
    }
}

impl Claim {
    fn configurations(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&*self.configuration).chain(self.over.as_deref())
    }

    /// Whether all that it speaks of is run.
    ///
    /// # Errors
    /// When there is no such experiment.
    pub(super) fn is_of(&self, experiment: &impl Fn(&str) -> Result<Experiment>) -> Result<bool> {
        let experiment = experiment(&self.experiment)?;
        Ok(self.configurations().all(|name| experiment.runs(&self.place.cluster, &self.place.model, name)))
    }

    pub(super) fn what(&self) -> &str {
        &self.what
    }

    pub(super) fn headline_shows_it(&self) -> bool {
        self.headline.as_ref().is_none_or(|headline| headline.contains("{}"))
    }

    /// What was measured, with what is held against it; nothing where either is not run.
    fn found(&self, results: &Results<'_>) -> Result<Option<f64>> {
        let rows = results(&self.experiment)?;
        let all = self.runs(&rows);
        Ok((!all.iter().any(Vec::is_empty)).then(|| self.measured(&all)))
    }

    /// Makes it one of another configuration.
    #[cfg(test)]
    pub(super) fn rename(&mut self, configuration: &str) {
        self.configuration = configuration.to_owned();
    }

    /// The runs of its configuration, and of the one that it is held against.
    fn runs<'a>(&self, rows: &'a [Row]) -> Vec<Vec<&'a Row>> {
        self.configurations().map(|name| self.place.runs(name, rows)).collect()
    }

    /// What is held against what.
    fn measured(&self, all: &[Vec<&Row>]) -> f64 {
        over(&all[0], |row| self.figure.of(row)) / self.base(all)
    }

    fn base(&self, all: &[Vec<&Row>]) -> f64 {
        all.get(1).map_or(1.0, |base| over(base, |row| self.figure.of(row)))
    }

    /// Why it is missed, if it is run and is.
    fn reason(&self, results: &Results<'_>) -> Result<Option<&str>> {
        let missed = self.found(results)?.is_some_and(|measured| !self.bound.holds(measured));
        Ok(self.why.as_deref().filter(|_| missed))
    }

    /// The claim, what the paper has, what was to be reached, what was, and the lines that say so.
    fn line(&self, results: &Results<'_>) -> Result<Vec<String>> {
        let rows = results(&self.experiment)?;
        let all = self.runs(&rows);
        let paper = self.paper.clone().unwrap_or_default();
        let mut line = vec![self.what.clone(), paper, self.bound.shown(self.figure)];
        if all.iter().any(Vec::is_empty) {
            line.extend(["not run yet", "", ""].map(str::to_owned));
            return Ok(line);
        }
        let base = self.base(&all);
        let measured = self.measured(&all);
        let (least, most) = spread(&all[0], |row| self.figure.of(row));
        let shown = |value: f64| self.figure.shown(value);
        line.push(format!("{} ({} to {})", shown(measured), shown(least / base), shown(most / base)));
        line.push(if self.bound.holds(measured) { "yes" } else { "**no**" }.to_owned());
        line.push(traced(&self.experiment, all.into_iter().flatten()));
        Ok(line)
    }
}

impl Place {
    /// The runs of a configuration that count.
    fn runs<'a>(&self, configuration: &str, rows: &'a [Row]) -> Vec<&'a Row> {
        let of = |row: &&Row| {
            (&*row.cluster, &*row.model, &*row.configuration) == (&*self.cluster, &*self.model, configuration)
        };
        counting(&rows.iter().filter(of).collect::<Vec<_>>(), |row| row.disturbed, Row::compute_cpu_ms)
    }
}

/// `resnet50: 3, 11, 19`: the lines of the results that say so.
pub(super) fn traced<'a>(experiment: &str, rows: impl Iterator<Item = &'a Row>) -> String {
    let lines: Vec<String> = rows.map(|row| row.line.to_string()).collect();
    format!("{experiment}: {}", lines.join(", "))
}

pub(super) fn table(claims: &[Claim], results: &Results<'_>) -> Result<String> {
    let lines = claims.iter().map(|claim| claim.line(results)).collect::<Result<Vec<_>>>()?;
    let header = [
        "what",
        "the DEFER paper",
        "to be reached",
        "measured (least to largest)",
        "reached",
        "lines of `experiments/results/`",
    ];
    Ok(markdown(&header, &lines))
}

/// What was measured of those that are to stand at the head, a line each; empty before there are any runs.
pub(super) fn headlines(claims: &[Claim], results: &Results<'_>) -> Result<String> {
    let mut lines = String::new();
    for claim in claims {
        let Some(headline) = &claim.headline else { continue };
        if let Some(measured) = claim.found(results)? {
            let measured = format!("**{}**", claim.figure.shown(measured));
            lines += &format!("- {}\n", headline.trim().replace('\n', " ").replace("{}", &measured));
        }
    }
    Ok(lines)
}

/// Why those are missed that are, each reason once; empty when none is.
pub(super) fn reasons(claims: &[Claim], results: &Results<'_>) -> Result<String> {
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for claim in claims {
        let Some(why) = claim.reason(results)? else { continue };
        match reasons.iter_mut().find(|(known, _)| *known == why) {
            Some((_, claims)) => claims.push(&claim.what),
            None => reasons.push((why, vec![&claim.what])),
        }
    }
    let shown = |(why, claims): &(&str, Vec<&str>)| {
        format!("- *{}*: {}\n", claims.join("*; *"), why.trim().replace('\n', " "))
    };
    Ok(reasons.iter().map(shown).collect())
}

/// What others measured of a model, and ours.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Peers {
    pub(super) title: String,
    /// Where they measured, a column each.
    columns: Vec<String>,
    other: Vec<Other>,
    /// Ours: the runs of an experiment on a cluster for each column.
    experiment: String,
    clusters: Vec<String>,
    model: String,
    configurations: Vec<String>,
}

/// Another system, as it was measured elsewhere.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Other {
    system: String,
    /// Items a second, a column each; as it was written down there.
    rates: Vec<String>,
}

impl Peers {
    /// Whether all that it speaks of is run.
    ///
    /// # Errors
    /// When there is no such experiment.
    pub(super) fn is_of(&self, experiment: &impl Fn(&str) -> Result<Experiment>) -> Result<bool> {
        let experiment = experiment(&self.experiment)?;
        let on = |place: &Place| {
            self.configurations.iter().all(|name| experiment.runs(&place.cluster, &place.model, name))
        };
        Ok(self.places().all(|place| on(&place)))
    }

    /// Where ours ran, a column each.
    fn places(&self) -> impl Iterator<Item = Place> {
        self.clusters.iter().map(|cluster| Place { cluster: cluster.clone(), model: self.model.clone() })
    }

    pub(super) fn table(&self, results: &Results<'_>) -> Result<String> {
        let columns = self.columns.len();
        ensure!(self.clusters.len() == columns, "`{}` needs a cluster for each column", self.title);
        let mut lines = Vec::new();
        for Other { system, rates } in &self.other {
            ensure!(rates.len() == columns, "`{}`: `{system}` needs {columns} rates", self.title);
            lines.push([std::slice::from_ref(system), &rates[..], &["elsewhere".to_owned()]].concat());
        }
        let rows = results(&self.experiment)?;
        for configuration in &self.configurations {
            let all: Vec<Vec<&Row>> = self.places().map(|place| place.runs(configuration, &rows)).collect();
            let rate = |rows: &Vec<&Row>| match rows.is_empty() {
                true => "not run yet".to_owned(),
                false => format!("{:.2}", over(rows, Row::rate)),
            };
            let name = vec![format!("this system, `{configuration}`")];
            let rates: Vec<String> = all.iter().map(rate).collect();
            lines.push([name, rates, vec![traced(&self.experiment, all.into_iter().flatten())]].concat());
        }
        let columns = self.columns.iter().map(String::as_str);
        let header: Vec<&str> = std::iter::once("items/s").chain(columns).chain(["where"]).collect();
        Ok(markdown(&header, &lines))
    }
}
