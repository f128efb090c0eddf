"""A device whose kernels are numpy functions: for tests of what lies above a driver."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dslc.core import dtypes
from dslc.core.errors import TargetError
from dslc.core.executable import Executable, Kernel, Launch, Module, Port, pack_modules
from dslc.runtime.drivers.device import PreparedLaunch
from dslc.runtime.drivers.host_memory import HostMemory


def at(address: int, n: int, dtype: Any = np.float32) -> np.ndarray:
    """n elements of device memory."""
    dtype = np.dtype(dtype)
    raw = (ctypes.c_uint8 * (n * dtype.itemsize)).from_address(address)
    return np.frombuffer(raw, dtype)


def scaled(x: int, w: int, y: int, n: int) -> None:
    """y = x * w, the loss's place behind."""
    at(y, n)[:] = at(x, n) * at(w, n)


def total(y: int, loss: int, n: int) -> None:
    at(loss, 1)[:] = at(y, n).sum()


def update(x: int, w: int, count: int, step: int, n: int) -> None:
    """w -= x, count += 1 + step."""
    at(w, n)[:] -= at(x, n)
    at(count, 1, np.int32)[:] += 1 + at(step, 1, np.int64)[0].astype(np.int32)


def broken(*_: int) -> None:
    raise TargetError("a kernel failed")


KERNELS: dict[str, Callable[..., None]] = {f.__name__: f for f in (scaled, total, update, broken)}


class FakeDriver(HostMemory):
    """Records what it is asked for in `log`; `cuda`: takes arrays that say that they lie on CUDA device 0."""

    name = "fake"
    arch = "emulated"
    device = "the fake device"

    def __init__(self, limit: int | None = None, cuda: bool = False, stops_midway: bool = True):
        super().__init__(limit)
        self.kind, self.stops_midway = 2 if cuda else 1, stops_midway
        self.log: list[str] = []

    def upload(self, address, array):
        self.log.append(f"upload {array.nbytes}")
        super().upload(address, array)

    def download(self, array, address):
        self.log.append(f"download {array.nbytes}")
        super().download(array, address)

    def copy(self, target, source, size):
        self.log.append(f"copy {size}")
        super().copy(target, source, size)

    def copy_rows(self, target, target_pitch, source, source_pitch, width, rows):
        self.log.append(f"{rows} rows of {width}")
        super().copy_rows(target, target_pitch, source, source_pitch, width, rows)

    def load(self, code: bytes, symbols: Sequence[str]) -> dict[str, Any]:
        return {s: KERNELS[s] for s in symbols}

    def tensor_map(self, described, address):
        return address.to_bytes(8, "little") + bytes(120)

    def check(self, launch: PreparedLaunch) -> None:
        if launch.shared_bytes > 1 << 16:
            raise TargetError(f"{launch.label} needs too much shared memory")

    def launch(self, launch: PreparedLaunch) -> None:
        launch.function(*(p.value for p in launch.parameters))

    def graph(self, launches: Sequence[PreparedLaunch], whole: bool = False) -> Callable[[], None]:
        def run() -> None:
            for launch in launches:
                self.launch(launch)

        return run


N = 6
X = Port("x", "input", dtypes.FLOAT32, (2, 3), 0, line=3)
ROWS = Port("rows", "input", dtypes.INT32, (4,), 6, bounds=(0, 10), line=4)
STEP = Port("step", "scalar", dtypes.INT64, (), 1)
W = Port("w", "param", dtypes.FLOAT32, (2, 3), 2)
COUNT = Port("count", "state", dtypes.INT32, (), 3)
Y = Port("y", "output", dtypes.FLOAT32, (2, 3), 4)
LOSS = Port("loss", "loss", dtypes.FLOAT32, (), 5)


def executable(*symbols: str, ports=(X, STEP, W, COUNT, Y, LOSS), program="step", **changes) -> Executable:
    """Kernels of this file in order: y = x * w + through the arena, loss = sum y, w -= x."""
    slot = {"x": ("slot", 0), "step": ("slot", 1), "w": ("slot", 2), "count": ("slot", 3), "y": ("slot", 4), "loss": ("slot", 5)}
    size = ("value", N)
    operands = {
        "scaled": (slot["x"], slot["w"], slot["y"], size),
        "total": (slot["y"], slot["loss"], size),
        "update": (slot["x"], slot["w"], slot["count"], slot["step"], size),
        "broken": (),
    }
    fields = {
        "target": "cuda-emulated",
        "program": program,
        "model": "m",
        "signature": "s",
        "ports": tuple(ports),
        "kernels": tuple(Kernel(s, "map", (f"m.dsl:{k}",), symbol=s) for k, s in enumerate(symbols)),
        "launches": tuple(Launch(k, operands[s]) for k, s in enumerate(symbols)),
        "arena_bytes": 1000,
        "scratch_bytes": 0,
        "constants": b"",
        "code": pack_modules([Module(tuple(symbols), b"")]),
        "notes": {"writes": "w\ncount"} if "update" in symbols else {"writes": ""},
    }
    return Executable(**{**fields, **changes})
