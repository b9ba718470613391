//! What a node decides: which stages it takes on, what happens to each, who may connect.
//!
//! Pure: events in, actions out; no socket, thread, clock or lock. The driver in the parent module turns
//! the world into events and carries the actions out. Everything a peer says passes through here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use tensor::{Shape, TensorSpec};
use wire::control::{
    CodecTime, DeploymentId, Hello, LinkFigures, ProbeOrder, Purpose, RecodeOrder, Request, Response,
    RunningStage, StageOrder, StageTime, TimeOrder, WeightEntry, WeightHash,
};
use wire::{Codec, CodecList};

/// Somebody who waits for an answer: a request, or a connection that said hello.
pub type Ticket = u64;

/// Deployments a node holds at once. Each has threads and connections; more is a runaway client.
const MAX_DEPLOYMENTS: usize = 64;

/// Probes of links that a node takes part in at once, from and to it; each has a thread and a connection. A
/// dispatcher asks for one at a time, and for some to one node at once to find what they have in common.
pub(crate) const MAX_PROBES: usize = 4;

/// Codecs that are timed at once: more than a plan may use.
const MAX_CODECS: usize = 32;

/// Addresses of the other end of a probe: each that does not answer takes seconds.
const MAX_PROBE_ADDRESSES: usize = 16;

/// How many ended deployments are remembered, to tell why.
const REMEMBERED_ENDS: usize = 16;

/// Why a stage that is slow beyond measure is not connected.
const STILL_TIMED: &str = "the stage is still being timed: one run of it takes minutes here; deploy it without measuring \
                           first, or on a faster node";

/// Why a stage is no longer there when nothing went wrong in it.
pub(crate) const ENDED: &str = "the stage ended";

/// The beginning of what a stage says that does not reach the next.
pub(crate) const UNREACHED: &str = "cannot connect to the next stage";

/// Something happened.
#[derive(Debug)]
pub enum Event {
    /// A dispatcher asks.
    Asked(Ticket, Request),
    /// A connection was opened and said what for.
    Greeted(Ticket, Hello),
    /// The cache was searched: what is missing.
    LookedUp(DeploymentId, Result<Vec<WeightHash>, String>),
    /// A weights connection is done.
    Stored(DeploymentId, Result<(), String>),
    /// The session is built: the engine's name and version.
    Built(DeploymentId, Result<String, String>),
    /// The next stage was connected to.
    NextOpened(DeploymentId, Result<(), String>),
    /// The session was run: what it takes, or why the engine failed on it.
    Timed(DeploymentId, Result<StageTime, String>),
    /// A probe that this node was asked for is over.
    Probed(Ticket, Result<LinkFigures, String>),
    /// A probe that somebody else began is over.
    ProbeEnded,
    /// Codecs were timed.
    CodecsTimed(Ticket, Result<Vec<CodecTime>, String>),
    /// A stage's threads are done, for this reason if it was not an orderly end.
    Ended(DeploymentId, Option<String>),
    /// A dispatcher has left the control plane.
    DispatcherLeft(String),
}

/// Something to do.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Answer a request.
    Answer(Ticket, Response),
    /// Answer a request with this node's description.
    Describe(Ticket),
    /// Answer a request with the figures of a running stage.
    Measure(Ticket, DeploymentId),
    /// Keep when steps begin and end from now on, and answer the request.
    Trace(Ticket, DeploymentId),
    /// Answer a request with what was kept, and forget it.
    Spans(Ticket, DeploymentId),
    /// Answer a request with what the clock shows.
    Clock(Ticket),
    /// Encode what leaves the stage like this from now on, and answer the request.
    Recode(Ticket, DeploymentId, Codec),
    /// Refuse a connection.
    TurnAway(Ticket, String),
    /// Make the deployment's folder and look its weights up in the cache.
    LookUp(Box<StageOrder>),
    /// Accept the connection and store the weights that arrive on it.
    Receive(Ticket, DeploymentId, Vec<WeightEntry>),
    /// Build the session.
    Build(DeploymentId),
    /// Connect to the next stage.
    OpenNext(DeploymentId),
    /// Accept the connection as the stage's input or output.
    Attach(Ticket, DeploymentId, Purpose),
    /// Both ends are there: start the stage's threads.
    Start(DeploymentId),
    /// Run the session on arbitrary tensors of these types and sizes, one for each input of the stage.
    Time(DeploymentId, Vec<TensorSpec>),
    /// Connect to one of these addresses and probe the link.
    Probe(Ticket, Vec<SocketAddr>),
    /// Accept the connection and take part in the probe of its link.
    ServeProbe(Ticket, Purpose),
    /// Encode and decode with these codecs and see how long they take.
    TimeCodecs(Ticket, Vec<Codec>),
    /// Stop and forget everything of the deployment.
    Discard(DeploymentId),
}

