"""Views, reshapes, gathers, joins and generators: vectors, rests, borders, and shapes that merge or do not."""

import numpy as np
import pytest

from dslc.core.dtypes import BOOL, FLOAT32, INT32, INT64
from dslc.ir.ops import (
    Abs,
    Add,
    And,
    Compare,
    Concat,
    Gather,
    Iota,
    Mul,
    Neg,
    Not,
    Random,
    Reshape,
    Select,
    Sqrt,
    broadcast,
    constant,
    full_like,
    reshape,
    reverse,
    slice_axis,
    transpose,
    view,
)  # fmt: skip

from .harness import Case, cached, check

F = FLOAT32
KEY = [np.array(123456789012345, np.int64), np.array(700, np.int32), np.array(3, np.int32)]  # seed, counter, turn


def draw(kind, shape, low=0, high=10):
    return lambda seed, counter, turn: Random.of(seed, counter, turn, kind=kind, stream=77, shape=shape, low=low, high=high)


def dropout(x, seed, counter, turn):
    u = Random.of(seed, counter, turn, kind="uniform", stream=9, shape=(20, 37), low=0, high=0)
    return Select.of(Compare.of(u, full_like(u, 0.3), predicate="lt"), full_like(x, 0), Mul.of(x, full_like(x, 1 / 0.7)))


CASES = [
    Case("flat", "map", [(F, (7, 33)), (F, (7, 33))], Add.of),
    Case("row", "map", [(F, (70, 48)), (F, (48,))], lambda a, b: Mul.of(a, broadcast(b, (70, 48), [1]))),
    Case("column", "map", [(F, (70, 48)), (F, (70,))], lambda a, b: Mul.of(a, broadcast(b, (70, 48), [0]))),
    Case("transpose", "map", [(F, (37, 21))], lambda a: transpose(a, [1, 0])),
    Case("transpose_large", "map", [(F, (70, 81))], lambda a: transpose(a, [1, 0])),
    Case("transpose_batch", "map", [(F, (3, 40, 5, 18)), (F, (3, 5, 40, 18))], lambda a, b: Add.of(transpose(a, [0, 2, 1, 3]), b)),
    Case("transpose_last", "map", [(F, (3, 40, 34))], lambda a: Neg.of(transpose(a, [0, 2, 1]))),
    Case("reshape", "map", [(F, (12, 5)), (F, (20, 3))], lambda a, b: Add.of(reshape(a, (20, 3)), b)),
    Case("reshape_transpose", "map", [(F, (12, 32))], lambda a: Reshape.of(transpose(reshape(a, (12, 4, 8)), [1, 0, 2]), shape=(4, 96))),
    Case("pad", "map", [(F, (5, 6))], lambda a: view(a, [[1, 0], [0, 1]], [-1, -2], [7, 11], 3.0)),
    Case("pad_function", "map", [(F, (5, 60))], lambda a: view(Neg.of(Abs.of(a)), [[1, 0], [0, 1]], [-1, -2], [7, 70], 3.0)),
    Case("slice", "map", [(F, (9, 50))], lambda a: slice_axis(a, 1, 3, 20, 2)),
    Case("short", "map", [(F, (3,))], lambda a: Sqrt.of(Abs.of(a))),
    Case("rank0", "map", [(F, ()), (F, ())], lambda a, b: [Add.of(a, b), Mul.of(a, b)]),
    Case("ones", "map", [(F, (1, 1)), (F, (1, 1))], Add.of),
    Case("empty", "map", [(F, (0, 3))], Neg.of),
    Case("iota", "map", [], lambda: Iota.of(axis=1, shape=(3, 40), dtype=INT32)),
    Case("iota_float", "map", [], lambda: Iota.of(axis=0, shape=(30, 2), dtype=F)),
    Case("constant", "map", [(F, (4, 3))], lambda a: Add.of(a, constant(np.arange(12.0).reshape(4, 3)))),
    Case("concat", "map", [(F, (3, 20)), (F, (3, 17)), (F, (3, 1))], lambda *a: Concat.of(*a, axis=1)),
    Case("concat_rows", "map", [(F, (3, 20)), (F, (4, 20)), (F, (0, 20))], lambda *a: Concat.of(*a, axis=0)),
    Case("concat_slice", "map", [(F, (3, 20)), (F, (3, 20))], lambda *a: slice_axis(Concat.of(*a, axis=1), 1, 22, 10)),
    Case("gather", "map", [(F, (10, 33)), np.array([3, -1, 9, 10, 2], np.int32)], lambda x, i: Gather.of(x, i, batch=0, outside=7.0)),
    Case("gather_points", "map", [(F, (5, 9)), np.arange(20, dtype=np.int64) % 6 - 1, np.arange(20, dtype=np.int64) % 9],
         lambda x, i, j: Gather.of(x, i, j, batch=0, outside=0.0)),
    Case("gather_batch", "map", [(F, (4, 10)), np.arange(24, dtype=np.int32).reshape(4, 6) % 11], lambda x, i: Gather.of(x, i, batch=1, outside=0.0)),
    Case("gather_far", "map", [(F, (8,)), np.array([2**33, -(2**40), 1], np.int64)], lambda x, i: Gather.of(x, i, batch=0, outside=1.0)),
    Case("bools", "map", [(BOOL, (9, 9)), (BOOL, (9, 9))], lambda a, b: And.of(a, Not.of(b))),
    Case("reverse", "map", [(F, (9, 70))], lambda a: reverse(a, 1)),
    Case("window", "map", [(F, (100,))], lambda a: view(a, [[2, 1]], [0], [49, 3])),
    Case("diagonal", "map", [(INT64, (20, 20))], lambda a: view(a, [[1], [1]], [0, 0], [20])),
    Case("uniform", "map", KEY, draw("uniform", (7, 33)), 0),
    Case("normal", "map", KEY, draw("normal", (7, 33)), 4e-7),
    Case("normal_rank0", "map", KEY, draw("normal", ()), 4e-7),
    Case("integer", "map", KEY, draw("integer", (7, 33), -5, 100)),
    Case("integer_far", "map", KEY, draw("integer", (50,), -(2**31), 0)),
    Case("dropout", "map", [(F, (20, 37)), *KEY], dropout),
]  # fmt: skip


@cached
def cases():
    return CASES


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_movement(name):
    check(cases()[name])
