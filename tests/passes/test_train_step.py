"""The training step: clipping, accumulation, several lines, against the same steps in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dslc.core.errors import TrainingError
from dslc.ir import ops, reference
from dslc.ir.mlir import ir
from dslc.ir.op import context
from dslc.ir.program import Slot, add_argument, arguments_of, finish_program, program_of
from dslc.ir.types import type_of
from dslc.ir.verify import verify
from dslc.passes.differentiate import Differentiate
from dslc.passes.simplify import Simplify
from dslc.passes.train_step import Line, TrainStep

from .graphs import matmul, mean, program

RATE, MOMENTUM = 0.1, 0.9


class Momentum:
    """v = 0.9 v + g; w - 0.1 v"""

    def update(self, program, path, w, g):
        slot = Slot(f"{path}.optimizer.v", "state", type_of(w))
        v = ops.Add.of(ops.Mul.of(add_argument(program, slot), ops.full_like(g, MOMENTUM)), g)
        return ops.Sub.of(w, ops.Mul.of(v, ops.full_like(g, RATE))), [(slot, v)]


def square_error(x, y, w):
    e = ops.Sub.of(matmul(x, w), y)
    return mean(ops.Mul.of(e, e))


def draw(seed):
    rng = np.random.default_rng(seed)
    return {"x": rng.standard_normal((6, 3)), "y": rng.standard_normal((6, 2))}


W = np.random.default_rng(9).standard_normal((3, 2))


def step(arrays, states, **options):
    """The results of one step of `TrainStep(**options)`; `states` may hold more than the program reads."""
    with context(), ir.Location.unknown():
        module = program({**arrays, "w": W}, square_error, ["w"], ())
        TrainStep(lines=(Line((), ("w",), Momentum()),), **options).run(module)
        Differentiate().run(module)
        Simplify().run(module)
        verify(module)
        names = [s.name for s in arguments_of(program_of(module))]
        assert len(set(names)) == len(names)
        return reference.run(module, {"w": W, **arrays, **states})


def torch_gradient(*batches):
    w = torch.tensor(W, requires_grad=True)
    loss = sum(((torch.tensor(b["x"]) @ w - torch.tensor(b["y"])) ** 2).mean() for b in batches) / len(batches)
    return torch.autograd.grad(loss, w)[0].numpy()


ZERO = {"w.optimizer.v": np.zeros_like(W)}


def test_a_step_moves_the_parameter_and_its_state():
    found = step(draw(0), {"w.optimizer.v": np.ones_like(W)})
    v = MOMENTUM + torch_gradient(draw(0))
    np.testing.assert_allclose(found["next.w.optimizer.v"], v, rtol=1e-12)
    np.testing.assert_allclose(found["next.w"], W - RATE * v, rtol=1e-12)


@pytest.mark.parametrize("limit", [0.05, 1e3])
def test_clipping_by_norm(limit):
    found, g = step(draw(0), ZERO, clip_norm=limit), torch_gradient(draw(0))
    norm = np.linalg.norm(g)
    np.testing.assert_allclose(found["grad_norm"], norm, rtol=1e-12)
    w = torch.nn.Parameter(torch.tensor(W))
    w.grad = torch.tensor(g)
    torch.nn.utils.clip_grad_norm_([w], limit)
    np.testing.assert_allclose(found["next.w"], W - RATE * w.grad.numpy(), rtol=1e-12)


def test_clipping_by_value():
    found, g = step(draw(0), ZERO, clip_value=0.1), torch_gradient(draw(0))
    assert np.abs(g).max() > 0.1
    np.testing.assert_allclose(found["next.w"], W - RATE * np.clip(g, -0.1, 0.1), rtol=1e-12)


def test_accumulation_gives_the_mean_over_microbatches_and_clears():
    total = np.zeros_like(W)
    for seed in (0, 1):
        found = step(draw(seed), {"w.grad": total}, accumulate=3, accumulating=True)
        assert set(found) == {"loss", "next.w.grad"}
        total = found["next.w.grad"]
    found = step(draw(2), {"w.grad": total, **ZERO}, accumulate=3)
    np.testing.assert_allclose(found["next.w"], W - RATE * torch_gradient(draw(0), draw(1), draw(2)), rtol=1e-12)
    assert not found["next.w.grad"].any()


def test_a_later_line_sees_what_the_one_before_left():
    """Two lines on two parameters of x*a*b: the second takes its gradient at the first one's new value."""
    arrays = {"a": np.array(2.0), "b": np.array(3.0)}
    with context(), ir.Location.unknown():
        module = program(arrays, lambda a, b: ops.Mul.of(ops.Mul.of(a, b), b), ["a"], ())
        TrainStep(lines=(Line((), ("a",), Momentum()), Line((), ("b",), Momentum()))).run(module)
        Differentiate().run(module)
        verify(module)
        found = reference.run(module, {**arrays, "a.optimizer.v": np.array(0.0), "b.optimizer.v": np.array(0.0)})
    a = 2 - RATE * 9
    np.testing.assert_allclose([found["next.a"], found["next.b"]], [a, 3 - RATE * 2 * a * 3], rtol=1e-12)


def test_a_program_without_a_loss_is_refused():
    with context(), ir.Location.unknown():
        module = program({"x": np.zeros(2), "w": np.zeros(2)}, lambda x, w: mean(ops.Mul.of(x, w)), ["w"], (Differentiate(),))
        main = program_of(module)
        finish_program(main, [(Slot("y", "output", type_of(main.entry_block.arguments[0])), main.entry_block.arguments[0])])
        with pytest.raises(TrainingError, match="no loss"):
            TrainStep(lines=(Line((), ("w",), Momentum()),)).run(module)
