"""Winograd's convolutions (`winograd.py`) of pictures whose channels lie last: vectors are channels in the transforms, filters in the products.

Tiles of 2 x 2 places, of all pictures, are numbered; a block of them is any range. First all threads transform the filters, in lines of one vector of
filters, channel after channel. A task transforms a block's tiles for all channels into scratch, then makes, a panel of filters at a time, the 16
products (rows are tiles, columns filters) and from these the results.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from dslc.core.dtypes import FLOAT32
from dslc.ir import index
from dslc.ir.contractions import LINE, roles_of
from dslc.ir.rows import Unsuited
from dslc.ir.trace import Read, Trace, factor_of

from .. import emit, gemm, gemm_schedule
from ..machine import Machine
from ..pull import Point, step_of
from ..stage import Frame, Generated, Request
from ..types import const, register_type, vec
from .places import CHANNELS, HIGH, OUTER, ROWS, WIDE, read_of
from .winograd import PLACE_HIGH, PLACE_WIDE, POINTS, TAP_HIGH, TAP_WIDE, Sizes, Tiles, Windows, both_ways, made_by, of_filter, of_places, of_sums

Value = Any  # an ir.Value

TRANSFORM = 32  # cycles for a vector of channels of one tile, there, or of filters, back
FILTERS = 24  # cycles for a vector of filters of one channel
GATHERED = 150  # the same where their taps lie apart
NEAR, FAR = 64, 16  # bytes a cycle from the second cache, and from behind it
PACKED = 1.0  # cycles for a vector of a plain product's windows
GAIN = 0.95  # of the plain product's cycles, at most, to be worth it


def generate(request: Request, op: Any) -> Generated:
    """Unsuited for what is no such convolution of float32, or gains nothing by it."""
    return made_by(_Winograd, request, op)


@dataclass(frozen=True)
class _Schedule:
    """Blocks of `tiles` tiles; in a product `mr` of them by `nv` vectors of filters; the filters' panels in `parts` tasks of a block. `lines`:
    vectors of filters; `cycles`: what all costs."""

    tiles: int
    mr: int
    nv: int
    lanes: int
    parts: int
    lines: int
    channels: int
    cycles: float = 0.0

    @property
    def row(self) -> int:
        """From one tile's channels to the next's: never a power of two."""
        return -(-self.channels // self.lanes) * self.lanes + self.lanes

    @property
    def point(self) -> int:
        """From one point's tiles to the next's."""
        return self.tiles * self.row + self.lanes

    @property
    def columns(self) -> int:
        return self.nv * self.lanes

    @property
    def sums_point(self) -> int:
        """From one point's sums to the next's."""
        return self.tiles * self.columns + self.lanes

    @property
    def panels(self) -> int:
        return -(-self.lines // self.nv)

    @property
    def scratch_elements(self) -> int:
        return POINTS * (self.point + self.sums_point)


def _schedules(s: Sizes, lanes: int, machine: Machine) -> Iterator[_Schedule]:
    lines = -(-s.filters // lanes)
    made = POINTS * lines * lanes * s.channels * FLOAT32.bytes
    for blocks in sorted({-(-s.tiles // most) for most in range(1, min(s.tiles, 64) + 1)}):
        tiles = -(-s.tiles // blocks)
        blocks = -(-s.tiles // tiles)
        for mr in range(1, min(9, tiles) + 1):
            for nv in range(1, min(6, lines) + 1):
                if mr * nv + nv + 1 > machine.registers:
                    continue
                panels = -(-lines // nv)
                for parts in (1, 2, 4):
                    if parts > panels:
                        continue
                    found = _Schedule(tiles, mr, nv, lanes, parts, lines, s.channels)
                    each = -(-panels // parts)
                    product = POINTS * each * -(-tiles // mr) * (s.channels * gemm_schedule.strip_cost(mr, nv, machine) + 30 + 3 * mr * nv)
                    there = tiles * (-(-s.channels // lanes) + each * nv) * TRANSFORM
                    moved = made / parts / (FAR if made > machine.l2 // 2 else NEAR)
                    moved += 2 * max(0, FLOAT32.bytes * found.scratch_elements - machine.l2 // 2) / FAR
                    tasks = blocks * parts
                    yield replace(found, cycles=tasks * (product + there + moved) * gemm_schedule.idling(tasks))


class _Winograd(Tiles):
    """The code."""

    def __init__(self, request: Request, op: Any) -> None:
        found = _windows(request, op)
        self.op, self.machine = op, request.machine
        self.lanes = gemm_schedule.lanes_for(request.machine, FLOAT32)
        domain = op.maps().domain
        self.of = Sizes(*(prod(domain[d] for d in axes) for axes in found.classes[:5]))
        self.tiled = (-(-self.of.high // 2), -(-self.of.wide // 2))
        self.over(request.body, (*vars(self.of).values(), 2 * self.tiled[0] + 2, 2 * self.tiled[1] + 2, 3, 3))
        self.place(found, domain)
        self.filters = Read(self.filters.dtype, self.filters.operand, index.coarse(self.filters.address, self.sizes), ())
        self.gathered = step_of(self.filters.address, ROWS, self.lanes, lambda e: ROWS in index.dims_of(e)) != 1
        if factor_of(self.places.address, CHANNELS) != 1:
            raise Unsuited
        s = min(_schedules(self.of, self.lanes, self.machine), key=lambda s: s.cycles)
        if not self._pays(s):
            raise Unsuited
        self.schedule = s
        self.results = [self._result(v) for v in request.body.results]

    def _pays(self, s: _Schedule) -> bool:
        n = self.of
        shape = gemm_schedule.Shape(n.outer * n.high * n.wide, n.filters, 9 * n.channels)
        plain = gemm_schedule.cycles(shape, gemm_schedule.Side("k"), self.machine) + shape.m * shape.k / self.lanes * PACKED
        filters = s.lines * n.channels * (GATHERED if self.gathered else FILTERS)
        made = self.filter_bytes_of(s)
        return s.cycles + filters + (2 * made / FAR if made > self.machine.l2 // 2 else 0) < GAIN * plain

    # ---- the filters

    @staticmethod
    def filter_point(s: _Schedule) -> int:
        """From one point's filters to the next's."""
        return s.lines * s.channels * s.lanes + s.lanes

    def filter_bytes_of(self, s: _Schedule) -> int:
        return POINTS * self.filter_point(s) * FLOAT32.bytes

    @property
    def filter_bytes(self) -> int:
        return self.filter_bytes_of(self.schedule)

    def transform_filters(self, frame: Frame) -> None:
        """The threads share the lines of filters, channel by channel."""
        s, made = self.schedule, self._made_filters(frame)
        low, high = emit.share(s.lines * s.channels, frame.tid, frame.threads)

        def channel(t: Value) -> None:
            o = emit.imul(emit.idiv(t, s.channels), s.lanes)
            mask = None if self.of.filters % s.lanes == 0 else emit.mask_below(emit.isub(self.of.filters, o), s.lanes)

            def tap(u: int, v: int) -> Value:
                dims = self.dims({ROWS: o, CHANNELS: emit.irem(t, s.channels), TAP_HIGH: u, TAP_WIDE: v})
                return self.wide(Point(frame.b, self.trace, frame.operands, dims, ROWS, s.lanes, mask), self.filters, s.lanes)

            for p, value in enumerate(both_ways(of_filter, [[tap(u, v) for v in range(3)] for u in range(3)])):
                made.store(value, [emit.iadd(emit.imul(t, s.lanes), p * self.filter_point(s))])

        emit.loop(low, high, 1, channel)

    def _made_filters(self, frame: Frame) -> emit.Memory:
        return emit.memory_of(frame.workspace.ref, 0, FLOAT32, self.filter_bytes // FLOAT32.bytes)  # type: ignore[union-attr]

    # ---- blocks of tiles

    def build(self, frame: Frame) -> None:
        s = self.schedule
        tiles = emit.memory_of(frame.scratch, 0, FLOAT32, POINTS * s.point)
        sums = emit.memory_of(frame.scratch, POINTS * s.point * FLOAT32.bytes, FLOAT32, POINTS * s.sums_point)
        blocks = -(-self.of.tiles // s.tiles)
        low, high = emit.share(blocks * s.parts, frame.tid, frame.threads)

        def task(t: Value) -> None:
            first = emit.imul(emit.idiv(t, s.parts), s.tiles)
            count = s.tiles if self.of.tiles % s.tiles == 0 else emit.imin(emit.isub(self.of.tiles, first), s.tiles)
            emit.loop(0, count, 1, lambda i: self.transform_tile(frame, tiles, emit.iadd(first, i), i))
            begin, end = (emit.idiv(emit.imul(emit.iadd(emit.irem(t, s.parts), k), s.panels), s.parts) for k in (0, 1))

            def panel(p: Value) -> None:
                line = emit.imul(p, s.nv)
                start = line if s.lines % s.nv == 0 else emit.imin(line, s.lines - s.nv)
                emit.loop(0, POINTS, 1, lambda point: self.multiply(frame, tiles, sums, point, start, count))
                last = emit.imin(emit.iadd(line, s.nv), s.lines)

                def tile(i: Value) -> None:
                    place = self.tile_at(emit.iadd(first, i))
                    emit.loop(line, last, 1, lambda o: self.finish(frame, sums, place, i, o, emit.isub(o, start)))

                emit.loop(0, count, 1, tile)

            emit.loop(begin, end, 1, panel)

        emit.loop(low, high, 1, task)

    def tile_at(self, tile: Value) -> tuple[Any, Any, Any]:
        """Outer index, row and column of a tile's first place."""
        high, wide = self.tiled
        row = emit.idiv(tile, wide)
        return emit.idiv(row, high), emit.imul(emit.irem(row, high), 2), emit.imul(emit.irem(tile, wide), 2)

    def transform_tile(self, frame: Frame, tiles: emit.Memory, tile: Value, i: Value) -> None:
        s = self.schedule
        outer, top, left = self.tile_at(tile)

        def at(a: int, b: int, c: Any, lanes: int, mask: Value, inside: bool) -> Point:
            dims = self.dims({OUTER: outer, CHANNELS: c, PLACE_HIGH: emit.iadd(top, a), PLACE_WIDE: emit.iadd(left, b)})
            return Point(frame.b, self.trace, frame.operands, dims, CHANNELS, lanes, mask, inside=inside)

        def channels(inside: bool) -> list[Value]:
            def part(c: Value, lanes: int, mask: Value) -> None:
                rows = [[self.wide(at(a, b, c, lanes, mask, inside), self.places, lanes) for b in range(4)] for a in range(4)]
                for p, value in enumerate(both_ways(of_places, rows)):
                    tiles.store(value, [emit.iadd(emit.imul(i, s.row), c, p * s.point)])

            emit.vector_loop(0, s.channels, s.lanes, part)
            return []

        if not self.places.tests:
            channels(True)
            return
        corners = [at(k, k, 0, 1, None, False).all_of(self.places.tests).ssa for k in (0, 3)]
        emit.choose(frame.b.same("arith.andi", *corners), [], lambda: channels(True), lambda: channels(False))

    def multiply(self, frame: Frame, tiles: emit.Memory, sums: emit.Memory, point: Value, line: Any, count: Any) -> None:
        s, filters = self.schedule, self._made_filters(frame)
        zero = const(0.0, vec(s.lanes, register_type(FLOAT32)))
        first = emit.iadd(emit.imul(point, self.filter_point(s)), emit.imul(line, s.channels * s.lanes))

        def load_b(k: Any, j: int) -> Value:
            return filters.load([emit.iadd(first, emit.imul(k, s.lanes), j * s.channels * s.lanes)], s.lanes)

        def strip(q: Value) -> None:
            row = emit.imul(q, s.mr) if s.tiles % s.mr == 0 else emit.imin(emit.imul(q, s.mr), s.tiles - s.mr)
            start = emit.iadd(emit.imul(point, s.point), emit.imul(row, s.row))

            def load_a(i: int, k: Any) -> Value:
                return tiles.load([emit.iadd(start, k, i * s.row)])

            def fetch(k: Any) -> None:
                """Lines of the next point, shared by the strips."""
                following = emit.imin(emit.iadd(first, self.filter_point(s)), (POINTS - 1) * self.filter_point(s))

                def some(j: Value) -> None:
                    def part(t: Value) -> None:
                        filters.fetch([emit.iadd(following, emit.imul(j, s.channels * s.lanes), emit.imul(k, s.lanes), t)])

                    emit.loop(0, gemm.FETCHED * s.lanes, LINE, part)

                emit.loop(q, s.nv, -(-s.tiles // s.mr), some)

            far = self.filter_bytes > self.machine.l2 // 2
            made = gemm.multiply(load_a, load_b, s.mr, s.nv, s.channels, [zero] * (s.mr * s.nv), [fetch] if far else [])
            at = emit.iadd(emit.imul(point, s.sums_point), emit.imul(row, s.columns))
            for n, value in enumerate(made):
                sums.store(value, [emit.iadd(at, n // s.nv * s.columns + n % s.nv * s.lanes)])

        emit.loop(0, emit.ceil_div(count, s.mr), 1, strip)

    def finish(self, frame: Frame, sums: emit.Memory, place: tuple[Any, Any, Any], i: Value, line: Value, column: Any) -> None:
        """The four places of a tile, for a line of filters."""
        s, (outer, top, left) = self.schedule, place
        at = emit.iadd(emit.imul(i, s.columns), emit.imul(column, s.lanes))
        made = [sums.load([emit.iadd(at, p * s.sums_point)], s.lanes) for p in range(POINTS)]
        y = both_ways(of_sums, [made[4 * a : 4 * a + 4] for a in range(4)])
        o = emit.imul(line, s.lanes)
        mask = None if self.of.filters % s.lanes == 0 else emit.mask_below(emit.isub(self.of.filters, o), s.lanes)
        for n, value in enumerate(y):
            high, wide = emit.iadd(top, n // 2), emit.iadd(left, n % 2)
            there = [emit.icmp("lt", x, size) for x, size, far in ((high, self.of.high, n // 2), (wide, self.of.wide, n % 2)) if far and size % 2]

            def store(value: Value = value, high: Any = high, wide: Any = wide) -> None:
                self.store(frame, value, {OUTER: outer, ROWS: o, HIGH: high, WIDE: wide}, mask, ROWS)

            if there:
                emit.when(there[0] if len(there) == 1 else frame.b.same("arith.andi", *there), store)
            else:
                store()


def _windows(request: Request, op: Any) -> Windows:
    """Unsuited where the columns are no filters, or the rows no places that two taps of 3 move with."""
    maps, roles = op.maps(), roles_of(op)
    batch, rows, columns, terms = roles.classes
    domain = maps.domain
    if 0 in domain or any(t.dtype != FLOAT32 for t in (*op.types(), op.type)) or not columns or prod(domain[d] for d in batch) != 1:
        raise Unsuited
    trace = Trace(request.body, domain)
    places, filters = (read_of(trace, op, k) for k in (roles.rows_of, 1 - roles.rows_of))
    moves = [index.coefficients(e, len(domain)) for e in (places.address, *(t.expr for t in places.tests))]
    if None in moves or filters.tests:
        raise Unsuited
    along = [[factors[d] for factors, _ in moves] for d in range(len(domain))]  # type: ignore[misc]
    pairs = [(d, u) for u in terms if domain[u] == 3 for d in rows if along[d] == along[u] and any(along[d])]
    if len(pairs) != 2 or len({d for d, _ in pairs}) != 2 or len({u for _, u in pairs}) != 2:
        raise Unsuited
    (high, tap_high), (wide, tap_wide) = sorted(pairs)
    outer = tuple(sorted([*batch, *(d for d in rows if d not in (high, wide))]))
    channels = tuple(d for d in terms if d not in (tap_high, tap_wide))
    return Windows((outer, columns, (high,), (wide,), channels, (tap_high,), (tap_wide,)), places, filters)
