//! Turns what happens to a node into events of [`super::state`] and carries its actions out.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};
use engine::{Engine, Session};
use tensor::TensorSpec;
use wire::Codec;
use wire::control::{
    CodecTime, DeploymentId, Hello, LinkFigures, NodeDescription, Purpose, Request, Response, StageOrder,
    StageTime, WeightEntry, WeightHash, Welcome,
};

use super::order::{build_session, prepare_folder, setup, time_session};
use super::slot::Slot;
use super::stage::Stage;
use super::state::{Action, Event, Limits, State, Ticket};
use super::{Cache, NodeConfig};
use crate::control::{Inquiry, Presence};
use crate::engine_thread;
use crate::recorder::{self, Recorder};
use crate::transport::{Timeouts, connect, weights, write_message};
use crate::{coding, machine, memory, probe};

/// Events that may wait. Each is a request, a connection or the end of some work; a node that is this far
/// behind answers that it is busy.
const MAX_EVENTS: usize = 1024;

/// A stage is built although one that was given up so long ago is still there: an item may never end.
const LONGEST_DISCARD: Duration = Duration::from_secs(10);

/// A dispatcher that ships weights may pause this long: it hashes and reads them from disk.
const WEIGHTS_TIMEOUT: Duration = Duration::from_secs(60);

/// What reaches the event loop.
pub(super) enum Incoming {
    Asked(Inquiry),
    Greeted(TcpStream, Hello),
    Dispatcher(Presence),
    LookedUp(DeploymentId, io::Result<(PathBuf, Vec<WeightHash>)>),
    Stored(DeploymentId, io::Result<()>),
    Built(DeploymentId, Result<Box<dyn Session>, String>),
    NextOpened(DeploymentId, io::Result<Vec<TcpStream>>),
    Timed(DeploymentId, Box<dyn Session>, Result<StageTime, String>),
    Probed(Ticket, Result<LinkFigures, String>),
    ProbeEnded,
    CodecsTimed(Ticket, Result<Vec<CodecTime>, String>),
    Ended(DeploymentId, Option<String>),
    Stop,
}

/// Passes a request on to the event loop without blocking the control plane.
pub(super) fn offer(events: &Sender<Incoming>, inquiry: Inquiry) {
    if let Err(TrySendError::Full(Incoming::Asked(inquiry))) = events.try_send(Incoming::Asked(inquiry)) {
        inquiry.answer(&Response::Refused("the node is busy; ask again".to_owned()));
    }
}

/// The node's event loop and all it owns.
pub(super) struct Driver {
    state: State,
    sender: Sender<Incoming>,
    receiver: Receiver<Incoming>,
    /// Work that could not begin: the event loop must not wait for a place in its own queue.
    failed: VecDeque<Incoming>,
    cache: Arc<Cache>,
    engine: Arc<dyn Engine>,
    threads: usize,
    description: NodeDescription,
    /// When its clock showed 0.
    started: Instant,
    /// Private memory of the process before any deployment, bytes.
    memory_before: u64,
    next_ticket: Ticket,
    inquiries: HashMap<Ticket, Inquiry>,
    connections: HashMap<Ticket, TcpStream>,
    parts: BTreeMap<DeploymentId, Parts>,
    /// Stages that were given up, and since when: disconnected once they are gone.
    discarding: Vec<(Instant, Receiver<()>)>,
}

/// What a deployment has gathered so far.
struct Parts {
    order: Box<StageOrder>,
    folder: Option<PathBuf>,
    session: Option<Box<dyn Session>>,
    sources: Vec<TcpStream>,
    sinks: Vec<TcpStream>,
    stage: Option<Stage>,
    recorder: Recorder,
    /// Held by all that works on it, and heard of when nothing does any more.
    there: Sender<()>,
    gone: Receiver<()>,
}

impl Driver {
    pub(super) fn new(config: &NodeConfig, cache: Cache, data_addresses: Vec<SocketAddr>) -> Driver {
        let (sender, receiver) = bounded(MAX_EVENTS);
        let cores = machine::cores();
        Driver {
            state: State::new(Limits { memory: config.memory, loopback_only: !config.network.insecure }),
            sender,
            receiver,
            failed: VecDeque::new(),
            cache: Arc::new(cache),
            engine: config.engine.clone(),
            threads: config.threads,
            description: NodeDescription {
                name: config.name.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                cores,
                threads: config.threads as u32,
                memory_limit: config.memory,
                memory_used: 0,
                engine: format!("{} {}", config.engine.name(), config.engine.version()),
                data_addresses,
                machine: machine::describe(),
                stages: Vec::new(),
            },
            started: Instant::now(),
            memory_before: memory::private(),
            next_ticket: 0,
            inquiries: HashMap::new(),
            connections: HashMap::new(),
            parts: BTreeMap::new(),
            discarding: Vec::new(),
        }
    }

