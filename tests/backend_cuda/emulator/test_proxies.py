"""Fences between what threads store to shared memory and what the copy engine and the tensor cores do there: a missing one is a fault, in every order
of the threads, though the emulator's values are right without it."""

from __future__ import annotations

import ctypes
from functools import cache

import ml_dtypes
import numpy as np
import pytest

from dslc.backend_cuda import emulated
from dslc.backend_cuda.source import bundle
from dslc.core.executable import TensorMap
from dslc.runtime.drivers import emulator
from dslc.runtime.drivers.device import Buffer, packed_tensor_map
from dslc.runtime.drivers.emulated_device import EmulatorDriver
from dslc.targets import TARGETS

pytestmark = pytest.mark.skipif(TARGETS["cuda-emulated:checked"].missing() is not None, reason="needs g++ and NVIDIA's headers")
SOURCE = r"""#include "device/wgmma.cuh"
#include "device/async.cuh"
extern "C" __global__ void product(const __grid_constant__ TensorMap map, const __nv_bfloat16* x, float* y, int fault) {
    extern __shared__ __align__(1024) __nv_bfloat16 tiles[];
    for (int p = threadIdx.x; p < 2 * 64 * 64; p += 128) tiles[p] = __float2bfloat16(p % 4096 % 65 == 0 ? 1.0f : 0.0f);  // here
    if (fault != 1) fence_shared_async();
    __syncthreads();
    if (fault == 2) tiles[threadIdx.x] = __float2bfloat16(0.0f);  // here
    __syncthreads();
    float d[32] = {};
    wgmma_fence();
    wgmma<false, false>(d, matrix_descriptor(tiles, 1, 1024), matrix_descriptor(tiles + 4096, 1, 1024), 0, __nv_bfloat16());
    wgmma_commit();
    wgmma_wait<0>();
    y[threadIdx.x] = d[0];
}
extern "C" __global__ void copied(const __grid_constant__ TensorMap map, const __nv_bfloat16* x, float* y, int fault) {
    extern __shared__ __align__(1024) __nv_bfloat16 tiles[];
    __shared__ unsigned long long full;
    if (threadIdx.x == 0) { mbarrier_init(&full, 1); mbarrier_fence(); }
    tiles[threadIdx.x] = x[threadIdx.x];  // here
    if (!fault) fence_shared_async();
    __syncthreads();
    if (threadIdx.x == 0) { mbarrier_arrive_expect(&full, 8192); copy_tile(tiles, &map, &full, 0, 0); }
    mbarrier_wait(&full, 0);
    y[threadIdx.x] = __bfloat162float(tiles[threadIdx.x]);
}
extern "C" __global__ void fenced_by_another(const __grid_constant__ TensorMap map, const __nv_bfloat16* x, float* y, int fault) {
    extern __shared__ __align__(1024) __nv_bfloat16 tiles[];
    __shared__ unsigned long long full;
    if (threadIdx.x == 0) { mbarrier_init(&full, 1); mbarrier_fence(); }
    tiles[threadIdx.x] = x[threadIdx.x];  // here
    if (!fault || threadIdx.x == 0) fence_shared_async();
    __syncthreads();
    if (threadIdx.x == 0) { mbarrier_arrive_expect(&full, 8192); copy_tile(tiles, &map, &full, 0, 0); }
    mbarrier_wait(&full, 0);
    y[threadIdx.x] = __bfloat162float(tiles[threadIdx.x]);
}
extern "C" __global__ void fenced_too_late(const __grid_constant__ TensorMap map, const __nv_bfloat16* x, float* y, int fault) {
    extern __shared__ __align__(1024) __nv_bfloat16 tiles[];
    __shared__ unsigned long long full;
    if (threadIdx.x == 0) { mbarrier_init(&full, 1); mbarrier_fence(); }
    tiles[threadIdx.x] = x[threadIdx.x];  // here
    if (!fault) fence_shared_async();
    __syncthreads();
    if (fault) fence_shared_async();
    if (threadIdx.x == 0) { mbarrier_arrive_expect(&full, 8192); copy_tile(tiles, &map, &full, 0, 0); }
    mbarrier_wait(&full, 0);
    y[threadIdx.x] = __bfloat162float(tiles[threadIdx.x]);
}
extern "C" __global__ void begun(const __grid_constant__ TensorMap map, const __nv_bfloat16* x, float* y, int fault) {
    extern __shared__ __align__(1024) __nv_bfloat16 tiles[];
    __shared__ unsigned long long full;
    if (threadIdx.x == 0) { mbarrier_init(&full, 1); if (!fault) mbarrier_fence(); }
    __syncthreads();
    if (threadIdx.x == 0) { mbarrier_arrive_expect(&full, 8192); copy_tile(tiles, &map, &full, 0, 0); }
    mbarrier_wait(&full, 0);
    y[threadIdx.x] = __bfloat162float(tiles[threadIdx.x]);
}
extern "C" __global__ void written_before(const __grid_constant__ TensorMap map, __nv_bfloat16* x, float* y, int fault) {
    extern __shared__ __align__(1024) __nv_bfloat16 tiles[];
    __shared__ unsigned long long full;
    if (threadIdx.x == 0) { mbarrier_init(&full, 1); mbarrier_fence(); }
    if (fault) x[threadIdx.x] = __float2bfloat16((float)threadIdx.x);  // here
    fence_shared_async();
    __syncthreads();
    if (threadIdx.x == 0) { mbarrier_arrive_expect(&full, 8192); copy_tile(tiles, &map, &full, 0, 0); }
    mbarrier_wait(&full, 0);
    y[threadIdx.x] = __bfloat162float(tiles[(threadIdx.x / 64) * 64 + threadIdx.x % 64]);
}
"""
BEHIND = r"a write of byte \d+ of shared memory by thread 0, for which no fence makes visible what thread \d+ has written there"
FAULTS = {
    ("product", 1): r"a read of byte \d+ of shared memory by a warpgroup's product, for which no fence makes visible what thread \d+ has written",
    ("product", 2): r"a read of byte \d+ of shared memory by a warpgroup's product, for which no fence makes visible what thread \d+ has written",
    ("copied", 1): BEHIND,
    ("fenced_by_another", 1): BEHIND,
    ("fenced_too_late", 1): BEHIND,
    ("written_before", 1): r"a read of byte \d+ of x by the copy engine, which thread \d+ has written in this launch",
    ("begun", 1): "a copy through an mbarrier whose initialization no fence makes visible to the copy engine",
}


