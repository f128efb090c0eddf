"""Reduce kernels: every kind along rows, columns and everything, few rows and many, several levels; softmax and its kin."""

from dataclasses import replace

import numpy as np
import pytest

import dslc
from dslc.backend_cpu import emit
from dslc.backend_cpu.kernels.reduce import choose_layout
from dslc.backend_cpu.machine import host
from dslc.compiler import lower
from dslc.core.dtypes import BFLOAT16, BOOL, FLOAT32, FLOAT64, INT32, INT64
from dslc.ir.bodies import kernels_in
from dslc.ir.ops import (
    Add,
    ArgReduce,
    Compare,
    Div,
    Erf,
    Fold,
    Gather,
    Iota,
    LogSoftmax,
    Mul,
    Neg,
    Reduce,
    Rsqrt,
    Softmax,
    Sub,
    broadcast,
    cast,
    full,
    full_like,
    logsumexp,
    reshape,
    view,
)  # fmt: skip
from dslc.ir.rows import Rows, levels_of, nest_of, space_of
from dslc.ir.trace import Body
from dslc.ir.types import TensorType, type_of
from dslc.targets import TARGETS

from .harness import Case, cached, check, run

F = FLOAT32


def fold(kind, axes):
    return lambda x: Reduce.of(x, kind=kind, axes=axes)


def windows(kind, step, size, outside):
    """Pooling with a border of one."""
    rows = [[1, 0, 0, 0, 0], [0, step, 0, 1, 0], [0, 0, step, 0, 1]]
    return lambda x: Reduce.of(view(x, rows, [0, -1, -1], [3, *size, 3, 3], outside), kind=kind, axes=[3, 4])


def arg(kind, axis):
    return lambda x: ArgReduce.of(x, kind=kind, axis=axis)


def expanded(cls, axis):
    """A composite op in the ops that kernels are made of."""

    def build(x):
        op = cls.of(x, axis=axis).owner.opview
        value = op.expand()
        op.operation.erase()
        return value

    return build


def layernorm(x, w, b):
    rows, n = type_of(x).shape
    scale = full(TensorType(F, (rows,)), 1 / n)
    mean = Mul.of(Reduce.of(x, kind="sum", axes=[1]), scale)
    d = Sub.of(x, broadcast(mean, (rows, n), [0]))
    variance = Mul.of(Reduce.of(Mul.of(d, d), kind="sum", axes=[1]), scale)
    r = Rsqrt.of(Add.of(variance, full_like(variance, 1e-5)))
    return Add.of(Mul.of(Mul.of(d, broadcast(r, (rows, n), [0])), broadcast(w, (rows, n), [1])), broadcast(b, (rows, n), [1]))


def gelu(x):
    return Mul.of(Mul.of(x, full_like(x, 0.5)), Add.of(Erf.of(Mul.of(x, full_like(x, 0.5**0.5))), full_like(x, 1)))


def cross_entropy(logits, targets):
    shape = type_of(logits).shape
    places = Iota.of(axis=1, shape=shape, dtype=INT32)
    hit = cast(Compare.of(places, broadcast(targets, shape, [0]), predicate="eq"), F)
    return Neg.of(Reduce.of(Mul.of(expanded(LogSoftmax, 1)(logits), hit), kind="sum", axes=[1]))


def batch_statistics(x):
    total = Reduce.of(x, kind="sum", axes=[0, 2])
    return [total, Sub.of(x, broadcast(total, type_of(x).shape, [1]))]


def running_statistics(x, mean, variance):
    """Those of a batch's channels, and what they make of running ones: only the batch is read at every point."""
    n = type_of(x).size // type_of(mean).size
    mu = Mul.of(Reduce.of(x, kind="sum", axes=[0, 2]), full_like(mean, 1 / n))
    d = Sub.of(x, broadcast(mu, type_of(x).shape, [1]))
    square = Mul.of(Reduce.of(Mul.of(d, d), kind="sum", axes=[0, 2]), full_like(mean, 1 / n))
    return [Add.of(mean, mu), Add.of(variance, square), Rsqrt.of(Add.of(square, full_like(square, 1e-5)))]


def swapped_rows(x):
    """Each row less the sum of another row: a row value that is read elsewhere."""
    total = Reduce.of(x, kind="sum", axes=[1])
    other = Gather.of(total, Iota.of(axis=0, shape=(7,), dtype=INT32), batch=0, outside=0.0)
    return Sub.of(x, broadcast(other, type_of(x).shape, [0]))


