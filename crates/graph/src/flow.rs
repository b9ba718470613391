//! How values flow through the graph: order of the operators, what is constant, what is used until when.
//!
//! Built when a model is read and again after it was changed; everything that cuts works on it. An
//! *operator* here is a node that must run on every item: constants, and what is computed from constants
//! alone, are no operators; every stage that needs them gets them.

mod functions;
mod sort;

pub(crate) use functions::{Functions, all_nodes};

use std::collections::{HashMap, HashSet};

use crate::error::ModelError;
use crate::names;
use crate::proto::{GraphProto, ModelProto, NodeProto};

/// Index of a value of the main graph.
pub(crate) type ValueId = usize;

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A model input, by its place among those that are no weights.
    Input(usize),
    /// An initialiser, by its place.
    Weight(usize),
    /// A sparse initialiser, by its place.
    SparseWeight(usize),
    /// An output of a node, by the node's place in the file.
    Node(usize),
}

/// The values that a node reads and writes, captured ones included, left-out ones not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Links {
    pub(crate) reads: Vec<ValueId>,
    pub(crate) writes: Vec<ValueId>,
}

/// The graph as values and operators.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    /// Name of each value.
    pub(crate) names: Vec<String>,
    /// Origin of each value.
    pub(crate) origins: Vec<Origin>,
    /// Whether each value is a weight, or computed from weights alone.
    pub(crate) constant: Vec<bool>,
    /// Whether some model output depends on each value.
    pub(crate) needed: Vec<bool>,
    /// The first position at which a value is there: 0 for model inputs and constants.
    pub(crate) born: Vec<usize>,
    /// The last operator that reads a value; the number of operators for model outputs, none if unused.
    pub(crate) last_read: Vec<Option<usize>>,
    /// What each node reads and writes, by its place in the file.
    pub(crate) links: Vec<Links>,
    /// All nodes in topological order, by their place in the file.
    pub(crate) sorted: Vec<usize>,
    /// The operators in topological order, by their place in the file. Nodes that no output needs are not
    /// among them.
    pub(crate) operators: Vec<usize>,
    /// Model inputs in order.
    pub(crate) inputs: Vec<ValueId>,
    /// Model outputs in order.
    pub(crate) outputs: Vec<ValueId>,
    ids: HashMap<String, ValueId>,
}

impl Flow {
    /// Checks that the graph is one, and finds its order.
    pub(crate) fn new(model: &ModelProto, graph: &GraphProto) -> Result<Flow, ModelError> {
        let mut flow = Flow::empty();
        flow.define_sources(graph)?;
        flow.define_nodes(graph)?;
        flow.outputs = graph
            .output
            .iter()
            .map(|output| {
                flow.id(output.name()).ok_or_else(|| {
                    ModelError::Graph(format!("no operator computes the model's output `{}`", output.name()))
                })
            })
            .collect::<Result<_, _>>()?;
        flow.sorted = sort::topological(&flow, graph)?;
        flow.find_constants(model, graph);
        flow.find_operators();
        flow.find_lives();
        Ok(flow)
    }

    /// The value of this name.
    pub(crate) fn id(&self, name: &str) -> Option<ValueId> {
        self.ids.get(name).copied()
    }

    /// Values that must travel across a cut before operator `position`, oldest first.
    pub(crate) fn live(&self, position: usize) -> Vec<ValueId> {
        let written = self.operators[..position].iter().flat_map(|&index| &self.links[index].writes);
        let alive = |id: &ValueId| self.last_read[*id].is_some_and(|last| last >= position);
        self.inputs.iter().chain(written).copied().filter(alive).collect()
    }

    fn empty() -> Flow {
        Flow {
            names: Vec::new(),
            origins: Vec::new(),
            constant: Vec::new(),
            needed: Vec::new(),
            born: Vec::new(),
            last_read: Vec::new(),
            links: Vec::new(),
            sorted: Vec::new(),
            operators: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            ids: HashMap::new(),
        }
    }

    fn define(&mut self, name: &str, origin: Origin) -> Result<ValueId, ModelError> {
        let id = self.names.len();
        if self.ids.insert(name.to_owned(), id).is_some() {
            return Err(ModelError::Graph(format!("the value `{name}` is defined twice")));
        }
        self.names.push(name.to_owned());
        self.origins.push(origin);
        Ok(id)
    }

