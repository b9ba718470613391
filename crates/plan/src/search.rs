//! The exact search: which chains exist under a limit on the period, and the quickest of them.
//!
//! Used by the optimiser. Whether a chain exists under a limit is a matter of sets: at which boundaries can a
//! chain stand that ends with this node (see [`Order`])? A set follows from those before it by a few operations
//! on words of bits. The shortest period is found by bisection, and proven: the last test asks for anything
//! shorter than the chain in hand and finds nothing. For p devices of different kinds and L boundaries a test
//! takes about 2^p p (p + L) steps in any order, p^2 + p L in a given one.

use crate::costs::{Costs, Step};
use crate::order::Order;
use crate::predict::Totals;
use crate::steps::{Limits, Steps, add, has, points};
use crate::{Assignment, End};

/// Bisection stops here, as a share of the period, and asks for anything shorter at all.
const NEAR: f64 = 1e-3;

/// The chains to choose from.
pub(crate) struct Space<'a> {
    pub costs: &'a Costs<'a>,
    /// The boundaries where a stage may begin or end, rising: first 0, last the end of the model.
    pub points: Vec<usize>,
    pub order: Order,
}

/// A stage while it is still searched: its node, its first and its last point.
type Run = (usize, usize, usize);

/// The best chain into one point of one node.
#[derive(Clone, Copy)]
struct Best {
    latency: f64,
    stages: usize,
    /// The node and the point before; `None` for the first stage.
    before: Option<(usize, usize)>,
}

