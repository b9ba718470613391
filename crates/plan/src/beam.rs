//! A chain of different devices under a limit, looked for among the most promising beginnings.
//!
//! Used for problems too large for the exact search, with the guide of [`prices`](crate::prices): a beginning is worth
//! what its devices cost and what is at least still to pay from its end on. The model is walked through once; at each
//! point only so many beginnings are kept. May fail where there is a chain.

use std::collections::HashSet;

use crate::bits::{add, has, ones};
use crate::order::Demand;
use crate::prices::Priced;
use crate::ways::Ways;

/// Of the beginnings at a point that are of the same worth most are the same devices in another order: more are
/// collected than kept.
const COLLECTED: usize = 4;

/// A beginning of a chain, before it is known whether it is kept.
struct Offer {
    worth: f64,
    paid: f64,
    /// All but its last stage.
    before: Option<u32>,
    device: usize,
    /// Where its last stage begins and ends.
    places: [usize; 2],
    /// Of its devices.
    key: u64,
}

/// One that was kept.
struct Beginning {
    before: Option<u32>,
    device: usize,
    paid: f64,
    key: u64,
    stages: usize,
    used: Vec<u64>,
    /// By medium.
    airtime: Vec<f64>,
}

struct Beam<'a> {
    ways: &'a Ways<'a>,
    priced: &'a Priced,
    width: usize,
    demand: Demand,
    /// By device.
    keys: Vec<u64>,
    /// By point.
    offers: Vec<Vec<Offer>>,
    /// By point: what is worth less than this is worth a look.
    limits: Vec<f64>,
    kept: Vec<Beginning>,
}

/// The devices of a chain, in its order.
pub(crate) fn chain(ways: &Ways<'_>, priced: &Priced, demand: Demand, width: usize) -> Option<Vec<usize>> {
    let points = ways.layout().points;
    let mut random = fastrand::Rng::with_seed(0);
    let mut beam = Beam {
        ways,
        priced,
        width,
        demand,
        keys: (0..ways.devices()).map(|_| random.u64(..)).collect(),
        offers: (0..points).map(|_| Vec::new()).collect(),
        limits: vec![f64::INFINITY; points],
        kept: Vec::new(),
    };
    for (place, set) in ways.enter() {
        beam.extend(set, place, None);
    }
    (1..points - 1).for_each(|point| beam.keep(point));
    beam.complete(points - 1)
}

impl Beam<'_> {
    fn beginning(&self, index: Option<u32>) -> Option<&Beginning> {
        index.map(|index| &self.kept[index as usize])
    }

    /// Keeps the best of what is offered at a point, and goes on from there.
    fn keep(&mut self, point: usize) {
        let mut offers = std::mem::take(&mut self.offers[point]);
        offers.sort_unstable_by(by_worth);
        let mut seen = HashSet::new();
        // The same devices with the same last one: the order of the others makes no difference any more.
        offers.retain(|offer| seen.insert((offer.key, offer.device, offer.places[1])));
        for offer in offers.into_iter().take(self.width) {
            if let Some(beginning) = self.accept(&offer) {
                self.kept.push(beginning);
                let after = self.ways.after(offer.device, offer.places[1]);
                self.extend(after, offer.places[1], Some(self.kept.len() as u32 - 1));
            }
        }
    }

    /// What becomes of an offer; `None` when there may be no more stages or a medium has no time left.
    fn accept(&self, offer: &Offer) -> Option<Beginning> {
        let before = self.beginning(offer.before);
        let stages = before.map_or(0, |before| before.stages) + 1;
        let most = self.demand.stages.or(self.demand.devices).unwrap_or(self.ways.devices());
        let airtime = self.airtime(offer);
        if stages == most || airtime.iter().any(|&seconds| seconds > self.ways.period) {
            return None;
        }
        let none = || vec![0; self.ways.devices().div_ceil(64)];
        let mut used = before.map_or_else(none, |before| before.used.clone());
        add(&mut used, offer.device);
        let Offer { before, device, paid, key, .. } = *offer;
        Some(Beginning { before, device, paid, key, stages, used, airtime })
    }

    /// By medium: for how long an offer uses it, up to its last stage.
    fn airtime(&self, offer: &Offer) -> Vec<f64> {
        let before = self.beginning(offer.before);
        let hop = self.ways.hop(before.map(|before| before.device), offer.device);
        let own = self.ways.airtime(hop, offer.places[0]);
        own.enumerate().map(|(m, own)| before.map_or(0.0, |before| before.airtime[m]) + own).collect()
    }

    /// Offers all ways to go on from a place with one of these devices.
    fn extend(&mut self, set: &[u64], place: usize, before: Option<u32>) {
        let ways = self.ways;
        let beginning = self.beginning(before);
        let (last, paid, key) =
            beginning.map_or((None, 0.0, 0), |before| (Some(before.device), before.paid, before.key));
        let used = beginning.map_or(vec![], |before| before.used.clone());
        for device in ones(set).filter(|&device| used.is_empty() || !has(&used, device)) {
            let toll = ways.toll(&self.priced.fees, ways.hop(last, device), place);
            let (paid, key) = (paid + self.priced.fees.devices[device] + toll, key ^ self.keys[device]);
            let behind = ways.behind(&self.priced.rest, device);
            for to in ways.ends(device, place) {
                let (worth, point) = (paid + behind[to], to % self.limits.len());
                if worth < self.limits[point] {
                    self.offers[point].push(Offer { worth, paid, before, device, places: [place, to], key });
                    self.trim(point);
                }
            }
        }
    }

    /// Forgets the worse half of what is offered at a point when it has become much.
    fn trim(&mut self, point: usize) {
        let (offers, most) = (&mut self.offers[point], self.width * COLLECTED);
        if offers.len() == 2 * most {
            let (_, worst, _) = offers.select_nth_unstable_by(most - 1, by_worth);
            self.limits[point] = worst.worth;
            offers.truncate(most);
        }
    }

    /// The cheapest of the chains that arrive at the end of the model.
    fn complete(&self, point: usize) -> Option<Vec<usize>> {
        let wanted = |offer: &&Offer| {
            let stages = self.beginning(offer.before).map_or(0, |before| before.stages) + 1;
            let last = self.ways.airtime(self.ways.last_hop(offer.device), offer.places[1]);
            let airtime = std::iter::zip(self.airtime(offer), last).map(|(airtime, last)| airtime + last);
            self.demand.stages.is_none_or(|demanded| stages == demanded)
                && airtime.into_iter().all(|seconds| seconds <= self.ways.period)
        };
        let best = self.offers[point].iter().filter(wanted).min_by(|a, b| by_worth(a, b))?;
        let before = std::iter::successors(self.beginning(best.before), |at| self.beginning(at.before));
        let mut order: Vec<usize> = before.map(|at| at.device).collect();
        order.reverse();
        order.push(best.device);
        Some(order)
    }
}

fn by_worth(a: &Offer, b: &Offer) -> std::cmp::Ordering {
    a.worth.total_cmp(&b.worth).then(a.key.cmp(&b.key))
}
