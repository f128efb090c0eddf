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
from dslc.ir.plan import Copy, Loop
from dslc.ir.program import program_of
from dslc.ir.types import type_of
from dslc.model import Model
from dslc.passes.checkpoint import NOTE
from dslc.passes.chunk import chunk, losses
from dslc.passes.chunked import pieces
from dslc.passes.fuse import Fuse
from dslc.passes.narrow import narrow
from dslc.passes.notes import notes_of
from dslc.passes.plan import make_plan
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
        return model.signed(found.compile(elaborated.module))


def drawn(executable: Executable) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    inputs = [p for p in executable.ports if p.role == "input"]
    return {p.name: rng.integers(0, 24, p.shape).astype(np.int32) if p.dtype.is_integer else rng.random(p.shape, np.float32) for p in inputs}


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
    near_float64(model, told, after)


def near_float64(model: Model, told: dict[str, float], after: dict[str, np.ndarray]) -> None:
    """Sums of some ten terms of each result, through a handful of roundings each."""
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


def test_on_the_emulator():
    model = model_of("biased")
    near_float64(model, *step(in_turns(model, 4, "cuda-emulated"), model))


@pytest.mark.parametrize(("batch", "time", "turns"), [(1, 7, 3), (11, 1, 2), (7, 3, 4), (2, 13, 5), (2, 13, 26)])
def test_sizes_that_no_chunk_divides(batch, time, turns):
    model = model_of("masked", batch=batch, time=time)
    told, after = step(in_turns(model, turns, "reference"), model)
    expected, exact = step(compile_program(model, "step", "reference"), model)
    assert told == pytest.approx(expected, rel=1e-12)
    for name, value in exact.items():
        assert np.abs(after[name] - value).max() <= 2 * EPSILON * np.abs(value).max()


def losses_of(model: Model, notes: list[str] | None = None) -> list[Any]:
    elaborated = lower(model, "step", target_of("cpu"), after="attention")
    with elaborated.context:
        block = program_of(elaborated.module).entry_block
        narrow(block)
        return losses(block, [] if notes is None else notes)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_token_ahead(precision):
    """Only the tokens that have a next one are multiplied, forwards and backwards, through the casts of 16 bits too."""
    elaborated = lower(model_of("shifted", precision=precision), "step", target_of("cpu"), after="attention")
    with elaborated.context:
        block = program_of(elaborated.module).entry_block
        narrow(block)
        products = [op for op in block.operations if isinstance(op, ops.Contract)]
        assert sorted(op.type.shape for op in products) == [(3, 6, 6), (3, 6, 40), (40, 6)]
        assert all((7 in t.shape) is False for op in products for t in op.types())
        assert len(losses(block, [])) == 1


@pytest.mark.parametrize("extents", [(1,), (7,), (4, 8), (3, 7), (5, 1), (2, 3, 11), (1021,)])
@pytest.mark.parametrize("most", [1, 2, 5, 16, 1000])
def test_pieces_have_every_token_once(extents, most):
    tokens = np.arange(np.prod(extents)).reshape(extents)
    seen = []
    for piece in pieces(extents, most):
        assert piece.tokens <= most
        whole = tokens[(slice(None),) * piece.axis + (slice(piece.start, piece.start + piece.counts[piece.axis] * piece.sizes[piece.axis]),)]
        assert whole.size == piece.turns * piece.tokens
        seen += whole.ravel().tolist()
    assert sorted(seen) == tokens.ravel().tolist()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_sixteen_bits(precision):
    """The gradient of the weights is summed in float32 over the turns, so that it is no further from float64's than in one product."""
    model = model_of("tied", precision=precision, batch=8)
    exact = step(compile_program(model_of("tied", batch=8), "step", "reference"), model)[1]
    kept = EPSILONS[precision]
    runs = [step(in_turns(model, turns), model) for turns in (1, 8)]
    assert runs[0][0] == runs[1][0]
    elaborated = lower(model, "step", target_of("cpu"), after="attention")
    with elaborated.context, elaborated.location:
        chunk(program_of(elaborated.module).entry_block, 8)
        (scan,) = [op for op in program_of(elaborated.module).entry_block.operations if isinstance(op, ops.Scan)]
        assert str(type_of(scan.results[0]).dtype) == "float32"
    far = [max(np.abs(after[name] - exact[name]).max() for name in exact) for _, after in runs]
    assert far[1] <= far[0] + kept * 2.0**-4
    assert 0 < far[0] < 16 * kept


