"""What the CUDA driver does on the stub of libcuda: `python scenarios.py NAME` with the stub on LD_LIBRARY_PATH. Each scenario asserts."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys
import time
from pathlib import Path

import numpy as np

from dslc.core import dtypes
from dslc.core.errors import BudgetError, TargetError
from dslc.core.executable import WAITS, Executable, Kernel, Launch, Module, Port, TensorMap, pack_modules
from dslc.runtime.drivers import transfers
from dslc.runtime.drivers.cuda import CudaDriver, cuda_driver, pieces
from dslc.runtime.drivers.device_program import DeviceProgram, copy_padded
from dslc.runtime.drivers.transfers import AHEAD, LEAST, MOST
from dslc.runtime.store import ParameterStore

X = Port("x", "param", dtypes.FLOAT32, (6,), 0)
Y = Port("y", "output", dtypes.FLOAT32, (6,), 1)
LOSS = Port("loss", "loss", dtypes.FLOAT32, (), 2)
OPERANDS = {"scaled": (("slot", 0), ("slot", 1), ("value", 6)), "total": (("slot", 1), ("slot", 2), ("value", 6)), "fault": ()}


def log() -> list[str]:
    return Path(os.environ["STUB_LOG"]).read_text().splitlines()


def executable(*symbols: str, role: str = "param", **changes: object) -> Executable:
    ports = (Port("x", role, dtypes.FLOAT32, (6,), 0), Y, LOSS)
    kernels = tuple(Kernel(s, "map", (f"m.dsl:{k + 1}",), symbol=s) for k, s in enumerate(symbols))
    launches = tuple(Launch(k, OPERANDS[s], (k + 2, 1, 1), (64, 1, 1), 1 << 16) for k, s in enumerate(symbols))
    code = pack_modules([Module(symbols, b"STUB")])
    fields = ("cuda:sm_90a", "run", "m", "s", ports, kernels, launches, 100, 0, b"", code)
    names = ("target", "program", "model", "signature", "ports", "kernels", "launches", "arena_bytes", "scratch_bytes", "constants", "code")
    return Executable(**{**dict(zip(names, fields)), "notes": {"writes": "", WAITS: "yes"}, **changes})


def program(*symbols: str, **changes: object) -> DeviceProgram:
    made = DeviceProgram(executable(*symbols, **changes), cuda_driver())
    store = ParameterStore([X])
    store["x"] = np.arange(6, dtype=np.float32)
    made.bind(store)
    return made


def message(call) -> str:
    try:
        call()
    except (TargetError, BudgetError) as error:
        return str(error)
    raise AssertionError("no error")


def one_graph() -> None:
    """All launches are captured once and started as one graph."""
    made = program("scaled", "total")
    for _ in range(3):
        results = made({})
    np.testing.assert_array_equal(results["y"], 2 * np.arange(6))
    assert results["loss"] == 30
    said = log()
    assert [e for e in said if e.startswith(("captured", "launch", "graph"))] == ["captured 2064", "captured 3064", *["graph 2"] * 3], said
    assert said.count("shared 65536") == 2 and said.count("upload 24") == 1
    assert [said[k - 1] == "early 65536" for k, e in enumerate(said) if e.startswith("captured")] == [False, True], said


def without_waits() -> None:
    """Kernels that do not wait by themselves, as of a package that was made before launches overlapped."""
    made = program("scaled", "total", notes={"writes": ""})
    assert made({})["loss"] == 30
    assert [e for e in log() if e.startswith(("captured", "early", "graph"))] == ["captured 2064", "captured 3064", "graph 2"]


def no_overlap() -> None:
    """A driver whose graphs know no launches that overlap starts them one after the other."""
    made = program("scaled", "total")
    assert made({})["loss"] == 30
    assert [e for e in log() if e.startswith(("captured", "early", "graph"))] == ["captured 2064", "captured 2064", "captured 3064", "graph 2"]


def several_graphs() -> None:
    """Of many launches the first few are a graph of their own, which runs while the host starts the next."""
    made = program(*["scaled", "total"] * 25)
    assert made({})["loss"] == 30
    assert [e for e in log() if e.startswith("graph")] == ["graph 16", "graph 34"]
    assert [list(pieces(n)) for n in (0, 1, 32, 33, 112)] == [
        [(0, 0)], [(0, 1)], [(0, 32)], [(0, 16), (16, 33)], [(0, 16), (16, 48), (48, 112)]
    ]  # fmt: skip


def without_graph() -> None:
    """DSLC_CUDA_SYNC=1."""
    made = program("scaled", "total")
    assert made({})["loss"] == 30
    assert [e for e in log() if e.startswith(("captured", "launch", "graph"))] == ["launch 2064", "launch 3064"]


def fault() -> None:
    made = program("scaled", "fault")
    said = message(lambda: made({}))
    assert "CUDA_ERROR_ILLEGAL_ADDRESS, an illegal memory access was encountered" in said and "DSLC_CUDA_SYNC=1" in said, said
    assert "failed before" in message(lambda: made({})) and "failed before" in message(lambda: cuda_driver().allocate(1))


def fault_named() -> None:
    """DSLC_CUDA_SYNC=1."""
    said = message(lambda: program("scaled", "fault")({}))
    assert "failed in fault (m.dsl:2): CUDA_ERROR_ILLEGAL_ADDRESS" in said and "DSLC_CUDA_SYNC" not in said, said


def memory() -> None:
    driver = cuda_driver()
    said = message(lambda: driver.allocate(2 << 20))
    assert "needs 2,097,152 bytes, 1,048,576 of 1,048,576 are free on Stub GPU (device 0)" in said, said
    made = program("scaled")
    array = driver.staging(10)
    del made, array
    gc.collect()
    driver.synchronize()
    said = log()
    assert sum(e.startswith("alloc") for e in said) == sum(e.startswith("free") for e in said) == 2, said
    first = min(k for k, e in enumerate(said) if e.startswith(("free", "unpinned", "unload")))
    assert f"sync {0x30}" in said[said.index("graph 1") if "graph 1" in said else 0 : first], "work may still use what is given back"
    assert sum(e.startswith("pinned") for e in said) == said.count("unpinned 0") and said.count("unload 0") == 1 == said.count("ungraph 0"), said


def limits() -> None:
    kernels = executable("scaled")
    operands = kernels.launches[0].operands
    said = message(lambda: program("scaled", launches=(Launch(0, operands, shared_bytes=300_000),)))
    assert "scaled (m.dsl:1) needs 300,000 bytes of shared memory a block, Stub GPU (device 0) has 232,448" in said, said
    said = message(lambda: program("scaled", launches=(Launch(0, operands, block=(2048, 1, 1)),)))
    assert "needs 2048 threads a block, 1024 are possible" in said, said
    assert "function lost: CUDA_ERROR_NOT_FOUND" in message(lambda: program("scaled", code=pack_modules([Module(("lost",), b"STUB")])))


def static_shared() -> None:
    """STUB_STATIC=10000: with 45,000 bytes of dynamic shared memory it is more than a function may take unasked."""
    operands = executable("scaled").launches[0].operands
    for shared, asked in ((39_000, 0), (45_000, 1)):
        program("scaled", launches=(Launch(0, operands, shared_bytes=shared),))
        assert sum(e.startswith("shared") for e in log()) == asked, log()
    said = message(lambda: program("scaled", launches=(Launch(0, operands, grid=(1, 65536, 1)),)))
    assert "scaled (m.dsl:1) needs a grid of (1, 65536, 1) blocks of (1, 1, 1) threads, which no device takes" in said, said


def no_call() -> None:
    """STUB_LACKS=cuEventElapsedTime: an older driver."""
    driver = cuda_driver()
    mark = driver.mark()
    assert "the CUDA driver has no cuEventElapsedTime" in message(lambda: driver.elapsed(mark, mark))
    assert program("scaled", "total")({})["loss"] == 30


def no_pitches() -> None:
    """STUB_NO_PITCHES=1: a driver that copies rows of its own pitches alone."""
    rows(("copy 8", 4))


def images() -> None:
    said = message(lambda: program("scaled", code=pack_modules([Module(("scaled",), b"another")])))
    assert "(sm_90a) cannot run this machine code: CUDA_ERROR_NO_BINARY_FOR_GPU" in said and "the driver knows CUDA 13.0" in said, said
    said = message(lambda: program("scaled", target="cuda:sm_80"))
    assert "compiled for cuda:sm_80, Stub GPU (device 0) runs cuda:sm_90a" in said, said


def tensor_map() -> None:
    driver = cuda_driver()
    address = driver.allocate(4096)
    words = np.frombuffer(driver.tensor_map(TensorMap(("slot", 0), "bfloat16", (64, 8), (128,), (32, 4), 128, (1, 2)), address), np.uint64)
    assert words[:8].tolist() == [9, 2, address, 3, 64, 128, 8, 2] and words.nbytes == 128, "the box is what it spans"
    assert "refuses a tensor map" in message(lambda: driver.tensor_map(TensorMap(("slot", 0), "float32", (4,), (), (4,)), address + 4))


def device_arrays() -> None:
    """An array of another library on another stream is waited for and copied on the device."""
    made = program("scaled", "total", role="input")
    driver = cuda_driver()
    address = driver.allocate(64)
    driver.upload(address, np.arange(6, dtype=np.float32))

    class Foreign:
        @property
        def __cuda_array_interface__(self):
            return {"shape": (6,), "typestr": "<f4", "data": (address, False), "version": 3, "stream": 0x77}

    assert made({"x": Foreign()})["loss"] == 30
    said = log()
    assert f"record {0x77}" in said and f"wait {0x30}" in said and "copy 24" in said, said


def rows(said: tuple[str, int] = ("rows 4", 1)) -> None:
    """Rows with gaps, from one place of the device's memory to another; and an array that is padded there."""
    driver = cuda_driver()
    x, seen = np.arange(20, dtype=np.float32), np.zeros(20, np.float32)
    source, target = driver.allocate(80), driver.allocate(80)
    driver.upload(source, x)
    driver.upload(target, seen)
    driver.copy_rows(target + 4, 20, source, 12, 8, 4)
    driver.download(seen, target)
    np.testing.assert_array_equal(seen.reshape(4, 5), np.pad(x[:12].reshape(4, 3)[:, :2], [(0, 0), (1, 2)]))
    assert log().count(said[0]) == said[1]
    copy_padded(driver, target, (3, 5), source, (2, 3), 4)
    driver.download(seen[:15], target)
    np.testing.assert_array_equal(seen[:15].reshape(3, 5), np.pad(x[:6].reshape(2, 3), [(0, 1), (0, 2)], mode="edge"))


