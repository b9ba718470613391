//! The evaluation as one document: what is claimed and what was measured of it, beside what others measured, and then the
//! page of each experiment. Written as Markdown, and as one HTML page that needs no other file.
//!
//! Nothing runs: figures come from `results/`, pages and pictures from the experiments' own.

mod agreement;
mod claims;
mod html;
mod pages;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::common;
use crate::grid::{Experiment, Row, read_rows};
use claims::{Claim, Peers};

/// Write docs/evaluation.md and docs/evaluation.html from the results of experiments that were run
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What the report holds
    #[arg(default_value = "experiments/report.toml")]
    report: PathBuf,
    /// The folder that it goes to
    #[arg(short, long, default_value = "docs", value_name = "FOLDER")]
    output: PathBuf,
}

/// The file of a report.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Report {
    title: String,
    /// What stands below it.
    text: String,
    claim: Vec<Claim>,
    /// What is said of the claims.
    #[serde(default)]
    claims_text: String,
    #[serde(default)]
    peers: Vec<Peers>,
    /// Of what others measured.
    #[serde(default)]
    peers_text: String,
    /// The experiments whose predictions are held against what was measured.
    #[serde(default)]
    predicted: Vec<String>,
    /// What is said of where they differ.
    #[serde(default)]
    predicted_text: String,
    /// The experiments whose pages follow, in their order.
    pages: Vec<String>,
}

pub(crate) fn execute(args: &Args) -> Result<()> {
    let report: Report = common::read(&args.report)?;
    let (folder, _) = common::place(&args.report)?;
    check(&report, folder)?;
    let rows = |experiment: &str| -> Result<Vec<Row>> { read_rows(&common::results(folder, experiment)?) };
    let mut text = format!("# {}\n\n{}\n", report.title, report.text.trim());
    let headlines = claims::headlines(&report.claim, &rows)?;
    if !headlines.is_empty() {
        text += &format!("\n## In short\n\n{headlines}");
    }
    text += &format!("\n## What was to be reached\n\n{}\n", claims::table(&report.claim, &rows)?);
    text += &section(&report.claims_text);
    let reasons = claims::reasons(&report.claim, &rows)?;
    if !reasons.is_empty() {
        text += &format!("\nWhat is missed, and why:\n\n{reasons}");
    }
    if let Some(exceptions) = agreement::exceptions(&report.predicted, &rows)? {
        let said = section(&report.predicted_text);
        text += &format!("\n## Predicted, simulated and measured\n{said}\n{exceptions}");
    }
    if !report.peers.is_empty() {
        text += &format!("\n## Beside others\n{}", section(&report.peers_text));
        for peers in &report.peers {
            text += &format!("\n### {}\n\n{}", peers.title, peers.table(&rows)?);
        }
    }
    let relative = pages::between(&args.output, folder)?;
    for name in &report.pages {
        text += &format!("\n{}", pages::included(folder, name, &relative)?);
    }
    text += "\n---\n\nWritten by `defer-testbed report`.\n";
    let path = args.output.join("evaluation.md");
    common::save(&path, &text)?;
    let page = html::page(&report.title, &text, &args.output).context("cannot make the page")?;
    common::save(&path.with_extension("html"), &page)
}

/// Whether all that it speaks of is run by some experiment beside it: a name that is spelt wrong is no run that is missing.
fn check(report: &Report, folder: &Path) -> Result<()> {
    let read = |name: &str| Experiment::read(&folder.join(format!("{name}.toml")));
    for claim in &report.claim {
        ensure!(claim.is_of(&read)?, "the claim `{}` speaks of what is not run", claim.what());
        ensure!(
            claim.headline_shows_it(),
            "the headline of `{}` has no place for the figure: {{}}",
            claim.what()
        );
    }
    for peers in &report.peers {
        ensure!(peers.is_of(&read)?, "`{}` shows what is not run", peers.title);
    }
    report.predicted.iter().try_for_each(|name| read(name).map(drop))
}

/// A paragraph of its own, if there is one.
fn section(text: &str) -> String {
    if text.trim().is_empty() { String::new() } else { format!("\n{}\n", text.trim()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_asks_for_what_is_run() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../experiments");
        let report: Report = common::read(&folder.join("report.toml")).unwrap();
        check(&report, &folder).unwrap();
        let mut other: Report = common::read(&folder.join("report.toml")).unwrap();
        other.claim.truncate(1);
        other.claim[0].rename("nobody");
        let error = check(&other, &folder).unwrap_err().to_string();
        assert!(error.contains("speaks of what is not run"), "{error}");
    }
}
