//! `defer plan` as a user meets it: goals, pictures, plan files that are written, edited, checked and run, and models
//! with annotations.

mod common;

use common::{FAILED, Place, RESNET, USAGE, check_digits, vendored};
use serde_json::Value;

/// Cuts of the model, in its order.
const CUTS: [&str; 2] = ["functional_1/re_lu_2_1/Relu:0", "functional_1/re_lu_12_1/Relu:0"];

/// Fast and hungry, slow and frugal.
const HARE_AND_TORTOISE: &str = "version = 1\n\
    [[device]]\nname = 'hare'\nspeed = 8\nidle_watts = 50\nbusy_watts = 200\n\
    [[device]]\nname = 'tortoise'\nspeed = 1\nidle_watts = 1\nbusy_watts = 2\n";

/// Plans the model with the built-in engine.
fn args<'a>(model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["plan", model, "--engine", "rten", "--json"], more].concat()
}

#[track_caller]
fn plan(place: &Place, more: &[&str]) -> Value {
    serde_json::from_str(&place.prints(&args(&vendored(RESNET), more))).unwrap()
}

/// The devices of each stage.
fn devices(plan: &Value) -> Vec<Vec<String>> {
    let name = |device: &Value| device["device"].as_str().unwrap().to_owned();
    let stages = plan["stages"].as_array().unwrap().iter();
    stages.map(|stage| stage["devices"].as_array().unwrap().iter().map(name).collect()).collect()
}

/// A plan file for the model: devices, the codec of the link to them, and the cut behind each stage.
fn plan_file(place: &Place, stages: &[(&str, &str, &str)]) -> String {
    let written = place.path("written.toml");
    plan(place, &["--stages", "1", "-o", &written]);
    let text = std::fs::read_to_string(written).unwrap();
    let hash = text.lines().find(|line| line.starts_with("model_hash = ")).unwrap();
    let stage = |&(devices, codec, cut): &(&str, &str, &str)| {
        let cut = if cut.is_empty() { String::new() } else { format!("cut = '{cut}'\n") };
        format!("[[stage]]\ndevices = [{devices}]\ncodec = '{codec}'\n{cut}")
    };
    let stages: String = stages.iter().map(stage).collect();
    place.file("plan.toml", format!("version = 1\n{hash}\nresult_codec = 'raw'\n{stages}"))
}

#[test]
fn goals_choose_the_plan() {
    let place = Place::new();
    let cluster = place.file("cluster.toml", HARE_AND_TORTOISE);
    let plan = |more: &[&str]| plan(&place, &[&["--cluster", &cluster], more].concat());
    let chosen = |more: &[&str]| devices(&plan(more)).concat();
    assert!(chosen(&[]).contains(&"hare".to_owned()));
    assert_eq!(chosen(&["--objective", "latency"]), ["hare"]);
    let frugal = plan(&["--objective", "energy"]);
    assert_eq!(devices(&frugal), [["tortoise"]]);
    assert!(frugal["proof"]["bound_joules"].as_f64() <= frugal["joules_per_item"].as_f64(), "{frugal}");
    let slow = plan(&["--max-devices", "1"])["items_per_s"].as_f64().unwrap() / 4.0;
    assert_eq!(chosen(&["--objective", "devices", "--min-throughput", &slow.to_string()]), ["hare"]);
    let fast = plan(&["--objective", "energy", "--min-throughput", &slow.to_string()]);
    assert!(fast["items_per_s"].as_f64().unwrap() >= slow, "{fast}");
    let front = plan(&["--pareto", "devices"]);
    assert_eq!(front["front"]["against"], "devices");
    assert!(front["rules"].as_array().unwrap().len() == 4 && front["outlook"].is_object(), "{front}");

    let model = vendored(RESNET);
    let fails =
        |more: &[&str], code, parts: &[&str]| place.fails(&[&args(&model, &[]), more].concat(), code, parts);
    fails(&["--objective", "energy"], FAILED, &["the power of `local-1`", "is not known", "hint: "]);
    fails(&["--objective", "devices"], USAGE, &["--min-throughput"]);
    fails(&["--min-throughput", "0"], USAGE, &["above 0"]);
    fails(
        &["--min-throughput", "1e9"],
        FAILED,
        &["no plan gives 1.00e9 items/s; the fastest gives ", "hint: "],
    );
}

