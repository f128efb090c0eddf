"""The pipelines: from a model to a program of one kind on one target. Each pipeline is one list of passes, with a stop after any of them.

A model has four programs: `run` (outputs), `eval` (outputs, losses, metrics), `train` (the same in training mode, with its random draws and
statistics) and `step` (one training step: gradients, clipping, the optimizer). Accumulating models have `accumulate` beside `step`.
A model that is causal in time has `prefill` and `decode` too: the output at one position, from whole sequences and from one token at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from .core import cache, measured
from .core.errors import Error, NameError_, TypeError_, did_you_mean
from .core.executable import TIMES, Executable, from_bytes, to_bytes
from .targets import Target, target_of

if TYPE_CHECKING:
    from .family import Family, Sizes
    from .model import Model


class Pass(Protocol):
    """A frozen dataclass whose fields are its options."""

    def run(self, module: Any) -> None: ...


@dataclass(frozen=True)
class Recipe:
    """How a program is made: the mode that the model is elaborated in and the roles of the results it keeps."""

    training: bool
    roles: tuple[str, ...]
    steps: bool = False  # adds gradients and the optimizer
    decodes: bool = False  # one position of time, with caches
    prepares: bool = False  # parameters stay as they are from run to run


RECIPES = {
    "run": Recipe(False, ("output", "state", "param"), prepares=True),
    "eval": Recipe(False, ("output", "loss", "metric", "state", "param")),
    "train": Recipe(True, ("output", "loss", "metric", "state", "param")),
    "step": Recipe(True, ("loss", "metric", "state", "param"), steps=True),
    "accumulate": Recipe(True, ("loss", "metric", "state", "param"), steps=True),
    "prefill": Recipe(False, ("output", "state", "param"), decodes=True, prepares=True),
    "decode": Recipe(False, ("output", "state", "param"), decodes=True, prepares=True),
}

# Programs that may be made for any lengths of bounded dimensions; the others are at the bounds.
OF_ANY_LENGTH = ("run", "eval", "train", "step", "accumulate")


@dataclass(frozen=True)
class Member:
    """Which of the programs of a family."""

    family: Family
    sizes: Sizes


def family_of(model: Model, program: str, fetch: Sequence[str] = ()) -> Family:
    """The programs of one kind for any lengths."""
    from .family import Family

    recipe = RECIPES[program]
    return Family(model, recipe.training, recipe.roles, recipe.steps, tuple(fetch))


def sized_up_to_bounds(model: Model, program: str) -> Member | None:
    """The one program for (nearly) all lengths; None where lengths are fixed."""
    if not model.checked.bounds or program not in OF_ANY_LENGTH:
        return None
    family = family_of(model, program)
    _ = family.inputs  # what cannot vary is told
    return Member(family, family.whole())


Observer = Callable[[str, Any], None]  # told the name of each stage and the module after it


def pipeline(model: Model, elaborated: Any, program: str, target: Target, tuned: Mapping[str, str], aside: int = 0) -> list[Pass]:
    """The passes from the elaborated module to what the target compiles. `tuned`: schedules that were measured on the target's device, by kernel;
    `aside`: bytes that a budget must leave to the target's kernels."""
    from .passes.experts import Experts
    from .passes.hoist import Hoist
    from .passes.prune import Prune
    from .passes.simplify import Simplify

    recipe = RECIPES[program]
    settings = elaborated.settings
    passes: list[Pass] = [Prune(recipe.roles), Simplify(), Hoist()]
    precision = settings.precision if settings is not None else "float32"
    if recipe.training and "int8" in {precision, *elaborated.builder.precisions}:
        raise TypeError_(
            "weights in int8 cannot be trained", help="train in float32 or bfloat16, and set precision=int8 when the model is run or evaluated"
        )
    if precision != "float32" or elaborated.builder.precisions:
        from .passes.precision import Precision

        passes += [Precision(precision), Simplify(), Hoist()]  # casts of a scan's weights go before it
    grouping: list[Pass] = [Experts()] if target.lowered else []
    if not recipe.decodes:
        passes += grouping  # gradients follow the groups
    if recipe.steps:
        from .passes.differentiate import Differentiate

        passes += [model.train_pass(elaborated, program), Differentiate(), Simplify()]
    elif elaborated.builder.has_gradients:
        from .passes.differentiate import Differentiate

        passes += [Differentiate(), Simplify()]
    if recipe.decodes:  # which knows rows by their time
        passes += [model.decoding(elaborated, prefill=program == "prefill"), Simplify(), *grouping]
    if target.lowered:
        from .passes.attention import Attention
        from .passes.fuse import Fuse
        from .passes.prepare import Prepare
        from .passes.recompute import Recompute
        from .passes.scale_weights import ScaleWeights
        from .passes.tile import Tile
        from .passes.words import Words

        if recipe.prepares:
            passes.append(ScaleWeights())
        if target.channels_last:
            from .passes.channels_last import ChannelsLast

            passes.append(ChannelsLast())
        if recipe.prepares:
            if target.lines and not recipe.decodes and not model.checked.bounds:  # one copy of a model, for what runs again and again
                from .passes.lines import Lines

                passes.append(Lines())
            passes += [Words(), Prepare()]
        passes.append(Attention(target.workers(), target.few_rows and recipe.prepares))
        if recipe.steps or elaborated.builder.has_gradients:
            passes.append(Recompute())
        passes.append(Fuse())
        if recipe.steps and settings is not None and settings.memory is not None:
            from .passes.checkpoint import Checkpoint

            passes.append(Checkpoint(settings.memory, aside, settings.memory_span or settings.span))
        passes.append(Tile(tuned))
    return passes


