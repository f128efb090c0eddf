"""Products of one row, or few, with a matrix that lies row by row: every thread takes 16 bytes of neighbouring columns of each row that it reads.

The threads of a block that have the same columns share the rows, and their sums meet by shuffles and in shared memory, in one order. What bounds such
a kernel is how much of the matrix is on its way at once: columns are given to few threads where the matrix is narrow. Where launches overlap, what a
thread reads of a matrix that no launch writes is in its registers before the launches before have ended: what is left to do behind them is short.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

from dslc.ir.index import Expr
from dslc.ir.rows import Rows
from dslc.ir.trace import Product, Read, invariant, survey, symbols_of

from ..pull import Point, chunked
from ..scalars import Arithmetic, Val
from ..stage import Function, FunctionWriter, Memory, Request, index_type
from ..types import computed_type, memory_type
from .map import delinearized, load_chunk

UNROLLED = 8  # rows of the matrix that a thread reads before it waits for the first
SECTOR = 32  # bytes that memory gives at once: neighbouring threads take no less of a row
MOST_HELD = 96, 64  # registers of a thread for what it loads ahead: where a multiprocessor has one block of the launch, and where it has several
LEAST_FREE = 48  # registers of a thread for all else
CHUNK = 16  # bytes of a load


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


Make = Callable[[], Callable[[int], Memory]]
Prepare = Callable[[FunctionWriter, Callable[[int], Memory], Callable[[Expr], str], int], Make]


@dataclass(frozen=True)
class _Share:
    """The rows of the matrices that a thread takes: `points` among `shares` threads, at the columns that begin at `row`."""

    w: FunctionWriter
    rows: Rows
    row: list[str]
    width: int
    shares: int
    points: int
    integer: str

    @property
    def turns(self) -> int:
        return -(-self.points // self.shares)

    def place(self) -> list[str]:
        """Where row c is among the terms."""
        reduced = self.rows.nest.sizes[self.rows.kept :]
        return delinearized(self.w, "c", list(reduced), stem="r") if reduced else []

    def point(self, memory: Callable[[int], Memory], place: list[str]) -> Point:
        return Point(self.w, self.rows.trace, memory, [*self.row, *place], integer=self.integer)

    @contextmanager
    def each(self, first: int, last: int) -> Iterator[None]:
        """The rows c of turns k."""
        with self.w.block(f"for (int k = {first}; k < {last}; ++k)"):
            self.w.line(f"const int c = share + k * {self.shares};")
            if self.points % self.shares and last == self.turns:
                self.w.line(f"if (c >= {self.points}) break;")
            yield


@dataclass(frozen=True)
class _Ahead:
    """The rows of the first `turns` turns as a thread has loaded them ahead: arrays of chunks, by the read."""

    arrays: dict[int, str]
    turns: int


def columns_function(request: Request, rows: Rows, width: int, memory: Callable[[FunctionWriter], Callable[[int], Memory]],
                     prepare: Prepare | None = None) -> Function:  # fmt: skip
    """The kernel's one function. `prepare(w, memory, index, threads)` writes what a block does ahead for its row; what it gives writes what it does
    first, and gives the memory to read."""
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
    blocks = prod(kept[:-1]) * groups
    share = _Share(w, rows, [*outer[:-1], column], width, shares, points, integer)
    ahead = _ask(share, here, [r for r in matrix if not symbols_of(r.address)], _most_held(request, blocks, threads))
    place = Point(w, rows.trace, here, [*outer[:-1], column, *["0"] * len(reduced)], integer=integer)
    make = prepare(w, here, place.index, threads) if prepare is not None else lambda: here
    w.ahead_ends()
    inside = f"threadIdx.x < {lanes * width} && mine < {kept[-1]}"
    w.line(f"const int mine = {group} * {lanes * width} + threadIdx.x;")
    dims = [*outer[:-1], "mine", *["0"] * len(reduced)]
    known = _early(w, rows, Point(w, rows.trace, here, dims, integer=integer), inside)
    here = make()
    sums = [w.fresh("s") for _ in folds]
    for name, fold in zip(sums, folds):
        w.line(f"{computed_type(fold.parts[0])} {name}[{width}] = {{}};")
    _sums(share, here, sums, ahead)
    totals = [_meet(w, computed_type(f.parts[0]), name, width, lanes, threads // 32) for name, f in zip(sums, folds)]
    w.line("__syncthreads();")
    with w.block(f"if ({inside})"):
        found = []
        for fold, name in zip(folds, totals):
            total = w.fresh("sum")
            w.line(f"{computed_type(fold.parts[0])} {total} = {name}[threadIdx.x];")
            w.line(f"for (int part = 1; part < {threads // 32}; ++part) {total} = {total} + {name}[part * {lanes * width} + threadIdx.x];")
            found.append(Val(total, fold.dtype))
        store_results(w, rows, lambda: Point(w, rows.trace, here, dims, lambda node: found[node.key], known, integer))
    words = f"{lanes} x {width} columns a block, {shares} threads share the {points} rows of each"
    return w.function((blocks,), (threads,), schedule=words)


def _early(w: FunctionWriter, rows: Rows, point: Point, inside: str) -> dict[int, Val]:
    """Reads what the results are made of besides the sums, so that it is there when they are."""
    nodes = [node for k, (node, _, _) in enumerate(rows.results) if k not in rows.only]
    reads = [r for r in survey(rows.trace, nodes).reads if not r.tests and not symbols_of(r.address) and r.operand < len(w.request.operands)]
    known = {id(r): Val(w.fresh("early"), r.dtype) for r in reads}
    for read in reads:
        w.line(f"{computed_type(read.dtype)} {known[id(read)].text} = {{}};")
    if reads:
        with w.block(f"if ({inside})"):
            for read in reads:
                w.line(f"{known[id(read)].text} = {point.value(read).text};")
    return known


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


def _ask(share: _Share, memory: Callable[[int], Memory], matrix: Sequence[Read], most: int) -> _Ahead:
    """Asks for all of the matrices that this thread will read: what is steady comes to `most` registers, what does not fit to the second cache."""
    w = share.w
    if not w.request.arch.launches_overlap:
        return _Ahead({}, 0)
    steady = [r for r in matrix if w.request.operand_steady(r.operand) and share.width * r.dtype.bytes == CHUNK]
    ahead = _Ahead({id(r): w.fresh("held") for r in steady}, min(share.turns, most * 4 // CHUNK // len(steady)) if steady else 0)
    if ahead.turns:
        for name in ahead.arrays.values():
            w.line(f"Chunk<{CHUNK}>::type {name}[{ahead.turns}];")
        w.line("#pragma unroll")
        with share.each(0, ahead.turns):
            point = share.point(memory, share.place())
            for read in steady:
                w.line(f"{ahead.arrays[id(read)]}[k] = load_steady({memory(read.operand).name} + {point.index(read.address)});")
    for reads, first in ((steady, ahead.turns), ([r for r in matrix if r not in steady], 0)):
        if reads and first < share.turns:
            with share.each(first, share.turns):
                point = share.point(memory, share.place())
                for read in reads:
                    w.prefetch(f"{memory(read.operand).name} + {point.index(read.address)}")
    return ahead


def _sums(share: _Share, memory: Callable[[int], Memory], sums: Sequence[str], ahead: _Ahead) -> None:
    """This thread's sums over its rows of the matrices: of those that it has loaded ahead, then of the others."""
    if ahead.turns:
        share.w.line("#pragma unroll")
        with share.each(0, ahead.turns):
            _add(share, memory, sums, ahead.arrays)
    if ahead.turns < share.turns:
        share.w.line(f"#pragma unroll {max(1, min(UNROLLED // len(sums), share.turns - ahead.turns))}")
        with share.each(ahead.turns, share.turns):
            _add(share, memory, sums, {})


