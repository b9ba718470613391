//! From an ONNX file to a plan: simplify, measure, split.
//!
//! Everything that can be known before a node is asked. Called by deployment and by `defer plan`.

use std::collections::HashMap;
use std::path::PathBuf;

use engine::{Engine, ModelSource, SessionOptions};
use graph::{Caveat, Cut, Model, ModelError, Rounded, Rounding, Simplified};
use plan::{Boundary, ModelCosts, Objective, Plan, PlanError, Problem, Queues, Resources, Rule, Unit};
use tensor::{Dim, Shape, SpecError, Tensor};
use wire::Codec;

use crate::coding::{CodecFigures, Coding};
use crate::engine_thread;
use crate::node::stage::{QUEUED_INPUTS, QUEUED_OUTPUTS};
use crate::profile::samples::Samples;
use crate::profile::{self, Profile, ProfileError, UnitCost, kept, spec_bytes};
use crate::store::Store;

/// CPU seconds that sending or receiving one byte takes: system call, copy and checksum on one end of a
/// link. `cargo bench -p pipeline` prints what it is on the machine at hand.
const SECONDS_PER_BYTE: f64 = 0.25e-9;

/// What medians of a few runs cannot tell apart, as a share.
pub(crate) const TIMING_ERROR: f64 = 0.03;

/// Codecs that differ by no more than this share in bytes and times are one for the planner.
const CODEC_ERROR: f64 = 0.03;

/// Cuts that are planned with at most: more than models have whose parts are worth a device each.
const MAX_CUTS: usize = 2000;

/// The engine that has 32-bit numbers only, and for which [`Model::caveats`] are errors.
const NARROW_ENGINE: &str = "rten";

/// How a model is made ready.
#[derive(Clone, Debug)]
pub struct PrepareOptions {
    /// Threads of the engine that measures.
    pub threads: usize,
    /// The most tensors that may cross a cut.
    pub max_live: usize,
    /// Items to measure with: the model is timed on one, and the codecs are tried on all of them that have the first
    /// one's types and shapes. Those that nothing varies in, or that hold what is no finite number, say nothing of others
    /// and are left out; without any, one is made up.
    pub samples: Vec<Vec<Tensor>>,
    /// Whether these are inputs as the user has them: how far tensors can be packed depends on what is in them.
    pub own_samples: bool,
    /// The codecs to try on the tensors that cross cuts, each once: a plan may use those that were tried, and raw.
    pub codecs: Vec<Codec>,
    /// The folder where figures are kept; without it the model is measured every time.
    pub store: Option<PathBuf>,
    /// Whether to measure even what is known.
    pub fresh: bool,
    /// What large weights are rounded to, so that fewer bytes are shipped; without it the model stays as it is.
    pub rounding: Option<Rounding>,
}

impl Default for PrepareOptions {
    fn default() -> PrepareOptions {
        PrepareOptions {
            threads: 1,
            max_live: 4,
            samples: Vec::new(),
            own_samples: false,
            codecs: Vec::new(),
            store: None,
            fresh: false,
            rounding: None,
        }
    }
}

/// A model that can be split.
#[derive(Debug)]
pub struct Prepared {
    /// Its name, for people.
    pub name: String,
    /// The model, simplified, with the shapes that were measured.
    pub model: Model,
    /// What simplifying changed.
    pub simplified: Simplified,
    /// What rounding changed, where it was asked for.
    pub rounded: Option<Rounded>,
    /// What it costs.
    pub profile: Profile,
}

/// A model that cannot be made ready, or not be split as asked.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The model itself.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The sample has another number of tensors than the model has inputs.
    #[error("the model takes {expected} inputs, {found} were given")]
    Inputs {
        /// The model's.
        expected: usize,
        /// Those given.
        found: usize,
    },
    /// The sample does not fit the model.
    #[error(transparent)]
    Sample(#[from] SpecError),
    /// One size of the model has two values in the sample.
    #[error("`{symbol}` is {size} in input `{input}`, but {known} in one before it")]
    Symbol {
        /// The size's name.
        symbol: String,
        /// The input that disagrees.
        input: String,
        /// Its size there.
        size: usize,
        /// Its size in an earlier input.
        known: usize,
    },
    /// The engine would silently compute something else.
    #[error(
        "operator `{}` ({}): {}, and engine {engine} would get that wrong; use ONNX Runtime: `defer engine \
         install`",
        .caveat.node, .caveat.operator, .caveat.what
    )]
    Misread {
        /// The engine.
        engine: String,
        /// What it misreads.
        caveat: Caveat,
    },
    /// Measuring it.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// A cut that the model does not have.
    #[error("the model has no cut named `{name}`{}", .closest.as_ref().map(|c| format!("; the closest is `{c}`")).unwrap_or_default())]
    UnknownCut {
        /// The name.
        name: String,
        /// A name like it.
        closest: Option<String>,
    },
    /// Splitting it.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// How a model is to be split.
