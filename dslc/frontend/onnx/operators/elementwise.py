"""Arithmetic, comparison, logic, casts: operators that work at one place."""

from __future__ import annotations

import math
from functools import reduce as folded
from typing import Any

from dslc.ir import ops

from .. import types
from ..call import Call
from ..table import operator
from ..values import (
    Value,
    absolute,
    binary,
    broadcast_to,
    cast,
    ceil,
    compare,
    floor,
    function,
    like,
    maximum,
    minimum,
    unified,
    where,
)

_UNARY = {
    name: function(name)
    for name in (
        "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Cos", "Cosh", "Erf", "Exp", "Floor", "Log", "Neg", "Round", "Sigmoid",
        "Sign", "Sin", "Sinh", "Sqrt", "Tan", "Tanh",
    )
}  # fmt: skip
_BINARY = {"Add": ops.Add.of, "Sub": ops.Sub.of, "Mul": ops.Mul.of}
_COMPARE = {"Equal": "eq", "Greater": "gt", "GreaterOrEqual": "ge", "Less": "lt", "LessOrEqual": "le"}
_LOGIC = {"And": ops.And.of, "Or": ops.Or.of, "Xor": ops.Xor.of, "BitwiseAnd": ops.And.of, "BitwiseOr": ops.Or.of, "BitwiseXor": ops.Xor.of}


def _enter() -> None:
    for name, make in _UNARY.items():
        operator(name)(lambda n, x, make=make: x if x.elem.is_unsigned and n.node.op in ("Abs",) else make(x))
    for name, make in _BINARY.items():
        operator(name, weights=(0, 1))(lambda n, a, b, make=make: binary(make, a, b))
    for name, predicate in _COMPARE.items():
        operator(name)(lambda n, a, b, predicate=predicate: compare(predicate, a, b))
    for name, make in _LOGIC.items():
        operator(name)(lambda n, a, b, make=make: binary(make, a, b))


_enter()


@operator("Not", "BitwiseNot")
def negation(n: Call, x: Value) -> Value:
    return ~x


@operator("Div", weights=(1,))
def div(n: Call, a: Value, b: Value) -> Value:
    """Integers are divided towards zero."""
    if a.elem.is_float:
        return a / b
    if a.elem is types.UINT64:
        return _unsigned(a, b)[0]
    if a.elem.is_unsigned:
        return a // b
    quotient = absolute(a) // absolute(b)
    return where((a < 0) ^ (b < 0), -quotient, quotient)


