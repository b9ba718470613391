//! Where frames arrive. On a link that may encode, a thread of its own reads ahead while a frame is decoded, so that the
//! link does not wait for its codec; it also knows when what it read came, which the thread that decodes does not.
//!
//! Frames that are not encoded go straight into the tensors' memory, on every link: the thread rests meanwhile.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use wire::CodecList;

use super::spool::travels_raw;
use super::watch::{Total, Watch};

/// What arrives is read in pieces of this size at most.
const PIECE_LEN: usize = 64 << 10;

/// Bytes that wait to be decoded at most, whatever a frame's length.
const MAX_AHEAD: usize = 16 << 20;

/// What frames are read from.
pub trait Source: Read {
    /// When the byte at this position of the stream, from 0, came: of those that the last read gave, and each later than
    /// the one asked for before.
    fn arrival(&mut self, _position: u64) -> Arrival {
        Arrival::now(Duration::ZERO)
    }

    /// Whether what follows is encoded: then decoding it shall not hold the link up.
    fn expect(&mut self, _encoded: bool) {}
}

impl Source for TcpStream {}

impl Source for &[u8] {}

/// When something came off a socket.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The moment.
    pub at: Instant,
    /// For how long nothing was taken off the socket until then, since nobody had room for it.
    pub held_up: Duration,
}

impl Arrival {
    /// Of what somebody reads for himself.
    fn now(held_up: Duration) -> Arrival {
        Arrival { at: Instant::now(), held_up }
    }

    /// How long what came since was on its way, as far as this end let it come.
    pub(super) fn since(&self, before: &Arrival) -> Duration {
        let held_up = self.held_up.saturating_sub(before.held_up);
        self.at.saturating_duration_since(before.at).saturating_sub(held_up)
    }
}

/// Where frames arrive.
pub(crate) enum Inlet {
    /// Into the tensors' memory.
    Direct(TcpStream),
    /// By a thread that reads ahead, as long as frames are encoded.
    Ahead(Ahead),
}

/// The bytes of an inlet that reads ahead.
pub(crate) struct Ahead {
    /// What is being decoded, from `at` on, and when it came.
    taken: Vec<u8>,
    at: usize,
    pieces: VecDeque<Piece>,
    /// Of the stream: bytes given out.
    given: u64,
    /// For how long the thread was held up when it rested last.
    held_up: Duration,
    reading: Reading,
    shared: Arc<Shared>,
    stream: TcpStream,
    thread: Option<JoinHandle<()>>,
}

/// Who reads the socket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// The thread.
    Ahead,
    /// Whoever wants the bytes, as soon as the thread has given out what it has.
    Direct,
    /// The thread rests.
    DirectForSure,
}

/// Bytes that came together.
#[derive(Clone, Copy)]
struct Piece {
    /// The position in the stream behind them.
    end: u64,
    arrival: Arrival,
}

/// What the reading thread has for the one that decodes.
struct Shared {
    arrived: Mutex<Arrived>,
    /// There is something to take, or nothing will come, or the thread rests.
    filled: Condvar,
    /// It was taken, or nobody wants more, or the thread shall go on.
    taken: Condvar,
    /// Bytes that may wait.
    limit: usize,
}

#[derive(Default)]
struct Arrived {
    bytes: Vec<u8>,
    pieces: VecDeque<Piece>,
    /// Of the stream: bytes that came.
    position: u64,
    held_up: Duration,
    /// The thread shall read.
    wanted: bool,
    /// It does.
    reading: bool,
    /// Nothing follows: the stream has ended, or failed.
    end: Option<io::Result<()>>,
    /// Nobody takes anything any more.
    unwanted: bool,
}

