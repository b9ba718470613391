//! Slow devices on this machine: `defer node` processes, each with a CPU quota and, if the cluster has a network, at the
//! end of a link of its own.
//!
//! They are up when [`Devices::start`] returns, and gone with what limits them and their network when it is
//! dropped, however that comes about: nodes end when their standard input does.

use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use plan::End;
use serde::{Deserialize, Deserializer};

use crate::host;
use crate::interrupt::Interrupt;
use crate::limits::Limits;
use crate::network::{self, MOST_DEVICES, Network};
use crate::paced::Pacer;

/// How long a node may take to end after it was asked to: it may wait for its quota many times.
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// Devices as an experiment describes them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cluster {
    pub(crate) name: String,
    #[serde(deserialize_with = "one_by_one")]
    pub(crate) devices: Vec<Device>,
    /// Without it, all share the loopback interface, which is no limit.
    #[serde(default)]
    pub(crate) network: Option<network::Description>,
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
        std::iter::repeat_n(Device { quota, idle_watts, busy_watts, memory_mb }, count.min(MOST_DEVICES))
    };
    Ok(alike.into_iter().flat_map(devices).collect())
}

impl Cluster {
    /// The device of a node that was started for it.
    pub(crate) fn device(&self, node: &str) -> Device {
        let found = (0..self.devices.len()).find(|&i| node_name(&self.name, i) == node);
        self.devices[found.expect("`defer run` uses the nodes of its cluster file")]
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

/// The program and what all its processes are given.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    /// The `defer` command.
    pub(crate) path: &'a Path,
    /// The engine that runs models.
    pub(crate) engine: &'a str,
    /// Figures and weights.
    pub(crate) cache: &'a Path,
    /// Where the ONNX Runtime library is, if that was said.
    pub(crate) onnxruntime: Option<&'a Path>,
}

impl Program<'_> {
    /// Arguments that choose the engine.
    pub(crate) fn engine(&self, command: &mut Command) {
        command.args(["--engine", self.engine, "--cache"]).arg(self.cache);
        if let Some(path) = self.onnxruntime {
            command.arg("--onnxruntime").arg(path);
        }
    }
}

/// What a node took so far; zeros of one that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Usage {
    pub(crate) node: String,
    pub(crate) cpu_time: Duration,
    /// The most memory that it had at once since it timed its stage.
    pub(crate) peak_bytes: u64,
}

/// Nodes that run; they end when this is dropped.
pub(crate) struct Devices<'a> {
    limits: &'a Limits,
    nodes: Vec<(String, Child)>,
    /// Process ids of what was started to look for them.
    dispatchers: Mutex<Vec<u32>>,
    /// Goes before the nodes end.
    pacer: Option<Pacer>,
    /// The group in which they and a dispatcher find each other.
    group: String,
    /// Goes after the nodes in it.
    network: Option<Network>,
}

impl<'a> Devices<'a> {
    /// Starts a node for each device of a cluster, named after it and numbered, and waits until all are ready.
    pub(crate) fn start(
        cluster: &Cluster,
        limits: &'a Limits,
        program: &Program<'_>,
        interrupt: &Interrupt,
    ) -> Result<Devices<'a>> {
        let network = limits.network(cluster)?;
        let Cluster { name: cluster, devices, .. } = cluster;
        let group = format!("testbed-{}-{cluster}", std::process::id());
        let (nodes, dispatchers) = (Vec::new(), Mutex::default());
        let mut started = Devices { limits, nodes, dispatchers, pacer: None, group, network };
        for (i, device) in devices.iter().enumerate() {
            interrupt.check()?;
            let name = node_name(cluster, i);
            let mut command = limits.command(&name, i, device)?;
            command.arg(program.path);
            command.args(["node", "--json", "--until-stdin-closes", "--threads", "1", "--name", &name]);
            program.engine(&mut command);
            // A group of its own, so that Ctrl-C reaches this process alone, which then takes all down.
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
            let child = started.spawn(End::Device(i), &mut command)?;
            started.nodes.push((name, child));
        }
        for (name, child) in &mut started.nodes {
            interrupt.check()?;
            let mut line = String::new();
            let stdout = child.stdout.as_mut().context("a node without output")?;
            let read = BufReader::new(stdout).read_line(&mut line);
            let read = read.with_context(|| format!("the node {name} says nothing"))?;
            ensure!(read > 0, "the node {name} ended early; its message is above");
        }
        let nodes: Vec<_> = started.processes().into_iter().zip(devices.iter().copied()).collect();
        started.pacer = limits.pacer(&nodes)?;
        Ok(started)
    }

    /// Starts a `defer` process that looks for the nodes, where the dispatcher is.
    pub(crate) fn dispatch(&self, command: &mut Command) -> Result<Child> {
        let child = self.spawn(End::Dispatcher, command)?;
        self.dispatchers.lock().expect("nobody panics with it").push(child.id());
        Ok(child)
    }

    /// Starts a `defer` process that meets the others of this cluster.
    fn spawn(&self, end: End, command: &mut Command) -> Result<Child> {
        command.args(["--group", &self.group]);
        match &self.network {
            // Nobody else is in that network.
            Some(network) => network.spawn(end, command.arg("--insecure")),
            None => {
                let program = command.get_program().to_string_lossy().into_owned();
                command.spawn().with_context(|| format!("cannot start {program}"))
            }
        }
    }

    /// Changes the rate of a link, if the cluster has a network in which it is one of its own.
    pub(crate) fn set_rate(&self, from: End, to: End, mbit_s: f64) -> Result<()> {
        let network = self.network.as_ref().context("devices without a network have no rates")?;
        network.set_rate(from, to, mbit_s)
    }

    /// What the nodes took so far.
    pub(crate) fn usage(&self) -> Vec<Usage> {
        let usage = |(name, child): &(String, Child)| Usage {
            node: name.clone(),
            cpu_time: host::cpu_time(child.id()).unwrap_or_default(),
            peak_bytes: host::peak_bytes(child.id()).unwrap_or_default(),
        };
        self.nodes.iter().map(usage).collect()
    }

    /// Fails when the devices are not as slow as they should be any more.
    pub(crate) fn check(&self) -> Result<()> {
        self.pacer.as_ref().map_or(Ok(()), Pacer::check)
    }

    /// Ids of the processes that were started for and with them.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let nodes = self.nodes.iter().map(|(_, child)| child.id());
        nodes.chain(self.dispatchers.lock().expect("nobody panics with it").iter().copied()).collect()
    }
}

