//! Compute nodes as processes: found, named, shared, refused, ended.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

use common::{Ended, FAILED, Node, Place, RESNET, USAGE, check_digits, eventually, vendored};
use rustix::process::Signal;
use serde_json::Value;

/// Runs the digits over nodes of the place's group.
fn digits<'a>(place: &'a Place, more: &[&'a str]) -> Vec<String> {
    let always = ["run", "--engine", "rten", "--json", "--group", place.group()];
    let inputs = [vendored(RESNET), vendored("digits")];
    always.iter().copied().chain(more.iter().copied()).map(str::to_owned).chain(inputs).collect()
}

/// The nodes of the stages, in the order of the chain.
fn check_run(place: &Place, more: &[&str]) -> Vec<String> {
    // Nodes that count as equal stand in a fixed order.
    let args = digits(place, &[&["--profile", "none"], more].concat());
    let (items, report) = place.defer(&args).succeeded().results();
    check_digits(&items, 10);
    let stages = report["stages"].as_array().unwrap();
    stages.iter().map(|stage| stage["node"].as_str().unwrap().to_owned()).collect()
}

/// A port with a free one after it, outside the range from which systems choose ports themselves.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 20_000 + (std::process::id() % 5_000) as u16 * 2;
    let next = || start + NEXT.fetch_add(2, Ordering::Relaxed);
    let free = |port: &u16| (0..2).all(|i| TcpListener::bind(("127.0.0.1", port + i)).is_ok());
    std::iter::repeat_with(next).find(free).unwrap()
}

fn names(nodes: &[Value]) -> Vec<&str> {
    nodes.iter().map(|node| node["name"].as_str().unwrap()).collect()
}

#[test]
fn nodes_are_listed_with_what_they_have_and_run() {
    let place = Place::new();
    assert!(place.nodes().is_empty(), "no node is an answer");
    let nobody = place.defer(&["nodes", "--group", place.group(), "--timeout", "100ms"]).succeeded();
    assert!(nobody.lines.is_empty() && nobody.stderr.contains("no node was found within 0.1 s"));
    let b = place.node("b", &["--memory", "1GiB", "--threads", "1"]);
    let _a = place.node("a", &[]);
    let nodes = place.nodes();
    assert_eq!(names(&nodes), ["a", "b"]);
    assert_eq!((&nodes[1]["memory_bytes"], &nodes[1]["threads"]), (&(1 << 30).into(), &1.into()));
    assert_eq!(nodes[1]["address"], b.started["data"][0]);
    assert!(nodes[1]["engine"].as_str().unwrap().starts_with("rten "), "{}", nodes[1]);
    assert!(nodes[1]["cores"].as_u64().unwrap() > 0);

    let args = digits(&place, &["--repeat", "1000000", "--stages", "2", "--profile", "none"]);
    let mut run = place.start(&args);
    run.line().expect("an answer");
    let nodes = place.nodes();
    assert_eq!(nodes[0]["runs"][0], "resnet20_mnist 1/2");
    assert_eq!(nodes[1]["runs"][0], "resnet20_mnist 2/2");
    assert!(nodes[1]["memory_used_bytes"].as_u64().unwrap() > 100_000, "{}", nodes[1]);
    run.signal(Signal::INT);
    run.end();
    let idle =
        |node: &Value| node["runs"] == Value::from(Vec::<Value>::new()) && node["memory_used_bytes"] == 0;
    assert!(place.nodes().iter().all(idle), "{:?}", place.nodes());

    b.stop();
    assert_eq!(names(&place.nodes()), ["a"]);
}

#[test]
fn a_dispatcher_that_comes_first_waits_and_says_for_what() {
    let place = Place::new();
    let args = digits(&place, &["--stages", "2", "--timeout", "60s", "-v"]);
    let run = place.start(&args);
    eventually("it says so", || run.stderr().contains("waiting for nodes: 0 of 2 found"));
    let _a = place.node("a", &[]);
    eventually("it counts", || run.stderr().contains("waiting for nodes: 1 of 2 found"));
    let _b = place.node("b", &[]);
    check_digits(&run.end().succeeded().results().0, 10);
}

#[test]
fn a_cluster_file_names_the_nodes_and_their_order() {
    let place = Place::new();
    let _nodes: Vec<Node> = ["a", "b", "c"].iter().map(|name| place.node(name, &[])).collect();
    let file = place.file("by_name.toml", "version = 1\n[[device]]\nname = 'c'\n[[device]]\nname = 'a'\n");
    assert_eq!(check_run(&place, &["--cluster", &file, "--stages", "2"]), ["c", "a"]);
    let file =
        place.file("missing.toml", "version = 1\n[[device]]\nname = 'b'\n[[device]]\nname = 'garage'\n");
    let args = digits(&place, &["--cluster", &file, "--timeout", "300ms"]);
    place.fails(
        &args,
        FAILED,
        &["no node named garage was found within 0.3 s; those that were: a, b, c", "hint: "],
    );
}

