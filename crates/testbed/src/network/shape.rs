//! What the kernel does about what an end sends: classes of HTB, one for each link of its own and one for the others, and
//! under them, where the kernel has it, netem for their delays. Called by [`super::Network`] alone.

use std::time::Duration;

use anyhow::Result;
use plan::End;

use super::{Uplink, address, run};

/// What a link that was idle may send at once beyond its rate. No larger, or short messages would be too fast; a piece
/// may exceed it, so that the kernel need not cut it up.
const BURST: &str = "2kb";

/// The part of a link that slower links over it may be sure of together.
const MOST_FOR_OWN: f64 = 0.9;

/// How much one of several classes sends before it is the next one's turn.
const QUANTUM: &str = "60000";

/// What a link may send in one piece. The line is busy with a piece after it has arrived, so that the last one of a
/// message is too early by its length: 64 KiB, what the kernel makes of it by itself, are a third of 200 KB.
const LEAST_PIECE_LEN: f64 = 8_000.0;
pub(super) const MOST_PIECE_LEN: f64 = 64_000.0;

/// At high rates each piece waits for the kernel to be on time, so they may be longer: the time of so many bytes at
/// 1 Mbit/s.
const PIECE_LEN_PER_MBIT_S: f64 = 24.0;

/// No frame is shorter, so netem holds back as many at most.
const LEAST_FRAME_LEN: f64 = 60.0;

/// The least that netem is to have room for; what it has by itself.
const LEAST_FRAMES: f64 = 1000.0;

/// A class of HTB.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Class {
    parent: &'static str,
    id: String,
    /// What it is sure of while others send, too, Mbit/s.
    sure: f64,
    /// What it sends at most.
    most: f64,
    /// Who it is for; without one, all the others.
    to: Option<End>,
    delay: Duration,
}

/// The classes of an end in a network of so many. What they are sure of adds up to what the link has, and each may take
/// what others leave: links that are slower anyway get all they can take, as far as the others keep something. Those
/// that are not slower get what falls to one of all ends.
pub(super) fn classes(uplink: &Uplink, ends: usize) -> Vec<Class> {
    let class =
        |parent, id: String, sure, most| Class { parent, id, sure, most, to: None, delay: uplink.delay };
    let mbit_s = uplink.mbit_s;
    let wants = |rate: Option<f64>| rate.unwrap_or(mbit_s / ends as f64).min(mbit_s);
    let wanted = uplink.own.iter().map(|own| wants(own.mbit_s)).sum::<f64>();
    let most = MOST_FOR_OWN * mbit_s;
    let share = most / wanted.max(most);
    let mut classes = vec![
        Class { delay: Duration::ZERO, ..class("1:", "1:1".to_owned(), mbit_s, mbit_s) },
        class("1:1", "1:2".to_owned(), mbit_s - share * wanted, mbit_s),
    ];
    // The two before are for all, and for the others.
    classes.extend(uplink.own.iter().enumerate().map(|(i, own)| Class {
        to: Some(own.to),
        delay: own.delay,
        ..class(
            "1:1",
            format!("1:{:x}", i + 3),
            share * wants(own.mbit_s),
            own.mbit_s.unwrap_or(mbit_s).min(mbit_s),
        )
    }));
    classes
}

/// Limits what a namespace sends through one of its interfaces, and more so to some receivers; with `holds_back`, the
/// kernel delays it, too.
pub(super) fn shape(namespace: &str, interface: &str, classes: &[Class], holds_back: bool) -> Result<()> {
    let tc = |args: &[&str]| tc(namespace, interface, args);
    tc(&["qdisc", "add", "root", "handle", "1:", "htb", "default", "2"])?;
    for class in classes {
        class.set(namespace, interface, "add")?;
        if holds_back && !class.delay.is_zero() {
            let (delay, room) = (format!("{}us", class.delay.as_micros()), class.frames().to_string());
            tc(&["qdisc", "add", "parent", &class.id, "netem", "delay", &delay, "limit", &room])?;
        }
        if let Some(to) = class.to {
            let to = format!("{}/32", address(to));
            let matches = ["u32", "match", "ip", "dst", &to, "flowid", &class.id];
            tc(&[&["filter", "add", "parent", "1:", "protocol", "ip"], &matches[..]].concat())?;
        }
    }
    Ok(())
}

