//! The nodes one can deploy to: found on the network, or named by a cluster file.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};
use plan::names::listed;
use wire::control::{NodeDescription, Request, Response};
use zenoh::pubsub::Subscriber;

use crate::control::{AskError, Control, NetworkConfig, NetworkError, Presence, Role};

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

#[cfg(test)]
impl NodeInfo {
    /// A node that is nowhere.
    pub(crate) fn imagined(name: &str, memory_limit: u64, memory_used: u64) -> NodeInfo {
        let description = NodeDescription {
            name: name.into(),
            version: String::new(),
            cores: 1,
            threads: 1,
            memory_limit,
            memory_used,
            engine: String::new(),
            data_addresses: vec![],
            machine: wire::control::Machine::default(),
            stages: vec![],
        };
        NodeInfo { id: name.into(), description }
    }
}

/// Which nodes to wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// So many or more. Once they are there, others that show up within a moment are taken as well, so that
    /// the same nodes are found every time.
    AtLeast(usize),
    /// So many, and no more will come.
    Exactly(usize),
    /// Those of these names, in this order.
    Named(Vec<String>),
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
    #[error("no node named {} was found within {} s{}", listed(.missing), .timeout.as_secs_f32(), those(.found))]
    Missing {
        /// Their names.
        missing: Vec<String>,
        /// The names of those that are there.
        found: Vec<String>,
        /// How long.
        timeout: Duration,
    },
    /// Two nodes have the same name, which messages, plans and what is kept of nodes go by.
    #[error("two nodes are named `{name}`, at {}; give each a name of its own with --name", listed(.addresses))]
    SameName {
        /// The name.
        name: String,
        /// Where they are.
        addresses: Vec<String>,
    },
}

/// The names of nodes that are there, for an error.
fn those(found: &[String]) -> String {
    match found {
        [] => ", nor any other".to_owned(),
        names => format!("; those that were: {}", listed(names)),
    }
}

/// Membership in a group of nodes, and the nodes found so far.
pub struct Cluster {
    _watch: Subscriber<()>,
    control: Arc<Control>,
    presence: Receiver<Presence>,
    nodes: Vec<NodeInfo>,
    /// Present, but they have not described themselves yet: asked again while nodes are waited for.
    silent: Vec<String>,
}

impl Cluster {
    /// Enters the control plane and begins to look for nodes.
    pub fn join(network: &NetworkConfig) -> Result<Cluster, NetworkError> {
        let mut control = Control::open(network)?;
        // Nodes give up what this dispatcher ordered when they see it leave.
        control.announce(Role::Dispatcher)?;
        let control = Arc::new(control);
        // Liveliness reports come from inside the control plane, which must not block; there is one per node
        // that comes or goes.
        #[expect(clippy::disallowed_methods, reason = "bounded by the number of nodes, see above")]
        let (sender, presence) = unbounded();
        let watch = control.watch(Role::Node, sender, |presence| presence)?;
        Ok(Cluster { _watch: watch, control, presence, nodes: Vec::new(), silent: Vec::new() })
    }

