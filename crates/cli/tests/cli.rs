//! The real `defer` binary on inputs that are not right: a message that names the file and says what to do, the
//! right exit code, no panic; and the commands that start nothing.

mod common;

use common::{FAILED, Place, RESNET, USAGE, conformance, npy_of, vendored};
use serde_json::Value;

/// An `.npy` file of zeros.
fn zeros(descr: &str, shape: &str, data_len: usize) -> Vec<u8> {
    npy_of(descr, shape, &vec![0; data_len])
}

#[test]
fn models_that_are_none() {
    let place = Place::new();
    let photo = vendored("photos/apple.jpg");
    let whole = std::fs::read(vendored("resnet20_mnist.onnx")).unwrap();
    let missing = place.path("missing.onnx");
    let cut_off = place.file("cut_off.onnx", &whole[..whole.len() / 2]);
    let text = place.file("text.onnx", b"not a model, although it is called one");
    let empty = place.file("empty.onnx", b"");
    let jpeg = vendored("photos/apple.jpg");
    let folder = place.path("");
    let check = |model: &str, part: &str| {
        place.fails(
            &["run", model, &photo],
            FAILED,
            &["error: cannot load the model", model, part, "hint: "],
        );
    };
    check(&missing, "No such file");
    check(&cut_off, "cut off");
    check(&text, "not an ONNX model");
    check(&jpeg, "not an ONNX model");
    check(&empty, "empty");
    check(&folder, "not a file");
}

#[test]
fn inputs_that_do_not_fit() {
    let place = Place::new();
    let model = vendored("resnet20_mnist.onnx");
    let check = |input: &str, parts: &[&str]| {
        place.fails(&["run", &model, input], FAILED, &[&["error: ", "hint: ", input], parts].concat());
    };
    check(&place.path("missing.png"), &["cannot read the input"]);
    check(&place.file("text.jpg", b"no photo"), &["not a JPEG or PNG photo"]);
    check(&place.file("notes.txt", b""), &["neither a photo"]);
    let folder = place.path("empty");
    std::fs::create_dir(&folder).unwrap();
    check(&folder, &["holds no photo"]);
    check(&vendored("mnist_test2000.npz"), &["it holds `x`, `y`; the model takes `input`"]);
    check(&place.file("kind.npy", zeros("<f8", "(1, 1, 28, 28)", 6272)), &["must be f32, not f64"]);
    check(&place.file("shape.npy", zeros("<f4", "(1, 28, 28)", 3136)), &["not 1x28x28"]);
    check(&place.file("short.npy", zeros("<f4", "(1, 1, 28, 28)", 3000)), &["claims 3136 bytes"]);
    check(&place.file("archive.npz", b"no archive"), &["not an .npz archive"]);
}

#[test]
fn runs_that_cannot_be() {
    let place = Place::new();
    let (model, digit) = (vendored("resnet20_mnist.onnx"), vendored("digits/3.png"));
    let check = |args: &[&str], parts: &[&str]| {
        let always = ["run", "--engine", "rten"];
        place.fails(&[&always, args].concat(), FAILED, &[&["error: ", "hint: "], parts].concat());
    };
    let unknown = conformance("unknown_operator.onnx");
    check(&["--spawn", "2", &unknown, "--random", "1"], &["unknown_operator", "strange_node", "Frobnicate"]);
    check(&["--spawn", "2", "--stages", "4", &model, &digit], &["4 stages", "only 2"]);
    let two_parts = conformance("integers.onnx");
    check(&["--spawn", "3", "--stages", "3", &two_parts, "--random", "1"], &["3 stages", "at most 2 stages"]);
    check(&["--spawn", "2", "--cut", "relu_99", &model, &digit], &["no cut named `relu_99`", "the closest"]);
    let twice = "functional_1/re_lu_2_1/Relu:0,functional_1/re_lu_2_1/Relu:0";
    check(&["--spawn", "3", "--cut", twice, &model, &digit], &["cuts must rise"]);
    let engine = ["run", "--spawn", "2", "--engine", "onnxruntime", "--onnxruntime", "/none", &model, &digit];
    place.fails(&engine, FAILED, &["/none", "hint: "]);
    check(&["--spawn", "2", &model, &digit, "--output", "/dev/null/answers"], &["/dev/null/answers"]);
    // The second item is only looked at when the first is on its way.
    let late = place.file("late.png", b"no photo");
    let ended = place.defer(&["run", "--engine", "rten", "--spawn", "2", &model, &digit, &late]);
    assert_eq!(ended.code, Some(FAILED));
    for part in ["late.png", "not a JPEG or PNG photo", "hint: "] {
        assert!(ended.stderr.contains(part), "`{part}` is not in\n{}", ended.stderr);
    }
    assert!(
        ended.lines.iter().any(|line| line.contains("class 3")),
        "the first is answered: {:?}",
        ended.lines
    );
    assert!(!ended.lines.iter().any(|line| line.contains("more")), "there are no more: {:?}", ended.lines);
}

