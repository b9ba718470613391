//! Frames: one message on a link, a header and the tensors of one item.
//!
//! All numbers are little-endian. A frame is
//!
//! ```text
//! offset size
//!      0    4  magic "DFR2"
//!      4    1  kind: 0 item, 1 failure (one u8 tensor: the reason as UTF-8)
//!      5    1  number of tensors, at most 64
//!      6    2  zero
//!      8    4  epoch of the plan
//!     12    4  path of the item through replicas of stages, 0 where no stage has any
//!     16    8  sequence number of the item
//!     24   96  descriptor of tensor 0, then of tensor 1, ...
//!        8     checksum (XXH3-64) of all header bytes before it
//!              the tensors' encoded bytes, one after the other
//! ```
//!
//! and a descriptor is
//!
//! ```text
//!      0    1  element type, as numbered by ONNX
//!      1    1  rank, at most 8
//!      2    1  1 if the checksum at 24 is there, 0 if not
//!      3    1  zero
//!      4    4  codec: values, filter, entropy, parameter of the values
//!      8    8  bytes of the tensor's memory form
//!     16    8  encoded bytes; if raw, those of the memory form
//!     24    8  checksum (XXH3-64) of the encoded bytes, or zero
//!     32   64  eight dimensions, zero beyond the rank
//! ```

use tensor::{DType, MAX_RANK, Shape};

use crate::{Codec, CodecError, checksum};

const MAGIC: [u8; 4] = *b"DFR2";
const FIXED_LEN: usize = 24;
const DESCRIPTOR_LEN: usize = 96;
const CHECKSUM_LEN: usize = 8;

/// The most tensors one frame may hold. Cuts carry a handful; the bound keeps a header small.
pub const MAX_TENSORS: usize = 64;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The tensors of one item.
    Item,
    /// Why an item has no result: one `u8` tensor with a UTF-8 text.
    Failure,
}

/// The first part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame carries.
    pub kind: Kind,
    /// Generation of the plan under which the frame was sent.
    pub epoch: u32,
    /// Which path the item takes where stages have replicas: see [`Crossing`](crate::control::Crossing).
    pub path: u32,
    /// Sequence number of the item.
    pub sequence: u64,
}

/// One tensor of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// How its bytes are encoded.
    pub codec: Codec,
    /// Its element type.
    pub dtype: DType,
    /// Its shape.
    pub shape: Shape,
    /// Bytes of its memory form. For types of fixed size it follows from type and shape.
    pub len: usize,
    /// Bytes on the wire.
    pub encoded_len: usize,
    /// Checksum of the bytes on the wire; none where they cross no wire.
    pub checksum: Option<u64>,
}

/// Bytes that are no frame, or not one that this link may carry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The bytes do not start like a frame.
    #[error("the peer sent something that is not a frame of this version")]
    NotAFrame,
    /// The header was damaged on the way.
    #[error("a frame header is damaged (its checksum is wrong)")]
    HeaderChecksum,
    /// A field of the header holds something impossible.
    #[error("a frame header is malformed: {0}")]
    Malformed(&'static str),
    /// A tensor's bytes were damaged on the way.
    #[error("tensor {index} of item {sequence} is damaged (its checksum is wrong)")]
    Checksum {
        /// The item.
        sequence: u64,
        /// Position of the tensor in the frame.
        index: usize,
    },
    /// A tensor does not decode.
    #[error("tensor {index} of item {sequence}: {source}")]
    Codec {
        /// The item.
        sequence: u64,
        /// Position of the tensor in the frame.
        index: usize,
        /// Why.
        source: CodecError,
    },
}

/// Bytes of the header of a frame with `tensors` tensors.
pub fn header_len(tensors: usize) -> usize {
    FIXED_LEN + tensors * DESCRIPTOR_LEN + CHECKSUM_LEN
}

/// Bytes to read first: enough to learn how long the header is.
pub const PREFIX_LEN: usize = FIXED_LEN;

/// The item that a whole frame is about, which [`write_header`] and what follows made: nothing is checked.
///
/// # Panics
/// With less than [`PREFIX_LEN`] bytes.
pub fn sequence(frame: &[u8]) -> u64 {
    let sequence = frame[16..].first_chunk().expect("a frame begins with its prefix");
    u64::from_le_bytes(*sequence)
}