    /// Waits for nodes, at most for `timeout`. `progress` hears how many of those wanted were found, whenever
    /// that may have changed.
    pub fn discover(
        &mut self,
        wanted: &Wanted,
        timeout: Duration,
        progress: &dyn Fn(usize),
    ) -> Result<&[NodeInfo], DiscoverError> {
        let deadline = Instant::now() + timeout;
        loop {
            progress(self.found(wanted));
            let left = deadline.saturating_duration_since(Instant::now());
            let waiting = !self.satisfies(wanted);
            let wait = match wanted {
                _ if waiting && self.silent.is_empty() => left,
                _ if waiting => left.min(SETTLE_TIME),
                Wanted::AtLeast(_) => left.min(SETTLE_TIME),
                // What has been reported already is taken in, to notice a name that two nodes have.
                Wanted::Exactly(_) | Wanted::Named(_) => Duration::ZERO,
            };
            match self.presence.recv_timeout(wait) {
                Ok(presence) => self.take_in(&presence),
                Err(RecvTimeoutError::Timeout) if waiting && !left.is_zero() => {
                    std::mem::take(&mut self.silent).into_iter().for_each(|id| self.ask_who(id));
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        self.conclude(wanted, timeout)?;
        Ok(&self.nodes)
    }

    /// The nodes found, by name.
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    /// Leaves out the nodes that have gone since they were found, and says which they were, by position: those whose
    /// presence has ended, and of the `suspects` those that do not even describe themselves any more, such as one that
    /// is frozen and whose link has not been given up yet.
    pub(crate) fn leave_out_gone(&mut self, suspects: &[usize]) -> Vec<usize> {
        let mut left = BTreeSet::new();
        let reports: Vec<Presence> = self.presence.try_iter().collect();
        for Presence { id, alive } in reports {
            self.silent.retain(|silent| *silent != id);
            if !alive {
                left.insert(id);
            } else if !left.remove(&id) && !self.nodes.iter().any(|node| node.id == id) {
                // Newcomers are taken in when nodes are looked for again.
                self.silent.push(id);
            }
        }
        let is_gone = |i: usize, id: &str| {
            let ask = || self.control.ask(id, &Request::Describe, DESCRIBE_TIMEOUT);
            let is_mute = || matches!(ask(), Err(AskError::Gone | AskError::Silence(_)));
            left.contains(id) || (suspects.contains(&i) && is_mute())
        };
        let nodes = self.nodes.iter().enumerate();
        let gone: Vec<usize> = nodes.filter(|(i, node)| is_gone(*i, &node.id)).map(|(i, _)| i).collect();
        let mut positions = 0..;
        self.nodes.retain(|_| positions.next().is_some_and(|i| !gone.contains(&i)));
        gone
    }

    /// Whether no two of the nodes found have the same name.
    ///
    /// # Errors
    /// Tells of two that have.
    pub fn check_names(&self) -> Result<(), DiscoverError> {
        for (i, node) in self.nodes.iter().enumerate() {
            let name = &node.description.name;
            if let Some(other) = self.nodes[..i].iter().find(|other| other.description.name == *name) {
                let address =
                    |node: &NodeInfo| node.description.data_addresses.first().map(ToString::to_string);
                let addresses = [other, node].into_iter().filter_map(address).collect();
                return Err(DiscoverError::SameName { name: name.clone(), addresses });
            }
        }
        Ok(())
    }

    pub(crate) fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// How many of the nodes wanted are there.
    fn found(&self, wanted: &Wanted) -> usize {
        match wanted {
            Wanted::AtLeast(_) | Wanted::Exactly(_) => self.nodes.len(),
            Wanted::Named(names) => names.iter().filter(|name| self.by_name(name).is_some()).count(),
        }
    }

    fn satisfies(&self, wanted: &Wanted) -> bool {
        self.found(wanted)
            >= match wanted {
                Wanted::AtLeast(count) | Wanted::Exactly(count) => *count,
                Wanted::Named(names) => names.len(),
            }
    }

    fn by_name(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.iter().find(|n| n.description.name == name)
    }

    fn take_in(&mut self, presence: &Presence) {
        self.nodes.retain(|n| n.id != presence.id);
        self.silent.retain(|id| *id != presence.id);
        if presence.alive {
            self.ask_who(presence.id.clone());
        }
    }

    fn ask_who(&mut self, id: String) {
        match self.control.ask(&id, &Request::Describe, DESCRIBE_TIMEOUT) {
            Ok(Response::Description(description)) => self.nodes.push(NodeInfo { id, description }),
            Ok(other) => tracing::warn!("node {id} does not describe itself: {other:?}"),
            Err(e) => {
                tracing::info!("node {id} has not described itself yet: {e}");
                self.silent.push(id);
            }
        }
    }

    fn conclude(&mut self, wanted: &Wanted, timeout: Duration) -> Result<(), DiscoverError> {
        self.nodes.sort_by(|a, b| (&a.description.name, &a.id).cmp(&(&b.description.name, &b.id)));
        let names = match *wanted {
            Wanted::AtLeast(wanted) | Wanted::Exactly(wanted) => {
                return match self.nodes.len() {
                    found if found >= wanted => Ok(()),
                    0 => Err(DiscoverError::Nobody(timeout)),
                    found => Err(DiscoverError::TooFew { found, wanted, timeout }),
                };
            }
            Wanted::Named(ref names) => names,
        };
        let missing: Vec<String> =
            names.iter().filter(|name| self.by_name(name).is_none()).cloned().collect();
        if !missing.is_empty() {
            let found = self.nodes.iter().map(|node| node.description.name.clone()).collect();
            return Err(DiscoverError::Missing { missing, found, timeout });
        }
        let position = |n: &NodeInfo| names.iter().position(|name| *name == n.description.name);
        self.nodes.retain(|n| position(n).is_some());
        self.nodes.sort_by_key(|n| position(n));
        self.check_names()
    }
}
