"""Products of few rows with matrices, several over the same points at once, in one function: what a row of their factor is made of is done first, by
every block for itself, in shared memory; what is put somewhere is written there.

To make a normalized row again costs a block some kilobytes from the second cache, while the matrix that it has asked for is on its way; a launch of
its own would cost more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from dslc.ir import index
from dslc.ir.few_rows import FewRows, Stage, few_rows_of
from dslc.ir.index import Expr
from dslc.ir.rows import Unsuited
from dslc.ir.trace import survey
from dslc.ir.types import type_of

from ..pull import chunked
from ..stage import Function, FunctionWriter, Generated, Memory, Request
from ..types import memory_type
from . import columns, reduce
from .along import along_function
from .group import Layout, meet
from .one_pass import plain
from .rows import RowWriter


def generate(request: Request) -> Generated:
    """One function."""
    rows = few_rows_of(request.body)
    layout, choice = reduce.layout_of(rows, request)
    if layout.across:
        alike = not any(index.dims_of(e) for at in rows.needed for place in at for e in place)  # all blocks need the same rows of the factors
        function = along_function(request, rows, layout, reduce.memory_of, partial(_prepare, rows)) if alike else None
        return Generated((function or _across(request, rows, layout),), choice=choice)
    width = columns.width_of(request, rows, layout.dim) if layout.dim is not None else 1
    if width == 1:
        raise Unsuited("neighbouring sums that no chunks of a matrix make")
    return Generated((columns.columns_function(request, rows, width, reduce.memory_of, partial(_prepare, rows)),))


def _across(request: Request, rows: FewRows, layout: Layout) -> Function:
    """A group of threads has a sum; the groups of a block have the same row of the factor."""
    count = 1
    while len(rows.nest.sizes[: rows.kept]) > 1 and count < layout.rows and rows.nest.sizes[rows.kept - 1] % (2 * count) == 0:
        count *= 2
    layout = replace(layout, rows=min(layout.rows, count) if rows.kept > 1 else layout.rows, turns=0, shared=False)
    w = FunctionWriter(request)
    writer = RowWriter(w, rows, layout, reduce.memory_of(w), reduce.integer_of(request, rows))
    grid, live = reduce.place_rows(w, writer)
    make = _prepare(rows, w, writer.memory, writer.point().index, layout.block)
    writer.ask(grid)
    writer.memory = make()
    states = writer.run_pass(0, [])
    meet(w, layout, states)
    writer.results(plain(rows)[0], states)
    with w.block(f"if ({reduce.first_with_row(layout, live)})"):
        columns.store_results(w, rows, writer.point)
    return w.function((grid,), (layout.block,), schedule=reduce.in_words(layout, writer.points))


def _prepare(
    rows: FewRows, w: FunctionWriter, memory: Callable[[int], Memory], where: Callable[[Expr], str], threads: int
) -> Callable[[], Callable[[int], Memory]]:
    """Writes what may be done ahead for a block's row of each factor. What it gives writes how the rows are made, and gives the memory of a body's
    operands and of these rows."""
    writers = [_writer(w, stage, memory, threads) for stage in rows.stages]

    def make() -> Callable[[int], Memory]:
        staged: list[Memory] = []
        for stage, writer, (at,) in zip(rows.stages, writers, rows.needed):
            t = type_of(stage.value)
            staged.append(Memory(w.fresh("staged"), t))
            w.line(f"__shared__ __align__(16) {memory_type(t.dtype)} {staged[-1].name}[{stage.length}];")
            _make(writer, stage, [where(e) for e in at], staged[-1].name)
        if staged:
            w.line("__syncthreads();")
        own = len(rows.body.operands)
        return lambda k: staged[k - own] if k >= own else memory(k)

    return make


def _writer(w: FunctionWriter, stage: Stage, memory: Callable[[int], Memory], threads: int) -> RowWriter:
    """Of the passes over one row by all threads of a block."""
    rows = stage.rows
    width = _width(w.request, stage, threads)
    turns = reduce.turns_of(stage.length // width, threads, rows, width)
    lane = w.fresh("thread")
    w.line(f"const int {lane} = threadIdx.x;")
    writer = RowWriter(w, rows, Layout(True, len(rows.nest.sizes) - 1, threads, 1, width, turns), memory, reduce.integer_of(w.request, rows), lane)
    writer.bring()
    return writer


def _make(writer: RowWriter, stage: Stage, at: list[str], to: str) -> None:
    """Writes the passes, the last of which stores the row."""
    rows, shape = stage.rows, type_of(stage.value).shape
    writer.row_dims = [text for text, a in zip(at, stage.row_axes) if shape[a] != 1]
    writer.outputs = [(rows.results[0][0], stage.place(), 0)]
    writer.target = lambda k: to
    keep = writer.kept()
    for p, one in enumerate(plain(rows)):
        states = writer.run_pass(p, keep)
        meet(writer.w, writer.layout, states)
        writer.results(one, states)
    writer.run_pass(len(rows.folds), keep)


def _width(request: Request, stage: Stage, threads: int) -> int:
    """Neighbouring points that a thread takes at once, where all threads have some."""
    rows = stage.rows
    last = len(rows.nest.sizes) - 1
    reads = [r for r in survey(rows.trace, rows.roots()).reads if chunked(r.address, last, 2)]
    width = min((16 // r.dtype.bytes for r in reads), default=1)
    while width > 1:
        fits = any(chunked(r.address, last, width) and request.operand_aligned(r.operand) for r in reads) and chunked(stage.place(), last, width)
        if fits and rows.nest.sizes[last] % width == 0 and 2 * stage.length >= threads * width:
            return width
        width //= 2
    return 1
