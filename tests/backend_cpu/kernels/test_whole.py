"""Scatter, update, cumulative, sort and Fourier kernels."""

import numpy as np
import pytest

from dslc.core.dtypes import BFLOAT16, FLOAT32, FLOAT64, INT8, INT32, INT64
from dslc.ir import ops
from dslc.ir.ops import FFT, Abs, Add, Cumulative, Div, Mul, Neg, Put, Scatter, Sqrt, Sub, broadcast, full
from dslc.ir.types import type_of

from .harness import Case, cached, check

F = FLOAT32
IDS = np.random.default_rng(3).integers(-1, 12, (5, 13)).astype(np.int32)
ODD = np.array([[3, np.nan, -0.0, 0.0, -np.inf, np.inf, np.nan, 1, 1, -5]], np.float32)


def scatter(kind, batch, sizes):
    return lambda u, *ids: Scatter.of(u, *ids, kind=kind, batch=batch, sizes=sizes)


def put(axis, lane=-1):
    return lambda base, row, at: Put.of(base, row, at, axis=axis, lane=lane)


def running(kind, axis, reverse=False, exclusive=False):
    return lambda x: Cumulative.of(x, kind=kind, axis=axis, reverse=reverse, exclusive=exclusive)


def sort(axis, descending, count=None):
    return lambda x: ops.sort(x, axis, descending=descending, count=count)


def fourier(axis, inverse=False):
    return lambda re, im: FFT.of(re, im, axis=axis, inverse=inverse)


def adam(p, m, v, g, rate):
    t = type_of(p)
    m = Add.of(Mul.of(m, full(t, 0.9)), Mul.of(g, full(t, 0.1)))
    v = Add.of(Mul.of(v, full(t, 0.99)), Mul.of(Mul.of(g, g), full(t, 0.01)))
    step = Div.of(m, Add.of(Sqrt.of(Abs.of(v)), full(t, 1e-3)))
    return [Sub.of(p, Mul.of(broadcast(rate, t.shape, []), step)), m, v]


def update(*operands):
    *tensors, rate = operands
    return [y for k in range(0, len(tensors), 4) for y in adam(*tensors[k : k + 4], rate)]


