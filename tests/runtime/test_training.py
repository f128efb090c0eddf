"""The training loop: resuming to the bit, accumulation, early stopping, averages, and every bad end."""

from __future__ import annotations

import errno
import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
from fakes import Linear, linear_data

from dslc.core.errors import DataError, Span, TrainingError
from dslc.runtime import checkpoint, events
from dslc.runtime.averaging import Ema
from dslc.runtime.data import Data
from dslc.runtime.data.vocabulary import Characters, from_json
from dslc.runtime.schedules import Plateau
from dslc.runtime.store import ParameterStore
from dslc.runtime.training import BEST, LAST, EarlyStop, TrainingLoop, TrainSettings


def loop(settings, listener=events.silent, *, lr=0.1, held=True, **options):
    dataset = linear_data()
    data = Data(*dataset.split(0.25, 1)) if held else Data(dataset)
    evaluation = Linear("eval") if held else None
    return TrainingLoop(Linear("train", lr=lr), ParameterStore(), data, settings, evaluation=evaluation, listener=listener, **options)


class Record(list):
    """A listener that keeps losses and all events."""

    def __init__(self, stop_at=None, signal_at=None):
        super().__init__()
        self.stop_at, self.signal_at = stop_at, signal_at

    def __call__(self, event):
        self.append(event)
        if isinstance(event, events.Stepped):
            if event.step == self.stop_at:
                raise KeyboardInterrupt
            if event.step == self.signal_at:
                os.kill(os.getpid(), signal.SIGINT)

    def of(self, kind):
        return [e for e in self if isinstance(e, kind)]

    @property
    def losses(self):
        return [(e.step, e.loss, e.metrics["error"]) for e in self.of(events.Stepped)]


def test_training_learns_and_writes_the_run_folder(tmp_path):
    record = Record()
    run = loop(TrainSettings(epochs=20, folder=tmp_path), record, lr=0.02)
    result = run.run()
    assert isinstance(result, events.Finished) and result.step == run.steps == 20 * 7
    assert np.allclose(run.store["w"], [1, -2, 0.5], atol=0.02) and result.best < 1e-3
    assert sorted(p.name for p in tmp_path.iterdir()) == [BEST, LAST, "log.jsonl", "loss.png"]
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(r["step"], r["loss"], r["error"]) for r in rows if "loss" in r] == record.losses
    held = record.of(events.Evaluated)
    assert [e.step for e in held] == list(range(14, 141, 14)) and all(e.rows == 8 for e in held)
    assert checkpoint.load(tmp_path / BEST).progress.step == result.best_step
    assert record[0] == events.Started(0, 140, 4, 30, 10, tmp_path) and record[-1] is result


@pytest.mark.parametrize("average", [None, Ema(0.9)])
@pytest.mark.parametrize("stop_at", [1, 13, 20])
def test_resuming_gives_the_same_losses_to_the_bit(tmp_path, stop_at, average):
    settings = TrainSettings(steps=30, seed=(1 << 40) + 3, average=average, eval_every=5)
    whole = Record()
    full = loop(settings, whole)
    full.run()
    first = Record(stop_at)
    there = replace(settings, folder=tmp_path)
    result = loop(there, first).run()
    assert isinstance(result, events.Interrupted) and result.saved_step == result.step == stop_at
    second = Record()
    resumed = loop(there, second)
    resumed.resume()
    assert isinstance(resumed.run(), events.Finished)
    assert first.losses + second.losses == whole.losses
    assert all(resumed.store[p].tobytes() == full.store[p].tobytes() for p in full.store)
    held = [e.values for e in first.of(events.Evaluated) + second.of(events.Evaluated)]
    assert stop_at % 5 == 0 or held == [e.values for e in whole.of(events.Evaluated)]
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in logged if "seconds" in r] == list(range(1, 31))


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path):
    whole = Record()
    loop(TrainSettings(steps=30), whole).run()

    class Killed(Exception):
        pass

    def kill(event):
        if isinstance(event, events.Stepped) and event.step == 17:
            raise Killed

    settings = TrainSettings(steps=30, folder=tmp_path, save_every=5)
    with pytest.raises(Killed):
        loop(settings, kill).run()
    second = Record()
    resumed = loop(settings, second)
    resumed.resume()
    resumed.run()
    assert second.losses == whole.losses[15:]
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in logged if "seconds" in r] == list(range(1, 31))


