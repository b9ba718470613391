//! Codecs of a running chain that follow what its links carry: a thread looks at the stages every few seconds while
//! items flow, and switches links where that makes the chain faster.
//!
//! Started by [`Pipeline::deploy`](super::Pipeline::deploy), ends with the pipeline. It only reads counters that are
//! there anyway, and never ends a run: nodes that do not answer are left to those who watch them.

mod judge;

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use plan::{Assignment, Problem};
use wire::control::StageFigures;
use wire::{Codec, CodecList, Fidelity};

use super::Inner;
use super::flight::Arrivals;
use super::links::CodecSwitch;
use crate::advice::Observed;
use crate::layout::ours;
use crate::profile::Profile;
use judge::{Judge, Verdict};

/// Items between two looks at least: figures are of whole items, and may be off by one or two at either end.
const LEAST_ITEMS: u64 = 32;

/// A thread that looks at a chain until this is dropped.
pub(super) struct Adapting {
    /// Dropped to stop it.
    _running: Sender<()>,
}

/// Starts to look at a chain whose links use the codecs of `assignment`; `None` where no link has a choice.
pub(super) fn start(
    inner: &Arc<Inner>,
    problem: Problem,
    assignment: Assignment,
    choices: Vec<Vec<usize>>,
    every: Duration,
) -> std::io::Result<Option<Adapting>> {
    if choices.iter().all(|codecs| codecs.len() < 2) {
        return Ok(None);
    }
    let (running, stopped) = bounded(1); // nothing is ever sent: it closes
    let first = inner.flight.next_sequence();
    let (inner, judge) = (Arc::downgrade(inner), Judge::new(problem, assignment, choices));
    let run = move || Watcher { inner, judge, first, before: None }.run(every, &stopped);
    std::thread::Builder::new().name("adapt".to_owned()).spawn(run)?;
    Ok(Some(Adapting { _running: running }))
}

/// By link, the codecs of a problem that it may use: those of its list that were measured and give back `least` or more,
/// or the same values as the one in use. So are coarse ones: they are tried end to end for that link only.
pub(super) fn choices(
    problem: &Problem,
    profile: &Profile,
    least: Fidelity,
    lists: &[CodecList],
    in_use: &[Codec],
) -> Vec<Vec<usize>> {
    let codecs: Vec<Codec> = problem.codecs.iter().map(ours).collect();
    let may_use = |codec: Codec, used: Codec| {
        let accurate = codec.fidelity() > Fidelity::Coarse && codec.fidelity() >= least;
        profile.knows(codec) && (accurate || codec.values == used.values)
    };
    let of_link = |(list, &used): (&CodecList, &Codec)| {
        // What the codec in use costs is what others are held against.
        if !profile.knows(used) {
            return Vec::new();
        }
        let usable = |&i: &usize| codecs[i] == used || list.contains(codecs[i]) && may_use(codecs[i], used);
        (0..codecs.len()).filter(usable).collect()
    };
    std::iter::zip(lists, in_use).map(of_link).collect()
}

struct Watcher {
    inner: Weak<Inner>,
    judge: Judge,
    /// Sequence number of the user's first item: codecs were tried on those before.
    first: u64,
    before: Option<Look>,
}

