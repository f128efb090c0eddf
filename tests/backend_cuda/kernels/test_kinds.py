"""Every kernel kind on the emulator: the cases of the CPU backend's tests, in three orders of the threads, against the float64 reference."""

from __future__ import annotations

from functools import cache

import pytest

from tests.backend_cpu.kernels import test_composite, test_contract, test_elementwise, test_movement, test_reduce, test_whole
from tests.backend_cpu.kernels.harness import Case, check

from .emulated import compiled, run

MODULES = {"composite": test_composite, "contract": test_contract, "movement": test_movement, "reduce": test_reduce, "whole": test_whole}
CASES = {name: module.CASES for name, module in MODULES.items()} | {"elementwise": test_elementwise.all_cases()}


@cache
def results(group: str) -> dict[str, Case]:
    run(CASES[group])
    return {case.name: case for case in CASES[group]}


@pytest.mark.parametrize("group, name", [(group, case.name) for group in MODULES for case in CASES[group]])
def test_kernel(group: str, name: str) -> None:
    check(results(group)[name])


def test_elementwise_ops() -> None:
    """Every elementwise op on every type that it takes, and every cast."""
    for case in results("elementwise").values():
        check(case)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("group", MODULES)
def test_compiles_without_a_spill(group: str, arch: str) -> None:
    """The build refuses spills."""
    assert compiled(CASES[group], arch).kernels
