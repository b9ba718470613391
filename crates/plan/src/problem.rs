//! What a plan is made from: the costs of a model's units, the devices, the links and the codecs.
//!
//! Filled in by whoever measured (the pipeline's profiler, a cluster file, a test). Plain data: it is
//! checked when it is used, by [`solve`](crate::solve) and [`predict`](crate::predict).

/// A model to be split over devices.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// The model's units in execution order; at least one.
    pub units: Vec<Unit>,
    /// The tensors live before unit 0 (the model's inputs), between units, and after the last one (its
    /// outputs): one more than units.
    pub boundaries: Vec<Boundary>,
    /// Codecs that a link may use; at least one.
    pub codecs: Vec<Codec>,
    /// The source of inputs and the sink of results.
    pub dispatcher: Host,
    /// The devices.
    pub devices: Vec<Device>,
    /// The network paths between them.
    pub links: Links,
    /// Links that share airtime.
    pub media: Vec<Medium>,
    /// What a stage holds besides its weights and activations.
    pub queues: Queues,
}

/// What a model is split over: a [`Problem`] without the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Resources {
    /// The source of inputs and the sink of results.
    pub dispatcher: Host,
    /// The devices.
    pub devices: Vec<Device>,
    /// The network paths between them.
    pub links: Links,
    /// Links that share airtime.
    pub media: Vec<Medium>,
}

impl Resources {
    /// Devices on links that are no limit.
    pub fn on_free_links(devices: Vec<Device>) -> Resources {
        let links = Links::uniform(devices.len(), Link::FREE);
        Resources { dispatcher: Host::default(), devices, links, media: Vec::new() }
    }
}

/// The smallest piece that is moved: the operators between two neighbouring cuts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
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
    /// Bytes of its tensors, before any codec.
    pub bytes: u64,
    /// Number of tensors.
    pub tensors: usize,
}

/// One way to write tensors for a link.
#[derive(Clone, Debug, PartialEq)]
pub struct Codec {
    /// For messages.
    pub name: String,
    /// By boundary: bytes as they travel.
    pub bytes: Vec<u64>,
    /// What it costs the dispatcher.
    pub dispatcher: CodecCost,
    /// By device: what it costs there.
    pub devices: Vec<CodecCost>,
    /// What each end takes to encode or to decode, besides the tensors: so many times their bytes at most.
    pub copies: u64,
}

/// CPU time of a codec on one machine, for each byte before encoding.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CodecCost {
    /// Seconds to encode one byte.
    pub encode_seconds: f64,
    /// Seconds to decode one byte.
    pub decode_seconds: f64,
}

/// What every machine has besides its speed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Host {
    /// Bytes per second that it can send, and as many that it can receive, over all links together; infinite when
    /// that is no limit.
    pub bandwidth: f64,
    /// Seconds that sending or receiving one byte takes from the computation.
    pub seconds_per_byte: f64,
    /// Seconds that sending or receiving one frame takes from the computation, besides its bytes.
    pub seconds_per_frame: f64,
    /// Seconds that each byte of tensors takes from the computation that comes in or goes out, counted before any codec and
    /// besides what that takes: it is checked, copied, and goes through the caches that is computed from.
    pub seconds_per_tensor_byte: f64,
    /// Power when it does nothing, watts.
    pub idle_watts: f64,
    /// Power when it computes, watts.
    pub busy_watts: f64,
}

impl Default for Host {
    /// No limit, no cost.
    fn default() -> Host {
        Host {
            bandwidth: f64::INFINITY,
            seconds_per_byte: 0.0,
            seconds_per_frame: 0.0,
            seconds_per_tensor_byte: 0.0,
            idle_watts: 0.0,
            busy_watts: 0.0,
        }
    }
}

/// A compute node.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// For messages.
    pub name: String,
    /// Compute speed in multiples of the device on which the units were timed; above 0.
    pub speed: f64,
    /// Seconds of each unit on this device, where they are known better than from its speed. Items are dealt out
    /// among replicas by them, or by the speed.
    pub unit_seconds: Option<Vec<f64>>,
    /// What a stage may take; `None` when that is no limit.
    pub memory_bytes: Option<u64>,
    /// What its engine takes for any stage.
    pub engine_bytes: u64,
    /// Its network and power.
    pub host: Host,
}

