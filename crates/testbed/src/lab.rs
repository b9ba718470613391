//! What experiments with real nodes share: the programs, a place to work in, and runs that nothing disturbed.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::awake::Awake;
use crate::common::{self, Origin, Programs};
use crate::devices::{Cluster, Devices, Program, cluster_file, cluster_file_of};
use crate::interrupt::Interrupt;
use crate::limits::{Emulation, Limits, Way};
use crate::network::Network;
use crate::schedule;
use crate::stream::{Job, Streamed, stream};

/// Where `defer` keeps what it measured, in its cache.
const FIGURES: &str = "figures";

/// A place for the runs of one experiment. All that they make there goes when it is dropped.
pub struct Lab {
    /// Where the experiment is.
    folder: PathBuf,
    pub(crate) origin: Origin,
    limits: Limits,
    interrupt: Interrupt,
    /// While there is something to measure.
    awake: Option<Awake>,
    cache: PathBuf,
    defer: PathBuf,
    engine: String,
    onnxruntime: Option<PathBuf>,
}

impl Lab {
    /// For an experiment in this folder, with models run by this engine on devices that are emulated this way.
    ///
    /// # Errors
    /// Where devices cannot be emulated.
    pub fn new(folder: &Path, engine: &str, programs: &Programs, way: Way) -> Result<Lab> {
        let (defer, origin) = (programs.defer()?, Origin::now());
        let interrupt = Interrupt::listen().context("cannot listen for signals")?;
        let limits = Limits::new(way)?;
        Ok(Lab {
            folder: folder.to_owned(),
            origin,
            cache: limits.folder().join("cache"),
            limits,
            interrupt,
            awake: None,
            onnxruntime: if engine == "onnxruntime" { programs.library(&defer) } else { None },
            defer,
            engine: engine.to_owned(),
        })
    }

    /// Keeps the cores of this machine from sleeping, from now on: what is measured is then the same whether many devices
    /// work or one. Called from the main thread.
    pub(crate) fn keep_awake(&mut self) {
        match Awake::start() {
            Ok(awake) => {
                self.awake = Some(awake);
                // Runs of a machine that may sleep are those of another.
                self.origin.machine += ", kept awake";
            }
            Err(e) => {
                let _ = writeln!(
                    io::stderr(),
                    "warning: cores may sleep, and one device be slower than one of many: {e:#}"
                );
            }
        }
    }

