"""Products of one row, or few, with a matrix that lies row by row: every thread takes 16 bytes of neighbouring columns of each row that it reads.

The threads of a block that have the same columns share the rows, and their sums meet by shuffles and in shared memory, in one order. What bounds such
a kernel is how much of the matrix is on its way at once: columns are given to few threads where the matrix is narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from dslc.ir.index import Expr
from dslc.ir.rows import Rows
from dslc.ir.trace import Product, Read, invariant, survey, symbols_of

from ..pull import Point, chunked
from ..scalars import Arithmetic, Val
from ..stage import Function, FunctionWriter, Memory, Request, index_type
from ..types import computed_type
from .map import delinearized, load_chunk

UNROLLED = 8  # rows of the matrix that a thread reads before it waits for the first
SECTOR = 32  # bytes that memory gives at once: neighbouring threads take no less of a row


def width_of(request: Request, rows: Rows, dim: int) -> int:
    """Neighbouring columns that a thread takes: 16 bytes of each matrix; 1 where the kernel is no such product, or no such products."""
    if len(rows.folds) != 1 or not all(isinstance(f.node, Product) for f in rows.folds[0]) or dim != rows.kept - 1:
        return 1
    if not all(row for _, _, row in rows.results):
        return 1
    wide = [[r for r in survey(rows.trace, [f.node]).reads if _wide(request, r, dim, 2)] for f in rows.folds[0]]
    if not all(wide) or any(r.dtype.bits < 16 for reads in wide for r in reads):
        return 1
    width = 16 // min(r.dtype.bytes for reads in wide for r in reads)
    fits = rows.nest.sizes[dim] % width == 0 and all(any(_wide(request, r, dim, width) for r in reads) for reads in wide)
    return width if fits else 1


def _wide(request: Request, read: Read, dim: int, width: int) -> bool:
    """Whether so many neighbouring columns are read by one load."""
    return not read.tests and request.operand_aligned(read.operand) and chunked(read.address, dim, width)


Prepare = Callable[[FunctionWriter, Callable[[int], Memory], Callable[[Expr], str], int], Callable[[int], Memory]]


def columns_function(request: Request, rows: Rows, width: int, memory: Callable[[FunctionWriter], Callable[[int], Memory]],
                     prepare: Prepare | None = None) -> Function:  # fmt: skip
    """The kernel's one function. `prepare(w, memory, index, threads)` writes what a block does first for its row, and gives the memory to read."""
    w = FunctionWriter(request)
    kept, reduced = rows.nest.sizes[: rows.kept], rows.nest.sizes[rows.kept :]
    points, chunks, folds = prod(reduced), kept[-1] // width, rows.folds[0]
    matrix = [r for r in survey(rows.trace, [f.node for f in folds]).reads if _wide(request, r, rows.kept - 1, width)]
    lanes, threads = _shape(request, prod(kept[:-1]), chunks, points, SECTOR // (width * min(r.dtype.bytes for r in matrix)))
    shares, groups = threads // lanes, -(-chunks // lanes)
    integer = index_type(prod(rows.nest.sizes), *(t.size for t in (*request.operands, *request.results)))
    w.line(f"const int lane = threadIdx.x % {lanes}u;")
    w.line(f"const int share = threadIdx.x / {lanes}u;")
    outer = delinearized(w, "blockIdx.x", [*kept[:-1], groups], stem="i")
    group = w.value("group", "int", outer[-1])
    chunk = w.value("chunk", "int", f"min({group} * {lanes} + lane, {chunks - 1})")
    column = w.value("column", "int", f"{chunk} * {width}")
    here = memory(w)
    _ask(w, rows, here, [*outer[:-1], column], [r for r in matrix if not symbols_of(r.address)], shares, points, integer)
    w.ahead_ends()
    if prepare is not None:
        here = prepare(w, here, Point(w, rows.trace, here, [*outer[:-1], column, *["0"] * len(reduced)], integer=integer).index, threads)
    sums = [w.fresh("s") for _ in folds]
    for name, fold in zip(sums, folds):
        w.line(f"{computed_type(fold.parts[0])} {name}[{width}] = {{}};")
    _sums(w, rows, here, [*outer[:-1], column], sums, width, shares, points, integer)
    totals = [_meet(w, computed_type(f.parts[0]), name, width, lanes, threads // 32) for name, f in zip(sums, folds)]
    w.line("__syncthreads();")
    with w.block(f"if (threadIdx.x < {lanes * width} && {group} * {lanes * width} + (int)threadIdx.x < {kept[-1]})"):
        w.line(f"const int mine = {group} * {lanes * width} + threadIdx.x;")
        found = []
        for fold, name in zip(folds, totals):
            total = w.fresh("sum")
            w.line(f"{computed_type(fold.parts[0])} {total} = {name}[threadIdx.x];")
            w.line(f"for (int part = 1; part < {threads // 32}; ++part) {total} = {total} + {name}[part * {lanes * width} + threadIdx.x];")
            found.append(Val(total, fold.dtype))
        dims = [*outer[:-1], "mine", *["0"] * len(reduced)]
        store_results(w, rows, lambda: Point(w, rows.trace, here, dims, lambda node: found[node.key], integer=integer))
    words = f"{lanes} x {width} columns a block, {shares} threads share the {points} rows of each"
    return w.function((prod(kept[:-1]) * groups,), (threads,), schedule=words)


def store_results(w: FunctionWriter, rows: Rows, point_of: Callable[[], Point]) -> None:
    """Stores the results of a row, those that are not written everywhere where their tests hold."""
    point = point_of()
    everywhere = [(point.value(node), address, k) for k, (node, address, _) in enumerate(rows.results) if k not in rows.only]
    for value, address, k in everywhere:
        w.line(f"store({w.result(k).name} + {point.index(address)}, {value.text});")
    for k, tests in rows.only.items():
        node, address, _ = rows.results[k]
        with w.block(f"if ({point_of().all_of(tests)})"):
            inside = point_of()
            w.line(f"store({w.result(k).name} + {inside.index(address)}, {inside.value(node).text});")


def _shape(request: Request, rows: int, chunks: int, points: int, least: int) -> tuple[int, int]:
    """(threads side by side, threads of a block): blocks for all multiprocessors where the matrix is wide enough, else more threads in each."""
    sms = request.arch.sms
    lanes = next((n for n in (16, 8, 4, 2, 1) if n <= max(least, 1) or rows * -(-chunks // n) >= sms), max(least, 1))
    threads = 256
    while threads < 512 and rows * -(-chunks // lanes) * threads < sms * 256 and points * lanes > UNROLLED * threads:
        threads *= 2
    return lanes, threads


def _ask(
    w: FunctionWriter, rows: Rows, memory: Callable[[int], Memory], row: list[str], matrix: Sequence[Read], shares: int, points: int, integer: str
) -> None:
    """Asks for all of the matrix that this thread will read."""
    if not matrix or not w.request.arch.launches_overlap:
        return
    with w.block(f"for (int c = share; c < {points}; c += {shares})"):
        place = delinearized(w, "c", list(rows.nest.sizes[rows.kept :]), stem="r")
        point = Point(w, rows.trace, memory, [*row, *place], integer=integer)
        for read in matrix:
            w.prefetch(f"{memory(read.operand).name} + {point.index(read.address)}")


def _sums(w: FunctionWriter, rows: Rows, memory: Callable[[int], Memory], row: list[str], sums: Sequence[str], width: int, shares: int, points: int,
          integer: str) -> None:  # fmt: skip
    """This thread's sums over its rows of the matrices."""
    reduced = rows.nest.sizes[rows.kept :]
    folds, dim = rows.folds[0], rows.kept - 1
    nodes = [f.node for f in folds]
    turns = -(-points // shares)
    w.line(f"#pragma unroll {max(1, min(UNROLLED // len(folds), turns))}")
    with w.block(f"for (int k = 0; k < {turns}; ++k)"):
        w.line(f"const int c = share + k * {shares};")
        if points % shares:
            w.line(f"if (c >= {points}) break;")
        place = delinearized(w, "c", list(reduced), stem="r") if reduced else []
        base = Point(w, rows.trace, memory, [*row, *place], integer=integer)
        known: dict[int, Val] = {id(n): base.value(n) for n in invariant(rows.trace, nodes, {dim})}
        for read in survey(rows.trace, nodes).reads:
            if id(read) not in known and _wide(w.request, read, dim, width):
                known[id(read)] = Val(f"{load_chunk(w, base, memory, read, width)}[j]", read.dtype)
        with w.unrolled("j", width):
            point = Point(w, rows.trace, memory, [*row[:-1], f"({row[-1]} + j)", *place], known=known, integer=integer)
            s = Arithmetic(w)
            for name, fold in zip(sums, folds):
                x = point.value(fold.node)
                w.line(f"{name}[j] = {s.add(Val(f'{name}[j]', fold.parts[0]), s.cast(x, x.dtype, fold.parts[0])).text};")


def _meet(w: FunctionWriter, kind: str, name: str, width: int, lanes: int, warps: int) -> str:
    """The sums of threads with the same columns: within a warp by shuffles, from each warp in shared memory, where they are behind a barrier."""
    with w.unrolled("j", width):
        offset = lanes
        while offset < 32:
            w.line(f"{name}[j] = {name}[j] + __shfl_xor_sync(0xffffffffu, {name}[j], {offset});")
            offset *= 2
    meeting = w.fresh("meeting")
    w.line(f"__shared__ {kind} {meeting}[{warps * lanes * width}];")
    with w.block(f"if (threadIdx.x % 32 < {lanes})"), w.unrolled("j", width):
        w.line(f"{meeting}[threadIdx.x / 32 * {lanes * width} + lane * {width} + j] = {name}[j];")
    return meeting
