//! How long something takes, with a stated confidence: repeats until its interval is narrow.
//!
//! Called by the profiler and by nodes that time a stage.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use engine::{Outputs, RunError, Session};
use tensor::TensorView;

use wire::control::{is_stopped, sustained_seconds};

use crate::traffic::Traffic;
use crate::{machine, memory};

/// How sure it is that a time lies within its interval.
pub const CONFIDENCE: f64 = 0.9;

/// Repeats end when the interval is this narrow on either side, as a share of the time.
const WANTED_SHARE: f64 = 0.02;

/// A process that is stopped again and again, by a CPU quota, is watched for so long at least: the first and the last
/// stop are not whole. It has few runs in a second, so there is time for more.
const TIME_OF_STOPPED: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3);

/// Stops of a quota are no longer: that is the period for which Linux deals out quotas, unless told otherwise, and
/// containers have it.
const LONGEST_STOP: f64 = 0.1;

/// With fewer runs not even the smallest and the largest enclose the median with [`CONFIDENCE`].
const MIN_RUNS: usize = 5;

/// Runs that narrow the interval no more are given up after this many, if they took long enough.
const MAX_RUNS: usize = 50;

/// Runs at most, however short they are.
const MOST_RUNS: usize = 10_000;

/// However few runs there were by then, repeats end when a session ran for so long: whoever asked waits.
pub(crate) const LONGEST: Duration = Duration::from_secs(60);

/// The quantile of the normal distribution that belongs to [`CONFIDENCE`].
const QUANTILE: f64 = 1.645;

/// How long runs take and how far that can be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timing {
    /// Median of the runs, seconds.
    pub seconds: f64,
    /// How far the time may be wrong, seconds, with [`CONFIDENCE`]. It is that of the median, between two order
    /// statistics, so that nothing is assumed of how times are spread; as far as the median itself where the runs are
    /// too few to tell. Where the process is stopped again and again it is that of the mean, as the CPU times of the runs
    /// tell it and a stop that is not whole: by the clock runs are whole numbers of stops, which says little of them.
    pub half_width_seconds: f64,
    /// Mean of the runs, seconds: far above the median where the process is stopped part of the time.
    pub mean_seconds: f64,
    /// CPU time of the process during a run, mean, seconds.
    pub cpu_seconds: f64,
    /// The number of runs.
    pub runs: usize,
}

impl Timing {
    /// What a run takes in the long run, seconds: see [`wire::control::StageTime::sustained_seconds`].
    fn sustained_seconds(&self) -> f64 {
        sustained_seconds(self.seconds, self.mean_seconds, self.cpu_seconds)
    }
}

/// What is in the caches when a run begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Caches {
    /// What the run before left.
    Warm,
    /// What receiving, decoding, encoding and sending leave, too: of so many bytes of tensors besides those that the
    /// session computes.
    AsInChain { len: usize },
}

/// A session's time and memory on some inputs.
pub(crate) struct Measured {
    pub(crate) timing: Timing,
    /// What the process grew by while the session ran first, bytes; `None` where the system does not tell. Memory
    /// that the process had kept from before is not in it.
    pub(crate) growth: Option<u64>,
    pub(crate) outputs: Box<dyn Outputs>,
}

