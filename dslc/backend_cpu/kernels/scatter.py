"""Scatter kernels: every output element has one owner, who goes through the updates in their order, so sums are the same on any number of threads.

Where the updates are wide their columns are shared between the threads; else the rows of the output are, and each thread skips the others' rows.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from dslc.ir import index
from dslc.ir.index import Symbol
from dslc.ir.space import Space, collapse
from dslc.ir.trace import Node, Test, Trace, divisions, invariant, survey
from dslc.ir.types import type_of

from .. import emit
from ..folds import Folding
from ..pull import Point
from ..scalars import Val
from ..space import lanes_for, unravel, vectors
from ..stage import Frame, Generated, Request, Stage
from .whole import Whole

Value = Any  # an ir.Value

WIDE = 64  # elements of an update from which on its columns are shared


class Scatter:
    """The traces of a scatter over (its points, its columns): the update, the place it goes to, the tests that the place exists."""

    def __init__(self, whole: Whole) -> None:
        self.whole = whole
        op, body = whole.op, whole.request.body
        self.ids_shape = type_of(op.operands[1]).shape
        update = type_of(op.operands[0])
        self.rank = len(self.ids_shape)
        self.space: Space = collapse(update.shape, self._cost, borders=[self.rank])
        self.points = len({d for e in self.space.axes[: self.rank] for d in index.dims_of(e)})
        self.trace = Trace(body, self.space.sizes)
        axes = self.space.axes
        self.node = self.trace.at(op.operands[0], axes)
        where: list[index.Expr] = []
        self.tests: list[Test] = []
        for k, n in enumerate(op.sizes):
            node = self.trace.at(op.operands[1 + k], axes[: self.rank])
            number = next((m for m, known in self.trace.symbols.items() if known is node), len(self.trace.symbols))
            self.trace.symbols[number] = node
            where.append(Symbol(number))
            self.tests.append(Test(Symbol(number), n))
        rows = whole.types[0].shape[: op.batch + len(op.sizes)]
        self.rows = prod(rows)
        self.row = self.trace.tidy(index.linearize([*axes[: op.batch], *where], rows))
        self.columns = prod(update.shape[self.rank :])
        column = self.trace.tidy(index.linearize(axes[self.rank :], update.shape[self.rank :]))
        self.address = self.row * self.columns + column
        self.folding = Folding(op.kind, op.type.dtype, self.node)

    def _cost(self, space: Space) -> int:
        trace, op = Trace(self.whole.request.body, space.sizes), self.whole.op
        roots = [trace.at(op.operands[0], space.axes), *(trace.at(v, space.axes[: self.rank]) for v in list(op.operands)[1:])]
        found = survey(trace, roots)
        column = trace.tidy(index.linearize(space.axes[self.rank :], type_of(op.operands[0]).shape[self.rank :]))
        return 16 * (found.divisions + divisions(column)) + len(found.reads)


def generate(request: Request) -> Generated:
    """One stage, and one more where pointwise work follows."""
    whole = Whole.of(request, ["nn.scatter"], exact=False)
    if whole.types[0].size == 0:
        return Generated(whole.finish(), whole.workspace_bytes)
    stages = [Stage(lambda frame: _emit(frame, Scatter(whole)))]
    return Generated([*stages, *whole.finish()], whole.workspace_bytes)


def _emit(frame: Frame, scatter: Scatter) -> None:
    out = scatter.whole.memory(frame, 0)
    machine = scatter.whole.request.machine
    trailing = len(scatter.space.sizes) - scatter.points
    if scatter.columns >= WIDE and trailing == 1:
        lanes = lanes_for(scatter.columns, machine.lanes)
        low, high = emit.share_in_steps(scatter.columns, lanes, frame.tid, frame.threads)
        _fill(frame, scatter, out, (0, scatter.rows), (low, high), lanes)
        _walk(frame, scatter, out, None, (low, high), lanes)
        return
    lanes = lanes_for(scatter.columns, machine.lanes) if trailing == 1 else 1
    rows = emit.share(scatter.rows, frame.tid, frame.threads)
    _fill(frame, scatter, out, rows, (0, scatter.columns), lanes)
    _walk(frame, scatter, out, rows, (0, scatter.columns), lanes)


def _fill(frame: Frame, scatter: Scatter, out: emit.Memory, rows: tuple[Any, Any], columns: tuple[Any, Any], lanes: int) -> None:
    """What nothing reaches has the fold's empty value."""
    b, n = frame.b, scatter.columns

    def row(r: Value) -> None:
        start = b.mul(r, n)

        def at(c: Value, mask: Value) -> None:
            out.store(scatter.folding.start(b, lanes)[0].ssa, [b.add(start, c)], mask)

        vectors(*columns, n, lanes, at)

    emit.loop(*rows, 1, row)


def _walk(frame: Frame, scatter: Scatter, out: emit.Memory, rows: tuple[Any, Any] | None, columns: tuple[Any, Any], lanes: int) -> None:
    """All updates in their order; those that go to `rows` (None: to any row) are folded in."""
    b, trace, sizes = frame.b, scatter.trace, scatter.space.sizes
    moving = set(range(scatter.points, len(sizes)))
    hoisted = invariant(trace, [scatter.node], moving)

    def visit(at: list[Value]) -> None:
        fixed = Point(b, trace, frame.operands, [*at, *[b.index(0)] * len(moving)])
        inside = fixed.all_of(scatter.tests).ssa
        if rows is not None:
            row = b.select(inside, fixed.scalar(scatter.row), b.index(scatter.rows))
            mine = b.same("arith.subi", row, emit.idx(rows[0]))
            inside = b.compare("lt", mine, b.same("arith.subi", emit.idx(rows[1]), emit.idx(rows[0])), "uint", 1)
        emit.when(inside, lambda: _fold_row(frame, scatter, out, fixed.dims, [(n, fixed.value(n)) for n in [*hoisted, *trace.symbols.values()]],
                                            columns, lanes))  # fmt: skip

    _nest(sizes[: scatter.points], visit)


def _nest(sizes: tuple[int, ...], body: Callable[[list[Value]], None], at: tuple[Value, ...] = ()) -> None:
    """Loops over all points of some dims, in row-major order."""
    if not sizes:
        body(list(at))
        return
    emit.loop(0, sizes[0], 1, lambda i: _nest(sizes[1:], body, (*at, i)))


def _fold_row(frame: Frame, scatter: Scatter, out: emit.Memory, dims: list[Value], known: list[tuple[Node, Val]], columns: tuple[Any, Any],
              lanes: int) -> None:  # fmt: skip
    b, trace, sizes = frame.b, scatter.trace, scatter.space.sizes
    last = len(sizes) - 1

    def at(place: list[Value], mask: Value) -> None:
        point = Point(b, trace, frame.operands, place, last if lanes > 1 else None, lanes, mask)
        for node, value in known:
            point.set(node, value)
        value = point.value(scatter.node)
        address = point.scalar(scatter.address)
        dtype = scatter.folding.dtype
        have = Val(out.load([address], lanes, mask), dtype, lanes)
        made = scatter.folding.combine(point.s, [have], [value])[0]
        out.store(made.ssa, [address], mask)

    if len(sizes) == scatter.points:
        at(dims, None)
    elif len(sizes) == scatter.points + 1:
        vectors(*columns, sizes[last], lanes, lambda c, mask: at([*dims[:last], c], mask))
    else:
        trailing = sizes[scatter.points :]
        emit.loop(0, prod(trailing), 1, lambda c: at([*dims[: scatter.points], *unravel(frame, c, trailing)], None))
