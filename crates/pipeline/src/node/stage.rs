//! One running stage: three threads, so that receiving, computing and sending of different items overlap.
//!
//! ```text
//! socket -> ingress --(1 waiting)--> compute --(1 waiting)--> egress -> socket
//!              ^------- buffers, when nobody reads them any more ------|
//! ```
//!
//! Where links may encode, a further thread at each end moves bytes, so that a frame is encoded while the one before is
//! sent, and decoded while the next one arrives: see [`crate::transport`].
//!
//! Input buffers circulate; outputs stay in the engine's memory until they are sent. When the input ends,
//! the stage finishes what it has and ends its own output: so a whole chain drains in order.

use std::net::{Shutdown, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use engine::{Outputs, Session};
use tensor::{Tensor, TensorSpec, TensorView};
use wire::control::{Route, StageFigures, Step};
use wire::{Codec, CodecList, Header, Kind};

use crate::engine_thread::STACK;
use crate::recorder::{Recorder, Span};
use crate::transport::{
    Checksums, FrameReader, FrameWriter, InUse, Inlet, Outlet, Received, Sent, Timing, Total, Watch,
    frame_len,
};

/// Items that wait between two threads. One keeps both busy; more would only add latency and memory.
const QUEUE_LEN: usize = 1;

/// Sets of input buffers: one being received, one waiting, one in the engine. While egress still sends a tensor
/// that passed through, one of the others waits: a fourth set would be colder memory for no more overlap.
const BUFFER_SETS: usize = 3;

/// Copies of its inputs that a stage holds while its engine runs.
pub const QUEUED_INPUTS: u64 = BUFFER_SETS as u64;

/// Copies of its outputs that a stage holds while its engine runs: those that wait, and one being sent.
pub const QUEUED_OUTPUTS: u64 = QUEUE_LEN as u64 + 1;

/// How a stage's reason begins when what fails is behind it.
pub(crate) const OUTPUT_FAILED: &str = "the link out of this stage failed";

/// What a stage's threads need.
pub struct StageSetup {
    /// The loaded model.
    pub session: Box<dyn Session>,
    /// Where frames arrive.
    pub input: TcpStream,
    /// Where frames leave.
    pub output: TcpStream,
    /// Generation of the plan.
    pub epoch: u32,
    /// Tensors of an arriving frame.
    pub inputs: Vec<TensorSpec>,
    /// Tensors of a leaving frame.
    pub outputs: Vec<TensorSpec>,
    /// Engine input *i* is `inputs[feeds[i]]`.
    pub feeds: Vec<usize>,
    /// Where each output comes from.
    pub routes: Vec<Route>,
    /// Codecs in which frames may arrive.
    pub codecs_in: CodecList,
    /// Codec with which the leaving link begins.
    pub codec_out: Codec,
    /// Codecs in which frames may leave.
    pub codecs_out: CodecList,
    /// Whether leaving tensors carry a checksum.
    pub checksums: Checksums,
    /// Bound on sizes that the model leaves open, bytes per tensor.
    pub max_tensor_len: usize,
    /// Keeps when each step began and ended, where that is wanted.
    pub recorder: Recorder,
}

/// A stage whose threads run.
pub struct Stage {
    figures: Arc<Figures>,
    codec: InUse,
    /// Whether the computing thread's clock tells all of the engine's CPU time.
    runs_on_caller: bool,
    started: Instant,
    input: TcpStream,
    output: TcpStream,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Figures {
    received: AtomicU64,
    computed: AtomicU64,
    items: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    widened: AtomicU64,
    transfer: Total,
    decode: Total,
    compute: Total,
    send: Total,
    compute_cpu: Total,
    encode_cpu: Total,
    decode_cpu: Total,
    move_cpu: Total,
}

/// An item between ingress and compute.
struct Arrived {
    sequence: u64,
    content: Result<Vec<Tensor>, String>,
}

/// An item between compute and egress.
struct Computed {
    sequence: u64,
    result: Result<Ready, String>,
}

struct Ready {
    outputs: Box<dyn Outputs>,
    /// The input buffers, when tensors pass through.
    inputs: Option<Vec<Tensor>>,
}

impl Stage {
    /// Starts the threads. `ended` is called once, from one of them, with the reason when it was no orderly
    /// end of the input.
    pub fn start(
        setup: StageSetup,
        ended: impl FnOnce(Option<String>) + Send + 'static,
    ) -> std::io::Result<Stage> {
        let figures = Arc::new(Figures::default());
        let codec = InUse::new(setup.codec_out);
        let (input, output) = (setup.input.try_clone()?, setup.output.try_clone()?);
        let (wake, wake_early) = (setup.input.try_clone()?, setup.input.try_clone()?);
        // Egress may be waiting for an item that never comes: the end of the input ends it, too.
        let failed = move |_: &std::io::Error| drop(wake_early.shutdown(Shutdown::Both));
        let (arrived_in, arrived_out) = bounded(QUEUE_LEN);
        let (computed_in, computed_out) = bounded(QUEUE_LEN);
        let log = |figures: &Arc<Figures>| Log { figures: figures.clone(), recorder: setup.recorder.clone() };

        let inlet =
            Inlet::new(setup.input, &setup.codecs_in, frame_len(&setup.inputs), figures.move_cpu.clone())?;
        let reader = FrameReader::new(inlet, setup.inputs, setup.codecs_in, setup.max_tensor_len);
        let (giver, taker) = bounded(BUFFER_SETS);
        for _ in 0..BUFFER_SETS {
            giver.send(reader.buffers()).expect("there is a place for each set");
        }
        let ingress =
            Ingress { reader, epoch: setup.epoch, free: taker, arrived: arrived_in, log: log(&figures) };
        let runs_on_caller = setup.session.runs_on_caller();
        let passes = setup.routes.iter().any(|r| matches!(r, Route::Passed(_)));
        let compute = Compute {
            session: setup.session,
            feeds: setup.feeds,
            passes,
            arrived: arrived_out,
            computed: computed_in,
            free: giver.clone(),
            log: log(&figures),
        };
        let egress = Egress {
            writer: FrameWriter::new(
                Outlet::new(
                    setup.output,
                    &setup.codecs_out,
                    figures.move_cpu.clone(),
                    &setup.recorder,
                    failed,
                )?,
                setup.codec_out,
                setup.checksums,
            ),
            codec: codec.clone(),
            epoch: setup.epoch,
            specs: setup.outputs,
            max_tensor_len: setup.max_tensor_len,
            routes: setup.routes,
            computed: computed_out,
            free: giver,
            log: log(&figures),
        };

        let builder = |name: &str| std::thread::Builder::new().name(name.to_owned());
        // Whatever goes wrong, each thread lets go of its channels and its neighbours end by themselves.
        let threads = vec![
            // Engines may plan by recursion, at the first run too.
            builder("compute").stack_size(STACK).spawn(move || compute.run())?,
            builder("ingress").spawn(move || run_ends(ingress, egress, wake, ended))?,
        ];
        Ok(Stage { figures, codec, runs_on_caller, started: Instant::now(), input, output, threads })
    }

    /// Encodes what leaves the stage in another way, from the next item on. The next stage must accept it.
    pub fn set_codec(&self, codec: Codec) {
        self.codec.set(codec);
    }

    /// What the stage did so far; the CPU time of its process is left to the caller.
    pub fn figures(&self) -> StageFigures {
        let figures = &self.figures;
        StageFigures {
            items: figures.items.load(Relaxed),
            received: figures.received.load(Relaxed),
            computed: figures.computed.load(Relaxed),
            transfer_seconds: figures.transfer.seconds(),
            decode_seconds: figures.decode.seconds(),
            compute_seconds: figures.compute.seconds(),
            send_seconds: figures.send.seconds(),
            bytes_in: figures.bytes_in.load(Relaxed),
            bytes_out: figures.bytes_out.load(Relaxed),
            widened: figures.widened.load(Relaxed),
            compute_cpu_seconds: self.runs_on_caller.then(|| figures.compute_cpu.seconds()),
            encode_cpu_seconds: figures.encode_cpu.seconds(),
            decode_cpu_seconds: figures.decode_cpu.seconds(),
            move_cpu_seconds: figures.move_cpu.seconds(),
            elapsed_seconds: self.started.elapsed().as_secs_f64(),
            process_cpu_seconds: 0.0,
        }
    }

    /// Ends the stage without waiting for its input to end.
    pub fn stop(self) {
        // Errors mean that the connection is gone already.
        let _ = self.input.shutdown(Shutdown::Both);
        let _ = self.output.shutdown(Shutdown::Both);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the stage panicked");
            }
        }
    }
}

