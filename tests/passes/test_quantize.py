"""precision int8: weights of matrix products in 8 bits, against numpy's own and the float64 oracle; where they lie, and what does not take them."""

from __future__ import annotations

import numpy as np
import pytest

import dslc
from dslc.compiled import decoder_of
from dslc.compiler import compile_program, lower
from dslc.core.errors import Error
from dslc.core.executable import from_bytes
from dslc.ir import ops
from dslc.ir.program import program_of
from dslc.ir.types import type_of
from dslc.passes.notes import notes_of
from dslc.runtime.generation import generate
from dslc.runtime.sampling import Sampling
from dslc.targets import target_of

LINEAR = """
model M:
    input   x[9, 40]
    param   w[40, 3, 11] ~ normal()
    y[n, h, o] = sum[i](x[n, i] * w[i, h, o])
    output  y
"""
GPT = """
model M:
    dims    batch=1, time=12
    input   tokens[batch, time]: int32
    input   targets[batch, time]: int32
    emb = use embedding(17, 32)
    h = emb(tokens)
    repeat 2:
        h = h + self_attention(rmsnorm(h), 4, causal=true)
        h = h + swiglu(rmsnorm(h), hidden=64)
    logits[b, t, v] = sum[d](rmsnorm(h)[b, t, d] * emb.table[v, d])
    output  logits
    loss    cross_entropy(logits, targets)
train:
    optimizer sgd(lr=0.1)
    steps 1
"""
RNG = np.random.default_rng(0)
X = RNG.standard_normal((9, 40)).astype(np.float32)
TOKENS = {"tokens": RNG.integers(0, 17, (1, 12)).astype(np.int32), "targets": RNG.integers(0, 17, (1, 12)).astype(np.int32)}


def dtypes_of_products(text: str, program: str = "run") -> list[str]:
    """What the right or left operand of each product is made from."""
    elaborated = lower(dslc.load(text, precision="int8"), program, target_of("reference"))
    with elaborated.context:
        found = [op for op in program_of(elaborated.module).entry_block.operations if isinstance(op, ops.Contract)]
        sources = [[v.owner.opview.x for v in op.operands if isinstance(getattr(v.owner, "opview", None), ops.Cast)] for op in found]
        return [str(type_of(s[0]).dtype) if s else "float32" for s in sources]


@pytest.mark.parametrize("target", ["reference", "cpu", "cuda-emulated:checked"])
def test_weights_are_rounded_by_channel(target: str) -> None:
    model = dslc.load(LINEAR, precision="int8")
    w = RNG.standard_normal((40, 3, 11)).astype(np.float32) * np.geomspace(1e-3, 1e3, 11, dtype=np.float32)
    w[:, 1, 4] = 0  # a channel without any weight
    model.params["w"] = w
    scale = np.abs(w).max(0) / np.float32(127)
    q = np.round(w / np.where(scale == 0, 1, scale))
    assert q.min() == -127 and q.max() == 127
    expected = np.einsum("ni,iho->nho", X.astype(np.float64), q.astype(np.float64)) * scale
    got = dslc.compile(model, target=target)(x=X)["y"]
    size = np.einsum("ni,iho->nho", np.abs(X), np.abs(q)) * scale  # 40 roundings of partial sums, each half a unit
    assert (np.abs(got - expected) <= 44 * 2.0**-24 * size).all()
    exact = np.einsum("ni,iho->nho", X.astype(np.float64), w)
    assert (np.abs(got - exact) <= 0.51 * scale * np.abs(X).sum(1)[:, None, None] + 1e-30).all()  # each weight is off by half a step at most
    assert np.abs(got - exact).max() > 0