/// Runs a session once to warm up, then until its time is known or the repeats took as long as `time` ends with; for
/// [`TIME_OF_STOPPED`] where the process is stopped again and again, unless no time was to be spent on it anyway. A run
/// that takes [`LONGEST`] is the only one; all together take less than twice as long, or as one run does. What goes
/// through the `caches` between two runs is not in their times.
pub(crate) fn measure(
    session: &mut dyn Session,
    inputs: &[TensorView<'_>],
    time: RangeInclusive<Duration>,
    caches: Caches,
) -> Result<Measured, RunError> {
    let mut clock = Clock::now();
    let (outputs, growth) = memory::growth(|| session.run(inputs));
    let (outputs, warm_up) = (outputs?, clock.lap());
    if warm_up.seconds >= LONGEST.as_secs_f64() {
        return Ok(Measured { timing: Runs::of(warm_up).timing(), growth, outputs });
    }
    let mut traffic = match caches {
        Caches::Warm => Traffic::default(),
        Caches::AsInChain { len } => {
            let computed = (0..session.outputs().len()).map(|i| outputs.view(i).bytes().len());
            Traffic::of_tensors(computed.fold(len, usize::saturating_add))
        }
    };
    let mut timed = |time| {
        let mut clock = Clock::now();
        repeat(time, warm_up, || {
            traffic.pass();
            let besides = clock.lap();
            session.run(inputs).map(|_| Round { besides, run: clock.lap() })
        })
    };
    let long_enough = time.start().is_zero();
    let mut timing = timed(time)?;
    // What took so long by then is known well enough.
    let ended = timing.mean_seconds * timing.runs as f64 >= TIME_OF_STOPPED.end().as_secs_f64();
    if is_stopped(timing.mean_seconds, timing.cpu_seconds) && !long_enough && !ended {
        timing = timed(TIME_OF_STOPPED)?;
    }
    Ok(Measured { timing, growth, outputs })
}

/// Reads the time and the CPU time of the process. Each lap begins where the one before ended: a process that has had
/// its share is stopped where it calls the system, so also where it asks for its CPU time.
struct Clock {
    at: Instant,
    cpu_seconds: f64,
}

impl Clock {
    fn now() -> Clock {
        Clock { at: Instant::now(), cpu_seconds: machine::process_cpu_seconds() }
    }

    /// What passed since the last reading.
    fn lap(&mut self) -> Run {
        let now = Clock::now();
        let seconds = now.at.duration_since(self.at).as_secs_f64();
        let cpu_seconds = now.cpu_seconds - self.cpu_seconds;
        *self = now;
        Run { seconds, cpu_seconds }
    }
}

/// What a run took.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    seconds: f64,
    /// CPU time of the process.
    cpu_seconds: f64,
}

/// A run, and what was done before it.
#[derive(Clone, Copy, Debug)]
struct Round {
    besides: Run,
    run: Run,
}

impl Run {
    fn and(self, other: Run) -> Run {
        Run { seconds: self.seconds + other.seconds, cpu_seconds: self.cpu_seconds + other.cpu_seconds }
    }
}

impl Round {
    fn only(run: Run) -> Round {
        Round { besides: Run::default(), run }
    }
}

/// Runs for as long as `time` begins with, and then until the time is known well enough or all runs together took
/// as long as it ends with; fewer than [`MIN_RUNS`] times only when they took [`LONGEST`], the run to warm up included,
/// which counts if there is no time for another. `run` says what it took.
fn repeat<E>(
    time: RangeInclusive<Duration>,
    warm_up: Run,
    mut run: impl FnMut() -> Result<Round, E>,
) -> Result<Timing, E> {
    let (least, most) = (time.start().as_secs_f64(), time.end().as_secs_f64());
    let longest = LONGEST.as_secs_f64();
    if warm_up.seconds >= longest {
        return Ok(Runs::of(warm_up).timing());
    }
    let mut runs = Runs::default();
    loop {
        runs.add(run()?);
        let total_seconds = runs.running.seconds + runs.besides.seconds;
        if warm_up.seconds + total_seconds >= longest {
            return Ok(runs.timing());
        }
        // What takes no time at all ends, too.
        let count = runs.sorted.len();
        if count < MIN_RUNS || (total_seconds < least && count < MOST_RUNS) {
            continue;
        }
        let timing = runs.timing();
        let narrow = timing.half_width_seconds <= WANTED_SHARE * timing.sustained_seconds();
        if narrow || count >= MAX_RUNS || total_seconds >= most {
            return Ok(timing);
        }
    }
}

/// Runs so far.
#[derive(Default)]
struct Runs {
    /// By the clock, sorted.
    sorted: Vec<f64>,
    /// All of them together.
    running: Run,
    /// What was done besides.
    besides: Run,
    /// The sum of the squares of how far each CPU time is from their mean (B. P. Welford, 1962).
    cpu_squares: f64,
    /// The longest that one of them was stopped, as far as that may have been a single stop, seconds.
    longest_stop: f64,
}

