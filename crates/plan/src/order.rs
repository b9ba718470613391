//! In which order teams of devices may follow one another in a chain.
//!
//! Used by the search, which walks over nodes: what has to be known of the stages so far to say which team may come
//! next. Nodes are numbered so that a node comes after all that may stand before it, and lie together by state: the
//! devices used so far.

use std::ops::Range;

use crate::{End, Problem};

/// The nodes of a search.
pub(crate) struct Order {
    kinds: Vec<Kind>,
    groups: Vec<Group>,
    states: Vec<State>,
    nodes: Vec<Node>,
    rule: Rule,
}

enum Rule {
    /// Groups in this sequence.
    Given(Vec<usize>),
    Any,
}

/// Devices that are alike in all figures, links included. Any may stand for any other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// Their indices, at least one, rising.
    pub members: Vec<usize>,
}

/// Those who run a stage together, up to which of a kind they are.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// Kinds and how many of each, at least one.
    parts: Vec<(usize, usize)>,
}

/// What all nodes with the same devices used have in common.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub nodes: Range<usize>,
    /// Whether a chain may end here.
    pub is_last: bool,
}

/// The devices used so far, and the last group among them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    pub group: usize,
    /// Whether a chain may begin with it.
    pub is_first: bool,
    /// The nodes that may stand before it. Some may themselves be out of reach.
    before: (usize, usize),
    /// Of nodes that are equally good to end with, the one with the least rank wins: so that devices of which no
    /// order is better stand as they were given.
    pub rank: usize,
}

impl Node {
    pub(crate) fn before(&self) -> Range<usize> {
        self.before.0..self.before.1
    }
}

/// What is demanded of the number of stages and devices.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Demand {
    /// Exactly so many stages.
    pub stages: Option<usize>,
    /// At most so many devices.
    pub devices: Option<usize>,
}

impl Order {
    /// All devices in this sequence, one a stage, some of them left out. The kinds and the groups are the devices by
    /// their index.
    pub(crate) fn given(sequence: &[usize], demand: Demand) -> Order {
        let devices = sequence.len();
        let kinds = (0..devices).map(|device| Kind { members: vec![device] }).collect();
        let groups = (0..devices).map(|device| Group { parts: vec![(device, 1)] }).collect();
        // With a demand, the number of stages so far is part of a node.
        let layers = demand.stages.or(demand.devices.map(|limit| limit.min(devices)));
        let (mut states, mut nodes) = (Vec::new(), Vec::new());
        for layer in 0..layers.unwrap_or(1) {
            for (place, &group) in sequence.iter().enumerate() {
                let node = layer * devices + place;
                let before = match layers {
                    None => (0, node),
                    Some(_) if layer == 0 => (0, 0),
                    Some(_) => ((layer - 1) * devices, node - devices),
                };
                let is_last = demand.stages.is_none_or(|stages| layer + 1 == stages);
                nodes.push(Node { group, is_first: layer == 0, before, rank: node });
                states.push(State { nodes: node..node + 1, is_last });
            }
        }
        Order { kinds, groups, states, nodes, rule: Rule::Given(sequence.to_vec()) }
    }

    /// Whether the devices stand in one sequence.
    pub(crate) fn is_given(&self) -> bool {
        matches!(self.rule, Rule::Given(_))
    }

    /// One stage, on all of these devices and no fewer.
    pub(crate) fn one_stage(team: &[usize], devices: usize) -> Order {
        Order {
            kinds: (0..devices).map(|device| Kind { members: vec![device] }).collect(),
            groups: vec![Group { parts: team.iter().map(|&device| (device, 1)).collect() }],
            states: vec![State { nodes: 0..1, is_last: true }],
            nodes: vec![Node { group: 0, is_first: true, before: (0, 0), rank: 0 }],
            rule: Rule::Given(vec![0]),
        }
    }

