//! How much longer nodes are busy in operation than plans say: learnt from runs for those after them. Called after a run
//! by whoever looked at its chain, and before the next one by the calibration.
//!
//! A stage that is timed before it is connected takes no turns with threads that receive and send, and finds in the
//! caches what it left there; and what moving and coding take is known from bursts. What a stage takes besides goes by the
//! bytes of its tensors, before any codec, and by the frame: [`Overhead`].

use std::iter::Sum;
use std::ops::{Add, RangeInclusive};
use std::time::Duration;

use plan::Replica;
use serde::{Deserialize, Serialize};
use wire::control::{StageFigures, StageTime};

use super::{CalibrateOptions, TIME_AGE};
use crate::cluster::NodeInfo;
use crate::dispatcher::{DeployedStage, Pipeline};
use crate::prepare::Prepared;
use crate::store::Store;

/// By such a share of what it computes a stage is busy longer, 0.1 for 10 %. Beyond, its machine did something else as well.
const EXCESS: RangeInclusive<f64> = -0.2..=0.5;

/// Bytes of tensors in and out for each CPU second that a stage computes, where it says something of what they cost. With
/// fewer, such as of whole models, even half a nanosecond a byte makes no more than timing errs by; with more, a stage
/// hardly computes.
const TRAFFIC: RangeInclusive<f64> = 5e7..=1e9;

/// Costs within this range can be planned with: less is nothing, seconds; more is no cost of a byte or a frame.
const COSTS: RangeInclusive<f64> = 1e-15..=1.0;

/// Moving and coding take no larger part of what a stage computes; beyond, plans are wrong of them, as of ZFP, more than of
/// all else.
const MOST_MOVING: f64 = 0.5;

/// What is found counts as if a stage of so many bytes and frames for each CPU second had shown nothing: from stages that
/// hardly move anything, little is concluded of those that do.
const PRIOR: Moved = Moved { bytes: 1e8, frames: 200.0 };

/// How much of what a run finds is taken in, against what those before it found, once there were many: a machine is some
/// per cent faster or slower from one run to the next.
const TAKEN_IN: f64 = 1.0 / 3.0;

/// A node that waited for more of its time says little of what an item takes: what it does whether items come or not is
/// then a large part of its CPU time.
const LEAST_BUSY: f64 = 0.5;

/// Nothing is learnt of a node from fewer items of its own: they say more of how a chain fills than of what an item takes.
pub const MIN_ITEMS: u64 = 20;

/// What goes through a stage for each CPU second that it computes, in and out.
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    /// Bytes of tensors, before any codec.
    pub bytes: f64,
    /// Frames.
    pub frames: f64,
}

/// CPU time that moving tensors costs a node in operation, beyond what plans know of codecs and bytes, as found in runs
/// before: the least squares of the shares by which stages were busy longer than they compute, over what went through
/// each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Overhead {
    // Sums of products, of what is in the names.
    bytes_bytes: f64,
    bytes_frames: f64,
    frames_frames: f64,
    bytes_excess: f64,
    frames_excess: f64,
}

/// CPU seconds that a node takes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OverheadCosts {
    /// For each byte of tensors in or out, before any codec.
    pub per_byte: f64,
    /// For each frame in or out.
    pub per_frame: f64,
}

impl Overhead {
    /// What a stage shows through which so much goes, and that was busy longer by a share `excess` of what it computes, 0.1
    /// for 10 %; `None` where it hardly moves tensors, or hardly computes.
    #[must_use]
    pub fn of_stage(moved: Moved, excess: f64) -> Option<Overhead> {
        let Moved { bytes, frames } = moved;
        if !TRAFFIC.contains(&bytes) || !frames.is_finite() || !excess.is_finite() {
            return None;
        }
        let excess = excess.clamp(*EXCESS.start(), *EXCESS.end());
        Some(Overhead {
            bytes_bytes: bytes * bytes,
            bytes_frames: bytes * frames,
            frames_frames: frames * frames,
            bytes_excess: bytes * excess,
            frames_excess: frames * excess,
        })
    }

