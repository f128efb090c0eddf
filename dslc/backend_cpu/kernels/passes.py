"""Passes over the reduced axes of a reduce kernel: folds with several accumulators, values kept in scratch between passes, results stored.

A *stream* is one vector accumulator of each fold: along a reduced dim the streams are neighbouring vectors, along a kept dim they are columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from math import prod
from typing import Any

from dslc.core.dtypes import FLOAT32, DType
from dslc.ir import index
from dslc.ir.rows import Rows
from dslc.ir.trace import Apply, Given, Guard, Join, Node, Read, children, invariant, symbols_of

from .. import emit
from ..folds import Folding, State, flatten, foldings_of, unflatten
from ..pull import Point
from ..scalars import Val
from ..stage import Frame

Value = Any  # an ir.Value

BLOCK = 256  # vectors added to one accumulator before it is added to the next one: errors grow with the square root of what is left

# What an op costs, in instructions on a vector; every other op counts 1.
WEIGHTS = {
    "nn.exp": 12, "nn.expm1": 20, "nn.log": 20, "nn.log1p": 25, "nn.tanh": 25, "nn.erf": 20, "nn.sigmoid": 20, "nn.sin": 25, "nn.cos": 25,
    "nn.pow": 60, "nn.div": 6, "nn.sqrt": 8, "nn.rsqrt": 12, "nn.random": 90, "nn.mod": 20, "nn.floordiv": 20, "nn.atan2": 60,
    "nn.sinh": 40, "nn.cosh": 40,
}  # fmt: skip
MOST_TAPS = 9  # points of a reduced space up to which its loop is unrolled
KEEP = 8  # a value that costs more than this is kept for the next pass rather than made again


@dataclass(frozen=True)
class Layout:
    """How a reduce kernel runs. `dim`: the vector's dim of the nest, `lanes`; `columns`: vectors of a kept dim that run together."""

    dim: int | None
    lanes: int
    across: bool  # the vector's dim is a reduced one
    columns: int


@dataclass
class Block:
    """One row, or one vector of rows: its point, the folds' results by number."""

    point: Point
    dims: list[Value]
    mask: Value
    env: dict[Any, Val] = field(default_factory=dict)


@dataclass
class Kept:
    """A node that lies in scratch from its first pass on: type and offset in bytes."""

    node: Node
    dtype: DType
    first: int
    offset: int


@dataclass(frozen=True)
class Ahead:
    """The next row: its point, and what is read there."""

    dims: list[Value]
    reads: list[Read]


