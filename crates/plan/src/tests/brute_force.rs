//! The optimiser against brute force on small random problems of every kind.

use fastrand::Rng;

use super::shape;
use crate::costs::Costs;
use crate::predict::evaluate;
use crate::*;

/// What is random in a problem besides times, sizes, speeds and links.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Features {
    memory: bool,
    replicas: bool,
    codecs: bool,
    media: bool,
    /// Dispatcher's and devices' own bandwidth, costs per frame and byte, times of their own, power.
    details: bool,
}

const PLAIN: Features =
    Features { memory: false, replicas: false, codecs: false, media: false, details: false };

/// Every kind of problem, by name.
const KINDS: [(&str, Features); 8] = [
    ("uneven links and cuts", PLAIN),
    ("memory", Features { memory: true, ..PLAIN }),
    ("replicas", Features { replicas: true, ..PLAIN }),
    ("codecs", Features { codecs: true, ..PLAIN }),
    ("shared media", Features { media: true, ..PLAIN }),
    ("details", Features { details: true, ..PLAIN }),
    ("shared media and codecs", Features { codecs: true, media: true, ..PLAIN }),
    ("all", Features { memory: true, replicas: true, codecs: true, media: true, details: true }),
];

fn one_of<T: Copy>(random: &mut Rng, values: &[T]) -> T {
    values[random.usize(..values.len())]
}

/// Small whole numbers, so that there are many ties and arithmetic is exact wherever there are no shares.
fn random_problem(features: Features, random: &mut Rng) -> Problem {
    let large = features.replicas || features.codecs;
    let (units, devices) = (random.usize(1..if large { 6 } else { 8 }), random.usize(1..5));
    let boundaries: Vec<Boundary> =
        (0..=units).map(|_| Boundary { bytes: random.u64(..6) * 16, tensors: 1 }).collect();
    let mut problem = Problem {
        units: (0..units)
            .map(|_| Unit {
                seconds: random.u32(..9).into(),
                weight_bytes: random.u64(..20),
                activation_bytes: random.u64(..10),
            })
            .collect(),
        codecs: vec![Problem::raw(&boundaries, devices)],
        boundaries,
        dispatcher: Host::default(),
        devices: (0..devices)
            .map(|i| Device::of_speed(format!("d{i}"), one_of(random, &[0.5, 1.0, 1.0, 4.0])))
            .collect(),
        links: Links::uniform(devices, Link::FREE),
        media: Vec::new(),
        queues: Queues::default(),
    };
    // Devices of one or two kinds on equal links, or all different.
    let alike = random.u8(..3) == 0;
    for (from, to) in End::pairs(problem.devices.len()) {
        let bandwidth = one_of(random, &[4.0, 16.0, 64.0, f64::INFINITY]);
        let link = Link { bandwidth, delay: random.u32(..3).into(), ..Link::FREE };
        let equal = Link { bandwidth: 16.0, delay: 1.0, ..Link::FREE };
        problem.links.set(from, to, if alike { equal } else { link });
    }
    add_features(&mut problem, features, random);
    if alike {
        for index in 2..devices {
            problem.devices[index] = problem.devices[index % 2].clone();
            problem.codecs.iter_mut().for_each(|codec| codec.devices[index] = codec.devices[index % 2]);
        }
    }
    for device in 0..devices {
        // No chain uses it: what it says must not matter.
        let absurd = Link { bandwidth: 1e-9, delay: 9.0, ..Link::FREE };
        problem.links.set(End::Device(device), End::Device(device), absurd);
    }
    problem
}

fn add_features(problem: &mut Problem, features: Features, random: &mut Rng) {
    if features.memory {
        problem.devices.iter_mut().for_each(|d| d.memory_bytes = Some(random.u64(10..70)));
        problem.devices.iter_mut().for_each(|d| d.engine_bytes = random.u64(..5));
    }
    if features.codecs {
        add_codecs(problem, random);
    }
    if features.codecs && features.memory {
        // A copy of what crosses may take more than a device has had so far.
        problem.codecs.iter_mut().skip(1).for_each(|codec| codec.copies = random.u64(..2));
        let mut more = |bytes: Option<u64>| bytes.map(|bytes| bytes + random.u64(..160));
        problem.devices.iter_mut().map(|d| &mut d.memory_bytes).for_each(|bytes| *bytes = more(*bytes));
    }
    if features.media {
        for _ in 0..random.usize(1..3) {
            let links = End::pairs(problem.devices.len()).filter(|_| random.u8(..3) > 0).collect();
            problem.media.push(Medium { name: "air".to_owned(), links });
        }
    }
    if features.details {
        add_details(problem, random);
    }
}

