//! The exact search: which chains exist under a limit on the period, and the best of them.
//!
//! Used by the optimiser. Whether a chain exists under a limit is a matter of sets: at which places can a chain stand
//! that ends with this node (see [`Order`])? A set follows from those before it by a few operations on words of bits.
//! The shortest period is found by bisection, and proven: the last test asks for anything shorter than the chain in
//! hand and finds nothing. Media, whose load adds up along the chain, need more than sets: see
//! [`labels`](crate::labels).

use std::rc::Rc;

use crate::costs::{Costs, ROUNDING};
use crate::labels::{self, Goal};
use crate::network::Network;
use crate::order::Order;
use crate::places::{Layout, Place};
use crate::predict::{Totals, shortages};
use crate::steps::{Limits, Steps};
use crate::{Assignment, Placement};

/// Bisection stops here, as a share of the period, and asks for anything shorter at all.
const NEAR: f64 = 1e-3;

/// Places that labels are made for: about a gigabyte of them.
const MAX_PLACES: usize = 1 << 24;

/// The chains to choose from.
pub(crate) struct Space<'a> {
    pub costs: &'a Costs<'a>,
    /// The boundaries where a stage may begin or end, rising: first 0, last the end of the model.
    pub points: Rc<[usize]>,
    pub order: Order,
    pub network: Rc<Network>,
}

/// A stage while it is still searched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub node: usize,
    pub from: Place,
    pub to: Place,
}

/// Codecs of the first and the last link that the dispatcher can afford together, as bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Doors {
    pub first: u64,
    pub last: u64,
}

impl Doors {
    fn admit(codecs: u64, place: Place) -> bool {
        codecs >> place.codec & 1 == 1
    }

    pub(crate) fn enters(&self, place: Place) -> bool {
        Doors::admit(self.first, place)
    }

    pub(crate) fn leaves(&self, place: Place) -> bool {
        Doors::admit(self.last, place)
    }
}