#[test]
fn nothing_that_is_read_is_written_over() {
    let place = Place::new();
    let model = place.path("model.onnx");
    std::fs::copy(vendored(RESNET), &model).unwrap();
    let cluster = place.file("cluster.toml", HARE_AND_TORTOISE);
    let (settings, new) = (place.path("model.toml"), place.path("new"));
    for (flags, what) in [
        (["-o", model.as_str()], "which is for the model"),
        (["--onnx", model.as_str()], "which is for the model"),
        (["-o", settings.as_str()], "which is for the photo settings of the model"),
        (["--svg", cluster.as_str()], "which is for --cluster"),
    ] {
        place.fails(
            &[&args(&model, &["--cluster", &cluster])[..], &flags].concat(),
            FAILED,
            &[what, "hint: "],
        );
    }
    place.fails(&args(&model, &["--svg", &new, "--html", &new]), FAILED, &["which is for --svg"]);
    assert_eq!(std::fs::read(&model).unwrap(), std::fs::read(vendored(RESNET)).unwrap());
}

#[test]
fn how_nodes_are_found_is_for_plans_that_look_for_nodes() {
    let place = Place::new();
    for flags in [&["--insecure"][..], &["--group", "mine"], &["--connect", "10.0.0.1:7447"]] {
        let model = vendored(RESNET);
        place.fails(&args(&model, flags), FAILED, &["none is looked for", "hint: add --nodes"]);
    }
}

#[test]
fn energy_needs_the_power_of_every_device() {
    let place = Place::new();
    let metered = "version = 1\n[[device]]\nname = 'a'\nbusy_watts = 5\n[[device]]\nname = 'b'\n";
    let cluster = place.file("cluster.toml", metered);
    let flags = ["--cluster", &cluster, "--objective", "energy"];
    place.fails(&args(&vendored(RESNET), &flags), FAILED, &["the power of `b` is not known"]);
}

#[test]
fn whole_models_on_every_device_are_load_balancing() {
    let place = Place::new();
    let plan = plan(&place, &["--replicas", "--budget", "1s"]);
    assert_eq!(plan["load_balancing"], true);
    assert_eq!(devices(&plan).concat().len(), 4);
    assert_eq!(plan["hops"][0]["links"].as_array().unwrap().len(), 4);
    let text = place.prints(&["plan", &vendored(RESNET), "--engine", "rten", "--replicas"]);
    assert!(text.contains("plain load balancing: every device runs the whole model"), "{text}");
}

#[test]
fn pictures_pages_and_annotated_models_are_written() {
    let place = Place::new();
    let [svg, html, onnx] = ["plan.svg", "plan.html", "plan.onnx"].map(|name| place.path(name));
    plan(&place, &["--stages", "3", "--svg", &svg, "--html", &html, "--onnx", &onnx]);
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    for text in [read(&svg), read(&html)] {
        assert!(text.contains(">local-3<") && text.contains("bottleneck"), "{text}");
    }
    assert!(read(&svg).starts_with("<?xml") && read(&html).starts_with("<!DOCTYPE html>"));
    // It is a model still, and cut as before.
    let again = args(&onnx, &["--stages", "3"]);
    assert_eq!(place.prints(&again).lines().count(), 1);
    let bytes = std::fs::read(&onnx).unwrap();
    assert!(bytes.windows(7).any(|window| window == b"local-3"), "no device is named");
}

#[test]
fn files_that_cannot_be_written_are_found_before_anything_else() {
    let place = Place::new();
    // Nor is there a model.
    let model = place.path("model.onnx");
    for flag in ["-o", "--svg", "--html", "--onnx", "--costs"] {
        place.fails(
            &args(&model, &[flag, "/none/file"]),
            FAILED,
            &["cannot write `/none/file`", "hint: name a file"],
        );
        place.fails(&args(&model, &[flag, &place.path("")]), FAILED, &["cannot write", "hint: name a file"]);
        let (new, old) = (place.path("new"), place.file("old", "old"));
        for path in [&new, &old] {
            place.fails(&args(&model, &[flag, path]), FAILED, &["cannot load the model"]);
        }
        assert!(!std::fs::exists(&new).unwrap(), "{flag} leaves a file behind");
        assert_eq!(std::fs::read(&old).unwrap(), b"old", "{flag}");
    }
    for flag in ["-o", "--svg", "--html", "--onnx"] {
        place.fails(&args(&model, &["--cuts", flag, "file"]), USAGE, &["--cuts", "cannot be used with"]);
    }
}

