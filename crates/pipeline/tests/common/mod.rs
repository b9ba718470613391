//! Real nodes on loopback, each in a group of its own, inside the test process.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use engine::{Engine, Rten};
use pipeline::{Cluster, NetworkConfig, Node, NodeConfig, Wanted};
use tempfile::TempDir;

pub struct Nodes {
    pub nodes: Vec<Node>,
    pub network: NetworkConfig,
    pub cache: TempDir,
}

pub fn rten() -> Arc<dyn Engine> {
    Arc::new(Rten)
}

pub fn model_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models").join(name)
}

/// A group that no other test uses.
pub fn private_network(test: &str) -> NetworkConfig {
    NetworkConfig { group: format!("{test}-{}", std::process::id()), ..NetworkConfig::default() }
}

pub fn config(nodes: &Nodes, name: &str, engine: Arc<dyn Engine>) -> NodeConfig {
    NodeConfig {
        name: name.to_owned(),
        network: nodes.network.clone(),
        data_port: 0,
        threads: 1,
        memory: 1 << 30,
        cache: nodes.cache.path().to_owned(),
        cache_limit: 1 << 30,
        engine,
    }
}

pub fn start(test: &str, count: usize) -> Nodes {
    let mut nodes =
        Nodes { nodes: vec![], network: private_network(test), cache: tempfile::tempdir().unwrap() };
    for i in 0..count {
        let node = Node::start(config(&nodes, &format!("n{i}"), rten())).unwrap();
        nodes.nodes.push(node);
    }
    nodes
}

pub fn join(nodes: &Nodes) -> Cluster {
    let mut cluster = Cluster::join(&nodes.network).unwrap();
    let count = Some(nodes.nodes.len());
    let wanted = Wanted { count, timeout: Duration::from_secs(20), ..Wanted::default() };
    cluster.discover(&wanted, &|_| {}).unwrap();
    cluster
}
