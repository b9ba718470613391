//! Writes what crosses the links of a chain as `.npy` files, for benches that know nothing of models: `FOLDER`, then
//! ONNX files. Of each model the tensors behind every eighth of its layers, for one photo where it takes such.
//!
//! Called by `make bench-codecs`. DEFER_ONNXRUNTIME names the library to run the models with; without it the built-in
//! engine does.

#[path = "common/stages.rs"]
mod stages;

use std::path::{Path, PathBuf};

use graph::Model;
use image::imageops::FilterType;
use pipeline::arbitrary_item;
use stages::Stages;
use tensor::{DType, Shape, Tensor, TensorSpec};

const STAGES: usize = 8;

#[expect(clippy::print_stdout, reason = "says what it wrote")]
fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let Some(folder) = arguments.next().map(PathBuf::from) else {
        println!("activations: give a folder and ONNX files; `make bench-codecs` does");
        return;
    };
    std::fs::create_dir_all(&folder).unwrap();
    let engine = stages::engine();
    for path in arguments.map(PathBuf::from) {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let model = Model::load(&path).unwrap();
        let mut written = 0;
        Stages::new(&model, STAGES, &*engine).run(item(model.inputs()), &mut |link, frame| {
            for tensor in frame.iter().filter(|tensor| tensor.dtype() == DType::F32) {
                std::fs::write(folder.join(format!("{name}-{}.npy", link + 1)), npy(tensor)).unwrap();
                written += 1;
            }
            frame
        });
        println!("{written} activations of {name} are in {}", folder.display());
    }
}

/// A photo as the vendored models take it, or as open_nsfw does, which has the channels last; else arbitrary values.
fn item(inputs: &[TensorSpec]) -> Vec<Tensor> {
    let shape = inputs[0].fixed_shape().map(|shape| shape.dims().to_vec()).unwrap_or_default();
    let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/photos/chelsea.png");
    let pixels = || image::open(photo).unwrap().resize_exact(224, 224, FilterType::Triangle).into_rgb8();
    let tensor = |values: Vec<f32>| vec![Tensor::from_slice(Shape::new(&shape).unwrap(), &values).unwrap()];
    match shape[..] {
        [1, 3, 224, 224] => {
            let pixels = pixels();
            let plane = |c: usize| pixels.pixels().map(move |p| (f32::from(p.0[c]) - 127.0) / 128.0);
            tensor((0..3).flat_map(plane).collect())
        }
        [1, 224, 224, 3] => {
            let mean = [104.0, 117.0, 123.0];
            let of = |p: &image::Rgb<u8>| [2, 1, 0].map(|c| f32::from(p.0[c]));
            tensor(
                pixels()
                    .pixels()
                    .flat_map(|p| std::array::from_fn::<_, 3, _>(|c| of(p)[c] - mean[c]))
                    .collect(),
            )
        }
        _ => arbitrary_item(inputs),
    }
}

/// NumPy's format, version 1.
fn npy(tensor: &Tensor) -> Vec<u8> {
    let dims: String = tensor.shape().dims().iter().map(|size| format!("{size}, ")).collect();
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({dims}), }}");
    // With what is before it, a multiple of 64, the last byte being the end of the line.
    while (header.len() + 11) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend_from_slice(&u16::try_from(header.len()).unwrap().to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(tensor.bytes());
    bytes
}