/// One codec that halves the bytes and one that quarters them, at random costs; sometimes neither is cheaper than the
/// other.
fn add_codecs(problem: &mut Problem, random: &mut Rng) {
    for (name, share) in [("half", 2), ("quarter", 4)] {
        let mut cost = || CodecCost {
            encode_seconds: one_of(random, &[0.0, 1.0, 4.0, 8.0]) / 64.0,
            decode_seconds: one_of(random, &[0.0, 1.0, 4.0]) / 64.0,
        };
        problem.codecs.push(Codec {
            name: name.to_owned(),
            bytes: problem.boundaries.iter().map(|boundary| boundary.bytes / share).collect(),
            dispatcher: cost(),
            devices: problem.devices.iter().map(|_| cost()).collect(),
            copies: 0,
        });
    }
}

fn add_details(problem: &mut Problem, random: &mut Rng) {
    let units = problem.units.len();
    let mut host = || Host {
        bandwidth: one_of(random, &[16.0, 64.0, f64::INFINITY]),
        seconds_per_byte: one_of(random, &[0.0, 0.0, 1.0 / 64.0]),
        seconds_per_frame: one_of(random, &[0.0, 0.0, 0.25]),
        seconds_per_tensor_byte: one_of(random, &[0.0, 0.0, 1.0 / 64.0]),
        idle_watts: one_of(random, &[0.0, 1.0, 2.0]),
        busy_watts: one_of(random, &[2.0, 4.0, 8.0]),
    };
    problem.dispatcher = host();
    problem.devices.iter_mut().for_each(|device| device.host = host());
    for device in &mut problem.devices {
        if random.bool() {
            device.unit_seconds = Some((0..units).map(|_| random.u32(..9).into()).collect());
        }
    }
    for (from, to) in End::pairs(problem.devices.len()) {
        let link = problem.links.get(from, to);
        let (frame_seconds, joules_per_byte) = (one_of(random, &[0.0, 0.5]), one_of(random, &[0.0, 0.125]));
        problem.links.set(from, to, Link { frame_seconds, joules_per_byte, ..link });
    }
    problem.queues = Queues { inputs: random.u64(..2), outputs: random.u64(..2) };
}

/// Every plan there is.
fn all_plans(problem: &Problem, keep_order: bool, replicas: bool) -> Vec<Plan> {
    let (units, devices, codecs) = (problem.units.len(), problem.devices.len(), problem.codecs.len());
    let costs = Costs::new(problem).unwrap();
    let mut plans = Vec::new();
    for mask in 0..1_u32 << (units - 1) {
        let mut ends: Vec<usize> = (1..units).filter(|b| mask >> (b - 1) & 1 == 1).collect();
        ends.push(units);
        for teams in sequences(devices, ends.len(), keep_order, replicas) {
            let starts = std::iter::once(0).chain(ends.iter().copied());
            let ranges = starts.zip(&ends).map(|(start, &end)| start..end);
            let stages: Vec<Placement> =
                teams.into_iter().zip(ranges).map(|(devices, units)| Placement { devices, units }).collect();
            for number in 0..codecs.pow(stages.len() as u32 + 1) {
                let digits = std::iter::successors(Some(number), |n| Some(n / codecs)).map(|n| n % codecs);
                let codecs = digits.take(stages.len() + 1).collect();
                plans.extend(evaluate(&costs, &Assignment { stages: stages.clone(), codecs }));
            }
        }
    }
    plans
}

/// All sequences of so many teams, each device in one at most; of one device each without replicas, and rising if
/// their order is kept.
fn sequences(devices: usize, len: usize, keep_order: bool, replicas: bool) -> Vec<Vec<Vec<usize>>> {
    let teams: Vec<Vec<usize>> = (1..1_u32 << devices)
        .filter(|mask| replicas || mask.count_ones() == 1)
        .map(|mask| (0..devices).filter(|d| mask >> d & 1 == 1).collect())
        .collect();
    let mut all = vec![Vec::new()];
    for _ in 0..len {
        let longer = |sequence: &Vec<Vec<usize>>| {
            let fits = |team: &&Vec<usize>| match keep_order {
                true => sequence.last().is_none_or(|last| last[0] < team[0]),
                false => sequence.iter().flatten().all(|device| !team.contains(device)),
            };
            let append = |team: &Vec<usize>| [&sequence[..], std::slice::from_ref(team)].concat();
            teams.iter().filter(fits).map(append).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(longer).collect();
    }
    all
}

/// Equal but for the order of additions.
fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

/// The plan that brute force prefers for an objective.
fn best_of<'p>(plans: impl Iterator<Item = &'p Plan>, objective: Objective) -> Option<&'p Plan> {
    let key = |plan: &Plan| match objective {
        Objective::Throughput => [plan.period, plan.latency, plan.devices() as f64],
        Objective::Latency => [plan.latency, plan.devices() as f64, 0.0],
        Objective::Energy => [plan.joules, 0.0, 0.0],
        Objective::Devices => [plan.devices() as f64, plan.period, plan.latency],
    };
    plans.min_by(|a, b| key(a).partial_cmp(&key(b)).expect("no figure is NaN"))
}

