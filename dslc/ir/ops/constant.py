"""Ops that read no tensor: constants, the index along an axis, random draws."""

from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np

from dslc.core import dtypes
from dslc.core.errors import ShapeError, TypeError_

from .. import index
from ..mlir import ir
from ..op import Array, DTypeOf, Int, Ints, Maps, Op, Operand, Result, Str, decode_array
from ..types import TensorType, from_mlir, type_of

EXACT = "nn.exact"  # of a uniform constant of floats: the number that its type rounded


class Constant(Op, name="constant"):
    """A tensor known at compile time; a uniform one is stored once.

    `exact` is for the reference target alone, which computes in float64: 0.1 is 0.1 there. Everyone else takes the value of the type.
    """

    y: Result
    value: Array
    structure = "generator"

    @classmethod
    def infer(cls, operands: Sequence[TensorType], **attributes: Any) -> list[TensorType]:
        value = np.asarray(attributes["value"])
        return [TensorType(dtypes.of_numpy(value.dtype), value.shape)]

    def check(self) -> None:
        if from_mlir(ir.DenseElementsAttr(self.attributes["value"]).type) != self.type:
            raise ShapeError("a constant's type differs from its value's")

    @property
    def uniform(self) -> float | int | bool | None:
        """The one value of a uniform constant, else None."""
        attribute = ir.DenseElementsAttr(self.attributes["value"])
        if not attribute.is_splat:
            return None
        value = attribute.get_splat_value()
        return ir.FloatAttr(value).value if self.type.dtype.is_float else ir.IntegerAttr(value).value

    @property
    def exact(self) -> float | int | bool | None:
        """`uniform`, before it was rounded to the type."""
        return ir.FloatAttr(self.attributes[EXACT]).value if EXACT in self.attributes else self.uniform

    def reference(self) -> np.ndarray:
        return decode_array(self.attributes["value"])

    def scalar(self, s: Any, *values: Any) -> Any:
        return s.const(self.uniform, self.type.dtype)


def constant(value: Any, dtype: dtypes.DType | None = None) -> ir.Value:
    """A constant tensor from anything numpy takes; `dtype` defaults to float32, int32 or bool by the values."""
    array = np.asarray(value)
    if dtype is None:
        dtype = {"f": dtypes.FLOAT32, "i": dtypes.INT32, "b": dtypes.BOOL}.get(array.dtype.kind) or dtypes.of_numpy(array.dtype)
    if dtype.extension:
        from .elementwise import cast

        return cast(Constant.of(value=array.astype(np.float32 if dtype.is_float else np.int8)), dtype)
    return Constant.of(value=array.astype(dtype.numpy))


def full(t: TensorType, value: float | int | bool, exact: float | int | bool | None = None) -> ir.Value:
    """A tensor of type `t` with one value everywhere; `exact`: what it is in float64 (None: `value`). Types of fewer than 32 bits are chosen for
    their rounding, and keep nothing else."""
    element = _element(t.dtype, value)
    attributes = {"value": ir.DenseElementsAttr.get_splat(t.to_mlir(), element)}
    if t.dtype.is_float and t.dtype.bits >= 32:
        wide, stored = float(value if exact is None else exact), ir.FloatAttr(element).value
        if isfinite(stored) and stored != wide:
            attributes[EXACT] = ir.FloatAttr.get_f64(wide)
    return ir.Operation.create(Constant.OPERATION_NAME, [t.to_mlir()], [], attributes).results[0]


def full_like(x: ir.Value, value: float | int | bool) -> ir.Value:
    return full(type_of(x), value)


def _element(dtype: dtypes.DType, value: Any) -> ir.Attribute:
    element = ir.Type.parse(dtype.mlir)
    return ir.FloatAttr.get(element, float(value)) if dtype.is_float else ir.IntegerAttr.get(element, int(value))


class Iota(Op, name="iota"):
    """y[..., i, ...] = i along `axis`, in a tensor of `shape`"""

    y: Result
    axis: Int
    shape: Ints
    dtype: DTypeOf
    structure = "generator"

    @classmethod
    def infer(cls, operands: Sequence[TensorType], **attributes: Any) -> list[TensorType]:
        if not 0 <= attributes["axis"] < len(attributes["shape"]):
            raise ShapeError(f"iota along axis {attributes['axis']} of {list(attributes['shape'])}")
        return [TensorType(attributes["dtype"], tuple(attributes["shape"]))]

    def reference(self) -> np.ndarray:
        shape = self.shape
        line = np.arange(shape[self.axis]).reshape([-1 if k == self.axis else 1 for k in range(len(shape))])
        return np.broadcast_to(line, shape).astype(self.dtype.numpy)

    def scalar(self, s: Any, *values: Any) -> Any:
        return s.index(self.axis, self.dtype)


RANDOM_KINDS = {"uniform": dtypes.FLOAT32, "normal": dtypes.FLOAT32, "integer": dtypes.INT32}


class Random(Op, name="random"):
    """Draws of the keyed Philox generator, one for each point of `shape`.

    `kind`: "uniform" on [0, 1), "normal" (both float32) or "integer" in [low, high) (int32). The draw at a point depends on the seed (int64), the
    counter (int32: step * 256 + microbatch), the turn of the enclosing scans (int32, 0 outside), the stream and the point's row-major position
    alone, as `core.philox` lays down: any plan that computes it, again or elsewhere, gets the same bits.
    """

    seed: Operand
    counter: Operand
    turn: Operand
    y: Result
    kind: Str
    stream: Int
    shape: Ints
    low: Int
    high: Int
    structure = "generator"

    @classmethod
    def infer(cls, operands: Sequence[TensorType], **attributes: Any) -> list[TensorType]:
        number = TensorType(dtypes.INT32, ())
        if list(operands) != [TensorType(dtypes.INT64, ()), number, number]:
            raise TypeError_("random takes a rank-0 int64 seed, a rank-0 int32 counter and a rank-0 int32 turn")
        if attributes["kind"] == "integer" and not 0 < attributes["high"] - attributes["low"] <= 2**31:
            raise TypeError_(f"no integers lie in [{attributes['low']}, {attributes['high']})")
        return [TensorType(RANDOM_KINDS[attributes["kind"]], tuple(attributes["shape"]))]

    def reference(self, seed: np.ndarray, counter: np.ndarray, turn: np.ndarray) -> np.ndarray:
        from dslc.core import philox

        step, microbatch = divmod(int(counter), philox.MAX_MICROBATCHES)
        words = philox.bits(int(seed), self.stream, step, microbatch, int(turn), int(np.prod(self.shape)))
        draw = {"uniform": philox.uniform_of, "normal": philox.normal_of}.get(self.kind)
        values = draw(words) if draw else philox.integer_of(words, self.low, self.high)
        return values.reshape(self.shape).astype(RANDOM_KINDS[self.kind].numpy)

    def maps(self) -> Maps:
        return Maps(self.shape, ((), (), ()))

    def scalar(self, s: Any, *values: Any) -> Any:
        position = index.linearize([index.Dim(k) for k in range(len(self.shape))], self.shape)
        return s.random(self.kind, *values, self.stream, position, (self.low, self.high))
