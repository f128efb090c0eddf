"""What every driver must do, on the emulator and on a GPU; and what only a GPU does: graphs, faults, tensor maps."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import numpy as np
import pytest

from dslc.core.errors import BudgetError, TargetError
from dslc.runtime.binding import padded
from dslc.runtime.drivers.device_program import copy_padded
from dslc.runtime.drivers.transfers import LEAST, MOST
from dslc.targets import TARGETS

from .devices import DRIVERS, Kernels, placed, prepared, run

PADDED = [((5,), (16,)), ((3, 7), (3, 32)), ((3, 7, 4), (8, 32, 4)), ((2, 3, 4, 5), (2, 7, 4, 9)), ((2, 3, 4), (5, 6, 7)), ((4, 6), (4, 6))]
NEEDS_EMULATOR = pytest.mark.skipif(TARGETS["cuda-emulated"].missing() is not None, reason="needs g++ and NVIDIA's headers")
PLAIN = Kernels(
    r"""
extern "C" __global__ void __launch_bounds__(256) scale(const float* x, float* y, int n, int factor) {
    const int p = blockIdx.x * 256 + threadIdx.x;
    if (p < n) y[p] = factor * x[p];
}
extern "C" __global__ void __launch_bounds__(256) rows(const float* x, float* y, int n) {
    extern __shared__ float tile[];
    for (int k = threadIdx.x; k < n; k += 256) tile[k] = x[blockIdx.x * n + k];
    __syncthreads();
    for (int k = threadIdx.x; k < n; k += 256) y[blockIdx.x * n + k] = tile[n - 1 - k];
}
""",
    ("scale", "rows"),
)


@pytest.fixture(
    params=[
        pytest.param("emulator", marks=NEEDS_EMULATOR),
        pytest.param("cuda", marks=pytest.mark.gpu),
        pytest.param("pycuda", marks=pytest.mark.gpu),
    ]
)
def driver(request):
    if request.param == "pycuda":
        pytest.importorskip("pycuda.driver")
    return DRIVERS[request.param]()


@pytest.mark.parametrize("count", [LEAST // 4 + 1, 5 * MOST // 4 + 3, 40 * MOST // 4])
def test_large_arrays_come_to_the_host(driver, count):
    """In chunks by way of pinned memory on a GPU, behind what was begun before; twice, for the buffers are used again."""
    x = np.random.default_rng(0).standard_normal(count, np.float32)
    first, second = placed(driver, x), driver.allocate(x.nbytes)
    for _ in range(2):
        found = np.empty_like(x)
        driver.copy(second, first, x.nbytes)
        driver.download(found, second)
        np.testing.assert_array_equal(found, x)
    for address in (first, second):
        driver.release(address)


def test_memory(driver):
    x = np.random.default_rng(0).standard_normal(10_001).astype(np.float32)
    first, second = placed(driver, x), driver.allocate(x.nbytes)
    assert first % 256 == second % 256 == 0
    driver.copy(second, first, x.nbytes)
    found = np.empty_like(x)
    driver.download(found, second)
    np.testing.assert_array_equal(found, x)
    for address in (first, second):
        driver.release(address)


def test_rows_of_memory(driver):
    """At pitches that are multiples of nothing."""
    x = np.random.default_rng(0).integers(0, 256, (37, 83)).astype(np.uint8)
    first, second = placed(driver, x), placed(driver, np.zeros((37, 101), np.uint8))
    driver.copy_rows(second + 5, 101, first + 2, 83, 61, 37)
    found = np.empty((37, 101), np.uint8)
    driver.download(found, second)
    np.testing.assert_array_equal(found, np.pad(x[:, 2:63], [(0, 0), (5, 35)]))
    for address in (first, second):
        driver.release(address)


@pytest.mark.parametrize("given, shape", PADDED)
def test_arrays_are_padded(driver, given, shape):
    x = np.random.default_rng(0).standard_normal(given).astype(np.float32)
    first, second = placed(driver, x), placed(driver, np.full(shape, np.nan, np.float32))
    copy_padded(driver, second, shape, first, given, 4)
    found = np.empty(shape, np.float32)
    driver.download(found, second)
    np.testing.assert_array_equal(found, padded(x, shape))
    for address in (first, second):
        driver.release(address)


def test_staging_and_marks(driver):
    buffer = driver.staging(1 << 20)
    target = driver.allocate(buffer.nbytes)
    first = driver.mark()
    for value in range(3):
        buffer[:] = value
        driver.upload(target, buffer)
        driver.wait(driver.mark())
    last = driver.mark()
    driver.wait(last)
    found = np.empty_like(buffer)
    driver.download(found, target)
    assert (found == 2).all() and 0 <= driver.elapsed(first, last) < 60
    driver.release(target)


def test_launch(driver):
    x = np.arange(1000, dtype=np.float32)
    _, y = run(driver, PLAIN, "scale", 4, 256, x, np.zeros_like(x), 1000, 3)
    np.testing.assert_array_equal(y, 3 * x)


@pytest.mark.parametrize("n", [100, 12_000, 40_000])
def test_dynamic_shared_memory_past_48_kilobytes(driver, n):
    """Twice: a function of code that is gone may have had the same handle."""
    x = np.arange(2 * n, dtype=np.float32).reshape(2, n)
    for _ in range(2):
        _, y = run(driver, PLAIN, "rows", 2, 256, x, np.zeros_like(x), n, shared=4 * n)
        np.testing.assert_array_equal(y, x[:, ::-1])


def test_launches_that_are_impossible(driver):
    function = PLAIN.functions(driver)["rows"]
    for block, shared in ((2048, 0), (256, 1 << 20)):
        with pytest.raises(TargetError, match="a test's kernel needs"):
            prepared(driver, function, 1, block, shared, 0, 0, ctypes.c_int32(0))


def test_all_launches_in_order(driver):
    x = np.arange(500, dtype=np.float32)
    a, b = placed(driver, x), driver.allocate(x.nbytes)
    function = PLAIN.functions(driver)["scale"]
    launches = [prepared(driver, function, 2, 256, 0, *pair, ctypes.c_int32(500), ctypes.c_int32(k)) for pair, k in (((a, b), 2), ((b, a), 5))]
    start = driver.graph(launches)
    for _ in range(3):
        start()
    found = np.empty_like(x)
    driver.download(found, a)
    np.testing.assert_array_equal(found, 1000 * x)
    for address in (a, b):
        driver.release(address)


@pytest.mark.gpu
def test_more_memory_than_there_is():
    with pytest.raises(BudgetError, match=r"needs 1,125,899,906,842,624 bytes, [\d,]+ of [\d,]+ are free"):
        DRIVERS["cuda"]().allocate(1 << 50)


FAULT = """
import ctypes, sys
from dslc.runtime.drivers.cuda import cuda_driver
from dslc.runtime.drivers.device import PreparedLaunch
from dslc.backend_cuda.nvrtc import build
driver = cuda_driver()
(cubin,) = build(['extern "C" __global__ void wild(float* y) { *(float*)8 = 1; }'], driver.arch)
launch = PreparedLaunch(driver.load(cubin.code, ["wild"])["wild"], (1, 1, 1), (1, 1, 1), 0, (ctypes.c_uint64(8),), "wild (m.dsl:7)")
try:
    driver.graph([launch])()
    driver.synchronize()
