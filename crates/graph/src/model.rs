//! An ONNX model in memory.

use std::collections::HashMap;
use std::path::Path;

use bytes::Bytes;
use prost::Message;
use tensor::{Dim, Shape, TensorSpec};

use crate::error::ModelError;
use crate::external::{self, Folder};
use crate::flow::{Flow, ValueId, display_name};
use crate::hash::Hash;
use crate::proto::tensor_shape_proto::Dimension;
use crate::proto::tensor_shape_proto::dimension;
use crate::proto::type_proto::Value;
use crate::proto::{
    GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto, TensorProto, ValueInfoProto,
};
use crate::types::{self, Kind};
use crate::{fields, save, sizes, visit, weights};

/// The newest IR version of ONNX that `proto.rs` holds every field of.
const NEWEST_IR: i64 = 14;

/// From this IR version on a model says which operators it uses; before, they are version 1 of ONNX's own.
const STATED_OPERATORS_IR: i64 = 3;

/// An ONNX model. Weights are slices of the files they were read from, which must not be shortened while
/// the model is in use.
#[derive(Clone, Debug)]
pub struct Model {
    pub(crate) proto: ModelProto,
    pub(crate) flow: Flow,
    /// Types of the values, by id.
    pub(crate) kinds: Vec<Option<Kind>>,
    /// Sizes that the model states or that were measured, by id.
    dims: Vec<Option<Vec<Dim>>>,
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
    operators: Vec<Operator>,
}

/// A node that runs on every item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// Its name; where it has none, that of its first output.
    pub name: String,
    /// Its type, such as `Conv`.
    pub op_type: String,
}

impl Model {
    /// Reads a model and the data files it refers to, which must lie in its folder. Maps them: nothing is
    /// copied.
    ///
    /// # Errors
    /// Always name the file. A model with a field that ONNX does not define is refused, because writing it
    /// again would lose that field.
    pub fn load(path: &Path) -> Result<Model, ModelError> {
        let read = || {
            let bytes = external::map(path)?;
            Model::decode(bytes, Folder::of(path))
        };
        read().map_err(|error| error.in_file(path))
    }

    /// Reads a model that is in memory, with all of its weights.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<Model, ModelError> {
        Model::decode(bytes.into(), Folder::none())
    }

    fn decode(bytes: Bytes, folder: Folder) -> Result<Model, ModelError> {
        if bytes.is_empty() {
            return Err(ModelError::NotOnnx("it is empty".to_owned()));
        }
        fields::check(&bytes)?;
        let proto = ModelProto::decode(bytes).map_err(|error| ModelError::NotOnnx(error.to_string()))?;
        Model::resolve(proto, folder)
    }

    /// A model that was built or changed in memory.
    pub(crate) fn from_proto(proto: ModelProto) -> Result<Model, ModelError> {
        Model::resolve(proto, Folder::none())
    }

    fn resolve(mut proto: ModelProto, mut folder: Folder) -> Result<Model, ModelError> {
        check_header(&proto)?;
        visit::tensors_mut(&mut proto, &mut |tensor: &mut TensorProto| {
            folder.resolve(tensor)?;
            weights::normalize(tensor)
        })?;
        Model::analyse(proto)
    }

    /// Finds everything that follows from the graph. Tensors are in their normal form already.
    pub(crate) fn analyse(proto: ModelProto) -> Result<Model, ModelError> {
        let graph = proto.graph.as_ref().ok_or_else(|| ModelError::NotOnnx("it has no graph".to_owned()))?;
        let flow = Flow::new(&proto, graph)?;
        let types = types::infer(&proto, graph, &flow.sorted);
        let kinds = flow.names.iter().map(|name| types.get(name).copied()).collect();
        let dims = stated_dims(graph, &flow);
        let operators = flow.operators.iter().map(|&index| &graph.node[index]);
        let operators = operators
            .map(|node| Operator { name: display_name(node).to_owned(), op_type: node.op_type().to_owned() })
            .collect();
        let mut model =
            Model { proto, flow, kinds, dims, inputs: Vec::new(), outputs: Vec::new(), operators };
        model.inputs = model.boundary(&model.flow.inputs, "input")?;
        model.outputs = model.boundary(&model.flow.outputs, "output")?;
        Ok(model)
    }

    fn boundary(&self, ids: &[ValueId], what: &str) -> Result<Vec<TensorSpec>, ModelError> {
        let spec = |&id: &ValueId| {
            self.spec(id).map_err(|problem| {
                let name = &self.flow.names[id];
                ModelError::Unsupported(format!(
                    "the model's {what} `{name}` is {problem}; only tensors can travel"
                ))
            })
        };
        ids.iter().map(spec).collect()
    }

    /// Type and sizes of a value, or why it is no tensor that could travel.
    pub(crate) fn spec(&self, id: ValueId) -> Result<TensorSpec, &'static str> {
        match self.kinds[id] {
            Some(Kind::Tensor(dtype)) => {
                Ok(TensorSpec { name: self.flow.names[id].clone(), dtype, dims: self.dims[id].clone() })
            }
            Some(Kind::Sequence(_)) => Err("a sequence"),
            Some(Kind::Other) => Err("a map, an optional or a sparse tensor"),
            None => Err("a value of unknown type"),
        }
    }

    /// The model as one self-contained message.
    ///
    /// # Errors
    /// [`ModelError::TooLarge`] above 2 GB, where only [`Model::save`] helps.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ModelError> {
        save::encode(&self.proto)
    }

    /// Writes the model to a file; one of more than 2 GB with its weights beside it, in `path` + `.data`. Files
    /// that are there are replaced as a whole, never changed.
    pub fn save(&self, path: &Path) -> Result<(), ModelError> {
        self.save_with_limit(path, save::MESSAGE_LIMIT)
    }

    /// [`Model::save`] with another limit in bytes, above which weights go beside the model.
    pub fn save_with_limit(&self, path: &Path, limit: usize) -> Result<(), ModelError> {
        save::save(&self.proto, path, limit.min(save::MESSAGE_LIMIT))
    }

    /// What the model takes, in its order. Weights that old models list as inputs are none.
    pub fn inputs(&self) -> &[TensorSpec] {
        &self.inputs
    }

    /// What the model gives, in its order.
    pub fn outputs(&self) -> &[TensorSpec] {
        &self.outputs
    }

    /// The nodes that run on every item, in the order that [`Model::cuts`] and [`Model::stage`] count in.
    /// Constants, what is computed from constants alone, and nodes that no output needs are not among them.
    pub fn operators(&self) -> &[Operator] {
        &self.operators
    }

    /// A hash of everything the model carries, weights included. The same whether weights lie in the model
    /// file or beside it.
    pub fn hash(&self) -> Hash {
        let mut skeleton = self.proto.clone();
        let replaced = visit::tensors_mut(&mut skeleton, &mut |tensor: &mut TensorProto| {
            if weights::is_shared(tensor) {
                let hash = Hash::of(tensor.raw_data());
                tensor.raw_data = None;
                let value = Some(hash.to_string());
                tensor.external_data = vec![StringStringEntryProto { key: Some("blake3".into()), value }];
            }
            Ok::<(), std::convert::Infallible>(())
        });
        match replaced {
            Ok(()) => Hash::of(&skeleton.encode_to_vec()),
            Err(never) => match never {},
        }
    }

    /// Records sizes that were measured by running the model, by the name of the value. Where the model
    /// leaves a size open they become fixed if no model input has an open size and the value's own does not
    /// depend on data, as that of what `NonZero` gives; otherwise another item may have other sizes, and only
    /// the rank is taken.
    pub fn set_shapes(&mut self, shapes: &HashMap<String, Shape>) {
        let inputs_fixed = self.inputs.iter().all(|input| input.fixed_shape().is_some());
        let vary = sizes::depend_on_data(&self.proto, self.graph(), &self.flow);
        for (name, shape) in shapes {
            let Some(id) = self.flow.id(name) else { continue };
            let fixed = inputs_fixed && !vary[id];
            let measured =
                shape.dims().iter().map(|&size| if fixed { Dim::Fixed(size) } else { Dim::Unknown });
            match &mut self.dims[id] {
                Some(stated) if stated.len() == shape.rank() => {
                    for (dim, measured) in stated.iter_mut().zip(measured) {
                        if !matches!(dim, Dim::Fixed(_)) && fixed {
                            *dim = measured;
                        }
                    }
                }
                dims => *dims = Some(measured.collect()),
            }
        }
    }

    pub(crate) fn graph(&self) -> &GraphProto {
        self.proto.graph.as_ref().expect("a model without a graph is refused when it is read")
    }
}

