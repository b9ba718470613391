//! `--trace`: when each step of each item began and ended, as a file that ui.perfetto.dev and chrome://tracing show.
//!
//! The trace-event format: a process for the dispatcher and each node, a thread for each step, a complete event for each
//! item. Times are in microseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use pipeline::{Trace, TracedProcess, TracedStep};
use serde::Serialize;

use super::printable;

/// A file that a trace will be written to. Until then it stays as it is; one that was not there goes again when nothing
/// is written.
pub(crate) struct TraceFile {
    path: PathBuf,
    file: File,
    is_new: bool,
}

impl TraceFile {
    /// Makes the file: whether that is possible is better known before a run than after it.
    pub(crate) fn create(path: &Path) -> Result<TraceFile> {
        let new = File::options().write(true).create_new(true).open(path);
        let (is_new, file) = match new {
            // A link to nowhere is there, too.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                (false, File::options().write(true).create(true).truncate(false).open(path))
            }
            new => (true, new),
        };
        let file = file.with_context(|| format!("cannot make the file `{}`", path.display()))?;
        Ok(TraceFile { path: path.to_owned(), file, is_new })
    }

    pub(crate) fn write(mut self, model: &str, trace: &Trace) -> Result<()> {
        let written = self.put(&document(model, trace));
        written.with_context(|| format!("cannot write the file `{}`", self.path.display()))
    }

    fn put(&mut self, document: &Document<'_>) -> std::io::Result<()> {
        // Pipes and terminals have nothing to cut off.
        if self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
        }
        self.is_new = false;
        let mut out = BufWriter::new(&self.file);
        serde_json::to_writer(&mut out, document)?;
        out.flush()
    }
}

impl Drop for TraceFile {
    fn drop(&mut self) {
        if self.is_new {
            // An empty file that stays harms nobody.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    trace_events: Vec<Event>,
    display_time_unit: &'static str,
    other_data: Metadata<'a>,
}

/// What there is to say of all of it.
#[derive(Serialize)]
struct Metadata<'a> {
    defer: &'static str,
    model: &'a str,
    /// By process: how far its moments may be off those of the dispatcher.
    clock_error_us: BTreeMap<String, f64>,
    /// By process, where there are any: the first steps, of which there were too many to keep.
    lost_steps: BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct Event {
    ph: char,
    pid: usize,
    tid: usize,
    name: String,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    timing: Option<Timing>,
    args: Args,
}

#[derive(Serialize)]
struct Timing {
    cat: &'static str,
    ts: f64,
    dur: f64,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Args {
    Name { name: String },
    Place { sort_index: usize },
    Item { item: u64, bytes: u64 },
}

fn document<'a>(model: &'a str, trace: &Trace) -> Document<'a> {
    let mut events = Vec::new();
    for (i, process) in trace.processes.iter().enumerate() {
        let pid = i + 1;
        let name = label(process);
        events.push(about(pid, 0, "process_name", Args::Name { name }));
        events.push(about(pid, 0, "process_sort_index", Args::Place { sort_index: pid }));
        let steps: BTreeSet<_> = process.steps.iter().map(|step| step.step).collect();
        for step in steps {
            let tid = step as usize + 1;
            events.push(about(pid, tid, "thread_name", Args::Name { name: step.name().to_owned() }));
            events.push(about(pid, tid, "thread_sort_index", Args::Place { sort_index: tid }));
        }
        events.extend(process.steps.iter().map(|step| event(pid, step)));
    }
    let processes = || trace.processes.iter().map(|process| (printable(&process.name), process));
    Document {
        trace_events: events,
        display_time_unit: "ms",
        other_data: Metadata {
            defer: env!("CARGO_PKG_VERSION"),
            model,
            clock_error_us: processes().map(|(name, p)| (name, micros(p.clock_error))).collect(),
            lost_steps: processes().map(|(name, p)| (name, p.lost)).filter(|(_, lost)| *lost > 0).collect(),
        },
    }
}

fn label(process: &TracedProcess) -> String {
    let name = printable(&process.name);
    process.stage.map_or(name.clone(), |stage| format!("{name} (stage {})", stage + 1))
}

fn about(pid: usize, tid: usize, what: &str, args: Args) -> Event {
    Event { ph: 'M', pid, tid, name: what.to_owned(), timing: None, args }
}

fn event(pid: usize, step: &TracedStep) -> Event {
    let TracedStep { item, step, start, length, bytes } = *step;
    let timing = Timing { cat: step.name(), ts: micros(start), dur: micros(length) };
    // Viewers give the same colour to the same name: an item can be followed from node to node.
    let name = format!("item {item}");
    let args = Args::Item { item, bytes };
    Event { ph: 'X', pid, tid: step as usize + 1, name, timing: Some(timing), args }
}

fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use wire::control::Step;

