//! How a model is deployed, how far that is, and why it may fail.

use std::sync::Arc;
use std::time::Duration;

use engine::Engine;
use graph::StageError;
use wire::CodecList;
use wire::codec::CodecListError;

use super::state::Failure;
use super::{Agreement, ItemError, RecodeError};
use crate::accuracy::Accuracy;
use crate::calibrate::Measured;
use crate::control::NetworkError;
use crate::layout::{Layout, LayoutError};
use crate::prepare::{PrepareError, PrepareOptions, SplitOptions};

/// How a model is deployed.
#[derive(Clone)]
pub struct Options {
    /// The model's name, for people.
    pub name: String,
    /// The engine that measures the model on this machine; best the one that the nodes run.
    pub engine: Arc<dyn Engine>,
    /// Hears how far the deployment is, from the thread that deploys.
    pub progress: Option<Arc<dyn Fn(Progress)>>,
    /// How the model is made ready.
    pub prepare: PrepareOptions,
    /// How it is split; over all nodes, unless one would make it slower.
    pub split: SplitOptions,
    /// Exactly which node runs what, and the codec of every link; then `split` and `accuracy` say nothing.
    pub layout: Option<Layout>,
    /// Devices and links as the user describes them, in the order of the cluster's nodes. Without it, nodes
    /// count as equally fast and links as no limit.
    pub description: Option<plan::Cluster>,
    /// What [`calibrate`](fn@crate::calibrate) found about the cluster's nodes and links. With it the stages of a plan
    /// are measured as a whole before they are connected, and given up for better ones.
    pub measured: Option<Measured>,
    /// Whether a chain is rehearsed that would show what moving tensors costs a node besides what plans know of, where that
    /// is not known, and planned again with what that finds: it runs copies of an item for a second or a few before the
    /// first item. Without `measured`, with which stages are timed, there is nothing to learn.
    pub rehearse: bool,
    /// What links may lose: the plan chooses their codecs among those of this accuracy that were tried on the model
    /// ([`PrepareOptions::codecs`]), and raw.
    pub accuracy: Accuracy,
    /// Codecs to which links may switch while the chain runs, besides those that the plan chose from.
    pub alternatives: CodecList,
    /// How far outputs may move where links are to use coarse codecs. They are tried before the first item, and taken
    /// back where they move the outputs further, halves after them; only [`Accuracy::Only`] uses one untried.
    pub agreement: Agreement,
    /// Items in flight at most; twice the stages plus two without it, which keeps every thread busy.
    pub window: Option<usize>,
    /// How often the links are looked at while items flow, to switch codecs where that lowers the period by more than
    /// 10 %; `None` leaves all links as they begin. So does a layout, and a codec that was named for all links.
    pub adapt_every: Option<Duration>,
}

impl Default for Options {
    /// The built-in engine, raw tensors as no codec was tried, and a plan over all nodes.
    fn default() -> Options {
        Options {
            name: "model".to_owned(),
            engine: Arc::new(engine::Rten),
            progress: None,
            prepare: PrepareOptions::default(),
            split: SplitOptions::default(),
            layout: None,
            description: None,
            measured: None,
            rehearse: false,
            accuracy: Accuracy::default(),
            alternatives: CodecList::default(),
            agreement: Agreement::default(),
            window: None,
            adapt_every: Some(Duration::from_secs(2)),
        }
    }
}

impl Options {
    pub(super) fn tell(&self, progress: Progress) {
        if let Some(hear) = &self.progress {
            hear(progress);
        }
    }
}

/// How far a deployment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Units measured.
    Measuring {
        /// So far.
        done: usize,
        /// In all.
        total: usize,
    },
    /// Weights shipped, all nodes together, bytes.
    Shipping {
        /// So far.
        sent: u64,
        /// In all, as far as nodes have said what they lack.
        total: u64,
    },
    /// Loaded stages are timed as a whole.
    Timing {
        /// Which plan it is: 1 is the first, and the first after a rehearsal.
        round: usize,
    },
    /// The chain is rehearsed.
    Rehearsing,
    /// Stages whose session is built.
    Loading {
        /// So far.
        loaded: usize,
        /// In all.
        total: usize,
    },
}

/// A deployment that failed.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The model cannot be made ready or split.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// The layout is none for this model and these nodes.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A link would have more codecs than one may have.
    #[error(transparent)]
    Codecs(#[from] CodecListError),
    /// The alternatives are too many for one list, together with what the plan may choose.
    #[error("name fewer alternatives: with the codecs that the plan may choose they make {0}")]
    Alternatives(CodecListError),
    /// The codecs of the chain could not be switched to try them.
    #[error(transparent)]
    Recode(#[from] RecodeError),
    /// The items to try codecs on could not be run.
    #[error("codecs could not be tried: {0}")]
    Trial(ItemError),
    /// The chain broke in its rehearsal.
    #[error("the chain could not be rehearsed: {0}")]
    Rehearsal(ItemError),
    /// A stage cannot be cut out.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The control plane.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The description does not fit the nodes.
    #[error("{devices} devices are described, but {nodes} nodes were found")]
    Description {
        /// Devices described.
        devices: usize,
        /// Nodes found.
        nodes: usize,
    },
    /// The measurements are of another cluster or model.
    #[error(
        "measurements of {nodes} nodes and {units} units were given for another cluster or another model"
    )]
    Measured {
        /// Nodes measured.
        nodes: usize,
        /// Units measured.
        units: usize,
    },
    /// A node refused, or failed at what it was asked to do.
    #[error("{0}")]
    Refused(String),
    /// A node went, keeps silent, or cannot be reached.
    #[error("{0}")]
    Lost(String),
    /// A thread or a connection of the dispatcher's own.
    #[error("the dispatcher failed: {0}")]
    Local(#[from] std::io::Error),
}

impl From<Failure> for DeployError {
    fn from(failure: Failure) -> DeployError {
        match failure {
            Failure::Refused(reason) => DeployError::Refused(reason),
            Failure::Lost(reason) => DeployError::Lost(reason),
            Failure::Own(reason) => DeployError::Local(std::io::Error::other(reason)),
        }
    }
}
