//! What an assignment of units to devices is worth.
//!
//! Called by the optimiser for its own result and by whoever has a plan from elsewhere (a file, a user):
//! every plan is judged by the same code.

use std::ops::Range;

use crate::costs::{Costs, Member, Team};
use crate::error::{PlanError, Shortage};
use crate::{End, Problem};

/// Which device runs what, and how tensors travel: all that is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The stages in the order of the chain; at least one.
    pub stages: Vec<Placement>,
    /// Codec of each link: from the dispatcher to the first stage, between stages, and back. One more than stages.
    pub codecs: Vec<usize>,
}

/// Units and those who run them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Devices, each with all of the units; items are dealt out among them in proportion to their speed.
    pub devices: Vec<usize>,
    /// The units, at least one.
    pub units: Range<usize>,
}

/// A pipeline and its predicted behaviour.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The stages in the order of the chain.
    pub stages: Vec<Stage>,
    /// What lies along the chain: from the dispatcher to the first stage, between stages, and back. One
    /// more than stages.
    pub hops: Vec<Hop>,
    /// Seconds between two results at steady state.
    pub period: f64,
    /// Seconds from an input to its result when nothing else is in the chain; the mean, where replicas differ.
    pub latency: f64,
    /// Energy of an item, joules, when items follow one another as fast as they can: all devices used and the
    /// dispatcher, and what travels.
    pub joules: f64,
    /// Everything that is busy, and for how long.
    pub loads: Vec<Load>,
    /// The resource that sets the period; the first along the chain if several do.
    pub bottleneck: Resource,
}

/// One stage of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Its units.
    pub units: Range<usize>,
    /// Who runs it; one, unless items are dealt out.
    pub replicas: Vec<Replica>,
}

/// One device of a stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Replica {
    /// Index of the device.
    pub device: usize,
    /// Of all items, 0 to 1.
    pub share: f64,
    /// Seconds of computation for an item that is its own.
    pub compute_seconds: f64,
    /// Seconds that it is busy with such an item: computation, codecs, sending and receiving, with those that its
    /// computation takes longer for these.
    pub busy_seconds: f64,
    /// Weights, activations, queues and engine.
    pub memory_bytes: u64,
}

/// What lies between two stages, or a stage and the dispatcher.
#[derive(Clone, Debug, PartialEq)]
pub struct Hop {
    /// The boundary whose tensors travel.
    pub boundary: usize,
    /// Index of the codec.
    pub codec: usize,
    /// Bytes per item as they travel.
    pub bytes: u64,
    /// Tensors per item.
    pub tensors: usize,
    /// The links; one, unless a stage has replicas.
    pub links: Vec<Path>,
}

/// One link of a hop.
#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    /// The sender.
    pub from: End,
    /// The receiver.
    pub to: End,
    /// Of all items, 0 to 1.
    pub share: f64,
    /// Seconds that the link is busy with an item that takes it.
    pub seconds: f64,
    /// Seconds that such an item takes besides.
    pub delay_seconds: f64,
    /// Seconds of the sender to encode and send such an item, with those that its computation takes longer for it.
    pub send_seconds: f64,
    /// Seconds of the receiver to receive and decode it, with those that its computation takes longer for it.
    pub receive_seconds: f64,
}

/// How long a resource is busy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Which one.
    pub resource: Resource,
    /// Seconds per item of the pipeline.
    pub seconds: f64,
}

/// What can be busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// The CPU of the device of this index.
    Device(usize),
    /// The CPU of the dispatcher.
    Dispatcher,
    /// A directed link.
    Link {
        /// The sender.
        from: End,
        /// The receiver.
        to: End,
    },
    /// All that one end sends.
    Sending(End),
    /// All that one end receives.
    Receiving(End),
    /// The medium of this index.
    Medium(usize),
}

impl Plan {
    /// What was decided.
    pub fn assignment(&self) -> Assignment {
        let placement = |stage: &Stage| Placement {
            devices: stage.replicas.iter().map(|r| r.device).collect(),
            units: stage.units.clone(),
        };
        Assignment {
            stages: self.stages.iter().map(placement).collect(),
            codecs: self.hops.iter().map(|hop| hop.codec).collect(),
        }
    }

    /// The number of devices in use.
    pub fn devices(&self) -> usize {
        self.stages.iter().map(|stage| stage.replicas.len()).sum()
    }

    /// Whether every device runs the whole model, and there are several: plain load balancing.
    pub fn is_load_balancing(&self) -> bool {
        self.stages.len() == 1 && self.devices() > 1
    }
}

