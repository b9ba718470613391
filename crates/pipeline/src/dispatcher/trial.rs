//! Stages that nodes load only to be timed, and links that are probed. Called by [`crate::calibrate`].

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tensor::TensorSpec;
use wire::CodecId;
use wire::control::{Hello, LinkFigures, ProbeOrder, Purpose, Request, Response, StageTime, TimeOrder};

use super::deploy::{Building, ask, greet_node, unexpected};
use super::orders::{self, Common, Order, Seat};
use super::{FIRST_EPOCH, draw_id};
use crate::cluster::NodeInfo;
use crate::control::Control;
use crate::prepare::Prepared;
use crate::probe;

/// How long a node may run a stage: some times, however slow it is.
const TIME_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a node may take to connect to another and probe the link, which ends by itself before this.
const PROBE_TIMEOUT: Duration = Duration::from_secs(60);

/// As many addresses as a node tries.
const MAX_ADDRESSES: usize = 16;

/// Sizes of tensors as a node is told them.
pub(crate) fn shapes(specs: &[TensorSpec]) -> Vec<Vec<u64>> {
    let sizes = |spec: &TensorSpec| spec.fixed_shape().unwrap_or(tensor::Shape::SCALAR);
    specs.iter().map(|spec| sizes(spec).dims().iter().map(|&dim| dim as u64).collect()).collect()
}

/// Has a node run the stage it has loaded.
pub(super) fn time(
    control: &Control,
    orders: &[Order],
    i: usize,
    shapes: Vec<Vec<u64>>,
) -> Result<StageTime, String> {
    let order = TimeOrder { deployment: orders[i].message.deployment, shapes };
    match ask(control, orders, i, &Request::Time(Box::new(order)), TIME_TIMEOUT)? {
        Response::Timed(time) => time.check().map(|()| time),
        other => Err(unexpected(orders, i, &other)),
    }
}

/// Has a node load some units, run them and give them up again; with the bytes of weights shipped for it.
pub(crate) fn time_units(
    control: &Arc<Control>,
    prepared: &Prepared,
    units: Range<usize>,
    node: &NodeInfo,
) -> Result<(StageTime, u64), String> {
    let dispatcher = control.id();
    let common = Common { deployment: draw_id(&dispatcher), dispatcher: &dispatcher, epoch: FIRST_EPOCH };
    let costs = &prepared.profile.units[units.clone()];
    let memory = costs.iter().map(|unit| unit.weight_bytes + unit.activation_bytes).sum();
    let seat = Seat { stage: 0, stages: 1, codecs: [CodecId::Raw; 2], next: Vec::new(), memory };
    let positions = prepared.positions_of(&units);
    let order = orders::order(prepared, positions, node, seat, &common).map_err(|e| e.to_string())?;
    let building = Building::load(control, &Arc::new(vec![order]), &|_| {})?;
    let shapes = shapes(&prepared.profile.frames[units.start]);
    let timed = time(control, building.orders(), 0, shapes);
    let shipped = building.release();
    Ok((timed?, shipped))
}

/// What the link from this dispatcher to a node is like, and the one back.
pub(crate) fn probe_own(control: &Control, node: &NodeInfo) -> io::Result<(LinkFigures, LinkFigures)> {
    let open = |purpose| greet_node(control, node, &Hello { deployment: 0, epoch: 0, stage: 0, purpose });
    let there = probe::send(&open(Purpose::ProbeTo)?)?;
    let back = probe::count(&open(Purpose::ProbeFrom)?)?;
    Ok((there, back))
}

/// What the link from one node to another is like.
pub(crate) fn probe_between(
    control: &Control,
    from: &NodeInfo,
    to: &NodeInfo,
) -> Result<LinkFigures, String> {
    let request = Request::Probe(ProbeOrder { to: reachable(&to.description.data_addresses) });
    match control.ask(&from.id, &request, PROBE_TIMEOUT) {
        Ok(Response::Probed(figures)) => figures.check().map(|()| figures),
        Ok(Response::Refused(reason)) => Err(reason),
        Ok(other) => Err(format!("an answer to another question: {other:?}")),
        Err(e) => Err(e.to_string()),
    }
}

/// Without loopback, under which the sender would find itself, unless there is nothing else.
fn reachable(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let others: Vec<SocketAddr> = addresses.iter().filter(|a| !a.ip().is_loopback()).copied().collect();
    let mut reachable = if others.is_empty() { addresses.to_vec() } else { others };
    reachable.truncate(MAX_ADDRESSES);
    reachable
}