#[test]
fn a_plan_is_written_and_checked() {
    let place = Place::new();
    let file = place.path("plan.toml");
    let written = plan(&place, &["--stages", "3", "-o", &file]);
    // A fourth device may have a stage of its own.
    assert!(written["outlook"]["another_device_gain"].as_f64().unwrap() > 1.05, "{written}");
    let checked = plan(&place, &["--check", &file]);
    let cuts = |plan: &Value| -> Vec<Value> {
        plan["stages"].as_array().unwrap().iter().map(|stage| stage["cut"].clone()).collect()
    };
    assert_eq!((devices(&checked), cuts(&checked)), (devices(&written), cuts(&written)));
    // The best may be within the error of measurement.
    assert!(checked["compared"]["factor"].as_f64().unwrap() > 0.96, "{checked}");

    // All on the slowest of two devices is far from the best.
    let cluster = place.file("cluster.toml", HARE_AND_TORTOISE);
    let poor = plan_file(&place, &[("'tortoise'", "lz4", "")]);
    let checked = plan(&place, &["--cluster", &cluster, "--check", &poor]);
    assert!(checked["compared"]["factor"].as_f64().unwrap() > 5.0, "{checked}");
    // What the file names is measured, too: on inputs of random values it saves nothing.
    let hops: Vec<&Value> = checked["hops"].as_array().unwrap().iter().collect();
    assert_eq!((hops[0]["codec"].as_str(), hops[1]["codec"].as_str()), (Some("lz4"), Some("raw")));
    assert!(checked.get("unmeasured_codecs").is_none(), "{checked}");
    assert_ne!(hops[0]["bytes"].as_u64().unwrap(), 28 * 28 * 4, "{checked}");
}

#[test]
fn a_rule_places_the_model_as_another_system_would() {
    let place = Place::new();
    let cluster = place.file("cluster.toml", HARE_AND_TORTOISE);
    for (rule, order) in [("equal", ["hare", "tortoise"]), ("speed", ["hare", "tortoise"])] {
        let ruled = plan(&place, &["--cluster", &cluster, "--rule", rule]);
        assert_eq!(devices(&ruled).concat(), order, "{rule}");
        let factor = ruled["compared"]["factor"].as_f64().unwrap();
        // Half of the units on a device an eighth as fast is far from the best.
        assert_eq!(factor > 1.5, rule == "equal", "{rule}: {ruled}");
    }
    let small = HARE_AND_TORTOISE.replace("name = 'tortoise'", "name = 'tortoise'\nmemory = '10kB'");
    let small = place.file("small.toml", small);
    let model = vendored(RESNET);
    let fails = args(&model, &["--cluster", &small, "--rule", "equal"]);
    place.fails(&fails, FAILED, &["tortoise", "hint: leave --rule out"]);
    let args = args(&model, &["--cluster", &cluster, "--rule", "equal", "--stages", "2"]);
    place.fails(&args, USAGE, &["--rule", "cannot be used with"]);
}

#[test]
fn links_get_the_codecs_that_pay_on_them() {
    let place = Place::new();
    const SLOW: &str = "[links]\nbandwidth = '1Mbit/s'\n";
    const FREE: &str = "";
    let check = |links: &str, accuracy: &[&str]| -> (Vec<String>, bool) {
        let cluster = place.file("cluster.toml", format!("{HARE_AND_TORTOISE}{links}"));
        let plan = plan(&place, &[&["--cluster", &cluster, "--stages", "2"], accuracy].concat());
        let hops = plan["hops"].as_array().unwrap();
        let codec = |hop: &Value| hop["codec"].as_str().unwrap().to_owned();
        (hops.iter().map(codec).collect(), hops.iter().all(|hop| hop["exact"].as_bool().unwrap()))
    };
    for (links, accuracy, coded, exact) in [
        (SLOW, &[][..], true, false),
        (SLOW, &["--codec", "exact"], true, true),
        (SLOW, &["--codec", "relaxed"], true, false),
        (SLOW, &["--codec", "f16"], true, false),
        (SLOW, &["--codec", "raw"], false, true),
        (FREE, &[], false, true),
        (FREE, &["--codec", "relaxed"], false, true),
    ] {
        let (codecs, all_exact) = check(links, accuracy);
        let some = codecs.iter().any(|codec| codec != "raw");
        assert_eq!((some, all_exact), (coded, exact), "{links} {accuracy:?}: {codecs:?}");
    }
    assert_eq!(check(FREE, &["--codec", "f16"]).0, ["f16"; 3]);
}

