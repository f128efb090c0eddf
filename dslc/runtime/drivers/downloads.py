"""Large arrays from a device to memory of the host that it cannot write at full rate: in chunks by way of pinned memory.

While the copy engine fills one buffer, threads copy those before it to the array. The pages of a fresh array are made when they are first written,
which takes the host longer than the copy: the threads do that before, while the device may still work.
"""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Protocol

import numpy as np

LEAST, MOST = 256 << 10, 4 << 20  # bytes of a chunk
PIECES = 8  # of an array at least, down to LEAST bytes
THREADS = 4  # at most
PAGE = 4096  # bytes, or more
AHEAD = 2  # chunks that the copy engine is given before their turn


class Source(Protocol):
    """What is needed of a driver, with its meaning there; `start_download` fills pinned memory, and returns before it is done."""

    def staging(self, size: int) -> np.ndarray: ...
    def start_download(self, pinned: np.ndarray, address: int) -> None: ...
    def mark(self) -> Any: ...
    def wait(self, mark: Any) -> None: ...


class Downloads:
    """Those of one driver, one at a time. The pinned memory and the threads are made at the first one."""

    def __init__(self, source: Source):
        self._source = source
        self._buffers: list[np.ndarray] = []
        self._pool: ThreadPoolExecutor | None = None

    def fill(self, array: np.ndarray, address: int) -> None:
        """Fills a C-contiguous array from the device, after all work before; returns when it is done."""
        pool, buffers = self._made()
        size = min(MOST, max(LEAST, -(-array.nbytes // PIECES)))
        starts = range(0, array.nbytes, size)
        counts = [min(size, array.nbytes - at) for at in starts]
        target, bytes = array.ctypes.data, array.reshape(-1).view(np.uint8)
        marks: list[Any] = []
        touches = [pool.submit(_touch, bytes[at : at + size]) for at in starts]
        moves: list[Future] = []
        try:
            for k in range(len(starts) + AHEAD):
                if k < len(starts):
                    if k >= len(buffers):
                        moves[k - len(buffers)].result()  # the buffer is free
                    self._source.start_download(buffers[k % len(buffers)][: counts[k]], address + starts[k])
                    marks.append(self._source.mark())
                if (done := k - AHEAD) >= 0 and done < len(starts):
                    self._source.wait(marks[done])
                    moves.append(pool.submit(_move, touches[done], target + starts[done], buffers[done % len(buffers)].ctypes.data, counts[done]))
        finally:
            wait([*touches, *moves])  # whatever fails: nobody writes to the array once this returns

    def _made(self) -> tuple[ThreadPoolExecutor, list[np.ndarray]]:
        if self._pool is None:
            threads = min(THREADS, len(os.sched_getaffinity(0)))
            self._buffers = [self._source.staging(MOST) for _ in range(threads + AHEAD)]
            self._pool = ThreadPoolExecutor(threads, "dslc-download")
        return self._pool, self._buffers


def _touch(bytes: np.ndarray) -> None:
    bytes[::PAGE] = 0


def _move(touched: Future, target: int, source: int, count: int) -> None:
    touched.result()
    ctypes.memmove(target, source, count)
