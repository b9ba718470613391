//! How much longer nodes take in operation than when they were timed alone: learnt from one run for the next. Called
//! after a run by whoever looked at its chain, and before the next one by the calibration.
//!
//! A stage that is timed alone neither receives nor sends and has its caches for itself. The factor is that of the
//! node's own computation, so that what the cost model says of receiving and sending is not counted twice.

use std::ops::RangeInclusive;
use std::time::Duration;

use plan::Plan;
use wire::control::{StageFigures, StageTime};

use super::{CalibrateOptions, TIME_AGE};
use crate::cluster::NodeInfo;
use crate::dispatcher::Pipeline;
use crate::operation::Operation;
use crate::prepare::Prepared;
use crate::store::Store;

/// Factors beyond these are those of a machine that did something else as well.
const FACTORS: RangeInclusive<f64> = 0.8..=1.5;

/// Fewer items say more of how a chain fills than of what an item takes.
const MIN_ITEMS: u64 = 20;

/// Keeps what a run of this model says of its nodes, for the next time that they are calibrated: `figures` is what
/// each stage did in that run, from two looks with [`Pipeline::measure`]. Without a store, with too few items, or
/// where stages were not timed before, nothing is kept.
pub fn keep_operation(
    prepared: &Prepared,
    chain: &Pipeline,
    figures: &[StageFigures],
    options: &CalibrateOptions,
) {
    let enough = figures.iter().all(|stage| stage.items >= MIN_ITEMS);
    let Some(store) = options.store.clone().filter(|_| enough).map(Store::new) else { return };
    let times: Option<Vec<StageTime>> = chain.stages().iter().map(|stage| stage.time).collect();
    let (Some(times), Some(operation)) = (times, chain.in_operation(figures)) else { return };
    let model = format!("{:?}", prepared.model.hash());
    let factors = factors(chain.plan(), &times, &operation);
    for (stage, factor) in std::iter::zip(chain.stages(), factors) {
        if let Err(e) = store.put(&key(&model, &stage.node), &(options.now, factor)) {
            tracing::warn!("figures could not be kept: {e}");
        }
    }
}

/// The factor that was kept for a node; 1 where none is known.
pub(super) fn known(store: &Store, model: &str, node: &NodeInfo, now: Duration) -> f64 {
    let kept: Option<(Duration, f64)> = store.get(&key(model, node));
    let young = |at| now.checked_sub(at).is_some_and(|age| age <= TIME_AGE);
    kept.filter(|(at, factor)| young(*at) && FACTORS.contains(factor)).map_or(1.0, |(_, factor)| factor)
}

/// By name too, as the times of units: see there. The engine is in the fingerprint.
fn key(model: &str, node: &NodeInfo) -> String {
    let (name, version) = (&node.description.name, env!("CARGO_PKG_VERSION"));
    format!("version {version}, operation of {model} on {name}: {}", node.description.fingerprint())
}

/// By stage: seconds of computation in operation over those that it was timed at alone, within [`FACTORS`].
fn factors(plan: &Plan, times: &[StageTime], operation: &Operation) -> Vec<f64> {
    let replicas = plan.stages.iter().flat_map(|stage| &stage.replicas);
    let factor = |((replica, time), busy): ((&plan::Replica, &StageTime), &f64)| {
        let besides = replica.busy_seconds - replica.compute_seconds;
        ((busy - besides) / time.sustained_seconds()).clamp(*FACTORS.start(), *FACTORS.end())
    };
    std::iter::zip(std::iter::zip(replicas, times), &operation.busy_seconds).map(factor).collect()
}
