//! The best plan against the rules by which other systems place a model, on seeded clusters of several kinds.
//!
//! Pure planning on measured costs: nothing runs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use indicatif::ProgressBar;
use plan::{
    Device, End, Host, Link, Medium, ModelCosts, Options, PlanError, Problem, Resources, Rule, by_rule, solve,
};
use serde::{Deserialize, Serialize};

use crate::common::{self, MOST_PLANNED};
use crate::table::{Spread, markdown};

/// How far the known rules for placing a model are from the best plan, on seeded clusters
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The experiment
    #[arg(default_value = "experiments/placement.toml")]
    experiment: PathBuf,
    /// Clusters of each kind, instead of those the experiment says
    #[arg(long, value_name = "N")]
    clusters: Option<u64>,
}

/// The experiment's file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Experiment {
    version: u32,
    /// Devices of a cluster.
    devices: usize,
    /// Seeded clusters of each kind.
    clusters: u64,
    /// Names of files in `costs/`, beside the experiment.
    models: Vec<String>,
    kind: Vec<Kind>,
}

/// What the clusters of a kind have in common. Of a range, each cluster or device draws evenly in the logarithm.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kind {
    name: String,
    /// Of each device.
    speed: [f64; 2],
    /// Of each pair of devices, both directions alike; of the medium, if there is one.
    link_mbit_s: [f64; 2],
    /// Of the dispatcher.
    dispatcher_mbit_s: f64,
    /// Memory of each device as a share of what the whole model needs.
    #[serde(default)]
    memory_share: Option<[f64; 2]>,
    /// Whether all devices, without the dispatcher, are on one Wi-Fi channel.
    #[serde(default)]
    wifi: bool,
}

/// One line of the results.
#[derive(Debug, Serialize)]
struct Row<'a> {
    model: &'a str,
    kind: &'a str,
    /// Clusters on which the model fits.
    clusters: usize,
    /// The plan's period over the bound that no plan can pass.
    over_bound: Option<Spread>,
    /// The plan's period over that of devices that are always busy and links that are no limit.
    over_ideal: Option<Spread>,
    rules: Vec<RuleRow>,
}

#[derive(Debug, Serialize)]
struct RuleRow {
    rule: &'static str,
    /// Its period over the plan's, where what it places fits into memory.
    over_plan: Option<Spread>,
    /// Clusters on which it exceeds a device's memory.
    does_not_fit: usize,
}

/// Link layers take some of a link; a frame costs this much besides its bytes.
const FRAME_SECONDS: f64 = 50e-6;

/// One way over a local network.
const DELAY_SECONDS: f64 = 200e-6;

/// CPU time to send or receive a byte on a device of speed 1.
const SECONDS_PER_BYTE: f64 = 0.25e-9;

const VERSION: u32 = 1;

const MOST_CLUSTERS: u64 = 1_000_000;

pub(crate) fn execute(args: &Args) -> Result<()> {
    let path = &args.experiment;
    let shown = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read the experiment `{shown}`"))?;
    let experiment: Experiment =
        toml::from_str(&text).with_context(|| format!("`{shown}` is no experiment"))?;
    ensure!(
        experiment.version == VERSION,
        "`{shown}` has version {}, this reads {VERSION}",
        experiment.version
    );
    let devices = 1..=MOST_PLANNED;
    ensure!(devices.contains(&experiment.devices), "`{shown}`: `devices` are 1 to {MOST_PLANNED}");
    let (folder, _) = common::place(path)?;
    let models = experiment.models.iter().map(|name| costs(folder, name)).collect::<Result<Vec<_>>>()?;
    let clusters = args.clusters.unwrap_or(experiment.clusters);
    ensure!((1..=MOST_CLUSTERS).contains(&clusters), "`{shown}`: `clusters` are 1 to {MOST_CLUSTERS}");

    let bar = ProgressBar::new((models.len() * experiment.kind.len()) as u64 * clusters);
    let mut rows = Vec::new();
    for model in &models {
        for kind in &experiment.kind {
            rows.push(row(model, kind, experiment.devices, clusters, &bar)?);
        }
    }
    bar.finish_and_clear();
    write(folder, &rows, &describe(&experiment, &models, clusters))
}

