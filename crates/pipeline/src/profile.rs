//! What a model costs: its units timed with the real engine, its cuts measured with a real item.
//!
//! Units run one after the other, each on what the one before gave, so that only one of them is in memory
//! at a time.

pub(crate) mod kept;
pub(crate) mod samples;

use std::ops::Range;
use std::time::Duration;

use engine::{Engine, LoadError, ModelSource, RunError, SessionOptions};
use graph::{Cut, Model, Route, Stage, StageError};
use half::{bf16, f16};
use tensor::{Shape, Tensor, TensorSpec};

use wire::Codec;

use crate::coding::{CodecFigures, Trial};
use crate::engine_thread;
use crate::timing::{self, Caches, Timing};

/// Repeats of one unit end after this long, however wide its interval still is.
const TIME_PER_UNIT: Duration = Duration::from_millis(100);

/// A model's units and the cuts between them.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Cuts between the units: one less than units.
    pub cuts: Vec<Cut>,
    /// The units, in the model's order.
    pub units: Vec<UnitCost>,
    /// Shapes and types of the tensors before the first unit, between units, and after the last.
    pub frames: Vec<Vec<TensorSpec>>,
    /// The engine that ran them, with its version.
    pub engine: String,
    /// What codecs make of the tensors between units, for those that were tried.
    pub codecs: Vec<CodecFigures>,
}

/// What one unit costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UnitCost {
    /// Median time of a run, seconds.
    pub seconds: f64,
    /// How far the median's interval reaches, seconds: see [`Timing`].
    pub half_width_seconds: f64,
    /// Operators in it.
    pub operators: usize,
    /// Bytes of its weights.
    pub weight_bytes: u64,
    /// Peak of the tensors alive while it runs, bytes, those that enter and leave it included: what the process
    /// grew by, and at least those two, which is all that is known where the system does not tell.
    pub activation_bytes: u64,
}

/// A model that could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// A unit cannot be cut out.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The engine refuses a unit.
    #[error("the operators from {first} on: {source}")]
    Load {
        /// Name of the unit's first operator.
        first: String,
        /// Why.
        source: LoadError,
    },
    /// The engine fails on a unit.
    #[error("the operators from {first} on: {source}")]
    Run {
        /// Name of the unit's first operator.
        first: String,
        /// Why.
        source: RunError,
    },
    /// The engine breaks down on a unit.
    #[error("the operators from {first} on: with {engine}, {reason}")]
    Engine {
        /// Name of the unit's first operator.
        first: String,
        /// The engine.
        engine: &'static str,
        /// What it said.
        reason: String,
    },
}

impl Profile {
    /// Bytes that cross at boundary `i`: 0 is the model's input.
    pub fn boundary_bytes(&self, i: usize) -> u64 {
        self.frames[i].iter().filter_map(spec_bytes).sum()
    }

    /// Whether it is known what a codec makes of the model's tensors.
    pub fn knows(&self, codec: Codec) -> bool {
        codec == Codec::RAW || self.codecs.iter().any(|known| known.codec == codec)
    }

    /// Whether sizes of encoded tensors are those of a user's own inputs; `None` where no codec was tried.
    pub fn sizes_of_own_inputs(&self) -> Option<bool> {
        (!self.codecs.is_empty()).then(|| self.codecs.iter().all(|figures| figures.own))
    }

    /// Peak of the tensors alive while these units run as one, when the process grew by so many bytes meanwhile: what
    /// [`UnitCost::activation_bytes`] is of one.
    pub(crate) fn peak_bytes(&self, units: &Range<usize>, growth: u64) -> u64 {
        self.boundary_bytes(units.start).saturating_add(self.boundary_bytes(units.end).max(growth))
    }

    /// Seconds of the whole model.
    pub fn total_seconds(&self) -> f64 {
        self.units.iter().map(|u| u.seconds).sum()
    }

    /// How far [`Profile::total_seconds`] can be trusted, seconds, with [`CONFIDENCE`](crate::CONFIDENCE): what moves
    /// one unit's time is taken to be independent of the others.
    pub fn half_width_seconds(&self) -> f64 {
        self.units.iter().map(|u| u.half_width_seconds.powi(2)).sum::<f64>().sqrt()
    }
}

