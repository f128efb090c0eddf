"""Sampling of images at other places: resize, grids, regions, deformed convolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import ceil, floor, prod

import numpy as np

from .. import types
from ..call import Call
from ..table import operator
from ..values import (
    Value,
    absolute,
    axes_of,
    broadcast_to,
    cast,
    computed,
    concat,
    constant,
    contract,
    expand_axes,
    gather,
    iota,
    maximum,
    minimum,
    places,
    reduce,
    reshape,
    round_even,
    slice_axis,
    transpose,
    where,
)  # fmt: skip
from ..values import floor as floored
from .linear import of_channels
from .movement import MOST_MADE, checked, take


@operator("Upsample")
def _upsample(call: Call, x: Value, scales: Value | None = None) -> Value:
    factors = call.static(scales, "scales").reshape(-1).tolist() if scales is not None else call.floats("scales")
    for axis, factor in enumerate(factors):
        checked(call, [floor(x.shape[axis] * factor), x.shape[axis]], MOST_MADE)
        line = Line(x.shape[axis], floor(x.shape[axis] * factor), factor, "asymmetric", (0.0, 1.0))
        x = _along(call, x, axis, line, call.text("mode", "nearest"), "floor")
    return x


class Line:
    """One axis of a resize: `at` are the places of the results in the operand."""

    def __init__(self, size: int, out: int, scale: float, mode: str, roi: tuple[float, float]):
        self.size, self.out, self.scale = size, out, scale
        i, width = np.arange(out, dtype=np.float64), scale * size
        match mode:
            case "half_pixel":
                self.at = (i + 0.5) / scale - 0.5
            case "half_pixel_symmetric":
                self.at = size / 2 * (1 - out / width) + (i + 0.5) / scale - 0.5
            case "pytorch_half_pixel":
                self.at = (i + 0.5) / scale - 0.5 if width != 1 else np.full(out, -0.5)
            case "align_corners":
                self.at = i * (size - 1) / (width - 1) if width != 1 else np.zeros(out)
            case "asymmetric":
                self.at = i / scale
            case "tf_crop_and_resize":
                step = i * (roi[1] - roi[0]) * (size - 1) / (width - 1) if width != 1 else np.full(out, (roi[1] - roi[0]) * (size - 1) / 2)
                self.at = step + roi[0] * (size - 1)
            case _:
                raise ValueError(f"no coordinate transformation is called '{mode}'")

    @property
    def outside(self) -> np.ndarray:
        return (self.at < 0) | (self.at > self.size - 1)


NEAREST: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _tent(x: np.ndarray) -> np.ndarray:
    return np.clip(1 - np.abs(x), 0, 1)


def _cubic(a: float) -> Callable[[np.ndarray], np.ndarray]:
    def kernel(x: np.ndarray) -> np.ndarray:
        x = np.abs(x)
        near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        return np.where(x <= 1, near, np.where(x < 2, far, 0.0))

    return kernel


def _matrix(call: Call, line: Line, mode: str) -> np.ndarray:
    """[out, size]: the weight of each element in each result."""
    kernel, reach = (_tent, 1) if mode == "linear" else (_cubic(call.number("cubic_coeff_a", -0.75)), 2)
    scale = min(line.scale, 1.0) if call.integer("antialias") else 1.0
    start = floor(-reach / scale) + 1
    base = np.floor(line.at).astype(int)
    taps = np.arange(start, 2 * reach - start if scale == 1.0 and reach == 1 else (2 - start))
    places = base[:, None] + taps
    weights = kernel((places - line.at[:, None]) * scale)
    if call.integer("exclude_outside"):
        weights = np.where((places < 0) | (places >= line.size), 0.0, weights)
    weights = weights / weights.sum(1, keepdims=True)
    out = np.zeros((line.out, line.size))
    np.add.at(out, (np.arange(line.out)[:, None], np.clip(places, 0, line.size - 1)), weights)
    return out


def _along(call: Call, x: Value, axis: int, line: Line, mode: str, nearest: str) -> Value:
    if line.out == line.size and np.array_equal(line.at, np.arange(line.size)):
        return x
    if mode == "nearest":
        return take(x, axis, np.clip(NEAREST[nearest](line.at), 0, line.size - 1).astype(int))
    if mode not in ("linear", "cubic"):
        raise call.gap(f"mode '{mode}' is not supported")
    weights = constant(_matrix(call, line, mode).astype(x.elem.carrier.numpy), x.elem)
    out = [x.rank if k == axis else k for k in range(x.rank)]
    return contract(x, weights, list(range(x.rank)), [x.rank, axis], out)


@operator("Resize", note="scales and sizes must be known at compile time")
def _resize(call: Call, x: Value, roi: Value | None = None, scales: Value | None = None, sizes: Value | None = None) -> Value:
    if call.version < 11:
        return _upsample(call, x, roi)
    axes = axes_of(call.ints("axes", list(range(x.rank))), x.rank)
    transformation = call.text("coordinate_transformation_mode", "half_pixel")
    given = call.static(scales, "scales").reshape(-1).tolist() if scales is not None and scales.size else []
    if given:
        out = [floor(x.shape[a] * s) for a, s in zip(axes, given)]
    else:
        assert sizes is not None
        out = call.static_ints(sizes, "sizes")
        given = [n / x.shape[a] for a, n in zip(axes, out)]
        policy = call.text("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            one = min(given) if policy == "not_larger" else max(given)
            given, out = [one] * len(axes), [floor(one * x.shape[a] + 0.5) for a in axes]
    cut = call.static(roi, "roi").reshape(-1).tolist() if transformation == "tf_crop_and_resize" and roi is not None else []
    elem, missing = x.elem, np.zeros([1] * x.rank, bool)
    wide = computed(x) if x.elem.is_float else cast(x, types.FLOAT) if call.text("mode", "nearest") != "nearest" else x
    checked(call, out)
    for k, axis in enumerate(axes):
        checked(call, [out[k], x.shape[axis]], MOST_MADE)
        line = Line(x.shape[axis], out[k], given[k], transformation, (cut[k], cut[k + len(axes)]) if cut else (0.0, 1.0))
        wide = _along(call, wide, axis, line, call.text("mode", "nearest"), call.text("nearest_mode", "round_prefer_floor"))
        if cut:
            missing = missing | line.outside.reshape([-1 if a == axis else 1 for a in range(x.rank)])
    if missing.any():
        wide = where(broadcast_to(constant(missing), wide.shape), call.number("extrapolation_value"), wide)
    return cast(round_even(wide) if elem.is_integer and wide.elem.is_float else wide, elem)


# --- at places that data gives ------------------------------------------------------------------------------------------------------------


def sampled(x: Value, at: Sequence[Value], inside: Callable[[Value, int], Value] | None = None) -> Value:
    """x [n, c, space...] read between its elements at float places [n, out...], linearly; [n, out..., c]. `inside` moves whole places."""
    last = transpose(x, [0, *range(2, x.rank), 1])
    base = [floored(a) for a in at]
    total = None
    for corner in product((0, 1), repeat=len(at)):
        weight = None
        ids = []
        for k, (a, b, up) in enumerate(zip(at, base, corner)):
            near = a - b if up else 1.0 - (a - b)
            weight = near if weight is None else weight * near
            place = cast(b + float(up), types.INT32)
            ids.append(inside(place, k) if inside else place)
        assert weight is not None
        part = gather(last, ids, batch=1) * expand_axes(cast(weight, x.elem), [weight.rank])
        total = part if total is None else total + part
    assert total is not None
    return total


def _reflected(x: Value, low: float, high: float) -> Value:
    """Turned back at the borders as often as needed."""
    span = high - low
    if span <= 0:
        return x * 0.0
    away = absolute(x - low) % (2 * span)
    return minimum(away, 2 * span - away) + low


@operator("GridSample")
def _grid_sample(call: Call, x: Value, grid: Value) -> Value:
    mode, padding = call.text("mode", "linear").removeprefix("bi"), call.text("padding_mode", "zeros")
    corners, sizes = call.integer("align_corners"), x.shape[2:]
    space = len(sizes)
    spread = grid.shape[:-1]
    bounds = [(0.0, n - 1.0) if corners else (-0.5, n - 0.5) for n in sizes]
    at = []
    for k, n in enumerate(sizes):
        g = cast(reshape(slice_axis(grid, grid.rank - 1, space - 1 - k, 1), spread), types.FLOAT)
        at.append((g + 1.0) * ((n - 1) / 2) if corners else ((g + 1.0) * n - 1.0) * 0.5)

    def within(place: Value, k: int) -> Value:
        """A whole place moved into x, where the padding says so; else it stays outside, and reads 0."""
        n = sizes[k]
        if padding == "border":
            return minimum(maximum(place, 0), n - 1)
        if padding == "reflection":
            return minimum(maximum(cast(round_even(_reflected(cast(place, types.FLOAT), *bounds[k])), types.INT32), 0), n - 1)
        return place

    if mode == "nearest":
        at = [round_even(a) for a in at]
    if mode != "cubic":
        at = [_moved(a, padding, *b, n) for a, b, n in zip(at, bounds, sizes)]
    wide = computed(x)
    if mode == "nearest":
        last = transpose(wide, [0, *range(2, x.rank), 1])
        y = gather(last, [within(cast(round_even(a), types.INT32), k) for k, a in enumerate(at)], batch=1)
    elif mode == "cubic":
        y = _cubic_sampled(wide, at, within)
    elif mode == "linear":
        y = sampled(wide, at, within)
    else:
        raise call.gap(f"mode '{mode}' is not supported")
    return cast(transpose(y, [0, y.rank - 1, *range(1, y.rank - 1)]), x.elem)


def _moved(x: Value, padding: str, low: float, high: float, n: int) -> Value:
    if padding == "border":
        return minimum(maximum(x, 0.0), n - 1.0)
    return _reflected(x, low, high) if padding == "reflection" else x


def _cubic_sampled(x: Value, at: Sequence[Value], within: Callable[[Value, int], Value]) -> Value:
    """By cubic convolution (a = -0.75) over the four nearest elements of each axis."""
    last = transpose(x, [0, *range(2, x.rank), 1])
    a = -0.75
    base = [floored(v) for v in at]
    weights: list[list[Value]] = []
    for v, b in zip(at, base):
        t = v - b
        far, near, close, away = t + 1.0, t, 1.0 - t, 2.0 - t
        weights.append([
            ((far * a - 5 * a) * far + 8 * a) * far - 4 * a, (near * (a + 2) - (a + 3)) * near * near + 1.0,
            (close * (a + 2) - (a + 3)) * close * close + 1.0, ((away * a - 5 * a) * away + 8 * a) * away - 4 * a,
        ])  # fmt: skip
    total = None
    for taps in product(range(4), repeat=len(at)):
        weight = None
        for k, tap in enumerate(taps):
            weight = weights[k][tap] if weight is None else weight * weights[k][tap]
        assert weight is not None
        ids = [within(cast(b + float(tap - 1), types.INT32), k) for k, (b, tap) in enumerate(zip(base, taps))]
        part = gather(last, ids, batch=1) * expand_axes(cast(weight, x.elem), [weight.rank])
        total = part if total is None else total + part
    assert total is not None
    return total


@operator("RoiAlign", note="a sampling_ratio of 0 needs regions known at compile time")
def _roi_align(call: Call, x: Value, rois: Value, batches: Value) -> Value:
    height, width = call.integer("output_height", 1), call.integer("output_width", 1)
    ratio, scale = call.integer("sampling_ratio"), call.number("spatial_scale", 1.0)
    half = 0.5 if call.text("coordinate_transformation_mode", "half_pixel" if call.version >= 16 else "output_half_pixel") == "half_pixel" else 0.0
    count = rois.shape[0]
    wide = cast(rois, types.FLOAT) * scale - half
    x0, y0, x1, y1 = (reshape(slice_axis(wide, 1, k, 1), (count,)) for k in range(4))
    spans = [y1 - y0, x1 - x0]
    if not half:
        spans = [maximum(s, 1.0) for s in spans]
    ratios = [ratio, ratio]
    if not ratio:
        known = [call.static(s, "regions") for s in spans]
        ratios = [max(ceil(float(s.max()) / n), 1) if s.size else 1 for s, n in zip(known, (height, width))]
        if any(np.unique(np.ceil(s / n)).size > 1 for s, n in zip(known, (height, width))):
            raise call.gap("regions of several sizes with sampling_ratio 0 are not supported")
    shape = (count, height, ratios[0], width, ratios[1])
    at = []
    for start, span, axis, n, r, size in zip((y0, x0), spans, (1, 3), (height, width), ratios, x.shape[2:]):
        step = broadcast_to(reshape(span / float(n), (count, 1, 1, 1, 1)), shape)
        offset = cast(iota(shape, axis), types.FLOAT) + (cast(iota(shape, axis + 1), types.FLOAT) + 0.5) / float(r)
        at.append((broadcast_to(reshape(start, (count, 1, 1, 1, 1)), shape) + step * offset, size))
    seen = [(v >= -1.0) & (v <= float(size)) for v, size in at]
    within = [minimum(maximum(v, 0.0), size - 1.0) for v, size in at]
    chosen = gather(computed(x), [places(batches)])
    mask = expand_axes(seen[0] & seen[1], [5])
    if call.text("mode", "avg") == "avg":
        y = sampled(chosen, within)
        y = where(broadcast_to(mask, y.shape), y, 0.0)
        return cast(transpose(reduce(y, "mean", [2, 4]), [0, 3, 1, 2]), x.elem)
    y = _greatest_part(chosen, within)
    y = where(broadcast_to(mask, y.shape), y, 0.0)
    return cast(transpose(reduce(y, "max", [2, 4]), [0, 3, 1, 2]), x.elem)


def _greatest_part(x: Value, at: Sequence[Value]) -> Value:
    """The greatest of the four weighted neighbours, which is what the standard's "max" means."""
    last = transpose(x, [0, 2, 3, 1])
    base = [floored(a) for a in at]
    best = None
    for corner in product((0, 1), repeat=2):
        weights = [a - b if up else 1.0 - (a - b) for a, b, up in zip(at, base, corner)]
        ids = [minimum(cast(b + float(up), types.INT32), n - 1) for b, up, n in zip(base, corner, x.shape[2:])]
        part = gather(last, ids, batch=1) * expand_axes(weights[0] * weights[1], [weights[0].rank])
        best = part if best is None else maximum(best, part)
    assert best is not None
    return best


