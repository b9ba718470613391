//! Items through a chain of real nodes: what goes in, what comes out, and in what order.

mod common;

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use common::compose::{Run, compare, stages};
use common::engines::rten;
use common::gate::Gate;
use common::{at_cuts, deploy, in_time, join, small_model, start, start_with, vendored_model};
use graph::{Model, Route, Stage};
use pipeline::{Accuracy, ItemError, Options, Pending, PrepareOptions, SplitOptions, arbitrary_item};
use tensor::{DType, Shape, Tensor};
use wire::Codec;

/// Name of a cut of the model `resnet20_mnist` about half way.
const MIDDLE_OF_RESNET20: &str = "functional_1/re_lu_8_1/Relu:0";

/// Items that differ from each other, of a model with one f32 input.
fn items(model: &Model, count: usize) -> Vec<Vec<Tensor>> {
    let base = arbitrary_item(model.inputs());
    let vary = |i: usize| {
        let values: Vec<f32> =
            base[0].as_slice::<f32>().unwrap().iter().map(|v| v * (i as f32 + 1.0) / 7.0).collect();
        vec![Tensor::from_slice(base[0].shape(), &values).unwrap()]
    };
    (0..count).map(vary).collect()
}

/// Item number `n` of the model `dynamic`, with so many rows.
fn rows(n: usize, rows: usize) -> Vec<Tensor> {
    let values: Vec<f32> = (0..8 * rows).map(|i| ((i * 5 + n * 3) % 11) as f32 - 5.0 + n as f32).collect();
    vec![Tensor::from_slice(Shape::from([rows, 8]), &values).unwrap()]
}

fn whole(model: &Model, item: &[Tensor]) -> Vec<Tensor> {
    Run::full(&*rten()).whole(model, item)
}

fn in_stages(stages: usize) -> Options {
    Options { split: SplitOptions { stages: Some(stages), ..SplitOptions::default() }, ..Options::default() }
}

#[test]
fn a_chain_of_three_gives_what_the_whole_model_gives_in_order() {
    let nodes = start("chain", 3);
    let cluster = join(&nodes);
    let model = vendored_model("resnet20_mnist.onnx");
    let items = items(&model, 20);
    let pipeline = deploy(&model, &cluster, &in_stages(3)).unwrap();
    assert!(pipeline.shipped().bytes > 100_000);
    let pending: Vec<_> = items.iter().map(|item| pipeline.submit(item.clone()).unwrap()).collect();
    for (pending, item) in pending.into_iter().zip(&items) {
        let difference = compare(&whole(&model, item), &pending.wait().unwrap());
        assert!(difference.relative <= 1e-5, "{difference}");
    }
    let figures = pipeline.measure().unwrap();
    assert!(figures.iter().all(|f| f.items == 20), "{figures:?}");
    pipeline.close();
}

#[test]
fn several_inputs_and_outputs_of_several_types_take_their_own_ways() {
    let nodes = start("branches", 4);
    let cluster = join(&nodes);
    let model = small_model("branches");
    let item = |n: usize| {
        let table = |shift: usize| rows(n + shift, 2).remove(0);
        let ids = Tensor::from_slice(Shape::from([3]), &[n as i64, 9, 4]).unwrap();
        vec![table(0), table(7), ids]
    };
    for codec in [Codec::RAW, Codec::LZ4] {
        let prepare = PrepareOptions { max_live: 6, ..PrepareOptions::default() };
        let options = Options { prepare, accuracy: Accuracy::Only(codec), ..at_cuts(&BRANCHES_CUTS) };
        let pipeline = deploy(&model, &cluster, &options).unwrap();
        for n in 0..6 {
            assert_eq!(pipeline.infer(item(n)).unwrap(), whole(&model, &item(n)), "{codec}, item {n}");
        }
        pipeline.close();
    }
}

const BRANCHES_CUTS: [&str; 3] = ["flags", "middle", "chosen"];

#[test]
fn the_branches_cross_cuts_as_the_test_above_wants() {
    let model = small_model("branches");
    let cuts = model.cuts(6);
    let position = |name: &&str| cuts.iter().find(|cut| cut.name == **name).unwrap().position;
    let stages = stages(&model, &BRANCHES_CUTS.iter().map(position).collect::<Vec<_>>());
    let crossing = |dtype| stages.iter().skip(1).any(|s| s.inputs.iter().any(|spec| spec.dtype == dtype));
    assert!([DType::F32, DType::I64, DType::Bool].into_iter().all(crossing));
    let passed = |stage: &Stage, name: &str| {
        let route = stage.outputs.iter().position(|spec| spec.name == name).map(|i| stage.routes[i]);
        matches!(route, Some(Route::Passed(_)))
    };
    // Inputs that only the end needs, and an output that only the front computes.
    assert!(passed(&stages[1], "b") && passed(&stages[1], "ids") && passed(&stages[3], "early"));
}

