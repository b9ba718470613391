//! The commands, one a file: each reads its flags, calls a library and prints what came back.

mod advice;
mod compare;
mod engine;
mod fleet;
mod node;
mod nodes;
mod plan;
mod replicas;
mod run;
mod stream;
mod zoo;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::flags::Common;

/// Runs one neural network over several small machines: cuts an ONNX model by layers, ships the parts to
/// compute nodes chained in series, streams inputs through them and returns the answers.
#[derive(Debug, Parser)]
#[command(name = "defer", version, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "\
Examples:
  defer run --spawn 4 models/efficientnet_lite0.onnx models/photos
  defer node --insecure                   on each machine of a network that you trust
  defer run model.onnx photos/ --insecure on one of them")]
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
    Plan(Box<plan::Args>),
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
        Command::Plan(args) => plan::execute(*args, common),
        Command::Zoo(args) => zoo::execute(args, common),
        Command::Engine(args) => engine::execute(args, common),
    }
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
