//! `defer plan`: where a model would be cut, before anything runs.

mod check;
mod files;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use clap::ValueEnum;
use graph::Model;
use pipeline::{Coding, Costs, Layout, PrepareOptions, Prepared, SplitOptions};
use plan::names::listed;
use plan::{Axis, Device, Objective, Options, Plan, Problem, Resources};

use super::fleet::{self, Fleet, load_model, read_cluster};
use crate::failure::Hint;
use crate::flags::{Common, Cuts, Engine, Goal, Links, Network, Nodes, Profile, duration, threads};
use crate::input::{Dims, Random};
use crate::output::plan::PlanReport;
use crate::output::report::{CutRow, cuts};
use crate::output::{json_line, line};
use crate::plan_file::PlanFile;
use crate::preprocess::{Preprocess, Settings, beside};

/// Show the best plan for a model: stages and their devices, what crosses each link, and what to expect
///
/// The parts of the model are timed on this machine with the real engine. Devices are those of --cluster, the
/// nodes that are found with --nodes, or as many equal ones as --stages says (4 if nothing does), joined by links
/// that are no limit.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  defer plan model.onnx --stages 4
  defer plan model.onnx --nodes --insecure        for the nodes of this network
  defer plan model.onnx --cluster cluster.toml --replicas
  defer plan model.onnx --cluster cluster.toml --objective devices --min-throughput 30
  defer plan model.onnx --cluster cluster.toml --html plan.html --pareto latency
  defer plan model.onnx --cluster cluster.toml -o plan.toml
  defer plan model.onnx --cluster cluster.toml --check plan.toml
  defer plan model.onnx --cuts                    all places where it can be cut")]
pub(crate) struct Args {
    /// The ONNX model
    pub(crate) model: PathBuf,
    /// List all places where the model can be cut, with bytes and the share of the cost before them
    #[arg(long, conflicts_with_all = ["output", "svg", "html", "onnx"])]
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
    /// Threads of the engine that times the parts
    #[arg(long, value_name = "N", value_parser = threads, default_value_t = 1)]
    pub(crate) threads: usize,
    /// Show the plans that trade throughput for this as well
    #[arg(long, value_name = "AGAINST", conflicts_with = "rule")]
    pub(crate) pareto: Option<Against>,
    /// Write the plan to this file, to be edited, checked and run
    #[arg(long, short, value_name = "FILE", conflicts_with = "check")]
    pub(crate) output: Option<PathBuf>,
    /// Judge the plan in this file on the same costs, beside the best one
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["pareto", "cuts", "stages", "cut", "keep_order", "rule", "max_devices"]
    )]
    pub(crate) check: Option<PathBuf>,
    /// Write the model as it is cut up to this file, with the plan as ONNX device annotations (IR version 11)
    #[arg(long, value_name = "FILE")]
    pub(crate) onnx: Option<PathBuf>,
    /// Draw the plan into this file
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Write a page with the picture and all figures
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Work to spend on the search, as the time it takes on one core, about; the same budget finds the same plan
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    pub(crate) budget: Duration,
    #[command(flatten)]
    pub(crate) goal: Goal,
    #[command(flatten)]
    pub(crate) where_cut: Cuts,
    #[command(flatten)]
    pub(crate) links: Links,
    #[command(flatten)]
    pub(crate) network: Network,
    #[command(flatten)]
    pub(crate) engine: Engine,
}

/// What is traded against throughput.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Against {
    /// The latency of an item
    Latency,
    /// The number of devices
    Devices,
}

/// Devices of a plan file at most, unless the model has more units or a cluster file says what they are.
const MAX_DEVICES: usize = 256;

/// Devices that are planned for when nothing is said.
const DEVICES: usize = 4;

