//! Whether emulated links are as fast as they are said to be: messages over TCP through a network as experiments have
//! it, timed by the clock of this process, which has both ends. A delay is to leave the rate as it is. Called by `defer-testbed links`.

mod flow;

use std::io::{self, Write as _};

use anyhow::{Context, Result, ensure};
use plan::End;
use rustix::process::nice;

use crate::cgroup::Groups;
use crate::interrupt::Interrupt;
use crate::network::{Description, Expected, Network};
use crate::stream::median;
use crate::table::markdown;
use flow::{Flow, Span, measure};

/// Hold the rates of emulated links against those that were asked for; needs root
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only say whether links can be emulated here
    #[arg(long)]
    probe: bool,
}

/// Rates that are held against what was asked for, Mbit/s.
const RATES: [f64; 4] = [10.0, 100.0, 300.0, 1000.0];

/// The delay with which that is done again, ms, and the rates: what a local network has, and more. A message that comes
/// after a pause takes the delay besides, so that those that follow each other are timed.
const DELAY_MS: f64 = 5.0;
const DELAYED_RATES: [f64; 2] = [100.0, 300.0];

/// Bytes of a message: a small and a large activation, and one that ends with nearly all of a piece, whose length
/// is 64 KB unless it is bounded.
const MESSAGES: [usize; 3] = [200_000, 250_000, 3_000_000];

/// How far off a rate may be, and from which rate on how far.
const TOLERANCE: f64 = 0.05;
const FAST_MBIT_S: f64 = 1000.0;
const FAST_TOLERANCE: f64 = 0.12;

/// A rate that is off is measured again, so often in all, and the best counts: whoever else uses this machine delays
/// messages now and then, while a link that is wrong is so each time.
const ATTEMPTS: usize = 5;

/// As in experiments, everything else on the machine waits, as far as it can be made to.
const NICENESS: i32 = -20;

/// A full segment on the line with its Ethernet header, and what it carries for TCP: the rate of a link is that of its
/// line, as that of any network card.
const SEGMENT_LEN: f64 = 1514.0;
const SEGMENT_CONTENT_LEN: f64 = 1448.0;

const ONE: End = End::Device(0);
const TWO: End = End::Device(1);
const THREE: End = End::Device(2);

/// What was asked for and what was measured.
struct Row {
    what: String,
    message_len: usize,
    asked_mbit_s: f64,
    mbit_s: f64,
}

/// Prints what was measured, or says only whether anything can be.
///
/// # Errors
/// Where links cannot be emulated, and when a rate is off.
pub(crate) fn execute(args: &Args) -> Result<()> {
    let interrupt = Interrupt::listen().context("cannot listen for signals")?;
    let groups = Groups::new()?;
    let join = |devices, description: Description| {
        Network::new(groups.name(), devices, &description, &Expected::default())
    };
    if args.probe {
        // What can be damaged is relayed, with netem, too.
        let description = Description::even(100.0).with_link(0, 1, 10.0).with_delay(DELAY_MS);
        let expected = Expected { damaging: vec![ONE], ..Expected::default() };
        return Network::new(groups.name(), 2, &description, &expected).map(drop);
    }
    nice(NICENESS).context("cannot come before other processes")?;
    let mut rows = Vec::new();
    for mbit_s in RATES {
        let network = join(2, Description::even(mbit_s))?;
        for message_len in MESSAGES {
            for (pauses, what) in [(true, "each after a pause"), (false, "one after the other")] {
                let flow = Flow { from: ONE, to: TWO, mbit_s, message_len, pauses };
                rows.extend(rows_of(&network, &[(&[flow], what)], &interrupt)?);
            }
        }
    }
    for mbit_s in DELAYED_RATES {
        let network = join(2, Description::even(mbit_s).with_delay(DELAY_MS))?;
        for message_len in MESSAGES {
            let flow = Flow { from: ONE, to: TWO, mbit_s, message_len, pauses: false };
            rows.extend(rows_of(
                &network,
                &[(&[flow], "one after the other, 5 ms on their way")],
                &interrupt,
            )?);
        }
    }
    let network = join(3, Description::even(100.0).with_link(0, 1, 10.0))?;
    let flow = Flow { from: ONE, to: TWO, mbit_s: 10.0, message_len: MESSAGES[0], pauses: false };
    let beside = Flow { to: THREE, mbit_s: 90.0, ..flow };
    let differ: [(&[Flow], &str); 2] =
        [(&[flow], "over a slower link of a device"), (&[beside], "meanwhile over its other link")];
    rows.extend(rows_of(&network, &differ, &interrupt)?);
    let half = Flow { from: TWO, to: THREE, mbit_s: 50.0, ..flow };
    let share: [(&[Flow], &str); 1] = [(&[half, Flow { from: ONE, ..half }], "from two devices to one")];
    rows.extend(rows_of(&network, &share, &interrupt)?);
    report(&rows)
}