    /// What explains it best; nothing costs less than nothing.
    #[must_use]
    pub fn costs(self) -> OverheadCosts {
        let (bytes, frames) =
            (self.bytes_bytes + PRIOR.bytes * PRIOR.bytes, self.frames_frames + PRIOR.frames * PRIOR.frames);
        // Above 0: what is prior is in the diagonal alone.
        let determinant = bytes * frames - self.bytes_frames * self.bytes_frames;
        let per_byte = (self.bytes_excess * frames - self.frames_excess * self.bytes_frames) / determinant;
        let per_frame = (self.frames_excess * bytes - self.bytes_excess * self.bytes_frames) / determinant;
        let (per_byte, per_frame) = match (per_byte < 0.0, per_frame < 0.0) {
            (false, false) => (per_byte, per_frame),
            (true, _) => (0.0, self.frames_excess / frames),
            (false, true) => (self.bytes_excess / bytes, 0.0),
        };
        let none_below = |cost: f64| if cost < *COSTS.start() { 0.0 } else { cost };
        OverheadCosts { per_byte: none_below(per_byte), per_frame: none_below(per_frame) }
    }

    /// That of which so much is known that nothing else counts, and that frames cost nothing.
    #[cfg(test)]
    pub(crate) fn of_seconds_per_byte(seconds: f64) -> Overhead {
        let bytes_bytes = 1e9 * PRIOR.bytes * PRIOR.bytes;
        Overhead { bytes_bytes, bytes_excess: seconds * bytes_bytes, ..Overhead::default() }
    }

    /// What is known after a run that found this.
    pub(super) fn after(self, found: Overhead) -> Overhead {
        self.times(1.0 - TAKEN_IN) + found
    }

    fn times(self, factor: f64) -> Overhead {
        Overhead {
            bytes_bytes: factor * self.bytes_bytes,
            bytes_frames: factor * self.bytes_frames,
            frames_frames: factor * self.frames_frames,
            bytes_excess: factor * self.bytes_excess,
            frames_excess: factor * self.frames_excess,
        }
    }

    /// Whether it can be of stages, and planned with.
    fn is_sound(self) -> bool {
        let Overhead { bytes_bytes, bytes_frames, frames_frames, .. } = self;
        // By Cauchy and Schwarz, with what is rounded away.
        let products =
            bytes_frames >= 0.0 && bytes_frames * bytes_frames <= (1.0 + 1e-9) * bytes_bytes * frames_frames;
        let OverheadCosts { per_byte, per_frame } = self.costs();
        let costs = [per_byte, per_frame].iter().all(|cost| *cost == 0.0 || COSTS.contains(cost));
        bytes_bytes >= 0.0 && frames_frames >= 0.0 && products && costs
    }
}

impl Add for Overhead {
    type Output = Overhead;

    fn add(self, other: Overhead) -> Overhead {
        Overhead {
            bytes_bytes: self.bytes_bytes + other.bytes_bytes,
            bytes_frames: self.bytes_frames + other.bytes_frames,
            frames_frames: self.frames_frames + other.frames_frames,
            bytes_excess: self.bytes_excess + other.bytes_excess,
            frames_excess: self.frames_excess + other.frames_excess,
        }
    }
}

impl Sum for Overhead {
    fn sum<I: Iterator<Item = Overhead>>(all: I) -> Overhead {
        all.fold(Overhead::default(), Add::add)
    }
}

/// Keeps what a run of this model says of its nodes, for the next time that they are calibrated: `figures` is what
/// each stage did in that run while the chain was full, [`figures_between`](crate::figures_between) two looks. Without a store, with too
/// few items, where stages were not timed before, or where links changed their codecs meanwhile, nothing is kept; nor of
/// nodes that mostly waited, that move too little or too much for what they compute, or whose speed the user gives.
pub fn keep_operation(
    prepared: &Prepared,
    chain: &Pipeline,
    figures: &[StageFigures],
    options: &CalibrateOptions,
) {
    let nodes = chain.stages().iter().map(|stage| &stage.node);
    let found = std::iter::zip(nodes, overheads(chain, figures));
    let found = found.filter_map(|(node, found)| Some((node, Some(found?))));
    // What its own rehearsal has found is not from before.
    let is_own = |node: &NodeInfo| chain.rehearsed().iter().any(|found| found.node.id == node.id);
    keep(prepared, options, &|node| options.fresh && !is_own(node), found);
}

