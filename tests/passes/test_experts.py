"""Mixtures of experts: rows in groups, against every row with its own matrices in numpy; gradients, decoding, what is not grouped."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dslc
from dslc.compiled import decoder_of
from dslc.compiler import lower
from dslc.core import dtypes
from dslc.ir import ops, reference
from dslc.ir.mlir import ir
from dslc.ir.op import context
from dslc.ir.program import Slot, finish_program, program_of, start_program
from dslc.ir.types import TensorType, type_of
from dslc.passes.experts import Experts, block_rows
from dslc.runtime.generation import generate
from dslc.runtime.sampling import Sampling
from dslc.targets import target_of

MOE = """
model MoE:
    dims    tokens=40
    let     width=16, hidden=24, experts=5, chosen=2
    input   x[tokens, width], ids[tokens, chosen]: int32
    param   router[width, experts], up[experts, width, hidden], down[experts, hidden, width] ~ normal(std=0.3)
    score[n, e] = sum[d](x[n, d] * router[d, e])
    gate[n, r] = softmax[r](score[n, ids[n, r]])
    h[n, r, k] = silu(sum[d](x[n, d] * up[ids[n, r], d, k]))
    y[n, r, d] = sum[k](h[n, r, k] * down[ids[n, r], k, d])
    z[n, d] = sum[r](gate[n, r] * y[n, r, d])
    output  z
    loss    mean(z ** 2)
train:
    optimizer sgd(lr=1.0)
    steps 1
"""
GPT = """
model M:
    dims    batch=2, time=10
    input   tokens[batch, time]: int32
    param   table[13, 16], router[16, 3], up[3, 16, 32], down[3, 32, 16] ~ normal(std=0.5)
    e[b, t, d] = table[tokens[b, t], d]
    s[b, t, d] = cumsum[t](e[b, t, d]) * 0.3
    score[b, t, k] = sum[d](s[b, t, d] * router[d, k])
    pick[b, t] = argmax[k](score[b, t, k])
    h[b, t, k] = relu(sum[d](s[b, t, d] * up[pick[b, t], d, k]))
    logits[b, t, v] = sum[d](sum[k](h[b, t, k] * down[pick[b, t], k, d]) * table[v, d])
    output  logits
