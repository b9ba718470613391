//! A chain as events: items go through the stages' threads, queues and links, with the bounds that the product has.
//!
//! Called for rows of experiments and for `defer-testbed simulate`. Pure: no clock, no random number. What it knows that a
//! sum does not: threads share a CPU fairly, every queue is bounded, and so a stage may wait for its neighbours.
//!
//! A host is a node, which receives from each node before it with a thread of its own, computes, and sends; or the
//! dispatcher at place 0, which sends to each replica of the first stage and receives from each of the last with a thread
//! of its own, and computes nothing. It deals items out as the product does: see `pipeline::dispatcher::paths`. Not
//! modelled: what the system's socket buffers hold, and media that links share. What a host sends to several at once goes
//! one after the other, and so does what it receives.

use std::collections::VecDeque;

use crate::stream::{median, percentile};

/// Sets of input buffers of a stage: `pipeline::node::stage` has as many.
const BUFFER_SETS: usize = 3;

/// Times closer than this are the same, seconds.
const TICK: f64 = 1e-12;

/// What takes time in a chain, seconds for an item.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Chain {
    /// CPU time of the dispatcher to encode and send inputs.
    pub(crate) input_seconds: f64,
    /// CPU time of the dispatcher to receive and decode results.
    pub(crate) result_seconds: f64,
    /// By stage, its replicas.
    pub(crate) stages: Vec<Vec<Stage>>,
    /// To the first stage, between stages, and back: one more than stages.
    pub(crate) links: Vec<Link>,
    /// Items on their way at most; where stages have replicas, as many results again may wait for older ones.
    pub(crate) window: usize,
}

/// Times of the CPU that a stage has to itself on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Stage {
    /// Of the stage's items, those that are planned for this node.
    pub(crate) share: f64,
    /// To receive and decode.
    pub(crate) receive_seconds: f64,
    pub(crate) compute_seconds: f64,
    /// To encode and send.
    pub(crate) send_seconds: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Link {
    /// That it is busy.
    pub(crate) seconds: f64,
    /// That an item takes besides.
    pub(crate) delay_seconds: f64,
    /// Whether it may encode: then further threads move bytes, with a frame's room at each end.
    pub(crate) encodes: bool,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Simulated {
    /// Between two results, mean.
    pub(crate) period_seconds: f64,
    /// From admission to result: median and 99th percentile.
    pub(crate) latency_seconds: f64,
    pub(crate) latency_seconds_p99: f64,
}

/// Streams items through a chain as fast as it takes them: `warm_up` of them, at least one, then `items` that count.
///
/// # Panics
/// Without stages, replicas, items or a window, or with another number of links than one more than stages.
pub(crate) fn simulate(chain: &Chain, warm_up: usize, items: usize) -> Simulated {
    let stages = &chain.stages;
    assert!(!stages.is_empty() && chain.links.len() == stages.len() + 1, "a chain with its links");
    assert!(stages.iter().all(|replicas| !replicas.is_empty()), "each stage runs somewhere");
    assert!(chain.window > 0 && warm_up > 0 && items > 0, "something that flows");
    let mut flow = Flow::new(chain, warm_up + items);
    flow.until(warm_up + items);
    let latencies =
        || std::iter::zip(&flow.results, &flow.admissions).skip(warm_up).map(|(to, from)| to - from);
    Simulated {
        period_seconds: (flow.results[warm_up + items - 1] - flow.results[warm_up - 1]) / items as f64,
        latency_seconds: median(latencies().collect()),
        latency_seconds_p99: percentile(latencies().collect(), 0.99),
    }
}

/// What a thread does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Does {
    Waits,
    /// With so many seconds of CPU time left.
    Works(f64),
    /// Until what follows takes the item.
    Holds,
}

struct Thread {
    /// Seconds of CPU time that it takes for an item.
    work: f64,
    does: Does,
    /// The one that it works on or holds.
    item: usize,
}

