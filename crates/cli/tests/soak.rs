//! 20,000 small items through three nodes: every answer right and in order, and the memory of every process flat.

mod common;

use std::fs;
use std::path::Path;

use common::{Node, Place, announce, npy};
use rustix::process::Pid;
use serde_json::Value;

const INPUTS: usize = 250;
const REPEAT: usize = 80;
const ITEMS: usize = INPUTS * REPEAT;

/// When memory is looked at. After the second the dispatcher still has some 500 answers to print: more than fit
/// into the pipe, so that it is there to be looked at.
const WARM: usize = 5_000;
const NEARLY_DONE: usize = ITEMS - 600;

/// How much more memory a process may have at the second look, and how much of it, the larger of the two.
const MAX_GROWTH_BYTES: u64 = 2 << 20;
const MAX_GROWTH: f64 = 0.03;

/// Values of the tensor in one item.
const LEN: usize = 1024;

/// The input of one item, a whole number at `i`.
fn input(item: usize, i: usize) -> i64 {
    ((item * 31 + i * 17) % 101) as i64 - 50
}

/// What `models/known.onnx` computes, as `make_models.py` defines it.
fn known(item: usize) -> Vec<f64> {
    let term = |row: i64, i: usize| {
        let positive = (3 * input(item, i) + (i % 7) as i64 - 3).max(0);
        (positive + row - 40).abs() * ((i % 5) as i64 - 2)
    };
    (0..4).map(|row| (0..LEN).map(|i| term(row, i)).sum::<i64>() as f64).collect()
}

/// Resident memory, bytes.
fn resident(pid: Pid) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{}/statm", pid.as_raw_nonzero())).unwrap();
    let pages: u64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size() as u64
}

#[test]
fn many_items_leave_nothing_in_memory() {
    let place = Place::new();
    let nodes: Vec<Node> = ["a", "b", "c"].iter().map(|name| place.node(name, &["--threads", "1"])).collect();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/known.onnx");
    let write = |item: usize| {
        let values: Vec<f32> = (0..LEN).map(|i| input(item, i) as f32).collect();
        place.file(&format!("{item}.npy"), npy("(1, 1024)", &values))
    };
    let inputs: Vec<String> = (0..INPUTS).map(write).collect();
    let expected: Vec<Vec<f64>> = (0..INPUTS).map(known).collect();
    assert!(
        expected.windows(2).all(|pair| pair[0] != pair[1]),
        "neighbours must differ, else order is not seen"
    );

    let repeat = REPEAT.to_string();
    let flags = ["run", "--json", "--engine", "rten", "--group", place.group(), "--repeat", &repeat];
    let cuts = ["--cut", "shifted,weighted", model.to_str().unwrap()];
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let mut run = place.start(&[&flags[..], &cuts, &inputs].concat());
    let processes: Vec<(&str, Pid)> = [("dispatcher", run.pid())]
        .into_iter()
        .chain(["a", "b", "c"].into_iter().zip(nodes.iter().map(|node| node.process.pid())))
        .collect();
    let look = || processes.iter().map(|&(_, pid)| resident(pid)).collect::<Vec<u64>>();

    let (mut warm, mut done) = (Vec::new(), Vec::new());
    for item in 0..ITEMS {
        match item {
            WARM => warm = look(),
            NEARLY_DONE => done = look(),
            _ => {}
        }
        let line = run.line().unwrap_or_else(|| panic!("it ended at {item}:\n{}", run.stderr()));
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(answer["item"], item);
        assert_eq!(answer["outputs"]["y"]["data"], Value::from(&expected[item % INPUTS][..]), "item {item}");
    }
    let (_, report) = run.end().succeeded().results();
    assert_eq!(report["items"], ITEMS);
    assert_eq!(report["stages"].as_array().unwrap().len(), 3);
    for ((name, _), (&warm, &done)) in processes.iter().zip(warm.iter().zip(&done)) {
        let [warm_kib, done_kib] = [warm >> 10, done >> 10];
        announce(&format!("{name}: {warm_kib} KiB after {WARM} items, {done_kib} KiB after {NEARLY_DONE}"));
        let limit = MAX_GROWTH_BYTES.max((warm as f64 * MAX_GROWTH) as u64);
        assert!(done <= warm + limit, "{name} grew from {warm} to {done} bytes");
    }
    nodes.into_iter().for_each(Node::stop);
}
