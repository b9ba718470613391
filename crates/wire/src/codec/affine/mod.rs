//! Values as bytes on a line from the least to the largest, for the whole tensor or for each index of an axis.
//!
//! The lines come first: the least value of each, then the step between two bytes of each, as little-endian `f32`. Then
//! a byte for each element, in row-major order: value = least + step * byte. No value is clipped, and none is further
//! than 0.5001 steps from its own, apart from the last rounding to `f32`; equal values come back as they were, but for
//! the sign of zero. A tensor with a value that is not finite has no such line and is refused.

mod kernels;

use tensor::Shape;

use super::EncodeError;
use kernels::key;

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

/// How many lines an axis of a shape takes: one, if there is no such axis; none, if there are no elements.
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
        match shape.dims().get(usize::from(axis)..) {
            // Whatever the axis claims, there is nothing on it.
            Some([_, ..]) if shape.dims().contains(&0) => Lines { count: 0, run: 1 },
            Some([size, inner @ ..]) => Lines { count: *size, run: inner.iter().product() },
            _ => Lines::one(),
        }
    }

    fn of_element(self, element: usize) -> usize {
        element / self.run % self.count
    }
}

/// A line: what bytes stand for.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Line {
    least: f32,
    step: f32,
}

impl Line {
    /// From the least to the largest of some finite values.
    fn between(least: f32, most: f32) -> Line {
        let exact = (f64::from(most) - f64::from(least)) / 255.0;
        let nearest = exact as f32;
        // Rounded up, so that bytes reach the largest value even where steps are denormal.
        let mut step = if f64::from(nearest) < exact { nearest.next_up() } else { nearest };
        // Near the end of the type's range, the last byte may then stand for infinity.
        while !(Line { least, step }).value(255).is_finite() {
            step = step.next_down();
        }
        Line { least, step }
    }

    /// Whether differences on it overflow `f32`.
    fn is_wide(self) -> bool {
        !(self.step * 255.0).is_finite()
    }

    fn byte(self, value: f32) -> u8 {
        let Line { least, step } = self;
        let steps = match self.is_wide() {
            true => (f64::from(value) - f64::from(least)) / f64::from(step),
            false if step > 0.0 => f64::from((value - least) / step),
            false => 0.0,
        };
        steps.round_ties_even() as u8
    }

    fn value(self, byte: u8) -> f32 {
        let Line { least, step } = self;
        match self.is_wide() {
            true => (f64::from(least) + f64::from(step) * f64::from(byte)) as f32,
            false => least + step * f32::from(byte),
        }
    }

    /// What makes it no line that [`Line::between`] gives.
    fn check(self) -> Result<(), String> {
        let Line { least, step } = self;
        match least.is_finite() && step.is_finite() && step.is_sign_positive() && self.value(255).is_finite()
        {
            true => Ok(()),
            false => Err(format!("a line from {least} in steps of {step}")),
        }
    }
}

/// Encodes `f32` in memory form.
pub(super) fn encode(values: &[u8], lines: Lines, out: &mut [u8]) -> Result<(), EncodeError> {
    let values = values.as_chunks::<4>().0;
    let (head, body) = out.split_at_mut(line_len(lines.count));
    let (least, step) = head.as_chunks_mut::<4>().0.split_at_mut(lines.count);
    // The head holds the keys of the least and the largest values first.
    least.fill(i32::MAX.to_le_bytes());
    step.fill(i32::MIN.to_le_bytes());
    if lines.count == 0 {
        return Ok(());
    }
    kernels::range(values, lines.run, least, step);
    let mut any_wide = false;
    for (least, step) in least.iter_mut().zip(&mut *step) {
        let line = line_of_keys(i32::from_le_bytes(*least), i32::from_le_bytes(*step))?;
        any_wide |= line.is_wide();
        (*least, *step) = (line.least.to_le_bytes(), line.step.to_le_bytes());
    }
    if any_wide {
        for ((i, &value), out) in values.iter().enumerate().zip(body) {
            *out = line(least, step, lines.of_element(i)).byte(f32::from_le_bytes(value));
        }
    } else {
        kernels::encode(values, lines.run, least, step, body.as_chunks_mut().0);
    }
    Ok(())
}

/// Decodes into `f32` in memory form.
pub(super) fn decode(bytes: &[u8], lines: Lines, out: &mut [u8]) -> Result<(), String> {
    let out = out.as_chunks_mut::<4>().0;
    let (head, body) = bytes.split_at(line_len(lines.count));
    let (least, step) = head.as_chunks::<4>().0.split_at(lines.count);
    let mut any_wide = false;
    for index in 0..lines.count {
        let line = line(least, step, index);
        line.check()?;
        any_wide |= line.is_wide();
    }
    if any_wide {
        for ((i, &byte), out) in body.iter().enumerate().zip(out) {
            *out = line(least, step, lines.of_element(i)).value(byte).to_le_bytes();
        }
    } else if lines.count > 0 {
        kernels::decode(body.as_chunks().0, lines.run, least, step, out);
    }
    Ok(())
}

fn line(least: &[[u8; 4]], step: &[[u8; 4]], index: usize) -> Line {
    Line { least: f32::from_le_bytes(least[index]), step: f32::from_le_bytes(step[index]) }
}

/// The line between the values of two keys; of no values at all, where the least is more than the largest.
fn line_of_keys(least: i32, most: i32) -> Result<Line, EncodeError> {
    if least > most {
        return Ok(Line { least: 0.0, step: 0.0 });
    }
    let [least, most] = [least, most].map(|k| f32::from_bits(key(k) as u32));
    match least.is_finite() && most.is_finite() {
        true => Ok(Line::between(least, most)),
        false => Err(EncodeError::OutOfRange),
    }
}

#[cfg(test)]
mod tests;