@cache
def code() -> bytes:
    return emulated.build(bundle(SOURCE), checked=True)


def launched(name: str, fault: int, order: str) -> np.ndarray:
    """y[128] of a kernel with 128 threads, given x[4096] = 0, 1, ... as bfloat16."""
    memory = np.zeros(8192 + 512 + 256, np.uint8)
    memory = memory[-memory.ctypes.data % 256 :]
    x, y = memory[:8192].view(ml_dtypes.bfloat16), memory[8192 : 8192 + 512].view(np.float32)
    x[:] = np.arange(4096) % 256
    buffers = [Buffer("x", x.ctypes.data, x.nbytes, name == "written_before"), Buffer("y", y.ctypes.data, y.nbytes, True)]
    described = TensorMap(("slot", 0), "bfloat16", (64, 64), (128,), (64, 64))
    params = [packed_tensor_map(EmulatorDriver().tensor_map(described, x.ctypes.data)), ctypes.c_void_p(x.ctypes.data)]
    emulator.load(code(), order=order, seed=2).launch(
        name, (1,), (128,), 16384, [*params, ctypes.c_void_p(y.ctypes.data), ctypes.c_int32(fault)], buffers
    )
    return y


@pytest.mark.parametrize("order", emulator.ORDERS)
@pytest.mark.parametrize(("name", "fault"), FAULTS)
def test_a_missing_fence_is_found(name: str, fault: int, order: str) -> None:
    with pytest.raises(emulator.KernelFault, match=FAULTS[name, fault]) as caught:
        launched(name, fault, order)
    assert caught.value.file == "kernels.cu"
    if name != "begun":
        (note,) = (n for n in caught.value.notes if "earlier access" in n)
        line = SOURCE.split("\n")[int(note.rpartition(":")[2]) - 1]
        assert line.endswith("// here") and ("fault == 2" in line) == (fault == 2)


@pytest.mark.parametrize("order", emulator.ORDERS)
def test_fences_of_the_threads_that_stored_suffice(order: str) -> None:
    for name in dict.fromkeys(name for name, _ in FAULTS):
        found = launched(name, 0, order)
        if name == "product":
            assert np.isfinite(found).all()
        else:
            assert found.tolist() == list(range(128))
