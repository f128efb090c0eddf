"""`dslc run`: a model's outputs for inputs from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..compiled import program_of
from ..core.errors import DataError
from ..runtime.binding import fit_inputs
from .evaluate import open_model


def run(
    spec: str | Path,
    inputs: str | Path,
    *,
    output: str | Path | None = None,
    overrides: dict[str, Any] | None = None,
    target: str | None = None,
    weights: str | Path | None = None,
) -> dict[str, np.ndarray]:
    """The outputs by name; written to an .npz file where `output` names one. `inputs`: an .npz file with an array for each input."""
    model, target = open_model(spec, overrides, target, weights)
    program = program_of(model, "run", target)
    given = _arrays(inputs)
    ports = program.executable.ports_of("input")
    fitted = fit_inputs(ports, {p.name: given[p.name] for p in ports if p.name in given})
    results = program(fitted, seed=model.seed)
    if output is not None:
        np.savez(output, **results)  # type: ignore[arg-type]
    return results


def _arrays(path: str | Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {k: file[k] for k in file.files}
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path} cannot be read as an .npz file: {error}", help="numpy.savez('inputs.npz', x=...) writes one") from None
