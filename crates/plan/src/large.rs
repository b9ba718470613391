//! Problems too large for the exact search: a good order of the devices, and a bound.
//!
//! The best chain in a given order is exact and quick, so only the order is searched: from several sorted ones,
//! by swaps and moves that are kept when they make the period shorter. The number of tries is fixed, so that the
//! same input gives the same plan.

use crate::End;
use crate::costs::Costs;
use crate::order::Order;
use crate::predict::Totals;
use crate::search::Space;
use crate::steps::Limits;

/// Orders that are tried.
const TRIES: usize = 1500;

/// A step of the search must shorten the period by this share.
const STEP: f64 = 2e-3;

/// The best order found as a space of its own, with its shortest period and the bound; `None` in their place when
/// nothing fits into memory.
pub(crate) fn improve<'a>(
    costs: &'a Costs<'a>,
    points: Vec<usize>,
    stages: Option<usize>,
) -> (Space<'a>, Option<(f64, f64)>) {
    let space = |sequence: &[usize]| {
        let order = Order::given(sequence.to_vec(), stages);
        Space { costs, points: points.clone(), order }
    };
    let mut best: Option<(f64, Vec<usize>)> = None;
    for sequence in sorted(costs) {
        if let Some((period, _)) = space(&sequence).shortest()
            && best.as_ref().is_none_or(|(least, _)| period < *least)
        {
            best = Some((period, sequence));
        }
    }
    let Some((mut period, mut sequence)) = best else {
        return (space(&sorted(costs)[0]), None);
    };
    let bound = bound(costs);
    // Whatever the order, the steps within a limit are the same.
    let steps = |period: f64| {
        space(&as_given(costs)).steps(Limits { period: period * (1.0 - STEP), excess_bytes: 0 })
    };
    let mut allowed = steps(period);
    let mut random = Random(0);
    for _ in 0..TRIES {
        if period * (1.0 - STEP) < bound {
            break;
        }
        let other = space(&neighbour(&sequence, &mut random));
        if let Some(chain) = other.chain_of(&allowed) {
            period = Totals::of(costs, &chain).period;
            sequence = other.order.sequence().to_vec();
            allowed = steps(period);
        }
    }
    let space = space(&sequence);
    let (period, _) = space.shortest().expect("a chain in this order");
    (space, Some((period, bound)))
}

/// The devices in the order of the problem.
fn as_given(costs: &Costs<'_>) -> Vec<usize> {
    (0..costs.problem.devices.len()).collect()
}

/// The sequence with two devices swapped, or one moved.
fn neighbour(sequence: &[usize], random: &mut Random) -> Vec<usize> {
    let mut other = sequence.to_vec();
    let (a, b) = (random.below(other.len()), random.below(other.len()));
    if random.below(2) == 0 {
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
    let given = as_given(costs);
    let by = |key: &dyn Fn(usize) -> f64| {
        let mut order = given.clone();
        order.sort_by(|&a, &b| key(a).total_cmp(&key(b)));
        order
    };
    let speed = |d: usize| devices[d].speed;
    let memory = |d: usize| devices[d].memory_bytes.map_or(f64::INFINITY, |bytes| bytes as f64);
    vec![given.clone(), by(&|d| -speed(d)), by(&speed), by(&|d| -memory(d)), by(&memory)]
}

/// A period that no plan can pass: all devices always busy, the largest unit on the fastest device, and the
/// model's inputs and outputs over the fastest links.
fn bound(costs: &Costs<'_>) -> f64 {
    let problem = costs.problem;
    let speeds = || problem.devices.iter().map(|d| d.speed);
    let total: f64 = problem.units.iter().map(|u| u.seconds).sum();
    let largest = problem.units.iter().map(|u| u.seconds).fold(0.0, f64::max);
    let ends = |seconds: &dyn Fn(End) -> f64| {
        (0..problem.devices.len()).map(|d| seconds(End::Device(d))).fold(f64::INFINITY, f64::min)
    };
    let into = ends(&|device| costs.link_seconds(End::Dispatcher, device, 0));
    let out = ends(&|device| costs.link_seconds(device, End::Dispatcher, problem.units.len()));
    // Rounding: sums taken in another order may come out a little larger.
    let work = (total / speeds().sum::<f64>()).max(largest / speeds().fold(0.0, f64::max));
    (work * (1.0 - 1e-12)).max(into).max(out)
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}
