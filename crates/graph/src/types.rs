//! What every value is: a tensor of which element type, a sequence, or something else.
//!
//! What the model says (`value_info`) wins; the rest follows from a table of the operators' rules
//! (`types/table.rs`). An operator that is not in the table gives values of unknown type, which is never an
//! error here: such values only can not cross a cut.

mod table;

use std::collections::HashMap;

use tensor::DType;

use crate::flow::{Functions, domain};
use crate::proto::type_proto::Value;
use crate::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TypeProto, ValueInfoProto,
};
use table::Rule;

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A dense tensor.
    Tensor(DType),
    /// A sequence of dense tensors.
    Sequence(DType),
    /// Maps, optionals, sparse tensors, sequences of those.
    Other,
}

/// Nodes that may be looked at inside functions; calls of calls could otherwise multiply without end.
const FUNCTION_NODES: usize = 1_000_000;
/// Functions that call functions, so deep.
const FUNCTION_DEPTH: usize = 32;

/// The types of the main graph's values, by name, as far as they are known. `sorted` are the places of its
/// nodes in topological order.
pub(crate) fn infer(model: &ModelProto, graph: &GraphProto, sorted: &[usize]) -> HashMap<String, Kind> {
    let mut inference = Inference {
        functions: Functions::of(model),
        scopes: vec![declared(graph)],
        attributes: Vec::new(),
        budget: FUNCTION_NODES,
    };
    for &index in sorted {
        inference.node(&graph.node[index]);
    }
    let known = inference.scopes.pop().unwrap_or_default();
    known.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect()
}

/// The type that a `value_info` states.
pub(crate) fn kind_of(value: &ValueInfoProto) -> Option<Kind> {
    kind_of_type(value.r#type.as_ref()?)
}

fn kind_of_type(r#type: &TypeProto) -> Option<Kind> {
    match r#type.value.as_ref()? {
        Value::TensorType(tensor) => Some(Kind::Tensor(DType::from_code(tensor.elem_type())?)),
        Value::SequenceType(sequence) => match kind_of_type(sequence.elem_type.as_ref()?) {
            Some(Kind::Tensor(dtype)) => Some(Kind::Sequence(dtype)),
            _ => Some(Kind::Other),
        },
        _ => Some(Kind::Other),
    }
}

type Scope<'a> = HashMap<&'a str, Kind>;

/// What a graph says about its values before any operator is looked at.
fn declared(graph: &GraphProto) -> Scope<'_> {
    let values = graph.input.iter().chain(&graph.value_info).chain(&graph.output);
    let mut scope: Scope<'_> = values.filter_map(|v| Some((v.name(), kind_of(v)?))).collect();
    for weight in &graph.initializer {
        if let Some(dtype) = DType::from_code(weight.data_type()) {
            scope.insert(weight.name(), Kind::Tensor(dtype));
        }
    }
    for weight in graph.sparse_initializer.iter().filter_map(|weight| weight.values.as_ref()) {
        // A sparse initialiser is a dense tensor to those who read it.
        if let Some(dtype) = DType::from_code(weight.data_type()) {
            scope.insert(weight.name(), Kind::Tensor(dtype));
        }
    }
    scope
}

struct Inference<'a> {
    functions: Functions<'a>,
    /// Innermost last. Bodies see the scopes around them, functions only their own.
    scopes: Vec<Scope<'a>>,
    /// Attributes of the function calls we are inside of, innermost last.
    attributes: Vec<HashMap<&'a str, &'a AttributeProto>>,
    budget: usize,
}

