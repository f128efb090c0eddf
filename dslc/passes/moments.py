"""What a plan holds at some moments of its program, and what it runs again between them: the least of it, as an integer program.

Every plan under a number of bytes obeys it, so its least is a lower bound; with more moments it comes nearer to what plans must really pay. This is
the program of Checkmate (Jain et al. 2020) for a few moments instead of all: h[j, b] is 1 where buffer b is held while the base's task at moment j
runs, r[j, n] where task n runs again between moment j and the next one, and

    read between j and the next        h[j, b] + r[j, maker of b] >= 1
    held at the next                   h[j, b] + r[j, maker of b] >= h[j + 1, b]
    runs again, and reads b            h[j, b] + r[j, maker of b] >= r[j, n]
    bytes                              sum of sizes * h[j] <= room - what the task itself has
    while n runs again, between two neighbouring tasks    sum of sizes * k[j] + r[j, n] * what n has <= room

where k[j, b] is 1 if b is held at both tasks and not made between. `outline` takes out first what costs variables and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

from .timeline import Timeline

Key = tuple[str, int, int]  # ("h", moment, buffer), ("r", moment, task), ("k" or "m", moment, buffer)
INFEASIBLE = 2  # scipy's status
ROUNDING = 1e-6  # of the solver's numbers
THOUSANDS = 1000  # of variables: what work is counted in
NODE = 1 / 60  # of what the root costs, in a program of so many variables: a node, which grows with their square
TINY = 1 / 2000  # of the most that is held: so much all buffers together may have that are left out
UNIT = 1e6  # bytes, so that coefficients are of one order


@dataclass(frozen=True)
class Answer:
    """`bound`: seconds that no plan goes below; `runs`: the tasks that run again after each moment, where such were found; `work`: of
    the root, as many thousands as there are variables, and of the nodes of the search tree."""

    bound: float
    runs: list[set[int]] | None
    work: float


def outline(line: Timeline) -> Timeline:
    """The timeline with fewer buffers: those of one task with the same readers are one, and the smallest, such as the statistics of a norm, are as
    good as always there. What holds for every plan of this one does so for every plan of the line, and tasks have the same numbers."""
    readers: dict[int, list[int]] = {b: [] for b in line.sizes}
    for n, task in enumerate(line.tasks):
        for b in task.reads:
            readers[b].append(n)
    left, sizes, into = line.peak(line.base) * TINY, dict[int, int](), dict[int, int]()
    first: dict[tuple[int, ...], int] = {}
    for b in sorted(line.sizes, key=line.sizes.__getitem__):
        left -= line.sizes[b]
        if left < 0:
            into[b] = first.setdefault((line.maker[b], *readers[b]), b)
            sizes[into[b]] = sizes.get(into[b], 0) + line.sizes[b]

    def kept(buffers: Sequence[int]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(into[b] for b in buffers if b in into))

    tasks = tuple(replace(task, reads=kept(task.reads), writes=kept(task.writes)) for task in line.tasks)
    return replace(line, tasks=tasks, sizes=sizes, maker={b: line.maker[b] for b in sizes})


def solve(
    line: Timeline,
    room: int,
    moments: Sequence[int],
    repeats: Mapping[tuple[int, int], bool],
    near: float = 0.0,
    work: float = inf,
    known: float = 0.0,
) -> Answer | None:
    """The least for moments in order. `repeats`: (the base's next task, a task that runs again before it), whose bytes count as well; both neighbours
    are moments. True: repeats at one place run in the program's order there; the bound is one of such plans alone then. `near`: how far an answer may
    be above the least, as a share of it. `work`: how much the search may take; where that is less than its root, nothing is found. `known`: seconds
    that none is below, as is known from elsewhere: a search that comes near to them ends. None: no plan is under `room` bytes."""
    return _Program(line, room, list(moments)).solved(repeats, near, work, known)


@dataclass
class _Program:
    line: Timeline
    room: int
    moments: list[int]
    columns: dict[Key, int] = field(default_factory=dict)
    costs: list[float] = field(default_factory=list)
    rows: list[tuple[dict[int, float], float, float]] = field(default_factory=list)  # (coefficients, least, most)
    new: list[Key] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.now = [{*self.line.tasks[at].reads, *self.line.tasks[at].writes} for at in self.moments]

    def solved(self, repeats: Mapping[tuple[int, int], bool], near: float, work: float, known: float) -> Answer | None:
        for j, at in enumerate(self.moments):
            end = self.moments[j + 1] if j + 1 < len(self.moments) else len(self.line.tasks) - 1
            for b in sorted({b for n in range(at + 1, end + 1) for b in self.line.tasks[n].reads}):
                self._needed(j, b, {}, 1)
        self._settle()
        for (reader, n), in_order in repeats.items():
            self._repeat(self.moments.index(reader - 1), n, in_order)
            self._settle()
        held: list[dict[int, float]] = [{} for _ in self.moments]
        for (kind, j, b), c in self.columns.items():
            if kind == "h":
                held[j][c] = self.line.sizes[b] / UNIT
        for j, terms in enumerate(held):
            task = self.line.tasks[self.moments[j]]
            self.rows.append((terms, -inf, (self.room - task.inside - sum(self.line.sizes[b] for b in self.now[j])) / UNIT))
        return self._searched(near, work, known)

    # --- variables and rows

    def _column(self, kind: str, j: int, which: int) -> int:
        key = (kind, j, which)
        if key not in self.columns:
            self.columns[key] = len(self.costs)
            self.costs.append(self.line.tasks[which].seconds if kind == "r" else 0.0)
            self.new.append(key)
        return self.columns[key]

    def _settle(self) -> None:
        """Rows for what new variables need."""
        while self.new:
            kind, j, which = key = self.new.pop()
            reads = self.line.tasks[which].reads if kind == "r" else (which,) if kind == "h" and j else ()
            for b in reads:
                self._needed(j if kind == "r" else j - 1, b, {self.columns[key]: -1.0}, 0)

    def _needed(self, j: int, b: int, by: dict[int, float], low: float) -> None:
        """A row: the buffer is held at a moment, or made again after it."""
        if self.line.maker[b] < self.moments[j] and b not in self.now[j]:
            self.rows.append(({**by, self._column("h", j, b): 1.0, **self._again(j, b)}, low, inf))

    def _again(self, j: int, b: int) -> dict[int, float]:
        task = self.line.tasks[self.line.maker[b]]
        return {self._column("r", j, self.line.maker[b]): 1.0} if task.repeats and self.moments[j] < task.until else {}

    def _repeat(self, j: int, n: int, in_order: bool) -> None:
        """A row of the bytes while task n runs again between two tasks of the base; `in_order`: what tasks before n make there is there by then."""
        task, after = self.line.tasks[n], self.moments[j + 1]
        own = {*task.reads, *task.writes}
        sizes = {self._column("r", j, n): (task.inside + task.aside + sum(self.line.sizes[b] for b in own)) / UNIT}
        needed = {b for b in self.line.tasks[after].reads if self.line.maker[b] < after}
        later = {b for kind, at, b in self.columns if kind == "h" and at == j + 1}
        for b in sorted((needed | later) - own):
            made = in_order and self.line.maker[b] < n
            ends = [] if b in needed else [self.columns["h", j + 1, b]]
            if b not in self.now[j] and not made:
                ends.append(self._column("h", j, b))
            kept = self._column("m" if made else "k", j, b)
            self.rows.append(({kept: 1.0, **dict.fromkeys(ends, -1.0), **({} if made else self._again(j, b))}, 1 - len(ends), inf))
            sizes[kept] = self.line.sizes[b] / UNIT
        self.rows.append((sizes, -inf, self.room / UNIT))

    # --- the search

    def _searched(self, near: float, work: float, known: float) -> Answer | None:
        import numpy as np
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array

        if not self.costs:
            return Answer(0.0, [set() for _ in self.moments], 0) if all(high >= 0 for _, _, high in self.rows) else None
        root = len(self.costs) / THOUSANDS
        node = NODE * root**2
        if work < root:
            return Answer(0.0, None, work)
        scale = max(self.line.seconds, 1e-12) / 100
        if known:
            self.rows.append(({c: cost / scale for c, cost in enumerate(self.costs) if cost}, known * (1 - ROUNDING) / scale, inf))
        ends = np.cumsum([0, *(len(terms) for terms, _, _ in self.rows)])
        entries = [e for terms, _, _ in self.rows for e in terms.items()]
        matrix = csr_array(([f for _, f in entries], [c for c, _ in entries], ends), shape=(len(self.rows), len(self.costs)))
        whole = np.array([kind in "hr" for kind, _, _ in self.columns], int)
        options: dict[str, Any] = {"node_limit": int(min(1 + (work - root) / node, 1e9)), "mip_rel_gap": near}
        found = milp(
            np.array(self.costs) / scale, integrality=whole, bounds=Bounds(0, 1), options=options,
            constraints=LinearConstraint(matrix, [low for _, low, _ in self.rows], [high for _, _, high in self.rows]),
        )  # fmt: skip
        if found.status == INFEASIBLE:
            return None
        bound = max(0.0, found.mip_dual_bound or 0.0) * (1 - ROUNDING) * scale
        spent = root + node * max(0, (found.mip_node_count or 1) - 1)
        if found.x is None:
            return Answer(bound, None, spent)
        runs: list[set[int]] = [set() for _ in self.moments]
        for (kind, j, n), value in zip(self.columns, found.x):
            if kind == "r" and value > 0.5:
                runs[j].add(n)
        return Answer(bound, runs, spent)
