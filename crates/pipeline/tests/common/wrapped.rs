//! rten with sessions that do something else as well, for tests of what engines may do.

use std::sync::Arc;

use engine::{Engine, LoadError, ModelSource, Outputs, Rten, RunError, Session, SessionOptions};
use tensor::{TensorSpec, TensorView};

/// What a run of the session inside gives.
pub type Ran = Result<Box<dyn Outputs>, RunError>;

/// What a session does in place of running the one inside.
pub type Run = Box<dyn FnMut(&mut dyn Session, &[TensorView<'_>]) -> Ran + Send>;

/// rten, each of whose sessions runs by what `session` gives for it.
pub fn wrapped(name: &'static str, session: impl Fn() -> Run + Send + Sync + 'static) -> Arc<dyn Engine> {
    Arc::new(Wrapped { name, session: Box::new(session) })
}

struct Wrapped {
    name: &'static str,
    session: Box<dyn Fn() -> Run + Send + Sync>,
}

impl Engine for Wrapped {
    fn name(&self) -> &'static str {
        self.name
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
        let inside = Rten.load(model, inputs, outputs, options)?;
        Ok(Box::new(WrappedSession { inside, run: (self.session)() }))
    }
}

struct WrappedSession {
    inside: Box<dyn Session>,
    run: Run,
}

impl Session for WrappedSession {
    fn inputs(&self) -> &[TensorSpec] {
        self.inside.inputs()
    }

    fn outputs(&self) -> &[TensorSpec] {
        self.inside.outputs()
    }

    fn run(&mut self, inputs: &[TensorView<'_>]) -> Result<Box<dyn Outputs>, RunError> {
        (self.run)(&mut *self.inside, inputs)
    }
}
