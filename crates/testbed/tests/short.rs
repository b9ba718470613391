//! The short form of the evaluation: 4 paced devices against one, measured in turns in the same run. Needs no root, but
//! the `defer` command beside this one and ONNX Runtime (`DEFER_ONNXRUNTIME`): the threads of the built-in engine look for
//! work when they go on, so that its CPU time for an item differs by 20 % from run to run. `DEFER_TEST_WITHOUT_PACED=1`
//! or `DEFER_TEST_WITHOUT_ONNXRUNTIME=1` leaves it out.

mod common;
mod workplace;

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;

use common::{left_of, left_out};
use workplace::Workplace;

/// How many times as fast as one device four are at least.
const LEAST_SPEED_UP: f64 = 3.6;

#[test]
fn four_devices_are_nearly_four_times_as_fast() {
    if left_out("short", &["DEFER_TEST_WITHOUT_PACED", "DEFER_TEST_WITHOUT_ONNXRUNTIME"]) {
        return;
    }
    let workplace = Workplace::new(&["--paced"]);
    let running = workplace.start("short", include_str!("../../../experiments/short.toml"));
    let process = running.id();
    let ended = running.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(left_of(process).is_empty(), "{:?} are left", left_of(process));

    let mut periods: HashMap<usize, Vec<f64>> = HashMap::new();
    for row in workplace.rows("short") {
        assert_eq!(row["emulation"], "paced");
        let stages = row["stages"].as_array().unwrap().len();
        periods.entry(stages).or_default().push(row["period_ms"].as_f64().unwrap());
    }
    let page = fs::read_to_string(workplace.file("short", "md")).unwrap();
    let mut median = |stages: usize| {
        let periods =
            periods.get_mut(&stages).unwrap_or_else(|| panic!("no run of {stages} devices\n{page}"));
        periods.sort_by(f64::total_cmp);
        periods[periods.len() / 2]
    };
    let (one, two, four) = (median(1), median(2), median(4));
    let found = format!("{page}\nmedians: 2 devices {:.2}x, 4 devices {:.2}x\n", one / two, one / four);
    // Not captured: it is the result of the short form.
    let _ = std::io::stderr().write_all(found.as_bytes());
    assert!(one / four >= LEAST_SPEED_UP, "4 devices are {:.2}x as fast as one", one / four);
}
