"""moments: the least that an integer program over a few moments tells is known by hand, or by all plans, and never above what a plan pays."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dslc.passes.moments import outline, solve
from dslc.passes.timeline import Task, Timeline
from tests.passes.test_checkpoint import branching, chain, cheapest

MB = 10**6  # the solver's numbers are rounded, about as much as a byte beside this


def program(*tasks, **sizes):
    """Task n writes buffer n; (reads, seconds) or a Task. Every buffer has 10 MB unless `b3=...` says otherwise; the end reads the last one."""
    made = [t if isinstance(t, Task) else Task(t[0], (n,), 0, 0, t[1], (True,)) for n, t in enumerate(tasks)]
    end = Task((len(made) - 1,), (), 0, 0, 0.0, (), repeats=False)
    buffers = {n: sizes.get(f"b{n}", 10) * MB for n in range(len(made))}
    return Timeline((*made, end), buffers, dict.fromkeys(buffers, ""), {n: n for n in buffers}, 0)


def under(line, room, moments, places=()):
    """The bound under so many MB, with repeats looked at in any order at places."""
    answer = solve(line, room * MB, moments, dict.fromkeys(places, False))
    return None if answer is None else pytest.approx(answer.bound, rel=1e-4, abs=1e-4)


CHEAP = Task((0,), (1,), 0, 0, 3.0, (True,))


def late_uses(again=CHEAP, fullest=0):
    """0 makes 1, and both are read at the end, over task 3, which needs 10 MB more than its result and its operand (and `fullest` more)."""
    full = Task((2,), (3,), (10 + fullest) * MB, 0, 1.0, (True,))
    return program(((), 100.0), again, ((1,), 1.0), full, ((0, 1, 3), 1.0))


def test_what_is_read_later_is_held_or_made_again():
    """At task 3: 30 MB of its own, 0 and 1 beside it. Under 50 MB 1 is made again, from 0, which is dear; under 40 both are."""
    line = late_uses()
    assert [under(line, room, [3]) for room in (50, 49, 40, 39, 30, 29)] == [0, 3, 3, 103, 103, None]
    assert solve(line, 40 * MB, [3], {}).runs == [{1}]


def test_bytes_inside_a_task_count():
    assert under(late_uses(fullest=5), 50, [3]) == 3


def test_what_runs_again_needs_its_operands_there():
    """Making 2 again at the end takes 1, which takes 0: all of them run, or one of them is held over the fullest task."""
    full = Task((), (3,), 20 * MB, 0, 1.0, (True,))
    line = program(((), 7.0), ((0,), 5.0), ((1,), 3.0), full, ((2, 3), 1.0), b0=4, b1=6)
    assert {room: under(line, room, [3]) for room in (40, 39, 36, 35, 34, 33, 30)} == {40: 0, 39: 3, 36: 3, 35: 8, 34: 8, 33: 15, 30: 15}


def test_what_is_held_at_a_moment_was_held_before_or_made_between():
    """0 is read after each of two full tasks: held over none of them it is made after both."""
    first, second = (Task((), (n,), 20 * MB, 0, 1.0, (True,)) for n in (1, 3))
    line = program(((), 4.0), first, ((0, 1), 1.0), second, ((0, 2, 3), 1.0))
    assert [under(line, 39, moments) for moments in ([1], [1, 3])] == [4, 10]  # 2 too, and what it reads
    assert [under(line, room, [1, 3]) for room in (49, 40)] == [2, 2]
    short = program(((), 4.0), first, ((0,), 1.0), second, ((0, 3), 1.0))
    assert [under(short, room, moments) for room in (40, 39) for moments in ([1], [3], [1, 3])] == [0, 0, 0, 4, 4, 8]


@pytest.mark.parametrize("task", [Task((0,), (1,), 0, 0, 3.0, (True,), repeats=False), Task((0,), (1,), 0, 0, 3.0, (True,), until=3)])
def test_what_must_not_run_again_is_held(task):
    """After task 3 what it reads has other contents, or it never runs twice: 0 is the one to be made again."""
    assert under(late_uses(task), 40, [3]) == 100 and solve(late_uses(task), 40 * MB, [3], {}).runs == [{0}]


@pytest.mark.parametrize("inside, aside", [(11, 0), (0, 11)])
def test_while_a_task_runs_again_its_bytes_count(inside, aside):
    """1 runs again before task 4, with 0 and 3 there, and 11 MB of its own; under 40 MB 3 would have to be made again after it."""
    line = late_uses(Task((0,), (1,), inside * MB, aside * MB, 3.0, (True,)))
    assert [under(line, room, [3, 4], [(4, 1)] if seen else []) for room, seen in ((41, False), (41, True), (40, False), (40, True))] == [3, 3, 3, 4]


def test_what_is_made_at_a_place_is_there_for_what_runs_after_it_in_order():
    """0 and 1 are made again, each with 25 MB inside. In any order one may be made before the other is there; in the program's, 0 is
    there then, and 2 must not be."""
    parts = [Task((), (n,), 25 * MB, 0, 1.0, (True,)) for n in (0, 1)]
    line = program(*parts, Task((), (2,), 40 * MB, 0, 1.0, (True,)), ((0, 1, 2), 1.0))
    for room, in_order, expected in ((55, True, 2), (54, True, 3), (54, False, 2), (50, False, 2), (49, False, None)):
        answer = solve(line, room * MB, [2, 3], {(3, 0): in_order, (3, 1): in_order})
        assert (answer and answer.bound) == (expected and pytest.approx(expected, rel=1e-4)), (room, in_order)


def large(line):
    """MB in place of bytes."""
    tasks = tuple(dataclasses.replace(t, inside=t.inside * MB) for t in line.tasks)
    return dataclasses.replace(line, tasks=tasks, sizes={b: size * MB for b, size in line.sizes.items()})


@pytest.mark.parametrize("seed", range(6))
def test_no_plan_of_a_small_program_is_below_any_bound(seed):
    """With more moments, and repeats looked at, the bound rises, never above the cheapest of all plans; with all of them it is near."""
    line = large(branching(seed))
    rng = np.random.default_rng(seed)
    last = len(line.tasks) - 1
    for room in range(256 * MB, line.peak(line.base), 64 * MB):
        least, below = cheapest(line, room), 0.0
        for count in (2, 5, last):
            moments = sorted(rng.choice(last, count, replace=False).tolist())
            answer = solve(line, room, moments, {})
            assert answer is not None or least is None
            below = max(below, answer.bound if answer else 0)
        if least is not None:
            places = {(at, n): False for at in range(1, last) for n in range(at) if line.tasks[n].repeats}
            tightest = solve(line, room, list(range(last)), places).bound
            assert below <= tightest + 1e-6 and tightest <= least + 1e-6 and tightest >= 0.7 * least


def test_a_search_that_may_take_nothing_finds_nothing():
    answer = solve(chain(12), 8000, [12], {}, work=0.0)
    assert (answer.bound, answer.runs) == (0.0, None)
    assert solve(chain(12), 8000, [12], {}).work > 0


def test_a_search_that_comes_near_to_what_is_known_tells_it():
    """Of two moments the second alone gives 3; that no plan is below 2.9 is taken over, and does no harm."""
    line = late_uses()
    assert solve(line, 49 * MB, [3], {}, known=2.9).bound == pytest.approx(3, rel=1e-4)
    assert solve(line, 49 * MB, [3], {}, near=0.05, known=2.99).bound >= 2.98


def with_small(line, seed):
    """Beside each buffer a tiny one with readers of its own, and one of half the size with the same readers."""
    rng = np.random.default_rng(seed)
    count = len(line.sizes)
    tasks = []
    for n, task in enumerate(line.tasks):
        tiny = tuple(2 * count + int(b) for b in rng.integers(0, n, 2)) if n else ()
        reads = (*task.reads, *(b + count for b in task.reads), *dict.fromkeys(tiny))
        writes = tuple(b + k * count for b in task.writes for k in range(3))
        tasks.append(dataclasses.replace(task, reads=reads, writes=writes, placed=(True,) * 3))
    sizes = {b + k * count: size for b in range(count) for k, size in enumerate((60 * MB, 30 * MB, 1000))}
    return Timeline(tuple(tasks), sizes, dict.fromkeys(sizes, ""), {b: b % count for b in sizes}, 0)


@pytest.mark.parametrize("seed", range(3))
def test_an_outline_has_fewer_buffers_and_bounds_the_same_plans(seed):
    line = with_small(branching(seed), seed)
    seen = outline(line)
    assert sorted(seen.sizes.values()) == [90 * MB] * 10 and {line.maker[b] for b in seen.sizes} == set(range(10))
    assert [[seen.maker[b] for b in t.reads] for t in seen.tasks] == [list(t.reads) for t in branching(seed).tasks]
    assert [len(t.writes) for t in seen.tasks] == [1] * 10 + [0]
    for share in (0.5, 0.7, 0.9):
        room = int(share * line.peak(line.base))
        whole, least = (solve(one, room, [5, 7], {}) for one in (line, seen))
        assert (whole is None) >= (least is None)
        if whole is not None:
            assert least.bound <= whole.bound * (1 + 1e-5) + 1e-9


def test_an_outline_of_what_has_nothing_small_is_the_same():
    line = chain(8)
    assert outline(line) == line


def test_what_is_held_beyond_the_place_counts_while_a_task_runs_again():
    """1 runs again before task 4, with 16 MB inside, 3 beside it, and 0, which is read after task 4."""
    again, full = Task((), (1,), 16 * MB, 0, 3.0, (True,)), Task((2,), (3,), 10 * MB, 0, 1.0, (True,))
    line = program(((), 100.0), again, ((), 1.0), full, ((1, 3), 1.0), ((0, 4), 1.0))
    assert under(line, 46, [3, 4], [(4, 1)]) == 3 and under(line, 45, [3, 4]) == 3
    assert solve(line, 45 * MB, [3, 4], {(4, 1): False}).bound > 3.5


def test_tasks_run_again_after_the_moment_that_is_told():
    first, second = (Task((), (n,), 20 * MB, 0, 1.0, (True,)) for n in (1, 3))
    line = program(((), 4.0), first, ((0,), 1.0), second, ((0, 3), 1.0))
    assert solve(line, 39 * MB, [1, 3], {}).runs == [{0}, {0}]
    assert solve(late_uses(), 40 * MB, [0, 3], {}).runs == [set(), {1}]


def test_buffers_of_one_task_with_different_readers_stay_apart():
    line = late_uses()
    first, reader = dataclasses.replace(line.tasks[0], writes=(0, 9)), dataclasses.replace(line.tasks[2], reads=(1, 9))
    tasks = (first, line.tasks[1], reader, *line.tasks[3:])
    line = dataclasses.replace(line, tasks=tasks, sizes={**line.sizes, 9: 10 * MB}, maker={**line.maker, 9: 0})
    assert outline(line).sizes == line.sizes
