//! The best plan, with proof.
//!
//! Called by the command line and the deployment. Exact for devices in a given order, and in any order for up to
//! 16 different ones or many of few kinds: no plan over the same cuts and cost model is better. Beyond that, the
//! best plan found and a bound that no plan can pass.

use std::rc::Rc;

use crate::costs::{Costs, ROUNDING};
use crate::error::PlanError;
use crate::labels::Goal;
use crate::large::{self, Orders};
use crate::order::{Demand, Order, Size};
use crate::predict::{evaluate, shortages};
use crate::search::Space;
use crate::steps::Limits;
use crate::{Assignment, Plan, Problem};

/// What is to be best.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Objective {
    /// The shortest period. Of plans with the same, or one within [`Options::slack`] of it, the one of least latency
    /// wins, then the one with fewer devices, then the first in a fixed order.
    #[default]
    Throughput,
    /// The least latency of an item that is alone in the chain.
    Latency,
    /// The least energy per item.
    Energy,
    /// The fewest devices; with as many, the shortest period.
    Devices,
}

/// What the user demands of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// What is to be best.
    pub objective: Objective,
    /// Seconds between results at most.
    pub max_period: Option<f64>,
    /// Exactly this many stages. Without it, a device that makes the plan worse is left out.
    pub stages: Option<usize>,
    /// At most this many devices.
    pub max_devices: Option<usize>,
    /// Cut at these boundaries and nowhere else; they must rise. Without it, anywhere.
    pub cuts: Option<Vec<usize>>,
    /// Whether devices follow one another in the order in which the problem gives them, one a stage; some may be
    /// left out. Otherwise in whatever order is best.
    pub keep_order: bool,
    /// Whether a stage may have several devices, among which items are dealt out.
    pub replicas: bool,
    /// By how much the period may exceed the shortest, as a share of it, for the sake of less latency: what
    /// the costs that were measured cannot tell apart. On links that are no limit, latency is the CPU time of
    /// an item, so this saves work. For [`Objective::Throughput`] only.
    pub slack: f64,
    /// How much work to spend on a problem, in what a core does in a second. It decides whether the search is exact
    /// and, where not, how closely plan and bound are brought together. It is no clock: the same budget gives the same
    /// plan.
    pub budget: f64,
}

impl Default for Options {
    /// The shortest period, whatever the cuts and the order of the devices; one device a stage.
    fn default() -> Options {
        Options {
            objective: Objective::Throughput,
            max_period: None,
            stages: None,
            max_devices: None,
            cuts: None,
            keep_order: false,
            replicas: false,
            slack: 0.0,
            budget: 10.0,
        }
    }
}

/// A plan, and how good one could be.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// The plan.
    pub plan: Plan,
    /// What it is worth under the objective: its period or latency in seconds, its energy in joules, its devices.
    pub worth: f64,
    /// No plan under the same options is worth less. Below the plan's worth by what [`Options::slack`] allowed, or
    /// where the problem was too large to be solved exactly.
    pub bound: f64,
    /// How much longer its period is than the shortest that was found, as a share of that: what [`Options::slack`]
    /// gave up for less latency. 0 under other objectives than throughput.
    pub given_up: f64,
}

impl Solution {
    /// By how much the plan's worth may exceed the least, as a share of that.
    pub fn gap(&self) -> f64 {
        if self.worth > self.bound { self.worth / self.bound - 1.0 } else { 0.0 }
    }
}

/// Finds the best plan.
///
/// # Errors
/// When the options contradict the problem, when nothing fits into the devices' memory or is fast enough, or when a
/// figure of the problem is unusable.
pub fn solve(problem: &Problem, options: &Options) -> Result<Solution, PlanError> {
    let costs = Costs::new(problem)?;
    crate::check::options(options)?;
    Search::new(&costs, options)?.solve()
}

/// Word operations that a core does in a second, in the innermost loop of the search.
const STEPS_PER_SECOND: f64 = 4e9;

/// Limits that an exact search tries, about.
const LIMITS: f64 = 10.0;

/// A label costs so many word operations.
const LABEL_STEPS: f64 = 10.0;

/// Bytes that the sets of an exact search may take.
const MAX_SET_BYTES: f64 = 512e6;

/// Groups of devices between each two of which the costs are tabulated.
const MAX_GROUPS: f64 = 2048.0;

/// Steps of a search from which on a good plan is looked for first, to spare the search limits to try.
const HARD_STEPS: f64 = 2e5;

/// Periods that a front tells apart, as a share.
const FRONT_STEP: f64 = 0.01;

