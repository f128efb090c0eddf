"""Training steps in torch, for the GPU benchmarks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def stepper(network: nn.Module, loss: Callable[..., torch.Tensor]) -> Callable[..., float]:
    """A function that makes one step of fused AdamW by the gradients of `loss`, and gives its value."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, weight_decay=0.01, fused=True)

    def step(*given: torch.Tensor) -> float:
        total = loss(*given)
        total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total.item()

    return step
