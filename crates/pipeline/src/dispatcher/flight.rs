//! Items on their way: admission, sending, receiving, handing out.
//!
//! One lock, taken twice per item for a few hundred nanoseconds, guards the window; an item costs the chain
//! tens of microseconds at least.

use std::collections::VecDeque;
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use event_listener::IntoNotification;
use plan::Paths;
use tensor::{Tensor, TensorSpec};
use wire::{Codec, CodecList, Header, Kind};

use super::delivery::{Action, Delivery, Event};
use super::shut;
use crate::recorder::Recorder;
use crate::transport::{
    Checksums, FrameReader, FrameWriter, InUse, Inlet, Outlet, Received, Timing, Total, frame_len,
};

/// Why an item has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ItemError {
    /// It is not what the model takes.
    #[error("the item does not fit the model: {0}")]
    Unfit(String),
    /// A stage failed on it; the chain goes on with the next.
    #[error("the model failed on the item: {0}")]
    Failed(String),
    /// The chain is broken: this deployment yields no further results.
    #[error("the chain is broken: {0}")]
    Broken(String),
}

type Reply = Result<Vec<Tensor>, ItemError>;

/// A result that will come. Wait for it, or await it.
#[derive(Debug)]
pub struct Pending {
    reply: oneshot::Receiver<Reply>,
}

impl Pending {
    /// Blocks until the result is there: the model's outputs in its order.
    ///
    /// # Errors
    /// When the model fails on the item or the chain breaks.
    pub fn wait(self) -> Result<Vec<Tensor>, ItemError> {
        self.reply.recv().unwrap_or_else(|_| Err(closed()))
    }

    /// As [`Pending::wait`], but until then at most; `None` if the result is not there.
    pub(super) fn wait_until(self, deadline: Instant) -> Option<Reply> {
        match self.reply.recv_deadline(deadline) {
            Ok(reply) => Some(reply),
            Err(oneshot::RecvTimeoutError::Timeout) => None,
            Err(oneshot::RecvTimeoutError::Disconnected) => Some(Err(closed())),
        }
    }
}

impl IntoFuture for Pending {
    type Output = Reply;
    type IntoFuture = Arriving;

    fn into_future(self) -> Arriving {
        Arriving(self.reply.into_future())
    }
}

/// A [`Pending`] result, awaited.
#[derive(Debug)]
pub struct Arriving(oneshot::AsyncReceiver<Reply>);

impl Future for Arriving {
    type Output = Reply;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Reply> {
        Pin::new(&mut self.0).poll(context).map(|reply| reply.unwrap_or_else(|_| Err(closed())))
    }
}

fn closed() -> ItemError {
    ItemError::Broken("the pipeline was closed".to_owned())
}

/// What the connections to both ends of the chain carry.
pub(super) struct Ends {
    /// The model's outputs.
    pub(super) outputs: Vec<TensorSpec>,
    /// Generation of the plan.
    pub(super) epoch: u32,
    /// Codec with which inputs travel at first.
    pub(super) codec: Codec,
    /// Codecs in which inputs may travel.
    pub(super) input_codecs: CodecList,
    /// Codecs in which results may arrive.
    pub(super) codecs: CodecList,
    /// Bound on sizes that the model leaves open, bytes per tensor.
    pub(super) max_tensor_len: usize,
    /// Which ways items can take.
    pub(super) paths: Paths,
}

/// Everything between callers and the connections.
pub(super) struct Flight {
    shared: Arc<Shared>,
    connections: Vec<TcpStream>,
    codec: InUse,
    broken: Receiver<String>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    recorder: Recorder,
}

fn first_link_failed(error: &std::io::Error) -> String {
    format!("the link to the first node failed: {error}")
}

/// Also where an item was swallowed before: what then comes answers none that could be due.
const NOT_TRUSTED: &str =
    "a node of the last stage answered an item that is not in flight, or one before was lost";

