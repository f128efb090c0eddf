"""Scatter kernels: every output element has one owner, who folds its updates in their order, so that sums are the same on every run.

Where few points can reach an element, its thread tries them all. Else a block owns some columns of some rows of the output, whose sums it has in
shared memory. It takes the points in rounds: each warp lists those of its share that go to the block's rows, and then each group of threads folds
the listed updates of its rows, warp by warp, which is the order of the points. Several updates are read before the first is folded.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from dslc.core.dtypes import DType
from dslc.ir import index
from dslc.ir.index import Dim
from dslc.ir.ops.reduction import KINDS, identity
from dslc.ir.rows import Unsuited
from dslc.ir.trace import Node, Read, Trace, survey, symbols_of
from dslc.ir.types import type_of

from ..pull import Point, chunked, moves_with
from ..scalars import Val
from ..stage import Function, FunctionWriter, Generated, Request, index_type
from ..types import accumulator, computed_type
from .map import delinearized, load_chunk

THREADS = 256
TRIED = 1 << 26  # points tried for all elements, up to which no list is made
SHARE = 256  # points of a round that a warp looks through and may list
WARPS = THREADS // 32
MOST_SUMS = 32 << 10  # bytes of a block's sums in shared memory
BLOCKS = 4  # of a multiprocessor, below which a block has fewer rows
READ_AHEAD = 32  # elements of updates that a thread reads before it folds them


def generate(request: Request) -> Generated:
    """One function; the kernel's one result is the scatter's."""
    ops = [op for op in request.body.ops if op.operation.name == "nn.scatter"]
    if len(ops) != 1 or request.body.results != list(ops[0].results):
        raise Unsuited("more than one scatter")
    op = ops[0]
    if request.results[0].size == 0:
        return Generated(())
    ids = type_of(op.operands[1]).shape
    points = prod(ids[op.batch :])
    if points <= 32 or request.results[0].size * points <= TRIED:
        return Generated((_tried(request, op, ids),))
    return Generated((_listed(request, op, ids),))


def _point(w: FunctionWriter, op: Any, dims: list[str], integer: str) -> tuple[Point, Trace]:
    u = type_of(op.operands[0])
    trace = Trace(w.request.body, u.shape)
    return Point(w, trace, w.operand, dims, integer=integer), trace


def _integer(request: Request) -> str:
    return index_type(*(t.size for t in (*request.operands, *request.results)))


def _fold(w: FunctionWriter, point: Point, op: Any, value: Val, into: str) -> None:
    """`into` becomes the fold of itself and a value."""
    wide = accumulator(value.dtype)
    made = getattr(point.s, KINDS[op.kind][2])(Val(into, wide), Val(value.text, wide))
    w.line(f"{into} = {made.text};")


def _tried(request: Request, op: Any, ids: tuple[int, ...]) -> Function:
    """A thread an element; it tries every point of its batch."""
    w = FunctionWriter(request)
    integer = _integer(request)
    batch, sizes, result = op.batch, list(op.sizes), request.results[0]
    block = "blockIdx.x" if integer == "int" else f"({integer})blockIdx.x"
    w.line(f"const {integer} p = {block} * {THREADS} + threadIdx.x;")
    w.line(f"if (p >= {result.size}) return;")
    place = delinearized(w, "p", result.shape)
    wide = accumulator(result.dtype)
    start = _point(w, op, [], integer)[0].s.const(identity(op.kind, result.dtype), wide).text
    w.line(f"{computed_type(wide)} y = {start};")
    points = ids[batch:]
    with w.block(f"for (int n = 0; n < {prod(points)}; ++n)"):
        at = delinearized(w, "n", points, stem="n_")
        point, trace = _point(w, op, [*place[:batch], *at, *place[batch + len(sizes) :]], integer)
        axes = tuple(Dim(k) for k in range(len(ids)))
        where = [point.value(trace.at(v, axes)).text for v in list(op.operands)[1:]]
        with w.block("if (" + " && ".join(f"{i} == {p}" for i, p in zip(where, place[batch:])) + ")"):
            node = trace.at(op.operands[0], tuple(Dim(k) for k in range(len(trace.sizes))))
            _fold(w, point, op, point.value(node), "y")
    w.line(f"store({w.result(0).name} + p, y);")
    return w.function((-(-result.size // THREADS),), (THREADS,), schedule=f"a thread an element, which tries {prod(points)} points")


@dataclass(frozen=True)
class _Share:
    """What a block has: `owned` rows of `columns`, `lanes` threads to a row, each with `width` neighbouring columns of it; the updates at a point and
    a column are `node` of `trace`, of which those of a thread read `chunks` at once."""

    op: Any
    ids: tuple[int, ...]
    rows: int
    columns: int
    owned: int
    lanes: int
    width: int
    trace: Trace
    node: Node
    chunks: tuple[Read, ...]

    @property
    def groups(self) -> int:
        return THREADS // self.lanes

    @property
    def parts(self) -> int:
        """Blocks with the same rows."""
        return -(-self.columns // (self.lanes * self.width))

    def sum(self, row: str) -> str:
        """A row's sum at column `j` of a thread; lanes are neighbours, so that none waits for another's bank."""
        return f"sums[({row} * {self.width} + j) * {self.lanes} + lane]"


def _share_of(request: Request, op: Any, ids: tuple[int, ...]) -> _Share:
    result = request.results[0]
    rank = op.batch + len(op.sizes)
    rows, columns = prod(result.shape[:rank]), prod(result.shape[rank:])
    trace = Trace(request.body, (prod(ids), columns))
    places = (*index.delinearize(Dim(0), ids), *index.delinearize(Dim(1), result.shape[rank:]))
    node = trace.at(op.operands[0], tuple(trace.tidy(e) for e in places))
    reads = survey(trace, [node]).reads
    width = min((16 // r.dtype.bytes for r in reads if r.dtype.bits >= 8), default=1)
    width = min(width, 8) if request.result_aligned(0) else 1

    def together(read: Read) -> bool:
        still = not any(moves_with(trace, t.expr, 1) for t in read.tests) and not symbols_of(read.address)
        return still and request.operand_aligned(read.operand) and chunked(read.address, 1, width)

    while width > 1 and (columns % width or not any(map(together, reads))):
        width //= 2
    lanes = 1
    while lanes < 32 and lanes * width < columns:
        lanes *= 2
    bytes_of = 8 if accumulator(result.dtype).bits == 64 else 4
    owned = min(MOST_SUMS // (lanes * width * bytes_of), rows)
    groups, parts = THREADS // lanes, -(-columns // (lanes * width))
    while owned > groups and -(-rows // owned) * parts < request.arch.sms * BLOCKS:
        owned = max(owned // 2, groups)
    return _Share(op, ids, rows, columns, owned, lanes, width, trace, node, tuple(filter(together, reads)) if width > 1 else ())


def _listed(request: Request, op: Any, ids: tuple[int, ...]) -> Function:
    """A block some columns of some rows; its warps list the points that go there."""
    w = FunctionWriter(request)
    integer = _integer(request)
    share = _share_of(request, op, ids)
    lanes, width, owned, columns, result = share.lanes, share.width, share.owned, share.columns, request.results[0]
    wide = accumulator(result.dtype)
    w.line(f"__shared__ {computed_type(wide)} sums[{owned * width * lanes}];")
    w.line(f"__shared__ int listed[{WARPS}][{SHARE}], counts[{WARPS}];")
    w.line("const int warp = threadIdx.x / 32u;")
    w.line("const int group = " + ("threadIdx.x;" if lanes == 1 else f"threadIdx.x / {lanes}u;"))
    w.line("const int lane = " + ("0;" if lanes == 1 else f"threadIdx.x % {lanes}u;"))
    block, part = ("blockIdx.x", "0") if share.parts == 1 else (f"(blockIdx.x / {share.parts}u)", f"blockIdx.x % {share.parts}u")
    w.line(f"const {integer} first_row = ({integer}){block} * {owned};")
    w.line(f"const int column = ({part} * {lanes} + lane) * {width};")
    w.line(f"const bool live = {f'column < {columns}' if columns % (lanes * width) else 'true'};")
    start = _point(w, op, [], integer)[0].s.const(identity(op.kind, result.dtype), wide).text
    own_rows = f"for (int r = group; r < {owned}; r += {share.groups})"
    with w.block(own_rows), w.unrolled("j", width):
        w.line(f"{share.sum('r')} = {start};")
    _goes_here(w, share, integer)
    with w.block(f"for ({integer} start = 0; start < {prod(ids)}; start += {WARPS * SHARE})"):
        _list_points(w, integer)
        with w.block(f"for (int from = 0; from < {WARPS}; ++from)"):
            _fold_list(w, share, wide, integer)
        w.line("__syncthreads();")
    with w.block(own_rows):
        w.line(f"const {integer} row = first_row + r;")
        w.line(f"if (row >= {share.rows} || !live) break;")
        w.line(f"{computed_type(wide)} y[{width}];")
        with w.unrolled("j", width):
            w.line(f"y[j] = {share.sum('r')};")
        w.line(f"store{f'<{width}>' if width > 1 else ''}({w.result(0).name} + row * {columns} + column, y{'' if width > 1 else '[0]'});")
    words = f"{owned} rows by {lanes * width} columns a block, which lists what goes there from {prod(ids)} points"
    return w.function((-(-share.rows // owned) * share.parts,), (THREADS,), schedule=words)


def _goes_here(w: FunctionWriter, share: _Share, integer: str) -> None:
    """A function of a point's number: which of the block's rows it goes to, or -1."""
    op, ids, points = share.op, share.ids, prod(share.ids)
    rank = op.batch + len(op.sizes)
    shape = w.request.results[0].shape
    with w.block(f"const auto goes_here = [&]({integer} n)", end="};"):
        w.line(f"if (n >= {points}) return -1;")
        trace = Trace(w.request.body, (points,))
        at = tuple(trace.tidy(e) for e in index.delinearize(Dim(0), ids))
        point = Point(w, trace, w.operand, ["n"], integer=integer)
        where = [point.value(trace.at(v, at)).text for v in list(op.operands)[1:]]
        inside = " && ".join(f"{i} >= 0 && {i} < {n}" for i, n in zip(where, op.sizes))
        place = [*(point.index(e) for e in at[: op.batch]), *where]
        row = " + ".join(f"({integer}){i} * {prod(shape[k + 1 : rank])}" for k, i in enumerate(place))
        w.line(f"const {integer} row = {row} - first_row;")
        w.line(f"return {inside} && row >= 0 && row < {share.owned} ? (int)row : -1;")


def _list_points(w: FunctionWriter, integer: str) -> None:
    """Each warp lists in order which of its share of a round go to the block's rows, as row * SHARE + number; a round with none is over."""
    w.line(f"const {integer} first = start + warp * {SHARE} + threadIdx.x % 32u;")
    w.line(f"int to[{SHARE // 32}], count = 0;")
    with w.unrolled("k", SHARE // 32):
        w.line("to[k] = goes_here(first + k * 32);")
    with w.unrolled("k", SHARE // 32):
        w.line("const unsigned hits = __ballot_sync(0xffffffffu, to[k] >= 0);")
        w.line("const unsigned before = hits & ((1u << threadIdx.x % 32u) - 1u);")
        w.line(f"if (to[k] >= 0) listed[warp][count + __popc(before)] = to[k] * {SHARE} + k * 32 + (int)(threadIdx.x % 32u);")
        w.line("count += __popc(hits);")
    w.line("if (threadIdx.x % 32u == 0) counts[warp] = count;")
    w.line("if (!__syncthreads_or(count)) continue;")


def _fold_list(w: FunctionWriter, share: _Share, wide: DType, integer: str) -> None:
    """What warp `from` listed, folded into this thread's sums in order; a few updates are read before the first is folded."""
    width, ahead = share.width, max(READ_AHEAD // share.width, 1)
    with w.block(f"for (int e = 0; e < counts[from]; e += {ahead})"):
        w.line(f"{computed_type(wide)} x[{ahead}][{width}];")
        w.line(f"int rows[{ahead}];")
        with w.unrolled("u", ahead):
            w.line("const int entry = e + u < counts[from] ? listed[from][e + u] : -1;")
            w.line(f"rows[u] = entry < 0 || !live || entry / {SHARE} % {share.groups} != group ? -1 : entry / {SHARE};")
            with w.block("if (rows[u] >= 0)"):
                w.line(f"const {integer} m = start + from * {SHARE} + entry % {SHARE};")
                base = Point(w, share.trace, w.operand, ["m", "column"], integer=integer)
                known = {id(r): Val(f"{load_chunk(w, base, w.operand, r, width)}[j]", r.dtype) for r in share.chunks}
                with w.unrolled("j", width):
                    point = Point(w, share.trace, w.operand, ["m", "(column + j)"], known=known, integer=integer)
                    w.line(f"x[u][j] = {point.value(share.node).text};")
        with w.unrolled("u", ahead), w.block("if (rows[u] >= 0)"), w.unrolled("j", width):
            point = Point(w, share.trace, w.operand, ["m", "column"], integer=integer)
            _fold(w, point, share.op, Val("x[u][j]", wide), share.sum("rows[u]"))
