"""Convolutions of each channel with a filter of its own: a vector of neighbouring places in a row, the taps unrolled.

A vector whose taps all lie inside the operand is computed without their tests; those at a border read under masks.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from dslc.core.dtypes import FLOAT32, FLOAT64
from dslc.ir import index
from dslc.ir.contractions import COLUMNS, TERMS, Contraction, Roles, roles_of
from dslc.ir.index import Const, Dim
from dslc.ir.rows import Unsuited
from dslc.ir.trace import Node, Read, Test, factor_of, symbols_of

from .. import emit
from ..gemm_schedule import lanes_for
from ..pull import Point, step_of
from ..scalars import Val
from ..space import lanes_for as lanes_of_axis
from ..ssa import computed
from ..stage import Frame, Generated, Request, Stage

Value = Any  # an ir.Value

MOST_TAPS = 49  # that are unrolled


def generate(request: Request, op: Any) -> Generated:
    """Unsuited for what is not a sum of few products along one side, reads an operand otherwise than by rows, or has results in another order."""
    roles, sizes = roles_of(op), op.maps().domain
    batch, rows, columns, terms = roles.classes
    if not columns or columns[-1] != op.type.rank - 1 or any(sizes[d] != 1 for d in rows) or not 0 < prod(sizes[d] for d in terms) <= MOST_TAPS:
        raise Unsuited
    if 0 in sizes or any(t.dtype.kind != "float" or t.dtype.bits < 32 for t in (*op.types(), op.type)):
        raise Unsuited
    kernel = _Depthwise(request, op, replace(roles, classes=(tuple(sorted([*batch, *columns[:-1]])), rows, columns[-1:], terms)))
    if kernel.scattered or not all(map(kernel.by_rows, kernel.operands)):
        raise Unsuited
    return Generated([Stage(kernel.build)])


class _Depthwise(Contraction):
    def __init__(self, request: Request, op: Any, roles: Roles) -> None:
        super().__init__(request.body, op, roles, request.body.results)
        self.dtype = FLOAT64 if op.type.dtype == FLOAT64 else FLOAT32
        self.lanes = lanes_of_axis(self.sizes[COLUMNS], lanes_for(request.machine, self.dtype))
        reads = [node for node in self.operands if isinstance(node, Read)]
        self.inside = [replace(node, tests=()) for node in reads]
        self.tests = list(dict.fromkeys(t for node in reads for t in node.tests))
        self.corners = [self.corner(last) for last in (False, True)]

    def by_rows(self, node: Node) -> bool:
        """Whether an operand is read along the row, with tests that fail at its ends alone."""
        if not isinstance(node, Read) or symbols_of(node.address):
            return False
        step = step_of(node.address, COLUMNS, self.lanes, lambda e: COLUMNS in index.dims_of(e))
        return step in (0, 1, 2) and all((factor_of(t.expr, COLUMNS) or 0) >= 0 and factor_of(t.expr, COLUMNS) is not None for t in node.tests)

    def corner(self, last: bool) -> list[Test]:
        """The tests at the tap where each is first, or last, to fail as the row goes on."""
        found = []
        for t in self.tests:
            at = [self.trace.tidy(index.substitute(t.expr, [Dim(0), Dim(1), Dim(2), Const(tap)])) for tap in range(self.sizes[TERMS])]
            offsets = [self.trace.tidy(e - at[0]) for e in at]
            if not all(isinstance(o, Const) for o in offsets):
                raise Unsuited
            key = [o.value for o in offsets]  # type: ignore[attr-defined]
            found.append(Test(at[key.index((max if last else min)(key))], t.size))
        return found

    def build(self, frame: Frame) -> None:
        """The threads share the rows."""
        low, high = emit.share(self.sizes[0], frame.tid, frame.threads)
        width = self.sizes[COLUMNS]

        def row(batch: Value) -> None:
            def part(n: Value, lanes: int, mask: Value) -> None:
                self.vector(frame, batch, n, lanes, mask)

            emit.vector_loop(0, width, self.lanes, part)

        emit.loop(low, high, 1, row)

    def point(self, frame: Frame, batch: Value, n: Any, tap: int, lanes: int, mask: Value = None) -> Point:
        dims = [emit.idx(batch), frame.b.index(0), emit.idx(n), frame.b.index(tap)]
        return Point(frame.b, self.trace, frame.operands, dims, COLUMNS, lanes, mask)

    def vector(self, frame: Frame, batch: Value, n: Value, lanes: int, mask: Value) -> None:
        def sums(nodes: list[Any]) -> list[Value]:
            total = frame.b.const(computed(self.dtype), 0.0, lanes)
            for tap in range(self.sizes[TERMS]):
                point = self.point(frame, batch, n, tap, lanes, mask)
                a, b = (self.spread(point, point.value(node), lanes) for node in nodes)
                total = emit.fma(a, b, total)
            return [total]

        if self.tests and mask is None:
            total = emit.choose(self.all_inside(frame, batch, n, lanes), [frame.b.const(computed(self.dtype), 0.0, lanes).type],
                                lambda: sums(self.inside), lambda: sums(list(self.operands)))[0]  # fmt: skip
        else:
            total = sums(list(self.operands))[0]
        self.store(frame, Val(total, self.op.type.dtype, lanes), batch, n, mask)

    def all_inside(self, frame: Frame, batch: Value, n: Value, lanes: int) -> Value:
        """Whether every tap of every lane lies inside: the first lane's lowest and the last lane's highest tell."""
        points = [self.point(frame, batch, at, 0, 1) for at in (n, emit.iadd(n, lanes - 1))]
        first, last = (point.all_of(tests).ssa for point, tests in zip(points, self.corners))
        return frame.b.same("arith.andi", first, last)

    def spread(self, point: Point, v: Val, lanes: int) -> Value:
        """A value in the type of the sums, in every lane."""
        ssa = v.ssa if computed(v.dtype) == computed(self.dtype) else point.s.cast(v, v.dtype, self.dtype).ssa
        return ssa if v.lanes == lanes else point.b.spread(ssa, computed(self.dtype), lanes)

    def store(self, frame: Frame, value: Val, batch: Value, n: Value, mask: Value) -> None:
        def given(_point: Point, _node: Node) -> Val:
            return value

        point = self.point(frame, batch, n, 0, value.lanes, mask)
        point.given = given
        made = [point.value(node) for node, _ in self.results]
        for v, (_, address), memory in zip(made, self.results, frame.results):
            point.store(v, memory, address)
