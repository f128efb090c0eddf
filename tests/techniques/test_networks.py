"""Encoders, encoder-decoders, mixtures of experts and front ends put together from layers and equations."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from .runner import Case, Tensors, case, check

CASES: list[Case] = []


def under(p: Tensors, name: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(name + "."): v for k, v in p.items() if k.startswith(name + ".")}


def attend(p: Tensors, x: torch.Tensor, memory: torch.Tensor | None = None, **options: object) -> torch.Tensor:
    q, k, v = (torch.einsum("bid,dhc->bhic", x if w == "wq" or memory is None else memory, p[w]) for w in ("wq", "wk", "wv"))
    return torch.einsum("bhic,hcd->bid", F.scaled_dot_product_attention(q, k, v, **options), p["wo"])  # type: ignore[arg-type]


def norm(p: Tensors, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], p["scale"], p["shift"])


def linear(p: Tensors, x: torch.Tensor) -> torch.Tensor:
    return x @ p["w"] + p["b"]


def feed(p: Tensors, x: torch.Tensor, act: object = F.gelu) -> torch.Tensor:
    return linear(under(p, "linear_2"), act(linear(under(p, "linear"), x)))  # type: ignore[operator]


# --- transformers


@case(CASES, """
layer look(x[b, t, d], real[b, t]: bool, heads):
    let c = d // heads
    param wq[d, heads, c], wk[d, heads, c], wv[d, heads, c], wo[heads, c, d] ~ xavier_uniform()
    q[b, h, i, c] = sum[d](x[b, i, d] * wq[d, h, c])
    k[b, h, j, c] = sum[d](x[b, j, d] * wk[d, h, c])
    v[b, h, j, c] = sum[d](x[b, j, d] * wv[d, h, c])
    p[b, h, i, j] = softmax[j](where(real[b, j], sum[c](q[b, h, i, c] * k[b, h, j, c]) / sqrt(size(c)), -inf))
    o[b, h, i, c] = sum[j](p[b, h, i, j] * v[b, h, j, c])
    return y[b, i, d] = sum[h, c](o[b, h, i, c] * wo[h, c, d])

model Bert:
    dims batch=2, time=7
    let vocab=11, width=8
    input tokens[batch, time]: int32, segments[batch, time]: int32, masked[batch, time]: bool, truth[batch, time]: int32
    param pos[time, width] ~ normal(std=0.02)
    e = use embedding(vocab, width)
    seen = where(masked, vocab - 1, tokens)
    x = layernorm(e(seen) + embedding(segments, 2, width) + pos)
    x = layernorm(x + look(x, tokens != 0, 2))
    x = layernorm(x + mlp(x, 16))
    h = layernorm(gelu(linear(x, width)))
    param shift[vocab] ~ zeros()
    logits[b, t, v] = sum[d](h[b, t, d] * e.table[v, d]) + shift[v]
    lp[b, t, v] = log_softmax[v](logits[b, t, v])
    right = sum[b, t](where(masked[b, t], lp[b, t, truth[b, t]], 0)) / max(sum[b, t](masked[b, t]), 1)
    first[b, d] = x[b, 0, d]
    y[b, c] = linear(tanh(linear(first, width)), 2)[b, c] + right
""", spread=0.3)  # fmt: skip
def masked_words(p: Tensors, i: Tensors) -> torch.Tensor:
    table = p["e.table"]
    x = norm(under(p, "layernorm"), table[torch.where(i["masked"], 10, i["tokens"])] + p["embedding.table"][i["segments"]] + p["pos"])
    x = norm(under(p, "layernorm_2"), x + attend(under(p, "look"), x, attn_mask=(i["tokens"] != 0)[:, None, None]))
    x = norm(under(p, "layernorm_3"), x + feed(under(p, "mlp"), x))
    h = norm(under(p, "layernorm_4"), F.gelu(linear(under(p, "linear"), x)))
    lp = (h @ table.T + p["shift"]).log_softmax(-1).gather(-1, i["truth"][..., None])[..., 0]
    right = (lp * i["masked"]).sum() / i["masked"].sum().clamp(min=1)
    return linear(under(p, "linear_3"), torch.tanh(linear(under(p, "linear_2"), x[:, 0]))) + right


@case(CASES, """
layer enc(x[b, t, d], heads):
    x = layernorm(x + self_attention(x, heads))
    return layernorm(x + mlp(x, 2 * d, act=relu))

layer dec(x[b, t, d], memory[b, s, d], heads):
    x = layernorm(x + self_attention(x, heads, causal=true))
    x = layernorm(x + cross_attention(x, memory, heads))
    return layernorm(x + mlp(x, 2 * d, act=relu))

