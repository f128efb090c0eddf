"""The emulator's core: barriers, shared memory, shuffles, votes, atomics; faults that it must find."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from dslc.backend_cuda import emulated
from dslc.core.errors import TargetError
from dslc.runtime.drivers import emulator

SOURCE = r"""
extern "C" __global__ void total(const float* x, float* out, int n) {
    __shared__ float part[32];
    float sum = 0.0f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += x[blockIdx.x * n + i];
    for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) { float all = 0.0f; for (int w = 0; w < (int)blockDim.x / 32; w++) all += part[w]; out[blockIdx.x] = all; }
}
extern "C" __global__ void count(const int* x, int* bins, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) atomicAdd(&bins[x[i]], 1);
}
extern "C" __global__ void lanes(int* out) {
    int t = threadIdx.x;
    out[t] = __shfl_up_sync(~0u, t, 3);
    out[32 + t] = __shfl_down_sync(~0u, t, 3, 16);
    out[64 + t] = (int)__ballot_sync(~0u, t % 3 == 0);
    out[96 + t] = (int)__match_any_sync(~0u, t % 5);
    out[128 + t] = __reduce_add_sync(~0u, t);
    out[160 + t] = __syncthreads_count(t < 7);
}
extern "C" __global__ void poison(float* out, int written) {
    __shared__ float fixed[64];
    extern __shared__ __align__(16) float grown[];
    if (written) fixed[threadIdx.x] = grown[threadIdx.x] = 1.0f;
    out[threadIdx.x] = fixed[threadIdx.x]; out[64 + threadIdx.x] = grown[threadIdx.x];
}
extern "C" __global__ void reversed(const int* x, int* out, int barrier) {
    __shared__ int tile[64];
    tile[threadIdx.x] = x[threadIdx.x];
    if (barrier) __syncthreads();
    out[threadIdx.x] = tile[63 - threadIdx.x];
}
extern "C" __global__ void two_barriers(int* out) {
    if (threadIdx.x < 32) __syncthreads();
    else { out[threadIdx.x] = 1; __syncthreads(); }
}
extern "C" __global__ void leaves_early(int* out) {
    if (threadIdx.x == 5) return;
    __syncthreads();
    out[threadIdx.x] = 1;
}
extern "C" __global__ void wrong_mask(int* out) { out[threadIdx.x] = __shfl_xor_sync(0xffffu, (int)threadIdx.x, 1); }
extern "C" __global__ void stuck(int* out) { if (threadIdx.x % 2) __syncwarp(); else __syncthreads(); out[0] = 1; }
"""


def line_of(text: str) -> int:
    return next(k for k, line in enumerate(SOURCE.split("\n"), 1) if text in line)


@pytest.fixture(scope="module")
def code() -> bytes:
    return emulated.build(SOURCE)


def run(code: bytes, kernel: str, grid: int, block: int, *params: object, order: str = "forward", shared: int = 0) -> None:
    values = [ctypes.c_void_p(p.ctypes.data) if isinstance(p, np.ndarray) else ctypes.c_int(p) for p in params]  # type: ignore[arg-type]
    emulator.load(code, order=order, seed=3).launch(kernel, (grid,), (block,), shared, values)


@pytest.mark.parametrize("order", emulator.ORDERS)
def test_sums_of_rows(code: bytes, order: str) -> None:
    x = np.random.default_rng(0).standard_normal((5, 1000)).astype(np.float32)
    out = np.zeros(5, np.float32)
    run(code, "total", 5, 128, x, out, 1000, order=order)
    np.testing.assert_allclose(out, x.sum(1), rtol=1e-4, atol=1e-4)


def test_atomics_across_blocks(code: bytes) -> None:
    x = np.random.default_rng(1).integers(0, 16, 3000).astype(np.int32)
    bins = np.zeros(16, np.int32)
    run(code, "count", 24, 128, x, bins, 3000)
    np.testing.assert_array_equal(bins, np.bincount(x, minlength=16))


@pytest.mark.parametrize("order", emulator.ORDERS)
def test_lanes(code: bytes, order: str) -> None:
    out = np.zeros(192, np.int32)
    run(code, "lanes", 1, 32, out, order=order)
    t = np.arange(32)
    expected = [np.where(t >= 3, t - 3, t), np.where(t % 16 + 3 < 16, t + 3, t), np.full(32, sum(1 << i for i in range(0, 32, 3)))]
    expected += [np.array([sum(1 << i for i in range(32) if i % 5 == k % 5) for k in t]), np.full(32, 496), np.full(32, 7)]
    np.testing.assert_array_equal(out.astype(np.uint32), np.concatenate(expected).astype(np.uint32))


def test_shared_memory_starts_as_nan(code: bytes) -> None:
    out = np.zeros(128, np.float32)
    run(code, "poison", 1, 64, out, 0, shared=256)
    assert np.isnan(out).all()


def test_missing_barrier_shows_in_some_order(code: bytes) -> None:
    x, out = np.arange(64, dtype=np.int32), np.zeros(64, np.int32)
    for order in emulator.ORDERS:
        run(code, "reversed", 1, 64, x, out, 1, order=order)
        np.testing.assert_array_equal(out, x[::-1])
    run(code, "reversed", 1, 64, x, out, 0)
    assert (out != x[::-1]).any()


@pytest.mark.parametrize(
    ("kernel", "words", "place"),
    [
        ("two_barriers", "different __syncthreads", "__syncthreads(); }"),
        ("leaves_early", "divergent barrier", None),
        ("wrong_mask", "wrong mask", "wrong_mask(int"),
        ("stuck", "deadlock", None),
    ],
)
def test_faults(code: bytes, kernel: str, words: str, place: str | None) -> None:
    with pytest.raises(emulator.KernelFault, match=words) as caught:
        run(code, kernel, 1, 64, np.zeros(64, np.int32))
    assert caught.value.kernel == kernel and caught.value.block == (0, 0, 0) and caught.value.file == "kernels.cu"
    if place:
        assert caught.value.line == line_of(place)


def test_refused_text_names_its_line() -> None:
    with pytest.raises(TargetError) as caught:
        emulated.build('extern "C" __global__ void k(int* x) {\n  x[0] = missing;\n}')
    assert any("kernels.cu:2" in note for note in caught.value.notes)
