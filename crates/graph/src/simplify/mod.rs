//! Does before cutting what a runtime could not do across a cut.
//!
//! Each pass looks at the analysed model and changes a copy of the graph; after it the model is analysed
//! again. The engine that computes constants is the caller's.

mod batchnorm;
mod bypass;
mod dead;
mod explicit;
mod fold;
pub(crate) mod portable;
mod quantized;
mod size;

use tensor::Tensor;

use crate::error::ModelError;
use crate::model::{Model, raise_ir_version};
use crate::proto::{GraphProto, ModelProto};
use crate::stage::{FREE_INITIALIZERS_IR, constant_tensor};

/// Computes the outputs of a model that has no inputs, in their order.
pub type Evaluate<'a> = dyn FnMut(&[u8]) -> Result<Vec<Tensor>, String> + 'a;

/// What [`Model::simplify`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Simplified {
    /// Nodes whose results were computed once and for all.
    pub folded: usize,
    /// Normalisations that went into the weights of the operator before them.
    pub fused: usize,
    /// Nodes removed because nothing needs them, or because they do nothing.
    pub removed: usize,
    /// Why constants could not be computed, if so; their nodes stayed.
    pub fold_error: Option<String>,
}

impl Model {
    /// Removes what does nothing, computes constants and folds normalisation into weights. The outputs stay
    /// the same up to rounding. For inference only: training information goes, and weights that the model
    /// lists as inputs can no longer be replaced. Before [`Model::set_shapes`], whose sizes it forgets.
    ///
    /// `evaluate` gets a self-contained model without inputs and gives its outputs in order. If it fails the
    /// constants stay as they are, and [`Simplified::fold_error`] says why.
    ///
    /// # Errors
    /// The model is then unchanged.
    pub fn simplify(&mut self, evaluate: &mut Evaluate<'_>) -> Result<Simplified, ModelError> {
        let mut report = Simplified::default();
        let mut model = Model::analyse(prepare(self))?;
        report.removed += dead::remove(&mut model)?;
        report.removed += bypass::remove(&mut model)?;
        portable::write_out(&mut model)?;
        fold::fold(&mut model, evaluate, &mut report)?;
        report.fused = batchnorm::fuse(&mut model)?;
        report.removed += dead::remove(&mut model)?;
        quantized::arrange(&mut model)?;
        explicit::write_out(&mut model)?;
        *self = model;
        Ok(report)
    }

    /// Changes a copy of the graph, and takes it if `change` says that it changed so many things.
    fn rewrite(
        &mut self,
        change: impl FnOnce(&Model, &mut GraphProto) -> usize,
    ) -> Result<usize, ModelError> {
        let mut proto = self.proto.clone();
        let Some(graph) = &mut proto.graph else { return Ok(0) };
        let changes = change(self, graph);
        if changes > 0 {
            *self = Model::analyse(proto)?;
        }
        Ok(changes)
    }
}

/// The model with its weights in one place: tensors of `Constant` nodes become initialisers, and no
/// initialiser is an input.
fn prepare(model: &Model) -> ModelProto {
    let mut proto = model.proto.clone();
    raise_ir_version(&mut proto, FREE_INITIALIZERS_IR);
    proto.training_info.clear();
    let Some(graph) = &mut proto.graph else { return proto };
    let is_input = |name: &str| model.inputs().iter().any(|input| input.name == name);
    graph.input.retain(|input| is_input(input.name()));
    let is_output = |name: &str| model.outputs().iter().any(|output| output.name == name);
    let mut hoisted = Vec::new();
    graph.node.retain(|node| match constant_tensor(node) {
        Some(weight) if !is_output(weight.name()) => {
            hoisted.push(weight);
            false
        }
        _ => true,
    });
    graph.initializer.append(&mut hoisted);
    proto
}
