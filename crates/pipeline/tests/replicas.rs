//! Stages that several nodes run, items dealt out among them.

mod common;

use std::future::Future;
use std::net::{Shutdown, TcpStream};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use common::compose::Run;
use common::engines::rten;
use common::gate::Gate;
use common::rogue::{EPOCH, Rogue, connect, order};
use common::{Nodes, deploy, in_time, join, small_model, start, start_with, vendored_model};
use graph::Model;
use pipeline::transport::{Checksums, FrameReader, FrameWriter, Received, greet};
use pipeline::{ItemError, Layout, LayoutStage, Options, Pipeline, RecodeError, arbitrary_item};
use std::time::Duration;
use tensor::{DType, Shape, Tensor, TensorSpec};
use wire::control::{Crossing, Hello, Purpose, Request, Response};
use wire::{Codec, CodecList, Header, Kind};

/// Stages given as nodes and the cut at which they end.
fn layout(stages: &[(&[&str], Option<&str>)]) -> Options {
    let stage = |&(nodes, cut): &(&[&str], Option<&str>)| LayoutStage {
        devices: nodes.iter().map(|&name| name.to_owned()).collect(),
        codec: Codec::RAW,
        cut: cut.map(str::to_owned),
    };
    let layout = Layout { stages: stages.iter().map(stage).collect(), result_codec: Codec::RAW };
    Options { layout: Some(layout), ..Options::default() }
}

/// The model `lookup`, whose table has ten rows, over two, one and three nodes.
fn lookup(nodes: &Nodes) -> (Model, Pipeline) {
    let model = small_model("lookup");
    let options =
        layout(&[(&["n0", "n1"], Some("rows")), (&["n2"], Some("picked")), (&["n3", "n4", "n5"], None)]);
    let pipeline = deploy(&model, &join(nodes), &options).unwrap();
    (model, pipeline)
}

fn ids(n: i64) -> Vec<Tensor> {
    vec![Tensor::from_slice(Shape::from([2]), &[n, -n]).unwrap()]
}

fn whole(model: &Model, item: &[Tensor]) -> Vec<Tensor> {
    Run::full(&*rten()).whole(model, item)
}

#[test]
fn items_take_all_paths_and_results_come_in_order() {
    let nodes = start("replicas", 6);
    let (model, pipeline) = lookup(&nodes);
    let places: Vec<(usize, usize)> = pipeline.stages().iter().map(|s| (s.stage, s.replica)).collect();
    assert_eq!(places, [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (2, 2)]);
    let tracing = pipeline.trace().unwrap();
    let pending: Vec<_> = (0..14).map(|n| pipeline.submit(ids(n)).unwrap()).collect();
    for (n, pending) in (0..14).zip(pending) {
        match pending.wait() {
            Ok(result) => assert!(n < 10 && result == whole(&model, &ids(n)), "item {n}"),
            Err(ItemError::Failed(reason)) => assert!(n >= 10, "item {n}: {reason}"),
            Err(other) => panic!("item {n}: {other}"),
        }
    }
    (0..300).for_each(|n| assert_eq!(pipeline.infer(ids(n % 10)).unwrap(), whole(&model, &ids(n % 10))));
    // A stage counts an item once it is sent, which may be a moment after its result is here.
    let all = |items: &[u64]| items.iter().sum::<u64>() == 314;
    let counted = |items: &Vec<u64>| all(&items[..2]) && all(&items[2..3]) && all(&items[3..]);
    let counts = || pipeline.measure().unwrap().iter().map(|stage| stage.items).collect::<Vec<u64>>();
    let counts = (0..1000).map(|_| counts()).find(counted).expect("each item is counted once a stage");
    // One at a time, replicas take turns.
    assert!(counts[..2].iter().all(|&items| items >= 140) && counts[3..].iter().all(|&items| items >= 90));
    let trace = tracing.finish().unwrap();
    let stages: Vec<Option<usize>> = trace.processes.iter().map(|process| process.stage).collect();
    assert_eq!(stages, [None, Some(0), Some(0), Some(1), Some(2), Some(2), Some(2)]);
    let pending: Vec<_> = (0..9).map(|n| pipeline.submit(ids(n)).unwrap()).collect();
    pipeline.close();
    for (n, pending) in (0..9).zip(pending) {
        assert_eq!(pending.wait().unwrap(), whole(&model, &ids(n)), "item {n}, in flight when it was closed");
    }
}

#[test]
fn a_replica_that_stands_still_holds_up_no_more_than_its_own_items() {
    let (gate, engine) = Gate::shut();
    let nodes = start_with("standing-still", 2, |i, config| {
        if i == 0 {
            config.engine = engine.clone();
        }
    });
    let gate = gate; // opens before the nodes stop
    let model = small_model("lookup");
    let options = Options { window: Some(4), ..layout(&[(&["n0", "n1"], None)]) };
    let pipeline = deploy(&model, &join(&nodes), &options).unwrap();
    // Four may be on their way, and four more results wait for older ones. The gated one has the oldest of these eight,
    // so none is handed out, and one more of them at most.
    let pending: Vec<_> = (0..8).map(|n| pipeline.submit(ids(n)).unwrap()).collect();
    let mut next = pin!(pipeline.submit_async(ids(8)));
    let waker = Waker::noop();
    assert!(matches!(next.as_mut().poll(&mut Context::from_waker(waker)), Poll::Pending));
    let done = || pipeline.measure().unwrap().iter().map(|stage| stage.items).collect::<Vec<u64>>();
    let done = (0..100_000).map(|_| done()).find(|items| items[1] >= 6).expect("the other one goes on");
    assert_eq!(done, [0, 6]);
    gate.pass(usize::MAX);
    for (n, pending) in (0..8).zip(pending) {
        assert_eq!(pending.wait().unwrap(), whole(&model, &ids(n)), "item {n}");
    }
}

