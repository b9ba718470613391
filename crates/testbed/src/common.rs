//! What experiments with real nodes share: where the programs are, models, origins of figures, files of results.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::devices::Program;

/// What runs the models.
#[derive(Debug, clap::Args)]
pub struct Programs {
    /// The `defer` command [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    defer: Option<PathBuf>,
    /// The ONNX Runtime library, or a folder that holds it [default: the one that `defer` finds]
    #[arg(long, value_name = "PATH")]
    pub(crate) onnxruntime: Option<PathBuf>,
}

/// What `defer engine list` says of an engine.
#[derive(Deserialize)]
struct Listed {
    engine: String,
    path: Option<PathBuf>,
    refused: Option<String>,
}

impl Programs {
    /// This `defer` command, and models by what it finds itself.
    #[must_use]
    pub fn at(defer: &Path) -> Programs {
        Programs { defer: Some(defer.to_owned()), onnxruntime: None }
    }

    /// The `defer` command.
    pub(crate) fn defer(&self) -> Result<PathBuf> {
        let own = std::env::current_exe().context("cannot find the path of this program")?;
        let defer = self.defer.clone().unwrap_or_else(|| own.with_file_name("defer"));
        ensure!(
            defer.exists(),
            "`{}` does not exist; `cargo build --release -p cli` makes it",
            defer.display()
        );
        Ok(defer)
    }

    /// The ONNX Runtime library: the one that was said, or that `defer` finds for its user. Devices have a cache of their
    /// own, where there is none.
    pub(crate) fn library(&self, defer: &Path) -> Option<PathBuf> {
        self.onnxruntime.clone().or_else(|| {
            let listed = Command::new(defer).args(["engine", "list", "--json"]).output().ok()?;
            let text = String::from_utf8(listed.stdout).ok()?;
            let engines = text.lines().filter_map(|line| serde_json::from_str::<Listed>(line).ok());
            let usable = |listed: &Listed| listed.engine == "onnxruntime" && listed.refused.is_none();
            engines.filter(usable).find_map(|listed| listed.path)
        })
    }
}

/// Items of a run: what is noted of each is kept until its end.
pub(crate) const MOST_ITEMS: usize = 1_000_000;

/// Devices of a cluster that is only planned for: that takes seconds for hundreds.
pub(crate) const MOST_PLANNED: usize = 256;

/// Repeats of a run: all are listed before the first.
pub(crate) const MOST_REPEATS: usize = 1000;

/// The version of experiments' files that this program reads.
const VERSION: i64 = 1;

/// Reads an experiment. Its version is looked at first: what else another one holds is not known.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let shown = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read the experiment `{shown}`"))?;
    let no_experiment = || format!("`{shown}` is no experiment");
    let mut table: toml::Table = toml::from_str(&text).with_context(no_experiment)?;
    match table.remove("version") {
        Some(toml::Value::Integer(VERSION)) => {}
        Some(version) => bail!("`{shown}` has version {version}, this reads {VERSION}"),
        None => bail!("`{shown}` does not say its `version`, which is {VERSION}"),
    }
    table.try_into().with_context(no_experiment)
}

/// The folder of an experiment, and what it is called there.
///
/// # Errors
/// When the path ends without a name.
pub(crate) fn place(experiment: &Path) -> Result<(&Path, String)> {
    let name = experiment.file_stem().context("an experiment without a name")?.to_string_lossy().into_owned();
    let folder = experiment.parent().filter(|folder| !folder.as_os_str().is_empty());
    Ok((folder.unwrap_or(Path::new(".")), name))
}

