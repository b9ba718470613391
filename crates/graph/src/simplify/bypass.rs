//! Removes operators that give what they get: `Identity`, and `Dropout` outside of training.

use std::collections::HashMap;

use crate::error::ModelError;
use crate::flow::{Flow, ValueId, is_op};
use crate::model::Model;
use crate::names;
use crate::proto::{GraphProto, ModelProto, NodeProto};

/// `Dropout` has been for inference only, unless told otherwise, since this operator set.
const DROPOUT_AT_REST: i64 = 7;

/// Gives the number of nodes removed. Those that write a model output stay, because the output would change
/// its name.
pub(super) fn remove(model: &mut Model) -> Result<usize, ModelError> {
    model.rewrite(|model, graph| {
        let new_names = bypassed(model, graph);
        graph.node.retain(|node| node.output.first().is_none_or(|name| !new_names.contains_key(name)));
        graph.value_info.retain(|value| !new_names.contains_key(value.name()));
        graph.quantization_annotation.retain(|annotation| !new_names.contains_key(annotation.tensor_name()));
        names::rename_reads(&mut graph.node, &new_names);
        new_names.len()
    })
}

/// What each output of a removed node is called from now on.
fn bypassed(model: &Model, graph: &GraphProto) -> HashMap<String, String> {
    let hidden = names::defined_in_bodies(graph);
    let mut new_names: HashMap<String, String> = HashMap::new();
    for &index in &model.flow.sorted {
        let node = &graph.node[index];
        if !does_nothing(model, node, index) {
            continue;
        }
        let (Some(from), Some(to)) = (node.input.first(), node.output.first()) else { continue };
        if hidden.contains(from) || hidden.contains(to) {
            continue; // a body would see another value under the name
        }
        let from = new_names.get(from).unwrap_or(from).clone();
        new_names.insert(to.clone(), from);
    }
    new_names
}

fn does_nothing(model: &Model, node: &NodeProto, index: usize) -> bool {
    let flow = &model.flow;
    let is_output = |id: &ValueId| flow.outputs.contains(id);
    if flow.links[index].writes.iter().any(is_output) || node.input.first().is_none_or(String::is_empty) {
        return false;
    }
    is_op(node, "Identity") || (is_op(node, "Dropout") && is_at_rest(model, flow, node))
}

/// Whether a `Dropout` drops nothing, and nobody reads its mask.
fn is_at_rest(model: &Model, flow: &Flow, node: &NodeProto) -> bool {
    let mask = node.output.get(1).filter(|name| !name.is_empty());
    let mask_unused = mask.is_none_or(|name| flow.id(name).is_none_or(|id| !flow.needed[id]));
    let training = node.input.get(2).filter(|name| !name.is_empty());
    let at_rest = training.is_none_or(|name| is_false(model.graph(), name));
    mask_unused && at_rest && opset(&model.proto) >= DROPOUT_AT_REST
}

fn is_false(graph: &GraphProto, name: &str) -> bool {
    graph.initializer.iter().any(|weight| weight.name() == name && weight.raw_data() == [0])
}

/// The version of the standard operators.
pub(super) fn opset(model: &ModelProto) -> i64 {
    let is_standard = |domain: &str| domain.is_empty() || domain == "ai.onnx";
    let import = model.opset_import.iter().find(|import| is_standard(import.domain()));
    import.map_or(1, |import| import.version())
}
