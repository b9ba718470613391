//! `cluster.toml`: the devices and links that a user has, typed.
//!
//! Read by the planner, the command line and the deployment, so that all of them speak of the same
//! cluster. It never opens a file: the caller reads the text and adds the file's name to an error.
//!
//! # The format
//!
//! ```toml
//! version = 1                     # required
//!
//! [dispatcher]                    # its own connection; optional
//! bandwidth = "1Gbit/s"
//! delay = "200us"
//!
//! [[device]]                      # one or more; the planner finds their order
//! name = "pi-kitchen"             # required, unique
//! address = "tcp/10.0.0.7:7447"   # Zenoh endpoint of its control plane; without it, found by its name
//! cores = 4                       # without it, what the node reports
//! speed = 1.0                     # compute speed relative to the others; 1.0 without it
//! memory = "2GiB"                 # limit for the parts of models it holds; without it, none
//!
//! [links]                         # every pair without a line of its own; optional
//! bandwidth = "100Mbit/s"         # without it, no limit
//! delay = "1ms"                   # without it, none
//!
//! [[link]]                        # one direction between two devices, or `dispatcher`
//! from = "pi-kitchen"
//! to = "nuc"
//! bandwidth = "20Mbit/s"
//! ```
//!
//! A link takes each figure from its own `[[link]]`, else from `[dispatcher]` if one of its ends is the
//! dispatcher, else from `[links]`. Data addresses are not written down: nodes announce them. Unknown keys
//! are refused.

mod read;
mod table;
#[cfg(test)]
mod tests;
mod write;

use crate::{Bandwidth, ByteSize, Delay, Device, End, Link, Links, Resources};

/// The version of the format that is read and written.
pub const VERSION: i64 = 1;

/// The name that stands for the dispatcher in a link.
const DISPATCHER: &str = "dispatcher";

/// A cluster as described by the user.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    /// The dispatcher's own connection.
    pub dispatcher: Connection,
    /// The devices, their names unique.
    pub devices: Vec<DeviceEntry>,
    /// What holds for every link without figures of its own.
    pub links: Connection,
    /// Links with figures of their own.
    pub link: Vec<LinkEntry>,
}

/// What is known of a network path; what is not known is taken from the next more general description.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// Its bandwidth.
    pub bandwidth: Option<Bandwidth>,
    /// Its delay in one direction.
    pub delay: Option<Delay>,
}

/// One device.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceEntry {
    /// Its name, unique in the cluster, never `dispatcher`.
    pub name: String,
    /// The Zenoh endpoint of its control plane, such as `tcp/10.0.0.7:7447`.
    pub address: Option<String>,
    /// Cores for the computation; at least 1.
    pub cores: Option<usize>,
    /// Compute speed relative to the other devices; finite, above 0.
    pub speed: f64,
    /// What it may hold.
    pub memory: Option<ByteSize>,
}

/// One direction between two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkEntry {
    /// The sender.
    pub from: End,
    /// The receiver.
    pub to: End,
    /// Its figures.
    pub connection: Connection,
}

/// A text that is no valid `cluster.toml`. The caller adds the file's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct ClusterError {
    /// Line of the fault, from 1.
    pub line: usize,
    /// Column of the fault in characters, from 1.
    pub column: usize,
    /// The key concerned, with its table (`device.speed`); empty where the text is no TOML.
    pub key: String,
    /// What is wrong with it and what is allowed; names the key.
    pub message: String,
}

impl Cluster {
    /// Reads a `cluster.toml`.
    ///
    /// # Errors
    /// Names the first fault found: no TOML, an unknown or missing key, a wrong type, a figure out of
    /// range, a name used twice or not at all.
    pub fn from_toml(text: &str) -> Result<Cluster, ClusterError> {
        read::cluster(text)
    }

    /// Writes the `cluster.toml` that [`Cluster::from_toml`] reads as the same cluster.
    pub fn to_toml(&self) -> String {
        write::cluster(self)
    }

    /// The figures of the link from one end to another.
    pub fn link(&self, from: End, to: End) -> Link {
        let own = self.link.iter().find(|l| l.from == from && l.to == to).map(|l| l.connection);
        let to_dispatcher = from == End::Dispatcher || to == End::Dispatcher;
        let known = [own, to_dispatcher.then_some(self.dispatcher), Some(self.links)].into_iter().flatten();
        let bandwidth = known.clone().find_map(|c| c.bandwidth);
        let delay = known.clone().find_map(|c| c.delay);
        Link {
            bandwidth: bandwidth.map_or(Link::FREE.bandwidth, Bandwidth::bytes_per_second),
            delay: delay.map_or(Link::FREE.delay, Delay::seconds),
            ..Link::FREE
        }
    }

    /// All of it as a [`Problem`](crate::Problem) takes it, devices in the order of the file.
    pub fn resources(&self) -> Resources {
        let devices: Vec<Device> = self
            .devices
            .iter()
            .map(|d| Device {
                memory_bytes: d.memory.map(ByteSize::bytes),
                ..Device::of_speed(&d.name, d.speed)
            })
            .collect();
        let mut links = Links::uniform(devices.len(), Link::FREE);
        let ends = || std::iter::once(End::Dispatcher).chain((0..devices.len()).map(End::Device));
        for from in ends() {
            for to in ends().filter(|&to| to != from) {
                links.set(from, to, self.link(from, to));
            }
        }
        Resources { links, ..Resources::on_free_links(devices) }
    }
}
