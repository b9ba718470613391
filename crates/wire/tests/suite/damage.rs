//! Encodings that were changed on the way: where no checksum tells, decoding is an error or gives a tensor, and nothing
//! that is too short or too long is taken for whole.

use fastrand::Rng;
use tensor::{DType, Shape, Tensor};
use wire::{Codec, Room};

use crate::codecs;
use crate::tensors::{self, Content};

fn small_tensors() -> Vec<Tensor> {
    let mut random = Rng::with_seed(3);
    let shapes = [Shape::from([2, 3]), Shape::from([1, 3, 4, 5]), Shape::SCALAR, Shape::from([0, 2])];
    let mut small: Vec<_> =
        shapes.into_iter().map(|shape| tensors::floats(shape, Content::Rectified, &mut random)).collect();
    small.push(tensors::floats(Shape::from([5, 5]), Content::Zeros, &mut random));
    for dtype in [DType::U8, DType::Bool, DType::F16, DType::I64, DType::Complex128, DType::U4, DType::String]
    {
        small.push(tensors::of_type(dtype, Shape::from([3, 5]), &mut random));
    }
    small
}

/// Calls `each` with every codec, a small tensor, and its encoding.
fn each_encoding(mut each: impl FnMut(Codec, &Tensor, Vec<u8>)) {
    let mut room = Room::default();
    for tensor in small_tensors() {
        for codec in codecs::of(tensor.dtype()) {
            let encoded = codec.encode(tensor.view(), &mut room).map(<[u8]>::to_vec);
            each(codec, &tensor, encoded.expect("finite values"));
        }
    }
}

/// What decoding gives; `None` if it is an error.
fn decoded(codec: Codec, like: &Tensor, encoded: &[u8], room: &mut Room) -> Option<Vec<u8>> {
    let mut out = vec![0xaa; like.bytes().len()];
    codec.decode(encoded, like.dtype(), like.shape(), &mut out, room).ok().map(|()| out)
}

#[test]
fn flipped_bits_spoil_no_more_than_their_tensor() {
    let mut room = Room::default();
    let mut noticed = 0;
    each_encoding(|codec, tensor, mut encoded| {
        let good = decoded(codec, tensor, &encoded, &mut room).expect("it was just encoded");
        for bit in 0..8 * encoded.len() {
            encoded[bit / 8] ^= 1 << (bit % 8);
            noticed += usize::from(decoded(codec, tensor, &encoded, &mut room).is_none());
            encoded[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(decoded(codec, tensor, &encoded, &mut room), Some(good), "{codec} after damaged ones");
    });
    assert!(noticed > 1000, "{noticed} flipped bits are noticed without a checksum");
}

#[test]
fn what_is_cut_short_or_goes_on_is_not_taken_for_whole() {
    let mut room = Room::default();
    each_encoding(|codec, tensor, mut encoded| {
        let (dtype, shape) = (tensor.dtype(), tensor.shape());
        let good = decoded(codec, tensor, &encoded, &mut room);
        for len in 0..encoded.len() {
            let cut = decoded(codec, tensor, &encoded[..len], &mut room);
            assert!(
                cut.is_none() || cut == good,
                "{codec} of {dtype} {shape}: {len} of {} bytes",
                encoded.len()
            );
        }
        for byte in [0, 1, 0xff] {
            encoded.push(byte);
            let longer = decoded(codec, tensor, &encoded, &mut room);
            assert_eq!(longer, None, "{codec} of {dtype} {shape}: {byte} after the end");
            encoded.pop();
        }
    });
}

#[test]
fn bytes_of_no_meaning_are_no_tensor_or_some_tensor() {
    let (mut room, mut random) = (Room::default(), Rng::with_seed(4));
    for tensor in small_tensors() {
        for codec in codecs::of(tensor.dtype()) {
            for _ in 0..20 {
                let len = random.usize(..2 * tensor.bytes().len() + 20);
                let bytes: Vec<u8> = (0..len).map(|_| random.u8(..) & random.u8(..)).collect();
                decoded(codec, &tensor, &bytes, &mut room);
            }
        }
    }
}
