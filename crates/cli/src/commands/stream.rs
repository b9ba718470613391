//! Streams the items of a run through a chain and takes the results in order.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, Sender, bounded};
use pipeline::{Pending, Pipeline};
use tensor::Tensor;
use wire::control::StageFigures;

use crate::flags::Common;
use crate::input::Items;
use crate::interrupt::Interrupt;
use crate::output::progress;
use crate::output::report::{RunReport, StageRow, WholeReport};

/// Items that were admitted and whose results nobody has looked at yet. The chain's window bounds what is in
/// flight; this bounds results that wait for a slow disk or terminal.
const MAX_WAITING: usize = 64;

/// An item with its result.
pub(super) struct Done {
    pub(super) index: usize,
    pub(super) name: String,
    pub(super) outputs: Vec<Tensor>,
    /// From its admission to its result.
    pub(super) latency: Duration,
}

/// What streaming took.
pub(super) struct Streamed {
    seconds: f64,
    items_per_s: f64,
    latencies: Vec<Duration>,
    stages: Vec<StageFigures>,
}

/// An item on its way.
struct Sent {
    name: String,
    admitted: Instant,
    pending: Pending,
}

/// Streams all items; `take` gets every result, in the order of the items. After Ctrl-C no more items are
/// sent, and those on their way still arrive.
pub(super) fn stream(
    chain: &Pipeline,
    items: &mut Items,
    title: &str,
    interrupt: &Interrupt,
    common: &Common,
    take: &mut dyn FnMut(Done) -> Result<()>,
) -> Result<Streamed> {
    let before = chain.measure()?;
    let bar = progress::items(items.len() as u64, common.progress());
    bar.set_message(title.to_owned());
    let started = Instant::now();
    let mut latencies = Vec::new();
    let mut arrivals = Vec::new();
    let (sender, receiver) = bounded(MAX_WAITING);
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| send(chain, items, interrupt, sender));
        let taken = receive(&receiver, &mut |done| {
            latencies.push(done.latency);
            arrivals.push(started.elapsed());
            bar.inc(1);
            take(done)
        });
        // Without a receiver the sending thread stops.
        drop(receiver);
        let sent = sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        taken.and(sent)
    })?;
    bar.finish_and_clear();
    let seconds = arrivals.last().map_or(0.0, Duration::as_secs_f64);
    let stages = chain.measure()?.iter().zip(&before).map(|(after, before)| since(after, before)).collect();
    latencies.sort();
    Ok(Streamed { seconds, items_per_s: rate(&arrivals, chain.stages().len()), latencies, stages })
}

fn send(chain: &Pipeline, items: &mut Items, interrupt: &Interrupt, sent: Sender<Sent>) -> Result<()> {
    for item in items {
        if interrupt.asked() {
            break;
        }
        let item = item?;
        let pending = chain.submit(item.tensors).with_context(|| format!("input {}", item.name))?;
        let sending = sent.send(Sent { name: item.name, admitted: Instant::now(), pending });
        if sending.is_err() {
            break; // taking results has failed, and says why
        }
    }
    Ok(())
}

fn receive(sent: &Receiver<Sent>, take: &mut dyn FnMut(Done) -> Result<()>) -> Result<()> {
    for (index, Sent { name, admitted, pending }) in sent.iter().enumerate() {
        let outputs = pending.wait().with_context(|| format!("input {name}"))?;
        take(Done { index, name, outputs, latency: admitted.elapsed() })?;
    }
    Ok(())
}

/// Results per second once the chain is full: the first two for each stage are left out, if enough remain.
fn rate(arrivals: &[Duration], stages: usize) -> f64 {
    let filled = if arrivals.len() > 8 * stages { 2 * stages } else { 0 };
    let (Some(last), count) = (arrivals.last(), arrivals.len() - filled) else { return 0.0 };
    let start = if filled == 0 { Duration::ZERO } else { arrivals[filled - 1] };
    count as f64 / (*last - start).as_secs_f64().max(1e-9)
}

fn since(after: &StageFigures, before: &StageFigures) -> StageFigures {
    StageFigures {
        items: after.items - before.items,
        receive_seconds: after.receive_seconds - before.receive_seconds,
        compute_seconds: after.compute_seconds - before.compute_seconds,
        send_seconds: after.send_seconds - before.send_seconds,
        bytes_in: after.bytes_in - before.bytes_in,
        bytes_out: after.bytes_out - before.bytes_out,
        elapsed_seconds: after.elapsed_seconds - before.elapsed_seconds,
        process_cpu_seconds: after.process_cpu_seconds - before.process_cpu_seconds,
    }
}

impl Streamed {
    /// The report on `chain`, which was streamed through.
    pub(super) fn report(&self, chain: &Pipeline) -> RunReport {
        let rows = chain.stages().iter().zip(&self.stages).enumerate().map(|(i, (stage, figures))| {
            let items = figures.items.max(1) as f64;
            StageRow {
                stage: i + 1,
                node: stage.node.description.name.clone(),
                engine: stage.engine.clone(),
                operators: stage.operators,
                weight_bytes: stage.weight_bytes,
                compute_ms: figures.compute_seconds / items * 1e3,
                busy: figures.compute_seconds / self.seconds.max(1e-9),
                in_bytes: figures.bytes_in as f64 / items,
                out_bytes: figures.bytes_out as f64 / items,
                codec: chain.codec().to_string(),
            }
        });
        RunReport {
            items: self.latencies.len(),
            seconds: self.seconds,
            items_per_s: self.items_per_s,
            latency_ms_p50: self.latency_ms(0.5),
            latency_ms_p99: self.latency_ms(0.99),
            cpu_ms_per_item: self.cpu_ms_per_item(),
            shipped_weight_bytes: chain.shipped_bytes(),
            stages: rows.collect(),
            whole_model: None,
        }
    }

    /// The report on the whole model on one node.
    pub(super) fn whole_report(&self, largest_difference: f64, largest_output: f64) -> WholeReport {
        WholeReport {
            items_per_s: self.items_per_s,
            latency_ms_p50: self.latency_ms(0.5),
            latency_ms_p99: self.latency_ms(0.99),
            cpu_ms_per_item: self.cpu_ms_per_item(),
            largest_difference,
            largest_output,
        }
    }

    /// CPU time of the nodes' processes, all together.
    fn cpu_ms_per_item(&self) -> f64 {
        let cpu: f64 = self.stages.iter().map(|s| s.process_cpu_seconds).sum();
        cpu / self.latencies.len().max(1) as f64 * 1e3
    }

    fn latency_ms(&self, share: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        let latency = self.latencies.get((share * last as f64).round() as usize);
        latency.map_or(0.0, |l| l.as_secs_f64() * 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_leaves_out_the_filling_of_the_chain() {
        let at = |ms: u64| Duration::from_millis(ms);
        // Two stages: 4 results while it fills, then one every 10 ms.
        let arrivals: Vec<Duration> =
            (1..=20).map(|i| if i <= 4 { at(100 * i) } else { at(400 + 10 * (i - 4)) }).collect();
        assert!((rate(&arrivals, 2) - 100.0).abs() < 1e-6);
        assert!((rate(&arrivals[..4], 2) - 10.0).abs() < 1e-6);
        assert_eq!(rate(&[], 2), 0.0);
    }
}
