"""Streaming kernels: spellings of attention, forward and gradient, on the emulator against the float64 reference; memory; machine code."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import dslc
from dslc.backend_cuda import nvrtc
from dslc.backend_cuda.arch import arch_of
from dslc.backend_cuda.backend import Lowered, lower_plan
from dslc.backend_cuda.kernels import attention_layout
from dslc.backend_cuda.kernels.attention_layout import TILES, Tile
from dslc.backend_cuda.source import bundle
from dslc.compiler import compile_program, lower
from dslc.core import dtypes
from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.types import type_of
from dslc.passes.plan import make_plan
from dslc.targets import TARGETS, target_of
from tests.backend_cpu.kernels.harness import Case, check
from tests.backend_cpu.kernels.test_contract import product
from tests.passes.attention.test_attention import HERE, LONG, ONE_FEATURE, given

from .emulated import compiled as compiled_cases
from .emulated import run

emulated = pytest.mark.skipif(TARGETS["cuda-emulated"].missing() is not None, reason="needs g++ and NVIDIA's headers")
compiled = pytest.mark.skipif(nvrtc.missing() is not None, reason="needs NVRTC and NVIDIA's headers")

# Masks at both ends, data in scores, several sources and products, axes in another order, folds without a maximum, draws.
SPELLINGS = ("bias_input", "by_hand", "difference", "documents", "dropout", "future", "grouped_axes", "keys_first", "time_major", "two_sided_window")
ALONE = re.compile(r"k\d+_attention(_stream)?")  # a kernel that is done op by op has several functions, with suffixes


def same_as_reference(path: Path) -> None:
    """One step with rate 1, which moves each parameter by its gradient."""
    losses, moved = [], []
    for target in ("cuda-emulated:checked", "reference"):
        model = dslc.load(str(path))
        before = {k: np.array(v) for k, v in model.params.items()}
        losses.append(dslc.Trainer(model, target=target).step(**given(path)))
        moved.append({k: before[k] - np.array(v) for k, v in model.params.items()})
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5, atol=1e-7)
    for name, expected in moved[1].items():
        scale = max(float(np.abs(expected).max()), 1e-6)
        np.testing.assert_allclose(moved[0][name] / scale, expected / scale, atol=3e-4, err_msg=name)


@emulated
@pytest.mark.parametrize("name", SPELLINGS)
def test_same_as_reference(name: str) -> None:
    same_as_reference(HERE / f"{name}.dsl")
    streams = [k.symbol for k in compile_program(dslc.load(str(HERE / f"{name}.dsl")), "step", "cuda-emulated").kernels if k.kind == "attention"]
    assert len(streams) >= 3 and all(map(ALONE.fullmatch, streams))


@emulated
def test_values_of_one_feature(tmp_path: Path) -> None:
    (tmp_path / "one.dsl").write_text(ONE_FEATURE)
    same_as_reference(tmp_path / "one.dsl")


RAGGED = """model Ragged:
    param   q[3, 70, 6], k[3, 90, 6] ~ normal()
    param   v[3, 90, 37] ~ normal()
    s[h, i, j] = sum[c](q[h, i, c] * k[h, j, c])
    p[h, i, j] = softmax[j](where(j <= i + 3, s[h, i, j], -inf))
    o[h, i, c] = sum[j](p[h, i, j] * v[h, j, c])
    output  o
    loss    mean(o * sin(o + 1))

train:
    optimizer  sgd(lr=1.0)
    steps      1
"""


@emulated
@pytest.mark.parametrize("tile", [TILES[0], TILES[1], TILES[3]], ids=str)
def test_tiles(tile: Tile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large tiles, where neither rows, columns, terms nor features fill it."""
    monkeypatch.setenv("DSLC_CACHE", str(tmp_path))
    monkeypatch.setattr(attention_layout, "TILES", (tile,))
    path = tmp_path / "ragged.dsl"
    path.write_text(RAGGED)
    same_as_reference(path)


I, J, B, H = range(4)


def softmax_of_scores(q: ir.Value, k: ir.Value, v: ir.Value) -> list[ir.Value]:
    """The body of a streaming kernel: weighted values and maxima."""
    s = product([B, I, H], [B, J, H], [B, I, J])(q, k)
    m = ops.Reduce.of(s, kind="max", axes=[2])
    e = ops.Exp.of(ops.Sub.of(s, ops.broadcast(m, type_of(s).shape, [0, 1])))
    o = product([B, I, J], [B, J, H], [B, I, H])(e, v)
    return [ops.Div.of(o, ops.broadcast(ops.Reduce.of(e, kind="sum", axes=[2]), type_of(o).shape, [0, 1])), m]


@emulated
def test_types_and_orders_of_threads() -> None:
    """Operands of 32 and 16 bits; every order of the threads gives the same bits."""
    tolerances = {dtypes.FLOAT32: 1e-5, dtypes.BFLOAT16: 2**-8, dtypes.FLOAT16: 2**-11}  # half a unit in the last place of what is stored
    shapes = ((2, 21, 24), (2, 35, 24), (2, 35, 24))
    cases = [Case(t.name, "attention", [(t, shape) for shape in shapes], softmax_of_scores, bound) for t, bound in tolerances.items()]
    run(cases)
    for case in cases:
        check(case)
    assert len(compiled_cases(cases).kernels) == len(cases)


def lowered(text: str, program: str, arch: str) -> Lowered:
    elaborated = lower(dslc.load(text), program, target_of("cuda-emulated" if arch == "emulated" else f"cuda:{arch}"))
    with elaborated.context, elaborated.location:
        return lower_plan(make_plan(elaborated.module), arch_of(arch))


@pytest.mark.parametrize("program", ["run", "step"])
def test_memory_is_linear(program: str) -> None:
    """Bytes of the arena with the workspace, for lengths of 1024 to 16384: scores are nowhere."""
    sizes = [lowered(LONG.format(n=n), program, "emulated").arena_bytes / n for n in (1024, 4096, 16384)]
    assert max(sizes) <= min(sizes) * 1.05
    assert max(sizes) < 2 * 16 * 4 * 8  # eight tensors as large as the queries


def test_masked_tiles_are_not_visited() -> None:
    """The loop over columns ends behind the last row's diagonal; in the gradient of the keys it starts at the first one's."""
    texts = [t for s, t in lowered(LONG.format(n=1024), "step", "sm_90a").text.functions if "attention" in s]
    loops = [re.search(r"for \(int first_column = (\w+); first_column < (\w+);", t) for t in texts]
    assert sorted((m[1], m[2]) for m in loops if m) == [("0", "high0"), ("0", "high0"), ("first0", "1024")]


@compiled
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("features", [64, 96, 128])
def test_machine_code_without_a_spill(features: int, arch: str) -> None:
    text = lowered(LONG.format(n=1024).replace("16]", f"{features}]"), "step", arch).text
    parts = [t for s, t in text.functions if "attention" in s]
    assert len(parts) == 3
    for made in nvrtc.build([bundle(f"{text.prelude}\n{part}") for part in parts], arch):  # refuses spills
        assert all(r.stack_bytes == 0 for r in made.kernels.values())
