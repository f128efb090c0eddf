"""narrow_scans: 16-bit floats cross a scan's edges as they are, and what is found does not change by a bit."""

from __future__ import annotations

import numpy as np
import pytest

import dslc
from dslc.compiler import lower
from dslc.ir import ops
from dslc.ir.plan import Call, Loop
from dslc.ir.program import program_of
from dslc.ir.types import type_of
from dslc.passes.narrow_scans import NarrowScans
from dslc.passes.plan import make_plan
from dslc.targets import target_of

RNN = """
model M:
    input   x[3, 7, 8], y[3, 7, 16]
    logits = {layer}(x, 16)
    output  logits
    loss    mean((logits - y) ** 2)
train:
    optimizer sgd(lr=0.5)
    precision bfloat16
"""
# carries of the scan of each layer, and those that are narrow
CARRIES = {"rnn": (1, 1), "lstm": (2, 1), "gru": (2, 1)}


def scan_of(source, program, after):
    elaborated = lower(dslc.load(source), program, target_of("cuda-emulated"), after=after)
    with elaborated.context, elaborated.location:
        (scan,) = (op for op in program_of(elaborated.module).entry_block.operations if isinstance(op, ops.Scan))
        types = [type_of(v) for v in scan.operands]
        c, k = scan.constants, scan.carries
        return types[c : c + k], types[c + k :], elaborated


@pytest.mark.parametrize("layer", CARRIES)
def test_edges(layer):
    """The product of the inputs, and what the recurrent product multiplies, are bfloat16; GRU's state is needed in float32 besides."""
    carries, slices, _ = scan_of(RNN.format(layer=layer), "run", "narrow_scans")
    assert (len(carries), sum(t.dtype.bits == 16 for t in carries)) == CARRIES[layer]
    assert [t.dtype.bits for t in slices] == [16]


def test_a_final_state_stays_wide():
    """The value that the carry ends with is asked for: it is no rounded one."""
    source = """
model M:
    input   x[2, 5, 8]
    param   w[8, 8] ~ normal()
    scan t carry h[i < 2, v < 8] = 0:
        h[b, u] = tanh(x[b, t, u] + sum[v](h[b, v] * w[v, u]))
    output  last = h
train:
    precision bfloat16
"""
    carries, _, _ = scan_of(source, "run", "narrow_scans")
    assert sorted(t.dtype.bits for t in carries) == [16, 32]


@pytest.mark.parametrize("layer", CARRIES)
def test_nothing_else_changes(layer, monkeypatch):
    """The losses of some steps, with the pass and without."""
    rng = np.random.default_rng(0)
    given = {"x": rng.standard_normal((3, 7, 8)).astype(np.float32), "y": rng.standard_normal((3, 7, 16)).astype(np.float32)}
    found = []
    for run in (NarrowScans.run, lambda self, module: None):
        monkeypatch.setattr(NarrowScans, "run", run)
        trainer = dslc.Trainer(dslc.load(RNN.format(layer=layer)), target="cpu")
        found.append([float(trainer.step(**given)) for _ in range(3)])
    assert found[0] == found[1] and found[0][0] != found[0][2]


def test_a_turn_has_no_casts_of_its_own():
    _, _, elaborated = scan_of(RNN.format(layer="lstm"), "run", None)
    with elaborated.context, elaborated.location:
        (loop,) = (s for s in make_plan(elaborated.module).steps if isinstance(s, Loop))
    assert [s.kernel.kind for s in loop.steps if isinstance(s, Call)] == ["contract", "map"] and len(loop.steps) == 2
