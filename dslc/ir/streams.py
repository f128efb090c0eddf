"""Streams: what a kernel of kind `attention` is made of, found from the ops of its body alone.

Sources are contractions that make the tile space (scores); sinks fold values of that space, all along the same axes, and may read finished folds of
the same kernel where the correction rule holds: `phi(s - r') = phi(s - r) * exp(r - r')` for a running maximum r. Between them stands pointwise work.
Contractions may also cross the stream, and fold the axis that tasks are blocks of: a gradient's tile is then made once for keys and queries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from . import index, ops
from .index import Const, Dim, Expr, Symbol
from .mlir import ir
from .rows import Unsuited
from .trace import Apply, Body, Coordinates, Given, Guard, Node, Product, Read, Test, Trace, children, dims_under, factor_of
from .types import type_of

Axes = tuple[int | None, ...]  # the axis of the tile space that each axis of a value is; None: of size 1


def is_table(op: Any) -> bool:
    """Whether an op adds each element into one place of the table that its point of the batch has."""
    if not isinstance(op, ops.Scatter) or op.kind != "sum" or len(op.sizes) != 1:
        return False
    u = type_of(op.operands[0])
    return 0 < op.batch < u.rank == type_of(op.operands[1]).rank


def is_fold(op: Any, tables: bool) -> bool:
    """Whether an op may be a sink; `tables`: of a target whose kernels fold a tile along both its axes, into tables too."""
    return isinstance(op, (ops.Reduce, ops.Contract)) or (tables and is_table(op))


# ---- which axis of the tile space is which axis of a value ----------------------------------------------------------------------------


def axes_of(roots: Sequence[ir.Value]) -> dict[ir.Value, Axes]:
    """The axes of every value connected with these, counted as the first one's own. A root whose tiles meet those before in a mask alone, or another
    value that only enters, is counted by it; one that does not meet them is missing."""
    found = axes_from(roots[0])
    for root in roots[1:]:
        if root in found:
            continue
        theirs = axes_from(root)
        met = next((v for v, axes in theirs.items() if None not in axes and None not in found.get(v, (None,))), None)
        if met is not None:
            place: dict[int | None, int | None] = {None: None, **dict(zip(theirs[met], found[met]))}
            found |= {v: tuple(place[a] for a in axes) for v, axes in theirs.items() if v not in found}
    return found


def axes_from(root: ir.Value) -> dict[ir.Value, Axes]:
    """The axes of every value that elementwise ops and permuting views connect with `root`, whose own axes are counted: what is made from it, what
    that is made of, and what is made of the contractions among these. What only enters (a mask) leads no further: other layers may share it."""
    found: dict[ir.Value, Axes] = {root: tuple(range(type_of(root).rank))}
    made = {root}
    stack = [root]

    def note(value: ir.Value, axes: Axes, from_tile: bool) -> None:
        new = value not in found
        if from_tile and value not in made:
            made.add(value)
            new = True
        if new:
            found.setdefault(value, axes)
            stack.append(value)

    while stack:
        value = stack.pop()
        axes, shape = found[value], type_of(value).shape
        for use in value.uses if value in made else ():
            user = use.owner.opview
            passed = _passed(user, axes, shape)
            if passed is not None:
                note(user.results[0], passed, True)
        for operand, its in _back(value, axes, shape):
            note(operand, its, not isinstance(operand.owner, ir.Block) and isinstance(operand.owner.opview, ops.Contract))
    return found


def _back(value: ir.Value, axes: Axes, shape: tuple[int, ...]) -> Iterator[tuple[ir.Value, Axes]]:
    """The operands of the op that makes a value with these axes, where they are the same tile, and their axes."""
    if isinstance(value.owner, ir.Block):
        return
    op = value.owner.opview
    if op.structure == "elementwise":
        yield from ((operand, axes) for operand in op.operands if type_of(operand).shape == shape)
    elif isinstance(op, ops.View) and (order := permutation(op)) is not None:
        back: list[int | None] = [None] * type_of(op.x).rank
        for k, a in enumerate(order):
            if a is not None:
                back[a] = axes[k]
        yield op.x, tuple(back)


def _passed(user: Any, axes: Axes, shape: tuple[int, ...]) -> Axes | None:
    """The axes of what an op makes of a value with these axes; None where it is not the same tile."""
    structure = getattr(user, "structure", None)
    if structure == "elementwise":
        return axes if user.type.shape == shape else None
    if isinstance(user, ops.View):
        order = permutation(user)
        return None if order is None else tuple(axes[a] if a is not None else None for a in order)
    if isinstance(user, ops.Reshape):
        return _without_units(axes, shape, user.type.shape)
    return None


def _without_units(axes: Axes, old: tuple[int, ...], new: tuple[int, ...]) -> Axes | None:
    kept = [a for a, n in zip(axes, old) if n != 1]
    if [n for n in old if n != 1] != [n for n in new if n != 1]:
        return None
    rest = iter(kept)
    return tuple(next(rest) if n != 1 else None for n in new)


def permutation(op: Any) -> list[int | None] | None:
    """For each result axis of a view the operand's axis that it is (None: of size 1); None where the view is no permutation."""
    shape, source = op.type.shape, type_of(op.x).shape
    if any(op.offsets):
        return None
    order: list[int | None] = [None] * len(shape)
    for a, row in enumerate(op.matrix):
        used = [k for k, f in enumerate(row) if f]
        if not used:
            if source[a] != 1:
                return None
            continue
        if len(used) > 1 or row[used[0]] != 1 or order[used[0]] is not None or source[a] != shape[used[0]]:
            return None
        order[used[0]] = a
    return None if any(a is None and n != 1 for a, n in zip(order, shape)) else order


