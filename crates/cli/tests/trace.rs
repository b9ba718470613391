//! `defer run --trace`: what each node did for each item, on one axis of time.

mod common;

use std::collections::BTreeMap;

use common::{FAILED, Place, RESNET, vendored};
use serde_json::Value;

/// Begin and end of each step, microseconds: by process, from the dispatcher on, then by item and step.
type Steps = Vec<BTreeMap<(u64, String), (f64, f64)>>;

/// Steps of an item, in their order.
type Names = &'static [&'static str];

/// Runs the digits twice over three nodes and reads the trace.
fn traced(codec: &str) -> (Steps, BTreeMap<String, f64>) {
    let place = Place::new();
    let (file, model, inputs) = (place.path("trace.json"), vendored(RESNET), vendored("digits"));
    let args = ["--spawn", "3", &model, &inputs, "--repeat", "2", "--codec", codec, "--trace", &file];
    place.run(&args).succeeded();
    let trace: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(trace["otherData"]["lost_steps"], serde_json::json!({}));
    let mut steps = vec![BTreeMap::new(); 4];
    for event in trace["traceEvents"].as_array().unwrap().iter().filter(|event| event["ph"] == "X") {
        let key = (event["args"]["item"].as_u64().unwrap(), event["cat"].as_str().unwrap().to_owned());
        let start = event["ts"].as_f64().unwrap();
        let span = (start, start + event["dur"].as_f64().unwrap());
        let process = event["pid"].as_u64().unwrap() as usize - 1;
        assert!(steps[process].insert(key, span).is_none(), "a step is there once: {event}");
    }
    let errors = trace["otherData"]["clock_error_us"].as_object().unwrap();
    let errors = errors.iter().map(|(name, error)| (name.clone(), error.as_f64().unwrap())).collect();
    (steps, errors)
}

/// What one item went through on the chain, in its order.
fn way(steps: &Steps, item: u64, of_node: Names, ends: [Names; 2]) -> Vec<(usize, f64, f64)> {
    let of = |process: usize, names: &[&str]| {
        let span = |name: &&str| {
            let (start, end) = steps[process]
                .get(&(item, (*name).to_owned()))
                .unwrap_or_else(|| panic!("process {process} has no {name} of item {item}"));
            (process, *start, *end)
        };
        names.iter().map(span).collect::<Vec<_>>()
    };
    let nodes = (1..=3).flat_map(|node| of(node, of_node));
    of(0, ends[0]).into_iter().chain(nodes).chain(of(0, ends[1])).collect()
}

#[test]
fn each_item_takes_each_step_once_and_in_order() {
    let cases: [(&str, Names, [Names; 2]); 2] = [
        ("raw", &["receive", "compute", "send"], [&["send"], &["receive"]]),
        (
            "zstd1",
            &["receive", "decode", "compute", "encode", "send"],
            [&["encode", "send"], &["receive", "decode"]],
        ),
    ];
    for (codec, of_node, ends) in cases {
        let (steps, errors) = traced(codec);
        assert_eq!(errors.len(), 4, "{errors:?}");
        assert_eq!(errors["dispatcher"], 0.0);
        // All on one machine: a round trip of the control plane bounds the error.
        let most = errors.values().fold(0.0, |most: f64, error| most.max(*error));
        assert!(most > 0.0 && most < 50_000.0, "{errors:?}");
        for (process, steps) in steps.iter().enumerate() {
            let names = if process == 0 { [ends[0], ends[1]].concat() } else { of_node.to_vec() };
            assert_eq!(steps.len(), 20 * names.len(), "{codec}, process {process}: {steps:?}");
        }
        for item in 0..20 {
            let way = way(&steps, item, of_node, ends);
            for step in &way {
                assert!(step.1 <= step.2, "{codec}: item {item} ends a step before it begins: {way:?}");
            }
            for pair in way.windows(2) {
                // What a step needs is begun before it; within a process to the nanosecond, else as clocks allow. A frame
                // may be there before its sender sees that it is sent.
                let same = pair[0].0 == pair[1].0;
                let slack = if same { 0.01 } else { 2.0 * most };
                assert!(pair[0].1 <= pair[1].1 + slack, "{codec}: item {item} out of order: {way:?}");
                assert!(
                    !same || pair[0].2 <= pair[1].2 + slack,
                    "{codec}: item {item} out of order: {way:?}"
                );
            }
        }
        // One thread does a step: an item after another.
        for (process, steps) in steps.iter().enumerate() {
            for name in ["compute", "decode", "encode"] {
                let mut spans: Vec<_> =
                    steps.iter().filter(|((_, step), _)| step == name).map(|(_, span)| *span).collect();
                spans.sort_by(|a, b| a.0.total_cmp(&b.0));
                let overlap = spans.windows(2).find(|pair| pair[0].1 > pair[1].0 + 0.01);
                assert_eq!(overlap, None, "{codec}, process {process}: {name}");
            }
        }
    }
}

#[test]
fn a_trace_that_cannot_be_written_is_no_run() {
    let place = Place::new();
    let (file, model, inputs) = (place.path("none/trace.json"), vendored(RESNET), vendored("digits"));
    let args = ["run", "--spawn", "2", &model, &inputs, "--trace", &file];
    place.fails(&args, FAILED, &["none/trace.json", "hint: --trace takes a file"]);
}