impl Space<'_> {
    /// A chain of the shortest period; `None` when none fits into memory.
    pub(crate) fn shortest(&self) -> Option<(f64, Vec<Assignment>)> {
        let mut chain = self.chain(Limits { period: f64::INFINITY, excess_bytes: 0 })?;
        let (mut low, mut high) = (0.0, Totals::of(self.costs, &chain).period);
        loop {
            let near = high - low <= NEAR * high;
            let period = if near { high.next_down() } else { low + (high - low) / 2.0 };
            match self.chain(Limits { period, excess_bytes: 0 }) {
                Some(better) => {
                    (high, chain) = (Totals::of(self.costs, &better).period, better);
                    assert!(high <= period, "a chain within {period} s has a period of {high} s");
                }
                None if near => return Some((high, chain)),
                None => low = period,
            }
        }
    }

    /// The chain whose largest shortage of memory is least.
    pub(crate) fn least_shortage(&self) -> Vec<Assignment> {
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

    /// Of the chains within a period the one of least latency, then the one of fewest stages. There must be one.
    pub(crate) fn quickest(&self, period: f64) -> Vec<Assignment> {
        let steps = self.steps(Limits { period, excess_bytes: 0 });
        let mut reached = self.reached(&steps);
        self.keep_what_arrives(&steps, &mut reached);
        let chains = Chains::new(self, &steps, &reached);
        self.assignments(&chains.least().expect("a chain within this period"))
    }

    /// Any chain within the limits.
    fn chain(&self, limits: Limits) -> Option<Vec<Assignment>> {
        self.chain_of(&self.steps(limits))
    }

    /// Any chain of these steps, which are those of this space's points and kinds.
    pub(crate) fn chain_of(&self, steps: &Steps) -> Option<Vec<Assignment>> {
        let reached = self.reached(steps);
        let words = steps.words();
        let last = self.points.len() - 1;
        let (mut node, mut end) =
            ((0..self.order.nodes()).find(|&node| self.ends(steps, &reached, node))?, last);
        let mut runs = Vec::new();
        loop {
            let kind = self.order.kind(node);
            if self.starts(steps, node) && has(steps.run(kind, 0), end) {
                runs.push((node, 0, end));
                runs.reverse();
                return Some(self.assignments(&runs));
            }
            let (before, point) = self
                .order
                .before(node)
                .find_map(|before| {
                    let set = &reached[before * words..(before + 1) * words];
                    let pass = steps.pass(self.order.kind(before), kind);
                    let mut usable = points(set).filter(|&p| has(pass, p) && has(steps.run(kind, p), end));
                    usable.next().map(|point| (before, point))
                })
                .expect("a point is reached from somewhere");
            runs.push((node, point, end));
            (node, end) = (before, point);
        }
    }

    pub(crate) fn steps(&self, limits: Limits) -> Steps {
        Steps::new(self.costs, &self.points, self.order.kinds(), limits)
    }

    fn starts(&self, steps: &Steps, node: usize) -> bool {
        self.order.is_first(node) && steps.enters(self.order.kind(node))
    }

    /// Whether a chain that ends with this node is complete.
    fn ends(&self, steps: &Steps, reached: &[u64], node: usize) -> bool {
        let words = steps.words();
        has(&reached[node * words..(node + 1) * words], self.points.len() - 1)
            && steps.leaves(self.order.kind(node))
            && self.order.is_last(node)
    }

    /// By node: the points at which a chain may stand that ends with it.
    fn reached(&self, steps: &Steps) -> Vec<u64> {
        let words = steps.words();
        let mut reached = vec![0; self.order.nodes() * words];
        let mut from = vec![0; words];
        for node in 0..self.order.nodes() {
            let kind = self.order.kind(node);
            let (done, rest) = reached.split_at_mut(node * words);
            let set = &mut rest[..words];
            from.fill(0);
            from[0] = u64::from(self.starts(steps, node));
            for before in self.order.before(node) {
                let pass = steps.pass(self.order.kind(before), kind);
                let earlier = &done[before * words..(before + 1) * words];
                for ((from, earlier), pass) in from.iter_mut().zip(earlier).zip(pass) {
                    *from |= earlier & pass;
                }
            }
            for first in points(&from) {
                set.iter_mut().zip(steps.run(kind, first)).for_each(|(set, run)| *set |= run);
            }
        }
        reached
    }

    /// Takes away the points from which no chain arrives at the end of the model.
    fn keep_what_arrives(&self, steps: &Steps, reached: &mut [u64]) {
        let words = steps.words();
        let last = self.points.len() - 1;
        let mut kept = vec![0; reached.len()];
        let mut wanted = vec![0; words];
        for node in (0..self.order.nodes()).rev() {
            let kind = self.order.kind(node);
            if self.ends(steps, reached, node) {
                add(&mut kept[node * words..], last);
            }
            let set = &kept[node * words..(node + 1) * words];
            if set.iter().all(|&bits| bits == 0) {
                continue;
            }
            wanted.fill(0);
            for first in 1..last {
                if steps.run(kind, first).iter().zip(set).any(|(run, set)| run & set != 0) {
                    add(&mut wanted, first);
                }
            }
            for before in self.order.before(node) {
                let pass = steps.pass(self.order.kind(before), kind);
                for word in 0..words {
                    let at = before * words + word;
                    kept[at] |= reached[at] & pass[word] & wanted[word];
                }
            }
        }
        reached.copy_from_slice(&kept);
    }

    /// Gives every kind's devices out in their order.
    fn assignments(&self, runs: &[Run]) -> Vec<Assignment> {
        let mut members: Vec<_> = self.order.kinds().iter().map(|kind| kind.members.iter()).collect();
        let assign = |&(node, first, last): &Run| {
            let device = members[self.order.kind(node)].next();
            let &device = device.expect("no more devices of a kind than there are");
            Assignment { device, units: self.points[first]..self.points[last] }
        };
        runs.iter().map(assign).collect()
    }

    fn excess(&self, chain: &[Assignment]) -> u64 {
        let excess = |stage: &Assignment| self.costs.excess_bytes(stage.device, &stage.units);
        chain.iter().map(excess).max().unwrap_or(0)
    }
}

