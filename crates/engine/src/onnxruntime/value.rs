//! Tensors between our memory and ONNX Runtime's, without a copy wherever that is sound.
//!
//! The only place with `unsafe` for ONNX Runtime.

use std::ptr::{self, NonNull};
use std::slice;

use ort::memory::{Allocator, MemoryInfo};
use ort::session::SessionInputValue;
use ort::value::{DynValue, TensorElementType, ValueType};
use ort::{AsPointer, ortsys};
use tensor::{Buffer, DType, Shape, Tensor, TensorSpec, TensorView};

use super::NAME;
use crate::RunError;

macro_rules! element_types {
    ($($ours:ident = $theirs:ident,)*) => {
        fn element_type(dtype: DType) -> TensorElementType {
            match dtype { $(DType::$ours => TensorElementType::$theirs,)* }
        }

        /// Our name of an element type; `None` for one that ONNX does not have.
        pub(super) fn dtype(element_type: TensorElementType) -> Option<DType> {
            match element_type { $(TensorElementType::$theirs => Some(DType::$ours),)* _ => None }
        }
    };
}

element_types! {
    F32 = Float32, F64 = Float64, F16 = Float16, Bf16 = Bfloat16,
    U8 = Uint8, U16 = Uint16, U32 = Uint32, U64 = Uint64,
    I8 = Int8, I16 = Int16, I32 = Int32, I64 = Int64,
    Bool = Bool, String = String, Complex64 = Complex64, Complex128 = Complex128,
    F8E4M3Fn = Float8E4M3FN, F8E4M3Fnuz = Float8E4M3FNUZ, F8E5M2 = Float8E5M2, F8E5M2Fnuz = Float8E5M2FNUZ,
    F8E8M0 = Float8E8M0, F4E2M1 = Float4E2M1, U4 = Uint4, I4 = Int4, U2 = Uint2, I2 = Int2,
}

/// Whether the library at hand has tensors of this type: it depends on its version.
pub(super) fn is_supported(dtype: DType) -> bool {
    let empty = Tensor::zeros(dtype, Shape::from([0])).expect("no elements fit anywhere");
    Input::new(&empty.view()).is_ok()
}

/// An input for ONNX Runtime.
pub(super) struct Input<'a> {
    value: DynValue,
    /// What `value` points to.
    memory: Memory<'a>,
}

enum Memory<'a> {
    /// The caller's bytes.
    Borrowed(&'a [u8]),
    /// A copy: ONNX Runtime reads typed elements, and the caller's bytes are not aligned for them.
    Aligned(Buffer),
    /// ONNX Runtime's own: strings.
    Inside,
}

impl<'a> Input<'a> {
    /// A value that reads the tensor's bytes where they lie.
    pub(super) fn new(tensor: &TensorView<'a>) -> ort::Result<Input<'a>> {
        if tensor.dtype() == DType::String {
            return Ok(Input { value: strings(tensor)?, memory: Memory::Inside });
        }
        let memory = if is_aligned(tensor) {
            Memory::Borrowed(tensor.bytes())
        } else {
            Memory::Aligned(Buffer::copy_of(tensor.bytes()))
        };
        // SAFETY: `memory` lives as long as the value: both are moved into the same `Input`, whose `value()`
        // lends it out for no longer; moving a `Buffer` does not move its bytes.
        let value = unsafe { value_over(tensor.dtype(), tensor.shape(), memory.bytes())? };
        Ok(Input { value, memory })
    }

    pub(super) fn value(&self) -> SessionInputValue<'_> {
        (&self.value).into()
    }
}

impl Memory<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Memory::Borrowed(bytes) => bytes,
            Memory::Aligned(buffer) => buffer.as_bytes(),
            Memory::Inside => &[],
        }
    }
}

fn is_aligned(tensor: &TensorView<'_>) -> bool {
    // No element type asks for more than eight bytes: complex numbers are pairs of floats.
    let align = tensor.dtype().bits().map_or(1, |bits| (bits / 8).clamp(1, 8));
    (tensor.bytes().as_ptr() as usize).is_multiple_of(align)
}

fn strings(tensor: &TensorView<'_>) -> ort::Result<DynValue> {
    let strings: Vec<String> = tensor.strings().map_err(ort::Error::wrap)?.map(str::to_owned).collect();
    let value = ort::value::Tensor::from_string_array((tensor.shape().dims(), strings.as_slice()))?;
    Ok(value.into_dyn())
}