impl<'a> Inference<'a> {
    fn kind(&self, name: &str) -> Option<Kind> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name).copied())
    }

    fn node(&mut self, node: &'a NodeProto) {
        let kinds = match self.functions.get(node) {
            Some(function) => self.call(node, function),
            None => self.operator(node),
        };
        let Some(scope) = self.scopes.last_mut() else { return };
        for (name, kind) in node.output.iter().zip(kinds) {
            if let Some(kind) = kind {
                scope.entry(name).or_insert(kind);
            }
        }
    }

    fn operator(&mut self, node: &'a NodeProto) -> Vec<Option<Kind>> {
        let rules = table::rules(domain(node), node.op_type());
        let Some(last) = rules.last() else { return Vec::new() };
        let needs_body = rules.iter().any(|rule| matches!(rule, Rule::Body(_)));
        let body = if needs_body { self.body(node) } else { Vec::new() };
        (0..node.output.len()).map(|i| self.apply(rules.get(i).unwrap_or(last), i, node, &body)).collect()
    }

    fn apply(&self, rule: &Rule, output: usize, node: &'a NodeProto, body: &[Option<Kind>]) -> Option<Kind> {
        match *rule {
            Rule::Like(input) => self.input(node, input),
            Rule::FirstOf(first, second) => self.input(node, first).or_else(|| self.input(node, second)),
            Rule::Is(dtype) => Some(Kind::Tensor(dtype)),
            Rule::Attribute(name, default) => match self.attribute(node, name) {
                Some(attribute) => named(attribute),
                None => default.map(Kind::Tensor),
            },
            Rule::AttributeOrLike(name, input) => match self.attribute(node, name) {
                Some(attribute) if attribute.i() != 0 => named(attribute),
                _ => self.input(node, input),
            },
            Rule::LikeOr(input, default) => match given(node, input) {
                true => self.input(node, input),
                false => Some(Kind::Tensor(default)),
            },
            Rule::Value => self.value(node),
            Rule::Body(skip) => body.get(output + skip).copied().flatten(),
            Rule::ElementOf(input) => match self.input(node, input)? {
                Kind::Sequence(dtype) => Some(Kind::Tensor(dtype)),
                Kind::Tensor(_) | Kind::Other => None,
            },
            Rule::SequenceOf(input) => match self.input(node, input)? {
                Kind::Tensor(dtype) => Some(Kind::Sequence(dtype)),
                Kind::Sequence(_) | Kind::Other => Some(Kind::Other),
            },
            Rule::EmptySequence => {
                let named = self.attribute(node, "dtype").map(named);
                match named.unwrap_or(Some(Kind::Tensor(DType::F32)))? {
                    Kind::Tensor(dtype) => Some(Kind::Sequence(dtype)),
                    Kind::Sequence(_) | Kind::Other => None,
                }
            }
            Rule::Labels => Some(Kind::Tensor(self.labels(node)?)),
            Rule::Quantized => self.quantized(node),
            Rule::NotATensor => Some(Kind::Other),
        }
    }

    fn input(&self, node: &NodeProto, index: usize) -> Option<Kind> {
        self.kind(node.input.get(index)?)
    }

    /// An attribute, seen through the reference to the attribute of the function around it.
    fn attribute(&self, node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
        let attribute = node.attribute.iter().find(|attribute| attribute.name() == name)?;
        match attribute.ref_attr_name() {
            "" => Some(attribute),
            outer => self.attributes.last()?.get(outer).copied(),
        }
    }

    fn quantized(&self, node: &'a NodeProto) -> Option<Kind> {
        if given(node, 2) {
            return self.input(node, 2);
        }
        match self.attribute(node, "output_dtype") {
            Some(attribute) if attribute.i() != 0 => named(attribute),
            _ => Some(Kind::Tensor(DType::U8)),
        }
    }

    /// The value of `Constant` and `ConstantOfShape`, whichever attribute holds it.
    fn value(&self, node: &'a NodeProto) -> Option<Kind> {
        let tensor = self.attribute(node, "value").and_then(|attribute| attribute.t.as_ref());
        if let Some(tensor) = tensor {
            return Some(Kind::Tensor(DType::from_code(tensor.data_type())?));
        }
        if node.op_type() == "ConstantOfShape" {
            return Some(Kind::Tensor(DType::F32));
        }
        let sparse = self.attribute(node, "sparse_value").and_then(|a| a.sparse_tensor.as_ref());
        if let Some(values) = sparse.and_then(|sparse| sparse.values.as_ref()) {
            return Some(Kind::Tensor(DType::from_code(values.data_type())?));
        }
        let has = |names: [&str; 2]| names.iter().any(|name| self.attribute(node, name).is_some());
        let dtypes = [
            (["value_float", "value_floats"], DType::F32),
            (["value_int", "value_ints"], DType::I64),
            (["value_string", "value_strings"], DType::String),
        ];
        dtypes.into_iter().find(|(names, _)| has(*names)).map(|(_, dtype)| Kind::Tensor(dtype))
    }

    /// `ai.onnx.ml.LabelEncoder` and its like answer in the type of whichever table they carry.
    fn labels(&self, node: &'a NodeProto) -> Option<DType> {
        let has = |names: &[&str]| names.iter().any(|name| self.attribute(node, name).is_some());
        if let Some(values) = self.attribute(node, "values_tensor").and_then(|a| a.t.as_ref()) {
            return DType::from_code(values.data_type());
        }
        if has(&["values_strings", "classlabels_strings", "cats_strings", "classes_strings"]) {
            return Some(DType::String);
        }
        if has(&["values_floats"]) {
            return Some(DType::F32);
        }
        has(&["values_int64s", "classlabels_ints", "classlabels_int64s"]).then_some(DType::I64)
    }

    /// The types of the outputs of a node's body. Where there are two (`If`), what either says.
    fn body(&mut self, node: &'a NodeProto) -> Vec<Option<Kind>> {
        let mut kinds: Vec<Option<Kind>> = Vec::new();
        for body in node.attribute.iter().filter_map(|attribute| attribute.g.as_ref()) {
            let outputs = self.one_body(node, body);
            kinds.resize(kinds.len().max(outputs.len()), None);
            for (kind, output) in kinds.iter_mut().zip(outputs) {
                *kind = kind.or(output);
            }
        }
        kinds
    }

    fn one_body(&mut self, node: &'a NodeProto, body: &'a GraphProto) -> Vec<Option<Kind>> {
        let mut scope = declared(body);
        for (i, input) in body.input.iter().enumerate() {
            // Loop: iteration, condition, carried values. Scan: the node's inputs one to one.
            let given = match (node.op_type(), i) {
                ("Loop", 0) => Some(Kind::Tensor(DType::I64)),
                ("Loop", 1) => Some(Kind::Tensor(DType::Bool)),
                _ => self.input(node, i),
            };
            if let Some(kind) = given {
                scope.entry(input.name()).or_insert(kind);
            }
        }
        self.scopes.push(scope);
        body.node.iter().for_each(|inner| self.node(inner));
        let outputs = body.output.iter().map(|output| self.kind(output.name())).collect();
        self.scopes.pop();
        outputs
    }

    /// The types that a function gives: those of its body, with the call's inputs and attributes.
    fn call(&mut self, node: &'a NodeProto, function: &'a FunctionProto) -> Vec<Option<Kind>> {
        if self.attributes.len() >= FUNCTION_DEPTH || self.budget < function.node.len() {
            return Vec::new();
        }
        self.budget -= function.node.len();
        let inputs = function.input.iter().zip(&node.input);
        let mut scope: Scope<'a> =
            inputs.filter_map(|(inner, outer)| Some((inner.as_str(), self.kind(outer)?))).collect();
        for value in &function.value_info {
            if let Some(kind) = kind_of(value) {
                scope.entry(value.name()).or_insert(kind);
            }
        }
        let mut attributes: HashMap<&str, &AttributeProto> =
            function.attribute_proto.iter().map(|attribute| (attribute.name(), attribute)).collect();
        for attribute in &node.attribute {
            if let Some(attribute) = self.attribute(node, attribute.name()) {
                attributes.insert(attribute.name(), attribute);
            }
        }
        let outer = std::mem::replace(&mut self.scopes, vec![scope]);
        self.attributes.push(attributes);
        function.node.iter().for_each(|inner| self.node(inner));
        let outputs = function.output.iter().map(|output| self.kind(output)).collect();
        self.attributes.pop();
        self.scopes = outer;
        outputs
    }
}

/// The element type that an attribute names by its number.
fn named(attribute: &AttributeProto) -> Option<Kind> {
    let code = i32::try_from(attribute.i()).ok()?;
    DType::from_code(code).map(Kind::Tensor)
}

/// Whether an optional input is given.
fn given(node: &NodeProto, input: usize) -> bool {
    node.input.get(input).is_some_and(|name| !name.is_empty())
}
