"""The workloads' networks in torch, with weights taken from the model file's arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

from . import torch_sequences, torch_vision

Weights = Mapping[str, np.ndarray]


def _linear(matrix: np.ndarray, bias: np.ndarray | None = None) -> nn.Linear:
    """A Linear that multiplies by `matrix` [inputs, outputs]."""
    layer = nn.Linear(matrix.shape[0], matrix.shape[1], bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(matrix.T.copy()))
        if bias is not None:
            layer.bias.copy_(torch.from_numpy(bias))
    return layer


class MLP(nn.Module):
    def __init__(self, w: Weights):
        super().__init__()
        self.layers = nn.ModuleList(_linear(w[f"w{k}"], w[f"b{k}"]) for k in (1, 2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[2](F.relu(self.layers[1](F.relu(self.layers[0](x)))))


class MLPInt8(nn.Module):
    """Weights in 8 bits by channel, inputs at each call: torch's dynamic quantization."""

    def __init__(self, w: Weights):
        super().__init__()
        names = ("linear_int8", "linear_int8_2", "linear_int8_3")
        layers = [_linear(w[f"{name}.w"], w[f"{name}.b"]) for name in names]
        floats = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
        self.layers = quantize_dynamic(floats.eval(), {nn.Linear: per_channel_dynamic_qconfig}, dtype=torch.qint8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Block(nn.Module):
    def __init__(self, w: Weights, turn: int):
        super().__init__()
        qkv, proj = w[f"attention_block.{turn}.qkv"], w[f"attention_block.{turn}.proj"]
        self.width, self.heads = qkv.shape[0], qkv.shape[2]
        self.norm1, self.norm2 = nn.LayerNorm(self.width, bias=False), nn.LayerNorm(self.width, bias=False)
        self.qkv = _linear(qkv.reshape(self.width, -1))
        self.proj = _linear(proj.reshape(-1, self.width))
        self.fc, self.fc2 = _linear(w[f"feed_forward.{turn}.fc"]), _linear(w[f"feed_forward.{turn}.fc2"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, d = x.shape
        q, k, v = (z.view(b, t, self.heads, -1).transpose(1, 2) for z in self.qkv(self.norm1(x)).split(d, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, d)
        x = x + self.proj(y)
        return x + self.fc2(F.gelu(self.fc(self.norm2(x))))


class GPT(nn.Module):
    def __init__(self, w: Weights):
        super().__init__()
        self.wte = nn.Parameter(torch.from_numpy(w["wte"].copy()))
        self.wpe = nn.Parameter(torch.from_numpy(w["wpe"].copy()))
        depth = sum(name.endswith(".qkv") for name in w)
        self.blocks = nn.ModuleList(Block(w, turn) for turn in range(depth))
        self.norm = nn.LayerNorm(self.wte.shape[1], bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        e = self.wte[x] + self.wpe[: x.shape[1]]
        for block in self.blocks:
            e = block(e)
        return self.norm(e) @ self.wte.T


class Attention(nn.Module):
    def __init__(self, w: Weights):
        super().__init__()
        self.shift = nn.Parameter(torch.from_numpy(w["shift"].copy()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (x + self.shift).unbind(0)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class LSTM(nn.Module):
    """The model file's gates [in, 4, hidden] are torch's [4 * hidden, in]: input, forget, cell, output in both."""

    def __init__(self, w: Weights):
        super().__init__()
        inputs, _, hidden = w["lstm.wx"].shape
        self.lstm = nn.LSTM(inputs, hidden, batch_first=True)
        given = {"weight_ih_l0": w["lstm.wx"], "weight_hh_l0": w["lstm.wh"], "bias_ih_l0": w["lstm.bias"], "bias_hh_l0": 0 * w["lstm.bias"]}
        with torch.no_grad():
            for name, value in given.items():
                matrix = value.reshape(value.shape[0], -1).T if value.ndim == 3 else value.reshape(-1)
                getattr(self.lstm, name).copy_(torch.from_numpy(matrix.copy()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0]


class Rows(nn.Module):
    """A function as a network."""

    def __init__(self, run: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__()
        self.run = run

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(x)


NETWORKS: dict[str, Callable[[Weights], nn.Module]] = {
    **torch_vision.NETWORKS,
    **torch_sequences.NETWORKS,
    "mlp": MLP,
    "mlp_int8": MLPInt8,
    "gpt": GPT,
    "attention": Attention,
    "lstm": LSTM,
    "layernorm": lambda w: nn.LayerNorm(1024),
    "softmax": lambda w: Rows(lambda x: F.softmax(x, -1)),
    "gelu_add_layernorm": lambda w: Rows(lambda x: F.layer_norm(F.gelu(x) + x, (1024,))),
}
