"""Rows of a product whose terms are runs of neighbouring elements, as the channels of one tap, or the taps along a row of a picture, are."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from dslc.ir import index
from dslc.ir.contractions import Roles
from dslc.ir.index import Const, Dim, Expr
from dslc.ir.rows import Unsuited
from dslc.ir.trace import Body, Node, Read, Test, Trace

from .. import emit, gemm
from ..casts import cast
from ..pull import Point
from ..ssa import computed
from ..stage import Frame
from .places import read_of, replaced

Value = Any  # an ir.Value

BATCH, ROW, RUN, PLACE = range(4)  # dims
SHORTEST = 2  # elements of a run that is worth a load of its own


@dataclass(frozen=True)
class Runs:
    """`count` runs of `length` terms. `first`, `last`: the tests at the first term and at the last one, or where each fails last."""

    trace: Trace
    read: Read
    count: int
    length: int
    corners: tuple[tuple[Test, ...], ...]

    def packed(self, frame: Frame, dtype: Any) -> gemm.RunsOfTerms:
        def load(batch: Any, row: Any, run: Any, x: Any, lanes: int, mask: Value, inside: bool) -> Value:
            dims = [emit.idx(v) for v in (batch, row, run, x)]
            value = Point(frame.b, self.trace, frame.operands, dims, PLACE, lanes, mask, inside=inside).value(self.read)
            ssa = value.ssa if value.lanes == lanes else frame.b.spread(value.ssa, computed(value.dtype), lanes)
            return cast(ssa, value.dtype, dtype)

        def inside(batch: Any, row: Any) -> Value:
            zero = frame.b.index(0)
            point = Point(frame.b, self.trace, frame.operands, [emit.idx(batch), emit.idx(row), zero, zero])
            return frame.b.same("arith.andi", *(point.all_of(tests).ssa for tests in self.corners))

        return gemm.RunsOfTerms(self.count, self.length, load, inside if self.read.tests else None)


def of(body: Body, op: Any, roles: Roles, rows: Node) -> Runs | None:
    """The runs of a product's rows, where they are a plain read with any. `rows`: what the product reads of them."""
    batch, members, _, terms = roles.classes
    if not isinstance(rows, Read) or not rows.dtype.is_float:
        return None
    domain = op.maps().domain
    try:
        read = read_of(Trace(body, domain), op, roles.rows_of)
    except Unsuited:
        return None
    forms = [index.coefficients(e, len(domain)) for e in (read.address, *(t.expr for t in read.tests))]
    if None in forms:
        return None
    factors = forms[0][0]  # type: ignore[index]
    inner: list[int] = []
    for d in reversed(terms):
        if domain[d] > 1 and factors[d] != prod(domain[k] for k in inner):
            break
        inner.insert(0, d)
    length = prod(domain[d] for d in inner)
    if length < SHORTEST:
        return None
    outer = [d for d in terms if d not in inner]
    sizes = [prod(domain[d] for d in axes) for axes in (batch, members, outer, inner)]
    trace = Trace(body, sizes)
    axes: list[Expr] = [Const(0)] * len(domain)
    for dim, group in ((BATCH, batch), (ROW, members), (RUN, outer), (PLACE, inner)):
        for d, e in zip(group, index.delinearize(Dim(dim), [domain[d] for d in group])):
            axes[d] = trace.tidy(e)
    corners: list[tuple[Test, ...]] = []
    for last in (False, True):
        moves = [sum((max if last else min)(0, f[d] * (domain[d] - 1)) for d in terms) for f, _ in forms[1:]]  # type: ignore[misc]
        still = [Const(0) if d in terms else e for d, e in enumerate(axes)]
        corners.append(tuple(Test(trace.tidy(index.substitute(t.expr, still) + by), t.size) for t, by in zip(read.tests, moves)))
    return Runs(trace, replaced(read, axes, trace), sizes[RUN], length, tuple(corners))
