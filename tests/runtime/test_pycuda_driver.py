"""The pycuda driver over a stand-in for pycuda: what it calls, how parameters are packed, what its errors become."""

from __future__ import annotations

import ctypes
import struct
import sys
import types
from types import SimpleNamespace

import numpy as np
import pytest

from dslc.core import dtypes
from dslc.core.errors import BudgetError, TargetError
from dslc.core.executable import Executable, Kernel, Launch, Module, Port, pack_modules
from dslc.runtime.drivers import pycuda as ours
from dslc.runtime.drivers.choice import gpu_driver
from dslc.runtime.drivers.device import PreparedLaunch
from dslc.runtime.drivers.device_program import DeviceProgram
from dslc.runtime.store import ParameterStore

CAPACITY = 1 << 20


class Error(Exception): ...


class OutOfMemory(Error): ...


class LaunchError(Error): ...


class Memory:
    def __init__(self, size: int):
        if size > CAPACITY:
            raise OutOfMemory("cuMemAlloc failed: out of memory")
        self.raw = np.zeros(size + 256, np.uint8)
        self.address = self.raw.ctypes.data + -self.raw.ctypes.data % 256

    def __int__(self) -> int:
        return self.address

    def free(self) -> None:
        LOG.append("free")


class Kernel_:
    """`scaled(x, y, n)`: y = 2 x; `fault()` breaks the context; `wide(m, p)` logs its parameters."""

    def __init__(self, name: str):
        self.name, self.shared = name, 48 << 10

    def get_attribute(self, which: str) -> int:
        return {"threads": 1024, "static": 0, "dynamic": self.shared}[which]

    def set_attribute(self, which: str, value: int) -> None:
        self.shared = value

    def prepare(self, formats: list[str]) -> None:
        self.formats = formats

    def prepared_async_call(self, grid, block, stream, *arguments, shared_size=0) -> None:
        buffer = struct.pack("".join(self.formats), *arguments)
        LOG.append((self.name, grid, block, shared_size, buffer))
        if self.name == "fault":
            raise LaunchError("cuLaunchKernel failed: unspecified launch failure")
        if self.name == "scaled":
            x, y, n = struct.unpack("PPi", buffer)
            source, target = ((ctypes.c_float * n).from_address(a) for a in (x, y))
            target[:] = [2 * v for v in source]


class Memcpy2D:
    def set_src_device(self, address: int) -> None:
        self.source = address

    def set_dst_device(self, address: int) -> None:
        self.target = address

    def __call__(self, stream) -> None:
        assert isinstance(stream, Stream)
        for k in range(self.height):
            ctypes.memmove(self.target + k * self.dst_pitch, self.source + k * self.src_pitch, self.width_in_bytes)


class Context:
    current = None
    depth = 0

    @staticmethod
    def get_current():
        return Context.current

    @staticmethod
    def get_device():
        return Device(0)

    @staticmethod
    def synchronize() -> None: ...

    def push(self) -> None:
        Context.depth += 1

    @staticmethod
    def pop() -> None:
        Context.depth -= 1


class Device:
    def __init__(self, ordinal: int):
        self.ordinal = ordinal

    @staticmethod
    def count() -> int:
        return 1

    def __eq__(self, other) -> bool:
        return self.ordinal == other.ordinal

    def name(self) -> str:
        return "Stand-in"

    def compute_capability(self):
        return (9, 0)

    def get_attribute(self, which) -> int:
        return 227 << 10

    def retain_primary_context(self):
        LOG.append("primary")
        return Context()


class Stream:
    handle = 7

    def __init__(self, flags: int):
        LOG.append(("stream", flags))

    def synchronize(self) -> None: ...


LOG: list = []


@pytest.fixture
def driver(monkeypatch):
    api = types.ModuleType("pycuda.driver")
    move = ctypes.memmove
    api.__dict__.update(
        Error=Error, MemoryError=OutOfMemory, LaunchError=LaunchError, Context=Context, Device=Device, Stream=Stream, init=lambda: None,
        mem_alloc=Memory, mem_get_info=lambda: (CAPACITY, CAPACITY), pagelocked_empty=np.empty,
        memcpy_htod_async=lambda at, array, stream: move(at, array.ctypes.data, array.nbytes),
        memcpy_dtoh_async=lambda array, at, stream: move(array.ctypes.data, at, array.nbytes),
        Memcpy2D=Memcpy2D,
        memcpy_dtod_async=lambda to, at, size, stream: move(to, at, size),
        module_from_buffer=lambda code: SimpleNamespace(get_function=Kernel_),
        device_attribute=SimpleNamespace(MAX_SHARED_MEMORY_PER_BLOCK_OPTIN=0),
        function_attribute=SimpleNamespace(MAX_THREADS_PER_BLOCK="threads", SHARED_SIZE_BYTES="static", MAX_DYNAMIC_SHARED_SIZE_BYTES="dynamic"),
        Event=lambda: SimpleNamespace(record=lambda s: None, synchronize=lambda: None, time_till=lambda other: 2.5),
    )  # fmt: skip
    package = types.ModuleType("pycuda")
    package.driver = api
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", api)
    LOG.clear()
    Context.current, Context.depth = None, 0
    yield ours.PycudaDriver()
    assert Context.depth == 0