    pub(super) fn events(&self) -> Sender<Incoming> {
        self.sender.clone()
    }

    pub(super) fn run(mut self) {
        while let Some(incoming) = self.failed.pop_front().or_else(|| self.receiver.recv().ok()) {
            if matches!(incoming, Incoming::Stop) {
                break;
            }
            let event = self.take_in(incoming);
            for action in event.map(|e| self.state.on_event(e)).unwrap_or_default() {
                self.carry_out(action);
            }
        }
        // Whoever still has something to tell must not wait for a place in the queue.
        drop(self.receiver);
        for (_, parts) in self.parts {
            parts.stage.into_iter().for_each(Stage::stop);
        }
    }

    /// Keeps what cannot go into a pure event, and makes the event.
    fn take_in(&mut self, incoming: Incoming) -> Option<Event> {
        let text = |e: io::Error| e.to_string();
        Some(match incoming {
            Incoming::Asked(mut inquiry) => {
                match std::mem::replace(&mut inquiry.request, Ok(Request::Describe)) {
                    Err(e) => {
                        inquiry.answer(&Response::Refused(e.to_string()));
                        return None;
                    }
                    Ok(request) => {
                        let ticket = self.ticket();
                        self.inquiries.insert(ticket, inquiry);
                        Event::Asked(ticket, request)
                    }
                }
            }
            Incoming::Greeted(stream, hello) => {
                let ticket = self.ticket();
                self.connections.insert(ticket, stream);
                Event::Greeted(ticket, hello)
            }
            Incoming::Dispatcher(Presence { alive: true, .. }) | Incoming::Stop => return None,
            Incoming::Dispatcher(Presence { id, .. }) => Event::DispatcherLeft(id),
            Incoming::LookedUp(id, result) => {
                let result = result.map_err(text).map(|(folder, missing)| {
                    match self.parts.get_mut(&id) {
                        Some(parts) => parts.folder = Some(folder),
                        None => self.cache.discard(&folder),
                    }
                    missing
                });
                Event::LookedUp(id, result)
            }
            Incoming::Stored(id, result) => Event::Stored(id, result.map_err(text)),
            Incoming::Built(id, result) => {
                let result = result.map(|session| {
                    if let Some(parts) = self.parts.get_mut(&id) {
                        parts.session = Some(session);
                    }
                    self.description.engine.clone()
                });
                Event::Built(id, result)
            }
            Incoming::NextOpened(id, result) => {
                let result = result.map_err(text).map(|streams| {
                    if let Some(parts) = self.parts.get_mut(&id) {
                        parts.sinks = streams;
                    }
                });
                Event::NextOpened(id, result)
            }
            Incoming::Timed(id, session, result) => {
                if let Some(parts) = self.parts.get_mut(&id) {
                    parts.session = Some(session);
                }
                Event::Timed(id, result)
            }
            Incoming::Probed(ticket, result) => Event::Probed(ticket, result),
            Incoming::ProbeEnded => Event::ProbeEnded,
            Incoming::CodecsTimed(ticket, times) => Event::CodecsTimed(ticket, times),
            Incoming::Ended(id, reason) => {
                if let Some(reason) = &reason {
                    tracing::warn!("a stage was given up: {reason}");
                }
                Event::Ended(id, reason)
            }
        })
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Answer(ticket, response) => self.answer(ticket, &response),
            Action::Describe(ticket) => {
                let description = self.describe();
                self.answer(ticket, &Response::Description(description));
            }
            Action::Measure(ticket, id) => self.measure(ticket, id),
            Action::Trace(ticket, id) => self.trace(ticket, id),
            Action::Spans(ticket, id) => self.spans(ticket, id),
            Action::Clock(ticket) => {
                self.answer(ticket, &Response::Clock(recorder::nanos(self.started, Instant::now())))
            }
            Action::TurnAway(ticket, reason) => {
                if let Some(mut stream) = self.connections.remove(&ticket) {
                    tracing::warn!("a data connection was turned away: {reason}");
                    // The peer may be gone; it is being refused anyway.
                    let _ = write_message(&mut stream, &Welcome::Refused(reason));
                }
            }
            Action::LookUp(order) => self.look_up(order),
            Action::Receive(ticket, id, missing) => self.receive_weights(ticket, id, missing),
            Action::Build(id) => self.build(id),
            Action::OpenNext(id) => self.open_next(id),
            Action::Attach(ticket, id, purpose) => self.attach(ticket, id, purpose),
            Action::Start(id) => self.start(id),
            Action::Time(id, inputs) => self.time(id, inputs),
            Action::Probe(ticket, addresses) => self.probe(ticket, addresses),
            Action::ServeProbe(ticket, purpose) => self.serve_probe(ticket, purpose),
            Action::Recode(ticket, id, codec) => self.recode(ticket, id, codec),
            Action::TimeCodecs(ticket, codecs) => self.time_codecs(ticket, codecs),
            Action::Discard(id) => self.discard(id),
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        self.next_ticket
    }

