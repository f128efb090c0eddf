"""Every kernel kind on the emulator: the cases of the CPU backend's tests, in three orders of the threads, against the float64 reference."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from dslc.core.dtypes import BFLOAT16, FLOAT32, INT32, INT64
from dslc.ir.ops import ArgReduce, Compare, Fold, Mul, Neg, Reduce, Softmax, Sub, broadcast, cast, transpose, view
from dslc.ir.types import type_of
from tests.backend_cpu.kernels import test_composite, test_contract, test_elementwise, test_movement, test_reduce, test_whole
from tests.backend_cpu.kernels.harness import Case, check
from tests.backend_cpu.kernels.test_whole import fourier, running, scatter, sort

from .emulated import compiled, run

F = FLOAT32
IDS = np.random.default_rng(5).integers(-2, 900, 1500).astype(np.int32)


def total(kind: str, axes: list[int]) -> Callable[..., Any]:
    return lambda x: Reduce.of(x, kind=kind, axes=axes)


def deviation(x: Any, y: Any) -> list[Any]:
    """A product less its rows' maxima, and the greatest of each row of that: two passes and the results, over two operands."""
    z = Mul.of(x, y)
    rest = Sub.of(z, broadcast(total("max", [1])(z), (5, 2056), [0]))
    return [rest, total("max", [1])(rest)]


def both(x: Any, y: Any) -> list[Any]:
    """A product, its columns' sums, and what follows from these: columns that no warp fills."""
    z = Mul.of(x, y)
    return [z, total("sum", [0])(z), Neg.of(total("sum", [0])(x))]


