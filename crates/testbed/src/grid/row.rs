//! What one run found, as it is written down. Times in ms and for an item, unless they say otherwise.

use serde::de::Error as _;
use serde::{Deserialize, Serialize};

use super::experiment::{Cell, Experiment};
use crate::common::Origin;
use crate::host::Disturbance;
use crate::limits::Emulation;
use crate::simulate::{Chain, Link, Stage, simulate};
use crate::stream::{Job, Prediction, Report, Steps, Streamed, Timed, median, used_by};

/// What tells the runs of an experiment apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) cluster: String,
    pub(super) model: String,
    pub(super) configuration: String,
    pub(super) repeat: usize,
}

/// One run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Row {
    /// Where it is written down, from 1 on.
    #[serde(skip)]
    pub(crate) line: usize,
    pub(crate) cluster: String,
    pub(crate) model: String,
    pub(crate) configuration: String,
    pub(super) repeat: usize,
    #[serde(default)]
    pub(super) emulation: Emulation,
    pub(super) engine: String,
    pub(super) warm_up: usize,
    pub(super) items: usize,
    /// Of the link that enters the first stage.
    pub(super) input_codec: String,
    pub(super) stages: Vec<StageRow>,
    pub(crate) predicted: Prediction,
    /// By the CPU time that nodes took in operation.
    pub(crate) corrected: Option<Prediction>,
    /// What comes of the predicted times when items queue for them, over as many items as were measured.
    #[serde(default)]
    pub(super) simulated: Option<Simulation>,
    /// Whether each of the stages is the whole model and runs by itself: then nothing was predicted of them together.
    #[serde(default)]
    pub(crate) side_by_side: bool,
    /// Items in the chain at most.
    #[serde(default)]
    pub(super) window: Option<usize>,
    /// Between two results at steady state.
    pub(crate) period_ms: f64,
    /// Of the second half over that of the first.
    pub(super) drift: f64,
    pub(super) latency_ms: f64,
    pub(super) latency_ms_p99: f64,
    /// From the start of the dispatcher to the first result.
    pub(super) first_result_ms: f64,
    /// Weights, as they travelled.
    pub(super) shipped_bytes: u64,
    pub(super) disturbance: Disturbance,
    /// Whether the last attempt was disturbed, too.
    pub(crate) disturbed: bool,
    pub(super) attempt: usize,
    /// The processor and the number of its cores.
    pub(super) machine: String,
    pub(super) commit: String,
}

/// How long stages were busy by the CPU time of their nodes, over what was predicted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct StageErrors {
    /// Of all.
    pub(crate) mean: f64,
    /// By how much each differs from that: standard deviation.
    pub(crate) deviation: f64,
    /// The longest over the longest that was predicted.
    pub(crate) longest: f64,
}

/// What was simulated of a run: the median of latencies, and the 99th percentile.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Simulation {
    pub(super) period_ms: f64,
    pub(super) latency_ms: f64,
    pub(super) latency_ms_p99: f64,
}

impl Simulation {
    fn of(report: &Report, warm_up: usize, items: usize) -> Simulation {
        let found = simulate(&chain(report), warm_up, items);
        Simulation {
            period_ms: found.period_seconds * 1e3,
            latency_ms: found.latency_seconds * 1e3,
            latency_ms_p99: found.latency_seconds_p99 * 1e3,
        }
    }
}

/// The times that were predicted.
fn chain(report: &Report) -> Chain {
    let links = &report.links;
    let link = |link: &crate::stream::Link| Link {
        seconds: link.busy_ms / 1e3,
        delay_seconds: link.delay_ms / 1e3,
        encodes: link.encodes,
    };
    let replica = |stage: &crate::stream::Stage| Stage {
        share: stage.predicted_share,
        receive_seconds: links[stage.stage - 1].receive_ms / 1e3,
        compute_seconds: stage.predicted_compute_ms / 1e3,
        send_seconds: links[stage.stage].send_ms / 1e3,
    };
    let stages = report.stages.chunk_by(|a, b| a.stage == b.stage);
    Chain {
        input_seconds: links[0].send_ms / 1e3,
        result_seconds: links[links.len() - 1].receive_ms / 1e3,
        stages: stages.map(|replicas| replicas.iter().map(replica).collect()).collect(),
        links: links.iter().map(link).collect(),
        window: report.window,
    }
}