/// What came back from the chain, and how: the counters that a stage has of the link into it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Arrivals {
    /// Results.
    pub(super) items: u64,
    /// Their bytes on the wire.
    pub(super) bytes: u64,
    /// From a result's first byte to its last on the socket, all results together.
    pub(super) transfer_seconds: f64,
    /// How often somebody had to wait for a place in the window, which is when the chain is what limits.
    pub(super) waits: u64,
}

struct Shared {
    window: Mutex<Window>,
    counters: Counters,
    /// Told when a place became free or the chain broke.
    freed: event_listener::Event,
    /// Told, once, when a connection breaks.
    broken: Sender<String>,
}

/// Counts [`Arrivals`].
#[derive(Default)]
struct Counters {
    items: AtomicU64,
    bytes: AtomicU64,
    transfer: Total,
    waits: AtomicU64,
}

struct Window {
    delivery: Delivery,
    /// From the oldest item on.
    items: VecDeque<Slot>,
    paths: Paths,
    /// To the sending threads, one for each replica of the first stage; `None` once no more items are taken.
    senders: Option<Vec<Sender<Arc<Item>>>>,
    failure: Option<ItemError>,
}

/// An item in flight. It is kept until its result was handed out.
struct Slot {
    reply: oneshot::Sender<Reply>,
    result: Option<Reply>,
    _item: Arc<Item>,
}

struct Item {
    sequence: u64,
    path: u32,
    tensors: Vec<Tensor>,
}

