"""Asynchronous copies on the emulator: deferred until waited for, zeros where not valid, a missing wait seen."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from dslc.backend_cuda import emulated
from dslc.runtime.drivers import emulator

DEVICE = Path(emulated.__file__).parent / "device" / "async.cuh"

SOURCE = r"""
#include "device/async.cuh"
template <int PENDING> __device__ __forceinline__ void copied(const float* x, float* out) {
    __shared__ __align__(16) float tile[2][128];
    int t = threadIdx.x;
    copy_async16(&tile[0][t * 4], x + t * 4, true);
    copy_async_commit();
    for (int k = 0; k < 4; k++) copy_async4(&tile[1][t * 4 + k], x + 128 + t * 4 + k, t < 20);
    copy_async_commit();
    copy_async_wait<PENDING>();
    __syncthreads();
    for (int k = 0; k < 4; k++) { int i = k * 32 + t; out[i] = tile[0][i]; out[128 + i] = tile[1][i]; }
}
extern "C" __global__ void waits_for_all(const float* x, float* out) { copied<0>(x, out); }
extern "C" __global__ void waits_for_one(const float* x, float* out) { copied<1>(x, out); }
extern "C" __global__ void waits_for_none(const float* x, float* out) { copied<2>(x, out); }
"""


@pytest.fixture(scope="module")
def code() -> bytes:
    return emulated.build(SOURCE.replace('#include "device/async.cuh"', DEVICE.read_text()))


@pytest.mark.parametrize(("kernel", "landed"), [("waits_for_all", 256), ("waits_for_one", 128), ("waits_for_none", 0)])
def test_copies_land_when_waited_for(code: bytes, kernel: str, landed: int) -> None:
    x, out = np.arange(256, dtype=np.float32), np.zeros(256, np.float32)
    emulator.load(code).launch(kernel, (1,), (32,), 0, [ctypes.c_void_p(a.ctypes.data) for a in (x, out)])
    expected = np.where(np.arange(256) < 128 + 80, x, 0.0)
    np.testing.assert_array_equal(out[:landed], expected[:landed])
    assert np.isnan(out[landed:]).all()