/// Predicts the behaviour of an assignment.
///
/// # Errors
/// When the stages are not all the units in order, each on devices of its own; when one exceeds a
/// device's memory; when a codec does not exist or a figure of the problem is unusable.
pub fn predict(problem: &Problem, assignment: &Assignment) -> Result<Plan, PlanError> {
    evaluate(&Costs::new(problem)?, assignment)
}

pub(crate) fn evaluate(costs: &Costs<'_>, assignment: &Assignment) -> Result<Plan, PlanError> {
    check(costs.problem, assignment)?;
    if let Some(shortage) = shortages(costs, assignment).next() {
        return Err(PlanError::DoesNotFit(shortage));
    }
    let stages = assignment.stages.iter().zip(assignment.codecs.windows(2));
    let stages = stages.map(|(placement, codecs)| stage(costs, placement, [codecs[0], codecs[1]]));
    let totals = Totals::of(costs, assignment);
    Ok(Plan {
        stages: stages.collect(),
        hops: hops(costs, assignment),
        period: totals.period,
        latency: totals.latency,
        joules: totals.joules + totals.period * totals.idle_watts,
        bottleneck: totals.bottleneck.unwrap_or(Resource::Device(assignment.stages[0].devices[0])),
        loads: totals.loads,
    })
}

fn stage(costs: &Costs<'_>, placement: &Placement, codecs: [usize; 2]) -> Stage {
    let Placement { devices, units } = placement;
    let team = costs.team(devices);
    let replica = |(&device, member): (&usize, &Member)| Replica {
        device,
        share: member.share,
        compute_seconds: costs.compute_seconds(device, units),
        busy_seconds: costs.busy_seconds(member.end, units, codecs),
        memory_bytes: costs.memory_bytes(device, units),
    };
    Stage { units: units.clone(), replicas: devices.iter().zip(&team.members).map(replica).collect() }
}

/// The teams along the chain, the dispatcher at both ends.
fn teams(costs: &Costs<'_>, assignment: &Assignment) -> Vec<Team> {
    let stages = assignment.stages.iter().map(|placement| costs.team(&placement.devices));
    let dispatcher = || std::iter::once(costs.dispatcher().clone());
    dispatcher().chain(stages).chain(dispatcher()).collect()
}

/// The boundaries that are crossed.
fn boundaries<'a>(costs: &Costs<'_>, assignment: &'a Assignment) -> impl Iterator<Item = usize> + use<'a> {
    assignment.stages.iter().map(|placement| placement.units.start).chain([costs.end()])
}

fn hops(costs: &Costs<'_>, assignment: &Assignment) -> Vec<Hop> {
    let teams = teams(costs, assignment);
    let crossings = boundaries(costs, assignment).zip(&assignment.codecs);
    let hop = |(pair, (boundary, &codec)): (&[Team], (usize, &usize))| {
        let bytes = costs.problem.codecs[codec].bytes[boundary];
        let path = |a: &Member, b: &Member| {
            let link = costs.problem.links.get(a.end, b.end);
            Path {
                from: a.end,
                to: b.end,
                share: a.share * b.share,
                seconds: bytes as f64 / link.bandwidth + link.frame_seconds,
                delay_seconds: link.delay,
                send_seconds: costs.send_seconds(a.end, boundary, codec),
                receive_seconds: costs.receive_seconds(b.end, boundary, codec),
            }
        };
        let from = pair[0].members.iter();
        let links = from.flat_map(|a| pair[1].members.iter().map(move |b| path(a, b))).collect();
        Hop { boundary, codec, bytes, tensors: costs.problem.boundaries[boundary].tensors, links }
    };
    teams.windows(2).zip(crossings).map(hop).collect()
}

/// The memory that devices lack.
pub(crate) fn shortages<'a>(
    costs: &'a Costs<'_>,
    assignment: &'a Assignment,
) -> impl Iterator<Item = Shortage> + 'a {
    let pairs =
        assignment.stages.iter().flat_map(|p| p.devices.iter().map(move |&device| (device, &p.units)));
    pairs.filter_map(|(index, units)| {
        let device = &costs.problem.devices[index];
        let needed_bytes = costs.memory_bytes(index, units);
        let limit_bytes = device.memory_bytes.filter(|&limit| needed_bytes > limit)?;
        Some(Shortage { device: device.name.clone(), units: units.clone(), needed_bytes, limit_bytes })
    })
}

/// What an assignment adds up to.
#[derive(Default)]
pub(crate) struct Totals {
    pub period: f64,
    pub latency: f64,
    /// Without what idle devices take.
    pub joules: f64,
    pub idle_watts: f64,
    bottleneck: Option<Resource>,
    loads: Vec<Load>,
}

