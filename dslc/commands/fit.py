"""`dslc train model.onnx --loss ...`: the model file that trains a graph, written into the run folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import DataError, NameError_, ShapeError, did_you_mean
from ..frontend.onnx.graph import Graph
from ..frontend.onnx.layer import identifier
from ..ir.program import Slot
from ..model import Model
from ..runtime.tensorfile import open_tensors
from .onnx import graph_of, model_lines, write_lines

FILE = "fit.dsl"
TARGET = "target"
ROWS = 32  # of a batch, where the graph leaves its first dim open and --set does not give it
BY_INDEX, ALIKE = "the class of each row", "values like those of the output"
LOSSES = {
    "cross_entropy": BY_INDEX, "focal": BY_INDEX, "mse": ALIKE, "mae": ALIKE, "huber": ALIKE, "binary_cross_entropy": ALIKE,
    "soft_cross_entropy": ALIKE,
}  # fmt: skip


@dataclass(frozen=True)
class Fit:
    """What is said about training a graph. `data`: a file with a column for each input and one called `target`, or a source as a train block
    writes it; `freeze`: patterns of the parameters that stay as they are."""

    loss: str
    data: str | None = None
    optimizer: str = "adam(lr=1e-3)"
    freeze: tuple[str, ...] = ()


def fit_of(loss: str | None, data: str | None, optimizer: str | None, freeze: Sequence[str]) -> Fit | None:
    """What the command line says; None where it trains a model file."""
    if loss is not None:
        return Fit(loss, data, optimizer or Fit.optimizer, tuple(freeze))
    for name, value in (("data", data), ("optimizer", optimizer), ("freeze", freeze)):
        if value:
            raise DataError(f"--{name} belongs to --loss", help="a model file says all of this itself; for an .onnx graph: --loss cross_entropy")
    return None


def write_fit(spec: str | Path, fit: Fit, overrides: Mapping[str, Any], folder: Path) -> Path:
    """The model file in the run folder. DataError or NameError_ for what is missing or unknown; the file's own mistakes are found when it is read."""
    if Path(spec).suffix != ".onnx":
        raise DataError(f"--loss makes a model file for an .onnx graph, this is {spec}", help="a model file says its loss itself: loss ...")
    if fit.loss not in LOSSES:
        raise NameError_(f"unknown loss '{fit.loss}'{did_you_mean(fit.loss, LOSSES)}", help=f"--loss takes {', '.join(LOSSES)}")
    if not {"steps", "epochs"} & set(overrides):
        raise DataError("how long to train is not said", help="--steps 1000, or --set epochs=10")
    if fit.data is None:
        raise DataError("what to train on is not said", help=f"--data rows.npz, with an array for each input and one called {TARGET}")
    graph = graph_of(Model(str(spec)))
    batch = _batch(graph)
    open_dims = {
        identifier(a if isinstance(a, str) else f"{p.name}_{k}") for p in graph.inputs for k, a in enumerate(p.axes or ()) if type(a) is not int
    }
    sizes = {batch: ROWS} if batch else {}
    model = Model(str(spec), sizes | {name: value for name, value in overrides.items() if name in open_dims})
    out = folder / FILE
    lines = model_lines(model, str(spec), out, fit.freeze)
    at = next(k for k, line in enumerate(lines) if line.lstrip().startswith("net ="))
    source, result = _source(fit.data), _result(graph)
    slot = next(slot for slot, _ in model.checked.builder.results if slot.role == "output")
    axis = _class_axis(slot, fit) if LOSSES[fit.loss] is BY_INDEX else None
    lines.insert(at, f"    input   {TARGET}{_axes(model, slot, axis, batch)}")
    if axis is not None and axis < slot.type.rank - 1:
        names = [f"a{k}" for k in range(slot.type.rank)]
        lines.append(f"    scores[{', '.join([*names[:axis], *names[axis + 1 :], names[axis]])}] = {result}[{', '.join(names)}]")
        result = "scores"
    lines += [f"    loss    {fit.loss}({result}, {TARGET})", "", "train:", f"    data       {source}"]
    lines += [f"    {key:10} {overrides[key]}" for key in ("steps", "epochs") if key in overrides]
    return write_lines([*lines, f"    optimizer  {fit.optimizer}"], out)


def _batch(graph: Graph) -> str | None:
    """The dim that the first axes of all inputs share."""
    names = {(p.axes or (1,))[0] for p in graph.inputs}
    name = names.pop() if len(names) == 1 else None
    return identifier(name) if isinstance(name, str) else None


def _result(graph: Graph) -> str:
    return "result" if len(graph.outputs) == 1 else f"result_{identifier(graph.outputs[0].name)}"


def _class_axis(slot: Slot, fit: Fit) -> int:
    """The axis of the classes: the last one, or the one without which the output has the shape of the stored targets (images: the second)."""
    t = slot.type
    if t.rank < 2:
        raise ShapeError(f"{fit.loss} needs an output with an axis of classes behind that of the rows, '{slot.name}' is {t}")
    stored = _stored_shape(Path(fit.data or ""))
    fitting = [k for k in range(1, t.rank) if stored is not None and stored[1:] == (*t.shape[1:k], *t.shape[k + 1 :])]
    return fitting[-1] if fitting else t.rank - 1


def _stored_shape(path: Path) -> tuple[int, ...] | None:
    """The shape of the targets in an .npz file."""
    if path.suffix != ".npz":
        return None
    try:
        entries = open_tensors(path).entries
    except DataError:
        return None  # said when it is read
    return entries[TARGET].shape if TARGET in entries else None


def _axes(model: Model, slot: Slot, classes: int | None, batch: str | None) -> str:
    """The target's axes and type, from those of the graph's first output; without the axis of classes where the target is an index of one."""
    shape: list[int | str] = list(slot.type.shape)
    if batch and shape and shape[0] == model.checked.dims[batch]:
        shape[0] = batch
    kept = [n for k, n in enumerate(shape) if k != classes]
    return f"[{', '.join(map(str, kept))}]: {slot.type.dtype if classes is None else 'int32'}"


def _source(data: str) -> str:
    """A file is a table; anything else stands as it is."""
    if re.fullmatch(r"[\w.]+\(.*\)", data.strip()):
        return data.strip()
    if Path(data).suffix not in (".npz", ".csv"):
        raise DataError(f"--data takes an .npz or .csv file, or a data source, this is {data}", help='--data \'table("rows.npz", x="images")\'')
    if not Path(data).is_file():
        raise DataError(f"there is no file {data}")
    return f'table("{Path(data).resolve()}")'
