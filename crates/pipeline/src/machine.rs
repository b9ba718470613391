//! What machine this process runs on, as it tells others, and what it has had of it. Called by nodes and dispatchers; it reads what the system
//! says of itself and nothing else, and what the system does not say is empty.

use std::fs;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use wire::control::Machine;

/// Longer names of processors are cut.
const MAX_NAME_LEN: usize = 128;

/// This machine.
pub(crate) fn describe() -> Machine {
    let info = rustix::system::sysinfo();
    Machine {
        // Drawn anew whenever a kernel starts, and the same in all containers on it.
        id: read("/proc/sys/kernel/random/boot_id"),
        processor: processor(&read("/proc/cpuinfo")).unwrap_or_else(|| read("/proc/device-tree/model")),
        memory: info.totalram as u64 * u64::from(info.mem_unit.max(1)),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
    }
}

/// Processors that work on this machine, whatever this process may have of them: a quota or a mask limits one process,
/// and others have the rest.
pub(crate) fn cores() -> u32 {
    let all = online(&read("/sys/devices/system/cpu/online"));
    all.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get() as u32))
}

/// How many are in a list such as `0-3,8`; `None` where it is none.
fn online(list: &str) -> Option<u32> {
    let one = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    list.split(',').try_fold(0u32, |sum, part| sum.checked_add(one(part)?))
}

/// CPU time of this process so far, all threads, seconds.
pub(crate) fn process_cpu_seconds() -> f64 {
    seconds(ClockId::ProcessCPUTime)
}

/// CPU time of the calling thread so far, seconds.
pub(crate) fn thread_cpu_seconds() -> f64 {
    seconds(ClockId::ThreadCPUTime)
}

/// CPU time of the calling thread so far.
pub(crate) fn thread_cpu_time() -> Duration {
    // The system gives no negative times; if it did, no time would have passed.
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}

fn seconds(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn read(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned()
}

/// The processor's name in `/proc/cpuinfo`; on many boards it has none there.
fn processor(cpuinfo: &str) -> Option<String> {
    let named = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(named.trim_start_matches([' ', '\t', ':']).trim().chars().take(MAX_NAME_LEN).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_named_or_not() {
        let named = "processor\t: 0\nmodel name\t: Some CPU @ 2GHz\nflags\t\t: fpu\n";
        assert_eq!(processor(named).as_deref(), Some("Some CPU @ 2GHz"));
        assert_eq!(processor("processor\t: 0\nBogoMIPS\t: 48.00\n"), None);
    }

    #[test]
    fn processors_are_counted() {
        for (list, expected) in [
            ("0", Some(1)),
            ("0-1", Some(2)),
            ("0-3,8-11,15", Some(9)),
            ("", None),
            ("3-1", None),
            ("0-4294967295", None),
            ("all", None),
        ] {
            assert_eq!(online(list), expected, "{list}");
        }
        let usable = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        assert!(cores() >= usable, "{} of {}", usable, cores());
    }

    #[test]
    fn a_machine_is_the_same_every_time() {
        assert_eq!(describe(), describe());
    }
}
