//! How long planning takes, and how close it gets: measured models (`experiments/costs`) and seeded random ones, on
//! devices with an 8x spread of speed and links of 10 to 1000 Mbit/s, a third of the devices short of memory.
//!
//! Prints the time of one plan and the gap between its period and the bound: median and worst of the seeds.
//! `cargo bench -p plan -- 16` runs only the rows whose name contains `16`.

use std::time::Instant;

use fastrand::Rng;
use plan::{
    Boundary, Codec, CodecCost, Device, End, Host, Link, Medium, ModelCosts, Options, Problem, Queues,
    Resources, Unit, solve,
};

/// One row of the table.
struct Row {
    name: &'static str,
    devices: usize,
    units: usize,
    seeds: u64,
    /// Offered besides raw, before they are pruned.
    codecs: usize,
    replicas: bool,
    medium: bool,
    /// Costs that were measured, instead of random ones.
    model: Option<&'static str>,
}

const PLAIN: Row = Row {
    name: "",
    devices: 8,
    units: 60,
    seeds: 20,
    codecs: 0,
    replicas: false,
    medium: false,
    model: None,
};

const RESNET50: &str = include_str!("../../../experiments/costs/resnet50.toml");
const VIT_B16: &str = include_str!("../../../experiments/costs/vit-b16.toml");
const BERT_BASE: &str = include_str!("../../../experiments/costs/bert-base.toml");

const ROWS: [Row; 14] = [
    Row { name: "ResNet50, 8 devices", model: Some(RESNET50), ..PLAIN },
    Row { name: "ViT-B/16, 8 devices", model: Some(VIT_B16), ..PLAIN },
    Row { name: "BERT-base, 8 devices", model: Some(BERT_BASE), ..PLAIN },
    Row { name: "8 devices", ..PLAIN },
    Row { name: "8 devices, codecs", codecs: 3, ..PLAIN },
    Row { name: "8 devices, 10 codecs", codecs: 9, ..PLAIN },
    Row { name: "8 devices, replicas, codecs", codecs: 3, replicas: true, ..PLAIN },
    Row { name: "8 devices on one medium", medium: true, ..PLAIN },
    Row { name: "8 devices, 250 units", units: 250, ..PLAIN },
    Row { name: "16 devices", devices: 16, seeds: 10, ..PLAIN },
    Row { name: "16 devices, codecs", devices: 16, seeds: 10, codecs: 3, ..PLAIN },
    Row { name: "16 devices, 10 codecs", devices: 16, seeds: 10, codecs: 9, ..PLAIN },
    Row { name: "10 devices, replicas, codecs", devices: 10, seeds: 10, codecs: 3, replicas: true, ..PLAIN },
    Row { name: "64 devices, 1000 units", devices: 64, units: 1000, ..PLAIN },
];

#[expect(clippy::print_stdout, reason = "a bench prints its table")]
fn main() {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    println!(
        "{:<30} {:>6} {:>6} {:>6} {:>10} {:>10} {:>8} {:>8}",
        "", "units", "plans", "exact", "median s", "worst s", "gap", "worst"
    );
    for row in ROWS.iter().filter(|row| filter.as_ref().is_none_or(|part| row.name.contains(part))) {
        let runs = (0..row.seeds).filter_map(|seed| run(row, seed)).collect::<Vec<_>>();
        let column = |value: fn(&(f64, f64, usize)) -> f64| {
            let mut values: Vec<f64> = runs.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            (values[values.len() / 2], values[values.len() - 1])
        };
        let ((time, worst_time), (gap, worst_gap)) = (column(|r| r.0), column(|r| r.1));
        println!(
            "{:<30} {:>6} {:>6} {:>6} {time:>10.4} {worst_time:>10.4} {:>7.1}% {:>7.1}%",
            row.name,
            runs.first().map_or(0, |run| run.2),
            runs.len(),
            runs.iter().filter(|run| run.1 == 0.0).count(),
            gap * 100.0,
            worst_gap * 100.0
        );
    }
}

/// Seconds for one plan, its gap and the number of units; `None` where nothing fits into memory.
fn run(row: &Row, seed: u64) -> Option<(f64, f64, usize)> {
    let problem = problem(row, &mut Rng::with_seed(seed));
    let start = Instant::now();
    let solution = solve(&problem, &Options { replicas: row.replicas, ..Options::default() }).ok()?;
    Some((start.elapsed().as_secs_f64(), solution.gap(), problem.units.len()))
}

