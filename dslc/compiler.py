"""From a model to a program of one kind on one target: its passes, with a stop after any of them, the target's code, the cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .core import cache, measured
from .core.errors import BudgetError, Error, NameError_, did_you_mean
from .core.executable import PIECES, READS, TIMES, Executable, from_bytes, to_bytes
from .core.stack import deep
from .recipes import OF_ANY_LENGTH, RECIPES
from .targets import Target, target_of

if TYPE_CHECKING:
    from .family import Family, Sizes
    from .model import Model
    from .passes.searched import Searched


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
    searched: Searched | None = None,
) -> Any:
    """The model's module after every pass, or after the one named `after`; a fresh module each time. `tuned`, by default what is known of the device,
    `aside` and `searched` as in `pipeline`, `sized` as in `compile_program`."""
    tuned = schedules_for(model, target) if tuned is None else tuned
    elaborated = sized.family.elaborated(sized.sizes) if sized is not None else model.elaborate(RECIPES[program].training, fetch)
    from .ir.program import program_of, set_name
    from .pipeline import pass_names, pipeline

    with elaborated.context, elaborated.location, deep():
        passes = pipeline(model, elaborated, program, target, tuned, aside, searched)
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
        set_name(program_of(elaborated.module), program)
    return elaborated


def schedules_for(model: Model, target: Target) -> Mapping[str, str]:
    """Measured schedules by kernel: those that the model's run was begun with, else what is known of the target's device."""
    device = target.device() if model.schedules is None else None
    return measured.schedules(device) if device is not None else model.schedules or {}


def _within_budget(model: Model, program: str, target: Target, fetch: Sequence[str], tuned: Mapping[str, str], sized: Member | None) -> Executable:
    """The executable; under a budget the one that `fitting` finds."""
    settings = model.checked.settings
    budget = settings.memory if settings is not None and RECIPES[program].steps and target.lowered else None
    if budget is None:
        return _made(lower(model, program, target, fetch=fetch, tuned=tuned, sized=sized), target)
    from .passes.searched import Searched

    searched = Searched()

    def made(aside: int) -> tuple[Executable, int]:
        executable = _made(lower(model, program, target, None, None, fetch, tuned, aside, sized, searched), target)
        return executable, _bytes(executable) - searched.planned

    return fitting(budget, made)


def _made(elaborated: Any, target: Target) -> Executable:
    with elaborated.context, elaborated.location:
        return _compiled(elaborated.module, target)


NEAR = 1 / 64  # of a budget: what may be left of it though plans have more repeats than with fewer bytes set aside
TRIES = 4  # at a plan with fewer bytes set aside


def fitting(budget: int, made: Callable[[int], tuple[Executable, int]]) -> Executable:
    """The executable with the least time that was found of those that stay under a budget. `made` gives the fastest one that leaves so many bytes to
    what kernels need behind the arena, and what its own need, which only compiling them tells. So first more and more is set aside until one fits,
    then less, but for what did not suffice: the kernels of the one that fits may need less than those of the others. BudgetError where none fits,
    with what the least plan that was found takes, its kernels' part too."""
    low, high, (best, needed) = _first(budget, made)
    for _ in range(TRIES):
        if min(budget - _bytes(best), high - low) <= budget * NEAR:
            break
        aside = needed if low < needed < high else (low + high) // 2
        executable, needed = made(aside)
        if _bytes(executable) <= budget:
            high, best = aside, executable
        else:
            low = aside
    return best


def _first(budget: int, made: Callable[[int], tuple[Executable, int]]) -> tuple[int, int, tuple[Executable, int]]:
    """Bytes set aside that do not suffice, more that do, and what was made with these."""
    low = aside = 0
    told = False
    while True:
        try:
            found = made(aside)
        except BudgetError as refusal:
            if told:
                raise
            most = budget - refusal.least  # to set aside: of the least plan the kernels are compiled, so that it can be told with them
            found = made(most)
            if _bytes(found[0]) <= budget:
                return low, most, found
            aside, told = _bytes(found[0]) - refusal.least, True
            continue
        if _bytes(found[0]) <= budget:
            return low, aside, found
        low, aside = aside, found[1]


def _bytes(executable: Executable) -> int:
    return executable.arena_bytes + sum(p.bytes for p in executable.ports)


def _compiled(module: Any, target: Target) -> Executable:
    """The executable of a module, with that of its second function where it has one."""
    from .passes import pieces
    from .passes.prepare import split

    second = split(module)
    executable = _noted(target.compile(module), module)
    if second is None:
        return executable
    if target.pieces:
        pieces.Pieces(pieces.BYTES).run(second)
    notes = {**executable.notes, READS: "\n".join(_read_by(module))}
    return replace(executable, prepare=to_bytes(_noted(target.compile(second), second)), notes=notes)


def _read_by(module: Any) -> list[str]:
    """The parameters and states that a program reads itself, not only through what is prepared from them."""
    from .ir.program import arguments_of, program_of

    program = program_of(module)
    return [s.name for s, v in zip(arguments_of(program), program.entry_block.arguments) if s.role in ("param", "state") and list(v.uses)]


def _noted(executable: Executable, module: Any) -> Executable:
    """The executable with the names of what it writes, and what the checkpoint pass tells of its plan."""
    from .ir.program import program_of, results_of
    from .passes.bounded import NOTE as LENGTHS
    from .passes.checkpoint import NOTE
    from .passes.notes import notes_of
    from .passes.pieces import NOTE as PARTS

    attributes = module.operation.attributes
    writes = "\n".join(s.name for s, _ in results_of(program_of(module)) if s.role in ("param", "state"))
    told = {name: attributes[note].value for name, note in (("memory", NOTE), ("lengths", LENGTHS)) if note in attributes}
    chunks = {"chunks": "; ".join(lines)} if (lines := notes_of(module, "chunk")) else {}
    parts = {PIECES: lines[0]} if (lines := notes_of(module, PARTS)) else {}
    return replace(executable, notes={**executable.notes, "writes": writes, **told, **chunks, **parts})


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
    from .ir.mlir import rest

    rest()
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