#[test]
fn two_nodes_of_one_name_are_listed_and_not_used() {
    let place = Place::new();
    let _nodes = ["a", "a"].map(|name| place.node(name, &[]));
    let ended = place.defer(&["nodes", "--json", "--group", place.group()]).succeeded();
    assert!(ended.stderr.contains("two nodes are named `a`, at 127.0.0.1:"), "{}", ended.stderr);
    assert_eq!(names(&ended.json()), ["a", "a"]);
    place.fails(&digits(&place, &["--stages", "2"]), FAILED, &["two nodes are named `a`", "--name"]);
    let nameless = ["node", "--group", place.group(), "--name", ""];
    place.fails(&nameless, USAGE, &["--name"]);
}

#[test]
fn addresses_in_a_cluster_file_and_on_the_command_line() {
    let place = Place::new();
    let ports = [free_port(), free_port()];
    let address = |i: usize| format!("127.0.0.1:{}", ports[i]);
    let nodes = [place.node("a", &["--listen", &address(0)]), place.node("b", &["--listen", &address(1)])];
    for (node, port) in nodes.iter().zip(ports) {
        // The documented port of tensors is the one after.
        assert_eq!(node.started["data"][0], format!("127.0.0.1:{}", port + 1));
    }
    let devices = format!(
        "version = 1\n[[device]]\nname = 'b'\naddress = 'tcp/{}'\n[[device]]\nname = 'a'\naddress = 'tcp/{}'\n",
        address(1),
        address(0)
    );
    let file = place.file("addresses.toml", devices);
    assert_eq!(check_run(&place, &["--cluster", &file, "--stages", "2"]), ["b", "a"]);
    assert_eq!(check_run(&place, &["--connect", &address(0), "--stages", "2"]), ["a", "b"]);
}

#[test]
fn deployments_one_after_the_other_and_side_by_side() {
    let place = Place::new();
    let _nodes: Vec<Node> = ["a", "b", "c"].iter().map(|name| place.node(name, &[])).collect();
    assert_eq!(check_run(&place, &["--stages", "3"]), ["a", "b", "c"]);
    assert_eq!(check_run(&place, &["--stages", "2", "--codec", "lz4"]).len(), 2);
    let args = digits(&place, &["--stages", "3", "--repeat", "30"]);
    let mut runs: Vec<_> = (0..3).map(|_| place.start(&args)).collect();
    let firsts: Vec<Value> =
        runs.iter_mut().map(|run| serde_json::from_str(&run.line().unwrap()).unwrap()).collect();
    let at_once = place.nodes();
    assert!(at_once.iter().all(|node| node["runs"].as_array().unwrap().len() > 1), "{at_once:?}");
    for (run, first) in runs.into_iter().zip(firsts) {
        let (rest, report) = run.end().succeeded().results();
        check_digits(&[vec![first], rest].concat(), 300);
        assert_eq!(report["stages"].as_array().unwrap().len(), 3);
    }
}

#[test]
fn nodes_that_are_there_are_measured_and_planned_for() {
    let place = Place::new();
    let _nodes = ["a", "b"].map(|name| place.node(name, &[]));
    let model = vendored(RESNET);
    let always = ["plan", "--nodes", "--engine", "rten", "--json", "--group", place.group(), &model];
    let devices = |more: &[&str]| -> BTreeSet<String> {
        let plan = place.defer(&[&always, more].concat()).succeeded().json().remove(0);
        let stages = plan["stages"].as_array().unwrap();
        stages.iter().map(|stage| stage["devices"][0]["device"].as_str().unwrap().to_owned()).collect()
    };
    let both: BTreeSet<String> = ["a", "b"].map(str::to_owned).into();
    let figures = || fs::read_dir(place.cache().join("figures")).map_or(0, Iterator::count);
    assert_eq!((devices(&["--profile", "none"]), figures()), (both.clone(), 0));
    assert_eq!(devices(&["--stages", "2"]), both);
    // The model here, and at least one of its units on each node.
    let known = figures();
    assert!(known >= 3, "{known}");
    assert_eq!((devices(&[]), figures()), (both, known));
    let file = place.file("b.toml", "version = 1\n[[device]]\nname = 'b'\n");
    assert_eq!(devices(&["--cluster", &file]), ["b".to_owned()].into());
    let nobody = ["plan", "--nodes", "--timeout", "300ms", "--group", "nobody-is-here", &model];
    place.fails(&nobody, FAILED, &["no node was found within 0.3 s", "hint: "]);
    let (items, _) = place.defer(&digits(&place, &["--profile", "fresh"])).succeeded().results();
    check_digits(&items, 10);
}

