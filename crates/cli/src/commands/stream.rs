//! Streams the items of a run through a chain and takes the results in order.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Error, Result};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use indicatif::ProgressBar;
use pipeline::{ItemError, MIN_ITEMS, Pending, Pipeline};
use plan::names::listed;
use tensor::Tensor;
use wire::control::StageFigures;
use wire::{Codec, CodecList};

use super::advice::TAKES;
use crate::failure::Hint;
use crate::flags::Common;
use crate::input::Items;
use crate::interrupt::Interrupt;
use crate::output::progress;
use crate::output::report::{Comparison, LinkRow, Prediction, RunReport, StageRow, TimedRow, WholeReport};
use crate::output::switches::SwitchRow;
use crate::output::trial::TrialReport;

/// Items that were admitted and whose results nobody has looked at yet, at least: a larger window has as many as it
/// holds. The window bounds what is in flight; this bounds results that wait for a slow disk or terminal.
const MAX_WAITING: usize = 64;

/// How long no result may come before somebody is told, and twice as long before the next time.
const SILENCE: Duration = Duration::from_secs(30);

/// Between two looks at whether Ctrl-C was pressed while no result comes.
const LOOK_PERIOD: Duration = Duration::from_millis(250);

/// An item with its result.
pub(super) struct Done {
    pub(super) index: usize,
    pub(super) name: String,
    pub(super) outputs: Vec<Tensor>,
    /// When its result was handed out, since the stream began.
    pub(super) arrived: Duration,
    /// From its admission to that moment; what is done with the result afterwards does not count.
    pub(super) latency: Duration,
}

/// What streaming took.
pub(super) struct Streamed {
    seconds: f64,
    /// Of that, making items: reading files, decoding photos.
    making: Duration,
    items_per_s: f64,
    latencies: Vec<Duration>,
    /// What each stage did.
    stages: Vec<StageFigures>,
    /// What each did while the chain was full, if it was for long enough.
    steady: Option<Vec<StageFigures>>,
}

/// Looks at the stages of a chain while it is full: an item costs most then, because nodes that share caches, or wait for
/// one another, compute all at once.
struct Steady {
    /// By results: when it is full, and when its last item was admitted. Empty where that is too short.
    between: Range<usize>,
    before: Option<Vec<StageFigures>>,
    figures: Option<Vec<StageFigures>>,
}

impl Steady {
    /// Of so many items, where a node has such a share of them at least.
    fn of(items: usize, window: usize, least_share: f64) -> Steady {
        let between = window..items.saturating_sub(window);
        // One more, as nodes are looked at one after the other.
        let is_enough = between.len() as f64 * least_share >= (MIN_ITEMS + 1) as f64;
        Steady { between: if is_enough { between } else { 0..0 }, before: None, figures: None }
    }

    /// After so many results. A node that does not answer says nothing; if it is gone, the items say so.
    fn look(&mut self, results: usize, measure: &dyn Fn() -> Option<Vec<StageFigures>>) {
        if self.between.is_empty() {
            return;
        }
        if results == self.between.start {
            self.before = measure();
        }
        if results == self.between.end
            && let Some(before) = &self.before
        {
            self.figures = measure().map(|after| pipeline::figures_between(before, &after));
        }
    }
}

/// An item on its way.
struct Sent {
    name: String,
    admitted: Instant,
    pending: Pending,
}

/// Streams all items; `take` gets every result, in the order of the items. After Ctrl-C no more items are
/// sent, and those on their way still arrive.
///
/// Three threads: one makes and submits items, one notes when results arrive, this one takes them. An item has a
/// place from before its submission until `take` is done with it, so that no thread but the first ever waits for
/// a slow `take`, and the times are those of the chain.
pub(super) fn stream(
    chain: &Pipeline,
    items: &mut Items,
    window: Option<usize>,
    title: &str,
    interrupt: &Interrupt,
    common: &Common,
    take: &mut dyn FnMut(Done) -> Result<()>,
) -> Result<Streamed> {
    let before = chain.measure()?;
    let bar = progress::items(items.len() as u64, common.progress());
    bar.set_message(title.to_owned());
    let places = MAX_WAITING.max(window.unwrap_or(0));
    let (occupy, vacate) = bounded(places);
    let (sender, sent) = bounded(places);
    let (arrive, arrived) = bounded(places);
    let started = Instant::now();
    let mut latencies = Vec::new();
    let mut arrivals = Vec::new();
    let shares = chain.plan().stages.iter().flat_map(|stage| &stage.replicas).map(|replica| replica.share);
    let mut steady = Steady::of(items.len(), chain.window(), shares.fold(1.0, f64::min));
    let making = std::thread::scope(|scope| {
        let sending = scope.spawn(move || send(chain, items, interrupt, &occupy, &sender));
        scope.spawn(move || note_arrivals(&sent, &arrive, started));
        let mut patience =
            Patience { chain, interrupt, bar: &bar, since: started, silence: SILENCE, told: false };
        let arrivals_of = std::iter::from_fn(|| patience.next(&arrived));
        let taken = { arrivals_of }.try_for_each(|done: Result<Done>| {
            let done = done?;
            latencies.push(done.latency);
            arrivals.push(done.arrived);
            bar.inc(1);
            steady.look(arrivals.len(), &|| chain.measure().ok());
            take(done)?;
            // The place of the item just taken: there is one for each result.
            let _ = vacate.try_recv();
            Ok(())
        });
        // Without them the other threads stop.
        drop((arrived, vacate));
        let sent = sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        taken.and(sent) // why there are no more results says more than why none were sent
    })?;
    bar.finish_and_clear();
    let seconds = arrivals.last().map_or(0.0, Duration::as_secs_f64);
    let stages = pipeline::figures_between(&before, &chain.measure()?);
    latencies.sort();
    let items_per_s = rate(&arrivals, chain.stages().len());
    Ok(Streamed { seconds, making, items_per_s, latencies, stages, steady: steady.figures })
}

