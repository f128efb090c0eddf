"""The scalar primitives (`ir.scalar.Scalars`) over SSA values: scalars, or vectors of `lanes` elements, mixed freely.

A value that is the same in all lanes stays a scalar until it meets one that is not. Narrow floats are computed in float32, int4 in int8, bool is
i1. No multiply and add is contracted unless it is written so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dslc.core import dtypes
from dslc.core.dtypes import BOOL, DType
from dslc.ir.index import Expr

from . import casts, emit, vmath
from .ssa import Builder, computed


@dataclass(frozen=True, slots=True)
class Val:
    """An SSA value, its dtype, and in how many lanes it stands: 1 for a scalar."""

    ssa: Any
    dtype: DType
    lanes: int = 1


class Arithmetic:
    """`Scalars` at one point. `index_of(axis)` and `position_of(expr)` give SSA integers for the point: see `pull.Point`."""

    def __init__(self, b: Builder) -> None:
        self.b = b
        self.index_of: Callable[[int], Val] | None = None
        self.position_of: Callable[[Expr], Val] | None = None

    # ---- plumbing

    def _meet(self, *values: Val) -> tuple[list[Any], int]:
        """The SSA values, scalars spread over the lanes of the others."""
        lanes = 1
        for v in values:
            if v.lanes > lanes:
                lanes = v.lanes
        if lanes == 1:
            return [v.ssa for v in values], 1
        return [v.ssa if v.lanes > 1 else self.b.spread(v.ssa, computed(v.dtype), lanes) for v in values], lanes

    def _k(self, value: float | int | bool, like: Val) -> Any:
        return self.b.const(computed(like.dtype), value, like.lanes)

    def _binary(self, name: str, a: Val, b: Val) -> Val:
        (x, y), lanes = self._meet(a, b)
        return self._wrap(Val(self.b.same(name, x, y), a.dtype, lanes))

    def _unary(self, name: str, a: Val) -> Val:
        return Val(self.b.same(name, a.ssa), a.dtype, a.lanes)

    def _wrap(self, v: Val) -> Val:
        """int4 is computed in eight bits: its sign is taken from bit 3 again."""
        if v.dtype.bits != 4:
            return v
        four = self._k(4, v)
        return Val(self.b.same("arith.shrsi", self.b.same("arith.shli", v.ssa, four), four), v.dtype, v.lanes)

    def _compare(self, predicate: str, a: Val, b: Val) -> Val:
        (x, y), lanes = self._meet(a, b)
        kind = "float" if a.dtype.is_float else "int" if a.dtype.kind == "int" else "uint"
        return Val(self.b.compare(predicate, x, y, kind, lanes), BOOL, lanes)

    def _test(self, predicate: str, a: Val, value: float) -> Val:
        return self._compare(predicate, a, Val(self._k(value, a), a.dtype, a.lanes))

    def const(self, value: float | int | bool, dtype: DType) -> Val:
        return Val(self.b.const(computed(dtype), _held(value, dtype)), dtype)

    def index(self, axis: int, dtype: DType) -> Val:
        assert self.index_of is not None
        at = self.index_of(axis)
        return self.cast(at, at.dtype, dtype)

    # ---- any number

    def add(self, a: Val, b: Val) -> Val:
        return self._binary("arith.addf" if a.dtype.is_float else "arith.addi", a, b)

    def sub(self, a: Val, b: Val) -> Val:
        return self._binary("arith.subf" if a.dtype.is_float else "arith.subi", a, b)

    def mul(self, a: Val, b: Val) -> Val:
        return self._binary("arith.mulf" if a.dtype.is_float else "arith.muli", a, b)

    def fma(self, a: Val, b: Val, c: Val) -> Val:
        """a*b + c with one rounding, for folds that say so."""
        (x, y, z), lanes = self._meet(a, b, c)
        return Val(self.b.same("math.fma", x, y, z), a.dtype, lanes)

    def neg(self, a: Val) -> Val:
        if a.dtype.is_float:
            return self._unary("arith.negf", a)
        return self._wrap(Val(self.b.same("arith.subi", self._k(0, a), a.ssa), a.dtype, a.lanes))

    def abs(self, a: Val) -> Val:
        if a.dtype.is_float:
            return self._unary("math.absf", a)
        return a if a.dtype.kind == "uint" else self.select(self._test("lt", a, 0), self.neg(a), a)

    def sign(self, a: Val) -> Val:
        one, minus = (Val(self._k(v, a), a.dtype, a.lanes) for v in (1, -1))
        if a.dtype.kind == "uint":
            return self.select(self._test("ne", a, 0), one, a)
        return self.select(self._test("gt", a, 0), one, self.select(self._test("lt", a, 0), minus, a))

    def min(self, a: Val, b: Val) -> Val:
        return self._extreme("lt", "min", a, b)

    def max(self, a: Val, b: Val) -> Val:
        return self._extreme("gt", "max", a, b)

    def _extreme(self, predicate: str, name: str, a: Val, b: Val) -> Val:
        if not a.dtype.is_float:
            return self._binary(f"arith.{name}{'ui' if a.dtype.kind == 'uint' else 'si'}", a, b)
        (x, y), lanes = self._meet(a, b)
        best = self.b.select(self.b.compare(predicate, x, y, "float", lanes), x, y)  # one instruction; y where either is NaN
        return Val(self.b.select(self.b.compare("uno", x, x, "float", lanes), x, best), a.dtype, lanes)

    # ---- division

    def div(self, a: Val, b: Val) -> Val:
        return self._binary("arith.divf", a, b)

    def floordiv(self, a: Val, b: Val) -> Val:
        if a.dtype.is_float:
            return self.floor(self.div(a, b))
        return self._divided(a, b)[0]

    def mod(self, a: Val, b: Val) -> Val:
        return self._float_mod(a, b) if a.dtype.is_float else self._divided(a, b)[1]

    def _divided(self, a: Val, b: Val) -> tuple[Val, Val]:
        """(floor(a / b), a - b * floor(a / b)) of integers, both 0 where b is 0; the divisors 0 and -1, which trap, are never divided by."""
        (x, y), lanes = self._meet(a, b)
        a, b = Val(x, a.dtype, lanes), Val(y, a.dtype, lanes)
        one, zero = (Val(self._k(v, a), a.dtype, lanes) for v in (1, 0))
        none = self._test("eq", b, 0)
        if a.dtype.kind == "uint":
            q = self._binary("arith.divui", a, self.select(none, one, b))
            return self.select(none, zero, q), self.select(none, zero, self.sub(a, self.mul(q, b)))
        minus = self._test("eq", b, -1)
        q = self._binary("arith.divsi", a, self.select(self.logical_or(none, minus), one, b))
        q = self.select(minus, self.neg(a), q)
        r = self.sub(a, self.mul(q, b))
        below = self.logical_and(self._test("ne", r, 0), self._test("lt", self._binary("arith.xori", r, b), 0))
        q = self.select(below, self.sub(q, one), q)
        r = self.select(below, self.add(r, b), r)
        return self.select(none, zero, q), self.select(none, zero, r)

    def _float_mod(self, a: Val, b: Val) -> Val:
        """a - b * floor(a / b): float32 in float64, where the product is exact as long as the quotient has no more than 29 bits."""
        if a.dtype.bits < 64:
            wide = self._float_mod(self.cast(a, a.dtype, dtypes.FLOAT64), self.cast(b, b.dtype, dtypes.FLOAT64))
            return Val(self.b.to("arith.truncf", wide.ssa, "f32", wide.lanes), a.dtype, wide.lanes)
        q = self.floor(self.div(a, b))
        r = self.fma(self.neg(q), b, a)
        zero = Val(self._k(0, r), r.dtype, r.lanes)
        other = self._compare("lt", self.mul(r, b), zero)  # the quotient was rounded up: one divisor too far
        r = self.select(other, self.add(r, b), r)
        endless = self._test("eq", self.abs(b), float("inf"))
        same = self._compare("ge", self.mul(a, b), zero)
        still = self.logical_or(same, self._test("eq", a, 0))
        finite = self._test("lt", self.abs(a), float("inf"))
        (b_,), _ = self._meet(b)
        at_infinity = self.select(finite, self.select(still, a, Val(b_, b.dtype, b.lanes)), r)
        return self.select(endless, at_infinity, r)

    def pow(self, a: Val, b: Val) -> Val:
        """Floats as C's pow; integers by squaring, wrapping, with negative exponents taken as 0."""
        if a.dtype.is_float:
            return vmath_call(self, "pow", a, b)
        (x, y), lanes = self._meet(a, b)
        like = Val(x, a.dtype, lanes)
        zero, one = (Val(self._k(v, like), a.dtype, lanes) for v in (0, 1))

        def step(_i: Any, power: Any, base: Any, rest: Any) -> list[Any]:
            p, q, r = (Val(v, a.dtype, lanes) for v in (power, base, rest))
            odd = self._compare("ne", self.logical_and(r, one), zero)
            return [self.select(odd, self.mul(p, q), p).ssa, self.mul(q, q).ssa, self.b.same("arith.shrui", rest, one.ssa)]

        exponent = self.max(Val(y, a.dtype, lanes), zero)
        return Val(emit.loop(0, a.dtype.bits, 1, step, [one.ssa, x, exponent.ssa])[0], a.dtype, lanes)

    # ---- functions of floats

    def sqrt(self, a: Val) -> Val:
        return self._unary("math.sqrt", a)

    def rsqrt(self, a: Val) -> Val:
        return self.div(Val(self._k(1, a), a.dtype, a.lanes), self.sqrt(a))

    def floor(self, a: Val) -> Val:
        return self._unary("math.floor", a)

    def ceil(self, a: Val) -> Val:
        return self._unary("math.ceil", a)

    def rounded_to_tf32(self, a: Val) -> Val:
        return Val(casts.rounded_to_tf32(a.ssa), a.dtype, a.lanes)

    def round(self, a: Val) -> Val:
        return self._unary("math.roundeven", a)

    # ---- comparison and choice

    def compare(self, predicate: str, a: Val, b: Val) -> Val:
        return self._compare(predicate, a, b)

    def select(self, condition: Val, a: Val, b: Val) -> Val:
        (x, y), lanes = self._meet(a, b)
        if condition.lanes > lanes:
            lanes = condition.lanes
            x, y = (self.b.spread(v, computed(a.dtype), lanes) for v in (x, y))
        return Val(self.b.select(condition.ssa, x, y), a.dtype, lanes)

    # ---- bool, and the bits of integers

    def logical_and(self, a: Val, b: Val) -> Val:
        return self._binary("arith.andi", a, b)

    def logical_or(self, a: Val, b: Val) -> Val:
        return self._binary("arith.ori", a, b)

    def logical_xor(self, a: Val, b: Val) -> Val:
        return self._binary("arith.xori", a, b)

    def logical_not(self, a: Val) -> Val:
        return Val(self.b.same("arith.xori", a.ssa, self._k(1 if a.dtype.is_bool else -1, a)), a.dtype, a.lanes)

    def shift_left(self, a: Val, b: Val) -> Val:
        zero = Val(self._k(0, a), a.dtype, a.lanes)
        return self._shift("arith.shli", a, b, zero)

    def shift_right(self, a: Val, b: Val) -> Val:
        if a.dtype.kind == "uint":
            return self._shift("arith.shrui", a, b, Val(self._k(0, a), a.dtype, a.lanes))
        last = Val(self._k(a.dtype.bits - 1, a), a.dtype, a.lanes)
        return self._shift("arith.shrsi", a, b, self._binary("arith.shrsi", a, last))

    def _shift(self, name: str, a: Val, b: Val, beyond: Val) -> Val:
        """A shift by the type's bits or more, which the machine leaves open, gives `beyond`."""
        (x, y), lanes = self._meet(a, b)
        limit = self.b.const(computed(a.dtype), a.dtype.bits, lanes)
        inside = Val(self.b.compare("lt", y, limit, "uint", lanes), BOOL, lanes)
        safe = self.b.select(inside.ssa, y, self.b.const(computed(a.dtype), 0, lanes))
        return self.select(inside, self._wrap(Val(self.b.same(name, x, safe), a.dtype, lanes)), beyond)

    # ---- casts

    def cast(self, x: Val, source: DType, target: DType) -> Val:
        return Val(casts.cast(x.ssa, source, target), target, x.lanes)

    # ---- random draws

    def random(self, kind: str, seed: Val, counter: Val, turn: Val, stream: int, position: Expr, limits: tuple[int, int]) -> Val:
        from . import draws

        assert self.position_of is not None
        return draws.draw(self, kind, (seed, counter, turn), stream, self.position_of(position), limits)


def _held(value: float | int | bool, dtype: DType) -> float | int | bool:
    """A Python number as a dtype holds it."""
    if dtype.is_float and dtype.bits < 32:
        with np.errstate(over="ignore"):
            return float(np.asarray(value, np.float32).astype(dtype.numpy))
    return value


def _function(name: str) -> Callable[..., Val]:
    def method(self: Arithmetic, *values: Val) -> Val:
        return vmath_call(self, name, *values)

    method.__name__ = name
    return method


def vmath_call(s: Arithmetic, name: str, *values: Val) -> Val:
    """A function of `vmath` on floats of any width."""
    operands, lanes = s._meet(*values)
    return Val(vmath.apply(name, *operands), values[0].dtype, lanes)


for _name in ("exp", "expm1", "log", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "tanh",
              "erf", "sigmoid", "atan2"):  # fmt: skip
    setattr(Arithmetic, _name, _function(_name))
