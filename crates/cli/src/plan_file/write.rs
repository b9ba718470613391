//! From a [`PlanFile`] to its text.

use std::fmt::Write;

use super::{PlanFile, VERSION};
use crate::output::plan::{HopRow, PlanReport, StageRow};
use crate::output::printable;
use crate::output::report::{kilobytes, size};

pub(super) fn plan(plan: &PlanFile, report: &PlanReport) -> String {
    let mut text = String::new();
    let mut say = |line: String| writeln!(text, "{line}").expect("writing to a string cannot fail");
    say("# Judged by `defer plan MODEL --check FILE`, deployed by `defer run MODEL INPUT --plan FILE`."
        .to_owned());
    // What holds for the plan alone: what else there is changes with the devices.
    let said =
        report.sentences().into_iter().filter(|(about, _)| !["other rules", "outlook"].contains(about));
    said.for_each(|(about, what)| say(comment(&format!("{about}: {what}"))));
    let layout = &plan.layout;
    say(format!("version = {VERSION}"));
    say(format!("model = {}", quoted(&plan.model)));
    say(format!("model_hash = \"{}\"", plan.model_hash));
    if let Some(back) = report.hops.last() {
        say(format!("\n# Results: {}.", hop(back)));
    }
    say(format!("result_codec = \"{}\"", layout.result_codec));
    for (i, stage) in layout.stages.iter().enumerate() {
        say(String::new());
        if let (Some(row), Some(into)) = (report.stages.get(i), report.hops.get(i)) {
            figures(row, into).into_iter().for_each(&mut say);
        }
        say("[[stage]]".to_owned());
        let devices: Vec<String> = stage.devices.iter().map(|name| quoted(name)).collect();
        say(format!("devices = [{}]", devices.join(", ")));
        say(format!("codec = \"{}\"", stage.codec));
        if let Some(cut) = &stage.cut {
            say(format!("cut = {}", quoted(cut)));
        }
    }
    text
}

/// What was predicted of a stage.
fn figures(stage: &StageRow, into: &HopRow) -> Vec<String> {
    let weights = size(stage.weight_bytes);
    let own = format!("Stage {}: {} operators, {weights} of weights", stage.stage, stage.operators);
    let mut lines = vec![comment(&format!("{own}; in: {}.", hop(into)))];
    lines.extend(stage.devices.iter().map(|device| {
        comment(&format!(
            "{}: {:.0} % of the items, {:.2} ms for each, {} of memory, {:.0} % busy",
            device.device,
            100.0 * device.share,
            device.busy_ms,
            size(device.memory_bytes),
            100.0 * device.busy
        ))
    }));
    lines
}

fn hop(hop: &HopRow) -> String {
    format!("{} KB per item, link {:.0} % busy", kilobytes(hop.bytes as f64), 100.0 * hop.busy())
}

/// One line: names in it come from files and peers, and must not end it.
fn comment(text: &str) -> String {
    format!("# {}", printable(text))
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
