"""Large arrays between a device and memory of the host that it cannot copy at full rate: in chunks by way of pinned memory.

While the copy engine has one chunk, threads copy others. The pages of a fresh array are made when they are first written, which takes the host longer
than the copy: the threads do that before, while the device may still work.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

LEAST, MOST = 256 << 10, 4 << 20  # bytes of a chunk
PIECES = 8  # of an array at least, down to LEAST bytes
THREADS = 4  # at most
PAGE = 4096  # bytes, or more
AHEAD = 2  # chunks that the copy engine is given before their turn


class Source(Protocol):
    """What is needed of a driver, with its meaning there; `start_download` returns before it is done where the memory is pinned."""

    def staging(self, size: int) -> np.ndarray: ...
    def start_download(self, array: np.ndarray, address: int) -> None: ...
    def synchronize(self) -> None: ...
    def mark(self) -> Any: ...
    def wait(self, mark: Any) -> None: ...


class Downloads:
    """Those of one driver from its device, one at a time. The pinned memory is made at the first one."""

    def __init__(self, source: Source):
        self._source = source
        self._buffers: list[np.ndarray] = []

    def fill(self, array: np.ndarray, address: int) -> None:
        """Fills a C-contiguous array from the device, after all work before; returns when it is done."""
        if array.nbytes <= LEAST:
            self._source.start_download(array, address)
            self._source.synchronize()
            return
        pool, buffers = threads(os.getpid()), self._made()
        starts, counts = chunks(array.nbytes)
        target, bytes = array.ctypes.data, array.reshape(-1).view(np.uint8)
        marks: list[Any] = []
        touches = [_begun(pool, _touch, bytes[at : at + n]) for at, n in zip(starts, counts)]
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
                    moves.append(_begun(pool, _move, touches[done], target + starts[done], buffers[done % len(buffers)].ctypes.data, counts[done]))
        finally:
            wait([*touches, *moves])  # whatever fails: nobody writes to the array once this returns

    def _made(self) -> list[np.ndarray]:
        if not self._buffers:
            self._buffers = [self._source.staging(MOST) for _ in range(_count() + AHEAD)]
        return self._buffers


def send(array: np.ndarray, pinned: np.ndarray, upload: Callable[[int, np.ndarray], None]) -> None:
    """Copies a C-contiguous array to pinned memory of its size; `upload(at, part)` is told of each part, `at` bytes from the beginning, when it is
    there."""
    pool = threads(os.getpid())
    source, target = array.ctypes.data, pinned.ctypes.data
    parts = list(zip(*chunks(array.nbytes)))
    moves = [_begun(pool, ctypes.memmove, target + at, source + at, n) for at, n in parts]
    try:
        for move, (at, n) in zip(moves, parts):
            move.result()
            upload(at, pinned[at : at + n])
    finally:
        wait(moves)


def chunks(size: int) -> tuple[range, list[int]]:
    """Where the chunks of so many bytes begin, and their sizes."""
    each = min(MOST, max(LEAST, -(-size // PIECES)))
    starts = range(0, size, each)
    return starts, [min(each, size - at) for at in starts]


def _count() -> int:
    return min(THREADS, len(os.sched_getaffinity(0)))


@lru_cache(maxsize=1)
def threads(process: int) -> ThreadPoolExecutor:
    """Those of this process: a fork takes none along."""
    return ThreadPoolExecutor(_count(), f"dslc-copies-{process}")


def _begun(pool: ThreadPoolExecutor, work: Callable[..., Any], *arguments: Any) -> Future:
    """Some work in a thread; or done, where the interpreter is ending and no thread takes more."""
    try:
        return pool.submit(work, *arguments)
    except RuntimeError:
        done: Future = Future()
        done.set_result(work(*arguments))
        return done


def _touch(bytes: np.ndarray) -> None:
    bytes[::PAGE] = 0


def _move(touched: Future, target: int, source: int, count: int) -> None:
    touched.result()
    ctypes.memmove(target, source, count)
