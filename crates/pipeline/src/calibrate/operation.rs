//! How much longer nodes take in operation than when their stages were timed before: learnt from runs for those after
//! them. Called after a run by whoever looked at its chain, and before the next one by the calibration.
//!
//! A stage that is timed before it is connected takes no turns with threads that receive and send. The factor is that of
//! its computation: all CPU time of the node but what it took for encoding, decoding and moving, by the node's own clocks
//! and not by what the plan said of them. Where a plan is wrong of a codec, the next one, with other codecs, is not.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use serde::{Deserialize, Serialize};
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
pub(crate) const MIN_ITEMS: u64 = 20;

/// How much of the model a stage has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// Some of its units.
    Part,
}

impl Extent {
    const ALL: [Extent; 2] = [Extent::Whole, Extent::Part];

    fn other(self) -> Extent {
        match self {
            Extent::Whole => Extent::Part,
            Extent::Part => Extent::Whole,
        }
    }

    /// That of a stage of these units, in a model that has so many.
    #[must_use]
    pub fn of(units: &Range<usize>, all: usize) -> Extent {
        if units.len() == all { Extent::Whole } else { Extent::Part }
    }
}

/// How many times as long units compute in operation as when their stage is timed before it is connected, as far as it is
/// known. A stage that is the whole model moves little, and says little of what the tensors between parts slow down.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slowdown {
    whole: ByUnit,
    parts: ByUnit,
}

impl Slowdown {
    /// A stage of these units, in a model that has so many, computed so many times as long; of others nothing is known.
    #[must_use]
    pub fn of_stage(units: Range<usize>, all: usize, factor: f64) -> Slowdown {
        let (extent, mut slowdown) = (Extent::of(&units, all), Slowdown::default());
        slowdown.known_mut(extent).take_in(units, Some(factor));
        slowdown
    }

    /// Whether it was looked for in a stage of this extent, even if nothing was found.
    #[must_use]
    pub fn was_seen(&self, extent: Extent) -> bool {
        !self.known(extent).0.is_empty()
    }

    /// That of a unit in a stage of this extent, or of the nearest one of which it is known; where none is, that in one of
    /// the other, and 1 if that is not known either.
    #[must_use]
    pub fn of(&self, extent: Extent, unit: usize) -> f64 {
        let nearest = |extent| self.known(extent).nearest(unit);
        nearest(extent).or_else(|| nearest(extent.other())).unwrap_or(1.0)
    }

    /// By unit, the mean of those of which it is known.
    #[must_use]
    pub(super) fn mean(all: &[Slowdown]) -> Slowdown {
        let mean =
            |extent| ByUnit::mean(&all.iter().map(|slowdown| slowdown.known(extent)).collect::<Vec<_>>());
        Slowdown { whole: mean(Extent::Whole), parts: mean(Extent::Part) }
    }

    /// Forgets what was known of units of which `found` knows more.
    pub(super) fn replace(&mut self, found: &Slowdown) {
        Extent::ALL.into_iter().for_each(|extent| self.known_mut(extent).replace(found.known(extent)));
    }

    fn known(&self, extent: Extent) -> &ByUnit {
        match extent {
            Extent::Whole => &self.whole,
            Extent::Part => &self.parts,
        }
    }

    fn known_mut(&mut self, extent: Extent) -> &mut ByUnit {
        match extent {
            Extent::Whole => &mut self.whole,
            Extent::Part => &mut self.parts,
        }
    }
}

/// The factors of units in stages of one extent: units with large tensors are slowed down most by what moves these. Empty
/// when nobody has looked.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
struct ByUnit(Vec<Option<f64>>);

impl ByUnit {
    fn nearest(&self, unit: usize) -> Option<f64> {
        let known =
            self.0.iter().enumerate().filter_map(|(at, factor)| Some((at.abs_diff(unit), (*factor)?)));
        known.min_by_key(|(distance, _)| *distance).map(|(_, factor)| factor)
    }

    fn mean(all: &[&ByUnit]) -> ByUnit {
        let units = all.iter().map(|by_unit| by_unit.0.len()).max().unwrap_or(0);
        let mean = |unit: usize| {
            let known = all.iter().filter_map(|by_unit| *by_unit.0.get(unit)?);
            let (sum, count) = known.fold((0.0, 0), |(sum, count), factor| (sum + factor, count + 1));
            (count > 0).then(|| sum / f64::from(count))
        };
        ByUnit((0..units).map(mean).collect())
    }

    fn take_in(&mut self, units: Range<usize>, found: Option<f64>) {
        self.0.resize(self.0.len().max(units.end), None);
        let Some(found) = found else { return };
        for known in &mut self.0[units] {
            *known = Some(known.map_or(found, |before| before + TAKEN_IN * (found - before)));
        }
    }

