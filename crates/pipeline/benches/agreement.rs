//! What codecs do to answers: trained models cut in stages, every link between two stages with the same codec.
//!
//! ResNet-20 on 2,000 digits and EfficientNet-Lite0 on photos, each whole, in five crops and mirrored. Printed: in how
//! many items the first class is that of the same stages with nothing encoded, how far a logit moves, beside the range
//! of the logits, and how much fewer bytes cross. DEFER_ONNXRUNTIME names the library to run the models with; without
//! it the built-in engine does.

#[path = "common/stages.rs"]
mod stages;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use graph::Model;
use image::imageops::{self, FilterType};
use image::{DynamicImage, RgbImage};
use stages::Stages;
use tensor::{Shape, Tensor};
use wire::{Codec, Room};

const STAGES: [usize; 2] = [4, 8];

/// What the levels come to on a link that is too slow for more: exact, near, relaxed; then what they are made of.
const CODECS: [&str; 7] =
    ["shuffle+zstd1", "f16+shuffle+zstd1", "u8+zstd1", "f16", "bf16", "bf16+shuffle+zstd1", "u8"];

#[expect(clippy::print_stdout, reason = "a bench prints its table")]
fn main() {
    let engine = stages::engine();
    println!("engine {}; against the same stages with raw links", engine.name());
    println!(
        "{:>20} {:>6} {:>6} {:>20} {:>10} {:>16} {:>12} {:>12}",
        "model", "items", "stages", "codec", "same top-1", "largest change", "logit range", "fewer bytes"
    );
    for (name, items) in [("resnet20_mnist", digits()), ("efficientnet_lite0", photos())] {
        let model = Model::load(&models().join(format!("{name}.onnx"))).unwrap();
        for count in STAGES {
            let mut stages = Stages::new(&model, count, &*engine);
            let plain: Vec<Tensor> = items
                .iter()
                .map(|item| stages.run(vec![item.clone()], &mut |_, frame| frame).remove(0))
                .collect();
            for codec in CODECS {
                let row = compare(&mut stages, codec.parse().unwrap(), &items, &plain);
                println!(
                    "{name:>20} {:>6} {count:>6} {codec:>20} {:>9.2}% {:>16.6} {:>12.3} {:>11.2}x",
                    items.len(),
                    row.same as f64 / items.len() as f64 * 100.0,
                    row.change,
                    row.range,
                    row.raw as f64 / row.encoded as f64
                );
            }
        }
    }
}

struct Row {
    same: usize,
    change: f32,
    range: f32,
    raw: usize,
    encoded: usize,
}

fn compare(stages: &mut Stages, codec: Codec, items: &[Tensor], plain: &[Tensor]) -> Row {
    let mut row = Row { same: 0, change: 0.0, range: 0.0, raw: 0, encoded: 0 };
    let mut room = Room::default();
    for (item, plain) in items.iter().zip(plain) {
        let (mut raw, mut encoded) = (0, 0);
        let outputs = stages.run(vec![item.clone()], &mut |_, frame| {
            let cross = |tensor: Tensor| {
                let (dtype, shape) = (tensor.dtype(), tensor.shape());
                let (codec, bytes) = codec.encode_or_wider(tensor.view(), &mut room);
                let bytes = bytes.to_vec();
                (raw, encoded) = (raw + tensor.bytes().len(), encoded + bytes.len());
                let mut out = tensor.into_buffer();
                codec.decode(&bytes, dtype, shape, out.as_mut_bytes(), &mut room).unwrap();
                Tensor::from_buffer(dtype, shape, out).unwrap()
            };
            frame.into_iter().map(cross).collect()
        });
        (row.raw, row.encoded) = (row.raw + raw, row.encoded + encoded);
        let (found, plain) = (outputs[0].as_slice::<f32>().unwrap(), plain.as_slice::<f32>().unwrap());
        row.same += usize::from(best(found) == best(plain));
        let changes = found.iter().zip(plain).map(|(a, b)| (a - b).abs());
        row.change = changes.fold(row.change, f32::max);
        let (least, most) = plain.iter().fold((f32::MAX, f32::MIN), |(l, m), &v| (l.min(v), m.max(v)));
        row.range = row.range.max(most - least);
    }
    row
}

fn best(logits: &[f32]) -> usize {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap()
}

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

/// The digits as the model takes them: values from 0 to 1.
fn digits() -> Vec<Tensor> {
    const LEN: usize = 28 * 28;
    let mut archive = zip::ZipArchive::new(File::open(models().join("mnist_test2000.npz")).unwrap()).unwrap();
    let mut bytes = Vec::new();
    archive.by_name("x.npy").unwrap().read_to_end(&mut bytes).unwrap();
    // Behind the header of the array, whose length is a multiple of 64.
    let pixels = &bytes[bytes.len() - 2000 * LEN..];
    let item = |pixels: &[u8]| {
        let values: Vec<f32> = pixels.iter().map(|&pixel| f32::from(pixel) / 255.0).collect();
        Tensor::from_slice(Shape::from([1, 1, 28, 28]), &values).unwrap()
    };
    pixels.chunks_exact(LEN).map(item).collect()
}

/// Photos as the model takes them: whole, the four corners and the centre at two thirds, all of these mirrored too.
fn photos() -> Vec<Tensor> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(models().join("photos")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut items = Vec::new();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|e| e == "jpg" || e == "png")) {
        let photo = image::open(path).unwrap();
        for view in crops(&photo) {
            items.push(normalised(&view));
            items.push(normalised(&imageops::flip_horizontal(&view)));
        }
    }
    items
}

fn crops(photo: &DynamicImage) -> Vec<RgbImage> {
    const SIDE: u32 = 224;
    let side = photo.width().min(photo.height());
    let square = photo.crop_imm((photo.width() - side) / 2, (photo.height() - side) / 2, side, side);
    let (part, rest) = (side * 2 / 3, side - side * 2 / 3);
    let corners = [(0, 0), (rest, 0), (0, rest), (rest, rest), (rest / 2, rest / 2)];
    let parts = corners.map(|(x, y)| square.crop_imm(x, y, part, part));
    std::iter::once(square.clone())
        .chain(parts)
        .map(|view| view.resize_exact(SIDE, SIDE, FilterType::Triangle).into_rgb8())
        .collect()
}

fn normalised(photo: &RgbImage) -> Tensor {
    let (width, height) = photo.dimensions();
    let value = |channel: usize, pixel: &image::Rgb<u8>| (f32::from(pixel.0[channel]) - 127.0) / 128.0;
    let values: Vec<f32> =
        (0..3).flat_map(|channel| photo.pixels().map(move |pixel| value(channel, pixel))).collect();
    Tensor::from_slice(Shape::from([1, 3, height as usize, width as usize]), &values).unwrap()
}
