"""Networks over texts, sounds and graphs, written small in torch."""

import math

import torch
from torch import nn
from torch.nn import functional as F


def heads(x, count):
    """[b, t, h*c] -> [b, h, t, c]"""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def joined(x):
    return x.transpose(1, 2).flatten(2)


class GPT2(nn.Module):
    """Two blocks with a causal mask, an embedding, tied weights at the end."""

    def __init__(self):
        super().__init__()
        self.table, self.place = nn.Embedding(11, 16), nn.Parameter(torch.randn(7, 16) * 0.1)
        self.norm1, self.norm2, self.last = nn.LayerNorm(16), nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, ids):
        x = self.table(ids) + self.place
        q, k, v = (heads(t, 4) for t in self.qkv(self.norm1(x)).chunk(3, -1))
        scores = q @ k.transpose(-1, -2) / 2.0
        scores = scores.masked_fill(torch.ones(7, 7).triu(1).bool(), float("-inf"))
        x = x + self.out(joined(scores.softmax(-1) @ v))
        x = x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))
        return self.last(x) @ self.table.weight.T


class BERT(nn.Module):
    """Three embeddings, a mask of the rows' lengths, normalization behind the sums, a pooled first token."""

    def __init__(self):
        super().__init__()
        self.words, self.places, self.kinds = nn.Embedding(13, 16), nn.Embedding(10, 16), nn.Embedding(2, 16)
        self.norm0, self.norm1, self.norm2 = (nn.LayerNorm(16, eps=1e-12) for _ in range(3))
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.up, self.down, self.pool = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 16)

    def forward(self, ids, mask, kinds):
        x = self.norm0(self.words(ids) + self.kinds(kinds) + self.places(torch.arange(ids.shape[1])[None]))
        away = (1.0 - mask[:, None, None].to(x.dtype)) * torch.finfo(x.dtype).min
        scores = heads(self.q(x), 4) @ heads(self.k(x), 4).transpose(-1, -2) / 2.0 + away
        x = self.norm1(x + self.out(joined(scores.softmax(-1) @ heads(self.v(x), 4))))
        x = self.norm2(x + self.down(F.gelu(self.up(x))))
        return torch.tanh(self.pool(x[:, 0]))


class RMSNorm(nn.Module):
    """By elementary operations, since the exporter through TorchScript has none for torch's own."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class Llama(nn.Module):
    """RMS norm, rotary embedding, grouped queries, a gated unit."""

    def __init__(self):
        super().__init__()
        self.norm = RMSNorm(16)
        self.q, self.kv, self.out = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)
        self.gate, self.up, self.down = nn.Linear(16, 24, bias=False), nn.Linear(16, 24, bias=False), nn.Linear(24, 16, bias=False)
        angle = torch.arange(6)[:, None] / 10.0 ** torch.arange(2)
        self.register_buffer("cos", angle.cos().repeat(1, 2))
        self.register_buffer("sin", angle.sin().repeat(1, 2))

    def turned(self, x):
        a, b = x.chunk(2, -1)
        return x * self.cos + torch.cat([-b, a], -1) * self.sin

    def forward(self, x):
        y = self.norm(x)
        q = self.turned(heads(self.q(y), 4))
        k, v = (heads(t, 2) for t in self.kv(y).chunk(2, -1))
        k, v = self.turned(k).repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        x = x + self.out(joined(F.scaled_dot_product_attention(q, k, v, is_causal=True)))
        return x + self.down(F.silu(self.gate(x)) * self.up(x))


class T5Attention(nn.Module):
    """No scale and no bias but one by buckets of the distance; of a decoder, causal."""

    def __init__(self, causal, biased=True):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(12, 12, bias=False) for _ in range(4))
        self.bias, self.causal = nn.Embedding(8, 3) if biased else None, causal

    def buckets(self, rows, columns):
        """Near distances have a bucket each, far ones share by their logarithm."""
        away = torch.arange(columns)[None] - torch.arange(rows)[:, None]
        count = 8 if self.causal else 4
        near, side = count // 2, 0 if self.causal else (away > 0).long() * count
        away = (-away).clamp(min=0) if self.causal else away.abs()
        far = near + (torch.log(away.float().clamp(min=1) / near) / math.log(16 / near) * (count - near)).long()
        return side + torch.where(away < near, away, far.clamp(max=count - 1))

    def forward(self, x, memory=None):
        y = x if memory is None else memory
        scores = heads(self.q(x), 3) @ heads(self.k(y), 3).transpose(-1, -2)
        if self.bias is not None:
            scores = scores + self.bias(self.buckets(x.shape[1], x.shape[1])).permute(2, 0, 1)
        if self.causal:
            scores = scores + torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)
        return self.out(joined(scores.softmax(-1) @ heads(self.v(y), 3)))


class T5(nn.Module):
    """An encoder and a decoder of one block each, one table of words, norms without means."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(9, 12)
        self.encoder, self.decoder, self.cross = T5Attention(False), T5Attention(True), T5Attention(False, biased=False)
        self.up, self.down = nn.Linear(12, 20, bias=False), nn.Linear(20, 12, bias=False)
        self.norms = nn.ModuleList([RMSNorm(12) for _ in range(4)])

    def forward(self, ids, made):
        x = self.words(ids)
        x = x + self.encoder(self.norms[0](x))
        x = self.norms[1](x + self.down(F.relu(self.up(x))))
        y = self.words(made)
        y = y + self.decoder(self.norms[2](y))
        y = y + self.cross(self.norms[3](y), x)
        return y * 12**-0.5 @ self.words.weight.T