    /// Any order of any of the devices, each stage on one or, with `replicas`, on several; `None` when that makes
    /// more work than `affordable` says.
    pub(crate) fn any(
        problem: &Problem,
        demand: Demand,
        replicas: bool,
        affordable: impl Fn(Size) -> bool,
    ) -> Option<Order> {
        let kinds = kinds(problem);
        let sizes: Vec<usize> = kinds.iter().map(|kind| kind.members.len()).collect();
        // Where a stage may have several devices, their number does not tell that of the stages: one digit more does.
        let layers = demand.stages.filter(|_| replicas);
        if !affordable(Size::of(&sizes, replicas, layers.unwrap_or(1))) {
            return None;
        }
        let choices: Vec<Vec<usize>> = match replicas {
            true => counts(&sizes).skip(1).collect(),
            false => (0..sizes.len()).map(|k| unit(sizes.len(), k)).collect(),
        };
        let strides: Vec<usize> = choices.iter().map(|counts| index(counts, &sizes)).collect();
        let in_layer = sizes.iter().map(|n| n + 1).product::<usize>();
        let (mut states, mut nodes): (Vec<State>, Vec<Node>) = (Vec::new(), Vec::new());
        for layer in 0..layers.map_or(1, |stages| stages + 1) {
            for (at, used) in counts(&sizes).enumerate() {
                let start = nodes.len();
                let fits = |&group: &usize| choices[group].iter().zip(&used).all(|(c, u)| c <= u);
                // The first layer is the start, without a stage.
                let open = layers.is_none() || layer > 0;
                for group in (0..choices.len()).filter(|_| open).filter(fits) {
                    let earlier: &State = &states[at - strides[group] + layer.saturating_sub(1) * in_layer];
                    let before = (earlier.nodes.start, earlier.nodes.end);
                    let is_first = at == strides[group] && layer <= 1;
                    nodes.push(Node { group, is_first, before, rank: 0 });
                }
                let end = nodes.len();
                // The earliest devices first; among them the last one at the end.
                (start..end).for_each(|node| nodes[node].rank = start + (end - 1 - node));
                let devices: usize = used.iter().sum();
                let stages = if layers.is_some() { layer } else { devices };
                states.push(State {
                    nodes: start..end,
                    is_last: demand.stages.is_none_or(|wanted| wanted == stages)
                        && demand.devices.is_none_or(|limit| devices <= limit),
                });
            }
        }
        let parts =
            |counts: &Vec<usize>| counts.iter().copied().enumerate().filter(|&(_, n)| n > 0).collect();
        let groups = choices.iter().map(|counts| Group { parts: parts(counts) }).collect();
        Some(Order { kinds, groups, states, nodes, rule: Rule::Any })
    }

    /// What all devices can do together, and by state those that may still come. What one of a kind can do stands at
    /// the first of its members.
    pub(crate) fn possible(&self, capacities: &[f64]) -> (f64, Vec<f64>) {
        match &self.rule {
            Rule::Given(sequence) => {
                let capacity =
                    |&group: &usize| self.members(group).into_iter().map(|d| capacities[d]).sum::<f64>();
                let own: Vec<f64> = sequence.iter().map(capacity).collect();
                let mut rest = vec![0.0; sequence.len()];
                for place in (1..sequence.len()).rev() {
                    rest[place - 1] = rest[place] + own[place];
                }
                let all = rest[0] + own[0];
                (all, rest.repeat(self.states.len() / sequence.len()))
            }
            Rule::Any => {
                let sizes: Vec<usize> = self.kinds.iter().map(|kind| kind.members.len()).collect();
                let left = |((size, used), kind): ((&usize, &usize), &Kind)| match size - used {
                    // Also where capacities are infinite.
                    0 => 0.0,
                    left => left as f64 * capacities[kind.members[0]],
                };
                let rest = |used: Vec<usize>| sizes.iter().zip(&used).zip(&self.kinds).map(left).sum();
                let layer: Vec<f64> = counts(&sizes).map(rest).collect();
                (layer[0], layer.repeat(self.states.len() / layer.len()))
            }
        }
    }

    pub(crate) fn groups(&self) -> usize {
        self.groups.len()
    }

    pub(crate) fn states(&self) -> &[State] {
        &self.states
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(crate) fn node(&self, node: usize) -> &Node {
        &self.nodes[node]
    }

    /// Devices that may stand for a group, and others for one that comes after it: `None` when there are too few.
    pub(crate) fn pair(&self, first: usize, second: usize) -> Option<[Vec<usize>; 2]> {
        let taken = |kind: usize| {
            let part = self.groups[first].parts.iter().find(|part| part.0 == kind);
            part.map_or(0, |part| part.1)
        };
        let pick =
            |&(kind, count): &(usize, usize), from: usize| self.kinds[kind].members.get(from..from + count);
        let mut devices = [Vec::new(), Vec::new()];
        for part in &self.groups[first].parts {
            devices[0].extend(pick(part, 0)?);
        }
        for part in &self.groups[second].parts {
            devices[1].extend(pick(part, taken(part.0))?);
        }
        Some(devices)
    }

    /// Devices that may stand for a group.
    pub(crate) fn members(&self, group: usize) -> Vec<usize> {
        let parts = self.groups[group].parts.iter();
        parts.flat_map(|&(kind, count)| &self.kinds[kind].members[..count]).copied().collect()
    }

    /// Gives every kind's devices out in their order, to groups along a chain.
    pub(crate) fn hand_out(&self, groups: impl Iterator<Item = usize>) -> Vec<Vec<usize>> {
        let mut given = vec![0; self.kinds.len()];
        let mut take = |&(kind, count): &(usize, usize)| {
            given[kind] += count;
            &self.kinds[kind].members[given[kind] - count..given[kind]]
        };
        groups.map(|group| self.groups[group].parts.iter().flat_map(&mut take).copied().collect()).collect()
    }
}

/// How large an order is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub nodes: f64,
    /// Pairs of a node and one that may stand before it.
    pub pairs: f64,
    pub groups: f64,
}

