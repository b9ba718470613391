//! What else the machine did while something was measured: a run beside which others worked says nothing.

use std::fs;
use std::time::{Duration, Instant};

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// Cores that processes other than ours may have taken.
const MOST_FOREIGN: f64 = 0.15;

/// Cores that the kernel may have spent on interrupts.
const MOST_SOFTIRQ: f64 = 0.1;

/// Share of the time that a hypervisor may have taken away.
const MOST_STEAL: f64 = 0.02;

/// Clock ticks of the machine and of our processes so far.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    at: Instant,
    machine: Ticks,
    own: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ticks {
    /// User and system, with guests and without interrupts.
    busy: u64,
    softirq: u64,
    steal: u64,
}

/// What the machine did besides our processes, in cores.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Disturbance {
    pub(crate) foreign_cores: f64,
    pub(crate) softirq_cores: f64,
    pub(crate) steal_cores: f64,
}

impl Look {
    /// Looks at the machine, and at the processes of these ids.
    pub(crate) fn now(processes: &[u32]) -> Look {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let of = |id: &u32| {
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            process_ticks(&stat).unwrap_or(0)
        };
        let machine = machine_ticks(&stat).unwrap_or_default();
        Look { at: Instant::now(), machine, own: processes.iter().map(of).sum() }
    }

    /// What happened since an earlier look.
    pub(crate) fn since(&self, before: &Look) -> Disturbance {
        let seconds = (self.at - before.at).as_secs_f64() * rustix::param::clock_ticks_per_second() as f64;
        let cores = |after: u64, before: u64| (after as f64 - before as f64) / seconds;
        let busy = cores(self.machine.busy, before.machine.busy);
        Disturbance {
            foreign_cores: (busy - cores(self.own, before.own)).max(0.0),
            softirq_cores: cores(self.machine.softirq, before.machine.softirq),
            steal_cores: cores(self.machine.steal, before.machine.steal),
        }
    }
}

impl Disturbance {
    /// Whether what was measured meanwhile is to be thrown away.
    pub(crate) fn is_too_much(&self) -> bool {
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        self.foreign_cores > MOST_FOREIGN
            || self.softirq_cores > MOST_SOFTIRQ
            || self.steal_cores > MOST_STEAL * cores
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

/// User and system time in `/proc/ID/stat`, with that of children that were waited for.
fn process_ticks(stat: &str) -> Option<u64> {
    let fields = process_fields(stat)?;
    let field = |i: usize| fields.get(i)?.parse::<u64>().ok();
    Some(field(11)? + field(12)?)
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
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 1 2 3 4 70 30 9 9 20 0 1 0 5";
        assert_eq!(process_ticks(stat), Some(100));
        assert_eq!(process_ticks(""), None);
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
        let ticks = rustix::param::clock_ticks_per_second();
        let look = |seconds: u64, busy: u64, own: u64| Look {
            at: at + std::time::Duration::from_secs(seconds),
            machine: Ticks { busy: busy * ticks, softirq: 0, steal: 0 },
            own: own * ticks,
        };
        let calm = look(10, 18, 17).since(&look(0, 0, 0));
        assert!((calm.foreign_cores - 0.1).abs() < 1e-9 && !calm.is_too_much(), "{calm:?}");
        assert!(look(10, 18, 8).since(&look(0, 0, 0)).is_too_much());
    }
}
