//! What an assignment of units to devices is worth.
//!
//! Called by the optimiser for its own result and by whoever has a plan from elsewhere (a file, a user):
//! every plan is judged by the same code.

use std::ops::Range;

use crate::costs::{Costs, Step};
use crate::error::{PlanError, Shortage};
use crate::{End, Problem};

/// Units that one device runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Index of the device.
    pub device: usize,
    /// The units, at least one.
    pub units: Range<usize>,
}

/// A pipeline and its predicted behaviour.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The stages in the order of the chain.
    pub stages: Vec<Stage>,
    /// The links along the chain: from the dispatcher to the first stage, between stages, and back. One
    /// more than stages.
    pub hops: Vec<Hop>,
    /// Seconds between two results at steady state.
    pub period: f64,
    /// Seconds from an input to its result, when nothing else is in the chain.
    pub latency: f64,
    /// The resource that sets the period; the first along the chain if several do.
    pub bottleneck: Resource,
}

/// One stage of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Index of its device.
    pub device: usize,
    /// Its units.
    pub units: Range<usize>,
    /// Seconds of computation per item.
    pub compute_seconds: f64,
    /// Seconds per item that the device is busy: computation, sending and receiving.
    pub busy_seconds: f64,
    /// Weights and peak activations.
    pub memory_bytes: u64,
}

/// One link of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Hop {
    /// The sender.
    pub from: End,
    /// The receiver.
    pub to: End,
    /// The boundary whose tensors travel.
    pub boundary: usize,
    /// Bytes per item.
    pub bytes: u64,
    /// Tensors per item.
    pub tensors: usize,
    /// Seconds per item that the link is busy.
    pub seconds: f64,
    /// Seconds that it takes besides.
    pub delay_seconds: f64,
}

/// What can be busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// The device of this index.
    Device(usize),
    /// A directed link.
    Link {
        /// The sender.
        from: End,
        /// The receiver.
        to: End,
    },
}

/// Predicts the behaviour of an assignment, its stages in the order of the chain.
///
/// # Errors
/// When the stages are not all the units in order, each on a device of its own; when one exceeds its
/// device's memory; when a figure of the problem is unusable.
pub fn predict(problem: &Problem, assignment: &[Assignment]) -> Result<Plan, PlanError> {
    evaluate(&Costs::new(problem)?, assignment)
}

pub(crate) fn evaluate(costs: &Costs<'_>, assignment: &[Assignment]) -> Result<Plan, PlanError> {
    check(costs.problem, assignment)?;
    let mut from = End::Dispatcher;
    let (mut stages, mut hops) = (Vec::new(), Vec::new());
    for stage in assignment {
        let step = costs.stage(from, stage);
        if let Some(shortage) = shortage(costs, stage, &step) {
            return Err(PlanError::DoesNotFit(shortage));
        }
        let to = End::Device(stage.device);
        hops.push(hop(costs, from, to, stage.units.start, &step));
        stages.push(Stage {
            device: stage.device,
            units: stage.units.clone(),
            compute_seconds: step.compute_seconds,
            busy_seconds: step.busy_seconds,
            memory_bytes: step.memory_bytes,
        });
        from = to;
    }
    let last = assignment.last().ok_or(PlanError::NoStage)?;
    let step = costs.way_back(last.device);
    hops.push(hop(costs, from, End::Dispatcher, last.units.end, &step));
    let Totals { period, latency, bottleneck } = Totals::of(costs, assignment);
    let bottleneck = bottleneck.unwrap_or(Resource::Device(assignment[0].device));
    Ok(Plan { stages, hops, period, latency, bottleneck })
}

/// The memory that a stage lacks on its device, if any.
pub(crate) fn shortage(costs: &Costs<'_>, stage: &Assignment, step: &Step) -> Option<Shortage> {
    let device = &costs.problem.devices[stage.device];
    let limit_bytes = device.memory_bytes.filter(|_| step.excess_bytes > 0)?;
    Some(Shortage {
        device: device.name.clone(),
        units: stage.units.clone(),
        needed_bytes: step.memory_bytes,
        limit_bytes,
    })
}

/// What the steps of a chain add up to.
#[derive(Default)]
pub(crate) struct Totals {
    pub period: f64,
    latency: f64,
    bottleneck: Option<Resource>,
}

impl Totals {
    pub(crate) fn of(costs: &Costs<'_>, chain: &[Assignment]) -> Totals {
        let mut totals = Totals::default();
        let mut from = End::Dispatcher;
        for stage in chain {
            let to = End::Device(stage.device);
            totals.add(&costs.stage(from, stage), from, to);
            from = to;
        }
        if let Some(stage) = chain.last() {
            totals.add(&costs.way_back(stage.device), from, End::Dispatcher);
        }
        totals
    }

    fn add(&mut self, step: &Step, from: End, to: End) {
        if step.period(self.period) > self.period {
            self.bottleneck = Some(match to {
                End::Device(device) if step.busy_seconds > step.link_seconds => Resource::Device(device),
                End::Device(_) | End::Dispatcher => Resource::Link { from, to },
            });
        }
        self.period = step.period(self.period);
        self.latency = step.latency(self.latency);
    }
}

fn hop(costs: &Costs<'_>, from: End, to: End, boundary: usize, step: &Step) -> Hop {
    let crate::Boundary { bytes, tensors } = costs.problem.boundaries[boundary];
    Hop { from, to, boundary, bytes, tensors, seconds: step.link_seconds, delay_seconds: step.delay_seconds }
}

fn check(problem: &Problem, assignment: &[Assignment]) -> Result<(), PlanError> {
    let mut next = 0;
    for (stage, Assignment { device, units }) in assignment.iter().enumerate() {
        let fault = |reason: String| Err(PlanError::BadAssignment { stage, reason });
        if *device >= problem.devices.len() {
            return fault(format!("device {device} does not exist"));
        }
        if assignment[..stage].iter().any(|earlier| earlier.device == *device) {
            return fault(format!("device `{}` has a stage already", problem.devices[*device].name));
        }
        if units.start != next || units.end <= units.start || units.end > problem.units.len() {
            return fault(format!(
                "it must begin at unit {next} and hold at least one of {}",
                problem.units.len()
            ));
        }
        next = units.end;
    }
    match assignment.len() {
        0 => Err(PlanError::NoStage),
        stages if next < problem.units.len() => Err(PlanError::BadAssignment {
            stage: stages - 1,
            reason: format!("it is the last and must end with unit {}", problem.units.len() - 1),
        }),
        _ => Ok(()),
    }
}
