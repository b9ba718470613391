//! The part of a model between two cuts, as a model of its own.
//!
//! Composing the stages of a model along [`Stage::feeds`] and [`Stage::routes`] gives what the model gives.

mod extract;

pub(crate) use extract::{FREE_INITIALIZERS_IR, constant_tensor};

use std::collections::HashSet;
use std::ops::Range;

use bytes::Bytes;
use prost::Message;
use tensor::{DType, TensorSpec};

use crate::error::StageError;
use crate::flow::{Origin, ValueId};
use crate::hash::Hash;
use crate::model::Model;
use crate::proto::ModelProto;
use crate::save::{self, MESSAGE_LIMIT};
use crate::{visit, weights};

/// The part of a model that one node runs.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Operators in the stage.
    pub operators: usize,
    /// The tensors of the arriving frame: those live at the cut before, or the model's inputs.
    pub inputs: Vec<TensorSpec>,
    /// The tensors of the leaving frame: those live at the cut behind, or the model's outputs in its order.
    pub outputs: Vec<TensorSpec>,
    /// Input *i* of the stage's model is `inputs[feeds[i]]`.
    pub feeds: Vec<usize>,
    /// Where each of `outputs` comes from.
    pub routes: Vec<Route>,
    /// The stage's model without its large weights: each is external data at offset 0 of a file named by its
    /// hash: [`Hash::file_name`].
    pub skeleton: Vec<u8>,
    /// The weights that the skeleton refers to, each once, in the order of their first use.
    pub weights: Vec<Weight>,
    model: ModelProto,
}

/// Where a tensor of the leaving frame comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The stage computes it: output of its model, by index.
    Computed(usize),
    /// It passes through unused: tensor of the arriving frame, by index.
    Passed(usize),
}

/// A tensor of weights.
#[derive(Clone, Debug)]
pub struct Weight {
    /// BLAKE3 of the bytes.
    pub hash: Hash,
    /// Type of its elements; where several tensors have the same bytes, that of the first.
    pub dtype: DType,
    /// Its sizes, likewise.
    pub dims: Vec<usize>,
    /// The bytes, as in `raw_data`: a slice of the file they were read from.
    pub bytes: Bytes,
}

impl Model {
    /// The operators of `range` as a model of their own.
    ///
    /// # Errors
    /// When the range is empty or too long, or a value would have to cross a cut that is no tensor.
    pub fn stage(&self, range: Range<usize>) -> Result<Stage, StageError> {
        let operators = self.flow.operators.len();
        if range.is_empty() || range.end > operators {
            return Err(StageError::Range { start: range.start, end: range.end, operators });
        }
        let arriving = if range.start == 0 { self.flow.inputs.clone() } else { self.flow.live(range.start) };
        let leaving =
            if range.end == operators { self.flow.outputs.clone() } else { self.flow.live(range.end) };
        let part = self.part(range.clone(), &arriving, &leaving);
        let inputs = self.frame(&arriving, range.start)?;
        let outputs = self.frame(&leaving, range.end)?;
        let model = self.extract(&part, &inputs, &outputs);
        let (skeleton, weights) = detach(&model)?;
        let Part { feeds, routes, .. } = part;
        Ok(Stage { operators: range.len(), inputs, outputs, feeds, routes, skeleton, weights, model })
    }

    /// The tensors of the frame at a position.
    fn frame(&self, ids: &[ValueId], position: usize) -> Result<Vec<TensorSpec>, StageError> {
        let spec = |&id: &ValueId| {
            self.spec(id).map_err(|problem| StageError::NotATensor {
                position,
                operator: self.operators().get(position).map(|op| op.name.clone()).unwrap_or_default(),
                value: self.flow.names[id].clone(),
                problem,
            })
        };
        ids.iter().map(spec).collect()
    }

