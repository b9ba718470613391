//! Stages that nodes load only to be timed, and links that are probed. Called by [`crate::calibrate`].

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tensor::TensorSpec;
use wire::Codec;
use wire::control::{
    CodecTime, Crossing, Hello, LinkFigures, ProbeOrder, Purpose, Request, Response, StageTime, TimeOrder,
};

pub(crate) use super::deploy::within_reach;
use super::deploy::{Building, ask, place, unexpected};
use super::links::LinkCodecs;
use super::orders::{self, Common, Order, Seat};
use super::{FIRST_EPOCH, draw_id};
use crate::cluster::NodeInfo;
use crate::control::Control;
use crate::prepare::Prepared;
use crate::probe;
use crate::timing::LONGEST;
use crate::transport::{Shipped, Timeouts, connect};

/// How long a node may run a stage, which ends by itself before this unless one run takes longer.
const TIME_TIMEOUT: Duration = Duration::from_secs(300);

const _: () = assert!(TIME_TIMEOUT.as_secs() > 2 * LONGEST.as_secs(), "a node's limit ends first");

/// How long a node may take to connect to another and probe the link, which ends by itself before this.
const PROBE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a node may encode and decode, which ends by itself before this.
const CODECS_TIMEOUT: Duration = Duration::from_secs(60);

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
        Response::Timed(time) => {
            time.check().map(|()| time).map_err(|reason| format!("{}: {reason}", place(orders, i)))
        }
        other => Err(unexpected(orders, i, &other).into()),
    }
}

/// Has a node load some units, run them and give them up again; with the weights shipped for it.
pub(crate) fn time_units(
    control: &Arc<Control>,
    prepared: &Prepared,
    units: Range<usize>,
    node: &NodeInfo,
) -> Result<(StageTime, Shipped), String> {
    let dispatcher = control.id();
    let common = Common { deployment: draw_id(&dispatcher), dispatcher: &dispatcher, epoch: FIRST_EPOCH };
    let costs = &prepared.profile.units[units.clone()];
    let memory = costs.iter().map(|unit| unit.weight_bytes + unit.activation_bytes).sum();
    let raw = || LinkCodecs::only(Codec::RAW);
    let (crossing, links) = (Crossing::ONLY, [raw(), raw()]);
    let seat = Seat { stage: 0, stages: 1, crossing, links: &links, next: Vec::new(), memory };
    let positions = prepared.positions_of(&units);
    let stage = prepared.model.stage(positions).map_err(|e| e.to_string())?;
    let order = orders::order(prepared, &stage, node, seat, &common);
    let building = Building::load(control, &Arc::new(vec![order]), &|_| {})?;
    let shapes = shapes(&prepared.profile.frames[units.start]);
    let timed = time(control, building.orders(), 0, shapes);
    let shipped = building.release();
    Ok((timed?, shipped))
}

/// What these codecs take on a node, in their order.
pub(crate) fn time_codecs(
    control: &Control,
    node: &NodeInfo,
    codecs: &[Codec],
) -> Result<Vec<CodecTime>, String> {
    let of_node = |reason: &dyn std::fmt::Display| format!("node `{}`: {reason}", node.description.name);
    let request = Request::TimeCodecs(codecs.iter().map(|codec| codec.code()).collect());
    match control.ask(&node.id, &request, CODECS_TIMEOUT) {
        Ok(Response::CodecsTimed(times)) if times.len() == codecs.len() => {
            let checked = times.iter().try_for_each(CodecTime::check);
            checked.map(|()| times).map_err(|e| of_node(&e))
        }
        Ok(Response::Refused(reason)) => Err(of_node(&reason)),
        Ok(other) => Err(of_node(&format_args!("an answer to another question: {other:?}"))),
        Err(e) => Err(of_node(&e)),
    }
}

/// What the link from this dispatcher to a node at these addresses is like.
pub(crate) fn probe_to(addresses: &[SocketAddr]) -> io::Result<LinkFigures> {
    probe::send(&connect(addresses, &Hello::for_probe(Purpose::ProbeTo), &Timeouts::default())?)
}

/// What the links from this dispatcher to nodes at these addresses carry at once, each in bytes per second.
pub(crate) fn probe_to_all(nodes: &[Vec<SocketAddr>]) -> io::Result<Vec<f64>> {
    let hello = Hello::for_probe(Purpose::ProbeTo);
    let open = |addresses: &Vec<SocketAddr>| connect(addresses, &hello, &Timeouts::default());
    probe::send_together(&nodes.iter().map(open).collect::<io::Result<Vec<_>>>()?)
}

/// What the link from a node at these addresses to this dispatcher is like.
pub(crate) fn probe_from(addresses: &[SocketAddr]) -> io::Result<LinkFigures> {
    probe::count(&connect(addresses, &Hello::for_probe(Purpose::ProbeFrom), &Timeouts::default())?)
}

/// What the link from one node to another at these addresses is like.
pub(crate) fn probe_between(
    control: &Control,
    from: &NodeInfo,
    mut to: Vec<SocketAddr>,
) -> Result<LinkFigures, String> {
    to.truncate(MAX_ADDRESSES);
    let of_node = |reason: &dyn std::fmt::Display| format!("node `{}`: {reason}", from.description.name);
    match control.ask(&from.id, &Request::Probe(ProbeOrder { to }), PROBE_TIMEOUT) {
        Ok(Response::Probed(figures)) => figures.check().map(|()| figures).map_err(|e| of_node(&e)),
        Ok(Response::Refused(reason)) => Err(reason),
        Ok(other) => Err(of_node(&format_args!("an answer to another question: {other:?}"))),
        Err(e) => Err(of_node(&e)),
    }
}