fn compare(problem: &Problem, options: &Options, plans: &[Plan], context: &str) {
    let wanted = |plan: &&Plan| {
        options.stages.is_none_or(|stages| plan.stages.len() == stages)
            && options.max_devices.is_none_or(|most| plan.devices() <= most)
            && options.max_period.is_none_or(|most| plan.period <= most)
            && options.cuts.as_ref().is_none_or(|cuts| {
                let ends: Vec<usize> = plan.stages.iter().map(|stage| stage.units.end).collect();
                ends[..ends.len() - 1] == cuts[..]
            })
    };
    let expected = best_of(plans.iter().filter(wanted), options.objective);
    match (solve(problem, options), expected) {
        (Ok(Solution { plan, worth, bound, .. }), Some(expected)) => {
            let check =
                |holds: bool| assert!(holds, "{context} {options:?}\n{plan:?}\n{expected:?}\n{problem:?}");
            check(wanted(&&plan));
            check(predict(problem, &shape(&plan)).as_ref() == Ok(&plan));
            match options.objective {
                Objective::Throughput => {
                    check(plan.period == expected.period && bound == worth && worth == plan.period);
                    check(near(plan.latency, expected.latency));
                }
                Objective::Latency => {
                    check(
                        near(plan.latency, expected.latency)
                            && near(worth, plan.latency)
                            && near(bound, worth),
                    );
                }
                Objective::Energy => {
                    check(plan.joules <= expected.joules * (1.0 + 2e-6) && worth == plan.joules);
                    check(bound <= expected.joules * (1.0 + 1e-9) && bound >= expected.joules * (1.0 - 2e-6));
                }
                Objective::Devices => {
                    check(plan.devices() == expected.devices() && plan.period == expected.period);
                    check(worth == bound && worth == plan.devices() as f64);
                }
            }
        }
        (Err(PlanError::NothingFits(shortage)), None) => {
            assert!(shortage.needed_bytes > shortage.limit_bytes, "{context}");
        }
        (Err(PlanError::TooSlow { wanted, best }), None) => assert!(best > wanted, "{context}"),
        (Err(PlanError::TooFewDevices { .. }), None) => assert!(options.stages.is_some(), "{context}"),
        (found, expected) => {
            panic!("{context} {options:?}: {found:?}\nbrute force {expected:?}\n{problem:?}")
        }
    }
}

/// Asks for everything that can be asked of a problem.
fn compare_all(features: Features, keep_order: bool, seed: u64) -> bool {
    let random = &mut Rng::with_seed(seed);
    let problem = random_problem(features, random);
    let replicas = features.replicas && !keep_order;
    let plans = all_plans(&problem, keep_order, replicas);
    let context = format!("seed {seed} {features:?} keep_order {keep_order}");
    let options = Options { keep_order, replicas, ..Options::default() };
    compare(&problem, &options, &plans, &context);
    let stages = random.usize(1..=problem.devices.len().min(problem.units.len()));
    compare(&problem, &Options { stages: Some(stages), ..options.clone() }, &plans, &context);
    let max_devices = Some(random.usize(1..=problem.devices.len()));
    compare(&problem, &Options { max_devices, ..options.clone() }, &plans, &context);
    let cuts: Vec<usize> = (1..problem.units.len()).filter(|_| random.u8(..3) == 0).collect();
    if cuts.len() < problem.devices.len() {
        compare(&problem, &Options { cuts: Some(cuts), ..options.clone() }, &plans, &context);
    }
    let shortest = best_of(plans.iter(), Objective::Throughput).map_or(1.0, |plan| plan.period);
    let max_period = one_of(random, &[None, Some(shortest), Some(1.5 * shortest), Some(0.9 * shortest)]);
    for objective in [Objective::Latency, Objective::Energy, Objective::Devices] {
        compare(&problem, &Options { objective, max_period, ..options.clone() }, &plans, &context);
    }
    !plans.is_empty()
}

fn compare_kind(features: Features) {
    const SEEDS: u64 = 1000;
    let with_plan = (0..SEEDS).filter(|&seed| {
        // Every fourth in the given order.
        compare_all(features, seed % 4 == 0, seed)
    });
    let with_plan = with_plan.count() as u64;
    let (low, high) = if features.memory { (SEEDS / 3, SEEDS - 50) } else { (SEEDS, SEEDS) };
    assert!((low..=high).contains(&with_plan), "{with_plan} of {SEEDS} {features:?} have a plan");
}