impl Totals {
    pub(crate) fn of(costs: &Costs<'_>, assignment: &Assignment) -> Totals {
        let mut totals = Totals::default();
        let teams = teams(costs, assignment);
        let codecs = &assignment.codecs;
        let ends = [codecs[0], codecs[codecs.len() - 1]];
        let seconds = costs.dispatcher_seconds(ends);
        totals.idle_watts = costs.idle_watts(costs.dispatcher());
        totals.add(Resource::Dispatcher, seconds);
        totals.latency += costs.send_seconds(End::Dispatcher, 0, ends[0]);
        totals.joules += seconds * costs.extra_watts(End::Dispatcher);
        let mut airtime = vec![0.0; costs.problem.media.len()];
        for (i, boundary) in boundaries(costs, assignment).enumerate() {
            let bytes = costs.bytes(boundary, codecs[i]);
            totals.add_hop(costs, [&teams[i], &teams[i + 1]], bytes, &mut airtime);
            if let Some(placement) = assignment.stages.get(i) {
                totals.add_stage(costs, &teams[i + 1], &placement.units, [codecs[i], codecs[i + 1]]);
            }
        }
        totals.latency += costs.receive_seconds(End::Dispatcher, costs.end(), ends[1]);
        for (medium, seconds) in airtime.into_iter().enumerate() {
            totals.add(Resource::Medium(medium), seconds);
        }
        totals
    }

    fn add_hop(&mut self, costs: &Costs<'_>, [from, to]: [&Team; 2], bytes: f64, airtime: &mut [f64]) {
        for a in &from.members {
            for b in &to.members {
                let link = costs.problem.links.get(a.end, b.end);
                let seconds = a.share * b.share * (bytes * (1.0 / link.bandwidth) + link.frame_seconds);
                self.add(Resource::Link { from: a.end, to: b.end }, seconds);
            }
        }
        let port =
            |member: &Member| member.share * (bytes * (1.0 / costs.problem.host(member.end).bandwidth));
        from.members.iter().for_each(|m| self.add(Resource::Sending(m.end), port(m)));
        to.members.iter().for_each(|m| self.add(Resource::Receiving(m.end), port(m)));
        let hop = costs.hop(from, to);
        self.latency += hop.latency(bytes);
        self.joules += bytes * hop.joules_per_byte;
        for (medium, airtime) in airtime.iter_mut().enumerate() {
            *airtime += hop.airtime(medium, bytes);
        }
    }

    fn add_stage(&mut self, costs: &Costs<'_>, team: &Team, units: &Range<usize>, codecs: [usize; 2]) {
        for member in &team.members {
            let End::Device(device) = member.end else { continue };
            let seconds = member.share * costs.busy_seconds(member.end, units, codecs);
            self.add(Resource::Device(device), seconds);
        }
        self.latency += costs.stage_latency(team, units, codecs);
        self.joules += costs.stage_joules(team, units, codecs);
        self.idle_watts += costs.idle_watts(team);
    }

    fn add(&mut self, resource: Resource, seconds: f64) {
        self.loads.push(Load { resource, seconds });
        if seconds > self.period {
            (self.period, self.bottleneck) = (seconds, Some(resource));
        }
    }
}

fn check(problem: &Problem, assignment: &Assignment) -> Result<(), PlanError> {
    let mut next = 0;
    let mut used = vec![false; problem.devices.len()];
    for (stage, Placement { devices, units }) in assignment.stages.iter().enumerate() {
        let fault = |reason: String| Err(PlanError::BadAssignment { stage, reason });
        if devices.is_empty() {
            return fault("it has no device".to_owned());
        }
        for &device in devices {
            match used.get_mut(device) {
                None => return fault(format!("device {device} does not exist")),
                Some(true) => {
                    return fault(format!("device `{}` is in use already", problem.devices[device].name));
                }
                Some(unused) => *unused = true,
            }
        }
        if units.start != next || units.end <= units.start || units.end > problem.units.len() {
            return fault(format!(
                "it must begin at unit {next} and hold at least one of {}",
                problem.units.len()
            ));
        }
        next = units.end;
    }
    match assignment.stages.len() {
        0 => return Err(PlanError::NoStage),
        stages if next < problem.units.len() => {
            return Err(PlanError::BadAssignment {
                stage: stages - 1,
                reason: format!("it is the last and must end with unit {}", problem.units.len() - 1),
            });
        }
        stages if assignment.codecs.len() != stages + 1 => {
            let (found, wanted) = (assignment.codecs.len(), stages + 1);
            return Err(PlanError::Count { what: "codecs along the chain".to_owned(), found, wanted });
        }
        _ => {}
    }
    match assignment.codecs.iter().find(|&&codec| codec >= problem.codecs.len()) {
        Some(&codec) => Err(PlanError::UnknownCodec { codec, codecs: problem.codecs.len() }),
        None => Ok(()),
    }
}