impl Flight {
    /// Over connections to each replica of the first stage and from each of the last. `window` items are on their way at
    /// most.
    pub(super) fn start(
        inputs: &[TcpStream],
        results: &[TcpStream],
        ends: Ends,
        window: usize,
    ) -> std::io::Result<Flight> {
        let Ends { outputs, epoch, codec, input_codecs, codecs, max_tensor_len, paths } = ends;
        let is_one = paths.is_one();
        // Never full: each holds a whole window.
        let (senders, items): (Vec<_>, Vec<_>) = inputs.iter().map(|_| bounded::<Arc<Item>>(window)).unzip();
        let (broken_in, broken) = bounded(inputs.len() + results.len()); // one for each connection
        let shared = Arc::new(Shared {
            window: Mutex::new(Window {
                delivery: Delivery::new(epoch, window, !is_one),
                items: VecDeque::with_capacity(window),
                paths,
                senders: Some(senders),
                failure: None,
            }),
            counters: Counters::default(),
            freed: event_listener::Event::new(),
            broken: broken_in,
        });
        // Nobody asks for the dispatcher's own CPU time.
        let (recorder, moved) = (Recorder::default(), Total::default());
        let first_codec = codec;
        let codec = InUse::new(codec);
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(run)
        };
        let mut threads = Vec::new();
        for (input, items) in std::iter::zip(inputs, items) {
            let failed = shared.broken.clone();
            let failed = move |e: &std::io::Error| drop(failed.try_send(first_link_failed(e)));
            let outlet = Outlet::new(input.try_clone()?, &input_codecs, moved.clone(), &recorder, failed)?;
            let writer = FrameWriter::new(outlet, first_codec, Checksums::for_link(input)?);
            let (shared, codec, recorder) = (shared.clone(), codec.clone(), recorder.clone());
            let send = move || shared.send(writer, &codec, &items, epoch, &recorder);
            threads.push(spawn("send", Box::new(send))?);
        }
        for (last, stream) in results.iter().enumerate() {
            let inlet = Inlet::new(stream.try_clone()?, &codecs, frame_len(&outputs), moved.clone())?;
            let reader = FrameReader::new(inlet, outputs.clone(), codecs.clone(), max_tensor_len);
            let reader = if is_one { reader } else { reader.of_some_items() };
            let (shared, recorder) = (shared.clone(), recorder.clone());
            threads.push(spawn("receive", Box::new(move || shared.receive(reader, last, &recorder)))?);
        }
        let connections = inputs.iter().chain(results).map(TcpStream::try_clone).collect::<Result<_, _>>()?;
        Ok(Flight { shared, connections, codec, broken, threads: Mutex::new(threads), recorder })
    }

    /// Encodes inputs in another way, from the next one on. The first stage must accept it.
    pub(super) fn set_codec(&self, codec: Codec) {
        self.codec.set(codec);
    }

    /// Keeps when inputs are sent and results received.
    pub(super) fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// What came back so far.
    pub(super) fn arrivals(&self) -> Arrivals {
        let Counters { items, bytes, transfer, waits } = &self.shared.counters;
        Arrivals {
            items: items.load(Relaxed),
            bytes: bytes.load(Relaxed),
            transfer_seconds: transfer.seconds(),
            waits: waits.load(Relaxed),
        }
    }

    /// Whether no item is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.shared.lock().delivery.in_flight() == 0
    }

    /// The sequence number of the item that is admitted next.
    pub(super) fn next_sequence(&self) -> u64 {
        let window = self.shared.lock();
        window.delivery.oldest() + window.delivery.in_flight() as u64
    }

    /// Hears, once per connection, when it breaks before it was meant to end.
    pub(super) fn broken(&self) -> Receiver<String> {
        self.broken.clone()
    }

    pub(super) fn submit(&self, tensors: Vec<Tensor>) -> Result<Pending, ItemError> {
        let mut admission = self.shared.admit(tensors)?;
        loop {
            match admission {
                Admission::Admitted(pending) => return Ok(pending),
                Admission::Wait(tensors, listener) => {
                    event_listener::Listener::wait(listener);
                    admission = self.shared.admit(tensors)?;
                }
            }
        }
    }

    pub(super) async fn submit_async(&self, tensors: Vec<Tensor>) -> Result<Pending, ItemError> {
        let mut admission = self.shared.admit(tensors)?;
        loop {
            match admission {
                Admission::Admitted(pending) => return Ok(pending),
                Admission::Wait(tensors, listener) => {
                    listener.await;
                    admission = self.shared.admit(tensors)?;
                }
            }
        }
    }

    /// Takes no more items and waits until every result was handed out.
    pub(super) fn finish(&self) {
        self.shared.lock().senders = None;
        self.join();
    }

    /// Gives up: every item in flight fails for this reason, unless the chain has ended before.
    pub(super) fn abandon(&self, reason: &str) {
        self.shared.fail(ItemError::Broken(reason.to_owned()));
        self.connections.iter().for_each(shut);
    }

    fn join(&self) {
        for thread in self.threads.lock().unwrap_or_else(std::sync::PoisonError::into_inner).drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the dispatcher panicked");
            }
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.connections.iter().for_each(shut);
        self.shared.lock().senders = None;
        self.join();
    }
}

impl Counters {
    fn add(&self, timing: &Timing) {
        self.bytes.fetch_add(timing.bytes, Relaxed);
        self.transfer.add(timing.transfer);
        self.items.fetch_add(1, Relaxed);
    }
}

