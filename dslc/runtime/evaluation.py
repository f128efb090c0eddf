"""A model's losses and metrics on a dataset, averaged by rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..core.errors import DataError
from .binding import batch_of, bind
from .bounded import ports_for, takes_fewer_rows, that_ran
from .data.dataset import Dataset
from .program import Program, metric_values, total_loss

Sized = Callable[[int], Program]  # the same program for another number of rows, bound to the same store


@dataclass(frozen=True)
class Evaluation:
    """Means over `rows` rows: `loss`, where the program has one, and every metric. `dropped` rows were a last batch too short to run."""

    values: dict[str, float]
    rows: int
    dropped: int = 0


def evaluate(program: Program, dataset: Dataset, *, sized: Sized | None = None, seed: int = 0, step: int = 0) -> Evaluation:
    """Runs over all rows in order. A short last batch runs in the program that `sized` gives and counts by its rows; without `sized` it
    is dropped, unless the program itself takes fewer rows. DataError where the data does not fit, or has no full batch."""
    ports = ports_for(program, dataset)
    batch, bound = batch_of(ports), bind(dataset, ports)
    sums: dict[str, float] = {}
    rows = dropped = 0
    for index, (_, inputs) in enumerate(bound.batches(batch, shuffle=False, short=True)):
        count = len(next(iter(inputs.values())))
        fits = count == batch or takes_fewer_rows(program)
        if not fits and sized is None:
            dropped = count
            continue
        runner = program if fits or sized is None else sized(count)
        results = runner(inputs, seed=seed, step=step, microbatch=index % 256)
        ran = that_ran(runner)
        values = metric_values(ran, results)
        if ran.executable.ports_of("loss"):
            values["loss"] = total_loss(ran, results)
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value * count
        rows += count
    if not rows:
        raise DataError(f"{dataset.name} has {len(dataset)} rows for evaluation, a batch takes {batch}")
    return Evaluation({name: total / rows for name, total in sums.items()}, rows, dropped)
