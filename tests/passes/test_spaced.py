"""spaced and phases: transposed convolutions, and gradients of strided ones, visit elements alone, and mean the same."""

from __future__ import annotations

import numpy as np
import pytest

import dslc
from dslc.compiler import lower
from dslc.ir import ops
from dslc.ir.bodies import kernels_in
from dslc.ir.program import program_of
from dslc.ir.trace import Body
from dslc.targets import TARGETS

RNG = np.random.default_rng(0)
WRITTEN = """
    up[n, c, i < 16, j < 9] = where(i % 3 == 0 and j % 2 == 0, x[n, c, i // 3, j // 2], 0)
    param w[5, 4, 3, 3] ~ normal()
    y[n, o, i < 14, j < 9] = sum[c, u, v](up[n, c, i + u, j + v - 1] * w[o, c, u, v])"""
# the expression and its input, and (spacing, contractions that phases makes of it)
CASES = {
    "as the step": ("x[2, 4, 6, 5]", "y = conv_transpose2d(x, 5, kernel=2, stride=2)", ([2, 2], 1)),
    "twice the step": ("x[2, 4, 6, 5]", "y = conv_transpose2d(x, 5, kernel=4, stride=2, pad=1)", ([2, 2], 1)),
    "other taps": ("x[2, 4, 6, 5]", "y = conv_transpose2d(x, 5, kernel=3, stride=2, pad=1, extra=1)", ([2, 2], 4)),
    "fewer taps than steps": ("x[2, 4, 6, 5]", "y = conv_transpose2d(x, 5, kernel=2, stride=3)", ([3, 3], 4)),
    "dilated": ("x[2, 4, 5, 6]", "y = conv_transpose2d(x, 3, kernel=3, stride=2, dilation=3, pad=2)", ([2, 2], 4)),
    "a line": ("x[2, 4, 11]", "y = conv_transpose1d(x, 6, kernel=6, stride=3)", ([3], 1)),
    "a line, unevenly": ("x[2, 4, 11]", "y = conv_transpose1d(x, 6, kernel=6, stride=3, pad=1)", ([3], 3)),
    "a volume": ("x[2, 3, 3, 4, 2]", "y = conv_transpose3d(x, 4, kernel=2, stride=2)", ([2, 2, 2], 1)),
    "written out": ("x[2, 4, 6, 5]", WRITTEN.strip(), ([3, 2], 6)),
}


def model(name: str) -> dslc.Model:
    x, body, _ = CASES[name]
    return dslc.load(f"model M:\n    input {x}\n    {body}\n    output y\n    loss mean(y * y * y)\ntrain:\n    optimizer sgd(lr=1.0)\n    steps 1\n")


def made(m: dslc.Model, program: str, after: str) -> tuple[list[list[int]], int]:
    """The spacing of each convolution after a pass, and how many contractions there are."""
    lowered = lower(m, program, TARGETS["cpu"], after=after)
    found = list(program_of(lowered.module).entry_block.operations)
    return [list(op.spacing) for op in found if isinstance(op, ops.Conv)], sum(isinstance(op, ops.Contract) for op in found)


@pytest.mark.parametrize("name", CASES)
def test_zeros_between_elements_become_spacing_and_that_phases(name):
    spacing, contractions = CASES[name][2]
    assert made(model(name), "run", "spaced") == ([spacing], 0)
    assert made(model(name), "run", "phases") == ([], contractions)


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_the_reference_s(name):
    m = model(name)
    x = RNG.standard_normal(m.inputs[0][1]).astype(np.float32)
    results = []
    for target in ("cpu", "reference"):
        own = model(name)
        y = dslc.compile(own, target=target)(x=x)["y"]
        before = {k: np.array(own.params[k]) for k in own.params}
        dslc.Trainer(own, target=target).step(x=x)
        results.append({"y": y, **{k: before[k] - np.array(own.params[k]) for k in before}})
    for key, value in results[1].items():  # sums of some thousand products of single precision
        np.testing.assert_allclose(results[0][key], value, rtol=1e-4, atol=1e-5 * float(np.abs(value).max()), err_msg=key)


@pytest.mark.parametrize(
    "condition", ["i % 2 == 1", "i % 2 == 0 and j < 5", "i % 2 == 0 or j % 2 == 0", "(i + 1) % 2 == 0", "i % 2 != 0", "i % j_ == 0"]
)
def test_other_conditions_stay(condition):
    body = f"up[n, c, i < 11, j < 9] = where({condition.replace('j_', '1')}, x[n, c, i // 2, j // 2], 0)"
    m = dslc.load(f"model M:\n    input x[2, 3, 6, 5]\n    {body}\n    output conv2d(up, 4, kernel=3, pad=1)\n")
    assert made(m, "run", "spaced") == ([[1, 1]], 0)


def products(m: dslc.Model, program: str) -> int:
    """Multiply-adds of all contractions of a program's kernels."""
    total, lowered = 0, lower(m, program, TARGETS["cpu"])
    for kernel in kernels_in(lowered.module):
        for op, _ in Body.of(kernel.regions[0].blocks[0]).makers.values():
            if isinstance(op, (ops.Contract, ops.Conv)):
                total += int(np.prod(op.maps().domain))
    return total


def test_a_step_multiplies_with_elements_alone():
    """Forward, the gradient of the input and that of the filters each meet every element of x once a tap and channel."""
    m = dslc.load(
        "model M:\n    input x[2, 3, 8, 8]\n    h = conv_transpose2d(conv2d(x, 4, kernel=1), 5, kernel=2, stride=2)\n    loss mean(h * h)\n"
        "train:\n    optimizer sgd(lr=0.1)\n    steps 1\n"
    )
    assert products(m, "step") == 3 * (2 * 4 * 64 * 5 * 4) + 2 * (2 * 3 * 64 * 4)


def test_gradients_of_strided_convolutions_too():
    m = dslc.load(
        "model M:\n    input x[2, 3, 8, 8]\n    h = conv2d(conv2d(x, 4, kernel=1), 5, kernel=2, stride=2)\n    loss mean(h * h)\n"
        "train:\n    optimizer sgd(lr=0.1)\n    steps 1\n"
    )
    assert products(m, "step") == 3 * (2 * 4 * 64 * 5) + 2 * (2 * 3 * 64 * 4)
