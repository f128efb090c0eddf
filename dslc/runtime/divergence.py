"""What happened when the loss is not finite: the steps since the last good state run again until the first bad value appears."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.errors import Span, TrainingError
from . import checkpoint as checkpoints
from .checkpoint import Progress
from .data.dataset import Feed
from .events import Listener, Warned
from .stepper import Batch, Stepper
from .store import ParameterStore

Diagnose = Callable[[Batch, int], tuple[str, Span | None] | None]
"""`diagnose(inputs, step)`: the parameters are those before program step `step` (from 0). Names the first op with a value that is not
finite and its place in the model file, or gives None."""


@dataclass(frozen=True)
class LastGood:
    """The last state known to be good: from a checkpoint, or kept in memory."""

    values: Mapping[str, np.ndarray]
    progress: Progress
    path: Path | None

    @staticmethod
    def of(store: ParameterStore, progress: Progress, path: Path | None) -> LastGood:
        """A copy of what the store holds."""
        return LastGood(store.copy_values(), deepcopy(progress), path)

    @staticmethod
    def load(path: Path) -> LastGood:
        """What a checkpoint holds."""
        loaded = checkpoints.load(path)
        return LastGood({**loaded.params, **loaded.states}, loaded.progress, path)

    def restore(self, store: ParameterStore) -> None:
        """Puts the values back."""
        store.assign(self.values)


def explain(stepper: Stepper, feed: Feed, loss: float, good: LastGood | None, diagnose: Diagnose | None, listener: Listener) -> TrainingError:
    """The error for a step that gave `loss`; leaves the store in any state."""
    step = stepper.step  # counts the bad step too
    notes: list[str] = []
    span: Span | None = None
    if good is not None and diagnose is not None:
        listener(Warned(f"the loss is {_name(loss)} at step {step}; running again from step {good.progress.step} to find the first bad value"))
        found = _first_bad(stepper, feed, good, step, diagnose)
        if found is not None:
            note, span = found
            notes.append(note)
    if good is not None:
        where = f"in {good.path}" if good.path is not None else "kept in memory"
        notes.append(f"the last good state, of step {good.progress.step}, is {where}")
    help = "lower the learning rate or lengthen its warm-up, or clip the gradients: clip norm(1.0)"
    return TrainingError(f"the loss is {_name(loss)} at step {step}", span, notes=notes, help=help)


def _name(value: float) -> str:
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"


def _first_bad(stepper: Stepper, feed: Feed, good: LastGood, last: int, diagnose: Diagnose) -> tuple[str, Span | None] | None:
    """Runs from the last good state to step `last`; at the first step that leaves anything not finite, asks `diagnose`.

    Runs are deterministic, so the same thing happens again. Schedules of the host start from the same state too.
    """
    good.restore(stepper.store)
    for index, schedule in enumerate(stepper.schedules):
        if str(index) in good.progress.schedules:
            schedule.load(good.progress.schedules[str(index)])
    stepper.step = good.progress.step
    again = Feed(feed.dataset, feed.batch, feed.seed, shuffle=feed.shuffle, epoch=good.progress.epoch, position=good.progress.position)
    while stepper.step < last:
        before = stepper.store.copy_values()
        batches: list[Batch] = []

        def next_batch(batches: list[Batch] = batches) -> Batch:
            batches.append(again.next())
            return batches[-1]

        result = stepper.run(next_batch)
        broken = [p for p in stepper.store if not _all_finite(stepper.store[p])]
        if math.isfinite(result.loss) and not broken:
            continue
        stepper.store.assign(before)
        return _ask(diagnose, batches, stepper.step - 1, broken)
    return None


def _ask(diagnose: Diagnose, batches: list[Batch], step: int, broken: list[str]) -> tuple[str, Span | None]:
    """The diagnosis of a program step (from 0), as a note and a place."""
    for batch in batches:
        found = diagnose(batch, step)
        if found is not None:
            return f"the first value that is not finite, in step {step + 1}: {found[0]}", found[1]
    listed = ", ".join(f"'{p}'" for p in broken[:5]) + (f" and {len(broken) - 5} more" if len(broken) > 5 else "")
    if broken:
        return f"after step {step + 1} these are not finite: {listed}", None
    return f"the first bad step is {step + 1}", None


def _all_finite(array: np.ndarray) -> bool:
    return array.dtype.kind in "biu" or bool(np.isfinite(array).all())