/// A run that ended with an error, where that was to be expected.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Failure {
    pub(super) cluster: String,
    pub(super) model: String,
    pub(super) configuration: String,
    pub(super) repeat: usize,
    /// What the error said.
    pub(super) failure: String,
    pub(super) machine: String,
    pub(super) commit: String,
}

impl Failure {
    pub(super) fn new(cell: &Cell<'_>, failure: &str, origin: &Origin) -> Failure {
        let Key { cluster, model, configuration, repeat } = cell.key();
        let (failure, Origin { machine, commit }) = (failure.to_owned(), origin.clone());
        Failure { cluster, model, configuration, repeat, failure, machine, commit }
    }

    /// Whether a run is of the same kind: it would fail, too.
    pub(super) fn is_of(&self, key: &Key) -> bool {
        [&self.cluster, &self.model, &self.configuration] == [&key.cluster, &key.model, &key.configuration]
    }
}

/// A line of results.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Record {
    Run(Box<Row>),
    Failure(Failure),
}

impl Record {
    /// # Errors
    /// When the line is neither, or has figures that no run can have.
    pub(super) fn read(line: &str) -> serde_json::Result<Record> {
        let value: serde_json::Value = serde_json::from_str(line)?;
        match value.get("failure") {
            Some(_) => serde_json::from_value(value).map(Record::Failure),
            None => {
                let row: Row = serde_json::from_value(value)?;
                match row.nonsense() {
                    None => Ok(Record::Run(Box::new(row))),
                    Some(what) => Err(serde_json::Error::custom(format_args!("{what} is out of range"))),
                }
            }
        }
    }
}

/// No figure of a run is larger: thirty years, in ms.
const LARGEST: f64 = 1e12;

/// No time between two results is shorter, ms: rates are its inverse.
const SHORTEST_MS: f64 = 1e-6;

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct StageRow {
    /// Its place in the chain, from 1 on; 0 in rows of a time before there were replicas.
    #[serde(default)]
    pub(super) stage: usize,
    /// Of all items, those that came by this node. Other figures are of all items, but for times by the clock.
    #[serde(default = "all")]
    pub(super) share: f64,
    pub(super) node: String,
    /// CPU time that the device may take, as a share of a core.
    pub(super) quota: f64,
    pub(super) memory_mb: Option<u64>,
    pub(super) weight_bytes: u64,
    pub(super) predicted_busy_ms: f64,
    pub(super) corrected_busy_ms: Option<f64>,
    #[serde(default)]
    pub(super) timed: Option<Timed>,
    /// In the engine, by the clock.
    pub(super) compute_ms: f64,
    /// CPU time of the node over the items that were measured.
    pub(super) cpu_ms: f64,
    #[serde(default)]
    pub(super) steps: Option<Steps>,
    pub(super) in_bytes: f64,
    pub(super) out_bytes: f64,
    /// Of the link that leaves the stage.
    pub(super) codec: String,
    /// The most memory that the node had at once since it timed its stage, bytes.
    pub(super) peak_bytes: u64,
    /// Modelled, joules.
    pub(super) modelled_joules: f64,
}

fn all() -> f64 {
    1.0
}

impl StageRow {
    /// Where only this share of all items comes by: what one of them takes on the average.
    fn of_some_items(&self, share: f64) -> StageRow {
        StageRow {
            share: self.share * share,
            cpu_ms: self.cpu_ms * share,
            steps: self.steps.map(|steps| steps.of_some_items(share)),
            in_bytes: self.in_bytes * share,
            out_bytes: self.out_bytes * share,
            modelled_joules: self.modelled_joules * share,
            ..self.clone()
        }
    }
}

