"""Kernels that spill: other schedules are made until none does, what was found is remembered, and where all spill the least of them is taken."""

from __future__ import annotations

import re

import numpy as np
import pytest

import dslc
from dslc.backend_cuda import backend, gemm_schedule, nvrtc, spills
from dslc.backend_cuda.arch import ARCHS, EMULATED
from dslc.backend_cuda.backend import compile_plan
from dslc.backend_cuda.beside import APART
from dslc.backend_cuda.gemm_schedule import TileSchedule
from dslc.backend_cuda.kernels import OP_BY_OP
from dslc.backend_cuda.nvrtc import Cubin, Resources, Slow, SlowCode
from dslc.backend_cuda.spills import Fallbacks
from dslc.compiler import compile_anew, lower
from dslc.ir.schedules import BY_COST, text_of
from dslc.passes.plan import make_plan
from dslc.runtime.drivers.device_program import DeviceProgram
from dslc.runtime.drivers.emulated_device import EmulatorDriver
from dslc.targets import target_of

compiles = pytest.mark.skipif(nvrtc.missing() is not None, reason="needs NVRTC and NVIDIA's headers")
MODEL = """model Mixed:
    input   a[4096, 512], b[512, 4096], q[2, 256, 64], v[2, 256, 64]
    y[i, j] = sum[k](a[i, k] * b[k, j])
    s[n, i, j] = sum[c](q[n, i, c] * q[n, j, c])
    p[n, i, j] = softmax[j](s[n, i, j])
    z[n, i, c] = sum[j](p[n, i, j] * v[n, j, c])
    h[i, k] = softmax[k](exp(a[i, k]) + a[i, k])
    output  y, z, h
train:
    precision  bfloat16
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DSLC_CACHE", str(tmp_path))
    return tmp_path


def made(arch: str, instead: Fallbacks | None = None) -> backend.Lowered:
    elaborated = lower(dslc.load(MODEL), "run", target_of(f"cuda:{arch}"))
    with elaborated.context, elaborated.location:
        return backend.lower_plan(make_plan(elaborated.module), ARCHS[arch], instead)


def spilling(monkeypatch, arch: str, spills_in, counts: list[int] | None = None):
    """The compilation of the model where ptxas says of some functions that they spill: those of which `spills_in(kernel)` is not 0, the bytes."""
    current: list[backend.Lowered] = []
    lowered_by = backend.lower_plan

    def lower_plan(*arguments):
        current.append(lowered_by(*arguments))
        return current[-1]

    def machine_code(text, arch, slow):
        spilled = {f.symbol: int(spills_in(m)) for m in current[-1].made for f in m.unit.functions}
        found = {symbol: Slow(f"{symbol} spills {n} bytes", n) for symbol, n in spilled.items() if n and symbol not in slow}
        if found:
            raise SlowCode(found)
        return b"code"

    monkeypatch.setattr(backend, "lower_plan", lower_plan)
    monkeypatch.setattr(backend, "machine_code", machine_code)
    executable = compile_anew(dslc.load(MODEL), "run", f"cuda:{arch}")
    if counts is not None:
        counts.append(len(current))
    return executable, {m.unit.kind: m for m in current[-1].made}


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_the_next_schedules_fill_fewer_registers(monkeypatch, arch):
    """First a whole multiprocessor's registers are taken, then schedules of the space, each of which fills fewer than the one before."""
    (by_cost,) = (m for m in made(arch).made if m.unit.kind == "contract")
    seen: list[spills.Form] = []

    def all_of_the_space(m):
        if m.unit.kind == "contract" and m.form not in seen:
            seen.append(m.form)
        return m.unit.kind == "contract" and m.form.schedule != OP_BY_OP

    spilling(monkeypatch, arch, all_of_the_space)
    choice = by_cost.generated.choice
    known = {text_of(s): choice.held(s) for s in choice.space()}
    assert seen[0] == spills.Form(BY_COST) and seen[-1] == spills.Form(OP_BY_OP)
    filled = [choice.held(choice.taken), *(known[f.schedule] for f in seen[1:-1] if not f.alone and f.schedule != BY_COST)]
    assert len(filled) >= 2 and filled == sorted(set(filled), reverse=True)
    beside = max(f.blocks_per_sm for f in by_cost.generated.functions) > 1
    assert (seen[1] == spills.Form(BY_COST, alone=True)) == beside


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("kind", ["contract", "attention", "reduce"])
def test_in_the_end_a_kernel_is_made_op_by_op(monkeypatch, arch, kind):
    """Where every schedule spills; kernels of other kinds stay."""
    _, before = spilling(monkeypatch, arch, lambda m: False)
    executable, after = spilling(monkeypatch, arch, lambda m: m.unit.kind == kind and m.form.schedule != OP_BY_OP)
    assert after[kind].form.schedule == OP_BY_OP
    assert {k: m.form for k, m in after.items() if k != kind} == {k: m.form for k, m in before.items() if k != kind}
    assert "(another one spills)" in executable.source and not any(k.schedule for k in executable.kernels)