/// Runs egress beside ingress and reports once both are done. When sending fails, `wake` (the input) is
/// shut down, so that ingress does not wait for frames that nobody can use.
fn run_ends(ingress: Ingress, egress: Egress, wake: TcpStream, ended: impl FnOnce(Option<String>)) {
    let egress = std::thread::Builder::new().name("egress".to_owned()).spawn(move || {
        let sent = egress.run();
        if sent.is_err() {
            let _ = wake.shutdown(Shutdown::Both);
        }
        sent
    });
    let received = ingress.run();
    let sent = match egress {
        Ok(thread) => thread.join().unwrap_or_else(|_| Err("the sending thread panicked".to_owned())),
        Err(e) => Err(format!("cannot start a thread: {e}")),
    };
    // A broken output is why the input could not go on, not the other way round.
    ended(sent.err().or(received.err()));
}

struct Log {
    figures: Arc<Figures>,
    recorder: Recorder,
}

impl Log {
    fn received(&self, sequence: u64, timing: &Timing) {
        let figures = &self.figures;
        figures.bytes_in.fetch_add(timing.bytes, Relaxed);
        figures.transfer.add(timing.transfer);
        figures.decode.add(timing.spent.coding);
        figures.decode_cpu.add(timing.spent.coding_cpu);
        figures.move_cpu.add(timing.spent.moving_cpu);
        figures.received.fetch_add(1, Relaxed);
        self.recorder.received(sequence, timing);
    }

