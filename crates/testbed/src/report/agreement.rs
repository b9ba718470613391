//! Where what was predicted, simulated and measured differ by more than they should. Pure, but for reading results.

use anyhow::Result;

use super::claims::{Results, traced};
use crate::grid::{Row, StageErrors};
use crate::kinds::{counting, kinds, over};
use crate::stream::median;
use crate::table::markdown;

/// They agree within this share.
const CLOSE: f64 = 0.05;

/// Chains of fewer say little of how stages differ.
const LEAST_STAGES: usize = 4;

/// One configuration of a model on a cluster: what was measured over what had been said.
struct Held {
    place: Vec<String>,
    predicted: f64,
    simulated: Option<f64>,
    corrected: Option<f64>,
    lines: String,
}

impl Held {
    fn of(experiment: &str, kind: &[&Row]) -> Option<Held> {
        let rows = counting(kind, |row| row.disturbed, Row::compute_cpu_ms);
        let first = rows[0];
        if first.side_by_side {
            return None; // nobody said anything of them
        }
        let all = |period: &dyn Fn(&Row) -> Option<f64>| {
            let known = rows.iter().all(|row| period(row).is_some());
            known.then(|| over(&rows, |row| period(row).map_or(f64::NAN, |period| period / row.period_ms)))
        };
        Some(Held {
            place: [&first.model, &first.cluster, &first.configuration].map(String::clone).to_vec(),
            predicted: over(&rows, |row| row.predicted.period_ms / row.period_ms),
            simulated: all(&Row::simulated_period_ms),
            corrected: all(&|row| row.corrected.as_ref().map(|corrected| corrected.period_ms)),
            lines: traced(experiment, rows.iter().copied()),
        })
    }

    fn agrees(&self) -> bool {
        let close = |ratio: f64| (ratio - 1.0).abs() <= CLOSE;
        close(self.predicted) && self.simulated.is_none_or(close)
    }

    fn cells(&self) -> Vec<String> {
        let shown = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.3}"));
        let figures = [Some(self.predicted), self.simulated, self.corrected].map(shown);
        self.place.iter().cloned().chain(figures).chain([self.lines.clone()]).collect()
    }
}

/// Those that do not agree, with how many do; nothing before there are any runs.
pub(super) fn exceptions(experiments: &[String], results: &Results<'_>) -> Result<Option<String>> {
    let (mut agreeing, mut others, mut chains) = (0, Vec::new(), Vec::new());
    for experiment in experiments {
        let rows = results(experiment)?;
        chains.extend(
            rows.iter().filter(|row| !row.disturbed).filter_map(|row| row.stage_errors(LEAST_STAGES)),
        );
        let name = |row: &Row| (row.cluster.clone(), row.model.clone(), row.configuration.clone());
        for held in kinds(rows.iter(), name).iter().filter_map(|kind| Held::of(experiment, kind)) {
            if held.agrees() {
                agreeing += 1;
            } else {
                others.push(held.cells());
            }
        }
    }
    let all = agreeing + others.len();
    if all == 0 {
        return Ok(None);
    }
    let mut text = format!(
        "Of {all} configurations in {}, {agreeing} were as fast as predicted and simulated within {:.0} %.",
        experiments.join(", "),
        CLOSE * 100.0
    );
    if !others.is_empty() {
        let header = [
            "model",
            "cluster",
            "configuration",
            "measured / predicted",
            "measured / simulated",
            "measured / corrected",
            "lines of `experiments/results/`",
        ];
        text += &format!(" The others:\n\n{}", markdown(&header, &others));
    }
    text += &stages(&chains);
    Ok(Some(text))
}

/// What stages of chains had in common.
fn stages(chains: &[StageErrors]) -> String {
    if chains.is_empty() {
        return String::new();
    }
    let per_cent = |of: fn(&StageErrors) -> f64| 100.0 * median(chains.iter().map(of).collect());
    format!(
        "\nIn chains of {LEAST_STAGES} nodes and more, how long stages were busy by the CPU time of their nodes differed from \
         what was predicted by {:+.1} % in the mean, and each by {:.1} % from that (standard deviation); the longest \
         differed by {:+.1} % from the longest that was predicted (medians of {} runs).\n",
        per_cent(|chain| chain.mean - 1.0),
        per_cent(|chain| chain.deviation),
        per_cent(|chain| chain.longest - 1.0),
        chains.len(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(configuration: &str, predicted_ms: f64, simulated_ms: f64) -> Row {
        let prediction = |ms: f64| format!(r#"{{"period_ms":{ms},"latency_ms":1.0,"bottleneck":"a"}}"#);
        let text = format!(
            r#"{{"cluster":"c","model":"m","configuration":"{configuration}","repeat":0,"engine":"e","warm_up":1,"items":2,
            "input_codec":"raw","stages":[],"predicted":{},"corrected":{},
            "simulated":{{"period_ms":{simulated_ms},"latency_ms":1.0,"latency_ms_p99":1.0}},
            "period_ms":100.0,"drift":1.0,"latency_ms":1.0,"latency_ms_p99":1.0,"first_result_ms":1.0,"shipped_bytes":0,
            "disturbance":{{"foreign_cores":0.0,"softirq_cores":0.0,"steal_cores":0.0}},"disturbed":false,"attempt":1,
            "machine":"m","commit":"c"}}"#,
            prediction(predicted_ms),
            prediction(101.0),
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn what_differs_is_listed_and_what_does_not_is_counted() {
        let rows = vec![
            row("as predicted", 96.0, 104.0),
            row("slower", 94.0, 100.0),
            row("not as simulated", 100.0, 107.0),
        ];
        let results = |_: &str| -> Result<Vec<Row>> { Ok(rows.clone()) };
        let text = exceptions(&["x".to_owned()], &results).unwrap().unwrap();
        assert!(text.starts_with("Of 3 configurations in x, 1 were as fast"), "{text}");
        assert!(text.contains("slower") && text.contains("0.940") && text.contains("1.010"), "{text}");
        assert!(text.contains("1.070") && !text.contains("as predicted |"), "{text}");
        assert_eq!(exceptions(&[], &results).unwrap(), None);
        assert!(!text.contains("In chains"), "{text}");
    }

    #[test]
    fn the_longest_of_stages_that_differ_is_longer_than_their_mean() {
        let errors = |longest| StageErrors { mean: 1.02, deviation: 0.05, longest };
        let text = stages(&[errors(1.2), errors(1.08), errors(0.9)]);
        assert!(text.contains("by +2.0 % in the mean, and each by 5.0 % from that"), "{text}");
        assert!(text.contains("by +8.0 % from the longest that was predicted (medians of 3 runs)"), "{text}");
    }
}
