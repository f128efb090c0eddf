"""The checks of every access: what is planted is found at its line, in every order of the threads, and what is right passes."""

from __future__ import annotations

import ctypes
import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import dslc
from dslc.backend_cuda import emulated
from dslc.backend_cuda.source import bundle
from dslc.compiler import compile_program
from dslc.core.executable import TensorMap, from_bytes, pack_modules, to_bytes, unpack_modules
from dslc.runtime.drivers import emulator
from dslc.runtime.drivers.device import Buffer, packed_tensor_map
from dslc.runtime.drivers.device_program import DeviceProgram
from dslc.runtime.drivers.emulated_device import EmulatorDriver
from dslc.targets import TARGETS

pytestmark = pytest.mark.skipif(TARGETS["cuda-emulated:checked"].missing() is not None, reason="needs g++ and NVIDIA's headers")
SOURCE = r"""#include "device/async.cuh"
#include "device/tma.cuh"
#include "device/memory.cuh"
#include "device/launch.cuh"
extern "C" __global__ void turned(const float* x, float* y, int fault) {
    __shared__ float tile[64];
    tile[threadIdx.x] = x[threadIdx.x];  // here
    if (!fault) __syncthreads();
    y[threadIdx.x] = tile[63 - threadIdx.x];  // here
}
extern "C" __global__ void reused(const float* x, float* y, int fault) {
    extern __shared__ float tile[];
    for (int k = 0; k < 2; ++k) {
        tile[threadIdx.x] = x[64 * k + threadIdx.x];  // here
        __syncthreads();
        y[64 * k + threadIdx.x] = tile[63 - threadIdx.x];  // here
        if (!fault) __syncthreads();
    }
}
extern "C" __global__ void neighbours(const float* x, float* y, int fault) {
    __shared__ unsigned short tile[64];
    tile[threadIdx.x] = (unsigned short)x[threadIdx.x];  // here
    if (!fault) __syncwarp();
    y[threadIdx.x] = tile[threadIdx.x ^ 1];  // here
}
extern "C" __global__ void counted(const float* x, float* y, int fault) {
    __shared__ int count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    if (!fault) atomicAdd(&count, 1);
    else count = count + 1;  // here
    __syncthreads();
    y[threadIdx.x] = (float)count;
}
extern "C" __global__ void in_memory(const float* x, float* y, int fault) {
    y[threadIdx.x] = x[threadIdx.x];  // here
    if (!fault) __syncthreads();
    y[64 + threadIdx.x] = y[63 - threadIdx.x] + 1.0f;  // here
}
extern "C" __global__ void of_blocks(const float* x, float* y, int fault) {
    y[(fault ? 0 : 64 * blockIdx.x) + threadIdx.x] = x[threadIdx.x];  // here
}
extern "C" __global__ void copied(const float* x, float* y, int fault) {
    __shared__ float tile[64];
    copy_async4(tile + threadIdx.x, x + threadIdx.x, true);  // here
    copy_async_commit();
    copy_async_wait<0>();
    if (!fault) __syncthreads();
    y[threadIdx.x] = tile[63 - threadIdx.x];  // here
}
extern "C" __global__ void read_early(const float* x, float* y, int fault) {
    __shared__ float tile[64];
    copy_async4(tile + threadIdx.x, x + threadIdx.x, true);  // here
    copy_async_commit();
    if (!fault) copy_async_wait<0>();
    y[threadIdx.x] = tile[threadIdx.x];  // here
}
extern "C" __global__ void given_back_early(const float* x, float* y, int fault) {
    __shared__ float tile[64];
    for (int k = 0; k < 2; ++k) {
        copy_async4(tile + threadIdx.x, x + 64 * k + threadIdx.x, true);  // here
        copy_async_commit();
        copy_async_wait<0>();
        __syncthreads();
        y[64 * k + threadIdx.x] = tile[63 - threadIdx.x];  // here
        if (!fault) __syncthreads();
    }
}
extern "C" __global__ void tile_read_early(const __grid_constant__ TensorMap map, float* y, int fault) {
    extern __shared__ __align__(1024) float tile[];
    __shared__ unsigned long long full;
    if (threadIdx.x == 0) { mbarrier_init(&full, 1); mbarrier_fence(); }
    __syncthreads();
    if (threadIdx.x == 0) { mbarrier_arrive_expect(&full, 256); copy_tile(tile, &map, &full, 0, 0); }  // here
    if (!fault) mbarrier_wait(&full, 0);
    y[threadIdx.x] = tile[threadIdx.x];  // here
}
extern "C" __global__ void unwritten(const float* x, float* y, int fault) {
    __shared__ float tile[64];
    if (!fault || threadIdx.x < 60) tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = tile[63 - threadIdx.x];  // here
}
extern "C" __global__ void swizzled(const float* x, float* y, int fault) {
    __shared__ float tile[8 * 16];
    const int row = threadIdx.x / 8, column = threadIdx.x % 8;
    tile[row * 16 + (column ^ row)] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = tile[row * 16 + (column ^ (row + 4 * fault))];  // here
}
extern "C" __global__ void read_behind(const float* x, float* y, int fault) {
    y[threadIdx.x] = x[128 - 64 + fault + threadIdx.x];  // here
}
extern "C" __global__ void chunk_behind(const float* x, float* y, int fault) {
    float values[4];
    if (threadIdx.x < 16) {
        load<4>(x + 64 + 4 * (threadIdx.x + fault), values);  // here
        store<4>(y + 4 * threadIdx.x, values);
    }
}
extern "C" __global__ void between_chunks(const float* x, float* y, int fault) {
    float values[4];
    if (threadIdx.x < 16) {
        load<4>(x + 4 * threadIdx.x + fault, values);  // here
        store<4>(y + 4 * threadIdx.x, values);
    }
}
extern "C" __global__ void chunk_between(const float* x, float* y, int fault) {
    const uint2 chunk = load_packed<2>(x + threadIdx.x / 2 * 2);
    float values[2];
    unpack<float>(chunk, values);
    if (threadIdx.x % 2) return;
    store<2>(y + threadIdx.x + fault, values);  // here
}
extern "C" __global__ void packed_between(const float* x, float* y, int fault) {
    const uint4 chunk = load_packed<4>(x + threadIdx.x / 4 * 4 + 2 * fault);  // here
    float values[4];
    unpack<float>(chunk, values);
    y[threadIdx.x] = values[0];
}
extern "C" __global__ void pairs_of_shared(const float* x, float* y, int fault) {
    __shared__ __align__(16) float tile[66];
    tile[threadIdx.x] = x[threadIdx.x];
    if (threadIdx.x < 2) tile[64 + threadIdx.x] = 0.0f;
    __syncthreads();
    const double both = *reinterpret_cast<const double*>(tile + threadIdx.x / 2 * 2 + fault);  // here
    y[threadIdx.x] = __int_as_float((int)__double_as_longlong(both));
}
extern "C" __global__ void written_before(const float* x, float* y, int fault) {
    y[(int)threadIdx.x - fault] = x[threadIdx.x];  // here
}
extern "C" __global__ void stored_to_operand(const float* x, float* y, int fault) {
    float* to = fault ? (float*)x : y;
    to[threadIdx.x] = 1.0f;  // here
}
extern "C" __global__ void behind_shared(const float* x, float* y, int fault) {
    extern __shared__ float tile[];
    tile[threadIdx.x + fault] = x[threadIdx.x];  // here
    y[threadIdx.x] = tile[threadIdx.x + fault];
}
extern "C" __global__ void behind_first(const float* x, float* y, int fault) {
    __shared__ float first[64], second[64];
    second[threadIdx.x] = 0.0f;
    first[threadIdx.x + fault] = x[threadIdx.x];  // here
    __syncthreads();
    y[threadIdx.x] = first[63 - threadIdx.x + fault] + second[threadIdx.x];
}
extern "C" __global__ void before_rows(const float* x, float* y, int fault) {
    __shared__ __align__(16) float first[2][32];
    __shared__ float second[2][32];
    second[threadIdx.x / 32][threadIdx.x % 32] = x[threadIdx.x];
    first[threadIdx.x / 32][threadIdx.x % 32] = 1.0f;
    __syncthreads();
    const float* row = second[threadIdx.x / 32] - 64 * fault;
    y[threadIdx.x] = row[threadIdx.x % 32];  // here
}
extern "C" __global__ void of_another_kernel(const float* x, float* y, int fault) {
    __shared__ int count;
    int* place = &count + fault;
    if (threadIdx.x == 0) *place = 5;  // here
    __syncthreads();
    y[threadIdx.x] = count;
}
extern "C" __global__ void at_no_address(const float* x, float* y, int fault) {
    const float* from = fault ? (const float*)16 : x;
    y[threadIdx.x] = from[threadIdx.x];  // here
}
extern "C" __global__ void too_early(const float* x, float* y, int fault) {
    let_next_launch_start();
    float first = 0.0f;
    if (fault) first = x[threadIdx.x];  // here
    prefetch(x + threadIdx.x);
    wait_for_launches_before();  // here
    y[threadIdx.x] = first + x[threadIdx.x];
}
extern "C" __global__ void asked_outside(const float* x, float* y, int fault) {
    prefetch(x + threadIdx.x + (fault ? 1 << 20 : 0));  // here
    wait_for_launches_before();
    y[threadIdx.x] = x[threadIdx.x];
}
"""
# What is said of each; the lines of the access, and of the earlier one where two meet, are marked.
FAULTS = {
    "turned": r"race on byte \d+ of shared memory: .* no barrier between",
    "reused": r"race on byte \d+ of shared memory",
    "neighbours": r"race on byte \d+ of shared memory",
    "counted": r"race on byte \d+ of shared memory",
    "in_memory": r"race on byte \d+ of y: .* no barrier between",
    "of_blocks": r"race on byte \d+ of y: a write by thread \d+ of block \(\d, 0, 0\) and .* blocks have no order",
    "copied": r"race on byte \d+ of shared memory|a copy there that thread \d+ issued",
    "read_early": r"a read of byte \d+ of shared memory by thread (\d+) while the copy there that thread \1 issued is under way",
    "given_back_early": r"race on byte \d+ of shared memory|while the copy there",
    "tile_read_early": r"while the copy there that thread 0 issued|a copy there by thread 0",
    "unwritten": r"a read of byte \d+ of shared memory by thread \d+, which nobody had written",
    "swizzled": r"a read of byte \d+ of shared memory by thread \d+, which nobody had written",
    "read_behind": r"out of bounds: a read of 4 bytes at byte 512 of x, which has 512 bytes",
    "chunk_behind": r"out of bounds: a read of \d+ bytes at byte 512 of x, which has 512 bytes",
    "between_chunks": r"misaligned: an access of 16 bytes by thread \d+ at an address \(byte \d+ of x\) that is no multiple of its size",
    "chunk_between": r"misaligned: an access of 8 bytes by thread \d+ at an address \(byte \d+ of y\)",
    "packed_between": r"misaligned: an access of 16 bytes by thread \d+ at an address \(byte \d+ of x\)",
    "pairs_of_shared": r"misaligned: an access of 8 bytes by thread \d+ at an address \(shared memory\)",
    "written_before": r"out of bounds: a write of 4 bytes at byte -4 of y, which has 512 bytes",
    "stored_to_operand": r"a write to x, which this kernel may only read",
    "behind_shared": r"out of bounds: a write of 4 bytes at byte 256 of dynamic shared memory, which has 256 bytes",
    "behind_first": r"out of bounds: a write of 4 bytes at byte 256 of first, which has 256 bytes",
    "before_rows": r"out of bounds: a read of 4 bytes at byte (-\d+ of second|\d\d\d of first), which has 256 bytes",
    "of_another_kernel": r"out of bounds: a write of 4 bytes at byte 4 of count, which has 4 bytes",
    "at_no_address": r"out of bounds: a read of 4 bytes at an address that lies in none of the kernel's buffers",
    "too_early": r"a wait for the launches before, behind an access of thread \d+ .*to global memory",
    "asked_outside": r"out of bounds: a read of 1 bytes at (byte \d+ of .*, which has|an address that lies in none)",
}


