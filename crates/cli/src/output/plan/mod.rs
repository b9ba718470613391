//! A plan as people and programs read it: plain data in; text, JSON, a picture or a page out.
//!
//! Filled in by `defer plan`. Every figure carries its unit in its name; shares are of the period, 0 to 1.

pub(crate) mod page;
pub(crate) mod picture;
#[cfg(test)]
pub(crate) mod samples;
mod text;

use plan::Objective;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// A plan and what it promises.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PlanReport {
    pub(crate) model: String,
    /// The engine that timed the model's parts.
    pub(crate) engine: String,
    pub(crate) stages: Vec<StageRow>,
    /// From the dispatcher to the first stage, between stages, and back: one more than stages.
    pub(crate) hops: Vec<HopRow>,
    /// The dispatcher's CPU.
    pub(crate) dispatcher: LoadRow,
    /// What else is busy: all that one end sends or receives, shared media.
    pub(crate) other_loads: Vec<LoadRow>,
    pub(crate) period_ms: f64,
    pub(crate) items_per_s: f64,
    pub(crate) latency_ms: f64,
    /// Of all devices in use and the dispatcher; only where powers are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) joules_per_item: Option<f64>,
    /// The whole model on a device of speed 1.
    pub(crate) whole_ms: f64,
    /// The resource that sets the period.
    pub(crate) bottleneck: String,
    /// Whether every device runs the whole model.
    pub(crate) load_balancing: bool,
    /// How good a plan could be; nothing is proven of a plan from a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) proof: Option<Proof>,
    /// How much longer the period is than the shortest there is, as a share of that, so that latency is less.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) period_given_up: Option<f64>,
    /// A plan from a file beside the best one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) compared: Option<Compared>,
    /// Whether sizes of encoded tensors are as found with inputs of the user's own, not with made-up ones; only where a link
    /// encodes any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sizes_of_own_inputs: Option<bool>,
    /// Codecs of a plan from a file whose costs nobody measured.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) unmeasured_codecs: Vec<String>,
    /// The same model by other systems' rules.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) rules: Vec<RuleRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) outlook: Option<OutlookRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) front: Option<Front>,
    /// Nodes that were found, but went before anything was planned.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) gone_nodes: Vec<String>,
}

/// One stage.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct StageRow {
    pub(crate) stage: usize,
    pub(crate) operators: usize,
    pub(crate) weight_bytes: u64,
    /// The name of the cut behind it, as `--cut` takes it; none behind the last.
    pub(crate) cut: Option<String>,
    /// Those who run it; one, unless items are dealt out.
    pub(crate) devices: Vec<DeviceRow>,
}

/// One device of a stage.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DeviceRow {
    pub(crate) device: String,
    /// Of all items.
    pub(crate) share: f64,
    /// Computation for an item of its own.
    pub(crate) compute_ms: f64,
    /// Computation, codecs, sending and receiving for an item of its own.
    pub(crate) busy_ms: f64,
    /// Of the period.
    pub(crate) busy: f64,
    /// Weights, activations, queues and engine.
    pub(crate) memory_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory_limit_bytes: Option<u64>,
    pub(crate) bottleneck: bool,
}

/// What lies between two stages, or a stage and the dispatcher.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct HopRow {
    pub(crate) codec: String,
    /// Whether values come out of it as they went in.
    pub(crate) exact: bool,
    /// Per item, as they travel.
    pub(crate) bytes: u64,
    /// The tensors that travel.
    pub(crate) tensors: Vec<String>,
    /// One, unless items are dealt out.
    pub(crate) links: Vec<LinkRow>,
}

/// One link of a hop.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LinkRow {
    pub(crate) from: String,
    pub(crate) to: String,
    /// Of all items.
    pub(crate) share: f64,
    /// With an item that takes it.
    pub(crate) busy_ms: f64,
    /// Time on the way besides.
    pub(crate) delay_ms: f64,
    /// Of the period.
    pub(crate) busy: f64,
    pub(crate) bottleneck: bool,
}

