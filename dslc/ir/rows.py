"""What a reduce kernel computes: its folds by level, its iteration space, which results live where.

A fold's operand may depend on the results of earlier folds; its level counts them. The folds of one level are made in one pass over memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from dslc.core.dtypes import FLOAT32, INT32, DType

from . import index
from .index import Dim, Expr
from .op import Maps
from .space import Space, collapse
from .trace import Body, Coordinates, Given, Guard, Node, Product, Read, Test, Trace, divisions, factor_of, survey, symbols_of
from .types import type_of


class Unsuited(Exception):
    """The body is not of the shape that a generator knows; it is done op by op instead. Never reaches a user."""


@dataclass(frozen=True)
class Fold:
    """A fold of a node's values. `kind`: of `nn.reduce`, or "argmax", "argmin", for which `place` is the index along the axis."""

    kind: str
    dtype: DType
    node: Node
    place: Expr | None = None

    @property
    def parts(self) -> list[DType]:
        """Types of the state as it is kept in memory: narrow floats in float32."""
        wide = FLOAT32 if self.dtype.is_float and self.dtype.bits < 32 else self.dtype
        return [wide] if self.place is None else [wide, INT32]

    @property
    def result(self) -> int:
        """Which part of the state is the result."""
        return 0 if self.place is None else 1


PRODUCTS = ("nn.contract", "nn.conv")
FOLDS = ("nn.reduce", "nn.argreduce", "nn.fold", *PRODUCTS)


@dataclass(frozen=True)
class RowSpace:
    """The space of a reduce kernel: its axes (kept ones first), how many are kept, and where the folded operand's axes are in it."""

    domain: tuple[int, ...]
    kept: int
    reads: Coordinates
    shape: tuple[int, ...]

    @property
    def rows(self) -> tuple[int, ...]:
        return self.domain[: self.kept]


@dataclass(frozen=True)
class Level:
    """Folds that one pass makes, with the values that they are the results of."""

    values: tuple[Any, ...]
    ops: tuple[Any, ...]


def maps_of(op: Any) -> Maps:
    """The index maps of a fold, those of argreduce too: kept axes, then reduced ones."""
    if op.operation.name == "nn.fold":
        return _fold_maps(op)
    if op.operation.name != "nn.argreduce":
        return op.maps()
    shape, axis = type_of(op.x).shape, op.axis
    order = [k for k in range(len(shape)) if k != axis] + [axis]
    return Maps(tuple(shape[k] for k in order), (tuple(Dim(order.index(k)) for k in range(len(shape))),))


