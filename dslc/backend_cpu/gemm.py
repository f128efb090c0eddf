"""Matrix products of any size: C[b, m, n] = store(sum over k of A[b, m, k] * B[b, k, n]).

Operands are read through callbacks, so that elementwise work, windows, transposes and gathers happen while a block is packed into a thread's scratch;
operands that lie well are read in place. Sums stay in registers, and `store` does the epilogue on vectors before the only write. How is decided by
`gemm_schedule`. The emitted code runs the same sums in the same order for any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dslc.ir.mlir import arith, vector

from . import emit as e
from .gemm_pack import fold_each, pack_a_panels, pack_a_rows, pack_b_panel
from .gemm_schedule import Schedule, Shape, Side, a_elements, b_elements, panel_rows, row_length
from .types import const, register_type, vec

Value = Any
Index = Any


@dataclass(frozen=True)
class Operand:
    """An operand: its `Side`, and `load(b, x, k, axis, lanes, mask)`: `lanes` values from (x, k) on along `axis`, "x" or "k", as a vector.

    x is the row of A, the column of B. With one lane the result is a scalar and the axis does not matter. Lanes outside the mask (None: all) must not
    be read and may have any finite value. `axis` is the side's `along`, or "x" where that is "none"; scalars may be asked of any operand.
    """

    side: Side
    load: Callable[[Index, Index, Index, str, int, Value], Value]


# store(vector, b, m, n, mask): values for columns n, n + 1, ... of row m, where the mask (None: all) is true
Store = Callable[[Value, Index, Index, Index, Value], None]


@dataclass(frozen=True)
class Product:
    """One product to emit. `packed_b`: the packed B of one batch after the other, where `b.side.packed`."""

    shape: Shape
    schedule: Schedule
    a: Operand
    b: Operand
    store: Store
    packed_b: e.Memory | None = None


def emit(product: Product, tid: Value, nt: Value, scratch: Value, offset: int = 0) -> None:
    """The thread's share. `scratch`: a memref of bytes with `scratch_elements` elements free from byte `offset` on."""
    (_Dot if product.schedule.form == "dot" else _Outer)(product, scratch, offset).run(tid, nt)


