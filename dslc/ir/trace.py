"""What a kernel's value is at one point of an iteration space, as a graph: loads from the kernel's operands, tests, and arithmetic between them.

`Trace.at(value, coordinates)` pulls a value of the kernel's body through the index maps of the ops that make it. The graph says what a loop nest
needs to know before it is built (which addresses are read, and how they move with each axis); a backend's `pull.Point` then emits it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from dslc.core.dtypes import DType
from dslc.core.errors import UnsupportedOp

from . import index
from .index import Dim, Expr, FloorDiv, Mod, Sum, Symbol
from .mlir import ir
from .op import POINTWISE, Maps
from .types import spans_of, type_of

Coordinates = tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Test:
    """0 <= expr < size"""

    expr: Expr
    size: int


@dataclass(eq=False, slots=True)
class Node:
    """A value at a point; one object stands for one value, so that it is computed once."""

    dtype: DType


@dataclass(eq=False, slots=True)
class Read(Node):
    """An element of operand number `operand`, at a row-major address; where a test fails nothing is read and the value is 0."""

    operand: int
    address: Expr
    tests: tuple[Test, ...]


@dataclass(eq=False, slots=True)
class Apply(Node):
    """`op.scalar` of the arguments; `at` is the point, for the ops that depend on it."""

    op: Any
    arguments: tuple[Node, ...]
    at: Coordinates


@dataclass(eq=False, slots=True)
class Guard(Node):
    """The value where all tests hold, else `outside`."""

    tests: tuple[Test, ...]
    value: Node
    outside: float


@dataclass(eq=False, slots=True)
class Join(Node):
    """The value of the first branch whose tests hold; the last one has none."""

    branches: tuple[tuple[tuple[Test, ...], Node], ...]


@dataclass(eq=False, slots=True)
class Given(Node):
    """A value that the loop nest provides: a finished fold, an accumulator, a value kept in scratch. `key` names it."""

    key: Any
    at: Coordinates


@dataclass(eq=False, slots=True)
class Product(Node):
    """The product of two nodes, in the type of a contraction's sum."""

    a: Node
    b: Node


@dataclass(eq=False, slots=True)
class Rounded(Node):
    """A factor of a product in tf32: float32 rounded to 10 bits."""

    value: Node


Provide = Callable[["Trace", Any, Coordinates, tuple[Test, ...]], Node | None]


def unrounded(node: Node) -> Node:
    """What a factor is rounded from; the node itself where it is not."""
    return node.value if isinstance(node, Rounded) else node


def is_shared(value: Any) -> bool:
    """Whether results that need this value are computed together; views and single numbers are computed for each."""
    return not isinstance(value.owner, ir.Block) and value.owner.opview.structure not in ("view", "generator") and type_of(value).size > 1


