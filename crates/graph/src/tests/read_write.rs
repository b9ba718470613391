//! Nothing is lost between a file and another.

use std::path::Path;

use bytes::Bytes;
use prost::Message;
use tensor::DType;

use crate::proto::*;
use crate::testing::*;
use crate::{Hash, Model, ModelError, visit, weights};

/// The model with all tensors in the form they have in memory.
fn normal(mut model: ModelProto) -> ModelProto {
    visit::tensors_mut(&mut model, &mut weights::normalize).unwrap();
    model
}

#[test]
fn the_vendored_models_survive() {
    for path in vendored() {
        let file = std::fs::read(&path).unwrap();
        let written = Model::load(&path).unwrap().to_bytes().unwrap();
        let original = ModelProto::decode(&file[..]).unwrap();
        assert!(normal(original) == ModelProto::decode(&written[..]).unwrap(), "{}", path.display());
    }
}

/// A model in which every message of the schema has something in it.
fn everything() -> ModelProto {
    let entry = || vec![StringStringEntryProto { key: Some("k".into()), value: Some("v".into()) }];
    let noted = |graph: GraphProto| GraphProto {
        doc_string: Some("graph".into()),
        metadata_props: entry(),
        value_info: vec![ValueInfoProto {
            doc_string: Some("value".into()),
            metadata_props: entry(),
            ..value("y", DType::F32, &[32, 32])
        }],
        quantization_annotation: vec![TensorAnnotation {
            tensor_name: Some("y".into()),
            quant_parameter_tensor_names: entry(),
        }],
        sparse_initializer: vec![SparseTensorProto {
            values: Some(f32s("sparse", &[1], &[1.0])),
            indices: Some(i64s("", &[0])),
            dims: vec![4],
        }],
        ..graph
    };
    let mut all = node("Mystery", &["x"], &["y"]);
    all.overload = Some("o".into());
    all.doc_string = Some("node".into());
    all.metadata_props = entry();
    all.domain = Some("ours".into());
    let dim = simple_sharded_dim_proto::Dim::DimParam("n".into());
    let sharded = ShardedDimProto {
        axis: Some(1),
        simple_sharding: vec![SimpleShardedDimProto { num_shards: Some(2), dim: Some(dim) }],
    };
    all.device_configurations = vec![NodeDeviceConfigurationProto {
        configuration_id: Some("c".into()),
        sharding_spec: vec![ShardingSpecProto {
            tensor_name: Some("y".into()),
            device: vec![0, -1],
            index_to_device_group_map: vec![IntIntListEntryProto { key: Some(3), value: vec![4] }],
            sharded_dim: vec![sharded],
        }],
        pipeline_stage: Some(1),
    }];
    let t = || f32s("t", &[1], &[2.0]);
    let sparse = || SparseTensorProto { values: Some(t()), indices: Some(i64s("", &[0])), dims: vec![1] };
    let inner = || graph(vec![], vec![], vec![], vec![]);
    all.attribute = vec![AttributeProto {
        name: Some("a".into()),
        ref_attr_name: Some("r".into()),
        doc_string: Some("d".into()),
        r#type: Some(0),
        f: Some(0.0),
        i: Some(0),
        s: Some(Bytes::from_static(b"\xff")),
        t: Some(t()),
        g: Some(inner()),
        sparse_tensor: Some(sparse()),
        tp: Some(TypeProto::default()),
        floats: vec![1.0],
        ints: vec![-1],
        strings: vec![Bytes::new()],
        tensors: vec![t()],
        graphs: vec![inner()],
        sparse_tensors: vec![sparse()],
        type_protos: vec![TypeProto::default()],
    }];
    let mut model =
        proto(noted(graph(squares(&["x"]), squares(&["y"]), vec![large("w", 1)], vec![all.clone()])));
    model.domain = Some("d".into());
    model.producer_version = Some(String::new());
    model.model_version = Some(-1);
    model.doc_string = Some("model".into());
    model.metadata_props = entry();
    model.training_info = vec![TrainingInfoProto {
        initialization: Some(inner()),
        algorithm: Some(inner()),
        initialization_binding: entry(),
        update_binding: entry(),
    }];
    model.functions = vec![FunctionProto {
        name: Some("F".into()),
        attribute: vec!["a".into()],
        attribute_proto: all.attribute.clone(),
        node: vec![all],
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(1) }],
        overload: Some("o".into()),
        value_info: squares(&["v"]),
        metadata_props: entry(),
        ..FunctionProto::default()
    }];
    model.configuration = vec![DeviceConfigurationProto {
        name: Some("c".into()),
        num_devices: Some(2),
        device: vec!["d".into()],
    }];
    model
}

