//! A model over the nodes of this machine, one item at a time.
//!
//! Start two or more `defer node`, then `cargo run --release --example blocking -- model.onnx`.
#![allow(clippy::print_stdout, reason = "an example shows what it gets")]

use std::error::Error;
use std::time::Duration;

use graph::Model;
use pipeline::{Cluster, NetworkConfig, Options, Pipeline, Wanted, arbitrary_item};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("name an ONNX model")?;
    let mut cluster = Cluster::join(&NetworkConfig::default())?;
    cluster.discover(&Wanted::AtLeast(2), Duration::from_secs(10), &|_| {})?;

    let pipeline = Pipeline::deploy(Model::load(path.as_ref())?, &cluster, &Options::default())?;
    let outputs = pipeline.infer(arbitrary_item(pipeline.inputs()))?;
    for (spec, tensor) in pipeline.outputs().iter().zip(&outputs) {
        println!("{}: {} {}", spec.name, tensor.dtype(), tensor.shape());
    }
    pipeline.close();
    Ok(())
}
