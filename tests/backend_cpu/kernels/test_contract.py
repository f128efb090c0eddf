"""Contractions of every arrangement of axes, convolutions in three directions, prologues, epilogues, types."""

from dataclasses import replace

import numpy as np
import pytest

from dslc.backend_cpu import emit
from dslc.backend_cpu.kernels import bands, generate, places
from dslc.backend_cpu.machine import Machine
from dslc.backend_cpu.stage import request_of
from dslc.core.dtypes import BFLOAT16, FLOAT32, FLOAT64, INT32
from dslc.ir import op as nn
from dslc.ir.mlir import ir
from dslc.ir.ops import Add, Contract, Conv, Iota, Max, Mul, Neg, Sub, broadcast, cast, full_like, reshape, transpose
from dslc.ir.trace import Body
from dslc.ir.types import type_of

from .harness import Case, cached, check, plan_of, run, sample

F = FLOAT32
I, J, K, B, H = range(5)


def product(lhs, rhs, out, dtype=None, tf32=False):
    return lambda a, b: Contract.of(a, b, lhs=lhs, rhs=rhs, out=out, dtype=dtype or type_of(a).dtype, tf32=tf32)


def conv(stride, pad, size, dilation=(1, 1), spacing=(1, 1), tf32=False):
    return lambda x, w: Conv.of(x, w, stride=stride, dilation=dilation, spacing=spacing, low=pad, size=size, dtype=type_of(x).dtype, tf32=tf32)


def weights_in_runs(x, w):
    """A filter's gradient: the pictures are apart in memory, and sums go over them and all places."""
    x, w = (reshape(transpose(v, [1, 0, 2, 3]), shape) for v, shape in ((x, (3, 1, 2, 8, 32)), (w, (1, 5, 2, 8, 32))))
    return conv([1, 1], [1, 1], [3, 3])(x, w)


def filters_laid_out(x, w):
    """Filters with inputs before outputs, as in a convolution's gradient."""
    return conv([1, 1], [1, 1], [12, 64])(x, reshape(transpose(w, [1, 0, 2, 3]), (1, 40, 16, 3, 3)))


def edge(x, w, bias, more):
    """7 x 7 places, one more than three vectors hold, with work on the result that reads rows and points."""
    y = reshape(conv([1, 1], [1, 1], [7, 7])(x, w), (1, 160, 7, 7))
    return Add.of(Max.of(Add.of(y, broadcast(bias, (1, 160, 7, 7), [1])), full_like(y, 0)), more)


def generated(x):
    """Columns that read no operand."""
    k, j = (Iota.of(axis=axis, shape=(300, 256), dtype=F) for axis in (0, 1))
    return product([I, K], [K, J], [I, J])(x, Mul.of(Sub.of(j, k), full_like(k, 0.01)))


def linear(x, w, bias):
    y = Add.of(product([I, K], [K, J], [I, J])(x, w), broadcast(bias, (7, 20), [1]))
    return [y, Max.of(y, full_like(y, 0))]


def with_rest(x, w, rest):
    return Add.of(product([I, K], [K, J], [I, J])(x, w), rest)


