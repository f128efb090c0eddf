"""Filters of 3 x 3 that move by single steps, by Winograd's algorithm: 2 x 2 places from 16 products a channel, where the definition has 36.

    y = A' [(G w G') . (B' x B)] A       a tile of 2 x 2 places reads 4 x 4 of x; "." multiplies point by point and sums over channels

First all threads make G w G' of the filters. Then they share blocks of tiles: B' x B of a block for all channels goes to scratch; for each of the 16
points a product of matrices, rows the filters, columns the tiles; then A' [..] A, the epilogue, and the results. Rounding errors are of
the order of the plain sum's, which adds nine times as many numbers one after the other. An infinity or NaN reaches all four places of a tile that
reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from dslc.core.dtypes import FLOAT32
from dslc.ir import index
from dslc.ir.contractions import roles_of
from dslc.ir.index import Const, Dim, Expr
from dslc.ir.mlir import arith, vector
from dslc.ir.rows import Unsuited
from dslc.ir.trace import Read, Test, Trace, factor_of

from .. import emit, gemm, gemm_schedule
from ..gemm_pack import interleaved
from ..machine import Machine
from ..pull import Point
from ..stage import Frame, Generated, Request, Stage
from ..types import const, register_type, vec
from .places import CHANNELS, HIGH, OUTER, ROWS, WIDE, Places, read_of, replaced

Value = Any  # an ir.Value

PLACE_HIGH, PLACE_WIDE, TAP_HIGH, TAP_WIDE = range(5, 9)  # further dims of the iteration space
POINTS = 16  # of a tile, transformed
TRANSFORM = 90  # cycles for a vector of tiles of one channel, there or back
FILTER = 14  # cycles for the filter of one channel
BANDWIDTH = 64  # bytes a cycle from behind the second cache, most of them while something else is computed
PLAIN = 1.1  # cycles of a plain product for each that its multiplications take
GAIN = 0.9  # of the plain product's cycles, at most, to be worth it


def generate(request: Request, op: Any) -> Generated:
    """Unsuited for what is no such convolution of float32, or gains nothing by it."""
    return made_by(_Winograd, request, op)


def made_by(kind: Callable[[Request, Any], Any], request: Request, op: Any) -> Generated:
    """The filters are transformed, then blocks of tiles are made; in tf32 what is multiplied would not be what is to be rounded."""
    if op.tf32:
        raise Unsuited
    kernel = kind(request, op)
    if kernel.scattered:
        raise Unsuited
    scratch = kernel.schedule.scratch_elements * FLOAT32.bytes
    return Generated([Stage(kernel.transform_filters), Stage(kernel.build, scratch + 64)], kernel.filter_bytes)


@dataclass(frozen=True)
class _Schedule:
    """Blocks of `high` x `wide` tiles, which are `nv` vectors of columns in a product; tiles of `mr` rows. `stride`: from one channel's transformed
    tiles to the next's; `filters`, `channels`: how many there are; `cycles`: what all costs."""

    high: int
    wide: int
    mr: int
    nv: int
    lanes: int
    stride: int
    filters: int
    channels: int
    cycles: float

    @property
    def columns(self) -> int:
        return self.nv * self.lanes

    @property
    def tiles_elements(self) -> int:
        return POINTS * self.channels * self.stride

    @property
    def scratch_elements(self) -> int:
        """Transformed tiles, and products, which may be read beyond their end by a vector."""
        return self.tiles_elements + POINTS * self.filters * self.columns + self.stride


