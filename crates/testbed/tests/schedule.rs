//! What the schedule of an experiment says happens to its devices while they are measured, by the command that runs it.
//! Needs root, and the `defer` command beside this one; `DEFER_TEST_WITHOUT_QUOTAS=1` or `_LINKS=1` leaves it out.

mod common;
mod workplace;

use common::{left_of, left_out};
use serde_json::Value;
use workplace::Workplace;

const EXPERIMENT: &str = r#"
version = 1
title = "What happens meanwhile"
engine = "rten"
repeats = 1
attempts = 1
warm_up = 8
items = 300
[[cluster]]
name = "two"
devices = [{ quota = 0.3, idle_watts = 1.0, busy_watts = 2.0, count = 2 }]
network = { mbit_s = 100, delay_ms = 1 }
schedule = [SCHEDULE]
[[configuration]]
name = "chain"
cut = "functional_1/re_lu_8_1/Relu:0"
codec = "raw"
may_fail = true
[[run]]
clusters = ["two"]
models = ["resnet20_mnist"]
configurations = ["chain"]
"#;

/// For so long nothing comes out of the chain, ms.
const STILL_MS: f64 = 1500.0;

/// One after the other: each wants the machine for itself.
#[test]
fn a_schedule_is_carried_out() {
    let names = ["DEFER_TEST_WITHOUT_ROOT", "DEFER_TEST_WITHOUT_QUOTAS", "DEFER_TEST_WITHOUT_LINKS"];
    if left_out("schedule", &names) {
        return;
    }
    let workplace = Workplace::new(&[]);
    // Times are soon after the first result: fast machines have done it all in a part of a second.
    let usual = row(&workplace, "usual", "").unwrap();
    // The last ones before the nodes stood still wait for as long as these do, and all others come after that. Entries may
    // come in any order.
    let still = row(
        &workplace,
        "still",
        "{ at_s = 1.6, device = 2, fault = 'thaw' }, { at_s = 0.1, device = 2, fault = 'freeze' }",
    )
    .unwrap();
    let figure = |row: &Value, name: &str| row[name].as_f64().unwrap();
    let longest = |row: &Value| figure(row, "latency_ms_p99");
    assert!(longest(&still) >= STILL_MS && longest(&usual) < STILL_MS / 2.0, "{still}\n{usual}");
    let all = |row: &Value| figure(row, "period_ms") * 300.0;
    assert!(all(&still) >= STILL_MS + 100.0, "{still}");
    // From soon after the first result on, an input of 3,136 bytes takes 50 ms.
    let slow = row(&workplace, "slow", "{ at_s = 0.1, from = 'dispatcher', to = 1, mbit_s = 0.5 }").unwrap();
    assert!(figure(&slow, "period_ms") > 40.0 && figure(&usual, "period_ms") < 25.0, "{slow}\n{usual}");
    let killed = row(&workplace, "killed", "{ at_s = 0.1, device = 1, fault = 'kill' }").unwrap();
    assert!(killed["failure"].as_str().is_some_and(|said| said.contains("`two-1`")), "{killed}");
    let early = row(&workplace, "early", "{ at_s = 3600, device = 1, quota = 0.1 }").unwrap_err();
    assert!(
        early.contains("the run ended before the schedule was to give device 1 0.1 of a core"),
        "{early}"
    );
}

/// What a run with this schedule found, or why it was no run.
fn row(workplace: &Workplace, name: &str, schedule: &str) -> Result<Value, String> {
    let running = workplace.start(name, &EXPERIMENT.replace("SCHEDULE", schedule));
    let process = running.id();
    let ended = running.wait_with_output().unwrap();
    assert!(left_of(process).is_empty(), "{:?} are left", left_of(process));
    if !ended.status.success() {
        return Err(String::from_utf8_lossy(&ended.stderr).into_owned());
    }
    let [row] = &workplace.rows(name)[..] else { panic!("one run") };
    Ok(row.clone())
}
