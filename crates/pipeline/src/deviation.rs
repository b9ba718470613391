//! How far a model's outputs move when tensors travel less than exactly, and how far they may.
//!
//! Pure: outputs in, figures out. Called by [`crate::dispatcher`] while it tries coarse codecs on a chain.

use tensor::{DType, Tensor, TensorSpec};

/// How far outputs may move before a coarse codec is given up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Least share of decisions that stay the same, 0 to 1. With fewer decisions than its complement resolves, all.
    pub agreement: f64,
    /// Largest error of an output, as a share of its range.
    pub error: f64,
}

impl Default for Limits {
    /// 99.8 % of decisions, 5 % of the range.
    fn default() -> Limits {
        Limits { agreement: 0.998, error: 0.05 }
    }
}

/// How far one output moved, over all items.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputDeviation {
    /// The output.
    pub name: String,
    /// Decisions that could change: of floats, the largest element of each row along the last axis, if rows have more
    /// than one; of other types, an item's whole output.
    pub decisions: u64,
    /// How many of them stayed the same.
    pub agreeing: u64,
    /// Largest difference of two elements; infinite where one of them is not finite, or where shapes differ.
    pub error: f64,
    /// The same over the range of the output without coarse codecs, over all items; over its magnitude, if it is
    /// constant.
    pub relative_error: f64,
}

/// How far a model's outputs moved.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Deviation {
    /// In the order of the model.
    pub outputs: Vec<OutputDeviation>,
}

impl OutputDeviation {
    /// Share of decisions that stayed the same; 1 without decisions.
    pub fn agreement(&self) -> f64 {
        if self.decisions == 0 { 1.0 } else { self.agreeing as f64 / self.decisions as f64 }
    }
}

impl Deviation {
    /// The least agreement of all outputs, 0 to 1.
    pub fn agreement(&self) -> f64 {
        self.outputs.iter().map(OutputDeviation::agreement).fold(1.0, f64::min)
    }

    /// The largest relative error of all outputs.
    pub fn relative_error(&self) -> f64 {
        self.outputs.iter().map(|output| output.relative_error).fold(0.0, f64::max)
    }

    /// Whether it is small enough.
    pub fn within(&self, limits: &Limits) -> bool {
        self.agreement() >= limits.agreement && self.relative_error() <= limits.error
    }

    /// How bad it is: up to 1 within the limits.
    pub(crate) fn severity(&self, limits: &Limits) -> f64 {
        let share = |value: f64, limit: f64| if value <= 0.0 { 0.0 } else { value / limit };
        let disagreement = share(1.0 - self.agreement(), 1.0 - limits.agreement);
        disagreement.max(share(self.relative_error(), limits.error))
    }
}

/// Outputs held against those of a chain without loss, item by item.
pub(crate) struct Comparing {
    outputs: Vec<Sums>,
}

#[derive(Clone, Copy)]
struct Sums {
    decisions: u64,
    agreeing: u64,
    error: f64,
    least: f64,
    largest: f64,
}

impl Comparing {
    /// Nothing compared yet, of a model with so many outputs.
    pub(crate) fn new(outputs: usize) -> Comparing {
        let none =
            Sums { decisions: 0, agreeing: 0, error: 0.0, least: f64::INFINITY, largest: f64::NEG_INFINITY };
        Comparing { outputs: vec![none; outputs] }
    }

    /// Takes in the outputs of one item; without any found, nothing of it agrees.
    ///
    /// # Panics
    /// With another number of outputs.
    pub(crate) fn add(&mut self, reference: &[Tensor], found: Option<&[Tensor]>) {
        assert_eq!(reference.len(), self.outputs.len(), "outputs of another model");
        for (i, (sums, reference)) in self.outputs.iter_mut().zip(reference).enumerate() {
            sums.add(reference, found.and_then(|found| found.get(i)));
        }
    }

