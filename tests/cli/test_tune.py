"""`--tune`: durations, what is said and kept, where reports say which schedules are tuned, runs that go on with their own."""

import json
from pathlib import Path

import numpy as np
import pytest

from dslc import tuning
from dslc.cli import duration
from dslc.compiler import compile_program, lower
from dslc.core import measured
from dslc.core.errors import DataError
from dslc.core.measured import Entry
from dslc.ir.bodies import kernel_hash, kernels_in
from dslc.ir.trace import Body
from dslc.model import Model
from dslc.runfolder import schedules_of
from dslc.targets import TARGETS

from .conftest import losses


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DSLC_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    "text, seconds", [("60s", 60), ("2m", 120), ("1.5 min", 90), ("1h", 3600), ("20", 20), (".5s", 0.5), (" 3S ", 3), (None, None)]
)
def test_durations(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "x", "10 parsecs", "-3s", "0", "0m", "1e3", "nan", "inf", "1:30", "1m30s", "9" * 40])
def test_wrong_durations(text):
    with pytest.raises(DataError, match="--tune takes a duration"):
        duration(text)


@pytest.mark.parametrize("command", ["train", "bench", "profile", "compile"])
def test_a_wrong_duration_is_told(cli, small, command):
    outcome = cli(command, small, "--tune=soon", *(["-o", "out"] if command == "compile" else []))
    assert outcome.status == 2 and "--tune takes a duration, this is 'soon'" in outcome.err and "60s" in outcome.err


def test_a_target_that_cannot_be_measured(cli, small):
    outcome = cli("compile", small, "-o", "out", "--target", "reference", "--tune", 1)
    assert outcome.status == 2 and "schedules of target 'reference' cannot be measured" in outcome.err


def quick(monkeypatch, interrupted_at: int | None = None) -> None:
    """Searches that measure nothing: the second schedule always wins, or Ctrl-C is pressed."""
    searches = []

    def search(by_cost, others, build, until, clock):
        searches.append(others)
        if len(searches) == interrupted_at:
            raise KeyboardInterrupt
        return tuning.Found(others[0], 1.25, len(others), 0)

    monkeypatch.setattr(tuning, "search", search)
    monkeypatch.setattr(tuning, "LEAST_SHARE", 0.0)  # a kernel's share of so small a model varies with what else runs


@pytest.mark.parametrize("command", ["bench", "profile", "compile"])
def test_commands_tune_first(cli, small, monkeypatch, command):
    quick(monkeypatch)
    words = (command, small, "--tune", "1m", "--program", "step", *(["-o", "out"] if command == "compile" else ["--seconds", 0]))
    plain, told = cli(*words), cli(*words, "--json")
    assert plain.status == 0 and "1.25 times as fast" in plain.err, plain.err
    assert told.status == 0 and told.events[0] == {
        "event": "warned",
        "message": "nothing was tuned: no kernel that takes time has a schedule left to try",
    }
    assert measured.schedules(TARGETS["cpu"].device())


def test_the_events_of_tuning(cli, small, monkeypatch):
    quick(monkeypatch)
    events = cli("compile", small, "-o", "out", "--tune", "1m", "--json").events
    assert [e["event"] for e in events[:-1]] == ["tuned"] * (len(events) - 1) and events[-1]["event"] == "written"
    assert events[0]["gain"] == 1.25 and events[0]["schedule"] and 0 < events[0]["share"] <= 1 and events[0]["tried"] == events[0]["schedules"]


def test_reports_say_what_is_tuned(cli, small, monkeypatch, tmp_path):
    for command in (("inspect", small), ("profile", small, "--program", "run", "--seconds", 0)):
        assert " tuned " not in cli(*command).out and " cost model " in cli(*command).out
    quick(monkeypatch)
    assert cli("compile", small, "-o", "out", "--tune", "1m").status == 0
    assert " tuned " in cli("inspect", small).out
    profiled = cli("profile", small, "--program", "run", "--seconds", 0, "--html", "page.html")
    assert " tuned " in profiled.out
    for page in ("out/report.html", "page.html"):
        assert "tuned: <code>{&quot;" in (tmp_path / page).read_text()
    plan = json.loads((tmp_path / "out/plan.json").read_text())
    assert any(k["schedule"] for k in plan["kernels"])


def test_ctrl_c_keeps_what_was_measured(cli, small, monkeypatch):
    quick(monkeypatch, interrupted_at=2)
    outcome = cli("compile", small, "--program", "step", "-o", "out", "--tune", "1m")
    assert outcome.status == 130 and len(measured.read(TARGETS["cpu"].device())) == 1


def test_a_torn_file_is_a_note(cli, small, tmp_path):
    measured.write(TARGETS["cpu"].device(), "k", Entry("s", 1.5, 1))
    file = tmp_path / "cache" / measured.file_name(TARGETS["cpu"].device())
    file.write_bytes(file.read_bytes()[:50])
    outcome = cli("inspect", small)
    assert (
        outcome.status == 0
        and outcome.err
        == f"note: the tuned schedules in {file} are left out, since it is damaged: the cost model chooses, and --tune measures anew\n"
    )


def force(model: Model, turn: int) -> None:
    """The schedule number `turn` of every kernel of a step."""
    elaborated = lower(model, "step", TARGETS["cpu"])
    with elaborated.context, elaborated.location:
        for op in kernels_in(elaborated.module):
            texts = TARGETS["cpu"].schedules(op)
            if len(texts) > turn:
                key = kernel_hash(op.kind, Body.of(op.regions[0].blocks[0]))
                measured.write(TARGETS["cpu"].device(), key, Entry(texts[turn], 1.5, turn))


