"""Streaming kernels on tensor cores, from kernels that the pass makes of naive spellings: on the emulator, and compiled without a spill."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import dslc
from dslc.backend_cuda import emulated, nvrtc
from dslc.backend_cuda.arch import ARCHS, EMULATED, Arch
from dslc.backend_cuda.kernels import attention_mma
from dslc.backend_cuda.program_text import Printed, Unit, printed
from dslc.backend_cuda.source import bundle
from dslc.backend_cuda.stage import Generated, Request, request_of
from dslc.compiler import lower
from dslc.core.dtypes import DType
from dslc.ir import ops
from dslc.ir.program import program_of
from dslc.ir.reference import run_region, widen
from dslc.ir.rows import Unsuited
from dslc.ir.trace import Body
from dslc.runtime.drivers import emulator
from dslc.runtime.drivers.device import Buffer
from dslc.targets import TARGETS
from tests.passes.attention.test_attention import working

SPECS = sorted((Path(__file__).parents[2] / "passes" / "attention").glob("*.dsl"))
needs_emulator = pytest.mark.skipif(TARGETS["cuda-emulated"].missing() is not None, reason="needs g++ and NVIDIA's headers")
needs_nvrtc = pytest.mark.skipif(nvrtc.missing() is not None, reason="needs NVRTC and NVIDIA's headers")


@contextmanager
def kernels_of(text: str) -> Iterator[list[ops.Kernel]]:
    """The attention kernels of a model's training step, while its module lives."""
    elaborated = lower(dslc.load(text), "step", working(0))
    with elaborated.context, elaborated.location:
        yield [op for op in program_of(elaborated.module).entry_block.operations if isinstance(op, ops.Kernel) and op.kind == "attention"]


def text_of(units: Sequence[tuple[Request, Generated]], arch: Arch) -> Printed:
    parts = []
    for request, generated in units:
        unit = Unit(request.name, "attention", request.name, (), request.body, 0, 0, generated.includes)
        unit.functions += generated.functions
        parts.append(unit)
    return printed("test", parts, arch)


def some(dtype: DType, shape: Sequence[int], k: int) -> np.ndarray:
    rng = np.random.default_rng(k)
    if dtype.is_integer:
        return rng.integers(0, 4, shape).astype(dtype.numpy)
    return rng.standard_normal(shape).astype(dtype.numpy)


def launched(code: bytes, request: Request, generated: Generated, operands: Sequence[np.ndarray], order: str = "forward") -> list[np.ndarray]:
    results = [np.full(t.shape, 7, t.dtype.numpy) for t in request.results]
    loaded = emulator.load(code, order=order)
    arrays = {"operand": [np.ascontiguousarray(a) for a in operands], "result": results}
    for f in generated.functions:
        given = [ctypes.c_void_p(arrays[p.source][p.number].ctypes.data) for p in f.parameters]
        buffers = [Buffer(p.name, a.ctypes.data, a.nbytes, p.written) for p in f.parameters for a in [arrays[p.source][p.number]]]
        loaded.launch(f.symbol, f.grid, f.block, f.shared_bytes, given, buffers)
    return results


SMALL = replace(EMULATED, shared_bytes=28_000)  # small tiles: several of them, and quick to compile


Wanted = tuple[list[np.ndarray], list[np.ndarray]]  # operands, expected results


def made_of(texts: Mapping[str, str], arch: Arch, modules: ExitStack) -> list[tuple[Request, Generated, Wanted]]:
    """Every attention kernel of some models' steps, on arbitrary operands; their modules live as long as `modules`."""
    found = []
    for name, text in texts.items():
        kernels = modules.enter_context(kernels_of(text.replace("o * sin(o + 1)", "o * o")))  # a sine of large numbers has no figures left
        assert kernels
        for n, kernel in enumerate(kernels):
            request = request_of(Body.of(kernel.regions[0].blocks[0]), arch, f"{name}{n}")
            operands = [some(t.dtype, t.shape, k) for k, t in enumerate(request.operands[: len(kernel.operands)])]
            wanted = operands + list(request.body.tables), run_region(kernel.regions[0], [widen(a) for a in operands])
            found.append((request, attention_mma.generate(request), wanted))
    return found


def compare(results: Sequence[np.ndarray], wanted: Wanted, tolerance: float, name: str) -> None:
    """Errors are relative to the largest value of a result."""
    for got, want in zip(results, wanted[1]):
        assert np.isfinite(want).all()
        np.testing.assert_allclose(got.astype(np.float64), want, atol=tolerance * max(1e-3, np.abs(want).max()), rtol=0, err_msg=name)


def check(texts: Mapping[str, str], tolerance: float, order: str = "forward", arch: Arch = EMULATED) -> None:
    with ExitStack() as modules:
        found = made_of(texts, arch, modules)
        code = emulated.build(bundle(text_of([(request, generated) for request, generated, _ in found], arch).whole), checked=True)
        for request, generated, wanted in found:
            compare(launched(code, request, generated, wanted[0], order), wanted, tolerance, request.name)