#[test]
fn a_link_between_replicas_switches_on_all_of_them() {
    let nodes = start("replicas-recode", 4);
    let model = vendored_model("resnet20_mnist.onnx");
    let cut = "functional_1/re_lu_8_1/Relu:0";
    let alternatives = CodecList::new(["bf16".parse().unwrap()]).unwrap();
    let options = Options { alternatives, ..layout(&[(&["n0", "n1"], Some(cut)), (&["n2", "n3"], None)]) };
    let pipeline = deploy(&model, &join(&nodes), &options).unwrap();
    let item = arbitrary_item(model.inputs());
    let sent = || {
        let before: u64 = pipeline.measure().unwrap()[2..].iter().map(|stage| stage.bytes_in).sum();
        (0..8).for_each(|_| drop(pipeline.infer(item.clone()).unwrap()));
        pipeline.measure().unwrap()[2..].iter().map(|stage| stage.bytes_in).sum::<u64>() - before
    };
    let raw = sent();
    pipeline.recode(1, "bf16".parse().unwrap()).unwrap();
    let ratio = raw as f64 / sent() as f64;
    assert!((1.9..=2.0).contains(&ratio), "all eight items travelled in half the bytes: {ratio}");
    assert!(matches!(pipeline.recode(3, Codec::RAW), Err(RecodeError::NoLink { link: 3, last: 2 })));
}

#[test]
fn when_a_replica_stops_every_item_in_flight_learns_which() {
    for stopped in [1, 2, 4] {
        in_time(move || {
            let mut nodes = start(&format!("replica-stopped-{stopped}"), 6);
            let (_, pipeline) = lookup(&nodes);
            pipeline.infer(ids(1)).unwrap();
            nodes.nodes.remove(stopped).stop();
            let stage = [1, 1, 2, 3, 3, 3][stopped];
            let place = format!("node `n{stopped}` (stage {stage} of 3)");
            let broken = std::iter::repeat_with(|| pipeline.infer(ids(1))).find_map(Result::err).unwrap();
            match broken {
                ItemError::Broken(reason) => {
                    assert!(reason.starts_with(&place) && reason.ends_with("is gone"), "{reason}");
                }
                other => panic!("{other:?}"),
            }
        });
    }
}

/// A frame on a path that leads elsewhere is not computed: its result would be doubled, or lost.
#[test]
fn a_frame_on_another_path_ends_the_stage() {
    let nodes = start("paths", 1);
    let node = &nodes.nodes[0];
    let rogue = Rogue::join(&nodes.network, node);
    let crossing = Crossing { paths_before: 2, sources: 2, replicas: 3, replica: 1 };
    for (id, path, good) in [(1, 2, true), (2, 3, true), (3, 0, false), (4, 4, false), (5, 8, true)] {
        rogue.load(node, wire::control::StageOrder { crossing, ..order(id) });
        let attach = |from, purpose| -> TcpStream {
            let hello = Hello { deployment: id, epoch: EPOCH, stage: 0, replica: 1, from, purpose };
            greet(connect(node), &hello, Duration::from_secs(20)).unwrap()
        };
        let sources = [attach(0, Purpose::Inputs), attach(1, Purpose::Inputs)];
        let spec = TensorSpec { name: "y".to_owned(), dtype: DType::F32, dims: None };
        let mut results = FrameReader::new(attach(0, Purpose::Results), vec![spec], Codec::RAW, 1 << 20);
        let header = Header { kind: Kind::Item, epoch: EPOCH, path, sequence: 7 };
        let mut writer = FrameWriter::new(sources[1].try_clone().unwrap(), Codec::RAW, Checksums::On);
        writer.send(&header, &[ids(3)[0].view()]).unwrap();
        let mut buffers = results.buffers();
        if good {
            assert_eq!(results.receive(&mut buffers).unwrap().0, Received::Item(header));
            sources.iter().for_each(|source| source.shutdown(Shutdown::Write).unwrap());
        }
        assert_eq!(results.receive(&mut buffers).unwrap().0, Received::End);
        let ended = std::iter::repeat_with(|| rogue.ask(node, &Request::Measure(id)));
        let ended = ended.take(1000).find(|answer| !matches!(answer, Response::Measured(_)));
        let Some(Response::Refused(reason)) = ended else { panic!("{ended:?}") };
        assert_eq!(reason.contains(&format!("item 7 took path {path}, which does not lead here")), !good);
    }
}
