//! The model's own operators, and whether an operator always gives the same for the same inputs.

use std::collections::{HashMap, HashSet};

use super::{domain, is_op};
use crate::proto::{FunctionProto, ModelProto, NodeProto};
use crate::visit::bodies;

type Key<'a> = (&'a str, &'a str, &'a str);

/// The functions of a model.
pub(crate) struct Functions<'a> {
    by_key: HashMap<Key<'a>, &'a FunctionProto>,
    impure: HashSet<*const FunctionProto>,
}

impl<'a> Functions<'a> {
    pub(crate) fn of(model: &'a ModelProto) -> Functions<'a> {
        let by_key = model.functions.iter().map(|f| (key_of(f), f)).collect();
        let mut functions = Functions { by_key, impure: HashSet::new() };
        functions.impure =
            functions.that_use(&|node| functions.get(node).is_none() && !is_pure_operator(node));
        functions
    }

    /// The function that a node calls.
    pub(crate) fn get(&self, node: &NodeProto) -> Option<&'a FunctionProto> {
        self.by_key.get(&called(node)).copied()
    }

    /// Whether a node gives the same for the same inputs. Operators of other domains are not taken to.
    pub(crate) fn is_pure(&self, node: &NodeProto) -> bool {
        let pure = match self.get(node) {
            Some(function) => !self.impure.contains(&std::ptr::from_ref(function)),
            None => is_pure_operator(node),
        };
        pure && bodies(node).flat_map(|body| &body.node).all(|inner| self.is_pure(inner))
    }

    /// The functions that have a node for which `is_wanted` holds, and from there on those that call them.
    /// A work list and no recursion: a file may hold a chain of functions longer than our stack.
    pub(crate) fn that_use(&self, is_wanted: &dyn Fn(&NodeProto) -> bool) -> HashSet<*const FunctionProto> {
        let mut callers: HashMap<Key<'a>, Vec<Key<'a>>> = HashMap::new();
        for (&caller, function) in &self.by_key {
            for node in all_nodes(&function.node) {
                callers.entry(called(node)).or_default().push(caller);
            }
        }
        let uses_one = |f: &FunctionProto| all_nodes(&f.node).into_iter().any(is_wanted);
        let mut pending: Vec<Key<'a>> =
            self.by_key.iter().filter(|(_, f)| uses_one(f)).map(|(&key, _)| key).collect();
        let mut found = HashSet::new();
        while let Some(key) = pending.pop() {
            if found.insert(std::ptr::from_ref(self.by_key[&key])) {
                pending.extend(callers.get(&key).into_iter().flatten());
            }
        }
        found
    }
}

fn key_of(function: &FunctionProto) -> Key<'_> {
    (function.domain(), function.name(), function.overload())
}

fn called(node: &NodeProto) -> Key<'_> {
    (node.domain(), node.op_type(), node.overload())
}

/// The nodes, with those of bodies inside them.
pub(crate) fn all_nodes(nodes: &[NodeProto]) -> Vec<&NodeProto> {
    let mut all: Vec<&NodeProto> = nodes.iter().collect();
    let mut next = 0;
    while next < all.len() {
        let node = all[next];
        all.extend(bodies(node).flat_map(|body| &body.node));
        next += 1;
    }
    all
}

fn is_pure_operator(node: &NodeProto) -> bool {
    const RANDOM: &[&str] = &[
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    ];
    // These two are random or keep a state in training.
    let training = node.attribute.iter().any(|a| a.name() == "training_mode" && a.i() != 0)
        || (is_op(node, "Dropout") && node.input.len() > 2);
    matches!(domain(node), "" | "ai.onnx.ml" | "com.microsoft")
        && !RANDOM.contains(&node.op_type())
        && !training
}