pub(super) fn execute(args: Args, common: &Common) -> Result<()> {
    files::check(&args)?;
    if !args.nodes && args.network.is_given() {
        let useless =
            anyhow!("--insecure, --group and --connect say how to find nodes, and none is looked for");
        return Err(useless)
            .hint("add --nodes to plan for the nodes of this network, or leave these flags out");
    }
    let description = args.cluster.as_deref().map(read_cluster).transpose()?;
    let model = load_model(&args.model)?;
    // Of the model as it is on disk.
    let hash = model.hash();
    let given = args.check.as_deref().map(|path| PlanFile::load(path, hash)).transpose()?;
    let prepared =
        prepare(&args, given.as_ref().map(|given| &given.layout), as_pixels(&args, model), common)?;
    if let Some(path) = &args.costs {
        files::write(path, &prepared.costs().to_toml())?;
    }
    if args.cuts {
        return print_cuts(&prepared, common);
    }
    let (mut coding, mut gone) = (Coding::of(args.links.codec), Vec::new());
    let resources = match (&description, &given) {
        _ if args.nodes => {
            let costs = found(&args, given.as_ref(), &prepared, &mut gone, common)?;
            coding = costs.coding(args.links.codec);
            costs.resources()
        }
        (Some(cluster), _) => cluster.resources(),
        (None, Some(given)) => {
            let (named, units) = (given.layout.devices().count(), prepared.profile.units.len());
            ensure!(
                named <= MAX_DEVICES.max(units),
                "the plan names {named} devices for a model of {units} units; a plan without a cluster file may have \
                 {}",
                MAX_DEVICES.max(units)
            );
            tracing::warn!(
                "judged on equal devices and links that are no limit: --cluster FILE or --nodes says what they are like"
            );
            equal(given.layout.devices().map(str::to_owned))
        }
        (None, None) => {
            let count = args.where_cut.stages().unwrap_or(DEVICES.min(prepared.profile.units.len()));
            // As `defer run --spawn` calls its nodes, which such a plan is for.
            equal((1..=count).map(|i| format!("local-{i}")))
        }
    };
    let split = split(&args, resources.devices.len().min(prepared.profile.units.len()));
    let mut problem = prepared.problem(resources, &coding);
    let options = options(&prepared, &problem, &split)?;
    let (plan, mut report) = match (&given, split.rule) {
        (Some(given), _) => check::judged(&prepared, &coding, &mut problem, &options, &given.layout)?,
        (None, Some(rule)) => check::ruled(&prepared, &problem, &options, rule)?,
        (None, None) => planned(&args, &prepared, &problem, &options)?,
    };
    report.gone_nodes = gone;
    let layout = Layout::of(&prepared, &problem, &plan);
    let file = PlanFile { model: prepared.name.clone(), model_hash: hash, layout };
    files::Written { prepared: &prepared, plan: &plan, report: &report, file: &file }.write(&args)?;
    if common.json { json_line(&report) } else { line(report.text()) }
}

/// The model as `defer run` deploys it for photos, where it is said beside the model what becomes of these. An
/// annotated copy is of the model itself.
fn as_pixels(args: &Args, model: Model) -> Model {
    let settings = Some(beside(&args.model)).filter(|path| path.exists() && args.onnx.is_none());
    let settings = settings.and_then(|path| Settings::read(&path).ok());
    let photos = settings.zip(model.inputs().first());
    let photos = photos.and_then(|(settings, spec)| Preprocess::new(&settings, spec).ok());
    photos.and_then(|photos| photos.as_pixels(&model)).map_or(model, |(_, pixels)| pixels)
}

/// Measures the model.
fn prepare(args: &Args, layout: Option<&Layout>, model: Model, common: &Common) -> Result<Prepared> {
    let mut dims = Dims::new();
    for (name, size) in &args.dim {
        ensure!(dims.insert(name.clone(), *size).is_none(), "--dim {name} is given twice");
    }
    let sample = Random::new(0, &dims, model.inputs())?.item(0, model.inputs())?;
    let measuring = fleet::measuring(args.profile, args.engine.cache.as_deref())?;
    let limited = (args.cluster.is_some() || args.nodes) && !args.cuts;
    let codecs = fleet::tried(args.links.codec, layout, limited);
    let options = PrepareOptions { threads: args.threads, samples: vec![sample], codecs, ..measuring };
    let name = args.model.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let engine = args.engine.choose()?;
    fleet::prepare(model, &name, &*engine, &options, common)
}

