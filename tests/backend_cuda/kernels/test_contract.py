"""Contractions of every arrangement of axes, convolutions in three directions, prologues, epilogues and types: on the emulator in three orders of
threads, against the float64 reference."""

from __future__ import annotations

import functools
from math import prod

import numpy as np
import pytest

from dslc.backend_cuda import emulated
from dslc.backend_cuda.gemm_schedule import hopper_cycles
from dslc.backend_cuda.kernels import contract, generate, tiles
from dslc.backend_cuda.kernels import hopper as hopper_kernels
from dslc.backend_cuda.program_text import Unit, printed
from dslc.backend_cuda.source import bundle
from dslc.core.dtypes import BFLOAT16, FLOAT8_E4M3, FLOAT16, FLOAT32, FLOAT64, INT32
from dslc.ir import op as nn
from dslc.ir.mlir import ir
from dslc.ir.ops import Add, Contract, Conv, Max, Mul, Neg, Sigmoid, broadcast, cast, full_like, reshape, transpose
from dslc.ir.rows import Unsuited
from dslc.ir.types import type_of
from dslc.runtime.drivers import emulator

from .products import AMPERE, HOPPER, Case, built, check, expected, run

F, BF, H16 = FLOAT32, BFLOAT16, FLOAT16
I, J, K, B, H = range(5)


def product(lhs, rhs, out, dtype=None, tf32=False):
    return lambda a, b: Contract.of(a, b, lhs=lhs, rhs=rhs, out=out, dtype=dtype or type_of(a).dtype, tf32=tf32)


MATRIX = product([I, K], [K, J], [I, J])
MATRIX_TF32 = product([I, K], [K, J], [I, J], tf32=True)


def conv(stride, pad, size, dilation=(1, 1), spacing=(1, 1), tf32=False):
    return lambda x, w: Conv.of(x, w, stride=stride, dilation=dilation, spacing=spacing, low=pad, size=size, dtype=type_of(x).dtype, tf32=tf32)


def linear(x, w, bias, residual, matrix=MATRIX):
    y = Add.of(matrix(x, w), broadcast(bias, type_of(residual).shape, [1]))
    return [Add.of(Mul.of(y, Sigmoid.of(y)), residual), Max.of(y, full_like(y, 0))]


def both(a, b):
    y = MATRIX(a, b)
    return [Neg.of(transpose(y, [1, 0])), y]


