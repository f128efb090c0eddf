"""Global memory that a run reads before it has written it: a fault, whatever an earlier run or program has left there."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import dslc
from dslc.backend_cuda import emulated
from dslc.backend_cuda.source import bundle
from dslc.compiler import compile_program
from dslc.core.executable import Executable
from dslc.runtime.drivers import emulator
from dslc.runtime.drivers.device import Buffer, PreparedLaunch
from dslc.runtime.drivers.device_program import DeviceProgram
from dslc.runtime.drivers.emulated_device import EmulatorDriver
from dslc.targets import TARGETS

pytestmark = pytest.mark.skipif(TARGETS["cuda-emulated:checked"].missing() is not None, reason="needs g++ and NVIDIA's headers")
SOURCE = r"""#include "device/async.cuh"
extern "C" __global__ void written(float* x, int count) {
    if (threadIdx.x < count) x[threadIdx.x] = (float)threadIdx.x;
}
extern "C" __global__ void turned(const float* x, float* y) {
    y[threadIdx.x] = x[63 - threadIdx.x];  // here
}
extern "C" __global__ void copied(const float* x, float* y) {
    __shared__ float tile[64];
    copy_async4(tile + threadIdx.x, x + threadIdx.x, true);  // here
    copy_async_commit();
    copy_async_wait<0>();
    y[threadIdx.x] = tile[threadIdx.x];
}
extern "C" __global__ void counted(const float* x, float* y) {
    atomicAdd(y, x[threadIdx.x]);
}
"""


@cache
def code() -> bytes:
    return emulated.build(bundle(SOURCE), checked=True)


class Machine:
    """x[64] and y[64], whose values belong to one run, and launches over them."""

    def __init__(self, order: str) -> None:
        self.driver = EmulatorDriver(order, seed=1)
        self.functions = self.driver.load(code(), ["written", "turned", "copied", "counted"])
        self.x, self.y = (self.driver.allocate(256) for _ in range(2))

    def launch(self, name: str, count: int = 64) -> PreparedLaunch:
        x, y = (Buffer(n, a, 256, w, fresh=True) for n, a, w in (("x", self.x, name == "written"), ("y", self.y, True)))
        values = (ctypes.c_uint64(self.x), ctypes.c_int32(count)) if name == "written" else (ctypes.c_uint64(self.x), ctypes.c_uint64(self.y))
        buffers = (x,) if name == "written" else (x, y)
        return PreparedLaunch(self.functions[name], (1, 1, 1), (64, 1, 1), 0, values, name, buffers)

    def run(self, *launches: PreparedLaunch) -> list[float]:
        self.driver.graph(launches)()
        found = np.empty(64, np.float32)
        self.driver.download(found, self.y)
        return found.tolist()


@pytest.mark.parametrize("order", emulator.ORDERS)
@pytest.mark.parametrize("name", ["turned", "copied"])
def test_a_read_of_what_nothing_has_written(name: str, order: str) -> None:
    """Not at all, in part, or in an earlier run alone."""
    machine = Machine(order)
    expected = list(range(63, -1, -1)) if name == "turned" else list(range(64))
    assert machine.run(machine.launch("written"), machine.launch(name)) == expected
    for launches in ([name], [name, "written"]):
        with pytest.raises(
            emulator.KernelFault, match=rf"{name}, kernels.cu:\d+.* a read of byte \d+ of x by thread \d+, which nothing has written"
        ) as e:
            machine.run(*map(machine.launch, launches))
        assert SOURCE.split("\n")[e.value.line - 1].endswith("// here")
    with pytest.raises(emulator.KernelFault, match=r"a read of byte 2[45]\d of x by thread \d+, which nothing has written in this run"):
        machine.run(machine.launch("written", 60), machine.launch(name))
    assert machine.run(machine.launch("written", 60), machine.launch("written"), machine.launch(name)) == expected


@pytest.mark.parametrize("order", emulator.ORDERS)
def test_a_sum_that_nobody_has_begun(order: str) -> None:
    machine = Machine(order)
    with pytest.raises(emulator.KernelFault, match=r"a read of byte 0 of y by thread \d+, which nothing has written in this run"):
        machine.run(machine.launch("written"), machine.launch("counted"))


MODEL = """model Chain:
    input   x[30, 70]
    input   z[70, 20]
    h[a] = sum[b](exp(x[a, b]))
    y[a, c] = sum[b](x[a, b] * z[b, c]) / h[a]
    output  y
"""


@cache
def chain() -> Executable:
    return compile_program(dslc.load(MODEL), "run", "cuda-emulated:checked")


@pytest.mark.parametrize("order", emulator.ORDERS)
def test_a_program_whose_launches_are_in_the_wrong_order(order: str) -> None:
    """The kernel and the model's line are named, in the first run and after one that was right."""
    made = chain()
    rng = np.random.default_rng(0)
    feed = {"x": rng.standard_normal((30, 70)).astype(np.float32), "z": rng.standard_normal((70, 20)).astype(np.float32)}
    expected = feed["x"] @ feed["z"] / np.exp(feed["x"]).sum(1, keepdims=True)
    program = DeviceProgram(made, EmulatorDriver(order, seed=1))
    for _ in range(2):
        np.testing.assert_allclose(program(feed)["y"], expected, rtol=1e-4, atol=1e-4)
    assert len(made.launches) >= 2
    with pytest.raises(emulator.KernelFault, match=r"\(<text>:\d.*which nothing has written in this run"):
        DeviceProgram(replace(made, launches=made.launches[::-1]), EmulatorDriver(order, seed=1))(feed)
