//! `defer plan`: where a model would be cut, before anything runs.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pipeline::{Costs, PrepareOptions, Prepared};
use plan::{Device, Resources, Solution};
use tensor::TensorSpec;

use super::fleet::{self, Fleet, load_model, read_cluster};
use crate::failure::Hint;
use crate::flags::{Common, Cuts, Engine, Network, Nodes, Profile, duration, threads};
use crate::input::{Dims, Random};
use crate::output::report::{CutRow, HopRow, PlanReport, PlanRow, cuts};
use crate::output::{json_line, line};

/// Show where a model would be cut: stages, their costs, and what crosses each link
///
/// The parts of the model are timed on this machine with the real engine. Devices are those of --cluster, the
/// nodes that are found with --nodes, or as many equal ones as --stages says (4 if nothing does), joined by links
/// that are no limit.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  defer plan model.onnx --stages 4
  defer plan model.onnx --cluster cluster.toml
  defer plan model.onnx --nodes --insecure        for the nodes of this network
  defer plan model.onnx --cuts                    all places where it can be cut")]
pub(crate) struct Args {
    /// The ONNX model
    pub(crate) model: PathBuf,
    /// List all places where the model can be cut, with bytes and the share of the cost before them
    #[arg(long)]
    pub(crate) cuts: bool,
    /// Write what the model costs to FILE: times and sizes of its units, for experiments
    #[arg(long, value_name = "FILE")]
    pub(crate) costs: Option<PathBuf>,
    /// The size of a symbolic dimension of the inputs; several times for several
    #[arg(long, value_name = "NAME=SIZE", value_parser = crate::flags::dimension)]
    pub(crate) dim: Vec<(String, usize)>,
    /// The devices and links in this file
    #[arg(long, value_name = "FILE")]
    pub(crate) cluster: Option<PathBuf>,
    /// Plan for the nodes that are found, timed and probed as `defer run` does it; with --cluster, for those in the
    /// file
    #[arg(long)]
    pub(crate) nodes: bool,
    /// Whether to time the parts again that were timed before, on this machine and with --nodes on the nodes, and to
    /// probe the links
    #[arg(long, value_name = "WHEN", default_value = "cached")]
    pub(crate) profile: Profile,
    /// Give up when the nodes are not there after this time
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s", requires = "nodes")]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) network: Network,
    /// Threads of the engine that times the parts
    #[arg(long, value_name = "N", value_parser = threads, default_value_t = 1)]
    pub(crate) threads: usize,
    #[command(flatten)]
    pub(crate) where_cut: Cuts,
    #[command(flatten)]
    pub(crate) engine: Engine,
}

/// Devices that are planned for when nothing is said.
const DEVICES: usize = 4;

