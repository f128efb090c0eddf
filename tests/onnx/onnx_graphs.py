"""Small graphs for tests."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper


def node(op, inputs, outputs, name="", **attributes):
    return helper.make_node(op, inputs, outputs, name=name, **attributes)


def model(nodes, inputs, outputs, initializers=None, opset=21, imports=(), functions=()):
    """`inputs`, `outputs`: {name: shape}, or {name: (element type, shape)}."""

    def port(name, about):
        elem, shape = about if isinstance(about, tuple) else (TensorProto.FLOAT, about)
        return helper.make_tensor_value_info(name, elem, shape)

    graph = helper.make_graph(
        nodes, "net", [port(*p) for p in inputs.items()], [port(*p) for p in outputs.items()],
        [onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in (initializers or {}).items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, v) for d, v in imports)]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=10)


def mlp():
    """relu(x @ w1 + b1) @ w2: x is [batch, 4], y [batch, 3]."""
    rng = np.random.default_rng(0)
    weights = {"w1": rng.normal(size=(4, 8)), "b1": rng.normal(size=8), "w2": rng.normal(size=(8, 3))}
    nodes = [
        node("Gemm", ["x", "w1", "b1"], ["h"], "fc1"),
        node("Relu", ["h"], ["r"], "relu"),
        node("MatMul", ["r", "w2"], ["y"], "fc2"),
    ]
    return model(nodes, {"x": ["batch", 4]}, {"y": ["batch", 3]}, {k: v.astype(np.float32) for k, v in weights.items()})
