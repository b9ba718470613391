//! A chain as events: items go through the stages' threads, queues and links, with the bounds that the product has.
//!
//! Called for rows of experiments and for `defer-testbed simulate`. Pure: no clock, no random number. What it knows that a
//! sum does not: threads share a CPU fairly, every queue is bounded, and so a stage may wait for its neighbours.
//!
//! A host is a node with its threads `receive`, `compute` and `send`, or the dispatcher at place 0, which has no
//! `compute`: link *i* leads from host *i* to the next, the last one back to the dispatcher. Items keep their order, so
//! that counts are enough and nothing is named. Not modelled: what the system's socket buffers hold, and media that links
//! share.

use std::collections::VecDeque;

use crate::stream::{median, percentile};

/// Sets of input buffers of a stage: `pipeline::node::stage` has as many.
const BUFFER_SETS: usize = 3;

/// Times closer than this are the same, seconds.
const TICK: f64 = 1e-12;

const RECEIVE: usize = 0;
const COMPUTE: usize = 1;
const SEND: usize = 2;

/// What takes time in a chain, seconds for an item.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Chain {
    /// CPU time of the dispatcher to encode and send inputs.
    pub(crate) input_seconds: f64,
    /// CPU time of the dispatcher to receive and decode results.
    pub(crate) result_seconds: f64,
    pub(crate) stages: Vec<Stage>,
    /// To the first stage, between stages, and back: one more than stages.
    pub(crate) links: Vec<Link>,
    /// Items in the chain at most.
    pub(crate) window: usize,
}

/// Times of the CPU that a stage has to itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Stage {
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
/// Without stages, items or a window, or with another number of links than one more than stages.
pub(crate) fn simulate(chain: &Chain, warm_up: usize, items: usize) -> Simulated {
    assert!(
        !chain.stages.is_empty() && chain.links.len() == chain.stages.len() + 1,
        "a chain with its links"
    );
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
enum Thread {
    Waits,
    /// With so many seconds of CPU time left.
    Works(f64),
    /// Until what follows takes the item.
    Holds,
}

struct Host {
    threads: [Thread; 3],
    /// Seconds of CPU time that each thread takes for an item.
    work: [f64; 3],
    /// Sets of input buffers that nobody uses.
    sets: usize,
    /// Items that have arrived and are not decoded yet.
    arrived: usize,
    /// Items between receiving and computing.
    decoded: usize,
    /// Items between computing and sending.
    computed: usize,
}

struct Wire {
    link: Link,
    /// When the item on it can have left its sender.
    sent: Option<f64>,
    /// When each item that has left arrives.
    arrivals: VecDeque<f64>,
}

struct Flow {
    now: f64,
    hosts: Vec<Host>,
    wires: Vec<Wire>,
    items: usize,
    window: usize,
    admissions: Vec<f64>,
    results: Vec<f64>,
}

impl Flow {
    fn new(chain: &Chain, items: usize) -> Flow {
        let host = |work| Host {
            threads: [Thread::Waits; 3],
            work,
            sets: BUFFER_SETS,
            arrived: 0,
            decoded: 0,
            computed: 0,
        };
        let stage = |s: &Stage| host([s.receive_seconds, s.compute_seconds, s.send_seconds]);
        let dispatcher = host([chain.result_seconds, 0.0, chain.input_seconds]);
        let wire = |&link: &Link| Wire { link, sent: None, arrivals: VecDeque::new() };
        Flow {
            now: 0.0,
            hosts: std::iter::once(dispatcher).chain(chain.stages.iter().map(stage)).collect(),
            wires: chain.links.iter().map(wire).collect(),
            items,
            window: chain.window,
            admissions: Vec::new(),
            results: Vec::new(),
        }
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
                changed |= self.receive(host) | self.compute(host) | self.send(host);
            }
            if !changed {
                return;
            }
        }
    }

    fn admit(&mut self) -> bool {
        let in_flight = self.admissions.len() - self.results.len();
        let admits = in_flight < self.window && self.admissions.len() < self.items;
        if admits {
            self.admissions.push(self.now);
            self.hosts[0].computed += 1;
        }
        admits
    }

    fn receive(&mut self, place: usize) -> bool {
        let encodes = self.wires[(place + self.wires.len() - 1) % self.wires.len()].link.encodes;
        let host = &mut self.hosts[place];
        match host.threads[RECEIVE] {
            // Where nothing encodes, bytes came into a set of their own.
            Thread::Waits if host.arrived > 0 && (place == 0 || !encodes || host.sets > 0) => {
                host.arrived -= 1;
                host.sets -= usize::from(place > 0 && encodes);
                host.threads[RECEIVE] = Thread::Works(host.work[RECEIVE]);
            }
            Thread::Holds if place == 0 => {
                self.results.push(self.now);
                host.threads[RECEIVE] = Thread::Waits;
            }
            Thread::Holds if host.decoded == 0 => {
                host.decoded = 1;
                host.threads[RECEIVE] = Thread::Waits;
            }
            _ => return false,
        }
        true
    }

    fn compute(&mut self, place: usize) -> bool {
        let host = &mut self.hosts[place];
        match host.threads[COMPUTE] {
            Thread::Waits if host.decoded > 0 => {
                host.decoded = 0;
                host.threads[COMPUTE] = Thread::Works(host.work[COMPUTE]);
            }
            Thread::Holds if host.computed == 0 => {
                host.computed = 1;
                host.threads[COMPUTE] = Thread::Waits;
            }
            _ => return false,
        }
        true
    }

    fn send(&mut self, place: usize) -> bool {
        let next = (place + 1) % self.hosts.len();
        let Link { seconds, encodes, .. } = self.wires[place].link;
        let free = self.wires[place].sent.is_none() && self.takes(next, encodes);
        let host = &mut self.hosts[place];
        let work = Thread::Works(host.work[SEND]);
        match host.threads[SEND] {
            Thread::Waits if host.computed > 0 => {
                host.computed -= 1;
                host.threads[SEND] = if encodes { work } else { Thread::Holds };
            }
            Thread::Holds if free => {
                self.wires[place].sent = Some(self.now + seconds);
                // Raw bytes are copied while the link carries them, by the same thread.
                host.threads[SEND] = if encodes { Thread::Waits } else { work };
                self.hosts[next].sets -= usize::from(next > 0 && !encodes);
            }
            _ => return false,
        }
        true
    }

    /// Whether a host has room for what a link would bring. The dispatcher has, for as many as its window.
    fn takes(&self, place: usize, encodes: bool) -> bool {
        let host = &self.hosts[place];
        place == 0 || if encodes { host.arrived == 0 } else { host.sets > 0 }
    }

    /// Goes to the moment at which the next thing ends, and ends what ends then.
    fn advance(&mut self) {
        let step = self.next_end();
        assert!(step.is_finite(), "a chain in which nothing can happen has all its results");
        self.now += step;
        for host in &mut self.hosts {
            host.work_for(step);
        }
        for place in 0..self.wires.len() {
            self.end_transfers(place);
        }
    }

    /// Seconds until then.
    fn next_end(&self) -> f64 {
        let hosts = self.hosts.iter().map(Host::next_end);
        let sent = |place: usize| self.wires[place].sent.filter(|_| self.may_leave(place));
        let sent = (0..self.wires.len()).filter_map(sent);
        let arrivals = self.wires.iter().filter_map(|wire| wire.arrivals.front().copied());
        hosts.chain(sent.chain(arrivals).map(|end| (end - self.now).max(0.0))).fold(f64::INFINITY, f64::min)
    }

    /// Whether an item on a link waits for nothing but the link: raw bytes are all copied.
    fn may_leave(&self, place: usize) -> bool {
        self.wires[place].link.encodes || self.hosts[place].threads[SEND] == Thread::Holds
    }

    fn end_transfers(&mut self, place: usize) {
        let (now, next) = (self.now + TICK, (place + 1) % self.hosts.len());
        let left = self.may_leave(place) && self.wires[place].sent.is_some_and(|sent| sent <= now);
        let wire = &mut self.wires[place];
        if left {
            wire.sent = None;
            wire.arrivals.push_back(self.now + wire.link.delay_seconds);
            if !wire.link.encodes {
                self.hosts[place].threads[SEND] = Thread::Waits;
            }
        }
        while wire.arrivals.front().is_some_and(|arrival| *arrival <= now) {
            wire.arrivals.pop_front();
            self.hosts[next].arrived += 1;
        }
    }
}

