//! From a plan to one order for each node.

use std::net::SocketAddr;
use std::ops::Range;

use graph::{Route, StageError, Weight};
use plan::Plan;
use tensor::TensorSpec;
use wire::control::{DeploymentId, Spec, StageOrder, WeightEntry};

use super::links::LinkCodecs;
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
}

/// The orders of a plan, in the order of the chain. The plan's devices are `nodes`; `links` are those along the
/// chain, one more than stages.
pub(crate) fn orders(
    prepared: &Prepared,
    plan: &Plan,
    links: &[LinkCodecs],
    nodes: &[NodeInfo],
    common: &Common<'_>,
) -> Result<Vec<Order>, StageError> {
    let order = |(i, planned): (usize, &plan::Stage)| {
        let next =
            plan.stages.get(i + 1).map(|s| nodes[s.replicas[0].device].description.data_addresses.clone());
        let seat = Seat {
            stage: i as u32,
            stages: plan.stages.len() as u32,
            links: [links[i].clone(), links[i + 1].clone()],
            next: next.unwrap_or_default(),
            memory: planned.replicas[0].memory_bytes,
        };
        order(prepared, prepared.positions(planned), &nodes[planned.replicas[0].device], seat, common)
    };
    plan.stages.iter().enumerate().map(order).collect()
}

/// Where a stage stands in a chain, and what it may take.
pub(crate) struct Seat {
    pub(crate) stage: u32,
    pub(crate) stages: u32,
    /// Into it and out of it.
    pub(crate) links: [LinkCodecs; 2],
    pub(crate) next: Vec<SocketAddr>,
    pub(crate) memory: u64,
}

/// The order for one node to run the operators at `positions`.
pub(crate) fn order(
    prepared: &Prepared,
    positions: Range<usize>,
    node: &NodeInfo,
    seat: Seat,
    common: &Common<'_>,
) -> Result<Order, StageError> {
    let stage = prepared.model.stage(positions)?;
    let message = StageOrder {
        deployment: common.deployment,
        dispatcher: common.dispatcher.to_owned(),
        epoch: common.epoch,
        model: prepared.name.clone(),
        stage: seat.stage,
        stages: seat.stages,
        weights: stage.weights.iter().map(entry).collect(),
        inputs: specs(&stage.inputs),
        outputs: specs(&stage.outputs),
        feeds: stage.feeds.iter().map(|&i| i as u32).collect(),
        routes: stage.routes.iter().map(route).collect(),
        codecs_in: seat.links[0].list.codes(),
        codec_out: seat.links[1].begin.code(),
        codecs_out: seat.links[1].list.codes(),
        next: seat.next,
        max_tensor_len: (prepared.largest_tensor_bytes() * OPEN_SIZE_FACTOR).max(OPEN_SIZE_MIN),
        memory: seat.memory,
        skeleton: stage.skeleton,
    };
    Ok(Order { node: node.clone(), message, weights: stage.weights, operators: stage.operators })
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
