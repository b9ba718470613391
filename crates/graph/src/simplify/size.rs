//! How large the results of constant operators can get: folding must never blow a model up, nor ask the
//! engine for a tensor that would.

use std::collections::HashMap;

use tensor::DType;

use crate::flow::{Origin, ValueId};
use crate::model::Model;
use crate::proto::{NodeProto, TensorProto};

/// What is known of a constant value before it is computed.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    /// At most so many elements.
    pub(super) elements: u128,
    /// The sizes, where they are certain.
    dims: Option<Vec<u128>>,
}

impl Bound {
    fn at_most(elements: u128) -> Bound {
        Bound { elements, dims: None }
    }

    fn exactly(dims: Vec<u128>) -> Bound {
        let elements = dims.iter().fold(1u128, |n, &dim| n.saturating_mul(dim));
        Bound { elements, dims: Some(dims) }
    }

    /// The sizes of a weight.
    pub(super) fn of_weight(weight: &TensorProto) -> Bound {
        Bound::exactly(weight.dims.iter().map(|&dim| u128::try_from(dim).unwrap_or(0)).collect())
    }
}

/// A bound for each output of a standard operator on constants. `None`: not an operator that is folded, or
/// one whose size depends on values that are not computed yet.
pub(super) fn bound(model: &Model, node: &NodeProto, known: &HashMap<ValueId, Bound>) -> Option<Bound> {
    let inputs: Option<Vec<&Bound>> = node
        .input
        .iter()
        .filter(|name| !name.is_empty())
        .map(|name| known.get(&model.flow.id(name)?))
        .collect();
    let inputs = inputs?;
    let first = inputs.first().copied()?;
    #[rustfmt::skip] // a table
    let bound = match node.op_type() {
        "Abs" | "Cast" | "CastLike" | "Ceil" | "Clip" | "Cos" | "Elu" | "Erf" | "Exp" | "Floor" | "Identity" | "IsNaN"
        | "LeakyRelu" | "Log" | "Neg" | "Not" | "QuantizeLinear" | "Reciprocal" | "Relu" | "Round" | "Sigmoid"
        | "Sign" | "Sin" | "Softmax" | "Sqrt" | "Tan" | "Tanh" | "Trilu"
            => first.clone(),
        "ArgMax" | "ArgMin" | "Flatten" | "ReduceL2" | "ReduceMax" | "ReduceMean" | "ReduceMin" | "ReduceProd"
        | "ReduceSum" | "Reshape" | "ScatterElements" | "ScatterND" | "Slice" | "Split" | "Squeeze"
        | "Transpose" | "Unsqueeze"
            => Bound::at_most(first.elements.max(1)),
        "Add" | "And" | "Div" | "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "Max" | "Min"
        | "Mod" | "Mul" | "Or" | "Pow" | "Sub" | "Sum" | "Where" | "Xor"
            => broadcast(&inputs),
        "Gather" => gather(node, first, inputs.get(1)?),
        "GatherElements" | "GatherND" | "MatMul"
            => Bound::at_most(inputs.iter().fold(1, |n, input| n.saturating_mul(input.elements))),
        "Concat" => Bound::at_most(inputs.iter().fold(0, |n, input| n.saturating_add(input.elements))),
        "Shape" => Bound::at_most(64),
        "Size" => Bound::at_most(1),
        "ConstantOfShape" => Bound::exactly(integers(model, node.input.first()?)?),
        "Expand" => {
            let shape = Bound::exactly(integers(model, node.input.get(1)?)?);
            broadcast(&[first, &shape])
        }
        "Tile" => {
            let repeats = Bound::exactly(integers(model, node.input.get(1)?)?);
            Bound::at_most(first.elements.saturating_mul(repeats.elements))
        }
        "Range" => Bound::at_most(range(model, node)?),
        _ => return None,
    };
    Some(bound)
}

/// As many slices of the data as there are indices.
fn gather(node: &NodeProto, data: &Bound, indices: &Bound) -> Bound {
    let axis = node.attribute.iter().find(|attribute| attribute.name() == "axis").map_or(0, |axis| axis.i());
    let slices = data.dims.as_ref().and_then(|dims| {
        let axis = if axis < 0 { axis + i64::try_from(dims.len()).ok()? } else { axis };
        dims.get(usize::try_from(axis).ok()?).copied()
    });
    Bound::at_most(indices.elements.saturating_mul(data.elements / slices.unwrap_or(1).max(1)))
}

fn broadcast(inputs: &[&Bound]) -> Bound {
    let all: Option<Vec<&Vec<u128>>> = inputs.iter().map(|input| input.dims.as_ref()).collect();
    let Some(all) = all else {
        return Bound::at_most(inputs.iter().fold(1, |n, input| n.saturating_mul(input.elements)));
    };
    let rank = all.iter().map(|dims| dims.len()).max().unwrap_or(0);
    let size = |axis: usize| {
        let from_end = rank - axis;
        all.iter().filter_map(|dims| dims.len().checked_sub(from_end).map(|i| dims[i])).max().unwrap_or(1)
    };
    Bound::exactly((0..rank).map(size).collect())
}

/// The elements of a small integer weight; negative ones, which mean "as it is", count as one.
fn integers(model: &Model, name: &str) -> Option<Vec<u128>> {
    let values = weight(model, name).filter(|w| w.data_type() == i32::from(DType::I64.code()))?;
    let (chunks, _) = values.raw_data().as_chunks();
    Some(chunks.iter().map(|&chunk| u128::try_from(i64::from_le_bytes(chunk)).unwrap_or(1)).collect())
}

/// Elements of a `Range` over numbers at hand.
fn range(model: &Model, node: &NodeProto) -> Option<u128> {
    let number = |i: usize| scalar(weight(model, node.input.get(i)?)?);
    let (start, limit, delta) = (number(0)?, number(1)?, number(2)?);
    let steps = ((limit - start) / delta).ceil();
    steps.is_finite().then_some(steps.max(0.0) as u128)
}

fn scalar(weight: &TensorProto) -> Option<f64> {
    let raw = weight.raw_data();
    match DType::from_code(weight.data_type())? {
        DType::I64 => Some(i64::from_le_bytes(raw.try_into().ok()?) as f64),
        DType::I32 => Some(i32::from_le_bytes(raw.try_into().ok()?).into()),
        DType::F32 => Some(f32::from_le_bytes(raw.try_into().ok()?).into()),
        DType::F64 => Some(f64::from_le_bytes(raw.try_into().ok()?)),
        _ => None,
    }
}

fn weight<'a>(model: &'a Model, name: &str) -> Option<&'a TensorProto> {
    let Origin::Weight(index) = model.flow.origins[model.flow.id(name)?] else { return None };
    model.graph().initializer.get(index)
}
