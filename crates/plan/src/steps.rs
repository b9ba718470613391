//! The steps that a chain may take: between which teams, and, under given limits, at which places.
//!
//! A place is a point of the model (a boundary where a stage may begin or end) and the codec in which its tensors
//! travel. Sets of places are a few words of bits. [`Network`] holds what no limit changes; [`Steps`] is made anew for
//! every limit that the search tries.

use std::ops::Range;

use crate::costs::{Costs, Hop, Member, Team};
use crate::order::Order;
use crate::{End, bits};

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

/// A point and a codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub point: usize,
    pub codec: usize,
}

/// How sets of places are laid out: for each codec, so many words with a bit for each point.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub points: usize,
    pub codecs: usize,
    words: usize,
}

impl Layout {
    pub(crate) fn new(points: usize, codecs: usize) -> Layout {
        Layout { points, codecs, words: points.div_ceil(64) }
    }

    /// Words of a set.
    pub(crate) fn words(&self) -> usize {
        self.words * self.codecs
    }

    pub(crate) fn has(&self, set: &[u64], place: Place) -> bool {
        bits::has(set, self.bit(place))
    }

    pub(crate) fn add(&self, set: &mut [u64], place: Place) {
        bits::add(set, self.bit(place));
    }

    /// Puts in all places of some points.
    pub(crate) fn add_all(&self, set: &mut [u64], points: Range<usize>) {
        for block in set.chunks_exact_mut(self.words) {
            for (word, bits) in block.iter_mut().enumerate() {
                let (low, high) = (word * 64, (word + 1) * 64);
                let (start, end) = (points.start.clamp(low, high) - low, points.end.clamp(low, high) - low);
                if start < end {
                    *bits |= u64::MAX << start & u64::MAX >> (64 - end);
                }
            }
        }
    }

    /// The places of a set: by codec, then by rising point.
    pub(crate) fn places(self, set: &[u64]) -> impl Iterator<Item = Place> + '_ {
        let row = self.words * 64;
        bits::ones(set).map(move |bit| Place { point: bit % row, codec: bit / row })
    }

    /// The last point of a set, whatever the codec.
    fn last_point(&self, set: impl Iterator<Item = u64>) -> Option<usize> {
        let last = |(word, bits): (usize, u64)| {
            (bits != 0).then(|| word % self.words * 64 + 63 - bits.leading_zeros() as usize)
        };
        set.enumerate().filter_map(last).max()
    }

    /// Takes the points before `first` away.
    pub(crate) fn drop_before(&self, set: &mut [u64], first: usize) {
        for block in set.chunks_exact_mut(self.words) {
            for (word, bits) in block.iter_mut().enumerate() {
                *bits &= match first.saturating_sub(word * 64) {
                    0 => u64::MAX,
                    shift @ 1..64 => u64::MAX << shift,
                    _ => 0,
                };
            }
        }
    }

    fn bit(&self, place: Place) -> usize {
        place.codec * self.words * 64 + place.point
    }

    /// Places one after the other, without gaps.
    pub(crate) fn index(&self, place: Place) -> usize {
        place.codec * self.points + place.point
    }
}

/// Who can be reached from whom.
pub(crate) struct Network {
    layout: Layout,
    pub teams: Vec<Team>,
    /// From the dispatcher, by group.
    enter: Vec<Hop>,
    /// To the dispatcher, by group.
    leave: Vec<Hop>,
    /// By sender, then receiver: where its hop is.
    between: Vec<u32>,
    hops: Vec<Hop>,
    /// By point, then codec: codecs that are at least as cheap on every machine at both ends.
    cheaper: Vec<u64>,
    /// By device, point and codec: CPU time to receive and to send.
    receive: Vec<f64>,
    send: Vec<f64>,
    /// The most of them: by device and point, over the codecs; by device, over points and codecs.
    most_receive: Vec<f64>,
    most_send: Vec<f64>,
}

/// No hop: some device would have to be in both groups.
const NONE: u32 = u32::MAX;

impl Network {
    pub(crate) fn new(costs: &Costs<'_>, order: &Order, points: &[usize]) -> Network {
        let teams: Vec<Team> = (0..order.groups()).map(|group| costs.team(&order.members(group))).collect();
        let enter = teams.iter().map(|team| costs.hop(costs.dispatcher(), team)).collect();
        let leave = teams.iter().map(|team| costs.hop(team, costs.dispatcher())).collect();
        let (mut between, mut hops) = (Vec::with_capacity(teams.len() * teams.len()), Vec::new());
        for from in 0..teams.len() {
            for to in 0..teams.len() {
                between.push(match order.pair(from, to) {
                    Some([from, to]) => {
                        hops.push(costs.hop(&costs.team(&from), &costs.team(&to)));
                        (hops.len() - 1) as u32
                    }
                    None => NONE,
                });
            }
        }
        let problem = costs.problem;
        let table = |seconds: &dyn Fn(End, usize, usize) -> f64| -> Vec<f64> {
            let places = points.iter().flat_map(|&p| (0..problem.codecs.len()).map(move |codec| (p, codec)));
            let of =
                |device| places.clone().map(move |(point, codec)| seconds(End::Device(device), point, codec));
            (0..problem.devices.len()).flat_map(of).collect()
        };
        let receive = table(&|end, point, codec| costs.receive_seconds(end, point, codec));
        let send = table(&|end, point, codec| costs.send_seconds(end, point, codec));
        let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
        Network {
            layout: Layout::new(points.len(), problem.codecs.len()),
            teams,
            enter,
            leave,
            between,
            hops,
            cheaper: cheaper(costs, points),
            most_receive: receive.chunks(problem.codecs.len()).map(most).collect(),
            most_send: send.chunks(problem.codecs.len() * points.len()).map(most).collect(),
            receive,
            send,
        }
    }

