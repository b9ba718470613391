//! `defer run`: streams inputs through a chain of nodes.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use graph::Model;
use pipeline::{Options, PrepareOptions, SplitOptions};
use tensor::{Tensor, TensorSpec};

use super::fleet::{self, Fleet, load_model};
use super::stream::{self, Done};
use crate::failure::{Hint, Interrupted};
use crate::flags::{CodecName, Common, Cuts, Engine, Network, Nodes, Photos, classes, dimension, positive};
use crate::input::{Dims, Items, Random};
use crate::interrupt::Interrupt;
use crate::output::answer::Classes;
use crate::output::difference;
use crate::output::files::Target;
use crate::output::results::Results;
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
  defer run resnet50.onnx --random 1 --repeat 200 --cut add_3,add_7 --whole
  defer run model.onnx item.npz --json | jq .outputs")]
pub(crate) struct Args {
    /// The ONNX model
    pub(crate) model: PathBuf,
    /// Photos, folders of photos, .npy and .npz files
    #[arg(required_unless_present = "random")]
    pub(crate) inputs: Vec<PathBuf>,
    /// Take N items of random values instead
    #[arg(long, value_name = "N", value_parser = positive, conflicts_with = "inputs")]
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
    /// Most items in the chain at once [default: two for each stage, and two more]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) window: Option<usize>,
    /// How tensors travel between nodes
    #[arg(long, value_name = "NAME", default_value = "raw")]
    pub(crate) codec: CodecName,
    /// Run the whole model on one node as well, and print speed and largest difference beside the chain's
    #[arg(long)]
    pub(crate) whole: bool,
    /// Write the outputs: an .npz file for one item, a folder of them for several; arrays named as the outputs
    #[arg(long, short, value_name = "PATH")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) cuts: Cuts,
    #[command(flatten)]
    pub(crate) nodes: Nodes,
    #[command(flatten)]
    pub(crate) network: Network,
    #[command(flatten)]
    pub(crate) engine: Engine,
    #[command(flatten)]
    pub(crate) photos: Photos,
}

pub(super) fn execute(args: Args, common: &Common) -> Result<()> {
    let interrupt = Interrupt::listen().context("cannot listen for signals")?;
    let mut job = Job::prepare(&args)?;
    let engine = args.engine.choose()?;
    let fleet = Fleet::gather(&args.nodes, &args.network, &args.engine, args.cuts.stages(), common)?;
    fleet.require_engine(args.engine.engine)?;

    let sample = job.items.first()?;
    let prepare = PrepareOptions { sample: sample.map(|item| item.tensors), ..PrepareOptions::default() };
    let name = args.model.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let prepared = fleet::prepare(job.model.clone(), &name, &*engine, &prepare, common)?;

    let mut options = Options {
        split: args.cuts.split(),
        description: fleet.description.clone(),
        codec: args.codec.into(),
        window: args.window,
        ..Options::default()
    };
    if options.split.stages.is_none() && options.split.cuts.is_empty() && args.nodes.cluster.is_none() {
        // Nodes that were started or asked for are all used; a cluster file leaves the choice to the planner.
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
    let chain = fleet.deploy(&prepared, &options, common)?;
    interrupt.hold();
    let streamed = stream::stream(&chain, &mut job.items, "chain", &interrupt, common, &mut |done| {
        first_round.keep(&done);
        let views: Vec<_> = done.outputs.iter().map(Tensor::view).collect();
        results.take(done.index, &done.name, &views, done.latency)
    });
    let streamed =
        streamed.hint("the nodes' own messages may say more; `defer nodes` shows which are there")?;
    let mut report = streamed.report(&chain);
    chain.close();

    if args.whole && !interrupt.asked() {
        options.split = SplitOptions { stages: Some(1), cuts: vec![] };
        options.description = None;
        job.items.rewind();
        let whole = fleet.deploy(&prepared, &options, common)?;
        let streamed =
            stream::stream(&whole, &mut job.items, "whole model", &interrupt, common, &mut |done| {
                first_round.compare(&done)
            })?;
        report.whole_model =
            Some(streamed.whole_report(first_round.largest_difference, first_round.largest_output));
        whole.close();
    }
    results.finish(&report)?;
    if interrupt.asked() { Err(Interrupted.into()) } else { Ok(()) }
}

/// The chain's answers to the items that differ, to hold the whole model's against.
struct FirstRound {
    wanted: usize,
    outputs: Vec<Vec<Tensor>>,
    kept_bytes: usize,
    largest_difference: f64,
    largest_output: f64,
}

/// Answers are kept up to so many bytes; items after that are not compared.
const COMPARED_BYTES: usize = 256 << 20;

impl FirstRound {
    fn new(compare: bool, distinct: usize) -> FirstRound {
        let wanted = if compare { distinct } else { 0 };
        FirstRound {
            wanted,
            outputs: Vec::new(),
            kept_bytes: 0,
            largest_difference: 0.0,
            largest_output: 0.0,
        }
    }

    fn keep(&mut self, done: &Done) {
        let bytes: usize = done.outputs.iter().map(|t| t.bytes().len()).sum();
        if done.index < self.wanted && self.kept_bytes + bytes <= COMPARED_BYTES {
            self.kept_bytes += bytes;
            self.outputs.push(done.outputs.clone());
        } else {
            self.wanted = self.outputs.len();
        }
    }

    fn compare(&mut self, done: &Done) -> Result<()> {
        for (a, b) in done.outputs.iter().zip(self.outputs.get(done.index).into_iter().flatten()) {
            let difference = difference::largest(&a.view(), &b.view())?;
            self.largest_difference = self.largest_difference.max(difference);
            self.largest_output = self.largest_output.max(difference::magnitude(&a.view())?);
        }
        Ok(())
    }
}

/// A run whose inputs are known to be right; no node has been spoken to yet.
pub(crate) struct Job {
    pub(crate) model: Model,
    /// The items, of which the first has been made once to see that it can be.
    pub(crate) items: Items,
    /// How outputs are read as classes, where the settings beside the model say that they are.
    pub(crate) classes: Option<Classes>,
    /// Where outputs are written.
    pub(crate) target: Option<Target>,
}

impl Job {
    /// Reads the model and the first input, and checks everything that can be checked on this machine.
    pub(crate) fn prepare(args: &Args) -> Result<Job> {
        let model = load_model(&args.model)?;
        let settings = args.photos.settings(&args.model)?;
        let mut items = items(args, model.inputs(), &settings).hint(TAKES)?;
        items.check_first().hint(TAKES)?;
        let classes = classes(&settings)?;
        let target = args.output.as_deref().map(|path| Target::new(path, items.len())).transpose();
        let target =
            target.hint("--output takes a folder that you may write to, or a file.npz for one item")?;
        Ok(Job { model, items, classes, target })
    }
}

/// What to do about an input that is not right.
const TAKES: &str = "`defer run --help` says what inputs can be, with examples";

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
        let options = SessionOptions::threads(1);
        let mut session = Rten.load(ModelSource::File(&path), inputs, outputs, &options).unwrap();
        let classes = job.classes.unwrap();
        job.items
            .map(|item| {
                let outputs = session.run(&[item.unwrap().tensors[0].view()]).unwrap();
                let answer = classes.best(&outputs.view(0)).unwrap().unwrap();
                assert!((0.25..=1.0).contains(&answer.confidence), "{answer:?}");
                answer.name()
            })
            .collect()
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