@dataclass
class Body:
    """A kernel's body: its operands, the op of every value, what it yields.

    Constants that are not uniform are read from memory: they follow the kernel's own operands, `tables` holds their values.
    """

    operands: list[Any]
    makers: dict[Any, tuple[Any, int]]
    results: list[Any]
    tables: list[np.ndarray]

    @staticmethod
    def of(block: ir.Block) -> Body:
        *ops, end = block.operations
        makers = {result: (op, k) for op in ops for k, result in enumerate(op.results)}
        wide = [op for op in ops if op.operation.name == "nn.constant" and op.uniform is None]
        for op in wide:
            del makers[op.results[0]]
        return Body([*block.arguments, *(op.results[0] for op in wide)], makers, list(end.operands), [op.reference() for op in wide])

    @property
    def ops(self) -> list[Any]:
        """Each op once, in order."""
        return list(dict.fromkeys(op for op, _ in self.makers.values()))

    @property
    def heavy(self) -> list[Any]:
        """The ops that are not pointwise, in order."""
        return [op for op in self.ops if op.structure not in POINTWISE]

    def of_one(self, op: Any, known: Sequence[Any]) -> Body:
        """The body that computes the results of one op and of no other heavy one: those in `known` follow the operands. UnsupportedOp for a put,
        which writes to an operand that others may read."""
        if op.operation.name == "nn.put":
            raise UnsupportedOp("put behind an op that no kernel has with it", spans_of(op.location))
        makers = {v: maker for v, maker in self.makers.items() if maker[0].structure in POINTWISE or maker[0] == op}
        return Body([*self.operands, *known], _needed(makers, op.results), list(op.results), self.tables)

    def parts(self) -> list[tuple[Body, list[int], list[int]]]:
        """The body taken apart into what has no op in common: (body, numbers of its operands, numbers of its results) each."""
        group: dict[Any, int] = {}
        found: list[list[int]] = []
        for k, result in enumerate(self.results):
            made = self._made_for(result)
            touched = {group[v] for v in made if v in group}
            mine = sorted({r for g in touched for r in found[g]} | {k})
            for g in touched:
                found[g] = []
            found.append(mine)
            for v, g in group.items():
                if g in touched:
                    group[v] = len(found) - 1
            group.update(dict.fromkeys(made, len(found) - 1))
        return [self._part(numbers) for numbers in found if numbers]

    def _made_for(self, result: Any) -> list[Any]:
        """The result and the values that are computed for it, as far as results share them."""
        out = [result]
        seen = {result}
        stack = list(self.makers[result][0].operands) if result in self.makers else []
        while stack:
            value = stack.pop()
            if value in seen or value not in self.makers:
                continue
            seen.add(value)
            if is_shared(value):
                out.append(value)
            stack += self.makers[value][0].operands
        return out

    def _part(self, numbers: list[int]) -> tuple[Body, list[int], list[int]]:
        results = [self.results[k] for k in numbers]
        makers = _needed(self.makers, results)
        read = {*results, *(v for op, _ in makers.values() for v in op.operands)}
        operands = [k for k, v in enumerate(self.operands) if v in read]
        return Body([self.operands[k] for k in operands], makers, results, self.tables), operands, numbers


def _needed(makers: dict[Any, tuple[Any, int]], results: Iterable[Any]) -> dict[Any, tuple[Any, int]]:
    """The makers of results and of what they are made from, in their order."""
    used: set[Any] = set()
    stack = list(results)
    while stack:
        value = stack.pop()
        if value not in used:
            used.add(value)
            stack += makers[value][0].operands if value in makers else []
    return {v: maker for v, maker in makers.items() if v in used}


