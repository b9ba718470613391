//! Planes of each byte less the one above it, wrapping: what changes little from row to row becomes small numbers.
//!
//! Of bytes, not of elements: no carry goes from one plane into the next, and measured, that packs better.

use multiversion::multiversion;

use super::planes::{self, BLOCK, Part};

/// The widest elements that are arranged a block at a time.
const WIDEST: usize = 16;

/// Elements to planes; `distance` is that of a byte to the one above it.
pub(super) fn split(bytes: &[u8], element: usize, distance: usize, out: &mut [u8]) {
    let (first, rest) = bytes.split_at(distance.min(bytes.len()));
    let plane = bytes.len() / element;
    planes::split_part(first, element, Part { plane, at: 0 }, out);
    let mut room = [0; BLOCK * WIDEST];
    let (block, start) = (room.len() / element * element, first.len() / element);
    for (i, rest) in rest.chunks(block).enumerate() {
        let differences = &mut room[..rest.len()];
        less(rest, &bytes[i * block..][..rest.len()], differences);
        planes::split_part(differences, element, Part { plane, at: start + i * (block / element) }, out);
    }
}

/// Planes to elements.
pub(super) fn join(bytes: &[u8], element: usize, distance: usize, out: &mut [u8]) {
    planes::join(bytes, element, out);
    add_above(out, distance);
}

#[multiversion(targets = "simd")]
fn less(bytes: &[u8], above: &[u8], out: &mut [u8]) {
    bytes.iter().zip(above).zip(out).for_each(|((byte, above), out)| *out = byte.wrapping_sub(*above));
}

#[multiversion(targets = "simd")]
fn add_above(bytes: &mut [u8], distance: usize) {
    let mut rest = bytes;
    while rest.len() > distance {
        let (above, below) = rest.split_at_mut(distance);
        below.iter_mut().zip(above).for_each(|(byte, above)| *byte = byte.wrapping_add(*above));
        rest = below;
    }
}
