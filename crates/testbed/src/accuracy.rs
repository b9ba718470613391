//! What is predicted of a chain of real nodes under CPU quotas against what is measured, and whether the plan for an
//! objective is better at it than the plan for throughput.
//!
//! Each repeat is a `defer run` of its own, which measures nodes and stages anew. Energy is modelled, as no counter
//! can be read here: from the watts of the experiment, and measured times.

mod results;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use serde::Deserialize;

use crate::cgroup::Groups;
use crate::common::{self, Origin, Programs};
use crate::devices::{Cluster, Devices, Program, cluster_file};
use crate::interrupt::Interrupt;
use crate::stream::{Job, Streamed, stream};
use results::Row;

/// What was predicted of a chain of real nodes under CPU quotas, and what was measured; needs root
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The experiment
    #[arg(default_value = "experiments/accuracy.toml")]
    experiment: PathBuf,
    #[command(flatten)]
    programs: Programs,
    /// Only clusters of this name
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// Repeats of each run, instead of those the experiment says
    #[arg(long, value_name = "N")]
    repeats: Option<usize>,
}

/// The experiment's file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Experiment {
    /// The engine that runs models.
    engine: String,
    /// Runs of each kind.
    repeats: usize,
    /// A disturbed run is repeated, up to so many attempts.
    attempts: usize,
    /// Items before those that are measured.
    warm_up: usize,
    /// Items that are measured.
    items: usize,
    cluster: Vec<Cluster>,
    run: Vec<Run>,
}

/// Models on a cluster.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    cluster: String,
    /// Of the zoo, or files in `models/`.
    models: Vec<String>,
    objectives: Vec<Objective>,
    /// Instead of those of the experiment.
    #[serde(default)]
    repeats: Option<usize>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Objective {
    Throughput,
    Latency,
    Energy,
}

impl Objective {
    fn name(self) -> &'static str {
        match self {
            Objective::Throughput => "throughput",
            Objective::Latency => "latency",
            Objective::Energy => "energy",
        }
    }
}

/// Items that say how long one that is alone takes: each takes many periods.
const LONE_ITEMS: usize = 20;

pub(crate) fn execute(args: &Args) -> Result<()> {
    let experiment = read(&args.experiment)?;
    let folder = args.experiment.parent().unwrap_or(Path::new("."));
    let defer = args.programs.defer()?;
    let interrupt = Interrupt::listen().context("cannot listen for signals")?;
    let groups = Groups::new()?;
    let work = tempfile::tempdir().context("cannot make a folder to work in")?;
    let cache = work.path().join("cache");
    let (engine, onnxruntime) = (experiment.engine.as_str(), args.programs.onnxruntime.as_deref());
    let program = Program { path: &defer, engine, cache: &cache, onnxruntime };
    let repeats = args.repeats;
    let origin = Origin::now();
    let bench = Bench {
        experiment: &experiment,
        groups,
        work: work.path(),
        folder,
        program,
        interrupt,
        repeats,
        origin,
    };
    let mut rows = Vec::new();
    for run in &experiment.run {
        if args.cluster.as_ref().is_none_or(|name| *name == run.cluster) {
            rows.extend(bench.run(run)?);
            // What is known is kept, whatever becomes of the rest.
            results::write(folder, &rows)?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Experiment> {
    let experiment: Experiment = common::read(path)?;
    common::check_items(path, experiment.warm_up, experiment.items)?;
    Ok(experiment)
}

/// What all runs have in common.
struct Bench<'a> {
    experiment: &'a Experiment,
    groups: Groups,
    work: &'a Path,
    /// Where the experiment is.
    folder: &'a Path,
    program: Program<'a>,
    interrupt: Interrupt,
    /// Instead of those of the experiment.
    repeats: Option<usize>,
    origin: Origin,
}

impl Bench<'_> {
    fn run(&self, run: &Run) -> Result<Vec<Row>> {
        let clusters = &self.experiment.cluster;
        let cluster = clusters.iter().find(|cluster| cluster.name == run.cluster);
        let cluster = cluster.with_context(|| format!("there is no cluster `{}`", run.cluster))?;
        let file = self.work.join(format!("{}.toml", cluster.name));
        fs::write(&file, cluster_file(cluster)?).context("cannot write a cluster file")?;
        let mut rows = Vec::new();
        for model in &run.models {
            let path = common::model(model, self.folder, self.work, &self.program)?;
            for (objective, lone) in plans(&run.objectives) {
                let (warm_up, items) = match lone {
                    true => (2, LONE_ITEMS),
                    false => (self.experiment.warm_up, self.experiment.items),
                };
                let job = Job {
                    model: &path,
                    cluster: &file,
                    objective: objective.name(),
                    codec: None,
                    fresh: true,
                    window: lone.then_some(1),
                    warm_up,
                    items,
                };
                let repeats = self.repeats.or(run.repeats).unwrap_or(self.experiment.repeats);
                for repeat in 0..repeats {
                    let streamed = self.undisturbed(cluster, &job, &format!("{model} {repeat}"))?;
                    let (name, devices) = (&cluster.name, &cluster.devices);
                    rows.push(Row::new(name, devices, model, &job, repeat, streamed, &self.origin));
                }
            }
        }
        Ok(rows)
    }

    /// Runs until nothing disturbs it, a few times at most: the row says when the last one was disturbed, too.
    fn undisturbed(&self, cluster: &Cluster, job: &Job<'_>, what: &str) -> Result<Streamed> {
        let bar = ProgressBar::new_spinner();
        let mut attempt = 1;
        loop {
            bar.set_message(format!("{} {what} {}, attempt {attempt}", cluster.name, job.objective));
            bar.tick();
            // Nodes of their own for each run: nothing is left in memory from another one.
            let devices = Devices::start(cluster, &self.groups, &self.program, &self.interrupt)?;
            let streamed = stream(job, &devices, &self.program, &self.interrupt)?;
            if attempt >= self.experiment.attempts || !streamed.disturbance.is_too_much() {
                bar.finish_and_clear();
                return Ok(streamed);
            }
            attempt += 1;
        }
    }
}

/// The plans to run for these objectives, each with whether items are alone in the chain: for latency the plan for
/// throughput is run so, too.
fn plans(objectives: &[Objective]) -> Vec<(Objective, bool)> {
    let plans = |objective: &Objective| match objective {
        Objective::Latency => vec![(Objective::Throughput, true), (Objective::Latency, true)],
        other => vec![(*other, false)],
    };
    objectives.iter().flat_map(plans).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_experiment_is_right() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../experiments/accuracy.toml");
        let experiment = read(&path).unwrap();
        for cluster in &experiment.cluster {
            cluster_file(cluster).unwrap();
        }
        for run in &experiment.run {
            assert!(experiment.cluster.iter().any(|cluster| cluster.name == run.cluster), "{}", run.cluster);
        }
    }

    #[test]
    fn the_plan_for_throughput_is_run_for_latency_too() {
        let (throughput, latency) = (Objective::Throughput, Objective::Latency);
        assert_eq!(plans(&[throughput, latency]), [(throughput, false), (throughput, true), (latency, true)]);
        assert_eq!(plans(&[Objective::Energy]), [(Objective::Energy, false)]);
    }
}
