"""A CPU executable, loaded: one native call runs it on all threads.

The call's table of pointers has a slot for each port: inputs are read where they lie, params and states are the store's own arrays, results are
fresh arrays or the caller's. The arena is one stretch of memory, laid out as `backend_cpu.native` says: constants, intermediates, scratch of each
thread. What is written through a slot begins on a cache line; inputs need not be aligned more than their elements are.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....core.errors import DataError, TargetError
from ....core.executable import Executable, Port
from ...binding import described, fit_input, fit_inputs
from ...pages import zero_bytes
from ...program import check_out, written_ports
from ...spare import LARGE, Spare
from . import pool
from .address import address_of
from .loader import LoadedObject

ALIGNMENT = 128  # of the arena's three parts; the compiler's figure
RESULT_ALIGNMENT = 64
_HOST = ("seed", "step", "microbatch")  # scalars that every call is given
_C_INTEGERS = {8: ctypes.c_int8, 16: ctypes.c_int16, 32: ctypes.c_int32, 64: ctypes.c_int64}


def _aligned(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class _Input:
    """What a call needs of an input port. `below`: an index must be under it, for the unsigned form of the values (`unsigned`)."""

    port: Port
    name: str
    slot: int
    shape: tuple[int, ...]
    dtype: np.dtype
    below: int | None
    unsigned: np.dtype | None
    free: bool  # of bounds

    @staticmethod
    def of(port: Port) -> _Input:
        dtype, below, unsigned = port.dtype.numpy, None, None
        if port.bounds is not None and port.bounds[0] == 0 and port.dtype.is_integer and port.dtype.bits >= 8:
            below, unsigned = port.bounds[1], np.dtype(f"uint{port.dtype.bits}")  # one maximum finds negative values too
        return _Input(port, port.name, port.slot, port.shape, dtype, below, unsigned, port.bounds is None)

    def fits(self, value: Any) -> bool:
        """True where the array can be read as it lies and holds no index out of bounds."""
        if type(value) is not np.ndarray or value.dtype != self.dtype or value.shape != self.shape or not value.flags.c_contiguous:
            return False
        if self.below is None:
            return self.free
        if value.size == 1:
            return 0 <= value.item() < self.below
        return bool(np.maximum.reduce(value.view(self.unsigned or self.dtype), axis=None, initial=0) < self.below)


@dataclass(frozen=True)
class _Result:
    """A result's port."""

    slot: int
    shape: tuple[int, ...]
    dtype: np.dtype
    spare: Spare

    @staticmethod
    def of(port: Port) -> _Result:
        return _Result(port.slot, port.shape, port.dtype.numpy, Spare(port.bytes + RESULT_ALIGNMENT))

    def fresh(self) -> tuple[np.ndarray, int]:
        """An array on a cache line's border that nobody else holds, and its address."""
        raw = self.spare.block() if self.spare.size >= LARGE else np.empty(self.spare.size, np.uint8)
        address = address_of(raw)
        skip = -address % RESULT_ALIGNMENT
        return np.ndarray(self.shape, self.dtype, raw, skip), address + skip

    def fits(self, array: Any) -> bool:
        """True where the result can be written to an array of the caller's, or copied to it."""
        return type(array) is np.ndarray and array.dtype == self.dtype and array.shape == self.shape and array.flags.carray