class LSTM(nn.Module):
    """Words through two layers of two directions; the last states are classified."""

    def __init__(self):
        super().__init__()
        self.words, self.lstm, self.head = nn.Embedding(9, 5), nn.LSTM(5, 6, 2, bidirectional=True, batch_first=True), nn.Linear(12, 3)

    def forward(self, ids):
        _, (last, _) = self.lstm(self.words(ids))
        return self.head(torch.cat([last[-2], last[-1]], -1))


class GRU(nn.Module):
    """Sequence first, from a state that is given, normalized results."""

    def __init__(self):
        super().__init__()
        self.gru, self.norm, self.head = nn.GRU(5, 7), nn.LayerNorm(7), nn.Linear(7, 2)

    def forward(self, x, start):
        return self.head(self.norm(self.gru(x, start)[0]))


class WaveNet(nn.Module):
    """Gated dilated convolutions over time, skips summed."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv1d(4, 8, 2, dilation=2**k) for k in range(3)])
        self.skips = nn.ModuleList([nn.Conv1d(4, 5, 1) for _ in range(3)])

    def forward(self, x):
        total = 0
        for k, (layer, skip) in enumerate(zip(self.layers, self.skips)):
            a, b = layer(F.pad(x, (2**k, 0))).chunk(2, 1)
            gated = torch.tanh(a) * torch.sigmoid(b)
            x, total = x + gated, total + skip(gated)
        return F.log_softmax(F.relu(total), 1)


class CLIP(nn.Module):
    """An image and a text in one space: the text's vector stands at its greatest id, vectors of length 1, a learned temperature."""

    def __init__(self):
        super().__init__()
        self.patches, self.words, self.places = nn.Conv2d(3, 12, 4, 4, bias=False), nn.Embedding(20, 12), nn.Parameter(torch.randn(6, 12) * 0.1)
        self.seen, self.read = (nn.TransformerEncoderLayer(12, 2, 24, 0.0, F.gelu, batch_first=True, norm_first=True) for _ in range(2))
        self.image, self.text, self.scale = nn.Linear(12, 8, bias=False), nn.Linear(12, 8, bias=False), nn.Parameter(torch.tensor(2.0))

    def forward(self, pixels, ids):
        seen = self.image(self.seen(self.patches(pixels).flatten(2).transpose(1, 2)).mean(1))
        mask = torch.full((6, 6), float("-inf")).triu(1)
        read = self.read(self.words(ids) + self.places, src_mask=mask)
        read = self.text(read[torch.arange(ids.shape[0]), ids.argmax(-1)])
        seen, read = seen / seen.norm(dim=-1, keepdim=True), F.normalize(read, dim=-1)
        return self.scale.exp() * seen @ read.T