fn check_header(proto: &ModelProto) -> Result<(), ModelError> {
    if proto.graph.is_none() {
        return Err(ModelError::NotOnnx("it has no graph".to_owned()));
    }
    match proto.ir_version {
        None => return Err(ModelError::NotOnnx("it has no IR version".to_owned())),
        Some(version) if version > NEWEST_IR => return Err(ModelError::IrVersion(version)),
        Some(_) => {}
    }
    if proto.opset_import.is_empty() && proto.ir_version() >= STATED_OPERATORS_IR {
        return Err(ModelError::NotOnnx("it does not say which operators it uses (opset_import)".to_owned()));
    }
    Ok(())
}

/// Makes a model's IR version at least `version`, and says what the lower one implied.
pub(crate) fn raise_ir_version(proto: &mut ModelProto, version: i64) {
    proto.ir_version = Some(proto.ir_version().max(version));
    if proto.opset_import.is_empty() && proto.ir_version() >= STATED_OPERATORS_IR {
        proto.opset_import.push(OperatorSetIdProto { domain: None, version: Some(1) });
    }
}

/// The sizes that the model states, by id.
fn stated_dims(graph: &GraphProto, flow: &Flow) -> Vec<Option<Vec<Dim>>> {
    let mut dims = vec![None; flow.names.len()];
    for value in graph.value_info.iter().chain(&graph.output).chain(&graph.input) {
        if let (Some(id), Some(stated)) = (flow.id(value.name()), dims_of(value)) {
            dims[id] = Some(stated);
        }
    }
    dims
}

fn dims_of(value: &ValueInfoProto) -> Option<Vec<Dim>> {
    let Value::TensorType(tensor) = value.r#type.as_ref()?.value.as_ref()? else { return None };
    Some(tensor.shape.as_ref()?.dim.iter().map(dim_of).collect())
}

fn dim_of(dimension: &Dimension) -> Dim {
    match &dimension.value {
        // Negative sizes are how some exporters write an open one.
        Some(dimension::Value::DimValue(size)) => usize::try_from(*size).map_or(Dim::Unknown, Dim::Fixed),
        Some(dimension::Value::DimParam(name)) if !name.is_empty() => Dim::Symbol(name.clone()),
        Some(dimension::Value::DimParam(_)) | None => Dim::Unknown,
    }
}
