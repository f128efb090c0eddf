"""Streams of few rows: forms of attention of up to eight queries, and of a token with a cache, on the emulator against the float64 reference."""

from __future__ import annotations

import numpy as np
import pytest

import dslc
from dslc.backend_cuda import nvrtc
from dslc.backend_cuda.arch import arch_of
from dslc.backend_cuda.backend import Lowered, lower_plan
from dslc.backend_cuda.source import bundle
from dslc.compiler import compile_program, lower
from dslc.passes.plan import make_plan
from dslc.targets import TARGETS, target_of

emulated = pytest.mark.skipif(TARGETS["cuda-emulated"].missing() is not None, reason="needs g++ and NVIDIA's headers")
compiled = pytest.mark.skipif(nvrtc.missing() is not None, reason="needs NVRTC and NVIDIA's headers")

MODEL = """model Rows:
    dims    batch={batch}, heads={heads}, rows={rows}, keys={keys}, terms={terms}, width={width}
    input   q[batch, heads, rows, terms], k[batch, heads, keys, terms], v[batch, heads, keys, width]
    input   length[batch]: int32
{body}
    output  o
"""
SCORES = "    s[b, h, i, j] = sum[c](q[b, h, i, c] * k[b, h, j, c]) / 3\n"
WEIGHTED = "    o[b, h, i, d] = sum[j](p[b, h, i, j] * v[b, h, j, d])\n"
SIZES = {"batch": 2, "heads": 3, "rows": 1, "keys": 301, "terms": 24, "width": 24}
MASKED = SCORES + "    p[b, h, i, j] = softmax[j](where(j < length[b], s[b, h, i, j], -inf))\n" + WEIGHTED
FORMS = {
    "of_a_length": (MASKED, {}),
    "of_no_length": (SCORES + "    p[b, h, i, j] = softmax[j](s[b, h, i, j])\n" + WEIGHTED, {"rows": 2}),
    "eight_rows_that_look_back": (MASKED.replace("j < length[b]", "j <= length[b] + i"), {"rows": 8}),
    "a_window": (MASKED.replace("j < length[b]", "j < length[b] and j > length[b] - 40"), {"rows": 3}),
    "ragged_features": (MASKED, {"terms": 7, "width": 37, "rows": 3}),
    "wide_features": (MASKED, {"terms": 160, "width": 96}),
    "one_feature": (MASKED, {"width": 1, "rows": 2}),
    "difference": (
        SCORES + "    r[b, h, i, j] = sum[c](q[b, h, i, c] * k[b, h, j, c] * k[b, h, j, c])\n"
        "    p[b, h, i, j] = softmax[j](s[b, h, i, j]) - 0.3 * softmax[j](where(j < length[b], r[b, h, i, j], -inf))\n" + WEIGHTED, {}),
    "sigmoid": (SCORES + "    p[b, h, i, j] = where(j < length[b], sigmoid(s[b, h, i, j] - 3), 0)\n" + WEIGHTED, {"rows": 2}),
    "by_distance": (MASKED.replace("s[b, h, i, j], -inf", "s[b, h, i, j] - 0.05 * abs(j - length[b]), -inf"), {}),
}  # fmt: skip


def text_of(form: str, **sizes: int) -> str:
    body, own = FORMS[form]
    return MODEL.format(body=body.rstrip(), **(SIZES | own | sizes))


def inputs_of(model: dslc.Model, lengths: tuple[int, ...] = (0, 173)) -> dict[str, np.ndarray]:
    """Random operands; the first point of the batch has no key at all where lengths mask."""
    rng = np.random.default_rng(3)
    ports = {p.name: p for p in compile_program(model, "run", "reference").ports if p.role == "input"}
    given = {name: rng.normal(size=p.shape).astype(np.float32) for name, p in ports.items() if name != "length"}
    return given | ({"length": np.resize(np.array(lengths, np.int32), ports["length"].shape)} if "length" in ports else {})


def attention_of(model: dslc.Model, target: str) -> list[str]:
    return [k.symbol for launched in compile_program(model, "run", target).kernels for k in launched.each if k.kind == "attention"]


