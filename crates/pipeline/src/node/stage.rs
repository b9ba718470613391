//! One running stage: three threads, so that receiving, computing and sending of different items overlap.
//!
//! ```text
//! socket -> ingress --(1 waiting)--> compute --(1 waiting)--> egress -> socket
//!              ^------- buffers, when nobody reads them any more ------|
//! ```
//!
//! Where the stage before has replicas, each has a connection to this one and an ingress thread of its own; they share the
//! buffers, so that a stage takes no more memory than in a chain. Where the next one has, egress sends a frame to the
//! replica on the item's path: the dispatcher, which chose it, sees to it that no replica is given more than it takes.
//!
//! Where links may encode, a further thread at each end moves bytes, so that a frame is encoded while the one before is
//! sent, and decoded while the next one arrives: see [`crate::transport`].
//!
//! Input buffers circulate; outputs stay in the engine's memory until they are sent. When the input ends,
//! the stage finishes what it has and ends its own output: so a whole chain drains in order.

use std::net::{Shutdown, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use engine::{Outputs, Session};
use tensor::{Tensor, TensorSpec, TensorView};
use wire::control::{Crossing, Route, StageFigures, Step};
use wire::{Codec, CodecList, Header};

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
    /// Where frames arrive: one for each replica of the stage before.
    pub sources: Vec<TcpStream>,
    /// Where frames leave: one for each replica of the next stage, in their order.
    pub sinks: Vec<TcpStream>,
    /// Which items come by.
    pub crossing: Crossing,
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
    connections: Vec<TcpStream>,
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
    header: Header,
    buffers: Vec<Tensor>,
    /// Why there is nothing in the buffers.
    failure: Option<String>,
}

/// An item between compute and egress.
struct Computed {
    header: Header,
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
        assert!(!setup.sources.is_empty() && !setup.sinks.is_empty(), "a stage has two ends");
        let figures = Arc::new(Figures::default());
        let codec = InUse::new(setup.codec_out);
        let ends = setup.sources.iter().chain(&setup.sinks);
        let connections: Vec<TcpStream> = ends.map(TcpStream::try_clone).collect::<Result<_, _>>()?;
        let breaking = Arc::new(Breaking::of(&setup.sources)?);
        let (arrived_in, arrived_out) = bounded(QUEUE_LEN);
        let (computed_in, computed_out) = bounded(QUEUE_LEN);
        let log = || Log { figures: figures.clone(), recorder: setup.recorder.clone() };

        let (giver, free) = bounded(BUFFER_SETS);
        let several = setup.sources.len() > 1;
        let read = |source: TcpStream| {
            let moved = figures.move_cpu.clone();
            let inlet = Inlet::new(source, &setup.codecs_in, frame_len(&setup.inputs), moved)?;
            let (specs, codecs) = (setup.inputs.clone(), setup.codecs_in.clone());
            let reader = FrameReader::new(inlet, specs, codecs, setup.max_tensor_len);
            let reader = if setup.crossing.sees_all() { reader } else { reader.of_some_items() };
            let (epoch, crossing) = (setup.epoch, setup.crossing);
            let (free, arrived) = (free.clone(), arrived_in.clone());
            Ok(Ingress { reader, epoch, crossing, several, free, arrived, log: log() })
        };
        let ingresses: Vec<Ingress> = setup.sources.into_iter().map(read).collect::<std::io::Result<_>>()?;
        drop((arrived_in, free));
        for _ in 0..BUFFER_SETS {
            giver.send(ingresses[0].reader.buffers()).expect("there is a place for each set");
        }
        let runs_on_caller = setup.session.runs_on_caller();
        let passes = setup.routes.iter().any(|r| matches!(r, Route::Passed(_)));
        let compute = Compute {
            session: setup.session,
            feeds: setup.feeds,
            passes,
            arrived: arrived_out,
            computed: computed_in,
            free: giver.clone(),
            log: log(),
        };
        let write = |sink: TcpStream| {
            // Egress may be waiting for an item that never comes: the end of the input ends it, too.
            let wake = breaking.clone();
            let failed = move |_: &std::io::Error| wake.end_input();
            let moved = figures.move_cpu.clone();
            let outlet = Outlet::new(sink, &setup.codecs_out, moved, &setup.recorder, failed)?;
            Ok(FrameWriter::new(outlet, setup.codec_out, setup.checksums))
        };
        let egress = Egress {
            writers: setup.sinks.into_iter().map(write).collect::<std::io::Result<_>>()?,
            crossing: setup.crossing,
            codec: codec.clone(),
            specs: setup.outputs,
            max_tensor_len: setup.max_tensor_len,
            routes: setup.routes,
            computed: computed_out,
            free: giver,
            log: log(),
        };

        let builder = |name: &str| std::thread::Builder::new().name(name.to_owned());
        // Whatever goes wrong, each thread lets go of its channels and its neighbours end by themselves.
        let threads = vec![
            // Engines may plan by recursion, at the first run too.
            builder("compute").stack_size(STACK).spawn(move || compute.run())?,
            builder("ingress").spawn(move || ended(run_ends(ingresses, egress, &breaking)))?,
        ];
        Ok(Stage { figures, codec, runs_on_caller, started: Instant::now(), connections, threads })
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
        self.connections.iter().for_each(|connection| drop(connection.shutdown(Shutdown::Both)));
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the stage panicked");
            }
        }
    }
}