/// Whoever waits for results, and tells when none comes.
struct Patience<'a> {
    chain: &'a Pipeline,
    interrupt: &'a Interrupt,
    bar: &'a ProgressBar,
    /// When the last result came.
    since: Instant,
    /// How long none may come.
    silence: Duration,
    /// Whether it was told what Ctrl-C does.
    told: bool,
}

impl Patience<'_> {
    /// The next result; `None` after the last.
    fn next(&mut self, arrived: &Receiver<Result<Done>>) -> Option<Result<Done>> {
        loop {
            match arrived.recv_timeout(LOOK_PERIOD) {
                Ok(done) => {
                    (self.since, self.silence) = (Instant::now(), SILENCE);
                    return Some(done);
                }
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => self.look(),
            }
        }
    }

    fn look(&mut self) {
        if self.interrupt.asked() && !self.told {
            self.told = true;
            self.tell(
                "no more items are sent; those on their way still arrive. Ctrl-C again ends it at once",
            );
        }
        if self.since.elapsed() >= self.silence {
            let seconds = self.silence.as_secs();
            let nodes: Vec<&str> =
                self.chain.stages().iter().map(|s| s.node.description.name.as_str()).collect();
            self.tell(&format!(
                "no result for {seconds} s: an item takes long, or one of {} or a link between them stands still; \
                 Ctrl-C twice ends this",
                listed(&nodes)
            ));
            self.silence *= 2;
        }
    }

    fn tell(&self, words: &str) {
        self.bar.suspend(|| tracing::warn!("{words}"));
    }
}

/// Sends all items; gives the time that it took to make them.
fn send(
    chain: &Pipeline,
    items: &mut Items,
    interrupt: &Interrupt,
    occupy: &Sender<()>,
    sent: &Sender<Sent>,
) -> Result<Duration> {
    let mut making = Duration::ZERO;
    for index in 0.. {
        let begun = Instant::now();
        let Some(item) = items.next() else { break };
        making += begun.elapsed();
        if interrupt.asked() {
            break;
        }
        let item = item.hint(TAKES)?;
        if occupy.send(()).is_err() {
            break; // taking results has failed, and says why
        }
        let pending = chain.submit(item.tensors).map_err(|e| of_item(e, &item.name, index))?;
        if sent.send(Sent { name: item.name, admitted: Instant::now(), pending }).is_err() {
            break; // as above
        }
    }
    Ok(making)
}

/// An item that has no result, with what it has to do with that: nothing, where the chain broke.
fn of_item(error: ItemError, name: &str, index: usize) -> Error {
    let about = match error {
        ItemError::Broken(_) => format!("the answers end before item {index}"),
        ItemError::Unfit(_) | ItemError::Failed(_) => format!("input {name}"),
    };
    Error::new(error).context(about)
}

/// Nothing here waits for anything but results: `arrived` has a place for every item.
fn note_arrivals(sent: &Receiver<Sent>, arrived: &Sender<Result<Done>>, started: Instant) {
    for (index, Sent { name, admitted, pending }) in sent.iter().enumerate() {
        let outputs = pending.wait();
        let (arrival, latency) = (started.elapsed(), admitted.elapsed());
        let done = match outputs {
            Ok(outputs) => Ok(Done { index, name, outputs, arrived: arrival, latency }),
            Err(error) => Err(of_item(error, &name, index)),
        };
        if arrived.send(done).is_err() {
            break;
        }
    }
}