impl Runs {
    fn of(run: Run) -> Runs {
        let mut runs = Runs::default();
        runs.add(Round::only(run));
        runs
    }

    fn add(&mut self, Round { besides, run }: Round) {
        self.sorted.insert(self.sorted.partition_point(|&s| s < run.seconds), run.seconds);
        let off = match self.sorted.len() {
            1 => 0.0,
            runs => run.cpu_seconds - self.running.cpu_seconds / (runs - 1) as f64,
        };
        self.running = self.running.and(run);
        self.besides = self.besides.and(besides);
        let stopped = (run.seconds - run.cpu_seconds).max(besides.seconds - besides.cpu_seconds);
        self.longest_stop = self.longest_stop.max(stopped.min(LONGEST_STOP));
        self.cpu_squares += off * (run.cpu_seconds - self.cpu_mean());
    }

    fn cpu_mean(&self) -> f64 {
        self.running.cpu_seconds / self.sorted.len() as f64
    }

    /// Of a process that is stopped it is by the pace at which it had CPU time for all that it did: a stop is not owed to
    /// what it falls into.
    fn mean(&self) -> f64 {
        let all = self.running.and(self.besides);
        match self.is_stopped() && all.cpu_seconds > 0.0 {
            true => self.cpu_mean() * all.seconds / all.cpu_seconds,
            false => self.running.seconds / self.sorted.len() as f64,
        }
    }

    fn is_stopped(&self) -> bool {
        let all = self.running.and(self.besides);
        is_stopped(all.seconds, all.cpu_seconds)
    }

    fn timing(&self) -> Timing {
        let (times, runs) = (&self.sorted, self.sorted.len());
        let seconds = (times[(runs - 1) / 2] + times[runs / 2]) / 2.0;
        let (mean_seconds, cpu_seconds) = (self.mean(), self.cpu_mean());
        let half_width_seconds = if runs < MIN_RUNS {
            seconds
        } else if self.is_stopped() && self.running.cpu_seconds > 0.0 {
            let of_pace = self.longest_stop / self.running.and(self.besides).seconds;
            (self.cpu_half_width() / cpu_seconds + of_pace) * mean_seconds
        } else {
            let rank = rank(runs);
            let (low, high) = (times[rank], times[runs - 1 - rank]);
            // Where runs were held up and the mean counts, it may be wrong by all of that.
            let held_up = sustained_seconds(seconds, mean_seconds, cpu_seconds) - seconds;
            (seconds - low).max(high - seconds).max(held_up)
        };
        Timing { seconds, half_width_seconds, mean_seconds, cpu_seconds, runs }
    }

    /// How far the mean of the CPU times may be wrong, seconds: the interval of Student's t.
    fn cpu_half_width(&self) -> f64 {
        let runs = self.sorted.len() as f64;
        let deviation = (self.cpu_squares.max(0.0) / (runs - 1.0)).sqrt();
        t_quantile(runs - 1.0) * deviation / runs.sqrt()
    }
}

/// The quantile of Student's t that belongs to [`CONFIDENCE`], for so many degrees of freedom: the first terms of the
/// expansion in their reciprocal (Abramowitz and Stegun, 26.7.5).
fn t_quantile(degrees: f64) -> f64 {
    let z = QUANTILE;
    let first = (z.powi(3) + z) / 4.0;
    let second = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0;
    z + first / degrees + second / degrees.powi(2)
}

