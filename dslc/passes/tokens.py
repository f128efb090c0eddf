"""Token axes: which axes of a value run over the same points as those of a product, followed through ops forwards and backwards.

The axes of the product are numbered, the tokens first. An axis of another value is a *part*: a run of these, joined in row-major order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dslc.ir import ops
from dslc.ir.op import Op
from dslc.ir.rows import Unsuited
from dslc.ir.types import type_of

Part = tuple[int, int]  # the first and the last axis of the product that an axis of a value is made of
Axes = tuple[Part | None, ...]  # None: another axis, or one whose points do not matter

TOTALS = {"sum": ops.Add, "max": ops.Max, "min": ops.Min}  # folds over tokens that can go on from turn to turn
ALONG = (ops.Softmax, ops.LogSoftmax, ops.Cumulative, ops.Sort, ops.FFT)  # ops that need one axis at once and keep all


@dataclass(frozen=True)
class Numbered:
    """The numbered axes of a product, none of extent 1: `sizes` of all of them, of which the first `tokens` are the tokens'."""

    sizes: tuple[int, ...]
    tokens: int

    @property
    def points(self) -> int:
        """The number of tokens."""
        return math.prod(self.sizes[: self.tokens])

    def is_token(self, part: Part | None) -> bool:
        return part is not None and part[0] < self.tokens

    def of_tokens(self, axes: Axes) -> Axes:
        """The axes without those that are no tokens."""
        return tuple(part if self.is_token(part) else None for part in axes)

    def complete(self, axes: Axes) -> bool:
        """Whether a value has every token axis, once."""
        found = sorted(a for part in axes if part is not None and self.is_token(part) for a in range(part[0], part[1] + 1))
        return found == list(range(self.tokens))

    def free(self, axes: Axes) -> bool:
        """Whether a value has no token axis."""
        return not any(map(self.is_token, axes))

    # --- forwards

    def after(self, op: Op, given: Sequence[Axes | None]) -> Axes:
        """The axes of an op's results (all alike) from those of its operands (None: not followed). Raises Unsuited, with why, where tokens would not
        stay apart."""
        match op:
            case ops.Reduce() | ops.ArgReduce():
                return self._folded(op, _known(given))
            case ops.Contract():
                parts = self.indices(op, given)
                return tuple(parts.get(i) for i in op.out)
            case ops.Gather() | ops.Scatter():
                return self._placed(op, given)
            case ops.View():
                return self._viewed(op, _known(given))
            case ops.Reshape():
                return self._reshaped(_known(given), type_of(op.x).shape, op.shape)
            case ops.Concat():
                return self._merged([self._apart(axes, op.axis) if axes is not None else None for axes in given])
            case _ if isinstance(op, ALONG):
                self._apart(_known(given), op.axis)
                return _known(given)
            case _ if op.structure == "elementwise":
                return self._merged(given)
        raise Unsuited("it is not followed")

    def _merged(self, given: Sequence[Axes | None]) -> Axes:
        known = [axes for axes in given if axes is not None]
        out = []
        for parts in zip(*known):
            here = {part for part in parts if part is not None}
            if len(here) > 1:
                raise Unsuited("tokens meet other tokens")
            out.append(next(iter(here), None))
        tokens = {self.of_tokens(axes) for axes in known if not self.free(axes)}
        if len(tokens) > 1:
            raise Unsuited("tokens meet other tokens")
        return tuple(out)

    def _apart(self, axes: Axes, axis: int) -> Axes:
        if self.is_token(axes[axis]):
            raise Unsuited("it runs along the tokens")
        return tuple(None if k == axis else part for k, part in enumerate(axes))

    def _folded(self, op: Any, axes: Axes) -> Axes:
        lost = op.axes if isinstance(op, ops.Reduce) else [op.axis]
        left = tuple(part for k, part in enumerate(axes) if k not in lost)
        if any(self.is_token(axes[k]) for k in lost):
            if not isinstance(op, ops.Reduce) or op.kind not in TOTALS:
                raise Unsuited("it runs along the tokens")
            self._all_gone(left)
        return left

    def _all_gone(self, left: Axes) -> None:
        if not self.free(left):
            raise Unsuited("it folds some of the token axes and keeps others")

    def indices(self, op: Any, given: Sequence[Axes | None]) -> dict[int, Part]:
        """Of a contraction: the part that each index is."""
        parts: dict[int, Part] = {}
        for mine, axes in zip((op.lhs, op.rhs), given):
            for i, part in zip(mine, axes or ()):
                if part is not None and parts.setdefault(i, part) != part:
                    raise Unsuited("tokens meet other tokens")
        tokens = [part for part in parts.values() if self.is_token(part)]
        if len(set(tokens)) < len(tokens):
            raise Unsuited("tokens meet other tokens")
        if any(self.is_token(parts.get(i)) for i in op.summed):
            self._all_gone(tuple(parts.get(i) for i in op.out))
        return parts

    def _placed(self, op: Any, given: Sequence[Axes | None]) -> Axes:
        """Gather and scatter: batch axes stay; where tokens choose the place, only a gather's own points follow them."""
        batch, rank = op.batch, type_of(op.operands[1]).rank
        places = len(op.operands) - 1
        first, *ids = given
        scatters = isinstance(op, ops.Scatter)
        if first is not None and any(map(self.is_token, first[batch : rank if scatters else batch + places])):
            raise Unsuited("it picks tokens")
        lead = self._merged([*ids, *([] if first is None else [(*first[:batch], *(None,) * (rank - batch))])])
        if scatters and any(map(self.is_token, lead[batch:])):
            raise Unsuited("it puts tokens together")
        rest = (rank if scatters else batch + places), type_of(op.operands[0]).rank
        tail: Axes = (None,) * (rest[1] - rest[0]) if first is None else first[rest[0] :]
        return (*lead[:batch], *(None,) * len(op.sizes), *tail) if scatters else (*lead, *tail)

    def _viewed(self, op: Any, axes: Axes) -> Axes:
        out: list[Part | None] = [None] * len(op.shape)
        for part, k in zip(axes, unmoved(op)):
            if k is not None:
                out[k] = part
            elif self.is_token(part):
                raise Unsuited("it reads other tokens")
        return tuple(out)

    def _reshaped(self, axes: Axes, old: Sequence[int], new: Sequence[int]) -> Axes:
        """Runs of axes are joined or taken apart where the numbered sizes say how; axes of extent 1 come and go."""
        out: list[Part | None] = []
        for olds, news in groups(old, new):
            parts = [axes[k] for k in olds if old[k] != 1]
            run = [a for part in parts if part is not None for a in range(part[0], part[1] + 1)]
            together = None not in parts and run == list(range(run[0], run[0] + len(run))) if run else False
            found = self._split(run, [new[k] for k in news]) if together else None
            if found is None and any(map(self.is_token, parts)):
                raise Unsuited("it joins tokens with other axes, or takes them apart")
            out += found or [None] * len(news)
        return tuple(out)

    def _split(self, run: Sequence[int], sizes: Sequence[int]) -> list[Part | None] | None:
        """The parts of new axes that a run of numbered axes becomes; None where a border falls into one of them, or tokens meet others."""
        out: list[Part | None] = []
        at = 0
        for size in sizes:
            start, n = at, 1
            while n < size and at < len(run):
                n *= self.sizes[run[at]]
                at += 1
            if n != size or (at > start and run[start] < self.tokens <= run[at - 1]):
                return None
            out.append((run[start], run[at - 1]) if at > start else None)
        return out

    # --- backwards

    def before(self, op: Op, k: int, axes: Axes, given: Sequence[Axes | None]) -> Axes:
        """The axes that operand k must have for results with these. `given`: those of the operands that are followed. Raises Unsuited where it cannot
        be read token by token."""
        rank = type_of(op.operands[k]).rank
        match op:
            case ops.Contract():
                parts = self.indices(op, given)
                return tuple(parts.get(i) for i in (op.lhs, op.rhs)[k])
            case ops.Gather():
                ids = type_of(op.operands[1]).rank
                return axes[:ids] if k else (*axes[: op.batch], *(None,) * (len(op.operands) - 1), *axes[ids:])
            case ops.Scatter():
                return (*axes[: op.batch], *(None,) * (rank - op.batch))
            case ops.View():
                back: list[Part | None] = [None if j is None else axes[j] for j in unmoved(op)]
                moved = [j for row in op.matrix for j, f in enumerate(row) if f and self.is_token(axes[j])]
                if len(moved) > sum(map(self.is_token, back)):
                    raise Unsuited("it reads other tokens")
                return tuple(back)
            case ops.Reshape():
                return self._reshaped(axes, op.shape, type_of(op.x).shape)
            case _ if op.structure in ("elementwise", "join") or isinstance(op, ALONG):
                return axes
        raise Unsuited("it is not followed")


