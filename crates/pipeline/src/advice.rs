//! Which links of a running chain should use another codec, by what its stages and links took lately.
//!
//! Pure: figures in, switches out. Called by the dispatcher's [`adapt`](crate::dispatcher) for every look at a running
//! chain. The plan stays; what a codec makes of a boundary and what it costs is known from before, and what a link
//! carries is taken from what it showed.

use plan::{Assignment, End, Problem};

/// A switch has to lower the period by more than this share of it.
pub(crate) const LEAST_GAIN: f64 = 0.10;

/// Of the period, what stages and links have to account for. Where they do not, something else is the limit, and nobody
/// knows what a codec would do to it.
const LEAST_EXPLAINED: f64 = 0.8;

/// What a chain took for an item, in the mean over some time in which it was never out of items.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Observed {
    /// Seconds between two results.
    pub(crate) period: f64,
    /// By stage: seconds in the engine.
    pub(crate) compute_seconds: Vec<f64>,
    /// By link, from the dispatcher to the first stage on: seconds from a frame's first byte to its last.
    pub(crate) transfer_seconds: Vec<f64>,
    /// By link: bytes of a frame.
    pub(crate) bytes: Vec<f64>,
}

/// A codec that a link may use, as an index of the problem's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) codec: usize,
    /// How often the link has left it lately. What did not stand before has to be worth twice as much each time it is
    /// to come back, so that figures that contradict each other end somewhere.
    pub(crate) left: u32,
}

/// Codecs that make a chain faster.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Advice {
    /// Of each link, as an index of the problem's.
    pub(crate) codecs: Vec<usize>,
    /// Seconds between two results with them.
    pub(crate) period: f64,
}

/// The codecs that lower the period by enough, if there are any.
///
/// # Panics
/// When the assignment is none of the problem's, or the figures or choices are of another chain.
pub(crate) fn advise(
    problem: &Problem,
    assignment: &Assignment,
    observed: &Observed,
    choices: &[Vec<Choice>],
) -> Option<Advice> {
    let chain = Chain { problem, assignment, observed };
    let explained = chain.period(&assignment.codecs);
    if explained < LEAST_EXPLAINED * observed.period {
        return None;
    }
    let unexplained = chain.unexplained();
    let mut levels: Vec<u32> = choices.iter().flatten().map(|choice| choice.left).collect();
    levels.sort_unstable();
    levels.dedup();
    levels.into_iter().find_map(|level| {
        let codecs = chain.best(choices, level);
        let period = chain.period(&codecs) + unexplained;
        let needed = LEAST_GAIN * 2f64.powi(level.min(64) as i32);
        (period < observed.period * (1.0 - needed)).then_some(Advice { codecs, period })
    })
}

/// A chain as it was seen.
pub(crate) struct Chain<'a> {
    pub(crate) problem: &'a Problem,
    /// With the codecs that were in use meanwhile.
    pub(crate) assignment: &'a Assignment,
    pub(crate) observed: &'a Observed,
}

/// Something that is busy with each item.
struct Load {
    seconds: f64,
    /// The links whose codecs make a difference to it.
    links: [usize; 2],
}

