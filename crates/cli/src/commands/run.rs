//! `defer run`: streams inputs through a chain of nodes.

use std::path::PathBuf;

use anyhow::{Context, Error, Result, ensure};
use clap::ValueEnum;
use graph::{Hash, Model, Rounding};
use pipeline::{
    Accuracy, Agreement, Coding, Layout, MAX_TRIAL_ITEMS, Options, PrepareOptions, Prepared, SplitOptions,
    Trace, Tracing,
};
use plan::Resources;
use tensor::{Tensor, TensorSpec};
use wire::{Codec, Fidelity};

use super::advice::{Fault, TAKES, fault};
use super::compare::FirstRound;
use super::fleet::{self, Fleet, load_model};
use super::plan::require_power;
use super::replicas;
use super::stream::{self, Done};
use crate::failure::{Hint, Interrupted};
use crate::flags::{
    self, Common, Cuts, Engine, Goal, Links, Network, Nodes, Photos, Profile, classes, dimension, positive,
    window,
};
use crate::input::{Dims, Items, Random};
use crate::interrupt::Interrupt;
use crate::output::answer::Classes;
use crate::output::files::Target;
use crate::output::report::{RoundedWeights, WholeReport};
use crate::output::results::Results;
use crate::output::trace::TraceFile;
use crate::plan_file::PlanFile;
use crate::preprocess::Settings;

/// Run a model over several nodes: cut it, ship the parts, stream the inputs, print the answers
///
/// Inputs are JPEG and PNG photos or folders of them, .npy arrays, and .npz files: one file is one item, with arrays
/// named as the model's inputs. How photos become tensors stands in a small TOML file beside the model.
///
/// With --json, stdout is NDJSON: one object for each item with `item`, `input`, `latency_ms`, `outputs` (for
/// each its `dtype`, `shape` and flat `data`) and, for classifiers, `class`, `label` and `confidence`; then one
/// object with the key `report`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  defer run --spawn 4 models/efficientnet_lite0.onnx models/photos
  defer run model.onnx photo.jpg --mean 127 --std 128 --channels RGB --labels names.txt
  defer run bert.onnx --random 10 --dim sequence=128 --output answers/
  defer run resnet50.onnx --random 1 --repeat 200 --cut layer2.0.relu3,layer3.0.relu3 --whole
  defer run model.onnx photos/ --cluster cluster.toml --plan plan.toml
  defer run --spawn 4 model.onnx photos/ --trace trace.json
  defer run --spawn 4 model.onnx photos/ --replicas
  defer run model.onnx photos/ --json | jq -r '.label // empty'")]
pub(crate) struct Args {
    /// The ONNX model
    pub(crate) model: PathBuf,
    /// Photos, folders of photos, .npy and .npz files
    #[arg(required_unless_present = "random")]
    pub(crate) inputs: Vec<PathBuf>,
    /// Take N items of random values instead
    #[arg(long, value_name = "N", value_parser = flags::items, conflicts_with = "inputs")]
    pub(crate) random: Option<usize>,
    /// What the random values start from
    #[arg(long, value_name = "N", default_value_t = 0, requires = "random")]
    pub(crate) seed: u64,
    /// The size of a symbolic dimension of random inputs; several times for several
    #[arg(long, value_name = "NAME=SIZE", value_parser = dimension, requires = "random")]
    pub(crate) dim: Vec<(String, usize)>,
    /// Stream all inputs N times
    #[arg(long, value_name = "N", value_parser = positive, default_value_t = 1)]
    pub(crate) repeat: usize,
    /// Most items in the chain at once [default: two for each node in use, and two more]
    #[arg(long, value_name = "N", value_parser = window)]
    pub(crate) window: Option<usize>,
    /// Run the whole model on one node as well, and print speed and largest difference beside the chain's
    #[arg(long)]
    pub(crate) whole: bool,
    /// Round the large weights, so that fewer bytes are shipped: to bf16, or to 256 steps from the least to the largest
    /// of a tensor. The whole model on one node is then the rounded one, too
    #[arg(long, value_name = "TYPE")]
    pub(crate) weights: Option<Weights>,
    /// Write the outputs: an .npz file for one item, a folder of them for several; arrays named as the outputs
    #[arg(long, short, value_name = "PATH")]
    pub(crate) output: Option<PathBuf>,
    /// Write what each node did for each item and when to this file, which ui.perfetto.dev and chrome://tracing show. Of
    /// the last thousands of items, if there are more; the file says how far the clocks of nodes may be off
    #[arg(long, value_name = "FILE.json")]
    pub(crate) trace: Option<PathBuf>,
    /// Deploy the plan in this file, which `defer plan MODEL -o FILE` writes
    #[arg(long, value_name = "FILE", conflicts_with_all = ["objective", "min_throughput", "max_devices", "replicas"])]
    #[arg(conflicts_with_all = ["stages", "cut", "keep_order", "rule", "codec"])]
    pub(crate) plan: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) goal: Goal,
    #[command(flatten)]
    pub(crate) cuts: Cuts,
    #[command(flatten)]
    pub(crate) links: Links,
    #[command(flatten)]
    pub(crate) agreement: flags::Agreement,
    #[command(flatten)]
    pub(crate) nodes: Nodes,
    #[command(flatten)]
    pub(crate) network: Network,
    #[command(flatten)]
    pub(crate) engine: Engine,
    #[command(flatten)]
    pub(crate) photos: Photos,
}

