"""Gathers, scatters, sorting, and operators whose result's shape depends on data."""

from __future__ import annotations

import numpy as np

from dslc.ir import ops

from .. import types
from ..call import Call
from ..table import operator
from ..values import Value, axis_of, cast, constant, full, gather, iota, maximum, minimum, reshape, slice_axis, sort, transpose, where


def wrapped_index(ids: Value, size: int) -> Value:
    """Indices from the end counted from the front, as int32 or int64."""
    ids = ids if ids.elem in (types.INT32, types.INT64) else cast(ids, types.INT64)
    return where(ids < 0, ids + size, ids)


@operator("Gather", weights=(0,))
def gathered(n: Call, x: Value, ids: Value) -> Value:
    axis = axis_of(n.integer("axis", 0), x.rank)
    known = n.known(ids)
    if known is not None and known.size == 1:  # one place, mostly of a shape
        at = int(known.reshape(-1)[0])
        if not -x.shape[axis] <= at < x.shape[axis]:
            raise n.misfit(f"index {at} of axis {axis} of {x}")
        picked = slice_axis(x, axis, at % x.shape[axis], 1)
        return reshape(picked, [*x.shape[:axis], *ids.shape, *x.shape[axis + 1 :]])
    order = [axis, *(k for k in range(x.rank) if k != axis)]
    y = gather(transpose(x, order), [wrapped_index(ids, x.shape[axis])])
    rank = ids.rank
    back = [*range(rank, rank + axis), *range(rank), *range(rank + axis, y.rank)]
    return transpose(y, back)


@operator("GatherElements")
def gather_elements(n: Call, x: Value, ids: Value) -> Value:
    axis = axis_of(n.integer("axis", 0), x.rank)
    return gather(x, places(x, ids, axis))


def places(x: Value, ids: Value, axis: int) -> list[Value]:
    """Indices for every axis: the given ones along `axis`, each element's own place along the others."""
    index = cast(wrapped_index(ids, x.shape[axis]), types.INT32)
    return [index if k == axis else iota(ids.shape, k) for k in range(x.rank)]


@operator("GatherND")
def gather_nd(n: Call, x: Value, ids: Value) -> Value:
    batch = n.integer("batch_dims", 0)
    return gather(x, columns(x, ids, batch), batch=batch)


def columns(x: Value, ids: Value, batch: int = 0) -> list[Value]:
    """The last axis of indices taken apart: one tensor for each indexed axis of x."""
    out = []
    for k in range(ids.shape[-1]):
        column = reshape(slice_axis(ids, ids.rank - 1, k, 1), ids.shape[:-1])
        out.append(wrapped_index(column, x.shape[batch + k]))
    return out


def scatter_into(n: Call, x: Value, ids: list[Value], updates: Value, kind: str) -> Value:
    """x with updates folded in. "none": the last update of a point wins."""
    shape, depth = x.shape, len(ids)
    sizes = list(shape[:depth])

    def scattered(u: Value, how: str) -> Value:
        return Value(ops.Scatter.of(u.value, *[i.value for i in ids], kind=how, batch=0, sizes=sizes), u.elem)

    if updates.size == 0:
        return x
    if kind == "none":
        count = int(np.prod(ids[0].shape))
        turn = reshape(iota([count], 0), ids[0].shape)
        last = scattered(turn, "max")  # which update came last; the type's least value where none did
        hit = last >= 0
        rows = reshape(updates, [count, *updates.shape[ids[0].rank :]])
        taken = gather(rows, [last])
        hit = reshape(hit, [*hit.shape, *[1] * (x.rank - hit.rank)])
        return where(hit, taken, x)
    wide = cast(x, types.INT32) if x.elem.is_bool else x
    given = cast(updates, types.INT32) if x.elem.is_bool else updates
    folded = scattered(given, {"add": "sum", "mul": "prod", "max": "max", "min": "min"}[kind])
    made = {"add": lambda: wide + folded, "mul": lambda: wide * folded, "max": lambda: maximum(wide, folded), "min": lambda: minimum(wide, folded)}
    return cast(made[kind](), x.elem)


@operator("Scatter", "ScatterElements")
def scatter_elements(n: Call, x: Value, ids: Value, updates: Value) -> Value:
    axis = axis_of(n.integer("axis", 0), x.rank)
    return scatter_into(n, x, places(x, ids, axis), updates, n.text("reduction", "none"))


@operator("ScatterND")
def scatter_nd(n: Call, x: Value, ids: Value, updates: Value) -> Value:
    return scatter_into(n, x, columns(x, ids), updates, n.text("reduction", "none"))


@operator("TensorScatter")
def tensor_scatter(n: Call, past: Value, update: Value, start: Value | None = None) -> Value:
    """A cache with new entries written from `start` on, row by row; `mode` "circular" goes round its end."""
    axis = axis_of(n.integer("axis", -2), past.rank)
    size, count = past.shape[axis], update.shape[axis]
    begin = reshape(cast(start, types.INT32), [past.shape[0], *[1] * (past.rank - 1)]) if start is not None else full([1] * past.rank, 0, types.INT32)
    offset = iota(past.shape, axis) - begin
    if n.text("mode", "linear") == "circular":
        offset = offset % size
    ids = [where(offset < 0, count, offset) if k == axis else iota(past.shape, k) for k in range(past.rank)]
    return where((offset >= 0) & (offset < count), gather(update, ids), past)


@operator("TopK")
def top_k(n: Call, x: Value, k: Value | None = None) -> tuple[Value, Value]:
    """Equal elements: the lower index first."""
    axis = axis_of(n.integer("axis", -1), x.rank)
    count = n.static_ints(k, "k")[0] if k is not None else n.integer("k")
    if not 0 <= count <= x.shape[axis]:
        raise n.misfit(f"the {count} largest of {x.shape[axis]}")
    source = x ^ -(1 << 63) if x.elem is types.UINT64 else x
    values, order = sort(source, axis, descending=bool(n.integer("largest", 1)))
    values = values ^ -(1 << 63) if x.elem is types.UINT64 else values
    return slice_axis(values, axis, 0, count), cast(slice_axis(order, axis, 0, count), types.INT64)


@operator("NonZero", note="the input must be known at compile time")
def non_zero(n: Call, x: Value) -> Value:
    return constant(np.stack(np.nonzero(n.data(x))).astype(np.int64))


@operator("Unique", note="the input must be known at compile time")
def unique(n: Call, x: Value) -> tuple[Value, ...]:
    data = n.data(x)
    axis = n.integer("axis", None)
    data = data.reshape(-1) if axis is None else data
    values, first, inverse, counts = np.unique(data, return_index=True, return_inverse=True, return_counts=True, axis=axis if axis is not None else 0)
    if not n.integer("sorted", 1):
        order = np.argsort(first)
        rank = np.argsort(order)
        values, first, counts, inverse = np.take(values, order, axis or 0), first[order], counts[order], rank[inverse.reshape(-1)]
    return (constant(values, x.elem), *(constant(v.reshape(-1).astype(np.int64)) for v in (first, inverse, counts)))
