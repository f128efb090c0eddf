"""Which tasks of a timeline run again, and where, so that the arena stays under a number of bytes in little extra time.

Any plan that is the program's order with repeats put in is right, as a reader sees the latest run. Plans to begin with are the program itself, the
kept sets of least cuts under a sweep of prices for a held byte, mixtures of two of them, and segments between the narrowest moments of the program;
each is repaired until it fits (repeats before the next use of what lies idle at the fullest moment), then repeats that are not needed are taken out,
and the best is searched for better ones nearby. Where packing needs more, or the bound is far, all is done again for fewer bytes. The least cuts also
give the lower bound: by Lagrange's relaxation of the bytes held at one moment.
"""

from __future__ import annotations

import random
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass

from .mincut import ENDLESS, Network
from .packing import Packing, pack
from .timeline import Timeline, profile

CANDIDATES = 8  # values that are tried at each fullest moment
SMALL = 1 / 500  # of the most that is held: what is smaller is not computed again on its own
MOMENTS = 3  # at which the bound is taken
ATTEMPTS = 4  # at a plan whose buffers, packed, fit too
FITTING = 12  # plans that fit, of which repeats are taken out
POLISHED = 1  # of these are bettered
PACKED = 3  # of these are packed
CUTS = 2  # of the least cuts, those that hold fewest bytes: from these too the smallest arena is looked for
BELOW = (1.0, 0.96)  # of the target: what a plan that is repaired to less holds too much is then taken out again
GOOD = 1 / 200  # of the program's time: a plan so near to the bound is taken at once
SEARCH = 600_000  # positions of plans that are looked at to better one
NEAR = 1 / 1000  # of the program's time: a plan so near to the bound is not bettered
SWEEP = 9  # prices of a held byte at each
TICKS = 1e9  # of a second: the unit of the cuts' capacities


@dataclass(frozen=True)
class Choice:
    """A plan, its packed arena, its extra seconds, and the seconds that no plan of this order can go below."""

    plan: list[int]
    packing: Packing
    extra: float
    bound: float


def choose(line: Timeline, room: int) -> Choice | None:
    """The plan with the least extra time that was found whose packed arena takes at most `room` bytes; None where there is none."""
    if line.peak(line.base) <= room and (base := pack(line.intervals(line.base), room)).total <= room:
        return Choice(line.base, base, 0.0, 0.0)
    bound, kept_sets = lower_bound(line, room, fullest_moments(line, room))
    seeds = [line.base, *segmented(line)]
    best: Choice | None = None
    target = room
    for _ in range(ATTEMPTS):  # each at a smaller target, so that what is left over when packed finds room; other plans are found too
        seeds += [expanded(line, kept, at) for kept, at in kept_sets] + mixed(line, kept_sets, target)
        fitting = [p for s in _distinct(seeds) for less in BELOW if (p := repaired(line, s, int(target * less))) is not None]
        fitting.sort(key=line.extra)
        pruned = sorted((_pruned(line, p, target) for p in fitting[:FITTING]), key=line.extra)
        pruned = sorted(pruned + [polished(line, p, target, bound) for p in pruned[:POLISHED]], key=line.extra)
        over = room // 100 if pruned else 0
        for plan in _distinct(pruned)[:PACKED]:
            if best is not None and line.extra(plan) >= best.extra:
                break
            packing = pack(line.intervals(plan), room)
            if packing.total <= room:
                best = Choice(plan, packing, line.extra(plan), bound)
                break
            over = max(over, packing.total - room) if best is None else over
        if not over or (best is not None and best.extra - bound <= GOOD * line.seconds):
            break
        target -= over
        kept_sets = lower_bound(line, target, fullest_moments(line, target))[1]
    if best is None:
        plan, packing = least(line)
        best = Choice(plan, packing, line.extra(plan), bound) if packing.total <= room else None
    return best