class CpuProgram:
    """A Program (`runtime.program`) on the CPU. `threads=1` keeps it to the calling thread; else it uses the process's pool.

    Calls of one program wait for each other, from whichever thread they come.
    """

    def __init__(self, executable: Executable, threads: int | None = None):
        if executable.target != "cpu":
            raise TargetError(f"this program was compiled for {executable.target}, not for the cpu")
        self.executable = executable
        self._code = LoadedObject(executable.code)
        pool.check_abi(self._code)
        self._launch = self._code.function("dslc_launch", *pool.LAUNCH)
        self._plan = self._code.symbols.get("dslc_plan")
        if self._plan is None:
            raise DataError("the compiled program has no function 'dslc_plan'", help="compile it again with this version")
        ports = executable.ports
        self._table = (ctypes.c_uint64 * (1 + max((p.slot for p in ports), default=0)))()
        self._table_address = ctypes.addressof(self._table)
        self._inputs = [_Input.of(p) for p in ports if p.role == "input" or (p.role == "scalar" and p.name not in _HOST)]
        results = executable.ports_of("output", "loss", "metric")
        self._results = {p.name: _Result.of(p) for p in results}
        self._host = self._host_scalars()
        self._kept = executable.ports_of("param", "state", "prepared")
        self._written = written_ports(executable)
        self._store: Any = None
        self._arrays: list[np.ndarray] = []
        self._alone = threads == 1
        self._generation: int | None = None
        self._threads = 0
        self._pool: pool.Pool | None = None
        self._memory = np.empty(0, np.uint8)
        self._lock = threading.Lock()
        _programs.add(self)

    def _host_scalars(self) -> dict[str, Any]:
        """C integers for seed, step and microbatch, their addresses in the table."""
        scalars = {}
        for port in self.executable.ports:
            if port.role == "scalar" and port.name in _HOST:
                scalars[port.name] = _C_INTEGERS[port.dtype.bits]()
                self._table[port.slot] = ctypes.addressof(scalars[port.name])
        return {name: scalars.get(name, ctypes.c_int64()) for name in _HOST}

    def bind(self, store: Any, held: Container[str] | None = None) -> None:
        """Param and state ports are `store.array(path)` from now on. DataError where one does not fit. `held`: those whose values are in memory at
        every call; of the others only the place is known, and who calls sees to what is read. None: all."""
        arrays = [store.array(p.name) if held is None or p.name in held else store.value(p.name).memory for p in self._kept]
        for port, array in zip(self._kept, arrays):
            if array.shape != port.shape or array.dtype != port.dtype.numpy or not array.flags.c_contiguous:
                found, declared = described(array.dtype, array.shape), described(port.dtype, port.shape)
                raise DataError(f"the {port.role} '{port.name}' is {found} in the store, {declared} in the program")
            if array.ctypes.data % RESULT_ALIGNMENT and array.size:
                raise DataError(f"the {port.role} '{port.name}' does not begin on a cache line in the store")
        with self._lock:
            self._store, self._arrays = store, arrays
            for port, array in zip(self._kept, arrays):
                self._table[port.slot] = array.ctypes.data

    def __call__(
        self, inputs: Mapping[str, Any], *, seed: int = 0, step: int = 0, microbatch: int = 0, out: Mapping[str, Any] | None = None
    ) -> dict[str, np.ndarray]:
        """Runs once. `inputs`: arrays by port name, read without a copy where they are C-contiguous and of the port's type.

        Gives output, loss and metric ports by name. `out` holds C-contiguous arrays to write some of them to. DataError where an input or an `out`
        does not fit.
        """
        if self._kept and self._store is None:
            raise DataError("the program has parameters or states: bind a ParameterStore first")
        held, places = self._read(inputs)
        if self._kept:
            self._store.gather()  # what a device wrote meanwhile
        results, given = self._make_results(out, places)
        host = self._host
        with self._lock:
            table = self._table
            for slot, address in places:
                table[slot] = address
            host["seed"].value, host["step"].value, host["microbatch"].value = seed, step, microbatch
            self._run()
        del held  # the inputs had to stay alive
        for name, array in given.items():
            np.copyto(array, results[name])
            results[name] = array
        if self._written:
            self._store.touch(*self._written)
        return results

    def _read(self, inputs: Mapping[str, Any]) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
        """The arrays and (slot, address) of each."""
        kept: list[np.ndarray] = []
        places: list[tuple[int, int]] = []
        for item in self._inputs:
            value: Any = inputs.get(item.name)
            if not item.fits(value):
                self._check_names(inputs)
                value = np.ascontiguousarray(fit_input(item.port, value))
            kept.append(value)
            places.append((item.slot, address_of(value)))
        if len(inputs) != len(kept):
            self._check_names(inputs)
        return kept, places

    def _check_names(self, inputs: Mapping[str, Any]) -> None:
        """DataError where an input is unknown or missing."""
        if inputs.keys() != {i.name for i in self._inputs}:
            fit_inputs([i.port for i in self._inputs], inputs)  # says which

    def _make_results(self, out: Mapping[str, Any] | None, places: list[tuple[int, int]]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The arrays by name, and those of `out` that a fresh array stands in for, since they do not lie well. Adds to `places`."""
        results: dict[str, np.ndarray] = {}
        given: dict[str, np.ndarray] = {}
        if out and not all(name in self._results and self._results[name].fits(array) for name, array in out.items()):
            check_out(self.executable.ports_of("output", "loss", "metric"), out)
        for name, item in self._results.items():
            array: Any = out.get(name) if out else None
            address = address_of(array) if array is not None else 1
            if address % RESULT_ALIGNMENT:
                if array is not None:
                    given[name] = array
                array, address = item.fresh()
            results[name] = array
            places.append((item.slot, address))
        return results, given

    def _run(self) -> None:
        state = pool.state
        if self._threads == 1 and (self._alone or self._generation == state.generation):
            self._launch(self._plan, 1, self._arena, self._table_address, None)
            return
        with state.lock:
            if self._generation != state.generation:
                self._prepare()
            workers = self._pool
            if workers is None:
                self._launch(self._plan, 1, self._arena, self._table_address, None)
                return
            if workers.before_call:
                workers.before_call()
            self._launch(self._plan, self._threads, self._arena, self._table_address, workers.control)
            workers.last = self._code

    def _prepare(self) -> None:
        """Memory for this number of threads, and the pool; its lock is held."""
        threads = 1 if self._alone else pool.thread_count()
        if threads != self._threads:
            constants = self.executable.constants
            size = _aligned(len(constants)) + _aligned(self.executable.arena_bytes) + threads * self.executable.scratch_bytes
            self._memory = zero_bytes(size, 4096)
            self._memory[: len(constants)] = np.frombuffer(constants, np.uint8)
            self._arena = self._memory.ctypes.data
            self._threads = threads
        self._pool = pool.pool_for(self._code) if threads > 1 else None
        self._generation = pool.state.generation


_programs: weakref.WeakSet[CpuProgram] = weakref.WeakSet()


def _after_fork() -> None:
    """In the child: whoever held a program's lock is gone."""
    for program in list(_programs):
        program._lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
