//! What else there is besides a plan: what more hardware would bring, and which plans trade one virtue for another.
//!
//! Called by whoever explains a plan. Everything here is the optimiser asked again.

use crate::costs::{Costs, ROUNDING};
use crate::solve::Search;
use crate::{CodecCost, Device, End, Link, Links, Options, Plan, PlanError, Problem, solve};

/// What more hardware would bring: the worth of the best plan with it, under the same objective.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outlook {
    /// With one more device like the fastest, on links like its own.
    pub another_device: f64,
    /// With all links of twice the bandwidth.
    pub twice_bandwidth: f64,
}

/// What is traded against throughput.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Axis {
    /// The latency of an item.
    Latency,
    /// The number of devices.
    Devices,
}

/// What more hardware would bring.
///
/// # Errors
/// As [`solve`].
pub fn outlook(problem: &Problem, options: &Options) -> Result<Outlook, PlanError> {
    let another_device = solve(&with_another_device(problem)?, options)?.worth;
    let twice_bandwidth = solve(&with_twice_the_bandwidth(problem), options)?.worth;
    Ok(Outlook { another_device, twice_bandwidth })
}

/// Plans of which none is at least as good as another in both throughput and `axis`: the fastest last. Periods are
/// told apart down to one percent, and no figures that differ by rounding only.
///
/// # Errors
/// As [`solve`].
pub fn front(problem: &Problem, options: &Options, axis: Axis) -> Result<Vec<Plan>, PlanError> {
    let costs = Costs::new(problem)?;
    crate::check::options(options)?;
    let mut plans: Vec<Plan> = match axis {
        Axis::Latency => Search::new(&costs, options)?.by_latency()?,
        Axis::Devices => {
            let most = options.max_devices.unwrap_or(usize::MAX).min(problem.devices.len());
            let with = |devices| solve(problem, &Options { max_devices: Some(devices), ..options.clone() });
            let fastest = with(most)?.plan;
            // Too few devices may have no plan.
            let fewer =
                (1..fastest.devices()).filter_map(|devices| with(devices).ok().map(|found| found.plan));
            fewer.chain([fastest.clone()]).collect()
        }
    };
    let value = |plan: &Plan| match axis {
        Axis::Latency => plan.latency,
        Axis::Devices => plan.devices() as f64,
    };
    plans.sort_by(|a, b| (value(a), a.period).partial_cmp(&(value(b), b.period)).expect("no figure is NaN"));
    let more = 1.0 + ROUNDING;
    let mut front: Vec<Plan> = Vec::new();
    for plan in plans {
        if front.last().is_some_and(|last| plan.period * more >= last.period) {
            continue;
        }
        // A faster one that is as good otherwise.
        front.pop_if(|last| value(&plan) <= value(last) * more);
        front.push(plan);
    }
    Ok(front)
}

fn with_twice_the_bandwidth(problem: &Problem) -> Problem {
    let mut other = problem.clone();
    for (from, to) in End::pairs(problem.devices.len()) {
        let link = problem.links.get(from, to);
        other.links.set(from, to, Link { bandwidth: 2.0 * link.bandwidth, ..link });
    }
    other.dispatcher.bandwidth *= 2.0;
    other.devices.iter_mut().for_each(|device| device.host.bandwidth *= 2.0);
    other
}

fn with_another_device(problem: &Problem) -> Result<Problem, PlanError> {
    let costs = Costs::new(problem)?;
    let devices = problem.devices.len();
    let seconds = |device: usize| costs.compute_seconds(device, &(0..costs.end()));
    let fastest =
        (0..devices).min_by(|&a, &b| seconds(a).total_cmp(&seconds(b))).ok_or(PlanError::NoDevice)?;
    // The link that one of the new device's is like; between the two alike, as from the fastest to whom it reaches
    // best.
    let like = |(from, to): (End, End)| {
        let old = |end| if end == End::Device(devices) { End::Device(fastest) } else { end };
        match (old(from), old(to)) {
            (a, b) if a == b => (a, best_peer(problem, a)),
            ends => ends,
        }
    };
    let mut other = problem.clone();
    let name = format!("another {}", problem.devices[fastest].name);
    other.devices.push(Device { name, ..problem.devices[fastest].clone() });
    for codec in &mut other.codecs {
        let cost: CodecCost = codec.devices[fastest];
        codec.devices.push(cost);
    }
    other.links = Links::uniform(devices + 1, Link::FREE);
    for (from, to) in End::pairs(devices + 1) {
        let (a, b) = like((from, to));
        other.links.set(from, to, problem.links.get(a, b));
    }
    for (medium, old) in other.media.iter_mut().zip(&problem.media) {
        medium.links = End::pairs(devices + 1).filter(|&pair| old.links.contains(&like(pair))).collect();
    }
    Ok(other)
}

fn best_peer(problem: &Problem, from: End) -> End {
    let bandwidth = |&to: &End| problem.links.get(from, to).bandwidth;
    let others = problem.ends().filter(|&to| to != from);
    others.max_by(|a, b| bandwidth(a).total_cmp(&bandwidth(b))).unwrap_or(End::Dispatcher)
}