    /// What it comes to.
    pub(crate) fn finish(&self, specs: &[TensorSpec]) -> Deviation {
        let output = |(sums, spec): (&Sums, &TensorSpec)| sums.finish(&spec.name);
        Deviation { outputs: self.outputs.iter().zip(specs).map(output).collect() }
    }
}

impl Sums {
    fn add(&mut self, reference: &Tensor, found: Option<&Tensor>) {
        let alike =
            |found: &&Tensor| found.dtype() == reference.dtype() && found.shape() == reference.shape();
        let Some(found) = found.filter(alike) else {
            self.decide(false);
            self.error = f64::INFINITY;
            return;
        };
        let (Some(expected), Some(values)) = (floats(reference), floats(found)) else {
            self.decide(reference.bytes() == found.bytes());
            return;
        };
        for (&expected, &value) in expected.iter().zip(&values) {
            self.error = self.error.max(apart(expected, value));
            if expected.is_finite() {
                (self.least, self.largest) = (self.least.min(expected), self.largest.max(expected));
            }
        }
        let row = reference.shape().dims().last().copied().unwrap_or(1);
        if row > 1 {
            for (expected, values) in expected.chunks_exact(row).zip(values.chunks_exact(row)) {
                self.decide(decides_alike(expected, values));
            }
        }
    }

    fn decide(&mut self, agrees: bool) {
        self.decisions += 1;
        self.agreeing += u64::from(agrees);
    }

    fn finish(&self, name: &str) -> OutputDeviation {
        let Sums { decisions, agreeing, error, least, largest } = *self;
        let (range, magnitude) = (largest - least, largest.abs().max(least.abs()));
        let usable = |size: f64| size > 0.0 && size.is_finite();
        let relative_error = match error {
            0.0 => 0.0,
            f64::INFINITY => f64::INFINITY,
            _ if usable(range) => error / range,
            _ if usable(magnitude) => error / magnitude,
            _ => f64::INFINITY,
        };
        OutputDeviation { name: name.to_owned(), decisions, agreeing, error, relative_error }
    }
}

/// The values of a tensor of common floats.
fn floats(tensor: &Tensor) -> Option<Vec<f64>> {
    macro_rules! wide {
        ($type:ty) => {
            tensor.as_slice::<$type>().ok()?.iter().map(|&v| f64::from(v)).collect()
        };
    }
    Some(match tensor.dtype() {
        DType::F32 => wide!(f32),
        DType::F64 => wide!(f64),
        DType::F16 => wide!(half::f16),
        DType::Bf16 => wide!(half::bf16),
        _ => return None,
    })
}

/// How far two values are apart; nothing between two that are not finite in the same way.
fn apart(expected: f64, value: f64) -> f64 {
    if expected == value || (expected.is_nan() && value.is_nan()) {
        return 0.0;
    }
    let difference = (expected - value).abs();
    if difference.is_finite() { difference } else { f64::INFINITY }
}

