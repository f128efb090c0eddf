"""A put at the points of its row, for both backends: the space, the address that a point writes, the test that it is a place of the base."""

from __future__ import annotations

from typing import Any

from . import index
from .index import Const, Expr, Symbol
from .space import Space, collapse
from .trace import Body, Test, Trace, survey
from .types import type_of


def traced(body: Body, op: Any) -> tuple[Space, Trace, Expr, Test]:
    """(the row's space, a trace over it, the address in the base as an expression of the place, the test that the place exists)."""
    row, base = type_of(op.row), type_of(op.base)

    def cost(space: Space) -> int:
        trace = Trace(body, space.sizes)
        found = survey(trace, [trace.at(op.row, space.axes)])
        return 16 * found.divisions + len(found.reads)

    space = collapse(row.shape, cost, borders=[op.axis, *([op.lane, op.lane + 1] if op.lane >= 0 else [])])
    trace = Trace(body, space.sizes)
    number = len(trace.symbols)
    trace.symbols[number] = trace.at(op.at, (space.axes[op.lane],) if op.lane >= 0 else (Const(0),))
    place = [Symbol(number) if k == op.axis else e for k, e in enumerate(space.axes)]
    return space, trace, trace.tidy(index.linearize(place, base.shape)), Test(Symbol(number), base.shape[op.axis])
