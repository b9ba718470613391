//! Problems too large for the exact search: a good order of the devices, and a bound that holds for any problem.
//!
//! Called by the optimiser. Under a limit on the period, prices of the devices either prove that there is no chain or
//! guide the search for one; limits are tried until bound and plan are close. The number of tries is fixed, so that the
//! same input gives the same plan.

use std::rc::Rc;

use crate::End;
use crate::beam;
use crate::costs::{Costs, ROUNDING};
use crate::network::Network;
use crate::order::{Demand, Order};
use crate::predict::Totals;
use crate::prices::Prices;
use crate::search::Space;
use crate::steps::{Limits, Steps};
use crate::ways::Ways;
use crate::whole;

/// A plan this close to the bound, as a share of the period, is good enough.
const GOOD: f64 = 2e-3;

/// The first limit lies above the bound by this share; the share doubles until there is a chain.
const FIRST_REACH: f64 = 0.01;

/// From this share on, any period will do.
const LAST_REACH: f64 = 30.0;

/// Limits that are tried at most.
const ROUNDS: usize = 24;

/// Steps that prices are improved by at each limit.
const LEAST_TRIES: usize = 16;
const MOST_TRIES: usize = 100;

/// Beginnings of chains that are kept at each point.
const WIDTH: usize = 32;

/// Where prices do not tell enough, a swap of devices must shorten the period by this share.
const STEP: f64 = 2e-3;

/// A search over orders of single devices.
pub(crate) struct Orders<'a> {
    pub costs: &'a Costs<'a>,
    pub points: Rc<[usize]>,
    pub demand: Demand,
    /// Operations to spend on prices, about.
    pub effort: f64,
    /// Orders that are tried where prices do not tell enough.
    pub tries: usize,
    /// No plan has a shorter period.
    pub bound: f64,
    /// Whether what is found out about orders of single devices holds for all plans.
    pub single: bool,
}

/// What is known so far.
struct Known {
    /// No chain has a shorter period.
    low: f64,
    /// The longest period under which no chain was found.
    missed: f64,
    /// The shortest period for which prices did not prove that there is no chain.
    unproven: f64,
    best: Option<(f64, Vec<usize>)>,
    /// How far beyond what is known the next limit lies, as a share, while there is no chain.
    reach: f64,
    /// Whether something is in the way that prices know nothing of: media, or what the dispatcher has to do.
    blind: bool,
}

/// What came of a limit.
enum Finding {
    /// There is none, in any order.
    NoChain,
    /// One of these devices, in this order, as far as media and the dispatcher allow it.
    Chain(Vec<usize>),
    Nothing,
}

impl Known {
    fn from(low: f64) -> Known {
        Known { low, missed: 0.0, unproven: f64::INFINITY, best: None, reach: FIRST_REACH, blind: false }
    }

    fn period(&self) -> f64 {
        self.best.as_ref().map_or(f64::INFINITY, |(period, _)| *period)
    }

    fn miss(&mut self, limit: f64) {
        self.missed = self.missed.max(limit);
        self.unproven = self.unproven.min(limit);
    }

    /// The limit that tells most; `None` when there is no more to be told.
    fn limit(&self) -> Option<f64> {
        let (floor, period) = (self.low.max(self.missed), self.period());
        let ceiling = self.unproven.min(floor);
        if self.best.is_none() {
            return Some(if self.reach < LAST_REACH { floor * (1.0 + self.reach) } else { f64::INFINITY });
        }
        if period - self.low <= GOOD * period {
            None
        } else if period - floor > GOOD * period {
            Some(floor + (period - floor) / 2.0)
        } else {
            (ceiling - self.low > GOOD * period).then(|| self.low + (ceiling - self.low) / 2.0)
        }
    }
}

impl<'a> Orders<'a> {
    /// The best plans found as spaces of their own, at least one, with the shortest period and a bound; `None` in their
    /// place when nothing fits into memory.
    pub(crate) fn improve(&self) -> (Vec<Space<'a>>, Option<(f64, f64)>) {
        let (space, found) = self.best_order();
        assert!(found.is_none_or(|(period, low)| low <= period), "a period of {found:?} is below its bound");
        if self.single {
            return (vec![space], found);
        }
        // What was proven holds for single devices only.
        let (low, high) = (self.bound, found.map_or(f64::INFINITY, |(period, _)| period));
        match whole::best(self.costs, self.demand, [low, high]) {
            Some((whole, period)) => (vec![space, whole], Some((period, low))),
            None => (vec![space], found.map(|_| (high, low))),
        }
    }

