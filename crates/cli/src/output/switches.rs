//! Links that changed their codec while items flowed: the part of a run's report that says when, and why.

use pipeline::CodecSwitch;
use serde::Serialize;

use super::table::Column::{Number, Text};
use super::table::table;

/// One change of one link.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SwitchRow {
    from: String,
    to: String,
    codec_before: String,
    codec: String,
    /// The first item that certainly travelled so, from 0.
    item: u64,
    /// Between two results as it was seen before, ms.
    period_ms: f64,
    /// The same as it was expected.
    expected_period_ms: f64,
}

impl SwitchRow {
    /// What is said of a switch; `nodes` are the names of the chain's nodes.
    pub(crate) fn new(switch: &CodecSwitch, nodes: &[String]) -> SwitchRow {
        let node = |stage: Option<usize>| {
            let node = stage.and_then(|stage| nodes.get(stage));
            node.map_or_else(|| "the dispatcher".to_owned(), String::clone)
        };
        SwitchRow {
            from: node(switch.link.checked_sub(1)),
            to: node(Some(switch.link)),
            codec_before: switch.from.to_string(),
            codec: switch.to.to_string(),
            item: switch.item,
            period_ms: switch.period * 1e3,
            expected_period_ms: switch.expected_period * 1e3,
        }
    }
}

/// The report for people, several lines.
pub(crate) fn text(rows: &[SwitchRow]) -> String {
    let columns = [
        Text("link"),
        Text("codec before"),
        Text("then"),
        Number("from item"),
        Number("period (ms)"),
        Number("expected (ms)"),
    ];
    let row = |row: &SwitchRow| {
        vec![
            format!("{} to {}", row.from, row.to),
            row.codec_before.clone(),
            row.codec.clone(),
            row.item.to_string(),
            format!("{:.2}", row.period_ms),
            format!("{:.2}", row.expected_period_ms),
        ]
    };
    format!(
        "codecs that changed meanwhile, as results came too slowly\n{}",
        table(&columns, rows.iter().map(row))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_and_programs_read_which_link_changed_and_why() {
        let codec = |name: &str| name.parse::<wire::Codec>().unwrap();
        let nodes = ["left", "right"].map(str::to_owned);
        let switch = |link| CodecSwitch {
            link,
            from: codec("raw"),
            to: codec("f16+bitmap"),
            item: 1234,
            period: 0.3256,
            expected_period: 0.125,
        };
        let rows: Vec<SwitchRow> = (0..3).map(|link| SwitchRow::new(&switch(link), &nodes)).collect();
        let text = text(&rows);
        let parts = ["the dispatcher to left", "left to right", "right to the dispatcher"];
        for part in parts.iter().chain(&["raw", "f16+bitmap", "1234", "325.60", "125.00"]) {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        for line in text.lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
        let json = serde_json::to_value(&rows[1]).unwrap();
        assert_eq!(
            (&json["from"], &json["to"], &json["item"]),
            (&"left".into(), &"right".into(), &1234.into())
        );
        assert_eq!((&json["codec_before"], &json["codec"]), (&"raw".into(), &"f16+bitmap".into()));
        assert_eq!(json["expected_period_ms"], 125.0);
    }
}