"""
RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 16)).astype(np.float32)
CHOICES = {
    "even": RNG.permuted(np.tile(np.arange(5), (40, 1)), axis=1)[:, :2],
    "one_takes_all": np.full((40, 2), 3),
    "some_take_none": RNG.choice([0, 4], (40, 2)),
    "outside": RNG.integers(-2, 8, (40, 2)),
}


def expected(params: Any, ids: np.ndarray) -> np.ndarray:
    """Row by row, in float64; an index outside gives zeros."""
    x, p = X.astype(np.float64), {n: np.asarray(params[n], np.float64) for n in params}
    score, out = x @ p["router"], np.zeros((40, 16))
    for n in range(40):
        chosen = np.array([score[n, e] if 0 <= e < 5 else 0.0 for e in ids[n]])
        gate = np.exp(chosen - chosen.max())
        for g, e in zip(gate / gate.sum(), ids[n]):
            if 0 <= e < 5:
                h = x[n] @ p["up"][e]
                out[n] += g * ((h / (1 + np.exp(-h))) @ p["down"][e])
    return out


def products(program: Any) -> list[ops.Contract]:
    return [op for op in program.entry_block.operations if isinstance(op, ops.Contract)]


@pytest.mark.parametrize("name", CHOICES)
def test_every_routing(name: str) -> None:
    model = dslc.load(MOE.replace("ids[tokens, chosen]: int32", "who[tokens, chosen]: int32").replace("    score", "    ids = who + 0\n    score"))
    ids = CHOICES[name].astype(np.int32)
    got = dslc.compile(model, target="cpu")(x=X, who=ids)["z"]
    np.testing.assert_allclose(got, expected(model.params, ids), atol=2e-6 * np.abs(got).max(), rtol=2e-5)


def test_on_the_emulator() -> None:
    model = dslc.load(MOE)
    ids = CHOICES["even"].astype(np.int32)
    got = dslc.compile(model, target="cuda-emulated:checked")(x=X, ids=ids)["z"]
    np.testing.assert_allclose(got, expected(model.params, ids), atol=2e-6 * np.abs(got).max(), rtol=2e-5)


def test_only_the_chosen_rows_are_multiplied() -> None:
    elaborated = lower(dslc.load(MOE), "run", target_of("cpu"), after="experts")
    with elaborated.context:
        shapes = [[type_of(v).shape for v in (*op.operands, op.results[0])] for op in products(program_of(elaborated.module))]
    b, blocks = block_rows(80, 5)
    assert (b, blocks) == (8, 14) and (80 + 5 * 7) // 8 == 14
    assert [(14, 8, 16), (14, 16, 24), (14, 8, 24)] in shapes and [(14, 8, 24), (14, 24, 16), (14, 8, 16)] in shapes


SEPARATE = MOE[MOE.index("    y[n, r, d]") : MOE.index("    output")]
AT_ONCE = ("sum[r, k](gate[n, r] * h[n, r, k] * down[ids[n, r], k, d])", "sum[r, k](down[ids[n, r], k, d] * h[n, r, k]) / chosen")


@pytest.mark.parametrize("sum", AT_ONCE, ids=["weighted", "plain"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_all_choices_of_a_row_in_one_sum(sum: str, precision: str) -> None:
    """A product with the choices among its terms is one of the chosen rows too, whose results are added in float32."""
    model = dslc.load(MOE.replace(SEPARATE, f"    z[n, d] = {sum}\n"), precision=precision)
    elaborated = lower(model, "run", target_of("cpu"), after="experts")
    with elaborated.context:
        shapes = [[type_of(v).shape for v in (*op.operands, op.results[0])] for op in products(program_of(elaborated.module))]
    assert [(14, 8, 24), (14, 24, 16), (14, 8, 16)] in shapes
    ids = CHOICES["some_take_none"].astype(np.int32)
    losses = [dslc.Trainer(dslc.load(MOE.replace(SEPARATE, f"    z[n, d] = {sum}\n"), precision=precision), target=t).step(x=X, ids=ids)
              for t in ("cpu", "reference")]  # fmt: skip
    assert losses[0] == pytest.approx(losses[1], rel=1e-5 if precision == "float32" else 0.02)
    if precision == "float32" and "gate" in sum:
        got = dslc.compile(model, target="cpu")(x=X, ids=ids)["z"]
        np.testing.assert_allclose(got, expected(model.params, ids), atol=2e-6 * np.abs(got).max(), rtol=2e-5)


def test_matrices_are_read_where_they_lie() -> None:
    elaborated = lower(dslc.load(MOE), "run", target_of("cpu"))
    with elaborated.context:
        kernels = [op for op in program_of(elaborated.module).entry_block.operations if op.operation.name == "nn.kernel"]
        largest = max(type_of(r).size for op in kernels for r in op.results)
        assert largest == 14 * 8 * 24  # a matrix for each block would be 14 * 16 * 24
        assert sum(op.kind == "scatter" for op in kernels) == 1  # both layers go the same way


def test_a_step_is_the_oracles() -> None:
    ids = CHOICES["some_take_none"].astype(np.int32)
    after = {}
    for target in ("cpu", "reference"):
        model = dslc.load(MOE)
        before = {n: np.array(model.params[n]) for n in model.params}
        dslc.Trainer(model, target=target).step(x=X, ids=ids)
        after[target] = {n: np.asarray(model.params[n]) - before[n] for n in model.params}
    for name, step in after["reference"].items():
        np.testing.assert_allclose(after["cpu"][name], step, atol=1e-5 * max(np.abs(step).max(), 1e-3))
    assert not after["cpu"]["up"][1].any() and after["cpu"]["up"][0].any() and after["cpu"]["router"].any()


def test_decoding_knows_rows_by_their_time() -> None:
    model = dslc.load(GPT)
    prompt = [[1, 5, 2], [7, 7, 3]]
    texts = generate(decoder_of(model, "cpu"), prompt, 6, Sampling("greedy"))
    oracle = dslc.compile(model, target="reference")
    for text, start in zip(texts, prompt):
        now = list(start)
        while len(now) < 9:
            rows = np.zeros((2, 10), np.int32)
            rows[0, : len(now)] = now
            now.append(int(oracle(tokens=rows)["logits"][0, len(now) - 1].argmax()))
        assert list(text)[-6:] == now[-6:]


@pytest.mark.parametrize(("rows", "choices", "b", "blocks"), [(1, 8, 1, 1), (2, 8, 1, 2), (512, 8, 16, 39), (65536, 8, 64, 1031), (7, 1, 8, 1)])
def test_blocks_hold_every_routing(rows: int, choices: int, b: int, blocks: int) -> None:
    assert block_rows(rows, choices) == (b, blocks)
    worst = min(rows, choices - 1) + -(-max(rows - min(rows, choices - 1), 0) // b)  # all but one choice have one row each
    assert worst <= blocks and blocks <= rows


@pytest.mark.parametrize("body", [
    "    y[n, m] = sum[d](x[n, d] * w[ids[n], d, m // 4])",  # the product's columns are a view's
    "    y[n, m] = sum[d](w[ids[n], d, m] * x[n, d]) + sum[d](w[ids[m % 20], d, n % 8] * x[n, d])",
    "    y[n, m] = sum[k, d](where(k == ids[n], w[k, d, m], 0) * x[n, d])",
], ids=["view", "no_batch", "condition"])  # fmt: skip
def test_other_forms_are_right(body: str) -> None:
    head = "model M:\n    input x[20, 16], ids[20]: int32\n    param w[6, 16, 32] ~ normal()\n"
    text = head + body.replace("y[n, m]", "y[n, m < 32]") + "\n    output y\n"
    model = dslc.load(text)
    ids = RNG.integers(0, 6, 20).astype(np.int32)
    got, want = (dslc.compile(model, target=t)(x=X[:20], ids=ids)["y"] for t in ("cpu", "reference"))
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_far_choices_are_outside() -> None:
    """A choice of 64 bits that int32 does not hold is no other choice, wherever the gather comes from."""
    w, x = RNG.standard_normal((5, 16, 24)), RNG.standard_normal((40, 16))
    ids = np.where(np.arange(40) % 3 == 0, 2**32 + 1, RNG.integers(0, 5, 40))
    with context(), ir.Location.unknown():
        module = ir.Module.create()
        slots = [Slot(k, "input", TensorType(dtypes.of_numpy(a.dtype), a.shape)) for k, a in {"w": w, "x": x, "ids": ids}.items()]
        program = start_program(module, "main", slots)
        with ir.InsertionPoint(program.entry_block):
            table, rows, chosen = program.entry_block.arguments
            y = ops.contract(rows, ops.Gather.of(table, chosen, batch=0, outside=0.0), [0, 1], [0, 1, 2], [0, 2])
        finish_program(program, [(Slot("y", "output", type_of(y)), y)])
        Experts().run(module)
        assert any(isinstance(op, ops.Scatter) for op in program.entry_block.operations)
        got = reference.run(module, {"w": w, "x": x, "ids": ids})["y"]
    wanted = np.array([row @ w[i] if i < 5 else np.zeros(24) for row, i in zip(x, ids)])
    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)
