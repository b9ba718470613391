//! Problems too large for the exact search: a good order of the devices, and a bound that holds for any problem.
//!
//! The best chain in a given order is exact and quick, so only the order is searched: from several sorted ones,
//! by swaps and moves that are kept when they make the period shorter. The number of tries is fixed, so that the
//! same input gives the same plan.

use std::rc::Rc;

use crate::End;
use crate::costs::Costs;
use crate::order::{Demand, Order};
use crate::predict::Totals;
use crate::search::Space;
use crate::steps::{Limits, Network};

/// A step of the search must shorten the period by this share.
const STEP: f64 = 2e-3;

/// A search over orders of single devices.
pub(crate) struct Orders<'a> {
    pub costs: &'a Costs<'a>,
    pub points: Rc<[usize]>,
    pub demand: Demand,
    /// Orders that are tried.
    pub tries: usize,
    /// No plan has a shorter period.
    pub bound: f64,
    /// Whether what is found out about orders of single devices holds for all plans.
    pub single: bool,
}

impl<'a> Orders<'a> {
    /// The best order found as a space of its own, with its shortest period and a bound; `None` in their place when
    /// nothing fits into memory.
    pub(crate) fn improve(&self) -> (Space<'a>, Option<(f64, f64)>) {
        let order = |sequence: &[usize]| Order::given(sequence, self.demand);
        let given: Vec<usize> = (0..self.costs.problem.devices.len()).collect();
        // Whatever the order, teams and hops are the same.
        let network = Rc::new(Network::new(self.costs, &order(&given), &self.points));
        let space = |sequence: &[usize]| Space {
            costs: self.costs,
            points: self.points.clone(),
            order: order(sequence),
            network: network.clone(),
        };
        let mut best: Option<(f64, Vec<usize>)> = None;
        for sequence in sorted(self.costs) {
            let least = best.as_ref().map_or(f64::INFINITY, |(least, _)| *least);
            if let Some((period, _)) = space(&sequence).shorter_than(self.bound, least) {
                best = Some((period, sequence));
            }
        }
        let Some((mut period, mut sequence)) = best else {
            return (space(&given), None);
        };
        let bound = if self.single { space(&given).bound(self.bound, period) } else { self.bound };
        let limits = |period: f64| Limits::period(period * (1.0 - STEP));
        let all_codecs = !self.costs.problem.media.is_empty();
        let mut allowed = space(&given).steps(limits(period), all_codecs);
        let mut random = fastrand::Rng::with_seed(0);
        for _ in 0..self.tries {
            if limits(period).period < bound {
                break;
            }
            let other = neighbour(&sequence, &mut random);
            if let Some(chain) = space(&other).chain_of(&allowed, limits(period)) {
                period = Totals::of(self.costs, &chain).period;
                sequence = other;
                allowed = space(&given).steps(limits(period), all_codecs);
            }
        }
        let space = space(&sequence);
        let shortest = space.shortest(bound).map(|(period, _)| (period, bound));
        (space, shortest)
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
    work.max(units.fold(0.0, f64::max)).max(rest.into_iter().fold(0.0, f64::max)) * (1.0 - 1e-9)
}
