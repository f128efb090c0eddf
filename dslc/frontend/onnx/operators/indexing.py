"""Operators whose places depend on data: gathers, scatters, orders, running sums."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dslc.ir import ops

from .. import types
from ..call import Call
from ..table import operator
from ..values import (
    Value,
    axis_of,
    broadcast_to,
    cast,
    constant,
    cumulative,
    expand_axes,
    gather,
    iota,
    maximum,
    minimum,
    places,
    reshape,
    slice_axis,
    sort,
    transpose,
    where,
)  # fmt: skip
from .elementwise import where_any


def from_front(indices: Value, size: int) -> Value:
    """Indices counted from the front, in int32 where the axis allows."""
    wide = places(indices) if size < 2**31 else indices
    return wide if indices.elem.is_unsigned else where(wide < 0, wide + size, wide)


@operator("Gather", weights=(0,))
def _gather(call: Call, x: Value, indices: Value) -> Value:
    axis = axis_of(call.integer("axis"), x.rank)
    order = [axis, *[k for k in range(x.rank) if k != axis]]
    made = gather(transpose(x, order), [from_front(indices, x.shape[axis])])
    rank = indices.rank
    back = [*range(rank, rank + axis), *range(rank), *range(rank + axis, made.rank)]
    return transpose(made, back)


@operator("ArrayFeatureExtractor", domain="ai.onnx.ml")
def _features(call: Call, x: Value, indices: Value) -> Value:
    rows = reshape(x, (x.size // x.shape[-1], x.shape[-1]))
    taken = gather(transpose(rows, [1, 0]), [from_front(reshape(indices, (indices.size,)), x.shape[-1])])
    return reshape(transpose(taken, [1, 0]), (*(x.shape[:-1] or (1,)), indices.size))


def _coordinates(x: Sequence[int], indices: Value, axis: int) -> list[Value]:
    """The place in a tensor of shape x of each element of `indices`, which count along one axis."""
    return [from_front(indices, x[axis]) if k == axis else iota(indices.shape, k) for k in range(len(x))]


@operator("GatherElements")
def _gather_elements(call: Call, x: Value, indices: Value) -> Value:
    axis = axis_of(call.integer("axis"), x.rank)
    return gather(x, _coordinates(x.shape, indices, axis))


@operator("GatherND")
def _gather_nd(call: Call, x: Value, indices: Value) -> Value:
    batch, depth = call.integer("batch_dims"), indices.shape[-1]
    return gather(x, _columns(indices, x.shape[batch : batch + depth]), batch=batch)


def _columns(indices: Value, sizes: Sequence[int]) -> list[Value]:
    """The coordinates that lie along the last axis."""
    last = indices.rank - 1
    return [from_front(reshape(slice_axis(indices, last, k, 1), indices.shape[:-1]), n) for k, n in enumerate(sizes)]


def scattered(call: Call, x: Value, updates: Value, ids: list[Value], how: str) -> Value:
    """x with updates [i..., w...] put at ids [i...]; of several at one place the last counts, or all by `how`."""
    sizes = x.shape[: len(ids)]

    def folded(u: Value, kind: str) -> Value:
        return Value(ops.Scatter.of(u.value, *[i.value for i in ids], kind=kind, batch=0, sizes=sizes), u.elem)

    if how == "add":
        return x + folded(updates, "sum")
    if how == "mul":
        return x * folded(updates, "prod")
    if how in ("max", "min"):
        return (maximum if how == "max" else minimum)(x, folded(updates, how))
    if how != "none":
        raise call.gap(f"reduction '{how}' is not supported")
    if updates.size == 0:
        return x
    count = ids[0].size
    last = folded(reshape(constant(np.arange(1, count + 1, dtype=np.int32)), ids[0].shape), "max")  # where nothing lands: below 1
    found = gather(reshape(updates, (count, *updates.shape[ids[0].rank :])), [last - 1])
    hit = last >= 1
    return where_any(broadcast_to(expand_axes(hit, range(hit.rank, x.rank)), x.shape), found, x)


@operator("ScatterElements", "Scatter")
def _scatter_elements(call: Call, x: Value, indices: Value, updates: Value) -> Value:
    axis = axis_of(call.integer("axis"), x.rank)
    return scattered(call, x, updates, _coordinates(x.shape, indices, axis), call.text("reduction", "none"))


@operator("ScatterND")
def _scatter_nd(call: Call, x: Value, indices: Value, updates: Value) -> Value:
    return scattered(call, x, updates, _columns(indices, x.shape[: indices.shape[-1]]), call.text("reduction", "none"))


@operator("TensorScatter")
def _tensor_scatter(call: Call, cache: Value, update: Value, starts: Value | None = None) -> Value:
    """Rows of a cache from a start on, which may be another in each sample."""
    axis = axis_of(call.integer("axis", -2), cache.rank)
    size = cache.shape[axis]
    at = iota(update.shape, axis)
    if starts is not None:
        at = at + broadcast_to(reshape(places(starts), (update.shape[0], *[1] * (update.rank - 1))), update.shape)
    if call.text("mode", "linear") == "circular":
        at = at % size
    return scattered(call, cache, update, [at if k == axis else iota(update.shape, k) for k in range(cache.rank)], "none")


@operator("OneHot")
def _one_hot(call: Call, indices: Value, depth: Value, values: Value) -> Value:
    count = call.static_ints(depth, "depth")[0]
    axis = axis_of(call.integer("axis", -1), indices.rank + 1)
    wide = cast(indices, types.INT64)
    wide = where(wide < 0, wide + count, wide)
    shape = [*indices.shape[:axis], count, *indices.shape[axis:]]
    hit = cast(iota(shape, axis), types.INT64).eq(broadcast_to(expand_axes(wide, [axis]), shape))
    off, on = (broadcast_to(reshape(slice_axis(values, 0, k, 1), ()), shape) for k in (0, 1))
    return where_any(hit, on, off)


@operator("ArgMax")
def _arg_max(call: Call, x: Value) -> Value:
    return _arg(call, x, "max")


@operator("ArgMin")
def _arg_min(call: Call, x: Value) -> Value:
    return _arg(call, x, "min")


def _arg(call: Call, x: Value, kind: str) -> Value:
    axis = axis_of(call.integer("axis"), x.rank)
    last, n = call.integer("select_last_index"), x.shape[axis]
    turned = slice_axis(x, axis, n - 1, n, -1) if last else x
    found = first_place(turned, kind, axis)
    found = cast((n - 1) - found if last else found, types.INT64)
    return expand_axes(found, [axis]) if call.integer("keepdims", 1) else found


def first_place(x: Value, kind: str, axis: int) -> Value:
    """Where the greatest or least element along an axis first stands, in int32."""
    return Value(ops.ArgReduce.of(x.value, kind=kind, axis=axis), types.INT32)


@operator("TopK")
def _top_k(call: Call, x: Value, k: Value | None = None) -> tuple[Value, Value]:
    count = call.static_ints(k, "k")[0] if k is not None else call.integer("k")
    axis = axis_of(call.integer("axis", -1), x.rank)
    if not 0 <= count <= x.shape[axis]:
        raise call.misfit(f"k is {count}, axis {axis} of {x} has {x.shape[axis]}")
    values, order = sort(x, axis, descending=bool(call.integer("largest", 1)), count=count)
    return values, cast(order, types.INT64)


def _running(call: Call, x: Value, axis: Value, kind: str) -> Value:
    along = axis_of(call.static_ints(axis, "axis")[0], x.rank)
    return cumulative(x, kind, along, reverse=bool(call.integer("reverse")), exclusive=bool(call.integer("exclusive")))


@operator("CumSum")
def _cum_sum(call: Call, x: Value, axis: Value) -> Value:
    return _running(call, x, axis, "sum")


@operator("CumProd")
def _cum_prod(call: Call, x: Value, axis: Value) -> Value:
    return _running(call, x, axis, "prod")


# --- results whose shape depends on data --------------------------------------------------------------------------------------------------


@operator("NonZero", note="only of tensors known at compile time", folded=True)
def _non_zero(call: Call, x: Value) -> Value:
    return constant(np.array(np.nonzero(call.data(x)), np.int64).reshape(x.rank, -1))


@operator("Compress", note="only with a condition known at compile time", folded=True)
def _compress(call: Call, x: Value, condition: Value) -> Value:
    kept = np.flatnonzero(call.data(condition)).astype(np.int32)
    axis = call.integer("axis", None)
    x, along = (reshape(x, (x.size,)), 0) if axis is None else (x, axis_of(axis, x.rank))
    from .movement import take

    return take(x, along, kept)


@operator("Unique", note="only of tensors known at compile time", folded=True)
def _unique(call: Call, x: Value) -> tuple[Value, ...]:
    axis = call.integer("axis", None)
    values, first, inverse, counts = np.unique(call.data(x), return_index=True, return_inverse=True, return_counts=True, axis=axis)
    order = np.arange(len(first)) if call.integer("sorted", 1) else np.argsort(first)
    values = np.take(values, order, axis=axis or 0)
    inverse = np.argsort(order)[inverse.reshape(-1)]
    return (constant(values, x.elem), *(constant(v.astype(np.int64)) for v in (first[order], inverse, counts[order])))
