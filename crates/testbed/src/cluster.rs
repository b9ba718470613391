//! The devices and links of an experiment as its file describes them, what happens to them meanwhile, and what `defer run`
//! is told of them. Pure.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Deserializer};

use crate::faults::Fault;
use crate::network::{self, Expected, MOST_DEVICES};
use crate::schedule::{self, Entry};

/// Memory of a device that is to have a limit later, and has none before, MB: more than there is.
const PLENTY_MB: u64 = 1 << 30;

/// Devices as an experiment describes them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    pub(crate) name: String,
    #[serde(deserialize_with = "one_by_one")]
    pub(crate) devices: Vec<Device>,
    /// Without it, all share the loopback interface, which is no limit.
    #[serde(default)]
    pub(crate) network: Option<network::Description>,
    /// What happens to them while something is measured.
    #[serde(default)]
    pub(crate) schedule: Vec<schedule::Line>,
    /// What may happen besides.
    #[serde(skip)]
    expected: Vec<Fault>,
}

/// A share of a core that a device can have.
pub(crate) fn quota(share: f64) -> Result<f64> {
    ensure!(share > 0.0 && share <= 1.0, "a quota of {share}, which is no share of a core");
    Ok(share)
}

/// Memory that a device has at least, MB: the program alone takes more.
const LEAST_MB: u64 = 16;

/// Whether there can be such a device.
fn check(device: &Device) -> Result<()> {
    let Device { quota, idle_watts, busy_watts, memory_mb } = *device;
    self::quota(quota)?;
    ensure!(
        idle_watts >= 0.0 && busy_watts >= idle_watts && busy_watts.is_finite(),
        "{idle_watts} W when it waits and {busy_watts} W when it computes: the second must be at least the first"
    );
    let mb = memory_mb.unwrap_or(LEAST_MB);
    ensure!(
        (LEAST_MB..=PLENTY_MB).contains(&mb),
        "{mb} MB of memory: from {LEAST_MB} to {PLENTY_MB} can be had"
    );
    Ok(())
}

/// A slow device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Device {
    /// CPU time it may take, as a share of a core.
    pub(crate) quota: f64,
    /// Power when it waits, for the model of energy.
    pub(crate) idle_watts: f64,
    /// Power when it computes.
    pub(crate) busy_watts: f64,
    /// What its processes may take together, MB. Without it, memory is no limit.
    pub(crate) memory_mb: Option<u64>,
}

/// Equal devices as an experiment describes them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Alike {
    quota: f64,
    idle_watts: f64,
    busy_watts: f64,
    #[serde(default)]
    memory_mb: Option<u64>,
    /// How many there are of them.
    #[serde(default = "one")]
    count: usize,
}

fn one() -> usize {
    1
}

fn one_by_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Device>, D::Error> {
    let alike = Vec::<Alike>::deserialize(deserializer)?;
    let devices = |Alike { quota, idle_watts, busy_watts, memory_mb, count }: Alike| {
        std::iter::repeat_n(Device { quota, idle_watts, busy_watts, memory_mb }, count.min(MOST_DEVICES + 1))
    };
    Ok(alike.into_iter().flat_map(devices).collect())
}

impl Cluster {
    /// Nothing happens to them.
    pub(crate) fn new(name: &str, devices: Vec<Device>, network: Option<network::Description>) -> Cluster {
        Cluster { name: name.to_owned(), devices, network, schedule: Vec::new(), expected: Vec::new() }
    }

    /// Prepares them for what may be done to them, besides what their schedule says.
    #[must_use]
    pub fn expecting(mut self, faults: &[Fault]) -> Cluster {
        self.expected.extend_from_slice(faults);
        self
    }

    /// The schedule, by time.
    ///
    /// # Errors
    /// When it asks for what cannot be done to them.
    pub(crate) fn entries(&self) -> Result<Vec<Entry>> {
        schedule::entries(self).with_context(|| format!("the cluster `{}`", self.name))
    }

    fn faults(&self) -> Result<Vec<Fault>> {
        let scheduled = self.entries()?.into_iter().map(|entry| entry.fault);
        Ok(scheduled.chain(self.expected.iter().copied()).collect())
    }

    /// What their network is prepared for.
    ///
    /// # Errors
    /// As [`Cluster::entries`].
    pub(crate) fn expected(&self) -> Result<Expected> {
        let mut expected = Expected::default();
        for fault in self.faults()? {
            match fault {
                Fault::LinkRate { from, to, .. } => expected.rates.push((from, to)),
                Fault::Rate { end, mbit_s } => expected.uplinks.push((end, mbit_s)),
                Fault::Corrupt { from, .. } => expected.damaging.push(from),
                _ => {}
            }
        }
        Ok(expected)
    }

    /// The devices as they are started: one that is to have a limit of memory later has one from the beginning.
    ///
    /// # Errors
    /// As [`Cluster::entries`].
    pub(crate) fn prepared(&self) -> Result<Vec<Device>> {
        let mut devices = self.devices.clone();
        for fault in self.faults()? {
            if let Fault::Memory { device, .. } = fault
                && let Some(device) = devices.get_mut(device)
            {
                device.memory_mb.get_or_insert(PLENTY_MB);
            }
        }
        Ok(devices)
    }

    /// The device of a node that was started for it.
    pub(crate) fn device(&self, node: &str) -> Device {
        self.find(node).expect("`defer run` uses the nodes of its cluster file")
    }

    /// The same, of a node that may be one of another cluster.
    pub(crate) fn find(&self, node: &str) -> Option<Device> {
        (0..self.devices.len()).find(|&i| node_name(&self.name, i) == node).map(|i| self.devices[i])
    }
}