#[test]
fn flags_that_are_not_right() {
    let place = Place::new();
    let model = vendored("resnet20_mnist.onnx");
    let digit = vendored("digits/3.png");
    place.fails(&["run", &model], USAGE, &["<INPUTS>"]);
    place.fails(&["run", &model, &digit, "--random", "3"], USAGE, &["cannot be used with"]);
    place.fails(&["run", &model, &digit, "--repeat", "0"], USAGE, &["at least 1"]);
    place.fails(&["run", &model, &digit, "--codec", "zip"], USAGE, &["exact, near or relaxed", "raw", "lz4"]);
    place.fails(
        &["run", &model, "--random", "1", "--dim", "width=2"],
        FAILED,
        &["no dimension `width`", "hint: "],
    );
    place.fails(&["run", &model, &digit, "--size", "32x32"], FAILED, &["not 1x1x32x32", "hint: "]);
    place.fails(&["run", &model, &digit, "--labels", "/none"], FAILED, &["the labels `/none`"]);
    place.fails(&["node", "--memory", "2XB"], USAGE, &["512MB"]);
    place.fails(
        &["zoo", "resnet51", "-o", &place.path("x.onnx")],
        FAILED,
        &["`resnet51`", "resnet50", "--list"],
    );
    place.fails(&["zoo", "resnet50", "-o", "/none/x.onnx"], FAILED, &["/none/x.onnx"]);
    place.fails(&["walk"], USAGE, &["walk"]);
}

#[test]
fn settings_that_are_not_right() {
    let place = Place::new();
    let model = place.path("model.onnx");
    std::fs::copy(vendored("resnet20_mnist.onnx"), &model).unwrap();
    let digit = vendored("digits/3.png");
    place.fails(
        &["run", &model, &digit],
        FAILED,
        &["`channels` is neither in a file", "hint: give flags such as"],
    );
    let settings = place.file("model.toml", b"version = 1\nchannels = 'gray'\nmaen = [0]\nstd = [255]\n");
    place.fails(&["run", &model, &digit], FAILED, &[&settings, "line 3", "unknown field `maen`", "hint: "]);
    place.file("model.toml", b"version = 1\nchannels = 'gray'\nmean = '0'\nstd = [255]\n");
    place.fails(&["run", &model, &digit], FAILED, &[&settings, "line 3", "invalid type"]);
}

/// The way from the first device to the second takes far longer than the way back.
#[test]
fn the_planner_finds_the_order_of_devices() {
    let place = Place::new();
    let cluster = place.file(
        "cluster.toml",
        b"version = 1\n[[device]]\nname = 'a'\n[[device]]\nname = 'b'\n\
          [[link]]\nfrom = 'a'\nto = 'b'\nbandwidth = '1kbit/s'\n",
    );
    let plan = |more: &[&str]| {
        let args =
            ["plan", &vendored(RESNET), "--engine", "rten", "--json", "--cluster", &cluster, "--stages", "2"];
        let plan: Value = serde_json::from_str(&place.prints(&[&args, more].concat())).unwrap();
        let devices: Vec<_> =
            plan["stages"].as_array().unwrap().iter().map(|s| s["devices"][0]["device"].clone()).collect();
        let (period, bound) =
            (plan["period_ms"].as_f64().unwrap(), plan["proof"]["bound_period_ms"].as_f64().unwrap());
        // What measurements cannot tell apart may cost 3 %.
        assert!(bound <= period && period <= 1.031 * bound, "{plan}");
        (devices, period)
    };
    let (any, given) = (plan(&[]), plan(&["--keep-order"]));
    assert_eq!((any.0, given.0), (vec!["b".into(), "a".into()], vec!["a".into(), "b".into()]));
    assert!(any.1 * 10.0 < given.1, "{} ms, in the given order {} ms", any.1, given.1);
}

