//! From what the planner found to what is shown of it: indices become names, seconds milliseconds.

use pipeline::{Prepared, fidelity_on};
use plan::{
    Axis, End, Load, Objective, Options, Outlook, Path, Plan, PlanError, Problem, Resource, Rule, Solution,
};

use wire::{Codec, Fidelity};

use crate::output::plan::{
    DeviceRow, Front, FrontRow, HopRow, LinkRow, LoadRow, OutlookRow, PlanReport, Proof, RuleProblem,
    RuleRow, StageRow,
};

/// A plan of this model on these devices; what else there is to say is added by those who know.
pub(super) fn report(prepared: &Prepared, problem: &Problem, plan: &Plan) -> PlanReport {
    let names = Names(problem);
    let period = plan.period.max(f64::MIN_POSITIVE);
    PlanReport {
        model: prepared.name.clone(),
        engine: prepared.profile.engine.clone(),
        stages: (0..plan.stages.len()).map(|i| stage(prepared, problem, plan, i)).collect(),
        hops: plan.hops.iter().map(|hop| hop_row(prepared, &names, plan, hop)).collect(),
        dispatcher: load_row(&names, plan, Resource::Dispatcher),
        other_loads: plan.loads.iter().filter_map(|load| other(&names, plan, load)).collect(),
        period_ms: plan.period * 1e3,
        items_per_s: 1.0 / period,
        latency_ms: plan.latency * 1e3,
        joules_per_item: knows_power(problem).then_some(plan.joules),
        whole_ms: prepared.profile.total_seconds() * 1e3,
        bottleneck: names.resource(plan.bottleneck),
        load_balancing: plan.is_load_balancing(),
        proof: None,
        period_given_up: None,
        compared: None,
        sizes_of_own_inputs: prepared.profile.sizes_of_own_inputs().filter(|_| encodes(problem, plan)),
        unmeasured_codecs: Vec::new(),
        rules: Vec::new(),
        outlook: None,
        front: None,
        gone_nodes: Vec::new(),
    }
}

/// Whether any link changes what travels on it.
fn encodes(problem: &Problem, plan: &Plan) -> bool {
    plan.hops.iter().any(|hop| problem.codecs[hop.codec].name != Codec::RAW.to_string())
}

/// Whether it is known of any machine or link what it takes.
pub(super) fn knows_power(problem: &Problem) -> bool {
    let hosts = problem.devices.iter().map(|device| &device.host).chain([&problem.dispatcher]);
    let takes = hosts.map(|host| host.idle_watts + host.busy_watts).sum::<f64>() > 0.0;
    let pairs = problem.ends().flat_map(|from| problem.ends().map(move |to| (from, to)));
    takes || pairs.into_iter().any(|(from, to)| problem.links.get(from, to).joules_per_byte > 0.0)
}

pub(super) fn proof(solution: &Solution, objective: Objective) -> Proof {
    Proof { objective, worth: solution.worth, bound: solution.bound, gap: solution.gap() }
}

/// What a plan gave up for less latency, where that is worth a word.
pub(super) fn period_given_up(solution: &Solution) -> Option<f64> {
    const LEAST: f64 = 5e-4;
    Some(solution.given_up).filter(|&share| share >= LEAST)
}

/// What plans by the rules of other systems are worth.
pub(super) fn rules(problem: &Problem, options: &Options, solution: &Solution) -> Vec<RuleRow> {
    let objective = options.objective;
    let row = |rule: Rule| {
        let made = plan::by_rule(problem, rule).and_then(|plan| fast_enough(plan, options));
        let (factor, problem) = match made {
            Ok(plan) => (Some(plan.worth(objective) / solution.worth), None),
            Err(error) => (None, Some(problem_of(&error))),
        };
        RuleRow { rule: rule.name(), objective, factor, problem }
    };
    // On a single device every rule does the same.
    if problem.devices.len() > 1 { Rule::ALL.map(row).into() } else { Vec::new() }
}

fn problem_of(error: &PlanError) -> RuleProblem {
    let what = match error {
        PlanError::DoesNotFit(_) => "does not fit",
        PlanError::TooSlow { .. } => "is too slow",
        _ => "is impossible",
    };
    RuleProblem { what, reason: error.to_string() }
}

fn fast_enough(plan: Plan, options: &Options) -> Result<Plan, PlanError> {
    match options.max_period {
        Some(wanted) if plan.period > wanted => Err(PlanError::TooSlow { wanted, best: plan.period }),
        _ => Ok(plan),
    }
}

pub(super) fn outlook(outlook: Outlook, objective: Objective, solution: &Solution) -> OutlookRow {
    // More hardware never harms; a plan within the error of measurement may look as if.
    let gain = |worth: f64| (solution.worth / worth).max(1.0);
    OutlookRow {
        objective,
        another_device_gain: gain(outlook.another_device),
        twice_bandwidth_gain: gain(outlook.twice_bandwidth),
    }
}