/// How a stage stops taking frames in, and why.
struct Breaking {
    sources: Vec<TcpStream>,
    /// The first failure of a source; what others say after that is its echo.
    reason: Mutex<Option<String>>,
}

impl Breaking {
    fn of(sources: &[TcpStream]) -> std::io::Result<Breaking> {
        let sources = sources.iter().map(TcpStream::try_clone).collect::<Result<_, _>>()?;
        Ok(Breaking { sources, reason: Mutex::default() })
    }

    /// Nothing more arrives, so that ingress does not wait for frames that nobody can use.
    fn end_input(&self) {
        // Errors mean that the connection is gone already.
        self.sources.iter().for_each(|source| drop(source.shutdown(Shutdown::Both)));
    }

    fn input_failed(&self, reason: String) {
        self.lock().get_or_insert(reason);
        self.end_input();
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs egress beside ingress; gives the reason once all are done, if it was no orderly end.
fn run_ends(ingresses: Vec<Ingress>, egress: Egress, breaking: &Breaking) -> Option<String> {
    let no_thread = |e: std::io::Error| format!("cannot start a thread: {e}");
    let builder = |name: &str| std::thread::Builder::new().name(name.to_owned());
    std::thread::scope(|scope| {
        let egress =
            builder("egress").spawn_scoped(scope, || egress.run().inspect_err(|_| breaking.end_input()));
        let receive = |ingress: Ingress| {
            if let Err(reason) = ingress.run() {
                breaking.input_failed(reason);
            }
        };
        let mut ingresses = ingresses.into_iter();
        let first = ingresses.next().expect("a stage has a source");
        for ingress in ingresses {
            if let Err(e) = builder("ingress").spawn_scoped(scope, move || receive(ingress)) {
                breaking.input_failed(no_thread(e));
            }
        }
        receive(first);
        let sent = match egress {
            Ok(thread) => thread.join().unwrap_or_else(|_| Err("the sending thread panicked".to_owned())),
            Err(e) => Err(no_thread(e)),
        };
        // A broken output is why the input could not go on, not the other way round.
        sent.err().or_else(|| breaking.lock().take())
    })
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
    crossing: Crossing,
    /// Whether there are others.
    several: bool,
    free: Receiver<Vec<Tensor>>,
    arrived: Sender<Arrived>,
    log: Log,
}

impl Ingress {
    fn run(mut self) -> Result<(), String> {
        let failed = |e| format!("the link into this stage failed: {e}");
        loop {
            // Buffers are for a connection on which something comes.
            if self.several && !self.reader.wait().map_err(failed)? {
                return Ok(());
            }
            let Ok(mut buffers) = self.free.recv() else { return Ok(()) }; // as below
            let (received, timing) = self.reader.receive(&mut buffers).map_err(failed)?;
            let (header, failure) = match received {
                Received::End => return Ok(()),
                Received::Item(header) => (header, None),
                Received::Failure(header, reason) => (header, Some(reason)),
            };
            let Header { epoch, path, sequence, .. } = header;
            if epoch != self.epoch {
                return Err(format!("a frame of epoch {epoch} arrived in epoch {}", self.epoch));
            }
            if !self.crossing.is_on(path) {
                return Err(format!("item {sequence} took path {path}, which does not lead here"));
            }
            self.log.received(sequence, &timing);
            if self.arrived.send(Arrived { header, buffers, failure }).is_err() {
                return Ok(()); // compute ended; egress knows why
            }
        }
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
        while let Ok(Arrived { header, buffers, failure }) = self.arrived.recv() {
            let start = Instant::now();
            let result = match failure {
                None => self.infer(buffers),
                Some(reason) => {
                    let _ = self.free.send(buffers);
                    Err(reason)
                }
            };
            self.log.computed(header.sequence, start, &mut watch);
            if self.computed.send(Computed { header, result }).is_err() {
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
    /// By replica of the next stage.
    writers: Vec<FrameWriter<Outlet>>,
    crossing: Crossing,
    codec: InUse,
    specs: Vec<TensorSpec>,
    max_tensor_len: usize,
    routes: Vec<Route>,
    computed: Receiver<Computed>,
    free: Sender<Vec<Tensor>>,
    log: Log,
}

impl Egress {
    fn run(mut self) -> Result<(), String> {
        let failed = |e: std::io::Error| format!("{OUTPUT_FAILED}: {e}");
        while let Ok(Computed { header, result }) = self.computed.recv() {
            let start = Instant::now();
            let next = self.crossing.next(header.path, self.writers.len());
            let sent = match result {
                Ok(ready) => {
                    self.writers[next].set_codec(self.codec.get());
                    let sent = self.send(next, &header, &ready);
                    if let Some(inputs) = ready.inputs {
                        let _ = self.free.send(inputs);
                    }
                    sent
                }
                Err(reason) => self.writers[next].send_failure(&header, &reason),
            };
            let (sent, is_direct) = (sent.map_err(failed)?, self.writers[next].stream().is_direct());
            self.log.sent(header.sequence, start, &sent, is_direct);
        }
        self.writers.into_iter().try_for_each(|writer| writer.into_stream().finish()).map_err(failed)
    }

    /// The header is that of the frame that arrived: it goes on under the same one.
    fn send(&mut self, next: usize, header: &Header, ready: &Ready) -> std::io::Result<Sent> {
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
        match misfit {
            Some(reason) => self.writers[next].send_failure(header, &reason),
            None => self.writers[next].send(header, &views),
        }
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
