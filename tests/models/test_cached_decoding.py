"""Decoding with caches equals full recomputation, token for token, for every model that is causal in time; what is not is refused at its line.

Models are found (`sequence_models.py`), and what they compute says which are causal: those where other inputs from a position on leave all outputs
before it as they are. Each of these decodes a batch of prompts of different lengths, greedily, to the end of the window: by `prefill` and steps of
`decode`, and by the whole window for every token. Where the two best logits lie nearer than the tolerance the choice may differ; such places are
counted and printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from sequence_models import Found, library_layers, model_files

import dslc
from dslc.compiled import load_executable
from dslc.compiler import compile_anew
from dslc.core.errors import UnsupportedOp
from dslc.core.executable import Port
from dslc.model import Model
from dslc.runtime.program import Program

TOLERANCE = {"reference": 1e-5, "cpu": 5e-5}  # of logits, beside the largest
STEPS = 12  # at most, after a prompt
FILES, LAYERS = list(model_files()), list(library_layers())

# What is no decoder, and what the error says of it.
SUM, EVERY, FEWER = "a sum over time", "every position of time", "fewer positions"
AHEAD = {
    "tests/frontend/programs/clip.dsl": EVERY,
    "tests/frontend/programs/linformer.dsl": EVERY,
    "tests/frontend/programs/memory.dsl": "changes states of its own",
    "tests/frontend/programs/tables.dsl": EVERY,
    "benchmarks/models/bert_base.dsl": SUM,
    "benchmarks/models/recommender.dsl": EVERY,
    "self_attention()": SUM,
    "self_attention(rotate=true)": SUM,
    "self_attention(window=3)": SUM,
    "cross_attention()": SUM,
    "conv1d()": FEWER,
    "conv1d(bias=true)": FEWER,
    "conv1d(pad=1)": "reads 1 positions ahead",
    "groupnorm()": EVERY,
    "groupnorm(affine=false)": EVERY,
    "instancenorm()": EVERY,
    "instancenorm(affine=false)": EVERY,
    "maxpool1d()": FEWER,
    "maxpool1d(kernel=3, stride=1, pad=1)": "up to 1 positions ahead",
    "avgpool1d()": FEWER,
    "global_mean()": EVERY,
    "global_max()": EVERY,
    "reversed()": "up to 11 positions ahead",
    "bidirectional()": "up to 11 positions ahead",
    "stacked(cell=bidirectional)": "up to 11 positions ahead",
}


@dataclass(frozen=True)
class Window:
    """A model's whole-window program on one target, with inputs drawn for it. `timed`: the inputs that run along time."""

    model: Model
    target: str
    run: Program
    output: Port
    timed: tuple[Port, ...]
    inputs: dict[str, np.ndarray]

    @property
    def extents(self) -> tuple[int, int]:
        """(rows, positions)"""
        return self.timed[0].shape[:2]

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.array(self.run(inputs)[self.output.name])

    def tokens(self) -> Port | None:
        """The input that the tokens chosen from the output go to; None where the model reads something else."""
        vocab = self.output.shape[-1]
        return next((p for p in self.timed if len(p.shape) == 2 and p.bounds == (0, vocab) and len(self.output.shape) == 3), None)


def window_of(found: Found, target: str) -> Window:
    model = dslc.load(found.spec, **found.sizes)
    rng = np.random.default_rng(0)
    weights = {e.path: model.params[e.path] for e in model.params.entries("param")}
    model.params.assign({path: w + 0.2 * rng.standard_normal(w.shape) for path, w in weights.items() if w.dtype.kind == "f"})
    plan = model.decoding(model.checked, prefill=False)
    run = load_executable(compile_anew(model, "run", target))
    store = model.params.beside()
    store.extend(run.executable.ports)
    run.bind(store)
    ports = run.executable.ports_of("input")
    output = next(p for p in run.executable.ports_of("output") if p.name == plan.output)
    return Window(model, target, run, output, tuple(p for p in ports if p.name in plan.inputs), {p.name: _drawn(p, rng) for p in ports})


def _drawn(port: Port, rng: np.random.Generator) -> np.ndarray:
    if port.dtype.is_float:
        return rng.standard_normal(port.shape).astype(port.dtype.numpy)
    return rng.integers(*(port.bounds or (0, 2)), port.shape).astype(port.dtype.numpy)


