"""Convolutions as sums of products over windows: a view of the input with an axis for each tap, and `contract`, whose result may have any order of
axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import gcd

from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.types import type_of


@dataclass(frozen=True)
class Taps:
    """Which taps of one axis of a filter reach the places `phase`, `phase + spacing`, ... of the result, and where each reads: tap `first + step * t`
    of `count` reads element `i + advance * t + offset` at the i-th such place (`i * stride + ...` where the spacing is 1). Phases that differ in
    where they begin alone may be one: of the p-th of `turns` first is by `first_by * p`, offset by `offset_by * p` larger."""

    first: int
    step: int
    count: int
    stride: int
    advance: int
    offset: int
    turns: int = 1
    first_by: int = 0
    offset_by: int = 0


def is_exact(conv: ops.Conv) -> bool:
    """Whether `as_product` can write it: along no axis is there a stride and a spacing too."""
    return all(s == 1 or p == 1 for s, p in zip(conv.stride, conv.spacing))


def as_product(conv: ops.Conv, order: Sequence[int], joined: bool = False, taps_inner: bool = False) -> ir.Value:
    """The result with axis k being axis `order[k]` of the convolution's [n, g, o, ...]; a single group's may be left out.

    Between the elements of a transposed convolution's input lie zeros. Places of the result that are alike in what they meet are a phase of their
    own: each is a convolution of single steps with the taps that meet elements, and the phases are put together. `joined`: those of an axis that have
    as many taps, evenly apart, are made by one contraction, with the phase as an axis behind the places. `taps_inner`: a channel's taps are summed
    one after the other, else a tap's channels.
    """
    space = len(conv.size)
    size = [-(-n // p) for n, p in zip(conv.size, conv.spacing)]
    phases = [[_taps(conv, k, phase) for phase in range(p)] for k, p in enumerate(conv.spacing)]
    if joined:
        phases = [_together(taps) for taps in phases]
    made = [_phase(conv, taps, size, order, taps_inner) for taps in product(*phases)]
    return _woven(made, [order.index(3 + k) for k in range(space)], [len(taps) for taps in phases], conv.size)


def _together(phases: list[Taps]) -> list[Taps]:
    """One in place of all, where they are alike but for where they begin, and that is evenly apart."""
    first, last, gaps = phases[0], phases[-1], max(1, len(phases) - 1)
    by = ((last.first - first.first) // gaps, (last.offset - first.offset) // gaps)
    even = [replace(first, first=first.first + by[0] * p, offset=first.offset + by[1] * p) for p in range(len(phases))]
    return [replace(first, turns=len(phases), first_by=by[0], offset_by=by[1])] if even == phases else phases


def _taps(conv: ops.Conv, k: int, phase: int) -> Taps:
    taps, spacing, dilation, low = type_of(conv.w).shape[3 + k], conv.spacing[k], conv.dilation[k], conv.low[k]
    step = spacing // gcd(spacing, dilation)
    first = next((u for u in range(min(step, taps)) if (phase + u * dilation - low) % spacing == 0), taps)
    count = len(range(first, taps, step))
    return Taps(first, step, count, conv.stride[k], step * dilation // spacing, (phase + first * dilation - low) // spacing)


def _phase(conv: ops.Conv, taps: Sequence[Taps], size: Sequence[int], order: Sequence[int], taps_inner: bool) -> ir.Value:
    """One contraction over channels and taps, all turns of its taps in it; zeros where no tap reaches."""
    x, w = type_of(conv.x), type_of(conv.w)
    space = len(size)
    n, g, o, c, first_tap, first_turn = 0, 1, 2, 3 + space, 4 + space, 4 + 2 * space  # indices; places 3 ..., then taps, then turns
    extents = {n: x.shape[0], g: x.shape[1], o: w.shape[1], c: x.shape[2]} | {3 + k: m for k, m in enumerate(size)}
    extents |= {first_tap + k: t.count for k, t in enumerate(taps)} | {first_turn + k: t.turns for k, t in enumerate(taps)}
    out = [i for a in order for i in ((a, first_turn + a - 3) if a >= 3 and taps[a - 3].turns > 1 else (a,))]
    shape = [extents[a] * (taps[a - 3].turns if a >= 3 else 1) for a in order]
    if any(t.count == 0 for t in taps):
        return ops.zeros(conv.type.with_shape(shape))
    terms = [g, c, *range(first_tap, first_turn)] if taps_inner else [*range(first_tap, first_turn), g, c]
    lhs = [n, *range(3, 3 + space), *terms, *(first_turn + k for k, t in enumerate(taps) if t.offset_by)]
    rows = [[int(i == index) for i in lhs] for index in (n, g, c)]
    for k, t in enumerate(taps):
        moves = {3 + k: t.stride, first_tap + k: t.advance, first_turn + k: t.offset_by}
        rows.append([moves.get(i, 0) for i in lhs])
    windows = ops.view(conv.x, rows, [0, 0, 0, *(t.offset for t in taps)], [extents[i] for i in lhs])
    rhs = [g, o, c, *range(first_tap, first_turn), *(first_turn + k for k, t in enumerate(taps) if t.turns > 1)]
    rows = [[int(i == index) for i in rhs] for index in (g, o, c)]
    for k, t in enumerate(taps):
        moves = {first_tap + k: t.step, first_turn + k: t.first_by}
        rows.append([moves.get(i, 0) for i in rhs])
    filters = ops.view(conv.w, rows, [0, 0, 0, *(t.first for t in taps)], [extents[i] for i in rhs])
    return ops.reshape(ops.Contract.of(windows, filters, lhs=lhs, rhs=rhs, out=out, dtype=conv.dtype, tf32=conv.tf32), shape)


def _woven(phases: Sequence[ir.Value], axes: Sequence[int], counts: Sequence[int], size: Sequence[int]) -> ir.Value:
    """Phases, the last axis' first, as one tensor: along `axes[k]` place i is place i // counts[k] of a phase i % counts[k]."""
    shape = type_of(phases[0]).shape
    rank, count = len(shape), len(counts)
    order: list[int] = []
    wide: list[int] = []
    for a in range(rank):
        order += [count + a, axes.index(a)] if a in axes else [count + a]
        wide.append(shape[a] * (counts[axes.index(a)] if a in axes else 1))
    whole = phases[0]
    if len(phases) > 1:
        stacked = ops.Concat.of(*[ops.reshape(p, (1, *shape)) for p in phases], axis=0)
        whole = ops.reshape(ops.transpose(ops.reshape(stacked, (*counts, *shape)), order), wide)
    for k, a in enumerate(axes):
        whole = ops.slice_axis(whole, a, 0, size[k])
    return whole
