//! What the architectures are written in: one method per layer, each appending the ONNX nodes that
//! exporters write for it.
//!
//! Used by the zoo's architectures only. It follows shapes, counts parameters and MACs, and records which
//! weights are needed; the weights themselves are made last, so that describing a model costs nothing.

use bytes::Bytes;
use tensor::Dim;

use super::weights::{Init, fill};
use crate::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, attribute_proto::AttributeType, tensor_proto::DataType,
    tensor_shape_proto::Dimension, tensor_shape_proto::dimension, type_proto,
};

/// Item for which the MACs of a model with open sizes are counted.
pub(super) const NOMINAL_BATCH: usize = 1;
/// See [`NOMINAL_BATCH`].
pub(super) const NOMINAL_SEQUENCE: usize = 128;

const OPSET: i64 = 17;
const IR_VERSION: i64 = 8;

/// A tensor of the graph under construction.
#[derive(Clone, Debug)]
pub(super) struct Value {
    name: String,
    elem: DataType,
    pub(super) dims: Vec<Dim>,
}

impl Value {
    /// Channels of an NCHW image.
    pub(super) fn channels(&self) -> usize {
        size(&self.dims[1])
    }

    /// Size of the last dimension.
    pub(super) fn features(&self) -> usize {
        size(&self.dims[self.dims.len() - 1])
    }
}

/// A convolution, named as PyTorch names its arguments.
#[derive(Clone, Copy)]
pub(super) struct Conv {
    pub out: usize,
    pub kernel: usize,
    pub stride: usize,
    pub pad: usize,
    pub groups: usize,
    pub bias: bool,
    /// Whether the input is a rectified tensor (otherwise it has mean zero).
    pub after_relu: bool,
}

impl Conv {
    /// Stride 1, size kept, no bias, behind a ReLU.
    pub(super) fn new(out: usize, kernel: usize) -> Conv {
        Conv { out, kernel, stride: 1, pad: kernel / 2, groups: 1, bias: false, after_relu: true }
    }
}

/// What a weight tensor holds.
enum Content {
    Seeded(Init),
    Fixed(Bytes),
}

struct Weight {
    name: String,
    elem: DataType,
    dims: Vec<usize>,
    content: Content,
}

/// A model under construction.
pub(super) struct Net {
    name: &'static str,
    nodes: Vec<NodeProto>,
    weights: Vec<Weight>,
    inputs: Vec<Value>,
    values: Vec<Value>,
    pub(super) parameters: u64,
    pub(super) macs: u64,
}

impl Net {
    pub(super) fn new(name: &'static str) -> Net {
        Net {
            name,
            nodes: Vec::new(),
            weights: Vec::new(),
            inputs: Vec::new(),
            values: Vec::new(),
            parameters: 0,
            macs: 0,
        }
    }

    pub(super) fn input(&mut self, name: &str, elem: DataType, dims: Vec<Dim>) -> Value {
        let value = Value { name: name.to_owned(), elem, dims };
        self.inputs.push(value.clone());
        value
    }

    /// A learned tensor of `f32`.
    pub(super) fn parameter(&mut self, name: &str, dims: &[usize], init: Init) -> Value {
        self.parameters += dims.iter().product::<usize>() as u64;
        self.weight(name, DataType::Float, dims, Content::Seeded(init))
    }

    /// A tensor of `i64` that belongs to the architecture.
    pub(super) fn constant_i64(&mut self, name: &str, dims: &[usize], values: &[i64]) -> Value {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.weight(name, DataType::Int64, dims, Content::Fixed(bytes.into()))
    }

    /// A number that belongs to the architecture.
    pub(super) fn constant_f32(&mut self, name: &str, value: f32) -> Value {
        self.weight(name, DataType::Float, &[], Content::Fixed(value.to_le_bytes().to_vec().into()))
    }

    fn weight(&mut self, name: &str, elem: DataType, dims: &[usize], content: Content) -> Value {
        self.weights.push(Weight { name: name.to_owned(), elem, dims: dims.to_vec(), content });
        Value { name: name.to_owned(), elem, dims: dims.iter().map(|&d| Dim::Fixed(d)).collect() }
    }

    /// Appends one operator; its output carries its name.
    pub(super) fn op(
        &mut self,
        name: &str,
        op_type: &str,
        inputs: &[&Value],
        attributes: Vec<AttributeProto>,
        dims: Vec<Dim>,
    ) -> Value {
        let elem = inputs[0].elem;
        self.op_of(name, op_type, inputs, attributes, dims, elem)
    }

