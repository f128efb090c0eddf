"""Matrix products of any size: C[b, m, n] = store(sum over k of A[b, m, k] * B[b, k, n]).

Operands are read through callbacks, so that elementwise work, windows, transposes and gathers happen while a block is packed into a thread's scratch;
operands that lie well are read in place. Sums stay in registers, and `store` does the epilogue on vectors before the only write. How is decided by
`gemm_schedule`. The emitted code runs the same sums in the same order for any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dslc.ir.contractions import LINE
from dslc.ir.mlir import arith, vector

from . import emit as e
from .gemm_pack import fold_each, pack_a_panels, pack_a_rows, pack_b_panel, pack_depth
from .gemm_schedule import Schedule, Shape, Side, a_elements, b_elements, panel_length, panel_rows, row_length, sums_elements
from .types import const, register_type, vec

Value = Any
Index = Any

FETCHED = 32  # terms whose lines are asked for at a time: more at once than a core waits for would hold up the loads
MOST_FETCHING = 8  # panels
FAR = 1 << 20  # bytes of weights that lie behind the second cache, whatever was there before


@dataclass(frozen=True)
class RowsOfColumns:
    """Columns in rows of `width`, and `load(b, row, x, k, lanes, mask)`: the values of columns x, x + 1, ... of a row. Where all these are in the row
    and `inside(b, row, x, lanes)` is true, no test is needed for any term, and `load_inside` does as well."""

    width: int
    load: Callable[[Index, Index, Index, Index, int, Value], Value]
    inside: Callable[[Index, Index, Index, int], Value]
    load_inside: Callable[[Index, Index, Index, Index, int, Value], Value]


@dataclass(frozen=True)
class RunsOfTerms:
    """Terms in `count` runs of `length`, and `load(b, x, run, k, lanes, mask, inside)`: values of a run of row x from its k-th term on.
    `inside(b, x)`: whether no load of a row needs a test; None: none ever does."""

    count: int
    length: int
    load: Callable[[Index, Index, Index, Index, int, Value, bool], Value]
    inside: Callable[[Index, Index], Value] | None


@dataclass(frozen=True)
class Operand:
    """An operand: its `Side`, and `load(b, x, k, axis, lanes, mask)`: `lanes` values from (x, k) on along `axis`, "x" or "k", as a vector.

    x is the row of A, the column of B. With one lane the result is a scalar and the axis does not matter. Lanes outside the mask (None: all) must not
    be read and may have any finite value. `axis` is the side's `along`, or "x" where that is "none"; scalars may be asked of any operand.
    `place(b, x, k)`, where an operand is read in place: the memory and the element's index in it. `rows`: B only: how its
    columns are packed, where they are the places of rows that are loaded better one by one. `runs`: A only: how its rows are packed, where their
    terms are runs of neighbours. `enter(b)`, where an operand has it, is called before
    the loads of a batch: what these have in common is made there.
    """

    side: Side
    load: Callable[[Index, Index, Index, str, int, Value], Value]
    place: Callable[[Index, Index, Index], tuple[e.Memory, Index]] | None = None
    rows: RowsOfColumns | None = None
    runs: RunsOfTerms | None = None
    enter: Callable[[Index], None] | None = None


# store(vector, b, m, n, mask): values for columns n, n + 1, ... of row m, where the mask (None: all) is true
Store = Callable[[Value, Index, Index, Index, Value], None]


@dataclass(frozen=True)
class Product:
    """One product to emit. `packed_b`: the packed B of one batch after the other, where `b.side.packed`; in panels of the schedule's columns, or
    where `b.side.lines` of LINE. `ahead(b, m, n)` has what `store` will read for columns n, n + 1, ... of row m, as far as one line has it, brought
    near while the sums are made."""

    shape: Shape
    schedule: Schedule
    a: Operand
    b: Operand
    store: Store
    packed_b: e.Memory | None = None
    ahead: Callable[[Index, Index, Index], None] | None = None


def emit(product: Product, tid: Value, nt: Value, scratch: Value, offset: int = 0) -> None:
    """The thread's share. `scratch`: a memref of bytes with `scratch_elements` elements free from byte `offset` on."""
    (_Dot if product.schedule.form == "dot" else _Outer)(product, scratch, offset).run(tid, nt)


