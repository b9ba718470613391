//! Tensors: element types, shapes, aligned buffers.
//!
//! The vocabulary that every other crate shares. It knows nothing of ONNX files, engines or sockets and
//! never does I/O. All data is little-endian, as ONNX stores it.

mod buffer;
mod dtype;
mod shape;
mod spec;
mod value;

pub use buffer::Buffer;
pub use dtype::{DType, Element};
pub use shape::{MAX_RANK, Shape};
pub use spec::{Dim, SpecError, TensorSpec};
pub use value::{Tensor, TensorError, TensorView};

#[cfg(target_endian = "big")]
compile_error!("tensors are little-endian in memory and on the wire; big-endian machines are not supported");