CASES = {
    "plain": ([(F, (7, 33)), (F, (33, 20))], MATRIX),
    "large": ([(F, (130, 70)), (F, (70, 200))], MATRIX),
    "row": ([(BF, (1, 96)), (BF, (96, 136))], MATRIX),
    "row_float": ([(F, (100,)), (F, (100, 72))], product([K], [K, J], [J])),
    "rows_of_heads": ([(BF, (2, 700)), (BF, (700, 3, 40))], product([I, K], [K, H, J], [I, H, J])),
    "row_of_each_head": ([(H16, (3, 1, 90)), (H16, (3, 90, 64))], product([H, I, K], [H, K, J], [H, I, J])),
    "row_epilogue": ([(F, (1, 33)), (F, (33, 20)), (F, (20,)), (F, (1, 20))], linear),
    "row_prologue": ([(BF, (1, 130)), (BF, (130, 48))], lambda a, b: MATRIX(Mul.of(a, a), Neg.of(b))),
    "right_transposed": ([(F, (70, 36)), (F, (90, 36))], product([I, K], [J, K], [I, J])),
    "left_transposed": ([(F, (36, 72)), (F, (36, 20))], product([K, I], [K, J], [I, J])),
    "result_transposed": ([(F, (70, 33)), (F, (33, 20))], product([I, K], [K, J], [J, I])),
    "batched": ([(F, (3, 7, 33)), (F, (3, 33, 20))], product([B, I, K], [B, K, J], [B, I, J])),
    "heads": ([(BF, (2, 70, 3, 32)), (BF, (2, 72, 3, 32))], product([B, I, H, K], [B, J, H, K], [B, H, I, J])),
    "heads_out": ([(BF, (2, 72, 40)), (BF, (40, 3, 16))], product([B, I, K], [K, H, J], [B, H, I, J])),
    "two_terms": ([(BF, (2, 3, 9, 64)), (BF, (3, 64, 24))], product([B, H, I, K], [H, K, J], [B, I, J])),
    "batch_last": ([(F, (7, 33, 5)), (F, (33, 20, 5))], product([I, K, B], [K, J, B], [I, J, B])),
    "outer": ([(F, (7,)), (F, (20,))], product([I], [J], [I, J])),
    "dot": ([(F, (7000,)), (F, (7000,))], product([K], [K], [])),
    "matrix_vector": ([(F, (70, 100)), (F, (100,))], product([I, K], [K], [I])),
    "elementwise_batch": ([(F, (6, 9)), (F, (6, 9))], product([B, K], [B, K], [B])),
    "long_sum": ([(F, (5, 5000)), (F, (5000, 18))], MATRIX),
    "no_terms": ([(F, (5, 0)), (F, (0, 4))], MATRIX),
    "bfloat16": ([(BF, (70, 33)), (BF, (33, 20))], product([I, K], [K, J], [I, J], F)),
    "bfloat16_out": ([(BF, (70, 48)), (BF, (48, 24))], MATRIX),
    "float16": ([(H16, (70, 48)), (H16, (48, 24))], product([I, K], [K, J], [I, J], F)),
    "float8": ([(FLOAT8_E4M3, (70, 48)), (FLOAT8_E4M3, (48, 24))], product([I, K], [K, J], [I, J], F)),
    "float64": ([(FLOAT64, (70, 33)), (FLOAT64, (33, 20))], MATRIX),
    "int32": ([(INT32, (7, 33)), (INT32, (33, 20))], MATRIX),
    "conv": ([(F, (2, 1, 3, 9, 9)), (F, (1, 4, 3, 3, 3))], conv([1, 1], [1, 1], [9, 9])),
    "conv_image": ([(F, (2, 1, 5, 16, 16)), (F, (1, 6, 5, 3, 3))], conv([1, 1], [1, 1], [16, 16])),
    "conv_narrow": ([(BF, (2, 1, 8, 16, 16)), (BF, (1, 8, 8, 3, 3))], conv([1, 1], [1, 1], [16, 16])),
    "conv_strided": ([(F, (2, 2, 3, 9, 9)), (F, (2, 4, 3, 3, 3))], conv([2, 2], [1, 1], [5, 4], dilation=(1, 2))),
    "conv_transposed": ([(F, (2, 1, 3, 5, 5)), (F, (1, 4, 3, 3, 3))], conv([1, 1], [1, 1], [9, 9], spacing=(2, 2))),
    "conv_depthwise": ([(F, (2, 6, 1, 9, 20)), (F, (6, 1, 1, 3, 3))], conv([1, 1], [1, 1], [9, 20])),
    "conv_weights": ([(F, (3, 1, 2, 9, 9)), (F, (1, 4, 2, 9, 9))], conv([1, 1], [1, 1], [3, 3])),
    "conv_1d": ([(F, (2, 1, 3, 40)), (F, (1, 4, 3, 5))],
                lambda x, w: Conv.of(x, w, stride=[1], dilation=[1], spacing=[1], low=[4], size=[40], dtype=F)),
    "epilogue": ([(F, (70, 33)), (F, (33, 20)), (F, (20,)), (F, (70, 20))], linear),
    "epilogue_narrow": ([(BF, (72, 64)), (BF, (64, 40)), (BF, (40,)), (BF, (72, 40))], linear),
    "epilogue_moved": ([(F, (7, 33)), (F, (33, 20))], both),
    "epilogue_reshaped": ([(F, (6, 33)), (F, (33, 20))], lambda a, b: reshape(Neg.of(MATRIX(a, b)), (2, 3, 20))),
    "epilogue_cast": ([(F, (7, 33)), (F, (33, 20))], lambda a, b: cast(MATRIX(a, b), BF)),
    "prologue": ([(F, (70, 36)), (F, (36, 20))], lambda a, b: MATRIX(Mul.of(a, a), Neg.of(b))),
    "prologue_cast": ([(F, (70, 40)), (F, (40, 24))], lambda a, b: MATRIX(cast(a, BF), cast(b, BF))),
    "prologue_narrow": ([(BF, (2, 3, 40, 70)), (BF, (70, 36))],
                        lambda a, b: product([B, H, I, K], [K, J], [B, H, I, J])(Max.of(a, full_like(a, 0)), Neg.of(b))),
    "tf32": ([(F, (70, 48)), (F, (48, 24))], MATRIX_TF32),
    "tf32_odd": ([(F, (131, 71)), (F, (71, 203))], MATRIX_TF32),
    "tf32_right_transposed": ([(F, (70, 36)), (F, (90, 36))], product([I, K], [J, K], [I, J], tf32=True)),
    "tf32_right_transposed_odd": ([(F, (37, 33)), (F, (19, 33))], product([I, K], [J, K], [I, J], tf32=True)),
    "tf32_left_transposed": ([(F, (36, 72)), (F, (36, 20))], product([K, I], [K, J], [I, J], tf32=True)),
    "tf32_both_transposed": ([(F, (36, 70)), (F, (90, 36))], product([K, I], [J, K], [I, J], tf32=True)),
    "tf32_result_transposed": ([(F, (70, 33)), (F, (33, 20))], product([I, K], [K, J], [J, I], tf32=True)),
    "tf32_batched": ([(F, (3, 7, 33)), (F, (3, 33, 20))], product([B, I, K], [B, K, J], [B, I, J], tf32=True)),
    "tf32_heads": ([(F, (2, 70, 3, 32)), (F, (2, 72, 3, 32))], product([B, I, H, K], [B, J, H, K], [B, H, I, J], tf32=True)),
    "tf32_heads_out": ([(F, (2, 72, 40)), (F, (40, 3, 16))], product([B, I, K], [K, H, J], [B, H, I, J], tf32=True)),
    "tf32_two_terms": ([(F, (2, 3, 9, 64)), (F, (3, 64, 24))], product([B, H, I, K], [H, K, J], [B, I, J], tf32=True)),
    "tf32_long_sum": ([(F, (5, 5000)), (F, (5000, 18))], MATRIX_TF32),
    "tf32_row": ([(F, (1, 33)), (F, (33, 20))], MATRIX_TF32),
    "tf32_conv": ([(F, (2, 1, 3, 9, 9)), (F, (1, 4, 3, 3, 3))], conv([1, 1], [1, 1], [9, 9], tf32=True)),
    "tf32_conv_strided": ([(F, (2, 2, 3, 9, 9)), (F, (2, 4, 3, 3, 3))], conv([2, 2], [1, 1], [5, 4], dilation=(1, 2), tf32=True)),
    "tf32_conv_depthwise": ([(F, (2, 6, 1, 9, 20)), (F, (6, 1, 1, 3, 3))], conv([1, 1], [1, 1], [9, 20], tf32=True)),
    "tf32_epilogue": ([(F, (70, 33)), (F, (33, 20)), (F, (20,)), (F, (70, 20))], lambda *v: linear(*v, matrix=MATRIX_TF32)),
    "tf32_prologue": ([(F, (70, 36)), (F, (36, 20))], lambda a, b: MATRIX_TF32(Max.of(a, full_like(a, 0)), Neg.of(b))),
}  # fmt: skip
ROWS = tuple(name for name in CASES if name.startswith("row"))
# The copy engine can read the operands of heads, heads_out, bfloat16_out, epilogue_narrow, tf32_right_transposed and tf32_heads; others are packed.
ON_HOPPER = (
    "heads", "heads_out", "two_terms", "bfloat16_out", "epilogue_narrow", "bfloat16", "prologue_cast", "prologue_narrow", "tf32", "tf32_odd",
    "tf32_right_transposed", "tf32_right_transposed_odd", "tf32_left_transposed", "tf32_both_transposed", "tf32_heads", "tf32_two_terms",
    "tf32_epilogue", "tf32_prologue",
)  # fmt: skip