@operator("DeformConv", weights=(1, 3))
def _deform_conv(call: Call, x: Value, w: Value, offset: Value, bias: Value | None = None, mask: Value | None = None) -> Value:
    """A convolution whose taps are moved by offsets, in groups of channels."""
    if x.rank != 4:
        raise call.gap("deformed convolutions over other than two axes are not supported")
    groups, moved = call.integer("group", 1), call.integer("offset_group", 1)
    strides, dilations, pads = call.ints("strides", [1, 1]), call.ints("dilations", [1, 1]), call.ints("pads", [0, 0, 0, 0])
    n, c, kernel, out = x.shape[0], x.shape[1], w.shape[2:], offset.shape[2:]
    shape = (n, prod(kernel), *out)
    offsets = reshape(offset, (n, moved, prod(kernel), 2, *out))
    wide, columns = computed(x), []
    for g in range(moved):
        at = []
        for a in range(2):
            tap = np.indices(kernel)[a].reshape(1, -1, 1, 1) * dilations[a] - pads[a]
            grid = np.arange(out[a]).reshape((1, 1, -1, 1) if a == 0 else (1, 1, 1, -1)) * strides[a]
            own = slice_axis(slice_axis(offsets, 1, g, 1), 3, a, 1)
            at.append(reshape(computed(own), shape) + constant(np.broadcast_to(tap + grid, (1, *shape[1:])).astype(np.float32)))
        part = sampled(slice_axis(wide, 1, g * (c // moved), c // moved), at)
        if mask is not None:
            part = part * reshape(slice_axis(reshape(mask, (n, moved, *shape[1:])), 1, g, 1), (*shape, 1))
        columns.append(part)
    taken = concat(columns, 4)  # [n, taps, h, w, c]
    each = w.shape[0] // groups
    taken = reshape(taken, (*taken.shape[:4], groups, c // groups))
    filters = reshape(w, (groups, each, c // groups, prod(kernel)))
    y = contract(taken, cast(filters, taken.elem), [0, 6, 2, 3, 1, 5], [1, 4, 5, 6], [0, 1, 4, 2, 3])
    y = cast(reshape(y, (n, w.shape[0], *out)), x.elem)
    return y if bias is None else y + of_channels(bias, 4)
