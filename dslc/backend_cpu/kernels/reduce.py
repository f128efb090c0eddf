"""Reduce kernels: folds over some axes, with pointwise work before, between and behind them, in one or few passes over memory.

Where memory is contiguous along a reduced axis a row is folded by vectors and then across their lanes; where it is contiguous along a kept axis,
neighbouring rows are the lanes. One row, or one vector of rows, goes through all folds while it lies in the nearest cache. Where there are too few
rows for that, each level of folds is a stage of its own over chunks of the reduced space, whose number follows from the shape alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

from dslc.core.dtypes import DType
from dslc.ir.index import Dim, Expr, linearize
from dslc.ir.rows import Level, Rows, RowSpace, levels_of, nest_of, space_of, vector_dim
from dslc.ir.schedules import choose
from dslc.ir.space import Space

from .. import emit
from ..folds import Folding, foldings_of
from ..machine import Machine
from ..pull import Point
from ..scalars import Val
from ..space import lanes_for, unravel, vectors
from ..stage import Frame, Generated, Request, Stage
from . import map as map_kernel
from .passes import MOST_TAPS, Ahead, Block, Layout, PassEmitter, Passes

Value = Any  # an ir.Value

FEW_TASKS = 32  # with fewer tasks than this
MUCH_WORK = 1 << 15  # over more elements than this a kernel is split
LEAST_SPLIT = 64  # and only where a row is longer than this
CHUNKS = 64  # at most so many parts of a reduced space


@dataclass(frozen=True)
class Schedule:
    """`columns`: vectors of a kept dim that run together, 0: as the layout has it; `chunks`: parts of the reduced space that are folded apart, at
    most; 0: every row is folded as a whole."""

    columns: int
    chunks: int


def generate(request: Request) -> Generated:
    """One stage over rows, or two a level and one for the results where rows are few."""
    levels = levels_of(request.body)
    if not levels:
        return map_kernel.generate(request)
    if all(t.size == 0 for t in request.results):
        return Generated(())
    space = space_of(levels)
    nest = nest_of(request.body, space, levels)
    rows = Rows(request.body, space, levels, nest)
    layout = choose_layout(rows, request.machine)
    schedule, choice = choose(request.schedule, lambda: _by_cost(rows, layout), lambda: _schedules(rows, layout))
    if schedule.chunks:
        return replace(_split(request, space, levels, nest, schedule), choice=choice)
    passes = Passes(rows, _widened(layout, schedule), request.machine.l2)
    return Generated((Stage(lambda frame: _emit_rows(frame, passes, request), passes.scratch_bytes),), choice=choice)


def _by_cost(rows: Rows, layout: Layout) -> Schedule:
    """Rows as a whole, unless there are too few of them for all threads."""
    total, reduced = prod(rows.nest.sizes), prod(rows.nest.sizes[rows.kept :])
    few = _row_tasks(rows, layout) < FEW_TASKS and total >= MUCH_WORK
    split = rows.scattered or (few and reduced > LEAST_SPLIT)
    return Schedule(0, max(1, min(CHUNKS, total // (MUCH_WORK // 8))) if split else 0)


def _schedules(rows: Rows, layout: Layout) -> list[Schedule]:
    """What is worth a trial."""
    first = _by_cost(rows, layout)
    reduced, longest = prod(rows.nest.sizes[rows.kept :]), max(rows.nest.sizes[rows.kept :], default=1)
    apart = [n for n in (1, 4, 8, 16, 32, 64, 128) if n <= longest] if rows.scattered or reduced > LEAST_SPLIT else []
    several = layout.dim is not None and not layout.across and reduced > MOST_TAPS
    columns = [0, *(c for c in (1, 2, 4, 8) if several and c != layout.columns)]
    found = [Schedule(c, n) for n in dict.fromkeys([first.chunks, *([] if rows.scattered else [0]), *apart]) for c in columns]
    return sorted(found, key=lambda s: (s.columns != first.columns) + (s.chunks != first.chunks))


def _widened(layout: Layout, schedule: Schedule) -> Layout:
    return replace(layout, columns=schedule.columns) if schedule.columns and not layout.across else layout


def choose_layout(rows: Rows, machine: Machine) -> Layout:
    dim = vector_dim(rows, machine.lanes)
    sizes = rows.nest.sizes
    if dim is None:
        return Layout(None, 1, False, 1)
    lanes = lanes_for(sizes[dim], machine.lanes)
    if dim >= rows.kept:
        return Layout(dim, lanes, True, 1)
    vectors_there = -(-sizes[dim] // lanes)
    columns = next((c for c in (4, 2) if vectors_there % c == 0), 4 if vectors_there > 16 else 1)
    if prod(sizes[rows.kept :]) <= MOST_TAPS:
        columns = 1
    if sum(f.node is not None for level in rows.folds for f in level) > 4:
        columns = 1
    return Layout(dim, lanes, False, columns)


def _row_tasks(rows: Rows, layout: Layout) -> int:
    count = prod(rows.nest.sizes[: rows.kept])
    if layout.across or layout.dim is None:
        return count
    n = rows.nest.sizes[layout.dim]
    return count // n * -(-n // (layout.lanes * layout.columns))


def blocks_of(frame: Frame, rows: Rows, layout: Layout, task: Value, given: Callable[[dict[Any, Val]], Any]) -> list[Block]:
    """The blocks of task number `task`: one row, or `columns` vectors of neighbouring rows."""
    sizes, b = list(rows.nest.sizes), frame.b
    zeros = [b.index(0)] * (len(sizes) - rows.kept)
    if layout.across or layout.dim is None:
        found = [(unravel(frame, task, sizes[: rows.kept]) + zeros, None)]
    else:
        n, step = sizes[layout.dim], layout.lanes * layout.columns
        outer = [-(-n // step) if d == layout.dim else sizes[d] for d in range(rows.kept)]
        at = unravel(frame, task, outer)
        first = b.mul(at[layout.dim], step)
        found = []
        for j in range(layout.columns):
            here = b.add(first, j * layout.lanes)
            mask = emit.mask_below(emit.isub(n, here), layout.lanes) if n % step else None
            found.append(([here if d == layout.dim else at[d] for d in range(rows.kept)] + zeros, mask))
    out = []
    for dims, mask in found:
        env: dict[Any, Val] = {}
        vector = None if layout.across else layout.dim
        point = Point(b, rows.trace, frame.operands, dims, vector, layout.lanes, mask, given(env))
        out.append(Block(point, dims, mask, env))
    return out


def _answer(env: dict[Any, Val]) -> Callable[[Point, Any], Val]:
    def given(point: Point, node: Any) -> Val:
        return env[node.key] if node.key is not None else point.s.const(0, node.dtype)

    return given


# ---- rows, each through all passes


def _emit_rows(frame: Frame, passes: Passes, request: Request) -> None:
    rows, layout = passes.rows, passes.layout
    first, last = emit.share(_row_tasks(rows, layout), frame.tid, frame.threads)
    streaming = request.streaming and layout.dim is not None and rows.nest.sizes[layout.dim] % layout.lanes == 0
    reads = passes.fetched([t.bytes for t in request.operands]) if passes.fetching else []

    def next_row(t: Value) -> Ahead:
        kept = rows.nest.sizes[: rows.kept]
        return Ahead(unravel(frame, emit.imin(frame.b.add(t, 1), prod(kept) - 1), kept) + [frame.b.index(0)] * len(passes.reduced), reads)

    def task(t: Value) -> None:
        blocks = blocks_of(frame, rows, layout, t, _answer)
        number = 0
        for p, level in enumerate(passes.foldings):
            ahead = next_row(t) if reads and p == passes.fetching else None
            states = PassEmitter(frame, passes, p, blocks, ahead=ahead).run()
            for block, found in zip(blocks, states):
                for k, (folding, state) in enumerate(zip(level, found)):
                    block.env[number + k] = state[folding.result]
            number += len(level)
        for block in blocks:
            _store_rows(frame, rows, block)
        if passes.outputs:
            PassEmitter(frame, passes, len(passes.foldings), blocks, streaming=streaming).run()

    emit.loop(first, last, 1, task)


def _store_rows(frame: Frame, rows: Rows, block: Block) -> None:
    """All values before the first store: a result may lie where an operand is read."""
    values = [(block.point.value(node), address, k) for k, (node, address, row) in enumerate(rows.results) if row]
    for value, address, k in values:
        block.point.store(value, frame.results[k], address)


# ---- few rows: chunks of the reduced space


def _split(request: Request, space: RowSpace, levels: Sequence[Level], nest: Space, schedule: Schedule) -> Generated:
    """For each level: partial states of every row and chunk, then their fold, in order; at the end all results, pointwise.

    The workspace holds the folds' results, each a buffer of rows, then the partial states of the level in work.
    """
    first_buffer = len(request.operands)
    rows = Rows(request.body, space, levels, nest, first_buffer)
    layout = _widened(choose_layout(rows, request.machine), schedule)
    count = prod(nest.sizes[: rows.kept])
    area = _Area(rows, count)
    dim, chunks, chunk = _chunks(rows, layout, schedule.chunks)
    stages = []
    passes = Passes(rows, layout, 0)
    for p in range(len(levels)):
        stages.append(Stage(partial(_emit_partials, passes=passes, p=p, area=area, dim=dim, chunks=chunks, chunk=chunk)))
        stages.append(Stage(partial(_emit_combined, rows=rows, p=p, area=area, chunks=chunks, width=request.machine.lanes)))
    partial_bytes = max(chunks * sum(area.bytes(t) for f in level for t in f.parts) for level in rows.folds)
    stages += _result_stages(request, rows, area)
    return Generated(stages, area.results_bytes + partial_bytes)


class _Area:
    """Where the results and partial states of folds lie in the workspace."""

    def __init__(self, rows: Rows, count: int) -> None:
        self.rows, self.count = rows, count
        self.dtypes: list[DType] = [f.parts[f.result] for level in rows.folds for f in level]
        self.results_bytes = sum(map(self.bytes, self.dtypes))

    def bytes(self, dtype: DType) -> int:
        return -(-self.count * dtype.bytes // 64) * 64

    def buffer(self, frame: Frame, number: int) -> emit.Memory:
        assert frame.workspace is not None
        offset = sum(map(self.bytes, self.dtypes[:number]))
        return emit.memory_of(frame.workspace.ref, offset, self.dtypes[number], self.count)

    def partials(self, frame: Frame, p: int, chunks: int) -> list[list[emit.Memory]]:
        """Buffers [chunks, rows] of each part of each fold of level p."""
        assert frame.workspace is not None
        offset = self.results_bytes
        out: list[list[emit.Memory]] = []
        for f in self.rows.folds[p]:
            out.append([])
            for t in f.parts:
                out[-1].append(emit.memory_of(frame.workspace.ref, offset, t, chunks * self.count))
                offset += chunks * self.bytes(t)
        return out


def _with_buffers(frame: Frame, area: _Area) -> Frame:
    """The frame with the folds' results as further operands."""
    buffers = tuple(area.buffer(frame, k) for k in range(len(area.dtypes)))
    return frame.with_operands(buffers)


