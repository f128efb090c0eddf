"""Passes over the reduced axes of a reduce kernel: a group of threads makes one row, every pass folds all its points in a fixed order.

Where memory is contiguous along the reduced axes, the threads of a group are neighbours along them and fold their states by shuffles, a butterfly
in which every lane gets the same bits. Where it is contiguous along a kept axis, the 32 threads of a warp are neighbouring rows, the warps of a
block share the points of each row, and their states meet in shared memory.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import prod

from dslc.core.dtypes import BOOL, INT32
from dslc.ir.index import Expr
from dslc.ir.ops.reduction import KINDS, identity
from dslc.ir.rows import Fold, Rows
from dslc.ir.trace import Apply, Given, Node, Read, children, invariant, survey, symbols_of

from ..pull import Point, chunked, moves_with
from ..scalars import Arithmetic, Val
from ..stage import FunctionWriter, Memory
from ..types import computed_type, memory_type
from .map import delinearized, load_chunk

# Instructions of an op where they are more than one.
WEIGHTS = {
    "nn.exp": 8, "nn.expm1": 20, "nn.log": 16, "nn.log1p": 25, "nn.tanh": 20, "nn.erf": 25, "nn.sigmoid": 16, "nn.sin": 20, "nn.cos": 20,
    "nn.pow": 60, "nn.div": 8, "nn.sqrt": 8, "nn.rsqrt": 8, "nn.random": 60, "nn.mod": 20, "nn.floordiv": 10, "nn.atan2": 40,
}  # fmt: skip
LOAD = 8  # of an element from memory
KEEP = 8  # a value that costs at least this is kept in registers for the next pass rather than made again
BATCH = 4  # points whose values are read before the first of their outputs is stored
SMALL = 64 << 10  # bytes of operands that are asked for ahead whatever they are
MOST_HELD = 64  # registers of a thread that keep values from pass to pass


@dataclass(frozen=True)
class Layout:
    """How rows are shared out. `across`: a group's threads are neighbours along the reduced axes, else along the kept dim `dim`.

    `threads`: of a group; `rows`: groups of a block; `width`: neighbouring points a thread takes at once; `turns`: chunks that a thread takes of a
    row, where its values stay in registers between passes, else 0.
    """

    across: bool
    dim: int | None
    threads: int
    rows: int
    width: int
    turns: int

    @property
    def block(self) -> int:
        return self.threads * self.rows


@dataclass(frozen=True)
class State:
    """The running state of a fold: names of the variables that hold its parts."""

    fold: Fold
    names: tuple[str, ...]

    @property
    def values(self) -> list[Val]:
        return [Val(n, t) for n, t in zip(self.names, self.fold.parts)]


def start_of(s: Arithmetic, fold: Fold) -> list[Val]:
    """What an empty fold's state is."""
    kind = {"argmax": "max", "argmin": "min"}.get(fold.kind, fold.kind)
    return [s.const(v, t) for v, t in zip((identity(kind, fold.dtype), 0), fold.parts)]


def combined(s: Arithmetic, fold: Fold, a: Sequence[Val], b: Sequence[Val]) -> list[Val]:
    """The fold of two states; of equal extremes the earlier one in the axis is kept, of NaNs the first."""
    if fold.place is None:
        return [getattr(s, KINDS[fold.kind][2])(a[0], b[0])]
    better = s.call(f"better_{fold.kind}", *a, *b, dtype=BOOL)
    return [s.select(better, y, x) for x, y in zip(a, b)]