impl Size {
    fn of(sizes: &[usize], replicas: bool, layers: usize) -> Size {
        let product = |factor: fn(f64) -> f64| sizes.iter().map(|&n| factor(n as f64)).product::<f64>();
        let (states, kinds, layers) = (product(|n| n + 1.0), sizes.len() as f64, layers as f64);
        match replicas {
            true => Size {
                nodes: layers * product(|n| (n + 1.0) * (n + 2.0) / 2.0),
                pairs: layers * product(|n| (n + 1.0) * (n + 2.0) * (n + 3.0) / 6.0),
                groups: states,
            },
            false => Size { nodes: states * kinds, pairs: states * kinds * kinds, groups: kinds },
        }
    }
}

/// All counts up to `sizes`, the first kind counting fastest.
fn counts(sizes: &[usize]) -> impl Iterator<Item = Vec<usize>> + use<> {
    let sizes = sizes.to_vec();
    std::iter::successors(Some(vec![0; sizes.len()]), move |counts| {
        let mut next = counts.clone();
        for (count, &size) in next.iter_mut().zip(&sizes) {
            if *count < size {
                *count += 1;
                return Some(next);
            }
            *count = 0;
        }
        None
    })
}

/// The place of some counts among all.
fn index(counts: &[usize], sizes: &[usize]) -> usize {
    counts.iter().zip(sizes).rev().fold(0, |index, (&count, &size)| index * (size + 1) + count)
}

fn unit(len: usize, one: usize) -> Vec<usize> {
    (0..len).map(|i| usize::from(i == one)).collect()
}

/// Devices grouped by what they are like, links included.
fn kinds(problem: &Problem) -> Vec<Kind> {
    let devices = problem.devices.len();
    let media: Vec<_> = problem.media.iter().map(|medium| medium.lookup(devices)).collect();
    let mut kinds: Vec<Kind> = Vec::new();
    for device in 0..devices {
        match kinds.iter_mut().find(|kind| alike(problem, &media, kind.members[0], device)) {
            Some(kind) => kind.members.push(device),
            None => kinds.push(Kind { members: vec![device] }),
        }
    }
    kinds
}

