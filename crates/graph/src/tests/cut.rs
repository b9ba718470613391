//! Which places are cuts.

use tensor::{DType, Shape};

use crate::Model;
use crate::testing::*;

/// Cuts as `position:live,live`.
fn listed(model: &Model, max_live: usize) -> Vec<String> {
    let names =
        |cut: &crate::Cut| cut.live.iter().map(|spec| spec.name.clone()).collect::<Vec<_>>().join(",");
    model.cuts(max_live).iter().map(|cut| format!("{}:{}", cut.position, names(cut))).collect()
}

#[track_caller]
fn check(model: &Model, max_live: usize, expected: &[&str]) {
    assert_eq!(listed(model, max_live), expected);
    if !expected.is_empty() {
        check_all_cuts(model, max_live);
    }
}

#[test]
fn residual_blocks_have_cuts_of_two_tensors() {
    let nodes = vec![
        node("MatMul", &["x", "w"], &["a"]),
        node("MatMul", &["a", "w"], &["b"]),
        node("MatMul", &["b", "w"], &["c"]),
        node("Add", &["a", "c"], &["d"]),
        node("MatMul", &["d", "w"], &["y"]),
    ];
    let model = chain(vec![large("w", 1)], nodes);
    check(&model, 1, &["1:a", "4:d"]);
    check(&model, 2, &["1:a", "2:a,b", "4:d"]);
    assert_eq!(model.cuts(2)[1].name, "b", "named by what was computed last");
}

#[test]
fn operators_that_runtimes_fuse_stay_with_the_one_before() {
    let w = || vec![large("w", 1), large("s", 2)];
    // Bias and activation; an activation at the very end.
    let nodes = vec![
        node("MatMul", &["x", "w"], &["a"]),
        node("Add", &["a", "s"], &["b"]),
        node("Relu", &["b"], &["c"]),
        node("MatMul", &["c", "w"], &["d"]),
        node("Tanh", &["d"], &["y"]),
    ];
    check(&chain(w(), nodes), 1, &["3:c"]);
    // Swish: in between two tensors are live, and behind it one again.
    let nodes = vec![
        node("MatMul", &["x", "w"], &["a"]),
        node("Sigmoid", &["a"], &["g"]),
        node("Mul", &["a", "g"], &["b"]),
        node("MatMul", &["b", "w"], &["y"]),
    ];
    check(&chain(w(), nodes), 2, &["3:b"]);
    // Behind the activation more tensors are live: the cut before it is worth having.
    let nodes = vec![
        node("MatMul", &["x", "w"], &["a"]),
        node("Relu", &["a"], &["b"]),
        node("MatMul", &["b", "w"], &["c"]),
        node("MatMul", &["a", "c"], &["y"]),
    ];
    check(&chain(w(), nodes), 2, &["1:a", "2:a,b", "3:a,c"]);
}

#[test]
fn quantised_models_are_cut_where_the_integers_are() {
    let scale = || vec![f32s("s", &[], &[0.5]), raw("z", DType::U8, &[], vec![3]), large("w", 1)];
    let q = |from: &str, to: &str| node("QuantizeLinear", &[from, "s", "z"], &[to]);
    let dq = |from: &str, to: &str| node("DequantizeLinear", &[from, "s", "z"], &[to]);
    let nodes = vec![
        q("x", "q1"),
        dq("q1", "a"),
        node("MatMul", &["a", "w"], &["b"]),
        node("Relu", &["b"], &["c"]),
        q("c", "q2"),
        dq("q2", "d"),
        node("MatMul", &["d", "w"], &["e"]),
        q("e", "q3"),
        dq("q3", "y"),
    ];
    let model = chain(scale(), nodes);
    check(&model, 2, &["1:q1", "5:q2", "8:q3"]);
    assert!(model.cuts(2).iter().all(|cut| cut.live[0].dtype == DType::U8));
}

#[test]
fn what_is_live_travels_along() {
    // Two inputs, one used late; an output that is ready early; an input that is an output.
    let nodes = vec![
        node("MatMul", &["x", "w"], &["early"]),
        node("MatMul", &["early", "w"], &["b"]),
        node("MatMul", &["b", "late"], &["y"]),
    ];
    let model = read(graph(
        squares(&["x", "late", "through", "unused"]),
        squares(&["y", "early", "through"]),
        vec![large("w", 1)],
        nodes,
    ));
    check(&model, 4, &["1:late,through,early", "2:late,through,early,b"]);
    check(&model, 3, &["1:late,through,early"]);
}

#[test]
fn constants_are_no_operators_and_never_live() {
    let nodes = vec![
        with(node("Constant", &[], &["k"]), "value", tensor(large("", 3))),
        with(node("Constant", &[], &["f"]), "value_float", float(2.0)),
        node("Transpose", &["k"], &["kt"]), // computed from constants alone
        node("MatMul", &["x", "kt"], &["a"]),
        node("MatMul", &["a", "kt"], &["b"]),
        node("Mul", &["b", "f"], &["c"]),
        node("MatMul", &["c", "k"], &["y"]),
        node("MatMul", &["a", "b"], &["dead"]),
    ];
    let model = chain(vec![], nodes);
    assert_eq!(
        model.operators().iter().map(|op| op.op_type.as_str()).collect::<Vec<_>>(),
        ["MatMul", "MatMul", "Mul", "MatMul"]
    );
    check(&model, 1, &["1:a", "3:c"]);
}

