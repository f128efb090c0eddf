"""Fourier transforms, windows, mel weights."""

from __future__ import annotations

import numpy as np

from dslc.ir import ops

from .. import types
from ..call import Call
from ..table import operator
from ..values import Value, axis_of, cast, concat, constant, expand_axes, gather, iota, like, pad, reshape, slice_axis, transpose
from .movement import MOST_MADE, checked


def _transformed(re: Value, im: Value, axis: int, inverse: bool) -> tuple[Value, Value]:
    a, b = ops.FFT.of(re.value, im.value, axis=axis, inverse=inverse)
    return Value(a, re.elem), Value(b, re.elem)


def _resized(x: Value, axis: int, n: int) -> Value:
    """Cut or filled with zeros."""
    if x.shape[axis] >= n:
        return slice_axis(x, axis, 0, n)
    return pad(x, [0] * x.rank, [n - x.shape[axis] if k == axis else 0 for k in range(x.rank)])


@operator("DFT")
def _dft(call: Call, x: Value, length: Value | None = None, axis: Value | None = None) -> Value:
    """Real [..., 1] or complex [..., 2]; one-sided ones give, or take, the first half."""
    given = call.static_ints(axis, "axis")[0] if axis is not None else call.integer("axis", 1 if call.version < 20 else -2)
    along = axis_of(given, x.rank)
    wide, last = cast(x, types.DOUBLE), x.rank - 1  # whose zeros are zeros after rounding
    inverse, onesided = bool(call.integer("inverse")), bool(call.integer("onesided"))
    parts = [reshape(slice_axis(wide, last, k, 1), wide.shape[:-1]) for k in range(x.shape[-1])]
    re, im = (parts[0], parts[1]) if len(parts) > 1 else (parts[0], like(parts[0], 0.0))
    if inverse and onesided:
        n = call.static_ints(length, "length")[0] if length is not None else 2 * (x.shape[along] - 1)
        half = n // 2 + 1
        re, im = _resized(re, along, half), _resized(im, along, half)
        mirrored = n - half  # from the last but one (or the last, where n is odd) down to 1
        re = concat([re, slice_axis(re, along, mirrored, mirrored, -1)], along)
        im = concat([im, -slice_axis(im, along, mirrored, mirrored, -1)], along)
        return cast(expand_axes(_transformed(re, im, along, True)[0], [last]), x.elem)
    n = call.static_ints(length, "length")[0] if length is not None else x.shape[along]
    re, im = _transformed(_resized(re, along, n), _resized(im, along, n), along, inverse)
    if onesided:
        re, im = slice_axis(re, along, 0, n // 2 + 1), slice_axis(im, along, 0, n // 2 + 1)
    return cast(concat([expand_axes(re, [last]), expand_axes(im, [last])], last), x.elem)


@operator("STFT")
def _stft(call: Call, x: Value, step: Value, window: Value | None = None, length: Value | None = None) -> Value:
    hop = call.static_ints(step, "frame_step")[0]
    n = call.static_ints(length, "frame_length")[0] if length is not None else window.shape[0] if window is not None else x.shape[1]
    frames = (x.shape[1] - n) // hop + 1
    at = iota((frames, n), 0) * hop + iota((frames, n), 1)
    batches, parts = x.shape[0], x.shape[2] if x.rank == 3 else 1
    wide = reshape(x, (batches, x.shape[1], parts))
    taken = []
    for k in range(parts):
        line = reshape(slice_axis(wide, 2, k, 1), (batches, x.shape[1]))
        cut = transpose(gather(transpose(line, [1, 0]), [at]), [2, 0, 1])
        taken.append(cut * window if window is not None else cut)
    re, im = _transformed(taken[0], taken[1] if parts > 1 else like(taken[0], 0.0), 2, False)
    if call.integer("onesided", 1):
        re, im = slice_axis(re, 2, 0, n // 2 + 1), slice_axis(im, 2, 0, n // 2 + 1)
    return concat([expand_axes(re, [3]), expand_axes(im, [3])], 3)


@operator("MelWeightMatrix")
def _mel(call: Call, bins: Value, length: Value, rate: Value, low: Value, high: Value) -> Value:
    count, n, sampling = (int(call.static(v, what).reshape(-1)[0]) for v, what in ((bins, "bins"), (length, "dft_length"), (rate, "sample_rate")))
    checked(call, [count, n], MOST_MADE)
    first, last = (float(call.static(v, what).reshape(-1)[0]) for v, what in ((low, "lower_edge_hertz"), (high, "upper_edge_hertz")))
    mels = np.linspace(2595 * np.log10(1 + first / 700), 2595 * np.log10(1 + last / 700), count + 2, endpoint=False)
    edges = np.floor((n + 1) * (700 * (10 ** (mels / 2595) - 1)) / sampling).astype(int)
    out = np.zeros((n // 2 + 1, count))
    for k in range(count):
        lower, center, upper = edges[k : k + 3]
        if center == lower:
            out[center, k] = 1
        else:
            out[lower : center + 1, k] = (np.arange(lower, center + 1) - lower) / (center - lower)
        if upper > center:
            out[center:upper, k] = (upper - np.arange(center, upper)) / (upper - center)
    elem = call.elem("output_datatype", types.FLOAT)
    return constant(out.astype(elem.carrier.numpy), elem)


WINDOWS = {"HannWindow": (0.5, -0.5, 0.0), "HammingWindow": (25 / 46, -21 / 46, 0.0), "BlackmanWindow": (0.42, -0.5, 0.08)}


@operator(*WINDOWS)
def _window(call: Call, size: Value) -> Value:
    n = checked(call, call.static_ints(size, "size")[:1], MOST_MADE)[0]
    a, b, c = WINDOWS[call.node.op]
    turn = 2 * np.pi * np.arange(n) / (n if call.integer("periodic", 1) else max(n - 1, 1))
    elem = call.elem("output_datatype", types.FLOAT)
    return constant((a + b * np.cos(turn) + c * np.cos(2 * turn)).astype(elem.carrier.numpy), elem)