def downloads() -> None:
    """A large array comes in chunks by way of pinned memory, whatever its size; where that fails midway, the driver's error is told."""
    driver = cuda_driver()
    driver.allocate(8)  # begins the log
    rng = np.random.default_rng(0)
    for count in (LEAST + 1, 3 * LEAST, 8 * MOST + 13, 11 * MOST):
        x, seen = rng.integers(0, 255, count, np.uint8), np.full(count, 255, np.uint8)
        before = len(log())
        driver.download(seen, x.ctypes.data)  # the stub's device memory is the host's
        np.testing.assert_array_equal(seen, x)
        said = [int(line.split()[1]) for line in log()[before:] if line.startswith("download")]
        assert sum(said) == count and max(said) <= MOST and len(said) >= 2, said
    assert log().count(f"pinned {MOST}") == len(driver._downloads._buffers) >= AHEAD + 1
    touch, seen[:] = transfers._touch, 0
    transfers._touch = lambda bytes: (time.sleep(0.3 * (bytes.ctypes.data == seen[-MOST:].ctypes.data)), touch(bytes))  # the last one is late
    driver.download(seen, x.ctypes.data)
    np.testing.assert_array_equal(seen, x)
    real = driver.start_download
    calls = iter(range(100))
    driver.start_download = lambda pinned, address: real(pinned, address) if next(calls) < 3 else driver._fail(driver._api.CUresult(700), "a copy")
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in message(lambda: driver.download(np.empty(8 * MOST, np.uint8), x.ctypes.data))


