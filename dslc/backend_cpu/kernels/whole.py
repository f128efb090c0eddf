"""Kernels around one op that needs an axis, or data, at once: where its results go, and the pointwise work behind it.

A result that the kernel yields as it is goes to its place; any other lies in the workspace, and a sweep makes the yielded values from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dslc.core.dtypes import FLOAT32, DType
from dslc.core.errors import UnsupportedOp
from dslc.ir import index
from dslc.ir.trace import Coordinates, Node, Read, Test, Trace
from dslc.ir.types import TensorType, spans_of, type_of

from .. import emit
from ..stage import Frame, Request, Stage
from .map import emit_sweep, sweep_of


def wide(dtype: DType) -> DType:
    """The type in which a dtype is kept in the workspace: narrow floats as float32."""
    return FLOAT32 if dtype.is_float and dtype.bits < 32 else dtype


@dataclass(frozen=True)
class Whole:
    """The op, the result of the kernel that each of its results is (None: kept in the workspace), where the workspace is free."""

    request: Request
    op: Any
    direct: tuple[int | None, ...]
    types: tuple[TensorType, ...]

    @staticmethod
    def of(request: Request, names: Sequence[str], exact: bool = True) -> Whole:
        """The one op of these names in a kernel. Without `exact` narrow floats, which the op would round at each step, go to the workspace."""
        ops = [op for op in request.body.ops if op.operation.name in names]
        if len(ops) != 1:
            raise UnsupportedOp(f"a kernel with {len(ops)} of {', '.join(names)}", [s for op in ops for s in spans_of(op.location)])
        direct: list[int | None] = []
        for value in ops[0].results:
            places = [k for k, v in enumerate(request.body.results) if v == value]
            narrow = wide(type_of(value).dtype) != type_of(value).dtype
            direct.append(places[0] if places and (exact or not narrow) else None)
        return Whole(request, ops[0], tuple(direct), tuple(type_of(v) for v in ops[0].results))

    def _offset(self, number: int) -> int:
        kept = [t for t, place in list(zip(self.types, self.direct))[:number] if place is None]
        return sum(-(-t.size * wide(t.dtype).bytes // 64) * 64 for t in kept)

    @property
    def workspace_bytes(self) -> int:
        return self._offset(len(self.types))

    def memory(self, frame: Frame, number: int) -> emit.Memory:
        """Where the op's result of this number is written."""
        place = self.direct[number]
        if place is not None:
            return frame.results[place]
        assert frame.workspace is not None
        t = self.types[number]
        return emit.memory_of(frame.workspace.ref, self._offset(number), wide(t.dtype), max(t.size, 1))

    def finish(self) -> list[Stage]:
        """The stage that makes the kernel's other results, if there are any."""
        values, request = list(self.op.results), self.request
        first = len(request.operands)

        def provide(trace: Trace, value: Any, at: Coordinates, tests: tuple[Test, ...]) -> Node | None:
            if value not in values:
                return None
            t = type_of(value)
            return Read(t.dtype, first + values.index(value), trace.tidy(index.linearize(at, t.shape)), tests)

        groups: dict[tuple[int, ...], list[int]] = {}
        for k, t in enumerate(request.results):
            if k not in self.direct and t.size:
                groups.setdefault(t.shape, []).append(k)
        sweeps = [sweep_of(request, numbers, provide) for numbers in groups.values()]

        def emit_all(frame: Frame) -> None:
            memories = tuple(self.memory(frame, k) for k in range(len(values)))
            extended = frame.with_operands(memories)
            for sweep in sweeps:
                emit_sweep(extended, sweep)

        return [Stage(emit_all)] if sweeps else []