class Passes:
    """The passes of one kernel: what each computes, what is kept between them."""

    def __init__(self, rows: Rows, layout: Layout, cache: int) -> None:
        """`cache`: bytes that a core has near; 0: nothing is kept nor fetched."""
        self.rows, self.layout, self.cache = rows, layout, cache
        self.foldings = foldings_of(rows)
        self.sizes = rows.nest.sizes
        self.reduced = list(range(rows.kept, len(self.sizes)))
        if layout.across and layout.dim is not None:
            self.reduced = [d for d in self.reduced if d != layout.dim] + [layout.dim]
        self.outputs = [(node, address, k) for k, (node, address, row) in enumerate(rows.results) if not row]
        self.roots = [[f.node for f in level] for level in self.foldings]
        if self.outputs:
            self.roots.append([node for node, _, _ in self.outputs])
        moving = set(range(rows.kept, len(self.sizes)))
        self.hoisted = [invariant(rows.trace, roots, moving) for roots in self.roots]
        self.elements = prod(self.sizes[d] for d in self.reduced) * (1 if layout.across else layout.lanes * layout.columns)
        self.weights = [self._reach(p)[1] for p in range(len(self.roots))]
        self.kept = self._choose_kept(cache // 2)

    @property
    def few_points(self) -> bool:
        """Whether the reduced space is a handful of points, as in pooling and depthwise convolutions."""
        return not self.layout.across and prod(self.sizes[d] for d in self.reduced) <= MOST_TAPS

    @property
    def scratch_bytes(self) -> int:
        return sum(self._bytes(k.dtype) for k in self.kept)

    def _bytes(self, dtype: DType) -> int:
        return -(-self.elements * dtype.bytes // 64) * 64

    @cached_property
    def fetching(self) -> int | None:
        """The pass during which the next row is brought near: the fold that computes most. The first one reads as it computes; where another does
        more, nothing would be read meanwhile, and a processor does not see the next row coming: it lies on another page, or ends before it is seen.
        """
        if not self.layout.across or not self.foldings:
            return None
        work = [self._reach(p, [k.node for k in self.kept if k.first < p])[1] for p in range(len(self.foldings))]
        return work.index(max(work)) or None

    def fetched(self, sizes: Sequence[int]) -> list[Read]:
        """What the first pass reads in whole vectors, another in each row, of operands of so many bytes: of those that no cache holds anyway."""
        dim = self.layout.dim
        found: dict[Any, Read] = {}
        for node in self._reach(0)[0].values():
            if isinstance(node, Read) and not node.tests and sizes[node.operand] > self.cache:
                moves = index.coefficients(node.address, len(self.sizes))
                if moves is not None and dim is not None and moves[0][dim] == 1 and any(moves[0][: self.rows.kept]):
                    found[node.operand, node.address] = node
        row = sum(self.elements * read.dtype.bytes for read in found.values())
        return list(found.values()) if row <= self.cache // 4 else []

    def _reach(self, p: int, known: Sequence[Node] = ()) -> tuple[dict[int, Node], int]:
        """What pass p computes inside its loops, and its weight, where some values are known."""
        fixed = {id(n) for n in (*self.hoisted[p], *known)}
        found: dict[int, Node] = {}
        stack = list(self.roots[p])
        while stack:
            node = stack.pop()
            if id(node) in found or id(node) in fixed:
                continue
            found[id(node)] = node
            parts, expressions = children(node)
            stack += parts
            stack += [self.rows.trace.symbols[n] for e in expressions for n in symbols_of(e)]
        return found, sum(_weight(n) for n in found.values())

    def _choose_kept(self, limit: int) -> list[Kept]:
        reaches = [self._reach(p)[0] for p in range(len(self.roots))]
        out: dict[int, Kept] = {}
        offset = 0
        for q in range(1, len(reaches)):
            before = {k: p for p in reversed(range(q)) for k in reaches[p]}
            inner = {id(c) for n in reaches[q].values() if id(n) in before for c in children(n)[0]}
            for key, node in reaches[q].items():
                known = {k: n for k, n in reaches[q].items() if k not in out}
                if key not in before or key in inner or key in out or self._subtree(node, known) < KEEP:
                    continue
                dtype = FLOAT32 if node.dtype.is_float and node.dtype.bits < 32 else node.dtype
                if offset + self._bytes(dtype) <= limit:
                    out[key] = Kept(node, dtype, before[key], offset)
                    offset += self._bytes(dtype)
        return list(out.values())

    def _subtree(self, root: Node, within: dict[int, Node]) -> int:
        seen: set[int] = set()
        stack, total = [root], 0
        while stack:
            node = stack.pop()
            if id(node) in seen or id(node) not in within:
                continue
            seen.add(id(node))
            total += _weight(node)
            stack += children(node)[0]
        return total

    def streams(self, p: int) -> int:
        """How many vectors along the vector's dim a fold pass takes in one turn: enough to hide an addition's latency."""
        if not self.layout.across or self.layout.dim is None or p >= len(self.foldings):
            return 1
        n, lanes = self.sizes[self.layout.dim], self.layout.lanes
        wanted = 4 if self.weights[p] <= 6 else 2 if self.weights[p] <= 24 else 1
        while wanted > 1 and n < wanted * lanes * 2:
            wanted //= 2
        return wanted


def _weight(node: Node) -> int:
    if isinstance(node, Apply):
        return WEIGHTS.get(node.op.operation.name, 1) if node.arguments or node.op.operation.name == "nn.random" else 0
    return 1 if isinstance(node, Read) else 0 if isinstance(node, Given) else 2


class PassEmitter:
    """Emits one pass over some blocks. `bounds` may narrow one reduced dim to [low, high)."""

    def __init__(self, frame: Frame, passes: Passes, p: int, blocks: Sequence[Block], bounds: dict[int, tuple[Any, Any]] | None = None,
                 streaming: bool = False, ahead: Ahead | None = None) -> None:  # fmt: skip
        self.ahead = ahead
        self.frame, self.b, self.passes, self.p, self.blocks = frame, frame.b, passes, p, list(blocks)
        self.bounds, self.streaming = bounds or {}, streaming
        self.layout = passes.layout
        level = passes.foldings[p] if p < len(passes.foldings) else []
        self.foldings: list[Folding] = level
        self.known = [[(node, block.point.value(node)) for node in passes.hoisted[p]] for block in self.blocks]
        self.width = passes.streams(p)
        self.inside = False  # while points are emitted whose tests are known to hold

    def run(self) -> list[list[State]]:
        """For each block the state of each fold, all streams of it combined and, along a reduced dim, its lanes."""
        states = self._unrolled() if self.passes.few_points and not self.bounds else self._loops(0, [], self._start())
        if not self.layout.across:
            return states
        s = self.blocks[0].point.s
        while len(states) > 1:
            half = len(states) // 2
            states = [self._merged(s, states[k], states[k + half]) for k in range(half)]
        return [[f.across(s, state) for f, state in zip(self.foldings, states[0])]]

    def _unrolled(self) -> list[list[State]]:
        """Every point of a small reduced space, one after the other: the indices are constants. Away from borders without tests."""

        def points() -> list[Any]:
            states = self._start()
            for place in product(*(range(self.passes.sizes[d]) for d in self.passes.reduced)):
                states = self._turn([self.b.index(i) for i in place], None, states, 1)
            return self._carry(states)

        def inner() -> list[Any]:
            self.inside = True
            found = points()
            self.inside = False
            return found

        states = self._start()
        condition = self._all_inside()
        values = points() if condition is None else emit.choose(condition, [v.type for v in self._carry(states)], inner, points)
        return self._uncarry(values, states)

    def _all_inside(self) -> Value:
        """Whether all tests hold for every lane and point of the reduced space, as their least and greatest values tell; None where that is not
        known, or nothing is tested."""
        passes, (block, *more), dim = self.passes, self.blocks, self.layout.dim
        nodes = passes._reach(self.p)[0].values()
        tests = list(dict.fromkeys(t for n in nodes if isinstance(n, (Read, Guard)) for t in n.tests))
        if more or dim is None or not self.foldings or any(isinstance(n, Join) for n in nodes) or not (tests or block.mask is not None):
            return None
        found = emit.icmp("le", emit.iadd(block.dims[dim], self.layout.lanes), passes.sizes[dim])
        for t in tests:
            moves = index.coefficients(t.expr, len(passes.sizes))
            if moves is None:
                return None
            ends = []
            for last in (False, True):
                at = list(block.dims)
                for d in passes.reduced:
                    at[d] = self.b.index(passes.sizes[d] - 1 if (moves[0][d] > 0) == last else 0)
                if (moves[0][dim] > 0) == last:
                    at[dim] = emit.iadd(at[dim], self.layout.lanes - 1)
                ends.append(Point(self.b, passes.rows.trace, self.frame.operands, at).scalar(t.expr))
            for test in (emit.icmp("ge", ends[0], 0), emit.icmp("lt", ends[1], t.size)):
                found = self.b.same("arith.andi", found, test)
        return found

    def _start(self) -> list[list[State]]:
        count = self.width if self.layout.across else len(self.blocks)
        return [[f.start(self.b, self.layout.lanes) for f in self.foldings] for _ in range(count)]

    def _merged(self, s: Any, a: list[State], b: list[State]) -> list[State]:
        return [f.combine(s, x, y) for f, x, y in zip(self.foldings, a, b)]

    def _carry(self, states: list[list[State]]) -> list[Any]:
        return [v for stream in states for v in flatten(stream)]

    def _uncarry(self, values: Sequence[Any], like: list[list[State]]) -> list[list[State]]:
        rest, out = list(values), []
        for stream in like:
            n = sum(len(state) for state in stream)
            out.append(unflatten(rest[:n], stream))
            rest = rest[n:]
        return out

    def _nested(self, inner: Any, states: list[list[State]], fresh: bool) -> list[list[State]]:
        """Runs `inner(states)`; with `fresh` on accumulators of its own that are then added."""
        if not fresh or not self.foldings:
            return inner(states)
        s = self.blocks[0].point.s
        return [self._merged(s, a, b) for a, b in zip(states, inner(self._start()))]

    def _loops(self, k: int, at: list[Value], states: list[list[State]]) -> list[list[State]]:
        order = self.passes.reduced
        if k >= len(order):
            return self._turn(at, None, states, 1)
        dim = order[k]
        low, high = self.bounds.get(dim, (0, self.passes.sizes[dim]))
        if k < len(order) - 1:
            fresh = prod(self.passes.sizes[d] for d in order[k + 1 :]) // self.layout.lanes >= 8

            def body(i: Value, *c: Value) -> Sequence[Value]:
                return self._carry(self._nested(lambda st: self._loops(k + 1, [*at, i], st), self._uncarry(c, states), fresh))

            return self._uncarry(emit.loop(low, high, 1, body, self._carry(states)), states)
        if not self.layout.across:
            return self._blocked(low, high, 1, states, lambda i, st: self._turn([*at, i], None, st, 1))
        return self._vectors(at, low, high, states)

    def _vectors(self, at: list[Value], low: Any, high: Any, states: list[list[State]]) -> list[list[State]]:
        n, lanes = self.passes.sizes[self.passes.reduced[-1]], self.layout.lanes
        step = lanes * self.width
        whole = n // step * step
        rest = n - whole
        if whole:
            end = emit.imin(high, whole) if rest else high
            states = self._blocked(low, end, step, states, lambda i, st: self._turn([*at, i], None, st, self.width))
        if rest:

            def body(i: Value, *c: Value) -> Sequence[Value]:
                mask = emit.mask_below(emit.isub(n, i), lanes) if rest % lanes else None
                first = self._turn([*at, i], mask, self._uncarry(c, states[:1]), 1)
                return self._carry(first)

            start = emit.imax(low, whole) if whole else low
            states = [*self._uncarry(emit.loop(start, high, lanes, body, self._carry(states[:1])), states[:1]), *states[1:]]
        return states

    def _blocked(self, low: Any, high: Any, step: int, states: list[list[State]], turn: Any) -> list[list[State]]:
        """The innermost loop, in blocks with accumulators of their own where it is long."""

        def plain(first: Any, last: Any, st: list[list[State]]) -> list[list[State]]:
            return self._uncarry(emit.loop(first, last, step, lambda i, *c: self._carry(turn(i, self._uncarry(c, st))), self._carry(st)), st)

        n = self.passes.sizes[self.passes.reduced[-1]]
        if not self.foldings or n <= 2 * BLOCK * step:
            return plain(low, high, states)

        def block(i: Value, *c: Value) -> Sequence[Value]:
            end = emit.imin(self.b.add(i, BLOCK * step), high)
            return self._carry(self._nested(lambda st: plain(i, end, st), self._uncarry(c, states), True))

        return self._uncarry(emit.loop(low, high, BLOCK * step, block, self._carry(states)), states)

    # ---- one turn

    def _turn(self, at: list[Value], mask: Value, states: list[list[State]], width: int) -> list[list[State]]:
        """One point of the reduced space, or `width` vectors of it, in every stream."""
        out = []
        for j in range(len(self.blocks) if not self.layout.across else width):
            block = self.blocks[0 if self.layout.across else j]
            place = list(at)
            if self.layout.across and j:
                place[-1] = self.b.add(place[-1], j * self.layout.lanes)
            point = self._point(block, place, mask if self.layout.across else block.mask, self.known[0 if self.layout.across else j])
            self._recall(point, place, j)
            if self.ahead is not None and mask is None:
                self._fetch(self.ahead, place)
            stream = states[j] if states else []
            out.append([f.combine(point.s, state, f.element(point, self.layout.across)) for f, state in zip(self.foldings, stream)])
            if self.p == len(self.passes.foldings):
                self._store(point)
            self._remember(point, place, j)
        return out

    def _fetch(self, ahead: Ahead, place: list[Value]) -> None:
        """What lies at the same place of the next row."""
        dims = list(ahead.dims)
        for d, i in zip(self.passes.reduced, place):
            dims[d] = i
        point = Point(self.b, self.passes.rows.trace, self.frame.operands, dims, self.layout.dim, self.layout.lanes)
        for read in ahead.reads:
            self.frame.operands[read.operand].fetch([point.scalar(read.address)])

    def _point(self, block: Block, place: list[Value], mask: Value, known: list[tuple[Node, Val]]) -> Point:
        dims = list(block.dims)
        for d, i in zip(self.passes.reduced, place):
            dims[d] = i
        rows = self.passes.rows
        mask = None if self.inside else mask
        point = Point(self.b, rows.trace, self.frame.operands, dims, self.layout.dim, self.layout.lanes, mask, block.point.given, self.inside)
        for node, value in known:
            point.set(node, value)
        return point

    def _store(self, point: Point) -> None:
        values = [(point.value(node), address, k) for node, address, k in self.passes.outputs]
        for value, address, k in values:
            point.store(value, self.frame.results[k], address, self.streaming)

    def _scratch(self, kept: Kept, place: list[Value], j: int) -> tuple[emit.Memory, Value]:
        memory = emit.memory_of(self.frame.scratch, kept.offset, kept.dtype, self.passes.elements)
        position = self.b.index(0)
        for d, i in zip(self.passes.reduced, place):
            position = self.b.add(self.b.mul(position, self.passes.sizes[d]), i)
        if not self.layout.across:
            position = self.b.add(self.b.mul(position, self.layout.lanes * self.layout.columns), j * self.layout.lanes)
        return memory, position

    def _recall(self, point: Point, place: list[Value], j: int) -> None:
        for kept in self.passes.kept:
            if kept.first < self.p:
                memory, position = self._scratch(kept, place, j)
                mask = point.mask if self.layout.across else None
                point.set(kept.node, Val(memory.load([position], point.lanes, mask), kept.node.dtype, point.lanes))

    def _remember(self, point: Point, place: list[Value], j: int) -> None:
        for kept in self.passes.kept:
            if kept.first == self.p:
                memory, position = self._scratch(kept, place, j)
                v = point.value(kept.node)
                ssa = v.ssa if v.lanes == point.lanes else emit.splat(v.ssa, point.lanes)
                memory.store(ssa, [position], point.mask if self.layout.across else None)