@emulated
@pytest.mark.parametrize("form", FORMS)
def test_same_as_reference(form: str) -> None:
    model = dslc.load(text_of(form))
    given = inputs_of(model)
    found, expected = (dslc.compile(model, target=target)(**given)["o"] for target in ("cuda-emulated:checked", "reference"))
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5 * float(np.abs(expected).max()))
    assert len(attention_of(model, "cuda-emulated:checked")) == 1 + 2 * (form == "difference")  # of each softmax the maximum and the sum, then both


@emulated
@pytest.mark.parametrize(("precision", "bound"), [("bfloat16", 2**-7), ("float16", 2**-10)])
def test_narrow_types(precision: str, bound: float) -> None:
    """Operands are rounded, weights and results too: a unit in the last place each, of sums of values about 1."""
    text = text_of("of_a_length", rows=2) + f"\ntrain:\n    precision {precision}\n    steps 1\n"
    model = dslc.load(text)
    given = inputs_of(model)
    found, expected = (dslc.compile(model, target=target)(**given)["o"] for target in ("cuda-emulated:checked", "reference"))
    np.testing.assert_allclose(found, expected, atol=3 * bound * float(np.abs(expected).max()))
    assert len(attention_of(model, "cuda-emulated:checked")) == 1


@emulated
def test_blocks_that_share_a_point() -> None:
    """Few points and many keys: two launches. Late blocks have nothing to do where the length ends before them."""
    model = dslc.load(text_of("of_a_length", batch=2, heads=1, keys=11000))
    executable = compile_program(model, "run", "cuda-emulated:checked")
    assert [k.symbol for k in executable.kernels if k.kind == "attention"] == ["k00_attention", "k00_attention_meet"]
    for lengths in ((0, 1), (700, 5000)):
        given = inputs_of(model, lengths)
        found, expected = (dslc.compile(model, target=target)(**given)["o"] for target in ("cuda-emulated:checked", "reference"))
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5 * float(np.abs(expected).max()))


@emulated
def test_only_what_the_length_needs_is_read() -> None:
    """What lies far behind the length is not even finite."""
    model = dslc.load(text_of("of_a_length", keys=2000))
    given = inputs_of(model, (90, 173))
    expected = dslc.compile(model, target="reference")(**given)["o"]
    for name in ("k", "v"):
        given[name][:, :, 600:] = np.nan
    found = dslc.compile(model, target="cuda-emulated:checked")(**given)["o"]
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5 * float(np.abs(expected).max()))


GPT = """layer attention(x[b, t, d], heads, groups):
    let    c = d // heads
    param  q[d, heads, c], k[d, groups, c], v[d, groups, c], proj[heads, c, d] ~ normal(std=0.3)
    z[b, h, t, c] = sum[d](x[b, t, d] * q[d, h, c])
    y[b, g, t, c] = sum[d](x[b, t, d] * k[d, g, c])
    w[b, g, t, c] = sum[d](x[b, t, d] * v[d, g, c])
    s[b, h, i, j] = sum[c](z[b, h, i, c] * y[b, h // (heads // groups), j, c]) / sqrt(size(c))
    p[b, h, i, j] = softmax[j](where(j <= i, s[b, h, i, j], -inf))
    o[b, h, i, c] = sum[j](p[b, h, i, j] * w[b, h // (heads // groups), j, c])
    return r[b, i, e] = sum[h, c](o[b, h, i, c] * proj[h, c, e])

model GPT:
    dims    batch={batch}, time=96
    let     vocab=31, width=32, depth=2
    input   x[batch, time]: int32
    param   wte[vocab, width], wpe[time, width] ~ normal()
    e[b, t, d] = wte[x[b, t], d] + wpe[t, d]
    repeat depth:
        e = e + attention(layernorm(e), 4, {groups})
    logits[b, t, v] = sum[d](e[b, t, d] * wte[v, d])
    output  logits

generate:
    over time from logits greedy()
"""


