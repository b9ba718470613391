//! What stages and links cost: the one place where the cost model is written down.
//!
//! The optimiser and the predictor both ask here, and add up in the same order, so that a plan is worth exactly what
//! was promised.

use std::ops::Range;

use crate::error::PlanError;
use crate::{End, Problem, Queues, check};

type OnMedium = Box<dyn Fn(End, End) -> bool>;

/// Sums taken in another order may differ by this share.
pub(crate) const ROUNDING: f64 = 1e-9;

/// A checked problem with the costs of every range of units.
pub(crate) struct Costs<'a> {
    pub problem: &'a Problem,
    /// By first unit, then by length - 1: on a device of speed 1.
    ranges: Vec<Vec<RangeCost>>,
    /// By device with times of its own: by first unit, then by length - 1.
    own: Vec<Option<Vec<Vec<f64>>>>,
    dispatcher: Team,
    /// By medium: whether a link is on it.
    media: Vec<OnMedium>,
    /// Of what crosses the boundary before a stage, and the one behind it: what its queues hold, and what decoding and
    /// encoding take.
    copies: Queues,
    most_queue_bytes: u64,
}

#[derive(Clone, Copy)]
struct RangeCost {
    seconds: f64,
    weight_bytes: u64,
    activation_bytes: u64,
}

/// Those at one end of a hop, with the share of items that each has: the replicas of a stage, or the dispatcher.
/// Items are dealt out in proportion to the devices' speed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Team {
    pub members: Vec<Member>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Member {
    pub end: End,
    /// Of all items, 0 to 1.
    pub share: f64,
}

/// What lies between two teams.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hop {
    /// What may be the bottleneck; those that never are have been left out.
    lines: Vec<Line>,
    /// Mean over all items.
    latency: Linear,
    pub joules_per_byte: f64,
    /// By medium: airtime.
    media: Vec<Linear>,
}

/// A link, or all links of one end together.
#[derive(Clone, Copy, Debug)]
struct Line {
    /// Of all items.
    share: f64,
    seconds: Linear,
}

/// Seconds for a number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Linear {
    per_byte: f64,
    fixed: f64,
}

impl Linear {
    fn of(self, bytes: f64) -> f64 {
        bytes * self.per_byte + self.fixed
    }
}

impl Hop {
    /// The longest time that a link, or an end's links together, are busy per item of the pipeline.
    pub(crate) fn load(&self, bytes: f64) -> f64 {
        self.lines.iter().map(|line| line.share * line.seconds.of(bytes)).fold(0.0, f64::max)
    }

    /// Seconds from the first byte sent to the last received, mean over the items.
    pub(crate) fn latency(&self, bytes: f64) -> f64 {
        self.latency.of(bytes)
    }

    /// Airtime per item of the pipeline in a medium.
    pub(crate) fn airtime(&self, medium: usize, bytes: f64) -> f64 {
        self.media[medium].of(bytes)
    }

    fn add_line(&mut self, line: Line) {
        let covers = |a: &Line, b: &Line| {
            a.share >= b.share
                && a.seconds.per_byte >= b.seconds.per_byte
                && a.seconds.fixed >= b.seconds.fixed
        };
        if !self.lines.iter().any(|other| covers(other, &line)) {
            self.lines.retain(|other| !covers(&line, other));
            self.lines.push(line);
        }
    }
}

