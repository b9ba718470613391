//! An emulated network: a namespace for each device and for the dispatcher, each joined to a switch by a link of a
//! limited rate. The switch is a bridge in a namespace of its own, so that nothing of it is among the interfaces of
//! this machine, and no traffic leaves it.
//!
//! Called by [`crate::devices`] and the self-check [`crate::links`]. All goes when it is dropped; what a crashed
//! process left behind, [`crate::stale`] finds by its name. Links have a rate and no delay of their own.

mod rates;

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command};

use anyhow::{Context, Result, bail, ensure};
use plan::End;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub(crate) use rates::{Description, Uplink};

/// Where `ip` keeps the namespaces that have a name.
pub(crate) const NAMESPACES: &str = "/run/netns";

/// The addresses inside; no route leads anywhere.
const NETWORK: [u8; 3] = [10, 213, 78];

/// As many as there are addresses beside the dispatcher's.
pub(crate) const MOST_DEVICES: usize = 250;

/// What a link that was idle may send at once beyond its rate. No larger, or short messages would be too fast; a piece
/// may exceed it, so that the kernel need not cut it up.
const BURST: &str = "2kb";

/// The part of a link that slower links over it may be sure of together.
const MOST_FOR_SLOWER: f64 = 0.9;

/// How much one of several classes sends before it is the next one's turn.
const QUANTUM: &str = "60000";

/// What a link may send in one piece. The line is busy with a piece after it has arrived, so that the last one of a
/// message is too early by its length: 64 KiB, what the kernel makes of it by itself, are a third of 200 KB.
const LEAST_PIECE_LEN: f64 = 8_000.0;
const MOST_PIECE_LEN: f64 = 64_000.0;

/// Of an end's system: a congestion control that sends when it may, which every kernel has. One that sends by its own clock,
/// as this machine may prefer it, costs an emulated device a good part of its CPU.
const OF_ENDS: [(&str, &str); 1] = [("net/ipv4/tcp_congestion_control", "reno")];

/// A switch has no firewall.
const OF_SWITCH: [(&str, &str); 2] =
    [("net/bridge/bridge-nf-call-iptables", "0"), ("net/bridge/bridge-nf-call-arptables", "0")];

/// At high rates each piece waits for the kernel to be on time, so they may be longer: the time of so many bytes at
/// 1 Mbit/s.
const PIECE_LEN_PER_MBIT_S: f64 = 24.0;

/// Namespaces that are joined; they go when this is dropped.
#[derive(Debug)]
pub(crate) struct Network {
    /// What all its namespaces begin with.
    prefix: String,
    /// Those that exist.
    namespaces: Vec<String>,
    uplinks: Vec<Uplink>,
}

impl Network {
    /// Joins the dispatcher and so many devices. `prefix` is what the network is called in the system: it begins with
    /// the name of this process's testbed.
    ///
    /// # Errors
    /// For a description that is not right, and where the system cannot do it.
    pub(crate) fn new(prefix: &str, devices: usize, description: &Description) -> Result<Network> {
        ensure!(devices <= MOST_DEVICES, "{devices} devices are too many for one network ({MOST_DEVICES})");
        let uplinks = description.uplinks(devices)?;
        // From here on, dropping it removes what there is.
        let mut network = Network { prefix: prefix.to_owned(), namespaces: Vec::new(), uplinks };
        let switch = network.add(&network.switch())?;
        ip(&["-n", &switch, "link", "add", "switch", "type", "bridge", "mcast_snooping", "0"])?;
        ip(&["-n", &switch, "link", "set", "switch", "up"])?;
        set(&switch, &OF_SWITCH)?;
        for uplink in network.uplinks.clone() {
            network.join(&switch, &uplink)?;
        }
        Ok(network)
    }

    /// Makes a namespace.
    fn add(&mut self, name: &str) -> Result<String> {
        ip(&["netns", "add", name])?;
        self.namespaces.push(name.to_owned());
        Ok(name.to_owned())
    }

