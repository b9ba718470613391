//! What codecs do to activations: how much they shrink them, how fast, and how far values come back from their own.
//!
//! `cargo bench -p wire` takes the `.npy` files (`f32`) in the folder that `DEFER_ACTIVATIONS` names, or else makes
//! feature maps that look like those of a ResNet: smooth, a fifth of them zero. `cargo bench -p wire -- u8` runs only
//! the rows whose name contains `u8`. Speeds are GB/s of raw values on one thread, all tensors together, the best of
//! rounds, the rounds of all rows in turns; the error is the largest of all, as a share of its tensor's range.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tensor::{Shape, Tensor};
use wire::{Codec, Room};

/// A row for each of these, after those without a codec.
const CODECS: [&str; 29] = [
    "f16",
    "bf16",
    "u8",
    "u8-axis1",
    "shuffle",
    "bf16+shuffle",
    "bf16+delta",
    "u8+delta",
    "bitmap",
    "bf16+bitmap",
    "u8+bitmap",
    "lz4",
    "shuffle+lz4",
    "bf16+shuffle+lz4",
    "bf16+bitmap+lz4",
    "u8+lz4",
    "u8+bitmap+lz4",
    "zstd1",
    "shuffle+zstd1",
    "bitmap+zstd1",
    "f16+shuffle+zstd1",
    "f16+bitmap+zstd1",
    "bf16+shuffle+zstd1",
    "bf16+bitmap+zstd1",
    "bf16+bitmap+zstd-5",
    "u8+zstd1",
    "u8+zstd-5",
    "u8+delta+zstd1",
    "u8+bitmap+zstd1",
];

const ROUNDS: usize = 15;
/// What a measurement takes at least, so that the clock does not show.
const LEAST: Duration = Duration::from_micros(300);

/// A way to encode and decode.
enum Way {
    Copy,
    Lz4Flex,
    Codec(Codec),
}

/// What one way did to one tensor: bytes, a share of the range, and seconds.
struct Found {
    encoded: usize,
    error: f64,
    encode_s: f64,
    decode_s: f64,
}

fn main() {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let chosen = |name: &str| name == "memcpy" || filter.as_ref().is_none_or(|part| name.contains(part));
    let ways: Vec<(&str, Way)> = [("memcpy", Way::Copy), ("lz4_flex crate", Way::Lz4Flex)]
        .into_iter()
        .chain(CODECS.map(|name| (name, Way::Codec(name.parse().unwrap()))))
        .filter(|(name, _)| chosen(name))
        .collect();
    for (group, tensors) in activations() {
        let found = measure_all(&ways, &tensors);
        print_table(&group, &tensors, ways.iter().map(|(name, _)| *name).zip(found.chunks(tensors.len())));
    }
}

/// For each way and tensor in it, the best of the rounds. Other work on the machine only ever slows one down.
fn measure_all(ways: &[(&str, Way)], tensors: &[Tensor]) -> Vec<Found> {
    let mut room = Room::default();
    let pairs = || ways.iter().flat_map(|(_, way)| tensors.iter().map(move |tensor| (way, tensor)));
    let mut best: Vec<Found> = pairs().map(|(way, tensor)| way.measure(tensor, &mut room)).collect();
    for _ in 1..ROUNDS {
        for ((way, tensor), best) in pairs().zip(&mut best) {
            let found = way.measure(tensor, &mut room);
            best.encode_s = best.encode_s.min(found.encode_s);
            best.decode_s = best.decode_s.min(found.decode_s);
        }
    }
    best
}

#[expect(clippy::print_stdout, reason = "a bench prints its table")]
fn print_table<'a>(group: &str, tensors: &[Tensor], rows: impl Iterator<Item = (&'a str, &'a [Found])>) {
    let bytes: usize = tensors.iter().map(|tensor| tensor.bytes().len()).sum();
    let megabytes = bytes as f64 / 1e6;
    println!("\n{group}: {} of {megabytes:.1} MB in all, {:.0} % zeros", tensors.len(), zeros(tensors));
    println!("{:<20} {:>7} {:>12} {:>12} {:>10}", "", "ratio", "encode GB/s", "decode GB/s", "error");
    for (name, found) in rows {
        let speed = |seconds: fn(&Found) -> f64| bytes as f64 / 1e9 / found.iter().map(seconds).sum::<f64>();
        let (encode, decode) = (speed(|f| f.encode_s), speed(|f| f.decode_s));
        let ratio = bytes as f64 / found.iter().map(|f| f.encoded).sum::<usize>() as f64;
        let error = found.iter().map(|f| f.error).fold(0.0, f64::max);
        println!("{name:<20} {ratio:>7.2} {encode:>12.2} {decode:>12.2} {error:>10.1e}");
    }
}

