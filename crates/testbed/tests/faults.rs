//! Each fault does to devices and links what it says, and what ends it ends it. Needs root, `ip` and `tc` from iproute2,
//! and the `defer` command beside this one; `DEFER_TEST_WITHOUT_QUOTAS=1` and `DEFER_TEST_WITHOUT_LINKS=1` leave it out.

mod chain;
mod common;
mod laboratory;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use chain::Chain;
use common::{left_of, left_out};
use laboratory::{cluster, lab};
use plan::End;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use testbed::{Fault, Lab, address};

const ONE: End = End::Device(0);
const TWO: End = End::Device(1);
const CORRUPT: Fault = Fault::Corrupt { from: ONE, to: TWO };
const HEAL: Fault = Fault::Heal { from: ONE, to: TWO };

/// The values of the model's input, which travel as they are.
const INPUT_LEN: f64 = 784.0 * 4.0;

/// Results over which a period is measured, and those before that may still be as before.
const MEASURED: usize = 30;
const SETTLING: usize = 20;

/// How long a node without memory may take to be noticed: it is calibrated before.
const END_TIMEOUT: Duration = Duration::from_secs(120);

/// One after the other: there is one testbed in a process.
#[test]
fn faults_do_what_they_say() {
    let names = ["DEFER_TEST_WITHOUT_ROOT", "DEFER_TEST_WITHOUT_QUOTAS", "DEFER_TEST_WITHOUT_LINKS"];
    if left_out("faults", &names) {
        return;
    }
    let lab = lab();
    bytes_are_damaged_behind_tcp_s_back(&lab);
    nodes_and_links_stand_still_and_go_on(&lab);
    devices_and_links_become_slow(&lab);
    run_fails(&lab, &[Fault::Kill(1)], &["faults-2"]);
    run_fails(&lab, &[CORRUPT], &["is damaged (its checksum is wrong)"]);
    memory_is_taken_away(&lab);
    drop(lab);
    assert!(left_of(std::process::id()).is_empty(), "{:?} are left", left_of(std::process::id()));
}

fn bytes_are_damaged_behind_tcp_s_back(lab: &Lab) {
    for delay in ["", ", delay_ms = 2"] {
        let description = format!("network = {{ mbit_s = 100{delay} }}");
        let cluster = cluster("faults", 2, &description).expecting(&[CORRUPT]);
        let devices = lab.start(&cluster).unwrap();
        let damaged = |from: End, to: End| {
            let network = devices.network().unwrap();
            let listener = network.enter(to, || TcpListener::bind((address(to), 0))).unwrap().unwrap();
            let here = listener.local_addr().unwrap();
            let mut sender = network.enter(from, || TcpStream::connect(here)).unwrap().unwrap();
            let mut receiver = listener.accept().unwrap().0;
            let mut received = Vec::new();
            std::thread::scope(|scope| {
                scope.spawn(move || sender.write_all(&[7; 1 << 20]).unwrap());
                receiver.read_to_end(&mut received).unwrap();
            });
            assert_eq!(received.len(), 1 << 20, "all that was sent arrives");
            received.iter().filter(|byte| **byte != 7).count()
        };
        assert_eq!(damaged(ONE, TWO), 0);
        devices.strike(&CORRUPT).unwrap();
        assert!((1..1000).contains(&damaged(ONE, TWO)), "some bytes");
        assert_eq!((damaged(TWO, ONE), damaged(End::Dispatcher, TWO)), (0, 0), "of other links");
        devices.strike(&HEAL).unwrap();
        assert_eq!(damaged(ONE, TWO), 0);
    }
}

fn nodes_and_links_stand_still_and_go_on(lab: &Lab) {
    let cluster = cluster("faults", 2, "network = { mbit_s = 100, delay_ms = 1 }");
    let devices = lab.start(&cluster).unwrap();
    let mut chain = Chain::start(lab, &devices, &cluster);
    chain.results(SETTLING);
    for (fault, end) in [
        (Fault::Freeze(0), Fault::Thaw(0)),
        (Fault::Freeze(1), Fault::Thaw(1)),
        (Fault::Cut(TWO), Fault::Mend(TWO)),
        (Fault::Cut(End::Dispatcher), Fault::Mend(End::Dispatcher)),
    ] {
        devices.strike(&fault).unwrap();
        chain.stands_still();
        devices.strike(&end).unwrap();
        // More than were in flight: others follow.
        chain.results(4 * SETTLING);
    }
}