    /// CPU time to take in, and to send on, what a stage between two places moves.
    fn moving_seconds(&self, member: &Member, [from, to]: [Place; 2]) -> f64 {
        let End::Device(device) = member.end else { return 0.0 };
        let at =
            |place: Place| (device * self.layout.points + place.point) * self.layout.codecs + place.codec;
        self.receive[at(from)] + self.send[at(to)]
    }

    /// What lies between two groups, which must be able to follow one another.
    pub(crate) fn hop(&self, from: usize, to: usize) -> &Hop {
        &self.hops[self.between[from * self.teams.len() + to] as usize]
    }

    pub(crate) fn enter(&self, group: usize) -> &Hop {
        &self.enter[group]
    }

    pub(crate) fn leave(&self, group: usize) -> &Hop {
        &self.leave[group]
    }

    /// Of codecs as bits those that no other makes useless.
    fn useful(&self, codecs: usize, point: usize, allowed: u64) -> u64 {
        let useless = |codec: usize| self.cheaper[point * codecs + codec] & allowed != 0;
        (0..codecs).filter(|&c| allowed >> c & 1 == 1 && !useless(c)).fold(0, |all, c| all | 1 << c)
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

/// By point, then codec: which codecs cost no machine more to write and to read. Of equal ones the first counts as
/// cheaper.
fn cheaper(costs: &Costs<'_>, points: &[usize]) -> Vec<u64> {
    let codecs = costs.problem.codecs.len();
    let ends: Vec<_> = costs.problem.ends().collect();
    let price = |boundary, codec| -> Vec<f64> {
        let both =
            |&end| [costs.send_seconds(end, boundary, codec), costs.receive_seconds(end, boundary, codec)];
        ends.iter().flat_map(both).collect()
    };
    let mut table = Vec::with_capacity(points.len() * codecs);
    for &boundary in points {
        let prices: Vec<Vec<f64>> = (0..codecs).map(|codec| price(boundary, codec)).collect();
        let covers = |a: usize, b: usize| {
            let no_dearer = std::iter::zip(&prices[a], &prices[b]).all(|(a, b)| a <= b);
            a != b && no_dearer && (a < b || prices[a] != prices[b])
        };
        for codec in 0..codecs {
            table.push((0..codecs).filter(|&a| covers(a, codec)).fold(0, |all, a| all | 1 << a));
        }
    }
    table
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
            passes: vec![0; network.hops.len() * words],
            enters: vec![0; groups * words],
            leaves: vec![0; groups * words],
            capacities: Vec::new(),
        };
        for (set, hop) in steps.enters.chunks_exact_mut(words).zip(&network.enter) {
            crossing(hop, set, 0);
        }
        for (set, hop) in steps.leaves.chunks_exact_mut(words).zip(&network.leave) {
            crossing(hop, set, last);
        }
        for (set, hop) in steps.passes.chunks_exact_mut(words).zip(&network.hops) {
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
                        compute
                            + (network.most_receive[device * points.len() + first]
                                + network.most_send[device])
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
        match network.between[from * self.groups + to] {
            NONE => &[],
            hop => &self.passes[hop as usize * words..][..words],
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_places_and_drop_early_points() {
        let layout = Layout::new(70, 2);
        let mut set = vec![0; layout.words()];
        let place = |point, codec| Place { point, codec };
        let all = [place(0, 0), place(63, 0), place(64, 0), place(5, 1), place(69, 1)];
        for kept in all {
            assert!(!layout.has(&set, kept));
            layout.add(&mut set, kept);
            assert!(layout.has(&set, kept));
        }
        assert_eq!(layout.places(&set).collect::<Vec<_>>(), all);
        for (first, left) in
            [(0, &all[..]), (6, &[all[1], all[2], all[4]]), (64, &[all[2], all[4]]), (69, &[all[4]])]
        {
            let mut set = set.clone();
            layout.drop_before(&mut set, first);
            assert_eq!(layout.places(&set).collect::<Vec<_>>(), left, "{first}");
        }
        for points in [0..0, 0..1, 3..64, 60..70, 64..70, 0..70] {
            let mut set = vec![0; layout.words()];
            layout.add_all(&mut set, points.clone());
            let filled: Vec<Place> = layout.places(&set).collect();
            assert_eq!(
                filled.iter().filter(|p| p.codec == 1).map(|p| p.point).collect::<Vec<_>>(),
                points.clone().collect::<Vec<_>>()
            );
            assert_eq!(filled.len(), 2 * points.len());
        }
    }
}
