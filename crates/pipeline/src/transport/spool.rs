//! Room between a codec and a socket, so that a frame is encoded while the one before it is sent, and decoded while the
//! next one arrives: the system's buffers hold a part of a frame only, and a link would stand still meanwhile.
//!
//! Used by both ends of links that may encode. A link that may use nothing but raw has nothing to overlap: its bytes go
//! from and into the tensors' own memory.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use tensor::TensorSpec;
use wire::{Codec, CodecList};

/// Frames between the thread that encodes and the one that sends: one each.
const FRAMES: usize = 2;

/// What arrives is read in pieces of this size at most.
const PIECE_LEN: usize = 64 << 10;

/// Bytes that wait to be decoded at most, whatever a frame's length.
const MAX_AHEAD: usize = 16 << 20;

/// Where frames leave.
pub(crate) enum Outlet {
    /// From the tensors' memory.
    Direct(TcpStream),
    /// Encoded, by a thread of its own.
    Spooled(Spool),
}

/// The frames of an outlet that encodes.
pub(crate) struct Spool {
    /// What is being encoded.
    filling: Vec<u8>,
    /// Dropped to end the thread.
    full: Option<Sender<Vec<u8>>>,
    empty: Receiver<Vec<u8>>,
    thread: Option<JoinHandle<io::Result<()>>>,
    stream: TcpStream,
}

impl Outlet {
    /// Of a link that may use these codecs. `failed` is called when sending fails, by the thread that notices: whoever
    /// encodes may be waiting for the next frame.
    pub(crate) fn new(
        stream: TcpStream,
        codecs: &CodecList,
        failed: impl FnOnce(&io::Error) + Send + 'static,
    ) -> io::Result<Outlet> {
        if travels_raw(codecs) {
            return Ok(Outlet::Direct(stream));
        }
        let (full, frames) = bounded(FRAMES);
        let (give_back, empty) = bounded(FRAMES);
        (1..FRAMES).for_each(|_| give_back.send(Vec::new()).expect("there is a place for each"));
        let mut to = stream.try_clone()?;
        let send = move || {
            let sent = frames.iter().try_for_each(|mut frame: Vec<u8>| {
                to.write_all(&frame)?;
                frame.clear();
                // The encoding thread may be gone.
                let _ = give_back.send(frame);
                Ok(())
            });
            sent.inspect_err(failed)
        };
        let thread = std::thread::Builder::new().name("send".to_owned()).spawn(send)?;
        let spool = Spool { filling: Vec::new(), full: Some(full), empty, thread: Some(thread), stream };
        Ok(Outlet::Spooled(spool))
    }

    /// Sends what is left, then says that nothing follows.
    pub(crate) fn finish(self) -> io::Result<()> {
        let stream = match self {
            Outlet::Direct(stream) => stream,
            Outlet::Spooled(mut spool) => {
                spool.join()?;
                spool.stream
            }
        };
        // The peer may have closed already.
        let _ = stream.shutdown(Shutdown::Write);
        Ok(())
    }
}

impl Spool {
    /// Gives what was encoded to the sending thread, once that has sent the frame before the last one.
    fn hand_over(&mut self) -> io::Result<()> {
        let Ok(next) = self.empty.recv() else { return Err(self.failure()) };
        let frame = std::mem::replace(&mut self.filling, next);
        let sent = self.full.as_ref().is_some_and(|full| full.send(frame).is_ok());
        if sent { Ok(()) } else { Err(self.failure()) }
    }

    /// Why the sending thread is gone.
    fn failure(&mut self) -> io::Error {
        self.join().err().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    fn join(&mut self) -> io::Result<()> {
        drop(self.full.take());
        let Some(thread) = self.thread.take() else { return Err(io::ErrorKind::BrokenPipe.into()) };
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the sending thread panicked")))
    }
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Outlet::Direct(stream) => stream.write(bytes),
            Outlet::Spooled(spool) => spool.filling.write(bytes),
        }
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Outlet::Direct(stream) => stream.write_vectored(parts),
            Outlet::Spooled(spool) => spool.filling.write_vectored(parts),
        }
    }

    /// A frame is complete.
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Outlet::Direct(_) => Ok(()),
            Outlet::Spooled(spool) => spool.hand_over(),
        }
    }
}

/// Where frames arrive.
pub(crate) enum Inlet {
    /// Into the tensors' memory.
    Direct(TcpStream),
    /// To be decoded, by a thread that reads ahead.
    Ahead(Ahead),
}

/// The bytes of an inlet that reads ahead.
pub(crate) struct Ahead {
    /// What is being decoded, from `at` on.
    taken: Vec<u8>,
    at: usize,
    shared: Arc<Shared>,
    stream: TcpStream,
    thread: Option<JoinHandle<()>>,
}

/// What the reading thread has for the one that decodes.
struct Shared {
    arrived: Mutex<Arrived>,
    /// There is something to take, or nothing will come.
    filled: Condvar,
    /// It was taken, or nobody wants more.
    taken: Condvar,
    /// Bytes that may wait.
    limit: usize,
}

#[derive(Default)]
struct Arrived {
    bytes: Vec<u8>,
    /// Nothing follows: the stream has ended, or failed.
    end: Option<io::Result<()>>,
    /// Nobody takes anything any more.
    unwanted: bool,
}

