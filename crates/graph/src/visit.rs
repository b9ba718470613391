//! Walks over everything of one kind in a model, wherever the schema allows it: bodies of control flow,
//! functions and training included.

use crate::proto::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto};

/// Calls `f` for every tensor of the model; stops at the first error.
pub(crate) fn tensors_mut<E>(
    model: &mut ModelProto,
    f: &mut dyn FnMut(&mut TensorProto) -> Result<(), E>,
) -> Result<(), E> {
    model.graph.iter_mut().try_for_each(|graph| graph_tensors_mut(graph, f))?;
    model.functions.iter_mut().try_for_each(|function| function_tensors_mut(function, f))?;
    for training in &mut model.training_info {
        let graphs = training.initialization.iter_mut().chain(&mut training.algorithm);
        graphs.into_iter().try_for_each(|graph| graph_tensors_mut(graph, f))?;
    }
    Ok(())
}

/// [`tensors_mut`] for one graph and the bodies inside it.
fn graph_tensors_mut<E>(
    graph: &mut GraphProto,
    f: &mut dyn FnMut(&mut TensorProto) -> Result<(), E>,
) -> Result<(), E> {
    graph.initializer.iter_mut().try_for_each(&mut *f)?;
    for sparse in &mut graph.sparse_initializer {
        sparse.values.iter_mut().chain(&mut sparse.indices).try_for_each(&mut *f)?;
    }
    graph.node.iter_mut().try_for_each(|node| node_tensors_mut(node, f))
}

/// Calls `f` for every initialiser of the graph and of the bodies inside it.
pub(crate) fn initializers_mut(graph: &mut GraphProto, f: &mut dyn FnMut(&mut TensorProto)) {
    graph.initializer.iter_mut().for_each(&mut *f);
    for body in graph.node.iter_mut().flat_map(bodies_mut) {
        initializers_mut(body, f);
    }
}

fn function_tensors_mut<E>(
    function: &mut FunctionProto,
    f: &mut dyn FnMut(&mut TensorProto) -> Result<(), E>,
) -> Result<(), E> {
    function.attribute_proto.iter_mut().try_for_each(|attribute| attribute_tensors_mut(attribute, f))?;
    function.node.iter_mut().try_for_each(|node| node_tensors_mut(node, f))
}

fn node_tensors_mut<E>(
    node: &mut NodeProto,
    f: &mut dyn FnMut(&mut TensorProto) -> Result<(), E>,
) -> Result<(), E> {
    node.attribute.iter_mut().try_for_each(|attribute| attribute_tensors_mut(attribute, f))
}

fn attribute_tensors_mut<E>(
    attribute: &mut AttributeProto,
    f: &mut dyn FnMut(&mut TensorProto) -> Result<(), E>,
) -> Result<(), E> {
    attribute.t.iter_mut().chain(&mut attribute.tensors).try_for_each(&mut *f)?;
    for sparse in attribute.sparse_tensor.iter_mut().chain(&mut attribute.sparse_tensors) {
        sparse.values.iter_mut().chain(&mut sparse.indices).try_for_each(&mut *f)?;
    }
    let bodies = attribute.g.iter_mut().chain(&mut attribute.graphs);
    bodies.into_iter().try_for_each(|body| graph_tensors_mut(body, f))
}

/// The bodies of a control-flow operator.
pub(crate) fn bodies(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs))
}

/// The bodies of a control-flow operator, to change.
pub(crate) fn bodies_mut(node: &mut NodeProto) -> impl Iterator<Item = &mut GraphProto> {
    node.attribute.iter_mut().flat_map(|attribute| attribute.g.iter_mut().chain(&mut attribute.graphs))
}