/// How many of `runs` sorted times can be left out on each side so that those that remain enclose the median with
/// [`CONFIDENCE`]: as many as a fair coin thrown `runs` times falls short of with less than the rest, halved.
fn rank(runs: usize) -> usize {
    if runs > 1000 {
        // The normal approximation, where the probabilities below would be too small for a number.
        return (runs as f64 / 2.0 - QUANTILE * (runs as f64).sqrt() / 2.0) as usize - 1;
    }
    let mut probability = 0.5f64.powi(runs as i32);
    let mut sum = 0.0;
    for k in 0..runs / 2 {
        sum += probability;
        if 2.0 * sum > 1.0 - CONFIDENCE {
            return k.saturating_sub(1);
        }
        probability *= (runs - k) as f64 / (k + 1) as f64;
    }
    (runs / 2).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Measures runs that take these times, the last one for ever; the one to warm up as long as the first.
    fn check(least_ms: u64, limit_ms: u64, times_ms: &[u64]) -> Timing {
        let mut times = times_ms.iter().copied();
        let mut last = 0;
        let whole = |ms: u64| Run { seconds: ms as f64 / 1e3, cpu_seconds: ms as f64 / 1e3 };
        let run = || {
            last = times.next().unwrap_or(last);
            Ok::<_, ()>(Round::only(whole(last)))
        };
        let warm_up = whole(times_ms[0]);
        repeat(Duration::from_millis(least_ms)..=Duration::from_millis(limit_ms), warm_up, run).unwrap()
    }

    /// From tables of the sign test: the ranks (from 1) of the 90 % interval.
    #[test]
    fn the_interval_is_that_of_order_statistics() {
        for (runs, rank_from_1) in
            [(5, 1), (7, 1), (8, 2), (10, 2), (11, 3), (15, 4), (20, 6), (50, 19), (1000, 474), (1002, 474)]
        {
            assert_eq!(rank(runs) + 1, rank_from_1, "{runs} runs");
        }
    }

    #[test]
    fn equal_times_need_few_runs_and_scattered_ones_many() {
        let equal = check(0, 10_000, &[10]);
        assert_eq!((equal.seconds, equal.half_width_seconds, equal.runs), (0.01, 0.0, MIN_RUNS));
        assert!((equal.mean_seconds - 0.01).abs() + (equal.cpu_seconds - 0.01).abs() < 1e-12, "{equal:?}");
        let scattered: Vec<u64> = (0..100).map(|i| 10 + i % 7).collect();
        assert_eq!(check(0, 10_000, &scattered).runs, MAX_RUNS);
        // One run that was held up makes the interval wide until there are so many others that it counts no more.
        let held_up = check(0, 10_000, &[10, 500, 10]);
        assert!(held_up.runs == MAX_RUNS && held_up.half_width_seconds > 0.009, "{held_up:?}");
    }

    #[test]
    fn a_process_that_is_stopped_part_of_the_time_is_watched_long_enough() {
        // 25 ms in each 100: of 25 runs one is held up, which no median tells.
        let held_up = |i: usize| if i % 25 == 24 { 76 } else { 1 };
        let times: Vec<u64> = (0..1000).map(held_up).collect();
        let timing = check(400, 500, &times);
        assert_eq!((timing.runs, timing.seconds), (100, 0.001));
        assert!((timing.mean_seconds - 0.004).abs() < 1e-9, "{timing:?}");
        assert_eq!(check(400, 500, &[0]).runs, MOST_RUNS);
    }

    #[test]
    fn no_time_is_lost_between_two_laps() {
        let mut clock = Clock::now();
        let (at, cpu_seconds) = (clock.at, clock.cpu_seconds);
        let laps: Vec<Run> = (0..1000).map(|_| clock.lap()).collect();
        let seconds: f64 = laps.iter().map(|lap| lap.seconds).sum();
        assert!((clock.at.duration_since(at).as_secs_f64() - seconds).abs() < 1e-9);
        let cpu: f64 = laps.iter().map(|lap| lap.cpu_seconds).sum();
        assert!((clock.cpu_seconds - cpu_seconds - cpu).abs() < 1e-9);
    }

    /// From tables of Student's t: the 95th percentile.
    #[test]
    fn the_interval_of_a_mean_is_that_of_student() {
        for (degrees, expected) in [(4.0, 2.132), (5.0, 2.015), (9.0, 1.833), (29.0, 1.699), (999.0, 1.646)] {
            assert!((t_quantile(degrees) - expected).abs() < 0.02, "{degrees}: {}", t_quantile(degrees));
        }
    }

    /// At 15 ms of CPU time in each 100 a run is as long as the stops that it holds, but for its CPU time.
    #[test]
    fn what_a_stopped_process_takes_is_as_sure_as_its_cpu_time() {
        let timing = |least_s: u64, most_s: u64, cpu_ms: &[f64]| {
            let (mut runs, mut cpu) = (cpu_ms.iter().cycle(), 0.0f64);
            let at = |cpu: f64| (cpu / 15.0).floor() * 100.0 + cpu % 15.0;
            let run = || {
                let ms = runs.next().unwrap();
                let seconds = (at(cpu + ms) - at(cpu)) / 1e3;
                cpu += ms;
                Ok::<_, ()>(Round::only(Run { seconds, cpu_seconds: ms / 1e3 }))
            };
            let warm_up = Run { seconds: 0.1, cpu_seconds: 0.02 };
            repeat(Duration::from_secs(least_s)..=Duration::from_secs(most_s), warm_up, run).unwrap()
        };
        // 20 ms each are 120, 205, 120, ... by the clock; in the long run, 133.
        let even = timing(1, 3, &[20.0]);
        assert!((even.mean_seconds - 20.0 / 150.0).abs() <= even.half_width_seconds, "{even:?}");
        assert!((0.02..0.04).contains(&(even.half_width_seconds / even.mean_seconds)), "{even:?}");
        // A tenth more or less is told by its interval.
        let scattered = timing(1, 3, &[18.0, 22.0, 20.0]);
        assert!(scattered.runs > 20 && scattered.runs < 30, "{scattered:?}");
        let more = scattered.half_width_seconds / scattered.mean_seconds
            - even.half_width_seconds / even.mean_seconds;
        assert!((0.02..0.04).contains(&more), "{scattered:?}");
        // One that is stopped and says that it has had nothing.
        let nothing = timing(1, 3, &[0.0]);
        assert_eq!((nothing.half_width_seconds, nothing.runs), (0.0, MOST_RUNS));
    }

    /// A tenth of the CPU time goes to what is done besides, and so do stops.
    #[test]
    fn what_is_done_besides_is_not_counted_and_takes_its_share_of_stops() {
        let stopped = [(0.190, 0.009), (0.010, 0.001)];
        let running = [(0.009, 0.009), (0.001, 0.001)];
        for ([run, besides], expected) in [(stopped, 0.180), (running, 0.009)] {
            let part = |(seconds, cpu_seconds)| Run { seconds, cpu_seconds };
            let round = || Ok::<_, ()>(Round { besides: part(besides), run: part(run) });
            let time = Duration::from_secs(1)..=Duration::from_secs(3);
            let timing = repeat(time, part(run), round).unwrap();
            assert!((timing.mean_seconds - expected).abs() < 1e-9, "{timing:?}");
            assert!((timing.cpu_seconds - 0.009).abs() < 1e-9, "{timing:?}");
        }
    }

    #[test]
    fn slow_runs_end_with_the_time() {
        let slow = check(0, 2000, &[300, 400, 500, 600, 700, 800, 900]);
        assert_eq!((slow.runs, slow.seconds), (MIN_RUNS, 0.5));
        assert!((slow.half_width_seconds - 0.2).abs() < 1e-12, "{slow:?}");
    }

    #[test]
    fn runs_that_take_a_minute_come_to_an_end_and_tell_that_they_are_few() {
        // With the one to warm up there is time for so many.
        for (seconds, runs) in [(14, 4), (25, 2), (59, 1), (60, 1), (5000, 1)] {
            let slow = check(0, 500, &[seconds * 1000]);
            let expected = seconds as f64;
            assert_eq!((slow.runs, slow.seconds, slow.half_width_seconds), (runs, expected, expected));
        }
        assert_eq!(check(0, 500, &[9000]).half_width_seconds, 0.0);
    }
}
