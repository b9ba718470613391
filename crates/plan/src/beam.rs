//! A chain of different devices under a limit, looked for among the most promising beginnings.
//!
//! Used for problems too large for the exact search, with the guide of [`prices`](crate::prices): a beginning is worth
//! what its devices cost and what is at least still to pay from its end on. The model is walked through once; at each
//! point only so many beginnings are kept. May fail where there is a chain.

use std::collections::HashSet;

use crate::order::Demand;
use crate::prices::Priced;
use crate::ways::{Ways, add, devices, has};

/// Of the beginnings at a point that are of the same worth most are the same devices in another order: more are
/// collected than kept.
const COLLECTED: usize = 4;

/// A beginning of a chain, before it is known whether it is kept.
struct Offer {
    worth: f64,
    paid: f64,
    before: Option<u32>,
    device: usize,
    place: usize,
    /// Of its devices.
    key: u64,
}

/// One that was kept.
struct Beginning {
    before: Option<u32>,
    device: usize,
    stages: usize,
}

struct Beam<'a> {
    ways: &'a Ways,
    priced: &'a Priced,
    width: usize,
    most_stages: usize,
    /// By device.
    keys: Vec<u64>,
    /// By point.
    offers: Vec<Vec<Offer>>,
    /// By point: what is worth less than this is worth a look.
    limits: Vec<f64>,
    kept: Vec<Beginning>,
    /// By beginning: its devices.
    used: Vec<Vec<u64>>,
}

/// The devices of a chain, in its order.
pub(crate) fn chain(ways: &Ways, priced: &Priced, demand: Demand, width: usize) -> Option<Vec<usize>> {
    let points = ways.layout().points;
    let mut random = fastrand::Rng::with_seed(0);
    let mut beam = Beam {
        ways,
        priced,
        width,
        most_stages: demand.stages.or(demand.devices).unwrap_or(ways.devices()),
        keys: (0..ways.devices()).map(|_| random.u64(..)).collect(),
        offers: (0..points).map(|_| Vec::new()).collect(),
        limits: vec![f64::INFINITY; points],
        kept: Vec::new(),
        used: Vec::new(),
    };
    let none = vec![0; ways.devices().div_ceil(64)];
    for (place, set) in ways.enter() {
        beam.extend(set, &none, place, None, (0.0, 0));
    }
    (1..points - 1).for_each(|point| beam.keep(point));
    let complete = beam
        .offers
        .swap_remove(points - 1)
        .into_iter()
        .filter(|offer| demand.stages.is_none_or(|stages| beam.stages(offer.before) + 1 == stages));
    let best =
        complete.min_by(|a, b| (a.paid, a.key).partial_cmp(&(b.paid, b.key)).expect("no price is NaN"))?;
    let before = std::iter::successors(best.before, |&at| beam.kept[at as usize].before);
    let mut order: Vec<usize> = before.map(|at| beam.kept[at as usize].device).collect();
    order.reverse();
    order.push(best.device);
    Some(order)
}

impl Beam<'_> {
    fn stages(&self, beginning: Option<u32>) -> usize {
        beginning.map_or(0, |at| self.kept[at as usize].stages)
    }

    /// Keeps the best of what is offered at a point, and goes on from there.
    fn keep(&mut self, point: usize) {
        let mut offers = std::mem::take(&mut self.offers[point]);
        offers.sort_unstable_by(|a, b| a.worth.total_cmp(&b.worth).then(a.key.cmp(&b.key)));
        let mut seen = HashSet::new();
        // The same devices with the same last one: the order of the others makes no difference any more.
        offers.retain(|offer| seen.insert((offer.key, offer.device, offer.place)));
        for offer in offers.into_iter().take(self.width) {
            let stages = self.stages(offer.before) + 1;
            if stages == self.most_stages {
                continue;
            }
            let mut used = match offer.before {
                Some(before) => self.used[before as usize].clone(),
                None => vec![0; self.ways.devices().div_ceil(64)],
            };
            add(&mut used, offer.device);
            let own = self.kept.len() as u32;
            let ways = self.ways;
            let after = ways.after(offer.device, offer.place);
            self.extend(after, &used, offer.place, Some(own), (offer.paid, offer.key));
            self.kept.push(Beginning { before: offer.before, device: offer.device, stages });
            self.used.push(used);
        }
    }

    /// Offers all ways to go on from a place with one of these devices.
    fn extend(
        &mut self,
        set: &[u64],
        used: &[u64],
        place: usize,
        before: Option<u32>,
        (paid, key): (f64, u64),
    ) {
        for device in devices(set).filter(|&device| !has(used, device)) {
            let (paid, key) = (paid + self.priced.prices[device], key ^ self.keys[device]);
            let behind = self.ways.behind(&self.priced.rest, device);
            for to in self.ways.ends(device, place) {
                let (worth, point) = (paid + behind[to], to % self.limits.len());
                if worth < self.limits[point] {
                    let offer = Offer { worth, paid, before, device, place: to, key };
                    self.offers[point].push(offer);
                    self.trim(point);
                }
            }
        }
    }

    /// Forgets the worse half of what is offered at a point when it has become much.
    fn trim(&mut self, point: usize) {
        let (offers, most) = (&mut self.offers[point], self.width * COLLECTED);
        if offers.len() == 2 * most {
            let by_worth = |a: &Offer, b: &Offer| a.worth.total_cmp(&b.worth).then(a.key.cmp(&b.key));
            let (_, worst, _) = offers.select_nth_unstable_by(most - 1, by_worth);
            self.limits[point] = worst.worth;
            offers.truncate(most);
        }
    }
}
