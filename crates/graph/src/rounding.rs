//! Weights with fewer bits, on request: still `f32`, but of values that pack well on the way to a node.
//!
//! The model itself changes, so that hashes, caches and every engine see the same one. Called before a model is cut,
//! after it is simplified: simplifying multiplies weights, which would undo it.

use std::convert::Infallible;

use tensor::DType;

use crate::model::Model;
use crate::proto::TensorProto;
use crate::visit;

/// Tensors with fewer elements stay as they are: they are biases and scales, and take few bytes.
const ROUNDED_FROM: usize = 1024;

/// What weights are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// The nearest bfloat16: 8 significant bits.
    Bf16,
    /// The nearest of 256 evenly spaced values from a tensor's least to its largest.
    U8,
}

/// What [`Model::round_weights`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rounded {
    /// Tensors that were rounded.
    pub tensors: usize,
    /// Their elements.
    pub elements: u64,
    /// The largest change of an element, as a share of its tensor's range.
    pub largest: f64,
}

impl Model {
    /// Rounds the `f32` weights that have at least 1024 elements and two dimensions, wherever they are. A tensor with a
    /// value that is not finite, or would not be, stays as it is.
    pub fn round_weights(&mut self, rounding: Rounding) -> Rounded {
        let mut report = Rounded::default();
        let done = visit::tensors_mut(&mut self.proto, &mut |tensor: &mut TensorProto| {
            if let Some(largest) = round(tensor, rounding) {
                report.tensors += 1;
                report.elements += tensor.raw_data().len() as u64 / 4;
                report.largest = report.largest.max(largest);
            }
            Ok::<(), Infallible>(())
        });
        match done {
            Ok(()) => report,
            Err(never) => match never {},
        }
    }
}

/// Rounds a tensor; gives the largest change, as a share of its range. `None` when it stays as it is.
fn round(tensor: &mut TensorProto, rounding: Rounding) -> Option<f64> {
    let bytes = tensor.raw_data();
    let is_f32 = tensor.data_type() == i32::from(DType::F32.code());
    if !is_f32 || tensor.dims.len() < 2 || bytes.len() < 4 * ROUNDED_FROM {
        return None;
    }
    let values = || bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value));
    let least = values().fold(f32::INFINITY, f32::min);
    let most = values().fold(f32::NEG_INFINITY, f32::max);
    let finite = values().all(f32::is_finite) && bf16(least).is_finite() && bf16(most).is_finite();
    let range = f64::from(most) - f64::from(least);
    if !finite || range == 0.0 {
        return None;
    }
    let rounded: Vec<f32> = match rounding {
        Rounding::Bf16 => values().map(bf16).collect(),
        Rounding::U8 => {
            let steps = steps(least, most);
            values().map(|value| steps[step(value, least, range)]).collect()
        }
    };
    let changes = values().zip(&rounded).map(|(before, after)| f64::from(before) - f64::from(*after));
    let largest = changes.fold(0.0, |most: f64, change| most.max(change.abs()));
    tensor.raw_data = Some(rounded.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into());
    Some(largest / range)
}

/// The nearest value with 16 zero bits at its end; of two, the one whose last bit is zero.
fn bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    let half = 0x7FFF + (bits >> 16 & 1);
    f32::from_bits(bits.wrapping_add(half) & 0xFFFF_0000)
}

/// 256 values; the first and the last are the ends themselves. Zero is kept where it lies between them, as pruned
/// weights have many: the value next to it gives way.
fn steps(least: f32, most: f32) -> [f32; 256] {
    let range = f64::from(most) - f64::from(least);
    let mut steps = [0; 256].map(|_: i32| 0.0);
    for (i, value) in steps.iter_mut().enumerate() {
        *value = (f64::from(least) + range * i as f64 / 255.0) as f32;
    }
    if least < 0.0 && most > 0.0 {
        steps[step(0.0, least, range)] = 0.0;
    }
    steps
}

