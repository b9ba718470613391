//! Links that hold back what they carry, where the kernel has no netem, and that damage some of it when asked to: each is
//! a pair of interfaces, one at the end and one at the switch, between which a thread of this process hands frames on.
//!
//! Called by [`super::Network`]. It keeps the order of what goes from one end to another, and never drops a frame that
//! the kernel would not have dropped: when it holds as much as it may, it reads no more.

mod held;

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::net::Ipv4Addr;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use plan::End;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{Uplink, address, frame, shape, tap};
use held::Held;

/// Frames of one interface before it is the turn of the others, and of those that are due.
const TURN: usize = 32;

/// How long the thread may be kept from its work without a link becoming slower for it: the time slice of another process.
const LATENESS: Duration = Duration::from_millis(20);

/// Of so many packets over a damaged link, the first that is long is damaged.
const DAMAGED_OF: usize = 16;

/// As the self-check of links: everything else on the machine waits, as far as it can be made to.
const NICENESS: i32 = -20;

/// How late the kernel may wake the thread, so that it wakes others at the same time: without this it is 50 microseconds.
const SLACK_NANOS: u64 = 1_000;

/// One end's link.
#[derive(Debug)]
pub(super) struct Cable {
    from: End,
    /// At the end.
    near: File,
    /// At the switch.
    far: File,
    delay: Duration,
    /// To whom it is another one.
    own: Vec<(Ipv4Addr, Duration)>,
    /// What it may hold back at once, bytes.
    most_held: usize,
}

impl Cable {
    /// Between two interfaces, at no more than `fastest` Mbit/s. What is held back is what the link carries in its delay, as
    /// it cannot bring more; beside it what comes while the thread is late, and a piece that is read at once.
    ///
    /// # Errors
    /// When that is more than may be on its way.
    pub(super) fn new(uplink: &Uplink, fastest: f64, near: File, far: File) -> Result<Cable> {
        let bytes_per_second = Uplink { mbit_s: fastest, ..uplink.clone() }.checked()? * 1e6 / 8.0;
        let seconds = (uplink.longest_delay() + LATENESS).as_secs_f64();
        let bytes = bytes_per_second * seconds + 2.0 * shape::MOST_PIECE_LEN;
        let own = uplink.own.iter().map(|own| (address(own.to), own.delay)).collect();
        Ok(Cable { from: uplink.end, near, far, delay: uplink.delay, own, most_held: bytes as usize })
    }

    fn delay_to(&self, to: Option<Ipv4Addr>) -> Duration {
        self.own.iter().find(|(own, _)| Some(*own) == to).map_or(self.delay, |(_, delay)| *delay)
    }
}

/// A link whose packets are damaged: who sends to whom, and how many packets there were.
type Damaged = (End, Ipv4Addr, usize);

/// The thread that relays; it ends when this is dropped, and the interfaces go with it.
#[derive(Debug)]
pub(super) struct Relay {
    /// Nothing is written: the thread ends when this is gone.
    running: Option<PipeWriter>,
    thread: Option<JoinHandle<Result<()>>>,
    damaged: Arc<Mutex<Vec<Damaged>>>,
}

impl Relay {
    /// Hands frames on from now on.
    pub(super) fn start(cables: Vec<Cable>) -> Result<Relay> {
        let (ended, running) = io::pipe().context("cannot make a pipe")?;
        let damaged = Arc::default();
        let work = Work { cables, held: Held::default(), damaged: Arc::clone(&damaged) };
        let thread = std::thread::Builder::new().name("relay".to_owned());
        let thread = thread.spawn(move || work.run(&ended)).context("cannot start a thread")?;
        Ok(Relay { running: Some(running), thread: Some(thread), damaged })
    }

    /// Damages some of what an end sends to another from now on, or no more.
    pub(super) fn damage(&self, from: End, to: End, damages: bool) {
        let mut damaged = self.damaged.lock().expect("nobody panics with it");
        damaged.retain(|(sender, receiver, _)| (*sender, *receiver) != (from, address(to)));
        if damages {
            damaged.push((from, address(to), 0));
        }
    }

    /// Fails when nothing is relayed any more.
    pub(super) fn check(&self) -> Result<()> {
        let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        ensure!(!ended, "the relay of an emulated network has ended");
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.running.take());
        // Whatever became of it, the interfaces are gone.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What the thread has.
struct Work {
    cables: Vec<Cable>,
    held: Held,
    damaged: Arc<Mutex<Vec<Damaged>>>,
}

impl Work {
    /// Relays until nobody wants it any more.
    fn run(mut self, ended: &PipeReader) -> Result<()> {
        // It is on time without these where the machine is idle.
        let _ = rustix::process::nice(NICENESS);
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(SLACK_NANOS));
        let mut buffer = vec![0; tap::MOST_LEN];
        loop {
            self.send_due();
            let Some(ready) = self.wait(ended)? else { return Ok(()) };
            for (cable, [near, far]) in ready.into_iter().enumerate() {
                if near {
                    self.take(cable, &mut buffer)?;
                }
                if far {
                    self.hand_over(cable, &mut buffer)?;
                }
            }
        }
    }