impl Device {
    /// A device of which only the speed is known.
    pub fn of_speed(name: impl Into<String>, speed: f64) -> Device {
        let (memory_bytes, unit_seconds) = (None, None);
        Device {
            name: name.into(),
            speed,
            unit_seconds,
            memory_bytes,
            engine_bytes: 0,
            host: Host::default(),
        }
    }
}

/// Copies of tensors that wait before and behind a stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queues {
    /// Of its inputs.
    pub inputs: u64,
    /// Of its outputs.
    pub outputs: u64,
}

/// One end of a network path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// The source of inputs and the sink of results.
    Dispatcher,
    /// The device of this index.
    Device(usize),
}

impl End {
    /// The dispatcher and so many devices.
    pub fn all(devices: usize) -> impl Iterator<Item = End> {
        std::iter::once(End::Dispatcher).chain((0..devices).map(End::Device))
    }

    /// Every link between them: each end with each other one.
    pub fn pairs(devices: usize) -> impl Iterator<Item = (End, End)> {
        let to_others = move |from| End::all(devices).map(move |to| (from, to));
        End::all(devices).flat_map(to_others).filter(|(from, to)| from != to)
    }
}

/// A directed network path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// Bytes per second, above 0; infinite when the network is no limit.
    pub bandwidth: f64,
    /// Seconds that a byte travels.
    pub delay: f64,
    /// Seconds that each frame takes besides its bytes.
    pub frame_seconds: f64,
    /// Energy of a byte at both ends together, joules.
    pub joules_per_byte: f64,
}

impl Link {
    /// A link that takes no time.
    pub const FREE: Link =
        Link { bandwidth: f64::INFINITY, delay: 0.0, frame_seconds: 0.0, joules_per_byte: 0.0 };
}

/// Directed links of which only one can be used at a time, such as those over one Wi-Fi channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Medium {
    /// For messages.
    pub name: String,
    /// The links, each once.
    pub links: Vec<(End, End)>,
}

impl Medium {
    /// Whether a link is one of its, asked often.
    pub(crate) fn lookup(&self, devices: usize) -> impl Fn(End, End) -> bool + use<> {
        let ends = devices + 1;
        let index = |end| match end {
            End::Dispatcher => 0,
            End::Device(device) => device + 1,
        };
        let mut table = vec![false; ends * ends];
        self.links.iter().for_each(|&(from, to)| table[index(from) * ends + index(to)] = true);
        move |from, to| table[index(from) * ends + index(to)]
    }
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

impl Problem {
    /// A model on these resources, its tensors travelling as they are.
    pub fn new(units: Vec<Unit>, boundaries: Vec<Boundary>, queues: Queues, resources: Resources) -> Problem {
        let Resources { dispatcher, devices, links, media } = resources;
        let codecs = vec![Problem::raw(&boundaries, devices.len())];
        Problem { units, boundaries, codecs, dispatcher, devices, links, media, queues }
    }

    /// The only codec of a problem whose tensors travel as they are.
    pub fn raw(boundaries: &[Boundary], devices: usize) -> Codec {
        Codec {
            name: "raw".to_owned(),
            bytes: boundaries.iter().map(|boundary| boundary.bytes).collect(),
            dispatcher: CodecCost::default(),
            devices: vec![CodecCost::default(); devices],
            copies: 0,
        }
    }

    /// The dispatcher and the devices.
    pub fn ends(&self) -> impl Iterator<Item = End> + use<> {
        End::all(self.devices.len())
    }

    pub(crate) fn host(&self, end: End) -> &Host {
        match end {
            End::Dispatcher => &self.dispatcher,
            End::Device(device) => &self.devices[device].host,
        }
    }
}

impl Codec {
    pub(crate) fn cost(&self, end: End) -> CodecCost {
        match end {
            End::Dispatcher => self.dispatcher,
            End::Device(device) => self.devices[device],
        }
    }
}
