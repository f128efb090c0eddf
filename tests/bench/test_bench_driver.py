"""The driver of the benchmarks, with contestants whose times and results are given."""

import json
import math
import os
from types import SimpleNamespace

import pytest

import dslc
from benchmarks import driver
from benchmarks.driver import Contestant, compare, row, table, time_rounds
from benchmarks.plot import mean_of_best, plot


def contestant(name, result=(1.0, -2.0), times=()):
    """A contestant that answers each run with the next of `times`."""
    player = Contestant(name, SimpleNamespace(pid=os.getpid()), result=list(result))
    answers = iter(times)
    player.ask = lambda request: {"times": [next(answers)] * 3}
    return player


@pytest.fixture
def loads(monkeypatch):
    """Sets the outside load of the rounds, in order."""

    def given(values):
        left = iter(values)
        monkeypatch.setattr(driver, "_others", lambda pids, mark: next(left))

    return given


def whole(told):
    return told | {"left_out": {}, "differs": {}}


def test_a_contestant_that_differs_is_named_and_the_others_stay():
    near, far = contestant("near", (1.0, -2.00001)), contestant("far", (1.0, -2.1))
    same, differs = compare(1e-4, [contestant("dslc"), near, far])
    assert [p.name for p in same] == ["dslc", "near"]
    assert differs == {"far": pytest.approx(0.05)}


@pytest.mark.parametrize("result", [(math.nan, -2.0), (1.0,), (1.0, math.inf)])
def test_results_that_are_no_numbers_or_of_another_length_differ(result):
    same, differs = compare(1e-4, [contestant("dslc"), contestant("peer", result)])
    assert [p.name for p in same] == ["dslc"] and differs == {"peer": None}


def test_a_round_with_outside_load_counts_for_nobody(loads):
    loads([0.0, 0.5, 0.0])
    players = [contestant("dslc", times=[1.0, 90.0, 2.0]), contestant("peer", times=[3.0, 1.0, 4.0])]
    assert time_rounds(players, 2, 0.0) == [0.0, 0.5, 0.0]
    assert [p.rounds for p in players] == [[1.0, 2.0], [3.0, 4.0]]
    figures = row("w", 2, players, [0.0, 0.5, 0.0])
    assert figures["rounds"] == 2 and figures["rounds_thrown_away"] == 1
    assert figures["contestants"]["peer"]["against_dslc"] == pytest.approx(2.5)  # the median of 3/1 and 4/2, each within its round
    assert figures["contestants"]["peer"]["against_dslc_spread"] == [2.0, 3.0]


def test_a_machine_too_loaded_gives_no_figure(loads):
    seen = [0.5] * (2 * driver.TRIES)
    loads(seen)
    players = [contestant("dslc", times=[1.0] * len(seen))]
    told = whole(row("w", 2, players, time_rounds(players, 2, 0.0)))
    assert told["contestants"] == {} and told["too_loaded"] == 0.5
    assert "others used 50% of the machine" in table(told) and " ms" not in table(told)


def test_the_table_names_who_has_no_figure(loads):
    loads([0.0])
    players = [contestant("dslc", times=[1.0])]
    told = row("w", 2, players, time_rounds(players, 1, 0.0)) | {"left_out": {"jax": "no jax form"}, "differs": {"torch": 0.5}}
    assert "differs by 5.0e-01: not timed" in table(told) and "left out: no jax form" in table(told)
    json.dumps(told, allow_nan=False)


def test_load_of_others_is_what_is_not_ours(monkeypatch):
    monkeypatch.setattr(driver, "_busy_ticks", lambda: 1000 + 2 * driver.TICK)
    monkeypatch.setattr(driver, "_own_ticks", lambda pids: 100 + driver.TICK)
    monkeypatch.setattr(driver.time, "time", lambda: 1.0)
    monkeypatch.setattr(driver.os, "cpu_count", lambda: 2)
    assert driver._others([], (1000, 100, 0.0)) == pytest.approx(0.5)


def test_the_plot_shows_every_measured_workload(tmp_path):
    def row(name, **ratios):
        return {"workload": name, "contestants": {n: {"against_dslc": r} for n, r in {"dslc": 1.0, **ratios}.items()}}

    rows = [row("a", torch=2.0, onnxruntime=4.0), row("b", torch=8.0), row("alone"), {"workload": "loaded", "contestants": {}}]
    assert mean_of_best(rows) == pytest.approx(4.0) and mean_of_best(rows[2:]) is None
    plot({"machine": "m", "date": "d", "rows": rows}, tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 5000
    plot({"machine": "m", "date": "d", "rows": rows[2:]}, tmp_path / "none.png")


def test_first_calls_are_cold_and_python_s_bytecode_is_there(monkeypatch, tmp_path):
    """Contestants find empty caches of compiled programs, but do not compile the compiler's own source."""
    started = []
    monkeypatch.setattr(driver.subprocess, "Popen", lambda command, env, **_: started.append(env))
    monkeypatch.setenv("DSLC_CACHE", "/elsewhere")
    driver.start("dslc", 2, str(tmp_path))
    assert started[0]["DSLC_CACHE"] == f"{tmp_path}/dslc" and started[0]["TORCHINDUCTOR_CACHE_DIR"].startswith(str(tmp_path))
    module = tmp_path / "package" / "__init__.py"
    module.parent.mkdir()
    module.write_text("x = 1\n")
    monkeypatch.setattr(dslc, "__file__", str(module))
    driver.as_installed()
    assert list(module.parent.glob("__pycache__/__init__.*.pyc"))
