//! The `Engine` and `Session` traits; rten and ONNX Runtime behind them.
//!
//! The only crate with native dependencies. An engine takes an ONNX model as bytes or as a file and runs
//! it; it does not look inside, and it never touches a socket, a terminal or the environment.

mod error;
pub mod install;
mod onnxruntime;
mod rten;
mod search;
mod signature;

use std::path::Path;

use tensor::{TensorSpec, TensorView};

pub use self::onnxruntime::OnnxRuntime;
pub use self::rten::Rten;
pub use error::{LibraryError, LoadError, RunError, Side};
pub use search::{Candidate, LibrarySearch, Origin, Refusal, Version, find_onnxruntime, preferred};

/// A runtime that executes ONNX models.
pub trait Engine: Send + Sync {
    /// The name used on the command line and in messages: `rten` or `onnxruntime`.
    fn name(&self) -> &'static str;

    /// The version of the library in use.
    fn version(&self) -> &str;

    /// Prepares a model for running.
    ///
    /// `inputs` and `outputs` are what the model declares, in the order in which [`Session::run`] shall take
    /// and give them. An engine may not know all of it by itself (rten turns int64 into int32 on loading);
    /// it checks what it can see and refuses a model that differs.
    ///
    /// # Errors
    /// The model cannot be read, has an operator or an element type that the engine lacks, or does not
    /// declare these inputs and outputs.
    fn load(
        &self,
        model: ModelSource<'_>,
        inputs: &[TensorSpec],
        outputs: &[TensorSpec],
        options: &SessionOptions,
    ) -> Result<Box<dyn Session>, LoadError>;
}

/// Where an engine finds a model.
#[derive(Clone, Copy, Debug)]
pub enum ModelSource<'a> {
    /// A self-contained ONNX file in memory, weights inside.
    Bytes(&'a [u8]),
    /// An ONNX file whose external data, if any, lies in the same folder. Engines map the weights instead of
    /// copying them where they can.
    ///
    /// While a session of it lives, the files must not be changed in place: replace them by renaming, or
    /// delete them. rten asks for names that end in `.onnx` (the model) and `.data` or `.onnx_data` (the
    /// weights), and for an offset and a length with every external tensor. ONNX Runtime refuses weights
    /// that a symbolic link leads out of the folder; hard links are fine.
    File(&'a Path),
}

impl std::fmt::Display for ModelSource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ModelSource::Bytes(bytes) => write!(f, "the model in memory ({} bytes)", bytes.len()),
            ModelSource::File(path) => write!(f, "`{}`", path.display()),
        }
    }
}

/// How a session may use the machine.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Threads inside one operator: the cores the session owns. At least 1.
    pub threads: usize,
    /// How far the engine may rearrange the model.
    pub optimisation: Optimisation,
}

/// How far an engine may rearrange a model to run it faster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Optimisation {
    /// As far as it can. Sums may be taken in another order in a stage than in the whole model: ONNX Runtime's
    /// results moved by at most 2.4e-7 of the largest output in two models cut at every single tensor.
    #[default]
    Full,
    /// Without ONNX Runtime's blocked layout for convolutions. Results then depend less on where a simplified
    /// model is cut, but bit-identity is no promise: the pipeline's equality tests find it in every model but
    /// BERT-base, whose outputs move by 1.2e-6 to 1.6e-6 of the largest. Costs 1.3 times (ResNet50) to 2.5
    /// times (mobile nets) the time. rten has one way of running a model, and ignores this.
    Reproducible,
}

impl SessionOptions {
    /// A session with `threads` threads, optimised in full.
    pub fn threads(threads: usize) -> SessionOptions {
        SessionOptions { threads, optimisation: Optimisation::default() }
    }
}

/// A loaded model.
pub trait Session: Send {
    /// The inputs, in the order in which [`Session::run`] takes them.
    fn inputs(&self) -> &[TensorSpec];

    /// The outputs, in the order in which [`Session::run`] gives them.
    fn outputs(&self) -> &[TensorSpec];

    /// Runs the model on one item. Inputs are read where they lie, if they are aligned for their type.
    ///
    /// # Errors
    /// The inputs do not fit [`Session::inputs`], or the engine fails on them.
    fn run(&mut self, inputs: &[TensorView<'_>]) -> Result<Box<dyn Outputs>, RunError>;

    /// Whether the thread that calls [`Session::run`] does all of the work, so that its clock tells the CPU time.
    fn runs_on_caller(&self) -> bool {
        false
    }
}

/// The results of one run, still in the engine's own memory: they can be moved to another thread and sent
/// from there without a copy, and they may outlive the session.
pub trait Outputs: Send {
    /// The value of output `index`.
    ///
    /// # Panics
    /// When `index` is not below the session's number of outputs.
    fn view(&self, index: usize) -> TensorView<'_>;
}
