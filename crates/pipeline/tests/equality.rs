//! The stages of a model, one after the other, give what the whole model gives: within 1e-5 of the largest
//! magnitude of the output, whatever is cut, on both engines.
//!
//! Whole is the model as it came, not simplified. Bit by bit equal are, all held here:
//! - on rten, the stages and the simplified model, everywhere; and the model as it came, but where a
//!   normalisation was folded into weights (ResNet50, MobileNetV2);
//! - on ONNX Runtime with `Optimisation::Reproducible`, the stages and the simplified model, but in BERT-base;
//! - on ONNX Runtime with `Optimisation::Full`, the stages of the int8 models and the model as it came.

mod common;

use std::sync::{Mutex, MutexGuard, PoisonError};

use common::compose::{Difference, Run, Store, balanced, compare, simplify, stages};
use common::engines::{assert_onnxruntime_is_present, engines};
use common::vendored_model;
use engine::{Engine, Optimisation};
use graph::{Cut, Model, zoo};
use tensor::{DType, Dim, Shape, Tensor, TensorSpec};

/// The largest difference that a cut may make, over the largest magnitude of the output.
const TOLERANCE: f64 = 1e-5;

#[test]
fn onnxruntime_is_present() {
    assert_onnxruntime_is_present();
}

/// VGG-19 has 574 MB of weights, and engines make copies: one model at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

