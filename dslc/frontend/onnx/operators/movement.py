"""Operators that move elements: shapes, slices, padding, joins."""

from __future__ import annotations

from typing import Any

import numpy as np

from dslc.ir import ops

from .. import types
from ..call import Call
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
    reshape,
    slice_axis,
    transpose,
    where,
)


@operator("Constant")
def constant_of(n: Call) -> Any:
    for name in ("value", "sparse_value"):
        if n.has(name):
            literal = n.literal(name)
            return literal if literal.elem is types.STRING else constant(literal.array, literal.elem)
    for name, elem in (("value_float", types.FLOAT), ("value_int", types.INT64), ("value_floats", types.FLOAT), ("value_ints", types.INT64)):
        if n.has(name):
            return constant(np.array(n.node.attributes[name]), elem)
    raise n.gap("a constant of this kind is not supported")


@operator("Shape")
def shape_of(n: Call, x: Value) -> Value:
    start, end = n.integer("start", 0), n.integer("end", None)
    return constant(np.array(x.shape[start:end], np.int64))


@operator("Size")
def size_of(n: Call, x: Value) -> Value:
    return constant(np.array(x.size, np.int64))


@operator("Reshape")
def reshaped(n: Call, x: Value, shape: Value) -> Value:
    """0 keeps an axis (unless `allowzero`), -1 is what is left."""
    wanted = n.static_ints(shape, "shape")
    if not n.integer("allowzero", 0):
        wanted = [x.shape[k] if v == 0 and k < x.rank else v for k, v in enumerate(wanted)]
    if wanted.count(-1) == 1:
        known = int(np.prod([v for v in wanted if v != -1]))
        wanted[wanted.index(-1)] = x.size // known if known else 0
    return reshape(x, wanted)


@operator("Flatten")
def flatten(n: Call, x: Value) -> Value:
    axis = n.integer("axis", 1)
    axis = axis + x.rank if axis < 0 else axis
    return reshape(x, [int(np.prod(x.shape[:axis])), int(np.prod(x.shape[axis:]))])


@operator("Squeeze")
def squeeze(n: Call, x: Value, axes: Value | None = None) -> Value:
    given = n.either("axes", axes)
    gone = axes_of(given, x.rank) if given is not None else [k for k, size in enumerate(x.shape) if size == 1]
    if any(x.shape[a] != 1 for a in gone):
        raise n.misfit(f"axes {gone} of {x} are not all of size 1")
    return reshape(x, [size for k, size in enumerate(x.shape) if k not in gone])


@operator("Unsqueeze")
def unsqueeze(n: Call, x: Value, axes: Value | None = None) -> Value:
    given = n.either("axes", axes, [])
    return expand_axes(x, axes_of(given, x.rank + len(given)))


@operator("Transpose")
def transposed(n: Call, x: Value) -> Value:
    return transpose(x, n.ints("perm", list(range(x.rank))[::-1]))


@operator("Expand")
def expand(n: Call, x: Value, shape: Value) -> Value:
    return broadcast_to(x, broadcast_shape(x.shape, n.static_ints(shape, "shape")))


@operator("Tile")
def tile(n: Call, x: Value, repeats: Value) -> Value:
    times = n.static_ints(repeats, "repeats")
    if len(times) != x.rank or min(times, default=0) < 0:
        raise n.misfit(f"{x} repeated {times} times")
    for axis, count in enumerate(times):
        x = full([0 if k == axis else size for k, size in enumerate(x.shape)], 0, x.elem) if count == 0 else concat([x] * count, axis)
    return x


@operator("Concat")
def joined(n: Call, *xs: Value) -> Value:
    axis = axis_of(n.integer("axis"), xs[0].rank)
    kept = [x for x in xs if x.shape[axis]]
    return concat(kept or list(xs[:1]), axis)