    fn answer(&mut self, ticket: Ticket, response: &Response) {
        if let Some(inquiry) = self.inquiries.remove(&ticket) {
            inquiry.answer(response);
        }
    }

    fn describe(&self) -> NodeDescription {
        let items = |id| {
            let stage = self.parts.get(&id).and_then(|p| p.stage.as_ref());
            stage.map_or(0, |s| s.figures().items)
        };
        let mut description = self.description.clone();
        description.memory_used = self.state.memory_used();
        description.stages = self
            .state
            .stages()
            .map(|(id, mut stage)| {
                stage.items = items(id);
                stage
            })
            .collect();
        description
    }

    fn measure(&mut self, ticket: Ticket, id: DeploymentId) {
        let stage = self.parts.get(&id).and_then(|p| p.stage.as_ref());
        let mut figures = stage.map(Stage::figures).unwrap_or_default();
        figures.process_cpu_seconds = machine::process_cpu_seconds();
        self.answer(ticket, &Response::Measured(figures));
    }

    /// A stage that is not started yet keeps what it does once it is.
    fn trace(&mut self, ticket: Ticket, id: DeploymentId) {
        if let Some(parts) = self.parts.get(&id) {
            parts.recorder.begin();
        }
        self.answer(ticket, &Response::Tracing);
    }

    fn spans(&mut self, ticket: Ticket, id: DeploymentId) {
        let spans = self.parts.get(&id).map(|parts| parts.recorder.report(self.started));
        self.answer(ticket, &Response::Spans(spans.unwrap_or_default()));
    }

    /// A stage that is not started yet starts with this codec.
    fn recode(&mut self, ticket: Ticket, id: DeploymentId, codec: Codec) {
        if let Some(parts) = self.parts.get_mut(&id) {
            parts.order.codec_out = codec.code();
            parts.stage.iter().for_each(|stage| stage.set_codec(codec));
        }
        self.answer(ticket, &Response::Recoded);
    }

    /// Runs slow work on a thread of its own; what it sends becomes an event, and `failed` does when there is no
    /// thread to be had.
    fn spawn(
        &mut self,
        name: &str,
        failed: impl FnOnce(io::Error) -> Incoming,
        work: impl FnOnce(Sender<Incoming>) + Send + 'static,
    ) {
        let sender = self.sender.clone();
        if let Err(e) = std::thread::Builder::new().name(name.to_owned()).spawn(move || work(sender)) {
            let e = io::Error::new(e.kind(), format!("cannot start a thread: {e}"));
            tracing::error!("{name}: {e}");
            self.failed.push_back(failed(e));
        }
    }

    fn look_up(&mut self, order: Box<StageOrder>) {
        let id = order.deployment;
        let name = format!("{id:032x}");
        let (cache, skeleton, weights) = (self.cache.clone(), order.skeleton.clone(), order.weights.clone());
        let recorder = Recorder::default();
        let (sources, sinks) = (Vec::new(), Vec::new());
        let (there, gone) = bounded(0);
        let (session, stage) = (None, None);
        let parts = Parts { order, folder: None, session, sources, sinks, stage, recorder, there, gone };
        self.parts.insert(id, parts);
        let failed = move |e| Incoming::LookedUp(id, Err(e));
        self.spawn("look-up", failed, move |events| {
            let found = prepare_folder(&cache, &name, &skeleton, &weights);
            // Here and below: the receiver is gone when the node stops.
            let _ = events.send(Incoming::LookedUp(id, found));
        });
    }

