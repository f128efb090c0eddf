"""`dslc train`: trains a model file into a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..core.errors import DataError, TrainingError
from ..model import Model
from ..runfolder import describe, is_run
from ..runfolder import load as load_run
from ..runtime.events import Interrupted, Listener, Result, silent
from ..runtime.training import LAST
from ..training_run import training_loop


def train(
    spec: str | Path,
    *,
    overrides: dict[str, Any] | None = None,
    target: str = "cpu",
    run: str | Path | None = None,
    resume: bool = False,
    weights: str | Path | None = None,
    map: str | Path | None = None,
    listener: Listener = silent,
) -> Result:
    """Trains until the end, an early stop or Ctrl-C. The run folder (default: runs/NAME, numbered where it exists) gets checkpoints, log.jsonl,
    loss.png, report.html. With `resume`, `spec` may be the run folder itself."""
    if resume:
        folder = Path(spec) if is_run(spec) else Path(run or default_folder(spec))
        if not is_run(folder):
            raise DataError(f"there is no run to resume in {folder}")
        model = load_run(folder, overrides).model
    else:
        folder = Path(run) if run is not None else fresh_folder(default_folder(spec))
        if (folder / LAST).exists():
            raise DataError(f"{folder} holds a run already", help=f"go on with it: dslc train {spec} --run {folder} --resume, or name another folder")
        model = Model(spec, overrides)
    if weights is not None:
        model.params.load_weights(weights, map)
    loop = training_loop(model, target, folder, listener)
    describe(folder, model, target)
    if resume:
        loop.resume()
    _check_memory(model, loop)
    result = loop.run()
    from ..report import write_report

    write_report(model, target, folder / "report.html", program="step")
    return result


def default_folder(spec: str | Path) -> Path:
    return Path("runs") / Path(spec).stem


def fresh_folder(folder: Path) -> Path:
    """The folder, or the first of NAME-2, NAME-3, ... that is not there."""
    if not (folder / LAST).exists():
        return folder
    n = 2
    while (folder.with_name(f"{folder.name}-{n}") / LAST).exists():
        n += 1
    return folder.with_name(f"{folder.name}-{n}")


def _check_memory(model: Model, loop: Any) -> None:
    """`memory 2 GiB`: the plan's arena with parameters and states must fit."""
    block = model.checked.settings
    if block is None or block.memory is None:
        return
    executable = loop.stepper.train.executable
    needed = executable.arena_bytes + model.params.bytes
    if needed > block.memory:
        from ..core.errors import BudgetError

        raise BudgetError(f"memory {block.memory / 2**30:.3g} GiB is not enough; this plan takes {needed / 2**30:.3g} GiB", block.span,
                          help="make the batch smaller; recomputation under a budget is not there yet")  # fmt: skip


__all__ = ["Interrupted", "TrainingError", "train"]
