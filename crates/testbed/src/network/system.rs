//! Network namespaces of the system, and its commands for them. Called by [`super::Network`] and its parts.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where `ip` keeps the namespaces that have a name.
pub(crate) const NAMESPACES: &str = "/run/netns";

/// Removes a namespace; what it holds goes with it. One that is gone already is none that failed.
pub(crate) fn remove_namespace(name: &str) -> Result<()> {
    let path = Path::new(NAMESPACES).join(name);
    match ip(&["netns", "del", name]) {
        Err(error) if path.exists() => Err(error),
        _ => Ok(()),
    }
}

/// Does some work in a namespace.
pub(super) fn enter<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
    let path = Path::new(NAMESPACES).join(namespace);
    let enter = || -> io::Result<()> {
        move_into_link_name_space(File::open(&path)?.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(())
    };
    // A namespace is that of a thread, and this thread is to stay where it is.
    let done = std::thread::scope(|scope| scope.spawn(|| enter().map(|()| work())).join());
    let done = done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    done.with_context(|| format!("cannot enter the network namespace `{}`", path.display()))
}

/// Sets what the system of a namespace is like, as far as it knows of it.
pub(super) fn set(namespace: &str, settings: &[(&str, &str)]) -> Result<()> {
    for (name, value) in settings {
        let path = Path::new("/proc/sys").join(name);
        match enter(namespace, || fs::write(&path, value))? {
            // A kernel without it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            done => done.with_context(|| format!("cannot write `{}` in `{namespace}`", path.display()))?,
        }
    }
    Ok(())
}

pub(super) fn ip(args: &[&str]) -> Result<()> {
    run("ip", args)
}

/// Runs one of the commands of iproute2.
pub(super) fn run(program: &str, args: &[&str]) -> Result<()> {
    let output = match Command::new(program).args(args).output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("emulated networks need `{program}`: install iproute2")
        }
        output => output.with_context(|| format!("cannot start `{program}`"))?,
    };
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "the system cannot emulate links: `{program} {}`: {}",
        args.join(" "),
        message.trim()
    );
    Ok(())
}