def emit_pack_b(shape: Shape, s: Schedule, b: Operand, packed: e.Memory, tid: Value, nt: Value) -> None:
    """Packs the whole of B once, for `Side(packed=True)`: `packed` is a flat memory of `packed_elements`. The threads share the panels."""
    panels = -(-shape.n // s.nr)
    batches = 1 if b.side.shared else shape.batch
    low, high = e.share(batches * panels, tid, nt)

    def panel(t: Value) -> None:
        batch, p = e.idiv(t, panels), e.irem(t, panels)
        at = e.imul(t, s.nr * shape.k)

        def pack(vectors: int, columns: int) -> None:
            pack_b_panel(b, packed, at, batch, e.imul(p, s.nr), 0, shape.k, vectors, columns, s)

        _full_or_rest(p, shape.n // s.nr, shape.n % s.nr, lambda: pack(s.nv, s.nr), lambda: pack(-(-(shape.n % s.nr) // s.lanes), shape.n % s.nr))

    e.loop(low, high, 1, panel)


def packed_elements(shape: Shape, s: Schedule, shared: bool = True) -> int:
    """Elements of a packed B, all batches."""
    return (1 if shared else shape.batch) * -(-shape.n // s.nr) * s.nr * shape.k


def _full_or_rest(i: Index, full: int, rest: int, do_full: Callable[[], None], do_rest: Callable[[], None]) -> None:
    """`do_full` for i < full, `do_rest` for i == full; each is emitted only where it can happen."""
    if not rest:
        do_full()
    elif not full:
        do_rest()
    else:
        e.when(e.icmp("lt", i, full), do_full)
        e.when(e.icmp("eq", i, full), do_rest)


class _Outer:
    """The outer form. Names: a strip is `mr` rows, a panel `nr` columns; a block is some of them, a task one block of each."""

    def __init__(self, product: Product, scratch: Value, offset: int):
        self.p, self.s, self.shape = product, product.schedule, product.shape
        s, size = self.s, self.shape.dtype.bytes
        self.type = vec(s.lanes, register_type(self.shape.dtype))
        self.strips, self.panels = -(-self.shape.m // s.mr), -(-self.shape.n // s.nr)
        self.row_blocks, self.column_blocks = -(-self.shape.m // s.mc), -(-self.shape.n // s.nc)
        self.blocked = s.kc < self.shape.k
        a_size, b_size = a_elements(s, product.a.side), b_elements(s)

        def area(at: int, elements: int) -> e.Memory:
            return e.memory_of(scratch, offset + at * size, self.shape.dtype, max(elements, 1))

        self.a_area: Any = area(0, a_size) if s.pack_a else None
        self.b_area: Any = area(a_size, b_size) if s.pack_b else product.packed_b
        self.sums: Any = area(a_size + b_size, s.mc * s.nc) if self.blocked else None

    def run(self, tid: Value, nt: Value) -> None:
        low, high = e.share(self.shape.batch * self.row_blocks * self.column_blocks, tid, nt)
        inner = self.column_blocks if self.s.rows_outer else self.row_blocks

        def task(t: Value, last: Value) -> list[Value]:
            outer = e.idiv(t, inner)
            pair = (e.irem(outer, self.row_blocks), e.irem(t, inner)) if self.s.rows_outer else (e.irem(t, inner), e.irem(outer, self.column_blocks))
            batch = e.idiv(outer, self.row_blocks if self.s.rows_outer else self.column_blocks)
            self.block(batch, *pair, e.icmp("ne", e.idx(outer), last))
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
        self.finish(batch, im, jn)

    # packing

    def pack(self, batch: Index, im: Index, jn: Index, k0: Index, terms: Index, when_a: Value, when_b: Value) -> None:
        for wanted, only, do in ((self.s.pack_a, when_a, self.pack_a), (self.s.pack_b, when_b, self.pack_b)):
            if wanted and only is not None:
                e.when(only, lambda do=do: do(batch, im, jn, k0, terms))  # type: ignore[misc]
            elif wanted:
                do(batch, im, jn, k0, terms)

    def pack_a(self, batch: Index, im: Index, jn: Index, k0: Index, terms: Index) -> None:
        s, first = self.s, e.imul(im, self.s.mc)
        rows = e.imin(e.isub(self.shape.m, first), s.mc)
        if self.p.a.side.along == "k":
            pack_a_rows(self.p.a, self.a_area, batch, first, rows, k0, terms, s)
        else:
            pack_a_panels(self.p.a, self.a_area, batch, first, rows, self.shape.m, k0, terms, s)

    def pack_b(self, batch: Index, im: Index, jn: Index, k0: Index, terms: Index) -> None:
        def panel(p: Index, local: Index, vectors: int, columns: int) -> None:
            at = e.imul(local, self.s.nr * self.s.kc)
            pack_b_panel(self.p.b, self.b_area, at, batch, e.imul(p, self.s.nr), k0, terms, vectors, columns, self.s)

        self.each_panel(jn, panel)

    # loops over panels and strips; the last ones may be smaller

    def each_panel(self, jn: Index, body: Callable[[Index, Index, int, int], None]) -> None:
        """body(panel, number within the block, vectors, columns)."""
        rest = self.shape.n % self.s.nr
        self._each(jn, self.s.nc // self.s.nr, self.shape.n // self.s.nr, self.column_blocks, lambda p, q: body(p, q, self.s.nv, self.s.nr),
                   (lambda p, q: body(p, q, -(-rest // self.s.lanes), rest)) if rest else None)  # fmt: skip

    def each_strip(self, im: Index, body: Callable[[Index, Index, int], None]) -> None:
        """body(strip, number within the block, rows)."""
        rest = self.shape.m % self.s.mr
        self._each(im, self.s.mc // self.s.mr, self.shape.m // self.s.mr, self.row_blocks, lambda p, q: body(p, q, self.s.mr),
                   (lambda p, q: body(p, q, rest)) if rest else None)  # fmt: skip

    @staticmethod
    def _each(block: Index, per_block: int, full: int, blocks: int, body: Callable[[Index, Index], None],
              rest: Callable[[Index, Index], None] | None) -> None:  # fmt: skip
        start = e.imul(block, per_block) if blocks > 1 else 0
        end = e.imin(e.iadd(start, per_block), full)
        if not isinstance(end, int) or end > start:
            e.loop(start, end, 1, lambda p: body(p, e.isub(p, start)))
        if rest is None:
            return
        if blocks > 1:
            e.when(e.icmp("eq", block, blocks - 1), lambda: rest(full, e.isub(full, start)))
        else:
            rest(full, full - start)

    # tiles

    def tiles(self, batch: Index, im: Index, jn: Index, k0: Index, terms: Index) -> None:
        def panel(p: Index, local_p: Index, vectors: int, columns: int) -> None:
            self.each_strip(im, lambda q, local_q, rows: self.tile(batch, q, local_q, rows, p, local_p, vectors, columns, k0, terms))

        self.each_panel(jn, panel)

    def tile(self, batch: Index, strip: Index, local_strip: Index, rows: int, panel: Index, local_panel: Index, vectors: int, columns: int,
             k0: Index, terms: Index) -> None:  # fmt: skip
        m, n = e.imul(strip, self.s.mr), e.imul(panel, self.s.nr)
        load_a = self.a_loader(batch, m, local_strip, k0)
        load_b = self.b_loader(batch, n, panel, local_panel, vectors, columns, k0)
        if not self.blocked:
            sums = [const(0.0, self.type)] * (rows * vectors)
        else:
            sums = [self.sums.load(self.sum_at(local_strip, local_panel, i, j), self.s.lanes) for i in range(rows) for j in range(vectors)]
        sums = multiply(load_a, load_b, rows, vectors, terms, sums)
        for i in range(rows):
            for j in range(vectors):
                if self.blocked:
                    self.sums.store(sums[i * vectors + j], self.sum_at(local_strip, local_panel, i, j))
                else:
                    self.emit_store(sums[i * vectors + j], batch, e.iadd(m, i), n, j, columns)

    def emit_store(self, value: Value, batch: Index, m: Index, n: Index, j: int, columns: int) -> None:
        left = columns - j * self.s.lanes
        self.p.store(value, batch, m, e.iadd(n, j * self.s.lanes), None if left >= self.s.lanes else e.mask_below(left, self.s.lanes))

    def sum_at(self, local_strip: Index, local_panel: Index, row: Index, j: int) -> list[Index]:
        base = e.iadd(e.imul(local_panel, self.s.mc), e.imul(local_strip, self.s.mr))
        return [e.iadd(e.imul(e.iadd(base, row), self.s.nr), j * self.s.lanes)]

    def finish(self, batch: Index, im: Index, jn: Index) -> None:
        """After the last block of k: the sums go through the epilogue."""

        def panel(p: Index, local_p: Index, vectors: int, columns: int) -> None:
            def strip(q: Index, local_q: Index, rows: int) -> None:
                def row(i: Value) -> None:
                    for j in range(vectors):
                        value = self.sums.load(self.sum_at(local_q, local_p, i, j), self.s.lanes)
                        self.emit_store(value, batch, e.iadd(e.imul(q, self.s.mr), i), e.imul(p, self.s.nr), j, columns)

                e.loop(0, rows, 1, row)

            self.each_strip(im, strip)

        self.each_panel(jn, panel)

    def a_loader(self, batch: Index, m: Index, local_strip: Index, k0: Index) -> Callable[[int, Index], Value]:
        s = self.s
        if not s.pack_a:
            return lambda i, k: self.p.a.load(batch, e.iadd(m, i), e.iadd(k0, k), self.p.a.side.along, 1, None)
        if self.p.a.side.along == "k":
            row = e.imul(local_strip, s.mr)
            return lambda i, k: self.a_area.load([e.iadd(e.imul(e.iadd(row, i), row_length(s)), k)])
        start = e.imul(local_strip, panel_rows(s) * s.kc)
        return lambda i, k: self.a_area.load([e.iadd(start, e.imul(k, panel_rows(s)), i)])

    def b_loader(
        self, batch: Index, n: Index, panel: Index, local_panel: Index, vectors: int, columns: int, k0: Index
    ) -> Callable[[Index, int], Value]:
        s, shape = self.s, self.shape
        width = vectors * s.lanes
        if s.pack_b:
            start = e.imul(local_panel, s.nr * s.kc)
            return lambda k, j: self.b_area.load([e.iadd(start, e.imul(k, width), j * s.lanes)], s.lanes)
        if self.p.b.side.packed:
            all_panels = e.iadd(0 if self.p.b.side.shared else e.imul(batch, self.panels), panel)
            start = e.iadd(e.imul(all_panels, s.nr * shape.k), e.imul(k0, width))
            return lambda k, j: self.b_area.load([e.iadd(start, e.imul(k, width), j * s.lanes)], s.lanes)

        def load(k: Index, j: int) -> Value:
            left = columns - j * s.lanes
            mask = None if left >= s.lanes else e.mask_below(left, s.lanes)
            return self.p.b.load(batch, e.iadd(n, j * s.lanes), e.iadd(k0, k), "x", s.lanes, mask)

        return load


def multiply(load_a: Callable[[int, Index], Value], load_b: Callable[[Index, int], Value], rows: int, vectors: int, terms: Index,
             sums: Sequence[Value]) -> list[Value]:  # fmt: skip
    """sums[i, j] += a(i, k) * b(k, j) for k < terms, with the sums in registers."""

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

    unroll = 4 if rows * vectors <= 16 else 2
    whole = e.imul(e.idiv(terms, unroll), unroll)
    acc = e.loop(0, whole, unroll, unrolled, sums) if not isinstance(whole, int) or whole else list(sums)
    if isinstance(terms, int):
        for k in range(whole, terms):
            acc = step(k, acc)
        return acc
    return e.loop(whole, terms, 1, lambda k, *c: step(k, c), acc)


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
