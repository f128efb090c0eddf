"""onnxruntime as a contestant, given the graph of `onnx_graph`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from ..workloads import DECODED, Workload
from .greedy import tokens
from .onnx_graph import graph_input

Inputs = Mapping[str, np.ndarray]


def prepare(workload: Workload, graph: Path, inputs: Inputs, threads: int) -> Callable[[], np.ndarray]:
    """A function that runs the forward pass, or a decoding, once."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    if workload.mode == "decode":
        return _decoder(session, inputs["x"][0].tolist())
    x = graph_input(inputs["x"])
    return lambda: session.run(["y"], {"x": x})[0]


def _decoder(session: onnxruntime.InferenceSession, prompt: list[int]) -> Callable[[], np.ndarray]:
    """Decodes greedily; the caches stay in onnxruntime's own values from call to call."""
    past = [port for port in session.get_inputs() if port.name.startswith("past")]
    kept = [port.name for port in session.get_outputs() if port.name.startswith("kept")]
    _, heads, _, width = past[0].shape
    value = onnxruntime.OrtValue.ortvalue_from_numpy
    caches: list = []

    def step(token: int, position: int) -> int:
        if position == 0:
            caches[:] = [value(np.zeros((1, heads, 0, width), np.float32))] * len(past)
        feed = {"token": value(np.array([token])), "position": value(np.array([position])), **dict(zip((p.name for p in past), caches))}
        found = session.run_with_ort_values(["next", *kept], feed)
        caches[:] = found[1:]
        return int(found[0].numpy()[0])

    return lambda: tokens(step, prompt, DECODED)