/// Energy is minimised up to this share.
const ENERGY_ERROR: f64 = 1e-6;

/// Splits of the range of periods, at most, in the search for the least energy.
const ENERGY_SPLITS: usize = 50;

pub(crate) struct Search<'a> {
    costs: &'a Costs<'a>,
    options: &'a Options,
    points: Rc<[usize]>,
    demand: Demand,
    /// No plan has a shorter period.
    bound: f64,
}

/// What is known of a problem when its shortest period is.
struct Shortest<'a> {
    /// Where to look for plans: all of them, if the search is exact.
    spaces: Vec<Space<'a>>,
    period: f64,
    /// No plan has a shorter period.
    bound: f64,
    /// Whether the spaces hold all plans.
    exact: bool,
}

impl Shortest<'_> {
    /// Of the plans within a period the best for a goal, with its worth.
    fn best(&self, period: f64, goal: Goal) -> Option<(f64, Assignment)> {
        let found = self.spaces.iter().filter_map(|space| space.best(period, goal));
        found.min_by(|a, b| a.0.total_cmp(&b.0))
    }
}

impl<'a> Search<'a> {
    pub(crate) fn new(costs: &'a Costs<'a>, options: &'a Options) -> Result<Search<'a>, PlanError> {
        let (points, stages) = points(costs, options)?;
        let demand = Demand { stages, devices: options.max_devices };
        let bound = large::bound(costs, options.replicas && !options.keep_order);
        Ok(Search { costs, options, points: points.into(), demand, bound })
    }

    fn solve(&self) -> Result<Solution, PlanError> {
        let limit = self.options.max_period.unwrap_or(f64::INFINITY);
        let shortest = match self.options.objective {
            Objective::Throughput => self.shortest(self.demand)?,
            _ => self.shortest_to_choose_from(limit)?,
        };
        if shortest.period > limit {
            let (wanted, best) = (limit, shortest.period);
            return Err(match shortest.exact {
                true => PlanError::TooSlow { wanted, best },
                false => PlanError::FoundTooSlow { wanted, best },
            });
        }
        let exact = shortest.exact;
        match self.options.objective {
            Objective::Throughput => self.quickest(&shortest),
            Objective::Latency => {
                let (worth, assignment) = found(shortest.best(limit, Goal::Latency));
                self.solution(&assignment, worth, if exact { worth } else { self.least_latency() })
            }
            Objective::Energy => self.least_energy(&shortest, limit),
            Objective::Devices => {
                let (devices, assignment) = found(shortest.best(limit, Goal::Devices));
                let fewest = Demand { devices: Some(devices as usize), ..self.demand };
                // Where not all plans are searched, other ones may be found with this demand, and slower.
                let plan = match self.shortest(fewest) {
                    Ok(fewest) if fewest.period <= limit => self.quickest(&fewest)?.plan,
                    _ => evaluate(self.costs, &assignment)?,
                };
                let worth = plan.devices() as f64;
                Ok(Solution { plan, worth, bound: if exact { worth } else { 1.0 }, given_up: 0.0 })
            }
        }
    }

    /// Plans of less and less period and more and more latency, down to the shortest period.
    pub(crate) fn by_latency(&self) -> Result<Vec<Plan>, PlanError> {
        let mut limit = self.options.max_period.unwrap_or(f64::INFINITY);
        let shortest = self.shortest_to_choose_from(limit)?;
        let mut plans = Vec::new();
        while let Some((_, assignment)) = shortest.best(limit, Goal::Latency) {
            let plan = evaluate(self.costs, &assignment)?;
            let period = plan.period;
            plans.push(plan);
            if period <= shortest.period {
                break;
            }
            limit = (period * (1.0 - FRONT_STEP)).max(shortest.period);
        }
        Ok(plans)
    }

    /// The shortest period, and where to look for plans that are nearly as fast.
    fn shortest(&self, demand: Demand) -> Result<Shortest<'a>, PlanError> {
        self.shortest_in(self.space(demand), demand)
    }

