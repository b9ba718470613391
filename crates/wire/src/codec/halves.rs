//! Values as halves: half the bytes, each value rounded to the nearest, ties to even. Infinities and NaN stay what they
//! are, signs too. Tensors that the type has no room for are refused: no number becomes infinite, and the largest has all
//! of its bits.
//!
//! The conversions are branch-free integer arithmetic, which the compiler turns into vector code; it does so once per
//! set of instructions, and the processor's own is chosen at run time.

use std::ops::Range;

use multiversion::multiversion;

use super::EncodeError;

/// Bits of the largest number of a tensor, without its sign, that IEEE 754 halves stand for: not below their least normal
/// number, 2^-14, as the step of denormals is too coarse, nor rounded to infinity, as 65520 is.
const F16_LARGEST: Range<u32> = (127 - 14) << 23..0x477f_f000;

/// The same for bfloat16: not below 2^-126, as for `f32`, whose denormals have 16 bits more.
const BF16_LARGEST: Range<u32> = 1 << 23..0x7f7f_8000;

/// Of `f32` in memory form, into two bytes each.
pub(super) fn encode_f16(values: &[u8], out: &mut [u8]) -> Result<(), EncodeError> {
    fits(to_f16(values.as_chunks().0, out.as_chunks_mut().0), F16_LARGEST)
}

/// The other way.
pub(super) fn decode_f16(bytes: &[u8], out: &mut [u8]) {
    from_f16(bytes.as_chunks().0, out.as_chunks_mut().0);
}

/// Of `f32` in memory form, into two bytes each.
pub(super) fn encode_bf16(values: &[u8], out: &mut [u8]) -> Result<(), EncodeError> {
    fits(to_bf16(values.as_chunks().0, out.as_chunks_mut().0), BF16_LARGEST)
}

/// The other way.
pub(super) fn decode_bf16(bytes: &[u8], out: &mut [u8]) {
    from_bf16(bytes.as_chunks().0, out.as_chunks_mut().0);
}

/// Zeros, infinities and NaN fit anywhere.
fn fits(largest: u32, range: Range<u32>) -> Result<(), EncodeError> {
    match largest == 0 || range.contains(&largest) {
        true => Ok(()),
        false => Err(EncodeError::OutOfRange),
    }
}

#[multiversion(targets = "simd")]
fn to_f16(values: &[[u8; 4]], out: &mut [[u8; 2]]) -> u32 {
    narrow(values, out, f16_of)
}

#[multiversion(targets = "simd")]
fn from_f16(halves: &[[u8; 2]], out: &mut [[u8; 4]]) {
    widen(halves, out, of_f16);
}

#[multiversion(targets = "simd")]
fn to_bf16(values: &[[u8; 4]], out: &mut [[u8; 2]]) -> u32 {
    narrow(values, out, bf16_of)
}

#[multiversion(targets = "simd")]
fn from_bf16(halves: &[[u8; 2]], out: &mut [[u8; 4]]) {
    widen(halves, out, of_bf16);
}

/// Gives the bits of the largest number, without its sign; 0 if there is none.
#[inline(always)]
fn narrow(values: &[[u8; 4]], out: &mut [[u8; 2]], each: impl Fn(u32) -> u16) -> u32 {
    assert_eq!(values.len(), out.len(), "as many elements out as in");
    let mut largest = 0;
    for (&value, out) in values.iter().zip(out) {
        let bits = u32::from_le_bytes(value);
        *out = each(bits).to_le_bytes();
        let size = bits & !SIGN;
        largest = largest.max(if size < INFINITY { size } else { 0 });
    }
    largest
}

#[inline(always)]
fn widen(halves: &[[u8; 2]], out: &mut [[u8; 4]], each: impl Fn(u16) -> u32) {
    assert_eq!(halves.len(), out.len(), "as many elements out as in");
    halves.iter().zip(out).for_each(|(&half, out)| *out = each(u16::from_le_bytes(half)).to_le_bytes());
}

const SIGN: u32 = 1 << 31;
const INFINITY: u32 = 0xff << 23;