ODD = np.array([[1, np.nan, 3, np.nan], [-np.inf] * 4, [2, 5, 5, 1], [np.inf, 0, np.inf, 0]], np.float32)
CASES = [
    *(Case(f"{kind}_{name}", "reduce", [(F, shape)], fold(kind, axes), 2e-5)
      for kind in ("sum", "max", "min", "prod")
      for name, shape, axes in (("rows", (7, 33), [1]), ("columns", (33, 70), [0]), ("all", (9, 13), [0, 1]), ("outer", (5, 6, 7), [0, 2]))),
    Case("sum_even", "reduce", [(F, (64, 256))], fold("sum", [1]), 1e-5),
    Case("sum_middle", "reduce", [(F, (5, 6, 7))], fold("sum", [1])),
    Case("sum_nothing", "reduce", [(F, (4, 0))], fold("sum", [1])),
    Case("max_nothing", "reduce", [(F, (4, 0))], fold("max", [1])),
    Case("sum_one", "reduce", [(F, (4, 1))], fold("sum", [1])),
    Case("sum_large", "reduce", [(F, (300, 700))], fold("sum", [0, 1]), 1e-4),
    Case("sum_long_columns", "reduce", [(F, (3000, 70))], fold("sum", [0]), 5e-5),
    Case("max_long_rows", "reduce", [(F, (3, 30001))], fold("max", [1])),
    Case("sum_float64", "reduce", [(FLOAT64, (9, 100))], fold("sum", [1]), 1e-13),
    Case("sum_int64", "reduce", [(INT64, (5, 37))], fold("sum", [1])),
    Case("max_int32", "reduce", [(INT32, (50, 37))], fold("max", [0])),
    Case("any", "reduce", [(BOOL, (50, 5))], fold("any", [1])),
    Case("all", "reduce", [(BOOL, (5, 3))], fold("all", [0])),
    Case("sum_bfloat16", "reduce", [(BFLOAT16, (20, 64))], lambda x: Reduce.of(cast(x, F), kind="sum", axes=[1]), 1e-5),
    Case("max_odd", "reduce", [ODD], fold("max", [1])),
    *(Case(f"arg{kind}_{axis}", "reduce", [(INT32, (50, 37))], arg(kind, axis)) for kind in ("max", "min") for axis in (0, 1)),
    Case("argmax_odd", "reduce", [ODD], arg("max", 1)),
    Case("argmax_long", "reduce", [(INT32, (3, 37000))], arg("max", 1)),
    Case("pool_by_two", "reduce", [(F, (3, 13, 90))], windows("max", 2, [7, 45], -np.inf)),
    Case("pool_by_two_cut", "reduce", [(F, (3, 10, 64))], windows("max", 2, [6, 33], -np.inf)),
    Case("pool_by_one", "reduce", [(F, (3, 9, 50))], windows("sum", 1, [9, 50], 0.0), 1e-5),
    Case("fold_windows", "reduce", [(F, (98, 3))], lambda g: Fold.of(g, strides=[1, 1], offsets=[0], shape=[100])),
    Case("fold_pooling", "reduce", [(F, (3, 6, 10, 2, 2))],
         lambda g: Fold.of(g, strides=[1, 0, 0, 0, 0, 0, 2, 0, 1, 0, 0, 0, 2, 0, 1], offsets=[0, 0, 0], shape=[3, 12, 20])),
    Case("fold_gaps", "reduce", [(F, (6, 10, 2, 3))],
         lambda g: Fold.of(g, strides=[3, 0, 1, 0, 0, 2, 0, 1], offsets=[-1, 2], shape=[18, 24])),
    Case("fold_windows_gaps", "reduce", [(F, (6, 10, 2, 2))],
         lambda g: Fold.of(g, strides=[3, 0, 1, 0, 0, 2, 0, 1], offsets=[-1, 2], shape=[18, 24])),
    Case("fold_strided", "reduce", [(F, (2, 4, 4, 3, 3))],
         lambda g: Fold.of(g, strides=[1, 0, 0, 0, 0, 0, 2, 0, 1, 0, 0, 0, 2, 0, 1], offsets=[0, -1, -1], shape=[2, 8, 8])),
    Case("fold_dilated", "reduce", [(F, (6, 5, 3, 4))],
         lambda g: Fold.of(g, strides=[3, 0, 2, 0, 0, 4, 0, 6], offsets=[-2, 1], shape=[19, 33])),
    Case("fold_many_taps", "reduce", [(F, (4, 5, 7, 5))],
         lambda g: Fold.of(g, strides=[3, 0, 1, 0, 0, 2, 0, 2], offsets=[-3, 0], shape=[12, 19])),
    *(Case(f"softmax_{name}", "reduce", [(F, shape)], expanded(Softmax, axis), 2e-6)
      for name, shape, axis in (("rows", (40, 96), 1), ("odd", (20, 37), 1), ("short", (30, 10), 1), ("columns", (40, 96), 0), ("few", (4000, 10), 0),
                                ("middle", (3, 20, 17), 1))),
    Case("log_softmax", "reduce", [(F, (20, 37))], expanded(LogSoftmax, 1), 5e-6),
    Case("logsumexp", "reduce", [(F, (20, 37))], lambda x: logsumexp(x, [1]), 5e-6),
    Case("cross_entropy", "reduce", [(F, (20, 37)), np.arange(20, dtype=np.int32)], cross_entropy, 5e-6),
    *(Case(f"layernorm_{n}", "reduce", [(F, (rows, n)), (F, (n,)), (F, (n,))], layernorm, 1e-5) for rows, n in ((40, 96), (40, 77), (3, 30000))),
    Case("gelu_add_layernorm", "reduce", [(F, (20, 37)), (F, (20, 37)), (F, (37,)), (F, (37,))],
         lambda x, r, w, b: layernorm(Add.of(gelu(x), r), w, b), 1e-5),
    Case("batch_statistics", "reduce", [(F, (4, 8, 50))], batch_statistics, 2e-5),
    Case("running_statistics", "reduce", [(F, (3, 40, 90)), (F, (40,)), (F, (40,))], running_statistics, 2e-5),
    Case("running_statistics_odd", "reduce", [(F, (2, 33, 7)), (F, (33,)), (F, (33,))], running_statistics, 2e-5),
    Case("other_row", "reduce", [(F, (7, 50))], swapped_rows, 1e-5),
    Case("reshaped_rows", "reduce", [(F, (6, 50))], lambda x: reshape(Reduce.of(x, kind="sum", axes=[1]), (2, 3)), 1e-5),
    Case("weighted", "reduce", [(F, (40, 33)), (F, (33,))],
         lambda x, w: Reduce.of(Div.of(x, broadcast(Add.of(Mul.of(w, w), full_like(w, 1)), (40, 33), [1])), kind="sum", axes=[0]), 1e-5),
]  # fmt: skip