def pass_names(passes: Sequence[Pass]) -> list[str]:
    """A name for each pass, unique in its pipeline: the second `Simplify` is `simplify_2`."""
    names: list[str] = []
    for one in passes:
        base = "".join("_" + c.lower() if c.isupper() else c for c in type(one).__name__).lstrip("_")
        count = sum(n == base or (n.startswith(base + "_") and n[len(base) + 1 :].isdigit()) for n in names)
        names.append(base if count == 0 else f"{base}_{count + 1}")
    return names


def lower(
    model: Model,
    program: str,
    target: Target,
    observer: Observer | None = None,
    after: str | None = None,
    fetch: Sequence[str] = (),
    tuned: Mapping[str, str] | None = None,
    aside: int = 0,
    sized: Member | None = None,
) -> Any:
    """The model's module after every pass, or after the one named `after`; a fresh module each time. `tuned`, by default what is known of the device,
    and `aside` as in `pipeline`, `sized` as in `compile_program`."""
    tuned = schedules_for(model, target) if tuned is None else tuned
    elaborated = sized.family.elaborated(sized.sizes) if sized is not None else model.elaborate(RECIPES[program].training, fetch)
    with elaborated.context, elaborated.location:
        passes = pipeline(model, elaborated, program, target, tuned, aside)
        names = pass_names(passes)
        known = ["elaborate", *names]
        if after is not None and after not in known:
            raise NameError_(f"no pass '{after}'{did_you_mean(after, known)}", help=f"the passes are {', '.join(known)}")
        if observer:
            observer("elaborate", elaborated.module)
        for name, one in zip(names, passes) if after != "elaborate" else ():
            one.run(elaborated.module)
            if observer:
                observer(name, elaborated.module)
            if name == after:
                break
    return elaborated


def schedules_for(model: Model, target: Target) -> Mapping[str, str]:
    """Measured schedules by kernel: those that the model's run was begun with, else what is known of the target's device."""
    device = target.device() if model.schedules is None else None
    return measured.schedules(device) if device is not None else model.schedules or {}


def _within_budget(model: Model, program: str, target: Target, fetch: Sequence[str], tuned: Mapping[str, str], sized: Member | None) -> Executable:
    """The executable; where what its kernels need behind the arena is too much for the budget, once more with that set aside."""
    settings = model.checked.settings
    budget = settings.memory if settings is not None and RECIPES[program].steps and target.lowered else None
    aside = 0
    while True:
        elaborated = lower(model, program, target, fetch=fetch, tuned=tuned, aside=aside, sized=sized)
        with elaborated.context, elaborated.location:
            executable = _compiled(elaborated.module, program, target)
        over = executable.arena_bytes + sum(p.bytes for p in executable.ports) - budget if budget is not None else 0
        if over <= 0:
            return executable
        aside += over


def _compiled(module: Any, program: str, target: Target) -> Executable:
    """The executable of a module, with that of its second function where it has one."""
    from .passes.prepare import NAME, split

    second = split(module)
    executable = _noted(target.compile(module, program), module)
    return executable if second is None else replace(executable, prepare=to_bytes(_noted(target.compile(second, NAME), second)))


def _noted(executable: Executable, module: Any) -> Executable:
    """The executable with the names of what it writes, and what the checkpoint pass tells of its plan."""
    from .ir.program import program_of, results_of
    from .passes.bounded import NOTE as LENGTHS
    from .passes.checkpoint import NOTE

    attributes = module.operation.attributes
    writes = "\n".join(s.name for s, _ in results_of(program_of(module)) if s.role in ("param", "state"))
    told = {name: attributes[note].value for name, note in (("memory", NOTE), ("lengths", LENGTHS)) if note in attributes}
    return replace(executable, notes={**executable.notes, "writes": writes, **told})


def compile_program(
    model: Model, program: str, target_name: str, fetch: Sequence[str] = (), timed: bool = False, sized: Member | None = None
) -> Executable:
    """The executable of one program on one target, from the cache where it was compiled before. `fetch`: named values that are outputs too.
    `timed`: one that times its launches itself, where the target makes such. `sized`: for which lengths of bounded dimensions; without it they are at
    their bounds."""
    target = target_of(target_name)
    wanted = (*fetch, *((TIMES,) if timed and target.compile_timed else ()), *((f"({sized.sizes})",) if sized is not None else ()))
    tuned = schedules_for(model, target)
    schedules = [json.dumps(tuned, sort_keys=True)] if tuned else []
    name = cache.key(model.fingerprint, str(model.steps), program, *wanted, target.name, target.fingerprint(), *schedules)
    stored = cache.get(name)
    if stored is not None:
        try:
            return from_bytes(stored)
        except Error:
            pass  # damaged: compile again
    executable = compile_anew(model, program, target_name, fetch, timed, tuned, sized)
    cache.put(name, to_bytes(executable))
    return executable


def compile_anew(
    model: Model,
    program: str,
    target_name: str,
    fetch: Sequence[str] = (),
    timed: bool = False,
    tuned: Mapping[str, str] | None = None,
    sized: Member | None = None,
) -> Executable:
    """As `compile_program`, past the cache."""
    if program not in RECIPES:
        raise NameError_(f"no program '{program}'{did_you_mean(program, RECIPES)}", help=f"the programs are {', '.join(RECIPES)}")
    target = target_of(target_name)
    if timed and target.compile_timed:
        target = replace(target, compile=target.compile_timed)
    return model.signed(_within_budget(model, program, target, fetch, schedules_for(model, target) if tuned is None else tuned, sized))