impl Host {
    /// How many threads share the CPU.
    fn working(&self) -> f64 {
        self.threads.iter().filter(|thread| matches!(thread, Thread::Works(_))).count() as f64
    }

    fn next_end(&self) -> f64 {
        let left = |thread: &Thread| match thread {
            Thread::Works(left) => left * self.working(),
            _ => f64::INFINITY,
        };
        self.threads.iter().map(left).fold(f64::INFINITY, f64::min)
    }

    fn work_for(&mut self, seconds: f64) {
        let each = seconds / self.working().max(1.0);
        for (i, thread) in self.threads.iter_mut().enumerate() {
            let Thread::Works(left) = *thread else { continue };
            if left - each > TICK {
                *thread = Thread::Works(left - each);
                continue;
            }
            *thread = Thread::Holds;
            // Nobody reads the inputs any more.
            self.sets += usize::from(i == COMPUTE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(receive_seconds: f64, compute_seconds: f64, send_seconds: f64) -> Stage {
        Stage { receive_seconds, compute_seconds, send_seconds }
    }

    fn link(seconds: f64, delay_seconds: f64, encodes: bool) -> Link {
        Link { seconds, delay_seconds, encodes }
    }

    fn chain(stages: &[Stage], links: &[Link], window: usize) -> Chain {
        let (stages, links) = (stages.to_vec(), links.to_vec());
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
            let held = host.threads.iter().filter(|thread| **thread != Thread::Waits).count();
            held + host.decoded + host.computed
        };
        assert_eq!((inside(&flow.hosts[1]), inside(&flow.hosts[2])), (5, 3));
    }
}
