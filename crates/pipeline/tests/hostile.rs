//! Nodes under hostile bytes: they stay up, turn away what does not belong, and their other work goes on.

mod common;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use common::compose::Run;
use common::engines::rten;
use common::rogue::{EPOCH, Rogue, attach, connect, order};
use common::{Nodes, deploy, join, small_model, start};
use pipeline::transport::{Checksums, FrameReader, FrameWriter, Received};
use pipeline::{Options, Pipeline, SplitOptions};
use tensor::{DType, Shape, Tensor, TensorSpec};
use wire::control::{
    self, DeploymentId, Hello, ProbeOrder, Purpose, RecodeOrder, Request, Response, StageOrder, TimeOrder,
};
use wire::{Codec, Header, Kind};

/// A pipeline over the first two nodes that must work whatever else happens to them.
struct Victim {
    pipeline: Pipeline,
    item: Vec<Tensor>,
    expected: Vec<Tensor>,
}

impl Victim {
    fn deploy(nodes: &Nodes) -> Victim {
        let model = small_model("dynamic");
        let split = SplitOptions { stages: Some(2), ..SplitOptions::default() };
        let pipeline = deploy(&model, &join(nodes), &Options { split, ..Options::default() }).unwrap();
        let item = vec![Tensor::from_slice(Shape::from([3, 8]), &[0.25f32; 24]).unwrap()];
        let expected = Run::full(&*rten()).whole(&model, &item);
        Victim { pipeline, item, expected }
    }

    fn assert_works(&self) {
        assert_eq!(self.pipeline.infer(self.item.clone()).unwrap(), self.expected);
    }
}

/// The deployment that a node runs, as the names of its folders tell.
fn deployment(nodes: &Nodes) -> DeploymentId {
    let entries = |path| fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
    let mut folders = entries(nodes.cache.path().join("work")).flat_map(|process| entries(process.path()));
    let id = folders.find_map(|folder| u128::from_str_radix(folder.file_name().to_str()?, 16).ok());
    id.expect("a deployment has a folder")
}

/// A greeting as it goes over the wire.
fn greeting(hello: &Hello) -> Vec<u8> {
    let body = control::encode(hello);
    [&(body.len() as u32).to_le_bytes()[..], &body].concat()
}

#[test]
fn greetings_that_are_none_are_closed_or_refused() {
    let nodes = start("greetings", 2);
    let victim = Victim::deploy(&nodes);
    let id = deployment(&nodes);
    for (stage, node) in (0..).zip(&nodes.nodes) {
        let (replica, from) = (0, 0);
        let good = Hello { deployment: id, epoch: 1, stage, replica, from, purpose: Purpose::Inputs };
        let mut other_version = greeting(&good);
        other_version[4] = 77;
        let mut longer = greeting(&good);
        longer[0] += 1;
        longer.push(0);
        let cases: Vec<(&str, Vec<u8>, &str)> = vec![
            ("nothing", vec![], ""),
            ("garbage", b"GET / HTTP/1.1\r\nHost: node\r\n\r\n".to_vec(), ""),
            ("zeros", vec![0; 64], ""),
            ("an endless greeting", [&u32::MAX.to_le_bytes()[..], &[7; 1 << 16]].concat(), ""),
            ("half a greeting", greeting(&good)[..9].to_vec(), ""),
            ("another version", other_version, ""),
            ("bytes after the greeting's end", longer, ""),
            ("a stranger", greeting(&Hello { deployment: id ^ 1, ..good }), "no such deployment"),
            ("another stage", greeting(&Hello { stage: stage + 1, ..good }), "not stage"),
            ("another replica", greeting(&Hello { replica: 1, ..good }), "not replica"),
            ("from nobody", greeting(&Hello { from: 1, ..good }), "no such replica"),
            ("an old plan", greeting(&Hello { epoch: 0, ..good }), "epoch 0 is not the plan's epoch 1"),
            ("a later plan", greeting(&Hello { epoch: 2, ..good }), "epoch 2 is not the plan's epoch 1"),
            ("a second input", greeting(&good), "already has this connection"),
            ("weights", greeting(&Hello { purpose: Purpose::Weights, ..good }), "no weights are missing"),
        ];
        for (what, bytes, answer) in &cases {
            let mut stream = connect(node);
            // The node may have closed already.
            let _ = stream.write_all(bytes);
            let _ = stream.shutdown(Shutdown::Write);
            let mut answered = Vec::new();
            match stream.read_to_end(&mut answered) {
                Err(e) => assert_eq!(e.kind(), ErrorKind::ConnectionReset, "{what}: {e}"),
                Ok(_) => {
                    let text = String::from_utf8_lossy(&answered);
                    assert!(text.contains(answer) && text.is_empty() == answer.is_empty(), "{what}: {text}");
                }
            }
            victim.assert_works();
        }
    }
    // A connection that says nothing at all, and many of them.
    let silent: Vec<TcpStream> = (0..100).map(|_| connect(&nodes.nodes[0])).collect();
    victim.assert_works();
    drop(silent);
    Victim::deploy(&nodes).assert_works();
}