    /// The same, of single devices.
    fn best_order(&self) -> (Space<'a>, Option<(f64, f64)>) {
        let given: Vec<usize> = (0..self.costs.problem.devices.len()).collect();
        // Whatever the order, teams and hops are the same.
        let network = Rc::new(Network::new(self.costs, &Order::given(&given, self.demand), &self.points));
        let space = |sequence: &[usize]| Space {
            costs: self.costs,
            points: self.points.clone(),
            order: Order::given(sequence, self.demand),
            network: network.clone(),
        };
        let mut known = Known::from(self.bound);
        self.close_in(&space, &mut known);
        if known.best.is_none() {
            self.try_sorted(&space, &mut known);
            known.blind = true;
        }
        if known.blind {
            self.try_neighbours(&space, &mut known);
        }
        let Some((period, sequence)) = known.best else { return (space(&given), None) };
        let space = space(&sequence);
        let period = space.shorter_than(known.low, period).map_or(period, |(period, _)| period);
        (space, Some((period, known.low)))
    }

    /// Tries limits between what is proven and what is found.
    fn close_in(&self, space: &impl Fn(&[usize]) -> Space<'a>, known: &mut Known) {
        let given: Vec<usize> = (0..self.costs.problem.devices.len()).collect();
        let any = space(&given);
        let (mut prices, media) = (None, self.costs.problem.media.len());
        for _ in 0..ROUNDS {
            let Some(limit) = known.limit() else { break };
            // A codec that costs more time may take less air.
            let steps = any.steps(Limits::period(limit), media > 0);
            let ways = Ways::new(&any, &steps, limit);
            let prices = prices.get_or_insert_with(|| Prices::of(steps.capacities(), media, self.demand));
            match self.look(&ways, prices) {
                Finding::NoChain => known.low = limit,
                Finding::Nothing => known.miss(limit),
                Finding::Chain(mut order) => {
                    let left: Vec<usize> = given.iter().copied().filter(|d| !order.contains(d)).collect();
                    order.extend(left);
                    self.take(&space(&order), order, &steps, limit, known);
                }
            }
            if limit == f64::INFINITY {
                // Some order that holds the model, and no more.
                known.blind = true;
            }
            if known.blind {
                break;
            }
            known.reach *= 2.0;
        }
    }

    /// Takes the best chain in an order that has one within a limit as far as prices know.
    fn take(&self, space: &Space<'_>, order: Vec<usize>, steps: &Steps, limit: f64, known: &mut Known) {
        match space.chain_of(steps, Limits::period(limit)) {
            Some(chain) => known.best = Some((Totals::of(self.costs, &chain).period, order)),
            None => {
                known.blind = true;
                if let Some((period, _)) = space.shorter_than(known.low, known.period()) {
                    known.best = Some((period, order));
                }
            }
        }
    }

    /// Looks for a chain and for a proof that there is none: quickly, and then in earnest.
    fn look(&self, ways: &Ways<'_>, prices: &mut Prices) -> Finding {
        let tries = (self.effort / (ROUNDS * ways.size()) as f64) as usize;
        let tries = tries.clamp(LEAST_TRIES, MOST_TRIES);
        for tries in [tries / 8, tries] {
            let priced = prices.improve(ways, tries);
            if priced.proves() {
                return Finding::NoChain;
            }
            if let Some(order) = beam::chain(ways, &priced, self.demand, WIDTH) {
                return Finding::Chain(order);
            }
        }
        Finding::Nothing
    }

    /// Tries orders to begin with.
    fn try_sorted(&self, space: &impl Fn(&[usize]) -> Space<'a>, known: &mut Known) {
        for sequence in sorted(self.costs) {
            if let Some((period, _)) = space(&sequence).shorter_than(known.low, known.period()) {
                known.best = Some((period, sequence));
            }
        }
    }

