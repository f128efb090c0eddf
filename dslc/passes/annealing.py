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

HEAT = 1 / 20  # of the plan's extra time: how much worse a try may be at the start, about
OVER = 1 / 3  # of the plan's extra time: what as many bytes above the target cost as the largest buffer has
LONG = 1 / 20  # of that, for each place where they are
FIXED = 1 / 20  # of the largest buffer: what is above the target counts as so many bytes more
DEARER = 4  # times more at the end
LEAST = 1 / 100  # of the program's time: so much extra a plan has at least, for these
OUT, MOVED, INSTEAD = 0.3, 0.45, 0.5  # shares of tries; and of those that take one out, that put in another
FULLEST = 0.5  # share of tries that put one in for what is idle at the fullest moment, where that is below the target
FAR = 25  # places that a repeat is moved, about
SMALL = 1 / 500  # of the largest buffer: what is smaller is not computed again on its own
FOUND = 4  # plans that are told


@dataclass(frozen=True)
class _Tried:
    plan: list[int]
    held: list[int]
    extra: float
    over: float  # bytes, of the fullest moment and of all

    def cost(self, price: float) -> float:
        return self.extra + price * self.over


def annealed(line: Timeline, plan: Sequence[int], target: int, bound: float, work: int) -> list[list[int]]:
    """The cheapest plans that were met that hold at most `target` bytes, the cheapest first, each cheaper than all that were met before. `work`:
    positions of plans that are looked at. The same plan gives the same ones."""
    draw = random.Random(0)
    scale = max(bound, LEAST * line.seconds)
    largest = max(line.sizes.values())

    def tried(plan: list[int]) -> _Tried:
        held = line.held(plan)
        above = [h - target for h in held if h > target]
        return _Tried(plan, held, line.extra(plan), max(above) + LONG * sum(above) + FIXED * largest if above else 0.0)

    at = tried(list(plan))
    found = [] if at.over else [at]
    rounds = work // len(plan)
    for k in range(rounds):
        near = _nearby(line, at, draw)
        if near is None:
            continue
        new, price = tried(near), OVER * scale / largest * (1 + DEARER * k / rounds)
        worse = new.cost(price) - at.cost(price)
        if worse <= 0 or draw.random() < exp(-worse / (HEAT * scale * (1 - k / rounds))):
            at = new
            if not at.over and (not found or at.extra < found[-1].extra):
                found.append(at)
    return [one.plan for one in found[: -FOUND - 1 : -1]]


def _nearby(line: Timeline, at: _Tried, draw: random.Random) -> list[int] | None:
    """A plan that differs in one or two repeats; None where the draw is of one that may not be."""
    plan, kind = list(at.plan), draw.random()
    if kind < OUT + MOVED:
        repeats = repeats_of(plan)
        if not repeats:
            return _put_in(line, plan, at, draw)
        place = draw.choice(repeats)
        n = plan.pop(place)
        if kind >= OUT:
            place += int(draw.gauss(0, FAR))
            return _inserted(line, plan, place, n) if 0 < place < len(plan) else None
        if draw.random() >= INSTEAD:
            return plan
    return _put_in(line, plan, at, draw)


def _put_in(line: Timeline, plan: list[int], at: _Tried, draw: random.Random) -> list[int] | None:
    """The plan with a repeat before the next use of what lies idle at a moment, cheap and large ones more often."""
    fullest = max(range(len(at.held)), key=at.held.__getitem__) if at.over or draw.random() < FULLEST else draw.randrange(len(at.held))
    moment = min(fullest, len(plan) - 1)
    done = max(plan[:moment], default=0)
    least = SMALL * max(line.sizes.values())
    coming: dict[int, int] = {}  # the next use of each buffer; 0 where it is made again before
    for t in range(len(plan) - 1, moment, -1):
        coming.update(dict.fromkeys(line.tasks[plan[t]].writes, 0))
        coming.update(dict.fromkeys(line.tasks[plan[t]].reads, t))
    now = line.tasks[plan[moment]].reads
    idle = [b for b, t in coming.items() if t and line.maker[b] < done and b not in now and line.sizes[b] >= least]
    if not idle:
        return None
    b = draw.choices(idle, [line.sizes[b] / line.tasks[line.maker[b]].seconds for b in idle])[0]
    return _inserted(line, plan, coming[b], line.maker[b])


def _inserted(line: Timeline, plan: list[int], place: int, n: int) -> list[int] | None:
    """The plan with one repeat more; None where task n has not run by then, or must not run again there."""
    done = max(plan[:place]) + 1
    task = line.tasks[n]
    return [*plan[:place], n, *plan[place:]] if n < done <= task.until and task.repeats else None


def repeats_of(plan: Sequence[int]) -> list[int]:
    """The places of a plan's repeats."""
    seen: set[int] = set()
    return [t for t, n in enumerate(plan) if n in seen or seen.add(n)]  # type: ignore[func-returns-value]