class Whisper(nn.Module):
    """Sounds through strided convolutions into an encoder, texts into a decoder that reads it."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.words = nn.Conv1d(5, 12, 3, padding=1), nn.Conv1d(12, 12, 3, 2, 1), nn.Embedding(9, 12)
        self.encoder = nn.TransformerEncoderLayer(12, 3, 20, 0.0, F.gelu, batch_first=True, norm_first=True)
        self.decoder = nn.TransformerDecoderLayer(12, 3, 20, 0.0, F.gelu, batch_first=True, norm_first=True)
        angle = torch.arange(8)[:, None] / 100.0 ** (torch.arange(6) / 6)
        self.register_buffer("waves", torch.cat([angle.sin(), angle.cos()], 1))

    def forward(self, sound, ids):
        x = F.gelu(self.b(F.gelu(self.a(sound)))).transpose(1, 2) + self.waves
        mask = torch.full((ids.shape[1], ids.shape[1]), float("-inf")).triu(1)
        y = self.decoder(self.words(ids) + self.waves[: ids.shape[1]], self.encoder(x), tgt_mask=mask)
        return y @ self.words.weight.T


class Experts(nn.Module):
    """A mixture of four experts, the two best of each row."""

    def __init__(self):
        super().__init__()
        self.router, self.experts = nn.Linear(8, 4), nn.Parameter(torch.randn(4, 8, 8) * 0.3)

    def forward(self, x):
        best, place = self.router(x).softmax(-1).topk(2, -1)
        weights = torch.zeros(x.shape[0], 4).scatter(1, place, best / best.sum(-1, keepdim=True))
        return torch.einsum("be,bi,eio->bo", weights, x, self.experts)


class Graph(nn.Module):
    """Messages along edges: their sums at their ends, divided by the degrees."""

    def __init__(self):
        super().__init__()
        self.message, self.update = nn.Linear(4, 6), nn.Linear(10, 4)

    def forward(self, x, edges):
        sent = F.elu(self.message(x[edges[0]]))
        ends = edges[1][:, None].expand(-1, 6)
        found = torch.zeros(x.shape[0], 6).scatter_add(0, ends, sent)
        degree = torch.zeros(x.shape[0]).scatter_add(0, edges[1], torch.ones(edges.shape[1]))
        return self.update(torch.cat([x, found / degree.clamp(min=1)[:, None]], 1))


IDS = torch.tensor([[1, 4, 2, 9, 10, 0, 3], [5, 5, 6, 7, 1, 2, 8]])
WORDS = torch.tensor([[1, 4, 2, 8, 0, 3], [5, 5, 6, 7, 1, 2]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1]])
EDGES = torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 0, 0, 0, 4]])
CASES = {
    "gpt2": (GPT2, lambda: (IDS,)),
    "bert": (BERT, lambda: (IDS, MASK, (IDS > 4).long())),
    "llama": (Llama, lambda: (torch.randn(2, 6, 16),)),
    "t5": (T5, lambda: (WORDS, WORDS[:, :4])),
    "lstm": (LSTM, lambda: (WORDS,)),
    "gru": (GRU, lambda: (torch.randn(20, 2, 5), torch.randn(1, 2, 7))),
    "wavenet": (WaveNet, lambda: (torch.randn(2, 4, 12),)),
    "clip": (CLIP, lambda: (torch.randn(2, 3, 8, 8), WORDS)),
    "whisper": (Whisper, lambda: (torch.randn(2, 5, 16), WORDS[:, :4])),
    "moe": (Experts, lambda: (torch.randn(6, 8),)),
    "gnn": (Graph, lambda: (torch.randn(5, 4), EDGES)),
}