#[test]
fn requests_that_are_none_are_refused() {
    let nodes = start("requests", 2);
    let victim = Victim::deploy(&nodes);
    let rogue = Rogue::join(&nodes.network, &nodes.nodes[0]);
    let node = &nodes.nodes[0];
    let refused = |response: Response, part: &str| match response {
        Response::Refused(reason) => assert!(reason.contains(part), "`{part}` is not in: {reason}"),
        other => panic!("{part}: {other:?}"),
    };
    let prepare = control::encode(&Request::Prepare(Box::new(order(1))));
    refused(rogue.ask_bytes(node, vec![]), "malformed");
    refused(rogue.ask_bytes(node, vec![control::VERSION; 500]), "malformed");
    refused(rogue.ask_bytes(node, prepare[..prepare.len() / 2].to_vec()), "malformed");
    refused(rogue.ask_bytes(node, vec![99, 0]), "version 99");
    let mut foreign = order(2);
    foreign.feeds = vec![7];
    refused(rogue.ask(node, &Request::Prepare(Box::new(foreign))), "not there");
    let mut greedy = order(3);
    greedy.memory = u64::MAX;
    refused(rogue.ask(node, &Request::Prepare(Box::new(greedy))), "memory");
    let mut broken = order(4);
    broken.skeleton.truncate(100);
    assert!(matches!(rogue.ask(node, &Request::Prepare(Box::new(broken))), Response::Prepared { .. }));
    refused(rogue.ask(node, &Request::Load(4)), "");
    for request in [Request::Load(9), Request::Connect(9), Request::Measure(9)] {
        refused(rogue.ask(node, &request), "no such deployment");
    }
    let recode = |deployment, codec| rogue.ask(node, &Request::Recode(RecodeOrder { deployment, codec }));
    refused(recode(9, Codec::RAW.code()), "no such deployment");
    refused(recode(deployment(&nodes), Codec::LZ4.code()), "codec lz4 is not for this link, which takes raw");
    refused(recode(deployment(&nodes), [0xff; 4]), "codec number [255, 255, 255, 255] is not for this link");
    victim.assert_works();
}

