"""State spaces, long convolutions and recurrent models in forms of their own: discretizations, chunks, doubling, truncation, what is fed back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from .runner import Case, Tensors, case, check

CASES: list[Case] = []

MATRICES = """
layer matmul(a[n, k], b[k, m]):
    return c[n, m] = sum[k](a[n, k] * b[k, m])

layer unit(a[n, m]):
    return e[i < n, j < n] = where(i == j, 1.0, 0.0)

layer expm(a[n, m], squarings=6, terms=8):
    a = a / 2 ** squarings
    e = unit(a)
    term = e
    repeat terms as k:
        term = matmul(term, a) / (k + 1)
        e = e + term
    repeat squarings:
        e = matmul(e, e)
    return e

layer inverse(a[n, m]):                       # Gauss and Jordan, without pivots
    w = concat(a, unit(a), axis=1)
    repeat n as k:
        row[j] = w[k, j] / w[k, k]
        w[i < n, j] = where(i == k, row[j], w[i, j] - w[i, k] * row[j])
    return b[i < n, j < n] = w[i, n + j]
"""
HIPPO = """
model M:
    input x[2, 9]
    param a[n < 4, k < 4] = where(n > k, -sqrt(float32((2 * n + 1) * (2 * k + 1))), where(n == k, -(n + 1.0), 0.0))
    param b[4], c[4] ~ normal()
    param rate ~ constant(-2.0)
    dt = exp(rate)
{discrete}
    scan t < 9 carry h[2, 4] = 0:
        h[r, n] = sum[m](abar[n, m] * h[r, m]) + bbar[n] * x[r, t]
        emit y[r, t] = sum[n](c[n] * h[r, n])
"""


def recurrence(x: torch.Tensor, abar: torch.Tensor, bbar: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    h, out = torch.zeros(x.shape[0], len(c)).double(), []
    for t in range(x.shape[1]):
        h = h @ abar.T + x[:, t, None] * bbar
        out.append(h @ c)
    return torch.stack(out, 1)


@case(CASES, MATRICES + HIPPO.format(discrete="""
    abar = expm(dt * a)
    bbar[i] = sum[j](matmul(inverse(dt * a), abar - unit(a))[i, j] * dt * b[j])
"""), spread=0.1, tolerance=1e-4)  # fmt: skip
def zero_order_hold(p: Tensors, i: Tensors) -> torch.Tensor:
    dt = p["rate"].exp()
    abar = torch.matrix_exp(dt * p["a"])
    return recurrence(i["x"], abar, torch.linalg.inv(dt * p["a"]) @ (abar - torch.eye(4)) @ (dt * p["b"]), p["c"])


@case(CASES, MATRICES + HIPPO.format(discrete="""
    left = inverse(unit(a) - dt / 2 * a)
    abar = matmul(left, unit(a) + dt / 2 * a)
    bbar[i] = sum[j](left[i, j] * dt * b[j])
"""), spread=0.1, tolerance=1e-4)  # fmt: skip
def bilinear(p: Tensors, i: Tensors) -> torch.Tensor:
    half = p["rate"].exp() / 2 * p["a"]
    left = torch.linalg.inv(torch.eye(4) - half)
    return recurrence(i["x"], left @ (torch.eye(4) + half), left @ (p["rate"].exp() * p["b"]), p["c"])


@case(CASES, """
layer s4d(x[b, t, d], n):
    param lre[d, n], cre[d, n], cim[d, n] ~ normal()
    param im[i < d, j < n] = pi * j
    param rate[d] ~ constant(-1.0)
    dt[d] = exp(rate[d])
    re[d, n] = -exp(lre[d, n])
    ere[d, n] = exp(dt[d] * re[d, n]) * cos(dt[d] * im[d, n]) - 1
    eim[d, n] = exp(dt[d] * re[d, n]) * sin(dt[d] * im[d, n])
    size[d, n] = re[d, n] ** 2 + im[d, n] ** 2
    qre[d, n] = (ere[d, n] * re[d, n] + eim[d, n] * im[d, n]) / size[d, n]
    qim[d, n] = (eim[d, n] * re[d, n] - ere[d, n] * im[d, n]) / size[d, n]
    wre[d, n] = cre[d, n] * qre[d, n] - cim[d, n] * qim[d, n]
    wim[d, n] = cre[d, n] * qim[d, n] + cim[d, n] * qre[d, n]
    turn[u < t, d, n] = u * dt[d] * im[d, n]
    k[u, d] = 2 * sum[n](exp(u * dt[d] * re[d, n]) * (wre[d, n] * cos(turn[u, d, n]) - wim[d, n] * sin(turn[u, d, n])))
    return y[b, t, d] = sum[u](k[u, d] * x[b, t - u, d])

