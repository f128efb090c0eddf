"""Reduce kernels: folds over some axes, with pointwise work before, between and behind them.

A group of threads takes a row through all passes in one launch (`rows`). Where rows are few, every level of folds is two launches, partial states of
chunks of each row and their fold in the order of the chunks, and the results are a map over what they left in the workspace. The number of chunks
follows from the shape alone, so sums have one order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

from dslc.core.dtypes import DType
from dslc.ir import index
from dslc.ir.rows import Level, Rows, RowSpace, levels_of, nest_of, space_of, vector_dim
from dslc.ir.schedules import Choice, choose
from dslc.ir.space import Space
from dslc.ir.trace import survey
from dslc.ir.types import TensorType

from ..pull import Point, chunked
from ..scalars import Arithmetic, Val
from ..stage import Function, FunctionWriter, Generated, Memory, Request, index_type
from ..types import accumulator, computed_type
from . import columns, one_pass
from . import map as map_kernel
from .along import along_function
from .group import WARP, Layout, State, fold_in, meet, start_of
from .one_pass import Pass, parts_of
from .rows import MOST_HELD, RowWriter, in_chunks, shared_room

THREADS = 256
MOST_SHARED = 48 << 10  # bytes of states in shared memory
MUCH_WORK = 1 << 14  # a reduced space with more points than this is split where rows are few
MOST_CHUNKS = 256


def generate(request: Request) -> Generated:
    """One function over rows, or two a level and one for each shape of the results."""
    levels = levels_of(request.body)
    if not levels:
        return map_kernel.generate(request)
    if all(t.size == 0 for t in request.results):
        return Generated(())
    space = space_of(levels)
    nest = nest_of(request.body, space, levels)
    rows = Rows(request.body, space, levels, nest)
    layout, choice = layout_of(rows, request)
    count, points = prod(nest.sizes[: rows.kept]), prod(nest.sizes[rows.kept :])
    threads = count // layout.columns * layout.threads
    few = threads < request.arch.sms * 256 and points >= MUCH_WORK
    if rows.scattered or few:
        return _split(request, space, levels, nest)
    passes = one_pass.plain(rows) if layout.turns or not points else one_pass.passes_of(rows)
    if any(p.folds is not level for p, level in zip(passes, rows.folds)):
        rows.folds = [p.folds for p in passes]
        layout, choice = layout_of(rows, request)
    if len(levels) == 1 and not layout.across and layout.dim is not None and (width := columns.width_of(request, rows, layout.dim)) > 1:
        return Generated((columns.columns_function(request, rows, width, memory_of),))
    along = along_function(request, rows, layout, memory_of) if len(levels) == 1 else None
    return Generated((along or _rows_function(request, rows, layout, passes),), choice=choice)


def layout_of(rows: Rows, request: Request) -> tuple[Layout, Choice]:
    """The layout that was asked for, or else the chosen one; beside that, those that keep less of a row in registers."""
    best = choose_layout(rows, request)
    space = list(dict.fromkeys((best, replace(best, turns=0), replace(best, turns=0, width=1))))
    return choose(request.schedule, lambda: best, lambda: space, lambda layout: max(layout.turns, 1) * layout.width)


def choose_layout(rows: Rows, request: Request) -> Layout:
    """Threads of a group by the length of a row, chunks by what memory allows."""
    sizes = rows.nest.sizes
    dim = vector_dim(rows, WARP)
    points, count = prod(sizes[rows.kept :]), prod(sizes[: rows.kept])
    if dim is not None and dim < rows.kept and sizes[dim] >= 8 and points > 0:
        return _beside(rows, request, dim)
    width = _width(rows, request)
    chunks = max(points // width, 1)
    threads = 1
    limit = 8 if points <= 64 else 16 if points <= 128 else 32 if points <= 3072 else 64 if points <= 6144 else 128 if points <= 16384 else 512
    while threads < limit and threads < chunks:
        threads *= 2
    while threads < 512 and count * threads < request.arch.sms * 512 and chunks >= 4 * threads:
        threads *= 2
    threads = _holding(threads, chunks, width, rows)
    layout = Layout(True, dim, threads, max(1, 256 // threads) if threads <= WARP else 1, width, turns_of(chunks, threads, rows, width))
    return _in_shared(layout, points, chunks, rows, request)


def _in_shared(layout: Layout, points: int, chunks: int, rows: Rows, request: Request) -> Layout:
    """The layout, or, of rows so long that one of them would fill the registers of a multiprocessor, one that keeps them in shared memory: two blocks
    at once where they fit, so that one loads while the other computes."""
    reads = [r for r in survey(rows.trace, rows.roots()).reads if chunked(r.address, len(rows.nest.sizes) - 1, max(layout.width, 2))]
    size = points * (2 if layout.width > 1 and reads and all(r.dtype.bits == 16 for r in reads) else 4)
    threads = next((n for n in (512, 1024) if size <= shared_room(request.arch, n)), None)
    if _passes(rows) < 2 or layout.rows > 1 or 0 < layout.turns * layout.width <= MOST_HELD or threads is None:
        return layout
    return replace(layout, threads=threads, turns=-(-chunks // threads), shared=True)


def _beside(rows: Rows, request: Request, dim: int) -> Layout:
    """Threads along a kept dim: of a block's threads as many as take whole sectors have neighbouring rows, or fewer if some processors would have no
    block; the others share their points."""
    sizes = rows.nest.sizes
    points, count = prod(sizes[rows.kept :]), prod(sizes[: rows.kept])
    width = _rows_at_once(rows, request, dim)
    groups, parts = sizes[dim] // width, sum(t.bytes for level in rows.folds for f in level for t in f.parts)
    lanes, spread = WARP, points < MUCH_WORK  # longer rows are split where there are few
    while width > 1 and lanes > (4 if spread else 8) and (lanes > groups or (spread and count // (width * lanes) < request.arch.sms)):
        lanes //= 2
    shares = 1
    while shares * lanes < 512 and points >= 8 * shares and count // width * shares < request.arch.sms * 2048:
        shares *= 2
    while shares > 1 and shares * lanes > WARP and shares * lanes // WARP * lanes * width * parts > MOST_SHARED:
        shares //= 2
    if shares == 1 or shares * lanes < WARP:
        return Layout(False, dim, 1, THREADS, width, turns_of(points, 1, rows, width))
    return Layout(False, dim, shares, lanes, width, turns_of(points, shares, rows, width))


def _rows_at_once(rows: Rows, request: Request, dim: int) -> int:
    """Neighbouring rows along a dim that a thread takes: 16 bytes of the narrowest element that is read so."""
    reads = [r for r in survey(rows.trace, rows.roots()).reads if in_chunks(rows, request, r, dim, 2)]
    outputs = [(k, address) for k, (_, address, row) in enumerate(rows.results) if not row]
    if not reads:
        return 1
    width = min(16 // min(r.dtype.bytes for r in reads), 8)
    while width > 1:
        fits = all(chunked(a, dim, width) and request.result_aligned(k) for k, a in outputs)
        if rows.nest.sizes[dim] % width == 0 and fits and any(in_chunks(rows, request, r, dim, width) for r in reads):
            return width
        width //= 2
    return 1


def _width(rows: Rows, request: Request) -> int:
    """Neighbouring points along the last reduced dim that a thread takes at once: 16 bytes of the narrowest element that is read so."""
    last = len(rows.nest.sizes) - 1
    if last < rows.kept:
        return 1
    reads = survey(rows.trace, rows.roots()).reads
    outputs = [(k, address) for k, (_, address, row) in enumerate(rows.results) if not row]
    moving = [r for r in reads if chunked(r.address, last, 2)]
    if not moving:
        return 1
    width = min(16 // min(r.dtype.bytes for r in moving), 8)
    while width > 1:
        fits = all(chunked(a, last, width) and request.result_aligned(k) for k, a in outputs)
        useful = any(chunked(r.address, last, width) and request.operand_aligned(r.operand) for r in moving)
        if rows.nest.sizes[last] % width == 0 and fits and useful and prod(rows.nest.sizes[rows.kept :]) >= 4 * width:
            return width
        width //= 2
    return 1


def _passes(rows: Rows) -> int:
    return len(rows.levels) + any(not row for _, _, row in rows.results)


def turns_of(chunks: int, threads: int, rows: Rows, width: int = 1) -> int:
    """Chunks a thread takes where a row's values stay in registers from pass to pass, else 0."""
    turns = -(-chunks // threads)
    return turns if _passes(rows) > 1 and turns * width <= _most_points(width) else 0


def _most_points(width: int) -> int:
    """Points of a row that a thread may keep: two values of each, or one of 16 bits where chunks are of such."""
    return 2 * MOST_HELD if width == 8 else MOST_HELD // 2


def _holding(threads: int, chunks: int, width: int, rows: Rows) -> int:
    """The threads of a group, or so many more that a row of several passes stays in their registers."""
    for more in (threads, 2 * threads, 4 * threads, 8 * threads, 16 * threads) if _passes(rows) > 1 else ():
        if more <= 512 and -(-chunks // more) * width <= MOST_HELD // 2:
            return more
    return threads


def memory_of(w: FunctionWriter, buffers: Callable[[int], Memory] | None = None) -> Callable[[int], Memory]:
    def memory(k: int) -> Memory:
        if k < len(w.request.operands):
            return w.operand(k)
        assert buffers is not None
        return buffers(k - len(w.request.operands))

    return memory


def integer_of(request: Request, rows: Rows) -> str:
    return index_type(prod(rows.nest.sizes), *(t.size for t in (*request.operands, *request.results)))


# ---- rows, each through all passes


def _rows_function(request: Request, rows: Rows, layout: Layout, passes: Sequence[Pass]) -> Function:
    w = FunctionWriter(request)
    writer = RowWriter(w, rows, layout, memory_of(w), integer_of(request, rows))
    grid, live = place_rows(w, writer)
    writer.ask(grid)
    keep = writer.kept()
    for p, one in enumerate(passes):
        states = writer.run_pass(p, keep)
        meet(w, layout, states)
        writer.results(one, states)
    row = [(node, address, k) for k, (node, address, is_row) in enumerate(rows.results) if is_row]
    if row:
        with w.block(f"if ({first_with_row(layout, live)})"):
            writer.store_row(row)
    if writer.outputs:
        with w.block(f"if ({live})") if live else w.block(""):
            writer.run_pass(len(rows.folds), keep)
    blocks = 1024 // layout.threads if layout.shared else 1
    words = in_words(layout, writer.points)
    return w.function((grid,), (layout.block,), shared_bytes=writer.shared_bytes, blocks_per_sm=blocks, schedule=words)


def first_with_row(layout: Layout, live: str) -> str:
    """The test for one thread of a group that has a row."""
    first = "" if layout.threads == 1 else "lane == 0" if layout.across else "share == 0"
    return " && ".join(filter(None, (first, live))) or "true"


def in_words(layout: Layout, points: int) -> str:
    where = "shared memory" if layout.shared else "registers"
    held = f", kept in {where} between passes ({layout.turns} x {layout.width} a thread)" if layout.turns else ""
    if layout.across:
        return f"{layout.threads} threads a row of {points} points, {layout.rows} rows a block, {layout.width} points at once{held}"
    rows = f"{layout.width} neighbouring rows" if layout.width > 1 else "a row"
    return f"{layout.threads} threads to {rows} of {points} points, {layout.rows * layout.width} rows a block{held}"


def place_rows(w: FunctionWriter, writer: RowWriter, chunks: int = 1) -> tuple[int, str]:
    """Writes which row this thread belongs to, its number in the group, and, with chunks, which one; (blocks, test that the row exists)."""
    layout, kept = writer.layout, writer.sizes[: writer.rows.kept]
    count, integer = prod(kept), writer.integer
    block = "blockIdx.x"
    if chunks > 1:
        w.line(f"const int chunk = blockIdx.x % {chunks}u;")
        block = f"(blockIdx.x / {chunks}u)"
    if layout.across:
        blocks, live = -(-count // layout.rows), ""
        if layout.rows == 1:
            w.line(f"const {integer} row = {block};")
            w.line("const int lane = threadIdx.x;")
        else:
            live = "live" if count % layout.rows else ""
            w.line(f"const {integer} place = {block} * {layout.rows} + threadIdx.x / {layout.threads}u;")
            w.line("const int lane = " + ("0;" if layout.threads == 1 else f"threadIdx.x % {layout.threads}u;"))
            _live(w, integer, count, live)
        writer.row_dims = map_kernel.delinearized(w, "row", kept, stem="i")
        return blocks * chunks, live
    assert layout.dim is not None
    groups, dim = kept[layout.dim] // layout.width, layout.dim
    order = [*(d for d in range(len(kept)) if d != dim), dim]
    w.line(f"const int share = {f'threadIdx.x / {layout.rows}u' if layout.threads > 1 else '0'};")
    if layout.threads == 1:
        total = count // layout.width
        live = "live" if total % layout.rows else ""
        w.line(f"const {integer} place = {f'({integer}){block}' if integer != 'int' else block} * {layout.rows} + threadIdx.x;")
        _live(w, integer, total, live, "number")
        found = map_kernel.delinearized(w, "number", [*(kept[d] for d in order[:-1]), groups], layout.width, "i")
        blocks = -(-total // layout.rows)
    else:
        of_dim = -(-groups // layout.rows)
        live = "live" if groups % layout.rows else ""
        outer = map_kernel.delinearized(w, block, [*(kept[d] for d in order[:-1]), of_dim], stem="i")
        w.line(f"const {integer} place = {outer[-1]} * {layout.rows} + threadIdx.x % {layout.rows}u;")
        _live(w, integer, groups, live, "number")
        found = [*outer[:-1], w.value("row", integer, f"number * {layout.width}") if layout.width > 1 else "number"]
        blocks = prod(kept[d] for d in order[:-1]) * of_dim
    writer.row_dims = [found[order.index(d)] for d in range(len(kept))]
    for d, n in writer.phases().items():
        each = kept[d] // n
        if d != dim and each > 1:
            writer.row_dims[d] = w.value("i", "int", f"{writer.row_dims[d]} % {each}u * {n} + {writer.row_dims[d]} / {each}u")
    return blocks * chunks, live


def _live(w: FunctionWriter, integer: str, count: int, live: str, name: str = "row") -> None:
    """Threads without a row go along with the last one, since all must meet at shuffles and barriers."""
    if live:
        w.line(f"const bool live = place < {count};")
        w.line(f"const {integer} {name} = live ? place : {count - 1};")
    else:
        w.line(f"const {integer} {name} = place;")


# ---- few rows: chunks of the reduced space


@dataclass(frozen=True)
class _Buffer:
    """A stretch of the workspace."""

    offset: int
    type: TensorType


class _Area:
    """Where results and partial states of folds lie in the workspace: results for good, the partial states of each level in the same place."""

    def __init__(self, passes: Sequence[Pass], count: int, chunks: int) -> None:
        self.results: dict[int, _Buffer] = {}
        offset = 0
        for made in (m for one in passes for m in one.made):
            self.results[made.number] = _Buffer(offset, TensorType(made.dtype, (count,)))
            offset += _bytes(made.dtype, count)
        self.partials: list[list[list[_Buffer]]] = []
        end = offset
        for one in passes:
            at = offset
            found: list[list[_Buffer]] = []
            for fold in one.folds:
                found.append([])
                for t in fold.parts:
                    found[-1].append(_Buffer(at, TensorType(t, (chunks, count))))
                    at += _bytes(t, chunks * count)
            self.partials.append(found)
            end = max(end, at)
        self.bytes = end


def _bytes(dtype: DType, count: int) -> int:
    return -(-count * accumulator(dtype).bytes // 256) * 256


def _split(request: Request, space: RowSpace, levels: Sequence[Level], nest: Space) -> Generated:
    """For each level partial states of every row and chunk, then their fold; at the end all results, pointwise."""
    rows = Rows(request.body, space, levels, nest, len(request.operands))
    passes = one_pass.passes_of(rows)
    rows.folds = [one.folds for one in passes]
    base, choice = layout_of(rows, request)
    layout = replace(base, threads=min(base.threads, 256), turns=0)
    if layout.across and layout.threads > WARP:
        layout = Layout(True, layout.dim, 256, 1, layout.width, 0)
    count, points = prod(nest.sizes[: rows.kept]), prod(nest.sizes[rows.kept :])
    pieces = max(points if not layout.across else points // layout.width, 1)
    per_row = layout.threads if layout.across else layout.threads * 2
    wanted = max(1, min(MOST_CHUNKS, request.arch.sms * 1024 // max(count // layout.columns * layout.threads, 1), pieces // per_row))
    length = -(-pieces // wanted)
    chunks = max(-(-pieces // length), 1)
    area = _Area(passes, count, chunks)

    def buffer(w: FunctionWriter, k: int) -> Memory:
        b = area.results[k]
        return w.workspace(f"fold{k}", b.offset, b.type)

    functions: list[Function] = []
    last = len(passes) - 1
    finished, early = _of_own_row(rows), _before_folds(rows) if layout.width == 1 or not layout.across else []
    for p, one in enumerate(passes):
        functions.append(_partials(request, rows, layout, p, area, buffer, chunks, length, pieces, early if p == 0 else ()))
        functions.append(_folds(request, rows, p, one, area, buffer, chunks, finished if p == last else ()))
    for n, sweep in enumerate(map_kernel.sweeps_of(request, rows.buffered, buffer, skip=[*finished, *early])):
        functions.append(map_kernel.sweep_function(sweep, f"_results{n}"))
    return Generated(functions, area.bytes, choice=choice)


def _store_rows(w: FunctionWriter, rows: Rows, one: Pass, states: Sequence[State], finished: Sequence[int],
                buffer: Callable[[FunctionWriter, int], Memory]) -> None:  # fmt: skip
    """What follows for the row `row` from the states of a pass, and the results of these numbers, from that and from folds of earlier passes."""
    kept = rows.nest.sizes[: rows.kept]
    dims = [*map_kernel.delinearized(w, "row", kept), *["0"] * (len(rows.nest.sizes) - rows.kept)]
    behind, memory = len(w.request.operands), memory_of(w, lambda k: buffer(w, k))
    reads = survey(rows.trace, [*one.factors, *(rows.results[k][0] for k in finished)]).reads
    parts = [parts_of(Arithmetic(w), state.fold, state.values) for state in states]
    folds: dict[int, Val] = {}

    def point() -> Point:
        known = {id(r): folds[r.operand - behind] for r in reads if r.operand - behind in folds}
        return Point(w, rows.trace, memory, dims, known=known, integer=integer_of(w.request, rows))

    for made in one.made:
        here = point()
        folds[made.number] = made.value(here.s, parts, prod(rows.nest.sizes[rows.kept :]), here.value)
    for number, v in folds.items():
        w.line(f"store({buffer(w, number).name} + row, {v.text});")
    here = point()
    values = [(here.value(rows.results[k][0]), rows.results[k][1], k) for k in finished]
    for value, address, k in values:
        w.line(f"store({w.result(k).name} + {here.index(address)}, {value.text});")


def _of_own_row(rows: Rows) -> list[int]:
    """The numbers of the results that are a row's, where all of them need folds of their own row alone: the last fold makes them."""
    found = [k for k, (_, _, row) in enumerate(rows.results) if row]
    own = rows.trace.tidy(index.linearize(rows.row_axes, rows.space.rows))
    reads = survey(rows.trace, [rows.results[k][0] for k in found]).reads
    return found if all(r.address == own for r in reads if r.operand >= len(rows.body.operands)) else []


def _before_folds(rows: Rows) -> list[int]:
    """The numbers of the results of all points that need no fold: the only pass makes them too."""
    if len(rows.folds) > 1:
        return []
    behind = len(rows.body.operands)
    points = [k for k, (_, _, row) in enumerate(rows.results) if not row]
    return [k for k in points if all(r.operand < behind for r in survey(rows.trace, [rows.results[k][0]]).reads)]


def _partials(request: Request, rows: Rows, layout: Layout, p: int, area: _Area, buffer: Callable[[FunctionWriter, int], Memory], chunks: int,
              length: int, pieces: int, early: Sequence[int]) -> Function:  # fmt: skip
    """Level p over one chunk of every row: states [chunk, row], and the results of the numbers `early`."""
    w = FunctionWriter(request, f"_part{p}")
    writer = RowWriter(w, rows, layout, memory_of(w, lambda k: buffer(w, k)), integer_of(request, rows))
    grid, live = place_rows(w, writer, chunks)
    writer.early([(rows.results[k][0], rows.results[k][1], k) for k in early], live)
    integer = writer.integer
    low, high = "0", str(pieces)
    if chunks > 1:
        low = w.value("low", integer, f"chunk * ({integer}){length}")
        high = w.value("high", integer, f"min({low} + {length}, ({integer}){pieces})")
    states = writer.run_pass(p, [], low, high)
    meet(w, layout, states)
    with w.block(f"if ({first_with_row(layout, live)})"):
        kept = writer.sizes[: rows.kept]
        place = rows.trace.tidy(index.linearize(tuple(index.Dim(d) for d in range(len(kept))), kept))
        of_chunk = f" + chunk * {prod(kept)}" if chunks > 1 else ""
        for f, (state, buffers) in enumerate(zip(states, area.partials[p])):
            for part, (name, b) in enumerate(zip(state.names, buffers)):
                writer.store(w.workspace(f"partial{f}_{part}", b.offset, b.type).name + of_chunk, place, name, True)
    return w.function((grid,), (layout.block,), schedule=f"{chunks} chunks a row, {in_words(layout, writer.points)}")


def _folds(request: Request, rows: Rows, p: int, one: Pass, area: _Area, buffer: Callable[[FunctionWriter, int], Memory], chunks: int,
           finished: Sequence[int]) -> Function:  # fmt: skip
    """The partial states of each row folded in the order of the chunks, by a warp where rows are few; `finished`: numbers of results made here."""
    w, count = FunctionWriter(request, f"_fold{p}"), prod(rows.nest.sizes[: rows.kept])
    warp = count * WARP <= request.arch.sms * 1024 and chunks >= WARP
    w.line("const int p = blockIdx.x * 256 + threadIdx.x;")
    w.line(f"const int row = p{f' / {WARP}' if warp else ''};")
    w.line(f"const int lane = {f'p % {WARP}' if warp else '0'};")
    w.line(f"if (row >= {count}) return;")
    s = Arithmetic(w)
    states = []
    for f, (fold, buffers) in enumerate(zip(one.folds, area.partials[p])):
        names = tuple(w.fresh("s") for _ in fold.parts)
        for name, t, v in zip(names, fold.parts, start_of(s, fold)):
            w.line(f"{computed_type(t)} {name} = {v.text};")
        state = State(fold, names)
        states.append(state)
        with w.block(f"for (int c = lane; c < {chunks}; c += {WARP if warp else 1})"):
            other = [s.made(f"{w.workspace(f'partial{f}_{k}', b.offset, b.type).name}[c * {count} + row]", t)
                     for k, (b, t) in enumerate(zip(buffers, fold.parts))]  # fmt: skip
            fold_in(w, state, other)
    if warp:
        w.line("#pragma unroll")
        with w.block(f"for (int offset = {WARP // 2}; offset > 0; offset /= 2)"):
            for state in states:
                other = [s.made(f"__shfl_xor_sync(0xffffffffu, {v.text}, offset)", v.dtype) for v in state.values]
                fold_in(w, state, other)
    with w.block("if (lane == 0)" if warp else ""):
        _store_rows(w, rows, one, states, finished, buffer)
    threads = count * WARP if warp else count
    return w.function((-(-threads // 256),), (256,), schedule=f"{'a warp' if warp else 'a thread'} a row, {chunks} partial states")
