//! What an engine that is not complete may silently compute wrongly.
//!
//! Asked before a model runs on an engine that holds 64-bit numbers in 32 bits, pads on one side only and
//! takes cubic interpolation for linear. It sees what the model says, not what the items make of it: integers
//! that outgrow 32 bits while the model runs it cannot know of.

use std::collections::HashMap;
use std::iter::once;

use tensor::DType;

use crate::flow::{all_nodes, display_name, is_op};
use crate::model::Model;
use crate::proto::{GraphProto, NodeProto, TensorProto};
use crate::simplify::portable::{is_old_softmax, is_same_lower};
use crate::stage::constant_tensor;
use crate::visit::bodies;

/// Something that an engine may silently compute wrongly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caveat {
    /// The node's name; where it has none, that of its first output.
    pub node: String,
    /// Its type, such as `Resize`.
    pub operator: String,
    /// What about it, as part of a sentence.
    pub what: String,
}

impl Caveat {
    fn new(node: &NodeProto, what: &str) -> Caveat {
        let (node, operator) = (display_name(node).to_owned(), node.op_type().to_owned());
        Caveat { node, operator, what: what.to_owned() }
    }
}

/// A constant that 32 bits do not hold.
#[derive(Clone, Debug)]
pub(crate) struct Wide {
    what: String,
    /// Only the largest and the smallest integer, which stand for "no limit".
    unlimited: bool,
}

/// What a node does with a constant that 32 bits do not hold.
enum Use {
    /// The same as with the closest number that they do hold.
    Limit,
    /// Passes it on.
    Carry,
    /// Computes with it.
    Compute,
}

impl Model {
    /// What of the model an engine may silently compute wrongly that has 32-bit numbers only, `SAME_UPPER`
    /// padding only and no cubic interpolation. After [`Model::simplify`], which replaces what it can.
    pub fn caveats(&self) -> Vec<Caveat> {
        let graph = self.graph();
        let needed = self.flow.sorted.iter().filter(|&&index| self.flow.is_needed(index));
        let nodes: Vec<&NodeProto> = needed.flat_map(|&index| with_bodies(&graph.node[index])).collect();
        let misread = nodes.iter().filter_map(|node| Some(Caveat::new(node, self.misread(node)?)));
        misread.chain(wide_numbers(graph, &nodes)).collect()
    }

    fn misread(&self, node: &NodeProto) -> Option<&'static str> {
        let mode = || node.attribute.iter().find(|attribute| attribute.name() == "mode");
        if is_same_lower(node) {
            return Some("its padding is SAME_LOWER, and the size of its input is not known");
        }
        if is_old_softmax(self, node) {
            return Some("before opset 13 it works along several axes");
        }
        (is_op(node, "Resize") && mode()?.s() == b"cubic").then_some("its interpolation is cubic")
    }
}

fn with_bodies(node: &NodeProto) -> impl Iterator<Item = &NodeProto> {
    once(node).chain(bodies(node).flat_map(|body| all_nodes(&body.node)))
}

/// Where constants are computed with, or given out, that 32 bits do not hold.
fn wide_numbers(graph: &GraphProto, nodes: &[&NodeProto]) -> Vec<Caveat> {
    let bodies: Vec<&GraphProto> = nodes.iter().flat_map(|node| bodies(node)).collect();
    let mut wide = wide_weights(graph);
    wide.extend(bodies.iter().copied().flat_map(wide_weights));
    let mut caveats = Vec::new();
    for &node in nodes {
        let mut carried = number_inside(node);
        for (i, name) in node.input.iter().enumerate() {
            let Some(number) = wide.get(name.as_str()) else { continue };
            match use_of(node, i, number) {
                Use::Limit => {}
                Use::Carry => carried = Some(number.clone()),
                Use::Compute => caveats.push(Caveat::new(node, &number.what)),
            }
        }
        if let (Some(number), Some(output)) = (carried, node.output.first()) {
            wide.insert(output, number);
        }
    }
    for output in once(graph).chain(bodies).flat_map(|graph| &graph.output) {
        if let Some(number) = wide.get(output.name()) {
            let (node, operator) = (output.name().to_owned(), "output".to_owned());
            caveats.push(Caveat { node, operator, what: number.what.clone() });
        }
    }
    caveats
}

/// Weights that 32 bits do not hold.
pub(crate) fn wide_weights(graph: &GraphProto) -> HashMap<&str, Wide> {
    graph.initializer.iter().filter_map(|weight| Some((weight.name(), wide_number(weight)?))).collect()
}

/// Whether the node's results might follow from a number that 32 bits do not hold.
pub(crate) fn computes_wide(node: &NodeProto, wide: &HashMap<&str, Wide>) -> bool {
    let is_limit = |(i, name): (usize, &String)| {
        wide.get(name.as_str()).is_none_or(|number| matches!(use_of(node, i, number), Use::Limit))
    };
    number_inside(node).is_some() || !node.input.iter().enumerate().all(is_limit)
}

fn number_inside(node: &NodeProto) -> Option<Wide> {
    let attribute = || node.attribute.iter().find_map(|attribute| wide_number(attribute.t.as_ref()?));
    constant_tensor(node).map_or_else(attribute, |tensor| wide_number(&tensor))
}

fn use_of(node: &NodeProto, input: usize, number: &Wide) -> Use {
    const CARRIERS: &[&str] =
        &["Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"];
    const COMPARISONS: &[&str] = &["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"];
    let is_one_of = |op_types: &[&str]| op_types.iter().any(|op_type| is_op(node, op_type));
    match input {
        // No tensor is as long, no loop turns as often, and clipping at what nothing reaches does nothing.
        1.. if is_one_of(&["Clip", "Slice"]) => Use::Limit,
        0 if is_one_of(&["Loop", "Shape", "Size"]) => Use::Limit,
        _ if is_one_of(COMPARISONS) && number.unlimited => Use::Limit,
        0 if is_one_of(CARRIERS) => Use::Carry,
        1.. if is_op(node, "Where") => Use::Carry,
        _ if is_op(node, "Concat") => Use::Carry,
        _ => Use::Compute,
    }
}

/// What in a tensor 32 bits do not hold. Rounding is none of it.
fn wide_number(tensor: &TensorProto) -> Option<Wide> {
    let elements = || tensor.raw_data().chunks_exact(8).map(|bytes| bytes.try_into().unwrap_or_default());
    let dtype = DType::from_code(tensor.data_type())?;
    let (number, unlimited) = match dtype {
        DType::I64 => {
            let wide = || elements().map(i64::from_le_bytes).filter(|&n| i32::try_from(n).is_err());
            let is_limit = |n: i64| n == i64::MAX || n == i64::MIN;
            (wide().find(|&n| !is_limit(n)).or_else(|| wide().next())?.to_string(), wide().all(is_limit))
        }
        DType::F64 => {
            let mut numbers = elements().map(f64::from_le_bytes);
            let number = numbers.find(|n| n.is_finite() && !(*n as f32).is_finite())?;
            (format!("{number:e}"), false)
        }
        _ => return None,
    };
    let of = if tensor.name().is_empty() { String::new() } else { format!(" `{}`", tensor.name()) };
    Some(Wide {
        what: format!("the constant{of} holds {number}, more than 32 bits can ({dtype})"),
        unlimited,
    })
}
