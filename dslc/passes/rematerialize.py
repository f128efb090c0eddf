"""Which tasks of a timeline run again, and where, so that the arena stays under a number of bytes in little extra time.

Any plan that is the program's order with repeats put in is right, as a reader sees the latest run. What is held at the fullest moments and runs again
between them is an integer program (`moments`): its answer is put in, and where that holds too much somewhere, the integer program looks there too.
Its least is the lower bound. Each answer is also repaired until it fits (repeats before the next use of what lies idle at the fullest moment), and
repeats that are not needed are taken out. Where that finds nothing, other plans are repaired: the program itself, the kept sets of least cuts under a
sweep of prices for a held byte, and segments between the narrowest moments. What is far from the bound is annealed (`annealing`), and so is the
program itself then. Where packing needs more, all is done again for fewer bytes, from the plans that were met.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from math import inf

from .annealing import annealed, repeats_of
from .mincut import ENDLESS, Network
from .moments import outline, solve
from .packing import Packing, pack
from .timeline import Timeline, profile

CANDIDATES = 8  # values that are tried at each fullest moment
SMALL = 1 / 500  # of the most that is held: what is smaller is not computed again on its own
MOMENTS = 3  # that are looked at first
GROWTH = 4  # places more that are looked at each time
APART = 3  # tasks between them
ROUNDS = 12  # of looking at more
WORK = 6.0  # of all integer programs together, as they count it
MOST, FIRST = 3.2, 15.0  # of one; of the first one, without which there is no bound
NEAR = 1 / 1000  # of the program's time: how far an answer may be above the least
ROUGH = 1 / 400  # and where more is looked at than the first time
LOOSE = 0.3  # of the least: an answer is never farther above it
LESS, MUCH_LESS = 200, 80  # of the room: such parts of it each next target is smaller by, at least and at most
ATTEMPTS = 5  # at a plan whose buffers, packed, fit too
PACKED = 2  # of these are packed
HALVINGS = 4  # of what lies between the smallest arena and what a single task needs, to find a smaller one
CUTS = 2  # of the least cuts, those that hold fewest bytes: from these too the smallest arena is looked for
BELOW = (1.0, 0.96)  # of the target: what a plan that is repaired to less holds too much is then taken out again
GOOD = 1 / 700  # of the program's time: a plan so near to the bound is taken at once
ENOUGH = 1 / 200  # one that also fits when packed, so near, is not looked for again at a smaller target
SHORT, LONG = 600_000, 1_200_000  # positions of plans that are looked at to better one that is not; and one that is not even that near
SEEDS = 300_000  # and to make one fit where the integer program gave none
DEARER = 1.2  # times the best plan that fits: what costs so much is repaired no further
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
    bound = 0.0
    best: Choice | None = None
    target, looked = room, _Looked(outline(line), set(fullest_moments(line, room)))
    met: list[list[int]] = []  # the cheapest plans of the attempt before
    for _ in range(ATTEMPTS):  # each at a smaller target, so that what is left over when packed finds room
        plans, least_extra = looked.plans(line, target)
        bound = least_extra if target == room else bound
        if looked.hopeless and target == room:
            return None
        plans = sorted([*plans, *(again for plan in met for again in fitted(line, plan, target))], key=line.extra)
        if not plans:
            plans = _from_seeds(line, target)
        if plans and not _near(line, plans, bound, GOOD):
            near = _near(line, plans, bound, ENOUGH)
            starts = plans[:1] if near else _distinct([plans[0], met[0] if met else line.base])
            better = [plan for start in starts for plan in annealed(line, start, target, bound, SHORT if near else LONG)]
            plans = sorted([*(_pruned(line, plan, target) for plan in better), *plans], key=line.extra)
        met = plans[:PACKED] or met
        over = 0
        for plan in _distinct(plans)[:PACKED]:
            if best is not None and line.extra(plan) >= best.extra:
                break
            packing = pack(line.intervals(plan), room)
            if packing.total <= room:
                best = Choice(plan, packing, line.extra(plan), bound)
                break
            over = min(over or room, packing.total - room)
        if not over or (best is not None and _near(line, [best.plan], bound, ENOUGH)):
            break
        target -= min(max(over, room // LESS), room // MUCH_LESS)
    if best is None:
        plan, packing = least(line)
        return Choice(plan, packing, line.extra(plan), bound) if packing.total <= room else None
    if not _near(line, [best.plan], bound, ENOUGH):  # by all that was looked at since
        answer = solve(looked.outline, room, sorted(looked.moments), dict.fromkeys(looked.repeats, False), NEAR, min(looked.work, MOST))
        best = replace(best, bound=max(bound, answer.bound if answer else 0.0))
    return best


@dataclass
class _Looked:
    """What the integer program looks at. It grows where plans hold too much: a moment of the base, or a repeat with the two tasks it stands between;
    one that is looked at already runs in order from then on, and a bound is no longer one of all plans."""

    outline: Timeline
    moments: set[int]
    work: float = WORK
    good: float = GOOD  # of the program's time: a plan so near to the bound is enough
    near: float = NEAR  # how far an answer may be above the least, as a share of it
    repeats: dict[tuple[int, int], bool] = field(default_factory=dict)
    hopeless: bool = False  # no plan at all holds so little as was asked for last

    def plans(self, line: Timeline, target: int) -> tuple[list[list[int]], float]:
        """(plans that hold at most `target`, the cheapest first; seconds that none goes below)"""
        bound = 0.0
        fitting: list[list[int]] = []
        for _ in range(ROUNDS):
            order = sorted(self.moments)
            most = FIRST if self.work == WORK else min(self.work, MOST)
            answer = solve(self.outline, target, order, self.repeats, self.near, most, bound) if self.work > 0 else None
            if answer is None:
                self.hopeless = self.work > 0 and not any(self.repeats.values())
                break
            self.work -= answer.work
            if not any(self.repeats.values()):
                bound = max(bound, answer.bound)
            self.near = min(LOOSE, max(self.near, ROUGH * line.seconds / max(bound, 1e-12)))
            if answer.runs is None:
                break
            plan = put_in(line, order, answer.runs)
            fitting += fitted(line, plan, target)
            if _near(line, fitting, bound, self.good) or not self._grow(line, plan, target):
                break
        return sorted(fitting, key=line.extra), bound

    def _grow(self, line: Timeline, plan: Sequence[int], target: int) -> bool:
        """Whether anything new is looked at."""
        held = line.held(plan)
        following = [0] * len(plan)
        after = len(line.tasks)
        for t in range(len(plan) - 1, -1, -1):
            if plan[t] == after - 1:
                after -= 1
            following[t] = after
        new: list[int] = []
        for t in sorted((t for t, h in enumerate(held) if h > target), key=lambda t: -held[t]):
            n, at = plan[t], following[t]
            if n == at:
                if n in self.moments or any(abs(n - m) <= APART for m in new):
                    continue
                self.moments.add(n)
            elif self.repeats.get((at, n)):
                continue
            else:
                self.repeats[at, n] = (at, n) in self.repeats
                self.moments |= {at - 1, at}
            new.append(at)
            if len(new) == GROWTH:
                break
        return bool(new)


def _near(line: Timeline, plans: Iterable[list[int]], bound: float, good: float) -> bool:
    """Whether one is so near to the bound, as a share of the program's time."""
    return any(line.extra(p) - bound <= good * line.seconds for p in plans)


