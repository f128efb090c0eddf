"""Masks of matrices and of finite numbers, as exported graphs have them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import dslc
from dslc.compiler import lower
from dslc.core.dtypes import FLOAT32
from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.op import context
from dslc.ir.program import Slot, finish_program, program_of, start_program
from dslc.ir.types import TensorType
from dslc.passes.hidden import Hidden, diagonals
from dslc.targets import target_of

from . import graphs

T = 80
ATTEND = """model M:
    input x[2, {t}, 8]
    param w[8, 8] ~ normal(1.0)
    k[b, t, e] = sum[d](x[b, t, d] * w[d, e])
    s[b, i, j] = sum[d](x[b, i, d] * k[b, j, d])
    p[b, i, j] = softmax[j]({score})
    y[b, i, d] = sum[j](p[b, i, j] * x[b, j, d])
    output y{more}
"""


@pytest.mark.parametrize("span", [(-79, 0), (0, 0), (-5, 3), (4, 90), (-79, 90), (7, 7), (-100, -70)])
@pytest.mark.parametrize("sizes", [(80, 80), (80, 91), (91, 80)])
def test_the_diagonals_of_a_matrix(span, sizes):
    gap = np.arange(sizes[1])[None, :] - np.arange(sizes[0])[:, None]
    matrix = (gap >= span[0]) & (gap <= span[1])
    low, high = diagonals(matrix)
    assert (((gap >= low) & (gap <= high)) == matrix).all()
    for place in ((3, 2), (40, 41), (70, 5)):
        torn = matrix.copy()
        torn[place] ^= True
        found = diagonals(torn)
        assert found is None or (((gap >= found[0]) & (gap <= found[1])) == torn).all()
    assert diagonals(np.zeros(sizes, bool)) is None


def lowered(model) -> list[ops.Constant]:
    """The constants of its program behind the pass."""
    elaborated = lower(model, "run", target_of("cpu"), after="hidden")
    with elaborated.context:
        block = program_of(elaborated.module).entry_block
        return [np.array(op.reference()) for op in block.operations if isinstance(op, ops.Constant)]


def filled(model) -> set[float]:
    """The numbers of -1000 and less that selects of a program hold."""
    return {float(a.flat[0]) for a in lowered(model) if a.size and a.dtype.kind == "f" and a.flat[0] <= -1000}


def same(model, tolerance: float = 5e-6) -> None:  # sums of 8, then of 80, of numbers up to some 10
    x = np.random.default_rng(0).standard_normal((2, T, 8)).astype(np.float32)
    found, expected = (dslc.compile(model, target=t)(x=x)["y"] for t in ("cpu", "reference"))
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


HIDES = {
    "select": "where(j <= i, s[b, i, j], -1e9)",
    "select the least number": "where(j > i, -3.4e38, s[b, i, j])",
    "select, scaled": "where(j <= i, s[b, i, j], -10000) / sqrt(8)",
    "select, scaled far": "where(j <= i, s[b, i, j], -1e9) * 0.001",
    "added": "s[b, i, j] * 0.5 + where(j <= i, 0, -1e9)",
    "window": "where(j <= i and j > i - 7, s[b, i, j], -1e9)",
    "two masks": "where(j <= i, where(j > i - 7, s[b, i, j], -inf), -1e9)",
}
STAYS = {
    "rows without any": "where(j < i, s[b, i, j], -1e9)",
    "hidden by data": "where(j <= i, where(x[b, j, 0] > 0, s[b, i, j], -1e9), -1e9)",
    "scaled away": "where(j <= i, s[b, i, j], -1e9) * 1e-8",
    "scaled away in two steps": "where(j <= i, s[b, i, j], -10000) / 32 / 32",
    "divided away": "where(j <= i, s[b, i, j], -1e9) / 1e8",
    "turned": "where(j <= i, s[b, i, j], -1e9) * (0 - 1)",
    "added to data": "where(j <= i, s[b, i, j], -1e9) + x[b, j, 0]",
}


@pytest.mark.parametrize("name", HIDES)
def test_finite_numbers_hide(name):
    model = dslc.load(ATTEND.format(t=T, score=HIDES[name], more=""))
    assert filled(model) == {-np.inf}
    same(model)


@pytest.mark.parametrize("name", STAYS)
def test_finite_numbers_stay(name):
    model = dslc.load(ATTEND.format(t=T, score=STAYS[name], more=""))
    assert -np.inf not in filled(model)
    same(model)


def test_scores_that_others_read_stay():
    more = "\n    z[b, i] = max[j](m[b, i, j])\n    output z"
    text = ATTEND.format(t=T, score="m[b, i, j]", more=more).replace("    p[", "    m[b, i, j] = where(j <= i, s[b, i, j], -1e9)\n    p[")
    assert filled(dslc.load(text)) == {float(np.float32(-1e9))}


def exported(mask: np.ndarray, kind: str):
    """Attention of a graph with a mask among its constants: it chooses scores, or is added to them."""
    shapes = {"x": (2, T, 8), "y": (2, T, 8)}
    values = [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in shapes.items()]
    constants = [numpy_helper.from_array(mask, "mask"), numpy_helper.from_array(np.float32(-1e9), "low")]
    node = lambda op, inputs, output, **more: helper.make_node(op, inputs, [output], **more)  # noqa: E731
    nodes = [
        node("Constant", [], "m", value=constants[0]), node("Constant", [], "low", value=constants[1]),
        node("Transpose", ["x"], "xt", perm=[0, 2, 1]), node("MatMul", ["x", "xt"], "s"),
        node("Where", ["m", "s", "low"], "h") if kind == "choose" else node("Add", ["s", "m"], "h"),
        node("Softmax", ["h"], "p", axis=-1), node("MatMul", ["p", "x"], "y"),
    ]  # fmt: skip
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("window", [9, T])
@pytest.mark.parametrize("kind", ["choose", "add"])
def test_a_matrix_along_diagonals_is_made_of_indices(kind, window, tmp_path):
    gap = np.arange(T)[:, None] - np.arange(T)[None, :]
    seen = (gap >= 0) & (gap < window)
    mask = seen[None] if kind == "choose" else np.where(seen, 0, np.finfo(np.float32).min).astype(np.float32)[None]
    onnx.save(exported(mask, kind), tmp_path / "a.onnx")
    model = dslc.load(str(tmp_path / "a.onnx"))
    assert filled(model) == {-np.inf} and all(a.size < 2 or (a == a.flat[0]).all() for a in lowered(model))
    same(model)


@pytest.mark.parametrize("read", ["by a product", "by a sum"])
def test_a_matrix_that_products_read_stays(read):
    """It is better in memory."""
    ones, x = np.tril(np.ones((T, T), np.float32)), TensorType(FLOAT32, (T, T))
    with context(), ir.Location.unknown():
        module = ir.Module.create()
        made = start_program(module, "run", [Slot("x", "input", x)])
        with ir.InsertionPoint(made.entry_block):
            value, matrix = made.entry_block.arguments[0], ops.constant(ones)
            y = graphs.matmul(ops.transpose(matrix, [1, 0]), value) if read == "by a product" else ops.Add.of(ops.transpose(matrix, [1, 0]), value)
        finish_program(made, [(Slot("y", "output", x), y)])
        Hidden().run(module)
        held = [op.uniform for op in made.entry_block.operations if isinstance(op, ops.Constant)]
    assert (None in held) == (read == "by a product")


def test_a_matrix_of_any_other_form_stays(tmp_path):
    mask = np.random.default_rng(0).integers(0, 2, (1, T, T)).astype(bool)
    onnx.save(exported(mask, "choose"), tmp_path / "a.onnx")
    model = dslc.load(str(tmp_path / "a.onnx"))
    assert any(a.dtype == bool and not (a == a.flat[0]).all() for a in lowered(model))
    same(model)
