"""Products of few rows with a large matrix that lies along the terms, as a token's logits: warps go from sum to sum, and while they multiply the
terms of one, those of the next are on their way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import prod

from dslc.ir.rows import Rows
from dslc.ir.trace import Product, Read, dims_under, survey, symbols_of

from ..pull import Point
from ..scalars import Arithmetic, Val
from ..stage import Function, FunctionWriter, Memory, Request, index_type
from ..types import computed_type, memory_type
from .columns import CHUNK, Prepare, store_results
from .group import WARP, Layout
from .map import delinearized, load_chunk
from .rows import in_chunks

WARPS = 8  # of a block
SUMS = 8  # of a warp: fewer are not worth staying for
MOST_ON_THE_WAY = 32  # registers of a thread for the next sum's terms
MOST_OWN = 32  # registers of a thread for what all sums are multiplied with
ON_THE_WAY = 72 << 10  # bytes that a multiprocessor must wait for at once to have all that memory gives


@dataclass(frozen=True)
class _Walk:
    """`matrix`: reads that move with the sum, `own`: those that do not; `turns` chunks of each are a lane's, of `chunks`. `order`: of the dims that
    number sums, those last along which the largest matrix does not move, so that neighbouring warps share what it gives them."""

    matrix: list[Read]
    own: list[Read]
    width: int
    chunks: int
    order: list[int]

    @property
    def turns(self) -> int:
        return -(-self.chunks // WARP)

    def blocks(self, sms: int) -> int:
        """Of a multiprocessor."""
        return min(4, -(-ON_THE_WAY // (WARPS * WARP * self.turns * CHUNK * len(self.matrix))))


def _walk_of(request: Request, rows: Rows, layout: Layout) -> _Walk | None:
    """None where the kernel is no such product, or of too few sums, or of too many terms."""
    folds = rows.folds[0] if len(rows.folds) == 1 else []
    if not folds or not all(isinstance(f.node, Product) for f in folds) or not all(row for _, _, row in rows.results):
        return None
    if not layout.across or layout.threads != WARP or layout.width == 1:
        return None
    nodes = [f.node for f in folds]
    reads, under = survey(rows.trace, nodes).reads, dims_under(rows.trace, nodes)
    last = len(rows.nest.sizes) - 1
    if any(r.tests or symbols_of(r.address) or not in_chunks(rows, request, r, last, layout.width) for r in reads):
        return None
    matrix = [r for r in reads if min(under[id(r)]) < rows.kept]
    if not matrix:
        return None
    sizes = [t.size for t in request.operands]
    largest = max(matrix, key=lambda r: sizes[r.operand] if r.operand < len(sizes) else 0)
    order = sorted(range(rows.kept), key=lambda d: d not in under[id(largest)])
    walk = _Walk(matrix, [r for r in reads if r not in matrix], layout.width, prod(rows.nest.sizes[rows.kept :]) // layout.width, order)
    if any(r.dtype.bytes * layout.width != CHUNK for r in matrix) or walk.turns * 4 * len(matrix) > MOST_ON_THE_WAY:
        return None
    sums = prod(rows.nest.sizes[: rows.kept])
    return walk if sums >= SUMS * WARPS * walk.blocks(request.arch.sms) * request.arch.sms else None


def along_function(
    request: Request, rows: Rows, layout: Layout, memory: Callable[[FunctionWriter], Callable[[int], Memory]], prepare: Prepare | None = None
) -> Function | None:
    """The kernel's one function, if it is of this kind. `prepare`: as of `columns_function`."""
    walk = _walk_of(request, rows, layout)
    return _Writer(request, rows, walk, memory).function(prepare) if walk is not None else None


