//! Class and confidence out of a classifier's output.

use std::borrow::Cow;

use anyhow::Result;
use half::{bf16, f16};
use serde::Serialize;
use tensor::{DType, TensorView};

use crate::preprocess::Labels;

/// The best class for one item.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Answer {
    /// Its number.
    pub(crate) class: usize,
    /// Its name, where labels are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) label: Option<String>,
    /// The softmax of the outputs if they are logits, else the output itself.
    pub(crate) confidence: f32,
}

/// How outputs are read as classes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Classes {
    pub(crate) labels: Option<Labels>,
    pub(crate) softmax: bool,
}

impl Classes {
    /// The best class of `output`, whose last dimension runs over the classes of a single item. None when the output is
    /// not of that form, or when labels are known and their number differs.
    pub(crate) fn best(&self, output: &TensorView<'_>) -> Result<Best> {
        let shape = output.shape();
        let Some((&classes, outer)) = shape.dims().split_last() else { return Ok(Best::NoClasses) };
        let expected = self.labels.as_ref().map_or(classes, |l| l.0.len());
        if classes < 2 || classes != expected || outer.iter().any(|&d| d != 1) || !output.dtype().is_float() {
            return Ok(Best::NoClasses);
        }
        let Some(scores) = floats(output)? else { return Ok(Best::NoClasses) };
        let class = (0..classes).fold(0, |best, i| if scores[i] > scores[best] { i } else { best });
        let top = scores[class];
        if !top.is_finite() || scores.iter().any(|score| score.is_nan()) {
            return Ok(Best::NotANumber);
        }
        let confidence = match self.softmax {
            true => 1.0 / scores.iter().map(|s| (s - top).exp()).sum::<f32>(),
            false => top,
        };
        let label = self.labels.as_ref().map(|l| l.0[class].clone());
        Ok(Best::Class(Answer { class, label, confidence }))
    }
}

/// What the scores of an item say.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Best {
    /// The class of the largest.
    Class(Answer),
    /// There are none.
    NoClasses,
    /// NaN is among them, or the largest is infinite: there is no class, though there are classes.
    NotANumber,
}

impl Best {
    /// The class, if there is one.
    pub(crate) fn answer(self) -> Option<Answer> {
        match self {
            Best::Class(answer) => Some(answer),
            Best::NoClasses | Best::NotANumber => None,
        }
    }
}

impl Answer {
    /// The label, or the class number.
    pub(crate) fn name(&self) -> String {
        self.label.clone().unwrap_or_else(|| format!("class {}", self.class))
    }
}

/// The values as f32; `None` for floats of less than 16 bits.
fn floats<'a>(output: &'a TensorView<'_>) -> Result<Option<Cow<'a, [f32]>>> {
    Ok(Some(match output.dtype() {
        DType::F32 => output.as_slice::<f32>()?.into(),
        DType::F64 => output.as_slice::<f64>()?.iter().map(|&v| v as f32).collect(),
        DType::F16 => output.as_slice::<f16>()?.iter().map(|v| v.to_f32()).collect(),
        DType::Bf16 => output.as_slice::<bf16>()?.iter().map(|v| v.to_f32()).collect(),
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use tensor::{Shape, Tensor};

    use super::*;

    fn labels(names: &[&str]) -> Option<Labels> {
        Some(Labels(names.iter().map(|n| n.to_string()).collect()))
    }

    #[test]
    fn the_largest_wins_and_softmax_gives_the_confidence() {
        let tensor = Tensor::from_slice(Shape::from([1, 3]), &[1f32, 3.0, 2.0]).unwrap();
        let logits = Classes { labels: labels(&["a", "b", "c"]), softmax: true };
        let answer = logits.best(&tensor.view()).unwrap().answer().unwrap();
        let expected = 1.0 / (1.0 + (-1f32).exp() + (-2f32).exp());
        assert_eq!((answer.class, answer.name().as_str()), (1, "b"));
        assert!((answer.confidence - expected).abs() < 1e-6);
        let plain = Classes::default().best(&tensor.view()).unwrap().answer().unwrap();
        assert_eq!((plain.confidence, plain.name().as_str()), (3.0, "class 1"));

        let huge = Tensor::from_slice(Shape::from([2]), &[f16::MAX, f16::from_f32(0.0)]).unwrap();
        let answer = Classes { labels: None, softmax: true }.best(&huge.view()).unwrap().answer().unwrap();
        assert_eq!((answer.class, answer.confidence), (0, 1.0));
    }

    #[test]
    fn what_is_no_classification_has_no_answer() {
        let check = |tensor: Tensor, names: Option<Labels>| {
            let classes = Classes { labels: names, softmax: true };
            assert_eq!(classes.best(&tensor.view()).unwrap(), Best::NoClasses);
        };
        check(Tensor::zeros(DType::F32, Shape::SCALAR).unwrap(), None);
        check(Tensor::zeros(DType::F32, Shape::from([2, 3])).unwrap(), None);
        check(Tensor::zeros(DType::I64, Shape::from([1, 3])).unwrap(), None);
        check(Tensor::zeros(DType::F32, Shape::from([1, 3])).unwrap(), labels(&["a", "b"]));
        check(Tensor::zeros(DType::F32, Shape::from([1, 1])).unwrap(), None);
        for wrong in [[f32::NAN, 0.0], [0.0, f32::NAN], [f32::INFINITY, 0.0], [f32::NEG_INFINITY; 2]] {
            let wrong = Tensor::from_slice(Shape::from([2]), &wrong).unwrap();
            assert_eq!(Classes::default().best(&wrong.view()).unwrap(), Best::NotANumber);
        }
        let masked = Tensor::from_slice(Shape::from([2]), &[f32::NEG_INFINITY, 0.0]).unwrap();
        let masked = Classes { labels: None, softmax: true }.best(&masked.view()).unwrap().answer().unwrap();
        assert_eq!((masked.class, masked.confidence), (1, 1.0));
    }
}
