//! What can go wrong between a model and an engine. Every message names the model, tensor or file.

use std::path::PathBuf;

use tensor::{DType, SpecError};

use crate::{Refusal, Version};

/// Whether a tensor goes into a model or comes out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The model takes it.
    Input,
    /// The model gives it.
    Output,
}

/// Why an engine does not take a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The engine cannot read the model, or lacks something that it asks for.
    #[error("{engine} cannot load {model}: {message}")]
    Model {
        /// The engine.
        engine: &'static str,
        /// File, or size in memory.
        model: String,
        /// What the engine says; it names the node and the operator where that is the cause.
        message: String,
    },
    /// The engine has no form for an element type.
    #[error("{engine} cannot load {model}: it cannot take or give {dtype}, the type of {side} `{tensor}`")]
    Type {
        /// The engine.
        engine: &'static str,
        /// File, or size in memory.
        model: String,
        /// Where the tensor stands.
        side: Side,
        /// The tensor.
        tensor: String,
        /// Its element type.
        dtype: DType,
    },
    /// The model's inputs or outputs are not those expected.
    #[error("{model} does not have the {side}s expected: {message}")]
    Signature {
        /// File, or size in memory.
        model: String,
        /// Which of the two differ.
        side: Side,
        /// The difference.
        message: String,
    },
    /// [`crate::SessionOptions::threads`] is zero or more than an engine can count.
    #[error("a session cannot run on {0} threads")]
    Threads(usize),
}

/// Why a run gave no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// Too many or too few inputs.
    #[error("the model takes {expected} inputs, not {found}")]
    InputCount {
        /// What the model takes.
        expected: usize,
        /// What was given.
        found: usize,
    },
    /// An input of another type or shape than the model declares.
    #[error(transparent)]
    Input(Box<SpecError>),
    /// A value that the engine's own type cannot hold.
    #[error("tensor `{tensor}` holds {value}, which {engine} cannot hold: it computes {dtype} as {held}")]
    Range {
        /// The engine.
        engine: &'static str,
        /// The tensor.
        tensor: String,
        /// The first such value.
        value: String,
        /// The declared type.
        dtype: DType,
        /// The type the engine uses in its place.
        held: DType,
    },
    /// The engine produced a tensor that is not what the model declares.
    #[error("{engine} gave for output `{tensor}` {found}")]
    Output {
        /// The engine.
        engine: &'static str,
        /// The tensor.
        tensor: String,
        /// What it gave instead.
        found: String,
    },
    /// The engine failed.
    #[error("{engine} failed: {message}")]
    Engine {
        /// The engine.
        engine: &'static str,
        /// What it says; it names the node where one is at fault.
        message: String,
    },
}

impl From<SpecError> for RunError {
    fn from(error: SpecError) -> RunError {
        RunError::Input(Box::new(error))
    }
}

/// Why ONNX Runtime is not available.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LibraryError {
    /// No usable library in any place.
    #[error("no usable ONNX Runtime library was found{}", list(refused))]
    NotFound {
        /// Those that were found but cannot be used.
        refused: Vec<(PathBuf, Refusal)>,
    },
    /// The library at this path cannot be used.
    #[error("`{path}` {refusal}")]
    Refused {
        /// The library.
        path: PathBuf,
        /// The reason.
        refusal: Refusal,
    },
    /// The system's loader or the library itself failed.
    #[error("`{path}` (ONNX Runtime {version}) cannot be loaded: {message}")]
    Load {
        /// The library.
        path: PathBuf,
        /// Its version.
        version: Version,
        /// What the loader says.
        message: String,
    },
    /// A process can hold one ONNX Runtime only, and holds another one.
    #[error("`{asked}` cannot be loaded: this process already uses `{loaded}`")]
    SecondLibrary {
        /// The library in use.
        loaded: PathBuf,
        /// The one asked for.
        asked: PathBuf,
    },
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Side::Input => "input",
            Side::Output => "output",
        })
    }
}

fn list(refused: &[(PathBuf, Refusal)]) -> String {
    refused.iter().map(|(path, refusal)| format!("; `{}` {refusal}", path.display())).collect()
}