class Trace:
    """Graphs of values over one iteration space of the given sizes. `provide(trace, value, at, tests)` may answer for a value itself."""

    def __init__(self, body: Body, sizes: Sequence[int], provide: Provide | None = None) -> None:
        self.body, self.sizes, self.provide = body, tuple(sizes), provide
        self.symbols: dict[int, Node] = {}
        self.nodes: list[Node] = []
        self._memo: dict[Any, Node] = {}
        self._tidied: dict[Expr, Expr] = {}

    def at(self, value: Any, coordinates: Sequence[Expr], tests: tuple[Test, ...] = ()) -> Node:
        """The graph of a value at these coordinates; `tests` are those that hold there, which a read must respect."""
        at = tuple(coordinates)
        key = (value, at, tests)
        node = self._memo.get(key)
        if node is None:
            node = self._memo[key] = self._made(value, at, tests)
            self.nodes.append(node)
        return node

    def tidy(self, e: Expr) -> Expr:
        found = self._tidied.get(e)
        if found is None:
            found = self._tidied[e] = tidy(e, self.sizes)
        return found

    def _made(self, value: Any, at: Coordinates, tests: tuple[Test, ...]) -> Node:
        if self.provide is not None:
            node = self.provide(self, value, at, tests)
            if node is not None:
                return node
        maker = self.body.makers.get(value)
        if maker is None:
            t = type_of(value)
            address = self.tidy(index.linearize(at, t.shape))
            return Read(t.dtype, self.body.operands.index(value), address, tests)
        op, _ = maker
        make = _STRUCTURES.get(op.structure)
        if make is None:
            raise UnsupportedOp(f"{op.operation.name} inside another op's kernel", spans_of(op.location))
        return make(self, op, at, tests)

    def operand_at(self, op: Any, maps: Maps, k: int, at: Coordinates, tests: tuple[Test, ...],
                   symbol: Callable[[int], Expr] | None = None) -> tuple[Node, tuple[Test, ...]]:  # fmt: skip
        """Operand k of an op read through its maps: the node, and the tests that the read needs beyond `tests`."""
        value = op.operands[k]
        shape = type_of(value).shape
        coordinates = tuple(self.tidy(index.substitute(e, at, symbol)) for e in maps.reads[k])
        needed = [Test(self.tidy(index.substitute(e, at, symbol)), 1) for o, e in maps.guards if o == k]
        for e, n in zip(coordinates, shape):
            low, high = index.bounds(e, self.sizes)
            if low < 0 or high >= n:
                needed.append(Test(e, n))
        extra = tuple(t for t in needed if not self._holds(t) and t not in tests)
        return self.at(value, coordinates, tests + extra), extra

    def factor_at(self, op: Any, maps: Maps, k: int, at: Coordinates) -> Node:
        """Operand k of a contraction as it is multiplied: 0 where its read is outside, and rounded where the product is in tf32."""
        node, extra = self.operand_at(op, maps, k, at, ())
        if extra and not isinstance(node, Read):
            node = Guard(node.dtype, extra, node, 0.0)
        return Rounded(node.dtype, node) if op.tf32 else node

    def symbol(self, node: Node) -> int:
        """The number of the symbol that stands for a node in index expressions."""
        number = next((n for n, known in self.symbols.items() if known is node), len(self.symbols))
        self.symbols[number] = node
        return number

    def never(self, t: Test) -> bool:
        low, high = index.bounds(t.expr, self.sizes)
        return high < 0 or low >= t.size

    def _holds(self, t: Test) -> bool:
        low, high = index.bounds(t.expr, self.sizes)
        return low >= 0 and high < t.size


def _elementwise(trace: Trace, op: Any, at: Coordinates, tests: tuple[Test, ...]) -> Node:
    return Apply(op.type.dtype, op, tuple(trace.at(v, at, tests) for v in op.operands), at)


def _generator(trace: Trace, op: Any, at: Coordinates, tests: tuple[Test, ...]) -> Node:
    return Apply(op.type.dtype, op, tuple(trace.at(v, (), tests) for v in op.operands), at)


def _view(trace: Trace, op: Any, at: Coordinates, tests: tuple[Test, ...]) -> Node:
    maps = op.maps()
    if prod(type_of(op.operands[0]).shape) == 0:
        return _constant(trace, op, maps.outside)
    node, extra = trace.operand_at(op, maps, 0, at, tests)
    return _guarded(op, node, extra, maps.outside)


def _gather(trace: Trace, op: Any, at: Coordinates, tests: tuple[Test, ...]) -> Node:
    maps = op.maps()
    if prod(type_of(op.operands[0]).shape) == 0:
        return _constant(trace, op, maps.outside)
    numbers = {}
    for k in range(1, len(op.operands)):
        node, _ = trace.operand_at(op, maps, k, at, tests)
        numbers[k] = trace.symbol(node)
    node, extra = trace.operand_at(op, maps, 0, at, tests, lambda k: Symbol(numbers[k]))
    return _guarded(op, node, extra, maps.outside)


def _join(trace: Trace, op: Any, at: Coordinates, tests: tuple[Test, ...]) -> Node:
    maps, branches = op.maps(), []
    for k, v in enumerate(op.operands):
        if prod(type_of(v).shape) == 0:
            continue
        node, extra = trace.operand_at(op, maps, k, at, tests)
        if any(trace.never(t) for t in extra):
            continue
        branches.append((extra, node))
        if not extra:
            break
    branches[-1] = ((), branches[-1][1])
    return branches[0][1] if len(branches) == 1 else Join(op.type.dtype, tuple(branches))


