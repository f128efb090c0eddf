"""Ops that fold axes: reduce, argreduce, cumulative; and softmax, which keeps its axis."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dslc.core import dtypes
from dslc.core.errors import ShapeError, TypeError_

from .. import index
from ..mlir import ir
from ..op import Flag, Int, Ints, Maps, Op, Operand, Result, Str
from ..types import TensorType, type_of
from .constant import Iota, full, full_like
from .elementwise import Add, Compare, Div, Mul, Select, StopGradient, Sub, cast
from .movement import expand_axes
from .transcendental import Exp, Log

# kind: (numpy's reduction, value of an empty fold, scalar primitive that combines two)
KINDS: dict[str, tuple[Any, float | bool, str]] = {
    "sum": (np.add, 0.0, "add"),
    "prod": (np.multiply, 1.0, "mul"),
    "max": (np.maximum, -np.inf, "max"),
    "min": (np.minimum, np.inf, "min"),
    "any": (np.logical_or, False, "logical_or"),
    "all": (np.logical_and, True, "logical_and"),
}


def identity(kind: str, dtype: dtypes.DType) -> float | int | bool:
    """What an empty fold gives; the type's least or greatest value where there is no infinity."""
    value = KINDS[kind][1]
    if dtype.is_integer:
        info = np.iinfo(dtype.numpy) if not dtype.extension else None
        low, high = (int(info.min), int(info.max)) if info else (-8, 7)
        return {"max": low, "min": high}.get(kind, int(value) if np.isfinite(value) else 0)
    return value


def _check_axis(name: str, t: TensorType, axis: int) -> None:
    if not 0 <= axis < t.rank:
        raise ShapeError(f"{name} along axis {axis} of {t}")


class Reduce(Op, name="reduce"):
    """Folds `axes` by `kind`: sum, prod, max, min (numbers), any, all (bool). Equal maxima share the gradient evenly."""

    x: Operand
    y: Result
    kind: Str
    axes: Ints
    structure = "reduce"

    @classmethod
    def infer(cls, operands: Sequence[TensorType], **attributes: Any) -> list[TensorType]:
        x, axes, kind = operands[0], tuple(attributes["axes"]), attributes["kind"]
        for axis in axes:
            _check_axis(kind, x, axis)
        if kind not in KINDS:
            raise TypeError_(f"unknown reduction {kind!r}")
        if x.dtype.is_bool != (kind in ("any", "all")):
            raise TypeError_(f"{kind} of {x}", help="cast it: int32(...)" if x.dtype.is_bool else "compare it: x != 0")
        return [x.with_shape(n for k, n in enumerate(x.shape) if k not in axes)]

    def maps(self) -> Maps:
        x, axes = type_of(self.x).shape, sorted(set(self.axes))
        kept = [k for k in range(len(x)) if k not in axes]
        place = {a: index.Dim(i) for i, a in enumerate(kept + axes)}
        return Maps(tuple(x[k] for k in kept + axes), (tuple(place[k] for k in range(len(x))),))

    def reference(self, x: np.ndarray) -> np.ndarray:
        ufunc, _, _ = KINDS[self.kind]
        start = np.asarray(identity(self.kind, type_of(self.x).dtype)).astype(x.dtype)
        return ufunc.reduce(x, axis=tuple(self.axes), initial=start, dtype=x.dtype)

    def gradient(self, g: ir.Value) -> list:
        t = type_of(self.x)
        axes, kind = sorted(self.axes), self.kind
        if not t.dtype.is_float or kind in ("any", "all"):
            return [None]
        sizes = [t.shape[a] for a in axes]
        wide = expand_axes(g, axes, sizes)
        if kind == "sum":
            return [wide]
        if kind == "prod":
            return [Mul.of(wide, _product_of_others(self.x, axes))]
        best = expand_axes(self.results[0], axes, sizes)
        hit = cast(Compare.of(self.x, best, predicate="eq"), t.dtype)
        count = expand_axes(Reduce.of(hit, kind="sum", axes=axes), axes, sizes)
        return [Select.of(Compare.of(count, full_like(count, 0), predicate="gt"), Div.of(Mul.of(wide, hit), count), full_like(count, 0))]


def _product_of_others(x: ir.Value, axes: Sequence[int]) -> ir.Value:
    """The product over all other elements of the folded axes, right where elements are 0: products from both sides, one axis after the other."""
    others = None
    for axis in axes:
        before = Cumulative.of(x, kind="prod", axis=axis, reverse=False, exclusive=True)
        after = Cumulative.of(x, kind="prod", axis=axis, reverse=True, exclusive=True)
        here = Mul.of(before, after)
        size = type_of(x).shape[axis]
        others = here if others is None else Mul.of(others, here)
        x = expand_axes(Reduce.of(x, kind="prod", axes=[axis]), [axis], [size])
    assert others is not None
    return others