    #[test]
    fn a_trace_is_written_as_viewers_read_it() {
        let step = |step, start: u64| TracedStep {
            item: 3,
            step,
            start: Duration::from_nanos(start),
            length: Duration::from_nanos(2_500),
            bytes: 9,
        };
        let process = |name: &str, stage, lost, steps| TracedProcess {
            name: name.to_owned(),
            stage,
            clock_error: Duration::from_micros(7 * lost),
            lost,
            steps,
        };
        let trace = Trace {
            processes: vec![
                process("dispatcher", None, 0, vec![step(Step::Send, 1_250)]),
                process("a\u{1b}", Some(0), 2, vec![step(Step::Receive, 5_000), step(Step::Compute, 9_000)]),
            ],
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.json");
        TraceFile::create(&path).unwrap().write("m", &trace).unwrap();
        let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let events = written["traceEvents"].as_array().unwrap();
        let of = |ph: &str| events.iter().filter(|event| event["ph"] == ph).cloned().collect::<Vec<_>>();
        assert_eq!(
            of("X"),
            [
                json!({"ph": "X", "pid": 1, "tid": 5, "name": "item 3", "cat": "send", "ts": 1.25, "dur": 2.5,
                       "args": {"item": 3, "bytes": 9}}),
                json!({"ph": "X", "pid": 2, "tid": 1, "name": "item 3", "cat": "receive", "ts": 5.0, "dur": 2.5,
                       "args": {"item": 3, "bytes": 9}}),
                json!({"ph": "X", "pid": 2, "tid": 3, "name": "item 3", "cat": "compute", "ts": 9.0, "dur": 2.5,
                       "args": {"item": 3, "bytes": 9}}),
            ]
        );
        let named = |what: &str| {
            let of = of("M").into_iter().filter(|event| event["name"] == what);
            of.map(|event| event["args"]["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(named("process_name"), ["dispatcher", "a\u{fffd} (stage 1)"]);
        assert_eq!(named("thread_name"), ["send", "receive", "compute"]);
        let about = &written["otherData"];
        assert_eq!(about["clock_error_us"], json!({"dispatcher": 0.0, "a\u{fffd}": 14.0}));
        assert_eq!((&about["lost_steps"], &about["model"]), (&json!({"a\u{fffd}": 2}), &json!("m")));
        assert!(TraceFile::create(folder.path()).is_err(), "a folder is no file");
        // Where there is nothing to write, all is as before; and what is shorter leaves nothing of what was longer.
        drop(TraceFile::create(&path).unwrap());
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(&std::fs::read(&path).unwrap()).unwrap(),
            written
        );
        TraceFile::create(&path).unwrap().write("m", &Trace { processes: vec![] }).unwrap();
        let shorter: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(shorter["traceEvents"], json!([]));
        let unwritten = folder.path().join("unwritten.json");
        drop(TraceFile::create(&unwritten).unwrap());
        assert!(!unwritten.exists());
    }
}
