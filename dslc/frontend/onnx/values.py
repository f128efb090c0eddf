"""The tensors that operators work on: a value of the dialect with ONNX's element type, and arithmetic that broadcasts as numpy does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dslc.core import dtypes
from dslc.core.errors import ShapeError, TypeError_, UnsupportedOp
from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.types import TensorType, type_of

from ..values import spread_whole
from . import types
from .types import Elem

Number = float | int | bool


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor. Arithmetic takes other Values of the same type and numbers; integers narrower than their carrier wrap."""

    value: ir.Value
    elem: Elem

    @property
    def type(self) -> TensorType:
        return type_of(self.value)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    @property
    def rank(self) -> int:
        return self.type.rank

    @property
    def size(self) -> int:
        return self.type.size

    def __str__(self) -> str:
        return f"{self.elem.name}{list(self.shape)}"

    def __add__(self, other: Value | Number) -> Value:
        return binary(ops.Add.of, self, other)

    def __radd__(self, other: Number) -> Value:
        return binary(ops.Add.of, self, other)

    def __sub__(self, other: Value | Number) -> Value:
        return binary(ops.Sub.of, self, other)

    def __rsub__(self, other: Number) -> Value:
        return binary(ops.Sub.of, like(self, other), self)

    def __mul__(self, other: Value | Number) -> Value:
        return binary(ops.Mul.of, self, other)

    def __rmul__(self, other: Number) -> Value:
        return binary(ops.Mul.of, self, other)

    def __truediv__(self, other: Value | Number) -> Value:
        return binary(ops.Div.of, self, other)

    def __rtruediv__(self, other: Number) -> Value:
        return binary(ops.Div.of, like(self, other), self)

    def __floordiv__(self, other: Value | Number) -> Value:
        return binary(ops.FloorDiv.of, self, other)

    def __mod__(self, other: Value | Number) -> Value:
        return binary(ops.Mod.of, self, other)

    def __pow__(self, other: Value | Number) -> Value:
        return binary(ops.Pow.of, self, other)

    def __neg__(self) -> Value:
        return unary(ops.Neg.of, self)

    def __and__(self, other: Value | Number) -> Value:
        return binary(ops.And.of, self, other)

    def __or__(self, other: Value | Number) -> Value:
        return binary(ops.Or.of, self, other)

    def __xor__(self, other: Value | Number) -> Value:
        return binary(ops.Xor.of, self, other)

    def __invert__(self) -> Value:
        return unary(ops.Not.of, self)

    def __lt__(self, other: Value | Number) -> Value:
        return compare("lt", self, other)

    def __le__(self, other: Value | Number) -> Value:
        return compare("le", self, other)

    def __gt__(self, other: Value | Number) -> Value:
        return compare("gt", self, other)

    def __ge__(self, other: Value | Number) -> Value:
        return compare("ge", self, other)

    def eq(self, other: Value | Number) -> Value:
        return compare("eq", self, other)

    def ne(self, other: Value | Number) -> Value:
        return compare("ne", self, other)


# --- making values ----------------------------------------------------------------------------------------------------------------------


def constant(array: Any, elem: Elem | None = None) -> Value:
    """A tensor known at compile time; `elem` defaults to that of the array's type."""
    array = np.asarray(array)
    elem = elem or types.of_dtype(dtypes.of_numpy(array.dtype))
    return Value(ops.constant(elem.carry(array), elem.carrier), elem)


def full(shape: Sequence[int], number: Number, elem: Elem) -> Value:
    return Value(ops.full(TensorType(elem.carrier, tuple(shape)), number), elem)


def like(x: Value, number: Number) -> Value:
    """A number as a tensor of the shape and type of x."""
    return full(x.shape, number, x.elem)


def iota(shape: Sequence[int], axis: int) -> Value:
    return Value(ops.Iota.of(axis=axis, shape=tuple(shape), dtype=types.INT32.carrier), types.INT32)


