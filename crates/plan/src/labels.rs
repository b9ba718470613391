//! The best chain for a goal, where what counts adds up along the chain.
//!
//! Used by the search once its sets say which places are of use. Into each of them lead chains that are better in one
//! sum and worse in another (latency, energy, the airtime of a medium); a label is kept for each that no other beats
//! in all of them. With a single sum that is one label a place, and this is the shortest path.

use crate::End;
use crate::costs::Hop;
use crate::places::Place;
use crate::search::{Doors, Run, Space};
use crate::steps::{Limits, Steps};

/// What is to be small.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// Any chain will do.
    Any,
    /// Seconds from an input to its result.
    Latency,
    /// Energy of an item when results come so far apart.
    Joules {
        /// Seconds between results.
        period: f64,
    },
    /// The number of devices.
    Devices,
}

/// Best chains into a place: their sums are beside them.
#[derive(Clone, Copy, Debug)]
struct Label {
    /// The label before it; none for the first stage.
    before: Option<usize>,
    run: Run,
    /// What the goal counts.
    worth: f64,
    devices: usize,
}

/// A way to come to a place, with its sums.
#[derive(Clone, Debug)]
struct Way {
    before: Option<usize>,
    /// What the goal counts.
    worth: f64,
    /// By medium.
    airtime: Vec<f64>,
    devices: usize,
    rank: usize,
    from: Place,
}

impl Way {
    /// Whether this one makes the other useless.
    fn beats(&self, other: &Way) -> bool {
        let no_more_air = self.airtime.iter().zip(&other.airtime).all(|(a, b)| a <= b);
        if self.worth != other.worth || self.devices != other.devices {
            return no_more_air && (self.worth, self.devices) < (other.worth, other.devices);
        }
        no_more_air && (self.airtime != other.airtime || self.rank <= other.rank)
    }
}

/// Adds a way unless another beats it, and takes away those it beats.
fn keep(ways: &mut Vec<Way>, way: Way) {
    if !ways.iter().any(|other| other.beats(&way)) {
        ways.retain(|other| !way.beats(other));
        ways.push(way);
    }
}

/// The best chain over the places of `reached`: its worth, its devices and its stages. Of equal ones the one with
/// fewer devices, then the first in a fixed order.
pub(crate) fn best(
    space: &Space<'_>,
    steps: &Steps,
    doors: Doors,
    reached: &[u64],
    limits: Limits,
    goal: Goal,
) -> Option<(f64, usize, Vec<Run>)> {
    let mut labels = Labels {
        space,
        steps,
        doors,
        reached,
        limits,
        goal,
        labels: vec![],
        airtime: vec![],
        starts: vec![],
    };
    for node in 0..space.order.nodes().len() {
        labels.add_node(node);
    }
    labels.complete()
}

struct Labels<'a> {
    space: &'a Space<'a>,
    steps: &'a Steps,
    doors: Doors,
    reached: &'a [u64],
    limits: Limits,
    goal: Goal,
    labels: Vec<Label>,
    /// By label, then medium.
    airtime: Vec<f64>,
    /// By node: its first label.
    starts: Vec<usize>,
}

