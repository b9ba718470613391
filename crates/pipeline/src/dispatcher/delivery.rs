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
        /// The path it took.
        path: u32,
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
    /// The peer answers what nobody asked, or has swallowed an item: the link cannot be trusted any more.
    Distrust,
}

/// Items in flight and results that wait for older ones.
#[derive(Debug)]
pub struct Delivery {
    epoch: u32,
    window: u64,
    /// Items that are admitted and not handed out, at most.
    room: u64,
    /// The oldest item whose result has not been handed out.
    oldest: u64,
    /// From `oldest` on.
    items: VecDeque<Item>,
    /// Those whose result is not there.
    on_the_way: u64,
}

#[derive(Clone, Copy, Debug)]
struct Item {
    /// The path it took; the latest item's is not known until it is sent.
    path: u32,
    arrived: bool,
}

impl Delivery {
    /// Nothing in flight. `window` items are on their way at most. Where results overtake one another, as many again may
    /// wait for older ones: `overtaking`.
    ///
    /// # Panics
    /// With an empty window.
    pub fn new(epoch: u32, window: usize, overtaking: bool) -> Delivery {
        assert!(window > 0, "a window holds at least one item");
        let room = if overtaking { 2 * window } else { window };
        let (window, items) = (window as u64, VecDeque::with_capacity(room));
        Delivery { epoch, window, room: room as u64, oldest: 0, items, on_the_way: 0 }
    }

    /// Items admitted and not handed out.
    pub fn in_flight(&self) -> usize {
        self.items.len()
    }

    /// The oldest item whose result has not been handed out.
    pub fn oldest(&self) -> u64 {
        self.oldest
    }

    /// The path that the item which was just admitted takes.
    ///
    /// # Panics
    /// When nothing is in flight.
    pub fn sent(&mut self, path: u32) {
        self.items.back_mut().expect("an item was admitted").path = path;
    }

    /// Takes an event in; says what to do.
    pub fn on_event(&mut self, event: Event) -> Action {
        let action = match event {
            Event::Submitted if self.on_the_way == self.window || self.items.len() as u64 == self.room => {
                Action::Wait
            }
            Event::Submitted => {
                let sequence = self.oldest + self.items.len() as u64;
                self.items.push_back(Item { path: 0, arrived: false });
                self.on_the_way += 1;
                Action::Admit { sequence }
            }
            Event::Arrived { epoch, .. } if epoch > self.epoch => Action::Distrust,
            Event::Arrived { epoch, sequence, .. } if epoch < self.epoch || sequence < self.oldest => {
                Action::Drop
            }
            Event::Arrived { sequence, path, .. } => self.on_result(sequence, path),
        };
        assert!(self.on_the_way <= self.window && self.items.len() as u64 <= self.room, "bounds are kept");
        action
    }

    fn on_result(&mut self, sequence: u64, path: u32) -> Action {
        let position = usize::try_from(sequence - self.oldest).unwrap_or(usize::MAX);
        match self.items.get_mut(position) {
            Some(item) if item.path != path => return Action::Distrust,
            Some(Item { arrived: true, .. }) => return Action::Drop,
            Some(item) => item.arrived = true,
            None => return Action::Distrust,
        }
        self.on_the_way -= 1;
        // Items stay in order on their way: one that is behind will not come any more.
        if self.items.range(..position).any(|item| item.path == path && !item.arrived) {
            return Action::Distrust;
        }
        if position > 0 {
            return Action::Keep;
        }
        let first = self.oldest;
        while self.items.front().is_some_and(|item| item.arrived) {
            self.items.pop_front();
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

    /// The result of an item that went its own way.
    fn arrived(sequence: u64) -> Event {
        Event::Arrived { epoch: EPOCH, path: sequence as u32, sequence }
    }

    /// `path` says which way each item goes.
    fn check(mut delivery: Delivery, path: fn(u64) -> u32, steps: &[(Event, Action)]) {
        for (i, &(event, action)) in steps.iter().enumerate() {
            assert_eq!(delivery.on_event(event), action, "step {i}: {event:?}");
            if let Admit { sequence } = action {
                delivery.sent(path(sequence));
            }
        }
    }

    fn own_way(sequence: u64) -> u32 {
        sequence as u32
    }

    fn submit(sequence: u64) -> (Event, Action) {
        (Submitted, Admit { sequence })
    }

    #[test]
    fn the_window_bounds_what_is_in_flight() {
        check(
            Delivery::new(EPOCH, 2, false),
            own_way,
            &[
                submit(0),
                submit(1),
                (Submitted, Wait),
                (arrived(1), Keep),
                (Submitted, Wait),
                (arrived(0), HandOut { first: 0, count: 2 }),
                submit(2),
            ],
        );
    }

    #[test]
    fn where_results_overtake_as_many_again_wait_for_older_ones() {
        check(
            Delivery::new(EPOCH, 2, true),
            own_way,
            &[
                submit(0),
                submit(1),
                (Submitted, Wait),
                (arrived(1), Keep),
                submit(2),
                (arrived(2), Keep),
                submit(3),
                (arrived(3), Keep),
                (Submitted, Wait),
                (arrived(0), HandOut { first: 0, count: 4 }),
                submit(4),
            ],
        );
    }

    #[test]
    fn results_are_handed_out_once_and_in_order_whatever_arrives() {
        check(
            Delivery::new(EPOCH, 8, true),
            own_way,
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
        let of = |epoch, sequence| Event::Arrived { epoch, path: 0, sequence };
        check(
            Delivery::new(EPOCH, 8, false),
            |_| 0,
            &[
                submit(0),
                (of(EPOCH - 1, 0), Drop),
                (of(EPOCH + 1, 0), Distrust),
                (of(EPOCH, 1), Distrust),
                (of(EPOCH, u64::MAX), Distrust),
                (Event::Arrived { epoch: EPOCH, path: 1, sequence: 0 }, Distrust),
                (of(EPOCH, 0), HandOut { first: 0, count: 1 }),
            ],
        );
    }

    #[test]
    fn an_item_that_a_later_one_overtook_on_its_own_path_is_lost() {
        let of = |sequence| Event::Arrived { epoch: EPOCH, path: sequence as u32 % 2, sequence };
        check(
            Delivery::new(EPOCH, 8, true),
            |sequence| sequence as u32 % 2,
            &[submit(0), submit(1), submit(2), submit(3), (of(1), Keep), (of(3), Keep), (of(2), Distrust)],
        );
    }
}