def is_causal(window: Window) -> bool:
    """Whether other inputs from a position on leave the outputs before it as they are."""
    if not window.timed or window.output.shape[:2] != window.extents:
        return False
    whole = window(window.inputs)
    for cut in sorted({1, window.extents[1] // 2, window.extents[1] - 1}):
        changed = dict(window.inputs)
        for port in window.timed:
            value = changed[port.name].copy()
            low, high = port.bounds or (0, 2)
            value[:, cut:] = value[:, cut:] + 1 if port.dtype.is_float else (value[:, cut:] - low + 1) % (high - low) + low
            changed[port.name] = value
        if not np.allclose(window(changed)[:, :cut], whole[:, :cut], rtol=TOLERANCE[window.target], atol=TOLERANCE[window.target]):
            return False
    return True


@dataclass
class Comparison:
    """Steps against whole windows: what was compared, and how often the two best logits were a tie that went the other way."""

    tolerance: float
    choices: int = 0
    ties: int = 0

    def see(self, found: np.ndarray, wanted: np.ndarray) -> None:
        """Both [rows, ..., vocab]."""
        wanted = wanted.astype(np.float64)
        room = self.tolerance * max(1.0, float(np.abs(wanted).max()))
        assert np.abs(found - wanted).max() <= room
        best = np.sort(wanted, axis=-1)[..., -2:]
        other = found.argmax(axis=-1) != wanted.argmax(axis=-1)
        assert not (other & (best[..., -1] - best[..., 0] > 2 * room)).any()
        self.choices += other.size
        self.ties += int(other.sum())


def decoded(window: Window) -> Comparison:
    """Decodes prompts of 1, 3, 5, ... tokens in one batch, then sequences anew over the caches that these left."""
    prefill, decode = (load_executable(compile_anew(window.model, name, window.target)) for name in ("prefill", "decode"))
    store = window.model.params.beside()
    for program in (prefill, decode):
        store.extend(program.executable.ports)
        program.bind(store)
    comparison = Comparison(TOLERANCE[window.target])
    batch, time = window.extents
    rows, tokens, timed = np.arange(batch), window.tokens(), {p.name for p in window.timed}
    lengths = np.minimum(1 + 2 * rows % 5, time - 1)
    given = {name: value.copy() for name, value in window.inputs.items()}

    def step(program: Program, position: np.ndarray) -> np.ndarray:
        at = {n: v[rows, position][:, None] if n in timed and program is decode else v for n, v in given.items()}
        wanted = {p.name for p in program.executable.ports_of("input")}
        found = program({n: v for n, v in {**at, "position": position}.items() if n in wanted})
        return np.array(found[window.output.name])

    whole = window(given)
    for turn in range(min(STEPS, time)):
        position = np.minimum(lengths - 1 + turn, time - 1).astype(np.int32)
        found = step(prefill if turn == 0 else decode, position)
        wanted = whole[rows, position]
        live = lengths + turn <= time
        comparison.see(found[live], wanted[live])
        if tokens is not None:
            going = lengths + turn < time
            given[tokens.name][rows[going], position[going] + 1] = wanted[going].argmax(axis=-1)
            whole = window(given)
    for position in range(min(4, time)):
        comparison.see(step(decode, np.full(batch, position, np.int32)), whole[:, position])
    return comparison


def target_of(found: Found) -> str:
    """The small models of this folder run in machine code, the many others on the reference target, which compiles nothing."""
    return "cpu" if found.name.startswith("tests/models") else "reference"


@pytest.mark.parametrize("found", [*FILES, *LAYERS], ids=str)
def test_every_causal_model_decodes_as_it_computes(found: Found) -> None:
    window = window_of(found, target_of(found))
    if is_causal(window):
        assert found.name not in AHEAD
        comparison = decoded(window)
        print(f"{found.name}: {comparison.choices} choices, {comparison.ties} near-ties")
        return
    with pytest.raises(UnsupportedOp) as caught:
        compile_anew(window.model, "decode", "reference")
    assert AHEAD[found.name] in caught.value.message
    assert caught.value.spans and caught.value.spans[0].line > 0


def test_what_looks_ahead_is_still_there() -> None:
    assert set(AHEAD) <= {f.name for f in (*FILES, *LAYERS)}