CASES = [
    Case("scatter", "scatter", [(F, (5, 13, 7)), IDS], scatter("sum", 0, [11]), 1e-5),
    Case("scatter_wide", "scatter", [(F, (5, 13, 70)), IDS], scatter("sum", 0, [11]), 1e-5),
    Case("scatter_points", "scatter", [(F, (5, 13)), IDS], scatter("sum", 0, [11]), 1e-5),
    Case("scatter_batch", "scatter", [(F, (5, 13, 3)), IDS], scatter("max", 1, [12])),
    Case("scatter_two", "scatter", [(F, (5, 13, 3)), IDS, IDS[::-1].copy()], scatter("min", 0, [12, 5])),
    Case("scatter_prod", "scatter", [(F, (5, 13, 2, 3)), IDS], scatter("prod", 0, [12]), 1e-5),
    Case("scatter_int", "scatter", [(INT32, (5, 13, 2, 3)), IDS.astype(np.int64)], scatter("sum", 0, [12])),
    Case("scatter_narrow", "scatter", [(BFLOAT16, (5, 13, 64)), IDS], scatter("sum", 0, [12])),
    Case("scatter_between", "scatter", [(F, (5, 13, 64)), IDS],
         lambda u, i: (lambda y: [y, Neg.of(y)])(scatter("sum", 0, [12])(Mul.of(u, u), i)), 1e-5),
    Case("put", "put", [(F, (3, 40, 21)), (F, (3, 1, 21)), np.array([17], np.int32)], put(1)),
    Case("put_lanes", "put", [(F, (3, 4, 9, 16)), (F, (3, 4, 1, 16)), np.array([8, 0, -1, 9], np.int32)], put(2, 1)),
    Case("put_last", "put", [(F, (5, 33)), (F, (5, 1)), np.array([3, 32, 0, 33, 7], np.int32)], put(1, 0)),
    Case("put_lanes_last", "put", [(BFLOAT16, (6, 33)), (BFLOAT16, (1, 33)), np.arange(33, dtype=np.int32) % 7], put(0, 1)),
    Case("put_between", "put", [(F, (9,)), (F, ()), np.array([4], np.int32)], lambda x, y, at: put(0)(x, broadcast(Mul.of(y, y), (1,), []), at)),
    Case("update", "update", [*((F, s) for s in ((7, 9), (7, 9), (5,)) for _ in range(4)), (F, ())], update, 1e-5),
    Case("sum_last", "scan", [(F, (5, 13))], running("sum", 1), 1e-5),
    Case("sum_first", "scan", [(F, (33, 20))], running("sum", 0, True), 1e-5),
    Case("prod_exclusive", "scan", [(F, (5, 13, 3))], running("prod", 1, True, True), 1e-5),
    Case("max_int", "scan", [(INT32, (5, 13, 3))], running("max", 1, False, True)),
    Case("min_one", "scan", [(F, (5, 1))], running("min", 1)),
    Case("sum_between", "scan", [(F, (5, 9))], lambda x: (lambda y: [Neg.of(y), y])(running("sum", 1)(Mul.of(x, x))), 1e-5),
    Case("sort", "sort", [(F, (5, 37))], sort(1, False)),
    Case("sort_down", "sort", [(F, (37, 5))], sort(0, True)),
    Case("sort_odd", "sort", [ODD], sort(1, False)),
    Case("sort_odd_down", "sort", [ODD], sort(1, True)),
    Case("sort_int8", "sort", [(INT8, (3, 50))], sort(1, True)),
    Case("sort_int64", "sort", [(INT64, (3, 50))], sort(1, True)),
    Case("sort_float64", "sort", [(FLOAT64, (3, 50))], sort(1, False)),
    Case("first_few", "sort", [(F, (3, 1500))], sort(1, True, 5)),
    Case("first_few_of_columns", "sort", [(BFLOAT16, (900, 3))], sort(0, False, 130)),
    Case("first_few_each_better", "sort", [np.arange(1400, dtype=np.float32).reshape(2, 700)], sort(1, True, 3)),
    Case("first_few_equal", "sort", [np.random.default_rng(4).integers(0, 3, (2, 900)).astype(np.int64)], sort(1, True, 150)),
    Case("first_few_odd", "sort", [np.tile(ODD, (1, 60))], sort(1, True, 150)),
    Case("first_few_missing", "sort", [np.full((1, 600), np.nan)], sort(1, True, 4)),
    Case("first_missing", "sort", [np.where(np.arange(40) == 33, 1, np.nan).astype(np.float32)[None]], sort(1, True, 4)),
    Case("first_greatest", "sort", [np.full((2, 50), np.iinfo(np.int32).max, np.int32)], sort(1, False, 3)),
    Case("first_two", "sort", [(F, (64, 37))], sort(1, True, 2)),
    Case("first_one_of_few", "sort", [(INT8, (3, 5))], sort(1, True, 1)),
    Case("first_columns", "sort", [(F, (70, 19))], sort(0, False, 3)),
    Case("first_half", "sort", [(F, (5, 37))], sort(1, False, 18)),
    Case("first_of_none", "sort", [(F, (5, 37))], sort(1, False, 0)),
    Case("first_few_between", "sort", [(F, (3, 600))], lambda x: (lambda y: [Neg.of(y[0]), y[1]])(sort(1, True, 7)(Mul.of(x, x)))),
    Case("sort_one", "sort", [(F, (3, 1))], sort(1, False)),
    Case("sort_between", "sort", [(F, (3, 9))], lambda x: (lambda y: [Neg.of(y[0]), y[1]])(sort(1, False)(Mul.of(x, x)))),
    *(Case(f"fft_{n}", "fft", [(F, (3, n)), (F, (3, n))], fourier(1, n % 2 == 0), 3e-6 * n**0.5)
      for n in (1, 2, 3, 4, 5, 8, 12, 17, 30, 64, 100, 101, 194)),
    Case("fft_pages_apart", "fft", [(F, (21, 1024)), (F, (21, 1024))], fourier(1), 1e-4),
    Case("fft_columns", "fft", [(F, (12, 40)), (F, (12, 40))], fourier(0), 1e-5),
    Case("fft_float64", "fft", [(FLOAT64, (2, 60)), (FLOAT64, (2, 60))], fourier(1, True), 1e-12),
]  # fmt: skip


@cached
def cases():
    return CASES


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_whole(name):
    check(cases()[name])
