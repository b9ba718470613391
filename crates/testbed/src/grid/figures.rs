//! The pictures of an experiment, from the runs that were written down. Pure.

use anyhow::Result;

use super::experiment::{Experiment, Figure, Value};
use super::row::Row;
use super::text::calm;
use crate::chart::{Bar, Colour, Line, bars, lines};
use crate::kinds::{kinds, over, spread};

/// What configurations whose name begins so are not of our making, and what is held against.
const THEIRS: [&str; 5] = ["defer-paper", "its codec", "equal", "speed", "memory"];

/// The SVG of a figure; `None` while there are no runs for it, and for one that is not drawn from rows.
pub(super) fn draw(figure: &Figure, experiment: &Experiment, rows: &[Row]) -> Result<Option<String>> {
    let of = |cluster: &str, model: &str| {
        let here = rows.iter().filter(|row| row.cluster == cluster && row.model == model);
        kinds(here, |row| row.configuration.clone())
    };
    match figure {
        Figure::Bars { title, model, cluster, value } => {
            let shown = of(cluster, model).into_iter().enumerate();
            let shown: Vec<Bar> = shown.map(|(i, kind)| bar(i, &calm(&kind), *value)).collect();
            // Devices of 0 W take no energy: there is nothing to see.
            let any = shown.iter().any(|bar| bar.value > 0.0);
            any.then(|| bars(title, value.unit(), &shown)).transpose()
        }
        Figure::SpeedUp { title, model, clusters, configuration, over } => {
            let point = |cluster: &String| {
                let devices = experiment.devices(cluster)? as f64;
                let (measured, predicted) = speed_up(&of(cluster, model), configuration, over)?;
                Some((devices, measured, predicted))
            };
            let points: Vec<(f64, f64, f64)> = clusters.iter().filter_map(point).collect();
            (!points.is_empty()).then(|| scaling(title, over, &points)).transpose()
        }
        Figure::Curve { title, model, cluster, configuration } => {
            let kinds = of(cluster, model);
            let named = |name: &String| kinds.iter().find(|kind| kind[0].configuration == *name);
            let windows = experiment.names(configuration);
            let shown: Vec<Vec<&Row>> = windows.iter().filter_map(named).map(|kind| calm(kind)).collect();
            (!shown.is_empty()).then(|| curve(title, &shown)).transpose()
        }
        Figure::Gantt { .. } => Ok(None),
    }
}

impl Value {
    fn unit(self) -> &'static str {
        match self {
            Value::Rate => "items/s",
            Value::Joules => "J for an item, modelled",
            Value::JoulesPerNode => "J for an item and node, modelled",
        }
    }

    fn of(self, row: &Row) -> f64 {
        match self {
            Value::Rate => row.rate(),
            Value::Joules => row.joules(),
            Value::JoulesPerNode => row.joules_per_node(),
        }
    }
}

/// The bar of runs of one kind; the first is what all others are held against.
fn bar(place: usize, rows: &[&Row], value: Value) -> Bar {
    let label = rows[0].configuration.clone();
    let theirs = THEIRS.iter().any(|name| label.starts_with(name));
    let colour = match (place, theirs) {
        (0, _) => Colour::Sky,
        (_, true) => Colour::Orange,
        _ => Colour::Blue,
    };
    Bar { value: over(rows, |row| value.of(row)), range: spread(rows, |row| value.of(row)), label, colour }
}

/// How many times as fast as `base` a configuration is, measured and predicted.
fn speed_up(kinds: &[Vec<&Row>], configuration: &str, base: &str) -> Option<(f64, f64)> {
    let of = |name: &str| kinds.iter().find(|kind| kind[0].configuration == name).map(|kind| calm(kind));
    let (fast, base) = (of(configuration)?, over(&of(base)?, Row::rate));
    Some((over(&fast, Row::rate) / base, over(&fast, |row| 1e3 / row.predicted.period_ms) / base))
}

fn scaling(title: &str, over: &str, points: &[(f64, f64, f64)]) -> Result<String> {
    let most = points.iter().map(|point| point.0).fold(1.0, f64::max);
    let line = |label, points: Vec<(f64, f64)>, colour, dashed| Line { label, points, colour, dashed };
    let joined = |value: fn(&(f64, f64, f64)) -> f64| {
        std::iter::once((1.0, 1.0)).chain(points.iter().map(|point| (point.0, value(point)))).collect()
    };
    lines(
        title,
        "devices",
        &format!("times as fast as {over}"),
        &[
            line("as many times", vec![(1.0, 1.0), (most, most)], Colour::Sky, true),
            line("predicted", joined(|point| point.2), Colour::Orange, true),
            line("measured", joined(|point| point.1), Colour::Blue, false),
        ],
    )
}

/// Latency over throughput, from the least window to the largest, and where the plan says that an item alone and a full
/// chain would be.
fn curve(title: &str, windows: &[Vec<&Row>]) -> Result<String> {
    let points = |figure: &dyn Fn(&Row) -> (f64, f64)| -> Vec<(f64, f64)> {
        let point = |rows: &Vec<&Row>| (over(rows, |row| figure(row).0), over(rows, |row| figure(row).1));
        windows.iter().map(point).collect()
    };
    let line = |label, points: Vec<(f64, f64)>, colour, dashed| Line { label, points, colour, dashed };
    let planned = |row: &Row| (1e3 / row.predicted.period_ms, row.predicted.latency_ms);
    let last = windows.len() - 1;
    let mut shown = vec![
        line("99th percentile", points(&|row| (row.rate(), row.latency_ms_p99)), Colour::Orange, false),
        line("median", points(&|row| (row.rate(), row.latency_ms)), Colour::Blue, false),
        line("the plan", points(&planned)[last..].to_vec(), Colour::Black, false),
    ];
    if windows.iter().flatten().all(|row| row.simulated.is_some()) {
        let simulated = |row: &Row| row.simulated.map_or((0.0, 0.0), |s| (1e3 / s.period_ms, s.latency_ms));
        shown.push(line("simulated", points(&simulated), Colour::Sky, true));
    }
    lines(title, "items/s", "latency (ms)", &shown)
}