#[test]
fn plans_that_do_not_fit() {
    let place = Place::new();
    let model = vendored(RESNET);
    let cluster = "version = 1\n[[device]]\nname = 'a'\nmemory = '100kB'\n[[device]]\nname = 'b'\n";
    let cluster = place.file("cluster.toml", cluster);
    let check = |stages: &[(&str, &str, &str)], parts: &[&str]| {
        let file = plan_file(&place, stages);
        let args = args(&model, &["--cluster", &cluster, "--check", &file]);
        place.fails(&args, FAILED, &[&["error: ", "hint: "], parts].concat());
    };
    check(
        &[("'a'", "raw", CUTS[1]), ("'b'", "raw", "")],
        &["device `a` would need", "for stage 1 but has 0.1 MB"],
    );
    check(&[("'c'", "raw", "")], &["device `c`, which is not there; there are a, b"]);
    check(&[("'b', 'b'", "raw", "")], &["device `b`, which has one already"]);
    check(&[("'b'", "raw", "relu_99"), ("'a'", "raw", "")], &["no cut named `relu_99`", "the closest"]);
    check(&[("'b'", "raw", ""), ("'a'", "raw", "")], &["stage 1", "names no cut"]);
    check(&[("'b'", "raw", CUTS[0])], &["is the last, but ends at cut"]);
    let back = [("'a'", "raw", CUTS[1]), ("'b'", "raw", CUTS[0]), ("'c'", "raw", "")];
    let three = "version = 1\n[[device]]\nname = 'a'\n[[device]]\nname = 'b'\n[[device]]\nname = 'c'\n";
    let three = place.file("three.toml", three);
    let file = plan_file(&place, &back);
    let parts = ["stage 2", "does not lie behind the one before it"];
    place.fails(&args(&model, &["--cluster", &three, "--check", &file]), FAILED, &parts);

    let wrong = place.file("wrong.toml", "version = 1\nspeed = 3\n");
    place.fails(
        &args(&model, &["--check", &wrong]),
        FAILED,
        &[&wrong, "line 2, column 1: `speed`", "hint: "],
    );
    let file = plan_file(&place, &[("'a'", "raw", "")]);
    let other = vendored("resnet20_mnist_int8_qdq.onnx");
    place.fails(&args(&other, &["--check", &file]), FAILED, &["is for another model", "hint: "]);
    place.fails(&args(&model, &["--check", "/none/plan.toml"]), FAILED, &["/none/plan.toml"]);
}

#[test]
fn a_run_does_exactly_what_the_plan_says() {
    let place = Place::new();
    let (model, inputs) = (vendored(RESNET), vendored("digits"));
    let run = |stages: &[(&str, &str, &str)], more: &[&str]| {
        let file = plan_file(&place, stages);
        place.run(&[&["--spawn", "3", &model, &inputs, "--plan", &file], more].concat())
    };
    let turned = [("'local-3'", "lz4", CUTS[0]), ("'local-1'", "raw", CUTS[1]), ("'local-2'", "lz4", "")];
    let (items, report) = run(&turned, &["--whole"]).succeeded().results();
    check_digits(&items, 10);
    let stages = report["stages"].as_array().unwrap();
    let figures: Vec<(&str, &str)> =
        stages.iter().map(|s| (s["node"].as_str().unwrap(), s["codec"].as_str().unwrap())).collect();
    assert_eq!(figures, [("local-3", "raw"), ("local-1", "lz4"), ("local-2", "raw")]);
    // The tensor at the first cut is 16x28x28 floats, and travels as it is.
    assert!(stages[0]["out_bytes"].as_f64().unwrap() > 50_176.0, "{report}");
    assert!(report["whole_model"]["largest_difference"].as_f64().unwrap() < 1e-4, "{report}");

    let replicas = [("'local-3', 'local-1'", "raw", CUTS[0]), ("'local-2'", "raw", "")];
    let (items, report) = run(&replicas, &["--whole", "--repeat", "4"]).succeeded().results();
    check_digits(&items, 40);
    assert!(report["whole_model"]["largest_difference"].as_f64().unwrap() < 1e-4, "{report}");
    let rows = report["stages"].as_array().unwrap().iter();
    let rows: Vec<(u64, &str)> =
        rows.map(|s| (s["stage"].as_u64().unwrap(), s["node"].as_str().unwrap())).collect();
    assert_eq!(rows, [(1, "local-3"), (1, "local-1"), (2, "local-2")]);
    let share = |row: usize| report["stages"][row]["share"].as_f64().unwrap();
    let all = share(0) + share(1);
    assert!(share(0) > 0.1 && share(1) > 0.1 && (all - 1.0).abs() < 1e-9, "{report}");

    run(&[("'a'", "raw", "")], &[]).failed(FAILED, &["`a`, which is not there; there are local-1", "hint: "]);
    run(&[("'local-1'", "raw", "")], &["--stages", "2"]).failed(USAGE, &["--stages", "--plan"]);
}

