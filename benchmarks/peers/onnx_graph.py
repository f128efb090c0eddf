"""`python -m benchmarks.peers.onnx_graph WORKLOAD WEIGHTS FILE`: the ONNX graph of a workload, from the torch network by torch's TorchScript
exporter, which needs no further package, or as it is written for the workload. In a process of its own torch is no part of who runs the graph.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..workloads import WORKLOADS, Workload, inputs

if TYPE_CHECKING:
    from .torch_models import GPT

Weights = Mapping[str, np.ndarray]


def made(workload: Workload, weights: str) -> Path:
    """The graph's file, beside the file of weights."""
    file = Path(weights).with_name(f"{workload.name}.onnx")
    if not file.exists():
        subprocess.run([sys.executable, "-m", "benchmarks.peers.onnx_graph", workload.name, weights, str(file)], check=True)
    return file


def graph_input(x: np.ndarray) -> np.ndarray:
    """What the graph is given: torch's indices have 64 bits."""
    return x.astype(np.int64) if x.dtype == np.int32 else x


def write(workload: Workload, weights: Weights, file: str) -> None:
    from .onnx_quantized import GRAPHS

    x = inputs(workload)["x"]
    if workload.model in GRAPHS:
        Path(file).write_bytes(GRAPHS[workload.model](weights, x))
        return
    import torch

    from .torch_models import NETWORKS

    network = NETWORKS[workload.model](weights).eval()
    if workload.mode == "decode":
        _write_step(network, file)
    else:
        _export(network, (torch.from_numpy(graph_input(x)),), file, input_names=["x"], output_names=["y"])


def _write_step(network: GPT, file: str) -> None:
    """One token of a decoder whose caches grow."""
    import torch

    from .torch_decoding import Growing

    block, turns = network.blocks[0], len(network.blocks)
    some = torch.zeros(1, block.heads, 5, block.width // block.heads)
    past, kept = ([f"{name}{k}" for k in range(2 * turns)] for name in ("past", "kept"))
    lengths = {n: {2: "past"} for n in past} | {n: {2: "now"} for n in kept}
    given = (torch.tensor([0]), torch.tensor([5]), *[some] * (2 * turns))
    _export(Growing(network), given, file, input_names=["token", "position", *past], output_names=["next", *kept], dynamic_axes=lengths)


def _export(network: Any, given: tuple, file: str, **names: Any) -> None:
    import torch

    torch.onnx.export(network, given, file, dynamo=False, opset_version=17, **names)


if __name__ == "__main__":
    with np.load(sys.argv[2]) as stored:
        write(WORKLOADS[sys.argv[1]], dict(stored), sys.argv[3])
