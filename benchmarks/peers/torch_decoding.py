"""Greedy decoding with caches in torch and, exported, in onnxruntime: one token a call, from the GPT of `torch_models`."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

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


def _tokens(step: Callable[[int, int], int], prompt: list[int], count: int) -> np.ndarray:
    """The prompt is fed token by token; what follows is what was chosen last."""
    token = 0
    for position, given in enumerate(prompt):
        token = step(given, position)
    found = [token]
    while len(found) < count:
        token = step(token, len(prompt) + len(found) - 1)
        found.append(token)
    return np.array(found)


def torch_decoder(network: GPT, prompt: list[int], count: int, compiled: Callable[[Static], Callable[..., Tensor]]) -> Callable[[], np.ndarray]:
    """A function that decodes `count` tokens greedily, on the network's device. `compiled` gives what is called for each token."""
    call = compiled(Static(network.eval()))
    device = network.wpe.device

    def step(token: int, position: int) -> int:
        return int(call(torch.tensor([token], device=device), torch.tensor([position], device=device)))

    def run() -> np.ndarray:
        with torch.no_grad():
            return _tokens(step, prompt, count)

    return run


def onnxruntime_decoder(network: GPT, prompt: list[int], count: int, threads: int) -> Callable[[], np.ndarray]:
    """The same in onnxruntime; the caches stay in its own values from call to call."""
    import onnxruntime

    block, turns = network.blocks[0], len(network.blocks)
    empty = torch.zeros(1, block.heads, 0, block.width // block.heads)
    names = [f"past{k}" for k in range(2 * turns)]
    kept = [f"kept{k}" for k in range(2 * turns)]
    buffer = io.BytesIO()
    some = torch.zeros(1, block.heads, 5, block.width // block.heads)
    given = (torch.tensor([0]), torch.tensor([5]), *[some] * (2 * turns))
    lengths = {n: {2: "past"} for n in names} | {n: {2: "now"} for n in kept}
    torch.onnx.export(Growing(network.eval()), given, buffer, input_names=["token", "position", *names], output_names=["next", *kept],
                      dynamic_axes=lengths, dynamo=False, opset_version=17)  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(buffer.getvalue(), options, providers=["CPUExecutionProvider"])
    caches: list = []

    def step(token: int, position: int) -> int:
        if position == 0:
            caches[:] = [onnxruntime.OrtValue.ortvalue_from_numpy(empty.numpy())] * (2 * turns)
        feed = {"token": onnxruntime.OrtValue.ortvalue_from_numpy(np.array([token])),
                "position": onnxruntime.OrtValue.ortvalue_from_numpy(np.array([position])), **dict(zip(names, caches))}  # fmt: skip
        found = session.run_with_ort_values(["next", *kept], feed)
        caches[:] = found[1:]
        return int(found[0].numpy()[0])

    return lambda: _tokens(step, prompt, count)
