"""The race checker: what is planted is found at its line, what is right passes, and so do the kernels that dslc makes."""

import ctypes
import re

import numpy as np
import pytest

from dslc.backend_cuda import emulated
from dslc.backend_cuda.source import bundle
from dslc.runtime.drivers import emulator
from dslc.targets import TARGETS

pytestmark = pytest.mark.skipif(TARGETS["cuda-emulated"].missing() is not None, reason="needs g++ and NVIDIA's headers")
SOURCE = r"""#include "device/async.cuh"
extern "C" __global__ void turned(float* x, int barrier) {
    __shared__ float tile[64];
    tile[threadIdx.x] = x[threadIdx.x];
    if (barrier) __syncthreads();
    x[threadIdx.x] = tile[63 - threadIdx.x];
}
extern "C" __global__ void reused(float* x, int barrier) {
    extern __shared__ float tile[];
    for (int k = 0; k < 2; ++k) {
        tile[threadIdx.x] = x[64 * k + threadIdx.x];
        __syncthreads();
        x[64 * k + threadIdx.x] = tile[63 - threadIdx.x];
        if (barrier) __syncthreads();
    }
}
extern "C" __global__ void neighbours(float* x, int barrier) {
    __shared__ unsigned short tile[64];
    tile[threadIdx.x] = (unsigned short)x[threadIdx.x];
    if (barrier) __syncwarp();
    x[threadIdx.x] = tile[threadIdx.x ^ 1];
}
extern "C" __global__ void counted(float* x, int barrier) {
    __shared__ int count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    if (barrier) atomicAdd(&count, 1);
    else count = count + 1;
    __syncthreads();
    x[threadIdx.x] = (float)count;
}
extern "C" __global__ void copied(float* x, int barrier) {
    __shared__ float tile[64];
    copy_async4(tile + threadIdx.x, x + threadIdx.x, true);
    copy_async_commit();
    copy_async_wait<0>();
    if (barrier) __syncthreads();
    x[threadIdx.x] = tile[63 - threadIdx.x];
}
"""
LINES = {
    "turned": ("x[threadIdx.x] = tile[63", "tile[threadIdx.x] = x[threadIdx.x]"),
    "reused": ("tile[threadIdx.x] = x[64", "= tile[63 - threadIdx.x];\n        if"),
    "neighbours": ("tile[threadIdx.x ^ 1]", "tile[threadIdx.x] = (unsigned short)"),
    "counted": ("count = count + 1", "count = count + 1"),
}


def launched(name: str, barrier: int, order: str) -> np.ndarray:
    x = np.arange(128, dtype=np.float32)
    module = emulator.load(emulated.build(bundle(SOURCE), races=True), order=order)
    module.launch(name, (1,), (64,), 256, [ctypes.c_void_p(x.ctypes.data), ctypes.c_int32(barrier)])
    return x


def line_of(part: str) -> int:
    return SOURCE[: SOURCE.index(part)].count("\n") + 1


@pytest.mark.parametrize("order", emulator.ORDERS)
@pytest.mark.parametrize("name", LINES)
def test_a_missing_barrier_is_found_at_its_lines(name: str, order: str) -> None:
    """In any order of the threads, though values may be right in some; either access may come first."""
    with pytest.raises(emulator.KernelFault, match="race on byte") as caught:
        launched(name, 0, order)
    earlier = re.search(r"earlier access is at kernels.cu:(\d+)", "\n".join(caught.value.notes))
    assert earlier and {caught.value.line, int(earlier[1])} == set(map(line_of, LINES[name]))


@pytest.mark.parametrize("order", emulator.ORDERS)
def test_copies_beside_the_thread_need_a_barrier_too(order: str) -> None:
    """A thread waits for its own copies only."""
    with pytest.raises(emulator.KernelFault, match="race on byte"):
        launched("copied", 0, order)
    assert launched("copied", 1, order)[:64].tolist() == list(range(63, -1, -1))


@pytest.mark.parametrize("order", emulator.ORDERS)
def test_what_is_ordered_passes(order: str) -> None:
    assert launched("turned", 1, order)[:64].tolist() == list(range(63, -1, -1))
    assert launched("reused", 1, order)[64:].tolist() == list(range(127, 63, -1))
    assert launched("neighbours", 1, order)[:4].tolist() == [1, 0, 3, 2]
    assert launched("counted", 1, order)[:64].tolist() == [64] * 64