#[test]
fn equal_to_brute_force_with_uneven_links_and_cuts() {
    compare_kind(KINDS[0].1);
}

#[test]
fn equal_to_brute_force_with_memory_limits() {
    compare_kind(KINDS[1].1);
}

#[test]
fn equal_to_brute_force_with_replicas() {
    compare_kind(KINDS[2].1);
}

#[test]
fn equal_to_brute_force_with_codecs() {
    compare_kind(KINDS[3].1);
}

#[test]
fn equal_to_brute_force_with_shared_media() {
    compare_kind(KINDS[4].1);
}

#[test]
fn equal_to_brute_force_in_every_detail() {
    compare_kind(KINDS[5].1);
}

#[test]
fn equal_to_brute_force_with_shared_media_and_codecs() {
    compare_kind(KINDS[6].1);
}

#[test]
fn equal_to_brute_force_with_all_of_it() {
    compare_kind(KINDS[7].1);
}

#[test]
fn slack_takes_the_quickest_plan_within_it() {
    let mut bought = 0;
    for seed in 0..500 {
        let problem = random_problem(KINDS[seed as usize % 2].1, &mut Rng::with_seed(seed));
        let Ok(exact) = solve(&problem, &Options::default()) else { continue };
        let options = Options { slack: 0.5, ..Options::default() };
        let Solution { plan, bound, given_up, .. } = solve(&problem, &options).unwrap();
        assert_eq!(bound, exact.plan.period, "seed {seed}");
        // Of no time at all nothing is given up.
        let longer = (plan.period / bound - 1.0).max(0.0);
        assert!((given_up - longer).abs() < 1e-9, "seed {seed}: {given_up}, {longer}");
        assert!(plan.period <= bound * 1.5 && plan.latency <= exact.plan.latency, "seed {seed}");
        bought += u64::from(plan.latency < exact.plan.latency);
    }
    assert!(bought > 50, "slack made {bought} plans quicker");
}

/// What is used for problems too large for the exact search, on ones that are not.
#[test]
fn the_bound_of_large_problems_is_below_the_optimum_and_their_plans_are_plans() {
    for (name, features) in KINDS {
        let mut exact = 0;
        for seed in 0..300 {
            let problem = random_problem(features, &mut Rng::with_seed(seed));
            let all = Options { replicas: features.replicas, ..Options::default() };
            for objective in
                [Objective::Throughput, Objective::Latency, Objective::Energy, Objective::Devices]
            {
                let options = Options { objective, ..all.clone() };
                // Without a budget nothing is tried in full.
                let large = solve(&problem, &Options { budget: 0.0, ..options.clone() });
                match (solve(&problem, &options), large) {
                    (Ok(best), Ok(large)) => {
                        assert!(
                            large.bound <= best.worth * (1.0 + 1e-9)
                                && best.worth <= large.worth * (1.0 + 2e-6),
                            "{name} {objective:?} seed {seed}: {best:?} {large:?}\n{problem:?}"
                        );
                        assert_eq!(predict(&problem, &shape(&large.plan)), Ok(large.plan), "seed {seed}");
                        exact += u64::from(best.worth == large.worth);
                    }
                    (Err(PlanError::NothingFits(_)), Err(PlanError::NothingFound(_))) => {}
                    // A chain may need an order that was not tried.
                    (Ok(_), Err(PlanError::NothingFound(_))) => {}
                    (best, large) => panic!("{name} seed {seed}: {best:?} {large:?}"),
                }
            }
        }
        assert!(exact > 300, "{name}: {exact} of 1200 are the best there is");
    }
}

/// The same problem with one device taken away.
fn without(problem: &Problem, left_out: usize) -> Problem {
    let kept: Vec<usize> = (0..problem.devices.len()).filter(|&device| device != left_out).collect();
    let mut fewer = problem.clone();
    fewer.devices.remove(left_out);
    for codec in &mut fewer.codecs {
        codec.devices.remove(left_out);
    }
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
        let features = Features { memory: true, replicas: seed % 2 == 0, ..PLAIN };
        let problem = random_problem(features, &mut Rng::with_seed(seed));
        let options = Options { replicas: features.replicas, ..Options::default() };
        for left_out in 0..problem.devices.len() {
            let Ok(fewer) = solve(&without(&problem, left_out), &options) else { continue };
            let all = solve(&problem, &options).unwrap();
            assert!(all.plan.period <= fewer.plan.period, "seed {seed}, without device {left_out}");
            compared += 1;
        }
    }
    assert!(compared > 300, "only {compared} problems with a plan");
}