    /// Waits until frames can be read or are due. Gives whether there are some at the ends of each link; `None` at the end.
    fn wait(&self, ended: &PipeReader) -> Result<Option<Vec<[bool; 2]>>> {
        let mut watched = vec![PollFd::new(ended, PollFlags::IN)];
        for (i, cable) in self.cables.iter().enumerate() {
            let full = self.held.bytes(i) >= cable.most_held;
            let near = if full { PollFlags::empty() } else { PollFlags::IN };
            watched.extend([PollFd::new(&cable.near, near), PollFd::new(&cable.far, PollFlags::IN)]);
        }
        let left = self.held.next_due().map(|due| due.saturating_duration_since(Instant::now()));
        let timeout = left.map(Timespec::try_from).transpose().context("a delay")?;
        match poll(&mut watched, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for frames"),
        }
        let ready: Vec<bool> = watched.iter().map(|watched| !watched.revents().is_empty()).collect();
        let (ended, ready) = (ready[0], ready[1..].chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect());
        Ok((!ended).then_some(ready))
    }

    /// Takes what an end sends.
    fn take(&mut self, cable: usize, buffer: &mut [u8]) -> Result<()> {
        for _ in 0..TURN {
            let from = &self.cables[cable];
            let Some(len) = read(&from.near, buffer)? else { break };
            let piece = &mut buffer[..len];
            let to = frame::destination(piece.get(tap::HEADER_LEN..).unwrap_or_default());
            if let Some(to) = to {
                damage(&mut self.damaged.lock().expect("nobody panics with it"), from.from, to, piece);
            }
            let due = Instant::now() + from.delay_to(to);
            self.held.push(cable, due, piece);
            if self.held.bytes(cable) >= from.most_held {
                break;
            }
        }
        Ok(())
    }

    /// Hands an end what is for it, which the sender's link has held back already.
    fn hand_over(&self, cable: usize, buffer: &mut [u8]) -> Result<()> {
        let cable = &self.cables[cable];
        for _ in 0..TURN {
            let Some(len) = read(&cable.far, buffer)? else { break };
            write(&cable.near, &buffer[..len]);
        }
        Ok(())
    }

    fn send_due(&mut self) {
        let now = Instant::now();
        while let Some((cable, piece)) = self.held.pop(now) {
            write(&self.cables[cable].far, &piece);
        }
    }
}

/// Damages a piece if it is one of those that are to be.
fn damage(damaged: &mut [Damaged], from: End, to: Ipv4Addr, piece: &mut [u8]) {
    let link = damaged.iter_mut().find(|(sender, receiver, _)| (*sender, *receiver) == (from, to));
    let Some((_, _, packets)) = link else { return };
    // Where there is a checksum, the receiver would drop it.
    let (header, frame) = piece.split_at_mut(tap::HEADER_LEN);
    if header[0] & tap::WITHOUT_CHECKSUM == 0 {
        return;
    }
    let undamaged = !packets.is_multiple_of(DAMAGED_OF);
    if undamaged || frame::damage(frame).is_some() {
        *packets += 1;
    }
}

/// A piece that the kernel sends; `None` when there is none now.
fn read(interface: &File, buffer: &mut [u8]) -> Result<Option<usize>> {
    match rustix::io::read(interface, buffer) {
        Ok(len) => Ok(Some(len)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(error) => Err(error).context("cannot read from an interface"),
    }
}

/// Lets the kernel receive a piece. One that it does not take is lost, as on a line that was cut.
fn write(interface: &File, piece: &[u8]) {
    let _ = rustix::io::write(interface, piece);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_packets_of_a_damaged_link_are_damaged() {
        let (from, to) = (End::Device(0), End::Device(1));
        let mut damaged = vec![(from, address(to), 0)];
        let mut segment = vec![0; tap::HEADER_LEN + 14 + 20 + 20 + 1000];
        segment[0] = tap::WITHOUT_CHECKSUM;
        segment[tap::HEADER_LEN + 14..][..10].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6]);
        segment[tap::HEADER_LEN + 14 + 20 + 12] = 0x50;
        let mut is_damaged = |from: End, to: End, piece: &[u8]| {
            let mut found = piece.to_vec();
            damage(&mut damaged, from, address(to), &mut found);
            found != piece
        };
        assert!(!is_damaged(to, from, &segment), "the other way");
        let mut summed = segment.clone();
        summed[0] = 0;
        assert!(!is_damaged(from, to, &summed), "one that would be dropped");
        assert!(!is_damaged(from, to, &segment[..200]), "a short one");
        let found: Vec<usize> = (0..33).filter(|_| is_damaged(from, to, &segment)).collect();
        assert_eq!(found, [0, 16, 32]);
    }
}
