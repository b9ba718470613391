//! `defer node`: a compute node.

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use anyhow::{Context, Result};
use crossbeam_channel::{Sender, bounded};
use pipeline::{Node, NodeConfig, NodeError};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::advice::{advised, network_advice};
use crate::flags::{Common, Engine, Network, bytes, threads};
use crate::machine::{default_memory, host_name};
use crate::output::report::size;
use crate::output::{json_line, line};
use crate::places;

/// Be a compute node: wait for stages of models, run them, pass the results on
///
/// A node listens on this machine only unless --insecure says otherwise. It is found by multicast in its own
/// network, and serves several deployments, one after the other and side by side, until Ctrl-C.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  defer node                                        a node for this machine only
  defer node --insecure                             a node for a network that you trust
  defer node --listen 192.168.1.7:7447 --insecure   the same, on one address and a known port
  defer node --memory 2GB --threads 2               with limits")]
pub(crate) struct Args {
    /// The address where others find it; tensors and weights use the port after it. Port 0: the system
    /// chooses both [default: 127.0.0.1:0, with --insecure 0.0.0.0:0]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// The name of the node [default: the host's name]
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) name: Option<String>,
    /// Threads that compute [default: the cores of this machine]
    #[arg(long, value_name = "N", value_parser = threads)]
    pub(crate) threads: Option<usize>,
    /// Memory limit, such as 512MB: a stage is refused when the weights and activations promised would go beyond
    /// it, and given up when, once loaded, the private memory of this process does [default: three quarters of
    /// this machine's, or of what a container leaves it]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub(crate) memory: Option<u64>,
    /// Weights kept on disk at most, in use or not
    #[arg(long, value_name = "SIZE", value_parser = bytes, default_value = "8GB")]
    pub(crate) cache_size: u64,
    /// End when standard input ends: for whoever starts nodes as children
    #[arg(long, hide = true)]
    pub(crate) until_stdin_closes: bool,
    #[command(flatten)]
    pub(crate) network: Network,
    #[command(flatten)]
    pub(crate) engine: Engine,
}

#[derive(Serialize)]
struct Started<'a> {
    name: &'a str,
    id: &'a str,
    engine: &'a str,
    listen: SocketAddr,
    data: &'a [SocketAddr],
}

pub(super) fn execute(args: Args, common: &Common) -> Result<()> {
    let (ended, ends) = bounded(2); // a signal, and the end of standard input
    // Before anything is announced: from here on a signal ends the node in order.
    listen_for_signals(ended.clone()).context("cannot listen for signals")?;
    let engine = args.engine.choose()?;
    let listen = args.listen.unwrap_or_else(|| (args.network.any_address(), 0).into());
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let name = args.name.unwrap_or_else(host_name);
    let engine_text = format!("{} {}", engine.name(), engine.version());
    let config = NodeConfig {
        name: name.clone(),
        network: args.network.listening(listen),
        data_port: listen.port().checked_add(1).filter(|_| listen.port() != 0).unwrap_or(0),
        threads,
        memory: args.memory.unwrap_or_else(default_memory),
        cache: places::cache(args.engine.cache.as_deref())?.join("weights"),
        cache_limit: args.cache_size,
        engine,
    };
    let memory = config.memory;
    let node = Node::start(config).map_err(advise)?;
    let (id, data) = (node.id(), node.data_addresses());
    if common.json {
        json_line(&Started { name: &name, id, engine: &engine_text, listen, data })?;
    } else {
        let addresses: Vec<String> = data.iter().map(SocketAddr::to_string).collect();
        let addresses = addresses.join(", ");
        let found = match listen.port() {
            0 => "found by multicast (for --connect, give it a --listen ADDR:PORT)".to_owned(),
            _ => format!("found by multicast or --connect {listen}"),
        };
        line(format_args!(
            "node `{name}` is ready: {engine_text}, {threads} threads, {} of memory\n{found}, data on {addresses}",
            size(memory)
        ))?;
    }
    if args.until_stdin_closes {
        let sender = ended;
        std::thread::spawn(move || {
            // Whatever is sent is of no interest; the end is.
            let _ = io::copy(&mut io::stdin().lock().take(u64::MAX), &mut io::sink());
            let _ = sender.try_send(());
        });
    }
    ends.recv().context("nobody can end the node any more")?;
    node.stop();
    // No orderly exit: a stage that was given up may still be in its engine, and would find libraries taken down. `stop`
    // has left the control plane, and a node has no processes of its own.
    let _ = io::stdout().flush();
    signal_hook::low_level::exit(0)
}

fn advise(error: NodeError) -> anyhow::Error {
    let advice = match &error {
        NodeError::Network(e) => network_advice(e),
        NodeError::Listen { .. } => Some("another program listens there: choose another port with --listen"),
        NodeError::Cache(_) => Some("name a folder that you may write to with --cache"),
        NodeError::Thread(_) => None,
    };
    advised(error, advice)
}

fn listen_for_signals(ended: Sender<()>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for _ in signals.forever() {
            // Full when the node is ending already.
            let _ = ended.try_send(());
        }
    })?;
    Ok(())
}
