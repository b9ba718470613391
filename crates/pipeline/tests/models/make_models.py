"""Writes the models of the chain tests into its own folder. Needs onnx and numpy.

    python3 make_models.py
"""

from pathlib import Path

import numpy as np
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper

HERE = Path(__file__).parent
WIDTH = 8


def value(name, dtype, dims):
    return h.make_tensor_value_info(name, dtype, dims)


def save(name, nodes, inputs, outputs, initializers):
    graph = h.make_graph(nodes, name, inputs, outputs, initializers)
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8, producer_name="defer-tests")
    (HERE / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))


def table(name, seed, rows=WIDTH):
    """Small multiples of 1/8: sums of products are exact in f32, on every engine and in every order."""
    numbers = np.random.default_rng(seed).integers(-4, 5, (rows, WIDTH))
    return numpy_helper.from_array((numbers / 8).astype(np.float32), name)


def scalar(name, number, dtype):
    return numpy_helper.from_array(np.array(number, dtype=dtype), name)


def node(op, inputs, output, **attributes):
    return h.make_node(op, inputs, [output], name=f"make_{output}", **attributes)


# Several inputs and outputs. `b` and `ids` pass through the stages at the front, `early` and `flags` are
# outputs that are ready long before the last; floats, booleans and integers cross the cuts.
save(
    "branches",
    [
        node("MatMul", ["a", "w1"], "front"),
        node("Relu", ["front"], "early"),
        node("Greater", ["early", "one"], "flags"),
        node("MatMul", ["early", "w2"], "middle"),
        node("MatMul", ["middle", "w3"], "back"),
        node("Where", ["flags", "back", "b"], "chosen"),
        node("MatMul", ["chosen", "w1"], "late"),
        node("Gather", ["words", "ids"], "picked"),
        node("MatMul", ["picked", "w2"], "rows"),
        node("Mul", ["ids", "three"], "tokens"),
    ],
    [value("a", T.FLOAT, [2, WIDTH]), value("b", T.FLOAT, [2, WIDTH]), value("ids", T.INT64, [3])],
    [
        value("late", T.FLOAT, [2, WIDTH]),
        value("early", T.FLOAT, [2, WIDTH]),
        value("flags", T.BOOL, [2, WIDTH]),
        value("rows", T.FLOAT, [3, WIDTH]),
        value("tokens", T.INT64, [3]),
    ],
    [table("w1", 1), table("w2", 2), table("w3", 3), table("words", 4, rows=10), scalar("one", 1, np.float32), scalar("three", 3, np.int64)],
)

# Sizes that differ from item to item.
save(
    "dynamic",
    [
        node("MatMul", ["x", "w1"], "first"),
        node("Relu", ["first"], "second"),
        node("MatMul", ["second", "w2"], "third"),
        node("Transpose", ["third"], "columns"),
        node("MatMul", ["third", "columns"], "pairs"),
    ],
    [value("x", T.FLOAT, ["rows", WIDTH])],
    [value("pairs", T.FLOAT, ["rows", "rows"])],
    [table("w1", 1), table("w2", 2)],
)

# A detector in small: how much it finds depends on the item, though all items have one size.
save(
    "detector",
    [
        node("MatMul", ["x", "w1"], "scores"),
        node("Relu", ["scores"], "positive"),
        node("NonZero", ["positive"], "places"),
        node("Transpose", ["places"], "found"),
        node("GatherND", ["positive", "found"], "picked"),
        node("Mul", ["picked", "two"], "strengths"),
    ],
    [value("x", T.FLOAT, [2, WIDTH])],
    [value("found", T.INT64, ["count", 2]), value("strengths", T.FLOAT, ["count"])],
    [table("w1", 1), scalar("two", 2, np.float32)],
)

# An interpolation that the built-in engine takes for another.
save(
    "cubic",
    [
        node("Relu", ["x"], "positive"),
        node("Resize", ["positive", "", "scales"], "y", mode="cubic"),
    ],
    [value("x", T.FLOAT, [1, 1, 4, 4])],
    [value("y", T.FLOAT, [1, 1, 8, 8])],
    [numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")],
)

# Fails while it runs when an index lies outside the table of ten rows.
save(
    "lookup",
    [
        node("Abs", ["ids"], "rows"),
        node("Gather", ["words", "rows"], "picked"),
        node("MatMul", ["picked", "w1"], "mixed"),
        node("MatMul", ["mixed", "w2"], "y"),
    ],
    [value("ids", T.INT64, ["n"])],
    [value("y", T.FLOAT, ["n", WIDTH])],
    [table("words", 4, rows=10), table("w1", 1), table("w2", 2)],
)

# Cut in the middle, each part moves 304 KB for some millisecond of work; the whole moves 18 KB for all of it.
CHANNELS = 32


def kernel(name, seed, out, into):
    numbers = np.random.default_rng(seed).integers(-4, 5, (out, into, 3, 3))
    return numpy_helper.from_array((numbers / 64).astype(np.float32), name)


def conv(inputs, output):
    return node("Conv", inputs, output, kernel_shape=[3, 3], pads=[1, 1, 1, 1])


save(
    "wide",
    [
        conv(["x", "k1"], "c1"),
        node("Relu", ["c1"], "r1"),
        conv(["r1", "k2"], "c2"),
        node("Relu", ["c2"], "r2"),
        conv(["r2", "k3"], "c3"),
        node("Relu", ["c3"], "r3"),
        conv(["r3", "k4"], "y"),
    ],
    [value("x", T.FLOAT, [1, 1, 48, 48])],
    [value("y", T.FLOAT, [1, 1, 48, 48])],
    [
        kernel("k1", 11, CHANNELS, 1),
        kernel("k2", 12, CHANNELS, CHANNELS),
        kernel("k3", 13, CHANNELS, CHANNELS),
        kernel("k4", 14, 1, CHANNELS),
    ],
)
