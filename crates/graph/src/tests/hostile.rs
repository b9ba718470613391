//! Broken and hostile models: an error that names the place, never a panic.

use prost::Message;
use tensor::{DType, Dim};

use crate::Model;
use crate::proto::*;
use crate::testing::*;

/// Everything that can be asked of a model.
fn use_up(mut model: Model) {
    model.hash();
    for cut in model.cuts(4) {
        let _ = model.stage(0..cut.position).map(|stage| stage.to_bytes());
    }
    let _ = model.stage(0..model.operators().len());
    let _ = model.simplify(&mut |_| Err("no engine".to_owned()));
    model.to_bytes().unwrap();
}

fn sample() -> Vec<u8> {
    let branch = || graph(vec![], squares(&["t"]), vec![], vec![node("Add", &["a", "w"], &["t"])]);
    let conditional = with(node("If", &["c"], &["b"]), "then_branch", body(branch()));
    let nodes = vec![
        node("Conv", &["x", "w"], &["a0"]),
        node("BatchNormalization", &["a0", "s", "s", "s", "s"], &["a"]),
        with(conditional, "else_branch", body(branch())),
        with(node("Constant", &[], &["k"]), "value", tensor(i64s("", &[2]))),
        node("Expand", &["s", "k"], &["e"]),
        node("QuantizeLinear", &["b", "s"], &["q"]),
        node("DequantizeLinear", &["q", "s"], &["d"]),
        node("Sum", &["d", "e", "b"], &["y"]),
    ];
    let weights = vec![f32s("w", &[1, 1, 1, 1], &[2.0]), f32s("s", &[1], &[0.5])];
    let mut inputs = squares(&["x"]);
    inputs.push(value("c", DType::Bool, &[-1]));
    proto(graph(inputs, squares(&["y"]), weights, nodes)).encode_to_vec()
}

#[test]
fn every_truncation_is_refused() {
    let good = sample();
    use_up(Model::from_bytes(good.clone()).unwrap());
    for len in 0..good.len() {
        assert!(Model::from_bytes(good[..len].to_vec()).is_err(), "{len} of {} bytes", good.len());
    }
}

#[test]
fn no_changed_byte_makes_it_panic() {
    let good = sample();
    let mut readable = 0;
    for position in 0..good.len() {
        for change in [0x01, 0x08, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[position] ^= change;
            if let Ok(model) = Model::from_bytes(bad) {
                readable += 1;
                use_up(model);
            }
        }
    }
    assert!(readable > 100, "the test reaches behind the decoder");
}

#[test]
fn tensors_must_hold_what_their_sizes_say() {
    let weight = |dims: &[i64], bytes: usize| raw("w", DType::F32, dims, vec![0; bytes]);
    for (weight, problem) in [
        (weight(&[3], 11), "ask for 12 bytes, and it holds 11"),
        (weight(&[1 << 40, 1 << 40], 4), "its sizes overflow"),
        (weight(&[1 << 62], 4), "larger than this machine can address"),
        (weight(&[1 << 60], 0), "typed elements, and it holds 0"),
        (weight(&[-1], 4), "size -1 is no size"),
        (weight(&[i64::MIN], 4), "is no size"),
        (TensorProto { data_type: Some(99), ..weight(&[1], 4) }, "element type 99 is unknown"),
        (TensorProto { data_type: None, ..weight(&[1], 4) }, "element type 0 is unknown"),
        (TensorProto { data_type: Some(8), ..weight(&[2], 4) }, "2 strings, and it holds 0"),
    ] {
        let found = refusal(graph(squares(&["x"]), squares(&["x"]), vec![weight], vec![]));
        assert!(found.starts_with("tensor `w`: ") && found.contains(problem), "{found}");
    }
}

