//! The test vectors of `docs/wire-vectors/`, which other programs may be held against: they are what we read and write.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tensor::{DType, Shape, Tensor};
use wire::control::{Hello, Purpose};
use wire::{Codec, Header, Kind, Room};

use crate::codecs::check;
use crate::{frames, vectors_of};

/// Small enough for the short forms of XXH3, which is all that the checking script has.
const MAX_PAYLOAD_LEN: usize = 240;

/// Where the vectors are.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/wire-vectors")
}

/// What is checked.
const FILE: &str = "vectors.ndjson";

/// Codecs by name, and the tensor they are shown on.
fn cases() -> Vec<(&'static str, Tensor)> {
    let floats = |shape: Shape, values: &[f32]| Tensor::from_slice(shape, values).unwrap();
    let bytes = |dtype, dims: &[usize], bytes: &[u8]| {
        Tensor::from_bytes(dtype, Shape::new(dims).unwrap(), bytes).unwrap()
    };
    let some = floats([2, 3].into(), &[0.0, 1.5, -2.25, 1e-3, 255.0, -0.0]);
    let special = floats(
        [8].into(),
        &[1.0, 65519.0, 65520.0, 1e-7, f32::MIN_POSITIVE / 2.0, f32::INFINITY, -3e38, -0.0],
    );
    let halves = floats(
        [8].into(),
        &[1.0, 65519.0, -65504.0, 1e-7, f32::MIN_POSITIVE / 2.0, f32::INFINITY, -2049.0, -0.0],
    );
    let map: Vec<f32> = (0..40).map(|i| (i as f32 * 0.4 - 3.0).max(0.0).floor() * 0.5).collect();
    let map = floats([1, 2, 4, 5].into(), &map);
    let numbers = Tensor::from_slice([3].into(), &[1i64, -2, i64::MAX]).unwrap();
    vec![
        ("bf16", floats([1, 2].into(), &[1.5, -2.0])),
        ("raw", some.clone()),
        ("raw", floats(Shape::SCALAR, &[1.5])),
        ("raw", floats([3, 0].into(), &[])),
        ("raw", numbers.clone()),
        ("raw", bytes(DType::Bool, &[3], &[1, 0, 1])),
        ("raw", bytes(DType::U4, &[3], &[0x21, 0x03])),
        ("raw", Tensor::from_strings([2].into(), &["a", "grüße"]).unwrap()),
        ("lz4", map.clone()),
        ("shuffle", some.clone()),
        ("shuffle+lz4", numbers),
        ("f16", halves),
        ("bf16", special),
        ("bf16+shuffle+lz4", map.clone()),
        ("u8", some.clone()),
        ("u8", floats([3].into(), &[7.0; 3])),
        ("u8", floats([0].into(), &[])),
        ("u8-axis1", map.clone()),
        ("u8-axis0+lz4", map.clone()),
        ("u8-axis9", map.clone()),
        ("u8-axis0", floats([4, 0].into(), &[])),
        ("u8", floats([4].into(), &[f32::MIN, 0.0, 1e38, f32::MAX])),
        ("delta", map.clone()),
        ("u8+delta+lz4", map.clone()),
        ("bitmap", map.clone()),
        ("bitmap", some.clone()),
        ("f16+bitmap", map.clone()),
        ("zstd1", map.clone()),
        ("u8+shuffle+zstd-5", map.clone()),
        ("json", some.clone()),
        ("json+lz4", map.clone()),
        ("zfp", map.clone()),
        ("zfp+lz4", map.clone()),
        ("zfp-1d", some),
        ("zfp-2d-tol-7", map.clone()),
        ("zfp-1d-rate8", map),
    ]
}

/// Lines of JSON, one for each vector.
fn written() -> String {
    let mut text = String::new();
    for (sequence, (name, tensor)) in cases().into_iter().enumerate() {
        let codec: Codec = name.parse().unwrap();
        let header = Header { kind: Kind::Item, epoch: 3, path: 0, sequence: sequence as u64 };
        let frame = frames::of_tensor(&header, codec, tensor.view());
        let (_, opened) = frames::open(&frame, &mut Room::default()).unwrap();
        let (input, output) = (hex(tensor.bytes()), hex(opened[0].1.bytes()));
        let (dtype, dims, frame) = (tensor.dtype(), tensor.shape(), hex(&frame));
        let dims = dims.dims();
        writeln!(
            text,
            r#"{{"codec":"{name}","dtype":"{dtype}","shape":{dims:?},"input":"{input}","output":"{output}","frame":"{frame}"}}"#
        )
        .unwrap();
    }
    text
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn vectors_are_what_we_read() {
    let text = vectors_of(FILE, written);
    for (line, (name, tensor)) in text.lines().zip(cases()) {
        let vector: Value = serde_json::from_str(line).unwrap();
        assert_eq!(vector["codec"], name);
        assert_eq!(unhex(&vector["input"]), tensor.bytes(), "{name}");
        let (header, opened) = frames::open(&unhex(&vector["frame"]), &mut Room::default()).unwrap();
        assert_eq!((header.kind, header.epoch), (Kind::Item, 3));
        let [(descriptor, output)] = &opened[..] else { panic!("{name}: one tensor") };
        assert!(descriptor.encoded_len <= MAX_PAYLOAD_LEN && descriptor.checksum.is_some(), "{name}");
        assert_eq!(descriptor.codec, name.parse::<Codec>().unwrap().for_dtype(tensor.dtype()));
        assert_eq!((output.dtype(), output.shape()), (tensor.dtype(), tensor.shape()), "{name}");
        assert_eq!(unhex(&vector["output"]), output.bytes(), "{name}");
        check(descriptor.codec, tensor.view(), output.bytes()).unwrap();
    }
}

/// Bytes of a block of the document, whose lines are bytes in hex, then two spaces or more, then words.
pub(crate) fn block(name: &str) -> String {
    let document = std::fs::read_to_string(folder().join("../wire-format.md")).unwrap();
    let block = document.split(&format!("```{name}\n")).nth(1).unwrap().split("```").next().unwrap();
    block.lines().map(|line| line.split("  ").next().unwrap().replace(' ', "")).collect()
}

#[test]
fn the_document_shows_what_is_sent() {
    let (_, tensor) = &cases()[0];
    let header = Header { kind: Kind::Item, epoch: 3, path: 0, sequence: 0 };
    let frame = frames::of_tensor(&header, "bf16".parse().unwrap(), tensor.view());
    assert_eq!(block("frame"), hex(&frame));
    let hello = Hello { deployment: 5, epoch: 3, stage: 1, replica: 2, from: 0, purpose: Purpose::Inputs };
    let message = wire::control::encode(&hello);
    assert_eq!(block("greeting"), hex(&[&(message.len() as u32).to_le_bytes(), &message[..]].concat()));
}

/// Packers may find other packings in another version; all else is defined to the bit.
#[test]
fn vectors_are_what_we_write() {
    let (text, written) = (vectors_of(FILE, written), written());
    assert_eq!(text.lines().count(), written.lines().count());
    for ((read, written), (name, _)) in text.lines().zip(written.lines()).zip(cases()) {
        if name.parse::<Codec>().unwrap().entropy == wire::Entropy::None {
            assert_eq!(read, written);
        }
    }
}