CASES = [
    Case("plain", "contract", [(F, (7, 33)), (F, (33, 20))], product([I, K], [K, J], [I, J]), 1e-5),
    Case("generated", "contract", [(F, (256, 300))], generated, 5e-5),
    Case("large", "contract", [(F, (130, 70)), (F, (70, 200))], product([I, K], [K, J], [I, J]), 2e-5),
    Case("right_transposed", "contract", [(F, (7, 33)), (F, (20, 33))], product([I, K], [J, K], [I, J]), 1e-5),
    Case("left_transposed", "contract", [(F, (33, 7)), (F, (33, 20))], product([K, I], [K, J], [I, J]), 1e-5),
    Case("result_transposed", "contract", [(F, (7, 33)), (F, (33, 20))], product([I, K], [K, J], [J, I]), 1e-5),
    Case("batched", "contract", [(F, (3, 7, 33)), (F, (3, 33, 20))], product([B, I, K], [B, K, J], [B, I, J]), 1e-5),
    Case("heads", "contract", [(F, (2, 9, 3, 8)), (F, (2, 11, 3, 8))], product([B, I, H, K], [B, J, H, K], [B, H, I, J]), 1e-5),
    Case("heads_out", "contract", [(F, (2, 9, 12)), (F, (12, 3, 8))], product([B, I, K], [K, H, J], [B, H, I, J]), 1e-5),
    Case("two_terms", "contract", [(F, (2, 3, 9, 8)), (F, (3, 8, 20))], product([B, H, I, K], [H, K, J], [B, I, J]), 1e-5),
    Case("batch_last", "contract", [(F, (7, 33, 5)), (F, (33, 20, 5))], product([I, K, B], [K, J, B], [I, J, B]), 1e-5),
    Case("outer", "contract", [(F, (7,)), (F, (20,))], product([I], [J], [I, J])),
    Case("dot", "contract", [(F, (70000,)), (F, (70000,))], product([K], [K], []), 3e-4),
    Case("matrix_vector", "contract", [(F, (70, 100)), (F, (100,))], product([I, K], [K], [I]), 2e-5),
    Case("vector_matrix", "contract", [(F, (100,)), (F, (100, 70))], product([K], [K, J], [J]), 2e-5),
    Case("elementwise_batch", "contract", [(F, (6, 9)), (F, (6, 9))], product([B, K], [B, K], [B]), 1e-5),
    Case("long_sum", "contract", [(F, (5, 5000)), (F, (5000, 18))], product([I, K], [K, J], [I, J]), 2e-4),
    Case("no_terms", "contract", [(F, (3, 0)), (F, (0, 4))], product([I, K], [K, J], [I, J])),
    Case("tf32", "contract", [(F, (70, 36)), (F, (36, 24))], product([I, K], [K, J], [I, J], tf32=True), 1e-5),
    Case("tf32_right_transposed", "contract", [(F, (7, 33)), (F, (20, 33))], product([I, K], [J, K], [I, J], tf32=True), 1e-5),
    Case("tf32_left_transposed", "contract", [(F, (33, 7)), (F, (33, 20))], product([K, I], [K, J], [I, J], tf32=True), 1e-5),
    Case("tf32_conv_image", "contract", [(F, (1, 1, 32, 20, 20)), (F, (1, 32, 32, 3, 3))], conv([1, 1], [1, 1], [20, 20], tf32=True), 2e-5),
    Case("tf32_conv_strided", "contract", [(F, (2, 1, 3, 9, 9)), (F, (1, 4, 3, 3, 3))], conv([2, 2], [1, 1], [5, 5], tf32=True), 1e-5),
    Case("tf32_conv_depthwise", "contract", [(F, (2, 6, 1, 9, 20)), (F, (6, 1, 1, 3, 3))], conv([1, 1], [1, 1], [9, 20], tf32=True), 1e-5),
    Case("bfloat16", "contract", [(BFLOAT16, (7, 33)), (BFLOAT16, (33, 20))], product([I, K], [K, J], [I, J], FLOAT32), 1e-5),
    Case("bfloat16_out", "contract", [(BFLOAT16, (7, 33)), (BFLOAT16, (33, 20))], product([I, K], [K, J], [I, J])),
    Case("float64", "contract", [(FLOAT64, (7, 33)), (FLOAT64, (33, 20))], product([I, K], [K, J], [I, J]), 1e-13),
    Case("int32", "contract", [(INT32, (7, 33)), (INT32, (33, 20))], product([I, K], [K, J], [I, J])),
    Case("conv", "contract", [(F, (2, 1, 3, 9, 9)), (F, (1, 4, 3, 3, 3))], conv([1, 1], [1, 1], [9, 9]), 1e-5),
    Case("conv_wide", "contract", [(F, (2, 1, 3, 5, 64)), (F, (1, 4, 3, 3, 3))], conv([1, 1], [1, 1], [5, 64]), 1e-5),
    Case("conv_image", "contract", [(F, (2, 1, 5, 16, 16)), (F, (1, 6, 5, 3, 3))], conv([1, 1], [1, 1], [16, 16]), 1e-5),
    Case("conv_strided", "contract", [(F, (2, 2, 3, 9, 9)), (F, (2, 4, 3, 3, 3))], conv([2, 2], [1, 1], [5, 4], dilation=(1, 2)), 1e-5),
    Case("conv_transposed", "contract", [(F, (2, 1, 3, 5, 5)), (F, (1, 4, 3, 3, 3))], conv([1, 1], [1, 1], [9, 9], spacing=(2, 2)), 1e-5),
    Case("conv_depthwise", "contract", [(F, (2, 6, 1, 9, 20)), (F, (6, 1, 1, 3, 3))], conv([1, 1], [1, 1], [9, 20]), 1e-5),
    Case("conv_depthwise_wide", "contract", [(F, (1, 3, 1, 6, 70)), (F, (3, 1, 1, 3, 5))], conv([1, 1], [1, 2], [6, 70]), 1e-5),
    Case("conv_depthwise_strided", "contract", [(F, (2, 6, 1, 9, 72)), (F, (6, 1, 1, 3, 3))], conv([2, 2], [1, 1], [5, 36]), 1e-5),
    *(Case(f"conv_depthwise_{name}", "contract", [(dtype, (2, 5, 1, *size)), (dtype, (5, 1, 1, *taps))], conv(stride, pad, made, dilation), 2e-5)
      for name, dtype, size, taps, stride, pad, made, dilation in (
          ("short", F, (7, 7), (3, 3), [1, 1], [1, 1], [7, 7], (1, 1)), ("short_twice", F, (14, 14), (3, 3), [1, 1], [1, 1], [14, 14], (1, 1)),
          ("short_strided", F, (14, 13), (3, 3), [2, 2], [1, 1], [7, 7], (1, 1)), ("prime", F, (13, 37), (3, 3), [1, 1], [1, 1], [13, 37], (1, 1)),
          ("dilated", F, (12, 40), (3, 3), [1, 1], [3, 2], [12, 40], (3, 2)), ("five", F, (8, 33), (5, 5), [1, 1], [2, 2], [8, 33], (1, 1)),
          ("strided_dilated", F, (21, 50), (3, 3), [2, 2], [3, 3], [11, 25], (3, 3)), ("valid", F, (10, 34), (3, 3), [1, 1], [0, 0], [8, 32], (1, 1)),
          ("double", FLOAT64, (8, 24), (3, 3), [1, 1], [1, 1], [8, 24], (1, 1)), ("flat", F, (1, 48), (1, 3), [1, 1], [0, 1], [1, 48], (1, 1)))),
    Case("conv_depthwise_line", "contract", [(F, (2, 5, 1, 40)), (F, (5, 1, 1, 4))],
         lambda x, w: Conv.of(x, w, stride=[1], dilation=[1], spacing=[1], low=[3], size=[40], dtype=F), 1e-5),
    Case("conv_depthwise_volume", "contract", [(F, (1, 3, 1, 4, 6, 20)), (F, (3, 1, 1, 2, 3, 3))],
         lambda x, w: Conv.of(x, w, stride=[1] * 3, dilation=[1] * 3, spacing=[1] * 3, low=[1] * 3, size=[5, 6, 20], dtype=F), 2e-5),
    Case("conv_depthwise_spaced", "contract", [(F, (2, 6, 1, 5, 20)), (F, (6, 1, 1, 3, 3))], conv([1, 1], [1, 1], [9, 39], spacing=(2, 2)), 1e-5),
    Case("conv_edge", "contract", [(F, (1, 1, 64, 7, 7)), (F, (1, 160, 64, 3, 3)), (F, (160,)), (F, (1, 160, 7, 7))], edge, 5e-5),
    Case("product_edge", "contract", [(F, (150, 300)), (F, (300, 100))], product([I, K], [K, J], [I, J]), 5e-5),
    Case("conv_rows_strided", "contract", [(F, (2, 1, 6, 23, 41)), (F, (1, 10, 6, 3, 3))], conv([2, 2], [1, 1], [12, 21]), 1e-5),
    Case("conv_rows_inside", "contract", [(F, (1, 1, 3, 9, 71)), (F, (1, 20, 3, 5, 5))], conv([2, 2], [2, 2], [5, 35]), 1e-5),
    Case("conv_rows_valid", "contract", [(F, (2, 1, 5, 12, 23)), (F, (1, 9, 5, 3, 3))], conv([1, 1], [0, 0], [10, 21]), 1e-5),
    Case("conv_rows_one", "contract", [(F, (1, 1, 20, 14, 26)), (F, (1, 12, 20, 1, 1))], conv([2, 2], [0, 0], [7, 13]), 1e-5),
    Case("conv_rows_short", "contract", [(F, (1, 1, 4, 13, 13)), (F, (1, 5, 4, 3, 3))], conv([2, 2], [1, 1], [7, 7]), 1e-5),
    Case("conv_rows_edge", "contract", [(F, (1, 1, 64, 13, 13)), (F, (1, 160, 64, 3, 3))], conv([2, 2], [1, 1], [7, 7]), 5e-5),
    Case("conv_weights", "contract", [(F, (3, 1, 2, 9, 9)), (F, (1, 4, 2, 9, 9))], conv([1, 1], [1, 1], [3, 3]), 2e-5),
    Case("conv_1d", "contract", [(F, (2, 1, 3, 40)), (F, (1, 4, 3, 5))],
         lambda x, w: Conv.of(x, w, stride=[1], dilation=[1], spacing=[1], low=[4], size=[40], dtype=F), 1e-5),
    Case("conv_packed_once", "contract", [(F, (1, 1, 232, 14, 14)), (F, (1, 200, 232, 3, 3))], conv([1, 1], [2, 2], [14, 14], (2, 2)), 1e-4),
    Case("conv_weights_in_runs", "contract", [(F, (2, 3, 8, 32)), (F, (2, 5, 8, 32))], weights_in_runs, 1e-4),
    Case("conv_filters_laid_out", "contract", [(F, (2, 1, 16, 12, 64)), (F, (16, 40, 3, 3))], filters_laid_out, 5e-5),
    Case("epilogue", "contract", [(F, (7, 33)), (F, (33, 20)), (F, (20,))], linear, 1e-5),
    Case("epilogue_rest", "contract", [(F, (37, 70)), (F, (70, 83)), (F, (37, 83))], with_rest, 2e-5),
    Case("epilogue_rest_narrow", "contract", [(F, (3, 200)), (F, (200, 150)), (BFLOAT16, (3, 150))],
         lambda a, b, r: with_rest(a, b, cast(r, F)), 5e-5),
    Case("epilogue_moved", "contract", [(F, (7, 33)), (F, (33, 20))],
         lambda a, b: (lambda y: [Neg.of(transpose(y, [1, 0])), y])(product([I, K], [K, J], [I, J])(a, b)), 1e-5),
    Case("epilogue_reshaped", "contract", [(F, (6, 33)), (F, (33, 20))],
         lambda a, b: reshape(Neg.of(product([I, K], [K, J], [I, J])(a, b)), (2, 3, 20)), 1e-5),
    Case("epilogue_narrow", "contract", [(F, (7, 33)), (F, (33, 20))], lambda a, b: cast(product([I, K], [K, J], [I, J])(a, b), BFLOAT16)),
    Case("prologue", "contract", [(F, (7, 33)), (F, (33, 20))], lambda a, b: product([I, K], [K, J], [I, J])(Mul.of(a, a), Neg.of(b)), 1e-5),
]  # fmt: skip


