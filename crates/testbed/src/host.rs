//! What else the machine did while something was measured: a run beside which others worked says nothing.
//!
//! The kernel counts in `/proc/stat` by looking at what runs at each tick. Devices with a quota begin their shares at
//! ticks, so that several of them seem to take more than they do: where a control group counts the time of all processes,
//! that is believed instead.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::cgroup;

/// Cores that processes other than ours may have taken.
const MOST_FOREIGN: f64 = 0.15;

/// Cores that the kernel may have spent on interrupts.
const MOST_SOFTIRQ: f64 = 0.1;

/// Share of the time that a hypervisor may have taken away.
const MOST_STEAL: f64 = 0.02;

/// How many times as much CPU time an item may have taken in one half of a run as in the other, or in one of several equal
/// runs. Halves of calm runs differ by up to a sixth; on a host that changed its clock, or gave the core beside to somebody,
/// one took half as much again.
pub(crate) const MOST_DRIFT: f64 = 1.25;

/// What the machine and our processes did so far.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    at: Instant,
    /// CPU time of all processes.
    busy: Duration,
    /// CPU time of our own.
    own: Duration,
    machine: Ticks,
}

/// Clock ticks of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ticks {
    /// User and system, with guests and without interrupts.
    busy: u64,
    softirq: u64,
    steal: u64,
}

/// What the machine did besides our processes, in cores, and whether it was as fast all the time.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Disturbance {
    pub(crate) foreign_cores: f64,
    pub(crate) softirq_cores: f64,
    pub(crate) steal_cores: f64,
    /// CPU time for an item in the second half over that in the first; nothing where something was done to the devices
    /// meanwhile, or codecs changed.
    #[serde(default)]
    pub(crate) cpu_drift: Option<f64>,
}

impl Look {
    /// Looks at the machine, at this process, at those that it started and that ended, and at the processes of these
    /// ids.
    pub(crate) fn now(processes: &[u32]) -> Look {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let machine = machine_ticks(&stat).unwrap_or_default();
        let counted = cgroup::cpu_time_of_all();
        let busy =
            counted.unwrap_or_else(|| Duration::from_secs_f64(machine.busy as f64 / ticks_per_second()));
        let running = std::iter::once(std::process::id()).chain(processes.iter().copied());
        let own = running.filter_map(cpu_time).sum::<Duration>() + cpu_time_of_ended();
        Look { at: Instant::now(), busy, own, machine }
    }

    /// What happened since an earlier look.
    pub(crate) fn since(&self, before: &Look) -> Disturbance {
        let seconds = (self.at - before.at).as_secs_f64();
        let of = |all: fn(&Look) -> Duration| all(self).as_secs_f64() - all(before).as_secs_f64();
        let ticks = |all: fn(&Ticks) -> u64| all(&self.machine) as f64 - all(&before.machine) as f64;
        Disturbance {
            foreign_cores: ((of(|look| look.busy) - of(|look| look.own)) / seconds).max(0.0),
            softirq_cores: ticks(|machine| machine.softirq) / ticks_per_second() / seconds,
            steal_cores: ticks(|machine| machine.steal) / ticks_per_second() / seconds,
            cpu_drift: None,
        }
    }
}

fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

/// CPU time of the processes that this one started and waited for.
fn cpu_time_of_ended() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return Duration::ZERO };
    let seconds = |time: nix::sys::time::TimeVal| {
        Duration::from_secs(time.tv_sec().unsigned_abs())
            + Duration::from_micros(time.tv_usec().unsigned_abs())
    };
    seconds(usage.user_time()) + seconds(usage.system_time())
}

impl Disturbance {
    /// Whether what was measured meanwhile is to be thrown away.
    pub(crate) fn is_too_much(&self) -> bool {
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        self.foreign_cores > MOST_FOREIGN
            || self.softirq_cores > MOST_SOFTIRQ
            || self.steal_cores > MOST_STEAL * cores
            || self.cpu_drift.is_some_and(|drift| !(1.0 / MOST_DRIFT..=MOST_DRIFT).contains(&drift))
    }
}

