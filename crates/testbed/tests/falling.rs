//! A link that becomes slow while a chain runs, by the command that measures what the chain does about it. Needs root,
//! `ip` and `tc` from iproute2, and the `defer` command beside this one; `DEFER_TEST_WITHOUT_QUOTAS=1` and
//! `DEFER_TEST_WITHOUT_LINKS=1` leave it out, which `make test` sets where devices or links cannot be emulated.

mod common;

use std::path::Path;
use std::process::{Command, Stdio};

use common::{left_of, left_out, testbed};

#[test]
fn a_link_that_becomes_slow_changes_its_codec() {
    if left_out(
        "falling",
        &["DEFER_TEST_WITHOUT_ROOT", "DEFER_TEST_WITHOUT_QUOTAS", "DEFER_TEST_WITHOUT_LINKS"],
    ) {
        return;
    }
    assert!(
        testbed().with_file_name("defer").exists(),
        "`cargo build --release -p cli` makes the command `defer`"
    );
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/resnet20_mnist.onnx");
    let mut command = Command::new(testbed());
    // On a fast link this boundary travels raw; zeros are left out once that pays.
    command.arg("falling").arg(model).args(["--engine", "rten", "--quota", "0.5", "--codec", "exact"]);
    command.args(["--cut", "functional_1/re_lu_2_1/Relu:0", "--from", "5000", "--to", "5"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let running = command.spawn().unwrap();
    let process = running.id();
    let ended = running.wait_with_output().unwrap();
    let (table, message) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    // It fails when no link switched.
    assert!(ended.status.success(), "{table}{message}");
    let between = ["falling-1 to falling-2: ", "falling-2 to falling-1: "];
    assert!(between.iter().any(|link| table.contains(link)), "{table}");
    assert!(left_of(process).is_empty(), "{:?} are left", left_of(process));
}
