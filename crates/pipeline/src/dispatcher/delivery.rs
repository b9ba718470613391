//! The window: which items are in flight, which results count, and in what order they are handed out.
//!
//! Pure. Every event has exactly one action, so that the path of an item allocates nothing here.

use std::collections::VecDeque;

/// Something happened to an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A caller has an item and asks for a place in the window.
    Submitted,
    /// A result arrived.
    Arrived {
        /// The epoch its frame bears.
        epoch: u32,
        /// Its item.
        sequence: u64,
    },
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send the item under this sequence number.
    Admit {
        /// Its sequence number.
        sequence: u64,
    },
    /// The window is full: ask again when results were handed out.
    Wait,
    /// Keep the result: an older one is still missing.
    Keep,
    /// Hand out the results of `count` items, in order, from `first` on; the one that just arrived is among
    /// them.
    HandOut {
        /// The oldest of them.
        first: u64,
        /// How many.
        count: u64,
    },
    /// Drop the result: it arrived before, or belongs to an older plan.
    Drop,
    /// The peer answers what nobody asked: the link cannot be trusted any more.
    Distrust,
}

/// Items in flight and results that wait for older ones.
#[derive(Debug)]
pub struct Delivery {
    epoch: u32,
    window: u64,
    /// The oldest item whose result has not been handed out.
    oldest: u64,
    /// Whether the result is there, for each item from `oldest` on.
    arrived: VecDeque<bool>,
}

impl Delivery {
    /// Nothing in flight.
    ///
    /// # Panics
    /// With an empty window.
    pub fn new(epoch: u32, window: usize) -> Delivery {
        assert!(window > 0, "a window holds at least one item");
        Delivery { epoch, window: window as u64, oldest: 0, arrived: VecDeque::with_capacity(window) }
    }

    /// Items admitted and not handed out.
    pub fn in_flight(&self) -> usize {
        self.arrived.len()
    }

    /// The oldest item whose result has not been handed out.
    pub fn oldest(&self) -> u64 {
        self.oldest
    }

    /// Takes an event in; says what to do.
    pub fn on_event(&mut self, event: Event) -> Action {
        let action = match event {
            Event::Submitted if self.arrived.len() as u64 == self.window => Action::Wait,
            Event::Submitted => {
                let sequence = self.oldest + self.arrived.len() as u64;
                self.arrived.push_back(false);
                Action::Admit { sequence }
            }
            Event::Arrived { epoch, .. } if epoch > self.epoch => Action::Distrust,
            Event::Arrived { epoch, sequence } if epoch < self.epoch || sequence < self.oldest => {
                Action::Drop
            }
            Event::Arrived { sequence, .. } => self.on_result(sequence),
        };
        assert!(self.arrived.len() as u64 <= self.window, "the window is a bound");
        action
    }

    fn on_result(&mut self, sequence: u64) -> Action {
        let position = usize::try_from(sequence - self.oldest).unwrap_or(usize::MAX);
        match self.arrived.get_mut(position) {
            None => return Action::Distrust,
            Some(true) => return Action::Drop,
            Some(arrived) => *arrived = true,
        }
        if position > 0 {
            return Action::Keep;
        }
        let first = self.oldest;
        while self.arrived.front() == Some(&true) {
            self.arrived.pop_front();
            self.oldest += 1;
        }
        Action::HandOut { first, count: self.oldest - first }
    }
}

#[cfg(test)]
mod tests {
    use super::Action::{Admit, Distrust, Drop, HandOut, Keep, Wait};
    use super::Event::Submitted;
    use super::*;

    const EPOCH: u32 = 4;

    fn arrived(sequence: u64) -> Event {
        Event::Arrived { epoch: EPOCH, sequence }
    }

    fn check(window: usize, steps: &[(Event, Action)]) {
        let mut delivery = Delivery::new(EPOCH, window);
        for (i, &(event, action)) in steps.iter().enumerate() {
            assert_eq!(delivery.on_event(event), action, "step {i}: {event:?}");
        }
    }

    #[test]
    fn the_window_bounds_what_is_in_flight() {
        check(
            2,
            &[
                (Submitted, Admit { sequence: 0 }),
                (Submitted, Admit { sequence: 1 }),
                (Submitted, Wait),
                (arrived(1), Keep),
                (Submitted, Wait),
                (arrived(0), HandOut { first: 0, count: 2 }),
                (Submitted, Admit { sequence: 2 }),
            ],
        );
    }

    #[test]
    fn results_are_handed_out_once_and_in_order_whatever_arrives() {
        let submit = |n| (Submitted, Admit { sequence: n });
        check(
            8,
            &[
                submit(0),
                submit(1),
                submit(2),
                (arrived(2), Keep),
                (arrived(2), Drop),
                (arrived(0), HandOut { first: 0, count: 1 }),
                (arrived(0), Drop),
                (arrived(1), HandOut { first: 1, count: 2 }),
                (arrived(1), Drop),
            ],
        );
    }

    #[test]
    fn stale_epochs_are_dropped_and_the_impossible_is_not_trusted() {
        let of = |epoch, sequence| Event::Arrived { epoch, sequence };
        check(
            8,
            &[
                (Submitted, Admit { sequence: 0 }),
                (of(EPOCH - 1, 0), Drop),
                (of(EPOCH + 1, 0), Distrust),
                (of(EPOCH, 1), Distrust),
                (of(EPOCH, u64::MAX), Distrust),
                (of(EPOCH, 0), HandOut { first: 0, count: 1 }),
            ],
        );
    }
}