# ---- sources and sinks -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A contraction into the tile space: T[y, x] = sum over `terms` of y_node * x_node."""

    op: Any
    x_node: Node
    y_node: Node
    terms: int  # dim of the space


@dataclass(frozen=True)
class Sink:
    """A fold along the stream: `kind` "sum", "max", "min", "contract" or "table". `value`: what is folded, `other`: what it is multiplied with, or
    the place of the table to which it is added. A table folds both axes of the tile.

    `shift`: the row value r of the correction rule (exp(s - r)); `leader`: the number of the sink that r depends on.
    """

    op: Any
    kind: str
    value: Node
    other: Node | None
    features: int | None  # dim of the space
    at: Coordinates  # the point of its result
    shift: Node | None = None
    leader: int | None = None
    exponential: Node | None = None  # exp(s - r) itself, never of more than 0
    crosses: bool = False  # a contraction that folds `x` and has the points of `y`

    @property
    def waits(self) -> bool:
        """Whether it is finished when all blocks of `x` are."""
        return self.crosses or self.kind == "table"


@dataclass(frozen=True)
class Stream:
    """A kernel's body as a stream: tasks are blocks of dim `x` at one point of the dims before it, `y` is streamed."""

    trace: Trace
    x: int
    y: int
    sources: tuple[Source, ...]
    sinks: tuple[Sink, ...]
    results: tuple[tuple[Node, Expr, int], ...]  # (value, address, the sink whose points it has)
    needs: tuple[Expr, ...]  # where one is negative, nothing is added to any sink

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.trace.sizes

    def bound(self, e: Expr) -> tuple[int, int] | None:
        """(factor of x, factor of y) of an expression that moves by whole steps with both and by one with y; None where it does not, or where its
        sign could change if what is read of 64 bits were cut to what an index can be."""
        a, b = factor_of(e, self.x), factor_of(e, self.y)
        terms = [t for t, _ in e.terms] if isinstance(e, index.Sum) else [e]
        if a is None or b not in (1, -1) or any(not isinstance(t, (Const, Dim, Symbol)) for t in terms):
            return None
        read = [self.trace.symbols[t.operand] for t in terms if isinstance(t, Symbol)]
        wide = [
            f
            for t, f in (e.terms if isinstance(e, index.Sum) else ((e, 1),))
            if isinstance(t, Symbol) and self.trace.symbols[t.operand].dtype.bits > 32
        ]
        if len(wide) > 1 or any(abs(f) != 1 for f in wide):
            return None
        moving = dims_under(self.trace, read)
        return None if any(moving[id(node)] & {self.x, self.y} for node in read) else (a, b)

    @staticmethod
    def of(body: Body, crossing: bool = False) -> Stream:
        """The stream; Unsuited where the body is none. `crossing`: sinks may cross it."""
        return _Finder(body, crossing).stream()


