//! The tables of `run`, `nodes` and `plan --cuts`: plain data in, a table or JSON out.

use plan::names::listed;
use serde::Serialize;
use wire::control::StageTime;

use super::json::optional_float;
use super::printable;
use super::switches::{self, SwitchRow};
use super::table::Column::{Number, Text};
use super::table::table;
use super::trial::TrialReport;

/// One stage of a run, measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct StageRow {
    pub(crate) stage: usize,
    pub(crate) node: String,
    pub(crate) engine: String,
    pub(crate) operators: usize,
    pub(crate) weight_bytes: u64,
    /// Time in the engine for one item, mean, ms.
    pub(crate) compute_ms: f64,
    /// Share of the run in which the stage computed, 0 to 1.
    pub(crate) busy: f64,
    /// Received and sent for one item, on the wire, mean.
    pub(crate) in_bytes: f64,
    pub(crate) out_bytes: f64,
    /// Of all items, those that came by this node, 0 to 1.
    pub(crate) share: f64,
    /// The codec of the link that leaves the stage.
    pub(crate) codec: String,
    /// Tensors that left in a wider codec, which stands for their values.
    pub(crate) widened: u64,
    /// Of all items, those that were planned for this node, 0 to 1.
    pub(crate) predicted_share: f64,
    /// In the engine for one item, predicted before the run, ms.
    pub(crate) predicted_compute_ms: f64,
    /// Busy for one item, predicted before the run, ms.
    pub(crate) predicted_busy_ms: f64,
    /// The same from this CPU time below, where the stage had been timed before.
    pub(crate) corrected_busy_ms: Option<f64>,
    /// What it took when it was timed before it was connected, if it was.
    pub(crate) timed: Option<TimedRow>,
    /// CPU time of its node's process for one item, ms: while the chain was full, if it was for long enough.
    pub(crate) cpu_ms: f64,
    /// Of that, running the engine, where it has no threads of its own.
    #[serde(serialize_with = "optional_float")]
    pub(crate) compute_cpu_ms: Option<f64>,
    /// Of that, encoding and decoding.
    pub(crate) encode_cpu_ms: f64,
    pub(crate) decode_cpu_ms: f64,
    /// Of that, moving bytes between sockets and memory.
    pub(crate) move_cpu_ms: f64,
}

/// What a stage took for one item when its node ran it alone, before the run.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct TimedRow {
    /// By the clock, ms.
    pub(crate) ms: f64,
    /// How far that may be wrong, ms.
    pub(crate) half_width_ms: f64,
    /// CPU time of the process, ms.
    pub(crate) cpu_ms: f64,
    /// Runs that these are of.
    pub(crate) runs: u32,
}

impl TimedRow {
    pub(crate) fn new(time: &StageTime) -> TimedRow {
        TimedRow {
            ms: time.sustained_seconds() * 1e3,
            half_width_ms: time.half_width_seconds * 1e3,
            cpu_ms: time.cpu_seconds * 1e3,
            runs: time.runs,
        }
    }
}

/// What was predicted of a link for one item before a run, ms.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LinkRow {
    /// That it is busy.
    pub(crate) busy_ms: f64,
    /// That an item takes besides.
    pub(crate) delay_ms: f64,
    /// Time of its two ends: to encode and send, to receive and decode, with what they compute longer for it.
    pub(crate) send_ms: f64,
    pub(crate) receive_ms: f64,
    /// Whether it may encode.
    pub(crate) encodes: bool,
}

/// What was predicted of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Prediction {
    pub(crate) period_ms: f64,
    pub(crate) items_per_s: f64,
    pub(crate) latency_ms: f64,
    /// The resource that sets the period.
    pub(crate) bottleneck: String,
}

impl Prediction {
    pub(crate) fn new(period: f64, latency: f64, bottleneck: String) -> Prediction {
        let period_ms = period * 1e3;
        Prediction { period_ms, items_per_s: 1.0 / period, latency_ms: latency * 1e3, bottleneck }
    }

    fn text(&self) -> String {
        format!("{:.1} items/s, limited by {}", self.items_per_s, self.bottleneck)
    }
}