def test_control_c_as_a_signal_ends_after_the_step(tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts with it ignored
    record = Record(signal_at=4)
    try:
        result = loop(TrainSettings(steps=30, folder=tmp_path), record).run()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert isinstance(result, events.Interrupted) and result.step == 4 and len(record.losses) == 4
    assert result.how_to_resume == f"saved at step 4 of 30 in {tmp_path}; to go on: dslc train {tmp_path} --resume"
    assert checkpoint.load(tmp_path / LAST).progress.step == 4


def test_an_interrupt_inside_a_step_saves_nothing_torn(tmp_path):
    run = loop(TrainSettings(steps=30, folder=tmp_path, save_every=2))
    program = run.stepper.train
    update = program._update

    def torn(gradients):
        if run.stepper.step == 5:
            program.store.array("w")[...] = 99
            raise KeyboardInterrupt
        update(gradients)

    program._update = torn
    result = run.run()
    assert isinstance(result, events.Interrupted) and result.saved_step == 4
    assert not (checkpoint.load(tmp_path / LAST).params["w"] == 99).any()


def test_accumulation_in_both_forms_matches_the_mean_gradient():
    stores = []
    for form in ("apply", "train"):
        settings = TrainSettings(steps=3, accumulate=3)
        store = ParameterStore()
        train = Linear(form, microbatches=3)
        accumulate = Linear("accumulate", microbatches=3)
        run = TrainingLoop(train, store, linear_data(), settings, accumulate=accumulate)
        run.run()
        micro = [c[2] for c in accumulate.calls]
        assert micro == ([0, 1, 2] if form == "apply" else [0, 1]) * 3
        assert (run.progress.epoch, run.progress.position) == (0, 36)
        stores.append(store)
    assert np.allclose(stores[0]["w"], stores[1]["w"], rtol=1e-6) and stores[0]["w"].any()
    with pytest.raises(TrainingError, match="accumulate 3 needs a program that accumulates gradients"):
        loop(TrainSettings(steps=1, accumulate=3))
    with pytest.raises(TrainingError, match="a step has 1 to 256 microbatches"):
        loop(TrainSettings(steps=1, accumulate=300))


def test_early_stopping(tmp_path):
    record = Record()
    settings = TrainSettings(steps=1000, eval_every=5, stop=EarlyStop(patience=3, least_change=1e-3), folder=tmp_path)
    result = loop(settings, record).run()
    held = record.of(events.Evaluated)
    assert isinstance(result, events.Stopped) and [e.best for e in held[-3:]] == [False] * 3 and held[-4].best
    assert result.best == held[-4].values["loss"] and result.best_step == held[-4].step == result.step - 15
    with pytest.raises(TrainingError, match="stop judges by held-out data, and there is none"):
        loop(settings, held=False)


def test_metric_and_mode():
    record = Record()
    loop(TrainSettings(steps=20, eval_every=5, metric="error", mode="max"), record).run()
    held = record.of(events.Evaluated)
    assert [e.best for e in held] == [e.values["error"] > max([h.values["error"] for h in held[:i]], default=-1) for i, e in enumerate(held)]
    with pytest.raises(TrainingError, match="validation gives no 'accuracy'\n   = it gives: error, loss"):
        loop(TrainSettings(steps=20, metric="accuracy")).run()


def test_a_short_last_batch_counts_by_its_rows():
    made = []

    def sized(rows):
        program = Linear("eval", batch=rows)
        program.bind(run.store)
        made.append(rows)
        return program

    run = loop(TrainSettings(steps=1), sized=sized)
    run.run()
    values = run.evaluate()
    x = run.held_out.take(np.arange(10))
    error = np.abs(x["x"] @ run.store["w"] + run.store["b"] - x["y"]).mean()
    assert np.isclose(values["error"], error, rtol=1e-6) and set(made) == {2}


def test_the_average_follows_its_rule_and_is_what_is_validated():
    weights = []
    run = loop(TrainSettings(steps=12, average=Ema(0.5)))
    run.listener = lambda e: weights.append(run.store["w"].copy()) if isinstance(e, events.Stepped) else None
    run.run()
    expected = np.zeros(3)
    for step, w in enumerate(weights):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * w
    assert np.allclose(run.average.values["w"], expected, rtol=1e-5)
    before = run.store["w"].tobytes()
    values = run.evaluate()
    assert run.store["w"].tobytes() == before
    x = run.held_out.take(np.arange(8))
    error = np.abs(x["x"] @ run.average.values["w"] + run.average.values["b"] - x["y"]).mean()
    assert np.isclose(values["error"], error, rtol=1e-5)
    with pytest.raises(TrainingError, match=r"average ema\(1\): the decay must be at least 0 and below 1"):
        Ema(1)


def diagnose(store):
    def ask(inputs, step):
        difference = inputs["x"] @ store["w"] + store["b"] - inputs["y"]
        return ("the square in line 7 overflows", Span("not_read.dsl", 7, 3, 7, 9)) if not np.isfinite(difference**2).all() else None

    return ask


@pytest.mark.parametrize("folder", [True, False])
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid")
def test_a_loss_that_is_not_finite_stops_and_is_traced_to_its_first_cause(tmp_path, folder):
    record = Record()
    run = loop(TrainSettings(steps=500, folder=tmp_path if folder else None, save_every=3), record, lr=9.0, held=False)
    asked = []
    ask = diagnose(run.store)

    def hook(inputs, step):
        asked.append((step, np.isfinite(run.store["w"]).all()))
        return ask(inputs, step)

    run.diagnose = hook
    with pytest.raises(TrainingError) as caught:
        run.run()
    bad = len(record.losses) + 1
    good = (bad - 1) // 3 * 3
    where = f"in {tmp_path / LAST}" if folder else "kept in memory"
    assert str(caught.value).splitlines() == [
        f"not_read.dsl:7:3: training error: the loss is inf at step {bad}",
        f"   = the first value that is not finite, in step {bad}: the square in line 7 overflows",
        f"   = the last good state, of step {good}, is {where}",
        "   = help: lower the learning rate or lengthen its warm-up, or clip the gradients: clip norm(1.0)",
    ]
    assert asked == [(bad - 1, True)] and all(np.isfinite(run.store[p]).all() for p in run.store)
    assert run.progress.step == good and not any(np.isnan(loss) for _, loss, _ in record.losses)
    if folder:
        assert checkpoint.load(tmp_path / LAST).progress.step == good


def test_parameters_that_break_before_the_loss_are_found_where_they_break(tmp_path):
    run = loop(TrainSettings(steps=20, folder=tmp_path), held=False, diagnose=lambda inputs, step: None)
    program = run.stepper.train
    update = program._update

    def poisoned(gradients):
        update(gradients)
        if run.stepper.step == 6:
            program.store.array("w")[1] = np.nan

    program._update = poisoned
    with pytest.raises(TrainingError) as caught:
        run.run()
    assert caught.value.message == "the loss is nan at step 8"
    assert caught.value.notes[0] == "after step 7 these are not finite: 'w'"


@pytest.mark.parametrize("where", ["write", "fsync"])
def test_a_full_disk_keeps_the_earlier_checkpoint(tmp_path, monkeypatch, where):
    run = loop(TrainSettings(steps=30, folder=tmp_path, save_every=10))
    original = getattr(os, where)

    def full(*args):
        if run.progress.step >= 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*args)

    monkeypatch.setattr(os, where, full)
    with pytest.raises(DataError, match=r"checkpoint\.safetensors cannot be saved: No space left on device\n   = the earlier .* is intact"):
        run.settings = replace(run.settings, eval_every=1000)
        run.run()
    monkeypatch.undo()
    assert checkpoint.load(tmp_path / LAST).progress.step == 10


