//! What a chain does about a link that becomes slow while it runs: two devices, and after some items the link between
//! them has another rate. The chain is to find a codec for it by itself.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, ensure};
use plan::End;

use crate::common::{MOST_ITEMS, Programs};
use crate::devices::{Cluster, Device};
use crate::lab::Lab;
use crate::limits::Way;
use crate::network::Description;
use crate::stream::{Job, Streamed};
use crate::table::markdown;

/// What a chain does about a link that becomes slow while it runs; needs root
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The ONNX model
    model: PathBuf,
    #[command(flatten)]
    programs: Programs,
    /// The engine that runs it
    #[arg(long, default_value = "onnxruntime")]
    engine: String,
    /// CPU time of each device, as a share of a core
    #[arg(long, default_value_t = 0.5)]
    quota: f64,
    /// The level of accuracy
    #[arg(long, default_value = "near")]
    codec: String,
    /// Where it is cut, instead of where the plan has it
    #[arg(long, value_name = "NAME")]
    cut: Option<String>,
    /// Rate of the link between the devices at first, Mbit/s; others have twice as much
    #[arg(long, default_value_t = 100.0)]
    from: f64,
    /// Its rate later
    #[arg(long, default_value_t = 10.0)]
    to: f64,
    /// Items before that
    #[arg(long, default_value_t = 300)]
    before: usize,
    /// Items after it
    #[arg(long, default_value_t = 600)]
    after: usize,
}

/// Either device may come first in the chain.
const LINKS: [(usize, usize); 2] = [(0, 1), (1, 0)];

/// Items that may still be as before when something changes: the window of a chain of two, and as many again.
const SETTLING: usize = 12;

/// Prints the periods, and what was switched.
///
/// # Errors
/// Where links cannot be emulated, when the run fails, and when no link switched.
pub(crate) fn execute(args: &Args) -> Result<()> {
    for (flag, rate) in [("--from", args.from), ("--to", args.to)] {
        ensure!(rate > 0.0 && rate.is_finite(), "{flag} {rate}: a rate is above 0 Mbit/s");
    }
    ensure!(
        args.before > SETTLING && args.after > SETTLING,
        "--before and --after: more than {SETTLING} items each"
    );
    ensure!(args.before.max(args.after) <= MOST_ITEMS, "--before and --after: {MOST_ITEMS} items at most");
    let lab = Lab::new(Path::new("."), &args.engine, &args.programs, Way::Groups)?;
    let device = Device { quota: args.quota, idle_watts: 0.0, busy_watts: 0.0, memory_mb: None };
    let network = Description::even(2.0 * args.from);
    let network = LINKS.iter().fold(network, |network, &(from, to)| network.with_link(from, to, args.from));
    let cluster = Cluster::new("falling", vec![device; 2], Some(network));
    let (file, devices) = (lab.cluster(&cluster)?, lab.start(&cluster)?);
    let job = Job {
        codec: Some(&args.codec),
        cut: args.cut.as_deref(),
        ..Job::new(&args.model, &file, SETTLING, args.before + args.after)
    };
    let fall = SETTLING + args.before;
    let mut heard = |results| {
        let links = LINKS.iter().filter(|_| results == fall);
        links
            .map(|&(from, to)| (End::Device(from), End::Device(to)))
            .try_for_each(|(from, to)| devices.set_rate(from, to, args.to))
    };
    let streamed = lab.stream(&devices, &job, &mut heard)?;
    print(&streamed, fall);
    let switched = streamed.report.codec_switches.iter().any(|switch| switch.item >= fall);
    ensure!(switched, "no link changed its codec when the rate of one fell");
    Ok(())
}

/// The periods between what happened, and each switch.
fn print(streamed: &Streamed, fall: usize) {
    let Streamed { report, arrivals, .. } = streamed;
    let mut events =
        vec![("the link has its first rate".to_owned(), 0), ("it has the other one".to_owned(), fall)];
    for switch in &report.codec_switches {
        let link = format!("{} to {}", switch.from, switch.to);
        let why = format!("{:.1} ms, {:.1} expected", switch.period_ms, switch.expected_period_ms);
        events.push((format!("{link}: {} to {} ({why})", switch.codec_before, switch.codec), switch.item));
    }
    let ends = events.iter().skip(1).map(|(_, item)| *item).chain([arrivals.len()]).collect::<Vec<_>>();
    let row = |((what, item), end): (&(String, usize), usize)| {
        let period = period_ms(arrivals.get(item + SETTLING..end).unwrap_or_default());
        vec![what.clone(), item.to_string(), period.map_or_else(String::new, |period| format!("{period:.1}"))]
    };
    let rows: Vec<Vec<String>> = std::iter::zip(&events, ends).map(row).collect();
    // Whoever closed the output did not want it.
    let _ = io::stdout().write_all(markdown(&["since", "item", "period, ms"], &rows).as_bytes());
}

/// Between results that came at these moments, in the mean.
fn period_ms(arrivals: &[Instant]) -> Option<f64> {
    let (first, last) = (arrivals.first()?, arrivals.last()?);
    (arrivals.len() > 1).then(|| (*last - *first).as_secs_f64() * 1e3 / (arrivals.len() - 1) as f64)
}