/// Keeps what the rehearsal of a chain found of its nodes, if there was one, as [`keep_operation`] does with a run; and
/// that there was one, so that there is no other.
pub fn keep_rehearsal(prepared: &Prepared, chain: &Pipeline, options: &CalibrateOptions) {
    let found = chain.rehearsed().iter().map(|found| (&found.node, found.overhead));
    keep(prepared, options, &|_| options.fresh, found);
}

/// What was known of a node is forgotten where `is_fresh`.
fn keep<'a>(
    prepared: &Prepared,
    options: &CalibrateOptions,
    is_fresh: &dyn Fn(&NodeInfo) -> bool,
    found: impl Iterator<Item = (&'a NodeInfo, Option<Overhead>)>,
) {
    let Some(store) = options.store.clone().map(Store::new) else { return };
    let model = format!("{:?}", prepared.model.hash());
    for (node, found) in found {
        let before = if is_fresh(node) { None } else { known(&store, &model, node, options.now) };
        let now = match (before, found) {
            (Some(_), None) => continue, // what is known grows old all the same
            (before, found) => before.unwrap_or_default().after(found.unwrap_or_default()),
        };
        if let Err(e) = store.put(&key(&model, node), &(options.now, now)) {
            tracing::warn!("figures could not be kept: {e}");
        }
    }
}

/// By stage, or by node where one has several: what it shows. Nothing of a node that did few items, mostly waited, moved and
/// coded for longer than it may, says nonsense, or is as fast as the user says; and of none where one did nothing or was
/// not timed, or where links have other codecs than planned.
pub(crate) fn overheads(chain: &Pipeline, figures: &[StageFigures]) -> Vec<Option<Overhead>> {
    let nothing = || vec![None; figures.len()];
    if !chain.runs_as_planned() {
        return nothing();
    }
    let Some(operation) = chain.in_operation(figures) else { return nothing() };
    let of_stage = |(i, stage): (usize, &DeployedStage)| {
        let (busy, figures) = (operation.busy_seconds[i], &figures[i]);
        let (time, replica) = (stage.time.as_ref()?, chain.replica(stage));
        if chain.costs().is_given(replica.device)
            || figures.items < MIN_ITEMS
            || !is_busy(busy, figures)
            || !mostly_computes(time, figures)
        {
            return None;
        }
        let known = chain.costs().overhead_seconds(replica.device, stage.tensor_bytes);
        Overhead::of_stage(stage.moved(time), excess(time, replica, known, busy))
    };
    chain.stages().iter().enumerate().map(of_stage).collect()
}

/// By which share of what a stage was timed at its node is busy longer than with that, and with what the plan has it move
/// and code. Of that, `known` seconds are what was known before of what is looked for.
fn excess(time: &StageTime, planned: &Replica, known: f64, busy_seconds: f64) -> f64 {
    let moving = planned.busy_seconds - planned.compute_seconds - known;
    (busy_seconds - moving) / time.sustained_seconds() - 1.0
}

impl DeployedStage {
    /// Whether so much goes through it for each second that it computes that it shows what that costs.
    pub(crate) fn shows_overhead(&self) -> bool {
        self.time.is_some_and(|time| TRAFFIC.contains(&self.moved(&time).bytes))
    }

    /// What goes through it, by what it was timed at.
    pub(crate) fn moved(&self, time: &StageTime) -> Moved {
        let cpu_seconds = time.sustained_seconds() / time.pace();
        Moved { bytes: self.tensor_bytes as f64 / cpu_seconds, frames: 2.0 / cpu_seconds }
    }
}

/// What is known of a node, for a model, and not too old; `None` if nobody has looked, or found nothing that can be.
pub(super) fn known(store: &Store, model: &str, node: &NodeInfo, now: Duration) -> Option<Overhead> {
    let (at, known): (Duration, Overhead) = store.get(&key(model, node))?;
    let is_young = now.checked_sub(at).is_some_and(|age| age <= TIME_AGE);
    (is_young && known.is_sound()).then_some(known)
}

/// By name too, as the times of units: see there. The engine is in the fingerprint.
fn key(model: &str, node: &NodeInfo) -> String {
    let (name, version) = (&node.description.name, env!("CARGO_PKG_VERSION"));
    let fingerprint = node.description.fingerprint();
    format!("version {version}, overhead with {model} on {name}: {fingerprint}")
}

