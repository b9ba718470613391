//! Buffers that circulate inside a stage, the one given back last taken first.
//!
//! That one is the likeliest to be in the processor's cache still; a queue would walk through all of them.

use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};

/// Gives buffers back. When every giver is gone and the pool is empty, takers stop waiting.
pub(super) struct Giver<T> {
    stack: Arc<Mutex<Vec<T>>>,
    available: Sender<()>,
}

/// Takes buffers.
pub(super) struct Taker<T> {
    stack: Arc<Mutex<Vec<T>>>,
    available: Receiver<()>,
}

/// A pool that holds `items` and never more than there are of them.
pub(super) fn pool<T>(items: Vec<T>) -> (Giver<T>, Taker<T>) {
    let (sender, receiver) = bounded(items.len());
    let stack = Arc::new(Mutex::new(Vec::with_capacity(items.len())));
    let giver = Giver { stack: stack.clone(), available: sender };
    items.into_iter().for_each(|item| giver.give(item));
    (giver, Taker { stack, available: receiver })
}

impl<T> Giver<T> {
    pub(super) fn give(&self, item: T) {
        self.stack.lock().unwrap_or_else(PoisonError::into_inner).push(item);
        // Never full: there are as many places as items. Without a taker nobody needs it any more.
        let _ = self.available.try_send(());
    }
}

impl<T> Clone for Giver<T> {
    fn clone(&self) -> Giver<T> {
        Giver { stack: self.stack.clone(), available: self.available.clone() }
    }
}

impl<T> Taker<T> {
    /// Waits for a buffer; `None` when no giver is left.
    pub(super) fn take(&self) -> Option<T> {
        self.available.recv().ok()?;
        self.stack.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_given_is_the_first_taken_until_no_giver_is_left() {
        let (giver, taker) = pool(vec![1, 2, 3]);
        assert_eq!(taker.take(), Some(3));
        assert_eq!(taker.take(), Some(2));
        giver.give(7);
        let other = giver.clone();
        drop(giver);
        assert_eq!(taker.take(), Some(7));
        other.give(8);
        drop(other);
        assert_eq!((taker.take(), taker.take(), taker.take()), (Some(8), Some(1), None));
    }
}
