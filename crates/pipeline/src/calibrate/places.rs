//! Who is where: which nodes disturb one another, which links there are to probe, and in what order. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use plan::End;
use wire::control::{LinkFigures, Machine};

/// One end of links, as it describes itself.
pub(super) struct Place<'a> {
    pub(super) machine: &'a Machine,
    pub(super) addresses: BTreeSet<IpAddr>,
}

impl<'a> Place<'a> {
    pub(super) fn new(machine: &'a Machine, addresses: &[SocketAddr]) -> Place<'a> {
        Place { machine, addresses: addresses.iter().map(SocketAddr::ip).collect() }
    }

    /// Whether both share processors: they say so, or, where one of them cannot tell, have an address in common.
    fn same_machine(&self, other: &Place<'_>) -> bool {
        match self.machine.id.is_empty() || other.machine.id.is_empty() {
            true => !self.addresses.is_disjoint(&other.addresses),
            false => self.machine.id == other.machine.id,
        }
    }

    /// Whether what one sends the other stays in memory: the same machine, under the same addresses. Two network
    /// namespaces of one machine are two places, whose link is probed.
    fn same_place(&self, other: &Place<'_>) -> bool {
        self.same_machine(other) && self.addresses == other.addresses
    }
}

/// Positions of `places` by machine: those of one group share its cores.
pub(super) fn machines(places: &[Place<'_>]) -> Vec<Vec<usize>> {
    groups(places, |a, b| a.same_machine(b))
}

/// Positions of `places` by network place: between those of one group there is no link worth the name.
pub(super) fn sites(places: &[Place<'_>]) -> Vec<Vec<usize>> {
    groups(places, |a, b| a.same_place(b))
}

fn groups(places: &[Place<'_>], same: fn(&Place<'_>, &Place<'_>) -> bool) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (i, place) in places.iter().enumerate() {
        match groups.iter_mut().find(|group| same(&places[group[0]], place)) {
            Some(group) => group.push(i),
            None => groups.push(vec![i]),
        }
    }
    groups
}

/// Of the addresses of `to` those under which `from` reaches it and nobody else: an address that the sender has itself,
/// such as that of a bridge which every host has, leads back to the sender's machine. That is right when they share
/// one; even then loopback comes last.
pub(super) fn ways(from: &Place<'_>, to: &Place<'_>, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let together = from.same_machine(to);
    let astray = |a: &&SocketAddr| a.ip().is_loopback() || (!together && from.addresses.contains(&a.ip()));
    let ways: Vec<SocketAddr> = addresses.iter().filter(|a| !astray(a)).copied().collect();
    if ways.is_empty() && together { addresses.to_vec() } else { ways }
}

/// All pairs of `count` players in rounds in which nobody plays twice: the circle method of round-robin tournaments.
pub(super) fn rounds(count: usize) -> Vec<Vec<(usize, usize)>> {
    let seats = count.next_multiple_of(2);
    let player = |seat: usize, round: usize| match seat {
        // The last one keeps his seat, the others move on by one each round.
        seat if seat + 1 == seats => seat,
        seat => (seat + round) % (seats - 1),
    };
    let round = |round: usize| {
        let pairs = (0..seats / 2).map(|seat| (player(seat, round), player(seats - 1 - seat, round)));
        // Whoever is paired with the seat that nobody has pauses.
        pairs.filter(|&(a, b)| a < count && b < count).map(|(a, b)| (a.min(b), a.max(b))).collect()
    };
    (0..seats.saturating_sub(1)).map(round).filter(|pairs: &Vec<_>| !pairs.is_empty()).collect()
}

/// What a link that could not be probed counts as when none could: hardly usable.
const UNKNOWN: LinkFigures = LinkFigures {
    bandwidth: 1e5,
    delay_seconds: 0.0,
    frame_seconds: 0.0,
    send_cpu_seconds: 0.0,
    receive_cpu_seconds: 0.0,
};

/// The worst of some figures, each by itself: what counts for links of which nothing is known but that a probe failed.
pub(super) fn worst(figures: impl Iterator<Item = LinkFigures>) -> LinkFigures {
    let worse = |a: LinkFigures, b: LinkFigures| LinkFigures {
        bandwidth: a.bandwidth.min(b.bandwidth),
        delay_seconds: a.delay_seconds.max(b.delay_seconds),
        frame_seconds: a.frame_seconds.max(b.frame_seconds),
        send_cpu_seconds: a.send_cpu_seconds.max(b.send_cpu_seconds),
        receive_cpu_seconds: a.receive_cpu_seconds.max(b.receive_cpu_seconds),
    };
    figures.reduce(worse).unwrap_or(UNKNOWN)
}

/// The end that a position stands for when the dispatcher comes before the nodes.
pub(super) fn end(position: usize) -> End {
    position.checked_sub(1).map_or(End::Dispatcher, End::Device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_meets_everybody_once_and_nobody_twice_in_a_round() {
        for count in 0..12 {
            let rounds = rounds(count);
            let mut met = BTreeSet::new();
            for pairs in &rounds {
                let playing: BTreeSet<usize> = pairs.iter().flat_map(|&(a, b)| [a, b]).collect();
                assert_eq!(playing.len(), 2 * pairs.len(), "{pairs:?}");
                assert!(pairs.iter().all(|&pair| met.insert(pair)), "{pairs:?} again");
            }
            assert_eq!(met.len(), count * count.saturating_sub(1) / 2, "{count} players");
            assert!(rounds.len() <= count, "{count} players in {} rounds", rounds.len());
        }
    }

    #[test]
    fn machines_and_sites_are_told_apart() {
        let machine = |id: &str| Machine { id: id.to_owned(), ..Machine::default() };
        let (a, b, unknown) = (machine("a"), machine("b"), machine(""));
        let place = |machine, ips: &[&str]| Place {
            machine,
            addresses: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        };
        let places = [
            place(&a, &["10.0.0.1", "127.0.0.1"]),
            place(&b, &["10.0.0.2", "127.0.0.1"]),
            place(&a, &["10.0.0.1", "127.0.0.1"]),
            // The same machine in a network namespace of its own.
            place(&a, &["10.9.0.1", "127.0.0.1"]),
            place(&unknown, &["10.0.0.7"]),
            place(&unknown, &["10.0.0.7"]),
        ];
        assert_eq!(machines(&places), [vec![0, 2, 3], vec![1], vec![4, 5]]);
        assert_eq!(sites(&places), [vec![0, 2], vec![1], vec![3], vec![4, 5]]);
    }

    #[test]
    fn addresses_that_lead_back_to_the_sender_are_no_ways() {
        let machine = |id: &str| Machine { id: id.to_owned(), ..Machine::default() };
        let (a, b) = (machine("a"), machine("b"));
        let sockets = |ips: &[&str]| -> Vec<SocketAddr> {
            ips.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 7)).collect()
        };
        let near = sockets(&["10.0.0.1", "172.17.0.1", "127.0.0.1"]);
        for (machine, addresses, expected) in [
            (&b, &["10.0.0.2", "172.17.0.1", "127.0.0.1"][..], &["10.0.0.2"][..]),
            (&b, &["172.17.0.1", "127.0.0.1"], &[]),
            (&b, &["127.0.0.2"], &[]),
            (&a, &["10.0.0.2", "172.17.0.1", "127.0.0.1"], &["10.0.0.2", "172.17.0.1"]),
            (&a, &["127.0.0.2"], &["127.0.0.2"]),
        ] {
            let addresses = sockets(addresses);
            let found = ways(&Place::new(&a, &near), &Place::new(machine, &addresses), &addresses);
            assert_eq!(found, sockets(expected), "{} {addresses:?}", machine.id);
        }
    }

    #[test]
    fn the_worst_is_so_in_every_respect() {
        let figures = |bandwidth, others: [f64; 4]| {
            let [delay_seconds, frame_seconds, send_cpu_seconds, receive_cpu_seconds] = others;
            LinkFigures { bandwidth, delay_seconds, frame_seconds, send_cpu_seconds, receive_cpu_seconds }
        };
        let known = [figures(9.0, [1.0, 5.0, 1.0, 4.0]), figures(4.0, [3.0, 2.0, 2.0, 3.0])];
        assert_eq!(worst(known.into_iter()), figures(4.0, [3.0, 5.0, 2.0, 4.0]));
        assert_eq!(worst([].into_iter()), UNKNOWN);
    }
}
