//! Codecs as they are measured, chosen by the planner and deployed, with real nodes on loopback.

mod common;

use common::engines::rten;
use common::{deploy, join, start, vendored_model};
use pipeline::{
    Accuracy, CalibrateOptions, Costs, Options, PrepareOptions, Prepared, Profile, SplitOptions,
    arbitrary_item, calibrate,
};
use tensor::Tensor;
use wire::{Codec, Fidelity};

/// Two devices on links that every byte holds up.
const SLOW_LINKS: &str = "version = 1\n[[device]]\nname = 'n0'\n[[device]]\nname = 'n1'\n\
                          [links]\nbandwidth = '1Mbit/s'\n";

fn prepared(options: PrepareOptions) -> Prepared {
    Prepared::new(vendored_model("resnet20_mnist.onnx"), "resnet20", &*rten(), &options, &|_, _| {}).unwrap()
}

fn values(outputs: &[Tensor]) -> Vec<f32> {
    outputs.iter().flat_map(|output| output.as_slice::<f32>().unwrap().to_vec()).collect()
}

#[test]
fn the_plan_takes_what_the_accuracy_allows_and_results_are_that_close() {
    let nodes = start("accuracy", 2);
    let cluster = join(&nodes);
    let model = vendored_model("resnet20_mnist.onnx");
    let item = arbitrary_item(model.inputs());
    let description = plan::Cluster::from_toml(SLOW_LINKS).unwrap();
    let run = |accuracy| {
        let split = SplitOptions { stages: Some(2), ..SplitOptions::default() };
        let description = Some(description.clone());
        let options = Options { accuracy, split, description, ..Options::default() };
        let pipeline = deploy(&model, &cluster, &options).unwrap();
        let result = values(&pipeline.infer(item.clone()).unwrap());
        (pipeline.codecs().to_vec(), result)
    };
    let (raw, expected) = run(Accuracy::Only(Codec::RAW));
    assert_eq!(raw, [Codec::RAW; 3]);
    let least = |codecs: &[Codec]| codecs.iter().map(|codec| codec.fidelity()).min();

    let (codecs, exact) = run(Accuracy::Exact);
    assert!(codecs.iter().any(|&codec| codec != Codec::RAW), "nothing is packed: {codecs:?}");
    assert_eq!(least(&codecs), Some(Fidelity::Exact));
    let whole = deploy(&model, &cluster, &Options { split: one_stage(), ..Options::default() }).unwrap();
    let whole = values(&whole.infer(item.clone()).unwrap());

    let range = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let apart =
        |a: &[f32], b: &[f32]| std::iter::zip(a, b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / range;
    // The cut may be another one: engines differ by that much.
    assert!(apart(&exact, &expected) < 1e-5 && apart(&whole, &expected) < 1e-5, "{exact:?} {expected:?}");

    let (codecs, near) = run(Accuracy::Near);
    assert_eq!(least(&codecs), Some(Fidelity::Half), "{codecs:?}");
    let error = apart(&near, &expected);
    assert!(error > 1e-5 && error < 0.03, "{codecs:?}: off by {error}");
}

fn one_stage() -> SplitOptions {
    SplitOptions { stages: Some(1), ..SplitOptions::default() }
}

#[test]
fn lossless_codecs_change_no_bit() {
    let nodes = start("lossless", 2);
    let cluster = join(&nodes);
    let model = vendored_model("resnet20_mnist.onnx");
    let item = arbitrary_item(model.inputs());
    let cut = "functional_1/re_lu_2_1/Relu:0".to_owned();
    let run = |accuracy| {
        let split = SplitOptions { cuts: vec![cut.clone()], ..SplitOptions::default() };
        let pipeline = deploy(&model, &cluster, &Options { accuracy, split, ..Options::default() }).unwrap();
        pipeline.infer(item.clone()).unwrap()
    };
    let raw = run(Accuracy::Only(Codec::RAW));
    for codec in Accuracy::Exact.candidates() {
        assert_eq!(run(Accuracy::Only(codec)), raw, "{codec}");
    }
}

#[test]
fn figures_of_codecs_are_kept_and_added_to() {
    let folder = tempfile::tempdir().unwrap();
    let bf16: Codec = "bf16".parse().unwrap();
    let model = vendored_model("resnet20_mnist.onnx");
    let made_up = arbitrary_item(model.inputs());
    let prepare_with = |samples: &[&Vec<Tensor>], codecs: &[Codec], own_samples, fresh| {
        let options = PrepareOptions {
            store: Some(folder.path().to_owned()),
            codecs: codecs.to_vec(),
            samples: samples.iter().copied().cloned().collect(),
            own_samples,
            fresh,
            ..PrepareOptions::default()
        };
        prepared(options).profile
    };
    let prepare = |codecs: &[Codec], own| prepare_with(&[&made_up], codecs, own, false);
    let first = prepare(&[Codec::RAW, bf16], false);
    assert_eq!(first.codecs.len(), 1, "raw has nothing to measure");
    assert!(first.knows(bf16) && first.knows(Codec::RAW) && !first.knows(Codec::LZ4));
    for (i, &bytes) in first.codecs[0].bytes.iter().enumerate() {
        assert_eq!(bytes, first.boundary_bytes(i) / 2, "boundary {i}");
    }
    let again = prepare(&[bf16], false);
    assert_eq!((again.codecs, again.units), (first.codecs.clone(), first.units.clone()));
    let both = prepare(&[Codec::LZ4, bf16], false);
    assert_eq!(both.units, first.units, "the units are not timed again");
    assert!(both.knows(Codec::LZ4) && both.codecs.contains(&first.codecs[0]));
    // Of the user's own inputs nothing is known yet; what is found then holds for any.
    let own = prepare(&[bf16], true);
    assert_ne!(own.codecs[0].time, first.codecs[0].time);
    assert_eq!(prepare(&[bf16], false).codecs, own.codecs);
    assert_eq!((first.sizes_of_own_inputs(), own.sizes_of_own_inputs()), (Some(false), Some(true)));

    // Nothing is learnt from an array of zeros, nor from what is no number.
    let filled = |value: f32| {
        let shape = made_up[0].shape();
        vec![Tensor::from_slice(shape, &vec![value; shape.elements().unwrap()]).unwrap()]
    };
    let lz4 = |profile: Profile| profile.codecs.into_iter().find(|figures| figures.codec == Codec::LZ4);
    let (zeros, nan) = (filled(0.0), filled(f32::NAN));
    for useless in [&zeros, &nan] {
        let found = lz4(prepare_with(&[useless], &[Codec::LZ4], true, true)).unwrap();
        assert!(!found.own && found.bytes == lz4(both.clone()).unwrap().bytes);
    }
    let found = lz4(prepare_with(&[&zeros, &made_up, &nan], &[Codec::LZ4], true, true)).unwrap();
    assert!(found.own && found.bytes == lz4(both).unwrap().bytes);
    // What is to be found anew is not what was kept, and takes its place.
    let fresh = lz4(prepare_with(&[&made_up], &[Codec::LZ4], false, true)).unwrap();
    assert!(!fresh.own && fresh != found);
    assert_eq!(lz4(prepare(&[Codec::LZ4], false)).unwrap(), fresh);
}

#[test]
fn nodes_time_the_codecs_that_were_tried() {
    let nodes = start("time-codecs", 2);
    let (mut cluster, folder) = (join(&nodes), tempfile::tempdir().unwrap());
    let prepared =
        prepared(PrepareOptions { codecs: Accuracy::Near.candidates(), ..PrepareOptions::default() });
    let tried: Vec<Codec> = prepared.profile.codecs.iter().map(|figures| figures.codec).collect();
    let options = CalibrateOptions { store: Some(folder.path().to_owned()), ..CalibrateOptions::default() };
    let measured = calibrate(&prepared, &mut cluster, &options, &|_, _| {}).unwrap();
    assert_eq!(measured.unknown, [""; 0]);
    for times in measured.nodes.iter().flatten() {
        assert_eq!(times.codecs.iter().map(|factor| factor.codec).collect::<Vec<_>>(), tried);
        // The nodes are this process: a busy machine may make one of them seem slower, but not by an order.
        for factor in &times.codecs {
            let within = |factor: f64| (0.05..20.0).contains(&factor);
            assert!(within(factor.encode) && within(factor.decode), "{factor:?}");
        }
    }
    let again = calibrate(&prepared, &mut cluster, &options, &|_, _| {}).unwrap();
    assert_eq!(again.nodes, measured.nodes, "they are kept");
    let alike = CalibrateOptions { alike: true, ..options };
    let spawned = calibrate(&prepared, &mut cluster, &alike, &|_, _| {}).unwrap();
    assert!(spawned.nodes.iter().flatten().all(|times| times.codecs.is_empty()), "links are no limit there");

    // The planner's costs are those on the model's own tensors, as much longer as the node took.
    let costs = Costs::new(&prepared.profile, cluster.nodes(), None, Some(&measured));
    let mut resources = costs.resources();
    let slow = plan::Link { bandwidth: 1e5, ..plan::Link::FREE };
    resources.links = plan::Links::uniform(2, slow);
    let problem = prepared.problem(resources, &costs.coding(Accuracy::Near));
    let f16 = problem.codecs.iter().find(|codec| codec.name.starts_with("f16")).expect("it pays");
    let position = tried.iter().position(|codec| codec.to_string() == f16.name).unwrap();
    let (figures, factor) =
        (&prepared.profile.codecs[position], measured.nodes[0].as_ref().unwrap().codecs[position]);
    assert_eq!(f16.dispatcher.encode_seconds, figures.time.encode_seconds);
    assert_eq!(f16.devices[0].encode_seconds, figures.time.encode_seconds * factor.encode);
}