#[test]
fn every_field_survives() {
    let bytes = everything().encode_to_vec();
    assert_eq!(Model::from_bytes(bytes.clone()).unwrap().to_bytes().unwrap(), bytes);
}

#[test]
fn fields_that_would_be_lost_are_refused() {
    let good = proto(graph(squares(&["x"]), squares(&["x"]), vec![], vec![])).encode_to_vec();
    let mut in_model = good.clone();
    in_model.extend([0xf8, 0x07, 1]); // field 127, a number
    let mut graph = graph(squares(&["x"]), squares(&["x"]), vec![], vec![]).encode_to_vec();
    graph.extend([0x1a, 1, 0]); // field 3, which graphs of 2017 had
    let mut in_graph = good.clone();
    in_graph.extend([0x3a, graph.len() as u8]);
    in_graph.extend(graph);
    for (bytes, field) in [(in_model, "field 127 of Model"), (in_graph, "field 3 of Graph")] {
        let error = Model::from_bytes(bytes).unwrap_err();
        assert!(matches!(error, ModelError::UnknownField { .. }), "{error}");
        assert!(error.to_string().contains(field), "{error}");
    }
    assert!(Model::from_bytes(good).is_ok());
}

#[test]
fn typed_data_becomes_bytes() {
    let base = |dtype: DType, dims: &[i64]| TensorProto {
        data_type: Some(dtype.code().into()),
        dims: dims.to_vec(),
        ..TensorProto::default()
    };
    let ints = |dtype: DType, dims: &[i64], values: &[i32]| TensorProto {
        int32_data: values.to_vec(),
        ..base(dtype, dims)
    };
    for (tensor, expected) in [
        (TensorProto { float_data: vec![1.5], ..base(DType::F32, &[]) }, vec![0, 0, 0xc0, 0x3f]),
        (
            TensorProto { int64_data: vec![-2], ..base(DType::I64, &[1]) },
            vec![0xfe, 255, 255, 255, 255, 255, 255, 255],
        ),
        (TensorProto { double_data: vec![0.0, 1.0], ..base(DType::Complex128, &[1]) }, {
            let mut bytes = vec![0; 16];
            bytes[14..].copy_from_slice(&[0xf0, 0x3f]);
            bytes
        }),
        (TensorProto { uint64_data: vec![7], ..base(DType::U32, &[1]) }, vec![7, 0, 0, 0]),
        (ints(DType::I8, &[3], &[-1, 127, -128]), vec![255, 127, 128]),
        (ints(DType::U8, &[2], &[255, 0]), vec![255, 0]),
        (ints(DType::F16, &[1], &[0x3c00]), vec![0, 0x3c]),
        (ints(DType::Bool, &[2], &[1, 0]), vec![1, 0]),
        (ints(DType::I32, &[1], &[-2]), vec![0xfe, 255, 255, 255]),
        // Two elements to a byte, and one byte to an entry.
        (ints(DType::U4, &[3], &[0x21, 0x03]), vec![0x21, 0x03]),
        (base(DType::F32, &[0, 7]), vec![]),
    ] {
        let mut normal = tensor.clone();
        weights::normalize(&mut normal).unwrap();
        assert_eq!(normal.raw_data(), expected, "{tensor:?}");
        assert_eq!(normal.raw_data.map(|raw| raw.len()), Some(expected.len()));
        assert!(normal.float_data.is_empty() && normal.int32_data.is_empty());
    }
    let mut huge = ints(DType::U8, &[1], &[256]);
    assert!(weights::normalize(&mut huge).unwrap_err().to_string().contains("element 256 does not fit u8"));
}

