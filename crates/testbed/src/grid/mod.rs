//! Experiments on real nodes as a grid: configurations of models on clusters, each run several times in turns, so that
//! what changes on the machine meanwhile changes for all.
//!
//! Every run is written down at once, and one that is there already is not done again: an experiment that was ended can
//! be gone on with.

mod experiment;
mod figures;
mod row;
mod text;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde::de::IgnoredAny;

use crate::common::{self, Programs};
use crate::lab::Lab;
use crate::limits::Way;
use crate::stream::{Job, RunFailed};
use experiment::Cell;
pub(crate) use experiment::Experiment;
use row::{Failure, Key, Record};
pub(crate) use row::{Row, StageErrors};

/// Run an experiment on real nodes: models on emulated devices and links; needs root, but for --paced
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
    #[arg(long, conflicts_with_all = ["cluster", "repeats"])]
    fresh: bool,
    /// Only the first N repeats of each run; the others can follow another time
    #[arg(long, value_name = "N")]
    repeats: Option<NonZeroUsize>,
    /// Hold nodes to their quotas by stopping them again and again, instead of by control groups: needs no root.
    /// Clusters with a network, or with limits of memory, cannot be run so
    #[arg(long)]
    paced: bool,
    /// Let cores sleep that have nothing to do, instead of keeping each awake with a process that runs when no other
    /// wants to: for comparison, as one device is then slower than one of many on many machines
    #[arg(long)]
    sleep: bool,
    /// Only write the page anew from the results that are there
    #[arg(long, conflicts_with = "fresh")]
    page: bool,
}

pub(crate) fn execute(args: &Args) -> Result<()> {
    let experiment = Experiment::read(&args.experiment)?;
    let (folder, name) = common::place(&args.experiment)?;
    let results = common::results(folder, &name)?;
    let write_page = |done: &Results| page(folder, &name, &experiment, done);
    if args.page {
        let done = read_results(&results)?;
        let none = done.rows.is_empty() && done.failures.is_empty();
        ensure!(!none, "there are no results of `{}` yet", args.experiment.display());
        return write_page(&done);
    }
    let _held = common::hold(&args.experiment)?;
    let mut done = if args.fresh { Results::default() } else { read_results(&results)? };
    let all = experiment.cells()?;
    if let Some(name) = &args.cluster {
        ensure!(
            all.iter().any(|cell| cell.cluster.name == *name),
            "`{}` runs nothing on a cluster `{name}`",
            args.experiment.display()
        );
    }
    check_rows(&done.rows, &all, &experiment).with_context(|| {
        format!("`{}`: remove these lines; --fresh forgets all that are there", results.display())
    })?;
    let wanted = |cell: &Cell<'_>| {
        args.cluster.as_ref().is_none_or(|name| *name == cell.cluster.name)
            && args.repeats.is_none_or(|repeats| cell.repeat < repeats.get())
    };
    let known: HashSet<Key> = done.rows.iter().map(Row::key).collect();
    let wanted = |cell: &Cell<'_>| wanted(cell) && !known.contains(&cell.key());
    let cells: Vec<Cell<'_>> = all.into_iter().filter(wanted).collect();
    let way = if args.paced { Way::Paced } else { Way::Groups };
    if let Some(other) = done.rows.iter().map(|row| row.emulation.way()).find(|other| *other != way) {
        bail!("runs in `{}` are of devices {other}; --fresh forgets them", results.display());
    }
    let mut lab = Lab::new(folder, &experiment.engine, &args.programs, way)?;
    if !args.sleep {
        lab.keep_awake();
    }
    let here = &lab.origin.machine;
    if let Some(other) = done.rows.iter().map(|row| &row.machine).find(|machine| *machine != here)
        && !cells.is_empty()
    {
        bail!(
            "runs in `{}` are of another machine ({other}; this is {here}), with which no run of this one can be \
             compared; --fresh forgets them",
            results.display()
        );
    }
    if cells.is_empty() {
        say_nothing_to_run(&results);
    }
    cells.iter().try_for_each(|cell| lab.emulation(&cell.cluster).map(drop))?;
    let bar = ProgressBar::new(cells.len() as u64);
    bar.set_style(
        ProgressStyle::with_template("{pos} of {len} runs, {elapsed} (left {eta}) {msg}")
            .expect("a template"),
    );
    let mut is_untouched = true;
    for cell in bar.wrap_iter(cells.iter()) {
        let key = cell.key();
        if done.failures.iter().any(|failure| failure.is_of(&key)) {
            continue;
        }
        bar.set_message(key.to_string());
        bar.tick();
        let record = run(&experiment, cell, &lab)?;
        // Not before there is something to write: what cannot run takes nothing away.
        if std::mem::take(&mut is_untouched) {
            if args.fresh { forget(&results)? } else { trim(&results)? }
        }
        common::append(folder, &name, &record)?;
        done.add(record);
        write_page(&done)?;
    }
    if trace_figures(folder, &name, &experiment, &lab, args)? {
        write_page(&done)?;
    }
    Ok(())
}

