//! Control groups with a CPU quota and a memory limit, of version 1 or 2: each emulates a small device.
//!
//! All groups of a process lie under one of its own, which goes when it is dropped; one that a crashed process left
//! behind is removed by the next, see [`crate::stale`]. Called by [`crate::devices`]; it never ends a process.

mod hierarchy;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::io::Errno;

use crate::stale;
use hierarchy::{CONTROLLERS, Hierarchy, Version, hierarchy};

/// The quota is dealt out anew after this long: short, so that a device is slow rather than often stopped.
pub(crate) const PERIOD_MICROS: u64 = 20_000;

/// The least share of a core that a group can have: the kernel deals out no less than a millisecond in a period.
pub(crate) const LEAST_SHARE: f64 = 1_000.0 / PERIOD_MICROS as f64;

/// The file of a group that lists its processes.
const PROCESSES: &str = "cgroup.procs";

/// How long processes that ended may take to leave their group.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

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

/// CPU time of all processes together, as the kernel counts it for the group that they are all in; `None` where it keeps
/// no such count: version 2 has for that group only what it looks up at each tick.
pub(crate) fn cpu_time_of_all() -> Option<Duration> {
    let counted = fs::read_to_string(hierarchy::accounts()?.join("cpuacct.usage")).ok()?;
    counted.trim().parse().ok().map(Duration::from_nanos)
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

    /// Gives a device another share of a core.
    ///
    /// # Errors
    /// When there is no such device.
    pub(crate) fn set_quota(&self, name: &str, share: f64) -> Result<()> {
        write_all(&self.path.join(name), &self.version.quota(share))
    }

    /// Gives a device that has a limit of memory another one, MB. Version 1 refuses what is below what a device holds and
    /// does not let go; it then has as much as it holds, and is killed when it asks for more.
    ///
    /// # Errors
    /// When there is no such device, or none that was started with a limit.
    pub(crate) fn set_memory(&self, name: &str, mb: u64) -> Result<()> {
        let memory = self.memory.as_ref().map(|memory| memory.join(name)).filter(|memory| memory.exists());
        let memory = memory.context("it was started without a limit of memory")?;
        let (file, wanted) = self.version.memory(mb);
        let path = memory.join(file);
        let deadline = Instant::now() + LEAVE_TIMEOUT;
        let mut limit = wanted;
        // What it holds may grow before it becomes the limit.
        loop {
            match fs::write(&path, &limit) {
                Err(e) if is_busy(&e) && Instant::now() < deadline => {
                    limit = self.version.memory_held(&memory)?
                }
                written => {
                    return written
                        .with_context(|| format!("cannot write {limit} into `{}`", path.display()));
                }
            }
        }
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

fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::BUSY.raw_os_error())
}

fn write_all(group: &Path, files: &[(&str, String)]) -> Result<()> {
    for (file, content) in files {
        let path = group.join(file);
        fs::write(&path, content)
            .with_context(|| format!("cannot write {content} into `{}`", path.display()))?;
    }
    Ok(())
}
