//! The bytes of tensors: one form in memory for the several that a file may use.
//!
//! Called when a model is read. Afterwards every tensor holds `raw_data`, as a slice of the file where it
//! can be, and only strings stay as they are.

use bytes::Bytes;
use tensor::{DType, Tensor};

use crate::error::ModelError;
use crate::proto::TensorProto;

/// Weights from this size on, in bytes, travel on their own, by hash; smaller ones inside the skeleton.
pub(crate) const SHARED_FROM: usize = 4096;

/// Brings a tensor whose data is in the message into the form with `raw_data`, and checks that the data
/// fits type and sizes.
pub(crate) fn normalize(tensor: &mut TensorProto) -> Result<(), ModelError> {
    try_normalize(tensor).map_err(|problem| ModelError::Tensor { name: tensor.name().to_owned(), problem })
}

fn try_normalize(tensor: &mut TensorProto) -> Result<(), String> {
    let dtype = dtype_of(tensor)?;
    let elements = elements_of(tensor)?;
    if dtype == DType::String {
        return expect_len("strings", elements, tensor.string_data.len());
    }
    let expected = byte_len(tensor)?;
    if tensor.raw_data.as_ref().is_none_or(|raw| raw.is_empty()) {
        // Checked before the copy is made: a hostile file must not choose how much memory we take.
        expect_len("typed elements", typed_entries(dtype, elements), stored_entries(tensor, dtype))?;
        tensor.raw_data = Some(take_typed(tensor, dtype)?.into());
    }
    expect_len("bytes", expected, tensor.raw_data().len())
}

/// Bytes that type and sizes ask for.
pub(crate) fn byte_len(tensor: &TensorProto) -> Result<usize, String> {
    let len = dtype_of(tensor)?.byte_len(elements_of(tensor)?);
    len.ok_or_else(|| "it is larger than this machine can address, or holds strings".to_owned())
}

/// The element type of a tensor.
pub(crate) fn dtype_of(tensor: &TensorProto) -> Result<DType, String> {
    let code = tensor.data_type.unwrap_or_default();
    DType::from_code(code).ok_or_else(|| format!("element type {code} is unknown"))
}

fn elements_of(tensor: &TensorProto) -> Result<usize, String> {
    let mut elements = 1usize;
    for &dim in &tensor.dims {
        let dim = usize::try_from(dim).map_err(|_| format!("size {dim} is no size"))?;
        // An empty dimension makes the tensor empty; a product that overflows before it is still refused.
        elements = elements.checked_mul(dim).ok_or("its sizes overflow")?;
    }
    Ok(elements)
}

fn expect_len(what: &str, expected: usize, found: usize) -> Result<(), String> {
    if expected == found {
        return Ok(());
    }
    Err(format!("its type and sizes ask for {expected} {what}, and it holds {found}"))
}

/// Entries of the typed field for so many elements: two for a complex number, one for each byte where
/// several elements share it.
fn typed_entries(dtype: DType, elements: usize) -> usize {
    match dtype {
        DType::Complex64 | DType::Complex128 => elements.saturating_mul(2),
        _ if dtype.bits().is_some_and(|bits| bits < 8) => dtype.byte_len(elements).unwrap_or(usize::MAX),
        _ => elements,
    }
}

fn stored_entries(tensor: &TensorProto, dtype: DType) -> usize {
    match dtype {
        DType::F32 | DType::Complex64 => tensor.float_data.len(),
        DType::F64 | DType::Complex128 => tensor.double_data.len(),
        DType::I64 => tensor.int64_data.len(),
        DType::U32 | DType::U64 => tensor.uint64_data.len(),
        _ => tensor.int32_data.len(),
    }
}

/// Moves the typed field out, as little-endian bytes.
fn take_typed(tensor: &mut TensorProto, dtype: DType) -> Result<Vec<u8>, String> {
    Ok(match dtype {
        DType::F32 | DType::Complex64 => le_bytes(std::mem::take(&mut tensor.float_data), f32::to_le_bytes),
        DType::F64 | DType::Complex128 => le_bytes(std::mem::take(&mut tensor.double_data), f64::to_le_bytes),
        DType::I64 => le_bytes(std::mem::take(&mut tensor.int64_data), i64::to_le_bytes),
        DType::U64 => le_bytes(std::mem::take(&mut tensor.uint64_data), u64::to_le_bytes),
        DType::U32 => {
            let values = std::mem::take(&mut tensor.uint64_data);
            let values: Result<Vec<u32>, _> = values.into_iter().map(u32::try_from).collect();
            le_bytes(values.map_err(|_| "an element does not fit u32")?, u32::to_le_bytes)
        }
        DType::I32 => le_bytes(std::mem::take(&mut tensor.int32_data), i32::to_le_bytes),
        _ => narrow(std::mem::take(&mut tensor.int32_data), dtype)?,
    })
}

fn le_bytes<T, const N: usize>(values: Vec<T>, to_bytes: fn(T) -> [u8; N]) -> Vec<u8> {
    values.into_iter().flat_map(to_bytes).collect()
}

/// Elements of 16 bits and less are stored as the low bits of an i32.
fn narrow(values: Vec<i32>, dtype: DType) -> Result<Vec<u8>, String> {
    let bytes = if dtype.bits() == Some(16) { 2 } else { 1 };
    let range = -(1 << (8 * bytes - 1))..1 << (8 * bytes);
    let mut narrowed = Vec::with_capacity(values.len() * bytes);
    for value in values {
        if !range.contains(&value) {
            return Err(format!("element {value} does not fit {dtype}"));
        }
        narrowed.extend_from_slice(&value.to_le_bytes()[..bytes]);
    }
    Ok(narrowed)
}

/// A tensor of an engine as the tensor of a file.
pub(crate) fn to_proto(name: &str, tensor: &Tensor) -> Result<TensorProto, String> {
    let mut proto = TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(tensor.dtype().code().into()),
        dims: tensor.shape().dims().iter().map(|&dim| dim as i64).collect(),
        ..TensorProto::default()
    };
    if tensor.dtype() == DType::String {
        let strings = tensor.view().strings().map_err(|error| error.to_string())?.map(str::to_owned);
        proto.string_data = strings.map(Bytes::from).collect();
    } else {
        proto.raw_data = Some(Bytes::copy_from_slice(tensor.bytes()));
    }
    Ok(proto)
}

/// Whether a weight travels on its own. Sizes and axes, which runtimes read when they load a model, are
/// one-dimensional i64 and stay inside the skeleton however long they are.
pub(crate) fn is_shared(tensor: &TensorProto) -> bool {
    let is_shape = tensor.data_type == Some(DType::I64.code().into()) && tensor.dims.len() < 2;
    tensor.raw_data().len() >= SHARED_FROM && !is_shape
}
