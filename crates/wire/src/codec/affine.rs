//! Values as bytes on a line from the least to the largest, for the whole tensor or for each index of an axis.
//!
//! The lines come first, each as two little-endian `f32`: the least value and the step between two bytes, both finite,
//! the step not negative. Then a byte for each element, in row-major order: value = least + step * byte. No value is
//! clipped. A tensor with a value that is not finite has no such line and is refused.

use tensor::Shape;

use super::EncodeError;

/// Bytes of one line.
const LINE_LEN: usize = 8;

/// Which line each element lies on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lines {
    /// How many there are.
    count: usize,
    /// Elements beside each other that share one.
    run: usize,
}

/// Bytes of so many lines.
pub(super) fn line_len(lines: usize) -> usize {
    lines * LINE_LEN
}

/// How many lines an axis of a shape takes: one, if there is no such axis.
pub(super) fn lines(shape: Shape, axis: u8) -> usize {
    Lines::of(shape, axis).count
}

impl Lines {
    /// One for all.
    pub(super) fn one() -> Lines {
        Lines { count: 1, run: usize::MAX }
    }

    /// One for each index of an axis; one for all if there is no such axis.
    pub(super) fn of(shape: Shape, axis: u8) -> Lines {
        let inner = shape.dims().get(usize::from(axis)..).filter(|dims| !dims.is_empty());
        match inner {
            Some([size, inner @ ..]) => Lines { count: *size, run: inner.iter().product() },
            _ => Lines::one(),
        }
    }

    fn of_element(self, element: usize) -> usize {
        element / self.run % self.count
    }
}

/// Encodes `f32` in memory form.
pub(super) fn encode(values: &[u8], lines: Lines, out: &mut [u8]) -> Result<(), EncodeError> {
    let (head, body) = out.split_at_mut(line_len(lines.count));
    let values = || values.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
    let mut ranges = vec![(f32::INFINITY, f32::NEG_INFINITY); lines.count];
    for (i, value) in values().enumerate() {
        if !value.is_finite() {
            return Err(EncodeError::NotFinite);
        }
        let (least, most) = &mut ranges[lines.of_element(i)];
        (*least, *most) = (least.min(value), most.max(value));
    }
    for ((least, most), out) in ranges.iter_mut().zip(head.as_chunks_mut::<LINE_LEN>().0) {
        let step = ((f64::from(*most) - f64::from(*least)) / 255.0) as f32;
        let step = if step.is_finite() { step } else { 0.0 };
        out[..4].copy_from_slice(&(if least.is_finite() { *least } else { 0.0 }).to_le_bytes());
        out[4..].copy_from_slice(&step.to_le_bytes());
        *most = step;
    }
    for ((i, value), out) in values().enumerate().zip(body) {
        let (least, step) = ranges[lines.of_element(i)];
        *out = if step > 0.0 { ((value - least) / step).round() as u8 } else { 0 };
    }
    Ok(())
}

/// Decodes into `f32` in memory form.
pub(super) fn decode(bytes: &[u8], lines: Lines, out: &mut [u8]) -> Result<(), String> {
    let (head, body) = bytes.split_at(line_len(lines.count));
    let head = head.as_chunks::<LINE_LEN>().0;
    let line = |index: usize| {
        let number = |at: usize| f32::from_le_bytes([0, 1, 2, 3].map(|i| head[index][at + i]));
        (number(0), number(4))
    };
    for index in 0..lines.count {
        let (least, step) = line(index);
        if !least.is_finite() || !step.is_finite() || step < 0.0 {
            return Err(format!("line {index} starts at {least} with steps of {step}"));
        }
    }
    for ((i, &byte), out) in body.iter().enumerate().zip(out.as_chunks_mut::<4>().0) {
        let (least, step) = line(lines.of_element(i));
        *out = (least + step * f32::from(byte)).to_le_bytes();
    }
    Ok(())
}
