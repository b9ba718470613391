//! The cheapest way through a model when each device has a price and may be used again and again.
//!
//! Used for problems too large for the exact search: by [`prices`](crate::prices) for a bound and by
//! [`beam`](crate::beam) for a guide. It knows of links, codecs, memory and the time of stages; airtime has a price, too.

use crate::bits::{add, has, ones};
use crate::costs::Hop;
use crate::network::Network;
use crate::places::{Layout, Place};
use crate::search::Space;
use crate::steps::Steps;

/// The steps of single devices under a limit, laid out for shortest paths.
pub(crate) struct Ways<'a> {
    network: &'a Network,
    layout: Layout,
    /// That of the steps.
    pub period: f64,
    /// By place: what crosses it.
    bytes: Vec<f64>,
    media: usize,
    devices: usize,
    /// Of a set of devices.
    words: usize,
    /// By device, then first place: where in `runs` its ranges begin.
    starts: Vec<u32>,
    /// Ranges of places at which a stage may end.
    runs: Vec<[u32; 2]>,
    /// By place, then device: to which it may send.
    after: Vec<u64>,
    /// By codec: the devices that may begin.
    enter: Vec<u64>,
    /// By device, then codec: whether it may be the last.
    leave: Vec<bool>,
}

/// What is to pay.
#[derive(Clone, Debug)]
pub(crate) struct Fees {
    /// By device, for a stage.
    pub devices: Vec<f64>,
    /// By medium, for a second of airtime.
    pub media: Vec<f64>,
}

/// What a way uses.
pub(crate) struct Uses {
    /// By device: stages.
    pub devices: Vec<f64>,
    /// By medium: seconds of airtime.
    pub media: Vec<f64>,
}

/// What has still to be paid; infinite where no way leads to the end.
pub(crate) struct Rest {
    /// By device, then place: by a chain whose next stage it runs from there, its own price included.
    ahead: Vec<f64>,
    /// By device, then place: by a chain that it brought there.
    behind: Vec<f64>,
    /// By a chain that has not begun.
    pub total: f64,
}

