"""precision tf32: which products are marked and stay so through every pass, what is rounded on each target, results within that of float64."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import dslc
from dslc.compiler import compile_program, lower
from dslc.core.dtypes import rounded_to_tf32
from dslc.core.errors import Error
from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.program import program_of
from dslc.ir.types import type_of
from dslc.passes.hoist import Hoist
from dslc.passes.notes import notes_of
from dslc.targets import target_of

from .test_precision import BLOCK, model, step

TARGETS = ("reference", "cpu", "cuda-emulated:checked")
EPSILON = 2.0**-11  # half the distance of neighbours at 1
IMAGES = """
model M:
    input x[2, 3, 8, 8], y[2]: int32
    h = relu(conv2d(x, 4, pad=1))
    h = conv2d(h, 6, kernel=3, stride=2)
    pooled[n, c] = mean[i, j](h[n, c, i, j])
    logits = linear(pooled, 5)
    loss cross_entropy(logits, y)
train:
    optimizer sgd(lr=1.0)
"""


def products(block: object) -> list[ops.Contract | ops.Conv]:
    """All contractions and convolutions of a block and of what is inside its ops."""
    found = []
    for op in block.operations:
        if isinstance(op, (ops.Contract, ops.Conv)):
            found.append(op)
        for region in op.regions:
            found += products(region.blocks[0])
    return found


def marks(found: dslc.Model, program: str, target: str = "reference", after: str | None = None) -> Counter:
    """How many products carry the mark and how many do not."""
    elaborated = lower(found, program, target_of(target), after=after)
    made = products(program_of(elaborated.module).entry_block)
    assert all(type_of(v).dtype.name == "float32" for op in made for v in (*op.operands, *op.results))
    return Counter(op.tf32 for op in made)


def nearest(x: np.ndarray) -> np.ndarray:
    """The multiple of 2^(exponent - 10) nearest to each finite number, ties away from zero, in float64."""
    wide = x.astype(np.float64)
    unit = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(wide), 2.0**-126))) - 10)
    return np.sign(wide) * np.floor(np.abs(wide) / unit + 0.5) * unit


def awkward() -> np.ndarray:
    """Ties of both kinds and what lies beside them, powers of two, carries into the next exponent, of either sign."""
    bits = np.array(
        [0x3F800000, 0x3F801000, 0x3F803000, 0x3F800FFF, 0x3F801001, 0x3FFFF000, 0x3FFFEFFF, 0x00800000, 0x40490FDB, 0x00000000], np.uint32
    )
    random = np.random.default_rng(0).standard_normal(38).astype(np.float32)
    return np.concatenate([bits.view(np.float32), -bits.view(np.float32), random, 1e30 * random[:6]])


def test_rounding() -> None:
    x = awkward()
    np.testing.assert_array_equal(rounded_to_tf32(x), nearest(x))
    special = np.array([np.inf, -np.inf, np.finfo(np.float32).max], np.float32)
    np.testing.assert_array_equal(rounded_to_tf32(special), [np.inf, -np.inf, np.inf])
    nans = np.array([0x7FFFFFFF, 0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(rounded_to_tf32(nans)).all()
    assert rounded_to_tf32(x.astype(np.float64)).dtype == np.float64


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision, rounded", [("tf32", rounded_to_tf32), ("float32", lambda x: x)])
def test_a_product_rounds_both_factors_and_nothing_else(tmp_path: Path, target: str, precision: str, rounded) -> None:
    """With the unit matrix on either side a product shows what it multiplies; in float32 every bit."""
    text = """
model M:
    input x[8, 8], unit[8, 8]
    left[i, j] = sum[k](x[i, k] * unit[k, j])
    right[i, j] = sum[k](unit[i, k] * x[k, j])
    row[j] = sum[k](x[0, k] * unit[k, j])
    output left, right, row, moved = x + 1.0
train:
    optimizer sgd(lr=1.0)
