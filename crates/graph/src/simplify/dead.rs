//! Removes what no output needs.

use std::collections::HashSet;

use crate::error::ModelError;
use crate::flow::Origin;
use crate::model::Model;
use crate::proto::GraphProto;

/// Removes nodes and weights that no output depends on, and what the model says about them. Gives the
/// number of nodes.
pub(super) fn remove(model: &mut Model) -> Result<usize, ModelError> {
    let mut nodes = 0;
    model.rewrite(|model, graph| {
        let weights = graph.initializer.len();
        let before = graph.node.len();
        remove_from(model, graph);
        nodes = before - graph.node.len();
        nodes + weights - graph.initializer.len()
    })?;
    Ok(nodes)
}

fn remove_from(model: &Model, graph: &mut GraphProto) {
    let flow = &model.flow;
    let needed: HashSet<&str> =
        (0..flow.names.len()).filter(|&id| flow.needed[id]).map(|id| flow.names[id].as_str()).collect();
    graph.quantization_annotation.retain(|annotation| needed.contains(annotation.tensor_name()));
    // Scales and zero points of annotated tensors are read by nobody else.
    let annotated: HashSet<String> = graph
        .quantization_annotation
        .iter()
        .flat_map(|annotation| &annotation.quant_parameter_tensor_names)
        .map(|entry| entry.value().to_owned())
        .collect();
    let stays = |name: &str| needed.contains(name) || annotated.contains(name);

    graph.node.retain(|node| node.output.iter().any(|name| needed.contains(name.as_str())));
    graph.initializer.retain(|weight| stays(weight.name()));
    graph.sparse_initializer.retain(|w| w.values.as_ref().is_some_and(|values| stays(values.name())));
    // An output of a node that stays may be unused, and is still a value.
    let written: HashSet<&str> =
        graph.node.iter().flat_map(|node| &node.output).map(String::as_str).collect();
    let is_source = |name: &str| flow.id(name).is_some_and(|id| !matches!(flow.origins[id], Origin::Node(_)));
    graph.value_info.retain(|v| written.contains(v.name()) || (is_source(v.name()) && stays(v.name())));
}
