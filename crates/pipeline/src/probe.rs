//! What a link is like: one end sends, the other counts and answers.
//!
//! Called by nodes, for each other, and by the dispatcher for its own links, on a data connection that was greeted
//! for this purpose. Both ends keep to limits on bytes and time, whatever the other does.
//!
//! Every message is a word (u32, little-endian) and so many bytes as it says; with its highest bit set, the
//! receiver answers with how many bytes it has received in all (u64). The last word is answered with the CPU time that a
//! byte took the receiver (f64, seconds), and then followed by what the sender found, which the receiver would otherwise not
//! know.

use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use wire::control::LinkFigures;

use crate::machine;
use crate::transport::{read_message, write_message};

/// The bit of a word that asks for an answer.
const ANSWER: u32 = 1 << 31;

/// The word before the sender's figures.
const END: u32 = u32::MAX;

/// Bytes of a message at most.
const MAX_PAYLOAD_LEN: usize = 64 << 10;

/// Round trips of a message without bytes.
const PINGS: usize = 15;

/// Small messages in a row, and their bytes: what they take beside their bytes is the cost of a frame.
const FRAMES: usize = 256;
const FRAME_LEN: usize = 64;

/// The bandwidth is that of the first burst that takes this long; bursts begin with [`FIRST_BURST`] bytes, each is
/// twice the one before, and the largest counts however quick it is: a link as fast as that is no limit.
const BURST_TIME: Duration = Duration::from_millis(100);
const FIRST_BURST: usize = 16 << 10;
const LARGEST_BURST: usize = 64 << 20;

/// So long several links carry as much as they can at once, and of each so many bytes at most: more only fast links carry.
/// Bursts grow until each takes a part of it.
const TOGETHER_TIME: Duration = Duration::from_millis(500);
const TOGETHER_BYTES: u64 = LARGEST_BURST as u64;
const TOGETHER_PART: u32 = 16;

/// Limits of a receiver: all bursts and frames, and the longest a slow link may take for them.
const MAX_BYTES: u64 = 2 * (LARGEST_BURST as u64) + (1 << 20);
const MAX_TIME: Duration = Duration::from_secs(10);

/// Sends a probe and says what the link is like in this direction.
pub(crate) fn send(stream: &TcpStream) -> io::Result<LinkFigures> {
    let mut sender = Sender::new(stream)?;
    let mut round_trips = Vec::with_capacity(PINGS);
    for _ in 0..PINGS {
        round_trips.push(sender.timed(1, 0)?);
    }
    let round_trip = middle(&mut round_trips);
    let frames = sender.timed(FRAMES, FRAME_LEN)?;
    let mut burst = FIRST_BURST;
    let (took, send_cpu_seconds) = loop {
        let payload = burst.min(MAX_PAYLOAD_LEN);
        let cpu = machine::thread_cpu_seconds();
        let took = sender.timed(burst / payload, payload)?;
        if took >= BURST_TIME || burst >= LARGEST_BURST {
            break (took, (machine::thread_cpu_seconds() - cpu) / burst as f64);
        }
        burst *= 2;
    };
    sender.end(LinkFigures { send_cpu_seconds, ..figures(round_trip, frames, burst, took) })
}

/// Sends over several links at once and says what each carries meanwhile, in bytes per second.
pub(crate) fn send_together<'a>(streams: &'a [TcpStream]) -> io::Result<Vec<f64>> {
    let senders = streams.iter().map(|stream| {
        let mut sender = Sender::new(stream)?;
        // Whoever is there to answer begins with the others.
        let round_trip = sender.timed(1, 0)?;
        Ok((sender, round_trip))
    });
    let senders = senders.collect::<io::Result<Vec<_>>>()?;
    std::thread::scope(|scope| {
        // Dropped when all threads are there: one that cannot be started keeps nobody waiting.
        let (waiting, all) = crossbeam_channel::bounded::<()>(0);
        let start = |(mut sender, round_trip): (Sender<'a>, Duration)| {
            let all = all.clone();
            let run = move || {
                let _ = all.recv();
                let (bytes, took) = sender.carry(TOGETHER_TIME)?;
                sender.end(figures(round_trip, took, bytes as usize, took))?;
                Ok(bytes as f64 / took.as_secs_f64())
            };
            std::thread::Builder::new().name("probe".to_owned()).spawn_scoped(scope, run)
        };
        let threads: Vec<io::Result<_>> = senders.into_iter().map(start).collect();
        drop(waiting);
        let join = |thread: io::Result<std::thread::ScopedJoinHandle<'_, io::Result<f64>>>| {
            thread?.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    })
}