class _Finder:
    def __init__(self, body: Body, crossing: bool) -> None:
        self.body = body
        folds = [op for op in body.ops if is_fold(op, tables=True)]
        self.sources = [op for op in folds if isinstance(op, ops.Contract) and not self._reads(op, folds)]
        self.sinks = [op for op in folds if op not in self.sources]
        if not self.sources or not self.sinks:
            raise Unsuited("no chain of contractions")
        root = self.sources[0].results[0]
        self.axes = axes_of([s.results[0] for s in self.sources])
        if any(s.results[0] not in self.axes for s in self.sources):
            raise Unsuited("contractions over different points")
        self.shape = type_of(root).shape
        self.y_axes, x = self._tile_axes(crossing)
        self.crossing = {op for op in self.sinks if not is_table(op) and sorted(self.streamed(op)) != self.y_axes}
        self.batch = [a for a in range(len(self.shape)) if a not in self.y_axes and a != x]
        self.x, self.y = len(self.batch), len(self.batch) + 1
        self.features: dict[Any, tuple[int, list[int]]] = {}
        self.terms: dict[Any, int] = {}
        sizes = [self.shape[a] for a in self.batch] + [self.shape[x] if x is not None else 1] + [prod(self.shape[a] for a in self.y_axes)]
        for op in self.sinks:
            if isinstance(op, ops.Contract):
                _, _, own = self._roles(op)
                self.features[op] = (len(sizes), own)
                sizes.append(prod(op.sizes[i] for i in own))
            elif is_table(op):
                self.features[op] = (len(sizes), [])
                sizes.append(op.sizes[0])
        for op in self.sources:
            self.terms[op] = len(sizes)
            sizes.append(prod(op.sizes[i] for i in op.summed))
        self.trace = Trace(body, sizes, self._provide)
        self.canon: list[Expr] = [Const(0)] * len(self.shape)
        for k, a in enumerate((*self.batch, x)):
            if a is not None:
                self.canon[a] = Dim(k)
        for a, e in zip(self.y_axes, index.delinearize(Dim(self.y), [self.shape[a] for a in self.y_axes])):
            self.canon[a] = e

    def _reads(self, op: Any, folds: Sequence[Any]) -> bool:
        """Whether an op reads another fold of the body."""
        stack, seen = list(op.operands), set()
        while stack:
            value = stack.pop()
            if value in seen or value not in self.body.makers:
                continue
            seen.add(value)
            maker, _ = self.body.makers[value]
            if maker in folds:
                return True
            stack += maker.operands
        return False

    def tile(self, op: Any) -> int:
        """Which operand of a fold is of the tile space."""
        if is_table(op):
            return 0
        places = [k for k, v in enumerate(op.operands) if v in self.axes]
        if len(places) != 1:
            raise Unsuited("a fold of no tile, or of two")
        return places[0]

    def _roles(self, op: Any) -> tuple[int, tuple[int, ...], list[int]]:
        """Of a contraction of the tile: (operand, its indices, the indices of the result that the tile lacks)."""
        k = self.tile(op)
        mine = (op.lhs, op.rhs)[k]
        return k, mine, [i for i in op.out if i not in mine]

    def streamed(self, op: Any) -> frozenset[int]:
        k = self.tile(op)
        axes = self.axes[op.operands[k]]
        if isinstance(op, ops.Reduce):
            if op.kind not in ("sum", "max", "min"):
                raise Unsuited(f"a fold by {op.kind}")
            places = list(op.axes)
        else:
            mine = (op.lhs, op.rhs)[k]
            places = [p for p, i in enumerate(mine) if i not in op.out]
        found = frozenset(a for a in (axes[p] for p in places) if a is not None)
        if not found:
            raise Unsuited("a fold along no axis of the tile")
        return found

    def _tile_axes(self, crossing: bool) -> tuple[list[int], int | None]:
        """The axes that are streamed, and the one that tasks are blocks of, which contractions alone may fold; None: of one row. Most sinks
        stream."""
        tables = [set(self.axes[op.operands[0]][op.batch :]) for op in self.sinks if is_table(op)]
        found = Counter(self.streamed(op) for op in self.sinks if not is_table(op))
        if len(found) > 2 or (len(found) == 2 and not crossing):
            raise Unsuited("folds along different axes")
        for streamed in [s for s, _ in found.most_common()] or self._sides_of(tables[0]):
            self.y_axes = sorted(streamed)
            x = self._x_axis()
            across = [op for op in self.sinks if not is_table(op) and self.streamed(op) != streamed]
            if any(axes != {*streamed, x} for axes in tables):
                continue
            if all(self.streamed(op) == {x} and isinstance(op, ops.Contract) for op in across):
                return self.y_axes, x
        raise Unsuited("folds along different axes")

    def _sides_of(self, axes: set[int | None]) -> list[frozenset[int]]:
        """The axes of a table's tile that either operand of the first source has alone."""
        op = self.sources[0]
        own = [{p for p, i in enumerate(op.out) if i in mine and i not in other} for mine, other in ((op.lhs, op.rhs), (op.rhs, op.lhs))]
        return [frozenset(a for a in side if a in axes) for side in own]

    def _x_axis(self) -> int | None:
        """The largest axis that one operand of the first source has alone, while the other has the streamed ones; None where it has none."""
        op = self.sources[0]
        own = [{p for p, i in enumerate(op.out) if i in mine and i not in other} for mine, other in ((op.lhs, op.rhs), (op.rhs, op.lhs))]
        for mine, other in (own, own[::-1]):
            if set(self.y_axes) <= other:
                return max(mine, key=lambda a: (self.shape[a], a), default=None)
        raise Unsuited("the streamed axes belong to both operands")

    def point(self, axes: Axes) -> Coordinates:
        return tuple(self.trace.tidy(self.canon[a]) if a is not None else Const(0) for a in axes)

    def sink_point(self, op: Any) -> Coordinates:
        """The point of a sink's result."""
        axes = self.axes[op.operands[self.tile(op)]]
        if isinstance(op, ops.Reduce):
            return self.point(tuple(a for p, a in enumerate(axes) if p not in op.axes))
        if is_table(op):
            return (*self.point(axes[: op.batch]), Dim(self.features[op][0]))
        _, mine, own = self._roles(op)
        dim, _ = self.features[op]
        place = dict(zip(mine, self.point(axes))) | dict(zip(own, index.delinearize(Dim(dim), [op.sizes[i] for i in own])))
        return tuple(self.trace.tidy(place[i]) for i in op.out)

    def _provide(self, trace: Trace, value: Any, at: Coordinates, tests: tuple[Test, ...]) -> Node | None:
        maker = self.body.makers.get(value)
        if maker is None:
            return None
        op = maker[0]
        if op in self.sources:
            if tuple(trace.tidy(e) for e in at) != self.point(self.axes[value]):
                raise Unsuited("a score is read at another place")
            return Given(type_of(value).dtype, ("source", self.sources.index(op)), (*at, Dim(self.x), Dim(self.y)))  # of extent 1 too
        if op in self.sinks:
            if tuple(trace.tidy(e) for e in at) != self.sink_point(op):
                raise Unsuited("a fold is read at another place")
            return Given(type_of(value).dtype, ("sink", self.sinks.index(op)), (*at, Dim(self.x)))
        return None

    # ---- the parts

    def stream(self) -> Stream:
        sources = tuple(self._source(op) for op in self.sources)
        sinks = tuple(self._corrected(self._sink(op)) for op in self.sinks)
        results = tuple(self._result(v) for v in self.body.results)
        needs: list[Expr] | None = None
        for sink in sinks:
            mine = _unless(self.trace, sink.value, float("-inf") if sink.kind == "max" else 0.0)
            needs = mine if needs is None else [e for e in needs if e in mine]
        return Stream(self.trace, self.x, self.y, sources, sinks, results, tuple(dict.fromkeys(self.trace.tidy(e) for e in needs or [])))

    def _operand(self, op: Any, k: int, at: Sequence[Expr]) -> Node:
        node, extra = self.trace.operand_at(op, op.maps(), k, tuple(at), ())
        return Guard(node.dtype, extra, node, 0.0) if extra else node

    def _source(self, op: Any) -> Source:
        terms = self.terms[op]
        at = (*self.point(self.axes[op.results[0]]), *index.delinearize(Dim(terms), [op.sizes[i] for i in op.summed]))
        nodes = [self._operand(op, k, at) for k in (0, 1)]
        under = dims_under(self.trace, nodes)
        for x, y in (nodes, nodes[::-1]):
            if self.y not in under[id(x)] and self.x not in under[id(y)]:
                return Source(op, x, y, terms)
        raise Unsuited("a score's operand depends on both axes of the tile")

    def _sink(self, op: Any) -> Sink:
        k, at = self.tile(op), self.sink_point(op)
        if isinstance(op, ops.Reduce):
            return Sink(op, op.kind, self.trace.at(op.operands[0], self.point(self.axes[op.operands[0]])), None, None, at)
        if is_table(op):
            point = self.point(self.axes[op.operands[0]])
            return Sink(op, "table", self.trace.at(op.operands[0], point), self.trace.at(op.operands[1], point), self.features[op][0], at)
        _, mine, _ = self._roles(op)
        place = dict(zip(mine, self.point(self.axes[op.operands[k]])))
        domain = (*at, *(place[i] for i in op.summed))
        value, other = self._operand(op, k, domain), self._operand(op, 1 - k, domain)
        crosses = op in self.crossing
        if (self.y if crosses else self.x) in dims_under(self.trace, [other])[id(other)]:
            raise Unsuited("a factor of the sum depends on both axes of the tile")
        return Sink(op, "contract", value, other, self.features[op][0], at, crosses=crosses)

    def _corrected(self, sink: Sink) -> Sink:
        """The sink with its correction, where it reads finished folds of the kernel."""
        read = folds_under(self.trace, sink.value)
        if not read:
            return sink
        leader = next(iter(read))
        first = self.sinks[leader]
        if sink.waits or len(read) > 1 or not isinstance(first, ops.Reduce) or first.kind != "max" or sink.kind == "max":
            raise Unsuited("a fold reads two others, or one that is no maximum")
        shift = shift_of(self.trace, sink.value)
        if shift is None or self.y in dims_under(self.trace, [shift[0]])[id(shift[0])]:
            raise Unsuited("no factor corrects this fold when the maximum changes")
        r, exponential = shift
        of_score = exponential.arguments[0]
        own = isinstance(of_score, Apply) and of_score.arguments[0] is self._sink(first).value
        return Sink(sink.op, sink.kind, sink.value, sink.other, sink.features, sink.at, r, leader, exponential if own else None)

    def _result(self, value: Any) -> tuple[Node, Expr, int]:
        shape = type_of(value).shape
        home = self._home(value, shape)
        at = self.sink_point(self.sinks[home])
        return self.trace.at(value, at), self.trace.tidy(index.linearize(at, shape)), home

    def _home(self, value: Any, shape: tuple[int, ...]) -> int:
        """The sink whose points a result has: found through elementwise ops. A product before other folds, which have the same points where it has
        one feature: its sums lie row by row."""
        stack, found = [value], []
        while stack:
            v = stack.pop()
            if v not in self.body.makers:
                continue
            op, _ = self.body.makers[v]
            if op in self.sinks:
                found.append(self.sinks.index(op))
            elif op.structure == "elementwise":
                stack += [o for o in op.operands if type_of(o).shape == shape]
        if not found:
            raise Unsuited("a result that is no fold's")
        return next((k for k in found if isinstance(self.sinks[k], ops.Contract)), found[0])