/// An ONNX Runtime tensor over `bytes`, which it neither frees nor writes to.
///
/// # Safety
/// `bytes` must live and stay where they are as long as the value.
unsafe fn value_over(dtype: DType, shape: Shape, bytes: &[u8]) -> ort::Result<DynValue> {
    let dims = shape.dims().iter().map(|&size| i64::try_from(size)).collect::<Result<Vec<i64>, _>>();
    let dims = dims.map_err(ort::Error::wrap)?;
    let info = MemoryInfo::default();
    let mut value = ptr::null_mut();
    // SAFETY: all pointers are valid during the call, which copies what it keeps, except for the data: it
    // lives as long as the value (our caller's promise). ONNX Runtime checks that `bytes` are long enough for
    // type and shape. It takes a mutable pointer because one function serves inputs and outputs, but a
    // value that goes in as an input is only read: its planner never reuses the buffer of a graph input.
    ortsys![
        unsafe CreateTensorWithDataAsOrtValue(
            info.ptr(),
            bytes.as_ptr().cast_mut().cast(),
            bytes.len(),
            dims.as_ptr(),
            dims.len(),
            element_type(dtype).into(),
            &mut value
        )?
    ];
    let value = NonNull::new(value).ok_or_else(|| ort::Error::new("no tensor was made"))?;
    // SAFETY: the pointer is a new tensor that nobody else owns. The allocator is only kept alive by the
    // value, never used to free: the tensor does not own its data.
    Ok(unsafe { DynValue::from_ptr(value, Some(&Allocator::default())) })
}

/// An output.
pub(super) enum Output {
    /// In ONNX Runtime's memory.
    Inside { value: DynValue, dtype: DType, shape: Shape, len: usize },
    /// Strings, and tensors that share the memory of an input.
    Copied(Tensor),
}

impl Output {
    /// Takes the value that a run gave for `spec`.
    pub(super) fn take(spec: &TensorSpec, value: DynValue, inputs: &[Input<'_>]) -> Result<Output, RunError> {
        let wrong = |found: String| RunError::Output { engine: NAME, tensor: spec.name.clone(), found };
        let failed = |error: ort::Error| wrong(format!("a tensor that cannot be read: {}", error.message()));
        let ValueType::Tensor { ty, shape: dims, .. } = value.dtype() else {
            return Err(wrong(format!("{}, not a tensor", value.dtype())));
        };
        if dtype(*ty) != Some(spec.dtype) {
            return Err(wrong(format!("{ty} elements, not {}", spec.dtype)));
        }
        let sizes: Option<Vec<usize>> = dims.iter().map(|&size| usize::try_from(size).ok()).collect();
        let shape = sizes
            .and_then(|sizes| Shape::new(&sizes))
            .ok_or_else(|| wrong(format!("a tensor of shape {dims}")))?;
        if spec.dtype == DType::String {
            let (_, strings) = value.try_extract_strings().map_err(failed)?;
            let tensor = Tensor::from_strings(shape, &strings).map_err(|error| wrong(error.to_string()))?;
            return Ok(Output::Copied(tensor));
        }
        let len = shape
            .elements()
            .and_then(|elements| spec.dtype.byte_len(elements))
            .ok_or_else(|| wrong(format!("a tensor of shape {shape}")))?;
        let start = data(&value).map_err(failed)?;
        let output = Output::Inside { value, dtype: spec.dtype, shape, len };
        // A model may hand an input through. Such an output lies in the caller's memory, which may go away
        // before the output does.
        if inputs.iter().any(|input| input.memory.bytes().as_ptr_range().contains(&start)) {
            return Ok(Output::Copied(output.view().to_tensor()));
        }
        Ok(output)
    }

    pub(super) fn view(&self) -> TensorView<'_> {
        match self {
            Output::Inside { value, dtype, shape, len } => {
                let start = data(value).expect("worked when the output was taken");
                let bytes = if *len == 0 {
                    // An empty tensor may have a null pointer.
                    &[]
                } else {
                    // SAFETY: the value is a dense CPU tensor of this type and shape, whose data is `len`
                    // bytes long; it owns the data (an output that shares an input's memory is copied, see
                    // `take`) or shares it with the session, which outlives it. Nobody writes to the value
                    // after the run, and the slice borrows `self`.
                    unsafe { slice::from_raw_parts(start, *len) }
                };
                TensorView::new(*dtype, *shape, bytes).expect("the length is that of type and shape")
            }
            Output::Copied(tensor) => tensor.view(),
        }
    }
}

/// Where a tensor's data starts.
fn data(value: &DynValue) -> ort::Result<*const u8> {
    let mut start = ptr::null_mut();
    // SAFETY: the value is valid, and asking a dense tensor for its address changes nothing in it. We only
    // read through the pointer.
    ortsys![unsafe GetTensorMutableData(value.ptr().cast_mut(), &mut start)?];
    Ok(start.cast_const().cast())
}