    /// The file of a model: one in `models/` beside the folder of the experiment, or one of the zoo, made now.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn model(&self, name: &str) -> Result<PathBuf> {
        common::model(name, &self.folder, self.limits.folder(), &self.program())
    }

    /// A folder to work in, which goes with this.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.limits.folder()
    }

    /// What the devices of a cluster are here.
    ///
    /// # Errors
    /// When the cluster cannot be emulated this way.
    pub(crate) fn emulation(&self, cluster: &Cluster) -> Result<Emulation> {
        self.limits.emulation(cluster)
    }

    /// Writes the file that describes a cluster to `defer run`.
    ///
    /// # Errors
    /// When the cluster cannot be emulated.
    pub fn cluster(&self, cluster: &Cluster) -> Result<PathBuf> {
        let file = self.limits.folder().join(format!("{}.toml", cluster.name));
        fs::write(&file, cluster_file(cluster)?).context("cannot write a cluster file")?;
        Ok(file)
    }

    /// Runs a job until nothing disturbs it, so many times at most; the last one counts in any case. Gives the number
    /// of the attempt, too.
    ///
    /// # Errors
    /// When a run fails, or somebody wants it all to end.
    pub(crate) fn undisturbed(
        &self,
        cluster: &Cluster,
        job: &Job<'_>,
        attempts: usize,
    ) -> Result<(Streamed, usize)> {
        // Nodes of their own for each run: nothing is left in memory from another one.
        let run = || self.stream(&self.start(cluster)?, job, &mut |_| Ok(()));
        self.until_calm(attempts, &run, &|streamed| !streamed.disturbance.is_too_much())
    }

    /// Runs a job on each device of a cluster by itself, on all at once: what they do while nothing has to travel between
    /// them. The rest is as in [`Lab::undisturbed`].
    ///
    /// # Errors
    /// As there.
    pub(crate) fn side_by_side(
        &self,
        cluster: &Cluster,
        job: &Job<'_>,
        attempts: usize,
    ) -> Result<(Vec<Streamed>, usize)> {
        let calm = |all: &Vec<Streamed>| all.iter().all(|streamed| !streamed.disturbance.is_too_much());
        self.until_calm(attempts, &|| self.all_at_once(cluster, job), &calm)
    }

    /// Runs something until it is calm, so many times at most. What a run that was not calm kept of devices is forgotten:
    /// measured beside others, it would make every later prediction wrong.
    fn until_calm<T>(
        &self,
        attempts: usize,
        run: &dyn Fn() -> Result<T>,
        is_calm: &dyn Fn(&T) -> bool,
    ) -> Result<(T, usize)> {
        let folder = self.cache.join(FIGURES);
        for attempt in 1.. {
            let before = figures(&folder).context("cannot read what is kept of devices")?;
            let result = run()?;
            let calm = is_calm(&result);
            if !calm {
                put_back(&folder, &before).context("cannot put back what was kept of devices")?;
            }
            if attempt >= attempts || calm {
                return Ok((result, attempt));
            }
        }
        unreachable!("the last attempt counts")
    }

    fn all_at_once(&self, cluster: &Cluster, job: &Job<'_>) -> Result<Vec<Streamed>> {
        let devices = self.start(cluster)?;
        let run = |device: usize| {
            let file = self.limits.folder().join(format!("{}-{}.toml", cluster.name, device + 1));
            fs::write(&file, cluster_file_of(cluster, device..device + 1)?)
                .context("cannot write a cluster file")?;
            self.stream(&devices, &Job { cluster: &file, ..*job }, &mut |_| Ok(()))
        };
        let run = &run;
        std::thread::scope(|scope| {
            let running: Vec<_> =
                (0..cluster.devices.len()).map(|device| scope.spawn(move || run(device))).collect();
            running.into_iter().map(|run| run.join().expect("a run does not panic")).collect()
        })
    }

    /// The network of a cluster without the nodes in it.
    ///
    /// # Errors
    /// When the cluster has none, or it cannot be emulated.
    pub fn network(&self, cluster: &Cluster) -> Result<Network> {
        self.limits.network(cluster)?.with_context(|| format!("`{}` has no network", cluster.name))
    }

    /// Starts the devices of a cluster.
    ///
    /// # Errors
    /// When one does not start.
    pub fn start(&self, cluster: &Cluster) -> Result<Devices<'_>> {
        let mut devices = Devices::start(cluster, &self.limits, &self.program(), &self.interrupt)?;
        devices.beside = self.awake.iter().flat_map(Awake::processes).collect();
        Ok(devices)
    }

    /// Runs a job on devices, to which happens what their schedule says; `heard` is told of each result, by how many there
    /// are then.
    ///
    /// # Errors
    /// When the run fails, or somebody wants it to end.
    pub(crate) fn stream(
        &self,
        devices: &Devices<'_>,
        job: &Job<'_>,
        heard: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Streamed> {
        // Of those that are measured.
        let first = job.warm_up + 1;
        let run = |tell: &mut dyn FnMut(usize)| {
            let mut heard = |results| {
                tell(results);
                heard(results)
            };
            stream(job, devices, &self.program(), &self.interrupt, &mut heard)
        };
        let streamed = schedule::during(&devices.schedule, first, |fault| devices.strike(fault), run)?;
        devices.check()?;
        Ok(streamed)
    }

    fn program(&self) -> Program<'_> {
        Program {
            path: &self.defer,
            engine: &self.engine,
            cache: &self.cache,
            onnxruntime: self.onnxruntime.as_deref(),
        }
    }
}

/// What is kept of devices and models, by file: small ones, a few hundred.
fn figures(folder: &Path) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let files = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        files => files?,
    };
    let read = |path: PathBuf| fs::read(&path).map(|bytes| (path, bytes));
    files.map(|file| file.and_then(|file| read(file.path()))).collect()
}

/// Keeps that and nothing else.
fn put_back(folder: &Path, figures: &[(PathBuf, Vec<u8>)]) -> io::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    figures.iter().try_for_each(|(path, bytes)| fs::write(path, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_before_is_kept_again_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("figures");
        let nothing = figures(&folder).unwrap();
        assert!(nothing.is_empty());
        put_back(&folder, &nothing).unwrap();
        fs::write(folder.join("a"), "before").unwrap();
        let before = figures(&folder).unwrap();
        fs::write(folder.join("a"), "disturbed").unwrap();
        fs::write(folder.join("b"), "disturbed").unwrap();
        put_back(&folder, &before).unwrap();
        assert_eq!(figures(&folder).unwrap(), [(folder.join("a"), b"before".to_vec())]);
        put_back(&folder, &nothing).unwrap();
        assert!(figures(&folder).unwrap().is_empty());
    }
}
