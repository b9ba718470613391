//! Real nodes on loopback, each in a group of its own, inside the test process.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

pub mod compose;
pub mod engines;
pub mod gate;
pub mod rogue;
pub mod wrapped;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use engine::Engine;
use engines::rten;
use graph::Model;
use pipeline::{
    CalibrateOptions, Cluster, DeployError, Measured, NetworkConfig, Node, NodeConfig, Options, Pipeline,
    Prepared, SplitOptions, Wanted, calibrate,
};
use tempfile::TempDir;

pub struct Nodes {
    pub nodes: Vec<Node>,
    pub network: NetworkConfig,
    pub cache: TempDir,
}

pub fn model_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models").join(name)
}

/// A model of these tests: see `models/make_models.py`.
pub fn small_model(name: &str) -> Model {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/models");
    Model::load(&folder.join(format!("{name}.onnx"))).unwrap()
}

/// A model of the repository.
pub fn vendored_model(name: &str) -> Model {
    Model::load(&model_path(name)).unwrap()
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

/// Starts `n0`, `n1`, ... with the built-in engine and a cache in common.
pub fn start(test: &str, count: usize) -> Nodes {
    start_with(test, count, |_, _| {})
}

/// As [`start`], with a change to the configuration of each node.
pub fn start_with(test: &str, count: usize, change: impl Fn(usize, &mut NodeConfig)) -> Nodes {
    let mut nodes =
        Nodes { nodes: vec![], network: private_network(test), cache: tempfile::tempdir().unwrap() };
    for i in 0..count {
        let mut config = config(&nodes, &format!("n{i}"), rten());
        change(i, &mut config);
        nodes.nodes.push(Node::start(config).unwrap());
    }
    nodes
}

pub fn join(nodes: &Nodes) -> Cluster {
    let mut cluster = Cluster::join(&nodes.network).unwrap();
    cluster.discover(&Wanted::Exactly(nodes.nodes.len()), Duration::from_secs(20), &|_| {}).unwrap();
    cluster
}

/// Times the nodes and probes the links of a cluster.
pub fn measure(prepared: &Prepared, cluster: &mut Cluster, options: &CalibrateOptions) -> Measured {
    calibrate(prepared, cluster, options, &|_, _| {}).unwrap()
}

/// Nothing of what was only timed is left.
pub fn assert_idle(nodes: &Nodes) {
    for node in join(nodes).nodes() {
        assert_eq!((node.description.memory_used, node.description.stages.len()), (0, 0));
    }
}

/// Split exactly at these cuts.
pub fn at_cuts(cuts: &[&str]) -> Options {
    let cuts = cuts.iter().map(|&name| name.to_owned()).collect();
    Options { split: SplitOptions { cuts, ..SplitOptions::default() }, ..Options::default() }
}

/// Deploys a model, measured with the built-in engine.
pub fn deploy(model: &Model, cluster: &Cluster, options: &Options) -> Result<Pipeline, DeployError> {
    Pipeline::deploy(model.clone(), cluster, options)
}

/// Runs `work` and gives its result; fails when it takes longer than any machine may need.
pub fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = crossbeam_channel::bounded(1);
    std::thread::spawn(move || sender.send(work()));
    receiver.recv_timeout(Duration::from_secs(60)).expect("it hangs, or it panicked")
}
