//! What links are like, and what an end can send to several others at once, or receive from them. Called by
//! [`calibrate`](super::calibrate).
//!
//! Pairs of places are probed first, in rounds of disjoint ones, so that no link takes from another. What several links
//! of an end have in common, its own connection to the network, shows only when they carry something together.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use plan::End;
use wire::control::{LinkFigures, Machine};

use super::places::{self, Place};
use super::{Job, LINK_AGE, Measured, MeasuredLink, MeasuredPort, NobodyLeft, place};
use crate::cluster::NodeInfo;
use crate::control::host_addresses;
use crate::dispatcher::trial;
use crate::node::state::MAX_PROBES;

/// As many links carry something at once to show what the dispatcher can send, and what a node can receive: that takes
/// part in so many probes and no more, and of one before may not have noticed the end.
const MOST_SENT: usize = 16;
const MOST_RECEIVED: usize = MAX_PROBES - 1;

/// Links that carry less than this share together of what each does alone have a connection in common that limits them.
/// Of two measurements of the same link one is some per cent less than the other, and not all bursts begin at once.
const TOGETHER: f64 = 0.8;

/// Two ends of links, each with all ends in the same place: what is true of the first is true of all.
pub(super) struct Pair {
    one: Vec<usize>,
    other: Vec<usize>,
}

impl Pair {
    /// The links both ways between all ends.
    fn links(&self, there: LinkFigures, back: LinkFigures) -> Vec<MeasuredLink> {
        let ends = self.one.iter().flat_map(|&a| self.other.iter().map(move |&b| (a, b)));
        let both = |(a, b)| {
            let (a, b) = (places::end(a), places::end(b));
            [MeasuredLink { from: a, to: b, figures: there }, MeasuredLink { from: b, to: a, figures: back }]
        };
        ends.flat_map(both).collect()
    }
}

/// The figures of a link there and back, or why there are none.
pub(super) type Probed = Result<(LinkFigures, LinkFigures), String>;

/// The addresses under which `to` is reached from a place and nobody else is.
fn ways(from: &Place<'_>, to: &NodeInfo, addresses: &[SocketAddr]) -> Result<Vec<SocketAddr>, String> {
    let ways = places::ways(from, &place(to), addresses);
    let name = &to.description.name;
    let astray = || format!("node `{name}` has no address that leads to it and nowhere else from there");
    if ways.is_empty() { Err(astray()) } else { Ok(ways) }
}

/// Does some things at the same time, each in a thread of its own.
fn at_once<T: Send>(
    count: usize,
    work: &(dyn Fn(usize) -> Result<T, String> + Sync),
) -> Vec<Result<T, String>> {
    std::thread::scope(|scope| {
        let start = |i: usize| {
            std::thread::Builder::new().name("probe".to_owned()).spawn_scoped(scope, move || work(i))
        };
        let threads: Vec<_> = (0..count).map(start).collect();
        let join = |thread: std::io::Result<std::thread::ScopedJoinHandle<'_, _>>| match thread {
            // A panic in there is our own mistake.
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(e) => Err(format!("cannot start a thread: {e}")),
        };
        threads.into_iter().map(join).collect()
    })
}

/// What the connection that links have in common carries, bytes per second, where that limits them: each carried so much
/// `alone`, and so much while all did.
fn shared(alone: &[f64], together: &[f64]) -> Option<f64> {
    let sum: f64 = together.iter().sum();
    // It carries any of them.
    let fastest = alone.iter().copied().fold(0.0, f64::max);
    (sum < TOGETHER * alone.iter().sum::<f64>()).then_some(sum.max(fastest))
}

