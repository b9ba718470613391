//! An experiment on emulated devices and links that is killed at random moments: the next command finds and removes
//! all of it. Needs root, and the `defer` command beside this one; `DEFER_TEST_WITHOUT_QUOTAS=1` or `_LINKS=1` leaves
//! it out.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{left_of, left_out, testbed};

const EXPERIMENT: &str = r#"
version = 1
engine = "rten"
repeats = 1
attempts = 1
warm_up = 8
items = 1000000
[[cluster]]
name = "two"
devices = [
    { quota = 0.3, idle_watts = 1.0, busy_watts = 2.0 },
    { quota = 0.5, idle_watts = 1.0, busy_watts = 2.0 },
]
network = { mbit_s = 100, DELAYS dispatcher_mbit_s = 1000, links = [{ from = 1, to = 2, mbit_s = 20 }] }
[[run]]
cluster = "two"
models = ["resnet20_mnist"]
objectives = ["throughput"]
"#;

/// How often it is killed, and at which moments at the latest: it is under way long before.
const KILLS: usize = 12;
const LATEST: Duration = Duration::from_secs(4);

#[test]
fn nothing_is_left_of_a_killed_testbed() {
    let names = ["DEFER_TEST_WITHOUT_ROOT", "DEFER_TEST_WITHOUT_QUOTAS", "DEFER_TEST_WITHOUT_LINKS"];
    if left_out("crash", &names) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let experiments = folder.path().join("experiments");
    fs::create_dir(&experiments).unwrap();
    symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models"), folder.path().join("models"))
        .unwrap();
    let experiment = experiments.join("accuracy.toml");

    let seed = fastrand::u64(..);
    let mut moments = fastrand::Rng::with_seed(seed);
    let mut found = 0;
    for kill in 0..KILLS {
        // Half of the networks have links that are relayed.
        let delays = if kill / 2 % 2 == 0 { "delay_ms = 1, device_delay_ms = [2, 0]," } else { "" };
        fs::write(&experiment, EXPERIMENT.replace("DELAYS", delays)).unwrap();
        // Half of the moments are while it is being set up, which takes a part of a second.
        let latest = if kill % 2 == 0 { LATEST / 8 } else { LATEST };
        let moment = latest.mul_f64(moments.f64());
        let mut command = Command::new(testbed());
        command.arg("accuracy").arg(&experiment).stdin(Stdio::null()).stdout(Stdio::null());
        let mut running = command.stderr(Stdio::null()).spawn().unwrap();
        let process = running.id();
        #[expect(
            clippy::disallowed_methods,
            reason = "any moment is to do, and not only those with an event"
        )]
        std::thread::sleep(moment);
        assert!(running.try_wait().unwrap().is_none(), "it ended before {moment:?} (seed {seed})");
        running.kill().unwrap();
        running.wait().unwrap();
        found += usize::from(!left_of(process).is_empty());

        let cleaned = Command::new(testbed()).arg("clean").output().unwrap();
        let message = String::from_utf8_lossy(&cleaned.stderr);
        assert!(cleaned.status.success(), "{message} (killed after {moment:?}, seed {seed})");
        let left = (left_of(process), members(process));
        assert!(left.0.is_empty() && left.1.is_empty(), "{left:?} (killed after {moment:?}, seed {seed})");
    }
    assert!(found > 0, "nothing was ever there to be removed (seed {seed})");
}

/// Nodes and dispatchers that a testbed has started and that have not ended, by their command lines.
fn members(testbed: u32) -> Vec<String> {
    let group = format!("testbed-{testbed}-two");
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|process| process.path());
    let lines = processes.filter_map(|process| fs::read(process.join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(&group)).collect()
}
