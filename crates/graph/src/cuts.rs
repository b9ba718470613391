//! Where a model may be cut.
//!
//! Weights and constants never cross: every stage gets those it uses. Values that are no tensors of known
//! type can not cross, so there is no cut where one would have to.

use tensor::TensorSpec;

use crate::flow::{ValueId, is_op};
use crate::model::Model;
use crate::proto::NodeProto;
use crate::types::Kind;

/// A place to split a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Operators before the cut.
    pub position: usize,
    /// Name of the cut: that of the tensor computed last among those that cross.
    pub name: String,
    /// The tensors that cross, oldest first.
    pub live: Vec<TensorSpec>,
}

/// Operators that runtimes fuse into what computes their input, or that are next to nothing beside it. No cut
/// directly before them if one behind them carries no more tensors. In a quantised model `QuantizeLinear`
/// makes the cut carry the integers.
#[rustfmt::skip] // a table
const ABSORBED: &[&str] = &[
    // Activations
    "Celu", "Clip", "Elu", "Erf", "FastGelu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Max", "Min",
    "Mish", "PRelu", "QuickGelu", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Swish", "Tanh",
    "ThresholdedRelu",
    // Bias, scale, residual sums; normalisation by constants
    "Add", "BatchNormalization", "BiasGelu", "Div", "Mul", "Pow", "Sub",
    "QuantizeLinear",
];

/// The longest run of such operators that is looked at: GELU written out has five.
const MAX_RUN: usize = 8;

impl Model {
    /// The places where at most `max_live` tensors cross, in topological order. Left out are places that
    /// are worse than one close by: before an operator that a runtime fuses into the one before it, and
    /// between `DequantizeLinear` and the operator that reads it.
    pub fn cuts(&self, max_live: usize) -> Vec<Cut> {
        let crossings = self.crossings(max_live);
        (1..self.flow.operators.len())
            .filter(|&position| !self.is_dominated(&crossings, position))
            .filter_map(|position| self.cut(position, crossings[position].live.as_deref()?))
            .collect()
    }

    fn cut(&self, position: usize, live: &[ValueId]) -> Option<Cut> {
        let newest = live.iter().copied().max_by_key(|&id| (self.flow.born[id], std::cmp::Reverse(id)))?;
        let live = live.iter().map(|&id| self.spec(id).ok()).collect::<Option<_>>()?;
        Some(Cut { position, name: self.flow.names[newest].clone(), live })
    }

    /// What crosses at each position, from 0 (the inputs) to the number of operators (the outputs).
    fn crossings(&self, max_live: usize) -> Vec<Crossing> {
        let flow = &self.flow;
        let mut live: Vec<ValueId> = flow.inputs.clone();
        let mut crossings = Vec::with_capacity(flow.operators.len() + 1);
        for position in 0..=flow.operators.len() {
            if let Some(before) = position.checked_sub(1) {
                live.extend(&flow.links[flow.operators[before]].writes);
            }
            live.retain(|&id| flow.last_read[id].is_some_and(|last| last >= position));
            let tensors = live.iter().all(|&id| matches!(self.kinds[id], Some(Kind::Tensor(_))));
            let usable = tensors && (1..=max_live).contains(&live.len());
            crossings.push(Crossing { count: live.len(), live: usable.then(|| live.clone()) });
        }
        crossings
    }

    fn is_dominated(&self, crossings: &[Crossing], position: usize) -> bool {
        let no_worse = |other: usize| {
            let end = other == 0 || other == self.flow.operators.len();
            (end || crossings[other].live.is_some()) && crossings[other].count <= crossings[position].count
        };
        let behind = self.absorbed_run(position).map(|operator| operator + 1);
        let before =
            (0..position).rev().take_while(|&operator| is_op(self.operator(operator), "DequantizeLinear"));
        behind.into_iter().chain(before.take(MAX_RUN)).any(no_worse)
    }

    /// The operators from `position` on that all belong to what is computed right before it.
    fn absorbed_run(&self, position: usize) -> impl Iterator<Item = usize> {
        let links = |operator: usize| &self.flow.links[self.flow.operators[operator]];
        let mut inside: Vec<ValueId> = links(position - 1).writes.clone();
        let operators = position..self.flow.operators.len().min(position + MAX_RUN);
        operators.take_while(move |&operator| {
            let absorbed = ABSORBED.contains(&self.operator(operator).op_type())
                && links(operator).reads.iter().any(|id| inside.contains(id));
            inside.extend(&links(operator).writes);
            absorbed
        })
    }

    fn operator(&self, position: usize) -> &NodeProto {
        &self.graph().node[self.flow.operators[position]]
    }
}

struct Crossing {
    /// How many values cross.
    count: usize,
    /// The values, oldest first, where a cut is possible.
    live: Option<Vec<ValueId>>,
}