/// What a node keeps to.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Memory it promises to deployments at most, bytes.
    pub memory: u64,
    /// Whether it connects to this machine only.
    pub loopback_only: bool,
}

/// The state of a node.
#[derive(Debug)]
pub struct State {
    limits: Limits,
    deployments: BTreeMap<DeploymentId, Deployment>,
    ends: VecDeque<(DeploymentId, String)>,
    probes: usize,
}

#[derive(Debug)]
struct Deployment {
    order: Box<StageOrder>,
    /// To what the leaving link may be switched.
    codecs: CodecList,
    phase: Phase,
    /// Replicas of the stage before that have connected.
    sources: BTreeSet<u32>,
    /// Whether all that follows is connected.
    output: bool,
}

#[derive(Debug, PartialEq)]
enum Phase {
    LookingUp(Ticket),
    Incomplete(Vec<WeightEntry>),
    Receiving(Vec<WeightEntry>),
    Complete,
    Building(Ticket),
    Built,
    Timing(Ticket),
    OpeningNext(Ticket),
    Connected,
}

impl State {
    /// A node that runs nothing.
    pub fn new(limits: Limits) -> State {
        State { limits, deployments: BTreeMap::new(), ends: VecDeque::new(), probes: 0 }
    }

    /// Memory promised, bytes.
    pub fn memory_used(&self) -> u64 {
        self.deployments.values().map(|d| d.order.memory).sum()
    }

    /// What the node runs, without the item counts, which the driver knows.
    pub fn stages(&self) -> impl Iterator<Item = (DeploymentId, RunningStage)> {
        self.deployments.iter().map(|(&id, d)| {
            let StageOrder { model, stage, stages, .. } = &*d.order;
            (id, RunningStage { model: model.clone(), stage: *stage, stages: *stages, items: 0 })
        })
    }