model Transformer:
    dims batch=2, source=5, time=6
    let vocab=9, width=6
    input text[batch, source]: int32, answer[batch, time]: int32
    e = use embedding(vocab, width)
    m = e(text) * sqrt(width) + sinusoidal_positions(source, width)
    repeat 2:
        m = enc(m, 2)
    shifted[b, t < time] = where(t > 0, answer[b, t - 1], 1)
    x = e(shifted) * sqrt(width) + sinusoidal_positions(time, width)
    repeat 2:
        x = dec(x, m, 2)
    y[b, t, v] = sum[d](x[b, t, d] * e.table[v, d])
""", spread=0.3)  # fmt: skip
def encoder_and_decoder(p: Tensors, i: Tensors) -> torch.Tensor:
    def placed(ids: torch.Tensor) -> torch.Tensor:
        t, d = torch.arange(ids.shape[1]).double()[:, None], torch.arange(6)[None]
        angle = t / 10000 ** (2 * (d // 2) / 6)
        return p["e.table"][ids] * 6**0.5 + torch.where(d % 2 == 0, angle.sin(), angle.cos())

    m = placed(i["text"])
    for n in range(2):
        mine = under(p, f"enc.{n}")
        m = norm(under(mine, "layernorm"), m + attend(under(mine, "self_attention"), m))
        m = norm(under(mine, "layernorm_2"), m + feed(under(mine, "mlp"), m, F.relu))
    x = placed(torch.cat([torch.ones(2, 1).long(), i["answer"][:, :-1]], 1))
    for n in range(2):
        mine = under(p, f"dec.{n}")
        x = norm(under(mine, "layernorm"), x + attend(under(mine, "self_attention"), x, is_causal=True))
        x = norm(under(mine, "layernorm_2"), x + attend(under(mine, "cross_attention"), x, m))
        x = norm(under(mine, "layernorm_3"), x + feed(under(mine, "mlp"), x, F.relu))
    return x @ p["e.table"].T


@case(CASES, """
layer t5(x[b, t, d], heads, buckets=8, longest=16):
    let half = buckets // 2, exact = buckets // 4
    param wq[d, heads, 3], wk[d, heads, 3], wv[d, heads, 3], wo[heads, 3, d], table[buckets, heads] ~ xavier_uniform()
    n[i < t, j < t] = abs(j - i)
    far[i, j] = exact + int32(log(max(n[i, j], 1) / exact) / log(longest / exact) * (half - exact))
    bucket[i, j] = where(j > i, half, 0) + where(n[i, j] < exact, n[i, j], min(far[i, j], half - 1))
    q[b, h, i, c] = sum[d](x[b, i, d] * wq[d, h, c])
    k[b, h, j, c] = sum[d](x[b, j, d] * wk[d, h, c])
    v[b, h, j, c] = sum[d](x[b, j, d] * wv[d, h, c])
    p[b, h, i, j] = softmax[j](sum[c](q[b, h, i, c] * k[b, h, j, c]) + table[bucket[i, j], h])
    o[b, h, i, c] = sum[j](p[b, h, i, j] * v[b, h, j, c])
    return y[b, i, d] = sum[h, c](o[b, h, i, c] * wo[h, c, d])

model T5:
    input x[2, 23, 6]
    y = t5(x, 2)
""")  # fmt: skip
def buckets_of_distance(p: Tensors, i: Tensors) -> torch.Tensor:
    p, x = under(p, "t5"), i["x"]
    a, b = torch.arange(23)[:, None], torch.arange(23)[None]
    n = (b - a).abs()
    far = 2 + (torch.log(n.clamp(min=1) / 2) / math.log(8) * 2).long()
    bucket = torch.where(b > a, 4, 0) + torch.where(n < 2, n, far.clamp(max=3))
    q, k, v = (torch.einsum("bid,dhc->bhic", x, p[w]) for w in ("wq", "wk", "wv"))
    return torch.einsum("bhic,hcd->bid", (q @ k.mT + p["table"][bucket].permute(2, 0, 1)).softmax(-1) @ v, p["wo"])


# --- experts


ROUTED = """
model Experts:
    dims tokens=11, n=4
    input x[tokens, 5]
    param wg[5, n], w1[n, 5, 6], w2[n, 6, 5] ~ normal()
    g[t, e] = sum[d](x[t, d] * wg[d, e])
