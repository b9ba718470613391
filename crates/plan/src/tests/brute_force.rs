//! The optimiser against brute force on small random problems of every kind.

use std::collections::BTreeMap;

use super::shape;
use crate::*;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }
}

/// A small problem of every kind: uneven devices and links, cut sizes that rise and fall, memory limits.
/// Small whole numbers, so that there are many ties and arithmetic is exact.
fn random_problem(random: &mut Random) -> Problem {
    let mut problem = random_problem_with_loops(random);
    for device in 0..problem.devices.len() {
        // No chain uses it: what it says must not matter.
        problem.links.set(End::Device(device), End::Device(device), Link { bandwidth: 1e-9, delay: 9.0 });
    }
    problem
}

fn random_problem_with_loops(random: &mut Random) -> Problem {
    let (units, devices) = (1 + random.below(7) as usize, 1 + random.below(4) as usize);
    let limited = random.below(2) == 0;
    let mut problem = Problem {
        units: (0..units)
            .map(|_| Unit {
                seconds: random.below(9) as f64,
                weight_bytes: random.below(20),
                activation_bytes: random.below(10),
            })
            .collect(),
        boundaries: (0..=units).map(|_| Boundary { bytes: random.below(6) * 16, tensors: 1 }).collect(),
        devices: (0..devices)
            .map(|index| Device {
                name: format!("d{index}"),
                speed: random.one_of(&[0.5, 1.0, 1.0, 4.0]),
                memory_bytes: limited.then(|| 10 + random.below(60)),
                seconds_per_byte: random.one_of(&[0.0, 0.0, 1.0 / 64.0]),
            })
            .collect(),
        links: Links::uniform(devices, Link::FREE),
    };
    if random.below(3) == 0 {
        // Devices of one or two kinds on equal links.
        for index in 2..devices {
            problem.devices[index] = problem.devices[index % 2].clone();
        }
        problem.links = Links::uniform(devices, Link { bandwidth: random.one_of(&[4.0, 16.0]), delay: 1.0 });
        return problem;
    }
    let ends: Vec<End> = std::iter::once(End::Dispatcher).chain((0..devices).map(End::Device)).collect();
    for &from in &ends {
        for &to in &ends {
            let bandwidth = random.one_of(&[4.0, 16.0, 64.0, f64::INFINITY]);
            problem.links.set(from, to, Link { bandwidth, delay: random.below(3) as f64 });
        }
    }
    problem
}

/// Every chain over the devices, in the given order or in any, best first by period and latency, for every
/// number of stages.
fn brute_force(problem: &Problem, cuts: Option<&[usize]>, keep_order: bool) -> BTreeMap<usize, (f64, f64)> {
    let (units, devices) = (problem.units.len(), problem.devices.len());
    let mut best = BTreeMap::new();
    for mask in 0..1_u32 << (units - 1) {
        let mut ends: Vec<usize> = (1..units).filter(|b| mask >> (b - 1) & 1 == 1).collect();
        if ends.len() >= devices || cuts.is_some_and(|cuts| cuts != ends) {
            continue;
        }
        ends.push(units);
        for chosen in sequences(devices, ends.len(), keep_order) {
            let starts = std::iter::once(0).chain(ends.iter().copied());
            let assignment: Vec<Assignment> = chosen
                .iter()
                .zip(starts.zip(&ends))
                .map(|(&device, (start, &end))| Assignment { device, units: start..end })
                .collect();
            if let Ok(plan) = predict(problem, &assignment) {
                let score = best.entry(chosen.len()).or_insert((f64::INFINITY, f64::INFINITY));
                if (plan.period, plan.latency) < *score {
                    *score = (plan.period, plan.latency);
                }
            }
        }
    }
    best
}

