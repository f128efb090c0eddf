"""The benchmark of growth: what one process tells, and the table's exponents."""

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
