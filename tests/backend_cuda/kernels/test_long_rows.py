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
