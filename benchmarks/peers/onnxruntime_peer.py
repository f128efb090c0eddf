"""onnxruntime as a contestant: the torch network through torch's TorchScript exporter, which needs no further package."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np

from ..workloads import DECODED, Workload


def prepare(workload: Workload, weights: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray], threads: int) -> Callable[[], np.ndarray]:
    """A function that runs the forward pass once; training is not offered."""
    if workload.mode == "train":
        raise NotImplementedError("onnxruntime trains no longer")
    import onnxruntime
    import torch

    from .torch_models import NETWORKS

    network = NETWORKS[workload.model](weights).eval()
    if workload.mode == "decode":
        from .torch_decoding import onnxruntime_decoder

        return onnxruntime_decoder(network, inputs["x"][0].tolist(), DECODED, threads)
    x = torch.from_numpy(inputs["x"])
    x = x.long() if x.dtype == torch.int32 else x
    buffer = io.BytesIO()
    torch.onnx.export(network, (x,), buffer, input_names=["x"], output_names=["y"], dynamo=False, opset_version=17)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(buffer.getvalue(), options, providers=["CPUExecutionProvider"])
    feed = {"x": x.numpy()}
    return lambda: session.run(["y"], feed)[0]