"""
    x, unit = awkward().reshape(8, 8), np.eye(8, dtype=np.float32)
    found = dslc.compile(model(tmp_path, text, precision=precision), target=target)(x=x, unit=unit)
    np.testing.assert_array_equal(found["left"], rounded(x))
    np.testing.assert_array_equal(found["right"], rounded(x))
    np.testing.assert_array_equal(found["row"], rounded(x)[0])
    np.testing.assert_array_equal(found["moved"], x + np.float32(1))


def test_products_are_marked_and_values_are_float32(tmp_path: Path) -> None:
    found = marks(model(tmp_path, BLOCK, precision="tf32"), "run", after="precision")
    assert found[True] > 10 and not found[False]


@pytest.mark.parametrize("text", [BLOCK, IMAGES])
@pytest.mark.parametrize("target", ["reference", "cpu", "cuda:sm_80"])
def test_products_of_gradients_are_too(tmp_path: Path, text: str, target: str) -> None:
    """Down to the kernels."""
    found = marks(model(tmp_path, text, precision="tf32"), "step", target)
    assert found[True] > 4 and not found[False]
    assert not marks(model(tmp_path, text), "step", target)[True]


def test_products_of_a_scan_and_of_its_gradient_are_too(tmp_path: Path) -> None:
    text = "model M:\n    input x[3, 5, 8]\n    y = lstm(x, 8)\n    loss mean(y ** 2)\ntrain:\n    optimizer sgd(lr=1.0)\n"
    found = marks(model(tmp_path, text, precision="tf32"), "step")
    assert found[True] > 4 and not found[False]


def test_a_product_that_goes_before_its_scan_keeps_the_mark(tmp_path: Path) -> None:
    text = """
model M:
    input x[3, 5, 8]
    param w[8, 8] ~ normal()
    scan t < 5 carry h[b < 3, u < 8] = 0:
        h[b, u] = tanh(sum[i](x[b, t, i] * w[i, u]) + h[b, u])
        emit y[b, t, u] = h[b, u]
    output y
"""
    elaborated = lower(model(tmp_path, text), "run", target_of("reference"), after="simplify")
    with elaborated.context, elaborated.location:
        (inside,) = products(program_of(elaborated.module).entry_block)
        inside.attributes["tf32"] = ir.UnitAttr.get()
        Hoist().run(elaborated.module)
        block = program_of(elaborated.module).entry_block
        assert [op.tf32 for op in block.operations if isinstance(op, ops.Contract)] == [True]


def test_products_of_a_cached_decoder_are_too(tmp_path: Path) -> None:
    text = """
model M:
    dims time=8
    input tokens[1, time]: int32
    h = embedding(tokens, 6, 16)
    h = h + self_attention(h, 2, causal=true)
    output logits = linear(h, 6)
train:
    optimizer sgd(lr=1.0)
generate:
    over time from logits sample(temperature=1.0)
"""
    for program in ("prefill", "decode"):
        found = marks(model(tmp_path, text, precision="tf32"), program)
        assert found[True] > 4 and not found[False], program


def test_with_precision(tmp_path: Path) -> None:
    text = """
model M:
    input x[8, 16]
    param w[16, 16] ~ normal()
    with precision({0}):
        y[n, o] = sum[i](x[n, i] * w[i, o])
    output q[n, o] = sum[i](y[n, i] * w[i, o])
train:
    optimizer sgd(lr=1.0)
"""
    assert marks(model(tmp_path, text.format("float32"), precision="tf32"), "run") == {True: 1, False: 1}
    assert marks(model(tmp_path, text.format("tf32"), precision="float32"), "run") == {True: 1, False: 1}
    elaborated = lower(model(tmp_path, text.format("tf32"), precision="bfloat16"), "run", target_of("reference"))
    made = products(program_of(elaborated.module).entry_block)
    assert [(op.tf32, str(op.type.dtype)) for op in made] == [(True, "float32"), (False, "bfloat16")]


def test_equal_equations_of_two_precisions_stay_two(tmp_path: Path) -> None:
    text = """
model M:
    input x[8, 16]
    param w[16, 16] ~ normal()
    y[n, o] = sum[i](x[n, i] * w[i, o])
    with precision(tf32):
        q[n, o] = sum[i](x[n, i] * w[i, o])
    output y, q
"""
    assert marks(model(tmp_path, text), "run") == {True: 1, False: 1}


def test_products_of_other_types_stay_as_they_are(tmp_path: Path) -> None:
    text = """
model M:
    input x[8, 16]: float64, w[16, 16]: float64, n[8, 16]: int32, m[16, 16]: int32
    output y[n, o] = sum[i](x[n, i] * w[i, o])
    output k[a, o] = sum[i](n[a, i] * m[i, o])
