//! Names and scopes: which outer values the bodies of control flow capture, and how to rename a value.

use std::collections::{HashMap, HashSet};

use crate::proto::{GraphProto, NodeProto};
use crate::visit::{bodies, bodies_mut};

/// Every value that a node reads: its inputs, then what its bodies capture, each once. Left-out optional
/// inputs have the empty name and are not among them.
pub(crate) fn reads(node: &NodeProto) -> Vec<&str> {
    let mut reads: Vec<&str> =
        node.input.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    for body in bodies(node) {
        captures(body, &mut reads);
    }
    let mut seen = HashSet::new();
    reads.retain(|name| seen.insert(*name));
    reads
}

/// Adds the values that a body uses and does not define.
fn captures<'a>(body: &'a GraphProto, found: &mut Vec<&'a str>) {
    let local: HashSet<&str> = defines(body).collect();
    let mut used: Vec<&str> = body.node.iter().flat_map(reads).collect();
    used.extend(body.output.iter().map(|output| output.name()));
    found.extend(used.into_iter().filter(|name| !name.is_empty() && !local.contains(name)));
}

/// The values that a graph defines itself, without those of the bodies inside it.
fn defines(graph: &GraphProto) -> impl Iterator<Item = &str> {
    let inputs = graph.input.iter().map(|input| input.name());
    let weights = graph.initializer.iter().map(|weight| weight.name());
    let sparse = graph.sparse_initializer.iter().filter_map(|weight| Some(weight.values.as_ref()?.name()));
    let computed = graph.node.iter().flat_map(|node| node.output.iter().map(String::as_str));
    inputs.chain(weights).chain(sparse).chain(computed)
}

/// The outer values that bodies capture.
pub(crate) fn captured(graph: &GraphProto) -> HashSet<&str> {
    let mut found = Vec::new();
    graph.node.iter().flat_map(bodies).for_each(|body| captures(body, &mut found));
    found.into_iter().collect()
}

/// Names that some body defines. They may hide an outer value of the same name.
pub(crate) fn defined_in_bodies(graph: &GraphProto) -> HashSet<String> {
    let mut names = HashSet::new();
    for body in graph.node.iter().flat_map(bodies) {
        names.extend(defines(body).map(str::to_owned));
        names.extend(defined_in_bodies(body));
    }
    names
}

/// Replaces the values that nodes read, in bodies too. No body may define an old or a new name.
pub(crate) fn rename_reads(nodes: &mut [NodeProto], new_names: &HashMap<String, String>) {
    for node in nodes {
        for name in &mut node.input {
            if let Some(new) = new_names.get(name) {
                name.clone_from(new);
            }
        }
        for body in bodies_mut(node) {
            rename_reads(&mut body.node, new_names);
            for output in &mut body.output {
                if let Some(new) = new_names.get(output.name()) {
                    output.name = Some(new.clone());
                }
            }
        }
    }
}
