"""precision: which values lie in 16 bits, results within that type's rounding of float64, the scale of float16's loss."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import dslc
from dslc.compiler import lower
from dslc.core.dtypes import BY_NAME
from dslc.core.errors import Error
from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.program import program_of
from dslc.ir.types import type_of
from dslc.passes import train_step
from dslc.passes.notes import notes_of
from dslc.targets import target_of

EPSILON = {"bfloat16": 2.0**-8, "float16": 2.0**-11}  # half the distance of neighbours at 1

BLOCK = """
model M:
    input   x[4, 12, 16]
    input   y[4, 12]: int32
    h = linear(x, 16)
    repeat 2:
        h = h + self_attention(layernorm(h), 2, causal=true)
        h = h + swiglu(layernorm(h), hidden=32)
    logits = linear(h, 6)
    output  logits
    loss    cross_entropy(logits, y)
train:
    optimizer sgd(lr=1.0)
"""


def model(tmp_path: Path, text: str, **overrides: object) -> dslc.Model:
    path = tmp_path / "m.dsl"
    path.write_text(text)
    return dslc.load(str(path), **overrides)


def types(found: dslc.Model, program: str = "run", after: str = "precision") -> dict[str, set[str]]:
    """The types of the results of each kind of op."""
    elaborated = lower(found, program, target_of("reference"), after=after)
    out: dict[str, set[str]] = {}
    for op in program_of(elaborated.module).entry_block.operations:
        for r in op.results:
            out.setdefault(op.operation.name.removeprefix("nn."), set()).add(str(type_of(r).dtype))
    return out


def of_equations(tmp_path: Path, body: str, precision: str = "bfloat16") -> dict[str, set[str]]:
    head = "model M:\n    input x[8, 16], z[8, 16]\n    param w[16, 16], b[16] ~ normal()\n"
    return types(model(tmp_path, head + body + "train:\n    optimizer sgd(lr=1.0)\n", precision=precision))


PRODUCT = "    y[n, o] = sum[i](x[n, i] * w[i, o])\n"


@pytest.mark.parametrize("name", EPSILON)
def test_a_product_is_narrow_and_results_are_float32(tmp_path: Path, name: str) -> None:
    found = of_equations(tmp_path, PRODUCT + "    output y\n", name)
    assert found["contract"] == {name}
    assert found["cast"] == {name, "float32"}


def test_a_bias_does_not_widen(tmp_path: Path) -> None:
    found = of_equations(tmp_path, PRODUCT + "    q[n, o] = y[n, o] + b[o]\n    r[n, o] = tanh(q[n, o]) * q[n, o]\n    output r\n")
    assert found["add"] == {"float32"}  # computed there, and rounded because it is read twice
    assert found["tanh"] == found["mul"] == {"bfloat16"}


def test_a_float32_stream_stays(tmp_path: Path) -> None:
    found = of_equations(tmp_path, PRODUCT + "    q[n, o] = y[n, o] + z[n, o]\n    r[n, o] = tanh(q[n, o])\n    output r\n")
    assert found["add"] == found["tanh"] == {"float32"}


@pytest.mark.parametrize("op", ["exp", "log", "sqrt"])
def test_what_would_lose_too_much_is_float32(tmp_path: Path, op: str) -> None:
    assert of_equations(tmp_path, PRODUCT + f"    q[n, o] = {op}(y[n, o])\n    output q\n")[op] == {"float32"}


def test_sums_and_softmax_are_float32(tmp_path: Path) -> None:
    found = of_equations(tmp_path, PRODUCT + "    q[n, o] = softmax[o](y[n, o])\n    r[n] = sum[o](y[n, o])\n    output q, r\n")
    assert found["softmax"] == found["reduce"] == {"float32"}


def test_a_maximum_of_windows_picks_in_16_bits(tmp_path: Path) -> None:
    windows = "    q[n, i < 8] = max[k < 3](y[n, 2*i + k - 1, outside=-inf])\n    r[n, i] = exp(q[n, i])\n    output r\n"
    found = of_equations(tmp_path, PRODUCT + windows)
    assert found["reduce"] == {"bfloat16"}
    assert found["exp"] == {"float32"}
    assert of_equations(tmp_path, PRODUCT + windows.replace("max", "sum"))["reduce"] == {"float32"}


@pytest.mark.parametrize(("other", "rounded"), [("z[n, i] * w[o, i]", 1), ("x[n, i] * w[i, o]", 0)])
def test_of_two_products_that_meet_one_is_rounded(tmp_path: Path, other: str, rounded: int) -> None:
    """Both have a bias, which is added in float32; where the products are one (equal equations), nothing is stored between them."""
    body = PRODUCT + f"    u[n, o] = sum[i]({other})\n    q[n, o] = (y[n, o] + b[o]) + (u[n, o] * b[o])\n    output q\n"
    head = "model M:\n    input x[8, 16], z[8, 16]\n    param w[16, 16], b[16] ~ normal()\n"
    elaborated = lower(model(tmp_path, head + body, precision="bfloat16"), "run", target_of("reference"), after="precision")
    casts = [op for op in program_of(elaborated.module).entry_block.operations if isinstance(op, ops.Cast) and op.dtype == BY_NAME["bfloat16"]]
    assert sum(isinstance(op.x.owner.opview, (ops.Add, ops.Mul)) for op in casts if not isinstance(op.x.owner, ir.Block)) == rounded


def test_dropout_does_not_widen(tmp_path: Path) -> None:
    text = BLOCK.replace("logits = linear(h, 6)", "d = dropout(linear(h, 16), 0.5)\n    logits = linear(d * d, 6)")
    assert "bfloat16" in types(model(tmp_path, text, precision="bfloat16"), "train")["mul"]


def test_with_precision(tmp_path: Path) -> None:
    body = "    with precision({0}):\n        y[n, o] = sum[i](x[n, i] * w[i, o])\n    q[n, o] = sum[i](y[n, i] * w[i, o])\n    output q\n"
    assert of_equations(tmp_path, body.format("float32"))["contract"] == {"float32", "bfloat16"}
    assert of_equations(tmp_path, body.format("float16"), "float32")["contract"] == {"float16", "float32"}
    assert of_equations(tmp_path, body.format("float16"))["contract"] == {"float16", "bfloat16"}


def test_equal_equations_of_two_precisions_stay_two(tmp_path: Path) -> None:
    body = PRODUCT + "    with precision(float32):\n        q[n, o] = sum[i](x[n, i] * w[i, o])\n    output y, q\n"
    assert of_equations(tmp_path, body)["contract"] == {"float32", "bfloat16"}


def test_the_weights_of_a_scan_are_cast_once(tmp_path: Path) -> None:
    text = "model M:\n    input x[3, 5, 8]\n    output y = lstm(x, 8)\ntrain:\n    optimizer sgd(lr=1.0)\n"
    elaborated = lower(model(tmp_path, text, precision="bfloat16"), "run", target_of("reference"))
    (scan,) = (op for op in program_of(elaborated.module).entry_block.operations if isinstance(op, ops.Scan))
    body = list(scan.regions[0].blocks[0].operations)
    assert {str(op.type.dtype) for op in body if isinstance(op, ops.Contract)} == {"bfloat16"}
    assert sum(isinstance(op, ops.Cast) and str(op.dtype) == "bfloat16" for op in body) == 1  # of the carry


@pytest.mark.parametrize("program, count", [("run", 1), ("step", 3)])
def test_attention_is_derived_as_in_float32(tmp_path: Path, program: str, count: int) -> None:
    elaborated = lower(model(tmp_path, BLOCK, precision="bfloat16"), program, target_of("cuda:sm_90a"))
    kinds = Counter(op.kind for op in program_of(elaborated.module).entry_block.operations if isinstance(op, ops.Kernel))
    assert kinds["attention"] == 2 * count
    assert notes_of(elaborated.module, "attention") == []


def test_each_type_is_told_with_its_reason(tmp_path: Path) -> None:
    elaborated = lower(model(tmp_path, BLOCK, precision="bfloat16"), "run", target_of("cpu"))
    notes = notes_of(elaborated.module, "precision")
    assert "line 7: contract in bfloat16: a product, its sums are float32" in notes
    assert "line 7: softmax in float32: it would lose too much in 16 bits" in notes
    assert "line 7: add in bfloat16: its operands are" in notes  # a residual stream that begins with a product


def step(found: dslc.Model, target: str) -> tuple[float, dict[str, np.ndarray]]:
    """The loss, and how each parameter moved in one step of rate 1: by its gradient."""
    rng = np.random.default_rng(0)
    trainer = dslc.Trainer(found, target=target)
    before = {k: np.array(v, np.float64) for k, v in found.params.items()}
    loss = trainer.step(x=rng.standard_normal((4, 12, 16)).astype(np.float32), y=rng.integers(0, 6, (4, 12)).astype(np.int32))
    return loss, {k: before[k] - np.asarray(found.params[k], np.float64) for k in before}


@pytest.mark.parametrize("target", ["cpu", "cuda-emulated:checked"])
@pytest.mark.parametrize("name", EPSILON)
def test_a_step_is_as_near_to_float64_as_the_type_allows(tmp_path: Path, name: str, target: str) -> None:
    """Against the float32 model in float64. A gradient is a sum of products through about ten roundings, whose errors are random: 10 half units."""
    exact_loss, exact = step(model(tmp_path, BLOCK), "reference")
    loss, moved = step(model(tmp_path, BLOCK, precision=name), target)
    assert abs(loss - exact_loss) <= 4 * EPSILON[name] * exact_loss
    for path, g in exact.items():
        assert np.linalg.norm(moved[path] - g) <= 10 * EPSILON[name] * np.linalg.norm(g) + 1e-6, path


OVERFLOWS = """
model M:
    input   x[4, 8]
    param   w[8, 8] ~ normal()
    y[n, o] = sum[i](x[n, i] * w[i, o])
    loss    1000 * mean(y ** 2)