def pooled(x: Any) -> list[Any]:
    """Maxima of windows of 3 x 3 in steps of 2, channels last, and how many are equal to it."""
    n, h, w, c = type_of(x).shape
    rows = [[1, 0, 0, 0, 0, 0], [0, 2, 0, 0, 1, 0], [0, 0, 2, 0, 0, 1], [0, 0, 0, 1, 0, 0]]
    windows = view(x, rows, [0, -1, -1, 0], (n, h // 2, w // 2, c, 3, 3), outside=float("-inf"))
    best = total("max", [4, 5])(windows)
    hits = Compare.of(windows, broadcast(best, type_of(windows).shape, [0, 1, 2, 3]), predicate="eq")
    return [best, total("sum", [4, 5])(cast(hits, F))]


def centred(x: Any) -> list[Any]:
    """Columns less their greatest, the sums of that, and that again less those: two levels, and results of all points."""
    less = Sub.of(x, broadcast(total("max", [0])(x), type_of(x).shape, [1]))
    sums = total("sum", [0])(less)
    return [sums, Sub.of(less, broadcast(sums, type_of(x).shape, [1]))]


# Sizes at which schedules differ: lines past a tile, rows that are split, lists of points, chunks of elements.
LARGE = [
    Case("scan_block", "scan", [(F, (3, 700))], running("sum", 1), 1e-6),
    Case("scan_block_exclusive", "scan", [(F, (2, 300, 3))], running("sum", 1, True, True), 1e-6),
    Case("scan_block_max", "scan", [(INT32, (2, 513))], running("max", 1)),
    Case("scan_block_narrow", "scan", [(BFLOAT16, (2, 300))], running("sum", 1)),
    Case("first_few_long", "sort", [(F, (3, 5001))], sort(1, True, 5)),
    Case("first_few_rounds", "sort", [(F, (9001, 1))], sort(0, False, 700)),
    Case("first_few_of_last_piece", "sort", [np.arange(2050, dtype=np.float32).reshape(1, 2050)], sort(1, True, 9)),
    Case("first_many_long", "sort", [(F, (1, 2500))], sort(1, True, 1100)),
    Case("first_few_long_missing", "sort", [np.where(np.arange(4300) % 3, np.nan, 1.0).astype(np.float32)[None]], sort(1, True, 1000)),
    Case("sort_steps", "sort", [(F, (2, 5000))], sort(1, False)),
    Case("sort_steps_wide", "sort", [(INT64, (1, 4097))], sort(1, True)),
    Case("sort_equal", "sort", [np.random.default_rng(6).integers(0, 4, (2, 3000)).astype(np.float32)], sort(1, True)),
    Case("fft_long", "fft", [(F, (2, 4096)), (F, (2, 4096))], fourier(1), 3e-4),
    Case("all", "reduce", [(F, (300, 700))], lambda x: total("sum", [0, 1])(Mul.of(x, x)), 2e-5),
    Case("columns", "reduce", [(F, (3000, 40))], total("sum", [0]), 2e-5),
    Case("columns_max", "reduce", [(F, (3000, 3))], lambda x: [total("max", [0])(x), Neg.of(x)]),
    Case("columns_and_points", "reduce", [(F, (17000, 40)), (F, (17000, 40))], both, 5e-5),
    Case("columns_narrow", "reduce", [(BFLOAT16, (700, 72))], lambda x: total("sum", [0])(cast(x, F)), 2e-5),
    Case("columns_narrow_and_points", "reduce", [(BFLOAT16, (17000, 64)), (BFLOAT16, (17000, 64))], both),
    Case("columns_centred", "reduce", [(F, (900, 48))], centred, 2e-5),
    Case("columns_centred_long", "reduce", [(F, (17000, 8))], centred, 2e-5),
    Case("windows", "reduce", [(BFLOAT16, (2, 8, 10, 24))], pooled),
    Case("taps_of_steps", "reduce", [(BFLOAT16, (2, 5, 6, 3, 3, 16))],
         lambda g: Fold.of(g, strides=[1, *[0] * 5, 0, 2, 0, 1, 0, 0, 0, 0, 2, 0, 1, 0, *[0] * 5, 1], offsets=[0, -1, -1, 0], shape=[2, 10, 12, 16])),
    Case("taps_of_uneven_steps", "reduce", [(F, (2, 4, 5, 2, 3, 4))],
         lambda g: Fold.of(Mul.of(g, g), strides=[1, *[0] * 5, 0, 3, 0, 1, 0, 0, 0, 0, 2, 0, 1, 0, *[0] * 5, 1],
                           offsets=[0, 1, -1, 0], shape=[2, 13, 10, 4])),
    Case("windows_first_place", "reduce", [(F, (40, 12))], lambda x: ArgReduce.of(x, kind="max", axis=0)),
    Case("softmax_long", "reduce", [(F, (2, 20000))], test_reduce.expanded(Softmax, 1), 1e-5),
    Case("softmax_packed", "reduce", [(BFLOAT16, (3, 4104))], test_reduce.expanded(Softmax, 1)),
    Case("deviation_packed", "reduce", [(BFLOAT16, (5, 2056)), (BFLOAT16, (5, 2056))], deviation),
    Case("chunks", "map", [(F, (300, 1024)), (F, (300, 1024))], Mul.of),
    Case("chunks_narrow", "map", [(BFLOAT16, (300, 1024))], Neg.of),
    Case("transposed", "map", [(F, (333, 350)), (F, (350, 333))], lambda x, y: Mul.of(transpose(x, [1, 0]), y)),
    Case("transposed_narrow", "map", [(BFLOAT16, (340, 350)), (BFLOAT16, (340, 350))],
         lambda x, y: Mul.of(transpose(x, [1, 0]), Neg.of(transpose(y, [1, 0])))),
    Case("transposed_batches", "map", [(F, (2, 130, 3, 150))], lambda x: Neg.of(transpose(x, [2, 3, 0, 1]))),
    Case("scatter_listed", "scatter", [(F, (1500, 64)), IDS], scatter("sum", 0, [900]), 1e-5),
    Case("scatter_listed_often", "scatter", [(F, (2500, 300)), np.tile(np.int32([7, 7, 7, 95, -1]), 500)], scatter("sum", 0, [96]), 1e-4),
    Case("scatter_listed_narrow", "scatter", [(BFLOAT16, (1500, 72)), IDS], scatter("max", 0, [900])),
    Case("scatter_listed_points", "scatter", [(F, (5000,)), np.resize(IDS, 5000) * 20], scatter("sum", 0, [18000]), 1e-5),
    Case("scatter_listed_batch", "scatter", [(F, (2, 750, 51)), IDS.reshape(2, 750)], scatter("min", 1, [900])),
    Case("scatter_listed_two", "scatter", [(F, (1500, 5, 10)), IDS // 30, IDS.astype(np.int64) % 31], scatter("sum", 0, [31, 31]), 1e-5),
]  # fmt: skip
MODULES = {"composite": test_composite, "contract": test_contract, "movement": test_movement, "reduce": test_reduce, "whole": test_whole}
CASES = {name: module.CASES for name, module in MODULES.items()} | {"elementwise": test_elementwise.all_cases(), "large": LARGE}


@cache
def results(group: str) -> dict[str, Case]:
    run(CASES[group])
    return {case.name: case for case in CASES[group]}


@pytest.mark.parametrize("group, name", [(group, case.name) for group in (*MODULES, "large") for case in CASES[group]])
def test_kernel(group: str, name: str) -> None:
    check(results(group)[name])


def test_elementwise_ops() -> None:
    """Every elementwise op on every type that it takes, and every cast."""
    for case in results("elementwise").values():
        check(case)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("group", [*MODULES, "large"])
def test_compiles_without_a_spill(group: str, arch: str) -> None:
    """The build refuses spills."""
    assert compiled(CASES[group], arch).kernels