/// Items that codecs are tried on.
const SAMPLES: usize = 4;

/// What weights may be rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Weights {
    /// The nearest bfloat16
    Bf16,
    /// 256 steps from the least to the largest of a tensor
    U8,
}

impl Weights {
    fn rounding(self) -> Rounding {
        match self {
            Weights::Bf16 => Rounding::Bf16,
            Weights::U8 => Rounding::U8,
        }
    }
}

/// What rounding the weights did, for the report.
fn rounded(weights: Option<Weights>, prepared: &Prepared) -> Option<RoundedWeights> {
    let (to, rounded) = (weights?.to_possible_value()?, prepared.rounded?);
    let to = to.get_name().to_owned();
    Some(RoundedWeights { to, tensors: rounded.tensors, largest_change: rounded.largest })
}

pub(super) fn execute(args: Args, common: &Common) -> Result<()> {
    if args.plan.is_none() {
        args.agreement.check(args.links.codec)?;
    }
    let interrupt = Interrupt::listen().context("cannot listen for signals")?;
    let mut job = Job::prepare(&args)?;
    let layout = args.plan.as_deref().map(|path| PlanFile::load(path, job.hash)).transpose()?;
    let layout = layout.map(|file| file.layout);
    let engine = args.engine.choose()?;
    let wanted = fleet::wanted(layout.as_ref(), args.cuts.stages());
    let mut fleet = Fleet::gather(&args.nodes, &args.network, &args.engine, wanted, common)?;
    fleet.require_engine(args.engine.engine)?;

    let codecs = fleet.codecs(args.links.codec, layout.as_ref(), args.nodes.profile);
    let cache = args.engine.cache.as_deref();
    let measuring = fleet::measuring(args.nodes.profile, cache)?;
    let prepare = PrepareOptions {
        // More than one only says more of codecs.
        samples: job.items.samples(if codecs.is_empty() { 1 } else { SAMPLES })?,
        own_samples: args.random.is_none(),
        codecs,
        rounding: args.weights.map(Weights::rounding),
        ..measuring
    };
    let name = args.model.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let prepared = fleet::prepare(job.model.clone(), &name, &*engine, &prepare, common)?;

    let described = fleet.description.as_ref().map(plan::Cluster::resources);
    let described = described.unwrap_or_else(|| Resources::on_free_links(Vec::new()));
    require_power(
        args.goal.apply(args.cuts.split()).objective,
        &prepared.problem(described, &Coding::default()),
    )?;
    // Where everything is decided there is nothing to measure for; a coarse codec may have to give way to another.
    let decided = layout.as_ref().is_some_and(|layout| layout.fallbacks().is_empty());
    let profile = if decided { Profile::None } else { args.nodes.profile };
    let measured = fleet.calibrate(&prepared, profile, cache, common)?;
    let shipped_before = measured.as_ref().map(|measured| measured.shipped).unwrap_or_default();
    let gone = measured.as_ref().map(|measured| measured.gone.clone()).unwrap_or_default();
    let agreement = Agreement {
        limits: args.agreement.limits(),
        items: trial_items(&job.items, &args, layout.as_ref()).hint(TAKES)?,
        halves: args.agreement.is_given(),
    };
    let mut options = Options {
        split: args.goal.apply(args.cuts.split()),
        layout,
        description: fleet.description.clone(),
        measured,
        rehearse: fleet.rehearses(),
        accuracy: args.links.codec,
        agreement,
        window: args.window,
        ..Options::default()
    };
    let free = args.nodes.cluster.is_some() || args.goal.is_given();
    // Nothing that is asked for stands against several nodes to a stage.
    let split = &options.split;
    let free_choice = !args.goal.is_given()
        && args.plan.is_none()
        && split.stages.is_none()
        && split.cuts.is_empty()
        && !split.keep_order
        && split.rule.is_none();
    let decided = options.layout.is_some() || options.split.rule.is_some();
    if options.split.stages.is_none() && options.split.cuts.is_empty() && !free && !decided {
        // Nodes that were started or asked for are all used; a cluster file or a goal leaves the choice to the
        // planner, a plan or a rule leaves none.
        options.split.stages = Some(fleet.nodes().len().min(prepared.profile.units.len()));
    }
    let mut results = Results::new(
        prepared.model.outputs(),
        job.classes.take(),
        job.target.take(),
        job.items.distinct(),
        common.json,
    );
    let mut first_round = FirstRound::new(args.whole, job.items.distinct());
    let chain = fleet.deploy(&prepared, &options, common).map_err(|error| {
        at_work(
            &fleet,
            error,
            "`defer plan MODEL --cuts` lists the cuts, `defer nodes` the nodes with their memory; \
             fewer --stages or more nodes may help",
        )
    })?;
    interrupt.hold();
    fleet.learn_rehearsal(&prepared, profile, cache, &chain)?;
    let tracing = job.trace.is_some().then(|| chain.trace()).transpose();
    let tracing = tracing.map_err(|error| streaming(&fleet, error.into()))?;
    let streamed =
        stream::stream(&chain, &mut job.items, args.window, "chain", &interrupt, common, &mut |done| {
            first_round.keep(&done);
            let views: Vec<_> = done.outputs.iter().map(Tensor::view).collect();
            results.take(done.index, &done.name, &views, done.latency)
        });
    let streamed = match streamed {
        Ok(streamed) => streamed,
        Err(error) => {
            // What came before is worth something. Whoever does not take it is told why there is no more all the same.
            let _ = results.answers();
            return Err(streaming(&fleet, error));
        }
    };
    let mut report = streamed.report(&chain);
    report.shipped_weight_bytes += shipped_before.bytes;
    report.shipped_wire_bytes += shipped_before.wire_bytes;
    report.rounded_weights = rounded(args.weights, &prepared);
    let used = |id: &str| chain.stages().iter().any(|stage| stage.node.id == id);
    let unused =
        fleet.nodes().iter().filter(|node| !used(&node.id)).map(|node| node.description.name.clone());
    report.unused_nodes = unused.collect();
    report.gone_nodes = gone;
    if free_choice && !stream::share_cores(&chain) {
        report.with_replicas = replicas::promise(&prepared, chain.costs(), &options, &chain);
    }
    let traced = tracing.map(Tracing::finish).transpose().map_err(|error| streaming(&fleet, error.into()));
    let traced = traced.and_then(|trace| write_trace(job.trace.take(), &name, trace.as_ref()));
    // What a chain does while it fills and empties is no measure of what it does when it is full.
    if let Some(figures) = streamed.steady() {
        fleet.learn(&prepared, profile, cache, &chain, figures)?;
    }
    chain.close();

    let mut whole = Ok(());
    if args.whole && !interrupt.asked() {
        let run = || whole_model(&fleet, &prepared, options, job.items, first_round, &interrupt, common);
        whole = run().map(|figures| report.whole_model = Some(figures));
    }
    // What the chain did is said in any case.
    results.finish(&report)?;
    traced?;
    whole?;
    if interrupt.asked() { Err(Interrupted.into()) } else { Ok(()) }
}