impl Device {
    /// Energy that it takes while results come with this period, modelled: it waits all the time, and takes more while
    /// it is busy, which is its CPU time at the rate of its quota.
    pub(crate) fn joules(&self, cpu_ms: f64, period_ms: f64) -> f64 {
        let busy_ms = (cpu_ms / self.quota).min(period_ms);
        (self.idle_watts * period_ms + (self.busy_watts - self.idle_watts) * busy_ms) / 1e3
    }
}

/// What the node of a cluster's device is called.
pub(crate) fn node_name(cluster: &str, device: usize) -> String {
    format!("{cluster}-{}", device + 1)
}

/// The cluster file for these devices: their power, and nothing that is to be measured.
pub(crate) fn cluster_file(cluster: &Cluster) -> Result<String> {
    cluster_file_of(cluster, 0..cluster.devices.len())
}

/// The same with some of the devices alone.
pub(crate) fn cluster_file_of(cluster: &Cluster, described: Range<usize>) -> Result<String> {
    let Cluster { name, devices, network, .. } = cluster;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    ensure!(
        name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.len() <= 64 && name.chars().all(plain),
        "`{name}` is no name for a cluster: letters, digits, and `-_.` behind the first, 64 at most"
    );
    let count = devices.len();
    ensure!(count >= 1, "`{name}` has no devices");
    ensure!(
        count <= MOST_DEVICES,
        "`{name}` has more than {MOST_DEVICES} devices, the most that are emulated"
    );
    if let Some(network) = network {
        network.uplinks(devices.len()).with_context(|| format!("the network of `{name}`"))?;
    }
    cluster.entries()?;
    let mut text = "version = 1\n".to_owned();
    for (i, device) in devices.iter().enumerate() {
        let Device { idle_watts, busy_watts, .. } = device;
        check(device).with_context(|| format!("device {} of `{name}`", i + 1))?;
        if !described.contains(&i) {
            continue;
        }
        text += &format!(
            "[[device]]\nname = \"{}\"\nidle_watts = {idle_watts:?}\nbusy_watts = {busy_watts:?}\n",
            node_name(name, i)
        );
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_takes_more_while_it_is_busy() {
        let device = Device { quota: 0.25, idle_watts: 2.0, busy_watts: 6.0, memory_mb: None };
        // 25 ms of CPU time at a quarter of a core is 100 ms of being busy.
        for (cpu_ms, joules) in [(25.0, 0.8), (0.0, 0.4), (50.0, 1.2), (100.0, 1.2)] {
            assert!((device.joules(cpu_ms, 200.0) - joules).abs() < 1e-12, "{cpu_ms} ms");
        }
    }

    #[test]
    fn equal_devices_are_said_once() {
        let text = r#"
            name = "c"
            devices = [{ quota = 0.5, idle_watts = 1, busy_watts = 2, count = 3 },
                       { quota = 0.25, idle_watts = 1, busy_watts = 2, memory_mb = 128 }]
        "#;
        let cluster: Cluster = toml::from_str(text).unwrap();
        let quotas: Vec<f64> = cluster.devices.iter().map(|device| device.quota).collect();
        assert_eq!(quotas, [0.5, 0.5, 0.5, 0.25]);
        assert_eq!(cluster.device("c-4").memory_mb, Some(128));
        for to in ["count = 0", "count = 250", "count = 300", "count = 1000000000000"] {
            let mut changed: Cluster = toml::from_str(&text.replace("count = 3", to)).unwrap();
            assert!(
                changed.devices.len() <= MOST_DEVICES + 2,
                "no more are made than tell that it is too many"
            );
            changed.devices.pop();
            assert_eq!(cluster_file(&changed).is_ok(), to == "count = 250", "{to}");
        }
        assert!(toml::from_str::<Cluster>(&text.replace("memory_mb", "memory")).is_err());
    }

    #[test]
    fn the_cluster_file_names_the_nodes_and_their_power() {
        let device = Device { quota: 0.15, idle_watts: 2.0, busy_watts: 5.5, memory_mb: None };
        let of = |device: Device| Cluster::new("even", vec![device; 2], None);
        let cluster = plan::Cluster::from_toml(&cluster_file(&of(device)).unwrap()).unwrap();
        let resources = cluster.resources();
        let names: Vec<&str> = resources.devices.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names, ["even-1", "even-2"]);
        assert_eq!((resources.devices[1].host.idle_watts, resources.devices[1].host.busy_watts), (2.0, 5.5));
        for quota in [0.0, 1.5, f64::NAN] {
            assert!(cluster_file(&of(Device { quota, ..device })).is_err(), "{quota}");
        }
        for busy_watts in [1.5, f64::NAN, f64::INFINITY] {
            assert!(cluster_file(&of(Device { busy_watts, ..device })).is_err(), "{busy_watts}");
        }
        for memory_mb in [Some(0), Some(1), Some(u64::MAX)] {
            assert!(cluster_file(&of(Device { memory_mb, ..device })).is_err(), "{memory_mb:?}");
        }
        for name in ["", ".", "../pwn", "a/b", "a b", "-a", &"a".repeat(65)] {
            assert!(cluster_file(&Cluster { name: name.into(), ..of(device) }).is_err(), "{name}");
        }
        let network = Some(network::Description::even(0.0));
        let error = cluster_file(&Cluster { network, ..of(device) }).unwrap_err();
        assert!(format!("{error:#}").contains("the network of `even`: "), "{error:#}");
    }
}
