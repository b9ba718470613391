//! `cluster.toml`: the devices and links that a user has, typed.
//!
//! Read by the planner, the command line and the deployment, so that all of them speak of the same
//! cluster. It never opens a file: the caller reads the text and adds the file's name to an error.
//! The format stands in `docs/cluster.md`, which a test holds against what is read.

mod read;
#[cfg(test)]
mod tests;
mod write;

use crate::document::DocumentError;
use crate::{Bandwidth, ByteSize, Delay, Device, End, Host, Link, Links, Medium, Resources};

/// The version of the format that is read and written.
pub const VERSION: i64 = 1;

/// The name that stands for the dispatcher in a link.
const DISPATCHER: &str = "dispatcher";

/// A cluster as described by the user.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    /// The dispatcher's own connection.
    pub dispatcher: Connection,
    /// The dispatcher's power.
    pub dispatcher_power: Power,
    /// The devices, their names unique.
    pub devices: Vec<DeviceEntry>,
    /// What holds for every link without figures of its own.
    pub links: Connection,
    /// Links among devices that have something in common.
    pub classes: Vec<ClassEntry>,
    /// What links share.
    pub media: Vec<MediumEntry>,
    /// Links with figures of their own.
    pub link: Vec<LinkEntry>,
}

/// What is known of a network path; what is not known is taken from the next more general description.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Connection {
    /// Its bandwidth.
    pub bandwidth: Option<Bandwidth>,
    /// Its delay in one direction.
    pub delay: Option<Delay>,
    /// Time that each frame takes besides its bytes.
    pub frame_time: Option<Delay>,
    /// Energy of a byte at both ends together, nanojoules; finite, not below 0.
    pub nanojoules_per_byte: Option<f64>,
}

/// What a machine takes, watts; finite, not below 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Power {
    /// When it does nothing.
    pub idle_watts: Option<f64>,
    /// When it computes; not below the idle one.
    pub busy_watts: Option<f64>,
}

/// Links between any two of these.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassEntry {
    /// The ends, at least two, each once.
    pub members: Vec<End>,
    /// Their figures.
    pub connection: Connection,
}

/// Links from and to any of these, which share airtime.
#[derive(Clone, Debug, PartialEq)]
pub struct MediumEntry {
    /// Its name, unique among the media.
    pub name: String,
    /// The ends on it, at least one, each once.
    pub members: Vec<End>,
    /// Whether what one member sends to another travels twice.
    pub access_point: bool,
    /// The figures of its links, once over the medium.
    pub connection: Connection,
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
    /// Of all that it sends, and of all that it receives.
    pub bandwidth: Option<Bandwidth>,
    /// What it takes.
    pub power: Power,
    /// Milliseconds of each unit of the model; finite, not below 0.
    pub unit_times_ms: Option<Vec<f64>>,
}

/// One direction between two ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkEntry {
    /// The sender.
    pub from: End,
    /// The receiver.
    pub to: End,
    /// Its figures.
    pub connection: Connection,
}

impl Cluster {
    /// Reads a `cluster.toml`.
    ///
    /// # Errors
    /// Names the first fault found: no TOML, an unknown or missing key, a wrong type, a figure out of
    /// range, a name used twice or not at all.
    pub fn from_toml(text: &str) -> Result<Cluster, DocumentError> {
        read::cluster(text)
    }

    /// Writes the `cluster.toml` that [`Cluster::from_toml`] reads as the same cluster.
    pub fn to_toml(&self) -> String {
        write::cluster(self)
    }

    /// Leaves out the devices that `keep` does not want, and all that is said of their links.
    pub fn retain(&mut self, keep: impl Fn(&DeviceEntry) -> bool) {
        let mut left = 0..;
        let positions: Vec<Option<usize>> =
            self.devices.iter().map(|device| keep(device).then(|| left.next()).flatten()).collect();
        let moved = |end: End| match end {
            End::Dispatcher => Some(End::Dispatcher),
            End::Device(i) => positions[i].map(End::Device),
        };
        let remaining =
            |members: &mut Vec<End>| *members = members.iter().copied().filter_map(moved).collect();
        self.classes.iter_mut().for_each(|class| remaining(&mut class.members));
        self.classes.retain(|class| class.members.len() > 1);
        self.media.iter_mut().for_each(|medium| remaining(&mut medium.members));
        self.media.retain(|medium| !medium.members.is_empty());
        let link = |link: &LinkEntry| {
            Some(LinkEntry { from: moved(link.from)?, to: moved(link.to)?, connection: link.connection })
        };
        self.link = self.link.iter().filter_map(link).collect();
        self.devices.retain(keep);
    }