    /// The same for an operator that changes the element type.
    pub(super) fn op_of(
        &mut self,
        name: &str,
        op_type: &str,
        inputs: &[&Value],
        attributes: Vec<AttributeProto>,
        dims: Vec<Dim>,
        elem: DataType,
    ) -> Value {
        let value = Value { name: name.to_owned(), elem, dims };
        self.nodes.push(NodeProto {
            name: Some(name.to_owned()),
            op_type: Some(op_type.to_owned()),
            input: inputs.iter().map(|v| v.name.clone()).collect(),
            output: vec![name.to_owned()],
            attribute: attributes,
            ..NodeProto::default()
        });
        self.values.push(value.clone());
        value
    }

    /// Gives the output of the last operator another name.
    pub(super) fn rename_last(&mut self, name: &str) -> Value {
        let node = self.nodes.last_mut().expect("an operator was appended");
        node.output = vec![name.to_owned()];
        let value = self.values.last_mut().expect("every operator has a value");
        value.name = name.to_owned();
        value.clone()
    }

    pub(super) fn conv(&mut self, name: &str, x: &Value, conv: Conv) -> Value {
        let Conv { out, kernel, stride, pad, groups, .. } = conv;
        let dims = [out, x.channels() / groups, kernel, kernel];
        let fan_in = dims[1..].iter().product();
        let init = if conv.after_relu { Init::after_relu(fan_in) } else { Init::lecun(fan_in) };
        let weight = self.parameter(&format!("{name}.weight"), &dims, init);
        let bias = conv.bias.then(|| self.parameter(&format!("{name}.bias"), &[out], Init::around(0.0, 0.1)));

        let side = |d: &Dim| Dim::Fixed((size(d) + 2 * pad - kernel) / stride + 1);
        let y = vec![x.dims[0].clone(), Dim::Fixed(out), side(&x.dims[2]), side(&x.dims[3])];
        self.macs += elements(&y) * fan_in as u64;
        let attributes = vec![
            ints("dilations", &[1, 1]),
            int("group", groups as i64),
            ints("kernel_shape", &[kernel as i64; 2]),
            ints("pads", &[pad as i64; 4]),
            ints("strides", &[stride as i64; 2]),
        ];
        let inputs: Vec<&Value> = [x, &weight].into_iter().chain(&bias).collect();
        self.op(name, "Conv", &inputs, attributes, y)
    }

    /// Batch normalisation with the statistics of a trained network in outline: scale near `gain`, the rest
    /// small. The running statistics are no parameters.
    pub(super) fn batch_norm(&mut self, name: &str, x: &Value, gain: f64) -> Value {
        let channels = [x.channels()];
        let scale = self.parameter(&format!("{name}.weight"), &channels, Init::around(gain, 0.1 * gain));
        let shift = self.parameter(&format!("{name}.bias"), &channels, Init::around(0.0, 0.1));
        let mut statistic = |what: &str, init| {
            self.weight(&format!("{name}.{what}"), DataType::Float, &channels, Content::Seeded(init))
        };
        let mean = statistic("running_mean", Init::around(0.0, 0.1));
        let var = statistic("running_var", Init::around(1.0, 0.1));
        let attributes = vec![float("epsilon", 1e-5), float("momentum", 0.9)];
        self.op(name, "BatchNormalization", &[x, &scale, &shift, &mean, &var], attributes, x.dims.clone())
    }

    pub(super) fn relu(&mut self, name: &str, x: &Value) -> Value {
        self.op(name, "Relu", &[x], vec![], x.dims.clone())
    }

    pub(super) fn max_pool(
        &mut self,
        name: &str,
        x: &Value,
        kernel: usize,
        stride: usize,
        pad: usize,
    ) -> Value {
        let side = |d: &Dim| Dim::Fixed((size(d) + 2 * pad - kernel) / stride + 1);
        let y = vec![x.dims[0].clone(), x.dims[1].clone(), side(&x.dims[2]), side(&x.dims[3])];
        let attributes = vec![
            ints("kernel_shape", &[kernel as i64; 2]),
            ints("pads", &[pad as i64; 4]),
            ints("strides", &[stride as i64; 2]),
        ];
        self.op(name, "MaxPool", &[x], attributes, y)
    }

