"""Map kernels: pointwise ops over one iteration space, in one pass over memory."""

from __future__ import annotations

from typing import Any

from dslc.ir import index
from dslc.ir.index import Dim, Expr

from ..pull import Point
from ..space import Space, collapse, lanes_for, tasks, vectors
from ..stage import Frame, Generated, Request, Stage
from ..trace import Node, Survey, Trace, survey

Value = Any  # an ir.Value


def generate(request: Request) -> Generated:
    """One stage: the results' space with its axes merged where all addresses allow it, its last dim in vectors."""
    shape = request.results[0].shape
    if request.results[0].size == 0:
        return Generated(())
    space = choose_space(request, shape)
    trace = Trace(request.body, space.sizes)
    roots = [trace.at(v, space.axes) for v in request.body.results]
    address = trace.tidy(index.linearize(space.axes, shape))
    return Generated((Stage(lambda frame: _emit(request, frame, trace, roots, address)),))


def choose_space(request: Request, shape: tuple[int, ...]) -> Space:
    """Axes merged where that adds no divisions; all of them where the last one is far shorter than a vector."""

    def cost(space: Space) -> int:
        found = survey_of(request, space)
        return found.divisions * 16 + len(found.reads) + sum(len(r.tests) for r in found.reads)

    space = collapse(shape, cost)
    lanes = request.machine.lanes
    if len(space.sizes) > 1 and space.sizes[-1] * 2 < lanes <= request.results[0].size:
        size = request.results[0].size
        return Space((size,), tuple(index.delinearize(Dim(0), shape)))
    return space


def survey_of(request: Request, space: Space) -> Survey:
    trace = Trace(request.body, space.sizes)
    return survey(trace, [trace.at(v, space.axes) for v in request.body.results])


def _emit(request: Request, frame: Frame, trace: Trace, roots: list[Node], address: Expr) -> None:
    sizes = trace.sizes or (1,)
    n = sizes[-1]
    lanes = lanes_for(n, request.machine.lanes)
    streaming = request.streaming and n % lanes == 0

    def stretch(outer: list[Value], low: Any, high: Any) -> None:
        def at(i: Value, mask: Value) -> None:
            dims = [*outer, i][: len(trace.sizes)]
            point = Point(frame.b, trace, frame.operands, dims, len(sizes) - 1, lanes, mask)
            values = [point.value(node) for node in roots]  # all before the first store: a result may lie where an operand is read
            for value, memory in zip(values, frame.results):
                point.store(value, memory, address, streaming)

        vectors(low, high, n, lanes, at)

    tasks(frame, sizes, lanes, stretch)
