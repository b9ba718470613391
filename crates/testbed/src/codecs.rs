//! What codecs do to throughput on links of several rates: each codec on all links, and the levels of accuracy, at which
//! the planner chooses for every link.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};

use crate::cgroup::Groups;
use crate::common::{self, Origin, Programs};
use crate::devices::{Cluster, Devices, Program, cluster_file};
use crate::host::Disturbance;
use crate::interrupt::Interrupt;
use crate::stream::{Job, Streamed, median, stream};
use crate::table::markdown;

/// What codecs do to throughput on links of several rates; needs root
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The experiment
    #[arg(default_value = "experiments/codecs.toml")]
    experiment: PathBuf,
    #[command(flatten)]
    programs: Programs,
    /// Only clusters of this name
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
}

/// The experiment's file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Experiment {
    engine: String,
    model: String,
    repeats: usize,
    /// Items before those that are measured.
    warm_up: usize,
    /// Items that are measured.
    items: usize,
    /// On all links.
    fixed: Vec<String>,
    /// Among whose codecs the planner chooses.
    levels: Vec<String>,
    cluster: Vec<Cluster>,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
struct Row {
    cluster: String,
    model: String,
    /// A codec or a level.
    codec: String,
    fixed: bool,
    repeat: usize,
    /// Along the chain.
    codecs: Vec<String>,
    /// What stages send for an item, all together.
    sent_bytes: f64,
    predicted_period_ms: f64,
    bottleneck: String,
    period_ms: f64,
    disturbance: Disturbance,
    disturbed: bool,
    machine: String,
    commit: String,
}

pub(crate) fn execute(args: &Args) -> Result<()> {
    let experiment = read(&args.experiment)?;
    let folder = args.experiment.parent().unwrap_or(Path::new("."));
    let (defer, origin) = (args.programs.defer()?, Origin::now());
    let interrupt = Interrupt::listen().context("cannot listen for signals")?;
    let groups = Groups::new()?;
    let work = tempfile::tempdir().context("cannot make a folder to work in")?;
    let (cache, engine) = (work.path().join("cache"), experiment.engine.as_str());
    let onnxruntime = args.programs.onnxruntime.as_deref();
    let program = Program { path: &defer, engine, cache: &cache, onnxruntime };
    let model = common::model(&experiment.model, folder, work.path(), &program)?;
    let mut rows = Vec::new();
    let bar = ProgressBar::new_spinner();
    let clusters = experiment.cluster.iter();
    for cluster in clusters.filter(|cluster| args.cluster.as_ref().is_none_or(|name| *name == cluster.name)) {
        let file = work.path().join(&cluster.name).with_extension("toml");
        fs::write(&file, cluster_file(cluster)?).context("cannot write a cluster file")?;
        // Rounds over all codecs, so that what changes on the machine meanwhile changes for all.
        for repeat in 0..experiment.repeats {
            for (codec, fixed) in experiment.codecs() {
                bar.set_message(format!("{} {codec} {repeat}", cluster.name));
                bar.tick();
                let devices = Devices::start(cluster, &groups, &program, &interrupt)?;
                let job = Job {
                    model: &model,
                    cluster: &file,
                    objective: "throughput",
                    codec: Some(codec),
                    fresh: false,
                    window: None,
                    warm_up: experiment.warm_up,
                    items: experiment.items,
                };
                let streamed = stream(&job, &devices, &program, &interrupt)?;
                rows.push(row(&experiment, &cluster.name, (codec, fixed), repeat, streamed, &origin));
                common::write(folder, "codecs", &rows, &text(&rows))?;
            }
        }
    }
    bar.finish_and_clear();
    Ok(())
}

impl Experiment {
    /// What is run, each with whether it is on all links.
    fn codecs(&self) -> impl Iterator<Item = (&str, bool)> {
        let fixed = self.fixed.iter().map(|name| (name.as_str(), true));
        fixed.chain(self.levels.iter().map(|name| (name.as_str(), false)))
    }
}

fn read(path: &Path) -> Result<Experiment> {
    let experiment: Experiment = common::read(path)?;
    common::check_items(path, experiment.warm_up, experiment.items)?;
    Ok(experiment)
}

fn row(
    experiment: &Experiment,
    cluster: &str,
    (codec, fixed): (&str, bool),
    repeat: usize,
    streamed: Streamed,
    origin: &Origin,
) -> Row {
    let Streamed { report, period_ms, disturbance, .. } = streamed;
    let codecs = std::iter::once(&report.input_codec).chain(report.stages.iter().map(|stage| &stage.codec));
    Row {
        cluster: cluster.to_owned(),
        model: experiment.model.clone(),
        codec: codec.to_owned(),
        fixed,
        repeat,
        codecs: codecs.cloned().collect(),
        sent_bytes: report.stages.iter().map(|stage| stage.out_bytes).sum(),
        predicted_period_ms: report.predicted.period_ms,
        bottleneck: report.predicted.bottleneck.clone(),
        period_ms,
        disturbed: disturbance.is_too_much(),
        disturbance,
        machine: origin.machine.clone(),
        commit: origin.commit.clone(),
    }
}

