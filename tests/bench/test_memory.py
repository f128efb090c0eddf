"""The benchmark of budgets: its plans, its measured steps with contestants whose times are given, its table and its plot."""

import os
from itertools import cycle
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import driver, memory
from benchmarks.driver import Contestant

SMALL = memory.Step("small", "gpt", "gpt_train", {"batch": 2, "time": 64, "width": 48, "depth": 2, "heads": 2})
MS = {"dslc": 100, "torch.compile@1": 200}  # without a budget; a budget adds a quarter


@pytest.fixture(scope="module")
def plans():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "STEPS", 4)
        return memory.planned(SMALL)


def test_plans_lie_between_the_bound_and_the_greedy_one(plans):
    assert len(plans) >= 4 and [r["budget"] for r in plans] == sorted(r["budget"] for r in plans)
    assert any(r["of_least_budget"] == pytest.approx(memory.FROM, abs=1e-4) for r in plans)
    for row in plans:
        assert row["arena"] <= row["room"] and row["bound"] <= row["added"] + 1e-9
        assert row["greedy"] is None or row["added"] <= row["greedy"] + 1e-9
    assert plans[0]["added"] > 0 == plans[-1]["added"]


def test_steps_are_told_against_the_same_contestant_without_a_budget(plans, monkeypatch, tmp_path):
    asked = []

    def start(name, threads, caches):
        player = Contestant(name, SimpleNamespace(pid=os.getpid(), kill=lambda: None))
        base = MS.get(name) or 1.25 * MS["dslc" if name.startswith("dslc") else "torch.compile@1"]
        times = cycle([base / 1e3])
        asked.append(name)
        player.ask = lambda request: {"first": 1.0, "peak": 50 << 20, "result": [1.0]} if "prepare" in request else {"times": [next(times)]}
        return player

    monkeypatch.setattr(memory, "MEASURED", (0, 2))
    monkeypatch.setattr(driver, "start", start)
    monkeypatch.setattr(driver, "_others", lambda pids, mark: 0.4)
    monkeypatch.setattr(memory, "shapes", lambda workload: {"w": (2, 2)})
    steps = memory.measured(SMALL, plans, 2)
    assert asked[0] == "dslc" and f"torch.compile@{memory.SHARES[-1]:g}" in asked and len(set(asked)) == 1 + len(memory.MEASURED) + len(memory.SHARES)
    assert asked[::2] == asked[1::2]  # each once to fill the caches
    found = {(c["name"], c["budget"]): c["added"] for c in steps["contestants"]}
    assert found["dslc", None] == found["torch.compile", 1.0] == 0
    np.testing.assert_allclose([a for (_, budget), a in found.items() if budget not in (None, 1.0)], 0.25)
    told = {"plans": plans, "steps": steps}
    text = memory.table("small", told)
    assert "others used 40% of the machine" in text and "share 0:" in text and "no budget:" in text
    assert sum(line.rstrip().endswith("s") for line in text.splitlines()) >= len(plans)
    memory.plot(told, "small", tmp_path / "small.png")
    assert (tmp_path / "small.png").stat().st_size > 1000
