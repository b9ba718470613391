//! The two ways of making a device of a process: control groups, which need root and can have links and memory limits
//! beside them, and signals, which need nothing. Called by [`crate::lab`] and [`crate::devices`], which do not know
//! which of them it is.

use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::cgroup::{self, Groups, LEAST_SHARE};
use crate::devices::{Cluster, Device};
use crate::network::Network;
use crate::paced::{self, Pacer};
use crate::stale;

/// Becomes what comes after `--`, on the core with the number that comes first there, once it has joined the groups that
/// come before: so nothing of a node is ever outside them.
const JOIN: &str =
    r#"while [ "$1" != -- ]; do echo $$ > "$1" || exit; shift; done; shift; exec taskset -c "$@""#;

/// Which way it is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Control groups and network namespaces, which need root.
    Groups,
    /// Signals.
    Paced,
}

/// What devices were when something was measured.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) enum Emulation {
    /// Rows that do not say it are older than the others.
    #[default]
    #[serde(rename = "quotas and links")]
    QuotasAndLinks,
    #[serde(rename = "quotas")]
    Quotas,
    #[serde(rename = "paced")]
    Paced,
}

impl Emulation {
    pub(crate) fn way(self) -> Way {
        match self {
            Emulation::QuotasAndLinks | Emulation::Quotas => Way::Groups,
            Emulation::Paced => Way::Paced,
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Way::Groups => "under quotas of the kernel",
            Way::Paced => "paced by signals",
        })
    }
}

/// What limits the devices of this process.
#[derive(Debug)]
pub(crate) enum Limits {
    Groups(Groups),
    /// Only a folder to work in.
    Paced(stale::Folder),
}

impl Limits {
    /// Makes what all devices share, and removes what crashed processes left of it.
    ///
    /// # Errors
    /// Where devices cannot be emulated in this way.
    pub(crate) fn new(way: Way) -> Result<Limits> {
        Ok(match way {
            Way::Groups => Limits::Groups(Groups::new()?),
            Way::Paced => {
                cgroup::clean()?;
                Limits::Paced(stale::Folder::new(&stale::own_name()?)?)
            }
        })
    }

    /// A folder to work in, which goes with this.
    pub(crate) fn folder(&self) -> &Path {
        match self {
            Limits::Groups(groups) => groups.folder(),
            Limits::Paced(folder) => folder.path(),
        }
    }

    /// What the devices of a cluster are here.
    ///
    /// # Errors
    /// When the cluster has what cannot be emulated in this way.
    pub(crate) fn emulation(&self, cluster: &Cluster) -> Result<Emulation> {
        let Limits::Paced(_) = self else {
            for (i, device) in cluster.devices.iter().enumerate() {
                ensure!(
                    device.quota >= LEAST_SHARE,
                    "device {} of `{}` has {} of a core; control groups give {LEAST_SHARE} at least",
                    i + 1,
                    cluster.name,
                    device.quota
                );
            }
            let linked = cluster.network.is_some();
            return Ok(if linked { Emulation::QuotasAndLinks } else { Emulation::Quotas });
        };
        let name = &cluster.name;
        let refused = "which --paced cannot emulate: leave it out, or run this as root without --paced";
        ensure!(cluster.network.is_none(), "the cluster `{name}` has a `network`, {refused}");
        let limited = cluster.devices.iter().any(|device| device.memory_mb.is_some());
        ensure!(!limited, "devices of `{name}` have a limit of memory, {refused}");
        ensure!(cluster.schedule.is_empty(), "the cluster `{name}` has a `schedule`, {refused}");
        Ok(Emulation::Paced)
    }

    /// The network of a cluster, if it has one.
    ///
    /// # Errors
    /// When it cannot be emulated.
    pub(crate) fn network(&self, cluster: &Cluster) -> Result<Option<Network>> {
        self.emulation(cluster)?;
        let (Limits::Groups(groups), Some(network)) = (self, &cluster.network) else { return Ok(None) };
        let prefix = format!("{}-{}", groups.name(), cluster.name);
        Network::new(&prefix, cluster.devices.len(), network, &cluster.expected()?).map(Some)
    }

    /// The beginning of the command that starts a node as the device with this name and number: it becomes the program
    /// that is given as the next argument.
    ///
    /// # Errors
    /// When the device cannot be emulated.
    pub(crate) fn command(&self, name: &str, number: usize, device: &Device) -> Result<Command> {
        let Limits::Groups(groups) = self else { return paced::leash() };
        let joined = groups.device(name, device.quota, device.memory_mb)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut command = Command::new("sh");
        command.args(["-c", JOIN, "sh"]).args(joined).arg("--").arg((number % cores).to_string());
        Ok(command)
    }

    /// What holds nodes to their quotas from when they are up until it is dropped, if the kernel does not. `nodes` are
    /// processes with the devices that they are; none may have been waited for before it is dropped.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub(crate) fn pacer(&self, nodes: &[(u32, Device)]) -> Result<Option<Pacer>> {
        match self {
            Limits::Groups(_) => Ok(None),
            Limits::Paced(_) => {
                let quotas = nodes.iter().map(|(process, device)| (*process, device.quota)).collect();
                Pacer::start(quotas).context("cannot pace the nodes").map(Some)
            }
        }
    }

    /// Gives a device another share of a core.
    ///
    /// # Errors
    /// Where that is not done by control groups.
    pub(crate) fn set_quota(&self, name: &str, share: f64) -> Result<()> {
        self.groups()?.set_quota(name, share)
    }

    /// Gives a device other memory, MB, if it had a limit before.
    ///
    /// # Errors
    /// Where that is not done by control groups.
    pub(crate) fn set_memory(&self, name: &str, mb: u64) -> Result<()> {
        self.groups()?.set_memory(name, mb)
    }

    fn groups(&self) -> Result<&Groups> {
        match self {
            Limits::Groups(groups) => Ok(groups),
            Limits::Paced(_) => bail!("devices that are paced by signals stay as they are"),
        }
    }

    /// Forgets a device once its process has ended.
    pub(crate) fn remove(&self, name: &str) {
        if let Limits::Groups(groups) = self {
            groups.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Description;

    #[test]
    fn what_signals_cannot_do_is_refused() {
        let device = |memory_mb| Device { quota: 0.5, idle_watts: 1.0, busy_watts: 2.0, memory_mb };
        let limits = Limits::Paced(stale::Folder::new("limits-test").unwrap());
        let check =
            |memory_mb: Option<u64>, network: Option<Description>, expected: Result<Emulation, &str>| {
                let cluster = Cluster::new("c", vec![device(memory_mb)], network);
                let found = limits.emulation(&cluster).map_err(|error| error.to_string());
                match expected {
                    Ok(emulation) => assert_eq!(found, Ok(emulation)),
                    Err(message) => assert!(found.unwrap_err().contains(message), "{message}"),
                }
            };
        check(None, None, Ok(Emulation::Paced));
        check(None, Some(Description::even(100.0)), Err("the cluster `c` has a `network`"));
        check(Some(64), None, Err("devices of `c` have a limit of memory"));
    }
}