#[test]
fn sizes_may_change_from_item_to_item() {
    let nodes = start("dynamic", 2);
    let cluster = join(&nodes);
    let model = small_model("dynamic");
    for codec in [Codec::RAW, Codec::LZ4] {
        let pipeline =
            deploy(&model, &cluster, &Options { accuracy: Accuracy::Only(codec), ..in_stages(2) }).unwrap();
        for (n, count) in [1, 5, 2, 40, 1].into_iter().enumerate() {
            let result = pipeline.infer(rows(n, count)).unwrap();
            assert_eq!(result[0].shape(), Shape::from([count, count]));
            assert_eq!(result, whole(&model, &rows(n, count)), "{codec}, {count} rows");
        }
        pipeline.close();
    }
}

#[test]
fn what_a_detector_finds_may_change_from_item_to_item() {
    let nodes = start("detector", 2);
    let cluster = join(&nodes);
    let model = small_model("detector");
    // Where the sizes of what crosses depend on the item, and where only those of the results do.
    for cut in ["places", "positive"] {
        let pipeline = deploy(&model, &cluster, &at_cuts(&[cut])).unwrap();
        let counts: Vec<usize> = (0..4)
            .map(|n| {
                let result = pipeline.infer(rows(n, 2)).unwrap();
                assert_eq!(result, whole(&model, &rows(n, 2)), "cut at {cut}, item {n}");
                result[1].shape().dims()[0]
            })
            .collect();
        assert!(counts.iter().any(|&count| count != counts[0]), "{counts:?}: all the same");
        pipeline.close();
    }
}

#[test]
fn compressed_links_give_the_same_bits() {
    let nodes = start("lz4", 2);
    let cluster = join(&nodes);
    let model = vendored_model("resnet20_mnist.onnx");
    let items = items(&model, 4);
    let run = |codec| {
        let options = Options { accuracy: Accuracy::Only(codec), ..at_cuts(&[MIDDLE_OF_RESNET20]) };
        let pipeline = deploy(&model, &cluster, &options).unwrap();
        let results: Vec<_> = items.iter().map(|item| pipeline.infer(item.clone()).unwrap()).collect();
        (results, pipeline.measure().unwrap()[0].bytes_out)
    };
    let ((raw, raw_bytes), (lz4, lz4_bytes)) = (run(Codec::RAW), run(Codec::LZ4));
    assert_eq!(raw, lz4);
    assert!(lz4_bytes < raw_bytes, "{lz4_bytes} bytes of {raw_bytes}: nothing was compressed");
}

#[test]
fn many_submitters_each_get_their_own_results() {
    let nodes = start("submitters", 3);
    let cluster = join(&nodes);
    let model = small_model("dynamic");
    for window in [1, 8] {
        let options = Options { window: Some(window), ..in_stages(3) };
        let pipeline = deploy(&model, &cluster, &options).unwrap();
        thread::scope(|scope| {
            for submitter in 0..6 {
                let (pipeline, model) = (&pipeline, &model);
                scope.spawn(move || {
                    for n in 0..40 {
                        let item = rows(100 * submitter + n, 1 + n % 3);
                        assert_eq!(pipeline.infer(item.clone()).unwrap(), whole(model, &item));
                    }
                });
            }
        });
        let figures = pipeline.measure().unwrap();
        assert!(figures.iter().all(|f| f.items == 240), "{figures:?}");
        pipeline.close();
    }
}

#[test]
fn results_are_handed_out_in_the_order_of_submission() {
    let nodes = start("order", 3);
    let cluster = join(&nodes);
    let model = small_model("dynamic");
    let options = Options { window: Some(30), ..in_stages(3) };
    let pipeline = deploy(&model, &cluster, &options).unwrap();
    let mut pending: Vec<Pending> = (0..30).map(|n| pipeline.submit(rows(n, 1)).unwrap()).collect();
    // When a result is there, those of all items before it must be there, too.
    let last = pending.pop().unwrap().wait().unwrap();
    assert_eq!(last, whole(&model, &rows(29, 1)));
    for (n, pending) in pending.into_iter().enumerate() {
        match poll_once(pending.into_future()) {
            Poll::Ready(result) => assert_eq!(result.unwrap(), whole(&model, &rows(n, 1)), "item {n}"),
            Poll::Pending => panic!("the result of item {n} comes after a later one"),
        }
    }
}

#[test]
fn no_more_items_than_the_window_holds_are_in_flight() {
    let (gate, engine) = Gate::shut();
    let nodes = start_with("window", 2, |i, config| {
        if i == 1 {
            config.engine = engine.clone();
        }
    });
    let gate = gate; // opens before the nodes stop
    let cluster = join(&nodes);
    let model = small_model("dynamic");
    for window in [1, 8] {
        let options = Options { window: Some(window), ..in_stages(2) };
        let pipeline = deploy(&model, &cluster, &options).unwrap();
        let admitted: Vec<_> = (0..window).map(|n| pipeline.submit(rows(n, 1)).unwrap()).collect();
        // The window is full and the gate shut: the next item has to wait, until one result is there.
        let mut next = pin!(pipeline.submit_async(rows(window, 1)));
        assert!(poll_once(next.as_mut()).is_pending(), "window {window}");
        gate.pass(1);
        let mut pending = vec![block_on(next).unwrap()];
        pending.extend(admitted);
        gate.pass(window);
        pending.into_iter().for_each(|pending| drop(pending.wait().unwrap()));
    }
}

