//! How long something takes, with a stated confidence: repeats until the interval of the median is narrow.
//!
//! Called by the profiler and by nodes that time a stage. It has no clock of its own: each run says how long
//! it took.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use engine::{Outputs, RunError, Session};
use tensor::TensorView;

use wire::control::RUNNING_SHARE;

use crate::{machine, memory};

/// How sure it is that a median lies within its interval. The interval is between two order statistics, so
/// nothing is assumed of how times are spread.
pub const CONFIDENCE: f64 = 0.9;

/// Repeats end when the interval is this narrow on either side, as a share of the median.
const WANTED_SHARE: f64 = 0.02;

/// A process that is stopped again and again, by a CPU quota, is watched for so long: the first and the last stop are
/// not whole, and each may take a tenth of a second.
const TIME_OF_STOPPED: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(1);

/// With fewer runs not even the smallest and the largest enclose the median with [`CONFIDENCE`].
const MIN_RUNS: usize = 5;

/// Runs that narrow the interval no more are given up after this many, if they took long enough.
const MAX_RUNS: usize = 50;

/// Runs at most, however short they are.
const MOST_RUNS: usize = 10_000;

/// However few runs there were by then, repeats end when a session ran for so long in all: whoever asked waits.
pub(crate) const LONGEST: Duration = Duration::from_secs(60);

/// The quantile of the normal distribution that belongs to [`CONFIDENCE`].
const QUANTILE: f64 = 1.645;

/// A median and how far it can be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timing {
    /// Median of the runs, seconds.
    pub seconds: f64,
    /// The interval of the median reaches this far on its longer side, seconds: see [`CONFIDENCE`]. As far as the
    /// median itself where the runs are too few to tell.
    pub half_width_seconds: f64,
    /// Mean of the runs, seconds: far above the median where the process is stopped part of the time.
    pub mean_seconds: f64,
    /// Runs it is the median of.
    pub runs: usize,
}

/// A session's time and memory on some inputs.
pub(crate) struct Measured {
    pub(crate) timing: Timing,
    /// CPU time of the process during a run, mean, seconds.
    pub(crate) cpu_seconds: f64,
    /// What the process grew by while the session ran first, bytes; `None` where the system does not tell. Memory
    /// that the process had kept from before is not in it.
    pub(crate) growth: Option<u64>,
    pub(crate) outputs: Box<dyn Outputs>,
}

/// Runs a session once to warm up, then until its time is known or the repeats took as long as `time` ends with; for
/// [`TIME_OF_STOPPED`] where the process is stopped again and again, unless no time was to be spent on it anyway. A run
/// that takes [`LONGEST`] is the only one; all together take less than twice as long, or as one run does.
pub(crate) fn measure(
    session: &mut dyn Session,
    inputs: &[TensorView<'_>],
    time: RangeInclusive<Duration>,
) -> Result<Measured, RunError> {
    let cpu = machine::process_cpu_seconds();
    let start = Instant::now();
    let (outputs, growth) = memory::growth(|| session.run(inputs));
    let (outputs, warm_up) = (outputs?, start.elapsed());
    if warm_up >= LONGEST {
        let cpu_seconds = machine::process_cpu_seconds() - cpu;
        return Ok(Measured { timing: of_sorted(&[warm_up.as_secs_f64()]), cpu_seconds, growth, outputs });
    }
    let mut timed = |time| {
        let cpu = machine::process_cpu_seconds();
        let timing = repeat(time, warm_up, || {
            let start = Instant::now();
            session.run(inputs).map(|_| start.elapsed())
        })?;
        let cpu_seconds = (machine::process_cpu_seconds() - cpu) / timing.runs as f64;
        Ok::<_, RunError>((timing, cpu_seconds))
    };
    let long_enough = time.start().is_zero();
    let (mut timing, mut cpu_seconds) = timed(time)?;
    if cpu_seconds < RUNNING_SHARE * timing.mean_seconds && !long_enough {
        (timing, cpu_seconds) = timed(TIME_OF_STOPPED)?;
    }
    Ok(Measured { timing, cpu_seconds, growth, outputs })
}

/// Runs for as long as `time` begins with, and then until the median is known well enough or all runs together took
/// as long as it ends with; fewer than [`MIN_RUNS`] times only when they took [`LONGEST`], the run to warm up included,
/// which counts if there is no time for another. `run` says how long it took.
fn repeat<E>(
    time: RangeInclusive<Duration>,
    warm_up: Duration,
    mut run: impl FnMut() -> Result<Duration, E>,
) -> Result<Timing, E> {
    let (least, most) = (time.start().as_secs_f64(), time.end().as_secs_f64());
    let (warm_up, longest) = (warm_up.as_secs_f64(), LONGEST.as_secs_f64());
    if warm_up >= longest {
        return Ok(of_sorted(&[warm_up]));
    }
    let mut total = 0.0;
    let mut times: Vec<f64> = Vec::with_capacity(MAX_RUNS);
    loop {
        let time = run()?.as_secs_f64();
        times.insert(times.partition_point(|&t| t < time), time);
        total += time;
        if warm_up + total >= longest {
            return Ok(of_sorted(&times));
        }
        // What takes no time at all ends, too.
        if times.len() < MIN_RUNS || (total < least && times.len() < MOST_RUNS) {
            continue;
        }
        let timing = of_sorted(&times);
        let narrow = timing.half_width_seconds <= WANTED_SHARE * timing.seconds;
        if narrow || times.len() >= MAX_RUNS || total >= most {
            return Ok(timing);
        }
    }
}

/// The median of sorted times and its interval.
fn of_sorted(times: &[f64]) -> Timing {
    let runs = times.len();
    let median = (times[(runs - 1) / 2] + times[runs / 2]) / 2.0;
    let rank = rank(runs);
    let (low, high) = (times[rank], times[runs - 1 - rank]);
    let mean_seconds = times.iter().sum::<f64>() / runs as f64;
    let enclosed = if runs < MIN_RUNS { median } else { (median - low).max(high - median) };
    Timing { seconds: median, half_width_seconds: enclosed, mean_seconds, runs }
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
        let run = || {
            last = times.next().unwrap_or(last);
            Ok::<_, ()>(Duration::from_millis(last))
        };
        let warm_up = Duration::from_millis(times_ms[0]);
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
        let equal = Timing { seconds: 0.01, half_width_seconds: 0.0, mean_seconds: 0.01, runs: MIN_RUNS };
        assert_eq!(check(0, 10_000, &[10]), equal);
        let scattered: Vec<u64> = (0..100).map(|i| 10 + i % 7).collect();
        assert_eq!(check(0, 10_000, &scattered).runs, MAX_RUNS);
        // One run that was held up does not make the interval wide once there are others.
        let held_up = check(0, 10_000, &[10, 500, 10]);
        assert!(held_up.runs < 10 && held_up.half_width_seconds == 0.0, "{held_up:?}");
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