#[test]
fn graphs_that_are_none_are_refused_by_name() {
    let nodes = |nodes: Vec<NodeProto>| graph(squares(&["x"]), squares(&["y"]), vec![], nodes);
    let branch = graph(vec![], squares(&["t"]), vec![], vec![node("Add", &["inner", "t0"], &["t"])]);
    let unnamed = NodeProto { name: None, ..node("Abs", &["nowhere"], &["y"]) };
    for (graph, problem) in [
        (
            nodes(vec![
                node("Abs", &["behind"], &["y"]),
                node("Add", &["x", "b"], &["a"]),
                node("Abs", &["a"], &["b"]),
                node("Abs", &["b"], &["behind"]),
            ]),
            "depends on its own output",
        ),
        (nodes(vec![node("Abs", &["x"], &["y"]), node("Neg", &["x"], &["y"])]), "`y` is defined twice"),
        (nodes(vec![node("Abs", &["x"], &["x"])]), "`x` is defined twice"),
        (nodes(vec![unnamed]), "operator `y` reads `nowhere`, which nothing defines"),
        (nodes(vec![node("Abs", &["x"], &["z"])]), "no operator computes the model's output `y`"),
        (
            nodes(vec![with(node("If", &["x"], &["y"]), "then_branch", body(branch))]),
            "operator `n_y` reads `inner`, which nothing defines",
        ),
        (graph(squares(&["x", "x"]), squares(&["x"]), vec![], vec![]), "`x` is defined twice"),
    ] {
        let found = refusal(graph);
        assert!(found.contains(problem), "{found}");
    }
    let cycle = refusal(nodes(vec![node("Abs", &["y"], &["z"]), node("Abs", &["z"], &["y"])]));
    assert!(cycle.contains("`n_z`") || cycle.contains("`n_y`"), "{cycle}");
}

#[test]
fn inputs_that_are_no_tensors_are_refused() {
    let sequence = type_proto::Sequence { elem_type: Some(Box::default()) };
    let mut input = value("x", DType::F32, &[1]);
    input.r#type = Some(TypeProto {
        value: Some(type_proto::Value::SequenceType(Box::new(sequence))),
        denotation: None,
    });
    let found = refusal(graph(vec![input], vec![], vec![], vec![]));
    assert!(found.contains("the model's input `x` is"), "{found}");
}

#[test]
fn nodes_out_of_order_are_sorted_and_the_rest_stays() {
    let nodes = vec![
        node("Neg", &["b"], &["y"]),
        node("Abs", &["x"], &["a"]),
        node("Neg", &["x"], &["c"]),
        node("Add", &["a", "c"], &["b"]),
    ];
    let model = chain(vec![], nodes);
    let names: Vec<&str> = model.operators().iter().map(|op| op.name.as_str()).collect();
    assert_eq!(names, ["n_a", "n_c", "n_b", "n_y"]);
}

#[test]
fn weights_listed_as_inputs_are_none_and_odd_sizes_are_open() {
    let mut inputs = vec![value("x", DType::F32, &[-1, 3, -7])];
    inputs.extend(squares(&["w"]));
    let nodes = vec![node("MatMul", &["x", "w"], &["y"])];
    let model = read(graph(inputs, squares(&["y"]), vec![large("w", 1)], nodes));
    let dims = [Dim::Symbol("batch".to_owned()), Dim::Fixed(3), Dim::Unknown];
    assert_eq!(model.inputs().len(), 1);
    assert_eq!(model.inputs()[0].dims.as_deref(), Some(&dims[..]));
}

#[test]
fn bodies_in_bodies_end() {
    let mut deep = graph(vec![], squares(&["t"]), vec![], vec![node("Abs", &["x"], &["t"])]);
    let mut refused = 0;
    for depth in 0..200 {
        let conditional = with(node("If", &["x"], &["t"]), "then_branch", body(deep));
        deep = graph(vec![], squares(&["t"]), vec![], vec![conditional]);
        if depth % 20 != 0 {
            continue;
        }
        let whole = GraphProto { input: squares(&["x"]), ..deep.clone() };
        match Model::from_bytes(proto(whole).encode_to_vec()) {
            Ok(model) => use_up(model),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 0);
}
