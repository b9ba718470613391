//! The cheapest way through a model when each device has a price and may be used again and again.
//!
//! Used for problems too large for the exact search: by [`prices`](crate::prices) for a bound and by
//! [`beam`](crate::beam) for a guide. It knows of links, codecs, memory and the time of stages, and nothing of media.

use crate::search::Doors;
use crate::steps::{Layout, Network, Place, Steps};

/// The steps of single devices under a limit, laid out for shortest paths.
pub(crate) struct Ways {
    layout: Layout,
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

/// What has still to be paid; infinite where no way leads to the end.
pub(crate) struct Rest {
    /// By device, then place: by a chain whose next stage it runs from there, its own price included.
    ahead: Vec<f64>,
    /// By device, then place: by a chain that it brought there.
    behind: Vec<f64>,
    /// By a chain that has not begun.
    pub total: f64,
}

impl Ways {
    pub(crate) fn new(network: &Network, steps: &Steps, doors: &[Doors]) -> Ways {
        let (layout, devices) = (steps.layout, network.teams.len());
        let (words, places) = (devices.div_ceil(64), layout.points * layout.codecs);
        let mut ways = Ways {
            layout,
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
    pub(crate) fn rest(&self, prices: &[f64]) -> Rest {
        let size = self.devices * self.places();
        let mut rest = Rest {
            ahead: vec![f64::INFINITY; size],
            behind: vec![f64::INFINITY; size],
            total: f64::INFINITY,
        };
        let last = self.layout.points - 1;
        for (index, _) in self.leave.iter().enumerate().filter(|(_, may)| **may) {
            let (device, codec) = (index / self.layout.codecs, index % self.layout.codecs);
            rest.behind[self.at(device, self.layout.index(Place { point: last, codec }))] = 0.0;
        }
        let mut sorted = Vec::with_capacity(self.devices);
        for point in (0..last).rev() {
            for codec in 0..self.layout.codecs {
                let place = self.layout.index(Place { point, codec });
                self.add_ahead(&mut rest, prices, place, &mut sorted);
                if point == 0 {
                    let first = cheapest(&sorted, &self.enter[codec * self.words..]);
                    rest.total = rest.total.min(first);
                } else {
                    for device in 0..self.devices {
                        rest.behind[self.at(device, place)] = cheapest(&sorted, self.after(device, place));
                    }
                }
            }
        }
        rest
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

    /// How often each device is used by the way that costs least, of which there must be one.
    pub(crate) fn uses(&self, rest: &Rest) -> Vec<f64> {
        let mut uses = vec![0.0; self.devices];
        let ahead = |place: usize, device: usize| rest.ahead[self.at(device, place)];
        let starts = self.enter().flat_map(|(place, set)| devices(set).map(move |device| (place, device)));
        let mut next = argmin(starts, |&(place, device)| ahead(place, device));
        loop {
            let (place, device) = next;
            uses[device] += 1.0;
            let to = argmin(self.ends(device, place), |&to| rest.behind[self.at(device, to)]);
            if self.place(to).point == self.layout.points - 1 {
                return uses;
            }
            next = (to, argmin(devices(self.after(device, to)), |&device| ahead(to, device)));
        }
    }
}

/// The members of a set of devices.
pub(crate) fn devices(set: &[u64]) -> impl Iterator<Item = usize> + '_ {
    set.iter().enumerate().flat_map(|(word, &bits)| {
        let rest = |bits: &u64| Some(bits & (bits - 1)).filter(|&rest| rest != 0);
        let all = std::iter::successors((bits != 0).then_some(bits), rest);
        all.map(move |bits| word * 64 + bits.trailing_zeros() as usize)
    })
}

pub(crate) fn has(set: &[u64], device: usize) -> bool {
    set[device / 64] >> (device % 64) & 1 == 1
}

pub(crate) fn add(set: &mut [u64], device: usize) {
    set[device / 64] |= 1 << (device % 64);
}

/// The first that is in the set: most sets hold one of the first few.
fn cheapest(sorted: &[(f64, usize)], set: &[u64]) -> f64 {
    sorted.iter().find(|&&(_, device)| has(set, device)).map_or(f64::INFINITY, |&(seconds, _)| seconds)
}

fn least(values: &[f64]) -> f64 {
    // Comparisons, unlike `f64::min`, are a single instruction each.
    values.iter().fold(f64::INFINITY, |least, &value| if value < least { value } else { least })
}

fn argmin<T>(values: impl Iterator<Item = T>, key: impl Fn(&T) -> f64) -> T {
    values.min_by(|a, b| key(a).total_cmp(&key(b))).expect("a way that costs something leads somewhere")
}
