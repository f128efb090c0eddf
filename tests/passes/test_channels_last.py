"""channels_last: networks mean the same with their values in another order, to rounding of float64; where it pays nothing is turned back between
convolutions, and where it does not everything stays."""

from __future__ import annotations

import numpy as np
import pytest

import dslc
from dslc.compiler import lower
from dslc.ir import ops, reference
from dslc.ir.ops import contraction
from dslc.ir.program import arguments_of, program_of
from dslc.ir.types import type_of
from dslc.ir.verify import verify
from dslc.passes import channels_last
from dslc.pipeline import pass_names, pipeline
from dslc.targets import TARGETS

TARGET = TARGETS["cuda:sm_80"]
RESIDUAL = """
layer normed(x[n, c, p, q], out, kernel=1, stride=1, pad=0):
    return batchnorm(conv2d(x, out, kernel=kernel, stride=stride, pad=pad))

model Residual:
    input   x[2, 3, 15, 16], y[2]: int32
    stem = maxpool2d(relu(normed(x, 16, kernel=7, stride=2, pad=3)), kernel=3, stride=2, pad=1)
    a = relu(normed(stem, 24))
    b = relu(normed(a, 24, kernel=3, stride=2, pad=1))
    e = relu(normed(b, 48) + normed(stem, 48, stride=2))
    param head[48, 5] ~ normal(std=0.1)
    m = global_mean(e)
    z[n, k] = sum[d](m[n, d] * head[d, k])
    output  z
    loss    cross_entropy(z, y)
"""
MIXED = """
model Mixed:
    input   x[2, 8, 9, 10]
    a = relu(conv2d(x, 32, kernel=3, pad=2, dilation=2, groups=2, bias=true))
    b = depthwise_conv2d(a, kernel=3, pad=1)
    joined[n, c < 64, p, q] = where(c < 32, a[n, c, p, q], b[n, c - 32, p, q])
    c = conv2d(joined, 16, kernel=1)
    d = conv_transpose2d(c, 16, kernel=3, stride=2, pad=1)
    e = avgpool2d(d, kernel=2, stride=2)
    output  e
    loss    mean(e * e)
"""
LINE = """
model Line:
    input   x[2, 16, 21]
    a = tanh(conv1d(x, 32, kernel=5, stride=2, pad=2))
    b = conv1d(a, 16, kernel=3, pad=1)
    s[n, p] = max[c](b[n, c, p])
    output  b, s
    loss    mean(s)
"""
VOLUME = """
model Volume:
    input   x[2, 8, 5, 6, 4]
    a = relu(conv3d(x, 16, kernel=3, stride=2, pad=1))
    b = conv3d(a, 8, kernel=2, pad=1)
    output  b
    loss    mean(b * b)
"""
LOOP = """
model Loop:
    input   x[4, 2, 16, 7, 7]
    scan t < 4 carry h[2, 16, 7, 7] = 0:
        xt[n, c, p, q] = x[t, n, c, p, q]
        h = tanh(conv2d(xt + h, 16, kernel=3, pad=1))
    output  h
    loss    mean(h * h)
"""
TRAIN = """
train:
    optimizer  sgd(lr=0.5)
    steps      2
    precision  bfloat16
"""
MODELS = {"residual": RESIDUAL, "mixed": MIXED, "line": LINE, "volume": VOLUME, "loop": LOOP}


@pytest.fixture
def always(monkeypatch):
    """However small the pictures are."""
    monkeypatch.setattr(channels_last, "SAVED", 1.0)


def around(name: str, program: str, precision: str):
    """The module before the pass and after it."""
    model = dslc.load(MODELS[name] + TRAIN.replace("bfloat16", precision))
    elaborated = lower(model, program, TARGETS["reference"])
    names = pass_names(pipeline(model, elaborated, program, TARGET, {}))
    return [lower(model, program, TARGET, after=after, tuned={}) for after in (names[names.index("channels_last") - 1], "channels_last")]


CASES = [(name, program, "bfloat16") for name in MODELS for program in ("step", "run")] + [("residual", "step", "tf32")]


@pytest.mark.parametrize(("name", "program", "precision"), CASES)
def test_it_means_the_same(name, program, precision, always, monkeypatch):
    monkeypatch.setattr(contraction, "rounded_to_tf32", lambda x: x)
    monkeypatch.setattr(reference, "rounded", lambda x, dtype: x if dtype.is_float else reference.widen(reference.cast_array(x, dtype)))
    before, after = around(name, program, precision)
    with after.context:
        verify(after.module)
        assert str(before.module) != str(after.module)
    rng = np.random.default_rng(0)
    given = {s.name: rng.integers(0, 5, s.type.shape) if s.type.dtype.is_integer else rng.uniform(0.5, 1.5, s.type.shape)
             for s in arguments_of(program_of(before.module))}  # fmt: skip
    meant, found = (reference.run(e.module, given) for e in (before, after))
    assert meant.keys() == found.keys()
    for key, value in meant.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-9, atol=1e-9, err_msg=key)


def kernels_of(name: str, program: str, precision: str = "bfloat16"):
    made = lower(dslc.load(MODELS[name] + TRAIN.replace("bfloat16", precision)), program, TARGET, after="fuse", tuned={})
    return made, [op for op in program_of(made.module).entry_block.operations if isinstance(op, ops.Kernel)]


@pytest.mark.parametrize("precision", ["bfloat16", "tf32"])
@pytest.mark.parametrize("program", ["step", "run"])
def test_pictures_lie_with_their_channels_last(program, precision, always):
    """All that kernels of a residual network write in the shape of pictures; filters' gradients aside, no convolution is left."""
    _keep, kernels = kernels_of("residual", program, precision)
    shapes = [type_of(v).shape for k in kernels for v in k.results]
    pictures = [s for s in shapes if len(s) > 3 and s[0] == 2]
    assert pictures and all(s[-1] in (4, 8, 16, 24, 48) for s in pictures), pictures
    convs = [op for k in kernels for op in k.regions[0].blocks[0].operations if isinstance(op, ops.Conv)]
    assert all(op.type.shape[0] != 2 for op in convs), "their batch is the channels"
    assert bool(convs) == (program == "step")


def test_no_kernel_only_turns_values(always):
    """Between the input and the logits nothing is copied into another order; filters are, once."""
    _keep, kernels = kernels_of("residual", "run")
    bare = [k for k in kernels if all(isinstance(op, (ops.View, ops.Reshape, ops.Yield)) for op in k.regions[0].blocks[0].operations)]
    assert not bare


FEW = """
model Few:
    input   x[2, 4, 64, 64]
    a = conv2d(x, 4, kernel=3, pad=1)
    output  a
"""


@pytest.mark.parametrize(("text", "precision"), [(FEW, "bfloat16"), (LINE, "float32")])
def test_where_it_does_not_pay_all_stays(text, precision):
    """Few channels, whose rows are half a chunk; and float32, whose products are not gathered for tensor cores."""
    model = dslc.load(text + (TRAIN.replace("bfloat16", precision) if "loss" in text else ""))
    program = lower(model, "run", TARGET, after="channels_last", tuned={})
    assert any(isinstance(op, ops.Conv) for op in program_of(program.module).entry_block.operations)
