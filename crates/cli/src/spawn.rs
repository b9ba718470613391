//! `--spawn N`: compute nodes on this machine, as processes of their own, that end with this one.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use pipeline::{Cluster, DiscoverError, NetworkConfig, Wanted};

use crate::failure::Hint;
use crate::flags::Engine;
use crate::machine::default_memory;

/// How long a node may take to end after it was asked to.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two looks at whether a node has ended early.
const LOOK_PERIOD: Duration = Duration::from_millis(200);

/// What to do when local nodes run and are not found.
const MULTICAST: &str = "local nodes are found by multicast on the loopback interface; a firewall or container may \
                         forbid it. Start nodes with `defer node --listen 127.0.0.1:PORT` and name them with \
                         --connect 127.0.0.1:PORT";

/// Local nodes; they end when this is dropped, or when this process dies.
pub(crate) struct Spawned {
    nodes: Vec<(String, Child)>,
    network: NetworkConfig,
}

impl Spawned {
    /// Starts `count` nodes in a group of their own.
    pub(crate) fn start(count: usize, engine: &Engine) -> Result<Spawned> {
        let program = std::env::current_exe().context("cannot find the path of this program")?;
        let network =
            NetworkConfig { group: format!("spawn-{}", std::process::id()), ..NetworkConfig::default() };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (cores / count).max(1);
        let memory = default_memory() / count as u64;
        let mut spawned = Spawned { nodes: Vec::new(), network };
        for i in 1..=count {
            let name = format!("local-{i}");
            let mut command = Command::new(&program);
            command.args([
                "node",
                "--until-stdin-closes",
                "--name",
                &name,
                "--group",
                &spawned.network.group,
            ]);
            command.args(["--threads", &threads.to_string(), "--memory", &memory.to_string()]);
            command.args(engine.as_arguments());
            // A group of its own, so that Ctrl-C reaches this process alone, which then drains the chain.
            command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
            let child = command.spawn().with_context(|| format!("cannot start the node {name}"))?;
            spawned.nodes.push((name, child));
        }
        Ok(spawned)
    }

    /// How to meet the nodes.
    pub(crate) fn network(&self) -> &NetworkConfig {
        &self.network
    }

    /// What to do about a node that is stopped, by a signal or a debugger: it neither answers nor ends.
    pub(crate) fn advice_on_stopped(&self) -> Option<String> {
        let is_stopped = |child: &Child| {
            let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
            // The program's name before the state may hold anything.
            stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with(['T', 't']))
        };
        let (name, child) = self.nodes.iter().find(|(_, child)| is_stopped(child))?;
        Some(format!("the node {name} is stopped: `kill -CONT {}` lets it go on; then run again", child.id()))
    }

    /// Waits until every node is found.
    pub(crate) fn discover(
        &mut self,
        cluster: &mut Cluster,
        timeout: Duration,
        progress: &dyn Fn(usize),
    ) -> Result<()> {
        let deadline = Instant::now() + timeout;
        let wanted = Wanted::Exactly(self.nodes.len());
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let found = match cluster.discover(&wanted, left.min(LOOK_PERIOD), progress) {
                Ok(_) => return Ok(()),
                Err(DiscoverError::TooFew { found, .. }) => found,
                Err(_) => 0,
            };
            for (name, child) in &mut self.nodes {
                if let Some(status) = child.try_wait().context("cannot look after a node")? {
                    bail!("the node {name} ended early: {status}");
                }
            }
            if left.is_zero() {
                let error = DiscoverError::TooFew { found, wanted: self.nodes.len(), timeout };
                return Err(error).hint(self.advice_on_stopped().unwrap_or_else(|| MULTICAST.to_owned()));
            }
        }
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        // They end when their standard input does.
        self.nodes.iter_mut().for_each(|(_, child)| drop(child.stdin.take()));
        let deadline = Instant::now() + END_TIMEOUT;
        for (name, child) in &mut self.nodes {
            if let Err(e) = end(child, deadline) {
                tracing::warn!("the node {name} could not be ended: {e}");
            }
        }
    }
}

/// Waits for a child until `deadline`, then kills it.
fn end(child: &mut Child, deadline: Instant) -> io::Result<()> {
    // A process cannot be waited for with a time limit without signals or polling; this is polling, coarse
    // because ending takes milliseconds and happens once.
    while Instant::now() < deadline {
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        #[expect(clippy::disallowed_methods, reason = "see above")]
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill()?;
    child.wait().map(drop)
}
