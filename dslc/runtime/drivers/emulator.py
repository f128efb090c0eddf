"""Kernels on the CUDA emulator: loads a shared object that `backend_cuda.emulated` made, launches its kernels on this machine's processors."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import tempfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dslc.core.errors import Error, TargetError

from .device import ALIGNMENT, Buffer, packed_tensor_map

ORDERS = ("forward", "reverse", "shuffled")


class KernelFault(Error):
    """A kernel did what CUDA leaves undefined. `kernel`, `file`, `line`, `block` (x, y, z) and `thread` (its rank in the block) say where; the
    message begins with `label`, the kernel in words."""

    label = "kernel fault"

    def __init__(self, kernel: str, file: str, line: int, block: tuple[int, int, int], thread: int, message: str, label: str = ""):
        first, *rest = message.split("\n")
        super().__init__(f"{label or kernel}, {file}:{line}, block {block}, thread {thread}: {first}", notes=rest)
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


class _Buffer(ctypes.Structure):  # as in backend_cuda/emulator/checks.h
    _fields_ = [
        ("start", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("name", ctypes.c_char_p),
        ("written", ctypes.c_int),
        ("steady", ctypes.c_int),
        ("known", ctypes.c_void_p),
    ]


@dataclass(frozen=True)
class Module:
    """A loaded shared object. `order`: in which order blocks, and threads that may run, do run ("forward", "reverse", "shuffled" by `seed`)."""

    library: ctypes.CDLL
    code: bytes
    order: int
    seed: int
    workers: int

    @property
    def checked(self) -> bool:
        """Whether every access is checked."""
        return hasattr(self.library, "emulator_checks")

    def launch(self, symbol: str, grid: Sequence[int], block: Sequence[int], shared_bytes: int, params: Sequence[Any],
               buffers: Sequence[Buffer] = (), label: str = "", known: Known | None = None) -> None:  # fmt: skip
        """Runs a kernel to its end. `grid` and `block` have one to three sizes; `params` are ctypes values, `buffers` all global memory that a
        checked kernel may touch, `known` which bytes of it hold something. Raises `KernelFault`, which calls the kernel `label`."""
        try:
            entry = getattr(self.library, f"emulated_{symbol}")
        except AttributeError:
            raise TargetError(f"the module has no kernel {symbol!r}") from None
        shape = (ctypes.c_uint * 6)(*(*grid, 1, 1)[:3], *(*block, 1, 1)[:3])
        if any(size < 1 for size in shape) or shape[3] * shape[4] * shape[5] > 1024:
            raise TargetError(f"kernel {symbol}: grid {tuple(grid)} and block {tuple(block)} cannot be launched")
        apart = _Apart(buffers if self.checked else (), known)
        values = [apart.parameter(p) for p in params]
        pointers = (ctypes.c_void_p * max(1, len(values)))(*map(ctypes.addressof, values))
        fault = _Fault()
        entry.restype = None
        entry(shape, ctypes.c_size_t(shared_bytes), self.order, ctypes.c_uint(self.seed), self.workers, pointers, apart.table, len(apart.table),
              ctypes.byref(fault))  # fmt: skip
        if fault.failed:
            raise self._fault(symbol, fault, label)
        apart.back()

    def _fault(self, symbol: str, fault: _Fault, label: str) -> KernelFault:
        x, y, z = fault.block
        file, line, message = fault.file.decode(), fault.line, fault.message.decode(errors="replace")
        if fault.places[0]:
            (file, line), (other, at) = _lines(self.code, list(fault.places))
            if fault.places[1]:
                message += f"\nthe earlier access is at {other}:{at}"
        return KernelFault(symbol, file, line, (x, y, z), fault.thread, message, label)


def _lines(code: bytes, places: Sequence[int]) -> list[tuple[str, int]]:
    """File and line of places in a module's code, by binutils; ("?", 0) where they are not known. Of a device function, where a kernel calls it."""
    out = []
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        file.write(code)
        file.flush()
        for place in places:
            try:
                said = subprocess.run(["addr2line", "-i", "-e", file.name, hex(place)], capture_output=True, text=True).stdout
            except FileNotFoundError:
                said = ""
            frames = [(Path(name).name, int(line)) for name, line in re.findall(r"^(.*):(\d+)", said, re.MULTILINE)]
            out.append(next((f for f in frames if f[0].endswith(".cu")), frames[0] if frames else ("?", 0)))
    return out


