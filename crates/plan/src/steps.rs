//! The steps that a chain may take: between which teams, and, under given limits, at which places.
//!
//! [`Network`] holds what no limit changes; [`Steps`] is made anew for every limit that the search tries.

use std::ops::Range;

use crate::End;
use crate::costs::{Costs, Hop, Member, Team};
use crate::network::Network;
use crate::places::{Layout, Place};

/// What no step may exceed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Time that a resource is busy with an item.
    pub period: f64,
    /// Memory that a stage needs and a device of it does not have.
    pub excess_bytes: u64,
}

impl Limits {
    pub(crate) fn period(period: f64) -> Limits {
        Limits { period, excess_bytes: 0 }
    }
}

/// The first of `range` for which `holds`; from there on it must hold for all. The end, if there is none.
fn first_where(range: Range<usize>, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (range.start, range.end);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

/// What `seconds` makes of the computing time of a member that is a device.
fn device_seconds(
    costs: &Costs<'_>,
    member: &Member,
    units: &Range<usize>,
    seconds: impl Fn(usize, f64) -> f64,
) -> f64 {
    match member.end {
        End::Device(device) => seconds(device, costs.compute_seconds(device, units)),
        End::Dispatcher => 0.0,
    }
}

/// The steps under some limits.
pub(crate) struct Steps {
    pub layout: Layout,
    groups: usize,
    /// By group, then by first place: where a stage may end.
    runs: Vec<u64>,
    /// By hop: at which places it may be crossed.
    passes: Vec<u64>,
    /// By group: the places at which the model's inputs may come to it.
    enters: Vec<u64>,
    /// By group: the places at which the model's outputs may leave it.
    leaves: Vec<u64>,
    capacities: Vec<f64>,
}

impl Steps {
    /// The steps between the boundaries `points` (rising, first 0, last the end of the model). With `all_codecs` also
    /// those with codecs that another makes useless as far as time on CPUs goes.
    pub(crate) fn new(
        costs: &Costs<'_>,
        network: &Network,
        points: &[usize],
        limits: Limits,
        all_codecs: bool,
    ) -> Steps {
        let layout = Layout::new(points.len(), costs.problem.codecs.len());
        let (groups, words) = (network.teams.len(), layout.words());
        let crossing = |hop: &Hop, set: &mut [u64], point: usize| {
            let passes = |codec: &usize| hop.load(costs.bytes(points[point], *codec)) <= limits.period;
            let allowed = (0..layout.codecs).filter(passes).fold(0, |all, codec| all | 1 << codec);
            let kept = if all_codecs { allowed } else { network.useful(layout.codecs, point, allowed) };
            for codec in (0..layout.codecs).filter(|codec| kept >> codec & 1 == 1) {
                layout.add(set, Place { point, codec });
            }
        };
        let last = points.len() - 1;
        let mut steps = Steps {
            layout,
            groups,
            runs: vec![0; groups * layout.codecs * points.len() * words],
            passes: vec![0; network.hops().len() * words],
            enters: vec![0; groups * words],
            leaves: vec![0; groups * words],
            capacities: Vec::new(),
        };
        for (group, set) in steps.enters.chunks_exact_mut(words).enumerate() {
            crossing(network.enter(group), set, 0);
        }
        for (group, set) in steps.leaves.chunks_exact_mut(words).enumerate() {
            crossing(network.leave(group), set, last);
        }
        for (set, hop) in steps.passes.chunks_exact_mut(words).zip(network.hops()) {
            (1..last).for_each(|point| crossing(hop, set, point));
        }
        for (group, team) in network.teams.iter().enumerate() {
            steps.add_runs(costs, network, points, (group, team), limits);
        }
        steps.capacities = match network.teams.iter().all(|team| team.members.len() == 1) {
            true => steps.alone(costs, network, points),
            // A replica has a share of what may be more than it could do alone.
            false => (0..costs.problem.devices.len())
                .map(|device| match costs.top_speed(device) {
                    0.0 => 0.0,
                    speed => speed * limits.period,
                })
                .collect(),
        };
        steps
    }

    fn add_runs(
        &mut self,
        costs: &Costs<'_>,
        network: &Network,
        points: &[usize],
        (group, team): (usize, &Team),
        limits: Limits,
    ) {
        for first in 0..points.len() - 1 {
            let units = |last: usize| points[first]..points[last];
            let grows_beyond =
                |last| costs.grows_beyond(team, &units(last), limits.period, limits.excess_bytes);
            let end = first_where(first + 1..points.len(), grows_beyond);
            // Up to some point a stage may end anywhere; only from there to the end it is worth a look where.
            let sure = first_where(first + 1..end, |last| {
                let fits = |member: &Member| {
                    let busy = |device, compute| {
                        compute + (network.most_receive(device, first) + network.most_send(device))
                    };
                    costs.fits(member, &units(last), limits.excess_bytes, costs.queue_bytes_at_most())
                        && member.share * device_seconds(costs, member, &units(last), busy) <= limits.period
                };
                !team.members.iter().all(fits)
            });
            let lasts: Vec<usize> = (sure..end)
                .filter(|&last| costs.excess_bytes(team, &units(last)) <= limits.excess_bytes)
                .collect();
            // By member: the time that it computes up to each of them.
            let compute: Vec<Vec<f64>> = team
                .members
                .iter()
                .map(|member| {
                    lasts
                        .iter()
                        .map(|&last| device_seconds(costs, member, &units(last), |_, compute| compute))
                        .collect()
                })
                .collect();
            for codec in 0..self.layout.codecs {
                let from = Place { point: first, codec };
                let at = self.run_at(group, from);
                let set = &mut self.runs[at..at + self.layout.words()];
                self.layout.add_all(set, first + 1..sure);
                for (i, &last) in lasts.iter().enumerate() {
                    for codec in 0..self.layout.codecs {
                        let to = Place { point: last, codec };
                        let fits = |(member, compute): (&Member, &Vec<f64>)| {
                            member.share * (compute[i] + network.moving_seconds(member, [from, to]))
                                <= limits.period
                        };
                        if std::iter::zip(&team.members, &compute).all(fits) {
                            self.layout.add(set, to);
                        }
                    }
                }
            }
        }
    }

    /// By device that stands for its kind: how much of the model, in seconds of a device of speed 1, it can do at most
    /// within the limits.
    pub(crate) fn capacities(&self) -> &[f64] {
        &self.capacities
    }

    /// What devices can do in one stage of their own, with links that lead to it and on.
    fn alone(&self, costs: &Costs<'_>, network: &Network, points: &[usize]) -> Vec<f64> {
        let (words, behind) = (self.layout.words(), costs.seconds_behind());
        let mut capacities = vec![0.0_f64; costs.problem.devices.len()];
        let merge =
            |into: &mut [u64], set: &[u64]| into.iter_mut().zip(set).for_each(|(into, set)| *into |= set);
        for group in 0..self.groups {
            let (mut before, mut after) = (vec![0; words], vec![0; words]);
            merge(&mut before, self.enter(group));
            merge(&mut after, self.leave(group));
            for other in 0..self.groups {
                merge(&mut before, self.pass(network, other, group));
                merge(&mut after, self.pass(network, group, other));
            }
            let mut most = 0.0_f64;
            for from in self.layout.places(&before) {
                let ends = self.run(group, from).iter().zip(&after).map(|(run, after)| run & after);
                if let Some(last) = self.layout.last_point(ends) {
                    most = most.max(behind[points[from.point]] - behind[points[last]]);
                }
            }
            for member in &network.teams[group].members {
                if let End::Device(device) = member.end {
                    capacities[device] = capacities[device].max(most);
                }
            }
        }
        capacities
    }

    /// Where a stage of this group may end, when it begins at `first`.
    pub(crate) fn run(&self, group: usize, first: Place) -> &[u64] {
        let at = self.run_at(group, first);
        &self.runs[at..at + self.layout.words()]
    }

    /// At which places the way from one group to another may be crossed.
    pub(crate) fn pass(&self, network: &Network, from: usize, to: usize) -> &[u64] {
        let words = self.layout.words();
        match network.position(from, to) {
            None => &[],
            Some(hop) => &self.passes[hop * words..][..words],
        }
    }

    /// The places at which the model's inputs may come to a group.
    pub(crate) fn enter(&self, group: usize) -> &[u64] {
        &self.enters[group * self.layout.words()..][..self.layout.words()]
    }

    /// The places at which the model's outputs may leave a group.
    pub(crate) fn leave(&self, group: usize) -> &[u64] {
        &self.leaves[group * self.layout.words()..][..self.layout.words()]
    }

    fn run_at(&self, group: usize, first: Place) -> usize {
        let places = self.layout.codecs * self.layout.points;
        (group * places + self.layout.index(first)) * self.layout.words()
    }
}