# --- arithmetic -------------------------------------------------------------------------------------------------------------------------


def broadcast_shape(*shapes: Sequence[int]) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(*[tuple(s) for s in shapes])
    except ValueError:
        raise ShapeError(f"the shapes {' and '.join(str(list(s)) for s in shapes)} do not broadcast") from None


def broadcast_to(x: Value, shape: Sequence[int]) -> Value:
    if tuple(shape) == x.shape:
        return x
    if broadcast_shape(x.shape, shape) != tuple(shape):
        raise ShapeError(f"{x} cannot be broadcast to {list(shape)}")
    return Value(spread_whole(x.value, list(shape)), x.elem)


def unified(*values: Value | Number) -> list[Value]:
    """Values and numbers of one type, brought to one shape."""
    first = next(v for v in values if isinstance(v, Value))
    for v in values:
        if isinstance(v, Value) and v.elem is not first.elem:
            raise TypeError_(f"operands of one type are needed, these are {first} and {v}")
    shape = broadcast_shape(*[v.shape for v in values if isinstance(v, Value)])
    return [broadcast_to(v, shape) if isinstance(v, Value) else full(shape, v, first.elem) for v in values]


def wrap(value: ir.Value, elem: Elem) -> Value:
    """A result in its carrier, brought back into the range of its own type."""
    if elem.bits and elem.bits < elem.carrier.bits:
        t = type_of(value)
        value = ops.And.of(value, ops.full(t, (1 << elem.bits) - 1))
        if elem.signed:
            half = ops.full(t, 1 << (elem.bits - 1))
            value = ops.Sub.of(ops.Xor.of(value, half), half)
    return Value(value, elem)


def unary(make: Callable[..., ir.Value], x: Value) -> Value:
    return wrap(make(x.value), x.elem)


def binary(make: Callable[..., ir.Value], a: Value | Number, b: Value | Number) -> Value:
    x, y = unified(a, b)
    return wrap(make(x.value, y.value), x.elem)


def compare(predicate: str, a: Value | Number, b: Value | Number) -> Value:
    x, y = unified(a, b)
    if x.elem is types.UINT64 and predicate not in ("eq", "ne"):
        x, y = x ^ -(1 << 63), y ^ -(1 << 63)  # the carrier's order becomes the type's own
    if x.elem.is_bool:
        x, y = (Value(ops.cast(v.value, dtypes.INT32), types.INT32) for v in (x, y))
    return Value(ops.Compare.of(x.value, y.value, predicate=predicate), types.BOOL)


def where(condition: Value, a: Value | Number, b: Value | Number) -> Value:
    x, y = unified(a, b)
    shape = broadcast_shape(condition.shape, x.shape)
    return Value(ops.Select.of(*[broadcast_to(v, shape).value for v in (condition, x, y)]), x.elem)


def maximum(a: Value, b: Value | Number) -> Value:
    x, y = unified(a, b)
    return where(x > y, x, y) if x.elem is types.UINT64 else binary(ops.Max.of, x, y)


def minimum(a: Value, b: Value | Number) -> Value:
    x, y = unified(a, b)
    return where(x < y, x, y) if x.elem is types.UINT64 else binary(ops.Min.of, x, y)


def function(name: str) -> Callable[[Value], Value]:
    """An elementwise op of the table as a function of one Value."""
    cls = getattr(ops, name)
    return lambda x: unary(cls.of, x)


exp, log, sqrt, absolute, sign, floor, ceil, round_even, tanh, sigmoid, erf, log1p, expm1, rsqrt, sin, cos = (
    function(name)
    for name in ("Exp", "Log", "Sqrt", "Abs", "Sign", "Floor", "Ceil", "Round", "Tanh", "Sigmoid", "Erf", "Log1p", "Expm1", "Rsqrt", "Sin", "Cos")
)


