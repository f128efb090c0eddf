"""Copies blocks of a product's operands into the layouts that its inner loop reads.

A, where k is contiguous: rows of `row_length` elements. A otherwise: panels of `panel_rows` rows, k by k. B: panels of the tile's columns, k by k.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dslc.ir.mlir import arith, vector

from . import emit as e
from .gemm_schedule import Schedule, panel_length, panel_rows, row_length
from .types import const

if TYPE_CHECKING:
    from .gemm import Operand, RowsOfColumns, RunsOfTerms

Value = Any
Index = Any

MOST_RUNS = 32  # whose code is made for each by itself
TERMS_AHEAD = 8  # of what is packed, its lines are asked for


def pack_a_rows(a: Operand, area: e.Memory, batch: Index, first: Index, strips: Index, m: int, k0: Index, terms: Index, s: Schedule) -> None:
    """The rows of `strips` strips of A from row `first`, each from k0 on. Rows have room for whole vectors; below the last row it is repeated."""

    def row(r: Value) -> None:
        source = e.imin(e.iadd(first, r), m - 1)
        if a.runs:
            pack_runs(a.runs, area, e.imul(r, row_length(s)), batch, source, k0, terms, s.lanes)
            return

        def part(k: Value, lanes: int, mask: Value) -> None:
            area.store(a.load(batch, source, e.iadd(k0, k), "k", lanes, mask), [e.iadd(e.imul(r, row_length(s)), k)])

        e.vector_loop(0, terms, s.lanes, part)

    e.loop(0, e.imul(strips, s.mr), 1, row)


def pack_runs(runs: RunsOfTerms, area: e.Memory, at: Index, batch: Index, source: Index, k0: Index, terms: Index, lanes: int) -> None:
    """The terms of a row from k0 on, run by run: what the last vector of one writes too much the next one writes over."""
    whole = isinstance(terms, int) and terms == runs.count * runs.length

    def run(number: Index, inside: bool) -> None:
        start = e.isub(e.imul(number, runs.length), k0)  # in the row that is packed
        low, high = (0, runs.length) if whole else (e.imax(e.isub(0, start), 0), e.imin(e.isub(terms, start), runs.length))

        def part(x: Value, width: int, mask: Value) -> None:
            area.store(runs.load(batch, source, number, x, width, mask, inside), [e.iadd(at, e.iadd(start, x))])

        e.vector_loop(low, high, lanes, part)

    def all_runs(inside: bool) -> list[Value]:
        if whole and inside and runs.count <= MOST_RUNS:
            for number in range(runs.count):
                run(number, inside)
        else:
            e.loop(e.idiv(k0, runs.length), e.ceil_div(e.iadd(k0, terms), runs.length), 1, lambda number: run(number, inside))
        return []

    if runs.inside is None:
        all_runs(True)
    else:
        e.choose(runs.inside(batch, source), [], lambda: all_runs(True), lambda: all_runs(False))


def pack_a_panels(a: Operand, area: e.Memory, batch: Index, first: Index, strips: Index, m: int, k0: Index, terms: Index, s: Schedule) -> None:
    """`strips` panels of `mr` rows of A from row `first` on, a term at a time. A panel's vectors may be wider than `mr`; what they hold more is not
    used. Where the rows are part of longer lines, a processor does not see coming those of the next terms."""
    width = panel_rows(s)
    whole = (width == s.mr and m % s.mr == 0) or width == 1

    def term(k: Value) -> None:
        def panel(p: Value) -> None:
            x = e.iadd(first, e.imul(p, s.mr))
            mask = None if whole else e.mask_below(e.isub(m, x), width)
            area.store(a.load(batch, x, e.iadd(k0, k), "x", width, mask), [e.iadd(e.imul(p, panel_length(s)), e.imul(k, width))])

        if a.place is not None:
            fetch(a.place, e.iadd(k0, e.imin(e.iadd(k, TERMS_AHEAD), e.isub(terms, 1))))
        e.loop(0, strips, 1, panel)

    def fetch(place: Callable[[Index, Index, Index], tuple[e.Memory, Index]], k: Index) -> None:
        end, (memory, _) = e.imin(e.iadd(first, e.imul(strips, s.mr)), m), place(batch, first, k)

        def line(x: Value) -> None:
            memory.fetch([place(batch, x, k)[1]])

        e.loop(first, end, 64 // memory.dtype.bytes, line)

    e.loop(0, terms, 1, term)


def pack_b_panel(b: Operand, area: e.Memory, at: Index, batch: Index, n: Index, columns: int, k0: Index, terms: Index, s: Schedule) -> None:
    """A panel of B, from column n and term k0 on, to `area` from element `at` on. Columns beyond the last of `columns` hold any finite value."""
    if b.side.along == "k":
        _pack_b_transposed(b, area, at, batch, n, columns, k0, terms, s)
        return
    if b.rows:
        _pack_b_by_rows(b.rows, area, at, batch, n, columns, k0, terms, s)
        return

    def term(k: Value) -> None:
        for j in range(s.nv):
            column = e.iadd(n, j * s.lanes)
            mask = None if columns % s.nr == 0 else e.mask_below(e.imax(e.isub(columns, column), 0), s.lanes)
            area.store(b.load(batch, column, e.iadd(k0, k), "x", s.lanes, mask), [e.iadd(at, e.imul(k, s.nr), j * s.lanes)])

    e.loop(0, terms, 1, term)


def _pack_b_by_rows(rows: RowsOfColumns, area: e.Memory, at: Index, batch: Index, n: Index, columns: int, k0: Index, terms: Index,
                    s: Schedule) -> None:  # fmt: skip
    """The part of each row that lies in the panel, term by term: no vector is made of two rows. Columns beyond the last are left as they are."""
    end = e.imin(e.iadd(n, s.nr), columns)

    def row(i: Value) -> None:
        start = e.imul(i, rows.width)
        first, last = e.imax(e.isub(n, start), 0), e.imin(e.isub(end, start), rows.width)

        def part(x: Value) -> None:
            mask = e.mask_below(e.isub(last, x), s.lanes)
            place = e.iadd(at, e.isub(e.iadd(start, x), n))

            def all_terms(load: Callable[..., Value], mask: Value) -> list[Value]:
                def term(k: Value) -> None:
                    area.store(load(batch, i, x, e.iadd(k0, k), s.lanes, mask), [e.iadd(place, e.imul(k, s.nr))], mask)

                e.loop(0, terms, 1, term)
                return []

            whole = arith.andi(e.icmp("le", e.iadd(x, s.lanes), last), rows.inside(batch, i, x, s.lanes))
            e.choose(whole, [], lambda: all_terms(rows.load_inside, None), lambda: all_terms(rows.load, mask))

        e.loop(first, last, s.lanes, part)

    e.loop(e.idiv(n, rows.width), e.ceil_div(end, rows.width), 1, row)


def pack_depth(k: int, lanes: int) -> int:
    """Terms that are packed at a time: whole vectors, and no rest of less than one; all where there are few."""
    depth = 256
    while depth < k and 0 < k % depth < lanes:
        depth += lanes
    return min(depth, k)


def _pack_b_transposed(b: Operand, area: e.Memory, at: Index, batch: Index, n: Index, columns: int, k0: Index, terms: Index, s: Schedule) -> None:
    """Squares of lanes x lanes are read along k and transposed in registers; the last one begins earlier. Beyond the last column it is repeated."""
    lanes = s.lanes

    def square(j: Value, k: Index, mask: Value, rows: int) -> None:
        read = []
        for c in range(lanes):
            column = e.iadd(n, j, c)
            read.append(b.load(batch, column if columns % s.nr == 0 else e.imin(column, columns - 1), e.iadd(k0, k), "k", lanes, mask))
        for r, row in enumerate(transposed(read)[:rows]):
            area.store(row, [e.iadd(at, e.imul(e.iadd(k, r), s.nr), j)])

    def group(j: Value) -> None:
        if isinstance(terms, int) and terms < lanes:
            square(j, 0, e.mask_below(terms, lanes), terms)
        else:  # blocks of k have more terms than there are lanes
            e.loop(0, terms, lanes, lambda k: square(j, e.imin(k, e.isub(terms, lanes)), None, lanes))

    e.loop(0, s.nr, lanes, group)


def transposed(rows: Sequence[Value]) -> list[Value]:
    """The transpose of a square of vectors: as many perfect shuffles as the count has bits."""
    rows = list(rows)
    lanes = len(rows)
    for _ in range(lanes.bit_length() - 1):
        rows = [half for i in range(lanes // 2) for half in interleaved(rows[i], rows[i + lanes // 2])]
    return rows


def interleaved(a: Value, b: Value) -> tuple[Value, Value]:
    """(a0 b0 a1 b1 ... of the lower halves, the same of the upper halves)."""
    lanes = a.type.shape[0]
    low, high = ([side + at for at in range(start, start + lanes // 2) for side in (0, lanes)] for start in (0, lanes // 2))
    return vector.shuffle(a, b, low), vector.shuffle(a, b, high)


def fold_each(vectors: Sequence[Value], lanes: int) -> Value:
    """A vector whose lane j is the sum of vector j's lanes, for at most `lanes` vectors; the order of each sum is fixed."""
    current = [*vectors, *[const(0.0, vectors[0].type)] * (lanes - len(vectors))]
    while len(current) > 1:
        half = len(current) // 2
        current = [arith.addf(*interleaved(current[i], current[i + half])) for i in range(half)]
    return current[0]
