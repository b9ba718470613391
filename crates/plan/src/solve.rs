//! The best plan for devices in a given order.
//!
//! Called by the command line and the deployment. Exact: no plan over the same cuts, order and cost model
//! has a shorter period.

use crate::costs::{Costs, Step};
use crate::error::PlanError;
use crate::predict::{evaluate, shortage};
use crate::search::Space;
use crate::{Assignment, End, Plan, Problem};

/// What the user demands of a plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Exactly this many stages. Without it, a device that makes the plan slower is left out.
    pub stages: Option<usize>,
    /// Cut at these boundaries and nowhere else; they must rise. Without it, anywhere.
    pub cuts: Option<Vec<usize>>,
    /// By how much the period may exceed the shortest, as a share of it, for the sake of less latency: what
    /// the costs that were measured cannot tell apart. On links that are no limit, latency is the CPU time of
    /// an item, so this saves work. 0 without it.
    pub slack: f64,
}

/// Finds the plan of the shortest period, devices taken in the order in which the problem gives them. Of
/// plans with the same period, or one within [`Options::slack`] of it, the one of least latency wins, then the one with fewer devices, then the
/// first in a fixed order.
///
/// # Errors
/// When the options contradict the problem, when nothing fits into the devices' memory, or when a figure of
/// the problem is unusable.
pub fn solve(problem: &Problem, options: &Options) -> Result<Plan, PlanError> {
    let costs = Costs::new(problem)?;
    let space = space(&costs, options)?;
    let fits = |step: &Step| step.excess_bytes == 0;
    let shortest = space.best(0.0, |period, step| fits(step).then(|| step.period(period)));
    let Some((period, _)) = shortest else { return Err(nothing_fits(&space)) };

    let period = period * (1.0 + options.slack.max(0.0));

    // A maximum says nothing about the steps below it: the second criterion needs a search of its own.
    let quickest = space.best((0.0, 0), |(latency, steps): (f64, usize), step| {
        let allowed = fits(step) && step.period(0.0) <= period;
        allowed.then(|| (step.latency(latency), steps + 1))
    });
    let (_, assignment) = quickest.expect("the plan of the shortest period is among those searched");
    evaluate(&costs, &assignment)
}

/// The chains that the options leave.
fn space<'a>(costs: &'a Costs<'a>, options: &Options) -> Result<Space<'a>, PlanError> {
    let (units, devices) = (costs.problem.units.len(), costs.problem.devices.len());
    let mut ends: Vec<usize> = match &options.cuts {
        Some(cuts) => checked(cuts, units)?,
        None => (1..units).collect(),
    };
    let stages = match (options.stages, &options.cuts) {
        (Some(0), _) => return Err(PlanError::NoStage),
        (Some(stages), Some(cuts)) if stages != cuts.len() + 1 => {
            return Err(PlanError::StagesAgainstCuts { stages, cuts: cuts.len() });
        }
        (Some(stages), None) if stages > units => {
            return Err(PlanError::TooManyStages { stages, cuts: units - 1 });
        }
        (stages, cuts) => stages.or(cuts.as_ref().map(|cuts| cuts.len() + 1)),
    };
    if let Some(stages) = stages.filter(|&stages| stages > devices) {
        return Err(PlanError::TooFewDevices { stages, devices });
    }
    ends.push(units);
    Ok(Space { costs, ends, stages })
}

fn checked(cuts: &[usize], units: usize) -> Result<Vec<usize>, PlanError> {
    let mut last = 0;
    for &cut in cuts {
        if cut <= last || cut >= units {
            return Err(PlanError::BadCut { cut, last: units - 1 });
        }
        last = cut;
    }
    Ok(cuts.to_vec())
}

/// Which limit is in the way: the largest shortage of the plan whose largest shortage is least.
fn nothing_fits(space: &Space<'_>) -> PlanError {
    let least = space.best(0, |excess: u64, step| Some(excess.max(step.excess_bytes)));
    let (_, assignment) = least.expect("without limits there is always a plan");
    let step = |stage: &Assignment| space.costs.stage(End::Dispatcher, stage);
    let worst = assignment.iter().max_by_key(|stage| step(stage).excess_bytes);
    let worst = worst.and_then(|stage| shortage(space.costs, stage, &step(stage)));
    PlanError::NothingFits(worst.expect("a plan without shortage would have been found"))
}
