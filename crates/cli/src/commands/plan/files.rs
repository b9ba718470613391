//! The files that `defer plan` writes.

use std::fs;
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

/// Refuses to write over what is read, over another file that is written, or where photo settings are looked for.
pub(super) fn check_apart(args: &Args) -> Result<()> {
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
    let outputs = [
        ("--output", &args.output),
        ("--svg", &args.svg),
        ("--html", &args.html),
        ("--onnx", &args.onnx),
        ("--costs", &args.costs),
    ];
    for (name, path) in outputs {
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
