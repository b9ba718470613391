//! An emulated network: a namespace for each device and for the dispatcher, each joined to a switch by a link of a
//! limited rate. The switch is a bridge in a namespace of its own, so that nothing of it is among the interfaces of
//! this machine, and no traffic leaves it.
//!
//! Called by [`crate::devices`] and the self-check [`crate::links`]. All goes when it is dropped; what a crashed
//! process left behind, [`crate::stale`] finds by its name. Links have a rate, and a delay if they are given one: by the
//! kernel where it has netem, else by a [`relay`] of ours.

mod frame;
mod rates;
mod relay;
mod shape;
mod system;
mod tap;

use std::net::Ipv4Addr;
use std::process::{Child, Command};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use plan::End;

pub use rates::Description;
use rates::Own;
pub(crate) use rates::{Name, Uplink, rate, shown};
use relay::{Cable, Relay};
pub(crate) use system::{NAMESPACES, remove_namespace};
use system::{enter, ip, run, set};

/// The addresses inside; no route leads anywhere.
const NETWORK: [u8; 3] = [10, 213, 78];

/// As many as there are addresses beside the dispatcher's.
pub(crate) const MOST_DEVICES: usize = 250;

/// Of an end's system: a congestion control that sends when it may, which every kernel has. One that sends by its own clock,
/// as this machine may prefer it, costs an emulated device a good part of its CPU.
const OF_ENDS: [(&str, &str); 1] = [("net/ipv4/tcp_congestion_control", "reno")];

/// A switch has no firewall.
const OF_SWITCH: [(&str, &str); 2] =
    [("net/bridge/bridge-nf-call-iptables", "0"), ("net/bridge/bridge-nf-call-arptables", "0")];

/// What a network is to be able to do beside what its description says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expected {
    /// Links whose rates change, from one end to another.
    pub(crate) rates: Vec<(End, End)>,
    /// Ends whose links to the switch get other rates, with these.
    pub(crate) uplinks: Vec<(End, f64)>,
    /// Ends that send over links that damage what they carry.
    pub(crate) damaging: Vec<End>,
}

impl Expected {
    /// The highest rate of an end's link, Mbit/s.
    fn fastest(&self, uplink: &Uplink) -> f64 {
        let own = self.uplinks.iter().filter(|(end, _)| *end == uplink.end);
        own.map(|(_, mbit_s)| *mbit_s).fold(uplink.mbit_s, f64::max)
    }
}

/// What an end's own interface is called.
const NEAR: &str = "eth0";

/// Namespaces that are joined; they go when this is dropped.
#[derive(Debug)]
pub struct Network {
    /// What all its namespaces begin with.
    prefix: String,
    /// Those that exist.
    namespaces: Vec<String>,
    uplinks: Mutex<Vec<Uplink>>,
    /// Goes before its interfaces' namespaces.
    relay: Option<Relay>,
}

