"""Convolutions' results as rows of places: what is read for neighbouring places of one row lies in neighbouring or every second element."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from dslc.core.dtypes import FLOAT32
from dslc.ir import index
from dslc.ir.contractions import Contraction, Roles
from dslc.ir.index import Const, Dim, Expr
from dslc.ir.mlir import vector
from dslc.ir.rows import Unsuited
from dslc.ir.trace import Body, Node, Read, Test, Trace, factor_of

from .. import emit, gemm
from ..pull import Point
from ..scalars import Val
from ..ssa import computed
from ..stage import Frame

Value = Any  # an ir.Value

OUTER, ROWS, HIGH, WIDE, CHANNELS = range(5)  # the first dims of the iteration space: of other axes, filters, places, channels


class Places(Contraction):
    """A contraction over finer dims than others have. `lanes`: places of a row that are computed at once."""

    lanes: int

    def over(self, body: Body, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sizes)  # type: ignore[assignment]
        self.scattered = False
        self.trace = Trace(body, self.sizes, self._provide)

    def dims(self, known: dict[int, Any]) -> list[Value]:
        """A point's indices; those that are not given are 0."""
        return [emit.idx(known.get(k, 0)) for k in range(len(self.sizes))]

    def wide(self, point: Point, node: Read, lanes: int) -> Value:
        """A value in every lane."""
        v = point.value(node)
        return v.ssa if v.lanes == lanes else point.b.spread(v.ssa, computed(FLOAT32), lanes)

    def store(self, frame: Frame, value: Value, at: dict[int, Any], mask: Value, along: int = WIDE) -> None:
        """The epilogue and the results, of sums at neighbouring places, or of neighbours along another dim."""
        given = Val(value, FLOAT32, self.lanes)
        point = Point(frame.b, self.trace, frame.operands, self.dims(at), along, self.lanes, mask, lambda _point, _node: given)
        made = [point.value(node) for node, _ in self.results]
        for v, (_, address), memory in zip(made, self.results, frame.results):
            point.store(v, memory, address)


def read_of(trace: Trace, op: Any, k: int) -> Read:
    """What an op reads of operand k, over the axes of its domain. Unsuited where that is not one element."""
    maps = op.maps()
    node, _ = trace.operand_at(op, maps, k, tuple(Dim(d) for d in range(len(maps.domain))), ())
    if not isinstance(node, Read):
        raise Unsuited
    return node


def replaced(read: Read, axes: Sequence[Expr], trace: Trace) -> Read:
    """A read with other expressions for the axes."""

    def put(e: Expr) -> Expr:
        return trace.tidy(index.substitute(e, axes))

    return Read(read.dtype, read.operand, put(read.address), tuple(Test(put(t.expr), t.size) for t in read.tests))


# ---- the columns of a plain product

BATCH, ROW, PLACE, TERM = range(4)  # dims; PLACE goes by the elements that are read


