//! Room between a codec and a socket, so that a frame is encoded while the one before it is sent: the system's buffers
//! hold a part of a frame only, and a link would stand still meanwhile. The other end is [`super::ahead`].
//!
//! Used by links that may encode. Frames that are not encoded have nothing to overlap, on any link: their bytes go from
//! the tensors' own memory.

use std::io::{self, IoSlice, Write};
use std::net::{Shutdown, TcpStream};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use tensor::TensorSpec;
use wire::{Codec, CodecList};

use super::watch::{Total, Watch};
use crate::recorder::Recorder;

/// What frames are written to.
pub trait Sink: Write {
    /// Whether the frame that follows is encoded: then nothing shall wait until it is sent. Waits for the frames before it,
    /// as far as there is something to wait for.
    fn expect(&mut self, _encoded: bool) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for TcpStream {}

impl Sink for &mut Vec<u8> {}

/// Where frames leave.
pub(crate) enum Outlet {
    /// From the tensors' memory.
    Direct(TcpStream),
    /// Encoded, by a thread of its own.
    Spooled(Spool),
}

/// The frames of an outlet that encodes. There are two at most: one that is being encoded, and one being sent.
pub(crate) struct Spool {
    /// What is being encoded.
    filling: Vec<u8>,
    /// The other one's memory, while nothing is being sent.
    spare: Option<Vec<u8>>,
    /// Whether bytes go to the connection as they come.
    passes: bool,
    /// Dropped to end the thread.
    full: Option<Sender<Vec<u8>>>,
    empty: Receiver<Vec<u8>>,
    thread: Option<JoinHandle<io::Result<()>>>,
    stream: TcpStream,
}

impl Outlet {
    /// Of a link that may use these codecs. `failed` is called when sending fails, by the thread that notices: whoever
    /// encodes may be waiting for the next frame. What its thread works is added to `moved`, and it records when frames
    /// are sent.
    pub(crate) fn new(
        stream: TcpStream,
        codecs: &CodecList,
        moved: Total,
        recorder: &Recorder,
        failed: impl FnOnce(&io::Error) + Send + 'static,
    ) -> io::Result<Outlet> {
        if travels_raw(codecs) {
            return Ok(Outlet::Direct(stream));
        }
        // One frame at a time is on either way.
        let (full, frames) = bounded(1);
        let (give_back, empty) = bounded(1);
        let (mut to, recorder) = (stream.try_clone()?, recorder.clone());
        let send = move || {
            let mut watch = Watch::default();
            watch.lap();
            let sent = frames.iter().try_for_each(|mut frame: Vec<u8>| {
                recorder.sending(&frame, || to.write_all(&frame))?;
                moved.add(watch.lap());
                frame.clear();
                // The encoding thread may be gone.
                let _ = give_back.send(frame);
                Ok(())
            });
            sent.inspect_err(failed)
        };
        let thread = std::thread::Builder::new().name("send".to_owned()).spawn(send)?;
        Ok(Outlet::Spooled(Spool {
            filling: Vec::new(),
            spare: Some(Vec::new()),
            passes: false,
            full: Some(full),
            empty,
            thread: Some(thread),
            stream,
        }))
    }

    /// Whether the last frame was sent once it was written.
    pub(crate) fn is_direct(&self) -> bool {
        match self {
            Outlet::Direct(_) => true,
            Outlet::Spooled(spool) => spool.passes,
        }
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
    /// Gives what was encoded to the sending thread, once that has sent the frame before.
    fn hand_over(&mut self) -> io::Result<()> {
        self.drain()?;
        let next = self.spare.take().expect("it was drained");
        let frame = std::mem::replace(&mut self.filling, next);
        let sent = self.full.as_ref().is_some_and(|full| full.send(frame).is_ok());
        if sent { Ok(()) } else { Err(self.failure()) }
    }

    /// Waits until nothing is being sent.
    fn drain(&mut self) -> io::Result<()> {
        if self.spare.is_none() {
            let Ok(spare) = self.empty.recv() else { return Err(self.failure()) };
            self.spare = Some(spare);
        }
        Ok(())
    }

    fn fill(&mut self, parts: &[IoSlice<'_>]) -> usize {
        let len = parts.iter().map(|part| part.len()).sum();
        // Not twice of what it was: memory is planned for.
        self.filling.reserve_exact(len);
        parts.iter().for_each(|part| self.filling.extend_from_slice(part));
        len
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
            Outlet::Spooled(spool) if spool.passes => spool.stream.write(bytes),
            Outlet::Spooled(spool) => Ok(spool.fill(&[IoSlice::new(bytes)])),
        }
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Outlet::Direct(stream) => stream.write_vectored(parts),
            Outlet::Spooled(spool) if spool.passes => spool.stream.write_vectored(parts),
            Outlet::Spooled(spool) => Ok(spool.fill(parts)),
        }
    }

