"""Searches under a budget: what was found is not searched again, and no more is set aside for kernels than those of the plan need."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

import dslc
from dslc import compiler
from dslc.compiler import NEAR, TRIES, compile_anew, fitting
from dslc.core.errors import BudgetError
from dslc.passes import chunk, searched
from dslc.passes.rematerialize import Choice
from dslc.passes.searched import Searched
from dslc.passes.timeline import Task, Timeline

MODEL = """
model M:
    dims    batch=8, time=256
    input   tokens[batch, time]: int32, targets[batch, time]: int32
    h = lstm(embedding(tokens, 512, 32), 32)
    loss    cross_entropy(linear(h, 512), targets)
train:
    optimizer  adamw(lr=1e-3)
    steps      10
"""


def test_no_variant_is_fused_twice(monkeypatch):
    """A second time bytes are set aside for kernels, and scans in segments are tried each with several numbers of turns of chunks."""
    free = compile_anew(dslc.load(MODEL), "step", "cpu")
    ports = sum(p.bytes for p in free.ports)
    made, asked, lowered = [], [], []
    timeline, line, lower = chunk.timeline, Searched.line, compiler.lower
    monkeypatch.setattr(chunk, "timeline", lambda program, turns: made.append(turns) or timeline(program, turns))
    monkeypatch.setattr(Searched, "line", lambda self, scans, turns, make: asked.append((scans, turns)) or line(self, scans, turns, make))
    monkeypatch.setattr(compiler, "lower", lambda *a, **k: lowered.append(1) or lower(*a, **k))
    budget = ports + int(0.25 * free.arena_bytes)
    under = compile_anew(dslc.load(MODEL, memory=f"{budget} B"), "step", "cpu")
    assert under.arena_bytes + ports <= budget and "scans:" in under.notes["memory"]
    assert len(lowered) > 1 and len({scans for scans, _ in asked}) > 3 and len({turns for _, turns in asked}) > 2
    assert len(made) == len(set(asked)) < len(asked)


def chain(*sizes: int) -> Timeline:
    """Tasks that each make a buffer of the one before; the end reads all."""
    tasks = [Task((n - 1,) if n else (), (n,), 0, 0, 1.0, (True,)) for n in range(len(sizes))]
    end = Task(tuple(range(len(sizes))), (), 0, 0, 0.0, (), repeats=False)
    return Timeline((*tasks, end), dict(enumerate(sizes)), dict.fromkeys(range(len(sizes)), ""), {n: n for n in range(len(sizes))}, 0)


def test_less_room_is_answered_by_what_was_found_for_more(monkeypatch):
    line, rooms = chain(10, 20), []
    plans = {100: 60, 80: 50, 40: None, 30: None}

    def choose(line, room):
        rooms.append(room)
        return None if plans[room] is None else Choice([], SimpleNamespace(total=plans[room]), 1.0, 0.5)

    monkeypatch.setattr(searched, "choose", choose)
    found = Searched()
    first = found.choose(line, 100)
    assert found.choose(line, 60) is first and found.choose(chain(10, 20), 70) is first and rooms == [100]
    assert found.choose(line, 40) is None and found.choose(line, 30) is None and rooms == [100, 40]
    assert found.choose(chain(10, 21), 80) is not first and rooms == [100, 40, 80]  # of another program nothing is known


# --- what is set aside


@dataclass(frozen=True)
class Plan:
    """What a program's buffers take, and what its kernels need behind them."""

    planned: int
    needed: int
    ports: tuple = ()

    @property
    def arena_bytes(self) -> int:
        return self.planned + self.needed

    @property
    def made(self) -> tuple[Plan, int]:
        return self, self.needed


def within(budget: int, *plans: Plan) -> Plan:
    """Of plans, the dearest last, the one that `fitting` takes."""

    def made(aside: int) -> Plan:
        found = next((p for p in plans if p.planned + aside <= budget), None)
        if found is None:
            error = BudgetError("too little")
            error.least = min(p.planned for p in plans)
            raise error
        return found.made

    return fitting(budget, made)


def test_what_fits_at_once_is_taken():
    assert within(1000, Plan(900, 100), Plan(500, 0)).planned == 900


@pytest.mark.parametrize("needs", [300, 600, 900])
def test_kernels_of_one_plan_do_not_count_for_another(needs):
    """The first plan's kernels need so much that a plan behind the best one leaves it free; or that none leaves it free."""
    best = within(1000, Plan(950, needs), Plan(900, 90), Plan(650, 60), Plan(380, 20), Plan(200, 20))
    assert best == Plan(900, 90)


def test_what_is_set_aside_grows_until_it_fits():
    assert within(1000, Plan(950, 100), Plan(890, 200), Plan(800, 300), Plan(700, 250), Plan(400, 10)) == Plan(700, 250)


def test_what_kernels_need_is_set_aside_at_once():
    """Not only what a plan was over, which fills what it is given."""
    tries = []

    def made(aside):
        tries.append(aside)
        return Plan(900 - 2 * aside, 200 + aside // 100).made

    assert fitting(1000, made).arena_bytes <= 1000 and tries[:2] == [0, 200] and len(tries) <= 2 + TRIES


def test_what_none_leaves_free_is_an_error():
    with pytest.raises(BudgetError):
        within(1000, Plan(990, 100), Plan(980, 100), Plan(970, 50))


def test_a_little_that_is_left_costs_no_search():
    tries = []

    def made(aside):
        tries.append(aside)
        return (Plan(1000, 100) if aside < 100 else Plan(890, 100)).made

    left = fitting(1000, made)
    assert left == Plan(890, 100) and tries == [0, 100] and 1000 - left.arena_bytes <= 1000 * NEAR
