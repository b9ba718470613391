//! Values as halves: half the bytes, each value rounded to the nearest. Infinities and NaN stay what they are.

use half::{bf16, f16};

/// Of `f32` in memory form, into two bytes each.
pub(super) fn encode_f16(values: &[u8], out: &mut [u8]) {
    convert(values, out, |value| f16::from_f32(f32::from_le_bytes(value)).to_le_bytes());
}

/// The other way.
pub(super) fn decode_f16(bytes: &[u8], out: &mut [u8]) {
    convert(bytes, out, |value| f16::from_le_bytes(value).to_f32().to_le_bytes());
}

/// Of `f32` in memory form, into two bytes each.
pub(super) fn encode_bf16(values: &[u8], out: &mut [u8]) {
    convert(values, out, |value| bf16::from_f32(f32::from_le_bytes(value)).to_le_bytes());
}

/// The other way.
pub(super) fn decode_bf16(bytes: &[u8], out: &mut [u8]) {
    convert(bytes, out, |value| bf16::from_le_bytes(value).to_f32().to_le_bytes());
}

fn convert<const N: usize, const M: usize>(from: &[u8], to: &mut [u8], each: impl Fn([u8; N]) -> [u8; M]) {
    let (from, to) = (from.as_chunks::<N>().0, to.as_chunks_mut::<M>().0);
    assert_eq!(from.len(), to.len(), "as many elements out as in");
    from.iter().zip(to).for_each(|(&from, to)| *to = each(from));
}
