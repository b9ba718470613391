//! What a plan is to be best at, and what it must keep to.

use clap::{Args, ValueEnum};
use pipeline::SplitOptions;
use plan::Objective;

use super::positive;

/// What the planner is asked for.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Goal")]
pub(crate) struct Goal {
    /// What is to be best [default: throughput]
    #[arg(long, value_name = "NAME")]
    pub(crate) objective: Option<ObjectiveName>,
    /// Items per second at least
    #[arg(long, value_name = "ITEMS/S", value_parser = rate, required_if_eq("objective", "devices"))]
    pub(crate) min_throughput: Option<f64>,
    /// Devices at most
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) max_devices: Option<usize>,
    /// Let several nodes run the same stage, items dealt out among them: also the whole model on each, where it fits
    #[arg(long, conflicts_with_all = ["keep_order", "rule"])]
    pub(crate) replicas: bool,
}

/// What can be best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ObjectiveName {
    /// Most items per second
    Throughput,
    /// The least time from an input to its result, alone in the chain
    Latency,
    /// The least energy per item; the devices' watts must be known
    Energy,
    /// The fewest devices that reach --min-throughput
    Devices,
}

impl From<ObjectiveName> for Objective {
    fn from(name: ObjectiveName) -> Objective {
        match name {
            ObjectiveName::Throughput => Objective::Throughput,
            ObjectiveName::Latency => Objective::Latency,
            ObjectiveName::Energy => Objective::Energy,
            ObjectiveName::Devices => Objective::Devices,
        }
    }
}

impl Goal {
    /// Whether anything is asked for.
    pub(crate) fn is_given(&self) -> bool {
        let Goal { objective, min_throughput, max_devices, replicas } = self;
        objective.is_some() || min_throughput.is_some() || max_devices.is_some() || *replicas
    }

    /// The same, said to the planner.
    pub(crate) fn apply(&self, split: SplitOptions) -> SplitOptions {
        SplitOptions {
            objective: self.objective.map_or(split.objective, Objective::from),
            max_period: self.min_throughput.map(|rate| 1.0 / rate),
            max_devices: self.max_devices,
            replicas: self.replicas,
            ..split
        }
    }
}

/// Items per second, above zero.
fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && (1.0 / rate).is_finite() && rate.is_finite() => Ok(rate),
        Ok(_) => Err("a finite number above 0".to_owned()),
        Err(_) => Err("not a number".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        for (text, expected) in [
            ("30", Some(30.0)),
            ("0.5", Some(0.5)),
            ("0", None),
            ("-1", None),
            ("inf", None),
            ("nan", None),
            ("1e-320", None),
            ("fast", None),
        ] {
            assert_eq!(rate(text).ok(), expected, "{text}");
        }
    }
}