    /// The same, where plans that take up to a limit are chosen from: of a few orders only, if there are too many.
    fn shortest_to_choose_from(&self, limit: f64) -> Result<Shortest<'a>, PlanError> {
        let shortest = self.shortest(self.demand)?;
        match shortest.spaces.iter().all(|space| space.is_open_to_choice(limit)) {
            true => Ok(shortest),
            false => self.shortest_in(None, self.demand),
        }
    }

    /// The same, with the space of all plans if it is not too large.
    fn shortest_in(&self, all: Option<Space<'a>>, demand: Demand) -> Result<Shortest<'a>, PlanError> {
        let exact = all.is_some();
        let hard =
            all.as_ref().is_none_or(|space| self.steps(space) > HARD_STEPS && !self.options.keep_order);
        let (some, found) = match hard {
            true => self.orders(demand, exact).improve(),
            false => (Vec::new(), None),
        };
        let (spaces, low) =
            (all.map_or(some, |space| vec![space]), found.map_or(self.bound, |(_, bound)| bound));
        let period = match found {
            // Found in another space, where the same plan may be worth an ulp more or less.
            Some((high, _)) if exact => {
                let near = spaces[0].shorter_than(low, high * (1.0 + ROUNDING));
                near.or_else(|| spaces[0].shortest(low)).map(|(period, _)| period)
            }
            Some((high, _)) => Some(high),
            None => spaces[0].shortest(low).map(|(period, _)| period),
        };
        match period {
            Some(period) => {
                let bound = if exact { period } else { low.min(period) };
                Ok(Shortest { spaces, period, bound, exact })
            }
            None => Err(self.nothing_fits(&spaces[0], exact)),
        }
    }

    /// Which limit is in the way: the largest shortage of the plan whose largest shortage is least.
    fn nothing_fits(&self, space: &Space<'_>, exact: bool) -> PlanError {
        let assignment = space.least_shortage();
        let worst = shortages(self.costs, &assignment).max_by_key(|s| s.needed_bytes - s.limit_bytes);
        let shortage = worst.expect("a plan without shortage would have been found");
        if exact { PlanError::NothingFits(shortage) } else { PlanError::NothingFound(shortage) }
    }

    /// All plans, unless they are too many.
    fn space(&self, demand: Demand) -> Option<Space<'a>> {
        let order = match self.options.keep_order {
            true => Order::given(&(0..self.costs.problem.devices.len()).collect::<Vec<_>>(), demand),
            false => {
                let affordable = |size: Size| self.affordable(size);
                Order::any(self.costs.problem, demand, self.options.replicas, affordable)?
            }
        };
        Some(Space::new(self.costs, self.points.clone(), order))
    }

    fn affordable(&self, size: Size) -> bool {
        let problem = self.costs.problem;
        let places = (self.points.len() * problem.codecs.len()) as f64;
        let words = (self.points.len().div_ceil(64) * problem.codecs.len()) as f64;
        let labels = size.nodes * places * places / 2.0 + size.pairs * places;
        let steps = match problem.media.is_empty() {
            true => (size.pairs + size.nodes * places) * words,
            false => labels * LABEL_STEPS,
        };
        let searches = match self.options.objective {
            Objective::Throughput => 0.0,
            Objective::Latency | Objective::Devices => 1.0,
            Objective::Energy => ENERGY_SPLITS as f64,
        };
        // Every link between two groups that may follow one another.
        let links = size.groups * size.groups * (problem.devices.len() * problem.devices.len()) as f64 / 24.0;
        steps * LIMITS + labels * LABEL_STEPS * searches + links <= self.options.budget * STEPS_PER_SECOND
            && size.nodes * words * 8.0 * 2.0 <= MAX_SET_BYTES
            && size.groups <= MAX_GROUPS
    }

    /// Word operations for one limit, about.
    fn steps(&self, space: &Space<'_>) -> f64 {
        let pairs: usize = space.order.nodes().iter().map(|node| node.before().len()).sum();
        let steps = (pairs * space.layout().words()) as f64;
        match self.costs.problem.media.is_empty() {
            true => steps,
            false => steps * LABEL_STEPS * self.points.len() as f64,
        }
    }

    fn orders(&self, demand: Demand, short: bool) -> Orders<'a> {
        let (devices, points) = (self.costs.problem.devices.len(), self.points.len());
        let words = self.points.len().div_ceil(64) * self.costs.problem.codecs.len();
        let steps = (devices * (devices + points) * words) as f64;
        let media = if self.costs.problem.media.is_empty() { 1.0 } else { LABEL_STEPS };
        let share = if short { 0.02 } else { 0.2 };
        let tries = self.options.budget * STEPS_PER_SECOND * share / (steps * media);
        let tries = (tries as usize).clamp(100, 20_000);
        Orders {
            costs: self.costs,
            points: self.points.clone(),
            demand,
            effort: self.options.budget * STEPS_PER_SECOND * share,
            tries,
            bound: self.bound,
            single: !self.options.replicas,
        }
    }

    /// Of the plans about as fast as the fastest the one of least latency.
    fn quickest(&self, shortest: &Shortest<'_>) -> Result<Solution, PlanError> {
        let limit = shortest.period * (1.0 + self.options.slack.max(0.0));
        let limit = self.options.max_period.map_or(limit, |most| most.min(limit));
        let quickest = |limit| shortest.best(limit, Goal::Latency).map(|(_, assignment)| assignment);
        // Where there are too many plans to choose from, among fewer; else any.
        let any = || shortest.spaces.iter().find_map(|space| space.chain(Limits::period(limit)));
        let assignment = found(quickest(limit).or_else(|| quickest(shortest.period)).or_else(any));
        let plan = evaluate(self.costs, &assignment)?;
        let longer = plan.period / shortest.period - 1.0;
        let given_up = if longer > ROUNDING { longer } else { 0.0 };
        Ok(Solution { worth: plan.period, bound: shortest.bound, given_up, plan })
    }

    fn solution(&self, assignment: &Assignment, worth: f64, bound: f64) -> Result<Solution, PlanError> {
        Ok(Solution {
            plan: evaluate(self.costs, assignment)?,
            worth,
            bound: bound.min(worth),
            given_up: 0.0,
        })
    }

    /// A latency that no plan can pass: all units on the fastest device.
    fn least_latency(&self) -> f64 {
        let units = 0..self.costs.end();
        let devices = 0..self.costs.problem.devices.len();
        let fastest = |unit: usize| {
            let seconds = devices.clone().map(|d| self.costs.compute_seconds(d, &(unit..unit + 1)));
            seconds.fold(f64::INFINITY, f64::min)
        };
        units.map(fastest).sum::<f64>() * (1.0 - ROUNDING)
    }

    /// The energy of an item depends on the period through what idle devices take. Within a range of periods it is at
    /// least what it would be at the shortest of them, which adds up along the chain; ranges are split where that
    /// leaves room for something better.
    fn least_energy(&self, shortest: &Shortest<'_>, limit: f64) -> Result<Solution, PlanError> {
        let at_least = |low: f64, high: f64| shortest.best(high, Goal::Joules { period: low });
        let mut best: Option<(f64, Plan)> = None;
        let mut ranges = vec![(shortest.bound, limit)];
        let mut left_out = f64::INFINITY;
        for split in 0.. {
            let Some((low, high)) = ranges.pop() else { break };
            let Some((least, assignment)) = at_least(low, high) else { continue };
            let plan = evaluate(self.costs, &assignment)?;
            let period = plan.period;
            if best.as_ref().is_none_or(|(joules, _)| plan.joules < *joules) {
                best = Some((plan.joules, plan));
            }
            let joules = best.as_ref().map_or(f64::INFINITY, |(joules, _)| *joules);
            if least >= joules * (1.0 - ENERGY_ERROR) || split >= ENERGY_SPLITS {
                left_out = left_out.min(least);
                continue;
            }
            let middle = low + (period - low) / 2.0;
            ranges.extend([(period, high), (middle, period.next_down()), (low, middle)]);
        }
        let (worth, plan) = best.expect("a plan within the limit");
        // Of a problem too large to search, only what any plan needs is known.
        let bound = if shortest.exact { left_out } else { self.least_joules() };
        Ok(Solution { plan, worth, bound: bound.min(worth), given_up: 0.0 })
    }

    /// An energy that no plan can pass: all units where they take least.
    fn least_joules(&self) -> f64 {
        let units = 0..self.costs.end();
        let devices = 0..self.costs.problem.devices.len();
        let cheapest = |unit: usize| {
            let joules = devices.clone().map(|d| {
                self.costs.compute_seconds(d, &(unit..unit + 1))
                    * self.costs.extra_watts(crate::End::Device(d))
            });
            joules.fold(f64::INFINITY, f64::min)
        };
        let idle = self.bound * self.costs.idle_watts(self.costs.dispatcher());
        (units.map(cheapest).sum::<f64>() + idle) * (1.0 - ROUNDING)
    }
}

fn found<T>(best: Option<T>) -> T {
    best.expect("a plan within this period was found before")
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
    let devices = options.max_devices.map_or(devices, |limit| limit.min(devices));
    match stages.unwrap_or(1) {
        stages if stages > devices => Err(PlanError::TooFewDevices { stages, devices }),
        _ => Ok((std::iter::once(0).chain(cuts).chain([units]).collect(), stages)),
    }
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
