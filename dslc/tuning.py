"""Measured tuning: schedules that a program's kernels could have are run on the device itself, the best of each is kept (`core/measured.py`).

The kernels that take most of a call's time come first and get most of the time that is given. A schedule is compared with the best one so far by runs
of both in turns, on the same drawn operands of the real sizes; it must give the same results, and be faster by more than the runs differ.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from .compiler import Member, compile_program, family_of, lower, schedules_for
from .core import dtypes
from .core.errors import DataError, Error, TargetError, UnsupportedOp
from .core.executable import TIMES, Executable, Kernel
from .core.measured import Entry, read, schedules, write
from .ir.bodies import kernel_hash, kernels_in
from .ir.schedules import BY_COST
from .ir.trace import Body
from .measuring import drawn, launch_times
from .model import Model
from .passes.tile import alone
from .recipes import OF_ANY_LENGTH
from .runtime.bounded import longest
from .runtime.events import Listener, Tuned, Warned, silent
from .targets import Target, target_of

LEAST_GAIN = 0.02  # of a run's time: less is not worth another schedule
MOST_PAIRS, FEWEST_PAIRS = 25, 5  # of runs, to compare two schedules
PAIRS_SECONDS = 0.4  # that a comparison of fewer pairs than MOST_PAIRS takes at most
CLEARLY = 1.15  # by so much slower in the first three pairs is slower
LEAST_SHARE = 0.005  # of the time of all calls: a kernel that takes less is left alone
PROFILE_SECONDS = 0.1  # of calls, to see which kernels take the time
DEVICE_TURNS = 5  # launches behind each other that a device times as one run
TOLERANCES = {dtypes.FLOAT64: 1e-10, dtypes.FLOAT32: 2e-5, dtypes.FLOAT16: 2e-3, dtypes.BFLOAT16: 1.6e-2, dtypes.FLOAT8_E4M3: 0.13,
              dtypes.FLOAT8_E5M2: 0.25}  # fmt: skip


# ---- one kernel


class Trial(Protocol):
    """A kernel with one schedule, ready to run. `run()`: how long one run took, in any unit that is the same for all trials of a kernel."""

    results: Sequence[np.ndarray]

    def run(self) -> float: ...


Build = Callable[[str], Trial]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Found:
    """What a search has found: the best schedule, the cost model's time over its own, how many others were tried, how many of those the compiler
    refused or gave other results."""

    schedule: str
    gain: float
    tried: int
    refused: int


def search(by_cost: str, others: Sequence[str], build: Build, until: float, clock: Clock = time.monotonic) -> Found:
    """The best of some schedules. It begins no trial after `until`, and gives the cost model's schedule unless another one beats it in the end, in a
    comparison of their own."""
    base = best = build(by_cost)
    name, tried, refused = by_cost, 0, 0
    for text in others:
        if clock() >= until:
            break
        tried += 1
        try:
            trial = build(text)
        except Error:
            refused += 1
            continue
        if not same(base.results, trial.results):
            refused += 1
        elif compared(best, trial, clock) < 1:
            best, name = trial, text
    ratio = compared(base, best, clock) if best is not base else 1.0
    return Found(name, 1 / ratio, tried, refused) if ratio < 1 else Found(by_cost, 1.0, tried, refused)


def compared(a: Trial, b: Trial, clock: Clock = time.monotonic) -> float:
    """The time of b over that of a, the median of pairs of runs; 1 where b is not faster by more than the pairs differ (half of the span that the
    middle half of them takes), and by LEAST_GAIN."""
    start = clock()
    ratios: list[float] = []
    while len(ratios) < FEWEST_PAIRS or (len(ratios) < MOST_PAIRS and clock() - start < PAIRS_SECONDS):
        first = a.run()
        ratios.append(b.run() / max(first, 1e-12))
        if len(ratios) == 3 and min(ratios) > CLEARLY:
            return 1.0
    low, middle, high = statistics.quantiles(ratios, n=4)
    return middle if middle + max(LEAST_GAIN, (high - low) / 2) < 1 else 1.0


def same(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> bool:
    """Whether results agree within the tolerance of their types, relative to the largest value of each array; integers and bools exactly."""
    return all(_close(a, b) for a, b in zip(expected, found))


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    tolerance = TOLERANCES.get(dtypes.of_numpy(a.dtype))
    if tolerance is None:
        return np.array_equal(a, b)
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(a)
    largest = np.abs(a[finite]).max(initial=0.0)
    return np.allclose(b[finite], a[finite], rtol=0, atol=tolerance * largest) and np.array_equal(a[~finite], b[~finite], equal_nan=True)


# ---- the kernels of a model


@dataclass(frozen=True)
class _Part:
    """Programs that are measured together: for the same lengths of bounded dimensions, as text ("" where lengths are fixed)."""

    lengths: str
    programs: tuple[tuple[str, Member | None], ...]


@dataclass
class _Work:
    """A kernel of the programs: seconds that it takes of a call of each, the module that it lies in, lengths that it is given (`bounded.longest`)."""

    info: Kernel
    op: Any
    elaborated: Any
    lengths: Mapping[str, int]
    seconds: float
    texts: list[str] = field(default_factory=list)


def tune(
    model: Model,
    seconds: float,
    target: str = "cpu",
    programs: Sequence[str] = ("run",),
    listener: Listener = silent,
    clock: Clock = time.monotonic,
    at_bounds: bool = False,
) -> list[Tuned]:
    """Measures schedules of the kernels of some programs for so many seconds; what is compiled afterwards for this device uses what was found.
    Kernels that were measured before are gone on with. What was measured is kept kernel by kernel, also where it is interrupted. `listener` is told
    of each kernel.

    Of bounded dimensions the programs for any lengths up to each power of two, and those at the bounds, are measured at the longest that they take,
    the longest first, each in an equal part of the time that is left; `at_bounds`: the last alone.

    DataError where there is no time; TargetError for a target whose kernels cannot be timed here.
    """
    chosen, device = _device(seconds, target)
    end = clock() + seconds
    parts = _parts(model, programs, at_bounds)
    found: list[Tuned] = []
    waiting = 0
    for n, part in enumerate(parts):
        now = clock()
        if n and now >= end:
            told = ", ".join(p.lengths for p in parts[n:])
            listener(Warned(f"the time was over before programs for {told} were measured: give more"))
            break
        made, open_kernels = _measured(model, part, target, chosen, device, now + (end - now) / (len(parts) - n), listener, clock)
        found, waiting = found + made, waiting + open_kernels
    if not found:
        nothing_left = "no kernel that takes time has a schedule left to try"
        why = "the time was over before a schedule was tried: give more" if waiting else nothing_left
        listener(Warned(f"nothing was tuned: {why}"))
    return found


class Tuner:
    """Measures the programs of a model with bounded dimensions, each when it is first made (`Model.tuner`), in half of what is left of some seconds.

    The model keeps to the schedules known when it began and to those that are found here. Kernels that a program made before has as well stay as they
    are there, so that a run which goes on (`kept`, called after each program, may write the schedules down) makes the same programs.
    """

    def __init__(self, model: Model, seconds: float, target: str, listener: Listener, kept: Callable[[], None], clock: Clock = time.monotonic):
        self._chosen, self._device = _device(seconds, target)
        self._model, self._target, self._left = model, target, seconds
        self._listener, self._kept, self._clock = listener, kept, clock
        self._settled: set[str] = set()
        self._schedules = dict(schedules_for(model, self._chosen))
        model.schedules, model.tuner = self._schedules, self

    def compiled(self, program: str, fetch: Sequence[str], sized: Member | None) -> Executable:
        """The program, after its kernels were measured."""
        began = self._clock()
        if self._left > 0:
            part = _Part(_lengths(self._model, sized), ((program, sized),))
            until = began + self._left / 2
            _measured(self._model, part, self._target, self._chosen, self._device, until, self._listener, self._clock, self._settled)
            for key, schedule in schedules(self._device).items():
                if key not in self._settled:
                    self._schedules[key] = schedule
            self._left -= self._clock() - began
            self._kept()
        made = compile_program(self._model, program, self._target, fetch, sized=sized)
        self._settled |= {kernel.key for several in made.kernels for kernel in several.each}
        return made


def _device(seconds: float, target: str) -> tuple[Target, str]:
    if not seconds > 0:
        raise DataError(f"{seconds:g} seconds are no time to tune in")
    chosen = target_of(target)
    device = chosen.device()
    if device is None:
        raise TargetError(f"schedules of target '{target}' cannot be measured: it is no device of this machine", help="tune for cpu, or for cuda")
    return chosen, device


def _parts(model: Model, programs: Sequence[str], at_bounds: bool) -> list[_Part]:
    """What is measured together, the longest first."""
    found: dict[str, list[tuple[str, Member | None]]] = {_lengths(model, None): []}
    for program in programs:
        found[_lengths(model, None)].append((program, None))
        if model.checked.bounds and program in OF_ANY_LENGTH and not at_bounds:
            family = family_of(model, program)
            for sizes in family.programs():
                if dict(sizes.exact) != family.bounds:
                    member = Member(family, sizes)
                    found.setdefault(_lengths(model, member), []).append((program, member))
    return [_Part(lengths, tuple(of_these)) for lengths, of_these in found.items()]


def _lengths(model: Model, sized: Member | None) -> str:
    """The lengths that a program is for."""
    return str(sized.sizes) if sized is not None else ", ".join(f"{dim}={n}" for dim, n in model.checked.bounds.items())


def _measured(
    model: Model, part: _Part, target: str, chosen: Target, device: str, end: float, listener: Listener, clock: Clock, but: Container[str] = ()
) -> tuple[list[Tuned], int]:
    """What was found of the kernels of some programs until the time is over, and how many waited to be measured. `but`: kernels that are left."""
    known = read(device)
    work = _work(model, part, target, chosen)
    total = sum(w.seconds for w in work.values())
    found = []
    waiting = [w for key, w in work.items() if key not in but and w.seconds >= LEAST_SHARE * total and _open(w, known.get(key), chosen)]
    waiting.sort(key=lambda w: -w.seconds)
    for n, item in enumerate(waiting):
        now = clock()
        if now >= end:
            break
        until = now + (end - now) * item.seconds / sum(w.seconds for w in waiting[n:])
        made = _tuned(item, known.get(item.info.key), chosen, until, clock)
        if made is not None:
            entry, told = made
            write(device, item.info.key, entry)
            found.append(replace(told, share=item.seconds / total, lengths=part.lengths))
            listener(found[-1])
    return found, len(waiting)


def _open(work: _Work, entry: Entry | None, target: Target) -> bool:
    """Whether a kernel has schedules that were not tried."""
    with work.elaborated.context, work.elaborated.location:
        work.texts = target.schedules(work.op)
    return len(work.texts) - 1 > (entry.tried if entry else 0)


def _work(model: Model, part: _Part, target: str, chosen: Target) -> dict[str, _Work]:
    """The distinct kernels of the programs, by key, as long as they take now."""
    found: dict[str, _Work] = {}
    for program, sized in part.programs:
        executable, launches, _ = launch_times(model, program, target, PROFILE_SECONDS, 1, aside=True, sized=sized)
        seconds: dict[str, float] = {}
        infos: dict[str, Kernel] = {}
        for launch, taken in zip(executable.launches, launches):
            each = executable.kernels[launch.kernel].each
            for info in each:
                seconds[info.key] = seconds.get(info.key, 0.0) + taken.seconds / len(each)
                infos.setdefault(info.key, info)
        elaborated = lower(model, program, chosen, sized=sized)
        with elaborated.context:
            for op in kernels_in(elaborated.module):
                key = kernel_hash(op.kind, Body.of(op.regions[0].blocks[0]))
                if key in seconds:
                    work = found.setdefault(key, _Work(infos[key], op, elaborated, longest(executable), 0.0))
                    work.seconds += seconds.pop(key)
    return found


def _tuned(work: _Work, entry: Entry | None, target: Target, until: float, clock: Clock) -> tuple[Entry, Tuned] | None:
    """The search of one kernel, gone on with where an entry says how far it came; None where there was no time for a single trial."""
    before = entry.tried if entry else 0
    again = [entry.schedule] if entry and entry.schedule else []
    found = search(BY_COST, [*again, *work.texts[1 + before :]], _builder(work, target), until, clock)
    if found.tried <= len(again):
        return None
    schedule = "" if found.schedule == BY_COST else found.schedule
    tried = before + found.tried - len(again)
    info = work.info
    told = Tuned(info.name, info.kind, info.lines, 0.0, tried, len(work.texts) - 1, found.refused, found.gain, schedule)
    return Entry(schedule, float(found.gain), tried), told


def _builder(work: _Work, target: Target) -> Build:
    """Makes trials of one kernel, all on the same operands."""
    inputs: dict[str, np.ndarray] = {}

    def build(schedule: str) -> Trial:
        with work.elaborated.context, work.elaborated.location:
            executable = (target.compile_timed or target.compile)(alone(work.op, schedule, work.lengths))
        if schedule not in (BY_COST, *(k.schedule for k in executable.kernels)):
            raise UnsupportedOp(f"{work.info.name} cannot be made with the schedule {schedule}")  # one that spills is replaced
        if not inputs:
            rng = np.random.default_rng(0)
            inputs.update({p.name: drawn(p, rng) for p in executable.ports_of("input")})
        return _DeviceTrial(target.load(executable), inputs)

    return build


class _DeviceTrial:
    """A kernel alone on its device. A program that times itself is called; of another the device is asked for the times of its launches."""

    def __init__(self, program: Any, inputs: dict[str, np.ndarray]):
        self.program, self.inputs = program, inputs
        self.results: Sequence[np.ndarray] = [array for name, array in program(inputs).items() if name != TIMES]

    def run(self) -> float:
        if hasattr(self.program, "times"):
            return float(sum(self.program.times(DEVICE_TURNS)))
        return float(self.program(self.inputs)[TIMES][2:].reshape(-1, 3)[:, 0].sum())
