"""Builds kernels by hand, compiles them into one object, runs it on some threads, and compares with the float64 reference."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dslc.backend_cpu.backend import compile_plan
from dslc.backend_cpu.machine import Machine, host
from dslc.core import dtypes
from dslc.core.dtypes import DType
from dslc.core.executable import Port
from dslc.ir import op as nn
from dslc.ir import reference
from dslc.ir.mlir import ir
from dslc.ir.ops import Kernel, Yield
from dslc.ir.plan import Call, Copy, Place, Plan, Step
from dslc.ir.types import TensorType, type_of
from dslc.runtime.drivers.cpu.loader import LoadedObject
from dslc.runtime.drivers.cpu.pool import LAUNCH, Pool
from dslc.runtime.pages import zero_bytes


@dataclass
class Case:
    """One kernel: its kind, the types or values of its operands, and `build(*block arguments) -> values` that fills its body."""

    name: str
    kind: str
    operands: Sequence[Any]  # np.ndarray, or (dtype, shape) to be filled with normals
    build: Callable[..., Any]
    tolerance: float = 2e-6  # relative to 1 + |value|; sums add their length
    schedule: str = "{}"
    arrays: list[np.ndarray] = field(default_factory=list)
    expected: list[np.ndarray] = field(default_factory=list)
    results: list[np.ndarray] = field(default_factory=list)


def sample(dtype: DType, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Values that a type holds exactly."""
    if dtype.is_bool:
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.is_integer:
        return rng.integers(0 if dtype.kind == "uint" else -7, 8, shape).astype(dtype.numpy)
    return rng.standard_normal(shape).astype(np.float32).astype(dtype.numpy)


def run(cases: Sequence[Case], threads: Sequence[int] = (1, 2), machine: Machine | None = None) -> list[Case]:
    """Compiles all cases into one object, for this machine where none is given, and fills in `expected` and `results` (of the last number of
    threads); all numbers must give equal bits."""
    rng = np.random.default_rng(0)
    for case in cases:
        case.arrays = [a if isinstance(a, np.ndarray) else sample(a[0], a[1], rng) for a in case.operands]
    with nn.context(), ir.Location.unknown():
        module = ir.Module.create()
        plan, outputs = plan_of(module, cases)
        executable = compile_plan(plan, machine or host())
    code = LoadedObject(executable.code)
    found = [_run(code, executable, plan, cases, outputs, n) for n in threads]
    for other in found[1:]:
        for case, a, b in zip(cases, found[0], other):
            for x, y in zip(a, b):
                assert x.tobytes() == y.tobytes(), f"{case.name} differs with the number of threads"
    for case, arrays in zip(cases, found[-1]):
        case.results = arrays
    return list(cases)


def plan_of(module: ir.Module, cases: Sequence[Case]) -> tuple[Plan, list[list[TensorType]]]:
    """A plan that calls every case's kernel, with a port for each operand and result, and the types of the results; fills in `expected`."""
    calls: list[Step] = []
    ports, outputs = [], []
    for case in cases:
        types = [TensorType(dtypes.of_numpy(a.dtype), a.shape) for a in case.arrays]
        with ir.InsertionPoint(module.body):
            sources = [ir.Operation.create("test.source", [t.to_mlir()], [], {}).result for t in types]
            results = _results(case, types)
            kernel = Kernel.build(sources, results, case.kind, case.name, case.schedule)
        with ir.InsertionPoint(kernel.regions[0].blocks[0]):
            Yield.of(*_values(case.build(*kernel.regions[0].blocks[0].arguments)))
        kernel.check()
        places = []
        for k, t in enumerate([*types, *results]):
            places.append(Place("slot", len(ports)))
            ports.append(Port(f"{case.name}.{k}", "input" if k < len(types) else "output", t.dtype, t.shape, len(ports)))
        if case.kind == "put":  # writes into its base, which the planner puts where the result is
            calls.append(Copy(places[0], places[len(types)], types[0].bytes))
        calls.append(Call(kernel, tuple(places[: len(types)]), tuple(places[len(types) :])))
        outputs.append(results)
        wide = [reference.widen(a) for a in case.arrays]
        block = kernel.regions[0].blocks[0]
        case.expected = reference._run_block(block, dict(zip(block.arguments, wide)), None)
    return Plan("run", tuple(ports), tuple(calls), 0, b""), outputs


