"""A training run of a model file: data, programs and settings put together into a `TrainingLoop`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .compiled import program_of
from .core.errors import DataError, Span, TrainingError, UnsupportedOp
from .frontend.settings import Invocation, TrainBlock
from .frontend.syntax import Train
from .model import Model
from .runfolder import describe, weights_file
from .runtime.averaging import Ema
from .runtime.data.sources import Call, Data, prepare
from .runtime.events import Listener, silent
from .runtime.program import Program
from .runtime.training import EarlyStop, TrainingLoop, TrainSettings


def training_loop(
    model: Model,
    target: str = "cpu",
    folder: Path | None = None,
    listener: Listener = silent,
    start: bool = True,
    tune: float | None = None,
) -> TrainingLoop:
    """The loop of a model's train block, ready to run; `start=False` leaves out the weights that the block starts from; `tune`: seconds in which
    the schedules of its kernels are measured, first or, of bounded dimensions, when a program is made. Raises dslc errors for what is missing or
    does not fit."""
    block = _block(model)
    data = run_data(model)
    settings = settings_of(block, folder)
    rows, batch = len(data.train), batch_size(model)
    if not 0 < batch <= rows:  # before anything of that size is compiled
        raise DataError(f"the data has {rows} rows, a batch takes {batch}", block.data.span if block.data else None)
    if settings.steps is None:
        model.set_steps(settings.total_steps(rows // batch))
    if start:
        _start(model, block)  # while the store has no optimizer's states, so that the file's own are left out
    if tune is not None:
        programs = ["step", *(["accumulate"] if settings.accumulate > 1 else []), *(["eval"] if data.held_out is not None else [])]
        _measure(model, tune, target, programs, folder, listener)
    step = program_of(model, "step", target)
    accumulate = program_of(model, "accumulate", target) if settings.accumulate > 1 else None
    evaluation, shorter = None, None
    if data.held_out is not None:
        evaluation, shorter = program_of(model, "eval", target), sized(model, "eval", target)
        if shorter is not None and len(data.held_out) % batch:
            shorter(len(data.held_out) % batch)  # now, so that the run itself compiles nothing
    return TrainingLoop(
        step,
        model.params,
        data,
        settings,
        evaluation=evaluation,
        accumulate=accumulate,
        sized=shorter,
        listener=listener,
        diagnose=diagnose(model),
    )


def _measure(model: Model, seconds: float, target: str, programs: list[str], folder: Path | None, listener: Listener) -> None:
    """Schedules of the programs' kernels: now, or, where bounded dimensions leave open which programs there will be, when each is made."""
    from .tuning import Tuner, tune

    if not model.checked.bounds:
        tune(model, seconds, target, programs, listener)
        return
    Tuner(model, seconds, target, listener, (lambda: describe(folder, model, target)) if folder is not None else (lambda: None))


def _block(model: Model) -> TrainBlock:
    block = model.checked.settings
    if block is None or not model.source.definitions(Train):  # keys given from outside make none
        raise TrainingError("the model has no train block", help="add one: train: data ..., steps ..., optimizer ...")
    return block


def run_data(model: Model) -> Data:
    """The data that the train block names."""
    block = _block(model)
    if block.data is None:
        raise TrainingError("the train block names no data", block.span, help="data text(pydoc_topics(), window=time)")
    folder = model.data_folder or model.source.folder
    return prepare(source_call(block.data), source_call(block.eval) if block.eval else None, folder=folder, seed=block.seed)


def source_call(call: Invocation) -> Call:
    """A data source as the runtime takes it."""

    def plain(value: Any) -> Any:
        return source_call(value) if isinstance(value, Invocation) else value

    return Call(call.name, tuple(plain(a) for a in call.args), {k: plain(v) for k, v in call.options.items()}, call.span)


def settings_of(block: TrainBlock, folder: Path | None) -> TrainSettings:
    """What the train block says about the run itself."""
    if block.steps is None and block.epochs is None:
        raise TrainingError("how long to train is not said", block.span, help="steps 1000, or epochs 10")
    stop = None
    if isinstance(block.stop, Invocation):
        stop = EarlyStop(*block.stop.args, **block.stop.options)
    elif block.stop is not None:
        raise UnsupportedOp("stop after a time is not there yet", block.span, help="stop patience(5)")
    average = Ema(*block.average.args, **block.average.options) if block.average else None
    return TrainSettings(
        steps=block.steps, epochs=None if block.steps else block.epochs, seed=block.seed, accumulate=block.accumulate, stop=stop, average=average,
        folder=folder,
    )  # fmt: skip


def batch_size(model: Model) -> int:
    """Rows of a batch: the first axis of the inputs."""
    sizes = [shape[0] for _, shape in model.inputs if shape]
    if not sizes:
        raise TrainingError("the model has no input with a batch axis")
    return sizes[0]


def batch_dim(model: Model) -> str | None:
    """The dimension that the inputs' first axis is called by."""
    names = {axes[0] for axes, shape in model.inputs if shape and axes}
    return names.pop() if len(names) == 1 and next(iter(names)) in model.checked.dims else None


def sized(model: Model, program: str, target: str) -> Callable[[int], Program] | None:
    """Gives the program for another number of rows, bound to the model's parameters; for the short last batch of an evaluation. None where rows have
    no dimension of their own, or one that is bounded, so that every program takes fewer."""
    name = batch_dim(model)
    if name is None or name in model.checked.bounds:
        return None
    made: dict[int, Program] = {}

    def of_rows(rows: int) -> Program:
        if rows not in made:
            other = Model(model.source.path or model.source.texts[model.source.file], {**model.overrides, name: rows})
            other.schedules = model.schedules
            loaded = program_of(other, program, target)
            loaded.bind(model.params)
            made[rows] = loaded
        return made[rows]

    return of_rows


def _start(model: Model, block: TrainBlock) -> None:
    """`start "file"`: weights of an earlier run."""
    if block.start is not None:
        folder = model.data_folder or model.source.folder
        model.params.load_weights(weights_file(folder / block.start))


def diagnose(model: Model) -> Callable[[Mapping[str, np.ndarray], int], tuple[str, Span | None] | None]:
    """Names the first op with a value that is not finite: the step again, op by op, on the reference target."""

    def find(inputs: Mapping[str, np.ndarray], step: int) -> tuple[str, Span | None] | None:
        from .compiled import load_executable
        from .compiler import compile_program
        from .ir.types import spans_of
        from .reference_program import ReferenceProgram
        from .runtime.store import ParameterStore

        loaded = load_executable(compile_program(model, "step", "reference"))
        assert isinstance(loaded, ReferenceProgram)
        copy = ParameterStore(loaded.executable.ports)
        copy.assign({path: model.params[path] for path in copy})
        loaded.bind(copy)
        found: list[tuple[str, Span | None]] = []

        def watch(op: Any, values: Any) -> None:
            if found or op.operation.name == "nn.constant":
                return
            for value in values:
                array = np.asarray(value)
                if array.dtype.kind == "f" and (np.isnan(array).any() or np.isposinf(array).any()):
                    spans = spans_of(op.location)
                    kind = "NaN" if np.isnan(array).any() else "inf"
                    found.append((f"{op.operation.name.removeprefix('nn.')} gives {kind}", spans[-1] if spans else None))

        loaded(inputs, seed=model.seed, step=step, watch=watch)
        return found[0] if found else None

    return find