impl Inlet {
    /// Of a link that may use these codecs, with frames of about so many bytes. What its thread works is added to `moved`.
    pub(crate) fn new(
        stream: TcpStream,
        codecs: &CodecList,
        frame_len: usize,
        moved: Total,
    ) -> io::Result<Inlet> {
        if travels_raw(codecs) {
            return Ok(Inlet::Direct(stream));
        }
        let shared = Arc::new(Shared {
            arrived: Mutex::default(),
            filled: Condvar::new(),
            taken: Condvar::new(),
            limit: frame_len.clamp(PIECE_LEN, MAX_AHEAD),
        });
        let (from, to) = (stream.try_clone()?, shared.clone());
        let run = move || to.fill(from, &moved);
        let thread = std::thread::Builder::new().name("read".to_owned()).spawn(run)?;
        Ok(Inlet::Ahead(Ahead {
            taken: Vec::new(),
            at: 0,
            pieces: VecDeque::new(),
            given: 0,
            held_up: Duration::ZERO,
            reading: Reading::DirectForSure,
            shared,
            stream,
            thread: Some(thread),
        }))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Arrived> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads, while that is wanted, until the stream ends or nobody wants more.
    fn fill(&self, mut stream: TcpStream, moved: &Total) {
        let (mut piece, mut watch, mut unnoted) = (vec![0; PIECE_LEN], Watch::default(), 0);
        watch.lap();
        let mut arrived = self.lock();
        loop {
            let rests = |arrived: &mut Arrived| !arrived.wanted && !arrived.unwanted;
            arrived = self.taken.wait_while(arrived, rests).unwrap_or_else(PoisonError::into_inner);
            if arrived.unwanted || arrived.end.is_some() {
                return;
            }
            arrived.reading = true;
            drop(arrived);
            let read = stream.read(&mut piece);
            let at = Instant::now();
            unnoted += *read.as_ref().unwrap_or(&0);
            if unnoted >= PIECE_LEN {
                moved.add(watch.lap());
                unnoted = 0;
            }
            arrived = self.take_in(read.map(|len| &piece[..len]), at);
            arrived.reading = false;
            self.filled.notify_one();
        }
    }

    /// Keeps what was read, once there is room for it.
    fn take_in(&self, read: io::Result<&[u8]>, at: Instant) -> MutexGuard<'_, Arrived> {
        let mut arrived = self.lock();
        match read {
            Ok([]) => arrived.end = Some(Ok(())),
            Ok(piece) => {
                let is_full = |arrived: &mut Arrived| {
                    let waiting = arrived.bytes.len() + arrived.pieces.len() * size_of::<Piece>();
                    !arrived.unwanted && waiting > 0 && waiting + piece.len() > self.limit
                };
                arrived.position += piece.len() as u64;
                let arrival = Arrival { at, held_up: arrived.held_up };
                if is_full(&mut arrived) {
                    arrived = self.taken.wait_while(arrived, is_full).unwrap_or_else(PoisonError::into_inner);
                    arrived.held_up += at.elapsed();
                }
                let end = arrived.position;
                // Not twice of what it was: there is a limit to what waits.
                let capacity = (2 * arrived.bytes.capacity()).min(self.limit);
                let more = capacity.saturating_sub(arrived.bytes.len()).max(piece.len());
                if arrived.bytes.capacity() < arrived.bytes.len() + piece.len() {
                    arrived.bytes.reserve_exact(more);
                }
                arrived.bytes.extend_from_slice(piece);
                arrived.pieces.push_back(Piece { end, arrival });
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => arrived.end = Some(Err(e)),
        }
        arrived
    }
}

impl Ahead {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.taken.len() {
            if self.reading == Reading::DirectForSure {
                return self.read_directly(out);
            }
            self.taken.clear();
            self.at = 0;
            let nothing = |arrived: &mut Arrived| {
                let comes = arrived.wanted || arrived.reading;
                arrived.bytes.is_empty() && arrived.end.is_none() && comes
            };
            let waited = self.shared.filled.wait_while(self.shared.lock(), nothing);
            let mut arrived = waited.unwrap_or_else(PoisonError::into_inner);
            if !arrived.bytes.is_empty() {
                std::mem::swap(&mut self.taken, &mut arrived.bytes);
                self.pieces.clear();
                std::mem::swap(&mut self.pieces, &mut arrived.pieces);
                self.shared.taken.notify_one();
            } else if let Some(end) = &mut arrived.end {
                // An error is told once; after it there is nothing.
                return std::mem::replace(end, Ok(())).map(|()| 0);
            } else {
                self.held_up = arrived.held_up;
                drop(arrived);
                self.reading = Reading::DirectForSure;
                return self.read_directly(out);
            }
        }
        let len = out.len().min(self.taken.len() - self.at);
        out[..len].copy_from_slice(&self.taken[self.at..self.at + len]);
        self.at += len;
        self.given += len as u64;
        Ok(len)
    }