fn write_trace(file: Option<TraceFile>, model: &str, trace: Option<&Trace>) -> Result<()> {
    match (file, trace) {
        (Some(file), Some(trace)) => file.write(model, trace),
        _ => Ok(()),
    }
}

/// The items that codecs are tried on, if the chain may have such as are tried.
fn trial_items(items: &Items, args: &Args, layout: Option<&Layout>) -> Result<Vec<Vec<Tensor>>> {
    let least = match layout {
        Some(layout) => layout.codecs().map(Codec::fidelity).min(),
        None => Some(args.links.codec.fidelity()),
    };
    let questionable = if args.agreement.is_given() { Fidelity::Half } else { Fidelity::Coarse };
    let named = layout.is_none() && matches!(args.links.codec, Accuracy::Only(_));
    let tried = !named && least.is_some_and(|least| least <= questionable);
    let items = if tried { items.few(MAX_TRIAL_ITEMS)? } else { Vec::new() };
    Ok(items.into_iter().map(|item| item.tensors).collect())
}

/// A deployment that failed, with what to do: `otherwise`, unless the first items had a part in it, or a node failed.
fn at_work(fleet: &Fleet, error: Error, otherwise: &str) -> Error {
    advise(error, &|fault| match fault {
        Fault::Item => Some(TAKES.to_owned()),
        Fault::Nodes => Some(fleet.look()),
        Fault::Lost => {
            Some(fleet.look_or(&format!("{}. If it ran out of memory: {otherwise}", fleet.messages())))
        }
        Fault::Deployment | Fault::Other => Some(fleet.look_or(otherwise)),
    })
}