impl Way {
    fn measure(&self, tensor: &Tensor, room: &mut Room) -> Found {
        let (dtype, shape, bytes) = (tensor.dtype(), tensor.shape(), tensor.bytes());
        let mut out = Tensor::zeros(dtype, shape).unwrap().into_buffer();
        let mut encoded = vec![0; lz4_flex::block::get_maximum_output_size(bytes.len())];
        let (encode_s, decode_s);
        match self {
            Way::Copy => {
                encoded.truncate(bytes.len());
                encode_s = time(|| encoded.copy_from_slice(bytes));
                decode_s = time(|| out.as_mut_bytes().copy_from_slice(&encoded));
            }
            Way::Lz4Flex => {
                let mut len = 0;
                encode_s = time(|| len = lz4_flex::block::compress_into(bytes, &mut encoded).unwrap());
                encoded.truncate(len);
                decode_s = time(|| {
                    lz4_flex::block::decompress_into(&encoded, out.as_mut_bytes()).unwrap();
                });
            }
            Way::Codec(codec) => {
                encode_s = time(|| {
                    black_box(codec.encode(tensor.view(), room).unwrap());
                });
                encoded = codec.encode(tensor.view(), room).unwrap().to_vec();
                decode_s = time(|| codec.decode(&encoded, dtype, shape, out.as_mut_bytes(), room).unwrap());
            }
        }
        let back = Tensor::from_buffer(dtype, shape, out).unwrap();
        Found { encoded: encoded.len(), error: error(tensor, &back), encode_s, decode_s }
    }
}

/// Seconds of one call, in the mean of as many as it takes to measure.
fn time(mut call: impl FnMut()) -> f64 {
    call();
    let (start, mut calls) = (Instant::now(), 0);
    while start.elapsed() < LEAST {
        call();
        calls += 1;
    }
    start.elapsed().as_secs_f64() / f64::from(calls)
}

/// The largest difference, as a share of the range of what was sent.
fn error(sent: &Tensor, got: &Tensor) -> f64 {
    let (sent, got) = (sent.as_slice::<f32>().unwrap(), got.as_slice::<f32>().unwrap());
    let least = sent.iter().copied().fold(f32::INFINITY, f32::min);
    let range = sent.iter().map(|value| value - least).fold(f32::MIN_POSITIVE, f32::max);
    let differences = sent.iter().zip(got).map(|(sent, got)| f64::from((sent - got).abs()));
    differences.fold(0.0, f64::max) / f64::from(range)
}

fn zeros(tensors: &[Tensor]) -> f64 {
    let all: Vec<&[f32]> = tensors.iter().map(|tensor| tensor.as_slice().unwrap()).collect();
    let all = all.concat();
    100.0 * all.iter().filter(|value| **value == 0.0).count() as f64 / all.len() as f64
}

/// Tensors under a heading.
type Group = (String, Vec<Tensor>);

#[expect(
    clippy::disallowed_methods,
    reason = "a bench is called by people; there is no command line to name a folder"
)]
fn activations() -> Vec<Group> {
    match std::env::var_os("DEFER_ACTIVATIONS") {
        Some(folder) => read_all(Path::new(&folder)),
        None => [[1, 256, 28, 28], [1, 256, 56, 56]]
            .map(|shape| (format!("made, {}", Shape::from(shape)), vec![feature_map(shape)]))
            .into(),
    }
}

/// By the width of their last axis.
fn read_all(folder: &Path) -> Vec<Group> {
    let mut groups = std::collections::BTreeMap::<usize, Vec<Tensor>>::new();
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "npy")) {
        let tensor = read(file);
        groups.entry(tensor.shape().dims().last().copied().unwrap_or(1)).or_default().push(tensor);
    }
    assert!(!groups.is_empty(), "there are no .npy files in {}", folder.display());
    groups.into_iter().rev().map(|(width, tensors)| (format!("{width} wide"), tensors)).collect()
}

/// One array as numpy's `save` writes it: little-endian `f32`, in row-major order.
fn read(file: &Path) -> Tensor {
    let bytes = fs::read(file).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00", "{} is no .npy file of version 1", file.display());
    let (head, data) = bytes[10..].split_at(usize::from(u16::from_le_bytes([bytes[8], bytes[9]])));
    let head = str::from_utf8(head).unwrap();
    let plain = head.contains("'descr': '<f4'") && head.contains("'fortran_order': False");
    assert!(plain, "{} holds no row-major f32 values: {head}", file.display());
    let dims = head.split_once('(').and_then(|(_, rest)| rest.split_once(')')).unwrap().0;
    let dims: Vec<usize> = dims.split(',').filter_map(|dim| dim.trim().parse().ok()).collect();
    let values: Vec<f32> = data.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect();
    Tensor::from_slice(Shape::new(&dims).unwrap(), &values).unwrap()
}

/// ReLU of noise that is blurred in each channel, of its own scale, a fifth of it below zero.
fn feature_map([batch, channels, height, width]: [usize; 4]) -> Tensor {
    let mut rng = Rng::with_seed(1);
    let mut values = Vec::new();
    for _ in 0..batch * channels {
        let mut map: Vec<f32> = (0..height * width).map(|_| rng.f32() - 0.5).collect();
        for _ in 0..2 {
            let at = |y: usize, x: usize| map[y.min(height - 1) * width + x.min(width - 1)];
            let blurred = |i: usize| {
                let (y, x) = (i / width, i % width);
                let rows = [y.saturating_sub(1), y, y + 1]
                    .map(|y| at(y, x.saturating_sub(1)) + at(y, x) + at(y, x + 1));
                rows.iter().sum::<f32>() / 9.0
            };
            map = (0..map.len()).map(blurred).collect();
        }
        let deviation = (map.iter().map(|v| v * v).sum::<f32>() / map.len() as f32).sqrt();
        let scale = (rng.f32() + rng.f32() + 0.1) / deviation;
        // A fifth of a normal distribution is 0.84 deviations below the middle.
        values.extend(map.iter().map(|value| ((value + 0.84 * deviation) * scale).max(0.0)));
    }
    Tensor::from_slice([batch, channels, height, width].into(), &values).unwrap()
}
