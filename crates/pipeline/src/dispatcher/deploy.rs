//! Carries out what [`super::state`] decides while a deployment is built: requests to nodes, weights,
//! connections. Each step runs on a thread of its own and reports back as an event.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use graph::Weight;
use wire::control::{Hello, Purpose, Request, Response, StageOrder, WeightHash};
use wire::weights::Width;

use super::Progress;
use super::orders::Order;
use super::state::{Action, Event, Failure, State};
use crate::cluster::NodeInfo;
use crate::control::{AskError, Control};
use crate::node::state::UNREACHED;
use crate::transport::weights::{self, Outgoing, Packing};
use crate::transport::{Shipped, Timeouts, connect};

/// How long a node may look through its cache: it hashes every weight it has.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a node may take to build its session.
const LOAD_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a node may take to describe itself while a failure is looked into.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a node may take to connect to the next: it tries every address that the other one has.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// For requests that are answered at once.
pub(super) const SHORT_TIMEOUT: Duration = Duration::from_secs(10);

/// The chain is ready.
pub(super) struct Opened {
    pub(super) state: State,
    /// To each replica of the first stage.
    pub(super) inputs: Vec<TcpStream>,
    /// From each of the last.
    pub(super) results: Vec<TcpStream>,
    /// Engine of each order.
    pub(super) engines: Vec<String>,
    /// Weights shipped.
    pub(super) shipped: Shipped,
}

/// A deployment that is being built.
pub(super) struct Building {
    control: Arc<Control>,
    orders: Arc<Vec<Order>>,
    state: State,
    done: Done,
    sender: Sender<Report>,
    receiver: Receiver<Report>,
}

impl Building {
    /// Has every node take its stage on and load it; on failure everything is released and the reason comes back.
    pub(super) fn load(
        control: &Arc<Control>,
        orders: &Arc<Vec<Order>>,
        progress: &dyn Fn(Progress),
    ) -> Result<Building, Failure> {
        // Steps that report wait for the loop below, which does nothing but read them.
        let (sender, receiver) = bounded(64);
        let done = Done { engines: vec![String::new(); orders.len()], ..Done::default() };
        let (control, orders, state) = (control.clone(), orders.clone(), State::new(orders.len()));
        let mut building = Building { control, orders, state, done, sender, receiver };
        building.drive(Event::Begun, progress)?;
        Ok(building)
    }

    /// Connects the loaded stages to a chain; on failure as above.
    pub(super) fn connect(mut self, progress: &dyn Fn(Progress)) -> Result<Opened, Failure> {
        self.drive(Event::Approved, progress)?;
        let (inputs, results) = self.done.streams.take().expect("opened before running");
        let Done { engines, shipped, .. } = self.done;
        Ok(Opened { state: self.state, inputs, results, engines, shipped })
    }

    /// Has every node give its stage up; gives the weights that were shipped.
    pub(super) fn release(mut self) -> Shipped {
        for action in self.state.on_event(Event::Finished) {
            assert_eq!(action, Action::Release, "nothing else is left to do");
            release(&self.control, &self.orders);
        }
        self.done.shipped
    }

    pub(super) fn orders(&self) -> &Arc<Vec<Order>> {
        &self.orders
    }

    /// Takes an event in and does what follows from it, until there is something to decide or the chain runs.
    fn drive(&mut self, event: Event, progress: &dyn Fn(Progress)) -> Result<(), Failure> {
        let mut actions = self.state.on_event(event);
        loop {
            for action in std::mem::take(&mut actions) {
                match action {
                    Action::Decide | Action::Run => return Ok(()),
                    Action::Release => release(&self.control, &self.orders),
                    Action::Fail(failure) => return Err(failure),
                    step => start(step, &self.control, &self.orders, &self.sender),
                }
            }
            let report = self.receiver.recv().expect("this function's owner holds a sender");
            if let Some(event) = self.done.take_in(report, progress) {
                actions = self.state.on_event(event);
            }
        }
    }
}

/// What a step reports.
enum Report {
    Event(Event),
    Loaded(usize, String),
    Opened(Vec<TcpStream>, Vec<TcpStream>),
    ToShip(u64),
    Shipped(Shipped),
}

#[derive(Default)]
struct Done {
    streams: Option<(Vec<TcpStream>, Vec<TcpStream>)>,
    engines: Vec<String>,
    to_ship: u64,
    shipped: Shipped,
    loaded: usize,
}