def cast(x: Value, elem: Elem, saturate: bool = True) -> Value:
    """To another type, as ONNX's Cast: integers wrap, small floats saturate or overflow."""
    if x.elem is elem:
        return x
    if types.STRING in (x.elem, elem):
        raise UnsupportedOp(f"a cast from {x.elem.name} to {elem.name} is not supported")
    if elem.is_bool:
        return Value(ops.cast(x.value, dtypes.BOOL), elem)
    if elem.small:
        from .small_floats import to_small

        return to_small(x, elem, saturate)
    value = x.value
    if x.elem is types.UINT64 and elem.is_float:
        wide = ops.cast(value, dtypes.FLOAT64)
        negative = ops.Compare.of(value, ops.full_like(value, 0), predicate="lt")
        value = ops.Select.of(negative, ops.Add.of(wide, ops.full_like(wide, 2.0**64)), wide)
    if elem is types.UINT64 and x.elem.is_float:
        high = x >= 2.0**63
        shifted = Value(ops.cast(where(high, x - 2.0**64, x).value, dtypes.INT64), elem)
        return shifted
    if elem.is_integer and elem.bits and type_of(value).dtype.is_float:
        value = ops.cast(value, dtypes.INT64)  # then it wraps
    if elem.bits and elem.bits < elem.carrier.bits and type_of(value).dtype.is_integer and type_of(value).dtype.bits > elem.carrier.bits:
        value = wrap(value, Elem(0, "", type_of(value).dtype, elem.bits, elem.signed)).value
    return wrap(ops.cast(value, elem.carrier), elem)


def places(x: Value) -> Value:
    """Indices or lengths as int32; those that it does not hold stay outside of every axis (`ops.as_int32`)."""
    return Value(ops.as_int32(x.value), types.INT32)


def computed(x: Value) -> Value:
    """x in a float type that arithmetic is made in: float32 for narrower floats."""
    return cast(x, types.FLOAT) if (x.elem.is_float and x.elem.carrier.bits < 32) or x.elem.small else x


# --- movement ---------------------------------------------------------------------------------------------------------------------------


def reshape(x: Value, shape: Sequence[int]) -> Value:
    return Value(ops.reshape(x.value, tuple(shape)), x.elem)


def transpose(x: Value, order: Sequence[int]) -> Value:
    if sorted(order) != list(range(x.rank)):
        raise ShapeError(f"{list(order)} is no order of the axes of {x}")
    return Value(ops.transpose(x.value, list(order)), x.elem)


def slice_axis(x: Value, axis: int, start: int, size: int, step: int = 1) -> Value:
    return Value(ops.slice_axis(x.value, axis, start, size, step), x.elem)


def concat(values: Sequence[Value], axis: int) -> Value:
    if len(values) == 1:
        return values[0]
    for v in values:
        if v.elem is not values[0].elem:
            raise TypeError_(f"concatenation of {values[0]} and {v}")
    return Value(ops.Concat.of(*[v.value for v in values], axis=axis), values[0].elem)


def expand_axes(x: Value, axes: Sequence[int]) -> Value:
    """New axes of size 1 at these places of the result."""
    shape = list(x.shape)
    for a in sorted(axes):
        shape.insert(a, 1)
    return reshape(x, shape)


def pad(x: Value, before: Sequence[int], after: Sequence[int], number: Number = 0) -> Value:
    """Constant padding; negative amounts cut."""
    shape = [n + b + a for n, b, a in zip(x.shape, before, after)]
    if min(shape, default=0) < 0:
        raise ShapeError(f"padding by {list(before)} and {list(after)} leaves nothing of {x}")
    rows = [[int(a == k) for k in range(x.rank)] for a in range(x.rank)]
    return Value(ops.view(x.value, rows, [-b for b in before], shape, float(number)), x.elem)


# --- folds ------------------------------------------------------------------------------------------------------------------------------


