"""Sweeps with operands that are dense along another dim than the results: tiles of these go through shared memory.

A block takes SIDE x SIDE points of the two dims. Neighbouring threads load along the dim in which the operand is dense, and store along the one in
which the results are. A row of the tile is one word longer than what it holds, so that neither meets a bank of shared memory twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

from dslc.ir import index
from dslc.ir.trace import Read, survey

from ..pull import Point
from ..scalars import Val
from ..stage import Function, FunctionWriter, Memory, index_type
from ..types import computed_type, memory_type
from .map import Sweep, delinearized

SIDE = 64
THREADS = 256
LEAST = 16  # points of either dim, below which a tile would be mostly empty
FEW = 1024  # points a multiprocessor, below which caches serve
MOST_SHARED = 40 << 10  # bytes


@dataclass(frozen=True)
class Crossing:
    """`reads` are dense along `dim`, the results along the last dim."""

    dim: int
    reads: tuple[Read, ...]


def crossing_of(sweep: Sweep) -> Crossing | None:
    """The reads that go through shared memory, those of the dim that most are dense along; None where there are none, or little to do."""
    sizes: Sequence[int] = sweep.trace.sizes
    reads = survey(sweep.trace, sweep.roots).reads
    last = len(sizes) - 1
    stored = index.coefficients(sweep.address, len(sizes))
    if last < 1 or sizes[last] < LEAST or stored is None or stored[0][last] != 1:
        return None
    found: dict[int, list[Read]] = {}
    for read in reads:
        affine = index.coefficients(read.address, len(sizes))
        if affine is None or read.tests or read.dtype.bits < 8 or affine[0][last] in (0, 1):
            continue
        for dim in range(last):
            if affine[0][dim] == 1 and sizes[dim] >= LEAST:
                found.setdefault(dim, []).append(read)
    if not found:
        return None
    dim = max(found, key=lambda d: len(found[d]))
    taken: list[Read] = []
    for read in found[dim]:
        if sum(SIDE * _pitch(r) * r.dtype.bytes for r in (*taken, read)) <= MOST_SHARED:
            taken.append(read)
    enough = prod(sizes) >= sweep.request.arch.sms * FEW
    return Crossing(dim, tuple(taken)) if taken and enough else None


def _pitch(read: Read) -> int:
    """Elements from one row of a tile to the next."""
    return SIDE + max(1, 4 // read.dtype.bytes)


def transposed_function(sweep: Sweep, crossing: Crossing, memory: Callable[[FunctionWriter, int], Memory], suffix: str) -> Function:
    """The sweep by tiles; `memory(w, k)` is operand k."""
    request, trace = sweep.request, sweep.trace
    w = FunctionWriter(request, suffix)
    sizes, dim, last = trace.sizes, crossing.dim, len(trace.sizes) - 1
    integer = index_type(prod(sizes), *(t.size for t in (*request.operands, *request.results)))
    others = [k for k in range(last) if k != dim]
    tall, wide = -(-sizes[dim] // SIDE), -(-sizes[last] // SIDE)
    tiles = [w.fresh("tile") for _ in crossing.reads]
    for name, read in zip(tiles, crossing.reads):
        w.line(f"__shared__ {memory_type(read.dtype)} {name}[{SIDE}][{_pitch(read)}];")
    w.line(f"const int first_column = blockIdx.x % {wide}u * {SIDE};")
    w.line(f"const int first_row = blockIdx.x / {wide}u % {tall}u * {SIDE};")
    dims = ["0"] * len(sizes)
    if others:
        w.line(f"const int rest = blockIdx.x / {wide * tall}u;")
        for k, name in zip(others, delinearized(w, "rest", [sizes[k] for k in others])):
            dims[k] = name
    dims[dim], dims[last] = "row", "column"
    with _points(w, sizes[dim], sizes[last], rows_first=True):
        at = Point(w, trace, lambda k: memory(w, k), dims, integer=integer)
        for name, read in zip(tiles, crossing.reads):
            w.line(f"{name}[b][a] = {memory(w, read.operand).name}[{at.index(read.address)}];")
    w.line("__syncthreads();")
    with _points(w, sizes[dim], sizes[last], rows_first=False):
        known = {id(read): Val(w.value("x", computed_type(read.dtype), f"decode({name}[b][a])"), read.dtype)
                 for name, read in zip(tiles, crossing.reads)}  # fmt: skip
        point = Point(w, trace, lambda k: memory(w, k), dims, known=known, integer=integer)
        values = [point.value(root) for root in sweep.roots]
        for k, value in zip(sweep.numbers, values):
            w.line(f"store({w.result(k).name} + {point.index(sweep.address)}, {value.text});")
    blocks = tall * wide * prod(sizes[k] for k in others)
    return w.function((blocks,), (THREADS,), schedule=f"tiles of {SIDE} x {SIDE} points through shared memory, {THREADS} threads a block")


@contextmanager
def _points(w: FunctionWriter, rows: int, columns: int, rows_first: bool) -> Iterator[None]:
    """The loop over a thread's points of the tile, `a` down and `b` across: at `row`, `column`. Neighbouring threads are so in `a`, or in `b`."""
    near, far = ("a", "b") if rows_first else ("b", "a")
    w.line(f"#pragma unroll {8 if rows_first else 4}")
    with w.block(f"for (int k = 0; k < {SIDE * SIDE // THREADS}; ++k)"):
        w.line(f"const int {near} = threadIdx.x % {SIDE}u, {far} = threadIdx.x / {SIDE}u + k * {THREADS // SIDE};")
        w.line("const int row = first_row + a, column = first_column + b;")
        tests = [f"row < {rows}"] * bool(rows % SIDE) + [f"column < {columns}"] * bool(columns % SIDE)
        with w.block(f"if ({' && '.join(tests)})" if tests else ""):
            yield
