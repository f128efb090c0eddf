"""Launches that overlap: every kernel allows the next to start at once, and itself waits for those before."""

from __future__ import annotations

import ctypes
from itertools import pairwise

import numpy as np
import pytest

from dslc.backend_cuda import nvrtc
from dslc.runtime.drivers.cuda import cuda_driver
from dslc.targets import TARGETS

from .devices import DRIVERS, Kernels, placed, prepared

NEEDS_EMULATOR = pytest.mark.skipif(TARGETS["cuda-emulated"].missing() is not None, reason="needs g++ and NVIDIA's headers")
BLOCKS, LAUNCHES = 40, 70  # all blocks of several launches fit a GPU at once; several graphs
STEP = Kernels(
    r"""
#include "device/launch.cuh"
// Reads what another block of the launch before has written, late, and writes where a block of it may still read.
extern "C" __global__ void __launch_bounds__(256) next(const float* x, float* y, int work) {
    let_next_launch_start();
    prefetch(x + threadIdx.x);
    wait_for_launches_before();
    const int p = blockIdx.x * 256 + threadIdx.x, n = gridDim.x * 256;
    float late = 0.0f;
    for (int k = 0; k < (int)(blockIdx.x % 5) * work; ++k) late = late * 0.5f + 1.0f;
    y[p] = x[(p + 7 * 256 + 3) % n] + (late > 4.0f ? 2.0f : 1.0f);
}
""",
    ("next",),
)
# Tells when a launch begins, and when its work, of `length` nanoseconds, has ended.
STAMPED = Kernels(
    r"""
#include "device/launch.cuh"
__device__ __forceinline__ unsigned long long nanoseconds() {
    unsigned long long time;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(time));
    return time;
}
extern "C" __global__ void __launch_bounds__(32) stamped(unsigned long long* stamps, int length) {
    const unsigned long long began = nanoseconds();
    let_next_launch_start();
    wait_for_launches_before();
    const unsigned long long from = nanoseconds();
    while (nanoseconds() - from < (unsigned)length) {}
    if (threadIdx.x == 0) stamps[0] = began, stamps[1] = nanoseconds();
}
""",
    ("stamped",),
)
LENGTH = 100_000  # the clock may go on in steps of a thousand
WORK = {"emulator": 3, "cuda": 3000, "pycuda": 3000}


@pytest.mark.parametrize("device", [pytest.param("emulator", marks=NEEDS_EMULATOR), pytest.param("cuda", marks=pytest.mark.gpu)])
def test_each_launch_sees_what_those_before_have_written(device):
    """A permutation and a number more each turn, back and forth between two buffers."""
    driver = DRIVERS[device]()
    n = BLOCKS * 256
    x = np.random.default_rng(0).integers(0, 100, n).astype(np.float32)
    a, b = placed(driver, x), placed(driver, np.full(n, np.nan, np.float32))
    function = STEP.functions(driver)["next"]
    launches = [
        prepared(driver, function, BLOCKS, 256, 0, *((a, b) if k % 2 == 0 else (b, a)), ctypes.c_int32(WORK[device]), waits=True)
        for k in range(LAUNCHES)
    ]
    start = driver.graph(launches)
    for _ in range(3):
        start()
    found = np.empty(n, np.float32)
    driver.download(found, a)
    np.testing.assert_array_equal(found, np.roll(x, -(7 * 256 + 3) * 3 * LAUNCHES) + 3 * LAUNCHES)
    for address in (a, b):
        driver.release(address)


@pytest.mark.gpu
def test_programs_give_the_same_bits_one_launch_after_the_other(monkeypatch):
    """A training step of attention, normalization and products in bfloat16, of some dozens of launches: overlapping, and not."""
    pytest.importorskip("torch_mlir")
    import dslc

    from .test_models import BLOCK

    rng = np.random.default_rng(0)
    given = {"x": rng.standard_normal((4, 256, 128)).astype(np.float32), "y": rng.integers(0, 64, (4, 256)).astype(np.int32)}
    driver, found = cuda_driver(), []
    if not driver._overlap:
        pytest.skip("launches do not overlap on this device, or with this driver")
    for overlap in (True, False):
        monkeypatch.setattr(driver, "_overlap", overlap)
        model = dslc.load(BLOCK, precision="bfloat16")
        trainer = dslc.Trainer(model, target="cuda")
        losses = [trainer.step(**given) for _ in range(5)]
        found.append((losses, {k: np.array(v) for k, v in model.params.items()}))
    assert found[0][0] == found[1][0]
    for path, value in found[0][1].items():
        np.testing.assert_array_equal(value, found[1][1][path], err_msg=path)


