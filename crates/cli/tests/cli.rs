//! The real `defer` binary on inputs that are not right: a message that names the file and says what to do, the
//! right exit code, no panic.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const FAILED: i32 = 1;
const USAGE: i32 = 2;

/// A folder of its own for each test, with a cache in it.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn defer(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_defer"))
            .args(args)
            .env("DEFER_CACHE", self.0.path().join("cache"))
            .env_remove("DEFER_LOG")
            .output()
            .unwrap()
    }

    /// The command fails with `code`, and stderr holds every one of `parts`.
    fn fails(&self, args: &[&str], code: i32, parts: &[&str]) {
        let output = self.defer(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        for part in parts {
            assert!(stderr.contains(part), "{args:?}: `{part}` is not in\n{stderr}");
        }
        assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{args:?}: a failure printed a result");
    }

    /// Prints a result, which is given back.
    fn prints(&self, args: &[&str]) -> String {
        let output = self.defer(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

fn vendored(name: &str) -> String {
    models().join(name).to_str().unwrap().to_owned()
}

/// An `.npy` file of zeros.
fn npy(descr: &str, shape: &str, data_len: usize) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.bytes());
    file.resize(file.len() + data_len, 0);
    file
}

#[test]
fn models_that_are_none() {
    let place = Place::new();
    let photo = vendored("photos/apple.jpg");
    let whole = std::fs::read(vendored("resnet20_mnist.onnx")).unwrap();
    let missing = place.path("missing.onnx");
    let cut_off = place.file("cut_off.onnx", &whole[..whole.len() / 2]);
    let text = place.file("text.onnx", b"not a model, although it is called one");
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
    check(&place.file("kind.npy", &npy("<f8", "(1, 1, 28, 28)", 6272)), &["must be f32, not f64"]);
    check(&place.file("shape.npy", &npy("<f4", "(1, 28, 28)", 3136)), &["not 1x28x28"]);
    check(&place.file("short.npy", &npy("<f4", "(1, 1, 28, 28)", 3000)), &["claims 3136 bytes"]);
    check(&place.file("archive.npz", b"no archive"), &["not an .npz archive"]);
}

#[test]
fn flags_that_are_not_right() {
    let place = Place::new();
    let model = vendored("resnet20_mnist.onnx");
    let digit = vendored("digits/3.png");
    place.fails(&["run", &model], USAGE, &["<INPUTS>"]);
    place.fails(&["run", &model, &digit, "--random", "3"], USAGE, &["cannot be used with"]);
    place.fails(&["run", &model, &digit, "--repeat", "0"], USAGE, &["at least 1"]);
    place.fails(&["run", &model, &digit, "--codec", "zip"], USAGE, &["raw", "lz4"]);
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
    for name in ["resnet50", "vgg16", "vgg19", "mobilenetv2", "vit-b16", "bert-base"] {
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