/// An experiment for this process alone: two would write the same results, and disturb each other.
///
/// # Errors
/// When another process has it.
pub(crate) fn hold(experiment: &Path) -> Result<File> {
    let shown = experiment.display();
    let file = File::open(experiment).with_context(|| format!("cannot read `{shown}`"))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => bail!("`{shown}` is being run already: wait for that, or end it"),
        // Some file systems have no locks.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// Whether a run is long enough to be measured.
pub(crate) fn check_items(path: &Path, warm_up: usize, items: usize) -> Result<()> {
    let shown = path.display();
    ensure!(warm_up >= 1 && items >= 2, "`{shown}` needs at least one item to warm up and two to measure");
    ensure!(
        warm_up <= MOST_ITEMS && items <= MOST_ITEMS,
        "`{shown}` asks for {} items in a run, {MOST_ITEMS} are the most",
        warm_up.max(items)
    );
    Ok(())
}

/// The file of a model: the one in `models/` beside the folder of experiments, or one of the zoo, made in `work` now.
pub(crate) fn model(name: &str, folder: &Path, work: &Path, program: &Program<'_>) -> Result<PathBuf> {
    let vendored = folder.join("../models").join(format!("{name}.onnx"));
    if vendored.exists() {
        return Ok(vendored);
    }
    let path = work.join(format!("{name}.onnx"));
    if !path.exists() {
        let made = Command::new(program.path).args(["zoo", name, "--quiet", "-o"]).arg(&path).output();
        let made = made.with_context(|| format!("cannot start {}", program.path.display()))?;
        let message = String::from_utf8_lossy(&made.stderr);
        ensure!(made.status.success(), "there is no model `{name}`: {}", message.trim());
    }
    Ok(path)
}

/// What measured.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// The processor and the number of its cores.
    pub(crate) machine: String,
    pub(crate) commit: String,
}

impl Origin {
    /// This machine, and what is checked out before anything is written.
    pub(crate) fn now() -> Origin {
        Origin { machine: machine(), commit: commit() }
    }
}

fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = info.lines().find_map(|line| line.strip_prefix("model name"));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let name = named.unwrap_or("unknown").trim_start_matches([' ', '\t', ':']).trim();
    format!("{name}{}, {cores} cores", vectors())
}

/// The widest vectors of the processor: clouds give processors of several generations the same name, and engines are twice as
/// fast on some.
#[cfg(target_arch = "x86_64")]
fn vectors() -> &'static str {
    match (is_x86_feature_detected!("avx512vnni"), is_x86_feature_detected!("avx512f")) {
        (true, _) => " with AVX-512 VNNI",
        (false, true) => " with AVX-512",
        (false, false) => "",
    }
}

/// As other processors are called what they are.
#[cfg(not(target_arch = "x86_64"))]
fn vectors() -> &'static str {
    ""
}

/// The commit that is checked out, with a mark when files differ from it, but for those that experiments write; empty
/// without git.
fn commit() -> String {
    let git = |args: &[&str]| Command::new("git").args(args).output().ok();
    let described = git(&["describe", "--always", "--abbrev=12"]).filter(|output| output.status.success());
    let Some(described) = described else { return String::new() };
    let commit = String::from_utf8_lossy(&described.stdout).trim().to_owned();
    let written = ["experiments/results", "experiments/figures", "experiments/*.md", "docs/evaluation.*"];
    let but_for = written.map(|paths| format!(":(top,exclude,glob){paths}"));
    let all = ["diff", "--quiet", "HEAD", "--", ":/"].into_iter().chain(but_for.iter().map(String::as_str));
    match git(&all.collect::<Vec<_>>()) {
        Some(output) if output.status.success() => commit,
        _ => commit + "-dirty",
    }
}

/// Writes `results/NAME.ndjson`, a line for each row, and `NAME.md` into the folder of experiments.
pub(crate) fn write(folder: &Path, name: &str, rows: &[impl Serialize], text: &str) -> Result<()> {
    let lines = rows.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
    save(&results(folder, name)?, &(lines.join("\n") + "\n"))?;
    page(folder, name, text)
}

/// Adds a line to `results/NAME.ndjson`.
pub(crate) fn append(folder: &Path, name: &str, row: &impl Serialize) -> Result<()> {
    let path = results(folder, name)?;
    let line = serde_json::to_string(row)? + "\n";
    let file = OpenOptions::new().append(true).create(true).open(&path);
    let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
    written.with_context(|| format!("cannot write `{}`", path.display()))
}

/// Writes `NAME.md`.
pub(crate) fn page(folder: &Path, name: &str, text: &str) -> Result<()> {
    save(&folder.join(format!("{name}.md")), text)
}

/// Where the results of an experiment are, in a folder that is there.
pub(crate) fn results(folder: &Path, name: &str) -> Result<PathBuf> {
    let results = folder.join("results");
    fs::create_dir_all(&results).with_context(|| format!("cannot make `{}`", results.display()))?;
    Ok(results.join(format!("{name}.ndjson")))
}

/// Writes a file into a folder that is made if it is not there.
pub(crate) fn save(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write `{}`", path.display()))
}
