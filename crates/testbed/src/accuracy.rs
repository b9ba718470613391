//! What is predicted of a chain of real nodes under CPU quotas against what is measured, and whether the plan for an
//! objective is better at it than the plan for throughput.
//!
//! Each repeat is a `defer run` of its own, which measures nodes and stages anew. Energy is modelled, as no counter
//! can be read here: from the watts of the experiment, and measured times.

mod results;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use indicatif::ProgressBar;
use serde::Deserialize;

use crate::common::{self, Programs};
use crate::devices::{Cluster, cluster_file};
use crate::lab::Lab;
use crate::limits::Way;
use crate::stream::{Job, Objective};
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
    repeats: Option<NonZeroUsize>,
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

/// Items that say how long one that is alone takes: each takes many periods.
const LONE_ITEMS: usize = 20;

pub(crate) fn execute(args: &Args) -> Result<()> {
    let experiment = read(&args.experiment)?;
    let (folder, name) = common::place(&args.experiment)?;
    let shown = args.experiment.display();
    let wanted = |run: &&Run| args.cluster.as_ref().is_none_or(|name| *name == run.cluster);
    let wanted: Vec<&Run> = experiment.run.iter().filter(wanted).collect();
    let asked = args.cluster.as_deref().unwrap_or("any cluster");
    ensure!(!wanted.is_empty(), "`{shown}` runs nothing on {asked}");
    let _held = common::hold(&args.experiment)?;
    // Without --cluster all are done again, and none stays.
    let mut rows = match &args.cluster {
        Some(_) => results::read(folder, &name)?,
        None => Vec::new(),
    };
    let mut lab = Lab::new(folder, &experiment.engine, &args.programs, Way::Groups)?;
    lab.keep_awake();
    if let Some(other) = rows.iter().map(Row::machine).find(|machine| *machine != lab.origin.machine) {
        bail!(
            "the runs that are there are of another machine ({other}; this is {}), with which no run of this one can \
             be compared: leave --cluster out to do them all again",
            lab.origin.machine
        );
    }
    let bench = Bench { experiment: &experiment, lab, repeats: args.repeats.map(NonZeroUsize::get) };
    for run in wanted {
        // What is known is kept, whatever becomes of the rest.
        rows = results::replaced(rows, bench.run(run)?);
        results::write(folder, &name, &rows)?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Experiment> {
    let experiment: Experiment = common::read(path)?;
    common::check_items(path, experiment.warm_up, experiment.items)?;
    for cluster in &experiment.cluster {
        cluster_file(cluster).with_context(|| format!("`{}`", path.display()))?;
    }
    let repeats = experiment.run.iter().filter_map(|run| run.repeats).chain([experiment.repeats]);
    ensure!(
        repeats.into_iter().all(|repeats| (1..=common::MOST_REPEATS).contains(&repeats)),
        "`{}`: 1 to {} repeats can be made of a run",
        path.display(),
        common::MOST_REPEATS
    );
    Ok(experiment)
}

/// What all runs have in common.
struct Bench<'a> {
    experiment: &'a Experiment,
    lab: Lab,
    /// Instead of those of the experiment.
    repeats: Option<usize>,
}

impl Bench<'_> {
    fn run(&self, run: &Run) -> Result<Vec<Row>> {
        let clusters = &self.experiment.cluster;
        let cluster = clusters.iter().find(|cluster| cluster.name == run.cluster);
        let cluster = cluster.with_context(|| format!("there is no cluster `{}`", run.cluster))?;
        let file = self.lab.cluster(cluster)?;
        let bar = ProgressBar::new_spinner();
        let mut rows = Vec::new();
        for model in &run.models {
            let path = self.lab.model(model)?;
            for (objective, lone) in plans(&run.objectives) {
                let (warm_up, items) = match lone {
                    true => (2, LONE_ITEMS),
                    false => (self.experiment.warm_up, self.experiment.items),
                };
                let job = Job {
                    objective,
                    fresh: true,
                    window: lone.then_some(1),
                    ..Job::new(&path, &file, warm_up, items)
                };
                let repeats = self.repeats.or(run.repeats).unwrap_or(self.experiment.repeats);
                for repeat in 0..repeats {
                    bar.set_message(format!("{} {model} {} {repeat}", cluster.name, objective.name()));
                    bar.tick();
                    let (streamed, _) = self.lab.undisturbed(cluster, &job, self.experiment.attempts)?;
                    rows.push(Row::new(cluster, model, &job, repeat, streamed, &self.lab.origin));
                }
            }
        }
        bar.finish_and_clear();
        Ok(rows)
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
