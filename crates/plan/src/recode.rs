//! Another codec for one link of a plan whose stages stand.
//!
//! Called by a deployment that takes a codec back because outputs do not stand for it: stages are loaded by then, only
//! how tensors travel is still open.

use std::cmp::Ordering;

use crate::costs::Costs;
use crate::error::PlanError;
use crate::predict::evaluate;
use crate::{Assignment, Objective, Options, Plan, Problem};

impl Plan {
    /// What it is worth under an objective; less is better. Seconds, joules, or devices.
    pub fn worth(&self, objective: Objective) -> f64 {
        match objective {
            Objective::Throughput => self.period,
            Objective::Latency => self.latency,
            Objective::Energy => self.joules,
            Objective::Devices => self.devices() as f64,
        }
    }
}

/// The codec among `candidates`, indices of the problem, with which link `link` of an assignment makes the best plan, all
/// else being as it is. Of the options, the objective and the longest period count. Of plans that are worth the same,
/// the one of the shortest period wins, then the one that keeps everything busy for the least time together, then the
/// one with the fewest bytes on the link, then the first.
///
/// # Errors
/// As [`predict`](crate::predict).
///
/// # Panics
/// Without candidates, or when the assignment has no such link.
pub fn best_codec(
    problem: &Problem,
    assignment: &Assignment,
    link: usize,
    candidates: &[usize],
    options: &Options,
) -> Result<usize, PlanError> {
    let costs = Costs::new(problem)?;
    let mut best: Option<(usize, Figures)> = None;
    for &codec in candidates {
        let mut assignment = assignment.clone();
        assignment.codecs[link] = codec;
        let figures = Figures::of(&evaluate(&costs, &assignment)?, link, options);
        if best.as_ref().is_none_or(|(_, best)| figures.compare(best) == Ordering::Less) {
            best = Some((codec, figures));
        }
    }
    Ok(best.expect("there is a candidate").0)
}

/// What plans are held against each other by, the first figure that differs.
struct Figures {
    too_slow: bool,
    worth: f64,
    period: f64,
    busy: f64,
    bytes: u64,
}

impl Figures {
    fn of(plan: &Plan, link: usize, options: &Options) -> Figures {
        Figures {
            too_slow: options.max_period.is_some_and(|limit| plan.period > limit),
            worth: plan.worth(options.objective),
            period: plan.period,
            busy: plan.loads.iter().map(|load| load.seconds).sum(),
            bytes: plan.hops[link].bytes,
        }
    }

    fn compare(&self, other: &Figures) -> Ordering {
        let floats = |figures: &Figures| [figures.worth, figures.period, figures.busy];
        let mut by_floats = std::iter::zip(floats(self), floats(other)).map(|(a, b)| a.total_cmp(&b));
        let by_floats = by_floats.find(|order| order.is_ne()).unwrap_or(Ordering::Equal);
        self.too_slow.cmp(&other.too_slow).then(by_floats).then(self.bytes.cmp(&other.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Boundary, Codec, CodecCost, Device, End, Link, Links, Placement, Queues, Resources, Unit, predict,
    };

    /// Two stages of 10 s each, with 1000 bytes before, between and behind them, over links of so many bytes a second.
    fn problem(into: f64, between: f64) -> Problem {
        let unit = Unit { seconds: 10.0, weight_bytes: 0, activation_bytes: 0 };
        let devices = ["a", "b"].map(|name| Device::of_speed(name, 1.0)).to_vec();
        let mut resources = Resources::on_free_links(devices);
        resources.links = Links::uniform(2, Link::FREE);
        let link = |bandwidth| Link { bandwidth, ..Link::FREE };
        resources.links.set(End::Dispatcher, End::Device(0), link(into));
        resources.links.set(End::Device(0), End::Device(1), link(between));
        let boundaries = vec![Boundary { bytes: 1000, tensors: 1 }; 3];
        let mut problem = Problem::new(vec![unit; 2], boundaries, Queues::default(), resources);
        // Bytes of 1000, and seconds to encode as well as to decode them.
        for (name, bytes, seconds) in [("half", 500, 1.0), ("small", 300, 5.0), ("twin", 500, 1.0)] {
            let cost = CodecCost { encode_seconds: seconds / 1e3, decode_seconds: seconds / 1e3 };
            let (bytes, devices) = (vec![bytes; 3], vec![cost; 2]);
            problem.codecs.push(Codec { name: name.to_owned(), bytes, dispatcher: cost, devices, copies: 0 });
        }
        problem
    }

    const RAW: usize = 0;
    const HALF: usize = 1;
    const SMALL: usize = 2;
    const TWIN: usize = 3;

    #[test]
    fn a_link_takes_what_makes_the_best_plan_as_the_other_links_are() {
        use Objective::{Devices, Latency, Throughput};
        let free = f64::INFINITY;
        // Bandwidths, the codec of the first link, candidates for the second; objective and longest period; the best.
        for (into, between, first, candidates, objective, most, best) in [
            // A codec costs a stage time that the link does not take.
            (free, free, RAW, &[RAW, HALF, SMALL][..], Throughput, None, RAW),
            (free, 50.0, RAW, &[RAW, HALF, SMALL], Throughput, None, HALF),
            (free, 20.0, RAW, &[RAW, HALF, SMALL], Throughput, None, SMALL),
            // What is not on offer is not taken.
            (free, 20.0, RAW, &[RAW, HALF], Throughput, None, HALF),
            // Where another link sets the period, work and time on the way count: 20 s, or 10 + 2 s.
            (1.0, 50.0, RAW, &[RAW, HALF, SMALL], Throughput, None, HALF),
            (1.0, 1000.0, RAW, &[RAW, HALF, SMALL], Throughput, None, RAW),
            // Only with a smaller first link the second one is worth anything: 40 or 20 s of a period of 50 or 25 s.
            (20.0, 25.0, RAW, &[RAW, SMALL], Throughput, None, SMALL),
            (20.0, 25.0, HALF, &[RAW, HALF], Throughput, None, HALF),
            // Latency: 10 + 1000/100 against 5 + 2, and 3 + 10.
            (free, 100.0, RAW, &[RAW, HALF, SMALL], Latency, None, HALF),
            (free, 100.0, RAW, &[RAW, SMALL], Latency, None, RAW),
            // The longest period comes first: 15 s with the small one, 25 s with the half.
            (free, 20.0, RAW, &[HALF, SMALL], Latency, Some(16.0), SMALL),
            (free, 50.0, RAW, &[RAW, HALF], Devices, None, HALF),
            // Two that cost the same: the first.
            (free, 50.0, RAW, &[TWIN, HALF], Throughput, None, TWIN),
            (free, 50.0, RAW, &[HALF, TWIN], Throughput, None, HALF),
        ] {
            let problem = problem(into, between);
            let place = |device, units| Placement { devices: vec![device], units };
            let stages = vec![place(0, 0..1), place(1, 1..2)];
            let assignment = Assignment { stages, codecs: vec![first, RAW, RAW] };
            let options = Options { objective, max_period: most, ..Options::default() };
            let found = best_codec(&problem, &assignment, 1, candidates, &options).unwrap();
            let periods: Vec<f64> = candidates
                .iter()
                .map(|&codec| {
                    let codecs = vec![first, codec, RAW];
                    predict(&problem, &Assignment { codecs, ..assignment.clone() }).unwrap().period
                })
                .collect();
            assert_eq!(found, best, "{into} {between} {candidates:?} {objective:?}: periods {periods:?}");
        }
    }
}