def test_what_was_found_is_remembered(monkeypatch):
    counts: list[int] = []
    heavy = lambda m: m.unit.kind == "attention" and m.form.schedule == BY_COST  # noqa: E731
    first, _ = spilling(monkeypatch, "sm_80", heavy, counts)
    again, _ = spilling(monkeypatch, "sm_80", heavy, counts)
    assert counts[0] > 1 and counts[1] == 1 and first.source == again.source
    spilling(monkeypatch, "sm_90a", heavy, counts)
    assert counts[2] > 1, "another architecture has other registers"


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("least", [0, 1, OP_BY_OP], ids=["the first", "the second", "op by op"])
def test_where_every_form_spills_the_least_is_taken(monkeypatch, arch, least):
    """The program is made all the same, says so above the kernel, and is made at once the next time."""
    forms: list[spills.Form] = []

    def spilled(m):
        if m.unit.kind != "contract":
            return 0
        form = spills.Form(m.form.schedule, m.form.alone)
        if form not in forms:
            forms.append(form)
        return 8 if least in (forms.index(form), form.schedule) else 24

    counts: list[int] = []
    executable, kernels = spilling(monkeypatch, arch, spilled, counts)
    made = kernels["contract"]
    wanted = next(f for k, f in enumerate(forms) if least in (k, f.schedule))
    assert len(forms) > 2 and (made.form.schedule, made.form.alone) == (wanted.schedule, wanted.alone)
    assert executable.source.count("bytes: no schedule of it has less of that") == 1
    assert f"// {made.unit.functions[0].symbol} spills 8 bytes: no schedule of it has less of that\nextern" in executable.source
    again, _ = spilling(monkeypatch, arch, spilled, counts)
    assert counts[0] == len(forms) + 1 and counts[1] == 1 and again.source == executable.source


def test_a_function_that_has_one_form_may_spill():
    """As those of an update's groups."""
    fallbacks, kernels = Fallbacks(ARCHS["sm_80"]), made("sm_80").made
    fallbacks.replace(kernels, SlowCode({"k99_other": Slow("k99_other spills", 8)}))
    assert fallbacks.slow(kernels) == {"k99_other"}


@compiles
def test_ptxas_finds_a_planted_spill_and_another_schedule_is_made(monkeypatch):
    """Tiles so large that no thread can hold its 256 sums, said to be cheap: the cost model chooses them, ptxas refuses, the program has others."""
    huge = TileSchedule(128, 64, 32, 1, 2, 1, 4)
    real, cycles = gemm_schedule.tile_schedules, gemm_schedule.tile_cycles
    from dslc.backend_cuda.kernels import tiles

    monkeypatch.setattr(tiles, "tile_schedules", lambda *given: [huge, *real(*given)])
    monkeypatch.setattr(tiles, "tile_cycles", lambda s, *given: 1.0 if s == huge else cycles(s, *given))
    text = "model Product:\n    input   a[512, 512]: bfloat16, b[512, 512]: bfloat16\n    y[i, j] = sum[k](a[i, k] * b[k, j])\n    output  y\n"
    elaborated = lower(dslc.load(text), "run", target_of("cuda:sm_80"))
    reports: list[Cubin] = []
    watched = nvrtc.check_logs
    monkeypatch.setattr(nvrtc, "check_logs", lambda texts, cubins, slow: (reports.extend(cubins), watched(texts, cubins, slow)))
    with elaborated.context, elaborated.location:
        executable = compile_plan(make_plan(elaborated.module), ARCHS["sm_80"])
    used: list[Resources] = [r for cubin in reports for r in cubin.kernels.values()]
    assert used[0].spill_stores > 0 and used[-1].spill_stores == 0
    assert f"{huge.rows} x {huge.columns}, 2 stages of 32 terms, 1 warps" not in executable.source
    assert re.search(r"tiles of \d+ x \d+.* \(another one spills\)", executable.source)


@pytest.mark.parametrize("text", [b"", b"{", b'{"schedule": 1, "more": 2}'])
def test_a_torn_memory_is_found_again(own_cache, monkeypatch, text):
    heavy = lambda m: m.unit.kind == "attention" and m.form.schedule == BY_COST  # noqa: E731
    first, _ = spilling(monkeypatch, "sm_80", heavy)
    files = [f for f in own_cache.glob("*.json")]
    assert files
    for file in files:
        file.write_bytes(text)
    again, _ = spilling(monkeypatch, "sm_80", heavy)
    assert again.source == first.source


@pytest.mark.skipif(target_of("cuda-emulated").missing() is not None, reason="needs g++ and NVIDIA's headers")
@pytest.mark.parametrize("place", [-2, -1], ids=["the lightest schedule", "op by op"])
def test_kernels_made_otherwise_compute_the_same(place, monkeypatch):
    """Every kernel in the last form of its space, and op by op, on the emulator."""
    text = MODEL
    for size, small in (("4096", "40"), ("512", "72"), ("256", "136"), ("bfloat16", "float32")):
        text = text.replace(size, small)
    model = dslc.load(text)

    class Others(Fallbacks):
        def of(self, key, asked):
            return forms.get(key, spills.Form(asked))

    forms: dict[str, spills.Form] = {}
    elaborated = lower(model, "run", target_of("cuda-emulated"))
    with elaborated.context, elaborated.location:
        kernels = backend.lower_plan(make_plan(elaborated.module), ARCHS["sm_80"]).made
        for m in kernels:
            lighter = m.generated.choice.lighter()
            if len(lighter) >= -place:
                forms[m.key] = spills.Form(lighter[place])
    assert {m.unit.kind for m in kernels if m.key in forms} >= ({"reduce", "attention"} if place == -2 else {"reduce", "attention", "contract"})
    monkeypatch.setattr(backend, "Fallbacks", Others)
    with elaborated.context, elaborated.location:
        executable = compile_plan(make_plan(elaborated.module), EMULATED)
    assert executable.source.count("(another one spills)") == sum(form.schedule != APART for form in forms.values())
    rng = np.random.default_rng(0)
    feed = {p.name: rng.standard_normal(p.shape).astype(np.float32) for p in executable.ports_of("input")}
    expected = dslc.compile(model, target="reference")(**feed)
    for name, value in DeviceProgram(executable, EmulatorDriver())(feed).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5 * np.abs(expected[name]).max(), err_msg=name)
