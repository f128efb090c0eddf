"""A program as its plan sees it: tasks in order, the buffers that each reads and writes, what each costs; and what any order with repeats holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import inf
from typing import Any

from dslc.ir import ops
from dslc.ir.bodies import work_of
from dslc.ir.mlir import func, ir
from dslc.ir.program import results_of
from dslc.ir.trace import Body

from .packing import Interval, max_live
from .plan import ALIGNMENT, Planner

# What a kernel's time is reckoned by: only ratios of these matter for what is computed again.
FLOPS_A_SECOND, BYTES_A_SECOND, LAUNCH_SECONDS = 1.5e11, 2.5e10, 3e-6


@dataclass(frozen=True)
class Task:
    """One kernel, scan or cond; the last one of a timeline is the end of the program. `reads` and `writes` are buffers of the arena.

    `inside`: bytes that it needs while it runs; `aside`: bytes of its results that have a slot of their own, which a repeat puts into the arena.
    `placed`: which results lie in the arena; `until`: the first task that overwrites what it reads; a repeat must stand before that one.
    """

    reads: tuple[int, ...]
    writes: tuple[int, ...]
    inside: int
    aside: int
    seconds: float
    placed: tuple[bool, ...]
    until: float = inf
    repeats: bool = True


@dataclass(frozen=True)
class Timeline:
    """Tasks in the program's order. `sizes`, `origins` and `maker`: bytes, `file:line` and the task of each buffer. `slots`: bytes of all ports.

    A plan is a sequence of task numbers: each once, in order, and repeats of any of them after its first run. Readers see the latest run's values.
    """

    tasks: tuple[Task, ...]
    sizes: dict[int, int]
    origins: dict[int, str]
    maker: dict[int, int]
    slots: int

    @staticmethod
    def of(program: func.FuncOp) -> Timeline:
        planner = Planner(program)
        ports, places = planner.place_arguments()
        results = results_of(program)
        planner.place_results(results, places)
        kept = {places.of(s) for s, _ in results if s.role in ("param", "state")}
        tasks: list[Task] = []
        read_slots: list[set[int]] = []
        overwritten: dict[int, int] = {}
        maker: dict[int, int] = {}
        pieced: set[int] = set()
        for op in list(program.entry_block.operations)[:-1]:
            before = len(planner.buffers)
            planner.steps_of(op, 0)
            made = _buffers(planner, op.results)
            writes = tuple(b for b in made if b not in maker)
            pieced |= set(made) & maker.keys()  # what tasks before it have begun
            maker.update(dict.fromkeys(writes, len(tasks)))
            slots = {planner.homes[r].slot for r in op.results} - {None}
            for slot in slots & kept:
                overwritten.setdefault(slot, len(tasks))  # type: ignore[arg-type]
            read_slots.append({s for v in op.operands if (s := planner.homes[v].slot) is not None})
            aside = sum(_rounded(p.bytes) for p in ports if p.slot in slots)
            inner = _live_inside(planner, range(before, len(planner.buffers)), writes)
            placed = tuple(planner.homes[r].buffer is not None for r in op.results)
            reads = tuple(dict.fromkeys((*_buffers(planner, op.operands), *(b for b in made if b not in writes))))
            tasks.append(Task(reads, writes, inner, aside, _seconds(op), placed, repeats=not slots & kept and writes == made))
        before = len(planner.buffers)
        planner.final_copies(results, places)
        inner = _live_inside(planner, range(before, len(planner.buffers)), ())
        end = Task(_buffers(planner, [v for _, v in results]), (), inner, 0, 0.0, (), repeats=False)
        untils = [min((overwritten[s] for s in read if s in overwritten), default=inf) for read in read_slots]
        timed = [replace(t, until=u, repeats=t.repeats and pieced.isdisjoint(t.writes)) for t, u in zip(tasks, untils)]
        sizes = {b: planner.buffers[b].bytes for b in maker}
        origins = {b: planner.buffers[b].origin for b in maker}
        return Timeline((*timed, end), sizes, origins, maker, sum(p.bytes for p in ports))

    @property
    def base(self) -> list[int]:
        """The plan without repeats."""
        return list(range(len(self.tasks)))

    def lives(self, plan: Sequence[int]) -> list[tuple[int, int, int, int]]:
        """(buffer, bytes, first, last) of all that a plan puts into the arena, times being positions in it; buffer -1 lives inside a task."""
        latest: dict[int, int] = {}
        seen: set[int] = set()
        out: list[tuple[int, int, int]] = []
        last: list[int] = []
        for t, n in enumerate(plan):
            task = self.tasks[n]
            for b in task.reads:
                last[latest[b]] = t
            for b in task.writes:
                latest[b] = len(out)
                out.append((b, self.sizes[b], t))
                last.append(t)
            own = task.inside + (task.aside if n in seen else 0)
            if own:
                out.append((-1, own, t))
                last.append(t)
            seen.add(n)
        return [(b, size, first, end) for (b, size, first), end in zip(out, last)]

    def held(self, plan: Sequence[int]) -> list[int]:
        """The bytes in the arena during each task of a plan: the profile of its `lives`, without these."""
        change = [0] * (len(plan) + 1)
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        done = 0
        for t, n in enumerate(plan):
            task = self.tasks[n]
            for b in task.reads:
                last[b] = t
            for b in task.writes:
                if b in first:
                    change[first[b]] += self.sizes[b]
                    change[last[b] + 1] -= self.sizes[b]
                first[b] = last[b] = t
            own = task.inside + (task.aside if n < done else 0)
            if own:
                change[t] += own
                change[t + 1] -= own
            done = max(done, n + 1)
        for b, begin in first.items():
            change[begin] += self.sizes[b]
            change[last[b] + 1] -= self.sizes[b]
        return list(accumulate(change[:-1]))

    def peak(self, plan: Sequence[int]) -> int:
        return max(self.held(plan))

    def extra(self, plan: Sequence[int]) -> float:
        """Seconds of a plan's repeats."""
        return sum(self.tasks[n].seconds for n in plan) - self.seconds

    @property
    def seconds(self) -> float:
        return sum(t.seconds for t in self.tasks)

    def intervals(self, plan: Sequence[int]) -> list[Interval]:
        return [Interval(size, first, last) for _, size, first, last in self.lives(plan)]


def profile(lives: Sequence[tuple[int, int, int, int]], length: int) -> list[int]:
    """The bytes that live at each of `length` times."""
    change = [0] * (length + 1)
    for _, size, first, last in lives:
        change[first] += size
        change[last + 1] -= size
    out, live = [], 0
    for c in change[:-1]:
        live += c
        out.append(live)
    return out


def _buffers(planner: Planner, values: Sequence[ir.Value]) -> tuple[int, ...]:
    """The arena's buffers among the homes of values."""
    return tuple(dict.fromkeys(b for v in values if (b := planner.homes[v].buffer) is not None))


def _live_inside(planner: Planner, made: range, results: Sequence[int]) -> int:
    return max_live([Interval(b.bytes, b.first, b.last) for k in made if k not in results for b in [planner.buffers[k]]])


def _rounded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _seconds(op: Any) -> float:
    """A kernel's time by its work; of a scan all its turns, of a cond both branches."""
    if isinstance(op, ops.Kernel):
        flops, moved = work_of(Body.of(op.regions[0].blocks[0]))
        return max(flops / FLOPS_A_SECOND, moved / BYTES_A_SECOND) + LAUNCH_SECONDS
    turns = op.trip if isinstance(op, ops.Scan) else 1
    return turns * sum(_seconds(inner) for region in op.regions for inner in list(region.blocks[0].operations)[:-1])
