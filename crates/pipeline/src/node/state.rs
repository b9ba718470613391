//! What a node decides: which stages it takes on, what happens to each, who may connect.
//!
//! Pure: events in, actions out; no socket, thread, clock or lock. The driver in the parent module turns
//! the world into events and carries the actions out. Everything a peer says passes through here.

use std::collections::{BTreeMap, VecDeque};

use wire::control::{
    DeploymentId, Hello, Purpose, Request, Response, RunningStage, StageOrder, WeightEntry, WeightHash,
};

/// Somebody who waits for an answer: a request, or a connection that said hello.
pub type Ticket = u64;

/// Deployments a node holds at once. Each has threads and connections; more is a runaway client.
const MAX_DEPLOYMENTS: usize = 64;

/// How many ended deployments are remembered, to tell why.
const REMEMBERED_ENDS: usize = 16;

/// Why a stage is no longer there when nothing went wrong in it.
pub(crate) const ENDED: &str = "the stage ended";

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
}

#[derive(Debug)]
struct Deployment {
    order: Box<StageOrder>,
    phase: Phase,
    input: bool,
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
    OpeningNext(Ticket),
    Connected,
}

impl State {
    /// A node that runs nothing.
    pub fn new(limits: Limits) -> State {
        State { limits, deployments: BTreeMap::new(), ends: VecDeque::new() }
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
            Request::Measure(id) if self.deployments.contains_key(&id) => vec![Action::Measure(ticket, id)],
            Request::Measure(id) => vec![self.refuse_unknown(ticket, id)],
            Request::Release(id) => {
                let mut actions = self.discard(id, "it was released");
                actions.push(Action::Answer(ticket, Response::Released));
                actions
            }
        }
    }

    fn on_prepare(&mut self, ticket: Ticket, mut order: Box<StageOrder>) -> Vec<Action> {
        // Sizes that the model leaves open are bounded by what this node has, not by a dispatcher's word alone.
        order.max_tensor_len = order.max_tensor_len.min(self.limits.memory);
        match self.accepts(&order) {
            Err(reason) => vec![Action::Answer(ticket, Response::Refused(reason))],
            Ok(()) => {
                let deployment = Deployment {
                    order: order.clone(),
                    phase: Phase::LookingUp(ticket),
                    input: false,
                    output: false,
                };
                self.deployments.insert(order.deployment, deployment);
                vec![Action::LookUp(order)]
            }
        }
    }

    fn accepts(&self, order: &StageOrder) -> Result<(), String> {
        order.check()?;
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
        if let Some(address) = order.next.iter().find(|a| self.limits.loopback_only && !a.ip().is_loopback())
        {
            return Err(format!(
                "the next stage is on another machine ({address}), which needs --insecure here"
            ));
        }
        let (used, limit) = (self.memory_used(), self.limits.memory);
        match used.checked_add(order.memory) {
            Some(sum) if sum <= limit => Ok(()),
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
        match deployment.connect(hello.purpose) {
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
            Err(reason) => self.discard(id, &format!("cannot connect to the next stage: {reason}")),
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
            Some(_) => {
                let reason = "the request does not fit the deployment's progress".to_owned();
                vec![Action::Answer(ticket, Response::Refused(reason))]
            }
        }
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
        if let Phase::LookingUp(ticket) | Phase::Building(ticket) | Phase::OpeningNext(ticket) =
            deployment.phase
        {
            actions.push(Action::Answer(ticket, Response::Refused(reason.to_owned())));
        }
        actions
    }
}

