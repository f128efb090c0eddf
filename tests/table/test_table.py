"""Every op of the table has all its parts, and they agree: types, numpy meaning, index maps with scalar expression, gradient."""

from __future__ import annotations

import numpy as np
import pytest

from dslc.core import dtypes
from dslc.ir import ops, reference
from dslc.ir.mlir import ir
from dslc.ir.op import TABLE, context
from dslc.ir.program import Slot, finish_program, program_of, start_program
from dslc.ir.types import TensorType, type_of
from dslc.ir.verify import verify
from dslc.passes.differentiate import Differentiate

from .points import evaluate_points
from .samples import CONTROL, SAMPLES

POINTS = ("elementwise", "generator", "view", "gather", "join", "reduce", "contract")


def test_the_table_is_sampled_whole():
    with context():
        assert set(TABLE) - CONTROL == {s.op for s in SAMPLES}


def build(sample, arrays):
    """A module with the op alone: (module, the op, names of the arguments)."""
    module = ir.Module.create()
    slots = [Slot(f"x{k}", "input", TensorType(dtypes.of_numpy(a.dtype), a.shape)) for k, a in enumerate(arrays)]
    program = start_program(module, "main", slots)
    with ir.InsertionPoint(program.entry_block):
        made = TABLE[sample.op].of(*program.entry_block.arguments, **sample.attributes)
    results = made if isinstance(made, list) else [made]
    finish_program(program, [(Slot(f"y{k}", "output", type_of(v)), v) for k, v in enumerate(results)])
    return module, results


@pytest.mark.parametrize("sample", SAMPLES, ids=[s.name for s in SAMPLES])
def test_types_meaning_and_points(sample):
    arrays = sample.arrays()
    with context(), ir.Location.unknown():
        module, results = build(sample, arrays)
        verify(module)
        op = results[0].owner.opview
        found = reference.run(module, {f"x{k}": a for k, a in enumerate(arrays)})
        for k, v in enumerate(results):
            t = type_of(v)
            assert found[f"y{k}"].shape == t.shape
            assert found[f"y{k}"].dtype == (np.float64 if t.dtype.is_float else t.dtype.numpy)
        if op.structure in POINTS and not (op.structure == "generator" and sample.op == "random"):
            expected = evaluate_points(op, arrays)
            np.testing.assert_allclose(np.asarray(found["y0"], np.float64), np.asarray(expected, np.float64), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sample", [s for s in SAMPLES if s.differentiable], ids=[s.name for s in SAMPLES if s.differentiable])
def test_gradient_is_that_of_finite_differences(sample):
    arrays = sample.arrays()
    floats = [k for k, a in enumerate(arrays) if a.dtype == np.float64]
    with context(), ir.Location.unknown():
        module, results = build(sample, arrays)
        floating = [k for k, v in enumerate(results) if type_of(v).dtype.is_float]
        if not floats or not floating:
            return
        rng = np.random.default_rng(1)
        weights = {k: rng.standard_normal(type_of(results[k]).shape) for k in floating}
        program = program_of(module)
        end = list(program.entry_block.operations)[-1]
        with ir.InsertionPoint(end):
            terms = [total(ops.Mul.of(results[k], ops.constant(w, dtypes.FLOAT64))) for k, w in weights.items()]
            loss = terms[0]
            for t in terms[1:]:
                loss = ops.Add.of(loss, t)
            made = ops.Grad.of(loss, *[program.entry_block.arguments[k] for k in floats])
            grads = made if isinstance(made, list) else [made]
        slots = [(Slot("loss", "loss", type_of(loss)), loss), *((Slot(f"g{k}", "output", type_of(g)), g) for k, g in zip(floats, grads))]
        finish_program(program, slots)
        Differentiate().run(module)
        verify(module)
        given = {f"x{k}": a for k, a in enumerate(arrays)}
        found = reference.run(module, given)
        for k in floats:
            numeric = finite_differences(lambda x, k=k: float(reference.run(module, {**given, f"x{k}": x})["loss"]), arrays[k])
            scale = np.abs(numeric).max(initial=1.0)
            np.testing.assert_allclose(found[f"g{k}"], numeric, rtol=1e-6, atol=1e-6 * scale)


def total(x):
    return ops.Reduce.of(x, kind="sum", axes=range(type_of(x).rank))


def finite_differences(f, x, h=1e-4):
    """Central differences of fourth order: errors of h**4."""
    out = np.zeros_like(x)
    for at in np.ndindex(*x.shape):
        values = []
        for step in (2, 1, -1, -2):
            moved = x.copy()
            moved[at] += step * h
            values.append(f(moved))
        out[at] = (-values[0] + 8 * values[1] - 8 * values[2] + values[3]) / (12 * h)
    return out


@pytest.mark.parametrize("op", ["mul", "div", "exp", "tanh", "softmax", "pow", "sigmoid", "rsqrt"])
def test_second_derivatives(op):
    """d/dx of sum(grad(sum(w * op(x)), x)) against differences of the first derivative."""
    sample = next(s for s in SAMPLES if s.op == op)
    arrays = [np.random.default_rng(0).uniform(0.5, 1.5, (2, 3)) for _ in sample.operands]
    with context(), ir.Location.unknown():
        module, results = build(sample, arrays)
        program = program_of(module)
        x = program.entry_block.arguments[0]
        with ir.InsertionPoint(list(program.entry_block.operations)[-1]):
            weights = np.random.default_rng(1).standard_normal((2, 3))
            first = ops.Grad.of(total(ops.Mul.of(results[0], ops.constant(weights, dtypes.FLOAT64))), x)
            second = ops.Grad.of(total(ops.Mul.of(first, first)), x)
        finish_program(program, [(Slot("first", "output", type_of(first)), first), (Slot("second", "output", type_of(second)), second)])
        Differentiate().run(module)
        given = {f"x{k}": a for k, a in enumerate(arrays)}
        found = reference.run(module, given)
        numeric = finite_differences(lambda v: float((reference.run(module, {**given, "x0": v})["first"] ** 2).sum()), arrays[0])
        np.testing.assert_allclose(found["second"], numeric, rtol=1e-6, atol=1e-7)