def _chunks(rows: Rows, layout: Layout, most: int) -> tuple[int, int, int]:
    """(reduced dim that is split, number of chunks, length of one): the longest dim, in whole vectors."""
    reduced = range(rows.kept, len(rows.nest.sizes))
    dim = max(reduced, key=lambda d: rows.nest.sizes[d])
    n = rows.nest.sizes[dim]
    step = layout.lanes * 4 if dim == layout.dim else 1
    wanted = max(1, min(most, -(-n // step)))
    chunk = -(-n // (wanted * step)) * step
    return dim, -(-n // chunk), chunk


def _emit_partials(frame: Frame, passes: Passes, p: int, area: _Area, dim: int, chunks: int, chunk: int) -> None:
    frame = _with_buffers(frame, area)
    rows, layout, b = passes.rows, passes.layout, frame.b
    memories = area.partials(frame, p, chunks)
    first, last = emit.share(_row_tasks(rows, layout) * chunks, frame.tid, frame.threads)
    address = linearize([Dim(k) for k in range(rows.kept)], rows.nest.sizes[: rows.kept])

    def task(t: Value) -> None:
        row, part = b.div(t, chunks), b.rem(t, chunks)
        low = b.mul(part, chunk)
        high = emit.imin(b.add(low, chunk), rows.nest.sizes[dim])
        blocks = blocks_of(frame, rows, layout, row, _answer)
        states = PassEmitter(frame, passes, p, blocks, {dim: (low, high)}).run()
        skip = b.mul(part, area.count)
        for block, found in zip(blocks, states):
            for buffers, state in zip(memories, found):
                for memory, v in zip(buffers, state):
                    _store_state(block, memory, v, skip, address)

    emit.loop(first, last, 1, task)


def _store_state(block: Block, memory: emit.Memory, v: Val, skip: Value, address: Expr) -> None:
    point = block.point
    at = point.b.add(skip, point.scalar(address))
    if point.vector is None:
        memory.store(v.ssa, [at])
    elif point.step(address) == 1:
        memory.store(v.ssa, [at], block.mask)
    else:
        offsets = point.b.same("arith.muli", point.b.iota("i32", point.lanes), point.b.const("i32", point.step(address) or 0, point.lanes))
        memory.scatter(v.ssa, [at], offsets, block.mask)


def _emit_combined(frame: Frame, rows: Rows, p: int, area: _Area, chunks: int, width: int) -> None:
    """The partial states of each row folded in the order of the chunks; rows are the lanes."""
    frame = _with_buffers(frame, area)
    memories = area.partials(frame, p, chunks)
    lanes = lanes_for(area.count, width)
    start = sum(len(level) for level in rows.folds[:p])
    low, high = emit.share_in_steps(area.count, lanes, frame.tid, frame.threads)
    point = Point(frame.b, rows.trace, frame.operands, [])

    def at(i: Value, mask: Value) -> None:
        for k, (folding, buffers) in enumerate(zip(foldings_of(rows)[p], memories)):
            state = _folded(frame, point, folding, buffers, i, mask, lanes, area.count, chunks)
            area.buffer(frame, start + k).store(state[folding.result].ssa, [i], mask)

    vectors(low, high, area.count, lanes, at)


def _folded(frame: Frame, point: Point, folding: Folding, buffers: Sequence[emit.Memory], i: Value, mask: Value, lanes: int, count: int,
            chunks: int) -> list[Val]:  # fmt: skip
    start = folding.start(frame.b, lanes)

    def step(c: Value, *carried: Value) -> list[Value]:
        at = frame.b.add(frame.b.mul(c, count), i)
        have = [Val(v, s.dtype, lanes) for v, s in zip(carried, start)]
        more = [Val(m.load([at], lanes, mask), s.dtype, lanes) for m, s in zip(buffers, start)]
        return [v.ssa for v in folding.combine(point.s, have, more)]

    found = emit.loop(0, chunks, 1, step, [v.ssa for v in start])
    return [Val(v, s.dtype, lanes) for v, s in zip(found, start)]


def _result_stages(request: Request, rows: Rows, area: _Area) -> list[Stage]:
    """The kernel's results from the folds' results: pointwise work over each result's own shape."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for k, result in enumerate(request.results):
        if result.size:
            groups.setdefault(result.shape, []).append(k)
    sweeps = [map_kernel.sweep_of(request, numbers, rows.buffered) for numbers in groups.values()]

    def emit_all(frame: Frame) -> None:
        for sweep in sweeps:
            map_kernel.emit_sweep(_with_buffers(frame, area), sweep)

    return [Stage(emit_all)] if sweeps else []
