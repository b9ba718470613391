//! Plans to show, for the tests of how they look.

use plan::Objective;

use super::{
    DeviceRow, HopRow, LinkRow, LoadRow, OutlookRow, PlanReport, Proof, RuleProblem, RuleRow, StageRow,
};

/// So many stages on a device each; the second, where there is one, is the bottleneck.
pub(crate) fn chain(stages: usize) -> PlanReport {
    let names: Vec<String> = (1..=stages).map(|i| format!("stage-{i}")).collect();
    let limit = 1.min(stages - 1);
    let stage = |i: usize| StageRow {
        stage: i + 1,
        operators: 10 + i,
        weight_bytes: 1_500_000,
        cut: (i + 1 < stages).then(|| format!("relu_{}", i + 1)),
        devices: vec![device(
            &names[i],
            1.0,
            if i == limit { 1.0 } else { 0.3 + 0.6 * (i % 4) as f64 / 4.0 },
        )],
    };
    let place = |i: usize| if i == 0 || i > stages { "dispatcher".to_owned() } else { names[i - 1].clone() };
    let hop = |i: usize| HopRow {
        codec: if i == 1 { "lz4".to_owned() } else { "raw".to_owned() },
        exact: true,
        bytes: 602_112 / (i as u64 + 1),
        tensors: vec![format!("relu_{i}")],
        links: vec![link(place(i), place(i + 1), 1.0, 0.9 / (i + 1) as f64)],
    };
    let mut report = report((0..stages).map(stage).collect(), (0..=stages).map(hop).collect());
    report.stages[limit].devices[0].bottleneck = true;
    report.bottleneck = format!("device `{}`", names[limit]);
    report
}

/// The whole model on each of so many devices.
pub(crate) fn balancing(devices: usize) -> PlanReport {
    let names: Vec<String> = (1..=devices).map(|i| format!("replica-{i}")).collect();
    let share = 1.0 / devices as f64;
    let devices = names.iter().map(|name| device(name, share, 0.9)).collect();
    let stage = StageRow { stage: 1, operators: 50, weight_bytes: 25_000_000, cut: None, devices };
    let hop = |links: Vec<LinkRow>| HopRow {
        codec: "raw".to_owned(),
        exact: true,
        bytes: 602_112,
        tensors: vec!["x".to_owned()],
        links,
    };
    let dispatcher = || "dispatcher".to_owned();
    let there = names.iter().map(|name| link(dispatcher(), name.clone(), share, 0.1)).collect();
    let back = names.iter().map(|name| link(name.clone(), dispatcher(), share, 0.01)).collect();
    PlanReport { load_balancing: true, ..report(vec![stage], vec![hop(there), hop(back)]) }
}

/// Names that would break out of a table, a terminal or a document.
pub(crate) fn hostile() -> PlanReport {
    let mut report = chain(2);
    let name = "\x1b[2J</text><script>alert('\"&')</script>\u{0}".to_owned();
    report.model = name.clone();
    report.engine = name.clone();
    report.bottleneck = format!("device `{name}`");
    report.stages[0].devices[0].device = name.clone();
    report.stages[0].cut = Some(name.repeat(5));
    report.hops[1].codec = name.clone();
    report.hops[1].tensors = vec![name.clone(), name.clone()];
    report.hops[1].links[0].from = name.clone();
    report.other_loads[0].resource = "a".repeat(300);
    report.rules[1].problem = Some(RuleProblem { what: "does not fit", reason: name });
    report
}

fn report(stages: Vec<StageRow>, hops: Vec<HopRow>) -> PlanReport {
    let objective = Objective::Throughput;
    let rule = |rule, factor, problem: Option<&str>| RuleRow {
        rule,
        objective,
        factor,
        problem: problem.map(|reason| RuleProblem { what: "does not fit", reason: reason.to_owned() }),
    };
    let load = |resource: &str, busy| LoadRow {
        resource: resource.to_owned(),
        busy_ms: 8.0 * busy,
        busy,
        bottleneck: false,
    };
    PlanReport {
        model: "resnet50".to_owned(),
        engine: "rten 0.27".to_owned(),
        stages,
        hops,
        dispatcher: load("the dispatcher", 0.12),
        other_loads: vec![load("the medium `wifi`", 0.7)],
        period_ms: 8.0,
        items_per_s: 125.0,
        latency_ms: 30.0,
        joules_per_item: None,
        whole_ms: 32.0,
        bottleneck: "device `x`".to_owned(),
        load_balancing: false,
        proof: Some(Proof { objective, worth: 8e-3, bound: 7.8e-3, gap: 8.0 / 7.8 - 1.0 }),
        period_given_up: None,
        compared: None,
        sizes_of_own_inputs: Some(false),
        unmeasured_codecs: Vec::new(),
        rules: vec![
            rule("equal unit count", Some(1.29), None),
            rule("memory-proportional", None, Some("device `x` would need 3 bytes for unit 0 but has 2")),
        ],
        outlook: Some(OutlookRow { objective, another_device_gain: 1.12, twice_bandwidth_gain: 1.0 }),
        front: None,
        gone_nodes: Vec::new(),
    }
}

fn device(name: &str, share: f64, busy: f64) -> DeviceRow {
    let busy_ms = 8.0 * busy / share;
    DeviceRow {
        device: name.to_owned(),
        share,
        compute_ms: 0.95 * busy_ms,
        busy_ms,
        busy,
        memory_bytes: 12_345_678,
        memory_limit_bytes: None,
        bottleneck: false,
    }
}

fn link(from: String, to: String, share: f64, busy: f64) -> LinkRow {
    LinkRow { from, to, share, busy_ms: 8.0 * busy / share, delay_ms: 1.0, busy, bottleneck: false }
}