impl Row {
    pub(super) fn new(
        cell: &Cell<'_>,
        emulation: Emulation,
        job: &Job<'_>,
        streamed: Streamed,
        attempt: usize,
        origin: &Origin,
    ) -> Row {
        let Streamed { report, period_ms, nodes, disturbance, .. } = streamed;
        let stage = |stage: &crate::stream::Stage| {
            let device = cell.cluster.device(&stage.node);
            let used = used_by(&nodes, &stage.node);
            StageRow {
                stage: stage.stage,
                share: stage.share,
                node: stage.node.clone(),
                quota: device.quota,
                memory_mb: device.memory_mb,
                weight_bytes: stage.weight_bytes,
                predicted_busy_ms: stage.predicted_busy_ms,
                corrected_busy_ms: stage.corrected_busy_ms,
                timed: stage.timed,
                compute_ms: stage.compute_ms,
                cpu_ms: used.cpu_ms,
                steps: stage.steps.map(|steps| steps.of_some_items(stage.share)),
                in_bytes: stage.in_bytes * stage.share,
                out_bytes: stage.out_bytes * stage.share,
                codec: stage.codec.clone(),
                peak_bytes: used.peak_bytes,
                modelled_joules: device.joules(used.cpu_ms, period_ms),
            }
        };
        let Key { cluster, model, configuration, repeat } = cell.key();
        Row {
            line: 0,
            cluster,
            model,
            configuration,
            repeat,
            emulation,
            engine: report.stages.first().map(|stage| stage.engine.clone()).unwrap_or_default(),
            warm_up: job.warm_up,
            items: job.items,
            simulated: Some(Simulation::of(&report, job.warm_up, job.items)),
            side_by_side: false,
            window: Some(report.window),
            stages: report.stages.iter().map(stage).collect(),
            input_codec: report.input_codec,
            predicted: report.predicted,
            corrected: report.corrected,
            period_ms,
            drift: streamed.drift,
            latency_ms: streamed.latency_ms,
            latency_ms_p99: streamed.latency_ms_p99,
            first_result_ms: streamed.first_result_ms,
            shipped_bytes: report.shipped_wire_bytes,
            disturbed: disturbance.is_too_much(),
            disturbance,
            attempt,
            machine: origin.machine.clone(),
            commit: origin.commit.clone(),
        }
    }

    /// Of devices that ran the whole model each by itself: together they are one that is as fast, and an item is done by
    /// one of them.
    pub(super) fn side_by_side(
        cell: &Cell<'_>,
        emulation: Emulation,
        job: &Job<'_>,
        streamed: Vec<Streamed>,
        attempt: usize,
        origin: &Origin,
    ) -> Row {
        let rows =
            streamed.into_iter().map(|streamed| Row::new(cell, emulation, job, streamed, attempt, origin));
        let rows: Vec<Row> = rows.collect();
        let rate: f64 = rows.iter().map(Row::rate).sum();
        let of = |figure: fn(&Row) -> f64| rows.iter().map(figure);
        let stages = rows.iter().flat_map(|row| {
            row.stages.iter().map(|stage| stage.of_some_items(row.rate() / rate)).collect::<Vec<_>>()
        });
        let disturbed = rows.iter().find(|row| row.disturbed).or(rows.first()).expect("a device");
        Row {
            side_by_side: true,
            stages: stages.collect(),
            simulated: None,
            window: None,
            period_ms: 1e3 / rate,
            drift: median(of(|row| row.drift).collect()),
            latency_ms: median(of(|row| row.latency_ms).collect()),
            latency_ms_p99: of(|row| row.latency_ms_p99).fold(0.0, f64::max),
            first_result_ms: of(|row| row.first_result_ms).fold(0.0, f64::max),
            shipped_bytes: rows.iter().map(|row| row.shipped_bytes).sum(),
            ..disturbed.clone()
        }
    }

