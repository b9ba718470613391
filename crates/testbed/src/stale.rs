//! What a testbed is called in the system, and how one whose process crashed is found, ended and removed.
//!
//! Control groups, network namespaces and folders outlive a process, so all have it in their names. Called whenever a
//! testbed is set up, and by `defer-testbed clean`; it never touches what belongs to a process that lives.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{cgroup, host, network};

/// What everything is called that a testbed makes; its process and when that began follow.
const PREFIX: &str = "defer-testbed-";

/// A file in the folder of a testbed that its processes hold open, all of them, and nobody else.
const HELD: &str = "held";

/// How long a killed process may take to end: it may be in the middle of a call.
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// A process, by its id and the clock tick at which it began: ids come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner {
    process: u32,
    began: u64,
}

impl Owner {
    /// Whose something of this name is; `None` if it was not made by a testbed.
    fn of(name: &str) -> Option<Owner> {
        let mut fields = name.strip_prefix(PREFIX)?.split('-');
        Some(Owner { process: fields.next()?.parse().ok()?, began: fields.next()?.parse().ok()? })
    }

    fn lives(self) -> bool {
        began(self.process).is_some_and(|began| began == self.began)
    }
}

/// What this process's testbed is called.
pub(crate) fn own_name() -> Result<String> {
    let process = std::process::id();
    let began = began(process).context("cannot read /proc/self/stat")?;
    Ok(format!("{PREFIX}{process}-{began}"))
}

/// The folder in which a testbed works. Who holds a file of it open is a member of the testbed: this process, and all
/// that it starts from now on.
#[derive(Debug)]
pub(crate) struct Folder {
    folder: TempDir,
    _held: File,
}

impl Folder {
    /// That of the testbed of this name, among the files of this system that nobody keeps.
    pub(crate) fn new(name: &str) -> Result<Folder> {
        Folder::within(&temporary()?, name)
    }