def put_in(line: Timeline, moments: Sequence[int], runs: Sequence[set[int]]) -> list[int]:
    """The program with, after each moment, repeats of these tasks: where they are first read, at the latest before the next moment."""
    waiting: set[int] = set()
    plan: list[int] = []
    chosen = dict(zip(moments, runs))
    for n, task in enumerate(line.tasks):
        stack = [m for m in waiting if n in chosen or line.tasks[m].until == n] + [line.maker[b] for b in task.reads]
        due: set[int] = set()
        while stack:
            m = stack.pop()
            if m in waiting and m not in due:
                due.add(m)
                stack += [line.maker[b] for b in line.tasks[m].reads]
        plan += [*sorted(due), n]
        waiting = chosen[n] if n in chosen else waiting - due
    return plan


def fitted(line: Timeline, plan: Sequence[int], target: int) -> list[list[int]]:
    """The plan made to hold at most `target`, in different ways, without the repeats that it does not need."""
    found = [repaired(line, plan, int(target * less)) for less in BELOW]
    return [_pruned(line, p, target) for p in found if p is not None]


def _from_seeds(line: Timeline, target: int) -> list[list[int]]:
    """Plans that hold at most `target`, the cheapest first, from those that need no integer program; the nearest to it are repaired first."""
    seeds = [line.base, *segmented(line), *(expanded(line, kept, at) for kept, at in kept_sets(line, target))]
    fitting: list[list[int]] = []
    spent, enough = 0, inf
    for seed in sorted(_distinct(seeds), key=line.peak):
        for less in BELOW:
            tried = seed
            for tried in _repairs(line, seed, int(target * less)):
                spent += CANDIDATES * len(tried)
                if line.extra(tried) > enough or (spent > SEEDS and fitting):
                    break
            if line.peak(tried) <= target:
                fitting.append(_pruned(line, tried, target))
                enough = min(enough, DEARER * line.extra(fitting[-1]))
    return sorted(fitting, key=line.extra)


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
    cuts = [expanded(line, kept, at) for kept, at in kept_sets(line, floor)]
    for seed in _distinct([line.base, *segmented(line), *sorted(cuts, key=line.peak)[:CUTS]]):
        plan = min(_repairs(line, seed, floor), key=line.peak)
        plan = _pruned(line, plan, line.peak(plan))
        if line.peak(plan) < packing.total and (packed := pack(line.intervals(plan))).total < packing.total:
            best, packing = plan, packed
    low, seen = floor, outline(line)
    for _ in range(HALVINGS):
        room = (low + packing.total) // 2
        plans, _ = _Looked(seen, set(fullest_moments(line, room)), WORK / HALVINGS, good=inf, near=LOOSE).plans(line, room)
        packed_plans = [(p, pack(line.intervals(p), room)) for p in plans]
        fitting = [(p, made) for p, made in packed_plans if made.total < packing.total]
        if fitting:
            best, packing = min(fitting, key=lambda one: one[1].total)
        else:
            low = room
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