@cached
def cases():
    return CASES


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_contract(name):
    check(cases()[name])


def test_convolutions_with_packed_windows(monkeypatch):
    """Plain products also of what is cheaper over bands of rows."""
    monkeypatch.setattr(bands._Bands, "_plain", lambda self: 0.0)
    for case in run([replace(case) for case in CASES if case.name.startswith("conv")]):
        check(case)


def stages(case):
    case.arrays = [sample(*operand, np.random.default_rng(0)) for operand in case.operands]
    with nn.context(), ir.Location.unknown():
        module = ir.Module.create()
        plan, _ = plan_of(module, [case])
        request = request_of(Body.of(plan.steps[0].kernel.regions[0].blocks[0]), Machine(16, 32, 32 << 10, 1 << 20, 2, "any"))
        return len(generate("contract", request).stages)


@pytest.mark.parametrize("name, count", [("conv_image", 1), ("conv_packed_once", 3), ("conv_filters_laid_out", 2), ("product_edge", 2), ("large", 1)])
def test_what_is_read_again_is_packed_first(name, count):
    assert stages(next(replace(case) for case in CASES if case.name == name)) == count


@pytest.mark.parametrize("name", [case.name for case in CASES if case.name.startswith("conv_rows")])
def test_rows_of_places_are_packed_one_by_one(name, monkeypatch):
    found = []
    monkeypatch.setattr(bands._Bands, "_plain", lambda self: 0.0)
    monkeypatch.setattr(places, "of", lambda *args, of=places.of: found.append(of(*args)) or found[-1])
    stages(next(replace(case) for case in CASES if case.name == name))
    assert found[0] is not None and found[0].step == (1 if name == "conv_rows_valid" else 2)


