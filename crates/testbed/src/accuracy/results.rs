//! Rows, tables and the model of energy of the experiment on accuracy. Pure, but for writing the files.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::common::{self, Origin};
use crate::devices::Cluster;
use crate::host::Disturbance;
use crate::kinds::{counting, kinds};
use crate::stream::{Job, Stage, Streamed, median, used_by};
use crate::table::markdown;

/// One run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Row {
    cluster: String,
    model: String,
    objective: String,
    /// Items in the chain at most; as many as it takes, without it.
    window: Option<usize>,
    repeat: usize,
    engine: String,
    stages: Vec<StageRow>,
    predicted_period_ms: f64,
    predicted_bottleneck: String,
    predicted_latency_ms: f64,
    /// By the CPU time that the nodes took in operation.
    corrected_period_ms: Option<f64>,
    corrected_latency_ms: Option<f64>,
    period_ms: f64,
    /// Of the second half over that of the first.
    drift: f64,
    latency_ms: f64,
    /// Modelled, for an item: from the watts of the experiment, the measured period and CPU time.
    modelled_joules: f64,
    disturbance: Disturbance,
    disturbed: bool,
    /// The processor, the number of its cores, and the commit.
    machine: String,
    commit: String,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct StageRow {
    node: String,
    quota: f64,
    predicted_busy_ms: f64,
    corrected_busy_ms: Option<f64>,
    /// CPU time for an item in operation.
    cpu_ms: f64,
}

impl Row {
    pub(super) fn new(
        cluster: &Cluster,
        model: &str,
        job: &Job<'_>,
        repeat: usize,
        streamed: Streamed,
        origin: &Origin,
    ) -> Row {
        let Streamed { report, period_ms, drift, latency_ms, nodes, disturbance, .. } = streamed;
        let of_node = |node: &str| cluster.device(node);
        let cpu_ms = |stage: &Stage| used_by(&nodes, &stage.node).cpu_ms;
        let joules = report.stages.iter().map(|s| of_node(&s.node).joules(cpu_ms(s), period_ms)).sum();
        let stages = report.stages.iter().map(|stage| StageRow {
            node: stage.node.clone(),
            quota: of_node(&stage.node).quota,
            predicted_busy_ms: stage.predicted_busy_ms,
            corrected_busy_ms: stage.corrected_busy_ms,
            cpu_ms: cpu_ms(stage),
        });
        let corrected = report.corrected.as_ref();
        Row {
            cluster: cluster.name.clone(),
            model: model.to_owned(),
            objective: job.objective.name().to_owned(),
            window: job.window,
            repeat,
            engine: report.stages.first().map(|stage| stage.engine.clone()).unwrap_or_default(),
            stages: stages.collect(),
            predicted_period_ms: report.predicted.period_ms,
            predicted_bottleneck: report.predicted.bottleneck.clone(),
            predicted_latency_ms: report.predicted.latency_ms,
            corrected_period_ms: corrected.map(|c| c.period_ms),
            corrected_latency_ms: corrected.map(|c| c.latency_ms),
            period_ms,
            drift,
            latency_ms,
            modelled_joules: joules,
            disturbed: disturbance.is_too_much(),
            disturbance,
            machine: origin.machine.clone(),
            commit: origin.commit.clone(),
        }
    }

    /// What tells runs apart, but for the repeat.
    fn place(&self) -> (&str, &str, &str, Option<usize>) {
        (&self.cluster, &self.model, &self.objective, self.window)
    }

    pub(super) fn machine(&self) -> &str {
        &self.machine
    }

    fn cpu_ms(&self) -> f64 {
        self.stages.iter().map(|stage| stage.cpu_ms).sum()
    }

    /// The stage that corrected figures call the slowest.
    fn limiting(&self) -> Option<&StageRow> {
        self.stages.iter().max_by(|a, b| busy(a).total_cmp(&busy(b)))
    }
}

fn busy(stage: &StageRow) -> f64 {
    stage.corrected_busy_ms.unwrap_or(stage.predicted_busy_ms)
}

/// Writes all rows, and the tables of their medians.
pub(super) fn write(folder: &Path, name: &str, rows: &[Row]) -> Result<()> {
    common::write(folder, name, rows, &text(name, rows))
}

/// New runs where those of the same kind were, or behind all others.
pub(super) fn replaced(mut rows: Vec<Row>, new: Vec<Row>) -> Vec<Row> {
    let is_old = |row: &Row| new.iter().any(|one| one.place() == row.place());
    // None of those before the first goes.
    let place = rows.iter().position(is_old).unwrap_or(rows.len());
    rows.retain(|row| !is_old(row));
    rows.splice(place..place, new);
    rows
}