/// The figures of a whole run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RunReport {
    pub(crate) items: usize,
    pub(crate) seconds: f64,
    /// Time in which items were made from what the user gave, while others were on their way.
    pub(crate) making_seconds: f64,
    /// Whether the items were too few for a rate of the full chain: it is that of all, from the first one sent.
    pub(crate) includes_filling: bool,
    pub(crate) items_per_s: f64,
    /// Between two results, the chain being full.
    pub(crate) period_ms: f64,
    /// Before the run.
    pub(crate) predicted: Prediction,
    /// Whether nodes share cores, of which predictions know nothing.
    pub(crate) shared_cores: bool,
    /// What a plan would promise that was not allowed, where it is clearly more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) with_replicas: Option<WithReplicas>,
    /// By the CPU time that the nodes took in this run, where all stages had been timed before.
    pub(crate) corrected: Option<Prediction>,
    pub(crate) latency_ms_p50: f64,
    pub(crate) latency_ms_p99: f64,
    /// CPU time of the nodes' processes, all together: that of the stages.
    pub(crate) cpu_ms_per_item: f64,
    /// Weights sent to nodes before the run; 0 when they held everything.
    pub(crate) shipped_weight_bytes: u64,
    /// What travelled of them: fewer where they were packed, which they are between machines.
    pub(crate) shipped_wire_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rounded_weights: Option<RoundedWeights>,
    /// The codec of the link that enters the first stage.
    pub(crate) input_codec: String,
    pub(crate) stages: Vec<StageRow>,
    /// To the first stage, between stages, and back.
    pub(crate) links: Vec<LinkRow>,
    /// Items in the chain at most.
    pub(crate) window: usize,
    /// What trying codecs found, where there were such as lose something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) codec_trial: Option<TrialReport>,
    /// Links that changed their codec while items flowed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) codec_switches: Vec<SwitchRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) whole_model: Option<WholeReport>,
    /// Nodes that were found, but went before anything was planned.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) gone_nodes: Vec<String>,
    /// Nodes that the plan does without.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) unused_nodes: Vec<String>,
}

/// A plan in which several nodes run the same stage.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct WithReplicas {
    pub(crate) items_per_s: f64,
    /// Nodes of each stage.
    pub(crate) nodes: Vec<usize>,
}

impl WithReplicas {
    fn text(&self) -> String {
        let how = match &self.nodes[..] {
            [nodes] => format!("{nodes} nodes would each run the whole model"),
            nodes => {
                let nodes = listed(nodes.iter().map(usize::to_string));
                format!("stages would have {nodes} nodes")
            }
        };
        format!("with --replicas: {:.1} items/s predicted; {how}", self.items_per_s)
    }
}

/// Weights that were rounded before they were shipped.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RoundedWeights {
    /// The type whose values they have now.
    pub(crate) to: String,
    pub(crate) tensors: usize,
    /// As a share of the range of its tensor.
    pub(crate) largest_change: f64,
}

/// The same items through the whole model on one node.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct WholeReport {
    pub(crate) items_per_s: f64,
    pub(crate) latency_ms_p50: f64,
    pub(crate) latency_ms_p99: f64,
    pub(crate) cpu_ms_per_item: f64,
    #[serde(flatten)]
    pub(crate) comparison: Comparison,
}

/// How far the chain's answers lie from the whole model's. Without an item compared, there is no difference.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Comparison {
    pub(crate) compared_items: usize,
    /// Over all outputs of the items compared.
    #[serde(serialize_with = "optional_float")]
    pub(crate) largest_difference: Option<f64>,
    /// The largest magnitude among the outputs compared, to hold the difference against.
    #[serde(serialize_with = "optional_float")]
    pub(crate) largest_output: Option<f64>,
}

impl Comparison {
    /// Takes in one output: how far it lies from the other, and its largest magnitude.
    pub(crate) fn add(&mut self, difference: f64, magnitude: f64) {
        let larger = |a: Option<f64>, b: f64| Some(a.map_or(b, |a| a.max(b)));
        self.largest_difference = larger(self.largest_difference, difference);
        self.largest_output = larger(self.largest_output, magnitude);
    }

