//! `defer-testbed`: runs the experiments in `experiments/` and writes their tables.
//!
//! Each experiment is a TOML file; its results go beside it, one JSON object a line, and a table as Markdown.
//!
//! It is a library for its own tests alone: they start devices, reach into their network, and do to them what happens to
//! devices.

mod accuracy;
mod awake;
mod cgroup;
mod chart;
mod cluster;
mod common;
mod devices;
mod falling;
mod faults;
mod gantt;
mod grid;
mod host;
mod interrupt;
mod kinds;
mod lab;
mod limits;
mod links;
mod network;
mod paced;
mod placement;
mod report;
mod schedule;
mod simulate;
mod stale;
mod stream;
mod table;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser;

pub use cluster::Cluster;
pub use common::Programs;
pub use devices::Devices;
pub use faults::Fault;
pub use lab::Lab;
pub use limits::Way;
pub use network::{Description, Network, address};

/// Run the experiments that stand in files of experiments/
#[derive(Debug, Parser)]
#[command(name = "defer-testbed", version)]
enum Command {
    /// Say whether devices can be emulated here: whether CPU quotas can be set
    Quotas,
    /// Hold the rates of emulated links against those that were asked for; needs root
    Links(links::Args),
    /// Remove what testbeds that crashed left behind: processes, namespaces, control groups. Without root: those of
    /// paced devices
    Clean,
    /// How far the known rules for placing a model are from the best plan, on seeded clusters
    Placement(placement::Args),
    /// What was predicted of a chain of real nodes under CPU quotas, and what was measured; needs root
    Accuracy(accuracy::Args),
    Run(grid::Args),
    Report(report::Args),
    /// What more and more equal devices would bring: planned, predicted and simulated, nothing runs
    Simulate(simulate::Args),
    Gantt(gantt::Args),
    /// What a chain does about a link that becomes slow while it runs; needs root
    Falling(falling::Args),
    #[command(hide = true)]
    Leashed(paced::Leashed),
}

/// The command: what its arguments ask for, to the end.
#[must_use]
pub fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Quotas => cgroup::probe(),
        Command::Links(args) => links::execute(&args),
        Command::Clean => clean(),
        Command::Placement(args) => placement::execute(&args),
        Command::Accuracy(args) => accuracy::execute(&args),
        Command::Run(args) => grid::execute(&args),
        Command::Report(args) => report::execute(&args),
        Command::Simulate(args) => simulate::execute(&args),
        Command::Gantt(args) => gantt::execute(&args),
        Command::Falling(args) => falling::execute(&args),
        Command::Leashed(args) => paced::become_leashed(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        #[expect(clippy::print_stderr, reason = "the only place that reports an error")]
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn clean() -> anyhow::Result<()> {
    for name in cgroup::clean()? {
        // It is removed, whether anybody reads it or not.
        let _ = writeln!(io::stdout(), "removed {name}");
    }
    Ok(())
}
