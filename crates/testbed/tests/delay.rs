//! Emulated links with a delay hold back what they carry for that long, and not much longer. Needs root, and `ip` and `tc`
//! from iproute2; `DEFER_TEST_WITHOUT_LINKS=1` leaves it out, which `make test` sets where links cannot be emulated.

mod common;
mod laboratory;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use common::{left_of, left_out};
use laboratory::{cluster, lab};
use plan::End;
use testbed::{Fault, Lab, Network, address};

/// Round trips of which the median counts.
const ROUND_TRIPS: usize = 100;

/// How much longer than the delay one may take in the median: the relay is woken twice on its way, and others use this
/// machine.
const MOST_LATE: Duration = Duration::from_millis(1);

/// Whoever else uses this machine delays messages now and then, while a link that is wrong is so each time.
const ATTEMPTS: usize = 5;

/// Of all links, so that a message takes next to no time.
const RATE: &str = "mbit_s = 1000";

const ONE: End = End::Device(0);
const TWO: End = End::Device(1);

#[test]
fn what_is_sent_takes_the_delay() {
    if left_out("delay", &["DEFER_TEST_WITHOUT_ROOT", "DEFER_TEST_WITHOUT_LINKS"]) {
        return;
    }
    let lab = lab();
    check(&lab, "delay_ms = 5", [10.0, 10.0], &[]);
    check(&lab, "device_delay_ms = [7, 0], dispatcher_delay_ms = 1", [7.0, 1.0], &[]);
    check(&lab, "delay_ms = 0.5, links = [{ from = 1, to = 2, delay_ms = 20 }]", [20.5, 1.0], &[]);
    // What a link that may do damage goes through takes no longer for it.
    check(&lab, "device_delay_ms = []", [0.0, 0.0], &[Fault::Corrupt { from: ONE, to: TWO }]);
    drop(lab);
    assert!(left_of(std::process::id()).is_empty(), "{:?} are left", left_of(std::process::id()));
}

/// Holds round trips from the first device, and from the dispatcher, to the second device against those without a delay.
fn check(lab: &Lab, delays: &str, expected_ms: [f64; 2], faults: &[Fault]) {
    let expected = expected_ms.map(|ms| Duration::from_secs_f64(ms / 1e3));
    let is_right = |_| {
        let (plain, found) = (measured(lab, "", &[]), measured(lab, delays, faults));
        let result = format!("{delays}: least and median {found:?}, without a delay {plain:?}\n");
        // Not captured: it is what was measured.
        let _ = std::io::stderr().write_all(result.as_bytes());
        let late = |i: usize| {
            let (least, median) = found[i];
            assert!(least >= expected[i], "{delays}: {least:?} is less than {:?}", expected[i]);
            (median - expected[i]).saturating_sub(plain[i].1)
        };
        late(0).max(late(1)) < MOST_LATE
    };
    assert!((0..ATTEMPTS).any(is_right), "{delays}: round trips take too long, {ATTEMPTS} times");
}

/// The least and the median of both.
fn measured(lab: &Lab, delays: &str, faults: &[Fault]) -> [(Duration, Duration); 2] {
    let network =
        [RATE, delays].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(", ");
    let cluster = cluster("delay", 2, &format!("network = {{ {network} }}")).expecting(faults);
    let network = lab.network(&cluster).unwrap();
    [ONE, End::Dispatcher].map(|from| {
        let mut times = round_trips(&network, from, TWO);
        times.sort();
        (times[0], times[times.len() / 2])
    })
}

fn round_trips(network: &Network, from: End, to: End) -> Vec<Duration> {
    let listener = network.enter(to, || TcpListener::bind((address(to), 0))).unwrap().unwrap();
    let here = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_nodelay(true).unwrap();
            let mut message = [0; 64];
            while stream.read_exact(&mut message).is_ok() {
                stream.write_all(&message).unwrap();
            }
        });
        let mut stream = network.enter(from, || TcpStream::connect(here)).unwrap().unwrap();
        stream.set_nodelay(true).unwrap();
        let mut round_trip = |_| {
            let start = Instant::now();
            stream.write_all(&[7; 64]).unwrap();
            stream.read_exact(&mut [0; 64]).unwrap();
            start.elapsed()
        };
        (0..ROUND_TRIPS).map(&mut round_trip).collect()
    })
}
