//! Stages together are the model.

use prost::Message;
use tensor::DType;

use crate::proto::*;
use crate::testing::*;
use crate::{Hash, Model, Route, StageError};

#[test]
fn stages_of_the_vendored_models_compose() {
    for path in vendored() {
        let model = Model::load(&path).unwrap();
        let cuts: Vec<usize> = model.cuts(2).iter().map(|cut| cut.position).collect();
        assert!(cuts.len() > 20, "{}: {}", path.display(), cuts.len());
        check_composition(&model, &cuts);
        for parts in [2, 4, 8] {
            let at: Vec<usize> = (1..parts).map(|i| cuts[i * cuts.len() / parts]).collect();
            check_composition(&model, &at);
        }
    }
}

/// The comparison above can fail.
#[test]
#[should_panic(expected = "cut at")]
fn one_wrong_weight_is_seen() {
    let nodes = vec![node("MatMul", &["x", "w"], &["a"]), node("MatMul", &["a", "v"], &["y"])];
    let mut model = chain(vec![large("w", 1), large("v", 2)], nodes);
    let whole = model.clone();
    let weight = &mut model.proto.graph.as_mut().unwrap().initializer[0];
    let mut data = weight.raw_data().to_vec();
    data[77] ^= 1;
    weight.raw_data = Some(data.into());
    let x = Hash::of(b"x");
    let wrong = pass(&model.stage(0..2).unwrap(), &[x]);
    assert_eq!(wrong, run_symbolically(&whole.to_bytes().unwrap(), &[x]), "cut at");
}

