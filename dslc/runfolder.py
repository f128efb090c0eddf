"""What a run folder holds beside checkpoints and log: copies of the model's files, the overrides, the target; so that it can be used anywhere."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .core.errors import DataError
from .model import Model
from .runtime import checkpoint as checkpoints

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
    return (Path(path) / DESCRIPTION).is_file()


def describe(folder: Path, model: Model, target: str) -> None:
    """Writes the description and copies the model's files."""
    folder.mkdir(parents=True, exist_ok=True)
    source = model.source
    main = ""
    for shown, text in source.texts.items():
        relative = os.path.relpath(shown, source.folder) if source.path is not None else "model.dsl"
        if relative.startswith(".."):
            relative = str(Path("elsewhere") / Path(relative).name)
        file = folder / SOURCES / relative
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        main = relative if shown == source.file or source.path is None else main
    plain = {k: v if isinstance(v, (str, int, float, bool, list)) else repr(v) for k, v in model.overrides.items()}
    content = {"spec": main, "overrides": plain, "target": target, "steps": model.steps, "folder": str(Path(source.folder).resolve())}
    (folder / DESCRIPTION).write_text(json.dumps(content, indent=1) + "\n")


def load(path: str | Path, overrides: dict[str, Any] | None = None, best: bool = False) -> RunFolder:
    """The run with its model and weights: the best checkpoint if asked for and there, else the last; the averaged parameters where the run kept
    an average. DataError where the folder holds no run."""
    folder = Path(path)
    try:
        content = json.loads((folder / DESCRIPTION).read_text())
        spec, given = folder / SOURCES / content["spec"], dict(content["overrides"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} is no run folder ({error})", help="dslc train SPEC makes one") from None
    model = Model(spec, {**given, **(overrides or {})})
    if content.get("steps"):
        model.set_steps(int(content["steps"]))
    model.data_folder = Path(content.get("folder", "."))
    name = "best.safetensors" if best and (folder / "best.safetensors").is_file() else "checkpoint.safetensors"
    stored = checkpoints.load(folder / name)
    checkpoints.restore(stored, model.params, states=False, average=bool(stored.average))
    return RunFolder(folder, model, content.get("target", "cpu"), stored.progress)
