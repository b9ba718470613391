//! Everything that fuzzing keeps, seeds and findings, on the same functions, without a fuzzer.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Once;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tensor::{DType, Dim, Shape, Tensor, TensorSpec};
use wire::control::{self, *};
use wire::weights::{Packer, Width, write_header};
use wire::{Codec, Header, Kind, Room};

use crate::fuzzed::{self, TARGETS};
use crate::tensors::{self, Content};
use crate::{codecs, frames};

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target)
}

/// Seeds of every stage alone and of all three together are made from lists; these are of what else packs what else.
const MORE_CODECS: [&str; 8] = [
    "json+lz4",
    "json+zstd1",
    "zfp+zstd-5",
    "zfp-2d-tol-7+lz4",
    "shuffle+zstd-5",
    "f16+bitmap+zstd1",
    "u8-axis1+delta+zstd-5",
    "u8+zstd1",
];

/// The files kept for a target, with the seeds first written where that is asked for.
fn kept(target: &str) -> Vec<PathBuf> {
    static WRITTEN: Once = Once::new();
    WRITTEN.call_once(|| {
        if crate::writing() {
            write_seeds();
        }
    });
    let files = std::fs::read_dir(corpus(target)).unwrap_or_else(|e| panic!("fuzz/corpus/{target}: {e}"));
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn what_was_kept_is_met_as_it_should_be() {
    for (name, target) in TARGETS {
        let mut count = 0;
        for path in kept(name) {
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

/// A fuzzer that never gets through a stage tries nothing behind it.
#[test]
fn every_stage_decodes_something_and_refuses_something() {
    let (mut decodes, mut refuses) = (BTreeSet::new(), BTreeSet::new());
    for path in kept("codec_decode") {
        let Some((codec, result)) = fuzzed::decoded(&std::fs::read(&path).unwrap()) else { continue };
        let code = codec.code();
        let stages = (0..3).map(|stage| (stage, code[stage]));
        match result {
            Ok(()) => decodes.extend(stages),
            Err(_) => refuses.extend(stages),
        }
    }
    let all: BTreeSet<_> =
        codecs::all().iter().flat_map(|codec| (0..3).map(|stage| (stage, codec.code()[stage]))).collect();
    assert_eq!(decodes, all, "stages (place, number) that decode something");
    assert_eq!(refuses, all, "stages (place, number) that refuse something");
}

#[test]
fn every_message_has_a_seed() {
    let known = [variants::<Request>(), variants::<Response>(), variants::<Purpose>(), variants::<Welcome>()];
    assert!(known[0] >= 13 && known[1] >= 14, "{known:?} messages of each kind");
    for (kind, known) in (0..).zip(known) {
        // In a greeting the purpose is the last byte.
        let variant = |bytes: &[u8]| if kind == 2 { bytes.last().copied() } else { bytes.get(2).copied() };
        let seeds = kept("control").into_iter().map(|path| std::fs::read(path).unwrap());
        let found: BTreeSet<u8> =
            seeds.filter(|bytes| bytes[0] == kind && is_message(bytes)).filter_map(|b| variant(&b)).collect();
        assert_eq!(found, (0..known).collect(), "messages of kind {kind} in fuzz/corpus/control");
    }
}

/// Whether a seed of the target `control` can be read.
fn is_message(seed: &[u8]) -> bool {
    match seed[0] {
        0 => control::decode::<Request>(&seed[1..]).is_ok(),
        1 => control::decode::<Response>(&seed[1..]).is_ok(),
        2 => control::decode::<Hello>(&seed[1..]).is_ok(),
        _ => control::decode::<Welcome>(&seed[1..]).is_ok(),
    }
}

/// How many kinds of a message there are. Each can be made of zeros, which are nothing, empty or the first.
fn variants<T: DeserializeOwned>() -> u8 {
    let is_known = |&variant: &u8| {
        let zeros = [&[control::VERSION, variant][..], &[0; 200]].concat();
        matches!(control::decode::<T>(&zeros), Err(ControlError::Malformed(why)) if why.contains("too many"))
    };
    (0..u8::MAX).take_while(is_known).count() as u8
}

/// A small input of each kind, for a fuzzer to begin with.
fn write_seeds() {
    let mut random = fastrand::Rng::with_seed(5);
    let header = Header { kind: Kind::Item, epoch: 2, path: 3, sequence: 7 };
    let floats = tensors::floats(Shape::from([2, 3, 2]), Content::Rectified, &mut random);
    let numbers = tensors::of_type(DType::I64, Shape::from([2]), &mut random);
    let texts = Tensor::from_strings(Shape::from([2]), &["a", "bc"]).unwrap();
    for codec in codecs::all() {
        for tensor in [&floats, &numbers, &texts] {
            let (code, dtype) = (codec.code(), tensor.dtype());
            // One codec of each stage, and chains of all three.
            let stages = code[..3].iter().filter(|&&stage| stage != 0).count();
            let plain_types = dtype == DType::F32 || codec.code()[1..3] == [0; 2];
            if codec != codec.for_dtype(dtype) || stages == 2 || stages == 3 && code[2] != 1 || !plain_types {
                continue;
            }
            write_tensor(codec, tensor);
            if stages != 3 {
                write(
                    "frame",
                    &format!("{codec}-{dtype}"),
                    &frames::of_tensor(&header, codec, tensor.view()),
                );
            }
        }
    }
    MORE_CODECS.iter().for_each(|name| write_tensor(name.parse().unwrap(), &floats));
    write_weights(&mut random);
    write_messages();
}

/// A tensor to encode, the same encoded, and, of one stage alone, that cut off.
fn write_tensor(codec: Codec, tensor: &Tensor) {
    let (dtype, dims) = (tensor.dtype(), tensor.shape());
    let mut room = Room::default();
    let encoded = codec.encode(tensor.view(), &mut room).unwrap();
    let mut start = [codec.code().as_slice(), &[dtype.code(), dims.rank() as u8]].concat();
    start.extend(dims.dims().iter().map(|&dim| dim as u8));
    let len = if dtype == DType::String { tensor.bytes().len() as u16 } else { 0 }.to_le_bytes();
    let len = if dtype == DType::String { &len[..] } else { &[] };
    let name = format!("{codec}-{dtype}");
    write("codec_decode", &name, &[&start[..], len, encoded].concat());
    if codec.code()[..3].iter().filter(|&&stage| stage != 0).count() <= 1 {
        let cut = &encoded[..encoded.len() - 1];
        write("codec_decode", &format!("{name}-cut"), &[&start[..], len, cut].concat());
    }
    write("codec_round_trip", &name, &[&start[..], &tensor.bytes()[..8]].concat());
}

/// Pieces that are packed in each form, and what lies under the Zstandard of a palette.
fn write_weights(random: &mut fastrand::Rng) {
    for (width, len) in [(Width::One, 1), (Width::Two, 2), (Width::Four, 4), (Width::Eight, 8)] {
        let mut packer = Packer::new(width);
        for (name, kinds, zeros) in
            [("ternary", 3, 0), ("sixteen", 16, 0), ("many", 40, 0), ("sparse", 255, 60), ("smooth", 255, 0)]
        {
            // Of 255 kinds a second byte differs, too: those are more than a palette has, and planes of them pack.
            let element = |random: &mut fastrand::Rng| {
                let first = random.u8(..kinds) * u8::from(random.u8(..64) >= zeros);
                let second = if kinds == 255 && first != 0 { random.u8(..2) } else { 0 };
                let mut element = vec![0; len];
                element[0] = first;
                element[len / 2] |= second;
                element
            };
            let count = if kinds == 255 { 600 } else { 40 };
            let piece: Vec<u8> = (0..count).flat_map(|_| element(random)).collect();
            packer.begin(width);
            let (form, packed) = packer.pack(&piece);
            let start = [&(piece.len() as u16).to_le_bytes()[..], &write_header(form, packed.len())].concat();
            write("weights", &format!("{name}{len}"), &[&start, packed].concat());
        }
    }
    // Seven elements of one byte: a table of three, then two bytes of places.
    write("weights", "palette", &[7, 0, 0x20, 6, 0, 0, 0, 2, 7, 8, 9, 2 + 3 + 9 * 2, 1]);
    write("weights", "raw", &[3, 0, 0, 3, 0, 0, 0, 1, 2, 3]);
}

fn write_messages() {
    for (name, request) in requests() {
        write_message(name, 0, &request);
    }
    for (name, response) in responses() {
        write_message(name, 1, &response);
    }
    for (name, purpose) in [
        ("inputs", Purpose::Inputs),
        ("results", Purpose::Results),
        ("hello", Purpose::Weights),
        ("probe_to", Purpose::ProbeTo),
        ("probe_from", Purpose::ProbeFrom),
    ] {
        write_message(name, 2, &Hello { deployment: 5, epoch: 2, stage: 1, replica: 2, from: 1, purpose });
    }
    write_message("accepted", 3, &Welcome::Accepted);
    write_message("refused", 3, &Welcome::Refused("no".to_owned()));
}

fn requests() -> [(&'static str, Request); 13] {
    let to = vec!["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()];
    [
        ("describe", Request::Describe),
        ("prepare", Request::Prepare(Box::new(order()))),
        ("load", Request::Load(5)),
        ("connect", Request::Connect(5)),
        ("measure", Request::Measure(5)),
        ("release", Request::Release(5)),
        ("time", Request::Time(Box::new(TimeOrder { deployment: 5, shapes: vec![vec![1, 3], vec![]] }))),
        ("probe", Request::Probe(ProbeOrder { to })),
        ("recode", Request::Recode(RecodeOrder { deployment: 5, codec: Codec::LZ4.code() })),
        ("time_codecs", Request::TimeCodecs(vec![Codec::RAW.code(), Codec::LZ4.code()])),
        ("trace", Request::Trace(5)),
        ("spans", Request::Spans(5)),
        ("clock", Request::Clock),
    ]
}

fn order() -> StageOrder {
    let dims = vec![Dim::Symbol("n".to_owned()), Dim::Unknown, Dim::Fixed(3)];
    StageOrder {
        deployment: 5,
        dispatcher: "d".to_owned(),
        epoch: 2,
        model: "m".to_owned(),
        stage: 0,
        stages: 2,
        crossing: Crossing { paths_before: 2, sources: 2, replicas: 3, replica: 1 },
        skeleton: vec![1, 2, 3],
        weights: vec![WeightEntry { hash: [9; 32], len: 4096 }],
        inputs: vec![Spec::from(&TensorSpec::fixed("x", DType::F32, Shape::from([1, 2])))],
        outputs: vec![Spec::from(&TensorSpec { name: "y".to_owned(), dtype: DType::I64, dims: Some(dims) })],
        feeds: vec![0],
        routes: vec![Route::Computed(0)],
        codecs_in: vec![Codec::LZ4.code()],
        codec_out: Codec::LZ4.code(),
        codecs_out: vec![Codec::LZ4.code()],
        next: vec![vec!["127.0.0.1:1".parse().unwrap()], vec![]],
        max_tensor_len: 1 << 20,
        memory: 5,
    }
}

fn responses() -> [(&'static str, Response); 14] {
    let time =
        StageTime { seconds: 0.1, mean_seconds: 0.11, cpu_seconds: 0.1, runs: 5, ..StageTime::default() };
    let stage = RunningStage { model: "m".to_owned(), stage: 0, stages: 2, items: 300 };
    let node = NodeDescription {
        name: "n".to_owned(),
        version: "1".to_owned(),
        cores: 4,
        threads: 2,
        memory_limit: 1 << 30,
        memory_used: 1 << 20,
        engine: "e".to_owned(),
        data_addresses: vec!["127.0.0.1:1".parse().unwrap()],
        machine: Machine::default(),
        stages: vec![stage],
    };
    let link = LinkFigures {
        bandwidth: 1e6,
        delay_seconds: 0.0,
        frame_seconds: 1e-6,
        send_cpu_seconds: 1e-9,
        receive_cpu_seconds: 2e-9,
    };
    let span = Span { sequence: 7, step: Step::Encode, start_nanos: 1 << 30, nanos: 300, bytes: 200 };
    [
        ("description", Response::Description(node)),
        ("prepared", Response::Prepared { missing: vec![[3; 32]] }),
        ("loaded", Response::Loaded { engine: "e".to_owned() }),
        ("connected", Response::Connected),
        ("measured", Response::Measured(StageFigures { items: 3, bytes_in: 300, ..StageFigures::default() })),
        ("released", Response::Released),
        ("refused_request", Response::Refused("no".to_owned())),
        ("timed", Response::Timed(StageTime { peak_bytes: Some(5), ..time })),
        ("probed", Response::Probed(link)),
        ("recoded", Response::Recoded),
        (
            "codecs_timed",
            Response::CodecsTimed(vec![CodecTime { encode_seconds: 1e-9, decode_seconds: 0.0 }]),
        ),
        ("tracing", Response::Tracing),
        ("kept_spans", Response::Spans(Spans { lost: 300, spans: vec![span] })),
        ("clock_shows", Response::Clock(1 << 40)),
    ]
}

fn write_message(name: &str, kind: u8, message: &impl Serialize) {
    write("control", name, &[&[kind], &control::encode(message)[..]].concat());
}

fn write(target: &str, name: &str, bytes: &[u8]) {
    std::fs::create_dir_all(corpus(target)).unwrap();
    std::fs::write(corpus(target).join(name), bytes).unwrap();
}
