//! Coarse codecs on a real chain: tried on items, kept where the outputs allow it, taken back where not.

mod common;

use common::engines::rten;
use common::{at_cuts, deploy, join, start, vendored_model};
use graph::Model;
use pipeline::{
    Accuracy, Agreement, CodecTrial, Layout, LayoutStage, Limits, Options, Pipeline, PrepareOptions,
    Prepared, arbitrary_item,
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
        agreement: Agreement { limits, items, halves: false },
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

/// Three devices on links that every byte holds up.
fn slow_links() -> plan::Cluster {
    let devices = ["n0", "n1", "n2"].map(|name| format!("[[device]]\nname = '{name}'\n")).concat();
    plan::Cluster::from_toml(&format!("version = 1\n{devices}[links]\nbandwidth = '1Mbit/s'\n")).unwrap()
}

/// How exact each link is: all carry floats.
fn fidelities(codecs: &[Codec]) -> Vec<Fidelity> {
    codecs.iter().map(|codec| codec.fidelity()).collect()
}

#[test]
fn coarse_codecs_go_where_the_outputs_do_not_allow_them_and_halves_after_them() {
    use Fidelity::{Exact, Half};
    let nodes = start("forbidden", 3);
    let cluster = join(&nodes);
    let model = vendored_model("resnet20_mnist.onnx");
    let items = items(&model, 3);
    // Less than any of the first three links does as bytes.
    let loose = Limits { agreement: 0.0, error: 1.5e-4 };
    for (limits, expected, rounds) in [(loose, Half, 6), (STRICT, Exact, 9)] {
        let described = Options { description: Some(slow_links()), ..options(&[], limits, items.clone()) };
        let pipeline = deploy(&model, &cluster, &described).unwrap();
        let trial = pipeline.codec_trial().unwrap().clone();
        let codecs = pipeline.codecs();
        assert!(trial.of_layout && trial.deviation().within(&limits), "{trial:?}");
        // The answer's ten numbers are worth no codec; what the other links may lose, they lose.
        assert_eq!(fidelities(&codecs)[..3], [expected; 3], "{trial:?}");
        assert!(
            trial.rounds.len() <= rounds,
            "one for each link that lost a codec, and the first: {trial:?}"
        );
        for link in &trial.links {
            assert_eq!(link.chosen, codecs[link.link]);
            assert!(link.tried.fidelity() <= link.chosen.fidelity());
        }
        assert_eq!(trial.links.iter().map(|link| link.link).collect::<Vec<_>>()[..4], [0, 1, 2, 3]);
        assert_eq!(trial.rounds.last().unwrap().0, codecs);
        let found = logits(&pipeline, &items);
        (0..4).for_each(|link| pipeline.recode(link, Codec::RAW).unwrap());
        assert_same(&trial, difference(&logits(&pipeline, &items), &found));
    }
}

#[test]
fn halves_are_tried_by_themselves_where_that_is_asked_for() {
    let nodes = start("halves", 3);
    let cluster = join(&nodes);
    let model = vendored_model("resnet20_mnist.onnx");
    for (halves, limits, tried, used) in
        [(false, STRICT, None, "f16"), (true, ANY, Some(4), "f16"), (true, STRICT, Some(4), "raw")]
    {
        let agreement = Agreement { limits, items: items(&model, 2), halves };
        let options = Options { layout: Some(layout("f16")), agreement, ..Options::default() };
        let pipeline = deploy(&model, &cluster, &options).unwrap();
        assert_eq!(pipeline.codec_trial().map(|trial| trial.links.len()), tried);
        assert_eq!(pipeline.codecs(), vec![codec(used); 4]);
    }
}

/// The figures are worked out here from what the codecs in use make of the tensors at the cuts.
#[test]
fn after_a_trial_the_plan_promises_what_the_codecs_in_use_give() {
    const BYTES_PER_SECOND: f64 = 1e6 / 8.0;
    let nodes = start("promise", 3);
    let cluster = join(&nodes);
    let model = vendored_model("resnet20_mnist.onnx");
    let codecs = [Accuracy::Relaxed.candidates(), vec![codec("u8")]].concat();
    let prepare = PrepareOptions { codecs, ..PrepareOptions::default() };
    let prepared = Prepared::new(model.clone(), "digits", &*rten(), &prepare, &|_, _| {}).unwrap();
    let items = items(&model, 2);
    let run = |limits| {
        let options = Options { description: Some(slow_links()), ..options(&[], limits, items.clone()) };
        let pipeline = Pipeline::deploy_prepared(&prepared, &cluster, &options).unwrap();
        let (used, plan) = (pipeline.codecs(), pipeline.plan().clone());
        // Of an item through the slowest link, which nothing else of this chain is as slow as.
        let bytes = |(hop, &codec): (&plan::Hop, &Codec)| {
            let known = prepared.profile.codecs.iter().find(|figures| figures.codec == codec);
            known.map_or(prepared.profile.boundary_bytes(hop.boundary), |known| known.bytes[hop.boundary])
        };
        let bytes: Vec<u64> = std::iter::zip(&plan.hops, &used).map(bytes).collect();
        assert_eq!(plan.hops.iter().map(|hop| hop.bytes).collect::<Vec<_>>(), bytes, "{used:?}");
        let slowest = *bytes.iter().max().unwrap() as f64 / BYTES_PER_SECOND;
        assert!((plan.period / slowest - 1.0).abs() < 0.01, "{} for {slowest} s", plan.period);
        (used, plan.period)
    };
    let (before, period) = run(ANY);
    assert_eq!(before, vec![codec("u8"); 4]);
    let (after, longer) = run(STRICT);
    assert_eq!(fidelities(&after), [Fidelity::Exact; 4]);
    // A byte for each float, and then the floats.
    assert!((longer / period - 4.0).abs() < 0.1, "{period} s before, {longer} s after");
}

#[test]
fn too_many_alternatives_are_refused_before_anything_is_measured() {
    let nodes = start("alternatives", 1);
    let model = vendored_model("resnet20_mnist.onnx");
    let rates = (1..=16).map(|rate| codec(&format!("zfp-rate{rate}")));
    let options = Options {
        layout: None,
        accuracy: Accuracy::Only(Codec::LZ4),
        alternatives: CodecList::new(rates).unwrap(),
        progress: Some(std::sync::Arc::new(|progress| panic!("{progress:?}"))),
        ..Options::default()
    };
    let error = deploy(&model, &join(&nodes), &options).err().unwrap().to_string();
    assert!(error.contains("name fewer alternatives") && error.contains("17 codecs"), "{error}");
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
    let agreement = Agreement { limits: STRICT, items: vec![], halves: true };
    let named = Options { accuracy: Accuracy::Only(codec("u8")), agreement, ..at_cuts(&CUTS) };
    let pipeline = deploy(&model, &cluster, &named).unwrap();
    assert_eq!((pipeline.codec_trial(), pipeline.codecs()), (None, vec![codec("u8"); 4]));
}