train:
    optimizer sgd(lr=1e-3, momentum=0.9)
    precision float16
"""


def states(trainer: dslc.Trainer) -> dict[str, float]:
    return {k: float(trainer.model.params[f"loss_scale.{k}"]) for k in ("shift", "good", "skipped")}


@pytest.mark.parametrize("target", ["cpu", "cuda-emulated:checked", "reference"])
def test_a_step_that_overflows_changes_nothing(tmp_path: Path, target: str) -> None:
    """2^16 * 1000 / 32 is beyond float16's 65,504, and so is half of it, and so on: five steps go by before the sixth changes anything."""
    trainer = dslc.Trainer(model(tmp_path, OVERFLOWS), target=target)
    before = np.array(trainer.model.params["w"])
    for skipped in range(1, 6):
        trainer.step(x=np.full((4, 8), 0.01, np.float32))
        assert (np.asarray(trainer.model.params["w"]) == before).all()
        assert (np.asarray(trainer.model.params["w.optimizer.v"]) == 0).all()
        assert states(trainer) == {"shift": -skipped, "good": 0, "skipped": skipped}
    trainer.step(x=np.full((4, 8), 0.01, np.float32))
    assert (np.asarray(trainer.model.params["w"]) != before).all()
    assert states(trainer) == {"shift": -5, "good": 1, "skipped": 5}