    fn replace(&mut self, found: &ByUnit) {
        self.0.resize(self.0.len().max(found.0.len()), None);
        for (known, found) in std::iter::zip(&mut self.0, &found.0) {
            *known = found.or(*known);
        }
    }

    fn is_sound(&self, units: usize) -> bool {
        self.0.len() <= units && self.0.iter().flatten().all(|factor| FACTORS.contains(factor))
    }
}

/// Keeps what a run of this model says of its nodes, for the next time that they are calibrated: `figures` is what
/// each stage did in that run, from two looks with [`Pipeline::measure`]. Without a store, with too few items, or
/// where stages were not timed before, nothing is kept; nor of nodes that mostly waited.
pub fn keep_operation(
    prepared: &Prepared,
    chain: &Pipeline,
    figures: &[StageFigures],
    options: &CalibrateOptions,
) {
    let found = slowdowns(chain, figures);
    let units = chain.stages().iter().map(|stage| chain.plan().stages[stage.stage].units.clone());
    let nodes = chain.stages().iter().map(|stage| &stage.node);
    let found = std::iter::zip(nodes, std::iter::zip(units, found));
    let found = found.filter_map(|(node, (units, factor))| Some((node, units, Some(factor?))));
    // What its own rehearsal has found is not from before.
    let (all, rehearsed) = (prepared.profile.units.len(), chain.rehearsed());
    let is_own = |node: &NodeInfo, extent| {
        rehearsed.iter().any(|found| found.node.id == node.id && Extent::of(&found.units, all) == extent)
    };
    keep(prepared, options, &|node, extent| options.fresh && !is_own(node, extent), found);
}

/// Keeps what the rehearsal of a chain found of its nodes, if there was one, as [`keep_operation`] does with a run; and
/// that there was one, so that there is no other.
pub fn keep_rehearsal(prepared: &Prepared, chain: &Pipeline, options: &CalibrateOptions) {
    let found = chain.rehearsed().iter();
    let found = found.map(|found| (&found.node, found.units.clone(), found.slowdown));
    keep(prepared, options, &|_, _| options.fresh, found);
}

/// What was known of a node in stages of an extent is forgotten where `is_fresh`.
fn keep<'a>(
    prepared: &Prepared,
    options: &CalibrateOptions,
    is_fresh: &dyn Fn(&NodeInfo, Extent) -> bool,
    found: impl Iterator<Item = (&'a NodeInfo, Range<usize>, Option<f64>)>,
) {
    let Some(store) = options.store.clone().map(Store::new) else { return };
    let (model, all) = (format!("{:?}", prepared.model.hash()), prepared.profile.units.len());
    for (node, units, factor) in found {
        let extent = Extent::of(&units, all);
        let mut known = match is_fresh(node, extent) {
            true => ByUnit::default(),
            false => kept(&store, &model, all, node, extent, options.now),
        };
        if factor.is_none() && !known.0.is_empty() {
            continue; // what is known grows old all the same
        }
        known.take_in(units, factor);
        if let Err(e) = store.put(&key(&model, node, extent), &(options.now, known)) {
            tracing::warn!("figures could not be kept: {e}");
        }
    }
}

/// By stage, or by node where one has several: how many times as long it computed as it was timed at. Nothing of a node
/// that did few items, mostly waited or says nonsense, and of none where one did nothing or was not timed.
pub(crate) fn slowdowns(chain: &Pipeline, figures: &[StageFigures]) -> Vec<Option<f64>> {
    let times: Option<Vec<StageTime>> = chain.stages().iter().map(|stage| stage.time).collect();
    let (Some(times), Some(operation)) = (times, chain.in_operation(figures)) else {
        return vec![None; figures.len()];
    };
    let found = std::iter::zip(factors(&times, &operation, figures), figures).enumerate();
    // Not finite is what a node says nonsense of itself by.
    let is_sound = |i: usize, factor: f64, figures: &StageFigures| {
        factor.is_finite() && figures.items >= MIN_ITEMS && is_busy(operation.busy_seconds[i], figures)
    };
    found.map(|(i, (factor, figures))| is_sound(i, factor, figures).then_some(factor)).collect()
}

/// What is known of a node, for a model of so many units.
pub(super) fn known(store: &Store, model: &str, units: usize, node: &NodeInfo, now: Duration) -> Slowdown {
    let kept = |extent| kept(store, model, units, node, extent, now);
    Slowdown { whole: kept(Extent::Whole), parts: kept(Extent::Part) }
}