#[test]
fn a_tensor_that_is_not_used_passes() {
    let nodes = vec![
        node("MatMul", &["x", "w"], &["a"]),
        node("MatMul", &["a", "w"], &["b"]),
        node("MatMul", &["b", "w"], &["c"]),
        node("Add", &["a", "c"], &["y"]),
    ];
    let model = chain(vec![large("w", 1)], nodes);
    let stage = model.stage(2..3).unwrap();
    assert_eq!(stage.inputs.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(stage.feeds, [1]);
    assert_eq!(stage.routes, [Route::Passed(0), Route::Computed(0)]);
    assert_eq!(stage.operators, 1);
}

#[test]
fn shared_weights_go_to_every_stage_that_uses_them_once() {
    let mm = |from: &str, w: &str, to: &str| node("MatMul", &[from, w], &[to]);
    let constant = with(node("Constant", &[], &["k"]), "value", tensor(large("", 3)));
    let nodes = vec![constant, mm("x", "w", "a"), mm("a", "same", "b"), mm("b", "k", "c"), mm("c", "w", "y")];
    let model = chain(vec![large("w", 1), large("same", 1)], nodes);
    let first = model.stage(0..2).unwrap();
    let second = model.stage(2..4).unwrap();
    let hashes = |stage: &crate::Stage| stage.weights.iter().map(|weight| weight.hash).collect::<Vec<_>>();
    assert_eq!(hashes(&first).len(), 1, "equal weights have one hash and travel once");
    assert_eq!(hashes(&second).len(), 2, "the constant and the shared weight");
    assert!(hashes(&second).contains(&hashes(&first)[0]));
    assert_eq!(first.weight_bytes(), 4096);
    check_all_cuts(&model, 1);
}

#[test]
fn the_skeleton_names_large_weights_by_their_hash() {
    let shape = raw("shape", DType::I64, &[600], vec![0; 4800]);
    let nodes = vec![
        node("MatMul", &["x", "w"], &["a"]),
        node("Add", &["a", "bias"], &["b"]),
        node("Expand", &["b", "shape"], &["y"]),
    ];
    let model = chain(vec![large("w", 5), f32s("bias", &[32], &[0.5; 32]), shape], nodes);
    let stage = model.stage(0..3).unwrap();
    let graph = ModelProto::decode(&stage.skeleton[..]).unwrap().graph.unwrap();
    let weight = |name: &str| graph.initializer.iter().find(|weight| weight.name() == name).unwrap();
    let hash = stage.weights[0].hash;
    assert_eq!(hash, Hash::of(large("w", 5).raw_data()));
    let entries = weight("w").external_data.iter().map(|entry| format!("{}={}", entry.key(), entry.value()));
    assert_eq!(
        entries.collect::<Vec<_>>(),
        [format!("location={hash}.data"), "offset=0".to_owned(), "length=4096".to_owned()]
    );
    assert!(weight("w").raw_data.is_none());
    // Small ones, and whatever could be a shape, stay inside.
    assert!(weight("bias").raw_data.is_some() && weight("shape").raw_data.is_some());

    // The skeleton beside its weights is a model again.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("s.onnx"), &stage.skeleton).unwrap();
    std::fs::write(folder.path().join(hash.file_name()), &stage.weights[0].bytes).unwrap();
    let loaded = Model::load(&folder.path().join("s.onnx")).unwrap();
    assert_eq!(loaded.to_bytes().unwrap(), stage.to_bytes().unwrap());
}

#[test]
fn a_stage_carries_what_the_model_says() {
    let mut call = node("Twice", &["a"], &["b"]);
    call.domain = Some("ours".to_owned());
    let function = |name: &str, op: &str, domain: &str| FunctionProto {
        name: Some(name.to_owned()),
        domain: Some("ours".to_owned()),
        input: vec!["p".to_owned()],
        output: vec!["r".to_owned()],
        node: vec![NodeProto { domain: Some(domain.to_owned()), ..node(op, &["p"], &["r"]) }],
        ..FunctionProto::default()
    };
    let nodes = vec![node("Abs", &["x"], &["a"]), call, node("Softmax", &["b"], &["y"])];
    let mut whole = proto(graph(squares(&["x"]), squares(&["y"]), vec![], nodes));
    whole.functions =
        vec![function("Unused", "Neg", ""), function("Inner", "Neg", ""), function("Twice", "Inner", "ours")];
    whole.metadata_props = vec![StringStringEntryProto { key: Some("k".into()), value: Some("v".into()) }];
    whole.producer_name = Some("someone".to_owned());
    whole.graph.as_mut().unwrap().value_info = squares(&["a", "b"]);
    whole.ir_version = Some(3);
    let model = Model::from_bytes(whole.encode_to_vec()).unwrap();
    check_all_cuts(&model, 1);
    let stage = ModelProto::decode(&model.stage(1..3).unwrap().to_bytes().unwrap()[..]).unwrap();
    let names: Vec<&str> = stage.functions.iter().map(|function| function.name()).collect();
    assert_eq!(names, ["Inner", "Twice"]);
    assert_eq!(stage.metadata_props, whole.metadata_props);
    assert_eq!(stage.producer_name, whole.producer_name);
    assert_eq!(stage.opset_import, whole.opset_import);
    assert_eq!(stage.ir_version(), 4, "below, weights would have to be inputs");
    let graph = stage.graph.unwrap();
    assert_eq!(graph.value_info, squares(&["b"]));
    assert_eq!(graph.input, squares(&["a"]));
}

#[test]
fn outputs_may_be_inputs_constants_and_named_twice() {
    let constant = with(node("Constant", &[], &["k"]), "value", tensor(large("", 3)));
    let nodes = vec![constant, node("MatMul", &["x", "w"], &["a"]), node("MatMul", &["a", "w"], &["y"])];
    let model = read(graph(squares(&["x"]), squares(&["k", "x", "y", "w", "y"]), vec![large("w", 1)], nodes));
    check_all_cuts(&model, 2);
    let last = model.stage(1..2).unwrap();
    assert_eq!(
        last.routes,
        [Route::Computed(0), Route::Passed(0), Route::Computed(1), Route::Computed(2), Route::Computed(1)]
    );
}

#[test]
fn ranges_outside_the_model_are_refused() {
    let model = chain(vec![], vec![node("Abs", &["x"], &["y"])]);
    for range in [0..0, 0..2, 1..1, 5..9] {
        assert!(matches!(model.stage(range.clone()), Err(StageError::Range { .. })), "{range:?}");
    }
}
