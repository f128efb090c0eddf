"""torch, eager and compiled, as contestants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
import torch._functorch.config
import torch.nn.functional as F

from ..workloads import DECODED, Workload
from .torch_models import NETWORKS


def prepare(
    workload: Workload, weights: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray], threads: int, compiled: bool, kept: float = 1.0
) -> Callable[[], np.ndarray]:
    """A function that runs the workload once and gives its result (logits, or the loss of the step) in memory that survives the next call.
    `kept`: torch's `activation_memory_budget`, a share of what a compiled step keeps for the backward pass otherwise."""
    torch.set_num_threads(threads)
    torch._functorch.config.activation_memory_budget = kept
    if compiled and workload.model == "mlp_int8":
        raise NotImplementedError("torch.compile has no form of torch's quantized layers")
    network = NETWORKS[workload.model](weights)
    maybe_compiled = partial(torch.compile, dynamic=False) if compiled else (lambda network: network)
    if workload.mode == "decode":
        from .torch_decoding import torch_decoder

        return torch_decoder(network, inputs["x"][0].tolist(), DECODED, maybe_compiled)
    x = torch.from_numpy(inputs["x"])
    x = x.long() if x.dtype == torch.int32 else x
    run = maybe_compiled(network)
    if workload.mode == "forward":
        network.eval()

        def forward() -> np.ndarray:
            with torch.no_grad():
                return run(x).numpy()

        return forward

    y = torch.from_numpy(inputs["y"]).long().reshape(-1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, weight_decay=0.01, fused=True)

    def step() -> np.ndarray:
        logits = run(x)
        loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach().numpy()

    return step
