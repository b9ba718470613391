//! When each step of an item began and ended, while somebody wants to know: the last spans of one end of a deployment.
//!
//! Threads that do the steps record here, and never wait. Until it is begun, that is one look and no memory.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use wire::control::{self, MAX_SPANS, Spans, Step};

use crate::transport::{Sent, Timing};

/// Spans that are kept; older ones give way. Five for an item, these are those of the last 6,500 items, in 2 MB.
pub(crate) const KEPT: usize = 1 << 15;

/// One step of one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The item.
    pub sequence: u64,
    /// What was done.
    pub step: Step,
    /// When it began.
    pub start: Instant,
    /// When it was done.
    pub end: Instant,
    /// Bytes on the wire that it moved, made or read.
    pub bytes: u64,
}

/// Keeps the spans of one end of a deployment; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Arc<OnceLock<Kept>>);

#[derive(Debug)]
struct Kept {
    sender: Sender<Span>,
    spans: Receiver<Span>,
    lost: AtomicU64,
}

impl Recorder {
    /// Keeps spans from now on; gives where they come out, each once, in the order in which they ended.
    pub fn begin(&self) -> &Receiver<Span> {
        let begin = || {
            let (sender, spans) = bounded(KEPT);
            Kept { sender, spans, lost: AtomicU64::new(0) }
        };
        &self.0.get_or_init(begin).spans
    }

    /// Spans that gave way to later ones.
    fn lost(&self) -> u64 {
        self.0.get().map_or(0, |kept| kept.lost.load(Relaxed))
    }

    /// Takes up to so many spans out; none where it was not begun.
    fn take(&self, most: usize) -> Vec<Span> {
        self.0.get().map_or_else(Vec::new, |kept| kept.spans.try_iter().take(most).collect())
    }

    /// Takes spans out for an answer, with moments by a clock that started then.
    pub(crate) fn report(&self, started: Instant) -> Spans {
        let in_nanos = |Span { sequence, step, start, end, bytes }: Span| {
            let start_nanos = nanos(started, start);
            control::Span { sequence, step, start_nanos, nanos: nanos(started, end) - start_nanos, bytes }
        };
        let spans = self.take(MAX_SPANS).into_iter().map(in_nanos).collect();
        Spans { lost: self.lost(), spans }
    }

    /// Records how an item's frame arrived and was decoded, which it is now.
    pub(crate) fn received(&self, sequence: u64, timing: &Timing) {
        let (Timing { started, transfer, bytes, spent }, end) = (*timing, Instant::now());
        self.record(Span { sequence, step: Step::Receive, start: started, end: started + transfer, bytes });
        if !spent.coding.is_zero() {
            let start = end.checked_sub(spent.coding).map_or(started, |decode| decode.max(started));
            self.record(Span { sequence, step: Step::Decode, start, end, bytes });
        }
    }

    /// Records how an item was encoded, from `start` on, and, where its frame is sent by now, that too.
    pub(crate) fn sent(&self, sequence: u64, start: Instant, sent: &Sent, is_sent: bool) {
        let Sent { bytes, spent, .. } = *sent;
        let encoded = start + spent.coding;
        if !spent.coding.is_zero() {
            self.record(Span { sequence, step: Step::Encode, start, end: encoded, bytes });
        }
        if is_sent {
            self.record(Span { sequence, step: Step::Send, start: encoded, end: Instant::now(), bytes });
        }
    }

    /// Does something for a frame that is all there in memory, and records it as its sending.
    pub(crate) fn sending<T>(&self, frame: &[u8], send: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let sent = send();
        let (sequence, bytes) = (wire::frame::sequence(frame), frame.len() as u64);
        self.record(Span { sequence, step: Step::Send, start, end: Instant::now(), bytes });
        sent
    }

    pub(crate) fn record(&self, mut span: Span) {
        let Some(kept) = self.0.get() else { return };
        while let Err(TrySendError::Full(again)) = kept.sender.try_send(span) {
            kept.lost.fetch_add(kept.spans.try_recv().is_ok().into(), Relaxed);
            span = again;
        }
    }
}

/// What a clock that started at some moment shows at another, nanoseconds.
pub(crate) fn nanos(started: Instant, at: Instant) -> u64 {
    at.saturating_duration_since(started).as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(sequence: u64) -> Span {
        let now = Instant::now();
        Span { sequence, step: Step::Compute, start: now, end: now, bytes: 0 }
    }

    fn sequences(recorder: &Recorder, most: usize) -> Vec<u64> {
        recorder.take(most).iter().map(|span| span.sequence).collect()
    }

    #[test]
    fn nothing_is_kept_before_it_is_asked_for() {
        let recorder = Recorder::default();
        recorder.record(span(0));
        assert_eq!(sequences(&recorder, 9), [0; 0]);
        recorder.begin();
        recorder.clone().record(span(1));
        recorder.begin();
        assert_eq!(sequences(&recorder, 9), [1], "it begins once");
        assert_eq!(sequences(&recorder, 9), [0; 0], "and each span comes out once");
    }

    #[test]
    fn the_last_spans_are_kept_and_those_before_are_counted() {
        let recorder = Recorder::default();
        recorder.begin();
        let lost = 10;
        (0..KEPT as u64 + lost).for_each(|sequence| recorder.record(span(sequence)));
        assert_eq!(recorder.lost(), lost);
        assert_eq!(sequences(&recorder, 2), [lost, lost + 1]);
        assert_eq!(recorder.take(usize::MAX).len(), KEPT - 2);
    }
}
