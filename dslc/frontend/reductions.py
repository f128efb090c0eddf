"""Reductions and functions along an axis inside equations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dslc.core import dtypes
from dslc.core.errors import TypeError_
from dslc.ir import index, ops
from dslc.ir.types import type_of

from . import functions as fn
from . import syntax as s
from .products import IndexVar, ReadInfo, aligned, ordered, scale, sum_of_product
from .reads import affine
from .scatters import NOTHING, scatter
from .values import Point, as_point, common_dtype, described

if TYPE_CHECKING:
    from .equations import Env, Equation


def reduction(eq: Equation, node: s.Call, name: str, env: Env) -> Any:
    """`sum[j, ...](e)` and its kin."""
    removed = eq.expand(eq.binders[id(node)])
    inner = {**env, **{v.name: v for v in removed}}
    if len(node.arguments) != 1 or node.keywords:
        raise TypeError_(f"{name}[...] takes one argument, {len(node.arguments) + len(node.keywords)} given", node.span)
    argument = node.arguments[0]
    if name in ("sum", "mean"):
        total = _sum(eq, argument, removed, inner)
        if name == "sum":
            return total
        count = 1
        for v in removed:
            count *= v.size
        return _as_float_mean(total, count)
    if name in NOTHING and (made := scatter(eq, argument, name, removed, inner)) is not None:
        return made
    value = as_point(eq.value(argument, inner))
    if name == "categorical":
        return _categorical(eq, node, value, removed, env)
    return _fold(name, value, removed)


def _fold(name: str, value: Point, removed: Sequence[IndexVar]) -> Point:
    axes = ordered([*value.axes, *removed])
    x = aligned(value, axes)
    if name in ("any", "all"):
        x = ops.cast(x, dtypes.BOOL)
    elif Point(x, axes).type.dtype.is_bool:
        x = ops.cast(x, dtypes.INT32)
    if name == "logsumexp" and not Point(x, axes).type.dtype.is_float:
        x = ops.cast(x, dtypes.FLOAT32)
    places = [k for k, v in enumerate(axes) if v in removed]
    kept = tuple(v for v in axes if v not in removed)
    if name == "logsumexp":
        return Point(ops.logsumexp(x, places), kept)
    if name in ("argmax", "argmin"):
        return Point(_arg(x, name[3:], places, axes), kept)
    return Point(ops.Reduce.of(x, kind=name, axes=places), kept)


def _arg(x: Any, kind: str, places: list[int], axes: Sequence[IndexVar]) -> Any:
    """The position of the best element; over several axes the row-major one."""
    if len(places) == 1:
        return ops.ArgReduce.of(x, kind=kind, axis=places[0])
    kept = [k for k in range(len(axes)) if k not in places]
    moved = ops.transpose(x, [*kept, *places])
    size = 1
    for k in places:
        size *= axes[k].size
    flat = ops.reshape(moved, [*(axes[k].size for k in kept), size])
    return ops.ArgReduce.of(flat, kind=kind, axis=len(kept))


def _as_float_mean(total: Any, count: int) -> Any:
    if not isinstance(total, Point):
        return total / count if count else 0.0
    x = total.value if total.type.dtype.is_float else ops.cast(total.value, dtypes.FLOAT32)
    return scale(Point(x, total.axes), 1 / count if count else 0.0)


# --- sums -----------------------------------------------------------------------------------------------------------------------------


def _sum(eq: Equation, node: Any, removed: list[IndexVar], env: Env) -> Any:
    """A sum: scattered, distributed over terms that are products, or contracted."""
    made = scatter(eq, node, "sum", removed, env)
    if made is not None:
        return made
    if isinstance(node, s.Binary) and node.op in "+-" and (_is_product(node.left, removed) or _is_product(node.right, removed)):
        return eq.binary(node.op, _sum(eq, node.left, removed, env), _sum(eq, node.right, removed, env))
    factors, number = _masked_factors(eq, node, removed, env) or _factors(eq, node, removed, env)
    tensors = [f for f in factors if isinstance(f, Point)]
    for f in factors:
        if not isinstance(f, Point):
            if not isinstance(f, (int, float)):
                raise TypeError_(f"a number or tensor is needed, this is {described(f)}", node.span)
            number = number * f
    if not tensors:
        for v in removed:
            number *= v.size
        return number
    dtype = common_dtype([t.type for t in tensors], [number] if isinstance(number, float) else [])
    if dtype.is_bool:
        dtype = dtypes.INT32
    cast = [Point(ops.cast(t.value, dtype), t.axes, t.read if t.type.dtype == dtype else None) for t in tensors]
    return sum_of_product(cast, number, removed, eq.frame.builder.varying)


def _masked_factors(eq: Equation, node: Any, removed: Sequence[IndexVar], env: Env) -> tuple[list[Any], Any] | None:
    """The factors of `where(condition, a * b, 0)`, so that it is contracted like `a * b`: each one that has the condition's indices is 0 where it
    does not hold, or the condition is one more factor. What only leaves out places outside of a factor's tensor, as in x[i - j] for j <= i, is no
    condition: these read 0. None where the node is something else."""
    if not (isinstance(node, s.Call) and isinstance(node.function, s.Name) and node.function.name == "where" and len(node.arguments) == 3):
        return None
    condition, taken, otherwise = node.arguments
    if not _is_product(taken, removed) or eq.frame.static_in_equation(otherwise, env, eq) != 0:
        return None
    factors, number = _factors(eq, taken, removed, env)
    for part in condition.operands if isinstance(condition, s.Logical) and condition.op == "and" else [condition]:
        if _holds_inside(eq, part, factors, env):
            continue
        mask = eq.value(part, env)
        if not isinstance(mask, Point):
            number = number if mask else 0
            continue
        mask = Point(ops.cast(mask.value, dtypes.BOOL), mask.axes)
        met = [isinstance(f, Point) and set(mask.axes) <= set(f.axes) for f in factors]
        factors = [eq.choose(mask, f, 0, f.type.dtype) if m else f for f, m in zip(factors, met)] + ([] if any(met) else [mask])
    return factors, number


def _holds_inside(eq: Equation, part: Any, factors: Sequence[Any], env: Env) -> bool:
    """An inequality of indices that holds wherever one of the factors is read inside its tensor."""
    if not isinstance(part, s.Compare) or any(op not in _AT_LEAST for op in part.ops):
        return False
    sides = [affine(eq, operand, env) for operand in part.operands]
    rank = len(eq.vars)
    reads = [f.read for f in factors if isinstance(f, Point) and isinstance(f.read, ReadInfo) and f.read.outside == 0]
    entries = [(index.coefficients(e, rank), n) for r in reads for e, n in zip(r.entries, type_of(r.base).shape)]
    for op, left, right in zip(part.ops, sides, sides[1:]):
        if left is None or right is None:
            return False
        sign, strict = _AT_LEAST[op]
        found = index.coefficients((right - left) * sign, rank)
        if found is None or not any(e is not None and _implied(found[0], found[1] - strict, *e, n) for e, n in entries):
            return False
    return True


def _implied(factors: Sequence[int], constant: int, entry: Sequence[int], offset: int, size: int) -> bool:
    """factors . i + constant >= 0 wherever 0 <= entry . i + offset < size, by one of these two alone."""
    return (list(factors) == list(entry) and constant >= offset) or (list(factors) == [-f for f in entry] and constant >= size - 1 - offset)


_AT_LEAST = {"<=": (1, 0), "<": (1, 1), ">=": (-1, 0), ">": (-1, 1)}  # right - left: its sign, and what must be above 0 rather than at it


def _is_product(node: Any, removed: Sequence[IndexVar]) -> bool:
    """A product of at least two reads: a contraction if it stands alone under a sum."""
    names = {v.name for v in removed}
    return isinstance(node, s.Binary) and node.op == "*" and _uses(node.left, names) and _uses(node.right, names)


def _uses(node: Any, names: set[str]) -> bool:
    match node:
        case s.Name(name=name):
            return name in names
        case s.Read():
            return any(_uses(e, names) for e in node.entries)
        case s.Binary():
            return _uses(node.left, names) or _uses(node.right, names)
        case s.Unary():
            return _uses(node.operand, names)
        case s.Call():
            return any(_uses(a, names) for a in node.arguments)
        case s.Compare() | s.Logical():
            return any(_uses(x, names) for x in node.operands)
    return False


def _factors(eq: Equation, node: Any, removed: Sequence[IndexVar], env: Env) -> tuple[list[Any], Any]:
    """The factors of a product and its sign; a divisor that lacks the summed indices divides the others."""
    names = {v.name for v in removed}
    match node:
        case s.Binary(op="*"):
            a, p = _factors(eq, node.left, removed, env)
            b, q = _factors(eq, node.right, removed, env)
            return a + b, p * q
        case s.Binary(op="/") if not _uses(node.right, names):
            a, p = _factors(eq, node.left, removed, env)
            divisor = eq.value(node.right, env)
            if not isinstance(divisor, Point):
                if divisor == 0:
                    raise TypeError_("a division by zero", node.span)
                return a, fn.static_binary("/", p, divisor)
            return [*a, eq.binary("/", 1.0, divisor)], p
        case s.Unary(op="-"):
            a, p = _factors(eq, node.operand, removed, env)
            return a, -p
        case s.Conditional():
            return _factors(eq, node.then if eq.static_condition(node, env) else node.otherwise, removed, env)
    return [eq.value(node, env)], 1


def _categorical(eq: Equation, node: s.Call, logits: Point, removed: list[IndexVar], env: Env) -> Point:
    """A draw from softmax(logits): the largest of logits plus Gumbel noise (Gumbel 1954; Maddison et al. 2014)."""
    axes = ordered([*logits.axes, *removed, *env.values(), *eq.run_on_the_left()])  # one draw for each point
    x = ops.cast(aligned(logits, axes), dtypes.FLOAT32)
    u = eq.frame.random("uniform", [v.size for v in axes], [], node)
    tiny = ops.full_like(u, 2.0**-25)  # a uniform of exactly 0 has an infinite logarithm
    noise = ops.Neg.of(ops.Log.of(ops.Neg.of(ops.Log.of(ops.Add.of(u, tiny)))))
    return Point(_arg(ops.Add.of(x, noise), "max", [axes.index(v) for v in removed], axes), tuple(v for v in axes if v not in removed))


# --- along an axis ----------------------------------------------------------------------------------------------------------------------


def along(eq: Equation, node: s.Call, name: str, env: Env) -> Point:
    """`softmax[j](e)` and its kin: j stays."""
    entries = node.function.entries  # type: ignore[union-attr]
    if len(entries) != 1 or len(node.arguments) != 1 or node.keywords:
        raise TypeError_(f"{name}[j](...) takes one index and one argument", node.span)
    var = env[entries[0].name]
    value = as_point(eq.value(node.arguments[0], env))
    axes = ordered([*value.axes, var])
    x, axis = aligned(value, axes), axes.index(var)
    if name in ("softmax", "log_softmax"):
        if not value.type.dtype.is_float:
            x = ops.cast(x, dtypes.FLOAT32)
        return Point({"softmax": ops.Softmax, "log_softmax": ops.LogSoftmax}[name].of(x, axis=axis), axes)
    if value.type.dtype.is_bool:
        x = ops.cast(x, dtypes.INT32)
    if name in ("cumsum", "cumprod"):
        return Point(ops.Cumulative.of(x, kind={"cumsum": "sum", "cumprod": "prod"}[name], axis=axis, reverse=False, exclusive=False), axes)
    ordered_values, order = ops.sort(x, axis)
    return Point(ordered_values if name == "sort" else order, axes)
