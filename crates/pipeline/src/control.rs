//! The control plane: who is there, and one reply to every request, over Zenoh.
//!
//! The only module that knows Zenoh. Nothing that must arrive goes by `put`: every command is a query,
//! presence is a liveliness token.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded, select};
use wire::control::{self, ControlError, Request, Response};
use zenoh::Wait;
use zenoh::liveliness::LivelinessToken;
use zenoh::pubsub::Subscriber;
use zenoh::query::{ConsolidationMode, Query, QueryTarget, Queryable};
use zenoh::sample::SampleKind;

/// How a process takes part in the control plane.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Only members of the same group see each other.
    pub group: String,
    /// Where to accept control connections.
    pub listen: SocketAddr,
    /// Control addresses (`host:port`) of peers to connect to, besides those found by multicast.
    pub connect: Vec<String>,
    /// Whether to look for peers by multicast.
    pub scout: bool,
    /// Whether to speak to other machines without credentials. Without it only loopback is used.
    pub insecure: bool,
}

impl Default for NetworkConfig {
    fn default() -> NetworkConfig {
        NetworkConfig {
            group: "default".to_owned(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            connect: Vec::new(),
            scout: true,
            insecure: false,
        }
    }
}

/// The control plane could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// Another machine is involved, and there are no credentials.
    #[error(
        "`{address}` is not a loopback address and this cluster has no credentials: anybody who reaches \
         the port could read models and results"
    )]
    Insecure {
        /// The address.
        address: String,
    },
    /// A group name with characters that have a meaning in key expressions.
    #[error("`{group}` cannot be a group name: use letters, digits, `-`, `_` and `.`")]
    Group {
        /// The name.
        group: String,
    },
    /// The port is taken, the address is not ours, or the like.
    #[error("cannot open the control plane on {listen}: {reason}")]
    Open {
        /// The address.
        listen: SocketAddr,
        /// What Zenoh says.
        reason: String,
    },
    /// Zenoh refused a declaration.
    #[error("the control plane failed: {0}")]
    Declare(String),
}

/// A request that got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// Nobody by that identity answered in time.
    #[error("no answer within {} s", .0.as_secs_f32())]
    Silence(Duration),
    /// Nobody by that identity is there, or it went before it answered.
    #[error("it is gone")]
    Gone,
    /// The answer cannot be read.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Zenoh failed.
    #[error("the control plane failed: {0}")]
    Transport(String),
}

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Node,
    Dispatcher,
}

/// Somebody came or went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Presence {
    pub(crate) id: String,
    pub(crate) alive: bool,
}

/// Membership in the control plane; leaving it is dropping it.
pub(crate) struct Control {
    session: zenoh::Session,
    prefix: String,
    /// Makes this member's presence known as long as it lives.
    token: Option<LivelinessToken>,
    insecure: bool,
}

/// A request that arrived, to be answered once.
pub(crate) struct Inquiry {
    query: Query,
    /// What is asked, or why it cannot be read.
    pub(crate) request: Result<Request, ControlError>,
}

impl Control {
    pub(crate) fn open(config: &NetworkConfig) -> Result<Control, NetworkError> {
        check(config)?;
        let open = |e: zenoh::Error| NetworkError::Open { listen: config.listen, reason: reason(&e) };
        let session = zenoh::open(zenoh_config(config).map_err(open)?).wait().map_err(open)?;
        let prefix = format!("defer/{}/{}", control::VERSION, config.group);
        Ok(Control { session, prefix, token: None, insecure: config.insecure })
    }

    /// The identity of this member.
    pub(crate) fn id(&self) -> String {
        self.session.zid().to_string()
    }

    /// Makes this member's presence known until it leaves.
    pub(crate) fn announce(&mut self, role: Role) -> Result<(), NetworkError> {
        let key = format!("{}/{}", self.presence_key(role), self.id());
        self.token = Some(self.session.liveliness().declare_token(key).wait().map_err(declare)?);
        Ok(())
    }

    /// Whether this member may connect to the address: only on this machine, unless others are trusted.
    pub(crate) fn may_reach(&self, address: &SocketAddr) -> bool {
        self.insecure || address.ip().is_loopback()
    }

