"""Kernels done op by op: every op that is not pointwise leaves its results in the workspace, and maps make the kernel's results from there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from dslc.ir import index
from dslc.ir.trace import Coordinates, Node, Read, Test, Trace
from dslc.ir.types import TensorType, type_of

from ..stage import Function, FunctionWriter, Generated, Generator, Memory, Parameter, Request
from ..types import accumulator
from .map import sweep_function, sweeps_of


def generate(request: Request, generator_of: Callable[[Any], Generator]) -> Generated:
    """Functions of every op that is not pointwise, in order, then sweeps for the results. `generator_of(op)` gives the generator of a single op."""
    heavy = request.body.heavy
    values: list[Any] = []
    offsets: list[int] = []
    functions: list[Function] = []
    tables: list[Any] = []
    includes: list[str] = []
    end = sum(_bytes(type_of(v)) for op in heavy for v in op.results)
    workspace, at = end, 0
    for number, op in enumerate(heavy):
        results = list(op.results)
        places = []
        for v in results:
            places.append(at)
            at += _bytes(type_of(v))
        sub = _sub_request(request, values, results, op, f"_{number}")
        generated = generator_of(op)(sub)
        moved = [_moved(f, request, offsets, places, end, len(tables)) for f in generated.functions]
        functions += moved
        tables += generated.tables
        includes += generated.includes
        workspace = max(workspace, end + generated.workspace_bytes)
        values += results
        offsets += places
    functions += _finish(request, values, offsets)
    return Generated(functions, workspace, tables, includes)


def _sub_request(request: Request, known: list[Any], results: list[Any], op: Any, suffix: str) -> Request:
    """The request for one op's results, with those of earlier ops as operands; what lies in the workspace is there in its wide type."""
    part = request.body.of_one(op, known)
    operands = (*request.operands, *map(_wide, known))
    aligned = (*request.aligned[: len(request.operands)], *(True for _ in (*known, *results)))
    return Request(request.name + suffix, part, operands, tuple(map(_wide, results)), request.arch, aligned, steady=request.steady)


def _wide(value: Any) -> TensorType:
    t = type_of(value)
    return t.with_dtype(accumulator(t.dtype))


def _bytes(t: TensorType) -> int:
    return -(-max(t.size, 1) * accumulator(t.dtype).bytes // 256) * 256


def _moved(function: Function, request: Request, offsets: Sequence[int], results: Sequence[int], end: int, table: int) -> Function:
    """A function of one op with its parameters as places of the whole kernel."""

    def moved(p: Parameter) -> Parameter:
        if p.source == "operand" and p.number >= len(request.operands):
            return replace(p, source="workspace", number=offsets[p.number - len(request.operands)])
        if p.source == "result":
            return replace(p, source="workspace", number=results[p.number])
        if p.source in ("workspace", "workspace_map"):
            return replace(p, number=end + p.number)
        return replace(p, number=table + p.number) if p.source == "table" else p

    return replace(function, parameters=tuple(map(moved, function.parameters)))


def _finish(request: Request, values: list[Any], offsets: list[int]) -> list[Function]:
    """The kernel's results, pointwise from its operands and the workspace."""

    def provide(trace: Trace, value: Any, at: Coordinates, tests: tuple[Test, ...]) -> Node | None:
        if value not in values:
            return None
        t = type_of(value)
        return Read(t.dtype, len(request.operands) + values.index(value), trace.tidy(index.linearize(at, t.shape)), tests)

    def buffer(w: FunctionWriter, k: int) -> Memory:
        return w.workspace(f"t{k}", offsets[k], type_of(values[k]))

    return [sweep_function(sweep, f"_results{n}") for n, sweep in enumerate(sweeps_of(request, provide, buffer))]