def test_a_network_is_the_oracles() -> None:
    model = dslc.load(GPT, precision="int8")
    logits, oracle = (dslc.compile(model, target=t)(tokens=TOKENS["tokens"])["logits"] for t in ("cpu", "reference"))
    whole = dslc.compile(dslc.load(GPT), target="reference")(tokens=TOKENS["tokens"])["logits"]
    np.testing.assert_allclose(logits, oracle, atol=1e-5 * np.abs(oracle).max())
    assert 1e-4 < np.abs(oracle - whole).max() / np.abs(whole).max() < 0.05


def test_which_products_take_them() -> None:
    found = dtypes_of_products(GPT)
    assert found.count("int8") == 2 * (4 + 3) + 1  # the projections, the head; not the scores, nor the sums of values
    assert found.count("float32") == 2 * 2
    kept = GPT.replace("    logits[", "    with precision(float32):\n      logits[")
    assert dtypes_of_products(kept).count("int8") == 14


def test_a_part_alone() -> None:
    text = LINEAR.replace("    y[n", "    z = linear(x, 5)\n    with precision(int8):\n      y[n").replace("output  y", "output  y, z")
    elaborated = lower(dslc.load(text), "run", target_of("reference"))
    with elaborated.context:
        assert notes_of(elaborated.module, "precision") == ["line 7: contract in int8: the weights of a matrix product, which is float32"]


def test_what_is_kept_are_bytes() -> None:
    executable = compile_program(dslc.load(GPT, precision="int8"), "decode", "cpu")
    made = [p for p in from_bytes(executable.prepare).ports if p.role == "state" and p.name.startswith("prepared")]
    weights = sum(p.bytes for p in made if str(p.dtype) == "int8")
    assert weights == 2 * (4 * 32 * 32 + 3 * 32 * 64) + 17 * 32
    assert all(str(p.dtype) in ("int8", "float32") for p in made) and sum(p.bytes for p in made) - weights < 4 * 2 * 8 * 64
    casts = [k.name for k in executable.kernels if "cast" in k.name]
    assert casts == [], "no kernel but the products makes floats of them"


def test_a_decoder_says_what_whole_sequences_say() -> None:
    model = dslc.load(GPT, precision="int8")
    prompt = [[3, 1, 4, 1, 5]]
    tokens = generate(decoder_of(model, "cpu"), prompt, 7, Sampling("greedy"))[0]
    program, text = dslc.compile(model, target="reference"), prompt[0][:]
    while len(text) < 12:
        padded = np.array([text + [0] * (12 - len(text))], np.int32)
        text.append(int(program(tokens=padded)["logits"][0, len(text) - 1].argmax()))
    assert list(tokens)[-7:] == text[-7:]


def test_results_follow_the_parameters() -> None:
    model = dslc.load(LINEAR, precision="int8")
    program = dslc.compile(model, target="cpu")
    before = program(x=X)["y"]
    model.params["w"] = 2 * model.params["w"]
    np.testing.assert_array_equal(program(x=X)["y"], 2 * before)


def test_evaluation_has_the_same_weights() -> None:
    model = dslc.load(GPT, precision="int8")
    run, held = dslc.compile(model, target="cpu"), dslc.compile(model, target="cpu", program="eval")
    np.testing.assert_allclose(held(**TOKENS)["logits"], run(tokens=TOKENS["tokens"])["logits"], atol=1e-5)


PART = "    with precision(int8): q = linear(rmsnorm(tokens * 1.0), 3)\n    emb = "


@pytest.mark.parametrize("text", [GPT + "    precision int8\n", GPT.replace("    emb = ", PART)], ids=["all", "part"])
def test_it_does_not_train(text: str) -> None:
    with pytest.raises(Error, match="weights in int8 cannot be trained"):
        dslc.Trainer(dslc.load(text), target="cpu")


def test_a_train_key_counts_without_a_train_block() -> None:
    elaborated = lower(dslc.load(LINEAR, precision="bfloat16"), "run", target_of("reference"))
    with elaborated.context:
        assert any("bfloat16" in line for line in notes_of(elaborated.module, "precision"))
