"""In which order the axes of a contraction are walked: so that what lies side by side in an operand is loaded side by side.

A convolution's terms are channels and taps. Where its input lies with the channels last, neighbouring terms must be neighbouring channels of one tap,
whatever the order in which the op names them; so must the columns of a filter's gradient, which are channels and taps too.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from dslc.ir.contractions import COLUMNS, ROWS, TERMS, Roles
from dslc.ir.index import Dim, Expr
from dslc.ir.trace import Body, Trace, factor_of, survey

CHUNK = 16  # bytes that are loaded at once, or half as many
LONG = 128  # terms from which loads outweigh what is stored in an order that is not the result's


def arranged(body: Body, op: Any, roles: Roles) -> Roles:
    """The roles with the axes of each class in the order of the operand that is dense along one of them; as they are where that is already so, or
    where no operand has whole chunks there."""
    maps = op.maps()
    trace = Trace(body, maps.domain)
    dims: list[Expr] = [trace.tidy(Dim(k)) for k in range(len(maps.domain))]
    chunk = max(1, CHUNK // 2 // op.types()[0].dtype.bytes)
    steps = [_steps(trace, op, maps, k, dims) for k in (roles.rows_of, 1 - roles.rows_of)]
    classes = list(roles.classes)
    for number, sides in ((ROWS, steps[:1]), (COLUMNS, steps[1:]), (TERMS, steps)):
        if number != COLUMNS or prod(maps.domain[d] for d in classes[TERMS]) >= LONG:
            classes[number] = _by_step(classes[number], sides, maps.domain, chunk)
    return Roles(tuple(classes), roles.rows_of)


def _steps(trace: Trace, op: Any, maps: Any, k: int, dims: Sequence[Expr]) -> list[int | None]:
    """By how many elements operand k moves with each axis of the domain; of what it is made of, the first read that is dense somewhere."""
    node, _ = trace.operand_at(op, maps, k, tuple(dims), ())
    found = [[factor_of(r.address, d) if n > 1 else 0 for d, n in enumerate(maps.domain)] for r in survey(trace, [node]).reads]
    return next((f for f in found if 1 in f), [None] * len(maps.domain))


def _by_step(members: Sequence[int], sides: Sequence[Sequence[int | None]], domain: Sequence[int], chunk: int) -> tuple[int, ...]:
    """The members of a class, those with the largest steps first."""
    wide = [d for d in members if domain[d] > 1]
    orders = []
    for steps in sides:
        if wide and all(steps[d] is not None for d in wide):
            order = sorted(wide, key=lambda d: -abs(steps[d] or 0))
            if steps[order[-1]] == 1 and domain[order[-1]] % chunk == 0:
                orders.append(order)
    if not orders or any(order[-1] == wide[-1] for order in orders):
        return tuple(members)
    return (*(d for d in members if domain[d] <= 1), *orders[0])