fn devices_and_links_become_slow(lab: &Lab) {
    let slow = 0.5;
    let changes = [
        Fault::LinkRate { from: End::Dispatcher, to: ONE, mbit_s: slow },
        Fault::LinkRate { from: End::Dispatcher, to: ONE, mbit_s: 100.0 },
        // Of who receives, and of who sends.
        Fault::Rate { end: ONE, mbit_s: slow },
        Fault::Rate { end: ONE, mbit_s: 100.0 },
        Fault::Rate { end: End::Dispatcher, mbit_s: slow },
        Fault::Rate { end: End::Dispatcher, mbit_s: 100.0 },
    ];
    let cluster = cluster("faults", 2, "network = { mbit_s = 100 }").expecting(&changes);
    let devices = lab.start(&cluster).unwrap();
    let mut chain = Chain::start(lab, &devices, &cluster);
    let mut period = |change: Option<Fault>| {
        change.iter().for_each(|change| devices.strike(change).unwrap());
        chain.settles(SETTLING);
        chain.results(MEASURED) / MEASURED as u32
    };
    let usual = period(None);
    // What travels takes this long.
    let on_line = Duration::from_secs_f64(INPUT_LEN * 8.0 / (slow * 1e6));
    assert!(usual < on_line / 2, "{usual:?} without a fault");
    for [slow, usual_again] in changes.chunks_exact(2).map(|pair| [pair[0], pair[1]]) {
        let (slow_period, again) = (period(Some(slow)), period(Some(usual_again)));
        assert!(slow_period > on_line.mul_f64(0.95), "{slow:?}: {slow_period:?}, on the line {on_line:?}");
        assert!(again < on_line / 2, "{usual_again:?}: {again:?}");
    }
    let slow = period(Some(Fault::Quota { device: 1, share: 0.05 }));
    let result = format!("a period of {usual:?}, {slow:?} with 0.05 in place of 0.3 of a core\n");
    // Not captured: it is what was measured.
    let _ = std::io::stderr().write_all(result.as_bytes());
    assert!(slow > 3 * usual, "{slow:?} with a sixth of the quota, {usual:?} before");
    let again = period(Some(Fault::Quota { device: 1, share: 0.3 }));
    assert!(again < slow / 3, "{again:?} after {slow:?}");
}

/// Whatever else happens, no answer is another one.
fn run_fails(lab: &Lab, faults: &[Fault], said: &[&str]) {
    let cluster = cluster("faults", 2, "network = { mbit_s = 100 }").expecting(faults);
    let devices = lab.start(&cluster).unwrap();
    let mut chain = Chain::start(lab, &devices, &cluster);
    chain.results(SETTLING);
    faults.iter().for_each(|fault| devices.strike(fault).unwrap());
    let found = chain.fails();
    assert!(said.iter().all(|said| found.contains(said)), "{said:?} of {faults:?}: {found}");
}

fn memory_is_taken_away(lab: &Lab) {
    let fault = Fault::Memory { device: 1, mb: 1 };
    let cluster = cluster("faults", 2, "network = { mbit_s = 100 }").expecting(&[fault]);
    let devices = lab.start(&cluster).unwrap();
    let node = Pid::from_raw(devices.processes()[1].cast_signed()).unwrap();
    let node = pidfd_open(node, PidfdFlags::empty()).unwrap();
    let ends_within = |timeout: Duration| {
        let timeout = Timespec::try_from(timeout).unwrap();
        poll(&mut [PollFd::new(&node, PollFlags::IN)], Some(&timeout)).unwrap() > 0
    };
    assert!(!ends_within(Duration::ZERO), "the node has all the memory that it wants");
    devices.strike(&fault).unwrap();
    // It may have as much as it holds, and wants more for a stage.
    let _chain = Chain::start(lab, &devices, &cluster);
    assert!(ends_within(END_TIMEOUT), "the node has more memory than it may");
}