    /// The figures of the link from one end to another.
    pub fn link(&self, from: End, to: End) -> Link {
        let own = self.link.iter().find(|l| l.from == from && l.to == to).map(|l| l.connection);
        let media: Vec<Connection> =
            self.media.iter().filter(|m| m.is_on(from, to)).map(|m| m.between(from, to)).collect();
        // Over two media, no faster than over the slower.
        let slowest =
            Connection { bandwidth: media.iter().filter_map(|c| c.bandwidth).min(), ..Connection::default() };
        let classes = self.classes.iter().filter(|c| c.members.contains(&from) && c.members.contains(&to));
        let to_dispatcher = from == End::Dispatcher || to == End::Dispatcher;
        let known: Vec<Connection> = own
            .into_iter()
            .chain([slowest])
            .chain(media)
            .chain(classes.map(|class| class.connection))
            .chain(to_dispatcher.then_some(self.dispatcher))
            .chain([self.links])
            .collect();
        let bandwidth = known.iter().find_map(|c| c.bandwidth).map(Bandwidth::bytes_per_second);
        let nanojoules = known.iter().find_map(|c| c.nanojoules_per_byte);
        Link {
            bandwidth: bandwidth.unwrap_or(Link::FREE.bandwidth),
            delay: known.iter().find_map(|c| c.delay).map_or(0.0, Delay::seconds),
            frame_seconds: known.iter().find_map(|c| c.frame_time).map_or(0.0, Delay::seconds),
            joules_per_byte: nanojoules.map_or(0.0, |nanojoules| nanojoules * 1e-9),
        }
    }

    /// All of it as a [`Problem`](crate::Problem) takes it, devices in the order of the file.
    pub fn resources(&self) -> Resources {
        let pairs = || End::pairs(self.devices.len());
        let mut links = Links::uniform(self.devices.len(), Link::FREE);
        for (from, to) in pairs() {
            links.set(from, to, self.link(from, to));
        }
        let medium = |medium: &MediumEntry| Medium {
            name: medium.name.clone(),
            links: pairs().filter(|&(from, to)| medium.is_on(from, to)).collect(),
        };
        Resources {
            dispatcher: self.dispatcher_power.host(self.dispatcher.bandwidth),
            devices: self.devices.iter().map(DeviceEntry::device).collect(),
            links,
            media: self.media.iter().map(medium).collect(),
        }
    }
}

impl MediumEntry {
    /// Whether a link takes its airtime.
    fn is_on(&self, from: End, to: End) -> bool {
        self.members.contains(&from) || self.members.contains(&to)
    }

    /// The figures of a link on it.
    fn between(&self, from: End, to: End) -> Connection {
        let Connection { bandwidth, delay, frame_time, .. } = self.connection;
        if !(self.access_point && self.members.contains(&from) && self.members.contains(&to)) {
            return self.connection;
        }
        Connection {
            bandwidth: bandwidth.map(Bandwidth::half),
            delay: delay.map(Delay::twice),
            frame_time: frame_time.map(Delay::twice),
            ..self.connection
        }
    }
}

impl Power {
    /// A machine with this power and bandwidth. What is idle and not known takes nothing; what computes takes no less.
    fn host(&self, bandwidth: Option<Bandwidth>) -> Host {
        let idle_watts = self.idle_watts.unwrap_or(0.0);
        let unlimited = Host::default();
        Host {
            bandwidth: bandwidth.map_or(unlimited.bandwidth, Bandwidth::bytes_per_second),
            idle_watts,
            busy_watts: self.busy_watts.unwrap_or(idle_watts),
            ..unlimited
        }
    }
}

impl DeviceEntry {
    fn device(&self) -> Device {
        let seconds = |times: &Vec<f64>| times.iter().map(|ms| ms * 1e-3).collect();
        Device {
            unit_seconds: self.unit_times_ms.as_ref().map(seconds),
            memory_bytes: self.memory.map(ByteSize::bytes),
            host: self.power.host(self.bandwidth),
            ..Device::of_speed(&self.name, self.speed)
        }
    }
}
