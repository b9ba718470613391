//! What packing does to weights: how much it shrinks them and how fast.
//!
//! `cargo bench -p wire --bench weights`. Weights are of normal distributions, of the sizes and spreads of a ResNet50's
//! convolutions, as they are and rounded in the ways of `defer run --weights`, made ternary or pruned. Speeds are GB/s of
//! raw bytes on one thread, the best of rounds.

use std::time::Instant;

use fastrand::Rng;
use wire::weights::{Form, PIECE_LEN, Packer, Unpacker, Width};

/// Sizes of convolutions: their inputs (channels and window) and outputs.
const SIZES: [(usize, usize); 8] =
    [(147, 64), (576, 64), (256, 128), (1152, 128), (512, 1024), (2304, 256), (1024, 2048), (4608, 512)];
const ROUNDS: usize = 7;

fn main() {
    let mut rng = Rng::with_seed(1);
    let plain: Vec<Vec<f32>> = SIZES.map(|(inputs, outputs)| normal(&mut rng, inputs, outputs)).into();
    println(&format!("{:<22} {:>7} {:>12} {:>12}  forms", "", "ratio", "encode GB/s", "decode GB/s"));
    row("memcpy", &plain, |weight| weight.to_vec());
    row("f32", &plain, |weight| weight.to_vec());
    row("bf16", &plain, |weight| weight.iter().map(|v| half::bf16::from_f32(*v).to_f32()).collect());
    row("u8", &plain, steps);
    for zeros in [45, 90] {
        row(&format!("ternary, {zeros} % zeros"), &plain, |weight| ternary(weight, zeros));
    }
    for zeros in [10, 50, 90] {
        row(&format!("f32, {zeros} % zeros"), &plain, |weight| {
            let least = threshold(weight, zeros);
            weight.iter().map(|&value| if value.abs() < least { 0.0 } else { value }).collect()
        });
    }
}

/// Two values of a normal distribution from two of a uniform one (Box and Muller), spread as He initialises them.
fn normal(rng: &mut Rng, inputs: usize, outputs: usize) -> Vec<f32> {
    let spread = (2.0 / inputs as f64).sqrt();
    let mut value = || {
        let (radius, angle) = ((-2.0 * (1.0 - rng.f64()).ln()).sqrt(), std::f64::consts::TAU * rng.f64());
        (spread * radius * angle.cos()) as f32
    };
    (0..inputs * outputs).map(|_| value()).collect()
}

/// 256 steps from the least to the largest value.
fn steps(weight: &[f32]) -> Vec<f32> {
    let (least, most) = weight.iter().fold((f32::MAX, f32::MIN), |(a, b), &v| (a.min(v), b.max(v)));
    let step = (most - least) / 255.0;
    weight.iter().map(|value| least + ((value - least) / step).round() * step).collect()
}

/// The size below which so many hundredths of the values are.
fn threshold(weight: &[f32], percent: usize) -> f32 {
    let mut sizes: Vec<f32> = weight.iter().map(|value| value.abs()).collect();
    let at = sizes.len() * percent / 100;
    *sizes.select_nth_unstable_by(at, f32::total_cmp).1
}

fn ternary(weight: &[f32], zeros: usize) -> Vec<f32> {
    let least = threshold(weight, zeros);
    weight.iter().map(|&v| if v.abs() < least { 0.0 } else { least.copysign(v) }).collect()
}

/// Packs and unpacks all weights, changed by `change`.
fn row(name: &str, plain: &[Vec<f32>], change: impl Fn(&[f32]) -> Vec<f32>) {
    let weights: Vec<Vec<u8>> = plain
        .iter()
        .map(|weight| change(weight).iter().flat_map(|value| value.to_le_bytes()).collect())
        .collect();
    let raw: usize = weights.iter().map(Vec::len).sum();
    let (mut packer, mut unpacker) = (Packer::new(Width::Four), Unpacker::default());
    let mut pieces: Vec<(Form, Vec<u8>)> = Vec::new();
    let mut out = vec![0; PIECE_LEN];
    let (mut encode_s, mut decode_s) = (f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        let mut spent = 0.0;
        pieces.clear();
        for weight in &weights {
            packer.begin(Width::Four);
            for piece in weight.chunks(PIECE_LEN) {
                let start = Instant::now();
                let (form, packed) = if name == "memcpy" {
                    out[..piece.len()].copy_from_slice(piece);
                    (Form::Raw, piece)
                } else {
                    packer.pack(piece)
                };
                spent += start.elapsed().as_secs_f64();
                pieces.push((form, packed.to_vec()));
            }
        }
        encode_s = encode_s.min(spent);
        spent = 0.0;
        let raw_pieces = weights.iter().flat_map(|weight| weight.chunks(PIECE_LEN));
        for ((form, packed), piece) in pieces.iter().zip(raw_pieces) {
            let start = Instant::now();
            unpacker.unpack(*form, packed, &mut out[..piece.len()]).unwrap();
            spent += start.elapsed().as_secs_f64();
            assert_eq!(&out[..piece.len()], piece);
        }
        decode_s = decode_s.min(spent);
    }
    let packed: usize = pieces.iter().map(|(_, packed)| packed.len()).sum();
    let speed = |seconds: f64| raw as f64 / 1e9 / seconds;
    let of = |wanted: fn(&Form) -> bool| pieces.iter().filter(|(form, _)| wanted(form)).count();
    println(&format!(
        "{name:<22} {:>7.2} {:>12.2} {:>12.2}  raw {}, shuffle {}, palette {}, sparse {}",
        raw as f64 / packed as f64,
        speed(encode_s),
        speed(decode_s),
        of(|form| *form == Form::Raw),
        of(|form| matches!(form, Form::Shuffle(_))),
        of(|form| matches!(form, Form::Palette(_))),
        of(|form| matches!(form, Form::Sparse(_))),
    ));
}

#[expect(clippy::print_stdout, reason = "a bench prints its table")]
fn println(line: &str) {
    println!("{line}");
}
