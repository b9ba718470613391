//! The best plan, with proof.
//!
//! Called by the command line and the deployment. Exact for devices in a given order, and in any order for up to
//! 16 different ones or many of few kinds: no plan over the same cuts and cost model has a shorter period. Beyond
//! that, the best of many orders and a bound that no plan can pass.

use crate::costs::{Costs, Step};
use crate::error::{PlanError, Shortage};
use crate::large;
use crate::order::Order;
use crate::predict::{evaluate, shortage};
use crate::search::Space;
use crate::steps::words;
use crate::{Assignment, End, Plan, Problem};

/// Words that the sets of an exact search may take, 32 MiB of them: 16 different devices with 250 units.
const MAX_WORDS: usize = 1 << 22;

/// What the user demands of a plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Exactly this many stages. Without it, a device that makes the plan slower is left out.
    pub stages: Option<usize>,
    /// Cut at these boundaries and nowhere else; they must rise. Without it, anywhere.
    pub cuts: Option<Vec<usize>>,
    /// Whether devices follow one another in the order in which the problem gives them; some may be left out.
    /// Otherwise in whatever order is best.
    pub keep_order: bool,
    /// By how much the period may exceed the shortest, as a share of it, for the sake of less latency: what
    /// the costs that were measured cannot tell apart. On links that are no limit, latency is the CPU time of
    /// an item, so this saves work. 0 without it.
    pub slack: f64,
}

/// A plan, and how good one could be.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// The plan.
    pub plan: Plan,
    /// No plan under the same options has a shorter period, seconds. Below the plan's period by what
    /// [`Options::slack`] allowed, or where the problem was too large to be solved exactly.
    pub bound: f64,
}

impl Solution {
    /// By how much the plan's period may exceed the shortest, as a share of that.
    pub fn gap(&self) -> f64 {
        if self.plan.period > self.bound { self.plan.period / self.bound - 1.0 } else { 0.0 }
    }
}

/// Finds the plan of the shortest period. Of plans with the same period, or one within [`Options::slack`] of it,
/// the one of least latency wins, then the one with fewer devices, then the first in a fixed order.
///
/// # Errors
/// When the options contradict the problem, when nothing fits into the devices' memory, or when a figure of
/// the problem is unusable.
pub fn solve(problem: &Problem, options: &Options) -> Result<Solution, PlanError> {
    let costs = Costs::new(problem)?;
    let (points, stages) = points(&costs, options)?;
    let order = match options.keep_order {
        true => Some(Order::given((0..problem.devices.len()).collect(), stages)),
        false => Order::any(problem, stages, MAX_WORDS / words(points.len())),
    };
    let exact = order.is_some();
    let (space, shortest) = match order {
        Some(order) => {
            let space = Space { costs: &costs, points, order };
            let shortest = space.shortest().map(|(period, _)| (period, period));
            (space, shortest)
        }
        None => large::improve(&costs, points, stages),
    };
    let Some((period, bound)) = shortest else {
        let shortage = least_shortage(&space);
        return Err(match exact {
            true => PlanError::NothingFits(shortage),
            false => PlanError::NothingFound(shortage),
        });
    };
    let assignment = space.quickest(period * (1.0 + options.slack.max(0.0)));
    Ok(Solution { plan: evaluate(&costs, &assignment)?, bound })
}

/// Where stages may begin and end, and how many there must be.
fn points(costs: &Costs<'_>, options: &Options) -> Result<(Vec<usize>, Option<usize>), PlanError> {
    let (units, devices) = (costs.problem.units.len(), costs.problem.devices.len());
    let cuts: Vec<usize> = match &options.cuts {
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
    let points = std::iter::once(0).chain(cuts).chain([units]).collect();
    Ok((points, stages))
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
fn least_shortage(space: &Space<'_>) -> Shortage {
    let assignment = space.least_shortage();
    let step = |stage: &Assignment| -> Step { space.costs.stage(End::Dispatcher, stage) };
    let worst = assignment.iter().max_by_key(|stage| step(stage).excess_bytes);
    let worst = worst.and_then(|stage| shortage(space.costs, stage, &step(stage)));
    worst.expect("a plan without shortage would have been found")
}
