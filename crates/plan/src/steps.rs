//! The steps that a chain may take under given limits, as sets of boundaries.
//!
//! Made anew for every limit that the search tries. A set is a few words of bits, one bit for each point: the
//! boundaries at which a stage may begin or end.

use crate::End;
use crate::costs::Costs;

/// What no step may exceed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Time that a device or a link is busy with an item.
    pub period: f64,
    /// Memory that a stage needs and its device does not have.
    pub excess_bytes: u64,
}

/// Devices that are alike in all figures, links included. Any may stand for any other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// Their indices, at least one, rising.
    pub members: Vec<usize>,
}

/// The steps under some limits, by kind of device and by point.
pub(crate) struct Steps {
    kinds: usize,
    points: usize,
    words: usize,
    /// By kind, then by first point: where a stage may end.
    runs: Vec<u64>,
    /// By kind of the sender, then of the receiver: at which points the link between them may be crossed.
    passes: Vec<u64>,
    /// By kind: whether the model's inputs may go to it.
    enters: Vec<bool>,
    /// By kind: whether the model's outputs may come from it.
    leaves: Vec<bool>,
}

/// Words that a set of so many points takes.
pub(crate) fn words(points: usize) -> usize {
    points.div_ceil(64)
}

/// The points of a set, rising.
pub(crate) fn points(set: &[u64]) -> impl Iterator<Item = usize> + '_ {
    set.iter().enumerate().flat_map(|(word, &bits)| {
        let rest = |bits: &u64| Some(bits & (bits - 1)).filter(|&rest| rest != 0);
        std::iter::successors((bits != 0).then_some(bits), rest)
            .map(move |bits| word * 64 + bits.trailing_zeros() as usize)
    })
}

/// Whether a point is in a set.
pub(crate) fn has(set: &[u64], point: usize) -> bool {
    set[point / 64] >> (point % 64) & 1 == 1
}

/// Puts a point into a set.
pub(crate) fn add(set: &mut [u64], point: usize) {
    set[point / 64] |= 1 << (point % 64);
}

impl Steps {
    /// The steps between the boundaries `points` (rising, first 0, last the end of the model).
    pub(crate) fn new(costs: &Costs<'_>, points: &[usize], kinds: &[Kind], limits: Limits) -> Steps {
        let words = words(points.len());
        let mut steps = Steps {
            kinds: kinds.len(),
            points: points.len(),
            words,
            runs: vec![0; kinds.len() * points.len() * words],
            passes: vec![0; kinds.len() * kinds.len() * words],
            enters: Vec::new(),
            leaves: Vec::new(),
        };
        let end = |kind: &Kind| End::Device(kind.members[0]);
        let crosses = |from, to, point: usize| costs.link_seconds(from, to, points[point]) <= limits.period;
        for (k, kind) in kinds.iter().enumerate() {
            steps.add_runs(costs, points, (k, kind.members[0]), limits);
            steps.enters.push(crosses(End::Dispatcher, end(kind), 0));
            steps.leaves.push(crosses(end(kind), End::Dispatcher, points.len() - 1));
            for (j, sender) in kinds.iter().enumerate() {
                // A kind of one member never sends to itself.
                let from = if j == k { sender.members.get(1) } else { sender.members.first() };
                let Some(&from) = from else { continue };
                let at = (j * steps.kinds + k) * words;
                for point in 1..points.len() - 1 {
                    if crosses(End::Device(from), end(kind), point) {
                        add(&mut steps.passes[at..at + words], point);
                    }
                }
            }
        }
        steps
    }

    fn add_runs(
        &mut self,
        costs: &Costs<'_>,
        points: &[usize],
        (kind, device): (usize, usize),
        limits: Limits,
    ) {
        for first in 0..points.len() - 1 {
            let at = (kind * self.points + first) * self.words;
            let set = &mut self.runs[at..at + self.words];
            for last in first + 1..points.len() {
                let units = points[first]..points[last];
                // Both only grow with the range.
                if costs.compute_seconds(device, &units) > limits.period
                    || costs.excess_bytes(device, &units) > limits.excess_bytes
                {
                    break;
                }
                if costs.busy_seconds(device, &units) <= limits.period {
                    add(set, last);
                }
            }
        }
    }

    /// Words of a set.
    pub(crate) fn words(&self) -> usize {
        self.words
    }

    /// Where a stage on a device of this kind may end, when it begins at `first`.
    pub(crate) fn run(&self, kind: usize, first: usize) -> &[u64] {
        let at = (kind * self.points + first) * self.words;
        &self.runs[at..at + self.words]
    }

    /// At which points the link from one kind to another may be crossed.
    pub(crate) fn pass(&self, from: usize, to: usize) -> &[u64] {
        let at = (from * self.kinds + to) * self.words;
        &self.passes[at..at + self.words]
    }

    /// Whether a device of this kind may be first.
    pub(crate) fn enters(&self, kind: usize) -> bool {
        self.enters[kind]
    }

    /// Whether a device of this kind may be last.
    pub(crate) fn leaves(&self, kind: usize) -> bool {
        self.leaves[kind]
    }
}
