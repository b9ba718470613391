//! Prices of devices that make a bound for any order of them.
//!
//! Used for problems too large for the exact search. A chain that uses each device once at most costs no more than all
//! devices together. So where even the cheapest way through the model, on which devices may come again, costs more than
//! that, there is no chain (Lagrangian relaxation). Good prices are found by raising those of devices that the cheapest
//! way uses too often: subgradient steps, as in M. L. Fisher, "The Lagrangian relaxation method for solving integer
//! programming problems", Management Science 27 (1981).

use crate::costs::ROUNDING;
use crate::order::Demand;
use crate::ways::{Fees, Rest, Ways};

/// How far steps aim beyond the proof, as a share of all prices.
const AIM: f64 = 0.005;

/// Share of the last direction that a step keeps: the cheapest ways of neighbouring prices differ widely.
const MOMENTUM: f64 = 0.7;

/// What counts as progress, as a share of all prices.
const PROGRESS: f64 = 1e-5;

/// Steps without progress after which they become shorter.
const PATIENCE: usize = 8;

/// Steps shorter than this share of the first lead nowhere.
const SHORTEST_STEP: f64 = 0.02;

/// What is to pay for each device, for each stage whatever its device, and for all airtime of a medium in a period.
#[derive(Clone, Debug)]
pub(crate) struct Prices {
    devices: Vec<f64>,
    media: Vec<f64>,
    /// Below 0 where there must be more stages than are cheapest.
    stage: f64,
    demand: Demand,
}

/// Prices with what they lead to.
pub(crate) struct Priced {
    /// Those of devices with that of a stage.
    pub fees: Fees,
    pub rest: Rest,
    /// By how much the cheapest way costs more than what any chain may cost.
    pub excess: f64,
}

impl Priced {
    /// Whether there is no chain of single devices.
    pub(crate) fn proves(&self) -> bool {
        self.excess > ROUNDING
    }
}

impl Prices {
    /// Prices in proportion to what the devices can do.
    pub(crate) fn of(capacities: &[f64], media: usize, demand: Demand) -> Prices {
        let any = capacities.iter().any(|&capacity| capacity > 0.0);
        let devices = if any { capacities.to_vec() } else { vec![1.0; capacities.len()] };
        Prices { devices, media: vec![0.0; media], stage: 0.0, demand }
    }

    /// Better prices for these ways, by at most so many steps; fewer, if they prove that there is no chain.
    pub(crate) fn improve(&mut self, ways: &Ways<'_>, steps: usize) -> Priced {
        let first = self.value(ways);
        let (mut best, mut last) = ((self.clone(), first), None);
        let mut direction = vec![0.0; self.devices.len() + self.media.len() + 1];
        let (mut length, mut idle) = (1.0, 0);
        for _ in 0..steps {
            if best.1.proves() || length < SHORTEST_STEP {
                break;
            }
            self.advance(last.as_ref().unwrap_or(&best.1), ways, &mut direction, length);
            let priced = self.value(ways);
            idle = if priced.excess > best.1.excess + PROGRESS { 0 } else { idle + 1 };
            last = None;
            if priced.excess > best.1.excess {
                best = (self.clone(), priced);
            } else if idle < PATIENCE {
                last = Some(priced);
            } else {
                (length, idle) = (length / 2.0, 0);
                direction.fill(0.0);
                self.clone_from(&best.0);
            }
        }
        let priced;
        (*self, priced) = best;
        priced
    }

    /// What a chain may use: of every device one, and so many stages.
    fn allowed(&self) -> Option<f64> {
        self.demand.stages.or(self.demand.devices).map(|stages| stages as f64)
    }

    /// Scales the prices so that together they are 1, and follows the cheapest way.
    fn value(&mut self, ways: &Ways<'_>) -> Priced {
        let stages = self.allowed().unwrap_or(0.0);
        let resources = |own: &Prices| own.devices.iter().chain(&own.media).sum::<f64>();
        let size = resources(self) + stages * self.stage.abs();
        self.devices.iter_mut().chain(&mut self.media).for_each(|price| *price /= size);
        self.stage /= size;
        let fees = Fees {
            devices: self.devices.iter().map(|price| price + self.stage).collect(),
            media: self.media.iter().map(|price| price / ways.period).collect(),
        };
        let rest = ways.rest(&fees);
        let excess = rest.total - (resources(self) + stages * self.stage);
        Priced { fees, rest, excess }
    }

    fn advance(&mut self, priced: &Priced, ways: &Ways<'_>, direction: &mut [f64], length: f64) {
        let uses = ways.uses(&priced.fees, &priced.rest);
        let stages = self.allowed().map_or(0.0, |allowed| uses.devices.iter().sum::<f64>() - allowed);
        let media = uses.media.iter().map(|seconds| seconds / ways.period - 1.0);
        let surplus = uses.devices.iter().map(|uses| uses - 1.0).chain(media).chain([stages]);
        for (direction, surplus) in direction.iter_mut().zip(surplus) {
            *direction = MOMENTUM * *direction + (1.0 - MOMENTUM) * surplus;
        }
        let norm = direction.iter().map(|d| d * d).sum::<f64>().max(1e-9);
        let step = length * (AIM - priced.excess) / norm;
        for (price, direction) in self.devices.iter_mut().chain(&mut self.media).zip(&*direction) {
            *price = (*price + step * direction).max(0.0);
        }
        let least = if self.demand.stages.is_some() { f64::NEG_INFINITY } else { 0.0 };
        self.stage = (self.stage + step * direction[direction.len() - 1]).max(least);
        if self.stage == 0.0 && self.devices.iter().chain(&self.media).all(|&price| price == 0.0) {
            self.devices.fill(1.0);
        }
    }
}
