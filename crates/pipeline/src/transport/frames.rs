//! Frames off a byte stream, into the tensors' own buffers. What sends them is [`FrameWriter`](super::FrameWriter).

use std::io::{self, BufRead, BufReader, Read};
use std::time::{Duration, Instant};

use tensor::{SpecError, Tensor, TensorError, TensorSpec};
use wire::frame::{self, PREFIX_LEN};
use wire::{Codec, CodecList, Descriptor, FrameError, Header, Kind, Room, checksum};

use super::ahead::{Arrival, Source};
use super::watch::{Spent, Watch};

/// Reads ahead this far: holds a header and small payloads, so that they take one system call. Larger
/// payloads are read past it, straight into the tensor.
const READ_AHEAD_LEN: usize = 8 << 10;

/// The longest reason a failure frame may carry, bytes.
pub(super) const MAX_REASON_LEN: usize = 4 << 10;

/// Whether tensors carry a checksum. Headers always do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksums {
    /// The bytes cross a wire, where TCP's own sum misses some damage, or is left to a device that gets it wrong.
    On,
    /// The bytes stay in this machine's memory, where a checksum costs more than the rest of the way.
    Off,
}

/// Receives frames and holds them against what the plan says of the link.
pub struct FrameReader<R> {
    stream: BufReader<R>,
    specs: Vec<TensorSpec>,
    codecs: CodecList,
    max_tensor_len: usize,
    header: Vec<u8>,
    descriptors: Vec<Descriptor>,
    /// A tensor's bytes off the wire.
    encoded: Vec<u8>,
    room: Room,
    /// The item that comes next; any, before the first.
    due: Option<u64>,
    /// Whether all items come.
    sees_all: bool,
    /// Of the stream: bytes of frames.
    position: u64,
    watch: Watch,
}

/// What arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// An item; its tensors are in the buffers given.
    Item(Header),
    /// Word that an item has no result.
    Failure(Header, String),
    /// The peer closed the connection between two frames.
    End,
}

/// What receiving one frame took.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// When its first byte came off the socket, whoever read it there.
    pub started: Instant,
    /// From then until its last one came, without the time in which nobody took what came.
    pub transfer: Duration,
    /// Bytes on the wire.
    pub bytes: u64,
    /// Of the thread that decodes.
    pub spent: Spent,
}