impl Job<'_> {
    /// Ends that are in the same place, by place. The dispatcher comes first, then the nodes.
    fn sites(&self, own: &Machine) -> Vec<Vec<usize>> {
        if self.options.alike {
            return Vec::new();
        }
        let mut places: Vec<Place<'_>> = self.cluster.nodes().iter().map(place).collect();
        let addresses = host_addresses();
        let is_own = |p: &&Place<'_>| {
            let mut ips = p.addresses.iter();
            *p.machine == *own && ips.all(|ip| ip.is_loopback() || addresses.contains(ip))
        };
        // It accepts no connections; it is where the nodes are that have its addresses.
        let addresses = places.iter().find(is_own).map(|place| place.addresses.clone());
        let addresses = addresses.unwrap_or_else(|| host_addresses().into_iter().collect::<BTreeSet<_>>());
        places.insert(0, Place { machine: own, addresses });
        places::sites(&places)
    }

    /// The pairs of places to probe, in rounds. Ends are numbered with the dispatcher first.
    pub(super) fn pairs(&self, own: &Machine) -> Vec<Vec<Pair>> {
        let sites = self.sites(own);
        let pair = |(a, b): (usize, usize)| Pair { one: sites[a].clone(), other: sites[b].clone() };
        places::rounds(sites.len()).into_iter().map(|round| round.into_iter().map(pair).collect()).collect()
    }

    /// Probes all pairs of a round at the same time, each in one direction after the other.
    pub(super) fn probe_round<'p>(
        &self,
        round: &'p [Pair],
        own: &Machine,
        step: &(dyn Fn() + Sync),
    ) -> Vec<(&'p Pair, Probed)> {
        let probed = at_once(round.len(), &|i| {
            let probed = self.probe_ends(round[i].one[0], round[i].other[0], own);
            step();
            probed
        });
        std::iter::zip(round, probed).collect()
    }

    fn probe_ends(&self, a: usize, b: usize, own: &Machine) -> Probed {
        let key = format!("link between {} and {}", self.end_key(a, own), self.end_key(b, own));
        let now = self.options.now;
        if let Some((at, there, back)) = self.known::<(Duration, LinkFigures, LinkFigures)>(&key)
            && now.checked_sub(at).is_some_and(|age| age <= LINK_AGE)
            && there.check().and(back.check()).is_ok()
        {
            return Ok((there, back));
        }
        let found = match (places::end(a), places::end(b)) {
            (End::Device(_), End::Device(_)) => {
                (self.probe_one_way(a, b, own)?, self.probe_one_way(b, a, own)?)
            }
            // The dispatcher comes first.
            (_, End::Device(b)) => {
                let ways = self.own_ways(b, own)?;
                let there = trial::probe_to(&ways).map_err(|e| e.to_string())?;
                (there, trial::probe_from(&ways).map_err(|e| e.to_string())?)
            }
            (_, End::Dispatcher) => unreachable!("a pair has two ends, and the first is the lower one"),
        };
        self.keep(&key, &(now, found.0, found.1));
        Ok(found)
    }

    /// Probes the link from an end to a node.
    fn probe_one_way(&self, from: usize, to: usize, own: &Machine) -> Result<LinkFigures, String> {
        let nodes = self.cluster.nodes();
        match (places::end(from), places::end(to)) {
            (End::Device(from), End::Device(to)) => {
                let (from, to) = (&nodes[from], &nodes[to]);
                let ways = ways(&place(from), to, &to.description.data_addresses)?;
                trial::probe_between(self.cluster.control(), from, ways)
            }
            (End::Dispatcher, End::Device(to)) => {
                trial::probe_to(&self.own_ways(to, own)?).map_err(|e| e.to_string())
            }
            (_, End::Dispatcher) => unreachable!("nodes do not connect to the dispatcher"),
        }
    }

    /// The addresses under which this process reaches a node.
    fn own_ways(&self, node: usize, own: &Machine) -> Result<Vec<SocketAddr>, String> {
        let node = &self.cluster.nodes()[node];
        let here = Place { machine: own, addresses: host_addresses().into_iter().collect() };
        ways(&here, node, &trial::within_reach(self.cluster.control(), node))
    }

    /// Takes in what was found of the links between the nodes that are still there.
    pub(super) fn take_links(
        &mut self,
        probed: Vec<(&Pair, Probed)>,
        measured: &mut Measured,
    ) -> Result<(), NobodyLeft> {
        let (mut links, mut lost) = (Vec::new(), Vec::new());
        for (pair, probed) in probed {
            match probed {
                Ok((there, back)) => links.extend(pair.links(there, back)),
                Err(reason) => {
                    let (a, b) = (self.end_name(pair.one[0]), self.end_name(pair.other[0]));
                    lost.push((pair, format!("the link between {a} and {b} was not probed: {reason}")));
                }
            }
        }
        let ends = lost.iter().flat_map(|(pair, _)| [pair.one[0], pair.other[0]]);
        // The dispatcher, which comes first, is none.
        let suspects: Vec<usize> = ends.filter_map(|position| position.checked_sub(1)).collect();
        let gone = self.leave_out_gone(&suspects, measured)?;
        let mut positions = 0..;
        measured.nodes.retain(|_| positions.next().is_some_and(|i| !gone.contains(&i)));

        let worst = places::worst(links.iter().map(|link| link.figures));
        let left = |link: MeasuredLink| link.without(&gone);
        measured.links = links.into_iter().filter_map(left).collect();
        for (pair, reason) in lost {
            let links: Vec<MeasuredLink> = pair.links(worst, worst).into_iter().filter_map(left).collect();
            measured.unknown.extend((!links.is_empty()).then_some(reason));
            measured.links.extend(links);
        }
        Ok(())
    }

    /// How many places there are whose connection is probed: with fewer than two others nothing is shared.
    pub(super) fn ports(&self, own: &Machine) -> usize {
        let sites = self.sites(own).len();
        if sites > 2 { sites } else { 0 }
    }

    /// Probes, place by place, what its links carry at once: those from the dispatcher, those to a node. That holds both
    /// ways, and of each end in that place.
    pub(super) fn probe_ports(&self, measured: &mut Measured, own: &Machine, step: &dyn Fn()) {
        let sites = self.sites(own);
        for site in sites.iter().take(self.ports(own)) {
            let others = sites.iter().filter(|other| other[0] != site[0]).map(|other| other[0]);
            let flow = |other: usize| if site[0] == 0 { (site[0], other) } else { (other, site[0]) };
            let mut flows: Vec<(usize, usize, f64)> = others
                .filter_map(|other| {
                    let (from, to) = flow(other);
                    let is_it =
                        |link: &&MeasuredLink| link.from == places::end(from) && link.to == places::end(to);
                    Some((from, to, measured.links.iter().find(is_it)?.figures.bandwidth))
                })
                .collect();
            // The fastest ones fill a connection best.
            flows.sort_by(|a, b| b.2.total_cmp(&a.2));
            flows.truncate(if site[0] == 0 { MOST_SENT } else { MOST_RECEIVED });
            match self.probe_port(&flows, own) {
                Ok(found) => measured.ports.extend(found.into_iter().flat_map(|bandwidth| {
                    site.iter().map(move |&end| MeasuredPort { end: places::end(end), bandwidth })
                })),
                Err(reason) => {
                    let name = self.end_name(site[0]);
                    let unknown = format!("what the links of {name} carry at once was not probed: {reason}");
                    measured.unknown.push(unknown);
                }
            }
            step();
        }
    }

    /// What the connection that these flows, each with its bandwidth alone, have in common carries; `None` if that is no
    /// limit to them.
    fn probe_port(&self, flows: &[(usize, usize, f64)], own: &Machine) -> Result<Option<f64>, String> {
        if flows.len() < 2 {
            return Ok(None);
        }
        let keys = flows.iter().map(|&(from, to, _)| [from, to].map(|end| self.end_key(end, own)));
        let key = format!("links at once: {:?}", keys.collect::<Vec<_>>());
        let now = self.options.now;
        if let Some((at, found)) = self.known::<(Duration, Option<f64>)>(&key)
            && now.checked_sub(at).is_some_and(|age| age <= LINK_AGE)
            && found.is_none_or(|bandwidth| bandwidth.is_finite() && bandwidth >= 1.0)
        {
            return Ok(found);
        }
        let together: Vec<f64> = match flows[0].0 {
            0 => {
                let ways = flows.iter().map(|flow| self.own_ways(flow.1 - 1, own));
                trial::probe_to_all(&ways.collect::<Result<Vec<_>, _>>()?).map_err(|e| e.to_string())?
            }
            _ => {
                let probed = at_once(flows.len(), &|i| self.probe_one_way(flows[i].0, flows[i].1, own));
                let bandwidth = |found: Result<LinkFigures, String>| found.map(|figures| figures.bandwidth);
                probed.into_iter().map(bandwidth).collect::<Result<_, _>>()?
            }
        };
        let alone: Vec<f64> = flows.iter().map(|flow| flow.2).collect();
        let found = shared(&alone, &together);
        tracing::debug!("links that carry {alone:?} bytes/s alone carry {together:?} at once: {found:?}");
        self.keep(&key, &(now, found));
        Ok(found)
    }

    fn end_name(&self, position: usize) -> String {
        match places::end(position) {
            End::Dispatcher => "the dispatcher".to_owned(),
            End::Device(i) => format!("node `{}`", self.cluster.nodes()[i].description.name),
        }
    }

    /// The end without what changes from start to start, such as ports.
    fn end_key(&self, position: usize, own: &Machine) -> String {
        match places::end(position) {
            End::Dispatcher => {
                format!("the dispatcher at {:?}, {}", host_addresses(), own.processor)
            }
            End::Device(i) => {
                let node = &self.cluster.nodes()[i];
                let addresses = place(node).addresses;
                format!("{} at {addresses:?}, {}", node.description.name, node.description.fingerprint())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_carry_less_together_have_something_in_common() {
        for (alone, together, expected) in [
            // A connection as fast as each link; links that are slower than it is.
            (&[10.0, 10.0, 10.0][..], &[3.0, 3.5, 3.5][..], Some(10.0)),
            (&[10.0, 10.0, 10.0], &[9.0, 8.0, 8.0], None),
            (&[10.0, 10.0, 10.0], &[8.0, 7.0, 8.0], Some(23.0)),
            // It carries the fastest of them, whatever the others leave.
            (&[100.0, 10.0, 10.0], &[60.0, 5.0, 5.0], Some(100.0)),
            (&[100.0, 10.0, 10.0], &[90.0, 9.0, 9.0], None),
        ] {
            assert_eq!(shared(alone, together), expected, "{alone:?} {together:?}");
        }
    }

    #[test]
    fn what_is_done_at_once_is_so() {
        let all = std::sync::Barrier::new(3);
        let done = at_once(3, &|i| {
            all.wait();
            if i == 1 { Err("not this one".to_owned()) } else { Ok(i) }
        });
        assert_eq!(done, [Ok(0), Err("not this one".to_owned()), Ok(2)]);
    }
}
