"""The memory half of a driver whose device is this machine: buffers are host memory, and every copy is done when its call returns."""

from __future__ import annotations

import ctypes
import threading
import time
from typing import Any

import numpy as np

from ...core.errors import BudgetError
from .device import ALIGNMENT


class HostMemory:
    """Memory, copies, events and streams of the Driver protocol. `limit`: bytes that may be allocated at once; None: what the system gives."""

    kind = 1
    ordinal = 0
    stops_midway = True

    def __init__(self, limit: int | None = None):
        self.lock = threading.RLock()
        self._limit = limit
        self._buffers: dict[int, np.ndarray] = {}  # by address; an array's length is its size with the room for alignment

    @property
    def allocated(self) -> int:
        """Bytes in use, alignment included."""
        return sum(b.nbytes for b in self._buffers.values())

    def allocate(self, size: int) -> int:
        free = None if self._limit is None else self._limit - self.allocated
        if free is not None and size + ALIGNMENT > free:
            raise BudgetError(f"the program needs {size:,} bytes, {max(free, 0):,} are free on {self.device}")  # type: ignore[attr-defined]
        try:
            raw = np.zeros(size + ALIGNMENT, np.uint8)
        except MemoryError:
            raise BudgetError(f"the program needs {size:,} bytes, which this machine does not have") from None
        address = raw.ctypes.data + -raw.ctypes.data % ALIGNMENT
        self._buffers[address] = raw
        return address

    def release(self, address: int) -> None:
        self._buffers.pop(address, None)

    def staging(self, size: int) -> np.ndarray:
        return np.zeros(size, np.uint8)

    def upload(self, address: int, array: np.ndarray) -> None:
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def download(self, array: np.ndarray, address: int) -> None:
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def copy(self, target: int, source: int, size: int) -> None:
        ctypes.memmove(target, source, size)

    def copy_rows(self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, rows: int) -> None:
        for k in range(rows):
            ctypes.memmove(target + k * target_pitch, source + k * source_pitch, width)

    def mark(self) -> float:
        return time.perf_counter()

    def wait(self, mark: Any) -> None:
        pass

    def elapsed(self, first: float, second: float) -> float:
        return second - first

    def order_after(self, stream: int) -> None:
        pass

    def stream_for_dlpack(self) -> int:
        return 0

    def synchronize(self) -> None:
        pass
