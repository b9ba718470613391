//! What a run says of plans that it was not allowed to make: with several nodes to a stage.

use pipeline::{Costs, Options, Pipeline, Prepared, SplitOptions};

use crate::output::report::WithReplicas;

/// How much faster a plan has to be to be worth a word.
const WORTHWHILE: f64 = 1.1;

/// Work to spend on it, in seconds of one core: nobody asked for that plan.
const BUDGET: f64 = 1.0;

/// The best plan with replicas, where it promises clearly more than the chain that runs.
pub(super) fn promise(
    prepared: &Prepared,
    costs: &Costs,
    options: &Options,
    chain: &Pipeline,
) -> Option<WithReplicas> {
    let problem = prepared.problem(costs.resources(), &costs.coding(options.accuracy));
    let split = SplitOptions { replicas: true, budget: Some(BUDGET), ..SplitOptions::default() };
    let plan = prepared.plan(&problem, &split).ok()?;
    let found = WithReplicas {
        items_per_s: 1.0 / plan.period,
        nodes: plan.stages.iter().map(|stage| stage.replicas.len()).collect(),
    };
    (chain.plan().period > WORTHWHILE * plan.period).then_some(found)
}