/// The bits of the nearest bfloat16: the upper half, plus one where the lower half is more than a half of it.
#[inline(always)]
fn bf16_of(bits: u32) -> u16 {
    let odd = bits >> 16 & 1;
    let nearest = bits.wrapping_add(0x7fff + odd) >> 16;
    // A NaN might be rounded to infinity: its upper half goes, quiet.
    let nan = bits >> 16 | 0x40;
    (if bits & !SIGN > INFINITY { nan } else { nearest }) as u16
}

#[inline(always)]
fn of_bf16(half: u16) -> u32 {
    u32::from(half) << 16
}

/// The bits of the nearest IEEE 754 half.
#[inline(always)]
fn f16_of(bits: u32) -> u16 {
    /// What the exponents of both types differ by.
    const REBIAS: u32 = (127 - 15) << 23;
    /// The least value with a half that is not denormal.
    const NORMAL: u32 = (127 - 14) << 23;
    /// One half has an ulp that is the least denormal of halves: a sum with it is rounded to those.
    const HALF: u32 = 126 << 23;
    /// The least power of two without a half.
    const TOO_LARGE: u32 = (127 + 16) << 23;

    let sign = bits >> 16 & 0x8000;
    let size = bits & !SIGN;
    let odd = size >> 13 & 1;
    let normal = size.wrapping_sub(REBIAS).wrapping_add(0xfff + odd) >> 13;
    let denormal = (f32::from_bits(size) + f32::from_bits(HALF)).to_bits().wrapping_sub(HALF);
    let nan = 0x7e00 | size >> 13 & 0x1ff;
    let finite = if size < NORMAL { denormal } else { normal };
    let number = if size < TOO_LARGE { finite } else { 0x7c00 };
    (sign | if size > INFINITY { nan } else { number }) as u16
}

