//! `defer plan --check`: a plan from a file, judged on the same costs as the best one.

use anyhow::{Result, anyhow};
use pipeline::{Coding, Layout, Prepared};
use plan::{Assignment, Options, Plan, Problem, Rule, Solution};

use super::report;
use super::{LESS, PlanReport};
use crate::failure::Hint;
use crate::output::plan::Compared;
use crate::output::report::size;

/// What to do about a plan that is none for these devices.
const EDIT: &str = "edit the plan, or plan again with -o; `defer plan MODEL --cuts` lists the cuts by name";

/// What to do about a rule that makes no plan.
const RULE: &str = "leave --rule out: the best plan keeps to the memory that devices have";

/// What the plan is worth, beside the best one under these options.
pub(super) fn judged(
    prepared: &Prepared,
    coding: &Coding,
    problem: &mut Problem,
    options: &Options,
    layout: &Layout,
) -> Result<(Plan, PlanReport)> {
    let deals_out = layout.stages.iter().any(|stage| stage.devices.len() > 1);
    let options = Options { replicas: options.replicas || deals_out, ..options.clone() };
    let best = plan::solve(problem, &options).hint(LESS)?;
    let assignment = layout.assignment(prepared, coding, problem).hint(EDIT)?;
    let plan = fitting(problem, &assignment).hint(EDIT)?;
    if let Some(most) = options.max_period.filter(|&most| plan.period > most) {
        return Err(anyhow!(
            "the plan gives {:.1} items/s, less than the {:.1} asked for",
            1.0 / plan.period,
            1.0 / most
        ))
        .hint(EDIT);
    }
    let mut report = beside(prepared, problem, &options, &plan, &best);
    for codec in layout.codecs().filter(|&codec| !prepared.profile.knows(codec)) {
        let name = codec.to_string();
        if !report.unmeasured_codecs.contains(&name) {
            report.unmeasured_codecs.push(name);
        }
    }
    Ok((plan, report))
}

/// The plan of a rule, beside the best one under these options.
pub(super) fn ruled(
    prepared: &Prepared,
    problem: &Problem,
    options: &Options,
    rule: Rule,
) -> Result<(Plan, PlanReport)> {
    let best = plan::solve(problem, options).hint(LESS)?;
    let plan = plan::by_rule(problem, rule).hint(RULE)?;
    let report = beside(prepared, problem, options, &plan, &best);
    Ok((plan, report))
}

/// The report on a plan, held against the best one.
fn beside(
    prepared: &Prepared,
    problem: &Problem,
    options: &Options,
    plan: &Plan,
    best: &Solution,
) -> PlanReport {
    let (objective, mut report) = (options.objective, report::report(prepared, problem, plan));
    report.compared = Some(Compared { objective, worth: plan.worth(objective), best: best.worth });
    report
}

/// The plan, if everything fits into its device's memory; else all that does not.
fn fitting(problem: &Problem, assignment: &Assignment) -> Result<Plan> {
    let mut roomy = problem.clone();
    roomy.devices.iter_mut().for_each(|device| device.memory_bytes = None);
    let plan = plan::predict(&roomy, assignment)?;
    let replicas =
        plan.stages.iter().enumerate().flat_map(|(i, stage)| stage.replicas.iter().map(move |r| (i + 1, r)));
    let shortages: Vec<String> = replicas
        .filter_map(|(stage, replica)| {
            let device = &problem.devices[replica.device];
            let (needed, has) = (replica.memory_bytes, device.memory_bytes?);
            let little = size(needed.checked_sub(has).filter(|&little| little > 0)?);
            let (name, needed, has) = (&device.name, size(needed), size(has));
            Some(format!(
                "device `{name}` would need {needed} for stage {stage} but has {has}, {little} too little"
            ))
        })
        .collect();
    match &shortages[..] {
        [] => Ok(plan),
        shortages => Err(anyhow!("the plan does not fit: {}", shortages.join("; "))),
    }
}
