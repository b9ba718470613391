//! Memory of this process, as Linux tells it. Called where models are measured and where a node keeps its limit, and once
//! at the beginning of a process; elsewhere than on Linux nothing is known, which is an answer and no error.

use std::fs;
use std::sync::{Mutex, PoisonError};

/// Held by whoever watches the process's high-water mark: there is only one of it.
static MARK: Mutex<()> = Mutex::new(());

/// Memory of this process that is not shared with files on disk, bytes; 0 where `/proc` does not tell.
pub(crate) fn private() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut pages = statm.split(' ').skip(1).map(|field| field.parse().unwrap_or(0u64));
    let (resident, shared) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
    resident.saturating_sub(shared) * rustix::param::page_size() as u64
}

/// Gives memory that nobody holds any more back to the system. The GNU allocator keeps much of it, more with every model
/// that is loaded and dropped, as each is built by threads of its own; elsewhere nothing is done. It takes milliseconds:
/// called when models come and go, never for an item.
pub(crate) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it takes the number of bytes to keep on top, for which any value will do, hands back pages of free memory
    // only, and locks what it looks at: any thread may call it at any time (malloc_trim(3): MT-Safe).
    unsafe {
        libc::malloc_trim(0);
    }
}

/// From now on, large blocks of memory come from the system one by one and go back at once. The GNU allocator keeps them
/// otherwise, among others what engines reorder weights from: loading ResNet50 took 165 MB, and takes 128. Elsewhere
/// nothing is done.
///
/// # Safety
/// No other thread may run: the allocator reads without a lock what this sets.
pub unsafe fn return_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const LARGE: i32 = 1 << 20;
        // What is freed of smaller blocks is kept for the next ones up to here, unless it is asked for: see `give_back`.
        // The allocator finds both numbers by itself until it is told one.
        const KEPT: i32 = 32 << 20;
        // SAFETY: any numbers of bytes will do, and nobody allocates meanwhile, as this function asks (mallopt(3)).
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
            libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
        }
    }
}

/// Does some work; says by how many bytes the process grew at most meanwhile, whatever thread it was for. `None`
/// where that cannot be told.
pub(crate) fn growth<T>(work: impl FnOnce() -> T) -> (T, Option<u64>) {
    let _watching = MARK.lock().unwrap_or_else(PoisonError::into_inner);
    // Sets the mark to what is resident now (see proc_pid_clear_refs(5)).
    let before = fs::write("/proc/self/clear_refs", "5").ok().and_then(|()| high_water());
    let done = work();
    let growth = before.and_then(|before| Some(high_water()?.saturating_sub(before)));
    (done, growth)
}

fn high_water() -> Option<u64> {
    mark_in(&fs::read_to_string("/proc/self/status").ok()?)
}

fn mark_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_read_or_not_there() {
        assert_eq!(mark_in("Name:\tx\nVmHWM:\t    1024 kB\nVmRSS:\t 5 kB\n"), Some(1 << 20));
        for without in ["", "VmHWM:\n", "VmHWM: many kB", "VmRSS: 5 kB"] {
            assert_eq!(mark_in(without), None, "{without:?}");
        }
    }

    #[test]
    fn memory_that_is_gone_again_was_noticed() {
        let touched = 256 << 20; // far more than what the tests beside this one take and give back
        let (sum, growth) = growth(|| vec![1u8; touched].iter().map(|&byte| u64::from(byte)).sum::<u64>());
        assert_eq!(sum, touched as u64);
        // Another system does not tell, and its tests cannot either.
        assert!(growth.is_none_or(|bytes| bytes >= touched as u64 / 2), "{growth:?}");
    }
}
