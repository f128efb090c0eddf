"""Runs kernels built by hand (the cases of the CPU's tests) on the emulator, and compares them with the float64 reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dslc.backend_cuda.arch import EMULATED, arch_of
from dslc.backend_cuda.backend import compile_plan
from dslc.core.executable import Executable
from dslc.ir import op as nn
from dslc.ir.mlir import ir
from dslc.runtime.drivers.device_program import DeviceProgram
from dslc.runtime.drivers.emulated_device import EmulatorDriver
from tests.backend_cpu.kernels import harness
from tests.backend_cpu.kernels.harness import Case


def compiled(cases: Sequence[Case], arch: str = EMULATED.name) -> Executable:
    """All cases as one program; fills in what the reference expects."""
    rng = np.random.default_rng(0)
    for case in cases:
        case.arrays = [a if isinstance(a, np.ndarray) else harness.sample(a[0], a[1], rng) for a in case.operands]
    with nn.context(), ir.Location.unknown():
        module = ir.Module.create()  # the plan's kernels live in it
        plan, _ = harness.plan_of(module, cases)
        return compile_plan(plan, arch_of(arch))


def run(cases: Sequence[Case], orders: Sequence[str] = ("forward", "reverse", "shuffled")) -> None:
    """Compiles all cases and fills in their results, which every order of the threads must give to the bit."""
    executable = compiled(cases)
    inputs = [p for p in executable.ports if p.role == "input"]
    outputs = [p for p in executable.ports if p.role == "output"]
    given = iter([a for case in cases for a in case.arrays])
    feed = {p.name: next(given) for p in inputs}
    found = []
    for order in orders:
        results = DeviceProgram(executable, EmulatorDriver(order=order, seed=1))(feed)
        found.append({p.name: np.array(results[p.name]) for p in outputs})
    for other in found[1:]:
        for name, value in other.items():
            assert value.tobytes() == found[0][name].tobytes(), f"{name} differs with the order of the threads"
    for case in cases:
        case.results = [found[0][p.name] for p in outputs if p.name.startswith(f"{case.name}.")]
