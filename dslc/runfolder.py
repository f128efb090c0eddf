"""What a run folder holds beside checkpoints and log: copies of the model's files, the overrides, the target; so that it can be used anywhere."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .compiler import schedules_for
from .core.errors import DataError
from .model import Model
from .runtime import checkpoint as checkpoints
from .runtime.training import BEST, LAST
from .targets import target_of

DESCRIPTION = "run.json"
SOURCES = "source"


@dataclass(frozen=True)
class RunFolder:
    """A run on disk: the model as it was trained, its last or best checkpoint."""

    path: Path
    model: Model
    target: str
    progress: checkpoints.Progress


def is_run(path: str | Path) -> bool:
    """A folder that a training run has made."""
    try:
        return (Path(path) / DESCRIPTION).is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def describe(folder: Path, model: Model, target: str) -> None:
    """Writes the description and copies the model's files. A model that comes from this very folder keeps the data folder that it was
    trained with. DataError where the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / SOURCES
        spec = _kept_name(model, kept) or _copy_sources(model, kept)
        plain = {k: v if isinstance(v, (str, int, float, bool, list)) else repr(v) for k, v in model.overrides.items()}
        data = (model.data_folder or Path(model.source.folder)).resolve()
        schedules = dict(schedules_for(model, target_of(target)))
        content = {"spec": spec, "overrides": plain, "target": target, "steps": model.steps, "folder": str(data), "schedules": schedules}
        part = folder / f".{DESCRIPTION}.{os.getpid()}.part"
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        part.replace(folder / DESCRIPTION)
    except OSError as error:
        raise DataError(f"the run folder {folder} cannot be written: {error.strerror or error}", help="name another one: --run FOLDER") from None


def _kept_name(model: Model, kept: Path) -> str | None:
    """The name of the model's file among the folder's copies, where it is one of them."""
    if model.source.path is None or not model.source.path.resolve().is_relative_to(kept.resolve()):
        return None
    return str(model.source.path.resolve().relative_to(kept.resolve()))


def _copy_sources(model: Model, kept: Path) -> str:
    """Copies all files of the model below their common folder, so that imports find each other; returns the name of the main one."""
    source = model.source
    if source.path is None:
        names = {source.file: Path("model.dsl")}
    else:
        whole = {shown: Path(os.path.abspath(shown)) for shown in source.texts}
        root = os.path.commonpath([path.parent for path in whole.values()])
        names = {shown: path.relative_to(root) for shown, path in whole.items()}
    for shown, name in names.items():
        file = kept / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if name.suffix == ".onnx":
            shutil.copyfile(shown, file)
        else:
            file.write_text(source.texts[shown], encoding="utf-8")
    return str(names[source.file])


def open_run(path: str | Path, overrides: dict[str, Any] | None = None) -> tuple[Model, str]:
    """The model of a run as it was trained, at its starting values, and its target. DataError where the folder holds no run."""
    folder = Path(path)
    try:
        content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        spec, given, steps = content["spec"], dict(content["overrides"]), content.get("steps")
        target, data = content.get("target", "cpu"), content.get("folder", ".")
        if not all(isinstance(x, str) for x in (spec, target, data)) or not (steps is None or type(steps) is int):
            raise ValueError("a value has the wrong type")
    except FileNotFoundError:
        raise DataError(f"{folder} is no run folder", help="dslc train SPEC makes one") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{folder / DESCRIPTION} is damaged: {error}", help="the weights are still there: --weights takes the checkpoint") from None
    model = Model(folder / SOURCES / spec, {**given, **(overrides or {})})
    model.data_folder = Path(data)
    if steps and model.steps is None:  # the length of a run in epochs
        model.set_steps(steps)
    return model, target


def schedules_of(path: str | Path) -> dict[str, str]:
    """The measured schedules that a run was begun with, by kernel: with others it would go on with other roundings."""
    try:
        found = json.loads((Path(path) / DESCRIPTION).read_text(encoding="utf-8")).get("schedules", {})
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{Path(path) / DESCRIPTION} is damaged: {error}") from None
    return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}


def load(path: str | Path, overrides: dict[str, Any] | None = None, best: bool = False) -> RunFolder:
    """The run with its model and weights: the best checkpoint if asked for and there, else the last; the averaged parameters where the run kept
    an average. DataError where the folder holds no run, TrainingError where the checkpoint is of another model."""
    model, target = open_run(path, overrides)
    stored = checkpoints.load(checkpoint_of(path, best))
    checkpoints.restore(stored, model.params, states=False, average=bool(stored.average))
    return RunFolder(Path(path), model, target, stored.progress)


def checkpoint_of(path: str | Path, best: bool = False) -> Path:
    """The file with a run's weights. DataError where the run was ended before it saved any."""
    folder = Path(path)
    file = folder / BEST if best and (folder / BEST).is_file() else folder / LAST
    if not file.exists():
        raise DataError(f"{folder} has no {LAST}: the run ended before it saved anything", help="train again, into the same folder or another")
    return file


def weights_file(path: str | Path) -> Path:
    """What `--weights` names: a file, or a run folder, whose best checkpoint it stands for."""
    if is_run(path):
        return checkpoint_of(path, best=True)
    if Path(path).is_dir():
        raise DataError(f"{path} is a folder without a run", help="weights are a .safetensors or .npz file, or a run folder")
    return Path(path)