except Exception as error:
    print(error)
try:
    driver.allocate(1)
except Exception as error:
    print(error)
"""


@pytest.mark.gpu
@pytest.mark.parametrize("sync, named", [("0", "set DSLC_CUDA_SYNC=1"), ("1", "failed in wild (m.dsl:7): CUDA_ERROR_ILLEGAL_ADDRESS")])
def test_a_fault_is_named_and_the_device_stays_refused(sync, named, monkeypatch):
    """In a process of its own: a fault is the end of a context."""
    monkeypatch.setenv("DSLC_CUDA_SYNC", sync)
    done = subprocess.run([sys.executable, "-c", FAULT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and named in done.stdout and "failed before" in done.stdout, done.stdout + done.stderr


@pytest.mark.gpu
def test_torch_arrays_are_read_where_they_lie():
    """By DLPack, across streams, without a copy through the host."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    from dslc.runtime.drivers.device_arrays import device_array

    driver = DRIVERS["cuda"]()
    with torch.cuda.stream(torch.cuda.Stream()):
        for dtype, name in ((torch.float32, "float32"), (torch.bfloat16, "bfloat16"), (torch.int64, "int64")):
            value = torch.arange(4096, device="cuda").reshape(64, 64).to(dtype)
            found = device_array(value, "x", driver.stream_for_dlpack())
            assert found is not None and found.address == value.data_ptr() and str(found.dtype) == name and found.contiguous
            assert not device_array(value.T, "x", driver.stream_for_dlpack()).contiguous
            target, seen = driver.allocate(64 * 64 * value.element_size()), np.empty(64 * 64 * value.element_size(), np.uint8)
            driver.copy(target, found.address, seen.nbytes)
            driver.download(seen, target)
            assert seen.tobytes() == value.cpu().view(torch.uint8).numpy().tobytes()
            driver.release(target)
