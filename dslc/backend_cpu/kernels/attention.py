"""Streams (`dslc.ir.streams`): contractions, pointwise work and folds of a tile that never lies in memory as a whole.

A task is a block of `x` at one point of the batch; blocks of `y` stream by. T[y, x] = sum over c of Y[y, c] * X[c, x] has lanes along x, so that
folds along y are vertical, and the finished tile is at once the operand of the second product, O[x, d] += sum over y of P[y, x] * V[y, d]. Running
maxima correct the sums made with them (online softmax). Sums have one order for any number of threads.
Where products cross the stream, O[y, d] += sum over x of P[y, x] * W[x, d], or a tile is added into a table, a task is all blocks of `x` at one point
of the batch, and O or the table lies in scratch until they are done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import inf, prod
from typing import Any

from dslc.core.dtypes import FLOAT32
from dslc.ir.rows import Unsuited
from dslc.ir.schedules import choose
from dslc.ir.streams import Sink, Source, Stream
from dslc.ir.trace import Apply, Given, Node, invariant
from dslc.ir.types import type_of

from .. import emit, gemm, vmath
from ..pull import Point
from ..scalars import Val
from ..ssa import computed
from ..stage import Frame, Generated, Request, Stage
from .tables import Table

Value = Any  # an ir.Value
SWEEP = 4  # rows of the tile that are done at once between the products


@dataclass(frozen=True)
class Blocks:
    """`x` points of a block's own, whole vectors; `y` points that stream by at once, a multiple of 8."""

    x: int
    y: int


