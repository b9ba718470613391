//! Slow devices on this machine: `defer node` processes, each with a CPU quota and, if the cluster has a network, at the
//! end of a link of its own.
//!
//! They are up when [`Devices::start`] returns, and gone with what limits them and their network when it is
//! dropped, however that comes about: nodes end when their standard input does.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use plan::End;
use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::node_name;
pub(crate) use crate::cluster::{Cluster, Device, cluster_file, cluster_file_of};
use crate::host;
use crate::interrupt::Interrupt;
use crate::limits::Limits;
use crate::network::Network;
use crate::paced::Pacer;
use crate::schedule::Entry;

/// How long a node may take to end after it was asked to: it may wait for its quota many times.
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// The program and what all its processes are given.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    /// The `defer` command.
    pub(crate) path: &'a Path,
    /// The engine that runs models.
    pub(crate) engine: &'a str,
    /// Figures and weights.
    pub(crate) cache: &'a Path,
    /// Where the ONNX Runtime library is, if that was said or found.
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
pub struct Devices<'a> {
    pub(crate) limits: &'a Limits,
    nodes: Vec<(String, Child)>,
    /// Process ids of what was started to look for them.
    dispatchers: Mutex<Vec<u32>>,
    /// Goes before the nodes end.
    pacer: Option<Pacer>,
    /// The group in which they and a dispatcher find each other.
    group: String,
    /// Goes after the nodes in it.
    network: Option<Network>,
    /// What happens to them while something is measured.
    pub(crate) schedule: Vec<Entry>,
    /// Ids of processes beside them that are ours, too.
    pub(crate) beside: Vec<u32>,
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
        let (devices, schedule) = (cluster.prepared()?, cluster.entries()?);
        let cluster = &cluster.name;
        let group = format!("testbed-{}-{cluster}", std::process::id());
        let (nodes, dispatchers) = (Vec::new(), Mutex::default());
        let mut started =
            Devices { limits, nodes, dispatchers, pacer: None, group, network, schedule, beside: Vec::new() };
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
    ///
    /// # Errors
    /// When it does not start.
    pub fn dispatch(&self, command: &mut Command) -> Result<Child> {
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

    /// Fails when the devices or their links are not as slow as they should be any more.
    pub(crate) fn check(&self) -> Result<()> {
        self.network.as_ref().map_or(Ok(()), Network::check)?;
        self.pacer.as_ref().map_or(Ok(()), Pacer::check)
    }

    /// Their network, if they have one.
    #[must_use]
    pub fn network(&self) -> Option<&Network> {
        self.network.as_ref()
    }

    /// What a device's node is called.
    pub(crate) fn name(&self, device: usize) -> Result<&str> {
        Ok(&self.node(device)?.0)
    }

    /// Sends a signal to a device's node.
    pub(crate) fn signal(&self, device: usize, signal: Signal) -> Result<()> {
        // It has not been waited for, so nobody else has its id.
        kill_process(Pid::from_child(&self.node(device)?.1), signal)?;
        Ok(())
    }

    fn node(&self, device: usize) -> Result<&(String, Child)> {
        self.nodes.get(device).with_context(|| format!("there is no device {}", device + 1))
    }

    /// Ids of the processes that were started for, with and beside them.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let nodes = self.nodes.iter().map(|(_, child)| child.id());
        nodes
            .chain(self.beside.iter().copied())
            .chain(self.dispatchers.lock().expect("nobody panics with it").iter().copied())
            .collect()
    }
}

impl Drop for Devices<'_> {
    fn drop(&mut self) {
        drop(self.pacer.take());
        // Who was frozen cannot end by itself.
        (0..self.nodes.len()).for_each(|device| drop(self.signal(device, Signal::CONT)));
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
