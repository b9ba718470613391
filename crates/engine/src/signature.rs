//! The agreement between what a caller expects of a model and what an engine sees in it.
//!
//! Both engines call it when they load a model and before every run. It knows no engine.

use tensor::{DType, Dim, TensorSpec, TensorView};

use crate::{LoadError, ModelSource, RunError, Side};

/// An input or output as an engine sees it.
pub(crate) struct Port {
    pub(crate) name: String,
    /// The ONNX types that it may have: several where the engine does not tell them apart, none where it
    /// does not know.
    pub(crate) dtypes: Vec<DType>,
    /// Sizes as far as the engine knows them; `None` when it does not know the rank.
    pub(crate) dims: Option<Vec<Option<usize>>>,
}

/// Refuses tensors of a type for which the engine has no form.
pub(crate) fn check_types(
    engine: &'static str,
    model: ModelSource<'_>,
    side: Side,
    specs: &[TensorSpec],
    supported: impl Fn(DType) -> bool,
) -> Result<(), LoadError> {
    match specs.iter().find(|spec| !supported(spec.dtype)) {
        None => Ok(()),
        Some(spec) => Err(LoadError::Type {
            engine,
            model: model.to_string(),
            side,
            tensor: spec.name.clone(),
            dtype: spec.dtype,
        }),
    }
}

/// For each expected tensor the index of its port. Every port must be expected once, and every expected
/// tensor must have a port that it fits.
pub(crate) fn match_ports(
    model: ModelSource<'_>,
    side: Side,
    expected: &[TensorSpec],
    ports: &[Port],
) -> Result<Vec<usize>, LoadError> {
    let fail = |message| LoadError::Signature { model: model.to_string(), side, message };
    if expected.len() != ports.len() {
        let names: Vec<&str> = ports.iter().map(|p| p.name.as_str()).collect();
        return Err(fail(format!(
            "it has {} (`{}`), not {}",
            ports.len(),
            names.join("`, `"),
            expected.len()
        )));
    }
    let mut indices = Vec::with_capacity(ports.len());
    for spec in expected {
        let index = ports
            .iter()
            .position(|port| port.name == spec.name)
            .ok_or_else(|| fail(format!("`{}` is missing", spec.name)))?;
        if indices.contains(&index) {
            return Err(fail(format!("`{}` is expected twice", spec.name)));
        }
        check_port(spec, &ports[index]).map_err(fail)?;
        indices.push(index);
    }
    Ok(indices)
}

fn check_port(spec: &TensorSpec, port: &Port) -> Result<(), String> {
    if !port.dtypes.is_empty() && !port.dtypes.contains(&spec.dtype) {
        return Err(format!("`{}` is {}, not {}", spec.name, port.dtypes[0], spec.dtype));
    }
    let (Some(expected), Some(found)) = (&spec.dims, &port.dims) else { return Ok(()) };
    let fits = expected.len() == found.len()
        && expected.iter().zip(found).all(|pair| match pair {
            (Dim::Fixed(a), Some(b)) => a == b,
            _ => true,
        });
    if fits {
        return Ok(());
    }
    let dims = found.iter().map(|d| d.map_or(Dim::Unknown, Dim::Fixed)).collect();
    let found = TensorSpec { dims: Some(dims), ..spec.clone() };
    Err(format!("`{}` has shape {}, not {}", spec.name, found.shape_text(), spec.shape_text()))
}

/// Whether `inputs` may stand for `specs`.
pub(crate) fn check_inputs(specs: &[TensorSpec], inputs: &[TensorView<'_>]) -> Result<(), RunError> {
    if specs.len() != inputs.len() {
        return Err(RunError::InputCount { expected: specs.len(), found: inputs.len() });
    }
    for (spec, input) in specs.iter().zip(inputs) {
        spec.check_tensor(input)?;
    }
    Ok(())
}
