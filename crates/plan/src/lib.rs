//! Cluster description, cost model, optimiser and predictor.
//!
//! Called by the command line (predict, plan) and the pipeline (deploy). Pure functions: no I/O, no clock,
//! no thread, no random number; the same input gives the same plan, to the bit.
//!
//! [`Cluster`] is what a user writes down about devices and links. [`Problem`] is what one model costs on
//! them. [`solve`] finds the best [`Plan`], and [`predict`] evaluates any assignment with the same cost
//! model.

mod beam;
mod bits;
mod check;
pub mod cluster;
mod costs;
pub mod document;
mod error;
mod explain;
mod labels;
mod large;
mod model;
pub mod names;
mod network;
mod order;
mod paths;
mod places;
mod plain;
mod predict;
mod prices;
mod problem;
mod prune;
mod quantity;
mod recode;
mod rules;
mod search;
mod solve;
mod steps;
mod ways;
mod whole;

pub use cluster::Cluster;
pub use document::DocumentError;
pub use error::{PlanError, Shortage};
pub use explain::{Axis, Outlook, front, outlook};
pub use model::{ModelCosts, ModelCostsError};
pub use paths::Paths;
pub use predict::{Assignment, Hop, Load, Path, Placement, Plan, Replica, Resource, Stage, predict};
pub use problem::{
    Boundary, Codec, CodecCost, Device, End, Host, Link, Links, Medium, Problem, Queues, Resources, Unit,
};
pub use quantity::{Bandwidth, ByteSize, Delay, QuantityError};
pub use recode::best_codec;
pub use rules::{Rule, by_rule};
pub use solve::{Objective, Options, Solution, solve};

#[cfg(test)]
mod tests;
