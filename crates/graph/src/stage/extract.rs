//! Builds the ONNX model of a stage out of the whole model.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use tensor::{DType, Dim, TensorSpec};

use super::Part;
use crate::flow::{Functions, Origin, ValueId, all_nodes, is_op};
use crate::model::{Model, raise_ir_version};
use crate::proto::tensor_shape_proto::{Dimension, dimension};
use crate::proto::type_proto::{self, Value};
use crate::proto::{
    FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto,
};

/// From this IR version on initialisers need not be listed as inputs; a stage lists none.
pub(crate) const FREE_INITIALIZERS_IR: i64 = 4;

impl Model {
    /// The part as a model that takes `inputs` by `part.feeds`.
    pub(crate) fn extract(&self, part: &Part, inputs: &[TensorSpec], outputs: &[TensorSpec]) -> ModelProto {
        let whole = self.graph();
        let mut graph = GraphProto {
            name: whole.name.clone(),
            doc_string: whole.doc_string.clone(),
            metadata_props: whole.metadata_props.clone(),
            ..GraphProto::default()
        };
        self.add_nodes(&mut graph, part);
        self.add_weights(&mut graph, part);

        let stated = stated(whole);
        let value_info = |spec: &TensorSpec| value_info(spec, stated.get(spec.name.as_str()).copied());
        graph.input = part.feeds.iter().map(|&i| value_info(&inputs[i])).collect();
        for &id in &part.computed {
            let spec = outputs.iter().find(|spec| spec.name == self.flow.names[id]);
            graph.output.extend(spec.map(value_info));
        }
        self.add_annotations(&mut graph, whole);

        let mut stage = ModelProto {
            ir_version: self.proto.ir_version,
            functions: used_functions(&self.proto, &graph.node),
            graph: Some(graph),
            training_info: Vec::new(), // refers to the whole graph
            ..ModelProto {
                opset_import: self.proto.opset_import.clone(),
                producer_name: self.proto.producer_name.clone(),
                producer_version: self.proto.producer_version.clone(),
                domain: self.proto.domain.clone(),
                model_version: self.proto.model_version,
                doc_string: self.proto.doc_string.clone(),
                metadata_props: self.proto.metadata_props.clone(),
                configuration: self.proto.configuration.clone(),
                ..ModelProto::default()
            }
        };
        raise_ir_version(&mut stage, FREE_INITIALIZERS_IR);
        stage
    }

    /// The nodes in topological order. A `Constant` that holds a dense tensor of numbers becomes an initialiser,
    /// so that its data can travel by hash; others stay what they are.
    fn add_nodes(&self, graph: &mut GraphProto, part: &Part) {
        for &index in self.flow.sorted.iter().filter(|&index| part.nodes.contains(index)) {
            let node = &self.graph().node[index];
            let is_output = self.flow.links[index].writes.iter().any(|id| part.computed.contains(id));
            match constant_tensor(node) {
                Some(weight) if !is_output => graph.initializer.push(weight),
                _ => graph.node.push(node.clone()),
            }
        }
    }

    fn add_weights(&self, graph: &mut GraphProto, part: &Part) {
        let mut ids: Vec<ValueId> = part.values.iter().copied().collect();
        ids.sort_unstable(); // in the file's order
        for id in ids {
            match self.flow.origins[id] {
                Origin::Weight(i) => graph.initializer.push(self.graph().initializer[i].clone()),
                Origin::SparseWeight(i) => {
                    graph.sparse_initializer.push(self.graph().sparse_initializer[i].clone());
                }
                Origin::Input(_) | Origin::Node(_) => {}
            }
        }
    }

