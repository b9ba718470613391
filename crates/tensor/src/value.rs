//! Tensors that own their data, and views of data owned by somebody else.

use crate::{Buffer, DType, Element, Shape};

/// A tensor that owns its data.
///
/// Strings are packed: `elements + 1` offsets as u64, then the UTF-8 bytes of all strings; string *i* lies
/// from offset *i* to offset *i + 1*, counted from the end of the offsets.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    dtype: DType,
    shape: Shape,
    data: Buffer,
}

/// A tensor whose data somebody else owns: an engine's output, a mapped file, a receive buffer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TensorView<'a> {
    dtype: DType,
    shape: Shape,
    bytes: &'a [u8],
}

/// Data that is no tensor of the claimed type and shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The number of bytes does not fit type and shape.
    #[error("a {dtype} tensor of shape {shape} takes {expected} bytes, not {found}")]
    Length {
        /// Element type.
        dtype: DType,
        /// Shape.
        shape: Shape,
        /// Bytes that type and shape ask for.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// The number of elements or bytes overflows.
    #[error("a {dtype} tensor of shape {shape} is larger than this machine can address")]
    TooLarge {
        /// Element type.
        dtype: DType,
        /// Shape.
        shape: Shape,
    },
    /// Another element type was asked for than the tensor has.
    #[error("the tensor holds {found}, not {expected}")]
    Type {
        /// The type asked for.
        expected: DType,
        /// The type it has.
        found: DType,
    },
    /// The bytes are not where this element type may lie in memory.
    #[error("the bytes of the {dtype} tensor are not aligned")]
    Unaligned {
        /// Element type.
        dtype: DType,
    },
    /// There is no memory for so many bytes.
    #[error("there is no memory for a tensor of {0} bytes")]
    Memory(usize),
    /// A string tensor's offsets or text are broken.
    #[error("the string tensor is malformed: {0}")]
    Strings(&'static str),
}

impl Tensor {
    /// A tensor of zeros (of empty strings).
    pub fn zeros(dtype: DType, shape: Shape) -> Result<Tensor, TensorError> {
        let elements = shape.elements().ok_or(TensorError::TooLarge { dtype, shape })?;
        let len = match dtype.bits() {
            Some(_) => dtype.byte_len(elements),
            None => offsets_len(elements),
        };
        let len = len.ok_or(TensorError::TooLarge { dtype, shape })?;
        Ok(Tensor { dtype, shape, data: Buffer::zeroed(len) })
    }

    /// A tensor from the memory form of its elements, copied.
    pub fn from_bytes(dtype: DType, shape: Shape, bytes: &[u8]) -> Result<Tensor, TensorError> {
        Ok(TensorView::new(dtype, shape, bytes)?.to_tensor())
    }

    /// A tensor around a buffer, without a copy.
    pub fn from_buffer(dtype: DType, shape: Shape, data: Buffer) -> Result<Tensor, TensorError> {
        TensorView::new(dtype, shape, data.as_bytes())?;
        Ok(Tensor { dtype, shape, data })
    }

    /// A tensor from typed elements in row-major order, copied.
    pub fn from_slice<T: Element>(shape: Shape, elements: &[T]) -> Result<Tensor, TensorError> {
        Tensor::from_bytes(T::DTYPE, shape, bytemuck::cast_slice(elements))
    }

    /// A string tensor from its elements in row-major order.
    pub fn from_strings<S: AsRef<str>>(shape: Shape, strings: &[S]) -> Result<Tensor, TensorError> {
        let mut bytes = Vec::with_capacity(8 * (strings.len() + 1));
        let mut end = 0u64;
        bytes.extend_from_slice(&end.to_le_bytes());
        for s in strings {
            end += s.as_ref().len() as u64;
            bytes.extend_from_slice(&end.to_le_bytes());
        }
        for s in strings {
            bytes.extend_from_slice(s.as_ref().as_bytes());
        }
        Tensor::from_bytes(DType::String, shape, &bytes)
    }

    /// Takes a new type, shape and content in place, reusing the memory it has. `fill` gets the `len` bytes
    /// of the memory form to write, which hold old content. After an error the tensor is empty.
    pub fn refill<E: From<TensorError>>(
        &mut self,
        dtype: DType,
        shape: Shape,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut data = std::mem::take(&mut self.data);
        let room = data.try_resize(len).map_err(|_| E::from(TensorError::Memory(len)));
        let filled = room.and_then(|()| fill(data.as_mut_bytes()));
        let valid = filled.and_then(|()| Ok(TensorView::new(dtype, shape, data.as_bytes()).map(|_| ())?));
        (self.dtype, self.shape) = if valid.is_ok() { (dtype, shape) } else { (DType::U8, [0].into()) };
        if valid.is_err() {
            data.resize(0);
        }
        self.data = data;
        valid
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The memory form of the elements.
    pub fn bytes(&self) -> &[u8] {
        self.data.as_bytes()
    }

    /// A view of the tensor.
    pub fn view(&self) -> TensorView<'_> {
        TensorView { dtype: self.dtype, shape: self.shape, bytes: self.bytes() }
    }

    /// The typed elements in row-major order.
    pub fn as_slice<T: Element>(&self) -> Result<&[T], TensorError> {
        self.view().as_slice()
    }

    /// The tensor's buffer, to use again.
    pub fn into_buffer(self) -> Buffer {
        self.data
    }
}

impl<'a> TensorView<'a> {
    /// A view of `bytes` as a tensor. Checks the length, and for strings the offsets and the text.
    pub fn new(dtype: DType, shape: Shape, bytes: &'a [u8]) -> Result<TensorView<'a>, TensorError> {
        let too_large = TensorError::TooLarge { dtype, shape };
        let elements = shape.elements().ok_or(too_large.clone())?;
        if dtype == DType::String {
            check_strings(elements, bytes)?;
        } else {
            let expected = dtype.byte_len(elements).ok_or(too_large)?;
            if expected != bytes.len() {
                return Err(TensorError::Length { dtype, shape, expected, found: bytes.len() });
            }
        }
        Ok(TensorView { dtype, shape, bytes })
    }

    /// A view of typed elements in row-major order.
    pub fn of_slice<T: Element>(shape: Shape, elements: &'a [T]) -> Result<TensorView<'a>, TensorError> {
        TensorView::new(T::DTYPE, shape, bytemuck::cast_slice(elements))
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The memory form of the elements.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The typed elements in row-major order, without a copy.
    pub fn as_slice<T: Element>(&self) -> Result<&'a [T], TensorError> {
        if self.dtype != T::DTYPE {
            return Err(TensorError::Type { expected: T::DTYPE, found: self.dtype });
        }
        bytemuck::try_cast_slice(self.bytes).map_err(|_| TensorError::Unaligned { dtype: self.dtype })
    }

    /// The strings in row-major order.
    pub fn strings(&self) -> Result<impl Iterator<Item = &'a str> + use<'a>, TensorError> {
        if self.dtype != DType::String {
            return Err(TensorError::Type { expected: DType::String, found: self.dtype });
        }
        let elements = self.shape.elements().expect("checked when the view was made");
        let bytes = self.bytes;
        let base = 8 * (elements + 1);
        Ok((0..elements).map(move |i| {
            let text = &bytes[base + offset(bytes, i)..base + offset(bytes, i + 1)];
            std::str::from_utf8(text).expect("checked when the view was made")
        }))
    }

    /// A tensor with a copy of the data.
    pub fn to_tensor(&self) -> Tensor {
        Tensor { dtype: self.dtype, shape: self.shape, data: Buffer::copy_of(self.bytes) }
    }
}

fn offsets_len(elements: usize) -> Option<usize> {
    elements.checked_add(1)?.checked_mul(8)
}

fn offset(bytes: &[u8], i: usize) -> usize {
    let bytes = bytes[8 * i..8 * i + 8].try_into().expect("eight bytes");
    // An offset beyond usize cannot lie inside the bytes at hand; saturating keeps it out of range.
    usize::try_from(u64::from_le_bytes(bytes)).unwrap_or(usize::MAX)
}

fn check_strings(elements: usize, bytes: &[u8]) -> Result<(), TensorError> {
    let base = offsets_len(elements).ok_or(TensorError::Strings("too many elements"))?;
    let text = bytes.get(base..).ok_or(TensorError::Strings("the offsets are cut off"))?;
    if offset(bytes, 0) != 0 || offset(bytes, elements) != text.len() {
        return Err(TensorError::Strings("the offsets do not span the text"));
    }
    for i in 0..elements {
        let part = text
            .get(offset(bytes, i)..offset(bytes, i + 1))
            .ok_or(TensorError::Strings("the offsets are out of order"))?;
        std::str::from_utf8(part).map_err(|_| TensorError::Strings("the text is not UTF-8"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_access_checks_the_type() {
        let tensor = Tensor::from_slice(Shape::from([2, 2]), &[1f32, 2.0, 3.0, 4.0]).unwrap();
        assert_eq!(tensor.as_slice::<f32>().unwrap(), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(tensor.as_slice::<i32>().unwrap_err().to_string(), "the tensor holds f32, not i32");
        assert_eq!(tensor.view().to_tensor(), tensor);
    }

    #[test]
    fn refilling_reuses_memory_and_checks_what_it_got() {
        let mut tensor = Tensor::zeros(DType::F32, Shape::from([64])).unwrap();
        let address = tensor.bytes().as_ptr();
        let write = |value: u8| {
            move |bytes: &mut [u8]| {
                bytes.fill(value);
                Ok::<_, TensorError>(())
            }
        };
        tensor.refill(DType::U8, Shape::from([3]), 3, write(7)).unwrap();
        assert_eq!((tensor.as_slice::<u8>().unwrap(), tensor.bytes().as_ptr()), (&[7u8; 3][..], address));
        assert!(tensor.refill(DType::F32, Shape::from([3]), 11, write(0)).is_err());
        assert_eq!(tensor.bytes(), []);
        let error = tensor.refill(DType::U8, Shape::from([1 << 60]), 1 << 60, write(0)).unwrap_err();
        assert_eq!(error, TensorError::Memory(1 << 60));
    }

    #[test]
    fn wrong_lengths_are_refused() {
        let check = |dtype, shape: Shape, len, message: &str| {
            let error = TensorView::new(dtype, shape, &vec![0; len]).unwrap_err();
            assert_eq!(error.to_string(), message);
        };
        check(DType::F32, Shape::from([3]), 11, "a f32 tensor of shape 3 takes 12 bytes, not 11");
        check(
            DType::F32,
            Shape::from([usize::MAX, 4]),
            0,
            "a f32 tensor of shape 18446744073709551615x4 is larger than this machine can address",
        );
        assert!(TensorView::new(DType::U4, Shape::from([3]), &[0; 2]).is_ok());
        assert!(TensorView::new(DType::F32, Shape::SCALAR, &[0; 4]).is_ok());
    }

    #[test]
    fn strings_round_trip_and_hostile_offsets_are_refused() {
        let tensor = Tensor::from_strings(Shape::from([3]), &["a", "", "größe"]).unwrap();
        assert_eq!(tensor.view().strings().unwrap().collect::<Vec<_>>(), ["a", "", "größe"]);
        let zeros = Tensor::zeros(DType::String, Shape::from([2])).unwrap();
        assert_eq!(zeros.view().strings().unwrap().collect::<Vec<_>>(), ["", ""]);

        let good = tensor.bytes().to_vec();
        for position in 0..good.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[position] ^= flip;
                // Either refused, or still well formed: reading it must not panic.
                if let Ok(view) = TensorView::new(DType::String, tensor.shape(), &bad) {
                    view.strings().unwrap().for_each(drop);
                }
            }
            assert!(TensorView::new(DType::String, tensor.shape(), &good[..position]).is_err());
        }
    }
}
