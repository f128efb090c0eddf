"""Kernels of any body: each op that needs memory of its own becomes a kernel in turn, its results kept in the workspace.

Every generator falls back to this where a body is not of its shape. Pointwise ops still need no memory: each kernel pulls what it reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dslc.core.dtypes import UINT8
from dslc.ir.trace import Body
from dslc.ir.types import TensorType, type_of

from .. import emit
from ..stage import Frame, Generated, Generator, Request, Stage, request_of
from .map import emit_sweep, sweep_of
from .whole import wide


@dataclass(frozen=True)
class _Part:
    """One op's kernel: what was generated, where its workspace and tables begin, the buffers it reads and those it writes."""

    generated: Generated
    workspace: int
    table: int
    reads: int
    writes: int


def generate(request: Request, generator_of: Callable[[Any], Generator]) -> Generated:
    """A kernel for every op that is not pointwise, in order, then sweeps for the results. `generator_of(op)` gives the generator of a single op."""
    heavy = request.body.heavy
    values: list[Any] = []
    parts: list[_Part] = []
    tables: list[Any] = []
    buffers_bytes = sum(_bytes(type_of(v)) for op in heavy for v in op.results)
    workspace = buffers_bytes
    for op in heavy:
        body = request.body.of_one(op, values)
        generated = generator_of(op)(request_of(body, request.machine))
        parts.append(_Part(generated, buffers_bytes, len(tables), len(values), len(op.results)))
        tables += generated.tables
        workspace = max(workspace, buffers_bytes + generated.workspace_bytes)
        values += op.results
    types = [type_of(v) for v in values]
    stages = [Stage(_staged(stage, part, types), stage.scratch_bytes) for part in parts for stage in part.generated.stages]
    return Generated([*stages, *_finish(request, values, types)], max(workspace, 1), tables)


def _bytes(t: TensorType) -> int:
    return -(-max(t.size, 1) * wide(t.dtype).bytes // 64) * 64


def _buffers(frame: Frame, types: list[TensorType]) -> list[emit.Memory]:
    assert frame.workspace is not None
    out, offset = [], 0
    for t in types:
        out.append(emit.memory_of(frame.workspace.ref, offset, wide(t.dtype), max(t.size, 1)))
        offset += _bytes(t)
    return out


def _staged(stage: Stage, part: _Part, types: list[TensorType]) -> Callable[[Frame], None]:
    def emit_stage(frame: Frame) -> None:
        assert frame.workspace is not None
        memories = _buffers(frame, types[: part.reads + part.writes])
        workspace = None
        if part.generated.workspace_bytes:
            workspace = emit.memory_of(frame.workspace.ref, part.workspace, UINT8, part.generated.workspace_bytes)
        tables = frame.tables[part.table : part.table + len(part.generated.tables)]
        operands = (*frame.operands, *memories[: part.reads])
        stage.emit(Frame(frame.b, frame.tid, frame.threads, frame.scratch, operands, tuple(memories[part.reads :]), workspace, tables))

    return emit_stage


def _finish(request: Request, values: list[Any], types: list[TensorType]) -> list[Stage]:
    """The kernel's results, pointwise from its operands and the buffers."""
    body = request.body
    makers = {v: maker for v, maker in body.makers.items() if v not in values}
    whole = Request(Body([*body.operands, *values], makers, body.results, body.tables), (*request.operands, *types), request.results, request.machine)
    groups: dict[tuple[int, ...], list[int]] = {}
    for k, t in enumerate(request.results):
        if t.size:
            groups.setdefault(t.shape, []).append(k)
    sweeps = [sweep_of(whole, numbers) for numbers in groups.values()]

    def emit_all(frame: Frame) -> None:
        extended = frame.with_operands(_buffers(frame, types))
        for sweep in sweeps:
            emit_sweep(extended, sweep)

    return [Stage(emit_all)] if sweeps else []
