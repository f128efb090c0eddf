"""Kernels on the CUDA emulator: loads a shared object that `backend_cuda.emulated` made, launches its kernels on this machine's processors."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dslc.core.errors import Error, TargetError

ORDERS = ("forward", "reverse", "shuffled")


class KernelFault(Error):
    """A kernel did what CUDA leaves undefined. `kernel`, `file`, `line`, `block` (x, y, z) and `thread` (its rank in the block) say where."""

    label = "kernel fault"

    def __init__(self, kernel: str, file: str, line: int, block: tuple[int, int, int], thread: int, message: str):
        first, *rest = message.split("\n")
        super().__init__(f"{kernel}, {file}:{line}, block {block}, thread {thread}: {first}", notes=rest)
        self.kernel, self.file, self.line, self.block, self.thread = kernel, file, line, block, thread


class _Fault(ctypes.Structure):  # as in backend_cuda/emulator/fiber.h
    _fields_ = [
        ("failed", ctypes.c_int),
        ("line", ctypes.c_int),
        ("thread", ctypes.c_int),
        ("block", ctypes.c_uint * 3),
        ("file", ctypes.c_char * 256),
        ("message", ctypes.c_char * 2048),
        ("places", ctypes.c_uint64 * 2),
    ]


@dataclass(frozen=True)
class Module:
    """A loaded shared object. `order`: in which order threads that may run do run ("forward", "reverse", "shuffled" by `seed`)."""

    library: ctypes.CDLL
    code: bytes
    order: int
    seed: int
    workers: int

    def launch(self, symbol: str, grid: Sequence[int], block: Sequence[int], shared_bytes: int, params: Sequence[object]) -> None:
        """Runs a kernel to its end. `grid` and `block` have one to three sizes; `params` are ctypes values. Raises `KernelFault`."""
        try:
            entry = getattr(self.library, f"emulated_{symbol}")
        except AttributeError:
            raise TargetError(f"the module has no kernel {symbol!r}") from None
        shape = (ctypes.c_uint * 6)(*(*grid, 1, 1)[:3], *(*block, 1, 1)[:3])
        if any(size < 1 for size in shape) or shape[3] * shape[4] * shape[5] > 1024:
            raise TargetError(f"kernel {symbol}: grid {tuple(grid)} and block {tuple(block)} cannot be launched")
        pointers = (ctypes.c_void_p * max(1, len(params)))(*(ctypes.addressof(p) for p in params))  # type: ignore[arg-type]
        fault = _Fault()
        entry.restype = None
        entry(shape, ctypes.c_size_t(shared_bytes), self.order, ctypes.c_uint(self.seed), self.workers, pointers, ctypes.byref(fault))
        if fault.failed:
            x, y, z = fault.block
            file, line, message = fault.file.decode(), fault.line, fault.message.decode(errors="replace")
            if fault.places[0]:
                (file, line), (other, at) = _lines(self.code, list(fault.places))
                message += f"\nthe earlier access is at {other}:{at}"
            raise KernelFault(symbol, file, line, (x, y, z), fault.thread, message)


def _lines(code: bytes, places: Sequence[int]) -> list[tuple[str, int]]:
    """File and line of places in a module's code, by binutils; ("?", 0) where they are not known."""
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        file.write(code)
        file.flush()
        try:
            done = subprocess.run(["addr2line", "-e", file.name, *map(hex, places)], capture_output=True, text=True)
        except FileNotFoundError:
            return [("?", 0)] * len(places)
    out = []
    for said in done.stdout.splitlines():
        name, _, line = said.split(" ")[0].rpartition(":")
        out.append((Path(name).name, int(line)) if line.isdigit() else ("?", 0))
    return out


def load(code: bytes, order: str = "forward", seed: int = 0, workers: int = 2) -> Module:
    """Loads a shared object from memory. `workers`: OS threads that share the blocks of a grid."""
    with tempfile.NamedTemporaryFile(suffix=".so", delete=False) as file:
        file.write(code)
    try:
        return Module(ctypes.CDLL(file.name), code, ORDERS.index(order), seed, workers)
    finally:
        os.unlink(file.name)  # the loader keeps its mapping
