//! When advice on codecs is followed: never because of a single look, and never for long if it turns out wrong.
//!
//! Pure: looks in, codecs out. Its time is given by the caller, [`super`].

use std::time::{Duration, Instant};

use plan::{Assignment, Problem};

use crate::advice::{Advice, Chain, Choice, LEAST_GAIN, Observed, advise};

/// What the newest look weighs in a mean.
const NEWEST: f64 = 0.5;

/// What a link has left counts so long.
const MEMORY: Duration = Duration::from_secs(600);

/// Watches one chain.
pub(super) struct Judge {
    problem: Problem,
    /// With the codecs in use, as far as was heard.
    assignment: Assignment,
    /// By link, indices of the problem's codecs.
    choices: Vec<Vec<usize>>,
    /// Since the codecs are what they are.
    mean: Option<Observed>,
    /// Advice of the look before.
    advised: Option<Vec<usize>>,
    /// The last switch, until a look tells what came of it.
    tried: Option<Tried>,
    /// Codecs that links left, with when.
    left: Vec<(usize, usize, Instant)>,
}

struct Tried {
    before: Vec<usize>,
    /// Of the period before.
    unexplained: f64,
}

/// Codecs to use from now on.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Verdict {
    /// By link.
    pub(super) codecs: Vec<usize>,
    /// Seconds between two results until now.
    pub(super) period: f64,
    /// The same as expected.
    pub(super) expected_period: f64,
}

impl Judge {
    pub(super) fn new(problem: Problem, assignment: Assignment, choices: Vec<Vec<usize>>) -> Judge {
        assert_eq!(choices.len(), assignment.codecs.len(), "one list for each link");
        Judge { problem, assignment, choices, mean: None, advised: None, tried: None, left: Vec::new() }
    }

    /// The problem whose codecs are meant.
    pub(super) fn problem(&self) -> &Problem {
        &self.problem
    }

    /// What was seen counts no more: nobody knows how the chain does.
    pub(super) fn forget(&mut self) {
        (self.mean, self.advised, self.tried) = (None, None, None);
    }

    /// Takes in what was seen while these codecs were in use; says what to use instead, if that is better for sure.
    pub(super) fn look(&mut self, codecs: &[usize], seen: &Observed, now: Instant) -> Option<Verdict> {
        if codecs != self.assignment.codecs {
            // Somebody else switched.
            self.forget();
            self.assignment.codecs = codecs.to_vec();
        }
        let mean = self.mean.take().map_or_else(|| seen.clone(), |mean| mean.moved(seen));
        let tried = self.tried.take();
        let advised = self.advised.take();
        let taken_back = tried.and_then(|tried| self.taken_back(&tried, &mean));
        let is_certain = taken_back.is_some();
        let advice = taken_back.or_else(|| self.advise(&mean, now));
        self.mean = Some(mean);
        let Advice { codecs, period: expected_period } = advice?;
        if !is_certain && advised.as_ref() != Some(&codecs) {
            self.advised = Some(codecs);
            return None;
        }
        let period = self.mean.as_ref().expect("set above").period;
        Some(Verdict { codecs, period, expected_period })
    }

    /// Notes that the codecs are now these. The next look has to begin after that.
    pub(super) fn switched(&mut self, codecs: &[usize], now: Instant) {
        let before = std::mem::replace(&mut self.assignment.codecs, codecs.to_vec());
        let unexplained = self.mean.as_ref().map_or(0.0, |mean| {
            let assignment = Assignment { codecs: before.clone(), ..self.assignment.clone() };
            Chain { problem: &self.problem, assignment: &assignment, observed: mean }.unexplained()
        });
        self.forget();
        self.left.retain(|(_, _, left)| now.duration_since(*left) < MEMORY);
        let changed = (0..codecs.len()).filter(|&link| before[link] != codecs[link]);
        self.left.extend(changed.map(|link| (link, before[link], now)));
        self.tried = Some(Tried { before, unexplained });
    }

    fn advise(&self, mean: &Observed, now: Instant) -> Option<Advice> {
        let since = |left: Instant| now.duration_since(left) < MEMORY;
        let left = |link: usize, codec: usize| {
            let times = self.left.iter().filter(|&&(l, c, left)| (l, c) == (link, codec) && since(left));
            Choice { codec, left: times.count() as u32 }
        };
        let choices = self.choices.iter().enumerate();
        let choices: Vec<Vec<Choice>> =
            choices.map(|(link, codecs)| codecs.iter().map(|&codec| left(link, codec)).collect()).collect();
        advise(&self.problem, &self.assignment, mean, &choices)
    }

    /// What was used before a switch, if the chain would be faster with it by as much as a switch has to bring: what no
    /// part accounts for now and nothing accounted for then came with the codecs.
    fn taken_back(&self, tried: &Tried, mean: &Observed) -> Option<Advice> {
        let chain = Chain { problem: &self.problem, assignment: &self.assignment, observed: mean };
        let period = chain.period(&tried.before) + tried.unexplained;
        let gains = period < mean.period * (1.0 - LEAST_GAIN);
        gains.then(|| Advice { codecs: tried.before.clone(), period })
    }
}