def load(code: bytes, order: str = "forward", seed: int = 0, workers: int = 2) -> Module:
    """Loads a shared object from memory. `workers`: OS threads that share the blocks of a grid."""
    with tempfile.NamedTemporaryFile(suffix=".so", delete=False) as file:
        file.write(code)
    try:
        return Module(ctypes.CDLL(file.name), code, ORDERS.index(order), seed, workers)
    finally:
        os.unlink(file.name)  # the loader keeps its mapping


GAP = 1 << 18  # bytes between buffers that are taken apart: pages that nobody touches cost nothing


class Known:
    """Of each byte of some buffers whether something was written to it since this was made; what lies in none of them is known."""

    def __init__(self, buffers: Iterable[Buffer]):
        self._stretches = [(start, np.zeros(size, np.bool_)) for start, size in _stretches(_overlapping(buffers))]

    def of(self, address: int, size: int) -> np.ndarray:
        """bool[size]"""
        found = np.ones(size, np.bool_)
        for mine, theirs in self._common(address, found):
            theirs[:] = mine
        return found

    def update(self, address: int, found: np.ndarray) -> None:
        """Takes over what `of` gave, as it is now."""
        for mine, theirs in self._common(address, found):
            mine[:] = theirs

    def _common(self, address: int, found: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start, known in self._stretches:
            first, last = max(start, address), min(start + len(known), address + len(found))
            if first < last:
                yield known[first - start : last - start], found[first - address : last - address]


def _overlapping(buffers: Iterable[Buffer]) -> list[list[Buffer]]:
    """Buffers by address, in groups that share bytes."""
    groups: list[list[Buffer]] = []
    end = 0
    for b in sorted((b for b in buffers if b.bytes), key=lambda b: b.address):
        if not groups or b.address >= end:
            groups.append([])
        groups[-1].append(b)
        end = max(end, b.address + b.bytes)
    return groups


def _stretches(groups: Iterable[Sequence[Buffer]]) -> list[tuple[int, int]]:
    """Address and bytes of each group."""
    return [(g[0].address, max(b.address + b.bytes for b in g) - g[0].address) for g in groups]


class _Apart:
    """Copies of a launch's buffers, far from each other, so that what lies behind one is nothing. Those that overlap are moved together."""

    def __init__(self, buffers: Sequence[Buffer], known: Known | None):
        groups = _overlapping(buffers)
        self._stretches = _stretches(groups)
        self._known = known
        self._shadows = [known.of(*stretch) if known else None for stretch in self._stretches]
        self._memory = np.empty(sum(n + GAP + 2 * ALIGNMENT for _, n in self._stretches) + GAP, np.uint8)
        self._starts, at = [], self._memory.ctypes.data + GAP
        for address, n in self._stretches:
            at += (address - at) % ALIGNMENT
            self._starts.append(at)
            ctypes.memmove(at, address, n)
            at += n + GAP
        self._written = [any(b.written for b in g) for g in groups]
        names = [", ".join(dict.fromkeys(b.name for b in g)).encode() for g in groups]
        steady = [all(b.steady for b in g) for g in groups]
        rows = zip(self._starts, self._stretches, names, self._written, steady, self._shadows)
        self.table = (_Buffer * len(groups))(*(_Buffer(start, n, *flags, None if s is None else s.ctypes.data) for start, (_, n), *flags, s in rows))
        for b in buffers:
            if b.addresses and b.bytes:
                held = np.ctypeslib.as_array((ctypes.c_uint64 * (b.bytes // 8)).from_address(self._moved(b.address)))
                held[:] = [self._moved(int(a)) for a in held]

    def _moved(self, address: int) -> int:
        k = bisect_right(self._stretches, address, key=lambda stretch: stretch[0]) - 1
        if k >= 0 and address < sum(self._stretches[k]):
            return self._starts[k] + address - self._stretches[k][0]
        return address

    def parameter(self, value: Any) -> Any:
        """A parameter of the launch, with addresses of the copies."""
        if isinstance(value, ctypes.Array):
            data = bytes(value)
            return packed_tensor_map(self._moved(int.from_bytes(data[:8], "little")).to_bytes(8, "little") + data[8:])
        return type(value)(self._moved(value.value or 0)) if isinstance(value, (ctypes.c_uint64, ctypes.c_void_p)) else value

    def back(self) -> None:
        """What the launch has written, to where it belongs."""
        for start, (address, n), written, shadow in zip(self._starts, self._stretches, self._written, self._shadows):
            if written:
                ctypes.memmove(address, start, n)
                if self._known is not None and shadow is not None:
                    self._known.update(address, shadow)