"""
EVERY = "    o[t, e, d] = sum[f](silu(sum[c](x[t, c] * w1[e, c, f])) * w2[e, f, d])\n"


def every(p: Tensors, x: torch.Tensor) -> torch.Tensor:
    return torch.einsum("tef,efd->ted", F.silu(torch.einsum("td,edf->tef", x, p["w1"])), p["w2"])


def best_two(p: Tensors, i: Tensors) -> torch.Tensor:
    kept, pick = (i["x"] @ p["wg"]).topk(2, -1)
    return (kept.softmax(-1)[..., None] * every(p, i["x"]).gather(1, pick[..., None].expand(-1, -1, 5))).sum(1)


CASES += [
    Case("ranks_as_a_mask", ROUTED + EVERY + """
    order[t, e] = argsort[e](-g[t, e])
    rank[t, e] = argsort[e](order[t, e])
    y[t, d] = sum[e](softmax[e](where(rank[t, e] < 2, g[t, e], -inf)) * o[t, e, d])
""", best_two),
    Case("threshold_as_a_mask", ROUTED + EVERY + """
    sorted[t, e] = sort[e](g[t, e])
    gate[t, e] = softmax[e](where(g[t, e] >= sorted[t, n - 2], g[t, e], -inf))
    y[t, d] = sum[e](gate[t, e] * o[t, e, d])
""", best_two),
    Case("choices_in_one_sum", ROUTED + """
    best, pick = topk(g, 2)
    gate[t, r] = softmax[r](best[t, r])
    h[t, r, f] = silu(sum[d](x[t, d] * w1[pick[t, r], d, f]))
    y[t, d] = sum[r, f](gate[t, r] * h[t, r, f] * w2[pick[t, r], f, d])
""", best_two),
    Case("weights_by_condition", ROUTED + EVERY + """
    best, pick = topk(g, 2)
    gate[t, r] = softmax[r](best[t, r])
    w[t, e < n] = sum[r](where(pick[t, r] == e, gate[t, r], 0))
    y[t, d] = sum[e](w[t, e] * o[t, e, d])
""", best_two),
]  # fmt: skip


@case(CASES, ROUTED + EVERY + """
    p[t, e] = softmax[e](g[t, e])
    part[e] = mean[t](p[t, e])
    share[e < n] = mean[t](float32(argmax[c](p[t, c]) == e))
    uneven = sqrt(mean((part - mean(part)) ** 2)) / mean(part) + n * sum[e](share[e] * part[e])
    y[t, d] = sum[e](p[t, e] * o[t, e, d]) + uneven
""")  # fmt: skip
def balances(p: Tensors, i: Tensors) -> torch.Tensor:
    g = (i["x"] @ p["wg"]).softmax(-1)
    part, share = g.mean(0), F.one_hot(g.argmax(-1), 4).double().mean(0)
    return (g[..., None] * every(p, i["x"])).sum(1) + part.std(unbiased=False) / part.mean() + 4 * (share * part).sum()


# --- front ends


@case(CASES, """
model Patches:
    input picture[2, 3, 8, 6]
    param e[12, 5], cls[5], pos[13, 5] ~ normal()
    patches[b, n < 12, k < 12] = picture[b, k % 3, n // 3 * 2 + k // 6, n % 3 * 2 + k // 3 % 2]
    z[b, n, d] = sum[k](patches[b, n, k] * e[k, d])
    y[b, t < 13, d] = where(t == 0, cls[d], z[b, t - 1, d]) + pos[t, d]
""")  # fmt: skip
def patches(p: Tensors, i: Tensors) -> torch.Tensor:
    z = F.conv2d(i["picture"], p["e"].reshape(2, 2, 3, 5).permute(3, 2, 0, 1), stride=2).flatten(2).mT
    return torch.cat([p["cls"].expand(2, 1, 5), z], 1) + p["pos"]


@case(CASES, """
model Resize:
    input x[1, 2, 3, 4]
    param g[2] ~ ones()
    z[n, c, i, j] = g[c] * x[n, c, i, j]
    a[i < 7, p < 3] = relu(1 - abs(clip((i + 0.5) * 3 / 7 - 0.5, 0, 2) - p))
    b[j < 9, q < 4] = relu(1 - abs(clip((j + 0.5) * 4 / 9 - 0.5, 0, 3) - q))
    y[n, c, i, j] = sum[p, q](a[i, p] * b[j, q] * z[n, c, p, q])
""")  # fmt: skip
def between_pixels(p: Tensors, i: Tensors) -> torch.Tensor:
    return F.interpolate(i["x"] * p["g"][:, None, None], size=(7, 9), mode="bilinear", align_corners=False)


@pytest.mark.parametrize("one", CASES, ids=str)
def test_same_as_torch(one: Case) -> None:
    check(one)
