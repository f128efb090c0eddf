"""Convolutions as sums of products over windows: a view of the input with an axis for each tap, and `contract`, whose result may have any order of
axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import gcd

from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.types import type_of


@dataclass(frozen=True)
class Taps:
    """Which taps of one axis of a filter reach the places `phase`, `phase + spacing`, ... of the result, and where each reads: tap `first + step * t`
    of `count` reads element `i + advance * t + offset` at the i-th such place (`i * stride + ...` where the spacing is 1)."""

    first: int
    step: int
    count: int
    stride: int
    advance: int
    offset: int


def is_exact(conv: ops.Conv) -> bool:
    """Whether `as_product` can write it: along no axis is there a stride and a spacing too."""
    return all(s == 1 or p == 1 for s, p in zip(conv.stride, conv.spacing))


def as_product(conv: ops.Conv, order: Sequence[int]) -> ir.Value:
    """The result with axis k being axis `order[k]` of the convolution's [n, g, o, ...]; a single group's may be left out.

    Between the elements of a transposed convolution's input lie zeros. Places of the result that are alike in what they meet are a phase of their
    own: each is a convolution of single steps with the taps that meet elements, and the phases are put together.
    """
    space = len(conv.size)
    phases = [range(p) for p in conv.spacing]
    if all(len(p) == 1 for p in phases):
        return _phase(conv, [_taps(conv, k, 0) for k in range(space)], conv.size, order)
    size = [-(-n // p) for n, p in zip(conv.size, conv.spacing)]
    made = [_phase(conv, [_taps(conv, k, phase) for k, phase in enumerate(at)], size, order) for at in product(*phases)]
    return _woven(made, [order.index(3 + k) for k in range(space)], conv.spacing, conv.size)


def _taps(conv: ops.Conv, k: int, phase: int) -> Taps:
    taps, spacing, dilation, low = type_of(conv.w).shape[3 + k], conv.spacing[k], conv.dilation[k], conv.low[k]
    step = spacing // gcd(spacing, dilation)
    first = next((u for u in range(min(step, taps)) if (phase + u * dilation - low) % spacing == 0), taps)
    count = len(range(first, taps, step))
    return Taps(first, step, count, conv.stride[k], step * dilation // spacing, (phase + first * dilation - low) // spacing)


def _phase(conv: ops.Conv, taps: Sequence[Taps], size: Sequence[int], order: Sequence[int]) -> ir.Value:
    """One contraction over channels and taps; zeros where no tap reaches."""
    x, w = type_of(conv.x), type_of(conv.w)
    space = len(size)
    n, g, o, c = 0, 1, 2, 3 + space  # indices; places 3 ..., taps 4 + space ...
    extents = {n: x.shape[0], g: x.shape[1], o: w.shape[1], c: x.shape[2]}
    extents |= {3 + k: m for k, m in enumerate(size)} | {4 + space + k: t.count for k, t in enumerate(taps)}
    if any(t.count == 0 for t in taps):
        return ops.zeros(conv.type.with_shape([extents[i] for i in order]))
    lhs = [n, *range(3, 3 + space), *range(4 + space, 4 + 2 * space), g, c]
    rows = [[int(i == index) for i in lhs] for index in (n, g, c)]
    rows += [[t.stride * (i == 3 + k) + t.advance * (i == 4 + space + k) for i in lhs] for k, t in enumerate(taps)]
    windows = ops.view(conv.x, rows, [0, 0, 0, *(t.offset for t in taps)], [extents[i] for i in lhs])
    rhs = [g, o, c, *range(4 + space, 4 + 2 * space)]
    rows = [[int(i == index) for i in rhs] for index in (g, o, c)]
    rows += [[t.step * (i == 4 + space + k) for i in rhs] for k, t in enumerate(taps)]
    filters = ops.view(conv.w, rows, [0, 0, 0, *(t.first for t in taps)], [extents[i] for i in rhs])
    return ops.Contract.of(windows, filters, lhs=lhs, rhs=rhs, out=list(order), dtype=conv.dtype, tf32=conv.tf32)


def _woven(phases: Sequence[ir.Value], axes: Sequence[int], spacing: Sequence[int], size: Sequence[int]) -> ir.Value:
    """Phases, the last axis' first, as one tensor: along `axes[k]` place i is place i // spacing[k] of a phase i % spacing[k]."""
    shape = type_of(phases[0]).shape
    rank, count = len(shape), len(spacing)
    stacked = ops.Concat.of(*[ops.reshape(p, (1, *shape)) for p in phases], axis=0)
    split = ops.reshape(stacked, (*spacing, *shape))
    order: list[int] = []
    wide: list[int] = []
    for a in range(rank):
        order += [count + a, axes.index(a)] if a in axes else [count + a]
        wide.append(shape[a] * (spacing[axes.index(a)] if a in axes else 1))
    whole = ops.reshape(ops.transpose(split, order), wide)
    for k, a in enumerate(axes):
        whole = ops.slice_axis(whole, a, 0, size[k])
    return whole
