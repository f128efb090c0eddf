"""One optimizer step from one or more microbatches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.errors import TrainingError
from ..core.philox import MAX_MICROBATCHES
from .bounded import BoundedProgram, attach, that_ran
from .program import Program, data_ports, metric_values, total_loss
from .schedules import HostSchedule
from .store import ParameterStore, aligned_zeros

Batch = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Step:
    """What a step gave: means over its microbatches."""

    loss: float
    metrics: dict[str, float]


class Stepper:
    """Runs training steps and counts them. `step` is the number of finished steps: the `step` that the next one's program sees.

    With `microbatches` n > 1 there are two programs. `accumulate` adds a microbatch's gradient (divided by n) to states of its own;
    `train` applies the sum and clears it. Where `train` has data inputs of its own it takes the last microbatch itself, so `accumulate`
    runs n - 1 times, else n times.
    """

    def __init__(
        self,
        train: Program,
        store: ParameterStore,
        *,
        accumulate: Program | None = None,
        microbatches: int = 1,
        seed: int = 0,
        schedules: Sequence[HostSchedule] = (),
    ):
        if not 1 <= microbatches <= MAX_MICROBATCHES:
            raise TrainingError(f"accumulate {microbatches}: a step has 1 to {MAX_MICROBATCHES} microbatches")
        if microbatches > 1 and accumulate is None:
            raise TrainingError(f"accumulate {microbatches} needs a program that accumulates gradients")
        self.train, self.accumulate, self.microbatches, self.seed = train, accumulate, microbatches, seed
        self.schedules = list(schedules)
        self.store = store
        self.step = 0
        for program in (train, accumulate):
            if program is not None:
                attach(program, store)
        self._out: dict[int, dict[str, np.ndarray]] = {}

    @property
    def fed(self) -> Program:
        """The program that data is fed to."""
        return self.train if self.accumulate is None else self.accumulate

    def ports(self) -> list:
        """The input ports that data fills."""
        return data_ports(self.fed)

    def run(self, next_batch: Callable[[], Batch]) -> Step:
        """One step; `next_batch` is called once for each microbatch. Losses and metrics may be anything, also not finite."""
        host = {name: value for schedule in self.schedules for name, value in schedule.values().items()}
        losses: list[float] = []
        metrics: dict[str, float] = {}
        takes_data = self.accumulate is None or isinstance(self.train, BoundedProgram) or bool(data_ports(self.train))
        for micro in range(self.microbatches):
            last = micro == self.microbatches - 1
            program = self.train if last and takes_data else self.accumulate
            assert program is not None
            loss, values = self._call(program, {**host, **next_batch()}, micro)
            losses.append(loss)
            for name, value in values.items():
                metrics[name] = metrics.get(name, 0.0) + value / self.microbatches
        if not takes_data:
            self._call(self.train, host, 0)
        self.step += 1
        return Step(sum(losses) / len(losses), metrics)

    def _call(self, program: Program, inputs: Batch, micro: int) -> tuple[float, dict[str, float]]:
        results = program(inputs, seed=self.seed, step=self.step, microbatch=micro, out=self._memory(program))
        ran = that_ran(program)
        return total_loss(ran, results), metric_values(ran, results)

    def _memory(self, program: Program) -> dict[str, np.ndarray]:
        """Memory for the program's results, made once; a program of any length has its own."""
        if isinstance(program, BoundedProgram):
            return {}
        if id(program) not in self._out:
            ports = program.executable.ports_of("output", "loss", "metric")
            self._out[id(program)] = {p.name: array for p, array in zip(ports, aligned_zeros(ports))}
        return self._out[id(program)]
