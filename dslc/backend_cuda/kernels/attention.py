"""Streams (`dslc.ir.streams`): contractions, pointwise work and folds of a tile that lies in registers and shared memory, never in global memory.

A block owns some rows of `x` at one point of the batch; tiles of `y` stream through shared memory. Sixteen lanes share a row: each has some columns
of the scores S[x, y] = sum over c of X[x, c] * Y[y, c] in registers, writes the weights made of them to shared memory, which only its own warp reads
back, and holds some features of O[x, d] += sum over y of P[x, y] * V[y, d]. Running maxima correct the sums made with them (online softmax); tiles
where a mask of inequalities leaves nothing are not visited. Sums have one order.

All products are float32 FMA; operands of 16 bits are widened to float32 on their way into shared memory, and nothing is rounded in between. Tensor
cores are not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from dslc.core.dtypes import BOOL, FLOAT32
from dslc.ir.rows import Unsuited
from dslc.ir.streams import Sink, bound_of, folds_under
from dslc.ir.trace import Given, Node, factor_of, invariant, survey
from dslc.ir.types import type_of

from ..pull import Point, chunked, moves_with
from ..scalars import Val
from ..stage import Function, FunctionWriter, Generated, Request, index_type
from ..types import computed_type
from .attention_layout import LANES, Area, Layout, layout_of
from .map import delinearized, load_chunk


def generate(request: Request) -> Generated:
    """One function. Unsuited where the body is no stream, or not of floats of at most 32 bits, or no tile of it fits."""
    layout, choice = layout_of(request)
    values = [op.results[0] for op in (*(s.op for s in layout.stream.sources), *(s.op for s in layout.stream.sinks))]
    if any(not type_of(v).dtype.is_float or type_of(v).dtype.bits > 32 for v in values):
        raise Unsuited("not of float32")
    return Generated((_Kernel(request, layout).function(),), includes=("stream.cuh",), choice=choice)


class _Kernel:
    """Writes the function of a stream."""

    def __init__(self, request: Request, layout: Layout) -> None:
        self.w, self.l, self.s = FunctionWriter(request), layout, layout.stream
        self.trace, self.sizes = self.s.trace, self.s.sizes
        self.integer = index_type(*(t.size for t in (*request.operands, *request.results)))
        self.rows, self.columns, self.groups = layout.tile.rows, layout.tile.columns, layout.tile.groups
        self.leaders = [k for k, s in enumerate(self.s.sinks) if s.kind in ("max", "min")]
        self.followers = [k for k in range(len(self.s.sinks)) if k not in self.leaders]
        self.hoisted: dict[int, Val] = {}  # of nodes that nothing moves, by id
        self.by_row: dict[int, tuple[str, Node]] = {}  # arrays of what moves with x alone
        self.by_column: dict[int, tuple[str, Node]] = {}  # arrays of what moves with y alone

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
        factors = [bound_of(e, self.s.x, self.s.y) for e in self.s.needs]
        late = any(f is not None and f[0] > 0 > f[1] for f in factors) and not any(f is not None and f[1] > 0 for f in factors)
        batch = self.sizes[: self.s.x]
        w.line(f"const int task = blockIdx.x / {per}u;")
        number = f"blockIdx.x % {per}u"
        w.line(f"const int first_row = (int)({f'{per - 1} - {number}' if late else number}) * {self.l.tile.x};")
        place = delinearized(w, "task", batch, stem="i")
        self.place = place if self.integer == "int" else [w.value("i", self.integer, d) if d != "0" else d for d in place]
        return prod(batch) * per

    def _dims(self, x: str, y: str, more: dict[int, str] | None = None) -> list[str]:
        dims = [*self.place, x, y] + ["0"] * (len(self.sizes) - self.s.y - 1)
        for k, text in (more or {}).items():
            dims[k] = text
        return dims

    def _point(self, dims: Sequence[str], known: dict[int, Val] | None = None, given: Any = None) -> Point:
        return Point(self.w, self.trace, self.w.operand, dims, given, {**self.hoisted, **(known or {})}, self.integer)

    def _row(self) -> str:
        """Writes the index of row i, of the last row where there is none; its name."""
        return self._clamped("row", f"first_row + i * {self.groups} + group", self.sizes[self.s.x], self.l.tile.x)

    def _column(self) -> tuple[str, str]:
        """Writes the index of column j, of the last column where there is none; its name, and the test that there is one, or ""."""
        n, text = self.sizes[self.s.y], f"first_column + j * {LANES} + lane"
        return self._clamped("column", text, n, self.l.tile.y), f"{text} < {n}" if n % self.l.tile.y else ""

    def _clamped(self, stem: str, text: str, n: int, step: int) -> str:
        return self.w.value(stem, self.integer, f"min({text}, {n - 1})" if n % step else text)

    def _range(self) -> tuple[str, str]:
        """The part of y to which anything in the block's rows adds."""
        w, n = self.w, self.sizes[self.s.x]
        low, high = "0", str(self.sizes[self.s.y])
        for e in self.s.needs:
            factors = bound_of(e, self.s.x, self.s.y)
            if factors is None:
                continue
            best = f"(min(first_row + {self.l.tile.x}, {n}) - 1)" if factors[0] > 0 else "first_row"
            rest = w.value("rest", "int", f"(int){self._point(self._dims(best, '0')).index(e)}")
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

    def _wide(self, point: Point, node: Node) -> str:
        v = point.value(node)
        return point.s.cast(v, v.dtype, FLOAT32).text

    # ---- state, and what is computed once

    def _declare(self) -> None:
        """The running folds of every row."""
        for k, sink in enumerate(self.s.sinks):
            if sink.kind == "contract":
                self.w.line(f"float o{k}[{self.rows}][{self.l.held[k].registers}] = {{}};")
                continue
            self.w.line(f"float o{k}[{self.rows}];")
            start = {"max": "-infinity_f32()", "min": "infinity_f32()", "sum": "0.0f"}[sink.kind]
            with self.w.unrolled("i", self.rows):
                self.w.line(f"o{k}[i] = {start};")

    def _hoist(self) -> None:
        """What is read from memory and does not move with the stream, once; arrays for what is read once a turn."""
        roots = [s.value for s in self.s.sinks]
        x, y = self.s.x, self.s.y
        fixed = [n for n in invariant(self.trace, roots, {x, y}) if self._loads(n)]
        point = self._point(self._dims("0", "0"))
        self.hoisted |= {id(n): point.value(n) for n in fixed}
        for node in invariant(self.trace, roots, {x}):
            if self._loads(node) and id(node) not in self.hoisted:
                self.by_column[id(node)] = (self.w.fresh("of_column"), node)
        for node in invariant(self.trace, roots, {y}):
            if self._loads(node) and id(node) not in self.hoisted and not folds_under(self.trace, node):
                self.by_row[id(node)] = (self.w.fresh("of_row"), node)
        self._arrays(self.by_row, "i", self.rows)

    def _loads(self, node: Node) -> bool:
        return bool(survey(self.trace, [node]).reads)

    def _arrays(self, arrays: dict[int, tuple[str, Node]], turn: str, count: int) -> None:
        """Writes the values of nodes for all rows, or all columns, of a thread."""
        w = self.w
        for name, node in arrays.values():
            w.line(f"{computed_type(node.dtype)} {name}[{count}];")
        if arrays:
            with w.unrolled(turn, count):
                point = self._point(self._dims(self._row(), "0") if turn == "i" else self._dims("0", self._column()[0]))
                for name, node in arrays.values():
                    w.line(f"{name}[{turn}] = {point.value(node).text};")

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

    def _given(self, running: dict[int, str]) -> Any:
        """Answers for scores at (i, j) and for running folds of row i."""

        def given(node: Given) -> Val:
            kind, number = node.key
            text = f"s{number}[i][j]" if kind == "source" else running.get(number, f"o{number}[i]")
            return Val(text, node.dtype)

        return given

    def _known_of_row(self) -> dict[int, Val]:
        return {k: Val(f"{name}[i]", node.dtype) for k, (name, node) in self.by_row.items()}

    def _known(self, roots: Sequence[Node], x: str, given: Any) -> dict[int, Val]:
        """What is known in the loop over a row's columns: values that move with x alone are written before it."""
        known = self._known_of_row()
        before = self._point(self._dims(x, "0"), known, given)
        for node in invariant(self.trace, roots, {self.s.y}):
            if id(node) not in known and not (isinstance(node, Given) and node.key and node.key[0] == "source"):
                known[id(node)] = before.value(node)
        return known | {k: Val(f"{name}[j]", node.dtype) for k, (name, node) in self.by_column.items()}

    def _lead(self) -> None:
        """Running maxima and minima, and the factors that correct what was summed with the old ones; their operands stay in registers."""
        w = self.w
        if not self.leaders:
            return
        correcting = {s.leader: s.shift for s in self.s.sinks if s.leader is not None and s.shift is not None}
        for k in self.leaders:
            w.line(f"float t{k}[{self.rows}][{self.columns}];")
            if k in correcting:
                w.line(f"float factor{k}[{self.rows}];")
        roots = [self.s.sinks[k].value for k in self.leaders]
        with w.unrolled("i", self.rows):
            x = self._row()
            known = self._known(roots, x, self._given({}))
            for k in self.leaders:
                w.line(f"float best{k} = {'-' if self.s.sinks[k].kind == 'max' else ''}infinity_f32();")
            with w.unrolled("j", self.columns):
                y, test = self._column()
                point = self._point(self._dims(x, y), known, self._given({}))
                for k in self.leaders:
                    value, worst = self._wide(point, self.s.sinks[k].value), f"{'-' if self.s.sinks[k].kind == 'max' else ''}infinity_f32()"
                    w.line(f"t{k}[i][j] = {f'{test} ? {value} : {worst}' if test else value};")
                    w.line(f"best{k} = {self.s.sinks[k].kind}imum(best{k}, t{k}[i][j]);")
            for k in self.leaders:
                kind = self.s.sinks[k].kind
                w.line(f"const float next{k} = {kind}imum(o{k}[i], {kind}_of_{LANES}_lanes(best{k}));")
                if k in correcting:
                    old, new = (self._shift(correcting[k], k, text, x) for text in (f"o{k}[i]", f"next{k}"))
                    w.line(f"factor{k}[i] = o{k}[i] == -infinity_f32() ? 0.0f : expf({old} - {new});")
                w.line(f"o{k}[i] = next{k};")

    def _shift(self, node: Node, k: int, text: str, x: str) -> str:
        finite = self.w.value("finite", "float", f"finite_maximum({text})")
        return self._wide(self._point(self._dims(x, "0"), self._known_of_row(), self._given({k: finite})), node)

    def _follow(self) -> None:
        """Sums, and the weights of the products, which go to shared memory."""
        w, sinks = self.w, self.s.sinks
        roots = [sinks[k].value for k in self.followers]
        if not roots:
            return
        with w.unrolled("i", self.rows):
            x = self._row()
            running = {}
            for k in self.leaders:
                running[k] = w.value("finite", "float", f"finite_maximum(o{k}[i])") if sinks[k].kind == "max" else f"o{k}[i]"
            for k in self.followers:
                self._correct(k, sinks[k])
            known = self._known(roots, x, self._given(running))
            kept = {id(sinks[k].value): Val(f"t{k}[i][j]", sinks[k].value.dtype) for k in self.leaders}
            with w.unrolled("j", self.columns):
                y, test = self._column()
                point = self._point(self._dims(x, y), known | kept, self._given(running))
                for k in self.followers:
                    value = self._wide(point, sinks[k].value)
                    if test:
                        value = point.s.select(Val(test, BOOL), Val(value, FLOAT32), Val("0.0f", FLOAT32)).text
                    area = self.l.weights.get(k)
                    w.line(f"o{k}[i] += {value};" if area is None else f"{_at(area, f'(i * {self.groups} + group)')}[j * {LANES} + lane] = {value};")

    def _correct(self, k: int, sink: Sink) -> None:
        if sink.leader is None:
            return
        if sink.kind != "contract":
            self.w.line(f"o{k}[i] *= factor{sink.leader}[i];")
            return
        with self.w.unrolled("f", self.l.held[k].registers):
            self.w.line(f"o{k}[i][f] *= factor{sink.leader}[i];")

    # ---- results

    def _finish(self) -> None:
        w = self.w
        sums = [k for k, s in enumerate(self.s.sinks) if s.kind == "sum"]
        with w.unrolled("i", self.rows):
            for k in sums:
                w.line(f"o{k}[i] = sum_of_{LANES}_lanes(o{k}[i]);")
            x = self._row()
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
