"""Tuning of whole models: what is measured, kept and used, on this processor and on a device that is stood in for."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

import dslc
from dslc import targets, tuning
from dslc.backend_cuda.arch import ARCHS
from dslc.backend_cuda.backend import lower_plan, schedules_of
from dslc.compiler import compile_anew, compile_program, lower, schedules_for
from dslc.core import cache, measured
from dslc.core.errors import DataError, TargetError
from dslc.core.executable import Executable, from_bytes
from dslc.core.measured import Entry
from dslc.passes.plan import make_plan
from dslc.targets import TARGETS, target_of

TWO = """
model Two:
    input a[40, 300], b[300, 70], c[70, 50]
    h[i, j] = sum[k](a[i, k] * b[k, j])
    y[i, j] = sum[k](tanh(h[i, k]) * c[k, j])
    output y
"""
ATTENTION = """
model Attention:
    dims batch=2, time=100
    input x[batch, time, 32]
    y = self_attention(x, 2, causal=true)
    z[b, d] = sum[t](y[b, t, d])
    output y, z
"""
DEVICE = TARGETS["cpu"].device


def kernels(model: dslc.Model) -> dict[str, list[str]]:
    """The schedules of each kernel of `run`, by key."""
    executable = compile_program(model, "run", "cpu")
    keys = {k.key for e in (executable, *([from_bytes(executable.prepare)] if executable.prepare else [])) for k in e.kernels}
    elaborated = lower(model, "run", target_of("cpu"))
    with elaborated.context, elaborated.location:
        found = {tuning.kernel_hash(op.kind, tuning.Body.of(op.regions[0].blocks[0])): op for op in tuning.kernels_in(elaborated.module)}
        assert set(found) == keys
        return {key: TARGETS["cpu"].schedules(op) for key, op in found.items()}


def run(model: dslc.Model) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    program = dslc.compile(model)
    return program(**{p.name: rng.standard_normal(p.shape).astype(np.float32) for p in program.executable.ports_of("input")})


@pytest.mark.parametrize("text", [TWO, ATTENTION], ids=["two", "attention"])
def test_a_tuned_program_gives_the_same(text):
    model = dslc.load(text)
    known = kernels(model)
    plain, before = run(model), compile_program(model, "run", "cpu")
    assert not any(k.schedule for k in before.kernels)
    for turn in (1, 3, 6):
        asked = {key: texts[turn % len(texts)] for key, texts in known.items() if len(texts) > 1}
        for key, schedule in asked.items():
            measured.write(DEVICE(), key, Entry(schedule, 1.5, 5))
        found, executable = run(model), compile_program(model, "run", "cpu")
        assert {k.key: k.schedule for k in executable.kernels if k.schedule} == asked and asked
        assert executable.code != before.code
        for name, array in plain.items():
            np.testing.assert_allclose(found[name], array, rtol=2e-5, atol=2e-5 * np.abs(array).max())


def test_the_same_state_gives_the_same_program():
    model = dslc.load(TWO)
    for key, texts in kernels(model).items():
        measured.write(DEVICE(), key, Entry(texts[2], 1.5, 5))
    assert compile_anew(model, "run", "cpu").code == compile_anew(model, "run", "cpu").code == compile_program(model, "run", "cpu").code


def test_other_devices_and_versions_do_not_use_it(monkeypatch):
    model = dslc.load(TWO)
    for key, texts in kernels(model).items():
        measured.write("a processor elsewhere", key, Entry(texts[1], 1.5, 5))
        measured.write(DEVICE(), key, Entry(texts[1], 1.5, 5))
    assert schedules_for(model, target_of("cpu")) and all(k.schedule for k in compile_program(model, "run", "cpu").kernels)
    with monkeypatch.context() as changed:
        changed.setenv("DSLC_THREADS", "2" if "/1 threads" in DEVICE() else "1")
        assert not schedules_for(model, target_of("cpu")) and not any(k.schedule for k in compile_program(model, "run", "cpu").kernels)
    with monkeypatch.context() as changed:
        changed.setattr(cache, "compiler_version", lambda: "another")
        assert not any(k.schedule for k in compile_program(model, "run", "cpu").kernels)


def test_a_torn_file_leaves_it_to_the_cost_model(own_cache):
    model = dslc.load(TWO)
    for key, texts in kernels(model).items():
        measured.write(DEVICE(), key, Entry(texts[1], 1.5, 5))
    file = own_cache / measured.file_name(DEVICE())
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="are left out"):
        executable = compile_program(model, "run", "cpu")
    assert not any(k.schedule for k in executable.kernels)


def test_a_short_tune_ends_in_time():
    model = dslc.load(TWO)
    run(model)
    start = time.monotonic()
    events = []
    found = dslc.tune(model, 1.5, listener=events.append)
    assert time.monotonic() - start < 6  # all schedules of both products would take longer
    assert found == events and found[0].kind == "contract" and found[0].share > 0.2 and 0 < found[0].tried < found[0].schedules
    kept = measured.read(DEVICE())
    assert len(kept) == len(found) and {e.tried for e in kept.values()} == {f.tried for f in found}
    used = {k.key: k.schedule for k in compile_program(model, "run", "cpu").kernels}
    assert all(used[key] == entry.schedule for key, entry in kept.items())


def some(text: str, monkeypatch, better: str | None = None):
    """A model whose searches cost nothing: every one tries two schedules, `better` wins where it is among them."""
    asked = []

    def search(by_cost, others, build, until, clock):
        asked.append(list(others))
        name = better if better in others else by_cost
        return tuning.Found(name, 2.0 if name != by_cost else 1.0, min(2, len(others)), 0)

    monkeypatch.setattr(tuning, "search", search)
    monkeypatch.setattr(tuning, "LEAST_SHARE", 0.0)  # a kernel's share of so small a model varies
    return dslc.load(text), asked


def test_a_second_tune_goes_on(monkeypatch):
    model, asked = some(TWO, monkeypatch)
    dslc.tune(model, 60)
    first = [len(others) for others in asked]
    dslc.tune(model, 60)
    assert [len(others) for others in asked[len(first) :]] == [n - 2 for n in first]
    assert {e.tried for e in measured.read(DEVICE()).values()} == {4}


def test_the_best_so_far_is_tried_again(monkeypatch):
    model = dslc.load(TWO)
    best = {texts[1] for texts in kernels(model).values()}.pop()
    model, asked = some(TWO, monkeypatch, best)
    dslc.tune(model, 60)
    assert best in schedules_for(model, target_of("cpu")).values()
    dslc.tune(model, 60)
    assert any(others[0] == best for others in asked[len(asked) // 2 :])
    assert best in schedules_for(model, target_of("cpu")).values()


def test_an_interrupted_tune_keeps_what_it_measured(monkeypatch):
    model, asked = some(TWO, monkeypatch)
    counted = tuning.search

    def interrupted(*arguments):
        if asked:
            raise KeyboardInterrupt
        return counted(*arguments)

    monkeypatch.setattr(tuning, "search", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dslc.tune(model, 60)
    assert len(measured.read(DEVICE())) == 1


def test_nothing_begins_after_the_time(monkeypatch):
    model, asked = some(TWO, monkeypatch)
    times, events = iter([0.0, *[5.0] * 100]), []
    assert tuning.tune(model, 1, listener=events.append, clock=lambda: next(times)) == [] and asked == []
    assert [e.message for e in events] == ["nothing was tuned: the time was over before a schedule was tried: give more"]


def test_time_goes_by_share(monkeypatch):
    """Each kernel gets the part of what is left that its share is of those left; what a kernel leaves over is for the next."""
    model, _ = some(TWO, monkeypatch)
    slices = []
    monkeypatch.setattr(tuning, "search", lambda by_cost, others, build, until, clock: slices.append(until) or tuning.Found(by_cost, 1.0, 1, 0))
    found = tuning.tune(model, 60, clock=lambda: 0.0)
    shares = [f.share for f in found]
    assert len(found) > 1 and shares == sorted(shares, reverse=True)
    assert slices[0] == pytest.approx(60 * shares[0] / sum(shares)) and slices[-1] == pytest.approx(60)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_no_time_is_a_mistake(seconds):
    with pytest.raises(DataError, match="no time to tune in"):
        dslc.tune(dslc.load(TWO), seconds)


@pytest.mark.parametrize("target", ["reference", "cuda:sm_90a"])
def test_what_is_no_device_cannot_be_tuned(target):
    if TARGETS[target].missing():
        pytest.skip("no CUDA compiler")
    with pytest.raises(TargetError, match="cannot be measured"):
        dslc.tune(dslc.load(TWO), 1, target)


# ---- a GPU that is stood in for: kernels are generated, and a launch takes as long as its schedule is told to take


class Device:
    """Runs nothing; `times` says that the schedule `fast` takes half of what all others take."""

    def __init__(self, executable: Executable, fast: set[str]):
        self.executable, self.fast = executable, fast

    def bind(self, store):
        pass

    def __call__(self, inputs, **_):
        return {p.name: np.zeros(p.shape, p.dtype.numpy) for p in self.executable.ports_of("output", "loss", "metric")}

    def times(self, turns: int = 20) -> list[float]:
        kernels = [self.executable.kernels[x.kernel] for x in self.executable.launches]
        return [(0.5 if k.schedule in self.fast else 1.0) / sum(k.key == other.key for other in kernels) for k in kernels]


NARROW = """
model Narrow:
    dims batch=2, time=256
    input a[512, 384], b[384, 256], q[batch, time, 64], v[batch, time, 64]
    y[i, j] = sum[k](a[i, k] * b[k, j])
    s[n, i, j] = sum[c](q[n, i, c] * q[n, j, c])
    p[n, i, j] = softmax[j](s[n, i, j])
    z[n, i, c] = sum[j](p[n, i, j] * v[n, j, c])
    output y, z
