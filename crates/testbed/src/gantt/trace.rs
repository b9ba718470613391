//! Reads what `defer run --trace` wrote: of the trace-event format only what that uses. Pure.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// No trace is longer, us: thirty years.
const LONGEST_US: f64 = 1e15;

/// The steps of items on all machines of a chain.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Trace {
    pub(super) model: String,
    /// In the order of the chain, the dispatcher first.
    pub(super) lanes: Vec<Lane>,
    /// How far a lane's times may be off those of another one at most, ms.
    pub(super) clock_error_ms: f64,
}

/// What one process did.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Lane {
    pub(super) name: String,
    pub(super) bars: Vec<Bar>,
}

/// One step of one item, times in ms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bar {
    pub(super) item: u64,
    pub(super) step: Step,
    pub(super) start: f64,
    pub(super) end: f64,
}

/// What is done for an item, in this order.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub(super) enum Step {
    Receive,
    Decode,
    Compute,
    Encode,
    Send,
}

impl Step {
    pub(super) const ALL: [Step; 5] = [Step::Receive, Step::Decode, Step::Compute, Step::Encode, Step::Send];

    pub(super) fn name(self) -> &'static str {
        match self {
            Step::Receive => "receive",
            Step::Decode => "decode",
            Step::Compute => "compute",
            Step::Encode => "encode",
            Step::Send => "send",
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    trace_events: Vec<Event>,
    other_data: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    model: String,
    clock_error_us: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
#[serde(tag = "ph")]
enum Event {
    #[serde(rename = "M")]
    About { pid: usize, name: String, args: About },
    #[serde(rename = "X")]
    Step { pid: usize, cat: Step, ts: f64, dur: f64, args: Item },
}

#[derive(Deserialize)]
struct About {
    name: Option<String>,
}

#[derive(Deserialize)]
struct Item {
    item: u64,
}

impl Trace {
    /// # Errors
    /// When the text is no such trace.
    pub(super) fn read(text: &str) -> Result<Trace> {
        let document: Document =
            serde_json::from_str(text).context("this is no trace that `defer run --trace` wrote")?;
        let mut lanes: BTreeMap<usize, Lane> = BTreeMap::new();
        for event in document.trace_events {
            match event {
                Event::About { pid, name, args: About { name: Some(of) } } if name == "process_name" => {
                    lane(&mut lanes, pid).name = of;
                }
                Event::About { .. } => {}
                Event::Step { pid, cat, ts, dur, args: Item { item } } => {
                    let range = 0.0..=LONGEST_US;
                    ensure!(
                        range.contains(&ts) && range.contains(&dur),
                        "a step that begins at {ts} us and takes {dur} us"
                    );
                    let (start, end) = (ts / 1e3, (ts + dur) / 1e3);
                    lane(&mut lanes, pid).bars.push(Bar { item, step: cat, start, end });
                }
            }
        }
        let mut errors: Vec<f64> = document.other_data.clock_error_us.into_values().collect();
        errors.sort_by(f64::total_cmp);
        // Of two lanes both may be off.
        let clock_error_ms = errors.iter().rev().take(2).sum::<f64>() / 1e3;
        Ok(Trace { model: document.other_data.model, lanes: lanes.into_values().collect(), clock_error_ms })
    }

    /// The first item of which no lane lost anything.
    pub(super) fn first_whole(&self) -> Option<u64> {
        let first = |lane: &Lane| lane.bars.iter().map(|bar| bar.item).min();
        // One more than the first that is there: of that one the first steps may have been lost.
        let firsts: Option<Vec<u64>> = self.lanes.iter().map(first).collect();
        let first = firsts?.into_iter().max()?;
        Some(if first == 0 { 0 } else { (first + 1).min(self.last()?) }).filter(|_| self.last().is_some())
    }

    /// The last item that went through the whole chain.
    pub(super) fn last(&self) -> Option<u64> {
        let last = |lane: &Lane| lane.bars.iter().map(|bar| bar.item).max();
        let lasts: Option<Vec<u64>> = self.lanes.iter().map(last).collect();
        lasts?.into_iter().min()
    }
}

/// The lane of a process, which has its number for a name until it has another one.
fn lane(lanes: &mut BTreeMap<usize, Lane>, pid: usize) -> &mut Lane {
    lanes.entry(pid).or_insert_with(|| Lane { name: pid.to_string(), bars: Vec::new() })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A step, times in ms.
    pub(crate) fn event(pid: usize, step: &str, item: u64, start: f64, length: f64) -> String {
        let (ts, dur) = (start * 1e3, length * 1e3);
        format!(
            r#"{{"ph":"X","pid":{pid},"tid":3,"name":"item {item}","cat":"{step}","ts":{ts:?},"dur":{dur:?},"args":{{"item":{item},"bytes":0}}}}"#
        )
    }

    /// A trace of some events and so many processes.
    pub(crate) fn document(events: &[String], processes: usize) -> String {
        let name = |pid: usize| {
            format!(
                r#"{{"ph":"M","pid":{pid},"tid":0,"name":"process_name","args":{{"name":"node <{pid}>"}}}},{{"ph":"M","pid":{pid},"tid":0,"name":"process_sort_index","args":{{"sort_index":{pid}}}}}"#
            )
        };
        let all: Vec<String> = (1..=processes).map(name).chain(events.iter().cloned()).collect();
        let errors = r#"{"a":0.0,"b":150.0,"c":250.0}"#;
        let about = format!(r#"{{"defer":"1","model":"m","clock_error_us":{errors},"lost_steps":{{}}}}"#);
        let events = all.join(",");
        format!(r#"{{"traceEvents":[{events}],"displayTimeUnit":"ms","otherData":{about}}}"#)
    }

    #[test]
    fn what_was_written_is_read() {
        let events = [event(2, "compute", 7, 1.5, 2.0), event(1, "send", 7, 0.5, 0.25)];
        let trace = Trace::read(&document(&events, 2)).unwrap();
        let names: Vec<&str> = trace.lanes.iter().map(|lane| lane.name.as_str()).collect();
        assert_eq!((names, trace.model.as_str()), (vec!["node <1>", "node <2>"], "m"));
        assert_eq!(trace.lanes[1].bars, [Bar { item: 7, step: Step::Compute, start: 1.5, end: 3.5 }]);
        assert_eq!(trace.clock_error_ms, 0.4, "two of them may be off");
        assert_eq!((trace.first_whole(), trace.last()), (Some(7), Some(7)));
    }

    #[test]
    fn what_is_no_trace_is_refused() {
        let good = document(&[event(1, "compute", 7, 1.5, 2.0)], 1);
        for (from, to) in [
            ("traceEvents", "events"),
            ("\"compute\"", "\"sleep\""),
            ("1500.0", "-1.0"),
            ("1500.0", "1e300"),
            ("1500.0", "\"soon\""),
            ("\"ph\":\"X\"", "\"ph\":\"Y\""),
        ] {
            assert!(Trace::read(&good).is_ok() && good.contains(from));
            assert!(Trace::read(&good.replace(from, to)).is_err(), "{to}");
        }
    }
}