    /// A frame is complete.
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Outlet::Direct(_) => Ok(()),
            Outlet::Spooled(spool) if spool.passes => Ok(()),
            Outlet::Spooled(spool) => spool.hand_over(),
        }
    }
}

impl Sink for Outlet {
    fn expect(&mut self, encoded: bool) -> io::Result<()> {
        let Outlet::Spooled(spool) = self else { return Ok(()) };
        if !encoded {
            spool.drain()?;
        }
        spool.passes = !encoded;
        Ok(())
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
pub(super) fn travels_raw(codecs: &CodecList) -> bool {
    codecs.iter().all(|codec| codec == Codec::RAW)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::super::ahead::Inlet;
    use super::super::test_streams::{FRAME_LEN, HUNG, connection, frame};
    use super::*;

    #[test]
    fn a_frame_is_encoded_while_the_one_before_is_sent() {
        let (near, mut far) = connection();
        let mut outlet =
            Outlet::new(near, &Codec::LZ4.into(), Total::default(), &Recorder::default(), |_| {}).unwrap();
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
        let mut outlet =
            Outlet::new(near, &Codec::LZ4.into(), Total::default(), &Recorder::default(), failed).unwrap();
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
    fn a_frame_that_is_not_encoded_follows_those_before_it_and_passes_by() {
        let (near, mut far) = connection();
        let mut outlet =
            Outlet::new(near, &Codec::LZ4.into(), Total::default(), &Recorder::default(), |_| {}).unwrap();
        let frames = [(true, 0), (true, 1), (false, 2), (false, 3), (true, 4), (false, 5)];
        let sending = std::thread::spawn(move || {
            for (encoded, n) in frames {
                outlet.expect(encoded).unwrap();
                let Outlet::Spooled(spool) = &outlet else { panic!("it may encode") };
                let before = spool.filling.capacity();
                outlet.write_all(&frame(n)).unwrap();
                let Outlet::Spooled(spool) = &outlet else { panic!("it may encode") };
                assert!(encoded || spool.filling.capacity() == before, "frame {n} was copied");
                outlet.flush().unwrap();
                assert_eq!(outlet.is_direct(), !encoded, "frame {n} is sent by now");
            }
            outlet.finish().unwrap();
        });
        for (_, n) in frames {
            let mut arrived = vec![0; FRAME_LEN];
            far.read_exact(&mut arrived).unwrap();
            assert!(arrived == frame(n), "frame {n}");
        }
        assert_eq!(far.read(&mut [0]).unwrap(), 0, "nothing follows");
        sending.join().unwrap();
    }

    #[test]
    fn a_spool_keeps_two_frames_however_they_grow() {
        let (near, mut far) = connection();
        let mut outlet =
            Outlet::new(near, &Codec::LZ4.into(), Total::default(), &Recorder::default(), |_| {}).unwrap();
        let lens = [10_000, 11_000, 15_000, 15_001, 16_000, 9_000];
        for len in lens {
            outlet.expect(true).unwrap();
            outlet.write_all(&frame(0)[..len]).unwrap();
            outlet.flush().unwrap();
            far.read_exact(&mut vec![0; len]).unwrap();
        }
        let Outlet::Spooled(spool) = &mut outlet else { panic!("it may encode") };
        spool.drain().unwrap();
        assert!(spool.filling.capacity() + spool.spare.as_ref().unwrap().capacity() <= 2 * 16_000);
    }

    #[test]
    fn links_that_do_not_encode_are_read_and_written_directly() {
        let (near, far) = connection();
        let raw = CodecList::default();
        let outlet = Outlet::new(near, &raw, Total::default(), &Recorder::default(), |_| {}).unwrap();
        assert!(matches!(outlet, Outlet::Direct(_)));
        assert!(matches!(Inlet::new(far, &raw, 1, Total::default()).unwrap(), Inlet::Direct(_)));
    }
}
