//! The commands, one a file: each reads its flags, calls a library and prints what came back.

mod engine;
mod fleet;
mod node;
mod nodes;
mod plan;
mod run;
mod stream;
mod zoo;

use anyhow::{Error, Result};
use clap::{Parser, Subcommand};
use pipeline::{Cluster, NetworkConfig, NetworkError};

use crate::failure::Hint;
use crate::flags::Common;

/// What to do when nodes are missing.
const FIND_NODES: &str = "start `defer node` on each machine, with --insecure to be reachable from others (and here \
                          to look for them); in another network, name one with --connect HOST:PORT; or try \
                          --spawn 4, which starts nodes here";

/// Runs one neural network over several small machines: cuts an ONNX model by layers, ships the parts to
/// compute nodes chained in series, streams inputs through them and returns the answers.
#[derive(Debug, Parser)]
#[command(name = "defer", version, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "\
Examples:
  defer run --spawn 4 models/efficientnet_lite0.onnx models/photos
  defer node --name kitchen            (on each machine)
  defer run model.onnx photos/         (on one of them)")]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Subcommand)]
enum Command {
    Node(node::Args),
    Nodes(nodes::Args),
    Run(Box<run::Args>),
    Plan(plan::Args),
    Zoo(zoo::Args),
    Engine(engine::Args),
}

/// Runs the command.
pub(crate) fn execute(cli: Cli) -> Result<()> {
    let common = &cli.common;
    match cli.command {
        Command::Node(args) => node::execute(args, common),
        Command::Nodes(args) => nodes::execute(args, common),
        Command::Run(args) => run::execute(*args, common),
        Command::Plan(args) => plan::execute(args, common),
        Command::Zoo(args) => zoo::execute(args, common),
        Command::Engine(args) => engine::execute(args, common),
    }
}

/// Enters the control plane.
fn join(network: &NetworkConfig) -> Result<Cluster> {
    Cluster::join(network).map_err(|e| {
        let advice = network_advice(&e);
        advised(e, advice)
    })
}

/// What to do when the control plane cannot be entered.
fn network_advice(error: &NetworkError) -> Option<&'static str> {
    match error {
        NetworkError::Insecure { .. } => Some(
            "if you trust everybody in that network, say so with --insecure; else use loopback addresses",
        ),
        NetworkError::Open { .. } => Some(
            "another program may use the port, or the address is not this machine's: choose another --listen",
        ),
        NetworkError::Group { .. } | NetworkError::Declare(_) => None,
    }
}

/// An error with advice, if there is any.
fn advised(error: impl std::error::Error + Send + Sync + 'static, advice: Option<&'static str>) -> Error {
    match (Err::<(), _>(error), advice) {
        (failed, Some(advice)) => failed.hint(advice).expect_err("it is an error"),
        (failed, None) => failed.expect_err("it is an error").into(),
    }
}

/// Three quarters of this machine's memory, bytes: what a node promises when nothing is said.
pub(crate) fn default_memory() -> u64 {
    let info = rustix::system::sysinfo();
    let total = info.totalram as u64 * u64::from(info.mem_unit.max(1));
    total / 4 * 3
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
