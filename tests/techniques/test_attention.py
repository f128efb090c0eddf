"""Attention beside the library's: scores of other kinds, memories, patterns by hashing, sparse and blockwise forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from .runner import Case, Tensors, case, check

CASES: list[Case] = []


def causal(scores: torch.Tensor) -> torch.Tensor:
    return scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -math.inf).softmax(-1)


def heads(p: Tensors, layer: str, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
    """The library's cross_attention, or self_attention over x itself."""
    q, k, v = (torch.einsum("bid,dhc->bhic", z, p[f"{layer}.{w}"]) for z, w in ((x, "wq"), (memory, "wk"), (memory, "wv")))
    return torch.einsum("bhic,hcd->bid", F.scaled_dot_product_attention(q, k, v), p[f"{layer}.wo"])


def norm(p: Tensors, layer: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], p[f"{layer}.scale"], p[f"{layer}.shift"])


@case(CASES, """
model M:
    dims batch=3, n=5, m=7
    input s[batch, n, 4], h[batch, m, 6]
    param w1[4, 5], w2[6, 5], v[5] ~ normal()
    e[b, i, j] = sum[a](v[a] * tanh(sum[d](w1[d, a] * s[b, i, d]) + sum[d](w2[d, a] * h[b, j, d])))
    y[b, i, d] = sum[j](softmax[j](e[b, i, j]) * h[b, j, d])
""")  # fmt: skip
def additive(p: Tensors, i: Tensors) -> torch.Tensor:
    e = (torch.tanh((i["s"] @ p["w1"])[:, :, None] + (i["h"] @ p["w2"])[:, None]) * p["v"]).sum(-1)
    return e.softmax(-1) @ i["h"]


@case(CASES, """
model M:
    input s[3, 5, 4], h[3, 6, 4]
    param w[4, 4], u[8] ~ normal()
    z1[b, i, j < 6, d] = s[b, i, d]
    z2[b, i < 5, j, d] = h[b, j, d]
    general[b, i, j] = sum[d, e](s[b, i, d] * w[d, e] * h[b, j, e])
    joined[b, i, j] = sum[d](u[d] * concat(z1, z2)[b, i, j, d])
    y[b, i, d] = sum[j](softmax[j](general[b, i, j]) * h[b, j, d]) + sum[j](softmax[j](joined[b, i, j]) * h[b, j, d])
""")  # fmt: skip
def general_and_concat_scores(p: Tensors, i: Tensors) -> torch.Tensor:
    s, h = i["s"], i["h"]
    joined = (s @ p["u"][:4])[:, :, None] + (h @ p["u"][4:])[:, None]
    return (s @ p["w"] @ h.mT).softmax(-1) @ h + joined.softmax(-1) @ h


@case(CASES, """
layer differential(x[b, t, d], heads, start=0.8):
    let c = d // heads // 2
    param wq[d, 2 * heads, c], wk[d, 2 * heads, c], wv[d, heads, 2 * c], wo[heads, 2 * c, d] ~ xavier_uniform()
    param lq[2, c], lk[2, c] ~ normal(std=0.1)
    weigh = exp(sum[c](lq[0, c] * lk[0, c])) - exp(sum[c](lq[1, c] * lk[1, c])) + start
    q[b, g, i, c] = sum[d](x[b, i, d] * wq[d, g, c])
    k[b, g, j, c] = sum[d](x[b, j, d] * wk[d, g, c])
    v[b, h, j, e] = sum[d](x[b, j, d] * wv[d, h, e])
    s[b, g, i, j] = sum[c](q[b, g, i, c] * k[b, g, j, c]) / sqrt(size(c))
    p[b, g, i, j] = softmax[j](where(j <= i, s[b, g, i, j], -inf))
    o[b, h < heads, i, e] = sum[j]((p[b, 2 * h, i, j] - weigh * p[b, 2 * h + 1, i, j]) * v[b, h, j, e])
    o = rmsnorm(o) * (1 - start)
    return y[b, i, d] = sum[h, e](o[b, h, i, e] * wo[h, e, d])

model M:
    input x[2, 11, 8]
    y = differential(x, 2)
""", spread=0.3)  # fmt: skip
def differential(p: Tensors, i: Tensors) -> torch.Tensor:
    p, x = {k.removeprefix("differential."): v for k, v in p.items()}, i["x"]
    q, k, v = (torch.einsum("bid,dhc->bhic", x, p[w]) for w in ("wq", "wk", "wv"))
    a = causal(q @ k.mT / 2**0.5)
    first, second = (p["lq"] * p["lk"]).sum(-1).exp()
    o = F.rms_norm((a[:, 0::2] - (first - second + 0.8) * a[:, 1::2]) @ v, (4,), p["rmsnorm.scale"], 1e-6) * (1 - 0.8)
    return torch.einsum("bhie,hed->bid", o, p["wo"])


