"""The scalar primitives (`ir.scalar.Scalars`) as CUDA C++: every operation is one named constant, so that a kernel reads line by line.

Narrow floats are computed in float32 and rounded where a cast says so or memory is written; small integers wrap as they are assigned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dslc.core import dtypes
from dslc.core.dtypes import BOOL, DType
from dslc.ir.index import Expr

from .text import Writer
from .types import computed_type, literal


@dataclass(frozen=True, slots=True)
class Val:
    """A name or literal in the text, and its dtype."""

    text: str
    dtype: DType


_OPERATORS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
_WRAPPING = {"+": "wrapping_add", "-": "wrapping_subtract", "*": "wrapping_multiply"}


class Arithmetic:
    """`Scalars` at one point. `index_of(axis)` and `position_of(expr)` give integers for the point: see `pull.Point`. `near`: functions that
    are nearly right will do."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.index_of: Callable[[int], Val] | None = None
        self.position_of: Callable[[Expr], Val] | None = None
        self.near = False

    # ---- plumbing

    def made(self, expression: str, dtype: DType) -> Val:
        """The value of an expression, named."""
        if dtype.bits == 4:
            expression = f"wrap_int4({expression})"
        return Val(self.writer.value("v", computed_type(dtype), expression), dtype)

    def call(self, function: str, *values: Val, dtype: DType | None = None) -> Val:
        """A function of the device library, or of the C library in the type's width."""
        return self.made(f"{function}({', '.join(v.text for v in values)})", dtype or values[0].dtype)

    def _math(self, name: str, *values: Val) -> Val:
        """A function of C's math library."""
        if name == "exp" and self._nearly(values[0]):
            return self.call("exp_near", *values)
        return self.call(name if values[0].dtype.bits == 64 else name + "f", *values)

    def _nearly(self, a: Val) -> bool:
        return self.near and a.dtype.bits <= 32

    def _infix(self, operator: str, a: Val, b: Val) -> Val:
        if a.dtype.is_integer and a.dtype.bits >= 32 and operator in _WRAPPING:
            return self.call(_WRAPPING[operator], a, b)
        return self.made(f"{a.text} {operator} {b.text}", a.dtype)

    def const(self, value: float | int | bool, dtype: DType) -> Val:
        return Val(literal(value, dtype), dtype)

    def index(self, axis: int, dtype: DType) -> Val:
        assert self.index_of is not None
        at = self.index_of(axis)
        return self.cast(at, at.dtype, dtype)

    # ---- any number

    def add(self, a: Val, b: Val) -> Val:
        return self._infix("+", a, b)

    def sub(self, a: Val, b: Val) -> Val:
        return self._infix("-", a, b)

    def mul(self, a: Val, b: Val) -> Val:
        return self._infix("*", a, b)

    def neg(self, a: Val) -> Val:
        if a.dtype.is_float:
            return self.made(f"-{a.text}" if not a.text.startswith("-") else f"-({a.text})", a.dtype)
        return self.sub(self.const(0, a.dtype), a)

    def abs(self, a: Val) -> Val:
        if a.dtype.is_float:
            return self._math("fabs", a)
        return a if a.dtype.kind == "uint" else self.select(self.compare("lt", a, self.const(0, a.dtype)), self.neg(a), a)

    def sign(self, a: Val) -> Val:
        return self.call("sign_of", a)

    def min(self, a: Val, b: Val) -> Val:
        return self.call("minimum", a, b)

    def max(self, a: Val, b: Val) -> Val:
        return self.call("maximum", a, b)

    # ---- division

    def div(self, a: Val, b: Val) -> Val:
        return self._infix("/", a, b)

    def floordiv(self, a: Val, b: Val) -> Val:
        if a.dtype.is_float:
            return self._math("floor", self.div(a, b))
        return self.call("floor_divide", a, b)

    def mod(self, a: Val, b: Val) -> Val:
        return self.call("floor_modulo", a, b)

    def pow(self, a: Val, b: Val) -> Val:
        return self._math("pow", a, b) if a.dtype.is_float else self.call("integer_power", a, b)

    # ---- functions of floats

    def rsqrt(self, a: Val) -> Val:
        return self.div(self.const(1, a.dtype), self._math("sqrt", a))

    def sigmoid(self, a: Val) -> Val:
        return self.call("sigmoid_near" if self._nearly(a) else "sigmoid", a)

    def round(self, a: Val) -> Val:
        return self._math("rint", a)

    def rounded_to_tf32(self, a: Val) -> Val:
        return self.call("nearest_tf32", a)

    # ---- comparison and choice

    def compare(self, predicate: str, a: Val, b: Val) -> Val:
        return self.made(f"{a.text} {_OPERATORS[predicate]} {b.text}", BOOL)

    def select(self, condition: Val, a: Val, b: Val) -> Val:
        return self.made(f"{condition.text} ? {a.text} : {b.text}", a.dtype)

    # ---- bool, and the bits of integers

    def logical_and(self, a: Val, b: Val) -> Val:
        return self.made(f"{a.text} {'&&' if a.dtype.is_bool else '&'} {b.text}", a.dtype)

    def logical_or(self, a: Val, b: Val) -> Val:
        return self.made(f"{a.text} {'||' if a.dtype.is_bool else '|'} {b.text}", a.dtype)

    def logical_xor(self, a: Val, b: Val) -> Val:
        return self.made(f"{a.text} {'!=' if a.dtype.is_bool else '^'} {b.text}", a.dtype)

    def logical_not(self, a: Val) -> Val:
        return self.made(f"{'!' if a.dtype.is_bool else '~'}{a.text}", a.dtype)

    def shift_left(self, a: Val, b: Val) -> Val:
        return self.call(f"shift_left<{a.dtype.bits}>", a, b)

    def shift_right(self, a: Val, b: Val) -> Val:
        return self.call(f"shift_right<{a.dtype.bits}>", a, b)

    # ---- casts

    def cast(self, x: Val, source: DType, target: DType) -> Val:
        if source == target:
            return x
        if target.is_bool:
            return self.made(f"{x.text} != 0", BOOL)
        if target.is_float and target.bits < 32:
            return self.made(f"round_to_{target.name}({x.text})", target)
        if computed_type(source) == computed_type(target) and target.bits >= 8:
            return Val(x.text, target)
        return self.made(f"({computed_type(target)}){x.text}", target)

    # ---- random draws

    def random(self, kind: str, seed: Val, counter: Val, turn: Val, stream: int, position: Expr, limits: tuple[int, int]) -> Val:
        assert self.position_of is not None
        at = self.position_of(position)
        words = f"philox({seed.text}, {counter.text}, {turn.text}, {stream & 0xFFFFFFFF}u, {at.text})"
        if kind == "integer":
            low, high = limits
            return self.made(f"draw_integer({words}, {low}, {high - low}u)", dtypes.INT32)
        return self.made(f"draw_{kind}({words})", dtypes.FLOAT32)


def _function(name: str) -> Callable[..., Val]:
    def method(self: Arithmetic, *values: Val) -> Val:
        return self._math(name, *values)

    method.__name__ = name
    return method


for _name in ("exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "tanh",
              "erf", "atan2", "floor", "ceil"):  # fmt: skip
    setattr(Arithmetic, _name, _function(_name))
