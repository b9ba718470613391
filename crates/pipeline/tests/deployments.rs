//! Deployments: what is shipped, what is refused and why, several on the same nodes.

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use common::compose::{Run, compare};
use common::engines::rten;
use common::gate::Gate;
use common::wrapped::wrapped;
use common::{Nodes, at_cuts, config, deploy, join, small_model, start, start_with, vendored_model};
use graph::Model;
use pipeline::{Node, Options, Pipeline, Prepared, SplitOptions, arbitrary_item};
use tensor::{Shape, Tensor};

/// A cut of the model `resnet20_mnist` about half way.
const MIDDLE: &str = "functional_1/re_lu_8_1/Relu:0";

fn resnet20() -> Model {
    vendored_model("resnet20_mnist.onnx")
}

fn assert_right(model: &Model, pipeline: &Pipeline) {
    let item = arbitrary_item(model.inputs());
    let expected = Run::full(&*rten()).whole(model, &item);
    let difference = compare(&expected, &pipeline.infer(item).unwrap());
    assert!(difference.relative <= 1e-5, "{difference}");
}

/// Two nodes, each with a cache of its own.
fn apart(test: &str) -> Nodes {
    start_with(test, 2, |i, config| config.cache = config.cache.join(i.to_string()))
}

/// A session that is there until it was dropped, which takes a while.
struct Lingering(Arc<AtomicUsize>);

impl Drop for Lingering {
    #[expect(clippy::disallowed_methods, reason = "as under a CPU quota, where it is stopped")]
    fn drop(&mut self) {
        std::thread::sleep(Duration::from_millis(300));
        self.0.fetch_sub(1, SeqCst);
    }
}

#[test]
fn a_stage_is_built_once_those_before_it_are_gone() {
    let (living, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count, highest) = (living.clone(), most.clone());
    let engine = wrapped("lingering", move || {
        highest.fetch_max(count.fetch_add(1, SeqCst) + 1, SeqCst);
        let lingering = Lingering(count.clone());
        Box::new(move |session, inputs| {
            let _there = &lingering;
            session.run(inputs)
        })
    });
    let nodes = start_with("lingering", 1, |_, config| config.engine = engine.clone());
    let (cluster, model) = (join(&nodes), resnet20());
    for _ in 0..3 {
        let pipeline = deploy(&model, &cluster, &Options::default()).unwrap();
        assert_right(&model, &pipeline);
    }
    assert_eq!(most.load(SeqCst), 1);
}

#[test]
fn what_nodes_hold_is_not_shipped_again() {
    let mut nodes = apart("again");
    let cluster = join(&nodes);
    let (model, options) = (resnet20(), at_cuts(&[MIDDLE]));
    let first = deploy(&model, &cluster, &options).unwrap();
    let weights: u64 = first.stages().iter().map(|stage| stage.weight_bytes).sum();
    assert!(weights > 500_000);
    assert_eq!(first.shipped().bytes, weights);
    // Beside the first one, and after it.
    let second = deploy(&model, &cluster, &options).unwrap();
    assert_eq!(second.shipped().bytes, 0);
    first.close();
    assert_right(&model, &second);
    second.close();

    // Not to a node that starts anew on the same cache, either; but to one with an empty cache.
    drop(cluster);
    nodes.nodes.clear();
    let restarted = |nodes: &mut Nodes, name: &str, cache: &Path| {
        let mut config = config(nodes, name, rten());
        config.cache = cache.to_owned();
        nodes.nodes.push(Node::start(config).unwrap());
    };
    let caches = [nodes.cache.path().join("0"), nodes.cache.path().join("empty")];
    restarted(&mut nodes, "n0", &caches[0]);
    restarted(&mut nodes, "n1", &caches[1]);
    let third = deploy(&model, &join(&nodes), &options).unwrap();
    assert_eq!(third.shipped().bytes, third.stages()[1].weight_bytes);
    assert_right(&model, &third);
}

#[test]
fn a_damaged_cache_entry_is_fetched_again() {
    let nodes = apart("damaged");
    let cluster = join(&nodes);
    let (model, options) = (resnet20(), at_cuts(&[MIDDLE]));
    deploy(&model, &cluster, &options).unwrap().close();
    let mut damaged = 0;
    for (damage, entry) in fs::read_dir(nodes.cache.path().join("1/objects")).unwrap().take(3).enumerate() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        damaged += bytes.len() as u64;
        match damage {
            0 => bytes[100] ^= 1,
            1 => bytes.truncate(100),
            _ => bytes.clear(),
        }
        // Replaced, not changed: a session that is just being dropped may have the old file mapped.
        fs::remove_file(&path).unwrap();
        fs::write(&path, &bytes).unwrap();
    }
    let pipeline = deploy(&model, &cluster, &options).unwrap();
    assert_eq!(pipeline.shipped().bytes, damaged);
    assert_right(&model, &pipeline);
    pipeline.close();
    assert_eq!(deploy(&model, &cluster, &options).unwrap().shipped().bytes, 0);
}