struct Host {
    /// By the hosts from which it receives.
    receivers: Vec<Thread>,
    compute: Thread,
    /// One on a node, one for each replica of the first stage at the dispatcher.
    senders: Vec<Thread>,
    /// Sets of input buffers that nobody uses.
    sets: usize,
    /// Items that have arrived and are not decoded yet, by where they came from.
    arrived: Vec<VecDeque<usize>>,
    /// An item between receiving and computing.
    decoded: Option<usize>,
    /// Items that wait for a sender.
    computed: Vec<VecDeque<usize>>,
}

/// From one host to another.
struct Wire {
    from: usize,
    sender: usize,
    to: usize,
    /// Which of the receivers of `to` it leads to.
    source: usize,
    link: Link,
    /// The item on it, and when it can have left its sender.
    sent: Option<(f64, usize)>,
    /// When each item that has left arrives.
    arrivals: VecDeque<(f64, usize)>,
}

/// A node as the dispatcher sees it.
struct Replica {
    share: f64,
    on_the_way: u64,
    given: u64,
}

struct Flow {
    now: f64,
    hosts: Vec<Host>,
    wires: Vec<Wire>,
    /// By sending host and by replica of the next stage, the wire.
    ways: Vec<Vec<usize>>,
    stages: Vec<Vec<Replica>>,
    /// By item, its replica of each stage.
    paths: Vec<Vec<usize>>,
    items: usize,
    window: usize,
    room: usize,
    admissions: Vec<f64>,
    /// Of the items from the oldest without a result on, whether that has arrived.
    waiting: VecDeque<bool>,
    on_the_way: usize,
    /// When results were handed out, in order.
    results: Vec<f64>,
}

impl Thread {
    fn new(work: f64) -> Thread {
        Thread { work, does: Does::Waits, item: 0 }
    }

    fn begin(&mut self, item: usize) {
        (self.does, self.item) = (Does::Works(self.work), item);
    }
}

impl Flow {
    fn new(chain: &Chain, items: usize) -> Flow {
        let counts: Vec<usize> = chain.stages.iter().map(Vec::len).collect();
        let (first, last) = (counts[0], counts[counts.len() - 1]);
        let mut hosts = vec![Host::new(chain.result_seconds, last, 0.0, chain.input_seconds, first)];
        for (stage, replicas) in chain.stages.iter().enumerate() {
            let sources = if stage == 0 { 1 } else { counts[stage - 1] };
            hosts.extend(
                replicas
                    .iter()
                    .map(|s| Host::new(s.receive_seconds, sources, s.compute_seconds, s.send_seconds, 1)),
            );
        }
        let mut flow = Flow {
            now: 0.0,
            ways: vec![Vec::new(); hosts.len()],
            hosts,
            wires: Vec::new(),
            stages: chain.stages.iter().map(|replicas| replicas.iter().map(Replica::of).collect()).collect(),
            paths: Vec::new(),
            items,
            window: chain.window,
            room: if counts.iter().all(|&replicas| replicas == 1) { chain.window } else { 2 * chain.window },
            admissions: Vec::new(),
            waiting: VecDeque::new(),
            on_the_way: 0,
            results: Vec::new(),
        };
        let mut before: Vec<usize> = vec![0];
        let mut start = 1;
        for (&link, replicas) in std::iter::zip(&chain.links, counts.iter().map(Some).chain([None])) {
            let next: Vec<usize> = replicas.map_or(vec![0], |&replicas| (start..start + replicas).collect());
            for (source, &from) in before.iter().enumerate() {
                for (replica, &to) in next.iter().enumerate() {
                    flow.ways[from].push(flow.wires.len());
                    let sender = if from == 0 { replica } else { 0 };
                    flow.wires.push(Wire {
                        from,
                        sender,
                        to,
                        source,
                        link,
                        sent: None,
                        arrivals: VecDeque::new(),
                    });
                }
            }
            start += next.len();
            before = next;
        }
        flow
    }

    /// Goes on until so many results are in.
    fn until(&mut self, results: usize) {
        self.pass_on();
        while self.results.len() < results {
            self.advance();
            self.pass_on();
        }
    }

