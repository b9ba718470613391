//! A stage receives, computes and sends different items at the same time.
//!
//! No clock decides: an item stays in the engine until the next one has been received, and then until the one
//! before it has been sent, which the receiver holds up till then. So all three are under way at once, and a stage
//! that did one thing after the other would wait for itself for ever.

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use engine::{Outputs, RunError, Session};
use pipeline::node::stage::{Stage, StageSetup};
use pipeline::transport::{Checksums, FrameReader, FrameWriter, Received, tune};
use pipeline::{Recorder, Span};
use tensor::{DType, Shape, Tensor, TensorSpec, TensorView};
use wire::control::{Crossing, Route, Step};
use wire::{Codec, Header, Kind};

const ITEMS: u64 = 20;
/// Far more than sockets hold: an item is not sent before its receiver reads.
const ITEM_LEN: usize = 16 << 20;
/// Whoever waits so long waits for ever.
const HUNG: Duration = Duration::from_secs(60);

/// An engine that watches the stage it is in. The item passes through.
struct Watching {
    /// The item that is computed next.
    item: u64,
    /// What the stage did, as it says.
    spans: Receiver<Span>,
    seen: Vec<(Step, u64)>,
    /// Told when an item is in the engine and the next one has been received.
    inside: Sender<u64>,
}

impl Watching {
    fn wait_for(&mut self, step: Step, item: u64) -> Result<(), RunError> {
        while !self.seen.contains(&(step, item)) {
            let span = self.spans.recv_timeout(HUNG).map_err(|_| RunError::Engine {
                engine: "watching",
                message: format!("no {step:?} of item {item} while {} was computed", self.item),
            })?;
            self.seen.push((span.step, span.sequence));
        }
        Ok(())
    }
}

impl Session for Watching {
    fn inputs(&self) -> &[TensorSpec] {
        &[]
    }

    fn outputs(&self) -> &[TensorSpec] {
        &[]
    }

    fn run(&mut self, _: &[TensorView<'_>]) -> Result<Box<dyn Outputs>, RunError> {
        let item = self.item;
        if item + 1 < ITEMS {
            self.wait_for(Step::Receive, item + 1)?;
        }
        self.inside.send(item).expect("the receiver lives");
        if item > 0 {
            self.wait_for(Step::Send, item - 1)?;
        }
        self.item += 1;
        Ok(Box::new(Nothing))
    }
}

struct Nothing;

impl Outputs for Nothing {
    fn view(&self, index: usize) -> TensorView<'_> {
        panic!("there is no output {index}")
    }
}

#[test]
fn receiving_computing_and_sending_of_different_items_overlap() {
    let spec = TensorSpec::fixed("x", DType::U8, Shape::from([ITEM_LEN]));
    let (producer, input) = connection();
    let (output, consumer) = connection();
    let recorder = Recorder::default();
    let spans = recorder.begin().clone();
    let (inside, entered) = bounded(ITEMS as usize);
    let setup = StageSetup {
        session: Box::new(Watching { item: 0, spans, seen: Vec::new(), inside }),
        sources: vec![input],
        sinks: vec![output],
        crossing: Crossing::ONLY,
        epoch: 1,
        inputs: vec![spec.clone()],
        outputs: vec![spec.clone()],
        feeds: vec![],
        routes: vec![Route::Passed(0)],
        codecs_in: Codec::RAW.into(),
        codec_out: Codec::RAW,
        codecs_out: Codec::RAW.into(),
        checksums: Checksums::On,
        max_tensor_len: ITEM_LEN,
        recorder,
    };
    let (ended, end) = bounded(1);
    let stage = Stage::start(setup, move |reason| ended.send(reason).unwrap()).unwrap();
    let send = move || {
        let item = Tensor::zeros(DType::U8, Shape::from([ITEM_LEN])).unwrap();
        let mut writer = FrameWriter::new(producer, Codec::RAW, Checksums::On);
        for sequence in 0..ITEMS {
            writer.send(&Header { kind: Kind::Item, epoch: 1, path: 0, sequence }, &[item.view()]).unwrap();
        }
    };
    let sender = std::thread::spawn(send);
    let mut reader = FrameReader::new(consumer, vec![spec], Codec::RAW, ITEM_LEN);
    let mut buffers = reader.buffers();
    for sequence in 0..ITEMS {
        // Before this item is read, the next is in the engine and the one after that has been received.
        while sequence + 1 < ITEMS && entered.recv_timeout(HUNG).expect("the engine is entered") <= sequence {
        }
        let received = reader.receive(&mut buffers).unwrap().0;
        assert_eq!(received, Received::Item(Header { kind: Kind::Item, epoch: 1, path: 0, sequence }));
    }
    sender.join().unwrap();
    assert_eq!(end.recv_timeout(HUNG), Ok(None));
    stage.stop();
}

fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let far = listener.accept().unwrap().0;
    tune(&near).unwrap();
    tune(&far).unwrap();
    (near, far)
}