/// Receives a probe; gives what the sender found.
pub(crate) fn count(stream: &TcpStream) -> io::Result<LinkFigures> {
    let mut answers = Bounded::new(stream)?;
    let mut arriving = BufReader::with_capacity(MAX_PAYLOAD_LEN, Bounded::new(stream)?);
    let mut payload = vec![0; MAX_PAYLOAD_LEN];
    let mut received = 0u64;
    let mut cost = Cost::begin();
    loop {
        let mut word = [0; 4];
        arriving.read_exact(&mut word)?;
        let word = u32::from_le_bytes(word);
        if word == END {
            answers.write_all(&cost.of_byte.to_le_bytes())?;
            let found: LinkFigures = read_message(&mut arriving)?;
            return found.check().map(|()| found).map_err(|reason| invalid(&reason));
        }
        let len = (word & !ANSWER) as usize;
        let payload = payload.get_mut(..len).ok_or_else(|| invalid("a message of a probe is too long"))?;
        received += 4 + len as u64;
        if received > MAX_BYTES {
            return Err(invalid("a probe has more bytes than a probe may have"));
        }
        arriving.read_exact(payload)?;
        if word & ANSWER != 0 {
            cost.answered(received);
            answers.write_all(&received.to_le_bytes())?;
        }
    }
}

/// What receiving takes, from one answer to the next: the last ones are those of the largest burst.
struct Cost {
    cpu_seconds: f64,
    received: u64,
    /// CPU time of a byte of the last burst, seconds.
    of_byte: f64,
}

impl Cost {
    fn begin() -> Cost {
        Cost { cpu_seconds: machine::thread_cpu_seconds(), received: 0, of_byte: 0.0 }
    }

    fn answered(&mut self, received: u64) {
        let cpu_seconds = machine::thread_cpu_seconds();
        // A message is one word at least.
        self.of_byte = (cpu_seconds - self.cpu_seconds) / (received - self.received) as f64;
        (self.cpu_seconds, self.received) = (cpu_seconds, received);
    }
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

struct Sender<'a> {
    stream: Bounded<'a>,
    sent: u64,
    payload: Vec<u8>,
}

impl<'a> Sender<'a> {
    fn new(stream: &'a TcpStream) -> io::Result<Sender<'a>> {
        Ok(Sender { stream: Bounded::new(stream)?, sent: 0, payload: vec![0x5a; MAX_PAYLOAD_LEN] })
    }

    /// Sends bursts for so long; how many bytes were answered, and in what time.
    fn carry(&mut self, time: Duration) -> io::Result<(u64, Duration)> {
        let (start, before, mut burst) = (Instant::now(), self.sent, FIRST_BURST);
        loop {
            let payload = burst.min(MAX_PAYLOAD_LEN);
            let took = self.timed(burst / payload, payload)?;
            let (bytes, elapsed) = (self.sent - before, start.elapsed());
            if elapsed >= time || bytes + burst as u64 > TOGETHER_BYTES {
                return Ok((bytes, elapsed));
            }
            if took < time / TOGETHER_PART && burst < LARGEST_BURST {
                burst *= 2;
            }
        }
    }

    /// Ends the probe with what was found, but for what receiving takes, which the other end says.
    fn end(&mut self, found: LinkFigures) -> io::Result<LinkFigures> {
        self.stream.write_all(&END.to_le_bytes())?;
        let mut receive = [0; 8];
        self.stream.read_exact(&mut receive)?;
        let found = LinkFigures { receive_cpu_seconds: f64::from_le_bytes(receive), ..found };
        found.check().map_err(|reason| invalid(&reason))?;
        write_message(&mut self.stream, &found)?;
        Ok(found)
    }

    /// Sends messages of `len` bytes; how long it is until the last of them is answered.
    fn timed(&mut self, messages: usize, len: usize) -> io::Result<Duration> {
        let start = Instant::now();
        for message in 1..=messages {
            let answer = if message == messages { ANSWER } else { 0 };
            let word = (len as u32 | answer).to_le_bytes();
            // One write each, as frames are sent.
            self.stream.write_all(&[&word[..], &self.payload[..len]].concat())?;
            self.sent += 4 + len as u64;
        }
        let mut answer = [0; 8];
        self.stream.read_exact(&mut answer)?;
        match u64::from_le_bytes(answer) == self.sent {
            true => Ok(start.elapsed()),
            false => Err(invalid("the other end of a probe counts other bytes than were sent")),
        }
    }
}

/// What the measured times say of a link, but for CPU time.
fn figures(round_trip: Duration, frames: Duration, burst: usize, took: Duration) -> LinkFigures {
    // Never 0: a burst that the answer overtakes would be an endless bandwidth.
    let busy = |took: Duration| took.saturating_sub(round_trip).as_secs_f64().max(took.as_secs_f64() / 10.0);
    let bandwidth = burst as f64 / busy(took).max(1e-9);
    let bytes = (FRAMES * (4 + FRAME_LEN)) as f64;
    LinkFigures {
        bandwidth,
        delay_seconds: round_trip.as_secs_f64() / 2.0,
        frame_seconds: ((busy(frames) - bytes / bandwidth) / FRAMES as f64).max(0.0),
        send_cpu_seconds: 0.0,
        receive_cpu_seconds: 0.0,
    }
}

fn middle(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// A connection that breaks when the time of a probe is up, however slowly the peer drips.
struct Bounded<'a> {
    stream: &'a TcpStream,
    deadline: Instant,
}

impl<'a> Bounded<'a> {
    fn new(stream: &'a TcpStream) -> io::Result<Bounded<'a>> {
        // Once: a system call before each message would count as part of its cost.
        stream.set_read_timeout(Some(MAX_TIME))?;
        stream.set_write_timeout(Some(MAX_TIME))?;
        Ok(Bounded { stream, deadline: Instant::now() + MAX_TIME })
    }

    fn check_time(&self) -> io::Result<()> {
        if Instant::now() < self.deadline { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
    }
}

impl Read for Bounded<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.check_time()?;
        self.stream.read(out)
    }
}

impl Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.check_time()?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Both ends of a connection.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    #[test]
    fn both_ends_agree_on_what_was_found() {
        let (near, far) = pair();
        let counted = std::thread::spawn(move || count(&far).unwrap());
        let found = send(&near).unwrap();
        assert_eq!(found.check(), Ok(()));
        assert!(found.send_cpu_seconds > 0.0 && found.receive_cpu_seconds > 0.0, "{found:?}");
        assert_eq!(counted.join().unwrap(), found);
    }

