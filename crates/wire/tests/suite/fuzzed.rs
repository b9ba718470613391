//! What the fuzz targets of `fuzz/` do with an input, and what must hold then. `corpus.rs` runs them on the inputs kept.
//!
//! Inputs for codecs begin with the codec's number (4 bytes), the number of the element type, the rank, and a byte for
//! each dimension, of which 255 stands for 2^40: no tensor has that many elements unless another dimension is 0.

use tensor::{Buffer, DType, MAX_RANK, Shape, Tensor, TensorSpec, TensorView};
use wire::control::{self, Hello, Request, Response, Welcome};
use wire::weights::{Form, HEADER_LEN, Packer, Unpacker, Width, read_header, write_header};
use wire::{Codec, CodecError, CodecList, Fidelity, Room};

use crate::codecs::{check, takes};
use crate::frames;

/// What an input is tried on.
pub(crate) type Target = fn(&[u8]);

/// By the names of their folders in `fuzz/corpus/`.
pub(crate) const TARGETS: [(&str, Target); 5] = [
    ("frame", frame),
    ("codec_decode", codec_decode),
    ("codec_round_trip", codec_round_trip),
    ("control", control),
    ("weights", weights),
];

/// The largest tensor that codecs are tried on, bytes.
const MAX_LEN: usize = 1 << 14;

/// A frame as a peer may have made it up: its checksums may be wrong, but need not.
pub(crate) fn frame(data: &[u8]) {
    let mut room = Room::default();
    let _ = frames::open(data, &mut room);
    let mut sealed = data.to_vec();
    if let Some(end) = seal_at(data) {
        let sum = wire::checksum(&sealed[..end]);
        sealed[end..end + 8].copy_from_slice(&sum.to_le_bytes());
        let _ = frames::open(&sealed, &mut room);
    }
}

/// Where a header's checksum is, if the header is whole.
fn seal_at(data: &[u8]) -> Option<usize> {
    let len = wire::frame::header_len_from_prefix(data.first_chunk()?).ok()?;
    (len <= data.len()).then(|| len - 8)
}

/// Bytes that any codec is to decode: an error, or a tensor that travels as promised from there on.
pub(crate) fn codec_decode(data: &[u8]) {
    decoded(data);
}

/// What decoding gave, where the input says what to decode.
pub(crate) fn decoded(data: &[u8]) -> Option<(Codec, Result<(), CodecError>)> {
    let (codec, dtype, shape, mut encoded) = case(data)?;
    let len = if dtype == DType::String { string_len(&mut encoded) } else { byte_len(dtype, shape) }?;
    // Received before: what is older must not show.
    let mut room = Room::default();
    let mut out = vec![0xaa; len];
    let decoded = codec.decode(encoded, dtype, shape, &mut out, &mut room);
    let mut again = vec![0x55; len];
    assert_eq!(
        decoded,
        codec.decode(encoded, dtype, shape, &mut again, &mut room),
        "{codec}: the same twice"
    );
    if decoded.is_err() {
        return Some((codec, decoded));
    }
    assert_eq!(out, again, "{codec}: all of the tensor is written");
    assert!(encoded.len() <= codec.max_encoded_len(dtype, shape, len), "{codec}: longer than ever encoded");
    match Tensor::from_bytes(dtype, shape, &out) {
        Ok(tensor) => travels(codec, tensor.view(), &mut room),
        Err(error) => assert_eq!(dtype, DType::String, "{codec}: {error}"),
    }
    Some((codec, decoded))
}

/// A tensor of any values, encoded and decoded.
pub(crate) fn codec_round_trip(data: &[u8]) {
    let Some((codec, dtype, shape, values)) = case(data) else { return };
    let mut room = Room::default();
    if dtype == DType::String {
        let texts: Vec<_> = values.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect();
        let tensor = Tensor::from_strings([texts.len()].into(), &texts).expect("as many as there are");
        return travels(codec, tensor.view(), &mut room);
    }
    let Some(len) = byte_len(dtype, shape) else { return };
    let mut bytes = Buffer::zeroed(len);
    bytes.as_mut_bytes().iter_mut().zip(values.iter().cycle()).for_each(|(to, from)| *to = *from);
    travels(
        codec,
        TensorView::new(dtype, shape, bytes.as_bytes()).expect("the length of the shape"),
        &mut room,
    );
}

fn travels(codec: Codec, tensor: TensorView<'_>, room: &mut Room) {
    let (dtype, shape, len) = (tensor.dtype(), tensor.shape(), tensor.bytes().len());
    let Ok(encoded) = codec.encode(tensor, room).map(<[u8]>::to_vec) else {
        return assert!(!takes(codec, tensor), "{codec} refuses values that it stands for");
    };
    assert!(takes(codec, tensor), "{codec} takes values that it does not stand for");
    assert!(
        encoded.len() <= codec.max_encoded_len(dtype, shape, len),
        "{codec} of {dtype} {shape} is too long"
    );
    let mut out = vec![0xaa; len];
    let decoded = codec.decode(&encoded, dtype, shape, &mut out, room);
    decoded.unwrap_or_else(|e| panic!("{codec} of {dtype} {shape}: {e}"));
    check(codec, tensor, &out).unwrap_or_else(|e| panic!("{dtype} {shape}: {e}"));
    assert!(codec.fidelity() != Fidelity::Exact || out == tensor.bytes(), "{codec}: exact");
}

