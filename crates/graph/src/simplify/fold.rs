//! Computes what depends on constants alone, with the caller's engine.
//!
//! All at once in one model where that is possible; in rounds where the size of one result depends on the
//! value of another. Never folded: operators whose size can not be bounded, what has a random part, model
//! outputs, and everything behind `DequantizeLinear`, which keeps quantised weights small.

use std::collections::{HashMap, HashSet};

use tensor::{Tensor, TensorSpec};

use super::size::{Bound, bound};
use super::{Evaluate, Simplified, dead};
use crate::caveats::{computes_wide, wide_weights};
use crate::error::ModelError;
use crate::flow::{Origin, ValueId, domain, is_op};
use crate::model::Model;
use crate::proto::{GraphProto, NodeProto, TensorProto};
use crate::stage::Part;
use crate::types::Kind;
use crate::{save, weights};

/// A result may take so many bytes more than the weights it is computed from.
const MAX_GROWTH: u128 = 1 << 20;

/// Folds what can be folded, and says so in the report.
pub(super) fn fold(
    model: &mut Model,
    evaluate: &mut Evaluate<'_>,
    report: &mut Simplified,
) -> Result<(), ModelError> {
    let before = constant_nodes(model);
    // Every round folds at least one node, or is the last.
    while let Some(round) = Round::of(model) {
        match round.run(model, evaluate) {
            Ok(results) => replace(model, results)?,
            Err(problem) => {
                report.fold_error = Some(problem);
                break;
            }
        }
        dead::remove(model)?;
    }
    report.folded = before - constant_nodes(model);
    Ok(())
}

/// Nodes that compute from constants and are none themselves.
fn constant_nodes(model: &Model) -> usize {
    let flow = &model.flow;
    let computes = |&node: &usize| !is_op(&model.graph().node[node], "Constant");
    flow.sorted
        .iter()
        .copied()
        .filter(|&node| flow.is_needed(node) && flow.is_constant(node))
        .filter(computes)
        .count()
}

/// What is computed in one go.
struct Round {
    part: Part,
    outputs: Vec<TensorSpec>,
}

impl Round {
    /// The nodes that can be folded now, and the values that others need of them.
    fn of(model: &Model) -> Option<Round> {
        let flow = &model.flow;
        let mut known = sources(model);
        let wide = wide_weights(model.graph());
        let mut part = Part::default();
        for &index in flow.sorted.iter().filter(|&&index| flow.is_needed(index) && flow.is_constant(index)) {
            let node = &model.graph().node[index];
            if computes_wide(node, &wide) {
                continue; // an engine with narrow numbers must not make them look like others
            }
            if let Some(bound) = foldable(model, node, index, &known) {
                known.extend(flow.links[index].writes.iter().map(|&id| (id, bound.clone())));
                part.nodes.insert(index);
            }
        }
        let outside =
            (0..flow.links.len()).filter(|index| !part.nodes.contains(index) && flow.is_needed(*index));
        let wanted: HashSet<ValueId> = outside.flat_map(|index| &flow.links[index].reads).copied().collect();
        let results = flow.sorted.iter().filter(|index| part.nodes.contains(index));
        let results = results.flat_map(|&index| &flow.links[index].writes).copied();
        part.computed = results.filter(|id| wanted.contains(id)).collect();
        let outputs: Vec<TensorSpec> = part.computed.iter().filter_map(|&id| model.spec(id).ok()).collect();
        if outputs.is_empty() {
            return None;
        }
        add_sources(model, &mut part);
        Some(Round { part, outputs })
    }

    fn run(&self, model: &Model, evaluate: &mut Evaluate<'_>) -> Result<Vec<TensorProto>, String> {
        let constants = model.extract(&self.part, &[], &self.outputs);
        let bytes = save::encode(&constants).map_err(|error| error.to_string())?;
        let tensors = evaluate(&bytes)?;
        if tensors.len() != self.outputs.len() {
            return Err(format!(
                "{} constants were asked for, {} computed",
                self.outputs.len(),
                tensors.len()
            ));
        }
        self.outputs.iter().zip(&tensors).map(|(spec, tensor)| result(spec, tensor)).collect()
    }
}

fn result(spec: &TensorSpec, tensor: &Tensor) -> Result<TensorProto, String> {
    spec.check_tensor(&tensor.view()).map_err(|error| error.to_string())?;
    weights::to_proto(&spec.name, tensor)
}

/// The sizes of the constants that are there.
fn sources(model: &Model) -> HashMap<ValueId, Bound> {
    let flow = &model.flow;
    let weights = (0..flow.names.len()).filter_map(|id| match flow.origins[id] {
        Origin::Weight(index) => Some((id, Bound::of_weight(&model.graph().initializer[index]))),
        _ => None,
    });
    weights.collect()
}

/// A bound for the outputs of the node, if it can be folded now.
fn foldable(model: &Model, node: &NodeProto, index: usize, known: &HashMap<ValueId, Bound>) -> Option<Bound> {
    let links = &model.flow.links[index];
    if !domain(node).is_empty() || links.writes.iter().any(|id| model.flow.outputs.contains(id)) {
        return None;
    }
    let bound = bound(model, node, known)?;
    let inputs = links
        .reads
        .iter()
        .fold(0, |n, &id| byte_bound(model, id, known.get(&id)).unwrap_or(0).saturating_add(n));
    let outputs = links.writes.iter().map(|&id| byte_bound(model, id, Some(&bound)));
    // An output of unknown type can not be bounded.
    let largest = outputs.collect::<Option<Vec<u128>>>()?.into_iter().max()?;
    (largest <= inputs.saturating_add(MAX_GROWTH)).then_some(bound)
}

fn byte_bound(model: &Model, id: ValueId, bound: Option<&Bound>) -> Option<u128> {
    let Some(Kind::Tensor(dtype)) = model.kinds[id] else { return None };
    let bits = dtype.bits()? as u128;
    Some(bound?.elements.saturating_mul(bits).div_ceil(8))
}

/// The weights that the nodes read.
fn add_sources(model: &Model, part: &mut Part) {
    let reads = part.nodes.iter().flat_map(|&node| &model.flow.links[node].reads);
    part.values = reads.copied().collect();
}

/// Turns computed values into weights and removes the nodes that computed them.
fn replace(model: &mut Model, results: Vec<TensorProto>) -> Result<(), ModelError> {
    let change = |_: &Model, graph: &mut GraphProto| {
        let names: HashSet<String> = results.iter().map(|weight| weight.name().to_owned()).collect();
        graph.value_info.retain(|value| !names.contains(value.name()));
        for node in &mut graph.node {
            // An output with the empty name is one that is left out.
            node.output.iter_mut().filter(|name| names.contains(*name)).for_each(String::clear);
        }
        graph.node.retain(|node| node.output.iter().any(|name| !name.is_empty()));
        graph.initializer.extend(results);
        names.len()
    };
    model.rewrite(change).map(|_| ())
}
