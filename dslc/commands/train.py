"""`dslc train`: trains a model file into a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..core.errors import DataError
from ..model import Model
from ..runfolder import checkpoint_of, describe, is_run, open_run, schedules_of
from ..runtime.events import Interrupted, Listener, Result, silent
from ..runtime.training import LAST
from ..training_run import training_loop
from .fit import Fit, write_fit
from .opening import bring_in, refuse_folder


def train(
    spec: str | Path,
    *,
    overrides: dict[str, Any] | None = None,
    target: str | None = None,
    run: str | Path | None = None,
    resume: bool = False,
    weights: str | Path | None = None,
    map: str | Path | None = None,
    fit: Fit | None = None,
    tune: float | None = None,
    listener: Listener = silent,
) -> Result:
    """Trains until the end, an early stop or Ctrl-C. The run folder (default: runs/NAME, numbered where it exists) gets checkpoints, log.jsonl,
    loss.png, report.html. With `resume`, `spec` may be the run folder itself, and the target is the run's where none is given. `fit` says how the
    graph of an .onnx file is trained. `tune`: seconds in which the kernels' schedules are measured; a run that is resumed keeps its own."""
    if resume:
        if tune is not None:
            raise DataError("--resume goes on with the run's own schedules", help="leave --tune out, or train into a new folder")
        if fit is not None:
            raise DataError("--resume goes on as the run began", help="leave --loss, --data, --optimizer and --freeze out")
        folder = Path(spec) if is_run(spec) else Path(run) if run is not None else default_folder(spec)
        if weights is not None or map is not None:
            raise DataError("--resume goes on with the run's own weights", help="leave --weights and --map out, or train into a new folder")
        if not is_run(folder):
            raise DataError(f"there is no run to resume in {folder}", help="name the run's folder: dslc train FOLDER --resume")
        checkpoint_of(folder)
        model, trained_on = open_run(folder, overrides)
        model.schedules = schedules_of(folder)
    else:
        folder, trained_on = _new_folder(spec, run), "cpu"
        model = Model(write_fit(spec, fit, overrides or {}, folder) if fit is not None else Path(spec), overrides)
        model.data_folder = Path.cwd() if fit is not None else None
    bring_in(model, weights, map)
    target = target or trained_on
    loop = training_loop(model, target, folder, listener, start=not resume, tune=tune)
    if resume:
        loop.resume()
    describe(folder, model, target)
    result = loop.run()
    from ..report import write_report

    write_report(model, target, folder / "report.html", program="step")
    return result


def default_folder(spec: str | Path) -> Path:
    return Path("runs") / Path(spec).stem


def _new_folder(spec: str | Path, run: str | Path | None) -> Path:
    """The folder of a run that starts now. DataError where there is a run in it."""
    if is_run(spec):
        raise DataError(f"{spec} is a run", help=f"go on with it: dslc train {spec} --resume")
    refuse_folder(spec)
    if run is None:
        return fresh_folder(default_folder(spec))
    folder = Path(run)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file, not a folder")
    if (folder / LAST).exists():
        raise DataError(f"{folder} holds a run already", help=f"go on with it: dslc train {folder} --resume, or name another folder")
    return folder


def fresh_folder(folder: Path) -> Path:
    """The folder, or the first of NAME-2, NAME-3, ... that is not there."""
    if not (folder / LAST).exists():
        return folder
    n = 2
    while (folder.with_name(f"{folder.name}-{n}") / LAST).exists():
        n += 1
    return folder.with_name(f"{folder.name}-{n}")


__all__ = ["Interrupted", "train"]
