"""What a training run tells while it goes, and what it ends with. A listener is any function of one event."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Started:
    """Sent once. `step` is above 0 where the run was resumed."""

    step: int
    steps: int
    batch: int
    rows: int
    held_out_rows: int
    folder: Path | None


@dataclass(frozen=True)
class Stepped:
    """After every step; `step` counts finished steps. `metrics` are the step's metrics and named losses."""

    step: int
    steps: int
    epoch: int
    loss: float
    metrics: Mapping[str, float]
    seconds: float  # this step took


@dataclass(frozen=True)
class Evaluated:
    """After a validation: means over `rows` rows. `best` says whether it is the best so far."""

    step: int
    values: Mapping[str, float]
    rows: int
    best: bool
    seconds: float


@dataclass(frozen=True)
class Saved:
    """A checkpoint was written."""

    step: int
    path: Path


@dataclass(frozen=True)
class Tuned:
    """Schedules of a kernel were measured: its share of the time of a call of every program, how many schedules were tried so far of those that there
    are beside the cost model's, how many of them were refused, and by how much a run got shorter (1: the cost model's stays, `schedule` is "").
    `lengths`: for which lengths of bounded dimensions its programs are, `time<=64`; it was measured at the longest of them."""

    kernel: str
    kind: str
    lines: tuple[str, ...]
    share: float
    tried: int
    schedules: int
    refused: int
    gain: float
    schedule: str
    lengths: str = ""


@dataclass(frozen=True)
class Warned:
    """Something that the user should know and that stops nothing."""

    message: str


@dataclass(frozen=True)
class Result:
    """How a run ended: Finished, Stopped or Interrupted. `loss` is the last step's, `best` the best validation value."""

    step: int
    loss: float
    best: float | None
    best_step: int
    seconds: float
    folder: Path | None


@dataclass(frozen=True)
class Finished(Result):
    """All steps were made."""


@dataclass(frozen=True)
class Stopped(Result):
    """Validation got no better for as long as `stop` allows."""


@dataclass(frozen=True)
class Interrupted(Result):
    """Ctrl-C, or the system asked the process to end. `saved_step` is the step that resuming goes on from, if anything was saved."""

    saved_step: int | None
    how_to_resume: str


Event = Started | Stepped | Evaluated | Saved | Tuned | Warned | Result
Listener = Callable[[Event], None]


def silent(event: Event) -> None:
    """The listener that does nothing."""