/// A connection from which no further frame can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// What arrived is no frame, or a damaged one.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// An item is missing, or came again.
    #[error("item {sequence} came where item {due} was due")]
    Order {
        /// The one after the last that came.
        due: u64,
        /// What arrived.
        sequence: u64,
    },
    /// A frame holds another number of tensors than the link carries.
    #[error("a frame holds {found} tensors, the plan says {expected}")]
    Count {
        /// What the plan says.
        expected: usize,
        /// What arrived.
        found: usize,
    },
    /// A tensor has another type or shape than the link carries.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A tensor uses a codec that the link may not use.
    #[error("a tensor is encoded as {found}, the plan says {expected}")]
    Codec {
        /// What the plan says.
        expected: CodecList,
        /// What arrived.
        found: Codec,
    },
    /// A tensor is larger than the plan allows for sizes that the model leaves open.
    #[error("tensor `{name}` has {len} bytes, the limit is {limit}")]
    TooLarge {
        /// The tensor.
        name: String,
        /// Its bytes.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// The content is no tensor.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

impl<R: Source> FrameReader<R> {
    /// A reader for a link that carries `specs`, encoded with any of `codecs`, none above `max_tensor_len` bytes.
    pub fn new(
        stream: R,
        specs: Vec<TensorSpec>,
        codecs: impl Into<CodecList>,
        max_tensor_len: usize,
    ) -> FrameReader<R> {
        FrameReader {
            stream: BufReader::with_capacity(READ_AHEAD_LEN, stream),
            specs,
            codecs: codecs.into(),
            max_tensor_len,
            header: Vec::new(),
            descriptors: Vec::new(),
            encoded: Vec::new(),
            room: Room::default(),
            due: None,
            sees_all: true,
            position: 0,
            watch: Watch::default(),
        }
    }

    /// Some items take another way, and may have overtaken others before: whether one is missing shows where all ways meet.
    pub fn of_some_items(self) -> FrameReader<R> {
        FrameReader { sees_all: false, ..self }
    }

    /// Waits until a frame begins; `false` if the peer has closed the connection between two frames.
    pub fn wait(&mut self) -> Result<bool, ReceiveError> {
        loop {
            match self.stream.fill_buf() {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
                Ok(bytes) => return Ok(!bytes.is_empty()),
            }
        }
    }

    /// Empty tensors, one for each that a frame carries.
    pub fn buffers(&self) -> Vec<Tensor> {
        let empty = || Tensor::from_slice::<u8>([0].into(), &[]).expect("an empty tensor");
        self.specs.iter().map(|_| empty()).collect()
    }

    /// Waits for the next frame and reads its tensors into `tensors`, reusing their memory.
    pub fn receive(&mut self, tensors: &mut [Tensor]) -> Result<(Received, Timing), ReceiveError> {
        let Some((header, first)) = self.read_header()? else {
            let (started, transfer, spent) = (Instant::now(), Duration::ZERO, Spent::default());
            return Ok((Received::End, Timing { started, transfer, bytes: 0, spent }));
        };
        let mut spent = Spent { moving_cpu: self.watch.lap(), ..Spent::default() };
        let received = if header.kind == Kind::Failure {
            Received::Failure(header, self.read_reason(&header)?)
        } else {
            self.check_against_plan(tensors.len())?;
            self.stream.get_mut().expect(self.descriptors.iter().any(|d| d.codec != Codec::RAW));
            for (index, tensor) in tensors.iter_mut().enumerate() {
                self.read_tensor(header.sequence, index, tensor, &mut spent)?;
            }
            Received::Item(header)
        };
        self.check_order(header.sequence)?;
        // All of it was there, so it has a sum.
        let content = self.descriptors.iter().map(|d| d.encoded_len as u64).sum::<u64>();
        let bytes = self.header.len() as u64 + content;
        self.position += bytes;
        let last = self.stream.get_mut().arrival(self.position - 1);
        Ok((received, Timing { started: first.at, transfer: last.since(&first), bytes, spent }))
    }

    fn read_header(&mut self) -> Result<Option<(Header, Arrival)>, ReceiveError> {
        let mut prefix = [0; PREFIX_LEN];
        let first = loop {
            match self.stream.read(&mut prefix) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if first == 0 {
            return Ok(None);
        }
        let arrival = self.stream.get_mut().arrival(self.position);
        self.stream.read_exact(&mut prefix[first..])?;
        self.header.clear();
        self.header.extend_from_slice(&prefix);
        self.header.resize(frame::header_len_from_prefix(&prefix)?, 0);
        self.stream.read_exact(&mut self.header[PREFIX_LEN..])?;
        let header = frame::read_header(&self.header, &mut self.descriptors)?;
        Ok(Some((header, arrival)))
    }

    /// Unless some take another way, a connection carries all items of a deployment, one after another: one that is missing
    /// would be waited for without end.
    fn check_order(&mut self, sequence: u64) -> Result<(), ReceiveError> {
        match self.due.replace(sequence.wrapping_add(1)) {
            Some(due) if self.sees_all && sequence != due => Err(ReceiveError::Order { due, sequence }),
            _ => Ok(()),
        }
    }

    /// The one place where a peer's sizes are believed: after this, memory may be reserved for them.
    fn check_against_plan(&self, buffers: usize) -> Result<(), ReceiveError> {
        assert_eq!(buffers, self.specs.len(), "one buffer for each tensor of the link");
        if self.descriptors.len() != self.specs.len() {
            let (expected, found) = (self.specs.len(), self.descriptors.len());
            return Err(ReceiveError::Count { expected, found });
        }
        for (spec, d) in self.specs.iter().zip(&self.descriptors) {
            spec.check(d.dtype, d.shape)?;
            if !self.codecs.admits(d.codec, d.dtype) {
                return Err(ReceiveError::Codec { expected: self.codecs.clone(), found: d.codec });
            }
            if d.len > self.max_tensor_len {
                let (name, len, limit) = (spec.name.clone(), d.len, self.max_tensor_len);
                return Err(ReceiveError::TooLarge { name, len, limit });
            }
        }
        Ok(())
    }

    fn read_tensor(
        &mut self,
        sequence: u64,
        index: usize,
        tensor: &mut Tensor,
        spent: &mut Spent,
    ) -> Result<(), ReceiveError> {
        let d = self.descriptors[index];
        let damaged = FrameError::Checksum { sequence, index };
        let FrameReader { stream, encoded, room, watch, .. } = self;
        tensor.refill(d.dtype, d.shape, d.len, |bytes| {
            if d.codec == Codec::RAW {
                stream.read_exact(bytes)?;
                let is_good = d.checksum.is_none() || watch.code(spent, || intact(bytes, &d));
                return if is_good { Ok(()) } else { Err(damaged.into()) };
            }
            // Grows by what arrives: of some codecs the largest encoding is many times the tensor.
            encoded.clear();
            if stream.take(d.encoded_len as u64).read_to_end(encoded)? < d.encoded_len {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            watch.code(spent, || {
                if !intact(encoded, &d) {
                    return Err(damaged.into());
                }
                let decoded = d.codec.decode(encoded, d.dtype, d.shape, bytes, room);
                decoded.map_err(|source| FrameError::Codec { sequence, index, source }.into())
            })
        })
    }

    fn read_reason(&mut self, header: &Header) -> Result<String, ReceiveError> {
        let [d] = self.descriptors[..] else {
            return Err(ReceiveError::Count { expected: 1, found: self.descriptors.len() });
        };
        if d.codec != Codec::RAW || d.encoded_len > MAX_REASON_LEN {
            return Err(FrameError::Malformed("a failure that is no short text").into());
        }
        let mut text = vec![0; d.encoded_len];
        self.stream.read_exact(&mut text)?;
        if !intact(&text, &d) {
            return Err(FrameError::Checksum { sequence: header.sequence, index: 0 }.into());
        }
        // A peer's line stays a line, whatever it holds.
        Ok(String::from_utf8_lossy(&text).replace(char::is_control, " "))
    }
}

/// Whether frames can tell the sizes of these tensors. Those of an empty one may be anything.
pub(crate) fn check_sizes(tensors: &[Tensor]) -> Result<(), String> {
    let too_large = |tensor: &&Tensor| tensor.shape().dims().iter().any(|&dim| dim > frame::LARGEST_SIZE);
    match tensors.iter().find(too_large) {
        Some(tensor) => {
            Err(format!("a tensor of shape {} has a size that nothing could hold", tensor.shape()))
        }
        None => Ok(()),
    }
}

/// Whether a tensor's encoded bytes are those that were sent, as far as the sender lets one know.
fn intact(encoded: &[u8], descriptor: &Descriptor) -> bool {
    descriptor.checksum.is_none_or(|sum| sum == checksum(encoded))
}

#[cfg(test)]
mod tests {
    use super::super::FrameWriter;
    use super::*;
    use tensor::{DType, Dim, Shape, TensorView};
    use wire::{Fidelity, Values};

    const HEADER: Header = Header { kind: Kind::Item, epoch: 1, path: 0, sequence: 5 };

    fn specs() -> Vec<TensorSpec> {
        let open = TensorSpec { name: "y".into(), dtype: DType::I64, dims: Some(vec![Dim::Unknown]) };
        vec![TensorSpec::fixed("x", DType::F32, Shape::from([2, 3])), open]
    }

    fn tensors() -> Vec<Tensor> {
        let x = Tensor::from_slice(Shape::from([2, 3]), &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        let y = Tensor::from_slice(Shape::from([4]), &[1i64, -2, 3, i64::MAX]).unwrap();
        vec![x, y]
    }

    fn sent(codec: Codec) -> Vec<u8> {
        let mut bytes = sent_item(codec, Checksums::On);
        let len = bytes.len();
        FrameWriter::new(&mut bytes, codec, Checksums::On)
            .send_failure(&Header { sequence: 6, ..HEADER }, "no result")
            .unwrap();
        assert_eq!(bytes.len(), len + frame::header_len(1) + "no result".len());
        bytes
    }

    fn sent_item(codec: Codec, checksums: Checksums) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = FrameWriter::new(&mut bytes, codec, checksums);
        let tensors = tensors();
        let views: Vec<_> = tensors.iter().map(Tensor::view).collect();
        let len = writer.send(&HEADER, &views).unwrap();
        assert_eq!(bytes.len() as u64, len.bytes);
        bytes
    }

    /// What a reader makes of the bytes of one frame.
    fn read(bytes: &[u8], codec: Codec) -> Result<(Received, Vec<Tensor>), ReceiveError> {
        let mut reader = FrameReader::new(bytes, specs(), codec, 1 << 20);
        let mut buffers = reader.buffers();
        let (received, timing) = reader.receive(&mut buffers)?;
        assert_eq!(timing.bytes, bytes.len() as u64);
        Ok((received, buffers))
    }

    /// All that have a number, with 1 as the parameter where there is one.
    fn codecs() -> Vec<Codec> {
        let stages = (0..32 * 4 * 4u32).map(|n| [n / 16, n / 4 % 4, n % 4].map(|stage| stage as u8));
        let codec = |[v, f, e]: [u8; 3]| Codec::from_code([v, f, e, 0]).or(Codec::from_code([v, f, e, 1]));
        stages.filter_map(codec).collect()
    }

    #[test]
    fn frames_failures_and_the_end_arrive_as_sent() {
        for codec in codecs() {
            let bytes = sent(codec);
            let mut reader = FrameReader::new(&bytes[..], specs(), codec, 1 << 20);
            let mut buffers = reader.buffers();
            assert_eq!(reader.receive(&mut buffers).unwrap().0, Received::Item(HEADER));
            let near = |(got, n): (&f32, u8)| (got - f32::from(n)).abs() < 0.01;
            let (x, zfp) = (buffers[0].as_slice::<f32>().unwrap(), matches!(codec.values, Values::Zfp(_)));
            assert!(x.iter().zip(1..).all(near) || zfp, "{codec}: {x:?}");
            assert!(codec.fidelity() != Fidelity::Exact || buffers == tensors(), "{codec}");
            assert_eq!(buffers[1], tensors()[1], "{codec}");
            let failure = Header { kind: Kind::Failure, sequence: 6, ..HEADER };
            assert_eq!(
                reader.receive(&mut buffers).unwrap().0,
                Received::Failure(failure, "no result".into())
            );
            assert_eq!(reader.receive(&mut buffers).unwrap().0, Received::End);
        }
    }

    #[test]
    fn items_come_one_after_another() {
        let tensors = tensors();
        let views: Vec<_> = tensors.iter().map(Tensor::view).collect();
        for (sequences, error) in [
            (&[7, 8, 9][..], None),
            (&[7, 9], Some("item 9 came where item 8 was due")),
            (&[7, 8, 8], Some("item 8 came where item 9 was due")),
            (&[u64::MAX, 0], None),
        ] {
            let mut bytes = Vec::new();
            let mut writer = FrameWriter::new(&mut bytes, Codec::RAW, Checksums::On);
            for &sequence in sequences {
                writer.send(&Header { sequence, ..HEADER }, &views).unwrap();
            }
            let reader = || FrameReader::new(&bytes[..], specs(), Codec::RAW, 1 << 20);
            for (mut reader, error) in [(reader(), error), (reader().of_some_items(), None)] {
                let mut buffers = reader.buffers();
                let received: Result<Vec<_>, _> =
                    sequences.iter().map(|_| reader.receive(&mut buffers)).collect();
                assert_eq!(received.err().map(|e| e.to_string()).as_deref(), error, "{sequences:?}");
            }
        }
    }

    #[test]
    fn sizes_are_such_as_a_frame_can_tell() {
        for (dims, good) in [
            ([0, frame::LARGEST_SIZE], true),
            ([0, frame::LARGEST_SIZE + 1], false),
            ([usize::MAX, 0], false),
            ([2, 3], true),
        ] {
            let tensors = [Tensor::zeros(DType::F32, Shape::from(dims)).unwrap()];
            assert_eq!(check_sizes(&tensors).is_ok(), good, "{dims:?}");
            let views: Vec<TensorView<'_>> = tensors.iter().map(Tensor::view).collect();
            let mut bytes = Vec::new();
            FrameWriter::new(&mut bytes, Codec::RAW, Checksums::On).send(&HEADER, &views).unwrap();
            let spec = TensorSpec { name: "x".into(), dtype: DType::F32, dims: None };
            let mut reader = FrameReader::new(&bytes[..], vec![spec], Codec::RAW, 1 << 20);
            let mut buffers = reader.buffers();
            assert_eq!(reader.receive(&mut buffers).is_ok(), good, "{dims:?} is sent");
        }
    }

    #[test]
    fn tensors_that_a_codec_has_no_room_for_are_counted() {
        let codec: Codec = "u8".parse().unwrap();
        for (value, widened) in [(1.0, 0), (f32::NAN, 1)] {
            let values = [0.0, value];
            let view = TensorView::of_slice([2].into(), &values).unwrap();
            let mut bytes = Vec::new();
            let mut writer = FrameWriter::new(&mut bytes, codec, Checksums::On);
            let whole = TensorView::of_slice([2].into(), &[1_i64, 2]).unwrap();
            assert_eq!(writer.send(&HEADER, &[view, whole]).unwrap().widened, widened, "{value}");
        }
    }

    #[test]
    fn words_of_a_peer_are_one_line() {
        let mut bytes = Vec::new();
        let mut writer = FrameWriter::new(&mut bytes, Codec::RAW, Checksums::On);
        writer.send_failure(&Header { sequence: 6, ..HEADER }, "no\nresult\u{1b}[2J").unwrap();
        let mut reader = FrameReader::new(&bytes[..], specs(), Codec::RAW, 1 << 20);
        let mut buffers = reader.buffers();
        let Received::Failure(_, reason) = reader.receive(&mut buffers).unwrap().0 else {
            panic!("a failure")
        };
        assert_eq!(reason, "no result [2J");
    }

    #[test]
    fn a_link_takes_every_codec_of_its_list_from_frame_to_frame() {
        let codecs = ["lz4", "shuffle+lz4", "raw", "bf16", "lz4"].map(|name| name.parse::<Codec>().unwrap());
        let tensors = tensors();
        let views: Vec<_> = tensors.iter().map(Tensor::view).collect();
        let mut bytes = Vec::new();
        let mut writer = FrameWriter::new(&mut bytes, Codec::RAW, Checksums::On);
        for (sequence, codec) in (0..).zip(codecs) {
            writer.set_codec(codec);
            writer.send(&Header { sequence, ..HEADER }, &views).unwrap();
        }
        let read = |list: CodecList| {
            let mut reader = FrameReader::new(&bytes[..], specs(), list, 1 << 20);
            let mut buffers = reader.buffers();
            let mut frames = 0;
            loop {
                match reader.receive(&mut buffers) {
                    Ok((Received::End, _)) => return Ok(frames),
                    Ok(_) => assert_eq!(buffers, tensors, "frame {frames}"),
                    Err(e) => return Err((frames, e.to_string())),
                }
                frames += 1;
            }
        };
        assert_eq!(read(CodecList::new(codecs).unwrap()), Ok(codecs.len()));
        let without = CodecList::new(codecs.into_iter().filter(|&codec| codec != codecs[3])).unwrap();
        let message = "a tensor is encoded as bf16, the plan says raw or lz4 or shuffle+lz4";
        assert_eq!(read(without), Err((3, message.to_owned())));
    }

    #[test]
    fn values_that_a_codec_does_not_stand_for_travel_as_a_wider_one() {
        let endless = [1.0, f32::NAN, f32::INFINITY, -0.0, 5.0, 6.0];
        // Exact in bf16, out of the range of f16.
        let large = [2f32.powi(100), -0.0, 5.0, 6.0, 0.5, 1.0];
        for (codec, values) in [("u8+lz4", endless), ("f16+shuffle+lz4", large), ("bf16", [f32::MAX; 6])] {
            let codec: Codec = codec.parse().unwrap();
            let mut sent = tensors();
            sent[0] = Tensor::from_slice(Shape::from([2, 3]), &values).unwrap();
            let mut bytes = Vec::new();
            let views: Vec<_> = sent.iter().map(Tensor::view).collect();
            FrameWriter::new(&mut bytes, codec, Checksums::On).send(&HEADER, &views).unwrap();
            let (_, got) = read(&bytes, codec).unwrap();
            assert_eq!(got[0].bytes(), sent[0].bytes(), "{codec}");
            assert_eq!(got[1], sent[1]);
        }
    }

    #[test]
    fn damage_and_truncation_anywhere_are_noticed() {
        for codec in codecs() {
            let mut frame = sent_item(codec, Checksums::On);
            for bit in 0..8 * frame.len() {
                frame[bit / 8] ^= 1 << (bit % 8);
                assert!(read(&frame, codec).is_err(), "{codec}: bit {bit} flipped");
                frame[bit / 8] ^= 1 << (bit % 8);
            }
            for len in 1..frame.len() {
                assert!(read(&frame[..len], codec).is_err(), "{codec}: cut at {len}");
            }
            assert!(read(&frame, codec).is_ok(), "{codec}");
        }
    }

    /// What is left of a plan's word when the sender's is damaged: type and shape.
    fn is_as_planned(read: &Result<(Received, Vec<Tensor>), ReceiveError>) -> bool {
        let Ok((Received::Item(_), tensors)) = read else { return true };
        let matches = |(spec, tensor): (&TensorSpec, &Tensor)| {
            let expected = tensor.dtype().byte_len(tensor.shape().elements().unwrap());
            spec.check(tensor.dtype(), tensor.shape()).is_ok() && expected == Some(tensor.bytes().len())
        };
        specs().iter().zip(tensors).all(matches)
    }

    #[test]
    fn without_checksums_damage_is_noticed_or_gives_other_values_of_the_same_shape() {
        for codec in codecs() {
            let mut frame = sent_item(codec, Checksums::Off);
            for bit in 0..8 * frame.len() {
                frame[bit / 8] ^= 1 << (bit % 8);
                let read = read(&frame, codec);
                assert!(is_as_planned(&read), "{codec}: bit {bit} flipped");
                assert!(bit >= 8 * frame::header_len(2) || read.is_err(), "{codec}: bit {bit} of the header");
                frame[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    /// A peer that means harm computes the checksum of what it made up.
    #[test]
    fn headers_that_lie_are_refused_or_give_what_the_plan_says() {
        let (end, mut accepted) = (frame::header_len(2) - 8, 0);
        for codec in codecs() {
            let good = sent_item(codec, Checksums::Off);
            for position in 0..end {
                for change in [0x01, 0x02, 0x04, 0x80, 0xff] {
                    let mut bad = good.clone();
                    bad[position] ^= change;
                    let sum = checksum(&bad[..end]);
                    bad[end..end + 8].copy_from_slice(&sum.to_le_bytes());
                    let mut reader = FrameReader::new(&bad[..], specs(), codec, 1 << 20);
                    let mut buffers = reader.buffers();
                    let read = reader.receive(&mut buffers).map(|(received, _)| (received, buffers));
                    accepted += usize::from(read.is_ok());
                    assert!(is_as_planned(&read), "{codec}: byte {position} changed by {change}");
                }
            }
        }
        assert!(accepted > 0, "epoch and sequence number may be any");
    }

    #[test]
    fn what_the_plan_does_not_say_is_refused_before_memory_is_reserved() {
        let check = |specs: Vec<TensorSpec>, codec, limit, message: &str| {
            let bytes = sent(Codec::LZ4);
            let mut reader = FrameReader::new(&bytes[..], specs, codec, limit);
            let mut buffers = reader.buffers();
            let error = reader.receive(&mut buffers).unwrap_err();
            assert_eq!(error.to_string(), message);
            assert!(buffers.iter().all(|b| b.bytes().is_empty()));
        };
        let with = |change: fn(&mut Vec<TensorSpec>)| {
            let mut specs = specs();
            change(&mut specs);
            specs
        };
        let lz4 = Codec::LZ4;
        check(with(|s| s.truncate(1)), lz4, 1 << 20, "a frame holds 2 tensors, the plan says 1");
        check(with(|s| s[1].dtype = DType::I32), lz4, 1 << 20, "tensor `y` must be i32, not i64");
        check(
            with(|s| s[0] = TensorSpec::fixed("x", DType::F32, Shape::from([3, 2]))),
            lz4,
            1 << 20,
            "tensor `x` must have shape 3x2, not 2x3",
        );
        check(specs(), Codec::RAW, 1 << 20, "a tensor is encoded as lz4, the plan says raw");
        check(specs(), lz4, 31, "tensor `y` has 32 bytes, the limit is 31");
    }
}
