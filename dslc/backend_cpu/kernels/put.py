"""Put kernels: rows of new values written into a tensor that lies where the result is; nothing else of it is touched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dslc.ir import index
from dslc.ir.index import Expr
from dslc.ir.puts import traced
from dslc.ir.rows import Unsuited
from dslc.ir.trace import Node, Test, Trace
from dslc.ir.types import type_of

from .. import emit
from ..pull import Point
from ..space import lanes_for, tasks, vectors
from ..stage import Frame, Generated, Request, Stage

Value = Any  # an ir.Value


@dataclass(frozen=True)
class Put:
    """The traces of a put over the points of its row: the new value, where it goes, the test that this is a place of the base.

    `alone`: neighbours along the last dim go to different places.
    """

    request: Request
    trace: Trace
    node: Node
    address: Expr
    inside: Test
    alone: bool


def generate(request: Request) -> Generated:
    """One stage."""
    ops = [op for op in request.body.ops if op.operation.name == "nn.put"]
    if len(ops) != 1 or request.body.results != list(ops[0].results):
        raise Unsuited("more than one put")
    if type_of(ops[0].row).size == 0:
        return Generated(())
    put = _put_of(request, ops[0])
    return Generated((Stage(lambda frame: _emit(frame, put)),))


def _put_of(request: Request, op: Any) -> Put:
    space, trace, address, inside = traced(request.body, op)
    lane = index.dims_of(space.axes[op.lane]) if op.lane >= 0 else set()
    return Put(request, trace, trace.at(op.row, space.axes), address, inside, len(space.sizes) - 1 in lane)


def _emit(frame: Frame, put: Put) -> None:
    sizes = put.trace.sizes or (1,)
    last = len(sizes) - 1
    lanes = 1 if put.alone else lanes_for(sizes[-1], put.request.machine.lanes)

    def stretch(outer: list[Value], low: Any, high: Any) -> None:
        def at(i: Value, mask: Value) -> None:
            place = [*outer, i][: len(put.trace.sizes)]
            point = Point(frame.b, put.trace, frame.operands, place, last if lanes > 1 else None, lanes, mask)
            emit.when(point.all_of([put.inside]).ssa, lambda: point.store(point.value(put.node), frame.results[0], put.address))

        vectors(low, high, sizes[-1], lanes, at)

    tasks(frame, sizes, lanes, stretch)
