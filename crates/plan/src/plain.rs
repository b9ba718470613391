//! Codecs that win next to nothing, taken off a plan: what they change of values has to be worth something.

use crate::costs::ROUNDING;
use crate::{Objective, Plan, Problem, predict};

/// A share of latency and energy that is not worth changing values for.
const WORTH: f64 = 0.01;

impl Plan {
    /// The plan with the first codec, which changes nothing, on each link where that costs no throughput and, all such links
    /// together, at most a hundredth of the latency and the energy of an item; of the objective itself nothing. Results
    /// come first, as they are what is seen.
    pub fn plain_where_it_costs_nothing(&self, problem: &Problem, objective: Objective) -> Plan {
        let limit =
            |figure: f64, of: Objective| figure * (1.0 + if objective == of { ROUNDING } else { WORTH });
        let (latency, joules) =
            (limit(self.latency, Objective::Latency), limit(self.joules, Objective::Energy));
        let mut plan = self.clone();
        for hop in (0..self.hops.len()).rev() {
            let mut assignment = plan.assignment();
            if std::mem::replace(&mut assignment.codecs[hop], 0) == 0 {
                continue;
            }
            // More bytes may need more memory for what waits.
            let Ok(other) = predict(problem, &assignment) else { continue };
            let period = other.period <= self.period * (1.0 + ROUNDING);
            if period && other.latency <= latency && other.joules <= joules {
                plan = other;
            }
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Boundary, Codec, CodecCost, Device, Link, Links, Options, Queues, Resources, Unit, solve};

    /// Two devices behind slow links, a result of a few bytes, and a codec of half the bytes that costs nothing.
    fn problem() -> Problem {
        let unit = Unit { seconds: 1.0, weight_bytes: 0, activation_bytes: 0 };
        let boundaries = [400, 400, 1].map(|bytes| Boundary { bytes, tensors: 1 });
        let devices = ["a", "b"].map(|name| Device::of_speed(name, 1.0)).to_vec();
        let mut resources = Resources::on_free_links(devices);
        resources.links = Links::uniform(2, Link { bandwidth: 200.0, ..Link::FREE });
        let mut problem = Problem::new(vec![unit; 2], boundaries.to_vec(), Queues::default(), resources);
        let half = boundaries.iter().map(|boundary| boundary.bytes / 2).collect();
        let (dispatcher, devices) = (CodecCost::default(), vec![CodecCost::default(); 2]);
        problem.codecs.push(Codec { name: "half".to_owned(), bytes: half, dispatcher, devices, copies: 0 });
        problem
    }

    #[test]
    fn bits_are_kept_where_they_cost_nothing() {
        let (problem, options) = (problem(), Options { stages: Some(2), ..Options::default() });
        let plan = solve(&problem, &options).unwrap().plan;
        assert_eq!(plan.assignment().codecs, [1, 1, 1]);
        let codecs = |objective| plan.plain_where_it_costs_nothing(&problem, objective).assignment().codecs;
        // A result's byte takes 5 ms of more than 4 s; the other links set the period.
        assert_eq!(codecs(Objective::Throughput), [1, 1, 0]);
        assert_eq!(codecs(Objective::Latency), [1, 1, 1]);
    }

    #[test]
    fn small_shares_do_not_add_up() {
        let mut problem = problem();
        // Each link by itself takes less than a hundredth more, all of them together more than that.
        problem.links = Links::uniform(2, Link { bandwidth: 12_500.0, ..Link::FREE });
        problem.boundaries[2].bytes = 400;
        problem.codecs[0].bytes[2] = 400;
        problem.codecs[1].bytes[2] = 200;
        let plan = solve(&problem, &Options { stages: Some(2), ..Options::default() }).unwrap().plan;
        assert_eq!(plan.assignment().codecs, [1, 1, 1]);
        let plain = plan.plain_where_it_costs_nothing(&problem, Objective::Throughput);
        assert_eq!(plain.assignment().codecs, [1, 1, 0]);
        assert!(plan.latency < plain.latency && plain.latency <= plan.latency * 1.01);
    }
}