/// Measures flows that go on at the same time. Each row is about what some of them have together.
fn rows_of(network: &Network, parts: &[(&[Flow], &str)], interrupt: &Interrupt) -> Result<Vec<Row>> {
    let flows: Vec<Flow> = parts.iter().flat_map(|(flows, _)| flows.iter().copied()).collect();
    let mut best: Option<Vec<Row>> = None;
    for _ in 0..ATTEMPTS {
        interrupt.check()?;
        let spans = measure(network, &flows)?;
        let mut rest = flows.iter().zip(&spans);
        let row = |(flows, what): &(&[Flow], &str)| Row {
            what: (*what).to_owned(),
            message_len: flows[0].message_len,
            asked_mbit_s: flows.iter().map(|flow| flow.mbit_s).sum(),
            mbit_s: rate(&rest.by_ref().take(flows.len()).collect::<Vec<_>>()),
        };
        let rows: Vec<Row> = parts.iter().map(row).collect();
        if best.as_ref().is_none_or(|best| worst(&rows) < worst(best)) {
            best = Some(rows);
        }
        if !best.iter().flatten().any(Row::is_off) {
            break;
        }
    }
    best.context("nothing was measured")
}

/// How far off the worst of these is.
fn worst(rows: &[Row]) -> f64 {
    rows.iter().map(|row| row.deviation().abs()).fold(0.0, f64::max)
}

/// Prints all rows, and fails if one is off.
fn report(rows: &[Row]) -> Result<()> {
    let cells = |row: &Row| {
        let share = format!("{:+.1} %", 100.0 * row.deviation());
        let (asked, found) = (row.asked_mbit_s.to_string(), format!("{:.1}", row.mbit_s));
        vec![asked, (row.message_len / 1000).to_string(), row.what.clone(), found, share]
    };
    let header = ["asked, Mbit/s", "message, KB", "messages", "measured, Mbit/s", "off by"];
    // Whoever closed the output did not want it.
    let _ = io::stdout().write_all(markdown(&header, &rows.iter().map(cells).collect::<Vec<_>>()).as_bytes());
    let off = rows.iter().filter(|row| row.is_off()).count();
    ensure!(
        off == 0,
        "{off} of {} rates are off by more than {} % ({} % from {FAST_MBIT_S} Mbit/s on); run this while nothing else \
         uses the machine",
        rows.len(),
        100.0 * TOLERANCE,
        100.0 * FAST_TOLERANCE
    );
    Ok(())
}

impl Row {
    /// As a share of what was asked for.
    fn deviation(&self) -> f64 {
        self.mbit_s / self.asked_mbit_s - 1.0
    }

    fn is_off(&self) -> bool {
        let tolerance = if self.asked_mbit_s < FAST_MBIT_S { TOLERANCE } else { FAST_TOLERANCE };
        self.deviation().abs() > tolerance
    }
}

/// The rate on the line, Mbit/s: of one flow the median over its messages, of several what they carry together while
/// all of them go on.
fn rate(flows: &[(&Flow, &Vec<Span>)]) -> f64 {
    let bits_per_second = match flows {
        [(flow, spans)] => flow.bits() / median(spans.iter().map(Span::seconds).collect()),
        several => {
            let start = several.iter().filter_map(|(_, spans)| Some(spans.first()?.began)).max();
            let end = several.iter().filter_map(|(_, spans)| Some(spans.last()?.arrived)).min();
            let (Some(start), Some(end)) = (start, end) else { return 0.0 };
            let share = |span: &Span| span.within(start, end) / span.seconds();
            let carried =
                several.iter().map(|(flow, spans)| flow.bits() * spans.iter().map(share).sum::<f64>());
            carried.sum::<f64>() / (end - start).as_secs_f64()
        }
    };
    bits_per_second * 1e-6 * SEGMENT_LEN / SEGMENT_CONTENT_LEN
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn rates_of_several_are_those_of_the_time_they_share() {
        let at = Instant::now();
        let span = |began: f64, arrived: f64| {
            let moment = |seconds: f64| at + Duration::from_secs_f64(seconds);
            Span { began: moment(began), arrived: moment(arrived) }
        };
        let flow = Flow { from: ONE, to: TWO, mbit_s: 1.0, message_len: 125_000, pauses: false };
        let on_line = SEGMENT_LEN / SEGMENT_CONTENT_LEN;
        let check = |flows: &[(&Flow, &Vec<Span>)], expected: f64| {
            assert!((rate(flows) / on_line - expected).abs() < 1e-6, "{} {expected}", rate(flows));
        };
        let first = vec![span(0.0, 1.0), span(1.0, 2.0), span(2.0, 6.0)];
        check(&[(&flow, &first)], 1.0);
        // From 1 to 4 s: one and a half of the first, two of the second.
        check(&[(&flow, &first), (&flow, &vec![span(1.0, 2.0), span(2.0, 4.0)])], 3.5 / 3.0);
    }
}
