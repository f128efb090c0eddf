"""Samples of every op of the table: operands and attributes. `domain` says from where float operands are drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dslc.core import dtypes


@dataclass(frozen=True)
class Sample:
    """An op with operands, given as shapes of float64 tensors drawn from [low, high), or as arrays."""

    op: str
    operands: tuple[Any, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    low: float = -2.0
    high: float = 2.0
    differentiable: bool = True  # smooth at the drawn points, so that finite differences tell the gradient
    note: str = ""

    @property
    def name(self) -> str:
        return f"{self.op}{'-' + self.note if self.note else ''}"

    def arrays(self, seed: int = 0) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        return [rng.uniform(self.low, self.high, x) if isinstance(x, tuple) else np.asarray(x) for x in self.operands]


def unary(op: str, low: float = -2.0, high: float = 2.0, differentiable: bool = True) -> list[Sample]:
    return [Sample(op, (shape,), {}, low, high, differentiable, str(list(shape))) for shape in ((3, 4), (), (0, 2))]


def binary(op: str, low: float = 0.5, high: float = 2.0) -> list[Sample]:
    return [Sample(op, (shape, shape), {}, low, high, note=str(list(shape))) for shape in ((3, 4), ())]


I32, BOOL = np.int32, np.bool_
FLAGS = np.array([[True, False, True], [False, False, True]])
IDS = np.array([[0, 2, 1], [3, 3, 0]], I32)
EYE = {"lhs": (0, 1), "rhs": (1, 2), "out": (0, 2), "dtype": dtypes.FLOAT64}
CONV = {"stride": (1, 1), "dilation": (1, 1), "spacing": (1, 1), "low": (1, 1), "size": (5, 4), "dtype": dtypes.FLOAT64}

SAMPLES: list[Sample] = [
    *(s for op in ("neg", "exp", "expm1", "sin", "cos", "tanh", "sigmoid", "erf", "sinh", "cosh", "asinh", "atan", "abs") for s in unary(op)),
    *(s for op in ("log", "sqrt", "rsqrt") for s in unary(op, 0.2, 3)),
    *(s for op in ("asin", "acos", "atanh") for s in unary(op, -0.8, 0.8)),
    *unary("log1p", -0.5, 2), *unary("acosh", 1.2, 3), *unary("tan", -1, 1),
    *(s for op in ("sign", "round", "floor", "ceil", "stop_gradient") for s in unary(op, differentiable=False)),
    *(s for op in ("add", "sub", "mul", "div", "pow", "min", "max", "atan2") for s in binary(op)),
    Sample("mod", ((3, 4), (3, 4)), {}, 0.5, 2.0, differentiable=False, note="float"),
    Sample("floordiv", ((3, 4), (3, 4)), {}, 0.5, 2.0, differentiable=False, note="float"),
    Sample("mod", (np.array([7, -7, 7, -7, 5], I32), np.array([3, 3, -3, -3, 0], I32)), note="int"),
    Sample("floordiv", (np.array([7, -7, 7, -7, 5], I32), np.array([3, 3, -3, -3, 0], I32)), note="int"),
    Sample("and", (FLAGS, ~FLAGS)), Sample("or", (FLAGS, ~FLAGS)), Sample("xor", (FLAGS, FLAGS.copy())), Sample("not", (FLAGS,)),
    Sample("shift_left", (np.array([1, 5], I32), np.array([3, 1], I32))), Sample("shift_right", (np.array([-8, 5], I32), np.array([1, 1], I32))),
    *(Sample("compare", ((2, 3), (2, 3)), {"predicate": p}, note=p) for p in ("lt", "le", "gt", "ge", "eq", "ne")),
    Sample("select", (FLAGS, (2, 3), (2, 3))),
    Sample("cast", ((2, 3),), {"dtype": dtypes.INT32}, differentiable=False, note="int"), Sample("cast", ((2, 3),), {"dtype": dtypes.FLOAT64}, note="same"),
    Sample("cast", (np.array([0, 1, 2], I32),), {"dtype": dtypes.BOOL}, note="bool"),
    Sample("constant", (), {"value": np.array([1.5, -2.0])}), Sample("iota", (), {"axis": 1, "shape": (2, 3), "dtype": dtypes.INT32}),
    *(Sample("random", (np.int64(7), I32(300), I32(2)), {"kind": k, "stream": 5, "shape": (3, 4), "low": 0, "high": 9}, note=k)
      for k in ("uniform", "normal", "integer")),
    # views: transpose, broadcast, slice, padding, reverse, windows with stride and dilation, diagonal, one place
    Sample("view", ((2, 3),), {"strides": (0, 1, 1, 0), "offsets": (0, 0), "shape": (3, 2), "outside": 0.0}, note="transpose"),
    Sample("view", ((3,),), {"strides": (0, 1), "offsets": (0,), "shape": (2, 3), "outside": 0.0}, note="broadcast"),
    Sample("view", ((5,),), {"strides": (1,), "offsets": (1,), "shape": (3,), "outside": 0.0}, note="slice"),
    Sample("view", ((3,),), {"strides": (1,), "offsets": (-2,), "shape": (7,), "outside": 9.0}, note="padding"),
    Sample("view", ((4,),), {"strides": (-1,), "offsets": (3,), "shape": (4,), "outside": 0.0}, note="reverse"),
    Sample("view", ((9,),), {"strides": (2, 3), "offsets": (-1,), "shape": (4, 3), "outside": 0.0}, note="window"),
    Sample("view", ((3, 3),), {"strides": (1, 1), "offsets": (0, 0), "shape": (3,), "outside": 0.0}, note="diagonal"),
    Sample("view", ((3, 4),), {"strides": (1, 0), "offsets": (0, 2), "shape": (3,), "outside": 0.0}, note="column"),
    Sample("view", ((7,),), {"strides": (3,), "offsets": (0,), "shape": (3,), "outside": 0.0}, note="stride"),
    Sample("fold", ((4, 3),), {"strides": (2, 1), "offsets": (-1,), "shape": (8,)}, note="window"),
    Sample("fold", ((3,),), {"strides": (1, 1), "offsets": (0, 0), "shape": (3, 3)}, note="diagonal"),
    Sample("reshape", ((2, 6),), {"shape": (3, 4)}), Sample("reshape", ((1, 1),), {"shape": ()}, note="rank0"),
    Sample("concat", ((2, 3), (2, 1), (2, 4)), {"axis": 1}),
    *(Sample("reduce", ((2, 3, 4),), {"kind": k, "axes": a}, note=f"{k}{list(a)}") for k in ("sum", "prod", "max", "min") for a in ((1,), (0, 2))),
    Sample("reduce", ((2, 0),), {"kind": "max", "axes": (1,)}, note="empty", differentiable=False),
    Sample("reduce", (FLAGS,), {"kind": "any", "axes": (1,)}, note="any"), Sample("reduce", (FLAGS,), {"kind": "all", "axes": (0,)}, note="all"),
    Sample("reduce", (np.array([[0.0, 2, 3], [0, 0, 4]]),), {"kind": "prod", "axes": (1,)}, note="prod with zeros"),
    Sample("argreduce", ((3, 5),), {"kind": "max", "axis": 1}, differentiable=False),
    Sample("argreduce", (np.array([[1, 1, 0]], I32),), {"kind": "max", "axis": 1}, note="ties"),
    *(Sample("cumulative", ((3, 4),), {"kind": k, "axis": 1, "reverse": r, "exclusive": e}, note=f"{k}{r}{e}")
      for k in ("sum", "prod", "max") for r in (False, True) for e in (False, True) if not (k == "max" and e)),
    Sample("softmax", ((3, 4),), {"axis": 1}), Sample("log_softmax", ((3, 4),), {"axis": 0}),
    Sample("softmax", (np.array([[-np.inf, -np.inf], [0.0, -np.inf]]),), {"axis": 1}, differentiable=False, note="nothing allowed"),
    Sample("contract", ((3, 4), (4, 5)), EYE, note="matmul"),
    Sample("contract", ((2, 3, 4), (2, 4, 5)), {"lhs": (0, 1, 2), "rhs": (0, 2, 3), "out": (0, 3, 1), "dtype": dtypes.FLOAT64}, note="batched"),
    Sample("contract", ((3,), (4,)), {"lhs": (0,), "rhs": (1,), "out": (0, 1), "dtype": dtypes.FLOAT64}, note="outer"),
    Sample("contract", (np.array([[100, 100]], np.int8), np.array([[100], [100]], np.int8)), {**EYE, "dtype": dtypes.INT32}, note="int8 in int32"),
    Sample("conv", ((2, 1, 3, 5, 4), (1, 2, 3, 3, 3)), CONV, note="same"),
    Sample("conv", ((2, 2, 2, 6), (2, 3, 2, 3)), {"stride": (2,), "dilation": (2,), "spacing": (1,), "low": (2,), "size": (3,), "dtype": dtypes.FLOAT64}, note="groups"),
    Sample("conv", ((1, 1, 2, 3), (1, 2, 2, 4)), {"stride": (1,), "dilation": (1,), "spacing": (2,), "low": (2,), "size": (6,), "dtype": dtypes.FLOAT64}, note="transposed"),
    Sample("gather", ((4, 5), IDS), {"batch": 0, "outside": 0.0}), Sample("gather", ((2, 4, 2), IDS), {"batch": 1, "outside": 0.0}, note="batch"),
    Sample("gather", ((4, 5, 2), IDS, np.array([[0, 9, 1], [4, -1, 0]], I32)), {"batch": 0, "outside": 7.0}, note="two, some outside"),
    *(Sample("scatter", ((2, 3, 2), IDS), {"kind": k, "batch": 0, "sizes": (4,)}, 0.5, 2.0, note=k) for k in ("sum", "prod")),
    Sample("scatter", ((2, 3), IDS), {"kind": "max", "batch": 1, "sizes": (4,)}, note="max", differentiable=False),
    Sample("scatter", (np.array([0.0, 2, 3, 4, 0, 0, 5]), np.array([0, 0, 1, 1, 2, 2, 9], I32)), {"kind": "prod", "batch": 0, "sizes": (3,)}, note="prod with zeros"),
    Sample("put", ((2, 4, 3), (2, 1, 3), np.array([2], I32)), {"axis": 1, "lane": -1}),
    Sample("put", ((2, 4, 3), (2, 1, 3), np.array([3, 4], I32)), {"axis": 1, "lane": 0}, note="lane, one outside"),
    Sample("cumulative", (np.array([[2.0, 0, 3, 0, 4]]),), {"kind": "prod", "axis": 1, "reverse": True, "exclusive": False}, note="prod with zeros"),
    *(Sample(op, ((2, 0),), a, note="empty") for op, a in (
        ("softmax", {"axis": 1}), ("log_softmax", {"axis": 1}), ("cumulative", {"kind": "prod", "axis": 1, "reverse": False, "exclusive": True}),
        ("sort", {"axis": 1, "descending": True, "count": 0}), ("reduce", {"kind": "sum", "axes": (1,)}), ("reshape", {"shape": (0, 5)}))),
    Sample("contract", ((2, 0), (0, 3)), EYE, note="empty sum"),
    Sample("sort", ((3, 5),), {"axis": 1, "descending": False, "count": 5}),
    Sample("sort", ((4, 2),), {"axis": 0, "descending": True, "count": 4}, note="descending"),
    Sample("sort", ((3, 5),), {"axis": 1, "descending": True, "count": 2}, note="the first two"),
    Sample("fft", ((2, 6), (2, 6)), {"axis": 1, "inverse": False}), Sample("fft", ((5, 2), (5, 2)), {"axis": 0, "inverse": True}, note="inverse"),
]  # fmt: skip
CONTROL = {"yield", "scan", "cond", "grad", "kernel"}  # ops with regions, or expanded: tests/passes
