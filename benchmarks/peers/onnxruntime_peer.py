"""onnxruntime as a contestant: the torch network through torch's TorchScript exporter, which needs no further package. Also dslc as one that is given
the same graph: `dslc.onnx`."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping

import numpy as np

from ..workloads import DECODED, Workload


def prepare(workload: Workload, weights: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray], threads: int) -> Callable[[], np.ndarray]:
    """A function that runs the forward pass once; training is not offered."""
    if workload.mode == "train":
        raise NotImplementedError("onnxruntime trains no longer")
    import onnxruntime

    if workload.mode == "decode":
        from .torch_decoding import onnxruntime_decoder
        from .torch_models import NETWORKS

        return onnxruntime_decoder(NETWORKS[workload.model](weights).eval(), inputs["x"][0].tolist(), DECODED, threads)
    graph, x = _graph(workload, weights, inputs)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(["y"], {"x": x})[0]


def prepare_imported(
    workload: Workload, weights: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray], threads: int
) -> Callable[[], np.ndarray]:
    """A function that runs the same graph by dslc."""
    if workload.mode != "forward":
        raise NotImplementedError("a graph is a forward pass")
    import time

    import onnx

    import dslc

    graph, x = _graph(workload, weights, inputs)
    start = time.perf_counter()
    try:
        program = dslc.compile(dslc.load(onnx.load_from_string(graph)), target="cpu")
    except dslc.Error.UnsupportedOp as error:
        raise NotImplementedError(error.message) from error
    print(f"{workload.name}: the graph was read and compiled in {time.perf_counter() - start:.2f} s", file=sys.stderr)
    return lambda: program(x=x)["y"]


def _graph(workload: Workload, weights: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> tuple[bytes, np.ndarray]:
    """The graph of the torch network, or the one that is written for the workload, and its input."""
    from .onnx_quantized import GRAPHS

    if workload.model in GRAPHS:
        return GRAPHS[workload.model](weights, inputs["x"]), inputs["x"]
    import torch

    from .torch_models import NETWORKS

    x = torch.from_numpy(inputs["x"])
    x = x.long() if x.dtype == torch.int32 else x
    buffer = io.BytesIO()
    network = NETWORKS[workload.model](weights).eval()
    torch.onnx.export(network, (x,), buffer, input_names=["x"], output_names=["y"], dynamo=False, opset_version=17)
    return buffer.getvalue(), x.numpy()
