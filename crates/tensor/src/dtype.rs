//! Element types.

use half::{bf16, f16};

macro_rules! dtypes {
    ($($variant:ident = $code:literal, $name:literal, $bits:expr;)*) => {
        /// An ONNX element type. The discriminants are those of `TensorProto.DataType`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        #[allow(missing_docs)] // the variants are ONNX's own names
        pub enum DType { $($variant = $code,)* }

        impl DType {
            /// Every element type.
            pub const ALL: &[DType] = &[$(DType::$variant,)*];

            /// The type with this `TensorProto.DataType` number.
            pub fn from_code(code: i32) -> Option<DType> {
                match code { $($code => Some(DType::$variant),)* _ => None }
            }

            /// The name used in messages and files, such as `f32`.
            pub fn name(self) -> &'static str {
                match self { $(DType::$variant => $name,)* }
            }

            /// Bits of one element; `None` for strings, whose elements differ in size.
            pub fn bits(self) -> Option<usize> {
                match self { $(DType::$variant => $bits,)* }
            }
        }
    };
}

dtypes! {
    F32 = 1, "f32", Some(32);
    U8 = 2, "u8", Some(8);
    I8 = 3, "i8", Some(8);
    U16 = 4, "u16", Some(16);
    I16 = 5, "i16", Some(16);
    I32 = 6, "i32", Some(32);
    I64 = 7, "i64", Some(64);
    String = 8, "string", None;
    Bool = 9, "bool", Some(8);
    F16 = 10, "f16", Some(16);
    F64 = 11, "f64", Some(64);
    U32 = 12, "u32", Some(32);
    U64 = 13, "u64", Some(64);
    Complex64 = 14, "complex64", Some(64);
    Complex128 = 15, "complex128", Some(128);
    Bf16 = 16, "bf16", Some(16);
    F8E4M3Fn = 17, "f8e4m3fn", Some(8);
    F8E4M3Fnuz = 18, "f8e4m3fnuz", Some(8);
    F8E5M2 = 19, "f8e5m2", Some(8);
    F8E5M2Fnuz = 20, "f8e5m2fnuz", Some(8);
    U4 = 21, "u4", Some(4);
    I4 = 22, "i4", Some(4);
    F4E2M1 = 23, "f4e2m1", Some(4);
    F8E8M0 = 24, "f8e8m0", Some(8);
    U2 = 25, "u2", Some(2);
    I2 = 26, "i2", Some(2);
}

impl DType {
    /// The `TensorProto.DataType` number.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// Bytes of one element, for types whose elements take whole bytes, all the same: `None` for strings and for types
    /// whose elements share bytes.
    pub fn element_len(self) -> Option<usize> {
        self.bits().filter(|bits| bits % 8 == 0).map(|bits| bits / 8)
    }

    /// Bytes that `elements` elements take, packed as ONNX packs them. `None` for strings and on overflow.
    pub fn byte_len(self, elements: usize) -> Option<usize> {
        let bits = self.bits()?;
        match bits {
            8.. => elements.checked_mul(bits / 8),
            _ => Some(elements.div_ceil(8 / bits)),
        }
    }

    /// Whether values of this type are floating-point numbers.
    pub fn is_float(self) -> bool {
        use DType::*;
        matches!(self, F32 | F64 | F16 | Bf16 | F8E4M3Fn | F8E4M3Fnuz | F8E5M2 | F8E5M2Fnuz | F8E8M0 | F4E2M1)
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type that is the memory form of one [`DType`].
pub trait Element: bytemuck::Pod {
    /// The element type.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($type:ty => $dtype:ident,)*) => {
        $(impl Element for $type { const DTYPE: DType = DType::$dtype; })*
    };
}

elements! {
    f32 => F32, f64 => F64, f16 => F16, bf16 => Bf16,
    u8 => U8, u16 => U16, u32 => U32, u64 => U64,
    i8 => I8, i16 => I16, i32 => I32, i64 => I64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip_and_sizes_are_packed() {
        for &dtype in DType::ALL {
            assert_eq!(DType::from_code(dtype.code().into()), Some(dtype));
        }
        assert_eq!(DType::from_code(0), None);
        for (dtype, elements, bytes) in [
            (DType::F32, 3, Some(12)),
            (DType::U4, 3, Some(2)),
            (DType::I2, 5, Some(2)),
            (DType::Bool, 0, Some(0)),
            (DType::F64, usize::MAX, None),
            (DType::String, 1, None),
        ] {
            assert_eq!(dtype.byte_len(elements), bytes, "{dtype} x {elements}");
        }
    }

    #[test]
    fn elements_of_whole_bytes_have_a_length() {
        for &dtype in DType::ALL {
            let expected = match dtype.bits() {
                None | Some(..8) => None,
                Some(_) => dtype.byte_len(1),
            };
            assert_eq!(dtype.element_len(), expected, "{dtype}");
        }
        assert_eq!((DType::Complex128.element_len(), DType::I2.element_len()), (Some(16), None));
    }
}