impl Watcher {
    fn run(mut self, every: Duration, stopped: &Receiver<()>) {
        while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
            let Some(inner) = self.inner.upgrade() else { return };
            if let Err(reason) = self.look(&inner) {
                tracing::debug!("codecs stay as they are: {reason}");
                self.forget();
            }
        }
    }

    fn forget(&mut self) {
        self.before = None;
        self.judge.forget();
    }

    /// Looks at the chain, if enough happened since the last look.
    fn look(&mut self, inner: &Inner) -> Result<(), String> {
        let arrived = inner.flight.arrivals().items;
        let new = self.before.as_ref().map(|before| arrived - before.arrivals.items);
        if new == Some(0) && inner.flight.is_idle() {
            self.forget();
            return Ok(());
        }
        if arrived == 0 || new.is_some_and(|items| items < LEAST_ITEMS) {
            return Ok(());
        }
        let look = Look::at(inner)?;
        let seen = self.before.as_ref().map(|before| look.since(before));
        self.before = Some(look);
        let Some(seen) = seen else { return Ok(()) };
        // A chain that waits for items says nothing of what it could do.
        let Some(observed) = seen? else {
            self.judge.forget();
            return Ok(());
        };
        let Some(codecs) = self.indices(&inner.links.in_use()) else {
            self.judge.forget();
            return Ok(());
        };
        tracing::debug!("the chain takes {observed:?} for an item");
        let verdict = self.judge.look(&codecs, &observed, Instant::now());
        verdict.map_or(Ok(()), |verdict| self.carry_out(inner, &codecs, &verdict))
    }

    /// The problem's indices of codecs; `None` if it does not know one.
    fn indices(&self, codecs: &[Codec]) -> Option<Vec<usize>> {
        let known = &self.judge.problem().codecs;
        codecs.iter().map(|&codec| known.iter().position(|known| ours(known) == codec)).collect()
    }

    fn carry_out(&mut self, inner: &Inner, before: &[usize], verdict: &Verdict) -> Result<(), String> {
        let Verdict { codecs, period, expected_period } = verdict;
        for link in (0..codecs.len()).filter(|&link| codecs[link] != before[link]) {
            let [from, to] = [before[link], codecs[link]].map(|i| ours(&self.judge.problem().codecs[i]));
            if let Err(e) = inner.switch(link, to) {
                // What was switched before it is to be judged all the same.
                self.indices(&inner.links.in_use())
                    .iter()
                    .for_each(|now| self.judge.switched(now, Instant::now()));
                self.before = None;
                return Err(e.to_string());
            }
            let item = inner.flight.next_sequence() - self.first;
            tracing::info!(
                "link {link} switched from {from} to {to} at item {item}: {:.2} ms between results, {:.2} ms expected",
                period * 1e3,
                expected_period * 1e3
            );
            let switch =
                CodecSwitch { link, from, to, item, period: *period, expected_period: *expected_period };
            inner.links.note(switch);
        }
        self.judge.switched(codecs, Instant::now());
        // What is on its way still travels as before: the next look only begins a new interval.
        self.before = None;
        Ok(())
    }
}

/// The counters of a chain at a moment.
struct Look {
    at: Instant,
    stages: Vec<StageFigures>,
    arrivals: Arrivals,
}

impl Look {
    fn at(inner: &Inner) -> Result<Look, String> {
        Ok(Look { at: Instant::now(), arrivals: inner.flight.arrivals(), stages: inner.measure()? })
    }

    /// What an item took since an earlier look; `None` when the chain waited for items. Nodes are not trusted to count
    /// soundly.
    fn since(&self, before: &Look) -> Result<Option<Observed>, String> {
        let items = self.arrivals.items - before.arrivals.items;
        let full = 2 * (self.arrivals.waits - before.arrivals.waits) >= items;
        let seconds = self.at.duration_since(before.at).as_secs_f64();
        let mut observed = Observed {
            period: seconds / items as f64,
            compute_seconds: Vec::new(),
            transfer_seconds: Vec::new(),
            bytes: Vec::new(),
        };
        for (after, before) in std::iter::zip(&self.stages, &before.stages) {
            let computed = after.computed.saturating_sub(before.computed) as f64;
            let received = after.received.saturating_sub(before.received) as f64;
            observed.compute_seconds.push((after.compute_seconds - before.compute_seconds) / computed);
            observed.transfer_seconds.push((after.transfer_seconds - before.transfer_seconds) / received);
            observed.bytes.push(after.bytes_in.saturating_sub(before.bytes_in) as f64 / received);
        }
        let (after, before) = (&self.arrivals, &before.arrivals);
        observed.transfer_seconds.push((after.transfer_seconds - before.transfer_seconds) / items as f64);
        observed.bytes.push((after.bytes - before.bytes) as f64 / items as f64);
        let Observed { compute_seconds, transfer_seconds, bytes, .. } = &observed;
        let sound = |figure: &f64| figure.is_finite() && *figure >= 0.0;
        if ![compute_seconds, transfer_seconds, bytes].into_iter().flatten().all(sound) {
            return Err("a node counts backwards, or no items".to_owned());
        }
        Ok(full.then_some(observed))
    }
}

