"""Elementwise ops: each element of the result depends on the elements at the same place. Operands have one shape; `view` broadcasts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dslc.core import dtypes
from dslc.core.dtypes import DType
from dslc.core.errors import ShapeError, TypeError_

from ..mlir import ir
from ..op import PRECISION, DTypeOf, Op, Operand, Result, Str
from ..types import TensorType, type_of
from .constant import full_like


def require_float(name: str, t: TensorType) -> None:
    if not t.dtype.is_float:
        raise TypeError_(f"{name} takes floats, this is {t}", help="cast it: float32(...)")


def require_same(name: str, operands: Sequence[TensorType]) -> None:
    first = operands[0]
    for t in operands[1:]:
        if t.shape != first.shape:
            raise ShapeError(f"{name} of {first} and {t}")
        if t.dtype != first.dtype:
            raise TypeError_(f"{name} of {first} and {t}", help="cast one of them")


class Elementwise(Op):
    """Base: the result has the operands' common type unless `infer` says otherwise; the scalar is the primitive of the op's name."""

    structure = "elementwise"
    primitive = ""
    accepts = "number"  # "float", "number" (no bool), "bool" or "any"

    @classmethod
    def infer(cls, operands: Sequence[TensorType], **attributes: Any) -> list[TensorType]:
        name = cls._op_name
        require_same(name, operands)
        dtype = operands[0].dtype
        if cls.accepts == "float":
            require_float(name, operands[0])
        elif (cls.accepts == "number" and dtype.is_bool) or (cls.accepts == "bool" and not dtype.is_bool):
            raise TypeError_(f"{name} takes {'numbers' if cls.accepts == 'number' else 'truth values'}, this is {operands[0]}")
        return [operands[0]]

    def scalar(self, s: Any, *values: Any) -> Any:
        return getattr(s, self.primitive or self._op_name)(*values)


class Unary(Elementwise):
    x: Operand
    y: Result


class Binary(Elementwise):
    a: Operand
    b: Operand
    y: Result


# ---- arithmetic -------------------------------------------------------------------------------------------------------------------


class Neg(Unary, name="neg"):
    """-x"""

    def reference(self, x: np.ndarray) -> np.ndarray:
        return -x

    def gradient(self, g: ir.Value) -> list:
        return [Neg.of(g)]


class Abs(Unary, name="abs"):
    """|x|; gradient sign(x), 0 at 0"""

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.abs(x)

    def gradient(self, g: ir.Value) -> list:
        return [Mul.of(g, Sign.of(self.x))]


class Sign(Unary, name="sign"):
    """-1, 0 or 1; gradient 0"""

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.sign(x)


class Add(Binary, name="add"):
    """a + b"""

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a + b

    def gradient(self, g: ir.Value) -> list:
        return [g, g]


class Sub(Binary, name="sub"):
    """a - b"""

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a - b

    def gradient(self, g: ir.Value) -> list:
        return [g, Neg.of(g)]


class Mul(Binary, name="mul"):
    """a * b"""

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a * b

    def gradient(self, g: ir.Value) -> list:
        return [Mul.of(g, self.b), Mul.of(g, self.a)]


class Div(Binary, name="div"):
    """a / b for floats"""

    accepts = "float"

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a / b

    def gradient(self, g: ir.Value) -> list:
        q = Div.of(g, self.b)
        return [q, Neg.of(Mul.of(q, self.results[0]))]


class FloorDiv(Binary, name="floordiv"):
    """floor(a / b); an integer divided by 0 is 0"""

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if a.dtype.kind == "f":
            return np.floor(a / b)
        return np.where(b == 0, 0, a // np.where(b == 0, 1, b)).astype(a.dtype)


class Mod(Binary, name="mod"):
    """a - b * floor(a / b), with the sign of b; an integer modulo 0 is 0"""

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if a.dtype.kind == "f":
            return np.mod(a, b)
        return np.where(b == 0, 0, a % np.where(b == 0, 1, b)).astype(a.dtype)

    def gradient(self, g: ir.Value) -> list:
        if not self.type.dtype.is_float:
            return [None, None]
        return [g, Neg.of(Mul.of(g, FloorDiv.of(self.a, self.b)))]


class Min(Binary, name="min"):
    """The smaller one; a tie gives half the gradient to each"""

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.minimum(a, b)

    def gradient(self, g: ir.Value) -> list:
        return _share(g, self.a, self.b, "lt")


class Max(Binary, name="max"):
    """The larger one; a tie gives half the gradient to each"""

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.maximum(a, b)

    def gradient(self, g: ir.Value) -> list:
        return _share(g, self.a, self.b, "gt")


def _share(g: ir.Value, a: ir.Value, b: ir.Value, wins: str) -> list:
    zero, half = full_like(g, 0), Mul.of(g, full_like(g, 0.5))
    tie = Compare.of(a, b, predicate="eq")
    first = Select.of(tie, half, Select.of(Compare.of(a, b, predicate=wins), g, zero))
    second = Select.of(tie, half, Select.of(Compare.of(b, a, predicate=wins), g, zero))
    return [first, second]


# ---- rounding (gradient 0) -------------------------------------------------------------------------------------------------------


class Round(Unary, name="round"):
    """To the nearest integer, ties to even"""

    accepts = "float"

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.round(x)


class Floor(Unary, name="floor"):
    accepts = "float"

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.floor(x)


class Ceil(Unary, name="ceil"):
    accepts = "float"

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.ceil(x)


# ---- truth values, comparison, choice, casts -------------------------------------------------------------------------------------


class And(Binary, name="and"):
    """Logical for bool, bitwise for integers"""

    accepts = "any"
    primitive = "logical_and"

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a & b


class Or(Binary, name="or"):
    accepts = "any"
    primitive = "logical_or"

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a | b


class Xor(Binary, name="xor"):
    accepts = "any"
    primitive = "logical_xor"

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a ^ b


class Not(Unary, name="not"):
    """Logical for bool, bitwise for integers"""

    accepts = "any"
    primitive = "logical_not"

    def reference(self, x: np.ndarray) -> np.ndarray:
        return ~x


class ShiftLeft(Binary, name="shift_left"):
    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.left_shift(a, b)


class ShiftRight(Binary, name="shift_right"):
    """Arithmetic for signed integers"""

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.right_shift(a, b)


COMPARISONS = {"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal}


class Compare(Elementwise, name="compare"):
    """a < b, a <= b, ... by `predicate`; gives bool"""

    a: Operand
    b: Operand
    y: Result
    predicate: Str
    accepts = "any"

    @classmethod
    def infer(cls, operands: Sequence[TensorType], **attributes: Any) -> list[TensorType]:
        require_same("comparison", operands)
        if attributes["predicate"] not in COMPARISONS:
            raise TypeError_(f"unknown comparison {attributes['predicate']!r}")
        return [operands[0].with_dtype(dtypes.BOOL)]

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return COMPARISONS[self.predicate](a, b)

    def scalar(self, s: Any, *values: Any) -> Any:
        return s.compare(self.predicate, *values)


class Select(Elementwise, name="select"):
    """a where the condition holds, else b; the side not taken gets gradient 0"""

    condition: Operand
    a: Operand
    b: Operand
    y: Result

    @classmethod
    def infer(cls, operands: Sequence[TensorType], **attributes: Any) -> list[TensorType]:
        condition, a, b = operands
        if not condition.dtype.is_bool:
            raise TypeError_(f"the condition of where must be bool, this is {condition}")
        require_same("where", [a, b])
        if condition.shape != a.shape:
            raise ShapeError(f"where of {condition} and {a}")
        return [a]

    def reference(self, condition: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.where(condition, a, b)

    def gradient(self, g: ir.Value) -> list:
        zero = full_like(g, 0)
        return [None, Select.of(self.condition, g, zero), Select.of(self.condition, zero, g)]


class Cast(Elementwise, name="cast"):
    """To another dtype: float to integer truncates, anything to bool is `!= 0`, to a narrower float rounds to nearest even"""

    x: Operand
    y: Result
    dtype: DTypeOf

    @classmethod
    def infer(cls, operands: Sequence[TensorType], **attributes: Any) -> list[TensorType]:
        return [operands[0].with_dtype(attributes["dtype"])]

    def reference(self, x: np.ndarray) -> np.ndarray:
        return cast_array(x, self.dtype)

    def gradient(self, g: ir.Value) -> list:
        source = type_of(self.x).dtype
        if not source.is_float or not self.dtype.is_float:
            return [None]
        back = cast(g, source)
        if PRECISION in self.attributes and back != g:
            back.owner.attributes[PRECISION] = self.attributes[PRECISION]
        return [back]

    def scalar(self, s: Any, *values: Any) -> Any:
        return s.cast(values[0], type_of(self.x).dtype, self.dtype)


def cast(x: ir.Value, dtype: DType) -> ir.Value:
    """`x` as `dtype`; `x` itself where it is that already."""
    return x if type_of(x).dtype == dtype else Cast.of(x, dtype=dtype)


def cast_array(x: np.ndarray, dtype: DType) -> np.ndarray:
    """The numpy meaning of `cast`."""
    if dtype.is_bool:
        return x != 0
    with np.errstate(invalid="ignore", over="ignore"):
        return x.astype(dtype.numpy)


class StopGradient(Unary, name="stop_gradient"):
    """x; gradient 0"""

    accepts = "any"

    def reference(self, x: np.ndarray) -> np.ndarray:
        return x

    def scalar(self, s: Any, *values: Any) -> Any:
        return values[0]
