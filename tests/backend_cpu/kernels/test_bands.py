"""Convolutions over bands of rows: the same numbers as the reference whatever the filter's steps, and chosen where windows would cost much."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dslc
from dslc.backend_cpu.kernels import bands
from dslc.ir.rows import Unsuited
from dslc.passes import channels_last

CASES = {
    "plain": "input x[2, 5, 13, 19]\n    output y = conv2d(x, 7, kernel=3, pad=1)",
    "valid": "input x[1, 4, 9, 33]\n    output y = conv2d(x, 5, kernel=3)",
    "wide_filter": "input x[2, 3, 20, 40]\n    output y = relu(conv2d(x, 12, kernel=5, pad=2, bias=true))",
    "steps_of_two": "input x[2, 6, 17, 31]\n    output y = conv2d(x, 9, kernel=3, stride=2, pad=1)",
    "steps_of_three": "input x[1, 3, 25, 50]\n    output y = conv2d(x, 8, kernel=5, stride=3, pad=2)",
    "steps_of_four": "input x[1, 3, 47, 47]\n    output y = conv2d(x, 8, kernel=11, stride=4, pad=2)",
    "steps_beyond_the_filter": "input x[1, 3, 30, 30]\n    output y = conv2d(x, 8, kernel=2, stride=3)",
    "dilated": "input x[1, 4, 18, 22]\n    output y = conv2d(x, 6, kernel=3, pad=2, dilation=2)",
    "dilated_steps": "input x[1, 4, 18, 22]\n    output y = conv2d(x, 6, kernel=3, pad=3, dilation=3, stride=2)",
    "groups": "input x[2, 8, 12, 12]\n    output y = conv2d(x, 12, kernel=3, pad=1, groups=4)",
    "one_row": "input x[3, 6, 70]\n    output y = gelu(conv1d(x, 10, kernel=7, pad=3, bias=true))",
    "causal": "input x[2, 4, 40]\n    output y = conv1d(pad_left(x), 4, kernel=3, dilation=4)",
    "solid": "input x[1, 3, 6, 9, 12]\n    output y = conv3d(x, 5, kernel=3, pad=1)",
    "added": "input x[2, 6, 15, 15]\n    output y = relu(x + conv2d(tanh(x), 6, kernel=3, pad=1))",
    "many_rows": "input x[1, 16, 70, 100]\n    output y = conv2d(x, 8, kernel=3, pad=1)",
}
LAYER = "layer pad_left(x[b, c, t]):\n    return y[b, c, i < t + 8] = where(i >= 8, x[b, c, i - 8], 0)\n\nmodel M:\n    "


@pytest.fixture(autouse=True)
def anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is known of other runs."""
    monkeypatch.setenv("DSLC_CACHE", str(tmp_path))


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[bands._Bands]:
    """The kernels made, wherever they can be."""
    made: list[bands._Bands] = []
    own = bands._Bands.__init__

    def init(self: bands._Bands, *given: object) -> None:
        own(self, *given)
        made.append(self)

    monkeypatch.setattr(bands._Bands, "__init__", init)
    monkeypatch.setattr(bands._Bands, "_plain", lambda self: float("inf"))
    monkeypatch.setattr(channels_last, "_pays", lambda *_: False)
    for other in ("winograd", "depthwise"):
        monkeypatch.setattr(f"dslc.backend_cpu.kernels.{other}.generate", _refuse)
    return made


def _refuse(*_: object) -> None:
    raise Unsuited


@pytest.mark.parametrize("name", CASES)
def test_sums_are_the_reference_s(name: str, used: list[bands._Bands]) -> None:
    model = dslc.load(LAYER + CASES[name] + "\n")
    x = np.random.default_rng(0).standard_normal(model.inputs[0][1]).astype(np.float32)
    got, expected = (dslc.compile(model, target=t)(x=x)["y"] for t in ("cpu", "reference"))
    assert len(used) == 1
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=2e-6 * float(np.abs(expected).max()))  # sums of at most 363 terms


def test_gradients_of_pictures_are_bands_too(used: list[bands._Bands]) -> None:
    """Their filters are read backwards, and laid out before."""
    text = (
        "model M:\n    input x[2, 6, 14, 14]\n    h = conv2d(x, 8, kernel=3, pad=1)\n    loss mean(conv2d(tanh(h), 4, kernel=3, pad=1) ** 2)\n"
        "train:\n    optimizer sgd(lr=1.0)\n    steps 2\n"
    )
    x = np.random.default_rng(0).standard_normal((2, 6, 14, 14)).astype(np.float32)
    models = [dslc.load(text) for _ in range(2)]
    for model, target in zip(models, ("cpu", "reference")):
        trainer = dslc.Trainer(model, target=target)
        for _ in range(2):
            trainer.step(x=x)
    assert any(kernel.laid_out for kernel in used)
    for name, value in models[1].params.items():
        np.testing.assert_allclose(models[0].params[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("filters, chosen", [(16, True), (256, False)])
def test_few_filters_do_not_repay_packed_windows(filters: int, chosen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With many filters the places that are computed in vain, between two rows, cost more."""
    made = []
    own = bands._Bands.build
    monkeypatch.setattr(bands._Bands, "build", lambda self, frame: (made.append(self), own(self, frame))[1])
    monkeypatch.setattr(channels_last, "_pays", lambda *_: False)
    model = dslc.load(f"model M:\n    input x[1, 32, 14, 14]\n    output y = conv2d(x, {filters}, kernel=5, pad=2)\n")
    dslc.compile(model)(x=np.zeros((1, 32, 14, 14), np.float32))
    assert bool(made) == chosen
