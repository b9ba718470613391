//! Which teams may follow one another and what lies between them: what no limit changes. Made once for a search.

use crate::End;
use crate::costs::{Costs, Hop, Member, Team};
use crate::order::Order;
use crate::places::{Layout, Place};

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
    pub(crate) fn moving_seconds(&self, member: &Member, [from, to]: [Place; 2]) -> f64 {
        let End::Device(device) = member.end else { return 0.0 };
        let at =
            |place: Place| (device * self.layout.points + place.point) * self.layout.codecs + place.codec;
        self.receive[at(from)] + self.send[at(to)]
    }

    /// What lies between two groups, which must be able to follow one another.
    pub(crate) fn hop(&self, from: usize, to: usize) -> &Hop {
        &self.hops
            [self.position(from, to).expect("only groups without a device in common follow one another")]
    }

    /// All hops between two groups.
    pub(crate) fn hops(&self) -> &[Hop] {
        &self.hops
    }

    /// Where the hop between two groups is among all of them; `None` where some device would have to be in both.
    pub(crate) fn position(&self, from: usize, to: usize) -> Option<usize> {
        match self.between[from * self.teams.len() + to] {
            NONE => None,
            position => Some(position as usize),
        }
    }

    /// CPU time to take in what comes at a point, in whatever codec.
    pub(crate) fn most_receive(&self, device: usize, point: usize) -> f64 {
        self.most_receive[device * self.layout.points + point]
    }

    /// CPU time to send on what leaves any point, in whatever codec.
    pub(crate) fn most_send(&self, device: usize) -> f64 {
        self.most_send[device]
    }

    pub(crate) fn enter(&self, group: usize) -> &Hop {
        &self.enter[group]
    }

    pub(crate) fn leave(&self, group: usize) -> &Hop {
        &self.leave[group]
    }

    /// Of codecs as bits those that no other makes useless.
    pub(crate) fn useful(&self, codecs: usize, point: usize, allowed: u64) -> u64 {
        let useless = |codec: usize| self.cheaper[point * codecs + codec] & allowed != 0;
        (0..codecs).filter(|&c| allowed >> c & 1 == 1 && !useless(c)).fold(0, |all, c| all | 1 << c)
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