@case(CASES, """
model M:
    dims batch=2, time=7
    input x[batch, time, 6], km[11, 6], vm[11, 6]
    param wq[6, 6], wk[6, 6], wv[6, 6] ~ xavier_uniform()
    param gate ~ zeros()
    q[b, t, e] = sum[d](x[b, t, d] * wq[d, e])
    k[b, t, e] = sum[d](x[b, t, d] * wk[d, e])
    v[b, t, e] = sum[d](x[b, t, d] * wv[d, e])
    near[b, i, m] = sum[c](q[b, i, c] * km[m, c])
    best, pick = topk(near, 3)
    far[b, i, d] = sum[r](softmax[r](best[b, i, r] / sqrt(6)) * vm[pick[b, i, r], d])
    s[b, i, j] = sum[c](q[b, i, c] * k[b, j, c]) / sqrt(size(c))
    here[b, i, d] = sum[j](softmax[j](where(j <= i, s[b, i, j], -inf)) * v[b, j, d])
    y = sigmoid(gate) * far + (1 - sigmoid(gate)) * here
""")  # fmt: skip
def nearest_memories(p: Tensors, i: Tensors) -> torch.Tensor:
    q, k, v = (i["x"] @ p[w] for w in ("wq", "wk", "wv"))
    best, pick = (q @ i["km"].T).topk(3, -1)
    far = ((best / 6**0.5).softmax(-1)[..., None] * i["vm"][pick]).sum(2)
    gate = p["gate"].sigmoid()
    return gate * far + (1 - gate) * (causal(q @ k.mT / 6**0.5) @ v)


@case(CASES, """
layer gated(x[b, i, d], picture[b, j, e], heads):
    param alpha, beta ~ zeros()
    x = x + tanh(alpha) * cross_attention(layernorm(x), picture, heads)
    return x + tanh(beta) * mlp(layernorm(x), 4 * d)

model M:
    input x[3, 7, 8], picture[3, 5, 4]
    with frozen:
        f = gelu(linear(picture, 6))
    y = gated(x, f, 2)
""")  # fmt: skip
def gated_cross_attention(p: Tensors, i: Tensors) -> torch.Tensor:
    f = F.gelu(i["picture"] @ p["linear.w"] + p["linear.b"]).detach()
    p = {k.removeprefix("gated."): v for k, v in p.items()}
    x = i["x"] + p["alpha"].tanh() * heads(p, "cross_attention", norm(p, "layernorm", i["x"]), f)
    inner = F.gelu(norm(p, "layernorm_2", x) @ p["mlp.linear.w"] + p["mlp.linear.b"])
    return x + p["beta"].tanh() * (inner @ p["mlp.linear_2.w"] + p["mlp.linear_2.b"])


@case(CASES, """
layer perceiver(x[b, j, e], count, width, heads, turns):
    param start[count, width] ~ normal(std=0.5)
    z[batch < b, i, d] = start[i, d]
    cross = use cross_attention(heads)
    look = use self_attention(heads)
    repeat turns:
        z = z + cross(z, x)
        z = z + look(z)
    return z

model M:
    input x[3, 7, 5]
    y = perceiver(x, 4, 6, 2, turns=2)
""", spread=0.2)  # fmt: skip
def latent_array(p: Tensors, i: Tensors) -> torch.Tensor:
    p = {k.removeprefix("perceiver."): v for k, v in p.items()}
    z = p["start"].expand(3, 4, 6)
    for _ in range(2):
        z = z + heads(p, "cross", z, i["x"])
        z = z + heads(p, "look", z, z)
    return z


