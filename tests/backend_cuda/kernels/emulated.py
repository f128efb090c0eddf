"""Runs kernels built by hand (the cases of the CPU's tests) on the emulator, and compares them with the float64 reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dslc.backend_cuda.arch import CHECKED, arch_of
from dslc.backend_cuda.backend import compile_plan
from dslc.core.executable import Executable
from dslc.ir import op as nn
from dslc.ir.mlir import ir
from dslc.runtime.drivers.device_program import DeviceProgram
from dslc.runtime.drivers.emulated_device import EmulatorDriver
from tests.backend_cpu.kernels import harness
from tests.backend_cpu.kernels.harness import Case


def compiled(cases: Sequence[Case], arch: str = CHECKED.name) -> Executable:
    """All cases as one program; fills in what the reference expects."""
    rng = np.random.default_rng(0)
    for case in cases:
        case.arrays = [a if isinstance(a, np.ndarray) else harness.sample(a[0], a[1], rng) for a in case.operands]
    with nn.context(), ir.Location.unknown():
        module = ir.Module.create()  # the plan's kernels live in it
        plan, _ = harness.plan_of(module, cases)
        return compile_plan(plan, arch_of(arch))


def given(executable: Executable, cases: Sequence[Case]) -> dict[str, np.ndarray]:
    """The inputs of the program of some cases."""
    arrays = iter([a for case in cases for a in case.arrays])
    return {p.name: next(arrays) for p in executable.ports if p.role == "input"}


def results_of(cases: Sequence[Case], found: Mapping[str, np.ndarray]) -> None:
    """Fills in the results of the cases from those of their program."""
    for case in cases:
        case.results = [found[f"{case.name}.{k}"] for k in range(len(case.arrays), len(case.arrays) + len(case.expected))]


def run(cases: Sequence[Case], orders: Sequence[str] = ("forward", "reverse", "shuffled")) -> None:
    """Compiles all cases and fills in their results, which every order of the threads must give to the bit."""
    executable = compiled(cases)
    feed = given(executable, cases)
    found = [{k: np.array(v) for k, v in DeviceProgram(executable, EmulatorDriver(order=order, seed=1))(feed).items()} for order in orders]
    for other in found[1:]:
        for name, value in other.items():
            assert value.tobytes() == found[0][name].tobytes(), f"{name} differs with the order of the threads"
    results_of(cases, found[0])
