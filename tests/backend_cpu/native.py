"""Compiles kernels and runs them on numpy arrays, for the tests of this folder."""

from __future__ import annotations

import ctypes

import numpy as np

from dslc.backend_cpu.native import KernelCall, KernelFunction, NativeObject, aligned, build_object
from dslc.ir.plan import Place
from dslc.runtime.drivers.cpu import pool
from dslc.runtime.drivers.cpu.loader import LoadedObject
from dslc.runtime.pages import zero_bytes


def run_plan(built: NativeObject, arrays: list[np.ndarray], threads: int = 1, arena_bytes: int = 0, constants: bytes = b"") -> np.ndarray:
    """Runs a compiled plan with slot k at arrays[k]; the arena's bytes (constants and scratch included) come back."""
    code = LoadedObject(built.code)
    memory = zero_bytes(aligned(len(constants)) + aligned(arena_bytes) + threads * built.scratch_bytes + 64, 4096)
    memory[: len(constants)] = np.frombuffer(constants, np.uint8)
    table = np.array([a.ctypes.data for a in arrays] or [0], np.uint64)
    launch = code.function("dslc_launch", *pool.LAUNCH)
    pool.configure(threads)
    with pool.state.lock:
        workers = pool.pool_for(code) if threads > 1 else None
        control = workers.control if workers else None
        launch(ctypes.c_void_p(code.symbols["dslc_plan"]), threads, memory.ctypes.data, table.ctypes.data, control)
        if workers:
            workers.last = code
    return memory


def run_kernel(kernel: KernelFunction, arrays: list[np.ndarray], threads: int = 1) -> None:
    """Compiles one kernel and runs it on the arrays, in place."""
    built = build_object([kernel], [KernelCall(kernel.symbol, tuple(Place("slot", k) for k in range(len(arrays))))], 0)
    run_plan(built, arrays, threads)
