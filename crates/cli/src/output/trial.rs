//! What trying codecs that lose something found: the part of a run's report that says what was given up, and for what.

use pipeline::{CodecTrial, Deviation};
use serde::{Serialize, Serializer};

use super::json::optional_float;
use super::table::Column::{Number, Text};
use super::table::table;

/// The trial of a chain's codecs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TrialReport {
    /// Items tried.
    items: usize,
    /// Whether they were made up.
    arbitrary: bool,
    /// Whether the codecs were those of a plan file.
    of_plan_file: bool,
    /// The limits: shares, 0 to 1.
    least_agreement: f64,
    most_error: f64,
    /// With the codecs that are used, all links together.
    #[serde(flatten)]
    together: Moved,
    /// What was tried on single links; one that lost a coarse codec and then a half is here twice.
    links: Vec<LinkRow>,
}

/// One codec on one link.
#[derive(Clone, Debug, Serialize)]
struct LinkRow {
    from: String,
    to: String,
    tried: String,
    /// With all other links raw.
    #[serde(flatten)]
    alone: Moved,
    chosen: String,
}

/// How far the outputs moved.
#[derive(Clone, Debug, Serialize)]
struct Moved {
    /// Least share of decisions that stayed the same.
    agreement: f64,
    /// Largest error over the range of its output.
    #[serde(serialize_with = "float")]
    error: f64,
    outputs: Vec<OutputRow>,
}

/// One output.
#[derive(Clone, Debug, Serialize)]
struct OutputRow {
    name: String,
    agreement: f64,
    /// The largest difference.
    #[serde(serialize_with = "float")]
    absolute_error: f64,
    /// The same over the output's range.
    #[serde(serialize_with = "float")]
    error: f64,
}

fn float<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    optional_float(&Some(*value), serializer)
}

impl TrialReport {
    /// The report on a trial; `nodes` are the names of the chain's nodes.
    pub(crate) fn new(trial: &CodecTrial, nodes: &[String]) -> TrialReport {
        let node = |stage: Option<usize>| {
            let node = stage.and_then(|stage| nodes.get(stage));
            node.map_or_else(|| "the dispatcher".to_owned(), String::clone)
        };
        let row = |link: &pipeline::TriedLink| LinkRow {
            from: node(link.link.checked_sub(1)),
            to: node(Some(link.link)),
            tried: link.tried.to_string(),
            alone: Moved::of(&link.alone),
            chosen: link.chosen.to_string(),
        };
        TrialReport {
            items: trial.items,
            arbitrary: trial.arbitrary,
            of_plan_file: trial.of_layout,
            least_agreement: trial.limits.agreement,
            most_error: trial.limits.error,
            together: Moved::of(trial.deviation()),
            links: trial.links.iter().map(row).collect(),
        }
    }

    /// The report for people, several lines.
    pub(crate) fn text(&self) -> String {
        let kind = if self.arbitrary { "made-up items" } else { "items" };
        let whose = if self.of_plan_file { "codecs of the plan file" } else { "codecs" };
        let mut text = match self.items {
            0 => format!("{whose}: no item could be tried, so that coarse ones were not used"),
            items => format!(
                "{whose} tried on {items} {kind}, to keep {} % of top-1 and {} % of an output's range",
                percent(self.least_agreement),
                percent(self.most_error)
            ),
        };
        let columns = [
            Text("link"),
            Text("tried"),
            Number("top-1 kept (%)"),
            Number("error (% of range)"),
            Text("chosen"),
        ];
        let row = |link: &LinkRow| {
            let LinkRow { from, to, tried, alone, chosen } = link;
            let way = format!("{from} to {to}");
            vec![way, tried.clone(), percent(alone.agreement), percent(alone.error), chosen.clone()]
        };
        text += &format!("\n{}", table(&columns, self.links.iter().map(row)));
        if self.items > 0 {
            let Moved { agreement, error, .. } = &self.together;
            text += &format!(
                "\nall links together: {} % of top-1 kept, error {} % of the range",
                percent(*agreement),
                percent(*error)
            );
        }
        text
    }
}