def test_resuming_another_model_is_refused(tmp_path):
    store = ParameterStore(Linear("train").executable.ports)
    store.extend([replace(store.entry("w"), path="v")])
    checkpoint.save(tmp_path / LAST, store, checkpoint.Progress(step=3), model="Other", signature="x")
    run = loop(TrainSettings(steps=5, folder=tmp_path))
    with pytest.raises(TrainingError, match=r"is the checkpoint of another model \('Other'\)\n   = only in the checkpoint: param 'v'"):
        run.resume()
    with pytest.raises(TrainingError, match="there is no run folder to resume from"):
        loop(TrainSettings(steps=5)).resume()


def test_the_seed_of_the_checkpoint_wins(tmp_path):
    loop(TrainSettings(steps=5, seed=3, folder=tmp_path)).run()
    record = Record()
    run = loop(TrainSettings(steps=6, seed=4, folder=tmp_path), record)
    run.resume()
    run.run()
    assert record.of(events.Warned)[0] == events.Warned("the run goes on with its seed 3, not 4")
    whole = Record()
    loop(TrainSettings(steps=6, seed=3), whole).run()
    assert record.losses == whole.losses[5:] or (run.feed.dataset is not None and record.losses[0][0] == 6)


def test_what_the_caller_keeps_comes_back(tmp_path):
    loop(TrainSettings(steps=2, folder=tmp_path), extra={"vocabulary": "abc"}).run()
    assert checkpoint.load(tmp_path / LAST).progress.extra == {"vocabulary": "abc"}


