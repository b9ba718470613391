"""Writes the models of the conformance tests into its own folder. Needs onnx and numpy.

    python3 make_models.py
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper

HERE = Path(__file__).parent
OPSET = 17


def value(name, dtype, dims):
    return h.make_tensor_value_info(name, dtype, dims)


def save(name, nodes, inputs, outputs, initializers=(), opset=OPSET, ir_version=8, domains=()):
    graph = h.make_graph(nodes, name, inputs, outputs, initializers)
    opsets = [h.make_opsetid("", opset)] + [h.make_opsetid(d, 1) for d in domains]
    model = h.make_model(graph, opset_imports=opsets, ir_version=ir_version, producer_name="defer-tests")
    (HERE / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))


def floats(name, array):
    return numpy_helper.from_array(np.array(array, dtype=np.float32), name)


DTYPES = {
    "f32": T.FLOAT, "f64": T.DOUBLE, "f16": T.FLOAT16, "bf16": T.BFLOAT16,
    "u8": T.UINT8, "u16": T.UINT16, "u32": T.UINT32, "u64": T.UINT64,
    "i8": T.INT8, "i16": T.INT16, "i32": T.INT32, "i64": T.INT64,
    "bool": T.BOOL, "string": T.STRING, "complex64": T.COMPLEX64, "complex128": T.COMPLEX128,
    "f8e4m3fn": T.FLOAT8E4M3FN, "f8e4m3fnuz": T.FLOAT8E4M3FNUZ,
    "f8e5m2": T.FLOAT8E5M2, "f8e5m2fnuz": T.FLOAT8E5M2FNUZ,
    "u4": T.UINT4, "i4": T.INT4, "f4e2m1": T.FLOAT4E2M1, "f8e8m0": T.FLOAT8E8M0, "u2": T.UINT2, "i2": T.INT2,
}

# One type, any size: n elements become a column. Few operators take the narrow types, so they go through f32.
NARROW = {"u4": 21, "i4": 21, "f4e2m1": 23, "f8e8m0": 24, "u2": 25, "i2": 25}
IR_VERSIONS = {21: 10, 23: 11, 24: 12, 25: 13}
for name, dtype in DTYPES.items():
    opset = NARROW.get(name, 21)
    nodes = [h.make_node("Reshape", ["x", "column"], ["y"], name="to_column")]
    if name in NARROW:
        nodes = [
            h.make_node("Cast", ["x"], ["wide"], name="widen", to=T.FLOAT),
            h.make_node("Reshape", ["wide", "column"], ["wide_column"], name="to_column"),
            h.make_node("Cast", ["wide_column"], ["y"], name="narrow", to=dtype),
        ]
    save(
        f"column_{name}",
        nodes,
        [value("x", dtype, ["n"])],
        [value("y", dtype, ["n", 1])],
        [numpy_helper.from_array(np.array([-1, 1], dtype=np.int64), "column")],
        opset=opset,
        ir_version=IR_VERSIONS[opset],
    )

save(
    "scalar",
    [h.make_node("Add", ["a", "b"], ["sum"], name="add")],
    [value("a", T.FLOAT, []), value("b", T.FLOAT, [])],
    [value("sum", T.FLOAT, [])],
)

# Two inputs, three outputs; the graph's output order is not the order of computation.
save(
    "many",
    [
        h.make_node("Sub", ["a", "b"], ["difference"], name="sub"),
        h.make_node("Relu", ["difference"], ["positive"], name="relu"),
        h.make_node("ReduceSum", ["difference"], ["total"], name="total", keepdims=0),
    ],
    [value("a", T.FLOAT, ["batch", 3]), value("b", T.FLOAT, ["batch", 3])],
    [value("total", T.FLOAT, []), value("positive", T.FLOAT, ["batch", 3]), value("difference", T.FLOAT, ["batch", 3])],
)

# int64 in, int64 and bool out.
save(
    "integers",
    [
        h.make_node("Mul", ["x", "three"], ["tripled"], name="mul"),
        h.make_node("Greater", ["x", "three"], ["large"], name="greater"),
    ],
    [value("x", T.INT64, ["n"])],
    [value("tripled", T.INT64, ["n"]), value("large", T.BOOL, ["n"])],
    [numpy_helper.from_array(np.array(3, dtype=np.int64), "three")],
)

# An input handed through, one computed in its place, and a constant.
save(
    "through",
    [
        h.make_node("Identity", ["x"], ["same"], name="same"),
        h.make_node("Relu", ["x"], ["relu"], name="relu"),
        h.make_node("Reshape", ["x", "shape"], ["flat"], name="flat"),
    ],
    [value("x", T.FLOAT, [2, 3])],
    [value("x", T.FLOAT, [2, 3]), value("same", T.FLOAT, [2, 3]), value("relu", T.FLOAT, [2, 3]),
     value("flat", T.FLOAT, [6]), value("weight", T.FLOAT, [2])],
    [numpy_helper.from_array(np.array([6], dtype=np.int64), "shape"), floats("weight", [0.5, -2.0])],
)

# A transposed result: not contiguous in an engine that transposes by strides.
save(
    "transpose",
    [h.make_node("Transpose", ["x"], ["y"], name="transpose", perm=[1, 0])],
    [value("x", T.FLOAT, [2, 3])],
    [value("y", T.FLOAT, [3, 2])],
)

save(
    "unknown_operator",
    [
        h.make_node("Relu", ["x"], ["r"], name="fine"),
        h.make_node("Frobnicate", ["r"], ["y"], name="strange_node", domain="org.example"),
    ],
    [value("x", T.FLOAT, [2])],
    [value("y", T.FLOAT, [2])],
    domains=["org.example"],
)

# Fails only when it runs: the sizes that meet in MatMul are the item's own.
save(
    "matmul",
    [h.make_node("MatMul", ["a", "b"], ["y"], name="the_product")],
    [value("a", T.FLOAT, ["m", "k"]), value("b", T.FLOAT, ["l", "n"])],
    [value("y", T.FLOAT, ["m", "n"])],
)

# Weights beside the model, the second at an offset.
weights = [floats("w", np.arange(64).reshape(8, 8) / 8), floats("bias", np.arange(8))]
(HERE / "external.data").write_bytes(b"".join(w.raw_data for w in weights))
offset = 0
for w in weights:
    length = len(w.raw_data)
    w.ClearField("raw_data")
    w.data_location = T.EXTERNAL
    for key, text in [("location", "external.data"), ("offset", str(offset)), ("length", str(length))]:
        w.external_data.add(key=key, value=text)
    offset += length
save(
    "external",
    [
        h.make_node("MatMul", ["x", "w"], ["product"], name="product"),
        h.make_node("Add", ["product", "bias"], ["y"], name="sum"),
    ],
    [value("x", T.FLOAT, [1, 8])],
    [value("y", T.FLOAT, [1, 8])],
    weights,
)

# Residual blocks, whole and cut between two of them. Enough channels for ONNX Runtime's blocked layout, which
# changes the last bits when a model is cut here.
CHANNELS = 16
generator = np.random.default_rng(1)


def convolution(name, source, target):
    """The node and its weights. rten asks for strides and dilations even where they are the default."""
    kernel = floats(f"{name}.w", generator.standard_normal((CHANNELS, CHANNELS, 3, 3)) / 12)
    bias = floats(f"{name}.b", generator.standard_normal(CHANNELS))
    inputs = [source, f"{name}.w", f"{name}.b"]
    node = h.make_node("Conv", inputs, [target], name=name, pads=[1] * 4, strides=[1, 1], dilations=[1, 1])
    return [node], [kernel, bias]


def block(name, source, target):
    first, first_weights = convolution(f"{name}1", source, f"{name}a")
    second, second_weights = convolution(f"{name}2", f"{name}b", f"{name}c")
    relu = h.make_node("Relu", [f"{name}a"], [f"{name}b"], name=f"{name}relu")
    add = h.make_node("Add", [f"{name}c", source], [f"{name}d"], name=f"{name}add")
    last = h.make_node("Relu", [f"{name}d"], [target], name=f"{name}last")
    return [*first, relu, *second, add, last], first_weights + second_weights


stem, stem_weights = convolution("stem", "x", "stem")
early, early_weights = block("early", "stem", "cut")
late, late_weights = block("late", "cut", "y")
x, cut, y = (value(name, T.FLOAT, [1, CHANNELS, 8, 8]) for name in ["x", "cut", "y"])
save("blocks", stem + early + late, [x], [y], stem_weights + early_weights + late_weights)
save("blocks_head", stem + early, [x], [cut], stem_weights + early_weights)
save("blocks_tail", late, [cut], [y], late_weights)
