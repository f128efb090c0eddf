"""The data sources by name: what `data SOURCE(...)` and `eval SOURCE(...)` of a train block may say, and how it becomes a dataset."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.errors import DataError, Error, NameError_, Span, TypeError_, did_you_mean
from .dataset import Dataset, arrays
from .digits import digits
from .images import images
from .table import table
from .text import Corpus, text
from .topics import pydoc_topics

SOURCES: dict[str, Callable[..., Dataset]] = {"text": text, "table": table, "images": images, "arrays": arrays, "digits": digits}
VALUES: dict[str, Callable[..., Corpus]] = {"pydoc_topics": pydoc_topics}  # what stands inside a source
COMMON = {"split": 0.0, "shuffle": True}  # options of every source
_FREE = ("table", "arrays")  # their other options name columns, and they say themselves what is wrong


@dataclass(frozen=True)
class Call:
    """A source as the model file writes it: `text(pydoc_topics(), window=128, split=0.1)`. Arguments are plain values or calls."""

    name: str
    args: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    span: Span | None = None


@dataclass(frozen=True)
class Data:
    """What a run trains and is validated on."""

    train: Dataset
    held_out: Dataset | None = None
    shuffle: bool = True


def prepare(source: Call | Dataset, evaluation: Call | Dataset | None = None, *, folder: Path = Path(), seed: int = 0) -> Data:
    """Reads the data. `split=0.1` holds back the last tenth by a shuffle of `seed`; an `evaluation` source is held out instead.

    File names are relative to `folder`, that of the model file. Errors carry the place of the call.
    """
    dataset, common = build(source, folder)
    held_out: Dataset | None = None
    split = common["split"]
    if split:
        if isinstance(split, bool) or not isinstance(split, int | float) or not 0 < split < 1:
            raise DataError(f"split={split!r} must lie between 0 and 1", _span(source))
        if evaluation is not None:
            raise DataError("the data is split, and eval gives another source: one of them is too many", _span(source))
        dataset, held_out = _located(source, lambda: dataset.split(float(split), seed))
    elif evaluation is not None:
        held_out, _ = build(evaluation, folder, dataset)
    return Data(dataset, held_out, bool(common["shuffle"]))


def build(source: Call | Dataset, folder: Path = Path(), like: Dataset | None = None) -> tuple[Dataset, dict[str, Any]]:
    """(dataset, its common options) of a call. A text read for evaluation takes the vocabulary of the training data, `like`."""
    if isinstance(source, Dataset):
        return source, dict(COMMON)
    check_name(source)
    function = SOURCES[source.name]
    common = {k: source.options.get(k, default) for k, default in COMMON.items()}
    args = [_value(a) for a in source.args]
    options = {k: _value(v) for k, v in source.options.items() if k not in COMMON}
    renames = {} if source.name in _FREE else _renames(source, function, options)
    if source.name == "text" and like is not None and like.vocabulary is not None and "tokenizer" not in options:
        options["vocabulary"] = like.vocabulary
    if "folder" in inspect.signature(function).parameters:
        options["folder"] = folder
    dataset = _called(source, function, args, options)
    missing = [old for old in renames.values() if old not in dataset.columns]
    if missing:
        message = f"{dataset.name} has no column '{missing[0]}'{did_you_mean(missing[0], dataset.columns)}"
        raise NameError_(message, _span(source), notes=[f"its columns are: {', '.join(dataset.columns)}"])
    return dataset.renamed(renames), common


def check_name(source: Any) -> None:
    """Raises NameError_ where there is no source of that name."""
    if source.name not in SOURCES:
        message = f"unknown data source '{source.name}'{did_you_mean(source.name, SOURCES)}"
        raise NameError_(message, source.span, help=f"there are: {', '.join(SOURCES)}")


def _span(source: Call | Dataset) -> Span | None:
    return source.span if isinstance(source, Call) else None


def _value(argument: Any) -> Any:
    """An argument with the calls in it carried out."""
    if not isinstance(argument, Call):
        return argument
    if argument.name not in VALUES:
        raise NameError_(f"unknown function '{argument.name}' in a data source{did_you_mean(argument.name, VALUES)}", argument.span)
    return _called(argument, VALUES[argument.name], [_value(a) for a in argument.args], {k: _value(v) for k, v in argument.options.items()})


def _renames(source: Call, function: Callable[..., Any], options: dict[str, Any]) -> dict[str, str]:
    """Takes `input="column"` out of the options: those that are not the source's own."""
    own = [n for n in inspect.signature(function).parameters if n not in ("folder", "vocabulary")]
    renames = {name: options.pop(name) for name in list(options) if name not in own}
    for name, value in renames.items():
        if not isinstance(value, str):
            guess = did_you_mean(name, [*own, *COMMON])
            raise NameError_(f"{source.name} has no option '{name}'{guess}", source.span, help=f"its options are: {', '.join([*own, *COMMON])}")
    return renames


def _called(source: Call, function: Callable[..., Any], args: list[Any], options: dict[str, Any]) -> Any:
    """The function's result; wrong arguments and errors inside get the place of the call."""
    signature = inspect.signature(function)
    try:
        bound = signature.bind(*args, **options)
    except TypeError as error:
        raise TypeError_(f"{source.name}: {error}", source.span) from None
    for name, value in bound.arguments.items():
        wanted = _TYPES.get(str(signature.parameters[name].annotation).removesuffix(" | None"))
        if wanted and not (isinstance(value, wanted[0]) and (wanted[0] is bool or not isinstance(value, bool))) and value is not None:
            raise TypeError_(f"{source.name}: {name} must be {wanted[1]}, this is {value!r}", source.span)
    return _located(source, lambda: function(*args, **options))


_TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "int": (int, "an integer"),
    "bool": (bool, "true or false"),
    "str": (str, "a string"),
    "str | Path": ((str, Path), "a file name in quotes"),
}


def _located(source: Call | Dataset, action: Callable[[], Any]) -> Any:
    """Runs an action; an error without a place gets that of the call."""
    try:
        return action()
    except Error as error:
        span = _span(source)
        if span is not None and not error.spans:
            error.spans = [span]
        raise