#[cfg(test)]
mod tests {
    use plan::{Boundary, Device, Queues, Resources, Unit};
    use wire::control::CodecTime;

    use super::*;
    use crate::coding::CodecFigures;

    #[test]
    fn links_switch_to_what_was_tried_or_is_accurate_anyway() {
        let codec = |name: &str| -> Codec { name.parse().unwrap() };
        let names = ["raw", "f16", "u8", "u8+zstd1", "lz4"];
        let devices = vec![Device::of_speed("a", 1.0)];
        let boundaries = vec![Boundary { bytes: 8, tensors: 1 }; 2];
        let resources = Resources::on_free_links(devices);
        let mut problem = Problem::new(vec![Unit::default()], boundaries, Queues::default(), resources);
        problem.codecs =
            names.map(|name| plan::Codec { name: name.into(), ..problem.codecs[0].clone() }).to_vec();
        let time = CodecTime::default();
        let figures = |name| CodecFigures { codec: codec(name), bytes: vec![4, 4], own: false, time };
        let profile = Profile {
            cuts: vec![],
            units: vec![],
            frames: vec![],
            engine: String::new(),
            codecs: ["f16", "u8", "u8+zstd1"].map(figures).to_vec(),
        };
        let list = CodecList::new(names.map(codec)).unwrap();
        for (used, least, usable) in [
            ("raw", Fidelity::Half, "raw f16"),
            ("raw", Fidelity::Coarse, "raw f16"),
            ("raw", Fidelity::Exact, "raw"),
            ("f16", Fidelity::Exact, "raw f16"),
            ("u8", Fidelity::Coarse, "raw f16 u8 u8+zstd1"),
            ("u8", Fidelity::Exact, "raw u8 u8+zstd1"),
            ("lz4", Fidelity::Coarse, ""),
        ] {
            let found =
                choices(&problem, &profile, least, std::slice::from_ref(&list), &[codec(used)]).remove(0);
            let found: Vec<&str> = found.into_iter().map(|i| names[i]).collect();
            assert_eq!(found.join(" "), usable, "{used} with {least:?}");
        }
        let short = [CodecList::from(codec("u8"))];
        assert_eq!(choices(&problem, &profile, Fidelity::Coarse, &short, &[codec("u8")]), [[0, 2]]);
    }

    #[test]
    fn counters_that_make_no_sense_are_an_error_and_a_chain_that_waits_says_nothing() {
        let begin = Instant::now();
        let stage = |items, seconds, bytes_in| StageFigures {
            received: items,
            computed: items,
            compute_seconds: seconds,
            transfer_seconds: seconds,
            bytes_in,
            ..StageFigures::default()
        };
        let look = |seconds, stage, waits| Look {
            at: begin + Duration::from_secs(seconds),
            stages: vec![stage],
            arrivals: Arrivals { items: 10 * seconds, bytes: 40 * seconds, transfer_seconds: 0.5, waits },
        };
        let before = look(1, stage(10, 1.0, 1000), 0);
        let since = |stage, waits| look(2, stage, waits).since(&before);
        let seen = Observed {
            period: 0.1,
            compute_seconds: vec![0.2],
            transfer_seconds: vec![0.2, 0.0],
            bytes: vec![100.0, 4.0],
        };
        assert_eq!(since(stage(20, 3.0, 2000), 10), Ok(Some(seen)));
        assert_eq!(since(stage(20, 3.0, 2000), 4), Ok(None), "there was a place for most items at once");
        for wrong in
            [stage(10, 3.0, 2000), stage(9, 3.0, 2000), stage(20, 0.5, 2000), stage(20, f64::NAN, 2000)]
        {
            assert!(since(wrong, 10).is_err());
        }
    }
}