train:
    precision bfloat16
"""


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_a_gpus_schedules_are_measured(monkeypatch, arch):
    fast: set[str] = set()

    def compile(module):
        made = lower_plan(make_plan(module), ARCHS[arch])
        ports = make_plan(module).ports
        return Executable(f"cuda:{arch}", "run", "", "", ports, made.kernels, made.launches, made.arena_bytes, 0, made.constants, b"")

    gpu = dataclasses.replace(
        TARGETS["cuda"],
        compile=compile,
        load=lambda executable: Device(executable, fast),
        fingerprint=lambda: arch,
        missing=lambda: None,
        device=lambda: f"some GPU/{arch}",
        schedules=lambda kernel: schedules_of(kernel, ARCHS[arch]),
    )
    for name in ("cuda", f"cuda:{arch}"):
        monkeypatch.setitem(targets.TARGETS, name, gpu)
    model = dslc.load(NARROW)
    elaborated = lower(model, "run", gpu)
    with elaborated.context, elaborated.location:
        spaces = {op.kind: gpu.schedules(op) for op in tuning.kernels_in(elaborated.module) if op.kind in ("contract", "attention")}
    assert set(spaces) == {"contract", "attention"} and all(len(texts) > 1 for texts in spaces.values())
    fast |= {texts[-1] for texts in spaces.values()}
    found = {t.kind: t for t in dslc.tune(model, 600, "cuda")}
    for kind, texts in spaces.items():
        assert found[kind].schedule == texts[-1] and found[kind].gain == pytest.approx(2) and found[kind].tried == len(texts) - 1
    assert {k.schedule for launched in compile_program(model, "run", "cuda").kernels for k in launched.each if k.kind in spaces} == fast
    assert len(measured.read(f"some GPU/{arch}")) == len(found) and measured.read(DEVICE()) == {}


@pytest.mark.slow
@pytest.mark.skipif(TARGETS["cuda-emulated"].missing() is not None, reason="no emulator")
def test_a_devices_own_programs_are_timed(monkeypatch):
    """The emulator as the device: kernels run, the driver tells the times of their launches, and the results agree."""
    emulator = TARGETS["cuda-emulated"]
    second = dataclasses.replace(emulator, device=lambda: "the emulator", schedules=lambda kernel: emulator.schedules(kernel)[:2])
    monkeypatch.setitem(targets.TARGETS, "cuda-emulated", second)
    model = dslc.load("model P:\n    input a[24, 40], b[40, 32]\n    y[i, j] = sum[k](a[i, k] * b[k, j])\n    output y\n")
    (found,) = dslc.tune(model, 600, "cuda-emulated")
    assert (found.tried, found.schedules, found.refused) == (1, 1, 0) and set(measured.read("the emulator").values()) == {
        Entry(found.schedule, found.gain, 1)
    }
    assert {k.schedule for k in compile_program(model, "run", "cuda-emulated").kernels} == {found.schedule}