    /// Makes the namespace of an end, and its link.
    fn join(&mut self, switch: &str, uplink: &Uplink) -> Result<()> {
        let name = self.add(&self.namespace(uplink.end))?;
        let port = match uplink.end {
            End::Dispatcher => "dispatcher".to_owned(),
            End::Device(i) => format!("device{}", i + 1),
        };
        let address = format!("{}/24", address(uplink.end));
        ip(&["-n", switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
        ip(&["-n", switch, "link", "set", &port, "master", "switch", "addrgenmode", "none", "up"])?;
        ip(&["-n", &name, "addr", "add", &address, "dev", "eth0"])?;
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        ip(&["-n", &name, "link", "set", "eth0", "addrgenmode", "none", "up"])?;
        ip(&["-n", &name, "link", "set", "eth0", "gso_max_size", &piece_len(uplink.mbit_s).to_string()])?;
        set(&name, &OF_ENDS)?;
        // Each side of a link shapes what it sends into it.
        shape(switch, &port, uplink.mbit_s, &[])?;
        shape(&name, "eth0", uplink.mbit_s, &uplink.slower)
    }

    /// Changes how fast an end sends to another, to whom the network has a link that is slower than those of both.
    ///
    /// # Errors
    /// Without such a link, and where the system cannot do it.
    pub(crate) fn set_rate(&self, from: End, to: End, mbit_s: f64) -> Result<()> {
        let uplink = self.uplinks.iter().find(|uplink| uplink.end == from);
        let slower = uplink.and_then(|uplink| uplink.slower.iter().position(|(end, _)| *end == to));
        let slower = slower.context("only a link of its own can change its rate")?;
        let (id, rate) = (class_of_slower(slower), format!("{}bit", bits(mbit_s)));
        let class = ["class", "change", "dev", "eth0", "parent", "1:1", "classid", &id, "htb"];
        let rates = ["rate", &rate, "ceil", &rate, "burst", BURST, "cburst", BURST, "quantum", QUANTUM];
        run("tc", &[&["-n", &self.namespace(from)], &class[..], &rates[..]].concat())
    }

    /// Starts a process at an end of the network.
    pub(crate) fn spawn(&self, end: End, command: &mut Command) -> Result<Child> {
        let program = command.get_program().to_string_lossy().into_owned();
        self.enter(end, || command.spawn())?.with_context(|| format!("cannot start {program}"))
    }

    /// Does some work at an end of the network: sockets and processes made there are and stay there.
    pub(crate) fn enter<T: Send>(&self, end: End, work: impl FnOnce() -> T + Send) -> Result<T> {
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
        for namespace in &self.namespaces {
            // One that cannot be removed is found by the next testbed.
            let _ = remove_namespace(namespace);
        }
    }
}

/// The address of an end.
pub(crate) fn address(end: End) -> Ipv4Addr {
    let [a, b, c] = NETWORK;
    let host = match end {
        End::Dispatcher => 1,
        End::Device(i) => u8::try_from(i + 2).expect("no more devices than addresses"),
    };
    Ipv4Addr::new(a, b, c, host)
}

/// Removes a namespace; what it holds goes with it. One that is gone already is none that failed.
pub(crate) fn remove_namespace(name: &str) -> Result<()> {
    let path = Path::new(NAMESPACES).join(name);
    match ip(&["netns", "del", name]) {
        Err(error) if path.exists() => Err(error),
        _ => Ok(()),
    }
}

/// Does some work in a namespace.
fn enter<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
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
fn set(namespace: &str, settings: &[(&str, &str)]) -> Result<()> {
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

/// Limits what a namespace sends through one of its interfaces, and more so to some receivers.
fn shape(namespace: &str, interface: &str, mbit_s: f64, slower: &[(End, f64)]) -> Result<()> {
    let tc = |what: &str, args: &[&str]| {
        run("tc", &[&["-n", namespace, what, "add", "dev", interface], args].concat())
    };
    let class = |parent: &str, id: &str, rate: f64, most: f64| {
        let (rate, most) = (format!("{}bit", bits(rate)), format!("{}bit", bits(most)));
        let rates = ["rate", &rate, "ceil", &most, "burst", BURST, "cburst", BURST, "quantum", QUANTUM];
        tc("class", &[&["parent", parent, "classid", id, "htb"], &rates[..]].concat())
    };
    tc("qdisc", &["root", "handle", "1:", "htb", "default", "2"])?;
    class("1:", "1:1", mbit_s, mbit_s)?;
    // What the classes are sure of adds up to what the link has, and each may take what others leave: links that are
    // slower anyway get all they can take, as far as the others keep something.
    let wanted = slower.iter().map(|(_, rate)| rate).sum::<f64>();
    let most = MOST_FOR_SLOWER * mbit_s;
    let share = most / wanted.max(most);
    class("1:1", "1:2", mbit_s - share * wanted, mbit_s)?;
    for (i, &(to, rate)) in slower.iter().enumerate() {
        let (id, to) = (class_of_slower(i), format!("{}/32", address(to)));
        class("1:1", &id, share * rate, rate)?;
        tc("filter", &["parent", "1:", "protocol", "ip", "u32", "match", "ip", "dst", &to, "flowid", &id])?;
    }
    Ok(())
}

/// The class of what is sent to one of the slower receivers; the two before are for all, and for the others.
fn class_of_slower(position: usize) -> String {
    format!("1:{:x}", position + 3)
}

fn piece_len(mbit_s: f64) -> u64 {
    (PIECE_LEN_PER_MBIT_S * mbit_s).clamp(LEAST_PIECE_LEN, MOST_PIECE_LEN) as u64
}

fn bits(mbit_s: f64) -> u64 {
    (mbit_s * 1e6).round() as u64
}

fn ip(args: &[&str]) -> Result<()> {
    run("ip", args)
}

/// Runs one of the commands of iproute2.
fn run(program: &str, args: &[&str]) -> Result<()> {
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
