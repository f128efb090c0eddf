"""Casts to float formats of 8 bits and less, by arithmetic: the value is rounded at the last place that the format keeps."""

from __future__ import annotations

import numpy as np

from dslc.ir import ops

from . import types
from .types import Elem
from .values import Value, absolute, cast, constant, gather, like, minimum, reduce, reshape, round_even, where


def to_small(x: Value, elem: Elem, saturate: bool) -> Value:
    """x rounded to nearest even in the format; beyond its greatest value it saturates, or becomes infinite or NaN."""
    small = elem.small
    assert small is not None
    if elem.name == "float8e8m0":
        return power_of_two(x, elem, "up", saturate)
    wide = cast(x, types.FLOAT) if x.elem is not types.DOUBLE else x
    size = absolute(wide)
    place = _last_place(size, small.least, small.mantissa, small.most)
    rounded = round_even(size / place) * place
    nan = wide.ne(wide)
    if saturate:
        rounded = minimum(rounded, small.most)
    else:
        rounded = where(rounded > small.most, float("inf") if small.infinite else float("nan"), rounded)
    infinite = size.eq(float("inf"))
    if not saturate:
        rounded = where(infinite, float("inf") if small.infinite else float("nan"), rounded)
    signed = where(wide.eq(0.0), wide, where(wide < 0.0, -rounded, rounded))  # -0 stays so
    if elem.name.endswith("fnuz"):
        signed = where(rounded.eq(0.0), like(rounded, 0.0), signed)
    if small.nan:
        signed = where(nan, float("nan"), signed)
    else:
        signed = where(nan, -0.0, signed)
    return Value(ops.cast(signed.value, elem.carrier), elem)


def _last_place(size: Value, least: int, mantissa: int, most: float) -> Value:
    """The distance of neighbours in the format at each value: 2 ** (exponent - mantissa bits), the exponent counted by comparisons."""
    top = int(np.floor(np.log2(most)))
    edges = np.array([2.0**e for e in range(least + 1, top + 1)], np.float32)
    places = np.array([2.0 ** (e - mantissa) for e in range(least, top + 1)], np.float32)
    if not len(edges):
        return like(size, float(places[0]))
    column = constant(edges)
    count = reduce(cast(Value(ops.reshape(size.value, (*size.shape, 1)), size.elem) >= cast(column, size.elem), types.INT32), "sum", [size.rank])
    return cast(gather(constant(places), [count]), size.elem)


def power_of_two(x: Value, elem: Elem, mode: str = "up", saturate: bool = True) -> Value:
    """float8e8m0: a power of two from 2 ** -127 to 2 ** 127, without sign or zero; by `mode` the one above, below or nearest."""
    size = absolute(cast(x, types.DOUBLE))
    factor = {"up": 1.0, "down": 2.0, "nearest": 1.5}[mode]
    edges = constant(np.array([factor * 2.0**e for e in range(-127, 127)], np.float64))
    column = reshape(size, (*size.shape, 1))
    count = reduce(cast(column > edges if mode == "up" else column >= edges, types.INT32), "sum", [size.rank])
    powers = gather(constant(np.array([2.0**e for e in range(-127, 128)], np.float64)), [count])
    lost = size.ne(size) if saturate else size.ne(size) | (size > 2.0**127)
    return Value(where(lost, float("nan"), powers).value, elem)
