"""Products of few rows as one kernel: a row of their factor made first, the products over it, pointwise work on their sums, and puts of that.

A matrix that few rows are multiplied with is read once, by many blocks; each of them needs a whole row of the other factor. What makes such a row, a
normalization, is so little work that every block does it for itself, in its own memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from . import index
from .contractions import roles_of
from .index import Const, Dim, Expr, Sum, Symbol
from .rows import Level, Rows, RowSpace, Unsuited, levels_of, space_of
from .space import Space, collapse, merged
from .trace import Body, Coordinates, Given, Node, Read, Test, Trace
from .types import type_of

FEW = 4  # rows from which on a product is one of matrices
MOST_STAGED = 32 << 10  # bytes of a row that is made first


@dataclass(frozen=True)
class Stage:
    """A factor of which a block makes one row. `value`; its axes that number rows; `rows`: how a row is made, its results are the value."""

    value: Any
    row_axes: tuple[int, ...]
    rows: Rows

    @property
    def terms(self) -> tuple[int, ...]:
        """The axes along a row."""
        return tuple(a for a in range(type_of(self.value).rank) if a not in self.row_axes)

    @property
    def length(self) -> int:
        return prod(type_of(self.value).shape[a] for a in self.terms)

    def local(self, at: Coordinates) -> Expr:
        """Where an element lies in its row."""
        return index.linearize([at[a] for a in self.terms], [type_of(self.value).shape[a] for a in self.terms])

    def place(self) -> Expr:
        """Where in its row a point of `rows` lies."""
        return self.rows.trace.tidy(self.local(tuple(index.substitute(e, self.rows.nest.axes) for e in self.rows.space.reads)))


class FewRows(Rows):
    """The traces of products over the same points, of their results, and of what is put; see `Rows`.

    `stages`: factors of which a row is made first, operands number `len(body.operands)` and on of the trace; their rows are where `needed` says.
    `only`: the tests of results that are not written for every point.
    """

    def __init__(self, body: Body, space: RowSpace, level: Level, nest: Space, stages: Sequence[Stage]) -> None:
        self.stages = stages
        self.needed: list[set[Coordinates]] = [set() for _ in stages]
        super().__init__(body, space, [level], nest)
        if self.scattered or any(len(rows) != 1 for rows in self.needed):
            raise Unsuited("a result with other points than the sums, or several rows of a factor")

    def _provide(self, trace: Trace, value: Any, at: Coordinates, tests: tuple[Test, ...]) -> Node | None:
        for k, stage in enumerate(self.stages):
            if value == stage.value:
                self.needed[k].add(tuple(at[a] for a in stage.row_axes))
                return Read(type_of(value).dtype, len(self.body.operands) + k, trace.tidy(stage.local(at)), tests)
        if value in self.numbers:
            at = tuple(mine if self._pins(mine, e, tests) else e for mine, e in zip(self.row_axes, at))
        return super()._provide(trace, value, at, tests)

    def _pins(self, mine: Expr, e: Expr, tests: tuple[Test, ...]) -> bool:
        """Whether tests say that a coordinate of this point's sum is a number."""
        return isinstance(e, Const) and Test(self.trace.tidy(mine - e.value), 1) in tests

    def _result(self, value: Any) -> tuple[Node, Expr, bool]:
        op, _ = self.body.makers.get(value, (None, 0))
        if op is None or op.operation.name != "nn.put":
            return super()._result(value)
        at, tests = self._row_at(op)
        number = self.trace.symbol(self.trace.at(op.at, (at[op.lane],) if op.lane >= 0 else (Const(0),)))
        place = [Symbol(number) if k == op.axis else e for k, e in enumerate(at)]
        base = type_of(op.base)
        self.only[self.body.results.index(value)] = (*tests, Test(Symbol(number), base.shape[op.axis]))
        return self.trace.at(op.row, at, tests), self.trace.tidy(index.linearize(place, base.shape)), True

    def _row_at(self, op: Any) -> tuple[Coordinates, tuple[Test, ...]]:
        """Where in a put's row the point of a sum is, and the tests that it is in the row."""
        read = _points_of_sums(self.body, op, set(self.numbers))
        shape = type_of(op.row).shape
        at: list[Expr | None] = [Const(0) if n == 1 else None for n in shape]
        tests: list[Test] = []
        for mine, theirs, n in zip(self.row_axes, read, self.space.rows):
            terms, constant = (theirs.terms, theirs.constant) if isinstance(theirs, Sum) else (((theirs, 1),), 0)
            if isinstance(theirs, Const):
                if n > 1:
                    tests.append(Test(self.trace.tidy(mine - theirs.value), 1))
                continue
            (dim, factor), *more = terms
            if more or factor != 1 or not isinstance(dim, Dim) or at[dim.axis] is not None:
                raise Unsuited("a row that is not made of neighbouring sums")
            found = at[dim.axis] = self.trace.tidy(mine - constant)
            if constant or shape[dim.axis] < n:
                tests.append(Test(found, shape[dim.axis]))
        if any(e is None for e in at):
            raise Unsuited("a row with the same sum at several places")
        return tuple(e for e in at if e is not None), tuple(tests)


def _points_of_sums(body: Body, op: Any, sums: set[Any]) -> Coordinates:
    """Where an element of a put's row has its sum."""
    shape = type_of(op.row).shape
    found: set[Coordinates] = set()

    def provide(trace: Trace, value: Any, at: Coordinates, tests: tuple[Test, ...]) -> Node | None:
        if value not in sums:
            return None
        if tests:
            raise Unsuited("a row that reaches beyond the sums")
        found.add(at)
        return Given(type_of(value).dtype, 0, at)

    Trace(body, shape, provide).at(op.row, tuple(Dim(k) if n > 1 else Const(0) for k, n in enumerate(shape)))
    if len(found) != 1:
        raise Unsuited("a row with several sums at a place, or none")
    return next(iter(found))


