"""Loops over a known number of turns, as scans of the dialect."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..scans import ScanBuilder
from .call import Call
from .values import Value, reshape, slice_axis

Turn = Callable[[list[Value], list[Value]], tuple[list[Value], list[Value]]]


def scan(call: Call, trip: int, starts: Sequence[Value], stacked: Sequence[Value], turn: Turn) -> tuple[list[Value], list[Value]]:
    """(last carries, stacks of what was emitted). `turn(slices, carries)` gives (next carries, emitted); no carry may change its type."""
    run = call.run
    if trip <= 1:
        return _unrolled(trip, starts, stacked, turn, call)
    builder = ScanBuilder("turn", trip, [v.value for v in starts], run.turns[-1] if run.turns else None)
    with builder.inside():
        run.turns.append(builder.random_turn())
        slices = [Value(builder.slice(v.value), v.elem) for v in stacked]
        carries = [Value(v, s.elem) for v, s in zip(builder.carries, starts)]
        new, emitted = turn(slices, carries)
        run.turns.pop()
        for a, b in zip(starts, new):
            if a.type != b.type:
                builder.draft.erase()
                raise call.gap(f"a loop whose value is first {a}, then {b}, is not supported")
    last, stacks = builder.finish([v.value for v in new], [v.value for v in emitted])
    return [Value(v, n.elem) for v, n in zip(last, new)], [Value(v, e.elem) for v, e in zip(stacks, emitted)]


def _unrolled(trip: int, starts: Sequence[Value], stacked: Sequence[Value], turn: Turn, call: Call) -> tuple[list[Value], list[Value]]:
    if trip == 0:
        raise call.gap("a loop of no turns is not supported")
    slices = [reshape(slice_axis(v, 0, 0, 1), v.shape[1:]) for v in stacked]
    last, emitted = turn(slices, list(starts))
    return last, [reshape(v, (1, *v.shape)) for v in emitted]