    fn receive_weights(&mut self, ticket: Ticket, id: DeploymentId, missing: Vec<WeightEntry>) {
        let Some(mut stream) = self.connections.remove(&ticket) else { return };
        let Some(folder) = self.parts.get(&id).and_then(|p| p.folder.clone()) else { return };
        let cache = self.cache.clone();
        let failed = move |e| Incoming::Stored(id, Err(e));
        self.spawn("weights", failed, move |events| {
            let accepted = stream
                .set_read_timeout(Some(WEIGHTS_TIMEOUT))
                .and_then(|()| write_message(&mut stream, &Welcome::Accepted));
            let result = accepted.and_then(|()| {
                weights::receive(&mut stream, &missing, |w, bytes| cache.store(w, bytes, &folder))
            });
            if let Err(e) = cache.evict() {
                tracing::warn!("the cache could not be trimmed: {e}");
            }
            // The state must know before the dispatcher does, or its next request would come too early.
            let told = result.as_ref().map(|_| ()).map_err(|e| io::Error::new(e.kind(), e.to_string()));
            let _ = events.send(Incoming::Stored(id, told));
            match (weights::conclude(&mut stream, &result), result) {
                (Ok(()), Ok(())) => {}
                (_, Err(e)) if !weights::is_of_link(&e) => tracing::warn!("weights could not be stored: {e}"),
                (Err(e), _) | (Ok(()), Err(e)) => {
                    tracing::warn!("the dispatcher left while weights were shipped: {e}");
                }
            }
        });
    }

    fn build(&mut self, id: DeploymentId) {
        let Some(parts) = self.parts.get(&id) else { return };
        let Some(folder) = parts.folder.clone() else { return };
        let (engine, order, threads) = (self.engine.clone(), parts.order.clone(), self.threads);
        let (allowed, limit) =
            (self.memory_before + self.description.memory_limit, self.description.memory_limit);
        let failed = move |e: io::Error| Incoming::Built(id, Err(e.to_string()));
        let (there, discarding) = (parts.there.clone(), self.discarding.clone());
        self.spawn("build", failed, move |events| {
            let _there = there;
            // Their memory was promised to this one already.
            for (since, gone) in discarding {
                let _ = gone.recv_deadline(since + LONGEST_DISCARD);
            }
            // An engine's bug costs the deployment, not the node.
            let built = engine_thread::run(|| build_session(&*engine, &order, &folder, threads));
            memory::give_back(); // what models before have left counts for nobody
            let built = built.flatten().and_then(|session| match memory::private() {
                taken if taken <= allowed => Ok(session),
                taken => Err(over_limit(taken - (allowed - limit), limit)),
            });
            let _ = events.send(Incoming::Built(id, built));
        });
    }

    fn open_next(&mut self, id: DeploymentId) {
        let Some(parts) = self.parts.get(&id) else { return };
        let next = parts.order.next.clone();
        let StageOrder { epoch, stage, crossing, .. } = *parts.order;
        let hello = move |replica| Hello {
            deployment: id,
            epoch,
            stage: stage + 1,
            replica,
            from: crossing.replica,
            purpose: Purpose::Inputs,
        };
        let failed = move |e| Incoming::NextOpened(id, Err(e));
        self.spawn("connect", failed, move |events| {
            let open = |(replica, addresses): (u32, &Vec<SocketAddr>)| {
                connect(addresses, &hello(replica), &Timeouts::default())
            };
            let _ = events.send(Incoming::NextOpened(id, (0..).zip(&next).map(open).collect()));
        });
    }

    fn attach(&mut self, ticket: Ticket, id: DeploymentId, purpose: Purpose) {
        let Some(mut stream) = self.connections.remove(&ticket) else { return };
        let Some(parts) = self.parts.get_mut(&id) else { return };
        if let Err(e) = write_message(&mut stream, &Welcome::Accepted) {
            tracing::warn!("a data connection broke while it was greeted: {e}");
        }
        let end = if purpose == Purpose::Results { &mut parts.sinks } else { &mut parts.sources };
        end.push(stream);
    }

    fn start(&mut self, id: DeploymentId) {
        let Some(parts) = self.parts.get_mut(&id) else { return };
        let Some(session) = parts.session.take() else { return };
        let (sources, sinks) = (std::mem::take(&mut parts.sources), std::mem::take(&mut parts.sinks));
        let sender = self.sender.clone();
        let ended = move |reason| drop(sender.send(Incoming::Ended(id, reason)));
        match setup(&parts.order, session, sources, sinks, &parts.recorder)
            .and_then(|s| Stage::start(s, ended))
        {
            Ok(stage) => parts.stage = Some(stage),
            Err(e) => self.failed.push_back(Incoming::Ended(id, Some(e.to_string()))),
        }
    }

