//! Sessions of ONNX Runtime: how it is set up, and how items go in and out.

use std::sync::Arc;

use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::session::builder::{AutoDevicePolicy, GraphOptimizationLevel, SessionBuilder};
use ort::session::{Session as Runner, SessionInputValue, SharedSessionInner};
use ort::value::{DynValue, Outlet, ValueType};
use tensor::{TensorSpec, TensorView};

use super::NAME;
use super::value::{self, Input, Output};
use crate::signature::{Port, check_inputs, check_types, match_ports};
use crate::{LoadError, ModelSource, Optimisation, Outputs, RunError, Session, SessionOptions, Side};

pub(super) fn load(
    environment: &Environment,
    model: ModelSource<'_>,
    inputs: &[TensorSpec],
    outputs: &[TensorSpec],
    options: &SessionOptions,
) -> Result<OrtSession, LoadError> {
    if options.threads == 0 || i32::try_from(options.threads).is_err() {
        return Err(LoadError::Threads(options.threads));
    }
    check_types(NAME, model, Side::Input, inputs, value::is_supported)?;
    check_types(NAME, model, Side::Output, outputs, value::is_supported)?;
    let failed = |error: ort::Error| LoadError::Model {
        engine: NAME,
        model: model.to_string(),
        message: error.message().to_owned(),
    };
    let mut builder = configure(environment, options).map_err(failed)?;
    let session = match model {
        ModelSource::Bytes(bytes) => builder.commit_from_memory(bytes),
        ModelSource::File(path) => builder.commit_from_file(path),
    }
    .map_err(failed)?;
    // Inputs go in by name: that all match is enough.
    match_ports(model, Side::Input, inputs, &ports(session.inputs()))?;
    let order = match_ports(model, Side::Output, outputs, &ports(session.outputs()))?;
    Ok(OrtSession {
        session,
        inputs: inputs.to_vec(),
        outputs: outputs.to_vec(),
        order,
        threads: options.threads,
    })
}

/// One thread pool per session, of the cores that it owns, for one operator at a time: the stages of a
/// pipeline already run at once. Spinning would take 1.7 to 1.9 times the CPU on a shared machine.
///
/// The memory arena and its plan stay on, which is the default: without, runs take the same time, and memory
/// after ten runs is 335 -> 320 MB (ResNet50), 112 -> 127 (EfficientNet-Lite0), 721 -> 769 (VGG16).
fn configure(environment: &Environment, options: &SessionOptions) -> ort::Result<SessionBuilder> {
    Ok(SessionBuilder::new(environment)?
        .with_intra_threads(options.threads)?
        .with_inter_threads(1)?
        .with_parallel_execution(false)?
        .with_intra_op_spinning(false)?
        .with_inter_op_spinning(false)?
        .with_auto_device(AutoDevicePolicy::PreferCPU)?
        .with_log_level(LogLevel::Warning)?
        .with_optimization_level(level(options.optimisation))?)
}

/// What separates the two is the blocked layout for convolutions. Measured with it and without (one thread, CPU
/// ms, least of many runs on a busy machine): EfficientNet-Lite0 9.6, 24; MobileNetV2 7.6, 16; ResNet50 78,
/// 100; ViT-B/16 370, 364.
fn level(optimisation: Optimisation) -> GraphOptimizationLevel {
    match optimisation {
        Optimisation::Full => GraphOptimizationLevel::All,
        Optimisation::Reproducible => GraphOptimizationLevel::Level2,
    }
}

fn ports(outlets: &[Outlet]) -> Vec<Port> {
    outlets.iter().map(port).collect()
}

fn port(outlet: &Outlet) -> Port {
    let name = outlet.name().to_owned();
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        // A sequence or a map. No spec can describe it; the run would say what came.
        return Port { name, dtypes: Vec::new(), dims: None };
    };
    let sizes = shape.iter().map(|&size| usize::try_from(size).ok()).collect();
    // A tensor of unknown rank looks like a scalar.
    let dims = (!shape.is_empty()).then_some(sizes);
    Port { name, dtypes: value::dtype(*ty).into_iter().collect(), dims }
}

pub(super) struct OrtSession {
    session: Runner,
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
    /// For each output its place among those of the runner.
    order: Vec<usize>,
    /// The caller's among them.
    threads: usize,
}

impl Session for OrtSession {
    fn runs_on_caller(&self) -> bool {
        self.threads == 1
    }

    fn inputs(&self) -> &[TensorSpec] {
        &self.inputs
    }

    fn outputs(&self) -> &[TensorSpec] {
        &self.outputs
    }

    fn run(&mut self, inputs: &[TensorView<'_>]) -> Result<Box<dyn Outputs>, RunError> {
        check_inputs(&self.inputs, inputs)?;
        let inputs: Vec<Input<'_>> =
            inputs.iter().map(Input::new).collect::<ort::Result<_>>().map_err(failed)?;
        let named: Vec<(&str, SessionInputValue<'_>)> = self
            .inputs
            .iter()
            .zip(&inputs)
            .map(|(spec, input)| (spec.name.as_str(), input.value()))
            .collect();
        // ONNX Runtime allocates the outputs, from its arena. Giving it buffers of ours saves no measurable
        // time (a run of one small operator takes 4 us in all), and the next run would overwrite them.
        let results = self.session.run(named).map_err(failed)?;
        let mut results: Vec<Option<DynValue>> = results.into_iter().map(|(_, value)| Some(value)).collect();
        let outputs = self
            .outputs
            .iter()
            .zip(&self.order)
            .map(|(spec, &place)| {
                let value = results[place].take().expect("match_ports gives each place once");
                Output::take(spec, value, &inputs)
            })
            .collect::<Result<Vec<Output>, RunError>>()?;
        Ok(Box::new(OrtOutputs { outputs, _session: self.session.inner() }))
    }
}

fn failed(error: ort::Error) -> RunError {
    RunError::Engine { engine: NAME, message: error.message().to_owned() }
}

/// The session stays alive as long as its results, whatever they share with it.
struct OrtOutputs {
    outputs: Vec<Output>,
    _session: Arc<SharedSessionInner>,
}

impl Outputs for OrtOutputs {
    fn view(&self, index: usize) -> TensorView<'_> {
        self.outputs[index].view()
    }
}
