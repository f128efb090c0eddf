"""Shapes, and operators that only move elements."""

from __future__ import annotations

from math import prod

import numpy as np

from .. import types
from ..call import Call
from ..graph import Literal
from ..table import operator
from ..values import (
    Value,
    axes_of,
    axis_of,
    broadcast_shape,
    broadcast_to,
    cast,
    concat,
    constant,
    expand_axes,
    full,
    gather,
    iota,
    pad,
    places,
    reshape,
    slice_axis,
    transpose,
    where,
)  # fmt: skip

MOST_ELEMENTS = 1 << 33  # of one result
MOST_MADE = 1 << 26  # of one that is made at compile time


def checked(call: Call, shape: list[int], most: int = MOST_ELEMENTS) -> list[int]:
    """A shape that is no nonsense."""
    if any(n < 0 for n in shape) or prod(shape) > most:
        raise call.misfit(f"a result of the shape {shape}")
    return shape


@operator("Shape")
def _shape(call: Call, x: Value) -> Value:
    start, end = call.integer("start"), call.integer("end", None)
    return constant(np.array(x.shape, np.int64)[start:end])


@operator("Size")
def _size(call: Call, x: Value) -> Value:
    return constant(np.int64(x.size))


@operator("Constant")
def _constant(call: Call) -> Value | Literal:
    for name, dtype in (("value_float", np.float32), ("value_floats", np.float32), ("value_int", np.int64), ("value_ints", np.int64)):
        if call.has(name):
            return constant(np.asarray(call.node.attributes[name], dtype))
    if call.has("value_string") or call.has("value_strings"):
        texts = call.node.attributes.get("value_string", call.node.attributes.get("value_strings"))
        return Literal(np.asarray(texts, object), types.STRING)
    found = call.node.attributes.get("value", call.node.attributes.get("sparse_value"))
    if not isinstance(found, Literal):
        raise call.mistake("it has no value")
    return found if found.elem is types.STRING else constant(found.array, found.elem)


@operator("ConstantOfShape")
def _constant_of_shape(call: Call, shape: Value) -> Value:
    literal = call.literal("value")
    sizes = checked(call, call.static_ints(shape, "shape"))
    elem = literal.elem if literal else types.FLOAT
    number = elem.carry(literal.array.reshape(-1)[:1])[0].item() if literal else 0.0
    return full(sizes, number, elem)


@operator("Range")
def _range(call: Call, start: Value, limit: Value, delta: Value) -> Value:
    first, last, step = (np.asarray(call.static(x, what)).reshape(()) for x, what in ((start, "start"), (limit, "limit"), (delta, "delta")))
    if step == 0:
        raise call.mistake("delta is 0")
    count = max(int(np.ceil((last - first) / step)), 0)
    checked(call, [count], MOST_MADE)
    return constant((first + np.arange(count) * step).astype(first.dtype), start.elem)


@operator("EyeLike")
def _eye_like(call: Call, x: Value) -> Value:
    if x.rank != 2:
        raise call.misfit(f"{x} is no matrix")
    elem = call.elem("dtype", x.elem)
    return cast((iota(x.shape, 1) - iota(x.shape, 0)).eq(call.integer("k")), elem)


@operator("Reshape")
def _reshape(call: Call, x: Value, shape: Value) -> Value:
    wanted = call.static_ints(shape, "shape")
    if not call.integer("allowzero"):
        if any(n == 0 and k >= x.rank for k, n in enumerate(wanted)):
            raise call.misfit(f"{x} reshaped to {wanted}")
        wanted = [x.shape[k] if n == 0 else n for k, n in enumerate(wanted)]
    if wanted.count(-1) > 1:
        raise call.misfit(f"{x} reshaped to {wanted}")
    if -1 in wanted:
        rest = prod(n for n in wanted if n != -1)
        wanted[wanted.index(-1)] = x.size // rest if rest else 0
    if prod(checked(call, wanted)) != x.size:
        raise call.misfit(f"{x} has {x.size} elements, reshaped to {wanted}")
    return reshape(x, wanted)


@operator("Transpose")
def _transpose(call: Call, x: Value) -> Value:
    return transpose(x, call.ints("perm", list(range(x.rank))[::-1]))


