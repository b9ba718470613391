//! The `defer` command.
//!
//! Everything that prints, reads the environment or knows the home folder is in this crate; the work is done by
//! the libraries below it.

mod commands;
mod failure;
mod flags;
mod input;
mod interrupt;
mod machine;
mod output;
mod places;
mod plan_file;
mod preprocess;
mod spawn;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use commands::Cli;

fn main() -> ExitCode {
    places::forbid_telemetry();
    // SAFETY: nothing has started a thread so far.
    unsafe { pipeline::return_large_blocks() };
    let cli = Cli::parse();
    log(cli.common.verbose);
    match commands::execute(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let (text, code) = failure::describe(&error);
            // Without stderr there is nobody to tell; the exit code still says it.
            let _ = writeln!(io::stderr(), "{text}");
            ExitCode::from(code)
        }
    }
}

fn log(verbose: u8) {
    // The control plane's library is talkative at levels meant for ours, and calls it an error when a peer leaves
    // in the middle of a message; what fails for us, it returns.
    let (level, zenoh) = match verbose {
        0 => ("warn", "off"),
        1 => ("info", "off"),
        _ => ("debug", "error"),
    };
    let default = format!("{level},zenoh={zenoh},zenoh_transport={zenoh},zenoh_link={zenoh},ort=error");
    let named = places::log_filter().and_then(|filter| EnvFilter::try_new(filter).ok());
    let filter = named.unwrap_or_else(|| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .without_time()
        .init();
}

/// The reader of our output has gone, as with `defer ... | head`: not a failure.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
            || cause
                .downcast_ref::<serde_json::Error>()
                .is_some_and(|e| e.io_error_kind() == Some(io::ErrorKind::BrokenPipe))
    })
}