def test_float16_in_a_part_of_the_model_scales_the_loss_too(tmp_path: Path) -> None:
    text = OVERFLOWS.replace("    precision float16\n", "")
    text = text.replace("    y[n, o] =", "    with precision(float16):\n        y[n, o] =")
    trainer = dslc.Trainer(model(tmp_path, text), target="reference")
    trainer.step(x=np.full((4, 8), 0.01, np.float32))
    assert states(trainer) == {"shift": -1, "good": 0, "skipped": 1}


def test_each_optimizer_line_has_its_own_scale(tmp_path: Path) -> None:
    """The second loss is small enough not to overflow: its line goes on while the first one's steps are skipped."""
    text = OVERFLOWS.replace("    loss    1000 * mean(y ** 2)", "    loss    big = 1000 * mean(y ** 2)\n    loss    small = mean(y ** 2)")
    text = text.replace(
        "    optimizer sgd(lr=1e-3, momentum=0.9)\n", "    minimize big over all with sgd(lr=1e-3)\n    minimize small over all with sgd(lr=1e-3)\n"
    )
    trainer = dslc.Trainer(model(tmp_path, text), target="reference")
    trainer.step(x=np.full((4, 8), 0.01, np.float32))
    assert (trainer.metrics["skipped_steps"], trainer.metrics["skipped_steps.2"]) == (1, 0)


def test_the_scale_grows_after_steps_without_overflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_step, "GROWTH", 2)
    trainer = dslc.Trainer(model(tmp_path, OVERFLOWS.replace("1000 * ", "")), target="reference")
    for _ in range(3):
        trainer.step(x=np.full((4, 8), 1e-2, np.float32))
    assert states(trainer) == {"shift": 1, "good": 1, "skipped": 0}


def test_the_scale_saves_small_gradients(tmp_path: Path) -> None:
    """Gradients of 1e-9 are below float16's smallest number, and are there all the same."""
    text = OVERFLOWS.replace("1000 *", "1e-7 *").replace("lr=1e-3, momentum=0.9", "lr=1e6")
    moved = []
    for name in ("float16", "float32"):
        trainer = dslc.Trainer(model(tmp_path, text, precision=name), target="reference")
        before = np.array(trainer.model.params["w"], np.float64)
        trainer.step(x=np.linspace(-0.1, 0.1, 32).reshape(4, 8).astype(np.float32))
        moved.append(np.asarray(trainer.model.params["w"], np.float64) - before)
    assert np.abs(moved[1]).max() > 0
    assert np.abs(moved[0] - moved[1]).max() <= 8 * EPSILON["float16"] * np.abs(moved[1]).max() + 1e-8


@pytest.mark.parametrize("name", EPSILON)
def test_training_reaches_the_loss_of_float32(tmp_path: Path, name: str) -> None:
    """Within 1% after 60 steps of a small transformer on a rule that it can learn: y is x's class 2 places earlier."""
    text = BLOCK.replace("sgd(lr=1.0)", "adamw(lr=5e-3)").replace("h = linear(x, 16)", "h = linear(x, 16) + positions(12, 16)")
    losses = {}
    for precision in ("float32", name):
        trainer = dslc.Trainer(model(tmp_path, text, precision=precision))
        rng = np.random.default_rng(1)
        last = []
        for _ in range(60):
            y = rng.integers(0, 6, (4, 12)).astype(np.int32)
            x = np.eye(16, dtype=np.float32)[np.roll(y, -2, axis=1)]
            last.append(trainer.step(x=x, y=y))
        losses[precision] = float(np.mean(last[-20:]))
    assert abs(losses[name] - losses["float32"]) <= 0.01 * losses["float32"]


def test_an_unknown_precision(tmp_path: Path) -> None:
    with pytest.raises(Error, match="no program runs in float8_e4m3"):
        model(tmp_path, BLOCK + "    precision float8_e4m3\n")
    assert BY_NAME["float8_e4m3"]  # a type of values it is