/// The tables, a row for each codec: medians over its runs.
fn text(rows: &[Row]) -> String {
    let mut clusters: Vec<&str> = rows.iter().map(|row| row.cluster.as_str()).collect();
    clusters.dedup();
    let header = [
        "codec",
        "items/s",
        "over raw",
        "predicted (items/s)",
        "stages",
        "sent for an item (MB)",
        "codecs of links",
    ];
    let sections = clusters.into_iter().map(|cluster| {
        let of = |codec: &str| -> Vec<&Row> {
            rows.iter().filter(|row| row.cluster == cluster && row.codec == codec).collect()
        };
        let mut codecs: Vec<&str> = rows
            .iter()
            .filter(|row| row.cluster == cluster && row.repeat == 0)
            .map(|row| &*row.codec)
            .collect();
        codecs.dedup();
        let raw = rate(&of("raw"));
        let lines = codecs.iter().map(|codec| line(codec, &of(codec), raw)).collect::<Vec<_>>();
        format!("## {cluster}\n\n{}", markdown(&header, &lines))
    });
    let first = rows.first();
    let of = |field: fn(&Row) -> &String| first.map(|row| field(row).as_str()).unwrap_or_default();
    format!(
        "# Codecs on links\n\n\
         {} on chains of real nodes on one machine, each under a CPU quota and with links of the rate in the title: medians of\n\
         each codec's runs. The first codecs are on every link; `exact`, `near` and `relaxed` leave the choice to the planner.\n\
         Sent: by all stages together.\n\n{}\n\
         Machine: {}; commit {}. Written by `cargo run --release -p testbed -- codecs`; every run is in\n\
         `results/codecs.ndjson`.\n",
        of(|row| &row.model),
        sections.collect::<Vec<_>>().join("\n"),
        of(|row| &row.machine),
        of(|row| &row.commit),
    )
}

/// Items a second, the median of some runs.
fn rate(rows: &[&Row]) -> f64 {
    1e3 / median(rows.iter().map(|row| row.period_ms).collect())
}

fn line(codec: &str, rows: &[&Row], raw: f64) -> Vec<String> {
    let over = |figure: fn(&Row) -> f64| median(rows.iter().map(|row| figure(row)).collect());
    let last = rows.last().map(|row| row.codecs.clone()).unwrap_or_default();
    let rate = rate(rows);
    vec![
        codec.to_owned(),
        format!("{rate:.2}"),
        format!("{:.2}x", rate / raw),
        format!("{:.2}", 1e3 / over(|row| row.predicted_period_ms)),
        format!("{}", last.len().saturating_sub(1)),
        format!("{:.3}", over(|row| row.sent_bytes) / 1e6),
        counted(&last),
    ]
}

/// `3 raw, 6 bf16`, in the order of their first link.
fn counted(codecs: &[String]) -> String {
    let mut kinds: Vec<&String> = Vec::new();
    for codec in codecs {
        if !kinds.contains(&codec) {
            kinds.push(codec);
        }
    }
    let count = |kind: &String| codecs.iter().filter(|codec| *codec == kind).count();
    kinds.iter().map(|kind| format!("{} {kind}", count(kind))).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_experiment_is_right() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../experiments/codecs.toml");
        let experiment = read(&path).unwrap();
        experiment.cluster.iter().for_each(|cluster| drop(cluster_file(cluster).unwrap()));
        assert!(experiment.codecs().any(|codec| codec == ("raw", true)), "all is held against raw links");
    }

    #[test]
    fn rows_are_medians_over_the_rounds() {
        let row = |codec: &str, repeat: usize, period_ms: f64| Row {
            cluster: "slow".to_owned(),
            model: "m".to_owned(),
            codec: codec.to_owned(),
            fixed: codec == "raw",
            repeat,
            codecs: ["raw", codec, codec].map(str::to_owned).to_vec(),
            sent_bytes: 2e6,
            predicted_period_ms: 100.0,
            bottleneck: "a link".to_owned(),
            period_ms,
            disturbance: Disturbance { foreign_cores: 0.0, softirq_cores: 0.0, steal_cores: 0.0 },
            disturbed: false,
            machine: "a machine".to_owned(),
            commit: "c0ffee".to_owned(),
        };
        let rows = [("raw", 0, 200.0), ("near", 0, 110.0), ("raw", 1, 300.0), ("near", 1, 90.0)];
        let rows: Vec<Row> =
            rows.into_iter().map(|(codec, repeat, period)| row(codec, repeat, period)).collect();
        let text = text(&rows);
        for part in ["## slow", "| raw   | 4.00", "| near  | 10.00   | 2.50x", "| 2.000", "1 raw, 2 near "] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}
