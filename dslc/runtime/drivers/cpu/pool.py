"""The one pool of worker threads of a process, and who may use it.

A worker is a Python thread that lives in native code (`dslc_worker`), where it needs no interpreter lock; the calling thread is worker 0. Calls
from several threads wait for each other. After a fork the child has no workers and makes a new pool at its first call.

The number of threads is `DSLC_THREADS`, or the cores that the process may use. A worker that wakes on the caller's core keeps off it from then on
(`dslc_worker` sees to that); with `pin` each keeps to one core. A library does not pin, for its host may have its own plans.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
from collections.abc import Callable
from typing import Any

from ....core.errors import TargetError
from ...pages import zero_bytes
from .loader import LoadedObject

ABI = 1  # of the control block and the calling convention
CONTROL_BYTES = 4096
LAUNCH = (None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)  # plan, threads, arena, table, control
WORKER = (None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)  # thread, threads, control


def default_threads() -> int:
    """`DSLC_THREADS`, else the number of cores that this process may use. TargetError where the variable is not a count."""
    given = os.environ.get("DSLC_THREADS", "")
    if not given:
        return len(os.sched_getaffinity(0))
    if not given.isdecimal() or not 1 <= int(given) <= 1024:
        raise TargetError(f"DSLC_THREADS is '{given}', which is not a number of threads from 1 to 1024")
    return int(given)


def check_abi(code: LoadedObject) -> None:
    """TargetError where the object was made for another calling convention."""
    found = code.function("dslc_abi", ctypes.c_int64)()
    if found != ABI:
        raise TargetError(f"the compiled program has calling convention {found}, this version runs {ABI}", help="compile it again")


class Pool:
    """`threads - 1` workers. `control` is the address of the block they share with `dslc_launch`.

    `last`: the code that ran last. A worker that the system took off its core at a plan's last barrier returns from it later than the caller, so that
    code stays mapped until a later plan has run.
    """

    def __init__(self, code: LoadedObject, threads: int, pin: bool):
        self.threads, self._code = threads, code
        self._block = zero_bytes(CONTROL_BYTES, 4096)
        self.control = self._block.ctypes.data
        self.last: LoadedObject | None = None
        self._workers = [threading.Thread(target=self._live, args=(t,), daemon=True, name=f"dslc-{t}") for t in range(1, threads)]
        for worker in self._workers:
            worker.start()
        self.before_call: Callable[[], None] | None = None
        if pin and threads > 1:
            self.before_call = _Pins([w.native_id or 0 for w in self._workers]).follow

    def _live(self, tid: int) -> None:
        self._code.function("dslc_worker", *WORKER)(tid, self.threads, self.control)

    def stop(self) -> None:
        """Ends the workers; nobody may be running a program."""
        if self._workers:
            self._code.function("dslc_launch", *LAUNCH)(None, self.threads, None, None, self.control)
            for worker in self._workers:
                worker.join()
        self._workers = []


class _Pins:
    """Each worker keeps one core, and never the caller's; if the caller turns up there, that worker takes the core which it left."""

    def __init__(self, workers: list[int]):
        self._workers, self._getcpu = workers, ctypes.CDLL(None).sched_getcpu
        self._caller = self._getcpu()
        free = [c for c in sorted(os.sched_getaffinity(0)) if c != self._caller] or [self._caller]
        self._cores = [free[i % len(free)] for i in range(len(workers))]
        for worker, core in zip(workers, self._cores):
            os.sched_setaffinity(worker, {core})

    def follow(self) -> None:
        core = self._getcpu()
        if core == self._caller:
            return
        for i, taken in enumerate(self._cores):
            if taken == core:
                self._cores[i] = self._caller
                os.sched_setaffinity(self._workers[i], {self._caller})
        self._caller = core


class _State:
    """What the process has: the pool, the wish for it, the lock. `generation` changes with the pool, and after a fork."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.pool: Pool | None = None
        self.threads: int | None = None
        self.pin = False
        self.generation = 0


state = _State()
# The code in which a worker lives must outlast it, so what a pool was made from is never unmapped.
_kept: list[Any] = []


def configure(threads: int | None = None, pin: bool = False) -> None:
    """Sets the number of threads (None: the default) and pinning for all programs; workers of another number end."""
    with state.lock:
        _stop()
        state.threads, state.pin = threads, pin
        state.generation += 1


def thread_count() -> int:
    """How many threads programs use."""
    return state.threads if state.threads is not None else default_threads()


def pool_for(code: LoadedObject) -> Pool:
    """The process's pool, made from `code` if there is none; hold `state.lock`."""
    if state.pool is None:
        _kept.append(code)
        state.pool = Pool(code, thread_count(), state.pin)
        state.generation += 1
    return state.pool


def _stop() -> None:
    if state.pool is not None:
        state.pool.stop()
        state.pool = None


def _after_fork() -> None:
    """In the child: the workers are gone, and so is whoever held the lock."""
    state.lock = threading.Lock()
    state.pool = None
    state.generation += 1


def _at_exit() -> None:
    if state.lock.acquire(timeout=1.0):  # a daemon thread may still be running a program
        try:
            _stop()
        finally:
            state.lock.release()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
