//! A chain over two real nodes under CPU quotas, by the command that runs the experiment. Needs root, and the `defer`
//! command beside this one; `DEFER_TEST_WITHOUT_QUOTAS=1` leaves it out, and `DEFER_TEST_WITHOUT_LINKS=1` its links.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{groups, left_of, left_out, testbed};

const EXPERIMENT: &str = r#"
version = 1
engine = "rten"
repeats = 1
attempts = 1
warm_up = 8
items = 24
[[cluster]]
name = "two"
devices = [
    { quota = 0.3, idle_watts = 1.0, busy_watts = 2.0 },
    { quota = 0.5, idle_watts = 1.0, busy_watts = 2.0 },
]
[[run]]
cluster = "two"
models = ["resnet20_mnist"]
objectives = ["throughput"]
"#;

/// One test for both, as they would slow each other down.
#[test]
fn two_devices_with_quotas() {
    if left_out("accuracy", &["DEFER_TEST_WITHOUT_ROOT", "DEFER_TEST_WITHOUT_QUOTAS"]) {
        return;
    }
    check(EXPERIMENT);
    if left_out("accuracy over links", &["DEFER_TEST_WITHOUT_LINKS"]) {
        return;
    }
    // On links of their own, so slow that they limit the chain.
    let network = "network = { mbit_s = 100, links = [{ from = 'dispatcher', to = 1, mbit_s = 0.5 }, \
                   { from = 'dispatcher', to = 2, mbit_s = 0.5 }] }\n[[run]]";
    let row = check(&EXPERIMENT.replace("[[run]]", network));
    // An image has 784 values, which take a byte each at least.
    assert!(row["period_ms"].as_f64().unwrap() > 784.0 * 8.0 / 500.0, "{row}");
}

/// Runs an experiment of one run, and gives its row.
fn check(text: &str) -> serde_json::Value {
    let testbed = testbed();
    assert!(
        testbed.with_file_name("defer").exists(),
        "`cargo build --release -p cli` makes the command `defer`"
    );
    let folder = tempfile::tempdir().unwrap();
    let experiments = folder.path().join("experiments");
    fs::create_dir(&experiments).unwrap();
    symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models"), folder.path().join("models"))
        .unwrap();
    let experiment = experiments.join("accuracy.toml");
    fs::write(&experiment, text).unwrap();

    // What a crashed run left behind: the group of a process that is no more.
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    let stale = groups().join(format!("defer-testbed-{}-1", gone.id()));
    fs::create_dir(&stale).expect("needs root, or DEFER_TEST_WITHOUT_ROOT=1");
    fs::create_dir(stale.join("two-1")).unwrap();

    let running =
        Command::new(testbed).arg("accuracy").arg(&experiment).stderr(Stdio::piped()).spawn().unwrap();
    let own = running.id();
    let ended = running.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(!stale.exists(), "the group of a crashed testbed is left");
    assert!(left_of(own).is_empty(), "{:?} are left", left_of(own));

    let rows = fs::read_to_string(experiments.join("results/accuracy.ndjson")).unwrap();
    let row: serde_json::Value = serde_json::from_str(rows.trim()).unwrap();
    for figure in ["predicted_period_ms", "corrected_period_ms", "period_ms", "modelled_joules"] {
        assert!(row[figure].as_f64().is_some_and(|value| value > 0.0), "{figure}: {row}");
    }
    // A stage's CPU time for an item cannot exceed its quota of the period by more than the slack of the scheduler.
    for stage in row["stages"].as_array().unwrap() {
        let value = |key: &str| stage[key].as_f64().unwrap();
        let used = value("cpu_ms") / (value("quota") * row["period_ms"].as_f64().unwrap());
        assert!(used > 0.0 && used < 1.5, "{used} of the quota: {row}");
    }
    assert!(fs::read_to_string(experiments.join("accuracy.md")).unwrap().contains("resnet20_mnist"));
    row
}
