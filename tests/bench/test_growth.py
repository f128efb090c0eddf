"""The benchmark of growth: what one process tells, and the table's exponents."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import growth


def row(layers, seconds):
    figures = {"first_cpu_s": seconds, "ms": seconds, "memory_mb": 1.0}
    return {"sizes": {"layers": layers}, **{name: figures for name in ("run_cold", "run_warm", "step_cold", "step_warm")}}


def test_exponents_are_of_the_last_two_sizes():
    rows = [row(8, 5.0), row(32, 1.0), row(128, 16.0)]
    assert growth.exponent(rows, "layers", "run_cold", "ms") == pytest.approx(2.0)
    assert growth.exponent(rows, "layers", "step_warm", "memory_mb") == pytest.approx(0.0)
    last = growth.table("program", rows).splitlines()[-1].split()
    assert last[0] == "exponent" and last[1] == "2.00" and last[-1] == "0.00"


@pytest.mark.parametrize("what", ["run", "step"])
def test_a_process_tells_its_figures(what, monkeypatch):
    monkeypatch.setattr(growth, "LEAST_SECONDS", 0.0)
    told = growth.child({"layers": 2}, what)
    assert told["first_s"] > 0 and told["ms"] > 0 and told["memory_mb"] >= 0


def test_layers_of_a_program_differ():
    text = growth.program_of(3)
    assert [f"linear(rmsnorm(h), {n})" in text for n in (64, 72, 80, 88)] == [True, True, True, False]


def test_warm_processes_have_the_cache_that_the_cold_one_filled(monkeypatch):
    """Each program twice, in a new folder that its first process finds empty and its second one not."""
    seen = []

    def process(arguments, environment):
        folder = Path(environment["DSLC_CACHE"])
        seen.append((arguments[-1], json.loads(arguments[-2]), environment["DSLC_THREADS"], sorted(p.name for p in folder.iterdir())))
        (folder / arguments[-1]).touch()
        return json.dumps({"ms": len(seen)})

    monkeypatch.setattr(growth, "_process", process)
    row = growth.measure({"layers": 2}, 3)
    assert [row[name]["ms"] for name in ("run_cold", "run_warm", "step_cold", "step_warm")] == [1, 2, 3, 4] and row["sizes"] == {"layers": 2}
    assert seen == [(what, {"layers": 2}, "3", kept) for what in ("run", "step") for kept in ([], [what])]


def test_memory_is_what_came_behind_the_import(monkeypatch):
    monkeypatch.setattr(growth, "LEAST_SECONDS", 0.0)
    peaks = iter([700 << 10, 703 << 10])
    monkeypatch.setattr(growth.resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=next(peaks)))
    assert growth.child({"layers": 1}, "run")["memory_mb"] == 3
