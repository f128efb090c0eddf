"""The targets by name: how each compiles a fused module, runs what it compiled, and what it lacks on this machine."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from .backend_cuda.arch import ARCHS, arch_of
from .core.errors import TargetError, did_you_mean
from .core.executable import Executable

if TYPE_CHECKING:
    from .runtime.program import Program


@dataclass(frozen=True)
class Target:
    """`compile(module)` gives an Executable, `load(executable)` a Program; `fingerprint()` names what compiled code depends on besides the
    program; `missing()` says in one sentence what is not there, or gives None. `compile_timed`: as `compile`, a program that times its launches
    itself (`core.executable.TIMES`). `device()` names what schedules are measured on, None where that is not this machine's; `schedules(kernel)` are
    those that a kernel may have, the cost model's first. `workers()` and `few_rows`: those of the pass `Attention`; `channels_last`: convolutions
    want values so on tensor cores; `lanes()`: float32 values in a vector, of a target that wants them so for its vectors' sake, else 0; `phases`:
    spaced ones are to be products; `lines`: products want weights so; `repeats`: its programs run again without the host (`DeviceProgram.again`);
    `launches`: to launch a kernel costs more than small ones do; `pieces`: parameters that are only read prepared leave the memory one by one."""

    name: str
    lowered: bool  # takes kernels (after fuse), not single ops
    compile: Callable[[Any], Executable]
    load: Callable[[Executable], Program]
    fingerprint: Callable[[], str]
    missing: Callable[[], str | None]
    compile_timed: Callable[[Any], Executable] | None = None
    device: Callable[[], str | None] = lambda: None
    schedules: Callable[[Any], list[str]] = lambda kernel: []
    workers: Callable[[], int] = lambda: 0
    few_rows: bool = False
    channels_last: bool = False
    lanes: Callable[[], int] = lambda: 0
    phases: bool = False
    lines: bool = False
    repeats: bool = False
    launches: bool = False
    pieces: bool = False


def _compile_cpu(module: Any, timed: bool = False) -> Executable:
    from .backend_cpu.backend import compile_plan
    from .backend_cpu.machine import host
    from .passes.plan import make_plan

    return compile_plan(make_plan(module), host(), timed)


def _load(executable: Executable) -> Program:
    from .runtime.drivers.choice import program_for

    return program_for(executable)


def _cpu_fingerprint() -> str:
    from .backend_cpu.machine import host

    return " ".join([host().key(), *host().instructions])


def _cpu_workers() -> int:
    from .backend_cpu.machine import host

    return host().cores


def _cpu_lanes() -> int:
    from .backend_cpu.machine import host

    return host().lanes


def _cpu_device() -> str:
    from .backend_cpu.machine import host
    from .runtime.drivers.cpu.pool import thread_count

    return f"cpu {host().key()}/{'avx512' if host().lanes == 16 else 'avx2'}/{thread_count()} threads"


def _cpu_schedules(kernel: Any) -> list[str]:
    from .backend_cpu.backend import schedules_of
    from .backend_cpu.machine import host

    return schedules_of(kernel, host())


def _cpu_missing() -> str | None:
    import platform

    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"native code is made for Linux on x86-64, this is {platform.system()} on {platform.machine()}; use --target reference"
    return None


def _compile_reference(module: Any) -> Executable:
    from .reference_program import compile_reference

    return compile_reference(module)


def _load_reference(executable: Executable) -> Program:
    from .reference_program import ReferenceProgram

    return ReferenceProgram(executable)


def _cuda_target(name: str, arch: Callable[[], str], missing: Callable[[], str | None],
                 device: Callable[[], str | None] = lambda: None) -> Target:  # fmt: skip
    """A target of the CUDA backend for the architecture that `arch()` names."""

    def compile(module: Any) -> Executable:
        from .backend_cuda.backend import compile_plan
        from .passes.plan import make_plan

        return compile_plan(make_plan(module), arch_of(arch()))

    def fingerprint() -> str:
        from .backend_cuda.nvrtc import version

        return arch() if arch().startswith("emulated") else f"{arch()} {version()}"

    def schedules(kernel: Any) -> list[str]:
        from .backend_cuda.backend import schedules_of

        return schedules_of(kernel, arch_of(arch()))

    return Target(name, True, compile, _load, fingerprint, missing, device=device, schedules=schedules, few_rows=True, channels_last=True,
                  repeats=True, launches=True)  # fmt: skip


def _found_arch() -> str:
    from .runtime.drivers.choice import gpu_driver

    return gpu_driver().arch


def _gpu_device() -> str:
    """The GPU's name without its number, and its architecture."""
    from .runtime.drivers.choice import gpu_driver

    driver = gpu_driver()
    return f"{driver.device.rpartition(' (device ')[0] or driver.device}/{driver.arch}"


def _gpu_missing() -> str | None:
    try:
        _found_arch()
    except TargetError as error:
        return error.message
    return _nvrtc_missing()


def _nvrtc_missing() -> str | None:
    from .backend_cuda.nvrtc import missing

    return missing()


def _emulator_missing() -> str | None:
    import shutil

    from .backend_cuda.emulated import cuda_headers

    if shutil.which("g++") is None:
        return "it compiles kernels by g++, which is not installed"
    try:
        cuda_headers()
    except TargetError as error:
        return error.message
    return None


OLDEST = min(a.sm for a in ARCHS.values())
# Programs of architectures are compiled with or without a GPU; a run asks for the device.
TARGETS = {
    t.name: t
    for t in (
        Target("cpu", True, _compile_cpu, _load, _cpu_fingerprint, _cpu_missing,
               partial(_compile_cpu, timed=True), _cpu_device, _cpu_schedules, _cpu_workers, lanes=_cpu_lanes, phases=True, lines=True,
               pieces=True),
        Target("reference", False, _compile_reference, _load_reference, lambda: "", lambda: None),
        _cuda_target("cuda", _found_arch, _gpu_missing, _gpu_device),
        *(_cuda_target(f"cuda:{a}", lambda a=a: a, _nvrtc_missing) for a in ARCHS),  # type: ignore[misc]
        _cuda_target("cuda-emulated", lambda: "emulated", _emulator_missing),
        _cuda_target("cuda-emulated:checked", lambda: "emulated:checked", _emulator_missing),
    )
}  # fmt: skip


_OTHER_NAMES = {"gpu": "cuda", "numpy": "reference"}  # what people say


def target_of(name: str) -> Target:
    """The target of that name, there to be used; TargetError where it is unknown or something is missing."""
    if name not in TARGETS:
        number = re.fullmatch(r"cuda:sm_(\d+)[af]?", name)
        if number and int(number[1]) < OLDEST:
            raise TargetError(f"{name.removeprefix('cuda:')} is too old", help=f"kernels are made for sm_{OLDEST} and newer: {', '.join(ARCHS)}")
        meant = did_you_mean(_OTHER_NAMES.get(name, name), TARGETS)
        raise TargetError(f"unknown target '{name}'{meant}", help=f"the targets are {', '.join(TARGETS)}")
    missing = TARGETS[name].missing()
    if missing:
        raise TargetError(f"target '{name}' cannot be used here: {missing}")
    return TARGETS[name]
