//! When the steps of items began and ended, as messages carry it. What comes from a peer may be anything until it was
//! checked.

use serde::{Deserialize, Serialize};

/// Spans that one answer holds at most.
pub const MAX_SPANS: usize = 4096;

/// Spans that a node kept and now forgets, in the order in which they ended. More may be left where these are
/// [`MAX_SPANS`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spans {
    /// How many older ones there was no room for since the trace began.
    pub lost: u64,
    /// The spans.
    pub spans: Vec<Span>,
}

/// One step of one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The item.
    pub sequence: u64,
    /// What was done.
    pub step: Step,
    /// When it began, by the clock that [`super::Request::Clock`] reads, nanoseconds.
    pub start_nanos: u64,
    /// How long it took, nanoseconds.
    pub nanos: u64,
    /// Bytes on the wire that it moved, made or read; 0 where it has to do with none.
    pub bytes: u64,
}

/// What is done for an item, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Step {
    /// Its frame arrives. Where links do not encode, its tensors are then there.
    Receive,
    /// Its tensors are made of the frame's bytes.
    Decode,
    /// The engine runs.
    Compute,
    /// Bytes are made of its tensors.
    Encode,
    /// Its frame is given to the system to send.
    Send,
}

impl Step {
    /// All, in their order.
    pub const ALL: [Step; 5] = [Step::Receive, Step::Decode, Step::Compute, Step::Encode, Step::Send];

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Step::Receive => "receive",
            Step::Decode => "decode",
            Step::Compute => "compute",
            Step::Encode => "encode",
            Step::Send => "send",
        }
    }
}

/// The latest moment that a clock may show, nanoseconds: 146 years after it started.
pub const LATEST_NANOS: u64 = u64::MAX >> 2;

impl Spans {
    /// Whether a node can have kept this: a peer may answer anything.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn check(&self) -> Result<(), String> {
        let count = self.spans.len();
        if count > MAX_SPANS {
            return Err(format!("{count} spans at once, at most {MAX_SPANS} were asked for"));
        }
        let impossible = |span: &&Span| span.start_nanos > LATEST_NANOS || span.nanos > LATEST_NANOS;
        match self.spans.iter().find(impossible) {
            None => Ok(()),
            Some(Span { start_nanos, nanos, .. }) => {
                Err(format!("a step that began at {start_nanos} ns and took {nanos} ns"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_peers_are_spans() {
        let span = Span { sequence: 3, step: Step::Send, start_nanos: 5, nanos: 7, bytes: 9 };
        let late = LATEST_NANOS + 1;
        for (spans, good) in [
            (vec![], true),
            (vec![span; MAX_SPANS], true),
            (vec![Span { start_nanos: LATEST_NANOS, nanos: LATEST_NANOS, ..span }], true),
            (vec![span; MAX_SPANS + 1], false),
            (vec![span, Span { start_nanos: late, ..span }], false),
            (vec![Span { nanos: u64::MAX, ..span }], false),
        ] {
            let (count, last) = (spans.len(), spans.last().copied());
            assert_eq!(Spans { lost: 0, spans }.check().is_ok(), good, "{count}, {last:?}");
        }
    }

    #[test]
    fn steps_have_names_of_their_own() {
        let mut names = Step::ALL.map(Step::name).to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Step::ALL.len());
        assert!(Step::ALL.is_sorted());
    }
}