impl Observed {
    /// The running mean, with one more look.
    fn moved(self, seen: &Observed) -> Observed {
        let moved = |mean: f64, seen: f64| mean + NEWEST * (seen - mean);
        let all = |mean: &[f64], seen: &[f64]| {
            std::iter::zip(mean, seen).map(|(&mean, &seen)| moved(mean, seen)).collect()
        };
        Observed {
            period: moved(self.period, seen.period),
            compute_seconds: all(&self.compute_seconds, &seen.compute_seconds),
            transfer_seconds: all(&self.transfer_seconds, &seen.transfer_seconds),
            bytes: all(&self.bytes, &seen.bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advice::tests::{HALF, RAW, SLOW, chain, observed};

    const LOOK: Duration = Duration::from_secs(2);

    /// A chain as it really is, in milliseconds for raw frames, and who judges it.
    struct Real {
        judge: Judge,
        now: Instant,
        codecs: Vec<usize>,
        compute: [f64; 2],
        links: [f64; 3],
        /// What encoding `half` takes at each sender, of which the problem knows nothing.
        half_costs: f64,
        random: fastrand::Rng,
    }

    impl Real {
        fn new(compute: [f64; 2], links: [f64; 3]) -> Real {
            let (problem, assignment) = chain([RAW; 3]);
            let judge = Judge::new(problem, assignment, vec![vec![RAW, HALF, SLOW]; 3]);
            let (codecs, random) = (vec![RAW; 3], fastrand::Rng::with_seed(7));
            Real { judge, now: Instant::now(), codecs, compute, links, half_costs: 0.0, random }
        }

        /// Looks so often, every figure off by up to a share; gives the codecs after each switch, with the look's number.
        fn looks(&mut self, looks: usize, noise: f64) -> Vec<(usize, Vec<usize>)> {
            let mut switches = Vec::new();
            for look in 0..looks {
                self.now += LOOK;
                let seen = self.seen(noise);
                if let Some(verdict) = self.judge.look(&self.codecs, &seen, self.now) {
                    assert!(verdict.expected_period < verdict.period, "{verdict:?}");
                    self.judge.switched(&verdict.codecs, self.now);
                    self.codecs = verdict.codecs;
                    switches.push((look, self.codecs.clone()));
                }
            }
            switches
        }

        fn seen(&mut self, noise: f64) -> Observed {
            let codecs = self.codecs.clone();
            let (bytes, encode, decode) = ([1.0, 0.5, 0.25], [0.0, self.half_costs, 3.0], [0.0, 0.0, 1.0]);
            let mut off = |value: f64| value * (1.0 + noise * (2.0 * self.random.f64() - 1.0));
            let links: [f64; 3] = std::array::from_fn(|i| self.links[i] * bytes[codecs[i]]);
            let busy = |i: usize| decode[codecs[i]] + self.compute[i] + encode[codecs[i + 1]];
            let period = links.iter().copied().chain([busy(0), busy(1)]).fold(0.0, f64::max);
            let (compute, transfer) = (self.compute.map(&mut off), links.map(&mut off));
            observed(&codecs, off(period), compute, transfer)
        }
    }

    #[test]
    fn noise_is_no_reason_to_switch() {
        for (what, compute, links) in [
            ("an engine is the limit", [10.0, 9.0], [8.0, 8.0, 1.0]),
            ("a link comes near it", [10.0, 4.0], [1.0, 9.0, 1.0]),
            ("the engines and a codec that costs too much", [10.0, 9.0], [1.0, 1.0, 1.0]),
        ] {
            assert_eq!(Real::new(compute, links).looks(1000, 0.1), [], "{what}");
        }
        // What the engine leaves to gain is less than a tenth, and may be mistaken for more; but not again and again.
        let switches = Real::new([10.0, 4.0], [1.0, 10.5, 1.0]).looks(1000, 0.1);
        assert!(switches.len() <= 1, "{switches:?}");
    }

    #[test]
    fn a_link_that_becomes_slow_switches_once_and_stays() {
        let mut real = Real::new([10.0, 8.0], [2.0, 4.0, 1.0]);
        assert_eq!(real.looks(20, 0.1), []);
        real.links[1] = 40.0;
        // A single look may be an accident, and the one during which it fell is no full one.
        let switches = real.looks(1000, 0.1);
        assert_eq!(switches.len(), 1, "{switches:?}");
        let (look, codecs) = &switches[0];
        assert!((1..=3).contains(look), "after look {look}");
        assert_eq!(codecs, &[RAW, SLOW, RAW]);
    }

    #[test]
    fn one_odd_look_is_no_reason() {
        let mut real = Real::new([10.0, 8.0], [2.0, 4.0, 1.0]);
        for _ in 0..10 {
            real.links[1] = 13.0;
            assert_eq!(real.looks(1, 0.0), []);
            real.links[1] = 4.0;
            assert_eq!(real.looks(5, 0.0), []);
        }
    }

    #[test]
    fn what_does_not_help_is_taken_back_and_left_alone() {
        let mut real = Real::new([8.0, 8.0], [1.0, 12.0, 1.0]);
        real.half_costs = 12.0;
        let switches = real.looks(250, 0.0);
        let codecs: Vec<_> = switches.iter().map(|(_, codecs)| codecs[1]).collect();
        // A third of the period is worth a second try; a third one would have to promise twice as much.
        assert_eq!(codecs, [HALF, RAW, HALF, RAW], "{switches:?}");
    }

    #[test]
    fn a_link_that_comes_and_goes_ends_in_peace_for_a_while() {
        let mut real = Real::new([10.0, 8.0], [2.0, 4.0, 1.0]);
        let mut switches = 0;
        for _ in 0..30 {
            real.links[1] = 40.0;
            switches += real.looks(5, 0.0).len();
            real.links[1] = 4.0;
            switches += real.looks(5, 0.0).len();
        }
        assert!((1..=8).contains(&switches), "{switches} switches in ten minutes");
    }
}
