//! Everything that fuzzing keeps, seeds and findings, on the same functions, without a fuzzer.

use std::path::{Path, PathBuf};

use tensor::{DType, Shape, Tensor};
use wire::control::{self, Hello, Purpose, Request, Response, StageTime, Welcome};
use wire::{Header, Kind, Room};

use crate::fuzzed::TARGETS;
use crate::tensors::{self, Content};
use crate::{codecs, frames};

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target)
}

#[test]
fn what_was_kept_is_met_as_it_should_be() {
    if crate::writing() {
        write_seeds();
    }
    for (name, target) in TARGETS {
        let files = std::fs::read_dir(corpus(name)).unwrap_or_else(|e| panic!("fuzz/corpus/{name}: {e}"));
        let mut count = 0;
        for file in files {
            let path = file.unwrap().path();
            // The name of the file tells which input a panic is about.
            #[expect(clippy::print_stdout, reason = "shown when the test fails")]
            {
                println!("{}", path.display());
            }
            target(&std::fs::read(&path).unwrap());
            count += 1;
        }
        assert!(count > 0, "fuzz/corpus/{name} is empty");
    }
}

/// A small input of each kind, for a fuzzer to begin with.
fn write_seeds() {
    let mut random = fastrand::Rng::with_seed(5);
    let header = Header { kind: Kind::Item, epoch: 2, sequence: 7 };
    let floats = tensors::floats(Shape::from([2, 3, 2]), Content::Rectified, &mut random);
    let numbers = tensors::of_type(DType::I64, Shape::from([2]), &mut random);
    let texts = Tensor::from_strings(Shape::from([2]), &["a", "bc"]).unwrap();
    let mut room = Room::default();
    for codec in codecs::all() {
        for tensor in [&floats, &numbers, &texts] {
            let (code, dtype, dims) = (codec.code(), tensor.dtype(), tensor.shape());
            // One codec of each stage, and chains of all three.
            let stages = code[..3].iter().filter(|&&stage| stage != 0).count();
            let plain_types = dtype == DType::F32 || codec.code()[1..3] == [0; 2];
            if codec != codec.for_dtype(dtype) || stages == 2 || stages == 3 && code[2] != 1 || !plain_types {
                continue;
            }
            let encoded = codec.encode(tensor.view(), &mut room).unwrap();
            let mut start = [code.as_slice(), &[dtype.code(), dims.rank() as u8]].concat();
            start.extend(dims.dims().iter().map(|&dim| dim as u8));
            let len = if dtype == DType::String { tensor.bytes().len() as u16 } else { 0 }.to_le_bytes();
            let len = if dtype == DType::String { &len[..] } else { &[] };
            let name = format!("{codec}-{dtype}");
            write("codec_decode", &name, &[&start[..], len, encoded].concat());
            write("codec_round_trip", &name, &[&start[..], &tensor.bytes()[..8]].concat());
            if stages != 3 {
                write("frame", &name, &frames::of_tensor(&header, codec, tensor.view()));
            }
        }
    }
    write_messages();
}

fn write_messages() {
    let hello = Hello { deployment: 5, epoch: 2, stage: 1, purpose: Purpose::Weights };
    let time =
        StageTime { seconds: 0.1, mean_seconds: 0.11, cpu_seconds: 0.1, runs: 5, ..StageTime::default() };
    let messages: [(&str, u8, Vec<u8>); 7] = [
        ("describe", 0, control::encode(&Request::Describe)),
        ("load", 0, control::encode(&Request::Load(5))),
        ("timed", 1, control::encode(&Response::Timed(time))),
        ("prepared", 1, control::encode(&Response::Prepared { missing: vec![[3; 32]] })),
        ("hello", 2, control::encode(&hello)),
        ("accepted", 3, control::encode(&Welcome::Accepted)),
        ("refused", 3, control::encode(&Welcome::Refused("no".to_owned()))),
    ];
    for (name, kind, message) in messages {
        write("control", name, &[&[kind], &message[..]].concat());
    }
}

fn write(target: &str, name: &str, bytes: &[u8]) {
    std::fs::create_dir_all(corpus(target)).unwrap();
    std::fs::write(corpus(target).join(name), bytes).unwrap();
}
