"""Loop nests over an iteration space: which dim is the vector's, how tasks are shared between threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from . import emit
from .stage import Frame

Value = Any  # an ir.Value

MIN_CHUNK = 1024  # elements of the vector's axis that one task takes at least
TASKS = 64  # tasks wanted, so that any number of threads gets equal shares


def lanes_for(n: int, lanes: int) -> int:
    """How many lanes an axis of n elements is computed in: whole vectors, or for a short axis the power of two that holds it."""
    width = 1
    while width < n and width < lanes:
        width *= 2
    return width


def vectors(low: Any, high: Any, n: int, lanes: int, body: Callable[..., Sequence[Value] | None], carried: Sequence[Value] = (),
            limit: Any = None) -> list[Value]:  # fmt: skip
    """body(i, mask, *carried) over [low, high) of an axis of n elements, `low` a multiple of `lanes`, `high` one too or n.

    Whole vectors have mask None. Where n is no multiple of the lanes the rest is masked; a short axis is one masked loop.
    """
    if lanes == 1:
        return emit.loop(low, high, 1, lambda i, *c: body(i, None, *c), carried)
    if n % lanes == 0:
        return emit.loop(low, high, lanes, lambda i, *c: body(i, None, *c), carried)

    def masked(i: Value, *c: Value) -> Sequence[Value] | None:
        return body(i, emit.mask_below(emit.isub(n, i), lanes), *c)

    if n < 3 * lanes:
        return emit.loop(low, high, lanes, masked, carried)
    whole = n // lanes * lanes
    main = emit.loop(low, emit.imin(high, whole), lanes, lambda i, *c: body(i, None, *c), carried)
    return emit.loop(emit.imax(low, whole), high, lanes, masked, main)


def tasks(frame: Frame, sizes: Sequence[int], lanes: int, body: Callable[[list[Value], Any, Any], None]) -> None:
    """body(outer indices, low, high) for this thread's share of a nest whose last dim is the vector's: [low, high) is a stretch of that dim."""
    outer, n = sizes[:-1], sizes[-1]
    rows = prod(outer)
    step = lanes
    if rows == 1:
        step = lanes * 4 if n >= TASKS * lanes * 4 else lanes
        low, high = emit.share_in_steps(n, step, frame.tid, frame.threads)
        body([frame.b.index(0) for _ in outer], low, high)
        return
    pieces = 1
    if rows < TASKS:
        pieces = max(1, min(-(-TASKS // rows), n // MIN_CHUNK))
    chunk = -(-n // (pieces * lanes)) * lanes
    pieces = -(-n // chunk)
    first, last = emit.share(rows * pieces, frame.tid, frame.threads)

    def task(t: Value) -> None:
        b = frame.b
        row, low, high = t, 0, n
        if pieces > 1:
            row, piece = b.div(t, pieces), b.rem(t, pieces)
            low = b.mul(piece, chunk)
            high = emit.imin(b.add(low, chunk), n)
        body(unravel(frame, row, outer), low, high)

    emit.loop(first, last, 1, task)


def unravel(frame: Frame, position: Value, sizes: Sequence[int]) -> list[Value]:
    """Indices of a row-major position."""
    out: list[Value] = []
    for k in range(len(sizes) - 1, -1, -1):
        if sizes[k] == 1:
            out.append(frame.b.index(0))
        elif all(n == 1 for n in sizes[:k]):
            out.append(position)
        else:
            out.append(frame.b.rem(position, sizes[k]))
            position = frame.b.div(position, sizes[k])
    return out[::-1]
