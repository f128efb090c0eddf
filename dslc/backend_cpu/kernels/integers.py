"""Products of bytes: C[b, m, n] = sum over k of (A[b, m, k] - za)(B[b, k, n] - zb) in int32, where A and B are 8-bit integers in memory and the zero
points za, zb do not depend on k.

Operands are laid out first, by all threads: a word holds neighbouring terms of a row or a column, four bytes where the processor multiplies u8 by s8
(VNNI, vpdpbusd), else two 16-bit integers (vpmaddwd). The sums are of these as they are; what the zero points add follows from sums along rows and
columns: sum (a - za)(b - zb) = sum ab - za (sum b - k zb) - zb sum a. All arithmetic is modulo 2^32, so every order gives the same bits.
Weights that are constants are laid out by the compiler; those that `passes.words` has laid out, and rows of bytes, are read where they lie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from dslc.core.dtypes import INT8, INT32, UINT8
from dslc.ir import index
from dslc.ir.contractions import BATCH, COLUMNS, ROWS, TERMS, Contraction, roles_of
from dslc.ir.rows import Unsuited
from dslc.ir.trace import Apply, Node, Read, dims_under, factor_of, symbols_of

from .. import emit
from ..gemm_pack import transposed
from ..gemm_schedule import Shape, Side, tile_of
from ..pull import Point, step_of
from ..scalars import Val
from ..stage import Frame, Generated, Request, Stage
from ..words import dot, joined, ones, terms_of_word

Value = Any  # an ir.Value

FEW_ROWS = 4  # fewer are not worth laying out the columns at each run
TASKS = 8  # wanted at least
A_SHARE = 2  # of the second cache, one part is for a block of rows


def generate(request: Request, op: Any) -> Generated:
    """Operands that are to be laid out, then products. Unsuited for what is not a product of bytes."""
    if op.operation.name != "nn.contract" or op.type.dtype != INT32 or 0 in op.maps().domain:
        raise Unsuited
    kernel = _Bytes(request, op)
    ready = kernel.columns_in_place or kernel.constant is not None
    if kernel.scattered or (kernel.sizes[ROWS] < FEW_ROWS and not ready):
        raise Unsuited
    first = [] if kernel.rows_in_place and ready else [Stage(kernel.lay_out)]
    return Generated([*first, Stage(kernel.build, kernel.scratch_bytes)], kernel.workspace_bytes, tables=kernel.tables)


@dataclass(frozen=True)
class _Side:
    """An operand: `source`, an 8-bit integer, minus `zero` (None: 0). `dim`: of its rows or columns; `batch`: whether it differs between batches."""

    source: Node
    zero: Node | None
    dim: int
    batch: bool

    @property
    def signed(self) -> bool:
        return self.source.dtype == INT8


def _lies(side: _Side, dim: int, count: int, step: int) -> bool:
    """Whether `count` neighbours along a dim, from a multiple of it on, are read from places that are `step` apart."""
    node = side.source
    plain = isinstance(node, Read) and not node.tests and not symbols_of(node.address)
    return plain and step_of(node.address, dim, count, lambda e: dim in index.dims_of(e)) == step  # type: ignore[attr-defined]


def _side(kernel: Contraction, node: Node, dim: int) -> _Side:
    zero: Node | None = None
    if isinstance(node, Apply) and node.op.operation.name == "nn.sub":
        node, zero = node.arguments
    source = node.arguments[0] if isinstance(node, Apply) and node.op.operation.name == "nn.cast" else node
    if source.dtype not in (INT8, UINT8):
        raise Unsuited
    if isinstance(source, Read):
        source = replace(source, address=index.coarse(source.address, kernel.sizes))
    under = dims_under(kernel.trace, [source, *([zero] if zero else [])])
    if zero and TERMS in under[id(zero)]:
        raise Unsuited
    return _Side(source, zero, dim, BATCH in under[id(source)])


class _Bytes(Contraction):
    """Both operands as words of `self.group` terms, `self.words` of them a row or a column; rows one after the other, columns in panels of `nr`.
    The workspace holds the rows, the columns, then int32 sums along each that the zero point of the other side needs, as far as they are laid out."""

    def __init__(self, request: Request, op: Any) -> None:
        super().__init__(request.body, op, roles_of(op), request.body.results)
        self.machine, self.request = request.machine, request
        self.a, self.b = (_side(self, node, dim) for node, dim in zip(self.operands, (ROWS, COLUMNS)))
        batch, m, n, k = self.sizes
        self.group, self.lanes = terms_of_word(self.machine), self.machine.lanes
        self.words = -(-k // self.group)
        self.mr, nv = tile_of(Shape(m, n, self.words, batch), Side("k"), self.machine)
        self.nr = nv * self.lanes
        self.strips, self.panels = -(-m // self.mr), -(-n // self.nr)

    # --- zero points: bytes are made unsigned for rows and signed for columns by adding 128, where the words hold four of them

    @property
    def turned(self) -> tuple[bool, bool]:
        """Whether the rows', the columns' bytes are of the other sign than they lie."""
        return (self.group == 4 and self.a.signed, self.group == 4 and not self.b.signed)

    @property
    def shifted(self) -> tuple[bool, bool]:
        """Whether the rows', the columns' words have a zero point."""
        return (self.a.zero is not None or self.turned[0], self.b.zero is not None or self.turned[1])

    def zero(self, point: Point, rows: bool, lanes: int) -> Value:
        """The zero point of the words of a row, or of the columns at a point, as int32."""
        side, turned = (self.a, 128) if rows else (self.b, -128)
        value = point.s.cast(point.value(side.zero), side.zero.dtype, INT32) if side.zero else point.s.const(0, INT32)
        ssa = value.ssa if value.lanes == lanes else point.b.spread(value.ssa, "i32", lanes)
        return point.b.same("arith.addi", ssa, point.b.const("i32", turned, lanes)) if self.turned[0 if rows else 1] else ssa

    # --- where things lie

    @cached_property
    def counts(self) -> tuple[int, int, int, int]:
        """int32 elements: rows' words, columns' words, sums of rows, sums of columns."""
        batch = self.sizes[BATCH]
        rows, columns = (batch if side.batch else 1 for side in (self.a, self.b))
        rows *= self.strips * self.mr * (not self.rows_in_place)
        columns *= self.panels * self.nr * (self.constant is None and not self.columns_in_place)
        return rows * self.words, columns * self.words, rows * self.shifted[1], columns * self.shifted[0]

    @property
    def workspace_bytes(self) -> int:
        return sum(-(-n * 4 // 64) * 64 for n in self.counts)

    def area(self, frame: Frame, number: int) -> emit.Memory:
        if self.constant is not None and number in (1, 3):
            return frame.tables[number // 2]
        assert frame.workspace is not None
        at = sum(-(-n * 4 // 64) * 64 for n in self.counts[:number])
        return emit.memory_of(frame.workspace.ref, at, INT32, max(self.counts[number], 1))

    @property
    def scratch_bytes(self) -> int:
        """A tile of sums, and the sums of a panel's columns."""
        return 4 * (self.mr + 1) * self.nr + 64

    @cached_property
    def rows_in_place(self) -> bool:
        """Whether the rows lie as words, and nothing else is asked of them."""
        whole = self.group == 4 and self.sizes[TERMS] % 4 == 0 and not self.turned[0] and not self.shifted[1]
        return whole and _lies(self.a, TERMS, 4, 1) and self.word_step(self.a) is not None

    @cached_property
    def columns_in_place(self) -> bool:
        """Whether the columns are read as they lie."""
        return self.group == 4 and not self.turned[1] and self.columns_lie

    @cached_property
    def columns_lie(self) -> bool:
        """Whether they do as `passes.words` lays them: words of four terms, those of a vector of columns side by side, up to whole vectors."""
        return _lies(self.b, TERMS, 4, 1) and _lies(self.b, COLUMNS, self.lanes, 4) and self.word_step(self.b) is not None

    # --- constants

    @cached_property
    def constant(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The columns' words and sums, where they follow from a constant."""
        node, body = self.b.source, self.request.body
        first = len(self.request.operands) - len(body.tables)
        if not isinstance(node, Read) or node.operand < first or node.tests or symbols_of(node.address):
            return None
        batch, _, n, k = self.sizes
        places = np.ogrid[: batch if self.b.batch else 1, :1, :n, :k]
        address = np.broadcast_to(index.evaluate(node.address, places), (len(places[0]), 1, n, k))[:, 0]
        values = body.tables[node.operand - first].reshape(-1)[address].astype(np.int64) - 128 * self.turned[1]
        values = np.pad(values, [(0, 0), (0, self.panels * self.nr - n), (0, self.words * self.group - k)])
        sums = values.sum(2).astype(np.int32)
        terms = values.astype(np.int8 if self.group == 4 else np.int16).reshape(-1, self.panels, self.nr, self.words * self.group)
        words = np.ascontiguousarray(terms).view(np.int32).swapaxes(2, 3)
        return np.ascontiguousarray(words).reshape(-1), sums.reshape(-1)

    @property
    def tables(self) -> tuple[np.ndarray, ...]:
        return self.constant or ()

    # --- operands as words

    def lay_out(self, frame: Frame) -> None:
        """Rows, then the panels of columns, each by the thread that it falls to, with its sum."""
        batch = self.sizes[0]
        rows = self.strips * self.mr
        if not self.rows_in_place:
            low, high = emit.share((batch if self.a.batch else 1) * rows, frame.tid, frame.threads)
            emit.loop(low, high, 1, lambda i: self.row(frame, i, rows))
        if self.constant is None and not self.columns_in_place:
            low, high = emit.share((batch if self.b.batch else 1) * self.panels, frame.tid, frame.threads)
            emit.loop(low, high, 1, lambda i: self.panel(frame, emit.idiv(i, self.panels), emit.irem(i, self.panels)))

    def loaded(self, frame: Frame, side: _Side, batch: Value, x: Value, k: Value, along: int, lanes: int, mask: Value) -> Value:
        """`lanes` bytes from a place on, along a dim, as they are to lie in words: i8, or i16 in words of two terms. 0 outside the mask."""
        b = frame.b
        dims = [emit.idx(batch), b.index(0), b.index(0), emit.idx(k)]
        dims[side.dim] = emit.idx(x)
        point = Point(b, self.trace, frame.operands, dims, along, lanes, mask)
        value = point.value(side.source)
        raw = value.ssa if value.lanes == lanes else b.spread(value.ssa, "i8", lanes)
        element = "i8"
        if self.group == 2:
            raw, element = b.to("arith.extsi" if side.signed else "arith.extui", raw, "i16", lanes), "i16"
        elif self.turned[0 if side is self.a else 1]:
            raw = b.same("arith.xori", raw, b.const("i8", -128, lanes))
        return raw if mask is None else b.select(mask, raw, b.const(element, 0, lanes))

    def row(self, frame: Frame, number: Value, rows: int) -> None:
        """The words of a row; below the last row it is repeated."""
        b, k, lanes = frame.b, self.sizes[TERMS], self.lanes
        batch, m = emit.idiv(number, rows), emit.imin(emit.irem(number, rows), self.sizes[ROWS] - 1)
        start, zero = emit.imul(number, self.words), b.const("i32", 0, lanes)

        def part(at: Value, terms: int, mask: Value, *total: Value) -> list[Value]:
            word = joined(self.loaded(frame, self.a, batch, m, at, TERMS, terms, mask), lanes)
            place = emit.idiv(at, self.group)
            left = None if mask is None else emit.mask_below(emit.isub(self.words, place), lanes)
            self.area(frame, 0).store(word, [emit.iadd(start, place)], left)
            return [dot(self.machine, total[0], word, ones(self.machine, lanes))] if total else []

        sums = emit.vector_loop(0, k, lanes * self.group, part, [zero] if self.shifted[1] else [])
        for total in sums:
            self.area(frame, 2).store(emit.reduce_lanes("add", total), [number])

    def panel(self, frame: Frame, batch: Value, panel: Value) -> None:
        """The words of a panel of columns, a vector of columns at a time; those beyond the last are 0."""
        every = emit.iadd(emit.imul(batch, self.panels), panel)
        for j in range(0, self.nr, self.lanes):
            column = emit.iadd(emit.imul(panel, self.nr), j)
            self.columns(frame, batch, column, emit.iadd(emit.imul(every, self.nr * self.words), j), emit.iadd(emit.imul(every, self.nr), j))

    def columns(self, frame: Frame, batch: Value, n: Value, at: Value, sum_at: Value) -> None:
        b, lanes = frame.b, self.lanes
        by_terms, lie = _lies(self.b, TERMS, lanes * self.group, 1), self.group == 2 and self.columns_lie
        step = lanes if by_terms else 2 if lie else 1  # words
        make = self.by_terms if by_terms else self.by_halves if lie else self.by_columns

        def words(word: Value, count: int, whole: bool, total: list[Value]) -> list[Value]:
            made = make(frame, batch, n, word, whole)
            for r, value in enumerate(made[:count]):
                self.area(frame, 1).store(value, [emit.iadd(at, emit.imul(emit.iadd(word, r), self.nr))])
                total = [dot(self.machine, t, ones(self.machine, lanes), value) for t in total]
            return total

        full = self.sizes[TERMS] // (step * self.group) * step
        total = [b.const("i32", 0, lanes)] if self.shifted[0] else []
        total = emit.loop(0, full, step, lambda word, *t: words(word, step, True, list(t)), total)
        if full < self.words:
            total = words(emit.idx(full), self.words - full, False, total)
        for t in total:
            self.area(frame, 3).store(t, [sum_at])

    def by_terms(self, frame: Frame, batch: Value, n: Value, word: Value, whole: bool) -> list[Value]:
        """A square of words read along the terms, transposed in registers."""
        last, k = self.sizes[COLUMNS] - 1, emit.imul(word, self.group)
        terms = self.lanes * self.group
        mask = None if whole else emit.mask_below(emit.isub(self.sizes[TERMS], k), terms)
        zero = frame.b.const("i32", 0, self.lanes)
        read = []
        for c in range(self.lanes):
            column = emit.iadd(n, c)
            value = joined(self.loaded(frame, self.b, batch, emit.imin(column, last), k, TERMS, terms, mask), self.lanes)
            if (last + 1) % self.nr:
                value = frame.b.select(emit.icmp("le", column, last), value, zero)
            read.append(value)
        return transposed(read)

    def by_halves(self, frame: Frame, batch: Value, n: Value, word: Value, whole: bool) -> list[Value]:
        """Two words of two terms from words of four."""
        b, lanes, left = frame.b, self.lanes, self.sizes[TERMS] % 4
        last = (self.sizes[COLUMNS] - 1) // lanes * lanes
        four = self.in_place(frame, self.b, batch, emit.imin(n, last), lanes)(emit.idiv(word, 2))
        if not whole:
            four = b.same("arith.andi", four, b.const("i32", (1 << 8 * left) - 1, lanes))

        def term(t: int) -> Value:
            top = b.same("arith.shli", four, b.const("i32", 24 - 8 * t, lanes))
            return b.same("arith.shrsi" if self.b.signed else "arith.shrui", top, b.const("i32", 24, lanes))

        low, high = b.const("i32", 0xFFFF, lanes), b.const("i32", 16, lanes)
        return [b.same("arith.ori", b.same("arith.andi", term(t), low), b.same("arith.shli", term(t + 1), high)) for t in (0, 2)]

    def by_columns(self, frame: Frame, batch: Value, n: Value, word: Value, whole: bool) -> list[Value]:
        """The words of neighbouring columns, from a vector along these for each term."""
        b, lanes, left = frame.b, self.lanes, self.sizes[COLUMNS] % self.nr
        mask = emit.mask_below(emit.imax(emit.isub(self.sizes[COLUMNS], n), 0), lanes) if left else None
        bits = 32 // self.group
        found: Value = None
        for t in range(self.group if whole else self.sizes[TERMS] % self.group):
            narrow = self.loaded(frame, self.b, batch, n, emit.iadd(emit.imul(word, self.group), t), COLUMNS, lanes, mask)
            term = b.to("arith.extui", narrow, "i32", lanes)
            term = b.same("arith.shli", term, b.const("i32", bits * t, lanes)) if t else term
            found = term if found is None else b.same("arith.ori", found, term)
        return [found]

    # --- products

    def build(self, frame: Frame) -> None:
        """Tasks are (batch, block of rows, panel)."""
        batch = self.sizes[BATCH]
        block = max(1, min(self.strips, self.machine.l2 // A_SHARE // (4 * self.words * self.mr)))
        while block > 1 and batch * self.panels * -(-self.strips // block) < TASKS:
            block -= 1
        blocks = -(-self.strips // block)
        low, high = emit.share(batch * blocks * self.panels, frame.tid, frame.threads)

        def task(t: Value) -> None:
            outer, panel = emit.idiv(t, self.panels), emit.irem(t, self.panels)
            of_batch, first = emit.idiv(outer, blocks), emit.imul(emit.irem(outer, blocks), block)
            if self.columns_in_place and self.shifted[0]:
                self.sum_columns(frame, of_batch, panel)
            emit.loop(first, emit.imin(emit.iadd(first, block), self.strips), 1, lambda strip: self.tile(frame, of_batch, strip, panel))

        emit.loop(low, high, 1, task)

    def tile(self, frame: Frame, batch: Value, strip: Value, panel: Value) -> None:
        b, lanes, nv = frame.b, self.lanes, self.nr // self.lanes
        m, n = emit.imul(strip, self.mr), emit.imul(panel, self.nr)
        row, column = self.row_at(batch, m), self.column_at(batch, n)
        load_row, load_column = self.row_words(frame, batch, m), self.column_words(frame, batch, panel)

        def step(k: Value, *acc: Value) -> list[Value]:
            sums = list(acc)
            right = [load_column(k, j) for j in range(nv)]
            for i in range(self.mr):
                left = b.spread(load_row(k, i), "i32", lanes)
                for j in range(nv):
                    sums[i * nv + j] = dot(self.machine, sums[i * nv + j], left, right[j])
            return sums

        sums = emit.loop(0, self.words, 1, step, [b.const("i32", 0, lanes)] * (self.mr * nv))
        tile = emit.memory_of(frame.scratch, 0, INT32, self.mr * self.nr)
        for at, value in enumerate(sums):
            tile.store(value, [at * lanes])

        def finish(i: Value) -> None:
            def part(c: Value, width: int, mask: Value) -> None:
                value = tile.load([emit.iadd(emit.imul(emit.isub(i, m), self.nr), emit.isub(c, n))], lanes)
                self.store(frame, value, batch, i, c, mask, emit.iadd(row, emit.isub(i, m)), emit.iadd(column, emit.isub(c, n)))

            emit.vector_loop(n, emit.imin(emit.iadd(n, self.nr), self.sizes[COLUMNS]), lanes, part)

        emit.loop(m, emit.imin(emit.iadd(m, self.mr), self.sizes[ROWS]), 1, finish)

    def row_at(self, batch: Value, m: Value) -> Value:
        """Where a row comes among those that are laid out; where a column does, below."""
        return emit.iadd(emit.imul(batch, self.strips * self.mr) if self.a.batch else 0, m)

    def column_at(self, batch: Value, n: Value) -> Value:
        return emit.iadd(emit.imul(batch, self.panels * self.nr) if self.b.batch else 0, n)

    def row_words(self, frame: Frame, batch: Value, m: Value) -> Callable[[Value, int], Value]:
        """load(k, i): word k of row m + i."""
        if not self.rows_in_place:
            rows, start = self.area(frame, 0), emit.imul(self.row_at(batch, m), self.words)
            return lambda k, i: rows.load([emit.iadd(start, k, i * self.words)])
        loads = [self.in_place(frame, self.a, batch, emit.imin(emit.iadd(m, i), self.sizes[ROWS] - 1), 1) for i in range(self.mr)]
        return lambda k, i: loads[i](k)

    def column_words(self, frame: Frame, batch: Value, panel: Value) -> Callable[[Value, int], Value]:
        """load(k, j): word k of the j-th vector of columns of a panel."""
        n = emit.imul(panel, self.nr)
        if self.columns_in_place:
            last = (self.sizes[COLUMNS] - 1) // self.lanes * self.lanes
            loads = [self.in_place(frame, self.b, batch, emit.imin(emit.iadd(n, j), last), self.lanes) for j in range(0, self.nr, self.lanes)]
            return lambda k, j: loads[j](k)
        columns, start = self.area(frame, 1), emit.imul(self.column_at(batch, n), self.words)
        return lambda k, j: columns.load([emit.iadd(start, emit.imul(k, self.nr), j * self.lanes)], self.lanes)

    def in_place(self, frame: Frame, side: _Side, batch: Value, x: Value, words: int) -> Callable[[Value], Value]:
        """load(k): words from (x, word k) on, as they lie."""
        assert isinstance(side.source, Read)
        dims = [emit.idx(batch), frame.b.index(0), frame.b.index(0), frame.b.index(0)]
        dims[side.dim] = emit.idx(x)
        start = Point(frame.b, self.trace, frame.operands, dims).scalar(side.source.address)
        memory, step = frame.operands[side.source.operand], self.word_step(side)
        return lambda k: joined(memory.load([emit.iadd(start, emit.imul(k, step))], 4 * words), words)

    def word_step(self, side: _Side) -> int | None:
        """By how much the address of a word moves from one to the next; None where that differs."""
        assert isinstance(side.source, Read)
        words = [index.Dim(BATCH), index.Dim(ROWS), index.Dim(COLUMNS), index.Dim(TERMS) * 4]
        return factor_of(index.simplify(index.substitute(side.source.address, words), self.sizes), TERMS)

    def sum_columns(self, frame: Frame, batch: Value, panel: Value) -> None:
        """The sums along a panel's columns, to scratch. What lies behind the last term does not count."""
        load, nv, b = self.column_words(frame, batch, panel), self.nr // self.lanes, frame.b
        whole, left = divmod(self.sizes[TERMS], 4)

        def add(k: Value, one: Value, totals: Sequence[Value]) -> list[Value]:
            return [dot(self.machine, totals[j], one, load(k, j)) for j in range(nv)]

        one = ones(self.machine, self.lanes)
        sums = emit.loop(0, whole, 1, lambda k, *t: add(k, one, t), [b.const("i32", 0, self.lanes)] * nv)
        if left:
            sums = add(emit.idx(whole), b.const("i32", 0x01010101 & ((1 << 8 * left) - 1), self.lanes), sums)
        for j, value in enumerate(sums):
            self.panel_sums(frame).store(value, [j * self.lanes])

    def panel_sums(self, frame: Frame) -> emit.Memory:
        return emit.memory_of(frame.scratch, 4 * self.mr * self.nr, INT32, self.nr)

    def store(self, frame: Frame, total: Value, batch: Value, m: Value, n: Value, mask: Value, row: Value, column: Value) -> None:
        """The results of a row at a vector of columns; `row` and `column`: where their sums lie."""
        b, lanes = frame.b, self.lanes
        dims = [emit.idx(batch), emit.idx(m), emit.idx(n), b.index(0)]
        point = Point(b, self.trace, frame.operands, dims, COLUMNS, lanes, mask, lambda _point, _node: Val(total, INT32, lanes))
        of_rows, of_columns = self.shifted
        if of_columns:
            zb = self.zero(point, False, lanes)
            sums = b.spread(self.area(frame, 2).load([row]), "i32", lanes)
            total = b.same("arith.subi", total, b.same("arith.muli", zb, sums))
        if of_rows:
            sums = self.panel_sums(frame).load([emit.irem(n, self.nr)], lanes) if self.columns_in_place else self.area(frame, 3).load([column], lanes)
            if of_columns:
                sums = b.same("arith.subi", sums, b.same("arith.muli", zb, b.const("i32", self.sizes[TERMS], lanes)))
            total = b.same("arith.subi", total, b.same("arith.muli", self.zero(point, True, lanes), sums))
        made = [point.value(node) for node, _ in self.results]
        for v, (_, address), memory in zip(made, self.results, frame.results):
            point.store(v, memory, address)
