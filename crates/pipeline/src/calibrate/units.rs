//! Which units are timed on a node, and what their times say of the others. Pure.

use super::{NodeTimes, together};
use crate::coding::CodecFactor;
use crate::profile::UnitCost;

/// Kinds of units that are timed: those on which most time goes.
const MAX_KINDS: usize = 4;

/// A representative has at most so many bytes of weights: they are shipped to every node, which may never need them.
const MAX_WEIGHT_BYTES: u64 = 32 << 20;

/// Operators that set a unit's pace, each with what else computes in the same way. A unit is of the first kind of
/// which it has an operator, and of a kind of its own without any.
const KINDS: [&[&str]; 4] = [
    &["Conv", "ConvTranspose", "ConvInteger", "QLinearConv"],
    &["MatMul", "Gemm", "MatMulInteger", "QLinearMatMul", "Einsum"],
    &["LSTM", "GRU", "RNN", "Loop", "Scan", "If"],
    &["Resize", "MaxPool", "AveragePool", "Gather", "Transpose"],
];

/// The kind of a unit with operators of these types.
pub(super) fn kind<'a>(operators: impl Iterator<Item = &'a str> + Clone) -> usize {
    let has = |types: &[&str]| operators.clone().any(|operator| types.contains(&operator));
    KINDS.iter().position(|types| has(types)).unwrap_or(KINDS.len())
}

/// The units to time, by position: of each kind the one that costs most, the kinds that cost most first. `kinds` has
/// the kind of each unit. None when all are too large to be shipped for it.
pub(super) fn representatives(units: &[UnitCost], kinds: &[usize]) -> Vec<usize> {
    let mut totals = [0.0; KINDS.len() + 1];
    std::iter::zip(units, kinds).for_each(|(unit, &kind)| totals[kind] += unit.seconds);
    let mut order: Vec<usize> = (0..totals.len()).collect();
    order.sort_by(|&a, &b| totals[b].total_cmp(&totals[a]));
    let costliest = |kind: usize| {
        let fit = (0..units.len()).filter(|&i| kinds[i] == kind && units[i].weight_bytes <= MAX_WEIGHT_BYTES);
        fit.max_by(|&a, &b| units[a].seconds.total_cmp(&units[b].seconds))
    };
    order.into_iter().filter_map(costliest).take(MAX_KINDS).collect()
}

/// The seconds of every unit on a node that took so long for some of them: `timed` has their positions and seconds.
/// A unit is slower or faster there by the factor of the one of its kind, or, where none was timed, of the one whose
/// time is the closest to its own. `None` when nothing was timed.
pub(super) fn unit_seconds(units: &[UnitCost], kinds: &[usize], timed: &[(usize, f64)]) -> Option<Vec<f64>> {
    let seconds = |i: usize| units[i].seconds.max(f64::MIN_POSITIVE);
    let factor = |i: usize| {
        let apart = |j: usize| (kinds[i] != kinds[j], (seconds(i) / seconds(j)).ln().abs());
        let by_distance = |a: usize, b: usize| {
            let ((kind_a, time_a), (kind_b, time_b)) = (apart(a), apart(b));
            kind_a.cmp(&kind_b).then(time_a.total_cmp(&time_b))
        };
        let nearest = timed.iter().min_by(|(a, _), (b, _)| by_distance(*a, *b))?;
        Some(nearest.1 / seconds(nearest.0))
    };
    (0..units.len()).map(|i| Some(seconds(i) * factor(i)?)).collect()
}

/// Takes for equal what the measurements cannot tell apart: nodes that describe themselves alike and whose times
/// differ by no more than `tolerance` and their own errors, as shares, all get the mean of their times. Without
/// this the planner would order equal nodes by noise. `alike` says who describes himself as whom.
pub(super) fn level(nodes: &mut [Option<NodeTimes>], alike: &dyn Fn(usize, usize) -> bool, tolerance: f64) {
    let total = |times: &NodeTimes| times.unit_seconds.iter().sum::<f64>();
    let mut order: Vec<(usize, f64)> =
        nodes.iter().enumerate().filter_map(|(i, times)| Some((i, total(times.as_ref()?)))).collect();
    order.sort_by(|a, b| a.1.total_cmp(&b.1));
    while let Some(&(first, least)) = order.first() {
        let error = |i: usize| nodes[i].as_ref().map_or(0.0, |times| times.error);
        let near = |&(i, total): &(usize, f64)| {
            alike(first, i) && total <= least * (1.0 + tolerance + error(first) + error(i))
        };
        let (group, rest): (Vec<_>, Vec<_>) = order.iter().partition(|other| near(other));
        order = rest;
        let times: Vec<NodeTimes> = group.iter().filter_map(|&(i, _)| nodes[i].clone()).collect();
        let mean = mean(&times);
        group.iter().for_each(|&(i, _)| nodes[i] = Some(mean.clone()));
    }
}