#[test]
fn the_zoo_writes_the_same_file_for_the_same_seed() {
    let place = Place::new();
    let file = |name: &str, seed: &str| {
        let path = place.path(name);
        let line = place.prints(&["zoo", "mobilenetv2", "-o", &path, "--seed", seed, "--json"]);
        let bytes = std::fs::read(&path).unwrap();
        assert!(line.contains(&format!("\"bytes\":{}", bytes.len())), "{line}");
        bytes
    };
    let first = file("a.onnx", "7");
    assert!(first == file("b.onnx", "7"), "the same seed gave another file");
    assert!(first != file("c.onnx", "8"), "another seed gave the same file");
    let list = place.prints(&["zoo", "--list"]);
    for name in ["resnet50", "vgg16", "vgg19", "mobilenetv2", "vit-s16", "vit-b16", "bert-base"] {
        assert!(list.contains(name), "{list}");
    }
}

#[test]
fn the_built_in_engine_is_always_listed() {
    let place = Place::new();
    assert!(place.prints(&["engine", "list", "--json"]).contains(r#""engine":"rten""#));
    let library = place.file("libonnxruntime.so", b"not a library");
    let list = place.prints(&["engine", "list", "--onnxruntime", &library]);
    assert!(list.contains("is no shared library"), "{list}");
    let args = ["engine", "install", "--python", "/none/python"];
    place.fails(&args, FAILED, &["`/none/python`", "hint: without ONNX Runtime"]);
}

/// Nobody writes to these pipes: to open one would take for ever.
#[test]
fn pipes_are_not_read() {
    let place = Place::new();
    let pipe = |name: &str| {
        let path = place.path(name);
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        path
    };
    let (model, photo) = (vendored("resnet20_mnist.onnx"), vendored("digits/3.png"));
    let as_model = pipe("model.onnx");
    place.fails(&["run", &as_model, &photo], FAILED, &["cannot load the model", &as_model, "not a file"]);
    for input in [pipe("photo.jpg"), pipe("array.npy"), pipe("item.npz")] {
        place.fails(&["run", &model, &input], FAILED, &[&input, "is not a file"]);
    }
    for flag in ["--check", "--cluster"] {
        let file = pipe(flag);
        place.fails(&["plan", &model, flag, &file], FAILED, &[&file, "it is not a file", "hint: "]);
    }
    let labels = pipe("labels");
    place.fails(&["run", &model, &photo, "--labels", &labels], FAILED, &[&labels, "it is not a file"]);
}

#[test]
fn a_photo_whose_end_is_missing() {
    let place = Place::new();
    let whole = std::fs::read(vendored("photos/apple.jpg")).unwrap();
    let half = place.file("half.jpg", &whole[..whole.len() / 2]);
    let args = ["run", &vendored("efficientnet_lite0.onnx"), &half];
    let settings = ["--photo-settings", &vendored("efficientnet_lite0.toml")];
    place.fails(&[&args[..], &settings].concat(), FAILED, &[&half, "cut off"]);
}

#[test]
fn numbers_beyond_reason() {
    let place = Place::new();
    let model = vendored("resnet20_mnist.onnx");
    let check = |args: &[&str], most: &str| place.fails(args, USAGE, &[args[args.len() - 1], most]);
    check(&["plan", &model, "--threads", "99999999999"], "at most 1024");
    check(&["run", &model, "--random", "1", "--spawn", "65"], "at most 64");
}

/// A chain of operators so long that an engine's recursion over it needs a large stack.
#[test]
fn deep_models_are_measured() {
    let place = Place::new();
    let model = place.file("deep.onnx", chain_of_relus(20_000));
    place.prints(&["plan", &model, "--engine", "rten", "--stages", "1"]);
}

/// An ONNX model of so many operators in a row.
fn chain_of_relus(count: usize) -> Vec<u8> {
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2];
        let mut len = content.len();
        while len >= 128 {
            bytes.push(len as u8 | 128);
            len >>= 7;
        }
        bytes.push(len as u8);
        [&bytes, content].concat()
    }
    let value = |name: &str| {
        // f32, one dimension of size 4.
        let shape = field(1, &[&[1 << 3, 1][..], &field(2, &field(1, &[1 << 3, 4]))].concat());
        [field(1, name.as_bytes()), field(2, &shape)].concat()
    };
    let operator = |i: usize| {
        let (from, to) = (format!("t{i}"), format!("t{}", i + 1));
        field(1, &[field(1, from.as_bytes()), field(2, to.as_bytes()), field(4, b"Relu")].concat())
    };
    let mut graph: Vec<u8> = (0..count).flat_map(operator).collect();
    graph.extend(
        [field(2, b"deep"), field(11, &value("t0")), field(12, &value(&format!("t{count}")))].concat(),
    );
    // IR version 8, operator set 17.
    [vec![1 << 3, 8], field(7, &graph), field(8, &[2 << 3, 17])].concat()
}
