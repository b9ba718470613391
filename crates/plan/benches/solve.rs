//! How long planning takes, and how close it gets: seeded random models on devices with an 8x spread of speed and
//! links of 10 to 1000 Mbit/s, a third of the devices short of memory.
//!
//! Prints the time of one plan and the gap between its period and the bound: median and worst of the seeds.

use std::time::Instant;

use plan::{Boundary, Device, End, Link, Links, Options, Problem, Unit, solve};

#[expect(clippy::print_stdout, reason = "a bench prints its table")]
fn main() {
    println!(
        "{:>8} {:>6} {:>6} {:>12} {:>12} {:>8} {:>8}",
        "devices", "units", "seeds", "median s", "worst s", "gap", "worst"
    );
    for (devices, units, seeds) in [(8, 60, 20), (8, 250, 20), (12, 60, 10), (16, 60, 5), (64, 1000, 3)] {
        let runs = (0..seeds).filter_map(|seed| run(devices, units, seed)).collect::<Vec<_>>();
        let column = |value: fn(&(f64, f64)) -> f64| {
            let mut values: Vec<f64> = runs.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            (values[values.len() / 2], values[values.len() - 1])
        };
        let ((time, worst_time), (gap, worst_gap)) = (column(|r| r.0), column(|r| r.1));
        println!(
            "{devices:>8} {units:>6} {:>6} {time:>12.4} {worst_time:>12.4} {:>7.1}% {:>7.1}%",
            runs.len(),
            gap * 100.0,
            worst_gap * 100.0
        );
    }
}

/// Seconds for one plan and its gap; `None` where nothing fits into memory.
fn run(devices: usize, units: usize, seed: u64) -> Option<(f64, f64)> {
    let problem = problem(devices, units, &mut Random(seed));
    let start = Instant::now();
    let solution = solve(&problem, &Options::default()).ok()?;
    Some((start.elapsed().as_secs_f64(), solution.gap()))
}

/// A model of 0.1 s and 100 MB whose boundaries carry 50 KB to 1.6 MB, smaller towards its end.
fn problem(devices: usize, units: usize, random: &mut Random) -> Problem {
    let share = |random: &mut Random| random.between(0.2, 1.8) / units as f64;
    let boundary = |i: usize, random: &mut Random| {
        let smaller = 1.0 - 0.8 * i as f64 / units as f64;
        Boundary { bytes: (random.spread(100e3, 8.0) * smaller) as u64 * 2, tensors: 1 }
    };
    let mut links = Links::uniform(devices, Link::FREE);
    let ends = || std::iter::once(End::Dispatcher).chain((0..devices).map(End::Device));
    for from in ends() {
        for to in ends() {
            let bandwidth = match (from, to) {
                // Else the dispatcher's links alone decide.
                (End::Dispatcher, _) | (_, End::Dispatcher) => 125e6,
                _ => random.spread(1.25e6, 100.0),
            };
            links.set(from, to, Link { bandwidth, delay: 2e-4 });
        }
    }
    Problem {
        units: (0..units)
            .map(|_| Unit {
                seconds: 0.1 * share(random),
                weight_bytes: (100e6 * share(random)) as u64,
                activation_bytes: 4_000_000,
            })
            .collect(),
        boundaries: (0..=units).map(|i| boundary(i, random)).collect(),
        devices: (0..devices)
            .map(|i| Device {
                name: format!("d{i}"),
                speed: random.spread(0.25, 8.0),
                memory_bytes: (i % 3 == 0).then(|| random.between(10e6, 60e6) as u64),
                seconds_per_byte: 0.25e-9,
            })
            .collect(),
        links,
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn between(&mut self, low: f64, high: f64) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        low + (high - low) * ((z ^ (z >> 31)) as f64 / u64::MAX as f64)
    }

    /// From `low` to `factor` times that, evenly in the logarithm.
    fn spread(&mut self, low: f64, factor: f64) -> f64 {
        low * factor.powf(self.between(0.0, 1.0))
    }
}