impl Moved {
    fn of(deviation: &Deviation) -> Moved {
        let output = |output: &pipeline::OutputDeviation| OutputRow {
            name: output.name.clone(),
            agreement: output.agreement(),
            absolute_error: output.error,
            error: output.relative_error,
        };
        Moved {
            agreement: deviation.agreement(),
            error: deviation.relative_error(),
            outputs: deviation.outputs.iter().map(output).collect(),
        }
    }
}

/// A share as people read it: as many digits as tell something.
fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    let rounded = if percent < 1.0 { format!("{percent:.3}") } else { format!("{percent:.1}") };
    match rounded.trim_end_matches('0').trim_end_matches('.') {
        "" => "0".to_owned(),
        short if rounded.contains('.') => short.to_owned(),
        _ => rounded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pipeline::{Limits, OutputDeviation, TriedLink};

    fn deviation(agreeing: u64, relative_error: f64) -> Deviation {
        let (name, decisions) = ("y".to_owned(), 16);
        Deviation { outputs: vec![OutputDeviation { name, decisions, agreeing, error: 2.0, relative_error }] }
    }

    fn trial(items: usize) -> CodecTrial {
        let codec = |name: &str| name.parse::<wire::Codec>().unwrap();
        let link = |link, agreeing, error, chosen| TriedLink {
            link,
            tried: codec("u8"),
            alone: deviation(agreeing, error),
            chosen: codec(chosen),
        };
        let links = vec![
            link(0, 16, 0.0, "u8"),
            link(1, 15, f64::INFINITY, "bf16+shuffle+lz4"),
            link(2, 16, 0.0123, "u8"),
            TriedLink { tried: codec("f16"), ..link(2, 16, 0.0123, "lz4") },
        ];
        let rounds = vec![(vec![codec("u8"); 3], deviation(14, 0.5)), (vec![], deviation(16, 0.0042))];
        CodecTrial { limits: Limits::default(), items, arbitrary: false, of_layout: false, links, rounds }
    }

    #[test]
    fn people_and_programs_read_what_was_tried_and_what_is_used() {
        let report = TrialReport::new(&trial(16), &["left", "right"].map(str::to_owned));
        let text = report.text();
        for part in [
            "codecs tried on 16 items, to keep 99.8 % of top-1 and 5 % of",
            "the dispatcher to left",
            "left to right",
            "right to the dispatcher",
            "93.8",
            "inf",
            "1.2",
            "bf16+shuffle+lz4",
            "f16 ",
            "together: 100 % of top-1 kept, error 0.42 % of the range",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        for line in text.lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["links"][1]["error"], "Infinity");
        assert_eq!(json["links"][1]["chosen"], "bf16+shuffle+lz4");
        assert_eq!((&json["agreement"], &json["error"]), (&1.0.into(), &0.0042.into()));
        assert_eq!(json["outputs"][0]["absolute_error"], 2.0);
        assert_eq!((&json["of_plan_file"], &json["links"][3]["tried"]), (&false.into(), &"f16".into()));
        let of_layout = CodecTrial { of_layout: true, ..trial(16) };
        let text = TrialReport::new(&of_layout, &["left", "right"].map(str::to_owned)).text();
        assert!(text.starts_with("codecs of the plan file tried on 16 items"), "{text}");
        assert!(
            TrialReport::new(&trial(0), &["left", "right"].map(str::to_owned))
                .text()
                .contains("no item could be tried")
        );
    }

    #[test]
    fn shares_keep_the_digits_that_tell_something() {
        for (share, text) in [
            (0.0, "0"),
            (1.0, "100"),
            (0.998, "99.8"),
            (0.05, "5"),
            (0.1, "10"),
            (0.0042, "0.42"),
            (0.00001, "0.001"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(percent(share), text);
        }
    }
}
