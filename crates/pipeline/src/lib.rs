//! The system: dispatcher, compute node, transport, deployment.
//!
//! [`Cluster`] finds nodes, [`Pipeline`] deploys a model over them and runs items through it, [`Node`] is
//! the other side. Decisions are made by pure state machines ([`dispatcher::state`],
//! [`dispatcher::delivery`], [`node::state`]); everything else carries them out. It never prints and never
//! reads the environment.

mod accuracy;
mod advice;
pub mod calibrate;
mod cluster;
mod coding;
mod control;
mod deviation;
pub mod dispatcher;
mod engine_thread;
mod layout;
mod machine;
mod memory;
pub mod node;
mod operation;
mod prepare;
mod probe;
mod profile;
mod recorder;
mod store;
mod timing;
mod traffic;
pub mod transport;

pub use accuracy::{Accuracy, UnknownAccuracy, fidelity_on};
pub use calibrate::{
    CalibrateOptions, Costs, MIN_ITEMS, Measured, MeasuredLink, MeasuredPort, Moved, NobodyLeft, NodeTimes,
    Overhead, OverheadCosts, calibrate, keep_operation, keep_rehearsal,
};
pub use cluster::{Cluster, DiscoverError, NodeInfo, Wanted};
pub use coding::{CodecFactor, CodecFigures, Coding};
pub use control::{NetworkConfig, NetworkError};
pub use deviation::{Deviation, Limits, OutputDeviation};
pub use dispatcher::{
    Agreement, CodecSwitch, CodecTrial, DeployError, DeployedStage, ItemError, MAX_TRIAL_ITEMS, Options,
    Pending, Pipeline, Progress, RecodeError, Rehearsed, Trace, TracedProcess, TracedStep, Tracing,
    TriedLink, figures_between,
};
pub use layout::{Layout, LayoutError, LayoutStage};
pub use memory::return_large_blocks;
pub use node::{Node, NodeConfig, NodeError};
pub use operation::Operation;
pub use prepare::{PrepareError, PrepareOptions, Prepared, SplitOptions};
pub use profile::{Profile, ProfileError, UnitCost, arbitrary_item, profile};
pub use recorder::{Recorder, Span};
pub use timing::{CONFIDENCE, Timing};
pub use transport::Shipped;
