//! Comparison rules, outlook and fronts against figures worked out by hand.

use super::*;

fn ranges(plan: &Plan) -> Vec<(usize, std::ops::Range<usize>)> {
    plan.stages.iter().map(|stage| (stage.replicas[0].device, stage.units.clone())).collect()
}

#[test]
fn rules_place_as_their_originals_do() {
    let mut problem = chain(&[1.0, 1.0, 1.0, 3.0, 3.0, 3.0], 3);
    for (device, (speed, memory)) in problem.devices.iter_mut().zip([(1.0, 100), (4.0, 200), (1.0, 300)]) {
        (device.speed, device.memory_bytes) = (speed, Some(memory));
    }
    let check = |rule, expected: &[(usize, std::ops::Range<usize>)]| {
        assert_eq!(ranges(&by_rule(&problem, rule).unwrap()), expected, "{rule:?}");
    };
    check(Rule::EqualUnits, &[(0, 0..2), (1, 2..4), (2, 4..6)]);
    check(Rule::MemoryProportional, &[(2, 0..3), (1, 3..5), (0, 5..6)]);
    // Two thirds of 12 s lie next to the cut at 9 s, but two more devices need a unit each.
    check(Rule::SpeedProportional, &[(1, 0..4), (0, 4..5), (2, 5..6)]);
    // No stage above 6 s.
    let balanced = by_rule(&problem, Rule::ComputeBalanced).unwrap();
    let most = balanced.stages.iter().map(|s| s.units.clone().map(|u| problem.units[u].seconds).sum::<f64>());
    assert_eq!(most.fold(0.0, f64::max), 6.0);
    assert_eq!(balanced.stages.iter().map(|s| s.replicas[0].device).collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn rules_cut_where_a_single_tensor_crosses() {
    let mut problem = chain(&[1.0; 8], 2);
    problem.boundaries.iter_mut().enumerate().for_each(|(i, b)| b.tensors = if i % 3 == 0 { 1 } else { 2 });
    for rule in Rule::ALL {
        let end = by_rule(&problem, rule).unwrap().stages[0].units.end;
        assert!(end == 3 || end == 6, "{rule:?} cuts at {end}");
    }
    // With three more devices there are not places enough.
    let mut problem = Problem { boundaries: problem.boundaries, ..chain(&[1.0; 8], 5) };
    problem.codecs = vec![Problem::raw(&problem.boundaries, 5)];
    assert_eq!(by_rule(&problem, Rule::EqualUnits).unwrap().devices(), 5);
}

#[test]
fn a_rule_that_exceeds_memory_says_where() {
    let mut problem = chain(&[1.0; 4], 2);
    problem.devices[1].memory_bytes = Some(15);
    let error = by_rule(&problem, Rule::EqualUnits).unwrap_err();
    assert!(matches!(&error, PlanError::DoesNotFit(shortage) if shortage.device == "d1"), "{error}");
    // More devices than units: the rest are left out.
    assert_eq!(by_rule(&chain(&[1.0; 2], 5), Rule::ComputeBalanced).unwrap().devices(), 2);
}

#[test]
fn the_outlook_says_what_would_help() {
    let mut problem = chain(&[1.0; 4], 3);
    problem.links = Links::uniform(3, link(20.0, 0.0));
    // The links take 5 s an item, a device at most 4.
    let found = outlook(&problem, &Options::default()).unwrap();
    assert_eq!(best(&problem, &Options::default()).period, 5.0);
    assert_eq!((found.another_device, found.twice_bandwidth), (5.0, 2.5));
    problem.links = Links::uniform(3, Link::FREE);
    let found = outlook(&problem, &Options::default()).unwrap();
    assert_eq!((found.another_device, found.twice_bandwidth), (1.0, 2.0));
    // The new one shares the medium of the old ones.
    problem.links = Links::uniform(3, link(100.0, 0.0));
    let links = problem.ends().flat_map(|a| problem.ends().map(move |b| (a, b))).filter(|(a, b)| a != b);
    problem.media.push(Medium { name: "air".into(), links: links.collect() });
    // One stage: 2 hops of 1 s each and 4 s of work; two stages 3 s and 2 s; three 4 s.
    assert_eq!(best(&problem, &Options::default()).period, 3.0);
    let found = outlook(&problem, &Options::default()).unwrap();
    assert_eq!((found.another_device, found.twice_bandwidth), (3.0, 2.0));
}

#[test]
fn fronts_hold_what_nothing_else_beats() {
    let mut problem = chain(&[1.0; 6], 3);
    problem.links = Links::uniform(3, link(f64::INFINITY, 0.5));
    let figures = |axis| {
        let plans = front(&problem, &Options::default(), axis).unwrap();
        plans.iter().map(|plan| (plan.devices(), plan.period, plan.latency)).collect::<Vec<_>>()
    };
    let expected = [(1, 6.0, 7.0), (2, 3.0, 7.5), (3, 2.0, 8.0)];
    assert_eq!(figures(Axis::Devices), expected);
    assert_eq!(figures(Axis::Latency), expected);
    // 0.1 + 0.2 + 0.3 is not 0.1 + (0.2 + 0.3), but no more latency either.
    let free = front(&chain(&[0.1, 0.2, 0.3], 2), &Options::default(), Axis::Latency).unwrap();
    assert_eq!(free.iter().map(|plan| plan.devices()).collect::<Vec<_>>(), [2], "{free:?}");
    // A slow third device is in no plan.
    let mut slow = problem.clone();
    slow.devices[2].speed = 0.01;
    assert_eq!(front(&slow, &Options::default(), Axis::Devices).unwrap().len(), 2);
}