model M:
    input x[2, 7, 3]
    y = s4d(x, 4)
""")  # fmt: skip
def complex_diagonal(p: Tensors, i: Tensors) -> torch.Tensor:
    p = {k.removeprefix("s4d."): v for k, v in p.items()}
    a, dt = torch.complex(-p["lre"].exp(), p["im"]), p["rate"].exp()[:, None]
    w = torch.complex(p["cre"], p["cim"]) * ((dt * a).exp() - 1) / a
    k = 2 * (w * torch.exp(torch.arange(7)[:, None, None] * dt * a)).sum(-1).real
    return torch.stack([sum(k[u] * i["x"][:, t - u] for u in range(t + 1)) for t in range(7)], 1)


SELECTIVE = """
model M:
    dims batch=2, time=9
    input x[batch, time, 5]
    param wd[5, 5], wb[5, 3], wc[5, 3] ~ xavier_uniform()
    param la[5, 3], bd[5] ~ zeros()
    dt[b, t, e] = softplus(sum[d](x[b, t, d] * wd[d, e]) + bd[e])
    bm[b, t, n] = sum[d](x[b, t, d] * wb[d, n])
    cm[b, t, n] = sum[d](x[b, t, d] * wc[d, n])
"""


def selective(p: Tensors, i: Tensors) -> torch.Tensor:
    x, h, out = i["x"], torch.zeros(2, 5, 3).double(), []
    dt, b, c = F.softplus(x @ p["wd"] + p["bd"])[..., None], x @ p["wb"], x @ p["wc"]
    for t in range(9):
        h = (-dt[:, t] * p["la"].exp()).exp() * h + dt[:, t] * b[:, t, None] * x[:, t, :, None]
        out.append((h * c[:, t, None]).sum(-1))
    return torch.stack(out, 1)


CASES += [
    Case("selective_by_doubling", SELECTIVE + """
    a[b, t, e, n] = exp(-dt[b, t, e] * exp(la[e, n]))
    h[b, t, e, n] = dt[b, t, e] * bm[b, t, n] * x[b, t, e]
    repeat 4 as k:
        h[b, t, e, n] = h[b, t, e, n] + a[b, t, e, n] * h[b, t - 2 ** k, e, n]
        a[b, t, e, n] = a[b, t, e, n] * a[b, t - 2 ** k, e, n, outside=1]
    y[b, t, e] = sum[n](h[b, t, e, n] * cm[b, t, n])
""", selective),
    Case("selective_as_a_masked_sum", SELECTIVE + """
    g[b, t, e] = cumsum[t](dt[b, t, e])
    past[b, i, j, e, n] = where(j <= i, exp(-(g[b, i, e] - g[b, j, e]) * exp(la[e, n])), 0)
    y[b, i, e] = sum[j, n](past[b, i, j, e, n] * dt[b, j, e] * bm[b, j, n] * cm[b, i, n] * x[b, j, e])
""", selective),
]  # fmt: skip


DUAL = """
model M:
    dims batch=2, time=12, chunk=4
    input x[batch, time, 5]
    param wa[5], wb[5, 3], wc[5, 3] ~ normal()
    la[b, t] = -softplus(sum[d](x[b, t, d] * wa[d]))
    bm[b, t, n] = sum[d](x[b, t, d] * wb[d, n])
    cm[b, t, n] = sum[d](x[b, t, d] * wc[d, n])