def _known(given: Sequence[Axes | None]) -> Axes:
    (axes,) = (g for g in given if g is not None)
    return axes


def unmoved(op: Any) -> list[int | None]:
    """For each axis of a view's operand the result's axis that it is, whole and from the start; None where there is none."""
    rows, source = op.matrix, type_of(op.x).shape
    out: list[int | None] = []
    for a, (row, offset) in enumerate(zip(rows, op.offsets)):
        used = [k for k, f in enumerate(row) if f]
        alone = len(used) == 1 and row[used[0]] == 1 and not offset and op.shape[used[0]] == source[a]
        out.append(used[0] if alone and sum(bool(other[used[0]]) for other in rows) == 1 else None)
    return out


def groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The shortest runs of axes of two shapes that have the same number of elements."""
    out: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        olds: list[int] = []
        news: list[int] = []
        a = b = 1
        while not (olds or news) or a != b:
            if j >= len(new) or (i < len(old) and a <= b):
                olds.append(i)
                a *= old[i]
                i += 1
            else:
                news.append(j)
                b *= new[j]
                j += 1
        out.append((olds, news))
    return out


def extent(shape: Sequence[int], axes: Axes, sizes: Sequence[int], tokens: int) -> list[int]:
    """A shape with the token axes at other sizes."""
    return [math.prod(sizes[part[0] : part[1] + 1]) if part is not None and part[0] < tokens else n for n, part in zip(shape, axes)]
