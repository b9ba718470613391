//! What each item took and when, on all machines of a chain, on one axis of time.
//!
//! Nodes keep the steps of items once they are asked to, by their own clocks, and are asked for them at the end. A
//! node's word is checked before it is believed, and takes no more memory than a node may keep.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wire::control::{LATEST_NANOS, MAX_SPANS, Request, Response, Span, Spans, Step};

use super::state::Failure;
use super::{DeployError, Inner, deploy};
use crate::recorder::{KEPT, nanos};

/// Looks at a clock: the one that takes the shortest counts, and half of what it takes bounds the error.
const LOOKS: usize = 8;

/// How far two clocks may drift apart, as a share of the time that passes: far more than any two do, unless a machine
/// sleeps.
const MAX_DRIFT: f64 = 0.01;

/// The steps of items on all machines of a chain.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The dispatcher, then the nodes in the order of the chain.
    pub processes: Vec<TracedProcess>,
}

/// What one process did.
#[derive(Clone, Debug)]
pub struct TracedProcess {
    /// The node's name; `dispatcher`.
    pub name: String,
    /// The stage that it runs, from 0; `None` for the dispatcher.
    pub stage: Option<usize>,
    /// How far its moments may be off those of the dispatcher.
    pub clock_error: Duration,
    /// Steps that it had no room to keep: the first ones.
    pub lost: u64,
    /// The steps, in the order in which they ended.
    pub steps: Vec<TracedStep>,
}

/// One step of one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TracedStep {
    /// The item, from 0: the first that was submitted after the trace began.
    pub item: u64,
    /// What was done.
    pub step: Step,
    /// When it began, since the first step of the trace.
    pub start: Duration,
    /// How long it took.
    pub length: Duration,
    /// Bytes on the wire that it moved, made or read; 0 where it has to do with none.
    pub bytes: u64,
}

/// A trace of a chain, under way.
pub struct Tracing {
    inner: Arc<Inner>,
    /// When the dispatcher's clock showed 0.
    started: Instant,
    /// Sequence number of the first item.
    first: u64,
    /// What the nodes' clocks showed then.
    clocks: Vec<Look>,
}

/// What one process did, its moments in our nanoseconds since the trace began. A few lie before that: clocks are not
/// exact.
struct Gathered {
    process: TracedProcess,
    spans: Vec<(i64, Span)>,
}

impl Tracing {
    pub(super) fn begin(inner: &Arc<Inner>) -> Result<Tracing, Failure> {
        let (inner, started) = (inner.clone(), Instant::now());
        (0..inner.orders.len()).try_for_each(|stage| inner.begin_trace(stage))?;
        inner.flight.recorder().begin();
        let clocks = inner.look_at_clocks(started)?;
        let first = inner.flight.next_sequence();
        Ok(Tracing { inner, started, first, clocks })
    }

    /// Fetches what was traced: all of items whose results have arrived, of others what has happened so far. No other
    /// trace of the chain may be under way: a node tells what it kept only once.
    ///
    /// # Errors
    /// Names the node that does not answer, or whose answer cannot be.
    pub fn finish(self) -> Result<Trace, DeployError> {
        Ok(on_one_axis(self.gather()?))
    }

    fn gather(self) -> Result<Vec<Gathered>, Failure> {
        let Tracing { inner, started, first, clocks } = self;
        let own = take_all(|| Ok::<_, Failure>(inner.flight.recorder().report(started)))?;
        let items = first..inner.flight.next_sequence();
        let now = nanos(started, Instant::now());
        let process = |name, stage, error, lost| {
            let clock_error = Duration::from_nanos(error);
            TracedProcess { name, stage, clock_error, lost, steps: Vec::new() }
        };
        let spans = told(own.spans, &items, &Axis::OURS, now).map_err(Failure::Own)?;
        let mut gathered =
            vec![Gathered { process: process("dispatcher".to_owned(), None, 0, own.lost), spans }];
        let clocks_now = inner.look_at_clocks(started)?;
        for (stage, looks) in std::iter::zip(clocks, clocks_now).enumerate() {
            let named =
                |reason| Failure::Refused(format!("{}: {reason}", deploy::place(&inner.orders, stage)));
            let axis = Axis::through(looks.0, looks.1).map_err(named)?;
            let kept = take_all(|| inner.spans(stage))?;
            let spans = told(kept.spans, &items, &axis, now).map_err(named)?;
            let order = &inner.orders[stage];
            let (name, place) = (order.node.description.name.clone(), Some(order.message.stage as usize));
            gathered.push(Gathered { process: process(name, place, axis.error, kept.lost), spans });
        }
        Ok(gathered)
    }
}

impl Inner {
    fn begin_trace(&self, stage: usize) -> Result<(), Failure> {
        match self.ask(stage, &Request::Trace(self.orders[0].message.deployment))? {
            Response::Tracing => Ok(()),
            other => Err(deploy::unexpected(&self.orders, stage, &other)),
        }
    }

