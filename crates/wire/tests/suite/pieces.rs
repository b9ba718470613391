//! The test vectors of packed weights, and what the document shows of how weights travel.

use std::collections::BTreeSet;
use std::fmt::Write;

use fastrand::Rng;
use serde_json::Value;
use wire::control::{self, Response, Welcome};
use wire::weights::{HEADER_LEN, Packer, Unpacker, Width, read_header, write_header};

use crate::vectors::{block, hex, unhex};
use crate::vectors_of;

/// What is checked.
const FILE: &str = "weights.ndjson";

/// Pieces that take each form, most of them short: Zstandard then leaves what it is given as it is, which the checking
/// script reads without a library.
fn cases() -> Vec<(Width, Vec<u8>)> {
    let mut random = Rng::with_seed(7);
    let floats =
        |values: &mut dyn Iterator<Item = f32>| values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
    let mut bytes = |count: usize, value: &dyn Fn(&mut Rng, usize) -> Vec<u8>| -> Vec<u8> {
        (0..count).flat_map(|i| value(&mut random, i)).collect()
    };
    vec![
        (Width::Four, floats(&mut (0..20).map(|i| [0.0, 0.25, -0.25][(i * i + i / 7) % 3]))),
        (Width::Four, floats(&mut [1.5f32, -2.25].into_iter())),
        (Width::Two, [0x80, 0x3f].repeat(23)),
        (Width::Four, bytes(33, &|random, _| vec![0, 0, random.u8(..4) << 5, 0x3f])),
        (Width::One, bytes(83, &|random, _| vec![random.u8(..9)])),
        (Width::Eight, bytes(30, &|random, _| u64::from(random.u8(..20)).to_le_bytes().to_vec())),
        (Width::One, bytes(203, &|random, i| vec![if i % 8 == 3 { random.u8(1..) } else { 0 }])),
        // More elements than a palette has.
        (Width::Two, bytes(300, &|_, i| vec![i as u8, 0x3c | (i / 256) as u8])),
        (
            Width::Four,
            bytes(400, &|random, i| {
                if i % 9 == 0 { vec![1, random.u8(..), random.u8(..), 9] } else { vec![0; 4] }
            }),
        ),
    ]
}

/// Lines of JSON, one for each vector.
fn written() -> String {
    let mut text = String::new();
    for (width, piece) in cases() {
        let mut packer = Packer::new(width);
        let (form, packed) = packer.pack(&piece);
        let wire = [&write_header(form, packed.len()), packed].concat();
        writeln!(text, r#"{{"piece":"{}","wire":"{}"}}"#, hex(&piece), hex(&wire)).unwrap();
    }
    text
}

/// A piece and its bytes on the wire, of a line.
fn parsed(line: &str) -> (Vec<u8>, Vec<u8>) {
    let vector: Value = serde_json::from_str(line).unwrap();
    (unhex(&vector["piece"]), unhex(&vector["wire"]))
}

#[test]
fn vectors_of_weights_are_what_we_read() {
    let mut kinds = BTreeSet::new();
    for (line, (_, piece)) in vectors_of(FILE, written).lines().zip(cases()) {
        let (expected, wire) = parsed(line);
        assert_eq!(expected, piece);
        let (header, packed) = wire.split_first_chunk::<HEADER_LEN>().unwrap();
        let (form, len) = read_header(header, piece.len()).unwrap();
        assert_eq!(len, packed.len(), "{form:?}");
        let mut out = vec![0xaa; piece.len()];
        Unpacker::default().unpack(form, packed, &mut out).unwrap();
        assert_eq!(out, piece, "{form:?}");
        kinds.insert(header[0] >> 4);
    }
    assert_eq!(kinds, (0..4).collect(), "raw, shuffle, palette and bitmap");
}

/// Zstandard may find other packings in another version; which form is chosen is ours.
#[test]
fn vectors_of_weights_are_what_we_write() {
    let (text, written) = (vectors_of(FILE, written), written());
    assert_eq!(text.lines().count(), written.lines().count());
    for (read, written) in text.lines().zip(written.lines()) {
        let ((piece, wire), (again, now)) = (parsed(read), parsed(written));
        assert_eq!((piece, wire[0]), (again, now[0]));
    }
}

#[test]
fn the_document_shows_how_weights_travel() {
    let message = |bytes: Vec<u8>| hex(&[&(bytes.len() as u32).to_le_bytes(), &bytes[..]].concat());
    let mut hash = [0; 32];
    (0..).zip(&mut hash).for_each(|(i, byte)| *byte = i);
    let prepared = Response::Prepared { missing: vec![hash] };
    assert_eq!(block("prepared"), hex(&control::encode(&prepared)));
    assert_eq!(block("stored"), message(control::encode(&Welcome::Accepted)));
    let (width, piece) = &cases()[0];
    let mut packer = Packer::new(*width);
    let (form, packed) = packer.pack(piece);
    assert_eq!(block("piece"), hex(&[&write_header(form, packed.len()), packed].concat()));
}
