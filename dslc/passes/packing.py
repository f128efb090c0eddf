"""Packing: offsets in one arena for buffers that live for stretches of time, so that no two that live together overlap."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp

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
WORK = 8_000_000  # meetings of two buffers that a search looks at
CLOSE = 1.002  # of the bound: no nearer packing is looked for
SMALL = 1 / 500  # of the bound: buffers that find room between the others at the end
SPILL = 0.1  # bytes of height that a byte of a buffer's end above the goal is worth
HEAT = 0.03  # of the goal: how much worse a try may be at the start, about
SWAPS, MET = 0.4, 0.3  # shares of tries that swap two buffers; of the others, that move a neighbour of the buffer that sticks out


def pack(intervals: Sequence[Interval], enough: int = 0) -> Packing:
    """The best of several orders of first fit (by size, bytes times time, start, time, end); while it is above the bound, simulated annealing of the
    order. Small ones follow, where the others leave room. A packing of `enough` bytes is good enough. The same intervals give the same packing, in
    whatever order they stand."""
    bound = max_live(intervals)
    ranked = sorted(range(len(intervals)), key=lambda i: (intervals[i].first, intervals[i].last, intervals[i].bytes))
    large = [i for i in ranked if intervals[i].bytes > bound * SMALL]
    ends = [-1] * len(intervals)
    placed = [0] * len(intervals)
    small = sorted((i for i in ranked if intervals[i].bytes <= bound * SMALL), key=lambda i: (-intervals[i].bytes, intervals[i].first))
    goal = max(CLOSE * max_live([intervals[i] for i in large]), enough - max_live([intervals[i] for i in small]))
    for i, offset in zip(large, _packed([intervals[i] for i in large], goal)):
        placed[i], ends[i] = offset, offset + intervals[i].bytes
    meeting = _meeting(intervals, small)
    _first_fit(intervals, meeting, small, placed, ends)
    return Packing(placed, max(ends, default=0), bound)


def _packed(intervals: Sequence[Interval], goal: float) -> list[int]:
    """Offsets, by the search; what it makes less is the height, and what single buffers reach above the goal."""
    everyone = range(len(intervals))
    meeting = _meeting(intervals, everyone)
    tries = [_Try.of(intervals, meeting, goal, sorted(everyone, key=lambda i: key(intervals[i]))) for key in ORDERS]
    best = at = min(tries, key=lambda t: t.height)
    draw = random.Random(0)
    rounds = WORK // max(1, sum(len(meets) for meets in meeting.values()))
    for k in range(rounds):
        if best.height <= goal:
            break
        i = draw.choice([i for i in everyone if at.ends[i] > goal])
        if draw.random() < SWAPS:
            order = _swapped(at.order, i, draw.choice(meeting[i]))
        else:
            order = _earlier(at.order, draw.choice(meeting[i]) if draw.random() < MET else i, draw.random())
        tried = _Try.of(intervals, meeting, goal, order, at)
        heat = HEAT * goal * (1 - k / rounds)
        if tried.cost <= at.cost or draw.random() < exp((at.cost - tried.cost) / heat):
            at = tried
        best = min(best, at, key=lambda t: t.height)
    return best.offsets


def _swapped(order: Sequence[int], i: int, j: int) -> list[int]:
    other = {i: j, j: i}
    return [other.get(k, k) for k in order]


def _earlier(order: Sequence[int], i: int, share: float) -> list[int]:
    """The order with i at so large a share of its place."""
    place = order.index(i)
    rest = [k for k in order if k != i]
    return [*rest[: int(place * share)], i, *rest[int(place * share) :]]


@dataclass(frozen=True)
class _Try:
    order: list[int]
    offsets: list[int]
    ends: list[int]
    height: int
    cost: float

    @staticmethod
    def of(intervals: Sequence[Interval], meeting: Mapping[int, Sequence[int]], goal: float, order: list[int], like: _Try | None = None) -> _Try:
        """First fit in an order; what it begins with as another one did lies as there."""
        offsets, ends, same = [0] * len(order), [-1] * len(order), 0
        if like is not None:
            same = next((k for k, (a, b) in enumerate(zip(order, like.order)) if a != b), len(order))
            for i in order[:same]:
                offsets[i], ends[i] = like.offsets[i], like.ends[i]
        _first_fit(intervals, meeting, order[same:], offsets, ends)
        height = max(ends, default=0)
        return _Try(order, offsets, ends, height, height + SPILL * sum(end - goal for end in ends if end > goal))


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


def _first_fit(
    intervals: Sequence[Interval], meeting: Mapping[int, Sequence[int]], order: Sequence[int], offsets: list[int], ends: list[int]
) -> None:
    """Places each buffer at the lowest offset that is free for as long as it lives; ends -1: not placed yet."""
    for i in order:
        size, at = intervals[i].bytes, 0
        for offset, end in sorted([(offsets[j], ends[j]) for j in meeting[i] if ends[j] >= 0]):
            if offset - at >= size:
                break
            if end > at:
                at = end
        offsets[i], ends[i] = at, at + size