def axes_of(axes: Sequence[int], rank: int) -> list[int]:
    """Axes counted from the front; ShapeError for one that is not there or stands twice."""
    out = [a + rank if a < 0 else a for a in axes]
    if any(not 0 <= a < rank for a in out) or len(set(out)) != len(out):
        raise ShapeError(f"axes {list(axes)} of a tensor with {rank} axes")
    return out


def axis_of(axis: int, rank: int) -> int:
    return axes_of([axis], rank)[0]


def reduce(x: Value, kind: str, axes: Sequence[int], keep: bool = False) -> Value:
    """sum, prod, max, min; any and all of bools; "mean"."""
    count = int(np.prod([x.shape[a] for a in axes])) if axes else 1
    y = Value(ops.Reduce.of(x.value, kind="sum" if kind == "mean" else kind, axes=sorted(axes)), x.elem) if axes else x
    if kind == "mean":
        y = y / (count or float("nan")) if x.elem.is_float else y // count
    elif x.elem.bits:
        y = wrap(y.value, y.elem)
    return reshape(y, [1 if k in axes else n for k, n in enumerate(x.shape)]) if keep else y


def contract(a: Value, b: Value, lhs: Sequence[int], rhs: Sequence[int], out: Sequence[int]) -> Value:
    return Value(ops.contract(a.value, b.value, lhs, rhs, out), a.elem)


def matmul(a: Value, b: Value) -> Value:
    """numpy's matmul."""
    if a.rank == 0 or b.rank == 0:
        raise ShapeError(f"matrix product of {a} and {b}")
    x = expand_axes(a, [0]) if a.rank == 1 else a
    y = expand_axes(b, [1]) if b.rank == 1 else b
    if x.shape[-1] != y.shape[-2]:
        raise ShapeError(f"matrix product of {a} and {b}")
    if x.elem is not y.elem:
        raise TypeError_(f"matrix product of {a} and {b}")
    lead = broadcast_shape(x.shape[:-2], y.shape[:-2])
    rank = len(lead)
    out, row, column, inner = list(range(rank)), rank, rank + 1, rank + 2

    def prepared(v: Value) -> tuple[Value, list[int]]:
        """Axes of size 1 that repeat are left out of the product."""
        own = [k for k, n in enumerate(v.shape[:-2], rank - v.rank + 2) if n == lead[k]]
        return reshape(v, [lead[k] for k in own] + list(v.shape[-2:])), own

    (x, xs), (y, ys) = prepared(x), prepared(y)
    made = contract(x, y, [*xs, row, inner], [*ys, inner, column], [k for k in out if k in xs or k in ys] + [row, column])
    made = reshape(made, [*lead, *made.shape[-2:]])
    shape = list(made.shape)
    if b.rank == 1:
        shape.pop(-1)
    if a.rank == 1:
        shape.pop(-2 if b.rank != 1 else -1)
    return reshape(made, shape)


def gather(x: Value, ids: Sequence[Value], batch: int = 0) -> Value:
    """x[b..., ids0, ids1, ..., rest]; indices outside read 0."""
    return Value(ops.Gather.of(x.value, *[i.value for i in ids], batch=batch, outside=0.0), x.elem)


def cumulative(x: Value, kind: str, axis: int, *, reverse: bool = False, exclusive: bool = False) -> Value:
    return Value(ops.Cumulative.of(x.value, kind=kind, axis=axis, reverse=reverse, exclusive=exclusive), x.elem)


def sort(x: Value, axis: int, *, descending: bool, count: int | None = None) -> tuple[Value, Value]:
    """(values, int32 order), all or the first `count`."""
    ordered, order = ops.sort(x.value, axis, descending=descending, count=count)
    return Value(ordered, x.elem), Value(order, types.INT32)


def softmax(x: Value, axis: int) -> Value:
    return Value(ops.Softmax.of(x.value, axis=axis), x.elem)


def log_softmax(x: Value, axis: int) -> Value:
    return Value(ops.LogSoftmax.of(x.value, axis=axis), x.elem)