    /// Reports members of `role` to `events`, those present first, as long as the answer is kept.
    pub(crate) fn watch<E: Send + 'static>(
        &self,
        role: Role,
        events: Sender<E>,
        event: impl Fn(Presence) -> E + Send + Sync + 'static,
    ) -> Result<Subscriber<()>, NetworkError> {
        let callback = move |sample: zenoh::sample::Sample| {
            let id = sample.key_expr().as_str().rsplit('/').next().unwrap_or_default().to_owned();
            let alive = sample.kind() == SampleKind::Put;
            // The receiver is gone when its owner is shutting down: then nobody cares.
            let _ = events.send(event(Presence { id, alive }));
        };
        let key = format!("{}/*", self.presence_key(role));
        self.session
            .liveliness()
            .declare_subscriber(key)
            .history(true)
            .callback(callback)
            .wait()
            .map_err(declare)
    }

    /// Hands every request to this member to `handle`, which must not block.
    pub(crate) fn serve(
        &self,
        handle: impl Fn(Inquiry) + Send + Sync + 'static,
    ) -> Result<Queryable<()>, NetworkError> {
        let callback = move |query: Query| {
            let bytes = query.payload().map(|p| p.to_bytes()).unwrap_or_default();
            handle(Inquiry { request: control::decode(&bytes), query });
        };
        let key = self.request_key(&self.id());
        self.session.declare_queryable(key).complete(true).callback(callback).wait().map_err(declare)
    }

    /// Asks `node` and waits for its answer.
    pub(crate) fn ask(&self, node: &str, request: &Request, timeout: Duration) -> Result<Response, AskError> {
        let transport = |e: zenoh::Error| AskError::Transport(reason(&e));
        let asked = Instant::now();
        // A node that is lost and found again, as all are for a process that was stopped for a while, keeps its answer to
        // what it was asked before, and the time would have to run out.
        let (went, gone) = bounded(1);
        let lost = move |sample: zenoh::sample::Sample| {
            if sample.kind() == SampleKind::Delete {
                let _ = went.try_send(()); // once is enough
            }
        };
        let presence = format!("{}/{node}", self.presence_key(Role::Node));
        let liveliness = self.session.liveliness();
        let _watch = liveliness.declare_subscriber(presence).callback(lost).wait().map_err(transport)?;
        let (sender, replies) = bounded(1);
        self.session
            .get(self.request_key(node))
            .payload(control::encode(request))
            .target(QueryTarget::All)
            .consolidation(ConsolidationMode::None)
            .timeout(timeout)
            .callback(move |reply| {
                let _ = sender.try_send(reply); // there is one answer to each request
            })
            .wait()
            .map_err(transport)?;
        let reply = select! {
            recv(replies) -> reply => reply.ok(),
            recv(gone) -> _ => replies.try_recv().ok(),
        };
        // The channel closes when the node has answered, has gone, or the time is up.
        let reply = reply.ok_or_else(|| match asked.elapsed() < timeout {
            true => AskError::Gone,
            false => AskError::Silence(timeout),
        })?;
        match reply.into_result() {
            Ok(sample) => Ok(control::decode(&sample.payload().to_bytes())?),
            Err(_) => Err(AskError::Silence(timeout)),
        }
    }

    fn presence_key(&self, role: Role) -> String {
        let role = match role {
            Role::Node => "node",
            Role::Dispatcher => "dispatcher",
        };
        format!("{}/alive/{role}", self.prefix)
    }

    fn request_key(&self, node: &str) -> String {
        format!("{}/ask/{node}", self.prefix)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Nobody shall find this member any more, then nobody reaches it.
        drop(self.token.take());
        if let Err(e) = self.session.close().wait() {
            tracing::debug!("closing the control plane: {e}");
        }
    }
}

impl Inquiry {
    pub(crate) fn answer(self, response: &Response) {
        let key = self.query.key_expr().clone();
        if let Err(e) = self.query.reply(key, control::encode(response)).wait() {
            tracing::warn!("a dispatcher left before its answer: {e}");
        }
    }
}

/// What Zenoh says, without the places in its source that it adds.
fn reason(e: &zenoh::Error) -> String {
    without_places(&e.to_string())
}

fn without_places(text: &str) -> String {
    let mut pieces = text.split(" at /");
    let mut said = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        // A place ends with `.rs:338.`; what follows is said again.
        let rest = piece.split_once(".rs:").map_or("", |(_, rest)| rest);
        said += rest.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start_matches('.');
    }
    said.replace(" - Caused by ", ": ")
}

fn declare(e: zenoh::Error) -> NetworkError {
    NetworkError::Declare(reason(&e))
}

fn check(config: &NetworkConfig) -> Result<(), NetworkError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if config.group.is_empty() || !config.group.chars().all(plain) {
        return Err(NetworkError::Group { group: config.group.clone() });
    }
    if config.insecure {
        return Ok(());
    }
    if !config.listen.ip().is_loopback() {
        return Err(NetworkError::Insecure { address: config.listen.to_string() });
    }
    match config.connect.iter().find(|address| !is_loopback(address)) {
        Some(address) => Err(NetworkError::Insecure { address: address.clone() }),
        None => Ok(()),
    }
}

fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn zenoh_config(config: &NetworkConfig) -> Result<zenoh::Config, zenoh::Error> {
    let quoted = |items: &mut dyn Iterator<Item = String>| {
        let items: Vec<String> = items.map(|item| format!("\"tcp/{item}\"")).collect();
        format!("[{}]", items.join(","))
    };
    let interfaces: Vec<String> =
        scouting_interfaces(config.insecure).iter().map(IpAddr::to_string).collect();
    let mut zenoh = zenoh::Config::default();
    for (key, value) in [
        ("mode", "\"peer\"".to_owned()),
        ("listen/endpoints", quoted(&mut [config.listen.to_string()].into_iter())),
        ("connect/endpoints", quoted(&mut config.connect.iter().cloned())),
        // A peer that is not there yet is looked for again soon, and opening does not wait for it.
        ("connect/timeout_ms", "0".to_owned()),
        ("connect/exit_on_failure", "false".to_owned()),
        (
            "connect/retry",
            "{ period_init_ms: 100, period_max_ms: 1000, period_increase_factor: 2 }".to_owned(),
        ),
        ("scouting/multicast/enabled", config.scout.to_string()),
        ("scouting/multicast/interface", format!("\"{}\"", interfaces.join(","))),
        ("scouting/delay", "200".to_owned()),
        // A member that lost its link is noticed after this long, milliseconds; one that dies, at once. Shorter
        // would mistake a machine that is busy with inference for one that is gone.
        ("transport/link/tx/lease", "5000".to_owned()),
    ] {
        zenoh.insert_json5(key, &value)?;
    }
    Ok(zenoh)
}

/// Loopback always; the other interfaces only where other machines may take part.
fn scouting_interfaces(insecure: bool) -> Vec<IpAddr> {
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    if insecure {
        addresses.extend(host_addresses().into_iter().filter(IpAddr::is_ipv4));
    }
    addresses
}

/// The addresses of this machine other than loopback and link-local IPv6.
pub(crate) fn host_addresses() -> Vec<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    interfaces.iter().filter(|i| !i.is_loopback() && !i.is_link_local()).map(|i| i.ip()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_machines_need_an_explicit_word() {
        let check_with = |listen: &str, connect: &[&str], insecure| {
            let connect = connect.iter().map(|&c| c.to_owned()).collect();
            let listen = listen.parse().unwrap();
            check(&NetworkConfig { listen, connect, insecure, ..NetworkConfig::default() }).is_ok()
        };
        for (listen, connect, secure_enough) in [
            ("127.0.0.1:0", &[][..], true),
            ("[::1]:7447", &["localhost:7447", "127.0.0.5:1", "[::1]:2"], true),
            ("0.0.0.0:7447", &[], false),
            ("192.0.2.1:7447", &[], false),
            ("127.0.0.1:0", &["192.0.2.1:7447"], false),
            ("127.0.0.1:0", &["board.local:7447"], false),
        ] {
            assert_eq!(check_with(listen, connect, false), secure_enough, "{listen} {connect:?}");
            assert!(check_with(listen, connect, true));
        }
    }

    #[test]
    fn group_names_cannot_be_patterns() {
        for (group, good) in [("lab-1", true), ("", false), ("a/b", false), ("*", false), ("$*", false)] {
            let config = NetworkConfig { group: group.to_owned(), ..NetworkConfig::default() };
            assert_eq!(check(&config).is_ok(), good, "{group}");
        }
    }

    #[test]
    fn a_node_that_is_lost_while_it_is_asked_is_not_waited_for() {
        let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config =
            NetworkConfig { group: "lost-while-asked".to_owned(), scout: false, ..NetworkConfig::default() };
        let mut node = Control::open(&NetworkConfig { listen, ..config.clone() }).unwrap();
        let (asked, questions) = bounded(1);
        let _serving = node.serve(move |inquiry| asked.send(inquiry).unwrap()).unwrap();
        node.announce(Role::Node).unwrap();
        let asking = Control::open(&NetworkConfig { connect: vec![listen.to_string()], ..config }).unwrap();
        let (found, finds) = bounded(8);
        let _watch = asking.watch(Role::Node, found, |presence| presence).unwrap();
        assert!(finds.recv_timeout(Duration::from_secs(20)).unwrap().alive);
        let (id, timeout) = (node.id(), Duration::from_secs(60));
        let answer = std::thread::spawn(move || asking.ask(&id, &Request::Describe, timeout));
        // As long as this is kept, the node has not answered.
        let _question = questions.recv_timeout(Duration::from_secs(20)).unwrap();
        node.token = None;
        let answer = answer.join().unwrap();
        assert!(matches!(answer, Err(AskError::Gone)), "{answer:?}");
    }

    #[test]
    fn errors_do_not_name_places_in_the_source_of_others() {
        for (text, said) in [
            ("no route", "no route"),
            ("bind: [in use at /a/b-1.2/src/tcp.rs:61.] at /a/unicast.rs:338.", "bind: [in use]"),
            ("one at /a.rs:1. - Caused by two at /b.rs:22.", "one: two"),
        ] {
            assert_eq!(without_places(text), said);
        }
    }
}
