"""From a model to a program of one kind on one target: its passes, with a stop after any of them, the target's code, the cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .core import cache, measured
from .core.errors import BudgetError, Error, NameError_, did_you_mean
from .core.executable import TIMES, Executable, from_bytes, to_bytes
from .recipes import OF_ANY_LENGTH, RECIPES
from .targets import Target, target_of

if TYPE_CHECKING:
    from .family import Family, Sizes
    from .model import Model


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
    from .pipeline import pass_names, pipeline

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
    """The executable; where what its kernels need behind the arena is too much for the budget, once more with that set aside. Raises BudgetError,
    with what the least plan that was found takes, its kernels' part too."""
    settings = model.checked.settings
    budget = settings.memory if settings is not None and RECIPES[program].steps and target.lowered else None
    aside, told = 0, False

    def made(aside: int) -> Executable:
        elaborated = lower(model, program, target, fetch=fetch, tuned=tuned, aside=aside, sized=sized)
        with elaborated.context, elaborated.location:
            return _compiled(elaborated.module, program, target)

    def bytes_of(executable: Executable) -> int:
        return executable.arena_bytes + sum(p.bytes for p in executable.ports)

    while True:
        try:
            executable = made(aside)
        except BudgetError as refusal:
            if budget is None or told:
                raise
            needed = bytes_of(made(budget - refusal.least)) - refusal.least  # by the kernels of the least plan: it can be told with them
            if refusal.least + needed <= budget:
                return made(budget - refusal.least)
            aside, told = needed, True
            continue
        over = bytes_of(executable) - budget if budget is not None else 0
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
    from .passes.notes import notes_of

    attributes = module.operation.attributes
    writes = "\n".join(s.name for s, _ in results_of(program_of(module)) if s.role in ("param", "state"))
    told = {name: attributes[note].value for name, note in (("memory", NOTE), ("lengths", LENGTHS)) if note in attributes}
    chunks = {"chunks": "; ".join(lines)} if (lines := notes_of(module, "chunk")) else {}
    return replace(executable, notes={**executable.notes, "writes": writes, **told, **chunks})


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