def test_the_vocabulary_of_the_data_is_kept_with_the_run(tmp_path):
    dataset = replace(linear_data(), vocabulary=Characters("xyz"), classes=("a", "b"))
    run = TrainingLoop(Linear("train"), ParameterStore(), dataset, TrainSettings(steps=1, folder=tmp_path))
    run.run()
    extra = checkpoint.load(tmp_path / LAST).progress.extra
    assert from_json(extra["vocabulary"]) == Characters("xyz") and extra["classes"] == ["a", "b"]


def test_held_out_rows_that_fill_no_batch_are_told_once():
    record = Record()
    loop(TrainSettings(steps=20), record).run()
    assert record.of(events.Warned) == [events.Warned("the last 2 held-out rows do not fill a batch and are left out")]


@pytest.mark.parametrize(
    "settings, message",
    [
        (TrainSettings(), "how long to train is not said"),
        (TrainSettings(steps=0), "steps 0 must be above 0"),
        (TrainSettings(epochs=-1), "epochs -1 must be above 0"),
        (TrainSettings(steps=5, mode="least"), "mode 'least'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(TrainingError, match=message):
        loop(settings)


def test_too_little_data():
    with pytest.raises(DataError, match=r"arrays\(\) has 40 rows for training, a batch takes 64"):
        TrainingLoop(Linear("train", batch=64), ParameterStore(), linear_data(), TrainSettings(steps=1))


def test_plateau_lowers_the_rate_and_survives_resuming():
    p = Plateau("lr", 1.0, factor=0.5, patience=1)
    for value in (3, 2, 2, 2, 2, 2):
        p.observe(value)
    assert p.lr == 0.25 and p.values()["lr"].dtype == np.float32
    q = Plateau("lr", 1.0, factor=0.5, patience=1)
    q.load(json.loads(json.dumps(p.state())))
    p.observe(1.9)
    q.observe(1.9)
    assert p == q


def test_an_embedding_program_steps_by_itself():
    from dslc.runtime.stepper import Stepper

    stepper = Stepper(Linear("train"), ParameterStore(), seed=5)
    batch = linear_data().take(np.arange(4))
    first = stepper.run(lambda: {k: v.astype(np.float32) for k, v in batch.items()})
    second = stepper.run(lambda: {k: v.astype(np.float32) for k, v in batch.items()})
    assert second.loss < first.loss and stepper.step == 2 and stepper.train.calls == [(5, 0, 0), (5, 1, 0)]