/// A node that is killed or frozen while it is timed is not planned with, whoever asks for the plan.
#[test]
fn nodes_that_go_while_they_are_measured_are_left_out() {
    let check = |signal, command: &str, both: bool, check: &dyn Fn(Ended)| {
        let place = Place::new();
        let own = place.path("own");
        let a = place.node("a", &["--cache", &own]);
        let b = place.node("b", &[]);
        // By name, so that both are waited for.
        let file = place.file("a_b.toml", "version = 1\n[[device]]\nname = 'a'\n[[device]]\nname = 'b'\n");
        let always = [command, "--engine", "rten", "--json", "--cluster", &file, "--group", place.group()];
        let mut args = always.to_vec();
        let (model, digits) = (vendored(RESNET), vendored("digits"));
        args.extend([&[&model, "--nodes"], &[&model, &digits]][usize::from(command == "run")]);
        let running = place.start(&args);
        // It is timed first, and what it is to be timed with has just come.
        let weights = || fs::read_dir(format!("{own}/weights/objects")).map_or(0, Iterator::count);
        eventually("node a has weights", || weights() > 0);
        a.process.signal(signal);
        if both {
            b.process.signal(signal);
        }
        check(running.end());
    };
    let planned = |ended: Ended| {
        assert!(ended.stderr.contains("`a` went, or froze"), "{}", ended.stderr);
        let plan = ended.succeeded().json().remove(0);
        assert_eq!(plan["gone_nodes"], Value::from(vec!["a"]), "{plan}");
        let stages = plan["stages"].as_array().unwrap();
        assert_eq!((stages.len(), &stages[0]["devices"][0]["device"]), (1, &"b".into()), "{plan}");
    };
    check(Signal::KILL, "plan", false, &planned);
    check(Signal::STOP, "plan", false, &planned);
    check(Signal::KILL, "run", false, &|ended| {
        let (items, report) = ended.succeeded().results();
        check_digits(&items, 10);
        assert_eq!(report["gone_nodes"], Value::from(vec!["a"]), "{report}");
        assert_eq!(report["stages"][0]["node"], "b");
    });
    check(Signal::KILL, "plan", true, &|ended| {
        ended.failed(FAILED, &["no node is left to plan for: a, b went", "hint: "]);
    });
}

#[test]
fn signals_end_a_node_in_order() {
    let place = Place::new();
    for signal in [Signal::TERM, Signal::INT] {
        let node = place.node("a", &[]);
        node.process.signal(signal);
        let ended = node.process.end().succeeded();
        assert_eq!(ended.stderr, "");
    }
    // A node that is told to end in the middle of a run: the dispatcher names it.
    let _b = place.node("b", &[]);
    let c = place.node("c", &[]);
    let args = digits(&place, &["--repeat", "1000000", "--stages", "2"]);
    let mut run = place.start(&args);
    run.line().expect("an answer");
    c.stop();
    let ended = run.end();
    assert_eq!(ended.code, Some(FAILED), "{}", ended.stderr);
    assert!(ended.stderr.contains("node `c`") && ended.stderr.contains("hint: "), "{}", ended.stderr);
    eventually("the other gives its stage up", || place.nodes()[0]["memory_used_bytes"] == 0);
}

#[test]
fn addresses_that_a_node_cannot_have() {
    let place = Place::new();
    let node = |args: &[&str], parts: &[&str]| {
        let always = ["node", "--group", place.group(), "--engine", "rten"];
        place.fails(&[&always, args].concat(), FAILED, &[&["error: ", "hint: "], parts].concat());
    };
    let port = free_port();
    let _taken = TcpListener::bind(("127.0.0.1", port + 1)).unwrap();
    let (data, control) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{}", port + 1));
    node(&["--listen", &control], &[&control, "in use", "choose another --listen"]);
    node(&["--listen", &data], &["data connections", &control, "in use", "choose another port"]);
    node(&["--listen", "0.0.0.0:0"], &["`0.0.0.0:0` is not a loopback address", "say so with --insecure"]);
    node(&["--listen", "192.0.2.1:7447"], &["`192.0.2.1:7447` is not a loopback address"]);
    node(&["--listen", "192.0.2.1:7447", "--insecure"], &["192.0.2.1:7447", "not this machine's"]);
    node(&["--connect", "192.0.2.1:7447"], &["`192.0.2.1:7447` is not a loopback address"]);
    // A name or a group is part of a key.
    place.fails(&["node", "--group", "a/b"], FAILED, &["`a/b` cannot be a group name"]);
    let cache = place.file("file", "");
    node(&["--cache", &cache], &[&cache]);
}