    /// Whatever can begin now begins.
    fn pass_on(&mut self) {
        loop {
            let mut changed = self.admit();
            for host in 0..self.hosts.len() {
                for source in 0..self.hosts[host].receivers.len() {
                    changed |= self.receive(host, source);
                }
                changed |= self.compute(host);
                for sender in 0..self.hosts[host].senders.len() {
                    changed |= self.send(host, sender);
                }
            }
            if !changed {
                return;
            }
        }
    }

    fn admit(&mut self) -> bool {
        let has_place = self.on_the_way < self.window && self.waiting.len() < self.room;
        let admits = has_place && self.admissions.len() < self.items;
        if admits {
            let item = self.admissions.len();
            let path: Vec<usize> = self.stages.iter_mut().map(|replicas| choose(replicas)).collect();
            self.hosts[0].computed[path[0]].push_back(item);
            self.paths.push(path);
            self.admissions.push(self.now);
            self.waiting.push_back(false);
            self.on_the_way += 1;
        }
        admits
    }

    fn result(&mut self, item: usize) {
        self.on_the_way -= 1;
        for (replicas, &replica) in std::iter::zip(&mut self.stages, &self.paths[item]) {
            replicas[replica].on_the_way -= 1;
        }
        self.waiting[item - self.results.len()] = true;
        while self.waiting.front() == Some(&true) {
            self.waiting.pop_front();
            self.results.push(self.now);
        }
    }

    fn receive(&mut self, place: usize, source: usize) -> bool {
        let into = |wire: &&Wire| wire.to == place && wire.source == source;
        let encodes = self.wires.iter().find(into).expect("each receiver has a link").link.encodes;
        let host = &mut self.hosts[place];
        let receiver = &mut host.receivers[source];
        let item = receiver.item;
        match receiver.does {
            // Where nothing encodes, bytes came into a set of their own.
            Does::Waits if place == 0 || !encodes || host.sets > 0 => {
                let Some(item) = host.arrived[source].pop_front() else { return false };
                host.sets -= usize::from(place > 0 && encodes);
                receiver.begin(item);
            }
            Does::Holds if place == 0 => {
                receiver.does = Does::Waits;
                self.result(item);
            }
            Does::Holds if host.decoded.is_none() => {
                host.decoded = Some(item);
                receiver.does = Does::Waits;
            }
            _ => return false,
        }
        true
    }

    fn compute(&mut self, place: usize) -> bool {
        let host = &mut self.hosts[place];
        match host.compute.does {
            Does::Waits if host.decoded.is_some() => {
                let item = host.decoded.take().expect("looked at above");
                host.compute.begin(item);
            }
            Does::Holds if host.computed[0].is_empty() => {
                host.computed[0].push_back(host.compute.item);
                host.compute.does = Does::Waits;
            }
            _ => return false,
        }
        true
    }

    /// The wire that an item takes from a host.
    fn way(&self, place: usize, item: usize) -> usize {
        // A host knows its stage by the number of hosts before it.
        let mut first = 1;
        let stage = self.stages.iter().position(|replicas| {
            first += replicas.len();
            place > 0 && place < first
        });
        let next = match stage {
            None => self.paths[item][0],
            Some(stage) => self.paths[item].get(stage + 1).copied().unwrap_or(0),
        };
        self.ways[place][next]
    }

    fn send(&mut self, place: usize, sender: usize) -> bool {
        let waiting = self.hosts[place].computed[sender].front().copied();
        match self.hosts[place].senders[sender].does {
            Does::Waits => {
                let Some(item) = waiting else { return false };
                self.hosts[place].computed[sender].pop_front();
                let encodes = self.wires[self.way(place, item)].link.encodes;
                let thread = &mut self.hosts[place].senders[sender];
                thread.begin(item);
                if !encodes {
                    thread.does = Does::Holds;
                }
            }
            Does::Holds => {
                let item = self.hosts[place].senders[sender].item;
                let way = self.way(place, item);
                if !self.is_free(way) {
                    return false;
                }
                let Wire { to, link, .. } = self.wires[way];
                self.wires[way].sent = Some((self.now + link.seconds, item));
                let thread = &mut self.hosts[place].senders[sender];
                // Raw bytes are copied while the link carries them, by the same thread.
                thread.does = if link.encodes { Does::Waits } else { Does::Works(thread.work) };
                self.hosts[to].sets -= usize::from(to > 0 && !link.encodes);
            }
            Does::Works(_) => return false,
        }
        true
    }

