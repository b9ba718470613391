//! One `defer run` on devices that are up: what it predicted, and its period at steady state by the clock of this
//! process, which sees each result arrive.

use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use serde::{Deserialize, Serialize};

use crate::devices::{Devices, Program, Usage, end};
use crate::host::{Disturbance, Look};
use crate::interrupt::Interrupt;

/// Between two looks at whether Ctrl-C was pressed.
const LOOK_PERIOD: Duration = Duration::from_millis(100);

/// Lines on their way; results come slower than they are taken.
const WAITING_LINES: usize = 64;

/// How long the dispatcher may take to end after it was asked to.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// What a plan is to be best at.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Objective {
    #[default]
    Throughput,
    Latency,
    Energy,
}

impl Objective {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Objective::Throughput => "throughput",
            Objective::Latency => "latency",
            Objective::Energy => "energy",
        }
    }
}

/// How another system places a model.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Rule {
    Equal,
    Speed,
    Memory,
    Balanced,
}

impl Rule {
    fn name(self) -> &'static str {
        match self {
            Rule::Equal => "equal",
            Rule::Speed => "speed",
            Rule::Memory => "memory",
            Rule::Balanced => "balanced",
        }
    }
}

/// `defer run` ended with an error, of which this is the message.
#[derive(Debug)]
pub(crate) struct RunFailed(pub(crate) String);

impl fmt::Display for RunFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`defer run` failed: {}", self.0)
    }
}

impl std::error::Error for RunFailed {}

/// How a model is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job<'a> {
    pub(crate) model: &'a Path,
    pub(crate) cluster: &'a Path,
    /// Sizes of dimensions that the model leaves open, as `name=size`.
    pub(crate) dims: &'a [String],
    pub(crate) objective: Objective,
    /// The level of accuracy or the codec of all links, instead of what is usual.
    pub(crate) codec: Option<&'a str>,
    /// Whether to measure even what is known of the model and the devices.
    pub(crate) fresh: bool,
    pub(crate) window: Option<usize>,
    /// Instead of as many as are best.
    pub(crate) stages: Option<usize>,
    /// Where the model is cut, with the devices in their order, instead of where it is best.
    pub(crate) cut: Option<&'a str>,
    /// Placed by this rule, instead of as it is best.
    pub(crate) rule: Option<Rule>,
    /// Whether several nodes may run the same stage.
    pub(crate) replicas: bool,
    /// Items that fill the chain and settle it. As many follow those that are measured, which keep it full to the last
    /// of them: CPU time of a node that ran ahead would be of fewer items.
    pub(crate) warm_up: usize,
    /// Items that are measured, after those.
    pub(crate) items: usize,
    /// Where what nodes do for each item is written.
    pub(crate) trace: Option<&'a Path>,
}

impl<'a> Job<'a> {
    /// A run for throughput as it is usual.
    pub(crate) fn new(model: &'a Path, cluster: &'a Path, warm_up: usize, items: usize) -> Job<'a> {
        Job {
            model,
            cluster,
            dims: &[],
            objective: Objective::Throughput,
            codec: None,
            fresh: false,
            window: None,
            stages: None,
            cut: None,
            rule: None,
            replicas: false,
            warm_up,
            items,
            trace: None,
        }
    }

    /// Items after those that are measured.
    fn cool_down(&self) -> usize {
        self.warm_up
    }
}

/// What was predicted.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Prediction {
    pub(crate) period_ms: f64,
    pub(crate) latency_ms: f64,
    pub(crate) bottleneck: String,
}

/// A stage in the report of a run.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Stage {
    /// Its place in the chain, from 1 on; one that has replicas is there for each of them.
    pub(crate) stage: usize,
    pub(crate) node: String,
    pub(crate) engine: String,
    /// Of all items, those that were planned for this node.
    pub(crate) predicted_share: f64,
    pub(crate) predicted_compute_ms: f64,
    pub(crate) predicted_busy_ms: f64,
    pub(crate) corrected_busy_ms: Option<f64>,
    pub(crate) timed: Option<Timed>,
    pub(crate) weight_bytes: u64,
    /// Of all items, those that came by this node; figures are of such items.
    pub(crate) share: f64,
    pub(crate) compute_ms: f64,
    /// Nothing where the engine has threads of its own.
    #[serde(flatten)]
    pub(crate) steps: Option<Steps>,
    pub(crate) in_bytes: f64,
    pub(crate) out_bytes: f64,
    /// Of the link that leaves the stage.
    pub(crate) codec: String,
}

