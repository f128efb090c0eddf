"""Copies blocks of a product's operands into the layouts that its inner loop reads.

A, where k is contiguous: rows of `row_length` elements. A otherwise: panels of `panel_rows` rows, k by k. B: panels of the tile's columns, k by k.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dslc.ir.mlir import arith, vector

from . import emit as e
from .gemm_schedule import Schedule, panel_rows, row_length
from .types import const

if TYPE_CHECKING:
    from .gemm import Operand

Value = Any
Index = Any


def pack_a_rows(a: Operand, area: e.Memory, batch: Index, first: Index, rows: Index, k0: Index, terms: Index, s: Schedule) -> None:
    """Rows first, first + 1, ... of A, each from k0 on; whole vectors are stored, for rows have room behind them."""

    def row(r: Value) -> None:
        at = e.imul(r, row_length(s))

        def part(k: Value, lanes: int, mask: Value) -> None:
            area.store(a.load(batch, e.iadd(first, r), e.iadd(k0, k), "k", lanes, mask), [e.iadd(at, k)])

        e.vector_loop(0, terms, s.lanes, part)

    e.loop(0, rows, 1, row)


def pack_a_panels(a: Operand, area: e.Memory, batch: Index, first: Index, rows: Index, m: int, k0: Index, terms: Index, s: Schedule) -> None:
    """Panels of `mr` rows of A from row `first` on, a cache line's worth of them at a time. A panel's vectors may be wider than `mr`; what they hold
    more is not used."""
    width = panel_rows(s)
    whole = width == s.mr and m % s.mr == 0

    def panels(p: Value, count: int) -> None:
        masks = [None if whole or width == 1 else e.mask_below(e.isub(m, e.iadd(first, e.imul(e.iadd(p, q), s.mr))), width) for q in range(count)]

        def term(k: Value) -> None:
            for q in range(count):
                x = e.iadd(first, e.imul(e.iadd(p, q), s.mr))
                at = e.iadd(e.imul(e.iadd(p, q), width * s.kc), e.imul(k, width))
                area.store(a.load(batch, x, e.iadd(k0, k), "x", width, masks[q]), [at])

        e.loop(0, terms, 1, term)

    group = max(1, s.lanes // width)
    count = e.ceil_div(rows, s.mr)
    grouped = e.imul(e.idiv(count, group), group)
    e.loop(0, grouped, group, lambda p: panels(p, group))
    if group > 1:
        e.loop(grouped, count, 1, lambda p: panels(p, 1))


def pack_b_panel(b: Operand, area: e.Memory, at: Index, batch: Index, n: Index, k0: Index, terms: Index, vectors: int, columns: int,
                 s: Schedule) -> None:  # fmt: skip
    """`columns` columns of B from n on, `terms` terms from k0 on, to `area` from element `at` on; each term takes `vectors` whole vectors."""
    if b.side.along == "k":
        _pack_b_transposed(b, area, at, batch, n, k0, terms, vectors, columns, s)
        return

    def term(k: Value) -> None:
        for j in range(vectors):
            left = columns - j * s.lanes
            mask = None if left >= s.lanes else e.mask_below(left, s.lanes)
            value = b.load(batch, e.iadd(n, j * s.lanes), e.iadd(k0, k), "x", s.lanes, mask)
            area.store(value, [e.iadd(at, e.imul(k, vectors * s.lanes), j * s.lanes)])

    e.loop(0, terms, 1, term)


def _pack_b_transposed(b: Operand, area: e.Memory, at: Index, batch: Index, n: Index, k0: Index, terms: Index, vectors: int, columns: int,
                       s: Schedule) -> None:  # fmt: skip
    """Squares of lanes x lanes are read along k and transposed in registers. A column that is not there is read as the last one."""
    lanes = s.lanes

    def square(k: Value, count: int, mask: Value) -> None:
        for j in range(vectors):
            read = [
                b.load(batch, e.iadd(n, min(j * lanes + c, columns - 1)), e.iadd(k0, k), "k", lanes, mask) for c in range(lanes)
            ]  # fmt: skip
            for r, row in enumerate(transposed(read)):
                where = [e.iadd(at, e.imul(e.iadd(k, r), vectors * lanes), j * lanes)]
                if mask is None:
                    area.store(row, where)
                else:  # the next panel begins behind the last term
                    e.when(e.icmp("lt", e.iadd(k, r), terms), lambda row=row, where=where: area.store(row, where))  # type: ignore[misc]

    e.vector_loop(0, terms, lanes, square)


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