@cached
def cases():
    return CASES


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_reduce(name):
    check(cases()[name])


ROWS = [(F, (5, 12, 605))]
AHEAD = [
    ("a second pass that computes", ROWS, expanded(Softmax, 2), True),
    ("and a second operand", ROWS * 2, lambda x, y: expanded(Softmax, 2)(Add.of(x, y)), True),
    ("a first pass that computes more", ROWS, lambda x: expanded(Softmax, 2)(gelu(x)), False),
    ("the results' pass alone is left", ROWS, lambda x: Sub.of(x, broadcast(Reduce.of(x, kind="max", axes=[2]), (5, 12, 605), [0, 1])), False),
    ("what a cache holds", [(F, (2, 12, 60))], expanded(Softmax, 2), False),
    ("rows that no cache holds", [(F, (70, 2500))], expanded(Softmax, 1), False),
]


@pytest.mark.parametrize("name, operands, build, asked", AHEAD, ids=[case[0] for case in AHEAD])
def test_the_next_row_is_asked_for_where_nothing_is_read_otherwise(name, operands, build, asked, monkeypatch):
    operand_of, real = set(), emit.Memory.fetch

    def fetch(memory, at):
        operand_of.add(memory.ref)
        real(memory, at)

    monkeypatch.setattr(emit.Memory, "fetch", fetch)
    check(run([Case(name, "reduce", operands, build)], machine=replace(host(), l2=32 << 10))[0])
    assert len(operand_of) == (len(operands) if asked else 0)


def layout_of(body):
    """How the reduce kernel of a layer in training runs, and the sizes of its nest."""
    lowered = lower(dslc.load(f"model M:\n    {body}\n    output y\n"), "train", TARGETS["cpu"])
    kernel = next(k for k in kernels_in(lowered.module) if k.kind == "reduce")
    traced = Body.of(kernel.regions[0].blocks[0])
    levels = levels_of(traced)
    space = space_of(levels)
    rows = Rows(traced, space, levels, nest_of(traced, space, levels))
    return choose_layout(rows, host()), rows.nest.sizes


def test_vectors_lie_along_what_is_read_at_every_point():
    """Statistics of channels read four vectors of the channels once each, and pictures at every point: the latter decide."""
    layout, sizes = layout_of("input x[2, 64, 12, 20]\n    y = batchnorm(x)")
    assert layout.across and sizes[layout.dim] == 240


def test_vectors_lie_along_channels_where_pictures_do():
    layout, sizes = layout_of("input x[300, 64]\n    y = batchnorm(x)")
    assert not layout.across and sizes[layout.dim] == 64