/// The rows that are there.
///
/// # Errors
/// When the file cannot be read, or holds something else.
pub(super) fn read(folder: &Path, name: &str) -> Result<Vec<Row>> {
    let path = common::results(folder, name)?;
    if !path.exists() {
        return Ok(Vec::new());
    }
    let shown = path.display();
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{shown}`"))?;
    let row = |(i, line)| {
        serde_json::from_str(line).with_context(|| format!("`{shown}`, line {}, is no run", i + 1))
    };
    text.lines().enumerate().map(row).collect()
}

/// Rows of the same run, in the order in which they came.
fn same_runs(rows: &[Row]) -> Vec<Vec<&Row>> {
    kinds(rows.iter(), |row| (row.cluster.clone(), row.model.clone(), row.objective.clone(), row.window))
}

fn text(name: &str, rows: &[Row]) -> String {
    let made = same_runs(rows);
    let kinds: Vec<Vec<&Row>> =
        made.iter().map(|kind| counting(kind, |row| row.disturbed, Row::cpu_ms)).collect();
    let accuracy: Vec<Vec<String>> = std::iter::zip(&kinds, &made)
        .filter(|(kind, _)| kind[0].window.is_none())
        .map(|(kind, made)| accuracy(kind, made.len()))
        .collect();
    let header = [
        "model",
        "cluster",
        "objective",
        "stages",
        "predicted (ms)",
        "corrected (ms)",
        "measured (ms)",
        "measured / predicted",
        "measured / corrected",
        "CPU of the limiting stage: predicted, taken (ms)",
        "its quota used (%)",
        "runs that count",
    ];
    let objectives: Vec<Vec<String>> = kinds.iter().filter_map(|kind| objective(kind, &kinds)).collect();
    let columns = ["model", "cluster", "objective", "stages", "its plan", "throughput's plan", "ratio"];
    let first = rows.first();
    let of = |field: fn(&Row) -> &String| first.map(|row| field(row).as_str()).unwrap_or_default();
    format!(
        "# Predicted and measured\n\n\
         Period of chains of real nodes on one machine, each under a CPU quota: medians of the runs that nothing \
         disturbed, of all\nwhere there are none; ratios are medians of the runs' ratios. Predicted: from whole stages \
         timed before they are\nconnected, and where a chain was rehearsed from that, too. Corrected: from the CPU time \
         that nodes took in operation, at\nthe rate at which they got it when they were timed. The rest is the limiting \
         stage's CPU: it takes more or less of it for\nan item than when it was timed, and a quota is kept within a \
         few percent.\n\n{}\n\
         ## Other objectives\n\n\
         Latency measured with one item in the chain at a time (ms); energy modelled from watts, the measured period \
         and CPU time\n(J/item). A quota does not slow a stage that takes less CPU than one of its periods allows \
         (20 ms x the quota) when items\ncome one at a time: what the plan for one device saves does not count \
         there, as EfficientNet-Lite0 shows.\n\n{}\n\
         Machine: {}; commit {}; engine {}. Written by `defer-testbed accuracy`; every run is in\n\
         `results/{name}.ndjson`.\n",
        markdown(&header, &accuracy),
        markdown(&columns, &objectives),
        of(|row| &row.machine),
        of(|row| &row.commit),
        of(|row| &row.engine),
    )
}

/// The cells of `kind`, which are those of `made` runs that count.
fn accuracy(kind: &[&Row], made: usize) -> Vec<String> {
    let row = kind[0];
    let of = |value: &dyn Fn(&Row) -> f64| median(kind.iter().map(|row| value(row)).collect());
    let limiting = |value: fn(&StageRow, &Row) -> f64| {
        of(&move |row| row.limiting().map_or(0.0, |stage| value(stage, row)))
    };
    let corrected = |row: &Row| row.corrected_period_ms.unwrap_or(row.predicted_period_ms);
    vec![
        row.model.clone(),
        row.cluster.clone(),
        row.objective.clone(),
        row.stages.len().to_string(),
        format!("{:.1}", of(&|row| row.predicted_period_ms)),
        format!("{:.1}", of(&corrected)),
        format!("{:.1}", of(&|row| row.period_ms)),
        format!("{:.3}", of(&|row| row.period_ms / row.predicted_period_ms)),
        format!("{:.3}", of(&|row| row.period_ms / corrected(row))),
        format!(
            "{:.2}, {:.2}",
            limiting(|stage, _| stage.predicted_busy_ms * stage.cpu_ms / busy(stage)),
            limiting(|stage, _| stage.cpu_ms)
        ),
        format!("{:.0}", limiting(|stage, row| 100.0 * stage.cpu_ms / (stage.quota * row.period_ms))),
        format!("{} of {made}, {} disturbed", kind.len(), kind.iter().filter(|row| row.disturbed).count()),
    ]
}

/// A plan for another objective beside the plan for throughput under the same window.
fn objective(kind: &[&Row], all: &[Vec<&Row>]) -> Option<Vec<String>> {
    let row = kind[0];
    let same = |other: &Row| {
        (&other.cluster, &other.model, other.window) == (&row.cluster, &row.model, row.window)
            && other.objective == "throughput"
    };
    let throughput = all.iter().find(|other| same(other[0])).filter(|_| row.objective != "throughput")?;
    let value = |row: &&Row| if row.window.is_some() { row.latency_ms } else { row.modelled_joules };
    let of = |rows: &[&Row]| median(rows.iter().map(value).collect());
    let (own, other) = (of(kind), of(throughput));
    let decimals = if row.window.is_some() { 1 } else { 3 };
    Some(vec![
        row.model.clone(),
        row.cluster.clone(),
        row.objective.clone(),
        format!("{}, {}", row.stages.len(), throughput[0].stages.len()),
        format!("{own:.decimals$}"),
        format!("{other:.decimals$}"),
        format!("{:.2}", own / other),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(objective: &str, window: Option<usize>, repeat: usize, period_ms: f64) -> Row {
        let stage = StageRow {
            node: "c-1".to_owned(),
            quota: 0.25,
            predicted_busy_ms: 90.0,
            corrected_busy_ms: Some(100.0),
            cpu_ms: 25.0,
        };
        Row {
            cluster: "c".to_owned(),
            model: "m".to_owned(),
            objective: objective.to_owned(),
            window,
            repeat,
            engine: "e".to_owned(),
            stages: vec![stage],
            predicted_period_ms: 90.0,
            predicted_bottleneck: "c-1".to_owned(),
            predicted_latency_ms: 90.0,
            corrected_period_ms: Some(100.0),
            corrected_latency_ms: Some(100.0),
            period_ms,
            drift: 1.0,
            latency_ms: period_ms,
            modelled_joules: period_ms / 100.0,
            disturbance: Disturbance::default(),
            disturbed: repeat == 2,
            machine: "a machine".to_owned(),
            commit: "c0ffee".to_owned(),
        }
    }

    #[test]
    fn medians_of_runs_make_the_table() {
        let periods = [110.0, 100.0, 105.0].into_iter().enumerate();
        let mut rows: Vec<Row> = periods.map(|(i, period)| row("throughput", None, i, period)).collect();
        let cells = accuracy(&rows.iter().collect::<Vec<_>>(), 4);
        let expected =
            ["90.0", "100.0", "105.0", "1.167", "1.050", "22.50, 25.00", "95", "3 of 4, 1 disturbed"];
        assert_eq!(cells[4..], expected);
        rows.push(row("energy", None, 0, 50.0));
        rows.push(row("throughput", Some(1), 0, 80.0));
        rows.push(row("latency", Some(1), 0, 60.0));
        let text = text("accuracy", &rows);
        for part in
            ["| energy     | 1, 1   | 0.500    | 1.050", "| latency    | 1, 1   | 60.0", "0.75", "c0ffee"]
        {
            let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(squeezed(&text).contains(&squeezed(part)), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn new_runs_stand_where_the_old_ones_of_their_kind_did() {
        let old = vec![
            row("throughput", None, 0, 100.0),
            row("throughput", None, 1, 101.0),
            row("energy", None, 0, 50.0),
            row("latency", Some(1), 0, 60.0),
        ];
        let of = |rows: &[Row]| -> Vec<(String, usize, f64)> {
            rows.iter().map(|row| (row.objective.clone(), row.repeat, row.period_ms)).collect()
        };
        let found = replaced(old.clone(), vec![row("energy", None, 0, 51.0), row("energy", None, 1, 52.0)]);
        let energy = |repeat, ms| ("energy".to_owned(), repeat, ms);
        assert_eq!(of(&found)[..2], of(&old)[..2]);
        assert_eq!(of(&found)[2..4], [energy(0, 51.0), energy(1, 52.0)]);
        assert_eq!(of(&found)[4..], of(&old)[3..]);
        // One with another window is another one.
        let found = replaced(old.clone(), vec![row("latency", None, 0, 9.0)]);
        assert_eq!((of(&found)[..4].to_vec(), found.len()), (of(&old), 5));
    }
}