/// Whether a node was busy for most of a run, at so many seconds for an item.
fn is_busy(busy_seconds: f64, figures: &StageFigures) -> bool {
    busy_seconds * figures.items as f64 >= LEAST_BUSY * figures.elapsed_seconds
}

/// Whether moving and coding take no more than their part. Not where a node says nonsense of itself.
fn mostly_computes(time: &StageTime, figures: &StageFigures) -> bool {
    let moved = figures.encode_cpu_seconds + figures.decode_cpu_seconds + figures.move_cpu_seconds;
    moved / figures.items as f64 * time.pace() <= MOST_MOVING * time.sustained_seconds()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-9 * b.abs()
    }

    /// Stages that compute for so many CPU seconds and move so many bytes, at these costs.
    fn stages(costs: OverheadCosts, stages: &[(f64, f64)]) -> Overhead {
        let found = |&(seconds, bytes): &(f64, f64)| {
            let excess = (costs.per_byte * bytes + 2.0 * costs.per_frame) / seconds;
            Overhead::of_stage(Moved { bytes: bytes / seconds, frames: 2.0 / seconds }, excess).unwrap()
        };
        stages.iter().map(found).sum()
    }

    #[test]
    fn what_bytes_and_frames_cost_is_told_apart() {
        let different = [(0.01, 1e6), (0.008, 5e6), (0.002, 1e6), (0.003, 5e5)];
        for (per_byte, per_frame) in [(0.3e-9, 1.5e-4), (0.3e-9, 0.0), (0.0, 1.5e-4), (0.0, 0.0)] {
            let expected = OverheadCosts { per_byte, per_frame };
            let found = stages(expected, &different).costs();
            // What counts as if it had shown nothing takes some per cent off, and mixes them a little.
            let near = |a: f64, b: f64, all: f64| (a - b).abs() < 0.1 * all;
            assert!(near(found.per_byte, per_byte, 0.3e-9), "{found:?}, not {expected:?}");
            assert!(near(found.per_frame, per_frame, 1.5e-4), "{found:?}, not {expected:?}");
        }
        // Stages that are all alike leave both possible, and neither below 0.
        let alike = stages(OverheadCosts { per_byte: 0.3e-9, per_frame: 0.0 }, &[(0.01, 3e6); 8]).costs();
        let all = alike.per_byte * 3e6 + 2.0 * alike.per_frame;
        assert!(
            alike.per_byte > 0.0 && alike.per_frame >= 0.0 && (all / 0.9e-3 - 1.0).abs() < 0.05,
            "{alike:?}"
        );
        // Faster in operation: nothing costs less than nothing.
        for excess in [[-0.1, -0.1], [-0.1, 0.4], [0.4, -0.1]] {
            let moved = [(1e9, 100.0), (1e8, 900.0)].map(|(bytes, frames)| Moved { bytes, frames });
            let found: Overhead =
                std::iter::zip(moved, excess).filter_map(|(m, e)| Overhead::of_stage(m, e)).sum();
            let OverheadCosts { per_byte, per_frame } = found.costs();
            let expected = excess.map(|excess| excess > 0.0);
            assert_eq!([per_byte > 0.0, per_frame > 0.0], expected, "{per_byte:e} {per_frame:e}");
        }
    }

    #[test]
    fn only_what_stages_can_have_shown_counts() {
        let of = |bytes, frames, excess| Overhead::of_stage(Moved { bytes, frames }, excess);
        for (bytes, frames, excess) in [
            (4.9e7, 100.0, 0.1),
            (1.1e9, 100.0, 0.1),
            (f64::INFINITY, 100.0, 0.1),
            (f64::NAN, 100.0, 0.1),
            (1e9, f64::INFINITY, 0.1),
            (1e9, 100.0, f64::NAN),
        ] {
            assert_eq!(of(bytes, frames, excess), None, "{bytes} {frames} {excess}");
        }
        assert_eq!(of(1e9, 100.0, 9.0), of(1e9, 100.0, 0.5));
        assert_eq!(of(1e9, 100.0, -9.0), of(1e9, 100.0, -0.2));
        assert_eq!(Overhead::default().costs(), OverheadCosts::default());
    }

    #[test]
    fn a_third_of_what_runs_find_is_taken_in() {
        let found = |excess| Overhead::of_stage(Moved { bytes: 1e9, frames: 1.0 }, excess).unwrap();
        let of = |known: Overhead| known.costs().per_byte / found(0.1).costs().per_byte;
        let mut known = Overhead::default().after(found(0.1));
        assert!(close(of(known), 1.0));
        for _ in 0..30 {
            known = known.after(found(0.1));
        }
        let (before, then) = (of(known), of(known.after(found(0.4))));
        assert!((then / before - 2.0).abs() < 0.01, "{then} after {before}");
        // Of two runs, the last counts a little more.
        let second = of(Overhead::default().after(found(0.1)).after(found(0.4)));
        assert!((2.6..3.0).contains(&second), "{second}");
        assert!(known.after(Overhead::default()).is_sound());
    }

    #[test]
    fn what_no_run_can_have_found_is_not_known() {
        let folder = tempfile::tempdir().unwrap();
        let (store, node) = (Store::new(folder.path().to_owned()), NodeInfo::imagined("a", 1, 0));
        let day = |days: u64| Duration::from_secs(days * 86_400);
        let keep = |known: Overhead| store.put(&key("m", &node), &(day(2), known)).unwrap();
        let sound = Overhead::of_stage(Moved { bytes: 1e8, frames: 200.0 }, 0.1).unwrap();
        assert_eq!(known(&store, "m", &node, day(2)), None);
        keep(sound);
        for (at, expected) in [(2, Some(sound)), (9, Some(sound)), (10, None), (1, None)] {
            assert_eq!(known(&store, "m", &node, day(at)), expected, "day {at}");
        }
        assert_eq!(known(&store, "other", &node, day(2)), None);
        for unsound in [
            Overhead { bytes_bytes: -1.0, ..sound },
            Overhead { frames_frames: f64::NAN, ..sound },
            Overhead { bytes_frames: 1.1 * sound.bytes_frames, ..sound },
            Overhead { bytes_excess: 1e17, ..sound },
            Overhead { frames_excess: f64::NAN, ..sound },
            Overhead { bytes_bytes: 1e300, bytes_frames: 1e300, frames_frames: 1e300, ..sound },
        ] {
            keep(unsound);
            assert_eq!(known(&store, "m", &node, day(2)), None, "{unsound:?}");
        }
        keep(Overhead::default());
        assert_eq!(known(&store, "m", &node, day(2)), Some(Overhead::default()));
    }

    #[test]
    fn who_mostly_waited_or_moved_is_not_learnt_from() {
        let run = |elapsed_seconds| StageFigures { items: 10, elapsed_seconds, ..StageFigures::default() };
        for (busy_seconds, elapsed, expected) in [(1.0, 10.5, true), (1.0, 20.0, true), (1.0, 21.0, false)] {
            assert_eq!(is_busy(busy_seconds, &run(elapsed)), expected, "{elapsed}");
        }
        // Timed at a second for an item under a quota of a quarter of a core.
        let time = StageTime { mean_seconds: 1.0, cpu_seconds: 0.25, ..StageTime::default() };
        for (move_cpu_seconds, expected) in [(0.4, true), (0.5, false), (f64::NAN, false)] {
            let figures = StageFigures {
                items: 10,
                encode_cpu_seconds: 0.5,
                decode_cpu_seconds: 0.3,
                move_cpu_seconds,
                ..StageFigures::default()
            };
            assert_eq!(mostly_computes(&time, &figures), expected, "{move_cpu_seconds}");
        }
    }

    #[test]
    fn a_node_is_busy_longer_than_what_its_plan_has_it_do() {
        // Timed at a second under a quota of a quarter; the plan says 1.1 s, and 0.3 of moving and coding.
        let time = StageTime { mean_seconds: 1.0, cpu_seconds: 0.25, ..StageTime::default() };
        let replica =
            Replica { device: 0, share: 1.0, compute_seconds: 1.1, busy_seconds: 1.4, memory_bytes: 0 };
        // Known before, busy in operation, longer by.
        for (known, busy, expected) in [(0.0, 1.3, 0.0), (0.0, 1.5, 0.2), (0.1, 1.5, 0.3), (0.1, 1.2, 0.0)] {
            let found = excess(&time, &replica, known, busy);
            assert!((found - expected).abs() < 1e-9, "{found}, not {expected}");
        }
    }
}
