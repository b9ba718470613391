//! Tensors of every type, of odd shapes, with odd values.

use fastrand::Rng;
use tensor::{DType, MAX_RANK, Shape, Tensor};

/// Empty, scalar, one element, odd sizes, around the widths of vector registers, all ranks.
pub(crate) fn shapes() -> Vec<Shape> {
    let mut shapes = vec![
        Shape::SCALAR,
        Shape::from([0]),
        Shape::from([3, 0, 5]),
        Shape::from([1 << 40, 0]),
        Shape::from([1, 2, 9, 11]),
        Shape::from([1, 16, 4, 4]),
        Shape::from([17, 33]),
        Shape::from([2, 3, 4, 5, 3]),
        Shape::from([1; MAX_RANK]),
        Shape::from([2, 1, 3, 1, 2, 1, 3, 2]),
    ];
    shapes.extend([1, 2, 7, 8, 15, 31, 64, 65, 255, 257].map(|len| Shape::from([len])));
    shapes
}

/// Values that `f32` tensors are made of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Content {
    /// As activations are: smooth, with runs of zeros.
    Rectified,
    /// One value throughout.
    Constant,
    /// Within the last bits of a value far from zero.
    Narrow,
    /// From the least to the largest finite value: their difference is not finite.
    Widest,
    /// Too small for a normal number.
    Denormal,
    /// Zeros of both signs.
    Zeros,
    /// Small ones and one that is huge.
    Outlier,
    /// All exponents, no NaN or infinity.
    Finite,
    /// NaN and infinities among the others.
    Special,
    /// Any bits.
    Bits,
}

pub(crate) const CONTENTS: [Content; 10] = {
    use Content::*;
    [Rectified, Constant, Narrow, Widest, Denormal, Zeros, Outlier, Finite, Special, Bits]
};

/// An `f32` tensor.
pub(crate) fn floats(shape: Shape, content: Content, random: &mut Rng) -> Tensor {
    let len = shape.elements().expect("a shape of these tests");
    let constant = f32::from_bits(random.u32(..)).clamp(-1e30, 1e30);
    let constant = if constant.is_nan() { -0.0 } else { constant };
    let outlier = random.usize(..len.max(1));
    let value = |i: usize| match content {
        Content::Rectified => ((i as f32 * 0.37).sin() * 3.0 + random.f32() - 0.5).max(0.0),
        Content::Constant => constant,
        Content::Narrow => f32::from_bits(0x4640_0000 + random.u32(..5)),
        Content::Widest => *random.choice(&[f32::MAX, f32::MIN, 1.0, 0.0, f32::MAX / 3.0]).expect("some"),
        Content::Denormal => f32::from_bits(random.u32(..1 << 12) | (random.u32(..2) << 31)),
        Content::Zeros => {
            if random.bool() {
                0.0
            } else {
                -0.0
            }
        }
        Content::Outlier if i == outlier => -3.0e38,
        Content::Outlier => random.f32(),
        Content::Finite => finite(random),
        Content::Special => match random.u8(..8) {
            0 => f32::INFINITY,
            1 => f32::NEG_INFINITY,
            2 => f32::from_bits(0x7fa0_1234), // a signalling NaN with a payload
            3 => -f32::NAN,
            4 => 65519.99,
            5 => f32::MAX,
            _ => finite(random),
        },
        Content::Bits => f32::from_bits(random.u32(..)),
    };
    let values: Vec<f32> = (0..len).map(value).collect();
    Tensor::from_slice(shape, &values).expect("as many values as the shape has")
}

fn finite(random: &mut Rng) -> f32 {
    loop {
        let value = f32::from_bits(random.u32(..));
        if value.is_finite() {
            return value;
        }
    }
}

/// A tensor of any type: half of its bytes are zero. Strings are of several lengths, also none.
pub(crate) fn of_type(dtype: DType, shape: Shape, random: &mut Rng) -> Tensor {
    let len = shape.elements().expect("a shape of these tests");
    if dtype == DType::String {
        let text = |random: &mut Rng| "grüße".chars().take(random.usize(..6)).collect::<String>();
        let texts: Vec<String> = (0..len).map(|_| text(random)).collect();
        return Tensor::from_strings(shape, &texts).expect("as many strings as the shape has");
    }
    let len = dtype.byte_len(len).expect("a shape of these tests");
    let bytes: Vec<u8> = (0..len).map(|_| random.u8(..) * u8::from(random.bool())).collect();
    Tensor::from_bytes(dtype, shape, &bytes).expect("as many bytes as type and shape take")
}
