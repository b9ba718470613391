//! Where this system limits processes, and by which files: control groups of version 1 or 2. Called by [`super::Groups`].

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::PERIOD_MICROS;

/// What the groups of version 2 control.
pub(super) const CONTROLLERS: &str = "+cpu +memory";

/// What to do where there are no groups.
const WITHOUT_ROOT: &str = "`defer-testbed run --paced` needs neither";

/// Where this system limits processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) version: Version,
    /// CPU quotas.
    pub(super) root: PathBuf,
    /// Memory: the same with version 2, and elsewhere with version 1. There may be none.
    pub(super) memory: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

impl Version {
    /// Files of the group that all devices share, with what to write into them: everything else on the machine waits
    /// for the devices, or a busy machine would make them slower than their quota.
    pub(super) fn shared(self) -> Vec<(&'static str, String)> {
        match self {
            Version::One => vec![("cpu.shares", "262144".to_owned())],
            Version::Two => {
                vec![("cpu.weight", "10000".to_owned()), ("cgroup.subtree_control", CONTROLLERS.to_owned())]
            }
        }
    }

    /// The file of a device's group that limits its memory, MB.
    pub(super) fn memory(self, mb: u64) -> (&'static str, String) {
        let bytes = mb.saturating_mul(1_000_000).to_string();
        match self {
            Version::One => ("memory.limit_in_bytes", bytes),
            Version::Two => ("memory.max", bytes),
        }
    }

    /// Bytes that a device's group holds.
    pub(super) fn memory_held(self, group: &Path) -> Result<String> {
        let path = group.join(match self {
            Version::One => "memory.usage_in_bytes",
            Version::Two => "memory.current",
        });
        let held = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        Ok(held.trim().to_owned())
    }

    /// Files of a device's group, with what to write into them: its quota as a share of one core.
    pub(super) fn quota(self, share: f64) -> Vec<(&'static str, String)> {
        let quota = (share * PERIOD_MICROS as f64).round();
        match self {
            Version::One => vec![
                ("cpu.cfs_period_us", PERIOD_MICROS.to_string()),
                ("cpu.cfs_quota_us", quota.to_string()),
            ],
            Version::Two => vec![("cpu.max", format!("{quota} {PERIOD_MICROS}"))],
        }
    }
}

impl Hierarchy {
    /// Where groups are.
    pub(super) fn roots(&self) -> Vec<&Path> {
        let memory = self.memory.iter().filter(|memory| **memory != self.root);
        std::iter::once(&self.root).chain(memory).map(PathBuf::as_path).collect()
    }
}

/// Where this system sets CPU quotas.
pub(super) fn hierarchy() -> Result<Hierarchy> {
    let is_root = rustix::process::geteuid().is_root();
    ensure!(
        is_root,
        "devices are emulated by control groups and network namespaces: run this as root; {WITHOUT_ROOT}"
    );
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    let has = |root: &Path, wanted: &str| {
        let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        controllers.split_whitespace().any(|controller| controller == wanted)
    };
    find(&mounts, &has)
        .with_context(|| format!("no control group hierarchy with the CPU controller; {WITHOUT_ROOT}"))
}

/// Where groups of version 1 count the CPU time of all processes: in a container a part of them may be mounted for all,
/// which lacks the file that only the whole has.
pub(super) fn accounts() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounted(&mounts, Version::One, "cpuacct", &|_, _| false)
        .filter(|root| root.join("release_agent").exists())
}

/// The hierarchies of the CPU and the memory controller, of version 1 if there are both versions. `has` looks into one of
/// version 2.
fn find(mounts: &str, has: &dyn Fn(&Path, &str) -> bool) -> Option<Hierarchy> {
    let of = |version: Version, controller: &str| mounted(mounts, version, controller, has);
    let of = |version: Version| {
        let memory = || of(version, "memory");
        of(version, "cpu").map(|root| Hierarchy { version, root, memory: memory() })
    };
    of(Version::One).or_else(|| of(Version::Two))
}

/// Where the hierarchy of a controller is mounted.
fn mounted(
    mounts: &str,
    version: Version,
    controller: &str,
    has: &dyn Fn(&Path, &str) -> bool,
) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind, options) = (PathBuf::from(fields.next()?), fields.next()?, fields.next()?);
        let found = match version {
            Version::One => kind == "cgroup" && options.split(',').any(|option| option == controller),
            Version::Two => kind == "cgroup2" && has(&path, controller),
        };
        found.then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchies_of_the_controllers_are_found() {
        let one = "cgroup /sys/fs/cgroup/cpuacct cgroup rw,cpuacct 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n";
        let memory = "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n";
        let two = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let check = |mounts: &str, has: &str, expected: Option<(Version, &str, Option<&str>)>| {
            let found = find(mounts, &|_, wanted| has.split(' ').any(|controller| controller == wanted));
            let expected = expected.map(|(version, root, memory)| Hierarchy {
                version,
                root: root.into(),
                memory: memory.map(PathBuf::from),
            });
            assert_eq!(found, expected, "{mounts}");
        };
        let (cpu, unified) = ("/sys/fs/cgroup/cpu", "/sys/fs/cgroup/unified");
        check(&format!("{two}{one}"), "cpu memory", Some((Version::One, cpu, None)));
        check(&format!("{one}{memory}"), "", Some((Version::One, cpu, Some("/sys/fs/cgroup/memory"))));
        check(two, "cpu", Some((Version::Two, unified, None)));
        check(two, "cpu memory", Some((Version::Two, unified, Some(unified))));
        check(two, "memory", None);
        check("proc /proc proc rw 0 0\nbroken\n", "cpu memory", None);
    }

    #[test]
    fn a_quota_is_a_share_of_the_period() {
        let files = |version: Version| version.quota(0.15).into_iter().map(|(f, c)| format!("{f} {c}"));
        assert!(files(Version::One).eq(["cpu.cfs_period_us 20000", "cpu.cfs_quota_us 3000"]));
        assert!(files(Version::Two).eq(["cpu.max 3000 20000"]));
        assert_eq!(Version::One.memory(128), ("memory.limit_in_bytes", "128000000".to_owned()));
        assert_eq!(Version::Two.quota(1.5), [("cpu.max", "30000 20000".to_owned())]);
    }
}
