//! rten: pure Rust, always there.
//!
//! It has only f32, i32, i8 and u8; [`convert`] brings the other types in and out. It computes f16 and f64
//! models in f32 and int64 models in int32: an input that does not fit is refused, but rten itself saturates
//! int64 constants inside a model and an overflow in the middle of one goes unseen.

mod convert;

use std::sync::Arc;

use rten::{Dimension, Model, ModelOptions, NodeId, RunOptions, ThreadPool, ValueOrView, ValueType};
use tensor::{DType, TensorSpec, TensorView};

use crate::signature::{Port, check_inputs, check_types, match_ports};
use crate::{Engine, LoadError, ModelSource, Outputs, RunError, Session, SessionOptions, Side};
use convert::Output;

pub(crate) const NAME: &str = "rten";
/// rten does not say its version; a test compares this with Cargo.lock.
const VERSION: &str = "0.27.0";

/// The built-in engine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rten;

impl Engine for Rten {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> &str {
        VERSION
    }

    fn load(
        &self,
        model: ModelSource<'_>,
        inputs: &[TensorSpec],
        outputs: &[TensorSpec],
        options: &SessionOptions,
    ) -> Result<Box<dyn Session>, LoadError> {
        if options.threads == 0 {
            return Err(LoadError::Threads(0));
        }
        let supported = |dtype| convert::held_as(dtype).is_some();
        check_types(NAME, model, Side::Input, inputs, supported)?;
        check_types(NAME, model, Side::Output, outputs, supported)?;
        let graph = read(model)?;
        let input_ids = find(model, Side::Input, inputs, &graph, graph.input_ids())?;
        let output_ids = find(model, Side::Output, outputs, &graph, graph.output_ids())?;
        let pool = ThreadPool::with_num_threads(options.threads);
        Ok(Box::new(RtenSession {
            model: graph,
            inputs: inputs.to_vec(),
            input_ids,
            outputs: outputs.to_vec(),
            output_ids,
            options: RunOptions::default().with_thread_pool(Some(Arc::new(pool))),
        }))
    }
}

fn read(model: ModelSource<'_>) -> Result<Model, LoadError> {
    let options = ModelOptions::with_all_ops();
    let read = match model {
        ModelSource::Bytes(bytes) => options.load(bytes.to_vec()),
        // SAFETY: the files stay as they are while they are mapped; `ModelSource::File` asks this of its
        // user. Deleting or replacing them by renaming is fine: the mapping keeps the old file.
        ModelSource::File(path) => unsafe { options.load_mmap(path) },
    };
    read.map_err(|error| LoadError::Model {
        engine: NAME,
        model: model.to_string(),
        message: error.to_string(),
    })
}

/// The nodes of the expected tensors, in their order.
fn find(
    model: ModelSource<'_>,
    side: Side,
    specs: &[TensorSpec],
    graph: &Model,
    ids: &[NodeId],
) -> Result<Vec<NodeId>, LoadError> {
    let mut ports: Vec<Port> = ids.iter().map(|&id| port(graph, id)).collect();
    if side == Side::Output {
        // rten 0.27 takes what `QuantizeLinear` gives for i8, whatever the zero point is; a run tells, and
        // `convert::output` checks it.
        let either = ports.iter_mut().filter(|port| port.dtypes == [DType::I8]);
        either.for_each(|port| port.dtypes.push(DType::U8));
        name_constant(&mut ports, specs);
    }
    Ok(match_ports(model, side, specs, &ports)?.into_iter().map(|i| ids[i]).collect())
}

/// An output that rten finds to be constant, as a `Shape` of known sizes is, loses its name.
fn name_constant(ports: &mut [Port], specs: &[TensorSpec]) {
    let mut missing = specs.iter().filter(|spec| ports.iter().all(|port| port.name != spec.name));
    let (Some(spec), None) = (missing.next(), missing.next()) else { return };
    let mut nameless = ports.iter_mut().filter(|port| port.name.is_empty());
    if let (Some(port), None) = (nameless.next(), nameless.next()) {
        port.name.clone_from(&spec.name);
    }
}

fn port(graph: &Model, id: NodeId) -> Port {
    let info = graph.node_info(id);
    let name = info.as_ref().and_then(|info| info.name()).unwrap_or_default().to_owned();
    let dtypes = match info.as_ref().and_then(|info| info.dtype()) {
        Some(ValueType::Tensor(held)) => {
            DType::ALL.iter().copied().filter(|&dtype| convert::held_as(dtype) == Some(held)).collect()
        }
        _ => Vec::new(),
    };
    let dims = info.and_then(|info| info.shape()).map(|dims| {
        let size = |dim: Dimension| match dim {
            Dimension::Fixed(size) => Some(size),
            Dimension::Symbolic(_) => None,
        };
        dims.into_iter().map(size).collect()
    });
    Port { name, dtypes, dims }
}

struct RtenSession {
    model: Model,
    inputs: Vec<TensorSpec>,
    input_ids: Vec<NodeId>,
    outputs: Vec<TensorSpec>,
    output_ids: Vec<NodeId>,
    options: RunOptions,
}

impl Session for RtenSession {
    fn inputs(&self) -> &[TensorSpec] {
        &self.inputs
    }

    fn outputs(&self) -> &[TensorSpec] {
        &self.outputs
    }

    fn run(&mut self, inputs: &[TensorView<'_>]) -> Result<Box<dyn Outputs>, RunError> {
        check_inputs(&self.inputs, inputs)?;
        let values = self
            .inputs
            .iter()
            .zip(inputs)
            .zip(&self.input_ids)
            .map(|((spec, input), &id)| Ok((id, convert::input(spec, input)?)))
            .collect::<Result<Vec<(NodeId, ValueOrView<'_>)>, RunError>>()?;
        let results = self
            .model
            .run(values, &self.output_ids, Some(self.options.clone()))
            .map_err(|error| RunError::Engine { engine: NAME, message: error.to_string() })?;
        let outputs = self
            .outputs
            .iter()
            .zip(results)
            .map(|(spec, value)| convert::output(spec, value))
            .collect::<Result<Vec<Output>, RunError>>()?;
        Ok(Box::new(RtenOutputs(outputs)))
    }
}

struct RtenOutputs(Vec<Output>);

impl Outputs for RtenOutputs {
    fn view(&self, index: usize) -> TensorView<'_> {
        self.0[index].view()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_nameless_output_is_the_one_that_is_missing() {
        let named = |names: &[&str], expected: &[&str]| {
            let port = |&name: &&str| Port { name: name.to_owned(), dtypes: vec![DType::I64], dims: None };
            let mut ports: Vec<Port> = names.iter().map(port).collect();
            let spec = |name: &&str| TensorSpec { name: (*name).to_owned(), dtype: DType::I64, dims: None };
            name_constant(&mut ports, &["a", "b", "c"].iter().map(spec).collect::<Vec<_>>());
            assert_eq!(ports.iter().map(|port| &port.name[..]).collect::<Vec<_>>(), expected);
        };
        named(&["a", "", "c"], &["a", "b", "c"]);
        named(&["c", "a", "b"], &["c", "a", "b"]);
        named(&["a", "", ""], &["a", "", ""]); // which is which nobody knows
        named(&["a", "x", "c"], &["a", "x", "c"]);
    }

    #[test]
    fn the_version_is_that_of_the_lock_file() {
        let lock = include_str!("../../../../Cargo.lock");
        assert!(lock.contains(&format!("name = \"rten\"\nversion = \"{VERSION}\"\n")));
    }
}
