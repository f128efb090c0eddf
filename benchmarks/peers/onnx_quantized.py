"""Graphs of quantized workloads, as onnxruntime's own dynamic quantization writes them; torch's exporter has no form for these."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

Weights = Mapping[str, np.ndarray]


def mlp_int8(w: Weights, x: np.ndarray) -> bytes:
    """DynamicQuantizeLinear, MatMulInteger, the scales and the bias, for each layer of `models/mlp_int8.dsl`."""
    nodes, constants, value = [], [], "x"
    names = ("linear_int8", "linear_int8_2", "linear_int8_3")
    for k, name in enumerate(names):
        step = np.abs(w[f"{name}.w"]).max(0) / np.float32(127)
        made = {"w": np.round(w[f"{name}.w"] / step).astype(np.int8), "zero": np.array(0, np.int8), "step": step, "b": w[f"{name}.b"]}
        constants += [numpy_helper.from_array(a, f"{part}{k}") for part, a in made.items()]
        last = "y" if k == len(names) - 1 else f"h{k}"
        nodes += [
            helper.make_node("DynamicQuantizeLinear", [value], [f"xq{k}", f"xs{k}", f"xz{k}"]),
            helper.make_node("MatMulInteger", [f"xq{k}", f"w{k}", f"xz{k}", f"zero{k}"], [f"total{k}"]),
            helper.make_node("Cast", [f"total{k}"], [f"float{k}"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", [f"xs{k}", f"step{k}"], [f"scale{k}"]),
            helper.make_node("Mul", [f"float{k}", f"scale{k}"], [f"scaled{k}"]),
            helper.make_node("Add", [f"scaled{k}", f"b{k}"], [last]),
        ]
        if last != "y":
            nodes.append(helper.make_node("Relu", [last], [f"r{k}"]))
        value = f"r{k}"
    outputs = w[f"{names[-1]}.b"].shape[0]
    ports = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n, shape in (("x", x.shape), ("y", (len(x), outputs)))]
    graph = helper.make_graph(nodes, "mlp_int8", ports[:1], ports[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


GRAPHS = {"mlp_int8": mlp_int8}
