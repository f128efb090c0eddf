"""What kernels along one axis share: a tensor as lines (before the axis, the axis, behind it), and the values of an operand there."""

from __future__ import annotations

from math import prod
from typing import Any

from dslc.ir import index
from dslc.ir.index import Dim, Expr
from dslc.ir.rows import Unsuited
from dslc.ir.trace import Node, Trace
from dslc.ir.types import type_of

from ..pull import Point
from ..stage import FunctionWriter, Request, index_type


class Lines:
    """The one op of a kernel with this name, whose results are the kernel's; Unsuited where the kernel holds more.

    Dims of `trace`: what is before the axis, the place on it, what is behind it. `nodes`: the operands there; `address`: of the results.
    """

    def __init__(self, request: Request, name: str) -> None:
        ops = [op for op in request.body.ops if op.operation.name == name]
        if len(ops) != 1 or request.body.results != list(ops[0].results):
            raise Unsuited(f"more than one {name}")
        self.request, self.op = request, ops[0]
        shape, axis = type_of(self.op.operands[0]).shape, self.op.axis
        before, behind = shape[:axis], shape[axis + 1 :]
        self.before, self.length, self.behind = prod(before), shape[axis], prod(behind)
        self.trace = Trace(request.body, (self.before, self.length, self.behind))
        axes: list[Expr] = [*index.delinearize(Dim(0), before), Dim(1), *index.delinearize(Dim(2), behind)]
        places = tuple(self.trace.tidy(e) for e in axes)
        self.nodes: list[Node] = [self.trace.at(v, places) for v in self.op.operands]
        self.address = self.trace.tidy(index.linearize(places, type_of(self.op.results[0]).shape))
        self.integer = index_type(*(t.size for t in (*request.operands, *request.results)))

    @property
    def count(self) -> int:
        return self.before * self.behind

    def place(self, w: FunctionWriter, line: str) -> tuple[str, str]:
        """Writes where a line is, before the axis and behind it."""
        if self.behind == 1:
            return line, "0"
        return w.value("before", self.integer, f"{line} / {self.behind}u"), w.value("behind", self.integer, f"{line} % {self.behind}u")

    def point(self, w: FunctionWriter, place: tuple[str, str], at: str) -> Point:
        """The point of a line at a place on the axis."""
        return Point(w, self.trace, w.operand, [place[0], at, place[1]], integer=self.integer)

    def store(self, w: FunctionWriter, point: Point, result: int, value: Any) -> None:
        w.line(f"store({w.result(result).name} + {point.index(self.address)}, {value});")
