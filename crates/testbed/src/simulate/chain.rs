//! A chain as events: items go through the stages' threads, queues and links, with the bounds that the product has.
//!
//! Called for rows of experiments and for `defer-testbed simulate`. Pure: no clock, no random number. What it knows that a
//! sum does not: threads share a CPU fairly, every queue is bounded, and so a stage may wait for its neighbours.
//!
//! A host is a node, which receives from each node before it with a thread of its own, computes, and sends; or the
//! dispatcher at place 0, which sends to each replica of the first stage and receives from each of the last with a thread
//! of its own, and computes nothing. It deals items out as the product does. Not
//! modelled: what the system's socket buffers hold, and media that links share. What a host sends to several at once goes
//! one after the other, and so does what it receives.

use std::collections::VecDeque;

use plan::Paths;

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
    /// The stage behind it.
    next: usize,
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

struct Flow {
    now: f64,
    hosts: Vec<Host>,
    wires: Vec<Wire>,
    /// By sending host and by replica of the next stage, the wire.
    ways: Vec<Vec<usize>>,
    paths: Paths,
    /// By item, its path.
    taken: Vec<u32>,
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
        let mut hosts = vec![Host::new(0, chain.result_seconds, last, 0.0, chain.input_seconds, first)];
        for (stage, replicas) in chain.stages.iter().enumerate() {
            let sources = if stage == 0 { 1 } else { counts[stage - 1] };
            hosts.extend(replicas.iter().map(|s| {
                Host::new(stage + 1, s.receive_seconds, sources, s.compute_seconds, s.send_seconds, 1)
            }));
        }
        let shares = |replicas: &Vec<Stage>| replicas.iter().map(|stage| stage.share).collect();
        let paths = Paths::new(chain.stages.iter().map(shares).collect());
        let mut flow = Flow {
            now: 0.0,
            ways: vec![Vec::new(); hosts.len()],
            hosts,
            wires: Vec::new(),
            room: if paths.is_one() { chain.window } else { 2 * chain.window },
            paths,
            taken: Vec::new(),
            items,
            window: chain.window,
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
            let path = self.paths.choose();
            self.hosts[0].computed[self.paths.replica(path, 0)].push_back(item);
            self.taken.push(path);
            self.admissions.push(self.now);
            self.waiting.push_back(false);
            self.on_the_way += 1;
        }
        admits
    }

    fn result(&mut self, item: usize) {
        self.on_the_way -= 1;
        self.paths.done(self.taken[item]);
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
        match &self.ways[place][..] {
            [only] => *only,
            several => several[self.paths.replica(self.taken[item], self.hosts[place].next)],
        }
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

impl Host {
    fn new(next: usize, receive: f64, sources: usize, compute: f64, send: f64, sinks: usize) -> Host {
        Host {
            next,
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
mod tests;
