"""Programs run on drawn inputs, to be timed: how long a call takes, how long each of its launches, and what the machine can do at most."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .compiled import load_executable
from .compiler import Member, compile_program
from .core.errors import TargetError
from .core.executable import TIMES, Executable, Port
from .model import Model
from .runtime.bounded import longest
from .runtime.program import Program
from .targets import TARGETS, target_of

SECONDS = 1.0  # of calls, where nothing else is asked for
FEWEST, MOST = 5, 2000  # calls


def drawn(port: Port, rng: np.random.Generator) -> np.ndarray:
    """A value for an input: normals, or integers within its bounds (zeros and ones where there are none)."""
    if port.dtype.is_bool:
        return rng.integers(0, 2, port.shape).astype(bool)
    if port.dtype.is_integer:
        return rng.integers(*(port.bounds or (0, 2)), port.shape).astype(port.dtype.numpy)
    return rng.standard_normal(port.shape, np.float32).astype(port.dtype.numpy)


def caller(model: Model, program: Program, seed: int = 0, aside: bool = False) -> Callable[[], dict[str, np.ndarray]]:
    """A function that runs the program once, bound to the model's parameters (what else it keeps lies beside them), on the same drawn inputs.
    Lengths are as long as they may be. `aside`: to copies of the parameters, so that a training step leaves the model's own as they are."""
    store = model.params.copy() if aside else model.params.beside()
    store.extend(program.executable.ports)
    program.bind(store)
    rng = np.random.default_rng(seed)
    inputs: dict[str, Any] = {p.name: drawn(p, rng) for p in program.executable.ports_of("input")}
    inputs |= {name: np.int32(n) for name, n in longest(program.executable).items()}
    return lambda: program(inputs, seed=seed)


def call_times(call: Callable[[], object], seconds: float = SECONDS, fewest: int = FEWEST) -> list[float]:
    """Seconds of each call, after one that is not counted."""
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < fewest or (time.perf_counter() < end and len(times) < MOST):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


@dataclass(frozen=True)
class LaunchTime:
    """A launch of a program: seconds of all its runs in one call, and how many they are (a launch in a loop has several)."""

    seconds: float
    runs: int


@dataclass(frozen=True)
class Profile:
    """The launches of one program in order, medians over calls, and what the machine was measured to do at most, per second: `peak_bytes` by a copy
    that passes the caches, so that kernels whose data lie in them may exceed it."""

    program: str
    executable: Executable
    launches: tuple[LaunchTime, ...]
    call_seconds: float
    peak_flops: float
    peak_bytes: float


def profile(model: Model, program: str, target: str, seconds: float = SECONDS) -> Profile:
    """Times every launch. TargetError for a target that cannot tell their times."""
    _check(target)
    executable, launches, call = launch_times(model, program, target, seconds)
    return Profile(program, executable, launches, call, *peaks(target))


def _check(target: str) -> None:
    target_of(target)
    able = [name for name, t in TARGETS.items() if t.compile_timed or name == "cuda"]
    if target not in able and not target.startswith("cuda:"):
        raise TargetError(f"target '{target}' cannot tell the time of its kernels", help=f"a profile can be made on {' and '.join(able)}")


def launch_times(
    model: Model, program: str, target: str, seconds: float, fewest: int = FEWEST, aside: bool = False, sized: Member | None = None
) -> tuple[Executable, tuple[LaunchTime, ...], float]:
    """A program with the times of its launches, and seconds of a call: medians over at least so many calls. `aside` as of `caller`, `sized` as of
    `compile_program`."""
    executable = compile_program(model, program, target, timed=True, sized=sized)
    loaded = load_executable(executable)
    call = caller(model, loaded, aside=aside)
    if not TARGETS[target].compile_timed:
        times = call_times(call, seconds, fewest)
        alone = loaded.times()  # type: ignore[attr-defined]  # a device's program
        return executable, tuple(LaunchTime(t, 1) for t in alone), statistics.median(times)
    rows, walls = [], []
    began = []

    def once() -> None:
        start = time.perf_counter()
        ticks = call()[TIMES]
        walls.append(time.perf_counter() - start)
        began.append((start, int(ticks[1])))
        rows.append(ticks[2:].reshape(-1, 3)[:-1])

    call_times(once, max(seconds, 0.05), fewest)
    rate = (began[-1][1] - began[0][1]) / (began[-1][0] - began[0][0])  # ticks a second
    medians = np.median(np.stack([r[:, 0] for r in rows[1:]]), axis=0) / rate
    return executable, tuple(LaunchTime(float(s), int(n)) for s, n in zip(medians, rows[-1][:, 1])), statistics.median(walls[1:])