def made_of(names, arch, make):
    """Of every case its request, what was generated, arrays and reference."""
    found = {}
    for name in names:
        case = Case(name, *CASES[name])
        b = built(case, arch)
        arrays = case.arrays()
        found[name] = (b, make(b.request), arrays, expected(b, arrays))
    return found


def cases(names, arch, make):
    """The cases, and one text of all."""
    found = made_of(names, arch, make)
    units = [Unit(name, "contract", name, (), b.request.body, 0, 0, g.includes, list(g.functions)) for name, (b, g, _, _) in found.items()]
    return emulated.build(bundle(printed("cases", units, arch).whole), checked=True), found


def on_hopper(request):
    """The Hopper version, however small the product is."""
    (op,) = {op for op, _ in request.body.makers.values() if op.structure == "contract"}
    p = contract.hopper_product(contract.epilogue_of(request, op))
    return hopper_kernels.generate(p, min(hopper_kernels.schedules(p), key=lambda s: hopper_cycles(s, p.sizes, HOPPER, p.depth)))


def by_tiles(request):
    """The version for any GPU, whatever the cost rule says; of what is no product of tiles, the generator's."""
    (op,) = {op for op, _ in request.body.makers.values() if op.structure == "contract"}
    try:
        p = tiles.product_of(contract.epilogue_of(request, op))
    except Unsuited:
        return generate("contract", request)
    return tiles.generate(p, min(tiles.schedules(p), key=lambda pair: pair[1])[0])


