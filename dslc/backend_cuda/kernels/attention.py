"""Streams (`dslc.ir.streams`): contractions, pointwise work and folds of a tile that lies in registers and shared memory, never in global memory.

A block owns some rows of `x` at one point of the batch; tiles of `y` stream through shared memory. Sixteen lanes share a row: each has some columns
of the scores S[x, y] = sum over c of X[x, c] * Y[y, c] in registers, writes the weights made of them to shared memory, which only its own warp reads
back, and holds some features of O[x, d] += sum over y of P[x, y] * V[y, d]. Running maxima correct the sums made with them (online softmax); tiles
where a mask of inequalities leaves nothing are not visited. Sums have one order.

All products are float32 FMA; operands of 16 bits are widened to float32 on their way into shared memory, and nothing is rounded in between. Tensor
cores are not used.
"""

from __future__ import annotations

from math import prod

from dslc.ir.rows import Unsuited
from dslc.ir.trace import Given, Node, factor_of, invariant, survey
from dslc.ir.types import type_of

from ..pull import chunked, moves_with
from ..scalars import Val
from ..stage import Function, Generated, Request
from ..types import computed_type
from .attention_folds import Folds
from .attention_layout import LANES, Area, Layout, layout_of
from .map import delinearized, load_chunk


def generate(request: Request) -> Generated:
    """One function. Unsuited where the body is no stream, or not of floats of at most 32 bits, or no tile of it fits."""
    layout, choice = layout_of(request)
    values = [op.results[0] for op in (*(s.op for s in layout.stream.sources), *(s.op for s in layout.stream.sinks))]
    if any(not type_of(v).dtype.is_float or type_of(v).dtype.bits > 32 for v in values):
        raise Unsuited("not of float32")
    return Generated((_Kernel(request, layout).function(),), includes=("stream.cuh",), choice=choice)


