//! Folds `BatchNormalization` into the weights of the convolution or matrix product before it.
//!
//! y = (x - mean) * s + beta with s = gamma / sqrt(var + epsilon); for x = W * input + b that is the same
//! operator with weights W * s and bias (b - mean) * s + beta. Computed in f64, stored in f32.

use bytes::Bytes;
use tensor::DType;

use super::bypass::opset;
use crate::error::ModelError;
use crate::flow::{Origin, is_op};
use crate::model::Model;
use crate::proto::{GraphProto, NodeProto, TensorProto};

/// `BatchNormalization` normalises by running statistics, unless told otherwise, since this operator set.
const INFERENCE_SINCE: i64 = 9;

/// Gives the number of normalisations folded.
pub(super) fn fuse(model: &mut Model) -> Result<usize, ModelError> {
    let mut fused = 0;
    loop {
        match fuse_once(model)? {
            0 => return Ok(fused),
            more => fused += more, // what was behind one normalisation is now behind the convolution
        }
    }
}

fn fuse_once(model: &mut Model) -> Result<usize, ModelError> {
    model.rewrite(|model, graph| {
        if opset(&model.proto) < INFERENCE_SINCE {
            return 0;
        }
        let fusions: Vec<Fusion> = (0..graph.node.len()).filter_map(|index| plan(model, index)).collect();
        let fused = fusions.len();
        apply(graph, fusions);
        fused
    })
}

/// A normalisation that can go.
struct Fusion {
    normalization: usize,
    producer: usize,
    /// Place of the producer's weights among the initialisers, and their new data.
    weights: (usize, Bytes),
    bias: TensorProto,
}

/// What folding the node would take; nothing if it is no normalisation behind weights of its own.
fn plan(model: &Model, normalization: usize) -> Option<Fusion> {
    let graph = model.graph();
    let node = &graph.node[normalization];
    if !is_op(node, "BatchNormalization") || attribute_i(node, "training_mode", 0) != 0 {
        return None;
    }
    if node.output.iter().skip(1).any(|name| !name.is_empty()) {
        return None;
    }
    let producer = sole_producer(model, node.input.first()?)?;
    let weights = own_weight(model, graph.node[producer].input.get(1)?)?;
    let layout = layout(&graph.node[producer], &graph.initializer[weights])?;
    let scale = Scale::of(model, node, layout.channels)?;
    let bias = match graph.node[producer].input.get(2).filter(|name| !name.is_empty()) {
        Some(name) => vector(model, name, layout.channels)?,
        None => vec![0.0; layout.channels],
    };
    let data = scaled(&graph.initializer[weights], &layout, &scale.factor)?;
    let bias: Option<Vec<f32>> = (0..bias.len())
        .map(|c| finite((bias[c] - scale.mean[c]) * scale.factor[c] + scale.beta[c]))
        .collect();
    let bias = TensorProto {
        name: Some(fresh_name(model, node.output.first()?)),
        dims: vec![layout.channels as i64],
        data_type: Some(DType::F32.code().into()),
        raw_data: Some(bytes_of(&bias?)),
        ..TensorProto::default()
    };
    Some(Fusion { normalization, producer, weights: (weights, data), bias })
}

fn apply(graph: &mut GraphProto, fusions: Vec<Fusion>) {
    let mut gone = vec![false; graph.node.len()];
    for Fusion { normalization, producer, weights: (weights, data), bias } in fusions {
        gone[normalization] = true;
        let output = std::mem::take(&mut graph.node[normalization].output[0]);
        let node = &mut graph.node[producer];
        let inner = std::mem::replace(&mut node.output[0], output);
        node.input.truncate(2);
        node.input.push(bias.name().to_owned());
        graph.value_info.retain(|value| value.name() != inner);
        graph.initializer[weights].raw_data = Some(data);
        graph.initializer.push(bias);
    }
    let mut gone = gone.into_iter();
    graph.node.retain(|_| !gone.next().unwrap_or(false));
}

/// The node that computes a value which nobody else reads.
fn sole_producer(model: &Model, name: &str) -> Option<usize> {
    let flow = &model.flow;
    let id = flow.id(name)?;
    let Origin::Node(producer) = flow.origins[id] else { return None };
    (readers(model, id) == 1 && !flow.outputs.contains(&id)).then_some(producer)
}

/// The place of an f32 initialiser that nobody else reads.
fn own_weight(model: &Model, name: &str) -> Option<usize> {
    let flow = &model.flow;
    let id = flow.id(name)?;
    let Origin::Weight(index) = flow.origins[id] else { return None };
    let is_f32 = model.graph().initializer[index].data_type() == i32::from(DType::F32.code());
    (is_f32 && readers(model, id) == 1 && !flow.outputs.contains(&id)).then_some(index)
}