impl Inlet {
    /// Of a link that may use these codecs, with frames of about so many bytes.
    pub(crate) fn new(stream: TcpStream, codecs: &CodecList, frame_len: usize) -> io::Result<Inlet> {
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
        let thread = std::thread::Builder::new().name("read".to_owned()).spawn(move || to.fill(from))?;
        Ok(Inlet::Ahead(Ahead { taken: Vec::new(), at: 0, shared, stream, thread: Some(thread) }))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Arrived> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads until the stream ends or nobody wants more.
    fn fill(&self, mut stream: TcpStream) {
        let mut piece = vec![0; PIECE_LEN];
        let end = loop {
            match stream.read(&mut piece) {
                Ok(0) => break Ok(()),
                Ok(len) => {
                    let full = |arrived: &mut Arrived| {
                        let waiting = arrived.bytes.len();
                        !arrived.unwanted && waiting > 0 && waiting + len > self.limit
                    };
                    let waited = self.taken.wait_while(self.lock(), full);
                    let mut arrived = waited.unwrap_or_else(PoisonError::into_inner);
                    if arrived.unwanted {
                        return;
                    }
                    arrived.bytes.extend_from_slice(&piece[..len]);
                    self.filled.notify_one();
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break Err(e),
            }
        };
        self.lock().end = Some(end);
        self.filled.notify_one();
    }
}

impl Ahead {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.taken.len() {
            self.taken.clear();
            self.at = 0;
            let nothing = |arrived: &mut Arrived| arrived.bytes.is_empty() && arrived.end.is_none();
            let waited = self.shared.filled.wait_while(self.shared.lock(), nothing);
            let mut arrived = waited.unwrap_or_else(PoisonError::into_inner);
            if arrived.bytes.is_empty() {
                // An error is told once; after it there is nothing.
                return arrived.end.replace(Ok(())).unwrap_or(Ok(())).map(|()| 0);
            }
            std::mem::swap(&mut self.taken, &mut arrived.bytes);
            self.shared.taken.notify_one();
        }
        let len = out.len().min(self.taken.len() - self.at);
        out[..len].copy_from_slice(&self.taken[self.at..self.at + len]);
        self.at += len;
        Ok(len)
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

/// Bytes of the tensors of a frame, as far as their sizes are fixed.
pub(crate) fn frame_len(specs: &[TensorSpec]) -> usize {
    let len = |spec: &TensorSpec| {
        let elements = spec.fixed_shape().and_then(|shape| shape.elements()).unwrap_or(0);
        elements.saturating_mul(spec.dtype.element_len().unwrap_or(1))
    };
    specs.iter().map(len).fold(0, usize::saturating_add)
}

/// Whether a link does not encode, whatever it switches to.
fn travels_raw(codecs: &CodecList) -> bool {
    codecs.iter().all(|codec| codec == Codec::RAW)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::time::Duration;

    const HUNG: Duration = Duration::from_secs(60);

    fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    /// So long that no system's buffers hold it.
    const FRAME_LEN: usize = 32 << 20;

    fn frame(n: u8) -> Vec<u8> {
        (0..FRAME_LEN).map(|i| (i / 7) as u8 ^ n).collect()
    }

    #[test]
    fn a_frame_is_encoded_while_the_one_before_is_sent() {
        let (near, mut far) = connection();
        let mut outlet = Outlet::new(near, &Codec::LZ4.into(), |_| {}).unwrap();
        // Nobody reads: a first frame is handed over in any case, and a second one encoded.
        outlet.write_all(&frame(0)).unwrap();
        outlet.flush().unwrap();
        outlet.write_all(&frame(1)).unwrap();
        let (mut first, mut second) = (vec![0; FRAME_LEN], vec![0; FRAME_LEN]);
        far.read_exact(&mut first).unwrap();
        outlet.flush().unwrap();
        let finished = std::thread::spawn(move || outlet.finish());
        far.read_exact(&mut second).unwrap();
        assert!(first == frame(0) && second == frame(1));
        assert_eq!(far.read(&mut [0]).unwrap(), 0, "nothing follows");
        finished.join().unwrap().unwrap();
    }

    #[test]
    fn frames_that_nobody_takes_are_an_error() {
        let (near, far) = connection();
        let (tell, told) = bounded(1);
        let failed = move |e: &io::Error| tell.send(e.kind()).unwrap();
        let mut outlet = Outlet::new(near, &Codec::LZ4.into(), failed).unwrap();
        outlet.write_all(&frame(0)).unwrap();
        outlet.flush().unwrap();
        drop(far);
        told.recv_timeout(HUNG).expect("it is told before anybody asks");
        let sent = (0..2).try_for_each(|n| {
            outlet.write_all(&frame(n))?;
            outlet.flush()
        });
        assert!(sent.is_err());
        assert!(outlet.flush().is_err(), "and stay one");
    }

    #[test]
    fn a_frame_arrives_while_nobody_reads() {
        let (mut near, far) = connection();
        let mut inlet = Inlet::new(far, &Codec::LZ4.into(), 8 << 20).unwrap();
        let sent = &frame(3)[..8 << 20];
        // More than the system's buffers hold goes through although nothing is asked for, however small its pieces.
        near.set_nodelay(true).unwrap();
        sent.chunks(1 << 10).for_each(|piece| near.write_all(piece).unwrap());
        drop(near);
        let mut arrived = Vec::new();
        inlet.read_to_end(&mut arrived).unwrap();
        assert!(arrived == sent);
        assert_eq!(inlet.read(&mut [0]).unwrap(), 0, "and it is over for good");
    }

    #[test]
    fn an_inlet_ends_whatever_its_thread_waits_for() {
        for sent in [0, 1 << 20] {
            let (mut near, far) = connection();
            let inlet = Inlet::new(far, &Codec::LZ4.into(), 1).unwrap();
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
    fn links_that_do_not_encode_are_read_and_written_directly() {
        let (near, far) = connection();
        let raw = CodecList::default();
        assert!(matches!(Outlet::new(near, &raw, |_| {}).unwrap(), Outlet::Direct(_)));
        assert!(matches!(Inlet::new(far, &raw, 1).unwrap(), Inlet::Direct(_)));
    }
}