@dataclass(frozen=True)
class Area:
    """A thread's scratch memory: rows of `width` float32 values from byte `offset` on."""

    offset: int
    rows: int
    width: int

    @property
    def end(self) -> int:
        return self.offset + -(-self.rows * self.width * 4 // 64) * 64


@dataclass(frozen=True)
class Layout:
    """Tile sizes, and where each thing lies."""

    lanes: int
    bx: int
    by: int
    x: tuple[Area, ...]  # of each source, [terms, x]
    y: tuple[Area, ...]  # of each source, [y, terms]
    tiles: tuple[Area, ...]
    other: dict[int, Area]  # of each contracting sink, [y, features], or [x, features] where it crosses
    sums: tuple[Area, ...]  # of each sink, [x, features] or [1, x], and of all y, [y, features], where it crosses
    tables: dict[int, Table]  # of each sink that is one; its sums are [lanes, width]
    correction: dict[int, Area]  # of each sink that leads others
    size: int


def generate(request: Request) -> Generated:
    """The kernel; Unsuited where the body is no stream of float32."""
    stream = Stream.of(request.body, crossing=True)
    values = [op.results[0] for op in (*(s.op for s in stream.sources), *(s.op for s in stream.sinks))]
    if any(type_of(v).dtype != FLOAT32 for v in values) or 0 in stream.sizes or request.machine.lanes < 4:
        raise Unsuited("not of float32")
    known = space(stream.sizes[stream.x], stream.sizes[stream.y], request.machine.lanes)
    blocks, choice = choose(request.schedule, lambda: known[0], lambda: known)
    layout = _layout(stream, request.machine.lanes, blocks)
    return Generated([Stage(lambda frame: _Kernel(frame, stream, layout).run(), layout.size)], choice=choice)


def space(x: int, y: int, lanes: int) -> list[Blocks]:
    """The blocks of a stream of so many points: 4 vectors by 64, then others, the nearest first."""
    whole = -(-x // lanes) * lanes
    wide = list(dict.fromkeys(min(n * lanes, whole) for n in (4, 2, 8, 1, 16)))
    tall = [64, *(n for n in (32, 128, 16, 256) if n < 2 * y)]
    order = sorted(product(range(len(wide)), range(len(tall))), key=lambda p: (sum(map(bool, p)), sum(p)))
    return [Blocks(wide[i], tall[j]) for i, j in order]


def _layout(stream: Stream, lanes: int, blocks: Blocks) -> Layout:
    sizes, at = stream.sizes, 0
    bx, by = blocks.x, blocks.y

    def area(rows: int, width: int) -> Area:
        nonlocal at
        made = Area(at, rows, width)
        at = made.end
        return made

    def wide(n: int) -> int:
        return -(-n // lanes) * lanes

    contracting = [k for k, s in enumerate(stream.sinks) if s.kind == "contract"]
    x = tuple(area(sizes[s.terms], bx) for s in stream.sources)
    y = tuple(area(by, wide(sizes[s.terms])) for s in stream.sources)
    tiles = tuple(area(by, bx) for _ in range(len(stream.sources) + len(contracting) + len(stream.sinks)))
    tables = {k: Table.of(stream, s, lanes) for k, s in enumerate(stream.sinks) if s.kind == "table"}
    features = [wide(sizes[s.features]) if s.features is not None else 0 for s in stream.sinks]
    other = {k: area(bx if stream.sinks[k].crosses else by, features[k]) for k in contracting}
    rows = [lanes if k in tables else sizes[stream.y] if s.crosses else bx if s.features is not None else 1 for k, s in enumerate(stream.sinks)]
    sums = tuple(area(n, tables[k].width if k in tables else features[k] or bx) for k, n in enumerate(rows))
    correction = {k: area(1, bx) for k in dict.fromkeys(s.leader for s in stream.sinks if s.leader is not None)}
    return Layout(lanes, bx, by, x, y, tiles, other, sums, tables, correction, at + 64)


class _Kernel:
    def __init__(self, frame: Frame, stream: Stream, layout: Layout) -> None:
        self.f, self.s, self.l = frame, stream, layout
        self.b = frame.b
        self.trace, self.sizes = stream.trace, stream.sizes
        self.lanes, self.bx = layout.lanes, layout.bx
        # which tile each maximum's operand and each product's operand is kept in
        first = len(stream.sources)
        self.product_tile = {k: first + n for n, k in enumerate(layout.other)}
        self.kept_tile = {k: first + len(layout.other) + k for k in range(len(stream.sinks))}
        self.crossing = [k for k, s in enumerate(stream.sinks) if s.crosses]
        self.waiting = [k for k, s in enumerate(stream.sinks) if s.waits]
        areas = (*layout.x, *layout.y, *layout.tiles, *layout.other.values(), *layout.sums, *layout.correction.values())
        self.areas = {a: self.memory(a) for a in areas}
        # the point of the batch, and the blocks of x and of y, of which code is written
        self.place: list[Value] = []
        self.x0 = self.width = self.y0 = self.height = self.b.index(0)

    def memory(self, area: Area) -> emit.Memory:
        return emit.memory_of(self.f.scratch, area.offset, FLOAT32, area.rows * area.width)

    def run(self) -> None:
        batch, blocks = self.sizes[: self.s.x], -(-self.sizes[self.s.x] // self.bx)
        low, high = emit.share(prod(batch) * (1 if self.waiting else blocks), self.f.tid, self.f.threads)

        def task(t: Value) -> None:
            place, rest = [], t if self.waiting else emit.idiv(t, blocks)
            for n in reversed(batch):
                place.append(emit.idx(emit.irem(rest, n)))
                rest = emit.idiv(rest, n)
            self.place = place[::-1]
            if self.waiting:
                self.clear(self.waiting)
                emit.loop(0, blocks, 1, lambda k: self.task(emit.imul(k, self.bx)))
                self.finish(waiting=True)
                return
            k = emit.irem(t, blocks)
            half = emit.idiv(k, 2)  # long and short rows take turns, so that threads get equal shares of a triangle
            even = emit.icmp("eq", emit.irem(k, 2), 0)
            block = self.b.select(even, emit.idx(half), emit.idx(emit.isub(blocks - 1, half)))
            self.task(emit.imul(block, self.bx))

        emit.loop(low, high, 1, task)

    # ---- one block of x

    def task(self, x0: Value) -> None:
        self.x0 = x0
        self.width = emit.imin(self.bx, emit.isub(self.sizes[self.s.x], x0))
        self.start()
        low, high = self.range()

        def block(y0: Value) -> None:
            self.y0 = y0
            self.height = emit.imin(self.l.by, emit.isub(high, y0))
            self.pack_block()
            self.products()
            self.folds()
            self.accumulate()

        emit.loop(low, high, self.l.by, block)
        self.finish(waiting=False)

    def range(self) -> tuple[Value, Value]:
        """The part of y to which anything in the block of x adds."""
        low: Any = 0
        high: Any = self.sizes[self.s.y]
        for e in self.s.needs:
            factors = self.s.bound(e)
            if factors is None:
                continue
            best = emit.iadd(self.x0, emit.isub(self.width, 1)) if factors[0] > 0 else self.x0
            dims = [*self.place, emit.idx(best), self.b.index(0), *(self.b.index(0) for _ in self.sizes[self.s.y + 1 :])]
            rest = Point(self.b, self.trace, self.f.operands, dims).near(e)
            if factors[1] < 0:
                high = emit.imin(high, emit.iadd(rest, 1))
            else:
                low = emit.imax(low, emit.isub(0, rest))
        return low, emit.imax(high, 0)

    def start(self) -> None:
        """Packs the block's own operands as [terms, x], or [x, features] for products that cross, and clears the sums."""
        for source, area in zip(self.s.sources, self.l.x):
            memory = self.areas[area]

            def term(c: Value, source: Any = source, memory: Any = memory) -> None:
                def columns(x: Value, mask: Value) -> None:
                    point = self.point(x, 0, mask, {source.terms: c})
                    memory.store(self.spread(point.value(source.x_node)), [emit.iadd(emit.imul(c, self.bx), x)])

                self.columns(columns)

            emit.loop(0, self.sizes[source.terms], 1, term)
        for k in self.crossing:
            self.pack_rows(self.s.sinks[k], self.l.other[k])
        self.clear([k for k in range(len(self.s.sinks)) if k not in self.waiting])

    def clear(self, sinks: Sequence[int]) -> None:
        for k in sinks:
            value, area = {"max": -inf, "min": inf}.get(self.s.sinks[k].kind, 0.0), self.l.sums[k]
            memory = self.areas[area]
            emit.loop(0, area.rows * area.width, self.lanes,
                      lambda i, m=memory, v=value: m.store(self.b.const("f32", v, self.lanes), [i]))  # fmt: skip

    def columns(self, body: Callable[[Value, Value], None]) -> None:
        """body(x within the block, mask) for the block's vectors."""
        n = self.sizes[self.s.x]

        def at(x: Value) -> None:
            body(x, None if n % self.lanes == 0 else emit.mask_below(emit.isub(self.width, x), self.lanes))

        emit.loop(0, self.width, self.lanes, at)

    def point(self, x: Any, y: Any, mask: Value, more: dict[int, Value] | None = None, given: Any = None) -> Point:
        """A vector of points along x, at x of the block of x and y of the block of y."""
        dims = [*self.place, emit.idx(emit.iadd(self.x0, x)), emit.idx(emit.iadd(self.y0, y) if more is None else 0)]
        dims += [(more or {}).get(k, self.b.index(0)) for k in range(len(dims), len(self.sizes))]
        return Point(self.b, self.trace, self.f.operands, dims, self.s.x, self.lanes, mask, given)

    def spread(self, v: Val) -> Value:
        ssa = v.ssa if computed(v.dtype) == "f32" else None
        if ssa is None:
            raise Unsuited("not of float32")
        return ssa if v.lanes == self.lanes else self.b.spread(ssa, "f32", self.lanes)

    # ---- one block of y

    def pack_block(self) -> None:
        for source, area in zip(self.s.sources, self.l.y):
            self.pack_rows(source, area)
        for k, area in self.l.other.items():
            if k not in self.crossing:
                self.pack_rows(self.s.sinks[k], area)

    def pack_rows(self, one: Source | Sink, area: Area) -> None:
        """A source's [y, terms] or a product's [y, features], contiguous; [x, features] where it crosses."""
        node, dim = (one.y_node, one.terms) if isinstance(one, Source) else (one.other, one.features)
        assert node is not None and dim is not None
        across = isinstance(one, Sink) and one.crosses
        memory, n = self.areas[area], self.sizes[dim]

        def row(k: Value) -> None:
            def at(c: Value, lanes: int, mask: Value) -> None:
                dims = [*self.place, *(self.b.index(0) for _ in self.sizes[self.s.x :])]
                dims[self.s.x if across else self.s.y] = emit.iadd(self.x0 if across else self.y0, k)
                dims[dim] = emit.idx(c)
                value = Point(self.b, self.trace, self.f.operands, dims, dim, lanes, mask).value(node)
                memory.store(self.spread(value), [emit.iadd(emit.imul(k, area.width), c)])

            emit.vector_loop(0, n, self.lanes, at)

        emit.loop(0, self.width if across else self.height, 1, row)

    def products(self) -> None:
        """The tiles of all sources."""
        rows, lanes = 8, self.lanes
        for source, xa, ya, ta in zip(self.s.sources, self.l.x, self.l.y, self.l.tiles):
            x_area, y_area, tile, width = self.areas[xa], self.areas[ya], self.areas[ta], ya.width
            vectors = 2 if (self.bx // lanes) % 2 == 0 else 1

            def strip(y: Value, x_area: Any = x_area, y_area: Any = y_area, tile: Any = tile, width: int = width, vectors: int = vectors,
                      terms: int = self.sizes[source.terms]) -> None:  # fmt: skip
                def panel(x: Value) -> None:
                    zeros = [self.b.const("f32", 0.0, lanes)] * (rows * vectors)
                    sums = gemm.multiply(
                        lambda i, c: y_area.load([emit.iadd(emit.imul(emit.iadd(y, i), width), c)]),
                        lambda c, j: x_area.load([emit.iadd(emit.imul(c, self.bx), x, j * lanes)], lanes),
                        rows, vectors, terms, zeros)  # fmt: skip
                    for n, value in enumerate(sums):
                        tile.store(value, [emit.iadd(emit.imul(emit.iadd(y, n // vectors), self.bx), x, n % vectors * lanes)])

                emit.loop(0, self.bx, vectors * lanes, panel)

            emit.loop(0, self.height, rows, strip)

    def loader(self, running: dict[int, Value], x: Value, y: Value) -> Callable[[Point, Node], Val]:
        """Answers for scores, from their tiles, and for running folds."""

        def given(_point: Point, node: Node) -> Val:
            assert isinstance(node, Given)
            kind, number = node.key
            if kind == "sink":
                value = running.get(number)
                if value is None:
                    value = self.areas[self.l.sums[number]].load([x], self.lanes)
                return Val(value, FLOAT32, self.lanes)
            return Val(self.areas[self.l.tiles[number]].load([emit.iadd(emit.imul(y, self.bx), x)], self.lanes), FLOAT32, self.lanes)

        return given

    def folds(self) -> None:
        """Maxima first, with the corrections that follow; then sums, and the operands of the products."""
        leaders = [k for k, s in enumerate(self.s.sinks) if s.kind in ("max", "min")]
        followers = [k for k in range(len(self.s.sinks)) if k not in leaders]

        def column(x: Value, mask: Value) -> None:
            for k in leaders:
                self.lead(k, x, mask)
            self.follow(followers, leaders, x, mask)

        self.columns(column)

    def rows(self, roots: Sequence[Node], x: Value, mask: Value, running: dict[int, Value], carried: Sequence[Value],
             body: Callable[[Point, Value, list[Value]], None]) -> list[Value]:  # fmt: skip
        """body(point, y, carried of this row's turn) over the rows of the tile; what does not move with y is computed before. `carried` is kept
        once a row of a turn: a list of lists, one after the other."""
        before = self.point(x, 0, mask, None, self.loader(running, x, self.b.index(0)))
        still = [(n, before.value(n)) for n in invariant(self.trace, roots, {self.s.y}) if not _is_tile(n)]
        count = len(carried)

        def turn(step: int) -> Callable[..., list[Value]]:
            def at(y: Value, *values: Value) -> list[Value]:
                out = list(values)
                for u in range(step):
                    row = emit.iadd(y, u)
                    point = self.point(x, row, mask, None, self.loader(running, x, row))
                    for node, value in still:
                        point.set(node, value)
                    mine = out[u * count : (u + 1) * count]
                    body(point, row, mine)
                    out[u * count : (u + 1) * count] = mine
                return out

            return at

        whole = emit.imul(emit.idiv(self.height, SWEEP), SWEEP)
        values = emit.loop(0, whole, SWEEP, turn(SWEEP), list(carried) * SWEEP)

        def single(y: Value, *c: Value) -> list[Value]:
            return turn(1)(y, *c[:count]) + list(c[count:])

        return emit.loop(whole, self.height, 1, single, values)

    def lead(self, k: int, x: Value, mask: Value) -> None:
        """A running maximum, the correction of what was summed with the old one; the operand is kept in a tile."""
        sink, lanes, b = self.s.sinks[k], self.lanes, self.b
        sums, kept = self.areas[self.l.sums[k]], self.areas[self.l.tiles[self.kept_tile[k]]]
        old = sums.load([x], lanes)
        pick = "gt" if sink.kind == "max" else "lt"

        def larger(a: Value, v: Value) -> Value:
            return b.select(b.compare(pick, a, v, "float", lanes), a, v)

        def row(point: Point, y: Value, mine: list[Value]) -> None:
            value = self.spread(point.value(sink.value))
            kept.store(value, [emit.iadd(emit.imul(y, self.bx), x)])
            mine[0] = larger(mine[0], value)

        parts = self.rows([sink.value], x, mask, {}, [old], row)
        new = larger(larger(parts[0], parts[1]), larger(parts[2], parts[3]))
        sums.store(new, [x])
        if k in self.l.correction:
            shift = next(s.shift for s in self.s.sinks if s.leader == k)
            assert shift is not None
            old_r, new_r = (self.spread(self.shift(shift, k, value, x, mask)) for value in (old, new))
            point = self.point(x, 0, mask)
            factor = point.s.exp(Val(b.same("arith.subf", old_r, new_r), FLOAT32, lanes)).ssa  # type: ignore[attr-defined]
            nothing = b.compare("eq", old, b.const("f32", -inf, lanes), "float", lanes)
            self.areas[self.l.correction[k]].store(b.select(nothing, b.const("f32", 0.0, lanes), factor), [x])

    def finite(self, value: Value) -> Value:
        """A running maximum as it enters the exponent: 0 as long as nothing was seen."""
        nothing = self.b.compare("eq", value, self.b.const("f32", -inf, self.lanes), "float", self.lanes)
        return self.b.select(nothing, self.b.const("f32", 0.0, self.lanes), value)

    def shift(self, node: Node, k: int, value: Value, x: Value, mask: Value) -> Val:
        return self.point(x, 0, mask, None, self.loader({k: self.finite(value)}, x, self.b.index(0))).value(node)

    def follow(self, sinks: Sequence[int], leaders: Sequence[int], x: Value, mask: Value) -> None:
        """Sums, and the operands of the products, of one column of the tile."""
        folded = [k for k in sinks if self.s.sinks[k].kind == "sum"]
        kept = [(k, self.s.sinks[k].value) for k in leaders]
        exponentials = list({id(e): e for k in sinks if isinstance(e := self.s.sinks[k].exponential, Apply)}.values())
        running = {k: self.finite(self.areas[self.l.sums[k]].load([x], self.lanes)) for k in leaders}

        def row(point: Point, y: Value, mine: list[Value]) -> None:
            at = [emit.iadd(emit.imul(y, self.bx), x)]
            for k, node in kept:
                point.set(node, Val(self.areas[self.l.tiles[self.kept_tile[k]]].load(at, self.lanes), FLOAT32, self.lanes))
            for node in exponentials:
                point.set(node, Val(vmath.exp_nonpositive(self.spread(point.value(node.arguments[0]))), FLOAT32, self.lanes))
            for k in sinks:
                value = self.spread(point.value(self.s.sinks[k].value))
                if k in self.l.tables:
                    self.l.tables[k].add(self.b, self.areas[self.l.sums[k]], point, value)
                elif k in folded:
                    mine[folded.index(k)] = self.b.same("arith.addf", mine[folded.index(k)], value)
                else:
                    self.areas[self.l.tiles[self.product_tile[k]]].store(value, at)

        zeros = [self.b.const("f32", 0.0, self.lanes)] * len(folded)
        if not sinks:
            return
        roots = [self.s.sinks[k].value for k in sinks] + [self.l.tables[k].node for k in sinks if k in self.l.tables]
        parts = self.rows(roots, x, mask, running, zeros, row)
        n = len(folded)
        for i, k in enumerate(folded):
            add = [parts[u * n + i] for u in range(SWEEP)]
            total = self.b.same("arith.addf", self.b.same("arith.addf", add[0], add[1]), self.b.same("arith.addf", add[2], add[3]))
            sums, sink = self.areas[self.l.sums[k]], self.s.sinks[k]
            old = sums.load([x], self.lanes)
            if sink.leader is not None:
                old = self.b.same("arith.mulf", old, self.areas[self.l.correction[sink.leader]].load([x], self.lanes))
            sums.store(self.b.same("arith.addf", old, total), [x])

    def accumulate(self) -> None:
        """O[x, d] = correction[x] * O[x, d] + sum over y of P[y, x] * V[y, d]; where it crosses, O[y, d] += sum over x of P[y, x] * W[x, d]."""
        for k, area in self.l.other.items():
            vectors, at = area.width // self.lanes, 0
            while at < vectors:
                count = min(4, vectors - at)
                rows = 4 if count > 2 else 8
                if k in self.crossing:
                    self.accumulate_across(k, at * self.lanes, count, rows)
                else:
                    self.accumulate_panel(k, self.s.sinks[k], at * self.lanes, count, rows if self.bx % rows == 0 else 4)
                at += count

    def accumulate_panel(self, k: int, sink: Sink, d: int, vectors: int, rows: int) -> None:
        tile = self.areas[self.l.tiles[self.product_tile[k]]]

        def correct(x: Value, old: list[Value]) -> list[Value]:
            if sink.leader is None:
                return old
            factor = self.b.spread(self.areas[self.l.correction[sink.leader]].load([x]), "f32", self.lanes)
            return [self.b.same("arith.mulf", o, factor) for o in old]

        def strip(x: Value) -> None:
            self.multiply(k, x, lambda i, y: tile.load([emit.iadd(emit.imul(y, self.bx), x, i)]), self.height, d, vectors, rows, correct)

        emit.loop(0, self.bx, rows, strip)

    def accumulate_across(self, k: int, d: int, vectors: int, rows: int) -> None:
        tile = self.areas[self.l.tiles[self.product_tile[k]]]

        def strip(count: int) -> Callable[[Value], None]:
            def at(y: Value) -> None:
                row = emit.iadd(self.y0, y)
                self.multiply(k, row, lambda i, x: tile.load([emit.iadd(emit.imul(emit.iadd(y, i), self.bx), x)]), self.width, d, vectors, count)

            return at

        whole = emit.imul(emit.idiv(self.height, rows), rows)
        emit.loop(0, whole, rows, strip(rows))
        emit.loop(whole, self.height, 1, strip(1))

    def multiply(self, k: int, first: Value, left: Callable[[int, Value], Value], terms: Value, d: int, vectors: int, rows: int,
                 correct: Callable[[Value, list[Value]], list[Value]] = lambda _, old: old) -> None:  # fmt: skip
        """Adds to a strip of the sums of a product, from row `first` and feature `d` on; `left(i, c)`: of row first + i and term c."""
        lanes, other, sums, width = self.lanes, self.areas[self.l.other[k]], self.areas[self.l.sums[k]], self.l.other[k].width

        def place(i: int, j: int) -> list[Value]:
            return [emit.iadd(emit.imul(emit.iadd(first, i), width), d + j * lanes)]

        starts = [v for i in range(rows) for v in correct(emit.iadd(first, i), [sums.load(place(i, j), lanes) for j in range(vectors)])]
        made = gemm.multiply(left, lambda c, j: other.load([emit.iadd(emit.imul(c, width), d + j * lanes)], lanes), rows, vectors, terms, starts)
        for n, value in enumerate(made):
            sums.store(value, place(n // vectors, n % vectors))

    # ---- results

    def finish(self, waiting: bool) -> None:
        """Results of the sinks that are finished with a block of x, or of those that wait for all."""
        for number, (node, address, home) in enumerate(self.s.results):
            sink = self.s.sinks[home]
            if home in self.l.tables:
                if waiting:
                    self.finish_table(number, node, address, home)
            elif sink.waits == waiting:
                (self.finish_rows if sink.features is None else self.finish_features)(number, node, address, sink)

    def finish_rows(self, number: int, node: Node, address: Any, sink: Sink) -> None:
        def at(x: Value, mask: Value) -> None:
            point = self.point(x, 0, mask, {}, self.loader({}, x, self.b.index(0)))
            point.store(point.value(node), self.f.results[number], address)

        self.columns(at)

    def finish_features(self, number: int, node: Node, address: Any, sink: Sink) -> None:
        dim = sink.features
        assert dim is not None

        def row(k: Value) -> None:
            def at(d: Value, lanes: int, mask: Value) -> None:
                def given(_point: Point, found: Node) -> Val:
                    assert isinstance(found, Given)
                    area = self.l.sums[found.key[1]]
                    if self.s.sinks[found.key[1]].features is None:
                        return Val(self.areas[area].load([k]), FLOAT32, 1)
                    return Val(self.areas[area].load([emit.iadd(emit.imul(k, area.width), d)], lanes), FLOAT32, lanes)

                dims = [*self.place, *(self.b.index(0) for _ in self.sizes[self.s.x :])]
                dims[self.s.y if sink.crosses else self.s.x] = emit.idx(k) if sink.crosses else emit.iadd(self.x0, k)
                dims[dim] = emit.idx(d)
                point = Point(self.b, self.trace, self.f.operands, dims, dim, lanes, mask, given)
                point.store(point.value(node), self.f.results[number], address)

            emit.vector_loop(0, self.sizes[dim], self.lanes, at)

        emit.loop(0, self.sizes[self.s.y] if sink.crosses else self.width, 1, row)

    def finish_table(self, number: int, node: Node, address: Any, k: int) -> None:
        dim, table, memory = self.s.sinks[k].features, self.l.tables[k], self.areas[self.l.sums[k]]
        assert dim is not None

        def place(p: Value) -> None:
            dims = [*self.place, *(self.b.index(0) for _ in self.sizes[self.s.x :])]
            dims[dim] = p
            point = Point(self.b, self.trace, self.f.operands, dims, given=lambda *_: table.total(self.b, memory, p))
            point.store(point.value(node), self.f.results[number], address)

        emit.loop(0, table.size, 1, place)


def _is_tile(node: Node) -> bool:
    return isinstance(node, Given) and node.key is not None and node.key[0] == "source"