impl Chain<'_> {
    /// Seconds of the period that no stage and no link accounts for: expected to stay, whatever the codecs.
    pub(crate) fn unexplained(&self) -> f64 {
        (self.observed.period - self.period(&self.assignment.codecs)).max(0.0)
    }

    /// Seconds that the busiest part takes for an item with these codecs.
    pub(crate) fn period(&self, codecs: &[usize]) -> f64 {
        self.loads(codecs)[0].seconds
    }

    /// Codecs with the shortest period that changing one link after the other finds, each because of what is the limit
    /// then, among those that were left at most so often.
    fn best(&self, choices: &[Vec<Choice>], level: u32) -> Vec<usize> {
        let mut codecs = self.assignment.codecs.clone();
        // Each change makes the sorted loads smaller, so this ends.
        while let Some((link, codec)) = self.improvement(&codecs, choices, level) {
            codecs[link] = codec;
        }
        self.spared(codecs, choices, level)
    }

    /// The same period with less to do: no change that it does not need, and of several the one with the least work.
    fn spared(&self, mut codecs: Vec<usize>, choices: &[Vec<Choice>], level: u32) -> Vec<usize> {
        let period = self.period(&codecs);
        for (link, &now) in self.assignment.codecs.iter().enumerate() {
            let work = |codec: usize| {
                let mut changed = codecs.clone();
                changed[link] = codec;
                let loads = self.loads(&changed);
                (loads[0].seconds <= period).then(|| loads.iter().map(|load| load.seconds).sum::<f64>())
            };
            let others = choices[link].iter().filter(|choice| choice.left <= level);
            let others = others.filter_map(|choice| Some((choice.codec, work(choice.codec)?)));
            let least = others.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(codec, _)| codec);
            codecs[link] = work(now).map(|_| now).or(least).unwrap_or(codecs[link]);
        }
        codecs
    }

    /// The change around the busiest part that makes the loads smallest, the largest load first: of two links that are
    /// the limit together, each has to change before the period does.
    fn improvement(&self, codecs: &[usize], choices: &[Vec<Choice>], level: u32) -> Option<(usize, usize)> {
        let mut best = self.loads(codecs);
        let mut change = None;
        for link in best[0].links {
            for choice in choices[link].iter().filter(|choice| choice.left <= level) {
                let mut changed = codecs.to_vec();
                changed[link] = choice.codec;
                let loads = self.loads(&changed);
                if is_smaller(&loads, &best) {
                    (best, change) = (loads, Some((link, choice.codec)));
                }
            }
        }
        change
    }

    /// The largest first.
    fn loads(&self, codecs: &[usize]) -> Vec<Load> {
        let last = codecs.len() - 1;
        let encode =
            |link: usize| self.cost(self.end(link), codecs[link]).encode_seconds * self.raw_bytes(link);
        let decode = |link: usize| self.decode_seconds(link, codecs[link]);
        let stages = self.observed.compute_seconds.iter().enumerate();
        let stages = stages
            .map(|(i, compute)| Load { seconds: decode(i) + compute + encode(i + 1), links: [i, i + 1] });
        let links = codecs.iter().enumerate();
        let links = links.map(|(i, &codec)| Load { seconds: self.transfer_seconds(i, codec), links: [i; 2] });
        let dispatcher = Load { seconds: encode(0) + decode(last), links: [0, last] };
        let mut loads: Vec<Load> = stages.chain(links).chain([dispatcher]).collect();
        loads.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        loads
    }

    /// What the link takes for the bytes that a codec makes, by what it takes for those of the codec in use. More bytes
    /// than now take no less than was known before: an idle link's figures say little, as its frames wait in buffers.
    fn transfer_seconds(&self, link: usize, codec: usize) -> f64 {
        let now = self.assignment.codecs[link];
        let bytes = |codec: usize| self.problem.codecs[codec].bytes[self.boundary(link)] as f64;
        let share = if bytes(now) > 0.0 { bytes(codec) / bytes(now) } else { 1.0 };
        let seen = self.observed.transfer_seconds[link];
        if share <= 1.0 {
            return seen * share;
        }
        let known = self.problem.links.get(self.end(link), self.end(link + 1));
        (seen * share).max(self.observed.bytes[link] * share / known.bandwidth)
    }

    fn decode_seconds(&self, link: usize, codec: usize) -> f64 {
        self.cost(self.end(link + 1), codec).decode_seconds * self.raw_bytes(link)
    }

    fn cost(&self, end: End, codec: usize) -> plan::CodecCost {
        let codec = &self.problem.codecs[codec];
        match end {
            End::Dispatcher => codec.dispatcher,
            End::Device(device) => codec.devices[device],
        }
    }

    /// What lies along the chain: the dispatcher, the stages, and the dispatcher again.
    fn end(&self, position: usize) -> End {
        let stage = position.checked_sub(1).and_then(|stage| self.assignment.stages.get(stage));
        stage.map_or(End::Dispatcher, |stage| End::Device(stage.devices[0]))
    }

    fn boundary(&self, link: usize) -> usize {
        self.assignment.stages.get(link).map_or(self.problem.units.len(), |stage| stage.units.start)
    }

    fn raw_bytes(&self, link: usize) -> f64 {
        self.problem.boundaries[self.boundary(link)].bytes as f64
    }
}