/// Codec, type and shape that an input begins with, and the rest of it.
fn case(data: &[u8]) -> Option<(Codec, DType, Shape, &[u8])> {
    let (&code, rest) = data.split_first_chunk()?;
    let (&[dtype, rank], rest) = rest.split_first_chunk()?;
    let codec = Codec::from_code(code)?;
    let dtype = DType::from_code(dtype.into())?;
    let (dims, rest) = rest.split_at_checked(usize::from(rank).min(MAX_RANK))?;
    let dims: Vec<usize> = dims.iter().map(|&d| if d == 255 { 1 << 40 } else { d.into() }).collect();
    (codec == codec.for_dtype(dtype)).then_some((codec, dtype, Shape::new(&dims)?, rest))
}

fn byte_len(dtype: DType, shape: Shape) -> Option<usize> {
    dtype.byte_len(shape.elements()?).filter(|&len| len <= MAX_LEN)
}

/// How long the memory form of strings is said to be: two bytes that come first.
fn string_len(bytes: &mut &[u8]) -> Option<usize> {
    let (&len, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u16::from_le_bytes(len).into())
}

/// A message of the control plane or a greeting: what can be read can be written, and says the same again.
pub(crate) fn control(data: &[u8]) {
    let Some((&kind, message)) = data.split_first() else { return };
    match kind {
        0 => match again(message) {
            Some(Request::Prepare(order)) => {
                let _ = (order.check(), order.codecs());
                order.inputs.iter().chain(&order.outputs).for_each(|spec| {
                    let _ = TensorSpec::try_from(spec);
                });
            }
            Some(Request::Recode(order)) => drop(Codec::from_code(order.codec)),
            Some(Request::TimeCodecs(codes)) => drop(CodecList::from_codes(&codes)),
            _ => {}
        },
        1 => match again(message) {
            Some(Response::Timed(time)) => {
                let _ = (time.check(), time.sustained_seconds(), time.pace());
            }
            Some(Response::Probed(link)) => drop(link.check()),
            Some(Response::CodecsTimed(times)) => times.iter().for_each(|time| drop(time.check())),
            Some(Response::Description(node)) => drop(node.fingerprint()),
            Some(Response::Spans(spans)) => drop(spans.check()),
            _ => {}
        },
        2 => drop(again::<Hello>(message)),
        _ => drop(again::<Welcome>(message)),
    }
}

fn again<T: serde::Serialize + serde::de::DeserializeOwned>(message: &[u8]) -> Option<T> {
    let read: T = control::decode(message).ok()?;
    let written = control::encode(&read);
    let reread: T = control::decode(&written).expect("our own messages can be read");
    assert_eq!(control::encode(&reread), written, "a message says the same again");
    Some(read)
}

/// A piece of a weight that a peer made up: its raw length (2 bytes), its header, and the bytes after it, which are
/// also tried as what lies under Zstandard, and as a piece that we pack ourselves.
pub(crate) fn weights(data: &[u8]) {
    let Some((&raw_len, rest)) = data.split_first_chunk() else { return };
    let Some((header, bytes)) = rest.split_first_chunk::<HEADER_LEN>() else { return };
    let raw_len = usize::from(u16::from_le_bytes(raw_len));
    if let Ok((form, len)) = read_header(header, raw_len) {
        assert!(len <= raw_len, "{form:?}: longer than as it is");
        assert_eq!(write_header(form, len), *header, "a header says one thing in one way");
    }
    // A form that is read has one length at least that a header may give with it.
    let form_of = |len: usize| {
        let [a, b, c, d] = (len as u32).to_le_bytes();
        read_header(&[header[0], a, b, c, d], raw_len).ok()
    };
    let Some((form, _)) = form_of(0).or_else(|| form_of(raw_len)) else { return };
    let mut unpacker = Unpacker::default();
    for packed in [bytes, &stored(bytes)] {
        let (mut out, mut again) = (vec![0xaa; raw_len], vec![0x55; raw_len]);
        let unpacked = unpacker.unpack(form, packed, &mut out);
        assert_eq!(unpacked, unpacker.unpack(form, packed, &mut again), "{form:?}: the same twice");
        if unpacked.is_ok() {
            assert_eq!(out, again, "{form:?}: all of the piece is written");
            piece_travels(form, &out, &mut unpacker);
        }
    }
    let repeated: Vec<u8> = bytes.iter().copied().cycle().take(raw_len).collect();
    piece_travels(form, &repeated, &mut unpacker);
}

/// What of `bytes` is whole elements of the form's, packed and unpacked.
fn piece_travels(form: Form, bytes: &[u8], unpacker: &mut Unpacker) {
    let (width, len) = match form {
        Form::Shuffle(width) | Form::Palette(width) | Form::Sparse(width) => (width, bytes.len() / 8 * 8),
        Form::Raw => (Width::One, bytes.len()),
    };
    let (piece, mut packer) = (&bytes[..len], Packer::new(width));
    let (form, packed) = packer.pack(piece);
    assert_eq!(read_header(&write_header(form, packed.len()), len), Ok((form, packed.len())));
    let mut out = vec![0xaa; len];
    unpacker.unpack(form, packed, &mut out).unwrap_or_else(|e| panic!("{form:?} of {len} bytes: {e}"));
    assert_eq!(out, piece, "{form:?}: exact");
}

/// A Zstandard frame that holds bytes as they are (RFC 8878): no checksum, four bytes of content size, one raw block.
pub(crate) fn stored(bytes: &[u8]) -> Vec<u8> {
    let len = u32::try_from(bytes.len()).ok().filter(|&len| len < 1 << 17).expect("no longer than a block");
    let block = len << 3 | 1;
    [&[0x28, 0xb5, 0x2f, 0xfd, 0xa0], &len.to_le_bytes()[..], &block.to_le_bytes()[..3], bytes].concat()
}
