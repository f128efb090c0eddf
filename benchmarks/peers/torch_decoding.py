"""Greedy decoding with caches in torch, and the form of it that is exported: one token a call, from the GPT of `torch_models`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .greedy import tokens
from .torch_models import GPT, Block

Tensor = torch.Tensor


def _projected(block: Block, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [1, heads, 1, width of a head] of one position."""
    q, k, v = (z.view(1, 1, block.heads, -1).transpose(1, 2) for z in block.qkv(block.norm1(x)).split(block.width, 2))
    return q, k, v


def _finished(block: Block, x: Tensor, y: Tensor) -> Tensor:
    x = x + block.proj(y.transpose(1, 2).reshape(1, 1, -1))
    return x + block.fc2(F.gelu(block.fc(block.norm2(x))))


class Static(nn.Module):
    """Caches of the full length, written at the position in place: what torch.compile can keep as one program."""

    def __init__(self, network: GPT):
        super().__init__()
        self.network = network
        self.length = network.wpe.shape[0]
        block = network.blocks[0]
        shape = (1, block.heads, self.length, block.width // block.heads)
        self.caches = [network.wpe.new_zeros(shape) for _ in range(2 * len(network.blocks))]

    def forward(self, token: Tensor, position: Tensor) -> Tensor:
        network = self.network
        x = (network.wte[token] + network.wpe[position]).view(1, 1, -1)
        seen = (torch.arange(self.length, device=position.device) <= position).view(1, 1, 1, -1)
        for turn, block in enumerate(network.blocks):
            q, k, v = _projected(block, x)
            keys, values = self.caches[2 * turn : 2 * turn + 2]
            keys.index_copy_(2, position, k)
            values.index_copy_(2, position, v)
            x = _finished(block, x, F.scaled_dot_product_attention(q, keys, values, attn_mask=seen))
        return (network.norm(x) @ network.wte.T).argmax(-1).view(1)


class Growing(nn.Module):
    """Caches that are inputs and outputs and grow by a row a token, as exported decoders have them."""

    def __init__(self, network: GPT):
        super().__init__()
        self.network = network

    def forward(self, token: Tensor, position: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        network = self.network
        x = (network.wte[token] + network.wpe[position]).view(1, 1, -1)
        kept = []
        for turn, block in enumerate(network.blocks):
            q, k, v = _projected(block, x)
            keys, values = torch.cat([past[2 * turn], k], 2), torch.cat([past[2 * turn + 1], v], 2)
            kept += [keys, values]
            weights = (q @ keys.transpose(2, 3) * (block.width // block.heads) ** -0.5).softmax(-1)
            x = _finished(block, x, weights @ values)
        return (network.norm(x) @ network.wte.T).argmax(-1).view(1), *kept


def torch_decoder(network: GPT, prompt: list[int], count: int, compiled: Callable[[Static], Callable[..., Tensor]]) -> Callable[[], np.ndarray]:
    """A function that decodes `count` tokens greedily, on the network's device. `compiled` gives what is called for each token."""
    call = compiled(Static(network.eval()))
    device = network.wpe.device

    def step(token: int, position: int) -> int:
        return int(call(torch.tensor([token], device=device), torch.tensor([position], device=device)))

    def run() -> np.ndarray:
        with torch.no_grad():
            return tokens(step, prompt, count)

    return run