impl Done {
    fn take_in(&mut self, report: Report, progress: &dyn Fn(Progress)) -> Option<Event> {
        match report {
            Report::Event(event) => Some(event),
            Report::ToShip(bytes) => {
                self.to_ship += bytes;
                None
            }
            Report::Shipped(more) => {
                self.shipped += more;
                progress(Progress::Shipping { sent: self.shipped.bytes, total: self.to_ship });
                None
            }
            Report::Loaded(stage, engine) => {
                self.engines[stage] = engine;
                self.loaded += 1;
                progress(Progress::Loading { loaded: self.loaded, total: self.engines.len() });
                Some(Event::Loaded(stage))
            }
            Report::Opened(inputs, results) => {
                self.streams = Some((inputs, results));
                Some(Event::Opened)
            }
        }
    }
}

/// Runs one step on a thread of its own.
fn start(action: Action, control: &Arc<Control>, orders: &Arc<Vec<Order>>, reports: &Sender<Report>) {
    let (control, orders, sender) = (control.clone(), orders.clone(), reports.clone());
    let step = move || {
        let report = step(action, &control, &orders, &sender);
        let failed = |failure| Report::Event(Event::Failed(failure));
        // The receiver is gone when another step has failed.
        let _ = sender.send(report.unwrap_or_else(failed));
    };
    if let Err(e) = std::thread::Builder::new().name("deploy".to_owned()).spawn(step) {
        let failed = Event::Failed(Failure::Own(format!("cannot start a thread: {e}")));
        let _ = reports.try_send(Report::Event(failed));
    }
}

fn step(
    action: Action,
    control: &Control,
    orders: &[Order],
    reports: &Sender<Report>,
) -> Result<Report, Failure> {
    let id = orders[0].message.deployment;
    match action {
        Action::Prepare(i) => {
            let request = Request::Prepare(Box::new(orders[i].message.clone()));
            match ask(control, orders, i, &request, PREPARE_TIMEOUT)? {
                Response::Prepared { missing } => Ok(Report::Event(Event::Prepared(i, missing))),
                other => Err(unexpected(orders, i, &other)),
            }
        }
        Action::Ship(i, missing) => {
            ship(control, &orders[i], &missing, reports).map_err(|e| {
                not_shipped(&e, format!("{}: shipping its weights failed: {e}", place(orders, i)))
            })?;
            Ok(Report::Event(Event::Shipped(i)))
        }
        Action::Load(i) => match ask(control, orders, i, &Request::Load(id), LOAD_TIMEOUT)? {
            Response::Loaded { engine } => Ok(Report::Loaded(i, engine)),
            other => Err(unexpected(orders, i, &other)),
        },
        Action::Connect(i) => match ask(control, orders, i, &Request::Connect(id), CONNECT_TIMEOUT) {
            Ok(Response::Connected) => Ok(Report::Event(Event::Connected(i))),
            Ok(other) => Err(unexpected(orders, i, &other)),
            Err(Failure::Refused(reason)) if reason.contains(UNREACHED) => Err(Failure::Lost(reason)),
            Err(failure) => Err(failure),
        },
        Action::Open => {
            let last = orders[0].message.stages - 1;
            let open = |stage: u32, purpose| -> Result<Vec<TcpStream>, Failure> {
                let replicas = (0..orders.len()).filter(|&i| orders[i].message.stage == stage);
                let open = |i| {
                    open(control, &orders[i], purpose)
                        .map_err(|e| lost(orders, i, format_args!("cannot connect: {e}")))
                };
                replicas.map(open).collect()
            };
            Ok(Report::Opened(open(0, Purpose::Inputs)?, open(last, Purpose::Results)?))
        }
        Action::Decide | Action::Run | Action::Release | Action::Fail(_) => {
            unreachable!("carried out by the loop")
        }
    }
}

/// A connection that broke is a node's that went, or of a link that did.
fn not_shipped(error: &io::Error, reason: String) -> Failure {
    use io::ErrorKind::{InvalidData, Other};
    match error.kind() {
        InvalidData | Other => Failure::Refused(reason),
        _ => Failure::Lost(reason),
    }
}

fn open(control: &Control, order: &Order, purpose: Purpose) -> io::Result<TcpStream> {
    let StageOrder { deployment, epoch, stage, crossing, .. } = order.message;
    let hello = Hello { deployment, epoch, stage, replica: crossing.replica, from: 0, purpose };
    greet_node(control, &order.node, &hello)
}

