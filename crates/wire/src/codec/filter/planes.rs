//! The first bytes of all elements, then the second ones, and so on: bytes of one kind pack better side by side.

use multiversion::multiversion;

/// Elements that are arranged at a time, so that they are read from memory once.
pub(super) const BLOCK: usize = 512;

/// A part of planes.
#[derive(Clone, Copy)]
pub(super) struct Part {
    /// Bytes of each whole plane.
    pub plane: usize,
    /// Where the part begins in each.
    pub at: usize,
}

/// Elements to planes.
pub(super) fn split(bytes: &[u8], element: usize, out: &mut [u8]) {
    split_part(bytes, element, Part { plane: bytes.len() / element, at: 0 }, out);
}

/// Elements to a part of planes, which has as many.
pub(super) fn split_part(bytes: &[u8], element: usize, part: Part, out: &mut [u8]) {
    let Part { plane, at } = part;
    match element {
        1 => out[at..at + bytes.len()].copy_from_slice(bytes),
        2 => split_2(bytes.as_chunks().0, part, out),
        4 => split_4(bytes.as_chunks().0, part, out),
        8 => split_8(bytes.as_chunks().0, part, out),
        _ => {
            for (i, element) in bytes.chunks_exact(element).enumerate() {
                element.iter().enumerate().for_each(|(j, &byte)| out[j * plane + at + i] = byte);
            }
        }
    }
}

/// Planes to elements.
pub(super) fn join(bytes: &[u8], element: usize, out: &mut [u8]) {
    join_part(bytes, element, Part { plane: bytes.len() / element, at: 0 }, out);
}

/// A part of planes to elements, as many as `out` has.
pub(super) fn join_part(bytes: &[u8], element: usize, part: Part, out: &mut [u8]) {
    let Part { plane, at } = part;
    match element {
        1 => out.copy_from_slice(&bytes[at..at + out.len()]),
        2 => join_2(bytes, part, out.as_chunks_mut().0),
        4 => join_4(bytes, part, out.as_chunks_mut().0),
        8 => join_8(bytes, part, out.as_chunks_mut().0),
        _ => {
            for (i, out) in out.chunks_exact_mut(element).enumerate() {
                out.iter_mut().enumerate().for_each(|(j, out)| *out = bytes[j * plane + at + i]);
            }
        }
    }
}

macro_rules! widths {
    ($($width:literal $int:ty: $split:ident $join:ident)*) => { $(
        #[multiversion(targets = "simd")]
        fn $split(elements: &[[u8; $width]], part: Part, out: &mut [u8]) {
            split_all(elements, part, out, |element, j| (<$int>::from_le_bytes(element) >> (8 * j)) as u8);
        }

        #[multiversion(targets = "simd")]
        fn $join(bytes: &[u8], part: Part, out: &mut [[u8; $width]]) {
            join_all(bytes, part, out);
        }
    )* };
}

widths! { 2 u16: split_2 join_2  4 u32: split_4 join_4  8 u64: split_8 join_8 }

#[inline(always)]
fn split_all<const N: usize>(
    elements: &[[u8; N]],
    part: Part,
    out: &mut [u8],
    byte: impl Fn([u8; N], usize) -> u8,
) {
    for (i, block) in elements.chunks(BLOCK).enumerate() {
        for j in 0..N {
            let plane = &mut out[j * part.plane + part.at + i * BLOCK..][..block.len()];
            block.iter().zip(plane).for_each(|(&element, out)| *out = byte(element, j));
        }
    }
}

#[inline(always)]
fn join_all<const N: usize>(bytes: &[u8], part: Part, out: &mut [[u8; N]]) {
    let plane: [&[u8]; N] = std::array::from_fn(|j| &bytes[j * part.plane + part.at..][..out.len()]);
    for (k, out) in out.iter_mut().enumerate() {
        *out = std::array::from_fn(|j| plane[j][k]);
    }
}
