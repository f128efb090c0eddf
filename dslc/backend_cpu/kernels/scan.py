"""Cumulative kernels: a running fold along one axis, with pointwise work before and behind it.

Rows are shared between threads; where the axis is not the last one, neighbouring rows are the lanes. Sums and products of float32 run in float64.
"""

from __future__ import annotations

from math import prod
from typing import Any

from dslc.core.dtypes import FLOAT64
from dslc.ir import index
from dslc.ir.index import Dim, Expr
from dslc.ir.ops.reduction import KINDS, identity
from dslc.ir.trace import Node, Trace
from dslc.ir.types import type_of

from .. import emit
from ..pull import Point
from ..scalars import Val
from ..space import lanes_for, unravel
from ..ssa import computed
from ..stage import Frame, Generated, Request, Stage
from .whole import Whole

Value = Any  # an ir.Value


def generate(request: Request) -> Generated:
    """One stage, and one more where other results are made from the running fold."""
    whole = Whole.of(request, ["nn.cumulative"])
    if whole.types[0].size == 0:
        return Generated(())
    return Generated([Stage(lambda frame: _emit(frame, whole)), *whole.finish()], whole.workspace_bytes)


def line_axes(shape: tuple[int, ...], axis: int) -> tuple[tuple[int, ...], tuple[Expr, ...]]:
    """(sizes, axes) of the nest (what is before the axis, the axis, what is behind it)."""
    before, behind = shape[:axis], shape[axis + 1 :]
    axes = [*index.delinearize(Dim(0), before), Dim(1), *index.delinearize(Dim(2), behind)]
    return (prod(before), shape[axis], prod(behind)), tuple(axes)


def _emit(frame: Frame, whole: Whole) -> None:
    op, b = whole.op, frame.b
    shape = type_of(op.x).shape
    sizes, axes = line_axes(shape, op.axis)
    trace = Trace(whole.request.body, sizes)
    axes = tuple(trace.tidy(e) for e in axes)
    node = trace.at(op.x, axes)
    address = trace.tidy(index.linearize(axes, shape))
    lanes = lanes_for(sizes[2], whole.request.machine.lanes)
    pieces = -(-sizes[2] // lanes)
    out = whole.memory(frame, 0)
    first, last = emit.share(sizes[0] * pieces, frame.tid, frame.threads)

    def line(t: Value) -> None:
        row, piece = unravel(frame, t, [sizes[0], pieces])
        start = b.mul(piece, lanes)
        mask = emit.mask_below(emit.isub(sizes[2], start), lanes) if sizes[2] % lanes else None
        _run(frame, whole, trace, node, address, out, (row, start), lanes, mask)

    emit.loop(first, last, 1, line)


def _run(frame: Frame, whole: Whole, trace: Trace, node: Node, address: Expr, out: emit.Memory, place: tuple[Value, Value], lanes: int,
         mask: Value) -> None:  # fmt: skip
    """One line, or `lanes` neighbouring ones."""
    op, b, n = whole.op, frame.b, trace.sizes[1]
    dtype = node.dtype
    kept = FLOAT64 if dtype.is_float and op.kind in ("sum", "prod") else dtype
    combine = KINDS[op.kind][2]

    def turn(t: Value, carried: Value) -> list[Value]:
        i = b.sub(b.index(n - 1), t) if op.reverse else t
        point = Point(b, trace, frame.operands, [place[0], i, place[1]], 2, lanes, mask)
        s = point.s
        x = s.cast(point.value(node), dtype, kept)
        before = Val(carried, kept, lanes)
        after = getattr(s, combine)(before, x)
        point.store(s.cast(before if op.exclusive else after, kept, dtype), out, address)
        return [after.ssa]

    emit.loop(0, n, 1, turn, [b.const(computed(kept), identity(op.kind, dtype), lanes)])
