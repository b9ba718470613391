//! Keeps the cores of this machine from sleeping while something is measured: on each, a process that takes only the time
//! that nobody else wants.
//!
//! A virtual machine gives a core back that has nothing to do, and gets it again with the caches of somebody else. So one
//! device at work, on a machine that mostly waits, takes more CPU time for an item than beside seven others, and every
//! speed-up over it is too large. Called by [`crate::lab`]; it is no reason to fail.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::paced;

/// Becomes a process of the class that runs when no other wants to (`SCHED_IDLE`), on the core whose number comes next, and
/// then the program that comes after that.
const IDLE: [&str; 5] = ["chrt", "--idle", "0", "taskset", "-c"];

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
        let mut awake = Awake(Vec::new());
        for core in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            let core = core.to_string();
            let [program, arguments @ ..] = IDLE;
            let tried = Command::new(program).args(arguments).args([&core, "true"]).status();
            let works = tried.is_ok_and(|status| status.success());
            ensure!(
                works,
                "`{} {core} true` does not work; both are in the package util-linux",
                IDLE.join(" ")
            );
            let mut command = paced::leash()?;
            command.args(IDLE).arg(&core).args(BUSY);
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
