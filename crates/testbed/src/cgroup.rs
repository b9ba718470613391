//! Control groups with a CPU quota, of version 1 or 2: each emulates the CPU of a slow device.
//!
//! All groups of a process lie under one of its own, which goes when it is dropped; one that a crashed process left
//! behind is removed by the next, see [`crate::stale`]. Called by [`crate::devices`]; it never ends a process.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::stale;

/// The quota is dealt out anew after this long: short, so that a device is slow rather than often stopped.
pub(crate) const PERIOD_MICROS: u64 = 20_000;

/// How long processes that ended may take to leave their group.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where CPU quotas are set on this system.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    version: Version,
    root: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Version {
    /// Files of the group that all devices share, with what to write into them: everything else on the machine waits
    /// for the devices, or a busy machine would make them slower than their quota.
    fn shared(self) -> Vec<(&'static str, String)> {
        match self {
            Version::One => vec![("cpu.shares", "262144".to_owned())],
            Version::Two => {
                vec![("cpu.weight", "10000".to_owned()), ("cgroup.subtree_control", "+cpu".to_owned())]
            }
        }
    }

    /// Files of a device's group, with what to write into them: its quota as a share of one core.
    fn quota(self, share: f64) -> Vec<(&'static str, String)> {
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

/// The group of this process, in which each device has its own; removed when dropped.
#[derive(Debug)]
pub(crate) struct Groups {
    version: Version,
    name: String,
    path: PathBuf,
    /// By which the processes of this testbed are known.
    _held: File,
}

/// Whether quotas can be set: sets one.
///
/// # Errors
/// As [`Groups::new`].
pub(crate) fn probe() -> Result<()> {
    let groups = Groups::new()?;
    groups.device("probe", 0.5)?;
    groups.remove("probe");
    Ok(())
}

/// Removes what crashed testbeds left. Gives the names of what it was.
///
/// # Errors
/// As [`Groups::new`].
pub(crate) fn clean() -> Result<BTreeSet<String>> {
    stale::clean(&hierarchy()?.root)
}

impl Groups {
    /// Makes the group of this process, and removes what crashed ones left.
    ///
    /// # Errors
    /// Without root, or without a hierarchy that has the CPU controller.
    pub(crate) fn new() -> Result<Groups> {
        let Hierarchy { version, root } = hierarchy()?;
        stale::clean(&root)?;
        if version == Version::Two {
            let control = root.join("cgroup.subtree_control");
            fs::write(&control, "+cpu").with_context(|| format!("cannot write `{}`", control.display()))?;
        }
        let name = stale::own_name()?;
        let path = root.join(&name);
        fs::create_dir(&path).with_context(|| format!("cannot make the group `{}`", path.display()))?;
        let held = stale::mark_members(&path)?;
        let groups = Groups { version, name, path, _held: held };
        write_all(&groups.path, &version.shared())?;
        Ok(groups)
    }

    /// What the testbed of this process is called: whatever else outlives a process is to begin with this name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Makes the group of a device with this share of a core. Gives the file that a process joins it by, through
    /// writing its id there.
    pub(crate) fn device(&self, name: &str, share: f64) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make the group `{}`", path.display()))?;
        write_all(&path, &self.version.quota(share))?;
        Ok(path.join("cgroup.procs"))
    }

    /// Removes a device's group once its processes have ended.
    pub(crate) fn remove(&self, name: &str) {
        remove_group(&self.path.join(name));
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        remove_tree(&self.path);
    }
}

/// Where this system sets CPU quotas.
fn hierarchy() -> Result<Hierarchy> {
    let is_root = rustix::process::geteuid().is_root();
    ensure!(is_root, "devices are emulated by control groups and network namespaces: run this as root");
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    let has_cpu = |root: &Path| {
        let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        controllers.split_whitespace().any(|controller| controller == "cpu")
    };
    find(&mounts, &has_cpu).context("no control group hierarchy with the CPU controller")
}

/// The hierarchy with the CPU controller, of version 1 if there are both. `has_cpu` looks into one of version 2.
fn find(mounts: &str, has_cpu: &dyn Fn(&Path) -> bool) -> Option<Hierarchy> {
    let of = |version: Version| {
        mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (path, kind, options) = (PathBuf::from(fields.next()?), fields.next()?, fields.next()?);
            let found = match version {
                Version::One => kind == "cgroup" && options.split(',').any(|option| option == "cpu"),
                Version::Two => kind == "cgroup2" && has_cpu(&path),
            };
            found.then_some(Hierarchy { version, root: path })
        })
    };
    of(Version::One).or_else(|| of(Version::Two))
}

/// Removes a group with those in it. One that cannot be removed is left.
pub(crate) fn remove_tree(group: &Path) {
    folders(group).iter().for_each(|device| remove_group(device));
    remove_group(group);
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// A group cannot be removed while a process that ended a moment ago still counts; polling is all there is.
fn remove_group(path: &Path) {
    let deadline = Instant::now() + LEAVE_TIMEOUT;
    loop {
        match fs::remove_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {}
            _ => return,
        }
        #[expect(clippy::disallowed_methods, reason = "see above")]
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn write_all(group: &Path, files: &[(&str, String)]) -> Result<()> {
    for (file, content) in files {
        let path = group.join(file);
        fs::write(&path, content)
            .with_context(|| format!("cannot write {content} into `{}`", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_with_the_cpu_controller_is_found() {
        let one = "cgroup /sys/fs/cgroup/cpuacct cgroup rw,cpuacct 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n";
        let two = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let check = |mounts: &str, has_cpu: bool, expected: Option<(Version, &str)>| {
            let found = find(mounts, &|_| has_cpu);
            let expected = expected.map(|(version, root)| Hierarchy { version, root: root.into() });
            assert_eq!(found, expected, "{mounts}");
        };
        check(&format!("{two}{one}"), true, Some((Version::One, "/sys/fs/cgroup/cpu")));
        check(two, true, Some((Version::Two, "/sys/fs/cgroup/unified")));
        check(two, false, None);
        check("proc /proc proc rw 0 0\nbroken\n", true, None);
    }

    #[test]
    fn a_quota_is_a_share_of_the_period() {
        let files = |version: Version| version.quota(0.15).into_iter().map(|(f, c)| format!("{f} {c}"));
        assert!(files(Version::One).eq(["cpu.cfs_period_us 20000", "cpu.cfs_quota_us 3000"]));
        assert!(files(Version::Two).eq(["cpu.max 3000 20000"]));
        assert_eq!(Version::Two.quota(1.5), [("cpu.max", "30000 20000".to_owned())]);
    }
}
