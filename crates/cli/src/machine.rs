//! What the machine is that this process runs on.

use std::fs;
use std::path::{Path, PathBuf};

/// Where control groups are found.
const GROUPS: &str = "/sys/fs/cgroup";

/// Three quarters of the memory that there is for stages, bytes: what a node promises when nothing is said. That is this
/// machine's, or what a control group (of a container, say) leaves it.
pub(crate) fn default_memory() -> u64 {
    let info = rustix::system::sysinfo();
    let total = info.totalram as u64 * u64::from(info.mem_unit.max(1));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    // A small group notices what this process takes itself.
    let left = limit(&groups, Path::new(GROUPS)).map(|limit| limit.saturating_sub(resident()));
    left.map_or(total, |left| left.min(total)) / 4 * 3
}

/// The least limit of the groups that `/proc/self/cgroup` names, and of those that they are in, bytes; `None` where there
/// is none. A group that is seen from inside a container is the root there.
fn limit(groups: &str, root: &Path) -> Option<u64> {
    let files = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let path = Path::new(path.trim_start_matches('/')).to_owned();
        match controllers {
            "" => Some((root.to_owned(), path, "memory.max")),
            _ if controllers.split(',').any(|name| name == "memory") => {
                Some((root.join("memory"), path, "memory.limit_in_bytes"))
            }
            _ => None,
        }
    });
    let read = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let least = |(root, path, file): (PathBuf, PathBuf, &str)| {
        path.ancestors().filter_map(|path| read(root.join(path).join(file))).min()
    };
    files.filter_map(least).min()
}

/// Memory of this process, bytes.
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

/// The name of this machine.
pub(crate) fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "node".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_of_all_groups_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("memory.max", "max\n");
        write("box/memory.max", "3000\n");
        write("box/small/memory.max", "5000\n");
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/box/memory.limit_in_bytes", "4000\n");
        for (groups, expected) in [
            ("0::/box/small\n", Some(3000)),
            ("0::/\n", None),
            ("0::/of/another/view\n", None),
            ("4:cpu,cpuacct:/box\n3:memory:/box\n0::/\n", Some(4000)),
            ("3:memory:/box\n0::/box\n", Some(3000)),
            ("3:memory:/\n", Some(9_223_372_036_854_771_712)),
            ("nonsense\n1:\n", None),
        ] {
            assert_eq!(limit(groups, root.path()), expected, "{groups}");
        }
    }
}
