//! An experiment on two real nodes by the command that runs it, gone on with where it was left. Needs root, and the
//! `defer` command beside this one; `DEFER_TEST_WITHOUT_QUOTAS=1` leaves it out.

mod common;

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{left_of, left_out, testbed};
use serde_json::Value;

const EXPERIMENT: &str = r#"
version = 1
title = "Two devices"
engine = "rten"
repeats = 2
attempts = 1
warm_up = 8
items = 240
[[cluster]]
name = "two"
devices = [{ quota = 0.3, idle_watts = 1.0, busy_watts = 2.0, count = 2 }]
[[configuration]]
name = "one"
stages = 1
[[configuration]]
name = "bytes"
cut = "functional_1/re_lu_8_1/Relu:0"
codec = "u8"
memory_mb = 200
[[run]]
clusters = ["two"]
models = ["resnet20_mnist"]
configurations = CONFIGURATIONS
"#;

#[test]
fn an_experiment_is_gone_on_with() {
    let names = ["DEFER_TEST_WITHOUT_ROOT", "DEFER_TEST_WITHOUT_QUOTAS"];
    if left_out("grid", &names) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let experiments = folder.path().join("experiments");
    fs::create_dir(&experiments).unwrap();
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    symlink(&models, folder.path().join("models")).unwrap();
    let file = experiments.join("two.toml");
    let run = |configurations: &str| {
        fs::write(&file, EXPERIMENT.replace("CONFIGURATIONS", configurations)).unwrap();
        let mut command = Command::new(testbed());
        command
            .arg("run")
            .arg(&file)
            .args(["--repeats", "1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let running = command.spawn().unwrap();
        let process = running.id();
        let run = running.wait_with_output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        assert_eq!(left_of(process), [""; 0].map(PathBuf::from));
        fs::read_to_string(experiments.join("results/two.ndjson")).unwrap()
    };
    let first = run(r#"["one"]"#);
    assert_eq!(first.lines().count(), 1);
    let both = run(r#"["one", "bytes"]"#);
    assert!(both.starts_with(&first), "what was there is kept");
    let rows: Vec<Value> = both.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let stages = |row: &Value| row["stages"].as_array().unwrap().clone();
    assert_eq!((stages(&rows[0]).len(), stages(&rows[1]).len()), (1, 2));
    for row in &rows {
        assert!(row["period_ms"].as_f64().unwrap() > 0.0);
        // What keeps the cores awake takes all that is left of them, and disturbs nobody.
        assert!(row["machine"].as_str().unwrap().ends_with("kept awake"), "{row}");
        let foreign = row["disturbance"]["foreign_cores"].as_f64().unwrap();
        assert!(foreign < 0.5 * std::thread::available_parallelism().unwrap().get() as f64, "{foreign}");
        // Between the halves of the run, whatever it is on a machine that does other things, too.
        let drift = row["disturbance"]["cpu_drift"].as_f64().unwrap();
        assert!((0.1..10.0).contains(&drift), "{drift}");
        for stage in stages(row) {
            let figure = |name: &str| stage[name].as_f64().unwrap();
            let peak_mb = figure("peak_bytes") / 1e6;
            assert!((1.0..200.0).contains(&peak_mb), "{peak_mb} MB");
            // A node takes at least what its engine does, and no more than its quota: the items take many periods of
            // the quota, within one of which it may have taken the share of two.
            let quota_used = figure("cpu_ms") / row["period_ms"].as_f64().unwrap() / figure("quota");
            assert!((0.01..1.2).contains(&quota_used), "{quota_used} of the quota");
            assert!(figure("modelled_joules") > 0.0);
        }
    }
    assert_eq!(stages(&rows[1])[0]["memory_mb"], 200);
    let nodes: HashSet<String> = stages(&rows[1]).iter().map(|stage| stage["node"].to_string()).collect();
    assert_eq!(nodes.len(), 2);
    // The inner link carries bytes in place of floats.
    let bytes = |stage: &Value, name: &str| stage[name].as_f64().unwrap();
    assert_eq!(stages(&rows[1])[0]["codec"], "u8");
    assert!(bytes(&stages(&rows[1])[0], "out_bytes") < 25_088.0 / 3.0);
    assert_eq!(run(r#"["one", "bytes"]"#), both, "nothing is done again");
    let page = fs::read_to_string(experiments.join("two.md")).unwrap();
    assert!(page.contains("# Two devices") && page.contains("## resnet20_mnist, two"), "{page}");
    let refused = |more: &[&str], reasons: &[&str]| {
        let run =
            Command::new(testbed()).arg("run").arg(&file).args(more).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&run.stderr);
        assert!(!run.status.success() && reasons.iter().all(|reason| said.contains(reason)), "{said}");
    };
    // Somebody else is at it.
    let held = fs::File::open(&file).unwrap();
    held.lock().unwrap();
    refused(&[], &["two.toml", "is being run already"]);
    drop(held);
    refused(&["--cluster", "three"], &["two.toml", "nothing on a cluster `three`"]);
    // What cannot run takes nothing away, even if all is to be done again.
    refused(&["--fresh", "--defer", "/no/such/program"], &["/no/such/program"]);
    assert_eq!(fs::read_to_string(experiments.join("results/two.ndjson")).unwrap(), both);
    fs::write(&file, EXPERIMENT.replace("CONFIGURATIONS", r#"["one"]"#).replace("items = 240", "items = 24"))
        .unwrap();
    refused(&[], &["two.ndjson", "line 1 is of a run with 8 items to warm up and 240 to measure", "--fresh"]);
    // Runs of another machine are none to go on with.
    let mut row = rows[0].clone();
    row["machine"] = "another one".into();
    fs::write(experiments.join("results/two.ndjson"), format!("{row}\n")).unwrap();
    fs::write(&file, EXPERIMENT.replace("CONFIGURATIONS", r#"["one"]"#)).unwrap();
    refused(&[], &["another one", "--fresh"]);
}
