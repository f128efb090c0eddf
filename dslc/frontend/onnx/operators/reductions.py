"""Reductions, running folds, argmax."""

from __future__ import annotations

import math

from dslc.ir import ops

from .. import types
from ..call import Call
from ..table import operator
from ..values import Value, absolute, axes_of, axis_of, cast, cumulative, full, like, log, reduce, reshape, sqrt, where


@operator("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare")
def reduction(n: Call, x: Value, axes: Value | None = None) -> Value:
    given = n.either("axes", axes)
    if given is None or (not given and not n.integer("noop_with_empty_axes", 0)):
        given = list(range(x.rank))
    elif not given:
        return _pointwise(n.node.op, x)
    where_, keep = axes_of(given, x.rank), bool(n.integer("keepdims", 1))
    return _folded(n, n.node.op, x, where_, keep)


def _pointwise(name: str, x: Value) -> Value:
    """A reduction over no axes."""
    return {"ReduceL1": absolute, "ReduceL2": absolute, "ReduceLogSum": log, "ReduceSumSquare": lambda v: v * v}.get(name, lambda v: v)(x)


def _folded(n: Call, name: str, x: Value, axes: list[int], keep: bool) -> Value:
    match name:
        case "ReduceSum":
            return reduce(x, "sum", axes, keep)
        case "ReduceMean":
            return reduce(x, "mean", axes, keep)
        case "ReduceProd":
            return reduce(x, "prod", axes, keep)
        case "ReduceMax" | "ReduceMin":
            return _extreme(x, "max" if name == "ReduceMax" else "min", axes, keep)
        case "ReduceL1":
            return reduce(absolute(x), "sum", axes, keep)
        case "ReduceSumSquare":
            return reduce(x * x, "sum", axes, keep)
        case "ReduceL2":
            return _of_float(x, lambda v: sqrt(reduce(v * v, "sum", axes, keep)))
        case "ReduceLogSum":
            return _of_float(x, lambda v: log(reduce(v, "sum", axes, keep)))
    return _of_float(x, lambda v: log_sum_exp(v, axes, keep))


def _of_float(x: Value, function: object) -> Value:
    """Integers are computed in float64 and cut again."""
    return function(x) if x.elem.is_float else cast(function(cast(x, types.DOUBLE)), x.elem)  # type: ignore[operator]


def log_sum_exp(x: Value, axes: list[int], keep: bool) -> Value:
    y = Value(ops.logsumexp(x.value, axes), x.elem)
    return reshape(y, [1 if k in axes else size for k, size in enumerate(x.shape)]) if keep else y


def _extreme(x: Value, kind: str, axes: list[int], keep: bool) -> Value:
    if x.elem.is_bool:
        return reduce(x, "any" if kind == "max" else "all", axes, keep)
    if x.elem.is_integer and x.size == 0:
        low, high = x.elem.limits
        shape = [1 if k in axes else size for k, size in enumerate(x.shape) if keep or k not in axes]
        return full(shape, low if kind == "max" else high, x.elem)
    if x.elem is types.UINT64:
        flip = -(1 << 63)
        return reduce(x ^ flip, kind, axes, keep) ^ flip
    return reduce(x, kind, axes, keep)


@operator("ArgMax", "ArgMin")
def arg_extreme(n: Call, x: Value) -> Value:
    axis, keep = axis_of(n.integer("axis", 0), x.rank), bool(n.integer("keepdims", 1))
    last = bool(n.integer("select_last_index", 0))
    source = Value(ops.reverse(x.value, axis), x.elem) if last else x
    index = Value(ops.ArgReduce.of(source.value, kind="max" if n.node.op == "ArgMax" else "min", axis=axis), types.INT32)
    index = x.shape[axis] - 1 - index if last else index
    y = cast(index, types.INT64)
    return reshape(y, [1 if k == axis else size for k, size in enumerate(x.shape)]) if keep else y


@operator("CumSum", "CumProd")
def running(n: Call, x: Value, axis: Value) -> Value:
    at = axis_of(n.static_ints(axis, "axis")[0], x.rank)
    kind = "sum" if n.node.op == "CumSum" else "prod"
    return cumulative(x, kind, at, reverse=bool(n.integer("reverse", 0)), exclusive=bool(n.integer("exclusive", 0)))


@operator("LpNormalization")
def lp_normalization(n: Call, x: Value) -> Value:
    """x divided by its norm along an axis; 0 where the norm is 0."""
    axis, p = axis_of(n.integer("axis", -1), x.rank), n.integer("p", 2)
    norm = reduce(absolute(x), "sum", [axis], True) if p == 1 else sqrt(reduce(x * x, "sum", [axis], True))
    zero = norm.eq(0.0)
    return where(zero, 0.0, x / where(zero, like(norm, 1.0), norm))


@operator("Det")
def determinant(n: Call, x: Value) -> Value:
    """By elimination with the largest pivot of each column."""
    size = x.shape[-1]
    lead = list(x.shape[:-2])
    from ..values import gather, iota, slice_axis

    rows = int(math.prod(lead))
    a = reshape(x, [rows, size, size])
    result = full([rows], 1.0, x.elem)
    for k in range(size):
        column = absolute(slice_axis(slice_axis(a, 2, k, 1), 1, k, size - k))
        best = Value(ops.ArgReduce.of(reshape(column, [rows, size - k]).value, kind="max", axis=1), types.INT32) + k
        index = iota([rows, size], 1)
        choice = reshape(best, [rows, 1])
        swapped = where(index.eq(k), choice, where(index.eq(choice), k, index))
        a = gather(a, [swapped], batch=1)
        pivot_row = reshape(slice_axis(a, 1, k, 1), [rows, size])
        pivot = reshape(slice_axis(pivot_row, 1, k, 1), [rows])
        result = where(best.eq(k), result, -result) * pivot
        safe = where(pivot.eq(0.0), 1.0, pivot)
        factor = reshape(slice_axis(a, 2, k, 1), [rows, size]) / reshape(safe, [rows, 1])
        below = where(index > k, factor, 0.0)
        a = a - reshape(below, [rows, size, 1]) * reshape(pivot_row, [rows, 1, size])
    return reshape(result, lead)


