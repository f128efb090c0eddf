"""incrementalize: for every causal construct, prefill and decode give what the whole window gives; models that are not causal name the line."""

from __future__ import annotations

import numpy as np
import pytest

import dslc
from dslc.compiled import load_executable, program_of
from dslc.compiler import compile_program
from dslc.core import dtypes
from dslc.core.errors import UnsupportedOp
from dslc.ir import ops, reference
from dslc.ir.mlir import ir
from dslc.ir.op import context
from dslc.ir.program import Slot, finish_program, start_program
from dslc.ir.types import TensorType, type_of
from dslc.model import Model
from dslc.passes.incrementalize import _order

MODEL = """model M:
    dims    batch=3, time=12
    let     vocab=11, width=8
    input   tokens[batch, time]: int32
    emb = use embedding(vocab, width)
    x = emb(tokens)
{body}
    logits = linear(x, vocab)
    output  logits
generate:
    over time from logits greedy()
"""

ATTEND = """    s[b, i, j] = {score}
    p[b, i, j] = softmax[j](s[b, i, j])
    y[b, i, d] = sum[j](p[b, i, j] * x[b, j, d])
    x = y"""
DOT = "sum[d](x[b, i, d] * x[b, j, d])"

CAUSAL = {
    "learned positions": "    x = x + positions(time, width)\n    x = x + self_attention(rmsnorm(x), 2, causal=true)",
    "sinusoidal": "    x = x + sinusoidal_positions(time, width)\n    x = x + self_attention(x, 2, causal=true)",
    "window": "    repeat 2:\n        x = x + self_attention(x, 2, causal=true, window=4)",
    "grouped": "    x = x + self_attention(x, 4, kv_heads=2, causal=true)\n    x = x + self_attention(x, 4, kv_heads=1, causal=true)",
    "rotary": "    repeat 2:\n        x = x + self_attention(layernorm(x), 2, causal=true, rotate=true)",
    "alibi": ATTEND.format(score=f"where(j <= i, {DOT} - 0.1 * (i - j), -inf)"),
    "relative table": "    param r[23] ~ normal(1.0)\n" + ATTEND.format(score=f"where(j <= i, {DOT} + r[i - j + 11], -inf)"),
    "additive mask": ATTEND.format(score=f"{DOT} + where(j <= i, 0, -inf)"),
    "dilated": ATTEND.format(score=f"where(j <= i and (i - j) % 3 == 0, {DOT}, -inf)"),
    "softmax by hand": f"""    s[b, i, j] = where(j <= i, {DOT}, -inf)
    m[b, i] = max[j](s[b, i, j])
    e[b, i, j] = exp(s[b, i, j] - m[b, i])
    y[b, i, d] = sum[j](e[b, i, j] / sum[k](e[b, i, k]) * x[b, j, d])
    x = y""",
    "retention": f"""    s[b, i, j] = {DOT} * where(j <= i, 0.9 ** float32(i - j), 0)
    y[b, i, d] = sum[j](s[b, i, j] * x[b, j, d])
    x = y""",
    "linear attention by sums": """    kv[b, t, c, d] = x[b, t, c] * x[b, t, d]
    total[b, t, c, d] = cumsum[t](kv[b, t, c, d])
    y[b, t, d] = sum[c](x[b, t, c] * total[b, t, c, d])
    x = y""",
    "finite mask": ATTEND.format(score=f"where(j <= i and j > i - 4, {DOT}, -1e9) / sqrt(8)"),
    "finite mask, scaled far": ATTEND.format(score=f"where(j <= i, {DOT}, -1e9) * 0.001"),
    "finite mask added": ATTEND.format(score=f"{DOT} + (1 - where(j <= i, 1, 0)) * -10000"),
    "cumulative": "    x[b, t, d] = cumsum[t](x[b, t, d])\n    x[b, t, d] = cumprod[t](1 + 0.1 * x[b, t, d])",
    "rnn": "    x = rnn(x, 8)",
    "lstm": "    repeat 2:\n        x = lstm(x, 8)",
    "gru": "    x = gru(x, 8)",
    "state space": """    param a[width] ~ normal(1.0)
    scan t < time carry h[b < batch, d < width] = 0:
        h[b, d] = sigmoid(a[d]) * h[b, d] + x[b, t, d]
        emit y[b, t, d] = h[b, d] * x[b, t, d]
    x = y""",
    "token shift": "    y[b, t, d] = x[b, t, d] + 0.5 * x[b, t-1, d]\n    z[b, t, d] = y[b, t, d] + y[b, t-2, d]\n    x = z",
    "window of a sum": "    param w[3, width, width] ~ normal(1.0)\n    y[b, t < time, e] = sum[u, d](x[b, t-u, d] * w[u, d, e])\n    x = y",
    "conv1d": """    c[b, d, t] = x[b, t, d]
    e = conv1d(c, 8, kernel=3, pad=2)
    y[b, t < time, d] = e[b, d, t]
    x = y""",
    "mixed": "    x = lstm(x, 8)\n    x = x + self_attention(x, 2, causal=true, window=3, rotate=true)\n    x = swiglu(x, hidden=16)",
}  # fmt: skip

