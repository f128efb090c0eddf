"""What both drivers of CUDA devices share: the architectures, one thread at a time in a device's context, what a launch may ask for."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

from ...core.errors import TargetError
from .device import PreparedLaunch

MOST_BLOCKS, MOST_THREADS = (2**31 - 1, 65535, 65535), (2**31 - 1, 2**31 - 1, 64)  # along each axis; of threads `most_threads` together
UNASKED_SHARED = 48 << 10  # bytes that a block may take together, static and dynamic, of a function that was not prepared for more
ARCHS = {(8, 0): "sm_80", (8, 6): "sm_86", (8, 9): "sm_89", (9, 0): "sm_90a"}  # by compute capability


def arch_of(device: str, capability: tuple[int, int]) -> str:
    """The architecture that kernels are made for; TargetError where there is none for a device's compute capability."""
    if capability not in ARCHS:
        raise TargetError(f"{device} has compute capability {capability[0]}.{capability[1]}; kernels are made for {', '.join(ARCHS.values())}")
    return ARCHS[capability]


def waits_for_each() -> bool:
    """Whether `DSLC_CUDA_SYNC` asks to wait after each launch, so that a failure names its kernel."""
    return os.environ.get("DSLC_CUDA_SYNC", "") not in ("", "0")


class Turn:
    """Whose turn it is on a device. Within `entered()`, however deep, one thread alone uses it; `enter` and `leave` run at the ends, `began` after
    `enter`. TargetError in a process that was forked."""

    def __init__(self, enter: Callable[[], object], leave: Callable[[], object], began: Callable[[], object]):
        self._enter, self._leave, self._began = enter, leave, began
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._depth = 0

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        if os.getpid() != self._process:
            raise TargetError("CUDA does not survive a fork", help="start worker processes by 'spawn', or use the GPU in one process only")
        with self._lock:
            if self._depth:
                yield
                return
            self._enter()
            self._depth = 1
            try:
                self._began()
                yield
            finally:
                self._depth = 0
                self._leave()


def check_fits(device: str, launch: PreparedLaunch, most_threads: int, static_bytes: int, shared_bytes: int) -> None:
    """TargetError where a launch needs more blocks than a grid can have, or more threads or shared memory a block than the function and the device
    allow."""
    if any(not 1 <= n <= most for n, most in zip((*launch.grid, *launch.block), MOST_BLOCKS + MOST_THREADS)):
        raise TargetError(f"{launch.label} needs a grid of {launch.grid} blocks of {launch.block} threads, which no device takes")
    threads = launch.block[0] * launch.block[1] * launch.block[2]
    if threads > most_threads:
        raise TargetError(f"{launch.label} needs {threads} threads a block, {most_threads} are possible on {device}")
    wanted = static_bytes + launch.shared_bytes
    if wanted > shared_bytes:
        raise TargetError(f"{launch.label} needs {wanted:,} bytes of shared memory a block, {device} has {shared_bytes:,}")


def dynamic_shared(launch: PreparedLaunch, static_bytes: int, allowed: int) -> int | None:
    """What dynamic shared memory its function must be allowed for a launch, where it is not `allowed` that yet."""
    enough = launch.shared_bytes <= min(allowed, UNASKED_SHARED - static_bytes)
    return None if enough or not launch.shared_bytes else max(launch.shared_bytes, allowed)
