"""Tuning of programs for any lengths: which are measured, with what time, at which length; those that are measured when they are first made."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

import dslc
from dslc import tuning
from dslc.compiled import load_executable
from dslc.compiler import Member, compile_program, family_of, lower
from dslc.core import measured
from dslc.ir.bodies import kernels_in
from dslc.ir.program import arguments_of, program_of
from dslc.ir.schedules import BY_COST
from dslc.measuring import caller
from dslc.passes.tile import alone
from dslc.targets import TARGETS, target_of
from dslc.tuning import Tuner

DEVICE = TARGETS["cpu"].device
HEAD = "model M:\n    dims batch=2, time<=40\n"
CAUSAL = HEAD + "    input x[batch, time, 16]\n    y = self_attention(x, 2, causal=true)\n    output y\n    loss mean(y ** 2)\n"
CAUSAL += "train:\n    optimizer sgd(lr=0.1)\n"
MASKED = HEAD + "    input x[batch, time, 8]\n    output y[b, d] = mean[t](x[b, t, d])\n"
SCAN = HEAD + "    input x[batch, time, 8]\n    output y = gru(x, 8)\n"


def searching(monkeypatch, turn: int = 1) -> list[float]:
    """Searches that measure nothing: schedule number `turn` wins. Gives when each had to end."""
    ends = []

    def search(by_cost, others, build, until, clock):
        ends.append(until)
        return tuning.Found(others[turn - 1], 2.0, len(others), 0)

    monkeypatch.setattr(tuning, "search", search)
    monkeypatch.setattr(tuning, "LEAST_SHARE", 0.0)  # a kernel's share of so small a model varies
    return ends


def at(model: dslc.Model, time: int, program: str = "run") -> Member | None:
    family = family_of(model, program)
    sizes = family.sizes_for({"time": time})
    return Member(family, sizes) if dict(sizes.exact) != family.bounds else None


@pytest.mark.parametrize(
    "dims, programs",
    [
        ("time<=40", ["time=40", "time<=40", "time<=32", "time<=16"]),
        ("time<=16", ["time=16", "time<=16"]),
        ("time<=2", ["time=2"]),
        ("batch<=20, time<=16", ["batch=20, time=16", "batch=20, time<=16", "time=16, batch<=20", "batch<=20, time<=16",
                                 "time=16, batch<=16", "batch<=16, time<=16"]),
    ],
)  # fmt: skip
def test_the_programs_that_lengths_share(dims, programs):
    batch = "batch=2, " if "batch" not in dims else ""
    model = dslc.load(MASKED.replace("batch=2, time<=40", batch + dims))
    found = list(map(str, family_of(model, "run").programs()))
    assert found[0] == programs[0] and sorted(found) == sorted(programs)


def test_each_program_is_measured_in_an_equal_part_of_the_time(monkeypatch):
    ends, events = searching(monkeypatch), []
    model = dslc.load(CAUSAL)
    found = dslc.tune(model, 60, listener=events.append, clock=lambda: 0.0)
    told = [f.lengths for f in found]
    assert list(dict.fromkeys(told)) == ["time=40", "time<=40", "time<=32", "time<=16"] and events == found
    last = {lengths: end for lengths, end in zip(told, ends)}
    assert list(last.values()) == pytest.approx([60 / 4, 60 / 3, 60 / 2, 60])  # by a clock that stands


def test_what_was_found_is_in_the_programs_of_each_length(monkeypatch):
    """Also in the one that a package holds; each is another entry of the compile cache than before."""
    searching(monkeypatch)
    model = dslc.load(CAUSAL)
    family = family_of(model, "run")
    members = [None if dict(s.exact) else Member(family, s) for s in (*family.programs(), family.whole())]
    before = [compile_program(model, "run", "cpu", sized=m) for m in members]
    dslc.tune(model, 60)
    for plain, member in zip(before, members):
        tuned = compile_program(model, "run", "cpu", sized=member)
        assert not any(k.schedule for k in plain.kernels) and any(k.schedule for k in tuned.kernels) and tuned.code != plain.code
        assert {k.key for k in tuned.kernels if k.schedule} <= measured.schedules(DEVICE()).keys()
    x = np.random.default_rng(0).standard_normal((2, 23, 16)).astype(np.float32)
    np.testing.assert_allclose(dslc.compile(model)(x=x)["y"], dslc.compile(model, target="reference")(x=x)["y"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("text", [CAUSAL, MASKED, SCAN], ids=["causal", "masked", "scan"])
def test_kernels_are_measured_at_the_longest_length(text):
    """Each integer without axes that a kernel reads is the length; at 0, which integers are drawn as else, there is nothing to do."""
    model = dslc.load(text)
    elaborated = lower(model, "run", target_of("cpu"), sized=at(model, 20))
    counted = 0
    with elaborated.context, elaborated.location:
        for op in kernels_in(elaborated.module):
            module = alone(op, BY_COST, {"size(time)": 32})
            numbers = [s.bounds for s in arguments_of(program_of(module)) if s.type.dtype.is_integer and not s.type.shape]
            counted += numbers.count((32, 33))
            assert (0, 1) not in numbers or text is SCAN  # whose turn is a number too
    assert counted


def test_calls_that_are_timed_are_of_the_longest_length():
    model = dslc.load(MASKED)
    program = load_executable(compile_program(model, "run", "cpu", sized=at(model, 20)))
    seen: list[Mapping[str, np.ndarray]] = []

    class Spy:
        executable, bind = program.executable, program.bind

        def __call__(self, inputs, **options):
            seen.append(inputs)
            return program(inputs, **options)

    caller(model, Spy())()
    assert seen[0]["size(time)"] == 32


def test_a_program_is_really_tuned():
    model = dslc.load(CAUSAL.replace("time<=40", "time<=16"))
    found = dslc.tune(model, 4)
    assert found and {f.lengths for f in found} <= {"time=16", "time<=16"} and all(f.tried for f in found)


def test_what_there_was_no_time_for_is_told(monkeypatch):
    now, events = [0.0], []

    def search(by_cost, others, build, until, clock):
        now[0] = 99.0
        return tuning.Found(by_cost, 1.0, 1, 0)

    monkeypatch.setattr(tuning, "search", search)
    (found,) = tuning.tune(dslc.load(CAUSAL), 1, listener=events.append, clock=lambda: now[0])
    said = "the time was over before programs for time<=40, time<=32, time<=16 were measured: give more"
    assert found.lengths == "time=40" and [e.message for e in events if e is not found] == [said]


# --- when they are first made


def keys(executable) -> dict[str, str]:
    return {k.key: k.schedule for k in executable.kernels}


def test_a_program_is_measured_when_it_is_first_made(monkeypatch):
    ends, events, kept = searching(monkeypatch), [], []
    model = dslc.load(CAUSAL)
    Tuner(model, 60, "cpu", events.append, lambda: kept.append(dict(model.schedules)), clock=lambda: 0.0)
    trainer = dslc.Trainer(model)
    assert not events and not kept
    rng = np.random.default_rng(0)
    for n, lengths in ((20, "time<=32"), (21, "time<=32"), (9, "time<=16")):
        trainer.step(x=rng.standard_normal((2, n, 16)).astype(np.float32))
        assert events[-1].lengths == lengths
    assert trainer.programs == ["time<=32", "time<=16"] and len(kept) == 2 and max(ends) == pytest.approx(30)
    assert kept[0].items() <= kept[1].items() == model.schedules.items()


def test_kernels_of_programs_made_before_stay_as_they_are(monkeypatch):
    """A run that goes on compiles all its programs with the schedules that were written down last."""
    searching(monkeypatch)
    model, kept = dslc.load(CAUSAL), []
    tuner = Tuner(model, 60, "cpu", lambda event: None, lambda: kept.append(dict(model.schedules)))
    first = tuner.compiled("step", (), at(model, 20, "step"))
    shared = next(iter(keys(first)))
    measured.write(DEVICE(), shared, measured.Entry("another", 3.0, 99))  # by another process
    second = tuner.compiled("step", (), at(model, 9, "step"))
    assert any(k.schedule for k in first.kernels) and any(k.schedule for k in second.kernels)
    assert "another" not in model.schedules.values()
    again = dslc.load(CAUSAL)
    again.schedules = kept[-1]
    for made, n in ((first, 20), (second, 9)):
        assert compile_program(again, "step", "cpu", sized=at(again, n, "step")).code == made.code


def test_each_gets_half_of_the_time_that_is_left(monkeypatch):
    now = [0.0]
    ends = []

    def search(by_cost, others, build, until, clock):
        ends.append(until)
        now[0] = until
        return tuning.Found(by_cost, 1.0, 1, 0)

    monkeypatch.setattr(tuning, "search", search)
    model = dslc.load(CAUSAL)
    tuner = Tuner(model, 60, "cpu", lambda event: None, lambda: None, clock=lambda: now[0])
    for n in (40, 20, 9):
        tuner.compiled("run", (), at(model, n))
    assert sorted({round(e, 6) for e in ends} & {30, 45, 52.5}) == [30, 45, 52.5]