    /// Takes an event in; says what to do.
    pub fn on_event(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Asked(ticket, request) => self.on_asked(ticket, request),
            Event::Greeted(ticket, hello) => self.on_greeted(ticket, hello),
            Event::LookedUp(id, result) => self.on_looked_up(id, result),
            Event::Stored(id, result) => self.on_stored(id, result),
            Event::Built(id, result) => self.on_built(id, result),
            Event::NextOpened(id, result) => self.on_next_opened(id, result),
            Event::Timed(id, result) => self.on_timed(id, result),
            Event::Probed(ticket, result) => {
                self.end_probe();
                vec![Action::Answer(ticket, result.map_or_else(Response::Refused, Response::Probed))]
            }
            Event::CodecsTimed(ticket, times) => {
                self.end_probe();
                vec![Action::Answer(ticket, times.map_or_else(Response::Refused, Response::CodecsTimed))]
            }
            Event::ProbeEnded => {
                self.end_probe();
                vec![]
            }
            Event::Ended(id, reason) => {
                if self.deployments.contains_key(&id) {
                    self.remember(id, reason.unwrap_or_else(|| ENDED.to_owned()));
                }
                self.discard(id, ENDED)
            }
            Event::DispatcherLeft(dispatcher) => {
                let left =
                    |(&id, d): (&DeploymentId, &Deployment)| (d.order.dispatcher == dispatcher).then_some(id);
                let orphans: Vec<DeploymentId> = self.deployments.iter().filter_map(left).collect();
                orphans.into_iter().flat_map(|id| self.discard(id, "its dispatcher left")).collect()
            }
        }
    }

    fn on_asked(&mut self, ticket: Ticket, request: Request) -> Vec<Action> {
        match request {
            Request::Describe => vec![Action::Describe(ticket)],
            Request::Prepare(order) => self.on_prepare(ticket, order),
            Request::Load(id) => {
                self.advance(ticket, id, &Phase::Complete, Phase::Building(ticket), Action::Build(id))
            }
            Request::Connect(id) => self.on_connect(ticket, id),
            Request::Measure(id) => vec![self.if_known(ticket, id, Action::Measure(ticket, id))],
            Request::Trace(id) => vec![self.if_known(ticket, id, Action::Trace(ticket, id))],
            Request::Spans(id) => vec![self.if_known(ticket, id, Action::Spans(ticket, id))],
            Request::Clock => vec![Action::Clock(ticket)],
            Request::Release(id) => {
                let mut actions = self.discard(id, "it was released");
                actions.push(Action::Answer(ticket, Response::Released));
                actions
            }
            Request::Time(order) => self.on_time(ticket, &order),
            Request::Probe(order) => self.on_probe(ticket, order),
            Request::Recode(order) => vec![self.on_recode(ticket, order)],
            Request::TimeCodecs(codes) => self.on_time_codecs(ticket, &codes),
        }
    }

    fn on_recode(&self, ticket: Ticket, order: RecodeOrder) -> Action {
        let Some(deployment) = self.deployments.get(&order.deployment) else {
            return self.refuse_unknown(ticket, order.deployment);
        };
        match Codec::from_code(order.codec) {
            Some(codec) if deployment.codecs.contains(codec) => {
                Action::Recode(ticket, order.deployment, codec)
            }
            other => {
                let asked = other.map_or_else(|| format!("number {:?}", order.codec), |c| c.to_string());
                let reason = format!("codec {asked} is not for this link, which takes {}", deployment.codecs);
                Action::Answer(ticket, Response::Refused(reason))
            }
        }
    }

    fn on_prepare(&mut self, ticket: Ticket, mut order: Box<StageOrder>) -> Vec<Action> {
        // Sizes that the model leaves open are bounded by what this node has, not by a dispatcher's word alone.
        order.max_tensor_len = order.max_tensor_len.min(self.limits.memory);
        match self.accepts(&order) {
            Err(reason) => vec![Action::Answer(ticket, Response::Refused(reason))],
            Ok(codecs) => {
                let deployment = Deployment {
                    order: order.clone(),
                    codecs,
                    phase: Phase::LookingUp(ticket),
                    sources: BTreeSet::new(),
                    output: false,
                };
                self.deployments.insert(order.deployment, deployment);
                vec![Action::LookUp(order)]
            }
        }
    }

    /// Whether the order is taken on; gives the codecs that the leaving link may use.
    fn accepts(&self, order: &StageOrder) -> Result<CodecList, String> {
        order.check()?;
        let codecs = order.codecs()?;
        if self.deployments.contains_key(&order.deployment) {
            return Err("this node already has a stage of that deployment".to_owned());
        }
        if self.deployments.len() >= MAX_DEPLOYMENTS {
            return Err(format!("this node already holds {MAX_DEPLOYMENTS} deployments"));
        }
        let weights = order.weights.iter().try_fold(0u64, |sum, w| sum.checked_add(w.len));
        if weights.is_none_or(|weights| weights > order.memory) {
            return Err("an order that promises less memory than its weights take".to_owned());
        }
        if let Some(address) =
            order.next.iter().flatten().find(|a| self.limits.loopback_only && !a.ip().is_loopback())
        {
            return Err(format!(
                "the next stage is on another machine ({address}), which needs --insecure here"
            ));
        }
        let (used, limit) = (self.memory_used(), self.limits.memory);
        match used.checked_add(order.memory) {
            Some(sum) if sum <= limit => Ok(codecs.leaving),
            _ => Err(format!(
                "stage {} of {} takes {} of memory, but only {} of this node's {} are free",
                order.stage + 1,
                order.stages,
                megabytes(order.memory),
                megabytes(limit.saturating_sub(used)),
                megabytes(limit),
            )),
        }
    }

    fn on_looked_up(&mut self, id: DeploymentId, result: Result<Vec<WeightHash>, String>) -> Vec<Action> {
        let Some(deployment) = self.deployments.get_mut(&id) else { return vec![Action::Discard(id)] };
        let Phase::LookingUp(ticket) = deployment.phase else { return vec![] };
        match result {
            Ok(missing) => {
                let weights = deployment.order.weights.iter();
                let entries: Vec<_> = weights.filter(|w| missing.contains(&w.hash)).copied().collect();
                deployment.phase =
                    if entries.is_empty() { Phase::Complete } else { Phase::Incomplete(entries.clone()) };
                let missing = entries.into_iter().map(|w| w.hash).collect();
                vec![Action::Answer(ticket, Response::Prepared { missing })]
            }
            Err(reason) => self.discard(id, &reason),
        }
    }

    fn on_greeted(&mut self, ticket: Ticket, hello: Hello) -> Vec<Action> {
        if matches!(hello.purpose, Purpose::ProbeTo | Purpose::ProbeFrom) {
            return match self.begin_probe() {
                Ok(()) => vec![Action::ServeProbe(ticket, hello.purpose)],
                Err(reason) => vec![Action::TurnAway(ticket, reason)],
            };
        }
        let id = hello.deployment;
        let Some(deployment) = self.deployments.get_mut(&id) else {
            return vec![Action::TurnAway(ticket, "this node has no such deployment".to_owned())];
        };
        if hello.epoch != deployment.order.epoch {
            let (found, expected) = (hello.epoch, deployment.order.epoch);
            let reason = format!("epoch {found} is not the plan's epoch {expected}");
            return vec![Action::TurnAway(ticket, reason)];
        }
        if hello.stage != deployment.order.stage {
            let (expected, found) = (u64::from(deployment.order.stage) + 1, u64::from(hello.stage) + 1);
            let reason = format!("this node runs stage {expected} of it, not stage {found}");
            return vec![Action::TurnAway(ticket, reason)];
        }
        let replica = deployment.order.crossing.replica;
        if hello.replica != replica {
            let (expected, found) = (u64::from(replica) + 1, u64::from(hello.replica) + 1);
            let reason = format!("this node runs replica {expected} of the stage, not replica {found}");
            return vec![Action::TurnAway(ticket, reason)];
        }
        match deployment.connect(&hello) {
            Err(reason) => vec![Action::TurnAway(ticket, reason.to_owned())],
            Ok(Some(missing)) => vec![Action::Receive(ticket, id, missing)],
            Ok(None) => {
                let mut actions = vec![Action::Attach(ticket, id, hello.purpose)];
                actions.extend(deployment.start(id));
                actions
            }
        }
    }

    fn on_stored(&mut self, id: DeploymentId, result: Result<(), String>) -> Vec<Action> {
        if let Some(deployment) = self.deployments.get_mut(&id)
            && let Phase::Receiving(missing) = &mut deployment.phase
        {
            deployment.phase = match result {
                Ok(()) => Phase::Complete,
                // The dispatcher may open a new connection and try again.
                Err(_) => Phase::Incomplete(std::mem::take(missing)),
            };
        }
        vec![]
    }

    fn on_built(&mut self, id: DeploymentId, result: Result<String, String>) -> Vec<Action> {
        let Some(deployment) = self.deployments.get_mut(&id) else { return vec![Action::Discard(id)] };
        let Phase::Building(ticket) = deployment.phase else { return vec![] };
        match result {
            Ok(engine) => {
                deployment.phase = Phase::Built;
                vec![Action::Answer(ticket, Response::Loaded { engine })]
            }
            Err(reason) => self.discard(id, &reason),
        }
    }

    fn on_time(&mut self, ticket: Ticket, order: &TimeOrder) -> Vec<Action> {
        let id = order.deployment;
        let Some(deployment) = self.deployments.get(&id) else {
            return vec![self.refuse_unknown(ticket, id)];
        };
        if !deployment.sources.is_empty() || deployment.output {
            // The connection that is left to come would start the stage and take the session.
            let reason = "a stage that is connected, or about to be, cannot be timed".to_owned();
            return vec![Action::Answer(ticket, Response::Refused(reason))];
        }
        match deployment.inputs(&order.shapes) {
            Err(reason) => vec![Action::Answer(ticket, Response::Refused(reason))],
            Ok(inputs) => {
                self.advance(ticket, id, &Phase::Built, Phase::Timing(ticket), Action::Time(id, inputs))
            }
        }
    }

    fn on_timed(&mut self, id: DeploymentId, result: Result<StageTime, String>) -> Vec<Action> {
        let Some(deployment) = self.deployments.get_mut(&id) else { return vec![] };
        let Phase::Timing(ticket) = deployment.phase else { return vec![] };
        deployment.phase = Phase::Built;
        vec![Action::Answer(ticket, result.map_or_else(Response::Refused, Response::Timed))]
    }

    fn on_probe(&mut self, ticket: Ticket, ProbeOrder { to }: ProbeOrder) -> Vec<Action> {
        let refuse = |reason| vec![Action::Answer(ticket, Response::Refused(reason))];
        let reach = |address: &SocketAddr| address.ip().is_loopback() || !self.limits.loopback_only;
        if to.len() > MAX_PROBE_ADDRESSES {
            return refuse(format!("a probe to more than {MAX_PROBE_ADDRESSES} addresses"));
        }
        let Some(unreachable) = to.iter().find(|address| !reach(address)) else {
            return match self.begin_probe() {
                Ok(()) => vec![Action::Probe(ticket, to)],
                Err(reason) => refuse(reason),
            };
        };
        refuse(format!("the other node is on another machine ({unreachable}), which needs --insecure here"))
    }

    /// Counts as a probe: it takes a thread for a second, too.
    fn on_time_codecs(&mut self, ticket: Ticket, codes: &[[u8; Codec::CODE_LEN]]) -> Vec<Action> {
        let refuse = |reason| vec![Action::Answer(ticket, Response::Refused(reason))];
        if codes.len() > MAX_CODECS {
            return refuse(format!("more than {MAX_CODECS} codecs to time"));
        }
        let Some(codecs) = codes.iter().map(|&code| Codec::from_code(code)).collect() else {
            return refuse("a codec this node does not know".to_owned());
        };
        match self.begin_probe() {
            Ok(()) => vec![Action::TimeCodecs(ticket, codecs)],
            Err(reason) => refuse(reason),
        }
    }

    fn begin_probe(&mut self) -> Result<(), String> {
        if self.probes >= MAX_PROBES {
            return Err(format!("this node takes part in {MAX_PROBES} probes already"));
        }
        self.probes += 1;
        Ok(())
    }

    fn end_probe(&mut self) {
        assert!(self.probes > 0, "a probe ends that did not begin");
        self.probes -= 1;
    }

    fn on_connect(&mut self, ticket: Ticket, id: DeploymentId) -> Vec<Action> {
        let last = self.deployments.get(&id).is_some_and(|d| d.order.next.is_empty());
        if last {
            let connected = Action::Answer(ticket, Response::Connected);
            self.advance(ticket, id, &Phase::Built, Phase::Connected, connected)
        } else {
            self.advance(ticket, id, &Phase::Built, Phase::OpeningNext(ticket), Action::OpenNext(id))
        }
    }

    fn on_next_opened(&mut self, id: DeploymentId, result: Result<(), String>) -> Vec<Action> {
        let Some(deployment) = self.deployments.get_mut(&id) else { return vec![Action::Discard(id)] };
        let Phase::OpeningNext(ticket) = deployment.phase else { return vec![] };
        match result {
            Ok(()) => {
                deployment.phase = Phase::Connected;
                deployment.output = true;
                let mut actions = vec![Action::Answer(ticket, Response::Connected)];
                actions.extend(deployment.start(id));
                actions
            }
            Err(reason) => self.discard(id, &format!("{UNREACHED}: {reason}")),
        }
    }

    /// The step from one phase to the next that a request asks for.
    fn advance(
        &mut self,
        ticket: Ticket,
        id: DeploymentId,
        from: &Phase,
        to: Phase,
        action: Action,
    ) -> Vec<Action> {
        match self.deployments.get_mut(&id) {
            None => vec![self.refuse_unknown(ticket, id)],
            Some(deployment) if deployment.phase == *from => {
                deployment.phase = to;
                vec![action]
            }
            Some(deployment) => {
                let reason = match deployment.phase {
                    Phase::Timing(_) => STILL_TIMED,
                    _ => "the request does not fit the deployment's progress",
                };
                let reason = reason.to_owned();
                vec![Action::Answer(ticket, Response::Refused(reason))]
            }
        }
    }

    fn if_known(&self, ticket: Ticket, id: DeploymentId, action: Action) -> Action {
        if self.deployments.contains_key(&id) { action } else { self.refuse_unknown(ticket, id) }
    }

    fn refuse_unknown(&self, ticket: Ticket, id: DeploymentId) -> Action {
        let end = self.ends.iter().find(|(ended, _)| *ended == id);
        let reason = end.map_or("this node has no such deployment", |(_, reason)| reason);
        Action::Answer(ticket, Response::Refused(reason.to_owned()))
    }

    fn remember(&mut self, id: DeploymentId, reason: String) {
        self.ends.truncate(REMEMBERED_ENDS - 1);
        self.ends.push_front((id, reason));
    }

    fn discard(&mut self, id: DeploymentId, reason: &str) -> Vec<Action> {
        let Some(deployment) = self.deployments.remove(&id) else { return vec![] };
        let mut actions = vec![Action::Discard(id)];
        if let Phase::LookingUp(ticket)
        | Phase::Building(ticket)
        | Phase::Timing(ticket)
        | Phase::OpeningNext(ticket) = deployment.phase
        {
            actions.push(Action::Answer(ticket, Response::Refused(reason.to_owned())));
        }
        actions
    }
}

