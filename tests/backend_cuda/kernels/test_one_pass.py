"""Statistics that one pass over memory makes: moments far from zero and of odd values, sums with factors of the row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dslc.core.dtypes import BFLOAT16, FLOAT32
from dslc.ir.ops import Add, Mul, Neg, Reduce, Sub, broadcast, cast, full_like
from dslc.ir.types import type_of
from tests.backend_cpu.kernels.harness import Case, check

from .emulated import compiled, run

F = FLOAT32
RNG = np.random.default_rng(3)


def mean(x: Any, axes: list[int]) -> Any:
    total = Reduce.of(x, kind="sum", axes=axes)
    return Mul.of(total, full_like(total, type_of(total).size / type_of(x).size))


def spread(v: Any, x: Any, axes: list[int]) -> Any:
    return broadcast(v, type_of(x).shape, [k for k in range(type_of(x).rank) if k not in axes])


def statistics(axes: list[int]) -> Any:
    """The mean, the variance, and the values times that."""

    def build(x: Any) -> list[Any]:
        mu = mean(x, axes)
        apart = Sub.of(x, spread(mu, x, axes))
        variance = mean(Mul.of(apart, apart), axes)
        return [mu, variance, Mul.of(x, spread(variance, x, axes))]

    return build


def gradient(x: Any, g: Any, gain: Any) -> list[Any]:
    """Sums over columns as the gradient of a normalization has them: the second level is linear in values, with factors of the first."""
    first = Reduce.of(Mul.of(x, g), kind="sum", axes=[0])
    factor = Mul.of(first, full_like(first, 1e-3))
    term = Neg.of(Mul.of(spread(factor, x, [0]), Sub.of(x, spread(gain, x, [0]))))
    second = Reduce.of(Add.of(Add.of(term, term), spread(factor, x, [0])), kind="sum", axes=[0])
    return [first, second, Add.of(g, spread(second, x, [0]))]


def narrow(build: Any) -> Any:
    return lambda x: build(cast(x, F))


FAR = (RNG.standard_normal((17000, 8)) + 1000).astype(np.float32)
ODD = np.where(np.arange(17000)[:, None] % 1700 == 0, 0, FAR).astype(np.float32)  # threads begin with what is far from the others
CASES = [
    Case("columns_far", "reduce", [FAR], statistics([0]), 2e-5),
    Case("columns_odd", "reduce", [ODD], statistics([0]), 2e-5),
    Case("columns_few", "reduce", [FAR[:900]], statistics([0]), 2e-5),
    Case("rows_far", "reduce", [np.ascontiguousarray(FAR.T[:2])], statistics([1]), 2e-5),
    Case("channels_first", "reduce", [(F, (5, 2, 3500))], statistics([0, 2]), 2e-5),
    Case("columns_narrow", "reduce", [(BFLOAT16, (17000, 8))], narrow(statistics([0])), 2e-4),
    Case("columns_gradient", "reduce", [(F, (17000, 8)), (F, (17000, 8)), (F, (8,))], gradient, 2e-4),
]


@pytest.fixture(scope="module")
def results() -> dict[str, Case]:
    run(CASES, ("forward", "shuffled"))
    return {case.name: case for case in CASES}


@pytest.mark.slow
@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_one_pass(results: dict[str, Case], name: str) -> None:
    check(results[name])


def test_no_second_pass() -> None:
    """Every split kernel has one pass, its fold and its results."""
    symbols = [k.symbol for k in compiled(CASES).kernels]
    assert any("_part0" in s for s in symbols) and not any("_part1" in s for s in symbols)