/// Bytes of a tensor whose sizes are all known.
pub(crate) fn spec_bytes(spec: &TensorSpec) -> Option<u64> {
    Some(spec.dtype.byte_len(spec.fixed_shape()?.elements()?)? as u64)
}

/// Measures `model` between `cuts` on the first of some items, and what `codecs` make of what crosses them with all of
/// these, on average. `progress` hears of units done and in all.
///
/// # Panics
/// Without items.
pub fn profile(
    model: &Model,
    cuts: Vec<Cut>,
    engine: &dyn Engine,
    threads: usize,
    items: Vec<Vec<Tensor>>,
    codecs: &[Codec],
    progress: &dyn Fn(usize, usize),
) -> Result<Profile, ProfileError> {
    let mut timed = Vec::new();
    let mut run = |stage: &Stage, first: &str, frames: Frames| {
        let (timing, growth, next) = time(stage, first, engine, threads, &frames, TIME_PER_UNIT)?;
        timed.push((timing, growth, stage.operators, stage.weight_bytes()));
        Ok(next)
    };
    let Walked { frames, codecs } = walk(model, &cuts, engine, items, codecs, progress, &mut run)?;
    let crossing = |i: usize| frames[i].iter().filter_map(spec_bytes).sum::<u64>();
    let units =
        timed.into_iter().enumerate().map(|(i, (timing, growth, operators, weight_bytes))| UnitCost {
            seconds: timing.seconds,
            half_width_seconds: timing.half_width_seconds,
            operators,
            weight_bytes,
            activation_bytes: crossing(i) + crossing(i + 1).max(growth.unwrap_or(0)),
        });
    let units = units.collect();
    Ok(Profile { cuts, units, frames, engine: title(engine), codecs })
}

/// What `codecs` make of what crosses `cuts`, where the units' times are known.
pub(crate) fn codecs(
    model: &Model,
    cuts: &[Cut],
    engine: &dyn Engine,
    threads: usize,
    items: Vec<Vec<Tensor>>,
    codecs: &[Codec],
    progress: &dyn Fn(usize, usize),
) -> Result<Vec<CodecFigures>, ProfileError> {
    let mut run = |stage: &Stage, first: &str, frames: Frames| {
        time(stage, first, engine, threads, &frames, Duration::ZERO).map(|(_, _, next)| next)
    };
    walk(model, cuts, engine, items, codecs, progress, &mut run).map(|walked| walked.codecs)
}

/// What was seen on the way through a model.
struct Walked {
    frames: Vec<Vec<TensorSpec>>,
    codecs: Vec<CodecFigures>,
}

/// What crosses a boundary, of each item.
type Frames = Vec<Vec<Tensor>>;

/// What gives a unit's frames for those before it, with the name of its first operator.
type Run<'a> = dyn FnMut(&Stage, &str, Frames) -> Result<Frames, ProfileError> + Send + 'a;

/// Runs items through the units, one unit after the other: `run` gives what a unit makes of the items' frames. Shapes
/// are those of the first item.
fn walk(
    model: &Model,
    cuts: &[Cut],
    engine: &dyn Engine,
    items: Vec<Vec<Tensor>>,
    codecs: &[Codec],
    progress: &dyn Fn(usize, usize),
    run: &mut Run<'_>,
) -> Result<Walked, ProfileError> {
    let mut positions = vec![0];
    positions.extend(cuts.iter().map(|c| c.position));
    positions.push(model.operators().len());
    let names = |tensors: &[Tensor], specs: &[TensorSpec]| -> Vec<TensorSpec> {
        let fixed = |(t, s): (&Tensor, &TensorSpec)| TensorSpec::fixed(&s.name, t.dtype(), t.shape());
        tensors.iter().zip(specs).map(fixed).collect()
    };
    let mut trial = Trial::new(codecs);
    let mut crossing = items;
    let mut frames = vec![names(&crossing[0], model.inputs())];
    for (i, range) in positions.windows(2).enumerate() {
        trial.cross(&frames[i], &crossing);
        progress(i, positions.len() - 1);
        let stage = model.stage(range[0]..range[1])?;
        let first = &model.operators()[range[0]].name;
        // An engine's bug costs the model, not the process.
        let next = engine_thread::run(|| run(&stage, first, crossing));
        let broke = |reason| ProfileError::Engine { first: first.clone(), engine: engine.name(), reason };
        crossing = next.map_err(broke)??;
        frames.push(names(&crossing[0], &stage.outputs));
    }
    trial.cross(&frames[frames.len() - 1], &crossing);
    progress(positions.len() - 1, positions.len() - 1);
    Ok(Walked { frames, codecs: trial.figures() })
}