def few_rows_of(body: Body) -> FewRows:
    """The products of a body; Unsuited where it is of another shape."""
    ops = dict.fromkeys(op for op, _ in body.makers.values())
    products = [op for op in ops if op.operation.name == "nn.contract"]
    values = {v for op in products for v in op.results}
    if not products or not all(map(is_few, products)):
        raise Unsuited("no product of few rows")
    behind: set[Any] = set()
    for value, (op, _) in body.makers.items():
        if value in values or any(v in behind for v in op.operands):
            behind.add(value)
            if op.structure not in ("elementwise", "generator", "view") and value not in values and op.operation.name != "nn.put":
                raise Unsuited(f"{op.operation.name} behind a product")
    if any(v in behind for op in products for v in op.operands) or any(op.base in behind for op in ops if op.operation.name == "nn.put"):
        raise Unsuited("products of products")
    level = Level(tuple(op.results[0] for op in products), tuple(products))
    space = space_of([level])
    stages = [_stage(body, value, axes) for value, axes in _staged(body, products, space).items()]
    if sum(s.length * type_of(s.value).dtype.bytes for s in stages) > MOST_STAGED:
        raise Unsuited("long rows")
    made = {v for s in stages for v in s.rows.body.makers}
    if any(op.operation.name == "nn.reduce" and op.results[0] not in made for op in ops):
        raise Unsuited("a fold that no factor is made of")

    def cost(nest: Space) -> int:
        return FewRows(body, space, level, nest, stages).cost()

    found = FewRows(body, space, level, collapse(space.domain, cost, borders=[space.kept]), stages)
    last = found.kept - 1
    if any(last in index.dims_of(e) for rows in found.needed for at in rows for e in at):
        raise Unsuited("neighbouring sums of different rows")
    return found


def is_few(product: Any) -> bool:
    """Whether a contraction of floats is of fewer rows, or columns, than a product of matrices has."""
    domain = product.maps().domain
    if product.type.dtype.is_integer or product.types()[0].dtype.is_integer or prod(domain) == 0:
        return False
    _, rows, columns, _ = (prod(domain[d] for d in members) for members in roles_of(product).classes)
    return min(rows, columns) < FEW


def row_side(product: Any) -> int:
    """Which operand of a product of few rows has the rows."""
    return min((0, 1), key=lambda k: type_of(product.operands[k]).size)


def _staged(body: Body, products: Sequence[Any], space: RowSpace) -> Mapping[Any, tuple[int, ...]]:
    """The factors that are made in the kernel, each with its axes that number rows."""
    out: dict[Any, tuple[int, ...]] = {}
    for op in products:
        k = row_side(op)
        value = op.operands[k]
        while value in body.makers and body.makers[value][0].structure == "view":
            value = body.makers[value][0].operands[0]
        if value not in body.makers:
            continue
        axes = _row_axes(body, op, k, value, space)
        if out.setdefault(value, axes) != axes:
            raise Unsuited("a factor of two products, along different axes")
    return out


def _row_axes(body: Body, op: Any, k: int, value: Any, space: RowSpace) -> tuple[int, ...]:
    """The axes of a product's factor that number rows."""
    found: set[Coordinates] = set()

    def provide(trace: Trace, v: Any, at: Coordinates, tests: tuple[Test, ...]) -> Node | None:
        if v != value:
            return None
        found.add(at)
        return Given(type_of(v).dtype, 0, at)

    trace = Trace(body, space.domain, provide)
    trace.operand_at(op, op.maps(), k, tuple(Dim(d) if n > 1 else Const(0) for d, n in enumerate(space.domain)), ())
    (at,) = found
    kept = [all(d < space.kept for d in index.dims_of(e)) for e in at]
    if any(not row and any(d < space.kept for d in index.dims_of(e)) for row, e in zip(kept, at)):
        raise Unsuited("an axis of a factor along rows and terms")
    return tuple(a for a, row in enumerate(kept) if row)


def _cone(body: Body, value: Any) -> Body:
    """What a value is made of, in the order of the body."""
    stack, used = [value], set()
    while stack:
        v = stack.pop()
        if v not in used and v in body.makers:
            used.add(v)
            stack += body.makers[v][0].operands
    return Body(body.operands, {v: maker for v, maker in body.makers.items() if v in used}, [value], body.tables)


def _stage(body: Body, value: Any, row_axes: tuple[int, ...]) -> Stage:
    """How a row of a factor is made. Unsuited where that needs other rows."""
    cone, shape = _cone(body, value), type_of(value).shape
    levels = levels_of(cone)
    terms = [a for a in range(len(shape)) if a not in row_axes]
    order = [*row_axes, *terms]
    space = RowSpace(tuple(shape[a] for a in order), len(row_axes), tuple(Dim(order.index(a)) for a in range(len(shape))), shape)
    if levels:
        folded = space_of(levels)
        ones = {a for a, n in enumerate(shape) if n == 1}
        kept = {a for a, e in enumerate(folded.reads) if all(d < folded.kept for d in index.dims_of(e))}
        if folded.shape != shape or kept - ones != set(row_axes) - ones:
            raise Unsuited("folds along other axes than a product's terms")
        space = folded
    nest = merged(space.domain, [[a] for a, n in enumerate(space.domain) if n != 1])
    rows = Rows(cone, space, levels, nest)
    if rows.scattered:
        raise Unsuited("a value of another row")
    return Stage(value, row_axes, rows)