    /// Swaps and moves devices as long as that makes the period shorter.
    fn try_neighbours(&self, space: &impl Fn(&[usize]) -> Space<'a>, known: &mut Known) {
        let Some((mut period, mut sequence)) = known.best.clone() else { return };
        let limits = |period: f64| Limits::period(period * (1.0 - STEP));
        let all_codecs = !self.costs.problem.media.is_empty();
        let mut allowed = space(&sequence).steps(limits(period), all_codecs);
        let mut random = fastrand::Rng::with_seed(0);
        for _ in 0..self.tries {
            if limits(period).period < known.low {
                break;
            }
            let other = neighbour(&sequence, &mut random);
            if let Some(chain) = space(&other).chain_of(&allowed, limits(period)) {
                period = Totals::of(self.costs, &chain).period;
                sequence = other;
                allowed = space(&sequence).steps(limits(period), all_codecs);
            }
        }
        known.best = Some((period, sequence));
    }
}

/// The sequence with two devices swapped, or one moved.
fn neighbour(sequence: &[usize], random: &mut fastrand::Rng) -> Vec<usize> {
    let mut other = sequence.to_vec();
    let (a, b) = (random.usize(..other.len()), random.usize(..other.len()));
    if random.bool() {
        other.swap(a, b);
    } else {
        let device = other.remove(a);
        other.insert(b, device);
    }
    other
}

/// Orders to begin with: as given, fastest first and last, most memory first and last.
fn sorted(costs: &Costs<'_>) -> Vec<Vec<usize>> {
    let devices = &costs.problem.devices;
    let given: Vec<usize> = (0..devices.len()).collect();
    let by = |key: &dyn Fn(usize) -> f64| {
        let mut order = given.clone();
        order.sort_by(|&a, &b| key(a).total_cmp(&key(b)));
        order
    };
    let seconds = |d: usize| costs.compute_seconds(d, &(0..costs.end()));
    let memory = |d: usize| devices[d].memory_bytes.map_or(f64::INFINITY, |bytes| bytes as f64);
    vec![given.clone(), by(&seconds), by(&|d| -seconds(d)), by(&|d| -memory(d)), by(&memory)]
}

/// A period that no plan can pass: all devices always busy; the unit that takes longest; the model's inputs and
/// outputs over the fastest links; the dispatcher's own work.
pub(crate) fn bound(costs: &Costs<'_>, replicas: bool) -> f64 {
    let devices = 0..costs.problem.devices.len();
    let codecs = || 0..costs.problem.codecs.len();
    let least = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::INFINITY, f64::min);
    // One device alone has it all, or with replicas any share of it.
    let shared = |seconds: &dyn Fn(usize) -> f64| match replicas {
        true => 1.0 / devices.clone().map(|d| 1.0 / seconds(d)).sum::<f64>(),
        false => least(&mut devices.clone().map(seconds)),
    };
    let speed: f64 = devices.clone().map(|device| costs.top_speed(device)).sum();
    let total = costs.seconds_behind()[0];
    let work = if total > 0.0 { total / speed } else { 0.0 };
    let units = (0..costs.end()).map(|unit| shared(&|d| costs.compute_seconds(d, &(unit..unit + 1))));
    let crossing = |boundary: usize, inwards: bool| {
        shared(&|d| {
            let (team, dispatcher) = (costs.team(&[d]), costs.dispatcher());
            let hop = if inwards { costs.hop(dispatcher, &team) } else { costs.hop(&team, dispatcher) };
            least(&mut codecs().map(|codec| hop.load(costs.bytes(boundary, codec))))
        })
    };
    let port = |boundary: usize| {
        least(&mut codecs().map(|c| costs.bytes(boundary, c))) / costs.problem.host(End::Dispatcher).bandwidth
    };
    let (start, end) = (0, costs.end());
    let dispatcher =
        least(&mut codecs().flat_map(|a| codecs().map(move |b| costs.dispatcher_seconds([a, b]))));
    let rest = [crossing(start, true), crossing(end, false), port(start), port(end), dispatcher];
    // Rounding: sums taken in another order may come out a little larger.
    work.max(units.fold(0.0, f64::max)).max(rest.into_iter().fold(0.0, f64::max)) * (1.0 - ROUNDING)
}