#[derive(Clone, Debug, Default)]
pub struct SplitOptions {
    /// Exactly so many stages.
    pub stages: Option<usize>,
    /// Exactly at these cuts, by name.
    pub cuts: Vec<String>,
    /// Nodes follow one another as the cluster lists them; otherwise in whatever order is best.
    pub keep_order: bool,
    /// What is to be best.
    pub objective: Objective,
    /// Seconds between results at most.
    pub max_period: Option<f64>,
    /// At most so many devices.
    pub max_devices: Option<usize>,
    /// Placed by the rule of another system instead, for comparison; nothing else of this counts then.
    pub rule: Option<Rule>,
    /// Whether a stage may have several devices.
    pub replicas: bool,
    /// How much work to spend on planning: see [`plan::Options`].
    pub budget: Option<f64>,
}

impl Prepared {
    /// Simplifies, perhaps rounds, and measures a model. `progress` hears of units measured and in all.
    pub fn new(
        mut model: Model,
        name: &str,
        engine: &dyn Engine,
        options: &PrepareOptions,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Prepared, PrepareError> {
        options.samples.first().map_or(Ok(()), |item| check_item(&model, item))?;
        let Samples { items, own } = Samples::of(&options.samples, model.inputs(), options.own_samples);
        check_item(&model, &items[0])?;
        let simplified = model.simplify(&mut |bytes| fold(engine, bytes))?;
        check_caveats(&model, engine.name())?;
        // Of what is shipped: simplifying has multiplied weights by those of normalisations.
        let rounded = options.rounding.map(|rounding| model.round_weights(rounding));
        let cuts = thin(model.cuts(options.max_live), MAX_CUTS);
        let store = options.store.clone().map(Store::new);
        let key = kept::key(&model, &cuts, engine, options.threads, &items[0]);
        let known = store.as_ref().filter(|_| !options.fresh);
        let known_codec = |&codec: &Codec| kept::known_codec(known?, &key, codec, own, cuts.len() + 2);
        let mut tried: Vec<Codec> = Vec::new();
        for &codec in &options.codecs {
            if codec != Codec::RAW && !tried.contains(&codec) {
                tried.push(codec);
            }
        }
        if let Some(store) = store.as_ref().filter(|_| options.fresh) {
            tried.iter().for_each(|&codec| kept::forget_codec(store, &key, codec));
        }
        let mut codecs: Vec<CodecFigures> = tried.iter().filter_map(known_codec).collect();
        let is_known = |codec: &Codec| codecs.iter().any(|known| known.codec == *codec);
        let wanted: Vec<Codec> = tried.into_iter().filter(|codec| !is_known(codec)).collect();
        let threads = options.threads;
        let mut profile = match known.and_then(|store| kept::known(store, &key, &cuts, engine)) {
            Some(mut profile) => {
                if !wanted.is_empty() {
                    profile.codecs =
                        profile::codecs(&model, &cuts, engine, threads, items, &wanted, progress)?;
                }
                profile
            }
            None => {
                let profile = profile::profile(&model, cuts, engine, threads, items, &wanted, progress)?;
                if let Some(store) = &store {
                    kept::keep(store, &key, &profile);
                }
                profile
            }
        };
        profile.codecs.iter_mut().for_each(|figures| figures.own = own);
        if let Some(store) = &store {
            profile.codecs.iter().for_each(|figures| kept::keep_codec(store, &key, figures));
        }
        profile.codecs.append(&mut codecs);
        let shapes: HashMap<String, Shape> = profile
            .frames
            .iter()
            .flatten()
            .filter_map(|spec| Some((spec.name.clone(), spec.fixed_shape()?)))
            .collect();
        model.set_shapes(&shapes);
        Ok(Prepared { name: name.to_owned(), model, simplified, rounded, profile })
    }

    /// What it costs on these devices, with the codecs that are worth a thought there.
    pub fn problem(&self, mut resources: Resources, coding: &Coding) -> Problem {
        let unless_known = |known: f64, usual: f64| if known > 0.0 { known } else { usual };
        let dispatcher = &mut resources.dispatcher;
        dispatcher.seconds_per_byte = unless_known(dispatcher.seconds_per_byte, SECONDS_PER_BYTE);
        for device in &mut resources.devices {
            let host = &mut device.host;
            host.seconds_per_byte = unless_known(host.seconds_per_byte, SECONDS_PER_BYTE / device.speed);
        }
        let mut problem = self.costs().on(resources);
        problem.codecs = coding.codecs(&self.profile, &problem);
        problem.prune_codecs(CODEC_ERROR);
        problem
    }

    /// What it costs, whatever the devices.
    pub fn costs(&self) -> ModelCosts {
        let unit = |u: &UnitCost| Unit {
            seconds: u.seconds,
            weight_bytes: u.weight_bytes,
            activation_bytes: u.activation_bytes,
        };
        let boundaries = (0..self.profile.frames.len()).map(|i| Boundary {
            bytes: self.profile.boundary_bytes(i),
            tensors: self.profile.frames[i].len(),
        });
        ModelCosts {
            name: self.name.clone(),
            timed_with: self.profile.engine.clone(),
            units: self.profile.units.iter().map(unit).collect(),
            boundaries: boundaries.collect(),
            queues: Queues { inputs: QUEUED_INPUTS, outputs: QUEUED_OUTPUTS },
        }
    }

    /// The best plan for one of its problems, with codecs only where they are worth something; or that of a rule, if one
    /// is asked for.
    pub fn plan(&self, problem: &Problem, split: &SplitOptions) -> Result<Plan, PrepareError> {
        if let Some(rule) = split.rule {
            return Ok(plan::by_rule(problem, rule)?);
        }
        let options = self.options(split)?;
        let solution = plan::solve(problem, &options)?;
        Ok(solution.plan.plain_where_it_costs_nothing(problem, options.objective))
    }

    /// The planner's options.
    pub fn options(&self, split: &SplitOptions) -> Result<plan::Options, PrepareError> {
        let cuts = match &split.cuts[..] {
            [] => None,
            names => {
                let mut cuts = names.iter().map(|name| self.boundary(name)).collect::<Result<Vec<_>, _>>()?;
                // A set of names says it all, in whatever order.
                cuts.sort_unstable();
                Some(cuts)
            }
        };
        let defaults = plan::Options::default();
        Ok(plan::Options {
            objective: split.objective,
            max_period: split.max_period,
            stages: split.stages,
            max_devices: split.max_devices,
            cuts,
            keep_order: split.keep_order,
            replicas: split.replicas,
            slack: TIMING_ERROR,
            budget: split.budget.unwrap_or(defaults.budget),
        })
    }

    /// Operator positions of a plan's stage.
    pub fn positions(&self, stage: &plan::Stage) -> std::ops::Range<usize> {
        self.positions_of(&stage.units)
    }

    pub(crate) fn positions_of(&self, units: &std::ops::Range<usize>) -> std::ops::Range<usize> {
        self.position(units.start)..self.position(units.end)
    }

    /// Bytes of the largest tensor on any boundary.
    pub fn largest_tensor_bytes(&self) -> u64 {
        self.profile.frames.iter().flatten().filter_map(spec_bytes).max().unwrap_or(0)
    }

    fn position(&self, boundary: usize) -> usize {
        match boundary {
            0 => 0,
            n if n > self.profile.cuts.len() => self.model.operators().len(),
            n => self.profile.cuts[n - 1].position,
        }
    }

    /// The boundary of a cut.
    pub(crate) fn boundary(&self, name: &str) -> Result<usize, PrepareError> {
        let cuts = &self.profile.cuts;
        match cuts.iter().position(|cut| cut.name == name) {
            Some(i) => Ok(i + 1),
            None => {
                let closest = cuts.iter().map(|cut| &cut.name).min_by_key(|other| distance(name, other));
                Err(PrepareError::UnknownCut { name: name.to_owned(), closest: closest.cloned() })
            }
        }
    }
}

/// Of each run of neighbouring cuts the one with the fewest tensors, so that at most so many are left. Time and memory
/// of planning grow with the square of their number.
fn thin(cuts: Vec<Cut>, most: usize) -> Vec<Cut> {
    let run = cuts.len().div_ceil(most).max(1);
    let mut kept = Vec::with_capacity(cuts.len().div_ceil(run));
    for (i, cut) in cuts.into_iter().enumerate() {
        match kept.last_mut() {
            Some(best) if i % run != 0 => {
                let best: &mut Cut = best;
                if cut.live.len() < best.live.len() {
                    *best = cut;
                }
            }
            _ => kept.push(cut),
        }
    }
    kept
}

/// Whether an item is one the model takes.
pub(crate) fn check_item(model: &Model, item: &[Tensor]) -> Result<(), PrepareError> {
    let specs = model.inputs();
    if item.len() != specs.len() {
        return Err(PrepareError::Inputs { expected: specs.len(), found: item.len() });
    }
    let mut sizes: HashMap<&str, usize> = HashMap::new();
    for (spec, tensor) in specs.iter().zip(item) {
        spec.check_tensor(&tensor.view())?;
        for (dim, &size) in spec.dims.iter().flatten().zip(tensor.shape().dims()) {
            let Dim::Symbol(symbol) = dim else { continue };
            let known = *sizes.entry(symbol).or_insert(size);
            if known != size {
                let (symbol, input) = (symbol.clone(), spec.name.clone());
                return Err(PrepareError::Symbol { symbol, input, size, known });
            }
        }
    }
    Ok(())
}

/// Whether an engine, given as its name and perhaps more, is known to get some models wrong.
pub(crate) fn is_narrow(engine: &str) -> bool {
    engine.starts_with(NARROW_ENGINE)
}

/// Whether the engine of this name, and perhaps more, computes all of the model as ONNX means it. Only the
/// built-in one is known not to.
pub(crate) fn check_caveats(model: &Model, engine: &str) -> Result<(), PrepareError> {
    let caveats = if is_narrow(engine) { model.caveats() } else { Vec::new() };
    let misread = |caveat| PrepareError::Misread { engine: engine.to_owned(), caveat };
    caveats.into_iter().next().map_or(Ok(()), |caveat| Err(misread(caveat)))
}

/// Runs the constant part of a model.
fn fold(engine: &dyn Engine, bytes: &[u8]) -> Result<Vec<Tensor>, String> {
    let constant = Model::from_bytes(bytes.to_vec()).map_err(|e| e.to_string())?;
    check_caveats(&constant, engine.name()).map_err(|e| e.to_string())?;
    let options = SessionOptions::threads(1);
    engine_thread::run(|| {
        let session = engine.load(ModelSource::Bytes(bytes), &[], constant.outputs(), &options);
        let values = session.map_err(|e| e.to_string())?.run(&[]).map_err(|e| e.to_string())?;
        Ok((0..constant.outputs().len()).map(|i| values.view(i).to_tensor()).collect())
    })?
}

/// Edit distance, for suggestions.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.chars().count()]
}

#[cfg(test)]
mod tests {
    use tensor::{DType, TensorSpec};

    use super::*;

    #[test]
    fn of_too_many_cuts_those_with_the_fewest_tensors_stay() {
        let tensor = || TensorSpec { name: String::new(), dtype: DType::F32, dims: None };
        let cut = |(position, &tensors): (usize, &usize)| Cut {
            position,
            name: String::new(),
            live: (0..tensors).map(|_| tensor()).collect(),
        };
        let live = [2, 1, 3, 1, 1, 2, 4];
        for (most, kept) in [(7, &[0, 1, 2, 3, 4, 5, 6][..]), (6, &[1, 3, 4, 6]), (3, &[1, 3, 6]), (1, &[1])]
        {
            let cuts = live.iter().enumerate().map(cut).collect();
            let positions: Vec<usize> = thin(cuts, most).iter().map(|cut| cut.position).collect();
            assert_eq!(positions, kept, "{most}");
        }
        assert!(thin(Vec::new(), 5).is_empty());
    }
}