/// The place of the step next to a value.
fn step(value: f32, least: f32, range: f64) -> usize {
    ((f64::from(value) - f64::from(least)) / range * 255.0).round() as usize
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::testing::{f32s, raw};

    fn values(tensor: &TensorProto) -> Vec<f32> {
        tensor.raw_data().as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect()
    }

    /// Uneven, of both signs, with zeros.
    fn weight() -> TensorProto {
        let value = |i: usize| if i.is_multiple_of(7) { 0.0 } else { (i as f32 * 0.37).sin() * 0.3 + 0.01 };
        f32s("w", &[32, 64], &(0..2048).map(value).collect::<Vec<_>>())
    }

    #[test]
    fn bf16_is_the_nearest_and_ties_go_to_even() {
        for (value, expected) in [
            (1.0, 1.0),
            (-0.0, -0.0),
            (f32::from_bits(0x3F80_7FFF), 1.0),
            (f32::from_bits(0x3F80_8000), 1.0),
            (f32::from_bits(0x3F80_8001), 1.007_812_5),
            (f32::from_bits(0x3F81_8000), 1.015_625),
            (f32::from_bits(0xBF80_8001), -1.007_812_5),
            (f32::from_bits(1), 0.0),
        ] {
            assert_eq!(bf16(value).to_bits(), f32::to_bits(expected), "{value}");
        }
    }

    #[test]
    fn values_are_the_nearest_of_few() {
        let before = values(&weight());
        let range =
            before.iter().fold(0f32, |most, v| most.max(*v)) - before.iter().fold(0f32, |a, v| a.min(*v));
        for (rounding, limit) in [(Rounding::Bf16, 0.3 / 256.0 + 1e-6), (Rounding::U8, range / 255.0)] {
            let mut tensor = weight();
            let largest = round(&mut tensor, rounding).unwrap();
            let after = values(&tensor);
            let change = before.iter().zip(&after).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
            assert!(change > 0.0 && change <= limit, "{rounding:?}: {change}");
            assert!((largest - f64::from(change / range)).abs() < 1e-6, "{rounding:?}: {largest}");
            let zeros = |values: &[f32]| values.iter().filter(|value| **value == 0.0).count();
            assert!(zeros(&after) >= zeros(&before), "{rounding:?} keeps zeros");
            let kinds: HashSet<u32> = after.iter().map(|value| value.to_bits()).collect();
            match rounding {
                Rounding::U8 => assert!(kinds.len() <= 256, "{}", kinds.len()),
                Rounding::Bf16 => assert!(kinds.iter().all(|bits| bits & 0xFFFF == 0)),
            }
            let again = tensor.clone();
            round(&mut tensor, rounding);
            assert!(again == tensor, "{rounding:?}: what is round stays");
        }
    }

    #[test]
    fn what_is_small_or_no_matrix_or_not_finite_stays() {
        let with = |special: f32| {
            let mut values = values(&weight());
            values[5] = special;
            f32s("w", &[32, 64], &values)
        };
        let cases = [
            f32s("small", &[31, 33], &[0.1; 1023]),
            f32s("vector", &[2048], &[0.1; 2048]),
            f32s("constant", &[32, 64], &[0.1; 2048]),
            raw("integers", DType::I32, &[32, 64], weight().raw_data().to_vec()),
            with(f32::NAN),
            with(f32::INFINITY),
            with(f32::MAX),
        ];
        for case in cases {
            for rounding in [Rounding::Bf16, Rounding::U8] {
                let mut tensor = case.clone();
                assert_eq!(round(&mut tensor, rounding), None, "{}", case.name());
                assert!(tensor == case, "{}", case.name());
            }
        }
    }

    #[test]
    fn a_model_that_was_rounded_is_another() {
        let model = crate::zoo::build("mobilenetv2", 1).unwrap();
        let mut hashes = vec![model.hash()];
        for rounding in [Rounding::Bf16, Rounding::U8] {
            let mut rounded = model.clone();
            let report = rounded.round_weights(rounding);
            assert!(report.tensors > 30 && report.elements > 3_000_000, "{report:?}");
            assert!(report.largest > 0.0 && report.largest < 0.005, "{report:?}");
            assert_eq!(rounded.operators(), model.operators());
            hashes.push(rounded.hash());
        }
        assert_eq!(HashSet::from([hashes[0].0, hashes[1].0, hashes[2].0]).len(), 3);
    }
}