    fn read_directly(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let len = (&self.stream).read(out)?;
        self.given += len as u64;
        Ok(len)
    }

    fn expect(&mut self, encoded: bool) {
        if encoded == (self.reading == Reading::Ahead) {
            return;
        }
        let mut arrived = self.shared.lock();
        arrived.wanted = encoded;
        if encoded {
            if self.reading == Reading::DirectForSure {
                // The thread was not there to count.
                arrived.position = self.given;
            }
            self.reading = Reading::Ahead;
            self.shared.taken.notify_one();
        } else {
            self.reading = Reading::Direct;
        }
    }

    fn arrival(&mut self, position: u64) -> Arrival {
        while self.pieces.front().is_some_and(|piece| piece.end <= position) {
            self.pieces.pop_front();
        }
        self.pieces.front().map_or_else(|| Arrival::now(self.held_up), |piece| piece.arrival)
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.shared.lock().unwanted = true;
        self.shared.taken.notify_one();
        // The thread may be waiting for bytes; the connection may be gone already.
        let _ = self.stream.shutdown(Shutdown::Read);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a reading thread panicked");
        }
    }
}

impl Read for Inlet {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Inlet::Direct(stream) => stream.read(out),
            Inlet::Ahead(ahead) => ahead.read(out),
        }
    }
}

impl Source for Inlet {
    fn arrival(&mut self, position: u64) -> Arrival {
        match self {
            Inlet::Direct(stream) => stream.arrival(position),
            Inlet::Ahead(ahead) => ahead.arrival(position),
        }
    }

