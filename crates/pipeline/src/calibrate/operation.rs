//! How much longer nodes take in operation than when their stages were timed before: learnt from runs for those after
//! them. Called after a run by whoever looked at its chain, and before the next one by the calibration.
//!
//! A stage that is timed before it is connected takes no turns with threads that receive and send. The factor is that of
//! its computation: all CPU time of the node but what it took for encoding, decoding and moving, by the node's own clocks
//! and not by what the plan said of them. Where a plan is wrong of a codec, the next one, with other codecs, is not.

use std::ops::RangeInclusive;
use std::time::Duration;

use wire::control::{StageFigures, StageTime};

use super::{CalibrateOptions, TIME_AGE};
use crate::cluster::NodeInfo;
use crate::dispatcher::Pipeline;
use crate::operation::Operation;
use crate::prepare::Prepared;
use crate::store::Store;

/// Factors beyond these are those of a machine that did something else as well.
const FACTORS: RangeInclusive<f64> = 0.8..=1.5;

/// How much of what a run finds is taken in, of the difference to what those before it found: a machine is some per cent
/// faster or slower from one run to the next.
const TAKEN_IN: f64 = 1.0 / 3.0;

/// A node that waited for more of its time says little of what an item takes: what it does whether items come or not is
/// then a large part of its CPU time.
const LEAST_BUSY: f64 = 0.5;

/// Fewer items say more of how a chain fills than of what an item takes.
const MIN_ITEMS: u64 = 20;

/// Keeps what a run of this model says of its nodes, for the next time that they are calibrated: `figures` is what
/// each stage did in that run, from two looks with [`Pipeline::measure`]. Without a store, with too few items, or
/// where stages were not timed before, nothing is kept; nor of nodes that mostly waited.
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
    let factors = factors(&times, &operation, figures);
    for (i, (stage, found)) in std::iter::zip(chain.stages(), factors).enumerate() {
        // Not finite is what a node says nonsense of itself by.
        if !is_busy(operation.busy_seconds[i], &figures[i]) || !found.is_finite() {
            continue;
        }
        let before = kept(&store, &model, &stage.node, options.now).filter(|_| !options.fresh);
        let factor = before.map_or(found, |before| before + TAKEN_IN * (found - before));
        if let Err(e) = store.put(&key(&model, &stage.node), &(options.now, factor)) {
            tracing::warn!("figures could not be kept: {e}");
        }
    }
}

/// The factor that was kept for a node; 1 where none is known.
pub(super) fn known(store: &Store, model: &str, node: &NodeInfo, now: Duration) -> f64 {
    kept(store, model, node, now).unwrap_or(1.0)
}

fn kept(store: &Store, model: &str, node: &NodeInfo, now: Duration) -> Option<f64> {
    let kept: Option<(Duration, f64)> = store.get(&key(model, node));
    let young = |at| now.checked_sub(at).is_some_and(|age| age <= TIME_AGE);
    kept.filter(|(at, factor)| young(*at) && FACTORS.contains(factor)).map(|(_, factor)| factor)
}

/// By name too, as the times of units: see there. The engine is in the fingerprint.
fn key(model: &str, node: &NodeInfo) -> String {
    let (name, version) = (&node.description.name, env!("CARGO_PKG_VERSION"));
    format!("version {version}, computing {model} in operation on {name}: {}", node.description.fingerprint())
}

/// Whether a node was busy for most of a run, at so many seconds for an item.
fn is_busy(busy_seconds: f64, figures: &StageFigures) -> bool {
    busy_seconds * figures.items as f64 >= LEAST_BUSY * figures.elapsed_seconds
}

/// By stage: seconds of computation in operation over those that it was timed at, within [`FACTORS`].
fn factors(times: &[StageTime], operation: &Operation, figures: &[StageFigures]) -> Vec<f64> {
    let factor = |((time, busy), figures): ((&StageTime, &f64), &StageFigures)| {
        let moved = figures.encode_cpu_seconds + figures.decode_cpu_seconds + figures.move_cpu_seconds;
        let besides = moved / figures.items as f64 * time.pace();
        ((busy - besides) / time.sustained_seconds()).clamp(*FACTORS.start(), *FACTORS.end())
    };
    std::iter::zip(std::iter::zip(times, &operation.busy_seconds), figures).map(factor).collect()
}

#[cfg(test)]
mod tests {
    use plan::Resource;

    use super::*;

    #[test]
    fn who_mostly_waited_is_not_learnt_from() {
        let run = |elapsed_seconds| StageFigures { items: 10, elapsed_seconds, ..StageFigures::default() };
        for (busy_seconds, elapsed, expected) in [(1.0, 10.5, true), (1.0, 20.0, true), (1.0, 21.0, false)] {
            assert_eq!(is_busy(busy_seconds, &run(elapsed)), expected, "{elapsed}");
        }
    }

    #[test]
    fn what_moves_tensors_is_no_computation() {
        // Timed at a second for an item under a quota of a quarter of a core; 0.1 of 0.36 s of CPU time moved tensors.
        let time = StageTime { mean_seconds: 1.0, cpu_seconds: 0.25, ..StageTime::default() };
        let figures = StageFigures {
            items: 10,
            encode_cpu_seconds: 0.5,
            decode_cpu_seconds: 0.3,
            move_cpu_seconds: 0.2,
            process_cpu_seconds: 3.6,
            ..StageFigures::default()
        };
        let operation = |busy: f64| Operation {
            busy_seconds: vec![busy],
            period: busy,
            latency: busy,
            bottleneck: Resource::Device(0),
        };
        for (busy, expected) in [(0.36 * 4.0, 1.04), (0.4, 0.8), (4.0, 1.5)] {
            let found = factors(&[time], &operation(busy), &[figures]);
            assert!((found[0] - expected).abs() < 1e-9, "{found:?}");
        }
    }
}