pub(super) fn front(problem: &Problem, axis: Axis, plans: &[Plan]) -> Front {
    let power = knows_power(problem);
    let row = |plan: &Plan| FrontRow {
        devices: plan.devices(),
        stages: plan.stages.len(),
        items_per_s: 1.0 / plan.period.max(f64::MIN_POSITIVE),
        period_ms: plan.period * 1e3,
        latency_ms: plan.latency * 1e3,
        joules_per_item: power.then_some(plan.joules),
    };
    let against = match axis {
        Axis::Latency => "latency",
        Axis::Devices => "devices",
    };
    Front { against, plans: plans.iter().map(row).collect() }
}

fn stage(prepared: &Prepared, problem: &Problem, plan: &Plan, index: usize) -> StageRow {
    let profile = &prepared.profile;
    let stage = &plan.stages[index];
    let device = |replica: &plan::Replica| {
        let known = &problem.devices[replica.device];
        let resource = Resource::Device(replica.device);
        DeviceRow {
            device: known.name.clone(),
            share: replica.share,
            compute_ms: replica.compute_seconds * 1e3,
            busy_ms: replica.busy_seconds * 1e3,
            busy: busy(plan, resource),
            memory_bytes: replica.memory_bytes,
            memory_limit_bytes: known.memory_bytes,
            bottleneck: plan.bottleneck == resource,
        }
    };
    StageRow {
        stage: index + 1,
        operators: prepared.positions(stage).len(),
        weight_bytes: profile.units[stage.units.clone()].iter().map(|unit| unit.weight_bytes).sum(),
        cut: profile.cuts.get(stage.units.end - 1).map(|cut| cut.name.clone()),
        devices: stage.replicas.iter().map(device).collect(),
    }
}

fn hop_row(prepared: &Prepared, names: &Names<'_>, plan: &Plan, hop: &plan::Hop) -> HopRow {
    let link = |path: &Path| {
        let resource = Resource::Link { from: path.from, to: path.to };
        LinkRow {
            from: names.end(path.from),
            to: names.end(path.to),
            share: path.share,
            busy_ms: path.seconds * 1e3,
            delay_ms: path.delay_seconds * 1e3,
            busy: busy(plan, resource),
            bottleneck: plan.bottleneck == resource,
        }
    };
    let (name, tensors) = (&names.0.codecs[hop.codec].name, &prepared.profile.frames[hop.boundary]);
    HopRow {
        exact: name.parse().is_ok_and(|codec| fidelity_on(tensors, codec) == Fidelity::Exact),
        codec: name.clone(),
        bytes: hop.bytes,
        tensors: tensors.iter().map(|t| t.name.clone()).collect(),
        links: hop.links.iter().map(link).collect(),
    }
}

/// What is neither shown with its device nor with its hop.
fn other(names: &Names<'_>, plan: &Plan, load: &Load) -> Option<LoadRow> {
    let shown = matches!(load.resource, Resource::Device(_) | Resource::Dispatcher | Resource::Link { .. });
    let idle = load.seconds == 0.0 && plan.bottleneck != load.resource;
    (!shown && !idle).then(|| load_row(names, plan, load.resource))
}

fn load_row(names: &Names<'_>, plan: &Plan, resource: Resource) -> LoadRow {
    LoadRow {
        resource: names.resource(resource),
        busy_ms: seconds(plan, resource) * 1e3,
        busy: busy(plan, resource),
        bottleneck: plan.bottleneck == resource,
    }
}

/// The share of the period that a resource is busy.
fn busy(plan: &Plan, resource: Resource) -> f64 {
    if plan.period > 0.0 { seconds(plan, resource) / plan.period } else { 0.0 }
}

/// Seconds that a resource is busy per item of the pipeline.
fn seconds(plan: &Plan, resource: Resource) -> f64 {
    plan.loads.iter().find(|load| load.resource == resource).map_or(0.0, |load| load.seconds)
}

/// What devices, ends and resources are called.
struct Names<'a>(&'a Problem);

impl Names<'_> {
    fn end(&self, end: End) -> String {
        match end {
            End::Dispatcher => "dispatcher".to_owned(),
            End::Device(device) => self.0.devices[device].name.clone(),
        }
    }

    fn quoted(&self, end: End) -> String {
        match end {
            End::Dispatcher => "the dispatcher".to_owned(),
            End::Device(device) => format!("`{}`", self.0.devices[device].name),
        }
    }

    fn resource(&self, resource: Resource) -> String {
        match resource {
            Resource::Device(device) => format!("device {}", self.quoted(End::Device(device))),
            Resource::Dispatcher => "the dispatcher".to_owned(),
            Resource::Link { from, to } => {
                format!("the link from {} to {}", self.quoted(from), self.quoted(to))
            }
            Resource::Sending(end) => format!("what {} sends", self.quoted(end)),
            Resource::Receiving(end) => format!("what {} receives", self.quoted(end)),
            Resource::Medium(medium) => format!("the medium `{}`", self.0.media[medium].name),
        }
    }
}
