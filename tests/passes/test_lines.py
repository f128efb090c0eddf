"""Weights of products of many rows are laid out once, in lines of columns, and the products are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dslc
from dslc.backend_cpu import gemm
from dslc.compiler import compile_anew, compile_program, lower
from dslc.core.executable import from_bytes
from dslc.targets import target_of

MANY = """
model M:
    input  x[40, 24], p[3, 20, 18]
    param  w[24, 48], tied[63, 24], heads[24, 2, 16], each[3, 18, 47], few[24, 5] ~ normal()
    a[n, j] = gelu(sum[k](x[n, k] * w[k, j]))
    b[n, j] = sum[k](x[n, k] * tied[j, k])
    c[h, n, d] = sum[k](x[n, k] * heads[k, h, d])
    d[g, n, j] = sum[k](p[g, n, k] * each[g, k, j])
    e[n, j] = sum[k](x[n, k] * few[k, j])
    again[n, j] = sum[k](sin(x[n, k]) * w[k, j])
    output a, b, c, d, e, again
    loss   mean(a)
train:
    optimizer  sgd(lr=0.1)
    steps      2
"""
RNG = np.random.default_rng(0)
INPUTS = {"x": RNG.standard_normal((40, 24)).astype(np.float32), "p": RNG.standard_normal((3, 20, 18)).astype(np.float32)}


def kept(text: str, program: str = "run", target: str = "cpu") -> list[tuple[int, ...]]:
    """The shapes that are prepared."""
    executable = compile_program(dslc.load(text), program, target)
    ports = from_bytes(executable.prepare).ports_of("state") if executable.prepare else []
    return sorted({p.name: p.shape for p in ports}.values())


def copies(text: str) -> int:
    """How many values the pass lays out."""
    return str(lower(dslc.load(text), "run", target_of("cpu"), after="lines").module).count("nn.stop_gradient")


def agree(text: str) -> None:
    """The program gives what the reference does, for its one input."""
    model = dslc.load(text)
    x = RNG.standard_normal(model.inputs[0][1]).astype(np.float32)
    got, expected = (dslc.compile(model, target=t)(x=x) for t in ("cpu", "reference"))
    for name, value in expected.items():  # each sum's terms are rounded by 2**-24 of their size, some 200 at most
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-5 * max(1.0, float(np.abs(value).max())), err_msg=name)


def product(rows: int, weights: str, read: str, more: str = "") -> str:
    return f"model M:\n    {more}input x[{rows}, 32]\n    param w[{weights}] ~ normal()\n    y[n, j] = sum[k](x[n, k] * w[{read}])\n    output y\n"


def test_the_products_are_right_and_follow_their_parameters() -> None:
    model = dslc.load(MANY)
    programs = [dslc.compile(model, target=t) for t in ("cpu", "reference")]
    for _ in range(2):
        got, expected = (p(**INPUTS) for p in programs)
        for name, value in expected.items():  # 24 products of at most 4 by 4, rounded each, and a sum of them
            np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=2e-5, err_msg=name)
        for name in model.params:
            model.params[name] = model.params[name] * 0.5 - 0.1


def test_what_is_kept() -> None:
    """Weights of many rows, each once, with little padding: 5 columns would be 16. `w` is read by two products."""
    assert kept(MANY) == [(1, 2, 24, 16), (1, 3, 24, 16), (1, 4, 24, 16), (3, 3, 18, 16)]
    assert kept(product(16, "32, 48", "k, j")) == [(1, 3, 32, 16)]
    assert kept(product(16, "32, 270", "k, j")) == [(1, 17, 32, 16)]


def test_what_is_laid_out() -> None:
    """Copies that the pass makes: none of what each run would lay out again, or of what no run multiplies."""
    assert copies(MANY) == 4
    assert copies(product(16, "32, 48", "k, j").replace("param w[32, 48] ~ normal()", "input w[32, 48]")) == 0
    assert copies(product(16, "32, 5", "k, j")) == 0  # 11 of 16 columns would be padding
    assert copies(product(16, "32, 0", "k, j")) == 0
    integers = (
        product(16, "32, 48", "k, j").replace("x[16, 32]", "x[16, 32]: int32").replace("param w[32, 48] ~ normal()", "state w[32, 48]: int32 = 1")
    )
    assert copies(integers) == 0


def test_weights_that_are_kept_anyway_are_laid_out_for_any_rows() -> None:
    """Of parameters as they are a copy would be one more, and the packing a small part of such a product."""
    assert copies(product(2000, "32, 48", "k, j")) == 0
    scaled = product(2000, "32, 48", "k, j", "param s[48] ~ normal()\n    ").replace("w[k, j])", "w[k, j]) * s[j]")
    assert copies(scaled) == 1 and kept(scaled) == [(1, 3, 32, 16)]
    agree(scaled)


def test_weights_of_one_column_each_lie_side_by_side() -> None:
    """Term after term for all products, so that their vectors are loaded; once where they lie so already."""
    text = "model M:\n    input x[20, 30, 40]\n    param w[40, 30] ~ normal()\n    y[n, g] = sum[k](x[n, k, g] * w[g, k])\n    output y\n"
    assert copies(text) == 1 and kept(text) == [(30, 40)]
    agree(text)
    assert copies(text.replace("w[40, 30]", "w[30, 40]").replace("w[g, k]", "w[k, g]")) == 0
    assert copies(text.replace("x[20", "x[15")) == 0


def test_a_product_of_parameters_alone_is_laid_out_itself() -> None:
    made = product(16, "32, 48", "k, j").replace("    y[n", "    param u[48, 64] ~ normal()\n    v[k, j] = sum[l](w[k, l] * u[l, j])\n    y[n")
    made = made.replace("w[k, j])", "v[k, j])")
    assert copies(made) == 1 and kept(made) == [(1, 4, 32, 16)]
    agree(made)


def test_weights_that_are_read_both_ways_are_laid_out_for_each() -> None:
    both = product(16, "32, 48", "k, j").replace("output y", "z[n, k] = sum[j](y[n, j] * w[k, j])\n    output z")
    assert kept(both) == [(1, 2, 48, 16), (1, 3, 32, 16)]
    agree(both)


def test_weights_whose_axes_are_batches_and_columns_are_laid_out_for_each() -> None:
    text = "model M:\n    input x[3, 16, 32]\n    param w[3, 32, 48] ~ normal()\n    y[h, n, j] = sum[k](x[h, n, k] * w[h, k, j])\n"
    text += "    z[n, h, j] = sum[k](x[0, n, k] * w[h, k, j])\n    output y, z\n"
    assert copies(text) == 2 and kept(text) == [(1, 9, 32, 16), (3, 3, 32, 16)]
    agree(text)


def test_kernels_know_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """All products of MANY but that of five columns read them, whatever the order of the weights' axes was."""
    emitted, real = [], gemm.emit

    def emit(product: gemm.Product, *rest: Any) -> None:
        emitted.append(product.b.side.lines)
        real(product, *rest)

    monkeypatch.setattr(gemm, "emit", emit)
    compile_anew(dslc.load(MANY), "run", "cpu")
    assert sorted(emitted) == [False] + [True] * 5


