"""The log of a run folder: `log.jsonl`, one object a line, and the loss curve `loss.png` that is drawn from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from ..core.errors import DataError

LOG, CURVE = "log.jsonl", "loss.png"


class RunLog:
    """Lines `{"step": n, "loss": x, ...}` and `{"step": n, "eval": {...}}`. Numbers that are not finite are written as null."""

    def __init__(self, folder: Path, step: int = 0):
        """Opens the log; lines of steps after `step` are dropped, so that a resumed run has each step once."""
        self.path = folder / LOG
        kept = [row for row in read_log(folder) if row.get("step", 0) <= step] if step else []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            temporary = self.path.with_suffix(".part")
            temporary.write_text("".join(map(_line, kept)), encoding="utf-8")
            temporary.replace(self.path)
            self._file: TextIO = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise DataError(f"{self.path} cannot be written: {error.strerror or error}") from None

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds a line. A full disk is a DataError."""
        try:
            self._file.write(_line(row))
            self._file.flush()
        except OSError as error:
            raise DataError(f"{self.path} cannot be written: {error.strerror or error}") from None

    def close(self) -> None:
        """Closes the file."""
        try:
            self._file.close()
        except OSError as error:
            raise DataError(f"{self.path} cannot be written: {error.strerror or error}") from None


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(_finite(row), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last line that was cut off is left out, a missing log is empty."""
    try:
        lines = (folder / LOG).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def draw_curve(folder: Path) -> Path | None:
    """Draws `loss.png`: the loss of every step, its running mean, and the validations. None where there is nothing to draw."""
    rows = read_log(folder)
    train = [(r["step"], r["loss"]) for r in rows if isinstance(r.get("loss"), float | int)]
    held = [(r["step"], r["eval"]["loss"]) for r in rows if isinstance(r.get("eval"), dict) and isinstance(r["eval"].get("loss"), float | int)]
    if not train:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    steps, losses = zip(*train)
    axes.plot(steps, losses, color="0.75", linewidth=0.8, label="loss of the step")
    axes.plot(steps, _running_mean(losses), color="C0", linewidth=1.5, label="running mean")
    if held:
        axes.plot(*zip(*held), "o-", color="C1", markersize=3, label="held-out")
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)
    axes.legend()
    try:
        figure.savefig(folder / CURVE, dpi=120)
    except OSError as error:
        raise DataError(f"{folder / CURVE} cannot be written: {error.strerror or error}") from None
    return folder / CURVE


def _running_mean(values: tuple[float, ...], span: int = 20) -> list[float]:
    """Exponential mean over about `span` steps, with the start corrected."""
    mean = weight = 0.0
    out = []
    for value in values:
        mean, weight = mean + (value - mean) * (2 / (span + 1)), weight + (1 - weight) * (2 / (span + 1))
        out.append(mean / weight)
    return out