DECODER = """model Decoder:
    dims    batch=1, time=512
    input   tokens[batch, time]: int32
    table = use embedding(40000, 256)
    x = table(tokens) + positions(time, 256)
    repeat 3:
        x = x + self_attention(layernorm(x), 4, causal=true)
        x = x + mlp(layernorm(x), 1024)
    logits[b, t, v] = sum[d](layernorm(x)[b, t, d] * table.table[v, d])
    output  logits
"""


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_decoder_gives_the_same_bits_one_launch_after_the_other(monkeypatch, precision):
    """Matrices and numbers are loaded before the launches before have ended; the device goes on by itself with its tokens."""
    pytest.importorskip("torch_mlir")
    import dslc
    from dslc.compiled import decoder_of
    from dslc.runtime.generation import generate
    from dslc.runtime.sampling import Sampling

    driver, found = cuda_driver(), []
    model = dslc.load(DECODER, precision=precision)
    for overlap in (True, False):
        monkeypatch.setattr(driver, "_overlap", overlap and driver._overlap)
        decoder = decoder_of(model, "cuda")
        tokens = generate(decoder, [[7, 19, 3]], 60, Sampling("greedy"))[0]
        found.append((tokens, decoder.logits([[7, 19, 3, *tokens]]).tobytes()))
    assert found[0] == found[1]
    if precision == "float32":
        assert found[0][0] == generate(decoder_of(model, "cpu"), [[7, 19, 3]], 60, Sampling("greedy"))[0]


def _begins_and_ends(driver) -> list[list[int]]:
    """Of launches behind each other, by the GPU's clock."""
    function = STAMPED.functions(driver)["stamped"]
    stamps = np.zeros((3, 2), np.uint64)
    place = placed(driver, stamps)
    start = driver.graph([
        prepared(driver, function, 1, 32, 0, place + k * stamps.strides[0], ctypes.c_int32(LENGTH), waits=True) for k in range(len(stamps))
    ])  # fmt: skip
    for _ in range(2):  # what a first start must still load takes time
        start()
    driver.download(stamps, place)
    driver.release(place)
    return stamps.astype(np.int64).tolist()


@pytest.mark.gpu
def test_graphs_of_this_driver_overlap(monkeypatch):
    """A launch begins while the one before runs, and its work begins when that has ended; without overlap it begins then. On Hopper; a driver older
    than 12.3 is told, not failed."""
    driver = cuda_driver()
    if not driver.arch.startswith("sm_9"):
        pytest.skip("Hopper alone can do it")
    overlapping = _begins_and_ends(driver)
    if not driver._overlap:
        pytest.skip("the driver refuses them")
    monkeypatch.setattr(driver, "_overlap", False)
    apart = _begins_and_ends(driver)
    for (_, ended), (began, then) in pairwise(overlapping):
        assert began < ended - LENGTH // 2, "it began when the launch before it had ended"
        assert then >= ended + LENGTH, "it did not wait for the launch before it"
    for (_, ended), (began, then) in pairwise(apart):
        assert ended <= began <= then - LENGTH


@pytest.mark.skipif(nvrtc.missing() is not None, reason="needs NVRTC and NVIDIA's headers")
@pytest.mark.parametrize("kernels", [STEP, STAMPED], ids=["a step", "stamps"])
def test_it_compiles_for_hopper(kernels):
    from dslc.backend_cuda.source import bundle

    (cubin,) = nvrtc.build([bundle(kernels.text)], "sm_90a")
    assert all(symbol.encode() in cubin.code for symbol in kernels.symbols)
