//! Layouts: exactly what was written down is deployed, and what cannot be is named.

mod common;

use common::engines::rten;
use common::{deploy, join, start, vendored_model};
use pipeline::{Coding, Layout, LayoutStage, Options, PrepareOptions, Prepared, arbitrary_item};
use plan::{Device, Resources};
use wire::Codec;

const CUTS: [&str; 2] = ["functional_1/re_lu_2_1/Relu:0", "functional_1/re_lu_12_1/Relu:0"];

fn stage(devices: &[&str], cut: Option<&str>) -> LayoutStage {
    let devices = devices.iter().map(|&name| name.to_owned()).collect();
    LayoutStage { devices, codec: Codec::RAW, cut: cut.map(str::to_owned) }
}

fn layout(stages: Vec<LayoutStage>) -> Layout {
    Layout { stages, result_codec: Codec::LZ4 }
}

#[test]
fn a_layout_is_deployed_as_it_is() {
    let nodes = start("layout", 3);
    let cluster = join(&nodes);
    let model = vendored_model("resnet20_mnist.onnx");
    // Neither the order nor the cut is what a planner would choose.
    let first = LayoutStage { codec: Codec::LZ4, ..stage(&["n2"], Some(CUTS[0])) };
    let given = layout(vec![first, stage(&["n0"], None)]);
    let options = Options { layout: Some(given.clone()), ..Options::default() };
    let pipeline = deploy(&model, &cluster, &options).unwrap();
    let names: Vec<&str> = pipeline.stages().iter().map(|s| s.node.description.name.as_str()).collect();
    assert_eq!(names, ["n2", "n0"]);
    assert_eq!(pipeline.codecs(), [Codec::LZ4, Codec::RAW, Codec::LZ4]);
    let item = arbitrary_item(model.inputs());
    let single =
        deploy(&model, &cluster, &Options { layout: Some(layout(vec![stage(&["n1"], None)])), ..options });
    let (chain, whole) = (pipeline.infer(item.clone()).unwrap(), single.unwrap().infer(item).unwrap());
    let values = |outputs: &[tensor::Tensor]| outputs[0].view().as_slice::<f32>().unwrap().to_vec();
    for (a, b) in std::iter::zip(values(&chain), values(&whole)) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}

#[test]
fn a_layout_and_its_assignment_say_the_same() {
    let model = vendored_model("resnet20_mnist.onnx");
    let prepared = Prepared::new(model, "digits", &*rten(), &PrepareOptions::default(), &|_, _| {}).unwrap();
    let devices = ["a", "b", "c"].map(|name| Device::of_speed(name, 1.0));
    let coding = Coding::default();
    let fresh = || prepared.problem(Resources::on_free_links(devices.to_vec()), &coding);

    let given = layout(vec![stage(&["c", "a"], Some(CUTS[0])), stage(&["b"], None)]);
    let mut problem = fresh();
    let assignment = given.assignment(&prepared, &coding, &mut problem).unwrap();
    assert_eq!(assignment.stages[0].devices, [2, 0]);
    assert_eq!(problem.codecs.iter().map(|codec| codec.name.as_str()).collect::<Vec<_>>(), ["raw", "lz4"]);
    let plan = plan::predict(&problem, &assignment).unwrap();
    assert_eq!(Layout::of(&prepared, &problem, &plan), given);

    let end = || stage(&["b"], None);
    for (stages, expected) in [
        (vec![], "the layout has no stage"),
        (vec![stage(&[], None)], "stage 1 of the layout has no device"),
        (
            vec![stage(&["d"], None)],
            "stage 1 of the layout is for device `d`, which is not there; there are a, b, c",
        ),
        (
            vec![stage(&["b"], Some(CUTS[0])), end()],
            "stage 2 of the layout is for device `b`, which has one already",
        ),
        (
            vec![stage(&["a"], None), end()],
            "stage 1 of the layout names no cut at which it ends, but is not the last",
        ),
        (
            vec![stage(&["a"], Some("relu")), end()],
            "stage 1 of the layout: the model has no cut named `relu`",
        ),
        (vec![stage(&["a"], Some(CUTS[0]))], "stage 1 of the layout is the last, but ends at cut"),
        (
            vec![stage(&["a"], Some(CUTS[1])), stage(&["c"], Some(CUTS[0])), end()],
            "stage 2 of the layout ends at cut `functional_1/re_lu_2_1/Relu:0`, which does not lie behind",
        ),
    ] {
        let error = layout(stages).assignment(&prepared, &coding, &mut fresh()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}
