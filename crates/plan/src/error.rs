//! Why there is no plan.

use std::fmt;
use std::ops::Range;

/// A problem without a plan, or an assignment that is none.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// There is nothing to run on.
    #[error("there is no device to plan for")]
    NoDevice,
    /// There is nothing to run.
    #[error("the model has no unit to place")]
    NoUnit,
    /// Fewer stages than one were asked for, or assigned.
    #[error("a plan needs at least 1 stage")]
    NoStage,
    /// The model, or the given list of cuts, cannot be split that often.
    #[error("{stages} stages need {} cuts, but there are only {cuts}: at most {} stages", stages - 1, cuts + 1)]
    TooManyStages {
        /// Stages asked for.
        stages: usize,
        /// Cuts the model has.
        cuts: usize,
    },
    /// More stages than devices.
    #[error("{stages} stages need as many devices, but there are only {devices}")]
    TooFewDevices {
        /// Stages asked for.
        stages: usize,
        /// Devices there are.
        devices: usize,
    },
    /// The number of stages contradicts the list of cuts.
    #[error("{cuts} cuts make {} stages, but {stages} were asked for", cuts + 1)]
    StagesAgainstCuts {
        /// Stages asked for.
        stages: usize,
        /// Cuts given.
        cuts: usize,
    },
    /// A given cut lies outside the model or behind its successor.
    #[error("cut {cut} is out of place: cuts must rise and lie between 1 and {last}")]
    BadCut {
        /// The boundary given.
        cut: usize,
        /// The last boundary inside the model.
        last: usize,
    },
    /// An assignment leaves out or repeats units or devices, or names ones that do not exist.
    #[error("stage {stage} is out of place: {reason}")]
    BadAssignment {
        /// Its position in the chain.
        stage: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A stage of the assignment exceeds its device's memory.
    #[error("{0}")]
    DoesNotFit(Shortage),
    /// Every plan exceeds the memory of some device.
    #[error("no plan fits into memory: even in the one that comes closest, {0}")]
    NothingFits(Shortage),
    /// Of the plans that were tried, in a problem too large to try all, every one exceeds some device's memory.
    #[error("no plan that fits into memory was found, though not every order of the devices was tried: {0}")]
    NothingFound(Shortage),
    /// A figure of the problem is not usable.
    #[error("{what} must be {allowed}, not {value}")]
    BadFigure {
        /// Whose figure.
        what: String,
        /// The range it must lie in.
        allowed: &'static str,
        /// What it is.
        value: f64,
    },
    /// The parts of the problem do not belong together.
    #[error("{what}: {found} are given, {wanted} are needed")]
    Count {
        /// Of what.
        what: String,
        /// How many there are.
        found: usize,
        /// How many there must be.
        wanted: usize,
    },
    /// Nothing can travel.
    #[error("there is no codec that a link could use")]
    NoCodec,
    /// More codecs than the search can tell apart.
    #[error("{found} codecs are more than the {most} that a plan can choose from")]
    TooManyCodecs {
        /// Codecs given.
        found: usize,
        /// Codecs allowed.
        most: usize,
    },
    /// An assignment names a codec that the problem does not have.
    #[error("codec {codec} does not exist: there are {codecs}")]
    UnknownCodec {
        /// Its index.
        codec: usize,
        /// Codecs of the problem.
        codecs: usize,
    },
    /// A medium holds a link twice, or one between devices that do not exist.
    #[error("medium `{name}` holds a link twice, or one of a device that does not exist")]
    BadMedium {
        /// Its name.
        name: String,
    },
    /// No plan has the period that was asked for.
    #[error("no plan gives {} items/s; the fastest gives {}", Rate(*wanted), Rate(*best))]
    TooSlow {
        /// Seconds asked for.
        wanted: f64,
        /// The shortest period.
        best: f64,
    },
    /// Of the plans that were tried, in a problem too large to try all, none has the period that was asked for.
    #[error(
        "no plan that gives {} items/s was found, though not every order of the devices was tried; the fastest found \
         gives {}",
        Rate(*wanted),
        Rate(*best)
    )]
    FoundTooSlow {
        /// Seconds asked for.
        wanted: f64,
        /// The shortest period found.
        best: f64,
    },
}

/// A stage that needs more memory than its device has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Name of the device.
    pub device: String,
    /// The units of the stage.
    pub units: Range<usize>,
    /// All that the stage takes: weights, activations, queues and engine.
    pub needed_bytes: u64,
    /// What the device has.
    pub limit_bytes: u64,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = match self.units.len() {
            1 => format!("unit {}", self.units.start),
            _ => format!("units {} to {}", self.units.start, self.units.end - 1),
        };
        write!(
            f,
            "device `{}` would need {} for {units} but has {}, {} too little",
            self.device,
            Amount(self.needed_bytes),
            Amount(self.limit_bytes),
            Amount(self.needed_bytes - self.limit_bytes),
        )
    }
}

/// Items a second, from the seconds between them, rounded for reading.
struct Rate(f64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match 1.0 / self.0 {
            rate @ 0.01..1e6 => write!(f, "{rate:.2}"),
            rate => write!(f, "{rate:.2e}"),
        }
    }
}

/// Bytes, rounded for reading.
struct Amount(u64);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes @ ..1_000_000 => write!(f, "{bytes} bytes"),
            bytes => write!(f, "{:.1} MB", bytes as f64 / 1e6),
        }
    }
}
