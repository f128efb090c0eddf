"""The library's losses against torch: values, and gradients of their inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import dslc


@dataclass(frozen=True)
class Case:
    """`loss` of a parameter z of the given shape and the inputs; `oracle(z, inputs)` is the same in torch."""

    name: str
    shape: tuple[int, ...]
    inputs: str
    loss: str
    oracle: Callable[[torch.Tensor, dict[str, torch.Tensor]], torch.Tensor]

    @property
    def text(self) -> str:
        inputs = f"    input {self.inputs}\n" if self.inputs else ""
        size = ", ".join(map(str, self.shape))
        return f"model Case:\n{inputs}    param z[{size}] ~ normal()\n    output copy = z\n    loss {self.loss}\n\ntrain:\n    optimizer sgd(lr=1.0)\n    steps 1\n"


def normalized(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm(dim=1, keepdim=True)


CASES = [
    Case("cross_entropy", (6, 5), "y[6]: int32", "cross_entropy(z, y)", lambda z, i: F.cross_entropy(z, i["y"])),
    Case("cross_entropy_rank3", (2, 3, 5), "y[2, 3]: int32", "cross_entropy(z, y)", lambda z, i: F.cross_entropy(z.reshape(6, 5), i["y"].reshape(6))),
    Case("smoothing", (6, 5), "y[6]: int32", "cross_entropy(z, y, smoothing=0.1)", lambda z, i: F.cross_entropy(z, i["y"], label_smoothing=0.1)),
    Case("ignored_index", (6, 5), "y[6]: int32", "cross_entropy(z, y, ignore=2)", lambda z, i: F.cross_entropy(z, i["y"], ignore_index=2)),
    Case("soft_labels", (6, 5), "t[6, 5]", "soft_cross_entropy(z, softmax_rows(t))", lambda z, i: F.cross_entropy(z, i["t"].softmax(-1))),
    Case("binary", (6,), "t[6]", "binary_cross_entropy(z, sigmoid(t))", lambda z, i: F.binary_cross_entropy_with_logits(z, i["t"].sigmoid())),
    Case("mse", (6, 2), "t[6, 2]", "mse(z, t)", lambda z, i: F.mse_loss(z, i["t"])),
    Case("mae", (6, 2), "t[6, 2]", "mae(z, t)", lambda z, i: F.l1_loss(z, i["t"])),
    Case("huber", (6, 2), "t[6, 2]", "huber(z, t, delta=0.5)", lambda z, i: F.huber_loss(z, i["t"], delta=0.5)),
    Case("focal", (6, 5), "y[6]: int32", "focal(z, y)", lambda z, i: ((1 - (-F.cross_entropy(z, i["y"], reduction="none")).exp()) ** 2 * F.cross_entropy(z, i["y"], reduction="none")).mean()),
    Case("kl", (6, 5), "t[6, 5]", "kl(softmax_rows(t), softmax_rows(z))", lambda z, i: F.kl_div(z.log_softmax(-1), i["t"].softmax(-1), reduction="batchmean")),
    Case("info_nce", (6, 4), "t[6, 4]", "info_nce(z, t)", lambda z, i: F.cross_entropy(normalized(z) @ normalized(i["t"]).T / 0.07, torch.arange(6))),
    Case("triplet", (6, 4), "t[6, 4], u[6, 4]", "triplet(z, t, u)", lambda z, i: F.triplet_margin_loss(z, i["t"], i["u"])),
]  # fmt: skip
ROWS = "layer softmax_rows(x[n, d]):\n    return y[n, d] = softmax[d](x[n, d])\n\n"


@pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])
def test_loss(case):
    rng = np.random.default_rng(0)
    model = dslc.load(ROWS + case.text)
    trainer = dslc.Trainer(model, target="reference")
    inputs = {}
    for port in trainer._stepper.ports():
        inputs[port.name] = (
            rng.integers(0, 5, port.shape).astype(np.int32) if port.dtype.is_integer else rng.standard_normal(port.shape).astype(np.float32)
        )
    z = torch.tensor(np.array(model.params["z"], np.float64), requires_grad=True)
    expected = case.oracle(z, {k: torch.tensor(v).long() if v.dtype == np.int32 else torch.tensor(v).double() for k, v in inputs.items()})
    expected.backward()
    before = np.array(model.params["z"], np.float64)
    assert trainer.step(**inputs) == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(before - model.params["z"], z.grad.numpy(), rtol=1e-4, atol=1e-6)