@emulated
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_token_with_a_cache(groups: int) -> None:
    """Greedy tokens of rows of different lengths, as the reference has them; a layer's attention is one launch."""
    model = dslc.load(GPT.format(batch=2, groups=groups))
    prompts = [[3, 1, 4], [1, 5, 9, 2, 6, 5]]
    made = {t: dslc.generate(model, tokens=prompts, steps=12, sample="greedy", target=t) for t in ("cuda-emulated:checked", "reference")}
    assert made["cuda-emulated:checked"] == made["reference"]
    kernels = [k for k in compile_program(model, "decode", "cuda-emulated:checked").kernels if k.kind == "attention"]
    assert kernels and not any("_part" in k.symbol for k in kernels)


def lowered(text: str, program: str, arch: str) -> Lowered:
    elaborated = lower(dslc.load(text), program, target_of(f"cuda:{arch}"))
    with elaborated.context, elaborated.location:
        return lower_plan(make_plan(elaborated.module), arch_of(arch))


@compiled
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_machine_code_without_a_spill(arch: str) -> None:
    """The largest that is admitted, one launch and two: nothing in local memory."""
    texts = [text_of("eight_rows_that_look_back", terms=64, width=64), text_of("wide_features", keys=9000, batch=1), text_of("difference", rows=4)]
    for text in texts:
        found = lowered(text, "run", arch).text
        parts = [t for s, t in found.functions if "attention" in s]
        assert parts
        for made in nvrtc.build([bundle(f"{found.prelude}\n{part}") for part in parts], arch):
            assert all(r.stack_bytes == 0 for r in made.kernels.values())


def test_training_keeps_scores_of_few_rows() -> None:
    """A gradient needs them: it reads what the forward pass wrote."""
    trained = "    param scale ~ ones()\n    loss mean(o * scale)\n\ntrain:\n    optimizer sgd(lr=1.0)\n    steps 1\n"
    symbols = [s for s, _ in lowered(text_of("of_a_length").replace("    output  o\n", trained), "step", "sm_90a").text.functions]
    assert symbols and not any("attention" in s for s in symbols)


LIMITED = """model Limited:
    input q[2, 1, 16], x[2, 80, 16], k[2, 96, 16], n[2]: {integer}, y[2, 80, 16]: bfloat16, z[2, 96, 16]: bfloat16
    s[b, i, j] = where(j + i <= n[b], sum[c](q[b, i, c] * k[b, j, c]), -inf)
    p[b, i, j] = softmax[j](s[b, i, j])
    output few[b, i, c] = sum[j](p[b, i, j] * k[b, j, c])
    t[b, i, j] = where(n[b] + i >= j, sum[c](x[b, i, c] * k[b, j, c]), -inf)
    u[b, i, j] = softmax[j](t[b, i, j])
    output many[b, i, c] = sum[j](u[b, i, j] * k[b, j, c])
    v[b, i, j] = where(j + i <= n[b], sum[c](float32(y[b, i, c]) * float32(z[b, j, c])), -inf)
    w[b, i, j] = softmax[j](v[b, i, j])
    output narrow[b, i, c] = sum[j](w[b, i, j] * float32(z[b, j, c]))
"""


@pytest.mark.parametrize("integer", ["int32", "int64"])
def test_limits_that_are_the_greatest_and_the_least_of_their_type(integer: str) -> None:
    """The end of the keys is a number that is read: where it is the greatest there is, no key is left out, and where it is the least, none is left
    and the results are 0."""
    model = dslc.load(LIMITED.format(integer=integer))
    random = np.random.default_rng(0)
    given = {p.name: random.standard_normal(p.shape).astype(p.dtype.numpy) for p in compile_program(model, "run", "reference").ports_of("input")}
    compiled = {target: dslc.compile(model, target=target) for target in ("reference", "cpu", "cuda-emulated")}
    most = np.iinfo(integer)
    for limits in ((most.max, 150), (most.min, 7)):
        given["n"] = np.array(limits, integer)
        expected, *found = (program(**given) for program in compiled.values())
        for name, value in expected.items():
            for one in found:
                np.testing.assert_allclose(one[name].astype(np.float64), value, rtol=1e-5, atol=1e-5, err_msg=f"{name} {limits}")
        assert expected["few"][0].any() == (limits[0] > 0)