impl<'a> Costs<'a> {
    pub(crate) fn new(problem: &'a Problem) -> Result<Costs<'a>, PlanError> {
        check::problem(problem)?;
        let ranges = (0..problem.units.len()).map(|first| ranges_from(problem, first)).collect();
        let sums = |seconds: &Vec<f64>| (0..seconds.len()).map(|first| sums(&seconds[first..])).collect();
        let own = problem.devices.iter().map(|device| device.unit_seconds.as_ref().map(sums)).collect();
        let dispatcher = Team { members: vec![Member { end: End::Dispatcher, share: 1.0 }] };
        let most_bytes = problem.boundaries.iter().map(|b| b.bytes).max().unwrap_or(0);
        let copies = copies(problem);
        let most_queue_bytes = copies.inputs.saturating_add(copies.outputs).saturating_mul(most_bytes);
        let on = |medium: &crate::Medium| Box::new(medium.lookup(problem.devices.len())) as OnMedium;
        let media = problem.media.iter().map(on).collect();
        Ok(Costs { problem, ranges, own, dispatcher, media, copies, most_queue_bytes })
    }

    /// The boundary behind the last unit.
    pub(crate) fn end(&self) -> usize {
        self.problem.units.len()
    }

    pub(crate) fn dispatcher(&self) -> &Team {
        &self.dispatcher
    }

    /// The replicas of a stage, in this order.
    pub(crate) fn team(&self, devices: &[usize]) -> Team {
        let rates: Vec<f64> = devices.iter().map(|&device| self.rate(device)).collect();
        // The same sum for devices that are alike, whichever comes first.
        let mut sorted = rates.clone();
        sorted.sort_by(f64::total_cmp);
        let total: f64 = sorted.iter().sum();
        let share = |rate: f64| if devices.len() == 1 { 1.0 } else { rate / total };
        let member = |(&device, rate)| Member { end: End::Device(device), share: share(rate) };
        Team { members: devices.iter().zip(rates).map(member).collect() }
    }

    /// Whole models per second, or the speed where a model costs nothing.
    fn rate(&self, device: usize) -> f64 {
        match self.compute_seconds(device, &(0..self.end())) {
            seconds if seconds > 0.0 => 1.0 / seconds,
            _ => self.problem.devices[device].speed,
        }
    }

    /// Time that a device computes these units.
    pub(crate) fn compute_seconds(&self, device: usize, units: &Range<usize>) -> f64 {
        match &self.own[device] {
            Some(own) => own[units.start][units.len() - 1],
            None => self.range(units).seconds / self.problem.devices[device].speed,
        }
    }

    /// Time of one end to encode and send what crosses a boundary, with what its computation takes longer for it.
    pub(crate) fn send_seconds(&self, end: End, boundary: usize, codec: usize) -> f64 {
        self.moving_seconds(end, boundary, codec, self.problem.codecs[codec].cost(end).encode_seconds)
    }

    /// Time of one end to receive and decode what crosses a boundary, with what its computation takes longer for it.
    pub(crate) fn receive_seconds(&self, end: End, boundary: usize, codec: usize) -> f64 {
        self.moving_seconds(end, boundary, codec, self.problem.codecs[codec].cost(end).decode_seconds)
    }

    fn moving_seconds(&self, end: End, boundary: usize, codec: usize, coding_per_byte: f64) -> f64 {
        let host = self.problem.host(end);
        self.raw_bytes(boundary) * (coding_per_byte + host.seconds_per_tensor_byte)
            + (self.bytes(boundary, codec) * host.seconds_per_byte + host.seconds_per_frame)
    }

    /// Time that one member is busy with an item that is its own.
    pub(crate) fn busy_seconds(&self, end: End, units: &Range<usize>, codecs: [usize; 2]) -> f64 {
        let End::Device(device) = end else { return self.dispatcher_seconds(codecs) };
        self.compute_seconds(device, units)
            + (self.receive_seconds(end, units.start, codecs[0])
                + self.send_seconds(end, units.end, codecs[1]))
    }

    /// Time that the dispatcher is busy per item, with the codecs of the first and the last link.
    pub(crate) fn dispatcher_seconds(&self, [first, last]: [usize; 2]) -> f64 {
        self.send_seconds(End::Dispatcher, 0, first) + self.receive_seconds(End::Dispatcher, self.end(), last)
    }

    /// The time that an item is in a stage, mean over the items.
    pub(crate) fn stage_latency(&self, team: &Team, units: &Range<usize>, codecs: [usize; 2]) -> f64 {
        team.members.iter().map(|m| m.share * self.busy_seconds(m.end, units, codecs)).sum()
    }

    /// The energy of a stage per item above that of idle devices.
    pub(crate) fn stage_joules(&self, team: &Team, units: &Range<usize>, codecs: [usize; 2]) -> f64 {
        let joules = |m: &Member| m.share * self.busy_seconds(m.end, units, codecs) * self.extra_watts(m.end);
        team.members.iter().map(joules).sum()
    }

    /// Power of an end that computes, above that of an idle one.
    pub(crate) fn extra_watts(&self, end: End) -> f64 {
        let host = self.problem.host(end);
        (host.busy_watts - host.idle_watts).max(0.0)
    }

    pub(crate) fn idle_watts(&self, team: &Team) -> f64 {
        team.members.iter().map(|m| self.problem.host(m.end).idle_watts).sum()
    }

    /// Memory of a stage on a device. What encoding and decoding take counts as the most that any of the problem's codecs
    /// takes, not as what the plan's own do: its links may be switched to any of them while it runs, and which units a
    /// device has the memory for is the same for all codecs, so that the search may decide it before them.
    pub(crate) fn memory_bytes(&self, device: usize, units: &Range<usize>) -> u64 {
        let copies =
            |count: u64, boundary: usize| count.saturating_mul(self.problem.boundaries[boundary].bytes);
        self.model_bytes(device, units)
            .saturating_add(copies(self.copies.inputs, units.start))
            .saturating_add(copies(self.copies.outputs, units.end))
    }

    /// Memory of a stage without what its boundaries take: what only grows with the range.
    pub(crate) fn model_bytes(&self, device: usize, units: &Range<usize>) -> u64 {
        let RangeCost { weight_bytes, activation_bytes, .. } = *self.range(units);
        let engine_bytes = self.problem.devices[device].engine_bytes;
        weight_bytes.saturating_add(activation_bytes).saturating_add(engine_bytes)
    }

    /// Memory of a stage that its devices do not have, the largest of theirs.
    pub(crate) fn excess_bytes(&self, team: &Team, units: &Range<usize>) -> u64 {
        let excess = |m: &Member| match m.end {
            End::Device(device) => self.excess_of(device, self.memory_bytes(device, units)),
            End::Dispatcher => 0,
        };
        team.members.iter().map(excess).max().unwrap_or(0)
    }

    /// Whether a stage of these units exceeds a limit that every longer one exceeds as well.
    pub(crate) fn grows_beyond(
        &self,
        team: &Team,
        units: &Range<usize>,
        period: f64,
        excess_bytes: u64,
    ) -> bool {
        team.members.iter().any(|m| match m.end {
            End::Device(device) => {
                m.share * self.compute_seconds(device, units) > period
                    || self.excess_of(device, self.model_bytes(device, units)) > excess_bytes
            }
            End::Dispatcher => false,
        })
    }

    /// Whether a member has the memory for these units with queues and codecs of so many bytes.
    pub(crate) fn fits(&self, member: &Member, units: &Range<usize>, excess_bytes: u64, queues: u64) -> bool {
        let End::Device(device) = member.end else { return true };
        self.excess_of(device, self.model_bytes(device, units).saturating_add(queues)) <= excess_bytes
    }

    /// What the queues and codecs of any stage take at most.
    pub(crate) fn queue_bytes_at_most(&self) -> u64 {
        self.most_queue_bytes
    }

    /// How many of these bytes a device does not have.
    pub(crate) fn excess_of(&self, device: usize, bytes: u64) -> u64 {
        self.problem.devices[device].memory_bytes.map_or(0, |limit| bytes.saturating_sub(limit))
    }

    /// What lies between two teams.
    pub(crate) fn hop(&self, from: &Team, to: &Team) -> Hop {
        let mut hop = Hop { media: vec![Linear::default(); self.problem.media.len()], ..Hop::default() };
        for a in &from.members {
            for b in &to.members {
                let link = self.problem.links.get(a.end, b.end);
                let seconds = Linear { per_byte: 1.0 / link.bandwidth, fixed: link.frame_seconds };
                let share = a.share * b.share;
                hop.add_line(Line { share, seconds });
                hop.latency.per_byte += share * seconds.per_byte;
                hop.latency.fixed += share * (seconds.fixed + link.delay);
                hop.joules_per_byte += share * link.joules_per_byte;
                for (on_medium, airtime) in self.media.iter().zip(&mut hop.media) {
                    if on_medium(a.end, b.end) {
                        airtime.per_byte += share * seconds.per_byte;
                        airtime.fixed += share * seconds.fixed;
                    }
                }
            }
        }
        for member in from.members.iter().chain(&to.members) {
            let per_byte = 1.0 / self.problem.host(member.end).bandwidth;
            if per_byte > 0.0 {
                hop.add_line(Line { share: member.share, seconds: Linear { per_byte, fixed: 0.0 } });
            }
        }
        hop
    }

    /// Bytes that cross a boundary as they travel.
    pub(crate) fn bytes(&self, boundary: usize, codec: usize) -> f64 {
        self.problem.codecs[codec].bytes[boundary] as f64
    }

    fn raw_bytes(&self, boundary: usize) -> f64 {
        self.problem.boundaries[boundary].bytes as f64
    }

    fn range(&self, units: &Range<usize>) -> &RangeCost {
        &self.ranges[units.start][units.len() - 1]
    }

    /// By boundary: seconds of the units behind it on a device of speed 1.
    pub(crate) fn seconds_behind(&self) -> Vec<f64> {
        let mut behind: Vec<f64> = self.ranges.iter().map(|from| from[from.len() - 1].seconds).collect();
        behind.push(0.0);
        behind
    }

    /// How many times faster than a device of speed 1 a device is at most, on any unit.
    pub(crate) fn top_speed(&self, device: usize) -> f64 {
        let device = &self.problem.devices[device];
        let Some(own) = &device.unit_seconds else { return device.speed };
        let factor = |(unit, &own): (&crate::Unit, &f64)| match unit.seconds {
            0.0 => 0.0,
            seconds => seconds / own.abs(),
        };
        self.problem.units.iter().zip(own).map(factor).fold(0.0, f64::max)
    }
}

/// How often a stage holds what crosses the boundary before it, and the one behind it.
fn copies(problem: &Problem) -> Queues {
    let coding = problem.codecs.iter().map(|codec| codec.copies).max().unwrap_or(0);
    let Queues { inputs, outputs } = problem.queues;
    Queues { inputs: inputs.saturating_add(coding), outputs: outputs.saturating_add(coding) }
}

/// The costs of all ranges that begin at `first`. Summed in order rather than as differences of running
/// totals: equal units then make exactly equal stages, wherever they stand.
fn ranges_from(problem: &Problem, first: usize) -> Vec<RangeCost> {
    let start = RangeCost { seconds: 0.0, weight_bytes: 0, activation_bytes: 0 };
    let grow = |sum: &mut RangeCost, unit: &crate::Unit| {
        sum.seconds += unit.seconds;
        sum.weight_bytes = sum.weight_bytes.saturating_add(unit.weight_bytes);
        sum.activation_bytes = sum.activation_bytes.max(unit.activation_bytes);
        Some(*sum)
    };
    problem.units[first..].iter().scan(start, grow).collect()
}

fn sums(values: &[f64]) -> Vec<f64> {
    let grow = |sum: &mut f64, value: &f64| {
        *sum += value;
        Some(*sum)
    };
    values.iter().scan(0.0, grow).collect()
}
