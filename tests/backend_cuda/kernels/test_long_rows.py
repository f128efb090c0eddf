"""Rows that no registers hold stay in shared memory between the passes of a reduction: on the emulator, with every access checked."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import dslc
from dslc.backend_cuda.arch import EMULATED
from dslc.targets import TARGETS

pytestmark = pytest.mark.skipif(TARGETS["cuda-emulated:checked"].missing() is not None, reason="needs g++ and NVIDIA's headers")
TEXT = """model Rows:
    input   x[{rows}, {points}]: {dtype}
    y[r, p] = {dtype}(softmax[p](float32(x[r, p])))
    output  y
"""
ROWS = 56  # fewer are split


@pytest.mark.parametrize("points, dtype, threads", [(17001, "float32", 512), (30000, "float32", 1024), (36000, "bfloat16", 512)])
def test_long_rows_are_kept_in_shared_memory(points: int, dtype: str, threads: int) -> None:
    """With and without neighbouring points at once, in one block of a multiprocessor and in two, as they lie and as float32."""
    model = dslc.load(TEXT.format(rows=ROWS, points=points, dtype=dtype))
    program = dslc.compile(model, target="cuda-emulated:checked")
    assert f"reduce: {threads} threads a row of {points} points" in program.executable.source
    assert "kept in shared memory" in program.executable.source
    assert program.executable.source.count("for (int k0 = 0;") == 1 and "expf(" not in program.executable.source  # the sum is made as the row arrives
    assert f"__launch_bounds__({threads}, {1024 // threads})" in program.executable.source
    (launch,) = program.executable.launches
    assert 0 < launch.shared_bytes <= EMULATED.shared_bytes * threads // 1024  # so that so many blocks fit
    x = np.random.default_rng(0).standard_normal((ROWS, points)).astype(np.float32)
    given = x.astype(ml_dtypes.bfloat16) if dtype == "bfloat16" else x
    exact = np.exp(given.astype(np.float64))
    exact /= exact.sum(1, keepdims=True)
    found = np.asarray(program(x=given)["y"], np.float64)
    # A sum of so many positive terms, of which a thread adds one behind the other those of its own: their number times half a unit.
    terms = points / threads + 10
    np.testing.assert_allclose(found, exact, rtol=2.0**-8 if dtype == "bfloat16" else terms * 2.0**-24)


LOSS = """model Loss:
    input   x[56, 17004]: float32, label[56]: int32
    total = cross_entropy(x, label)
    output  total
    output  slope = grad(total, x)
"""


def test_running_sums_follow_their_maximum() -> None:
    """Rows that grow and that fall, far from 0, with nothing at their beginning, end or anywhere else than in one place."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((ROWS, 17004)).astype(np.float32)
    ramp = np.linspace(0, 900, 17004, dtype=np.float32)
    x[0] += ramp
    x[1] -= ramp
    x[2] -= 3000
    x[3, :12000] = -np.inf
    x[4, 5000:] = -np.inf
    x[5] = -np.inf
    x[5, 9999] = -2000
    label = rng.integers(0, 17004, ROWS).astype(np.int32)
    label[:6] = [17003, 0, 5, 16000, 5, 9999]
    program = dslc.compile(dslc.load(LOSS), target="cuda-emulated:checked")
    assert program.executable.source.count("for (int k0 = 0;") == 1
    found = program(x=x, label=label)
    wide = x.astype(np.float64)
    best = wide.max(1, keepdims=True)
    powers = np.exp(wide - best)
    sums = powers.sum(1, keepdims=True)
    slope = powers / sums
    slope[np.arange(ROWS), label] -= 1
    lost = (np.log(sums) + best)[:, 0] - wide[np.arange(ROWS), label]
    np.testing.assert_allclose(found["total"], lost.mean(), rtol=64 * 2.0**-24)
    # Where x is far from 0 the difference in the exponent is rounded in units of x's last place, which e takes over as relative errors.
    rounding = 2.0**-24 * (np.abs(wide - best).clip(max=104) * 2 + 50)
    np.testing.assert_array_less(
        np.abs(np.asarray(found["slope"], np.float64) * ROWS - slope), rounding * np.maximum(powers / sums, 2.0**-126) + 2.0**-23
    )


def test_sums_of_other_powers_have_a_pass_of_their_own() -> None:
    """The exponent's values are others than those of the maximum."""
    model = dslc.load(
        "model M:\n    input   x[56, 17004]: float32\n    m[r] = max[p](x[r, p])\n    y[r] = sum[p](exp(x[r, p] * 0.5 - m[r]))\n    output  y\n"
    )
    program = dslc.compile(model, target="cuda-emulated")
    x = np.random.default_rng(2).standard_normal((ROWS, 17004)).astype(np.float32)
    exact = np.exp(x * np.float64(0.5) - x.max(1, keepdims=True)).sum(1)
    assert "for (int k0 = 0;" not in program.executable.source
    np.testing.assert_allclose(program(x=x)["y"], exact, rtol=45 * 2.0**-24)