    fn text(&self) -> String {
        let (Some(difference), Some(output)) = (self.largest_difference, self.largest_output) else {
            return "no answer was compared with the whole model's".to_owned();
        };
        format!(
            "largest difference to the whole model: {difference:.1e}, of outputs up to {output:.1}, over {} items",
            self.compared_items
        )
    }
}

/// One node that was found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct NodeRow {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) cores: u32,
    /// Threads that compute.
    pub(crate) threads: u32,
    /// The node's limit, and what deployments take of it.
    pub(crate) memory_bytes: u64,
    pub(crate) memory_used_bytes: u64,
    pub(crate) engine: String,
    /// What it runs, empty when idle.
    pub(crate) runs: Vec<String>,
}

/// One place where a model can be cut.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CutRow {
    /// What `--cut` takes.
    pub(crate) name: String,
    /// The live tensors.
    pub(crate) tensors: Vec<String>,
    pub(crate) bytes: u64,
    /// Share of the whole cost that lies before the cut, 0 to 1.
    pub(crate) cost_before: f64,
}

impl RunReport {
    /// The report for people, several lines.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}\n\n{}", stages(&self.stages), cpu(&self.stages));
        let row = |name: &str, figures: [f64; 4]| {
            std::iter::once(name.to_owned()).chain(figures.map(|f| format!("{f:.1}"))).collect()
        };
        let latency = (self.latency_ms_p50, self.latency_ms_p99);
        let mut rows: Vec<Vec<String>> =
            vec![row(self.layout(), [self.items_per_s, latency.0, latency.1, self.cpu_ms_per_item])];
        if let Some(whole) = &self.whole_model {
            let latency = (whole.latency_ms_p50, whole.latency_ms_p99);
            rows.push(row("whole model", [whole.items_per_s, latency.0, latency.1, whole.cpu_ms_per_item]));
        }
        let columns = [
            Text("run"),
            Number("items/s"),
            Number("latency p50 (ms)"),
            Number("p99 (ms)"),
            Number("CPU (ms/item)"),
        ];
        text += &format!("\n\n{}", table(&columns, rows));
        text += &format!(
            "\n\n{} items in {:.2} s, {} MB of weights shipped",
            self.items,
            self.seconds,
            megabytes(self.shipped_weight_bytes)
        );
        if self.shipped_wire_bytes < self.shipped_weight_bytes {
            text += &format!(" in {} MB", megabytes(self.shipped_wire_bytes));
        }
        if let Some(RoundedWeights { to, tensors, largest_change }) = &self.rounded_weights {
            let change = largest_change * 100.0;
            text += &format!("\n{tensors} weights rounded to {to}, by {change:.2} % of their range at most");
        }
        if self.includes_filling && self.stages.len() > 1 {
            text += "\nthe rate has the filling of the chain in it, for want of items: --repeat N has more";
        }
        if self.making_seconds > MOSTLY * self.seconds {
            let share = (100.0 * self.making_seconds / self.seconds).min(100.0);
            text +=
                &format!("\nmaking the items took {share:.0} % of the run: that limits it, not the nodes");
        }
        if self.input_codec != "raw" {
            text += &format!("\ninputs travelled as {}", self.input_codec);
        }
        for row in self.stages.iter().filter(|row| row.widened > 0) {
            text += &format!(
                "\n{} tensors left stage {} in a wider codec: {} has no room for their values",
                row.widened, row.stage, row.codec
            );
        }
        if let Some(trial) = &self.codec_trial {
            text += &format!("\n\n{}\n", trial.text());
        }
        if !self.codec_switches.is_empty() {
            text += &format!("\n\n{}\n", switches::text(&self.codec_switches));
        }
        text += &format!("\npredicted: {}", self.predicted.text());
        if let Some(corrected) = &self.corrected {
            text += &format!("\nby the CPU time that it took: {}", corrected.text());
        }
        if let Some(other) = &self.with_replicas {
            text += &format!("\n{}", other.text());
        }
        if self.shared_cores {
            text += "\nthe nodes share cores here, of which predictions know nothing";
        }
        if !self.gone_nodes.is_empty() {
            text += &format!("\nleft out: {}, gone while being measured", names(&self.gone_nodes));
        }
        if !self.unused_nodes.is_empty() {
            text += &format!("\nnot used by the plan: {}", names(&self.unused_nodes));
        }
        if let Some(whole) = &self.whole_model {
            text += &format!("\n{}", whole.comparison.text());
        }
        text
    }

    /// What runs the model.
    fn layout(&self) -> &'static str {
        let is_replicated = self.stages.windows(2).any(|pair| pair[0].stage == pair[1].stage);
        match self.stages.len() {
            1 => "one node",
            _ if is_replicated => "with replicas",
            _ => "chain",
        }
    }
}

