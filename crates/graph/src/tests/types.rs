//! The types that follow from operators.

use tensor::DType::{self, *};

use crate::proto::*;
use crate::testing::*;
use crate::types::Kind;

/// The types of the outputs `y`, `y1` of one node, in a model with inputs of every kind.
fn outputs_of(node: NodeProto, functions: Vec<FunctionProto>) -> [Option<Kind>; 2] {
    let inputs = [("f", F32), ("h", F16), ("i", I64), ("b", Bool), ("u", U8), ("s", I8)];
    let inputs = inputs.map(|(name, dtype)| value(name, dtype, &[4])).to_vec();
    let model = ModelProto { functions, ..proto(graph(inputs, vec![], vec![], vec![node])) };
    let graph = model.graph.as_ref().unwrap();
    let kinds = crate::types::infer(&model, graph, &[0]);
    ["y", "y1"].map(|name| kinds.get(name).copied())
}

#[track_caller]
fn check(node: NodeProto, expected: [Option<DType>; 2]) {
    let name = node.op_type().to_owned();
    assert_eq!(outputs_of(node, vec![]), expected.map(|dtype| dtype.map(Kind::Tensor)), "{name}");
}

#[test]
fn operators_follow_the_table() {
    let op = |op_type: &str, inputs: &[&str]| node(op_type, inputs, &["y", "y1"]);
    for (node, expected) in [
        (op("Conv", &["h", "h"]), [Some(F16); 2]),
        (op("Equal", &["f", "f"]), [Some(Bool); 2]),
        (op("Shape", &["f"]), [Some(I64); 2]),
        (op("TopK", &["h", "i"]), [Some(F16), Some(I64)]),
        (op("Where", &["b", "h", "h"]), [Some(F16); 2]),
        (op("Where", &["b", "unheard-of", "h"]), [Some(F16); 2]),
        (with(op("Cast", &["f"]), "to", int(10)), [Some(F16); 2]),
        (with(op("Cast", &["f"]), "to", int(1 << 40)), [None; 2]),
        (op("Cast", &["f"]), [None; 2]),
        (op("CastLike", &["f", "i"]), [Some(I64); 2]),
        (op("Dropout", &["h"]), [Some(F16), Some(Bool)]),
        (op("LSTM", &["h"]), [Some(F16); 2]),
        (op("ConvInteger", &["u", "s"]), [Some(I32); 2]),
        (op("QuantizeLinear", &["f", "f", "s"]), [Some(I8); 2]),
        (op("QuantizeLinear", &["f", "f"]), [Some(U8); 2]),
        (with(op("QuantizeLinear", &["f", "f", ""]), "output_dtype", int(3)), [Some(I8); 2]),
        (op("DequantizeLinear", &["u", "h", "u"]), [Some(F16); 2]),
        (op("DynamicQuantizeLinear", &["f"]), [Some(U8), Some(F32)]),
        (op("ConstantOfShape", &["i"]), [Some(F32); 2]),
        (with(op("ConstantOfShape", &["i"]), "value", tensor(i64s("", &[1]))), [Some(I64); 2]),
        (with(op("Constant", &[]), "value_ints", AttributeProto::default()), [Some(I64); 2]),
        (with(op("Constant", &[]), "value_string", AttributeProto::default()), [Some(String); 2]),
        (op("Range", &["i", "i", "i"]), [Some(I64); 2]),
        (op("OneHot", &["i", "i", "h"]), [Some(F16); 2]),
        (op("EyeLike", &["h"]), [Some(F16); 2]),
        (with(op("RandomNormalLike", &["h"]), "dtype", int(11)), [Some(F64); 2]),
        (op("Mystery", &["f"]), [None; 2]),
        (NodeProto { domain: Some("ai.onnx".into()), ..op("Relu", &["f"]) }, [Some(F32); 2]),
        (NodeProto { domain: Some("com.example".into()), ..op("Relu", &["f"]) }, [None; 2]),
        (NodeProto { domain: Some("com.microsoft".into()), ..op("FusedConv", &["h"]) }, [Some(F16); 2]),
    ] {
        check(node, expected);
    }
}

#[test]
fn bodies_give_the_types_of_their_outputs() {
    // A branch that computes from an outer value, one that is of unknown type.
    let branch =
        |op: &str| graph(vec![], vec![ValueInfoProto::default()], vec![], vec![node(op, &["h"], &["t"])]);
    let branch = |op: &str| {
        let mut branch = branch(op);
        branch.output[0].name = Some("t".to_owned());
        branch
    };
    let conditional = with(node("If", &["b"], &["y"]), "then_branch", body(branch("Mystery")));
    check(with(conditional, "else_branch", body(branch("Relu"))), [Some(F16), None]);

    // Loop: iteration and condition first, then what is carried, then what is collected.
    let untyped = |name: &str| ValueInfoProto { name: Some(name.to_owned()), ..ValueInfoProto::default() };
    let step = graph(
        ["n", "go", "carried"].map(untyped).to_vec(),
        ["go", "carried", "n"].map(untyped).to_vec(),
        vec![],
        vec![],
    );
    check(with(node("Loop", &["i", "b", "h"], &["y", "y1"]), "body", body(step)), [Some(F16), Some(I64)]);
}

#[test]
fn sequences_remember_their_elements() {
    let made = outputs_of(node("SequenceConstruct", &["h", "h"], &["y"]), vec![]);
    assert_eq!(made[0], Some(Kind::Sequence(F16)));
    let nodes = vec![node("SequenceConstruct", &["h"], &["q"]), node("SequenceAt", &["q", "i"], &["y"])];
    let inputs = vec![value("h", F16, &[1]), value("i", I64, &[])];
    let model = proto(graph(inputs, vec![], vec![], nodes));
    let kinds = crate::types::infer(&model, model.graph.as_ref().unwrap(), &[0, 1]);
    assert_eq!(kinds["y"], Kind::Tensor(F16));
}

#[test]
fn functions_are_looked_into() {
    let function = |name: &str, nodes: Vec<NodeProto>| FunctionProto {
        name: Some(name.to_owned()),
        domain: Some("ours".to_owned()),
        input: vec!["p".to_owned()],
        output: vec!["r".to_owned(), "q".to_owned()],
        node: nodes,
        ..FunctionProto::default()
    };
    let ours = |node: NodeProto| NodeProto { domain: Some("ours".to_owned()), ..node };
    let cast = with(
        node("Cast", &["p"], &["r"]),
        "to",
        AttributeProto { ref_attr_name: Some("kind".to_owned()), ..AttributeProto::default() },
    );
    let plain = function("F", vec![cast, node("Relu", &["p"], &["q"])]);
    let call = with(ours(node("F", &["h"], &["y", "y1"])), "kind", int(7));
    assert_eq!(outputs_of(call, vec![plain]), [Some(Kind::Tensor(I64)), Some(Kind::Tensor(F16))]);

    // Calls that multiply, and calls without end, must end.
    let doubling = |i: usize| {
        let next = format!("F{}", i + 1);
        let calls = vec![ours(node(&next, &["p"], &["r"])), ours(node(&next, &["r"], &["q"]))];
        function(&format!("F{i}"), calls)
    };
    let mut functions: Vec<FunctionProto> = (0..60).map(doubling).collect();
    functions.push(function("Self", vec![ours(node("Self", &["p"], &["r"]))]));
    for call in ["F0", "Self"] {
        assert_eq!(outputs_of(ours(node(call, &["f"], &["y", "y1"])), functions.clone())[1], None);
    }
}
