"""Weights that no turn of a loop changes are packed once before it, and others are not."""

import numpy as np
import pytest

import dslc
from dslc.backend_cpu import gemm_schedule
from dslc.backend_cpu.backend import _Writer
from dslc.backend_cpu.loops import KEPT, Turns
from dslc.backend_cpu.machine import Machine, host
from dslc.backend_cpu.native import KernelCall
from dslc.compiler import lower
from dslc.ir.plan import Copy, Loop, Place
from dslc.passes.plan import make_plan
from dslc.targets import target_of

MODELS = {  # with the number of times that something is packed before a loop
    "fixed": (1, """    scan t carry h[b, u < 256] = 0:
        h[b, u] = tanh(x[b, t, u] + sum[v](h[b, v] * w[v, u]))
        emit y[b, t, u] = h[b, u]
"""),
    "two weights in one code": (2, """    scan t carry h[b, u < 256] = 1:
        g[b, u] = tanh(sum[v](h[b, v] * w[v, u]))
        f[b, u] = tanh(sum[v](g[b, v] * w2[v, u]))
        h[b, u] = softmax[u](f[b, u]) + x[b, t, u]
        emit y[b, t, u] = h[b, u]
"""),
    "carried": (0, """    scan t carry h[b, u < 256] = 0, m[v < 256, u < 256] = 0:
        h[b, u] = tanh(x[b, t, u] + sum[v](h[b, v] * m[v, u]))
        m[v, u] = m[v, u] * 0.5 + w[v, u]
        emit y[b, t, u] = h[b, u]
"""),
    "another one each turn": (0, """    scan t carry h[b, u < 256] = 0:
        h[b, u] = tanh(x[b, t, u] + sum[v](h[b, v] * ws[t, v, u]))
        emit y[b, t, u] = h[b, u]
"""),
    "two loops": (2, """    scan t carry h[b, u < 256] = 0:
        h[b, u] = tanh(x[b, t, u] + sum[v](h[b, v] * w[v, u]))
        emit z[b, t, u] = h[b, u]
    scan t carry h[b, u < 256] = 0:
        h[b, u] = tanh(z[b, t, u] + sum[v](h[b, v] * w[v, u]))
        emit y[b, t, u] = h[b, u]
"""),
}  # fmt: skip
SPEC = """model Loops:
    dims    b=32, t=3
    input   x[b, t, 256]
    param   w[256, 256], w2[256, 256], ws[t, 256, 256] ~ normal(0.05)
{body}    output  y
"""


@pytest.mark.parametrize("name", MODELS)
def test_packed_once_where_nothing_changes(name):
    model = dslc.load(SPEC.format(body=MODELS[name][1]))
    x = np.random.default_rng(0).standard_normal((32, 3, 256)).astype(np.float32)
    found = dslc.compile(model, "cpu")(x=x)["y"]
    np.testing.assert_allclose(found, dslc.compile(model, "reference")(x=x)["y"], atol=2e-5)
    elaborated = lower(model, "run", target_of("cpu"))
    with elaborated.context, elaborated.location:
        plan = make_plan(elaborated.module)
        writer = _Writer(plan, Machine(16, 32, 32 << 10, 1 << 20, 2, "any"))
        calls = [s for s in writer.steps(plan.steps) if isinstance(s, KernelCall) and "_once_" in s.symbol]
    assert len(calls) == MODELS[name][0]
    places = {c.operands[-1] for c in calls}  # loops that follow each other share them
    assert len(places) == (1 if name == "two loops" else len(calls)) and all(p.space == KEPT for p in places)


def test_what_a_loop_writes():
    """Stretches grow by what places move in all turns of all loops, backward too."""
    inner = Loop(4, False, Place("arena", 8), (Copy(Place("slot", 1), Place("arena", 1000, (100, -16)), 32),))
    outer = Loop(3, True, Place("arena", 0), (inner, Copy(Place("arena", 0), Place("slot", 7, (64,)), 64)))
    assert set(Turns.of(outer).written) == {("arena", 0, 4), ("arena", 8, 12), ("arena", 952, 1232), ("slot", 7, 8)}


@pytest.mark.parametrize(("rows", "columns", "kept"), [(32, 8192, True), (512, 8192, False), (512, 512, True)])
def test_many_rows_pack_large_weights_in_each_turn(rows, columns, kept):
    """Rather than keep many bytes from turn to turn."""
    b = gemm_schedule.Side("k", shared=True, still=True)
    schedule = gemm_schedule.choose_whole(gemm_schedule.Shape(rows, columns, 512), gemm_schedule.Side("k"), b, host())
    assert schedule.whole_b == kept
