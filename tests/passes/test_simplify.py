"""simplify: text before and after, in `simplify/*.mlir`; and that what it does changes no result."""

from __future__ import annotations

import numpy as np
import pytest

from dslc.ir import ops, reference
from dslc.ir.mlir import ir
from dslc.ir.op import context
from dslc.ir.program import Slot, finish_program, start_program
from dslc.ir.types import TensorType, type_of
from dslc.ir.verify import verify
from dslc.passes.simplify import Simplify

from . import texts

FILES = texts.files("simplify")


@pytest.mark.parametrize("file", FILES, ids=[f.stem for f in FILES])
def test_before_and_after(file):
    texts.check(file, Simplify())


def random_view(rng: np.random.Generator, x: ir.Value) -> ir.Value:
    """A slice, padding, transpose, broadcast, window or reversal, or some of them at once."""
    shape = type_of(x).shape
    rank = int(rng.integers(1, 4))
    rows = [[int(rng.choice([0, 0, 1, 1, -1, 2])) for _ in range(rank)] for _ in shape]
    if rank == len(shape) and rng.random() < 0.6:  # often each axis by itself, as real views are
        order = rng.permutation(rank)
        rows = [[int(order[a] == k) for k in range(rank)] for a in range(rank)]
    offsets = [int(v) for v in rng.choice([0, 0, 0, 1, -1, 3], len(shape))]
    return ops.view(x, rows, offsets, [int(n) for n in rng.integers(1, 5, rank)], float(rng.choice([0, 0, 7])))


def random_step(rng: np.random.Generator, x: ir.Value) -> ir.Value:
    t = type_of(x)
    kind = rng.choice(["view", "view", "view", "reduce", "reshape", "add", "mul"])
    if kind == "view" and t.rank:
        return random_view(rng, x)
    if kind == "reduce" and t.rank:
        axes = [k for k in range(t.rank) if rng.random() < 0.5]
        return ops.Reduce.of(x, kind=str(rng.choice(["sum", "max", "min", "prod"])), axes=axes)
    if kind == "reshape":
        return ops.reshape(x, (t.size,))
    return (ops.Mul if kind == "mul" else ops.Add).of(x, ops.full_like(x, float(rng.choice([0, 1, 2]))))


@pytest.mark.parametrize("seed", range(150))
def test_random_chains_mean_the_same(seed):
    from dslc.core import dtypes

    rng = np.random.default_rng(seed)
    with context(), ir.Location.unknown():
        module = ir.Module.create()
        program = start_program(module, "main", [Slot("x", "input", TensorType(dtypes.FLOAT64, (3, 4)))])
        with ir.InsertionPoint(program.entry_block):
            value = program.entry_block.arguments[0]
            made = []
            for _ in range(6):
                value = random_step(rng, value)
                made.append(value)
        finish_program(program, [(Slot(f"y{k}", "output", type_of(v)), v) for k, v in enumerate(made) if k % 2])
        given = {"x": rng.standard_normal((3, 4))}
        meant = reference.run(module, given)
        Simplify().run(module)
        verify(module)
        for name, value in reference.run(module, given).items():
            np.testing.assert_allclose(value, meant[name], rtol=1e-11, atol=1e-12, err_msg=name)