fn sample() -> Model {
    let nodes = vec![
        with(node("Constant", &[], &["k"]), "value", tensor(large("", 3))),
        node("MatMul", &["x", "w"], &["a"]),
        node("MatMul", &["a", "k"], &["y"]),
    ];
    chain(vec![large("w", 1), f32s("small", &[1], &[1.0])], nodes)
}

#[test]
fn large_models_have_their_weights_beside_them() {
    let model = sample();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    model.save_with_limit(&path, 1000).unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() < 1000);
    assert_eq!(std::fs::metadata(folder.path().join("m.onnx.data")).unwrap().len(), 8192);
    let loaded = Model::load(&path).unwrap();
    assert_eq!(loaded.to_bytes().unwrap(), model.to_bytes().unwrap());
    assert_eq!(loaded.hash(), model.hash());
    // A model may replace the files that it is mapped from.
    loaded.save_with_limit(&path, 1000).unwrap();
    assert_eq!(Model::load(&path).unwrap().to_bytes().unwrap(), model.to_bytes().unwrap());
    loaded.save(&path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), model.to_bytes().unwrap());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "no temporary file stays");
}

#[test]
fn links_stay_links_and_devices_devices() {
    let (model, folder) = (sample(), tempfile::tempdir().unwrap());
    let place = |name: &str| folder.path().join(name);
    std::fs::create_dir(place("far")).unwrap();
    std::fs::write(place("far/m.onnx"), "before").unwrap();
    let (link, nowhere) = (place("link.onnx"), place("nowhere.onnx"));
    std::os::unix::fs::symlink("far/m.onnx", &link).unwrap();
    std::os::unix::fs::symlink("none", &nowhere).unwrap();
    model.save_with_limit(&link, 1000).unwrap();
    assert!(link.is_symlink());
    // Its weights are where the model is, by whichever name that is found.
    assert_eq!(Model::load(&place("far/m.onnx")).unwrap().hash(), model.hash());
    let error = model.save(&nowhere).unwrap_err().to_string();
    assert!(error.contains("a link to what is not there") && nowhere.is_symlink(), "{error}");
    model.save_with_limit(Path::new("/dev/null"), 1000).unwrap();
    assert!(!std::fs::metadata("/dev/null").unwrap().is_file() && !Path::new("/dev/null.data").exists());
}

#[test]
fn the_hash_is_that_of_the_content() {
    let hash = sample().hash();
    assert_eq!(Model::from_bytes(sample().to_bytes().unwrap()).unwrap().hash(), hash);
    let changed = |change: fn(&mut GraphProto)| {
        let mut proto = sample().proto;
        change(proto.graph.as_mut().unwrap());
        Model::from_proto(proto).unwrap().hash()
    };
    let hashes: Vec<Hash> = vec![
        changed(|graph| graph.initializer[0] = large("w", 2)),
        changed(|graph| graph.initializer[1] = f32s("small", &[1], &[2.0])),
        changed(|graph| graph.node[1].name = Some("other".into())),
    ];
    assert!(hashes.iter().all(|&other| other != hash));
}

/// A model whose weight `w` is said to lie elsewhere.
fn with_data_at(entries: &[(&str, &str)], folder: &Path) -> Result<Model, ModelError> {
    let mut model = sample().proto;
    let weight = &mut model.graph.as_mut().unwrap().initializer[0];
    weight.raw_data = None;
    weight.data_location = Some(1);
    let entry = |&(key, value): &(&str, &str)| StringStringEntryProto {
        key: Some(key.to_owned()),
        value: Some(value.to_owned()),
    };
    weight.external_data = entries.iter().map(entry).collect();
    let path = folder.join("m.onnx");
    std::fs::write(&path, model.encode_to_vec()).unwrap();
    Model::load(&path)
}