    /// The figure that no run can have, if there is one.
    fn nonsense(&self) -> Option<&'static str> {
        let period = |ms: f64| (SHORTEST_MS..=LARGEST).contains(&ms);
        let figure = |value: f64| (0.0..=LARGEST).contains(&value);
        let prediction = |predicted: &Prediction| period(predicted.period_ms) && figure(predicted.latency_ms);
        let simulated = |found: &Simulation| {
            period(found.period_ms) && figure(found.latency_ms) && figure(found.latency_ms_p99)
        };
        let stage = |stage: &StageRow| {
            let StageRow { share, quota, cpu_ms, compute_ms, in_bytes, out_bytes, modelled_joules, .. } =
                stage;
            let steps = stage.steps.iter().flat_map(|steps| steps.each());
            let busy = [stage.predicted_busy_ms, stage.corrected_busy_ms.unwrap_or_default()];
            let figures = [*share, *quota, *cpu_ms, *compute_ms, *in_bytes, *out_bytes, *modelled_joules];
            figures.into_iter().chain(busy).chain(steps).all(figure)
        };
        let places = self.stages.iter().map(|stage| stage.stage);
        let in_order =
            places.clone().is_sorted() && places.max().is_some_and(|last| last <= self.stages.len());
        [
            (period(self.period_ms), "`period_ms`"),
            (figure(self.latency_ms) && figure(self.latency_ms_p99), "`latency_ms`"),
            (figure(self.drift) && figure(self.first_result_ms), "`drift` or `first_result_ms`"),
            (prediction(&self.predicted) && self.corrected.iter().all(prediction), "a prediction"),
            (self.simulated.iter().all(simulated), "what was simulated"),
            (self.stages.iter().all(stage), "a figure of a stage"),
            (in_order, "the number of a stage"),
        ]
        .into_iter()
        .find_map(|(holds, what)| (!holds).then_some(what))
    }

    /// How it differs from what the cell of its name asks for: in what a row says of it, which is not all. Networks, codecs
    /// and cuts can change without anybody noticing here.
    pub(super) fn other_than(&self, experiment: &Experiment, cell: &Cell<'_>) -> Option<String> {
        let engine = self.engine.split(' ').next().unwrap_or_default();
        if engine != experiment.engine {
            return Some(format!("the engine {engine}"));
        }
        if self.side_by_side != cell.configuration.side_by_side {
            let which = if self.side_by_side { "devices side by side" } else { "a chain" };
            return Some(which.to_owned());
        }
        if let (Some(window), Some(asked)) = (self.window, cell.window)
            && window != asked
        {
            return Some(format!("a window of {window}"));
        }
        let (warm_up, items) = experiment.items(cell.configuration);
        if (self.warm_up, self.items) != (warm_up, items) {
            let Row { warm_up, items, .. } = self;
            return Some(format!("{warm_up} items to warm up and {items} to measure"));
        }
        self.stages.iter().find_map(|stage| {
            let asked = cell.cluster.find(&stage.node).map(|device| (device.quota, device.memory_mb));
            let StageRow { node, quota, memory_mb, .. } = stage;
            let memory = memory_mb.map_or_else(|| "all memory".to_owned(), |mb| format!("{mb} MB"));
            let is_other = asked != Some((*quota, *memory_mb));
            is_other.then(|| format!("{quota} of a core and {memory} for `{node}`"))
        })
    }

    pub(super) fn key(&self) -> Key {
        Key {
            cluster: self.cluster.clone(),
            model: self.model.clone(),
            configuration: self.configuration.clone(),
            repeat: self.repeat,
        }
    }

    /// Items a second.
    pub(crate) fn rate(&self) -> f64 {
        1e3 / self.period_ms
    }

    /// Between two results, as simulated.
    pub(crate) fn simulated_period_ms(&self) -> Option<f64> {
        self.simulated.map(|simulated| simulated.period_ms)
    }

    /// CPU time of all nodes.
    pub(crate) fn cpu_ms(&self) -> f64 {
        self.stages.iter().map(|stage| stage.cpu_ms).sum()
    }

    /// The same by steps: computing, encoding, decoding, moving bytes, and the rest; nothing where an engine
    /// has threads of its own, and for rows of a time before there were steps.
    pub(super) fn cpu_ms_by_step(&self) -> Option<[f64; 5]> {
        let mut all = [0.0; 5];
        for stage in &self.stages {
            let steps = stage.steps?.each();
            let rest = (stage.cpu_ms - steps.iter().sum::<f64>()).max(0.0);
            std::iter::zip(&mut all, steps.into_iter().chain([rest])).for_each(|(all, ms)| *all += ms);
        }
        Some(all)
    }

    /// How far its stages were from what was predicted, where it is a chain of one node a stage, of so many at least.
    pub(crate) fn stage_errors(&self, least: usize) -> Option<StageErrors> {
        let is_chain = self.stages.iter().enumerate().all(|(i, stage)| stage.stage == i + 1);
        if self.side_by_side || !is_chain || self.stages.len() < least {
            return None;
        }
        let busy = |stage: &StageRow| Some((stage.predicted_busy_ms, stage.corrected_busy_ms?));
        let busy: Vec<(f64, f64)> = self.stages.iter().map(busy).collect::<Option<_>>()?;
        let ratios = || busy.iter().map(|(predicted, corrected)| corrected / predicted);
        let count = busy.len() as f64;
        let mean = ratios().sum::<f64>() / count;
        let variance = ratios().map(|ratio| (ratio - mean).powi(2)).sum::<f64>() / (count - 1.0);
        let longest = |of: fn(&(f64, f64)) -> f64| busy.iter().map(of).fold(f64::MIN_POSITIVE, f64::max);
        let longest = longest(|(_, corrected)| *corrected) / longest(|(predicted, _)| *predicted);
        Some(StageErrors { mean, deviation: variance.sqrt(), longest })
    }

    /// CPU time of all nodes for computing; for all they do where that is not known apart.
    pub(crate) fn compute_cpu_ms(&self) -> f64 {
        self.cpu_ms_by_step().map_or_else(|| self.cpu_ms(), |[compute, ..]| compute)
    }

    /// Energy of all nodes in use, modelled, joules.
    pub(crate) fn joules(&self) -> f64 {
        self.stages.iter().map(|stage| stage.modelled_joules).sum()
    }

    /// Of one of them.
    pub(crate) fn joules_per_node(&self) -> f64 {
        self.joules() / self.stages.len().max(1) as f64
    }

    /// Nodes of each stage; nothing where nobody knows of stages.
    pub(super) fn replicas(&self) -> Vec<usize> {
        let last = self.stages.last().map_or(0, |stage| stage.stage);
        (1..=last).map(|stage| self.stages.iter().filter(|row| row.stage == stage).count()).collect()
    }

    /// What all links carry, bytes.
    pub(super) fn carried_bytes(&self) -> f64 {
        let first_stage = self.stages.iter().take_while(|stage| stage.stage <= 1);
        let first: f64 = match self.stages.first() {
            Some(first) if first.stage == 0 => first.in_bytes,
            _ => first_stage.map(|stage| stage.in_bytes).sum(),
        };
        first + self.stages.iter().map(|stage| stage.out_bytes).sum::<f64>()
    }

    /// Codecs along the chain.
    pub(super) fn codecs(&self) -> impl Iterator<Item = &str> {
        // Those of a stage's replicas are one link.
        let last = |(i, row): &(usize, &StageRow)| {
            row.stage == 0 || self.stages.get(i + 1).is_none_or(|next| next.stage != row.stage)
        };
        let stages = self.stages.iter().enumerate().filter(last).map(|(_, row)| row.codec.as_str());
        std::iter::once(self.input_codec.as_str()).chain(stages)
    }
}