/// Writes a header into `out`, replacing what it held.
///
/// # Panics
/// With more than [`MAX_TENSORS`] descriptors: plans with such cuts are refused before.
pub fn write_header(header: &Header, descriptors: &[Descriptor], out: &mut Vec<u8>) {
    assert!(descriptors.len() <= MAX_TENSORS, "a frame holds at most {MAX_TENSORS} tensors");
    out.clear();
    out.extend_from_slice(&MAGIC);
    out.push(match header.kind {
        Kind::Item => 0,
        Kind::Failure => 1,
    });
    out.push(descriptors.len() as u8);
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&header.epoch.to_le_bytes());
    out.extend_from_slice(&header.path.to_le_bytes());
    out.extend_from_slice(&header.sequence.to_le_bytes());
    for d in descriptors {
        out.extend_from_slice(&[d.dtype.code(), d.shape.rank() as u8, d.checksum.is_some().into(), 0]);
        out.extend_from_slice(&d.codec.code());
        out.extend_from_slice(&(d.len as u64).to_le_bytes());
        out.extend_from_slice(&(d.encoded_len as u64).to_le_bytes());
        out.extend_from_slice(&d.checksum.unwrap_or(0).to_le_bytes());
        for i in 0..MAX_RANK {
            let dim = d.shape.dims().get(i).copied().unwrap_or(0);
            out.extend_from_slice(&(dim as u64).to_le_bytes());
        }
    }
    let sum = checksum(out);
    out.extend_from_slice(&sum.to_le_bytes());
}

/// Total length of the header that starts with `prefix` ([`PREFIX_LEN`] bytes).
pub fn header_len_from_prefix(prefix: &[u8; PREFIX_LEN]) -> Result<usize, FrameError> {
    if prefix[..4] != MAGIC {
        return Err(FrameError::NotAFrame);
    }
    let tensors = usize::from(prefix[5]);
    if tensors > MAX_TENSORS {
        return Err(FrameError::Malformed("too many tensors"));
    }
    Ok(header_len(tensors))
}

/// Reads a whole header; the descriptors go into `descriptors`, replacing what it held. Afterwards lengths
/// fit type and shape (but for strings, which have no fixed size), and encoded lengths the codec: of raw the
/// same, of others no more than they could need. All are still the peer's word: compare them with the plan
/// before reserving memory.
pub fn read_header(bytes: &[u8], descriptors: &mut Vec<Descriptor>) -> Result<Header, FrameError> {
    let prefix = bytes.first_chunk().ok_or(FrameError::Malformed("too short"))?;
    if header_len_from_prefix(prefix)? != bytes.len() {
        return Err(FrameError::Malformed("wrong length"));
    }
    let (body, sum) = bytes.split_last_chunk().expect("a header is longer than its checksum");
    if checksum(body) != u64::from_le_bytes(*sum) {
        return Err(FrameError::HeaderChecksum);
    }
    let kind = match body[4] {
        0 => Kind::Item,
        1 => Kind::Failure,
        _ => return Err(FrameError::Malformed("unknown kind")),
    };
    if body[6..8] != [0; 2] {
        return Err(FrameError::Malformed("reserved bytes are not zero"));
    }
    descriptors.clear();
    for part in body[FIXED_LEN..].chunks_exact(DESCRIPTOR_LEN) {
        descriptors.push(read_descriptor(part)?);
    }
    let [epoch, path] = [8, 12].map(|at| u32_at(body, at));
    Ok(Header { kind, epoch, path, sequence: u64_at(body, 16) })
}

fn read_descriptor(bytes: &[u8]) -> Result<Descriptor, FrameError> {
    use FrameError::Malformed;
    let code = bytes[4..8].try_into().expect("four bytes");
    let codec = Codec::from_code(code).ok_or(Malformed("unknown codec"))?;
    let dtype = DType::from_code(bytes[0].into()).ok_or(Malformed("unknown element type"))?;
    if bytes[3] != 0 {
        return Err(Malformed("reserved bytes are not zero"));
    }
    let checksum = match (bytes[2], u64_at(bytes, 24)) {
        (0, 0) => None,
        (1, sum) => Some(sum),
        _ => return Err(Malformed("a checksum that is there and is not")),
    };
    let mut dims = [0; MAX_RANK];
    for (i, dim) in dims.iter_mut().enumerate() {
        *dim = size_at(bytes, 32 + 8 * i)?;
    }
    let (used, unused) = dims.split_at_checked(bytes[1].into()).ok_or(Malformed("rank above the limit"))?;
    if unused.iter().any(|&d| d != 0) {
        return Err(Malformed("a dimension beyond the rank"));
    }
    let shape = Shape::new(used).expect("at most MAX_RANK dimensions");
    let (len, encoded_len) = (size_at(bytes, 8)?, size_at(bytes, 16)?);
    let elements = shape.elements().ok_or(Malformed("the shape overflows"))?;
    if dtype != DType::String && dtype.byte_len(elements) != Some(len) {
        return Err(Malformed("the length does not fit type and shape"));
    }
    if codec != codec.for_dtype(dtype) {
        return Err(Malformed("a codec that this element type does not have"));
    }
    if encoded_len > codec.max_encoded_len(dtype, shape, len) {
        return Err(Malformed("the encoded length is above the codec's bound"));
    }
    if codec == Codec::RAW && encoded_len != len {
        return Err(Malformed("the encoded length of raw bytes is another"));
    }
    Ok(Descriptor { codec, dtype, shape, len, encoded_len, checksum })
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes"))
}

/// The largest size that a frame may tell: half of what this machine could address at all, so that sums of two never wrap.
pub const LARGEST_SIZE: usize = isize::MAX as usize / 2;