    fn computed(&self, sequence: u64, start: Instant, watch: &mut Watch) {
        let end = Instant::now();
        self.figures.compute.add(end.duration_since(start));
        self.figures.compute_cpu.add(watch.lap());
        self.figures.computed.fetch_add(1, Relaxed);
        self.recorder.record(Span { sequence, step: Step::Compute, start, end, bytes: 0 });
    }

    /// `is_sent`: whether the frame was not only handed over.
    fn sent(&self, sequence: u64, start: Instant, sent: &Sent, is_sent: bool) {
        let figures = &self.figures;
        figures.send.add(start.elapsed());
        figures.bytes_out.fetch_add(sent.bytes, Relaxed);
        figures.widened.fetch_add(sent.widened, Relaxed);
        figures.encode_cpu.add(sent.spent.coding_cpu);
        figures.move_cpu.add(sent.spent.moving_cpu);
        self.recorder.sent(sequence, start, sent, is_sent);
        figures.items.fetch_add(1, Relaxed);
    }
}

struct Ingress {
    reader: FrameReader<Inlet>,
    epoch: u32,
    free: Receiver<Vec<Tensor>>,
    arrived: Sender<Arrived>,
    log: Log,
}

impl Ingress {
    fn run(mut self) -> Result<(), String> {
        let mut unused = None;
        while let Some(mut buffers) = unused.take().or_else(|| self.free.recv().ok()) {
            let received = self.reader.receive(&mut buffers);
            let (received, timing) = received.map_err(|e| format!("the link into this stage failed: {e}"))?;
            let (header, content) = match received {
                Received::End => return Ok(()),
                Received::Item(header) => (header, Ok(buffers)),
                Received::Failure(header, reason) => {
                    unused = Some(buffers);
                    (header, Err(reason))
                }
            };
            if header.epoch != self.epoch {
                return Err(format!("a frame of epoch {} arrived in epoch {}", header.epoch, self.epoch));
            }
            self.log.received(header.sequence, &timing);
            if self.arrived.send(Arrived { sequence: header.sequence, content }).is_err() {
                return Ok(()); // compute ended; egress knows why
            }
        }
        Ok(())
    }
}

