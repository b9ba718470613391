//! A model goes through a chain of real nodes.

mod common;

use engine::{Engine, ModelSource, SessionOptions};
use graph::Model;
use pipeline::{Options, Pipeline, SplitOptions, arbitrary_item};
use tensor::Tensor;

fn whole(model: &Model, engine: &dyn Engine, items: &[Vec<Tensor>]) -> Vec<Vec<Tensor>> {
    let bytes = model.to_bytes().unwrap();
    let options = SessionOptions::threads(1);
    let mut session =
        engine.load(ModelSource::Bytes(&bytes), model.inputs(), model.outputs(), &options).unwrap();
    let mut run = |item: &Vec<Tensor>| {
        let views: Vec<_> = item.iter().map(Tensor::view).collect();
        let outputs = session.run(&views).unwrap();
        (0..model.outputs().len()).map(|i| outputs.view(i).to_tensor()).collect()
    };
    items.iter().map(&mut run).collect()
}

fn items(model: &Model, count: usize) -> Vec<Vec<Tensor>> {
    let base = arbitrary_item(model.inputs());
    let vary = |i: usize| {
        let tensor = |t: &Tensor| {
            let values: Vec<f32> =
                t.as_slice::<f32>().unwrap().iter().map(|v| v * (i as f32 + 1.0) / 7.0).collect();
            Tensor::from_slice(t.shape(), &values).unwrap()
        };
        base.iter().map(tensor).collect()
    };
    (0..count).map(vary).collect()
}

fn largest_difference(a: &[Tensor], b: &[Tensor]) -> f32 {
    let differences = a.iter().zip(b).flat_map(|(a, b)| {
        let (a, b) = (a.as_slice::<f32>().unwrap(), b.as_slice::<f32>().unwrap());
        a.iter().zip(b).map(|(a, b)| (a - b).abs())
    });
    differences.fold(0.0, f32::max)
}

#[test]
fn a_chain_of_three_gives_what_the_whole_model_gives_in_order() {
    let nodes = common::start("chain", 3);
    let cluster = common::join(&nodes);
    let model = Model::load(&common::model_path("resnet20_mnist.onnx")).unwrap();
    let engine = common::rten();
    let items = items(&model, 20);
    let expected = whole(&model, &*engine, &items);

    let options = Options { split: SplitOptions { stages: Some(3), cuts: vec![] }, ..Options::default() };
    let pipeline = Pipeline::deploy(model, "resnet20", &*engine, &cluster, &options, &|_| {}).unwrap();
    assert!(pipeline.shipped_bytes() > 100_000);
    let pending: Vec<_> = std::thread::scope(|scope| {
        let submit = || items.iter().map(|item| pipeline.submit(item.clone()).unwrap()).collect();
        scope.spawn(submit).join().unwrap()
    });
    for (pending, expected) in pending.into_iter().zip(&expected) {
        let result = pending.wait().unwrap();
        assert!(largest_difference(&result, expected) < 1e-4);
    }
    let figures = pipeline.measure().unwrap();
    assert!(figures.iter().all(|f| f.items == 20), "{figures:?}");
    pipeline.close();
}
