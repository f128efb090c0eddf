"""Operators at a point: arithmetic, comparison, logic, casts, choice."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce as folded

import numpy as np

from dslc.ir import ops

from .. import types
from ..call import Call
from ..table import TABLE, Entry, operator
from ..values import (
    Value,
    absolute,
    binary,
    cast,
    ceil,
    constant,
    exp,
    floor,
    function,
    like,
    maximum,
    minimum,
    round_even,
    sign,
    where,
)  # fmt: skip

UNARY = {
    "Acos": "Acos", "Acosh": "Acosh", "Asin": "Asin", "Asinh": "Asinh", "Atan": "Atan", "Atanh": "Atanh", "Cos": "Cos", "Cosh": "Cosh", "Erf": "Erf",
    "Exp": "Exp", "Log": "Log", "Neg": "Neg", "Sigmoid": "Sigmoid", "Sin": "Sin", "Sinh": "Sinh", "Sqrt": "Sqrt", "Tan": "Tan", "Tanh": "Tanh",
}  # fmt: skip


def _of_function(apply: Callable[..., Value]) -> Callable[..., Value]:
    return lambda call, *inputs: apply(*inputs)


TABLE.update({("", name): Entry(name, "", _of_function(function(of))) for name, of in UNARY.items()})


def _integral(apply: Callable[[Value], Value]) -> Callable[[Value], Value]:
    return lambda x: apply(x) if x.elem.is_float else x


SIMPLE: dict[str, Callable[..., Value]] = {
    "Abs": lambda x: x if x.elem.is_unsigned and x.elem.is_integer else absolute(x),
    "Ceil": _integral(ceil),
    "Floor": _integral(floor),
    "Round": _integral(round_even),
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "And": lambda a, b: a & b,
    "Or": lambda a, b: a | b,
    "Xor": lambda a, b: a ^ b,
    "BitwiseAnd": lambda a, b: a & b,
    "BitwiseOr": lambda a, b: a | b,
    "BitwiseXor": lambda a, b: a ^ b,
    "Not": lambda x: ~x,
    "BitwiseNot": lambda x: ~x,
    "Less": lambda a, b: a < b,
    "LessOrEqual": lambda a, b: a <= b,
    "Greater": lambda a, b: a > b,
    "GreaterOrEqual": lambda a, b: a >= b,
    "Reciprocal": lambda x: 1.0 / x,
    "Identity": lambda x: x,
}
TABLE.update({("", name): Entry(name, "", _of_function(apply)) for name, apply in SIMPLE.items()})


@operator("Sign")
def _sign(call: Call, x: Value) -> Value:
    return cast(x.ne(0), x.elem) if x.elem.is_unsigned and x.elem.is_integer else sign(x)


@operator("Equal")
def _equal(call: Call, a: Value, b: Value) -> Value:
    return ~(a ^ b) if a.elem.is_bool else a.eq(b)


@operator("Div")
def _div(call: Call, a: Value, b: Value) -> Value:
    return truncated(a, b) if a.elem.is_integer else a / b


def truncated(a: Value, b: Value) -> Value:
    """The quotient of integers, rounded towards zero."""
    if a.elem.is_unsigned:
        return a // b
    size = absolute(a) // absolute(b)
    return where((a < 0) ^ (b < 0), -size, size)


@operator("Mod")
def _mod(call: Call, a: Value, b: Value) -> Value:
    if not call.integer("fmod"):
        return a % b
    if a.elem.is_integer:
        return a - truncated(a, b) * b
    rest = absolute(a) % absolute(b)
    return where(a < 0.0, -rest, rest)


@operator("Pow")
def _pow(call: Call, a: Value, b: Value) -> Value:
    if a.elem.is_integer and b.elem.is_integer:
        wide = cast(a, types.INT64) ** cast(b, types.INT64)
        return cast(wide, a.elem)
    if a.elem.is_integer:
        return cast(cast(a, b.elem) ** b, a.elem)
    return a ** cast(b, a.elem)


@operator("BitShift")
def _shift(call: Call, a: Value, b: Value) -> Value:
    direction, bits = call.text("direction"), a.elem.bits or a.elem.carrier.bits
    if direction not in ("LEFT", "RIGHT"):
        raise call.mistake(f"direction must be LEFT or RIGHT, it is '{direction}'")
    within = b < bits
    amount = where(within, b, 0)
    if direction == "LEFT":
        return where(within, binary(ops.ShiftLeft.of, a, amount), 0)
    if not a.elem.is_unsigned:
        return binary(ops.ShiftRight.of, a, minimum(b, bits - 1))
    shifted = binary(ops.ShiftRight.of, a, amount)
    if a.elem is types.UINT64:  # the carrier copies its sign: those bits go
        ones = binary(ops.ShiftLeft.of, like(b, -1), where(amount > 0, like(b, 64) - amount, 0))
        shifted = where(amount > 0, shifted & ~ones, shifted)
    return where(within, shifted, 0)


def _variadic(name: str, combine: Callable[[Value, Value], Value]) -> None:
    TABLE["", name] = Entry(name, "", lambda call, *xs: folded(combine, xs))


_variadic("Sum", lambda a, b: a + b)
_variadic("Max", maximum)
_variadic("Min", minimum)


@operator("Mean")
def _mean(call: Call, *xs: Value) -> Value:
    return folded(lambda a, b: a + b, xs) / float(len(xs))


@operator("Where")
def _where(call: Call, condition: Value, a: Value, b: Value) -> Value:
    return where_any(condition, a, b)


def where_any(condition: Value, a: Value, b: Value) -> Value:
    """`where` for truth values too."""
    if a.elem.is_bool:
        return (condition & a) | (~condition & b)
    return where(condition, a, b)


@operator("Clip")
def _clip(call: Call, x: Value, low: Value | None = None, high: Value | None = None) -> Value:
    if call.version < 11:
        return minimum(maximum(x, call.number("min", -3.4028234663852886e38)), call.number("max", 3.4028234663852886e38))
    x = maximum(x, low) if low is not None else x
    return minimum(x, high) if high is not None else x


@operator("IsNaN")
def _is_nan(call: Call, x: Value) -> Value:
    return x.ne(x)


@operator("IsInf")
def _is_inf(call: Call, x: Value) -> Value:
    wide = cast(x, types.FLOAT) if x.elem.small else x
    up, down = call.integer("detect_positive", 1), call.integer("detect_negative", 1)
    found = [wide.eq(sign) for sign, wanted in ((float("inf"), up), (float("-inf"), down)) if wanted]
    return folded(lambda a, b: a | b, found) if found else wide.ne(wide) & wide.eq(wide)


@operator("Cast")
def _cast(call: Call, x: Value) -> Value:
    return _converted(call, x, call.elem("to", x.elem))


@operator("CastLike")
def _cast_like(call: Call, x: Value, like: Value) -> Value:
    return _converted(call, x, like.elem)


def _converted(call: Call, x: Value, elem: types.Elem) -> Value:
    if x.elem.name == "float8e8m0" or elem.name != "float8e8m0":
        return cast(x, elem, bool(call.integer("saturate", 1)))
    from ..small_floats import power_of_two

    return power_of_two(x, elem, call.text("round_mode", "up"), bool(call.integer("saturate", 1)))


@operator("BitCast")
def _bit_cast(call: Call, x: Value) -> Value:
    """Between integers by wrapping; to or from floats only what is known at compile time."""
    elem = call.elem("to", x.elem)
    if x.elem.is_integer and elem.is_integer:
        if types.UINT64 in (x.elem, elem):
            return Value(x.value, elem)
        return cast(x, elem)
    if (x.elem.is_bool and elem.is_integer) or elem.is_bool:
        return cast(x, elem)
    known = call.known(x)
    if known is None:
        raise call.gap(f"the bits of {x} as {elem.name} are there only where they are known at compile time")
    import onnx

    native = onnx.helper.tensor_dtype_to_np_dtype(elem.code)
    return constant(np.ascontiguousarray(x.elem.release(known)).view(native), elem)


@operator("Binarizer", domain="ai.onnx.ml")
def _binarizer(call: Call, x: Value) -> Value:
    return cast(x > call.number("threshold"), x.elem)


def gelu(x: Value, approximate: str) -> Value:
    """x * Phi(x), or its approximation by tanh."""
    if approximate == "tanh":
        inner = (x + x * x * x * 0.044715) * 0.7978845608028654
        return x * 0.5 * (function("Tanh")(inner) + 1.0)
    return x * 0.5 * (function("Erf")(x * 0.7071067811865476) + 1.0)


def softplus(x: Value) -> Value:
    """log(1 + exp(x)), without overflow."""
    return maximum(x, 0.0) + function("Log1p")(exp(-absolute(x)))
