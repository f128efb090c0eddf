"""Packing: offsets in one arena for buffers that live for stretches of time, so that no two that live together overlap."""

from __future__ import annotations

import random
from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """`bytes` that are needed from time `first` to time `last`, both included."""

    bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class Packing:
    """`lower_bound`: the most bytes that live at one time."""

    offsets: list[int]
    total: int
    lower_bound: int


ORDERS: tuple[Callable[[Interval], tuple[int, ...]], ...] = (
    lambda i: (-i.bytes, i.first),
    lambda i: (-i.bytes * (i.last - i.first + 1), i.first),
    lambda i: (i.first, -i.bytes),
    lambda i: (i.first - i.last, -i.bytes),
    lambda i: (-i.last, -i.bytes),
)
ROUNDS = 80  # of moving buffers to the front; each costs one first fit
CLOSE = 1.002  # of the bound: no nearer packing is looked for


def pack(intervals: Sequence[Interval]) -> Packing:
    """The best of several orders of first fit (by size, bytes times time, start, time, end); while it is above the bound, a few of the buffers that
    stick out above it are placed earlier. The same intervals give the same packing."""
    bound = max_live(intervals)
    order: list[int] = []
    best: list[int] = []
    total = -1
    for key in ORDERS:
        tried = sorted(range(len(intervals)), key=lambda i: key(intervals[i]))
        offsets, height = _first_fit(intervals, tried)
        if total < 0 or height < total:
            order, best, total = tried, offsets, height
        if total == bound:
            break
    draw = random.Random(0)
    current, at, height = order, best, total
    for _ in range(ROUNDS):
        if total <= bound * CLOSE:
            break
        line = height - (height - bound) * draw.random()
        high = [i for i in current if at[i] + intervals[i].bytes >= line]
        moved = set(draw.sample(high, min(len(high), draw.choice((1, 1, 2, 3)))))
        rest = [i for i in current if i not in moved]
        place = int(draw.random() ** 2 * len(rest))
        tried = rest[:place] + [i for i in current if i in moved] + rest[place:]
        offsets, reached = _first_fit(intervals, tried)
        if reached <= height:
            current, at, height = tried, offsets, reached
        if reached < total:
            best, total = offsets, reached
    return Packing(best, max(total, 0), bound)


def max_live(intervals: Sequence[Interval]) -> int:
    """The most bytes that live at one time."""
    changes: dict[int, int] = {}
    for i in intervals:
        changes[i.first] = changes.get(i.first, 0) + i.bytes
        changes[i.last + 1] = changes.get(i.last + 1, 0) - i.bytes
    live = most = 0
    for time in sorted(changes):
        live += changes[time]
        most = max(most, live)
    return most


def _first_fit(intervals: Sequence[Interval], order: Sequence[int]) -> tuple[list[int], int]:
    """Each buffer at the lowest offset that is free for as long as it lives."""
    offsets = [0] * len(intervals)
    placed: list[tuple[int, int, int, int]] = []  # (offset, end, first, last), by offset
    height = 0
    for i in order:
        it = intervals[i]
        at = 0
        for offset, end, first, last in placed:
            if first > it.last or last < it.first:
                continue
            if offset >= at + it.bytes:
                break
            at = max(at, end)
        offsets[i] = at
        insort(placed, (at, at + it.bytes, it.first, it.last))
        height = max(height, at + it.bytes)
    return offsets, height
