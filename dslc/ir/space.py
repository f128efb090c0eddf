"""Iteration spaces with neighbouring axes merged: the dims of a loop nest or of a grid, and where each axis is in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from . import index
from .index import Const, Dim, Expr


@dataclass(frozen=True)
class Space:
    """A loop nest: sizes of its dims, and each axis of the iteration space as an expression of them."""

    sizes: tuple[int, ...]
    axes: tuple[Expr, ...]


def merged(shape: Sequence[int], groups: Sequence[Sequence[int]]) -> Space:
    """Runs of adjacent axes, each made one dim of the nest. Axes of size 1 are 0."""
    axes: list[Expr] = [Const(0)] * len(shape)
    sizes: list[int] = []
    for group in groups:
        inner = [shape[a] for a in group]
        for a, e in zip(group, index.delinearize(Dim(len(sizes)), inner)):
            axes[a] = e
        sizes.append(prod(inner))
    return Space(tuple(sizes), tuple(axes))


def collapse(shape: Sequence[int], cost: Callable[[Space], int], borders: Sequence[int] = ()) -> Space:
    """The nest with the fewest dims whose index arithmetic costs no more than that of the plain nest. No merge crosses a border (axis number)."""
    groups = [[a] for a, n in enumerate(shape) if n != 1]
    if not groups:
        return merged(shape, [])
    plain = cost(merged(shape, groups))
    whole = _joined(groups, borders)
    if len(whole) < len(groups) and cost(merged(shape, whole)) <= plain:
        return merged(shape, whole)
    k = len(groups) - 2
    while k >= 0:
        if not any(groups[k][-1] < border <= groups[k + 1][0] for border in borders):
            trial = [*groups[:k], groups[k] + groups[k + 1], *groups[k + 2 :]]
            if cost(merged(shape, trial)) <= plain:
                groups = trial
        k -= 1
    return merged(shape, groups)


def _joined(groups: Sequence[list[int]], borders: Sequence[int]) -> list[list[int]]:
    out: list[list[int]] = []
    for group in groups:
        if out and not any(out[-1][-1] < border <= group[0] for border in borders):
            out[-1] = out[-1] + group
        else:
            out.append(list(group))
    return out