fn mean(nodes: &[NodeTimes]) -> NodeTimes {
    let units = nodes.first().map_or(0, |times| times.unit_seconds.len());
    let mean = |of: &dyn Fn(&NodeTimes) -> f64| nodes.iter().map(of).sum::<f64>() / nodes.len() as f64;
    NodeTimes {
        unit_seconds: (0..units).map(|u| mean(&|times| times.unit_seconds[u])).collect(),
        overhead: together(nodes.iter().map(|times| times.overhead)),
        pace: mean(&|times| times.pace),
        error: nodes.iter().map(|times| times.error).fold(0.0, f64::max),
        codecs: mean_codecs(nodes),
    }
}

/// Of the nodes whose codecs were timed.
fn mean_codecs(nodes: &[NodeTimes]) -> Vec<CodecFactor> {
    let timed: Vec<&[CodecFactor]> =
        nodes.iter().map(|times| &times.codecs[..]).filter(|c| !c.is_empty()).collect();
    let Some(first) = timed.first() else { return Vec::new() };
    let mean = |i: usize| {
        // All have timed the same list.
        let of = |factor: fn(&CodecFactor) -> f64| {
            timed.iter().map(|codecs| factor(&codecs[i])).sum::<f64>() / timed.len() as f64
        };
        CodecFactor { codec: first[i].codec, encode: of(|f| f.encode), decode: of(|f| f.decode) }
    };
    (0..first.len()).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::{Moved, Overhead};

    const CONV: usize = 0;
    const MATMUL: usize = 1;
    const OTHER: usize = KINDS.len();

    fn unit(seconds: f64, weight_bytes: u64) -> UnitCost {
        UnitCost { seconds, half_width_seconds: 0.0, operators: 1, weight_bytes, activation_bytes: 0 }
    }

    #[test]
    fn a_unit_is_of_the_kind_that_sets_its_pace() {
        for (operators, expected) in [
            (&["Relu", "Conv", "MatMul"][..], CONV),
            (&["Add", "Gemm"], MATMUL),
            (&["Add", "Relu"], OTHER),
            (&[], OTHER),
        ] {
            assert_eq!(kind(operators.iter().copied()), expected, "{operators:?}");
        }
    }

    #[test]
    fn every_kind_has_one_that_can_be_shipped() {
        let units = [unit(1.0, 5), unit(3.0, 5), unit(9.0, MAX_WEIGHT_BYTES + 1), unit(8.0, 5), unit(0.1, 0)];
        let kinds = [CONV, CONV, MATMUL, MATMUL, OTHER];
        assert_eq!(representatives(&units, &kinds), [3, 1, 4]);
        assert_eq!(representatives(&units[2..3], &[MATMUL]), [0; 0]);
    }

    #[test]
    fn units_follow_the_one_of_their_kind_or_of_their_size() {
        let units = [unit(1.0, 0), unit(4.0, 0), unit(2.0, 0), unit(3.9, 0), unit(0.9, 0)];
        let kinds = [CONV, CONV, MATMUL, OTHER, OTHER];
        let found = unit_seconds(&units, &kinds, &[(1, 40.0), (2, 2.0)]).unwrap();
        assert_eq!(found, [10.0, 40.0, 2.0, 39.0, 0.9]);
        assert_eq!(unit_seconds(&units, &kinds, &[]), None);
    }

    #[test]
    fn what_cannot_be_told_apart_is_equal() {
        let check = |nodes: &[(f64, f64)], machines: &[u8], expected: &[f64]| {
            let times = |&(seconds, error)| {
                Some(NodeTimes {
                    unit_seconds: vec![seconds],
                    overhead: None,
                    pace: 1.0,
                    error,
                    codecs: vec![],
                })
            };
            let mut nodes: Vec<Option<NodeTimes>> = nodes.iter().map(times).collect();
            nodes.push(None);
            level(&mut nodes, &|a, b| machines[a] == machines[b], 0.05);
            let levelled: Vec<f64> = nodes.iter().flatten().map(|times| times.unit_seconds[0]).collect();
            assert_eq!(levelled, expected);
            assert_eq!(nodes.last(), Some(&None));
        };
        check(&[(1.0, 0.0), (1.03125, 0.0), (1.5, 0.0)], &[0, 0, 0], &[1.015625, 1.015625, 1.5]);
        check(&[(1.5, 0.25), (1.0, 0.25)], &[0, 0], &[1.25, 1.25]);
        check(&[(1.5, 0.2), (1.0, 0.2)], &[0, 0], &[1.5, 1.0]);
        check(&[(1.0, 0.0), (1.0, 0.0), (1.03125, 0.0)], &[0, 1, 0], &[1.015625, 1.0, 1.015625]);

        // What they did before makes no difference among equals, and is then that of all of them.
        let of = |overhead| {
            Some(NodeTimes { unit_seconds: vec![1.0], overhead, pace: 1.0, error: 0.0, codecs: vec![] })
        };
        let [one, other] =
            [0.1, 0.2].map(|excess| Overhead::of_stage(Moved { bytes: 1e9, frames: 200.0 }, excess).unwrap());
        for (known, expected) in [
            ([Some(one), None, Some(other)], Some(one + other)),
            ([None, None, Some(one)], Some(one)),
            ([None; 3], None),
        ] {
            let mut nodes = known.map(of);
            level(&mut nodes, &|_, _| true, 0.05);
            assert_eq!(nodes, [expected; 3].map(of), "{known:?}");
        }
    }
}