    /// Mean over each channel.
    pub(super) fn global_average(&mut self, name: &str, x: &Value) -> Value {
        let y = vec![x.dims[0].clone(), x.dims[1].clone(), Dim::Fixed(1), Dim::Fixed(1)];
        self.op(name, "GlobalAveragePool", &[x], vec![], y)
    }

    pub(super) fn flatten(&mut self, name: &str, x: &Value) -> Value {
        let features = x.dims[1..].iter().map(size).product();
        self.op(name, "Flatten", &[x], vec![int("axis", 1)], vec![x.dims[0].clone(), Dim::Fixed(features)])
    }

    /// A dense layer on a matrix, as exporters write it: `Gemm`, weight `[out, in]`.
    pub(super) fn gemm(&mut self, name: &str, x: &Value, out: usize, init: Init) -> Value {
        let weight = self.parameter(&format!("{name}.weight"), &[out, x.features()], init);
        let bias = self.parameter(&format!("{name}.bias"), &[out], Init::around(0.0, 0.1));
        self.macs += (out * x.features()) as u64 * elements(&x.dims[..1]);
        let attributes = vec![float("alpha", 1.0), float("beta", 1.0), int("transB", 1)];
        self.op(name, "Gemm", &[x, &weight, &bias], attributes, vec![x.dims[0].clone(), Dim::Fixed(out)])
    }

    /// A dense layer on a sequence, as exporters write it: `MatMul` with a weight `[in, out]`, then `Add`.
    /// `gain` scales the weights against those that keep the variance.
    pub(super) fn linear(&mut self, name: &str, x: &Value, out: usize, gain: f64) -> Value {
        let init = Init::lecun(x.features()).scaled(gain);
        let weight = self.parameter(&format!("{name}.weight"), &[x.features(), out], init);
        let bias = self.parameter(&format!("{name}.bias"), &[out], Init::around(0.0, 0.1));
        let y = self.matmul(&format!("{name}.MatMul"), x, &weight);
        self.binary(name, "Add", &bias, &y)
    }

    pub(super) fn matmul(&mut self, name: &str, a: &Value, b: &Value) -> Value {
        let mut y = a.dims.clone();
        *y.last_mut().expect("a matrix") = b.dims[b.dims.len() - 1].clone();
        self.macs += elements(&y) * a.features() as u64;
        self.op(name, "MatMul", &[a, b], vec![], y)
    }

    /// An operator on two tensors of which the smaller is spread over the larger.
    pub(super) fn binary(&mut self, name: &str, op_type: &str, a: &Value, b: &Value) -> Value {
        let (long, short) = if a.dims.len() >= b.dims.len() { (a, b) } else { (b, a) };
        let mut y = long.dims.clone();
        let offset = y.len() - short.dims.len();
        for (dim, other) in y[offset..].iter_mut().zip(&short.dims) {
            if *dim == Dim::Fixed(1) {
                *dim = other.clone();
            }
        }
        self.op(name, op_type, &[a, b], vec![], y)
    }

    /// Normalisation over the last dimension.
    pub(super) fn layer_norm(&mut self, name: &str, x: &Value, epsilon: f32) -> Value {
        let features = [x.features()];
        let scale = self.parameter(&format!("{name}.weight"), &features, Init::around(1.0, 0.1));
        let shift = self.parameter(&format!("{name}.bias"), &features, Init::around(0.0, 0.1));
        let attributes = vec![int("axis", -1), float("epsilon", epsilon)];
        self.op(name, "LayerNormalization", &[x, &scale, &shift], attributes, x.dims.clone())
    }

    /// `x * (erf(x / sqrt 2) + 1) / 2` in the five operators that exporters write below opset 20 and that
    /// both engines fuse into one.
    pub(super) fn gelu(&mut self, name: &str, x: &Value) -> Value {
        let constant = |net: &mut Net, what: &str, v| net.constant_f32(&format!("{name}.{what}"), v);
        let (sqrt_2, one, half) = (
            constant(self, "sqrt_2", std::f32::consts::SQRT_2),
            constant(self, "one", 1.0),
            constant(self, "half", 0.5),
        );
        let scaled = self.binary(&format!("{name}.Div"), "Div", x, &sqrt_2);
        let erf = self.op(&format!("{name}.Erf"), "Erf", &[&scaled], vec![], x.dims.clone());
        let shifted = self.binary(&format!("{name}.Add"), "Add", &erf, &one);
        let product = self.binary(&format!("{name}.Mul"), "Mul", x, &shifted);
        self.binary(name, "Mul", &product, &half)
    }