def _values(made: Any) -> list[Any]:
    return list(made) if isinstance(made, (list, tuple)) else [made]


def _results(case: Case, types: Sequence[TensorType]) -> list[TensorType]:
    """The result types, from a body built for that alone."""
    block = ir.Module.create()
    with ir.InsertionPoint(block.body):
        arguments = [ir.Operation.create("test.source", [t.to_mlir()], [], {}).result for t in types]
        return [type_of(v) for v in _values(case.build(*arguments))]


def _run(
    code: LoadedObject, executable: Any, plan: Plan, cases: Sequence[Case], outputs: list[list[TensorType]], threads: int
) -> list[list[np.ndarray]]:
    memory = zero_bytes(len(executable.constants) + executable.arena_bytes + threads * executable.scratch_bytes + 4096, 4096)
    memory[: len(executable.constants)] = np.frombuffer(executable.constants, np.uint8)
    table = (ctypes.c_void_p * max(len(plan.ports), 1))()
    kept, results, slot = [], [], 0
    for case, types in zip(cases, outputs):
        mine = []
        for a in case.arrays:
            kept.append(np.ascontiguousarray(a))
            table[slot] = kept[-1].ctypes.data
            slot += 1
        for t in types:
            mine.append(_guarded(t))
            table[slot] = mine[-1].ctypes.data
            slot += 1
        results.append(mine)
    pool = Pool(code, threads, pin=False)
    try:
        launch = code.function("dslc_launch", *LAUNCH)
        launch(code.symbols["dslc_plan"], threads, memory.ctypes.data, ctypes.addressof(table), pool.control)
    finally:
        pool.stop()
    for case, mine in zip(cases, results):
        for a in mine:
            border = a.base if a.base is not None else a
            assert (np.asarray(border).view(np.uint8)[-64:] == 0xA5).all(), f"{case.name} wrote behind its result"
    return results


def _guarded(t: TensorType) -> np.ndarray:
    """An array with 64 marked bytes behind it."""
    raw = np.full(t.bytes + 64, 0xA5, np.uint8)
    return np.ndarray(t.shape, t.dtype.numpy, raw)


def check(case: Case) -> None:
    """Every result against the reference: exact for integers and bools, else relative to 1 + |value|."""
    for found, expected in zip(case.results, case.expected):
        assert found.shape == expected.shape
        if found.dtype.kind in "biu":
            np.testing.assert_array_equal(found, expected, err_msg=case.name)
            continue
        tolerance = {1: 2**-2, 2: 2**-7 if found.dtype.name == "bfloat16" else 2**-10}.get(found.dtype.itemsize, case.tolerance)
        wide = found.astype(np.float64)
        same = (wide == expected) | (np.isnan(wide) & np.isnan(expected))
        with np.errstate(invalid="ignore"):
            near = np.abs(wide - expected) <= tolerance * (1 + np.abs(expected))
        assert (same | near).all(), f"{case.name}: {_worst(wide, expected)}"


def _worst(found: np.ndarray, expected: np.ndarray) -> str:
    with np.errstate(invalid="ignore"):
        error = np.where((found == expected) | (np.isnan(found) & np.isnan(expected)), 0, np.abs(found - expected) / (1 + np.abs(expected)))
    at = np.unravel_index(int(np.nanargmax(np.where(np.isnan(error), np.inf, error))), error.shape)
    return f"{found[at]} for {expected[at]} at {tuple(map(int, at))}; {int((error > 1e-5).sum())} of {error.size} are off"


def cached(cases: Callable[[], Sequence[Case]]) -> Callable[[], dict[str, Case]]:
    """A function that runs the cases at its first call and gives them by name."""

    @functools.cache
    def results() -> dict[str, Case]:
        return {case.name: case for case in run(cases())}

    return results