train:
    optimizer sgd(lr=1.0)
"""
    elaborated = lower(model(tmp_path, text, precision="tf32"), "run", target_of("reference"))
    assert not any(op.tf32 for op in products(program_of(elaborated.module).entry_block))


def test_the_mark_is_for_float32_alone() -> None:
    from dslc.core.dtypes import BFLOAT16, FLOAT32
    from dslc.ir.types import TensorType

    for operand, result in ((BFLOAT16, FLOAT32), (FLOAT32, BFLOAT16)):
        with pytest.raises(Error, match="tf32 is for float32 alone"):
            ops.Contract.infer(
                [TensorType(operand, (2, 3)), TensorType(operand, (3, 4))], lhs=[0, 2], rhs=[2, 1], out=[0, 1], dtype=result, tf32=True
            )


def test_each_product_is_told_with_its_reason(tmp_path: Path) -> None:
    elaborated = lower(model(tmp_path, BLOCK, precision="tf32"), "run", target_of("cpu"))
    notes = notes_of(elaborated.module, "precision")
    assert "line 9: contract in tf32: a product of float32, its factors are rounded to 10 bits, its sums are float32" in notes


@pytest.mark.parametrize("program, count", [("run", 1), ("step", 3)])
def test_attention_is_derived_as_in_float32(tmp_path: Path, program: str, count: int) -> None:
    elaborated = lower(model(tmp_path, BLOCK, precision="tf32"), program, target_of("cuda:sm_90a"))
    kinds = Counter(op.kind for op in program_of(elaborated.module).entry_block.operations if isinstance(op, ops.Kernel))
    assert kinds["attention"] == 2 * count


@pytest.mark.parametrize("target", TARGETS)
def test_a_step_is_as_near_to_float64_as_the_type_allows(tmp_path: Path, target: str) -> None:
    """Against the float32 model in float64, with the bounds of `test_precision`. And further from it than a step in float32."""
    exact_loss, exact = step(model(tmp_path, BLOCK), "reference")
    loss, moved = step(model(tmp_path, BLOCK, precision="tf32"), target)
    assert abs(loss - exact_loss) <= 4 * EPSILON * exact_loss
    off = {path: float(np.linalg.norm(moved[path] - g)) for path, g in exact.items()}
    for path, g in exact.items():
        assert off[path] <= 10 * EPSILON * np.linalg.norm(g) + 1e-6, path
    assert max(off[path] / (np.linalg.norm(g) + 1e-6) for path, g in exact.items()) > 2.0**-14


def test_training_reaches_the_loss_of_float32(tmp_path: Path) -> None:
    """Within 1% after 60 steps, as in `test_precision`."""
    text = BLOCK.replace("sgd(lr=1.0)", "adamw(lr=5e-3)").replace("h = linear(x, 16)", "h = linear(x, 16) + positions(12, 16)")
    losses = {}
    for precision in ("float32", "tf32"):
        trainer = dslc.Trainer(model(tmp_path, text, precision=precision))
        rng = np.random.default_rng(1)
        last = []
        for _ in range(60):
            y = rng.integers(0, 6, (4, 12)).astype(np.int32)
            x = np.eye(16, dtype=np.float32)[np.roll(y, -2, axis=1)]
            last.append(trainer.step(x=x, y=y))
        losses[precision] = float(np.mean(last[-20:]))
    assert losses["tf32"] != losses["float32"]
    assert abs(losses["tf32"] - losses["float32"]) <= 0.01 * losses["float32"]


def test_programs_in_float32_know_nothing_of_it(tmp_path: Path) -> None:
    """And those in tf32 multiply by tensor cores, forward and backward."""
    text = "model M:\n    input x[64, 48]\n    y = linear(linear(x, 48), 48)\n    loss mean(y ** 2)\ntrain:\n    optimizer sgd(lr=1.0)\n"
    sources = {p: compile_program(model(tmp_path, text, precision=p), "step", "cuda-emulated").source for p in ("float32", "tf32")}
    assert "tf32" not in sources["float32"]
    made = [line for line in sources["tf32"].splitlines() if line.startswith("// contract")]
    assert made and all("tensor cores in tf32" in line for line in made if "tiles of" in line)
    assert sources["tf32"].count("tensor cores in tf32") >= 4  # of five products two are alike
