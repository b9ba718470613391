//! The files that `defer plan` writes.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use pipeline::Prepared;
use plan::Plan;

use super::Args;
use crate::failure::Hint;
use crate::output::plan::{PlanReport, page, picture};
use crate::plan_file::PlanFile;
use crate::preprocess::beside;

/// The name of the device configuration in an ONNX file.
const CONFIGURATION: &str = "defer";

/// What to do when a file cannot be written.
const ELSEWHERE: &str = "name a file in a folder that you may write to";

/// What there is to write.
pub(super) struct Written<'a> {
    pub(super) prepared: &'a Prepared,
    pub(super) plan: &'a Plan,
    pub(super) report: &'a PlanReport,
    pub(super) file: &'a PlanFile,
}

impl Written<'_> {
    /// Writes what the flags ask for.
    pub(super) fn write(&self, args: &Args) -> Result<()> {
        if let Some(path) = &args.output {
            write(path, &self.file.text(self.report))?;
        }
        if let Some(path) = &args.svg {
            write(path, &picture::file(self.report))?;
        }
        if let Some(path) = &args.html {
            write(path, &page::file(self.report))?;
        }
        args.onnx.as_deref().map_or(Ok(()), |path| self.annotated(path))
    }

    /// The simplified model, which is the one that is cut.
    fn annotated(&self, path: &Path) -> Result<()> {
        let stages: Vec<_> = self.plan.stages.iter().map(|stage| self.prepared.positions(stage)).collect();
        let devices: Vec<String> = self.file.layout.devices().map(str::to_owned).collect();
        let model = self.prepared.model.annotate(CONFIGURATION, &devices, &stages);
        model.save(path).with_context(|| format!("cannot write `{}`", path.display())).hint(ELSEWHERE)
    }
}

/// Refuses files that cannot be written, before anything is measured or searched; and to write over what is read, over
/// another file that is written, or where photo settings are looked for.
pub(super) fn check(args: &Args) -> Result<()> {
    check_apart(args)?;
    for path in outputs(args).into_iter().filter_map(|(_, path)| path.as_ref()) {
        let tried = try_to_write(path).with_context(|| format!("cannot write `{}`", path.display()));
        tried.hint(ELSEWHERE)?;
    }
    Ok(())
}

/// The files that are written, by flag.
fn outputs(args: &Args) -> [(&'static str, &Option<PathBuf>); 5] {
    [
        ("--output", &args.output),
        ("--svg", &args.svg),
        ("--html", &args.html),
        ("--onnx", &args.onnx),
        ("--costs", &args.costs),
    ]
}

/// Whether a file can be written, which is left as it is.
fn try_to_write(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(there) if there.is_file() || there.is_dir() => File::options().write(true).open(path).map(drop),
        // A pipe would wait for its reader, and a terminal needs no check.
        Ok(_) => Ok(()),
        Err(_) if path.is_symlink() => Ok(()),
        Err(_) => File::create_new(path).and_then(|_| fs::remove_file(path)),
    }
}

fn check_apart(args: &Args) -> Result<()> {
    let place = |path: &PathBuf| fs::canonicalize(path).or_else(|_| std::path::absolute(path));
    let mut taken: Vec<(&str, PathBuf)> = Vec::new();
    let settings = beside(&args.model);
    let inputs = [
        ("the model", Some(&args.model)),
        ("the photo settings of the model", Some(&settings)),
        ("--cluster", args.cluster.as_ref()),
        ("--check", args.check.as_ref()),
    ];
    for (name, path) in inputs {
        // What is not there is reported by whoever reads it.
        taken.extend(path.and_then(|path| Some((name, place(path).ok()?))));
    }
    for (name, path) in outputs(args) {
        let Some(path) = path else { continue };
        let place = place(path).with_context(|| format!("cannot write `{}`", path.display()))?;
        if let Some((other, _)) = taken.iter().find(|(_, other)| *other == place) {
            return Err(anyhow!("{name} would write over `{}`, which is for {other}", path.display()))
                .hint("give it another name");
        }
        taken.push((name, place));
    }
    Ok(())
}

/// Writes a text file.
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write `{}`", path.display())).hint(ELSEWHERE)
}