@cache
def code() -> bytes:
    return emulated.build(bundle(SOURCE), checked=True)


def launched(name: str, fault: int, order: str, grid: int = 1, steady: bool = False) -> np.ndarray:
    """y[128] of a kernel with 64 threads a block, given x[128] = 0, 1, ... that lies right before y."""
    memory = np.zeros(256 + 64, np.float32)
    memory = memory[-memory.ctypes.data % 256 // 4 :]
    x, y = memory[:128], memory[128:256]
    x[:] = np.arange(128)
    buffers = [Buffer("x", x.ctypes.data, x.nbytes, False, steady=steady), Buffer("y", y.ctypes.data, y.nbytes, True)]
    first = ctypes.c_void_p(x.ctypes.data)
    if name == "tile_read_early":
        described = TensorMap(("slot", 0), "float32", (8, 8), (32,), (8, 8))
        first = packed_tensor_map(EmulatorDriver().tensor_map(described, x.ctypes.data))
    params = [first, ctypes.c_void_p(y.ctypes.data), ctypes.c_int32(fault)]
    emulator.load(code(), order=order, seed=2).launch(name, (grid,), (64,), 256, params, buffers)
    return y


def marked(name: str) -> set[int]:
    """The marked lines of a kernel."""
    start = SOURCE.index(f"void {name}(")
    first, text = SOURCE.count("\n", 0, start) + 1, SOURCE[start:].split("\nextern")[0]
    return {k for k, line in enumerate(text.split("\n"), first) if line.endswith("// here")}


@pytest.mark.parametrize("order", emulator.ORDERS)
@pytest.mark.parametrize("name", FAULTS)
def test_what_is_planted_is_found_at_its_lines(name: str, order: str) -> None:
    """In any order of the threads, though values may be right in some."""
    with pytest.raises(emulator.KernelFault, match=FAULTS[name]) as caught:
        launched(name, 1, order, grid=2 if name == "of_blocks" else 1)
    assert (caught.value.kernel, caught.value.file) == (name, "kernels.cu")
    earlier = re.search(r"earlier access is at kernels.cu:(\d+)", "\n".join(caught.value.notes))
    assert {caught.value.line} | ({int(earlier[1])} if earlier else set()) == marked(name)


@pytest.mark.parametrize("order", emulator.ORDERS)
def test_what_is_right_passes(order: str) -> None:
    up, down = list(range(64)), list(range(63, -1, -1))
    expected = {
        "turned": down, "reused": down, "neighbours": [k ^ 1 for k in up], "counted": [64] * 64, "in_memory": up, "of_blocks": up, "copied": down,
        "read_early": up, "given_back_early": down, "tile_read_early": up, "unwritten": down, "swizzled": up, "read_behind": [k + 64 for k in up],
        "chunk_behind": [k + 64 for k in up], "between_chunks": up, "chunk_between": up, "packed_between": [k // 4 * 4 for k in up],
        "pairs_of_shared": [k // 2 * 2 for k in up], "written_before": up, "stored_to_operand": [1] * 64, "behind_shared": up, "behind_first": down,
        "before_rows": up, "of_another_kernel": [5] * 64, "at_no_address": up, "too_early": up, "asked_outside": up,
    }  # fmt: skip
    assert expected.keys() == FAULTS.keys()
    for name, values in expected.items():
        assert launched(name, 0, order)[:64].tolist() == values, name
    assert launched("reused", 0, order)[64:].tolist() == list(range(127, 63, -1))
    assert launched("of_blocks", 0, order, grid=2)[64:].tolist() == up


def test_what_no_launch_writes_may_be_read_before_the_wait() -> None:
    assert launched("too_early", 1, "forward", steady=True)[:64].tolist() == list(range(0, 128, 2))


MODEL = """model Scaled:
    input   x[30, 7]
    input   z[30]
    h[a, b] = 2 * x[a, b] + z[a]
    output  h
"""


def test_a_programs_fault_names_the_models_line() -> None:
    """A kernel that reads one place too far, as the executable that is stored has it."""
    made = from_bytes(to_bytes(compile_program(dslc.load(MODEL), "run", "cuda-emulated:checked")))
    feed = {"x": np.arange(210, dtype=np.float32).reshape(30, 7), "z": np.arange(30, dtype=np.float32)}
    np.testing.assert_array_equal(DeviceProgram(made, EmulatorDriver())(feed)["h"], 2 * feed["x"] + feed["z"][:, None])
    assert "a1[i1]" in made.source
    wrong = made.source.replace("a1[i1]", "a1[i1 + 1]")
    (module,) = unpack_modules(made.code)
    code = emulated.build(bundle(wrong), checked=True)
    with pytest.raises(emulator.KernelFault, match="out of bounds: a read of 4 bytes at byte 120 of a1, which has 120 bytes") as caught:
        DeviceProgram(replace(made, code=pack_modules([replace(module, code=code)])), EmulatorDriver())(feed)
    assert str(caught.value).startswith("kernel fault: k00_map_mul_add (<text>:4), kernels.cu:")
    assert "a1[i1 + 1]" in wrong.split("\n")[caught.value.line - 1]
