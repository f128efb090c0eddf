"""Further networks in torch, each an architecture in small: what their exported graphs hold is what the importer must know."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Efficient(nn.Module):
    """EfficientNet's inverted bottleneck: expansion, depthwise convolution, squeeze and excite, SiLU, residual."""

    def __init__(self):
        super().__init__()
        self.grow, self.norm0 = nn.Conv2d(6, 18, 1, bias=False), nn.BatchNorm2d(18)
        self.depth, self.norm1 = nn.Conv2d(18, 18, 3, padding=1, groups=18, bias=False), nn.BatchNorm2d(18)
        self.squeeze, self.excite = nn.Conv2d(18, 4, 1), nn.Conv2d(4, 18, 1)
        self.shrink, self.norm2 = nn.Conv2d(18, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.norm1(self.depth(F.silu(self.norm0(self.grow(x))))))
        y = y * torch.sigmoid(self.excite(F.silu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        x = x + self.norm2(self.shrink(y))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Dense(nn.Module):
    """DenseNet: every layer sees all features before it; a transition halves the image."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(4 + 3 * k) for k in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(4 + 3 * k, 3, 3, padding=1, bias=False) for k in range(3))
        self.norm, self.mix, self.head = nn.BatchNorm2d(13), nn.Conv2d(13, 6, 1, bias=False), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        for norm, conv in zip(self.norms, self.convs):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        return self.head(F.avg_pool2d(self.mix(F.relu(self.norm(x))), 2).flatten(2).mean(2))


class ConvNext(nn.Module):
    """ConvNeXt: wide depthwise filters, a layer norm over channels, a gated residual."""

    def __init__(self):
        super().__init__()
        self.stem, self.depth = nn.Conv2d(3, 8, 2, stride=2), nn.Conv2d(8, 8, 7, padding=3, groups=8)
        self.norm, self.up, self.down = nn.LayerNorm(8, eps=1e-6), nn.Linear(8, 32), nn.Linear(32, 8)
        self.gamma, self.head = nn.Parameter(torch.full((8,), 0.1)), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        x = x + (self.gamma * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)
        return self.head(x.mean((2, 3)))


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | float, scale: float) -> Tensor:
    """Attention of [b, i, d] to [b, j, d], written out; `bias` is added to the scores [b, h, i, j]."""
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    weights = (q @ k.transpose(2, 3) * scale + bias).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


class Bert(nn.Module):
    """BERT: words, places and kinds of token, a mask of padding, the first token's state through tanh."""

    def __init__(self):
        super().__init__()
        self.words, self.places, self.kinds = nn.Embedding(13, 16), nn.Embedding(8, 16), nn.Embedding(2, 16)
        self.norm0, self.norm1, self.norm2 = (nn.LayerNorm(16, eps=1e-12) for _ in range(3))
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.up, self.down, self.pool = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 16)

    def forward(self, ids: Tensor, kinds: Tensor, mask: Tensor) -> Tensor:
        x = self.norm0(self.words(ids) + self.places(torch.arange(ids.shape[1])) + self.kinds(kinds))
        bias = (1.0 - mask[:, None, None, :].to(x.dtype)) * -10000.0
        x = self.norm1(x + self.out(attend(self.q(x), self.k(x), self.v(x), 2, bias, 8**-0.5)))
        x = self.norm2(x + self.down(F.gelu(self.up(x))))
        return torch.tanh(self.pool(x[:, 0]))


class RmsNorm(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class T5(nn.Module):
    """T5: buckets of relative positions, attention without a scale, an encoder that the decoder attends to."""

    def __init__(self):
        super().__init__()
        self.table, self.buckets = nn.Embedding(11, 16), nn.Embedding(8, 2)
        self.norms = nn.ModuleList(RmsNorm(16) for _ in range(4))
        self.encode, self.decode, self.cross = (nn.ModuleList(nn.Linear(16, 16, bias=False) for _ in range(4)) for _ in range(3))
        self.up, self.down = nn.Linear(16, 32, bias=False), nn.Linear(32, 16, bias=False)

    def bias(self, n: int) -> Tensor:
        gap = torch.arange(n)[None, :] - torch.arange(n)[:, None]
        near = gap.abs().clamp(max=3)
        far = (2 + torch.log(gap.abs().clamp(min=1).float() / 2) / math.log(4) * 2).long().clamp(max=3)
        bucket = (gap > 0).long() * 4 + torch.where(gap.abs() < 2, near, far)
        return self.buckets(bucket).permute(2, 0, 1)[None]

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        x, y = self.table(source), self.table(target)
        h = self.norms[0](x)
        q, k, v, o = self.encode
        x = x + o(attend(q(h), k(h), v(h), 2, self.bias(source.shape[1]), 1.0))
        h = self.norms[1](y)
        q, k, v, o = self.decode
        n = target.shape[1]
        ahead = torch.full((n, n), float("-inf")).triu(1)
        y = y + o(attend(q(h), k(h), v(h), 2, self.bias(n) + ahead, 1.0))
        q, k, v, o = self.cross
        y = y + o(attend(q(self.norms[2](y)), k(x), v(x), 2, 0.0, 1.0))
        return (y + self.down(F.relu(self.up(self.norms[3](y))))) @ self.table.weight.T


class Gated(nn.Module):
    """Two layers of GRU, the last state's class."""

    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(5, 8, num_layers=2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[0][:, -1])


class Clip(nn.Module):
    """CLIP: an image's and a text's direction, the text's taken at its greatest id, and their similarities."""

    def __init__(self):
        super().__init__()
        self.patch, self.image = nn.Conv2d(3, 16, 4, stride=4), nn.Linear(16, 8, bias=False)
        self.table, self.norm, self.text = nn.Embedding(9, 16), nn.LayerNorm(16), nn.Linear(16, 8, bias=False)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, image: Tensor, ids: Tensor) -> Tensor:
        a = self.image(self.patch(image).flatten(2).mean(2))
        states = self.norm(self.table(ids))
        b = self.text(states[torch.arange(ids.shape[0]), ids.argmax(-1)])
        a, b = (x / x.norm(dim=-1, keepdim=True) for x in (a, b))
        return self.scale.exp() * a @ b.T


class Whisper(nn.Module):
    """Whisper: sound through two convolutions and fixed sinusoids, a causal decoder that attends to it."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(6, 16, 3, padding=1), nn.Conv1d(16, 16, 3, stride=2, padding=1)
        rates = torch.exp(-math.log(10000) / 7 * torch.arange(8))
        angles = torch.arange(6)[:, None] * rates
        self.register_buffer("waves", torch.cat([angles.sin(), angles.cos()], 1))
        self.table, self.norm1, self.norm2, self.norm3 = nn.Embedding(10, 16), *(nn.LayerNorm(16) for _ in range(3))
        self.own, self.cross = (nn.ModuleList(nn.Linear(16, 16) for _ in range(4)) for _ in range(2))

    def forward(self, sound: Tensor, ids: Tensor) -> Tensor:
        x = self.norm1(F.gelu(self.conv2(F.gelu(self.conv1(sound)))).transpose(1, 2) + self.waves)
        y = self.table(ids)
        n = ids.shape[1]
        ahead = torch.full((n, n), float("-inf")).triu(1)
        h = self.norm2(y)
        q, k, v, o = self.own
        y = y + o(attend(q(h), k(h), v(h), 2, ahead, 8**-0.5))
        q, k, v, o = self.cross
        y = y + o(attend(q(self.norm3(y)), k(x), v(x), 2, 0.0, 8**-0.5))
        return y @ self.table.weight.T


class Mixer(nn.Module):
    """MLP-Mixer: dense layers over patches, then over channels."""

    def __init__(self):
        super().__init__()
        self.patch, self.norm1, self.norm2 = nn.Conv2d(3, 8, 2, stride=2), nn.LayerNorm(8), nn.LayerNorm(8)
        self.tokens = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.channels = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norm2(x))
        return self.head(x.mean(1))


class Selective(nn.Module):
    """A state-space layer in the manner of Mamba: a short causal convolution, steps that depend on the input, a gate; its scan by running sums."""

    def __init__(self):
        super().__init__()
        self.inner, self.conv = nn.Linear(8, 32), nn.Conv1d(16, 16, 3, padding=2, groups=16)
        self.step, self.decay, self.out = nn.Linear(16, 16), nn.Parameter(torch.linspace(0.1, 0.5, 16)), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        u, gate = self.inner(x).chunk(2, -1)
        u = F.silu(self.conv(u.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        step = F.softplus(self.step(u))
        total = (step * self.decay).cumsum(1)
        y = torch.exp(-total) * (torch.exp(total) * step * u).cumsum(1)
        return self.out(y * F.silu(gate))


NETWORKS = {
    "efficient": (Efficient, lambda: (torch.randn(2, 6, 6, 6),)),
    "dense": (Dense, lambda: (torch.randn(2, 4, 6, 6),)),
    "convnext": (ConvNext, lambda: (torch.randn(2, 3, 8, 8),)),
    "bert": (Bert, lambda: (torch.randint(0, 13, (2, 8)), torch.randint(0, 2, (2, 8)), torch.tensor([[1] * 8, [1] * 5 + [0] * 3]))),
    "t5": (T5, lambda: (torch.randint(0, 11, (2, 7)), torch.randint(0, 11, (2, 5)))),
    "gated": (Gated, lambda: (torch.randn(2, 9, 5),)),
    "clip": (Clip, lambda: (torch.randn(3, 3, 8, 8), torch.randint(0, 9, (3, 6)))),
    "whisper": (Whisper, lambda: (torch.randn(2, 6, 12), torch.randint(0, 10, (2, 5)))),
    "mixer": (Mixer, lambda: (torch.randn(2, 3, 8, 8),)),
    "selective": (Selective, lambda: (torch.randn(2, 10, 8),)),
}