def greedy(line: Timeline, room: int) -> Choice | None:
    """The program with repeats put in one by one until its packed arena fits: what a search is measured against. Its bound is 0."""
    target = room
    for _ in range(ATTEMPTS):
        plan = repaired(line, line.base, target)
        if plan is None:
            return None
        packing = pack(line.intervals(plan), room)
        if packing.total <= room:
            return Choice(plan, packing, line.extra(plan), 0.0)
        target -= packing.total - room
    return None


def least(line: Timeline) -> tuple[list[int], Packing]:
    """The plan of the smallest arena that is found, without regard to time."""
    best, packing = line.base, pack(line.intervals(line.base))
    floor = max(t.inside + sum(line.sizes[b] for b in (*t.reads, *t.writes)) for t in line.tasks)
    cuts = [expanded(line, kept, at) for kept, at in lower_bound(line, floor, fullest_moments(line, floor))[1]]
    for seed in _distinct([line.base, *segmented(line), *sorted(cuts, key=line.peak)[:CUTS]]):
        plan = min(_repairs(line, seed, floor), key=line.peak)
        plan = _pruned(line, plan, line.peak(plan))
        if line.peak(plan) < packing.total and (packed := pack(line.intervals(plan))).total < packing.total:
            best, packing = plan, packed
    return best, packing


def _distinct(plans: Iterable[list[int]]) -> list[list[int]]:
    return [list(p) for p in dict.fromkeys(tuple(p) for p in plans)]


# --- plans to begin with


def expanded(line: Timeline, kept: set[int], at: int) -> list[int]:
    """Before task `at` the program as it is; then what was made before and is not kept is made again before its first use, and held."""
    there = {b for b, n in line.maker.items() if n < at and b in kept}
    plan = list(range(at))

    def ensure(buffers: Sequence[int], reader: int) -> None:
        for b in buffers:
            if line.maker[b] < at and b not in there:
                task = line.tasks[line.maker[b]]
                if task.repeats and reader <= task.until:
                    ensure(task.reads, reader)
                    plan.append(line.maker[b])
                there.update(task.writes)

    for n in range(at, len(line.tasks)):
        ensure(line.tasks[n].reads, n)
        plan.append(n)
    return plan


def mixed(line: Timeline, kept_sets: Sequence[tuple[set[int], int]], target: int) -> list[list[int]]:
    """Plans that keep of two sets one early and the other late in the program: where equal blocks have one price, all of them change sides at once
    along the sweep, and what fits best lies between. The border is where the moment's bytes just fit."""
    plans = []
    for at in dict.fromkeys(at for _, at in kept_sets):
        met = []
        for kept in (kept for kept, moment in kept_sets if moment == at):
            plan = expanded(line, kept, at)
            met.append((line.extra(plan), line.held(plan)[at], kept))
        fitting = [m for m in met if m[1] <= target]
        if not fitting:
            continue
        small = min(fitting, key=lambda m: m[0])
        over = [m for m in met if m[1] > target and m[0] < small[0]]
        if not over:
            continue
        large = max(over, key=lambda m: m[0])
        for small_first in (True, False):
            low, high = 0, at + 1  # tasks before the border keep the first one's buffers
            while high - low > 1:
                border = (low + high) // 2
                first, second = (small[2], large[2]) if small_first else (large[2], small[2])
                kept = {b for b in first if line.maker[b] < border} | {b for b in second if line.maker[b] >= border}
                plan = expanded(line, kept, at)
                fits = line.held(plan)[at] <= target
                if fits:
                    best = plan
                low, high = (low, border) if fits == small_first else (border, high)
                if fits:
                    plans.append(best)
    return plans


