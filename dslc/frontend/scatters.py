"""Scatters: a sum over `where(f == n, value, 0)` with n an index of the left side runs over the points of f, in linear time (LANGUAGE rule 9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dslc.core import dtypes
from dslc.ir import ops

from . import syntax as s
from .products import IndexVar, aligned, ordered, scale, sum_out
from .values import Point, as_point

if TYPE_CHECKING:
    from .equations import Env, Equation

EMPTY = {"sum": 0, "max": float("-inf"), "min": float("inf")}


def scatter(eq: Equation, node: Any, kind: str, removed: Sequence[IndexVar], env: Env) -> Point | None:
    """The scatter that an expression under a reduction is; None where it is none."""
    if not (isinstance(node, s.Call) and isinstance(node.function, s.Name) and node.function.name == "where" and len(node.arguments) == 3):
        return None
    condition, taken, empty = node.arguments
    if not (isinstance(empty, s.Number) and empty.value == EMPTY[kind]):
        return None
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
    goals = [t for t, _ in targets]
    places = [eq.value(f, env) for _, f in targets]
    if not all(isinstance(p, Point) and p.type.dtype.is_integer and not set(p.axes) & set(goals) for p in places):
        return None
    value = _value(eq, taken, others, env)
    if set(value.axes) & set(goals):
        return None
    return _build(value, places, goals, removed, kind)


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


def _value(eq: Equation, taken: Any, others: list[Any], env: Env) -> Point:
    value = as_point(eq.value(taken, env))
    if value.type.dtype.is_bool:
        value = Point(ops.cast(value.value, dtypes.INT32), value.axes)
    for other in others:
        mask = eq.value(other, env)
        if isinstance(mask, Point):
            value = eq.choose(Point(ops.cast(mask.value, dtypes.BOOL), mask.axes), value, 0, value.type.dtype)
        elif not mask:
            value = Point(ops.full_like(value.value, 0), value.axes)
    return value


def _build(value: Point, places: list[Point], goals: list[IndexVar], removed: Sequence[IndexVar], kind: str) -> Point | None:
    where = ordered([v for p in places for v in p.axes])
    repeats = 1  # a summed index that stands nowhere counts every value as often as it has points
    for v in removed:
        repeats *= v.size if v not in where and v not in value.axes else 1
    if kind == "sum":
        value = scale(sum_out(value, [v for v in removed if v not in where]), repeats)
    elif any(v in value.axes and v not in where for v in removed):
        return None
    batch = [v for v in where if v not in removed]
    points = [v for v in where if v in removed]
    rest = [v for v in ordered(value.axes) if v not in where]
    u = aligned(value, [*batch, *points, *rest])
    ids = [ops.as_int32(aligned(p, [*batch, *points])) for p in places]
    made = ops.Scatter.of(u, *ids, kind=kind, batch=len(batch), sizes=[g.size for g in goals])
    axes = [*batch, *goals, *rest]
    final = ordered(axes)
    return Point(ops.transpose(made, [axes.index(v) for v in final]), final)
