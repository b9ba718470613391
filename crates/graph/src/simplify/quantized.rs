//! Moves quantisation next to what it belongs to, so that a cut finds the integers.
//!
//! In a quantised model every operator has `DequantizeLinear` before it and `QuantizeLinear` behind it. One that
//! serves several readers, as exporters like to write it, would make the floats live from the first to the
//! last of them. Runtimes undo this too before they fuse; the numbers are the same.

use std::collections::{HashMap, HashSet};

use crate::error::ModelError;
use crate::flow::{Origin, is_op};
use crate::model::Model;
use crate::names;
use crate::proto::{GraphProto, NodeProto};

/// Puts each `QuantizeLinear` right behind what computes its input, and a `DequantizeLinear` of its own right
/// before each of its readers.
pub(super) fn arrange(model: &mut Model) -> Result<(), ModelError> {
    let arrange = |model: &Model, graph: &mut GraphProto| {
        let mut arranger = Arranger::of(model);
        if arranger.moved.is_empty() {
            return 0;
        }
        let flow = &model.flow;
        let (constant, computed): (Vec<usize>, Vec<usize>) =
            flow.sorted.iter().partition(|&&index| flow.is_constant(index));
        constant.into_iter().chain(computed).for_each(|index| arranger.place(index));
        graph.node = arranger.nodes;
        1
    };
    model.rewrite(arrange).map(|_| ())
}

struct Arranger<'a> {
    model: &'a Model,
    /// Names that no copy may take.
    hidden: HashSet<String>,
    /// Nodes that are not placed where they stand in the file.
    moved: HashSet<usize>,
    /// For what a `DequantizeLinear` gives: the node, and how many have it already.
    dequantizers: HashMap<&'a str, (usize, usize)>,
    /// The `QuantizeLinear` nodes that read what a node computes.
    quantizers: HashMap<usize, Vec<usize>>,
    nodes: Vec<NodeProto>,
}

impl<'a> Arranger<'a> {
    fn of(model: &'a Model) -> Arranger<'a> {
        let graph = model.graph();
        let mut arranger = Arranger {
            model,
            hidden: names::defined_in_bodies(graph),
            moved: HashSet::new(),
            dequantizers: HashMap::new(),
            quantizers: HashMap::new(),
            nodes: Vec::new(),
        };
        let captured = names::captured(graph);
        for &index in &model.flow.operators {
            let node = &graph.node[index];
            let Some(output) = node.output.first().map(String::as_str) else { continue };
            let stays = captured.contains(output) || model.outputs().iter().any(|spec| spec.name == output);
            if is_op(node, "DequantizeLinear") && !stays && arranger.source(node).is_some() {
                arranger.moved.insert(index);
                arranger.dequantizers.insert(output, (index, 0));
            }
        }
        for &index in &model.flow.operators {
            let node = &graph.node[index];
            if is_op(node, "QuantizeLinear")
                && let Some(Origin::Node(producer)) = arranger.source(node)
            {
                arranger.moved.insert(index);
                arranger.quantizers.entry(producer).or_default().push(index);
            }
        }
        arranger
    }

    /// Where the data of a node comes from whose other inputs are constant; nothing if from a node that is
    /// moved itself.
    fn source(&self, node: &NodeProto) -> Option<Origin> {
        let flow = &self.model.flow;
        let mut ids = node.input.iter().filter_map(|name| flow.id(name));
        let origin = flow.origins[ids.next()?];
        let is_moved = matches!(origin, Origin::Node(producer) if self.moved.contains(&producer));
        (!is_moved && ids.all(|id| flow.constant[id])).then_some(origin)
    }

    fn place(&mut self, index: usize) {
        if self.moved.contains(&index) {
            return;
        }
        self.push(index);
        for quantizer in self.quantizers.remove(&index).unwrap_or_default() {
            self.push(quantizer);
        }
    }

    /// Adds a node, behind dequantisers of its own.
    fn push(&mut self, index: usize) {
        let mut node = self.model.graph().node[index].clone();
        for name in &mut node.input {
            if let Some(own) = self.own_dequantizer(name) {
                name.clone_from(&own.output[0]);
                self.nodes.push(own);
            }
        }
        self.nodes.push(node);
    }

    /// The first reader gets the node as it is, later ones a copy.
    fn own_dequantizer(&mut self, name: &str) -> Option<NodeProto> {
        let (index, readers) = self.dequantizers.get_mut(name)?;
        let mut node = self.model.graph().node[*index].clone();
        *readers += 1;
        if *readers > 1 {
            let mut copy = format!("{name}/{readers}");
            while self.model.flow.id(&copy).is_some() || self.hidden.contains(&copy) {
                copy.push('_');
            }
            node.output[0] = copy;
            node.name = None; // names of nodes are unique too; this one goes by its output
        }
        Some(node)
    }
}