/// Whether the runs that are there are those that the experiment asks for under their names, as far as rows tell.
fn check_rows(rows: &[Row], cells: &[Cell<'_>], experiment: &Experiment) -> Result<()> {
    let cells: HashMap<Key, &Cell<'_>> = cells.iter().map(|cell| (cell.key(), cell)).collect();
    let other = |row: &Row| {
        let other = row.other_than(experiment, cells.get(&row.key())?)?;
        Some(format!("line {} is of a run with {other}", row.line))
    };
    let others: Vec<String> = rows.iter().filter_map(other).collect();
    ensure!(others.is_empty(), "{}", others.join("; "));
    Ok(())
}

#[expect(clippy::print_stderr, reason = "whoever asked for a measurement would take old results for it")]
fn say_nothing_to_run(results: &Path) {
    eprintln!(
        "nothing to run: `{}` has all runs that this asks for; --fresh runs them anew",
        results.display()
    );
}

/// What was written down.
#[derive(Default)]
struct Results {
    rows: Vec<Row>,
    failures: Vec<Failure>,
}

impl Results {
    fn add(&mut self, record: Record) {
        let line = self.rows.len() + self.failures.len() + 1;
        match record {
            Record::Run(row) => self.rows.push(Row { line, ..*row }),
            Record::Failure(failure) => self.failures.push(failure),
        }
    }
}

/// What a cell asks for.
fn job<'a>(experiment: &Experiment, cell: &Cell<'a>, model: &'a Path, cluster: &'a Path) -> Job<'a> {
    let configuration = cell.configuration;
    let (warm_up, items) = experiment.items(configuration);
    Job {
        dims: cell.dims,
        codec: configuration.codec.as_deref(),
        objective: configuration.objective,
        window: cell.window,
        rule: configuration.rule,
        replicas: configuration.replicas,
        stages: configuration.stages,
        cut: configuration.cut.as_deref(),
        ..Job::new(model, cluster, warm_up, items)
    }
}

fn run(experiment: &Experiment, cell: &Cell<'_>, lab: &Lab) -> Result<Record> {
    let (model, file) = (lab.model(cell.model)?, lab.cluster(&cell.cluster)?);
    let (configuration, job) = (cell.configuration, job(experiment, cell, &model, &file));
    let emulation = lab.emulation(&cell.cluster)?;
    let row = match configuration.side_by_side {
        true => lab.side_by_side(&cell.cluster, &job, experiment.attempts).map(|(streamed, attempt)| {
            Row::side_by_side(cell, emulation, &job, streamed, attempt, &lab.origin)
        }),
        false => lab
            .undisturbed(&cell.cluster, &job, experiment.attempts)
            .map(|(streamed, attempt)| Row::new(cell, emulation, &job, streamed, attempt, &lab.origin)),
    };
    match row {
        Ok(row) => Ok(Record::Run(Box::new(row))),
        Err(error) => match error.downcast_ref::<RunFailed>() {
            Some(RunFailed(said)) if configuration.may_fail => {
                Ok(Record::Failure(Failure::new(cell, said, &lab.origin)))
            }
            _ => Err(error.context(format!("the run {}", cell.key()))),
        },
    }
}

/// Draws the figures that take a traced run and are not there yet: a run of its own, as those that are measured shall not
/// pay for the trace. Gives whether there were any.
fn trace_figures(folder: &Path, name: &str, experiment: &Experiment, lab: &Lab, args: &Args) -> Result<bool> {
    let mut any = false;
    for (i, figure) in experiment.figure.iter().enumerate() {
        let path = folder.join(figure_path(name, i));
        let Some(cell) = experiment.traced(figure)? else { continue };
        let wanted = args.cluster.as_ref().is_none_or(|name| *name == cell.cluster.name);
        if wanted && (args.fresh || !path.exists()) {
            common::save(&path, &gantt(experiment, &cell, figure.title(), lab)?)?;
            any = true;
        }
    }
    Ok(any)
}

/// The picture of a run.
fn gantt(experiment: &Experiment, cell: &Cell<'_>, title: &str, lab: &Lab) -> Result<String> {
    let (model, file) = (lab.model(cell.model)?, lab.cluster(&cell.cluster)?);
    let trace = lab.folder().join("trace.json");
    let job = Job { trace: Some(&trace), ..job(experiment, cell, &model, &file) };
    let traced = lab.undisturbed(&cell.cluster, &job, experiment.attempts);
    traced.with_context(|| format!("the traced run {}", cell.key()))?;
    let shown = trace.display();
    let text = fs::read_to_string(&trace).with_context(|| format!("cannot read `{shown}`"))?;
    crate::gantt::drawn(&text, Some(title), None)
}