    fn part(&self, range: Range<usize>, arriving: &[ValueId], leaving: &[ValueId]) -> Part {
        let flow = &self.flow;
        let mut nodes: HashSet<usize> = flow.operators[range].iter().copied().collect();
        let mut reads: HashSet<ValueId> = nodes.iter().flat_map(|&n| &flow.links[n].reads).copied().collect();
        let feeds = (0..arriving.len()).filter(|&i| reads.contains(&arriving[i])).collect();

        let mut computed = Vec::new();
        let mut routes = Vec::new();
        for &id in leaving {
            routes.push(match arriving.iter().position(|&passed| passed == id) {
                Some(passed) => Route::Passed(passed),
                None => Route::Computed(index_of(&mut computed, id)),
            });
        }

        // Constants come along, and what computes them.
        let mut wanted: Vec<ValueId> = reads.iter().chain(&computed).copied().collect();
        while let Some(id) = wanted.pop() {
            reads.insert(id);
            if let Origin::Node(node) = flow.origins[id]
                && flow.constant[id]
                && nodes.insert(node)
            {
                wanted.extend(&flow.links[node].reads);
            }
        }
        Part { nodes, values: reads, computed, feeds, routes }
    }
}

/// What belongs to a part of the graph.
#[derive(Default)]
pub(crate) struct Part {
    /// Nodes, constant ones included, by their place in the file.
    pub(crate) nodes: HashSet<usize>,
    /// Values that are read or given out, weights included.
    pub(crate) values: HashSet<ValueId>,
    /// Outputs of the part's model.
    pub(crate) computed: Vec<ValueId>,
    feeds: Vec<usize>,
    routes: Vec<Route>,
}

fn index_of(values: &mut Vec<ValueId>, id: ValueId) -> usize {
    values.iter().position(|&known| known == id).unwrap_or_else(|| {
        values.push(id);
        values.len() - 1
    })
}

/// Takes the large weights out of a model.
fn detach(model: &ModelProto) -> Result<(Vec<u8>, Vec<Weight>), StageError> {
    let mut skeleton = model.clone();
    let mut detached: Vec<Weight> = Vec::new();
    let mut known = HashSet::new();
    if let Some(graph) = &mut skeleton.graph {
        visit::initializers_mut(graph, &mut |tensor| {
            if !weights::is_shared(tensor) {
                return;
            }
            let bytes = tensor.raw_data.take().unwrap_or_default();
            let hash = Hash::of(&bytes);
            save::refer(tensor, &hash.file_name(), 0, bytes.len());
            if known.insert(hash) {
                let dtype = DType::from_code(tensor.data_type()).expect("checked when the model was read");
                let dims = tensor.dims.iter().map(|&size| size as usize).collect();
                detached.push(Weight { hash, dtype, dims, bytes });
            }
        });
    }
    Ok((encode(&skeleton)?, detached))
}

fn encode(model: &ModelProto) -> Result<Vec<u8>, StageError> {
    let bytes = model.encoded_len();
    if bytes > MESSAGE_LIMIT {
        return Err(StageError::TooLarge { bytes });
    }
    Ok(model.encode_to_vec())
}

impl Stage {
    /// The stage's model with its weights inside.
    ///
    /// # Errors
    /// [`StageError::TooLarge`] above 2 GB.
    pub fn to_bytes(&self) -> Result<Vec<u8>, StageError> {
        encode(&self.model)
    }

    /// What the stage's model takes, in its order: what an engine is fed.
    pub fn fed(&self) -> Vec<TensorSpec> {
        self.feeds.iter().map(|&i| self.inputs[i].clone()).collect()
    }

    /// What the stage's model gives, in its order: what an engine computes.
    pub fn computed(&self) -> Vec<TensorSpec> {
        let mut computed: Vec<TensorSpec> = Vec::new();
        for (route, spec) in self.routes.iter().zip(&self.outputs) {
            // A tensor may leave twice; the first time it has the next index.
            if *route == Route::Computed(computed.len()) {
                computed.push(spec.clone());
            }
        }
        computed
    }

    /// Bytes of [`Stage::weights`].
    pub fn weight_bytes(&self) -> u64 {
        self.weights.iter().map(|weight| weight.bytes.len() as u64).sum()
    }
}
