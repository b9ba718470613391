//! ONNX in and out, cuts, stage extraction, the model zoo.
//!
//! The only crate that knows ONNX. [`Model::load`] reads a model, [`Model::simplify`] does what a runtime
//! could not do across a cut, [`Model::cuts`] lists where it may be split and [`Model::stage`] makes the
//! part between two cuts a model of its own. It never runs a model, opens a socket or prints.

mod annotate;
mod caveats;
mod cuts;
mod error;
mod external;
mod fields;
mod flow;
mod hash;
mod model;
mod names;
mod pixels;
pub(crate) mod proto;
mod rounding;
mod save;
mod simplify;
mod sizes;
mod stage;
mod types;
mod visit;
mod weights;
pub mod zoo;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use caveats::Caveat;
pub use cuts::Cut;
pub use error::{ModelError, StageError};
pub use hash::{Hash, ParseHashError};
pub use model::{Model, Operator};
pub use rounding::{Rounded, Rounding};
pub use simplify::{Evaluate, Simplified};
pub use stage::{Route, Stage, Weight};
