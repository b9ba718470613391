//! Writes out sizes that ONNX lets a model leave out and that follow from others: rten refuses a convolution
//! without the size of its kernel, and pooling without strides.

use std::collections::HashMap;

use crate::error::ModelError;
use crate::flow::is_op;
use crate::model::Model;
use crate::proto::attribute_proto::AttributeType;
use crate::proto::{AttributeProto, GraphProto, NodeProto};

/// Operators whose kernel has the trailing dimensions of their weights, and which input these are.
const KERNEL_OF_WEIGHTS: &[(&str, usize)] =
    &[("Conv", 1), ("ConvInteger", 1), ("ConvTranspose", 1), ("QLinearConv", 3)];

/// Operators whose strides are 1 unless said otherwise.
const STRIDES_OF_ONE: &[&str] = &["AveragePool", "LpPool", "MaxPool"];

/// The model means the same before and after.
pub(super) fn write_out(model: &mut Model) -> Result<(), ModelError> {
    model.rewrite(|model, graph| {
        let dims = weight_dims(model.graph());
        let additions = graph.node.iter_mut().filter_map(|node| {
            let addition = kernel_shape(node, &dims).or_else(|| strides(node))?;
            node.attribute.push(addition);
            Some(())
        });
        additions.count()
    })?;
    Ok(())
}

fn kernel_shape(node: &NodeProto, dims: &HashMap<&str, &[i64]>) -> Option<AttributeProto> {
    if attribute(node, "kernel_shape").is_some() {
        return None;
    }
    let (_, input) = KERNEL_OF_WEIGHTS.iter().find(|(op_type, _)| is_op(node, op_type))?;
    // Output and input channels come first.
    let kernel = dims.get(node.input.get(*input)?.as_str())?.get(2..)?;
    Some(ints("kernel_shape", kernel.to_vec()))
}

/// The size of a node's kernel, stated or that of its weights.
pub(super) fn kernel_of(node: &NodeProto, graph: &GraphProto) -> Option<Vec<i64>> {
    match attribute(node, "kernel_shape") {
        Some(stated) => Some(stated.ints.clone()),
        None => Some(kernel_shape(node, &weight_dims(graph))?.ints),
    }
}

fn weight_dims(graph: &GraphProto) -> HashMap<&str, &[i64]> {
    graph.initializer.iter().map(|weight| (weight.name(), &weight.dims[..])).collect()
}

fn strides(node: &NodeProto) -> Option<AttributeProto> {
    let pools = STRIDES_OF_ONE.iter().any(|op_type| is_op(node, op_type));
    if !pools || attribute(node, "strides").is_some() {
        return None;
    }
    let kernel = attribute(node, "kernel_shape")?;
    Some(ints("strides", vec![1; kernel.ints.len()]))
}

pub(super) fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name() == name)
}

pub(super) fn ints(name: &str, ints: Vec<i64>) -> AttributeProto {
    let kind = AttributeType::Ints.into();
    AttributeProto { name: Some(name.to_owned()), r#type: Some(kind), ints, ..AttributeProto::default() }
}
