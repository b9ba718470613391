//! Devices that are paced by signals, without root: each keeps to its quota, and none stays behind, however the testbed
//! ends. Needs the `defer` command beside this one; `DEFER_TEST_WITHOUT_PACED=1` leaves it out.

mod common;
mod workplace;

use std::fs;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use common::{left_of, left_out, testbed};
use rustix::process::{Pid, Signal, kill_process};
use workplace::Workplace;

const EXPERIMENT: &str = r#"
version = 1
title = "Paced"
engine = "rten"
repeats = 1
attempts = 1
warm_up = 8
items = ITEMS
[[cluster]]
name = "paced"
devices = [{ quota = 0.1, idle_watts = 1.0, busy_watts = 2.0, count = 3 }]
[[configuration]]
name = "three"
stages = 3
[[run]]
clusters = ["paced"]
models = ["resnet20_mnist"]
configurations = ["three"]
"#;

/// How often it is killed, and at which moments at the latest: it is under way before.
const KILLS: usize = 5;
const LATEST: Duration = Duration::from_secs(6);

/// How long the kernel may take to end whoever was killed.
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// One after the other: each wants the machine for itself.
#[test]
fn paced_devices() {
    if left_out("paced", &["DEFER_TEST_WITHOUT_PACED"]) {
        return;
    }
    each_keeps_to_its_quota();
    what_cannot_be_paced_is_refused();
    nothing_is_left_of_one_that_is_interrupted();
    nodes_end_with_a_testbed_that_is_killed();
}

fn each_keeps_to_its_quota() {
    let workplace = Workplace::new(&["--paced"]);
    let ended = workplace.start("paced", &long(96)).wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", message(&ended.stderr));
    let rows = workplace.rows("paced");
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["emulation"], "paced");
    let stages = rows[0]["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 3);
    let used = |stage: &serde_json::Value| {
        let figure = |of: &serde_json::Value, name: &str| of[name].as_f64().unwrap();
        figure(stage, "cpu_ms") / figure(&rows[0], "period_ms") / figure(stage, "quota")
    };
    let used: Vec<f64> = stages.iter().map(used).collect();
    assert!(used.iter().all(|used| (0.01..1.2).contains(used)), "{used:?} of their quotas");
    let page = fs::read_to_string(workplace.file("paced", "md")).unwrap();
    assert!(page.contains("paced: held to its CPU quota by signals"), "{page}");
}

fn what_cannot_be_paced_is_refused() {
    let workplace = Workplace::new(&["--paced"]);
    for (instead, expected) in [
        ("count = 3 }]\nnetwork = { mbit_s = 100 }", "has a `network`, which --paced cannot emulate"),
        ("count = 3, memory_mb = 200 }]", "have a limit of memory, which --paced cannot emulate"),
    ] {
        let experiment = long(8).replace("count = 3 }]", instead);
        let ended = workplace.start("refused", &experiment).wait_with_output().unwrap();
        let message = message(&ended.stderr);
        assert!(!ended.status.success() && message.contains(expected), "{message}");
    }
    // Results of both kinds would stand in one table.
    let ended = workplace.start("mixed", &long(8)).wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", message(&ended.stderr));
    let results = workplace.file("results/mixed", "ndjson");
    let paced = fs::read_to_string(&results).unwrap();
    fs::write(&results, paced.replace(r#""emulation":"paced""#, r#""emulation":"quotas""#)).unwrap();
    let ended = workplace.start("mixed", &long(8)).wait_with_output().unwrap();
    let message = message(&ended.stderr);
    assert!(message.contains("are of devices under quotas of the kernel"), "{message}");
}

fn nothing_is_left_of_one_that_is_interrupted() {
    let workplace = Workplace::new(&["--paced"]);
    for signal in [Signal::INT, Signal::TERM] {
        let running = workplace.start("interrupted", &long(1_000_000));
        let process = running.id();
        until("a node is stopped", || nodes(process).iter().any(|(_, state)| state == "T"));
        kill_process(Pid::from_child(&running), signal).unwrap();
        let ended = running.wait_with_output().unwrap();
        let message = message(&ended.stderr);
        assert!(message.contains("interrupted; what was set up has been taken down"), "{message}");
        assert_eq!((left_of(process).len(), nodes(process)), (0, Vec::new()));
    }
}

fn nodes_end_with_a_testbed_that_is_killed() {
    let workplace = Workplace::new(&["--paced"]);
    let seed = fastrand::u64(..);
    let mut moments = fastrand::Rng::with_seed(seed);
    for kill in 0..=KILLS {
        let mut running = workplace.start("killed", &long(1_000_000));
        let process = running.id();
        if kill == KILLS {
            // Those that are stopped cannot end by themselves.
            until("a node is stopped", || nodes(process).iter().any(|(_, state)| state == "T"));
        } else {
            wait(&mut running, LATEST.mul_f64(moments.f64()));
        }
        running.kill().unwrap();
        running.wait().unwrap();
        // A dispatcher is never stopped; it ends by itself later, if nobody removes it.
        let is_node = |(line, _): &(String, String)| line.contains("--until-stdin-closes");
        until("all nodes have ended", || !nodes(process).iter().any(is_node));
        let cleaned = Command::new(testbed()).arg("clean").output().unwrap();
        assert!(cleaned.status.success(), "{} (seed {seed})", message(&cleaned.stderr));
        let left = (left_of(process), nodes(process));
        assert!(left.0.is_empty() && left.1.is_empty(), "{left:?} (seed {seed})");
    }
}

/// The experiment with so many items.
fn long(items: usize) -> String {
    EXPERIMENT.replace("ITEMS", &items.to_string())
}

fn message(stderr: &[u8]) -> String {
    String::from_utf8_lossy(stderr).into_owned()
}

/// Lets some time pass, in which it does not end.
fn wait(running: &mut Child, time: Duration) {
    #[expect(clippy::disallowed_methods, reason = "any moment is to do, and not only those with an event")]
    std::thread::sleep(time);
    assert!(running.try_wait().unwrap().is_none(), "it ended before {time:?}");
}

/// Waits for what other processes do, of which nobody tells.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + END_TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {END_TIMEOUT:?}: {what}");
        #[expect(clippy::disallowed_methods, reason = "see above")]
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Nodes and dispatchers of a testbed that have not ended: their command lines and states.
fn nodes(testbed: u32) -> Vec<(String, String)> {
    let group = format!("testbed-{testbed}-paced");
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|process| process.path());
    let members = processes.filter_map(|process| {
        let line = fs::read(process.join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let stat = fs::read_to_string(process.join("stat")).ok()?;
        let state = stat.get(stat.rfind(')')? + 2..)?.split(' ').next()?.to_owned();
        line.contains(&group).then_some((line, state))
    });
    members.collect()
}