pub(super) fn execute(args: Args, common: &Common) -> Result<()> {
    let description = args.cluster.as_deref().map(read_cluster).transpose()?;
    let model = load_model(&args.model)?;
    let mut dims = Dims::new();
    for (name, size) in &args.dim {
        ensure!(dims.insert(name.clone(), *size).is_none(), "--dim {name} is given twice");
    }
    let sample = Random::new(0, &dims, model.inputs())?.item(0, model.inputs())?;
    let measuring = fleet::measuring(args.profile, args.engine.cache.as_deref())?;
    let options = PrepareOptions { threads: args.threads, sample: Some(sample), ..measuring };
    let name = args.model.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let engine = args.engine.choose()?;
    let prepared = fleet::prepare(model, &name, &*engine, &options, common)?;
    if let Some(path) = &args.costs {
        let text = prepared.costs().to_toml();
        std::fs::write(path, text).with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    if args.cuts {
        return print_cuts(&prepared, common);
    }

    let resources = match (args.nodes, &description) {
        (true, _) => found(&args, &prepared, common)?,
        (false, Some(cluster)) => cluster.resources(),
        (false, None) => equal(args.where_cut.stages().unwrap_or(DEVICES.min(prepared.profile.units.len()))),
    };
    let mut split = args.where_cut.split();
    if description.is_none() && split.cuts.is_empty() {
        split.stages = Some(resources.devices.len().min(prepared.profile.units.len()));
    }
    let names: Vec<String> = resources.devices.iter().map(|d| d.name.clone()).collect();
    let solution = prepared
        .plan(resources, &split)
        .hint("`defer plan MODEL --cuts` lists all places where the model can be cut")?;
    let report = report(&prepared, &solution, &names);
    if common.json { json_line(&report) } else { line(report.text()) }
}

/// The nodes that are there, as they were measured.
fn found(args: &Args, prepared: &Prepared, common: &Common) -> Result<Resources> {
    let (cluster, timeout, profile) = (args.cluster.clone(), args.timeout, args.profile);
    let nodes = Nodes { spawn: None, cluster, timeout, profile };
    let fleet = Fleet::gather(&nodes, &args.network, &args.engine, args.where_cut.stages(), common)?;
    let measured = fleet.calibrate(prepared, profile, args.engine.cache.as_deref(), common)?;
    let description = fleet.description.as_ref();
    Ok(Costs::new(&prepared.profile, fleet.nodes(), description, measured.as_ref()).resources())
}

/// So many devices of the same kind, links no limit.
fn equal(count: usize) -> Resources {
    Resources::on_free_links((1..=count).map(|i| Device::of_speed(format!("device-{i}"), 1.0)).collect())
}

fn print_cuts(prepared: &Prepared, common: &Common) -> Result<()> {
    let profile = &prepared.profile;
    let total = profile.total_seconds();
    let mut before = 0.0;
    let rows: Vec<CutRow> = std::iter::zip(&profile.cuts, &profile.units)
        .enumerate()
        .map(|(i, (cut, unit))| {
            before += unit.seconds;
            CutRow {
                name: cut.name.clone(),
                tensors: cut.live.iter().map(|t| t.name.clone()).collect(),
                bytes: profile.boundary_bytes(i + 1),
                cost_before: before / total,
            }
        })
        .collect();
    if common.json {
        return rows.iter().try_for_each(json_line);
    }
    line(cuts(&rows))?;
    line(format_args!(
        "\n{} cuts, {:.2} ms in all with {}; --cut takes these names",
        rows.len(),
        total * 1e3,
        profile.engine
    ))
}

fn report(prepared: &Prepared, solution: &Solution, names: &[String]) -> PlanReport {
    let plan = &solution.plan;
    let profile = &prepared.profile;
    let end = |end| match end {
        plan::End::Dispatcher => "dispatcher".to_owned(),
        plan::End::Device(i) => names[i].clone(),
    };
    let tensors = |specs: &[TensorSpec]| specs.iter().map(|t| t.name.clone()).collect();
    let stages = plan.stages.iter().enumerate().map(|(i, stage)| PlanRow {
        stage: i + 1,
        device: names[stage.replicas[0].device].clone(),
        operators: prepared.positions(stage).len(),
        weight_bytes: profile.units[stage.units.clone()].iter().map(|u| u.weight_bytes).sum(),
        compute_ms: stage.replicas[0].compute_seconds * 1e3,
        busy: stage.replicas[0].busy_seconds / plan.period.max(1e-12),
        memory_bytes: stage.replicas[0].memory_bytes,
        cut: if i + 1 < plan.stages.len() { tensors(&profile.frames[stage.units.end]) } else { Vec::new() },
    });
    let links = plan.hops.iter().map(|hop| HopRow {
        from: end(hop.links[0].from),
        to: end(hop.links[0].to),
        bytes: hop.bytes,
        tensors: hop.tensors,
        ms: hop.links[0].seconds * 1e3,
    });
    PlanReport {
        engine: profile.engine.clone(),
        stages: stages.collect(),
        links: links.collect(),
        period_ms: plan.period * 1e3,
        items_per_s: 1.0 / plan.period,
        latency_ms: plan.latency * 1e3,
        bound_ms: solution.bound * 1e3,
        gap: solution.gap(),
        whole_ms: profile.total_seconds() * 1e3,
        bottleneck: match plan.bottleneck {
            plan::Resource::Device(i) => names[i].clone(),
            plan::Resource::Dispatcher => "the dispatcher".to_owned(),
            plan::Resource::Link { from, to } => format!("the link from {} to {}", end(from), end(to)),
            plan::Resource::Sending(from) => format!("what {} sends", end(from)),
            plan::Resource::Receiving(to) => format!("what {} receives", end(to)),
            plan::Resource::Medium(i) => format!("the medium {i}"),
        },
    }
}
