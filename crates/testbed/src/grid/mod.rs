//! Experiments on real nodes as a grid: configurations of models on clusters, each run several times in turns, so that
//! what changes on the machine meanwhile changes for all.
//!
//! Every run is written down at once, and one that is there already is not done again: an experiment that was ended can
//! be gone on with.

mod experiment;
mod figures;
mod row;
mod text;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use crate::common::{self, Programs};
use crate::lab::Lab;
use crate::stream::Job;
use experiment::{Cell, Experiment};
use row::{Key, Row};

/// Run an experiment on real nodes: models on emulated devices and links; needs root
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The experiment. Its results go beside it, and runs that are among them are not done again
    experiment: PathBuf,
    #[command(flatten)]
    programs: Programs,
    /// Only clusters of this name
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// Do all runs again, and forget those that are there
    #[arg(long, conflicts_with = "cluster")]
    fresh: bool,
    /// Only write the page anew from the results that are there
    #[arg(long, conflicts_with = "fresh")]
    page: bool,
}

pub(crate) fn execute(args: &Args) -> Result<()> {
    let experiment = Experiment::read(&args.experiment)?;
    let name = args.experiment.file_stem().context("an experiment without a name")?.to_string_lossy();
    let folder = args.experiment.parent().unwrap_or(Path::new("."));
    let results = common::results(folder, &name)?;
    if args.fresh && results.exists() {
        fs::remove_file(&results).with_context(|| format!("cannot remove `{}`", results.display()))?;
    }
    let mut rows = read_rows(&results)?;
    let write_page = |rows: &[Row]| page(folder, &name, &experiment, rows);
    if args.page {
        ensure!(!rows.is_empty(), "there are no results of `{}` yet", args.experiment.display());
        return write_page(&rows);
    }
    let done: HashSet<Key> = rows.iter().map(Row::key).collect();
    let wanted = |cell: &Cell<'_>| args.cluster.as_ref().is_none_or(|name| *name == cell.cluster.name);
    let wanted = |cell: &Cell<'_>| wanted(cell) && !done.contains(&cell.key());
    let cells: Vec<Cell<'_>> = experiment.cells()?.into_iter().filter(wanted).collect();
    let lab = Lab::new(folder, &experiment.engine, &args.programs)?;
    let bar = ProgressBar::new(cells.len() as u64);
    bar.set_style(
        ProgressStyle::with_template("{pos} of {len} runs, {elapsed} (left {eta}) {msg}")
            .expect("a template"),
    );
    for cell in bar.wrap_iter(cells.iter()) {
        bar.set_message(cell.key().to_string());
        bar.tick();
        let row = run(&experiment, cell, &lab)?;
        common::append(folder, &name, &row)?;
        rows.push(row);
        write_page(&rows)?;
    }
    Ok(())
}

fn run(experiment: &Experiment, cell: &Cell<'_>, lab: &Lab) -> Result<Row> {
    let (model, file) = (lab.model(cell.model)?, lab.cluster(&cell.cluster)?);
    let configuration = cell.configuration;
    let job = Job {
        codec: configuration.codec.as_deref(),
        objective: configuration.objective,
        window: configuration.window,
        stages: configuration.stages,
        cut: configuration.cut.as_deref(),
        ..Job::new(&model, &file, experiment.warm_up, configuration.items.unwrap_or(experiment.items))
    };
    let (streamed, attempt) = lab
        .undisturbed(&cell.cluster, &job, experiment.attempts)
        .with_context(|| format!("the run {}", cell.key()))?;
    Ok(Row::new(cell, &job, streamed, attempt, &lab.origin))
}

/// Writes the page of an experiment with its pictures.
fn page(folder: &Path, name: &str, experiment: &Experiment, rows: &[Row]) -> Result<()> {
    let mut shown = Vec::new();
    for (i, figure) in experiment.figure.iter().enumerate() {
        if let Some(svg) = figures::draw(figure, experiment, rows)? {
            let path = format!("figures/{name}-{}.svg", i + 1);
            common::save(&folder.join(&path), &svg)?;
            shown.push((path, figure.title().to_owned()));
        }
    }
    common::page(folder, name, &text::page(name, experiment, rows, &shown))
}

/// The runs that are written down already.
fn read_rows(results: &Path) -> Result<Vec<Row>> {
    if !results.exists() {
        return Ok(Vec::new());
    }
    let shown = results.display();
    let text = fs::read_to_string(results).with_context(|| format!("cannot read `{shown}`"))?;
    // Whoever was killed in the middle of a line has not done that run.
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    if whole.len() < text.len() {
        fs::write(results, whole).with_context(|| format!("cannot write `{shown}`"))?;
    }
    let row = |(i, line): (usize, &str)| {
        serde_json::from_str(line)
            .with_context(|| format!("`{shown}`, line {}, is no run; --fresh does all again", i + 1))
    };
    whole.lines().enumerate().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_experiments_are_right() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../experiments");
        for name in ["codecs", "resnet50"] {
            let experiment = Experiment::read(&folder.join(name).with_extension("toml")).unwrap();
            let cells = experiment.cells().unwrap();
            let keys: HashSet<Key> = cells.iter().map(Cell::key).collect();
            assert!(!cells.is_empty() && keys.len() == cells.len(), "runs of {name} are told apart");
        }
    }
}
