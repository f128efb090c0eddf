"""Folds of values: what each kind of reduction starts from, how it combines, across accumulators and across the lanes of a vector.

The state of a fold is a list of values: one, or for argreduce two (the best value and its index).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dslc.core.dtypes import BOOL, INT32
from dslc.ir.mlir import ir, vector
from dslc.ir.ops.reduction import KINDS, identity
from dslc.ir.rows import Fold, Rows

from . import emit
from .pull import Point
from .scalars import Arithmetic, Val
from .ssa import Builder, computed

State = list[Val]


class Folding(Fold):
    """A fold, and how its states are emitted."""

    def start(self, b: Builder, lanes: int) -> State:
        kind = {"argmax": "max", "argmin": "min"}.get(self.kind, self.kind)
        values = [identity(kind, self.dtype), 0]
        types = [self.dtype, INT32]
        return [Val(b.const(computed(t), v, lanes), t, lanes) for v, t in zip(values, types[: len(self.parts)])]

    def element(self, point: Point, across: bool) -> State:
        """The state of one point: its value, and where it stands. If lanes are folded `across`, those that do not exist hold what it starts from."""
        s, lanes = point.s, point.lanes
        x = point.value(self.node)
        state = [x] if self.place is None else [x, point.integer(self.place)]
        state = [v if v.lanes == lanes else Val(point.b.spread(v.ssa, computed(v.dtype), lanes), v.dtype, lanes) for v in state]
        if point.mask is None or not across:
            return state
        return [s.select(Val(point.mask, BOOL, lanes), v, first) for v, first in zip(state, self.start(point.b, lanes))]

    def combine(self, s: Arithmetic, a: State, b: State) -> State:
        """The fold of two states; of equal extremes the earlier one in the axis is kept."""
        if self.place is None:
            return [getattr(s, KINDS[self.kind][2])(a[0], b[0])]
        better = s.compare("gt" if self.kind == "argmax" else "lt", b[0], a[0])
        first = s.compare("lt", b[1], a[1])
        better = s.logical_or(better, s.logical_and(s.compare("eq", a[0], b[0]), first))
        if self.dtype.is_float:  # NaN wins, the first one
            odd_a, odd_b = s.compare("ne", a[0], a[0]), s.compare("ne", b[0], b[0])
            better = s.logical_or(better, s.logical_and(odd_b, s.logical_or(s.logical_not(odd_a), first)))
        return [s.select(better, y, x) for x, y in zip(a, b)]

    def across(self, s: Arithmetic, state: State) -> State:
        """The lanes of a state folded to one, by halves."""
        if self.kind in ("any", "all"):
            return [Val(emit.reduce_lanes("or" if self.kind == "any" else "and", v.ssa), v.dtype) for v in state]
        while state[0].lanes > 1:
            low, high = ([_half(v, k) for v in state] for k in (0, 1))
            state = self.combine(s, low, high)
        return state


def foldings_of(rows: Rows) -> list[list[Folding]]:
    """The folds of a reduce kernel by level."""
    return [[Folding(f.kind, f.dtype, f.node, f.place) for f in level] for level in rows.folds]


def _half(v: Val, which: int) -> Val:
    half = v.lanes // 2
    if half == 1:
        return Val(emit.extract(v.ssa, which), v.dtype)
    t = ir.VectorType.get([half], v.ssa.type.element_type)
    return Val(vector.extract_strided_slice(t, v.ssa, [which * half], [half], [1]), v.dtype, half)


def flatten(states: Sequence[State]) -> list[Any]:
    """The SSA values of states, to be carried by a loop."""
    return [v.ssa for state in states for v in state]


def unflatten(values: Sequence[Any], like: Sequence[State]) -> list[State]:
    """States of the same types with other SSA values."""
    rest = iter(values)
    return [[Val(next(rest), v.dtype, v.lanes) for v in state] for state in like]
