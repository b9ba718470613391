//! Slow devices on this machine: `defer node` processes, each with a CPU quota, on a core of its own choice and, if the
//! cluster has a network, at the end of a link of its own.
//!
//! They are up when [`Devices::start`] returns, and gone with their control groups and their network when it is
//! dropped, however that comes about: nodes end when their standard input does.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use plan::End;
use serde::Deserialize;

use crate::cgroup::Groups;
use crate::interrupt::Interrupt;
use crate::network::{self, Network};

/// How long a node may take to end after it was asked to: it may wait for its quota many times.
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// Devices as an experiment describes them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cluster {
    pub(crate) name: String,
    pub(crate) devices: Vec<Device>,
    /// Without it, all share the loopback interface, which is no limit.
    #[serde(default)]
    pub(crate) network: Option<network::Description>,
}

/// A device as an experiment describes it.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Device {
    /// CPU time it may take, as a share of a core.
    pub(crate) quota: f64,
    /// Power when it waits, for the model of energy.
    pub(crate) idle_watts: f64,
    /// Power when it computes.
    pub(crate) busy_watts: f64,
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

/// Nodes that run; they end when this is dropped.
pub(crate) struct Devices<'a> {
    groups: &'a Groups,
    nodes: Vec<(String, Child)>,
    /// The group in which they and a dispatcher find each other.
    group: String,
    /// Goes after the nodes in it.
    network: Option<Network>,
}

impl<'a> Devices<'a> {
    /// Starts a node for each device of a cluster, named after it and numbered, and waits until all are ready.
    pub(crate) fn start(
        cluster: &Cluster,
        groups: &'a Groups,
        program: &Program<'_>,
        interrupt: &Interrupt,
    ) -> Result<Devices<'a>> {
        let Cluster { name: cluster, devices, network } = cluster;
        let group = format!("testbed-{}-{cluster}", std::process::id());
        let prefix = format!("{}-{cluster}", groups.name());
        let network = network.as_ref().map(|network| Network::new(&prefix, devices.len(), network));
        let mut started = Devices { groups, nodes: Vec::new(), group, network: network.transpose()? };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        for (i, device) in devices.iter().enumerate() {
            interrupt.check()?;
            let name = node_name(cluster, i);
            let procs = groups.device(&name, device.quota)?;
            let mut command = Command::new("sh");
            // The process joins its group before it is the node, so that nothing of the node is outside.
            command.args(["-c", r#"echo $$ > "$1" && shift && exec taskset -c "$@""#, "sh"]).arg(procs);
            command.arg((i % cores).to_string()).arg(program.path);
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
        Ok(started)
    }

    /// Starts a `defer` process that looks for the nodes, where the dispatcher is.
    pub(crate) fn dispatch(&self, command: &mut Command) -> Result<Child> {
        self.spawn(End::Dispatcher, command)
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

    /// Process ids of the nodes.
    pub(crate) fn processes(&self) -> Vec<u32> {
        self.nodes.iter().map(|(_, child)| child.id()).collect()
    }
}

impl Drop for Devices<'_> {
    fn drop(&mut self) {
        self.nodes.iter_mut().for_each(|(_, child)| drop(child.stdin.take()));
        let deadline = Instant::now() + END_TIMEOUT;
        for (name, child) in &mut self.nodes {
            // A node that cannot be ended keeps its group, which the next experiment finds.
            if end(child, deadline).is_ok() {
                self.groups.remove(name);
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
    let Cluster { name, devices, network } = cluster;
    if let Some(network) = network {
        network.uplinks(devices.len()).with_context(|| format!("the network of `{name}`"))?;
    }
    let mut text = "version = 1\n".to_owned();
    for (i, device) in devices.iter().enumerate() {
        let Device { quota, idle_watts, busy_watts } = device;
        if !(*quota > 0.0 && *quota <= 1.0) {
            bail!("device {} of `{name}` has a quota of {quota}, which is no share of a core", i + 1);
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
    fn the_cluster_file_names_the_nodes_and_their_power() {
        let device = Device { quota: 0.15, idle_watts: 2.0, busy_watts: 5.5 };
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
