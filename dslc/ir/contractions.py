"""Contractions taken apart for code generators: C[b, m, n] = sum over k of A[b, m, k] B[b, k, n], whatever axes they are made of.

The axes of a contraction fall into four classes: batch (in both operands and the result), rows and columns (in one operand and the result), terms
(summed). Each class is one dim of the iteration space; windows, transposes and gathers are in the operands' traces. Columns are those along which
the result is contiguous.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from . import index
from .index import Dim, Expr
from .trace import Body, Coordinates, Given, Node, Test, Trace
from .types import type_of

BATCH, ROWS, COLUMNS, TERMS = range(4)  # dims of the iteration space
CONTRACTIONS = ("nn.contract", "nn.conv")
LINE = 16  # columns whose values of one term are a cache line, where `passes.lines` or `passes.words` has laid them out


@dataclass(frozen=True)
class Roles:
    """Which axes of the contraction's domain are in which class, and which operand has the rows (0 or 1)."""

    classes: tuple[tuple[int, ...], ...]
    rows_of: int


def roles_of(op: Any) -> Roles:
    """The classes of a contraction's axes."""
    maps = op.maps()
    rank = op.type.rank
    used = [set().union(*(index.dims_of(e) for e in reads)) for reads in maps.reads]
    own = [[d for d in range(rank) if d in used[k] and d not in used[1 - k]] for k in (0, 1)]
    batch = [d for d in range(rank) if (d in used[0]) == (d in used[1])]
    columns_of = 1 if max(own[1], default=-1) >= max(own[0], default=-1) else 0
    terms = tuple(range(rank, len(maps.domain)))
    return Roles((tuple(batch), tuple(own[1 - columns_of]), tuple(own[columns_of]), terms), 1 - columns_of)


class Contraction:
    """The traces of a contraction's operands over (batch, rows, columns, terms), and of the results made from it.

    `sizes`: extents of the four dims; `operands`: what the side with the rows and the side with the columns multiply; `results`: for each value of
    the kernel its node, in which the sum is a `Given`, and its row-major address. `scattered`: some result does not have the contraction's points,
    and cannot be made from one sum.
    """

    def __init__(self, body: Body, op: Any, roles: Roles, results: Sequence[Any]) -> None:
        self.op, self.roles = op, roles
        maps = op.maps()
        axes: list[Expr] = [index.Const(0)] * len(maps.domain)
        for k, members in enumerate(roles.classes):
            for d, e in zip(members, index.delinearize(Dim(k), [maps.domain[d] for d in members])):
                axes[d] = e
        batch, rows, columns, terms = (prod(maps.domain[d] for d in members) for members in roles.classes)
        self.sizes = (batch, rows, columns, terms)
        self.scattered = False
        self.trace = Trace(body, self.sizes, self._provide)
        self.axes = tuple(self.trace.tidy(e) for e in axes)
        self.points = self.axes[: op.type.rank]
        self.operands = tuple(self.trace.factor_at(op, maps, k, self.axes) for k in (roles.rows_of, 1 - roles.rows_of))
        self.results = [self._result(v) for v in results]

    def _provide(self, trace: Trace, value: Any, at: Coordinates, tests: tuple[Test, ...]) -> Node | None:
        if value != self.op.results[0]:
            return None
        self.scattered |= at != self.points
        return Given(self.op.type.dtype, 0, at)

    def _result(self, value: Any) -> tuple[Node, Expr]:
        shape, own = type_of(value).shape, self.op.type.shape
        at = self.points
        if shape != own:
            if prod(shape) != prod(own):
                self.scattered = True
                return Given(self.op.type.dtype, 0, at), index.Const(0)
            position = index.linearize(at, own)
            at = tuple(self.trace.tidy(e) for e in index.delinearize(position, shape))
        return self.trace.at(value, at), self.trace.tidy(index.linearize(at, shape))
