"""A residual block with its values' channels last: training steps and outputs on the checked emulator, against the float64 reference."""

from __future__ import annotations

import numpy as np
import pytest

import dslc
from dslc.passes import channels_last
from dslc.passes.at_hand import AtHand
from dslc.passes.traffic import Traffic
from dslc.runtime.drivers import emulated_device
from dslc.runtime.drivers.emulated_device import EmulatorDriver

BLOCK = """
layer normed(x[n, c, p, q], out, kernel=1, stride=1, pad=0):
    return batchnorm(conv2d(x, out, kernel=kernel, stride=stride, pad=pad))

model Block:
    input   x[4, 3, 9, 10], y[4]: int32
    a = relu(normed(x, 16, kernel=3, pad=1))
    e = relu(normed(a, 16, kernel=3, stride=2, pad=1) + normed(a, 16, stride=2))
    param head[16, 4] ~ normal(std=0.5)
    m = global_mean(e)
    z[n, k] = sum[d](m[n, d] * head[d, k])
    output  z
    loss    cross_entropy(z, y)
train:
    optimizer  sgd(lr=0.1)
    steps      2
    precision  {precision}
"""


def ran(target: str, precision: str) -> tuple[list[float], dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4, 3, 9, 10)).astype(np.float32), np.arange(4, dtype=np.int32)
    model = dslc.load(BLOCK.format(precision=precision))
    trainer = dslc.Trainer(model, target=target)
    losses = [trainer.step(x=x, y=y) for _ in range(2)]
    return losses, {k: np.array(v) for k, v in model.params.items()}, dslc.compile(model, target=target)(x=x)["z"]


@pytest.mark.parametrize(("precision", "near"), [("bfloat16", 1.0), ("float16", 0.125), ("tf32", 0.1)])
def test_a_block_trains(precision: str, near: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers are rounded to 8 bits, of float16 to 11, in other places than on the reference: a gradient differs by a few of its roundings. In tf32
    factors are rounded to 11, in the same places, but where sums of float32 fall to the other side. What float16 keeps of the loss's scale, which a
    model has from its trainer on, is the same."""
    monkeypatch.setattr(channels_last, "SAVED", 1.0)  # however small the pictures are
    for one in (AtHand, Traffic):
        monkeypatch.setattr(one.__init__, "__defaults__", (1,))
    monkeypatch.setattr(emulated_device, "emulator_driver", lambda: EmulatorDriver("shuffled", seed=1))
    start = {k: np.array(v) for k, v in dslc.load(BLOCK.format(precision=precision)).params.items()}
    (wanted_losses, wanted, outputs), (losses, params, found) = (ran(target, precision) for target in ("reference", "cuda-emulated:checked"))
    np.testing.assert_allclose(losses, wanted_losses, rtol=2e-2 * near)
    np.testing.assert_allclose(found, outputs, atol=2e-2 * near * np.abs(outputs).max())
    for path, value in start.items():
        moved = np.linalg.norm(wanted[path] - value)
        assert np.linalg.norm(params[path] - wanted[path]) <= 0.1 * near * moved + 1e-6, path
    scale = wanted.keys() - start.keys()
    assert bool(scale) == (precision == "float16") and all((params[path] == wanted[path]).all() for path in scale)
