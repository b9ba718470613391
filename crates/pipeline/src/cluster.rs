//! The nodes one can deploy to: found on the network, or named by a cluster file.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};
use wire::control::{NodeDescription, Request, Response};

use crate::control::{Control, NetworkConfig, NetworkError, Presence, Role};

/// How long a node may take to describe itself.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Without a number to wait for, discovery ends when nobody new showed up for this long.
const SETTLE_TIME: Duration = Duration::from_millis(400);

/// A node that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeInfo {
    /// Its identity in the control plane.
    pub id: String,
    /// What it says of itself.
    pub description: NodeDescription,
}

/// What to wait for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// So many nodes; without it, all that show up within a moment, and at least one.
    pub count: Option<usize>,
    /// Nodes of these names, in this order; takes precedence over `count`.
    pub names: Vec<String>,
    /// Give up after this long.
    pub timeout: Duration,
}

impl Wanted {
    /// So many nodes, within `timeout`.
    pub fn nodes(count: usize, timeout: Duration) -> Wanted {
        Wanted { count: Some(count), timeout, ..Wanted::default() }
    }
}

/// The nodes did not show up.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// Nobody is there.
    #[error("no node was found within {} s", .0.as_secs_f32())]
    Nobody(Duration),
    /// Some are missing.
    #[error("only {found} of {wanted} nodes were found within {} s", .timeout.as_secs_f32())]
    TooFew {
        /// Found.
        found: usize,
        /// Waited for.
        wanted: usize,
        /// How long.
        timeout: Duration,
    },
    /// Named nodes are missing.
    #[error("no node named {} was found within {} s", .missing.join(", "), .timeout.as_secs_f32())]
    Missing {
        /// Their names.
        missing: Vec<String>,
        /// How long.
        timeout: Duration,
    },
    /// Two nodes have the same name.
    #[error("two nodes are named `{0}`; give each a name of its own with --name")]
    SameName(String),
}

/// Membership in a group of nodes, and the nodes found so far.
pub struct Cluster {
    control: Arc<Control>,
    presence: Receiver<Presence>,
    nodes: Vec<NodeInfo>,
}

impl Cluster {
    /// Enters the control plane and begins to look for nodes.
    pub fn join(network: &NetworkConfig) -> Result<Cluster, NetworkError> {
        let control = Arc::new(Control::open(network)?);
        // Liveliness reports come from inside the control plane, which must not block; there is one per node
        // that comes or goes.
        #[expect(clippy::disallowed_methods, reason = "bounded by the number of nodes, see above")]
        let (sender, presence) = unbounded();
        control.watch(Role::Node, sender, |presence| presence)?;
        Ok(Cluster { control, presence, nodes: Vec::new() })
    }

    /// Waits for nodes. `progress` hears how many were found whenever that changes.
    pub fn discover(
        &mut self,
        wanted: &Wanted,
        progress: &dyn Fn(usize),
    ) -> Result<&[NodeInfo], DiscoverError> {
        let deadline = Instant::now() + wanted.timeout;
        let counted = wanted.count.is_some() || !wanted.names.is_empty();
        progress(self.nodes.len());
        while !self.satisfies(wanted) || !counted {
            let wait = deadline.saturating_duration_since(Instant::now());
            let wait = if counted || self.nodes.is_empty() { wait } else { wait.min(SETTLE_TIME) };
            match self.presence.recv_timeout(wait) {
                Ok(presence) => self.take_in(&presence),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
            progress(self.nodes.len());
        }
        self.conclude(wanted)?;
        Ok(&self.nodes)
    }

    /// The nodes found, by name.
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    pub(crate) fn control(&self) -> &Arc<Control> {
        &self.control
    }

    fn satisfies(&self, wanted: &Wanted) -> bool {
        if wanted.names.is_empty() {
            return self.nodes.len() >= wanted.count.unwrap_or(1);
        }
        wanted.names.iter().all(|name| self.by_name(name).is_some())
    }

    fn by_name(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.iter().find(|n| n.description.name == name)
    }

    fn take_in(&mut self, presence: &Presence) {
        self.nodes.retain(|n| n.id != presence.id);
        if !presence.alive {
            return;
        }
        match self.control.ask(&presence.id, &Request::Describe, DESCRIBE_TIMEOUT) {
            Ok(Response::Description(description)) => {
                self.nodes.push(NodeInfo { id: presence.id.clone(), description });
            }
            Ok(other) => tracing::warn!("node {} does not describe itself: {other:?}", presence.id),
            Err(e) => tracing::warn!("node {} does not describe itself: {e}", presence.id),
        }
    }

    fn conclude(&mut self, wanted: &Wanted) -> Result<(), DiscoverError> {
        let timeout = wanted.timeout;
        self.nodes.sort_by(|a, b| (&a.description.name, &a.id).cmp(&(&b.description.name, &b.id)));
        if wanted.names.is_empty() {
            return match (self.nodes.len(), wanted.count) {
                (0, _) => Err(DiscoverError::Nobody(timeout)),
                (found, Some(wanted)) if found < wanted => {
                    Err(DiscoverError::TooFew { found, wanted, timeout })
                }
                _ => Ok(()),
            };
        }
        let missing: Vec<String> =
            wanted.names.iter().filter(|name| self.by_name(name).is_none()).cloned().collect();
        if !missing.is_empty() {
            return Err(DiscoverError::Missing { missing, timeout });
        }
        let position = |n: &NodeInfo| wanted.names.iter().position(|name| *name == n.description.name);
        self.nodes.retain(|n| position(n).is_some());
        self.nodes.sort_by_key(|n| position(n));
        match self.nodes.windows(2).find(|pair| pair[0].description.name == pair[1].description.name) {
            Some(pair) => Err(DiscoverError::SameName(pair[0].description.name.clone())),
            None => Ok(()),
        }
    }
}
