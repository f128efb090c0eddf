"""Sums of products: matrix products, convolutions, einsum."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dslc.ir import ops

from .. import types
from ..call import Call
from ..table import operator
from ..values import Value, cast, contract, expand_axes, matmul, reduce, reshape, transpose


@operator("MatMul", weights=(0, 1))
def _matmul(call: Call, a: Value, b: Value) -> Value:
    return matmul(a, b)


@operator("Gemm", weights=(0, 1, 2))
def _gemm(call: Call, a: Value, b: Value, c: Value | None = None) -> Value:
    if a.rank != 2 or b.rank != 2:
        raise call.misfit(f"product of {a} and {b}")
    k, n = (0 if call.integer("transA") else 1), (0 if call.integer("transB") else 1)
    if a.shape[k] != b.shape[1 - n]:
        raise call.misfit(f"product of {a} and {b}")
    y = contract(a, b, [2, 0] if k == 0 else [0, 2], [2, 1] if n == 1 else [1, 2], [0, 1])
    y = _times(y, call.number("alpha", 1.0))
    return y if c is None else y + _times(c, call.number("beta", 1.0))


def _times(x: Value, factor: float) -> Value:
    return x if factor == 1.0 else x * factor if x.elem.is_float else cast(cast(x, types.DOUBLE) * factor, x.elem)


@operator("MatMulInteger")
def _matmul_integer(call: Call, a: Value, b: Value, a_zero: Value | None = None, b_zero: Value | None = None) -> Value:
    return matmul(shifted(a, a_zero, -2), shifted(b, b_zero, -1))


def shifted(x: Value, zero: Value | None, axis: int) -> Value:
    """x - zero in int32; a zero with one entry a row runs along `axis`."""
    wide = cast(x, types.INT32)
    if zero is None:
        return wide
    offset = cast(zero, types.INT32)
    if offset.rank == 1 and offset.size > 1 and axis == -2:
        offset = expand_axes(offset, [1])
    return wide - (offset if offset.size > 1 else reshape(offset, ()))


# --- convolutions -------------------------------------------------------------------------------------------------------------------------


def window_pads(call: Call, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> list[tuple[int, int]]:
    """(before, after) of each space axis, as `pads` or `auto_pad` say."""
    mode = call.text("auto_pad", "NOTSET")
    space = len(sizes)
    if mode == "NOTSET":
        pads = call.ints("pads", [0] * (2 * space))
        if len(pads) != 2 * space:
            raise call.misfit(f"{len(pads)} pads for {space} axes")
        return list(zip(pads[:space], pads[space:]))
    if mode == "VALID":
        return [(0, 0)] * space
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise call.mistake(f"auto_pad is '{mode}'")
    out = []
    for n, k, s, d in zip(sizes, kernel, strides, dilations):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        out.append((total // 2, total - total // 2) if mode == "SAME_UPPER" else (total - total // 2, total // 2))
    return out


def convolved(call: Call, x: Value, w: Value) -> Value:
    """The convolution that the attributes of the call describe, in the type of x."""
    space, groups = x.rank - 2, call.integer("group", 1)
    kernel = call.ints("kernel_shape", list(w.shape[2:]))
    if space < 1 or w.rank != x.rank or list(w.shape[2:]) != kernel or groups < 1 or w.shape[0] % groups or x.shape[1] != w.shape[1] * groups:
        raise call.misfit(f"convolution of {x} with {w} in {groups} groups")
    strides, dilations = call.ints("strides", [1] * space), call.ints("dilations", [1] * space)
    pads = window_pads(call, x.shape[2:], kernel, strides, dilations)
    size = [(n + sum(p) - (k - 1) * d - 1) // s + 1 for n, p, k, d, s in zip(x.shape[2:], pads, kernel, dilations, strides)]
    if min(size, default=1) < 0 or min(strides) < 1 or min(dilations) < 1:
        raise call.misfit(f"convolution of {x} with {w}")
    return _conv(x, w, groups, strides, dilations, [1] * space, [p for p, _ in pads], size)


def _conv(
    x: Value, w: Value, groups: int, stride: Sequence[int], dilation: Sequence[int], spacing: Sequence[int], low: Sequence[int], size: Sequence[int]
) -> Value:
    grouped = reshape(x, (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]))
    weights = reshape(w, (groups, w.shape[0] // groups, *w.shape[1:]))
    y = ops.Conv.of(grouped.value, weights.value, stride=stride, dilation=dilation, spacing=spacing, low=low, size=size, dtype=x.elem.carrier)
    return reshape(Value(y, x.elem), (x.shape[0], w.shape[0], *size))


def of_channels(v: Value, rank: int) -> Value:
    """[c] as [1, c, 1, ...]."""
    return reshape(v, (1, v.size, *[1] * (rank - 2)))


@operator("Conv", weights=(1, 2))
def _convolution(call: Call, x: Value, w: Value, bias: Value | None = None) -> Value:
    y = convolved(call, x, w)
    return y if bias is None else y + of_channels(bias, y.rank)


@operator("ConvInteger")
def _conv_integer(call: Call, x: Value, w: Value, x_zero: Value | None = None, w_zero: Value | None = None) -> Value:
    return exact_convolution(call, shifted(x, x_zero, 0), _shifted_filters(w, w_zero))


def _shifted_filters(w: Value, zero: Value | None) -> Value:
    return shifted(w, reshape(zero, (zero.size, *[1] * (w.rank - 1))) if zero is not None and zero.size > 1 else zero, 0)


def exact_convolution(call: Call, x: Value, w: Value) -> Value:
    """Of int32 tensors, by float64: 8-bit products and their sums are exact there."""
    return cast(convolved(call, cast(x, types.DOUBLE), cast(w, types.DOUBLE)), types.INT32)


@operator("ConvTranspose", weights=(1, 2))
def _conv_transpose(call: Call, x: Value, w: Value, bias: Value | None = None) -> Value:
    space, groups = x.rank - 2, call.integer("group", 1)
    if w.rank != x.rank or w.shape[0] != x.shape[1] or x.shape[1] % groups:
        raise call.misfit(f"transposed convolution of {x} with {w} in {groups} groups")
    kernel, sizes = list(w.shape[2:]), x.shape[2:]
    strides, dilations = call.ints("strides", [1] * space), call.ints("dilations", [1] * space)
    extra, wanted, mode = call.ints("output_padding", [0] * space), call.ints("output_shape"), call.text("auto_pad", "NOTSET")
    whole = [s * (n - 1) + e + (k - 1) * d + 1 for s, n, e, k, d in zip(strides, sizes, extra, kernel, dilations)]
    if mode.startswith("SAME") and wanted is None:
        wanted = [n * s for n, s in zip(sizes, strides)]
    if wanted is not None:
        wanted = wanted[-space:]
        totals = [max(n - m, 0) for n, m in zip(whole, wanted)]
        low = [t // 2 if mode == "SAME_UPPER" else t - t // 2 for t in totals]
        size = list(wanted)
    else:
        pads = call.ints("pads", [0] * (2 * space)) if mode == "NOTSET" else [0] * (2 * space)
        low, size = pads[:space], [n - a - b for n, a, b in zip(whole, pads[:space], pads[space:])]
    each = w.shape[1]
    turned = transpose(reshape(w, (groups, w.shape[0] // groups, each, *kernel)), [0, 2, 1, *range(3, 3 + space)])
    value = turned.value
    for k in range(space):
        value = ops.reverse(value, 3 + k)
    filters = reshape(Value(value, w.elem), (groups * each, w.shape[0] // groups, *kernel))
    y = _conv(x, filters, groups, [1] * space, dilations, strides, [(k - 1) * d - p for k, d, p in zip(kernel, dilations, low)], size)
    return y if bias is None else y + of_channels(bias, y.rank)


# --- einsum -------------------------------------------------------------------------------------------------------------------------------


@operator("Einsum", weights=(0, 1, 2, 3))
def _einsum(call: Call, *xs: Value) -> Value:
    equation = call.text("equation").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(xs) or not re.fullmatch(r"[A-Za-z.,]*", left):
        raise call.mistake(f"the equation '{equation}' does not fit {len(xs)} inputs")
    rank = max((x.rank - len(t.replace("...", "")) for x, t in zip(xs, terms) if "..." in t), default=0)
    names: list[list[str]] = [_labels(t, x.rank, call) for t, x in zip(terms, xs)]
    if not arrow:
        counted = "".join(t.replace("...", "") for t in terms)
        out = [f"_{k}" for k in reversed(range(rank))] + sorted(c for c in set(counted) if counted.count(c) == 1)
    else:
        out = _labels(right, len(right.replace("...", "")) + (rank if "..." in right else 0), call)
    sizes: dict[str, int] = {}
    for x, mine in zip(xs, names):
        for c, n in zip(mine, x.shape):
            sizes[c] = max(n, sizes.get(c, 1))
    parts = [_diagonal(x, mine, sizes) for x, mine in zip(xs, names)]
    codes = {c: k for k, c in enumerate(sizes)}
    value, mine = parts[0]
    for k, (other, theirs) in enumerate(parts[1:], 1):
        needed = {*out}.union(*(m for _, m in parts[k + 1 :]))
        both = [c for c in sizes if (c in mine or c in theirs) and c in needed]
        value = contract(value, other, [codes[c] for c in mine], [codes[c] for c in theirs], [codes[c] for c in both])
        mine = both
    value = reduce(value, "sum", [k for k, c in enumerate(mine) if c not in out])
    mine = [c for c in mine if c in out]
    present = [c for c in out if c in mine]
    value = transpose(value, [mine.index(c) for c in present])
    return reshape(value, [sizes[c] for c in out])


def _labels(term: str, rank: int, call: Call) -> list[str]:
    """A label for each axis; those of an ellipsis count from its end."""
    before, dots, after = term.partition("...")
    middle = rank - len(before) - len(after)
    if middle < 0 or (middle and not dots):
        raise call.mistake(f"the term '{term}' of the equation does not fit {rank} axes")
    return [*before, *(f"_{k}" for k in reversed(range(middle))), *after]


def _diagonal(x: Value, names: list[str], sizes: dict[str, int]) -> tuple[Value, list[str]]:
    """Axes of one label become one; axes of size 1 that broadcast go."""
    kept = [c for k, c in enumerate(names) if c not in names[:k]]
    if len(kept) < len(names):
        rows = [[int(c == other) for other in kept] for c in names]
        x = Value(ops.view(x.value, rows, [0] * len(names), [x.shape[names.index(c)] for c in kept]), x.elem)
    full = [c for k, c in enumerate(kept) if x.shape[k] == sizes[c]]
    return reshape(x, [sizes[c] for c in full]), full


@operator("Det")
def _det(call: Call, x: Value) -> Value:
    """By expansion along the first row."""
    n = x.shape[-1]
    if x.rank < 2 or x.shape[-2] != n:
        raise call.misfit(f"determinant of {x}")
    if n > 5:
        raise call.gap(f"the determinant of {n} x {n} matrices is not supported")
    return _minor(x, list(range(n)))


def _minor(x: Value, columns: list[int]) -> Value:
    row = x.shape[-1] - len(columns)
    total = None
    for k, c in enumerate(columns):
        entry = Value(ops.pick(ops.pick(x.value, x.rank - 1, c), x.rank - 2, row), x.elem)
        rest = columns[:k] + columns[k + 1 :]
        term = entry * _minor(x, rest) if rest else entry
        total = term if total is None else total - term if k % 2 else total + term
    assert total is not None
    return total