fn greet_node(control: &Control, node: &NodeInfo, hello: &Hello) -> io::Result<TcpStream> {
    let addresses = within_reach(control, node);
    if addresses.is_empty() {
        return Err(io::Error::other("it has no address on this machine, and others need --insecure here"));
    }
    connect(&addresses, hello, &Timeouts::default())
}

/// A node's addresses to which this dispatcher may connect.
pub(crate) fn within_reach(control: &Control, node: &NodeInfo) -> Vec<SocketAddr> {
    let known = node.description.data_addresses.iter().copied();
    known.filter(|address| control.may_reach(address)).collect()
}

fn ship(
    control: &Control,
    order: &Order,
    missing: &[WeightHash],
    reports: &Sender<Report>,
) -> io::Result<()> {
    let by_hash: HashMap<WeightHash, &Weight> = order.weights.iter().map(|w| (w.hash.0, w)).collect();
    let unknown = || io::Error::new(io::ErrorKind::InvalidData, "it asks for a weight it was not ordered");
    let outgoing = |hash: &WeightHash| {
        let weight = by_hash.get(hash).ok_or_else(unknown)?;
        Ok(Outgoing { hash: *hash, width: Width::of(weight.dtype), bytes: &weight.bytes })
    };
    let weights: Vec<Outgoing<'_>> = missing.iter().map(outgoing).collect::<io::Result<_>>()?;
    let total = weights.iter().map(|weight| weight.bytes.len() as u64).sum();
    let _ = reports.send(Report::ToShip(total));
    let mut stream = open(control, order, Purpose::Weights)?;
    let packing = Packing::for_link(&stream)?;
    let sent = |more| drop(reports.send(Report::Shipped(more)));
    weights::send(&mut stream, weights.into_iter(), packing, &sent)
}

/// Asks the node of order `i`; a refusal is an error that names it.
pub(super) fn ask(
    control: &Control,
    orders: &[Order],
    i: usize,
    request: &Request,
    timeout: Duration,
) -> Result<Response, Failure> {
    match control.ask(&orders[i].node.id, request, timeout) {
        Ok(Response::Refused(reason)) => {
            let refused = || Failure::Refused(format!("{}: {reason}", place(orders, i)));
            Err(gone(control, orders).map_or_else(refused, Failure::Lost))
        }
        Ok(response) => Ok(response),
        Err(e @ AskError::Silence(_)) => {
            Err(lost(orders, i, format_args!("{e}; is the node still running and reachable?")))
        }
        Err(e @ AskError::Control(_)) => Err(Failure::Refused(format!("{}: {e}", place(orders, i)))),
        Err(e) => Err(lost(orders, i, e)),
    }
}

fn lost(orders: &[Order], i: usize, reason: impl fmt::Display) -> Failure {
    Failure::Lost(format!("{}: {reason}", place(orders, i)))
}

/// Says which node has left, if one has: then that is why its neighbours fail, whatever they say themselves.
fn gone(control: &Control, orders: &[Order]) -> Option<String> {
    let left = |order: &Order| {
        matches!(control.ask(&order.node.id, &Request::Describe, DESCRIBE_TIMEOUT), Err(AskError::Gone))
    };
    orders.iter().position(left).map(|i| format!("{} is gone", place(orders, i)))
}

pub(super) fn unexpected(orders: &[Order], i: usize, response: &Response) -> Failure {
    Failure::Refused(format!("{}: an answer to another question: {response:?}", place(orders, i)))
}

/// A stage's place, for messages.
pub(super) fn place(orders: &[Order], i: usize) -> String {
    let StageOrder { stage, stages, .. } = orders[i].message;
    format!("node `{}` (stage {} of {stages})", orders[i].node.description.name, stage + 1)
}

/// Tells every node, all at once, to forget the deployment. Nodes that are gone have nothing to forget.
pub(super) fn release(control: &Arc<Control>, orders: &Arc<Vec<Order>>) {
    std::thread::scope(|scope| {
        for order in orders.iter() {
            scope.spawn(|| {
                let request = Request::Release(order.message.deployment);
                if let Err(e) = control.ask(&order.node.id, &request, SHORT_TIMEOUT) {
                    tracing::debug!("node `{}` was not released: {e}", order.node.description.name);
                }
            });
        }
    });
}
