"""Index expressions: which element of an operand an element of a result reads.

An `Expr` is an integer function of the *dims* of an iteration space (result axes first, then reduced axes) and of *symbols*, values read from
integer operands at run time. Expressions are built with `+ - * // %` and are kept simple; `bounds` does interval arithmetic, `coefficients` takes an
affine one apart. Fusion, masks, incrementalization and both backends rest on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any


class Expr:
    """An integer expression; immutable, compared by structure."""

    def __add__(self, other: Expr | int) -> Expr:
        return _add(self, as_expr(other))

    __radd__ = __add__

    def __mul__(self, factor: int) -> Expr:
        return _mul(self, factor)

    __rmul__ = __mul__

    def __sub__(self, other: Expr | int) -> Expr:
        return _add(self, _mul(as_expr(other), -1))

    def __rsub__(self, other: int) -> Expr:
        return _add(Const(other), _mul(self, -1))

    def __neg__(self) -> Expr:
        return _mul(self, -1)

    def __floordiv__(self, divisor: int) -> Expr:
        if isinstance(self, Const):
            return Const(self.value // divisor)
        return self if divisor == 1 else FloorDiv(self, divisor)

    def __mod__(self, divisor: int) -> Expr:
        if isinstance(self, Const):
            return Const(self.value % divisor)
        return Const(0) if divisor == 1 else Mod(self, divisor)


@dataclass(frozen=True)
class Dim(Expr):
    """Axis `axis` of the iteration space."""

    axis: int

    def __str__(self) -> str:
        return f"d{self.axis}"


@dataclass(frozen=True)
class Symbol(Expr):
    """The value of integer operand `operand`, read at that operand's own place."""

    operand: int

    def __str__(self) -> str:
        return f"s{self.operand}"


@dataclass(frozen=True)
class Const(Expr):
    value: int

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True)
class Sum(Expr):
    """Sum of `factor * term` plus a constant; terms are Dim, Symbol, FloorDiv or Mod, each once, in a fixed order."""

    terms: tuple[tuple[Expr, int], ...]
    constant: int

    def __str__(self) -> str:
        parts = [f"{t}" if f == 1 else f"{t}*{f}" for t, f in self.terms]
        if self.constant:
            parts.append(str(self.constant))
        return "(" + " + ".join(parts) + ")"


@dataclass(frozen=True)
class FloorDiv(Expr):
    dividend: Expr
    divisor: int

    def __str__(self) -> str:
        return f"({self.dividend} // {self.divisor})"


@dataclass(frozen=True)
class Mod(Expr):
    dividend: Expr
    divisor: int

    def __str__(self) -> str:
        return f"({self.dividend} % {self.divisor})"


def as_expr(value: Expr | int) -> Expr:
    return value if isinstance(value, Expr) else Const(value)


def _parts(e: Expr) -> tuple[dict[Expr, int], int]:
    if isinstance(e, Const):
        return {}, e.value
    if isinstance(e, Sum):
        return dict(e.terms), e.constant
    return {e: 1}, 0


def _make(terms: dict[Expr, int], constant: int) -> Expr:
    kept = tuple(sorted(((t, f) for t, f in terms.items() if f), key=lambda item: str(item[0])))
    if not kept:
        return Const(constant)
    if len(kept) == 1 and kept[0][1] == 1 and constant == 0:
        return kept[0][0]
    return Sum(kept, constant)


def _add(a: Expr, b: Expr) -> Expr:
    terms, constant = _parts(a)
    more, extra = _parts(b)
    for t, f in more.items():
        terms[t] = terms.get(t, 0) + f
    return _make(terms, constant + extra)


def _mul(e: Expr, factor: int) -> Expr:
    terms, constant = _parts(e)
    return _make({t: f * factor for t, f in terms.items()}, constant * factor)


def substitute(e: Expr, dims: Sequence[Expr], symbol: Callable[[int], Expr] | None = None) -> Expr:
    """`e` with dim k replaced by `dims[k]` and, where given, symbol k by `symbol(k)`."""
    match e:
        case Const():
            return e
        case Dim(axis):
            return dims[axis]
        case Symbol(operand):
            return symbol(operand) if symbol else e
        case Sum(terms, constant):
            out: Expr = Const(constant)
            for t, f in terms:
                out = out + substitute(t, dims, symbol) * f
            return out
        case FloorDiv(dividend, divisor):
            return substitute(dividend, dims, symbol) // divisor
        case Mod(dividend, divisor):
            return substitute(dividend, dims, symbol) % divisor
    raise TypeError(e)


def evaluate(e: Expr, dims: Sequence[Any]) -> Any:
    """The value of an expression without symbols, from those of the dims: numbers, or arrays that go together."""
    match e:
        case Const(value):
            return value
        case Dim(axis):
            return dims[axis]
        case Sum(terms, constant):
            return sum((f * evaluate(t, dims) for t, f in terms), constant)
        case FloorDiv(dividend, divisor):
            return evaluate(dividend, dims) // divisor
        case Mod(dividend, divisor):
            return evaluate(dividend, dims) % divisor
    raise TypeError(e)


