"""The targets by name: how each compiles a fused module, runs what it compiled, and what it lacks on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .core.errors import TargetError, did_you_mean
from .core.executable import Executable

if TYPE_CHECKING:
    from .runtime.program import Program


@dataclass(frozen=True)
class Target:
    """`compile(module, name)` gives an Executable, `load(executable)` a Program; `fingerprint()` names what compiled code depends on besides the
    program; `missing()` says in one sentence what is not there, or gives None."""

    name: str
    about: str
    lowered: bool  # takes kernels (after fuse), not single ops
    compile: Callable[[Any, str], Executable]
    load: Callable[[Executable], Program]
    fingerprint: Callable[[], str]
    missing: Callable[[], str | None]


def _compile_cpu(module: Any, name: str) -> Executable:
    from .backend_cpu.backend import compile_plan
    from .backend_cpu.machine import host
    from .passes.plan import make_plan

    return compile_plan(make_plan(module), host())


def _load_cpu(executable: Executable) -> Program:
    from .runtime.drivers.cpu.program import CpuProgram

    return CpuProgram(executable)


def _cpu_fingerprint() -> str:
    from .backend_cpu.machine import host

    return host().key()


def _cpu_missing() -> str | None:
    import platform

    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"native code is made for Linux on x86-64, this is {platform.system()} on {platform.machine()}; use --target reference"
    return None


def _compile_reference(module: Any, name: str) -> Executable:
    from .reference_program import compile_reference

    return compile_reference(module, name)


def _load_reference(executable: Executable) -> Program:
    from .reference_program import ReferenceProgram

    return ReferenceProgram(executable)


TARGETS = {
    t.name: t
    for t in (
        Target("cpu", "native code for this processor", True, _compile_cpu, _load_cpu, _cpu_fingerprint, _cpu_missing),
        Target("reference", "numpy in float64: slow, the oracle", False, _compile_reference, _load_reference, lambda: "", lambda: None),
    )
}


def target_of(name: str) -> Target:
    """The target of that name, there to be used; TargetError where it is unknown or something is missing."""
    if name not in TARGETS:
        raise TargetError(f"unknown target '{name}'{did_you_mean(name, TARGETS)}", help=f"the targets are {', '.join(TARGETS)}")
    missing = TARGETS[name].missing()
    if missing:
        raise TargetError(f"target '{name}' cannot be used here: {missing}")
    return TARGETS[name]
