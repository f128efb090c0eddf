"""Packing: offsets in one arena for buffers that live for stretches of time, so that no two that live together overlap."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


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
SMALL = 1 / 4000  # of the bound: buffers that find room between the others at the end


def pack(intervals: Sequence[Interval], enough: int = 0) -> Packing:
    """The best of several orders of first fit (by size, bytes times time, start, time, end); while it is above the bound, a few of the buffers that
    stick out above it are placed earlier. Small ones follow, where the others leave room. A packing of `enough` bytes is good enough. The same
    intervals give the same packing."""
    bound = max_live(intervals)
    large = [i for i, it in enumerate(intervals) if it.bytes > bound * SMALL]
    offsets, total = _packed([intervals[i] for i in large], bound, max(bound * CLOSE, enough))
    ends = [-1] * len(intervals)
    placed = [0] * len(intervals)
    for i, offset in zip(large, offsets):
        placed[i], ends[i] = offset, offset + intervals[i].bytes
    small = sorted((i for i in range(len(intervals)) if ends[i] < 0), key=lambda i: (-intervals[i].bytes, intervals[i].first))
    meeting = _meeting(intervals, small)
    total = max(total, _first_fit(intervals, meeting, small, placed, ends))
    return Packing(placed, total, bound)


def _packed(intervals: Sequence[Interval], bound: int, goal: float) -> tuple[list[int], int]:
    """(offsets, height), by the search."""
    everyone = range(len(intervals))
    meeting = _meeting(intervals, everyone)

    def fitted(order: Sequence[int]) -> tuple[list[int], int]:
        offsets = [0] * len(intervals)
        return offsets, _first_fit(intervals, meeting, order, offsets, [-1] * len(intervals))

    order: list[int] = []
    best: list[int] = []
    total = -1
    for key in ORDERS:
        tried = sorted(everyone, key=lambda i: key(intervals[i]))
        offsets, height = fitted(tried)
        if total < 0 or height < total:
            order, best, total = tried, offsets, height
        if total <= bound:
            break
    draw = random.Random(0)
    current, at, height = order, best, total
    for _ in range(ROUNDS):
        if total <= goal:
            break
        line = height - (height - bound) * draw.random()
        high = [i for i in current if at[i] + intervals[i].bytes >= line]
        moved = set(draw.sample(high, min(len(high), draw.choice((1, 1, 2, 3)))))
        rest = [i for i in current if i not in moved]
        place = int(draw.random() ** 2 * len(rest))
        tried = rest[:place] + [i for i in current if i in moved] + rest[place:]
        offsets, reached = fitted(tried)
        if reached <= height:
            current, at, height = tried, offsets, reached
        if reached < total:
            best, total = offsets, reached
    return best, total


def _meeting(intervals: Sequence[Interval], which: Iterable[int]) -> dict[int, list[int]]:
    """Of each of these intervals those that live at one time with it."""
    first, last = (np.array([getattr(i, name) for i in intervals], np.int64) for name in ("first", "last"))
    return {i: np.flatnonzero((first <= last[i]) & (last >= first[i])).tolist() for i in which}


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


def _first_fit(intervals: Sequence[Interval], meeting: Mapping[int, Sequence[int]], order: Sequence[int], offsets: list[int], ends: list[int]) -> int:
    """Places each buffer at the lowest offset that is free for as long as it lives; ends -1: not placed yet. How high they reach."""
    height = 0
    for i in order:
        size, at = intervals[i].bytes, 0
        for offset, end in sorted([(offsets[j], ends[j]) for j in meeting[i] if ends[j] >= 0]):
            if offset - at >= size:
                break
            if end > at:
                at = end
        offsets[i], ends[i] = at, at + size
        height = max(height, at + size)
    return height
