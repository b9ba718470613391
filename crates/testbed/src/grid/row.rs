//! What one run found, as it is written down. Times in ms and for an item, unless they say otherwise.

use serde::{Deserialize, Serialize};

use super::experiment::Cell;
use crate::common::Origin;
use crate::host::Disturbance;
use crate::stream::{Job, Prediction, Streamed};

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
pub(super) struct Row {
    pub(super) cluster: String,
    pub(super) model: String,
    pub(super) configuration: String,
    pub(super) repeat: usize,
    pub(super) engine: String,
    pub(super) warm_up: usize,
    pub(super) items: usize,
    /// Of the link that enters the first stage.
    pub(super) input_codec: String,
    pub(super) stages: Vec<StageRow>,
    pub(super) predicted: Prediction,
    /// By the CPU time that nodes took in operation.
    pub(super) corrected: Option<Prediction>,
    /// Between two results at steady state.
    pub(super) period_ms: f64,
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
    pub(super) disturbed: bool,
    pub(super) attempt: usize,
    /// The processor and the number of its cores.
    pub(super) machine: String,
    pub(super) commit: String,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct StageRow {
    pub(super) node: String,
    /// CPU time that the device may take, as a share of a core.
    pub(super) quota: f64,
    pub(super) memory_mb: Option<u64>,
    pub(super) weight_bytes: u64,
    pub(super) predicted_busy_ms: f64,
    pub(super) corrected_busy_ms: Option<f64>,
    /// In the engine, by the clock.
    pub(super) compute_ms: f64,
    /// CPU time of the node.
    pub(super) cpu_ms: f64,
    pub(super) in_bytes: f64,
    pub(super) out_bytes: f64,
    /// Of the link that leaves the stage.
    pub(super) codec: String,
    /// The most memory that the node had at once since it timed its stage, bytes.
    pub(super) peak_bytes: u64,
    /// Modelled, joules.
    pub(super) modelled_joules: f64,
}

impl Row {
    pub(super) fn new(
        cell: &Cell<'_>,
        job: &Job<'_>,
        streamed: Streamed,
        attempt: usize,
        origin: &Origin,
    ) -> Row {
        let Streamed { report, period_ms, disturbance, .. } = streamed;
        let stage = |stage: &crate::stream::Stage| {
            let device = cell.cluster.device(&stage.node);
            let peak = streamed.peak_bytes.iter().find(|(node, _)| *node == stage.node);
            StageRow {
                node: stage.node.clone(),
                quota: device.quota,
                memory_mb: device.memory_mb,
                weight_bytes: stage.weight_bytes,
                predicted_busy_ms: stage.predicted_busy_ms,
                corrected_busy_ms: stage.corrected_busy_ms,
                compute_ms: stage.compute_ms,
                cpu_ms: stage.cpu_ms,
                in_bytes: stage.in_bytes,
                out_bytes: stage.out_bytes,
                codec: stage.codec.clone(),
                peak_bytes: peak.map_or(0, |(_, bytes)| *bytes),
                modelled_joules: device.joules(stage.cpu_ms, period_ms),
            }
        };
        let Key { cluster, model, configuration, repeat } = cell.key();
        Row {
            cluster,
            model,
            configuration,
            repeat,
            engine: report.stages.first().map(|stage| stage.engine.clone()).unwrap_or_default(),
            warm_up: job.warm_up,
            items: job.items,
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

    pub(super) fn key(&self) -> Key {
        Key {
            cluster: self.cluster.clone(),
            model: self.model.clone(),
            configuration: self.configuration.clone(),
            repeat: self.repeat,
        }
    }

    /// Items a second.
    pub(super) fn rate(&self) -> f64 {
        1e3 / self.period_ms
    }

    /// CPU time of all nodes.
    pub(super) fn cpu_ms(&self) -> f64 {
        self.stages.iter().map(|stage| stage.cpu_ms).sum()
    }

    /// Energy of all nodes in use, modelled, joules.
    pub(super) fn joules(&self) -> f64 {
        self.stages.iter().map(|stage| stage.modelled_joules).sum()
    }

    /// What all links carry, bytes.
    pub(super) fn carried_bytes(&self) -> f64 {
        let first = self.stages.first().map_or(0.0, |stage| stage.in_bytes);
        first + self.stages.iter().map(|stage| stage.out_bytes).sum::<f64>()
    }

    /// Codecs along the chain.
    pub(super) fn codecs(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.input_codec.as_str()).chain(self.stages.iter().map(|stage| stage.codec.as_str()))
    }
}
