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
    fn a_machine_is_the_same_every_time() {
        assert_eq!(describe(), describe());
    }
}