fn costs(folder: &Path, name: &str) -> Result<ModelCosts> {
    let path = folder.join("costs").join(format!("{name}.toml"));
    let text = fs::read_to_string(&path).with_context(|| {
        format!("cannot read `{}`; `defer plan {name}.onnx --costs FILE` writes such a file", path.display())
    })?;
    ModelCosts::from_toml(&text).with_context(|| format!("`{}` holds no costs", path.display()))
}

fn row<'a>(
    model: &'a ModelCosts,
    kind: &'a Kind,
    devices: usize,
    clusters: u64,
    bar: &ProgressBar,
) -> Result<Row<'a>> {
    let (mut over_bound, mut over_ideal) = (Vec::new(), Vec::new());
    let mut factors = vec![Vec::new(); Rule::ALL.len()];
    let mut misfits = vec![0; Rule::ALL.len()];
    for seed in 0..clusters {
        bar.inc(1);
        let problem = problem(model, kind, devices, &mut Rng::with_seed(seed));
        let Some(best) = fitting(solve(&problem, &Options::default()), kind)? else { continue };
        over_bound.push(best.plan.period / best.bound);
        over_ideal.push(best.plan.period / ideal(&problem));
        for (i, rule) in Rule::ALL.into_iter().enumerate() {
            match fitting(by_rule(&problem, rule), kind)? {
                Some(plan) => factors[i].push(plan.period / best.plan.period),
                None => misfits[i] += 1,
            }
        }
    }
    let rules = std::iter::zip(Rule::ALL, factors.into_iter().zip(misfits));
    Ok(Row {
        model: &model.name,
        kind: &kind.name,
        clusters: over_bound.len(),
        over_bound: Spread::of(over_bound),
        over_ideal: Spread::of(over_ideal),
        rules: rules
            .map(|(rule, (factors, does_not_fit))| RuleRow {
                rule: rule.name(),
                over_plan: Spread::of(factors),
                does_not_fit,
            })
            .collect(),
    })
}

/// A plan, unless nothing fits into memory; any other error is one of the experiment.
fn fitting<T>(planned: Result<T, PlanError>, kind: &Kind) -> Result<Option<T>> {
    match planned {
        Ok(plan) => Ok(Some(plan)),
        Err(PlanError::DoesNotFit(_) | PlanError::NothingFits(_) | PlanError::NothingFound(_)) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("clusters of the kind `{}`", kind.name)),
    }
}

/// All devices always busy with nothing but the model.
fn ideal(problem: &Problem) -> f64 {
    let work: f64 = problem.units.iter().map(|unit| unit.seconds).sum();
    work / problem.devices.iter().map(|device| device.speed).sum::<f64>()
}

fn problem(model: &ModelCosts, kind: &Kind, devices: usize, random: &mut Rng) -> Problem {
    let draw = |random: &mut Rng, [low, high]: [f64; 2]| low * (high / low).powf(random.f64());
    let whole: u64 = model.units.iter().map(|unit| unit.weight_bytes).sum::<u64>()
        + model.units.iter().map(|unit| unit.activation_bytes).max().unwrap_or(0);
    let device = |index: usize, random: &mut Rng| {
        let speed = draw(random, kind.speed);
        Device {
            memory_bytes: kind.memory_share.map(|share| (draw(random, share) * whole as f64) as u64),
            host: Host { seconds_per_byte: SECONDS_PER_BYTE / speed, ..Host::default() },
            ..Device::of_speed(format!("device-{index}"), speed)
        }
    };
    let mut resources = Resources::on_free_links((0..devices).map(|i| device(i, random)).collect());
    let dispatcher = kind.dispatcher_mbit_s * 1e6 / 8.0;
    resources.dispatcher.bandwidth = dispatcher;
    let link =
        |bandwidth: f64| Link { bandwidth, delay: DELAY_SECONDS, frame_seconds: FRAME_SECONDS, ..Link::FREE };
    let ends: Vec<End> = End::all(devices).collect();
    let channel = draw(random, kind.link_mbit_s);
    for (i, &a) in ends.iter().enumerate() {
        for &b in &ends[..i] {
            let own = if kind.wifi { channel } else { draw(random, kind.link_mbit_s) } * 1e6 / 8.0;
            let bandwidth = match (b, kind.wifi) {
                (End::Dispatcher, false) => dispatcher,
                // Through an access point, twice between two devices.
                (End::Dispatcher, true) => own,
                (_, true) => own / 2.0,
                (_, false) => own,
            };
            resources.links.set(a, b, link(bandwidth));
            resources.links.set(b, a, link(bandwidth));
        }
    }
    if kind.wifi {
        let links = End::pairs(devices).collect();
        resources.media.push(Medium { name: "Wi-Fi".to_owned(), links });
    }
    model.on(resources)
}

