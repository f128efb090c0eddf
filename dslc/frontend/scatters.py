"""Scatters: a fold over `where(f == n, value, 0)` with n an index of the left side runs over the points of f, in linear time (LANGUAGE rule 9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from dslc.core import dtypes
from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.ops.reduction import identity

from . import syntax as s
from .products import IndexVar, aligned, ordered, scale, sum_out
from .values import Point, as_point, common_dtype, number

if TYPE_CHECKING:
    from .equations import Env, Equation

NOTHING = {"sum": 0, "prod": 1, "max": float("-inf"), "min": float("inf"), "logsumexp": float("-inf"), "any": False}
_ORDER = {"max": ops.Max, "min": ops.Min}


@dataclass(frozen=True)
class _Places:
    """Where the points of a scatter go: `ids` at the points `where` of the summed indices (and others), one for each of `goals`."""

    ids: tuple[Point, ...]
    goals: tuple[IndexVar, ...]
    removed: tuple[IndexVar, ...]

    @property
    def where(self) -> tuple[IndexVar, ...]:
        return ordered([v for p in self.ids for v in p.axes])

    @property
    def batch(self) -> list[IndexVar]:
        return [v for v in self.where if v not in self.removed]

    @property
    def points(self) -> list[IndexVar]:
        return [v for v in self.where if v in self.removed]

    def indices(self) -> list[ir.Value]:
        return [ops.as_int32(aligned(p, [*self.batch, *self.points])) for p in self.ids]

    def rest(self, value: Point) -> list[IndexVar]:
        return [v for v in ordered(value.axes) if v not in self.where]

    def scatter(self, value: Point, kind: str) -> Point:
        """The fold of a value's points at their places."""
        rest = self.rest(value)
        u = aligned(value, [*self.batch, *self.points, *rest])
        made = ops.Scatter.of(u, *self.indices(), kind=kind, batch=len(self.batch), sizes=[g.size for g in self.goals])
        return _in_order(made, [*self.batch, *self.goals, *rest])

    def gather(self, folded: Point) -> Point:
        """What was folded at each point's place; 0 where that is outside."""
        rest = [v for v in self.rest(folded) if v not in self.goals]
        x = aligned(folded, [*self.batch, *self.goals, *rest])
        return _in_order(ops.Gather.of(x, *self.indices(), batch=len(self.batch), outside=0.0), [*self.batch, *self.points, *rest])


def scatter(eq: Equation, node: Any, kind: str, removed: Sequence[IndexVar], env: Env) -> Point | None:
    """The scatter that an expression under a reduction is; None where it is none."""
    split = _conditional(eq, node, kind, env)
    if split is None:
        return None
    condition, taken, empty = split
    parts = list(condition.operands) if isinstance(condition, s.Logical) and condition.op == "and" else [condition]
    targets: list[tuple[IndexVar, Any]] = []
    others = []
    names = {v.name for v in removed}
    for part in parts:
        found = _target(part, env, names)
        if found is not None and found[0] not in [t for t, _ in targets]:
            targets.append(found)
        else:
            others.append(part)
    if not targets:
        return None
    goals = tuple(t for t, _ in targets)
    ids = [eq.value(f, env) for _, f in targets]
    if not all(isinstance(p, Point) and p.type.dtype.is_integer and not set(p.axes) & set(goals) for p in ids):
        return None
    places = _Places(tuple(ids), goals, tuple(removed))
    value = _value(eq, taken, empty, env)
    masks = [eq.value(other, env) for other in others]
    if any(set(p.axes) & set(goals) for p in (value, *masks) if isinstance(p, Point)):
        return None
    return _FOLDS[kind](eq, places, value, masks, empty)


def _conditional(eq: Equation, node: Any, kind: str, env: Env) -> tuple[Any, Any, Any] | None:
    """(condition, value, number elsewhere) of `where(condition, value, number)`, or of a condition that is counted."""
    if isinstance(node, (s.Compare, s.Logical)) and kind in ("sum", "any"):
        return node, None, 0
    if not (isinstance(node, s.Call) and isinstance(node.function, s.Name) and node.function.name == "where" and len(node.arguments) == 3):
        return None
    if kind == "any":
        return None
    condition, taken, otherwise = node.arguments
    empty = eq.frame.static_in_equation(otherwise, env, eq)
    if not isinstance(empty, (int, float)) or (kind not in _ORDER and empty != NOTHING[kind]):
        return None
    return condition, taken, empty


