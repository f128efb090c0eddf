"""Programs and trainers as Python callables: what `dslc.compile`, `dslc.Trainer` and `dslc.generate` give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .compiler import Member, compile_program, family_of
from .core.errors import DataError, UnsupportedOp
from .core.executable import Executable
from .family import Sizes
from .model import Model, fed
from .recipes import OF_ANY_LENGTH
from .runtime.binding import fit_host_inputs
from .runtime.bounded import BoundedProgram
from .runtime.program import Program
from .targets import target_of

if TYPE_CHECKING:
    from .runtime.generation import NextToken


def load_executable(executable: Executable) -> Program:
    """The program on its target."""
    return target_of(executable.target).load(executable)


def program_of(model: Model, program: str, target: str, fetch: Sequence[str] = ()) -> Program:
    """One of the model's programs, compiled or from the cache, bound to the model's parameters. Where the model has bounded dimensions it takes any
    lengths, and its programs are made at their first use."""
    if model.checked.bounds and program in OF_ANY_LENGTH:
        return _of_any_length(model, program, target, fetch)
    loaded = load_executable(compile_program(model, program, target, fetch))
    model.params.extend(loaded.executable.ports)
    loaded.bind(model.params)
    return loaded


def _of_any_length(model: Model, program: str, target: str, fetch: Sequence[str]) -> BoundedProgram:
    from .ir.program import arguments_of
    from .runtime.bounded import Declared

    family = family_of(model, program, fetch)
    slots = {slot.name: slot for slot in arguments_of(model.checked.builder.program)}
    inputs = {name: Declared(slots[name].type.dtype, axes, slots[name].line) for name, axes in family.inputs.items()}

    def make(sizes: Sizes) -> Program:
        sized = Member(family, sizes) if dict(sizes.exact) != family.bounds else None
        if model.tuner is not None:
            return load_executable(model.tuner.compiled(program, fetch, sized))
        return load_executable(compile_program(model, program, target, fetch, sized=sized))

    made = BoundedProgram(inputs, family.bounds, family.sizes_for, make)
    made.bind(model.params)
    return made


class Compiled:
    """A program of a model: call it with its inputs by name.

    `program(tokens=tokens)` gives a dict of arrays that belong to the caller; `out={"logits": array}` reuses memory. Inputs are numpy arrays or
    anything with DLPack or the array interface; C-contiguous ones are not copied.
    """

    def __init__(self, model: Model, program: str, target: str):
        self.model, self.target, self._name = model, target, program
        self.program = program_of(model, program, target)
        self._unneeded = model.unneeded(self.program)
        self._fetching: dict[tuple[str, ...], tuple[Program, frozenset[str]]] = {}

    @property
    def executable(self) -> Executable:
        return self.program.executable

    @property
    def programs(self) -> list[str]:
        """What was compiled so far of a model with bounded dimensions: a text like `time<=64` for each program."""
        return self.program.programs if isinstance(self.program, BoundedProgram) else []

    def __call__(
        self, *, out: Mapping[str, Any] | None = None, fetch: Sequence[str] = (), seed: int | None = None, step: int = 0, **inputs: Any
    ) -> dict[str, np.ndarray]:
        """The results by name. `fetch`: paths of named values of the model, `self_attention.3.p`, that are wanted too; they make a program of
        their own, compiled at the first call that asks for them."""
        program, unneeded = self._with(tuple(fetch)) if fetch else (self.program, self._unneeded)
        return program(fed(inputs, unneeded), seed=self.model.seed if seed is None else seed, step=step, out=out)

    def _with(self, fetch: tuple[str, ...]) -> tuple[Program, frozenset[str]]:
        if fetch not in self._fetching:
            program = program_of(self.model, self._name, self.target, fetch)
            self._fetching[fetch] = program, self.model.unneeded(program)
        return self._fetching[fetch]


class Trainer:
    """Training steps under the control of a Python program: `loss = trainer.step(tokens=..., targets=...)`. `steps`: the length of the run, for
    schedules, where the train block does not say it in steps."""

    def __init__(self, model: Model, target: str = "cpu", steps: int | None = None):
        from .runtime.stepper import Stepper

        if steps is not None:
            model.set_steps(steps)
        self.model, self.target = model, target
        settings = model.checked.settings
        accumulate = settings.accumulate if settings else 1
        self._stepper = Stepper(
            program_of(model, "step", target),
            model.params,
            accumulate=program_of(model, "accumulate", target) if accumulate > 1 else None,
            microbatches=accumulate,
            seed=model.seed,
        )
        self._unneeded = model.unneeded(self._stepper.fed)
        self.metrics: dict[str, float] = {}

    @property
    def steps(self) -> int:
        """How many steps were made."""
        return self._stepper.step

    @property
    def programs(self) -> list[str]:
        """What was compiled so far of a model with bounded dimensions: a text like `time<=64` for each program."""
        return self._stepper.fed.programs if isinstance(self._stepper.fed, BoundedProgram) else []

    def step(self, *microbatches: Mapping[str, Any], **inputs: Any) -> float:
        """One optimizer step; the total loss. Where the train block says `accumulate n`, give n mappings of inputs instead of keywords; DataError
        where there are more or fewer."""
        wanted, given = self._stepper.microbatches, len(microbatches or (inputs,))
        if given != wanted:
            raise DataError(f"microbatches: {given} given, a step takes {wanted}", help="give step() a mapping of inputs for each")
        every = [fed(m, self._unneeded) for m in microbatches or (inputs,)]
        if wanted > 1 and not isinstance(self._stepper.fed, BoundedProgram):  # all, before the first one changes anything
            every = [fit_host_inputs(self._stepper.ports(), m) for m in every]
        batches = iter(every)
        result = self._stepper.run(lambda: next(batches))
        self.metrics = result.metrics
        return result.loss


def decoder_of(model: Model, target: str, note: Callable[[str], None] | None = None) -> NextToken:
    """What generates from a model: the decoder with caches where the model is causal in time, else one that runs a window for every token, and
    `note` is told why."""
    from .runtime.generation import WindowModel

    try:
        return _cached(model, target)
    except (UnsupportedOp, DataError) as error:
        if note is not None:
            place = f" ({error.spans[0]})" if error.spans else ""
            note(f"every token runs the whole window: {error.message}{place}")
    block = model.checked.generate
    return WindowModel(program_of(model, "run", target), None, block.output if block else None)


def _cached(model: Model, target: str) -> NextToken:
    """The decoder with caches. Where time is bounded there is a prefill program for each size of window, made when it is needed, and one step, whose
    caches have the bound."""
    from .runtime.cached import CachedModel

    bounds, time = model.checked.bounds, model.time
    if time not in bounds:
        prefill, decode = (load_executable(compile_program(model, name, target)) for name in ("prefill", "decode"))
        tokens = next(p for p in prefill.executable.ports_of("input") if p.name != "position")
        return CachedModel(lambda n: prefill, tokens.shape[1:2], decode, model.params)
    family = family_of(model, "prefill")
    family.check_prefixes(time)
    decode = load_executable(compile_program(model, "decode", target))
    caches = {p.name: p.shape for p in decode.executable.ports_of("state")}

    def fill(size: int) -> Program | None:
        sizes = Sizes(tuple(sorted({**bounds, time: size}.items())))
        sized = None if size == bounds[time] else Member(family, sizes)
        made = load_executable(compile_program(model, "prefill", target, sized=sized))
        return made if caches == {p.name: p.shape for p in made.executable.ports_of("state")} else None

    return CachedModel(fill, family.windows(time), decode, model.params, bound=(time, bounds[time]))


def generate(
    model: Model,
    *,
    tokens: Sequence[Sequence[int]] | np.ndarray,
    steps: int,
    sample: str = "sample",
    target: str = "cpu",
    seed: int = 0,
    **options: Any,
) -> list[list[int]]:
    """New tokens for each row of `tokens`, at most `steps`. `sample` is "greedy", "sample" or "beam"; options as of `runtime.sampling.Sampling`."""
    from .runtime.generation import generate as run
    from .runtime.sampling import Sampling

    rows = [[int(t) for t in row] for row in tokens]
    return run(decoder_of(model, target), rows, steps, Sampling(method=sample, **options), seed=seed)