def bounds(e: Expr, sizes: Sequence[int], symbol: tuple[int, int] = (-(2**31), 2**31 - 1)) -> tuple[int, int]:
    """Smallest and largest value of `e` with dim k in [0, sizes[k]) and every symbol in the closed range `symbol`."""
    match e:
        case Const(value):
            return value, value
        case Dim(axis):
            return 0, max(sizes[axis] - 1, 0)
        case Symbol():
            return symbol
        case Sum(terms, constant):
            low = high = constant
            for t, f in terms:
                a, b = bounds(t, sizes, symbol)
                low += min(a * f, b * f)
                high += max(a * f, b * f)
            return low, high
        case FloorDiv(dividend, divisor):
            a, b = bounds(dividend, sizes, symbol)
            return a // divisor, b // divisor
        case Mod(dividend, divisor):
            a, b = bounds(dividend, sizes, symbol)
            return (a % divisor, b % divisor) if a // divisor == b // divisor else (0, divisor - 1)
    raise TypeError(e)


def simplify(e: Expr, sizes: Sequence[int]) -> Expr:
    """`e` rewritten with what the sizes of the dims imply: (8*i + j) // 8 is i and (8*i + j) % 8 is j where 0 <= j < 8."""
    match e:
        case Sum(terms, constant):
            out: Expr = Const(constant)
            for t, f in terms:
                out = out + simplify(t, sizes) * f
            return out
        case FloorDiv(dividend, divisor):
            whole, rest = _split(simplify(dividend, sizes), divisor, sizes)
            low, high = bounds(rest, sizes)
            if low // divisor == high // divisor:
                return whole + low // divisor
            return whole + FloorDiv(rest, divisor)
        case Mod(dividend, divisor):
            _, rest = _split(simplify(dividend, sizes), divisor, sizes)
            low, high = bounds(rest, sizes)
            if low // divisor == high // divisor:
                return rest - low // divisor * divisor
            return Mod(rest, divisor)
        case Dim(axis):
            return Const(0) if sizes[axis] == 1 else e
    return e


def _split(e: Expr, divisor: int, sizes: Sequence[int]) -> tuple[Expr, Expr]:
    """(whole, rest) with e == divisor * whole + rest: what is a multiple of the divisor is taken out."""
    terms, constant = _parts(e)
    whole = {t: f // divisor for t, f in terms.items() if f % divisor == 0}
    rest = {t: f for t, f in terms.items() if f % divisor}
    return _make(whole, constant // divisor), _make(rest, constant % divisor)


def coarse(e: Expr, sizes: Sequence[int]) -> Expr:
    """`e` with quotients of as small numbers as may be: (6*i + j) // 12 is i // 2 where 0 <= j < 6."""
    match e:
        case Sum(terms, constant):
            out: Expr = Const(constant)
            for t, f in terms:
                out = out + coarse(t, sizes) * f
            return out
        case FloorDiv(dividend, divisor):
            terms_of, constant = _parts(dividend)
            for step in sorted({gcd(f, divisor) for f in terms_of.values()}, reverse=True):
                whole, rest = _split(dividend, step, sizes)
                low, high = bounds(rest, sizes)
                if step > 1 and low >= 0 and high < step:
                    return whole // (divisor // step)
    return e


def coefficients(e: Expr, rank: int) -> tuple[list[int], int] | None:
    """(factor of each dim, constant) of an affine expression; None where `//`, `%` or a symbol stands in it."""
    factors = [0] * rank
    terms, constant = _parts(e)
    for t, f in terms.items():
        if not isinstance(t, Dim):
            return None
        factors[t.axis] += f
    return factors, constant


def dims_of(e: Expr) -> set[int]:
    """The axes that `e` depends on."""
    match e:
        case Dim(axis):
            return {axis}
        case Sum(terms, _):
            return set().union(*(dims_of(t) for t, _ in terms))
        case FloorDiv(dividend, _) | Mod(dividend, _):
            return dims_of(dividend)
    return set()


def linearize(indices: Sequence[Expr], shape: Sequence[int]) -> Expr:
    """The row-major position of an element."""
    out: Expr = Const(0)
    for e, n in zip(indices, shape):
        out = out * n + e
    return out


def delinearize(position: Expr, shape: Sequence[int]) -> list[Expr]:
    """The indices of the element at a row-major position."""
    out: list[Expr] = []
    below = 1
    for k in range(len(shape) - 1, -1, -1):
        part, size = position // below, max(shape[k], 1)  # an empty shape has no elements to find, but has maps
        out.append(part % size if k else part)
        below *= size
    return out[::-1]
