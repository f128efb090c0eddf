"""Checkpoints: everything a run needs to go on to the same losses, in one safetensors file.

Names in the file: parameters under their own paths (any safetensors reader finds the weights), states as `state/PATH`, the average of the
parameters as `average/PATH`. The metadata holds `dslc` (the version of this layout), `model`, `signature`, and `progress`, a JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataError, TrainingError
from .store import Entry, ParameterStore
from .tensorfile import open_tensors, write_safetensors

VERSION = "1"


@dataclass
class Progress:
    """Where a run stands. `step` counts finished steps, `position` the rows of the epoch that were used."""

    step: int = 0
    epoch: int = 0
    position: int = 0
    seed: int = 0
    best: float | None = None  # the best validation metric
    best_step: int = 0
    waited: int = 0  # validations since the best one
    schedules: dict[str, Any] = field(default_factory=dict)  # states of schedules that the host drives
    extra: dict[str, Any] = field(default_factory=dict)  # what the caller keeps with the run: the vocabulary, settings


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint. Arrays are by path."""

    path: Path
    model: str
    signature: str
    progress: Progress
    params: Mapping[str, np.ndarray]
    states: Mapping[str, np.ndarray]
    average: Mapping[str, np.ndarray]


def save(
    path: str | Path, store: ParameterStore, progress: Progress, *, model: str, signature: str, average: Mapping[str, np.ndarray] | None = None
) -> None:
    """Writes a checkpoint atomically; DataError (a full disk) leaves the earlier file intact."""
    tensors = {_name(e): store.array(e.path) for e in store.entries()}
    tensors |= {f"average/{path}": array for path, array in (average or {}).items()}
    metadata = {"dslc": VERSION, "model": model, "signature": signature, "progress": json.dumps(asdict(progress), allow_nan=False)}
    write_safetensors(path, tensors, metadata)


def _name(entry: Entry) -> str:
    return entry.path if entry.role == "param" else f"state/{entry.path}"


def load(path: str | Path) -> Checkpoint:
    """Reads a checkpoint; DataError for a file that is not one."""
    file = open_tensors(path)
    if "dslc" not in file.metadata:
        raise DataError(f"{path} holds weights but is no checkpoint of dslc", help="bring its weights in with --weights")
    if file.metadata["dslc"] != VERSION:
        raise DataError(f"{path} has checkpoint version {file.metadata['dslc']}, this dslc reads {VERSION}")
    groups: dict[str, dict[str, np.ndarray]] = {"": {}, "state": {}, "average": {}}
    for name in file.entries:
        group, _, rest = name.partition("/")
        if group not in ("state", "average"):  # a parameter's own path may hold a slash
            group, rest = "", name
        groups[group][rest] = file.read(name)
    progress = _progress(path, file.metadata.get("progress", ""))
    model, signature = file.metadata.get("model", ""), file.metadata.get("signature", "")
    return Checkpoint(Path(path), model, signature, progress, groups[""], groups["state"], groups["average"])


def _progress(path: str | Path, text: str) -> Progress:
    known = {f.name: f for f in fields(Progress)}
    try:
        values = json.loads(text)
        progress = Progress(**{k: v for k, v in values.items() if k in known})
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise DataError(f"{path}: its progress record is damaged") from None
    whole = (progress.step, progress.epoch, progress.position, progress.seed, progress.best_step, progress.waited)
    if any(type(v) is not int for v in whole) or not isinstance(progress.schedules, dict) or not isinstance(progress.extra, dict):
        raise DataError(f"{path}: its progress record is damaged")
    if progress.best is not None and not isinstance(progress.best, float | int):
        raise DataError(f"{path}: its progress record is damaged")
    return progress


def restore(checkpoint: Checkpoint, store: ParameterStore, *, states: bool = True, average: bool = False) -> None:
    """Puts a checkpoint's values into the store.

    `states=True` (resuming): states must match too. `states=False` (inference, fine-tuning): states that the store lacks, such as an
    optimizer's, are left out. `average=True` takes the average of the parameters where the run kept one.
    TrainingError, nothing written, when the checkpoint is of another model: it lists every parameter that differs.
    """
    found = {p: ("param", a) for p, a in checkpoint.params.items()} | {p: ("state", a) for p, a in checkpoint.states.items()}
    differences = list(_differences(store, found, strict=states))
    if differences:
        shown = differences[:20] + ([f"and {len(differences) - 20} more"] if len(differences) > 20 else [])
        named = f" ('{checkpoint.model}')" if checkpoint.model else ""
        raise TrainingError(f"{checkpoint.path} is the checkpoint of another model{named}", notes=shown)
    values = {p: a for p, (_, a) in found.items() if p in store}
    if average:
        values |= checkpoint.average
    store.assign(values)


def _differences(store: ParameterStore, found: Mapping[str, tuple[str, np.ndarray]], *, strict: bool) -> Iterable[str]:
    """One line for each path that the two do not share, or share with another shape or type."""
    for entry in store.entries():
        if entry.path not in found:
            if strict or entry.role == "param":
                yield f"missing in the checkpoint: {entry.role} '{entry.path}', {entry}"
            continue
        role, array = found[entry.path]
        kept = np.dtype(np.int8) if entry.dtype.name == "int4" else entry.dtype.numpy
        if role != entry.role or array.shape != entry.shape or array.dtype != kept:
            there = f"{array.dtype}[{', '.join(map(str, array.shape))}]"
            yield f"{entry.role} '{entry.path}' is {entry}, in the checkpoint {there}" + ("" if role == entry.role else f", a {role}")
    for path, (role, array) in found.items():
        if path not in store and (strict or role == "param"):
            yield f"only in the checkpoint: {role} '{path}', {array.dtype}[{', '.join(map(str, array.shape))}]"
