//! The element types for which NumPy's memory form is not ours: strings, bf16, 8-bit floats and the types
//! below 8 bits. Used by the `.npy` reader and writer, and by the JSON output.

use std::borrow::Cow;

use anyhow::{Context, Result, ensure};
use tensor::{Buffer, DType, Shape, Tensor, TensorView};

/// Whether NumPy files hold one byte for each element although NumPy itself has no such type.
pub(crate) fn stored_as_bytes(dtype: DType) -> bool {
    use DType::*;
    matches!(dtype, F8E4M3Fn | F8E4M3Fnuz | F8E5M2 | F8E5M2Fnuz | F8E8M0 | U4 | I4 | F4E2M1 | U2 | I2)
}

/// A tensor from one byte for each element; types below 8 bits are packed, low bits first.
pub(crate) fn pack(dtype: DType, shape: Shape, data: Buffer) -> Result<Tensor> {
    let bits = dtype.bits().context("strings are not packed")?;
    if bits >= 8 {
        return Ok(Tensor::from_buffer(dtype, shape, data)?);
    }
    let per_byte = 8 / bits;
    let mask = (1u8 << bits) - 1;
    let packed: Vec<u8> = data
        .as_bytes()
        .chunks(per_byte)
        .map(|chunk| {
            chunk.iter().enumerate().fold(0, |byte, (i, &value)| byte | (value & mask) << (i * bits))
        })
        .collect();
    Ok(Tensor::from_bytes(dtype, shape, &packed)?)
}

/// One byte for each element of a type of at most 8 bits; signed types are sign-extended.
pub(crate) fn unpack<'a>(tensor: &TensorView<'a>) -> Cow<'a, [u8]> {
    let bits = tensor.dtype().bits().unwrap_or(8);
    if bits >= 8 {
        return Cow::Borrowed(tensor.bytes());
    }
    let signed = matches!(tensor.dtype(), DType::I4 | DType::I2);
    let elements = tensor.shape().elements().unwrap_or(0);
    let per_byte = 8 / bits;
    let value = |i: usize| {
        // To the top of the byte, then back down: `>>` on i8 copies the sign.
        let top = tensor.bytes()[i / per_byte] << (8 - bits * (i % per_byte + 1));
        if signed { ((top as i8) >> (8 - bits)) as u8 } else { top >> (8 - bits) }
    };
    (0..elements).map(value).collect()
}

/// NumPy's type string for the tensor, and the bytes that follow a header with it.
pub(crate) fn to_numpy<'a>(tensor: &TensorView<'a>) -> Result<(String, Cow<'a, [u8]>)> {
    use DType::*;
    let plain = |descr: &str| Ok((descr.to_owned(), Cow::Borrowed(tensor.bytes())));
    match tensor.dtype() {
        F32 => plain("<f4"),
        F64 => plain("<f8"),
        F16 => plain("<f2"),
        Bf16 => plain("<V2"),
        U8 => plain("|u1"),
        U16 => plain("<u2"),
        U32 => plain("<u4"),
        U64 => plain("<u8"),
        I8 => plain("|i1"),
        I16 => plain("<i2"),
        I32 => plain("<i4"),
        I64 => plain("<i8"),
        Bool => plain("|b1"),
        Complex64 => plain("<c8"),
        Complex128 => plain("<c16"),
        String => unicode(tensor),
        dtype => {
            debug_assert!(stored_as_bytes(dtype));
            Ok(("|V1".to_owned(), unpack(tensor)))
        }
    }
}

/// The strings of an `S` array (`unit` 1) or a `U` array (`unit` 4), padded with zeros to `stride` bytes.
pub(crate) fn strings(data: &[u8], shape: Shape, stride: usize, unit: usize) -> Result<Vec<String>> {
    if stride == 0 {
        // NumPy makes such an array of empty strings; its elements take no bytes, so they have to be bounded.
        let elements = shape.elements().filter(|&n| n <= 1 << 20).context("too many empty strings")?;
        return Ok(vec![String::new(); elements]);
    }
    data.chunks_exact(stride).map(|text| if unit == 4 { utf32(text) } else { utf8(text) }).collect()
}

fn utf8(text: &[u8]) -> Result<String> {
    let end = text.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
    Ok(std::str::from_utf8(&text[..end]).context("a string is not UTF-8")?.to_owned())
}

fn utf32(text: &[u8]) -> Result<String> {
    let mut points: Vec<u32> =
        text.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    while points.last() == Some(&0) {
        points.pop();
    }
    points.into_iter().map(|p| char::from_u32(p).context("a string holds what is no character")).collect()
}

fn unicode<'a>(tensor: &TensorView<'a>) -> Result<(String, Cow<'a, [u8]>)> {
    let strings: Vec<&str> = tensor.strings()?.collect();
    let width = strings.iter().map(|s| s.chars().count()).max().unwrap_or(0).max(1);
    let mut data = Vec::with_capacity(strings.len() * width * 4);
    for (i, text) in strings.iter().enumerate() {
        ensure!(!text.ends_with('\0'), "a string ends in a NUL character, which NumPy cannot store");
        data.extend(text.chars().flat_map(|c| (c as u32).to_le_bytes()));
        data.resize((i + 1) * width * 4, 0);
    }
    Ok((format!("<U{width}"), Cow::Owned(data)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_types_unpack_low_bits_first_and_keep_their_sign() {
        let check = |dtype, bytes: &[u8], shape: Shape, expected: &[i8]| {
            let tensor = Tensor::from_bytes(dtype, shape, bytes).unwrap();
            let values: Vec<i8> = unpack(&tensor.view()).iter().map(|&b| b as i8).collect();
            assert_eq!(values, expected, "{dtype}");
            let bytes: Vec<u8> = expected.iter().map(|&v| v as u8).collect();
            assert_eq!(pack(dtype, shape, Buffer::copy_of(&bytes)).unwrap(), tensor, "{dtype}");
        };
        check(DType::U4, &[0x21, 0x0f], Shape::from([3]), &[1, 2, 15]);
        check(DType::I4, &[0x8f, 0x07], Shape::from([3]), &[-1, -8, 7]);
        check(DType::I2, &[0b11_10_01_00, 0b01], Shape::from([5]), &[0, 1, -2, -1, 1]);
        check(DType::U2, &[0b11_10_01_00], Shape::from([2, 2]), &[0, 1, 2, 3]);
    }
}
