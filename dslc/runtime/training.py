"""The training loop: steps, validation, checkpoints, early stopping, resuming to the bit, and a clear end whatever happens."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import TrainingError
from . import checkpoint as checkpoints
from .averaging import Average, Ema
from .binding import batch_of, bind
from .bounded import attach, ports_for, that_is_made
from .checkpoint import Progress
from .data.dataset import Dataset, Feed
from .data.sources import Data
from .divergence import Diagnose, LastGood, explain
from .evaluation import Sized, evaluate
from .events import Evaluated, Finished, Interrupted, Listener, Result, Saved, Started, Stepped, Stopped, Warned, silent
from .interrupts import interrupts_held
from .program import Program
from .runlog import RunLog, draw_curve
from .schedules import HostSchedule
from .stepper import Step, Stepper
from .store import ParameterStore

LAST, BEST = "checkpoint.safetensors", "best.safetensors"


@dataclass(frozen=True)
class EarlyStop:
    """Ends a run when `patience` validations in a row were no better than the best one by more than `least_change`."""

    patience: int = 5
    least_change: float = 0.0


@dataclass(frozen=True)
class TrainSettings:
    """What a train block says about the run itself; what the step computes is compiled.

    `steps` or `epochs` (which may be a fraction) must be given. `eval_every` and `save_every` count steps; left out they are a tenth of the
    run. `metric` is what validation is judged by, `mode` says whether "min" or "max" is better. Without a `folder` nothing is written.
    """

    steps: int | None = None
    epochs: float | None = None
    seed: int = 0
    accumulate: int = 1
    eval_every: int | None = None
    save_every: int | None = None
    metric: str = "loss"
    mode: str = "min"
    stop: EarlyStop | None = None
    average: Ema | None = None
    folder: Path | None = None

    def total_steps(self, batches_per_epoch: int) -> int:
        """The steps of the whole run; TrainingError where neither or an impossible number was given."""
        for name, value in (("steps", self.steps), ("epochs", self.epochs), ("eval_every", self.eval_every), ("save_every", self.save_every)):
            if value is not None and not value > 0:
                raise TrainingError(f"{name} {value} must be above 0")
        if self.mode not in ("min", "max"):
            raise TrainingError(f'mode \'{self.mode}\': better is "min" or "max"')
        if self.steps is not None:
            return self.steps
        if self.epochs is None:
            raise TrainingError("how long to train is not said", help="give the train block a line: steps 1000")
        return max(1, round(self.epochs * batches_per_epoch / self.accumulate))


def _kept_with_the_run(dataset: Dataset) -> dict[str, Any]:
    """What generation and prediction need to know of the data: `data.vocabulary.from_json` reads the vocabulary back."""
    kept: dict[str, Any] = {}
    if dataset.vocabulary is not None:
        kept["vocabulary"] = dataset.vocabulary.to_json()
    if dataset.classes:
        kept["classes"] = list(dataset.classes)
    return kept


class TrainingLoop:
    """Trains the parameters of a store on a dataset.

    `train` is the train program (the applying one where `accumulate` is given, see `Stepper`), `evaluation` the eval program for held-out
    rows and `sized` gives it for a shorter last batch. `diagnose` names the op of a value that is not finite. `extra` (plain JSON) is kept
    in every checkpoint under `progress.extra`, beside the data's own `vocabulary` and `classes`. All programs are bound to `store` here.
    """

    def __init__(
        self,
        train: Program,
        store: ParameterStore,
        data: Data | Dataset,
        settings: TrainSettings,
        *,
        evaluation: Program | None = None,
        accumulate: Program | None = None,
        sized: Sized | None = None,
        schedules: Sequence[HostSchedule] = (),
        listener: Listener = silent,
        diagnose: Diagnose | None = None,
        extra: Mapping[str, Any] | None = None,
    ):
        data = Data(data) if isinstance(data, Dataset) else data
        self.store, self.settings, self.evaluation, self.sized = store, settings, evaluation, sized
        self.listener, self.diagnose = listener, diagnose
        self.stepper = Stepper(train, store, accumulate=accumulate, microbatches=settings.accumulate, seed=settings.seed, schedules=schedules)
        if evaluation is not None:
            attach(evaluation, store)
        ports = ports_for(self.stepper.fed, data.train)
        self.feed = Feed(bind(data.train, ports), batch_of(ports), settings.seed, shuffle=data.shuffle)
        self.held_out: Dataset | None = None
        if data.held_out is not None:
            if evaluation is None:
                raise TrainingError("held-out data needs an evaluation program")
            self.held_out = bind(data.held_out, ports_for(evaluation, data.held_out))
        if settings.stop is not None and self.held_out is None:
            raise TrainingError("stop judges by held-out data, and there is none", help="hold some back: data SOURCE(..., split=0.1)")
        self.steps = settings.total_steps(self.feed.batches_per_epoch)
        self.average = Average(store, settings.average) if settings.average else None
        self.progress = Progress(seed=settings.seed, extra={**_kept_with_the_run(data.train), **(extra or {})})
        self.last_loss = math.nan
        self._saved_step: int | None = None
        self._memory: LastGood | None = None
        self._log: RunLog | None = None
        self._inside_step = False
        self._told_dropped = False

    def resume(self, path: str | Path | None = None) -> None:
        """Goes on from a checkpoint, by default the last one of the run folder. TrainingError where it is another model's."""
        folder = self.settings.folder
        if path is None and folder is None:
            raise TrainingError("there is no run folder to resume from")
        loaded = checkpoints.load(path if path is not None else Path(folder or "") / LAST)
        checkpoints.restore(loaded, self.store)
        if loaded.progress.seed != self.settings.seed:
            self.listener(Warned(f"the run goes on with its seed {loaded.progress.seed}, not {self.settings.seed}"))
        loaded.progress.extra = {**loaded.progress.extra, **self.progress.extra}
        if self.average is not None:
            self.average.load(loaded.average or loaded.params)
        self._stand_at(loaded.progress)

    def _stand_at(self, progress: Progress) -> None:
        """Puts counters, data position and schedules where `progress` says; the store has been restored already."""
        self.progress = progress
        self.stepper.step, self.stepper.seed = progress.step, progress.seed
        self.feed.seek(progress.seed, progress.epoch, progress.position)
        for index, schedule in enumerate(self.stepper.schedules):
            if str(index) in progress.schedules:
                schedule.load(progress.schedules[str(index)])

    def run(self) -> Result:
        """Trains to the end and returns a Finished, Stopped or Interrupted result. TrainingError where the loss is not finite,
        DataError where the disk is full; the last good checkpoint is then intact."""
        began = time.perf_counter()
        folder = self.settings.folder
        self._log = RunLog(folder, self.progress.step) if folder is not None else None
        held = len(self.held_out) if self.held_out is not None else 0
        try:
            self.listener(Started(self.progress.step, self.steps, self.feed.batch, len(self.feed.dataset), held, folder))
            with interrupts_held() as pending:
                kind = self._loop(pending)
                self._keep()
        except KeyboardInterrupt:
            kind = self._interrupted()
        finally:
            if self._log is not None:
                self._log.close()
        if folder is not None:
            draw_curve(folder)
        result = self._result(kind, time.perf_counter() - began)
        self.listener(result)
        return result

    def _loop(self, pending: Any) -> type[Result]:
        """Steps until the end; at the top of the loop everything is between two steps."""
        if self._saved_step is None:
            self._keep()  # so that there always is a last good state
        every = max(1, self.steps // 10)
        eval_every = self.settings.eval_every or every
        save_every = self.settings.save_every or every
        while self.progress.step < self.steps:
            pending.check()
            self._one_step()
            done = self.progress.step == self.steps
            if self.held_out is not None and (done or self.progress.step % eval_every == 0):
                better = self._validate()
                if not better and self.settings.stop is not None and self.progress.waited >= self.settings.stop.patience:
                    return Stopped
            if self.progress.step % save_every == 0 and not done:
                self._keep()
        return Finished

    def _one_step(self) -> None:
        began = time.perf_counter()
        self._inside_step = True
        step = self.stepper.run(self.feed.next)
        if not math.isfinite(step.loss):
            raise self._diverged(step)
        if self.average is not None:
            self.average.update(self.progress.step)
        self.progress.step, self.progress.epoch, self.progress.position = self.stepper.step, self.feed.epoch, self.feed.position
        self.last_loss = step.loss
        self._inside_step = False
        if self.held_out is None:
            self._observe(step.loss)
        event = Stepped(self.progress.step, self.steps, self.feed.epoch, step.loss, step.metrics, time.perf_counter() - began)
        if self._log is not None:
            self._log.write({"step": event.step, "epoch": event.epoch, "loss": event.loss, **event.metrics, "seconds": round(event.seconds, 6)})
        self.listener(event)

    def _observe(self, value: float) -> None:
        for index, schedule in enumerate(self.stepper.schedules):
            schedule.observe(value)
            self.progress.schedules[str(index)] = schedule.state()

    def evaluate(self) -> dict[str, float]:
        """Losses and metrics on the held-out data, of the average where one is kept."""
        return self._evaluated()[0]

    def _evaluated(self) -> tuple[dict[str, float], int]:
        if self.held_out is None or self.evaluation is None:
            raise TrainingError("there is no held-out data")
        sized, seed, step = self.sized, self.progress.seed, self.progress.step
        if self.average is None:
            found = evaluate(self.evaluation, self.held_out, sized=sized, seed=seed, step=step)
        else:
            with self.average.swapped_in():
                found = evaluate(self.evaluation, self.held_out, sized=sized, seed=seed, step=step)
        if found.dropped and not self._told_dropped:
            self._told_dropped = True
            self.listener(Warned(f"the last {found.dropped} held-out rows do not fill a batch and are left out"))
        return found.values, found.rows

    def _validate(self) -> bool:
        """Evaluates, tells, and keeps the best state; returns whether it is better than before."""
        began = time.perf_counter()
        values, rows = self._evaluated()
        metric = self.settings.metric
        if metric not in values:
            raise TrainingError(f"validation gives no '{metric}'", notes=[f"it gives: {', '.join(values)}"])
        value = values[metric]
        progress = self.progress
        least = self.settings.stop.least_change if self.settings.stop else 0.0
        gain = math.inf if progress.best is None else (progress.best - value) * (1 if self.settings.mode == "min" else -1)
        better = math.isfinite(value) and gain > least
        if better:
            progress.best, progress.best_step, progress.waited = value, progress.step, 0
        else:
            progress.waited += 1
        self._observe(value)
        event = Evaluated(progress.step, values, rows, better, time.perf_counter() - began)
        if self._log is not None:
            self._log.write({"step": progress.step, "eval": values, "best": better})
        if better and self.settings.folder is not None:
            self._save(self.settings.folder / BEST)
        self.listener(event)
        return better

    def _keep(self) -> None:
        """Saves the last checkpoint, or keeps it in memory where there is no folder and a later diagnosis would want it."""
        if self._saved_step == self.progress.step and self.progress.step > 0:
            return
        if self.settings.folder is not None:
            self._save(self.settings.folder / LAST)
        elif self.diagnose is not None:
            self._memory = LastGood.of(self.store, self.progress, None)
        self._saved_step = self.progress.step

    def _save(self, path: Path) -> None:
        executable = that_is_made(self.stepper.train).executable
        average = self.average.values if self.average else None
        checkpoints.save(path, self.store, self.progress, model=executable.model, signature=executable.signature, average=average)
        self.listener(Saved(self.progress.step, path))

    def _interrupted(self) -> type[Result]:
        """After Ctrl-C: saves, unless a step was cut in two."""
        if not self._inside_step and self._saved_step != self.progress.step:
            self._keep()
        return Interrupted

    def _diverged(self, step: Step) -> TrainingError:
        """The loss is not finite: finds the first value that was not, puts the last good state back, and says all of it."""
        folder = self.settings.folder
        path = folder / LAST if folder is not None and self._saved_step is not None else None
        good = LastGood.load(path) if path is not None else self._memory
        error = explain(self.stepper, self.feed, step.loss, good, self.diagnose, self.listener)
        if good is not None:
            good.restore(self.store)
            self._stand_at(good.progress)
        return error

    def _result(self, kind: type[Result], seconds: float) -> Result:
        progress, folder = self.progress, self.settings.folder
        common = (progress.step, self.last_loss, progress.best, progress.best_step, seconds, folder)
        if kind is not Interrupted:
            return kind(*common)
        saved = self._saved_step if folder is not None else None
        if saved is None:
            how = "nothing was saved: the run has no folder"
        else:
            how = f"saved at step {saved} of {self.steps} in {folder}; to go on: dslc train {folder} --resume"
        return Interrupted(*common, saved, how)
