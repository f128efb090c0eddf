"""tf32 on the GPU: what the copy engine rounds, and products of whole programs against the CPU, which rounds by itself."""

from __future__ import annotations

import numpy as np
import pytest

from dslc.core.dtypes import rounded_to_tf32
from dslc.core.executable import TensorMap
from dslc.runtime.drivers.device import packed_tensor_map
from dslc.targets import TARGETS

from .devices import DRIVERS, Kernels, placed, prepared

NEEDS_EMULATOR = pytest.mark.skipif(TARGETS["cuda-emulated"].missing() is not None, reason="needs g++ and NVIDIA's headers")
COPY = Kernels(
    r"""
#include "device/memory.cuh"
#include "device/tma.cuh"
extern "C" __global__ void copied(const __grid_constant__ TensorMap map, float* y) {
    extern __shared__ __align__(1024) unsigned char memory[];
    unsigned long long* const full = reinterpret_cast<unsigned long long*>(memory + 1024);
    if (threadIdx.x == 0) mbarrier_init(full, 1), mbarrier_fence();
    __syncthreads();
    if (threadIdx.x == 0) mbarrier_arrive_expect(full, 1024), copy_tile(memory, &map, full, 0, 0);
    mbarrier_wait(full, 0);
    for (int k = threadIdx.x; k < 256; k += 32) y[k] = reinterpret_cast<float*>(memory)[k];
}
""",
    ("copied",),
)
MODEL = """
model M:
    input x[512, 768], w[768, 640], v[640, 768]
    plain[i, j] = sum[k](x[i, k] * w[k, j])
    turned[i, j] = sum[k](x[i, k] * v[j, k])
    output plain, turned
train:
    optimizer sgd(lr=1.0)
    precision {precision}
"""


@pytest.mark.parametrize("device", [pytest.param("emulator", marks=NEEDS_EMULATOR), pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_copy_engine_rounds_to_the_nearest(device):
    """Ties to even, which NVIDIA does not say."""
    driver = DRIVERS[device]()
    if driver.arch not in ("sm_90a", "emulated"):
        pytest.skip("the copy engine is Hopper's")
    x = np.random.default_rng(0).standard_normal((8, 32)).astype(np.float32)
    x.view(np.uint32)[0, :8] = [0x3F801000, 0x3F803000, 0x3F800FFF, 0x3F801001, 0xBF801000, 0xBF800FFF, 0x40490FDB, 0x3FFFF001]
    y = np.zeros((8, 32), np.float32)
    source, target = placed(driver, x), placed(driver, y)
    described = TensorMap(("offset", 0), "tf32", (32, 8), (128,), (32, 8))
    parameter = packed_tensor_map(driver.tensor_map(described, source))
    driver.launch(prepared(driver, COPY.functions(driver)["copied"], 1, 32, 2048, parameter, target))
    driver.download(y, target)
    bits = x.view(np.uint32)
    tie = (bits & 0x1FFF) == 0x1000
    even = (bits + 0xFFF + (bits >> 13 & 1) & 0xFFFFE000).astype(np.uint32).view(np.float32)
    assert 0 < (even[tie] != rounded_to_tf32(x)[tie]).sum() < tie.sum()
    np.testing.assert_array_equal(y, np.where(tie, even, rounded_to_tf32(x)))


@pytest.mark.gpu
def test_products_are_those_of_the_cpu():
    """By wgmma or mma.sync, whichever the cost rule takes. Sums of 768 terms of size 1, which rounding moves by 8e-3: factors that were cut would
    be 2e-2 off, ties that go the other way (one of 8192 factors) add 2e-4."""
    pytest.importorskip("torch_mlir")
    import dslc

    random = np.random.default_rng(1)
    given = {name: random.standard_normal(shape).astype(np.float32) for name, shape in (("x", (512, 768)), ("w", (768, 640)), ("v", (640, 768)))}
    found, wanted, exact = (
        dslc.compile(dslc.load(MODEL.format(precision=precision)), target=target)(**given)
        for target, precision in (("cuda", "tf32"), ("cpu", "tf32"), ("cpu", "float32"))
    )
    for name in ("plain", "turned"):
        assert np.sqrt(np.mean((found[name] - wanted[name]) ** 2)) < 1e-3
        assert np.sqrt(np.mean((found[name] - exact[name]) ** 2)) > 4e-3
