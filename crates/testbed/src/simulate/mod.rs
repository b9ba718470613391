//! Chains by simulation: what comes of predicted times when items queue for devices and links.
//!
//! [`chain`] is the simulator, which experiments on real nodes use as well; [`scale`] goes beyond the devices at hand.

mod chain;
mod scale;

pub(crate) use chain::{Chain, Link, Stage, simulate};
pub(crate) use scale::{Args, execute};