AHEAD = {
    "mask that is not low enough": (ATTEND.format(score=f"where(j <= i, {DOT}, -100)"), "a sum over time", "M.dsl:9"),
    "mask scaled away": (ATTEND.format(score=f"where(j <= i, {DOT}, -10000) * 0.001"), "a sum over time", "M.dsl:9"),
    "mask scaled away in two steps": (ATTEND.format(score=f"where(j <= i, {DOT}, -10000) / 32 / 32"), "a sum over time", "M.dsl:9"),
    "mask divided away": (ATTEND.format(score=f"where(j <= i, {DOT}, -10000) / 1000"), "a sum over time", "M.dsl:9"),
    "attention without a mask": ("    x = x + self_attention(x, 2)", "a sum over time", "attention.dsl"),
    "mean": ("    y[b, d] = mean[t](x[b, t, d])\n    z[b, t, d] = x[b, t, d] + y[b, d]\n    x = z", "every position", "M.dsl:7"),
    "next token": ("    y[b, t < time, d] = x[b, t+1, d]\n    x[b, t, d] = x[b, t, d] * y[b, t, d]", "1 positions ahead", "M.dsl:7"),
    "reversed scan": ("    x = bidirectional(x, 8)", "", ""),
    "upper triangle": (
        "    m[i < time, j < time] = where(j >= i, 1, 0)\n    y[b, i, d] = sum[j](m[i, j] * x[b, j, d])\n    x = y",
        "every position",
        "M.dsl:8",
    ),
    "best position": (
        "    a[b, i < time] = argmax[j](where(j <= i + 1, x[b, j, 0], -inf))\n    x[b, t, d] = x[b, t, d] + a[b, t]",
        "every position",
        "M.dsl:7",
    ),
    "sort over time": ("    o[b, t, d] = argsort[t](x[b, t, d])\n    x[b, t, d] = x[b, t, d] + o[b, t, d]", "a sort over time", "M.dsl:7"),
    "mask that lets one ahead": (ATTEND.format(score=f"where(j <= i + 1, {DOT}, -inf)"), "a sum over time", "M.dsl:9"),
}


def model_of(body: str, batch: int = 3) -> Model:
    return dslc.load(MODEL.format(body=body), batch=batch)


def differences(model: Model, target: str) -> tuple[float, float, float]:
    """Largest differences to the whole window: of the prefill, of steps after it, of steps from the first position over used caches."""
    run = program_of(model, "run", target)
    store = model.params.beside()
    prefill, decode = (load_executable(compile_program(model, name, target)) for name in ("prefill", "decode"))
    for program in (prefill, decode):
        store.extend(program.executable.ports)
        program.bind(store)
    batch, time = next(p.shape for p in run.executable.ports_of("input"))
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 11, (batch, time)).astype(np.int32)
    full, rows = run({"tokens": tokens})["logits"], np.arange(batch)

    def step(position: np.ndarray) -> float:
        found = decode({"tokens": tokens[rows, position][:, None], "position": position})["logits"]
        return float(np.abs(found - full[rows, position]).max())

    lengths = np.arange(batch) * 2 + 3
    last = (lengths - 1).astype(np.int32)
    first = prefill({"tokens": tokens, "position": last})["logits"]
    after = max(step((lengths + k).astype(np.int32)) for k in range(time - int(lengths.max())))
    again = max(step(np.full(batch, k, np.int32)) for k in range(time))
    return float(np.abs(first - full[rows, last]).max()), after, again


@pytest.mark.parametrize("name", CAUSAL)
def test_reference_rows_are_those_of_the_window(name: str) -> None:
    assert max(differences(model_of(CAUSAL[name]), "reference")) < 1e-6


@pytest.mark.parametrize("name", ["learned positions", "window", "lstm", "conv1d", "cumulative", "mixed"])
@pytest.mark.parametrize("batch", [1, 3])
def test_native_rows_are_those_of_the_window(name: str, batch: int) -> None:
    assert max(differences(model_of(CAUSAL[name], batch), "cpu")) < 1e-5