/// All sequences of so many of the devices, each at most once; rising, if their order is kept.
fn sequences(devices: usize, len: usize, keep_order: bool) -> Vec<Vec<usize>> {
    let mut all = vec![Vec::new()];
    for _ in 0..len {
        let longer = |sequence: &Vec<usize>| {
            let fits = |d: &usize| match keep_order {
                true => sequence.last().is_none_or(|last| last < d),
                false => !sequence.contains(d),
            };
            let append = |d| [&sequence[..], &[d]].concat();
            (0..devices).filter(fits).map(append).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(longer).collect();
    }
    all
}

fn least(all: &BTreeMap<usize, (f64, f64)>) -> Option<(f64, f64, usize)> {
    let scores = all.iter().map(|(&devices, &(period, latency))| (period, latency, devices));
    scores.min_by(|a, b| a.partial_cmp(b).expect("no score is NaN"))
}

fn compare(problem: &Problem, options: &Options, expected: Option<(f64, f64, usize)>, seed: u64) {
    match (solve(problem, options), expected) {
        (Ok(Solution { plan, bound }), Some(expected)) => {
            assert_eq!(
                (plan.period, plan.latency, plan.stages.len()),
                expected,
                "seed {seed} {options:?} {problem:?}"
            );
            assert_eq!(bound, plan.period, "seed {seed}");
            assert_eq!(predict(problem, &shape(&plan)), Ok(plan), "seed {seed}");
        }
        (Err(PlanError::NothingFits(shortage)), None) => {
            assert!(shortage.needed_bytes > shortage.limit_bytes, "seed {seed}");
        }
        (found, expected) => {
            panic!("seed {seed} {options:?}: {found:?}, brute force {expected:?}\n{problem:?}")
        }
    }
}

fn compare_all(keep_order: bool, seeds: u64) {
    let mut with_plan = 0;
    for seed in 0..seeds {
        let random = &mut Random(seed);
        let problem = random_problem(random);
        let all = brute_force(&problem, None, keep_order);
        with_plan += u64::from(!all.is_empty());
        let options = Options { keep_order, ..Options::default() };
        compare(&problem, &options, least(&all), seed);
        for stages in 1..=problem.devices.len().min(problem.units.len()) {
            let expected = all.get(&stages).map(|&(period, latency)| (period, latency, stages));
            compare(&problem, &Options { stages: Some(stages), ..options.clone() }, expected, seed);
        }
        let cuts: Vec<usize> = (1..problem.units.len()).filter(|_| random.below(3) == 0).collect();
        if cuts.len() < problem.devices.len() {
            let expected = least(&brute_force(&problem, Some(&cuts), keep_order));
            compare(&problem, &Options { cuts: Some(cuts), ..options }, expected, seed);
        }
    }
    assert!(
        (seeds / 2..seeds).contains(&with_plan),
        "{with_plan} of {seeds} problems have a plan: both kinds are wanted"
    );
}

#[test]
fn equal_to_brute_force_in_the_given_order() {
    compare_all(true, 2000);
}

#[test]
fn equal_to_brute_force_in_any_order() {
    compare_all(false, 2000);
}

#[test]
fn slack_takes_the_quickest_plan_within_it() {
    let mut bought = 0;
    for seed in 0..500 {
        let problem = random_problem(&mut Random(seed));
        let Ok(exact) = solve(&problem, &Options::default()) else { continue };
        let options = Options { slack: 0.5, ..Options::default() };
        let Solution { plan, bound } = solve(&problem, &options).unwrap();
        assert_eq!(bound, exact.plan.period, "seed {seed}");
        assert!(plan.period <= bound * 1.5 && plan.latency <= exact.plan.latency, "seed {seed}");
        bought += u64::from(plan.latency < exact.plan.latency);
    }
    assert!(bought > 50, "slack made {bought} plans quicker");
}

/// What is used for problems too large for the exact search, on ones that are not.
#[test]
fn the_bound_of_large_problems_is_below_the_optimum_and_their_plans_are_plans() {
    let mut exact = 0;
    for seed in 0..1000 {
        let problem = random_problem(&mut Random(seed));
        let costs = crate::costs::Costs::new(&problem).unwrap();
        let (space, found) = crate::large::improve(&costs, (0..=problem.units.len()).collect(), None);
        match (solve(&problem, &Options::default()), found) {
            (Ok(Solution { plan, .. }), Some((period, bound))) => {
                assert!(
                    bound <= plan.period && plan.period <= period,
                    "seed {seed}: {bound} {plan:?} {period}"
                );
                let own = predict(&problem, &space.quickest(period)).unwrap();
                assert_eq!(own.period, period, "seed {seed}");
                exact += u64::from(period == plan.period);
            }
            (Err(_), None) => {}
            // A chain may need an order that was not tried.
            (Ok(_), None) => {}
            (Err(e), Some(_)) => panic!("seed {seed}: {e}"),
        }
    }
    assert!(exact > 400, "{exact} of 1000 are the best there is");
}

/// The same problem with one device taken away.
fn without(problem: &Problem, left_out: usize) -> Problem {
    let kept: Vec<usize> = (0..problem.devices.len()).filter(|&device| device != left_out).collect();
    let mut fewer = problem.clone();
    fewer.devices.remove(left_out);
    fewer.links = Links::uniform(kept.len(), Link::FREE);
    // Each end with its name in the smaller problem.
    let ends = || {
        let devices = kept.iter().enumerate().map(|(new, &old)| (End::Device(new), End::Device(old)));
        devices.chain([(End::Dispatcher, End::Dispatcher)])
    };
    for (from, old_from) in ends() {
        for (to, old_to) in ends() {
            fewer.links.set(from, to, problem.links.get(old_from, old_to));
        }
    }
    fewer
}

#[test]
fn never_slower_than_with_a_device_less() {
    let mut compared = 0;
    for seed in 0..500 {
        let problem = random_problem(&mut Random(seed));
        for left_out in 0..problem.devices.len() {
            let Ok(fewer) = solve(&without(&problem, left_out), &Options::default()) else { continue };
            let all = solve(&problem, &Options::default()).unwrap();
            assert!(all.plan.period <= fewer.plan.period, "seed {seed}, without device {left_out}");
            compared += 1;
        }
    }
    assert!(compared > 300, "only {compared} problems with a plan");
}