#[test]
fn timing_and_probing_cannot_be_turned_against_a_node() {
    let nodes = start("measuring", 2);
    let victim = Victim::deploy(&nodes);
    let node = &nodes.nodes[0];
    let rogue = Rogue::join(&nodes.network, node);
    let refused = |response: Response, part: &str| match response {
        Response::Refused(reason) => assert!(reason.contains(part), "`{part}` is not in: {reason}"),
        other => panic!("{part}: {other:?}"),
    };
    let time = |deployment, shapes: &[&[u64]]| {
        let shapes = shapes.iter().map(|dims| dims.to_vec()).collect();
        rogue.ask(node, &Request::Time(Box::new(TimeOrder { deployment, shapes })))
    };
    // A stage that runs is not timed under the items of another.
    refused(time(deployment(&nodes), &[&[3, 8]]), "cannot be timed");
    refused(time(9, &[&[1]]), "no such deployment");
    assert!(matches!(rogue.ask(node, &Request::Prepare(Box::new(order(9)))), Response::Prepared { .. }));
    refused(time(9, &[&[1]]), "does not fit");
    assert!(matches!(rogue.ask(node, &Request::Load(9)), Response::Loaded { .. }));
    refused(time(9, &[]), "1 inputs, sizes of 0");
    refused(time(9, &[&[1, 1]]), "must have shape");
    refused(time(9, &[&[1 << 40]]), "larger than was promised");
    refused(time(9, &[&[u64::MAX]]), "");
    for _ in 0..2 {
        assert!(matches!(time(9, &[&[2]]), Response::Timed(time) if time.check().is_ok()));
    }
    let probe = |to: &str| rogue.ask(node, &Request::Probe(ProbeOrder { to: vec![to.parse().unwrap()] }));
    refused(probe("192.0.2.1:9"), "needs --insecure");
    refused(probe("127.0.0.1:1"), "127.0.0.1:1");
    // Whoever holds on to probes keeps others from probing, not from working.
    let attached = || attach(node, 0, 0, Purpose::ProbeTo);
    let mut held: Vec<TcpStream> = (0..4).map(|_| attached().unwrap()).collect();
    assert!(attached().unwrap_err().to_string().contains("4 probes"));
    victim.assert_works();
    let mut one = held.pop().unwrap();
    // The end of a probe is answered, with what a byte took; what follows is none.
    one.write_all(&[0xff; 64 << 10]).unwrap();
    let mut answer = Vec::new();
    let _ = one.read_to_end(&mut answer); // it may be cut off before all was read
    assert!(answer.len() <= size_of::<f64>(), "it is cut off");
    drop((one, held));
    let deadline = Instant::now() + Duration::from_secs(20);
    while attached().is_err() {
        assert!(Instant::now() < deadline, "probes that are over still count");
    }
    victim.assert_works();
}

/// It died, or was killed, before it connected to the stage.
#[test]
fn a_dispatcher_that_leaves_takes_its_stages_with_it() {
    let nodes = start("orphans", 1);
    let node = &nodes.nodes[0];
    let cluster = join(&nodes);
    let rogue = Rogue::join(&nodes.network, node);
    let deadline = Instant::now() + Duration::from_secs(20);
    let dispatcher = loop {
        match rogue.dispatchers().pop() {
            Some(dispatcher) => break dispatcher,
            None => assert!(Instant::now() < deadline, "the dispatcher does not announce itself"),
        }
    };
    rogue.load(node, StageOrder { dispatcher, ..order(1) });
    rogue.load(node, order(2));
    drop(cluster);
    while !matches!(rogue.ask(node, &Request::Measure(1)), Response::Refused(_)) {
        assert!(Instant::now() < deadline, "the stage is still there");
    }
    assert!(matches!(rogue.ask(node, &Request::Measure(2)), Response::Measured(_)), "another's stage stays");
}