    /// Model inputs and initialisers. Before IR version 4 initialisers were listed as inputs too.
    fn define_sources(&mut self, graph: &GraphProto) -> Result<(), ModelError> {
        for (i, weight) in graph.initializer.iter().enumerate() {
            self.define(weight.name(), Origin::Weight(i))?;
        }
        for (i, weight) in graph.sparse_initializer.iter().enumerate() {
            let name = weight.values.as_ref().map(|values| values.name()).unwrap_or_default();
            self.define(name, Origin::SparseWeight(i))?;
        }
        let weights = self.names.len();
        let mut listed = HashSet::new();
        for input in &graph.input {
            if self.id(input.name()).is_some_and(|id| id < weights) && listed.insert(input.name()) {
                continue;
            }
            let id = self.define(input.name(), Origin::Input(self.inputs.len()))?;
            self.inputs.push(id);
        }
        Ok(())
    }

    fn define_nodes(&mut self, graph: &GraphProto) -> Result<(), ModelError> {
        for (index, node) in graph.node.iter().enumerate() {
            let mut links = Links::default();
            for name in node.output.iter().filter(|name| !name.is_empty()) {
                links.writes.push(self.define(name, Origin::Node(index))?);
            }
            self.links.push(links);
        }
        for (index, node) in graph.node.iter().enumerate() {
            for name in names::reads(node) {
                let id = self.id(name).ok_or_else(|| {
                    let reader = display_name(node);
                    ModelError::Graph(format!("operator `{reader}` reads `{name}`, which nothing defines"))
                })?;
                self.links[index].reads.push(id);
            }
        }
        Ok(())
    }

    fn find_constants(&mut self, model: &ModelProto, graph: &GraphProto) {
        let is_weight = |origin: &Origin| matches!(origin, Origin::Weight(_) | Origin::SparseWeight(_));
        self.constant = self.origins.iter().map(is_weight).collect();
        let functions = Functions::of(model);
        for &index in &self.sorted {
            let links = &self.links[index];
            let constant =
                links.reads.iter().all(|&id| self.constant[id]) && functions.is_pure(&graph.node[index]);
            for &id in &links.writes {
                self.constant[id] = constant;
            }
        }
    }

    /// The nodes that some output needs and that are not constant.
    fn find_operators(&mut self) {
        self.needed = vec![false; self.names.len()];
        for &id in &self.outputs {
            self.needed[id] = true;
        }
        for &index in self.sorted.iter().rev() {
            if !self.is_needed(index) {
                continue;
            }
            self.links[index].reads.iter().for_each(|&id| self.needed[id] = true);
            if !self.is_constant(index) {
                self.operators.push(index);
            }
        }
        self.operators.reverse();
    }

    /// Whether some model output depends on a node.
    pub(crate) fn is_needed(&self, node: usize) -> bool {
        self.links[node].writes.iter().any(|&id| self.needed[id])
    }

    /// Whether a node computes from constants alone.
    pub(crate) fn is_constant(&self, node: usize) -> bool {
        // A node without outputs is never needed, whatever this says.
        self.links[node].writes.iter().all(|&id| self.constant[id])
    }

    fn find_lives(&mut self) {
        self.born = vec![0; self.names.len()];
        self.last_read = vec![None; self.names.len()];
        for (position, &index) in self.operators.iter().enumerate() {
            let links = &self.links[index];
            links.writes.iter().for_each(|&id| self.born[id] = position + 1);
            links.reads.iter().for_each(|&id| self.last_read[id] = Some(position));
        }
        for &id in &self.outputs {
            self.last_read[id] = Some(self.operators.len());
        }
    }
}

/// A node's name for messages. Unnamed nodes go by what they compute.
pub(crate) fn display_name(node: &NodeProto) -> &str {
    if !node.name().is_empty() {
        return node.name();
    }
    node.output.iter().map(String::as_str).find(|name| !name.is_empty()).unwrap_or(node.op_type())
}

/// The domain of the standard operators has two names.
pub(crate) fn domain(node: &NodeProto) -> &str {
    if node.domain() == "ai.onnx" { "" } else { node.domain() }
}

/// Whether the node is this standard operator.
pub(crate) fn is_op(node: &NodeProto, op_type: &str) -> bool {
    domain(node).is_empty() && node.op_type() == op_type
}