#[test]
fn deployments_run_side_by_side_and_one_after_the_other() {
    let nodes = start("several", 2);
    let cluster = join(&nodes);
    let (large, small) = (resnet20(), small_model("dynamic"));
    let item = vec![Tensor::from_slice(Shape::from([3, 8]), &[0.5f32; 24]).unwrap()];
    let expected = Run::full(&*rten()).whole(&small, &item);
    for _ in 0..3 {
        let first = deploy(&large, &cluster, &at_cuts(&[MIDDLE])).unwrap();
        let second = deploy(&small, &cluster, &at_cuts(&["second"])).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..5).for_each(|_| assert_right(&large, &first)));
            scope.spawn(|| (0..50).for_each(|_| assert_eq!(second.infer(item.clone()).unwrap(), expected)));
        });
        first.close();
        assert_eq!(second.infer(item.clone()).unwrap(), expected);
        let running = |nodes: &Nodes| -> Vec<usize> {
            join(nodes).nodes().iter().map(|node| node.description.stages.len()).collect()
        };
        assert_eq!(running(&nodes), [1, 1]);
        second.close();
        assert_eq!(running(&nodes), [0, 0]);
        assert!(join(&nodes).nodes().iter().all(|node| node.description.memory_used == 0));
    }
}

#[test]
fn a_stage_beyond_a_nodes_memory_is_refused() {
    let nodes = start_with("memory", 2, |i, config| config.memory = [1 << 30, 100_000][i]);
    let cluster = join(&nodes);
    let (model, options) = (resnet20(), at_cuts(&[MIDDLE]));
    let message = deploy(&model, &cluster, &options).err().expect("it fits").to_string();
    for part in ["device `n1` would need ", "but has 100000 bytes"] {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
    assert!(join(&nodes).nodes().iter().all(|node| node.description.memory_used == 0));
}

#[test]
fn what_a_nodes_engine_would_get_wrong_is_refused_whoever_measured() {
    let nodes = start("misread", 1);
    let cluster = join(&nodes);
    let model = small_model("cubic");
    let refused = deploy(&model, &cluster, &Options::default()).err().unwrap().to_string();
    // An engine of another name, of which nothing bad is known.
    let (gate, other) = Gate::shut();
    gate.pass(usize::MAX);
    let options = Options::default();
    let prepared = Prepared::new(model, "test", &*other, &options.prepare, &|_, _| {}).unwrap();
    let late = Pipeline::deploy_prepared(&prepared, &cluster, &options).err().unwrap().to_string();
    assert!(late.contains("of node `n0`"), "{late}");
    for message in [refused, late] {
        for part in ["`make_y` (Resize): its interpolation is cubic", "engine rten", "defer engine install"] {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
    }
}

#[test]
fn a_node_keeps_its_limit_whatever_a_dispatcher_believes() {
    let limit = 60_000_000;
    let nodes = start_with("limit", 2, |_, config| config.memory = limit);
    // What this cluster knows of the nodes' memory was true before the first deployment.
    let cluster = join(&nodes);
    let model = vendored_model("efficientnet_lite0.onnx");
    let options =
        Options { split: SplitOptions { stages: Some(2), ..SplitOptions::default() }, ..Options::default() };
    let prepared = Prepared::new(model.clone(), "test", &*rten(), &options.prepare, &|_, _| {}).unwrap();
    // A node counts what its whole process takes, which here is also what tests beside this one take: it may
    // refuse the first already.
    let mut running = vec![];
    let message = loop {
        match Pipeline::deploy_prepared(&prepared, &cluster, &options) {
            Ok(pipeline) => running.push(pipeline),
            Err(e) => break e.to_string(),
        }
        assert!(running.len() < 20, "the limit is not kept");
    };
    for part in ["node `n", " of 2", "60.0 MB"] {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
    assert!(join(&nodes).nodes().iter().all(|node| node.description.memory_used <= limit));
    running.iter().for_each(|pipeline| assert_right(&model, pipeline));
}

#[test]
fn manual_cuts_are_kept() {
    let nodes = start("manual", 3);
    let cluster = join(&nodes);
    let cuts = ["functional_1/re_lu_2_1/Relu:0", MIDDLE];
    let pipeline = deploy(&resnet20(), &cluster, &at_cuts(&cuts)).unwrap();
    let inputs: Vec<&str> = pipeline.stages().iter().skip(1).map(|stage| stage.input.as_str()).collect();
    assert_eq!(inputs, cuts);
    assert_right(&resnet20(), &pipeline);
}

#[test]
fn splits_that_cannot_be_are_refused_with_the_reason() {
    let nodes = start("splits", 3);
    let cluster = join(&nodes);
    let stages = |stages| Options {
        split: SplitOptions { stages: Some(stages), ..SplitOptions::default() },
        ..Options::default()
    };
    let check = |model: &Model, options: Options, message: &str| {
        assert_eq!(deploy(model, &cluster, &options).err().expect(message).to_string(), message);
    };
    let resnet20 = resnet20();
    check(
        &resnet20,
        at_cuts(&["functional_1/re_lu_8_1/Relu"]),
        "the model has no cut named `functional_1/re_lu_8_1/Relu`; the closest is `functional_1/re_lu_8_1/Relu:0`",
    );
    check(&resnet20, stages(4), "4 stages need as many devices, but there are only 3");
    check(&small_model("lookup"), stages(5), "5 stages need 4 cuts, but there are only 3: at most 4 stages");
    check(&resnet20, stages(0), "a plan needs at least 1 stage");
}
