//! `defer nodes`: which compute nodes are there.

use std::time::Duration;

use anyhow::Result;
use pipeline::{DiscoverError, NodeInfo, Wanted};

use super::advice::{FIND_NODES, join};
use crate::failure::Hint;
use crate::flags::{Common, Network, duration};
use crate::output::report::{NodeRow, nodes};
use crate::output::{json_line, line, printable, progress};

/// List the compute nodes that are found, with cores, memory, engine and what they run
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  defer nodes
  defer nodes --insecure                      those of other machines as well
  defer nodes --connect 192.168.1.7:7447 --insecure --json")]
pub(crate) struct Args {
    /// How long to look for the first
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "2s")]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) network: Network,
}

pub(super) fn execute(args: Args, common: &Common) -> Result<()> {
    let bar = progress::waiting("looking for nodes", common.progress());
    let mut cluster = join(&args.network.config())?;
    let found = cluster.discover(&Wanted::AtLeast(1), args.timeout, &|found| {
        bar.set_message(format!("{found} nodes found"))
    });
    let found = found.map(<[NodeInfo]>::to_vec);
    bar.finish_and_clear();
    let rows: Vec<NodeRow> = match found {
        Ok(nodes) => nodes.iter().map(row).collect(),
        // None is an answer like any other.
        Err(e @ DiscoverError::Nobody(_)) => {
            tracing::warn!("{e}: {FIND_NODES}");
            Vec::new()
        }
        Err(e) => return Err(e).hint(FIND_NODES),
    };
    if let Err(e) = cluster.check_names() {
        tracing::warn!("{}", printable(&e.to_string()));
    }
    match common.json {
        true => rows.iter().try_for_each(json_line),
        false if rows.is_empty() => Ok(()),
        false => line(nodes(&rows)),
    }
}

fn row(node: &NodeInfo) -> NodeRow {
    let d = &node.description;
    NodeRow {
        name: d.name.clone(),
        address: d.data_addresses.first().map(ToString::to_string).unwrap_or_default(),
        cores: d.cores,
        threads: d.threads,
        memory_bytes: d.memory_limit,
        memory_used_bytes: d.memory_used,
        engine: d.engine.clone(),
        runs: d
            .stages
            .iter()
            .map(|s| format!("{} {}/{}", s.model, s.stage.saturating_add(1), s.stages))
            .collect(),
    }
}