impl Deployment {
    /// Takes a new connection in; for weights, gives those that shall come on it.
    fn connect(&mut self, hello: &Hello) -> Result<Option<Vec<WeightEntry>>, &'static str> {
        let Hello { purpose, from, .. } = *hello;
        if purpose == Purpose::Weights {
            let Phase::Incomplete(missing) = &self.phase else { return Err("no weights are missing") };
            let missing = missing.clone();
            self.phase = Phase::Receiving(missing.clone());
            return Ok(Some(missing));
        }
        if !matches!(self.phase, Phase::Built | Phase::OpeningNext(_) | Phase::Connected) {
            return Err("the stage is not loaded yet");
        }
        if purpose == Purpose::Results && !self.order.next.is_empty() {
            return Err("this stage sends its results to the next stage");
        }
        let is_new = match purpose {
            Purpose::Results => !std::mem::replace(&mut self.output, true),
            _ if from >= self.order.crossing.sources => return Err("the stage before has no such replica"),
            _ => self.sources.insert(from),
        };
        if is_new { Ok(None) } else { Err("the stage already has this connection") }
    }

    /// The tensors to time the stage on, if they are such as may arrive and fit the memory that was promised.
    fn inputs(&self, shapes: &[Vec<u64>]) -> Result<Vec<TensorSpec>, String> {
        if shapes.len() != self.order.inputs.len() {
            let (expected, found) = (self.order.inputs.len(), shapes.len());
            return Err(format!("the stage has {expected} inputs, sizes of {found} were given"));
        }
        let mut left = self.order.memory;
        std::iter::zip(&self.order.inputs, shapes)
            .map(|(spec, dims)| {
                let spec = TensorSpec::try_from(spec).map_err(|e| e.to_string())?;
                let no_shape = || format!("{dims:?} is no shape");
                let dims: Result<Vec<usize>, _> = dims.iter().map(|&dim| usize::try_from(dim)).collect();
                let shape = dims.ok().and_then(|dims| Shape::new(&dims)).ok_or_else(no_shape)?;
                spec.check(spec.dtype, shape).map_err(|e| e.to_string())?;
                let len = shape.elements().and_then(|elements| spec.dtype.byte_len(elements));
                let len = len.map(|len| len as u64).filter(|&len| len <= self.order.max_tensor_len);
                let too_large = || format!("tensor `{}` is larger than was promised", spec.name);
                left = len.and_then(|len| left.checked_sub(len)).ok_or_else(too_large)?;
                Ok(TensorSpec::fixed(&spec.name, spec.dtype, shape))
            })
            .collect()
    }

    fn start(&self, id: DeploymentId) -> Option<Action> {
        let sources = self.sources.len() as u32;
        (sources == self.order.crossing.sources && self.output).then_some(Action::Start(id))
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests;