@operator("Split")
def split(n: Call, x: Value, sizes: Value | None = None) -> list[Value]:
    axis = axis_of(n.integer("axis", 0), x.rank)
    given = n.either("split", sizes)
    if given is None:
        count = n.integer("num_outputs", n.count)
        part = -(-x.shape[axis] // count)
        given = [min(part, max(0, x.shape[axis] - k * part)) for k in range(count)]
    if sum(given) != x.shape[axis] or min(given, default=0) < 0:
        raise n.misfit(f"axis {axis} of {x} cannot be split into {given}")
    out, start = [], 0
    for size in given:
        out.append(slice_axis(x, axis, start, size))
        start += size
    return tuple(out)  # type: ignore[return-value]


@operator("Slice")
def sliced(n: Call, x: Value, starts: Value | None = None, ends: Value | None = None, axes: Value | None = None, steps: Value | None = None) -> Value:
    """Bounds are attributes before opset 10."""
    begin, end = n.either("starts", starts), n.either("ends", ends)
    if begin is None or end is None or len(begin) != len(end):
        raise n.mistake("starts and ends are needed, one for each axis")
    where_ = axes_of(n.either("axes", axes, list(range(len(begin)))), x.rank)
    step = n.static_ints(steps, "steps") if steps is not None else [1] * len(begin)
    for axis, low, high, by in zip(where_, begin, end, step):
        if by == 0:
            raise n.misfit("a step of 0")
        taken = range(x.shape[axis])[slice(low, high, by)]
        x = slice_axis(x, axis, taken.start if taken else 0, len(taken), by)
    return x


@operator("Pad")
def padded(n: Call, x: Value, pads: Value | None = None, number: Value | None = None, axes: Value | None = None) -> Value:
    mode = n.text("mode", "constant")
    amounts = n.either("pads", pads)
    where_ = axes_of(n.static_ints(axes, "axes"), x.rank) if axes is not None else list(range(x.rank))
    before, after = [0] * x.rank, [0] * x.rank
    if amounts is None or len(amounts) != 2 * len(where_):
        raise n.misfit(f"{len(amounts or [])} pads for {len(where_)} axes")
    for k, axis in enumerate(where_):
        before[axis], after[axis] = amounts[k], amounts[k + len(where_)]
    if mode == "constant":
        return _constant_pad(n, x, before, after, number)
    for axis in range(x.rank):
        size = x.shape[axis]
        if before[axis] or after[axis]:
            at = np.arange(-before[axis], size + after[axis])
            places = {"reflect": lambda at=at, size=size: _reflected(at, size), "edge": lambda at=at, size=size: np.clip(at, 0, size - 1),
                      "wrap": lambda at=at, size=size: at % size}  # fmt: skip
            if mode not in places:
                raise n.gap(f"mode '{mode}' is not supported")
            x = take(x, places[mode](), axis)
    return x


def _constant_pad(n: Call, x: Value, before: list[int], after: list[int], number: Value | None) -> Value:
    known = n.known(number) if number is not None else None
    if number is None or known is not None:
        fill = float(known.reshape(-1)[0]) if known is not None else n.number("value", 0.0)
        if x.elem.is_bool:
            return cast(pad(cast(x, types.UINT8), before, after, fill), types.BOOL)
        return pad(x, before, after, fill if x.elem.is_float else int(fill))
    inside = pad(full(x.shape, 1, types.UINT8), before, after)
    return where(cast(inside, types.BOOL), pad(x, before, after), reshape(number, []))


def _reflected(at: np.ndarray, size: int) -> np.ndarray:
    """Without repeating the edge."""
    if size == 1:
        return np.zeros_like(at)
    at = np.abs(at) % (2 * size - 2)
    return np.where(at >= size, 2 * size - 2 - at, at)


def take(x: Value, places: np.ndarray, axis: int) -> Value:
    """x at known places along an axis: slices joined where the places run evenly, else a gather."""
    places = np.asarray(places)
    runs: list[tuple[int, int, int]] = []  # start, count, step
    for at in places.tolist():
        if runs and (runs[-1][1] == 1 or at == runs[-1][0] + runs[-1][1] * runs[-1][2]) and abs(at - runs[-1][0]) <= max(x.shape[axis], 1):
            start, count, step = runs[-1]
            runs[-1] = (start, count + 1, at - start if count == 1 else step)
        else:
            runs.append((at, 1, 1))
    if len(runs) <= 8:
        return concat([slice_axis(x, axis, start, count, step) for start, count, step in runs], axis) if runs else slice_axis(x, axis, 0, 0)
    order = [axis, *(k for k in range(x.rank) if k != axis)]
    picked = gather(transpose(x, order), [constant(places.astype(np.int32))])
    return transpose(picked, [order.index(k) for k in range(x.rank)])


@operator("ConstantOfShape")
def constant_of_shape(n: Call, shape: Value) -> Value:
    sizes = n.static_ints(shape, "shape")
    literal = n.literal("value")
    if literal is None:
        return full(sizes, 0.0, types.FLOAT)
    number = literal.elem.carry(literal.array).reshape(-1)[0]
    return full(sizes, number.item() if not literal.elem.is_float else float(number), literal.elem)


@operator("Range")
def arange(n: Call, start: Value, limit: Value, step: Value) -> Value:
    low, high, by = (n.static(v, "bounds").reshape(-1)[0] for v in (start, limit, step))
    count = max(int(np.ceil((float(high) - float(low)) / float(by))), 0)
    if count > 1 << 26:
        raise n.misfit(f"{count} elements are absurd")
    return constant(low + by * np.arange(count, dtype=low.dtype if low.dtype.kind in "if" else np.float64), start.elem)


@operator("EyeLike")
def eye_like(n: Call, x: Value) -> Value:
    shape = x.shape
    hit = (iota(shape, 0) + n.integer("k", 0)).eq(iota(shape, 1))
    return cast(hit, n.elem("dtype", x.elem))


@operator("Trilu")
def trilu(n: Call, x: Value, k: Value | None = None) -> Value:
    """The upper or lower triangle, from diagonal k on."""
    row, column = iota(x.shape, x.rank - 2), iota(x.shape, x.rank - 1)
    shift: Any = 0
    if k is not None:
        known = n.known(k)
        shift = int(known.reshape(-1)[0]) if known is not None else cast(reshape(k, []), types.INT32)
    keep = column >= row + shift if n.integer("upper", 1) else column <= row + shift
    if x.elem.is_bool:
        return x & keep
    return where(keep, x, 0)


@operator("SpaceToDepth", "DepthToSpace")
def space_and_depth(n: Call, x: Value) -> Value:
    size = n.integer("blocksize")
    b, c, h, w = x.shape
    if n.node.op == "SpaceToDepth":
        parts = reshape(x, [b, c, h // size, size, w // size, size])
        return reshape(transpose(parts, [0, 3, 5, 1, 2, 4]), [b, c * size * size, h // size, w // size])
    if n.text("mode", "DCR") == "DCR":
        parts = transpose(reshape(x, [b, size, size, c // size**2, h, w]), [0, 3, 4, 1, 5, 2])
    else:
        parts = transpose(reshape(x, [b, c // size**2, size, size, h, w]), [0, 1, 4, 2, 5, 3])
    return reshape(parts, [b, c // size**2, h * size, w * size])


@operator("ReverseSequence")
def reverse_sequence(n: Call, x: Value, lengths: Value) -> Value:
    """The first elements of each row, turned round."""
    time, batch = n.integer("time_axis", 0), n.integer("batch_axis", 1)
    order = [batch, time, *(k for k in range(x.rank) if k not in (batch, time))]
    moved = transpose(x, order)
    rows, steps = moved.shape[:2]
    at, length = iota([rows, steps], 1), reshape(cast(lengths, types.INT32), [rows, 1])
    picked = gather(moved, [where(at < length, length - 1 - at, at)], batch=1)
    return transpose(picked, [order.index(k) for k in range(x.rank)])


@operator("OneHot")
def one_hot(n: Call, indices: Value, depth: Value, values: Value) -> Value:
    count = n.static_ints(depth, "depth")[0]
    axis = n.integer("axis", -1)
    axis = axis + indices.rank + 1 if axis < 0 else axis
    ids = expand_axes(cast(indices, types.INT64), [axis])
    ids = where(ids < 0, ids + count, ids)
    shape = [*indices.shape[:axis], count, *indices.shape[axis:]]
    hit = iota(shape, axis, types.INT64).eq(ids)
    off, on = (reshape(slice_axis(values, 0, k, 1), []) for k in range(2))
    return where(hit, on, off)


@operator("Compress", note="the condition must be known at compile time")
def compress(n: Call, x: Value, condition: Value) -> Value:
    kept = np.flatnonzero(n.data(condition))
    if not n.has("axis"):
        return take(reshape(x, [x.size]), kept, 0)
    return take(x, kept, axis_of(n.integer("axis"), x.rank))


@operator("CenterCropPad")
def center_crop_pad(n: Call, x: Value, shape: Value) -> Value:
    wanted = n.static_ints(shape, "shape")
    for axis, size in zip(axes_of(n.ints("axes", list(range(x.rank))), x.rank), wanted):
        have = x.shape[axis]
        if size <= have:
            x = slice_axis(x, axis, (have - size) // 2, size)
        else:
            low = (size - have) // 2
            before, after = ([amount if k == axis else 0 for k in range(x.rank)] for amount in (low, size - have - low))
            x = pad(x, before, after)
    return x


@operator("Col2Im")
def col2im(n: Call, x: Value, image: Value, block: Value) -> Value:
    """Blocks summed back into an image: the adjoint of taking them out."""
    sizes, kernel = n.static_ints(image, "image shape"), n.static_ints(block, "block shape")
    space = len(sizes)
    stride, dilation = n.ints("strides", [1] * space), n.ints("dilations", [1] * space)
    pads = n.ints("pads", [0] * 2 * space)
    counts = [(sizes[k] + pads[k] + pads[k + space] - dilation[k] * (kernel[k] - 1) - 1) // stride[k] + 1 for k in range(space)]
    batch, channels = x.shape[0], x.shape[1] // int(np.prod(kernel))
    columns = reshape(x, [batch, channels, *kernel, *counts])
    rank = columns.rank
    rows = [[int(a == k) for k in range(rank)] for a in range(2)]
    for a in range(space):
        row = [0] * rank
        row[2 + a], row[2 + space + a] = dilation[a], stride[a]
        rows.append(row)
    offsets = [0, 0, *(-pads[a] for a in range(space))]
    return Value(ops.Fold.of(columns.value, strides=[f for row in rows for f in row], offsets=offsets, shape=[batch, channels, *sizes]), x.elem)