/// The first line of `/proc/stat`.
fn machine_ticks(stat: &str) -> Option<Ticks> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = fields.split_whitespace().map_while(|field| field.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, _irq, softirq, steal, ..] = ticks[..] else { return None };
    Some(Ticks { busy: user + nice + system, softirq, steal })
}

/// The fields of `/proc/ID/stat` after the name, from the state on.
pub(crate) fn process_fields(stat: &str) -> Option<Vec<&str>> {
    // The name, in brackets, may hold anything.
    Some(stat.get(stat.rfind(')')? + 1..)?.split_whitespace().collect())
}

/// CPU time that a process took so far, all its threads together; nothing of one that has ended.
pub(crate) fn cpu_time(process: u32) -> Option<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(process.try_into().ok()?)).ok()?;
    Some(clock_gettime(clock).ok()?.into())
}

/// The most memory that a process had at once, bytes.
pub(crate) fn peak_bytes(process: u32) -> Option<u64> {
    peak(&fs::read_to_string(format!("/proc/{process}/status")).ok()?)
}

fn peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_read() {
        let stat = "cpu  100 20 30 4000 50 6 7 8 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(machine_ticks(stat), Some(Ticks { busy: 150, softirq: 7, steal: 8 }));
        assert_eq!(machine_ticks("cpu 1 2\n"), None);
    }

    #[test]
    fn cpu_time_is_that_of_the_process() {
        let before = cpu_time(std::process::id()).unwrap();
        let own = || rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let spent = |from: rustix::time::Timespec| (own() - from).tv_nsec > 20_000_000;
        let start = own();
        while !spent(start) {
            std::hint::spin_loop();
        }
        let took = cpu_time(std::process::id()).unwrap() - before;
        assert!(took >= Duration::from_millis(20), "{took:?}");
        assert_eq!(cpu_time(u32::MAX), None);
    }

    #[test]
    fn the_peak_is_what_a_process_had_at_once() {
        assert_eq!(peak("Name:\tcat\nVmPeak:\t  900 kB\nVmHWM:\t    64 kB\nVmRSS:\t    8 kB\n"), Some(65536));
        assert_eq!(peak("Name:\tkthreadd\n"), None);
        assert!(peak_bytes(std::process::id()).is_some_and(|bytes| bytes > 1 << 16));
    }

    #[test]
    fn others_are_what_is_not_ours() {
        let at = Instant::now();
        let look = |seconds: u64, busy: u64, own: u64| Look {
            at: at + Duration::from_secs(seconds),
            busy: Duration::from_secs(busy),
            own: Duration::from_secs(own),
            machine: Ticks::default(),
        };
        let calm = look(10, 18, 17).since(&look(0, 0, 0));
        assert!((calm.foreign_cores - 0.1).abs() < 1e-9 && !calm.is_too_much(), "{calm:?}");
        assert!(look(10, 18, 8).since(&look(0, 0, 0)).is_too_much());
    }

    #[test]
    fn a_machine_that_became_slower_or_faster_is_no_measure() {
        for (drift, too_much) in [
            (None, false),
            (Some(1.0), false),
            (Some(1.2), false),
            (Some(0.85), false),
            (Some(1.43), true),
            (Some(0.7), true),
            (Some(f64::NAN), true),
        ] {
            let disturbance = Disturbance { cpu_drift: drift, ..Disturbance::default() };
            assert_eq!(disturbance.is_too_much(), too_much, "{drift:?}");
        }
    }

    #[test]
    fn a_process_that_ended_meanwhile_was_ours() {
        let before = cpu_time_of_ended();
        let spin = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
        let status = std::process::Command::new("sh").args(["-c", spin]).status();
        assert!(status.is_ok_and(|status| status.success()));
        let took = cpu_time_of_ended() - before;
        assert!(took > Duration::from_millis(20), "{took:?}");
        // By whatever it is counted, all processes together took more.
        let look = Look::now(&[]);
        assert!(look.busy >= took && look.own >= took, "{look:?}");
    }
}
