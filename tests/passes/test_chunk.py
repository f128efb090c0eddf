"""chunk: losses over a large vocabulary in loops over tokens, however they are written: the same losses, gradients near float64's, small arenas."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dslc
from dslc.compiled import load_executable
from dslc.compiler import compile_program, lower
from dslc.core.errors import BudgetError
from dslc.core.executable import Executable
from dslc.ir import ops
from dslc.ir.program import program_of
from dslc.model import Model
from dslc.passes.checkpoint import NOTE
from dslc.passes.chunk import chunk, losses
from dslc.passes.chunked import pieces
from dslc.passes.fuse import Fuse
from dslc.passes.notes import notes_of
from dslc.passes.recompute import Recompute
from dslc.runtime.store import ParameterStore
from dslc.targets import target_of

WAYS = sorted(p.stem for p in (Path(__file__).parent / "chunks").glob("*.dsl"))
EPSILON = 2.0**-24  # half the distance of float32's neighbours at 1


def model_of(way: str, **overrides: Any) -> Model:
    return dslc.load(str(Path(__file__).parent / "chunks" / f"{way}.dsl"), **overrides)


def in_turns(model: Model, turns: int, target: str = "cpu", program: str = "step") -> Executable:
    """A program whose losses are made in so many turns, or more; 1: as they are."""
    found = target_of(target)
    elaborated = lower(model, program, target_of("cpu"), after="attention")
    with elaborated.context, elaborated.location:
        told = chunk(program_of(elaborated.module).entry_block, turns)
        assert bool(told) == (turns > 1)
        if found.lowered:
            Recompute().run(elaborated.module)
            Fuse().run(elaborated.module)
        return model.signed(found.compile(elaborated.module, program))


def drawn(executable: Executable) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    inputs = [p for p in executable.ports if p.role == "input"]
    return {p.name: rng.integers(0, 40, p.shape).astype(np.int32) if p.dtype.is_integer else rng.random(p.shape, np.float32) for p in inputs}


def step(executable: Executable, model: Model) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """(losses and metrics, parameters after) one step from the model's starting values."""
    store = ParameterStore(executable.ports)
    store.assign(dict(model.params.items()))
    program = load_executable(executable)
    program.bind(store)
    made = program(drawn(executable), seed=0, step=0)
    return {name: float(value) for name, value in made.items()}, store.copy_values("param")


def check(model: Model, turns: int, target: str = "cpu") -> None:
    """The loss to the bit as without chunks, the gradients (the step of sgd with lr=1) near those in float64."""
    told, after = step(in_turns(model, turns, target), model)
    whole, _ = step(in_turns(model, 1, target), model)
    assert told == whole
    expected, exact = step(compile_program(model, "step", "reference"), model)
    assert told["loss"] == pytest.approx(expected["loss"], rel=64 * EPSILON)
    for name, start in model.params.items():
        gradient = np.abs(exact[name] - start).max()
        assert gradient > 0
        assert np.abs(after[name] - exact[name]).max() <= 64 * EPSILON * (np.abs(start).max() + gradient), name


@pytest.mark.parametrize("way", WAYS)
def test_ways_of_writing_the_loss(way):
    """In float64 chunks change nothing but the order of sums."""
    model = model_of(way)
    told, after = step(in_turns(model, 3, "reference"), model)
    expected, exact = step(compile_program(model, "step", "reference"), model)
    assert told == pytest.approx(expected, rel=1e-12)
    for name, start in model.params.items():
        assert np.abs(exact[name] - start).max() > 0
        assert np.abs(after[name] - exact[name]).max() <= 2 * EPSILON * np.abs(exact[name]).max(), name  # parameters are kept in float32


@pytest.mark.parametrize("way", ["by_hand", "tied", "metrics"])
def test_on_the_cpu(way):
    check(model_of(way), 3)
