//! The files that `defer plan` writes.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use pipeline::Prepared;
use plan::Plan;

use super::Args;
use crate::failure::Hint;
use crate::output::plan::{PlanReport, page, picture};
use crate::plan_file::PlanFile;

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

/// Writes a text file.
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write `{}`", path.display())).hint(ELSEWHERE)
}
