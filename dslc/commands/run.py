"""`dslc run`: a model's outputs for inputs from a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..compiled import program_of
from ..core.errors import DataError
from ..model import Model, fed
from ..runtime.binding import fit_inputs
from ..runtime.bounded import BoundedProgram
from ..runtime.tensorfile import open_tensors
from ..training_run import batch_dim
from .opening import open_model


def run(
    spec: str | Path,
    inputs: str | Path,
    *,
    output: str | Path | None = None,
    overrides: dict[str, Any] | None = None,
    target: str | None = None,
    weights: str | Path | None = None,
    map: str | Path | None = None,
    note: Callable[[str], None] | None = None,
) -> dict[str, np.ndarray]:
    """The outputs by name; written to an .npz file where `output` names one. `inputs`: an .npz file with an array for each input; those that
    the model declares and its outputs do not need (labels) may be there. DataError for any other name. `note` is told for which lengths the program
    was made, where these may vary, and of a model without weights."""
    if output is not None and Path(output).suffix != ".npz":
        raise DataError(f"the outputs are written to an .npz file, not to {output}")
    given = _arrays(inputs)
    model, target = open_model(spec, overrides, target, weights, map, note=note)
    program = program_of(model, "run", target)
    try:
        needed = fed(given, model.unneeded(program))
        fitted = needed if isinstance(program, BoundedProgram) else fit_inputs(program.executable.ports_of("input"), needed)
        results = program(fitted, seed=model.seed)
    except DataError as error:
        raise _with_rows(error, model, given) from None
    if note is not None and isinstance(program, BoundedProgram):
        note(program.told())
    if output is not None:
        np.savez(output, **results)  # type: ignore[arg-type]
    return results


def _arrays(path: str | Path) -> dict[str, np.ndarray]:
    help = "numpy.savez('inputs.npz', x=...) writes one"
    if Path(path).suffix != ".npz":
        raise DataError(f"the inputs are read from an .npz file, not from {path}", help=help)
    try:
        file = open_tensors(path)
        return {name: file.read(name) for name in file.entries}
    except DataError as error:
        error.help = help
        raise


def _with_rows(error: DataError, model: Model, given: dict[str, np.ndarray]) -> DataError:
    """The error with a way out, where all that is wrong is the number of rows."""
    dim = batch_dim(model)
    declared = {name: shape for name, (_, shape) in zip(model.checked.builder.inputs.values(), model.inputs)}
    rows = {a.shape[0] for name, a in given.items() if name in declared and a.ndim and a.shape[1:] == declared[name][1:]}
    if dim is not None and error.help is None and len(rows) == 1 and rows != {model.checked.dims[dim]} and 0 not in rows:
        error.help = f"for {next(iter(rows))} rows: --set {dim}={next(iter(rows))}"
    return error