/// Whether so many items are enough for a rate of the full chain.
fn fill(items: usize, stages: usize) -> bool {
    items > 8 * stages
}

/// Results per second once the chain is full: the first two for each stage are left out, if enough remain.
fn rate(arrivals: &[Duration], stages: usize) -> f64 {
    let filled = if fill(arrivals.len(), stages) { 2 * stages } else { 0 };
    let (Some(last), count) = (arrivals.last(), arrivals.len() - filled) else { return 0.0 };
    let start = if filled == 0 { Duration::ZERO } else { arrivals[filled - 1] };
    count as f64 / (*last - start).as_secs_f64().max(1e-9)
}

/// What people call a resource of a running chain.
fn resource_name(chain: &Pipeline, resource: plan::Resource) -> String {
    let node = |device: usize| {
        let mut replicas = chain.plan().stages.iter().flat_map(|stage| &stage.replicas);
        let place = replicas.position(|replica| replica.device == device);
        chain.stages()[place.expect("only what the plan uses is busy")].node.description.name.clone()
    };
    let end = |end| match end {
        plan::End::Dispatcher => "the dispatcher".to_owned(),
        plan::End::Device(device) => node(device),
    };
    match resource {
        plan::Resource::Device(device) => node(device),
        plan::Resource::Dispatcher => "the dispatcher".to_owned(),
        plan::Resource::Link { from, to } => format!("the link from {} to {}", end(from), end(to)),
        plan::Resource::Sending(from) => format!("what {} sends", end(from)),
        plan::Resource::Receiving(to) => format!("what {} receives", end(to)),
        plan::Resource::Medium(medium) => format!("medium {medium}"),
    }
}

/// How inputs travel: what the first link's codec is for their types, the first of several.
fn input_codec(chain: &Pipeline) -> String {
    let codec = chain.codecs()[0];
    let of_inputs = chain.inputs().iter().map(|input| codec.for_dtype(input.dtype));
    of_inputs.min_by_key(|codec| codec.fidelity()).unwrap_or(codec).to_string()
}

/// What was predicted of a link that may use these codecs.
fn link((hop, codecs): (&plan::Hop, &CodecList)) -> LinkRow {
    // Between replicas there are several: the slowest.
    let slowest = hop.links.iter().max_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let path = slowest.expect("a hop has a link");
    LinkRow {
        busy_ms: path.seconds * 1e3,
        delay_ms: path.delay_seconds * 1e3,
        send_ms: path.send_seconds * 1e3,
        receive_ms: path.receive_seconds * 1e3,
        encodes: codecs.iter().any(|codec| codec != Codec::RAW),
    }
}

/// By stage, its node, or all of them.
fn nodes(chain: &Pipeline) -> Vec<String> {
    let of_stage = |stage: usize| {
        let own = chain.stages().iter().filter(|s| s.stage == stage);
        own.map(|s| s.node.description.name.as_str()).collect::<Vec<_>>().join("|")
    };
    (0..chain.plan().stages.len()).map(of_stage).collect()
}

/// Whether the nodes of one machine have more threads than it has cores.
pub(super) fn share_cores(chain: &Pipeline) -> bool {
    let nodes = || chain.stages().iter().map(|stage| &stage.node.description);
    nodes().any(|node| {
        let beside = nodes().filter(|other| other.machine.id == node.machine.id);
        beside.map(|other| other.threads).sum::<u32>() > node.cores
    })
}

impl Streamed {
    /// What each stage did while the chain was full, if it was for long enough.
    pub(super) fn steady(&self) -> Option<&[StageFigures]> {
        self.steady.as_deref()
    }

    /// The same, or what it did all the time.
    fn figures(&self) -> &[StageFigures] {
        self.steady().unwrap_or(&self.stages)
    }

