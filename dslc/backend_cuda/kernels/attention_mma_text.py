"""The text of a streaming kernel on tensor cores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from dslc.core.dtypes import BOOL, FLOAT32, TF32, DType
from dslc.ir.index import Expr
from dslc.ir.streams import Sink, Stream, implied
from dslc.ir.trace import Apply, Given, Guard, Node, Read, children, dims_under, invariant, survey

from ..pull import Point, chunked, moves_with
from ..scalars import Arithmetic, Val
from ..stage import Function, FunctionWriter, Memory, Request, index_type
from ..text import Writer
from ..types import computed_type
from .attention_mma_tiles import Plan, Tile, areas_of, bare, element_type
from .map import delinearized, load_chunk

LOG2E = "1.4426950408889634f"


class FastArithmetic(Arithmetic):
    """Where weights are rounded, to 16 bits or in tf32: exp(a - b) by one multiply-add, what follows from b made once a row, and an approximate power
    of 2."""

    def __init__(self, writer: Writer) -> None:
        super().__init__(writer)
        self.differences: dict[str, tuple[Val, Val]] = {}

    def sub(self, a: Val, b: Val) -> Val:
        made = super().sub(a, b)
        if made.dtype.is_float:
            self.differences[made.text] = (a, b)
        return made

    def exp(self, a: Val) -> Val:
        x, shift = self.differences.get(a.text, (a, None))
        text = f"fmaf({x.text}, {LOG2E}, -{LOG2E} * {shift.text})" if shift else f"{x.text} * {LOG2E}"
        return self.made(f"power_of_two({text})", a.dtype)


class StreamWriter:
    """Writes one function. See `attention_mma` for what a block does."""

    def __init__(self, request: Request, stream: Stream, sinks: Sequence[int], sources: Sequence[int], results: Sequence[int], plan: Plan,
                 suffix: str) -> None:  # fmt: skip
        self.w = FunctionWriter(request, suffix)
        self.request, self.s, self.trace, self.sizes, self.plan = request, stream, stream.trace, stream.sizes, plan
        self.sinks, self.sources, self.results = {k: stream.sinks[k] for k in sinks}, sources, results
        self.areas = areas_of(stream, sinks, sources, plan)
        self.nx, self.ny = self.sizes[stream.x], self.sizes[stream.y]
        self.integer = index_type(*(t.size for t in (*request.operands, *request.results)))
        self.leaders = [k for k, s in self.sinks.items() if s.kind in ("max", "min")]
        self.followers = [k for k in self.sinks if k not in self.leaders]
        self.led = {s.leader for s in self.sinks.values() if s.leader is not None}
        self.contracting = [k for k, s in self.sinks.items() if s.features is not None]
        self.roots = [s.value for s in self.sinks.values()]
        self.scalars: dict[int, Val] = {}  # known nodes: of the block, of a row (text in i), of a column (text in j)
        self.row_values: dict[int, Val] = {}
        self.column_values: dict[int, Val] = {}
        self.place: list[str] = []
        self.masks = {id(n): (n, needs) for n in self._conditions() if (needs := self._bounded(implied(self.trace, n)))}

    # ---- the whole

    def function(self) -> Function:
        w, plan = self.w, self.plan
        w.line("extern __shared__ __align__(128) unsigned char shared[];")
        self._pointers()
        self._threads()
        blocks = self._place()
        low, high = self._range()
        self._block_values()
        self._values_of_rows()
        self._sums()
        self._fill_x()
        with w.block(f"for (int first_y = {low} - {plan.by}; first_y < {high}; first_y += {plan.by})"):
            self._fetch(low, high)
            self._block()
        self._finish()
        kind = TF32 if plan.type == FLOAT32 else plan.type
        words = f"{plan.bx} rows a block, {plan.by} columns at a time, {plan.threads} threads, {kind} on tensor cores"
        per_sm = 2 if self.areas.bytes * 2 + 4096 <= self.request.arch.shared_bytes and plan.threads <= 128 else 1
        return w.function((blocks,), (plan.threads,), shared_bytes=self.areas.bytes, blocks_per_sm=per_sm, schedule=words)

    def _place(self) -> int:
        """Writes which rows at which point of the batch this block has; the number of blocks."""
        w, batch = self.w, self.sizes[: self.s.x]
        blocks = -(-self.nx // self.plan.bx)
        w.line(f"const int place = blockIdx.x / {blocks}u;")
        self.place = delinearized(w, "place", batch)
        order = f"{blocks - 1} - (int)(blockIdx.x % {blocks}u)" if self._longer_last() else f"(int)(blockIdx.x % {blocks}u)"
        w.line(f"const int first_x = ({order}) * {self.plan.bx};")
        return prod(batch) * blocks

    def _pointers(self) -> None:
        for t in (*self.areas.x, *self.areas.y):
            self.w.line(f"uint4* const {t.name} = reinterpret_cast<uint4*>(shared + {self.areas.offsets[t.name]});")
        for n, node in enumerate(self.areas.columns):
            c = computed_type(node.dtype)
            self.w.line(f"{c}* const column{n} = reinterpret_cast<{c}*>(shared + {self.areas.offsets[f'column{n}']});")

    def _threads(self) -> None:
        w = self.w
        w.line("const int thread = threadIdx.x;")
        w.line(f"const int warp_row = thread / 32u * {self.plan.rows * 8};")
        w.line("const int row = warp_row + thread % 32u / 4u, column = thread % 4u * 2;")

    def _longer_last(self) -> bool:
        """Whether later blocks of x have more of y to stream."""
        return any((b := self.s.bound(e)) is not None and b[0] > 0 and b[1] < 0 for e in self.s.needs)

    def _range(self) -> tuple[str, str]:
        """Writes the part of y to which anything in the block adds, from a multiple of a tile on."""
        w, last = self.w, self.nx - 1
        lows, highs = ["0"], [str(self.ny)]
        for e in self.s.needs:
            factors = self.s.bound(e)
            if factors is None:
                continue
            edge = "first_x" if factors[0] <= 0 else f"min(first_x + {self.plan.bx - 1}, {last})"
            rest = self.point(edge, "0").near(e)
            if factors[1] < 0:
                highs.append(f"{rest} + 1")
            else:
                lows.append(f"-{rest}")
        first = _nested("max", lows)
        low = first if first == "0" else f"{first} / {self.plan.by} * {self.plan.by}"
        return w.value("low", "int", low), w.value("high", "int", _nested("min", highs))

    # ---- points

    def point(self, x: str, y: str, known: dict[int, Val] | None = None, given: Callable[[Given], Val] | None = None,
              more: dict[int, str] | None = None) -> Point:  # fmt: skip
        dims = [*self.place, x, y, *("0" for _ in self.sizes[self.s.y + 1 :])]
        for k, text in (more or {}).items():
            dims[k] = text
        made = Point(self.w, self.trace, self.w_operand, dims, given, known, self.integer)
        made.s = FastArithmetic(self.w)
        return made

    def w_operand(self, k: int) -> Memory:
        return self.w.operand(k)

    def x_of(self) -> str:
        """The index of row i, the last one's for rows past the end."""
        text = f"first_x + {self.plan.row()}"
        return self.w.value("ix", "int", f"min({text}, {self.nx - 1})" if self.nx % self.plan.bx else text)

    def _block_values(self) -> None:
        """Values that move neither with x nor with y."""
        under = dims_under(self.trace, self.roots)
        base = self.point("first_x", "0")
        for n in self._still():
            if self.s.x not in under[id(n)]:
                self.scalars[id(n)] = base.value(n)

    def _values_of_rows(self) -> None:
        """Values that do not move with y, of each row of a thread."""
        w, under = self.w, dims_under(self.trace, self.roots)
        rows = [n for n in self._still() if self.s.x in under[id(n)] and survey(self.trace, [n]).reads]
        if not rows:
            return
        names = [w.fresh("of_row") for _ in rows]
        for n, name in zip(rows, names):
            w.line(f"{computed_type(n.dtype)} {name}[{self.plan.rows}];")
        with w.unrolled("i", self.plan.rows):
            p = self.point(self.x_of(), "0", dict(self.scalars))
            for n, name in zip(rows, names):
                w.line(f"{name}[i] = {p.value(n).text};")
        self.row_values = {id(n): Val(f"{name}[i]", n.dtype) for n, name in zip(rows, names)}

    def _still(self) -> list[Node]:
        return [n for n in invariant(self.trace, self.roots, {self.s.y}) if not _reads_given(n)]

    def _sums(self) -> None:
        w = self.w
        for k, s in self.sinks.items():
            if s.features is not None:
                w.line(f"float {self.plan.sums(f'sum{k}', self.sizes[s.features])} = {{}};")
                continue
            w.line(f"float sum{k}[{self.plan.rows}]{'' if k in self.leaders else ' = {}'};")
            if k in self.leaders:
                with w.unrolled("i", self.plan.rows):
                    w.line(f"sum{k}[i] = {_start(s)};")
        for k in self.led:
            w.line(f"float shrink{k}[{self.plan.rows}];")

    # ---- tiles

    def _fill_x(self) -> None:
        for t in self.areas.x:
            self._fill(t, self.s.x, "first_x", self.nx, t.name)
        self.w.line("copy_async_commit();")

    def _fetch(self, low: str, high: str) -> None:
        """Waits for the block of first_y, and starts to fetch the next one."""
        w, by = self.w, self.plan.by
        w.line("copy_async_wait<0>();")
        w.line("__syncthreads();")
        w.line(f"const int next = first_y + {by};")
        w.line(f"const int next_stage = (next - {low}) / {by} % 2, stage = 1 - next_stage;")
        with w.block(f"if (next < {high})"):
            for t in self.areas.y:
                w.line(f"uint4* const next_{t.name} = {t.name} + next_stage * {t.rows * t.chunks};")
                self._fill(t, self.s.y, "next", self.ny, f"next_{t.name}")
            if self.areas.columns:
                self._fill_columns("thread", self.plan.threads, "next", "next_stage")
            w.line("copy_async_commit();")
        w.line(f"if (first_y < {low}) continue;")

    def _fill_columns(self, thread: str, threads: int, first: str, stage: str) -> None:
        """Values along y, from `first` on, by some threads."""
        w, by = self.w, self.plan.by
        with w.block(f"for (int j = {thread}; j < {by}; j += {threads})"):
            y = w.value("iy", "int", f"min({first} + j, {self.ny - 1})")
            p = self.point("first_x", y, dict(self.scalars))
            for n, node in enumerate(self.areas.columns):
                w.line(f"column{n}[{stage} * {by} + j] = {p.value(node).text};")

    def _fill(self, t: Tile, along: int, first: str, count: int, target: str) -> None:
        """Copies rows of a tile, asynchronously where memory has them as they are; rows past the end are zeros."""
        w, plan = self.w, self.plan
        total = t.rows * t.used
        if total >= plan.threads:
            w.line("#pragma unroll 4")
        with w.block(f"for (int k = thread; k < {total}; k += {plan.threads})"):
            w.line(f"const int r = k / {t.used}u, c = k % {t.used}u, at = {first} + r;")
            w.line(f"uint4* const to = {target} + chunk_place<{t.chunks}>(r, c);")
            ragged = count % (plan.bx if along == self.s.x else plan.by) != 0 or along == self.s.y
            p = self.point("first_x", "0", more={along: "at", t.dim: f"(c * {plan.chunk})"})
            if self._plain(t):
                assert isinstance(t.node, Read)
                source = f"{w.operand(t.node.operand).name} + {p.index(t.node.address)}"
                w.line(f"copy_async16(to, {source}, {f'at < {count}' if ragged else 'true'});")
                return
            self._fill_values(t, p, along, count, ragged)

    def _plain(self, t: Tile) -> bool:
        node = t.node
        return (isinstance(node, Read) and not node.tests and node.dtype == self.plan.type and t.size % self.plan.chunk == 0
                and t.used * self.plan.chunk == t.size and self.request.operand_aligned(node.operand)
                and chunked(node.address, t.dim, self.plan.chunk))  # fmt: skip

    def _fill_values(self, t: Tile, base: Point, along: int, count: int, ragged: bool) -> None:
        """Computes the elements of a chunk; what they read as a chunk is loaded at once."""
        w, width = self.w, self.plan.chunk
        w.line(f"float chunk[{width}] = {{}};")
        whole = t.size % width == 0
        tests = [f"at < {count}"] * ragged + [f"c * {width} < {t.size}"] * (whole and t.used * width != t.size)
        with w.block(f"if ({' && '.join(tests)})" if tests else ""):
            known: dict[int, Val] = {}
            for read in survey(self.trace, [t.node]).reads if whole else ():
                still = not any(moves_with(self.trace, e.expr, t.dim) for e in read.tests)
                if still and self.request.operand_aligned(read.operand) and chunked(read.address, t.dim, width):
                    known[id(read)] = Val(f"{load_chunk(w, base, self.w_operand, read, width)}[e]", read.dtype)
            with w.unrolled("e", width):
                if not whole:
                    w.line(f"if (c * {width} + e >= {t.size}) break;")
                p = self.point("first_x", "0", known, more={along: "at", t.dim: f"(c * {width} + e)"})
                w.line(f"chunk[e] = {p.value(t.node).text};")
        w.line(f"store<{width}>(reinterpret_cast<{element_type(self.plan)}*>(to), chunk);")

    # ---- one block of y

    def _block(self) -> None:
        w, plan, a = self.w, self.plan, self.areas
        for t in a.y:
            w.line(f"const uint4* const now_{t.name} = {t.name} + stage * {t.rows * t.chunks};")
        for k in self.sources:
            x, y = a.source_x[k], a.source_y[k]
            w.line(f"float {plan.fragment(f'score{k}')} = {{}};")
            w.line(f"multiply_rows_mma<{element_type(plan)}, {x.chunks}, {x.used // 2}>(score{k}, {x.name}, now_{y.name}, warp_row);")
        self._weights(self._whole())
        for k in self.contracting:
            self._accumulate(k)

    def _weights(self, whole: str | None) -> None:
        """All folds of a block but its products, whose weights it leaves; `whole`: the test that nothing in it is masked."""
        w, plan = self.w, self.plan
        for k in self.leaders:
            w.line(f"float {plan.fragment(f'kept{k}')};")
        for k in self.contracting:
            w.line(f"float {plan.fragment(f'weight{k}')};")
        columns = enumerate(self.areas.columns)
        self.column_values = {id(n): Val(f"column{k}[stage * {plan.by} + {plan.column()}]", n.dtype) for k, n in columns}
        if whole is None:
            self._folds(self._all_true(), False)
        else:
            with w.block(f"if ({whole})"):
                self._folds(self._all_true(), False)
            with w.block("else"):
                self._folds({}, self.ny % plan.by != 0)

    def _accumulate(self, k: int) -> None:
        """One product: corrects its sums for the new maximum, and adds the block."""
        w, plan, tile = self.w, self.plan, self.areas.other[k]
        self._shrink(k)
        if plan.type == FLOAT32:
            w.line(f"multiply_weights_tf32<{tile.chunks}>(sum{k}, weight{k}, now_{tile.name});")
            return
        rounded = str(unrounded(self.sinks[k], plan.type) is not None).lower()
        w.line(f"multiply_weights_mma<{element_type(plan)}, {tile.chunks}, {rounded}>(sum{k}, weight{k}, now_{tile.name});")

    def _whole(self) -> str | None:
        """The test that nothing in the tile is masked by inequalities or past the end; None where it always holds."""
        tests = [f"first_y + {self.plan.by} <= {self.ny}"] if self.ny % self.plan.by else []
        for e in dict.fromkeys(e for _, needs in self.masks.values() for e in needs):
            bound = self.s.bound(e)
            assert bound is not None
            x = "first_x" if bound[0] >= 0 else f"(first_x + {self.plan.bx - 1})"
            y = "first_y" if bound[1] >= 0 else f"(first_y + {self.plan.by - 1})"
            tests.append(f"{self.point(x, y).near(e)} >= 0")
        return " && ".join(tests) or None

    def _all_true(self) -> dict[int, Val]:
        return {key: Val("true", BOOL) for key in self.masks}

    def _conditions(self) -> list[Node]:
        """The conditions of selections under the sinks' values."""
        out, seen, stack = [], set(), list(self.roots)
        while stack:
            node = stack.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            if isinstance(node, Apply) and node.op.operation.name == "nn.select":
                out.append(node.arguments[0])
            stack += children(node)[0]
        return out

    def _bounded(self, needs: Sequence[Expr]) -> list[Expr]:
        return list(needs) if needs and all(self.s.bound(e) is not None for e in needs) else []

    def _folds(self, masks: dict[int, Val], ragged: bool) -> None:
        w, plan = self.w, self.plan
        for k in self.leaders:
            self._lead(k, masks, ragged)
        late = self._late_rows()
        with w.unrolled("i", plan.rows):
            x = self.x_of()
            sums = [k for k in self.followers if self.sinks[k].features is None]
            for k in sums:
                w.line(f"float part{k} = 0.0f;")
            with w.unrolled("j", plan.columns):
                p = self._element(x, masks | late, ragged, {k: f"at_most{k}[i]" for k in self.leaders})
                for k in self.followers:
                    weight = unrounded(self.sinks[k], plan.type) if k in self.contracting else None  # rounded as it becomes an operand
                    value = self._within(p.value(weight or self.sinks[k].value).text, ragged, "0.0f")
                    if k in sums:
                        w.line(f"part{k} += {value};")
                    else:
                        w.line(f"{plan.element(f'weight{k}')} = {value};")
            for k in sums:
                leader = self.sinks[k].leader
                w.line(f"sum{k}[i] = {f'sum{k}[i] * shrink{leader}[i]' if leader is not None else f'sum{k}[i]'} + part{k};")

    def _element(self, x: str, known: dict[int, Val], ragged: bool, running: dict[int, str]) -> Point:
        """The point of element (i, j)."""
        y = self.w.value("iy", "int", f"min(first_y + {self.plan.column()}, {self.ny - 1})" if ragged else f"first_y + {self.plan.column()}")
        kept = {id(self.sinks[k].value): Val(self.plan.element(f"kept{k}"), self.sinks[k].value.dtype) for k in self.leaders if k in running}
        return self.point(x, y, {**self.scalars, **self.row_values, **self.column_values, **kept, **known}, self._given(running))

    def _given(self, running: dict[int, str]) -> Callable[[Given], Val]:
        def given(node: Given) -> Val:
            kind, number = node.key
            if kind == "sink":
                return Val(running[number], node.dtype)
            return Val(self.plan.element(f"score{number}"), node.dtype)

        return given

    def _within(self, value: str, ragged: bool, outside: str) -> str:
        return f"(first_y + {self.plan.column()} < {self.ny} ? {value} : {outside})" if ragged else value

    def _lead(self, k: int, masks: dict[int, Val], ragged: bool) -> None:
        """A running maximum, and by what the sums made with the old one shrink."""
        w, plan, sink = self.w, self.plan, self.sinks[k]
        pick = "fmaxf" if sink.kind == "max" else "fminf"
        shift = next((s.shift for s in self.sinks.values() if s.leader == k), None)
        w.line(f"float at_most{k}[{plan.rows}];")
        with w.unrolled("i", plan.rows):
            x = self.x_of()
            w.line(f"float top = {_start(sink)};")
            with w.unrolled("j", plan.columns):
                p = self._element(x, masks, ragged, {})
                value = self._within(p.value(sink.value).text, ragged, _start(sink))
                w.line(f"const float value = {value};")
                w.line(f"{plan.element(f'kept{k}')} = value;")
                w.line(f"top = {pick}(top, value);")
            for bits in (1, 2):
                w.line(f"top = {pick}(top, __shfl_xor_sync(0xffffffffu, top, {bits}));")
            w.line(f"const float before = sum{k}[i];")
            w.line(f"sum{k}[i] = {pick}(before, top);")
            w.line(f"at_most{k}[i] = sum{k}[i] == {_start(sink)} ? 0.0f : sum{k}[i];  // nothing seen: any finite number does")
            if shift is not None:
                w.line(f"const float below = before == {_start(sink)} ? 0.0f : before;")
                known = {**self.scalars, **self.row_values}
                old, new = (self.point(x, "0", dict(known), self._given({k: name})).value(shift) for name in ("below", f"at_most{k}[i]"))
                exp = f"power_of_two(({old.text} - {new.text}) * {LOG2E})"
                w.line(f"shrink{k}[i] = before == {_start(sink)} ? 0.0f : {exp};")

    def _late_rows(self) -> dict[int, Val]:
        """Values of a row that depend on its running maximum."""
        w = self.w
        roots = [self.sinks[k].value for k in self.followers]
        late = [n for n in invariant(self.trace, roots, {self.s.y}) if _reads_given(n) and not isinstance(n, Given)]
        if not late:
            return {}
        names = [w.fresh("late") for _ in late]
        for n, name in zip(late, names):
            w.line(f"{computed_type(n.dtype)} {name}[{self.plan.rows}];")
        with w.unrolled("i", self.plan.rows):
            p = self.point(self.x_of(), "0", {**self.scalars, **self.row_values}, self._given({k: f"at_most{k}[i]" for k in self.leaders}))
            for n, name in zip(late, names):
                w.line(f"{name}[i] = {p.value(n).text};")
        return {id(n): Val(f"{name}[i]", n.dtype) for n, name in zip(late, names)}

    def _shrink(self, k: int) -> None:
        """Corrects the sums of a product for the new maximum."""
        sink, plan, w = self.sinks[k], self.plan, self.w
        if sink.leader is None:
            return
        assert sink.features is not None
        groups = plan.feature_groups(self.sizes[sink.features])
        with w.unrolled("i", plan.rows), w.unrolled("q", groups * 2):
            w.line(f"{plan.element(f'sum{k}', 'i', 'q')} *= shrink{sink.leader}[i];")

    # ---- results

    def _finish(self) -> None:
        w, plan = self.w, self.plan
        for k in self.followers:
            if self.sinks[k].features is None:
                with w.unrolled("i", plan.rows):
                    for bits in (1, 2):
                        w.line(f"sum{k}[i] += __shfl_xor_sync(0xffffffffu, sum{k}[i], {bits});")
        rows = [n for n in self.results if self.sinks[self.s.results[n][2]].features is None]
        features: dict[int, list[int]] = {}
        for n in self.results:
            sink = self.sinks[self.s.results[n][2]]
            if sink.features is not None:
                features.setdefault(sink.features, []).append(n)
        with w.unrolled("i", plan.rows):
            if self.nx % plan.bx:
                w.line(f"if (first_x + {plan.row()} >= {self.nx}) continue;")
            x = w.value("ix", "int", f"first_x + {plan.row()}")
            if rows:
                with w.block("if (column == 0)"):
                    p = self.point(x, "0", given=self._final("", ""))
                    for n in rows:
                        node, address, _ = self.s.results[n]
                        w.line(f"store({w.result(n).name} + {p.index(address)}, {p.value(node).text});")
            for dim, numbers in features.items():
                self._finish_features(x, dim, numbers)

    def _final(self, q: str, e: str) -> Callable[[Given], Val]:
        def given(node: Given) -> Val:
            number = node.key[1]
            if self.sinks[number].features is None:
                return Val(f"sum{number}[i]", node.dtype)
            return Val(self.plan.element(f"sum{number}", "i", f"({q} * 2 + {e})"), node.dtype)

        return given

    def _finish_features(self, x: str, dim: int, numbers: Sequence[int]) -> None:
        """A thread's neighbouring features, stored at once where they lie so."""
        w, plan, size = self.w, self.plan, self.sizes[dim]
        width = 2
        with w.unrolled("q", plan.feature_groups(size)):
            first = w.value("f", "int", "q * 8 + column")
            if plan.feature_groups(size) * 8 != size:
                w.line(f"if ({first} >= {size}) continue;")
            together = [n for n in numbers if size % width == 0 and chunked(self.s.results[n][1], dim, width) and self.request.result_aligned(n)]
            for n in together:
                w.line(f"float out{n}[{width}];")
            with w.unrolled("e", width):
                if size % width:
                    w.line(f"if ({first} + e >= {size}) break;")
                p = self.point(x, "0", given=self._final("q", "e"), more={dim: f"({first} + e)"})
                values = [(n, p.value(self.s.results[n][0]), self.s.results[n][1]) for n in numbers]
                for n, value, address in values:
                    w.line(f"out{n}[e] = {value.text};" if n in together else f"store({w.result(n).name} + {p.index(address)}, {value.text});")
            p = self.point(x, "0", more={dim: first})
            for n in together:
                w.line(f"store<{width}>({w.result(n).name} + {p.index(self.s.results[n][1])}, out{n});")


def unrounded(sink: Sink, narrow: DType) -> Node | None:
    """What the weights of a product are before the cast that rounds them to 16 bits; None where no cast does."""
    if narrow == FLOAT32:
        return None
    value = bare(sink.value)
    cast = isinstance(value, Apply) and value.op.operation.name == "nn.cast" and value.dtype == narrow
    return value.arguments[0] if cast and isinstance(value, Apply) else None


def _nested(function: str, texts: Sequence[str]) -> str:
    out = texts[0]
    for t in texts[1:]:
        out = f"{function}({out}, {t})"
    return out


def _start(sink: Sink) -> str:
    return {"max": "-infinity_f32()", "min": "infinity_f32()"}[sink.kind]


def _reads_given(node: Node) -> bool:
    stack, seen = [node], set()
    while stack:
        n = stack.pop()
        if id(n) in seen:
            continue
        seen.add(id(n))
        if isinstance(n, Given) and n.key is not None:
            return True
        if isinstance(n, Guard):
            stack.append(n.value)
        stack += children(n)[0]
    return False
