//! A compute node: takes stages on, fetches their weights, runs them.
//!
//! [`state`] decides; this module and its threads do. One event loop owns everything; slow work (disk,
//! session building, connecting) runs on threads of its own and comes back as an event.

mod cache;
mod driver;
mod listener;
mod order;
mod slot;
pub mod stage;
pub mod state;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::Sender;
use engine::Engine;

pub use cache::Cache;
use driver::{Driver, Incoming};

use crate::control::{Control, NetworkConfig, NetworkError, Role, host_addresses};

/// How a node is set up.
pub struct NodeConfig {
    /// The name that people see.
    pub name: String,
    /// How it takes part in the control plane.
    pub network: NetworkConfig,
    /// Port for data connections on the control plane's address; 0 lets the system choose.
    pub data_port: u16,
    /// Threads that one operator may use.
    pub threads: usize,
    /// Memory it promises to deployments at most, bytes.
    pub memory: u64,
    /// Where weights are kept.
    pub cache: PathBuf,
    /// Weights kept on disk beyond those in use, bytes.
    pub cache_limit: u64,
    /// What runs the stages.
    pub engine: Arc<dyn Engine>,
}

/// A node that could not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The control plane.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The data port is taken, or the like.
    #[error("cannot accept data connections on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The cache folder.
    #[error(transparent)]
    Cache(io::Error),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// A running node. It stops when dropped.
pub struct Node {
    id: String,
    data_addresses: Vec<SocketAddr>,
    events: Sender<Incoming>,
    thread: Option<JoinHandle<()>>,
}

impl Node {
    /// Starts a node; it is found by others once this returns.
    pub fn start(config: NodeConfig) -> Result<Node, NodeError> {
        let cache = Cache::open(&config.cache, config.cache_limit).map_err(NodeError::Cache)?;
        let mut control = Control::open(&config.network)?;
        let address = SocketAddr::new(config.network.listen.ip(), config.data_port);
        let listen = |source| NodeError::Listen { address, source };
        let listener = TcpListener::bind(address).map_err(listen)?;
        let data_addresses = reachable(listener.local_addr().map_err(listen)?);

        let id = control.id();
        let driver = Driver::new(&config, cache, data_addresses.clone());
        let events = driver.events();
        let asked = events.clone();
        let queryable = control.serve(move |inquiry| driver::offer(&asked, inquiry))?;
        let watch = control.watch(Role::Dispatcher, events.clone(), Incoming::Dispatcher)?;
        let listener = listener::Listener::start(listener, events.clone()).map_err(NodeError::Thread)?;
        control.announce(Role::Node)?;
        let run = move || {
            driver.run();
            drop(watch);
            drop(queryable);
            drop(listener);
            drop(control);
        };
        let thread =
            std::thread::Builder::new().name("node".to_owned()).spawn(run).map_err(NodeError::Thread)?;
        Ok(Node { id, data_addresses, events, thread: Some(thread) })
    }

    /// Its identity in the control plane.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it accepts data connections.
    pub fn data_addresses(&self) -> &[SocketAddr] {
        &self.data_addresses
    }

    /// Gives up what runs and leaves. Stages in the middle of an item finish it first.
    pub fn stop(mut self) {
        self.stop_and_join();
    }

    fn stop_and_join(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        // An error means that the driver is gone already.
        let _ = self.events.send(Incoming::Stop);
        if thread.join().is_err() {
            tracing::error!("the node's event loop panicked");
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop_and_join();
    }
}

/// The addresses under which others may reach a listener on `local`.
fn reachable(local: SocketAddr) -> Vec<SocketAddr> {
    if !local.ip().is_unspecified() {
        return vec![local];
    }
    let loopback: IpAddr =
        if local.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    let others = host_addresses().into_iter().filter(|ip| ip.is_ipv4() == local.is_ipv4());
    others.chain([loopback]).map(|ip| SocketAddr::new(ip, local.port())).collect()
}