impl<'a> Space<'a> {
    pub(crate) fn new(costs: &'a Costs<'a>, points: Rc<[usize]>, order: Order) -> Space<'a> {
        let network = Rc::new(Network::new(costs, &order, &points));
        Space { costs, points, order, network }
    }

    /// A chain of the shortest period above `low`, if there is one below `high`.
    pub(crate) fn shorter_than(&self, low: f64, high: f64) -> Option<(f64, Assignment)> {
        let mut chain = self.chain(Limits::period(high.next_down()))?;
        let (mut low, mut high) = (low, self.period(&chain));
        loop {
            let near = high - low <= NEAR * high;
            let period = if near { high.next_down() } else { low + (high - low) / 2.0 };
            match self.chain(Limits::period(period)) {
                Some(better) => {
                    (high, chain) = (self.period(&better), better);
                    assert!(high <= period, "a chain within {period} s has a period of {high} s");
                }
                None if near => return Some((high, chain)),
                None => low = period,
            }
        }
    }

    /// A chain of the shortest period; `None` when none fits into memory. No chain has one below `low`.
    pub(crate) fn shortest(&self, low: f64) -> Option<(f64, Assignment)> {
        self.shorter_than(low, f64::INFINITY)
    }

    /// The chain whose largest shortage of memory is least.
    pub(crate) fn least_shortage(&self) -> Assignment {
        let chain = |excess_bytes| self.chain(Limits { period: f64::INFINITY, excess_bytes });
        let mut best = chain(u64::MAX).expect("without limits there is always a chain");
        let (mut low, mut high) = (0, self.excess(&best));
        while low < high {
            let middle = low + (high - low) / 2;
            match chain(middle) {
                Some(better) => {
                    (high, best) = (self.excess(&better), better);
                    assert!(high <= middle, "a chain within a shortage of {middle} bytes has one of {high}");
                }
                None => low = middle + 1,
            }
        }
        best
    }

    /// Of the chains within a period the best for a goal, with its worth. `None` also when there are too many places
    /// that chains lead through.
    pub(crate) fn best(&self, period: f64, goal: Goal) -> Option<(f64, Assignment)> {
        let limits = Limits::period(period);
        let steps = self.steps(limits, true);
        let found = self.doors(period).into_iter().filter_map(|doors| {
            let mut reached = self.reached(&steps, doors, &self.earliest(&steps)?);
            self.keep_what_arrives(&steps, doors, &mut reached);
            self.has_labels_for(&reached)
                .then(|| labels::best(self, &steps, doors, &reached, limits, goal))?
        });
        let best = found.min_by(|a, b| (a.0, a.1).partial_cmp(&(b.0, b.1)).expect("no worth is NaN"));
        best.map(|(worth, _, runs)| (worth, self.assignment(&runs)))
    }

    /// Whether there are not too many places that chains within a period lead through, for [`Space::best`].
    pub(crate) fn is_open_to_choice(&self, period: f64) -> bool {
        let steps = self.steps(Limits::period(period), true);
        let Some(earliest) = self.earliest(&steps) else { return true };
        self.doors(period).into_iter().all(|doors| {
            let mut reached = self.reached(&steps, doors, &earliest);
            self.keep_what_arrives(&steps, doors, &mut reached);
            self.has_labels_for(&reached)
        })
    }

    /// In a given order there are few places, and no other plans to fall back to.
    fn has_labels_for(&self, reached: &[u64]) -> bool {
        let places: usize = reached.iter().map(|bits| bits.count_ones() as usize).sum();
        self.order.is_given() || places <= MAX_PLACES
    }

    /// Any chain within the limits.
    pub(crate) fn chain(&self, limits: Limits) -> Option<Assignment> {
        self.chain_of(&self.steps(limits, !self.costs.problem.media.is_empty()), limits)
    }

    /// Any chain of these steps, which are those of this space's points and groups under these limits.
    pub(crate) fn chain_of(&self, steps: &Steps, limits: Limits) -> Option<Assignment> {
        let earliest = self.earliest(steps)?;
        self.doors(limits.period).into_iter().find_map(|doors| {
            let mut reached = self.reached(steps, doors, &earliest);
            if self.costs.problem.media.is_empty() {
                return self.trace(steps, doors, &reached).map(|runs| self.assignment(&runs));
            }
            self.keep_what_arrives(steps, doors, &mut reached);
            let found = labels::best(self, steps, doors, &reached, limits, Goal::Any);
            found.map(|(.., runs)| self.assignment(&runs))
        })
    }

    pub(crate) fn steps(&self, limits: Limits, all_codecs: bool) -> Steps {
        Steps::new(self.costs, &self.network, &self.points, limits, all_codecs)
    }

    /// What the dispatcher can do within a period: first and last codecs of which any go together.
    pub(crate) fn doors(&self, period: f64) -> Vec<Doors> {
        let codecs = self.costs.problem.codecs.len();
        let firsts = |last: usize| {
            let fits = |&first: &usize| self.costs.dispatcher_seconds([first, last]) <= period;
            (0..codecs).filter(fits).fold(0_u64, |all, first| all | 1 << first)
        };
        let mut doors: Vec<Doors> = Vec::new();
        for last in 0..codecs {
            let first = firsts(last);
            if first != 0 && doors.iter().all(|door| door.first != first) {
                let lasts = (0..codecs).filter(|&other| firsts(other) & first == first);
                doors.push(Doors { first, last: lasts.fold(0, |all, last| all | 1 << last) });
            }
        }
        doors
    }

    /// By state: the first point from which the devices that are left can still do the rest. `None` when all devices
    /// together cannot do all of it.
    fn earliest(&self, steps: &Steps) -> Option<Vec<usize>> {
        let behind = self.costs.seconds_behind();
        let enough = |possible: f64| {
            let possible = possible * (1.0 + ROUNDING);
            self.points.partition_point(|&point| behind[point] > possible)
        };
        let (all, rest) = self.order.possible(steps.capacities());
        (enough(all) == 0).then(|| rest.into_iter().map(enough).collect())
    }

    pub(crate) fn starts(&self, steps: &Steps, doors: Doors, node: usize) -> impl Iterator<Item = Place> {
        let node = self.order.node(node);
        let places = steps.layout.places(steps.enter(node.group));
        places.filter(move |&place| node.is_first && doors.enters(place))
    }

    /// The places at which a chain that ends with this node is complete.
    pub(crate) fn ends(&self, steps: &Steps, doors: Doors, node: usize) -> impl Iterator<Item = Place> {
        let places = steps.layout.places(steps.leave(self.order.node(node).group));
        places.filter(move |&place| doors.leaves(place))
    }

    /// By node: the places at which a chain may stand that ends with it.
    fn reached(&self, steps: &Steps, doors: Doors, earliest: &[usize]) -> Vec<u64> {
        let words = steps.layout.words();
        let mut reached = vec![0; self.order.nodes().len() * words];
        let mut from = vec![0; words];
        for (state, &first) in self.order.states().iter().zip(earliest) {
            for index in state.nodes.clone() {
                let node = self.order.node(index);
                let (done, rest) = reached.split_at_mut(index * words);
                let set = &mut rest[..words];
                from.fill(0);
                self.starts(steps, doors, index).for_each(|place| steps.layout.add(&mut from, place));
                for before in node.before() {
                    let pass = steps.pass(&self.network, self.order.node(before).group, node.group);
                    let earlier = &done[before * words..(before + 1) * words];
                    for ((from, earlier), pass) in from.iter_mut().zip(earlier).zip(pass) {
                        *from |= earlier & pass;
                    }
                }
                for place in steps.layout.places(&from) {
                    let run = steps.run(node.group, place);
                    set.iter_mut().zip(run).for_each(|(set, run)| *set |= run);
                }
                if first > 0 {
                    steps.layout.drop_before(set, first);
                }
            }
        }
        reached
    }

    /// Takes away the places from which no chain arrives at the end of the model.
    fn keep_what_arrives(&self, steps: &Steps, doors: Doors, reached: &mut [u64]) {
        let (layout, words) = (steps.layout, steps.layout.words());
        let mut kept = vec![0; reached.len()];
        let mut wanted = vec![0; words];
        for state in self.order.states().iter().rev() {
            for index in state.nodes.clone().rev() {
                let node = self.order.node(index);
                let own = index * words..(index + 1) * words;
                for place in self.ends(steps, doors, index).filter(|_| state.is_last) {
                    if layout.has(&reached[own.clone()], place) {
                        layout.add(&mut kept[own.clone()], place);
                    }
                }
                let set = &kept[own];
                if set.iter().all(|&bits| bits == 0) {
                    continue;
                }
                wanted.fill(0);
                for codec in 0..layout.codecs {
                    for point in 1..layout.points - 1 {
                        let place = Place { point, codec };
                        if steps.run(node.group, place).iter().zip(set).any(|(run, set)| run & set != 0) {
                            layout.add(&mut wanted, place);
                        }
                    }
                }
                for before in node.before() {
                    let pass = steps.pass(&self.network, self.order.node(before).group, node.group);
                    for (word, pass) in pass.iter().enumerate() {
                        let at = before * words + word;
                        kept[at] |= reached[at] & pass & wanted[word];
                    }
                }
            }
        }
        reached.copy_from_slice(&kept);
    }

    /// A chain that arrives, if one does.
    fn trace(&self, steps: &Steps, doors: Doors, reached: &[u64]) -> Option<Vec<Run>> {
        let (layout, words) = (steps.layout, steps.layout.words());
        let set = |node: usize| &reached[node * words..(node + 1) * words];
        let complete = |node: usize| {
            let mut ends = self.ends(steps, doors, node);
            ends.find(|&place| layout.has(set(node), place)).map(|place| (node, place))
        };
        let last = self.order.states().iter().filter(|state| state.is_last);
        let (mut index, mut to) = last.flat_map(|state| state.nodes.clone()).find_map(complete)?;
        let mut runs = Vec::new();
        loop {
            let node = self.order.node(index);
            let leads = |&place: &Place| layout.has(steps.run(node.group, place), to);
            if let Some(from) = self.starts(steps, doors, index).find(leads) {
                runs.push(Run { node: index, from, to });
                runs.reverse();
                return Some(runs);
            }
            let earlier = node.before().find_map(|before| {
                let pass = steps.pass(&self.network, self.order.node(before).group, node.group);
                let usable = |place: &Place| layout.has(pass, *place) && leads(place);
                layout
                    .places(set(before))
                    .find(|place| !pass.is_empty() && usable(place))
                    .map(|from| (before, from))
            });
            let (before, from) = earlier.expect("a place is reached from somewhere");
            runs.push(Run { node: index, from, to });
            (index, to) = (before, from);
        }
    }

    fn assignment(&self, runs: &[Run]) -> Assignment {
        let devices = self.order.hand_out(runs.iter().map(|run| self.order.node(run.node).group));
        let units = runs.iter().map(|run| self.points[run.from.point]..self.points[run.to.point]);
        let placements = devices.into_iter().zip(units).map(|(devices, units)| Placement { devices, units });
        let last = runs.last().map(|run| run.to.codec);
        Assignment {
            stages: placements.collect(),
            codecs: runs.iter().map(|run| run.from.codec).chain(last).collect(),
        }
    }

    fn period(&self, assignment: &Assignment) -> f64 {
        Totals::of(self.costs, assignment).period
    }

    fn excess(&self, assignment: &Assignment) -> u64 {
        shortages(self.costs, assignment).map(|s| s.needed_bytes - s.limit_bytes).max().unwrap_or(0)
    }

    /// The layout of this space's sets.
    pub(crate) fn layout(&self) -> Layout {
        Layout::new(self.points.len(), self.costs.problem.codecs.len())
    }
}
