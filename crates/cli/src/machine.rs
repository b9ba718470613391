//! What the machine is that this process runs on.

/// Three quarters of this machine's memory, bytes: what a node promises when nothing is said.
pub(crate) fn default_memory() -> u64 {
    let info = rustix::system::sysinfo();
    let total = info.totalram as u64 * u64::from(info.mem_unit.max(1));
    total / 4 * 3
}

/// The name of this machine.
pub(crate) fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "node".to_owned() } else { name }
}