/// What a stage took for an item when its node ran it alone, before the run.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Timed {
    pub(crate) ms: f64,
    pub(crate) half_width_ms: f64,
    pub(crate) cpu_ms: f64,
    pub(crate) runs: u32,
}

/// CPU time of a node for an item, by what it was for; the rest is not told apart. As `defer run` has it, over the whole
/// run.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Steps {
    pub(crate) compute_cpu_ms: f64,
    pub(crate) encode_cpu_ms: f64,
    pub(crate) decode_cpu_ms: f64,
    pub(crate) move_cpu_ms: f64,
}

impl Steps {
    /// In the order in which they are shown.
    pub(crate) fn each(self) -> [f64; 4] {
        [self.compute_cpu_ms, self.encode_cpu_ms, self.decode_cpu_ms, self.move_cpu_ms]
    }

    pub(crate) fn of_some_items(self, share: f64) -> Steps {
        let [compute_cpu_ms, encode_cpu_ms, decode_cpu_ms, move_cpu_ms] = self.each().map(|ms| ms * share);
        Steps { compute_cpu_ms, encode_cpu_ms, decode_cpu_ms, move_cpu_ms }
    }
}

/// What was predicted of a link, for an item.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Link {
    pub(crate) busy_ms: f64,
    pub(crate) delay_ms: f64,
    pub(crate) send_ms: f64,
    pub(crate) receive_ms: f64,
    /// Whether it may encode.
    pub(crate) encodes: bool,
}

/// The report of a run, as far as it is of use here.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Report {
    pub(crate) predicted: Prediction,
    pub(crate) corrected: Option<Prediction>,
    /// Of the link that enters the first stage.
    pub(crate) input_codec: String,
    pub(crate) stages: Vec<Stage>,
    /// To the first stage, between stages, and back.
    pub(crate) links: Vec<Link>,
    /// Items in the chain at most.
    pub(crate) window: usize,
    /// Weights as they travelled.
    pub(crate) shipped_wire_bytes: u64,
    #[serde(default)]
    pub(crate) codec_switches: Vec<Switch>,
}

/// A link that changed its codec meanwhile.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Switch {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) codec_before: String,
    pub(crate) codec: String,
    /// From which on.
    pub(crate) item: usize,
    pub(crate) period_ms: f64,
    pub(crate) expected_period_ms: f64,
}

/// A run that went through.
#[derive(Clone, Debug)]
pub(crate) struct Streamed {
    pub(crate) report: Report,
    /// Between two results at steady state.
    pub(crate) period_ms: f64,
    /// The period of the second half over that of the first: 1 when it was steady.
    pub(crate) drift: f64,
    /// Median and 99th percentile over the measured items.
    pub(crate) latency_ms: f64,
    pub(crate) latency_ms_p99: f64,
    /// From the start of the dispatcher to the first result: calibrating, planning, shipping.
    pub(crate) first_result_ms: f64,
    pub(crate) nodes: Vec<NodeUse>,
    pub(crate) disturbance: Disturbance,
    /// When each result came, those of the warm-up included.
    pub(crate) arrivals: Vec<Instant>,
}

/// What a node took.
#[derive(Clone, Debug)]
pub(crate) struct NodeUse {
    pub(crate) node: String,
    /// CPU time for one of the measured items.
    pub(crate) cpu_ms: f64,
    /// The most memory that it had at once since it timed its stage.
    pub(crate) peak_bytes: u64,
}

/// What the node of a stage took.
pub(crate) fn used_by<'a>(nodes: &'a [NodeUse], node: &str) -> &'a NodeUse {
    nodes.iter().find(|used| used.node == node).expect("`defer run` uses the nodes of its cluster file")
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Item { latency_ms: f64 },
    Report { report: Report },
}