    /// The next spans that a stage kept.
    fn spans(&self, stage: usize) -> Result<Spans, Failure> {
        let spans = match self.ask(stage, &Request::Spans(self.orders[0].message.deployment))? {
            Response::Spans(spans) => spans,
            other => return Err(deploy::unexpected(&self.orders, stage, &other)),
        };
        let named = |e| Failure::Refused(format!("{}: {e}", deploy::place(&self.orders, stage)));
        spans.check().map_err(named)?;
        Ok(spans)
    }

    /// Looks at the clocks of all nodes, by one that started then.
    fn look_at_clocks(&self, started: Instant) -> Result<Vec<Look>, Failure> {
        (0..self.orders.len()).map(|stage| self.look_at_clock(stage, started)).collect()
    }

    fn look_at_clock(&self, stage: usize, started: Instant) -> Result<Look, Failure> {
        let mut best: Option<Look> = None;
        for _ in 0..LOOKS {
            let before = nanos(started, Instant::now());
            let theirs = match self.ask(stage, &Request::Clock)? {
                Response::Clock(theirs) if theirs <= LATEST_NANOS => theirs,
                other => return Err(deploy::unexpected(&self.orders, stage, &other)),
            };
            let look = Look::between(before, nanos(started, Instant::now()), theirs);
            best = best.into_iter().chain([look]).min_by_key(|look| look.error);
        }
        Ok(best.expect("there was a look"))
    }

    fn ask(&self, stage: usize, request: &Request) -> Result<Response, Failure> {
        deploy::ask(&self.control, &self.orders, stage, request, deploy::SHORT_TIMEOUT)
    }
}

/// Takes what was kept, part by part, and no more than can have been kept.
fn take_all<E>(mut next: impl FnMut() -> Result<Spans, E>) -> Result<Spans, E> {
    let mut all = Spans::default();
    for _ in 0..KEPT.div_ceil(MAX_SPANS) {
        let mut part = next()?;
        let is_last = part.spans.len() < MAX_SPANS;
        all.lost = part.lost;
        all.spans.append(&mut part.spans);
        if is_last {
            break;
        }
    }
    Ok(all)
}

/// The spans of these items, by our clock, which shows `now`.
fn told(spans: Vec<Span>, items: &Range<u64>, axis: &Axis, now: u64) -> Result<Vec<(i64, Span)>, String> {
    let (now, slack) = (now as i64, axis.error as i64 + (MAX_DRIFT * now as f64) as i64);
    let mut told = Vec::new();
    for span in spans {
        if span.sequence >= items.end {
            return Err(format!("it tells of item {}, which was not sent", span.sequence));
        }
        if span.sequence < items.start {
            continue; // sent before the trace began
        }
        let (start, end) = (axis.ours(span.start_nanos), axis.ours(span.start_nanos + span.nanos));
        if start < -slack || end > now + slack {
            return Err(format!("it tells of a step of item {} when nothing was traced", span.sequence));
        }
        // By the same clock as its moments: what follows on a node begins no earlier than what was before it ends.
        let nanos = (end - start) as u64;
        told.push((start, Span { sequence: span.sequence - items.start, nanos, ..span }));
    }
    Ok(told)
}

/// Lets time begin with the first step of all.
fn on_one_axis(gathered: Vec<Gathered>) -> Trace {
    let starts = gathered.iter().flat_map(|gathered| &gathered.spans).map(|&(start, _)| start);
    let earliest = starts.min().unwrap_or(0);
    let step = |(start, span): (i64, Span)| TracedStep {
        item: span.sequence,
        step: span.step,
        start: Duration::from_nanos((start - earliest) as u64),
        length: Duration::from_nanos(span.nanos),
        bytes: span.bytes,
    };
    let process = |Gathered { process, spans }| TracedProcess {
        steps: spans.into_iter().map(step).collect(),
        ..process
    };
    Trace { processes: gathered.into_iter().map(process).collect() }
}

/// A look at another clock, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    /// What it showed.
    theirs: u64,
    /// What ours showed then, as far as one can know.
    ours: u64,
    /// How far that may be off.
    error: u64,
}

impl Look {
    /// The other clock was read between two moments of ours: best assumed in their middle (Cristian, 1989).
    fn between(before: u64, after: u64, theirs: u64) -> Look {
        let error = (after - before).div_ceil(2);
        Look { theirs, ours: before + (after - before) / 2, error }
    }
}

/// How moments by another clock are told by ours: a line through two looks.
#[derive(Debug)]
struct Axis {
    from: Look,
    /// Our nanoseconds for one of theirs.
    pace: f64,
    /// How far a moment between the looks may be off, nanoseconds.
    error: u64,
}

impl Axis {
    /// That of our own clock.
    const OURS: Axis = Axis { from: Look { theirs: 0, ours: 0, error: 0 }, pace: 1.0, error: 0 };

    fn through(from: Look, to: Look) -> Result<Axis, String> {
        let error = from.error.max(to.error);
        let ours = to.ours.saturating_sub(from.ours) as f64;
        let theirs = to.theirs as f64 - from.theirs as f64;
        let most = (from.error + to.error) as f64 + MAX_DRIFT * ours;
        if theirs <= 0.0 || (theirs - ours).abs() > most {
            let (theirs, ours) = (theirs / 1e9, ours / 1e9);
            return Err(format!("its clock went on by {theirs:.3} s in {ours:.3} s: did its machine sleep?"));
        }
        Ok(Axis { from, pace: ours / theirs, error })
    }

