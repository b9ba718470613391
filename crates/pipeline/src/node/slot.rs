//! The end of a probe, which the node's event loop hears of whatever becomes of the probe's thread.
//!
//! Held by that thread. A slot that was never given back would be one probe less for as long as the node runs.

use crossbeam_channel::Sender;

use super::driver::Incoming;

/// One of the probes that a node may take part in: its end is told when this goes, even by a panic.
pub(super) struct Slot {
    events: Sender<Incoming>,
    /// What is told.
    pub(super) end: Option<Incoming>,
}

impl Slot {
    pub(super) fn new(events: Sender<Incoming>, end: Incoming) -> Slot {
        Slot { events, end: Some(end) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            // The receiver is gone when the node stops.
            let _ = self.events.send(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;

    #[test]
    fn a_probe_that_breaks_down_gives_its_slot_back() {
        let (events, receiver) = bounded(2);
        let broken = events.clone();
        let probe = move || {
            let _slot = Slot::new(broken, Incoming::ProbeEnded);
            panic!("as a probe might");
        };
        assert!(std::thread::spawn(probe).join().is_err());
        assert!(matches!(receiver.try_recv(), Ok(Incoming::ProbeEnded)));
        Slot::new(events, Incoming::ProbeEnded).end = Some(Incoming::Probed(7, Err("cut".to_owned())));
        assert!(matches!(receiver.try_recv(), Ok(Incoming::Probed(7, Err(_)))));
        assert!(receiver.try_recv().is_err(), "an end is told once");
    }
}
