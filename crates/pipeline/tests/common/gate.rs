//! An engine whose sessions wait before every item until they are let go.

use std::sync::{Arc, Condvar, Mutex};

use engine::{Engine, LoadError, ModelSource, Outputs, Rten, RunError, Session, SessionOptions};
use tensor::{TensorSpec, TensorView};

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
        (Gate(lock.clone()), Arc::new(Gated(lock)))
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

struct Gated(Arc<Lock>);

impl Engine for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn version(&self) -> &str {
        "1"
    }

    fn load(
        &self,
        model: ModelSource<'_>,
        inputs: &[TensorSpec],
        outputs: &[TensorSpec],
        options: &SessionOptions,
    ) -> Result<Box<dyn Session>, LoadError> {
        let session = Rten.load(model, inputs, outputs, options)?;
        Ok(Box::new(GatedSession { session, lock: self.0.clone() }))
    }
}

struct GatedSession {
    session: Box<dyn Session>,
    lock: Arc<Lock>,
}

impl Session for GatedSession {
    fn inputs(&self) -> &[TensorSpec] {
        self.session.inputs()
    }

    fn outputs(&self) -> &[TensorSpec] {
        self.session.outputs()
    }

    fn run(&mut self, inputs: &[TensorView<'_>]) -> Result<Box<dyn Outputs>, RunError> {
        let passes = self.lock.passes.lock().unwrap();
        let mut passes = self.lock.changed.wait_while(passes, |passes| *passes == 0).unwrap();
        if *passes != usize::MAX {
            *passes -= 1;
        }
        drop(passes);
        self.session.run(inputs)
    }
}
