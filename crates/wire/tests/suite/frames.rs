//! Whole frames in memory, as a reader on a link takes them apart. Fuzz targets use it, too.

use tensor::{Tensor, TensorView};
use wire::frame::{self, PREFIX_LEN};
use wire::{Codec, Descriptor, FrameError, Header, Room, checksum};

/// The largest tensor that is believed, bytes.
const MAX_LEN: usize = 1 << 16;

/// A frame that holds one tensor.
pub(crate) fn of_tensor(header: &Header, codec: Codec, tensor: TensorView<'_>) -> Vec<u8> {
    let mut room = Room::default();
    let codec = codec.for_dtype(tensor.dtype());
    let encoded = codec.encode(tensor, &mut room).expect("values that the codec takes");
    let descriptor = Descriptor {
        codec,
        dtype: tensor.dtype(),
        shape: tensor.shape(),
        len: tensor.bytes().len(),
        encoded_len: encoded.len(),
        checksum: Some(checksum(encoded)),
    };
    let mut bytes = Vec::new();
    frame::write_header(header, &[descriptor], &mut bytes);
    bytes.extend_from_slice(encoded);
    bytes
}

/// Takes a frame apart: its header, and each tensor with how it travelled.
pub(crate) fn open(bytes: &[u8], room: &mut Room) -> Result<(Header, Vec<(Descriptor, Tensor)>), String> {
    let prefix = bytes.first_chunk::<PREFIX_LEN>().ok_or("it is too short")?;
    let header_len = frame::header_len_from_prefix(prefix).map_err(text)?;
    let (header, mut payload) = bytes.split_at_checked(header_len).ok_or("it is too short")?;
    let mut descriptors = Vec::new();
    let read = frame::read_header(header, &mut descriptors).map_err(text)?;
    let mut again = Vec::new();
    frame::write_header(&read, &descriptors, &mut again);
    assert_eq!(header, again, "a header says one thing in one way");
    let mut tensors = Vec::new();
    for descriptor in descriptors {
        let encoded;
        (encoded, payload) = payload.split_at_checked(descriptor.encoded_len).ok_or("it is too short")?;
        tensors.push((descriptor, tensor(&descriptor, encoded, room)?));
    }
    if payload.is_empty() { Ok((read, tensors)) } else { Err("it is too long".to_owned()) }
}

fn tensor(d: &Descriptor, encoded: &[u8], room: &mut Room) -> Result<Tensor, String> {
    if d.checksum.is_some_and(|sum| sum != checksum(encoded)) {
        return Err("a checksum is wrong".to_owned());
    }
    if d.len > MAX_LEN {
        return Err(format!("a tensor of {} bytes", d.len));
    }
    let mut out = vec![0; d.len];
    d.codec.decode(encoded, d.dtype, d.shape, &mut out, room).map_err(|e| e.to_string())?;
    Tensor::from_bytes(d.dtype, d.shape, &out).map_err(|e| e.to_string())
}

fn text(error: FrameError) -> String {
    error.to_string()
}