impl Drop for Devices<'_> {
    fn drop(&mut self) {
        drop(self.pacer.take());
        self.nodes.iter_mut().for_each(|(_, child)| drop(child.stdin.take()));
        let deadline = Instant::now() + END_TIMEOUT;
        for (name, child) in &mut self.nodes {
            // A node that cannot be ended keeps its group, if it has one, which the next experiment finds.
            if end(child, deadline).is_ok() {
                self.limits.remove(name);
            }
        }
    }
}

/// What the node of a cluster's device is called.
pub(crate) fn node_name(cluster: &str, device: usize) -> String {
    format!("{cluster}-{}", device + 1)
}

/// Waits for a child until `deadline`, then kills it.
pub(crate) fn end(child: &mut Child, deadline: Instant) -> Result<()> {
    // A process cannot be waited for with a time limit without signals or polling; this is polling, coarse.
    while Instant::now() < deadline {
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        #[expect(clippy::disallowed_methods, reason = "see above")]
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// The cluster file for these devices: their power, and nothing that is to be measured.
pub(crate) fn cluster_file(cluster: &Cluster) -> Result<String> {
    cluster_file_of(cluster, 0..cluster.devices.len())
}

/// The same with some of the devices alone.
pub(crate) fn cluster_file_of(cluster: &Cluster, described: Range<usize>) -> Result<String> {
    let Cluster { name, devices, network } = cluster;
    ensure!((1..=MOST_DEVICES).contains(&devices.len()), "`{name}` has {} devices", devices.len());
    if let Some(network) = network {
        network.uplinks(devices.len()).with_context(|| format!("the network of `{name}`"))?;
    }
    let mut text = "version = 1\n".to_owned();
    for (i, device) in devices.iter().enumerate() {
        let Device { quota, idle_watts, busy_watts, .. } = device;
        if !(*quota > 0.0 && *quota <= 1.0) {
            bail!("device {} of `{name}` has a quota of {quota}, which is no share of a core", i + 1);
        }
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
        for (from, to) in [("count = 3", "count = 0"), ("count = 3", "count = 1000000000000")] {
            let broken: Cluster = toml::from_str(&text.replace(from, to)).unwrap();
            let broken = Cluster { devices: broken.devices[..broken.devices.len() - 1].to_vec(), ..broken };
            assert_eq!(cluster_file(&broken).is_err(), to.ends_with(" 0"), "{to}");
        }
        assert!(toml::from_str::<Cluster>(&text.replace("memory_mb", "memory")).is_err());
    }

    #[test]
    fn the_cluster_file_names_the_nodes_and_their_power() {
        let device = Device { quota: 0.15, idle_watts: 2.0, busy_watts: 5.5, memory_mb: None };
        let of =
            |device: Device| Cluster { name: "even".to_owned(), devices: vec![device; 2], network: None };
        let cluster = plan::Cluster::from_toml(&cluster_file(&of(device)).unwrap()).unwrap();
        let resources = cluster.resources();
        let names: Vec<&str> = resources.devices.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names, ["even-1", "even-2"]);
        assert_eq!((resources.devices[1].host.idle_watts, resources.devices[1].host.busy_watts), (2.0, 5.5));
        for quota in [0.0, 1.5, f64::NAN] {
            assert!(cluster_file(&of(Device { quota, ..device })).is_err(), "{quota}");
        }
        let network = Some(network::Description::even(0.0));
        let error = cluster_file(&Cluster { network, ..of(device) }).unwrap_err();
        assert!(format!("{error:#}").contains("the network of `even`: "), "{error:#}");
    }
}