/// Changes the rates of classes that are there.
pub(super) fn reshape(namespace: &str, interface: &str, classes: &[Class]) -> Result<()> {
    classes.iter().try_for_each(|class| class.set(namespace, interface, "change"))
}

/// Whether the kernel can hold back what a namespace sends: some are built without netem.
pub(super) fn holds_back(namespace: &str) -> bool {
    let netem = |what: &str| tc(namespace, "lo", &["qdisc", what, "root", "netem", "delay", "1ms"]);
    netem("add").and_then(|()| netem("del")).is_ok()
}

impl Class {
    fn set(&self, namespace: &str, interface: &str, what: &str) -> Result<()> {
        let (sure, most) = (format!("{}bit", bits(self.sure)), format!("{}bit", bits(self.most)));
        let rates = ["rate", &sure, "ceil", &most, "burst", BURST, "cburst", BURST, "quantum", QUANTUM];
        let of = ["class", what, "parent", self.parent, "classid", &self.id, "htb"];
        tc(namespace, interface, &[&of[..], &rates[..]].concat())
    }

    /// Frames that may be on their way at once.
    fn frames(&self) -> u64 {
        let bytes = self.most * 1e6 / 8.0 * self.delay.as_secs_f64();
        (bytes / LEAST_FRAME_LEN).max(LEAST_FRAMES) as u64
    }
}

/// What a link of this rate may send in one piece.
pub(super) fn piece_len(mbit_s: f64) -> u64 {
    (PIECE_LEN_PER_MBIT_S * mbit_s).clamp(LEAST_PIECE_LEN, MOST_PIECE_LEN) as u64
}

/// Runs `tc` on an interface of a namespace; what and how come first of the arguments.
fn tc(namespace: &str, interface: &str, args: &[&str]) -> Result<()> {
    let (what, rest) = args.split_at(2);
    run("tc", &[&["-n", namespace], what, &["dev", interface], rest].concat())
}

fn bits(mbit_s: f64) -> u64 {
    (mbit_s * 1e6).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::rates::Own;

    #[test]
    fn classes_share_what_a_link_has() {
        let own = |device: usize, mbit_s: Option<f64>| Own {
            to: End::Device(device),
            mbit_s,
            delay: Duration::ZERO,
        };
        let check = |own: Vec<Own>, expected: &[(f64, f64)]| {
            let uplink = Uplink { end: End::Dispatcher, mbit_s: 100.0, delay: Duration::ZERO, own };
            let found = classes(&uplink, 4);
            let rates = found.iter().map(|class| (class.sure, class.most));
            let near = |((sure, most), (a, b)): ((f64, f64), &(f64, f64))| {
                (sure - a).abs() + (most - b).abs() < 1e-9
            };
            assert!(found.len() == expected.len() && rates.zip(expected).all(near), "{found:?}");
        };
        let whole = (100.0, 100.0);
        check(vec![], &[whole, whole]);
        check(vec![own(0, Some(10.0))], &[whole, (90.0, 100.0), (10.0, 10.0)]);
        // Two that want more than there is.
        check(
            vec![own(0, Some(90.0)), own(1, Some(90.0))],
            &[whole, (10.0, 100.0), (45.0, 90.0), (45.0, 90.0)],
        );
        // One with nothing but a delay of its own is no slower.
        check(vec![own(0, None)], &[whole, (75.0, 100.0), (25.0, 100.0)]);
        // The link has become slower than what was one of its slower ones.
        check(vec![own(0, Some(500.0))], &[whole, (10.0, 100.0), (90.0, 100.0)]);
    }

    #[test]
    fn netem_has_room_for_what_is_on_its_way() {
        let uplink = |mbit_s, ms| Uplink {
            end: End::Dispatcher,
            mbit_s,
            delay: Duration::from_millis(ms),
            own: Vec::new(),
        };
        // 300 Mbit/s for 8 ms are 300 KB.
        assert_eq!(classes(&uplink(300.0, 8), 2)[1].frames(), 5000);
        assert_eq!(classes(&uplink(1.0, 1), 2)[1].frames(), 1000);
    }
}
