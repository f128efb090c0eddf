"""Functions of the device library: their GPU bodies against their bodies on the emulator, with the kernels of the emulator's own tests."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from backend_cuda.emulator import test_async, test_core, test_mma

from .devices import DRIVERS, Kernels, run

pytestmark = pytest.mark.gpu
BF16 = ml_dtypes.bfloat16
RANDOM = np.random.default_rng(0)
CORE = Kernels(test_core.SOURCE, ("total", "count", "lanes", "reversed"))
ASYNC = Kernels(test_async.SOURCE, ("waits_for_all",))
MMA = Kernels(test_mma.SOURCE, ("product_bf16", "product_half"))
TF32 = Kernels(test_mma.SOURCE_TF32, ("product_tf32", "rounded"))
SPECIAL = np.array([0x3F801000, 0x3F803000, 0x3F800FFF, 0xBF801000, 0x7F7FFFFF, 0x7F800000, 0x7FFFFFFF, 0x3FFFF000], np.uint32).view(np.float32)


def narrow(dtype: type, *shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(dtype)


CASES = {
    "shuffles and shared memory": (CORE, "total", 5, 128, RANDOM.standard_normal((5, 1000)).astype(np.float32), np.zeros(5, np.float32), 1000),
    "atomics": (CORE, "count", 24, 128, RANDOM.integers(0, 16, 3000).astype(np.int32), np.zeros(16, np.int32), 3000),
    "lanes": (CORE, "lanes", 1, 32, np.zeros(192, np.int32)),
    "barriers": (CORE, "reversed", 1, 64, np.arange(64, dtype=np.int32), np.zeros(64, np.int32), 1),
    "asynchronous copies": (ASYNC, "waits_for_all", 1, 32, np.arange(256, dtype=np.float32), np.zeros(256, np.float32)),
    "products of bfloat16": (
        MMA,
        "product_bf16",
        1,
        32,
        narrow(ml_dtypes.bfloat16, 16, 16),
        narrow(ml_dtypes.bfloat16, 16, 8),
        np.zeros((16, 8), np.float32),
    ),
    "products in tf32, whose low bits are ignored": (
        TF32,
        "product_tf32",
        1,
        32,
        narrow(np.float32, 16, 8),
        narrow(np.float32, 8, 8),
        np.zeros((16, 8), np.float32),
    ),
    "rounding to tf32": (TF32, "rounded", 1, 32, np.concatenate([SPECIAL, narrow(np.float32, 24)]), np.zeros(32, np.float32)),
    "products of half": (MMA, "product_half", 1, 32, narrow(np.float16, 16, 16), narrow(np.float16, 16, 8), np.zeros((16, 8), np.float32)),
}


@pytest.mark.parametrize("name", CASES)
def test_both_bodies_give_the_same(name):
    """To the bit; products of tensor cores within a rounding of their sum, whose order NVIDIA does not say."""
    found, expected = (run(DRIVERS[device](), *CASES[name]) for device in ("cuda", "emulator"))
    for one, other in zip(found, expected):
        if name.startswith("products"):
            np.testing.assert_allclose(one.astype(np.float64), other.astype(np.float64), rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(one, other)
