//! Tensors between their ONNX types and the four that rten has.
//!
//! f32, i32, i8 and u8 pass without a copy; the others are converted, and what does not fit is refused.

use half::f16;
use rten::{DataType, Value, ValueOrView, ValueView};
use rten_tensor::{AsView, Layout};
use tensor::{DType, Element, Shape, Tensor, TensorSpec, TensorView};

use super::NAME;
use crate::RunError;

/// The type in which rten holds tensors of an ONNX type; `None` when it has none.
pub(super) fn held_as(dtype: DType) -> Option<DataType> {
    match dtype {
        DType::F32 | DType::F16 | DType::F64 => Some(DataType::Float),
        DType::I32 | DType::I64 | DType::Bool => Some(DataType::Int32),
        DType::I8 => Some(DataType::Int8),
        DType::U8 => Some(DataType::UInt8),
        _ => None,
    }
}

/// The value for rten. Borrows the bytes where the types agree and the bytes are aligned.
pub(super) fn input<'a>(spec: &TensorSpec, tensor: &TensorView<'a>) -> Result<ValueOrView<'a>, RunError> {
    match tensor.dtype() {
        DType::F32 => borrow::<f32>(tensor),
        DType::I32 => borrow::<i32>(tensor),
        DType::I8 => borrow::<i8>(tensor),
        DType::U8 => borrow::<u8>(tensor),
        DType::I64 => convert::<i64, i32>(spec, tensor, DType::I32, |v| i32::try_from(v).ok()),
        DType::Bool => own(tensor, tensor.bytes().iter().map(|&b| i32::from(b != 0)).collect()),
        DType::F16 => convert::<f16, f32>(spec, tensor, DType::F32, |v| Some(v.to_f32())),
        DType::F64 => convert::<f64, f32>(spec, tensor, DType::F32, |v| {
            let narrow = v as f32;
            (narrow.is_finite() || !v.is_finite()).then_some(narrow)
        }),
        dtype => unreachable!("rten sessions have no {dtype} inputs: they are refused on loading"),
    }
}

fn borrow<'a, T: Element>(tensor: &TensorView<'a>) -> Result<ValueOrView<'a>, RunError>
where
    ValueView<'a>: From<rten_tensor::TensorView<'a, T>>,
    Value: From<rten_tensor::Tensor<T>>,
{
    let Ok(elements) = tensor.as_slice::<T>() else {
        return own(tensor, elements::<T>(tensor));
    };
    let view = ValueView::from_shape(tensor.shape().dims(), elements);
    Ok(view.map_err(|error| failed(&error))?.into())
}

fn own<'a, T>(tensor: &TensorView<'_>, elements: Vec<T>) -> Result<ValueOrView<'a>, RunError>
where
    Value: From<rten_tensor::Tensor<T>>,
{
    let value = Value::from_shape(tensor.shape().dims(), elements);
    Ok(value.map_err(|error| failed(&error))?.into())
}

fn convert<'a, From: Element + std::fmt::Display, To>(
    spec: &TensorSpec,
    tensor: &TensorView<'_>,
    held: DType,
    narrow: impl Fn(From) -> Option<To>,
) -> Result<ValueOrView<'a>, RunError>
where
    Value: std::convert::From<rten_tensor::Tensor<To>>,
{
    let range = |value: From| RunError::Range {
        engine: NAME,
        tensor: spec.name.clone(),
        value: value.to_string(),
        dtype: spec.dtype,
        held,
    };
    let narrowed: Result<Vec<To>, RunError> =
        elements::<From>(tensor).into_iter().map(|v| narrow(v).ok_or_else(|| range(v))).collect();
    own(tensor, narrowed?)
}

/// The elements of a tensor whose bytes may lie at any address.
fn elements<T: Element>(tensor: &TensorView<'_>) -> Vec<T> {
    tensor.bytes().chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}

fn failed(error: &dyn std::error::Error) -> RunError {
    RunError::Engine { engine: NAME, message: error.to_string() }
}

/// One result, contiguous.
pub(super) enum Output {
    F32(Shape, rten_tensor::Tensor<f32>),
    I32(Shape, rten_tensor::Tensor<i32>),
    I8(Shape, rten_tensor::Tensor<i8>),
    U8(Shape, rten_tensor::Tensor<u8>),
    Converted(Tensor),
}

/// Takes a result in the type that the model declares.
pub(super) fn output(spec: &TensorSpec, value: Value) -> Result<Output, RunError> {
    let wrong = |found: String| RunError::Output { engine: NAME, tensor: spec.name.clone(), found };
    if let Value::Sequence(_) = value {
        return Err(wrong("a sequence, not a tensor".to_owned()));
    }
    let dims = value.shape();
    let shape = Shape::new(&dims).ok_or_else(|| wrong(format!("a tensor with {} dimensions", dims.len())))?;
    Ok(match (spec.dtype, value) {
        (DType::F32, Value::FloatTensor(t)) => Output::F32(shape, contiguous(t)),
        (DType::I32, Value::Int32Tensor(t)) => Output::I32(shape, contiguous(t)),
        (DType::I8, Value::Int8Tensor(t)) => Output::I8(shape, contiguous(t)),
        (DType::U8, Value::UInt8Tensor(t)) => Output::U8(shape, contiguous(t)),
        (DType::I64, Value::Int32Tensor(t)) => widen(shape, t, i64::from),
        (DType::F16, Value::FloatTensor(t)) => widen(shape, t, f16::from_f32),
        (DType::F64, Value::FloatTensor(t)) => widen(shape, t, f64::from),
        (DType::Bool, Value::Int32Tensor(t)) => {
            let bytes: Vec<u8> = t.iter().map(|&v| u8::from(v != 0)).collect();
            Output::Converted(Tensor::from_bytes(DType::Bool, shape, &bytes).expect("a byte per element"))
        }
        (expected, value) => return Err(wrong(format!("a {}, not {expected}", value.dtype()))),
    })
}

fn contiguous<T: Clone>(mut tensor: rten_tensor::Tensor<T>) -> rten_tensor::Tensor<T> {
    tensor.make_contiguous();
    tensor
}

fn widen<From: Copy, To: Element>(
    shape: Shape,
    tensor: rten_tensor::Tensor<From>,
    widen: impl Fn(From) -> To,
) -> Output {
    let elements: Vec<To> = tensor.iter().map(|&v| widen(v)).collect();
    Output::Converted(Tensor::from_slice(shape, &elements).expect("an element for each element"))
}

impl Output {
    pub(super) fn view(&self) -> TensorView<'_> {
        match self {
            Output::F32(shape, t) => view(*shape, t),
            Output::I32(shape, t) => view(*shape, t),
            Output::I8(shape, t) => view(*shape, t),
            Output::U8(shape, t) => view(*shape, t),
            Output::Converted(tensor) => tensor.view(),
        }
    }
}

fn view<T: Element>(shape: Shape, tensor: &rten_tensor::Tensor<T>) -> TensorView<'_> {
    let elements = tensor.data().expect("made contiguous when it was taken");
    TensorView::of_slice(shape, elements).expect("the shape is the tensor's own")
}
