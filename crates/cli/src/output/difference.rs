//! How far two outputs lie apart, for `defer run --whole`.

use anyhow::{Result, ensure};
use half::{bf16, f16};
use tensor::{DType, Element, TensorView};

/// The largest absolute difference of two values at the same place. Values that cannot be subtracted (text, truth,
/// NaN against a number) are infinitely far apart when they differ.
///
/// # Errors
/// The tensors differ in type or shape.
pub(crate) fn largest(a: &TensorView<'_>, b: &TensorView<'_>) -> Result<f64> {
    ensure!(
        a.dtype() == b.dtype() && a.shape() == b.shape(),
        "{} {} cannot be compared with {} {}",
        a.dtype(),
        a.shape(),
        b.dtype(),
        b.shape()
    );
    if a.bytes() == b.bytes() {
        return Ok(0.0);
    }
    match a.dtype() {
        DType::F32 => over(a, b, |v: f32| v.into()),
        DType::F64 => over(a, b, |v: f64| v),
        DType::F16 => over(a, b, |v: f16| v.to_f64()),
        DType::Bf16 => over(a, b, |v: bf16| v.to_f64()),
        DType::U8 => over(a, b, |v: u8| v.into()),
        DType::U16 => over(a, b, |v: u16| v.into()),
        DType::U32 => over(a, b, |v: u32| v.into()),
        DType::U64 => over(a, b, |v: u64| v as f64),
        DType::I8 => over(a, b, |v: i8| v.into()),
        DType::I16 => over(a, b, |v: i16| v.into()),
        DType::I32 => over(a, b, |v: i32| v.into()),
        DType::I64 => over(a, b, |v: i64| v as f64),
        _ => Ok(f64::INFINITY),
    }
}

/// The largest magnitude of a float tensor's finite values; 0 for other types.
pub(crate) fn magnitude(a: &TensorView<'_>) -> Result<f64> {
    fn of<T: Element>(a: &TensorView<'_>, number: impl Fn(T) -> f64) -> Result<f64> {
        let finite = a.as_slice::<T>()?.iter().map(|&v| number(v).abs()).filter(|v| v.is_finite());
        Ok(finite.fold(0.0, f64::max))
    }
    match a.dtype() {
        DType::F32 => of(a, |v: f32| v.into()),
        DType::F64 => of(a, |v: f64| v),
        DType::F16 => of(a, |v: f16| v.to_f64()),
        DType::Bf16 => of(a, |v: bf16| v.to_f64()),
        _ => Ok(0.0),
    }
}

fn over<T: Element>(a: &TensorView<'_>, b: &TensorView<'_>, number: impl Fn(T) -> f64) -> Result<f64> {
    let pairs = a.as_slice::<T>()?.iter().zip(b.as_slice::<T>()?);
    Ok(pairs.map(|(&a, &b)| apart(number(a), number(b))).fold(0.0, f64::max))
}

fn apart(a: f64, b: f64) -> f64 {
    // Two infinities of one sign are equal, and their difference is NaN.
    if a == b || (a.is_nan() && b.is_nan()) {
        return 0.0;
    }
    let difference = (a - b).abs();
    if difference.is_nan() { f64::INFINITY } else { difference }
}

#[cfg(test)]
mod tests {
    use tensor::{Shape, Tensor};

    use super::*;

    fn check<T: Element>(a: &[T], b: &[T], expected: f64) {
        let tensor = |values: &[T]| Tensor::from_slice(Shape::new(&[values.len()]).unwrap(), values).unwrap();
        assert_eq!(largest(&tensor(a).view(), &tensor(b).view()).unwrap(), expected);
    }

    #[test]
    fn differences() {
        check(&[1f32, 2.0, -3.0], &[1.5, 2.0, -1.0], 2.0);
        check(&[1f32, f32::NAN], &[1.0, -f32::NAN], 0.0);
        check(&[f64::INFINITY, 0.0], &[f64::INFINITY, -0.0], 0.0);
        check(&[1f32, f32::NAN], &[1.0, 0.0], f64::INFINITY);
        check(&[f32::INFINITY], &[f32::NEG_INFINITY], f64::INFINITY);
        check(&[-128i8, 0], &[127, 0], 255.0);
        let text = |t: &str| Tensor::from_strings(Shape::from([1]), &[t]).unwrap();
        assert_eq!(largest(&text("a").view(), &text("b").view()).unwrap(), f64::INFINITY);
        assert_eq!(largest(&text("a").view(), &text("a").view()).unwrap(), 0.0);
        let (one, two) =
            (Tensor::zeros(DType::F32, Shape::from([1])), Tensor::zeros(DType::F32, Shape::from([2])));
        assert!(largest(&one.unwrap().view(), &two.unwrap().view()).is_err());
    }
}