@pytest.mark.parametrize("seed", range(6))
def test_any_products_agree(seed: int) -> None:
    """Batches, several axes a role, any order of axes, columns that fill no line."""
    rng = np.random.default_rng(seed)
    rows, heads, k, depth = (int(rng.integers(low, high)) for low, high in ((16, 60), (1, 4), (1, 40), (1, 4)))
    n = int(rng.choice([16, 31, 47, 48, 63, 95]))  # with little padding
    sizes = {"h": heads, "k": k, "j": n, "d": depth}
    axes = [str(a) for a in rng.permutation(["h", "k", "j", "d"])]
    weights = ", ".join(str(sizes[a]) for a in axes)
    batched = bool(rng.integers(2))  # heads: batches, or columns
    x, read = (f"x[{heads}, {rows}, {k}, {depth}]", "h, n, k, d") if batched else (f"x[{rows}, {k}, {depth}]", "n, k, d")
    line = f"y[h, n, j] = relu(sum[k, d](x[{read}] * w[{', '.join(axes)}]))"
    text = f"model M:\n    input {x}\n    param w[{weights}] ~ normal()\n    {line}\n    output y\n"
    assert copies(text) == 1
    agree(text)


def test_few_rows_read_weights_as_they_lie() -> None:
    assert kept(product(15, "32, 48", "k, j")) == []
    assert kept(product(4, "48, 32", "j, k")) == []
    assert kept(product(5, "48, 32", "j, k")) == [(1, 3, 32, 16)]


def test_only_programs_that_run_with_fixed_lengths_and_parameters_do_so() -> None:
    assert kept(MANY, "eval") == [] and kept(MANY, "step") == []
    assert kept(product(16, "32, 48", "k, j"), target="cuda:sm_90a") == []
    assert kept(product(1025, "32, 48", "k, j")) == []
    assert kept(product(16, "32, 48", "k, j", "dims rows<=16\n    ").replace("x[16,", "x[rows,")) == []


@pytest.mark.parametrize("precision", ["bfloat16", "float64"])
def test_other_floats(precision: str) -> None:
    if precision == "float64":
        text = product(40, "32, 48", "k, j").replace("x[40, 32]", "x[40, 32]: float64").replace("~ normal()", ": float64 ~ normal()")
        model = dslc.load(text)
    else:
        model = dslc.load(product(40, "32, 48", "k, j"), precision=precision)
    x = RNG.standard_normal((40, 32)).astype(np.float64 if precision == "float64" else np.float32)
    got, expected = (dslc.compile(model, target=t)(x=x)["y"] for t in ("cpu", "reference"))
    tolerance = 1e-13 if precision == "float64" else 2**-6  # bfloat16 rounds both operands, and the result, by 2**-9
    np.testing.assert_allclose(got.astype(np.float64), expected.astype(np.float64), rtol=tolerance, atol=30 * tolerance)


def test_large_results_go_past_the_caches() -> None:
    """8.5 MB, and one column fewer, which is no whole vectors and stays ordinary."""
    for columns in (1040, 1039):
        model = dslc.load(f"model M:\n    input x[2048, 8], w[8, {columns}]\n    y[n, j] = sum[k](x[n, k] * w[k, j]) + 1\n    output y\n")
        x, w = RNG.standard_normal((2048, 8)).astype(np.float32), RNG.standard_normal((8, columns)).astype(np.float32)
        np.testing.assert_allclose(dslc.compile(model, target="cpu")(x=x, w=w)["y"], x @ w + 1, rtol=1e-5, atol=2e-5)