macro_rules! models {
    ($($name:ident: $model:expr, $exact:expr;)*) => {
        $(#[test] fn $name() { let _alone = alone(); check(&$model, $exact); })*
    };
}

models! {
    resnet50: zoo("resnet50"), Exact { folded: true, ..EXACT };
    vgg16: zoo("vgg16"), EXACT;
    vgg19: zoo("vgg19"), EXACT;
    mobilenetv2: zoo("mobilenetv2"), Exact { folded: true, ..EXACT };
    vit_b16: zoo("vit-b16"), EXACT;
    bert_base: zoo("bert-base"), Exact { reproducible: false, ..EXACT };
    efficientnet_lite0: vendored_model("efficientnet_lite0.onnx"), EXACT;
    efficientnet_lite0_int8: vendored_model("efficientnet_lite0_int8_qdq.onnx"), Exact { integers: true, ..EXACT };
    resnet20: vendored_model("resnet20_mnist.onnx"), EXACT;
    resnet20_int8: vendored_model("resnet20_mnist_int8_qdq.onnx"), Exact { integers: true, ..EXACT };
}

/// What decides where a model's results are equal bit by bit.
#[derive(Clone, Copy)]
struct Exact {
    /// Simplifying rounds the weights anew.
    folded: bool,
    /// Sums are sums of integers, which have no order.
    integers: bool,
    /// ONNX Runtime's `Reproducible` gives the stages the bits of the whole: seen in every model but BERT-base.
    reproducible: bool,
}

const EXACT: Exact = Exact { folded: false, integers: false, reproducible: true };

fn zoo(name: &str) -> Model {
    zoo::build(name, 1).unwrap()
}

fn check(original: &Model, exact: Exact) {
    for engine in engines() {
        check_on(&*engine, original, exact);
    }
}

fn check_on(engine: &dyn Engine, original: &Model, exact: Exact) {
    let (item, store) = (item(original.inputs()), Store::new());
    let run = Run::full(engine);
    let expected = run.whole(original, &item);
    let mut model = original.clone();
    simplify(&mut model, engine);
    let cuts = model.cuts(4);
    let everywhere = run.measure(&store, &mut model, &cuts, &item);

    let rten = engine.name() == "rten";
    let like_the_original = if rten { !exact.folded } else { exact.integers };
    let holds = |what: &str, found: &[Tensor]| {
        let difference = compare(&expected, found);
        assert!(difference.relative <= TOLERANCE, "{} {what}: {difference}", engine.name());
        assert!(difference.bitwise || !like_the_original, "{} {what}: {difference}", engine.name());
    };
    holds("at every cut", &everywhere);
    let composed = check_splits(run, &store, &model, &cuts, &item, rten || exact.integers);
    composed.iter().for_each(|(count, found)| holds(&format!("in {count}"), found));
    if !rten {
        let run = Run { optimisation: Optimisation::Reproducible, ..run };
        check_splits(run, &store, &model, &cuts, &item, exact.reproducible);
    }

    // One bit of one weight, and the comparisons above notice.
    let positions = balanced(&model, &cuts, 2);
    store.corrupt(&stages(&model, &positions)[0]);
    let difference = compare(&expected, &run.stages(&store, &model, &positions, &item));
    assert!(difference.relative > 10.0 * TOLERANCE && !difference.bitwise, "{}: {difference}", engine.name());
}

/// Compares the model in 2, 4 and 8 stages with the model in one; gives what they gave.
fn check_splits(
    run: Run<'_>,
    store: &Store,
    model: &Model,
    cuts: &[Cut],
    item: &[Tensor],
    bitwise: bool,
) -> Vec<(usize, Vec<Tensor>)> {
    let whole = run.stages(store, model, &[], item);
    let split = |count| {
        let found = run.stages(store, model, &balanced(model, cuts, count), item);
        let difference = compare(&whole, &found);
        let place = format!("{} {:?} in {count}: {difference}", run.engine.name(), run.optimisation);
        assert!(difference.relative <= TOLERANCE && (difference.bitwise || !bitwise), "{place}");
        (count, found)
    };
    std::iter::once((1, whole.clone())).chain([2, 4, 8].map(split)).collect()
}

#[test]
fn every_single_cut_of_resnet20() {
    let _alone = alone();
    for engine in engines() {
        let mut model = vendored_model("resnet20_mnist.onnx");
        let item = item(model.inputs());
        let expected = Run::full(&*engine).whole(&model, &item);
        simplify(&mut model, &*engine);
        // At every position: also those that `Model::cuts` leaves out as worse than one close by.
        for position in 1..model.operators().len() {
            for optimisation in [Optimisation::Full, Optimisation::Reproducible] {
                let run = Run { engine: &*engine, optimisation };
                let found = run.stages_in_memory(&model, &[position], &item);
                let difference = compare(&expected, &found);
                assert!(difference.relative <= TOLERANCE, "{} at {position}: {difference}", engine.name());
                if engine.name() == "rten" {
                    assert!(difference.bitwise, "at {position}: {difference}");
                }
            }
        }
    }
}

#[test]
fn the_comparison_sees_every_difference() {
    let table = |values: [f32; 3]| vec![Tensor::from_slice(Shape::from([3]), &values).unwrap()];
    let integers = |values: [i64; 2]| vec![Tensor::from_slice(Shape::from([2]), &values).unwrap()];
    let check = |a: &[Tensor], b: &[Tensor], relative: f64, bitwise: bool| {
        assert_eq!(compare(a, b), Difference { relative, bitwise });
    };
    let base = table([1.0, -4.0, 0.0]);
    check(&base, &base, 0.0, true);
    check(&base, &table([1.0, -4.0, -0.0]), 0.0, false);
    check(&base, &table([1.0, -4.0, 1.0]), 0.25, false);
    check(&base, &table([1.0, f32::NAN, 0.0]), f64::INFINITY, false);
    check(&base, &table([f32::INFINITY, -4.0, f32::NAN]), f64::INFINITY, false);
    check(&base, &table([f32::NAN, -4.0, f32::INFINITY]), f64::INFINITY, false);
    check(&base, &[], f64::INFINITY, false);
    check(&integers([1, 2]), &integers([1, 2]), 0.0, true);
    check(&integers([1, 2]), &integers([1, 3]), f64::INFINITY, false);
    let reshaped = Tensor::from_slice(Shape::from([1, 3]), &[1f32, -4.0, 0.0]).unwrap();
    check(&base, &[reshaped], f64::INFINITY, false);
}

/// An item that uses all of the model: noise for images, words and a mask with both values for text.
fn item(specs: &[TensorSpec]) -> Vec<Tensor> {
    let mut noise = Noise(1);
    let mut tensor = |spec: &TensorSpec| {
        let size = |dim: &Dim| match dim {
            Dim::Fixed(size) => *size,
            Dim::Symbol(name) if name == "sequence" => 16,
            Dim::Symbol(_) | Dim::Unknown => 1,
        };
        let dims: Vec<usize> = spec.dims.iter().flatten().map(size).collect();
        let shape = Shape::new(&dims).unwrap();
        let elements = 0..shape.elements().unwrap();
        match (spec.dtype, spec.name.as_str()) {
            (DType::F32, _) => {
                Tensor::from_slice(shape, &elements.map(|_| noise.unit()).collect::<Vec<f32>>())
            }
            (_, "input_ids") => {
                Tensor::from_slice(shape, &elements.map(|i| i as i64 * 1999).collect::<Vec<_>>())
            }
            (_, "attention_mask") => {
                Tensor::from_slice(shape, &elements.map(|i| i64::from(i < 12)).collect::<Vec<_>>())
            }
            (_, "token_type_ids") => {
                Tensor::from_slice(shape, &elements.map(|i| i64::from(i > 6)).collect::<Vec<_>>())
            }
            other => panic!("no item for {other:?}"),
        }
        .unwrap()
    };
    specs.iter().map(&mut tensor).collect()
}

/// Numbers between -1 and 1 (a linear congruential generator).
struct Noise(u64);

impl Noise {
    fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}
