//! Says outright what engines read in more than one way: `Softmax` as it was before opset 13, and padding
//! that is `SAME_LOWER`.
//!
//! Runs before constants are computed, so that these come out right too. What it has to leave as it is
//! [`Model::caveats`] reports.

use std::collections::HashSet;

use tensor::{DType, Dim};

use super::bypass::opset;
use super::explicit::{attribute, ints, kernel_of};
use crate::error::ModelError;
use crate::flow::is_op;
use crate::model::Model;
use crate::names;
use crate::proto::attribute_proto::AttributeType;
use crate::proto::{AttributeProto, GraphProto, NodeProto, TensorProto};
use crate::visit::bodies_mut;

/// Since this operator set `Softmax` works along one axis; before, along all from that axis on.
const SOFTMAX_OF_ONE_AXIS: i64 = 13;
/// Since this operator set `Reshape` takes the sizes as an input.
const RESHAPE_TO_INPUT: i64 = 5;

/// The model means the same before and after.
pub(super) fn write_out(model: &mut Model) -> Result<(), ModelError> {
    model.rewrite(|model, graph| softmaxes(model, graph) + paddings(model, graph)).map(|_| ())
}

fn softmaxes(model: &Model, graph: &mut GraphProto) -> usize {
    if !(RESHAPE_TO_INPUT..SOFTMAX_OF_ONE_AXIS).contains(&opset(&model.proto)) {
        return 0;
    }
    let mut taken = names::defined_in_bodies(graph);
    taken.extend(model.flow.names.iter().cloned());
    rewrite_softmaxes(&mut graph.node, Some((model, &mut graph.initializer)), &mut taken)
}

/// Sizes are known outside of bodies only, where a name has one meaning; there come weights too.
fn rewrite_softmaxes(
    nodes: &mut Vec<NodeProto>,
    mut outside: Option<(&Model, &mut Vec<TensorProto>)>,
    taken: &mut HashSet<String>,
) -> usize {
    let mut changes = 0;
    for mut node in std::mem::take(nodes) {
        for body in bodies_mut(&mut node) {
            changes += rewrite_softmaxes(&mut body.node, None, taken);
        }
        if !is_softmax(&node) {
            nodes.push(node);
            continue;
        }
        changes += 1;
        let dims = outside.as_ref().and_then(|(model, _)| input_dims(model, &node));
        if let Some(axis) = one_axis(&node, dims.as_deref()) {
            set(&mut node, int("axis", axis));
            nodes.push(node);
            continue;
        }
        let mut steps = flattened(node, taken);
        if let (Some((_, weights)), Some(sizes)) = (&mut outside, dims.and_then(|dims| sizes(&dims)))
            && let Some(at) = steps.iter().position(|step| is_op(step, "Shape"))
        {
            let mut measure = steps.remove(at);
            weights.push(int64s(measure.output.remove(0), &sizes));
        }
        nodes.append(&mut steps);
    }
    changes
}

fn is_softmax(node: &NodeProto) -> bool {
    is_op(node, "Softmax") || is_op(node, "LogSoftmax")
}

/// Whether the node is a `Softmax` that could not be written in the way of today.
pub(crate) fn is_old_softmax(model: &Model, node: &NodeProto) -> bool {
    let dims = input_dims(model, node);
    opset(&model.proto) < RESHAPE_TO_INPUT && is_softmax(node) && one_axis(node, dims.as_deref()).is_none()
}

fn softmax_axis(node: &NodeProto) -> i64 {
    attribute(node, "axis").map_or(1, |axis| axis.i())
}

/// The axis along which the node works, if all others from its `axis` on have size 1.
fn one_axis(node: &NodeProto, dims: Option<&[Dim]>) -> Option<i64> {
    let axis = softmax_axis(node);
    let Some(dims) = dims else {
        return (axis == -1).then_some(axis); // the last, whatever the rank
    };
    let rank = i64::try_from(dims.len()).ok()?;
    let first = if axis < 0 { axis.checked_add(rank)? } else { axis };
    let rest = dims.get(usize::try_from(first).ok()?..).filter(|rest| !rest.is_empty())?;
    let mut wide = (first..).zip(rest).filter(|(_, dim)| **dim != Dim::Fixed(1)).map(|(axis, _)| axis);
    let only = wide.next().unwrap_or(first);
    wide.next().is_none().then_some(only)
}

/// `Flatten`, `Softmax` of the rows, and `Reshape` to what it was, which `Shape` finds.
fn flattened(mut softmax: NodeProto, taken: &mut HashSet<String>) -> Vec<NodeProto> {
    let ([input, ..], [output, ..]) = (&softmax.input[..], &softmax.output[..]) else {
        return vec![softmax]; // no valid model; the engine says so
    };
    let (input, output) = (input.clone(), output.clone());
    let mut fresh = |what: &str| {
        let mut name = format!("{output}/{what}");
        while !taken.insert(name.clone()) {
            name.push('_');
        }
        name
    };
    let (rows, shares, sizes) = (fresh("rows"), fresh("shares"), fresh("sizes"));
    let mut flatten = operator("Flatten", &[&input], &rows);
    flatten.attribute.push(int("axis", softmax_axis(&softmax)));
    let measure = operator("Shape", &[&input], &sizes);
    let restore = operator("Reshape", &[&shares, &sizes], &output);
    softmax.input[0] = rows;
    softmax.output[0] = shares;
    set(&mut softmax, int("axis", 1));
    vec![flatten, softmax, measure, restore]
}