def folds_under(trace: Trace, node: Node) -> set[int]:
    """The numbers of the sinks that a node reads."""
    out, seen, stack = set(), set(), [node]
    while stack:
        n = stack.pop()
        if id(n) in seen:
            continue
        seen.add(id(n))
        if isinstance(n, Given) and n.key and n.key[0] == "sink":
            out.add(n.key[1])
        stack += children(n)[0]
    return out


def shift_of(trace: Trace, node: Node) -> tuple[Node, Apply] | None:
    """(r, exp(s - r)) where the node is exp(s - r) times what no fold enters."""
    if not isinstance(node, Apply):
        return None
    name, arguments = node.op.operation.name, node.arguments
    reads = [bool(folds_under(trace, a)) for a in arguments]
    if name == "nn.exp":
        inner = arguments[0]
        while isinstance(inner, Apply) and inner.op.operation.name in ("nn.stop_gradient", "nn.cast"):
            inner = inner.arguments[0]
        if isinstance(inner, Apply) and inner.op.operation.name == "nn.sub":
            s, r = inner.arguments
            return (r, node) if folds_under(trace, r) and not folds_under(trace, s) else None
        return None
    if (name == "nn.mul" and sum(reads) == 1) or (name == "nn.div" and reads == [True, False]):
        return shift_of(trace, arguments[reads.index(True)])
    if name in ("nn.cast", "nn.neg", "nn.stop_gradient"):
        return shift_of(trace, arguments[0])
    if name == "nn.select" and not reads[0] and sum(reads) == 1:
        other = arguments[2 if reads[1] else 1]
        return shift_of(trace, arguments[reads.index(True)]) if _number(other) == 0 else None
    return None


