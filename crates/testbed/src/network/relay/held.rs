//! Frames that are held back, in the order in which they are due. Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Instant;

/// When it is due, how many came before, its link, and the frame.
type Waiting = (Instant, u64, usize, Vec<u8>);

/// Frames of several links.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// By when it is due, then by when it came: with one delay between two ends, their order is kept.
    waiting: BinaryHeap<Reverse<Waiting>>,
    came: u64,
    /// Of each link.
    bytes: BTreeMap<usize, usize>,
}

impl Held {
    /// Holds a frame of a link back until it is due.
    pub(super) fn push(&mut self, link: usize, due: Instant, frame: &[u8]) {
        self.came += 1;
        *self.bytes.entry(link).or_default() += frame.len();
        self.waiting.push(Reverse((due, self.came, link, frame.to_vec())));
    }

    /// The next frame that is due by now, with its link.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(usize, Vec<u8>)> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse((_, _, link, frame)) = self.waiting.pop()?;
        *self.bytes.get_mut(&link).expect("it was counted") -= frame.len();
        Some((link, frame))
    }

    /// When the next one is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.waiting.peek().map(|Reverse((due, ..))| *due)
    }

    /// Bytes of a link that are held back.
    pub(super) fn bytes(&self, link: usize) -> usize {
        self.bytes.get(&link).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn frames_leave_when_they_are_due_in_the_order_in_which_they_came() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut held = Held::default();
        assert_eq!((held.next_due(), held.pop(at(100))), (None, None));
        for (link, due, frame) in [(0, 5, "ab"), (1, 2, "c"), (0, 5, "d"), (0, 7, "e"), (1, 5, "f")] {
            held.push(link, at(due), frame.as_bytes());
        }
        assert_eq!((held.bytes(0), held.bytes(1), held.bytes(2)), (4, 2, 0));
        let mut all = |ms| -> Vec<String> {
            std::iter::from_fn(|| held.pop(at(ms))).map(|(_, f)| String::from_utf8(f).unwrap()).collect()
        };
        assert_eq!(all(1), [""; 0]);
        assert_eq!(all(2), ["c"]);
        assert_eq!(all(5), ["ab", "d", "f"]);
        assert_eq!(held.next_due(), Some(at(7)));
        assert_eq!((held.bytes(0), held.bytes(1)), (1, 0));
    }
}
