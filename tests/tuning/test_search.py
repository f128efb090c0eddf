"""The choice among schedules, with trials that take made-up times."""

from __future__ import annotations

import numpy as np
import pytest

from dslc.core.dtypes import BFLOAT16
from dslc.core.errors import TargetError
from dslc.tuning import compared, same, search

from .conftest import Clock, FakeTrial

FAR = 1e9


def found(times: dict[str, list[float]], until: float = FAR, results: dict | None = None, build_seconds: float = 0.0):
    """A search over schedules by name, the first of which is the cost model's."""
    clock = Clock()

    def build(name: str) -> FakeTrial:
        clock.now += build_seconds
        if times[name] == []:
            raise TargetError("the compiler refuses this")
        trial = FakeTrial(clock, times[name])
        return trial if results is None or name not in results else FakeTrial(clock, times[name], results[name])

    first, *others = times
    return search(first, others, build, until, clock), clock


def test_the_fastest_is_chosen():
    made, _ = found({"cost": [1.0], "a": [0.9], "b": [0.5], "c": [0.8]})
    assert made.schedule == "b" and made.gain == pytest.approx(2) and (made.tried, made.refused) == (3, 0)


def test_the_cost_model_stays_where_nothing_is_better():
    made, _ = found({"cost": [1.0], "a": [1.1], "b": [5.0]})
    assert made.schedule == "cost" and made.gain == 1 and made.tried == 2


def test_a_gain_must_be_worth_it():
    assert found({"cost": [1.0], "a": [0.99]})[0].schedule == "cost"
    assert found({"cost": [1.0], "a": [0.97]})[0].schedule == "a"


def test_a_gain_within_the_spread_is_none():
    clock = Clock()
    noisy = FakeTrial(clock, [0.7, 1.2, 0.9, 1.3, 0.6])  # the median pair is faster by a tenth, and pairs differ by far more
    steady = FakeTrial(clock, [0.88, 0.92, 0.9, 0.93, 0.87])
    assert compared(FakeTrial(clock, [1.0]), noisy, clock) == 1
    assert compared(FakeTrial(clock, [1.0]), steady, clock) == pytest.approx(0.9)


def test_what_only_began_fast_does_not_stay():
    """A schedule that wins its own comparison and loses the last one."""
    clock = Clock()
    lucky = FakeTrial(clock, [0.5e-3] * 25 + [1.5e-3] * 1000)
    trials = {"cost": FakeTrial(clock, [1e-3]), "a": lucky}
    assert search("cost", ["a"], trials.__getitem__, FAR, clock).schedule == "cost"
    assert lucky.runs > 25


def test_other_results_are_refused():
    wrong = {"a": [np.arange(4, dtype=np.float32) + 0.1]}
    made, _ = found({"cost": [1.0], "a": [0.1], "b": [0.5]}, results=wrong)
    assert made.schedule == "b" and made.refused == 1


def test_what_the_compiler_refuses_is_left_out():
    made, _ = found({"cost": [1.0], "a": [], "b": [0.5]})
    assert made.schedule == "b" and (made.tried, made.refused) == (2, 1)


def test_no_trial_begins_after_the_time():
    times = {"cost": [0.01], **{f"s{k}": [0.02] for k in range(100)}}
    made, clock = found(times, until=5.0, build_seconds=1.0)
    assert made.tried == 4 and clock.now < 6.5
    made, _ = found(times, until=0.5, build_seconds=1.0)
    assert made.tried == 0 and made.schedule == "cost"


def test_what_is_much_slower_is_soon_left():
    clock = Clock()
    fast, slow = FakeTrial(clock, [1e-3]), FakeTrial(clock, [2e-3])
    assert compared(fast, slow, clock) == 1 and slow.runs == 3
    assert compared(slow, fast, clock) == pytest.approx(0.5) and fast.runs == 3 + 25


def test_results_agree_within_their_type():
    x = np.linspace(-1, 1, 50, dtype=np.float32)
    assert same([x], [x + 1e-6]) and not same([x], [x + 1e-3])
    narrow = x.astype(BFLOAT16.numpy)
    assert same([narrow], [(x * 1.004).astype(BFLOAT16.numpy)]) and not same([narrow], [(x * 1.1).astype(BFLOAT16.numpy)])
    assert same([np.arange(3)], [np.arange(3)]) and not same([np.arange(3)], [np.arange(3) + 1])
    odd = np.array([1, np.nan, np.inf, -np.inf], np.float32)
    assert same([odd], [odd.copy()])
    for place in range(4):
        other = odd.copy()
        other[place] = 7
        assert not same([odd], [other])