def _enter(product: Product, batch: Index) -> None:
    for operand in (product.a, product.b):
        if operand.enter:
            operand.enter(batch)


def emit_pack_b(shape: Shape, s: Schedule, b: Operand, packed: e.Memory, tid: Value, nt: Value) -> None:
    """Packs the whole of B once, for `Side(packed=True)`: `packed` is a flat memory of `packed_elements`. The threads share blocks of
    terms of the panels."""
    panels, depth = -(-shape.n // s.nr), pack_depth(shape.k, s.lanes)
    blocks = -(-shape.k // depth)
    low, high = e.share((1 if b.side.shared else shape.batch) * panels * blocks, tid, nt)

    def block(t: Value) -> None:
        p, k0 = e.idiv(t, blocks), e.imul(e.irem(t, blocks), depth)
        at = e.iadd(e.imul(p, s.nr * shape.k), e.imul(k0, s.nr))
        terms = depth if shape.k % depth == 0 else e.imin(e.isub(shape.k, k0), depth)
        pack_b_panel(b, packed, at, e.idiv(p, panels), e.imul(e.irem(p, panels), s.nr), shape.n, k0, terms, s)

    e.loop(low, high, 1, block)


def packed_elements(shape: Shape, s: Schedule, shared: bool = True) -> int:
    """Elements of a packed B, all batches."""
    return (1 if shared else shape.batch) * -(-shape.n // s.nr) * s.nr * shape.k


class _Outer:
    """The outer form. Names: a strip is `mr` rows, a panel `nr` columns; a block is some of them, a task one block of each.

    There is one inner loop for all tiles. Where the tile does not divide the product, the last strip and panel either begin earlier (operands read in
    place) or reach over the edge (packed ones, which are padded); only rows and columns that are there, and not yet done, are stored.
    """

    def __init__(self, product: Product, scratch: Value, offset: int):
        self.p, self.s, self.shape = product, product.schedule, product.shape
        s, size = self.s, self.shape.dtype.bytes
        self.type = vec(s.lanes, register_type(self.shape.dtype))
        self.strips, self.panels = -(-self.shape.m // s.mr), -(-self.shape.n // s.nr)
        self.row_blocks, self.column_blocks = -(-self.shape.m // s.mc), -(-self.shape.n // s.nc)
        self.blocked, self.lines = s.kc < self.shape.k, -(-self.shape.n // LINE)
        a_size, b_size = a_elements(s, product.a.side), b_elements(s)

        def area(at: int, elements: int) -> e.Memory:
            return e.memory_of(scratch, offset + at * size, self.shape.dtype, max(elements, 1))

        self.a_area: Any = area(0, a_size) if s.pack_a else None
        self.b_area: Any = area(a_size, b_size) if s.pack_b else product.packed_b
        self.sums = area(a_size + b_size, sums_elements(self.shape, s))

    def run(self, tid: Value, nt: Value) -> None:
        low, high = e.share(self.shape.batch * self.row_blocks * self.column_blocks, tid, nt)
        inner, outer_blocks = (self.column_blocks, self.row_blocks) if self.s.rows_outer else (self.row_blocks, self.column_blocks)

        def task(t: Value, last: Value) -> list[Value]:
            outer = e.idiv(t, inner)
            blocks, batch = (e.irem(outer, outer_blocks), e.irem(t, inner)), e.idiv(outer, outer_blocks)
            _enter(self.p, batch)
            self.block(batch, *(blocks if self.s.rows_outer else blocks[::-1]), e.icmp("ne", e.idx(outer), last))
            return [e.idx(outer)]

        e.loop(low, high, 1, task, [e.idx(-1)])

    def block(self, batch: Index, im: Index, jn: Index, moved: Value) -> None:
        """One task. `moved`: the outer block is another one than in the task before."""
        s, shape = self.s, self.shape
        if not self.blocked:
            self.pack(batch, im, jn, 0, shape.k, moved if s.rows_outer else None, None if s.rows_outer else moved)
            self.tiles(batch, im, jn, 0, shape.k)
            return
        e.loop(0, s.mc * s.nc, s.lanes, lambda i: self.sums.store(const(0.0, self.type), [i]))

        def k_block(k0: Value) -> None:
            terms = e.imin(e.isub(shape.k, k0), s.kc)
            self.pack(batch, im, jn, k0, terms, None, None)
            self.tiles(batch, im, jn, k0, terms)

        e.loop(0, shape.k, s.kc, k_block)
        self.each_panel(jn, lambda p, local_p: self.each_strip(im, lambda q, local_q: self.finish(batch, q, local_q, p, local_p)))

    def pack(self, batch: Index, im: Index, jn: Index, k0: Index, terms: Index, when_a: Value, when_b: Value) -> None:
        for wanted, only, do in ((self.s.pack_a, when_a, self.pack_a), (self.s.pack_b, when_b, self.pack_b)):
            if wanted and only is not None:
                e.when(only, lambda do=do: do(batch, im, jn, k0, terms))  # type: ignore[misc]
            elif wanted:
                do(batch, im, jn, k0, terms)

    def pack_a(self, batch: Index, im: Index, jn: Index, k0: Index, terms: Index) -> None:
        pack = pack_a_rows if self.p.a.side.along == "k" else pack_a_panels
        first, end = _part(im, self.strips, self.row_blocks)
        pack(self.p.a, self.a_area, batch, e.imul(first, self.s.mr), e.isub(end, first), self.shape.m, k0, terms, self.s)

    def pack_b(self, batch: Index, im: Index, jn: Index, k0: Index, terms: Index) -> None:
        s = self.s
        self.each_panel(jn, lambda p, q: pack_b_panel(
            self.p.b, self.b_area, e.imul(q, s.nr * s.kc), batch, e.imul(p, s.nr), self.shape.n, k0, terms, s))  # fmt: skip

    def each_panel(self, jn: Index, body: Callable[[Index, Index], None]) -> None:
        """body(panel, its number within the block)."""
        self._each(_part(jn, self.panels, self.column_blocks), self.panels, body)

    def each_strip(self, im: Index, body: Callable[[Index, Index], None]) -> None:
        self._each(_part(im, self.strips, self.row_blocks), self.strips, body)

    @staticmethod
    def _each(part: tuple[Index, Index], count: int, body: Callable[[Index, Index], None]) -> None:
        if count == 1:
            body(0, 0)
        else:
            e.loop(*part, 1, lambda p: body(p, e.isub(p, part[0])))

    # tiles

    def tiles(self, batch: Index, im: Index, jn: Index, k0: Index, terms: Index) -> None:
        self.each_panel(jn, lambda p, local_p: self.each_strip(im, lambda q, local_q: self.tile(batch, q, local_q, p, local_p, k0, terms)))

    def tile(self, batch: Index, strip: Index, local_strip: Index, panel: Index, local_panel: Index, k0: Index, terms: Index) -> None:
        s = self.s
        load_a, load_b = self.a_loader(batch, strip, local_strip, k0), self.b_loader(batch, panel, local_panel, k0)
        places = [self.sum_at(local_strip, local_panel, i, j * s.lanes) for i in range(s.mr) for j in range(s.nv)]
        sums = [self.sums.load(at, s.lanes) if self.blocked else const(0.0, self.type) for at in places]
        if self.p.ahead is not None and not self.blocked:
            self.fetch_ahead(self.p.ahead, batch, strip, panel)
        fetchers = [f for f in (self.a_fetcher(batch, strip, k0), self.b_fetcher(batch, panel, local_strip, k0)) if f]
        for value, at in zip(multiply(load_a, load_b, s.mr, s.nv, terms, sums, fetchers), places):
            self.sums.store(value, at)
        if not self.blocked:
            self.finish(batch, strip, local_strip, panel, local_panel)

    def fetch_ahead(self, fetch: Callable[[Index, Index, Index], None], batch: Index, strip: Index, panel: Index) -> None:
        """What the tile's epilogue reads; a row that is not there is the last one."""
        n, line = self.first_column(panel), 64 // self.shape.dtype.bytes

        def row(i: Value) -> None:
            m = e.imin(e.iadd(self.first_row(strip), i), self.shape.m - 1)
            for j in range(0, self.s.nr, line):
                fetch(batch, m, e.imin(e.iadd(n, j), self.shape.n - 1))

        e.loop(0, self.s.mr, 1, row)

    def sum_at(self, local_strip: Index, local_panel: Index, row: Index, column: Index) -> list[Index]:
        """Where a sum of a tile is kept until its epilogue: there is one tile, or a block of them between blocks of k."""
        if not self.blocked:
            return [e.iadd(e.imul(row, self.s.nr), column)]
        base = e.iadd(e.imul(local_panel, self.s.mc), e.imul(local_strip, self.s.mr))
        return [e.iadd(e.imul(e.iadd(base, row), self.s.nr), column)]

    def finish(self, batch: Index, strip: Index, local_strip: Index, panel: Index, local_panel: Index) -> None:
        """The epilogue of a tile: its rows and columns that are there and not yet stored."""
        s, shape = self.s, self.shape
        m, n = e.imul(strip, s.mr), e.imul(panel, s.nr)
        m0, n0 = self.first_row(strip), self.first_column(panel)

        def row(i: Value) -> None:
            def columns(c: Value, lanes: int, mask: Value) -> None:
                value = self.sums.load(self.sum_at(local_strip, local_panel, e.isub(i, m0), e.isub(c, n0)), lanes)
                self.p.store(value, batch, i, c, mask)

            end = e.imin(e.iadd(n, s.nr), shape.n)
            if shape.n % s.nr == 0:
                for j in range(s.nv):
                    columns(e.iadd(n, j * s.lanes), s.lanes, None)
            elif shape.n % s.lanes == 0:
                e.loop(n, end, s.lanes, lambda c: columns(c, s.lanes, None))
            else:
                e.vector_loop(n, end, s.lanes, columns)

        e.loop(m, e.imin(e.iadd(m, s.mr), shape.m), 1, row)

    def first_row(self, strip: Index) -> Index:
        m = e.imul(strip, self.s.mr)
        return m if self.s.pack_a or self.shape.m % self.s.mr == 0 else e.imin(m, self.shape.m - self.s.mr)

    def first_column(self, panel: Index) -> Index:
        n = e.imul(panel, self.s.nr)
        side = self.p.b.side
        padded = self.s.pack_b or (side.packed and not side.lines) or self.shape.n % self.s.nr == 0 or self.panels == 1
        return n if padded else e.imin(n, (self.lines * LINE if side.lines else self.shape.n) - self.s.nr)

    def a_loader(self, batch: Index, strip: Index, local_strip: Index, k0: Index) -> Callable[[int, Index], Value]:
        s = self.s
        if not s.pack_a:
            m = self.first_row(strip)
            return lambda i, k: self.p.a.load(batch, e.iadd(m, i), e.iadd(k0, k), self.p.a.side.along, 1, None)
        if self.p.a.side.along == "k":
            start = e.imul(local_strip, s.mr * row_length(s))
            return lambda i, k: self.a_area.load([e.iadd(start, k, i * row_length(s))])
        start = e.imul(local_strip, panel_length(s))
        return lambda i, k: self.a_area.load([e.iadd(start, e.imul(k, panel_rows(s)), i)])

    def a_fetcher(self, batch: Index, strip: Index, k0: Index) -> Callable[[Index], None] | None:
        """Rows that lie apart are short streams, which a processor does not see coming: lines that will be read are asked for, a block of terms at a
        time. Where many panels read the rows they are near already."""
        side, place, rows = self.p.a.side, self.p.a.place, self.s.mr
        if place is None or self.s.pack_a or self.panels > MOST_FETCHING:
            return None
        first = self.first_row(strip)
        memory, element = place(batch, first, k0)
        line = 64 // memory.dtype.bytes

        def fetch(x: Index, k: Index) -> None:
            memory.fetch([place(batch, x, e.iadd(k0, k))[1]])

        def next_strip(k: Index) -> None:
            def row(i: Value) -> None:
                for at in range(0, FETCHED, line):
                    fetch(e.imin(e.iadd(first, rows, i), self.shape.m - 1), e.iadd(k, at))

            e.loop(0, rows, 1, row)

        def next_terms(k: Index) -> None:
            def term(t: Value) -> None:
                fetch(e.iadd(first, rows - 1), e.imin(e.iadd(k, FETCHED, t), e.isub(self.shape.k - 1, k0)))

            def terms() -> None:
                e.loop(0, FETCHED, 1, term)

            e.when(reaches, terms)

        if side.along == "k":
            return next_strip if self.strips > 1 else None
        if side.along != "x" or not side.stride or side.stride % line:
            return None
        # the strip reaches into a line that none before it has read
        reaches = e.icmp("ge", e.iadd(e.irem(e.iadd(memory.place_in_line(element), line - 1), line), rows), line)
        return next_terms

    def b_fetcher(self, batch: Index, panel: Index, local_strip: Index, k0: Index) -> Callable[[Index], None] | None:
        """Large weights come from memory, in more streams than a processor sees coming: while the strips of a block meet a panel, each asks for a
        line of vectors of the next one."""
        s, shape = self.s, self.shape
        if not self.p.b.side.lines or self.panels == 1 or shape.n * shape.k * shape.dtype.bytes < FAR:
            return None
        first = self.first_column(e.imin(e.iadd(panel, 1), self.panels - 1))
        strips, size = s.mc // s.mr, LINE * shape.k
        start = e.iadd(0 if self.p.b.side.shared else e.imul(batch, self.lines * size), e.imul(first, shape.k), e.imul(k0, LINE))

        def fetch(k: Index) -> None:
            def line(j: Value) -> None:
                def term(t: Value) -> None:
                    self.b_area.fetch([e.iadd(start, e.imul(j, size), e.imul(e.iadd(k, t), LINE))])

                e.loop(0, FETCHED, 1, term)

            e.loop(local_strip, s.nr // LINE, strips, line)

        return fetch

    def b_loader(self, batch: Index, panel: Index, local_panel: Index, k0: Index) -> Callable[[Index, int], Value]:
        s, shape = self.s, self.shape
        if self.p.b.side.lines:
            return self.line_loader(batch, self.first_column(panel), k0)
        if s.pack_b or self.p.b.side.packed:
            if s.pack_b:
                start = e.imul(local_panel, s.nr * s.kc)
            else:
                all_panels = e.iadd(0 if self.p.b.side.shared else e.imul(batch, self.panels), panel)
                start = e.iadd(e.imul(all_panels, s.nr * shape.k), e.imul(k0, s.nr))
            return lambda k, j: self.b_area.load([e.iadd(start, e.imul(k, s.nr), j * s.lanes)], s.lanes)
        n = self.first_column(panel)

        def load(k: Index, j: int) -> Value:
            left = shape.n - j * s.lanes  # there is one panel, or all are whole
            mask = None if left >= s.lanes or self.panels > 1 else e.mask_below(left, s.lanes)
            return self.p.b.load(batch, e.iadd(n, j * s.lanes), e.iadd(k0, k), "x", s.lanes, mask)

        return load

    def line_loader(self, batch: Index, column: Index, k0: Index) -> Callable[[Index, int], Value]:
        """Of vectors from a column on, each of which lies in one line."""
        s, shape = self.s, self.shape
        start = e.iadd(0 if self.p.b.side.shared else e.imul(batch, self.lines * LINE * shape.k), e.imul(k0, LINE))
        if s.lanes == LINE:  # the constant last, as an instruction's: one register for all lines
            first = e.iadd(start, e.imul(column, shape.k))
            return lambda k, j: self.b_area.load([e.iadd(first, e.imul(k, LINE), j * LINE * shape.k)], LINE)
        columns = [e.iadd(column, j * s.lanes) for j in range(s.nv)]
        places = [e.iadd(start, e.imul(e.idiv(c, LINE), LINE * shape.k), e.irem(c, LINE)) for c in columns]
        return lambda k, j: self.b_area.load([e.iadd(places[j], e.imul(k, LINE))], s.lanes)


def multiply(load_a: Callable[[int, Index], Value], load_b: Callable[[Index, int], Value], rows: int, vectors: int, terms: Index,
             sums: Sequence[Value], fetchers: Sequence[Callable[[Index], None]] = ()) -> list[Value]:  # fmt: skip
    """sums[i, j] += a(i, k) * b(k, j) for k < terms, with the sums in registers. `fetchers` are called before every block of FETCHED terms."""

    def step(k: Index, acc: Sequence[Value]) -> list[Value]:
        acc = list(acc)
        b = [load_b(k, j) for j in range(vectors)]
        for i in range(rows):
            a = vector.broadcast(b[0].type, load_a(i, k))
            for j in range(vectors):
                acc[i * vectors + j] = vector.fma(a, b[j], acc[i * vectors + j])
        return acc

    def unrolled(k: Value, *acc: Value) -> list[Value]:
        for u in range(unroll):
            acc = tuple(step(e.iadd(k, u), acc))
        return list(acc)

    unroll = 4 if rows * vectors < 8 else 2 if rows * vectors < 16 else 1

    def block(k: Index, *acc: Value) -> list[Value]:
        for fetch in fetchers:
            fetch(k)  # not between the terms: LLVM would move all loads before it
        return e.loop(k, e.iadd(k, FETCHED), unroll, unrolled, acc)

    fetched = e.imul(e.idiv(terms, FETCHED), FETCHED) if fetchers else 0
    whole = e.imul(e.idiv(terms, unroll), unroll)
    acc = e.loop(0, fetched, FETCHED, block, sums) if fetchers else list(sums)
    acc = e.loop(fetched, whole, unroll, unrolled, acc) if not isinstance(whole, int) or whole != fetched else acc
    if isinstance(terms, int):
        for k in range(whole, terms):
            acc = step(k, acc)
        return acc
    return e.loop(whole, terms, 1, lambda k, *c: step(k, c), acc)


def _part(block: Index, count: int, blocks: int) -> tuple[Index, Index]:
    """[from, to) of a block of strips or panels; `gemm_schedule.part_start` in code."""
    if count % blocks == 0:
        start = e.imul(block, count // blocks)
        return start, e.iadd(start, count // blocks)
    return e.idiv(e.imul(block, count), blocks), e.idiv(e.imul(e.iadd(block, 1), count), blocks)


class _Dot:
    """The dot form: `mr` x `nv` accumulators whose lanes run along k."""

    def __init__(self, product: Product, scratch: Value, offset: int):
        self.p, self.s, self.shape = product, product.schedule, product.shape
        self.type = vec(self.s.lanes, register_type(self.shape.dtype))

    def run(self, tid: Value, nt: Value) -> None:
        blocks = -(-self.shape.n // self.s.nc)
        low, high = e.share(self.shape.batch * blocks, tid, nt)

        def task(t: Value) -> None:
            batch, n0 = e.idiv(t, blocks), e.imul(e.irem(t, blocks), self.s.nc)
            _enter(self.p, batch)
            full = self.shape.n // self.s.nv * self.s.nv
            end = e.imin(e.iadd(n0, self.s.nc), full)
            e.loop(n0, end, self.s.nv, lambda n: self.columns(batch, n, self.s.nv))
            if full < self.shape.n:
                e.when(e.icmp("eq", e.irem(t, blocks), blocks - 1), lambda: self.columns(batch, full, self.shape.n - full))

        e.loop(low, high, 1, task)

    def columns(self, batch: Index, n: Index, columns: int) -> None:
        mr, rest = self.s.mr, self.shape.m % self.s.mr
        e.loop(0, self.shape.m - rest, mr, lambda m: self.tile(batch, m, mr, n, columns))
        if rest:
            self.tile(batch, self.shape.m - rest, rest, n, columns)

    def tile(self, batch: Index, m: Index, rows: int, n: Index, columns: int) -> None:
        s = self.s

        def step(k: Value, lanes: int, mask: Value, *acc: Value) -> list[Value]:
            a = [self.p.a.load(batch, e.iadd(m, i), k, "k", lanes, mask) for i in range(rows)]
            if mask is not None:
                a = [arith.select(mask, x, const(0.0, self.type)) for x in a]
            sums = list(acc)
            for j in range(columns):
                b = self.p.b.load(batch, e.iadd(n, j), k, "k", lanes, mask)
                for i in range(rows):
                    sums[i * columns + j] = vector.fma(a[i], b, sums[i * columns + j])
            return sums

        sums = e.vector_loop(0, self.shape.k, s.lanes, step, [const(0.0, self.type)] * (rows * columns))
        mask = None if columns == s.lanes else e.mask_below(columns, s.lanes)
        for i in range(rows):
            self.p.store(fold_each(sums[i * columns : (i + 1) * columns], s.lanes), batch, e.iadd(m, i), n, mask)
