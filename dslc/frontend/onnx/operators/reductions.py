"""Operators that fold axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dslc.ir import ops

from .. import types
from ..call import Call
from ..table import TABLE, Entry
from ..values import Value, absolute, axes_of, cast, computed, log, reduce, reshape, sqrt


def _log_sum_exp(x: Value, axes: Sequence[int]) -> Value:
    wide = cast(x, types.DOUBLE) if x.elem.is_integer else computed(x)
    return cast(Value(ops.logsumexp(wide.value, axes), wide.elem), x.elem) if axes else x


def _extreme(kind: str, of_bools: str) -> Callable[[Value, Sequence[int]], Value]:
    def build(x: Value, axes: Sequence[int]) -> Value:
        if x.elem.is_bool:
            return reduce(x, of_bools, axes)
        if x.elem is types.UINT64:
            top = -(1 << 63)
            return reduce(x ^ top, kind, axes) ^ top
        return reduce(x, kind, axes)

    return build


def _root(x: Value, axes: Sequence[int]) -> Value:
    wide = cast(x, types.DOUBLE) if x.elem.is_integer else computed(x)
    return cast(sqrt(reduce(wide * wide, "sum", axes)), x.elem)


def _log_sum(x: Value, axes: Sequence[int]) -> Value:
    wide = cast(x, types.DOUBLE) if x.elem.is_integer else computed(x)
    return cast(log(reduce(wide, "sum", axes)), x.elem)


FOLDS: dict[str, Callable[[Value, Sequence[int]], Value]] = {
    "ReduceSum": lambda x, axes: reduce(x, "sum", axes),
    "ReduceProd": lambda x, axes: reduce(x, "prod", axes),
    "ReduceMean": lambda x, axes: cast(reduce(computed(x), "mean", axes), x.elem),
    "ReduceMax": _extreme("max", "any"),
    "ReduceMin": _extreme("min", "all"),
    "ReduceL1": lambda x, axes: reduce(absolute(x), "sum", axes),
    "ReduceL2": _root,
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceSumSquare": lambda x, axes: reduce(x * x, "sum", axes),
}


def _entry(name: str, fold: Callable[[Value, Sequence[int]], Value]) -> Entry:
    def build(call: Call, x: Value, axes: Value | None = None) -> Value:
        given = call.either("axes", axes)
        if not given and call.integer("noop_with_empty_axes"):
            return fold(x, [])
        along = axes_of(given, x.rank) if given else list(range(x.rank))
        y = fold(x, along)
        return reshape(y, [1 if k in along else n for k, n in enumerate(x.shape)]) if call.integer("keepdims", 1) else y

    return Entry(name, "", build)


TABLE.update({("", name): _entry(name, fold) for name, fold in FOLDS.items()})