    /// Whether a wire can take an item: nothing is on it or on another one at either end, and there is room for what it
    /// brings. The dispatcher has room for as many as its window.
    fn is_free(&self, way: usize) -> bool {
        let Wire { from, to, source, link, .. } = &self.wires[way];
        let busy = |wire: &Wire| wire.sent.is_some() && (wire.from == *from || wire.to == *to);
        let host = &self.hosts[*to];
        let room = if link.encodes { host.arrived[*source].is_empty() } else { host.sets > 0 };
        !self.wires.iter().any(busy) && (*to == 0 || room)
    }

    /// Goes to the moment at which the next thing ends, and ends what ends then.
    fn advance(&mut self) {
        let step = self.next_end();
        assert!(step.is_finite(), "a chain in which nothing can happen has all its results");
        self.now += step;
        for host in &mut self.hosts {
            host.work_for(step);
        }
        for way in 0..self.wires.len() {
            self.end_transfers(way);
        }
    }

    /// Seconds until then.
    fn next_end(&self) -> f64 {
        let hosts = self.hosts.iter().map(Host::next_end);
        let leaving = self.wires.iter().filter(|wire| self.may_leave(wire)).filter_map(|wire| wire.sent);
        let arriving = self.wires.iter().filter_map(|wire| wire.arrivals.front().copied());
        let ends = leaving.chain(arriving).map(|(end, _)| (end - self.now).max(0.0));
        hosts.chain(ends).fold(f64::INFINITY, f64::min)
    }

    /// Whether an item on a link waits for nothing but the link: raw bytes are all copied.
    fn may_leave(&self, wire: &Wire) -> bool {
        wire.link.encodes || self.hosts[wire.from].senders[wire.sender].does == Does::Holds
    }

    fn end_transfers(&mut self, way: usize) {
        let now = self.now + TICK;
        let leaves = self.may_leave(&self.wires[way]);
        let wire = &mut self.wires[way];
        if let Some((_, item)) = wire.sent.take_if(|(sent, _)| leaves && *sent <= now) {
            wire.arrivals.push_back((self.now + wire.link.delay_seconds, item));
            if !wire.link.encodes {
                self.hosts[wire.from].senders[wire.sender].does = Does::Waits;
            }
        }
        while let Some((_, item)) = wire.arrivals.pop_front_if(|(arrival, _)| *arrival <= now) {
            self.hosts[wire.to].arrived[wire.source].push_back(item);
        }
    }
}

impl Replica {
    fn of(stage: &Stage) -> Replica {
        Replica { share: stage.share, on_the_way: 0, given: 0 }
    }
}

/// The replica with the least to do for its share, which an item is given to.
fn choose(replicas: &mut [Replica]) -> usize {
    let to_do = |i: &usize| {
        let Replica { share, on_the_way, given } = &replicas[*i];
        ((on_the_way + 1) as f64 / share, *given as f64 / share)
    };
    let order = |a: &usize, b: &usize| {
        let (a, b) = (to_do(a), to_do(b));
        a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1))
    };
    let least = (0..replicas.len()).min_by(order).expect("each stage runs somewhere");
    replicas[least].on_the_way += 1;
    replicas[least].given += 1;
    least
}

