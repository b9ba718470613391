//! What tests on emulated devices and links have in common: whether they run here, and what is left behind.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Whether a test is left out, which it then says: one of these is set to 1.
pub(crate) fn left_out(test: &str, names: &[&str]) -> bool {
    #[expect(
        clippy::disallowed_methods,
        reason = "as the tests over namespaces: what this machine cannot do, is said here"
    )]
    let set = names.iter().find(|name| std::env::var_os(name).is_some_and(|v| v == "1"));
    if let Some(name) = set {
        // Not captured, unlike what is printed.
        let _ = std::io::stderr().write_all(format!("*** SKIPPED: {test}: {name} is set ***\n").as_bytes());
    }
    set.is_some()
}

/// The command.
pub(crate) fn testbed() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_defer-testbed"))
}

/// Where control groups with a CPU quota are.
pub(crate) fn groups() -> PathBuf {
    let version_1 = Path::new("/sys/fs/cgroup/cpu");
    if version_1.exists() { version_1 } else { Path::new("/sys/fs/cgroup") }.to_owned()
}

/// Groups, namespaces and folders of the testbed of a process.
pub(crate) fn left_of(process: u32) -> Vec<PathBuf> {
    let own = format!("defer-testbed-{process}-");
    let folders = [groups(), "/sys/fs/cgroup/memory".into(), "/run/netns".into(), std::env::temp_dir()];
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    let paths = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&own));
    paths.map(|entry| entry.path()).collect()
}
