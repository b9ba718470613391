//! What is encoded decodes, within what the codec promises.

use fastrand::Rng;
use tensor::{Buffer, DType, Shape, Tensor, TensorView};
use wire::{Codec, CodecList, Room};

use crate::codecs::{self, check, takes};
use crate::tensors::{self, CONTENTS};

/// Encodes and decodes, by all codecs that the tensor's type can have, and as links do that use them.
fn round_trips(tensor: TensorView<'_>, room: &mut Room) {
    let (dtype, shape, len) = (tensor.dtype(), tensor.shape(), tensor.bytes().len());
    for codec in codecs::of(dtype) {
        travels(codec, tensor, room);
        let encoded = match codec.encode(tensor, room) {
            Ok(encoded) => encoded.to_vec(),
            Err(refusal) => {
                assert!(!takes(codec, tensor), "{codec} refuses {dtype} {shape}: {refusal}");
                continue;
            }
        };
        assert!(takes(codec, tensor), "{codec} takes values that it does not stand for, {dtype} {shape}");
        assert!(
            encoded.len() <= codec.max_encoded_len(dtype, shape, len),
            "{codec} of {dtype} {shape} is too long"
        );
        let mut out = Buffer::copy_of(&vec![0xaa; len]);
        let decoded = codec.decode(&encoded, dtype, shape, out.as_mut_bytes(), room);
        decoded.unwrap_or_else(|e| panic!("{codec} of {dtype} {shape}: {e}"));
        check(codec, tensor, out.as_bytes()).unwrap_or_else(|e| panic!("{dtype} {shape}: {e}"));
    }
}

/// What a sender makes of a tensor is taken by the receiver, and as near as the codec that both know of promises.
fn travels(codec: Codec, tensor: TensorView<'_>, room: &mut Room) {
    let (dtype, shape) = (tensor.dtype(), tensor.shape());
    let (used, encoded) = codec.encode_or_wider(tensor, room);
    let encoded = encoded.to_vec();
    assert_eq!(used == codec, takes(codec, tensor), "{codec} of {dtype} {shape} travels as {used}");
    assert!(used.fidelity() >= codec.fidelity(), "{codec} becomes {used}");
    assert!(CodecList::from(codec).admits(used, dtype), "{codec} becomes {used}");
    if used == codec {
        return;
    }
    let mut out = vec![0xaa; tensor.bytes().len()];
    used.decode(&encoded, dtype, shape, &mut out, room).unwrap_or_else(|e| panic!("{used} for {codec}: {e}"));
    check(used, tensor, &out).unwrap_or_else(|e| panic!("{used} for {codec}: {e}"));
}

#[test]
fn all_codecs_give_back_floats_as_they_promise() {
    let mut room = Room::default();
    let mut random = Rng::with_seed(0);
    for shape in tensors::shapes() {
        for content in CONTENTS {
            round_trips(tensors::floats(shape, content, &mut random).view(), &mut room);
        }
    }
}

#[test]
fn other_types_come_back_bit_for_bit() {
    let mut room = Room::default();
    let mut random = Rng::with_seed(1);
    for &dtype in DType::ALL.iter().filter(|&&dtype| dtype != DType::F32) {
        for shape in tensors::shapes() {
            if dtype == DType::String && shape.dims().contains(&(1 << 40)) {
                continue;
            }
            round_trips(tensors::of_type(dtype, shape, &mut random).view(), &mut room);
        }
    }
}

/// Long enough for every loop to go round, for matches far back, and for more than one block of an entropy coder.
#[test]
fn long_tensors_come_back_as_promised() {
    let mut room = Room::default();
    let mut random = Rng::with_seed(2);
    let shape = Shape::from([1, 7, 131, 157]);
    for content in [tensors::Content::Rectified, tensors::Content::Finite] {
        round_trips(tensors::floats(shape, content, &mut random).view(), &mut room);
    }
    round_trips(tensors::of_type(DType::I32, shape, &mut random).view(), &mut room);
}

/// The test's own judge: it refuses what is not as promised.
#[test]
fn promises_can_be_broken() {
    let of = |values: &[f32]| Tensor::from_slice(Shape::from([values.len()]), values).unwrap();
    for (codec, sent, got) in [
        ("lz4", [1.0, 2.0], [1.0, f32::from_bits(0x4000_0001)]),
        ("f16", [1.0, 2.0], [1.0, 2.0011]),
        ("f16", [65504.0, 2.0], [f32::INFINITY, 2.0]),
        ("f16", [f32::NAN, 2.0], [f32::INFINITY, 2.0]),
        ("f16", [f32::INFINITY, 2.0], [65504.0, 2.0]),
        ("bf16", [1.0, 2.0], [1.0, 2.008]),
        ("bf16", [-0.0, 2.0], [0.0, 2.0]),
        ("json+lz4", [-0.0, 2.0], [0.0, 2.0]),
        ("zfp-1d", [-0.0, 2.0], [0.0, 2.0]),
        ("zfp-tol", [1.0, 2.0], [1.008, 2.0]),
        ("zfp-1d-rate8", [1.0, 2.0], [1.0, f32::INFINITY]),
        ("u8", [0.0, 255.0], [0.51, 255.0]),
        ("u8", [7.0, 7.0], [7.0, 7.000001]),
        ("u8-axis0", [0.0, 255.0], [0.1, 255.0]),
    ] {
        assert!(
            check(codec.parse().unwrap(), of(&sent).view(), of(&sent).bytes()).is_ok(),
            "{codec} {sent:?}"
        );
        assert!(
            check(codec.parse().unwrap(), of(&sent).view(), of(&got).bytes()).is_err(),
            "{codec} {sent:?}"
        );
    }
}
