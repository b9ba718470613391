//! A model on more and more equal devices: planned, predicted by the plan, and simulated. Pure planning on measured
//! costs: nothing runs.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use plan::{Device, Host, Link, Links, ModelCosts, Options, Plan, Resources, solve};
use serde::{Deserialize, Serialize};

use super::chain::{self, Chain, Stage, simulate};
use crate::chart::{Colour, Line, lines};
use crate::common;
use crate::table::markdown;

/// What more and more equal devices would bring: planned, predicted and simulated, nothing runs
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The experiment. Its table and picture go beside it
    #[arg(default_value = "experiments/scaling.toml")]
    experiment: PathBuf,
}

/// The experiment's file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Experiment {
    /// Of the page and its picture.
    title: String,
    /// The name of a file in `costs/`, beside the experiment.
    model: String,
    /// Of each device, in multiples of the one that timed the model.
    speed: f64,
    /// Of each link.
    mbit_s: f64,
    /// That an item takes on a link besides.
    delay_ms: f64,
    /// How many there are: a line of the table for each.
    devices: Vec<usize>,
}

/// One line of the results. Times in ms.
#[derive(Debug, Serialize)]
struct Row {
    devices: usize,
    /// Those that the plan uses.
    stages: usize,
    predicted_period_ms: f64,
    predicted_latency_ms: f64,
    simulated_period_ms: f64,
    simulated_latency_ms: f64,
    /// Of one device, over the simulated one.
    speed_up: f64,
}

/// CPU time to send or receive a byte on a device of speed 1.
const SECONDS_PER_BYTE: f64 = 0.25e-9;

/// Items that are simulated after the chain has filled.
const ITEMS: usize = 200;

pub(crate) fn execute(args: &Args) -> Result<()> {
    let path = &args.experiment;
    let shown = path.display();
    let experiment: Experiment = common::read(path)?;
    let (folder, name) = common::place(path)?;
    let costs = folder.join("costs").join(format!("{}.toml", experiment.model));
    let text = std::fs::read_to_string(&costs);
    let text = text.with_context(|| format!("cannot read `{}`", costs.display()))?;
    let model = ModelCosts::from_toml(&text);
    let model = model.with_context(|| format!("`{}` holds no costs", costs.display()))?;
    let rows = rows(&experiment, &model).with_context(|| format!("`{shown}`"))?;
    let figure = format!("figures/{name}.svg");
    common::save(&folder.join(&figure), &draw(&experiment, &rows)?)?;
    common::write(folder, &name, &rows, &page(&experiment, &model, &name, &figure, &rows))
}

fn rows(experiment: &Experiment, model: &ModelCosts) -> Result<Vec<Row>> {
    let counts = &experiment.devices;
    ensure!(!counts.is_empty(), "`devices` is empty");
    ensure!(
        counts.iter().all(|count| (1..=common::MOST_PLANNED).contains(count)),
        "`devices` are 1 to {}, not {counts:?}",
        common::MOST_PLANNED
    );
    let alone = plan(experiment, model, 1)?.period;
    let row = |&devices: &usize| {
        let plan = plan(experiment, model, devices)?;
        let chain = chain_of(&plan);
        let simulated = simulate(&chain, 4 * chain.window, ITEMS);
        Ok(Row {
            devices,
            stages: plan.stages.len(),
            predicted_period_ms: plan.period * 1e3,
            predicted_latency_ms: plan.latency * 1e3,
            simulated_period_ms: simulated.period_seconds * 1e3,
            simulated_latency_ms: simulated.latency_seconds * 1e3,
            speed_up: alone / simulated.period_seconds,
        })
    };
    counts.iter().map(row).collect()
}

fn plan(experiment: &Experiment, model: &ModelCosts, devices: usize) -> Result<Plan> {
    let Experiment { speed, mbit_s, delay_ms, .. } = *experiment;
    let link = Link { bandwidth: mbit_s * 1e6 / 8.0, delay: delay_ms / 1e3, ..Link::FREE };
    let device = |i| Device {
        host: Host { seconds_per_byte: SECONDS_PER_BYTE / speed, ..Host::default() },
        ..Device::of_speed(format!("device-{i}"), speed)
    };
    let mut resources = Resources::on_free_links((0..devices).map(device).collect());
    resources.links = Links::uniform(devices, link);
    resources.dispatcher.seconds_per_byte = SECONDS_PER_BYTE;
    Ok(solve(&model.on(resources), &Options::default())?.plan)
}

