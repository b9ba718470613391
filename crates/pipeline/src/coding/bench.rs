//! Encodes and decodes tensors, and says how long each took. Called while a model is profiled, and to compare machines.
//!
//! Times are CPU time of the calling thread: what other work does on the machine, or a quota, is no part of them.

use tensor::{Buffer, Shape, TensorView};
use wire::{Codec, Room};

use crate::machine;
use crate::traffic::Traffic;

/// Of a larger tensor so much is tried: the rest is like it.
const SAMPLE_LEN: usize = 512 << 10;

/// Both ends of a link.
pub(super) struct Bench {
    sender: Room,
    receiver: Room,
    decoded: Buffer,
    /// What passes before each end does its part: in a chain a stage computes in between.
    traffic: Traffic,
}

impl Default for Bench {
    fn default() -> Bench {
        let traffic = Traffic::of_all_caches();
        Bench { sender: Room::default(), receiver: Room::default(), decoded: Buffer::default(), traffic }
    }
}

/// What one way over the link took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Passed {
    /// Bytes before encoding.
    pub(super) len: usize,
    /// Bytes as they travel.
    pub(super) encoded_len: usize,
    pub(super) encode_seconds: f64,
    pub(super) decode_seconds: f64,
}

impl Bench {
    /// Passes a tensor, or the beginning of a large one, as a link with this codec does: as a wider one, at last as it
    /// is, where the codec has nothing for its type or its values.
    pub(super) fn pass(&mut self, codec: Codec, tensor: TensorView<'_>) -> Passed {
        let tensor = sample(tensor);
        let (dtype, shape, len) = (tensor.dtype(), tensor.shape(), tensor.bytes().len());
        let raw = Passed { len, encoded_len: len, ..Passed::default() };
        if codec.for_dtype(dtype) == Codec::RAW {
            return raw;
        }
        self.decoded.resize(len);
        self.traffic.pass();
        let start = machine::thread_cpu_seconds();
        let (codec, encoded) = codec.encode_or_wider(tensor, &mut self.sender);
        let encode_seconds = machine::thread_cpu_seconds() - start;
        if codec == Codec::RAW {
            return raw;
        }
        self.traffic.pass();
        let start = machine::thread_cpu_seconds();
        let decoded = codec.decode(encoded, dtype, shape, self.decoded.as_mut_bytes(), &mut self.receiver);
        let decode_seconds = machine::thread_cpu_seconds() - start;
        decoded.expect("what was just encoded decodes");
        Passed { encoded_len: encoded.len(), encode_seconds, decode_seconds, ..raw }
    }
}

/// As many of a tensor's outermost rows as [`SAMPLE_LEN`] has room for. Elements that have no size of their own, or
/// share bytes, stay together.
fn sample(tensor: TensorView<'_>) -> TensorView<'_> {
    let (dtype, bytes) = (tensor.dtype(), tensor.bytes());
    let Some(width) = dtype.element_len() else { return tensor };
    let mut dims = tensor.shape().dims().to_vec();
    let mut len = bytes.len();
    // Those before it are 1 when it is an axis's turn, so that what is left always lies together.
    for size in &mut dims {
        if len <= SAMPLE_LEN {
            break;
        }
        let row = len / *size;
        *size = (SAMPLE_LEN / row.max(1)).clamp(1, *size);
        len = row * *size;
    }
    assert_eq!(len % width, 0, "whole elements");
    let shape = Shape::new(&dims).expect("as many dimensions as before");
    TensorView::new(dtype, shape, &bytes[..len]).expect("fewer rows of the same kind")
}

#[cfg(test)]
mod tests {
    use tensor::{DType, Tensor};

    use super::*;

    #[test]
    fn of_a_large_tensor_the_first_rows_are_tried() {
        for (dims, dtype, expected) in [
            (&[1, 64, 32, 32][..], DType::F32, &[1, 64, 32, 32][..]),
            (&[1, 256, 56, 56], DType::F32, &[1, 41, 56, 56]),
            (&[4, 1024, 1024], DType::F32, &[1, 128, 1024]),
            (&[3, 1 << 20], DType::U8, &[1, 1 << 19]),
            (&[1 << 23], DType::Bool, &[1 << 19]),
            (&[0, 1 << 23], DType::F32, &[0, 1 << 23]),
            (&[], DType::F32, &[]),
        ] {
            let tensor = Tensor::zeros(dtype, Shape::new(dims).unwrap()).unwrap();
            assert_eq!(sample(tensor.view()).shape().dims(), expected, "{dims:?}");
        }
        let strings = Tensor::from_strings([2].into(), &["a".repeat(1 << 20), String::new()]).unwrap();
        assert_eq!(sample(strings.view()), strings.view());
    }

    #[test]
    fn what_a_codec_has_nothing_for_travels_as_it_is() {
        let mut bench = Bench::default();
        let integers = Tensor::from_slice([3].into(), &[1i64, 2, 3]).unwrap();
        let endless = Tensor::from_slice([2].into(), &[f32::INFINITY, 0.0]).unwrap();
        let large = Tensor::from_slice([4].into(), &[1e6f32; 4]).unwrap();
        for (codec, tensor, expected) in [
            ("bf16", &integers, 24),
            ("u8", &endless, 8),
            ("bf16", &endless, 4),
            ("f16", &large, 8),
            ("f16+bitmap", &large, 9),
        ] {
            let passed = bench.pass(codec.parse().unwrap(), tensor.view());
            assert_eq!((passed.len, passed.encoded_len), (tensor.bytes().len(), expected), "{codec}");
        }
    }
}
