"""Draws over more points than 32 bits number, of which a kernel needs a few: the same numbers on every backend, as under a mask of an attention's
scores that no memory holds."""

from __future__ import annotations

import numpy as np
import pytest

from dslc.core import philox
from dslc.ir import ops
from dslc.targets import TARGETS
from tests.backend_cpu.kernels import harness
from tests.backend_cpu.kernels.harness import Case

from . import emulated

SEED, STREAM = 5, 77
EMULATED = pytest.mark.skipif(TARGETS["cuda-emulated:checked"].missing() is not None, reason="needs g++ and NVIDIA's headers")


def rows(x, seed, counter, turn):
    """Behind 2**32 points, and, upside down, between 2**31 and 2**32."""
    drawn = ops.Random.of(seed, counter, turn, kind="uniform", stream=STREAM, shape=(70000, 70001), low=0, high=0)
    far = ops.view(drawn, [[1, 0], [0, 1]], [69990, 69980], [3, 5])
    near = ops.view(drawn, [[-1, 0], [0, 1]], [40002, 10], [3, 5])
    return [ops.Add.of(x, far), ops.Add.of(x, near)]


def halves(x, seed, counter, turn):
    """Read through axes that are taken apart: positions are divided again."""
    drawn = ops.Random.of(seed, counter, turn, kind="uniform", stream=STREAM, shape=(1 << 18, 1 << 16), low=0, high=0)
    split = ops.reshape(drawn, (1 << 20, 1 << 14))
    return ops.Add.of(x, ops.view(split, [[3, 0], [0, 1]], [(1 << 20) - 8, (1 << 14) - 5], [3, 5]))


def points(row, columns, width):
    return np.add.outer(np.asarray(row, np.int64) * width, np.asarray(columns, np.int64))


PLACES = {
    rows: [points(range(69990, 69993), range(69980, 69985), 70001), points((40002, 40001, 40000), range(10, 15), 70001)],
    halves: [points(range((1 << 20) - 8, (1 << 20), 3), range((1 << 14) - 5, 1 << 14), 1 << 14)],
}


@pytest.mark.parametrize("run", [harness.run, pytest.param(emulated.run, marks=EMULATED)], ids=["cpu", "cuda"])
@pytest.mark.parametrize("build", PLACES)
def test_the_words_are_those_of_the_whole_position(build, run, monkeypatch):
    expected = [philox.uniform(SEED, STREAM, 0, 2, 1, at).reshape(at.shape) for at in PLACES[build]]
    monkeypatch.setattr(harness.reference, "_run_block", lambda *_: expected)  # it would make all points
    key = [np.array(SEED, np.int64), np.array(2, np.int32), np.array(1, np.int32)]
    case = Case(build.__name__, "map", [np.zeros((3, 5), np.float32), *key], build)
    run([case])
    for found, wanted in zip(case.results, expected, strict=True):
        np.testing.assert_array_equal(found, wanted.astype(np.float32))
