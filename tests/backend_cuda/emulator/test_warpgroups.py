"""What whole warps and warpgroups do together: named barriers, registers passed on, fences before products. A GPU hangs, or sums are others."""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np
import pytest

from dslc.backend_cuda import emulated
from dslc.backend_cuda.source import bundle
from dslc.runtime.drivers import emulator
from dslc.targets import TARGETS

pytestmark = pytest.mark.skipif(TARGETS["cuda-emulated"].missing() is not None, reason="needs g++ and NVIDIA's headers")
SOURCE = r"""#include "device/wgmma.cuh"
extern "C" __global__ void handed_over(float* y, int fault) {
    if (threadIdx.x < 128) {
        if (fault == 1) give_registers<48>(); else give_registers<40>();
        if (fault == 2) { if (threadIdx.x % 32 == 0) named_barrier_arrive(1, 384); }  // here
        else if (fault == 3) named_barrier_arrive(1, 256);
        else named_barrier_arrive(1, 384);
    } else {
        if (fault == 4) give_registers<232>();  // here
        else take_registers<232>();
        named_barrier_sync(1, 384);
        y[threadIdx.x - 128] = 1.0f;
    }
}
extern "C" __global__ void products(float* y, int fault) {
    extern __shared__ __align__(1024) __nv_bfloat16 tiles[];
    for (int p = threadIdx.x; p < 2 * 64 * 64; p += 128) tiles[p] = __float2bfloat16(p % 4096 % 65 == 0 ? 1.0f : 0.0f);
    fence_shared_async();
    __syncthreads();
    float d[32] = {};
    const unsigned long long a = matrix_descriptor(tiles, 1, 1024), b = matrix_descriptor(tiles + 4096, 1, 1024);
    for (int k = 0; k < 2; ++k) {
        if (fault != 5 && (fault != 6 || k == 0)) wgmma_fence();
        wgmma<false, false>(d, a, b, k, __nv_bfloat16());  // here
        wgmma_commit();
        wgmma_wait<0>();
        d[0] += 1.0f;
    }
    y[threadIdx.x] = d[0];
}
"""
FAULTS = {
    1: ("handed_over", "setmaxnreg: the warpgroups take 65536 registers, the block has 64512: one waits for ever"),
    2: ("handed_over", "deadlock|wrong mask: .* names lane|divergent warp"),
    3: ("handed_over", "named barrier 1 of (384|256) threads, at which others wait for (256|384)"),
    4: ("handed_over", "setmaxnreg: from 168 registers down to 232"),
    5: ("products", "wgmma: no fence between what threads may have done with its registers and a product"),
    6: ("products", "wgmma: no fence"),
}


@cache
def code() -> bytes:
    return emulated.build(bundle(SOURCE))


def launched(name: str, fault: int, order: str) -> np.ndarray:
    y = np.zeros(256, np.float32)
    threads = {"handed_over": 384, "products": 128}[name]
    emulator.load(code(), order=order, seed=2).launch(name, (1,), (threads,), 16384, [ctypes.c_void_p(y.ctypes.data), ctypes.c_int32(fault)])
    return y


@pytest.mark.parametrize("order", emulator.ORDERS)
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_planted_is_found(fault: int, order: str) -> None:
    name, words = FAULTS[fault]
    with pytest.raises(emulator.KernelFault, match=words) as caught:
        launched(name, fault, order)
    assert caught.value.kernel == name and caught.value.file == "kernels.cu"


@pytest.mark.parametrize("order", emulator.ORDERS)
def test_what_is_right_passes(order: str) -> None:
    assert (launched("handed_over", 0, order) == 1).all()
    assert np.isfinite(launched("products", 0, order)[:128]).all()