/// Whether the first part in which two chains differ takes clearly less; loads are sorted.
fn is_smaller(loads: &[Load], others: &[Load]) -> bool {
    let mut pairs = std::iter::zip(loads, others).map(|(a, b)| (a.seconds, b.seconds));
    pairs.find(|(a, b)| (a - b).abs() > 1e-9 * b.abs()).is_some_and(|(a, b)| a < b)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use plan::{Boundary, Codec, CodecCost, Device, Link, Placement, Queues, Resources, Unit};

    /// Codecs: raw, half the bytes at no cost, a quarter at 3 ms to encode and 1 ms to decode.
    pub(crate) const RAW: usize = 0;
    pub(crate) const HALF: usize = 1;
    pub(crate) const SLOW: usize = 2;

    /// Two devices with a unit each; 1000 bytes at each of the three boundaries; links of 1 MB a second.
    pub(crate) fn chain(codecs: [usize; 3]) -> (Problem, Assignment) {
        let unit = || Unit { seconds: 0.001, weight_bytes: 0, activation_bytes: 0 };
        let boundaries = vec![Boundary { bytes: 1000, tensors: 1 }; 3];
        let devices = vec![Device::of_speed("a", 1.0), Device::of_speed("b", 1.0)];
        let mut resources = Resources::on_free_links(devices);
        resources.links = plan::Links::uniform(2, Link { bandwidth: 1e6, ..Link::FREE });
        let mut problem = Problem::new(vec![unit(), unit()], boundaries, Queues::default(), resources);
        let codec = |name: &str, bytes, encode_seconds, decode_seconds| {
            let cost = CodecCost { encode_seconds, decode_seconds };
            Codec {
                name: name.into(),
                bytes: vec![bytes; 3],
                dispatcher: cost,
                devices: vec![cost; 2],
                copies: 0,
            }
        };
        problem.codecs.push(codec("half", 500, 0.0, 0.0));
        problem.codecs.push(codec("slow", 250, 3e-6, 1e-6));
        let stage = |i: usize| Placement { devices: vec![i], units: i..i + 1 };
        (problem, Assignment { stages: vec![stage(0), stage(1)], codecs: codecs.to_vec() })
    }

    /// A chain that takes so many milliseconds: between results, to compute, to transfer.
    pub(crate) fn observed(codecs: &[usize], period: f64, compute: [f64; 2], transfer: [f64; 3]) -> Observed {
        let seconds = |ms: &[f64]| ms.iter().map(|ms| ms / 1e3).collect();
        Observed {
            period: period / 1e3,
            compute_seconds: seconds(&compute),
            transfer_seconds: seconds(&transfer),
            bytes: codecs.iter().map(|&codec| [1000.0, 500.0, 250.0][codec]).collect(),
        }
    }

    /// What is to change, when the links may use all three codecs, `half` having been left so often.
    fn advised(
        codecs: [usize; 3],
        period: f64,
        compute: [f64; 2],
        transfer: [f64; 3],
        left: u32,
    ) -> Vec<(usize, usize)> {
        let (problem, assignment) = chain(codecs);
        let observed = observed(&codecs, period, compute, transfer);
        let choices =
            [(RAW, 0), (HALF, left), (SLOW, 0)].map(|(codec, left)| Choice { codec, left }).to_vec();
        let Some(advice) = advise(&problem, &assignment, &observed, &vec![choices; 3]) else { return vec![] };
        assert!(advice.period < observed.period, "{advice:?}");
        advice.codecs.into_iter().enumerate().filter(|&(link, codec)| codec != codecs[link]).collect()
    }

    #[test]
    fn links_switch_when_the_period_falls_by_more_than_a_tenth() {
        let raw = [RAW; 3];
        for (what, codecs, period, compute, transfer, left, switches) in [
            ("the engines are the limit", raw, 10.0, [10.0, 4.0], [5.0, 5.0, 1.0], 0, vec![]),
            ("one link is the limit", raw, 10.0, [5.0, 4.0], [1.0, 10.0, 1.0], 0, vec![(1, HALF)]),
            ("it is by far", raw, 40.0, [1.0, 1.0], [1.0, 40.0, 1.0], 0, vec![(1, SLOW)]),
            ("two links are", raw, 10.0, [1.0, 1.0], [10.0, 10.0, 1.0], 0, vec![(0, HALF), (1, HALF)]),
            ("the engine is close behind", raw, 10.0, [9.5, 4.0], [1.0, 10.0, 1.0], 0, vec![]),
            ("a tenth is not enough", raw, 10.0, [9.05, 4.0], [1.0, 10.0, 1.0], 0, vec![]),
            ("a little more is", raw, 10.0, [8.9, 4.0], [1.0, 10.0, 1.0], 0, vec![(1, HALF)]),
            ("not if as much is unexplained", raw, 10.4, [8.9, 4.0], [1.0, 10.0, 1.0], 0, vec![(1, HALF)]),
            ("less is unexplained", raw, 12.0, [8.9, 4.0], [1.0, 10.0, 1.0], 0, vec![]),
            ("something else is the limit", raw, 20.0, [1.0, 1.0], [1.0, 10.0, 1.0], 0, vec![]),
            ("a codec is the limit", [RAW, SLOW, RAW], 11.0, [8.0, 1.0], [1.0, 1.5, 1.0], 0, vec![(1, HALF)]),
            ("it costs nothing in truth", [RAW, SLOW, RAW], 8.5, [8.0, 1.0], [1.0, 1.5, 1.0], 0, vec![]),
            ("nothing was seen", raw, 0.0, [0.0, 0.0], [0.0; 3], 0, vec![]),
            ("it was left once", raw, 10.0, [8.5, 8.5], [1.0, 10.0, 1.0], 1, vec![]),
            ("and is worth it", raw, 10.0, [7.9, 7.9], [1.0, 10.0, 1.0], 1, vec![(1, HALF)]),
            ("it was left often", raw, 10.0, [1.0, 7.0], [1.0, 10.0, 1.0], 4, vec![(1, SLOW)]),
        ] {
            assert_eq!(advised(codecs, period, compute, transfer, left), switches, "{what}");
        }
    }

    #[test]
    fn more_bytes_are_not_sent_on_the_word_of_an_idle_link() {
        let (problem, assignment) = chain([RAW, SLOW, RAW]);
        let observed = observed(&assignment.codecs, 5.0, [0.2, 0.1], [0.0; 3]);
        let chain = Chain { problem: &problem, assignment: &assignment, observed: &observed };
        // A millisecond by what was known, although nothing was seen of the link.
        assert!((chain.transfer_seconds(1, RAW) - 1e-3).abs() < 1e-12);
        assert_eq!(chain.transfer_seconds(1, SLOW), 0.0);
    }
}