def _unsigned(a: Value, b: Value) -> tuple[Value, Value]:
    """Quotient and remainder of uint64 in int64: half the dividend is divided, the rest follows."""
    x, y = unified(a, b)
    one = like(x, 1)
    half = Value(ops.And.of(ops.ShiftRight.of(x.value, one.value), like(x, (1 << 63) - 1).value), x.elem)
    q = Value(ops.ShiftLeft.of((half // y).value, one.value), x.elem)
    rest = x - q * y
    more = rest >= y
    q, rest = where(more, q + 1, q), where(more, rest - y, rest)
    large = compare("lt", Value(y.value, types.INT64), 0)  # a divisor of 2 ** 63 and above goes in once at most
    fits = x >= y
    return where(large, cast(fits, types.UINT64), q), where(large, where(fits, x - y, x), rest)


@operator("Mod")
def mod(n: Call, a: Value, b: Value) -> Value:
    """With `fmod` the sign is the dividend's, else the divisor's."""
    if a.elem is types.UINT64:
        return _unsigned(a, b)[1]
    if not n.integer("fmod"):
        return a % b
    if a.elem.is_float:
        a, b = unified(a, b)
        wide = cast(a, types.DOUBLE) if a.elem is not types.DOUBLE else a
        by = cast(b, types.DOUBLE) if b.elem is not types.DOUBLE else b
        rest = absolute(wide) % absolute(by)
        return cast(where(wide < 0.0, -rest, rest), a.elem)
    rest = absolute(a) % absolute(b)
    return where(a < 0, -rest, rest)


@operator("Pow")
def power(n: Call, a: Value, b: Value) -> Value:
    """The result has the type of the base."""
    if a.elem is b.elem:
        return a**b
    wide = types.DOUBLE if types.DOUBLE in (a.elem, b.elem) or not (a.elem.is_float and b.elem.is_float) else types.FLOAT
    if a.elem.is_integer and b.elem.is_integer:
        return a ** cast(b, a.elem)
    if a.elem.is_float and b.elem.is_integer:
        wide = a.elem
    return cast(cast(a, wide) ** cast(b, wide), a.elem)


@operator("Sum", "Mean", "Max", "Min", weights=(0, 1))
def several(n: Call, *xs: Value) -> Value:
    """Any number of operands."""
    if n.node.op in ("Max", "Min"):
        return folded(maximum if n.node.op == "Max" else minimum, xs)
    total = folded(lambda a, b: a + b, xs)
    return total / len(xs) if n.node.op == "Mean" else total


@operator("Clip")
def clip(n: Call, x: Value, low: Value | None = None, high: Value | None = None) -> Value:
    """Limits are attributes before opset 11."""
    if n.version < 11:
        x = maximum(x, n.number("min")) if n.has("min") else x
        return minimum(x, n.number("max")) if n.has("max") else x
    x = maximum(x, low) if low is not None else x
    return minimum(x, high) if high is not None else x


@operator("Where")
def choice(n: Call, condition: Value, a: Value, b: Value) -> Value:
    return where(condition, a, b)


@operator("Reciprocal")
def reciprocal(n: Call, x: Value) -> Value:
    return 1.0 / x


@operator("Identity")
def identity(n: Call, x: Any) -> Any:
    return x


@operator("IsNaN")
def isnan(n: Call, x: Value) -> Value:
    return x.ne(x)


@operator("IsInf")
def isinf(n: Call, x: Value) -> Value:
    above, below = x.eq(math.inf), x.eq(-math.inf)
    if not n.integer("detect_negative", 1):
        return above
    return below if not n.integer("detect_positive", 1) else above | below


@operator("BitShift")
def bitshift(n: Call, a: Value, b: Value) -> Value:
    """Bits that leave the type are lost."""
    left = n.text("direction") == "LEFT"
    if not left and a.elem is types.UINT64:
        x, y = unified(a, b)
        mask = Value(ops.ShiftLeft.of(like(x, -2).value, (63 - y).value), x.elem)  # the y highest bits
        moved = Value(ops.ShiftRight.of(x.value, y.value), x.elem)
        return where(y.eq(0), x, moved & ~mask)
    return binary(ops.ShiftLeft.of if left else ops.ShiftRight.of, a, b)


@operator("Cast")
def cast_to(n: Call, x: Value) -> Value:
    to = n.elem("to", types.FLOAT)
    if n.text("round_mode", "up") != "up" and to.name == "float8e8m0":
        raise n.gap("round_mode is not supported")
    return cast(x, to, bool(n.integer("saturate", 1)))


@operator("CastLike")
def cast_like(n: Call, x: Value, like_: Value) -> Value:
    return cast(x, like_.elem, bool(n.integer("saturate", 1)))


@operator("BitCast")
def bitcast(n: Call, x: Value) -> Value:
    """Between integers of one width; other types where the value is known."""
    to = n.elem("to", x.elem)
    bits = {e: e.bits or e.carrier.bits for e in (x.elem, to)}
    if x.elem.is_integer and to.is_integer and bits[x.elem] == bits[to]:
        return cast(x, to)
    import onnx

    native = onnx.helper.tensor_dtype_to_np_dtype(to.code)
    return n.constant(x.elem.release(n.data(x)).view(native), to)


@operator("Floor", "Ceil")
def rounding(n: Call, x: Value) -> Value:
    return floor(x) if n.node.op == "Floor" else ceil(x)


@operator("PRelu", weights=(1,))
def prelu(n: Call, x: Value, slope: Value) -> Value:
    """Slopes without the leading axes stand along the channels of older opsets' way of broadcasting."""
    if slope.rank == 1 and x.rank > 2 and slope.shape[0] == x.shape[1] and slope.shape[0] != x.shape[-1]:
        slope = Value(ops.reshape(slope.value, [slope.shape[0]] + [1] * (x.rank - 2)), slope.elem)
    return where(x < 0, x * slope, broadcast_to(x, x.shape))