/// Runs a model, to the end; `heard` is told of each result, by how many there are then.
pub(crate) fn stream(
    job: &Job<'_>,
    devices: &Devices<'_>,
    program: &Program<'_>,
    interrupt: &Interrupt,
    heard: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Streamed> {
    let mut command = Command::new(program.path);
    command.arg("run").arg(job.model).args(["--json", "--random", "1", "--timeout", "30s"]);
    for dim in job.dims {
        command.args(["--dim", dim]);
    }
    if job.fresh {
        command.args(["--profile", "fresh"]);
    }
    if let Some(codec) = job.codec {
        command.args(["--codec", codec]);
    }
    command.args(["--repeat", &(job.warm_up + job.items + job.cool_down()).to_string()]);
    match job.rule {
        Some(rule) => command.args(["--rule", rule.name()]),
        None => command.args(["--objective", job.objective.name()]),
    };
    if job.replicas {
        command.arg("--replicas");
    }
    if let Some(stages) = job.stages {
        command.args(["--stages", &stages.to_string()]);
    }
    if let Some(cut) = job.cut {
        command.args(["--keep-order", "--cut", cut]);
    }
    command.arg("--cluster").arg(job.cluster);
    if let Some(trace) = job.trace {
        command.arg("--trace").arg(trace);
    }
    if let Some(window) = job.window {
        command.args(["--window", &window.to_string()]);
    }
    program.engine(&mut command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let started = Instant::now();
    let mut dispatcher = Dispatcher(devices.dispatch(&mut command)?);
    let stdout = dispatcher.0.stdout.take().context("a dispatcher without output")?;
    let lines = read(stdout)?;
    let said = listen(dispatcher.0.stderr.take().context("a dispatcher without messages")?)?;
    let taken = Watch { job, started, devices, interrupt, heard }.take(&lines)?;
    let status = dispatcher.0.wait().context("cannot wait for the dispatcher")?;
    if !status.success() {
        bail!(RunFailed(said.join().unwrap_or_default()));
    }
    taken.context("`defer run` ended without a report")
}

/// Ends the dispatcher when it is dropped before that ended by itself.
struct Dispatcher(Child);

impl Drop for Dispatcher {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            // Nothing of it is wanted any more; nodes notice that it is gone.
            let _ = self.0.kill();
            let _ = end(&mut self.0, Instant::now() + END_TIMEOUT);
        }
    }
}

/// Reads lines in a thread, each with its time, so that waiting for one can be interrupted.
fn read(stdout: ChildStdout) -> Result<Receiver<(Instant, String)>> {
    let (sender, lines) = bounded(WAITING_LINES);
    let read = move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send((Instant::now(), line)).is_err() {
                break;
            }
        }
    };
    std::thread::Builder::new().name("read".to_owned()).spawn(read).context("cannot start a thread")?;
    Ok(lines)
}

/// Shows what a dispatcher says, in a thread, and gives its error: in one line, without advice.
fn listen(stderr: ChildStderr) -> Result<JoinHandle<String>> {
    let listen = move || {
        let mut error: Vec<String> = Vec::new();
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            // Nobody reads it where there is no terminal any more.
            let _ = writeln!(io::stderr(), "{line}");
            match line.strip_prefix("error: ") {
                Some(begin) => error = vec![begin.to_owned()],
                None if !error.is_empty() => error.push(line),
                None => {}
            }
        }
        let advice = error.iter().position(|line| line.starts_with("hint: ")).unwrap_or(error.len());
        error[..advice].iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
    };
    std::thread::Builder::new().name("listen".to_owned()).spawn(listen).context("cannot start a thread")
}

/// Whoever watches a run.
struct Watch<'a> {
    job: &'a Job<'a>,
    started: Instant,
    devices: &'a Devices<'a>,
    interrupt: &'a Interrupt,
    heard: &'a mut dyn FnMut(usize) -> Result<()>,
}

impl Watch<'_> {
    /// Takes the lines of a run; `None` when it ends before its report.
    fn take(self, lines: &Receiver<(Instant, String)>) -> Result<Option<Streamed>> {
        let Watch { job, started, devices, interrupt, heard } = self;
        let look = || (Look::now(&devices.processes()), devices.usage());
        let mut arrivals: Vec<Instant> = Vec::new();
        let mut latencies: Vec<f64> = Vec::new();
        let (mut before, mut halfway, mut after) = (None, None, None);
        loop {
            interrupt.check()?;
            let (at, line) = match lines.recv_timeout(LOOK_PERIOD) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
            };
            match serde_json::from_str(&line).with_context(|| format!("`defer run` said {line}"))? {
                Line::Item { latency_ms } => {
                    arrivals.push(at);
                    latencies.push(latency_ms);
                    heard(arrivals.len())?;
                    if arrivals.len() == job.warm_up {
                        before = Some(look());
                    }
                    if arrivals.len() == job.warm_up + job.items / 2 {
                        halfway = Some(devices.usage());
                    }
                    if arrivals.len() == job.warm_up + job.items {
                        after = Some(look());
                    }
                }
                Line::Report { report } => {
                    let (Some((before, nodes_before)), Some(nodes_halfway), Some((after, nodes_after))) =
                        (before, halfway, after)
                    else {
                        bail!("only {} results came", arrivals.len());
                    };
                    // Neither what is done to devices nor another codec makes the machine slower.
                    let measured = |switch: &Switch| switch.item >= job.warm_up;
                    let as_planned =
                        devices.schedule.is_empty() && !report.codec_switches.iter().any(measured);
                    let cpu_drift = || {
                        let first = cpu_ms(&used(&nodes_before, &nodes_halfway, job.items / 2));
                        let second = cpu_ms(&used(&nodes_halfway, &nodes_after, job.items - job.items / 2));
                        second / first
                    };
                    let start = arrivals[job.warm_up - 1];
                    let since = |i: usize| (arrivals[job.warm_up - 1 + i] - start).as_secs_f64() * 1e3;
                    let (half, all) = (since(job.items / 2), since(job.items));
                    let drift =
                        (all - half) / (job.items - job.items / 2) as f64 / (half / (job.items / 2) as f64);
                    let measured = latencies[job.warm_up..][..job.items].to_vec();
                    return Ok(Some(Streamed {
                        report,
                        period_ms: all / job.items as f64,
                        drift,
                        latency_ms_p99: percentile(measured.clone(), 0.99),
                        latency_ms: median(measured),
                        first_result_ms: (arrivals[0] - started).as_secs_f64() * 1e3,
                        nodes: used(&nodes_before, &nodes_after, job.items),
                        disturbance: Disturbance {
                            cpu_drift: as_planned.then(cpu_drift),
                            ..after.since(&before)
                        },
                        arrivals,
                    }));
                }
            }
        }
    }
}

