//! NumPy's `.npy` format: one array, read against what the model expects, and written.
//!
//! Files are hostile input: nothing is allocated by a header's word, and the element type and the sizes are
//! checked against the model before any data is read. NumPy has no name for some ONNX types: they are read
//! and written as `ml_dtypes` stores them (`V2` for bf16, one byte an element for 8-bit floats and for types
//! below 8 bits).

use std::io::{Read, Write};

use anyhow::{Context, Result, bail, ensure};
use tensor::{Buffer, DType, Shape, Tensor, TensorSpec, TensorView};

use super::packed;

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// NumPy's own default limit for a header (`max_header_size`).
const MAX_HEADER: usize = 10_000;

/// A parsed header.
#[derive(Debug, PartialEq)]
struct Header {
    /// NumPy's type string, such as `<f4`.
    descr: String,
    fortran_order: bool,
    shape: Shape,
}

/// Reads one array that stands for `spec`. `limit` is the largest number of bytes that the rest of the
/// source can hold, by evidence other than the header.
pub(crate) fn read(mut source: impl Read, limit: u64, spec: &TensorSpec) -> Result<Tensor> {
    let header = read_header(&mut source)?;
    let kind = Kind::parse(&header.descr, spec.dtype)
        .with_context(|| format!("element type `{}` is not one that DEFER reads", header.descr))?;
    spec.check(kind.dtype, header.shape)?;

    let elements = header.shape.elements().context("the shape in its header overflows")?;
    let len = elements.checked_mul(kind.stride).context("the shape in its header overflows")?;
    ensure!(
        len as u64 <= limit,
        "its header claims {len} bytes of data (shape {}), but only {limit} can be there",
        header.shape
    );
    let mut data = Buffer::zeroed(len);
    source.read_exact(data.as_mut_bytes()).context("the data is cut off")?;
    // Reading to the end makes an archive check its checksum.
    ensure!(source.read(&mut [0])? == 0, "there is more data than its header says");

    if kind.big_endian {
        swap_bytes(data.as_mut_bytes(), kind.unit);
    }
    if header.fortran_order {
        data = to_row_major(data.as_bytes(), header.shape, kind.stride);
    }
    kind.into_tensor(header.shape, data)
}

/// Writes one array.
pub(crate) fn write(mut sink: impl Write, tensor: &TensorView<'_>) -> Result<()> {
    let (descr, data) = packed::to_numpy(tensor)?;
    let mut shape = String::new();
    for dim in tensor.shape().dims() {
        shape += &format!("{dim}, ");
    }
    let mut text =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}), }}", shape.trim_end());
    // Magic, version and length take 10 bytes; the data starts at a multiple of 64, after a newline.
    let padding = (10 + text.len() + 1).next_multiple_of(64) - (10 + text.len() + 1);
    text.extend(std::iter::repeat_n(' ', padding));
    text.push('\n');
    let len = u16::try_from(text.len()).context("the header is too long")?;
    sink.write_all(MAGIC)?;
    sink.write_all(&[1, 0])?;
    sink.write_all(&len.to_le_bytes())?;
    sink.write_all(text.as_bytes())?;
    sink.write_all(&data)?;
    Ok(())
}

fn read_header(source: &mut impl Read) -> Result<Header> {
    let mut start = [0; 8];
    source.read_exact(&mut start).context("it is too short to be a NumPy array")?;
    ensure!(start.starts_with(MAGIC), "it is not a NumPy array (the magic bytes are missing)");
    let len = match start[6] {
        1 => {
            let mut len = [0; 2];
            source.read_exact(&mut len).context("the header is cut off")?;
            usize::from(u16::from_le_bytes(len))
        }
        2 | 3 => {
            let mut len = [0; 4];
            source.read_exact(&mut len).context("the header is cut off")?;
            u32::from_le_bytes(len) as usize
        }
        version => bail!("version {version} of the .npy format is not known"),
    };
    ensure!(len <= MAX_HEADER, "its header claims {len} bytes; {MAX_HEADER} are allowed");
    let mut text = vec![0; len];
    source.read_exact(&mut text).context("the header is cut off")?;
    let text = std::str::from_utf8(&text).context("the header is not text")?;
    parse_header(text).with_context(|| format!("the header `{}` is malformed", text.trim_end()))
}