class _Writer:
    def __init__(self, request: Request, rows: Rows, walk: _Walk, memory: Callable[[FunctionWriter], Callable[[int], Memory]]) -> None:
        self.w, self.rows, self.walk = FunctionWriter(request), rows, walk
        self.memory = memory(self.w)
        self.kept, self.reduced = rows.nest.sizes[: rows.kept], rows.nest.sizes[rows.kept :]
        self.count = prod(self.kept)
        self.integer = index_type(prod(rows.nest.sizes), *(t.size for t in (*request.operands, *request.results)))
        self.own: dict[int, str] = {}

    def function(self, prepare: Prepare | None) -> Function:
        w, walk, arch = self.w, self.walk, self.w.request.arch
        per_sm = walk.blocks(arch.sms)
        step = arch.sms * per_sm * WARPS
        w.line(f"const int lane = threadIdx.x % {WARP}u;")
        w.line(f"{self.integer} row = blockIdx.x * {WARPS} + threadIdx.x / {WARP}u;")
        held, following = ([w.fresh(stem) for _ in walk.matrix] for stem in ("held", "next"))
        for name in held:
            w.line(f"Chunk<{CHUNK}>::type {name}[{walk.turns}];")
        steady = arch.launches_overlap and all(w.request.operand_steady(r.operand) for r in walk.matrix)
        if steady:
            self._bring(held, "row", "load_steady")
        make = prepare(w, self.memory, self._point("row").index, WARPS * WARP) if prepare is not None else lambda: self.memory
        w.ahead_ends()
        self.memory = make()
        if not steady:
            self._bring(held, "row", f"load_packed<{walk.width}>")
        self._hold_own()
        with w.block(f"for (; row < {self.count}; row += {step})"):
            for name in following:
                w.line(f"Chunk<{CHUNK}>::type {name}[{walk.turns}];")
            ahead = w.value("ahead", self.integer, f"min(row + {step}, {self.count - 1})")
            self._bring(following, ahead, f"load_packed<{walk.width}>")
            self._sum(held)
            w.line("#pragma unroll")
            with w.block(f"for (int k = 0; k < {walk.turns}; ++k)"):
                for name, other in zip(held, following):
                    w.line(f"{name}[k] = {other}[k];")
        words = f"a warp a sum of {prod(self.reduced)} terms, {self.count // step} sums behind each other, {walk.width} terms at once"
        return w.function((arch.sms * per_sm,), (WARPS * WARP,), blocks_per_sm=per_sm, schedule=words)

    def _point(self, row: str, place: Sequence[str] | None = None, known: dict[int, Val] | None = None, found: Sequence[Val] = ()) -> Point:
        order = self.walk.order
        found_dims = dict(zip(order, delinearized(self.w, row, [self.kept[d] for d in order], stem="i")))
        dims = [found_dims[d] for d in range(len(order))]
        more = place if place is not None else ["0"] * len(self.reduced)
        return Point(self.w, self.rows.trace, self.memory, [*dims, *more], lambda node: found[node.key], known, self.integer)

    def _place(self) -> list[str]:
        """Where chunk c of a sum begins."""
        return delinearized(self.w, "c", [*self.reduced[:-1], self.reduced[-1] // self.walk.width], self.walk.width, "r")

    def _bring(self, to: Sequence[str], row: str, load: str) -> None:
        """Loads a lane's chunks of the matrices for a sum."""
        w, walk = self.w, self.walk
        w.line("#pragma unroll")
        with w.block(f"for (int k = 0; k < {walk.turns}; ++k)"):
            w.line(f"const int c = lane + k * {WARP};")
            with w.block(f"if (c < {walk.chunks})") if walk.chunks % WARP else nullcontext():
                point = self._point(row, self._place())
                for name, read in zip(to, walk.matrix):
                    w.line(f"{name}[k] = {load}({self.memory(read.operand).name} + {point.index(read.address)});")

    def _hold_own(self) -> None:
        """Loads what all sums are multiplied with, if it does not take too many registers."""
        w, walk = self.w, self.walk
        if walk.turns * walk.width * len(walk.own) > MOST_OWN:
            return
        for read in walk.own:
            self.own[id(read)] = w.fresh("own")
            w.line(f"{computed_type(read.dtype)} {self.own[id(read)]}[{walk.turns}][{walk.width}];")
        w.line("#pragma unroll")
        with w.block(f"for (int k = 0; k < {walk.turns}; ++k)"):
            w.line(f"const int c = lane + k * {WARP};")
            with w.block(f"if (c < {walk.chunks})") if walk.chunks % WARP else nullcontext():
                point = self._point("row", self._place())
                for read in walk.own:
                    source = f"{self.memory(read.operand).name} + {point.index(read.address)}"
                    w.line(f"load<{walk.width}>({source}, {self.own[id(read)]}[k]);")

    def _sum(self, held: Sequence[str]) -> None:
        """The sums of `row`, and what becomes of them."""
        w, walk, folds = self.w, self.walk, self.rows.folds[0]
        sums = [w.fresh("s") for _ in folds]
        for name, fold in zip(sums, folds):
            w.line(f"{computed_type(fold.parts[0])} {name} = 0;")
        w.line("#pragma unroll")
        with w.block(f"for (int k = 0; k < {walk.turns}; ++k)"):
            w.line(f"const int c = lane + k * {WARP};")
            with w.block(f"if (c < {walk.chunks})") if walk.chunks % WARP else nullcontext():
                place, known = self._place(), {}
                base = self._point("row", place)
                for name, read in zip(held, walk.matrix):
                    x = w.fresh("x")
                    w.line(f"{computed_type(read.dtype)} {x}[{walk.width}];")
                    w.line(f"unpack<{memory_type(read.dtype)}>({name}[k], {x});")
                    known[id(read)] = Val(f"{x}[j]", read.dtype)
                for read in walk.own:
                    mine = self.own.get(id(read))
                    x = f"{mine}[k]" if mine is not None else load_chunk(w, base, self.memory, read, walk.width)
                    known[id(read)] = Val(f"{x}[j]", read.dtype)
                with w.unrolled("j", walk.width):
                    point = self._point("row", [*place[:-1], f"({place[-1]} + j)"], known)
                    s = Arithmetic(w)
                    for name, fold in zip(sums, folds):
                        v = point.value(fold.node)
                        w.line(f"{name} = {s.add(Val(name, fold.parts[0]), s.cast(v, v.dtype, fold.parts[0])).text};")
        w.line("#pragma unroll")
        with w.block(f"for (int offset = {WARP // 2}; offset >= 1; offset /= 2)"):
            for name in sums:
                w.line(f"{name} = {name} + __shfl_xor_sync(0xffffffffu, {name}, offset);")
        with w.block("if (lane == 0)"):
            found = [Val(name, fold.dtype) for name, fold in zip(sums, folds)]
            store_results(w, self.rows, lambda: self._point("row", found=found))
