//! Which node runs what, by name: a plan without its costs, as people write it down.
//!
//! Made from a plan, kept in a file by the command line, and turned back into an assignment when it is judged or
//! deployed. Names mean something only together with a model and its devices: both come from the caller.

use plan::{Assignment, Placement, Plan, Problem};
use wire::{Codec, Fidelity};

use crate::accuracy::Accuracy;
use crate::coding::Coding;
use crate::prepare::{PrepareError, Prepared};

/// A pipeline by names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The stages in the order of the chain.
    pub stages: Vec<LayoutStage>,
    /// Codec of the link from the last stage back to the dispatcher.
    pub result_codec: Codec,
}

/// One stage of a layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayoutStage {
    /// Names of the devices that run it; several share its items.
    pub devices: Vec<String>,
    /// Codec of the link into it.
    pub codec: Codec,
    /// Name of the cut at which it ends; the last stage has none.
    pub cut: Option<String>,
}

/// A layout that is none for a model and its devices. Stages count from 1.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// There is no stage.
    #[error("the layout has no stage")]
    Empty,
    /// A stage is given to nobody.
    #[error("stage {0} of the layout has no device")]
    NoDevice(usize),
    /// A device that does not exist.
    #[error(
        "stage {stage} of the layout is for device `{name}`, which is not there; there are {}",
        plan::names::listed(known)
    )]
    UnknownDevice {
        /// The stage.
        stage: usize,
        /// The name.
        name: String,
        /// Names of the devices.
        known: Vec<String>,
    },
    /// A device would run two stages.
    #[error("stage {stage} of the layout is for device `{name}`, which has one already")]
    DeviceTwice {
        /// The stage.
        stage: usize,
        /// The name.
        name: String,
    },
    /// A cut that the model does not have.
    #[error("stage {stage} of the layout: {error}")]
    UnknownCut {
        /// The stage.
        stage: usize,
        /// With the closest name.
        error: Box<PrepareError>,
    },
    /// A stage before the last does not say where it ends.
    #[error("stage {0} of the layout names no cut at which it ends, but is not the last")]
    NoCut(usize),
    /// The last stage ends before the model does.
    #[error("stage {stage} of the layout is the last, but ends at cut `{cut}`; leave the cut out")]
    LastCut {
        /// The stage.
        stage: usize,
        /// The cut.
        cut: String,
    },
    /// Cuts out of order.
    #[error("stage {stage} of the layout ends at cut `{cut}`, which does not lie behind the one before it")]
    CutOrder {
        /// The stage.
        stage: usize,
        /// The cut.
        cut: String,
    },
}

impl Layout {
    /// What a plan for this model and problem decided.
    ///
    /// # Panics
    /// When the plan is none for this problem, or the problem has a codec that no link can use.
    pub fn of(prepared: &Prepared, problem: &Problem, plan: &Plan) -> Layout {
        let codecs: Vec<Codec> = codecs_of(plan, problem).collect();
        let stage = |(i, stage): (usize, &plan::Stage)| {
            let devices = stage.replicas.iter().map(|r| problem.devices[r.device].name.clone()).collect();
            let cut = prepared.profile.cuts.get(stage.units.end - 1).map(|cut| cut.name.clone());
            LayoutStage { devices, codec: codecs[i], cut }
        };
        let stages = plan.stages.iter().enumerate().map(stage).collect();
        Layout { stages, result_codec: codecs[plan.stages.len()] }
    }

    /// Codecs along the chain: one more than stages.
    pub fn codecs(&self) -> impl Iterator<Item = Codec> {
        self.stages.iter().map(|stage| stage.codec).chain([self.result_codec])
    }

    /// What its links may take instead where one of them is coarse, and outputs do not stand for it; nothing where none
    /// is.
    pub fn fallbacks(&self) -> Vec<Codec> {
        match self.codecs().any(|codec| codec.fidelity() == Fidelity::Coarse) {
            true => Accuracy::Near.candidates(),
            false => Vec::new(),
        }
    }

    /// Names of its devices, in the order of the chain.
    pub fn devices(&self) -> impl Iterator<Item = &str> {
        self.stages.iter().flat_map(|stage| &stage.devices).map(String::as_str)
    }

    /// The same in the indices of a problem of this model. Codecs that the problem does not have are added to it, with
    /// what is known of their costs; those that were not tried count as no codec at all.
    ///
    /// # Errors
    /// Names the stage that names what is not there, or not in order.
    pub fn assignment(
        &self,
        prepared: &Prepared,
        coding: &Coding,
        problem: &mut Problem,
    ) -> Result<Assignment, LayoutError> {
        if self.stages.is_empty() {
            return Err(LayoutError::Empty);
        }
        let mut stages: Vec<Placement> = Vec::with_capacity(self.stages.len());
        let mut used = Vec::new();
        for (i, stage) in self.stages.iter().enumerate() {
            let devices = devices(i + 1, stage, problem, &mut used)?;
            let start = stages.last().map_or(0, |before| before.units.end);
            let end = self.end(i, prepared, start)?;
            stages.push(Placement { devices, units: start..end });
        }
        let codecs = self.codecs().map(|codec| coding.index(codec, &prepared.profile, problem)).collect();
        Ok(Assignment { stages, codecs })
    }

    /// The boundary at which a stage ends.
    fn end(&self, index: usize, prepared: &Prepared, start: usize) -> Result<usize, LayoutError> {
        let (stage, units) = (index + 1, prepared.profile.units.len());
        match (&self.stages[index].cut, stage == self.stages.len()) {
            (None, true) => Ok(units),
            (None, false) => Err(LayoutError::NoCut(stage)),
            (Some(cut), true) => Err(LayoutError::LastCut { stage, cut: cut.clone() }),
            (Some(cut), false) => {
                let end = prepared
                    .boundary(cut)
                    .map_err(|error| LayoutError::UnknownCut { stage, error: Box::new(error) })?;
                if end > start { Ok(end) } else { Err(LayoutError::CutOrder { stage, cut: cut.clone() }) }
            }
        }
    }
}

/// Codecs along the chain of a plan for this problem: one more than stages.
///
/// # Panics
/// When the plan is none for this problem, or the problem has a codec that no link can use.
pub(crate) fn codecs_of<'a>(plan: &'a Plan, problem: &'a Problem) -> impl Iterator<Item = Codec> + 'a {
    plan.hops.iter().map(|hop| ours(&problem.codecs[hop.codec]))
}

/// The codec that a planner's one stands for.
pub(crate) fn ours(codec: &plan::Codec) -> Codec {
    codec.name.parse().expect("plans are made with codecs of ours")
}

fn devices(
    number: usize,
    stage: &LayoutStage,
    problem: &Problem,
    used: &mut Vec<usize>,
) -> Result<Vec<usize>, LayoutError> {
    if stage.devices.is_empty() {
        return Err(LayoutError::NoDevice(number));
    }
    let index = |name: &String| {
        let Some(device) = problem.devices.iter().position(|device| device.name == *name) else {
            let known = problem.devices.iter().map(|device| device.name.clone()).collect();
            return Err(LayoutError::UnknownDevice { stage: number, name: name.clone(), known });
        };
        if used.contains(&device) {
            return Err(LayoutError::DeviceTwice { stage: number, name: name.clone() });
        }
        used.push(device);
        Ok(device)
    };
    stage.devices.iter().map(index).collect()
}
