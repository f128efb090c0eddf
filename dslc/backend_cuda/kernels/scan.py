"""Cumulative kernels: a running fold along one axis, with pointwise work before it. Sums and products of float32 run in float64.

A thread takes a line where neighbouring lines lie beside each other, or lines are short; else a block does, 256 places at a time: a scan within each
warp, the warps' totals in order, and the total of the places before. The order of a sum follows from the shape alone.
"""

from __future__ import annotations

from dslc.core.dtypes import FLOAT64, DType
from dslc.ir.ops.reduction import KINDS, identity

from ..scalars import Val
from ..stage import Function, FunctionWriter, Generated, Request
from ..types import accumulator, computed_type
from .lines import Lines

THREADS, WARP = 256, 32


def generate(request: Request) -> Generated:
    """One function; the kernel's one result is the running fold."""
    lines = Lines(request, "nn.cumulative")
    if request.results[0].size == 0:
        return Generated(())
    dense = lines.behind == 1 and lines.length > WARP
    return Generated((_by_block(lines) if dense else _by_thread(lines),))


def _kept(lines: Lines) -> DType:
    """The type in which the fold runs."""
    dtype = lines.nodes[0].dtype
    return FLOAT64 if dtype.is_float and lines.op.kind in ("sum", "prod") else accumulator(dtype)


def _combined(lines: Lines, w: FunctionWriter, a: str, b: str) -> str:
    """The text of the fold of two values."""
    kept = _kept(lines)
    return getattr(lines.point(w, ("0", "0"), "0").s, KINDS[lines.op.kind][2])(Val(a, kept), Val(b, kept)).text


def _by_thread(lines: Lines) -> Function:
    w, op, kept = FunctionWriter(lines.request), lines.op, _kept(lines)
    w.line(f"const {lines.integer} line = ({lines.integer})blockIdx.x * {THREADS} + threadIdx.x;")
    w.line(f"if (line >= {lines.count}) return;")
    place = lines.place(w, "line")
    start = lines.point(w, place, "0").s.const(identity(op.kind, lines.nodes[0].dtype), kept).text
    w.line(f"{computed_type(kept)} total = {start};")
    with w.block(f"for (int t = 0; t < {lines.length}; ++t)"):
        at = w.value("at", "int", f"{lines.length - 1} - t") if op.reverse else "t"
        point = lines.point(w, place, at)
        x = point.s.cast(point.value(lines.nodes[0]), lines.nodes[0].dtype, kept)
        w.line(f"const {computed_type(kept)} after = {_combined(lines, w, 'total', x.text)};")
        lines.store(w, point, 0, point.s.cast(Val("total" if op.exclusive else "after", kept), kept, lines.request.results[0].dtype).text)
        w.line("total = after;")
    return w.function((-(-lines.count // THREADS),), (THREADS,), schedule=f"a thread a line of {lines.length}")


def _by_block(lines: Lines) -> Function:
    w, op, kept = FunctionWriter(lines.request), lines.op, _kept(lines)
    kind = computed_type(kept)
    w.line(f"__shared__ {kind} totals[{THREADS // WARP}];")
    w.line(f"const int lane = threadIdx.x % {WARP}u;")
    w.line(f"const int warp = threadIdx.x / {WARP}u;")
    w.line(f"const {lines.integer} line = blockIdx.x;")
    place = lines.place(w, "line")
    start = lines.point(w, place, "0").s.const(identity(op.kind, lines.nodes[0].dtype), kept).text
    w.line(f"{kind} carried = {start};")
    with w.block(f"for (int base = 0; base < {lines.length}; base += {THREADS})"):
        w.line("const int t = base + threadIdx.x;")
        at = w.value("at", "int", f"{lines.length - 1} - t") if op.reverse else "t"
        w.line(f"{kind} running = {start};")
        with w.block(f"if (t < {lines.length})"):
            point = lines.point(w, place, at)
            w.line(f"running = {point.s.cast(point.value(lines.nodes[0]), lines.nodes[0].dtype, kept).text};")
        w.line("#pragma unroll")
        with w.block(f"for (int offset = 1; offset < {WARP}; offset *= 2)"):
            w.line(f"const {kind} other = __shfl_up_sync(0xffffffffu, running, offset);")
            with w.block("if (lane >= offset)"):
                w.line(f"running = {_combined(lines, w, 'other', 'running')};")
        w.line(f"if (lane == {WARP - 1}) totals[warp] = running;")
        w.line("__syncthreads();")
        w.line(f"{kind} before = carried;")
        with w.unrolled("k", THREADS // WARP):
            w.line("if (k == warp) before = carried;")
            w.line(f"carried = {_combined(lines, w, 'carried', 'totals[k]')};")
        if op.exclusive:
            w.line(f"const {kind} left = __shfl_up_sync(0xffffffffu, running, 1);")
            w.line(f"{kind} found = before;")
            with w.block("if (lane > 0)"):
                w.line(f"found = {_combined(lines, w, 'before', 'left')};")
        else:
            w.line(f"const {kind} found = {_combined(lines, w, 'before', 'running')};")
        with w.block(f"if (t < {lines.length})"):
            point = lines.point(w, place, at)
            lines.store(w, point, 0, point.s.cast(Val("found", kept), kept, lines.request.results[0].dtype).text)
        w.line("__syncthreads();")
    return w.function((lines.count,), (THREADS,), schedule=f"a block a line of {lines.length}, {THREADS} places at a time")