/// Whether the largest of the expected elements is a largest one of the others, too.
fn decides_alike(expected: &[f64], values: &[f64]) -> bool {
    let largest = |row: &[f64]| row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let top = largest(expected);
    let decided = expected.iter().position(|&v| v == top).unwrap_or(0);
    values[decided] == largest(values) || (values[decided].is_nan() && expected[decided].is_nan())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensor::{Element, Shape};

    fn of<T: Element>(rows: usize, values: &[T]) -> Tensor {
        Tensor::from_slice(Shape::from([rows, values.len() / rows]), values).unwrap()
    }

    fn deviation(items: &[(Tensor, Option<Tensor>)]) -> OutputDeviation {
        let mut comparing = Comparing::new(1);
        for (expected, found) in items {
            comparing.add(std::slice::from_ref(expected), found.as_ref().map(std::slice::from_ref));
        }
        let spec = TensorSpec { name: "y".into(), dtype: DType::F32, dims: None };
        comparing.finish(&[spec]).outputs.remove(0)
    }

    #[test]
    fn decisions_and_errors_of_each_type() {
        let half = |values: &[f32]| values.iter().map(|&v| half::f16::from_f32(v)).collect::<Vec<_>>();
        let nan = f32::NAN;
        // What was expected, what was found; decisions, those that agree, absolute and relative error.
        let cases = [
            (of(1, &[1f32, 3.0, 2.0]), of(1, &[1f32, 3.0, 2.0]), (1, 1, 0.0, 0.0)),
            (of(1, &[1f32, 3.0, 2.0]), of(1, &[1f32, 2.5, 2.0]), (1, 1, 0.5, 0.25)),
            (of(1, &[1f32, 3.0, 2.0]), of(1, &[1f32, 2.0, 2.5]), (1, 0, 1.0, 0.5)),
            // A tie does not change the decision.
            (of(1, &[1f32, 3.0, 2.0]), of(1, &[1f32, 2.5, 2.5]), (1, 1, 0.5, 0.25)),
            (of(2, &[0f32, 4.0, 4.0, 0.0]), of(2, &[0f32, 4.0, 1.0, 2.0]), (2, 1, 3.0, 0.75)),
            // A single number decides nothing, and has a magnitude only.
            (of(1, &[4f32]), of(1, &[5f32]), (0, 0, 1.0, 0.25)),
            (of(1, &[0f64]), of(1, &[1e-9f64]), (0, 0, 1e-9, f64::INFINITY)),
            (of(1, &half(&[0.0, 2.0])), of(1, &half(&[0.5, 2.0])), (1, 1, 0.5, 0.25)),
            (of(1, &[nan, 1.0]), of(1, &[nan, 1.0]), (1, 1, 0.0, 0.0)),
            (of(1, &[0.0, 1.0]), of(1, &[0.0, nan]), (1, 0, f64::INFINITY, f64::INFINITY)),
            (of(1, &[0f32, 1.0]), of(2, &[0f32, 1.0]), (1, 0, f64::INFINITY, f64::INFINITY)),
            (of(1, &[1i64, 2]), of(1, &[1i64, 2]), (1, 1, 0.0, 0.0)),
            (of(1, &[1i64, 2]), of(1, &[1i64, 3]), (1, 0, 0.0, 0.0)),
        ];
        for (i, (expected, found, figures)) in cases.into_iter().enumerate() {
            let found = deviation(&[(expected, Some(found))]);
            let OutputDeviation { decisions, agreeing, error, relative_error, .. } = found;
            assert_eq!((decisions, agreeing, error, relative_error), figures, "case {i}");
        }
    }

    #[test]
    fn the_range_is_that_of_all_items_and_a_lost_one_counts() {
        let number = |v: f32| of(1, &[v]);
        let two = [(number(1.0), Some(number(1.5))), (number(11.0), Some(number(11.0)))];
        assert_eq!(deviation(&two).relative_error, 0.05);
        let lost = deviation(&[(number(1.0), Some(number(1.0))), (number(11.0), None)]);
        assert_eq!((lost.agreement(), lost.error), (0.0, f64::INFINITY));
    }

    #[test]
    fn limits_are_kept_and_severity_tells_how_well() {
        let of = |agreeing, relative_error| Deviation {
            outputs: vec![OutputDeviation {
                name: "y".into(),
                decisions: 1000,
                agreeing,
                error: 1.0,
                relative_error,
            }],
        };
        let (default, strict) = (Limits::default(), Limits { agreement: 1.0, error: 0.0 });
        for (deviation, limits, within) in [
            (of(1000, 0.05), default, true),
            (of(998, 0.0), default, true),
            (of(997, 0.0), default, false),
            (of(1000, 0.051), default, false),
            (of(1000, f64::INFINITY), default, false),
            (of(1000, 0.0), strict, true),
            (of(999, 0.0), strict, false),
            (of(1000, 1e-9), strict, false),
        ] {
            assert_eq!(deviation.within(&limits), within, "{deviation:?}");
            assert_eq!(deviation.severity(&limits) <= 1.0 + 1e-9, within, "{deviation:?}");
        }
        assert!(Deviation::default().within(&strict));
    }
}