/// What takes this share of a run limits it.
const MOSTLY: f64 = 0.9;

/// Nodes as they are shown.
fn names(nodes: &[String]) -> String {
    listed(nodes.iter().map(|name| format!("`{}`", printable(name))))
}

fn stages(rows: &[StageRow]) -> String {
    let columns = [
        Number("stage"),
        Text("node"),
        Number("operators"),
        Number("weights (MB)"),
        Number("compute (ms)"),
        Number("busy (%)"),
        Number("in (KB)"),
        Number("out (KB)"),
        Text("codec"),
    ];
    table(
        &columns,
        rows.iter().map(|row| {
            vec![
                row.stage.to_string(),
                row.node.clone(),
                row.operators.to_string(),
                megabytes(row.weight_bytes),
                format!("{:.2}", row.compute_ms),
                format!("{:.0}", 100.0 * row.busy),
                kilobytes(row.in_bytes),
                kilobytes(row.out_bytes),
                row.codec.clone(),
            ]
        }),
    )
}

/// What each stage's node did with its CPU time.
fn cpu(rows: &[StageRow]) -> String {
    let columns = [
        Number("stage"),
        Number("CPU (ms/item)"),
        Number("compute"),
        Number("encode"),
        Number("decode"),
        Number("move"),
        Number("rest"),
    ];
    let cells = |row: &StageRow| {
        let links = [row.encode_cpu_ms, row.decode_cpu_ms, row.move_cpu_ms];
        // The process's clock is read at another moment than those of its threads.
        let rest = (row.cpu_ms - row.compute_cpu_ms.unwrap_or(0.0) - links.iter().sum::<f64>()).max(0.0);
        let (compute, rest) = match row.compute_cpu_ms {
            Some(compute) => (compute, format!("{rest:.2}")),
            // An engine's own threads do nearly all of it.
            None => (rest, "in compute".to_owned()),
        };
        let figures = [row.cpu_ms, compute].into_iter().chain(links).map(|ms| format!("{ms:.2}"));
        std::iter::once(row.stage.to_string()).chain(figures).chain([rest]).collect()
    };
    table(&columns, rows.iter().map(cells))
}

/// The table of `defer nodes`.
pub(crate) fn nodes(rows: &[NodeRow]) -> String {
    let columns = [
        Text("name"),
        Text("data address"),
        Number("cores"),
        Number("threads"),
        Number("memory (MB)"),
        Number("used (MB)"),
        Text("engine"),
        Text("runs"),
    ];
    table(
        &columns,
        rows.iter().map(|row| {
            vec![
                row.name.clone(),
                row.address.clone(),
                row.cores.to_string(),
                row.threads.to_string(),
                format!("{:.0}", row.memory_bytes as f64 / 1e6),
                format!("{:.0}", row.memory_used_bytes as f64 / 1e6),
                row.engine.clone(),
                if row.runs.is_empty() { "idle".to_owned() } else { row.runs.join(", ") },
            ]
        }),
    )
}

/// The table of `defer plan --cuts`.
pub(crate) fn cuts(rows: &[CutRow]) -> String {
    let columns =
        [Number("cut"), Number("size (KB)"), Number("cost before (%)"), Text("name"), Text("with it")];
    table(
        &columns,
        rows.iter().enumerate().map(|(i, row)| {
            vec![
                (i + 1).to_string(),
                kilobytes(row.bytes as f64),
                format!("{:.1}", 100.0 * row.cost_before),
                row.name.clone(),
                row.tensors.iter().filter(|t| **t != row.name).cloned().collect::<Vec<_>>().join(", "),
            ]
        }),
    )
}