@pytest.mark.parametrize(
    ("shapes", "rest", "asked"),
    [
        ((40, 96, 64), True, True),
        ((40, 96, 64), False, False),  # a bias is near
        ((40, 30, 64), True, False),  # the sums are done before it could come
    ],
)
def test_what_an_epilogue_reads_is_asked_for_while_the_sums_are_made(shapes, rest, asked, monkeypatch):
    m, k, n = shapes
    size, real = m * n if rest else n, emit.Memory.fetch
    found: set[int] = set()
    monkeypatch.setattr(emit.Memory, "fetch", lambda memory, at: (found.add(memory.ref.type.shape[0]), real(memory, at)))

    def with_more(x, w, more):
        return with_rest(x, w, more if rest else broadcast(more, (m, n), [1]))

    check(run([Case("rest", "contract", [(F, (m, k)), (F, (k, n)), (F, (m, n) if rest else (n,))], with_more, 5e-5)])[0])
    assert (size in found) == asked


@pytest.mark.parametrize(
    ("rows", "width", "loads"),
    [
        (7, 7, 27 + 9),  # nine rows of the picture, each at three places, for seven: 63 would be one by one
        (4, 48, 2 * (18 + 9)),  # with tests and without
        (11, 48, 2 * (9 + 9)),  # a prime
    ],
)
def test_rows_of_a_depthwise_convolution_share_what_they_read(rows, width, loads, monkeypatch):
    count, real = [], emit.Memory.load
    monkeypatch.setattr(emit.Memory, "load", lambda memory, *args, **kw: (count.append(1), real(memory, *args, **kw))[1])
    operands = [(F, (2, 5, 1, rows, width)), (F, (5, 1, 1, 3, 3))]
    check(run([Case("shared", "contract", operands, conv([1, 1], [1, 1], [rows, width]), 1e-5)])[0])
    assert len(count) == loads
