//! Emulated links are as fast as asked, by the command that measures them. Needs root, and `ip` and `tc` from
//! iproute2; `DEFER_TEST_WITHOUT_LINKS=1` leaves it out, which `make test` sets where links cannot be emulated.

mod common;

use std::process::{Command, Stdio};

use common::{left_of, left_out, testbed};

#[test]
fn links_have_their_rates() {
    if left_out("links", &["DEFER_TEST_WITHOUT_ROOT", "DEFER_TEST_WITHOUT_LINKS"]) {
        return;
    }
    let mut command = Command::new(testbed());
    command.arg("links").stdout(Stdio::piped()).stderr(Stdio::piped());
    let running = command.spawn().unwrap();
    let process = running.id();
    let ended = running.wait_with_output().unwrap();
    let (table, message) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{table}{message}");
    // A line for each rate, message and way of sending it, for two rates and each message with a delay, three for links
    // that share an end, two above.
    assert_eq!(table.lines().count(), 4 * 3 * 2 + 2 * 3 + 3 + 2, "{table}");
    assert!(left_of(process).is_empty(), "{:?} are left", left_of(process));
}
