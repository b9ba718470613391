//! What one hop costs: frame, send, receive, hand-over between the stage's threads.
//!
//! A producer sends items over TCP to a real stage whose engine does nothing, and the stage sends them on to
//! a consumer: with checksums, as between machines, and without, as inside one; and without, over links that may encode
//! but do not: at the stage, which has one end of each of the two connections, these have threads of their own. Beside
//! them, in turns, a bare copy loop over two std connections: read a buffer, write it. Prints microseconds per item and CPU seconds
//! per GB and hop (both connections and all threads, halved), medians of the rounds; ratios are medians of the
//! rounds' ratios.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use engine::{Outputs, RunError, Session};
use pipeline::Recorder;
use pipeline::node::stage::{Stage, StageSetup};
use pipeline::transport::{Checksums, FrameReader, FrameWriter, Received, tune};
use tensor::{DType, Shape, Tensor, TensorSpec, TensorView};
use wire::control::{Crossing, Route};
use wire::{Codec, CodecList, Header, Kind};

const ROUNDS: usize = 61;
const SIZES: [usize; 4] = [4 << 10, 200 << 10, 800 << 10, 3 << 20];
/// Bytes that each measurement moves, and the items it moves at most. Short, so that what else this machine
/// does falls on neighbours alike.
const BYTES: usize = 60 << 20;
const MAX_ITEMS: usize = 2_000;

/// An engine that is fed nothing and gives nothing: the item passes through.
struct Nothing;

impl Session for Nothing {
    fn inputs(&self) -> &[TensorSpec] {
        &[]
    }

    fn outputs(&self) -> &[TensorSpec] {
        &[]
    }

    fn run(&mut self, _: &[TensorView<'_>]) -> Result<Box<dyn Outputs>, RunError> {
        Ok(Box::new(Nothing))
    }
}

impl Outputs for Nothing {
    fn view(&self, index: usize) -> TensorView<'_> {
        panic!("there is no output {index}")
    }
}

#[derive(Clone, Copy)]
struct Cost {
    micros_per_item: f64,
    cpu_seconds_per_gb: f64,
}

#[expect(clippy::print_stdout, reason = "a bench prints its table")]
fn main() {
    println!("one hop on {} cores, median of {ROUNDS} rounds", std::thread::available_parallelism().unwrap());
    println!("{:>8} {:>53} {:>53}", "", "us per item", "CPU s per GB");
    let head = format!("{:>8} {:>14} {:>14} {:>14}", "bare", "local", "checksums", "may encode");
    println!("{:>8} {head} {head}", "bytes");
    for size in SIZES {
        let items = (BYTES / size).min(MAX_ITEMS);
        let round = |_| {
            [
                bare(size, items),
                stage(size, items, Checksums::Off, Codec::RAW.into()),
                stage(size, items, Checksums::On, Codec::RAW.into()),
                stage(size, items, Checksums::Off, Codec::LZ4.into()),
            ]
        };
        let rounds: Vec<[Cost; 4]> = (0..ROUNDS).map(round).collect();
        let columns = |value: fn(&Cost) -> f64| {
            let one = |i: usize| median(rounds.iter().map(|r| value(&r[i])));
            let ratio = |i: usize| median(rounds.iter().map(|r| value(&r[i]) / value(&r[0])));
            let digits = if one(0) < 10.0 { 3 } else { 1 };
            let beside = |i: usize| format!("{:>7.digits$} {:>5.2}x", one(i), ratio(i));
            format!("{:>8.digits$} {} {} {}", one(0), beside(1), beside(2), beside(3))
        };
        println!("{size:>8} {} {}", columns(|c| c.micros_per_item), columns(|c| c.cpu_seconds_per_gb));
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let far = listener.accept().unwrap().0;
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    (near, far)
}

fn measure(size: usize, items: usize, run: impl FnOnce()) -> Cost {
    let (start, cpu) = (Instant::now(), cpu_seconds());
    run();
    let bytes = 2.0 * (size * items) as f64;
    Cost {
        micros_per_item: start.elapsed().as_secs_f64() * 1e6 / items as f64,
        cpu_seconds_per_gb: (cpu_seconds() - cpu) / bytes * 1e9,
    }
}

fn stage(size: usize, items: usize, checksums: Checksums, codecs: CodecList) -> Cost {
    let spec = TensorSpec::fixed("x", DType::U8, Shape::from([size]));
    let (producer, input) = connection();
    let (output, consumer) = connection();
    [&producer, &input, &output, &consumer].into_iter().for_each(|s| tune(s).unwrap());
    let setup = StageSetup {
        session: Box::new(Nothing),
        sources: vec![input],
        sinks: vec![output],
        crossing: Crossing::ONLY,
        epoch: 1,
        inputs: vec![spec.clone()],
        outputs: vec![spec.clone()],
        feeds: vec![],
        routes: vec![Route::Passed(0)],
        codecs_in: codecs.clone(),
        codec_out: Codec::RAW,
        codecs_out: codecs,
        checksums,
        max_tensor_len: size,
        recorder: Recorder::default(),
    };
    let stage = Stage::start(setup, |reason| assert_eq!(reason, None)).unwrap();
    let cost = measure(size, items, || {
        let send = move || {
            let item = Tensor::zeros(DType::U8, Shape::from([size])).unwrap();
            let mut writer = FrameWriter::new(producer, Codec::RAW, checksums);
            for sequence in 0..items as u64 {
                let header = Header { kind: Kind::Item, epoch: 1, path: 0, sequence };
                writer.send(&header, &[item.view()]).unwrap();
            }
        };
        let sender = std::thread::spawn(send);
        let mut reader = FrameReader::new(consumer, vec![spec], Codec::RAW, size);
        let mut buffers = reader.buffers();
        for _ in 0..items {
            assert!(matches!(reader.receive(&mut buffers).unwrap().0, Received::Item(_)));
        }
        sender.join().unwrap();
    });
    stage.stop();
    cost
}

fn bare(size: usize, items: usize) -> Cost {
    let (mut producer, mut input) = connection();
    let (mut output, mut consumer) = connection();
    measure(size, items, || {
        let send = move || {
            let item = vec![0; size];
            (0..items).for_each(|_| producer.write_all(&item).unwrap());
        };
        let relay = move || {
            let mut item = vec![0; size];
            for _ in 0..items {
                input.read_exact(&mut item).unwrap();
                output.write_all(&item).unwrap();
            }
        };
        let threads = [std::thread::spawn(send), std::thread::spawn(relay)];
        let mut item = vec![0; size];
        (0..items).for_each(|_| consumer.read_exact(&mut item).unwrap());
        threads.into_iter().for_each(|t| t.join().unwrap());
    })
}

/// CPU time of this process, all threads.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