fn size_at(bytes: &[u8], offset: usize) -> Result<usize, FrameError> {
    let too_large = FrameError::Malformed("a size beyond this machine");
    match usize::try_from(u64_at(bytes, offset)) {
        Ok(size) if size <= LARGEST_SIZE => Ok(size),
        _ => Err(too_large),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Header, Vec<Descriptor>) {
        let header = Header { kind: Kind::Item, epoch: 3, path: 9, sequence: 1 << 40 };
        let raw = Descriptor {
            codec: Codec::RAW,
            dtype: DType::F32,
            shape: Shape::from([1, 3, 2]),
            len: 24,
            encoded_len: 24,
            checksum: Some(0x0123_4567_89ab_cdef),
        };
        let lz4 = Descriptor { codec: Codec::LZ4, encoded_len: 11, ..raw };
        let scalar = Descriptor {
            dtype: DType::I64,
            shape: Shape::SCALAR,
            len: 8,
            encoded_len: 8,
            checksum: None,
            ..raw
        };
        (header, vec![raw, lz4, scalar])
    }

    fn encoded() -> Vec<u8> {
        let (header, descriptors) = sample();
        let mut bytes = Vec::new();
        write_header(&header, &descriptors, &mut bytes);
        bytes
    }

    #[test]
    fn round_trip() {
        let bytes = encoded();
        assert_eq!(bytes.len(), header_len(3));
        assert_eq!(header_len_from_prefix(bytes.first_chunk().unwrap()), Ok(bytes.len()));
        let mut descriptors = Vec::new();
        let header = read_header(&bytes, &mut descriptors).unwrap();
        assert_eq!((header, descriptors), sample());
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_noticed() {
        let good = encoded();
        for position in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[position] ^= 1 << bit;
                assert!(read_header(&bad, &mut Vec::new()).is_err(), "byte {position}, bit {bit}");
            }
            assert!(read_header(&good[..position], &mut Vec::new()).is_err());
        }
    }

    /// What a peer that computes checksums correctly may still not claim.
    #[test]
    fn impossible_fields_are_refused() {
        let check = |offset: usize, value: &[u8], message: &str| {
            let mut bytes = encoded();
            let end = bytes.len() - CHECKSUM_LEN;
            bytes[offset..offset + value.len()].copy_from_slice(value);
            let sum = checksum(&bytes[..end]);
            bytes[end..].copy_from_slice(&sum.to_le_bytes());
            let error = read_header(&bytes, &mut Vec::new()).unwrap_err();
            assert_eq!(error, FrameError::Malformed(message_of(message)), "offset {offset}");
        };
        let first = FIXED_LEN;
        check(4, &[2], "unknown kind");
        check(5, &[65], "too many tensors");
        check(5, &[2], "wrong length");
        check(6, &[1], "reserved bytes are not zero");
        check(first, &[0], "unknown element type");
        check(first + 1, &[9], "rank above the limit");
        check(first + 1, &[2], "a dimension beyond the rank");
        check(first + 2, &[0], "a checksum that is there and is not");
        check(first + 2, &[2], "a checksum that is there and is not");
        check(first + 3, &[1], "reserved bytes are not zero");
        check(first + 4, &[99], "unknown codec");
        check(first + 2 * DESCRIPTOR_LEN + 4, &[1], "a codec that this element type does not have");
        check(first + 8, &25u64.to_le_bytes(), "the length does not fit type and shape");
        check(first + 16, &25u64.to_le_bytes(), "the encoded length is above the codec's bound");
        check(first + 16, &23u64.to_le_bytes(), "the encoded length of raw bytes is another");
        check(first + 16, &0u64.to_le_bytes(), "the encoded length of raw bytes is another");
        check(first + 32, &u64::MAX.to_le_bytes(), "a size beyond this machine");
        check(first + 32, &(1u64 << 61).to_le_bytes(), "the length does not fit type and shape");
    }

    /// Nothing is in it, whatever an axis claims: memory for its lines would be a peer's word.
    #[test]
    fn an_empty_tensor_has_no_long_encoding() {
        let (header, descriptors) = sample();
        let read = |codec: &str, encoded_len| {
            let codec = codec.parse().unwrap();
            let empty =
                Descriptor { codec, shape: Shape::from([1 << 40, 0]), len: 0, encoded_len, ..descriptors[0] };
            let mut bytes = Vec::new();
            write_header(&header, &[empty], &mut bytes);
            read_header(&bytes, &mut Vec::new())
        };
        for codec in ["u8", "u8-axis0", "u8-axis1", "u8-axis0+shuffle+lz4", "shuffle+lz4"] {
            assert!(read(codec, 0).is_ok(), "{codec}");
            assert!(read(codec, 1 << 10).is_err(), "{codec}");
        }
    }

    fn message_of(text: &str) -> &'static str {
        Box::leak(text.to_owned().into_boxed_str())
    }
}
