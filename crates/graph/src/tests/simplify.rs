//! What simplification removes, folds and keeps.

use tensor::{Shape, Tensor};

use crate::proto::*;
use crate::testing::*;
use crate::{Model, Simplified};

fn never(_: &[u8]) -> Result<Vec<Tensor>, String> {
    panic!("nothing to compute")
}

fn operators(model: &Model) -> Vec<&str> {
    model.graph().node.iter().map(|node| node.op_type()).collect()
}

fn weight<'a>(model: &'a Model, name: &str) -> &'a TensorProto {
    model.graph().initializer.iter().find(|weight| weight.name() == name).expect("a weight of this name")
}

fn floats(tensor: &TensorProto) -> Vec<f32> {
    tensor.raw_data().chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

#[test]
fn what_does_nothing_goes() {
    let keeps_body = graph(vec![], squares(&["t"]), vec![], vec![node("Add", &["c", "c"], &["t"])]);
    let conditional = with(node("If", &["yes"], &["d"]), "then_branch", body(keeps_body.clone()));
    let nodes = vec![
        node("Identity", &["x"], &["a"]),
        node("Dropout", &["a"], &["b", "mask"]),
        node("Identity", &["b"], &["c"]), // captured by the body below
        with(conditional, "else_branch", body(keeps_body)),
        node("Abs", &["a"], &["dead"]),
        node("Identity", &["d"], &["y"]), // gives the output its name
    ];
    let yes = raw("yes", tensor::DType::Bool, &[], vec![1]);
    let mut model = chain(vec![yes, large("unused", 1)], nodes);
    let report = model.simplify(&mut never).unwrap();
    assert_eq!(report, Simplified { removed: 4, ..Simplified::default() });
    assert_eq!(operators(&model), ["If", "Identity"]);
    let branch = model.graph().node[0].attribute[0].g.as_ref().unwrap();
    assert_eq!(branch.node[0].input, ["x", "x"]);
    assert_eq!(model.graph().initializer.len(), 1);
}

#[test]
fn dropout_in_training_and_masks_in_use_stay() {
    let t = |on: u8| raw("t", tensor::DType::Bool, &[], vec![on]);
    for (on, inputs, outputs, removed) in [
        (0, &["x", "", "t"][..], &["a"][..], 1),
        (1, &["x", "", "t"], &["a"], 0),
        (0, &["x"], &["a", "y"], 0),
    ] {
        let last = node("Abs", &["a"], &["z"]);
        let outputs_of_model = if outputs.len() == 2 {
            vec![value("z", tensor::DType::F32, &[32, 32]), value("y", tensor::DType::Bool, &[32, 32])]
        } else {
            squares(&["z"])
        };
        let nodes = vec![node("Dropout", inputs, outputs), last];
        let mut model = read(graph(squares(&["x"]), outputs_of_model, vec![t(on)], nodes));
        assert_eq!(model.simplify(&mut never).unwrap().removed, removed, "{inputs:?} {outputs:?}");
    }
}

/// Conv of 1x1 with two channels and a normalisation of factor 3 and 0.5 behind it.
fn normalized(producer: NodeProto, weights: TensorProto, bias: bool) -> Model {
    let dims = [1, 2, 4, 4];
    let mut producer = producer;
    if bias {
        producer.input.push("c".to_owned());
    }
    let normalization =
        with(node("BatchNormalization", &["a", "g", "b", "m", "v"], &["y"]), "epsilon", float(0.0));
    let parameters = vec![
        weights,
        f32s("c", &[2], &[1.0, 2.0]),
        f32s("g", &[2], &[6.0, 2.0]),
        f32s("b", &[2], &[10.0, 20.0]),
        f32s("m", &[2], &[5.0, 8.0]),
        f32s("v", &[2], &[4.0, 16.0]),
    ];
    let value = |name: &str| vec![value(name, tensor::DType::F32, &dims)];
    read(graph(value("x"), value("y"), parameters, vec![producer, normalization]))
}

#[test]
fn normalisation_goes_into_the_weights_before_it() {
    let conv = || node("Conv", &["x", "w"], &["a"]);
    let gemm = || node("Gemm", &["x", "w"], &["a"]);
    let pairs = |dims: &[i64]| f32s("w", dims, &[1.0, 2.0, 3.0, 4.0]);
    for (producer, weights, bias, expected) in [
        // Output channels come first, ...
        (conv(), pairs(&[2, 2, 1, 1]), true, [3.0, 6.0, 1.5, 2.0]),
        (conv(), pairs(&[2, 2, 1, 1]), false, [3.0, 6.0, 1.5, 2.0]),
        (with(conv(), "group", int(2)), pairs(&[2, 1, 2, 1]), true, [3.0, 6.0, 1.5, 2.0]),
        // ... or second, and within each group.
        (node("ConvTranspose", &["x", "w"], &["a"]), pairs(&[2, 2, 1, 1]), true, [3.0, 1.0, 9.0, 2.0]),
        (
            with(node("ConvTranspose", &["x", "w"], &["a"]), "group", int(2)),
            pairs(&[2, 1, 2, 1]),
            true,
            [3.0, 6.0, 1.5, 2.0],
        ),
        (gemm(), pairs(&[2, 2]), true, [3.0, 1.0, 9.0, 2.0]),
        (with(gemm(), "transB", int(1)), pairs(&[2, 2]), true, [3.0, 6.0, 1.5, 2.0]),
    ] {
        let name = format!("{producer:?}");
        let mut model = normalized(producer, weights, bias);
        let report = model.simplify(&mut never).unwrap();
        assert_eq!((report.fused, operators(&model).len()), (1, 1), "{name}");
        assert_eq!(floats(weight(&model, "w")), expected, "{name}");
        let node = &model.graph().node[0];
        assert_eq!(node.output, ["y"]);
        let bias = if bias { [-2.0, 17.0] } else { [-5.0, 16.0] };
        assert_eq!(floats(weight(&model, &node.input[2])), bias, "{name}");
    }
}

#[test]
fn normalisation_stays_where_folding_would_change_something_else() {
    let pairs = || f32s("w", &[2, 2, 1, 1], &[1.0, 2.0, 3.0, 4.0]);
    let conv = || node("Conv", &["x", "w"], &["a"]);
    let base = |extra: NodeProto| {
        let model = normalized(conv(), pairs(), true);
        let mut proto = model.proto.clone();
        let graph = proto.graph.as_mut().unwrap();
        graph.output.push(value("z", tensor::DType::F32, &[1, 2, 4, 4]));
        graph.node.push(extra);
        Model::from_proto(proto).unwrap()
    };
    // The convolution's result, or its weights, are used by another operator.
    for extra in [node("Abs", &["a"], &["z"]), node("Conv", &["x", "w"], &["z"])] {
        assert_eq!(base(extra).simplify(&mut never).unwrap().fused, 0);
    }
    let infinite = f32s("w", &[2, 2, 1, 1], &[1.0, f32::MAX, 3.0, 4.0]);
    let grouped = with(node("Gemm", &["x", "w"], &["a"]), "alpha", float(2.0));
    for (producer, weights) in [
        (conv(), infinite),
        (grouped, f32s("w", &[2, 2], &[1.0, 2.0, 3.0, 4.0])),
        (node("MatMul", &["x", "w"], &["a"]), pairs()),
    ] {
        assert_eq!(normalized(producer, weights, false).simplify(&mut never).unwrap().fused, 0);
    }
}

#[test]
fn constants_are_computed_once() {
    let nodes = vec![
        node("Neg", &["k"], &["n"]),
        node("Mul", &["n", "k"], &["folded"]),
        node("MatMul", &["x", "folded"], &["y"]),
    ];
    let mut model = chain(vec![f32s("k", &[2], &[1.0, 2.0])], nodes);
    let mut calls = 0;
    let report = model.simplify(&mut |bytes| {
        calls += 1;
        let part = Model::from_bytes(bytes.to_vec()).unwrap();
        assert!(part.inputs().is_empty());
        assert_eq!(part.outputs().iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>(), ["folded"]);
        Ok(vec![Tensor::from_slice(Shape::from([2]), &[-1f32, -4.0]).unwrap()])
    });
    assert_eq!(report.unwrap(), Simplified { folded: 2, ..Simplified::default() });
    assert_eq!(calls, 1);
    assert_eq!(floats(weight(&model, "folded")), [-1.0, -4.0]);
    assert_eq!(operators(&model), ["MatMul"]);
}

#[test]
fn constants_that_can_not_be_computed_stay() {
    let nodes = || vec![node("Neg", &["k"], &["n"]), node("MatMul", &["x", "n"], &["y"])];
    let model = || chain(vec![f32s("k", &[2], &[1.0, 2.0])], nodes());
    let wrong_type = Tensor::from_slice(Shape::from([2]), &[1i64, 2]).unwrap();
    for (answer, problem) in [
        (Err("no such operator".to_owned()), "no such operator"),
        (Ok(vec![]), "1 constants were asked for, 0 computed"),
        (Ok(vec![wrong_type]), "tensor `n` must be f32, not i64"),
    ] {
        let mut model = model();
        let report = model.simplify(&mut |_| answer.clone()).unwrap();
        assert_eq!(report.fold_error.as_deref(), Some(problem));
        assert_eq!((report.folded, operators(&model)), (0, vec!["Neg", "MatMul"]));
        check_all_cuts_of(&model);
    }
}

fn check_all_cuts_of(model: &Model) {
    check_composition(model, &[]);
}

#[test]
fn nothing_is_folded_that_would_blow_the_model_up_or_change() {
    let million = || i64s("shape", &[1 << 20, 1 << 10]);
    let small = || f32s("k", &[2, 1], &[1.0, 2.0]);
    let q = raw("k8", tensor::DType::I8, &[2], vec![1, 2]);
    for (weights, nodes) in [
        (vec![million()], vec![node("ConstantOfShape", &["shape"], &["c"])]),
        (vec![million(), small()], vec![node("Expand", &["k", "shape"], &["c"])]),
        (vec![million(), small()], vec![node("Tile", &["k", "shape"], &["c"])]),
        (
            vec![
                raw("a", tensor::DType::I64, &[], vec![0; 8]),
                raw("z", tensor::DType::I64, &[], vec![255, 255, 255, 255, 255, 0, 0, 0]),
                raw("d", tensor::DType::I64, &[], vec![1, 0, 0, 0, 0, 0, 0, 0]),
            ],
            vec![node("Range", &["a", "z", "d"], &["c"])],
        ),
        // Not the size of one operator but of two.
        (
            vec![f32s("col", &[4096, 1], &[1.0; 4096]), f32s("row", &[1, 4096], &[1.0; 4096])],
            vec![node("Add", &["col", "row"], &["c"])],
        ),
        (vec![q, f32s("s", &[], &[0.5])], vec![node("DequantizeLinear", &["k8", "s"], &["c"])]),
        (vec![], vec![with(node("RandomNormal", &[], &["c"]), "dtype", int(1))]),
    ] {
        let mut nodes = nodes;
        nodes.push(node("MatMul", &["x", "c"], &["y"]));
        let before: Vec<String> = nodes.iter().map(|node| node.op_type().to_owned()).collect();
        let mut model = chain(weights, nodes);
        assert_eq!(model.simplify(&mut never).unwrap(), Simplified::default(), "{before:?}");
        assert_eq!(operators(&model), before);
    }
}

#[test]
fn a_shape_that_is_computed_first_bounds_the_next_round() {
    let nodes = vec![
        node("Concat", &["two", "three"], &["shape"]),
        node("ConstantOfShape", &["shape"], &["zeros"]),
        node("MatMul", &["x", "zeros"], &["y"]),
    ];
    let nodes: Vec<NodeProto> = nodes
        .into_iter()
        .map(|node| if node.op_type() == "Concat" { with(node, "axis", int(0)) } else { node })
        .collect();
    let mut model = chain(vec![i64s("two", &[2]), i64s("three", &[3])], nodes);
    let mut answers = vec![
        Tensor::from_slice(Shape::from([2, 3]), &[0f32; 6]).unwrap(),
        Tensor::from_slice(Shape::from([2]), &[2i64, 3]).unwrap(),
    ];
    let report = model.simplify(&mut |_| Ok(vec![answers.pop().unwrap()])).unwrap();
    assert_eq!(report, Simplified { folded: 2, ..Simplified::default() });
    assert!(answers.is_empty());
}

#[test]
fn a_shared_dequantizer_is_given_to_each_reader() {
    let weights = vec![f32s("s", &[], &[0.5]), raw("z", tensor::DType::U8, &[], vec![3]), large("w", 1)];
    let q = |from: &str, to: &str| node("QuantizeLinear", &[from, "s", "z"], &[to]);
    let dq = |from: &str, to: &str| node("DequantizeLinear", &[from, "s", "z"], &[to]);
    let nodes = vec![
        q("x", "q1"),
        dq("q1", "a"),
        node("MatMul", &["a", "w"], &["b"]),
        node("MatMul", &["w", "a"], &["b2"]),
        q("b", "q2"),
        q("b2", "q3"),
        dq("q2", "c"),
        dq("q3", "c2"),
        node("Add", &["c", "c2"], &["d"]),
        node("Add", &["d", "a"], &["y"]),
    ];
    let mut model = chain(weights, nodes);
    model.simplify(&mut never).unwrap();
    assert_eq!(operators(&model).iter().filter(|op| **op == "DequantizeLinear").count(), 5);
    let cuts = model.cuts(3);
    assert!(
        cuts.iter().flat_map(|cut| &cut.live).all(|spec| spec.dtype == tensor::DType::U8 || spec.name == "d")
    );
    assert_eq!(cuts[1].live.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>(), ["q1", "q2"]);
    check_all_cuts(&model, 3);
}

#[test]
fn a_dequantizer_whose_result_a_body_captures_stays() {
    let weights = vec![f32s("s", &[], &[0.5]), raw("c", tensor::DType::Bool, &[], vec![1])];
    let branch = || graph(vec![], squares(&["t"]), vec![], vec![node("Abs", &["a"], &["t"])]);
    let conditional = with(node("If", &["c"], &["b"]), "then_branch", body(branch()));
    let nodes = vec![
        node("QuantizeLinear", &["x", "s"], &["q"]),
        node("DequantizeLinear", &["q", "s"], &["a"]),
        with(conditional, "else_branch", body(branch())),
        node("Add", &["a", "b"], &["y"]),
    ];
    let mut model = chain(weights, nodes);
    model.simplify(&mut never).unwrap();
    assert_eq!(operators(&model), ["QuantizeLinear", "DequantizeLinear", "If", "Add"]);
    check_composition(&model, &[2, 3]);
}

#[test]
fn a_name_that_a_body_uses_for_itself_is_not_taken() {
    let own = || vec![node("Neg", &["a"], &["x"]), node("Add", &["x", "a"], &["t"])];
    let branch = || graph(vec![], squares(&["t"]), vec![], own());
    let conditional = with(node("If", &["c"], &["y"]), "then_branch", body(branch()));
    let nodes = vec![node("Identity", &["x"], &["a"]), with(conditional, "else_branch", body(branch()))];
    let mut model = chain(vec![raw("c", tensor::DType::Bool, &[], vec![1])], nodes);
    assert_eq!(model.simplify(&mut never).unwrap().removed, 0);
}

#[test]
fn the_vendored_models_compose_after_simplification() {
    for path in vendored() {
        let mut model = Model::load(&path).unwrap();
        let outputs = model.outputs().to_vec();
        model.simplify(&mut |_| Err("not here".to_owned())).unwrap();
        assert_eq!(model.outputs(), outputs);
        let cuts: Vec<usize> = model.cuts(2).iter().map(|cut| cut.position).collect();
        check_composition(&model, &cuts);
        let quantised = path.to_string_lossy().contains("int8");
        let integers = |cut: &crate::Cut| cut.live.iter().all(|spec| spec.dtype == tensor::DType::U8);
        assert!(!quantised || model.cuts(2).iter().all(integers), "{}", path.display());
    }
}

#[test]
fn sizes_that_follow_from_others_are_written_out() {
    let ints = |values: &[i64]| AttributeProto { ints: values.to_vec(), r#type: Some(7), ..int(0) };
    let nodes = vec![
        node("Conv", &["x", "w"], &["a"]),
        with(node("MaxPool", &["a"], &["b"]), "kernel_shape", ints(&[2, 2])),
        with(node("Conv", &["b", "w"], &["y"]), "kernel_shape", ints(&[3, 5])),
    ];
    let mut model = chain(vec![f32s("w", &[1, 1, 3, 5], &[0.5; 15])], nodes);
    model.simplify(&mut never).unwrap();
    let attributes: Vec<Vec<(&str, &[i64])>> = model
        .graph()
        .node
        .iter()
        .map(|n| n.attribute.iter().map(|a| (a.name(), &a.ints[..])).collect())
        .collect();
    assert_eq!(attributes[0], [("kernel_shape", &[3, 5][..])]);
    assert_eq!(attributes[1], [("kernel_shape", &[2, 2][..]), ("strides", &[1, 1])]);
    assert_eq!(attributes[2], [("kernel_shape", &[3, 5][..])]);
}