@pytest.mark.parametrize("name", AHEAD)
def test_what_looks_ahead_is_named(name: str) -> None:
    body, message, place = AHEAD[name]
    with pytest.raises(UnsupportedOp) as caught:
        compile_program(model_of(body), "decode", "reference")
    assert message in caught.value.message
    assert caught.value.spans and place.replace("M.dsl", "") in str(caught.value.spans[0])


def test_a_bounded_mask_gets_a_cache_of_its_window() -> None:
    ports = compile_program(model_of(CAUSAL["window"]), "decode", "reference").ports_of("state")
    assert [p.shape for p in ports] == [(3, 2, 3, 4)] * 4


def test_sums_over_time_by_a_matrix_keep_what_it_reaches() -> None:
    """A band of three needs two earlier rows, a triangle all; one that no query carries is found by its mask alone."""
    body = """    m[i < time, j < time] = where(0 <= i - j < 3, 0.5 ** max(i - j, 0), 0)
    y[b, i, d] = sum[j](m[i, j] * x[b, j, d])
    n[b, i < time, d] = sum[j](where(j <= i, y[b, j, d], 0))
    x = x + n"""
    ports = compile_program(model_of(body), "decode", "reference").ports_of("state")
    assert sorted(p.shape for p in ports) == [(3, 2, 8), (3, 12, 8)]
    assert max(differences(model_of(body), "reference")) < 1e-6


def test_grouped_keys_are_kept_before_they_are_repeated() -> None:
    ports = compile_program(model_of(CAUSAL["grouped"]), "decode", "reference").ports_of("state")
    assert [p.shape for p in ports] == [(3, 2, 12, 2), (3, 2, 12, 2), (3, 12, 2), (3, 12, 2)]


def test_of_a_common_projection_keys_and_values_alone_are_kept() -> None:
    """In the order of the projection's axes, so that a step's row lies in one piece."""
    body = """    param w[width, 3, 2, 4] ~ normal(0.3)
    z[s, b, h, t, c] = sum[d](x[b, t, d] * w[d, s, h, c])
    s[b, h, i, j] = where(j <= i, sum[c](z[0, b, h, i, c] * z[1, b, h, j, c]), -inf)
    p[b, h, i, j] = softmax[j](s[b, h, i, j])
    o[b, h, i, c] = sum[j](p[b, h, i, j] * z[2, b, h, j, c])
    x[b, t, d] = x[b, t, d] + sum[h, c](o[b, h, t, c] * w[d, 0, h, c])"""
    ports = compile_program(model_of(body), "decode", "reference").ports_of("state")
    assert [p.shape for p in ports] == [(3, 2, 12, 4), (3, 2, 12, 4)]


def test_views_are_split_only_where_each_axis_moves_by_itself() -> None:
    """A slice that permutes becomes a slice and a transpose; a diagonal, which takes two axes along one, stays."""
    wide = TensorType(dtypes.FLOAT32, (2, 5, 5, 4))
    with context(), ir.Location.unknown():
        module = ir.Module.create()
        made = start_program(module, "main", [Slot("x", "input", wide)])
        with ir.InsertionPoint(made.entry_block):
            x = made.entry_block.arguments[0]
            turned = ops.view(x, [[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]], [1, 0, 0, 0], (4, 5, 5))
            diagonal = ops.view(x, [[0, 0], [0, 1], [0, 1], [1, 0]], [1, 0, 0, 0], (4, 5))
        finish_program(made, [(Slot("a", "output", type_of(turned)), turned), (Slot("b", "output", type_of(diagonal)), diagonal)])
        given = {"x": np.random.default_rng(0).standard_normal(wide.shape)}
        before = reference.run(module, given)
        _order(made.entry_block)
        after = reference.run(module, given)
    assert len(list(made.entry_block.operations)) == 4
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)


def test_prefill_and_decode_have_the_same_caches() -> None:
    model = model_of(CAUSAL["mixed"])
    prefill, decode = (compile_program(model, name, "reference").ports_of("state") for name in ("prefill", "decode"))
    assert [(p.name, p.shape, p.dtype) for p in prefill] == [(p.name, p.shape, p.dtype) for p in decode]


def test_a_network_of_many_layers_is_made_a_step() -> None:
    """Positions are followed from the output to the inputs: that goes deeper than Python's own limit of 1,000 calls."""
    model = model_of("    repeat 400:\n        x = x + tanh(x)")
    assert [p.shape for p in compile_program(model, "decode", "reference").ports_of("output")] == [(3, 11)]