#[test]
fn coarse_codecs_of_a_plan_are_tried_before_the_first_item() {
    let place = Place::new();
    let (model, inputs) = (vendored(RESNET), vendored("digits"));
    let file = plan_file(&place, &[("'local-1'", "raw", CUTS[0]), ("'local-2'", "u8", "")]);
    let args = ["--spawn", "2", &model, &inputs, "--plan", &file];
    let run = |more: &[&str]| place.run(&[&args, more].concat());
    let (items, report) = run(&[]).succeeded().results();
    check_digits(&items, 10);
    let trial = &report["codec_trial"];
    assert_eq!((&trial["items"], &trial["arbitrary"]), (&10.into(), &false.into()), "{trial}");
    let (link, error) = (&trial["links"][0], trial["error"].as_f64().unwrap());
    assert_eq!((&link["from"], &link["to"]), (&"local-1".into(), &"local-2".into()));
    assert_eq!((&link["tried"], &link["chosen"]), (&"u8".into(), &"u8".into()));
    assert!(error > 0.0 && error < 0.05, "{trial}");
    assert_eq!(report["stages"][0]["codec"], "u8");

    let (items, report) = run(&["--most-error", "0", "--least-agreement", "100"]).succeeded().results();
    check_digits(&items, 10);
    let trial = &report["codec_trial"];
    // What took the place of bytes was a half, or exact at once, as the plan has it; what is used in the end is exact.
    assert_eq!((&trial["error"], &trial["of_plan_file"]), (&0.0.into(), &true.into()), "{trial}");
    let codec = report["stages"][0]["codec"].as_str().unwrap();
    assert_eq!(codec.parse::<wire::Codec>().unwrap().fidelity(), wire::Fidelity::Exact, "{trial}");
    for link in trial["links"].as_array().unwrap() {
        assert_eq!(link["chosen"], codec);
    }
    assert_eq!((&trial["links"][0]["tried"], &trial["links"][0]["error"]), (&"u8".into(), &error.into()));
}

#[test]
fn limits_that_are_given_hold_for_halves_too_and_not_for_named_codecs() {
    let place = Place::new();
    let (model, inputs) = (vendored(RESNET), vendored("digits"));
    let file = plan_file(&place, &[("'local-1'", "raw", CUTS[0]), ("'local-2'", "f16", "")]);
    let run = |more: &[&str]| place.run(&[&["--spawn", "2", &model, &inputs], more].concat());
    let (_, report) = run(&["--plan", &file]).succeeded().results();
    assert_eq!((&report["codec_trial"], &report["stages"][0]["codec"]), (&Value::Null, &"f16".into()));
    let (items, report) = run(&["--plan", &file, "--most-error", "0"]).succeeded().results();
    check_digits(&items, 10);
    let link = &report["codec_trial"]["links"][0];
    assert_eq!((&link["tried"], &link["chosen"]), (&"f16".into(), &"raw".into()), "{report}");
    assert_eq!(report["stages"][0]["codec"], "raw");

    let refused = |flags: &[&str], part: &str| run(flags).failed(FAILED, &[part, "hint: leave --"]);
    refused(&["--codec", "u8", "--most-error", "1"], "--most-error is without effect beside --codec u8");
    refused(&["--codec", "exact", "--least-agreement", "99"], "--least-agreement is without effect");
}

#[test]
fn runs_have_goals_too() {
    let place = Place::new();
    let (model, inputs) = (vendored(RESNET), vendored("digits"));
    let args = ["--spawn", "2", &model, &inputs, "--objective", "latency"];
    let (items, report) = place.run(&args).succeeded().results();
    check_digits(&items, 10);
    assert_eq!(report["stages"].as_array().unwrap().len(), 1, "a cut costs latency: {report}");
    let blind = ["--spawn", "2", &model, &inputs, "--objective", "energy"];
    place.run(&blind).failed(FAILED, &["the power of the devices is not known", "hint: "]);
}
