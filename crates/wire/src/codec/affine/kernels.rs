//! The loops over values: written so that the compiler makes vector code of them, once per set of instructions; the
//! processor's own is chosen at run time.
//!
//! A column has a number in memory form for each line. Elements come in runs of one line each, the lines in turns.

use multiversion::multiversion;

type Column = [[u8; 4]];

/// A sum with it is a whole number, in its lowest bits.
const ROUND: f32 = (1 << 23) as f32;

/// Takes the least and the largest [`key`] of each line from its `f32`s and what the columns hold.
#[multiversion(targets = "simd")]
pub(super) fn range(values: &[[u8; 4]], run: usize, least: &mut Column, most: &mut Column) {
    range_of_lines(values, run, least, most);
}

/// `f32` to bytes on lines, on none of which differences overflow.
#[multiversion(targets = "simd")]
pub(super) fn encode(values: &[[u8; 4]], run: usize, least: &Column, step: &Column, out: &mut [[u8; 1]]) {
    on_lines(values, run, least, step, out, byte);
}

/// The way back.
#[multiversion(targets = "simd")]
pub(super) fn decode(bytes: &[[u8; 1]], run: usize, least: &Column, step: &Column, out: &mut [[u8; 4]]) {
    on_lines(bytes, run, least, step, out, value);
}

#[inline(always)]
pub(super) fn range_of_lines(values: &[[u8; 4]], run: usize, least: &mut Column, most: &mut Column) {
    let widen = |least: &mut [u8; 4], most: &mut [u8; 4], values: &[[u8; 4]]| {
        let start = (i32::from_le_bytes(*least), i32::from_le_bytes(*most));
        let (low, high) = values.iter().fold(start, |(low, high), &value| {
            let key = key(i32::from_le_bytes(value));
            (low.min(key), high.max(key))
        });
        (*least, *most) = (low.to_le_bytes(), high.to_le_bytes());
    };
    for turn in values.chunks(run.saturating_mul(least.len())) {
        let lines = least.iter_mut().zip(&mut *most);
        match run {
            1 => turn
                .as_chunks()
                .0
                .iter()
                .zip(lines)
                .for_each(|(v, (least, most))| widen(least, most, v as &[_; 1])),
            _ => turn.chunks(run).zip(lines).for_each(|(run, (least, most))| widen(least, most, run)),
        }
    }
}

#[inline(always)]
pub(super) fn on_lines<const A: usize, const B: usize>(
    from: &[[u8; A]],
    run: usize,
    least: &Column,
    step: &Column,
    to: &mut [[u8; B]],
    each: impl Fn([u8; A], f32, f32) -> [u8; B],
) {
    let turn = run.saturating_mul(least.len());
    for (from, to) in from.chunks(turn).zip(to.chunks_mut(turn)) {
        let lines = least.iter().zip(step).map(|(&l, &s)| (f32::from_le_bytes(l), f32::from_le_bytes(s)));
        match run {
            1 => from.iter().zip(to).zip(lines).for_each(|((&from, to), (l, s))| *to = each(from, l, s)),
            _ => from.chunks(run).zip(to.chunks_mut(run)).zip(lines).for_each(|((from, to), (l, s))| {
                from.iter().zip(to).for_each(|(&from, to)| *to = each(from, l, s));
            }),
        }
    }
}

/// A number whose order is that of the values: `f32::total_cmp`. NaN and infinities lie outside of all finite values.
/// It is its own inverse, on bits.
#[inline(always)]
pub(super) fn key(bits: i32) -> i32 {
    bits ^ ((bits >> 31) as u32 >> 1) as i32
}

#[inline(always)]
pub(super) fn byte(value: [u8; 4], least: f32, step: f32) -> [u8; 1] {
    let steps = if step > 0.0 { (f32::from_le_bytes(value) - least) / step } else { 0.0 };
    // The last byte is also for a difference that just overflows.
    [(steps.min(255.0) + ROUND).to_bits() as u8]
}

#[inline(always)]
pub(super) fn value([byte]: [u8; 1], least: f32, step: f32) -> [u8; 4] {
    (least + step * f32::from(byte)).to_le_bytes()
}
