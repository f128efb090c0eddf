"""A model file in a Python program: parsed and checked, its parameters, and what its train and generate blocks say."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .core.errors import TrainingError
from .core.executable import Executable
from .runtime.bounded import BoundedProgram
from .runtime.store import Entry, ParameterStore

if TYPE_CHECKING:
    from .frontend.elaborate import Elaborated
    from .passes.incrementalize import Incrementalize
    from .passes.train_step import TrainStep
    from .runtime.program import Program
    from .tuning import Tuner


def _fill(make: Callable[[], np.ndarray], array: np.ndarray) -> None:
    array[...] = make()


def fed(inputs: Mapping[str, Any], unneeded: frozenset[str]) -> Mapping[str, Any]:
    """Inputs by name, without those that a program does not need."""
    if unneeded.isdisjoint(inputs):
        return inputs
    return {name: value for name, value in inputs.items() if name not in unneeded}


class Model:
    """What `dslc.load` gives. `overrides` replace dims, lets and train keys of the file; every program of the model shares `params`."""

    def __init__(self, spec: Any, overrides: Mapping[str, Any] | None = None):
        from .frontend.elaborate import load_program

        self.overrides = dict(overrides or {})
        self._steps: int | None = None
        self.data_folder: Path | None = None
        self.schedules: Mapping[str, str] | None = None  # by kernel, of a run that goes on; None: what was measured on the device that compiles
        self.tuner: Tuner | None = None  # measures programs of bounded dimensions when they are first made
        self.source = load_program(spec, self.overrides)
        self.checked = self.elaborate(training=True)  # the first error of the file ends here
        if any(p.initializer.values is not None for p in self.checked.parameters):
            _ = self.params  # what a file says is read with it
        settings = self.checked.settings
        if settings and (settings.data or settings.eval):
            from .runtime.data.sources import check_name

            for source in (settings.data, settings.eval):
                if source is not None:
                    check_name(source)

    def elaborate(self, training: bool, fetch: Sequence[str] = (), sizes: Mapping[str, int] | None = None) -> Elaborated:
        """The model's program of one mode, in a fresh module that passes may change; values named in `fetch` are outputs too. `sizes`: of bounded
        dimensions, which are at their bounds otherwise."""
        from .frontend.elaborate import elaborate

        return elaborate(self.source, training=training, fetch=fetch, sizes=sizes)

    @cached_property
    def inputs(self) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
        """(names of axes, shape) of each input."""
        return self.checked.input_axes

    def unneeded(self, program: Program) -> frozenset[str]:
        """The inputs that the model declares and this program does not need: they may be given, and are left out (`fed`)."""
        if isinstance(program, BoundedProgram):
            return frozenset()  # it knows what the program of each length needs
        return frozenset(self.checked.builder.inputs.values()) - {p.name for p in program.executable.ports}

    @property
    def name(self) -> str:
        return self.checked.name

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the text of any file of the model and with every override."""
        given = json.dumps(self.overrides, sort_keys=True, default=repr)
        texts = sorted(self.source.texts.items())
        return hashlib.sha256(json.dumps([texts, given]).encode()).hexdigest()

    @cached_property
    def signature(self) -> str:
        """A hash of the parameters and states: paths, types and shapes. Weights of another signature do not fit."""
        kept = [*self.checked.parameters, *self.checked.states]
        return hashlib.sha256("\n".join(sorted(f"{p.path} {p.type}" for p in kept)).encode()).hexdigest()[:16]

    @cached_property
    def params(self) -> ParameterStore:
        """Parameters and states by path, at their starting values, drawn with the train block's seed."""
        return self.initialized(self.seed)

    @property
    def seed(self) -> int:
        return self.checked.settings.seed if self.checked.settings else 0

    def initialized(self, seed: int) -> ParameterStore:
        """A fresh store with the starting values of a seed."""
        from .frontend.elaborate import initial_values

        kept = [("param", p) for p in self.checked.parameters] + [("state", s) for s in self.checked.states]
        store = ParameterStore([Entry(p.path, role, p.type.dtype, p.type.shape, p.span.line) for role, p in kept])
        made = initial_values(self.checked, seed)
        store.read_from({p.path: p.initializer.values.read_into for _, p in kept if p.initializer.values is not None})
        for _, p in kept:
            if p.initializer.values is not None:
                continue
            if p.initializer.drawn:  # only where nobody gives other values first
                store.moved(p.path, partial(_fill, made[p.path]))
            else:
                store[p.path] = made[p.path]().astype(p.type.dtype.numpy)
        return store

    def signed(self, executable: Executable) -> Executable:
        """The executable with the model's name and signature."""
        return dataclasses.replace(executable, model=self.name, signature=self.signature)

    @property
    def steps(self) -> int | None:
        """The length of the run, for schedules: the train block's steps, or what `set_steps` gave."""
        return self._steps or (self.checked.settings.steps if self.checked.settings else None)

    def set_steps(self, steps: int) -> None:
        """Tells the length of a run that the train block gives in epochs."""
        self._steps = steps

    def train_pass(self, elaborated: Elaborated, program: str) -> TrainStep:
        """The pass that makes a training step of this model."""
        from .frontend.optimizers import LayerOptimizer
        from .passes.train_step import Line, TrainStep

        settings = elaborated.settings
        changes = elaborated.builder.next_parameters or elaborated.builder.next_states
        if settings is None or not (settings.lines() or changes):
            raise TrainingError("the model has no train block with an optimizer", help="add one: train: optimizer adamw(lr=1e-3)")
        clip = settings.clip
        return TrainStep(
            lines=tuple(
                Line(
                    line.losses,
                    tuple(p.path for p in elaborated.parameters if p.trainable and (line.paths is None or p.path in line.paths)),
                    LayerOptimizer(elaborated, line.optimizer, self.steps, f"optimizer_{k}" if k > 1 else "optimizer"),
                )
                for k, line in enumerate(settings.lines(), 1)
            ),
            clip_norm=float(clip.args[0]) if clip and clip.name == "norm" else None,
            clip_value=float(clip.args[0]) if clip and clip.name == "value" else None,
            clip_span=clip.span if clip else None,
            accumulate=settings.accumulate,
            accumulating=program == "accumulate",
            scaled="float16" in {settings.precision, *elaborated.builder.precisions},
        )

    def decoding(self, elaborated: Elaborated, prefill: bool) -> Incrementalize:
        """The pass that makes a program of one position of time: along the generate block's axis, or that of the tokens [batch, time]. Caches are as
        long as time may be."""
        from .passes.incrementalize import Incrementalize

        builder, block = elaborated.builder, elaborated.generate
        axes, time = _time_of(elaborated)
        outputs = [s.name for s, _ in builder.results if s.role == "output"]
        output = block.output if block else "logits" if "logits" in outputs else next(iter(outputs), "")
        timed = tuple(name for name, a in axes.items() if len(a) >= 2 and a[1] == time)
        return Incrementalize(timed, output, prefill, self.checked.bounds.get(time or ""))

    @property
    def time(self) -> str | None:
        """The dimension along which the model generates; None where nothing says it."""
        return _time_of(self.checked)[1]


def _time_of(elaborated: Elaborated) -> tuple[dict[str, tuple[str, ...]], str | None]:
    """The names of each input's axes, and the axis of time: the generate block's, or the second one of the tokens."""
    builder, block = elaborated.builder, elaborated.generate
    axes = {builder.inputs[v]: tuple(names) for v, names in builder.input_axes.items() if v in builder.inputs}
    wanted = [a[1] for name, a in axes.items() if len(a) >= 2 and (name == "tokens" or "tokens" not in axes)]
    return axes, block.axis if block else next(iter(wanted), None)
