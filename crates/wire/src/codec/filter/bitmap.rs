//! A bit for each element, then only the elements that are not zero. After ReLU, a fifth to two thirds of them are zero.
//!
//! Bits go from the lowest to the highest in their bytes; those after the last element are zero. Zero is an element of
//! zero bytes: a negative zero of a float is none, as it has to come back.

use multiversion::multiversion;

use super::planes::{self, Part};

/// Elements that go between their places and planes at a time, and have one word of bits.
const BLOCK: usize = 64;
/// Elements in between: those of several blocks, as it pays to arrange many at once.
const ROOM: usize = 512;

/// Bytes of the bits.
pub(super) fn bits_len(elements: usize) -> usize {
    elements.div_ceil(8)
}

/// Gives how many bytes of `out` are written.
pub(super) fn encode(bytes: &[u8], element: usize, out: &mut [u8]) -> usize {
    match element {
        1 => encode_1(bytes.as_chunks().0, out),
        2 => encode_2(bytes.as_chunks().0, out),
        4 => encode_4(bytes.as_chunks().0, out),
        8 => encode_8(bytes.as_chunks().0, out),
        16 => encode_16(bytes.as_chunks().0, out),
        other => unreachable!("no type has elements of {other} bytes"),
    }
}

/// Fills `out`.
pub(super) fn decode(bytes: &[u8], element: usize, out: &mut [u8]) -> Result<(), String> {
    let elements = out.len() / element;
    let (bits, planes) = bytes.split_at_checked(bits_len(elements)).ok_or("it is too short for its bits")?;
    let ones = count_ones(bits);
    if ones.checked_mul(element) != Some(planes.len()) {
        return Err(format!("{} bytes where bits tell of {ones} elements of {element}", planes.len()));
    }
    if !elements.is_multiple_of(8) && bits.last().is_some_and(|last| last >> (elements % 8) != 0) {
        return Err("it has bits of no elements".to_owned());
    }
    match element {
        1 => decode_1(bits, planes, out.as_chunks_mut().0),
        2 => decode_2(bits, planes, out.as_chunks_mut().0),
        4 => decode_4(bits, planes, out.as_chunks_mut().0),
        8 => decode_8(bits, planes, out.as_chunks_mut().0),
        16 => decode_16(bits, planes, out.as_chunks_mut().0),
        other => unreachable!("no type has elements of {other} bytes"),
    }
    Ok(())
}

#[multiversion(targets = "simd")]
fn count_ones(bits: &[u8]) -> usize {
    bits.iter().map(|bits| bits.count_ones() as usize).sum()
}

macro_rules! widths {
    ($($width:literal: $encode:ident $decode:ident)*) => { $(
        #[multiversion(targets = "simd")]
        fn $encode(elements: &[[u8; $width]], out: &mut [u8]) -> usize {
            encode_all(elements, out)
        }

        #[multiversion(targets = "simd")]
        fn $decode(bits: &[u8], planes: &[u8], out: &mut [[u8; $width]]) {
            decode_all(bits, planes, out)
        }
    )* };
}

widths! { 1: encode_1 decode_1  2: encode_2 decode_2  4: encode_4 decode_4  8: encode_8 decode_8  16: encode_16 decode_16 }

#[inline(always)]
fn encode_all<const N: usize>(elements: &[[u8; N]], out: &mut [u8]) -> usize {
    let (bits, out) = out.split_at_mut(bits_len(elements.len()));
    let mut plane = 0;
    for (elements, bits) in elements.chunks(BLOCK).zip(bits.chunks_mut(BLOCK / 8)) {
        let word = ones(elements);
        plane += word.count_ones() as usize;
        bits.copy_from_slice(&word.to_le_bytes()[..bits.len()]);
    }
    let (mut at, mut held) = (0, 0);
    let mut room = [[0; N]; ROOM];
    for (elements, bits) in elements.chunks(BLOCK).zip(bits.chunks(BLOCK / 8)) {
        for i in places(word(bits)) {
            room[held % ROOM] = elements[i];
            held += 1;
        }
        if held > ROOM - BLOCK {
            planes::split_part(room[..held].as_flattened(), N, Part { plane, at }, out);
            (at, held) = (at + held, 0);
        }
    }
    planes::split_part(room[..held].as_flattened(), N, Part { plane, at }, out);
    bits.len() + plane * N
}

#[inline(always)]
fn decode_all<const N: usize>(bits: &[u8], planes: &[u8], out: &mut [[u8; N]]) {
    let (plane, mut at) = (planes.len() / N, 0);
    let mut room = [[0; N]; ROOM];
    for (out, bits) in out.chunks_mut(ROOM).zip(bits.chunks(ROOM / 8)) {
        let held = bits.iter().map(|bits| bits.count_ones() as usize).sum();
        planes::join_part(planes, N, Part { plane, at }, room[..held].as_flattened_mut());
        at += held;
        let mut next = 0;
        for (out, bits) in out.chunks_mut(BLOCK).zip(bits.chunks(BLOCK / 8)) {
            out.fill([0; N]);
            for i in places(word(bits)) {
                out[i] = room[next % ROOM];
                next += 1;
            }
        }
    }
}

/// A bit for each of up to a block's elements.
#[inline(always)]
fn ones<const N: usize>(elements: &[[u8; N]]) -> u64 {
    let mut each = [0; BLOCK];
    elements.iter().zip(&mut each).for_each(|(element, one)| *one = u8::from(*element != [0; N]));
    // The sum moves the bit of byte i to bit 56 + i.
    let gather =
        |&bytes: &[u8; 8]| (u64::from_le_bytes(bytes).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8;
    let mut word = [0; BLOCK / 8];
    each.as_chunks().0.iter().zip(&mut word).for_each(|(bytes, bits)| *bits = gather(bytes));
    u64::from_le_bytes(word)
}

/// The bits of up to a block.
#[inline(always)]
fn word(bits: &[u8]) -> u64 {
    let mut word = [0; BLOCK / 8];
    word[..bits.len()].copy_from_slice(bits);
    u64::from_le_bytes(word)
}

/// The places of its ones: a loop whose only branch is its end, as nobody foretells the bits.
#[inline(always)]
fn places(mut word: u64) -> impl Iterator<Item = usize> {
    (0..word.count_ones()).map(move |_| {
        let place = word.trailing_zeros() as usize;
        word &= word - 1;
        place
    })
}