    /// `Reshape` to `to`, in ONNX's terms (0 keeps a size), which makes `dims`.
    pub(super) fn reshape(&mut self, name: &str, x: &Value, to: &[i64], dims: Vec<Dim>) -> Value {
        let shape = self.constant_i64(&format!("{name}.shape"), &[to.len()], to);
        self.op(name, "Reshape", &[x, &shape], vec![], dims)
    }

    pub(super) fn transpose(&mut self, name: &str, x: &Value, order: &[usize]) -> Value {
        let dims = order.iter().map(|&axis| x.dims[axis].clone()).collect();
        let perm: Vec<i64> = order.iter().map(|&axis| axis as i64).collect();
        self.op(name, "Transpose", &[x], vec![ints("perm", &perm)], dims)
    }

    pub(super) fn softmax(&mut self, name: &str, x: &Value) -> Value {
        self.op(name, "Softmax", &[x], vec![int("axis", -1)], x.dims.clone())
    }

    /// The rows of `table` that `indices` name.
    pub(super) fn gather(&mut self, name: &str, table: &Value, indices: &Value, axis: usize) -> Value {
        let mut dims = table.dims[..axis].to_vec();
        dims.extend_from_slice(&indices.dims);
        dims.extend_from_slice(&table.dims[axis + 1..]);
        self.op(name, "Gather", &[table, indices], vec![int("axis", axis as i64)], dims)
    }

    /// The finished model, its weights made from `seed`.
    pub(super) fn finish(self, outputs: &[&Value], seed: u64) -> ModelProto {
        let is_output = |v: &Value| outputs.iter().any(|o| o.name == v.name);
        let graph = GraphProto {
            name: Some(self.name.to_owned()),
            node: self.nodes,
            initializer: self.weights.into_iter().map(|w| initializer(w, seed)).collect(),
            input: self.inputs.iter().map(value_info).collect(),
            output: outputs.iter().map(|&v| value_info(v)).collect(),
            value_info: self.values.iter().filter(|v| !is_output(v)).map(value_info).collect(),
            ..GraphProto::default()
        };
        ModelProto {
            ir_version: Some(IR_VERSION),
            opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(OPSET) }],
            producer_name: Some("defer zoo".to_owned()),
            doc_string: Some(format!("{} with untrained weights of seed {seed}", self.name)),
            graph: Some(graph),
            ..ModelProto::default()
        }
    }
}

pub(super) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, AttributeType::Int) }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, AttributeType::Ints) }
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: Some(value), ..attribute(name, AttributeType::Float) }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), r#type: Some(kind as i32), ..AttributeProto::default() }
}

fn initializer(weight: Weight, seed: u64) -> TensorProto {
    let data = match weight.content {
        Content::Seeded(init) => fill(init, weight.dims.iter().product(), &weight.name, seed),
        Content::Fixed(bytes) => bytes,
    };
    TensorProto {
        name: Some(weight.name),
        data_type: Some(weight.elem as i32),
        dims: weight.dims.iter().map(|&d| d as i64).collect(),
        raw_data: Some(data),
        ..TensorProto::default()
    }
}

fn value_info(value: &Value) -> ValueInfoProto {
    let dim = |dim: &Dim| Dimension {
        value: match dim {
            Dim::Fixed(n) => Some(dimension::Value::DimValue(*n as i64)),
            Dim::Symbol(name) => Some(dimension::Value::DimParam(name.clone())),
            Dim::Unknown => None,
        },
        ..Dimension::default()
    };
    let tensor = type_proto::Tensor {
        elem_type: Some(value.elem as i32),
        shape: Some(TensorShapeProto { dim: value.dims.iter().map(dim).collect() }),
    };
    ValueInfoProto {
        name: Some(value.name.clone()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}

/// A dimension's size, for the nominal item where it is open.
fn size(dim: &Dim) -> usize {
    match dim {
        Dim::Fixed(n) => *n,
        Dim::Symbol(name) if name == "sequence" => NOMINAL_SEQUENCE,
        Dim::Symbol(_) | Dim::Unknown => NOMINAL_BATCH,
    }
}

fn elements(dims: &[Dim]) -> u64 {
    dims.iter().map(|d| size(d) as u64).product()
}