#[test]
fn results_can_be_awaited() {
    let nodes = start("async", 2);
    let cluster = join(&nodes);
    let model = small_model("dynamic");
    let pipeline = deploy(&model, &cluster, &Options { window: Some(1), ..in_stages(2) }).unwrap();
    let mut others = vec![];
    for n in 0..20 {
        // With a window of one, submitting waits for the item before, too.
        let pending = block_on(pipeline.submit_async(rows(n, 2))).unwrap();
        others.push((n, pending));
    }
    for (n, pending) in others {
        assert_eq!(block_on(pending.into_future()).unwrap(), whole(&model, &rows(n, 2)));
    }
    assert_eq!(block_on(pipeline.infer_async(rows(7, 3))).unwrap(), whole(&model, &rows(7, 3)));
}

#[test]
fn an_item_that_does_not_fit_is_refused_and_the_chain_goes_on() {
    let nodes = start("unfit", 2);
    let cluster = join(&nodes);
    let model = small_model("dynamic");
    let pipeline = deploy(&model, &cluster, &in_stages(2)).unwrap();
    let table = |dtype, dims: &[usize]| Tensor::zeros(dtype, Shape::new(dims).unwrap()).unwrap();
    for (item, part) in [
        (vec![], "takes 1 inputs, 0 were given"),
        (vec![table(DType::F32, &[1, 8]), table(DType::F32, &[1, 8])], "takes 1 inputs, 2 were given"),
        (vec![table(DType::I32, &[1, 8])], "`x` must be f32, not i32"),
        (vec![table(DType::F32, &[1, 9])], "`x` must have shape"),
        (vec![table(DType::F32, &[8])], "`x` must have shape"),
    ] {
        match pipeline.infer(item) {
            Err(ItemError::Unfit(reason)) => assert!(reason.contains(part), "`{part}` is not in: {reason}"),
            other => panic!("{part}: {other:?}"),
        }
        assert_eq!(pipeline.infer(rows(3, 2)).unwrap(), whole(&model, &rows(3, 2)));
    }
}

#[test]
fn an_item_that_fails_on_the_way_fails_alone() {
    let nodes = start("failing", 3);
    let cluster = join(&nodes);
    let model = small_model("lookup");
    let options = Options { window: Some(16), ..at_cuts(&["rows", "picked"]) };
    let pipeline = deploy(&model, &cluster, &options).unwrap();
    let item = |n: i64| vec![Tensor::from_slice(Shape::from([2]), &[n, -n]).unwrap()];
    // The table has ten rows; the stage in the middle looks them up.
    let pending: Vec<_> = (0..14).map(|n| pipeline.submit(item(n)).unwrap()).collect();
    for (n, pending) in (0..14).zip(pending) {
        match pending.wait() {
            Ok(result) => assert!(n < 10 && result == whole(&model, &item(n)), "item {n}"),
            Err(ItemError::Failed(reason)) => assert!(n >= 10 && reason.contains("make_picked"), "{reason}"),
            Err(other) => panic!("item {n}: {other}"),
        }
    }
    assert_eq!(pipeline.infer(item(5)).unwrap(), whole(&model, &item(5)));
}

#[test]
fn when_a_node_stops_every_item_in_flight_learns_which() {
    for stopped in 0..3 {
        in_time(move || a_node_stops(stopped));
    }
}

fn a_node_stops(stopped: usize) {
    let (gate, engine) = Gate::shut();
    let mut nodes = start_with(&format!("stopped-{stopped}"), 3, |i, config| {
        if i != stopped {
            config.engine = engine.clone();
        }
    });
    let _gate = gate; // opens before the nodes stop
    let cluster = join(&nodes);
    let model = small_model("lookup");
    let options = Options { window: Some(8), ..at_cuts(&["rows", "picked"]) };
    let pipeline = deploy(&model, &cluster, &options).unwrap();
    let item = |n: i64| vec![Tensor::from_slice(Shape::from([1]), &[n]).unwrap()];
    let pending: Vec<_> = (0..8).map(|n| pipeline.submit(item(n)).unwrap()).collect();
    nodes.nodes.remove(stopped).stop();
    let place = format!("node `n{stopped}` (stage {} of 3)", stopped + 1);
    let names_it = |result| match result {
        Err(ItemError::Broken(reason)) => {
            assert!(reason.starts_with(&place) && reason.ends_with("is gone"), "{reason}");
        }
        other => panic!("{other:?}"),
    };
    pending.into_iter().for_each(|pending| names_it(pending.wait()));
    names_it(pipeline.infer(item(1)));
}

/// One look at a future.
fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Waits for a future on this thread.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}