@functools.cache
def ampere():
    with nn.context(), ir.Location.unknown():
        return cases(CASES, AMPERE, lambda request: generate("contract", request))


@functools.cache
def rows_by_tiles():
    with nn.context(), ir.Location.unknown():
        return cases(ROWS, AMPERE, by_tiles)


@functools.cache
def hopper():
    with nn.context(), ir.Location.unknown():
        return cases(ON_HOPPER, HOPPER, on_hopper)


def check_case(made, name):
    code, found = made
    b, generated, arrays, wanted = found[name]
    first = run(code, generated, b.request, arrays, emulator.ORDERS[0])
    for order in emulator.ORDERS[1:]:
        for x, y in zip(first, run(code, generated, b.request, arrays, order)):
            np.testing.assert_array_equal(x.view(np.uint8) if x.dtype.itemsize == 2 else x, y.view(np.uint8) if y.dtype.itemsize == 2 else y)
    compare(first, b, wanted, name)


def compare(results, b, wanted, name):
    (op,) = {op for op, _ in b.request.body.makers.values() if op.structure == "contract"}
    before = made_from(b.request.body, op)
    terms = max(prod(op.maps().domain[op.type.rank :]), 1)
    check(results, wanted, terms, name, len(b.request.body.makers) - 1 - before, before, op.types()[0].dtype)


def made_from(body, op):
    """The ops that a contraction's factors are made by."""
    found, todo = set(), list(op.operands)
    while todo:
        value = todo.pop()
        if value in body.makers and value not in found:
            found.add(value)
            todo += body.makers[value][0].operands
    return len(found)


@pytest.mark.parametrize("name", CASES)
def test_on_any_gpu(name):
    check_case(ampere(), name)


@pytest.mark.parametrize("name", ROWS)
def test_rows_by_tiles(name):
    """Which columns are faster for."""
    check_case(rows_by_tiles(), name)


@pytest.mark.parametrize("name", ON_HOPPER)
def test_on_hopper(name):
    check_case(hopper(), name)


@pytest.mark.parametrize("name, by_columns", [(name, name in ROWS) for name in (*ROWS, "matrix_vector", "dot")])
def test_few_rows_with_a_matrix_are_read_by_columns(name, by_columns):
    with nn.context(), ir.Location.unknown():
        made = built(Case(name, *CASES[name]), AMPERE)
        (first, *_) = generate("contract", made.request).functions
    assert ("columns a block" in first.schedule) == by_columns
