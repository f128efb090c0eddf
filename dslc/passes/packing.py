"""Packing: offsets in one arena for buffers that live for stretches of time, so that no two that live together overlap."""

from __future__ import annotations

from collections.abc import Sequence
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


def pack(intervals: Sequence[Interval]) -> Packing:
    """The best of several orders of first fit: by size, by bytes times time, by start."""
    orders = [
        sorted(range(len(intervals)), key=lambda i: (-intervals[i].bytes, intervals[i].first)),
        sorted(range(len(intervals)), key=lambda i: (-intervals[i].bytes * (intervals[i].last - intervals[i].first + 1), intervals[i].first)),
        sorted(range(len(intervals)), key=lambda i: (intervals[i].first, -intervals[i].bytes)),
    ]
    bound = max_live(intervals)
    best: list[int] = []
    total = -1
    for order in orders:
        offsets, height = _first_fit(intervals, order)
        if total < 0 or height < total:
            best, total = offsets, height
        if total == bound:
            break
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
        placed.append((at, at + it.bytes, it.first, it.last))
        placed.sort()
        height = max(height, at + it.bytes)
    return offsets, height