# ---- where nothing is added ------------------------------------------------------------------------------------------------------------


def _number(node: Node) -> float | None:
    """The value of a node that is one uniform constant."""
    if isinstance(node, Apply) and node.op.operation.name == "nn.constant" and node.op.uniform is not None:
        return float(node.op.uniform)
    return None


def affine(trace: Trace, node: Node) -> Expr | None:
    """An integer node as an expression of the dims, and of integers that are read."""
    if isinstance(node, Read) and node.dtype.is_integer and not node.tests:
        return Symbol(trace.symbol(node))
    if not isinstance(node, Apply):
        return None
    name, arguments = node.op.operation.name, node.arguments
    if name == "nn.iota":
        return node.at[node.op.axis]
    if name == "nn.constant":
        value = _number(node)
        return Const(int(value)) if value is not None and value.is_integer() else None
    parts = [p for v in arguments if (p := affine(trace, v)) is not None]
    if not parts or len(parts) < len(arguments):
        return None
    a, b = parts[0], parts[-1]
    match name:
        case "nn.cast":
            return a
        case "nn.add":
            return a + b
        case "nn.sub":
            return a - b
        case "nn.neg":
            return a * -1
        case "nn.mul" if isinstance(b, Const):
            return a * b.value
    return None


def _holds(trace: Trace, node: Node, wanted: bool) -> list[Expr]:
    """Expressions that are not negative wherever a bool node has the wanted value."""
    if not isinstance(node, Apply):
        return []
    name, arguments = node.op.operation.name, node.arguments
    if name == "nn.not":
        return _holds(trace, arguments[0], not wanted)
    if name == ("nn.and" if wanted else "nn.or"):
        return [e for a in arguments for e in _holds(trace, a, wanted)]
    if name != "nn.compare":
        return []
    a, b = (affine(trace, v) for v in arguments)
    if a is None or b is None:
        return []
    opposite = {"le": "gt", "lt": "ge", "ge": "lt", "gt": "le", "eq": "ne", "ne": "eq"}
    return {"le": [b - a], "lt": [b - a - 1], "ge": [a - b], "gt": [a - b - 1], "eq": [a - b, b - a], "ne": []}[
        node.op.predicate if wanted else opposite[node.op.predicate]]  # fmt: skip