impl Deployment {
    /// Takes a new connection in; for weights, gives those that shall come on it.
    fn connect(&mut self, purpose: Purpose) -> Result<Option<Vec<WeightEntry>>, &'static str> {
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
        let end = if purpose == Purpose::Results { &mut self.output } else { &mut self.input };
        if std::mem::replace(end, true) {
            return Err("the stage already has this connection");
        }
        Ok(None)
    }

    fn start(&self, id: DeploymentId) -> Option<Action> {
        (self.input && self.output).then_some(Action::Start(id))
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Purpose::{Inputs, Results, Weights};

    const ID: DeploymentId = 7;

    fn order(next: bool) -> Box<StageOrder> {
        Box::new(StageOrder {
            deployment: ID,
            dispatcher: "d".into(),
            epoch: 3,
            model: "m".into(),
            stage: 0,
            stages: 2,
            skeleton: vec![],
            weights: vec![WeightEntry { hash: [1; 32], len: 5 }, WeightEntry { hash: [2; 32], len: 6 }],
            inputs: vec![],
            outputs: vec![],
            feeds: vec![],
            routes: vec![],
            codec_in: 0,
            codec_out: 0,
            next: if next { vec!["127.0.0.1:1".parse().unwrap()] } else { vec![] },
            max_tensor_len: 0,
            memory: 60,
        })
    }

    fn state() -> State {
        State::new(Limits { memory: 100, loopback_only: true })
    }

    fn hello(purpose: Purpose) -> Hello {
        Hello { deployment: ID, epoch: 3, stage: 0, purpose }
    }

    fn refused(actions: &[Action], part: &str) -> bool {
        match actions {
            [.., Action::Answer(_, Response::Refused(reason)) | Action::TurnAway(_, reason)] => {
                reason.contains(part)
            }
            _ => false,
        }
    }

    /// Drives a node to the point where its stage is built.
    fn built(next: bool) -> State {
        let mut s = state();
        s.on_event(Event::Asked(1, Request::Prepare(order(next))));
        s.on_event(Event::LookedUp(ID, Ok(vec![])));
        s.on_event(Event::Asked(2, Request::Load(ID)));
        s.on_event(Event::Built(ID, Ok("engine".into())));
        s
    }

    #[test]
    fn open_sizes_are_bounded_by_this_nodes_memory() {
        for (promised, kept) in [(40, 40), (1 << 60, 100)] {
            let mut order = order(false);
            order.max_tensor_len = promised;
            let actions = state().on_event(Event::Asked(1, Request::Prepare(order)));
            assert!(matches!(&actions[..], [Action::LookUp(order)] if order.max_tensor_len == kept));
        }
    }

    #[test]
    fn a_stage_goes_from_order_to_running() {
        let mut s = state();
        let mut expect = |event, actions: &[Action]| assert_eq!(s.on_event(event), actions);
        expect(Event::Asked(1, Request::Prepare(order(true))), &[Action::LookUp(order(true))]);
        let missing = vec![[2; 32]];
        let prepared = Response::Prepared { missing: missing.clone() };
        expect(Event::LookedUp(ID, Ok(missing)), &[Action::Answer(1, prepared)]);
        let entries = vec![WeightEntry { hash: [2; 32], len: 6 }];
        expect(Event::Greeted(2, hello(Weights)), &[Action::Receive(2, ID, entries.clone())]);
        expect(Event::Stored(ID, Err("cut".into())), &[]);
        expect(Event::Greeted(3, hello(Weights)), &[Action::Receive(3, ID, entries)]);
        expect(Event::Stored(ID, Ok(())), &[]);
        expect(Event::Asked(4, Request::Load(ID)), &[Action::Build(ID)]);
        let loaded = Response::Loaded { engine: "e".into() };
        expect(Event::Built(ID, Ok("e".into())), &[Action::Answer(4, loaded)]);
        expect(Event::Asked(5, Request::Connect(ID)), &[Action::OpenNext(ID)]);
        expect(Event::Greeted(6, hello(Inputs)), &[Action::Attach(6, ID, Inputs)]);
        let connected = Action::Answer(5, Response::Connected);
        expect(Event::NextOpened(ID, Ok(())), &[connected, Action::Start(ID)]);
        expect(Event::Asked(7, Request::Measure(ID)), &[Action::Measure(7, ID)]);
        let released = Action::Answer(8, Response::Released);
        expect(Event::Asked(8, Request::Release(ID)), &[Action::Discard(ID), released]);
        assert_eq!(s.memory_used(), 0);
    }

    #[test]
    fn the_last_stage_gives_its_results_to_whoever_fetches_them() {
        let mut s = built(false);
        assert_eq!(
            s.on_event(Event::Asked(3, Request::Connect(ID))),
            [Action::Answer(3, Response::Connected)]
        );
        assert_eq!(s.on_event(Event::Greeted(4, hello(Results))), [Action::Attach(4, ID, Results)]);
        let start = [Action::Attach(5, ID, Inputs), Action::Start(ID)];
        assert_eq!(s.on_event(Event::Greeted(5, hello(Inputs))), start);
    }

    #[test]
    fn connections_that_do_not_belong_are_turned_away() {
        let check = |s: &mut State, hello: Hello, part: &str| {
            let actions = s.on_event(Event::Greeted(9, hello));
            assert!(refused(&actions, part), "{actions:?}");
        };
        check(&mut state(), hello(Inputs), "no such deployment");
        let mut s = built(true);
        check(&mut s, Hello { epoch: 2, ..hello(Inputs) }, "epoch 2 is not the plan's epoch 3");
        check(&mut s, Hello { stage: 1, ..hello(Inputs) }, "this node runs stage 1 of it, not stage 2");
        check(&mut s, hello(Weights), "no weights are missing");
        check(&mut s, hello(Results), "to the next stage");
        s.on_event(Event::Greeted(3, hello(Inputs)));
        check(&mut s, hello(Inputs), "already has this connection");
        let mut early = state();
        early.on_event(Event::Asked(1, Request::Prepare(order(true))));
        check(&mut early, hello(Inputs), "not loaded yet");
    }

    #[test]
    fn the_memory_limit_is_kept() {
        let mut s = built(true);
        let mut second = order(true);
        second.deployment = 8;
        let actions = s.on_event(Event::Asked(3, Request::Prepare(second.clone())));
        assert!(refused(&actions, "takes 0.0 MB of memory"), "{actions:?}");
        second.memory = u64::MAX;
        assert!(refused(&s.on_event(Event::Asked(3, Request::Prepare(second.clone()))), "memory"));
        second.memory = 10;
        let actions = s.on_event(Event::Asked(3, Request::Prepare(second.clone())));
        assert!(refused(&actions, "less memory than its weights"), "{actions:?}");
        second.memory = 40;
        assert_eq!(s.on_event(Event::Asked(3, Request::Prepare(second.clone()))), [Action::LookUp(second)]);
        assert_eq!(s.memory_used(), 100);
    }

    #[test]
    fn a_node_for_this_machine_only_connects_to_no_other() {
        let mut order = order(true);
        order.next = vec!["192.0.2.1:7".parse().unwrap()];
        let actions = state().on_event(Event::Asked(1, Request::Prepare(order)));
        assert!(refused(&actions, "needs --insecure"), "{actions:?}");
    }

    #[test]
    fn requests_out_of_turn_and_failures_are_answered() {
        let mut s = state();
        assert!(refused(&s.on_event(Event::Asked(1, Request::Load(ID))), "no such deployment"));
        s.on_event(Event::Asked(1, Request::Prepare(order(true))));
        assert!(refused(&s.on_event(Event::Asked(2, Request::Load(ID))), "does not fit"));
        assert!(refused(&s.on_event(Event::Asked(3, Request::Prepare(order(true)))), "already"));
        let actions = s.on_event(Event::LookedUp(ID, Err("disk full".into())));
        assert!(refused(&actions, "disk full") && actions[0] == Action::Discard(ID));
        let mut s = built(true);
        s.on_event(Event::Asked(3, Request::Connect(ID)));
        assert!(refused(&s.on_event(Event::NextOpened(ID, Err("refused".into()))), "next stage"));
        // Work that finishes after its deployment is gone leaves nothing behind.
        assert_eq!(s.on_event(Event::Built(ID, Ok("e".into()))), [Action::Discard(ID)]);
    }

    #[test]
    fn when_the_dispatcher_leaves_its_stages_go_and_others_stay() {
        let mut s = built(true);
        let mut other = order(true);
        (other.deployment, other.dispatcher, other.memory) = (8, "other".into(), 11);
        s.on_event(Event::Asked(3, Request::Prepare(other)));
        assert_eq!(s.on_event(Event::DispatcherLeft("d".into())), [Action::Discard(ID)]);
        assert_eq!(s.stages().count(), 1);
    }

    #[test]
    fn why_a_stage_ended_can_be_asked_later() {
        let mut s = built(true);
        assert_eq!(s.on_event(Event::Ended(ID, Some("frame damaged".into()))), [Action::Discard(ID)]);
        assert!(refused(&s.on_event(Event::Asked(4, Request::Measure(ID))), "frame damaged"));
    }
}
