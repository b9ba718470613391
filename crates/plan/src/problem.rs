//! What a plan is made from: the costs of a model's units, the devices and the links.
//!
//! Filled in by whoever measured (the pipeline's profiler, a cluster file, a test). Plain data: it is
//! checked when it is used, by [`solve`](crate::solve) and [`predict`](crate::predict).

/// A model to be split over devices.
///
/// The dispatcher's own CPU is not part of the model: its work does not depend on the plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// The model's units in execution order; at least one.
    pub units: Vec<Unit>,
    /// The tensors live before unit 0 (the model's inputs), between units, and after the last one (its
    /// outputs): one more than units.
    pub boundaries: Vec<Boundary>,
    /// The devices.
    pub devices: Vec<Device>,
    /// The network paths between them.
    pub links: Links,
}

/// The smallest piece that is moved: the operators between two neighbouring cuts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unit {
    /// Compute time of one item on a device of speed 1.
    pub seconds: f64,
    /// Weights of its operators. A weight that two units read counts in both.
    pub weight_bytes: u64,
    /// Peak of the tensors alive while it runs.
    pub activation_bytes: u64,
}

/// What one item moves between two units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boundary {
    /// Bytes as they travel, codec included.
    pub bytes: u64,
    /// Number of tensors.
    pub tensors: usize,
}

/// A compute node.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// For messages.
    pub name: String,
    /// Compute speed in multiples of the device on which the units were timed; above 0.
    pub speed: f64,
    /// What weights and activations may take; `None` when that is no limit.
    pub memory_bytes: Option<u64>,
    /// CPU seconds that receiving or sending one byte takes from the computation.
    pub seconds_per_byte: f64,
}

/// One end of a network path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// The source of inputs and the sink of results.
    Dispatcher,
    /// The device of this index.
    Device(usize),
}

/// A directed network path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// Bytes per second, above 0; infinite when the network is no limit.
    pub bandwidth: f64,
    /// Seconds that a byte travels.
    pub delay: f64,
}

impl Link {
    /// A link that takes no time.
    pub const FREE: Link = Link { bandwidth: f64::INFINITY, delay: 0.0 };
}

/// The links between any two ends, both directions apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Links {
    /// Ends: the dispatcher and the devices.
    ends: usize,
    /// By sender, then receiver.
    table: Vec<Link>,
}

impl Links {
    /// Equal links between the dispatcher and `devices` devices.
    pub fn uniform(devices: usize, link: Link) -> Links {
        let ends = devices + 1;
        Links { ends, table: vec![link; ends * ends] }
    }

    /// The number of devices.
    pub fn devices(&self) -> usize {
        self.ends - 1
    }

    /// The link in one direction.
    ///
    /// # Panics
    /// When an end is a device that does not exist.
    pub fn get(&self, from: End, to: End) -> Link {
        self.table[self.position(from, to)]
    }

    /// Replaces the link in one direction.
    ///
    /// # Panics
    /// When an end is a device that does not exist.
    pub fn set(&mut self, from: End, to: End, link: Link) {
        let position = self.position(from, to);
        self.table[position] = link;
    }

    pub(crate) fn all(&self) -> &[Link] {
        &self.table
    }

    fn position(&self, from: End, to: End) -> usize {
        let index = |end| match end {
            End::Dispatcher => 0,
            End::Device(device) => {
                assert!(device < self.devices(), "device {device} of {}", self.devices());
                device + 1
            }
        };
        index(from) * self.ends + index(to)
    }
}