struct Compute {
    session: Box<dyn Session>,
    feeds: Vec<usize>,
    passes: bool,
    arrived: Receiver<Arrived>,
    computed: Sender<Computed>,
    free: Sender<Vec<Tensor>>,
    log: Log,
}

impl Compute {
    fn run(mut self) {
        let mut watch = Watch::default();
        watch.lap();
        while let Ok(Arrived { sequence, content }) = self.arrived.recv() {
            let start = Instant::now();
            let result = content.and_then(|buffers| self.infer(buffers));
            self.log.computed(sequence, start, &mut watch);
            if self.computed.send(Computed { sequence, result }).is_err() {
                return;
            }
        }
    }

    fn infer(&mut self, buffers: Vec<Tensor>) -> Result<Ready, String> {
        let outputs = {
            let mut views = Vec::with_capacity(self.feeds.len());
            views.extend(self.feeds.iter().map(|&i| buffers[i].view()));
            // An engine's bug costs the item, not the node.
            let run = AssertUnwindSafe(|| self.session.run(&views).map_err(|e| e.to_string()));
            catch_unwind(run)
                .unwrap_or_else(|_| Err("the engine panicked; the node's log says where".to_owned()))
        };
        let keep = self.passes && outputs.is_ok();
        let inputs = if keep {
            Some(buffers)
        } else {
            let _ = self.free.send(buffers);
            None
        };
        Ok(Ready { outputs: outputs?, inputs })
    }
}

struct Egress {
    writer: FrameWriter<Outlet>,
    codec: InUse,
    epoch: u32,
    specs: Vec<TensorSpec>,
    max_tensor_len: usize,
    routes: Vec<Route>,
    computed: Receiver<Computed>,
    free: Sender<Vec<Tensor>>,
    log: Log,
}

impl Egress {
    fn run(mut self) -> Result<(), String> {
        while let Ok(Computed { sequence, result }) = self.computed.recv() {
            let start = Instant::now();
            let sent = match result {
                Ok(ready) => {
                    self.writer.set_codec(self.codec.get());
                    let sent = self.send(sequence, &ready);
                    if let Some(inputs) = ready.inputs {
                        let _ = self.free.send(inputs);
                    }
                    sent
                }
                Err(reason) => self.writer.send_failure(self.epoch, sequence, &reason),
            };
            let sent = sent.map_err(|e| format!("{OUTPUT_FAILED}: {e}"))?;
            self.log.sent(sequence, start, &sent, self.writer.stream().is_direct());
        }
        self.writer.into_stream().finish().map_err(|e| format!("{OUTPUT_FAILED}: {e}"))
    }

    fn send(&mut self, sequence: u64, ready: &Ready) -> std::io::Result<Sent> {
        let mut views: Vec<TensorView<'_>> = Vec::with_capacity(self.routes.len());
        for route in &self.routes {
            views.push(match *route {
                Route::Computed(i) => ready.outputs.view(i as usize),
                Route::Passed(i) => {
                    let inputs = ready.inputs.as_ref().expect("kept because a tensor passes through");
                    inputs[i as usize].view()
                }
            });
        }
        // The next stage would refuse the frame and the link with it: only this item is at fault.
        let misfit = self.specs.iter().zip(&views).find_map(|(spec, view)| self.misfit(spec, view));
        if let Some(reason) = misfit {
            return self.writer.send_failure(self.epoch, sequence, &reason);
        }
        self.writer.send(&Header { kind: Kind::Item, epoch: self.epoch, sequence }, &views)
    }

    /// Why the next stage would not take a tensor.
    fn misfit(&self, spec: &TensorSpec, view: &TensorView<'_>) -> Option<String> {
        if let Err(e) = spec.check_tensor(view) {
            return Some(format!("the engine's result: {e}"));
        }
        let (len, limit) = (view.bytes().len(), self.max_tensor_len);
        (len > limit).then(|| format!("tensor `{}` has {len} bytes, the limit is {limit}", spec.name))
    }
}
