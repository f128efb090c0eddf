"""Finds the examples, and makes each of a size that the emulator runs in seconds."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import pytest

import dslc
from dslc.core.errors import Error
from dslc.frontend import syntax as s
from dslc.ir.ops import Scan
from dslc.ir.types import type_of

FOLDER = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.name for path in FOLDER.iterdir() if path.suffix in (".dsl", ".yaml", ".onnx", ".py"))
MOST_WORK = 2_000_000  # values and products of the forward program: some seconds of the emulator with its checks
STEPS = 100  # of a run whose length an example gives in epochs


class Loaded(Exception):
    """What ends a Python program where it loads its first model."""


def specification(name: str) -> tuple[Any, dict[str, Any]]:
    """(the file, overrides) of an example; of a Python program those of the first model that it loads."""
    path = FOLDER / name
    if path.suffix != ".py":
        return path, {}
    found: list[tuple[Any, dict[str, Any]]] = []

    def load(spec: Any, **overrides: Any) -> None:
        found.append((spec, overrides))
        raise Loaded

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Loaded):
        patch.setattr(dslc, "load", load)
        runpy.run_path(str(path))["main"]()
    return found[0]


def whole(name: str) -> dslc.Model:
    """An example as it is."""
    spec, overrides = specification(name)
    model = dslc.load(spec, **overrides)
    model.set_steps(model.steps or STEPS)
    return model


def small(name: str) -> dslc.Model:
    """An example made little work: all its dims and lets are halved, to no less than 2, again and again; those that cannot be halved stay."""
    spec, overrides = specification(name)
    model = dslc.load(spec, **overrides)
    sizes = dict(_numbers(model.source.model().definition.body))
    halved: dict[str, int] = {}
    while work(model) > MOST_WORK:
        before = dict(halved)
        for each in sizes:
            size = halved.get(each, sizes[each]) // 2
            try:
                model = dslc.load(spec, **overrides, **{**halved, each: size}) if size >= 2 else model
            except Error:
                continue
            if size >= 2:
                halved[each] = size
        assert halved != before, f"{name} is too much work at {halved}"
    model.set_steps(model.steps or STEPS)
    return model


def _numbers(body: tuple[s.Statement, ...]) -> Iterator[tuple[str, int]]:
    """The dims and lets of a model that are whole numbers."""
    for line in body:
        if isinstance(line, (s.Dims, s.Let)):
            for named in line.entries if isinstance(line, s.Dims) else line.bindings:
                if isinstance(named.value, s.Number) and isinstance(named.value.value, int):
                    yield named.name, named.value.value


def work(model: dslc.Model) -> int:
    """The values that the model's ops make and the products that they sum, each turn of a scan anew."""
    elaborated = model.elaborate(training=True)
    with elaborated.context:
        return sum(_work(op) for op in elaborated.module.body.operations)


def _work(op: Any) -> int:
    inner = [o for region in op.operation.regions for block in region.blocks for o in block.operations]
    if inner:
        return (op.trip if isinstance(op, Scan) else 1) * sum(map(_work, inner))
    if getattr(op, "structure", "view") == "view":
        return 0
    return prod(op.maps().domain) if op.structure in ("contract", "reduce") else sum(type_of(v).size for v in op.results)
