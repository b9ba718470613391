//! Nodes and dispatcher in three network namespaces on a bridge: found without any address given, and where
//! multicast cannot pass, by explicit endpoints. Needs root and `ip` from iproute2; `DEFER_TEST_WITHOUT_ROOT=1` leaves
//! it out, which `make test` sets where namespaces cannot be made.

mod common;

use std::process::Command;

use common::{Ended, FAILED, Node, Place, RESNET, Running, announce, check_digits, vendored};

/// A link-local network of the test's own, without a route to anywhere.
const NETWORK: &str = "10.213.77";

/// Three namespaces, each with one interface on a bridge; they go when this is dropped.
struct Network {
    prefix: String,
}

impl Network {
    /// `None` where the test is to be left out.
    fn new() -> Option<Network> {
        if may_be_left_out() {
            announce("*** SKIPPED: three_machines: DEFER_TEST_WITHOUT_ROOT is set ***");
            return None;
        }
        // Interface names have at most 15 characters.
        let network = Network { prefix: format!("dt{}", std::process::id()) };
        if let Err(reason) = network.set_up() {
            panic!(
                "no network of namespaces: {reason}; run as root, with iproute2, or set DEFER_TEST_WITHOUT_ROOT=1"
            );
        }
        Some(network)
    }

    fn set_up(&self) -> Result<(), String> {
        let prefix = &self.prefix;
        ip(&format!("link add {prefix}b type bridge mcast_snooping 0"))?;
        ip(&format!("link set {prefix}b up"))?;
        for i in 1..=3 {
            ip(&format!("netns add {prefix}-{i}"))?;
            ip(&format!("link add {prefix}v{i} type veth peer name eth0 netns {prefix}-{i}"))?;
            ip(&format!("link set {prefix}v{i} master {prefix}b up"))?;
            ip(&format!("-n {prefix}-{i} addr add {NETWORK}.{i}/24 dev eth0"))?;
            ip(&format!("-n {prefix}-{i} link set lo up"))?;
            ip(&format!("-n {prefix}-{i} link set eth0 up"))?;
        }
        Ok(())
    }

    /// From now on no multicast passes the bridge.
    fn stop_multicast(&self) {
        for i in 1..=3 {
            let port = format!("{}v{i}", self.prefix);
            ip(&format!("link set {port} type bridge_slave mcast_flood off")).unwrap();
        }
        ip(&format!("link set {}b type bridge mcast_snooping 1", self.prefix)).unwrap();
    }

    /// Starts `defer` in namespace `i`.
    fn start(&self, place: &Place, i: usize, args: &[&str]) -> Running {
        let mut command = place.command("ip");
        command.args(["netns", "exec", &format!("{}-{i}", self.prefix), env!("CARGO_BIN_EXE_defer")]);
        command.args(args);
        place.spawn(command)
    }

    /// Starts a node in namespace `i`, with a cache that no other machine has.
    fn node(&self, place: &Place, i: usize, name: &str, more: &[&str]) -> Node {
        let cache = place.path(&format!("cache-{i}"));
        let always = ["node", "--json", "--engine", "rten", "--insecure", "--name", name, "--cache", &cache];
        Node::ready(self.start(place, i, &[&always, more].concat()))
    }

    /// Runs the digits from the third namespace.
    fn run(&self, place: &Place, more: &[&str]) -> Ended {
        let (model, inputs) = (vendored(RESNET), vendored("digits"));
        let always = ["run", "--json", "--engine", "rten", "--insecure", "--stages", "2", &model, &inputs];
        self.start(place, 3, &[&always, more].concat()).end()
    }

    /// The run gives the right answers, over the nodes `one` and `two`.
    fn check_run(&self, place: &Place, more: &[&str]) {
        let (items, report) = self.run(place, &[&["--profile", "none"], more].concat()).succeeded().results();
        check_digits(&items, 10);
        assert_eq!(
            (&report["stages"][0]["node"], &report["stages"][1]["node"]),
            (&"one".into(), &"two".into())
        );
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What was not made cannot be removed.
        for i in 1..=3 {
            let _ = ip(&format!("netns del {}-{i}", self.prefix));
        }
        let _ = ip(&format!("link del {}b", self.prefix));
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "as the engines' tests: what this machine cannot do, is said here"
)]
fn may_be_left_out() -> bool {
    std::env::var_os("DEFER_TEST_WITHOUT_ROOT").is_some_and(|v| v == "1")
}

fn ip(args: &str) -> Result<(), String> {
    let output = Command::new("ip").args(args.split(' ')).output().map_err(|e| format!("`ip`: {e}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("`ip {args}`: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

#[test]
fn three_machines() {
    let Some(network) = Network::new() else { return };
    let place = Place::new();

    // Discovery: no address is given anywhere.
    let nodes = [network.node(&place, 1, "one", &[]), network.node(&place, 2, "two", &[])];
    network.check_run(&place, &[]);
    // Timed and probed, in whatever order is best then.
    check_digits(&network.run(&place, &["--profile", "fresh"]).succeeded().results().0, 10);
    // Who did not say --insecure does not speak to other machines.
    let secure = ["run", "--timeout", "1s", &vendored(RESNET), &vendored("digits")];
    network.start(&place, 3, &secure).end().failed(FAILED, &["no node was found", "--insecure"]);
    nodes.into_iter().for_each(Node::stop);

    // Explicit endpoints, where discovery finds nothing.
    network.stop_multicast();
    let listen = |i: usize| format!("{NETWORK}.{i}:7447");
    let nodes = [
        network.node(&place, 1, "one", &["--listen", &listen(1)]),
        network.node(&place, 2, "two", &["--listen", &listen(2)]),
    ];
    network.run(&place, &["--timeout", "1s"]).failed(FAILED, &["no node", "found within 1 s", "hint: "]);
    network.check_run(&place, &["--connect", &listen(1), "--connect", &listen(2)]);
    let device =
        |name: &str, i: usize| format!("[[device]]\nname = '{name}'\naddress = 'tcp/{}'\n", listen(i));
    let cluster =
        place.file("cluster.toml", format!("version = 1\n{}{}", device("one", 1), device("two", 2)));
    network.check_run(&place, &["--cluster", &cluster]);
    nodes.into_iter().for_each(Node::stop);
}