#[test]
fn external_data_is_found_by_the_rules_and_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = vec![0; 100];
    file.extend_from_slice(large("w", 1).raw_data());
    file.push(1);
    std::fs::write(folder.path().join("w.bin"), &file).unwrap();
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    std::fs::write(folder.path().join("sub/w.bin"), &file[100..]).unwrap();
    for entries in [
        &[("location", "w.bin"), ("offset", "100"), ("length", "4096")][..],
        &[("location", "w.bin"), ("offset", "100")],
        &[("location", "./sub/w.bin"), ("checksum", "of no meaning")],
    ] {
        let loaded = with_data_at(entries, folder.path()).unwrap();
        assert_eq!(loaded.hash(), sample().hash(), "{entries:?}");
    }
    let absolute = folder.path().join("w.bin");
    for (entries, problem) in [
        (&[("location", "../w.bin")][..], "outside the model's folder"),
        (&[("location", "sub/../../w.bin")], "outside the model's folder"),
        (&[("location", absolute.to_str().unwrap())], "outside the model's folder"),
        (&[("location", "")], "outside the model's folder"),
        (&[("location", "none.bin")], "none.bin: "),
        (&[("location", "sub")], "sub: "),
        (&[("offset", "0")], "nobody says where"),
        (&[("location", "w.bin"), ("offset", "102")], "beyond the end of `w.bin`"),
        (&[("location", "w.bin"), ("offset", "9999")], "beyond the end of `w.bin`"),
        (&[("location", "w.bin"), ("offset", "1"), ("length", "18446744073709551615")], "beyond the end"),
        (&[("location", "w.bin"), ("offset", "-1")], "the offset of its data is `-1`"),
        (&[("location", "w.bin"), ("length", "4092")], "ask for 4096 bytes, and it holds 4092"),
    ] {
        let error = with_data_at(entries, folder.path()).unwrap_err().to_string();
        assert!(error.contains("m.onnx: tensor `w`: ") && error.contains(problem), "{entries:?}: {error}");
    }
    let bytes = std::fs::read(folder.path().join("m.onnx")).unwrap();
    assert!(Model::from_bytes(bytes).unwrap_err().to_string().contains("load the model from its file"));
}

#[test]
fn models_are_named_when_they_can_not_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let check = |name: &str, bytes: &[u8], problem: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = Model::load(&path).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(problem), "{error}");
    };
    let good = sample().to_bytes().unwrap();
    check("empty.onnx", b"", "it is empty");
    check("cut.onnx", &good[..good.len() / 2], "cut off (it ends within a field)");
    check("photo.onnx", b"\xff\xd8\xff\xe0\x00\x10JFIF", "not an ONNX model");
    check("text.onnx", b"version https://git-lfs.github.com/spec/v1\n", "not an ONNX model");
    check("header.onnx", &[8, 8], "it has no graph");
    let header = |change: fn(&mut ModelProto)| {
        let mut proto = sample().proto;
        change(&mut proto);
        proto.encode_to_vec()
    };
    check("newer.onnx", &header(|proto| proto.ir_version = Some(15)), "IR version 15");
    check("nameless.onnx", &header(|proto| proto.ir_version = None), "no IR version");
    check("opset.onnx", &header(|proto| proto.opset_import.clear()), "opset_import");
    let missing = Model::load(&folder.path().join("missing.onnx")).unwrap_err().to_string();
    assert!(missing.contains("missing.onnx: No such file"), "{missing}");
    assert!(Model::load(folder.path()).unwrap_err().to_string().contains("not a file"));
}

/// What no IR version below 3 says has to be said when the version is raised.
#[test]
fn models_of_before_operator_sets_stay_models() {
    let mut old = sample().proto;
    (old.ir_version, old.opset_import) = (Some(2), vec![]);
    let mut model = Model::from_bytes(old.encode_to_vec()).unwrap();
    let mut versions = vec![model.to_bytes().unwrap()];
    versions.push(model.annotate("plan", &[], &[]).to_bytes().unwrap());
    versions.push(model.stage(0..model.operators().len()).unwrap().to_bytes().unwrap());
    model.simplify(&mut |_| Err("no engine".to_owned())).unwrap();
    versions.push(model.to_bytes().unwrap());
    let written = versions.iter().map(|bytes| {
        let proto = Model::from_bytes(bytes.clone()).unwrap().proto;
        (
            proto.ir_version(),
            proto.opset_import.iter().map(|set| (set.domain().to_owned(), set.version())).collect(),
        )
    });
    let implied = vec![(String::new(), 1)];
    let expected = [(2, vec![]), (11, implied.clone()), (4, implied.clone()), (4, implied)];
    assert_eq!(written.collect::<Vec<_>>(), expected);
}