/// Parses `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`, keys in any order.
fn parse_header(text: &str) -> Option<Header> {
    let (mut descr, mut fortran_order, mut shape) = (None, None, None);
    let mut rest = text.trim().strip_prefix('{')?.strip_suffix('}')?.trim_start();
    while !rest.is_empty() {
        let (key, after) = quoted(rest)?;
        rest = after.trim_start().strip_prefix(':')?.trim_start();
        match key {
            "descr" => {
                let (value, after) = quoted(rest)?;
                descr = Some(value.to_owned());
                rest = after;
            }
            "fortran_order" => {
                let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
                fortran_order = Some(match &rest[..end] {
                    "True" => true,
                    "False" => false,
                    _ => return None,
                });
                rest = &rest[end..];
            }
            "shape" => {
                let (value, after) = rest.strip_prefix('(')?.split_once(')')?;
                shape = Some(parse_shape(value)?);
                rest = after;
            }
            _ => return None,
        }
        rest = rest.trim_start();
        rest = match rest.strip_prefix(',') {
            Some(after) => after.trim_start(),
            None if rest.is_empty() => rest,
            None => return None,
        };
    }
    Some(Header { descr: descr?, fortran_order: fortran_order?, shape: shape? })
}

fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text[1..].split_once(quote)
}

fn parse_shape(text: &str) -> Option<Shape> {
    let text = text.trim();
    let text = text.strip_suffix(',').unwrap_or(text);
    if text.is_empty() {
        return Some(Shape::SCALAR);
    }
    let dims: Option<Vec<usize>> = text.split(',').map(|d| d.trim().parse().ok()).collect();
    Shape::new(&dims?)
}

/// How a type string's elements lie in the file.
#[derive(Debug, PartialEq)]
struct Kind {
    dtype: DType,
    /// Bytes from one element to the next.
    stride: usize,
    /// Bytes that swap together when the file is big-endian: half a complex number, one code point.
    unit: usize,
    big_endian: bool,
}

impl Kind {
    /// What `descr` means where the model expects `expected`; `None` for types that have no tensor form.
    fn parse(descr: &str, expected: DType) -> Option<Kind> {
        let order = descr.chars().next().filter(|c| "<>|=".contains(*c))?;
        let (letter, size) = (descr.chars().nth(1)?, descr.get(2..)?.parse::<usize>().ok()?);
        let dtype = match (letter, size) {
            ('b', 1) => DType::Bool,
            ('f', 2) => DType::F16,
            ('f', 4) => DType::F32,
            ('f', 8) => DType::F64,
            ('u', 1) => DType::U8,
            ('u', 2) => DType::U16,
            ('u', 4) => DType::U32,
            ('u', 8) => DType::U64,
            ('i', 1) => DType::I8,
            ('i', 2) => DType::I16,
            ('i', 4) => DType::I32,
            ('i', 8) => DType::I64,
            ('c', 8) => DType::Complex64,
            ('c', 16) => DType::Complex128,
            ('V', 2) if expected == DType::Bf16 => DType::Bf16,
            ('V' | 'f', 1) if packed::stored_as_bytes(expected) => expected,
            ('U' | 'S', _) => DType::String,
            _ => return None,
        };
        let (stride, unit) = match letter {
            'U' => (size.checked_mul(4)?, 4),
            'S' => (size, 1),
            'c' => (size, size / 2),
            _ => (size, size),
        };
        Some(Kind { dtype, stride, unit, big_endian: order == '>' && unit > 1 })
    }

    fn into_tensor(self, shape: Shape, data: Buffer) -> Result<Tensor> {
        match self.dtype {
            DType::String => {
                let strings = packed::strings(data.as_bytes(), shape, self.stride, self.unit)?;
                Ok(Tensor::from_strings(shape, &strings)?)
            }
            DType::Bool if data.as_bytes().iter().any(|&b| b > 1) => bail!("a bool is neither 0 nor 1"),
            dtype if packed::stored_as_bytes(dtype) => packed::pack(dtype, shape, data),
            dtype => Ok(Tensor::from_buffer(dtype, shape, data)?),
        }
    }
}

fn swap_bytes(data: &mut [u8], unit: usize) {
    for value in data.chunks_exact_mut(unit) {
        value.reverse();
    }
}