#[test]
fn nobody_is_there() {
    let place = Place::new();
    let args = digits(&place, &["--timeout", "300ms"]);
    let parts = ["no node was found within 0.3 s", "hint: start `defer node`", "--spawn"];
    place.fails(&args, FAILED, &parts);
    let ended = place.defer(&["nodes", "--group", place.group(), "--timeout", "300ms"]).succeeded();
    assert!(ended.stderr.contains("no node was found within 0.3 s"), "none is an answer: {}", ended.stderr);
    let _a = place.node("a", &[]);
    let args = digits(&place, &["--timeout", "300ms", "--stages", "3"]);
    place.fails(&args, FAILED, &["only 1 of 3 nodes were found within 0.3 s", "hint: "]);
}

#[test]
fn a_node_keeps_its_memory_limit_and_its_engine() {
    let place = Place::new();
    let small = place.node("small", &["--memory", "100kB"]);
    let always = ["run", "--group", place.group(), &vendored(RESNET), &vendored("digits")];
    let check = |args: &[&str], parts: &[&str]| {
        place.fails(&[&always, args].concat(), FAILED, &[&["error: ", "hint: "], parts].concat());
    };
    check(&["--engine", "rten"], &["`small`", "100000 bytes", "too little"]);
    // A larger node beside it does not help when it shall have a stage all the same.
    let _big = place.node("big", &[]);
    check(&["--engine", "rten", "--stages", "2"], &["`small`", "0.1 MB"]);
    small.stop();
    let _enough = place.node("enough", &["--memory", "64MB"]);
    assert_eq!(check_run(&place, &["--stages", "2"]), ["big", "enough"]);
    check(&["--engine", "onnxruntime", "--onnxruntime", "/none"], &["/none"]);
}

#[test]
fn a_model_too_large_for_one_node_still_runs_on_two() {
    let place = Place::new();
    // Weights, activations and queues of the whole model take 25 MB, those of half of it 20.
    let _nodes = ["a", "b"].map(|name| place.node(name, &["--memory", "22MB", "--threads", "1"]));
    let (model, photo) = (vendored("efficientnet_lite0.onnx"), vendored("photos/apple.jpg"));
    let args = ["--group", place.group(), "--stages", "2", "--whole", &model, &photo];
    let ended = place.run(&args);
    assert_eq!(ended.code, Some(FAILED), "{}", ended.stderr);
    for part in ["the whole model on one node", " MB", "hint: the whole model may not fit one node"] {
        assert!(ended.stderr.contains(part), "`{part}` is not in\n{}", ended.stderr);
    }
    // What the chain did is said all the same.
    let (items, report) = ended.results();
    assert_eq!((&items[0]["label"], &report["items"]), (&"Granny Smith apple".into(), &1.into()));
    assert_eq!(report["stages"].as_array().unwrap().len(), 2);
    assert_eq!(report["whole_model"], Value::Null);
}

#[test]
fn cluster_files_that_are_not_right() {
    let place = Place::new();
    let check = |content: &str, parts: &[&str]| {
        let file = place.file("cluster.toml", content);
        let args = digits(&place, &["--cluster", &file]);
        place.fails(&args, FAILED, &[&["the cluster file", &file, "hint: docs/cluster.md"], parts].concat());
    };
    let device = "version = 1\n[[device]]\nname = 'a'\n";
    check(&format!("{device}speeed = 3\n"), &["line 4", "`device.speeed` is no known key"]);
    check(&format!("{device}cores = 'two'\n"), &["line 4", "`device.cores` must be a whole number"]);
    check(&format!("{device}memory = '2 apples'\n"), &["line 4", "`device.memory`"]);
    check("version = 1\n[[device\n", &["line 2", "unclosed array table"]);
    check("version = 1\n", &["device"]);
    check("", &["version"]);
    let missing = place.path("missing.toml");
    let args = digits(&place, &["--cluster", &missing]);
    place.fails(&args, FAILED, &[&missing, "No such file", "hint: "]);
}

#[test]
fn a_damaged_cache_heals() {
    let place = Place::new();
    let _nodes = [place.node("a", &[]), place.node("b", &[])];
    let shipped = || {
        let args = digits(&place, &["--stages", "2"]);
        let (items, report) = place.defer(&args).succeeded().results();
        check_digits(&items, 10);
        report["shipped_weight_bytes"].as_u64().unwrap()
    };
    assert!(shipped() > 1_000_000);
    assert_eq!(shipped(), 0);
    let mut damaged = 0;
    for entry in fs::read_dir(place.cache().join("weights/objects")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        damaged += bytes.len() as u64;
        bytes[0] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    assert_eq!(shipped(), damaged, "what was damaged, and nothing else");
    assert_eq!(shipped(), 0);
}
