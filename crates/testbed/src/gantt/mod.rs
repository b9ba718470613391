//! A Gantt picture of a few items on their way through a chain, from what `defer run --trace` wrote.

mod picture;
mod trace;

use std::ops::RangeInclusive;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::common;
use picture::Picture;
use trace::Trace;

/// Items that are shown where nobody says which.
const ITEMS: u64 = 6;

/// Draw a few items on their way through a chain, from a file that `defer run --trace` wrote
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The trace
    trace: PathBuf,
    /// Where the picture is written
    #[arg(long, short, value_name = "FILE.svg")]
    output: PathBuf,
    /// The items that are shown, both named ones included [default: six from the middle, at steady state]
    #[arg(long, value_name = "FROM..TO", value_parser = items)]
    items: Option<RangeInclusive<u64>>,
    /// What stands above it [default: the name of the model]
    #[arg(long)]
    title: Option<String>,
}

pub(crate) fn execute(args: &Args) -> Result<()> {
    let shown = args.trace.display();
    let text = std::fs::read_to_string(&args.trace).with_context(|| format!("cannot read `{shown}`"))?;
    let svg =
        drawn(&text, args.title.as_deref(), args.items.clone()).with_context(|| format!("`{shown}`"))?;
    common::save(&args.output, &svg)
}

/// The picture of a trace, as SVG.
///
/// # Errors
/// When it is no trace, or has none of the items.
pub(crate) fn drawn(trace: &str, title: Option<&str>, items: Option<RangeInclusive<u64>>) -> Result<String> {
    let trace = Trace::read(trace)?;
    let items = items.or_else(|| middle(&trace)).context("the trace has no items")?;
    let title = title.unwrap_or(&trace.model);
    picture::draw(&Picture::new(&trace, title, items)?)
}

/// Some items from the middle of those of which all is known.
fn middle(trace: &Trace) -> Option<RangeInclusive<u64>> {
    let (first, last) = (trace.first_whole()?, trace.last()?);
    let count = ITEMS.min(last - first + 1);
    let from = first + (last - first + 1 - count) / 2;
    Some(from..=from + count - 1)
}

fn items(text: &str) -> Result<RangeInclusive<u64>, String> {
    let range = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..=to.parse().ok()?));
    range.filter(|range: &RangeInclusive<u64>| !range.is_empty()).ok_or_else(|| "say it as 40..45".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_a_range() {
        assert_eq!(items("40..45"), Ok(40..=45));
        assert_eq!(items("7..7"), Ok(7..=7));
        for wrong in ["", "4", "5..4", "a..b", "1..=2", "-1..2"] {
            assert!(items(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_middle_is_shown_of_what_is_whole() {
        let of = |items: &[u64]| {
            let events = items.iter().map(|item| trace::tests::event(1, "compute", *item, *item as f64, 0.5));
            middle(&Trace::read(&trace::tests::document(&events.collect::<Vec<_>>(), 1)).unwrap())
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[3, 4]), Some(4..=4), "of the first that was kept, steps may be missing");
        assert_eq!(of(&(0..100).collect::<Vec<_>>()), Some(47..=52));
    }
}
