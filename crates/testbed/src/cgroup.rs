//! Control groups with a CPU quota and a memory limit, of version 1 or 2: each emulates a small device.
//!
//! All groups of a process lie under one of its own, which goes when it is dropped; one that a crashed process left
//! behind is removed by the next, see [`crate::stale`]. Called by [`crate::devices`]; it never ends a process.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::stale;

/// The quota is dealt out anew after this long: short, so that a device is slow rather than often stopped.
pub(crate) const PERIOD_MICROS: u64 = 20_000;

/// The file of a group that lists its processes.
const PROCESSES: &str = "cgroup.procs";

/// What the groups of version 2 control.
const CONTROLLERS: &str = "+cpu +memory";

/// What to do where there are no groups.
const WITHOUT_ROOT: &str = "`defer-testbed run --paced` needs neither";

/// How long processes that ended may take to leave their group.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where this system limits processes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    version: Version,
    /// CPU quotas.
    root: PathBuf,
    /// Memory: the same with version 2, and elsewhere with version 1. There may be none.
    memory: Option<PathBuf>,
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
                vec![("cpu.weight", "10000".to_owned()), ("cgroup.subtree_control", CONTROLLERS.to_owned())]
            }
        }
    }

    /// The file of a device's group that limits its memory, MB.
    fn memory(self, mb: u64) -> (&'static str, String) {
        let bytes = mb.saturating_mul(1_000_000).to_string();
        match self {
            Version::One => ("memory.limit_in_bytes", bytes),
            Version::Two => ("memory.max", bytes),
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
    memory: Option<PathBuf>,
    folder: stale::Folder,
}

/// Whether quotas can be set: sets one.
///
/// # Errors
/// As [`Groups::new`].
pub(crate) fn probe() -> Result<()> {
    let groups = Groups::new()?;
    groups.device("probe", 0.5, None)?;
    groups.remove("probe");
    Ok(())
}

/// Removes what crashed testbeds left, of this user. Gives the names of what it was.
///
/// # Errors
/// As [`stale::clean`].
pub(crate) fn clean() -> Result<BTreeSet<String>> {
    // Where groups cannot be made, there are none.
    let hierarchy = hierarchy().ok();
    stale::clean(&hierarchy.as_ref().map(Hierarchy::roots).unwrap_or_default())
}

impl Hierarchy {
    fn roots(&self) -> Vec<&Path> {
        let memory = self.memory.iter().filter(|memory| **memory != self.root);
        std::iter::once(&self.root).chain(memory).map(PathBuf::as_path).collect()
    }
}

impl Groups {
    /// Makes the group of this process, and removes what crashed ones left.
    ///
    /// # Errors
    /// Without root, or without a hierarchy that has the CPU controller.
    pub(crate) fn new() -> Result<Groups> {
        let hierarchy = hierarchy()?;
        stale::clean(&hierarchy.roots())?;
        let Hierarchy { version, root, memory } = hierarchy;
        if version == Version::Two {
            let control = root.join("cgroup.subtree_control");
            fs::write(&control, CONTROLLERS)
                .with_context(|| format!("cannot write `{}`", control.display()))?;
        }
        let name = stale::own_name()?;
        let (folder, path) = (stale::Folder::new(&name)?, root.join(&name));
        let groups = Groups { version, memory: memory.map(|root| root.join(&name)), name, path, folder };
        groups.all().into_iter().try_for_each(make)?;
        write_all(&groups.path, &version.shared())?;
        Ok(groups)
    }

    /// What the testbed of this process is called: whatever else outlives a process is to begin with this name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A folder to work in, which goes with this.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Makes the groups of a device with this share of a core, and so much memory, MB. Gives the files that a process
    /// joins them by, through writing its id there.
    ///
    /// # Errors
    /// Also when memory is to be limited, and this system does not do that.
    pub(crate) fn device(&self, name: &str, share: f64, memory_mb: Option<u64>) -> Result<Vec<PathBuf>> {
        let path = self.path.join(name);
        make(&path)?;
        write_all(&path, &self.version.quota(share))?;
        let mut joined = vec![path.join(PROCESSES)];
        if let Some(mb) = memory_mb {
            let memory =
                self.memory.as_ref().context("no control group hierarchy with the memory controller")?;
            let memory = memory.join(name);
            if memory != path {
                make(&memory)?;
                joined.push(memory.join(PROCESSES));
            }
            write_all(&memory, &[self.version.memory(mb)])?;
        }
        Ok(joined)
    }

    /// Removes a device's groups once its processes have ended.
    pub(crate) fn remove(&self, name: &str) {
        self.all().into_iter().for_each(|group| remove_group(&group.join(name)));
    }

    /// The group of this process in each hierarchy.
    fn all(&self) -> Vec<&Path> {
        let memory = self.memory.iter().filter(|memory| **memory != self.path);
        std::iter::once(&self.path).chain(memory).map(PathBuf::as_path).collect()
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        self.all().into_iter().for_each(remove_tree);
    }
}

fn make(group: &Path) -> Result<()> {
    fs::create_dir(group).with_context(|| format!("cannot make the group `{}`", group.display()))
}

/// Where this system sets CPU quotas.
fn hierarchy() -> Result<Hierarchy> {
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

/// The hierarchies of the CPU and the memory controller, of version 1 if there are both versions. `has` looks into one of
/// version 2.
fn find(mounts: &str, has: &dyn Fn(&Path, &str) -> bool) -> Option<Hierarchy> {
    let of = |version: Version, controller: &str| {
        mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (path, kind, options) = (PathBuf::from(fields.next()?), fields.next()?, fields.next()?);
            let found = match version {
                Version::One => kind == "cgroup" && options.split(',').any(|option| option == controller),
                Version::Two => kind == "cgroup2" && has(&path, controller),
            };
            found.then_some(path)
        })
    };
    let of = |version: Version| {
        let memory = || of(version, "memory");
        of(version, "cpu").map(|root| Hierarchy { version, root, memory: memory() })
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
