"""The built-in functions: elementwise ones on aligned tensors of one shape, and what stands for operators."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dslc.core import dtypes
from dslc.core.errors import Span, TypeError_
from dslc.ir import ops
from dslc.ir.types import type_of

from .values import described

Value = Any  # an ir.Value
SLOPE = 0.01  # of a leaky_relu that names none


def _c(x: Value, v: float) -> Value:
    return ops.full_like(x, v)


def _compare(x: Value, predicate: str, v: float) -> Value:
    return ops.Compare.of(x, _c(x, v), predicate=predicate)


def relu(x: Value) -> Value:
    """0 and gradient 0 at and below 0; NaN stays."""
    return ops.Select.of(_compare(x, "le", 0), _c(x, 0), x)


def softplus(x: Value) -> Value:
    """log(1 + exp(x)) without overflow; the gradient at 0 is a half."""
    below = ops.Select.of(_compare(x, "gt", 0), ops.Neg.of(x), x)  # -|x|, whose slope at 0 is 1: where relu's is 0
    return ops.Add.of(relu(x), ops.Log1p.of(ops.Exp.of(below)))


def logaddexp(a: Value, b: Value) -> Value:
    """log(exp(a) + exp(b)); -inf where both are."""
    top = ops.StopGradient.of(ops.Max.of(a, b))
    top = ops.Select.of(_compare(top, "eq", -math.inf), _c(top, 0), top)
    return ops.Add.of(top, ops.Log.of(ops.Add.of(ops.Exp.of(ops.Sub.of(a, top)), ops.Exp.of(ops.Sub.of(b, top)))))


def gelu(x: Value) -> Value:
    """x times the standard normal distribution function of x."""
    half = ops.Mul.of(x, _c(x, 0.5))
    return ops.Mul.of(half, ops.Add.of(ops.Erf.of(ops.Mul.of(x, _c(x, math.sqrt(0.5)))), _c(x, 1)))


def leaky_relu(x: Value, a: Value) -> Value:
    return ops.Select.of(_compare(x, "gt", 0), x, ops.Mul.of(a, x))


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _sigmoid(x: float) -> float:
    return math.exp(-_softplus(-x))


# name: (builder of ops, the same on compile-time numbers takes and gives floats)
UNARY: dict[str, tuple[Callable[[Value], Value], Callable[[Any], Any], bool]] = {
    "exp": (ops.Exp.of, math.exp, True),
    "log": (ops.Log.of, math.log, True),
    "log1p": (ops.Log1p.of, math.log1p, True),
    "expm1": (ops.Expm1.of, math.expm1, True),
    "sqrt": (ops.Sqrt.of, math.sqrt, True),
    "rsqrt": (ops.Rsqrt.of, lambda x: 1 / math.sqrt(x), True),
    "abs": (ops.Abs.of, abs, False),
    "sign": (ops.Sign.of, lambda x: type(x)((x > 0) - (x < 0)), False),
    "round": (ops.Round.of, lambda x: float(round(x)), True),
    "floor": (ops.Floor.of, lambda x: float(math.floor(x)), True),
    "ceil": (ops.Ceil.of, lambda x: float(math.ceil(x)), True),
    "sin": (ops.Sin.of, math.sin, True),
    "cos": (ops.Cos.of, math.cos, True),
    "tan": (ops.Tan.of, math.tan, True),
    "tanh": (ops.Tanh.of, math.tanh, True),
    "sigmoid": (ops.Sigmoid.of, _sigmoid, True),
    "log_sigmoid": (lambda x: ops.Neg.of(softplus(ops.Neg.of(x))), lambda x: -_softplus(-x), True),
    "relu": (relu, lambda x: max(x, 0), False),
    "gelu": (gelu, lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2, True),
    "silu": (lambda x: ops.Mul.of(x, ops.Sigmoid.of(x)), lambda x: x * _sigmoid(x), True),
    "softplus": (softplus, _softplus, True),
    "erf": (ops.Erf.of, math.erf, True),
    "stop_gradient": (ops.StopGradient.of, lambda x: x, False),
}
BINARY: dict[str, tuple[Callable[[Value, Value], Value], Callable[[Any, Any], Any]]] = {
    "min": (ops.Min.of, min),
    "max": (ops.Max.of, max),
    "logaddexp": (logaddexp, lambda a, b: float(np.logaddexp(a, b))),
}
REDUCTIONS = ("sum", "mean", "max", "min", "prod", "any", "all", "argmax", "argmin", "logsumexp", "categorical")
ALONG = ("softmax", "log_softmax", "cumsum", "cumprod", "sort", "argsort")
FOURIER = ("fft", "ifft")
RANDOM = ("uniform", "normal", "randint", "beta")
WHOLE = ("concat", "split", "stop_gradient", "grad", "topk", "size", "rank", "int", "where", "clip", "leaky_relu")
NAMES = {*UNARY, *BINARY, *REDUCTIONS, *ALONG, *FOURIER, *RANDOM, *WHOLE, *dtypes.BY_NAME}


def static_unary(op: str, value: Any) -> Any:
    """A sign, or `not`, of a compile-time value."""
    if op != "not" and not isinstance(value, (int, float)):
        raise TypeError_(f"'{op}' takes a number or a tensor, this is {described(value)}")
    return {"-": lambda: -value, "+": lambda: value, "not": lambda: not value}[op]()


def static_binary(op: str, a: Any, b: Any) -> Any:
    """An operator on compile-time numbers."""
    if op == "+" and isinstance(a, list) and isinstance(b, list):
        return a + b
    if op == "+" and isinstance(a, str) and isinstance(b, str):
        return a + b
    for x in (a, b):
        if not isinstance(x, (int, float)):
            raise TypeError_(f"'{op}' takes numbers, this is {described(x)}")
    if op in ("/", "//", "%") and b == 0:
        raise TypeError_(f"{a} {op} {b} divides by zero")
    if op == "**" and isinstance(a, int) and isinstance(b, int) and abs(b) > 4096:
        raise TypeError_(f"{a} ** {b} is absurd")
    try:
        value = {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b, "//": lambda: a // b, "%": lambda: a % b,
                 "**": lambda: a**b}[op]()  # fmt: skip
    except OverflowError:
        return math.inf
    except ZeroDivisionError:
        raise TypeError_(f"{a} {op} {b} divides by zero") from None
    if isinstance(value, complex):
        raise TypeError_(f"{a} {op} {b} is no real number")
    return value


COMPARES = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq", "!=": "ne"}


def static_compare(op: str, a: Any, b: Any, seen: list[Any], span: Span) -> bool:
    """What holds at compile time; comparisons of numbers are noted in `seen` as (operator, left, right, place). Only numbers have an order."""
    for x in (a, b) if op not in ("==", "!=") else ():
        if not isinstance(x, (int, float)):
            raise TypeError_(f"'{op}' compares numbers, this is {described(x)}")
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        seen.append((op, a, b, span))
    return {"<": lambda: a < b, "<=": lambda: a <= b, ">": lambda: a > b, ">=": lambda: a >= b, "==": lambda: a == b, "!=": lambda: a != b}[op]()


def arithmetic(op: str, a: Value, b: Value) -> Value:
    """An operator on two tensors of one shape and type (already promoted)."""
    t = type_of(a)
    if op == "/":
        return ops.Div.of(a, b)
    table = {"+": ops.Add, "-": ops.Sub, "*": ops.Mul, "//": ops.FloorDiv, "%": ops.Mod, "**": ops.Pow}
    if op == "**":
        return power(a, b)
    assert t == type_of(b)
    return table[op].of(a, b)


def power(a: Value, b: Value) -> Value:
    """a ** b; small whole constant exponents by products, a half by the square root."""
    owner = b.owner
    n = owner.opview.uniform if hasattr(owner, "opview") and isinstance(owner.opview, ops.Constant) else None
    if n == 2:
        return ops.Mul.of(a, a)
    if n == 3:
        return ops.Mul.of(ops.Mul.of(a, a), a)
    if n == 4:
        square = ops.Mul.of(a, a)
        return ops.Mul.of(square, square)
    if n == 1:
        return a
    if n == 0.5:
        return ops.Sqrt.of(a)
    if n == -1 and type_of(a).dtype.is_float:
        return ops.Div.of(ops.full_like(a, 1), a)
    return ops.Pow.of(a, b)


def mean_scale(value: Value, count: int) -> Value:
    """value / count; 0 where nothing was counted."""
    return ops.Mul.of(value, ops.full_like(value, 1 / count if count else 0.0))