/// A resource that is neither a device nor a link.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LoadRow {
    pub(crate) resource: String,
    /// Per item of the pipeline.
    pub(crate) busy_ms: f64,
    /// Of the period.
    pub(crate) busy: f64,
    pub(crate) bottleneck: bool,
}

/// What is proven of a plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proof {
    pub(crate) objective: Objective,
    /// In the objective's own unit: seconds, joules or devices.
    pub(crate) worth: f64,
    pub(crate) bound: f64,
    pub(crate) gap: f64,
}

/// A plan beside the best one, under the objective.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compared {
    pub(crate) objective: Objective,
    pub(crate) worth: f64,
    pub(crate) best: f64,
}

/// What a rule of other systems makes of the same model and devices.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RuleRow {
    pub(crate) rule: &'static str,
    #[serde(skip)]
    pub(crate) objective: Objective,
    /// Its worth over the plan's; above 1 it is worse.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) factor: Option<f64>,
    /// What is wrong with what it gives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<RuleProblem>,
}

/// Why a rule gives no plan.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RuleProblem {
    /// `does not fit`, `is too slow`.
    pub(crate) what: &'static str,
    pub(crate) reason: String,
}

/// What more hardware would bring: the plan's worth over that of the best plan with it; above 1 it helps.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct OutlookRow {
    #[serde(skip)]
    pub(crate) objective: Objective,
    pub(crate) another_device_gain: f64,
    pub(crate) twice_bandwidth_gain: f64,
}

/// Plans that trade throughput for something else.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Front {
    /// `latency` or `devices`.
    pub(crate) against: &'static str,
    pub(crate) plans: Vec<FrontRow>,
}

/// One of them.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FrontRow {
    pub(crate) devices: usize,
    pub(crate) stages: usize,
    pub(crate) items_per_s: f64,
    pub(crate) period_ms: f64,
    pub(crate) latency_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) joules_per_item: Option<f64>,
}

impl LoadRow {
    /// What never gets near the period is not worth a word.
    fn is_worth_a_word(&self) -> bool {
        self.bottleneck || self.busy >= 0.005
    }
}

impl HopRow {
    /// The share of the period that its busiest link is busy.
    pub(crate) fn busy(&self) -> f64 {
        self.links.iter().map(|link| link.busy).fold(0.0, f64::max)
    }

    pub(crate) fn is_bottleneck(&self) -> bool {
        self.links.iter().any(|link| link.bottleneck)
    }
}

/// The objective's name on the command line, and its unit in JSON with the factor from the planner's own.
fn named(objective: Objective) -> (&'static str, &'static str, f64) {
    match objective {
        Objective::Throughput => ("throughput", "period_ms", 1e3),
        Objective::Latency => ("latency", "latency_ms", 1e3),
        Objective::Energy => ("energy", "joules", 1.0),
        Objective::Devices => ("devices", "devices", 1.0),
    }
}

impl Serialize for Proof {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (name, unit, factor) = named(self.objective);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("objective", name)?;
        map.serialize_entry(unit, &(self.worth * factor))?;
        map.serialize_entry(&format!("bound_{unit}"), &(self.bound * factor))?;
        // None is a share of nothing, and JSON has no infinity.
        if self.gap.is_finite() {
            map.serialize_entry("gap", &self.gap)?;
        }
        map.end()
    }
}

impl Compared {
    /// How many times as much as the best plan it takes: 1 when it is as good.
    pub(crate) fn factor(&self) -> f64 {
        self.worth / self.best
    }
}

impl Serialize for Compared {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (name, unit, factor) = named(self.objective);
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("objective", name)?;
        map.serialize_entry(unit, &(self.worth * factor))?;
        map.serialize_entry(&format!("best_{unit}"), &(self.best * factor))?;
        map.serialize_entry("factor", &self.factor())?;
        map.end()
    }
}