def segmented(line: Timeline) -> list[list[int]]:
    """Plans that keep what crosses every k-th of the narrowest moments before the fullest one: the borders of blocks, wherever they lie."""
    held = line.held(line.base)
    fullest = max(range(len(held)), key=held.__getitem__)
    early_last: dict[int, int] = {}
    for n in range(fullest + 1):
        for b in line.tasks[n].reads:
            early_last[b] = n
    crossing = [{b for b, last in early_last.items() if line.maker[b] < t <= last} for t in range(fullest + 1)]
    widths = [sum(line.sizes[b] for b in c) for c in crossing]
    borders = [t for t in range(1, fullest) if widths[t] < widths[t - 1] and widths[t] <= widths[t + 1]]
    if not borders:
        return []
    narrow = sorted(widths[t] for t in borders)[len(borders) // 2]
    borders = [t for t in borders if widths[t] <= narrow]
    plans = []
    for k in (1, 2, 3, 4, 6):
        kept = set().union(*(crossing[t] for t in borders[k - 1 :: k]))
        plans.append(expanded(line, kept, fullest))
    return plans


# --- making a plan fit


def repaired(line: Timeline, plan: Sequence[int], target: int) -> list[int] | None:
    """The plan with repeats put in until at most `target` bytes are held; None where none helps any more."""
    *_, last = _repairs(line, plan, target)
    return last if line.peak(last) <= target else None


def _repairs(line: Timeline, plan: Sequence[int], target: int, banned: Container[int] = ()) -> Iterator[list[int]]:
    """The plan, then with one repeat more each time, until at most `target` bytes are held or none helps any more."""
    plan = list(plan)
    yield plan
    smallest = max(line.sizes.values(), default=0) * SMALL
    for _ in range(2 * len(line.tasks)):
        lives = line.lives(plan)
        held = profile(lives, len(plan))
        fullest = max(range(len(held)), key=held.__getitem__)
        if held[fullest] <= target:
            return
        next_use: dict[int, int] = {}
        for t in range(fullest + 1, len(plan)):
            for b in line.tasks[plan[t]].reads:
                next_use.setdefault(b, t)
        now = line.tasks[plan[fullest]].reads
        idle = []
        for b, size, first, last in lives:
            if b < 0 or not first < fullest < last or size < smallest or b in now or b not in next_use:
                continue
            if line.maker[b] in banned:
                continue
            task, reader = line.tasks[line.maker[b]], next_use[b]
            following = next((n for n in plan[reader:] if n > plan[fullest]), plan[reader])
            if task.repeats and max(following, plan[reader]) <= task.until:
                idle.append((task.seconds / size, line.maker[b], reader))
        over = sum(max(0, h - target) for h in held)
        best: tuple[float, list[int]] | None = None
        for _, n, reader in sorted(set(idle))[:CANDIDATES]:
            tried = [*plan[:reader], n, *plan[reader:]]
            after = line.held(tried)
            gain = (over - sum(max(0, h - target) for h in after)) / line.tasks[n].seconds
            if gain > 0 and (best is None or gain > best[0]):
                best = gain, tried
        if best is None:
            return
        plan = best[1]
        yield plan


def polished(line: Timeline, plan: list[int], target: int, bound: float) -> list[int]:
    """The plan after a search: a few repeats that stand together are taken out and must not come back, others are put in until it fits, and what is
    not needed then goes; kept where it costs less."""
    draw = random.Random(0)
    spent, best = 0, line.extra(plan)
    while spent < SEARCH and best - bound > NEAR * line.seconds:
        repeats = _repeats(plan)
        if not repeats:
            break
        first = draw.randrange(len(repeats))
        taken = set(repeats[first : first + draw.randint(1, 4)])
        banned = {plan[t] for t in taken}
        tried = list(plan)
        for tried in _repairs(line, [n for t, n in enumerate(plan) if t not in taken], target, banned):
            spent += CANDIDATES * len(tried)
            if line.extra(tried) >= best:
                break
        if line.extra(tried) < best and line.peak(tried) <= target:
            plan = _pruned(line, tried, target)
            best = line.extra(plan)
        spent += len(plan)
    return plan


def _repeats(plan: Sequence[int]) -> list[int]:
    """The places of a plan's repeats."""
    seen: set[int] = set()
    return [t for t, n in enumerate(plan) if n in seen or seen.add(n)]  # type: ignore[func-returns-value]


def _pruned(line: Timeline, plan: list[int], target: int) -> list[int]:
    """The plan without the repeats that it fits without, the dearest first."""
    changed = True
    while changed:
        changed = False
        dropped: set[int] = set()
        for t in sorted(_repeats(plan), key=lambda t: -line.tasks[plan[t]].seconds):
            tried = [n for k, n in enumerate(plan) if k != t and k not in dropped]
            if line.peak(tried) <= target:
                dropped.add(t)
                changed = True
        plan = [n for k, n in enumerate(plan) if k not in dropped]
    return plan


# --- the bound


def fullest_moments(line: Timeline, room: int) -> list[int]:
    """The fullest task, and the fullest ones of the parts before and after it that hold more than `room`."""
    held = line.held(line.base)
    order = sorted((n for n in range(len(held) - 1) if held[n] > room), key=lambda n: -held[n])
    chosen: list[int] = []
    for n in order:
        if len(chosen) < MOMENTS and all(abs(n - m) > len(held) // 12 for m in chosen):
            chosen.append(n)
    return chosen


def lower_bound(line: Timeline, room: int, moments: Sequence[int]) -> tuple[float, list[tuple[set[int], int]]]:
    """Seconds that any plan under `room` bytes must add, and the sets of buffers kept (with the moment) that the sweep of prices met."""
    best, met = 0.0, []
    for at in moments:
        task = line.tasks[at]
        now = set(task.reads)
        free = room - task.inside - sum(line.sizes[b] for b in (*now, *task.writes))
        low, high, price = 0.0, 0.0, line.seconds / max(line.peak(line.base), 1)
        for _ in range(SWEEP):
            kept, again = _cut(line, at, now, price)
            held = sum(line.sizes[b] for b in kept - now)
            cost = sum(line.tasks[n].seconds for n in again)
            best = max(best, cost + price * (held - free))
            met.append((kept, at))
            if held > free:
                low, price = price, price * 4 if not high else (price * high) ** 0.5
            else:
                high, price = price, (low * price) ** 0.5 if low else price / 4
    return best, met


def _cut(line: Timeline, at: int, now: set[int], price: float) -> tuple[set[int], set[int]]:
    """The buffers held while task `at` runs and the earlier tasks run again after it, at the least seconds + price * bytes."""
    net = Network()
    there: dict[int, int] = {}  # the node of a buffer's being there after `at`
    runs: dict[int, int] = {}
    needed = {b for n in range(at + 1, len(line.tasks)) for b in line.tasks[n].reads if line.maker[b] < at}
    waiting = sorted(needed)
    for b in waiting:
        there[b] = net.node()
        net.edge(there[b], 1, ENDLESS)
    made: dict[int, int] = {}  # the node of a buffer's being made again
    while waiting:
        b = waiting.pop()
        n = line.maker[b]
        task = line.tasks[n]
        made[b] = net.node()
        net.edge(made[b], there[b], 0 if b in now else round(price * line.sizes[b] * TICKS))
        if not (task.repeats and at < task.until):
            net.edge(0, made[b], ENDLESS)
            continue
        if n not in runs:
            runs[n] = net.node()
            net.edge(0, runs[n], max(1, round(task.seconds * TICKS)))
            for source in task.reads:
                if source not in there:
                    there[source] = net.node()
                    waiting.append(source)
                net.edge(there[source], runs[n], ENDLESS)
        net.edge(runs[n], made[b], ENDLESS)
    late = net.sink_side()
    kept = {b for b in there if there[b] in late and made[b] not in late} | now
    return kept, {n for n, node in runs.items() if node in late}
