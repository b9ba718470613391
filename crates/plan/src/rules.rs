//! The rules by which other systems place a model: for comparison, on the same costs.
//!
//! Called by whoever explains a plan. Each decides without looking at links, as its original does, and cuts only where
//! a single tensor crosses, where there are such places enough; it is then judged by the same predictor as our own
//! plans.

use std::ops::Range;

use crate::{
    Assignment, Boundary, Device, Options, Placement, Plan, PlanError, Problem, Queues, Resources, Unit,
    predict, solve,
};

/// How a model is placed without looking for the best plan. All devices are used, as far as there are units, and the
/// first codec on every link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// As many units on each device, in the given order (DEFER).
    EqualUnits,
    /// Units in proportion to memory, the most first (exo).
    MemoryProportional,
    /// Compute time in proportion to speed, the fastest first (cake).
    SpeedProportional,
    /// The same compute time for every device, in the given order, devices taken as equal (Coral).
    ComputeBalanced,
}

impl Rule {
    /// All of them.
    pub const ALL: [Rule; 4] =
        [Rule::EqualUnits, Rule::MemoryProportional, Rule::SpeedProportional, Rule::ComputeBalanced];

    /// What it goes by.
    pub fn name(self) -> &'static str {
        match self {
            Rule::EqualUnits => "equal unit count",
            Rule::MemoryProportional => "memory-proportional",
            Rule::SpeedProportional => "speed-proportional",
            Rule::ComputeBalanced => "compute-balanced",
        }
    }
}

/// The plan that a rule makes.
///
/// # Errors
/// When what it places exceeds a device's memory, or a figure of the problem is unusable.
pub fn by_rule(problem: &Problem, rule: Rule) -> Result<Plan, PlanError> {
    crate::check::problem(problem)?;
    let given: Vec<usize> = (0..problem.devices.len()).collect();
    let cuts = cuts(problem);
    let parts = |amount: &dyn Fn(&Unit) -> f64| {
        let part = |ends: &[usize]| problem.units[ends[0]..ends[1]].iter().map(amount).sum();
        cuts.windows(2).map(part).collect::<Vec<f64>>()
    };
    let counts = vec![1.0; cuts.len() - 1];
    let proportional = |devices: &[usize], weight: &dyn Fn(usize) -> f64, amounts: &[f64]| {
        let ranges = proportional(devices, weight, amounts);
        chain(devices, ranges.into_iter().map(|range| cuts[range.start]..cuts[range.end]))
    };
    let most_first = |weight: &dyn Fn(&Device) -> f64| {
        let mut devices = given.clone();
        devices.sort_by(|&a, &b| weight(&problem.devices[b]).total_cmp(&weight(&problem.devices[a])));
        devices
    };
    let assignment = match rule {
        Rule::EqualUnits => proportional(&given, &|_| 1.0, &counts),
        Rule::MemoryProportional => {
            let known = problem.devices.iter().filter_map(|d| d.memory_bytes).max();
            let memory = |d: &Device| d.memory_bytes.or(known).unwrap_or(1) as f64;
            proportional(&most_first(&memory), &|device| memory(&problem.devices[device]), &counts)
        }
        Rule::SpeedProportional => {
            let speed = |d: &Device| 1.0 / seconds(problem, d).max(f64::MIN_POSITIVE);
            let times = parts(&|unit| unit.seconds);
            proportional(&most_first(&speed), &|device| speed(&problem.devices[device]), &times)
        }
        Rule::ComputeBalanced => {
            let ranges = balanced(&parts(&|unit| unit.seconds), given.len())?;
            chain(&given, ranges.into_iter().map(|range| cuts[range.start]..cuts[range.end]))
        }
    };
    predict(problem, &assignment)
}

/// Where the rules cut, with both ends: where a single tensor crosses, or anywhere if that leaves devices without work.
fn cuts(problem: &Problem) -> Vec<usize> {
    let units = problem.units.len();
    let single: Vec<usize> = (1..units).filter(|&cut| problem.boundaries[cut].tensors == 1).collect();
    let inner = if single.len() + 1 < problem.devices.len() { (1..units).collect() } else { single };
    std::iter::once(0).chain(inner).chain([units]).collect()
}

/// Seconds of the whole model on a device.
fn seconds(problem: &Problem, device: &Device) -> f64 {
    match &device.unit_seconds {
        Some(own) => own.iter().sum(),
        None => problem.units.iter().map(|unit| unit.seconds).sum::<f64>() / device.speed,
    }
}

/// Cuts where the amounts so far come closest to the devices' weights so far, at least one unit each.
fn proportional(devices: &[usize], weight: &dyn Fn(usize) -> f64, amounts: &[f64]) -> Vec<Range<usize>> {
    let units = amounts.len();
    let devices = &devices[..devices.len().min(units)];
    let sums: Vec<f64> = std::iter::once(0.0)
        .chain(amounts.iter().scan(0.0, |sum, amount| {
            *sum += amount;
            Some(*sum)
        }))
        .collect();
    let (amount, weights): (f64, f64) = (sums[units], devices.iter().map(|&d| weight(d)).sum());
    let (mut start, mut weight_so_far) = (0, 0.0);
    let mut ranges = Vec::new();
    for (place, &device) in devices.iter().enumerate() {
        weight_so_far += weight(device);
        let wanted = amount * weight_so_far / weights;
        // Every device after this one needs a unit too.
        let ends = start + 1..=units - (devices.len() - place - 1);
        let distance = |end: &usize| (sums[*end] - wanted).abs();
        let end = match place + 1 == devices.len() {
            true => units,
            false => ends.min_by(|a, b| distance(a).total_cmp(&distance(b))).expect("a unit for each device"),
        };
        ranges.push(start..end);
        start = end;
    }
    ranges
}

/// The ranges on as many of the devices.
fn chain(devices: &[usize], ranges: impl Iterator<Item = Range<usize>>) -> Assignment {
    let placement = |(&device, units)| Placement { devices: vec![device], units };
    let stages: Vec<Placement> = devices.iter().zip(ranges).map(placement).collect();
    Assignment { codecs: vec![0; stages.len() + 1], stages }
}

/// The best plan for equal devices on links that are no limit, which leaves only the balance of computing times.
fn balanced(times: &[f64], devices: usize) -> Result<Vec<Range<usize>>, PlanError> {
    let stages = devices.min(times.len());
    let equal = (0..stages).map(|_| Device::of_speed("", 1.0)).collect();
    let units = times.iter().map(|&seconds| Unit { seconds, ..Unit::default() }).collect();
    let boundaries = vec![Boundary { bytes: 0, tensors: 1 }; times.len() + 1];
    let alike = Problem::new(units, boundaries, Queues::default(), Resources::on_free_links(equal));
    let options = Options { stages: Some(stages), keep_order: true, ..Options::default() };
    Ok(solve(&alike, &options)?.plan.stages.into_iter().map(|stage| stage.units).collect())
}
