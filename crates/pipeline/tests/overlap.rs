//! A stage receives, computes and sends different items at the same time.

use std::hint::black_box;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use engine::{Outputs, RunError, Session};
use pipeline::node::stage::{Span, Stage, StageSetup, Step};
use pipeline::transport::{Checksums, FrameReader, FrameWriter, Received, tune};
use tensor::{DType, Shape, Tensor, TensorSpec, TensorView};
use wire::control::Route;
use wire::{CodecId, Header, Kind};

const ITEMS: u64 = 60;
/// Three times what the socket holds: sending takes as long as the receiver takes to read.
const ITEM_LEN: usize = 3 << 20;
const COMPUTE: Duration = Duration::from_millis(4);

/// Computes for a while. The item passes through.
struct Busy;

impl Session for Busy {
    fn inputs(&self) -> &[TensorSpec] {
        &[]
    }

    fn outputs(&self) -> &[TensorSpec] {
        &[]
    }

    fn run(&mut self, _: &[TensorView<'_>]) -> Result<Box<dyn Outputs>, RunError> {
        let start = Instant::now();
        let mut x = 0u64;
        while start.elapsed() < COMPUTE {
            (0..1000).for_each(|i| x = black_box(x.wrapping_mul(31).wrapping_add(i)));
        }
        Ok(Box::new(Busy))
    }
}

impl Outputs for Busy {
    fn view(&self, index: usize) -> TensorView<'_> {
        panic!("there is no output {index}")
    }
}

/// On a busy machine a thread may miss its turn for the length of an item, so the best of a few runs counts; a
/// stage that does one thing after the other shows no overlap in any of them.
const RUNS: usize = 5;

#[test]
fn receiving_computing_and_sending_of_different_items_overlap() {
    let shares: Vec<(f64, f64)> = (0..RUNS).map(|_| overlaps(&run())).collect();
    let enough = |&(received, sent): &(f64, f64)| received >= 0.9 && sent >= 0.9;
    assert!(
        shares.iter().any(enough),
        "shares of items computed while a later one was received, and one before was sent: {shares:?}"
    );
}

/// The shares of items that were computed while a later one was received, and while the one before was sent.
fn overlaps(spans: &[Span]) -> (f64, f64) {
    let of = |step: Step, sequence: u64| -> &Span {
        spans.iter().find(|s| s.step == step && s.sequence == sequence).expect("every step is traced")
    };
    let meet = |a: &Span, b: &Span| a.start < b.end && b.start < a.end;
    // An item may wait in the queue before compute, so what is received meanwhile may be one or two later.
    let later = |n: u64| n + 1..(n + 4).min(ITEMS);
    let received = |&n: &u64| later(n).any(|m| meet(of(Step::Receive, m), of(Step::Compute, n)));
    let sent = |&n: &u64| meet(of(Step::Send, n - 1), of(Step::Compute, n));
    // One thread each: a step never overlaps itself.
    for step in [Step::Receive, Step::Compute, Step::Send] {
        assert!((1..ITEMS).all(|n| of(step, n - 1).end <= of(step, n).start));
    }
    let items = 1..ITEMS - 4;
    let share = |with: &dyn Fn(&u64) -> bool| {
        items.clone().filter(with).count() as f64 / items.clone().count() as f64
    };
    (share(&received), share(&sent))
}

/// Sends the items through a stage; gives its trace.
fn run() -> Vec<Span> {
    let spec = TensorSpec::fixed("x", DType::U8, Shape::from([ITEM_LEN]));
    let (producer, input) = connection();
    let (output, consumer) = connection();
    let (trace, spans) = bounded(3 * ITEMS as usize);
    let setup = StageSetup {
        session: Box::new(Busy),
        input,
        output,
        epoch: 1,
        inputs: vec![spec.clone()],
        outputs: vec![spec.clone()],
        feeds: vec![],
        routes: vec![Route::Passed(0)],
        codec_in: CodecId::Raw,
        codec_out: CodecId::Raw,
        checksums: Checksums::On,
        max_tensor_len: ITEM_LEN,
        trace: Some(trace),
    };
    let (ended, end) = bounded(1);
    let stage = Stage::start(setup, move |reason| ended.send(reason).unwrap()).unwrap();
    let send = move || {
        let item = Tensor::zeros(DType::U8, Shape::from([ITEM_LEN])).unwrap();
        let mut writer = FrameWriter::new(producer, CodecId::Raw, Checksums::On);
        for sequence in 0..ITEMS {
            writer.send(&Header { kind: Kind::Item, epoch: 1, sequence }, &[item.view()]).unwrap();
        }
    };
    let sender = std::thread::spawn(send);
    let mut reader = FrameReader::new(consumer, vec![spec], CodecId::Raw, ITEM_LEN);
    let mut buffers = reader.buffers();
    for sequence in 0..ITEMS {
        let received = reader.receive(&mut buffers).unwrap().0;
        assert_eq!(received, Received::Item(Header { kind: Kind::Item, epoch: 1, sequence }));
    }
    sender.join().unwrap();
    assert_eq!(end.recv_timeout(Duration::from_secs(10)), Ok(None));
    stage.stop();
    spans.try_iter().collect()
}

fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let far = listener.accept().unwrap().0;
    tune(&near).unwrap();
    tune(&far).unwrap();
    (near, far)
}