/// The best chains into every point that is of use.
struct Chains<'a> {
    space: &'a Space<'a>,
    steps: &'a Steps,
    reached: &'a [u64],
    /// By node: where its points begin in `best`.
    starts: Vec<usize>,
    best: Vec<Best>,
}

impl<'a> Chains<'a> {
    fn new(space: &'a Space<'a>, steps: &'a Steps, reached: &'a [u64]) -> Chains<'a> {
        let mut chains = Chains { space, steps, reached, starts: Vec::new(), best: Vec::new() };
        for node in 0..space.order.nodes() {
            chains.starts.push(chains.best.len());
            for end in points(chains.set(node)) {
                let best = chains.best_into(node, end);
                chains.best.push(best);
            }
        }
        chains
    }

    fn set(&self, node: usize) -> &'a [u64] {
        let words = self.steps.words();
        &self.reached[node * words..(node + 1) * words]
    }

    /// The best chain into `end`, from those into the nodes before.
    fn best_into(&self, node: usize, end: usize) -> Best {
        let order = &self.space.order;
        let kind = order.kind(node);
        let mut best: Option<(Best, usize)> = None;
        let mut consider = |before: Option<(usize, usize)>, so_far: (f64, usize)| {
            let (sender, first) = match before {
                None => (End::Dispatcher, 0),
                Some((node, point)) => (self.sender(node, kind), point),
            };
            let step = self.step(sender, kind, first, end);
            let chain = Best { latency: step.latency(so_far.0), stages: so_far.1 + 1, before };
            let rank = before.map_or(0, |(node, _)| order.rank(node));
            let worth = |(chain, rank): &(Best, usize)| (chain.latency, chain.stages, *rank);
            if best.is_none_or(|best| worth(&(chain, rank)) < worth(&best)) {
                best = Some((chain, rank));
            }
        };
        if self.space.starts(self.steps, node) && has(self.steps.run(kind, 0), end) {
            consider(None, (0.0, 0));
        }
        for before in order.before(node) {
            let pass = self.steps.pass(order.kind(before), kind);
            for (i, first) in points(self.set(before)).enumerate() {
                if has(pass, first) && has(self.steps.run(kind, first), end) {
                    let earlier = self.best[self.starts[before] + i];
                    consider(Some((before, first)), (earlier.latency, earlier.stages));
                }
            }
        }
        best.expect("a point is reached from somewhere").0
    }

    /// The best complete chain.
    fn least(&self) -> Option<Vec<Run>> {
        let last = self.space.points.len() - 1;
        let complete = (0..self.space.order.nodes())
            .filter(|&node| self.space.ends(self.steps, self.reached, node))
            .map(|node| {
                let best = self.at(node, last);
                let device = self.space.order.kinds()[self.space.order.kind(node)].members[0];
                let step = self.space.costs.way_back(device);
                (step.latency(best.latency), best.stages, self.space.order.rank(node), node)
            });
        let (.., mut node) = complete.min_by(|a, b| a.partial_cmp(b).expect("no latency is NaN"))?;
        let (mut end, mut runs) = (last, Vec::new());
        loop {
            let before = self.at(node, end).before;
            runs.push((node, before.map_or(0, |(_, point)| point), end));
            let Some(next) = before else { break };
            (node, end) = next;
        }
        runs.reverse();
        Some(runs)
    }

    fn at(&self, node: usize, point: usize) -> Best {
        let position = points(self.set(node)).position(|p| p == point).expect("a point of the node");
        self.best[self.starts[node] + position]
    }

    /// A device that may send to a device of `kind`.
    fn sender(&self, node: usize, kind: usize) -> End {
        let sender = self.space.order.kind(node);
        End::Device(self.space.order.kinds()[sender].members[usize::from(sender == kind)])
    }

    fn step(&self, from: End, kind: usize, first: usize, last: usize) -> Step {
        let space = self.space;
        let units = space.points[first]..space.points[last];
        let device = space.order.kinds()[kind].members[0];
        space.costs.stage(from, &Assignment { device, units })
    }
}