def implied(trace: Trace, node: Node) -> list[Expr]:
    """Expressions that make a bool node true where none of them is negative; none where that is not known."""
    if not isinstance(node, Apply):
        return []
    name, arguments = node.op.operation.name, node.arguments
    if name == "nn.compare":
        return _holds(trace, node, True) if node.op.predicate not in ("eq", "ne") else []
    parts = [implied(trace, a) for a in arguments] if name in ("nn.and", "nn.or") else []
    if name == "nn.and":
        return [e for p in parts for e in p] if all(parts) else []
    return next((p for p in parts if p), [])


def _unless(trace: Trace, node: Node, value: float) -> list[Expr]:
    """Expressions of which each, where it is negative, makes the node this value: 0 or -inf."""
    match node:
        case Guard(tests=tests, value=inner, outside=outside) if outside == value:
            return [e for t in tests for e in (t.expr, t.expr * -1 + (t.size - 1))] + _unless(trace, inner, value)
        case Product(a=a, b=b):
            return _unless(trace, a, value) + _unless(trace, b, value) if value == 0 else []
        case Apply():
            return _applied(trace, node, value)
    return []


def _applied(trace: Trace, node: Apply, value: float) -> list[Expr]:
    name, arguments = node.op.operation.name, node.arguments
    if name == "nn.select":
        condition, a, b = arguments
        if _number(b) == value:
            return _holds(trace, condition, True) + _unless(trace, a, value)
        if _number(a) == value:
            return _holds(trace, condition, False) + _unless(trace, b, value)
        both = _unless(trace, b, value)
        return [e for e in _unless(trace, a, value) if e in both]
    if name in ("nn.cast", "nn.stop_gradient") or (name == "nn.neg" and value == 0):
        if arguments[0].dtype.is_bool:
            return _holds(trace, arguments[0], True)
        return _unless(trace, arguments[0], value)
    if value == 0:
        if name == "nn.exp":
            return _unless(trace, arguments[0], float("-inf"))
        if name == "nn.mul":
            return _unless(trace, arguments[0], 0.0) + _unless(trace, arguments[1], 0.0)
        return _unless(trace, arguments[0], 0.0) if name == "nn.div" else []
    if name in ("nn.add", "nn.sub"):
        return _unless(trace, arguments[0], value) + (_unless(trace, arguments[1], value) if name == "nn.add" else [])
    if name in ("nn.mul", "nn.div") and (_number(arguments[1]) or 0) > 0:
        return _unless(trace, arguments[0], value)
    return []