/// A stream that failed, with what to do. What a disk or a terminal says speaks for itself.
fn streaming(fleet: &Fleet, error: Error) -> Error {
    advise(error, &|fault| match fault {
        Fault::Item => Some(TAKES.to_owned()),
        Fault::Nodes | Fault::Lost | Fault::Deployment => Some(fleet.look()),
        Fault::Other => None,
    })
}

fn advise(error: Error, advice: &dyn Fn(Fault) -> Option<String>) -> Error {
    match advice(fault(&error)) {
        Some(advice) => Err::<(), _>(error).hint(advice).expect_err("it is an error"),
        None => error,
    }
}

/// Streams the same items through the whole model on one node.
fn whole_model(
    fleet: &Fleet,
    prepared: &Prepared,
    chain: Options,
    mut items: Items,
    mut first_round: FirstRound,
    interrupt: &Interrupt,
    common: &Common,
) -> Result<WholeReport> {
    let split = SplitOptions { stages: Some(1), ..SplitOptions::default() };
    // What the chain is compared with has lost nothing.
    let options = Options {
        split,
        layout: None,
        description: None,
        rehearse: false,
        accuracy: Accuracy::Exact,
        ..chain
    };
    items.rewind();
    let whole = fleet.deploy(prepared, &options, common).context("cannot run the whole model on one node");
    let whole = whole.map_err(|error| {
        at_work(
            fleet,
            error,
            "the whole model may not fit one node, which is what the chain is for: leave --whole out, \
             or give a node more --memory",
        )
    })?;
    let compare = &mut |done: Done| first_round.compare(&done);
    let streamed =
        stream::stream(&whole, &mut items, options.window, "whole model", interrupt, common, compare);
    let streamed = streamed.context("while the whole model ran on one node");
    let streamed = streamed.map_err(|error| streaming(fleet, error))?;
    let report = streamed.whole_report(first_round.compared());
    whole.close();
    Ok(report)
}

/// A run whose inputs are known to be right; no node has been spoken to yet.
pub(crate) struct Job {
    /// The model, with what makes numbers of pixels in front where all items are photos.
    pub(crate) model: Model,
    /// Of the model as it is on disk.
    pub(crate) hash: Hash,
    /// The items, of which the first has been made once to see that it can be.
    pub(crate) items: Items,
    /// How outputs are read as classes, where the settings beside the model say that they are.
    pub(crate) classes: Option<Classes>,
    /// Where outputs are written.
    pub(crate) target: Option<Target>,
    /// Where is written what nodes did and when.
    pub(crate) trace: Option<TraceFile>,
}

impl Job {
    /// Reads the model and the first input, and checks everything that can be checked on this machine.
    pub(crate) fn prepare(args: &Args) -> Result<Job> {
        let model = load_model(&args.model)?;
        let settings = args.photos.settings(&args.model)?;
        let (hash, items) = (model.hash(), items(args, model.inputs(), &settings).hint(TAKES)?);
        let (mut items, model) = items.into_pixels(model);
        items.check_first().hint(TAKES)?;
        let classes = classes(&settings, model.outputs())
            .hint("a file of labels has one name for each class, in the order of the output; --labels names another")?;
        let target = args.output.as_deref().map(|path| Target::new(path, items.len())).transpose();
        let target =
            target.hint("--output takes a folder that you may write to, or a file.npz for one item")?;
        let trace = args.trace.as_deref().map(TraceFile::create).transpose();
        let trace = trace.hint("--trace takes a file in a folder that you may write to")?;
        Ok(Job { model, hash, items, classes, target, trace })
    }
}

