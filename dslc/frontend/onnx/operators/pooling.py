"""Pooling: folds over windows, which are views with an axis for each tap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from dslc.ir import ops
from dslc.ir.ops.reduction import identity

from .. import types
from ..call import Call
from ..table import operator
from ..values import Value, absolute, cast, computed, constant, gather, iota, pad, places, reduce, reshape
from .linear import window_pads
from .movement import MOST_MADE, checked


@dataclass(frozen=True)
class Windows:
    """Of each space axis: the axis, taps, stride, dilation, padding before and after, and the number of windows."""

    sizes: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    counts: tuple[int, ...]

    def view(self, x: Value, outside: float) -> Value:
        """[n, c, windows..., taps...]"""
        space = len(self.sizes)
        rank = 2 + 2 * space
        rows = [[int(k == a) for k in range(rank)] for a in range(2)]
        for a in range(space):
            rows.append([self.strides[a] * (k == 2 + a) + self.dilations[a] * (k == 2 + space + a) for k in range(rank)])
        shape = (*x.shape[:2], *self.counts, *self.kernel)
        return Value(ops.view(x.value, rows, [0, 0, *[-p for p, _ in self.pads]], shape, outside), x.elem)

    @property
    def taps(self) -> list[int]:
        return list(range(2 + len(self.sizes), 2 + 2 * len(self.sizes)))

    def at(self, axis: int) -> np.ndarray:
        """[windows, taps]: the places that are read along one axis."""
        return np.arange(self.counts[axis])[:, None] * self.strides[axis] - self.pads[axis][0] + np.arange(self.kernel[axis]) * self.dilations[axis]


def windows(call: Call, x: Value) -> Windows:
    kernel = call.ints("kernel_shape")
    space = x.rank - 2
    if kernel is None or len(kernel) != space or min(kernel) < 1:
        raise call.misfit(f"windows {kernel} over {x}")
    strides, dilations = call.ints("strides", [1] * space), call.ints("dilations", [1] * space)
    pads = window_pads(call, x.shape[2:], kernel, strides, dilations)
    counts = []
    for n, k, s, d, (before, after) in zip(x.shape[2:], kernel, strides, dilations, pads):
        room = n + before + after - (k - 1) * d - 1
        if room < 0:
            raise call.misfit(f"windows {kernel} over {x}")
        count = room // s + 1
        if call.integer("ceil_mode") and call.text("auto_pad", "NOTSET") == "NOTSET":
            count = -(-room // s) + 1
            if (count - 1) * s >= n + before:  # a window that starts behind the tensor does not count
                count -= 1
        counts.append(count)
    checked(call, [*counts, *kernel], MOST_MADE)
    return Windows(tuple(x.shape[2:]), tuple(kernel), tuple(strides), tuple(dilations), tuple(pads), tuple(counts))


@operator("MaxPool")
def _max_pool(call: Call, x: Value) -> tuple[Value, ...]:
    w = windows(call, x)
    seen = w.view(x, float(identity("max", x.elem.carrier)))
    best = reduce(seen, "max", w.taps)
    if not call.wants(1):
        return (best,)
    flat = reshape(seen, (*x.shape[:2], prod(w.counts), prod(w.kernel)))
    tap = Value(ops.ArgReduce.of(flat.value, kind="max", axis=3), types.INT32)
    place = np.zeros((*w.counts, *w.kernel), np.int32)
    space = len(w.sizes)
    for a in range(space):
        weight = prod(w.sizes[:a]) if call.integer("storage_order") else prod(w.sizes[a + 1 :])
        shape = [1] * (2 * space)
        shape[a], shape[space + a] = w.counts[a], w.kernel[a]
        place = place + (w.at(a) * weight).reshape(shape).astype(np.int32)
    table = constant(place.reshape(prod(w.counts), prod(w.kernel)))
    inner = gather(table, [iota(tap.shape, 2), tap])
    plane = (iota(tap.shape, 0) * x.shape[1] + iota(tap.shape, 1)) * prod(w.sizes)
    return best, cast(reshape(inner + plane, best.shape), types.INT64)


@operator("AveragePool")
def _average_pool(call: Call, x: Value) -> Value:
    w = windows(call, x)
    total = reduce(computed(w.view(x, 0.0)), "sum", w.taps)
    counts = np.ones(())
    for a, n in enumerate(w.sizes):
        low, high = (-w.pads[a][0], n + w.pads[a][1]) if call.integer("count_include_pad") else (0, n)
        at = w.at(a)
        counts = np.multiply.outer(counts, ((at >= low) & (at < high)).sum(1))
    if (counts == counts.reshape(-1)[0]).all():
        return cast(total / float(counts.reshape(-1)[0]), x.elem)
    return cast(total / constant(counts.astype(np.float32), total.elem), x.elem)


@operator("LpPool")
def _lp_pool(call: Call, x: Value) -> Value:
    w, p = windows(call, x), call.integer("p", 2)
    powers = absolute(computed(x)) ** float(p)
    return cast(reduce(w.view(powers, 0.0), "sum", w.taps) ** (1.0 / p), x.elem)


def _space(x: Value) -> list[int]:
    return list(range(2, x.rank))


@operator("GlobalAveragePool")
def _global_average(call: Call, x: Value) -> Value:
    return cast(reduce(computed(x), "mean", _space(x), keep=True), x.elem)


@operator("GlobalMaxPool")
def _global_max(call: Call, x: Value) -> Value:
    return reduce(x, "max", _space(x), keep=True)


@operator("GlobalLpPool")
def _global_lp(call: Call, x: Value) -> Value:
    p = call.integer("p", 2)
    return cast(reduce(absolute(computed(x)) ** float(p), "sum", _space(x), keep=True) ** (1.0 / p), x.elem)


@operator("MaxUnpool")
def _max_unpool(call: Call, x: Value, indices: Value, output: Value | None = None) -> Value:
    space = x.rank - 2
    kernel, strides, pads = call.ints("kernel_shape"), call.ints("strides", [1] * space), call.ints("pads", [0] * (2 * space))
    pooled = [(n - 1) * s + k - pads[a] - pads[space + a] for a, (n, s, k) in enumerate(zip(x.shape[2:], strides, kernel))]
    shape = [*x.shape[:2], *pooled]
    ids = reshape(places(indices), (indices.size,))
    flat = ops.Scatter.of(reshape(x, (x.size,)).value, ids.value, kind="sum", batch=0, sizes=[prod(shape)])
    y = reshape(Value(flat, x.elem), shape)
    wanted = call.static_ints(output, "output_shape") if output is not None else shape
    return pad(y, [0] * y.rank, [n - m for n, m in zip(wanted, shape, strict=True)])


@operator("Col2Im")
def _col2im(call: Call, x: Value, image: Value, block: Value) -> Value:
    """The adjoint of taking windows."""
    sizes, kernel = call.static_ints(image, "image_shape"), call.static_ints(block, "block_shape")
    space = len(sizes)
    strides, dilations, pads = call.ints("strides", [1] * space), call.ints("dilations", [1] * space), call.ints("pads", [0] * (2 * space))
    counts = [(n + pads[a] + pads[space + a] - (k - 1) * d - 1) // s + 1 for a, (n, k, s, d) in enumerate(zip(sizes, kernel, strides, dilations))]
    channels = x.shape[1] // prod(kernel)
    parts = reshape(x, (x.shape[0], channels, *kernel, *counts))
    rows: list[Sequence[int]] = [[int(k == a) for k in range(parts.rank)] for a in range(2)]
    for a in range(space):
        rows.append([dilations[a] * (k == 2 + a) + strides[a] * (k == 2 + space + a) for k in range(parts.rank)])
    folded = ops.Fold.of(parts.value, strides=[f for row in rows for f in row], offsets=[0, 0, *[-p for p in pads[:space]]],
                         shape=(x.shape[0], channels, *sizes))  # fmt: skip
    return Value(folded, x.elem)