@dataclass(frozen=True)
class Sizes:
    """Of the classes of dims in which both kinds of vectors go: `outer` is pictures, and all that is like them."""

    outer: int
    filters: int
    high: int
    wide: int
    channels: int

    @property
    def tiles(self) -> int:
        return self.outer * -(-self.high // 2) * -(-self.wide // 2)


def _schedules(s: Sizes, lanes: int, machine: Machine) -> Iterator[_Schedule]:
    high, wide = -(-s.high // 2), -(-s.wide // 2)  # tiles
    most = machine.registers // 4 * lanes  # columns that leave room for some rows
    blocks = [(r, wide) for r in range(1, high + 1) if r * wide <= most] + [(1, w) for w in range(lanes, min(most + 1, wide), lanes)]
    for r, w in blocks:
        nv = -(-r * w // lanes)
        vectors = r * -(-w // lanes)
        stride = -(-max(nv * lanes, (r - 1) * w + -(-w // lanes) * lanes) // lanes) * lanes
        tasks = s.outer * -(-high // r) * -(-wide // w)
        used = FLOAT32.bytes * POINTS * (s.channels * stride + s.filters * nv * lanes)
        made = FLOAT32.bytes * POINTS * s.filters * s.channels
        moved = (made if made > machine.l2 // 2 else 0) + (2 * used if used > machine.l2 else 0)
        for mr in range(1, 10):
            if mr <= s.filters and mr * nv + nv + 1 <= machine.registers:
                product = POINTS * s.channels * -(-s.filters // mr) * (gemm_schedule.strip_cost(mr, nv, machine) + 2 * mr * nv / s.channels)
                each = product + vectors * (s.channels + s.filters) * TRANSFORM + moved / BANDWIDTH
                cycles = tasks * each * gemm_schedule.idling(tasks)
                yield _Schedule(r, w, mr, nv, lanes, stride, s.filters, s.channels, cycles)


class Tiles(Places):
    """A convolution of 3 x 3 taps over finer dims than other contractions have. `filters`, `places`: what is read for a filter's tap, and at a place
    of a tile."""

    of: Sizes
    filters: Read
    places: Read

    def place(self, found: Windows, domain: Sequence[int]) -> None:
        """The axes of the result, and what the operands read, over this kernel's dims."""
        axes: list[Expr] = [Const(0)] * len(domain)
        for k, members in enumerate(found.classes):
            dim = k if k <= CHANNELS else k + 2  # taps
            for d, e in zip(members, index.delinearize(Dim(dim), [domain[d] for d in members])):
                axes[d] = self.trace.tidy(e)
        self.points = tuple(axes[: self.op.type.rank])
        self.filters = replaced(found.filters, axes, self.trace)
        (high,), (wide,), taps = found.classes[HIGH], found.classes[WIDE], [d for c in found.classes[5:] for d in c]
        at = list(axes)
        at[high], at[wide] = Dim(PLACE_HIGH), Dim(PLACE_WIDE)
        for d in taps:
            at[d] = Const(0)
        places = replaced(found.places, at, self.trace)
        ends = [(PLACE_HIGH, self.of.high + 2), (PLACE_WIDE, self.of.wide + 2)]
        beyond = tuple(Test(Dim(d), n) for d, n in ends if self.sizes[d] > n)  # tiles that reach over the edge
        self.places = Read(places.dtype, places.operand, places.address, (*places.tests, *beyond))


class _Winograd(Tiles):
    """The code."""

    def __init__(self, request: Request, op: Any) -> None:
        found = _windows(request, op)
        self.op, self.machine = op, request.machine
        self.lanes = gemm_schedule.lanes_for(request.machine, FLOAT32)
        domain = op.maps().domain
        self.of = Sizes(*(prod(domain[d] for d in axes) for axes in found.classes[:5]))
        s = min(_schedules(self.of, self.lanes, self.machine), key=lambda s: s.cycles, default=None)
        if s is None or not self._pays(s):
            raise Unsuited
        self.schedule = s
        self.tiles = (-(-self.of.high // 2), -(-self.of.wide // 2))
        self.blocks = (-(-self.tiles[0] // s.high), -(-self.tiles[1] // s.wide))
        places = (2 * self.blocks[0] * s.high + 2, 2 * self.blocks[1] * max(s.wide, -(-s.wide // self.lanes) * self.lanes) + 2)
        self.over(request.body, (*vars(self.of).values(), *places, 3, 3))
        self.place(found, domain)
        self.results = [self._result(v) for v in request.body.results]

    def _pays(self, s: _Schedule) -> bool:
        n = self.of
        plain = n.outer * n.filters * n.channels * 9 * n.high * n.wide / self.lanes / self.machine.fmas * PLAIN
        tasks = n.outer * -(-n.high * n.wide // (4 * self.lanes))
        return s.cycles + FILTER * n.filters * n.channels < GAIN * plain * gemm_schedule.idling(max(tasks, gemm_schedule.TASKS))

    # ---- the filters

    @property
    def row_length(self) -> int:
        """From one filter's transformed channels to the next's: never a power of two."""
        return -(-self.of.channels // self.lanes) * self.lanes + self.lanes

    @property
    def filter_bytes(self) -> int:
        return POINTS * self.of.filters * self.row_length * FLOAT32.bytes

    def transform_filters(self, frame: Frame) -> None:
        low, high = emit.share(self.of.filters, frame.tid, frame.threads)
        made = self._made_filters(frame)

        def row(o: Value) -> None:
            def part(c: Value, lanes: int, mask: Value) -> None:
                taps = self._taps_apart(frame, o, c) if mask is None and self._taps_together() else self._taps(frame, o, c, lanes, mask)
                for p, value in enumerate(both_ways(of_filter, taps)):
                    made.store(value, [self._filter_at(p, o, c)])

            emit.vector_loop(0, self.of.channels, self.lanes, part)

        emit.loop(low, high, 1, row)

    def _taps(self, frame: Frame, o: Value, c: Value, lanes: int, mask: Value) -> list[list[Value]]:
        """The taps of neighbouring channels."""

        def tap(u: int, v: int) -> Value:
            dims = self.dims({ROWS: o, CHANNELS: c, TAP_HIGH: u, TAP_WIDE: v})
            return self.wide(Point(frame.b, self.trace, frame.operands, dims, CHANNELS, lanes, mask), self.filters, lanes)

        return [[tap(u, v) for v in range(3)] for u in range(3)]

    def _taps_together(self) -> bool:
        """Whether memory holds the taps of one channel after those of another."""
        return [factor_of(self.filters.address, d) for d in (CHANNELS, TAP_HIGH, TAP_WIDE)] == [9, 3, 1]

    def _taps_apart(self, frame: Frame, o: Value, c: Value) -> list[list[Value]]:
        """As `_taps`, by whole loads: gathers would take as long as the products of some places."""
        lanes, memory = self.lanes, frame.operands[self.filters.operand]
        start = Point(frame.b, self.trace, frame.operands, self.dims({ROWS: o, CHANNELS: c})).scalar(self.filters.address)
        loaded = [memory.load([emit.iadd(start, k * lanes)], lanes) for k in range(9)]

        def tap(t: int) -> Value:
            places = [9 * lane + t for lane in range(lanes)]
            made = loaded[0]
            for k in range(1, 9):  # the lanes that lie in this vector; the others stay
                made = vector.shuffle(made, loaded[k], [lanes + p % lanes if p // lanes == k else (p if k == 1 and p < lanes else n)
                                                        for n, p in enumerate(places)])  # fmt: skip
            return made

        return [[tap(3 * u + v) for v in range(3)] for u in range(3)]

    def _made_filters(self, frame: Frame) -> emit.Memory:
        return emit.memory_of(frame.workspace.ref, 0, FLOAT32, self.filter_bytes // FLOAT32.bytes)  # type: ignore[union-attr]

    def _filter_at(self, point: Any, o: Any, c: Any) -> Any:
        return emit.iadd(emit.imul(emit.iadd(emit.imul(point, self.of.filters), o), self.row_length), c)

    # ---- blocks of tiles

    def build(self, frame: Frame) -> None:
        s = self.schedule
        tiles = emit.memory_of(frame.scratch, 0, FLOAT32, s.tiles_elements)
        sums = emit.memory_of(frame.scratch, s.tiles_elements * FLOAT32.bytes, FLOAT32, s.scratch_elements - s.tiles_elements)
        low, high = emit.share(self.of.outer * self.blocks[0] * self.blocks[1], frame.tid, frame.threads)

        def block(task: Value) -> None:
            outer, at = emit.idiv(task, self.blocks[0] * self.blocks[1]), emit.irem(task, self.blocks[0] * self.blocks[1])
            top, left = emit.imul(emit.idiv(at, self.blocks[1]), s.high), emit.imul(emit.irem(at, self.blocks[1]), s.wide)
            self.transform_tiles(frame, tiles, outer, top, left)
            emit.loop(0, POINTS, 1, lambda point: self.multiply(frame, tiles, sums, point))
            self.finish(frame, sums, outer, top, left)

        emit.loop(low, high, 1, block)

    def transform_tiles(self, frame: Frame, tiles: emit.Memory, outer: Value, top: Value, left: Value) -> None:
        """The tiles of a row lie side by side, in whole vectors: what a vector has too much the next row writes over."""
        s, lanes = self.schedule, self.lanes

        def part(r: Value, x: Value) -> None:
            def channel(c: Value) -> None:
                def load(a: int, skip: int) -> Value:
                    high = emit.iadd(emit.imul(emit.iadd(top, r), 2), a)
                    wide = emit.iadd(emit.imul(emit.iadd(left, x), 2), skip)
                    dims = self.dims({OUTER: outer, CHANNELS: c, PLACE_HIGH: high, PLACE_WIDE: wide})
                    return self.wide(Point(frame.b, self.trace, frame.operands, dims, PLACE_WIDE, lanes), self.places, lanes)

                rows = []
                for a in range(4):
                    pairs = [(load(a, skip), load(a, skip + lanes)) for skip in (0, 2)]
                    rows.append([vector.shuffle(p, q, list(range(odd, 2 * lanes, 2))) for p, q in pairs for odd in (0, 1)])
                at = emit.iadd(emit.imul(c, s.stride), emit.imul(r, s.wide), x)
                for p, value in enumerate(both_ways(of_places, rows)):
                    tiles.store(value, [emit.iadd(at, p * s.channels * s.stride)])

            emit.loop(0, s.channels, 1, channel)

        emit.loop(0, s.high, 1, lambda r: emit.loop(0, s.wide, lanes, lambda x: part(r, x)))

    def multiply(self, frame: Frame, tiles: emit.Memory, sums: emit.Memory, point: Value) -> None:
        s, filters = self.schedule, self._made_filters(frame)
        first = emit.imul(point, s.channels * s.stride)
        zero = const(0.0, vec(s.lanes, register_type(FLOAT32)))

        def strip(q: Value) -> None:
            o = emit.imul(q, s.mr) if s.filters % s.mr == 0 else emit.imin(emit.imul(q, s.mr), s.filters - s.mr)
            start = self._filter_at(point, o, 0)

            def load_a(i: int, k: Any) -> Value:
                return filters.load([emit.iadd(start, k, i * self.row_length)])

            def load_b(k: Any, j: int) -> Value:
                return tiles.load([emit.iadd(first, emit.imul(k, s.stride), j * s.lanes)], s.lanes)

            made = gemm.multiply(load_a, load_b, s.mr, s.nv, s.channels, [zero] * (s.mr * s.nv))
            at = emit.imul(emit.iadd(emit.imul(point, s.filters), o), s.columns)
            for n, value in enumerate(made):
                sums.store(value, [emit.iadd(at, n // s.nv * s.columns + n % s.nv * s.lanes)])

        emit.loop(0, -(-s.filters // s.mr), 1, strip)

    def finish(self, frame: Frame, sums: emit.Memory, outer: Value, top: Value, left: Value) -> None:
        s, lanes = self.schedule, self.lanes
        rows = emit.imin(emit.isub(self.tiles[0], top), s.high)
        end = emit.imin(emit.iadd(emit.imul(left, 2), 2 * s.wide), self.of.wide)  # of this block's places

        def part(o: Value, r: Value, x: Value) -> None:
            at = emit.iadd(emit.imul(o, s.columns), emit.imul(r, s.wide), x)
            made = [sums.load([emit.iadd(at, p * s.filters * s.columns)], lanes) for p in range(POINTS)]
            y = both_ways(of_sums, [made[4 * a : 4 * a + 4] for a in range(4)])
            for a in (0, 1):
                high = emit.iadd(emit.imul(emit.iadd(top, r), 2), a)

                def store(a: int = a, high: Value = high) -> None:
                    for half, value in enumerate(interleaved(y[2 * a], y[2 * a + 1])):
                        wide = emit.iadd(emit.imul(emit.iadd(left, x), 2), half * lanes)
                        whole = s.wide % lanes == 0 and self.of.wide % (2 * s.wide) == 0
                        self.store(frame, value, {OUTER: outer, ROWS: o, HIGH: high, WIDE: wide},
                                    None if whole else emit.mask_below(emit.imax(emit.isub(end, wide), 0), lanes))  # fmt: skip

                if a and self.of.high % 2:
                    emit.when(emit.icmp("lt", high, self.of.high), store)
                else:
                    store()

        emit.loop(0, s.filters, 1, lambda o: emit.loop(0, rows, 1, lambda r: emit.loop(0, s.wide, lanes, lambda x: part(o, r, x))))


# ---- what is such a convolution


@dataclass(frozen=True)
class Windows:
    """The axes of the op's domain as outer, filters, high, wide, channels and the two taps, and what the operands read over them."""

    classes: tuple[tuple[int, ...], ...]
    places: Read
    filters: Read


def _windows(request: Request, op: Any) -> Windows:
    maps, roles = op.maps(), roles_of(op)
    batch, rows, columns, terms = roles.classes
    domain = maps.domain
    if 0 in domain or any(t.dtype != FLOAT32 for t in (*op.types(), op.type)) or not columns or columns[-1] != op.type.rank - 1:
        raise Unsuited
    trace = Trace(request.body, domain)
    places, filters = (read_of(trace, op, k) for k in (1 - roles.rows_of, roles.rows_of))
    forms = [places.address, *(t.expr for t in places.tests)]
    moves = [index.coefficients(e, len(domain)) for e in (*forms, filters.address)]
    if None in moves or filters.tests or any(moves[-1][0][d] for d in (*batch, *columns) if domain[d] > 1):  # type: ignore[index]
        raise Unsuited
    along = [[factors[d] for factors, _ in moves[:-1]] for d in range(len(domain))]  # type: ignore[misc]
    pairs = [(d, u) for u in terms if domain[u] == 3 for d in columns if along[d] == along[u] and along[d][0]]
    if len(pairs) != 2 or len({d for d, _ in pairs}) != 2 or len({u for _, u in pairs}) != 2:
        raise Unsuited
    (high, tap_high), (wide, tap_wide) = sorted(pairs)
    if wide != columns[-1] or along[wide][0] != 1:
        raise Unsuited
    outer = tuple(sorted([*batch, *(d for d in columns if d not in (high, wide))]))
    channels = tuple(d for d in terms if d not in (tap_high, tap_wide))
    return Windows((outer, rows, (high,), (wide,), channels, (tap_high,), (tap_wide,)), places, filters)


# ---- the transforms, of one axis; each is applied along both


def both_ways(transform: Any, m: Sequence[Sequence[Value]]) -> list[Value]:
    """The transform along the columns of a matrix, then along its rows; row by row."""
    rows = [transform(*column) for column in zip(*m)]
    return [value for column in zip(*rows) for value in transform(*column)]


def of_filter(a: Value, b: Value, c: Value) -> list[Value]:
    half = const(0.5, a.type)
    outer, inner = arith.mulf(arith.addf(a, c), half), arith.mulf(b, half)
    return [a, arith.addf(outer, inner), arith.subf(outer, inner), c]


def of_places(a: Value, b: Value, c: Value, d: Value) -> list[Value]:
    return [arith.subf(a, c), arith.addf(b, c), arith.subf(c, b), arith.subf(b, d)]


def of_sums(a: Value, b: Value, c: Value, d: Value) -> list[Value]:
    return [arith.addf(arith.addf(a, b), c), arith.subf(arith.subf(b, c), d)]
