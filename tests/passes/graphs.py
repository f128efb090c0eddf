"""Small graphs of table ops for the tests of the passes: a loss with its gradients, next to what torch gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dslc.core import dtypes
from dslc.ir import ops, reference
from dslc.ir.mlir import ir
from dslc.ir.op import context
from dslc.ir.program import Slot, finish_program, start_program
from dslc.ir.types import TensorType, type_of
from dslc.ir.verify import verify
from dslc.passes.differentiate import Differentiate


def add(*values: ir.Value) -> ir.Value:
    out = values[0]
    for v in values[1:]:
        out = ops.Add.of(out, v)
    return out


def total(x: ir.Value) -> ir.Value:
    return ops.Reduce.of(x, kind="sum", axes=range(type_of(x).rank))


def mean(x: ir.Value) -> ir.Value:
    n = max(type_of(x).size, 1)
    return ops.Div.of(total(x), ops.full(TensorType(type_of(x).dtype, ()), n))


def matmul(a: ir.Value, b: ir.Value) -> ir.Value:
    """a[..., k] b[k, n]"""
    rank = type_of(a).rank
    return ops.contract(a, b, range(rank), [rank - 1, rank], [*range(rank - 1), rank])


def bias(x: ir.Value, b: ir.Value) -> ir.Value:
    """x[..., n] + b[n]"""
    t = type_of(x)
    return ops.Add.of(x, ops.broadcast(b, t.shape, [t.rank - 1]))


def relu(x: ir.Value) -> ir.Value:
    return ops.Max.of(x, ops.full_like(x, 0))


def program(arrays: Mapping[str, np.ndarray], build: Callable[..., Any], wrt: list[str], passes: tuple = (Differentiate(),)) -> ir.Module:
    """A module with the results `loss` and, for each name of `wrt`, its gradient; `build` gets the arguments by name and gives the loss."""
    module = ir.Module.create()
    slots = [Slot(k, "param" if k in wrt else "input", TensorType(dtypes.of_numpy(a.dtype), a.shape)) for k, a in arrays.items()]
    made = start_program(module, "main", slots)
    with ir.InsertionPoint(made.entry_block):
        values = dict(zip(arrays, made.entry_block.arguments))
        loss = build(**values)
        grads = ops.Grad.of(loss, *[values[k] for k in wrt])
    grads = grads if isinstance(grads, list) else [grads]
    finish_program(made, [(Slot("loss", "loss", type_of(loss)), loss), *((Slot(f"d.{k}", "output", type_of(g)), g) for k, g in zip(wrt, grads))])
    verify(module)
    for each in passes:
        each.run(module)
        verify(module)
    return module


def gradients(
    arrays: Mapping[str, np.ndarray], build: Callable[..., Any], wrt: list[str], passes: tuple = (Differentiate(),)
) -> dict[str, np.ndarray]:
    """Loss and gradients by name, in float64."""
    with context(), ir.Location.unknown():
        return reference.run(program(arrays, build, wrt, passes), arrays)


def against_torch(arrays: Mapping[str, np.ndarray], build: Callable[..., Any], wrt: list[str], torch_loss: Callable[..., Any], passes: tuple) -> None:
    """Compares loss and gradients in float64 with torch's, to 1e-9 of the largest element."""
    import torch

    found = gradients(arrays, build, wrt, passes)
    given = {k: torch.tensor(a, requires_grad=k in wrt) for k, a in arrays.items()}
    loss = torch_loss(**given)
    expected = torch.autograd.grad(loss, [given[k] for k in wrt])
    np.testing.assert_allclose(found["loss"], loss.item(), rtol=1e-11)
    for k, e in zip(wrt, expected):
        scale = max(float(e.abs().max()), 1e-12)
        np.testing.assert_allclose(found[f"d.{k}"] / scale, e.numpy() / scale, atol=1e-9, err_msg=k)