    fn expect(&mut self, encoded: bool) {
        if let Inlet::Ahead(ahead) = self {
            ahead.expect(encoded);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use crossbeam_channel::bounded;
    use wire::Codec;

    use super::super::test_streams::{HUNG, connection, frame};
    use super::*;

    fn inlet(stream: TcpStream, frame_len: usize) -> Inlet {
        Inlet::new(stream, &Codec::LZ4.into(), frame_len, Total::default()).unwrap()
    }

    #[test]
    fn a_frame_arrives_while_nobody_reads() {
        let (mut near, far) = connection();
        let mut inlet = inlet(far, 8 << 20);
        inlet.expect(true);
        let sent = &frame(3)[..8 << 20];
        // More than the system's buffers hold goes through although nothing is asked for, in the smallest of pieces: when
        // each came is kept, too, and leaves less room for the rest.
        near.set_nodelay(true).unwrap();
        sent[..4 << 20].chunks(1 << 10).for_each(|piece| near.write_all(piece).unwrap());
        let rest = sent[4 << 20..].to_vec();
        let sending = std::thread::spawn(move || near.write_all(&rest).unwrap());
        let mut arrived = Vec::new();
        inlet.read_to_end(&mut arrived).unwrap();
        assert!(arrived == sent);
        assert_eq!(inlet.read(&mut [0]).unwrap(), 0, "and it is over for good");
        sending.join().unwrap();
    }

    #[test]
    fn an_inlet_ends_whatever_its_thread_waits_for() {
        for (sent, encoded) in [(0, true), (1 << 20, true), (1 << 20, false)] {
            let (mut near, far) = connection();
            let mut inlet = inlet(far, 1);
            inlet.expect(encoded);
            near.write_all(&frame(1)[..sent]).unwrap();
            let (tell, ended) = bounded(1);
            std::thread::spawn(move || {
                drop(inlet);
                tell.send(()).unwrap();
            });
            ended.recv_timeout(HUNG).expect("its thread ends");
            drop(near);
        }
    }

    #[test]
    fn every_byte_arrives_once_whoever_reads_it() {
        let (mut near, far) = connection();
        let sent = frame(5);
        let expected = sent.clone();
        let sending = std::thread::spawn(move || near.write_all(&sent).unwrap());
        let mut inlet = inlet(far, 1 << 20);
        let (mut arrived, mut random) = (vec![0; expected.len()], fastrand::Rng::with_seed(1));
        let mut at = 0;
        while at < arrived.len() {
            inlet.expect(random.u8(..) % 4 != 0);
            let len = random.usize(1..1 << 18).min(arrived.len() - at);
            inlet.read_exact(&mut arrived[at..at + len]).unwrap();
            at += len;
        }
        assert!(arrived == expected);
        inlet.expect(true);
        assert_eq!(inlet.read(&mut [0]).unwrap(), 0);
        inlet.expect(false);
        assert_eq!(inlet.read(&mut [0]).unwrap(), 0);
        sending.join().unwrap();
    }

    #[test]
    fn what_comes_while_nobody_reads_came_before_it_is_read() {
        let (mut near, far) = connection();
        let mut inlet = inlet(far, 1 << 20);
        let Inlet::Ahead(ahead) = &inlet else { panic!("it may encode") };
        let shared = ahead.shared.clone();
        let come = |bytes: u64| {
            let few = |arrived: &mut Arrived| arrived.position < bytes;
            drop(shared.filled.wait_timeout_while(shared.lock(), HUNG, few).unwrap());
            Instant::now()
        };
        inlet.expect(true);
        let begun = Instant::now();
        near.write_all(&[1; 100]).unwrap();
        let first = come(100);
        near.write_all(&[2; 100]).unwrap();
        let second = come(200);
        let (mut bytes, mut came) = ([0; 50], Vec::new());
        for position in (0..200).step_by(50) {
            inlet.read_exact(&mut bytes).unwrap();
            came.push((inlet.arrival(position).at, inlet.arrival(position + 49).at));
        }
        assert!(came.iter().all(|(first, last)| first == last), "{came:?}");
        assert!(begun <= came[0].0 && came[0] == came[1] && came[1].0 <= first);
        assert!(first <= came[2].0 && came[2] == came[3] && came[3].0 <= second);
    }

    #[test]
    fn time_in_which_nothing_is_taken_is_not_the_links() {
        let begun = Instant::now();
        let arrival = |at, held_up| Arrival {
            at: begun + Duration::from_millis(at),
            held_up: Duration::from_millis(held_up),
        };
        for (first, last, took) in [
            ((5, 0), (9, 0), 4),
            ((5, 3), (9, 5), 2),
            ((5, 3), (5, 3), 0),
            ((5, 0), (6, 2), 0),
            ((6, 1), (5, 1), 0),
        ] {
            let since = arrival(last.0, last.1).since(&arrival(first.0, first.1));
            assert_eq!(since, Duration::from_millis(took), "{first:?} to {last:?}");
        }
        // A thread that finds no room says so.
        let (mut near, far) = connection();
        let mut inlet = inlet(far, 1);
        inlet.expect(true);
        let sent = 4 << 20;
        let sending = std::thread::spawn(move || near.write_all(&frame(1)[..sent]).unwrap());
        let Inlet::Ahead(ahead) = &inlet else { panic!("it may encode") };
        let shared = ahead.shared.clone();
        // It counts what it has read and only gives the lock up to wait for room; nothing tells of that.
        let finds_no_room = || {
            let arrived = shared.lock();
            arrived.position > arrived.bytes.len() as u64
        };
        let begun = Instant::now();
        while !finds_no_room() {
            assert!(begun.elapsed() < HUNG, "it finds room for more than it may keep");
            std::thread::yield_now();
        }
        inlet.read_exact(&mut vec![0; sent]).unwrap();
        sending.join().unwrap();
        let Inlet::Ahead(ahead) = &inlet else { panic!("it may encode") };
        assert!(ahead.shared.lock().held_up > Duration::ZERO);
        assert!(ahead.shared.lock().bytes.capacity() <= PIECE_LEN && ahead.taken.capacity() <= PIECE_LEN);
    }
}