    /// What the model says about values inside the stage.
    fn add_annotations(&self, graph: &mut GraphProto, whole: &GraphProto) {
        let computed = graph.node.iter().flat_map(|node| &node.output);
        let weights = graph.initializer.iter().map(|weight| weight.name());
        let inside: HashSet<&str> = computed.map(String::as_str).chain(weights).collect();
        let outputs: HashSet<&str> = graph.output.iter().map(|output| output.name()).collect();
        let is_inner =
            |value: &&ValueInfoProto| inside.contains(value.name()) && !outputs.contains(value.name());
        let value_info = whole.value_info.iter().filter(is_inner).cloned().collect();
        let annotations = whole.quantization_annotation.iter().filter(|annotation| {
            let parameters = annotation.quant_parameter_tensor_names.iter().map(|entry| entry.value());
            inside.contains(annotation.tensor_name())
                && parameters.into_iter().all(|name| inside.contains(name))
        });
        let annotations = annotations.cloned().collect();
        graph.value_info = value_info;
        graph.quantization_annotation = annotations;
    }
}

/// The dense tensor that a `Constant` node holds, in whichever attribute, named as the node's output.
pub(crate) fn constant_tensor(node: &NodeProto) -> Option<TensorProto> {
    if !is_op(node, "Constant") {
        return None;
    }
    let [attribute] = node.attribute.as_slice() else { return None };
    let many = |dtype: DType, len: usize, raw: Bytes| TensorProto {
        dims: vec![len as i64],
        data_type: Some(dtype.code().into()),
        raw_data: Some(raw),
        ..TensorProto::default()
    };
    let one = |dtype: DType, raw: Bytes| TensorProto { dims: Vec::new(), ..many(dtype, 1, raw) };
    let tensor = match attribute.name() {
        "value" => attribute.t.clone()?,
        "value_float" => one(DType::F32, attribute.f().to_le_bytes().into_iter().collect()),
        "value_int" => one(DType::I64, attribute.i().to_le_bytes().into_iter().collect()),
        "value_floats" => {
            let raw = attribute.floats.iter().flat_map(|value| value.to_le_bytes()).collect();
            many(DType::F32, attribute.floats.len(), raw)
        }
        "value_ints" => {
            let raw = attribute.ints.iter().flat_map(|value| value.to_le_bytes()).collect();
            many(DType::I64, attribute.ints.len(), raw)
        }
        _ => return None,
    };
    Some(TensorProto { name: node.output.first().cloned(), ..tensor })
}

fn stated(graph: &GraphProto) -> HashMap<&str, &ValueInfoProto> {
    let values = graph.value_info.iter().chain(&graph.output).chain(&graph.input);
    values.map(|value| (value.name(), value)).collect()
}

/// How a graph declares an input or output; keeps what the model says about it besides type and sizes.
fn value_info(spec: &TensorSpec, stated: Option<&ValueInfoProto>) -> ValueInfoProto {
    let tensor = type_proto::Tensor {
        elem_type: Some(spec.dtype.code().into()),
        shape: spec
            .dims
            .as_ref()
            .map(|dims| TensorShapeProto { dim: dims.iter().map(dimension_of).collect() }),
    };
    ValueInfoProto {
        name: Some(spec.name.clone()),
        r#type: Some(TypeProto {
            denotation: stated.and_then(|value| value.r#type.as_ref()?.denotation.clone()),
            value: Some(Value::TensorType(tensor)),
        }),
        doc_string: stated.and_then(|value| value.doc_string.clone()),
        metadata_props: stated.map(|value| value.metadata_props.clone()).unwrap_or_default(),
    }
}

fn dimension_of(dim: &Dim) -> Dimension {
    let value = match dim {
        Dim::Fixed(size) => i64::try_from(*size).ok().map(dimension::Value::DimValue),
        Dim::Symbol(name) => Some(dimension::Value::DimParam(name.clone())),
        Dim::Unknown => None,
    };
    Dimension { denotation: None, value }
}

/// The functions that the nodes call, and those that they call, in the model's order.
fn used_functions(model: &ModelProto, nodes: &[NodeProto]) -> Vec<FunctionProto> {
    let functions = Functions::of(model);
    let mut used: HashSet<*const FunctionProto> = HashSet::new();
    let mut calls = all_nodes(nodes);
    while let Some(call) = calls.pop() {
        if let Some(function) = functions.get(call)
            && used.insert(function)
        {
            calls.extend(all_nodes(&function.node));
        }
    }
    model.functions.iter().filter(|&function| used.contains(&std::ptr::from_ref(function))).cloned().collect()
}
