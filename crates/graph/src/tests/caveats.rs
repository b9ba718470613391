//! What engines read in more than one way is said outright, or reported.

use tensor::{DType, Tensor};

use crate::proto::*;
use crate::testing::*;
use crate::{Caveat, Model};

fn never(_: &[u8]) -> Result<Vec<Tensor>, String> {
    panic!("nothing to compute")
}

fn ints(values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), r#type: Some(7), ..AttributeProto::default() }
}

fn text(value: &'static str) -> AttributeProto {
    AttributeProto { s: Some(value.into()), r#type: Some(3), ..AttributeProto::default() }
}

fn floats(name: &str, dims: Option<&[i64]>) -> ValueInfoProto {
    let mut value = value(name, DType::F32, dims.unwrap_or_default());
    if let (None, Some(type_proto::Value::TensorType(tensor))) =
        (dims, value.r#type.as_mut().and_then(|kind| kind.value.as_mut()))
    {
        tensor.shape = None;
    }
    value
}

/// One node from `x` of these sizes to `y`, simplified.
fn simplified(opset: i64, dims: Option<&[i64]>, node: NodeProto, weights: Vec<TensorProto>) -> Model {
    let graph = graph(vec![floats("x", dims)], vec![floats("y", None)], weights, vec![node]);
    let mut proto = proto(graph);
    proto.opset_import[0].version = Some(opset);
    let mut model = Model::from_proto(proto).unwrap();
    model.simplify(&mut never).unwrap();
    model
}

#[test]
fn softmax_before_opset_13_says_its_axis_or_works_on_rows() {
    const ROWS: &[&str] = &["Flatten", "Softmax", "Shape", "Reshape"];
    const SIZED: &[&str] = &["Flatten", "Softmax", "Reshape"];
    const ALONE: &[&str] = &["Softmax"];
    let check = |opset, dims: Option<&[i64]>, axis: Option<i64>, operators: &[&str], expected: &[i64]| {
        let mut softmax = node("Softmax", &["x"], &["y"]);
        softmax.attribute.extend(axis.map(|axis| AttributeProto { name: Some("axis".into()), ..int(axis) }));
        let model = simplified(opset, dims, softmax, vec![]);
        let nodes = &model.graph().node;
        let context = format!("opset {opset}, {dims:?}, axis {axis:?}");
        assert_eq!(nodes.iter().map(|n| n.op_type()).collect::<Vec<_>>(), operators, "{context}");
        let axes: Vec<i64> = nodes.iter().flat_map(|n| &n.attribute).map(|axis| axis.i()).collect();
        assert_eq!(axes, expected, "{context}");
        assert_eq!(model.caveats(), []);
        for weight in &model.graph().initializer {
            let sizes = dims.unwrap_or_default().iter().flat_map(|size| size.to_le_bytes());
            assert_eq!(weight.raw_data(), sizes.collect::<Vec<u8>>(), "{context}");
        }
    };
    check(11, Some(&[1, 3, 4, 4]), None, SIZED, &[1, 1]);
    check(11, Some(&[1, 3, 4, 4]), Some(2), SIZED, &[2, 1]);
    check(11, Some(&[1, 3, 4, 4]), Some(-2), SIZED, &[-2, 1]);
    check(11, Some(&[1, 3, 4, 4]), Some(3), ALONE, &[3]);
    check(11, Some(&[1, 3, 4, 4]), Some(-1), ALONE, &[3]);
    check(9, Some(&[-1, 10]), None, ALONE, &[1]);
    check(9, Some(&[-1, 10, 1, 1]), None, ALONE, &[1]);
    check(9, Some(&[2, 1, 10]), None, ALONE, &[2]); // the first of size 1 is not what it works along
    check(9, Some(&[2, 10, -1]), None, SIZED, &[1, 1]);
    check(9, Some(&[-1, 10, -1]), None, ROWS, &[1, 1]);
    check(9, Some(&[0, 10, 2]), None, ROWS, &[1, 1]);
    check(11, None, Some(1), ROWS, &[1, 1]);
    check(11, None, Some(-1), ALONE, &[-1]);
    check(13, Some(&[1, 3, 4, 4]), Some(1), ALONE, &[1]);
    check(13, Some(&[1, 3, 4, 4]), None, ALONE, &[]);
}

#[test]
fn the_rows_of_a_softmax_take_no_name_that_is_used() {
    let branch = || {
        let softmax = vec![node("LogSoftmax", &["x"], &["t"])];
        graph(vec![], vec![floats("t", None)], vec![], softmax)
    };
    let conditional = with(node("If", &["c"], &["y/rows"]), "then_branch", body(branch()));
    let nodes = vec![
        with(conditional, "else_branch", body(branch())),
        with(node("Softmax", &["y/rows"], &["y"]), "axis", int(1)),
    ];
    let weights = vec![raw("c", DType::Bool, &[], vec![1])];
    let mut proto = proto(graph(vec![floats("x", None)], vec![floats("y", None)], weights, nodes));
    proto.opset_import[0].version = Some(11);
    let mut model = Model::from_proto(proto).unwrap();
    model.simplify(&mut never).unwrap();
    let graph = model.graph();
    assert_eq!(graph.node[1].output, ["y/rows_"]);
    for branch in &graph.node[0].attribute {
        let inner: Vec<&str> = branch.g.as_ref().unwrap().node.iter().map(|n| n.op_type()).collect();
        assert_eq!(inner, ["Flatten", "LogSoftmax", "Shape", "Reshape"]);
    }
    check_composition(&model, &[1, 3]);
}

fn same_lower(op_type: &str, kernel: &[i64], strides: Option<&[i64]>) -> NodeProto {
    let mut node = with(node(op_type, &["x", "w"], &["y"]), "auto_pad", text("SAME_LOWER"));
    if op_type.ends_with("Pool") {
        node.input.pop();
        node = with(node, "kernel_shape", ints(kernel));
    }
    strides.map_or(node.clone(), |strides| with(node, "strides", ints(strides)))
}

#[test]
fn padding_that_is_same_lower_is_written_out_or_reported() {
    let check = |dims: Option<&[i64]>, kernel: &[i64], node: NodeProto, expected: Option<&[i64]>| {
        let context = format!("{dims:?} {node:?}");
        let weight = [&[1, 1], kernel].concat();
        let values = vec![0.5; kernel.iter().product::<i64>() as usize];
        let model = simplified(17, dims, node, vec![f32s("w", &weight, &values)]);
        let node = &model.graph().node[0];
        let attribute = |name| node.attribute.iter().find(|a| a.name() == name);
        assert_eq!(attribute("pads").map(|pads| &pads.ints[..]), expected, "{context}");
        assert_eq!(attribute("auto_pad").is_none(), expected.is_some(), "{context}");
        assert_eq!(model.caveats().is_empty(), expected.is_some(), "{context}");
    };
    let (lower, size) = (same_lower, Some(&[1, 1, 4, 5][..]));
    check(size, &[2, 2], lower("Conv", &[], None), Some(&[1, 1, 0, 0]));
    check(None, &[2, 4], lower("Conv", &[], None), Some(&[1, 2, 0, 1]));
    check(None, &[2, 4], lower("Conv", &[], Some(&[1, 2])), None);
    check(Some(&[1, 1, -1, 5]), &[3, 3], lower("MaxPool", &[3, 3], Some(&[2, 2])), None);
    check(size, &[3, 3], lower("MaxPool", &[3, 3], Some(&[2, 2])), Some(&[1, 1, 0, 1]));
    check(size, &[1, 1], lower("AveragePool", &[1, 1], Some(&[3, 3])), Some(&[0, 0, 0, 0]));
    let ceil = with(lower("MaxPool", &[3, 3], Some(&[2, 2])), "ceil_mode", int(1));
    check(size, &[3, 3], ceil, None);
    let dilated = with(lower("Conv", &[], None), "dilations", ints(&[3, 1]));
    check(size, &[2, 2], dilated, Some(&[2, 1, 1, 0]));
    check(None, &[3, 4], lower("ConvTranspose", &[], Some(&[2, 2])), Some(&[1, 1, 0, 1]));
    check(size, &[1, 1], lower("ConvTranspose", &[], Some(&[2, 2])), None);
    check(size, &[2, 2], lower("FusedConv", &[], None), None);
    check(size, &[2, 2], lower("MaxPool", &[i64::MIN, i64::MAX], None), None);
    check(size, &[2, 2], lower("MaxPool", &[2, 2], Some(&[0, 2])), None);
}

#[test]
fn cubic_interpolation_is_reported() {
    for (mode, reported) in [("cubic", true), ("linear", false), ("nearest", false)] {
        let resize = with(node("Resize", &["x", "", "s"], &["y"]), "mode", text(mode));
        let weights = vec![f32s("s", &[4], &[1.0, 1.0, 2.0, 2.0])];
        let what = "its interpolation is cubic".to_owned();
        let caveat = Caveat { node: "n_y".to_owned(), operator: "Resize".to_owned(), what };
        let expected = if reported { vec![caveat] } else { vec![] };
        assert_eq!(simplified(13, Some(&[1, 1, 4, 4]), resize, weights).caveats(), expected);
    }
}

/// The caveats of a graph on integers, by node.
fn integers(weights: Vec<TensorProto>, nodes: Vec<NodeProto>) -> Vec<String> {
    let value = |name| vec![value(name, DType::I64, &[-1])];
    let mut model = read(graph(value("x"), value("y"), weights, nodes));
    model.simplify(&mut |_| panic!("a result that follows from a wide number is computed")).unwrap();
    model.caveats().into_iter().map(|caveat| caveat.node).collect()
}

#[test]
fn integers_beyond_32_bits_are_reported_where_they_are_computed_with() {
    const BIG: i64 = 1 << 40;
    let check = |number: i64, nodes: Vec<NodeProto>, expected: &[&str]| {
        assert_eq!(integers(vec![i64s("w", &[number])], nodes.clone()), expected, "{number} {nodes:?}");
    };
    let slice = |ends| node("Slice", &["x", "x", ends], &["y"]);
    check(BIG, vec![node("Add", &["x", "w"], &["y"])], &["n_y"]);
    check(i64::MAX, vec![node("Add", &["x", "w"], &["y"])], &["n_y"]);
    check(i64::from(i32::MIN) - 1, vec![node("Add", &["x", "w"], &["y"])], &["n_y"]);
    check(i64::from(i32::MIN), vec![node("Add", &["x", "w"], &["y"])], &[]);
    check(i64::from(i32::MAX), vec![node("Add", &["x", "w"], &["y"])], &[]);
    // What stands for "to the end" is right as the largest number that there is.
    check(i64::MAX, vec![slice("w")], &[]);
    check(i64::MIN, vec![slice("w")], &[]);
    check(BIG, vec![slice("w")], &[]);
    check(i64::MAX, vec![node("Concat", &["x", "w"], &["e"]), slice("e")], &[]);
    check(i64::MAX, vec![node("Squeeze", &["w"], &["e"]), slice("e")], &[]);
    check(i64::MAX, vec![node("Squeeze", &["w"], &["e"]), node("Mul", &["x", "e"], &["y"])], &["n_y"]);
    check(i64::MAX, vec![node("Concat", &["x", "w"], &["y"])], &["y"]); // given out
    check(i64::MAX, vec![node("Clip", &["x", "", "w"], &["y"])], &[]);
    // A constant that nothing needs.
    check(BIG, vec![node("Add", &["x", "w"], &["z"]), node("Neg", &["x"], &["y"])], &[]);
    let compared = |number, expected: &[&str]| {
        let less = node("Less", &["x", "w"], &["l"]);
        check(number, vec![less, node("Where", &["l", "x", "x"], &["y"])], expected);
    };
    compared(i64::MAX, &[]);
    compared(BIG, &["n_l"]);
}

#[test]
fn wide_integers_in_constant_nodes_attributes_and_bodies_are_found() {
    let add = |name: &str| node("Add", &["x", name], &["y"]);
    let constant = with(node("Constant", &[], &["k"]), "value_int", int(1 << 33));
    assert_eq!(integers(vec![], vec![constant.clone(), add("k")]), ["n_y"]);
    let filled = with(node("ConstantOfShape", &["x"], &["k"]), "value", tensor(i64s("", &[1 << 33])));
    assert_eq!(integers(vec![], vec![filled, add("k")]), ["n_y"]);
    let branch = |own: Vec<TensorProto>, nodes: Vec<NodeProto>| {
        let body_of = body(graph(vec![], vec![value("t", DType::I64, &[-1])], own, nodes));
        let both = with(node("If", &["c"], &["y"]), "then_branch", body_of.clone());
        let condition = raw("c", DType::Bool, &[], vec![1]);
        let found =
            integers(vec![condition, i64s("w", &[1 << 33])], vec![with(both, "else_branch", body_of)]);
        found.first().cloned()
    };
    let inner = |name: &str| node("Mul", &["x", name], &["t"]);
    assert_eq!(branch(vec![], vec![inner("w")]).as_deref(), Some("n_t"));
    assert_eq!(branch(vec![i64s("own", &[1 << 33])], vec![inner("own")]).as_deref(), Some("n_t"));
    assert_eq!(branch(vec![], vec![constant, inner("k")]).as_deref(), Some("n_t"));
    assert_eq!(branch(vec![], vec![inner("x")]), None);
}

#[test]
fn numbers_beyond_f32_are_reported() {
    for (number, reported) in
        [(1e200, true), (-1e39, true), (3e38, false), (f64::INFINITY, false), (1e-300, false)]
    {
        let weight = raw("w", DType::F64, &[1], f64::to_le_bytes(number).to_vec());
        let value = |name| vec![value(name, DType::F64, &[-1])];
        let mut model =
            read(graph(value("x"), value("y"), vec![weight], vec![node("Mul", &["x", "w"], &["y"])]));
        model.simplify(&mut never).unwrap();
        assert_eq!(!model.caveats().is_empty(), reported, "{number:e}");
    }
}

#[test]
fn the_vendored_models_have_no_caveats() {
    for path in vendored() {
        let mut model = Model::load(&path).unwrap();
        model.simplify(&mut |_| Err("not here".to_owned())).unwrap();
        assert_eq!(model.caveats(), [], "{}", path.display());
    }
}