impl<'a> Ways<'a> {
    /// The ways of a space under a limit on the period, of which these are the steps.
    pub(crate) fn new(space: &'a Space<'_>, steps: &Steps, period: f64) -> Ways<'a> {
        let (network, doors) = (&*space.network, space.doors(period));
        let (layout, devices) = (steps.layout, network.teams.len());
        let (words, places) = (devices.div_ceil(64), layout.points * layout.codecs);
        let bytes = |codec| space.points.iter().map(move |&boundary| space.costs.bytes(boundary, codec));
        let mut ways = Ways {
            network,
            layout,
            period,
            bytes: (0..layout.codecs).flat_map(bytes).collect(),
            media: space.costs.problem.media.len(),
            devices,
            words,
            starts: Vec::with_capacity(devices * places + 1),
            runs: Vec::new(),
            after: vec![0; places * devices * words],
            enter: vec![0; layout.codecs * words],
            leave: vec![false; devices * layout.codecs],
        };
        for device in 0..devices {
            ways.add_runs(steps, device);
            let enters = |place: &Place| doors.iter().any(|doors| doors.enters(*place));
            let leaves = |place: &Place| doors.iter().any(|doors| doors.leaves(*place));
            for place in layout.places(steps.enter(device)).filter(enters) {
                add(&mut ways.enter[place.codec * words..], device);
            }
            for place in layout.places(steps.leave(device)).filter(leaves) {
                ways.leave[device * layout.codecs + place.codec] = true;
            }
            for other in 0..devices {
                for place in layout.places(steps.pass(network, device, other)) {
                    add(&mut ways.after[(layout.index(place) * devices + device) * words..], other);
                }
            }
        }
        ways.starts.push(ways.runs.len() as u32);
        ways
    }

    fn add_runs(&mut self, steps: &Steps, device: usize) {
        for place in 0..self.places() {
            let first = self.runs.len();
            self.starts.push(first as u32);
            for to in self.layout.places(steps.run(device, self.place(place))) {
                let index = self.layout.index(to) as u32;
                match self.runs[first..].last_mut() {
                    Some([_, end]) if *end == index => *end += 1,
                    _ => self.runs.push([index, index + 1]),
                }
            }
        }
    }

    pub(crate) fn devices(&self) -> usize {
        self.devices
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// Steps that one calculation of [`Ways::rest`] takes, about.
    pub(crate) fn size(&self) -> usize {
        let ends: u32 = self.runs.iter().map(|[start, end]| end - start).sum();
        // Runs are read in a row; to look up who may come next is what takes time.
        ends as usize + 32 * self.devices * self.places()
    }

    fn places(&self) -> usize {
        self.layout.points * self.layout.codecs
    }

    fn place(&self, index: usize) -> Place {
        Place { point: index % self.layout.points, codec: index / self.layout.points }
    }

    fn at(&self, device: usize, place: usize) -> usize {
        device * self.places() + place
    }

    /// The places at which a stage may end that begins at one.
    pub(crate) fn ends(&self, device: usize, place: usize) -> impl Iterator<Item = usize> + '_ {
        self.ranges(device, place).iter().flat_map(|&[start, end]| start as usize..end as usize)
    }

    fn ranges(&self, device: usize, place: usize) -> &[[u32; 2]] {
        let at = self.at(device, place);
        &self.runs[self.starts[at] as usize..self.starts[at + 1] as usize]
    }

    /// By place: what is still to pay when this device has done all before.
    pub(crate) fn behind<'r>(&self, rest: &'r Rest, device: usize) -> &'r [f64] {
        &rest.behind[self.at(device, 0)..][..self.places()]
    }

    /// The devices that may come next.
    pub(crate) fn after(&self, device: usize, place: usize) -> &[u64] {
        &self.after[(place * self.devices + device) * self.words..][..self.words]
    }

    /// The places at which a chain may begin, and the devices.
    pub(crate) fn enter(&self) -> impl Iterator<Item = (usize, &[u64])> {
        let place = |codec| self.layout.index(Place { point: 0, codec });
        self.enter.chunks_exact(self.words).enumerate().map(move |(codec, set)| (place(codec), set))
    }

    /// What each way costs at least from every place on.
    pub(crate) fn rest(&self, fees: &Fees) -> Rest {
        let size = self.devices * self.places();
        let mut rest = Rest {
            ahead: vec![f64::INFINITY; size],
            behind: vec![f64::INFINITY; size],
            total: f64::INFINITY,
        };
        let last = self.layout.points - 1;
        for (index, _) in self.leave.iter().enumerate().filter(|(_, may)| **may) {
            let (device, codec) = (index / self.layout.codecs, index % self.layout.codecs);
            let place = self.layout.index(Place { point: last, codec });
            rest.behind[self.at(device, place)] = self.toll(fees, self.network.leave(device), place);
        }
        let mut sorted = Vec::with_capacity(self.devices);
        for point in (0..last).rev() {
            for codec in 0..self.layout.codecs {
                let place = self.layout.index(Place { point, codec });
                self.add_ahead(&mut rest, &fees.devices, place, &mut sorted);
                self.add_behind(&mut rest, fees, place, &sorted);
            }
        }
        rest
    }

    /// What the airtime of a hop costs.
    pub(crate) fn toll(&self, fees: &Fees, hop: &Hop, place: usize) -> f64 {
        let of = |(medium, fee): (usize, &f64)| fee * hop.airtime(medium, self.bytes[place]);
        fees.media.iter().enumerate().map(of).sum()
    }

    /// The airtime of a hop, by medium.
    pub(crate) fn airtime(&self, hop: &Hop, place: usize) -> impl Iterator<Item = f64> {
        (0..self.media).map(move |medium| hop.airtime(medium, self.bytes[place]))
    }

    /// From the dispatcher, or from a device to another.
    pub(crate) fn hop(&self, from: Option<usize>, to: usize) -> &Hop {
        match from {
            Some(from) => self.network.hop(from, to),
            None => self.network.enter(to),
        }
    }

    pub(crate) fn last_hop(&self, from: usize) -> &Hop {
        self.network.leave(from)
    }

    /// What is to pay by those who bring a chain to a place, from where it goes on with one of the sorted.
    fn add_behind(&self, rest: &mut Rest, fees: &Fees, place: usize, sorted: &[(f64, usize)]) {
        let cheapest = |from: Option<usize>, set: &[u64]| match self.media {
            0 => first(sorted, set),
            _ => first_with_tolls(sorted, set, |to| self.toll(fees, self.hop(from, to), place)),
        };
        let Place { point, codec } = self.place(place);
        if point == 0 {
            let begin = cheapest(None, &self.enter[codec * self.words..]);
            rest.total = rest.total.min(begin);
            return;
        }
        for device in 0..self.devices {
            rest.behind[self.at(device, place)] = cheapest(Some(device), self.after(device, place));
        }
    }

    /// What is to pay for a stage at a place and all that comes after it. `sorted` gets the devices by that.
    fn add_ahead(&self, rest: &mut Rest, prices: &[f64], place: usize, sorted: &mut Vec<(f64, usize)>) {
        sorted.clear();
        for (device, price) in prices.iter().enumerate() {
            let behind = &rest.behind[self.at(device, 0)..];
            let ranges = self.ranges(device, place).iter();
            let of_range = |&[start, end]: &[u32; 2]| least(&behind[start as usize..end as usize]);
            let seconds = ranges.map(of_range).fold(f64::INFINITY, f64::min) + price;
            if seconds < f64::INFINITY {
                rest.ahead[self.at(device, place)] = seconds;
                sorted.push((seconds, device));
            }
        }
        sorted.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    }

    /// What the way uses that costs least, of which there must be one.
    pub(crate) fn uses(&self, fees: &Fees, rest: &Rest) -> Uses {
        let mut uses = Uses { devices: vec![0.0; self.devices], media: vec![0.0; self.media] };
        let cost = |from: Option<usize>, place: usize, to: usize| {
            rest.ahead[self.at(to, place)] + self.toll(fees, self.hop(from, to), place)
        };
        let starts = self.enter().flat_map(|(place, set)| ones(set).map(move |device| (place, device)));
        let (mut place, mut device) = argmin(starts, |&(place, device)| cost(None, place, device));
        let mut hop = self.hop(None, device);
        loop {
            uses.devices[device] += 1.0;
            std::iter::zip(&mut uses.media, self.airtime(hop, place)).for_each(|(sum, own)| *sum += own);
            place = argmin(self.ends(device, place), |&to| rest.behind[self.at(device, to)]);
            if self.place(place).point == self.layout.points - 1 {
                let last = self.airtime(self.network.leave(device), place);
                std::iter::zip(&mut uses.media, last).for_each(|(sum, own)| *sum += own);
                return uses;
            }
            let next = argmin(ones(self.after(device, place)), |&to| cost(Some(device), place, to));
            (hop, device) = (self.hop(Some(device), next), next);
        }
    }
}

/// The least of those in the set: most sets hold one of the first few.
fn first(sorted: &[(f64, usize)], set: &[u64]) -> f64 {
    sorted.iter().find(|&&(_, device)| has(set, device)).map_or(f64::INFINITY, |&(cost, _)| cost)
}

/// The same, where each costs something more.
fn first_with_tolls(sorted: &[(f64, usize)], set: &[u64], toll: impl Fn(usize) -> f64) -> f64 {
    let mut least = f64::INFINITY;
    for &(cost, device) in sorted {
        if cost >= least {
            break;
        }
        if has(set, device) {
            least = least.min(cost + toll(device));
        }
    }
    least
}

fn least(values: &[f64]) -> f64 {
    // Comparisons, unlike `f64::min`, are a single instruction each.
    values.iter().fold(f64::INFINITY, |least, &value| if value < least { value } else { least })
}

fn argmin<T>(values: impl Iterator<Item = T>, key: impl Fn(&T) -> f64) -> T {
    values.min_by(|a, b| key(a).total_cmp(&key(b))).expect("a way that costs something leads somewhere")
}