impl Host {
    fn new(receive: f64, sources: usize, compute: f64, send: f64, sinks: usize) -> Host {
        Host {
            receivers: (0..sources).map(|_| Thread::new(receive)).collect(),
            compute: Thread::new(compute),
            senders: (0..sinks).map(|_| Thread::new(send)).collect(),
            sets: BUFFER_SETS,
            arrived: vec![VecDeque::new(); sources],
            decoded: None,
            computed: vec![VecDeque::new(); sinks],
        }
    }

    fn threads(&self) -> impl Iterator<Item = &Thread> {
        self.receivers.iter().chain([&self.compute]).chain(&self.senders)
    }

    /// How many threads share the CPU.
    fn working(&self) -> f64 {
        self.threads().filter(|thread| matches!(thread.does, Does::Works(_))).count() as f64
    }

    fn next_end(&self) -> f64 {
        let working = self.working();
        let left = |thread: &Thread| match thread.does {
            Does::Works(left) => left * working,
            _ => f64::INFINITY,
        };
        self.threads().map(left).fold(f64::INFINITY, f64::min)
    }

    fn work_for(&mut self, seconds: f64) {
        let each = seconds / self.working().max(1.0);
        let computed = self.compute.work_for(each);
        for thread in self.receivers.iter_mut().chain(&mut self.senders) {
            thread.work_for(each);
        }
        // Nobody reads the inputs any more.
        self.sets += usize::from(computed);
    }
}

