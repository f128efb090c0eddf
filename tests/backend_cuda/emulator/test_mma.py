"""Warp products and matrix loads on the emulator, against numpy."""

from __future__ import annotations

import ctypes

import ml_dtypes
import numpy as np
import pytest

from dslc.backend_cuda import emulated
from dslc.backend_cuda.source import bundle
from dslc.core.dtypes import rounded_to_tf32
from dslc.runtime.drivers import emulator

# a lies [m][k], b lies [k][n] (transposed loads): c[16][8] = a[16][16] b[16][8]
SOURCE = r"""
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

# a lies [m][k], b lies [k][n]: c[16][8] = a[16][8] b[8][8], the factors as they are; and the places of what a warp reads at once of a tile.
SOURCE_TF32 = r"""
#include "device/memory.cuh"
#include "device/tiles.cuh"
extern "C" __global__ void product_tf32(const float* a, const float* b, float* c) {
    const int g = threadIdx.x / 4, t = threadIdx.x % 4;
    unsigned x[4], y[2];
    for (int k = 0; k < 4; k++) x[k] = __float_as_uint(a[(g + k % 2 * 8) * 8 + t + k / 2 * 4]);
    for (int k = 0; k < 2; k++) y[k] = __float_as_uint(b[(t + k * 4) * 8 + g]);
    float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    mma_m16n8k8(d, x, y);
    for (int k = 0; k < 4; k++) c[(g + k / 2 * 8) * 8 + 2 * t + k % 2] = d[k];
}
extern "C" __global__ void rounded(const float* x, float* y) { y[threadIdx.x] = nearest_tf32(x[threadIdx.x]); }
extern "C" __global__ void places(int* y) {
    const int lane = threadIdx.x;
    y[lane] = place_in_term<64>(lane % 4, lane / 4);
    y[32 + lane] = place_in_term<128>(4 + lane % 4, 8 + lane / 4);
    y[64 + lane] = place_in_term<64>(lane / 8, lane % 8 * 4);
}
"""


@pytest.fixture(scope="module")
def code() -> bytes:
    return emulated.build(bundle(SOURCE))


@pytest.mark.parametrize("order", emulator.ORDERS)
@pytest.mark.parametrize(("kernel", "dtype"), [("product_bf16", ml_dtypes.bfloat16), ("product_half", np.float16)])
def test_products(code: bytes, kernel: str, dtype: type, order: str) -> None:
    random = np.random.default_rng(0)
    a, b = random.standard_normal((16, 16)).astype(dtype), random.standard_normal((16, 8)).astype(dtype)
    c = np.zeros((16, 8), np.float32)
    emulator.load(code, order=order).launch(kernel, (1,), (32,), 0, [ctypes.c_void_p(x.ctypes.data) for x in (a, b, c)])
    np.testing.assert_allclose(c, a.astype(np.float64) @ b.astype(np.float64), rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def code_tf32() -> bytes:
    return emulated.build(bundle(SOURCE_TF32))


def launched(code: bytes, kernel: str, order: str, *arrays: np.ndarray) -> np.ndarray:
    """The last array, after a warp ran the kernel."""
    emulator.load(code, order=order).launch(kernel, (1,), (32,), 0, [ctypes.c_void_p(x.ctypes.data) for x in arrays])
    return arrays[-1]


@pytest.mark.parametrize("order", emulator.ORDERS)
def test_products_in_tf32_ignore_the_low_bits_of_their_factors(code_tf32: bytes, order: str) -> None:
    random = np.random.default_rng(0)
    a, b = random.standard_normal((16, 8)).astype(np.float32), random.standard_normal((8, 8)).astype(np.float32)
    cut = [(x.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64) for x in (a, b)]
    found = launched(code_tf32, "product_tf32", order, a, b, np.zeros((16, 8), np.float32))
    np.testing.assert_allclose(found, cut[0] @ cut[1], rtol=1e-6, atol=1e-6)


def test_rounding_to_tf32(code_tf32: bytes) -> None:
    bits = [0x3F800000, 0x3F801000, 0x3F803000, 0x3F800FFF, 0x3FFFF000, 0x7F7FFFFF, 0x7F800000, 0x7FFFFFFF, 0x00001000, 0xBF801000]
    x = np.concatenate([np.array(bits, np.uint32).view(np.float32), np.random.default_rng(1).standard_normal(22).astype(np.float32)])
    np.testing.assert_array_equal(launched(code_tf32, "rounded", emulator.ORDERS[0], x, np.zeros(32, np.float32)), rounded_to_tf32(x))


def test_tiles_of_terms_meet_no_bank_conflict(code_tf32: bytes) -> None:
    """A warp's loads of single elements touch 32 banks; its stores of 16 bytes, 8 threads at a time, 8 different groups of four."""
    first, other, stored = launched(code_tf32, "places", emulator.ORDERS[0], np.zeros((3, 32), np.int32))
    assert sorted(first % 32) == sorted(other % 32) == list(range(32))
    assert all(sorted(part % 32) == list(range(0, 32, 4)) for part in stored.reshape(4, 8))
