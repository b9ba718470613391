//! What `defer` prints and writes: answers, tables, NDJSON, `.npz` files, progress.
//!
//! Results go to stdout, everything else to stderr, so that a pipe sees results only.

pub(crate) mod answer;
pub(crate) mod difference;
pub(crate) mod files;
pub(crate) mod json;
pub(crate) mod plan;
pub(crate) mod progress;
pub(crate) mod report;
pub(crate) mod results;
pub(crate) mod table;

use std::io::{self, Write};

use anyhow::Result;

/// Text from elsewhere without control characters, which could rule a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Prints one line of a result.
pub(crate) fn line(text: impl std::fmt::Display) -> Result<()> {
    Ok(writeln!(io::stdout().lock(), "{text}")?)
}

/// Prints one JSON document on a line of its own.
pub(crate) fn json_line(value: &impl serde::Serialize) -> Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    Ok(out.write_all(b"\n")?)
}