    fn ours(&self, theirs: u64) -> i64 {
        // Differences of moments of a trace are exact as floats: 2^53 ns are a hundred days.
        let since = theirs as i64 - self.from.theirs as i64;
        self.from.ours as i64 + (since as f64 * self.pace) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn look(theirs: u64, ours: u64, error: u64) -> Look {
        Look { theirs, ours, error }
    }

    fn span(sequence: u64, start_nanos: u64, nanos: u64) -> Span {
        Span { sequence, step: Step::Compute, start_nanos, nanos, bytes: 0 }
    }

    #[test]
    fn a_look_lies_in_the_middle_of_its_round_trip() {
        assert_eq!(Look::between(100, 140, 7), look(7, 120, 20));
        assert_eq!(Look::between(100, 141, 7), look(7, 120, 21), "and its error reaches both ends");
    }

    #[test]
    fn moments_of_another_clock_are_told_by_ours() {
        // It started 90 s before ours and runs 0.1 % fast.
        let axis = Axis::through(look(90 * SECOND, 0, 5), look(90 * SECOND + 1_001_000_000, SECOND, 9));
        let axis = axis.unwrap();
        for (theirs, ours) in [(0, 0), (500_500_000, 500_000_000), (2 * 1_001_000_000, 2_000_000_000)] {
            assert!((axis.ours(90 * SECOND + theirs) - ours).abs() <= 1, "{theirs}");
        }
        assert!((axis.ours(90 * SECOND - 1001) + 1000).abs() <= 1, "before the first look, too");
        assert_eq!(axis.error, 9, "the larger of both");
        assert_eq!(Axis::OURS.ours(SECOND), SECOND as i64);
    }

    #[test]
    fn clocks_that_cannot_be_are_refused() {
        for (to, good) in [
            (look(2 * SECOND, SECOND, 0), true),
            (look(2 * SECOND + SECOND / 200, SECOND, 0), true),
            (look(2 * SECOND + SECOND / 50, SECOND, 0), false),
            (look(2 * SECOND + SECOND / 50, SECOND, SECOND / 50), true),
            (look(SECOND, SECOND, 0), false),
            (look(0, SECOND, 0), false),
            (look(LATEST_NANOS, SECOND, 0), false),
        ] {
            assert_eq!(Axis::through(look(SECOND, 0, 0), to).is_ok(), good, "{to:?}");
        }
    }

    #[test]
    fn spans_that_cannot_be_are_refused() {
        let (now, items) = (SECOND, 10..20);
        let axis = Axis { error: 1000, ..Axis::OURS };
        let told = |spans: &[Span]| told(spans.to_vec(), &items, &axis, now);
        let own = told(&[span(9, 0, 5), span(10, 3, 5), span(19, SECOND - 5, 6)]).unwrap();
        assert_eq!(own, [(3, span(0, 3, 5)), (SECOND as i64 - 5, span(9, SECOND - 5, 6))]);
        for wrong in [span(20, 0, 5), span(10, 0, 2 * SECOND), span(10, LATEST_NANOS, LATEST_NANOS)] {
            assert!(told(&[wrong]).is_err(), "{wrong:?}");
        }
        let late = Axis { from: look(SECOND, 0, 0), ..Axis::OURS };
        assert!(super::told(vec![span(10, 0, 5)], &items, &late, now).is_err(), "a second too early");
    }

    #[test]
    fn time_begins_with_the_first_step() {
        let process = |name: &str| TracedProcess {
            name: name.to_owned(),
            stage: None,
            clock_error: Duration::ZERO,
            lost: 0,
            steps: Vec::new(),
        };
        let gathered = |name, start| Gathered { process: process(name), spans: vec![(start, span(0, 0, 7))] };
        let trace = on_one_axis(vec![gathered("a", 5), gathered("b", -20)]);
        let starts: Vec<u128> = trace.processes.iter().map(|p| p.steps[0].start.as_nanos()).collect();
        assert_eq!(starts, [25, 0]);
        assert!(on_one_axis(Vec::new()).processes.is_empty());
    }

    /// A node that always has more.
    #[test]
    fn no_more_is_taken_than_can_have_been_kept() {
        let mut asked = 0;
        let endless = || {
            asked += 1;
            Ok::<_, Failure>(Spans { lost: 3, spans: vec![span(0, 0, 0); MAX_SPANS] })
        };
        let all = take_all(endless).unwrap();
        assert_eq!((all.spans.len(), all.lost, asked), (KEPT, 3, KEPT / MAX_SPANS));
        let mut parts = [MAX_SPANS, 2, 5].into_iter();
        let few = || Ok::<_, Failure>(Spans { lost: 0, spans: vec![span(0, 0, 0); parts.next().unwrap()] });
        assert_eq!(take_all(few).unwrap().spans.len(), MAX_SPANS + 2);
    }
}
