//! What travels, by codec: architecture and weights once, activations for every item; and the time to encode them.
//!
//! The models of the DEFER paper (arXiv 2201.06769) from the zoo, and whichever ONNX files are named on the command line,
//! cut in eight stages with equally many layers. `defer-zfp-lz4` is what DEFER's code does, `zfp-tol` the same with a
//! tolerance and in two dimensions; the last three are ours at each level of accuracy, where weights stay lossless.
//! DEFER_ONNXRUNTIME names the library to run the models with; without it the built-in engine does.

#[path = "common/stages.rs"]
mod stages;

use std::path::Path;
use std::time::Instant;

use graph::{Model, zoo};
use pipeline::arbitrary_item;
use stages::Stages;
use tensor::{Shape, Tensor, TensorView};
use wire::weights::{HEADER_LEN, PIECE_LEN, Packer, Width};
use wire::{Codec, Room};

const STAGES: usize = 8;
const ROUNDS: usize = 5;

/// What it is called, the codec of weights (ours are packed by what they are, in pieces), the codec of activations.
const CONFIGURATIONS: [(&str, Option<&str>, &str); 9] = [
    ("raw", Some("raw"), "raw"),
    ("json", Some("json"), "json"),
    ("json-lz4", Some("json-lz4"), "json-lz4"),
    ("zfp", Some("zfp"), "zfp"),
    ("defer-zfp-lz4", Some("defer-zfp-lz4"), "defer-zfp-lz4"),
    ("zfp-tol", Some("zfp-tol"), "zfp-tol"),
    ("exact", None, "shuffle+zstd1"),
    ("near", None, "f16+shuffle+zstd1"),
    ("relaxed", None, "u8+zstd1"),
];

#[expect(clippy::print_stdout, reason = "a bench prints its table")]
fn main() {
    let engine = stages::engine();
    println!(
        "{:>14} {:>14} {:>18} {:>12} {:>16} {:>14} {:>16}",
        "model",
        "configuration",
        "architecture (KB)",
        "weights (MB)",
        "encode them (s)",
        "an item (MB)",
        "encode it (ms)"
    );
    let zoo = ["resnet50", "vgg16", "vgg19"].map(|name| (name.to_owned(), zoo::build(name, 0).unwrap()));
    let files = std::env::args().skip(1).filter(|argument| argument.ends_with(".onnx")).map(|path| {
        let name = Path::new(&path).file_stem().unwrap().to_string_lossy().into_owned();
        (name, Model::load(Path::new(&path)).unwrap())
    });
    for (name, model) in zoo.into_iter().chain(files) {
        let mut stages = Stages::new(&model, STAGES, &*engine);
        let mut activations = Vec::new();
        stages.run(arbitrary_item(model.inputs()), &mut |_, frame| {
            activations.extend(frame.iter().cloned());
            frame
        });
        let architecture: usize = stages.stages.iter().map(|stage| stage.skeleton.len()).sum();
        let weights: Vec<Tensor> = stages.stages.iter().flat_map(weights).collect();
        for (configuration, for_weights, for_items) in CONFIGURATIONS {
            let (weight_bytes, weight_seconds) =
                for_weights.map_or_else(|| pack(&weights), |codec| encode(codec, &weights));
            let rounds: Vec<(usize, f64)> = (0..ROUNDS).map(|_| encode(for_items, &activations)).collect();
            let mut seconds: Vec<f64> = rounds.iter().map(|round| round.1).collect();
            seconds.sort_by(f64::total_cmp);
            println!(
                "{name:>14} {configuration:>14} {:>18.1} {:>12.2} {weight_seconds:>16.3} {:>14.3} {:>16.2}",
                architecture as f64 / 1e3,
                weight_bytes as f64 / 1e6,
                rounds[0].0 as f64 / 1e6,
                seconds[ROUNDS / 2] * 1e3
            );
        }
    }
}

fn weights(stage: &graph::Stage) -> impl Iterator<Item = Tensor> {
    stage.weights.iter().map(|weight| {
        Tensor::from_bytes(weight.dtype, Shape::new(&weight.dims).unwrap(), &weight.bytes).unwrap()
    })
}

/// Bytes of all weights as they are shipped, and the seconds that packing them takes.
fn pack(weights: &[Tensor]) -> (usize, f64) {
    let mut packer = Packer::new(Width::Four);
    let started = Instant::now();
    let mut bytes = 0;
    for weight in weights {
        packer.begin(Width::of(weight.dtype()));
        for piece in weight.bytes().chunks(PIECE_LEN) {
            bytes += HEADER_LEN + packer.pack(piece).1.len();
        }
    }
    (bytes, started.elapsed().as_secs_f64())
}

/// Bytes of all tensors encoded, and the seconds that takes.
fn encode(codec: &str, tensors: &[Tensor]) -> (usize, f64) {
    let codec: Codec = codec.parse().unwrap();
    let mut room = Room::default();
    let mut len =
        |tensor: TensorView<'_>| codec.for_dtype(tensor.dtype()).encode(tensor, &mut room).unwrap().len();
    // Memory is there when the second item comes.
    tensors.iter().take(1).for_each(|tensor| assert!(len(tensor.view()) > 0, "something travels"));
    let started = Instant::now();
    let bytes = tensors.iter().map(|tensor| len(tensor.view())).sum();
    (bytes, started.elapsed().as_secs_f64())
}
