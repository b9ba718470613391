//! What can be done to devices and links while they are in use: faults, and changes of what they can do. Called by the
//! [`crate::schedule`] of a cluster, and by tests.
//!
//! Faults are of processes, control groups and interfaces that a testbed made itself, never of anything else, and all end
//! with it.

use std::fmt;

use anyhow::{Context, Result, ensure};
use plan::End;
use rustix::process::Signal;

use crate::cgroup::LEAST_SHARE;
use crate::cluster::{Cluster, quota};
use crate::devices::Devices;
use crate::network::{rate, shown};

/// One of them. Devices count from 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// A device's node is killed, and never comes back.
    Kill(usize),
    /// It stands still, with its connections open, until it is thawed.
    Freeze(usize),
    /// It goes on.
    Thaw(usize),
    /// Nothing travels from and to an end any more; it does not see that its link is cut.
    Cut(End),
    /// The link is there again.
    Mend(End),
    /// A device has another share of a core.
    Quota {
        /// Which.
        device: usize,
        /// Of one core, above 0.
        share: f64,
    },
    /// A device has less memory, or more. Where it holds more than that already, control groups of version 2 kill it at
    /// once, and those of version 1 when it asks for any.
    Memory {
        /// Which.
        device: usize,
        /// Of all its processes together, MB.
        mb: u64,
    },
    /// An end's link has another rate in both directions.
    Rate {
        /// Whose.
        end: End,
        /// On the line, Mbit/s.
        mbit_s: f64,
    },
    /// What an end sends to another has another rate, which those of their links still limit.
    LinkRate {
        /// Who sends.
        from: End,
        /// Who receives.
        to: End,
        /// On the line, Mbit/s.
        mbit_s: f64,
    },
    /// A byte is damaged in some of the longer packets that an end sends to another, without TCP noticing.
    Corrupt {
        /// Who sends.
        from: End,
        /// Who receives.
        to: End,
    },
    /// None are damaged any more.
    Heal {
        /// Who sends.
        from: End,
        /// Who receives.
        to: End,
    },
}

impl Fault {
    /// Fails when this cannot be done to a cluster, as it has no such device or no network, or when its figure is none.
    pub(crate) fn check(&self, cluster: &Cluster) -> Result<()> {
        let devices = cluster.devices.len();
        for end in self.ends().into_iter().flatten() {
            let is_there = matches!(end, End::Dispatcher) || matches!(end, End::Device(i) if i < devices);
            ensure!(is_there, "there is no {}: devices are numbered from 1 to {devices}", shown(end));
        }
        let networked = || ensure_network(cluster);
        match *self {
            Fault::Kill(_) | Fault::Freeze(_) | Fault::Thaw(_) => Ok(()),
            Fault::Cut(_) | Fault::Mend(_) => networked(),
            Fault::Quota { share, .. } => {
                ensure!(quota(share)? >= LEAST_SHARE, "control groups give {LEAST_SHARE} of a core at least");
                Ok(())
            }
            Fault::Memory { mb, .. } => {
                ensure!(mb > 0, "no memory at all");
                Ok(())
            }
            Fault::Rate { mbit_s, .. } => networked().and_then(|()| rate(mbit_s).map(drop)),
            Fault::LinkRate { from, to, mbit_s } => {
                between(from, to)?;
                networked().and_then(|()| rate(mbit_s).map(drop))
            }
            Fault::Corrupt { from, to } | Fault::Heal { from, to } => {
                between(from, to).and_then(|()| networked())
            }
        }
    }

    /// Whom it is about.
    fn ends(&self) -> [Option<End>; 2] {
        match *self {
            Fault::Kill(device) | Fault::Freeze(device) | Fault::Thaw(device) => {
                [Some(End::Device(device)), None]
            }
            Fault::Quota { device, .. } | Fault::Memory { device, .. } => [Some(End::Device(device)), None],
            Fault::Cut(end) | Fault::Mend(end) | Fault::Rate { end, .. } => [Some(end), None],
            Fault::LinkRate { from, to, .. } | Fault::Corrupt { from, to } | Fault::Heal { from, to } => {
                [Some(from), Some(to)]
            }
        }
    }
}

fn between(from: End, to: End) -> Result<()> {
    ensure!(from != to, "the link from {} to itself is none", shown(from));
    Ok(())
}

fn ensure_network(cluster: &Cluster) -> Result<()> {
    ensure!(cluster.network.is_some(), "the cluster has no `network`, and so no links of its own");
    Ok(())
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = |device: &usize| shown(End::Device(*device));
        match self {
            Fault::Kill(killed) => write!(f, "kill {}", device(killed)),
            Fault::Freeze(frozen) => write!(f, "freeze {}", device(frozen)),
            Fault::Thaw(thawed) => write!(f, "thaw {}", device(thawed)),
            Fault::Cut(end) => write!(f, "cut the link of {}", shown(*end)),
            Fault::Mend(end) => write!(f, "mend the link of {}", shown(*end)),
            Fault::Quota { device: of, share } => write!(f, "give {} {share} of a core", device(of)),
            Fault::Memory { device: of, mb } => write!(f, "give {} {mb} MB of memory", device(of)),
            Fault::Rate { end, mbit_s } => write!(f, "give the link of {} {mbit_s} Mbit/s", shown(*end)),
            Fault::LinkRate { from, to, mbit_s } => {
                write!(f, "give the link from {} to {} {mbit_s} Mbit/s", shown(*from), shown(*to))
            }
            Fault::Corrupt { from, to } => write!(f, "corrupt what {} sends to {}", shown(*from), shown(*to)),
            Fault::Heal { from, to } => write!(f, "corrupt nothing from {} to {}", shown(*from), shown(*to)),
        }
    }
}

impl Devices<'_> {
    /// Does this to them. Memory, rates of links and damage must have been expected of the cluster, in its schedule or by
    /// [`Cluster::expecting`]: what they take is set up before.
    ///
    /// # Errors
    /// When they have no such device or link, and where the system cannot do it.
    pub fn strike(&self, fault: &Fault) -> Result<()> {
        let network = || self.network().context("devices without a network have no links");
        let struck = match *fault {
            Fault::Kill(device) => self.signal(device, Signal::KILL),
            Fault::Freeze(device) => self.signal(device, Signal::STOP),
            Fault::Thaw(device) => self.signal(device, Signal::CONT),
            Fault::Cut(end) => network().and_then(|network| network.plug(end, false)),
            Fault::Mend(end) => network().and_then(|network| network.plug(end, true)),
            Fault::Quota { device, share } => self.limits.set_quota(self.name(device)?, share),
            Fault::Memory { device, mb } => self.limits.set_memory(self.name(device)?, mb),
            Fault::Rate { end, mbit_s } => network().and_then(|network| network.set_uplink_rate(end, mbit_s)),
            Fault::LinkRate { from, to, mbit_s } => {
                network().and_then(|network| network.set_rate(from, to, mbit_s))
            }
            Fault::Corrupt { from, to } => network().and_then(|network| network.damage(from, to, true)),
            Fault::Heal { from, to } => network().and_then(|network| network.damage(from, to, false)),
        };
        struck.with_context(|| format!("cannot {fault}"))
    }
}