@dataclass(frozen=True)
class Rows:
    """Columns in rows of `width` places, whose reads are `step` elements apart, 1 or 2. `reach`: for each test its expression at the first term, and
    by how much that of another term is less or more."""

    trace: Trace
    read: Read
    width: int
    step: int
    reach: tuple[tuple[Test, int, int], ...]

    def packed(self, frame: Frame) -> gemm.RowsOfColumns:
        untested = Read(self.read.dtype, self.read.operand, self.read.address, ())

        def loader(read: Read) -> Callable[..., Value]:
            return lambda batch, row, x, k, lanes, mask: self.load(frame, read, (batch, row, x, k), lanes, mask)

        return gemm.RowsOfColumns(self.width, loader(self.read), lambda *at: self.inside(frame, *at), loader(untested))

    def point(self, frame: Frame, at: tuple[Any, Any, Any, Any], skip: int, lanes: int, mask: Value) -> Point:
        batch, row, x, k = at
        dims = [emit.idx(v) for v in (batch, row, emit.iadd(emit.imul(x, self.step), skip), k)]
        return Point(frame.b, self.trace, frame.operands, dims, PLACE, lanes, mask)

    def load(self, frame: Frame, read: Read, at: tuple[Any, Any, Any, Any], lanes: int, mask: Value) -> Value:
        """Values of neighbouring places: a vector, or every second element of two."""

        def part(skip: int) -> Value:
            value = self.point(frame, at, skip, lanes, mask if self.step == 1 else None).value(read)
            return value.ssa if value.lanes == lanes else frame.b.spread(value.ssa, computed(FLOAT32), lanes)

        return part(0) if self.step == 1 else vector.shuffle(part(0), part(lanes), list(range(0, 2 * lanes, 2)))

    def inside(self, frame: Frame, batch: Any, row: Any, x: Any, lanes: int) -> Value:
        """Whether every element that a vector of places loads, for any term, is there."""
        found = frame.b.const("i1", True)
        point = self.point(frame, (batch, row, x, 0), 0, 1, None)
        for t, less, more in self.reach:
            first = point.scalar(t.expr)
            last = emit.iadd(first, more + (factor_of(t.expr, PLACE) or 0) * (self.step * lanes - 1))
            for test in (emit.icmp("ge", first, -less), emit.icmp("lt", last, t.size)):
                found = frame.b.same("arith.andi", found, test)
        return found


def of(body: Body, op: Any, roles: Roles, columns: Node, lanes: int) -> Rows | None:
    """The rows of a product's columns, where these as one range would be read element by element. `columns`: what the product reads of them."""
    batch, _, members, terms = roles.classes
    if not isinstance(columns, Read) or columns.dtype != FLOAT32 or len(members) < 2 or factor_of(columns.address, 2) is not None:
        return None
    domain, last = op.maps().domain, members[-1]
    if domain[last] % lanes == 0:
        return None
    raw = Trace(body, domain)
    try:
        read = read_of(raw, op, 1 - roles.rows_of)
    except Unsuited:
        return None
    forms = [index.coefficients(e, len(domain)) for e in (read.address, *(t.expr for t in read.tests))]
    step = forms[0][0][last] if forms[0] else 0
    if step not in (1, 2) or any(f is None or f[0][last] % step or f[0][last] < 0 for f in forms):
        return None
    fine = step * (domain[last] - 1) + 1
    sizes = [prod(domain[d] for d in axes) for axes in (batch, members[:-1], terms)]
    trace = Trace(body, (*sizes[:2], fine + 1, sizes[2]))
    axes: list[Expr] = [Const(0)] * len(domain)
    for dim, group in ((BATCH, batch), (ROW, members[:-1]), (TERM, terms)):
        for d, e in zip(group, index.delinearize(Dim(dim), [domain[d] for d in group])):
            axes[d] = trace.tidy(e)
    axes[last] = Dim(PLACE)
    whole = replaced(by_elements(read, last, step), axes, trace)
    tests = whole.tests if step == 1 else (*whole.tests, Test(Dim(PLACE), fine))
    first: list[Expr] = [Const(0) if k == TERM else Dim(k) for k in range(4)]
    moves = [[factors[d] * (domain[d] - 1) for d in terms] for factors, _ in forms[1:]] + [[]]  # type: ignore[misc]
    reach = [(Test(trace.tidy(index.substitute(t.expr, first)), t.size), sum(min(m, 0) for m in by), sum(max(m, 0) for m in by))
             for t, by in zip(tests, moves)]  # fmt: skip
    return Rows(trace, Read(read.dtype, read.operand, whole.address, tests), domain[last], step, tuple(reach))


def by_elements(read: Read, axis: int, step: int) -> Read:
    """A read whose axis goes by the elements that it reads."""

    def put(e: Expr) -> Expr:
        move = factor_of(e, axis) or 0
        return e - Dim(axis) * move + Dim(axis) * (move // step)

    return Read(read.dtype, read.operand, put(read.address), tuple(Test(put(t.expr), t.size) for t in read.tests))
