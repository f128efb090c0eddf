"""Products of one row, or few, with a matrix that lies row by row: every thread takes 16 bytes of neighbouring columns of each row that it reads.

The threads of a block that have the same columns share the rows, and their sums meet by shuffles and in shared memory, in one order. What bounds such
a kernel is how much of the matrix is on its way at once: columns are given to few threads where the matrix is narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

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
    """Neighbouring columns that a thread takes: 16 bytes of the matrix; 1 where the kernel is no such product."""
    if len(rows.folds) != 1 or len(rows.folds[0]) != 1 or not isinstance(rows.folds[0][0].node, Product) or dim != rows.kept - 1:
        return 1
    if not all(row for _, _, row in rows.results):
        return 1
    reads = survey(rows.trace, [rows.folds[0][0].node]).reads
    wide = [r for r in reads if _wide(request, r, dim, 2)]
    if not wide or any(r.dtype.bits < 16 for r in wide):
        return 1
    width = 16 // min(r.dtype.bytes for r in wide)
    fits = rows.nest.sizes[dim] % width == 0 and any(_wide(request, r, dim, width) for r in wide)
    return width if fits else 1


def _wide(request: Request, read: Read, dim: int, width: int) -> bool:
    """Whether so many neighbouring columns are read by one load."""
    return not read.tests and request.operand_aligned(read.operand) and chunked(read.address, dim, width)


def columns_function(request: Request, rows: Rows, width: int, memory: Callable[[FunctionWriter], Callable[[int], Memory]]) -> Function:
    """The kernel's one function."""
    w = FunctionWriter(request)
    kept, reduced = rows.nest.sizes[: rows.kept], rows.nest.sizes[rows.kept :]
    points, chunks = prod(reduced), kept[-1] // width
    fold = rows.folds[0][0]
    matrix = [r for r in survey(rows.trace, [fold.node]).reads if _wide(request, r, rows.kept - 1, width)]
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
    wide = fold.parts[0]
    w.line(f"{computed_type(wide)} s[{width}] = {{}};")
    _sums(w, rows, here, [*outer[:-1], column], width, shares, points, integer)
    _meet(w, computed_type(wide), width, lanes, threads // 32)
    with w.block(f"if (threadIdx.x < {lanes * width} && {group} * {lanes * width} + (int)threadIdx.x < {kept[-1]})"):
        w.line(f"const int mine = {group} * {lanes * width} + threadIdx.x;")
        w.line(f"{computed_type(wide)} sum = meeting[threadIdx.x];")
        w.line(f"for (int part = 1; part < {threads // 32}; ++part) sum = sum + meeting[part * {lanes * width} + threadIdx.x];")
        dims = [*outer[:-1], "mine", *["0"] * len(reduced)]
        point = Point(w, rows.trace, here, dims, lambda node: Val("sum", fold.dtype), integer=integer)
        values = [(point.value(node), address, k) for k, (node, address, _) in enumerate(rows.results)]
        for value, address, k in values:
            w.line(f"store({w.result(k).name} + {point.index(address)}, {value.text});")
    words = f"{lanes} x {width} columns a block, {shares} threads share the {points} rows of each"
    return w.function((prod(kept[:-1]) * groups,), (threads,), schedule=words)


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


def _sums(w: FunctionWriter, rows: Rows, memory: Callable[[int], Memory], row: list[str], width: int, shares: int, points: int, integer: str) -> None:
    """This thread's sums over its rows of the matrix."""
    reduced = rows.nest.sizes[rows.kept :]
    fold, dim = rows.folds[0][0], rows.kept - 1
    turns = -(-points // shares)
    w.line(f"#pragma unroll {min(UNROLLED, turns)}")
    with w.block(f"for (int k = 0; k < {turns}; ++k)"):
        w.line(f"const int c = share + k * {shares};")
        if points % shares:
            w.line(f"if (c >= {points}) break;")
        place = delinearized(w, "c", list(reduced), stem="r") if reduced else []
        base = Point(w, rows.trace, memory, [*row, *place], integer=integer)
        known: dict[int, Val] = {id(n): base.value(n) for n in invariant(rows.trace, [fold.node], {dim})}
        for read in survey(rows.trace, [fold.node]).reads:
            if id(read) not in known and _wide(w.request, read, dim, width):
                known[id(read)] = Val(f"{load_chunk(w, base, memory, read, width)}[j]", read.dtype)
        with w.unrolled("j", width):
            point = Point(w, rows.trace, memory, [*row[:-1], f"({row[-1]} + j)", *place], known=known, integer=integer)
            s = Arithmetic(w)
            x = point.value(fold.node)
            w.line(f"s[j] = {s.add(Val('s[j]', fold.parts[0]), s.cast(x, x.dtype, fold.parts[0])).text};")


def _meet(w: FunctionWriter, kind: str, width: int, lanes: int, warps: int) -> None:
    """The sums of threads with the same columns: within a warp by shuffles, from each warp in shared memory."""
    with w.unrolled("j", width):
        offset = lanes
        while offset < 32:
            w.line(f"s[j] = s[j] + __shfl_xor_sync(0xffffffffu, s[j], {offset});")
            offset *= 2
    w.line(f"__shared__ {kind} meeting[{warps * lanes * width}];")
    with w.block(f"if (threadIdx.x % 32 < {lanes})"), w.unrolled("j", width):
        w.line(f"meeting[threadIdx.x / 32 * {lanes * width} + lane * {width} + j] = s[j];")
    w.line("__syncthreads();")
