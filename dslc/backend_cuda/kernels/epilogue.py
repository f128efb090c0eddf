"""What a contraction's sums become: the kernel's results at a few neighbouring columns of one row, and sums over splits of the terms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from dslc.core.dtypes import DType
from dslc.ir.contractions import COLUMNS, ROWS, Contraction
from dslc.ir.trace import Given, Read, dims_under, invariant, narrowed, survey
from dslc.ir.types import TensorType

from ..pull import Point, chunked, steady
from ..scalars import Val
from ..stage import Function, FunctionWriter, Request, index_type
from ..types import computed_type
from .map import load_chunk

THREADS = 256
MOST_ALONE = 8  # parts of a sum that one thread adds: each is waited for


@dataclass(frozen=True)
class Epilogue:
    """The results of a contraction, made from its sums in the type `wide`. `numbers`: which of the kernel's results they are."""

    request: Request
    contraction: Contraction
    numbers: tuple[int, ...]
    wide: DType

    @property
    def integer(self) -> str:
        sizes = self.contraction.sizes
        return index_type(sizes[0] * sizes[1] * sizes[2], *(t.size for t in (*self.request.operands, *self.request.results)))

    @cached_property
    def moved(self) -> int:
        """Bytes that are read and written for each result; what several results share is not counted."""
        trace, roots = self.contraction.trace, [node for node, _ in self.contraction.results]
        under = dims_under(trace, roots)
        reads = [r for r in survey(trace, roots).reads if {ROWS, COLUMNS} <= under[id(r)]]
        return sum(t.bytes for t in (*(r.dtype for r in reads), *(self.request.results[k].dtype for k in self.numbers)))

    def width(self) -> int:
        """Neighbouring columns that are stored at once: as many as fill 16 bytes of the narrowest result, up to 8."""
        reads = survey(self.contraction.trace, [node for node, _ in self.contraction.results]).reads
        types = [r.dtype for r in reads] + [self.request.results[k].dtype for k in self.numbers]
        width = min(16 // min(t.bytes for t in types), 8)
        while width > 1:
            stored = all(chunked(a, COLUMNS, width) for _, a in self.contraction.results) and all(map(self.request.result_aligned, self.numbers))
            if self.contraction.sizes[COLUMNS] % width == 0 and stored:
                return width
            width //= 2
        return 1

    def chunks(self, width: int) -> list[Read]:
        """What the results need that is read `width` neighbouring columns at once."""
        if width == 1:
            return []
        trace, roots = self.contraction.trace, [node for node, _ in self.contraction.results]
        under = dims_under(trace, roots)
        reads = [r for r in survey(trace, roots).reads if COLUMNS in under[id(r)] and all(steady(trace, t.expr, COLUMNS, width) for t in r.tests)]
        return [r for r in reads if self.request.operand_aligned(r.operand) and chunked(r.address, COLUMNS, width)]

    def write(self, w: FunctionWriter, dims: Sequence[str], width: int, sums: str, given: Mapping[int, Val] | None = None) -> None:
        """The stores at `width` columns; `dims` are the names of the four dims, `sums` an array of the sums, `given` what is at hand at `j`."""
        trace, roots = self.contraction.trace, [node for node, _ in self.contraction.results]
        base = Point(w, trace, w.operand, dims, integer=self.integer)
        known: dict[int, Val] = dict(given or {})
        for node in invariant(trace, roots, {COLUMNS}):
            if not isinstance(node, Given):
                known[id(node)] = base.value(node)
        for read in self.chunks(width):
            if id(read) not in known:
                known[id(read)] = Val(f"{load_chunk(w, base, w.operand, read, width)}[j]", read.dtype)
        outs = [w.fresh("out") for _ in self.numbers]
        for name, k in zip(outs, self.numbers):
            w.line(f"{computed_type(self.request.results[k].dtype)} {name}[{width}];")
        rounded = narrowed(trace, roots)
        with w.unrolled("j", width):
            column = f"({dims[COLUMNS]} + j)" if width > 1 else dims[COLUMNS]
            at = [*dims[:COLUMNS], column, *dims[COLUMNS + 1 :]]
            point = Point(w, trace, w.operand, at, lambda _: self._sum(point, sums, roots), known, self.integer, narrowed=rounded)
            for name, root in zip(outs, roots):
                w.line(f"{name}[j] = {point.stored(root).text};")
        for name, k, (_, address) in zip(outs, self.numbers, self.contraction.results):
            if width > 1:
                w.line(f"store<{width}>({w.result(k).name} + {base.index(address)}, {name});")
            else:
                w.line(f"store({w.result(k).name} + {base.index(address)}, {name}[0]);")

    def _sum(self, point: Point, sums: str, roots: Sequence[object]) -> Val:
        """The sum at a column, in the contraction's type; a store rounds by itself."""
        value, dtype = Val(f"{sums}[j]", self.wide), self.contraction.op.type.dtype
        if all(isinstance(root, Given) for root in roots):
            return Val(value.text, dtype)
        return point.s.cast(value, self.wide, dtype)

    def partial(self, splits: int) -> TensorType:
        """Sums of each split, as they lie in the workspace: [split, batch, row, column]."""
        return TensorType(self.wide, (splits, *self.contraction.sizes[:3]))

    def write_partial(self, w: FunctionWriter, split: str, dims: Sequence[str], width: int, sums: str, splits: int) -> None:
        """A split's sums at `width` columns, to the workspace."""
        t = self.partial(splits)
        batch, rows, columns = self.contraction.sizes[:3]
        place = f"(({split} * {batch} + {dims[0]}) * ({self.integer}){rows} + {dims[1]}) * {columns} + {dims[2]}"
        to = w.workspace("partial", 0, t).name
        w.line(f"store<{width}>({to} + {place}, {sums});" if width > 1 else f"store({to} + {place}, {sums}[0]);")

    def partial_width(self) -> int:
        """Columns of partial sums that are stored at once."""
        width = 16 // self.wide.bytes
        return width if self.contraction.sizes[COLUMNS] % width == 0 else 1

    def folded(self, splits: int) -> Function:
        """The function that adds the splits' sums in their order, and makes the results."""
        w = FunctionWriter(self.request, "_sum")
        batch, rows, columns = self.contraction.sizes[:3]
        width, lanes = min(self.width(), self.partial_width()), lanes_of(splits)
        total = batch * rows * columns // width
        integer = self.integer
        block = "blockIdx.x" if integer == "int" else f"({integer})blockIdx.x"
        w.line(f"const {integer} p = {f'({block} * {THREADS} + threadIdx.x) / {lanes}' if lanes > 1 else f'{block} * {THREADS} + threadIdx.x'};")
        w.line(f"const int column = p % {columns // width}u * {width};")
        w.line(f"const int row = p / {columns // width}u % {rows}u;")
        w.line(f"const int batch = p / {columns // width * rows}u;")
        source = w.workspace("partial", 0, self.partial(splits)).name
        with self.sum_of_parts(w, width, lanes, [f"p < {total}"], "0", str(splits)):
            place = f"part * ({integer}){batch * rows * columns} + p * {width}"
            w.line(f"load<{width}>({source} + {place}, more);" if width > 1 else f"more[0] = {source}[{place}];")
        self.write(w, ["batch", "row", "column", "0"], width, "sums")
        return w.function((-(-total * lanes // THREADS),), (THREADS,), schedule=f"sums of {splits} splits of the terms, added in order")

    @contextmanager
    def sum_of_parts(self, w: FunctionWriter, width: int, lanes: int, tests: Sequence[str], first: str, end: str) -> Iterator[None]:
        """`sums` of the parts `first` up to `end`, each loaded to `more` by what is written within; `lanes` neighbouring threads each add every so
        many, and then each other's. One of them comes back, where the tests hold."""
        wide = computed_type(self.wide)
        if lanes == 1 and tests:
            w.line(f"if (!({' && '.join(tests)})) return;")
        if lanes > 1:
            w.line(f"const int lane = threadIdx.x % {lanes};")
            w.line(f"const bool inside = {' && '.join(tests) or 'true'};")
        w.line(f"{wide} sums[{width}] = {{}};")
        w.line("#pragma unroll 4")
        with w.block(
            f"for (int part = {f'{first} + lane' if lanes > 1 else first}, end = {end}; {'inside && ' * (lanes > 1)}part < end; part += {lanes})"
        ):
            w.line(f"{wide} more[{width}];")
            yield
            with w.unrolled("j", width):
                w.line("sums[j] += more[j];")
        if lanes > 1:
            with w.block(f"for (int offset = {lanes // 2}; offset; offset /= 2)"), w.unrolled("j", width):
                w.line("sums[j] += __shfl_xor_sync(0xffffffffu, sums[j], offset);")
            w.line("if (!inside || lane) return;")


def lanes_of(parts: int) -> int:
    """Neighbouring threads that add the parts of a sum together."""
    lanes = 1
    while lanes < 32 and parts > MOST_ALONE * lanes:
        lanes *= 2
    return lanes