enum Admission {
    Admitted(Pending),
    Wait(Vec<Tensor>, event_listener::EventListener),
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Window> {
        // Nothing panics while holding it but broken invariants, after which the chain is given up.
        self.window.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn admit(&self, tensors: Vec<Tensor>) -> Result<Admission, ItemError> {
        let mut window = self.lock();
        if let Some(failure) = &window.failure {
            return Err(failure.clone());
        }
        if window.senders.is_none() {
            return Err(closed());
        }
        match window.delivery.on_event(Event::Submitted) {
            Action::Admit { sequence } => {
                let (reply, pending) = oneshot::channel();
                let path = window.paths.choose();
                window.delivery.sent(path);
                let item = Arc::new(Item { sequence, path, tensors });
                window.items.push_back(Slot { reply, result: None, _item: item.clone() });
                // Never full: it holds a whole window. Sent under the lock, so that items leave in order. If the
                // sending thread is gone, the chain is being given up, and the item is answered with the reason.
                let first = window.paths.replica(path, 0);
                let _ = window.senders.as_ref().map(|senders| senders[first].try_send(item));
                Ok(Admission::Admitted(Pending { reply: pending }))
            }
            _ => {
                self.counters.waits.fetch_add(1, Relaxed);
                Ok(Admission::Wait(tensors, self.freed.listen()))
            }
        }
    }

    fn send(
        &self,
        mut writer: FrameWriter<Outlet>,
        codec: &InUse,
        items: &Receiver<Arc<Item>>,
        epoch: u32,
        recorder: &Recorder,
    ) {
        while let Ok(item) = items.recv() {
            let start = Instant::now();
            writer.set_codec(codec.get());
            let mut views = Vec::with_capacity(item.tensors.len());
            views.extend(item.tensors.iter().map(Tensor::view));
            let header = Header { kind: Kind::Item, epoch, path: item.path, sequence: item.sequence };
            match writer.send(&header, &views) {
                Ok(sent) => recorder.sent(item.sequence, start, &sent, writer.stream().is_direct()),
                Err(e) => {
                    let _ = self.broken.try_send(first_link_failed(&e));
                    return;
                }
            }
        }
        // Says that nothing follows: the chain drains, stage after stage.
        if let Err(e) = writer.into_stream().finish() {
            let _ = self.broken.try_send(first_link_failed(&e));
        }
    }

    /// Takes results in from the `last` replica of the last stage.
    fn receive(&self, mut reader: FrameReader<Inlet>, last: usize, recorder: &Recorder) {
        let reason = loop {
            let mut tensors = reader.buffers();
            let (received, timing) = match reader.receive(&mut tensors) {
                Ok(received) => received,
                Err(e) => break format!("the link from the last node failed: {e}"),
            };
            let (header, result) = match received {
                Received::Item(header) => (header, Ok(tensors)),
                Received::Failure(header, reason) => (header, Err(ItemError::Failed(reason))),
                Received::End => break "the chain ended before its last result".to_owned(),
            };
            self.counters.add(&timing);
            recorder.received(header.sequence, &timing);
            if self.arrive(&header, last, result).is_err() {
                break NOT_TRUSTED.to_owned();
            }
        };
        let finished = {
            let window = self.lock();
            window.senders.is_none() && (window.items.is_empty() || window.paths.left_for(last) == 0)
        };
        if !finished {
            let _ = self.broken.try_send(reason);
        }
    }

    fn arrive(&self, header: &Header, last: usize, result: Reply) -> Result<(), ()> {
        let mut guard = self.lock();
        let window = &mut *guard;
        // A replica answers for nobody else.
        if window.paths.last(header.path) != last {
            return Err(());
        }
        let oldest = window.delivery.oldest();
        let Header { epoch, path, sequence, .. } = *header;
        let action = window.delivery.on_event(Event::Arrived { epoch, path, sequence });
        let count = match action {
            Action::Distrust => return Err(()),
            Action::Keep => 0,
            Action::HandOut { count, .. } => count,
            _ => return Ok(()),
        };
        window.paths.done(path);
        // A window that failed has let go of its items.
        if let Some(slot) = window.items.get_mut((sequence - oldest) as usize) {
            slot.result = Some(result);
        }
        for _ in 0..count {
            let Some(Slot { reply, result: Some(result), .. }) = window.items.pop_front() else { break };
            // The caller may have stopped waiting.
            let _ = reply.send(result);
        }
        drop(guard);
        // One caller for each place, besides those that were told and have not run yet: this item's on its way, and those of
        // results that were handed out.
        self.freed.notify((count as usize).max(1).additional());
        Ok(())
    }

    fn fail(&self, failure: ItemError) {
        let mut window = self.lock();
        window.senders = None;
        let failure = window.failure.get_or_insert(failure).clone();
        for Slot { reply, .. } in window.items.drain(..) {
            let _ = reply.send(Err(failure.clone()));
        }
        drop(window);
        self.freed.notify(usize::MAX);
    }
}
