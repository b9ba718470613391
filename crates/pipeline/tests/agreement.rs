//! Coarse codecs on a real chain: tried on items, kept where the outputs allow it, taken back where not.

mod common;

use common::{at_cuts, deploy, join, start, vendored_model};
use graph::Model;
use pipeline::{
    Accuracy, Agreement, CodecTrial, Layout, LayoutStage, Limits, Options, Pipeline, arbitrary_item,
};
use tensor::Tensor;
use wire::{Codec, CodecList, Fidelity};

const CUTS: [&str; 2] = ["functional_1/re_lu_2_1/Relu:0", "functional_1/re_lu_8_1/Relu:0"];

const STRICT: Limits = Limits { agreement: 1.0, error: 0.0 };
const ANY: Limits = Limits { agreement: 0.0, error: f64::INFINITY };

fn codec(name: &str) -> Codec {
    name.parse().unwrap()
}

/// Items that differ from each other.
fn items(model: &Model, count: usize) -> Vec<Vec<Tensor>> {
    let base = arbitrary_item(model.inputs());
    let item = |n: usize| {
        let values = base[0].as_slice::<f32>().unwrap().iter().map(|v| v * (n as f32 + 1.0) / 3.0);
        vec![Tensor::from_slice(base[0].shape(), &values.collect::<Vec<f32>>()).unwrap()]
    };
    (0..count).map(item).collect()
}

/// Three stages, all of whose links begin with a codec.
fn layout(name: &str) -> Layout {
    let cuts = CUTS.iter().map(|cut| Some((*cut).to_owned())).chain([None]);
    let stage = |(i, cut)| LayoutStage { devices: vec![format!("n{i}")], codec: codec(name), cut };
    Layout { stages: cuts.enumerate().map(stage).collect(), result_codec: codec(name) }
}

fn options(alternatives: &[&str], limits: Limits, items: Vec<Vec<Tensor>>) -> Options {
    Options {
        layout: Some(layout("u8")),
        alternatives: CodecList::new(alternatives.iter().map(|name| codec(name))).unwrap(),
        agreement: Agreement { limits, items },
        ..Options::default()
    }
}

fn logits(pipeline: &Pipeline, items: &[Vec<Tensor>]) -> Vec<f32> {
    let outputs = items.iter().map(|item| pipeline.infer(item.clone()).unwrap());
    outputs.flat_map(|outputs| outputs[0].as_slice::<f32>().unwrap().to_vec()).collect()
}

/// The largest difference, and the same over the range of the expected values.
fn difference(expected: &[f32], found: &[f32]) -> (f64, f64) {
    let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
    let (expected, found) = (wide(expected), wide(found));
    let error = std::iter::zip(&expected, &found).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let largest = expected.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let least = expected.iter().copied().fold(f64::INFINITY, f64::min);
    (error, error / (largest - least))
}

fn assert_same(trial: &CodecTrial, (error, relative): (f64, f64)) {
    let output = &trial.deviation().outputs[0];
    assert_eq!((output.error, output.relative_error), (error, relative));
}

#[test]
fn coarse_codecs_stay_where_the_outputs_allow_it_and_the_error_is_that_of_the_whole_chain() {
    let nodes = start("allowed", 3);
    let model = vendored_model("resnet20_mnist.onnx");
    let items = items(&model, 5);
    let pipeline = deploy(&model, &join(&nodes), &options(&[], ANY, items.clone())).unwrap();
    let trial = pipeline.codec_trial().expect("there are coarse codecs").clone();
    assert_eq!((trial.items, trial.arbitrary, trial.rounds.len(), trial.links.len()), (5, false, 1, 4));
    assert_eq!(pipeline.codecs(), vec![codec("u8"); 4]);
    let coarse = logits(&pipeline, &items);
    for link in &trial.links {
        assert_eq!((link.tried, link.chosen), (codec("u8"), codec("u8")));
        assert!(link.alone.relative_error() > 0.0, "link {} changed nothing", link.link);
        pipeline.recode(link.link, Codec::RAW).unwrap();
    }
    let exact = logits(&pipeline, &items);
    assert_same(&trial, difference(&exact, &coarse));
    // One link alone, as the trial had it.
    pipeline.recode(2, codec("u8")).unwrap();
    let (error, _) = difference(&exact, &logits(&pipeline, &items));
    assert_eq!(trial.links[2].alone.outputs[0].error, error);
}

#[test]
fn coarse_codecs_go_where_the_outputs_do_not_allow_them() {
    let nodes = start("forbidden", 3);
    let cluster = join(&nodes);
    let model = vendored_model("resnet20_mnist.onnx");
    let items = items(&model, 3);
    for (alternatives, inner) in [(&["u8+lz4", "bf16", "lz4"][..], "bf16"), (&[], "raw")] {
        let pipeline = deploy(&model, &cluster, &options(alternatives, STRICT, items.clone())).unwrap();
        let trial = pipeline.codec_trial().unwrap().clone();
        assert_eq!(trial.rounds.len(), 5, "one for each link that lost its codec, and the first");
        let codecs = pipeline.codecs();
        assert!(codecs.iter().all(|codec| codec.fidelity() != Fidelity::Coarse), "{codecs:?}");
        assert_eq!(codecs[1..3], [codec(inner); 2], "the smallest that is not coarse");
        let chosen: Vec<Codec> = trial.links.iter().map(|link| link.chosen).collect();
        assert_eq!((&chosen, &trial.rounds[4].0), (&codecs, &codecs));
        let found = logits(&pipeline, &items);
        (0..4).for_each(|link| pipeline.recode(link, Codec::RAW).unwrap());
        assert_same(&trial, difference(&logits(&pipeline, &items), &found));
    }
}

#[test]
fn without_items_arbitrary_ones_are_tried_and_without_coarse_codecs_none() {
    let nodes = start("arbitrary", 3);
    let cluster = join(&nodes);
    let model = vendored_model("resnet20_mnist.onnx");
    let pipeline = deploy(&model, &cluster, &options(&[], ANY, vec![])).unwrap();
    let trial = pipeline.codec_trial().unwrap();
    assert!(trial.arbitrary && trial.items > 1, "{trial:?}");
    drop(pipeline);
    let near = Options { layout: Some(layout("bf16")), ..options(&["u8"], STRICT, vec![]) };
    let pipeline = deploy(&model, &cluster, &near).unwrap();
    assert_eq!((pipeline.codec_trial(), pipeline.codecs()), (None, vec![codec("bf16"); 4]));
    drop(pipeline);
    // Whoever names a codec for all links gets it.
    let agreement = Agreement { limits: STRICT, items: vec![] };
    let named = Options { accuracy: Accuracy::Only(codec("u8")), agreement, ..at_cuts(&CUTS) };
    let pipeline = deploy(&model, &cluster, &named).unwrap();
    assert_eq!((pipeline.codec_trial(), pipeline.codecs()), (None, vec![codec("u8"); 4]));
}
