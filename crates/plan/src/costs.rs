//! What each possible stage costs on each device, and what a chain of them adds up to.
//!
//! The one place where the cost model is written down: the optimiser and the predictor both ask here, so
//! that a plan is worth exactly what was promised.

use std::ops::Range;

use crate::error::PlanError;
use crate::{Assignment, End, Link, Problem};

/// A checked problem with the costs of every range of units.
pub(crate) struct Costs<'a> {
    pub problem: &'a Problem,
    /// By first unit, then by length - 1.
    ranges: Vec<Vec<RangeCost>>,
}

#[derive(Clone, Copy)]
struct RangeCost {
    seconds: f64,
    weight_bytes: u64,
    activation_bytes: u64,
}

impl RangeCost {
    fn memory_bytes(&self) -> u64 {
        self.weight_bytes.saturating_add(self.activation_bytes)
    }
}

/// What one more stage, or the way back to the dispatcher, adds to a chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// Time that the link before it is busy.
    pub link_seconds: f64,
    /// Time that the link takes besides.
    pub delay_seconds: f64,
    /// Time that its device computes.
    pub compute_seconds: f64,
    /// Time that its device is busy, sending and receiving included.
    pub busy_seconds: f64,
    /// Memory that the stage needs.
    pub memory_bytes: u64,
    /// How much of that its device does not have.
    pub excess_bytes: u64,
}

impl Step {
    /// The period of a chain with this step, when it was `so_far` without.
    pub(crate) fn period(&self, so_far: f64) -> f64 {
        so_far.max(self.link_seconds).max(self.busy_seconds)
    }

    /// The latency of a chain with this step, when it was `so_far` without.
    pub(crate) fn latency(&self, so_far: f64) -> f64 {
        so_far + (self.link_seconds + self.delay_seconds) + self.busy_seconds
    }
}

impl<'a> Costs<'a> {
    pub(crate) fn new(problem: &'a Problem) -> Result<Costs<'a>, PlanError> {
        check(problem)?;
        let ranges = (0..problem.units.len()).map(|first| ranges_from(problem, first)).collect();
        Ok(Costs { problem, ranges })
    }

    /// A stage on a device, with the link that leads to it.
    pub(crate) fn stage(&self, from: End, Assignment { device, units }: &Assignment) -> Step {
        Step {
            compute_seconds: self.compute_seconds(*device, units),
            busy_seconds: self.busy_seconds(*device, units),
            memory_bytes: self.range(units).memory_bytes(),
            excess_bytes: self.excess_bytes(*device, units),
            ..self.hop(from, End::Device(*device), units.start)
        }
    }

    /// Time that a device computes these units.
    pub(crate) fn compute_seconds(&self, device: usize, units: &Range<usize>) -> f64 {
        self.range(units).seconds / self.problem.devices[device].speed
    }

    /// Time that a device is busy with a stage of these units.
    pub(crate) fn busy_seconds(&self, device: usize, units: &Range<usize>) -> f64 {
        let moved = self.bytes(units.start) + self.bytes(units.end);
        self.compute_seconds(device, units) + moved * self.problem.devices[device].seconds_per_byte
    }

    /// Memory that a stage of these units needs and the device does not have.
    pub(crate) fn excess_bytes(&self, device: usize, units: &Range<usize>) -> u64 {
        let limit = self.problem.devices[device].memory_bytes;
        limit.map_or(0, |limit| self.range(units).memory_bytes().saturating_sub(limit))
    }

    /// Time that a link is busy with what crosses a boundary.
    pub(crate) fn link_seconds(&self, from: End, to: End, boundary: usize) -> f64 {
        self.bytes(boundary) / self.problem.links.get(from, to).bandwidth
    }

    fn range(&self, units: &Range<usize>) -> &RangeCost {
        &self.ranges[units.start][units.len() - 1]
    }

    /// The way of the results from the last device.
    pub(crate) fn way_back(&self, device: usize) -> Step {
        self.hop(End::Device(device), End::Dispatcher, self.problem.units.len())
    }

    fn hop(&self, from: End, to: End, boundary: usize) -> Step {
        let link = self.problem.links.get(from, to);
        Step {
            link_seconds: self.link_seconds(from, to, boundary),
            delay_seconds: link.delay,
            compute_seconds: 0.0,
            busy_seconds: 0.0,
            memory_bytes: 0,
            excess_bytes: 0,
        }
    }

    fn bytes(&self, boundary: usize) -> f64 {
        self.problem.boundaries[boundary].bytes as f64
    }
}

/// The costs of all ranges that begin at `first`. Summed in order rather than as differences of running
/// totals: equal units then make exactly equal stages, wherever they stand.
fn ranges_from(problem: &Problem, first: usize) -> Vec<RangeCost> {
    let start = RangeCost { seconds: 0.0, weight_bytes: 0, activation_bytes: 0 };
    let grow = |sum: &mut RangeCost, unit: &crate::Unit| {
        sum.seconds += unit.seconds;
        sum.weight_bytes = sum.weight_bytes.saturating_add(unit.weight_bytes);
        sum.activation_bytes = sum.activation_bytes.max(unit.activation_bytes);
        Some(*sum)
    };
    problem.units[first..].iter().scan(start, grow).collect()
}

fn check(problem: &Problem) -> Result<(), PlanError> {
    let Problem { units, boundaries, devices, links } = problem;
    if units.is_empty() {
        return Err(PlanError::NoUnit);
    }
    if devices.is_empty() {
        return Err(PlanError::NoDevice);
    }
    if boundaries.len() != units.len() + 1 {
        return Err(PlanError::BoundaryCount { units: units.len(), boundaries: boundaries.len() });
    }
    if links.devices() != devices.len() {
        return Err(PlanError::LinkCount { links: links.devices(), devices: devices.len() });
    }
    for (index, unit) in units.iter().enumerate() {
        not_negative(unit.seconds, || format!("the time of unit {index}"))?;
    }
    for device in devices {
        let speed = device.speed;
        require(speed > 0.0 && speed.is_finite(), speed, "finite and above 0", || {
            format!("the speed of device `{}`", device.name)
        })?;
        not_negative(device.seconds_per_byte, || format!("the time per byte of device `{}`", device.name))?;
    }
    for &Link { bandwidth, delay } in links.all() {
        require(bandwidth > 0.0, bandwidth, "above 0", || "the bandwidth of a link".to_owned())?;
        not_negative(delay, || "the delay of a link".to_owned())?;
    }
    Ok(())
}

fn not_negative(value: f64, what: impl Fn() -> String) -> Result<(), PlanError> {
    require(value >= 0.0 && value.is_finite(), value, "finite and not below 0", what)
}

fn require(
    holds: bool,
    value: f64,
    allowed: &'static str,
    what: impl Fn() -> String,
) -> Result<(), PlanError> {
    if holds { Ok(()) } else { Err(PlanError::BadFigure { what: what(), allowed, value }) }
}
