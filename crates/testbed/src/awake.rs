//! Keeps the cores of this machine from sleeping while something is measured: on each, a process that takes only the time
//! that nobody else wants.
//!
//! A virtual machine gives a core back that has nothing to do, and gets it again with the caches of somebody else. So one
//! device at work, on a machine that mostly waits, took up to twice the CPU time for an item that it takes beside seven
//! others, and every speed-up over it was too large. Called by [`crate::lab`]; it is no reason to fail.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use crate::paced;

/// Becomes a process of the class that runs when no other wants to (`SCHED_IDLE`), which is given as the next arguments.
const IDLE: [&str; 3] = ["chrt", "--idle", "0"];

/// What never waits.
const BUSY: [&str; 3] = ["sh", "-c", "while :; do :; done"];

/// A process for each core; they end when this is dropped, and when this process is killed.
#[derive(Debug)]
pub(crate) struct Awake(Vec<Child>);

impl Awake {
    /// Starts them, from the main thread: see [`paced::leash`].
    ///
    /// # Errors
    /// Where there are no such processes.
    pub(crate) fn start() -> Result<Awake> {
        let [program, arguments @ ..] = IDLE;
        let tried = Command::new(program).args(arguments).arg("true").status();
        let works = tried.is_ok_and(|status| status.success());
        anyhow::ensure!(works, "`chrt --idle 0` does not work here; it is in the package util-linux");
        let mut awake = Awake(Vec::new());
        for core in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            let mut command = paced::leash()?;
            command.args(IDLE).args(["taskset", "-c", &core.to_string()]).args(BUSY);
            command.stdin(Stdio::null()).stdout(Stdio::null());
            awake.0.push(command.spawn().context("cannot start a process")?);
        }
        Ok(awake)
    }

    /// Their ids: the CPU time that they take disturbs nobody.
    pub(crate) fn processes(&self) -> impl Iterator<Item = u32> {
        self.0.iter().map(Child::id)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