impl Network {
    /// Joins the dispatcher and so many devices. `prefix` is what the network is called in the system: it begins with
    /// the name of this process's testbed.
    ///
    /// # Errors
    /// For a description that is not right, and where the system cannot do it.
    pub(crate) fn new(
        prefix: &str,
        devices: usize,
        description: &Description,
        expected: &Expected,
    ) -> Result<Network> {
        ensure!(devices <= MOST_DEVICES, "{devices} devices are too many for one network ({MOST_DEVICES})");
        let mut uplinks = description.uplinks(devices)?;
        expected.rates.iter().for_each(|&(from, to)| own_link(&mut uplinks, from, to));
        // From here on, dropping it removes what there is.
        let (prefix, namespaces) = (prefix.to_owned(), Vec::new());
        let mut network = Network { prefix, namespaces, uplinks: Mutex::new(uplinks.clone()), relay: None };
        let switch = network.add(&network.switch())?;
        ip(&["-n", &switch, "link", "add", "switch", "type", "bridge", "mcast_snooping", "0"])?;
        ip(&["-n", &switch, "link", "set", "switch", "up"])?;
        set(&switch, &OF_SWITCH)?;
        let is_delayed = |uplink: &Uplink| !uplink.longest_delay().is_zero();
        let holds_back = uplinks.iter().any(is_delayed) && shape::holds_back(&switch);
        let mut cables = Vec::new();
        for uplink in &uplinks {
            let name = network.add(&network.namespace(uplink.end))?;
            // The relay holds back, too, so that the kernel does not do it a second time.
            let relayed = expected.damaging.contains(&uplink.end) || (is_delayed(uplink) && !holds_back);
            if relayed {
                cables.push(network.cable(&switch, &name, uplink, expected.fastest(uplink))?);
            } else {
                let pair = ["type", "veth", "peer", "name", NEAR, "netns", &name];
                ip(&[&["-n", &switch, "link", "add", &port(uplink.end)], &pair[..]].concat())?;
            }
            join(&switch, &name, uplink)?;
            // Each side of a link shapes what it sends into it.
            shape::shape(&switch, &port(uplink.end), &received(uplink.mbit_s), false)?;
            shape::shape(&name, NEAR, &shape::classes(uplink, uplinks.len()), !relayed)?;
        }
        if !cables.is_empty() {
            network.relay = Some(Relay::start(cables)?);
        }
        Ok(network)
    }

    /// Makes a namespace.
    fn add(&mut self, name: &str) -> Result<String> {
        ip(&["netns", "add", name])?;
        self.namespaces.push(name.to_owned());
        Ok(name.to_owned())
    }

    /// Makes the interfaces of a link that is relayed, in the namespaces of the switch and of an end; `fastest` is the
    /// highest rate, Mbit/s, that it will have.
    fn cable(&self, switch: &str, name: &str, uplink: &Uplink, fastest: f64) -> Result<Cable> {
        let make = |namespace: &str, interface: &str| {
            let made = enter(namespace, || tap::make(interface))?;
            made.context(
                "links with a delay, or that do damage, need /dev/net/tun where the kernel has no netem",
            )
        };
        Cable::new(uplink, fastest, make(name, NEAR)?, make(switch, &port(uplink.end))?)
    }

    /// Changes how fast an end sends to another, to whom the network has a link of its own.
    ///
    /// # Errors
    /// Without such a link, and where the system cannot do it.
    pub(crate) fn set_rate(&self, from: End, to: End, mbit_s: f64) -> Result<()> {
        self.change(from, |uplink| {
            let own = uplink.own.iter_mut().find(|own| own.to == to);
            own.context("only a link of its own can change its rate")?.mbit_s = Some(mbit_s);
            Ok(())
        })
    }

    /// Changes the rate of an end's link to the switch, in both directions.
    ///
    /// # Errors
    /// Where the system cannot do it.
    pub(crate) fn set_uplink_rate(&self, end: End, mbit_s: f64) -> Result<()> {
        self.change(end, |uplink| {
            uplink.mbit_s = mbit_s;
            Ok(())
        })?;
        set_piece_len(&self.namespace(end), mbit_s)?;
        shape::reshape(&self.switch(), &port(end), &received(mbit_s))
    }

    fn change(&self, end: End, change: impl FnOnce(&mut Uplink) -> Result<()>) -> Result<()> {
        let mut uplinks = self.uplinks.lock().expect("nobody panics with it");
        let ends = uplinks.len();
        let uplink = uplinks.iter_mut().find(|uplink| uplink.end == end);
        let uplink = uplink.with_context(|| format!("{} is not in the network", shown(end)))?;
        change(uplink)?;
        shape::reshape(&self.namespace(end), NEAR, &shape::classes(uplink, ends))
    }

    /// Pulls the plug of an end at the switch, or puts it in again: the end itself does not see it.
    ///
    /// # Errors
    /// Where the system cannot do it.
    pub(crate) fn plug(&self, end: End, is_in: bool) -> Result<()> {
        let state = if is_in { "up" } else { "down" };
        ip(&["-n", &self.switch(), "link", "set", &port(end), state])
    }

