"""Writes the models of the command's tests into its own folder. Needs onnx and numpy.

    python3 make_models.py
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper

HERE = Path(__file__).parent
N = 1024


def floats(name, array):
    return numpy_helper.from_array(np.array(array, dtype=np.float32), name)


# A known function of whole numbers, exact in f32 in any order of summation, that `soak.rs` computes as well:
#   y[r] = sum over i of |relu(3 x[i] + i % 7 - 3) + r - 40| * (i % 5 - 2)
# Tensors of 4 KB (the input) and 16 KB (from `shifted` on) cross its cuts.
i = np.arange(N)
graph = h.make_graph(
    [
        h.make_node("Mul", ["x", "three"], ["scaled"], name="scale"),
        h.make_node("Add", ["scaled", "ramp"], ["ramped"], name="ramp_up"),
        h.make_node("Relu", ["ramped"], ["positive"], name="clip"),
        h.make_node("Add", ["positive", "rows"], ["shifted"], name="shift"),
        h.make_node("Abs", ["shifted"], ["magnitude"], name="fold"),
        h.make_node("Mul", ["magnitude", "weights"], ["weighted"], name="weigh"),
        h.make_node("ReduceSum", ["weighted", "axis"], ["y"], name="sum", keepdims=0),
    ],
    "known",
    [h.make_tensor_value_info("x", T.FLOAT, [1, N])],
    [h.make_tensor_value_info("y", T.FLOAT, [4])],
    [
        floats("three", [3]),
        floats("ramp", i % 7 - 3),
        floats("rows", np.arange(4).reshape(4, 1) - 40),
        floats("weights", i % 5 - 2),
        numpy_helper.from_array(np.array([1], dtype=np.int64), "axis"),
    ],
)
model = h.make_model(
    graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8, producer_name="defer-tests"
)
onnx.checker.check_model(model, full_check=True)
(HERE / "known.onnx").write_bytes(model.SerializeToString(deterministic=True))
