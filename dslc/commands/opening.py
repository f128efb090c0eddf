"""What a command's first word names: a model file, or the folder of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core.errors import DataError, NameError_, did_you_mean
from ..model import Model
from ..recipes import RECIPES
from ..runfolder import is_run, open_run, weights_file
from ..runfolder import load as load_run
from ..runtime.events import Listener, Warned


def open_spec(spec: str | Path, overrides: dict[str, Any] | None = None) -> tuple[Model, str]:
    """The model at its starting values, and the target that it was trained on (cpu for a model file)."""
    if is_run(spec):
        return open_run(spec, overrides)
    refuse_folder(spec)
    return Model(Path(spec), overrides), "cpu"


def refuse_folder(spec: str | Path) -> None:
    """DataError for a folder that holds no run, and for no name at all."""
    if not str(spec):
        raise DataError("the name of the model file is empty")
    if Path(spec).is_dir():
        raise DataError(f"{spec} is a folder without a run", help="name a model file; dslc train SPEC makes a run")


def open_model(
    spec: str | Path,
    overrides: dict[str, Any] | None = None,
    target: str | None = None,
    weights: str | Path | None = None,
    map: str | Path | None = None,
    best: bool = False,
    note: Callable[[str], None] | None = None,
) -> tuple[Model, str]:
    """The model with its weights, a run's own or those of a file, and the target to use. `note` is told where a model file comes without any."""
    if is_run(spec) and weights is None:
        loaded = load_run(spec, overrides, best)
        return loaded.model, target or loaded.target
    model, default = open_spec(spec, overrides)
    bring_in(model, weights, map)
    if note is not None and weights is None and Path(spec).suffix != ".onnx" and len(model.params):
        note(f"note: {spec} comes without weights, so its parameters are as they start: name a run folder, or give --weights")
    return model, target or default


def has_weights(spec: str | Path, weights: str | Path | None) -> bool:
    """Whether the values of `open_model`'s parameters are given, by a file, the run or the graph itself, and not drawn."""
    return weights is not None or is_run(spec) or Path(spec).suffix == ".onnx"


def with_length(model: Model) -> Model:
    """The model; where its length is given in epochs, which data alone turns into steps, schedules see a length of 1,000 steps."""
    if model.steps is None:
        model.set_steps(1000)
    return model


def tune_first(model: Model, programs: list[str], target: str, seconds: float | None, listener: Listener, at_bounds: bool = True) -> None:
    """Measures schedules of the programs' kernels for so long; None: not at all. `at_bounds`: of bounded dimensions those at the bounds alone."""
    if seconds is not None:
        from ..tuning import tune

        if model.checked.bounds and at_bounds:
            names = " and ".join(f"{dim}={n}" for dim, n in model.checked.bounds.items())
            listener(Warned(f"kernels are measured with {names}, the bounds, as in the calls that are timed"))
        tune(model, seconds, target, programs, listener, at_bounds=at_bounds)


def bring_in(model: Model, weights: str | Path | None, map: str | Path | None = None) -> None:
    """Weights of a file, or of a run, into the model, by the rules of `map`."""
    if weights is not None:
        model.params.load_weights(weights_file(weights), map)
    elif map is not None:
        raise DataError("--map says how weights are renamed, and there is no --weights")


def known_program(program: str) -> str:
    """The name of a program, checked. NameError_ for any other."""
    if program not in RECIPES:
        raise NameError_(f"no program '{program}'{did_you_mean(program, RECIPES)}", help=f"the programs are {', '.join(RECIPES)}")
    return program