def _target(part: Any, env: Env, removed: set[str]) -> tuple[IndexVar, Any] | None:
    """(n, f) of a conjunct `f == n` or `n == f`, n a bare index that is not summed, f data that depends on a summed one."""
    from .reductions import _uses

    if not (isinstance(part, s.Compare) and part.ops == ("==",)):
        return None
    for n, f in (part.operands, part.operands[::-1]):
        if (
            isinstance(n, s.Name)
            and n.name in env
            and n.name not in removed
            and _uses(f, removed)
            and not _uses(f, {n.name})
            and not isinstance(f, s.Name)
        ):
            return env[n.name], f
    return None


def _value(eq: Equation, taken: Any, empty: float, env: Env) -> Point:
    """What is folded, in the type that `where` gives it; 1 for a condition that is counted."""
    value = 1 if taken is None else eq.value(taken, env)
    if not isinstance(value, Point):
        return Point(number(value, common_dtype([], [value, empty])), ())
    dtype = common_dtype([value.type], [empty])
    return Point(ops.cast(value.value, dtypes.INT32 if dtype.is_bool else dtype), value.axes)


def _masked(eq: Equation, value: Point, masks: Sequence[Any], nothing: float) -> Point:
    """The value where all further conditions hold."""
    for mask in masks:
        if isinstance(mask, Point):
            value = eq.choose(Point(ops.cast(mask.value, dtypes.BOOL), mask.axes), value, nothing, value.type.dtype)
        elif not mask:
            value = Point(ops.full_like(value.value, nothing), value.axes)
    return value


def _sum(eq: Equation, places: _Places, value: Point, masks: Sequence[Any], empty: float) -> Point:
    value = _masked(eq, value, masks, 0)
    repeats = 1  # a summed index that stands nowhere counts every value as often as it has points
    for v in places.removed:
        repeats *= v.size if v not in places.where and v not in value.axes else 1
    return places.scatter(scale(sum_out(value, [v for v in places.removed if v not in places.where]), repeats), "sum")


def _product(eq: Equation, places: _Places, value: Point, masks: Sequence[Any], empty: float) -> Point | None:
    if not set(places.removed) <= set(places.where):
        return None
    return places.scatter(_masked(eq, value, masks, 1), "prod")


def _extreme(kind: str) -> Any:
    """The greatest or least value; where the number elsewhere is none of the fold's own, it takes part unless every point goes there."""

    def fold(eq: Equation, places: _Places, value: Point, masks: Sequence[Any], empty: float) -> Point | None:
        if not set(places.removed) <= set(places.where):
            return None
        nothing = identity(kind, value.type.dtype)
        found = places.scatter(_masked(eq, value, masks, nothing), kind)
        if empty == nothing:
            return found
        count = places.scatter(_masked(eq, as_point(1), masks, 0), "sum")
        some = eq.combine([count, prod(v.size for v in places.points)], lambda a, b: ops.Compare.of(a, b, predicate="lt"))
        return eq.choose(some, eq.combine([found, empty], _ORDER[kind].of), found, value.type.dtype)

    return fold


def _logsumexp(eq: Equation, places: _Places, value: Point, masks: Sequence[Any], empty: float) -> Point | None:
    """The greatest value of a place is taken out before exp, as `ops.logsumexp` does."""
    if not set(places.removed) <= set(places.where):
        return None
    value = _masked(eq, value, masks, float("-inf"))
    most = places.scatter(Point(ops.StopGradient.of(value.value), value.axes), "max")
    finite = eq.combine([most, float("-inf")], lambda a, b: ops.Compare.of(a, b, predicate="gt"))
    most = eq.choose(finite, most, 0, value.type.dtype)
    total = places.scatter(eq.combine([value, places.gather(most)], lambda a, b: ops.Exp.of(ops.Sub.of(a, b))), "sum")
    some = eq.combine([total, 0], lambda a, b: ops.Compare.of(a, b, predicate="gt"))
    safe = eq.choose(some, total, 1, value.type.dtype)
    return eq.choose(some, eq.combine([safe, most], lambda a, b: ops.Add.of(ops.Log.of(a), b)), float("-inf"), value.type.dtype)


def _any(eq: Equation, places: _Places, value: Point, masks: Sequence[Any], empty: float) -> Point | None:
    count = _sum(eq, places, value, masks, empty)
    return eq.combine([count, 0], lambda a, b: ops.Compare.of(a, b, predicate="gt"))


_FOLDS: dict[str, Any] = {
    "sum": _sum, "prod": _product, "max": _extreme("max"), "min": _extreme("min"), "logsumexp": _logsumexp, "any": _any,
}  # fmt: skip


def _in_order(made: ir.Value, axes: Sequence[IndexVar]) -> Point:
    final = ordered(axes)
    return Point(ops.transpose(made, [list(axes).index(v) for v in final]), final)