/// Millions of bytes.
pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / 1e6)
}

/// Bytes in the unit that suits, with the unit.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// Thousands of bytes.
pub(crate) fn kilobytes(bytes: f64) -> String {
    format!("{:.1}", bytes / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(i: usize) -> StageRow {
        StageRow {
            stage: i,
            node: format!("a-node-with-a-rather-long-name-{i}.local"),
            engine: "onnxruntime 1.32.0".into(),
            operators: 123,
            weight_bytes: 123_456_789,
            compute_ms: 1234.5,
            busy: 0.994,
            in_bytes: 123_456_789.0,
            out_bytes: 3_211_264.0,
            share: 1.0,
            codec: "bf16+shuffle+zstd".into(),
            widened: 200,
            predicted_share: 1.0,
            predicted_compute_ms: 1190.0,
            predicted_busy_ms: 1200.0,
            corrected_busy_ms: None,
            timed: None,
            cpu_ms: 1240.0,
            compute_cpu_ms: i.is_multiple_of(2).then_some(1200.0),
            encode_cpu_ms: 10.0,
            decode_cpu_ms: 8.25,
            move_cpu_ms: 20.0,
        }
    }

    fn prediction(period: f64) -> Prediction {
        Prediction::new(period, 0.1, "a-node-with-a-rather-long-name-1.local".into())
    }

    #[test]
    fn the_report_fits_100_columns_and_says_what_was_measured() {
        let report = RunReport {
            items: 200,
            seconds: 2.5,
            making_seconds: 2.4,
            includes_filling: true,
            items_per_s: 80.0,
            period_ms: 12.5,
            predicted: prediction(0.0125),
            shared_cores: true,
            with_replicas: Some(WithReplicas { items_per_s: 123.4, nodes: vec![4, 2, 1] }),
            corrected: Some(prediction(0.0128)),
            latency_ms_p50: 12.34,
            latency_ms_p99: 56.78,
            cpu_ms_per_item: 9.0,
            shipped_weight_bytes: 18_500_000,
            shipped_wire_bytes: 6_200_000,
            rounded_weights: Some(RoundedWeights { to: "bf16".into(), tensors: 54, largest_change: 0.0012 }),
            input_codec: "bf16+shuffle+lz4".into(),
            stages: (0..8).map(stage).collect(),
            links: Vec::new(),
            window: 18,
            codec_trial: None,
            codec_switches: Vec::new(),
            whole_model: Some(WholeReport {
                items_per_s: 60.0,
                latency_ms_p50: 16.0,
                latency_ms_p99: 17.0,
                cpu_ms_per_item: 8.0,
                comparison: Comparison {
                    compared_items: 123_456,
                    largest_difference: Some(0.0),
                    largest_output: Some(7.0),
                },
            }),
            gone_nodes: vec!["a".into(), "b\x1b".into()],
            unused_nodes: vec!["c".into()],
        };
        let text = report.text();
        for line in text.lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
        for part in [
            "80.0",
            "12.3",
            "56.8",
            "predicted: 80.0 items/s, limited by a-node",
            "the nodes share cores",
            "with --replicas: 123.4 items/s predicted; stages would have 4, 2, 1 nodes",
            "took: 78.1 items/s",
            "18.50 MB of weights shipped in 6.20 MB",
            "54 weights rounded to bf16, by 0.12 % of their range at most",
            "inputs travelled as bf16+shuffle+lz4",
            "whole model: 0.0e0, of",
            "over 123456 items",
            "left out: `a`, `b\u{fffd}`, gone",
            "not used by the plan: `c`",
            "making the items took 96 % of the run",
            "the rate has the filling of the chain in it",
            "99",
            "1.75",       // what is left of the CPU time
            "in compute", // where it is not told apart
            "200 tensors left stage 3 in a wider codec: bf16+shuffle+zstd has no room",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(Comparison::default().text().contains("no answer was compared"));
    }
}