    fn within(root: &Path, name: &str) -> Result<Folder> {
        let folder = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(root);
        let folder = folder.context("cannot make a folder to work in")?;
        let path = folder.path().join(HELD);
        let held = File::create(&path).with_context(|| format!("cannot make `{}`", path.display()))?;
        fcntl_setfd(&held, FdFlags::empty()).context("cannot hand an open file down")?;
        Ok(Folder { folder, _held: held })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Ends and removes the testbeds whose processes are no more: what runs, then namespaces, groups and folders, so that
/// one that is interrupted is found again. `roots` are where their groups are. Gives the names of what was removed.
///
/// # Errors
/// When something cannot be ended or removed.
pub(crate) fn clean(roots: &[&Path]) -> Result<BTreeSet<String>> {
    let temporary = temporary()?;
    let folders: BTreeSet<String> =
        stale(&temporary).into_iter().filter(|name| is_own(&temporary.join(name))).collect();
    folders.iter().try_for_each(|folder| end_members(&temporary.join(folder)))?;
    // Who is not root has none.
    let is_root = rustix::process::geteuid().is_root();
    let namespaces = if is_root { stale(Path::new(network::NAMESPACES)) } else { BTreeSet::new() };
    namespaces.iter().try_for_each(|namespace| network::remove_namespace(namespace))?;
    let mut groups = BTreeSet::new();
    for root in roots {
        for group in stale(root) {
            let path = root.join(&group);
            cgroup::remove_tree(&path);
            ensure!(!path.exists(), "cannot remove the group `{}` of a testbed that crashed", path.display());
            groups.insert(group);
        }
    }
    for folder in &folders {
        let path = temporary.join(folder);
        fs::remove_dir_all(&path).with_context(|| format!("cannot remove `{}`", path.display()))?;
    }
    Ok(groups.into_iter().chain(namespaces).chain(folders).collect())
}

/// Where files are that nobody keeps, without links on the way: open files are known by their path.
fn temporary() -> Result<PathBuf> {
    let folder = std::env::temp_dir();
    folder.canonicalize().with_context(|| format!("cannot find `{}`", folder.display()))
}

/// Whether a folder is this user's: anybody may make one of any name where nobody keeps files.
fn is_own(path: &Path) -> bool {
    let own = |data: fs::Metadata| data.is_dir() && data.uid() == rustix::process::geteuid().as_raw();
    fs::symlink_metadata(path).is_ok_and(own)
}

/// What a folder has of testbeds whose processes are no more.
fn stale(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| Owner::of(name).is_some_and(|owner| !owner.lives()))
        .collect()
}

/// Kills what a crashed testbed still runs. Who was killed in the middle of starting somebody else has done so, and
/// nodes may wait for their quota: it looks until nobody is left.
fn end_members(folder: &Path) -> Result<()> {
    let held = folder.join(HELD);
    let deadline = Instant::now() + END_TIMEOUT;
    loop {
        let members = holders(&held)?;
        if members.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{members:?} of a testbed that crashed cannot be ended");
        for member in members {
            // It may have ended by itself.
            let _ = kill_process(member, Signal::KILL);
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "nobody says when a process of somebody else has ended"
        )]
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Processes other than this one that hold a file open.
fn holders(path: &Path) -> io::Result<Vec<Pid>> {
    let processes = fs::read_dir("/proc")?.flatten().map(|entry| entry.path());
    let id = |process: &PathBuf| Pid::from_raw(process.file_name()?.to_str()?.parse().ok()?);
    let others = processes.filter_map(|process| Some((id(&process)?, process)));
    let others = others.filter(|(id, _)| *id != rustix::process::getpid());
    Ok(others.filter(|(_, process)| holds(process, path)).map(|(id, _)| id).collect())
}

/// Whether the process of this folder in `/proc` has a file open; one that has ended has none.
fn holds(process: &Path, path: &Path) -> bool {
    let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    files.filter_map(|file| fs::read_link(file.path()).ok()).any(|file| file == path)
}

/// The clock tick at which a process began; `None` when it is no more, or has only not been waited for.
fn began(process: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let fields = host::process_fields(&stat)?;
    match fields.first() {
        Some(&("Z" | "X")) => None,
        _ => fields.get(19)?.parse().ok(),
    }
}

/// Tests that start processes take turns: whoever is started while a testbed's file is open is a member of it.
#[cfg(test)]
pub(crate) static STARTING: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn names_tell_the_process() {
        let check = |name: &str, expected: Option<(u32, u64)>| {
            let owner = Owner::of(name).map(|owner| (owner.process, owner.began));
            assert_eq!(owner, expected, "{name}");
        };
        check("defer-testbed-12-345", Some((12, 345)));
        check("defer-testbed-12-345-equal-4-1", Some((12, 345)));
        for foreign in ["defer-testbed-12", "defer-testbed-x-1", "defer-testbed-", "docker", "12-345"] {
            check(foreign, None);
        }
    }

    /// One test for both, as whoever is started while the file is open inherits it.
    #[test]
    fn processes_live_until_they_end_and_members_are_those_who_inherited() {
        let _alone = STARTING.lock();
        let cat = || Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        assert!(Owner::of(&own_name().unwrap()).unwrap().lives());
        let mut stranger = cat();
        let owner = Owner { process: stranger.id(), began: began(stranger.id()).unwrap() };
        assert!(owner.lives());
        assert!(!Owner { began: owner.began + 1, ..owner }.lives(), "another process of the same id");

        let root = tempfile::tempdir().unwrap();
        let Folder { folder, _held } = Folder::within(&root.path().canonicalize().unwrap(), "x").unwrap();
        let held = folder.path().join(HELD);
        let mut member = cat();
        drop(_held);
        let members: Vec<u32> = holders(&held).unwrap().iter().map(|id| id.as_raw_pid() as u32).collect();
        assert_eq!(members, [member.id()]);
        end_members(held.parent().unwrap()).unwrap();
        assert!(!member.wait().unwrap().success());
        assert!(holders(&held).unwrap().is_empty());

        assert!(owner.lives(), "a stranger was ended");
        stranger.kill().unwrap();
        assert_eq!(stranger.wait().unwrap().code(), None);
        assert!(!owner.lives());
    }
}