EPSILONS = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
OBSTACLES = {
    "the logits leave the program": (
        "state kept[batch, time, vocab] ~ zeros()\n    kept <- logits\n    loss cross_entropy(logits, targets)",
        "returns it",
    ),
    "tokens compete": ("p[b, t, v] = softmax[t](logits[b, t, v])\n    loss mean(p ** 2)", "softmax at line 8: it runs along the tokens"),
    "all tokens first": ("loss exp(cross_entropy(logits, targets))", "needs all tokens of"),
    "tokens beside tokens": (
        "d[b, t, v] = logits[b, t, v] - logits[b, t - 1, v]\n    loss cross_entropy(d, targets)",
        "view at line 8: it reads other tokens",
    ),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_what_stands_in_the_way(name):
    body, told = OBSTACLES[name]
    head = """model M:
    dims    batch=3, time=7
    let     vocab=40, width=6
    input   h[batch, time, width]
    input   targets[batch, time]: int32
    param   w[vocab, width] ~ normal(std=0.3)
    logits[b, t, v] = sum[d](h[b, t, d] * w[v, d])
    """
    notes: list[str] = []
    assert not losses_of(dslc.load(head + body + "\ntrain:\n    optimizer sgd(lr=1.0)\n"), notes)
    assert len(notes) == 1 and notes[0].startswith("line 7: not in chunks of tokens: ") and told in notes[0]


# --- under a budget


LARGE = {"batch": 8, "time": 16, "vocab": 512, "width": 16}


@pytest.fixture(scope="module")
def free() -> Executable:
    return compile_program(model_of("tied", **LARGE), "step", "cpu")


def ports_of(executable: Executable) -> int:
    return sum(p.bytes for p in executable.ports)


@pytest.mark.parametrize("share", [1.0, 0.6, 0.4])
def test_budgets(free, share):
    """A budget is kept; what takes the place of the logits is told."""
    budget = ports_of(free) + int(free.arena_bytes * share)
    model = model_of("tied", **LARGE, memory=f"{budget} B")
    executable = compile_program(model, "step", "cpu")
    assert ports_of(executable) + executable.arena_bytes <= budget
    told, after = step(executable, model)
    assert told == step(free, model)[0]
    near_float64(model, told, after)
    elaborated = lower(model, "step", target_of("cpu"))
    with elaborated.context:
        notes = notes_of(elaborated.module, "chunk")
        assert NOTE in elaborated.module.operation.attributes
    if share == 1.0:
        assert not notes
    else:
        assert re.fullmatch(r"line 9: float32\[8, 16, 512\] is made for \d+ of 128 tokens at a time: \d+ KiB instead of 256 KiB", notes[0])


def test_the_least_budget_is_without_the_logits(free):
    """Less than the logits and their gradient take; and it is a budget that suffices."""
    with pytest.raises(BudgetError) as refused:
        compile_program(model_of("tied", **LARGE, memory=f"{ports_of(free) + 4096} B"), "step", "cpu")
    least = re.search(r"the least that is possible is ([\d.]+ \w+)", str(refused.value))
    logits = 4 * LARGE["batch"] * LARGE["time"] * LARGE["vocab"]
    model = model_of("tied", **LARGE, memory=least[1])
    arena = compile_program(model, "step", "cpu").arena_bytes
    assert arena < logits < free.arena_bytes


def test_memory_does_not_grow_with_tokens_times_vocabulary():
    """Four times the tokens: the logits grow by the bytes of three, the arena by what is kept of a token."""
    arenas = []
    for batch in (8, 32):
        model = model_of("tied", **{**LARGE, "batch": batch})
        arenas.append(in_turns(model, batch).arena_bytes)
    grown = (arenas[1] - arenas[0]) / (24 * LARGE["time"])
    kept = 8 * LARGE["width"]  # numbers a token: its vector, that vector's gradient, copies of both, its loss
    assert grown <= 4 * kept <= 4 * LARGE["vocab"] / 4


def test_totals_are_added_to_in_place():
    """The loop starts from zeros that it writes itself, and no turn copies the gradient of the weights."""
    elaborated = lower(model_of("biased", **LARGE), "step", target_of("cpu"), after="attention")
    with elaborated.context, elaborated.location:
        chunk(program_of(elaborated.module).entry_block, 16)
        Fuse().run(elaborated.module)
        plan = make_plan(elaborated.module)
        weights = 4 * LARGE["vocab"] * LARGE["width"]
        (loop,) = [s for s in plan.steps if isinstance(s, Loop)]
        assert not [s for s in (*plan.steps, *loop.steps) if isinstance(s, Copy) and s.bytes >= weights]
        assert sum(b.bytes == weights for b in plan.buffers) == 1


def test_without_a_budget_large_logits_are_made_in_chunks():
    """On a target that loses no time by it, and only where a turn has tokens enough."""
    elaborated = lower(model_of("library", batch=16, time=128, vocab=10240, width=8), "step", target_of("cpu"))
    with elaborated.context:
        block = program_of(elaborated.module).entry_block
        (scan,) = [op for op in block.operations if isinstance(op, ops.Scan)]
        assert scan.trip == 8
        assert notes_of(elaborated.module, "chunk") == [
            "line 9: float32[16, 128, 10240] is made for 256 of 2048 tokens at a time: 10 MiB instead of 80 MiB"
        ]
    for target, sizes in (("cuda-emulated", {}), ("cpu", {"batch": 2}), ("cpu", {"batch": 4, "vocab": 40960})):
        elaborated = lower(model_of("library", **{"batch": 16, "time": 128, "vocab": 10240, "width": 8, **sizes}), "step", target_of(target))
        with elaborated.context:
            assert not any(isinstance(op, ops.Scan) for op in program_of(elaborated.module).entry_block.operations)