fn describe(experiment: &Experiment, models: &[ModelCosts], clusters: u64) -> String {
    let mut with: Vec<&str> = models.iter().map(|model| model.timed_with.as_str()).collect();
    with.dedup();
    format!(
        "{clusters} seeded clusters of {} devices of each kind (see `placement.toml`); unit times measured with {}. \
         Written by\n`make experiments`; the same figures, unrounded, are in \
         `results/placement.ndjson`.",
        experiment.devices,
        with.join(", ")
    )
}

fn write(folder: &Path, rows: &[Row<'_>], description: &str) -> Result<()> {
    let lines = rows.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
    let results = folder.join("results");
    fs::create_dir_all(&results).with_context(|| format!("cannot make `{}`", results.display()))?;
    save(&results.join("placement.ndjson"), &(lines.join("\n") + "\n"))?;
    let mut header = vec!["model", "clusters of kind", "with a plan", "plan / bound", "plan / ideal"];
    header.extend(Rule::ALL.map(Rule::name));
    let cell =
        |spread: Option<Spread>| spread.map_or("-".to_owned(), |s| format!("{:.2} ({:.2})", s.median, s.p90));
    let cells = |row: &Row<'_>| {
        let rules = row.rules.iter().map(|rule| match rule.does_not_fit {
            0 => cell(rule.over_plan),
            misfits => format!("{}, {misfits} do not fit", cell(rule.over_plan)),
        });
        let own = [row.model.to_owned(), row.kind.to_owned(), row.clusters.to_string()];
        own.into_iter().chain([cell(row.over_bound), cell(row.over_ideal)]).chain(rules).collect()
    };
    let table = markdown(&header, &rows.iter().map(cells).collect::<Vec<_>>());
    let text = format!(
        "# The best plan against known rules\n\nPeriod of the plan over the proven bound and over devices that are \
         always busy; period of each rule over the plan's:\nmedian, p90 in brackets. A rule that exceeds a device's \
         memory has no period.\n\n{table}\n{description}\n"
    );
    save(&folder.join("placement.md"), &text)
}

fn save(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPERIMENT: &str = include_str!("../../../experiments/placement.toml");
    const MODEL: &str = include_str!("../../../experiments/costs/mobilenetv2.toml");

    #[test]
    fn a_few_clusters_of_each_kind() {
        let experiment: Experiment = toml::from_str(EXPERIMENT).unwrap();
        let model = ModelCosts::from_toml(MODEL).unwrap();
        for kind in &experiment.kind {
            let row = row(&model, kind, 4, 3, &ProgressBar::hidden()).unwrap();
            assert!(row.clusters > 0, "{}", kind.name);
            assert_eq!(row.over_bound.unwrap().p90, 1.0, "{}", kind.name);
            assert!(row.over_ideal.unwrap().median >= 1.0);
            for rule in &row.rules {
                assert!(rule.over_plan.is_none_or(|s| s.median >= 1.0), "{} {}", kind.name, rule.rule);
                assert!(rule.over_plan.is_some() || rule.does_not_fit == row.clusters);
            }
        }
    }

    #[test]
    fn an_experiment_that_makes_no_sense_is_no_lack_of_memory() {
        let mut experiment: Experiment = toml::from_str(EXPERIMENT).unwrap();
        let model = ModelCosts::from_toml(MODEL).unwrap();
        experiment.kind[0].speed = [-1.0, -1.0];
        assert!(row(&model, &experiment.kind[0], 4, 3, &ProgressBar::hidden()).is_err());
    }
}