    #[test]
    fn links_carry_something_at_once() {
        let (near, far): (Vec<_>, Vec<_>) = (0..3).map(|_| pair()).unzip();
        let counted: Vec<_> =
            far.into_iter().map(|far| std::thread::spawn(move || count(&far).unwrap())).collect();
        let found = send_together(&near).unwrap();
        for (counted, found) in std::iter::zip(counted, found) {
            // The other end hears what this one found, but for the time of a round trip.
            let bandwidth = counted.join().unwrap().bandwidth;
            assert!((1.0..2.0).contains(&(bandwidth / found)), "{bandwidth} and {found}");
        }
        // One that goes ends it for all.
        let (near, far): (Vec<_>, Vec<_>) = (0..2).map(|_| pair()).unzip();
        drop(far);
        assert!(send_together(&near).is_err());
    }

    #[test]
    fn times_become_figures() {
        let ms = Duration::from_millis;
        // 10 ms there and back; 256 frames in 35.6 ms, of which 10 are the way and 17,408 bytes take 0.17.
        let found = figures(ms(10), Duration::from_micros(35_600), 10_000_000, ms(110));
        assert!((found.bandwidth - 1e8).abs() < 1.0, "{found:?}");
        assert_eq!(found.delay_seconds, 0.005);
        assert!((found.frame_seconds - 99.3e-6).abs() < 1e-7, "{found:?}");
        // Quicker than its own round trip.
        assert_eq!(figures(ms(10), ms(1), 1000, ms(1)).check(), Ok(()));
    }

    #[test]
    fn a_hostile_sender_is_cut_off() {
        let word = |word: u32| word.to_le_bytes().to_vec();
        let endless = word(MAX_PAYLOAD_LEN as u32).into_iter().chain(vec![0; MAX_PAYLOAD_LEN]);
        let endless: Vec<u8> = endless.collect();
        let mut liar = word(END);
        let ms = Duration::from_millis(1);
        let wrong = LinkFigures { bandwidth: f64::NAN, ..figures(ms, ms, 1, ms) };
        write_message(&mut liar, &wrong).unwrap();
        for (what, bytes, times, kind) in [
            ("a long message", word(MAX_PAYLOAD_LEN as u32 + 1), 1, io::ErrorKind::InvalidData),
            ("too many bytes", endless, 4096, io::ErrorKind::InvalidData),
            ("figures that are none", liar, 1, io::ErrorKind::InvalidData),
            ("no figures", [word(END), word(9)].concat(), 1, io::ErrorKind::UnexpectedEof),
            ("half a word", vec![1, 2], 1, io::ErrorKind::UnexpectedEof),
        ] {
            let (mut near, far) = pair();
            let counted = std::thread::spawn(move || count(&far).map_err(|e| e.kind()));
            // It is cut off in the middle.
            let _ = (0..times).try_for_each(|_| near.write_all(&bytes));
            drop(near);
            assert_eq!(counted.join().unwrap(), Err(kind), "{what}");
        }
    }

    #[test]
    fn a_receiver_that_counts_wrong_is_found_out() {
        let (near, mut far) = pair();
        far.write_all(&77u64.to_le_bytes()).unwrap();
        assert_eq!(send(&near).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