class ArgReduce(Op, name="argreduce"):
    """The int32 index of the first largest ("max") or smallest ("min") element along `axis`"""

    x: Operand
    y: Result
    kind: Str
    axis: Int
    structure = "whole"

    @classmethod
    def infer(cls, operands: Sequence[TensorType], **attributes: Any) -> list[TensorType]:
        x, axis = operands[0], attributes["axis"]
        _check_axis("arg" + attributes["kind"], x, axis)
        if x.shape[axis] == 0:
            raise ShapeError(f"arg{attributes['kind']} over an empty axis of {x}")
        return [TensorType(dtypes.INT32, tuple(n for k, n in enumerate(x.shape) if k != axis))]

    def reference(self, x: np.ndarray) -> np.ndarray:
        return (np.argmax if self.kind == "max" else np.argmin)(x, axis=self.axis).astype(np.int32)


class Cumulative(Op, name="cumulative"):
    """Running fold along `axis` by sum, prod, max or min; from the end if `reverse`, without the element itself if `exclusive`"""

    x: Operand
    y: Result
    kind: Str
    axis: Int
    reverse: Flag
    exclusive: Flag
    structure = "whole"

    @classmethod
    def infer(cls, operands: Sequence[TensorType], **attributes: Any) -> list[TensorType]:
        _check_axis("cumulative " + attributes["kind"], operands[0], attributes["axis"])
        if attributes["kind"] not in ("sum", "prod", "max", "min") or operands[0].dtype.is_bool:
            raise TypeError_(f"cumulative {attributes['kind']} of {operands[0]}")
        return [operands[0]]

    def reference(self, x: np.ndarray) -> np.ndarray:
        axis = self.axis
        if self.reverse:
            x = np.flip(x, axis)
        y = KINDS[self.kind][0].accumulate(x, axis=axis, dtype=x.dtype)
        if self.exclusive:
            first = np.full([1 if k == axis else n for k, n in enumerate(x.shape)], identity(self.kind, self.type.dtype)).astype(x.dtype)
            y = np.concatenate([first, y], axis=axis)[tuple(slice(0, x.shape[k]) for k in range(x.ndim))]
        return np.flip(y, axis) if self.reverse else y

    def gradient(self, g: ir.Value) -> list:
        t = type_of(self.x)
        if not t.dtype.is_float:
            return [None]
        if self.kind == "sum":
            return [Cumulative.of(g, kind="sum", axis=self.axis, reverse=not self.reverse, exclusive=self.exclusive)]
        return [_pairwise_gradient(self, g)]


def _pairwise_gradient(op: Cumulative, g: ir.Value) -> ir.Value:
    """Gradient of running products, maxima and minima over all pairs (element i, result j): quadratic in the axis, right at zeros and ties.

    A running product of others is built for each start i: z[i, j] = d y_j / d x_i.
    """
    t, axis = type_of(op.x), op.axis
    n = t.shape[axis]
    wide = expand_axes(op.x, [axis], [n])  # [..., i, j, ...], the element at j
    shape = type_of(wide)
    i = Iota.of(axis=axis, shape=shape.shape, dtype=dtypes.INT32)
    j = Iota.of(axis=axis + 1, shape=shape.shape, dtype=dtypes.INT32)
    if op.reverse:
        reaches = Compare.of(i, j, predicate="gt" if op.exclusive else "ge")
    else:
        reaches = Compare.of(i, j, predicate="lt" if op.exclusive else "le")
    grads = expand_axes(g, [axis], [n])
    if op.kind == "prod":
        others = Select.of(Compare.of(i, j, predicate="eq"), full(shape, 1), wide)  # x with element i replaced by 1
        slope = Cumulative.of(others, kind="prod", axis=axis + 1, reverse=op.reverse, exclusive=op.exclusive)
    else:
        element = expand_axes(op.x, [axis + 1], [n])
        hit = cast(Compare.of(element, expand_axes(op.results[0], [axis], [n]), predicate="eq"), t.dtype)
        hit = Select.of(reaches, hit, full(shape, 0))
        count = expand_axes(Reduce.of(hit, kind="sum", axes=[axis]), [axis], [n])
        slope = Select.of(Compare.of(count, full(shape, 0), predicate="gt"), Div.of(hit, count), full(shape, 0))
    return Reduce.of(Select.of(reaches, Mul.of(grads, slope), full(shape, 0)), kind="sum", axes=[axis + 1])


