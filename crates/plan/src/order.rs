//! In which order devices may follow one another in a chain.
//!
//! Used by the search, which walks over nodes: what has to be known of the stages so far to say which device may
//! come next. Nodes are numbered so that a node comes after all that may stand before it.

use std::ops::Range;

use crate::steps::Kind;
use crate::{End, Problem};

/// The nodes of a search.
pub(crate) struct Order {
    kinds: Vec<Kind>,
    stages: Option<usize>,
    rule: Rule,
}

enum Rule {
    /// As given: a node is the last device's place in the sequence, and the number of stages if that is demanded.
    Given { sequence: Vec<usize> },
    /// Any: a node is how many devices of each kind are used, and the kind of the last. By kind: what one more
    /// device adds to the number that stands for the counts.
    Any { strides: Vec<usize> },
}

impl Order {
    /// All devices in this sequence, some of them left out; `stages` of them if demanded. The kinds are the devices.
    pub(crate) fn given(sequence: Vec<usize>, stages: Option<usize>) -> Order {
        let kinds = (0..sequence.len()).map(|device| Kind { members: vec![device] }).collect();
        Order { kinds, stages, rule: Rule::Given { sequence } }
    }

    /// Any order of any of the devices; `None` when that makes more than `limit` nodes.
    pub(crate) fn any(problem: &Problem, stages: Option<usize>, limit: usize) -> Option<Order> {
        let kinds = kinds(problem);
        let mut strides = Vec::with_capacity(kinds.len());
        let mut states: usize = 1;
        for kind in &kinds {
            strides.push(states);
            states = states.checked_mul(kind.members.len() + 1)?;
        }
        let nodes = states.checked_mul(kinds.len())?;
        (nodes <= limit).then_some(Order { kinds, stages, rule: Rule::Any { strides } })
    }

    /// The sequence that was given; empty if none was.
    pub(crate) fn sequence(&self) -> &[usize] {
        match &self.rule {
            Rule::Given { sequence } => sequence,
            Rule::Any { .. } => &[],
        }
    }

    pub(crate) fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    pub(crate) fn nodes(&self) -> usize {
        let kinds = self.kinds.len();
        match &self.rule {
            Rule::Given { .. } => self.stages.unwrap_or(1) * kinds,
            Rule::Any { strides } => {
                kinds * self.kinds.iter().zip(strides).map(|(k, s)| k.members.len() * s).sum::<usize>()
                    + kinds
            }
        }
    }

    /// The kind of the last device.
    pub(crate) fn kind(&self, node: usize) -> usize {
        let place = node % self.kinds.len();
        match &self.rule {
            Rule::Given { sequence } => sequence[place],
            Rule::Any { .. } => place,
        }
    }

    /// Whether a chain may begin with this node.
    pub(crate) fn is_first(&self, node: usize) -> bool {
        let (state, kind) = (node / self.kinds.len(), self.kind(node));
        match &self.rule {
            Rule::Given { .. } => state == 0,
            Rule::Any { strides } => state == strides[kind],
        }
    }

    /// Whether a chain may end with this node.
    pub(crate) fn is_last(&self, node: usize) -> bool {
        let state = node / self.kinds.len();
        let Some(stages) = self.stages else { return true };
        match &self.rule {
            Rule::Given { .. } => state + 1 == stages,
            Rule::Any { strides } => {
                (0..self.kinds.len()).map(|kind| self.used(strides, state, kind)).sum::<usize>() == stages
            }
        }
    }

    /// The nodes that may stand before this one. Some may themselves be out of reach.
    pub(crate) fn before(&self, node: usize) -> Range<usize> {
        let kinds = self.kinds.len();
        let (state, kind) = (node / kinds, self.kind(node));
        match &self.rule {
            Rule::Given { .. } if self.stages.is_none() => 0..node,
            Rule::Given { .. } if state == 0 => 0..0,
            Rule::Given { .. } => (state - 1) * kinds..node - kinds,
            Rule::Any { strides } if self.used(strides, state, kind) > 0 => {
                let earlier = state - strides[kind];
                earlier * kinds..(earlier + 1) * kinds
            }
            Rule::Any { .. } => 0..0,
        }
    }

