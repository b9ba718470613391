//! Topological order of the nodes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{Flow, Origin, display_name};
use crate::error::ModelError;
use crate::proto::GraphProto;

/// The nodes in topological order. Those of a sorted graph stay where they are; others move as late as
/// they must. (Kahn's algorithm, the earliest node of the file first.)
pub(super) fn topological(flow: &Flow, graph: &GraphProto) -> Result<Vec<usize>, ModelError> {
    let mut waits_for = vec![0usize; flow.links.len()];
    let mut readers = vec![Vec::new(); flow.links.len()];
    for (index, links) in flow.links.iter().enumerate() {
        for &id in &links.reads {
            if let Origin::Node(producer) = flow.origins[id] {
                waits_for[index] += 1;
                readers[producer].push(index);
            }
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> =
        (0..waits_for.len()).filter(|&index| waits_for[index] == 0).map(Reverse).collect();
    let mut sorted = Vec::with_capacity(waits_for.len());
    while let Some(Reverse(index)) = ready.pop() {
        sorted.push(index);
        for &reader in &readers[index] {
            waits_for[reader] -= 1;
            if waits_for[reader] == 0 {
                ready.push(Reverse(reader));
            }
        }
    }
    if sorted.len() == waits_for.len() {
        return Ok(sorted);
    }
    let name = display_name(&graph.node[on_a_cycle(flow, &waits_for)]);
    Err(ModelError::Graph(format!("operator `{name}` depends on its own output")))
}

/// A node on a cycle. `waits_for` is above zero for nodes on cycles and for those behind them: going from
/// producer to producer as often as there are nodes ends on a cycle.
fn on_a_cycle(flow: &Flow, waits_for: &[usize]) -> usize {
    let mut index = waits_for.iter().position(|&n| n > 0).unwrap_or_default();
    for _ in 0..waits_for.len() {
        let producers = flow.links[index].reads.iter().filter_map(|&id| match flow.origins[id] {
            Origin::Node(producer) => Some(producer),
            _ => None,
        });
        index = producers.into_iter().find(|&producer| waits_for[producer] > 0).unwrap_or(index);
    }
    index
}
