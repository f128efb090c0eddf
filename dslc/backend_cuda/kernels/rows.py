"""Passes over the reduced axes of a reduce kernel: a group of threads makes one row, every pass folds all its points in a fixed order.

Where memory is contiguous along the reduced axes, the threads of a group are neighbours along them and fold their states by shuffles, a butterfly
in which every lane gets the same bits. Where it is contiguous along a kept axis, neighbouring threads take neighbouring rows, each as many as lie in
16 bytes; the threads of a block that have the same rows share their points, and their states meet by shuffles and in shared memory.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import prod

from dslc.core.dtypes import INT32
from dslc.ir import index
from dslc.ir.index import Expr, Mod
from dslc.ir.rows import Fold, Rows
from dslc.ir.trace import Apply, Given, Guard, Node, Product, Read, Test, children, dims_under, invariant, survey, symbols_of

from ..arch import Arch
from ..pull import Point, chunked, moves_with, steady
from ..scalars import Arithmetic, Val
from ..stage import FunctionWriter, Memory, Request
from ..types import computed_type, memory_type
from . import running
from .group import Layout, State, combined, each_row, start_of
from .map import delinearized, load_chunk
from .one_pass import Moments, Pass, parts_of

# Instructions of an op where they are more than one.
WEIGHTS = {
    "nn.exp": 8, "nn.expm1": 20, "nn.log": 16, "nn.log1p": 25, "nn.tanh": 20, "nn.erf": 25, "nn.sigmoid": 16, "nn.sin": 20, "nn.cos": 20,
    "nn.pow": 60, "nn.div": 8, "nn.sqrt": 8, "nn.rsqrt": 8, "nn.random": 60, "nn.mod": 20, "nn.floordiv": 10, "nn.atan2": 40,
}  # fmt: skip
LOAD = 8  # of an element from memory
KEEP = 8  # a value that costs at least this is kept in registers for the next pass rather than made again
MOST_UNROLLED = 16  # points of a row that one thread has, all of which it reads at once
BATCH = 4  # points whose values are read before the first of their outputs is stored
SMALL = 64 << 10  # bytes of operands that are asked for ahead whatever they are
MOST_BROUGHT = 2  # chunks of an operand that a thread loads ahead
SHARED_UNROLLED = 4  # chunks of a row in shared memory that are read before the first is waited for
STATIC_SHARED = 4 << 10  # bytes left for states that meet
MOST_HELD = 64  # registers of a thread that keep values from pass to pass


class RowWriter:
    """Writes a reduce kernel's function: `rows` through all its passes, or one pass over a chunk of every row."""

    def __init__(self, w: FunctionWriter, rows: Rows, layout: Layout, memory: Callable[[int], Memory], integer: str, lane: str = "lane") -> None:
        self.w, self.rows, self.layout, self.memory, self.integer, self.lane = w, rows, layout, memory, integer, lane
        self.target: Callable[[int], str] = lambda k: w.result(k).name  # where the results lie that are not of the rows
        self.sizes = rows.nest.sizes
        self.reduced = self.sizes[rows.kept :]
        self.points = prod(self.reduced)
        self.chunks = self.points // (layout.width if layout.across else 1)  # of a row
        self.columns = layout.columns
        self.along = len(self.sizes) - 1 if layout.across or layout.dim is None else layout.dim  # the dim along which chunks lie
        self.found: dict[int, Val] = {}  # results of the folds, by number
        self.held: dict[int, str] = {}  # arrays of what is kept, by node
        self.brought: dict[int, str] = {}  # arrays of what was loaded ahead, by read
        self.outputs = [(node, address, k) for k, (node, address, row) in enumerate(rows.results) if not row]
        self.roots = [[f.node for f in level] for level in rows.folds]
        if self.outputs:
            self.roots.append([node for node, _, _ in self.outputs])
        # Passes over rows in shared memory that make the sum of the pass behind them along with their maximum: it is made while the row arrives.
        self.running = {p for p in range(len(rows.folds)) if layout.shared and running.follows(rows, p)}
        for p in self.running:
            self.roots[p + 1] = []
        self.ahead: State | None = None  # that sum, of values less the maximum that this thread has seen
        self.own = ""  # that maximum
        self.powers = [rows.folds[p + 1][0].node for p in self.running]
        self.row_dims: list[str] = []
        self.p = 0  # the pass in work
        self.batch: list[tuple[str, Node, Expr, int]] = []  # outputs of the first pass: array, node, address, number
        self.live = ""
        self.passed: list[Test] = []  # tests that the text in work has asked
        self.pivots: dict[str, Val] = {}  # about which moments are summed, by the name of their sum
        self.shared_bytes = 0

    def early(self, outputs: Sequence[tuple[Node, Expr, int]], live: str) -> None:
        """The outputs are these alone, and the first pass makes them, one point at once; `live`: test that a thread's row exists."""
        self.outputs = []
        self.batch = [(self.w.fresh("out"), node, address, k) for node, address, k in outputs]
        self.roots = [[*self.roots[0], *(node for node, _, _ in outputs)], *self.roots[1 : len(self.rows.folds)]]
        self.live = live

    def given(self, node: Given) -> Val:
        """The result of a fold that is done."""
        return self.found[node.key] if node.key is not None else Arithmetic(self.w).const(0, node.dtype)

    def point(self, place: Sequence[str] | None = None, known: dict[int, Val] | None = None, each: bool = False) -> Point:
        """The point of this thread's row at a place in the reduced space, the first one if none is given; of its first row, or of `each`."""
        dims = [*self.row_dims, *(place if place is not None else ["0"] * len(self.reduced))]
        if each and self.columns > 1:
            dims[self.along] = f"({dims[self.along]} + j)"
        return Point(self.w, self.rows.trace, self.memory, dims, self.given, known, self.integer, self.passed)

    def each(self) -> AbstractContextManager[None]:
        return each_row(self.w, self.layout)

    def array(self, kind: str, stem: str) -> str:
        """Declares an element for each of a thread's rows; its name at `j`."""
        name = self.w.fresh(stem)
        self.w.line(f"{kind} {name}{f'[{self.columns}]' if self.columns > 1 else ''};")
        return f"{name}[j]" if self.columns > 1 else name

    def store_row(self, results: Sequence[tuple[Node, Expr, int]]) -> None:
        """The results of a thread's rows, all made before the first is stored: (node, address, number) each."""
        w = self.w
        outs = [self.array(computed_type(w.request.results[k].dtype), "out") for _, _, k in results]
        known = self._chunks_of([node for node, _, _ in results], {})
        with self.each():
            point = self.point(known=known, each=True)
            for name, (node, _, _) in zip(outs, results):
                w.line(f"{name} = {point.stored(node).text};")
        for name, (_, address, k) in zip(outs, results):
            self.store(w.result(k).name, address, name, w.request.result_aligned(k))

    def store(self, to: str, address: Expr, values: str, aligned: bool) -> None:
        """A value of each of a thread's rows, by one access where they are neighbours in memory."""
        if self.columns > 1 and aligned and chunked(address, self.along, self.columns):
            self.w.line(f"store<{self.columns}>({to} + {self.point().index(address)}, {values.removesuffix('[j]')});")
            return
        with self.each():
            self.w.line(f"store({to} + {self.point(each=True).index(address)}, {values});")

    def _chunks_of(self, nodes: Sequence[Node], known: dict[int, Val], place: Sequence[str] | None = None) -> dict[int, Val]:
        """`known` and what these values, at the place or of the row, read at neighbouring rows, at `j`."""
        if self.columns == 1:
            return known
        base, known = self.point(place, known), dict(known)
        for read in survey(self.rows.trace, nodes).reads:
            if id(read) not in known and self._in_chunks(read):
                known[id(read)] = Val(f"{load_chunk(self.w, base, self.memory, read, self.columns)}[j]", read.dtype)
        return known

    # ---- ahead

    def ask(self, blocks: int) -> None:
        """Asks ahead for what this thread reads of a matrix that a few rows are multiplied with, or of operands that are small altogether. Of many
        blocks those do that may begin early."""
        w, layout = self.w, self.layout
        last = self.sizes[-1] if self.reduced else 0
        reads = [r for r in survey(self.rows.trace, self.roots[0] + self.roots[-1]).reads if self._in_chunks(r) and not symbols_of(r.address)]
        bytes_of = {r.operand: w.request.operands[r.operand].size * r.dtype.bytes for r in reads if r.operand < len(w.request.operands)}
        total, product = sum(bytes_of.values()), isinstance(self.roots[0][0], Product)
        wanted = [r for r in reads if r.operand in bytes_of and not r.tests and (total <= SMALL or (product and bytes_of[r.operand] > total / 16))]
        if not (last and layout.across and wanted and w.request.arch.launches_overlap):
            return
        chunks, early = self.points // layout.width, w.request.arch.sms * 2048 // layout.block
        early_blocks = w.block(f"if (blockIdx.x < {early})") if blocks > early else nullcontext()
        with early_blocks, w.block(f"for ({self.integer} c = lane; c < {chunks}; c += {layout.threads})"):
            place = delinearized(w, "c", [*self.reduced[:-1], self.reduced[-1] // layout.width], layout.width, "r")
            point = self.point(place)
            for read in wanted:
                w.prefetch(f"{self.memory(read.operand).name} + {point.index(read.address)}")
        w.ahead_ends()

    def bring(self) -> None:
        """Loads ahead what this thread reads of steady operands that all rows share, so that no pass waits for it."""
        w, layout = self.w, self.layout
        if not layout.across or not 0 < layout.turns <= MOST_BROUGHT or not w.request.arch.launches_overlap:
            return
        roots = [n for level in self.roots for n in level]
        under = dims_under(self.rows.trace, roots)
        reads = [r for r in survey(self.rows.trace, roots).reads if self._in_chunks(r) and not (r.tests or symbols_of(r.address))]
        reads = [r for r in reads if w.request.operand_steady(r.operand) and r.dtype.bytes * layout.width == 16]
        reads = [r for r in reads if min(under[id(r)]) >= self.rows.kept]
        place = [*self.reduced[:-1], self.reduced[-1] // layout.width]
        for read in reads:
            self.brought[id(read)] = w.fresh("brought")
            w.line(f"Chunk<16>::type {self.brought[id(read)]}[{layout.turns}];")
        if reads:
            w.line("#pragma unroll")
            with w.block(f"for (int k = 0; k < {layout.turns}; ++k)"):
                w.line(f"const {self.integer} c = {self.lane} + k * {layout.threads};")
                with w.block(f"if (c < {self.chunks})"):
                    dims = ["0"] * self.rows.kept + delinearized(w, "c", place, layout.width, "r")
                    point = Point(w, self.rows.trace, self.memory, dims, integer=self.integer)
                    for read in reads:
                        w.line(f"{self.brought[id(read)]}[k] = load_steady({self.memory(read.operand).name} + {point.index(read.address)});")

    # ---- passes

    def run_pass(self, p: int, keep: Sequence[Node], low: str = "0", high: str | None = None) -> list[State]:
        """One pass: this thread's states of level p, or, after the last level, the stores of the results that are not of the rows."""
        self.p = p
        if p - 1 in self.running:
            return [self._corrected(p)]
        states = [self._empty(fold) for fold in (self.rows.folds[p] if p < len(self.rows.folds) else [])]
        if p in self.running:
            self.ahead = self._empty(self.rows.folds[p + 1][0])
        known = self._fixed(p)
        for node in keep:
            if self._first_pass(node) == p:
                self._hold(node)
        moments = [state for state in states if isinstance(state.fold, Moments)]
        first, bound = self._range(low, high)
        if moments:
            self._begin_moments(moments, known, first, bound)
        self._loop(p, states, known, keep, first, bound)
        if moments:
            self._end_moments(moments, first, bound)
        return states

    def _empty(self, fold: Fold) -> State:
        """Declares the state of an empty fold."""
        s = Arithmetic(self.w)
        state = State(fold, tuple(self.array(computed_type(t), "s") for t in fold.parts))
        with self.each():
            for name, v in zip(state.names, start_of(s, fold)):
                self.w.line(f"{name} = {v.text};")
        return state

    def results(self, of: Pass, states: Sequence[State]) -> None:
        """The results that follow from a pass's states, which are a row's."""
        for made in of.made:
            (term, *more) = made.terms
            if not more and not term.factors and not isinstance(of.folds[term.fold], Moments):  # type: ignore[index]
                self.found[made.number] = Val(states[term.fold].names[term.part], made.dtype)  # type: ignore[index]
                continue
            name = self.array(computed_type(made.dtype), "made")
            known = self._chunks_of([f.node for t in made.terms for f in t.factors], {})
            with self.each():
                point = self.point(known=known, each=True)
                found = [parts_of(point.s, state.fold, state.values) for state in states]
                self.w.line(f"{name} = {made.value(point.s, found, self.points, point.value).text};")
            self.found[made.number] = Val(name, made.dtype)

    def _range(self, low: str, high: str | None) -> tuple[str, str]:
        """This thread's first chunk of a row, or of a part of it, and where the chunks end."""
        lane = self.lane if self.layout.across else "share"
        return lane if low == "0" else f"{low} + {lane}", high if high is not None else str(self.chunks)

    def _begin_moments(self, moments: Sequence[State], known: dict[int, Val], first: str, bound: str) -> None:
        """The pivots: each thread's first value of its row, which bounds what is lost where squares about it become those about the mean."""
        w = self.w
        for state in moments:
            self.pivots[state.names[1]] = Val(self.array(computed_type(state.fold.parts[1]), "pivot"), state.fold.parts[1])
        with w.block(""):
            w.line(f"const {self.integer} c = {first} < {bound} ? {first} : {bound} - 1;")
            place = self._place_of_chunk()
            inside = self._chunks_of([state.fold.node for state in moments], known, place)
            with self.each():
                point = self.point(place, inside, each=True)
                for state in moments:
                    x, pivot = point.value(state.fold.node), self.pivots[state.names[1]]
                    w.line(f"{pivot.text} = {point.s.cast(x, x.dtype, pivot.dtype).text};")

    def _end_moments(self, moments: Sequence[State], first: str, bound: str) -> None:
        """What was summed about the pivots as counts, means and squares about these."""
        w, width, s = self.w, self.layout.width if self.layout.across else 1, Arithmetic(self.w)
        count = w.value("n", "int", f"{first} < {bound} ? (int)(({bound} - 1 - ({first})) / {self.layout.threads} + 1) * {width} : 0")
        with self.each():
            for state in moments:
                n, total, squares = state.values
                number = s.cast(Val(count, INT32), INT32, n.dtype)
                mean = s.div(total, s.max(number, s.const(1, n.dtype)))
                rest = s.max(s.sub(squares, s.mul(total, mean)), s.const(0, n.dtype))
                moved = s.add(self.pivots[total.text], mean)
                for name, v in zip(state.names, (number, moved, rest)):
                    w.line(f"{name} = {v.text};")

    def _fixed(self, p: int) -> dict[int, Val]:
        """What does not change from point to point of a row."""
        nodes = invariant(self.rows.trace, self.roots[p], set(range(self.rows.kept, len(self.sizes))))
        under = dims_under(self.rows.trace, nodes)
        fixed = self.point()
        alike = [n for n in nodes if self.columns == 1 or self.along not in under[id(n)]]
        known = {id(n): fixed.value(n) for n in alike}
        others = [n for n in nodes if id(n) not in known]
        inside = self._chunks_of(others, known)
        made = [(n, self.array(computed_type(n.dtype), "f")) for n in others if id(n) not in inside]
        if made:
            with self.each():
                point = self.point(known=inside, each=True)
                for n, name in made:
                    self.w.line(f"{name} = {point.value(n).text};")
        return {**known, **{id(n): inside[id(n)] for n in others if id(n) in inside}, **{id(n): Val(name, n.dtype) for n, name in made}}

    def _hold(self, node: Node) -> None:
        """Declares the array of what is kept of a node. In shared memory a thread's elements lie `threads` apart, so that lanes are neighbours."""
        w, layout, packed = self.w, self.layout, self._packed(node)
        name = self.held[id(node)] = w.fresh("h")
        kind = f"Chunk<{node.dtype.bytes * layout.width}>::type" if packed else computed_type(node.dtype)
        count = layout.turns if packed else layout.turns * layout.width
        if not layout.shared:
            w.line(f"{kind} {name}[{count}];")
            return
        if not self.shared_bytes:
            w.line("extern __shared__ __align__(16) unsigned char memory[];")
        w.line(f"{kind}* const {name} = reinterpret_cast<{kind}*>(memory + {self.shared_bytes}) + lane;")
        self.shared_bytes += count * layout.threads * self._bytes(node)

    def _bytes(self, node: Node) -> int:
        """Of an element of its array."""
        return node.dtype.bytes * self.layout.width if self._packed(node) else 8 if node.dtype.bits == 64 else 4

    def _place(self, node: Node, slot: str) -> str:
        """Where a thread keeps a node of a point, or of a chunk where it is packed."""
        return f"{self.held[id(node)]}[{f'({slot}) * {self.layout.threads}' if self.layout.shared else slot}]"

    def _loop(self, p: int, states: list[State], known: dict[int, Val], keep: Sequence[Node], first: str, bound: str) -> None:
        """The loop of one pass over this thread's chunks."""
        w, layout, chunks = self.w, self.layout, self.chunks
        if p in self.running:
            self._running_loop(p, states[0], known, keep)
            return
        if layout.turns:
            w.line(f"#pragma unroll {SHARED_UNROLLED}" if layout.shared else "#pragma unroll")
            with w.block(f"for (int k = 0; k < {layout.turns}; ++k)"):
                w.line(f"const {self.integer} c = {first} + k * {layout.threads};")
                if chunks % layout.threads:
                    with w.block(f"if (c < {chunks})"):
                        self._chunk(p, states, known, keep)
                else:
                    self._chunk(p, states, known, keep)
            return
        if self.batch:
            self._batches(p, states, known, keep, first, bound)
            return
        if self.columns > 1:
            w.line(f"#pragma unroll {chunks if layout.threads == 1 and chunks <= MOST_UNROLLED else BATCH}")
        with w.block(f"for ({self.integer} c = {first}; c < {bound}; c += {layout.threads})"):
            self._chunk(p, states, known, keep)

    def _running_loop(self, p: int, top: State, known: dict[int, Val], keep: Sequence[Node]) -> None:
        """The loop of a pass that makes the next one's sum too: a few chunks are read, and then the sum so far is corrected by their maximum."""
        w, layout, total = self.w, self.layout, self.ahead
        assert total is not None
        w.line("#pragma unroll 1")
        with w.block(f"for (int k0 = 0; k0 < {layout.turns}; k0 += {SHARED_UNROLLED})"):
            w.line(f"float seen[{SHARED_UNROLLED * layout.width}], top = {top.names[0]};")
            with w.unrolled("u", SHARED_UNROLLED):
                w.line("const int k = k0 + u;")
                w.line(f"const {self.integer} c = {self.lane} + k * {layout.threads};")
                with w.unrolled("j", layout.width):
                    w.line(f"seen[u * {layout.width} + j] = -infinity_f32();")
                with w.block(f"if (c < {self.chunks})"):
                    self._chunk(p, [top], known, keep)
            with w.unrolled("i", SHARED_UNROLLED * layout.width):
                w.line("top = maximum(top, seen[i]);")
            self._correct(top.names[0], "top")
            w.line("const float base = finite_maximum(top);")
            with w.unrolled("i", SHARED_UNROLLED * layout.width):
                w.line(f"{total.names[0]} += exp_near(seen[i] - base);")
            w.line(f"{top.names[0]} = top;")
        self.own = w.value("own", "float", top.names[0])  # before it is folded with those of other threads

    def _correct(self, before: str, now: str) -> None:
        """The running sum becomes one of values less another maximum."""
        assert self.ahead is not None
        self.w.line(f"{self.ahead.names[0]} *= exp_near({before} - finite_maximum({now}));")

    def _corrected(self, p: int) -> State:
        """The sum that the pass before has made, of values less the row's maximum."""
        assert self.ahead is not None
        number = sum(map(len, self.rows.folds[: p - 1]))
        self._correct(self.own, self.found[number].text)
        return self.ahead

    def _batches(self, p: int, states: list[State], known: dict[int, Val], keep: Sequence[Node], first: str, bound: str) -> None:
        """The loop with outputs: a few points are read before any of their outputs is stored, which might be where others are read."""
        w, step, batch = self.w, self.layout.threads, BATCH if self.columns == 1 else BATCH // 2
        with w.block(f"for ({self.integer} start = {first}; start < {bound}; start += {step * batch})"):
            for name, node, _, _ in self.batch:
                w.line(f"{computed_type(node.dtype)} {name}[{batch}]{f'[{self.columns}]' if self.columns > 1 else ''};")
            for stores in (False, True):
                with w.unrolled("u", batch):
                    w.line(f"const {self.integer} c = start + u * {step};")
                    with w.block(f"if (c < {bound}{f' && {self.live}' if stores and self.live else ''})"):
                        if not stores:
                            self._chunk(p, states, known, keep)
                            continue
                        place = delinearized(w, "c", self.reduced, stem="r")
                        for name, _, address, k in self.batch:
                            if self.columns > 1:
                                w.line(f"store<{self.columns}>({w.result(k).name} + {self.point(place).index(address)}, {name}[u]);")
                            else:
                                w.line(f"store({w.result(k).name} + {self.point(place).index(address)}, {name}[u]);")

    def _chunk(self, p: int, states: list[State], known: dict[int, Val], keep: Sequence[Node]) -> None:
        """Chunk `c` of the row: its points, one after the other."""
        w, place = self.w, self._place_of_chunk()
        tests = self.passed_over(p)
        with w.block(f"if ({self.point(place).all_of(tests)})") if tests else nullcontext():
            self.passed = tests
            self._inside(p, place, self.point(place, dict(known)), states, dict(known), keep)
            self.passed = []

    def _place_of_chunk(self) -> list[str]:
        """Where chunk `c` begins."""
        width = self.layout.width
        if self.layout.across:
            return delinearized(self.w, "c", [*self.reduced[:-1], self.reduced[-1] // width] if self.reduced else [], width, "r")
        return delinearized(self.w, "c", self.reduced, stem="r")

    def passed_over(self, p: int) -> list[Test]:
        """Tests that few points pass, without which a point adds nothing to the folds of a level, alike for all that a thread takes at once: the taps
        of a window that steps over a place."""
        level = self.rows.folds[p] if p < len(self.rows.folds) else []
        if not level or self.batch or self.layout.turns or not all(isinstance(f.node, (Guard, Read)) for f in level):
            return []
        if any(f.place is not None or isinstance(f, Moments) for f in level):
            return []
        s, common = Arithmetic(self.w), dict.fromkeys(level[0].node.tests)  # type: ignore[attr-defined]
        for f in level:
            outside = f.node.outside if isinstance(f.node, Guard) else 0
            if s.const(outside, f.parts[0]).text != start_of(s, f)[0].text:
                return []
            common = {t: None for t in common if t in f.node.tests}  # type: ignore[attr-defined]
        width = max(self.columns, self.layout.width)
        return [t for t in common if 2 * t.size <= self._values_of(t.expr) and (width == 1 or steady(self.rows.trace, t.expr, self.along, width))]

    def _values_of(self, e: Expr) -> int:
        low, high = index.bounds(e, self.sizes, (0, 0))
        return high - low + 1

    def phases(self) -> dict[int, int]:
        """Kept dims of which every n-th place passes the same tests, and n: neighbouring threads take those."""
        found: dict[int, int] = {}
        for t in self.passed_over(0):
            if isinstance(t.expr, Mod):
                dims = [d for d in index.dims_of(t.expr) if d < self.rows.kept and self.sizes[d] % t.expr.divisor == 0]
                found |= dict.fromkeys(dims, t.expr.divisor)
        return found

    def _inside(self, p: int, place: list[str], base: Point, states: list[State], known: dict[int, Val], keep: Sequence[Node]) -> None:
        w, width = self.w, self.layout.width
        earlier = {id(n) for n in keep if p > self._first_pass(n)}
        kept = {id(n) for n in keep}
        reach = self._reach(p, earlier).values() if width > 1 else ()
        for read in (n for n in reach if isinstance(n, Read)):
            if id(read) in self.brought:
                known[id(read)] = self._unpacked(read, f"{self.brought[id(read)]}[k]")
            elif id(read) in kept and self._packed(read):
                held = self._place(read, "k")
                if id(read) not in earlier:
                    w.line(f"{held} = load_packed<{width}>({self.memory(read.operand).name} + {base.index(read.address)});")
                known[id(read)] = self._unpacked(read, held)
            elif id(read) not in earlier and id(read) not in known and self._in_chunks(read):
                known[id(read)] = Val(f"{load_chunk(w, base, self.memory, read, width)}[j]", read.dtype)
        outs = [(w.fresh("out"), node, address, k) for node, address, k in self.outputs] if p == len(self.rows.folds) else []
        if width > 1:
            for name, node, _, _ in outs:
                w.line(f"{computed_type(node.dtype)} {name}[{width}];")
            with w.unrolled("j", width):
                at = [*place[:-1], f"({place[-1]} + j)"] if self.layout.across else place
                self._at(p, at, "j", states, known, keep, earlier, outs)
        else:
            self._at(p, place, "0", states, known, keep, earlier, outs)
        for name, _, address, k in outs:
            if width > 1:
                w.line(f"store<{width}>({self.target(k)} + {base.index(address)}, {name});")

    def _at(self, p: int, place: list[str], j: str, states: list[State], known: dict[int, Val], keep: Sequence[Node], earlier: set[int],
            outs: list[tuple]) -> None:  # fmt: skip
        """One point: folded into the states, or its results."""
        w, width = self.w, self.layout.width
        slot = f"k * {width} + {j}" if width > 1 else "k"
        open_ = [n for n in keep if not self._packed(n)]
        known = {**known, **{id(n): Val(self._place(n, slot), n.dtype) for n in open_ if id(n) in earlier}}
        point = self._with_powers(self.point(place, known, each=True), place, known)
        for state in states:
            x = point.value(state.fold.node)
            if self.p in self.running:
                w.line(f"seen[u * {width} + {j}] = {x.text};")
                continue
            element = [point.s.cast(x, x.dtype, state.fold.parts[0])]
            if isinstance(state.fold, Moments):
                apart = point.s.sub(element[0], self.pivots[state.names[1]])
                for name, v, more in zip(state.names[1:], state.values[1:], (apart, point.s.mul(apart, apart))):
                    w.line(f"{name} = {point.s.add(v, more).text};")
                continue
            if state.fold.place is not None:
                at = point.integer(state.fold.place)
                element.append(point.s.cast(at, at.dtype, INT32))
            for name, v in zip(state.names, combined(point.s, state.fold, state.values, element)):
                w.line(f"{name} = {v.text};")
        values = [(name, point.value(node), address, k) for name, node, address, k in outs]
        for name, value in [(name, point.value(node)) for name, node, _, _ in self.batch]:
            w.line(f"{name}[u]{'[j]' if self.columns > 1 else ''} = {value.text};")
        for name, value, address, k in values:
            w.line(f"{name}[j] = {value.text};" if width > 1 else f"store({self.target(k)} + {point.index(address)}, {value.text});")
        for node in open_:
            if self._first_pass(node) == self.p:
                w.line(f"{self._place(node, slot)} = {point.value(node).text};")

    def _with_powers(self, point: Point, place: list[str], known: dict[int, Val]) -> Point:
        """The point where exponentials are the same that were summed in a pass ahead."""
        nodes = self._reach(self.p).values() if self.powers else ()
        powers = {id(n): n for n in nodes if isinstance(n, Apply) and any(running.alike(n, power) for power in self.powers)}
        made = {i: Val(self.w.value("v", "float", f"exp_near({point.value(n.arguments[0]).text})"), n.dtype) for i, n in powers.items()}
        return self.point(place, {**known, **made}, each=True) if made else point

    def _in_chunks(self, read: Read) -> bool:
        """Whether a chunk's points are loaded at once."""
        return in_chunks(self.rows, self.w.request, read, self.along, self.layout.width)

    def _packed(self, node: Node) -> bool:
        """Whether a kept node is kept as it lies in memory: 16-bit elements take half the registers then."""
        fits = isinstance(node, Read) and node.dtype.bits == 16 and self.layout.width > 1 and not node.tests
        return fits and self._in_chunks(node)  # type: ignore[arg-type]

    def _unpacked(self, read: Read, held: str) -> Val:
        """A chunk that is held as it lies in memory; its element at `j`."""
        w, name = self.w, self.w.fresh("x")
        w.line(f"{computed_type(read.dtype)} {name}[{self.layout.width}];")
        w.line(f"unpack<{memory_type(read.dtype)}>({held}, {name});")
        return Val(f"{name}[j]", read.dtype)

    # ---- what is kept between passes

    def _first_pass(self, node: Node) -> int:
        return next(p for p in range(len(self.roots)) if id(node) in self._reach(p))

    def _reach(self, p: int, there: Container[int] = ()) -> dict[int, Node]:
        """What pass p needs inside its loops, down to what is `there`."""
        moving = set(range(self.rows.kept, len(self.sizes)))
        fixed = {id(n) for n in invariant(self.rows.trace, self.roots[p], moving)}
        found: dict[int, Node] = {}
        stack = list(self.roots[p])
        while stack:
            node = stack.pop()
            if id(node) in found or id(node) in fixed:
                continue
            found[id(node)] = node
            if id(node) in there:
                continue
            parts, expressions = children(node)
            stack += parts
            stack += [self.rows.trace.symbols[n] for e in expressions for n in symbols_of(e)]
        return found

    def kept(self) -> list[Node]:
        """The nodes that are kept from their first pass on: those next to what later passes compute that cost much to make again."""
        if not self.layout.turns:
            return []
        out: dict[int, Node] = {}
        room = shared_room(self.w.request.arch, self.layout.threads) if self.layout.shared else MOST_HELD
        earlier: set[int] = set()
        for p in range(len(self.roots)):
            stack, seen = list(self.roots[p]), set()
            reach = self._reach(p)
            while stack:
                node = stack.pop()
                if id(node) in seen or id(node) not in reach:
                    continue
                seen.add(id(node))
                if id(node) in earlier and (id(node) in out or _cost(node, out) >= KEEP):
                    taken = 0 if id(node) in out else self._taken(node)
                    if taken <= room:
                        room -= taken
                        out[id(node)] = node
                        continue
                stack += children(node)[0]
            earlier |= set(reach)
        return [node for node in out.values() if id(node) not in self.brought]

    def _taken(self, node: Node) -> int:
        """Registers of a thread, or bytes of shared memory, that it takes to keep a node."""
        if self.layout.shared:
            return self.layout.turns * (1 if self._packed(node) else self.layout.width) * self.layout.threads * self._bytes(node)
        return self.layout.turns * self.layout.width // (2 if self._packed(node) else 1)


def shared_room(arch: Arch, threads: int) -> int:
    """Bytes of shared memory for what a block of so many threads keeps of its row: a multiprocessor has 1024 of them."""
    return arch.shared_bytes * threads // 1024 - STATIC_SHARED


def in_chunks(rows: Rows, request: Request, read: Read, dim: int, width: int) -> bool:
    """Whether one access reads `width` neighbouring points along a dim of the nest."""
    moving = any(moves_with(rows.trace, t.expr, dim) for t in read.tests)
    scattered = any(dim in dims_under(rows.trace, [rows.trace.symbols[n]])[id(rows.trace.symbols[n])] for n in symbols_of(read.address))
    return not moving and not scattered and request.operand_aligned(read.operand) and chunked(read.address, dim, width)


def _cost(node: Node, kept: Container[int]) -> int:
    """Instructions to make a node again from what is kept."""
    stack, seen, total = [node], set[int](), 0
    while stack:
        n = stack.pop()
        if id(n) in seen or id(n) in kept or isinstance(n, Given):
            continue
        seen.add(id(n))
        total += LOAD if isinstance(n, Read) else WEIGHTS.get(n.op.operation.name, 1) if isinstance(n, Apply) else 1
        stack += children(n)[0]
    return total