#[test]
fn frames_that_do_not_belong_end_their_own_stage_only() {
    let nodes = start("frames", 2);
    let victim = Victim::deploy(&nodes);
    let rogue = Rogue::join(&nodes.network, &nodes.nodes[0]);
    let node = &nodes.nodes[0];
    let ids = |values: &[i64]| Tensor::from_slice(Shape::from([values.len()]), values).unwrap();
    let numbered = |epoch, sequence, tensors: &[Tensor]| {
        let mut bytes = Vec::new();
        let views: Vec<_> = tensors.iter().map(Tensor::view).collect();
        let header = Header { kind: Kind::Item, epoch, path: 0, sequence };
        FrameWriter::new(&mut bytes, Codec::RAW, Checksums::On).send(&header, &views).unwrap();
        bytes
    };
    let good = numbered(EPOCH, 0, &[ids(&[3, 4])]);
    let frame = |epoch, tensors: &[Tensor]| numbered(epoch, 1, tensors);
    let flipped = |position: usize| {
        let mut bytes = good.clone();
        bytes[position] ^= 1;
        bytes
    };
    let text = Tensor::from_slice(Shape::from([2]), &[1f32, 2.0]).unwrap();
    let packed = {
        let mut bytes = Vec::new();
        let header = Header { kind: Kind::Item, epoch: EPOCH, path: 0, sequence: 0 };
        let mut writer = FrameWriter::new(&mut bytes, Codec::LZ4, Checksums::On);
        writer.send(&header, &[ids(&[3, 4]).view()]).unwrap();
        bytes
    };
    let many = vec![ids(&[0]); 64];
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (flipped(0), "not a frame"),
        (flipped(20), "header is damaged"),
        (flipped(good.len() - 1), "tensor 0 of item 0 is damaged"),
        (good[..good.len() - 3].to_vec(), "the link into this stage failed"),
        (frame(EPOCH - 1, &[ids(&[3, 4])]), "a frame of epoch 4 arrived in epoch 5"),
        (frame(EPOCH + 1, &[ids(&[3, 4])]), "a frame of epoch 6 arrived in epoch 5"),
        (packed, "a tensor is encoded as lz4, the plan says raw"),
        (frame(EPOCH, &[text]), "`ids` must be i64, not f32"),
        (frame(EPOCH, &[Tensor::zeros(DType::I64, Shape::from([1, 2])).unwrap()]), "`ids` must have shape"),
        (frame(EPOCH, &many), "holds 64 tensors, the plan says 1"),
        (frame(EPOCH, &[ids(&[0; 129])]), "has 1032 bytes, the limit is 1024"),
        (good.clone(), "item 0 came where item 1 was due"),
        (numbered(EPOCH, 2, &[ids(&[3, 4])]), "item 2 came where item 1 was due"),
    ];
    for (id, (bytes, reason)) in (100..).zip(&cases) {
        rogue.load(node, order(id));
        let mut input = attach(node, id, EPOCH, Purpose::Inputs).unwrap();
        let results = attach(node, id, EPOCH, Purpose::Results).unwrap();
        let mut reader = reader(results);
        // Once it works; then comes the frame that does not belong.
        input.write_all(&good).unwrap();
        let mut buffers = reader.buffers();
        let item = Header { kind: Kind::Item, epoch: EPOCH, path: 0, sequence: 0 };
        assert_eq!(reader.receive(&mut buffers).unwrap().0, Received::Item(item));
        input.write_all(bytes).unwrap();
        input.shutdown(Shutdown::Write).unwrap();
        if let Ok((received, _)) = reader.receive(&mut buffers) {
            assert_eq!(received, Received::End, "{reason}");
        }
        match until_ended(&rogue, &nodes, id) {
            Response::Refused(why) => assert!(why.contains(reason), "`{reason}` is not in: {why}"),
            other => panic!("{reason}: {other:?}"),
        }
        victim.assert_works();
    }
    Victim::deploy(&nodes).assert_works();
}

fn reader(results: TcpStream) -> FrameReader<TcpStream> {
    let spec = TensorSpec { name: "y".to_owned(), dtype: DType::F32, dims: None };
    FrameReader::new(results, vec![spec], Codec::RAW, 1 << 20)
}

/// Asks until the node has noticed that a stage ended: its results end a moment before.
fn until_ended(rogue: &Rogue, nodes: &Nodes, id: DeploymentId) -> Response {
    for _ in 0..1000 {
        match rogue.ask(&nodes.nodes[0], &Request::Measure(id)) {
            Response::Measured(_) => {}
            other => return other,
        }
    }
    panic!("the stage goes on")
}
