//! Frames onto a byte stream, from the tensors' own buffers: the other end of [`FrameReader`](super::FrameReader), with whose
//! tests it is tested.

use std::io::{self, IoSlice, Write};

use tensor::TensorView;
use wire::frame::{self, MAX_TENSORS};
use wire::{Codec, Descriptor, Header, Kind, Room, checksum};

use super::frames::{Checksums, MAX_REASON_LEN};
use super::spool::Sink;
use super::watch::{Spent, Watch};

/// Sends frames. After the first item of a size it allocates nothing.
pub struct FrameWriter<W> {
    stream: W,
    codec: Codec,
    checksums: Checksums,
    header: Vec<u8>,
    descriptors: Vec<Descriptor>,
    /// Room for each tensor of a frame: all are sent at once.
    rooms: Vec<Room>,
    watch: Watch,
}

/// What sending one frame took.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Bytes on the wire.
    pub bytes: u64,
    /// Tensors for whose values the codec does not stand, sent in a wider one.
    pub widened: u64,
    /// Of the thread that encodes.
    pub spent: Spent,
}

impl<W: Sink> FrameWriter<W> {
    /// A writer that encodes with `codec`.
    pub fn new(stream: W, codec: Codec, checksums: Checksums) -> FrameWriter<W> {
        FrameWriter {
            stream,
            codec,
            checksums,
            header: Vec::new(),
            descriptors: Vec::new(),
            rooms: Vec::new(),
            watch: Watch::default(),
        }
    }

    /// Encodes with another codec from the next frame on. The receiver must accept it.
    pub fn set_codec(&mut self, codec: Codec) {
        self.codec = codec;
    }

    /// Sends one frame. Tensors that are not encoded go to the stream from where they lie.
    ///
    /// # Panics
    /// With more than [`MAX_TENSORS`] tensors.
    pub fn send(&mut self, header: &Header, tensors: &[TensorView<'_>]) -> io::Result<Sent> {
        assert!(tensors.len() <= MAX_TENSORS);
        if self.rooms.len() < tensors.len() {
            self.rooms.resize_with(tensors.len(), Room::default);
        }
        let mut parts = [IoSlice::new(&[]); MAX_TENSORS + 1];
        let mut spent = Spent::default();
        let (codec, checksums) = (self.codec, self.checksums);
        let (rooms, descriptors, header_bytes) = (&mut self.rooms, &mut self.descriptors, &mut self.header);
        let encode = || {
            descriptors.clear();
            for ((tensor, room), part) in tensors.iter().zip(rooms).zip(&mut parts[1..]) {
                let (codec, encoded) = codec.encode_or_wider(*tensor, room);
                descriptors.push(Descriptor {
                    codec,
                    dtype: tensor.dtype(),
                    shape: tensor.shape(),
                    len: tensor.bytes().len(),
                    encoded_len: encoded.len(),
                    checksum: (checksums == Checksums::On).then(|| checksum(encoded)),
                });
                *part = IoSlice::new(encoded);
            }
            frame::write_header(header, descriptors, header_bytes);
        };
        if codec == Codec::RAW && checksums == Checksums::Off {
            // There is only a header to write: not worth a look at the clock.
            spent.moving_cpu = self.watch.lap();
            encode();
        } else {
            self.watch.code(&mut spent, encode);
        }
        let widened = self.descriptors.iter().filter(|d| d.codec != codec.for_dtype(d.dtype)).count() as u64;
        let encodes = self.descriptors.iter().any(|d| d.codec != Codec::RAW);
        parts[0] = IoSlice::new(&self.header);
        let bytes = parts.iter().map(|part| part.len() as u64).sum();
        self.stream.expect(encodes)?;
        write_all_vectored(&mut self.stream, &mut parts[..=tensors.len()])?;
        self.stream.flush()?;
        Ok(Sent { bytes, widened, spent })
    }

    /// Sends word that an item has no result, and why.
    ///
    /// `item` is the header that the item itself would have.
    pub fn send_failure(&mut self, item: &Header, reason: &str) -> io::Result<Sent> {
        let mut end = reason.len().min(MAX_REASON_LEN);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let bytes = &reason.as_bytes()[..end];
        let tensor =
            TensorView::of_slice([end].into(), bytes).expect("bytes are a u8 tensor of their length");
        let codec = std::mem::replace(&mut self.codec, Codec::RAW);
        let sent = self.send(&Header { kind: Kind::Failure, ..*item }, &[tensor]);
        self.codec = codec;
        sent
    }

    /// The stream underneath.
    pub(crate) fn stream(&self) -> &W {
        &self.stream
    }

    /// The stream underneath.
    pub fn into_stream(self) -> W {
        self.stream
    }
}

/// `Write::write_all_vectored`, which std does not have in stable form yet.
fn write_all_vectored(stream: &mut impl Write, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
    IoSlice::advance_slices(&mut parts, 0); // drops empty slices: an empty write would read as a closed peer
    while !parts.is_empty() {
        match stream.write_vectored(parts) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut parts, n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
