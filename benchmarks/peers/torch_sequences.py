"""Encoders, a state space and a recommendation model in torch, with weights taken from the model files' arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .torch_vision import Scope

Weights = Mapping[str, np.ndarray]


def linear(matrix: torch.Tensor, bias: torch.Tensor | None = None) -> nn.Linear:
    """A Linear that multiplies by `matrix` [inputs, outputs]."""
    layer = nn.Linear(*matrix.shape, bias=bias is not None)
    layer.weight = nn.Parameter(matrix.T.contiguous())
    if bias is not None:
        layer.bias = nn.Parameter(bias.reshape(-1))
    return layer


def layernorm(s: Scope) -> nn.LayerNorm:
    layer = nn.LayerNorm(len(s["scale"]))
    layer.load_state_dict({"weight": s["scale"], "bias": s["shift"]})
    return layer


class Attention(nn.Module):
    def __init__(self, s: Scope):
        super().__init__()
        width, _, self.heads, _ = s["qkv"].shape
        self.qkv = linear(s["qkv"].reshape(width, -1), s["qkv_shift"])
        self.proj = linear(s["proj"].reshape(-1, width), s["proj_shift"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, d = x.shape
        q, k, v = (z.view(b, t, self.heads, -1).transpose(1, 2) for z in self.qkv(x).split(d, 2))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, d))


class FeedForward(nn.Module):
    def __init__(self, s: Scope):
        super().__init__()
        self.fc, self.fc2 = linear(s["fc"], s["fc_shift"]), linear(s["fc2"], s["fc2_shift"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc(x)))


class Encoder(nn.Module):
    """Layers with the norms before (`first`) or behind the residuals."""

    def __init__(self, s: Scope, depth: int, first: bool):
        super().__init__()
        makers = {"layernorm": layernorm, "attention_block": Attention, "feed_forward": FeedForward}
        kinds = (
            ["layernorm", "attention_block", "layernorm", "feed_forward"] if first else ["attention_block", "layernorm", "feed_forward", "layernorm"]
        )
        parts = [[makers[kind](scope) for scope in s.repeat(kind, depth)] for kind in kinds]
        self.layers = nn.ModuleList(map(nn.ModuleList, zip(*parts)))
        self.first = first

    def forward(self, e: torch.Tensor) -> torch.Tensor:
        for a, b, c, d in self.layers:  # type: ignore[misc]
            if self.first:
                e = e + b(a(e))
                e = e + d(c(e))
            else:
                e = b(e + a(e))
                e = d(e + c(e))
        return e


class ViT(nn.Module):
    def __init__(self, w: Weights):
        super().__init__()
        s = Scope(w)
        patches = s.call("conv2d")["w"]
        self.patches = nn.Conv2d(3, patches.shape[0], 16, 16, bias=False)
        self.patches.weight = nn.Parameter(patches)
        self.place = nn.Parameter(s["place"])
        self.encoder = Encoder(s, sum(name.endswith(".qkv") for name in w), first=True)
        self.norm, self.head = layernorm(s.call("layernorm")), linear(s["head"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        e = self.patches(x).flatten(2).transpose(1, 2) + self.place
        return self.head(self.norm(self.encoder(e)).mean(1))


class BERT(nn.Module):
    def __init__(self, w: Weights):
        super().__init__()
        s = Scope(w)
        self.wte, self.wpe = nn.Parameter(s["wte"]), nn.Parameter(s["wpe"])
        self.norm = layernorm(s.call("layernorm"))
        self.encoder = Encoder(s, sum(name.endswith(".qkv") for name in w), first=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(self.norm(self.wte[x] + self.wpe))


class Recommender(nn.Module):
    def __init__(self, w: Weights):
        super().__init__()
        s = Scope(w)
        self.tables, self.rows, width = s["table"].shape
        self.table = nn.Parameter(s["table"].reshape(-1, width))
        self.offsets: torch.Tensor
        self.register_buffer("offsets", self.rows * torch.arange(self.tables))
        self.layers = nn.Sequential(linear(s["w1"].reshape(-1, 256), s["b1"]), nn.ReLU(), linear(s["w2"], s["b2"]), nn.ReLU(), linear(s["w3"]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        e = F.embedding(x + self.offsets, self.table)
        return self.layers((e @ e.transpose(1, 2)).flatten(1))


class Mamba(nn.Module):
    def __init__(self, w: Weights):
        super().__init__()
        for name, value in w.items():
            self.register_parameter(name, nn.Parameter(torch.from_numpy(value.copy())))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p = dict(self.named_parameters())
        width, _, inner = p["enter"].shape
        a, gate = (x @ p["enter"].reshape(width, -1)).split(inner, 2)
        u = F.silu(F.conv1d(F.pad(a.transpose(1, 2), (3, 0)), p["filter"][:, None], groups=inner).transpose(1, 2))
        dt = F.softplus(u @ p["down"] @ p["up"])
        b, c, decay = u @ p["to_b"], u @ p["to_c"], torch.exp(p["decay"])
        keep, more = torch.exp(-dt[..., None] * decay), (dt * u)[..., None] * b[:, :, None]
        h, out = torch.zeros_like(more[:, 0]), []
        for t in range(x.shape[1]):
            h = keep[:, t] * h + more[:, t]
            out.append((h * c[:, t, None]).sum(2))
        return (torch.stack(out, 1) * F.silu(gate)) @ p["leave"]


class MoE(nn.Module):
    """Each expert's tokens are picked, multiplied and added where they belong."""

    def __init__(self, w: Weights):
        super().__init__()
        self.router, self.up, self.down = (nn.Parameter(torch.from_numpy(w[name].copy())) for name in ("router", "up", "down"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        best, pick = (x @ self.router).topk(2, -1)
        gate, out = best.softmax(-1), torch.zeros_like(x)
        for expert in range(self.up.shape[0]):
            token, turn = torch.where(pick == expert)
            y = F.silu(x[token] @ self.up[expert]) @ self.down[expert]
            out = out.index_add(0, token, y * gate[token, turn, None])
        return out


NETWORKS: dict[str, Callable[[Weights], nn.Module]] = {"vit_small": ViT, "bert_base": BERT, "recommender": Recommender, "mamba": Mamba, "moe": MoE}
