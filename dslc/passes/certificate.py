"""The proof of a plan with repeats: it is run over the packed arena with the names of values in place of bytes."""

from __future__ import annotations

from collections.abc import Sequence

from .packing import Packing
from .timeline import Timeline


def certify(line: Timeline, plan: Sequence[int], packing: Packing) -> None:
    """AssertionError unless the plan has every task once and in order beside its repeats, every read finds all bytes of what its maker wrote last,
    and nothing lies beyond the arena's end. Trusts neither lifetimes nor the packer."""
    arena: list[tuple[int, int, int]] = []  # (start, end, buffer), apart from each other
    at: dict[int, int] = {}
    offsets = iter(packing.offsets)
    done = 0

    def write(start: int, end: int, buffer: int) -> None:
        nonlocal arena
        assert 0 <= start <= end <= packing.total, "a value lies outside the arena"
        left = []
        for a, b, tag in arena:
            left += [(x, y, tag) for x, y in ((a, min(b, start)), (max(a, end), b)) if x < y]
        arena = [*left, (start, end, buffer)]

    for n in plan:
        task = line.tasks[n]
        again = n < done
        assert n <= done, "a task stands before its turn"
        assert not again or (task.repeats and done <= task.until), "a task runs again that must not, or too late"
        targets = [(b, line.sizes[b], next(offsets)) for b in task.writes]
        own = task.inside + (task.aside if again else 0)
        if own:
            start = next(offsets)
            write(start, start + own, -1)
        for b, size, start in targets:  # before the reads: a kernel may write while it still reads
            write(start, start + size, b)
        for b in task.reads:
            whole = (at[b], at[b] + line.sizes[b])
            found = sum(min(end, whole[1]) - max(start, whole[0]) for start, end, tag in arena if tag == b and start < whole[1] and end > whole[0])
            assert found == line.sizes[b], "a value was overwritten before its last reader"
        at.update((b, start) for b, _, start in targets)
        done += not again
    assert done == len(line.tasks), "a task is missing"
