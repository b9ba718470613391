//! A model over the nodes of this machine, many items in flight, inside an async program; any executor will do.
//!
//! Start two or more `defer node`, then `cargo run --release --example async -- model.onnx`.
#![allow(clippy::print_stdout, reason = "an example shows what it gets")]

use std::error::Error;
use std::time::{Duration, Instant};

use graph::Model;
use pipeline::{Cluster, NetworkConfig, Options, Pipeline, Wanted, arbitrary_item};

const ITEMS: u32 = 100;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("name an ONNX model")?;
    let mut cluster = Cluster::join(&NetworkConfig::default())?;
    cluster.discover(&Wanted::AtLeast(2), Duration::from_secs(10), &|_| {})?;
    let pipeline = Pipeline::deploy(Model::load(path.as_ref())?, &cluster, &Options::default())?;
    futures_executor::block_on(stream(&pipeline))?;
    pipeline.close();
    Ok(())
}

async fn stream(pipeline: &Pipeline) -> Result<(), Box<dyn Error>> {
    let started = Instant::now();
    let mut pending = Vec::new();
    for _ in 0..ITEMS {
        // Waits for a place in the chain, not for the result.
        pending.push(pipeline.submit_async(arbitrary_item(pipeline.inputs())).await?);
    }
    for result in pending {
        result.await?;
    }
    println!("{:.1} items/s", f64::from(ITEMS) / started.elapsed().as_secs_f64());
    Ok(())
}
