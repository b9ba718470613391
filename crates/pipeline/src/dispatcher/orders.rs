//! From a plan to one order for each node.

use std::net::SocketAddr;

use graph::{Route, Stage, StageError, Weight};
use plan::Plan;
use tensor::TensorSpec;
use wire::control::{Crossing, DeploymentId, Spec, StageOrder, WeightEntry};

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

/// The orders of a plan, in the order of the chain, those of a stage's replicas one after the other. The plan's devices
/// are `nodes`; `links` are those along the chain, one more than stages.
pub(crate) fn orders(
    prepared: &Prepared,
    plan: &Plan,
    links: &[LinkCodecs],
    nodes: &[NodeInfo],
    common: &Common<'_>,
) -> Result<Vec<Order>, StageError> {
    let (mut orders, mut paths_before, mut sources) = (Vec::with_capacity(plan.devices()), 1, 1);
    for (i, planned) in plan.stages.iter().enumerate() {
        let next = plan.stages.get(i + 1).map_or(&[][..], |stage| &stage.replicas);
        let addresses = |replica: &plan::Replica| nodes[replica.device].description.data_addresses.clone();
        let next: Vec<Vec<SocketAddr>> = next.iter().map(addresses).collect();
        let stage = prepared.model.stage(prepared.positions(planned))?;
        let replicas = planned.replicas.len() as u32;
        for (replica, place) in (0..).zip(&planned.replicas) {
            let seat = Seat {
                stage: i as u32,
                stages: plan.stages.len() as u32,
                crossing: Crossing { paths_before, sources, replicas, replica },
                links: &[links[i].clone(), links[i + 1].clone()],
                next: next.clone(),
                memory: place.memory_bytes,
            };
            orders.push(order(prepared, &stage, &nodes[place.device], seat, common));
        }
        (paths_before, sources) = (paths_before.saturating_mul(replicas), replicas);
    }
    Ok(orders)
}

/// Where a stage stands in a chain, and what it may take.
pub(crate) struct Seat<'a> {
    pub(crate) stage: u32,
    pub(crate) stages: u32,
    pub(crate) crossing: Crossing,
    /// Into it and out of it.
    pub(crate) links: &'a [LinkCodecs; 2],
    pub(crate) next: Vec<Vec<SocketAddr>>,
    pub(crate) memory: u64,
}

/// The order for one node to run a stage.
pub(crate) fn order(
    prepared: &Prepared,
    stage: &Stage,
    node: &NodeInfo,
    seat: Seat<'_>,
    common: &Common<'_>,
) -> Order {
    let message = StageOrder {
        deployment: common.deployment,
        dispatcher: common.dispatcher.to_owned(),
        epoch: common.epoch,
        model: prepared.name.clone(),
        stage: seat.stage,
        stages: seat.stages,
        crossing: seat.crossing,
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
        skeleton: stage.skeleton.clone(),
    };
    Order { node: node.clone(), message, weights: stage.weights.clone(), operators: stage.operators }
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
