//! `--json` of `defer run`: NDJSON, one object for each item, then one with the key `report`.
//!
//! A tensor is `{"dtype": "f32", "shape": [1, 3], "data": [...]}`, the data flat in row-major order. JSON has no
//! infinities and no NaN: they are the strings "Infinity", "-Infinity" and "NaN". A complex number is a pair.
//! Floats of 8 bits and less come as the unsigned numbers of their bits, under `bits` instead of `data`.

use half::{bf16, f16};
use serde::ser::{Error, SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use tensor::{DType, Element, TensorView};

use super::answer::Answer;
use crate::input::packed;

/// One line of NDJSON.
#[derive(Serialize)]
pub(crate) struct ItemLine<'a> {
    /// The item's number, from 0.
    pub(crate) item: usize,
    /// Where the item came from.
    pub(crate) input: &'a str,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(crate) answer: Option<&'a Answer>,
    /// From its admission to its result, ms.
    pub(crate) latency_ms: f64,
    pub(crate) outputs: Outputs<'a>,
}

/// The outputs of one item, by name.
pub(crate) struct Outputs<'a>(pub(crate) &'a [(&'a str, TensorView<'a>)]);

struct Json<'a>(TensorView<'a>);
struct Data<'a>(TensorView<'a>);

impl Serialize for Outputs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, view)| (name, Json(*view))))
    }
}

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let view = self.0;
        let bits = view.dtype().is_float() && packed::stored_as_bytes(view.dtype());
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("dtype", view.dtype().name())?;
        map.serialize_entry("shape", view.shape().dims())?;
        map.serialize_entry(if bits { "bits" } else { "data" }, &Data(view))?;
        map.end()
    }
}

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let view = &self.0;
        match view.dtype() {
            DType::F32 => list(serializer, view, |v: f32| Float(v, v.into())),
            DType::F64 => list(serializer, view, |v: f64| Float(v, v)),
            DType::F16 => list(serializer, view, |v: f16| Float(v.to_f32(), v.to_f64())),
            DType::Bf16 => list(serializer, view, |v: bf16| Float(v.to_f32(), v.to_f64())),
            DType::U8 => list(serializer, view, |v: u8| v),
            DType::U16 => list(serializer, view, |v: u16| v),
            DType::U32 => list(serializer, view, |v: u32| v),
            DType::U64 => list(serializer, view, |v: u64| v),
            DType::I8 => list(serializer, view, |v: i8| v),
            DType::I16 => list(serializer, view, |v: i16| v),
            DType::I32 => list(serializer, view, |v: i32| v),
            DType::I64 => list(serializer, view, |v: i64| v),
            DType::Bool => serializer.collect_seq(view.bytes().iter().map(|&b| b != 0)),
            DType::String => serializer.collect_seq(view.strings().map_err(S::Error::custom)?),
            DType::I4 | DType::I2 => serializer.collect_seq(packed::unpack(view).iter().map(|&b| b as i8)),
            DType::Complex64 => serializer.collect_seq(view.bytes().chunks_exact(8).map(|pair| {
                let part =
                    |at: usize| f32::from_le_bytes([pair[at], pair[at + 1], pair[at + 2], pair[at + 3]]);
                [Float(part(0), part(0).into()), Float(part(4), part(4).into())]
            })),
            DType::Complex128 => serializer.collect_seq(view.bytes().chunks_exact(16).map(|pair| {
                let part = |half: &[u8]| half.iter().rev().fold(0, |bits, &b| bits << 8 | u64::from(b));
                let [re, im] = [f64::from_bits(part(&pair[..8])), f64::from_bits(part(&pair[8..]))];
                [Float(re, re), Float(im, im)]
            })),
            _ => serializer.collect_seq(packed::unpack(view).iter()),
        }
    }
}

fn list<T: Element, V: Serialize, S: Serializer>(
    serializer: S,
    view: &TensorView<'_>,
    value: impl Fn(T) -> V,
) -> Result<S::Ok, S::Error> {
    let values = view.as_slice::<T>().map_err(S::Error::custom)?;
    let mut seq = serializer.serialize_seq(Some(values.len()))?;
    for &v in values {
        seq.serialize_element(&value(v))?;
    }
    seq.end()
}

/// A number of a report that may be absent (`null`) or infinite.
pub(crate) fn optional_float<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    value.map(|v| Float(v, v)).serialize(serializer)
}

/// A number as its own type prints it, and its value.
struct Float<T>(T, f64);

impl<T: Serialize> Serialize for Float<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.1 {
            v if v.is_finite() => self.0.serialize(serializer),
            v if v.is_nan() => serializer.serialize_str("NaN"),
            v if v > 0.0 => serializer.serialize_str("Infinity"),
            _ => serializer.serialize_str("-Infinity"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tensor::{Shape, Tensor};

    use super::*;

    #[test]
    fn tensors_of_every_kind() {
        let check = |tensor: Tensor, expected: &str| {
            assert_eq!(serde_json::to_string(&Json(tensor.view())).unwrap(), expected);
        };
        let of = |dtype, bytes: &[u8], n: usize| Tensor::from_bytes(dtype, Shape::from([n]), bytes).unwrap();
        check(
            Tensor::from_slice(Shape::from([1, 4]), &[0.1f32, f32::NAN, f32::INFINITY, f32::NEG_INFINITY])
                .unwrap(),
            r#"{"dtype":"f32","shape":[1,4],"data":[0.1,"NaN","Infinity","-Infinity"]}"#,
        );
        check(
            Tensor::from_slice(Shape::SCALAR, &[u64::MAX]).unwrap(),
            r#"{"dtype":"u64","shape":[],"data":[18446744073709551615]}"#,
        );
        check(of(DType::Bool, &[0, 1], 2), r#"{"dtype":"bool","shape":[2],"data":[false,true]}"#);
        check(of(DType::I4, &[0x8f], 2), r#"{"dtype":"i4","shape":[2],"data":[-1,-8]}"#);
        check(of(DType::F8E5M2, &[0x3c], 1), r#"{"dtype":"f8e5m2","shape":[1],"bits":[60]}"#);
        check(of(DType::F16, &[0x00, 0x3c], 1), r#"{"dtype":"f16","shape":[1],"data":[1.0]}"#);
        let pair: Vec<u8> = [1.5f64, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        check(of(DType::Complex128, &pair, 1), r#"{"dtype":"complex128","shape":[1],"data":[[1.5,-2.0]]}"#);
        check(
            Tensor::from_strings(Shape::from([2]), &["a", "\"ß"]).unwrap(),
            r#"{"dtype":"string","shape":[2],"data":["a","\"ß"]}"#,
        );
    }

    #[test]
    fn one_line_holds_an_item() {
        let tensor = Tensor::from_slice(Shape::from([2]), &[1i8, 2]).unwrap();
        let answer = Answer { class: 1, label: Some("cat".into()), confidence: 0.5 };
        let line = ItemLine {
            item: 3,
            input: "a.jpg",
            answer: Some(&answer),
            latency_ms: 1.5,
            outputs: Outputs(&[("y", tensor.view())]),
        };
        assert_eq!(
            serde_json::to_string(&line).unwrap(),
            r#"{"item":3,"input":"a.jpg","class":1,"label":"cat","confidence":0.5,"latency_ms":1.5,"outputs":{"y":{"dtype":"i8","shape":[2],"data":[1,2]}}}"#
        );
    }
}
