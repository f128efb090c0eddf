"""Convolutions of pictures whose rows are neighbours in memory: sums over windows that are read in place from a band of rows, borders and all.

A task copies the rows that a band of results reads, for all channels, into scratch, with zeros where the picture ends. There the terms of
neighbouring results are neighbours for every tap, from one row of the band to the next, so a vector of results is a vector of each term at a
distance that a table tells, and nothing is packed. Where a filter moves by steps, the copy keeps the places of each remainder by the step apart.
Columns of the product are the places of the band, row after row; what lies between the end of a row of results and the next row is computed and
not stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import gcd, prod
from typing import Any

import numpy as np

from dslc.core.dtypes import FLOAT32
from dslc.ir import index
from dslc.ir.contractions import roles_of
from dslc.ir.index import Const, Dim, Expr
from dslc.ir.mlir import arith, vector
from dslc.ir.rows import Unsuited
from dslc.ir.trace import Read, Test, Trace, factor_of

from .. import emit, gemm, gemm_schedule
from ..machine import Machine
from ..pull import Point
from ..stage import Frame, Generated, Request, Stage
from ..types import const, index_type, register_type, vec
from .places import CHANNELS, HIGH, OUTER, ROWS, WIDE, Places, by_elements, read_of, replaced

Value = Any  # an ir.Value

READ_HIGH, READ_WIDE, TERM = range(5, 8)  # further dims of the iteration space: elements of the picture, from the first that is read on
COPIED = 8.0  # cycles for a vector of a band
STORED = 6.0  # and of results
BANDWIDTH = 32  # bytes a cycle from behind the second cache
MOST_STRIDE = 4  # beyond, most of what is copied is read by few taps
BAND_SHARE = 2  # of the second cache, one part is for a band
PLAIN = 1.1  # cycles of a plain product for each that its multiplications take
PACKED = (7.0, 14.0)  # and for a vector of its windows: of neighbouring places, of others


def generate(request: Request, op: Any) -> Generated:
    """Unsuited for what is no such convolution of float32, or gains nothing by it."""
    kernel = _Bands(request, op)
    if kernel.scattered:
        raise Unsuited
    stages = [Stage(kernel.build, kernel.schedule.scratch_bytes + 64)]
    if kernel.laid_out:
        stages.insert(0, Stage(kernel.lay_out_filters))
    return Generated(stages, kernel.filter_bytes if kernel.laid_out else 0, (kernel.offsets(),))


@dataclass(frozen=True)
class Taps:
    """Of one axis: `count` taps, `dilation` elements apart, of a filter that moves by `stride`."""

    count: int
    stride: int
    dilation: int

    @property
    def phases(self) -> list[int]:
        """The remainders by the stride of the elements that are read."""
        return sorted({u * self.dilation % self.stride for u in range(self.count)})

    @property
    def reach(self) -> int:
        """Places of a phase beyond those of the results."""
        return (self.count - 1) * self.dilation // self.stride


@dataclass(frozen=True)
class Sizes:
    """`terms`: channels times taps."""

    outer: int
    filters: int
    high: int
    wide: int
    channels: int
    terms: int


@dataclass(frozen=True)
class _Schedule:
    """Bands of `rows` rows of results; tiles of `mr` filters by `nv` vectors of places. `row`: elements from one row of the copy to the next;
    `plane`: from one phase of a channel to the next; `planes`: how many there are."""

    rows: int
    mr: int
    nv: int
    lanes: int
    row: int
    plane: int
    planes: int
    cycles: float

    @property
    def columns(self) -> int:
        return self.nv * self.lanes

    @property
    def band_elements(self) -> int:
        """The copy, which is written and read beyond its end by a tile."""
        return self.planes * self.plane + self.columns + self.row

    @property
    def scratch_bytes(self) -> int:
        return FLOAT32.bytes * (self.band_elements + self.mr * self.columns + self.lanes)


def _schedules(s: Sizes, taps: tuple[Taps, Taps], lanes: int, machine: Machine) -> Iterator[_Schedule]:
    tall, wide = taps
    phases = len(tall.phases) * len(wide.phases)
    row = s.wide + wide.reach
    filters = FLOAT32.bytes * s.filters * s.terms
    for rows in range(1, s.high + 1):
        plane = (rows + tall.reach) * row + lanes  # a vector that a row has too much
        plane += lanes if plane % 256 == 0 else 0
        tasks = s.outer * -(-s.high // rows)
        used = FLOAT32.bytes * s.channels * phases * plane
        if used > machine.l2 // BAND_SHARE and rows > 1:
            return
        copied = s.channels * phases * (rows + tall.reach) * -(-row // lanes) * COPIED
        stored = s.filters * rows * -(-s.wide // lanes) * STORED
        moved = (filters if used + filters > machine.l2 else 0) / BANDWIDTH
        for nv in range(1, 9):
            tiles = -(-((rows - 1) * row + s.wide) // (nv * lanes))
            for mr in range(1, 10):
                if mr <= s.filters and mr * nv + nv + 1 <= machine.registers * gemm_schedule.LEFT // 32:
                    product = tiles * -(-s.filters // mr) * (s.terms * gemm_schedule.strip_cost(mr, nv, machine) + 3 * mr * nv)
                    cycles = tasks * (product + copied + stored + moved) * gemm_schedule.idling(tasks)
                    yield _Schedule(rows, mr, nv, lanes, row, plane, s.channels * phases, cycles)


class _Bands(Places):
    """The code."""

    def __init__(self, request: Request, op: Any) -> None:
        found = _windows(request, op)
        self.op, self.machine = op, request.machine
        self.lanes = gemm_schedule.lanes_for(request.machine, FLOAT32)
        self.taps, domain = found.taps, op.maps().domain
        self.terms = [domain[d] for d in found.terms]
        outer, filters, high, wide, channels = (prod(domain[d] for d in axes) for axes in found.classes)
        self.of = Sizes(outer, filters, high, wide, channels, prod(self.terms))
        s = min(_schedules(self.of, self.taps, self.lanes, self.machine), key=lambda s: s.cycles, default=None)
        if s is None or s.cycles > self._plain():
            raise Unsuited
        self.schedule = s
        tall, across = self.taps
        read = (-(-self.of.high // s.rows) * s.rows + tall.reach) * tall.stride, (s.row + self.lanes) * across.stride
        self.over(request.body, (outer, filters, high, wide, channels, *read, self.of.terms))
        self.found = found
        self._place(found, domain)
        self.results = [self._result(v) for v in request.body.results]
        self.laid_out = factor_of(self.filters.address, TERM) != 1
        if self.laid_out and factor_of(self.filters.address, OUTER) != 0:
            raise Unsuited

    def _plain(self) -> float:
        """Cycles of a product with windows that are packed."""
        n = self.of
        vectors = -(-n.high * n.wide // self.lanes)
        products = n.filters * n.terms * n.high * n.wide / self.lanes / self.machine.fmas * PLAIN
        tasks = n.outer * -(-vectors // 4)
        return n.outer * (products + n.terms * vectors * PACKED[self.taps[1].stride > 1]) * gemm_schedule.idling(max(tasks, gemm_schedule.TASKS))

    def _place(self, found: _Windows, domain: Sequence[int]) -> None:
        """The axes of the result, and what the operands read, over this kernel's dims."""
        axes: list[Expr] = [Const(0)] * len(domain)
        for dim, members in enumerate(found.classes):
            for d, e in zip(members, index.delinearize(Dim(dim), [domain[d] for d in members])):
                axes[d] = self.trace.tidy(e)
        self.points = tuple(axes[: self.op.type.rank])
        at = list(axes)
        for d, e in zip(found.terms, index.delinearize(Dim(TERM), self.terms)):
            at[d] = self.trace.tidy(e)
        self.filters = replaced(found.filters, at, self.trace)
        beyond = []
        for axis, taps, read, n in ((found.high, self.taps[0], READ_HIGH, self.of.high), (found.wide, self.taps[1], READ_WIDE, self.of.wide)):
            if axis is not None:
                axes[axis] = Dim(read)
            beyond.append(Test(Dim(read), (n - 1) * taps.stride + (taps.count - 1) * taps.dilation + 1))
        for d in found.tap_axes:
            axes[d] = Const(0)
        places = replaced(found.places, axes, self.trace)
        self.places = Read(places.dtype, places.operand, places.address, (*places.tests, *beyond))

    def offsets(self) -> np.ndarray:
        """For each term how far its element lies from the place of the result, in the copy."""
        s, (high, wide) = self.schedule, self.taps
        at = dict(zip(self.found.terms, np.unravel_index(np.arange(self.of.terms), self.terms)))
        u, v = (at.get(d, np.zeros(self.of.terms, np.int64)) if d is not None else np.zeros(self.of.terms, np.int64) for d in self.found.taps_of)
        channel = np.zeros(self.of.terms, np.int64)
        for d in self.found.classes[CHANNELS]:
            channel = channel * self.op.maps().domain[d] + at[d]
        planes = channel
        moved = np.zeros(self.of.terms, np.int64)
        for taps, t, pitch in ((high, u, s.row), (wide, v, 1)):
            place = t * taps.dilation
            planes = planes * len(taps.phases) + np.searchsorted(taps.phases, place % taps.stride)
            moved = moved + place // taps.stride * pitch
        return (planes * s.plane + moved).astype(np.int32)

    # ---- the filters

    @property
    def row_length(self) -> int:
        """From one filter's terms to the next's: never a power of two."""
        return -(-self.of.terms // self.lanes) * self.lanes + self.lanes

    @property
    def filter_bytes(self) -> int:
        return self.of.filters * self.row_length * FLOAT32.bytes

    def _laid_out(self, frame: Frame) -> emit.Memory:
        return emit.memory_of(frame.workspace.ref, 0, FLOAT32, self.of.filters * self.row_length)  # type: ignore[union-attr]

    def lay_out_filters(self, frame: Frame) -> None:
        low, high = emit.share(self.of.filters, frame.tid, frame.threads)
        rows = self._laid_out(frame)

        def row(o: Value) -> None:
            def part(k: Value, lanes: int, mask: Value) -> None:
                point = Point(frame.b, self.trace, frame.operands, self.dims({ROWS: o, TERM: k}), TERM, lanes, mask)
                rows.store(self.wide(point, self.filters, lanes), [emit.iadd(emit.imul(o, self.row_length), k)])

            emit.vector_loop(0, self.of.terms, self.lanes, part)

        emit.loop(low, high, 1, row)

    # ---- bands

    def build(self, frame: Frame) -> None:
        s = self.schedule
        band = emit.memory_of(frame.scratch, 0, FLOAT32, s.band_elements)
        sums = emit.memory_of(frame.scratch, s.band_elements * FLOAT32.bytes, FLOAT32, s.mr * s.columns + s.lanes)
        bands = -(-self.of.high // s.rows)
        low, high = emit.share(self.of.outer * bands, frame.tid, frame.threads)

        def task(t: Value) -> None:
            outer, top = emit.idiv(t, bands), emit.imul(emit.irem(t, bands), s.rows)
            self.copy(frame, band, outer, top)
            emit.loop(0, (s.rows - 1) * s.row + self.of.wide, s.columns, lambda first: self.strips(frame, band, sums, outer, top, first))

        emit.loop(low, high, 1, task)

    def copy(self, frame: Frame, band: emit.Memory, outer: Value, top: Value) -> None:
        """What a vector has too much the next row writes over."""
        s, (high, wide) = self.schedule, self.taps

        def row(c: Value, i: Value, number: int, phase: int) -> None:
            planes = len(high.phases) * len(wide.phases)
            at = emit.iadd(emit.imul(emit.iadd(emit.imul(c, planes), number * len(wide.phases)), s.plane), emit.imul(i, s.row))
            y = emit.iadd(emit.imul(emit.iadd(top, i), high.stride), phase)

            def part(x: Value) -> None:
                read = [self._read(frame, outer, c, y, emit.iadd(emit.imul(x, wide.stride), k * self.lanes)) for k in range(wide.stride)]
                for n, b in enumerate(wide.phases):
                    band.store(every(read, b, self.lanes), [emit.iadd(at, n * s.plane, x)])

            emit.loop(0, s.row, self.lanes, part)

        def channel(c: Value) -> None:
            for number, phase in enumerate(high.phases):
                emit.loop(0, s.rows + high.reach, 1, lambda i, number=number, phase=phase: row(c, i, number, phase))  # type: ignore[misc]

        emit.loop(0, self.of.channels, 1, channel)

    def _read(self, frame: Frame, outer: Value, c: Value, y: Value, x: Any) -> Value:
        dims = self.dims({OUTER: outer, CHANNELS: c, READ_HIGH: y, READ_WIDE: x})
        return self.wide(Point(frame.b, self.trace, frame.operands, dims, READ_WIDE, self.lanes), self.places, self.lanes)

    def strips(self, frame: Frame, band: emit.Memory, sums: emit.Memory, outer: Value, top: Value, first: Value) -> None:
        """All filters at some neighbouring places of a band."""
        s, table = self.schedule, frame.tables[0]
        zero = const(0.0, vec(s.lanes, register_type(FLOAT32)))
        rows = self._laid_out(frame) if self.laid_out else frame.operands[self.filters.operand]

        def strip(q: Value) -> None:
            o = emit.imul(q, s.mr) if self.of.filters % s.mr == 0 else emit.imin(emit.imul(q, s.mr), self.of.filters - s.mr)

            def start(i: int) -> Any:
                if self.laid_out:
                    return emit.imul(emit.iadd(o, i), self.row_length)
                dims = self.dims({OUTER: outer, ROWS: emit.iadd(o, i)})
                return Point(frame.b, self.trace, frame.operands, dims).scalar(self.filters.address)

            starts = [start(i) for i in range(s.mr)]

            @cache
            def place(k: Any) -> Any:
                """Of a term's first vector."""
                return emit.iadd(first, arith.index_cast(index_type(), table.load([emit.idx(k)])))

            def load_b(k: Any, j: int) -> Value:
                return band.load([emit.iadd(place(k), j * s.lanes)], s.lanes)

            made = gemm.multiply(lambda i, k: rows.load([emit.iadd(starts[i], k)]), load_b, s.mr, s.nv, self.of.terms, [zero] * (s.mr * s.nv))
            for n, value in enumerate(made):
                sums.store(value, [n // s.nv * s.columns + n % s.nv * s.lanes])
            self.finish(frame, sums, outer, top, first, o, q)

        emit.loop(0, -(-self.of.filters // s.mr), 1, strip)

    def finish(self, frame: Frame, sums: emit.Memory, outer: Value, top: Value, first: Value, o: Value, q: Value) -> None:
        """Row by row the places that are results."""
        s = self.schedule
        bottom = emit.imin(emit.isub(self.of.high, top), s.rows)
        end_row = emit.imin(emit.idiv(emit.iadd(first, s.columns - 1), s.row), emit.isub(bottom, 1))

        filters = (emit.imul(q, s.mr), emit.imin(emit.iadd(emit.imul(q, s.mr), s.mr), self.of.filters))

        def row(y: Value) -> None:
            start = emit.isub(emit.imul(y, s.row), first)  # of the row in the tile
            low, high = emit.imax(emit.isub(0, start), 0), emit.imin(emit.isub(s.columns, start), self.of.wide)

            def part(x: Value, lanes: int, mask: Value) -> None:
                def of_filter(i: Value) -> None:
                    at = emit.iadd(emit.imul(emit.isub(i, o), s.columns), start, x)
                    self.store(frame, sums.load([at], lanes), {OUTER: outer, ROWS: i, HIGH: emit.iadd(top, y), WIDE: x}, mask)

                emit.loop(*filters, 1, of_filter)

            emit.vector_loop(low, emit.imax(low, high), s.lanes, part)

        emit.loop(emit.idiv(first, s.row), emit.iadd(end_row, 1), 1, row)


def every(read: Sequence[Value], first: int, lanes: int) -> Value:
    """Of neighbouring elements in as many vectors as the step, those at `first`, `first + step`, ..."""
    made, step = read[0], len(read)
    for k in range(1, step):  # the lanes that lie in this vector; the others stay
        places = [first + step * lane for lane in range(lanes)]
        made = vector.shuffle(
            made, read[k], [lanes + p % lanes if p // lanes == k else (p if k == 1 and p < lanes else n) for n, p in enumerate(places)]
        )
    return made


# ---- what is such a convolution


@dataclass(frozen=True)
class _Windows:
    """The axes of the op's domain as outer, filters, high, wide and channels; the axes along which places and taps move, where there are any; what
    the operands read over the domain, places by elements."""

    classes: tuple[tuple[int, ...], ...]
    terms: tuple[int, ...]
    high: int | None
    wide: int
    taps_of: tuple[int | None, int | None]
    taps: tuple[Taps, Taps]
    places: Read
    filters: Read

    @property
    def tap_axes(self) -> list[int]:
        return [d for d in self.taps_of if d is not None]


def _windows(request: Request, op: Any) -> _Windows:
    maps, roles = op.maps(), roles_of(op)
    batch, rows, columns, terms = roles.classes
    domain = maps.domain
    if op.tf32 or 0 in domain or any(t.dtype != FLOAT32 for t in (*op.types(), op.type)) or not columns or columns[-1] != op.type.rank - 1:
        raise Unsuited
    trace = Trace(request.body, domain)
    places, filters = (read_of(trace, op, k) for k in (1 - roles.rows_of, roles.rows_of))
    forms = [index.coefficients(e, len(domain)) for e in (places.address, *(t.expr for t in places.tests))]
    if None in forms or filters.tests or index.coefficients(filters.address, len(domain)) is None:
        raise Unsuited
    along = [[factors[d] for factors, _ in forms] for d in range(len(domain))]  # type: ignore[misc]
    wide, high = columns[-1], next((d for d in reversed(columns[:-1]) if domain[d] > 1), None)
    found = [_taps_of(along, d, terms, domain) for d in (high, wide)]
    (tap_high, _), (tap_wide, across) = found
    if (tap_wide is None and tap_high is None) or along[wide][0] != across.stride:
        raise Unsuited
    for d, (_, taps) in zip((high, wide), found):
        if d is not None and taps.stride > 1:
            places = by_elements(places, d, taps.stride)
    outer = tuple(sorted([*batch, *(d for d in columns if d not in (high, wide))]))
    channels = tuple(d for d in terms if d not in (tap_high, tap_wide))
    classes = (outer, rows, () if high is None else (high,), (wide,), channels)
    return _Windows(classes, terms, high, wide, (tap_high, tap_wide), (found[0][1], across), places, filters)


def _taps_of(along: Sequence[Sequence[int]], place: int | None, terms: Sequence[int], domain: Sequence[int]) -> tuple[int | None, Taps]:
    """The axis of taps that moves over the picture as an axis of places does, the closest ones within as many elements as there are places; else one
    tap without an axis."""
    found: list[tuple[int, Taps]] = []
    moves = along[place] if place is not None else [0]
    for u in terms:
        a, b = moves[0], along[u][0]
        if domain[u] > 1 and a > 0 and b > 0 and all(a * y == b * x for x, y in zip(moves, along[u])):
            taps = Taps(domain[u], a // gcd(a, b), b // gcd(a, b))
            if taps.stride <= MOST_STRIDE and taps.dilation < taps.stride * domain[place]:  # type: ignore[index]
                found.append((u, taps))
    return min(found, key=lambda one: one[1].stride + one[1].dilation, default=(None, Taps(1, 1, 1)))