def _guarded(op: Any, node: Node, extra: tuple[Test, ...], outside: float | None) -> Node:
    if not extra or (isinstance(node, Read) and outside == 0):
        return node
    return Guard(op.type.dtype, extra, node, outside or 0.0)


def _constant(trace: Trace, op: Any, value: float | None) -> Node:
    return Guard(op.type.dtype, (Test(index.Const(-1), 1),), Given(op.type.dtype, None, ()), value or 0.0)


_STRUCTURES: dict[str, Callable[[Trace, Any, Coordinates, tuple[Test, ...]], Node]] = {
    "elementwise": _elementwise, "generator": _generator, "view": _view, "gather": _gather, "join": _join,
}  # fmt: skip


# ---- index expressions ------------------------------------------------------------------------------------------------------------


def tidy(e: Expr, sizes: Sequence[int]) -> Expr:
    """`index.simplify`, and nested divisions made one, and (x // n) * n + x % n made x."""
    e = index.simplify(e, sizes)
    return _recombined(_flat(e), sizes) if _has_division(e) else e


def _has_division(e: Expr) -> bool:
    match e:
        case FloorDiv() | Mod():
            return True
        case Sum(terms, _):
            return any(_has_division(t) for t, _ in terms)
    return False


def _flat(e: Expr) -> Expr:
    """(x // a) // b as x // (a*b), everywhere."""
    match e:
        case Sum(terms, constant):
            out: Expr = index.Const(constant)
            for t, f in terms:
                out = out + _flat(t) * f
            return out
        case FloorDiv(dividend, divisor):
            inner = _flat(dividend)
            if isinstance(inner, FloorDiv):
                return FloorDiv(inner.dividend, inner.divisor * divisor)
            return FloorDiv(inner, divisor)
        case Mod(dividend, divisor):
            return Mod(_flat(dividend), divisor)
    return e


def _recombined(e: Expr, sizes: Sequence[int]) -> Expr:
    changed = True
    while changed and isinstance(e, Sum):
        changed = False
        factors = dict(e.terms)
        for t, f in e.terms:
            if isinstance(t, Mod):
                quotient = _flat(FloorDiv(t.dividend, t.divisor))
                if factors.get(quotient) == f * t.divisor:
                    e = index.simplify(e - t * f - quotient * (f * t.divisor) + t.dividend * f, sizes)
                    changed = True
                    break
    return e


def divisions(e: Expr) -> int:
    """How many `//` and `%` an expression holds."""
    match e:
        case FloorDiv(dividend, _) | Mod(dividend, _):
            return 1 + divisions(dividend)
        case Sum(terms, _):
            return sum(divisions(t) for t, _ in terms)
    return 0


@dataclass
class Survey:
    """What reaches memory and index arithmetic under some nodes: for choosing a loop nest."""

    reads: list[Read] = field(default_factory=list)
    expressions: list[Expr] = field(default_factory=list)
    operations: int = 0

    @property
    def divisions(self) -> int:
        return sum(divisions(e) for e in self.expressions)


def survey(trace: Trace, roots: Sequence[Node]) -> Survey:
    """Walks the graph from some roots, and what their symbols stand for."""
    out, seen, stack = Survey(), set(), list(roots)
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        here: list[Expr] = []
        match node:
            case Read():
                out.reads.append(node)
                here = [node.address, *(t.expr for t in node.tests)]
            case Apply():
                out.operations += 1
                stack += node.arguments
                if node.op.name == "nn.iota":
                    here = [node.at[node.op.axis]]
                elif node.op.name == "nn.random":
                    here = [trace.tidy(index.linearize(node.at, node.op.shape))]
            case Guard():
                stack.append(node.value)
                here = [t.expr for t in node.tests]
            case Join():
                for tests, branch in node.branches:
                    stack.append(branch)
                    here += [t.expr for t in tests]
            case Product():
                out.operations += 1
                stack += [node.a, node.b]
            case Rounded():
                out.operations += 1
                stack.append(node.value)
            case Given():
                here = list(node.at)
        out.expressions += here
        stack += [trace.symbols[n] for e in here for n in symbols_of(e) if n in trace.symbols]
    return out