/// Whether swapping two devices changes nothing.
fn alike(problem: &Problem, media: &[impl Fn(End, End) -> bool], a: usize, b: usize) -> bool {
    let (x, y) = (&problem.devices[a], &problem.devices[b]);
    let figures = x.speed == y.speed
        && x.unit_seconds == y.unit_seconds
        && x.memory_bytes == y.memory_bytes
        && x.engine_bytes == y.engine_bytes
        && x.host == y.host
        && problem.codecs.iter().all(|codec| codec.devices[a] == codec.devices[b]);
    let links = &problem.links;
    let (a, b) = (End::Device(a), End::Device(b));
    // Each link by its figures and by the media that it is in.
    let same = |one: (End, End), other: (End, End)| {
        links.get(one.0, one.1) == links.get(other.0, other.1)
            && media.iter().all(|on| on(one.0, one.1) == on(other.0, other.1))
    };
    figures
        && same((a, b), (b, a))
        && problem
            .ends()
            .filter(|&other| other != a && other != b)
            .all(|other| same((a, other), (b, other)) && same((other, a), (other, b)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, Host, Link, Links, Medium, Queues};

    fn problem(speeds: &[f64]) -> Problem {
        Problem {
            units: Vec::new(),
            boundaries: Vec::new(),
            codecs: Vec::new(),
            dispatcher: Host::default(),
            devices: speeds.iter().map(|&speed| Device::of_speed("", speed)).collect(),
            links: Links::uniform(speeds.len(), Link::FREE),
            media: Vec::new(),
            queues: Queues::default(),
        }
    }

    fn groups(problem: &Problem) -> Vec<Vec<usize>> {
        kinds(problem).into_iter().map(|kind| kind.members).collect()
    }

    #[test]
    fn devices_are_alike_when_swapping_them_changes_nothing() {
        let mut problem = problem(&[1.0, 2.0, 1.0, 1.0]);
        assert_eq!(groups(&problem), [vec![0, 2, 3], vec![1]]);
        let slow = Link { bandwidth: 5.0, ..Link::FREE };
        // Device 3 reaches the fast one over a link of its own.
        problem.links.set(End::Device(3), End::Device(1), slow);
        assert_eq!(groups(&problem), [vec![0, 2], vec![1], vec![3]]);
        // One direction between two of a kind.
        problem.links.set(End::Device(0), End::Device(2), slow);
        assert_eq!(groups(&problem), [vec![0], vec![1], vec![2], vec![3]]);
    }

    #[test]
    fn media_and_powers_tell_devices_apart() {
        let mut problem = problem(&[1.0; 3]);
        let links = vec![(End::Device(0), End::Dispatcher)];
        problem.media.push(Medium { name: String::new(), links });
        assert_eq!(groups(&problem), [vec![0], vec![1, 2]]);
        problem.devices[2].host.busy_watts = 5.0;
        assert_eq!(groups(&problem), [vec![0], vec![1], vec![2]]);
    }

    #[test]
    fn every_figure_of_a_device_tells_it_apart() {
        let changes: [fn(&mut Problem); 8] = [
            |p| p.devices[1].speed = 2.0,
            |p| p.devices[1].unit_seconds = Some(Vec::new()),
            |p| p.devices[1].memory_bytes = Some(5),
            |p| p.devices[1].engine_bytes = 5,
            |p| p.devices[1].host.seconds_per_byte = 5.0,
            |p| p.devices[1].host.seconds_per_frame = 5.0,
            |p| p.devices[1].host.seconds_per_tensor_byte = 5.0,
            |p| p.codecs[0].devices[1].encode_seconds = 5.0,
        ];
        for (i, change) in changes.into_iter().enumerate() {
            let mut problem = problem(&[1.0; 3]);
            problem.codecs.push(Problem::raw(&[], 3));
            assert_eq!(groups(&problem), [vec![0, 1, 2]]);
            change(&mut problem);
            assert_eq!(groups(&problem), [vec![0, 2], vec![1]], "change {i}");
        }
    }

    #[test]
    fn every_node_comes_after_those_before_it() {
        let problem = problem(&[1.0, 2.0, 1.0]);
        let demand = |stages, devices| Demand { stages, devices };
        let any = |demand, replicas| Order::any(&problem, demand, replicas, |_| true).unwrap();
        let given = |sequence: &[usize], demand| Order::given(sequence, demand);
        let free = Demand::default();
        for (order, nodes) in [
            // States by counts of the two kinds (0 to 2, 0 to 1), and in each the groups that fit into it.
            (any(free, false), 7),
            (any(demand(Some(2), Some(2)), false), 7),
            (any(free, true), 18 - 6),
            (any(demand(Some(2), None), true), 2 * 12),
            (given(&[2, 0, 1], free), 3),
            (given(&[1, 0, 2], demand(Some(2), None)), 6),
            (given(&[1, 0, 2], demand(None, Some(2))), 6),
        ] {
            assert_eq!(order.nodes().len(), nodes);
            for (i, node) in order.nodes().iter().enumerate() {
                assert!(node.before().end <= i && node.group < order.groups());
            }
            let by_state: Vec<usize> = order.states().iter().flat_map(|state| state.nodes.clone()).collect();
            assert_eq!(by_state, (0..nodes).collect::<Vec<_>>());
            assert_eq!(order.possible(&[1.0; 3]).1.len(), order.states().len());
        }
        let (nodes, pairs) = (18.0, 40.0);
        let affordable = |size: Size| {
            assert_eq!((size.nodes, size.pairs, size.groups), (nodes, pairs, 6.0));
            false
        };
        assert!(Order::any(&problem, free, true, affordable).is_none());
        assert_eq!(given(&[2, 0, 1], free).possible(&[1.0, 2.0, 4.0]), (7.0, vec![3.0, 2.0, 0.0]));
        // None used, one and two of the first kind, the same with the other kind.
        let (all, rest) = any(free, false).possible(&[1.0, f64::INFINITY, 0.0]);
        assert_eq!((all, &rest[..3]), (f64::INFINITY, &[f64::INFINITY; 3][..]));
        assert_eq!(rest[3..], [2.0, 1.0, 0.0]);
    }
}
