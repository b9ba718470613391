//! What a model costs: its units timed with the real engine, its cuts measured with a real item.
//!
//! Units run one after the other, each on what the one before gave, so that only one of them is in memory
//! at a time.

pub(crate) mod kept;

use std::time::Duration;

use engine::{Engine, LoadError, ModelSource, RunError, SessionOptions};
use graph::{Cut, Model, Route, Stage, StageError};
use tensor::{Shape, Tensor, TensorSpec};

use crate::engine_thread;
use crate::timing::{self, Measured, Timing};

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

/// Measures `model` between `cuts` on one item. `progress` hears of units done and in all.
pub fn profile(
    model: &Model,
    cuts: Vec<Cut>,
    engine: &dyn Engine,
    threads: usize,
    item: Vec<Tensor>,
    progress: &dyn Fn(usize, usize),
) -> Result<Profile, ProfileError> {
    let mut positions = vec![0];
    positions.extend(cuts.iter().map(|c| c.position));
    positions.push(model.operators().len());
    let names = |tensors: &[Tensor], specs: &[TensorSpec]| {
        let fixed = |(t, s): (&Tensor, &TensorSpec)| TensorSpec::fixed(&s.name, t.dtype(), t.shape());
        tensors.iter().zip(specs).map(fixed).collect()
    };

    let mut frame = item;
    let mut frames: Vec<Vec<TensorSpec>> = vec![names(&frame, model.inputs())];
    let mut units = Vec::new();
    for (i, range) in positions.windows(2).enumerate() {
        progress(i, positions.len() - 1);
        let stage = model.stage(range[0]..range[1])?;
        let first = &model.operators()[range[0]].name;
        // An engine's bug costs the model, not the process.
        let timed = engine_thread::run(|| time(&stage, first, engine, threads, frame));
        let broke = |reason| ProfileError::Engine { first: first.clone(), engine: engine.name(), reason };
        let Timed { timing, growth, outputs: next } = timed.map_err(broke)??;
        frames.push(names(&next, &stage.outputs));
        let crossing = |i: usize| frames[i].iter().filter_map(spec_bytes).sum::<u64>();
        units.push(UnitCost {
            seconds: timing.seconds,
            half_width_seconds: timing.half_width_seconds,
            operators: stage.operators,
            weight_bytes: stage.weight_bytes(),
            activation_bytes: crossing(i) + crossing(i + 1).max(growth.unwrap_or(0)),
        });
        frame = next;
    }
    progress(units.len(), units.len());
    Ok(Profile { cuts, units, frames, engine: title(engine) })
}

/// An engine with its version.
fn title(engine: &dyn Engine) -> String {
    format!("{} {}", engine.name(), engine.version())
}

struct Timed {
    timing: Timing,
    growth: Option<u64>,
    outputs: Vec<Tensor>,
}

fn time(
    stage: &Stage,
    first: &str,
    engine: &dyn Engine,
    threads: usize,
    frame: Vec<Tensor>,
) -> Result<Timed, ProfileError> {
    let bytes = stage.to_bytes()?;
    let mut session = engine
        .load(ModelSource::Bytes(&bytes), &stage.fed(), &stage.computed(), &SessionOptions::threads(threads))
        .map_err(|source| ProfileError::Load { first: first.to_owned(), source })?;
    drop(bytes);
    let views: Vec<_> = stage.feeds.iter().map(|&i| frame[i].view()).collect();
    let Measured { timing, growth, outputs, .. } =
        timing::measure(&mut *session, &views, Duration::ZERO..=TIME_PER_UNIT)
            .map_err(|source| ProfileError::Run { first: first.to_owned(), source })?;
    let next = stage.routes.iter().map(|route| match *route {
        Route::Computed(i) => outputs.view(i).to_tensor(),
        Route::Passed(i) => frame[i].clone(),
    });
    Ok(Timed { timing, growth, outputs: next.collect() })
}

/// An item of arbitrary finite values, open sizes taken as 1: for profiling when no real one is at hand.
pub fn arbitrary_item(specs: &[TensorSpec]) -> Vec<Tensor> {
    use tensor::{DType, Dim};
    let tensor = |spec: &TensorSpec| {
        let size = |d: &Dim| match d {
            Dim::Fixed(n) => *n,
            Dim::Symbol(_) | Dim::Unknown => 1,
        };
        let dims: Vec<usize> = spec.dims.iter().flatten().map(size).collect();
        let shape = Shape::new(&dims).unwrap_or(Shape::SCALAR);
        if spec.dtype == DType::F32 {
            let values: Vec<f32> =
                (0..shape.elements().unwrap_or(0)).map(|i| (i * 7919 % 2003) as f32 / 1001.5 - 1.0).collect();
            return Tensor::from_slice(shape, &values);
        }
        Tensor::zeros(spec.dtype, shape)
    };
    specs.iter().filter_map(|spec| tensor(spec).ok()).collect()
}
