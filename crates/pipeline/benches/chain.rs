//! What cutting costs: CPU time per item of ResNet50 in a chain of four stages on real nodes, beside the
//! whole model run directly, with the same engine and one thread per stage.
//!
//! Everything is in this process, so its CPU time holds all there is: engines, codecs, sockets, dispatcher.
//! Stages that share a core evict one another's data from its cache, which devices of their own would not; so
//! the whole model runs in two ways beside it: an instance on each core, and as many at once as the chain has
//! stages. Rounds alternate; medians are printed, ratios are medians of the rounds' ratios. ONNX Runtime is
//! measured too when DEFER_ONNXRUNTIME names its library.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use engine::{Engine, ModelSource, OnnxRuntime, Rten, Session, SessionOptions};
use graph::zoo;
use pipeline::{
    Cluster, NetworkConfig, Node, NodeConfig, Options, Pipeline, PrepareOptions, Prepared, SplitOptions,
    Wanted, arbitrary_item,
};
use tensor::Tensor;

const STAGES: usize = 4;
const ROUNDS: usize = 11;
const ITEMS: usize = 40;

#[expect(clippy::print_stdout, reason = "a bench prints its table")]
#[expect(clippy::disallowed_methods, reason = "a bench is configured by its environment")]
fn main() {
    let mut engines: Vec<Arc<dyn Engine>> = vec![Arc::new(Rten)];
    if let Some(path) = std::env::var_os("DEFER_ONNXRUNTIME") {
        engines.push(Arc::new(OnnxRuntime::load(Path::new(&path)).unwrap()));
    }
    println!("ResNet50, {STAGES} stages, CPU ms per item, median of {ROUNDS} rounds of {ITEMS} items");
    println!(
        "{:>12} {:>18} {:>18} {:>10} {:>8} {:>8}",
        "", "whole on each core", "whole in 4 threads", "chain", "", ""
    );
    for engine in engines {
        let rounds = measure(&engine);
        let one = |i: usize| median(rounds.iter().map(|r| r[i]));
        let beside = |i: usize| median(rounds.iter().map(|r| r[2] / r[i]));
        let (name, [core, thread, chain]) = (engine.name(), [one(0), one(1), one(2)]);
        println!(
            "{name:>12} {core:>18.2} {thread:>18.2} {chain:>10.2} {:>7.3}x {:>7.3}x",
            beside(0),
            beside(1)
        );
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// CPU ms per item of each round: whole on each core, whole in as many threads as stages, chain.
fn measure(engine: &Arc<dyn Engine>) -> Vec<[f64; 3]> {
    let model = zoo::build("resnet50", 0).unwrap();
    let item = arbitrary_item(model.inputs());
    let bytes = model.to_bytes().unwrap();
    let options = SessionOptions::threads(1);
    let load =
        |_| engine.load(ModelSource::Bytes(&bytes), model.inputs(), model.outputs(), &options).unwrap();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut whole: Vec<Box<dyn Session>> = (0..cores.max(STAGES)).map(load).collect();
    drop(bytes);

    let cache = tempfile::tempdir().unwrap();
    let group = format!("bench-{}-{}", engine.name(), std::process::id());
    let network = NetworkConfig { group, ..NetworkConfig::default() };
    let start = |i| {
        let config = NodeConfig {
            name: format!("n{i}"),
            network: network.clone(),
            data_port: 0,
            threads: 1,
            memory: u64::MAX / 2,
            cache: cache.path().to_owned(),
            cache_limit: 1 << 30,
            engine: engine.clone(),
        };
        Node::start(config).unwrap()
    };
    let _nodes: Vec<Node> = (0..STAGES).map(start).collect();
    let mut cluster = Cluster::join(&network).unwrap();
    cluster.discover(&Wanted::Exactly(STAGES), Duration::from_secs(20), &|_| {}).unwrap();
    let prepared = Prepared::new(
        model,
        "resnet50",
        &**engine,
        &PrepareOptions { max_live: 1, ..PrepareOptions::default() },
        &|_, _| {},
    )
    .unwrap();
    let split = SplitOptions { stages: Some(STAGES), ..SplitOptions::default() };
    let chain =
        Pipeline::deploy_prepared(&prepared, &cluster, &Options { split, ..Options::default() }).unwrap();
    let mut round = || {
        let per_core = run_whole(&mut whole[..cores], &item);
        [per_core, run_whole(&mut whole[..STAGES], &item), run_chain(&chain, &item)]
    };
    round(); // warms everything up
    (0..ROUNDS).map(|_| round()).collect()
}

/// `ITEMS` in all, dealt out among the sessions.
fn run_whole(sessions: &mut [Box<dyn Session>], item: &[Tensor]) -> f64 {
    let sessions_len = sessions.len();
    let mut run = |items: usize| {
        std::thread::scope(|scope| {
            for session in sessions.iter_mut() {
                scope.spawn(move || {
                    for _ in 0..items {
                        let views: Vec<_> = item.iter().map(Tensor::view).collect();
                        session.run(&views).unwrap();
                    }
                });
            }
        });
        (sessions.len() * items) as f64
    };
    let cpu = cpu_seconds();
    let items = run(ITEMS.div_ceil(sessions_len));
    (cpu_seconds() - cpu) * 1e3 / items
}

/// From an empty chain to an empty chain, so that the CPU time is that of exactly `ITEMS`.
fn run_chain(chain: &Pipeline, item: &[Tensor]) -> f64 {
    let mut pending = VecDeque::new();
    let cpu = cpu_seconds();
    for _ in 0..ITEMS {
        pending.push_back(chain.submit(item.to_vec()).unwrap());
        if pending.len() > 2 * STAGES {
            pending.pop_front().unwrap().wait().unwrap();
        }
    }
    pending.into_iter().for_each(|p| drop(p.wait().unwrap()));
    (cpu_seconds() - cpu) * 1e3 / ITEMS as f64
}

fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