/// CPU time of all nodes for an item.
fn cpu_ms(nodes: &[NodeUse]) -> f64 {
    nodes.iter().map(|node| node.cpu_ms).sum()
}

/// What nodes took for each of so many items.
fn used(before: &[Usage], after: &[Usage], items: usize) -> Vec<NodeUse> {
    let used = |(before, after): (&Usage, &Usage)| NodeUse {
        node: after.node.clone(),
        cpu_ms: (after.cpu_time.saturating_sub(before.cpu_time)).as_secs_f64() * 1e3 / items as f64,
        peak_bytes: after.peak_bytes,
    };
    std::iter::zip(before, after).map(used).collect()
}

/// The median; 0 of nothing.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n => (values[(n - 1) / 2] + values[n / 2]) / 2.0,
    }
}

/// The value at this share of all, by the nearest rank; 0 of nothing.
pub(crate) fn percentile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (share * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_a_run_are_read() {
        let item = r#"{"item":0,"input":"random 0","latency_ms":2.5,"outputs":{}}"#;
        assert!(matches!(serde_json::from_str(item).unwrap(), Line::Item { latency_ms: 2.5 }));
        let prediction = r#"{"period_ms":4.0,"items_per_s":250.0,"latency_ms":9.0,"bottleneck":"a"}"#;
        let stage = r#"{"stage":1,"node":"a","engine":"e","predicted_share":1.0,"predicted_compute_ms":2.5,"predicted_busy_ms":3.0,"corrected_busy_ms":null,"timed":{"ms":2.0,"half_width_ms":0.125,"cpu_ms":1.5,"runs":9},"weight_bytes":7,"share":1.0,"compute_ms":0.5,"compute_cpu_ms":0.4,"encode_cpu_ms":0.1,"decode_cpu_ms":0.2,"move_cpu_ms":0.3,"in_bytes":4.0,"out_bytes":5.0,"codec":"raw"}"#;
        let link = r#"{"busy_ms":1.0,"delay_ms":0.0,"send_ms":0.5,"receive_ms":0.25,"encodes":true}"#;
        let report = format!(
            r#"{{"report":{{"predicted":{prediction},"corrected":null,"input_codec":"raw","stages":[{stage}],"links":[{link},{link}],"window":4,"shipped_wire_bytes":9}}}}"#
        );
        let Line::Report { report } = serde_json::from_str(&report).unwrap() else { panic!("no report") };
        assert_eq!((report.predicted.period_ms, report.stages[0].predicted_busy_ms), (4.0, 3.0));
        assert_eq!(report.stages[0].timed.map(|timed| (timed.ms, timed.runs)), Some((2.0, 9)));
        assert_eq!(report.stages[0].steps.unwrap().each(), [0.4, 0.1, 0.2, 0.3]);
        assert!(report.corrected.is_none());
    }

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), 0.0);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0]), 2.5);
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!((percentile(hundred.clone(), 0.99), percentile(hundred, 1.0)), (99.0, 100.0));
        assert_eq!((percentile(vec![], 0.5), percentile(vec![3.0], 0.01)), (0.0, 3.0));
    }
}
