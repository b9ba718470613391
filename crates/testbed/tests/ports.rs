//! What the dispatcher can send is shared by all to whom it does: plans with replicas know it, without being told. Needs
//! root, and the `defer` command beside this one; `DEFER_TEST_WITHOUT_QUOTAS=1` or `_LINKS=1` leaves it out.

mod common;
mod workplace;

use common::{left_of, left_out};
use workplace::Workplace;

/// An input of 3,136 bytes takes the dispatcher 26 ms to send, to whomever it is. Each of the devices could do one, and each
/// of their links carry it, in that time.
const EXPERIMENT: &str = r#"
version = 1
title = "What is shared"
engine = "rten"
repeats = 1
attempts = 1
warm_up = 20
items = 60
[[cluster]]
name = "three"
devices = [{ quota = 0.3, idle_watts = 1.0, busy_watts = 2.0, count = 3 }]
network = { mbit_s = 1 }
[[configuration]]
name = "replicas"
replicas = true
codec = "raw"
[[run]]
clusters = ["three"]
models = ["resnet20_mnist"]
configurations = ["replicas"]
"#;

const INPUT_MS: f64 = 3136.0 * 8.0 / 1e6 * 1e3;

#[test]
fn what_the_dispatcher_sends_is_shared_by_replicas() {
    let names = ["DEFER_TEST_WITHOUT_ROOT", "DEFER_TEST_WITHOUT_QUOTAS", "DEFER_TEST_WITHOUT_LINKS"];
    if left_out("ports", &names) {
        return;
    }
    let workplace = Workplace::new(&[]);
    let running = workplace.start("shared", EXPERIMENT);
    let process = running.id();
    let ended = running.wait_with_output().unwrap();
    assert!(left_of(process).is_empty(), "{:?} are left", left_of(process));
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let [row] = &workplace.rows("shared")[..] else { panic!("one run") };
    let predicted = row["predicted"]["period_ms"].as_f64().unwrap();
    // With links that have nothing in common it would be a third of that.
    assert!(predicted > 0.7 * INPUT_MS, "{row}");
}