"""


def dual(p: Tensors, i: Tensors) -> torch.Tensor:
    x, h, out = i["x"], torch.zeros(2, 3, 5).double(), []
    a, b, c = (-F.softplus(x @ p["wa"])).exp(), x @ p["wb"], x @ p["wc"]
    for t in range(12):
        h = a[:, t, None, None] * h + b[:, t, :, None] * x[:, t, None]
        out.append(torch.einsum("bn,bnd->bd", c[:, t], h))
    return torch.stack(out, 1)


CASES += [
    Case("dual_quadratic", DUAL + """
    g[b, t] = cumsum[t](la[b, t])
    m[b, i, j] = where(j <= i, exp(g[b, i] - g[b, j]), 0) * sum[n](cm[b, i, n] * bm[b, j, n])
    y[b, i, d] = sum[j](m[b, i, j] * x[b, j, d])
""", dual, spread=0.3),
    Case("dual_in_chunks", DUAL + """
    let parts = time // chunk
    lc[b, m < parts, i < chunk] = la[b, m * chunk + i]
    bc[b, m < parts, i < chunk, n] = bm[b, m * chunk + i, n]
    cc[b, m < parts, i < chunk, n] = cm[b, m * chunk + i, n]
    xc[b, m < parts, i < chunk, d] = x[b, m * chunk + i, d]
    g[b, m, i] = cumsum[i](lc[b, m, i])
    near[b, m, i, d] = sum[j](where(j <= i, exp(g[b, m, i] - g[b, m, j]) * sum[n](cc[b, m, i, n] * bc[b, m, j, n]), 0) * xc[b, m, j, d])
    own[b, m, n, d] = sum[j](exp(g[b, m, chunk - 1] - g[b, m, j]) * bc[b, m, j, n] * xc[b, m, j, d])
    scan m < parts carry h[batch, 3, 5] = 0:
        emit before[b, m, n, d] = h[b, n, d]
        h[b, n, d] = exp(g[b, m, chunk - 1]) * h[b, n, d] + own[b, m, n, d]
    far[b, m, i, d] = exp(g[b, m, i]) * sum[n](cc[b, m, i, n] * before[b, m, n, d])
    y[b, t < time, d] = near[b, t // chunk, t % chunk, d] + far[b, t // chunk, t % chunk, d]
""", dual, spread=0.3),
]  # fmt: skip


@case(CASES, """
layer filters(time, width, hidden=8):
    pos[t < time, f < 5] = where(f == 0, t / time, where(f % 2 == 1, sin(pi * t * (f + 1) / time), cos(pi * t * f / time)))
    h = linear(sin(linear(pos, hidden)), width)
    return g[t, d] = h[t, d] * exp(-0.3 * t)

model M:
    dims time=7
    input x[2, time, 4]
    v, gate = split(linear(x, 8), 2)
    h = filters(time, 4)
    long[b, t < time, d] = sum[u](h[u, d] * v[b, t - u, d])
    y = long * gate
""")  # fmt: skip
def implicit_filters(p: Tensors, i: Tensors) -> torch.Tensor:
    t, f = torch.arange(7.0).double()[:, None], torch.arange(5.0).double()[None]
    waves = torch.where(f % 2 == 1, torch.sin(math.pi * t * (f + 1) / 7), torch.cos(math.pi * t * f / 7))
    inner = torch.sin(torch.where(f == 0, t / 7, waves) @ p["filters.linear.w"] + p["filters.linear.b"])
    h = (inner @ p["filters.linear_2.w"] + p["filters.linear_2.b"]) * torch.exp(-0.3 * t)
    v, gate = (i["x"] @ p["linear.w"] + p["linear.b"]).split(4, -1)
    return torch.stack([sum(h[u] * v[:, t - u] for u in range(t + 1)) for t in range(7)], 1) * gate


@case(CASES, """
layer monarch(x[b, n], r):
    let s = n // r
    param l1[s, r, r], l2[r, s, s] ~ normal()
    z[b, p, i] = sum[j < s](l2[p, i, j] * x[b, p * s + j])
    w[b, i, p] = sum[q](l1[i, p, q] * z[b, q, i])
    return y[b, m < n] = w[b, m % s, m // s]

model M:
    input x[3, 15]
    y = monarch(x, 5)
""")  # fmt: skip
def two_block_diagonals(p: Tensors, i: Tensors) -> torch.Tensor:
    turn = torch.eye(15).double().reshape(5, 3, 15).transpose(0, 1).reshape(15, 15)
    outer, inner = torch.block_diag(*p["monarch.l1"]), torch.block_diag(*p["monarch.l2"])
    return i["x"] @ (turn.T @ outer @ turn @ inner).T


def plain(p: Tensors, i: Tensors, cut: int = 100) -> torch.Tensor:
    """All hidden values; the gradient stops before every `cut`-th turn."""
    h, out = torch.zeros(3, 5).double(), []
    for t in range(6):
        h = torch.tanh((h.detach() if t % cut == 0 else h) @ p["wh"] + i["x"][:, t] @ p["wx"])
        out.append(h)
    return torch.stack(out, 1)


RECURRENT = """
model M:
    dims batch=3, time=6, hidden=5
    input x[batch, time, 3]
    param wh[hidden, hidden], wx[3, hidden] ~ xavier_uniform()
"""
CASES += [
    Case("truncated_by_blocks", RECURRENT + """
    scan n < time // 2 carry h[batch, hidden] = 0:
        h = stop_gradient(h)
        scan t < 2 carry g = h:
            g[b, u] = tanh(sum[v](g[b, v] * wh[v, u]) + sum[i](x[b, 2 * n + t, i] * wx[i, u]))
            emit z[b, t, u] = g[b, u]
        h = g
        emit blocks[b, n, t, u] = z[b, t, u]
    y[b, t < time, u] = blocks[b, t // 2, t % 2, u]
""", lambda p, i: plain(p, i, cut=2)),
    Case("truncated_by_a_choice", RECURRENT + """
    scan t < time carry h[batch, hidden] = 0:
        h = where(t % 2 == 0, stop_gradient(h), h)
        h[b, u] = tanh(sum[v](h[b, v] * wh[v, u]) + sum[i](x[b, t, i] * wx[i, u]))
        emit y[b, t, u] = h[b, u]
""", lambda p, i: plain(p, i, cut=2)),
    Case("unrolled", RECURRENT + """
    h[b < batch, u < hidden] = 0.0
    repeat time as t:
        h[b, u] = tanh(sum[v](h[b, v] * wh[v, u]) + sum[i](x[b, t, i] * wx[i, u]))
        turn[b, n < 1, u] = h[b, u]
        if t == 0:
            y = turn
        else:
            y = concat(y, turn, axis=1)
""", plain),
    Case("rows_that_end", RECURRENT.replace("3]", "3], n[batch]: int32", 1) + """
    scan t < time carry h[batch, hidden] = 0:
        next[b, u] = tanh(sum[v](h[b, v] * wh[v, u]) + sum[i](x[b, t, i] * wx[i, u]))
        h[b, u] = where(t < n[b], next[b, u], h[b, u])
        emit every[b, t, u] = h[b, u]
    y[b, u] = h[b, u] + every[b, n[b] - 1, u]
""", lambda p, i: 2 * plain(p, i)[torch.arange(3), i["n"] - 1], drawn={"n": np.array([1, 6, 4])}),
]  # fmt: skip


@case(CASES, """
model M:
    input start[3]: int32
    param e[6, 4], w[4, 4], o[4, 6] ~ normal()
    scan t < 5 carry h[3, 4] = 0, token = start:
        h[b, u] = tanh(e[token[b], u] + sum[v](h[b, v] * w[v, u]))
        logits[b, v] = sum[u](h[b, u] * o[u, v])
        token[b] = argmax[v](logits[b, v])
        emit y[b, t, v] = logits[b, v]
""")  # fmt: skip
def its_own_choices(p: Tensors, i: Tensors) -> torch.Tensor:
    token, h, out = i["start"], torch.zeros(3, 4).double(), []
    for _ in range(5):
        h = torch.tanh(p["e"][token] + h @ p["w"])
        out.append(h @ p["o"])
        token = out[-1].argmax(-1)
    return torch.stack(out, 1)


@pytest.mark.parametrize("one", CASES, ids=str)
def test_same_as_torch(one: Case) -> None:
    check(one)