def narrowed(text: str, dtype: str) -> str:
    """A spelling with all parameters and float inputs of a 16-bit type."""
    return re.sub(r"(?m)^(    (?:param|input)   \w+\[[^\]]*\])(?!:)", rf"\1: {dtype}", text)


@needs_emulator
@pytest.mark.parametrize(
    ("dtype", "names"), [("bfloat16", ("cross", "bias_input", "difference", "dropout")), ("float16", ("causal", "grouped", "sigmoid"))]
)
def test_tensor_cores(dtype: str, names: Sequence[str]) -> None:
    """Results are rounded to 8 or 11 bits, and nothing else."""
    texts = {name: narrowed((SPECS[0].parent / f"{name}.dsl").read_text(), dtype) for name in names}
    check(texts, 2.0 ** (-8 if dtype == "bfloat16" else -11), arch=SMALL)


def in_tf32(text: str) -> str:
    """A spelling whose train block, its last lines, asks for tf32."""
    return text.rstrip() + "\n    precision  tf32\n"


@needs_emulator
def test_tf32() -> None:
    """Both sides round each factor to 11 bits, the weights before or after they are divided by their sum: two roundings of at most 2^-11."""
    texts = {name: in_tf32((SPECS[0].parent / f"{name}.dsl").read_text()) for name in ("causal", "grouped", "bias_input")}
    check(texts, 2.0**-10, arch=SMALL)


LONG = """model Long:
    param   q[2, {n}, {d}]{t}, k[2, {n}, {d}]{t}, v[2, {n}, {d}]{t} ~ normal()
    s[h, i, j] = sum[c](q[h, i, c] * k[h, j, c]) / sqrt(size(c))
    p[h, i, j] = softmax[j](where(j <= i, s[h, i, j], -inf))
    o[h, i, c] = sum[j](p[h, i, j] * v[h, j, c])
    output  o
    loss    mean(o * o)

train:
    optimizer  sgd(lr=1.0)
    steps      1
"""


@needs_emulator
@pytest.mark.parametrize("order", emulator.ORDERS)
def test_ragged_lengths(order: str) -> None:
    """Several tiles, the last one not full; whole tiles are skipped and others need no mask; one product a function where registers are short."""
    check({"odd": LONG.format(n=200, d=72, t=": bfloat16"), "apart": LONG.format(n=257, d=256, t=": bfloat16")}, 2.0**-8, order)


@needs_nvrtc
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_compiles_without_spills(arch: str) -> None:
    """Head sizes of models, forward and backward; NVRTC's build refuses spills."""
    texts = []
    for d in (64, 128, 256):
        with kernels_of(LONG.format(n=1024, d=d, t=": bfloat16")) as kernels:
            requests = [request_of(Body.of(k.regions[0].blocks[0]), ARCHS[arch], f"k{n}") for n, k in enumerate(kernels)]
            units = [(r, attention_mma.generate(r)) for r in requests]
            assert all(f.shared_bytes <= ARCHS[arch].shared_bytes for _, g in units for f in g.functions)
            texts.append(bundle(text_of(units, ARCHS[arch]).whole))
    for cubin in nvrtc.build(texts, arch):
        assert all(r.stack_bytes == 0 for r in cubin.kernels.values())


@needs_emulator
def test_ragged_lengths_in_tf32() -> None:
    """Several tiles, features that are no multiple of a product's, in an order of the threads in which a missing barrier shows."""
    texts = {"odd": in_tf32(LONG.format(n=100, d=36, t="")), "few": in_tf32(LONG.format(n=70, d=7, t=""))}
    check(texts, 2.0**-10, "reverse", arch=replace(SMALL, shared_bytes=60_000))


def test_products_of_float32_are_not_made_in_tf32() -> None:
    with kernels_of(LONG.format(n=64, d=32, t="")) as kernels:
        for kernel in kernels:
            with pytest.raises(Unsuited, match="products of float32"):
                attention_mma.generate(request_of(Body.of(kernel.regions[0].blocks[0]), EMULATED, "k"))


@needs_nvrtc
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_tf32_compiles_without_spills(arch: str) -> None:
    texts = []
    for d in (64, 128):
        with kernels_of(in_tf32(LONG.format(n=1024, d=d, t=""))) as kernels:
            requests = [request_of(Body.of(k.regions[0].blocks[0]), ARCHS[arch], f"k{n}") for n, k in enumerate(kernels)]
            texts.append(bundle(text_of([(r, attention_mma.generate(r)) for r in requests], ARCHS[arch]).whole))
    for cubin in nvrtc.build(texts, arch):
        assert all(r.stack_bytes == 0 for r in cubin.kernels.values())
