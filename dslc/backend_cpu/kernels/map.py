"""Map kernels: pointwise ops over one iteration space, in one pass over memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dslc.ir import index
from dslc.ir.index import Dim, Expr
from dslc.ir.space import Space, collapse
from dslc.ir.trace import Node, Provide, Trace, factor_of, invariant, survey

from .. import emit
from ..pull import Point
from ..space import lanes_for, tasks, vectors
from ..stage import Frame, Generated, Request, Stage

Value = Any  # an ir.Value

TILE = 16  # rows that a transposing kernel takes together: the elements of a cache line


@dataclass(frozen=True)
class Sweep:
    """Some results of one shape, computed and stored at every point of a nest."""

    request: Request
    trace: Trace
    roots: tuple[Node, ...]
    numbers: tuple[int, ...]  # of the results
    address: Expr


def generate(request: Request) -> Generated:
    """One stage: the results' space with its axes merged where all addresses allow it, its last dim in vectors."""
    if request.results[0].size == 0:
        return Generated(())
    sweep = sweep_of(request, range(len(request.results)))
    return Generated((Stage(lambda frame: emit_sweep(frame, sweep)),))


def sweep_of(request: Request, numbers: Sequence[int], provide: Provide | None = None) -> Sweep:
    """The sweep that computes the results of these numbers, which have one shape."""
    values = [request.body.results[k] for k in numbers]
    shape = request.results[numbers[0]].shape
    space = _choose_space(request, values, shape, provide)
    trace = Trace(request.body, space.sizes, provide)
    roots = tuple(trace.at(v, space.axes) for v in values)
    return Sweep(request, trace, roots, tuple(numbers), trace.tidy(index.linearize(space.axes, shape)))


def _choose_space(request: Request, values: Sequence[Any], shape: tuple[int, ...], provide: Provide | None) -> Space:
    """Axes merged where that adds no divisions; all of them where the last one is far shorter than a vector."""

    def cost(space: Space) -> int:
        trace = Trace(request.body, space.sizes, provide)
        found = survey(trace, [trace.at(v, space.axes) for v in values])
        return found.divisions * 16 + len(found.reads) + sum(len(r.tests) for r in found.reads)

    space = collapse(shape, cost)
    size = 1
    for n in shape:
        size *= n
    if len(space.sizes) > 1 and space.sizes[-1] * 2 < request.machine.lanes <= size:
        return Space((size,), tuple(index.delinearize(Dim(0), shape)))
    return space


def emit_sweep(frame: Frame, sweep: Sweep) -> None:
    """The loops of a sweep, for this thread's share."""
    trace = sweep.trace
    rank = len(trace.sizes)
    sizes = trace.sizes or (1,)
    n = sizes[-1]
    lanes = lanes_for(n, sweep.request.machine.lanes)
    tile = _tiled_dim(sweep, lanes)
    hoisted = invariant(trace, sweep.roots, {rank - 1} if tile is None else {rank - 1, tile})

    def stretch(outer: list[Value], low: Any, high: Any) -> None:
        fixed = Point(frame.b, trace, frame.operands, [*outer, frame.b.index(0)][:rank])
        known = [(node, fixed.value(node)) for node in hoisted]

        def at(i: Value, mask: Value, place: list[Value]) -> None:
            point = Point(frame.b, trace, frame.operands, [*place, i][:rank], len(sizes) - 1, lanes, mask)
            for node, value in known:
                point.set(node, value)
            _store(frame, sweep, point, n % lanes == 0)

        if tile is None:
            vectors(low, high, n, lanes, lambda i, mask: at(i, mask, outer))
            return
        first = frame.b.mul(outer[tile], TILE)
        last = emit.imin(frame.b.add(first, TILE), sizes[tile])

        def rows(i: Value, mask: Value) -> None:
            emit.loop(first, last, 1, lambda j: at(i, mask, [*outer[:tile], j, *outer[tile + 1 :]]))

        vectors(low, high, n, lanes, rows)

    counts = [-(-size // TILE) if d == tile else size for d, size in enumerate(sizes)]
    tasks(frame, counts, lanes, stretch)


def _store(frame: Frame, sweep: Sweep, point: Point, whole: bool) -> None:
    """All values before the first store: a result may lie where an operand is read."""
    values = [point.value(node) for node in sweep.roots]
    for value, k in zip(values, sweep.numbers):
        point.store(value, frame.results[k], sweep.address, whole and sweep.request.streaming)


def _tiled_dim(sweep: Sweep, lanes: int) -> int | None:
    """The dim along which a read is contiguous that jumps from lane to lane: neighbours along it share the cache lines of the gather."""
    last = len(sweep.trace.sizes) - 1
    if lanes == 1:
        return None
    for read in survey(sweep.trace, sweep.roots).reads:
        step = factor_of(read.address, last)
        if step is None or abs(step) <= 1:
            continue
        for d in range(last):
            if factor_of(read.address, d) in (1, -1) and sweep.trace.sizes[d] > 1:
                return d
    return None
