"""Streaming kernels on Hopper, from kernels that the pass makes of naive spellings: on the emulator, and compiled without a spill."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytest

import dslc
from dslc.backend_cuda import emulated, nvrtc
from dslc.backend_cuda.arch import ARCHS
from dslc.backend_cuda.kernels import attention_hopper, attention_mma, generate
from dslc.backend_cuda.source import bundle
from dslc.backend_cuda.stage import Generated, Request, request_of
from dslc.compiler import lower
from dslc.ir import ops
from dslc.ir.program import program_of
from dslc.ir.reference import run_region, widen
from dslc.ir.trace import Body
from dslc.runtime.drivers import emulator
from tests.passes.attention.test_attention import working

from . import products
from .test_attention_mma import SPECS, needs_emulator, needs_nvrtc, some, text_of
from .test_attention_mma import kernels_of as trained_kernels_of

HOPPER = ARCHS["sm_90a"]
# Weights are rounded by casts, as `precision bfloat16` has it in training.
TEXT = """model Attention:
    input   q[2, {heads}, {n}, {d}]: {dtype}, k[2, 2, {m}, {d}]: {dtype}, v[2, 2, {m}, {d}]: {dtype}
    input   g[2, {heads}, {n}, {d}]: {dtype}, bias[{heads}, {n}, {m}]
    s[b, h, i, j] = sum[c](float32(q[b, h, i, c]) * float32(k[b, h // {group}, j, c])) / sqrt(size(c))
    p[b, h, i, j] = softmax[j]({scores})
    o[b, h, i, c] = {dtype}(sum[j](p[b, h, i, j] * float32(v[b, h // {group}, j, c])))
    output  o
{gradient}
train:
    steps      1
    precision  {precision}
"""
TOLERANCES = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-10}  # in tf32 both sides round each factor to 11 bits, weights at two places
GRADIENT = """    along = sum(float32(o) * float32(g))
    output  dq = grad(along, q)
    output  dk = grad(along, k)
    output  dv = grad(along, v)
"""


@dataclass(frozen=True)
class Case:
    scores: str
    n: int
    m: int
    d: int
    dtype: str = "bfloat16"
    heads: int = 2
    rounded: bool = True
    gradient: bool = False

    def text(self) -> str:
        precision = "tf32" if self.dtype == "float32" else self.dtype
        text = TEXT.format(**vars(self) | {"group": self.heads // 2, "precision": precision, "gradient": GRADIENT if self.gradient else ""})
        return text if self.rounded else text.replace("float32(", "(").replace(f"    precision  {self.dtype}\n", "")


CAUSAL = "where(j <= i, s[b, h, i, j], -inf)"
CASES = {
    "causal": Case(CAUSAL, 200, 200, 64),
    "causal_wide": Case(CAUSAL, 300, 300, 128, "float16"),
    "bias": Case("s[b, h, i, j] + bias[h, i, j]", 150, 330, 128),
    "grouped": Case("where(j <= i, 30 * tanh(s[b, h, i, j] / 30), -inf)", 257, 257, 64, "float16", 4),
    "window": Case("where(j <= i and j > i - 70, s[b, h, i, j], -inf)", 390, 390, 64),
    "cross": Case("s[b, h, i, j]", 256, 384, 80),
    "not_rounded": Case(CAUSAL, 200, 200, 64, rounded=False),
    "gradient": Case(CAUSAL, 200, 200, 64, gradient=True),
    "gradient_wide": Case("s[b, h, i, j] + bias[h, i, j]", 150, 210, 128, "float16", gradient=True),
    "tf32_grouped": Case("where(j <= i, 30 * tanh(s[b, h, i, j] / 30), -inf)", 131, 131, 36, "float32", 4),
    "tf32_bias": Case("s[b, h, i, j] + bias[h, i, j]", 140, 268, 96, "float32"),
    "tf32_gradient": Case(CAUSAL, 140, 140, 64, "float32", gradient=True),
    "tf32_gradient_wide": Case("s[b, h, i, j]", 130, 140, 128, "float32", gradient=True),
}


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hopper's kernels in tf32 however small they are."""
    monkeypatch.setattr(attention_hopper, "pays", lambda *_: True)


@contextmanager
def kernels_of(text: str) -> Iterator[list[ops.Kernel]]:
    """The attention kernels of a model's program, while its module lives."""
    elaborated = lower(dslc.load(text), "run", working(0))
    with elaborated.context, elaborated.location:
        yield [op for op in program_of(elaborated.module).entry_block.operations if isinstance(op, ops.Kernel) and op.kind == "attention"]


Wanted = tuple[list[np.ndarray], list[np.ndarray], float]  # operands, expected results, tolerance


def made_of(cases: Mapping[str, Case], modules: ExitStack) -> list[tuple[Request, Generated, Wanted]]:
    """The attention kernels of some models, whose modules live as long as `modules`."""
    found = []
    for name, case in cases.items():
        kernels = modules.enter_context(kernels_of(case.text()))
        assert len(kernels) == (3 if case.gradient else 1)
        for n, kernel in enumerate(kernels):
            request = request_of(Body.of(kernel.regions[0].blocks[0]), HOPPER, f"{name}{n}")
            operands = [some(t.dtype, t.shape, k) for k, t in enumerate(request.operands[: len(kernel.operands)])]
            expected = run_region(kernel.regions[0], [widen(a) for a in operands])
            found.append((request, attention_hopper.generate(request), (operands + list(request.body.tables), expected, TOLERANCES[case.dtype])))
    return found


def compare(results: Sequence[np.ndarray], wanted: Wanted, name: str) -> None:
    """A rounding may fall to either side: one step of the type where a result's largest values lie."""
    _, expected, tolerance = wanted
    for got, want in zip(results, expected):
        assert np.isfinite(want).all()
        largest = 2.0 ** np.ceil(np.log2(max(1e-3, np.abs(want).max())))
        np.testing.assert_allclose(got.astype(np.float64), want, atol=tolerance * largest, rtol=0, err_msg=name)


def check(cases: Mapping[str, Case], order: str = "forward") -> None:
    with ExitStack() as modules:
        found = made_of(cases, modules)
        code = emulated.build(bundle(text_of([(request, generated) for request, generated, _ in found], HOPPER).whole), checked=True)
        for request, generated, wanted in found:
            compare(products.run(code, generated, request, wanted[0], order), wanted, request.name)


@needs_emulator
@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("name", CASES)
def test_against_float64(name: str) -> None:
    """Lengths that do not fill tiles, masks at both ends, data in scores, grouped heads, head sizes that do not fill slabs."""
    check({name: CASES[name]})


@needs_emulator
@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("order", emulator.ORDERS)
def test_orders(order: str) -> None:
    """Copies that land late or at once, warpgroups that run ahead."""
    check({name: CASES[name] for name in ("causal", "gradient", "tf32_gradient")}, order)


def test_dispatch() -> None:
    """Hopper's kernels where its copy engine reads the operands as they lie, others elsewhere; in tf32 where there are queries enough for
    each key and value that is turned."""
    tf32 = Case(CAUSAL, 1024, 1024, 64, "float32")
    cases = [(CASES["causal"], True), (replace(CASES["causal"], d=60), False), (replace(CASES["causal"], n=64), False)]
    cases += [
        (tf32, True),
        (replace(tf32, n=128, m=4096, heads=16), True),
        (replace(tf32, n=66, m=4096), False),
        (replace(tf32, n=128, m=128), False),
    ]
    for case, hopper in cases:
        with kernels_of(case.text()) as kernels:
            made = generate("attention", request_of(Body.of(kernels[0].regions[0].blocks[0]), HOPPER, "k"))
        assert (made.includes == attention_hopper.INCLUDES) == hopper
        assert hopper or made.includes == attention_mma.INCLUDES


CAPPED = "where(j <= i, 30 * tanh(s[b, h, i, j] / 30), -inf)"
BIASED = "where(j <= i, s[b, h, i, j] + bias[h, i, j], -inf)"
DROPPED = "where(j <= i, dropout(s, 0.1)[b, h, i, j], -inf)"


@needs_nvrtc
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("scores", [CAUSAL, CAPPED, BIASED, DROPPED])
def test_compiles_without_spills(scores: str, dtype: str) -> None:
    """Forward and backward: NVRTC's build refuses spills and products that are made one after the other."""
    texts = []
    for d in (64, 96, 128):
        with kernels_of(Case(scores, 1024, 1024, d, dtype, gradient=True).text()) as kernels:
            requests = [request_of(Body.of(k.regions[0].blocks[0]), HOPPER, f"k{n}") for n, k in enumerate(kernels)]
            units = [(r, attention_hopper.generate(r)) for r in requests]
            assert all(f.shared_bytes <= HOPPER.shared_bytes for _, g in units for f in g.functions)
            texts.append(bundle(text_of(units, HOPPER).whole))
    for cubin in nvrtc.build(texts, HOPPER.name):
        assert all(r.stack_bytes == 0 for r in cubin.kernels.values())


@needs_nvrtc
@pytest.mark.parametrize("name", ["alibi", "bias_input", "difference", "dropout", "finite_mask", "softcap", "time_major", "two_sided_window"])
def test_spellings_compile_without_spills(name: str) -> None:
    """Score functions that need registers of their own."""
    text = (SPECS[0].parent / f"{name}.dsl").read_text().replace("40", "264").replace(", 8]", ", 64]").replace(
        "o * sin(o + 1)", "o * o"
    ) + "    precision  bfloat16\n"
    with trained_kernels_of(text) as kernels:
        requests = [request_of(Body.of(k.regions[0].blocks[0]), HOPPER, f"k{n}") for n, k in enumerate(kernels)]
        texts = [bundle(text_of([(r, attention_hopper.generate(r))], HOPPER).whole) for r in requests]
    for cubin in nvrtc.build(texts, HOPPER.name):
        assert all(r.stack_bytes == 0 for r in cubin.kernels.values())
