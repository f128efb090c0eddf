"""`dslc eval`: losses and metrics on held-out data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..compiled import program_of
from ..core.errors import DataError
from ..model import Model
from ..runfolder import is_run
from ..runfolder import load as load_run
from ..runtime.evaluation import Evaluation
from ..runtime.evaluation import evaluate as run
from ..training_run import run_data, sized


def evaluate(
    spec: str | Path, *, overrides: dict[str, Any] | None = None, target: str | None = None, weights: str | Path | None = None, best: bool = False
) -> Evaluation:
    """Means over the held-out rows of the train block's data, or over all rows where none are held out. `spec`: a run folder or a model file."""
    model, target = open_model(spec, overrides, target, weights, best)
    data = run_data(model)
    return run(program_of(model, "eval", target), data.held_out or data.train, sized=sized(model, "eval", target), seed=model.seed)


def open_model(
    spec: str | Path, overrides: dict[str, Any] | None, target: str | None, weights: str | Path | None, best: bool = False
) -> tuple[Model, str]:
    """The model of a run folder or of a model file, and the target to use."""
    if is_run(spec):
        loaded = load_run(spec, overrides, best)
        model, default = loaded.model, loaded.target
    elif Path(spec).is_dir():
        raise DataError(f"{spec} is a folder without a run", help="dslc train SPEC makes one")
    else:
        model, default = Model(spec, overrides), "cpu"
    if weights is not None:
        model.params.load_weights(weights)
    return model, target or default