/// The times of a plan whose stages have a device each and whose tensors travel as they are, with the usual window.
fn chain_of(plan: &Plan) -> Chain {
    let hops: Vec<&plan::Path> = plan.hops.iter().map(|hop| &hop.links[0]).collect();
    let stage = |(stage, around): (&plan::Stage, &[&plan::Path])| {
        vec![Stage {
            share: 1.0,
            receive_seconds: around[0].receive_seconds,
            compute_seconds: stage.replicas[0].compute_seconds,
            send_seconds: around[1].send_seconds,
        }]
    };
    let link = |path: &&plan::Path| chain::Link {
        seconds: path.seconds,
        delay_seconds: path.delay_seconds,
        encodes: false,
    };
    Chain {
        input_seconds: hops[0].send_seconds,
        result_seconds: hops[hops.len() - 1].receive_seconds,
        stages: std::iter::zip(&plan.stages, hops.windows(2)).map(stage).collect(),
        links: hops.iter().map(link).collect(),
        // As `defer run` has it.
        window: 2 * plan.stages.len() + 2,
    }
}

fn draw(experiment: &Experiment, rows: &[Row]) -> Result<String> {
    let most = rows.iter().map(|row| row.devices).max().unwrap_or(1) as f64;
    let alone = rows[0].speed_up * rows[0].simulated_period_ms;
    let points =
        |figure: &dyn Fn(&Row) -> f64| rows.iter().map(|row| (row.devices as f64, figure(row))).collect();
    let line = |label, points: Vec<(f64, f64)>, colour, dashed| Line { label, points, colour, dashed };
    lines(
        &experiment.title,
        "devices",
        "times as fast as one device",
        &[
            line("as many times", vec![(1.0, 1.0), (most, most)], Colour::Sky, true),
            line("predicted", points(&|row| alone / row.predicted_period_ms), Colour::Orange, true),
            line("simulated", points(&|row| row.speed_up), Colour::Blue, false),
        ],
    )
}

fn page(experiment: &Experiment, model: &ModelCosts, name: &str, figure: &str, rows: &[Row]) -> String {
    let header = [
        "devices",
        "in use",
        "predicted (items/s)",
        "simulated (items/s)",
        "simulated / predicted",
        "times one device",
        "efficiency (%)",
        "latency alone, predicted (ms)",
        "latency, simulated (ms)",
    ];
    let cells = |row: &Row| {
        vec![
            row.devices.to_string(),
            row.stages.to_string(),
            format!("{:.2}", 1e3 / row.predicted_period_ms),
            format!("{:.2}", 1e3 / row.simulated_period_ms),
            format!("{:.3}", row.predicted_period_ms / row.simulated_period_ms),
            format!("{:.2}", row.speed_up),
            format!("{:.0}", 100.0 * row.speed_up / row.devices as f64),
            format!("{:.0}", row.predicted_latency_ms),
            format!("{:.0}", row.simulated_latency_ms),
        ]
    };
    let Experiment { title, speed, mbit_s, delay_ms, .. } = experiment;
    format!(
        "# {title}\n\nNothing ran here: plans for equal devices of {speed} times the core that timed the model, links of \
         {mbit_s} Mbit/s with a delay of\n{delay_ms} ms, tensors as they are. Predicted: the busiest part alone. \
         Simulated: items queue for CPUs and links, in queues as\nlong as the product's, with its usual window. Unit times \
         measured with {}.\n\n![{title}]({figure})\n\n{}\nWritten by `defer-testbed simulate experiments/{name}.toml`; \
         the same figures, unrounded, are in `results/{name}.ndjson`.\n",
        model.timed_with,
        markdown(&header, &rows.iter().map(cells).collect::<Vec<_>>()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: &str = include_str!("../../../../experiments/costs/resnet50.toml");

    #[test]
    fn the_experiment_is_right_and_scales() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../experiments/scaling.toml");
        let experiment: Experiment = common::read(&path).unwrap();
        let experiment = Experiment { devices: vec![1, 2, 8], ..experiment };
        let rows = rows(&experiment, &ModelCosts::from_toml(MODEL).unwrap()).unwrap();
        assert!((rows[0].speed_up - 1.0).abs() < 0.02, "{rows:?}");
        for pair in rows.windows(2) {
            assert!(pair[1].speed_up > pair[0].speed_up, "{rows:?}");
        }
        for row in &rows {
            // Whatever waits, nothing is faster than its busiest part.
            assert!(row.simulated_period_ms >= 0.999 * row.predicted_period_ms, "{row:?}");
            assert!(row.simulated_latency_ms >= row.predicted_latency_ms, "{row:?}");
        }
    }

    #[test]
    fn no_devices_or_far_too_many_are_refused() {
        let model = ModelCosts::from_toml(MODEL).unwrap();
        for devices in [vec![], vec![0], vec![1, 100_000]] {
            let (title, name) = ("T".to_owned(), "resnet50".to_owned());
            let experiment =
                Experiment { title, model: name, speed: 0.15, mbit_s: 1e3, delay_ms: 0.2, devices };
            assert!(rows(&experiment, &model).is_err(), "{experiment:?}");
        }
    }
}