def test_a_run_goes_on_with_its_own_schedules(cli, small, tmp_path):
    force(Model(small), 2)
    assert cli("train", small, "--run", "whole").status == 0
    assert cli("train", small, "--run", "part", "--steps", 15).status == 0
    begun = schedules_of(tmp_path / "part")
    assert begun and begun == schedules_of(tmp_path / "whole")
    force(Model(small), 1)
    assert cli("train", "part", "--resume", "--steps", 30).status == 0
    assert schedules_of(tmp_path / "part") == begun
    model = Model(small)
    model.schedules = begun
    kept = {k.key: k.schedule for k in compile_program(model, "step", "cpu").kernels if k.schedule}
    assert kept and all(begun[key] == text for key, text in kept.items())
    assert losses(tmp_path / "part")[-15:] == losses(tmp_path / "whole")[-15:]


def test_resuming_and_tuning_exclude_each_other(cli, small):
    outcome = cli("train", small, "--resume", "--tune", "1s")
    assert outcome.status == 2 and "leave --tune out" in outcome.err


def test_tuning_leaves_the_parameters_alone(cli, small, tmp_path, monkeypatch):
    """A step is run to see what takes the time: not on the weights that the training begins with."""
    monkeypatch.setattr(tuning, "search", lambda by_cost, others, build, until, clock: tuning.Found(by_cost, 1.0, 1, 0))
    assert cli("train", small, "--run", "plain").status == cli("train", small, "--run", "tuned", "--tune", "1m").status == 0
    assert losses(tmp_path / "plain") == losses(tmp_path / "tuned")


def test_training_tunes_first(cli, small, monkeypatch, tmp_path):
    quick(monkeypatch)
    outcome = cli("train", small, "--run", "r", "--tune", "30s", "--json")
    kinds = [e["event"] for e in outcome.events]
    assert outcome.status == 0 and kinds[0] == "tuned" and kinds.index("started") == kinds.count("tuned")
    assert schedules_of(tmp_path / "r") == measured.schedules(TARGETS["cpu"].device()) != {}
    assert "tuned: <code>" in (tmp_path / "r" / "report.html").read_text()


BOUNDED = """
model Bounded:
    dims batch<=8, time<=24
    input x[batch, time, 8], target[batch]
    h[b, t, k] = tanh(linear(x, 8)[b, t, k])
    output y[b] = mean[t, k](h[b, t, k])
    loss mean((y - target) ** 2)
train:
    data table("rows.npz")
    steps 2
    optimizer sgd(lr=0.1)
"""


@pytest.fixture
def bounded(tmp_path):
    """A model of any length, and rows of 10 steps."""
    (tmp_path / "bounded.dsl").write_text(BOUNDED)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "rows.npz", x=rng.standard_normal((20, 10, 8)).astype(np.float32), target=np.zeros(20, np.float32))
    return tmp_path / "bounded.dsl"


def test_the_report_tells_the_programs_of_all_lengths(cli, bounded, tmp_path):
    cli("inspect", bounded, "--html", "varies.html")
    assert "time: any length up to 24, in at most" in (tmp_path / "varies.html").read_text()
    fixed = tmp_path / "fixed.dsl"
    fixed.write_text("model Fixed:\n    dims time<=4\n    input x[time]\n    output y[t] = x[t] * sin(time)\n")
    cli("inspect", fixed, "--html", "fixed.html")
    assert "cannot vary here" in (tmp_path / "fixed.html").read_text()


def test_compile_tunes_the_programs_of_all_lengths(cli, bounded, monkeypatch):
    quick(monkeypatch)
    outcome = cli("compile", bounded, "-o", "out", "--tune", "1m", "--json")
    told = [e["lengths"] for e in outcome.events if e["event"] == "tuned"]
    assert set(told) == {"batch=8, time=24", "batch=8, time<=24", "batch=8, time<=16"}  # fewer rows are the same kernels, which were measured
    assert told[0] == "batch=8, time=24" and any(k["schedule"] for k in json.loads(Path("out/plan.json").read_text())["kernels"])


def test_training_tunes_programs_when_it_makes_them(cli, bounded, monkeypatch, tmp_path):
    """The run keeps the schedules that it found, and goes on with them."""
    quick(monkeypatch)
    outcome = cli("train", bounded, "--run", "r", "--tune", "30s", "--json")
    told = {e["lengths"] for e in outcome.events if e["event"] == "tuned"}
    assert outcome.status == 0 and told == {"batch=8, time<=16"}, outcome.err
    begun = schedules_of(tmp_path / "r")
    assert begun and begun == measured.schedules(TARGETS["cpu"].device())
    assert cli("train", "r", "--resume", "--steps", 4).status == 0 and schedules_of(tmp_path / "r") == begun


@pytest.mark.parametrize("command", ["bench", "profile"])
def test_calls_that_are_timed_are_tuned_at_the_bounds(cli, bounded, monkeypatch, command):
    quick(monkeypatch)
    outcome = cli(command, bounded, "--tune", "1m", "--program", "run", "--seconds", 0)
    assert "note: kernels are measured with batch=8 and time=24, the bounds, as in the calls that are timed" in outcome.err
    assert outcome.status == 0 and " for batch=8, time=24 (" in outcome.err and "<=" not in outcome.err
