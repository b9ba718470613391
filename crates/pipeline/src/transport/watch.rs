//! What threads of the data plane do with their CPU time: coding, or moving bytes. Read from each thread's own clock by
//! the thread itself, once or twice for an item.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::machine::thread_cpu_time;

/// What a thread took for a frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// Encoding or decoding, checksums included, as time passes.
    pub coding: Duration,
    /// The same, CPU time of the thread.
    pub coding_cpu: Duration,
    /// CPU time of the thread for all else it did since the frame before was coded: it moves bytes.
    pub moving_cpu: Duration,
}

/// Tells the CPU time of one thread apart. Whoever moves it to another thread begins anew there.
#[derive(Default)]
pub(crate) struct Watch {
    /// What the thread's clock said last.
    last: Option<Duration>,
}

impl Watch {
    /// CPU time since the last lap; nothing at first.
    pub(crate) fn lap(&mut self) -> Duration {
        let now = thread_cpu_time();
        let last = self.last.replace(now).unwrap_or(now);
        // The clock of another thread may be behind.
        now.saturating_sub(last)
    }

    /// Does what is coding; what the thread did before was moving bytes.
    pub(crate) fn code<T>(&mut self, spent: &mut Spent, work: impl FnOnce() -> T) -> T {
        spent.moving_cpu += self.lap();
        let begun = Instant::now();
        let done = work();
        spent.coding += begun.elapsed();
        spent.coding_cpu += self.lap();
        done
    }
}

/// Time that threads took all together.
#[derive(Clone, Default)]
pub(crate) struct Total(Arc<AtomicU64>);

impl Total {
    pub(crate) fn add(&self, time: Duration) {
        self.0.fetch_add(time.as_nanos() as u64, Relaxed);
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.0.load(Relaxed) as f64 / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coding_is_told_from_the_rest_by_the_threads_own_clock() {
        let work = |rounds: u64| (0..rounds).fold(1u64, |x, i| std::hint::black_box(x.wrapping_mul(31) ^ i));
        let (mut watch, mut spent) = (Watch::default(), Spent::default());
        watch.lap();
        let begun = thread_cpu_time();
        work(1_000_000);
        let between = thread_cpu_time();
        watch.code(&mut spent, || work(1_000_000));
        let ended = thread_cpu_time();
        // One is within the other, on the same clock.
        assert!(spent.coding_cpu > Duration::ZERO && spent.coding_cpu <= ended - between);
        assert!(spent.moving_cpu >= between - begun && spent.moving_cpu + spent.coding_cpu <= ended);
        assert!(spent.coding > Duration::ZERO);
        let total = Total::default();
        total.clone().add(Duration::from_millis(1500));
        total.add(Duration::from_millis(500));
        assert_eq!(total.seconds(), 2.0);
    }
}
