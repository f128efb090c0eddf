"""scan_schedules: under a budget of bytes, which scans keep what of their turns, chosen together with what else is computed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from math import comb, inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dslc.ir.mlir import ir
from dslc.ir.program import program_of
from dslc.ir.types import spans_of

from .rematerialize import Choice, lower_bound
from .scans import emits_of
from .searched import Searched
from .segments import Levels, Pair, Schedule, pairs_of, segment
from .timeline import Timeline

if TYPE_CHECKING:
    from .chunk import Chunk

NOTE = "nn.scans"  # the module's attribute with what reports tell of scans in segments
KEPT_ALL = "nn.kept_all"  # and with the seconds of the program without segments, and the least that any plan of the tried schedules takes
FRUGAL = 4  # schedules that are tried where the last one is too much
GRID = 1.1  # between the sizes that are looked at
SWEEPS = 1  # over the scans, each trying what lies beside its schedule
MOST_PAIRS = 8  # that have a schedule each; of more all have alike ones


@dataclass(frozen=True)
class ScanSchedules:
    """Puts pairs of scans into segments (`segments`) where the program does not fit without, or fits at a greater cost. Each choice of schedules is
    a program of its own, which is fused (after the passes `then`, in as many turns of chunks as `chunk` finds cheapest) and planned like any: the one
    that takes the least time with its repeats stays. A schedule is a nest of segments of equal lengths but for the last: of all such nests with so
    many starts and so many turns kept, the one with the fewest turns made again. Where nothing fits, the one that needs the fewest bytes stays.
    """

    chunk: Chunk
    then: tuple[Any, ...] = ()

    def run(self, module: ir.Module) -> None:
        pairs = pairs_of(program_of(module).entry_block)
        if not pairs:
            return
        search = _Search(self, module, [menu(p) for p in pairs])
        best = search.best()
        base = self.chunk.searched.fastest((0,) * len(pairs))
        bound = min(t.bound for t in search.tried.values())
        module.operation.attributes[KEPT_ALL] = ir.DenseF64ArrayAttr.get([base, bound])
        told = [_told(p, menu[n - 1]) for p, menu, n in zip(pairs, search.menus, best) if n]
        if told:
            module.operation.attributes[NOTE] = ir.StringAttr.get("; ".join(told))
        _apply(module, search.menus, best)
        self.chunk.searched.scans = best


def _apply(module: Any, menus: Sequence[Sequence[Schedule]], numbers: Sequence[int]) -> None:
    for pair, schedules, n in zip(pairs_of(program_of(module).entry_block), menus, numbers):
        if n:
            segment(pair, schedules[n - 1])


@dataclass(frozen=True)
class _Tried:
    """The program under some schedules: its plan where one fits, and seconds that no plan of it stays below."""

    line: Timeline
    choice: Choice | None
    bound: float

    @property
    def seconds(self) -> float:
        return inf if self.choice is None else self.line.seconds + self.choice.extra


@dataclass
class _Search:
    """Over numbers, one for each pair: 0 keeps everything, n is the n-th schedule of its menu."""

    options: ScanSchedules
    module: ir.Module
    menus: list[list[Schedule]]
    tried: dict[tuple[int, ...], _Tried] = field(default_factory=dict)

    def best(self) -> tuple[int, ...]:
        everything = (0,) * len(self.menus)
        first = self.attempt(everything)
        if first.choice is not None and first.choice.extra == 0:
            return everything
        longest = max(map(len, self.menus))
        alike = [tuple(-(-n * len(m) // longest) for m in self.menus) for n in range(1, 1 + longest)]
        self.bisect(alike)
        best = min(self.tried, key=lambda n: self.tried[n].seconds)
        if self.tried[best].choice is None:
            return min(self.tried, key=lambda n: self.searched.least(self.tried[n].line)[1].total + self.tried[n].line.slots)
        for _ in range(SWEEPS if 1 < len(self.menus) <= MOST_PAIRS else 0):
            for k, m in enumerate(self.menus):
                for n in {0, best[k] - 1, best[k] + 1} & set(range(len(m) + 1)):
                    self.attempt((*best[:k], n, *best[k + 1 :]))
                best = min(self.tried, key=lambda n: self.tried[n].seconds)
        return best

    def bisect(self, ways: Sequence[tuple[int, ...]]) -> None:
        """Tries the last of these ways, which holds the fewest bytes, and then looks for the first that needs no more repeats than it."""
        last = self.attempt(ways[-1]).choice
        if last is None:  # neither fits what others need, but one of them may
            for way in ways[-FRUGAL:]:
                self.attempt(way)
            return
        low, high = -1, len(ways) - 1
        while high - low > 1:
            middle = (low + high) // 2
            choice = self.attempt(ways[middle]).choice
            low, high = (low, middle) if choice is not None and choice.extra <= last.extra else (middle, high)

    @property
    def searched(self) -> Searched:
        return self.options.chunk.searched

    def attempt(self, numbers: tuple[int, ...]) -> _Tried:
        if numbers not in self.tried:
            copy = cache(lambda: self.copy(numbers))  # made only where something of it is not known
            _, line, choice = self.options.chunk.planned(numbers, lambda: program_of(copy()))
            if copy.cache_info().currsize:
                copy().operation.erase()
            assert self.options.chunk.budget is not None
            room = self.options.chunk.budget - self.options.chunk.aside - line.slots
            bound = choice.bound if choice is not None else lower_bound(line, room)
            self.tried[numbers] = _Tried(line, choice, line.seconds + bound)
        return self.tried[numbers]

    def copy(self, numbers: tuple[int, ...]) -> ir.Module:
        """The module with these schedules."""
        copy = self.module.operation.clone().opview
        _apply(copy, self.menus, numbers)
        for one in self.options.then:
            one.run(copy)
        return copy


def _told(pair: Pair, schedule: Schedule) -> str:
    spans = spans_of(pair.out.location)
    where = f"{Path(spans[-1].file).name}:{spans[-1].line}: " if spans else ""
    unit = "blocks of turns" if any(n for _, n in emits_of(pair.out)) else "turns"
    inside = ", each in segments of ".join(map(str, schedule.levels))
    rest = f", but for the last {schedule.stored}" if schedule.stored else ""
    return f"{where}{pair.turns} {unit} in segments of {inside}{rest}; {schedule.recomputed(pair.turns, pair.out.backward)} are made again"


# --- schedules


def menu(pair: Pair) -> list[Schedule]:
    """Schedules of a pair from the one with the fewest turns made again on, each with fewer bytes held and more turns. As many turns are stored as
    those of a segment that are there at once; the last one stores none, as what is held between the two ways may be the most."""
    found: dict[Schedule, tuple[int, int]] = {}
    for unit in _grid(pair.turns - 1):
        for starts in _grid(-(-pair.turns // unit)):
            left = pair.turns - unit
            levels = (left,) if left <= unit else nest(left, starts, unit)
            if levels:
                schedule = Schedule(levels, unit)
                some, turns = schedule.held(pair.turns)
                found[schedule] = (some * pair.carried_bytes + turns * pair.kept_bytes, schedule.recomputed(pair.turns, pair.out.backward))
    best: list[Schedule] = []
    for one in sorted(found, key=lambda m: found[m][::-1]):
        if not best or found[one][0] < found[best[-1]][0]:
            best.append(one)
    frugal = nest(pair.turns, best[-1].held(pair.turns)[0] + 1, best[-1].stored)
    return [*best, *([Schedule(frugal)] if frugal else [])]


def _grid(most: int) -> list[int]:
    """Numbers from 1 to `most`, ever farther apart."""
    out, at = [], 1.0
    while round(at) < most:
        out.append(round(at))
        at = max(at * GRID, at + 1)
    return [*out, most]


@lru_cache(maxsize=1 << 16)
def nest(turns: int, starts: int, unit: int) -> Levels:
    """The nest of segments with the fewest turns made again of those that hold at most `starts` starts and keep all of at most `unit` turns at once;
    none where that is too few."""
    best: Levels = ()
    fewest = 0
    for q in range(2, starts + 1):
        length = -(-turns // q)
        taken = -(-turns // length)
        inner: Levels = () if length <= unit else nest(length, starts - taken, unit)
        if length < turns and taken <= starts and (length <= unit or inner):
            levels = (length, *inner)
            again = Schedule(levels).recomputed(turns)
            if not best or again < fewest:
                best, fewest = levels, again
    return best


def binomial(steps: int, starts: int) -> int:
    """Steps that are made again by the best schedule there is with `starts` snapshots at a time, where the last step is taken back at once:
    r * steps - C(starts + r, r - 1) for the least r with C(starts + r, r) >= steps (Griewank and Walther 2000, algorithm 799)."""
    r = 0
    while comb(starts + r, r) < steps:
        r += 1
    return r * steps - comb(starts + r, r - 1) if r else 0


__all__ = ["ScanSchedules", "binomial", "menu", "nest"]
