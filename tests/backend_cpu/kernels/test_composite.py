"""Bodies that are not of their kernel's shape: done op by op, with what lies between pulled in."""

import pytest

from dslc.core.dtypes import FLOAT32
from dslc.ir.ops import FFT, Add, Mul, Neg, Reduce, Softmax, full_like, sort

from .harness import Case, cached, check
from .test_contract import product
from .test_reduce import expanded

F = FLOAT32
I, J, K, B, H = range(5)


def attention(q, k, v):
    s = product([B, I, H], [B, J, H], [B, I, J])(q, k)
    p = expanded(Softmax, 2)(Mul.of(s, full_like(s, 0.3)))
    return product([B, I, J], [B, J, H], [B, I, H])(p, v)


def total(kind, axes):
    return lambda x: Reduce.of(x, kind=kind, axes=axes)


CASES = [
    Case("attention", "attention", [(F, (2, 9, 8)), (F, (2, 11, 8)), (F, (2, 11, 8))], attention, 1e-5),
    Case("other_axes", "reduce", [(F, (9, 8))], lambda x: [total("sum", [0])(x), total("max", [1])(Neg.of(x))], 1e-5),
    Case("folds_in_map", "map", [(F, (9, 8))], lambda x: [Neg.of(x), Add.of(total("sum", [0])(x), total("max", [0])(x))], 1e-5),
    Case("other_shapes", "map", [(F, (9, 8)), (F, (3,))], lambda x, y: [Neg.of(x), Neg.of(y)], 1e-5),
    Case("fold_behind", "contract", [(F, (9, 8)), (F, (8, 20))], lambda x, y: total("sum", [1])(product([I, K], [K, J], [I, J])(x, y)), 1e-5),
    Case("sort_then_fold", "sort", [(F, (9, 8))], lambda x: total("max", [0])(sort(x, 1)[0]), 1e-5),
    Case("there_and_back", "fft", [(F, (9, 8))],
         lambda x: FFT.of(*FFT.of(x, full_like(x, 0), axis=1, inverse=False), axis=1, inverse=True), 1e-5),
]  # fmt: skip


@cached
def cases():
    return CASES


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_composite(name):
    check(cases()[name])