def executable(*symbols: str) -> Executable:
    ports = (Port("x", "param", dtypes.FLOAT32, (6,), 0), Port("y", "output", dtypes.FLOAT32, (6,), 1))
    operands = {"scaled": (("slot", 0), ("slot", 1), ("value", 6)), "fault": ()}
    kernels = tuple(Kernel(s, "map", (f"m.dsl:{k + 1}",), symbol=s) for k, s in enumerate(symbols))
    launches = tuple(Launch(k, operands[s], (k + 2, 1, 1), (64, 1, 1), 1 << 16) for k, s in enumerate(symbols))
    return Executable(
        "cuda:sm_90a", "run", "m", "s", ports, kernels, launches, 100, 0, b"", pack_modules([Module(symbols, b"")]), notes={"writes": ""}
    )


def test_a_program_runs(driver):
    program = DeviceProgram(executable("scaled", "scaled"), driver)
    store = ParameterStore(program.executable.ports)
    store["x"] = np.arange(6, dtype=np.float32)
    program.bind(store)
    np.testing.assert_array_equal(program({})["y"], 2 * np.arange(6))
    launched = [entry[:4] for entry in LOG if entry[0] == "scaled"]
    assert launched == [("scaled", (2, 1, 1), (64, 1, 1), 1 << 16), ("scaled", (3, 1, 1), (64, 1, 1), 1 << 16)]
    assert LOG[0] == "primary" and ("stream", 1) in LOG
    assert 0 < program.times(2)[0] < 1


def test_rows_are_copied(driver):
    x, seen = np.arange(20, dtype=np.float32), np.zeros(20, np.float32)
    source, target = driver.allocate(80), driver.allocate(80)
    driver.upload(source, x)
    driver.upload(target, seen)
    driver.copy_rows(target + 4, 20, source, 12, 8, 4)
    driver.download(seen, target)
    np.testing.assert_array_equal(seen.reshape(4, 5), np.pad(x[:12].reshape(4, 3)[:, :2], [(0, 0), (1, 2)]))


def test_a_context_that_is_current_is_used(driver):
    LOG.clear()
    Context.current = Context()
    assert ours.PycudaDriver().arch == "sm_90a" and "primary" not in LOG


def test_parameters_lie_at_multiples_of_their_size():
    buffer = ours.packed_parameters([ctypes.c_int32(5), ctypes.c_uint64(9), (ctypes.c_uint8 * 128)(*range(128)), ctypes.c_int32(6)])
    assert len(buffer) == 64 + 128 + 4 and struct.unpack_from("i4xQ", buffer) == (5, 9)
    assert buffer[64:192] == bytes(range(128)) and buffer[192:] == struct.pack("i", 6)


def test_memory_that_does_not_suffice(driver):
    with pytest.raises(BudgetError, match="needs 1,099,511,627,776 bytes, 1,048,576 of 1,048,576 are free on Stand-in"):
        driver.allocate(1 << 40)
    address = driver.allocate(100)
    assert address % 256 == 0
    driver.release(address)
    driver.synchronize()
    assert LOG.count("free") == 1


def test_a_fault_is_named_and_the_device_stays_refused(driver):
    function = driver.load(b"", ["fault"])["fault"]
    with pytest.raises(TargetError, match=r"failed in wild \(m.dsl:7\): cuLaunchKernel failed"):
        driver.launch(PreparedLaunch(function, (1, 1, 1), (1, 1, 1), 0, (), "wild (m.dsl:7)"))
    with pytest.raises(TargetError, match="failed before"):
        driver.allocate(1)


def test_launches_that_are_impossible(driver):
    function = driver.load(b"", ["scaled"])["scaled"]
    for block, shared, said in ((2048, 0, "2048 threads"), (256, 1 << 20, "1,048,576 bytes of shared memory")):
        with pytest.raises(TargetError, match=said):
            driver.check(PreparedLaunch(function, (1, 1, 1), (block, 1, 1), shared, (), "a test's kernel"))
    driver.check(PreparedLaunch(function, (1, 1, 1), (64, 1, 1), 100_000, (), "k"))
    assert function.handle.shared == 100_000


def test_which_driver_the_environment_names(driver, monkeypatch):
    ours.pycuda_driver.cache_clear()
    monkeypatch.setenv("DSLC_CUDA_DRIVER", "pycuda")
    assert gpu_driver().name == "pycuda"
    ours.pycuda_driver.cache_clear()
    monkeypatch.setenv("DSLC_CUDA_DRIVER", "pycud")
    with pytest.raises(TargetError, match="did you mean 'pycuda'"):
        gpu_driver()


def test_without_pycuda(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(TargetError, match="pycuda is not installed"):
        ours.PycudaDriver()