class Softmax(Op, name="softmax"):
    """exp(x - max) / sum(exp(x - max)) along `axis`; a row of -inf gives zeros with zero gradient"""

    x: Operand
    y: Result
    axis: Int
    structure = "whole"

    @classmethod
    def infer(cls, operands: Sequence[TensorType], **attributes: Any) -> list[TensorType]:
        _check_axis("softmax", operands[0], attributes["axis"])
        if not operands[0].dtype.is_float:
            raise TypeError_(f"softmax takes floats, this is {operands[0]}")
        return [operands[0]]

    def reference(self, x: np.ndarray) -> np.ndarray:
        m = np.max(x, axis=self.axis, keepdims=True, initial=-np.inf)
        e = np.exp(x - np.where(np.isneginf(m), 0, m))
        total = e.sum(axis=self.axis, keepdims=True)
        return (e / np.where(total == 0, 1, total)).astype(x.dtype)

    def gradient(self, g: ir.Value) -> list:
        y, axis = self.results[0], self.axis
        inner = Reduce.of(Mul.of(g, y), kind="sum", axes=[axis])
        return [Mul.of(y, Sub.of(g, expand_axes(inner, [axis], [self.type.shape[axis]])))]

    def expand(self) -> ir.Value:
        """The same in reductions and elementwise ops, which is what kernels are made of."""
        axis, n = self.axis, self.type.shape[self.axis]
        shifted = Sub.of(self.x, expand_axes(_finite_max(self.x, axis), [axis], [n]))
        e = Exp.of(shifted)
        total = Reduce.of(e, kind="sum", axes=[axis])
        zero = Compare.of(total, full_like(total, 0), predicate="eq")
        scale = Div.of(full_like(total, 1), Select.of(zero, full_like(total, 1), total))
        return Mul.of(e, expand_axes(scale, [axis], [n]))


class LogSoftmax(Op, name="log_softmax"):
    """x - logsumexp(x) along `axis`; where an element is -inf the result is too"""

    x: Operand
    y: Result
    axis: Int
    structure = "whole"

    @classmethod
    def infer(cls, operands: Sequence[TensorType], **attributes: Any) -> list[TensorType]:
        return Softmax.infer(operands, **attributes)

    def reference(self, x: np.ndarray) -> np.ndarray:
        m = np.max(x, axis=self.axis, keepdims=True, initial=-np.inf)
        shifted = x - np.where(np.isneginf(m), 0, m)
        total = np.exp(shifted).sum(axis=self.axis, keepdims=True)
        return (shifted - np.log(np.where(total == 0, 1, total))).astype(x.dtype)

    def gradient(self, g: ir.Value) -> list:
        axis, n = self.axis, self.type.shape[self.axis]
        total = Reduce.of(g, kind="sum", axes=[axis])
        return [Sub.of(g, Mul.of(Exp.of(self.results[0]), expand_axes(total, [axis], [n])))]

    def expand(self) -> ir.Value:
        axis, n = self.axis, self.type.shape[self.axis]
        shifted = Sub.of(self.x, expand_axes(_finite_max(self.x, axis), [axis], [n]))
        total = Reduce.of(Exp.of(shifted), kind="sum", axes=[axis])
        zero = Compare.of(total, full_like(total, 0), predicate="eq")
        return Sub.of(shifted, expand_axes(Log.of(Select.of(zero, full_like(total, 1), total)), [axis], [n]))


def _finite_max(x: ir.Value, axis: int) -> ir.Value:
    """The maximum along an axis; 0 where all is -inf."""
    m = Reduce.of(x, kind="max", axes=[axis])
    return Select.of(Compare.of(m, full_like(m, -np.inf), predicate="eq"), full_like(m, 0), m)


def logsumexp(x: ir.Value, axes: Sequence[int]) -> ir.Value:
    """log(sum(exp(x))) over axes, without overflow; -inf with zero gradient where all is -inf."""
    axes = sorted(axes)
    sizes = [type_of(x).shape[a] for a in axes]
    m = Reduce.of(StopGradient.of(x), kind="max", axes=axes)
    m = Select.of(Compare.of(m, full_like(m, -np.inf), predicate="eq"), full_like(m, 0), m)
    total = Reduce.of(Exp.of(Sub.of(x, expand_axes(m, axes, sizes))), kind="sum", axes=axes)
    nothing = Compare.of(total, full_like(total, 0), predicate="eq")
    found = Add.of(Log.of(Select.of(nothing, full_like(total, 1), total)), m)
    return Select.of(nothing, full_like(total, -np.inf), found)