/// What `Reshape` is told to restore these sizes, if they say it.
fn sizes(dims: &[Dim]) -> Option<Vec<i64>> {
    let is_open = |dim: &&Dim| !matches!(dim, Dim::Fixed(_));
    if dims.iter().filter(is_open).count() > 1 || dims.contains(&Dim::Fixed(0)) {
        return None;
    }
    let size = |dim: &Dim| match dim {
        Dim::Fixed(size) => i64::try_from(*size).ok(),
        _ => Some(-1), // whatever is left
    };
    dims.iter().map(size).collect()
}

fn int64s(name: String, values: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name),
        dims: vec![values.len() as i64],
        data_type: Some(DType::I64.code().into()),
        raw_data: Some(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        ..TensorProto::default()
    }
}

fn operator(op_type: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: Some(op_type.to_owned()),
        input: inputs.iter().map(|&input| input.to_owned()).collect(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    }
}

fn paddings(model: &Model, graph: &mut GraphProto) -> usize {
    let nodes = graph.node.iter_mut().filter(|node| is_same_lower(node));
    let padded = nodes.filter_map(|node| {
        let pads = pads(model, node)?;
        node.attribute.retain(|attribute| attribute.name() != "auto_pad");
        set(node, ints("pads", pads));
        Some(())
    });
    padded.count()
}

/// Whether the node's padding is as large as its output needs, the odd one in front.
pub(crate) fn is_same_lower(node: &NodeProto) -> bool {
    attribute(node, "auto_pad").is_some_and(|auto_pad| auto_pad.s() == b"SAME_LOWER")
}

/// The padding that `SAME_LOWER` stands for: of all axes in front, then of all behind.
fn pads(model: &Model, node: &NodeProto) -> Option<Vec<i64>> {
    const KNOWN: &[&str] =
        &["AveragePool", "Conv", "ConvInteger", "ConvTranspose", "LpPool", "MaxPool", "QLinearConv"];
    let unclear = |name| attribute(node, name).is_some_and(|a| a.i() != 0 || !a.ints.is_empty());
    if !KNOWN.iter().any(|op_type| is_op(node, op_type)) || unclear("ceil_mode") || unclear("output_shape") {
        return None;
    }
    let kernel = kernel_of(node, model.graph())?;
    let dims = input_dims(model, node);
    let per_axis = |name, default| match attribute(node, name) {
        Some(given) => (given.ints.len() == kernel.len()).then(|| given.ints.clone()),
        None => Some(vec![default; kernel.len()]),
    };
    let (strides, dilations) = (per_axis("strides", 1)?, per_axis("dilations", 1)?);
    let extra = per_axis("output_padding", 0)?;
    let total = |axis: usize| {
        let reach = small(small(kernel[axis])? - 1)? * small(dilations[axis])? + 1;
        let stride = small(strides[axis]).filter(|stride| *stride > 0)?;
        if is_op(node, "ConvTranspose") {
            // The output is as large as the input times the stride.
            let total = reach + small(extra[axis])? - stride;
            return (total >= 0).then_some(total);
        }
        if stride == 1 {
            return Some(reach - 1); // for any size
        }
        let Dim::Fixed(size) = dims.as_ref()?.get(axis + 2)? else { return None };
        let size = small(i64::try_from(*size).ok()?)?;
        let outputs = (size + stride - 1) / stride;
        Some(((outputs - 1) * stride + reach - size).max(0))
    };
    let totals = (0..kernel.len()).map(total).collect::<Option<Vec<i64>>>()?;
    let front = totals.iter().map(|total| total - total / 2);
    Some(front.chain(totals.iter().map(|total| total / 2)).collect())
}

/// A size that cannot overflow when multiplied by another.
fn small(size: i64) -> Option<i64> {
    (0..=i64::from(i32::MAX)).contains(&size).then_some(size)
}

fn input_dims(model: &Model, node: &NodeProto) -> Option<Vec<Dim>> {
    model.spec(model.flow.id(node.input.first()?)?).ok()?.dims
}

fn set(node: &mut NodeProto, attribute: AttributeProto) {
    node.attribute.retain(|other| other.name() != attribute.name());
    node.attribute.push(attribute);
}

fn int(name: &str, i: i64) -> AttributeProto {
    let kind = AttributeType::Int.into();
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(kind),
        i: Some(i),
        ..AttributeProto::default()
    }
}