def at_the_end() -> None:
    """When the interpreter ends no thread takes work any more: what is saved then comes all the same."""
    driver = cuda_driver()
    x, seen = np.random.default_rng(0).integers(0, 255, 8 * MOST, np.uint8), np.zeros(8 * MOST, np.uint8)

    def last() -> None:
        with contextlib.suppress(RuntimeError):
            driver.download(seen, x.ctypes.data)
        os._exit(0 if np.array_equal(seen, x) else 1)

    atexit.register(last)


def marks() -> None:
    driver = cuda_driver()
    first, second = driver.mark(), driver.mark()
    driver.wait(second)
    assert driver.elapsed(first, second) == 0.0025


def fork() -> None:
    driver = cuda_driver()
    child = os.fork()
    if not child:
        os._exit(0 if "does not survive a fork" in message(lambda: driver.allocate(1)) else 1)
    assert os.waitpid(child, 0)[1] == 0


def no_device() -> None:
    assert "finds no GPU" in message(CudaDriver)


def no_start() -> None:
    assert "does not start: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH" in message(CudaDriver)


def too_old() -> None:
    assert "Stub GPU (device 0) has compute capability 7.0; kernels are made for sm_80" in message(CudaDriver)


def absent() -> None:
    assert "no CUDA driver on this machine" in message(CudaDriver)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
