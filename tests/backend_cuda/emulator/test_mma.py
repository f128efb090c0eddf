"""Warp products and matrix loads on the emulator, against numpy."""

from __future__ import annotations

import ctypes
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from dslc.backend_cuda import emulated
from dslc.runtime.drivers import emulator

DEVICE = Path(emulated.__file__).parent / "device" / "mma.cuh"

# a lies [m][k], b lies [k][n] (transposed loads): c[16][8] = a[16][16] b[16][8]
SOURCE = r"""
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include "device/mma.cuh"
template <typename T> __device__ __forceinline__ void product(const unsigned short* a, const unsigned short* b, float* c) {
    __shared__ __align__(16) unsigned short tile_a[16 * 16], tile_b[16 * 16];
    int lane = threadIdx.x;
    for (int i = lane; i < 256; i += 32) { tile_a[i] = a[i]; tile_b[i] = i % 16 < 8 ? b[i / 16 * 8 + i % 16] : (unsigned short)0; }
    __syncthreads();
    unsigned x[4], y[4], z[2];
    load_matrix_x4(x, tile_a + lane % 16 * 16 + lane / 16 * 8);
    load_matrix_x4_trans(y, tile_b + lane % 16 * 16 + lane / 16 * 8);
    z[0] = y[0]; z[1] = y[1];
    float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    mma_m16n8k16(d, x, z, T());
    int row = lane / 4, column = lane % 4 * 2;
    c[row * 8 + column] = d[0]; c[row * 8 + column + 1] = d[1];
    c[(row + 8) * 8 + column] = d[2]; c[(row + 8) * 8 + column + 1] = d[3];
}
extern "C" __global__ void product_bf16(const unsigned short* a, const unsigned short* b, float* c) { product<__nv_bfloat16>(a, b, c); }
extern "C" __global__ void product_half(const unsigned short* a, const unsigned short* b, float* c) { product<__half>(a, b, c); }
"""


@pytest.fixture(scope="module")
def code() -> bytes:
    return emulated.build(SOURCE.replace('#include "device/mma.cuh"', DEVICE.read_text()))


@pytest.mark.parametrize("order", emulator.ORDERS)
@pytest.mark.parametrize(("kernel", "dtype"), [("product_bf16", ml_dtypes.bfloat16), ("product_half", np.float16)])
def test_products(code: bytes, kernel: str, dtype: type, order: str) -> None:
    random = np.random.default_rng(0)
    a, b = random.standard_normal((16, 16)).astype(dtype), random.standard_normal((16, 8)).astype(dtype)
    c = np.zeros((16, 8), np.float32)
    emulator.load(code, order=order).launch(kernel, (1,), (32,), 0, [ctypes.c_void_p(x.ctypes.data) for x in (a, b, c)])
    np.testing.assert_allclose(c, a.astype(np.float64) @ b.astype(np.float64), rtol=1e-6, atol=1e-6)
