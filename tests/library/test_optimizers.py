"""The library's optimizers and schedules against torch, for ten steps of a small regression."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dslc


def adafactor(p, **options):
    return torch.optim.Adafactor(p, eps=(1.1920929e-7, 1e-3), **options)


OPTIMIZERS = {
    "sgd(lr=0.1)": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd(lr=0.1, momentum=0.9)": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "sgd(lr=0.1, momentum=0.9, nesterov=true)": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "sgd(lr=0.1, weight_decay=0.1)": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1),
    "rmsprop(lr=0.01)": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "rmsprop(lr=0.01, momentum=0.9)": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9),
    "adagrad(lr=0.1)": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "adam(lr=0.01)": lambda p: torch.optim.Adam(p, lr=0.01),
    "adam(lr=0.01, betas=(0.8, 0.9), weight_decay=0.1)": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.9), weight_decay=0.1),
    "adafactor(lr=0.5, weight_decay=0.1)": lambda p: adafactor(p, lr=0.5, weight_decay=0.1),
    "adafactor(lr=0.01, decay=-0.5, limit=2.0)": lambda p: adafactor(p, lr=0.01, beta2_decay=-0.5, d=2.0),
    "adamw(lr=0.01, weight_decay=0.1)": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}
TEXT = """
model M:
    input x[8, 3], y[8, 2]
    param w[3, 2] ~ normal()
    param b[2] ~ zeros()
    z[n, k] = sum[i](x[n, i] * w[i, k]) + b[k]
    output z
    loss mse(z, y)

train:
    optimizer OPTIMIZER
    clip CLIP
    steps 10
"""


@pytest.mark.parametrize("target", ["cpu", "cuda-emulated"])
def test_adafactor_of_every_rank(target):
    """A stack of matrices, a vector and a number, as torch does these; of the targets, whose update is no elementwise work here."""
    text = """model M:
    input x[4, 3]
    param s[2, 3, 5], v[5] ~ normal()
    param n ~ ones()
    y[b, j, k] = tanh(sum[i](x[b, i] * s[j, i, k])) * v[k] * n
    loss mean((y - 1) ** 2)

train:
    optimizer adafactor(lr=0.1)
    steps 5
