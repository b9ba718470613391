//! `defer run --spawn` as a user meets it: answers, files, flags, and every way in which a run may end.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use common::{
    FAILED, INTERRUPTED, Place, RESNET, Running, announce, check_digits, conformance, eventually, npy,
    vendored,
};
use rustix::process::{Signal, kill_process};
use serde_json::Value;
use zip::write::SimpleFileOptions;
use zip::{ZipArchive, ZipWriter};

/// Runs the digits over three nodes, `more` flags added.
fn digits(place: &Place, more: &[&str]) -> (Vec<Value>, Value) {
    let (model, inputs) = (vendored(RESNET), vendored("digits"));
    place.run(&[&["--spawn", "3", &model, &inputs], more].concat()).succeeded().results()
}

fn numbers(tensor: &Value) -> Vec<f64> {
    let data = tensor["data"].as_array().unwrap_or_else(|| panic!("{tensor}"));
    data.iter().map(|v| v.as_f64().unwrap()).collect()
}

fn largest_difference(a: &[Value], b: &[Value]) -> f64 {
    let pairs = a.iter().zip(b).flat_map(|(a, b)| {
        let (a, b) = (numbers(&a["outputs"]["Identity:0"]), numbers(&b["outputs"]["Identity:0"]));
        a.into_iter().zip(b)
    });
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

fn array_names(path: &str) -> Vec<String> {
    let archive = ZipArchive::new(File::open(path).unwrap()).unwrap();
    archive.file_names().map(|name| name.unwrap().into_owned()).collect()
}

#[test]
fn answers_and_report_are_as_documented() {
    let place = Place::new();
    let folder = place.path("answers");
    let (items, report) = digits(&place, &["--repeat", "2", "--whole", "--output", &folder]);
    check_digits(&items, 20);
    for (i, item) in items.iter().enumerate() {
        assert!(item["input"].as_str().unwrap().ends_with(&format!("digits/{}.png", i % 10)), "{item}");
        assert!((0.25..=1.0).contains(&item["confidence"].as_f64().unwrap()), "{item}");
        assert!(item["latency_ms"].as_f64().unwrap() > 0.0, "{item}");
        let output = &item["outputs"]["Identity:0"];
        assert_eq!((&output["dtype"], &output["shape"]), (&"f32".into(), &vec![1, 10].into()));
        let logits = numbers(output);
        let best = (0..10).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
        assert_eq!((logits.len(), best), (10, i % 10));
    }
    for i in 0..10 {
        assert_eq!(array_names(&format!("{folder}/{i:05}.npz")), ["Identity:0.npy"]);
    }

    assert_eq!(report["items"], 20);
    assert!(report["shipped_weight_bytes"].as_u64().unwrap() > 1_000_000, "a digit model is 1 MB: {report}");
    let whole = &report["whole_model"];
    assert!(whole["largest_difference"].as_f64().unwrap() < 1e-4, "{report}");
    assert_eq!(whole["compared_items"], 10, "the rounds after the first are not compared: {report}");
    assert!(whole["items_per_s"].as_f64().unwrap() > 0.0, "{report}");
    let stages = report["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 3);
    for (i, stage) in stages.iter().enumerate() {
        assert_eq!((&stage["stage"], &stage["node"]), (&(i + 1).into(), &format!("local-{}", i + 1).into()));
        for positive in ["operators", "compute_ms", "busy", "in_bytes", "out_bytes"] {
            assert!(stage[positive].as_f64().unwrap() > 0.0, "{positive}: {stage}");
        }
        assert_eq!(stage["codec"], "raw");
    }

    // A stage may be without weights worth the name; together they have the model's.
    let weights: u64 = stages.iter().map(|stage| stage["weight_bytes"].as_u64().unwrap()).sum();
    assert_eq!(report["shipped_weight_bytes"], weights);

    let (again, report) = digits(&place, &[]);
    assert_eq!(report["shipped_weight_bytes"], 0, "the nodes held every weight");
    assert_eq!(largest_difference(&items, &again), 0.0);
}

#[test]
fn the_table_for_people_says_the_same() {
    let place = Place::new();
    let args = ["run", "--spawn", "2", "--engine", "rten", "--whole", &vendored(RESNET), &vendored("digits")];
    let table = place.prints(&args);
    for part in ["3.png", "class 3", "local-1", "local-2", "largest difference to the whole model"] {
        assert!(table.contains(part), "`{part}` is not in\n{table}");
    }
}

#[test]
fn flags_choose_cuts_codec_and_window() {
    let place = Place::new();
    let (plain, raw) = digits(&place, &[]);
    let check = |flags: &[&str], stages: usize| {
        let (items, report) = digits(&place, flags);
        check_digits(&items, 10);
        assert!(largest_difference(&plain, &items) < 1e-4, "{flags:?}");
        assert_eq!(report["stages"].as_array().unwrap().len(), stages, "{flags:?}");
        report
    };
    // Named in any order.
    let cuts = "functional_1/re_lu_12_1/Relu:0,functional_1/re_lu_2_1/Relu:0";
    let report = check(&["--cut", cuts], 3);
    // The tensor at the first cut is 16x28x28 floats, the one at the second 32x14x14.
    let bytes: Vec<f64> = (0..2).map(|i| report["stages"][i]["out_bytes"].as_f64().unwrap()).collect();
    assert!(
        (50_176.0..51_000.0).contains(&bytes[0]) && (25_088.0..26_000.0).contains(&bytes[1]),
        "{bytes:?}"
    );
    check(&["--stages", "2"], 2);
    check(&["--stages", "1"], 1);
    let packed = check(&["--codec", "lz4"], 3);
    assert_eq!(packed["stages"][0]["codec"], "lz4");
    let bytes = |report: &Value| report["stages"][0]["in_bytes"].as_f64().unwrap();
    assert!(bytes(&packed) < 0.5 * bytes(&raw), "most of a digit is black: {packed}");
    check(&["--window", "1"], 3);
    check(&["--window", "1000", "--quiet", "-v"], 3);
}

#[test]
fn rounded_weights_are_shipped_on_request_and_said() {
    let place = Place::new();
    let (plain, report) = digits(&place, &[]);
    assert_eq!(report["rounded_weights"], Value::Null);
    for (to, largest) in [("bf16", 0.004), ("u8", 0.004)] {
        let (items, report) = digits(&place, &["--weights", to, "--whole"]);
        check_digits(&items, 10);
        let rounded = &report["rounded_weights"];
        assert_eq!(rounded["to"], to);
        let change = rounded["largest_change"].as_f64().unwrap();
        assert!(change > 0.0 && change < largest, "{report}");
        let shipped = report["shipped_weight_bytes"].as_u64().unwrap();
        assert!(shipped > 500_000, "other weights have other names: {report}");
        assert!(
            report["shipped_wire_bytes"].as_u64().unwrap() > shipped,
            "one machine packs nothing: {report}"
        );
        assert!(largest_difference(&plain, &items) > 0.0, "{to}");
        let whole = report["whole_model"]["largest_difference"].as_f64().unwrap();
        assert!(whole < 1e-4, "the whole model is the rounded one: {report}");
    }
}

#[test]
fn arrays_of_any_size_come_and_go_under_their_names() {
    let place = Place::new();
    let npz = |name: &str, rows: usize, a: f32| {
        let path = place.path(name);
        let mut archive = ZipWriter::new(File::create(&path).unwrap());
        for (array, value) in [("b", 2.0), ("a", a)] {
            archive.start_file(format!("{array}.npy"), SimpleFileOptions::default()).unwrap();
            archive.write_all(&npy(&format!("({rows}, 3)"), &vec![value; 3 * rows])).unwrap();
        }
        archive.finish().unwrap();
        path
    };
    let inputs = [npz("one.npz", 1, 5.0), npz("seven.npz", 7, 1.0)];
    let (folder, model) = (place.path("answers"), conformance("many.onnx"));
    let args = ["--spawn", "2", &model, &inputs[0], &inputs[1], "--output", &folder];
    let (items, _) = place.run(&args).succeeded().results();
    // total, positive and difference of a - b.
    for (item, rows, total, positive, difference) in
        [(&items[0], 1, 9.0, 3.0, 3.0), (&items[1], 7, -21.0, 0.0, -1.0)]
    {
        let outputs = &item["outputs"];
        assert_eq!(numbers(&outputs["total"]), [total], "{item}");
        assert_eq!(outputs["positive"]["shape"], Value::from(vec![rows, 3]), "{item}");
        assert_eq!(numbers(&outputs["positive"]), vec![positive; 3 * rows], "{item}");
        assert_eq!(numbers(&outputs["difference"]), vec![difference; 3 * rows], "{item}");
    }
    let names = ["total.npy", "positive.npy", "difference.npy"];
    assert_eq!(array_names(&format!("{folder}/00001.npz")), names);
    let mut archive = ZipArchive::new(File::open(format!("{folder}/00000.npz")).unwrap()).unwrap();
    let mut bytes = Vec::new();
    archive.by_name("total.npy").unwrap().read_to_end(&mut bytes).unwrap();
    assert!(bytes.starts_with(b"\x93NUMPY") && bytes.ends_with(&9f32.to_le_bytes()));
}

#[test]
fn one_array_is_the_same_item_as_npy_and_as_npz() {
    let place = Place::new();
    let values: Vec<f32> = (0..784).map(|i| (i % 29) as f32 / 29.0).collect();
    let array = npy("(1, 1, 28, 28)", &values);
    let mut archive = ZipWriter::new(File::create(place.path("item.npz")).unwrap());
    archive.start_file("input.npy", SimpleFileOptions::default()).unwrap();
    archive.write_all(&array).unwrap();
    archive.finish().unwrap();
    let (single, packed, out) =
        (place.file("item.npy", &array), place.path("item.npz"), place.path("out.npz"));
    let model = vendored(RESNET);
    let (items, _) = place.run(&["--spawn", "2", &model, &single, &packed]).succeeded().results();
    assert_eq!(items[0]["outputs"], items[1]["outputs"]);
    place.run(&["--spawn", "2", &model, &single, "--output", &out]).succeeded();
    assert_eq!(array_names(&out), ["Identity:0.npy"], "one item is one file");
}

#[test]
fn random_items_hang_on_the_seed_alone() {
    let place = Place::new();
    let outputs = |seed: &str| {
        let args = ["--spawn", "2", &vendored(RESNET), "--random", "3", "--seed", seed];
        let (items, _) = place.run(&args).succeeded().results();
        items.into_iter().map(|mut item| item["outputs"].take()).collect::<Vec<Value>>()
    };
    let first = outputs("5");
    assert!(first[0] != first[1] && first[1] != first[2], "items differ");
    assert_eq!(first, outputs("5"));
    assert_ne!(first, outputs("6"));
}

/// With ONNX Runtime, which `make test` has fetched.
#[test]
fn onnxruntime_on_the_nodes() {
    let Some(library) = onnxruntime() else { return };
    let place = Place::new();
    let library = library.to_str().unwrap();
    let args = ["run", "--engine", "onnxruntime", "--onnxruntime", library, "--spawn", "3", "--json"];
    let inputs = ["--whole", &vendored(RESNET), &vendored("digits")];
    let (items, report) = place.defer(&[&args[..], &inputs].concat()).succeeded().results();
    check_digits(&items, 10);
    assert!(report["whole_model"]["largest_difference"].as_f64().unwrap() < 1e-4, "{report}");
    for stage in report["stages"].as_array().unwrap() {
        assert!(stage["engine"].as_str().unwrap().starts_with("onnxruntime "), "{stage}");
    }
    // Of itself it would keep a device's name and a database of events there, for its telemetry.
    assert!(!place.home().exists(), "something was written into the user's home folder");
}

/// Besides the weights, the program, its engine and the activations take some 65 MB; left to itself, the GNU allocator keeps
/// another 40 of what weights are reordered from.
#[test]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn loading_a_stage_takes_no_more_than_the_stage() {
    let Some(library) = onnxruntime() else { return };
    let place = Place::new();
    let (library, model) = (library.to_str().unwrap(), place.path("resnet50.onnx"));
    place.defer(&["zoo", "resnet50", "-o", &model]).succeeded();
    let engine = ["--engine", "onnxruntime", "--onnxruntime", library];
    let node = ["node", "--json", "--name", "a", "--threads", "1", "--group", place.group()];
    let node = common::Node::ready(place.start(&[&node[..], &engine].concat()));
    // Timing stages would set the mark back.
    let run = ["run", "--group", place.group(), "--profile", "none", "--random", "1", "--json", &model];
    let (_, report) = place.defer(&[&run[..], &engine].concat()).succeeded().results();
    let status = format!("/proc/{}/status", node.process.pid().as_raw_nonzero());
    let status = std::fs::read_to_string(status).unwrap();
    let mark = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let most = mark.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024;
    let weights = report["stages"][0]["weight_bytes"].as_u64().unwrap();
    assert!(weights > 100_000_000 && most < weights + 85_000_000, "{most} bytes for {weights} of weights");
    node.stop();
}

#[expect(clippy::disallowed_methods, reason = "as the engines' tests: where the library is, is said here")]
fn onnxruntime() -> Option<std::ffi::OsString> {
    let library = std::env::var_os("DEFER_ONNXRUNTIME");
    if library.is_none() {
        assert!(
            std::env::var_os("DEFER_TEST_WITHOUT_ONNXRUNTIME").is_some_and(|v| v == "1"),
            "no ONNX Runtime library was named: `make test` fetches one; or set DEFER_ONNXRUNTIME to the path of one; \
             or set DEFER_TEST_WITHOUT_ONNXRUNTIME=1 to test without it"
        );
        announce("*** SKIPPED: tests of nodes with ONNX Runtime: DEFER_ONNXRUNTIME names no library ***");
    }
    library
}

/// A run that would take hours, of which the first items have been answered.
fn endless(place: &Place) -> Running {
    let (model, inputs) = (vendored(RESNET), vendored("digits"));
    let args = ["run", "--engine", "rten", "--json", "--spawn", "3", "--repeat", "1000000", &model, &inputs];
    let mut run = place.start(&args);
    for _ in 0..25 {
        run.line().unwrap_or_else(|| panic!("the run ended:\n{}", run.stderr()));
    }
    run
}

/// The first photo is seen before anything is started; of another one nobody but its owner knows more.
#[test]
fn a_photo_that_is_cut_off_is_not_the_nodes_fault() {
    let place = Place::new();
    let photos = vendored("photos");
    let mut paths: Vec<_> = std::fs::read_dir(&photos).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let whole = paths.iter().find(|path| path.extension().is_some_and(|e| e == "jpg")).unwrap();
    let bytes = std::fs::read(whole).unwrap();
    let cut = place.file("cut.jpg", &bytes[..bytes.len() / 2]);
    let (model, whole) = (vendored("efficientnet_lite0.onnx"), whole.to_str().unwrap());
    let ended = place.run(&["--spawn", "2", &model, whole, &cut]);
    assert_eq!(ended.code, Some(FAILED), "{}", ended.stderr);
    for part in ["cut.jpg", "the photo is cut off", "hint: `defer run --help` says what inputs"] {
        assert!(ended.stderr.contains(part), "`{part}` is not in\n{}", ended.stderr);
    }
    assert!(!ended.stderr.contains("nodes"), "{}", ended.stderr);
}

#[test]
fn an_item_that_gives_nan_has_no_class_and_ends_nothing() {
    let place = Place::new();
    let item = |name: &str, a: f32| {
        let path = place.path(name);
        let mut archive = ZipWriter::new(File::create(&path).unwrap());
        for (array, bytes) in
            [("a", npy("(1, 2)", &[a, 1.0])), ("b", npy("(2, 3)", &[1.0, 5.0, 2.0, 0.0, 0.0, 0.0]))]
        {
            archive.start_file(format!("{array}.npy"), SimpleFileOptions::default()).unwrap();
            archive.write_all(&bytes).unwrap();
        }
        archive.finish().unwrap();
        path
    };
    let (model, nan, good) = (conformance("matmul.onnx"), item("nan.npz", f32::NAN), item("good.npz", 1.0));
    let args = ["--spawn", "1", &model, &nan, &good, "--softmax", "true"];
    let ended = place.run(&args).succeeded();
    assert!(
        ended.stderr.contains("no class for item 0 (`") && ended.stderr.contains("nan.npz`): the"),
        "{}",
        ended.stderr
    );
    let (items, _) = ended.results();
    assert_eq!(
        (&items[0]["class"], items[0]["outputs"]["y"]["data"][0].as_str()),
        (&Value::Null, Some("NaN"))
    );
    assert_eq!(items[1]["class"], 1);
    let text = place.defer(&[&["run", "--engine", "rten"], &args[..]].concat()).succeeded().lines.join("\n");
    assert!(text.contains("none: the output is no number") && text.contains("class 1"), "{text}");
}

#[test]
fn labels_of_another_model_are_refused() {
    let place = Place::new();
    let labels = place.file("three.txt", "one\ntwo\nthree\n");
    let args = ["run", "--spawn", "2", &vendored(RESNET), &vendored("digits"), "--labels", &labels];
    place.fails(&args, FAILED, &["three.txt` are 3 names", "`Identity:0` has 10 classes", "hint: "]);
}

/// Without --json answers are printed at the end; those that came before a node went are, too.
#[test]
fn answers_that_came_before_the_chain_broke_are_printed() {
    let place = Place::new();
    let (model, inputs) = (vendored(RESNET), vendored("digits"));
    let output = place.path("answers");
    let args = ["run", "--engine", "rten", "--spawn", "2", "--repeat", "1000000", "--output", &output];
    let run = place.start(&[&args[..], &[&model, &inputs]].concat());
    eventually("all digits were answered", || std::path::Path::new(&output).join("0000020.npz").exists());
    kill_process(place.process("--name local-2 "), Signal::KILL).unwrap();
    let ended = run.end();
    assert_eq!(ended.code, Some(FAILED));
    assert!(ended.lines.iter().any(|line| line.contains("class 7")), "{:?}", ended.lines);
    assert!(ended.stderr.contains("the answers end before item"), "{}", ended.stderr);
}

#[test]
fn ctrl_c_lets_what_is_on_its_way_arrive() {
    let place = Place::new();
    let run = endless(&place);
    run.signal(Signal::INT);
    let ended = run.end();
    assert_eq!((ended.code, ended.stderr.trim()), (Some(INTERRUPTED), "interrupted"));
    let (items, report) = ended.results();
    // Everything the stages took in was answered: none of the first 25 lines is in `items`.
    check_digits_from(&items, 25);
    assert_eq!(report["items"], items.len() + 25);
    assert!(place.processes().is_empty());
}

#[test]
fn ctrl_c_while_a_node_stands_still_says_what_ends_it() {
    let place = Place::new();
    let run = endless(&place);
    let node = place.process("--name local-2 ");
    kill_process(node, Signal::STOP).unwrap();
    run.signal(Signal::INT);
    eventually("it says so", || run.stderr().contains("Ctrl-C again ends it at once"));
    run.signal(Signal::INT);
    assert_eq!(run.end().code, Some(INTERRUPTED));
    kill_process(node, Signal::CONT).unwrap();
    eventually("the nodes end", || place.processes().is_empty());
}

#[test]
fn ctrl_c_before_anything_is_on_its_way() {
    let place = Place::new();
    let args =
        ["run", "-v", "--timeout", "60min", "--group", place.group(), &vendored(RESNET), &vendored("digits")];
    let run = place.start(&args);
    eventually("it waits for nodes", || run.stderr().contains("none found yet"));
    run.signal(Signal::INT);
    assert_eq!(run.end().code, Some(INTERRUPTED));
}

#[track_caller]
fn check_digits_from(items: &[Value], start: usize) {
    for (i, item) in (start..).zip(items) {
        assert_eq!((&item["item"], &item["class"]), (&i.into(), &(i % 10).into()), "{item}");
    }
}

#[test]
fn nodes_end_with_a_dispatcher_that_was_killed() {
    let place = Place::new();
    let run = endless(&place);
    assert_eq!(place.processes().len(), 4);
    run.signal(Signal::KILL);
    assert_eq!(run.end().code, None);
    eventually("the nodes end by themselves", || place.processes().is_empty());
}

#[test]
fn a_node_that_was_killed_is_named() {
    for node in ["local-1", "local-2", "local-3"] {
        let place = Place::new();
        let run = endless(&place);
        kill_process(place.process(&format!("--name {node} ")), Signal::KILL).unwrap();
        let killed = Instant::now();
        let ended = run.end();
        assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
        assert_eq!(ended.code, Some(FAILED), "{}", ended.stderr);
        let parts = [
            &format!("node `{node}`") as &str,
            "the chain is broken",
            "the answers end before item",
            "hint: ",
        ];
        assert!(!ended.stderr.contains("digits/"), "no photo is to blame\n{}", ended.stderr);
        for part in parts {
            assert!(ended.stderr.contains(part), "`{part}` is not in\n{}", ended.stderr);
        }
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
        assert!(!ended.lines.iter().any(|line| line.contains("report")), "a broken run has no report");
    }
}

#[test]
fn a_node_that_was_stopped_is_to_be_continued() {
    let place = Place::new();
    let run = endless(&place);
    let node = place.process("--name local-2 ");
    kill_process(node, Signal::STOP).unwrap();
    let ended = run.end();
    assert_eq!(ended.code, Some(FAILED), "{}", ended.stderr);
    let advice = format!("hint: the node local-2 is stopped: `kill -CONT {}`", node.as_raw_nonzero());
    assert!(ended.stderr.contains(&advice), "{}", ended.stderr);
}

#[test]
fn nobody_reads_the_output_any_more() {
    let place = Place::new();
    let mut run = endless(&place);
    run.close_stdout();
    eventually("the run ends", || !run.runs());
    let ended = run.end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(!ended.stderr.contains("error:") && !ended.stderr.contains("panicked"), "{}", ended.stderr);
}
