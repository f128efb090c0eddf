"""`dslc eval`: losses and metrics on held-out data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..compiled import program_of
from ..core.errors import DataError
from ..runtime.bounded import BoundedProgram
from ..runtime.evaluation import Evaluation
from ..runtime.evaluation import evaluate as run
from ..training_run import run_data, sized
from .opening import open_model


def evaluate(
    spec: str | Path,
    *,
    overrides: dict[str, Any] | None = None,
    target: str | None = None,
    weights: str | Path | None = None,
    map: str | Path | None = None,
    best: bool = False,
    note: Callable[[str], None] | None = None,
) -> Evaluation:
    """Means over the held-out rows of the train block's data, or over all rows where none are held out. `spec`: a run folder or a model file.
    `note` is told for which lengths programs were made, where these may vary, and of a model without weights."""
    if best and weights is not None:
        raise DataError("--best is a checkpoint of the run, --weights are others: give one of them")
    model, target = open_model(spec, overrides, target, weights, map, best, note)
    data = run_data(model)
    program = program_of(model, "eval", target)
    found = run(program, data.held_out or data.train, sized=sized(model, "eval", target), seed=model.seed)
    if note is not None and isinstance(program, BoundedProgram):
        note(program.told())
    return found