fn readers(model: &Model, id: usize) -> usize {
    model.flow.links.iter().filter(|links| links.reads.contains(&id)).count()
}

/// How the weights of an operator lie in memory: `outer` x `channels` groups of `inner` numbers; channels
/// are numbered through the `groups`, of which each `outer / groups` rows form one.
struct Layout {
    outer: usize,
    groups: usize,
    channels: usize,
    inner: usize,
}

fn layout(node: &NodeProto, weights: &TensorProto) -> Option<Layout> {
    let dims: Option<Vec<usize>> = weights.dims.iter().map(|&dim| usize::try_from(dim).ok()).collect();
    let dims = dims?;
    let &[first, second, ref rest @ ..] = dims.as_slice() else { return None };
    let rest: usize = rest.iter().product();
    let groups = usize::try_from(attribute_i(node, "group", 1)).ok().filter(|&groups| groups > 0)?;
    match node.op_type() {
        _ if !is_op(node, node.op_type()) => None,
        "Conv" => Some(Layout { outer: 1, groups: 1, channels: first, inner: second * rest }),
        // Weights are [inputs, outputs / groups, ...], the inputs of one group after those of another.
        "ConvTranspose" if first % groups == 0 => {
            Some(Layout { outer: first, groups, channels: second * groups, inner: rest })
        }
        "Gemm" if dims.len() == 2 && is_plain_gemm(node) => Some(match attribute_i(node, "transB", 0) {
            0 => Layout { outer: first, groups: 1, channels: second, inner: 1 },
            _ => Layout { outer: 1, groups: 1, channels: first, inner: second },
        }),
        _ => None,
    }
}

fn is_plain_gemm(node: &NodeProto) -> bool {
    node.attribute.iter().filter(|a| matches!(a.name(), "alpha" | "beta")).all(|a| a.f() == 1.0)
}

/// The weights, each times the factor of its channel.
fn scaled(weights: &TensorProto, layout: &Layout, factor: &[f64]) -> Option<Bytes> {
    let values = floats(weights.raw_data());
    let per_row = layout.channels / layout.groups;
    let rows_per_group = layout.outer / layout.groups;
    if values.len() != layout.outer * per_row * layout.inner || layout.inner == 0 || rows_per_group == 0 {
        return None;
    }
    let scaled: Option<Vec<f32>> = values
        .iter()
        .enumerate()
        .map(|(i, &value)| {
            let row = i / layout.inner / per_row;
            let channel = row / rows_per_group * per_row + i / layout.inner % per_row;
            finite(f64::from(value) * factor[channel])
        })
        .collect();
    Some(bytes_of(&scaled?))
}

/// The parameters of a normalisation, one per channel.
struct Scale {
    factor: Vec<f64>,
    mean: Vec<f64>,
    beta: Vec<f64>,
}

impl Scale {
    fn of(model: &Model, node: &NodeProto, channels: usize) -> Option<Scale> {
        let input = |i: usize| vector(model, node.input.get(i)?, channels);
        let (gamma, beta, mean, var) = (input(1)?, input(2)?, input(3)?, input(4)?);
        let epsilon = node.attribute.iter().find(|a| a.name() == "epsilon").map_or(1e-5, |a| a.f());
        let factor = gamma.iter().zip(var).map(|(gamma, var)| gamma / (var + f64::from(epsilon)).sqrt());
        Some(Scale { factor: factor.collect(), mean, beta })
    }
}

/// An f32 initialiser of one dimension, as f64.
fn vector(model: &Model, name: &str, len: usize) -> Option<Vec<f64>> {
    let Origin::Weight(index) = model.flow.origins[model.flow.id(name)?] else { return None };
    let weight = &model.graph().initializer[index];
    let fits =
        weight.data_type() == i32::from(DType::F32.code()) && weight.dims == [i64::try_from(len).ok()?];
    fits.then(|| floats(weight.raw_data()).into_iter().map(f64::from).collect())
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let (chunks, _) = bytes.as_chunks();
    chunks.iter().map(|&chunk| f32::from_le_bytes(chunk)).collect()
}

fn bytes_of(values: &[f32]) -> Bytes {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Rounds to f32; nothing where the result is no number, so that broken weights stay as they are.
fn finite(value: f64) -> Option<f32> {
    let value = value as f32;
    value.is_finite().then_some(value)
}

fn attribute_i(node: &NodeProto, name: &str, default: i64) -> i64 {
    node.attribute.iter().find(|attribute| attribute.name() == name).map_or(default, |a| a.i())
}

fn fresh_name(model: &Model, output: &str) -> String {
    let taken = crate::names::defined_in_bodies(model.graph());
    let mut name = format!("{output}/bias");
    while model.flow.id(&name).is_some() || taken.contains(&name) {
        name.push('_');
    }
    name
}