    /// The report on `chain`, which was streamed through.
    pub(super) fn report(&self, chain: &Pipeline) -> RunReport {
        let plan = chain.plan();
        let operation = chain.in_operation(self.figures());
        let nodes = nodes(chain);
        let rows = chain.stages().iter().zip(&self.stages).enumerate().map(|(i, (stage, figures))| {
            let counts = |figures: &StageFigures| {
                [figures.items, figures.received, figures.computed].map(|items| items.max(1) as f64)
            };
            let [items, received, computed] = counts(figures);
            let full = &self.figures()[i];
            let [full_items, full_received, full_computed] = counts(full);
            let planned = &plan.stages[stage.stage].replicas[stage.replica];
            let corrected = operation.as_ref().map(|operation| operation.busy_seconds[i] * 1e3);
            StageRow {
                stage: stage.stage + 1,
                node: stage.node.description.name.clone(),
                engine: stage.engine.clone(),
                operators: stage.operators,
                weight_bytes: stage.weight_bytes,
                compute_ms: figures.compute_seconds / computed * 1e3,
                busy: figures.compute_seconds / self.seconds.max(1e-9),
                in_bytes: figures.bytes_in as f64 / received,
                out_bytes: figures.bytes_out as f64 / items,
                // The last may have arrived before its node counted it as sent.
                share: figures.computed as f64 / self.latencies.len().max(1) as f64,
                codec: chain.codecs()[stage.stage + 1].to_string(),
                widened: figures.widened,
                predicted_share: planned.share,
                predicted_compute_ms: planned.compute_seconds * 1e3,
                predicted_busy_ms: planned.busy_seconds * 1e3,
                corrected_busy_ms: corrected,
                timed: stage.time.as_ref().map(TimedRow::new),
                cpu_ms: full.process_cpu_seconds / full_items * 1e3,
                compute_cpu_ms: full.compute_cpu_seconds.map(|seconds| seconds / full_computed * 1e3),
                encode_cpu_ms: full.encode_cpu_seconds / full_items * 1e3,
                decode_cpu_ms: full.decode_cpu_seconds / full_received * 1e3,
                move_cpu_ms: full.move_cpu_seconds / full_items * 1e3,
            }
        });
        let prediction =
            |period, latency, limit| Prediction::new(period, latency, resource_name(chain, limit));
        RunReport {
            items: self.latencies.len(),
            seconds: self.seconds,
            making_seconds: self.making.as_secs_f64(),
            includes_filling: !fill(self.latencies.len(), chain.stages().len()),
            items_per_s: self.items_per_s,
            period_ms: 1e3 / self.items_per_s.max(1e-9),
            predicted: prediction(plan.period, plan.latency, plan.bottleneck),
            shared_cores: share_cores(chain),
            with_replicas: None,
            corrected: operation.as_ref().map(|o| prediction(o.period, o.latency, o.bottleneck)),
            latency_ms_p50: self.latency_ms(0.5),
            latency_ms_p99: self.latency_ms(0.99),
            cpu_ms_per_item: self.cpu_ms_per_item(),
            shipped_weight_bytes: chain.shipped().bytes,
            shipped_wire_bytes: chain.shipped().wire_bytes,
            rounded_weights: None,
            input_codec: input_codec(chain),
            stages: rows.collect(),
            links: std::iter::zip(&plan.hops, chain.codec_lists()).map(link).collect(),
            window: chain.window(),
            codec_trial: chain.codec_trial().map(|trial| TrialReport::new(trial, &nodes)),
            codec_switches: chain.codec_switches().iter().map(|s| SwitchRow::new(s, &nodes)).collect(),
            whole_model: None,
            gone_nodes: Vec::new(),
            unused_nodes: Vec::new(),
        }
    }

    /// The report on the whole model on one node.
    pub(super) fn whole_report(&self, comparison: Comparison) -> WholeReport {
        WholeReport {
            items_per_s: self.items_per_s,
            latency_ms_p50: self.latency_ms(0.5),
            latency_ms_p99: self.latency_ms(0.99),
            cpu_ms_per_item: self.cpu_ms_per_item(),
            comparison,
        }
    }

    /// CPU time of the nodes' processes, all together, while the chain was full, if it was for long enough.
    fn cpu_ms_per_item(&self) -> f64 {
        let items = self.latencies.len().max(1) as f64;
        let of_node = |(all, full): (&StageFigures, &StageFigures)| {
            full.process_cpu_seconds / full.items.max(1) as f64 * (all.computed as f64 / items)
        };
        std::iter::zip(&self.stages, self.figures()).map(of_node).sum::<f64>() * 1e3
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
    fn a_chain_is_looked_at_while_it_is_full() {
        let did = |items: u64| vec![StageFigures { items, ..StageFigures::default() }];
        // Items, window, the least share of a node, what is looked at.
        for (items, window, share, expected) in [
            (80, 18, 1.0, Some(44)),
            (57, 18, 1.0, Some(21)),
            (56, 18, 1.0, None),
            (80, 18, 0.5, Some(44)),
            (77, 18, 0.5, None),
            (20, 18, 1.0, None),
            (0, 4, 1.0, None),
        ] {
            let mut steady = Steady::of(items, window, share);
            for results in 1..=items {
                steady.look(results, &|| Some(did(results as u64)));
            }
            assert_eq!(steady.figures, expected.map(did), "{items} in {window}, {share}");
        }
        // Who does not answer, at first or at last, says nothing.
        for silent in [18, 62] {
            let mut steady = Steady::of(80, 18, 1.0);
            for results in 1..=80 {
                steady.look(results, &|| (results != silent).then(|| did(results as u64)));
            }
            assert_eq!(steady.figures, None);
        }
    }

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
