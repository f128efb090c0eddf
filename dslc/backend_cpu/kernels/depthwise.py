"""Convolutions of each channel with a filter of its own: a vector of neighbouring places in some rows at once, or where channels lie last of channels
at some neighbouring places; the taps unrolled.

What several rows, or places, read is loaded once. Vectors whose taps all lie inside the operand are computed without their tests; those at a border
read under masks.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from dslc.core.dtypes import FLOAT32, FLOAT64
from dslc.ir import index
from dslc.ir.contractions import BATCH, COLUMNS, ROWS, TERMS, Contraction, Roles, roles_of
from dslc.ir.index import Const, Dim, Expr
from dslc.ir.rows import Unsuited
from dslc.ir.trace import Node, Read, Test, factor_of, symbols_of, tidy

from .. import emit
from ..gemm_schedule import lanes_for
from ..pull import Point, step_of
from ..scalars import Val
from ..space import lanes_for as lanes_of_axis
from ..ssa import computed
from ..stage import Frame, Generated, Request, Stage

Value = Any  # an ir.Value

MOST_TAPS = 49  # that are unrolled
MOST_SUMS = 72  # products that are unrolled, in the code of a vector: with tests and without, there are two
MOST_OF_CHANNELS = 200  # the same where vectors are channels, and places share the filters too
MOST_PLACES = 7  # at once


def generate(request: Request, op: Any) -> Generated:
    """Unsuited for what is not a sum of few products along one side, reads an operand otherwise than by rows, or has results in another order."""
    roles, sizes = roles_of(op), op.maps().domain
    batch, rows, columns, terms = roles.classes
    if 0 in sizes or any(t.dtype.kind != "float" or t.dtype.bits < 32 for t in (*op.types(), op.type)) or prod(sizes[d] for d in terms) > MOST_TAPS:
        raise Unsuited
    alone, places = sorted((rows, columns), key=lambda side: prod(sizes[d] for d in side))
    if prod(sizes[d] for d in alone) != 1 or not places:
        raise Unsuited
    if places[-1] == op.type.rank - 1:
        outer, down, along = [*batch, *alone, *places[:-2]], places[-2:-1], places[-1:]
    elif batch and batch[-1] > places[-1]:
        outer, down, along = [*batch[:-1], *alone, *places[:-1]], places[-1:], batch[-1:]
    else:
        raise Unsuited
    made = replace(roles, classes=(tuple(sorted(outer)), tuple(down), tuple(along), terms))
    by_channels = along[0] in batch
    kernels = [_Depthwise(request, op, made, by_channels)]
    if kernels[0].rest:
        kernels.append(_Depthwise(request, op, made, by_channels, kernels[0]))
    if any(kernel.scattered or not all(map(kernel.by_rows, kernel.operands)) for kernel in kernels):
        raise Unsuited

    def build(frame: Frame) -> None:
        for kernel in kernels:
            kernel.build(frame)

    return Generated([Stage(build)])


class _Depthwise(Contraction):
    """`together`: rows, or places of a row, that are done at once, from the row `first` on; `rest`: how many are left behind the last group.
    `taps[r]`: for each tap the operands' reads for the r-th of them, `inside[r]` those without tests. In these reads ROWS is the number of the group,
    and what rows share is one node. `before`: the kernel whose rest this one does."""

    def __init__(self, request: Request, op: Any, roles: Roles, by_channels: bool, before: _Depthwise | None = None) -> None:
        super().__init__(request.body, op, roles, request.body.results)
        self.dtype = FLOAT64 if op.type.dtype == FLOAT64 else FLOAT32
        self.lanes = lanes_of_axis(self.sizes[COLUMNS], lanes_for(request.machine, self.dtype))
        self.tests = list(dict.fromkeys(t for node in self.operands if isinstance(node, Read) for t in node.tests))
        versions = 2 if self.tests and self.sizes[COLUMNS] >= self.lanes else 1
        self.by_channels, self.first, self.rest = by_channels, 0, 0
        if before:
            self.first, self.together = self.sizes[ROWS] - before.rest, before.rest
        elif by_channels:
            self.together = min(max(1, MOST_OF_CHANNELS // (versions * self.sizes[TERMS])), MOST_PLACES, self.sizes[ROWS])
            self.rest = self.sizes[ROWS] % self.together
        else:
            most = max(1, MOST_SUMS // (versions * self.sizes[TERMS]))
            self.together = next(n for n in range(most, 0, -1) if self.sizes[ROWS] % n == 0)
        self.groups = (self.sizes[BATCH], (self.sizes[ROWS] - self.first) // self.together, self.sizes[COLUMNS], 1)
        self.corners = [self.corner(last) for last in (False, True)]
        known: dict[Any, Read] = {}
        self.taps, self.inside = ([[[self.read(known, node, r, tap, tests) for node in self.operands] for tap in range(self.sizes[TERMS])]
                                   for r in range(self.together)] for tests in (True, False))  # fmt: skip

    def by_rows(self, node: Node) -> bool:
        """Whether an operand is read along the row, with tests that fail at its ends alone."""
        if not isinstance(node, Read) or symbols_of(node.address):
            return False
        step = step_of(node.address, COLUMNS, self.lanes, lambda e: COLUMNS in index.dims_of(e))
        return step in (0, 1, 2) and all((factor_of(t.expr, COLUMNS) or 0) >= 0 and factor_of(t.expr, COLUMNS) is not None for t in node.tests)

    def at(self, e: Expr, r: int, tap: int) -> Expr:
        """An expression at a tap of the r-th row of a group."""
        return tidy(index.substitute(e, [Dim(0), Dim(1) * self.together + (self.first + r), Dim(2), Const(tap)]), self.groups)

    def read(self, known: dict[Any, Read], node: Node, r: int, tap: int, tested: bool) -> Read:
        if not isinstance(node, Read):
            raise Unsuited
        tests = tuple(Test(self.at(t.expr, r, tap), t.size) for t in node.tests) if tested else ()
        address = self.at(node.address, r, tap)
        return known.setdefault((node.operand, address, tests), Read(node.dtype, node.operand, address, tests))

    def corner(self, last: bool) -> list[Test]:
        """The tests at the row and the tap where each is first, or last, to fail as the row goes on."""
        found = []
        for t in self.tests:
            at = [self.at(t.expr, r, tap) for r in range(self.together) for tap in range(self.sizes[TERMS])]
            offsets = [tidy(e - at[0], self.groups) for e in at]
            if not all(isinstance(o, Const) for o in offsets):
                raise Unsuited
            key = [o.value for o in offsets]  # type: ignore[attr-defined]
            found.append(Test(at[key.index((max if last else min)(key))], t.size))
        return found

    def build(self, frame: Frame) -> None:
        """The threads share the groups of rows."""
        low, high = emit.share(self.groups[BATCH] * self.groups[ROWS], frame.tid, frame.threads)

        def group(t: Value) -> None:
            batch, rows = emit.idiv(t, self.groups[ROWS]), emit.irem(t, self.groups[ROWS])
            start = [emit.idx(batch), emit.idx(rows), frame.b.index(0), frame.b.index(0)]

            def vectors(taps: list[list[list[Read]]] | None) -> list[Value]:
                def part(n: Value, lanes: int, mask: Value) -> None:
                    self.vector(frame, [*start[:COLUMNS], emit.idx(n), start[TERMS]], lanes, mask, taps)

                emit.vector_loop(0, self.sizes[COLUMNS], self.lanes, part)
                return []

            if self.by_channels and self.tests:  # which the channel does not change
                emit.choose(self.all_inside(frame, start, 1), [], lambda: vectors(self.inside), lambda: vectors(self.taps))
            else:
                vectors(None if self.tests else self.taps)

        emit.loop(low, high, 1, group)

    def point(self, frame: Frame, dims: list[Value], lanes: int, mask: Value = None) -> Point:
        return Point(frame.b, self.trace, frame.operands, dims, COLUMNS, lanes, mask)

    def vector(self, frame: Frame, dims: list[Value], lanes: int, mask: Value, known: list[list[list[Read]]] | None) -> None:
        """The rows of a group at `lanes` places. `known`: the reads; None: those that the place's tests allow."""
        zero = frame.b.const(computed(self.dtype), 0.0, lanes)

        def sums(taps: list[list[list[Read]]]) -> list[Value]:
            point, totals = self.point(frame, dims, lanes, mask), [zero] * self.together
            loaded: dict[int, Value] = {}
            for tap in range(self.sizes[TERMS]):
                for r in range(self.together):
                    for node in taps[r][tap]:
                        if id(node) not in loaded:
                            loaded[id(node)] = self.spread(point, point.value(node), lanes)
                    a, b = (loaded[id(node)] for node in taps[r][tap])
                    totals[r] = emit.fma(a, b, totals[r])
            return totals

        if known is None and mask is None:
            inside = self.all_inside(frame, dims, lanes)
            totals = emit.choose(inside, [zero.type] * self.together, lambda: sums(self.inside), lambda: sums(self.taps))
        else:
            totals = sums(known or self.taps)
        for r, total in enumerate(totals):
            row = emit.idx(emit.iadd(emit.imul(dims[ROWS], self.together), self.first + r))
            self.store(frame, Val(total, self.op.type.dtype, lanes), [dims[BATCH], row, *dims[COLUMNS:]], mask)

    def all_inside(self, frame: Frame, dims: list[Value], lanes: int) -> Value:
        """Whether every tap of every row and lane lies inside: the first lane's lowest and the last lane's highest tell."""
        ends = (dims[COLUMNS], emit.iadd(dims[COLUMNS], lanes - 1))
        points = [self.point(frame, [*dims[:COLUMNS], at, dims[TERMS]], 1) for at in ends]
        first, last = (point.all_of(tests).ssa for point, tests in zip(points, self.corners))
        return frame.b.same("arith.andi", first, last)

    def spread(self, point: Point, v: Val, lanes: int) -> Value:
        """A value in the type of the sums, in every lane."""
        ssa = v.ssa if computed(v.dtype) == computed(self.dtype) else point.s.cast(v, v.dtype, self.dtype).ssa
        return ssa if v.lanes == lanes else point.b.spread(ssa, computed(self.dtype), lanes)

    def store(self, frame: Frame, value: Val, dims: list[Value], mask: Value) -> None:
        def given(_point: Point, _node: Node) -> Val:
            return value

        point = self.point(frame, dims, value.lanes, mask)
        point.given = given
        made = [point.value(node) for node, _ in self.results]
        for v, (_, address), memory in zip(made, self.results, frame.results):
            point.store(v, memory, address)