/// What is kept of a node, and not too old.
fn kept(store: &Store, model: &str, units: usize, node: &NodeInfo, extent: Extent, now: Duration) -> ByUnit {
    let kept: Option<(Duration, ByUnit)> = store.get(&key(model, node, extent));
    let young = |at| now.checked_sub(at).is_some_and(|age| age <= TIME_AGE);
    kept.filter(|(at, known)| young(*at) && known.is_sound(units)).unwrap_or_default().1
}

/// By name too, as the times of units: see there. The engine is in the fingerprint.
fn key(model: &str, node: &NodeInfo, extent: Extent) -> String {
    let (name, version) = (&node.description.name, env!("CARGO_PKG_VERSION"));
    let fingerprint = node.description.fingerprint();
    let what = match extent {
        Extent::Whole => "the whole",
        Extent::Part => "parts",
    };
    format!("version {version}, computing {what} of {model} in operation on {name}: {fingerprint}")
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

    use super::Extent::{Part, Whole};
    use super::*;

    #[test]
    fn what_is_not_known_of_a_unit_is_taken_from_the_nearest() {
        let mut known = ByUnit::default();
        assert_eq!(known.nearest(3), None);
        known.take_in(0..1, None);
        assert_eq!((known.nearest(3), known.0.is_empty()), (None, false));
        known.take_in(1..2, Some(1.5));
        known.take_in(4..6, Some(1.2));
        let expected = [1.5, 1.5, 1.5, 1.2, 1.2, 1.2, 1.2].map(Some);
        assert_eq!([0, 1, 2, 3, 4, 5, 9].map(|unit| known.nearest(unit)), expected);
        known.take_in(5..7, Some(1.5));
        let found = [4, 5, 6].map(|unit| known.nearest(unit).unwrap());
        assert!(std::iter::zip(found, [1.2, 1.3, 1.5]).all(|(a, b)| (a - b).abs() < 1e-9), "{found:?}");
        assert!(known.is_sound(7) && !known.is_sound(6));
        for unsound in [1.6, f64::NAN] {
            assert!(!ByUnit(vec![Some(unsound)]).is_sound(1), "{unsound}");
        }
        let mean = Slowdown::mean(&[Slowdown::of_stage(0..2, 9, 1.0), Slowdown::of_stage(1..3, 9, 1.25)]);
        assert_eq!([0, 1, 2].map(|unit| mean.of(Part, unit)), [1.0, 1.125, 1.25]);
    }

    #[test]
    fn a_whole_model_is_another_matter_than_its_parts() {
        let all =
            |slowdown: &Slowdown| [Whole, Part].map(|extent| [0, 1].map(|unit| slowdown.of(extent, unit)));
        let seen = |slowdown: &Slowdown| [Whole, Part].map(|extent| slowdown.was_seen(extent));
        let nothing = Slowdown::default();
        assert_eq!((all(&nothing), seen(&nothing)), ([[1.0; 2]; 2], [false; 2]));
        let mut slowdown = Slowdown::of_stage(0..2, 2, 1.1);
        assert_eq!((all(&slowdown), seen(&slowdown)), ([[1.1; 2]; 2], [true, false]));
        slowdown.replace(&Slowdown::of_stage(1..2, 2, 1.4));
        assert_eq!((all(&slowdown), seen(&slowdown)), ([[1.1; 2], [1.4; 2]], [true; 2]));
        slowdown.replace(&Slowdown::of_stage(0..2, 2, 1.2));
        slowdown.replace(&Slowdown::of_stage(0..1, 2, 1.3));
        assert_eq!(all(&slowdown), [[1.2; 2], [1.3, 1.4]]);
        let mean = Slowdown::mean(&[slowdown, Slowdown::of_stage(0..1, 2, 1.5)]);
        assert_eq!(all(&mean), [[1.2; 2], [1.4; 2]]);
        let parts = Slowdown::of_stage(0..1, 2, 1.5);
        assert_eq!((all(&parts), seen(&parts)), ([[1.5; 2]; 2], [false, true]));
    }

    #[test]
    fn what_is_kept_of_the_whole_grows_old_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let (store, node) = (Store::new(folder.path().to_owned()), NodeInfo::imagined("a", 1, 0));
        let day = |days: u64| Duration::from_secs(days * 86_400);
        for (extent, at) in [(Whole, day(0)), (Part, day(6))] {
            store.put(&key("m", &node, extent), &(at, ByUnit(vec![Some(1.25)]))).unwrap();
        }
        for (now, seen) in [(6, [true, true]), (8, [false, true]), (14, [false, false])] {
            let known = known(&store, "m", 1, &node, day(now));
            assert_eq!([Whole, Part].map(|extent| known.was_seen(extent)), seen, "day {now}");
        }
    }

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