#[inline(always)]
fn of_f16(half: u16) -> u32 {
    const REBIAS: u32 = (127 - 15) << 23;
    const NORMAL: u32 = 1 << 23;
    const LARGEST: u32 = 31 << 23;
    /// The value of the least exponent of halves, as `f32`.
    const LEAST: u32 = (127 - 14) << 23;

    let sign = u32::from(half & 0x8000) << 16;
    let size = u32::from(half & 0x7fff) << 13;
    let normal = size + REBIAS;
    // As if the leading one that denormals lack were there, and taken away again.
    let denormal = (f32::from_bits(size + LEAST) - f32::from_bits(LEAST)).to_bits();
    let finite = if size < NORMAL { denormal } else { normal };
    sign | if size < LARGEST { finite } else { size | INFINITY }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bits of values around every rounding: all upper halves, with lower ones that round down, tie and round up.
    fn bits() -> impl Iterator<Item = u32> {
        let lower =
            [0, 1, 0x0fff, 0x1000, 0x1001, 0x2000, 0x3000, 0x7fff, 0x8000, 0x8001, 0xefff, 0xf000, 0xffff];
        (0..=u16::MAX).flat_map(move |upper| lower.map(|lower| u32::from(upper) << 16 | lower))
    }

    fn narrowed(values: &[[u8; 4]], by: impl Fn(&[[u8; 4]], &mut [[u8; 2]]) -> u32) -> Vec<u16> {
        let mut out = vec![[0; 2]; values.len()];
        let largest = by(values, &mut out);
        let finite = values.iter().map(|&value| f32::from_le_bytes(value).abs()).filter(|v| v.is_finite());
        assert_eq!(f32::from_bits(largest), finite.fold(0.0, f32::max));
        out.into_iter().map(u16::from_le_bytes).collect()
    }

    fn widened(halves: &[[u8; 2]], by: impl Fn(&[[u8; 2]], &mut [[u8; 4]])) -> Vec<u32> {
        let mut out = vec![[0; 4]; halves.len()];
        by(halves, &mut out);
        out.into_iter().map(u32::from_le_bytes).collect()
    }

    #[test]
    fn rounds_as_the_half_crate_does() {
        let values: Vec<[u8; 4]> = bits().map(u32::to_le_bytes).collect();
        let (f16, bf16) = (narrowed(&values, to_f16), narrowed(&values, to_bf16));
        for ((bits, f16), bf16) in bits().zip(f16).zip(bf16) {
            let value = f32::from_bits(bits);
            assert_eq!(bf16, half::bf16::from_f32(value).to_bits(), "bf16 of {bits:#x}, {value}");
            if value.is_nan() {
                assert!(half::f16::from_bits(f16).is_nan(), "f16 of {bits:#x}");
                assert_eq!(f16 >> 15, (bits >> 31) as u16, "the sign of {bits:#x}");
            } else {
                assert_eq!(f16, half::f16::from_f32(value).to_bits(), "f16 of {bits:#x}, {value}");
            }
        }
    }

    #[test]
    fn every_half_is_widened_exactly_and_comes_back() {
        let halves: Vec<[u8; 2]> = (0..=u16::MAX).map(u16::to_le_bytes).collect();
        let (f16, bf16) = (widened(&halves, from_f16), widened(&halves, from_bf16));
        for ((bits, f16), bf16) in (0..=u16::MAX).zip(f16).zip(bf16) {
            let (was, wide) = (half::f16::from_bits(bits), f32::from_bits(f16));
            assert!(wide == was.to_f32() || wide.is_nan() && was.is_nan(), "{bits:#x}: {wide} for {was}");
            assert!(wide.is_nan() || f16_of(f16) == bits, "{bits:#x}");
            assert_eq!(bf16, u32::from(bits) << 16);
        }
    }

    #[test]
    fn vector_code_does_what_portable_code_does() {
        let values: Vec<[u8; 4]> = bits().map(u32::to_le_bytes).collect();
        let halves: Vec<[u8; 2]> = (0..=u16::MAX).map(u16::to_le_bytes).collect();
        // Lengths about those of vectors, at addresses that are not aligned.
        for (start, len) in (0..70).map(|len| (len * 977, len)).chain([(0, values.len()), (3, 60_000)]) {
            let values = &values[start..start + len];
            assert_eq!(narrowed(values, to_f16), narrowed(values, |v, out| narrow(v, out, f16_of)));
            assert_eq!(narrowed(values, to_bf16), narrowed(values, |v, out| narrow(v, out, bf16_of)));
            let halves = &halves[start.min(halves.len() - len.min(halves.len()))..];
            let halves = &halves[..len.min(halves.len())];
            assert_eq!(widened(halves, from_f16), widened(halves, |h, out| widen(h, out, of_f16)));
            assert_eq!(widened(halves, from_bf16), widened(halves, |h, out| widen(h, out, of_bf16)));
        }
    }

    #[test]
    fn what_halves_have_no_room_for_is_refused() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        // The least normal number of halves, what is just below 65520, and the next to both.
        let (least, below_least) = (f32::from_bits(0x3880_0000), f32::from_bits(0x387f_ffff));
        let most = f32::from_bits(0x477f_efff);
        let (tiny, below_tiny) = (f32::MIN_POSITIVE, f32::from_bits(0x007f_ffff));
        for (values, f16, bf16) in [
            ([1.0, -3.0], true, true),
            ([0.0, -0.0], true, true),
            ([inf, nan], true, true),
            ([-inf, 1.0], true, true),
            ([-most, 1.0], true, true),
            ([-65520.0, 1.0], false, true),
            ([f32::from_bits(0x7f7f_7fff), inf], false, true),
            ([f32::from_bits(0x7f7f_8000), inf], false, false),
            ([-f32::MAX, 1.0], false, false),
            // The largest number has to have all bits, the others need not.
            ([1e-30, -least], true, true),
            ([1e-30, below_least], false, true),
            ([inf, below_least], false, true),
            ([0.0, tiny], false, true),
            ([-0.0, -below_tiny], false, false),
            ([nan, f32::from_bits(1)], false, false),
        ] {
            let (bytes, mut out) = (values.map(f32::to_le_bytes), [0; 4]);
            assert_eq!(encode_f16(bytes.as_flattened(), &mut out).is_ok(), f16, "f16 of {values:?}");
            assert_eq!(encode_bf16(bytes.as_flattened(), &mut out).is_ok(), bf16, "bf16 of {values:?}");
        }
    }
}
