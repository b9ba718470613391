//! Room between a codec and a socket, so that a frame is encoded while the one before it is sent, and decoded while the
//! next one arrives: the system's buffers hold a part of a frame only, and a link would stand still meanwhile.
//!
//! Used by both ends of links that may encode. A link whose tensors travel as they are has nothing to overlap: its bytes
//! go from and into the tensors' own memory.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use tensor::TensorSpec;
use wire::{Codec, CodecList};

/// Frames between the thread that encodes and the one that sends: one each.
const FRAMES: usize = 2;

/// What arrives is read in pieces of this size.
const PIECE_LEN: usize = 64 << 10;

/// Pieces that wait to be decoded at most, whatever a frame's length.
const MAX_PIECES: usize = 256;

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
    /// Of a link that may use these codecs.
    pub(crate) fn new(stream: TcpStream, codecs: &CodecList) -> io::Result<Outlet> {
        if travels_raw(codecs) {
            return Ok(Outlet::Direct(stream));
        }
        let (full, frames) = bounded(FRAMES);
        let (give_back, empty) = bounded(FRAMES);
        (1..FRAMES).for_each(|_| give_back.send(Vec::new()).expect("there is a place for each"));
        let mut to = stream.try_clone()?;
        let send = move || {
            frames.iter().try_for_each(|mut frame: Vec<u8>| {
                to.write_all(&frame)?;
                frame.clear();
                // The encoding thread may be gone.
                let _ = give_back.send(frame);
                Ok(())
            })
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

/// The pieces of an inlet that reads ahead.
pub(crate) struct Ahead {
    /// What is being decoded, from `at` on.
    piece: Vec<u8>,
    at: usize,
    arrived: Receiver<io::Result<Vec<u8>>>,
    /// To be filled again.
    read: Sender<Vec<u8>>,
}

impl Inlet {
    /// Of a link that may use these codecs, with frames of about so many bytes.
    pub(crate) fn new(stream: TcpStream, codecs: &CodecList, frame_len: usize) -> io::Result<Inlet> {
        if travels_raw(codecs) {
            return Ok(Inlet::Direct(stream));
        }
        let pieces = (frame_len / PIECE_LEN + 2).min(MAX_PIECES);
        let (arrived_in, arrived) = bounded(pieces);
        let (read, free) = bounded::<Vec<u8>>(pieces);
        // They take no memory before they are filled.
        (0..pieces).for_each(|_| read.send(Vec::new()).expect("there is a place for each"));
        let run = move || {
            for piece in free {
                let arrived = fill(&stream, piece).transpose();
                let Some(arrived) = arrived else { return };
                let failed = arrived.is_err();
                if arrived_in.send(arrived).is_err() || failed {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("read".to_owned()).spawn(run)?;
        Ok(Inlet::Ahead(Ahead { piece: Vec::new(), at: 0, arrived, read }))
    }
}

/// The next bytes of a stream; `None` at its end.
fn fill(mut stream: &TcpStream, mut piece: Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    piece.resize(PIECE_LEN, 0);
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return Ok(None),
            Ok(len) => {
                piece.truncate(len);
                return Ok(Some(piece));
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

impl Ahead {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            let next = match self.arrived.recv() {
                Ok(arrived) => arrived?,
                Err(_) => return Ok(0),
            };
            // The reading thread may be gone.
            let _ = self.read.send(std::mem::replace(&mut self.piece, next));
            self.at = 0;
        }
        let len = out.len().min(self.piece.len() - self.at);
        out[..len].copy_from_slice(&self.piece[self.at..self.at + len]);
        self.at += len;
        Ok(len)
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
        let mut outlet = Outlet::new(near, &Codec::LZ4.into()).unwrap();
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
        let mut outlet = Outlet::new(near, &Codec::LZ4.into()).unwrap();
        drop(far);
        let sent = (0..4).try_for_each(|n| {
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
        // More than the system's buffers hold goes through although nothing is asked for.
        near.write_all(sent).unwrap();
        drop(near);
        let mut arrived = Vec::new();
        inlet.read_to_end(&mut arrived).unwrap();
        assert!(arrived == sent);
        assert_eq!(inlet.read(&mut [0]).unwrap(), 0, "and it is over for good");
    }

    #[test]
    fn links_that_do_not_encode_are_read_and_written_directly() {
        let (near, far) = connection();
        let raw = CodecList::default();
        assert!(matches!(Outlet::new(near, &raw).unwrap(), Outlet::Direct(_)));
        assert!(matches!(Inlet::new(far, &raw, 1).unwrap(), Inlet::Direct(_)));
    }
}
