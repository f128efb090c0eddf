"""Scatter kernels: every output element has one owner, who folds its updates in their order, so that sums are the same on every run.

Where few points can reach an element, its thread tries them all. Else a block owns some rows of the output: its threads look through all points,
list those that go to its rows in order, and then each thread folds the listed updates into its elements.
"""

from __future__ import annotations

from math import prod
from typing import Any

from dslc.ir import index
from dslc.ir.index import Dim
from dslc.ir.ops.reduction import KINDS, identity
from dslc.ir.rows import Unsuited
from dslc.ir.trace import Trace
from dslc.ir.types import type_of

from ..pull import Point
from ..scalars import Val
from ..stage import Function, FunctionWriter, Generated, Request, index_type
from ..types import accumulator, computed_type
from .map import delinearized

THREADS = 256
TRIED = 1 << 26  # points tried for all elements, up to which no list is made
ROUNDS = 8  # of the threads over the points, after which a block in which nothing was found goes on
LISTED = 1024  # points that a block lists before it folds them


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


def _listed(request: Request, op: Any, ids: tuple[int, ...]) -> Function:
    """A block some rows; its threads list the points that go there."""
    w = FunctionWriter(request)
    integer = _integer(request)
    batch, sizes, result = op.batch, list(op.sizes), request.results[0]
    rank = batch + len(sizes)
    rows, columns, points = prod(result.shape[:rank]), prod(result.shape[rank:]), prod(ids)
    owned = max(1, THREADS // columns)
    each = -(-columns // THREADS) if owned == 1 else 1
    wide = accumulator(result.dtype)
    w.line(f"__shared__ int listed[{LISTED}], counts[{THREADS // 32}];")
    if owned > 1:
        w.line(f"__shared__ int goes_to[{LISTED}];")
    w.line(f"const {integer} first_row = ({integer})blockIdx.x * {owned};")
    w.line("const int warp = threadIdx.x / 32u;")
    w.line("const int lane = threadIdx.x % 32u;")
    mine = "0" if owned == 1 else f"(int)(threadIdx.x / {columns}u)"
    w.line(f"const int my_row = {mine};")
    base = _point(w, op, [], integer)[0]
    start = base.s.const(identity(op.kind, result.dtype), wide).text
    w.line(f"{computed_type(wide)} y[{each}];")
    with w.unrolled("k", each):
        w.line(f"y[k] = {start};")
    w.line("int count = 0;")
    _goes_here(w, op, ids, owned, integer)
    with w.block("const auto fold_list = [&]()", end="};"):
        _fold_list(w, op, ids, columns, owned, each, integer)
        w.line("__syncthreads();")
        w.line("count = 0;")
    _list_points(w, points, owned, integer)
    w.line("fold_list();")
    with w.unrolled("k", each):
        column = f"threadIdx.x % {columns}u" if owned > 1 else f"threadIdx.x + k * {THREADS}"
        w.line(f"const {integer} row = first_row + my_row;")
        w.line(f"const {integer} column = {column};")
        bounds = f"row < {rows} && my_row < {owned}" if owned > 1 else f"column < {columns}"
        w.line(f"if ({bounds}) store({w.result(0).name} + row * {columns} + column, y[k]);")
    return w.function((-(-rows // owned),), (THREADS,), schedule=f"{owned} rows a block, which lists what goes there from {points} points")


def _goes_here(w: FunctionWriter, op: Any, ids: tuple[int, ...], owned: int, integer: str) -> None:
    """A function of a point's number: which of the block's rows it goes to, or -1."""
    batch, sizes, points = op.batch, list(op.sizes), prod(ids)
    rank = batch + len(sizes)
    shape = w.request.results[0].shape
    with w.block(f"const auto goes_here = [&]({integer} n)", end="};"):
        w.line(f"if (n >= {points}) return -1;")
        trace = Trace(w.request.body, (points,))
        at = tuple(trace.tidy(e) for e in index.delinearize(Dim(0), ids))
        point = Point(w, trace, w.operand, ["n"], integer=integer)
        where = [point.value(trace.at(v, at)).text for v in list(op.operands)[1:]]
        if rank == 1 and owned == 1:
            w.line(f"return {where[0]} == first_row ? 0 : -1;")
        else:
            inside = " && ".join(f"{i} >= 0 && {i} < {n}" for i, n in zip(where, sizes))
            place = [*(point.index(e) for e in at[:batch]), *where]
            row = " + ".join(f"({integer}){i} * {prod(shape[k + 1 : rank])}" for k, i in enumerate(place))
            w.line(f"const {integer} row = {row} - first_row;")
            w.line(f"return {inside} && row >= 0 && row < {owned} ? (int)row : -1;")


def _list_points(w: FunctionWriter, points: int, owned: int, integer: str) -> None:
    """A loop over all points that lists in order those that go to the block's rows, and folds the list whenever another turn may not fit."""
    with w.block(f"for ({integer} start = 0; start < {points}; start += {THREADS * ROUNDS})"):
        w.line("bool any = false;")
        with w.unrolled("j", ROUNDS):
            w.line(f"any |= goes_here(start + j * {THREADS} + threadIdx.x) >= 0;")
        w.line("if (!__syncthreads_or(any)) continue;")
        with w.block(f"for ({integer} base = start; base < start + {THREADS * ROUNDS}; base += {THREADS})"):
            w.line(f"const {integer} n = base + threadIdx.x;")
            w.line("const int to = goes_here(n);")
            w.line("const unsigned hits = __ballot_sync(0xffffffffu, to >= 0);")
            w.line("if (lane == 0) counts[warp] = __popc(hits);")
            w.line("__syncthreads();")
            w.line("int place = count;")
            w.line(f"for (int k = 0; k < {THREADS // 32}; ++k) {{ if (k < warp) place += counts[k]; count += counts[k]; }}")
            with w.block("if (to >= 0)"):
                w.line("place += __popc(hits & ((1u << lane) - 1u));")
                w.line("listed[place] = (int)n;")
                if owned > 1:
                    w.line("goes_to[place] = to;")
            w.line("__syncthreads();")
            w.line(f"if (count > {LISTED - THREADS}) fold_list();")


def _fold_list(w: FunctionWriter, op: Any, ids: tuple[int, ...], columns: int, owned: int, each: int, integer: str) -> None:
    """The listed updates folded into this thread's elements, in order."""
    trailing = type_of(op.operands[0]).shape[len(ids) :]
    with w.block("for (int e = 0; e < count; ++e)"):
        if owned > 1:
            w.line("if (goes_to[e] != my_row) continue;")
        w.line(f"const {integer} m = listed[e];")
        at = delinearized(w, "m", ids, stem="m_")
        with w.unrolled("k", each):
            w.line(f"const int column = {f'threadIdx.x % {columns}u' if owned > 1 else f'threadIdx.x + k * {THREADS}'};")
            with w.block(f"if (column < {columns})"):
                point, trace = _point(w, op, [*at, *delinearized(w, "column", trailing, stem="w_")], integer)
                node = trace.at(op.operands[0], tuple(Dim(k) for k in range(len(trace.sizes))))
                _fold(w, point, op, point.value(node), "y[k]")