_PRODUCT = "model Product:\n    input a[1024, 1024], b[1024, 1024]\n    y[i, j] = sum[k](a[i, k] * b[k, j])\n    output y\n"
_COPY = "model Copy:\n    input x[4096, 4096]\n    y[i, j] = x[i, j] * 2\n    output y\n"


def peaks(target: str) -> tuple[float, float]:
    """(operations a second, bytes a second) that a large product of float32 matrices and a copy of 64 MiB reach on the target, the best of some."""
    found = []
    for text, work in ((_PRODUCT, 2.0 * 1024**3), (_COPY, 2.0 * 4 * 4096**2)):
        model = Model(text)
        if TARGETS[target].compile_timed:
            call = caller(model, load_executable(compile_program(model, "run", target)))
            best = min(call_times(call, 0.3))
        else:
            _, launches, _ = launch_times(model, "run", target, 0.05)
            best = sum(t.seconds for t in launches)
        found.append(work / best)
    return found[0], found[1]


@dataclass(frozen=True)
class KernelRow:
    """A kernel in a profile: its runs in one call, their seconds, what they compute and move, where the model file says so, and what its schedule is
    from ("tuned" or "cost model")."""

    name: str
    kind: str
    runs: int
    seconds: float
    flops: int
    bytes: int
    lines: tuple[str, ...]
    schedule: str

    @property
    def flops_rate(self) -> float:
        """Operations a second."""
        return self.flops / self.seconds if self.seconds else 0.0

    @property
    def bytes_rate(self) -> float:
        """Bytes a second."""
        return self.bytes / self.seconds if self.seconds else 0.0


def by_kernel(p: Profile) -> list[KernelRow]:
    """One row a kernel, the longest first."""
    runs: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for launch, taken in zip(p.executable.launches, p.launches):
        runs[launch.kernel] = runs.get(launch.kernel, 0) + taken.runs
        seconds[launch.kernel] = seconds.get(launch.kernel, 0.0) + taken.seconds
    kernels = p.executable.kernels
    rows = [
        KernelRow(k.name, k.kind, n, seconds[number], k.flops * n, k.bytes * n, k.lines, k.chosen)
        for (number, n), k in ((item, kernels[item[0]]) for item in runs.items())
    ]
    return sorted(rows, key=lambda row: -row.seconds)


def own_lines(model: Model, lines: tuple[str, ...]) -> list[str]:
    """The places of a kernel that lie in the model's own files, or all where none does."""
    return [x for x in lines if x.rsplit(":", 1)[0] in model.source.texts] or list(lines)


def by_line(model: Model, p: Profile) -> list[tuple[str, float]]:
    """(place, seconds) of the lines of the model file, the longest first; a kernel's time is shared evenly among the lines that it computes."""
    seconds: dict[str, float] = {}
    for row in by_kernel(p):
        lines = own_lines(model, row.lines) or ["?"]
        for line in lines:
            seconds[line] = seconds.get(line, 0.0) + row.seconds / len(lines)
    return sorted(seconds.items(), key=lambda item: -item[1])


def line_text(model: Model, place: str) -> str:
    """What the file says there; "" for a place in no file of the model."""
    file, _, number = place.rpartition(":")
    rows = model.source.texts.get(file, "").splitlines()
    return rows[int(number) - 1].strip() if number.isdecimal() and 0 < int(number) <= len(rows) else ""


def trace_events(p: Profile) -> dict[str, object]:
    """The launches as Chrome's trace events, which Perfetto shows: one behind the other, those in a loop as long as all their runs."""
    events, at = [], 0.0
    for launch, taken in zip(p.executable.launches, p.launches):
        k = p.executable.kernels[launch.kernel]
        told = {"lines": [Path(x).name for x in k.lines], "runs": taken.runs, "flops": k.flops * taken.runs, "bytes": k.bytes * taken.runs}
        events.append(
            {"name": k.name, "cat": k.kind, "ph": "X", "ts": at * 1e6, "dur": taken.seconds * 1e6, "pid": 1, "tid": 1, "args": told}
        )  # fmt: skip
        at += taken.seconds
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"program": p.program, "target": p.executable.target}}
