"""scale_weights: text before and after, in `scale_weights/*.mlir`; that factors leave programs whose weights stand still, and no result changes."""

from __future__ import annotations

import numpy as np
import pytest

import dslc
from dslc.compiler import lower
from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.program import program_of
from dslc.passes.scale_weights import ScaleWeights
from dslc.pipeline import pass_names, pipeline
from dslc.targets import target_of

from . import texts

FILES = texts.files("scale_weights")


@pytest.mark.parametrize("file", FILES, ids=[f.stem for f in FILES])
def test_before_and_after(file):
    texts.check(file, ScaleWeights())


NET = """
model Net:
    input   x[2, 6, 9, 9]
    a = relu(batchnorm(conv2d(x, 8, kernel=3, stride=2, pad=1, groups=2)))
    b = batchnorm(depthwise_conv2d(a, kernel=3, pad=1), affine=false)
    c = batchnorm(conv_transpose2d(b, 6, kernel=2, stride=2), eps=0.1)
    param w[6, 5], scale[5] ~ normal()
    m = global_mean(c)
    y[n, k] = scale[k] * sum[d](m[n, d] * w[d, k])
    output  y
    loss    mean(y)
train:
    optimizer  sgd(lr=0.1)
    steps      1
"""


def drawn_states(model: dslc.Model) -> None:
    """Statistics, gains and shifts that are not 0 and 1."""
    rng = np.random.default_rng(1)
    for path in model.params:
        model.params[path] = rng.uniform(0.5, 1.5, model.params[path].shape).astype(np.float32)


@pytest.mark.parametrize("target", ["cpu", "cuda-emulated"])
def test_results_are_the_same_to_rounding(target):
    model = dslc.load(NET)
    drawn_states(model)
    x = np.random.default_rng(0).standard_normal((2, 6, 9, 9)).astype(np.float32)
    meant = dslc.compile(model, target="reference")(x=x)["y"]
    np.testing.assert_allclose(dslc.compile(model, target=target)(x=x)["y"], meant, rtol=1e-4, atol=1e-5 * np.abs(meant).max())


def test_only_shifts_stay_in_the_program():
    """Every product is multiplied by nothing more, and has one sum, or none where there is no normalization."""
    lowered = lower(dslc.load(NET), "run", target_of("cpu"), after="prepare")
    with lowered.context:
        body = [op.operation.name for op in program_of(lowered.module).entry_block.operations]
        products = [o for op in program_of(lowered.module).entry_block.operations if isinstance(op, (ops.Contract, ops.Conv)) for o in op.operands]
        sources = [v if isinstance(v.owner, ir.Block) or not isinstance(v.owner.opview, ops.View) else v.owner.opview.x for v in products]
        prepared = [v for v in sources if isinstance(v.owner, ir.Block) and v.arg_number > 0]
    assert body.count("nn.mul") == 1  # of the mean
    assert body.count("nn.add") == 3 and "nn.sub" not in body and "nn.rsqrt" not in body
    assert len(prepared) == 4


@pytest.mark.parametrize("program", ["eval", "train", "step"])
def test_programs_that_are_trained_keep_their_weights(program):
    model = dslc.load(NET)
    elaborated = model.elaborate(program != "eval", ())
    with elaborated.context, elaborated.location:
        assert "scale_weights" not in pass_names(pipeline(model, elaborated, program, target_of("cpu"), {}))