"""
    model = dslc.load(text)
    p = {k: torch.tensor(np.array(model.params[k], np.float64), requires_grad=True) for k in "svn"}
    x, optimizer = data()[0][:4], adafactor(list(p.values()), lr=0.1)
    trainer = dslc.Trainer(model, target=target)
    for _ in range(4):
        loss = ((torch.tanh(torch.einsum("bi,jik->bjk", torch.tensor(x).double(), p["s"])) * p["v"] * p["n"] - 1) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert trainer.step(x=x) == pytest.approx(loss.item(), rel=1e-5)
    for name, value in p.items():
        np.testing.assert_allclose(model.params[name], value.detach().numpy(), rtol=1e-4, atol=1e-5)


def data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((8, 3)).astype(np.float32), rng.standard_normal((8, 2)).astype(np.float32)


def by_torch(model, make, clip=None, steps=10, schedule=None):
    """Parameters and losses of `steps` steps in float64."""
    x, y = (torch.from_numpy(a).double() for a in data())
    w, b = (torch.tensor(np.array(model.params[k], np.float64), requires_grad=True) for k in ("w", "b"))
    optimizer = make([w, b])
    losses = []
    for step in range(steps):
        if schedule:
            optimizer.param_groups[0]["lr"] = schedule(step)
        optimizer.zero_grad()
        loss = ((x @ w + b - y) ** 2).mean()
        loss.backward()
        if clip:
            clip([w, b])
        optimizer.step()
        losses.append(loss.item())
    return w.detach().numpy(), b.detach().numpy(), losses


def compare(optimizer, make, clip_text=None, clip=None, schedule=None):
    text = TEXT.replace("OPTIMIZER", optimizer).replace("    clip CLIP\n", f"    clip {clip_text}\n" if clip_text else "")
    model = dslc.load(text)
    w, b, losses = by_torch(model, make, clip, schedule=schedule)
    trainer = dslc.Trainer(model, target="reference")
    x, y = data()
    found = [trainer.step(x=x, y=y) for _ in range(10)]
    np.testing.assert_allclose(found, losses, rtol=2e-5)
    np.testing.assert_allclose(model.params["w"], w, rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(model.params["b"], b, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizer(optimizer):
    compare(optimizer, OPTIMIZERS[optimizer])


def test_clipping_by_norm_and_by_value():
    compare("sgd(lr=0.1)", lambda p: torch.optim.SGD(p, lr=0.1), "norm(0.3)", lambda p: torch.nn.utils.clip_grad_norm_(p, 0.3))
    compare("sgd(lr=0.1)", lambda p: torch.optim.SGD(p, lr=0.1), "value(0.1)", lambda p: torch.nn.utils.clip_grad_value_(p, 0.1))


def test_lion():
    """Chen et al. 2023, algorithm 2, written out in numpy."""
    model = dslc.load(TEXT.replace("OPTIMIZER", "lion(lr=0.01, weight_decay=0.1)").replace("    clip CLIP\n", ""))
    x, y = (a.astype(np.float64) for a in data())
    w, b = np.array(model.params["w"], np.float64), np.array(model.params["b"], np.float64)
    momenta = [np.zeros_like(w), np.zeros_like(b)]
    trainer = dslc.Trainer(model, target="reference")
    for _ in range(5):
        e = 2 * (x @ w + b - y) / 16
        for k, (p, g) in enumerate(((w, x.T @ e), (b, e.sum(0)))):
            p -= 0.01 * (np.sign(0.9 * momenta[k] + 0.1 * g) + 0.1 * p)
            momenta[k] = 0.99 * momenta[k] + 0.01 * g
        trainer.step(x=data()[0], y=data()[1])
    np.testing.assert_allclose(model.params["w"], w, rtol=1e-5, atol=1e-6)


SCHEDULES = {
    "0.1": lambda s: 0.1,
    "cosine(peak=0.1, warmup=4)": lambda s: 0.1 * (s + 1) / 4 if s < 4 else 0.1 * (1 + np.cos(np.pi * (s - 4) / 6)) / 2,
    "cosine(peak=0.1, warmup=0, low=0.01)": lambda s: 0.01 + 0.09 * (1 + np.cos(np.pi * s / 10)) / 2,
    "linear_decay(0.1, warmup=2)": lambda s: 0.1 * (s + 1) / 2 if s < 2 else 0.1 * (1 - (s - 2) / 8),
    "step_decay(0.1, every=3, factor=0.5)": lambda s: 0.1 * 0.5 ** (s // 3),
    "0.1 * min(step / 5, 1)": lambda s: 0.1 * min(s / 5, 1),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedule(schedule):
    compare(f"sgd(lr={schedule})", lambda p: torch.optim.SGD(p, lr=0.1), schedule=SCHEDULES[schedule])


def test_accumulation_gives_the_same_step_as_one_large_batch():
    text = TEXT.replace("OPTIMIZER", "adam(lr=0.01)").replace("    clip CLIP\n", "").replace("steps 10", "steps 10\n    accumulate 2")
    small = dslc.load(text.replace("[8,", "[4,"))
    large = dslc.load(text.replace("    accumulate 2\n", ""))
    x, y = data()
    halves = [{"x": x[:4], "y": y[:4]}, {"x": x[4:], "y": y[4:]}]
    a, b = dslc.Trainer(small, target="reference"), dslc.Trainer(large, target="reference")
    for _ in range(3):
        assert a.step(*halves) == pytest.approx(b.step(x=x, y=y), rel=1e-5)
    np.testing.assert_allclose(small.params["w"], large.params["w"], rtol=1e-5)
