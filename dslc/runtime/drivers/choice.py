"""Which driver runs an executable: by its target."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.errors import TargetError, did_you_mean
from ...core.executable import Executable, from_bytes

if TYPE_CHECKING:
    from ..program import Program
    from .device import Driver


def program_for(executable: Executable, driver: Driver | None = None) -> Program:
    """The program, loaded. `driver`: the device to use instead of the target's own. TargetError where it cannot run here."""
    main = _loaded(executable, driver)
    if not executable.prepare:
        return main
    from ..prepared import PreparedProgram

    return PreparedProgram(main, _loaded(from_bytes(executable.prepare), driver))


def _loaded(executable: Executable, driver: Driver | None) -> Program:
    if driver is None and executable.target == "cpu":
        from .cpu.program import CpuProgram

        _check_processor(executable)
        return CpuProgram(executable)
    from .device_program import DeviceProgram

    return DeviceProgram(executable, driver or driver_of(executable.target))


def driver_of(target: str) -> Driver:
    """The driver of "cuda", "cuda:ARCH", "cuda-emulated" or "cuda-emulated:checked"."""
    if target.split(":")[0] == "cuda-emulated":
        from .emulated_device import emulator_driver

        return emulator_driver()
    if target.split(":")[0] == "cuda":
        return gpu_driver()
    raise TargetError(f"no driver runs programs for {target}")


def gpu_driver() -> Driver:
    """The GPU of this machine: through cuda-bindings, or through pycuda where that alone is installed or `DSLC_CUDA_DRIVER` says so."""
    from .cuda import cuda_driver
    from .pycuda import pycuda_driver

    drivers: dict[str, Callable[[], Driver]] = {"cuda": cuda_driver, "pycuda": pycuda_driver}
    wanted = os.environ.get("DSLC_CUDA_DRIVER") or ("pycuda" if not _installed("cuda.bindings") and _installed("pycuda") else "cuda")
    if wanted not in drivers:
        raise TargetError(f"DSLC_CUDA_DRIVER is '{wanted}'{did_you_mean(wanted, drivers)}", help=f"the drivers are {', '.join(drivers)}")
    return drivers[wanted]()


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ImportError:  # of the package that it is in
        return False


def _check_processor(executable: Executable) -> None:
    """TargetError where this processor lacks instructions that the program may have been compiled to (`notes["instructions"]`)."""
    try:
        flags = re.findall(r"^flags\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[0].split()
    except (OSError, IndexError):
        return
    lacking = sorted(set(executable.notes.get("instructions", "").split()) - set(flags))
    if lacking:
        raise TargetError(f"the program needs a processor with {', '.join(lacking)}, which this one lacks", help="compile it on this machine")