fn items(args: &Args, specs: &[TensorSpec], settings: &Settings) -> Result<Items> {
    let Some(count) = args.random else {
        return Items::from_paths(&args.inputs, specs, settings, args.repeat);
    };
    let mut dims = Dims::new();
    for (name, size) in &args.dim {
        ensure!(dims.insert(name.clone(), *size).is_none(), "--dim {name} is given twice");
    }
    Ok(Items::random(Random::new(args.seed, &dims, specs)?, specs, count, args.repeat))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;
    use engine::{Engine as _, ModelSource, Rten, SessionOptions};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    /// Runs every item through the built-in engine and gives the names of the answers.
    fn names(model: &str, inputs: &str) -> Vec<String> {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
        let path = models.join(model);
        let line = ["run".into(), path.clone().into_os_string(), models.join(inputs).into_os_string()];
        let job = Job::prepare(&Line::parse_from(line).args).unwrap();
        let (inputs, outputs) = (job.model.inputs(), job.model.outputs());
        let (options, bytes) = (SessionOptions::threads(1), job.model.to_bytes().unwrap());
        let mut session = Rten.load(ModelSource::Bytes(&bytes), inputs, outputs, &options).unwrap();
        let classes = job.classes.unwrap();
        job.items
            .map(|item| {
                let outputs = session.run(&[item.unwrap().tensors[0].view()]).unwrap();
                let answer = classes.best(&outputs.view(0)).unwrap().answer().unwrap();
                assert!((0.25..=1.0).contains(&answer.confidence), "{answer:?}");
                answer.name()
            })
            .collect()
    }

    /// What travels is a quarter of the bytes, and what comes of it the same, but for how an engine divides: the
    /// built-in one multiplies by the inverse, which rounds where that is no power of two.
    #[test]
    fn pixels_give_the_same_as_the_numbers_made_from_them() {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
        for (file, inputs) in [("efficientnet_lite0.onnx", "photos"), ("resnet20_mnist.onnx", "digits")] {
            let path = models.join(file);
            let line = ["run".into(), path.clone().into_os_string(), models.join(inputs).into_os_string()];
            let args = Line::parse_from(line).args;
            let (pixels, floats) = (Job::prepare(&args).unwrap(), load_model(&path).unwrap());
            let settings = args.photos.settings(&path).unwrap();
            let items = items(&args, floats.inputs(), &settings).unwrap();
            let run = |model: &Model, item: &Tensor| {
                let (options, bytes) = (SessionOptions::threads(1), model.to_bytes().unwrap());
                let mut session =
                    Rten.load(ModelSource::Bytes(&bytes), model.inputs(), model.outputs(), &options).unwrap();
                session.run(&[item.view()]).unwrap().view(0).to_tensor()
            };
            for (bytes, numbers) in pixels.items.zip(items) {
                let (bytes, numbers) = (&bytes.unwrap().tensors[0], &numbers.unwrap().tensors[0]);
                assert_eq!(bytes.bytes().len() * 4, numbers.bytes().len(), "{file}");
                let (found, expected) = (run(&pixels.model, bytes), run(&floats, numbers));
                let (found, expected) =
                    (found.as_slice::<f32>().unwrap(), expected.as_slice::<f32>().unwrap());
                let range = expected.iter().fold(0f32, |most, value| most.max(value.abs()));
                let limit = if file.starts_with("efficientnet") { 0.0 } else { 1e-5 * range };
                let differ = |(a, b): (&f32, &f32)| (a - b).abs() > limit;
                assert!(!std::iter::zip(found, expected).any(differ), "{file}: {found:?}, not {expected:?}");
            }
        }
    }

    /// From the file on disk to the label: settings, photo, tensor, engine, softmax.
    #[test]
    fn the_vendored_photos_and_digits_are_named_right() {
        let photos = [
            "Granny Smith apple",
            "baboon",
            "a cat having a striped coat",
            "espresso",
            "lemon",
            "orange",
            "missile",
            "fox squirrel",
        ];
        assert_eq!(names("efficientnet_lite0.onnx", "photos"), photos);
        let digits: Vec<String> = (0..10).map(|digit| format!("class {digit}")).collect();
        for model in ["resnet20_mnist.onnx", "resnet20_mnist_int8_qdq.onnx"] {
            assert_eq!(names(model, "digits"), digits, "{model}");
        }
    }
}
