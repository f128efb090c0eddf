"""`dslc bench`: how long a model's programs take to compile and to run, and the memory they need."""

from __future__ import annotations

import contextlib
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..compiled import load_executable
from ..compiler import compile_anew, compile_program, lower
from ..core.errors import DataError, UnsupportedOp
from ..core.executable import Executable
from ..measuring import SECONDS, call_times, caller
from ..model import Model
from ..runtime.events import Listener, silent
from ..targets import target_of
from .opening import known_program, open_model, tune_first, with_length

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Figures:
    """One program. Times in seconds, of a call medians over `calls`; `cold`: from the model file to a loaded program, `warm`: the same from the
    compile cache; `planned_bytes`: arena, scratch and ports; `peak_bytes`: resident memory above the level before loading, None where the system
    does not tell it.
    """

    program: str
    target: str
    cold: float
    warm: float
    call: float
    lowest: float
    highest: float
    calls: int
    planned_bytes: int
    peak_bytes: int | None


def default_program(model: Model) -> str:
    """A training step where the model can be trained, else its outputs."""
    settings = model.checked.settings
    return "step" if settings is not None and settings.lines() else "run"


def measured_programs(model: Model) -> list[str]:
    """Outputs, a training step, a decoded token: those that the model has."""
    return ["run", *(["step"] if default_program(model) == "step" else []), *(["decode"] if model.checked.generate else [])]


def bench(
    spec: str | Path,
    *,
    program: str | None = None,
    overrides: dict[str, Any] | None = None,
    target: str | None = None,
    seconds: float = SECONDS,
    tune: float | None = None,
    listener: Listener = silent,
) -> list[Figures]:
    """Figures of one program, or of each that the model has (a decoder only where it can have caches), on drawn inputs; `tune`: seconds in which
    their kernels' schedules are measured before."""
    if seconds < 0:
        raise DataError(f"--seconds is {seconds:g}: it cannot be less than 0")
    model, target = open_model(spec, overrides, target)
    names, found = [known_program(program)] if program else measured_programs(model), []
    if tune is not None:
        tune_first(with_length(model), names if program else _lowered(model, names, target), target, tune, listener)
    for name in names:
        try:
            found.append(_figures(spec, overrides, target, name, seconds))
        except UnsupportedOp:
            if program or name != "decode":
                raise
    return found


def _lowered(model: Model, names: list[str], target: str) -> list[str]:
    """The programs without a decoder that cannot have caches."""
    try:
        lower(model, names[-1], target_of(target))
    except UnsupportedOp:
        return [n for n in names if n != "decode"]
    return names


def _figures(spec: str | Path, overrides: dict[str, Any] | None, target: str, program: str, seconds: float) -> Figures:
    start = time.perf_counter()
    model, _ = open_model(spec, overrides, target)
    load_executable(compile_anew(with_length(model), program, target))
    cold = time.perf_counter() - start
    compile_program(model, program, target)  # into the cache
    start = time.perf_counter()
    model, _ = open_model(spec, overrides, target)
    with_length(model).params  # noqa: B018  # drawn or read here, not within the memory that is measured
    executable = compile_program(model, program, target)
    before = _resident("VmRSS")
    _reset_peak()
    call = caller(model, load_executable(executable))
    warm = time.perf_counter() - start
    times = call_times(call, seconds)
    peak = _resident("VmHWM")
    grown = max(0, peak - before) if peak is not None and before is not None else None
    return Figures(program, target, cold, warm, statistics.median(times), min(times), max(times), len(times), _planned(executable), grown)


def _planned(executable: Executable) -> int:
    from ..runtime.drivers.cpu.pool import default_threads

    threads = default_threads() if executable.target == "cpu" else 0
    return executable.arena_bytes + threads * executable.scratch_bytes + len(executable.constants) + sum(p.bytes for p in executable.ports)


def _resident(key: str) -> int | None:
    """A figure of Linux about this process's memory, in bytes."""
    try:
        return next(int(line.split()[1]) * 1024 for line in _STATUS.read_text().splitlines() if line.startswith(key + ":"))
    except (OSError, StopIteration):
        return None


def _reset_peak() -> None:
    with contextlib.suppress(OSError):  # the peak then counts from the process's start
        _RESET.write_text("5")


def table(found: list[Figures]) -> str:
    """The figures for people."""
    out = [f"{'program':10} {'cold':>9} {'warm':>9} {'a call':>11} {'lowest':>10} {'highest':>10} {'calls':>6} {'planned':>10} {'peak':>10}"]
    for f in found:
        peak = f"{f.peak_bytes / 2**20:7.1f} MB" if f.peak_bytes is not None else "?"
        out.append(
            f"{f.program:10} {f.cold:7.3f} s {f.warm:7.3f} s {f.call * 1e3:8.3f} ms {f.lowest * 1e3:7.3f} ms {f.highest * 1e3:7.3f} ms {f.calls:6} "
            f"{f.planned_bytes / 2**20:7.1f} MB {peak:>10}"
        )
    return "\n".join(out)
