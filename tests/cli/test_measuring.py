"""`dslc bench` and `dslc profile`: figures of a small model, the trace, the page, what a target cannot tell."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import dslc
from dslc.compiler import compile_program
from dslc.core.executable import TIMES
from dslc.measuring import by_kernel, caller, load_executable, profile

SCAN = """
model Scan:
    dims    batch=2, time=7
    input   x[batch, time, 8]
    param   w[8, 8] ~ xavier_uniform()
    scan t < time carry h[batch, 8] = 0:
        h[b, u] = tanh(x[b, t, u] + sum[v](h[b, v] * w[v, u]))
        emit y[b, t, u] = h[b, u]
    output  y
"""


def test_bench_tells_every_program(cli, small):
    outcome = cli("bench", small, "--seconds", 0, "--json")
    assert outcome.status == 0, outcome.err
    assert [e["program"] for e in outcome.events] == ["run", "step"]
    for event in outcome.events:
        assert event["cold"] > event["warm"] > 0 and event["lowest"] <= event["call"] <= event["highest"] and event["calls"] == 5
        assert event["planned_bytes"] > 0
    assert cli("bench", small, "--seconds", 0, "--program", "eval").out.splitlines()[1].startswith("eval ")


@pytest.mark.parametrize("command", ["bench", "profile"])
def test_a_length_in_epochs_needs_no_data(cli, command):
    outcome = cli(command, Path(__file__).parents[2] / "examples" / "digits_mlp.dsl", "--seconds", 0)
    assert outcome.status == 0 and "step" in outcome.out, outcome.err


def test_profile_adds_up(cli, small, tmp_path):
    outcome = cli("profile", small, "--seconds", 0, "--json", "--trace", tmp_path / "t.json", "--html", tmp_path / "r.html")
    assert outcome.status == 0, outcome.err
    told = outcome.events[0]
    assert told["program"] == "step" and told["kernel_seconds"] > 0 and told["peak_flops"] > 1e9 and told["peak_bytes"] > 1e8
    assert sum(k["seconds"] for k in told["kernels"]) == pytest.approx(told["kernel_seconds"])
    assert sum(line["share"] for line in told["lines"]) == pytest.approx(1)
    assert any("linear" in line["text"] or "sum[" in line["text"] for line in told["lines"])
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert sum(e["dur"] for e in events) == pytest.approx(told["kernel_seconds"] * 1e6)
    assert all(later["ts"] >= e["ts"] + e["dur"] * 0.999 for e, later in pairwise(events))
    assert "Time by kernel" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize("words", [("bench", "--program", "nothing"), ("profile", "--program", "nothing"), ("bench", "--seconds", -1)])
def test_mistakes_are_told(cli, small, words):
    outcome = cli(words[0], small, *words[1:])
    assert outcome.status == 2 and ("no program 'nothing'" in outcome.err or "less than 0" in outcome.err)


def test_a_target_without_times_says_so(cli, small):
    outcome = cli("profile", small, "--target", "reference")
    assert outcome.status == 2 and "cannot tell the time of its kernels" in outcome.err


def test_a_timed_program_gives_the_same_and_counts_turns():
    model = dslc.load(SCAN)
    timed = caller(model, load_executable(compile_program(model, "run", "cpu", timed=True)))()
    plain = caller(model, load_executable(compile_program(model, "run", "cpu")))()
    assert TIMES not in plain and np.array_equal(timed["y"], plain["y"])
    found = profile(model, "run", "cpu", 0)
    assert max(row.runs for row in by_kernel(found)) == 7
    assert 0 < sum(row.seconds for row in by_kernel(found)) < found.call_seconds * 2