/// An engine with its version.
fn title(engine: &dyn Engine) -> String {
    format!("{} {}", engine.name(), engine.version())
}

/// Loads a unit and runs it on the first frame, once and then for `repeats` at most, and once on each of the others: its
/// time, what the process grew by, and what it gives for each; nothing for one of the others that it fails on.
fn time(
    stage: &Stage,
    first: &str,
    engine: &dyn Engine,
    threads: usize,
    frames: &[Vec<Tensor>],
    repeats: Duration,
) -> Result<(Timing, Option<u64>, Frames), ProfileError> {
    let bytes = stage.to_bytes()?;
    let mut session = engine
        .load(ModelSource::Bytes(&bytes), &stage.fed(), &stage.computed(), &SessionOptions::threads(threads))
        .map_err(|source| ProfileError::Load { first: first.to_owned(), source })?;
    drop(bytes);
    let (mut timing, mut growth, mut all) = (Timing::default(), None, Vec::with_capacity(frames.len()));
    for (i, frame) in frames.iter().enumerate() {
        let views: Vec<_> = stage.feeds.iter().map(|&i| frame[i].view()).collect();
        let failed = |source| ProfileError::Run { first: first.to_owned(), source };
        let outputs = if i > 0 {
            // Whoever comes to it in the chain says what is wrong with it.
            let Ok(outputs) = session.run(&views) else { continue };
            outputs
        } else if repeats.is_zero() {
            session.run(&views).map_err(failed)?
        } else {
            let measured = timing::measure(&mut *session, &views, Duration::ZERO..=repeats, Caches::Warm)
                .map_err(failed)?;
            (timing, growth) = (measured.timing, measured.growth);
            measured.outputs
        };
        let next = stage.routes.iter().map(|route| match *route {
            Route::Computed(output) => outputs.view(output).to_tensor(),
            Route::Passed(input) => frame[input].clone(),
        });
        all.push(next.collect());
    }
    Ok((timing, growth, all))
}

/// An item of arbitrary finite values, open sizes taken as 1: for profiling when no real one is at hand. Floats lie
/// between -1 and 1, bytes are of any value, and nothing in them repeats; all else, which may be indices, is 0.
pub fn arbitrary_item(specs: &[TensorSpec]) -> Vec<Tensor> {
    use tensor::{DType, Dim};
    let tensor = |spec: &TensorSpec| {
        let size = |d: &Dim| match d {
            Dim::Fixed(n) => *n,
            Dim::Symbol(_) | Dim::Unknown => 1,
        };
        let dims: Vec<usize> = spec.dims.iter().flatten().map(size).collect();
        let shape = Shape::new(&dims).unwrap_or(Shape::SCALAR);
        let mut random = fastrand::Rng::with_seed(0);
        let elements = shape.elements().unwrap_or(0);
        let floats = (0..elements).map(|_| 2.0 * random.f32() - 1.0);
        match spec.dtype {
            DType::F32 => Tensor::from_slice(shape, &floats.collect::<Vec<f32>>()),
            DType::F64 => Tensor::from_slice(shape, &floats.map(f64::from).collect::<Vec<f64>>()),
            DType::F16 => Tensor::from_slice(shape, &floats.map(f16::from_f32).collect::<Vec<f16>>()),
            DType::Bf16 => Tensor::from_slice(shape, &floats.map(bf16::from_f32).collect::<Vec<bf16>>()),
            DType::U8 => {
                let mut bytes = vec![0; elements];
                fastrand::Rng::with_seed(0).fill(&mut bytes);
                Tensor::from_slice(shape, &bytes)
            }
            other => Tensor::zeros(other, shape),
        }
    };
    specs.iter().filter_map(|spec| tensor(spec).ok()).collect()
}