/// Where the picture of a figure is, as seen from the experiment.
fn figure_path(name: &str, place: usize) -> String {
    format!("figures/{name}-{}.svg", place + 1)
}

/// Writes the page of an experiment with its pictures.
fn page(folder: &Path, name: &str, experiment: &Experiment, done: &Results) -> Result<()> {
    let mut shown = Vec::new();
    for (i, figure) in experiment.figure.iter().enumerate() {
        let path = figure_path(name, i);
        match figures::draw(figure, experiment, &done.rows)? {
            Some(svg) => common::save(&folder.join(&path), &svg)?,
            None if experiment.traced(figure)?.is_some() && folder.join(&path).exists() => {}
            None => continue,
        }
        shown.push((path, figure.title().to_owned()));
    }
    common::page(folder, name, &text::page(name, experiment, &done.rows, &done.failures, &shown))
}

/// The runs that are written down already.
///
/// # Errors
/// When the file cannot be read, or holds something else.
pub(crate) fn read_rows(results: &Path) -> Result<Vec<Row>> {
    Ok(read_results(results)?.rows)
}

/// Removes the line in whose middle whoever wrote it was killed, and ends the last one if an editor did not. For who runs
/// the experiment: others may see a line that is being written.
fn trim(results: &Path) -> Result<()> {
    let text = text(results)?;
    let mut whole = whole_lines(&text).to_owned();
    if !whole.is_empty() && !whole.ends_with('\n') {
        whole.push('\n');
    }
    if whole != text {
        fs::write(results, whole).with_context(|| format!("cannot write `{}`", results.display()))?;
    }
    Ok(())
}

fn forget(results: &Path) -> Result<()> {
    if results.exists() {
        fs::remove_file(results).with_context(|| format!("cannot remove `{}`", results.display()))?;
    }
    Ok(())
}

fn text(results: &Path) -> Result<String> {
    if !results.exists() {
        return Ok(String::new());
    }
    fs::read_to_string(results).with_context(|| format!("cannot read `{}`", results.display()))
}

/// Without a line that is not whole: its run is not done.
fn whole_lines(text: &str) -> &str {
    let end = text.rfind('\n').map_or(0, |end| end + 1);
    let is_whole = serde_json::from_str::<IgnoredAny>(&text[end..]).is_ok();
    if is_whole { text } else { &text[..end] }
}

fn read_results(results: &Path) -> Result<Results> {
    let mut done = Results::default();
    let (text, shown) = (text(results)?, results.display());
    for (i, line) in whole_lines(&text).lines().enumerate() {
        let record = Record::read(line);
        let no_run =
            || format!("`{shown}`, line {}, is no run: mend or remove it; --fresh does all again", i + 1);
        done.add(record.with_context(no_run)?);
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_being_written_is_left_to_who_writes_it() {
        let folder = tempfile::tempdir().unwrap();
        let results = folder.path().join("x.ndjson");
        let failure = r#"{"cluster":"c","model":"m","configuration":"x","repeat":0,"failure":"f","machine":"m","commit":"c"}"#;
        let (whole, cut) = (format!("{failure}\n"), format!("{failure}\n{}", &failure[..20]));
        fs::write(&results, &cut).unwrap();
        assert_eq!(read_results(&results).unwrap().failures.len(), 1);
        assert_eq!(fs::read_to_string(&results).unwrap(), cut);
        for _ in 0..2 {
            trim(&results).unwrap();
            assert_eq!(fs::read_to_string(&results).unwrap(), whole);
        }
        fs::write(&results, failure).unwrap();
        assert_eq!(read_results(&results).unwrap().failures.len(), 1, "editors need not end the last line");
        trim(&results).unwrap();
        assert_eq!(fs::read_to_string(&results).unwrap(), whole);
        trim(&folder.path().join("none.ndjson")).unwrap();
    }

    #[test]
    fn the_experiments_are_right() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../experiments");
        for name in [
            "codecs",
            "energy",
            "large",
            "latency",
            "paper",
            "resnet50",
            "short",
            "transformers",
            "uneven",
            "vgg",
        ] {
            let experiment = Experiment::read(&folder.join(name).with_extension("toml")).unwrap();
            let cells = experiment.cells().unwrap();
            let keys: HashSet<Key> = cells.iter().map(Cell::key).collect();
            assert!(!cells.is_empty() && keys.len() == cells.len(), "runs of {name} are told apart");
        }
    }
}
