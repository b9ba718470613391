//! A chain over two real nodes under CPU quotas, by the command that runs the experiment. Needs root, and the `defer`
//! command beside this one; `DEFER_TEST_WITHOUT_QUOTAS=1` leaves it out.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

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

#[expect(
    clippy::disallowed_methods,
    reason = "as the tests over namespaces: what this machine cannot do, is said here"
)]
fn may_be_left_out() -> bool {
    ["DEFER_TEST_WITHOUT_ROOT", "DEFER_TEST_WITHOUT_QUOTAS"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|v| v == "1"))
}

#[test]
fn two_devices_with_quotas() {
    if may_be_left_out() {
        // Not captured, unlike what is printed.
        let _ = std::io::stderr()
            .write_all(b"*** SKIPPED: accuracy: DEFER_TEST_WITHOUT_QUOTAS or _ROOT is set ***\n");
        return;
    }
    let testbed = Path::new(env!("CARGO_BIN_EXE_defer-testbed"));
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
    fs::write(&experiment, EXPERIMENT).unwrap();

    // What a crashed run left behind: the group of a process that is no more.
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    let version_1 = Path::new("/sys/fs/cgroup/cpu");
    let root = if version_1.exists() { version_1 } else { Path::new("/sys/fs/cgroup") };
    let group = |process: u32| root.join(format!("defer-testbed-{process}"));
    let stale = group(gone.id());
    fs::create_dir(&stale).expect("needs root, or DEFER_TEST_WITHOUT_ROOT=1");
    fs::create_dir(stale.join("two-1")).unwrap();

    let running =
        Command::new(testbed).arg("accuracy").arg(&experiment).stderr(Stdio::piped()).spawn().unwrap();
    let own = group(running.id());
    let ended = running.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(!stale.exists() && !own.exists(), "groups are left");

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
}
