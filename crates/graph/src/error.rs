//! What can be wrong with a model, and with a request to take a part of it.

use std::path::PathBuf;

/// A model that can not be read, understood or written.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Any of the others, with the file it is about.
    #[error("{}: {error}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: Box<ModelError>,
    },
    /// The file can not be read or written.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The bytes are no ONNX model.
    #[error("not an ONNX model, or cut off ({0}); export or download it again")]
    NotOnnx(String),
    /// The model carries something that reading and writing it would lose.
    #[error(
        "not an ONNX model that can be kept whole: field {tag} of {message} is not part of ONNX (IR version \
         14) and would be lost; export it again, or drop the field with DiscardUnknownFields()"
    )]
    UnknownField {
        /// The message of the schema.
        message: &'static str,
        /// The field's number.
        tag: u32,
    },
    /// The file format is newer than this program.
    #[error("the model has IR version {0}, and 14 is the newest known; export it with an older opset")]
    IrVersion(i64),
    /// A tensor's data does not fit its type and sizes, or can not be found.
    #[error("tensor `{name}`: {problem}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A graph that is no graph: cycles, values defined twice or never.
    #[error("{0}; the model is broken, export it again")]
    Graph(String),
    /// Something of ONNX that can not be cut and shipped.
    #[error("{0}")]
    Unsupported(String),
    /// A model of more than 2 GB can not be one message.
    #[error(
        "the model takes {bytes} bytes, more than one ONNX file can hold (2 GB); save it to a path, with its \
             weights beside it"
    )]
    TooLarge {
        /// Size of the encoded model.
        bytes: usize,
    },
}

impl ModelError {
    /// The same error, naming the file.
    pub(crate) fn in_file(self, path: &std::path::Path) -> ModelError {
        match self {
            named @ ModelError::InFile { .. } => named,
            error => ModelError::InFile { path: path.to_owned(), error: Box::new(error) },
        }
    }
}

/// A part of a model that can not be a stage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StageError {
    /// The range holds no operator, or reaches beyond the model's.
    #[error("no stage from operator {start} to {end}: the model has {operators}")]
    Range {
        /// First operator.
        start: usize,
        /// One past the last operator.
        end: usize,
        /// Operators of the model.
        operators: usize,
    },
    /// A value that is no tensor of known type would have to travel.
    #[error("no cut before operator {position} (`{operator}`): {problem} `{value}` would have to cross it")]
    NotATensor {
        /// Where the cut would be.
        position: usize,
        /// The operator behind it.
        operator: String,
        /// The value.
        value: String,
        /// What it is.
        problem: &'static str,
    },
    /// The stage is larger than one ONNX message.
    #[error(
        "the stage takes {bytes} bytes, more than one ONNX file can hold (2 GB); cut the model in more parts"
    )]
    TooLarge {
        /// Size of the encoded stage.
        bytes: usize,
    },
}