class _Kernel(Folds):
    """Writes the function of a stream."""

    def __init__(self, request: Request, layout: Layout) -> None:
        super().__init__(request, layout.stream, layout.tile.rows, layout.tile.columns)
        self.l, self.groups = layout, layout.tile.groups

    def function(self) -> Function:
        w, tile = self.w, self.l.tile
        w.line("extern __shared__ __align__(16) float areas[];")
        w.line(f"const int lane = threadIdx.x % {LANES}u;")
        w.line(f"const int group = threadIdx.x / {LANES}u;")
        blocks = self._place()
        for source, area in zip(self.s.sources, self.l.own):
            w.comment(f"{tile.x} rows of their own for the scores s{self.s.sources.index(source)}")
            self._stage(area, source.x_node, source.terms, self.s.x, "first_row")
        self._declare()
        self._hoist()
        low, high = self._range()
        with w.block(f"for (int first_column = {low}; first_column < {high}; first_column += {tile.y})"):
            self._turn()
        self._finish()
        words = f"{tile.x} rows a block of {tile.threads} threads, {tile.y} columns at once, {self.rows} x {self.columns} scores a thread"
        return w.function((blocks,), (tile.threads,), shared_bytes=self.l.shared_bytes, schedule=f"{words}, {self.l.shared_bytes:,} bytes of SRAM")

    # ---- places

    def _place(self) -> int:
        """Writes which rows this block owns; where a mask gives late rows more to do, they come first. The number of blocks."""
        w, n = self.w, self.sizes[self.s.x]
        per = -(-n // self.l.tile.x)
        factors = [self.s.bound(e) for e in self.s.needs]
        late = any(f is not None and f[0] > 0 > f[1] for f in factors) and not any(f is not None and f[1] > 0 for f in factors)
        batch = self.sizes[: self.s.x]
        w.line(f"const int task = blockIdx.x / {per}u;")
        number = f"blockIdx.x % {per}u"
        w.line(f"const int first_row = (int)({f'{per - 1} - {number}' if late else number}) * {self.l.tile.x};")
        place = delinearized(w, "task", batch, stem="i")
        self.place = place if self.integer == "int" else [w.value("i", self.integer, d) if d != "0" else d for d in place]
        return prod(batch) * per

    def row(self) -> str:
        return self._clamped("row", f"first_row + i * {self.groups} + group", self.sizes[self.s.x], self.l.tile.x)

    def column(self) -> tuple[str, str]:
        n, text = self.sizes[self.s.y], f"first_column + j * {LANES} + lane"
        return self._clamped("column", text, n, self.l.tile.y), f"{text} < {n}" if n % self.l.tile.y else ""

    def of_lanes(self, kind: str, text: str) -> str:
        return f"{kind}_of_{LANES}_lanes({text})"

    def weight(self, k: int) -> str:
        return f"{_at(self.l.weights[k], f'(i * {self.groups} + group)')}[j * {LANES} + lane]"

    def features(self, k: int) -> int:
        return self.l.held[k].registers

    def _clamped(self, stem: str, text: str, n: int, step: int) -> str:
        return self.w.value(stem, self.integer, f"min({text}, {n - 1})" if n % step else text)

    def _range(self) -> tuple[str, str]:
        """The part of y to which anything in the block's rows adds."""
        w, n = self.w, self.sizes[self.s.x]
        low, high = "0", str(self.sizes[self.s.y])
        for e in self.s.needs:
            factors = self.s.bound(e)
            if factors is None:
                continue
            best = f"(min(first_row + {self.l.tile.x}, {n}) - 1)" if factors[0] > 0 else "first_row"
            rest = w.value("rest", "int", self._point(self._dims(best, "0")).near(e))
            if factors[1] < 0:
                high = w.value("high", "int", f"min({high}, {rest} + 1)")
            else:
                low = w.value("low", "int", f"max({low}, -{rest})")
        return (low if low == "0" else w.value("first", "int", f"{low} / {self.l.tile.y} * {self.l.tile.y}")), high

    # ---- memory to shared memory

    def _stage(self, area: Area, node: Node, dim: int, across: int, start: str) -> None:
        """Rows of an operand, [x or y, dim], four neighbouring elements a thread at once; what is behind the last element or row is 0."""
        w, n, count = self.w, self.sizes[dim], self.sizes[across]
        reads = survey(self.trace, [node]).reads
        turned = bool(reads) and factor_of(reads[0].address, across) == 1 and factor_of(reads[0].address, dim) != 1
        chunks = area.width // 4
        with w.block(f"for (int p = threadIdx.x; p < {area.rows * chunks}; p += {self.l.tile.threads})"):
            row, chunk = (f"p % {area.rows}u", f"p / {area.rows}u") if turned else (f"p / {chunks}u", f"p % {chunks}u")
            w.line(f"const int row = {row};")
            w.line(f"const int c = {chunk} * 4;")
            ragged = count % area.rows != 0
            at = w.value("at", self.integer, f"min({start} + row, {count - 1})" if ragged else f"{start} + row")
            known: dict[int, Val] = {}
            if n % 4 == 0:
                base = self._point(self._dims("0", "0", {across: at, dim: "c"}))
                for read in reads:
                    still = not any(moves_with(self.trace, t.expr, dim) for t in read.tests)
                    if still and w.request.operand_aligned(read.operand) and chunked(read.address, dim, 4):
                        known[id(read)] = Val(f"{load_chunk(w, base, w.operand, read, 4)}[e]", read.dtype)
            w.line("float out[4];")
            with w.unrolled("e", 4):
                place = "(c + e)" if n % 4 == 0 else w.value("d", self.integer, f"min(c + e, {n - 1})")
                point = self._point(self._dims("0", "0", {across: at, dim: place}), known)
                value = self._wide(point, node)
                tests = ([f"c + e < {n}"] if n % 4 else []) + ([f"{start} + row < {count}"] if ragged else [])
                w.line(f"out[e] = {' && '.join(tests)} ? {value} : 0.0f;" if tests else f"out[e] = {value};")
            w.line(f"store<4>(areas + {area.offset} + row * {area.stride} + c, out);")

    # ---- one tile of y

    def _turn(self) -> None:
        w, tile = self.w, self.l.tile
        w.line("__syncthreads();")
        for area, node, dim in self.l.streamed:
            self._stage(area, node, dim, self.s.y, "first_column")
        w.line("__syncthreads();")
        for k, (own, number) in enumerate(zip(self.l.own, self.l.source_operand)):
            area = self.l.streamed[number][0]
            w.line(f"float s{k}[{self.rows}][{self.columns}] = {{}};")
            w.line(f"add_products_of_rows<{self.groups}, {area.width}, {area.stride}>(s{k}, {_at(own, 'group')}, {_at(area, 'lane')});")
        self._arrays(self.by_column, "j", self.columns)
        self._lead()
        self._follow()
        if self.l.weights:
            w.line("__syncwarp();")
        for k, area in self.l.weights.items():
            other, held = self.l.streamed[self.l.sink_operand[k]][0], self.l.held[k]
            sizes = f"{self.groups}, {tile.y}, {area.stride}, {other.stride}, {other.width}, {held.width}"
            w.line(f"add_weighted_rows<{sizes}>(o{k}, {_at(area, 'group')}, areas + {other.offset}, lane);")

    # ---- results

    def _finish(self) -> None:
        w = self.w
        sums = [k for k, s in enumerate(self.s.sinks) if s.kind == "sum"]
        with w.unrolled("i", self.rows):
            for k in sums:
                w.line(f"o{k}[i] = sum_of_{LANES}_lanes(o{k}[i]);")
            x = self.row()
            n = self.sizes[self.s.x]
            live = f"first_row + i * {self.groups} + group < {n}" if n % self.l.tile.x else ""
            for number, (node, address, home) in enumerate(self.s.results):
                if self.s.sinks[home].features is None:
                    with w.block(f"if ({' && '.join(filter(None, ('lane == 0', live)))})"):
                        point = self._point(self._dims(x, "0"), self._known_of_row(), self._given({}))
                        value = point.value(node)
                        w.line(f"store({w.result(number).name} + {point.index(address)}, {value.text});")
                else:
                    self._features(number, x, live)

    def _features(self, number: int, x: str, live: str) -> None:
        """A result with features: this thread's chunks of row i."""
        w, (node, address, home) = self.w, self.s.results[number]
        held, dim = self.l.held[home], self.s.sinks[home].features
        assert dim is not None
        n, width = self.sizes[dim], held.width
        memory = w.result(number)

        def given(found: Given) -> Val:
            k = found.key[1]
            return Val(f"o{k}[i]" if self.s.sinks[k].features is None else f"o{k}[i][f * {width} + e]", found.dtype)

        before = self._point(self._dims(x, "0"), self._known_of_row(), given)
        fixed = invariant(self.trace, [node], {dim}) if n > 1 else []  # of one feature nothing moves, its sum neither
        known = self._known_of_row() | {id(v): before.value(v) for v in fixed}
        with w.unrolled("f", held.registers // width):
            w.line(f"const int c = (f * {LANES} + lane) * {width};")
            ragged = f"c < {n}" if n % (LANES * width) else ""
            tests = " && ".join(filter(None, (live, ragged)))
            with w.block(f"if ({tests})" if tests else ""):
                w.line(f"{computed_type(memory.type.dtype)} out[{width}];")
                with w.unrolled("e", width):
                    point = self._point(self._dims(x, "0", {dim: "(c + e)"}), known, given)
                    w.line(f"out[e] = {point.value(node).text};")
                whole = width > 1 and w.request.result_aligned(number) and chunked(address, dim, width)
                if whole:
                    at = self._point(self._dims(x, "0", {dim: "c"})).index(address)
                    w.line(f"store<{width}>({memory.name} + {at}, out);")
                else:
                    with w.unrolled("e", width):
                        at = self._point(self._dims(x, "0", {dim: "(c + e)"})).index(address)
                        w.line(f"store({memory.name} + {at}, out[e]);")


def _at(area: Area, row: str) -> str:
    """The text of a pointer to a row in shared memory."""
    return f"(areas + {area.offset} + {row} * {area.stride})"