class RowWriter:
    """Writes a reduce kernel's function: `rows` through all its passes, or one pass over a chunk of every row."""

    def __init__(self, w: FunctionWriter, rows: Rows, layout: Layout, memory: Callable[[int], Memory], integer: str) -> None:
        self.w, self.rows, self.layout, self.memory, self.integer = w, rows, layout, memory, integer
        self.sizes = rows.nest.sizes
        self.reduced = self.sizes[rows.kept :]
        self.points = prod(self.reduced)
        self.found: dict[int, Val] = {}  # results of the folds, by number
        self.held: dict[int, str] = {}  # arrays of what is kept, by node
        self.outputs = [(node, address, k) for k, (node, address, row) in enumerate(rows.results) if not row]
        self.roots = [[f.node for f in level] for level in rows.folds]
        if self.outputs:
            self.roots.append([node for node, _, _ in self.outputs])
        self.row_dims: list[str] = []
        self.p = 0  # the pass in work
        self.batch: list[tuple[str, Node, Expr, int]] = []  # outputs of the first pass: array, node, address, number
        self.live = ""

    def early(self, outputs: Sequence[tuple[Node, Expr, int]], live: str) -> None:
        """The outputs are these alone, and the first pass makes them, one point at once; `live`: test that a thread's row exists."""
        self.outputs = []
        self.batch = [(self.w.fresh("out"), node, address, k) for node, address, k in outputs]
        self.roots = [[*self.roots[0], *(node for node, _, _ in outputs)], *self.roots[1 : len(self.rows.folds)]]
        self.live = live

    def given(self, node: Given) -> Val:
        """The result of a fold that is done."""
        return self.found[node.key] if node.key is not None else Arithmetic(self.w).const(0, node.dtype)

    def point(self, place: Sequence[str], known: dict[int, Val] | None = None) -> Point:
        """The point of this thread's row at a place in the reduced space."""
        return Point(self.w, self.rows.trace, self.memory, [*self.row_dims, *place], self.given, known, self.integer)

    # ---- ahead

    def ask(self, blocks: int) -> None:
        """Asks ahead for what this thread reads of a matrix that a few rows are multiplied with, or of operands that are small altogether. Of many
        blocks those do that may begin early."""
        w, layout = self.w, self.layout
        last = self.sizes[-1] if self.reduced else 0
        reads = [r for r in survey(self.rows.trace, self.roots[0] + self.roots[-1]).reads if self._in_chunks(r) and not symbols_of(r.address)]
        bytes_of = {r.operand: w.request.operands[r.operand].size * r.dtype.bytes for r in reads if r.operand < len(w.request.operands)}
        total = sum(bytes_of.values())
        wanted = [r for r in reads if r.operand in bytes_of and not r.tests and (total <= SMALL or bytes_of[r.operand] > 15 / 16 * total)]
        if not (last and layout.across and wanted and w.request.arch.launches_overlap):
            return
        chunks, early = self.points // layout.width, w.request.arch.sms * 2048 // layout.block
        with w.block(f"if (blockIdx.x < {early})") if blocks > early else nullcontext():
            with w.block(f"for ({self.integer} c = lane; c < {chunks}; c += {layout.threads})"):
                place = delinearized(w, "c", [*self.reduced[:-1], self.reduced[-1] // layout.width], layout.width, "r")
                point = self.point(place)
                for read in wanted:
                    w.prefetch(f"{self.memory(read.operand).name} + {point.index(read.address)}")
        w.ahead_ends()

    # ---- passes

    def run_pass(self, p: int, keep: Sequence[Node], low: str = "0", high: str | None = None) -> list[State]:
        """One pass: this thread's states of level p, or, after the last level, the stores of the results that are not of the rows."""
        self.p = p
        level = self.rows.folds[p] if p < len(self.rows.folds) else []
        s = Arithmetic(self.w)
        states = []
        for fold in level:
            names = tuple(self.w.fresh("s") for _ in fold.parts)
            for name, t, v in zip(names, fold.parts, start_of(s, fold)):
                self.w.line(f"{computed_type(t)} {name} = {v.text};")
            states.append(State(fold, names))
        fixed = self.point(["0"] * len(self.reduced))
        moving = set(range(self.rows.kept, len(self.sizes)))
        known = {id(n): fixed.value(n) for n in invariant(self.rows.trace, self.roots[p], moving)}
        for node in keep:
            if self._first_pass(node) == p:
                name = self.held[id(node)] = self.w.fresh("h")
                if self._packed(node):
                    self.w.line(f"Chunk<{node.dtype.bytes * self.layout.width}>::type {name}[{self.layout.turns}];")
                else:
                    self.w.line(f"{computed_type(node.dtype)} {name}[{self.layout.turns * self.layout.width}];")
        self._loop(p, states, known, keep, low, high)
        return states

    def _loop(self, p: int, states: list[State], known: dict[int, Val], keep: Sequence[Node], low: str, high: str | None) -> None:
        """The loop of one pass over this thread's chunks."""
        w, layout = self.w, self.layout
        chunks = self.points // layout.width
        lane = "lane" if layout.across else "share"
        if layout.turns:
            with w.unrolled("k", layout.turns):
                w.line(f"const {self.integer} c = {lane} + k * {layout.threads};")
                if chunks % layout.threads:
                    with w.block(f"if (c < {chunks})"):
                        self._chunk(p, states, known, keep)
                else:
                    self._chunk(p, states, known, keep)
            return
        bound = high if high is not None else str(chunks)
        first = lane if low == "0" else f"{low} + {lane}"
        if self.batch:
            self._batches(p, states, known, keep, first, bound)
            return
        with w.block(f"for ({self.integer} c = {first}; c < {bound}; c += {layout.threads})"):
            self._chunk(p, states, known, keep)

    def _batches(self, p: int, states: list[State], known: dict[int, Val], keep: Sequence[Node], first: str, bound: str) -> None:
        """The loop with outputs: a few points are read before any of their outputs is stored, which might be where others are read."""
        w, step = self.w, self.layout.threads
        with w.block(f"for ({self.integer} start = {first}; start < {bound}; start += {step * BATCH})"):
            for name, node, _, _ in self.batch:
                w.line(f"{computed_type(node.dtype)} {name}[{BATCH}];")
            for stores in (False, True):
                with w.unrolled("u", BATCH):
                    w.line(f"const {self.integer} c = start + u * {step};")
                    with w.block(f"if (c < {bound}{f' && {self.live}' if stores and self.live else ''})"):
                        if not stores:
                            self._chunk(p, states, known, keep)
                            continue
                        base = self.point(delinearized(w, "c", self.reduced, stem="r"))
                        for name, _, address, k in self.batch:
                            w.line(f"store({w.result(k).name} + {base.index(address)}, {name}[u]);")

    def _chunk(self, p: int, states: list[State], known: dict[int, Val], keep: Sequence[Node]) -> None:
        """Chunk `c` of the row: its points, one after the other."""
        w, width = self.w, self.layout.width
        place = delinearized(w, "c", [*self.reduced[:-1], self.reduced[-1] // width] if self.reduced else [], width, "r")
        known = dict(known)
        base = self.point(place, dict(known))
        earlier = {id(n) for n in keep if p > self._first_pass(n)}
        kept = {id(n) for n in keep}
        reach = self._reach(p, earlier).values() if width > 1 else ()
        for read in (n for n in reach if isinstance(n, Read)):
            if id(read) in kept and self._packed(read):
                known[id(read)] = self._unpacked(read, base, id(read) in earlier)
            elif id(read) not in earlier and id(read) not in known and self._in_chunks(read):
                known[id(read)] = Val(f"{load_chunk(w, base, self.memory, read, width)}[j]", read.dtype)
        outs = [(w.fresh("out"), node, address, k) for node, address, k in self.outputs] if p == len(self.rows.folds) else []
        if width > 1:
            for name, node, _, _ in outs:
                w.line(f"{computed_type(node.dtype)} {name}[{width}];")
            with w.unrolled("j", width):
                self._at(p, [*place[:-1], f"({place[-1]} + j)"], "j", states, known, keep, earlier, outs)
        else:
            self._at(p, place, "0", states, known, keep, earlier, outs)
        for name, _, address, k in outs:
            if width > 1:
                w.line(f"store<{width}>({w.result(k).name} + {base.index(address)}, {name});")

    def _at(self, p: int, place: list[str], j: str, states: list[State], known: dict[int, Val], keep: Sequence[Node], earlier: set[int],
            outs: list[tuple]) -> None:  # fmt: skip
        """One point: folded into the states, or its results."""
        w, width = self.w, self.layout.width
        slot = f"k * {width} + {j}" if width > 1 else "k"
        open_ = [n for n in keep if not self._packed(n)]
        known = {**known, **{id(n): Val(f"{self.held[id(n)]}[{slot}]", n.dtype) for n in open_ if id(n) in earlier}}
        point = self.point(place, known)
        for state in states:
            x = point.value(state.fold.node)
            element = [point.s.cast(x, x.dtype, state.fold.parts[0])]
            if state.fold.place is not None:
                at = point.integer(state.fold.place)
                element.append(point.s.cast(at, at.dtype, INT32))
            for name, v in zip(state.names, combined(point.s, state.fold, state.values, element)):
                w.line(f"{name} = {v.text};")
        values = [(name, point.value(node), address, k) for name, node, address, k in outs]
        for name, value in [(name, point.value(node)) for name, node, _, _ in self.batch]:
            w.line(f"{name}[u] = {value.text};")
        for name, value, address, k in values:
            w.line(f"{name}[j] = {value.text};" if width > 1 else f"store({w.result(k).name} + {point.index(address)}, {value.text});")
        for node in open_:
            if self._first_pass(node) == self.p:
                w.line(f"{self.held[id(node)]}[{slot}] = {point.value(node).text};")

    def _in_chunks(self, read: Read) -> bool:
        """Whether a chunk's points are loaded at once."""
        last = len(self.sizes) - 1
        still = not any(moves_with(self.rows.trace, t.expr, last) for t in read.tests)
        return still and self.w.request.operand_aligned(read.operand) and chunked(read.address, last, self.layout.width)

    def _packed(self, node: Node) -> bool:
        """Whether a kept node is kept as it lies in memory: 16-bit elements take half the registers then."""
        fits = isinstance(node, Read) and node.dtype.bits == 16 and self.layout.width > 1 and not node.tests
        return fits and self._in_chunks(node)  # type: ignore[arg-type]

    def _unpacked(self, read: Read, base: Point, again: bool) -> Val:
        """A chunk that is kept as it lies in memory, loaded unless it is there `again`; its element at `j`."""
        w, width, held = self.w, self.layout.width, self.held[id(read)]
        if not again:
            w.line(f"{held}[k] = load_packed<{width}>({self.memory(read.operand).name} + {base.index(read.address)});")
        name = w.fresh("x")
        w.line(f"{computed_type(read.dtype)} {name}[{width}];")
        w.line(f"unpack<{memory_type(read.dtype)}>({held}[k], {name});")
        return Val(f"{name}[j]", read.dtype)

    # ---- a group's states become one

    def folded(self, states: Sequence[State]) -> None:
        """The states of a row's threads folded, so that each of them has the result."""
        if not states:
            return
        if self.layout.across:
            self._butterfly(states, min(self.layout.threads, 32))
            if self.layout.threads > 32:
                self._through_shared(states, self.layout.threads // 32, "lane / 32", "lane % 32 == 0", "0")
        elif self.layout.threads > 1:
            self._through_shared(states, self.layout.threads, "share", "true", "column")

    def _butterfly(self, states: Sequence[State], lanes: int) -> None:
        w = self.w
        w.line("#pragma unroll")
        with w.block(f"for (int offset = {lanes // 2}; offset > 0; offset /= 2)"):
            s = Arithmetic(w)
            for state in states:
                other = []
                for v in state.values:
                    other.append(s.made(f"__shfl_xor_sync(0xffffffffu, {v.text}, offset)", v.dtype))
                for name, v in zip(state.names, combined(s, state.fold, state.values, other)):
                    w.line(f"{name} = {v.text};")

    def _through_shared(self, states: Sequence[State], parts: int, part: str, writes: str, column: str) -> None:
        """Every part of a row writes its state to shared memory; all threads fold them in the order of the parts."""
        w = self.w
        columns = 1 if column == "0" else self.layout.rows
        arrays = []
        for state in states:
            names = []
            for v in state.values:
                name = w.fresh("shared")
                w.line(f"__shared__ {computed_type(v.dtype)} {name}[{parts * columns}];")
                names.append(name)
            arrays.append(names)
        with w.block(f"if ({writes})") if writes != "true" else w.block(""):
            for state, names in zip(states, arrays):
                for name, v in zip(names, state.values):
                    w.line(f"{name}[{_place_of(part, columns, column)}] = {v.text};")
        w.line("__syncthreads();")
        s = Arithmetic(w)
        for state, names in zip(states, arrays):
            for name, array in zip(state.names, names):
                w.line(f"{name} = {array}[{_place_of('0', columns, column)}];")
        with w.block(f"for (int part = 1; part < {parts}; ++part)"):
            for state, names in zip(states, arrays):
                other = [s.made(f"{array}[{_place_of('part', columns, column)}]", v.dtype) for array, v in zip(names, state.values)]
                for name, v in zip(state.names, combined(s, state.fold, state.values, other)):
                    w.line(f"{name} = {v.text};")

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
        """The nodes that stay in registers from their first pass on: those next to what later passes compute that cost much to make again."""
        if not self.layout.turns:
            return []
        out: dict[int, Node] = {}
        room = MOST_HELD
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
                    taken = 0 if id(node) in out else self._registers(node)
                    if taken <= room:
                        room -= taken
                        out[id(node)] = node
                        continue
                stack += children(node)[0]
            earlier |= set(reach)
        return list(out.values())

    def _registers(self, node: Node) -> int:
        """That a thread needs to keep a node."""
        return self.layout.turns * self.layout.width // (2 if self._packed(node) else 1)


def _place_of(part: str, columns: int, column: str) -> str:
    return part if columns == 1 else f"{column}" if part == "0" else f"{part} * {columns} + {column}"


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
