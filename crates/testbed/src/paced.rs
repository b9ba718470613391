//! Quotas without root: a thread looks at the CPU time of each node every few milliseconds, stops it by a signal when it
//! has taken more than its share of a core, and lets it go on when that has been made up for.
//!
//! Called by [`crate::limits`]. No node may stay stopped: dropping the pacer lets all go on, and the kernel kills them
//! when this process is killed, see [`leash`]. It never waits for a process.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use nix::time::ClockId;
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};

/// Between two looks: what a node may take too much before it is stopped, so short beside what an item takes, but each
/// look costs this process about 10 microseconds.
const LOOK_PERIOD: Duration = Duration::from_millis(2);

/// What a node that did not want its share may take later, at once: as with the quotas of control groups, that of
/// one period of theirs.
const KEPT: Duration = Duration::from_micros(crate::cgroup::PERIOD_MICROS);

/// The thread that paces some processes; it lets them all go on when this is dropped.
#[derive(Debug)]
pub(crate) struct Pacer {
    /// Nothing is sent: the thread ends when this is gone.
    running: Option<Sender<Infallible>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Pacer {
    /// Holds processes to their shares of a core from now on. None of these children may have been waited for before
    /// this is dropped: their ids could be those of others then.
    pub(crate) fn start(quotas: Vec<(u32, f64)>) -> Result<Pacer> {
        let subjects = quotas.into_iter().map(|(process, quota)| Subject::new(process, quota));
        let subjects = subjects.collect::<Result<Vec<Subject>>>()?;
        let (running, ended) = bounded(0);
        let thread = std::thread::Builder::new().name("pace".to_owned());
        let thread = thread.spawn(move || pace(subjects, &ended)).context("cannot start a thread")?;
        Ok(Pacer { running: Some(running), thread: Some(thread) })
    }

    /// Fails when processes are no longer paced: what is measured then says nothing.
    pub(crate) fn check(&self) -> Result<()> {
        let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        ensure!(!ended, "nodes are no longer held to their quotas; has one of them ended?");
        Ok(())
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        drop(self.running.take());
        // Whatever became of it, it has let all go on.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Paces until nobody wants it any more, or one of the processes has no CPU time to look at.
fn pace(mut subjects: Vec<Subject>, ended: &Receiver<Infallible>) -> Result<()> {
    let mut before = Instant::now();
    while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(LOOK_PERIOD) {
        let now = Instant::now();
        subjects.iter_mut().try_for_each(|subject| subject.look(now - before))?;
        before = now;
    }
    Ok(())
}

/// A process that is paced. It goes on when this is dropped.
#[derive(Debug)]
struct Subject {
    process: Pid,
    clock: ClockId,
    /// CPU time at the last look.
    taken: Duration,
    stopped: bool,
    budget: Budget,
}

impl Subject {
    fn new(process: u32, quota: f64) -> Result<Subject> {
        let id = i32::try_from(process).context("a process id")?;
        let clock = ClockId::pid_cpu_clock_id(nix::unistd::Pid::from_raw(id));
        let clock = clock.with_context(|| format!("cannot see the CPU time of process {process}"))?;
        let process = Pid::from_raw(id).context("a process id")?;
        let budget = Budget { quota, left_s: 0.0 };
        Ok(Subject { process, clock, taken: cpu_time(clock)?, stopped: false, budget })
    }

    /// Stops it, or lets it go on, after this time since the last look.
    fn look(&mut self, elapsed: Duration) -> Result<()> {
        let taken = cpu_time(self.clock)?;
        let more = taken.saturating_sub(self.taken);
        self.taken = taken;
        let stop = !self.budget.pass(elapsed, more, self.stopped);
        if stop != self.stopped {
            kill_process(self.process, if stop { Signal::STOP } else { Signal::CONT })?;
            self.stopped = stop;
        }
        Ok(())
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        if self.stopped {
            // It may have ended meanwhile.
            let _ = kill_process(self.process, Signal::CONT);
        }
    }
}

/// CPU time of all threads of a process, those that ended included.
fn cpu_time(clock: ClockId) -> Result<Duration> {
    Ok(clock.now().context("cannot see the CPU time of a node")?.into())
}

/// A token bucket of CPU time. What was taken too much stays as a debt, so that the mean is the quota however late the
/// looks are.
#[derive(Debug)]
struct Budget {
    /// Share of a core.
    quota: f64,
    /// Below zero: the debt.
    left_s: f64,
}

impl Budget {
    /// What some time changes, in which so much CPU time was taken. Gives whether the process may run.
    fn pass(&mut self, elapsed: Duration, taken: Duration, stopped: bool) -> bool {
        self.left_s += self.quota * elapsed.as_secs_f64() - taken.as_secs_f64();
        if !stopped {
            // It could have taken more. Who was stopped could not: a late look takes nothing away from it.
            self.left_s = self.left_s.min(self.quota * KEPT.as_secs_f64());
        }
        self.left_s > 0.0
    }
}

/// The beginning of a command of which this process is the parent, and that is killed when this process is, also while it
/// is stopped: it becomes the program that is given as the next argument. The kernel counts the thread that starts it as
/// the parent, so that must be the main thread.
pub(crate) fn leash() -> Result<Command> {
    let own = std::env::current_exe().context("cannot find the path of this program")?;
    let mut command = Command::new(own);
    command.arg("leashed").arg(std::process::id().to_string()).arg("--");
    Ok(command)
}

/// Become a program that is killed when its parent ends
#[derive(Debug, clap::Args)]
pub(crate) struct Leashed {
    /// Who is to be the parent
    parent: i32,
    /// The program with its arguments
    #[arg(last = true, required = true)]
    program: Vec<OsString>,
}

/// Becomes the program.
///
/// # Errors
/// When the parent has ended already, or there is no such program.
pub(crate) fn become_leashed(Leashed { parent, program }: &Leashed) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot end with the parent")?;
    // One that ended before that gave no signal.
    ensure!(Pid::as_raw(getppid()) == *parent, "process {parent} has ended");
    let (program, arguments) = program.split_first().context("no program")?;
    let failed = Command::new(program).args(arguments).exec();
    Err(failed).with_context(|| format!("cannot start {}", program.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stale::STARTING;
    use std::process::{Child, Stdio};

    #[test]
    fn what_was_taken_too_much_is_made_up_for() {
        let ms = Duration::from_millis;
        let mut budget = Budget { quota: 0.25, left_s: 0.0 };
        // Elapsed and taken, ms; whether it was stopped; what is left, ms.
        for (i, (elapsed, taken, stopped, left)) in [
            (4, 0, false, 1.0),
            // What was not wanted is kept, but not for ever.
            (1000, 0, false, 5.0),
            (4, 4, false, 2.0),
            (4, 4, false, -1.0),
            (2, 0, true, -0.5),
            // Of a late look while it was stopped nothing is lost.
            (42, 0, true, 10.0),
            (400, 400, false, -290.0),
            (1160, 0, true, 0.0),
            (4, 0, true, 1.0),
        ]
        .into_iter()
        .enumerate()
        {
            let runs = budget.pass(ms(elapsed), ms(taken), stopped);
            assert!((budget.left_s * 1e3 - left).abs() < 1e-9, "step {i}: {budget:?}");
            assert_eq!(runs, left > 0.0, "step {i}");
        }
    }

    /// A busy loop; killed when dropped.
    struct Busy(Child);

    impl Busy {
        fn start() -> Busy {
            Busy(Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn().unwrap())
        }

        fn state(&self) -> String {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
            crate::host::process_fields(&stat).unwrap()[0].to_owned()
        }
    }

    impl Drop for Busy {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    /// Shares of their quotas that busy loops take in a second or three.
    fn taken(quotas: &[f64]) -> Vec<f64> {
        let loops: Vec<Busy> = quotas.iter().map(|_| Busy::start()).collect();
        let subject = |(busy, quota): (&Busy, &f64)| Subject::new(busy.0.id(), *quota).unwrap();
        let before: Vec<Subject> = loops.iter().zip(quotas).map(subject).collect();
        let start = Instant::now();
        let pacer = Pacer::start(loops.iter().map(|busy| busy.0.id()).zip(quotas.iter().copied()).collect());
        #[expect(clippy::disallowed_methods, reason = "the share of a time is measured")]
        std::thread::sleep(Duration::from_secs(3));
        let share = |subject: &Subject| {
            let taken = cpu_time(subject.clock).unwrap() - subject.taken;
            taken.as_secs_f64() / start.elapsed().as_secs_f64() / subject.budget.quota
        };
        let shares = before.iter().map(share).collect();
        pacer.unwrap().check().unwrap();
        for busy in &loops {
            assert!(["R", "S"].contains(&busy.state().as_str()), "{} after the pacer", busy.state());
        }
        shares
    }

    #[test]
    fn a_busy_process_takes_its_quota() {
        let _alone = STARTING.lock();
        let near = |shares: &[f64]| shares.iter().all(|share| (0.95..1.05).contains(share));
        // Other processes may leave too little, but nobody can make a process take too much.
        let mut last = Vec::new();
        for _ in 0..5 {
            last = taken(&[0.1, 0.3, 0.5]);
            assert!(last.iter().all(|share| *share < 1.05), "{last:?} of their quotas");
            if near(&last) {
                return;
            }
        }
        panic!("{last:?} of their quotas");
    }

    #[test]
    fn a_process_that_ended_is_noticed() {
        let _alone = STARTING.lock();
        let mut busy = Busy::start();
        let subject = Subject::new(busy.0.id(), 0.1).unwrap();
        let pacer = Pacer::start(vec![(busy.0.id(), 0.1)]).unwrap();
        pacer.check().unwrap();
        busy.0.kill().unwrap();
        busy.0.wait().unwrap();
        assert!(cpu_time(subject.clock).is_err());
        let thread = pacer.thread.as_ref().unwrap();
        while !thread.is_finished() {
            std::thread::yield_now();
        }
        assert!(pacer.check().is_err());
    }
}