def _add(share: _Share, memory: Callable[[int], Memory], sums: Sequence[str], there: Mapping[int, str]) -> None:
    """Adds the products of row c; `there`: arrays of chunks that hold some of what is read."""
    w, rows, width = share.w, share.rows, share.width
    dim, folds = rows.kept - 1, rows.folds[0]
    nodes = [f.node for f in folds]
    place = share.place()
    base = share.point(memory, place)
    known: dict[int, Val] = {id(n): base.value(n) for n in invariant(rows.trace, nodes, {dim})}
    for read in survey(rows.trace, nodes).reads:
        if id(read) in there:
            name = w.fresh("x")
            w.line(f"{computed_type(read.dtype)} {name}[{width}];")
            w.line(f"unpack<{memory_type(read.dtype)}>({there[id(read)]}[k], {name});")
            known[id(read)] = Val(f"{name}[j]", read.dtype)
        elif id(read) not in known and _wide(w.request, read, dim, width):
            known[id(read)] = Val(f"{load_chunk(w, base, memory, read, width)}[j]", read.dtype)
    with w.unrolled("j", width):
        point = Point(w, rows.trace, memory, [*share.row[:-1], f"({share.row[-1]} + j)", *place], known=known, integer=share.integer)
        s = Arithmetic(w)
        for name, fold in zip(sums, folds):
            x = point.value(fold.node)
            w.line(f"{name}[j] = {s.add(Val(f'{name}[j]', fold.parts[0]), s.cast(x, x.dtype, fold.parts[0])).text};")


def _most_held(request: Request, blocks: int, threads: int) -> int:
    """Registers of a thread for what it loads ahead."""
    alone, several = MOST_HELD
    return min(alone if blocks <= request.arch.sms else several, request.arch.registers // threads - LEAST_FREE)


def _meet(w: FunctionWriter, kind: str, name: str, width: int, lanes: int, warps: int) -> str:
    """The sums of threads with the same columns: within a warp by shuffles, from each warp in shared memory, where they are behind a barrier. Two
    threads that meet share out their columns as long as they have several: half the shuffles, and the same bits."""
    offset, left, places = lanes, width, []
    while offset < 32:
        if left > 1:
            left //= 2
            upper = w.value("upper", "bool", f"threadIdx.x / {offset}u % 2u")
            places.append(f"{upper} * {left}")
            with w.unrolled("j", left):
                w.line(f"const {kind} own = {upper} ? {name}[j + {left}] : {name}[j], theirs = {upper} ? {name}[j] : {name}[j + {left}];")
                w.line(f"{name}[j] = own + __shfl_xor_sync(0xffffffffu, theirs, {offset});")
        else:
            w.line(f"{name}[0] = {name}[0] + __shfl_xor_sync(0xffffffffu, {name}[0], {offset});")
        offset *= 2
    meeting = w.fresh("meeting")
    w.line(f"__shared__ {kind} {meeting}[{warps * lanes * width}];")
    with w.block(f"if (threadIdx.x % 32 < {lanes * width // left})"), w.unrolled("j", left):
        w.line(f"{meeting}[{' + '.join([f'threadIdx.x / 32 * {lanes * width} + lane * {width}', *places, 'j'])}] = {name}[j];")
    return meeting
