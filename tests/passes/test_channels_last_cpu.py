"""channels_last for vectors: a CPU's convolutional networks for inference are products along channels, mean the same, and copy nothing between."""

from __future__ import annotations

import numpy as np
import pytest

import dslc
from dslc.compiler import compile_program, lower
from dslc.ir import ops, reference
from dslc.ir.mlir import ir
from dslc.ir.program import arguments_of, program_of
from dslc.ir.types import type_of
from dslc.ir.verify import verify
from dslc.passes import channels_last
from dslc.passes.channels_last import ChannelsLast
from dslc.targets import TARGETS

TARGET = TARGETS["cpu"]
HEAD = """
layer normed(x[n, c, p, q], out, kernel=1, stride=1, pad=0):
    return batchnorm(conv2d(x, out, kernel=kernel, stride=stride, pad=pad))

model M:
"""
RESIDUAL = """
    input   x[BATCH, 3, 15, 16]
    stem = maxpool2d(relu(normed(x, 16, kernel=7, stride=2, pad=3)), kernel=3, stride=2, pad=1)
    a = relu(normed(stem, 24, kernel=3, pad=1))
    b = relu(normed(a, 24, kernel=3, stride=2, pad=1))
    e = relu(normed(b, 48) + normed(stem, 48, stride=2))
    m = global_mean(e)
    output  m
"""
INVERTED = """
    input   x[BATCH, 3, 13, 14]
    a = relu(normed(x, 16, kernel=3, stride=2, pad=1))
    b = relu(normed(a, 40))
    d = relu(batchnorm(depthwise_conv2d(b, kernel=3, pad=1)))
    e = a + normed(d, 16)
    f = batchnorm(depthwise_conv2d(e, kernel=5, stride=2, pad=2))
    output  f
"""
JOINED = """
    input   x[BATCH, 3, 8, 10]
    a = relu(conv2d(x, 16, kernel=3, pad=1, bias=true))
    b = relu(conv2d(maxpool2d(a, kernel=2, stride=2), 32, kernel=3, pad=1))
    u = concat(conv_transpose2d(b, 16, kernel=2, stride=2), a, axis=1)
    y = conv2d(u, 3, kernel=3, pad=1, bias=true)
    output  y
"""
GROUPED = """
    input   x[BATCH, 16, 9, 7]
    a = relu(conv2d(x, 64, kernel=3, pad=2, dilation=2, groups=2, bias=true))
    b = conv2d(a, 32, kernel=3, stride=2, pad=1, groups=4)
    output  b
"""
LINE = """
    input   x[BATCH, 20, 50]
    a = gelu(conv1d(x, 32, kernel=5, pad=2, bias=true))
    b = conv1d(a, 48, kernel=3, stride=2, pad=1) + 1
    output  b
"""
MODELS = {"residual": RESIDUAL, "inverted": INVERTED, "joined": JOINED, "grouped": GROUPED, "line": LINE}


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the pictures are, and on any machine."""
    monkeypatch.setattr(channels_last, "PER_BYTE_OF_VECTORS", 0.0)
    monkeypatch.setattr(channels_last, "PACKED", 10.0)


def model_of(name: str, batch: int) -> dslc.Model:
    return dslc.load((HEAD + MODELS[name]).replace("BATCH", str(batch)))


def kernels_of(name: str, batch: int):
    made = lower(model_of(name, batch), "run", TARGET, after="fuse", tuned={})
    return made, [op for op in program_of(made.module).entry_block.operations if isinstance(op, ops.Kernel)]


def ops_of(kernels, kind):
    return [op for k in kernels for op in k.regions[0].blocks[0].operations if isinstance(op, kind)]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("lanes", [16, 8])
def test_it_means_the_same(name: str, batch: int, lanes: int) -> None:
    before = lower(model_of(name, batch), "run", TARGET, after="scale_weights", tuned={})
    after = lower(model_of(name, batch), "run", TARGET, after="scale_weights", tuned={})
    with after.context, ir.Location.unknown(after.context):
        ChannelsLast(lanes).run(after.module)
        verify(after.module)
        assert str(before.module) != str(after.module)
    rng = np.random.default_rng(0)
    given = {s.name: rng.uniform(0.5, 1.5, s.type.shape) for s in arguments_of(program_of(before.module))}
    meant, found = (reference.run(e.module, given) for e in (before, after))
    for key, value in meant.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-9, atol=1e-9, err_msg=key)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_programs_agree_with_the_reference(name: str, batch: int) -> None:
    model = model_of(name, batch)
    x = np.random.default_rng(0).standard_normal(model.inputs[0][1]).astype(np.float32)
    got, expected = (dslc.compile(model, target=t)(x=x) for t in ("cpu", "reference"))
    for key, value in expected.items():  # some layers of sums of at most 700 terms
        np.testing.assert_allclose(got[key], value, rtol=1e-4, atol=1e-5 * float(np.abs(value).max()), err_msg=key)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_residual_networks_kernels_are_products_along_channels(batch: int) -> None:
    """Five convolutions with all work behind them, and two folds; nothing is copied into another order."""
    _keep, kernels = kernels_of("residual", batch)
    assert [k.kind for k in kernels][:7] == ["contract", "reduce", "contract", "contract", "contract", "contract", "reduce"]
    assert all(type_of(v).size == batch * 48 for k in kernels[7:] for v in k.results)
    assert not ops_of(kernels, ops.Conv)
    for op in ops_of(kernels, ops.Contract):
        assert type_of(op.results[0]).shape[-1] in (16, 24, 48)


@pytest.mark.parametrize("batch", [1, 2])
def test_filters_of_one_channel_lie_side_by_side(batch: int) -> None:
    _keep, kernels = kernels_of("inverted", batch)
    assert [k.kind for k in kernels] == ["contract"] * 5 + ["map"], "the last one turns the output back"
    alone = [v for k in kernels for v in k.operands if type_of(v).size in (9 * 40, 25 * 16) and type_of(v).rank > 2]
    assert len(alone) == 2 and all(type_of(v).shape[-1] in (40, 16) for v in alone)


def test_few_filters_are_rows_of_their_own() -> None:
    """Three of sixteen lanes would be at work: their sums run along the places, over terms that lie side by side."""
    _keep, kernels = kernels_of("joined", 2)
    (last,) = [op for op in ops_of(kernels, ops.Contract) if 3 in type_of(op.results[0]).shape]
    assert type_of(last.results[0]).shape[-2:] == (8, 10) and not ops_of(kernels, ops.Conv)
    assert [k.kind for k in kernels].count("map") == 1, "what is joined alone"


def test_work_behind_a_product_may_lack_axes_of_one_element() -> None:
    """Convolutions that stay, with no lanes to fill: bias and relu are in their kernels."""
    text = "model M:\n    input x[2, 8, 9, 9]\n    y = relu(conv2d(x, 8, kernel=3, pad=1, bias=true))\n    output y\n"
    made = lower(dslc.load(text), "run", TARGETS["cuda:sm_80"], after="fuse", tuned={})
    kernels = [op for op in program_of(made.module).entry_block.operations if isinstance(op, ops.Kernel)]
    assert [k.kind for k in kernels] == ["contract"]


def test_one_picture_is_a_convolution_too() -> None:
    for axes in ("1, 8, 9, 9", "2, 8, 9, 9"):
        text = f"model M:\n    input x[{axes}]\n    y = conv2d(x, 8, kernel=3, pad=1)\n    output y\n"
        made = lower(dslc.load(text), "run", TARGETS["reference"])
        assert [op.type.shape for op in program_of(made.module).entry_block.operations if isinstance(op, ops.Conv)] == [(int(axes[0]), 1, 8, 9, 9)]


def test_training_and_any_lengths_stay() -> None:
    text = "model M:\n    input x[2, 16, 9, 9]\n    y = conv2d(x, 16, kernel=3, pad=1)\n    output y\n    loss mean(y * y)\n"
    step = lower(dslc.load(text + "train:\n    optimizer sgd(lr=0.1)\n    steps 1\n"), "step", TARGET, after="fuse", tuned={})
    kernels = [op for op in program_of(step.module).entry_block.operations if isinstance(op, ops.Kernel)]
    assert ops_of(kernels, ops.Conv)


def test_to_bring_pictures_into_the_order_has_its_price(monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter a channel of what comes otherwise, and is wanted otherwise, is one kernel."""
    monkeypatch.undo()
    model = dslc.load("model M:\n    input x[1, 96, 56, 56]\n    output y = depthwise_conv2d(x, pad=1)\n")
    assert [kernel.kind for kernel in compile_program(model, "run", "cpu").kernels] == ["contract"]


@pytest.mark.parametrize("picture, along", [(8, True), (64, False)])
def test_transposed_convolutions_of_short_rows_are_products_along_channels(picture: int, along: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A phase's places lie side by side in a row alone: half of 16 lanes are at work with eight, all with 64."""
    monkeypatch.undo()
    text = f"model M:\n    input x[1, 16, {picture}, {picture}]\n    output y = conv_transpose2d(x, 16, kernel=4, stride=2, pad=1)\n"
    model = dslc.load(text)
    before = lower(model, "run", TARGET, after="scale_weights", tuned={})
    with before.context, ir.Location.unknown(before.context):
        ChannelsLast(16).run(before.module)
        products = [op for op in program_of(before.module).entry_block.operations if isinstance(op, ops.Contract)]
    assert bool(products) == along