def _repairs(line: Timeline, plan: Sequence[int], target: int) -> Iterator[list[int]]:
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
        turn = [0, *accumulate((n + 1 for n in plan), max)]  # the task whose turn it is at a place of the plan
        now = line.tasks[plan[fullest]].reads
        idle = []
        for b, size, first, last in lives:
            if b < 0 or not first < fullest < last or size < smallest or b in now or b not in next_use:
                continue
            task, reader = line.tasks[line.maker[b]], next_use[b]
            if task.repeats and turn[reader] <= task.until:
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


def _pruned(line: Timeline, plan: list[int], target: int) -> list[int]:
    """The plan without the repeats that it fits without, the dearest first."""
    changed = True
    while changed:
        changed = False
        dropped: set[int] = set()
        for t in sorted(repeats_of(plan), key=lambda t: -line.tasks[plan[t]].seconds):
            tried = [n for k, n in enumerate(plan) if k != t and k not in dropped]
            if line.peak(tried) <= target:
                dropped.add(t)
                changed = True
        plan = [n for k, n in enumerate(plan) if k not in dropped]
    return plan


# --- least cuts


def fullest_moments(line: Timeline, room: int) -> list[int]:
    """The fullest task, and the fullest ones of the parts before and after it that hold more than `room`."""
    held = line.held(line.base)
    order = sorted((n for n in range(len(held) - 1) if held[n] > room), key=lambda n: -held[n])
    chosen: list[int] = []
    for n in order:
        if len(chosen) < MOMENTS and all(abs(n - m) > len(held) // 12 for m in chosen):
            chosen.append(n)
    return chosen


def lower_bound(line: Timeline, room: int) -> float:
    """Seconds that any plan under `room` bytes must add, by what the fullest moments hold; infinite where there is none."""
    answer = solve(outline(line), room, sorted(fullest_moments(line, room)), {}, NEAR, MOST)
    return inf if answer is None else answer.bound


def kept_sets(line: Timeline, room: int) -> list[tuple[set[int], int]]:
    """The sets of buffers kept, with their moment, that a sweep of prices of a held byte meets where it comes near to `room`."""
    met = []
    for at in fullest_moments(line, room):
        task = line.tasks[at]
        now = set(task.reads)
        free = room - task.inside - sum(line.sizes[b] for b in (*now, *task.writes))
        low, high, price = 0.0, 0.0, line.seconds / max(line.peak(line.base), 1)
        for _ in range(SWEEP):
            kept = _cut(line, at, now, price)
            met.append((kept, at))
            if sum(line.sizes[b] for b in kept - now) > free:
                low, price = price, price * 4 if not high else (price * high) ** 0.5
            else:
                high, price = price, (low * price) ** 0.5 if low else price / 4
    return met


def _cut(line: Timeline, at: int, now: set[int], price: float) -> set[int]:
    """The buffers held while task `at` runs, where earlier tasks run again after it at the least seconds + price * bytes."""
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
    return {b for b in there if there[b] in late and made[b] not in late} | now