fn problem(row: &Row, random: &mut Rng) -> Problem {
    let costs = match row.model {
        Some(text) => ModelCosts::from_toml(text).expect("a file of the repository"),
        None => random_model(row.devices, row.units, random),
    };
    let weight_bytes: u64 = costs.units.iter().map(|unit| unit.weight_bytes).sum();
    let devices = (0..row.devices).map(|i| device(i, weight_bytes / row.devices as u64, random)).collect();
    let mut problem = costs.on(Resources::on_free_links(devices));
    problem.dispatcher.bandwidth = 125e6;
    let pairs = || End::pairs(row.devices);
    for (from, to) in pairs() {
        // Else the dispatcher's links alone decide.
        let inner = from != End::Dispatcher && to != End::Dispatcher;
        let bandwidth = if inner { spread(random, 1.25e6, 100.0) } else { 125e6 };
        problem.links.set(from, to, Link { bandwidth, delay: 2e-4, frame_seconds: 5e-5, ..Link::FREE });
    }
    if row.medium {
        problem.media.push(Medium { name: "air".to_owned(), links: pairs().collect() });
    }
    problem.codecs.extend(codecs(&problem).into_iter().take(row.codecs));
    problem.prune_codecs(0.03);
    problem
}

/// A model of 12.5 ms and 12.5 MB for each device, whose boundaries carry 200 KB to 1.6 MB, and a fifth of that
/// towards its end.
fn random_model(devices: usize, units: usize, random: &mut Rng) -> ModelCosts {
    let share = |random: &mut Rng| devices as f64 * (0.2 + 1.6 * random.f64()) / units as f64;
    let boundary = |i: usize, random: &mut Rng| {
        let smaller = 1.0 - 0.8 * i as f64 / units as f64;
        Boundary { bytes: (spread(random, 100e3, 8.0) * smaller) as u64 * 2, tensors: 1 }
    };
    let unit = |random: &mut Rng| Unit {
        seconds: 12.5e-3 * share(random),
        weight_bytes: (12.5e6 * share(random)) as u64,
        activation_bytes: 4_000_000,
    };
    ModelCosts {
        name: "random".to_owned(),
        timed_with: String::new(),
        boundaries: (0..=units).map(|i| boundary(i, random)).collect(),
        units: (0..units).map(|_| unit(random)).collect(),
        queues: Queues { inputs: 3, outputs: 3 },
    }
}

/// Every third has memory for one to five of the parts that the weights fall into.
fn device(index: usize, part_bytes: u64, random: &mut Rng) -> Device {
    Device {
        memory_bytes: index
            .is_multiple_of(3)
            .then(|| 10_000_000 + (part_bytes as f64 * (1.0 + 4.0 * random.f64())) as u64),
        host: Host { seconds_per_byte: 0.25e-9, ..Host::default() },
        ..Device::of_speed(format!("d{index}"), spread(random, 0.25, 8.0))
    }
}

/// What is offered at most, those first that differ most: ratio, encoding and decoding speed in bytes per second.
fn codecs(problem: &Problem) -> Vec<Codec> {
    let codec = |(name, ratio, encode, decode): (&str, f64, f64, f64)| {
        let cost = |speed: f64| CodecCost {
            encode_seconds: 1.0 / (encode * speed),
            decode_seconds: 1.0 / (decode * speed),
        };
        Codec {
            name: name.to_owned(),
            bytes: problem.boundaries.iter().map(|b| (b.bytes as f64 / ratio) as u64).collect(),
            dispatcher: cost(1.0),
            devices: problem.devices.iter().map(|d| cost(d.speed)).collect(),
            copies: 4,
        }
    };
    let all = [
        ("bf16", 2.0, 30e9, 40e9),
        ("u8", 4.0, 4.8e9, 31e9),
        ("u8+zstd1", 5.8, 1.6e9, 5.2e9),
        ("bf16+shuffle+zstd1", 3.4, 0.8e9, 2.8e9),
        ("bf16+bitmap", 2.4, 4e9, 6e9),
        ("bf16+shuffle+lz4", 2.3, 1.4e9, 7e9),
        ("bf16+shuffle+zstd-5", 2.9, 1.2e9, 3.5e9),
        ("u8+lz4", 4.6, 2.5e9, 12e9),
        ("u8+zstd-5", 5.2, 2.2e9, 6.5e9),
    ];
    all.map(codec).to_vec()
}

/// From `low` to `factor` times that, evenly in the logarithm.
fn spread(random: &mut Rng, low: f64, factor: f64) -> f64 {
    low * factor.powf(random.f64())
}