def _fold_maps(op: Any) -> Maps:
    """The maps of a fold. Windows that do not overlap have one tap an element, position % step, and are no axes of the sum."""
    shape, rows, offsets = type_of(op.g).shape, op.matrix, op.offsets
    pivots, maps = op.pivots(), op.maps()
    rank = len(op.shape)
    free = [k for k in range(len(shape)) if k not in pivots]
    reads, kept, guards = list(maps.reads[0]), list(free), []
    for a, (row, offset, pivot) in enumerate(zip(rows, offsets, pivots)):
        taps = [k for k in free if row[k]]
        alone = len(taps) == 1 and row[taps[0]] == 1 and sum(bool(other[taps[0]]) for other in rows) == 1
        if pivot is None or not alone or not 1 < shape[taps[0]] <= row[pivot]:
            continue
        position = Dim(a) - offset
        reads[pivot], reads[taps[0]] = position // row[pivot], position % row[pivot]
        kept.remove(taps[0])
        if shape[taps[0]] < row[pivot]:
            guards.append((0, reads[taps[0]] // shape[taps[0]]))
    if kept == free:
        return maps
    place: list[Expr] = [Dim(k) for k in range(rank)] + [Dim(rank + kept.index(k)) if k in kept else index.Const(0) for k in free]
    others = [(o, index.substitute(e, place)) for o, e in maps.guards if not _taps_in(e, rank, free, kept)]
    domain = (*op.shape, *(shape[k] for k in kept))
    return Maps(domain, (tuple(index.substitute(e, place) for e in reads),), maps.outside, (*others, *guards))


def _taps_in(e: Expr, rank: int, free: Sequence[int], kept: Sequence[int]) -> bool:
    """Whether an expression depends on a tap that is no axis any more."""
    return any(d >= rank and free[d - rank] not in kept for d in index.dims_of(e))


def levels_of(body: Body) -> list[Level]:
    """The folds of a body by level."""
    depth: dict[Any, int] = dict.fromkeys(body.operands, 0)
    found: dict[int, list[tuple[Any, Any]]] = {}
    for value, (op, _) in body.makers.items():
        below = max((depth[v] for v in op.operands), default=0)
        if op.operation.name in FOLDS:
            found.setdefault(below, []).append((value, op))
            below += 1
        depth[value] = below
    return [Level(tuple(v for v, _ in found[k]), tuple(op for _, op in found[k])) for k in sorted(found)]


def space_of(levels: Sequence[Level]) -> RowSpace:
    """The space that all folds of a kernel share."""
    spaces = []
    for op in (op for level in levels for op in level.ops):
        maps = maps_of(op)
        reads, shape = tuple(maps.reads[0]), type_of(op.operands[0]).shape
        if op.operation.name in PRODUCTS:
            reads, shape = tuple(Dim(k) for k in range(len(maps.domain))), maps.domain
        spaces.append(RowSpace(maps.domain, type_of(op.results[0]).rank, reads, shape))
    first = spaces[0]
    for space in spaces:
        if (space.domain, space.kept) != (first.domain, first.kept):
            raise Unsuited("folds over different spaces")
    return first


class Rows:
    """The traces of a reduce kernel over one loop nest. `answer(k, at)` stands for the result of fold number k at row coordinates."""

    def __init__(self, body: Body, space: RowSpace, levels: Sequence[Level], nest: Space, buffers: int | None = None) -> None:
        self.body, self.space, self.levels, self.nest = body, space, levels, nest
        self.numbers = {v: k for k, v in enumerate(v for level in levels for v in level.values)}
        self.row_axes = nest.axes[: space.kept]
        self.kept = len({a for e in self.row_axes for a in index.dims_of(e)})  # dims of the nest that are kept: the first ones
        self.scattered = False  # whether a row value is read at another row's place
        self.only: dict[int, tuple[Test, ...]] = {}  # tests of the results that are written only where these hold
        self._buffers = buffers
        self.trace = Trace(body, nest.sizes, self._provide)
        self.folds = [[self._fold(op) for op in level.ops] for level in levels]
        self.results = [self._result(v) for v in body.results]

    def _provide(self, trace: Trace, value: Any, at: Coordinates, tests: tuple[Test, ...]) -> Node | None:
        number = self.numbers.get(value)
        if number is None:
            return None
        t = type_of(value)
        if self._buffers is not None:
            return self.buffered(trace, value, at, tests)
        if at != self.row_axes:
            self.scattered = True
        return Given(t.dtype, number, at)

    def buffered(self, trace: Trace, value: Any, at: Coordinates, tests: tuple[Test, ...]) -> Node | None:
        """A fold's result read from its buffer, which is the operand number `buffers` plus its own."""
        number = self.numbers.get(value)
        if number is None:
            return None
        assert self._buffers is not None
        t = type_of(value)
        return Read(t.dtype, self._buffers + number, trace.tidy(index.linearize(at, t.shape)), tests)

    def _fold(self, op: Any) -> Fold:
        maps = maps_of(op)
        if op.operation.name in PRODUCTS:
            return self._product(op, maps)
        t = type_of(op.operands[0])
        if prod(t.shape) == 0:
            return Fold(_kind(op), t.dtype, Given(t.dtype, None, ()))
        node, extra = self.trace.operand_at(op, maps, 0, self.nest.axes, ())
        if extra and not isinstance(node, Read):
            node = Guard(t.dtype, extra, node, 0.0)
        place = None
        if op.operation.name == "nn.argreduce":
            place = self.nest.axes[-1]
        return Fold(_kind(op), t.dtype, node, place)

    def _product(self, op: Any, maps: Maps) -> Fold:
        """A contraction as the sum of its products; narrow floats are summed in float32."""
        dtype = op.type.dtype
        if min(prod(t.shape) for t in op.types()) == 0:
            return Fold("sum", dtype, Given(dtype, None, ()))
        wide = FLOAT32 if dtype.is_float and dtype.bits < 32 else dtype
        return Fold("sum", dtype, Product(wide, *(self.trace.factor_at(op, maps, k, self.nest.axes) for k in (0, 1))))

    def _result(self, value: Any) -> tuple[Node, Expr, bool]:
        """(node, address, whether it is of the row space) of a yielded value."""
        shape, space, trace = type_of(value).shape, self.space, self.trace
        axes = self.nest.axes
        full = tuple(trace.tidy(index.substitute(e, axes)) for e in space.reads)
        if shape == space.shape and prod(space.domain) == prod(shape):
            at, row = full, space.kept == len(space.domain)
        elif shape == space.rows:
            at, row = self.row_axes, True
        elif prod(shape) == prod(space.rows):
            at, row = self._reshaped(self.row_axes, space.rows, shape), True
        elif prod(shape) == prod(space.shape) == prod(space.domain):
            at, row = self._reshaped(full, space.shape, shape), False
        else:
            raise Unsuited("a result that is neither of the rows nor of the whole space")
        return trace.at(value, at), trace.tidy(index.linearize(at, shape)), row

    def _reshaped(self, at: Coordinates, source: Sequence[int], target: Sequence[int]) -> Coordinates:
        position = index.linearize(at, source)
        return tuple(self.trace.tidy(e) for e in index.delinearize(position, target))

    def roots(self) -> list[Node]:
        return [f.node for level in self.folds for f in level] + [node for node, _, _ in self.results]

    def cost(self) -> int:
        found = survey(self.trace, self.roots())
        addresses = [address for _, address, _ in self.results]
        return found.divisions * 16 + len(found.reads) + sum(len(r.tests) for r in found.reads) + 16 * sum(map(divisions, addresses))


def _kind(op: Any) -> str:
    return {"nn.fold": "sum", "nn.argreduce": "arg"}.get(op.operation.name, "") + (op.kind if op.operation.name != "nn.fold" else "")


def nest_of(body: Body, space: RowSpace, levels: Sequence[Level]) -> Space:
    """The kept and the reduced axes, each merged where that adds no divisions."""

    def cost(nest: Space) -> int:
        return Rows(body, space, levels, nest).cost()

    return collapse(space.domain, cost, borders=[space.kept])


def vector_dim(rows: Rows, lanes: int) -> int | None:
    """The dim of the nest along which most memory is contiguous, or every second element is read, for vectors of so many lanes; the last one where
    they tie. What is the same along some dims counts as often as it is another one."""
    found = survey(rows.trace, rows.roots())
    addresses = [r.address for r in found.reads] + [address for _, address, row in rows.results if not row]
    sizes = rows.nest.sizes
    weights = [1.0 if symbols_of(e) else 1 / max(1, prod(n for d, n in enumerate(sizes) if d not in index.dims_of(e))) for e in addresses]
    best, most = None, -1.0
    for dim, n in enumerate(sizes):
        score = 0.0
        for e, weight in zip(addresses, weights):
            factor = factor_of(e, dim)
            score += weight * ({1: 1.0, -1: 1.0, 2: 0.5, 0: 0.25}.get(factor, 0.0) if factor is not None else 0.0)
        score *= min(n, lanes) / lanes
        if score >= most:
            best, most = dim, score
    return best