impl Thread {
    /// Whether it is done with its work then.
    fn work_for(&mut self, seconds: f64) -> bool {
        let Does::Works(left) = self.does else { return false };
        let is_done = left - seconds <= TICK;
        self.does = if is_done { Does::Holds } else { Does::Works(left - seconds) };
        is_done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(receive_seconds: f64, compute_seconds: f64, send_seconds: f64) -> Stage {
        Stage { share: 1.0, receive_seconds, compute_seconds, send_seconds }
    }

    fn link(seconds: f64, delay_seconds: f64, encodes: bool) -> Link {
        Link { seconds, delay_seconds, encodes }
    }

    fn chain(stages: &[Stage], links: &[Link], window: usize) -> Chain {
        let (stages, links) = (stages.iter().map(|&stage| vec![stage]).collect(), links.to_vec());
        Chain { input_seconds: 0.25, result_seconds: 0.5, stages, links, window }
    }

    #[track_caller]
    fn is_about(found: f64, expected: f64, what: &str) {
        assert!((found - expected).abs() < 1e-6 * expected, "{what}: {found}, not {expected}");
    }

    /// One at a time: nothing waits for anything, so that the latency is the sum of all, and the period too.
    #[test]
    fn an_item_alone_takes_the_sum_of_all() {
        for encodes in [false, true] {
            let stages = [stage(1.0, 4.0, 2.0), stage(0.5, 3.0, 0.0)];
            let links = [link(1.0, 0.125, encodes), link(2.0, 0.0, encodes), link(0.5, 0.25, encodes)];
            let found = simulate(&chain(&stages, &links, 1), 1, 5);
            // Raw bytes are copied while they travel: of the two, the longer counts.
            let hidden = if encodes { 0.0 } else { 0.25 + 2.0 };
            let sum = 0.25 + 0.5 + 7.0 + 3.5 + 3.5 + 0.375 - hidden;
            is_about(found.latency_seconds, sum, "latency");
            is_about(found.latency_seconds_p99, sum, "p99");
            is_about(found.period_seconds, sum, "period");
        }
    }

    /// With enough items in the chain the busiest part is never idle, whichever it is.
    #[test]
    fn the_busiest_sets_the_period() {
        let even = [stage(0.5, 2.0, 0.5); 3];
        let slow = [even[0], stage(1.0, 4.0, 2.0), even[2]];
        let fast = [link(0.5, 0.0, true); 4];
        let mut narrow = fast;
        narrow[2].seconds = 9.0;
        for (what, stages, links, period) in [
            ("all alike", even, fast, 3.0),
            ("a stage", slow, fast, 7.0),
            ("a link", slow, narrow, 9.0),
            ("a link that does not encode", even, [link(4.0, 0.0, false); 4], 4.0),
        ] {
            let found = simulate(&chain(&stages, &links, 12), 60, 120).period_seconds;
            // A little more where all are as busy and the chain is still filling, a little less where it empties.
            assert!((0.99 * period..1.005 * period).contains(&found), "{what}: {found}, not {period}");
        }
    }

    /// By Little's law: items in the chain are the rate times what each takes.
    #[test]
    fn what_waits_adds_to_the_latency() {
        let stages = [stage(0.0, 2.0, 0.0); 2];
        for window in [1, 2, 3, 6, 12] {
            let found = simulate(&chain(&stages, &[link(0.5, 0.25, true); 3], window), 60, 120);
            is_about(found.latency_seconds / found.period_seconds, window as f64, "items in the chain");
        }
    }

    /// By hand, in seconds: A computes 1 and B 3, everything else takes no time. B computes item n from 1 + 3n to 4 + 3n.
    /// One item waits in front of B's engine and one is held by its receiver, which is all of its sets; so A's sender
    /// holds the next, one waits for it, and A's engine holds one. Behind A's engine the same again: 9 are in A and B at most.
    #[test]
    fn two_stages_by_hand() {
        let zero = [Link::default(); 3];
        let mut two = chain(&[stage(0.0, 1.0, 0.0), stage(0.0, 3.0, 0.0)], &zero, 100);
        (two.input_seconds, two.result_seconds) = (0.0, 0.0);
        let first = simulate(&two, 1, 1);
        is_about(first.period_seconds, 3.0, "B is never idle");
        // Item 1 was admitted at 0 and left B at 7.
        is_about(first.latency_seconds, 7.0, "latency of item 1");
        let mut flow = Flow::new(&two, 40);
        flow.until(20);
        is_about(flow.now, 61.0, "B ends item 19");
        while flow.next_end() < 0.5 {
            flow.advance();
            flow.pass_on();
        }
        let inside = |host: &Host| {
            let held = host.threads().filter(|thread| thread.does != Does::Waits).count();
            held + usize::from(host.decoded.is_some()) + host.computed[0].len()
        };
        assert_eq!((inside(&flow.hosts[1]), inside(&flow.hosts[2])), (5, 3));
    }

    /// Replicas are as fast as all of them together, and a slow one gets fewer items than its share.
    #[test]
    fn replicas_add_up() {
        let free = [Link::default(); 3];
        for (what, shares, seconds, period) in [
            ("alike", [0.5, 0.5], [4.0, 4.0], 2.0),
            ("unlike, as planned", [0.75, 0.25], [2.0, 6.0], 1.5),
            ("unlike, and nobody knew", [0.5, 0.5], [2.0, 6.0], 1.5),
        ] {
            let replica = |i: usize| Stage { share: shares[i], ..stage(0.0, seconds[i], 0.0) };
            let mut chain = chain(&[stage(0.0, 0.5, 0.0); 2], &free, 8);
            chain.stages[1] = vec![replica(0), replica(1)];
            let found = simulate(&chain, 40, 240).period_seconds;
            assert!((0.98 * period..1.03 * period).contains(&found), "{what}: {found}, not {period}");
        }
    }

    /// Between two stages of two replicas every item takes one link of four, and what a host sends shares its own.
    #[test]
    fn links_between_replicas_share_what_their_ends_can_do() {
        let two = vec![Stage { share: 0.5, ..stage(0.0, 0.5, 0.0) }; 2];
        let mut chain = chain(&[stage(0.0, 0.0, 0.0); 2], &[Link::default(); 3], 12);
        chain.stages = vec![two.clone(), two];
        chain.links[1] = link(2.0, 0.0, true);
        let found = simulate(&chain, 40, 200).period_seconds;
        assert!((0.99..1.05).contains(&found), "two send at once, for 2 s each: {found}");
        chain.links = vec![link(3.0, 0.0, true), Link::default(), Link::default()];
        is_about(simulate(&chain, 40, 200).period_seconds, 3.0, "all through the dispatcher's link");
    }
}