/// Reorders column-major elements of `stride` bytes.
fn to_row_major(data: &[u8], shape: Shape, stride: usize) -> Buffer {
    let mut out = Buffer::zeroed(data.len());
    if data.is_empty() {
        return out;
    }
    let dims = shape.dims();
    let mut index = vec![0usize; dims.len()];
    for target in out.as_mut_bytes().chunks_exact_mut(stride) {
        let source = dims.iter().zip(&index).rev().fold(0, |at, (&dim, &i)| at * dim + i);
        target.copy_from_slice(&data[source * stride..][..stride]);
        for (i, &dim) in index.iter_mut().zip(dims).rev() {
            *i += 1;
            if *i < dim {
                break;
            }
            *i = 0;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use tensor::Dim;

    use super::*;

    fn spec(dtype: DType, dims: Option<Vec<Dim>>) -> TensorSpec {
        TensorSpec { name: "x".into(), dtype, dims }
    }

    fn npy(header: &str, data: &[u8]) -> Vec<u8> {
        let mut file = MAGIC.to_vec();
        file.extend([1, 0]);
        file.extend((header.len() as u16).to_le_bytes());
        file.extend(header.as_bytes());
        file.extend(data);
        file
    }

    fn read_bytes(file: &[u8], spec: &TensorSpec) -> Result<Tensor> {
        read(file, file.len() as u64, spec)
    }

    #[test]
    fn every_type_round_trips() {
        for &dtype in DType::ALL {
            for shape in [Shape::from([2, 3]), Shape::SCALAR, Shape::from([0, 4]), Shape::from([5])] {
                let elements = shape.elements().unwrap();
                let tensor = match dtype.byte_len(elements) {
                    Some(_) if dtype == DType::Bool => {
                        let bytes: Vec<u8> = (0..elements).map(|i| (i % 2) as u8).collect();
                        Tensor::from_bytes(dtype, shape, &bytes).unwrap()
                    }
                    // Sub-byte types leave the padding bits of the last byte zero: 6 and 1 elements do not fill it.
                    Some(len) => {
                        let used = dtype.bits().unwrap() * elements;
                        let mut bytes: Vec<u8> = (0..len).map(|i| (i * 37 + 11) as u8).collect();
                        if let (Some(last), 1..) = (bytes.last_mut(), used % 8) {
                            *last &= (1u8 << (used % 8)) - 1;
                        }
                        Tensor::from_bytes(dtype, shape, &bytes).unwrap()
                    }
                    None => {
                        let strings: Vec<String> =
                            (0..elements).map(|i| "größe"[..i].to_owned()).take(2).collect();
                        let strings: Vec<&str> = strings
                            .iter()
                            .map(String::as_str)
                            .chain(std::iter::repeat("ß𝄞"))
                            .take(elements)
                            .collect();
                        Tensor::from_strings(shape, &strings).unwrap()
                    }
                };
                let mut file = Vec::new();
                write(&mut file, &tensor.view()).unwrap();
                let back = read_bytes(&file, &spec(dtype, None)).unwrap();
                assert_eq!(back, tensor, "{dtype} {shape}");
            }
        }
    }

    #[test]
    fn byte_order_and_array_order_are_undone() {
        let data: Vec<u8> = [1u16, 4, 2, 5, 3, 6].iter().flat_map(|v| v.to_be_bytes()).collect();
        let file = npy("{'shape': (2, 3), 'fortran_order': True, 'descr': '>u2'}", &data);
        let tensor = read_bytes(&file, &spec(DType::U16, None)).unwrap();
        assert_eq!(tensor.as_slice::<u16>().unwrap(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(tensor.shape(), Shape::from([2, 3]));
    }

    #[test]
    fn bad_files_are_refused_with_the_reason() {
        let check = |file: &[u8], message: &str| {
            let wanted = spec(DType::F32, Some(vec![Dim::Symbol("n".into()), Dim::Fixed(2)]));
            let error = format!("{:#}", read_bytes(file, &wanted).unwrap_err());
            assert!(error.contains(message), "`{error}` lacks `{message}`");
        };
        let good = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }\n";
        check(b"hello", "too short");
        check(b"PK\x03\x04 not an array", "not a NumPy array");
        check(&npy(good, &[0; 7]), "the data is cut off");
        check(&npy(good, &[0; 9]), "more data than its header says");
        check(&npy(&good.replace("f4", "f8"), &[0; 16]), "must be f32, not f64");
        check(&npy(&good.replace("1, 2", "1, 3"), &[0; 12]), "must have shape <n>x2, not 1x3");
        check(&npy(&good.replace("<f4", "|O"), &[]), "`|O` is not one that DEFER reads");
        check(&npy(&good.replace("(1, 2)", "(-1, 2)"), &[]), "is malformed");
        check(&npy(&"(".repeat(9_000), &[]), "is malformed");
        let huge = npy(&good.replace("1, 2", "1152921504606846975, 2"), &[0; 8]);
        check(&huge, "claims 9223372036854775800 bytes");
        let mut long = MAGIC.to_vec();
        long.extend([2, 0, 255, 255, 255, 255]);
        check(&long, "claims 4294967295 bytes");
        let bools = npy(&good.replace("<f4", "|b1"), &[1, 2]);
        let error = read_bytes(&bools, &spec(DType::Bool, None)).unwrap_err();
        assert_eq!(error.to_string(), "a bool is neither 0 nor 1");
    }
}