    fn time(&mut self, id: DeploymentId, inputs: Vec<TensorSpec>) {
        let Some(parts) = self.parts.get_mut(&id) else { return };
        let session = parts.session.take().expect("a stage that is built and not connected has its session");
        let (feeds, routes) = (parts.order.feeds.clone(), parts.order.routes.clone());
        // Through a channel, so that it is not lost with a thread that does not start.
        let (give, given) = bounded(1);
        give.send(session).expect("there is room for it");
        let take = given.clone();
        let take = move || take.try_recv().expect("nobody else takes it");
        let there = parts.there.clone();
        let failed = move |e: io::Error| {
            Incoming::Timed(id, given.try_recv().expect("nobody took it"), Err(e.to_string()))
        };
        self.spawn("time", failed, move |events| {
            let _there = there;
            let mut session = take();
            // The session is only lent: what the engine says of made-up values is nothing against the stage.
            let timed =
                engine_thread::run(|| time_session(&mut *session, &inputs, &feeds, &routes)).flatten();
            let _ = events.send(Incoming::Timed(id, session, timed));
        });
    }

    fn probe(&mut self, ticket: Ticket, addresses: Vec<SocketAddr>) {
        let hello = Hello::for_probe(Purpose::ProbeTo);
        let failed = move |e: io::Error| Incoming::Probed(ticket, Err(e.to_string()));
        self.spawn("probe", failed, move |events| {
            let mut slot =
                Slot::new(events, Incoming::Probed(ticket, Err("the probe broke down".to_owned())));
            let opened = connect(&addresses, &hello, &Timeouts::default());
            let found = opened.and_then(|stream| probe::send(&stream)).map_err(|e| e.to_string());
            slot.end = Some(Incoming::Probed(ticket, found));
        });
    }

    fn time_codecs(&mut self, ticket: Ticket, codecs: Vec<Codec>) {
        let failed = move |e: io::Error| Incoming::CodecsTimed(ticket, Err(e.to_string()));
        self.spawn("time-codecs", failed, move |events| {
            let broken = Err("timing codecs broke down".to_owned());
            let mut slot = Slot::new(events, Incoming::CodecsTimed(ticket, broken));
            slot.end = Some(Incoming::CodecsTimed(ticket, Ok(coding::time(&codecs))));
        });
    }

    fn serve_probe(&mut self, ticket: Ticket, purpose: Purpose) {
        let mut stream = self.connections.remove(&ticket).expect("it was kept when it said hello");
        let failed = |_| Incoming::ProbeEnded;
        self.spawn("probe", failed, move |events| {
            let _slot = Slot::new(events, Incoming::ProbeEnded);
            let serve = if purpose == Purpose::ProbeTo { probe::count } else { probe::send };
            let welcomed = write_message(&mut stream, &Welcome::Accepted);
            if let Err(e) = welcomed.and_then(|()| serve(&stream)) {
                tracing::warn!("a probe of a link broke off: {e}");
            }
        });
    }

    fn discard(&mut self, id: DeploymentId) {
        let Some(parts) = self.parts.remove(&id) else { return };
        let cache = self.cache.clone();
        let is_there = |(since, gone): &(Instant, Receiver<()>)| {
            since.elapsed() < LONGEST_DISCARD && gone.try_recv() != Err(TryRecvError::Disconnected)
        };
        self.discarding.retain(is_there);
        self.discarding.push((Instant::now(), parts.gone));
        let run = move || {
            let _there = parts.there;
            parts.stage.into_iter().for_each(Stage::stop);
            drop(parts.session);
            parts.folder.iter().for_each(|folder| cache.discard(folder));
            memory::give_back();
        };
        // An item in the engine is finished first, which may take a while.
        if let Err(e) = std::thread::Builder::new().name("discard".to_owned()).spawn(run) {
            tracing::error!("cannot start a thread: {e}");
        }
    }
}

/// An engine may take more than the plan expects of it: packed copies of weights, for one.
fn over_limit(taken: u64, limit: u64) -> String {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    format!(
        "with the stage loaded this node's deployments take {:.1} MB, above its limit of {:.1} MB",
        megabytes(taken),
        megabytes(limit)
    )
}
