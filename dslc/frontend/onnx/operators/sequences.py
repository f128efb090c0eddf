"""Sequences and optionals: lists and nothing, at compile time."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..call import Call
from ..run import NOTHING
from ..table import operator
from ..values import Value, axis_of, concat, constant, expand_axes, reshape, slice_axis
from .movement import split_sizes


@operator("SequenceEmpty")
def _empty(call: Call) -> tuple[list[Value]]:
    return ([],)


@operator("SequenceConstruct")
def _construct(call: Call, *xs: Value) -> tuple[list[Value]]:
    return (list(xs),)


def _place(call: Call, position: Value, count: int) -> int:
    at = call.static_ints(position, "position")[0]
    if not -count <= at < count:
        raise call.mistake(f"position {at} of a sequence of {count}")
    return at % count


@operator("SequenceAt")
def _at(call: Call, xs: list[Value], position: Value) -> Value:
    return xs[_place(call, position, len(xs))]


@operator("SequenceInsert")
def _insert(call: Call, xs: list[Value], x: Value, position: Value | None = None) -> tuple[list[Value]]:
    at = _place(call, position, len(xs) + 1 if call.static_ints(position, "position")[0] >= 0 else len(xs)) if position is not None else len(xs)
    return ([*xs[:at], x, *xs[at:]],)


@operator("SequenceErase")
def _erase(call: Call, xs: list[Value], position: Value | None = None) -> tuple[list[Value]]:
    at = _place(call, position, len(xs)) if position is not None else len(xs) - 1
    return ([*xs[:at], *xs[at + 1 :]],)


@operator("SequenceLength")
def _length(call: Call, xs: list[Value]) -> Value:
    return constant(np.int64(len(xs)))


@operator("SplitToSequence")
def _split(call: Call, x: Value, split: Value | None = None) -> tuple[list[Value]]:
    axis = axis_of(call.integer("axis"), x.rank)
    total = x.shape[axis]
    if split is None:
        parts = [slice_axis(x, axis, k, 1) for k in range(total)]
        keep = call.integer("keepdims", 1)
        return (parts if keep else [reshape(p, [n for k, n in enumerate(p.shape) if k != axis]) for p in parts],)
    sizes = call.static_ints(split, "split")
    if split.rank == 0:
        sizes = [min(sizes[0], total - k) for k in range(0, total, max(sizes[0], 1))]
    sizes = split_sizes(call, total, sizes, call.count)
    return ([slice_axis(x, axis, sum(sizes[:k]), n) for k, n in enumerate(sizes)],)


@operator("ConcatFromSequence")
def _concat(call: Call, xs: list[Value]) -> Value:
    axis = call.integer("axis")
    if call.integer("new_axis"):
        axis = axis_of(axis, xs[0].rank + 1)
        xs = [expand_axes(x, [axis]) for x in xs]
    return concat(xs, axis_of(axis, xs[0].rank))


@operator("SequenceMap")
def _map(call: Call, xs: list[Value], *rest: Any) -> tuple[Any, ...]:
    body = call.graph("body")
    rows = []
    for k, x in enumerate(xs):
        given = [x, *(r[k] if isinstance(r, list) else r for r in rest)]
        rows.append(call.run.inside(body, call.scope, given, f"{call.node.name}/{k}"))
    return tuple([r[k] for r in rows] for k in range(len(body.outputs)))


@operator("Optional")
def _optional(call: Call, x: Any = None) -> tuple[Any]:
    return (NOTHING if x is None else x,)


@operator("OptionalHasElement")
def _has_element(call: Call, x: Any = None) -> Value:
    return constant(np.bool_(x is not None and x is not NOTHING))


@operator("OptionalGetElement")
def _get_element(call: Call, x: Any) -> tuple[Any]:
    if x is NOTHING:
        raise call.mistake("the optional is empty")
    return (x,)
