"""Updates: what is done alike to tensors of different sizes is one launch, with the numbers of the float64 reference; the rest are maps."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import dslc
from dslc.compiled import program_of
from dslc.core.dtypes import BFLOAT16, FLOAT32
from dslc.ir.ops import Add, Div, Mul, Sqrt, Sub, broadcast, cast, full_like, transpose
from dslc.ir.types import type_of
from tests.backend_cpu.kernels.harness import Case, check

from .emulated import compiled, run

F = FLOAT32
SHAPES = [(768,), (5, 7), (3000,), (2, 3, 4), (130, 65), (3,), (20011,)]


def momentum(rate: Any, m: Any, w: Any, g: Any) -> list[Any]:
    """One tensor's next state and value, with a rate that all share."""
    g = cast(g, F)
    m = Add.of(Mul.of(full_like(m, 0.9), m), Mul.of(full_like(g, 0.1), g))
    step = Div.of(m, Add.of(Sqrt.of(Mul.of(m, m)), full_like(m, 1)))
    return [m, Sub.of(w, Mul.of(broadcast(rate, type_of(w).shape, []), step))]


def stepped(rate: Any, *tensors: Any) -> list[Any]:
    return [v for k in range(0, len(tensors), 3) for v in momentum(rate, *tensors[k : k + 3])]


def operands(shapes: list[tuple[int, ...]], gradient: Any) -> list[Any]:
    return [(F, ()), *(t for shape in shapes for t in ((F, shape), (F, shape), (gradient, shape)))]


def turned(x: Any, y: Any, z: Any) -> list[Any]:
    return [transpose(x, [1, 0]), full_like(y, 2), Mul.of(z, z)]


CASES = [
    Case("momentum", "update", operands(SHAPES, F), stepped),
    Case("momentum_narrow", "update", operands(SHAPES, BFLOAT16), stepped),
    Case("casts", "update", [(F, shape) for shape in SHAPES], lambda *xs: [cast(x, BFLOAT16) for x in xs]),
    Case("one_shape", "update", operands([(33,)] * 300, F), stepped),  # more tensors than a block has threads
    Case("unlike", "update", [(F, (30, 40)), (F, (9,)), (F, (6, 7))], turned),
    Case("single_numbers", "update", operands([(), (1,), (2,), (4,)], F), stepped),
]
LAUNCHES = {"momentum": 1, "momentum_narrow": 1, "casts": 1, "one_shape": 1, "unlike": 3, "single_numbers": 5}


@cache
def results() -> dict[str, Case]:
    run(CASES)
    return {case.name: case for case in CASES}


@pytest.mark.parametrize("name", LAUNCHES)
def test_numbers(name: str) -> None:
    check(results()[name])


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_launches(case: Case) -> None:
    executable = compiled([case], "sm_90a")
    assert len(executable.launches) == LAUNCHES[case.name]
    assert executable.source.count("__global__") == len(executable.kernels)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_compiles_without_a_spill(arch: str) -> None:
    """The build refuses spills."""
    assert compiled(CASES, arch).kernels


def test_tables_follow_the_parameters() -> None:
    """A program bound to one store after another updates the parameters of each."""
    spec = """
model Two:
    input  x[4, 3]
    param  a[3, 8], b[8], c[8, 2] ~ normal()
    h[i, k] = tanh(sum[j](x[i, j] * a[j, k]) + b[k])
    y[i, m] = sum[k](h[i, k] * c[k, m])
    loss   mean(y ** 2)
train:
    optimizer  adam(lr=0.1)
    clip       norm(0.5)
    steps      1
"""
    feed = {"x": np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)}
    models = [dslc.load(spec) for _ in range(2)]
    program = program_of(models[0], "step", "cuda-emulated:checked")
    assert program.executable.pointers
    starts = {k: np.array(v) for k, v in models[0].params.items()}
    for model in models:
        model.params.extend(program.executable.ports)
        for k, v in starts.items():
            model.params[k] = v
        program.bind(model.params)
        program(feed)
    for k, start in starts.items():
        assert not np.array_equal(models[0].params[k], start), k
        np.testing.assert_array_equal(models[0].params[k], models[1].params[k])
