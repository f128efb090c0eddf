"""What a contraction multiplies: how each side's values are read, and values of any trace in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from dslc.core.dtypes import FLOAT32, TF32, DType
from dslc.ir.contractions import BATCH, COLUMNS, ROWS, TERMS
from dslc.ir.trace import Node, Read, dims_under, factor_of, survey, symbols_of, unrounded

from ..gemm_schedule import moving_cycles
from ..pull import Point, chunked, steady
from ..scalars import Val
from ..stage import Function, FunctionWriter
from ..tensor_views import Axis, View
from ..types import computed_type, memory_type
from .epilogue import Epilogue
from .map import load_chunk

THREADS = 256
PACKED = 8  # elements that a thread packs
SIDE = 64  # of what a block turns at once


@dataclass(frozen=True)
class Operand:
    """One side of the product. `own`: ROWS or COLUMNS; `along`: the dim along which its tiles are dense (`own` or TERMS); `width`: elements that can
    be copied at once as they lie in memory, 0 where they must be computed or converted."""

    node: Node
    own: int
    along: int
    width: int

    def dims(self, x: str = "x", term: str = "term") -> list[str]:
        """The names of the four dims at an element."""
        out = ["batch", "0", "0", term]
        out[self.own] = x
        return out


def operand_of(epilogue: Epilogue, side: int, element: DType) -> Operand:
    """The side with the rows (0) or the columns (1), for tiles of these elements; in tf32 before they are rounded."""
    node, own = unrounded(epilogue.contraction.operands[side]), (ROWS, COLUMNS)[side]
    trace, sizes, chunk = epilogue.contraction.trace, epilogue.contraction.sizes, 16 // element.bytes
    reads = survey(trace, [node]).reads
    steps = [(factor_of(r.address, own), factor_of(r.address, TERMS)) for r in reads]
    by_terms = any(k == 1 for _, k in steps) and not any(x == 1 for x, _ in steps if sizes[own] > 1)
    by_terms |= any(chunked(r.address, TERMS, chunk) for r in reads) and not any(chunked(r.address, own, chunk) for r in reads)
    along = TERMS if by_terms else own
    if isinstance(node, Read) and node.dtype == element and not any(map(symbols_of, (node.address, *(t.expr for t in node.tests)))):
        for width in (chunk, chunk // 2) if element.bytes < 8 else (chunk,):
            for dim in (along, own + TERMS - along):
                still = all(steady(trace, t.expr, dim, width) for t in node.tests)
                if still and sizes[dim] % width == 0 and epilogue.request.operand_aligned(node.operand) and chunked(node.address, dim, width):
                    return Operand(node, own, dim, width)
        if element.bytes == 4:
            return Operand(node, own, along, 1)
    return Operand(node, own, along, 0)


def write_values(w: FunctionWriter, e: Epilogue, operand: Operand, chunk: int, to: str, bounds: Sequence[tuple[str, int]],
                 exists: Sequence[str]) -> None:  # fmt: skip
    """`chunk` neighbouring values, from `x` and `term` on, to the array `to`. `bounds`: extents of x and term that may be passed; a chunk that hangs
    over the edge within itself is tested element by element. `exists`: further tests."""
    trace = e.contraction.trace
    moving = "term" if operand.along == TERMS else "x"
    whole = [f"{name} < {extent}" for name, extent in bounds if name != moving or extent % chunk == 0] + list(exists)
    partly = [f"{name} + j < {extent}" for name, extent in bounds if name == moving and extent % chunk]
    known: dict[int, Val] = {}
    with w.block(f"if ({' && '.join(whole)})" if whole else ""):
        base = Point(w, trace, w.operand, operand.dims(), integer=e.integer)
        for read in survey(trace, [operand.node]).reads:
            still = all(steady(trace, t.expr, operand.along, chunk) for t in read.tests)
            near = e.contraction.sizes[operand.along] % chunk == 0 and chunked(read.address, operand.along, chunk)
            if still and near and e.request.operand_aligned(read.operand):
                known[id(read)] = Val(f"{load_chunk(w, base, w.operand, read, chunk)}[j]", read.dtype)
        with w.unrolled("j", chunk), w.block(f"if ({partly[0]})" if partly else ""):
            at = operand.dims("x", "(term + j)") if moving == "term" else operand.dims("(x + j)", "term")
            point = Point(w, trace, w.operand, at, known=known, integer=e.integer)
            w.line(f"{to}[j] = {point.value(operand.node).text};")


@dataclass(frozen=True)
class Packing:
    """An operand of 16-bit floats, or of float32 in tf32, that is written to the workspace, at an offset in bytes, as the copy engine can read it."""

    operand: Operand
    element: DType
    offset: int
    batch: int
    lines: int  # of the dim that is not dense
    dense: int  # a multiple of PACKED
    by_lines: bool  # the values are read along the lines, and dense along the terms then

    @property
    def bytes(self) -> int:
        return -(-self.batch * self.lines * self.dense * self.element.bytes // 256) * 256

    def view(self, e: Epilogue) -> View:
        """How it then lies."""
        own, terms = Axis(self.operand.own, e.contraction.sizes[self.operand.own], 1, 1), Axis(TERMS, e.contraction.sizes[TERMS], 1, 1)
        along_terms = self.operand.along == TERMS
        if along_terms:
            own = Axis(own.dim, own.extent, self.dense, 1)
        else:
            terms = Axis(TERMS, terms.extent, self.dense, 1)
        batch = (Axis(BATCH, self.batch, self.lines * self.dense, 1),) if self.batch > 1 else ()
        element = TF32 if self.element == FLOAT32 else self.element.name
        return View(None, element, self.offset // self.element.bytes, along_terms, (own,), (terms,), batch)

    def function(self, e: Epilogue) -> Function:
        """The function that writes it."""
        w = FunctionWriter(e.request, "_pack_" + ("rows" if self.operand.own == ROWS else "columns"))
        return self._turned(w, e) if self.by_lines else self._straight(w, e)

    def _straight(self, w: FunctionWriter, e: Epilogue) -> Function:
        """The values are read along the dim in which they are dense then: a chunk a thread."""
        total = self.batch * self.lines * self.dense // PACKED
        block = "blockIdx.x" if e.integer == "int" else f"({e.integer})blockIdx.x"
        w.line(f"const {e.integer} p = {block} * {THREADS} + threadIdx.x;")
        w.line(f"if (p >= {total}) return;")
        x, term = ("x", "term") if self.operand.along != TERMS else ("term", "x")
        parts = self.dense // PACKED
        w.line(f"const int {x} = p % {parts}u * {PACKED};")
        w.line(f"const int {term} = p / {parts}u % {self.lines}u;")
        w.line(f"const int batch = {f'p / {parts * self.lines}u' if self.batch > 1 else '0'};")
        w.line(f"{computed_type(self.element)} values[{PACKED}] = {{}};")
        extent = e.contraction.sizes[self.operand.along]
        bounds = [("term" if self.operand.along == TERMS else "x", extent)] if extent % PACKED else []
        write_values(w, e, self.operand, PACKED, "values", bounds, ())
        to = w.workspace_of("packed", self.offset, memory_type(self.element))
        w.line(f"store<{PACKED}>({to} + p * {PACKED}, values);")
        return w.function((-(-total // THREADS),), (THREADS,), schedule=f"an operand written as the copy engine reads it, {PACKED} elements a thread")

    def _turned(self, w: FunctionWriter, e: Epilogue) -> Function:
        """They are read along the lines and written along the terms: a block turns SIDE x SIDE of them in shared memory, whose rows are one element
        longer, so that writes meet no bank twice."""
        terms, name = e.contraction.sizes[TERMS], computed_type(self.element)
        tall, wide = -(-self.lines // SIDE), -(-self.dense // SIDE)
        w.line(f"__shared__ {name} tile[{SIDE}][{SIDE + 1}];")
        w.line(f"const int first_line = blockIdx.x % {tall}u * {SIDE}, first_term = blockIdx.x / {tall}u % {wide}u * {SIDE};")
        w.line(f"const int batch = {f'blockIdx.x / {tall * wide}u' if self.batch > 1 else '0'};")
        w.line("#pragma unroll 8")
        with w.block(f"for (int k = threadIdx.x / {SIDE}; k < {SIDE}; k += {THREADS // SIDE})"):
            w.line(f"const int x = first_line + threadIdx.x % {SIDE}, term = first_term + k;")
            w.line(f"{name} value = 0;")
            tests = [f"x < {self.lines}"] * bool(self.lines % SIDE) + [f"term < {terms}"] * bool(terms % SIDE)
            with w.block(f"if ({' && '.join(tests)})" if tests else ""):
                point = Point(w, e.contraction.trace, w.operand, self.operand.dims(), integer=e.integer)
                w.line(f"value = {point.value(self.operand.node).text};")
            w.line(f"tile[threadIdx.x % {SIDE}][k] = value;")
        w.line("__syncthreads();")
        width = 16 // self.element.bytes
        lanes = SIDE // width  # of a line
        to = w.workspace_of("packed", self.offset, memory_type(self.element))
        with w.unrolled("k", SIDE * lanes // THREADS):
            w.line(f"const int line = threadIdx.x / {lanes} + k * {THREADS // lanes}, term = threadIdx.x % {lanes} * {width};")
            tests = [f"first_line + line < {self.lines}"] * bool(self.lines % SIDE) + [f"first_term + term < {self.dense}"] * bool(self.dense % SIDE)
            with w.block(f"if ({' && '.join(tests)})" if tests else ""):
                w.line(f"{name} values[{width}];")
                with w.unrolled("j", width):
                    w.line("values[j] = tile[line][term + j];")
                place = f"(batch * ({e.integer}){self.lines} + first_line + line) * {self.dense} + first_term + term"
                w.line(f"store<{width}>({to} + {place}, values);")
        return w.function(
            (self.batch * tall * wide,), (THREADS,), schedule=f"an operand turned as the copy engine reads it, {SIDE} x {SIDE} at a time"
        )


def packing_of(e: Epilogue, side: int, element: DType, offset: int) -> Packing:
    """How a side is packed: dense along the dim along which its values are read, in tf32 along the terms."""
    read = operand_of(e, side, element)
    operand = replace(read, along=TERMS) if element == FLOAT32 else read
    sizes = e.contraction.sizes
    other = operand.own + TERMS - operand.along
    batch = sizes[BATCH] if BATCH in dims_under(e.contraction.trace, [operand.node])[id(operand.node)] else 1
    return Packing(operand, element, offset, batch, sizes[other], -(-sizes[operand.along] // PACKED) * PACKED, operand.along != read.along)


def packing_cycles(p: Packing, e: Epilogue) -> float:
    """Cycles to write it, and to read what it is made of."""
    reads = survey(e.contraction.trace, [p.operand.node]).reads
    moved = p.bytes + sum(min(prod(e.request.operands[r.operand].shape), p.bytes // p.element.bytes) * r.dtype.bytes for r in reads)
    return moving_cycles(moved, e.request.arch)