impl Labels<'_> {
    fn airtime(&self, label: usize) -> Vec<f64> {
        let media = self.space.costs.problem.media.len();
        self.airtime[label * media..(label + 1) * media].to_vec()
    }

    fn set(&self, node: usize) -> &[u64] {
        let words = self.steps.layout.words();
        &self.reached[node * words..(node + 1) * words]
    }

    fn of_node(&self, node: usize) -> std::ops::Range<usize> {
        let end = self.starts.get(node + 1).copied().unwrap_or(self.labels.len());
        self.starts[node]..end
    }

    fn add_node(&mut self, index: usize) {
        self.starts.push(self.labels.len());
        if self.set(index).iter().all(|&bits| bits == 0) {
            return;
        }
        let ways = self.ways_to(index);
        let group = self.space.order.node(index).group;
        let ends: Vec<Place> = self.steps.layout.places(self.set(index)).collect();
        for to in ends {
            let mut best: Vec<Way> = Vec::new();
            for way in &ways {
                if self.steps.layout.has(self.steps.run(group, way.from), to) {
                    let mut way = way.clone();
                    way.worth += self.stage_worth(group, way.from, to);
                    keep(&mut best, way);
                }
            }
            for way in best {
                let run = Run { node: index, from: way.from, to };
                let Way { before, worth, devices, .. } = way;
                self.labels.push(Label { before, run, worth, devices });
                self.airtime.extend(way.airtime);
            }
        }
    }

    /// The ways to begin a stage of this node.
    fn ways_to(&self, index: usize) -> Vec<Way> {
        let (space, layout) = (self.space, self.steps.layout);
        let node = space.order.node(index);
        let own = space.network.teams[node.group].members.len();
        let mut by_place: Vec<Vec<Way>> = vec![Vec::new(); layout.points * layout.codecs];
        let mut consider =
            |from: Place, way: Way| keep(&mut by_place[from.codec * layout.points + from.point], way);
        for from in space.starts(self.steps, self.doors, index) {
            let (worth, airtime) = (self.start_worth(from), vec![0.0; space.costs.problem.media.len()]);
            let way = Way { before: None, worth, airtime, devices: own, rank: 0, from };
            if let Some(way) = self.over(space.network.enter(node.group), way) {
                consider(from, way);
            }
        }
        for before in node.before() {
            let sender = space.order.node(before);
            let pass = self.steps.pass(&space.network, sender.group, node.group);
            if pass.iter().zip(self.set(before)).all(|(pass, set)| pass & set == 0) {
                continue;
            }
            let hop = space.network.hop(sender.group, node.group);
            for label in self.of_node(before) {
                let Label { run, worth, devices, .. } = self.labels[label];
                if !layout.has(pass, run.to) {
                    continue;
                }
                let (before, airtime, devices) = (Some(label), self.airtime(label), devices + own);
                let way = Way { before, worth, airtime, devices, rank: sender.rank, from: run.to };
                if let Some(way) = self.over(hop, way) {
                    consider(run.to, way);
                }
            }
        }
        by_place.into_iter().flatten().collect()
    }

    /// Adds a hop from the place of a way; `None` when a medium is busy for longer than it may be.
    fn over(&self, hop: &Hop, mut way: Way) -> Option<Way> {
        let bytes = self.space.costs.bytes(self.space.points[way.from.point], way.from.codec);
        way.worth += match self.goal {
            Goal::Any | Goal::Devices => 0.0,
            Goal::Latency => hop.latency(bytes),
            Goal::Joules { .. } => bytes * hop.joules_per_byte,
        };
        for (medium, seconds) in way.airtime.iter_mut().enumerate() {
            *seconds += hop.airtime(medium, bytes);
        }
        way.airtime.iter().all(|&seconds| seconds <= self.limits.period).then_some(way)
    }

    fn stage_worth(&self, group: usize, from: Place, to: Place) -> f64 {
        let Space { costs, points, network, .. } = self.space;
        let team = &network.teams[group];
        let (units, codecs) = (points[from.point]..points[to.point], [from.codec, to.codec]);
        match self.goal {
            Goal::Any => 0.0,
            Goal::Latency => costs.stage_latency(team, &units, codecs),
            Goal::Joules { period } => {
                costs.stage_joules(team, &units, codecs) + period * costs.idle_watts(team)
            }
            Goal::Devices => team.members.len() as f64,
        }
    }

    /// What the dispatcher spends on an input.
    fn start_worth(&self, place: Place) -> f64 {
        let costs = self.space.costs;
        let seconds = costs.send_seconds(End::Dispatcher, 0, place.codec);
        match self.goal {
            Goal::Any | Goal::Devices => 0.0,
            Goal::Latency => seconds,
            Goal::Joules { period } => {
                seconds * costs.extra_watts(End::Dispatcher) + period * costs.idle_watts(costs.dispatcher())
            }
        }
    }

    /// What the dispatcher spends on a result.
    fn end_worth(&self, place: Place) -> f64 {
        let costs = self.space.costs;
        let seconds = costs.receive_seconds(End::Dispatcher, costs.end(), place.codec);
        match self.goal {
            Goal::Any | Goal::Devices => 0.0,
            Goal::Latency => seconds,
            Goal::Joules { .. } => seconds * costs.extra_watts(End::Dispatcher),
        }
    }

    fn complete(&self) -> Option<(f64, usize, Vec<Run>)> {
        let order = &self.space.order;
        let last = self.space.points.len() - 1;
        let mut best: Option<((f64, usize, usize), usize)> = None;
        let nodes = order.states().iter().filter(|state| state.is_last).flat_map(|state| state.nodes.clone());
        for node in nodes {
            let leave = self.steps.leave(order.node(node).group);
            for label in self.of_node(node) {
                let Label { run, worth, devices, .. } = self.labels[label];
                if run.to.point != last || !self.doors.leaves(run.to) || !self.steps.layout.has(leave, run.to)
                {
                    continue;
                }
                let (airtime, rank) = (self.airtime(label), order.node(node).rank);
                let way = Way { before: Some(label), worth, airtime, devices, rank, from: run.to };
                let Some(way) = self.over(self.space.network.leave(order.node(node).group), way) else {
                    continue;
                };
                let worth = (way.worth + self.end_worth(run.to), devices, rank);
                if best.is_none_or(|(least, _)| worth < least) {
                    best = Some((worth, label));
                }
            }
        }
        let ((worth, devices, _), label) = best?;
        let labels = std::iter::successors(Some(label), |&label| self.labels[label].before);
        let mut runs: Vec<Run> = labels.map(|label| self.labels[label].run).collect();
        runs.reverse();
        Some((worth, devices, runs))
    }
}
