//! Small models for tests, and a run that needs no engine.

use std::collections::HashMap;
use std::path::PathBuf;

use bytes::Bytes;
use prost::Message;
use tensor::DType;

use crate::flow::display_name;
use crate::hash::Hash;
use crate::names::reads;
use crate::proto::tensor_shape_proto::{Dimension, dimension};
use crate::proto::type_proto::{self, Value};
use crate::proto::*;
use crate::stage::constant_tensor;
use crate::{Model, Route, Stage};

pub(crate) fn node(op_type: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: Some(op_type.to_owned()),
        name: Some(format!("n_{}", outputs.first().unwrap_or(&""))),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: outputs.iter().map(|&name| name.to_owned()).collect(),
        ..NodeProto::default()
    }
}

pub(crate) fn with(mut node: NodeProto, name: &str, attribute: AttributeProto) -> NodeProto {
    node.attribute.push(AttributeProto { name: Some(name.to_owned()), ..attribute });
    node
}

pub(crate) fn int(i: i64) -> AttributeProto {
    AttributeProto { i: Some(i), r#type: Some(2), ..AttributeProto::default() }
}

pub(crate) fn float(f: f32) -> AttributeProto {
    AttributeProto { f: Some(f), r#type: Some(1), ..AttributeProto::default() }
}

pub(crate) fn tensor(t: TensorProto) -> AttributeProto {
    AttributeProto { t: Some(t), r#type: Some(4), ..AttributeProto::default() }
}

pub(crate) fn body(g: GraphProto) -> AttributeProto {
    AttributeProto { g: Some(g), r#type: Some(5), ..AttributeProto::default() }
}

pub(crate) fn f32s(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    raw(name, DType::F32, dims, values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

pub(crate) fn i64s(name: &str, values: &[i64]) -> TensorProto {
    let raw_data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    raw(name, DType::I64, &[values.len() as i64], raw_data)
}

pub(crate) fn raw(name: &str, dtype: DType, dims: &[i64], bytes: Vec<u8>) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: dims.to_vec(),
        data_type: Some(dtype.code().into()),
        raw_data: Some(Bytes::from(bytes)),
        ..TensorProto::default()
    }
}

/// A weight large enough to travel by hash, its numbers made from `seed`.
pub(crate) fn large(name: &str, seed: usize) -> TensorProto {
    let values: Vec<f32> = (0..32 * 32).map(|i| (i * seed) as f32).collect();
    f32s(name, &[32, 32], &values)
}

/// A value whose sizes are given; -1 is an open one.
pub(crate) fn value(name: &str, dtype: DType, dims: &[i64]) -> ValueInfoProto {
    let dim = |&size: &i64| Dimension {
        value: Some(match size {
            -1 => dimension::Value::DimParam("batch".to_owned()),
            size => dimension::Value::DimValue(size),
        }),
        denotation: None,
    };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: Some(dtype.code().into()), shape };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto { value: Some(Value::TensorType(tensor)), denotation: None }),
        ..ValueInfoProto::default()
    }
}

/// f32 values of shape 32x32, the shape of [`large`].
pub(crate) fn squares(names: &[&str]) -> Vec<ValueInfoProto> {
    names.iter().map(|name| value(name, DType::F32, &[32, 32])).collect()
}

pub(crate) fn graph(
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
    weights: Vec<TensorProto>,
    nodes: Vec<NodeProto>,
) -> GraphProto {
    GraphProto {
        name: Some("g".to_owned()),
        input: inputs,
        output: outputs,
        initializer: weights,
        node: nodes,
        ..GraphProto::default()
    }
}

pub(crate) fn proto(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

/// The model, read from its encoded form.
pub(crate) fn read(graph: GraphProto) -> Model {
    Model::from_bytes(proto(graph).encode_to_vec()).expect("a good model")
}

/// Why the model is refused.
pub(crate) fn refusal(graph: GraphProto) -> String {
    Model::from_bytes(proto(graph).encode_to_vec()).expect_err("a bad model").to_string()
}

/// From f32 `x` to `y`, all 32x32.
pub(crate) fn chain(weights: Vec<TensorProto>, nodes: Vec<NodeProto>) -> Model {
    read(graph(squares(&["x"]), squares(&["y"]), weights, nodes))
}

/// The trained models of the repository.
pub(crate) fn vendored() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models");
    ["resnet20_mnist", "resnet20_mnist_int8_qdq", "efficientnet_lite0", "efficientnet_lite0_int8_qdq"]
        .map(|name| folder.join(name).with_extension("onnx"))
        .to_vec()
}

/// Runs a model on symbols: a value is the hash of the operator that computes it, with its attributes and
/// inputs. Two graphs give the same symbols if and only if they compute the same. Fails on anything an engine
/// would fail on: missing values, nodes out of order.
pub(crate) fn run_symbolically(model: &[u8], inputs: &[Hash]) -> Vec<Hash> {
    let model = ModelProto::decode(Bytes::copy_from_slice(model)).expect("a model");
    let graph = model.graph.expect("a graph");
    let mut values: HashMap<&str, Hash> = HashMap::new();
    let is_weight = |name: &str| graph.initializer.iter().any(|weight| weight.name() == name);
    let fed: Vec<&ValueInfoProto> = graph.input.iter().filter(|input| !is_weight(input.name())).collect();
    assert_eq!(fed.len(), inputs.len(), "inputs of the stage");
    values.extend(fed.iter().zip(inputs).map(|(input, &hash)| (input.name(), hash)));
    values.extend(graph.initializer.iter().map(|weight| (weight.name(), symbol_of(weight))));
    for sparse in &graph.sparse_initializer {
        let name = sparse.values.as_ref().expect("values").name();
        values.insert(name, Hash::of(&sparse.encode_to_vec()));
    }
    for node in &graph.node {
        let mut text = format!("{}.{}", node.domain(), node.op_type());
        for name in &node.input {
            // Bodies reach outer values by name; the names of inputs do not matter.
            text += &if name.is_empty() { ".".to_owned() } else { format!(" {}", values[name.as_str()]) };
        }
        for name in reads(node).into_iter().filter(|name| !node.input.iter().any(|input| input == name)) {
            text += &format!(" {name}={}", values[name]);
        }
        for attribute in &node.attribute {
            text += &format!(" {}", Hash::of(&attribute.encode_to_vec()));
        }
        for (i, name) in node.output.iter().enumerate() {
            let symbol = match constant_tensor(node) {
                Some(tensor) => symbol_of(&tensor),
                None => Hash::of(format!("{text} {i}").as_bytes()),
            };
            assert!(values.insert(name, symbol).is_none(), "{} writes {name} again", display_name(node));
        }
    }
    graph.output.iter().map(|output| values[output.name()]).collect()
}

fn symbol_of(weight: &TensorProto) -> Hash {
    let data = Hash::of(weight.raw_data());
    Hash::of(format!("{:?} {:?} {data} {:?}", weight.dims, weight.data_type, weight.string_data).as_bytes())
}

/// One frame through one stage.
pub(crate) fn pass(stage: &Stage, frame: &[Hash]) -> Vec<Hash> {
    assert_eq!(frame.len(), stage.inputs.len());
    let fed: Vec<Hash> = stage.feeds.iter().map(|&i| frame[i]).collect();
    let computed = run_symbolically(&stage.to_bytes().expect("small enough"), &fed);
    assert_eq!(stage.routes.len(), stage.outputs.len());
    let route = |route: &Route| match *route {
        Route::Computed(i) => computed[i],
        Route::Passed(i) => frame[i],
    };
    stage.routes.iter().map(route).collect()
}

/// Cuts the model at the positions and checks that the stages together compute what it computes.
pub(crate) fn check_composition(model: &Model, positions: &[usize]) {
    let inputs: Vec<Hash> = (0..model.inputs().len()).map(|i| Hash::of(&i.to_le_bytes())).collect();
    let whole = run_symbolically(&model.to_bytes().expect("small enough"), &inputs);
    let mut bounds = vec![0];
    bounds.extend(positions);
    bounds.push(model.operators().len());
    let mut frame = inputs;
    let mut specs = model.inputs().to_vec();
    for bounds in bounds.windows(2) {
        let stage = model.stage(bounds[0]..bounds[1]).expect("a stage");
        assert_eq!(stage.inputs, specs, "the frame that arrives is the one that left");
        frame = pass(&stage, &frame);
        specs = stage.outputs;
    }
    assert_eq!(specs, model.outputs());
    assert_eq!(frame, whole, "cut at {positions:?}");
}

/// [`check_composition`] at every single cut, at all of them, and in pairs.
pub(crate) fn check_all_cuts(model: &Model, max_live: usize) {
    let cuts: Vec<usize> = model.cuts(max_live).iter().map(|cut| cut.position).collect();
    assert!(!cuts.is_empty());
    check_composition(model, &cuts);
    cuts.iter().for_each(|&cut| check_composition(model, &[cut]));
    cuts.windows(2).for_each(|pair| check_composition(model, pair));
}