    /// Damages some of what an end sends to another from now on, or no more, if this was expected of it.
    ///
    /// # Errors
    /// When it was not.
    pub(crate) fn damage(&self, from: End, to: End, damages: bool) -> Result<()> {
        let relay = self.relay.as_ref().context("nothing was said of links that do damage")?;
        relay.damage(from, to, damages);
        Ok(())
    }

    /// Fails when it does not carry all that it should any more.
    pub(crate) fn check(&self) -> Result<()> {
        self.relay.as_ref().map_or(Ok(()), Relay::check)
    }

    /// Starts a process at an end of the network.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn spawn(&self, end: End, command: &mut Command) -> Result<Child> {
        let program = command.get_program().to_string_lossy().into_owned();
        self.enter(end, || command.spawn())?.with_context(|| format!("cannot start {program}"))
    }

    /// Does some work at an end of the network: sockets and processes made there are and stay there.
    ///
    /// # Errors
    /// When that end is not there.
    pub fn enter<T: Send>(&self, end: End, work: impl FnOnce() -> T + Send) -> Result<T> {
        enter(&self.namespace(end), work)
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.prefix)
    }

    fn namespace(&self, end: End) -> String {
        match end {
            End::Dispatcher => format!("{}-dispatcher", self.prefix),
            End::Device(i) => format!("{}-{}", self.prefix, i + 1),
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.relay.take());
        for namespace in &self.namespaces {
            // One that cannot be removed is found by the next testbed.
            let _ = remove_namespace(namespace);
        }
    }
}

/// The address of an end.
///
/// # Panics
/// Beyond the most devices that there may be.
#[must_use]
pub fn address(end: End) -> Ipv4Addr {
    let [a, b, c] = NETWORK;
    let host = match end {
        End::Dispatcher => 1,
        End::Device(i) => u8::try_from(i + 2).expect("no more devices than addresses"),
    };
    Ipv4Addr::new(a, b, c, host)
}

/// What an end's interface at the switch is called.
fn port(end: End) -> String {
    match end {
        End::Dispatcher => "dispatcher".to_owned(),
        End::Device(i) => format!("device{}", i + 1),
    }
}

/// Classes of what an end receives.
fn received(mbit_s: f64) -> Vec<shape::Class> {
    let plain = Uplink { end: End::Dispatcher, mbit_s, delay: Duration::ZERO, own: Vec::new() };
    shape::classes(&plain, 1)
}

/// Gives an end a link of its own to another if it has none.
fn own_link(uplinks: &mut [Uplink], from: End, to: End) {
    let uplink = uplinks.iter_mut().find(|uplink| uplink.end == from);
    if let Some(uplink) = uplink.filter(|uplink| uplink.own.iter().all(|own| own.to != to)) {
        uplink.own.push(Own { to, mbit_s: None, delay: uplink.delay });
    }
}

/// Sets the interfaces of a link up.
fn join(switch: &str, name: &str, uplink: &Uplink) -> Result<()> {
    let address = format!("{}/24", address(uplink.end));
    ip(&["-n", switch, "link", "set", &port(uplink.end), "master", "switch", "addrgenmode", "none", "up"])?;
    ip(&["-n", name, "addr", "add", &address, "dev", NEAR])?;
    ip(&["-n", name, "link", "set", "lo", "up"])?;
    ip(&["-n", name, "link", "set", NEAR, "addrgenmode", "none", "up"])?;
    set_piece_len(name, uplink.mbit_s)?;
    set(name, &OF_ENDS)
}

/// Bounds what an end sends in one piece.
fn set_piece_len(name: &str, mbit_s: f64) -> Result<()> {
    let piece_len = shape::piece_len(mbit_s).to_string();
    ip(&["-n", name, "link", "set", NEAR, "gso_max_size", &piece_len])
}