@case(CASES, """
model M:
    dims batch=2, time=12
    let  block=3, n=time // block
    input x[batch, time, 6]
    param wq[6, 6], wk[6, 6], wv[6, 6] ~ xavier_uniform()
    q[b, t, e] = sum[d](x[b, t, d] * wq[d, e])
    k[b, t, e] = sum[d](x[b, t, d] * wk[d, e])
    v[b, t, e] = sum[d](x[b, t, d] * wv[d, e])
    kb[b, m < n, e] = mean[u < block](k[b, m * block + u, e])
    vb[b, m < n, e] = mean[u < block](v[b, m * block + u, e])
    keys = concat(kb, k, axis=1)
    values = concat(vb, v, axis=1)
    s[b, i, j] = sum[c](q[b, i, c] * keys[b, j, c]) / sqrt(size(c))
    seen[i < time, j < n + time] = (j < n and j < i // block) or (j >= n and (j - n) // block == i // block and j - n <= i)
    y[b, i, d] = sum[j](softmax[j](where(seen[i, j], s[b, i, j], -inf)) * values[b, j, d])
""")  # fmt: skip
def blocks_of_the_past_as_means(p: Tensors, i: Tensors) -> torch.Tensor:
    q, k, v = (i["x"] @ p[w] for w in ("wq", "wk", "wv"))
    keys, values = (torch.cat([z.reshape(2, 4, 3, 6).mean(2), z], 1) for z in (k, v))
    a, j = torch.arange(12)[:, None], torch.arange(16)[None]
    seen = ((j < 4) & (j < a // 3)) | ((j >= 4) & ((j - 4) // 3 == a // 3) & (j - 4 <= a))
    return (q @ keys.mT / 6**0.5).masked_fill(~seen, -math.inf).softmax(-1) @ values


@case(CASES, """
layer mab(x[b, i, d], y[b, j, e], heads):
    h = layernorm(x + cross_attention(x, y, heads))
    return layernorm(h + relu(linear(h, d)))

layer isab(x[b, n, d], m, heads):
    param points[m, d] ~ normal()
    s[batch < b, i, d] = points[i, d]
    return mab(x, mab(s, x, heads), heads)

layer pma(x[b, n, d], k, heads):
    param seeds[k, d] ~ normal()
    s[batch < b, i, d] = seeds[i, d]
    return mab(s, x, heads)

model M:
    input x[3, 7, 6]
    param g[6] ~ normal()
    y = g * pma(isab(x, 3, 2), 1, 2)
""")  # fmt: skip
def sets(p: Tensors, i: Tensors) -> torch.Tensor:
    def mab(name: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        mine = {k.removeprefix(name + "."): v for k, v in p.items() if k.startswith(name + ".")}
        h = norm(mine, "layernorm", x + heads(mine, "cross_attention", x, y))
        return norm(mine, "layernorm_2", h + F.relu(h @ mine["linear.w"] + mine["linear.b"]))

    inner = mab("isab.mab_2", i["x"], mab("isab.mab", p["isab.points"].expand(3, 3, 6), i["x"]))
    return p["g"] * mab("pma.mab", p["pma.seeds"].expand(3, 1, 6), inner)


@case(CASES, """
layer lsh(x[b, t, d], buckets, chunk, c):
    param wqk[d, c], wv[d, c] ~ xavier_uniform()
    state r[c, buckets // 2] ~ normal()
    q[b, t, c] = sum[d](x[b, t, d] * wqk[d, c])
    v[b, t, c] = sum[d](x[b, t, d] * wv[d, c])
    k[b, t, c] = q[b, t, c] / sqrt(sum[e](q[b, t, e] ** 2) + 1e-6)
    h[b, t, n] = sum[c](q[b, t, c] * r[c, n])
    hash[b, t] = argmax[n](concat(h, -h)[b, t, n])
    order[b, t] = argsort[t](hash[b, t] * size(t) + t)
    back[b, t] = argsort[t](order[b, t])
    sq[b, t, c] = q[b, order[b, t], c]
    sk[b, t, c] = k[b, order[b, t], c]
    sv[b, t, c] = v[b, order[b, t], c]
    sh[b, t] = hash[b, order[b, t]]
    let n = t // chunk
    s[b, m < n, i < chunk, j < 2 * chunk] = sum[c](sq[b, m * chunk + i, c] * sk[b, (m - 1) * chunk + j, c]) / sqrt(size(c))
    near[b, m < n, i < chunk, j < 2 * chunk] = sh[b, m * chunk + i] == sh[b, (m - 1) * chunk + j, outside=-1]
    past[b, m < n, i < chunk, j < 2 * chunk] = order[b, (m - 1) * chunk + j] <= order[b, m * chunk + i]
    p[b, m, i, j] = softmax[j](where(near[b, m, i, j] and past[b, m, i, j], s[b, m, i, j], -inf))
    o[b, m, i, c] = sum[j](p[b, m, i, j] * sv[b, (m - 1) * chunk + j, c])
    return y[b, t, c] = o[b, back[b, t] // chunk, back[b, t] % chunk, c]

model M:
    input x[2, 12, 5]
    y = lsh(x, 4, 3, 4)
""")  # fmt: skip
def hashed(p: Tensors, i: Tensors) -> torch.Tensor:
    q, v = i["x"] @ p["lsh.wqk"], i["x"] @ p["lsh.wv"]
    k = q / ((q**2).sum(-1, keepdim=True) + 1e-6).sqrt()
    h = q @ p["lsh.r"]
    bucket, at = torch.cat([h, -h], -1).argmax(-1), torch.arange(12)
    chunk = (bucket * 12 + at).argsort(-1).argsort(-1) // 3
    ahead = chunk[:, :, None] - chunk[:, None, :]
    seen = (bucket[:, :, None] == bucket[:, None, :]) & ((ahead == 0) | (ahead == 1)) & (at[:, None] >= at[None])
    return (q @ k.mT / 2).masked_fill(~seen, -math.inf).softmax(-1) @ v


@case(CASES, """
model M:
    dims batch=2, blocks=3, width=4
    let time = blocks * width
    input x[batch, time, 5], k[batch, time, 5], v[batch, time, 5]
    param w[5, 5] ~ normal()
    q[b, i, e] = sum[d](x[b, i, d] * w[d, e])
    scan n < blocks carry m[batch, time] = -1e30, l[batch, time] = 0, o[batch, time, 5] = 0:
        s[b, i, j < width] = sum[c](q[b, i, c] * k[b, n * width + j, c]) / sqrt(size(c))
        top[b, i] = max(m[b, i], max[j](s[b, i, j]))
        p[b, i, j] = exp(s[b, i, j] - top[b, i])
        less[b, i] = exp(m[b, i] - top[b, i])
        l[b, i] = l[b, i] * less[b, i] + sum[j](p[b, i, j])
        o[b, i, c] = o[b, i, c] * less[b, i] + sum[j](p[b, i, j] * v[b, n * width + j, c])
        m = top
    y[b, i, c] = o[b, i, c] / l[b, i]
""")  # fmt: skip
def blocks_of_keys_in_turn(p: Tensors, i: Tensors) -> torch.Tensor:
    return F.scaled_dot_product_attention(i["x"] @ p["w"], i["k"], i["v"])


PATTERNS = {  # of query i and key j, in the language and in torch
    "powers": ("i == j or any[e < 4](i - j == 2 ** e)", lambda i, j, n: (i == j) | ((i - j)[..., None] == torch.tensor([1, 2, 4, 8])).any(-1)),
    "fixed": ("j <= i and (j // 4 == i // 4 or j % 4 == 3)", lambda i, j, n: (j <= i) & ((j // 4 == i // 4) | (j % 4 == 3))),
    "global": ("abs(i - j) < 2 or i < 2 or j < 2", lambda i, j, n: ((i - j).abs() < 2) | (i < 2) | (j < 2)),
    "blocks": ("blocks[i // 3, j // 3]", lambda i, j, n: n["blocks"][i // 3, j // 3]),
    "lengths": ("j < length[b] and i < length[b]", lambda i, j, n: (j < n["length"][:, None, None]) & (i < n["length"][:, None, None])),
}


def pattern_case(name: str) -> Case:
    text, seen = PATTERNS[name]

    def oracle(p: Tensors, i: Tensors) -> torch.Tensor:
        q, k, v = (i["x"] @ p[w] for w in ("wq", "wk", "wv"))
        open_ = seen(torch.arange(13)[:, None], torch.arange(13)[None], i).expand(3, 13, 13)
        none = ~open_.any(-1, keepdim=True)  # rows in which nothing is allowed give zeros
        s = (q @ k.mT / 5**0.5).masked_fill(~open_ & ~none, -math.inf)
        return s.softmax(-1).masked_fill(none, 0) @ v

    return Case(name, f"""
model M:
    dims batch=3, time=13
    input x[batch, time, 7], length[batch]: int32, blocks[5, 5]: bool
    param wq[7, 5], wk[7, 5], wv[7, 5] ~ xavier_uniform()
    q[b, t, c] = sum[d](x[b, t, d] * wq[d, c])
    k[b, t, c] = sum[d](x[b, t, d] * wk[d, c])
    v[b, t, c] = sum[d](x[b, t, d] * wv[d, c])
    seen[b < batch, i < time, j < time] = {text}
    s[b, i, j] = sum[c](q[b, i, c] * k[b, j, c]) / sqrt(size(c))
    y[b, i, c] = sum[j](softmax[j](where(seen[b, i, j], s[b, i, j], -inf)) * v[b, j, c])
""", oracle, drawn={"length": np.array([0, 13, 5])})  # fmt: skip


@pytest.mark.parametrize("one", [*CASES, *map(pattern_case, PATTERNS)], ids=str)
def test_same_as_torch(one: Case) -> None:
    check(one)
