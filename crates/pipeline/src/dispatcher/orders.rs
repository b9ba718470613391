//! From a plan to one order for each node.

use graph::{Route, StageError, Weight};
use plan::Plan;
use tensor::TensorSpec;
use wire::CodecId;
use wire::control::{DeploymentId, Spec, StageOrder, WeightEntry};

use crate::cluster::NodeInfo;
use crate::prepare::Prepared;

/// Sizes that the model leaves open may be so many times those of the item it was measured with,
const OPEN_SIZE_FACTOR: u64 = 64;
/// and always this many bytes.
const OPEN_SIZE_MIN: u64 = 64 << 20;

/// A stage with everything its node needs.
pub(crate) struct Order {
    pub(crate) node: NodeInfo,
    pub(crate) message: StageOrder,
    pub(crate) weights: Vec<Weight>,
    pub(crate) operators: usize,
}

/// What all orders of a deployment have in common.
pub(crate) struct Common<'a> {
    pub(crate) deployment: DeploymentId,
    pub(crate) dispatcher: &'a str,
    pub(crate) epoch: u32,
    pub(crate) codec: CodecId,
}

/// The orders of a plan, in the order of the chain. The plan's devices are `nodes`.
pub(crate) fn orders(
    prepared: &Prepared,
    plan: &Plan,
    nodes: &[NodeInfo],
    common: &Common<'_>,
) -> Result<Vec<Order>, StageError> {
    let limit = (prepared.largest_tensor_bytes() * OPEN_SIZE_FACTOR).max(OPEN_SIZE_MIN);
    let mut orders = Vec::with_capacity(plan.stages.len());
    for (i, planned) in plan.stages.iter().enumerate() {
        let stage = prepared.model.stage(prepared.positions(planned))?;
        let next =
            plan.stages.get(i + 1).map(|s| nodes[s.replicas[0].device].description.data_addresses.clone());
        let message = StageOrder {
            deployment: common.deployment,
            dispatcher: common.dispatcher.to_owned(),
            epoch: common.epoch,
            model: prepared.name.clone(),
            stage: i as u32,
            stages: plan.stages.len() as u32,
            weights: stage.weights.iter().map(entry).collect(),
            inputs: specs(&stage.inputs),
            outputs: specs(&stage.outputs),
            feeds: stage.feeds.iter().map(|&i| i as u32).collect(),
            routes: stage.routes.iter().map(route).collect(),
            codec_in: common.codec.code(),
            codec_out: common.codec.code(),
            next: next.unwrap_or_default(),
            max_tensor_len: limit,
            memory: planned.replicas[0].memory_bytes,
            skeleton: stage.skeleton,
        };
        let node = nodes[planned.replicas[0].device].clone();
        orders.push(Order { node, message, weights: stage.weights, operators: stage.operators });
    }
    Ok(orders)
}

fn entry(weight: &Weight) -> WeightEntry {
    WeightEntry { hash: weight.hash.0, len: weight.bytes.len() as u64 }
}

fn specs(specs: &[TensorSpec]) -> Vec<Spec> {
    specs.iter().map(Spec::from).collect()
}

fn route(route: &Route) -> wire::control::Route {
    match *route {
        Route::Computed(i) => wire::control::Route::Computed(i as u32),
        Route::Passed(i) => wire::control::Route::Passed(i as u32),
    }
}
