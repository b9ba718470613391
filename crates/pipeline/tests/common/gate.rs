//! An engine whose sessions wait before every item until they are let go.

use std::sync::{Arc, Condvar, Mutex};

use engine::Engine;

use super::wrapped::{Run, wrapped};

/// Lets items through. Opens for good when dropped, so that a failing test does not hang.
pub struct Gate(Arc<Lock>);

#[derive(Default)]
struct Lock {
    passes: Mutex<usize>,
    changed: Condvar,
}

impl Gate {
    /// A gate that is shut, and the engine behind it.
    pub fn shut() -> (Gate, Arc<dyn Engine>) {
        let lock = Arc::new(Lock::default());
        let gate = Gate(lock.clone());
        (gate, wrapped("gated", move || gated(lock.clone())))
    }

    /// Lets so many more items through.
    pub fn pass(&self, items: usize) {
        let mut passes = self.0.passes.lock().unwrap();
        *passes = passes.saturating_add(items);
        self.0.changed.notify_all();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.pass(usize::MAX);
    }
}

/// A session that takes a pass for every item.
fn gated(lock: Arc<Lock>) -> Run {
    Box::new(move |session, inputs| {
        let passes = lock.passes.lock().unwrap();
        let mut passes = lock.changed.wait_while(passes, |passes| *passes == 0).unwrap();
        if *passes != usize::MAX {
            *passes -= 1;
        }
        drop(passes);
        session.run(inputs)
    })
}