    /// Of nodes that are equally good to end with, the one with the least rank: so that devices of which no order is
    /// better stand as they were given.
    pub(crate) fn rank(&self, node: usize) -> usize {
        let kinds = self.kinds.len();
        match &self.rule {
            Rule::Given { .. } => node,
            Rule::Any { .. } => node / kinds * kinds + (kinds - 1 - node % kinds),
        }
    }

    fn used(&self, strides: &[usize], state: usize, kind: usize) -> usize {
        state / strides[kind] % (self.kinds[kind].members.len() + 1)
    }
}

/// Devices grouped by what they are like, links included.
fn kinds(problem: &Problem) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = Vec::new();
    for device in 0..problem.devices.len() {
        match kinds.iter_mut().find(|kind| alike(problem, kind.members[0], device)) {
            Some(kind) => kind.members.push(device),
            None => kinds.push(Kind { members: vec![device] }),
        }
    }
    kinds
}

/// Whether swapping two devices changes nothing.
fn alike(problem: &Problem, a: usize, b: usize) -> bool {
    let (x, y) = (&problem.devices[a], &problem.devices[b]);
    let figures =
        x.speed == y.speed && x.memory_bytes == y.memory_bytes && x.seconds_per_byte == y.seconds_per_byte;
    let links = &problem.links;
    let (a, b) = (End::Device(a), End::Device(b));
    let ends = std::iter::once(End::Dispatcher).chain((0..problem.devices.len()).map(End::Device));
    figures
        && links.get(a, b) == links.get(b, a)
        && ends.filter(|&other| other != a && other != b).all(|other| {
            links.get(a, other) == links.get(b, other) && links.get(other, a) == links.get(other, b)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, Link, Links};

    fn problem(speeds: &[f64]) -> Problem {
        let device =
            |&speed: &f64| Device { name: String::new(), speed, memory_bytes: None, seconds_per_byte: 0.0 };
        Problem {
            units: Vec::new(),
            boundaries: Vec::new(),
            devices: speeds.iter().map(device).collect(),
            links: Links::uniform(speeds.len(), Link::FREE),
        }
    }

    fn groups(problem: &Problem) -> Vec<Vec<usize>> {
        kinds(problem).into_iter().map(|kind| kind.members).collect()
    }

    #[test]
    fn devices_are_alike_when_swapping_them_changes_nothing() {
        let mut problem = problem(&[1.0, 2.0, 1.0, 1.0]);
        assert_eq!(groups(&problem), [vec![0, 2, 3], vec![1]]);
        let slow = Link { bandwidth: 5.0, delay: 0.0 };
        // Device 3 reaches the fast one over a link of its own.
        problem.links.set(End::Device(3), End::Device(1), slow);
        assert_eq!(groups(&problem), [vec![0, 2], vec![1], vec![3]]);
        // One direction between two of a kind.
        problem.links.set(End::Device(0), End::Device(2), slow);
        assert_eq!(groups(&problem), [vec![0], vec![1], vec![2], vec![3]]);
    }

    #[test]
    fn every_node_comes_after_those_before_it() {
        let problem = problem(&[1.0, 2.0, 1.0]);
        let any = |stages| Order::any(&problem, stages, 100).unwrap();
        for order in
            [any(None), any(Some(2)), Order::given(vec![2, 0, 1], None), Order::given(vec![1, 0], Some(2))]
        {
            assert!((0..order.nodes()).all(|node| order.before(node).end <= node));
        }
        // 3 counts of one kind times 2 of the other, times 2 for the last.
        assert_eq!(any(None).nodes(), 12);
        assert!(Order::any(&problem, None, 11).is_none());
    }
}
