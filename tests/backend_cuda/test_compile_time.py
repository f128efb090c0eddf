"""How long the training step of GPT-2 124M takes to compile for a GPU, in seconds of processors, which hold on a machine that does other things."""

from __future__ import annotations

import resource
import time

import numpy as np
import pytest

import dslc
from benchmarks.gpu_train import WORKLOADS
from benchmarks.workloads import MODELS
from dslc.backend_cuda import nvrtc
from dslc.compiler import compile_program

COLD, WARM = 20.0, 2.0  # seconds on two cores


def seconds_on_two_cores() -> float:
    """The time since the last call that two cores need: what this thread did, and half of what others did, several at once (NVRTC)."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return time.thread_time() / 2 + (used.ru_utime + used.ru_stime) / 2


@pytest.mark.slow
@pytest.mark.skipif(nvrtc.missing() is not None, reason="needs NVRTC and NVIDIA's headers")
def test_the_step_of_gpt2(tmp_path, monkeypatch):
    monkeypatch.setenv("DSLC_CACHE", str(tmp_path))
    workload = WORKLOADS["gpt2_124m"]
    made, taken = [], []
    for _ in range(2):
        start = seconds_on_two_cores()
        model = dslc.load(str(MODELS / "gpt.dsl"), precision=workload.precision, **workload.sizes)
        made.append(compile_program(model, "step", "cuda:sm_90a"))
        taken.append(seconds_on_two_cores() - start)
    parameters = sum(np.prod(p.shape) for p in made[0].ports_of("param"))
    assert 120e6 < parameters < 130e6 and made[0].code == made[1].code
    assert taken[0] < COLD and taken[1] < WARM, taken