@operator("Flatten")
def _flatten(call: Call, x: Value) -> Value:
    axis = call.integer("axis", 1)
    axis += x.rank if axis < 0 else 0
    return reshape(x, (prod(x.shape[:axis]), prod(x.shape[axis:])))


@operator("Squeeze")
def _squeeze(call: Call, x: Value, axes: Value | None = None) -> Value:
    given = call.either("axes", axes)
    gone = axes_of(given, x.rank) if given is not None else [k for k, n in enumerate(x.shape) if n == 1]
    if any(x.shape[k] != 1 for k in gone):
        raise call.misfit(f"axes {gone} of {x} are not of size 1")
    return reshape(x, [n for k, n in enumerate(x.shape) if k not in gone])


@operator("Unsqueeze")
def _unsqueeze(call: Call, x: Value, axes: Value | None = None) -> Value:
    given = call.either("axes", axes, [])
    return expand_axes(x, axes_of(given, x.rank + len(given)))


@operator("Concat")
def _concat(call: Call, *xs: Value) -> Value:
    return concat(xs, axis_of(call.integer("axis"), xs[0].rank))


def split_sizes(call: Call, total: int, sizes: list[int] | None, count: int) -> list[int]:
    """The lengths of the parts: as given, or equal ones of which the last may be shorter."""
    if sizes is None:
        if count != call.count:
            raise call.mistake(f"num_outputs is {count}, the node has {call.count} outputs")
        each = -(-total // count)
        sizes = [max(min(each, total - k * each), 0) for k in range(count)]
    if sum(sizes) != total or min(sizes, default=0) < 0:
        raise call.misfit(f"an axis of {total} cannot be split into {sizes}")
    return sizes


@operator("Split")
def _split(call: Call, x: Value, split: Value | None = None) -> tuple[Value, ...]:
    axis = axis_of(call.integer("axis"), x.rank)
    sizes = split_sizes(call, x.shape[axis], call.either("split", split), call.integer("num_outputs", call.count))
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    return tuple(slice_axis(x, axis, start, size) for start, size in zip(starts, sizes))


@operator("Slice")
def _slice(
    call: Call, x: Value, starts: Value | None = None, ends: Value | None = None, axes: Value | None = None, steps: Value | None = None
) -> Value:
    first, last = call.either("starts", starts, []), call.either("ends", ends, [])
    along = axes_of(call.either("axes", axes, list(range(len(first)))), x.rank)
    by = call.static_ints(steps, "steps") if steps is not None else [1] * len(first)
    for axis, start, end, step in zip(along, first, last, by, strict=True):
        taken = range(x.shape[axis])[slice(start, end, step)]
        x = slice_axis(x, axis, taken.start if len(taken) else 0, len(taken), step)
    return x


@operator("Pad")
def _pad(call: Call, x: Value, pads: Value | None = None, value: Value | None = None, axes: Value | None = None) -> Value:
    amounts = call.either("pads", pads, [])
    along = axes_of(call.static_ints(axes, "axes"), x.rank) if axes is not None else list(range(x.rank))
    if len(amounts) != 2 * len(along):
        raise call.misfit(f"{len(amounts)} amounts of padding for {len(along)} axes")
    mode = call.text("mode", "constant")
    if mode == "constant":
        before, after = [0] * x.rank, [0] * x.rank
        for k, axis in enumerate(along):
            before[axis], after[axis] = amounts[k], amounts[len(along) + k]
        if value is not None and (known := call.known(value)) is None:
            inside = pad(full(x.shape, True, types.BOOL), before, after, 0)
            from .elementwise import where_any

            return where_any(inside, pad(x, before, after), broadcast_to(reshape(value, ()), inside.shape))
        number = known.reshape(-1)[0].item() if value is not None and known is not None and known.size else call.number("value")
        return pad(x, before, after, number)
    at_of = {"reflect": _reflected, "edge": lambda i, n: np.clip(i, 0, n - 1), "wrap": lambda i, n: i % n}
    if mode not in at_of:
        raise call.gap(f"padding of mode '{mode}' is not supported")
    for k, axis in enumerate(along):
        n = x.shape[axis]
        checked(call, [max(n + amounts[k] + amounts[len(along) + k], 0)], MOST_MADE)
        at = np.arange(-amounts[k], n + amounts[len(along) + k])
        if n == 0 and at.size:
            raise call.misfit(f"padding of mode '{mode}' of {x}")
        x = take(x, axis, at_of[mode](at, n)) if at.tolist() != list(range(n)) else x
    return x


def _reflected(i: np.ndarray, n: int) -> np.ndarray:
    period = max(2 * (n - 1), 1)
    i = np.abs(i) % period
    return np.where(i >= n, period - i, i)


def take(x: Value, axis: int, at: np.ndarray) -> Value:
    """x at known places along one axis: a view where the places are evenly spaced."""
    steps = set(np.diff(at).tolist())
    if len(steps) <= 1:
        return slice_axis(x, axis, int(at[0]) if at.size else 0, int(at.size), steps.pop() if steps else 1)
    order = [axis, *[k for k in range(x.rank) if k != axis]]
    moved = gather(transpose(x, order), [constant(at.astype(np.int32))])
    return transpose(moved, [order.index(k) for k in range(x.rank)])


@operator("Expand")
def _expand(call: Call, x: Value, shape: Value) -> Value:
    wanted = call.static_ints(shape, "shape")
    return broadcast_to(x, checked(call, list(broadcast_shape(x.shape, wanted))))


@operator("Tile")
def _tile(call: Call, x: Value, repeats: Value) -> Value:
    times = call.static_ints(repeats, "repeats")
    if len(times) != x.rank:
        raise call.misfit(f"{len(times)} repeats for {x}")
    checked(call, [t * n for t, n in zip(times, x.shape)])
    spread = broadcast_to(reshape(x, [k for n in x.shape for k in (1, n)]), [k for t, n in zip(times, x.shape) for k in (t, n)])
    return reshape(spread, [t * n for t, n in zip(times, x.shape)])


@operator("DepthToSpace")
def _depth_to_space(call: Call, x: Value) -> Value:
    b, (n, c, h, w) = call.integer("blocksize"), x.shape
    if call.text("mode", "DCR") == "DCR":
        y = transpose(reshape(x, (n, b, b, c // (b * b), h, w)), [0, 3, 4, 1, 5, 2])
    else:
        y = transpose(reshape(x, (n, c // (b * b), b, b, h, w)), [0, 1, 4, 2, 5, 3])
    return reshape(y, (n, c // (b * b), h * b, w * b))


@operator("SpaceToDepth")
def _space_to_depth(call: Call, x: Value) -> Value:
    b, (n, c, h, w) = call.integer("blocksize"), x.shape
    if call.text("mode", "DCR") == "DCR":
        y = transpose(reshape(x, (n, c, h // b, b, w // b, b)), [0, 3, 5, 1, 2, 4])
    else:
        y = transpose(reshape(x, (n, c, h // b, b, w // b, b)), [0, 1, 3, 5, 2, 4])
    return reshape(y, (n, c * b * b, h // b, w // b))


@operator("Trilu")
def _trilu(call: Call, x: Value, k: Value | None = None) -> Value:
    diagonal = call.static_ints(k, "k")[0] if k is not None else 0
    away = iota(x.shape, x.rank - 1) - iota(x.shape, x.rank - 2)
    kept = away >= diagonal if call.integer("upper", 1) else away <= diagonal
    return kept & x if x.elem.is_bool else where(kept, x, 0)


@operator("ReverseSequence")
def _reverse_sequence(call: Call, x: Value, lengths: Value) -> Value:
    time, batch = call.integer("time_axis", 0), call.integer("batch_axis", 1)
    order = [batch, time, *[k for k in range(x.rank) if k not in (batch, time)]]
    moved = transpose(x, order)
    shape = moved.shape[:2]
    at, n = iota(shape, 1), broadcast_to(expand_axes(places(lengths), [1]), shape)
    turned = gather(moved, [where(at < n, n - at - 1, at)], batch=1)
    return transpose(turned, [order.index(k) for k in range(x.rank)])
