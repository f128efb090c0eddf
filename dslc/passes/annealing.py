"""Plans near a plan that cost less: simulated annealing over where tasks run again.

A try takes a repeat out, moves it, or puts one in for what lies idle at some moment; one may take the place of another. What is held above the target
has a price, so that tries may pass through plans that hold too much: two cheap repeats for a dear one, or another place for what is made again early.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

from .timeline import Timeline

HEAT = 1 / 20  # of the bound: how much worse a try may be at the start, about
OVER = 1 / 3  # of the bound: what as many bytes above the target cost as the largest buffer has
LONG = 1 / 20  # of that, for each place where they are
FIXED = 1 / 20  # of the largest buffer: what is above the target counts as so many bytes more
DEARER = 4  # times that price, which is added to it by the end
LEAST = 1 / 100  # of the program's time: what stands for the bound, where that is less
OUT, MOVED, INSTEAD = 0.3, 0.45, 0.5  # shares of tries; and of those that take one out, that put in another
DEEP = 0.7  # share of values that are made again too, where a repeat reads what nobody holds for later
FAR = 1 / 12  # of a plan: so far a repeat is moved, about
SMALL = 1 / 500  # of the largest buffer: what is smaller is not computed again on its own
FOUND = 4  # plans that are told


def annealed(line: Timeline, plan: Sequence[int], target: int, bound: float, work: int) -> list[list[int]]:
    """The cheapest plans that were met that hold at most `target` bytes, the cheapest first, each cheaper than all that were met before. `bound`:
    seconds of extra time that none goes below; `work`: positions of plans that are looked at. The same plan gives the same ones."""
    near = _Nearby(line, target)
    at = near.tried(list(plan))
    found = [] if at.over else [at]
    scale, rounds = max(bound, LEAST * line.seconds), work // len(plan)
    for k in range(rounds):
        new = near.to(at)
        if new is None:
            continue
        price = OVER * scale / near.largest * (1 + DEARER * k / rounds)
        worse = new.extra - at.extra + price * (new.over - at.over)
        if worse <= 0 or near.draw.random() < exp(-worse / (HEAT * scale * (1 - k / rounds))):
            at = new
            if not at.over and (not found or at.extra < found[-1].extra):
                found.append(at)
    return [one.plan for one in found[: -FOUND - 1 : -1]]


@dataclass(frozen=True)
class _Tried:
    """`over`: bytes above the target, at the fullest moment and at all."""

    plan: list[int]
    held: list[int]
    extra: float
    over: float


class _Nearby:
    """The plans that differ in one or two repeats from one."""

    def __init__(self, line: Timeline, target: int) -> None:
        self.line, self.target, self.draw = line, target, random.Random(0)
        self.seconds, self.all = [task.seconds for task in line.tasks], line.seconds
        self.largest = max(line.sizes.values())

    def tried(self, plan: list[int]) -> _Tried:
        held = self.line.held(plan)
        above = [h - self.target for h in held if h > self.target]
        over = max(above) + LONG * sum(above) + FIXED * self.largest if above else 0.0
        return _Tried(plan, held, sum(map(self.seconds.__getitem__, plan)) - self.all, over)

    def to(self, at: _Tried) -> _Tried | None:
        """One of them; None where the draw is of one that may not be."""
        plan = self._drawn(at)
        return self.tried(plan) if plan is not None else None

    def _drawn(self, at: _Tried) -> list[int] | None:
        plan, kind, repeats = list(at.plan), self.draw.random(), repeats_of(at.plan)
        if kind >= OUT + MOVED or not repeats:
            return self._put_in(plan, at)
        place = self.draw.choice(repeats)
        n = plan.pop(place)
        if kind >= OUT:
            place += round(self.draw.gauss(0, FAR * len(plan)))
            return self._inserted(plan, place, n) if 0 < place < len(plan) else None
        return plan if self.draw.random() >= INSTEAD else self._put_in(plan, at)

    def _put_in(self, plan: list[int], at: _Tried) -> list[int] | None:
        """The plan with a repeat before the next use of what lies idle at a moment, cheap and large ones more often."""
        tasks, sizes, maker = self.line.tasks, self.line.sizes, self.line.maker
        full = [t for t, held in enumerate(at.held) if held > self.target]
        moment = min(self.draw.choice(full) if full else self.draw.randrange(len(at.held)), len(plan) - 1)
        done = max(plan[:moment], default=-1) + 1
        coming: dict[int, int] = {}  # the next use of each buffer; 0 where it is made again before
        for t in range(len(plan) - 1, moment, -1):
            task = tasks[plan[t]]
            for b in task.writes:
                coming[b] = 0
            for b in task.reads:
                coming[b] = t
        now, least = tasks[plan[moment]].reads, SMALL * self.largest
        idle = [b for b, t in coming.items() if t and maker[b] < done and sizes[b] >= least and b not in now]
        if not idle:
            return None
        b = self.draw.choices(idle, [sizes[b] / self.seconds[maker[b]] for b in idle])[0]
        return self._inserted(plan, coming[b], *self._with_makers(plan, coming[b], maker[b]))

    def _with_makers(self, plan: list[int], place: int, n: int) -> list[int]:
        """Task n behind those, most often, that make what it reads and nobody holds there for a later reader."""
        tasks, live = self.line.tasks, set[int]()
        for t in range(len(plan) - 1, place - 1, -1):
            live.difference_update(tasks[plan[t]].writes)
            live.update(tasks[plan[t]].reads)
        chain: list[int] = []
        stack = [n]
        while stack:
            n = stack.pop()
            if n in chain:
                continue
            chain.append(n)
            stack += [self.line.maker[b] for b in tasks[n].reads if b not in live and self.draw.random() < DEEP]
        return sorted(chain)

    def _inserted(self, plan: list[int], place: int, *chain: int) -> list[int] | None:
        """The plan with these repeats more; None where one of the tasks has not run by then, or must not run again there."""
        done, tasks = max(plan[:place]) + 1, [self.line.tasks[n] for n in chain]
        may = all(n < done <= task.until and task.repeats for n, task in zip(chain, tasks))
        return [*plan[:place], *chain, *plan[place:]] if may else None


def repeats_of(plan: Sequence[int]) -> list[int]:
    """The places of a plan's repeats."""
    seen: set[int] = set()
    return [t for t, n in enumerate(plan) if n in seen or seen.add(n)]  # type: ignore[func-returns-value]