/// What the model costs on the nodes that are there, as they were measured. The names of those that went meanwhile are put
/// into `gone`.
fn found(
    args: &Args,
    given: Option<&PlanFile>,
    prepared: &Prepared,
    gone: &mut Vec<String>,
    common: &Common,
) -> Result<Costs> {
    let (cluster, timeout, profile) = (args.cluster.clone(), args.timeout, args.profile);
    let nodes = Nodes { spawn: None, cluster, timeout, profile };
    let layout = given.map(|given| &given.layout);
    let wanted = fleet::wanted(layout, args.where_cut.stages());
    let mut fleet = Fleet::gather(&nodes, &args.network, &args.engine, wanted, common)?;
    let measured = fleet.calibrate(prepared, profile, args.engine.cache.as_deref(), common)?;
    gone.extend(measured.iter().flat_map(|measured| measured.gone.iter().cloned()));
    let description = fleet.description.as_ref();
    Ok(Costs::new(&prepared.profile, fleet.nodes(), description, measured.as_ref()))
}

/// What the planner is asked for.
fn split(args: &Args, stages: usize) -> SplitOptions {
    let mut split = args.goal.apply(args.where_cut.split());
    split.budget = Some(args.budget.as_secs_f64());
    // Devices made up for the plan, and nodes that are there, are all used unless something else is asked for.
    let free = args.cluster.is_some() || args.goal.is_given() || args.check.is_some();
    if !free && split.rule.is_none() && split.cuts.is_empty() && split.stages.is_none() {
        split.stages = Some(stages);
    }
    split
}

/// The best plan, with what is proven of it and what there is besides.
fn planned(
    args: &Args,
    prepared: &Prepared,
    problem: &Problem,
    options: &Options,
) -> Result<(Plan, PlanReport)> {
    let mut solution = plan::solve(problem, options).hint(LESS)?;
    solution.plan = solution.plan.plain_where_it_costs_nothing(problem, options.objective);
    let mut report = report::report(prepared, problem, &solution.plan);
    report.proof = Some(report::proof(&solution, options.objective));
    report.period_given_up = report::period_given_up(&solution);
    report.rules = report::rules(problem, options, &solution);
    // A number of stages that is asked for leaves no room for what more hardware would bring, unless that is just one
    // for each of the equal devices. Where it is not found, it is not said.
    let equal = args.cluster.is_none() && !args.nodes && !args.goal.is_given();
    if equal || args.where_cut.stages().is_none() {
        let outlook = plan::outlook(problem, &open(problem, options)).ok();
        report.outlook = outlook.map(|outlook| report::outlook(outlook, options.objective, &solution));
    }
    if let Some(against) = args.pareto {
        let axis = match against {
            Against::Latency => Axis::Latency,
            Against::Devices => Axis::Devices,
        };
        report.front = Some(report::front(problem, axis, &plan::front(problem, options, axis)?));
    }
    Ok((solution.plan, report))
}

/// The same, but where a stage for each device is asked for, one more device may have one too.
fn open(problem: &Problem, options: &Options) -> Options {
    let all = options.cuts.is_none() && options.stages == Some(problem.devices.len());
    Options { stages: options.stages.filter(|_| !all), ..options.clone() }
}

/// What to do when there is no plan.
const LESS: &str = "`defer plan MODEL --cuts` lists all places where the model can be cut; --min-throughput, \
                    --max-devices and the devices' memory are limits that may be in the way";

fn options(prepared: &Prepared, problem: &Problem, split: &SplitOptions) -> Result<Options> {
    let options = prepared.options(split).hint(LESS)?;
    require_power(options.objective, problem)?;
    Ok(options)
}

/// Refuses to look for the least energy where nobody knows what anything takes.
pub(super) fn require_power(objective: Objective, problem: &Problem) -> Result<()> {
    let devices = problem.devices.iter();
    let unknown: Vec<_> =
        devices.filter(|d| d.host.busy_watts <= 0.0).map(|d| format!("`{}`", d.name)).collect();
    if objective != Objective::Energy || (unknown.is_empty() && !problem.devices.is_empty()) {
        return Ok(());
    }
    let whose = if unknown.is_empty() { "the devices".to_owned() } else { listed(unknown) };
    Err(anyhow!("the power of {whose} is not known, so that no plan can be said to take the least energy"))
        .hint("give a --cluster file with idle_watts and busy_watts of each device")
}

/// Devices of the same kind, links no limit.
fn equal(names: impl Iterator<Item = String>) -> Resources {
    Resources::on_free_links(names.map(|name| Device::of_speed(name, 1.0)).collect())
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