#[test]
fn random_numbers_are_drawn_once() {
    let random = with(node("RandomNormal", &[], &["r"]), "dtype", int(1));
    let nodes = vec![random, node("MatMul", &["x", "r"], &["a"]), node("MatMul", &["a", "r"], &["y"])];
    // Were it a constant, each stage would draw its own.
    check(&chain(vec![], nodes), 2, &["1:x,r", "2:r,a"]);
}

#[test]
fn values_that_are_no_tensors_of_known_type_cross_no_cut() {
    let mm = |from: &str, to: &str| node("MatMul", &[from, "w"], &[to]);
    let sequence = vec![
        mm("x", "a"),
        node("SequenceConstruct", &["a", "a"], &["s"]),
        node("ConcatFromSequence", &["s"], &["b"]),
        mm("b", "y"),
    ];
    let model = chain(vec![large("w", 1)], sequence);
    check(&model, 2, &["1:a", "3:b"]);
    let error = model.stage(0..2).unwrap_err().to_string();
    assert_eq!(error, "no cut before operator 2 (`n_b`): a sequence `s` would have to cross it");

    let mut custom = node("Mystery", &["a"], &["m"]);
    custom.domain = Some("com.example".to_owned());
    let nodes = vec![mm("x", "a"), custom, mm("m", "b"), mm("b", "y")];
    let untyped = graph(squares(&["x"]), squares(&["y"]), vec![large("w", 1)], nodes.clone());
    // `b` is like `m`, whose type nobody knows.
    check(&read(untyped.clone()), 2, &["1:a"]);
    let typed = crate::proto::GraphProto { value_info: squares(&["m"]), ..untyped };
    check(&read(typed), 2, &["1:a", "2:m", "3:b"]);
}

#[test]
fn control_flow_stays_whole_and_captures_live_on() {
    let branch = |op: &str, out: &str| {
        graph(vec![], squares(&[out]), vec![], vec![node(op, &["captured", "w"], &[out])])
    };
    let conditional = with(node("If", &["condition"], &["b"]), "then_branch", body(branch("MatMul", "t")));
    let conditional = with(conditional, "else_branch", body(branch("Add", "e")));
    let nodes = vec![
        node("MatMul", &["x", "w"], &["captured"]),
        node("MatMul", &["captured", "w"], &["a"]),
        node("MatMul", &["a", "w"], &["a2"]),
        conditional,
        node("MatMul", &["a2", "b"], &["y"]),
    ];
    let mut inputs = squares(&["x"]);
    inputs.push(value("condition", DType::Bool, &[]));
    let model = read(graph(inputs, squares(&["y"]), vec![large("w", 1)], nodes));
    check(
        &model,
        3,
        &["1:condition,captured", "2:condition,captured,a", "3:condition,captured,a2", "4:a2,b"],
    );
    let stage = model.stage(3..4).unwrap();
    assert_eq!(stage.inputs.len(), 3);
    assert_eq!(stage.feeds, [0, 1], "the captured value is an input of the stage's model");
    assert_eq!(stage.weights.len(), 1, "so is the captured weight");
}

#[test]
fn measured_sizes_are_fixed_only_where_no_input_is_open() {
    let nodes = || vec![node("MatMul", &["x", "w"], &["a"]), node("MatMul", &["a", "w"], &["y"])];
    for (dims, before, expected) in [([32, 32], "of any rank", "32x32"), ([-1, 32], "of any rank", "?x?")] {
        let inputs = vec![value("x", DType::F32, &dims)];
        let mut model = read(graph(inputs, squares(&["y"]), vec![large("w", 1)], nodes()));
        assert_eq!(model.cuts(1)[0].live[0].shape_text(), before);
        model.set_shapes(&[("a".to_owned(), Shape::from([32, 32]))].into());
        assert_eq!(model.cuts(1)[0].live[0].shape_text(), expected);
        assert_eq!(model.stage(1..2).unwrap().inputs[0].shape_text(), expected);
    }
}

#[test]
fn measured_sizes_that_depend_on_data_stay_open() {
    let nodes = vec![node("MatMul", &["x", "w"], &["a"]), node("NonZero", &["a"], &["b"])];
    let found = vec![value("found", DType::I64, &[2, -1])];
    let nodes = [nodes, vec![node("Neg", &["b"], &["c"]), node("Identity", &["c"], &["found"])]].concat();
    let mut model = read(graph(squares(&["x"]), found, vec![large("w", 1)], nodes));
    let measured = |name: &str, dims: [usize; 2]| (name.to_owned(), Shape::from(dims));
    let sizes = [("a", [32, 32]), ("b", [2, 7]), ("c", [2, 7]), ("found", [2, 7])];
    model.set_shapes(&sizes.map(|(name, dims)| measured(name, dims)).into());
    let crossing = |end: usize| model.stage(0..end).unwrap().outputs[0].shape_text();
    assert_eq!([1, 2, 3, 4].map(crossing), ["32x32", "?x?", "?x?", "2x<batch>"]);
}
