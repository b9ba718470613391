//! What a plan promises once it is known what its stages take in operation. Called by whoever looked at a running
//! chain; pure.
//!
//! A stage that is timed before it is connected neither receives nor sends, but for bytes that go through its caches. In
//! operation
//! the CPU time of a node's whole process says what an item really takes, and the pace at which the node got CPU time
//! when it was timed says how long that lasts.

use plan::{Plan, Resource};
use wire::control::{StageFigures, StageTime};

/// A plan corrected by what its stages take in operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// By stage, and by node where it has several: seconds that the node is busy with an item of its own: computing,
    /// receiving, sending, and all else it does.
    pub busy_seconds: Vec<f64>,
    /// Seconds between two results.
    pub period: f64,
    /// Seconds from an input to its result when nothing else is in the chain.
    pub latency: f64,
    /// The resource that sets the period.
    pub bottleneck: Resource,
}

impl Operation {
    /// Corrects a plan by the times and the figures of its stages on each of their nodes; `None` when one did nothing or
    /// says nonsense of itself. What share of a stage's items a replica had is seen, not planned.
    ///
    /// # Panics
    /// When times or figures are of another number of stages.
    pub(crate) fn of(plan: &Plan, times: &[StageTime], figures: &[StageFigures]) -> Option<Operation> {
        assert_eq!((times.len(), figures.len()), (plan.devices(), plan.devices()), "other stages");
        let busy = |(time, figures): (&StageTime, &StageFigures)| {
            let seconds = figures.process_cpu_seconds / figures.computed as f64 * time.pace();
            (seconds.is_finite() && seconds > 0.0).then_some(seconds)
        };
        let busy_seconds: Vec<f64> = std::iter::zip(times, figures).map(busy).collect::<Option<_>>()?;
        let replicas: Vec<&plan::Replica> = plan.stages.iter().flat_map(|stage| &stage.replicas).collect();
        let shares = shares(plan, figures);
        let by_replica = || std::iter::zip(&replicas, std::iter::zip(&shares, &busy_seconds));
        // Links and the dispatcher are as predicted.
        let others = plan.loads.iter().filter(|load| !matches!(load.resource, Resource::Device(_)));
        let stages = by_replica().map(|(r, (share, busy))| (Resource::Device(r.device), share * busy));
        let all = others.map(|load| (load.resource, load.seconds)).chain(stages);
        let (bottleneck, period) = all.max_by(|a, b| a.1.total_cmp(&b.1))?;
        let more: f64 = by_replica().map(|(r, (share, busy))| share * (busy - r.busy_seconds)).sum();
        Some(Operation { latency: plan.latency + more, busy_seconds, period, bottleneck })
    }
}

/// Of its stage's items, what each node had. Those computed: an item counts as sent only after it has arrived.
fn shares(plan: &Plan, figures: &[StageFigures]) -> Vec<f64> {
    let mut rest = figures;
    let of_stage = |stage: &plan::Stage| {
        let (own, others) = rest.split_at(stage.replicas.len());
        rest = others;
        let all = own.iter().map(|figures| figures.computed).sum::<u64>() as f64;
        own.iter().map(move |figures| figures.computed as f64 / all).collect::<Vec<f64>>()
    };
    plan.stages.iter().map(of_stage).collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use plan::{Assignment, Boundary, Device, Host, Placement, Problem, Queues, Resources, Unit, predict};

    use super::*;

    /// Two devices with a unit of a second each, and a dispatcher that takes so long for an item.
    fn plan(dispatcher_seconds: f64) -> Plan {
        let unit = || Unit { seconds: 1.0, weight_bytes: 0, activation_bytes: 0 };
        let boundary = || Boundary { bytes: 1, tensors: 1 };
        let mut resources =
            Resources::on_free_links(vec![Device::of_speed("a", 1.0), Device::of_speed("b", 1.0)]);
        resources.dispatcher = Host { seconds_per_byte: dispatcher_seconds / 2.0, ..Host::default() };
        let (units, boundaries) = (vec![unit(), unit()], vec![boundary(), boundary(), boundary()]);
        let problem = Problem::new(units, boundaries, Queues::default(), resources);
        let stage = |i: usize| Placement { devices: vec![i], units: i..i + 1 };
        predict(&problem, &Assignment { stages: vec![stage(0), stage(1)], codecs: vec![0; 3] }).unwrap()
    }

    fn time(mean_seconds: f64, cpu_seconds: f64) -> StageTime {
        StageTime { seconds: mean_seconds, mean_seconds, cpu_seconds, runs: 5, ..StageTime::default() }
    }

    fn did(items: u64, process_cpu_seconds: f64) -> StageFigures {
        StageFigures { items, computed: items, process_cpu_seconds, ..StageFigures::default() }
    }

    #[test]
    fn cpu_time_at_the_measured_pace_is_what_a_stage_takes() {
        // Both timed at a second for an item; the second one at a quarter of a core.
        let times = [time(1.0, 1.0), time(1.0, 0.25)];
        let figures = [did(10, 11.0), did(10, 3.0)];
        let found = Operation::of(&plan(0.5), &times, &figures).unwrap();
        assert_eq!(found.busy_seconds, [1.1, 1.2]);
        assert_eq!((found.period, found.bottleneck), (1.2, Resource::Device(1)));
        assert!((found.latency - (0.5 + 1.1 + 1.2)).abs() < 1e-9, "{}", found.latency);
        let found = Operation::of(&plan(3.0), &times, &figures).unwrap();
        assert_eq!((found.period, found.bottleneck), (3.0, Resource::Dispatcher));
    }

    #[test]
    fn a_replica_counts_by_the_items_that_it_had() {
        let mut replicated = plan(0.0);
        let mut first = replicated.stages.remove(0);
        first.replicas.push(replicated.stages[0].replicas[0].clone());
        let replicated = Plan { stages: vec![first], loads: vec![], ..replicated };
        // A second an item on the first, two on the second, which had a quarter of them.
        let found =
            Operation::of(&replicated, &[time(1.0, 1.0); 2], &[did(30, 30.0), did(10, 20.0)]).unwrap();
        assert_eq!((found.busy_seconds, found.period), (vec![1.0, 2.0], 0.75));
        assert_eq!(found.bottleneck, Resource::Device(0));
    }

    #[test]
    fn a_stage_that_did_nothing_says_nothing() {
        let times = [time(1.0, 1.0); 2];
        let nothing_computed = StageFigures { computed: 0, ..did(5, 1.0) };
        for wrong in [did(0, 0.0), did(0, 1.0), did(5, 0.0), did(5, f64::NAN), nothing_computed] {
            assert_eq!(Operation::of(&plan(0.0), &times, &[did(1, 1.0), wrong]), None);
        }
    }
}