def dims_under(trace: Trace, roots: Sequence[Node]) -> dict[int, set[int]]:
    """For every node under some roots, by id, the dims of the space on which its value depends."""
    out: dict[int, set[int]] = {}

    def of(e: Expr) -> set[int]:
        found = set(index.dims_of(e))
        for n in symbols_of(e):
            found |= visit(trace.symbols[n])
        return found

    def visit(node: Node) -> set[int]:
        known = out.get(id(node))
        if known is not None:
            return known
        parts, expressions = children(node)
        found = set().union(*(visit(p) for p in parts), *(of(e) for e in expressions))
        if isinstance(node, Apply) and node.op.name in ("nn.iota", "nn.random"):
            found |= set().union(*(of(e) for e in (node.at if node.op.name == "nn.random" else (node.at[node.op.axis],))))
        out[id(node)] = found
        return found

    for root in roots:
        visit(root)
    return out


def narrowed(trace: Trace, roots: Sequence[Node]) -> set[int]:
    """The nodes under some roots, by id, whose values become floats of 16 bits or fewer on every way to a root: what is off by far less than such a
    rounding may stand for them."""
    narrow: set[int] = set()
    exact: set[int] = set()
    stack = [(root, False) for root in roots]
    while stack:
        node, rounded = stack.pop()
        rounded = node.dtype.is_float and (rounded or node.dtype.bits <= 16)
        seen = narrow if rounded else exact
        if id(node) in seen:
            continue
        seen.add(id(node))
        parts, expressions = children(node)
        stack += [(part, rounded) for part in parts]
        stack += [(trace.symbols[n], False) for e in expressions for n in symbols_of(e)]
    return narrow - exact


def children(node: Node) -> tuple[list[Node], list[Expr]]:
    """The nodes that a node is made of, and the index expressions that it evaluates by itself."""
    match node:
        case Read():
            return [], [node.address, *(t.expr for t in node.tests)]
        case Apply():
            return list(node.arguments), []
        case Guard():
            return [node.value], [t.expr for t in node.tests]
        case Join():
            return [branch for _, branch in node.branches], [t.expr for tests, _ in node.branches for t in tests]
        case Product():
            return [node.a, node.b], []
        case Rounded():
            return [node.value], []
        case Given():
            return [], list(node.at)
    raise TypeError(node)


def invariant(trace: Trace, roots: Sequence[Node], dims: set[int]) -> list[Node]:
    """The largest nodes under some roots that do not move with any of `dims` and are more than constants: what a loop over those dims hoists."""
    under = dims_under(trace, roots)
    out: dict[int, Node] = {}
    seen: set[int] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if not under[id(node)] & dims:
            if not (isinstance(node, Apply) and not node.arguments):
                out[id(node)] = node
            continue
        parts, expressions = children(node)
        stack += parts
        stack += [trace.symbols[n] for e in expressions for n in symbols_of(e)]
    return list(out.values())


def symbols_of(e: Expr) -> set[int]:
    match e:
        case Symbol(number):
            return {number}
        case Sum(terms, _):
            return set().union(*(symbols_of(t) for t, _ in terms))
        case FloorDiv(dividend, _) | Mod(dividend, _):
            return symbols_of(dividend)
    return set()


def factor_of(e: Expr, axis: int) -> int | None:
    """By how much an expression moves with a dim; None where that is not one number."""
    factor = 0
    terms = e.terms if isinstance(e, Sum) else ((e, 1),)
    for t, f in terms:
        if isinstance(t, Dim):
            factor += f if t.axis == axis else 0
        elif isinstance(t, (FloorDiv, Mod)) and (axis in index.dims_of(t)):
            return None
    return factor
