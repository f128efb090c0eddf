"""What kernels of convolutions have in common that take the places of a result apart: rows of them are the vectors, in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dslc.core.dtypes import FLOAT32
from dslc.ir import index
from dslc.ir.contractions import Contraction
from dslc.ir.index import Dim, Expr
from dslc.ir.rows import Unsuited
from dslc.ir.trace import Body, Read, Test, Trace

from .. import emit
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

    def store(self, frame: Frame, value: Value, at: dict[int, Any], mask: Value) -> None:
        """The epilogue and the results, of sums at neighbouring places."""
        given = Val(value, FLOAT32, self.lanes)
        point = Point(frame.b, self.trace, frame.operands, self.dims(at), WIDE, self.lanes, mask, lambda _point, _node: given)
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
